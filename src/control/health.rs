//! What a load balancer asks before it sends links here. It is answered to everybody, on every listener, and says
//! nothing else.

use http::{Method, Request, StatusCode, header};

use super::reply::{Reply, closing, text, with};

/// Whether the process answers.
const ALIVE: &str = "/healthz";
/// Whether new links should come here.
const READY: &str = "/readyz";

/// The answer, if that is what is asked.
pub fn answer<B>(request: &Request<B>, draining: bool) -> Option<Reply> {
    let (status, word) = match (request.uri().path(), draining) {
        (ALIVE, _) => (StatusCode::OK, "ok"),
        (READY, false) => (StatusCode::OK, "ready"),
        (READY, true) => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        _ => return None,
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let reply = text(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD");
        return Some(with(closing(reply), header::ALLOW, "GET, HEAD"));
    }
    Some(with(text(status, word), header::CACHE_CONTROL, "no-store"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_that_drains_lives_and_is_not_ready() {
        let ask = |method: Method, path: &str, draining| {
            let request = Request::builder().method(method).uri(path).body(()).unwrap();
            answer(&request, draining).map(|reply| reply.status().as_u16())
        };
        for (path, draining, status) in [
            ("/healthz", false, Some(200)),
            ("/healthz", true, Some(200)),
            ("/readyz", false, Some(200)),
            ("/readyz?verbose", true, Some(503)),
            ("/readyz/", false, None),
            ("/", false, None),
        ] {
            assert_eq!(ask(Method::GET, path, draining), status, "{path}");
        }
        assert_eq!(ask(Method::POST, "/readyz", false), Some(405));
    }
}
