//! The dashboard: a page, its style and its scripts, which speak the contract of [`super::api`] like anybody
//! else. The control service serves them over TCP to who may control; `etherctl dashboard` serves the same
//! files on this host, with the same checks of who asks.

use std::hash::{DefaultHasher, Hash, Hasher};

use http::{HeaderValue, Method, Request, StatusCode, header};

pub use super::origin::{Authority, control_origin_fits, host};
use super::reply::with_body;
pub use super::reply::{Reply, closing, guarded, json, text, with};

/// Where it is; `/` is the same page.
pub const PATH: &str = "/dashboard";

/// Name, type, content. No build step: what is here is what a browser gets.
const FILES: [(&str, &str, &str); 12] = [
    ("index.html", HTML, include_str!("dashboard/index.html")),
    ("style.css", "text/css; charset=utf-8", include_str!("dashboard/style.css")),
    ("app.js", SCRIPT, include_str!("dashboard/app.js")),
    ("rpc.js", SCRIPT, include_str!("dashboard/rpc.js")),
    ("format.js", SCRIPT, include_str!("dashboard/format.js")),
    ("table.js", SCRIPT, include_str!("dashboard/table.js")),
    ("ports.js", SCRIPT, include_str!("dashboard/ports.js")),
    ("stations.js", SCRIPT, include_str!("dashboard/stations.js")),
    ("plot.js", SCRIPT, include_str!("dashboard/plot.js")),
    ("profile.js", SCRIPT, include_str!("dashboard/profile.js")),
    ("cost.js", SCRIPT, include_str!("dashboard/cost.js")),
    ("events.js", SCRIPT, include_str!("dashboard/events.js")),
];

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// What the page has in the place of the path that calls go to.
const CONTROL_PATH: &str = "{{control}}";

/// A file of the dashboard by its path, before anybody is asked who he is; nothing: the path is none of ours.
pub fn find(path: &str) -> Option<File> {
    if path == PATH {
        return Some(File(None));
    }
    let name = path.strip_prefix(PATH).unwrap_or(path).strip_prefix('/')?;
    let name = if name.is_empty() { FILES[0].0 } else { name };
    FILES.iter().find(|(file, ..)| *file == name).map(|file| File(Some(file)))
}

/// One of [`FILES`]; nothing: the way to the first.
#[derive(Clone, Copy)]
pub struct File(Option<&'static (&'static str, &'static str, &'static str)>);

impl File {
    /// The reply to a request for it. Calls go to `control_path`.
    pub fn answer<B>(self, request: &Request<B>, control_path: &str) -> Reply {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let reply = text(StatusCode::METHOD_NOT_ALLOWED, "the dashboard is read: GET or HEAD");
            return with(closing(reply), header::ALLOW, "GET, HEAD");
        }
        // The page names its files without a folder.
        let Some((_, kind, content)) = self.0 else {
            return with(text(StatusCode::FOUND, "it is in dashboard/"), header::LOCATION, "/dashboard/");
        };
        let content = match *kind {
            HTML => content.replace(CONTROL_PATH, &escaped(control_path)),
            _ => (*content).to_owned(),
        };
        let tag = tag(&content);
        let seen = request.headers().get_all(header::IF_NONE_MATCH).iter();
        let seen = seen.filter_map(|tags| tags.to_str().ok()).flat_map(|tags| tags.split(','));
        let known = seen.map(|tag| tag.trim().trim_start_matches("W/")).any(|shown| shown == tag);
        let mut reply = match known {
            true => with_body(StatusCode::NOT_MODIFIED, kind, String::new()),
            false => with_body(StatusCode::OK, kind, content),
        };
        if let Ok(tag) = HeaderValue::from_str(&tag) {
            reply.headers_mut().insert(header::ETAG, tag);
        }
        // Kept, but asked for each time: another version may be running by then.
        with(reply, header::CACHE_CONTROL, "private, no-cache")
    }
}

/// A strong validator (RFC 9110, 8.8.3); no secret, and nobody to guard it from.
fn tag(content: &str) -> String {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    format!("\"{:016x}\"", hasher.finish())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(path: &str, headers: &[(&str, &str)]) -> Option<Reply> {
        let builder = headers.iter().fold(Request::get(path), |b, (name, value)| b.header(*name, *value));
        find(path).map(|file| file.answer(&builder.body(()).unwrap(), "/c\"<&>"))
    }

    #[test]
    fn each_file_is_found_at_both_places_and_nothing_else() {
        for (name, kind, _) in FILES {
            for folder in ["/", "/dashboard/"] {
                let reply = get(&format!("{folder}{name}"), &[]).expect(name);
                assert_eq!(reply.status(), 200);
                assert_eq!(reply.headers()["content-type"], kind);
                assert_eq!(reply.headers()["cache-control"], "private, no-cache");
            }
        }
        for path in ["/", "/dashboard/"] {
            assert_eq!(get(path, &[]).expect(path).headers()["content-type"], HTML);
        }
        assert_eq!(get("/dashboard", &[]).unwrap().headers()["location"], "/dashboard/");
        for path in
            ["/x", "/dashboardx", "/dashboard/../etc", "//", "/dashboard//", "/app.js/", "/APP.js", "x"]
        {
            assert!(find(path).is_none(), "{path}");
        }
    }

    #[test]
    fn what_is_known_is_not_sent_again() {
        let tag = get("/app.js", &[]).unwrap().headers()["etag"].to_str().unwrap().to_owned();
        for shown in [tag.clone(), format!("\"x\", W/{tag}")] {
            assert_eq!(get("/app.js", &[("if-none-match", &shown)]).unwrap().status(), 304, "{shown}");
        }
        assert_eq!(get("/style.css", &[("if-none-match", &tag)]).unwrap().status(), 200, "another's");
        let post = Request::post("/app.js").body(()).unwrap();
        assert_eq!(find("/app.js").unwrap().answer(&post, "/ctl").status(), 405);
    }

    #[tokio::test]
    async fn the_page_knows_where_calls_go_whatever_the_path() {
        use http_body_util::BodyExt;
        let page = get("/", &[]).unwrap().into_body().collect().await.unwrap().to_bytes();
        let page = std::str::from_utf8(&page).unwrap();
        assert!(page.contains(r#""/c&quot;&lt;&amp;&gt;""#) && !page.contains(CONTROL_PATH), "{page}");
    }

    #[test]
    fn it_is_small_and_names_no_other_place() {
        let all: usize = FILES.iter().map(|(_, _, content)| content.len()).sum();
        assert!(all < 150_000, "{all} bytes");
        for (name, _, content) in FILES {
            let foreign = content.replace("http://www.w3.org/2000/svg", "");
            assert!(!foreign.contains("http://") && !foreign.contains("https://"), "{name}");
            for word in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
                assert!(!content.contains(word), "{name}: {word}");
            }
        }
    }
}
