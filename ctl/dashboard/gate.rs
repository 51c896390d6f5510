//! Who may use the page: whoever was given the URL. Its token works once, so that it is of no use to who
//! reads it later in a history or a list of processes; the session that it is exchanged for is the page's
//! alone, since it travels in a header that no other page can send.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use etherws::control::api::dashboard::{Reply, closing, control_origin_fits, host, json, text};
use http::header::{AUTHORIZATION, HeaderMap, SEC_WEBSOCKET_PROTOCOL};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use tokio::time::timeout;

use super::READ_TIME;

/// Where the token is exchanged.
pub const PATH: &str = "/session";
/// Browsers let no script put a header on a WebSocket but this one: the session stands behind the point.
pub const PROTOCOL: &str = "etherws.session.";

pub struct Gate {
    address: SocketAddr,
    /// Until it was used.
    token: Mutex<Option<String>>,
    session: String,
}

/// What a request is refused with.
pub type Refusal = (StatusCode, &'static str);

#[derive(Deserialize)]
struct Shown {
    token: String,
}

#[derive(Serialize)]
struct Admitted<'a> {
    session: &'a str,
    /// The switch, as its URL is written.
    switch: &'a str,
}

impl Gate {
    /// With the token that opens it.
    pub fn new(address: SocketAddr) -> Result<(Self, String), String> {
        let token = secret()?;
        Ok((Self { address, token: Mutex::new(Some(token.clone())), session: secret()? }, token))
    }

    /// Why who calls us by a foreign name, or comes from a foreign page, is refused.
    pub fn check_page<B>(&self, request: &Request<B>) -> Result<(), Refusal> {
        let Ok(name) = host(request.uri(), request.headers()) else {
            return Err((StatusCode::BAD_REQUEST, "a request has exactly one Host"));
        };
        let ours = name.host == "localhost" || name.host == self.address.ip().to_string();
        if !ours || name.port.unwrap_or(80) != self.address.port() {
            return Err((StatusCode::FORBIDDEN, "the dashboard does not go by this Host"));
        }
        match control_origin_fits(request.headers(), &name, false) {
            true => Ok(()),
            false => Err((StatusCode::FORBIDDEN, "the dashboard answers no foreign page")),
        }
    }

    /// The session for the token, once.
    pub async fn exchange(&self, request: Request<Incoming>, switch: &str) -> Reply {
        if request.method() != Method::POST {
            return closing(text(StatusCode::METHOD_NOT_ALLOWED, "a token is exchanged by POST"));
        }
        // Nobody has shown anything yet: who takes his time takes a place from others.
        let body = Limited::new(request.into_body(), MAX_BODY).collect();
        let Ok(body) = timeout(READ_TIME, body).await else {
            return closing(text(StatusCode::REQUEST_TIMEOUT, "the token did not come in time"));
        };
        let shown = body.ok().and_then(|body| serde_json::from_slice::<Shown>(&body.to_bytes()).ok());
        match shown.is_some_and(|Shown { token }| self.spend(&token)) {
            true => {
                json(serde_json::to_string(&Admitted { session: &self.session, switch }).unwrap_or_default())
            }
            false => closing(text(StatusCode::FORBIDDEN, AGAIN)),
        }
    }

    fn spend(&self, shown: &str) -> bool {
        let mut token = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        let right = token.as_ref().is_some_and(|token| same(token, shown));
        if right {
            *token = None;
        }
        right
    }

    /// Whether a request is of the session; the subprotocol to be echoed, if it showed it so.
    pub fn session<B>(&self, request: &Request<B>) -> Result<Option<String>, Refusal> {
        let value = |name| value(request.headers(), name);
        let bearer = value(&AUTHORIZATION).and_then(|text| text.strip_prefix("Bearer "));
        if bearer.is_some_and(|shown| same(&self.session, shown)) {
            return Ok(None);
        }
        let protocol = value(&SEC_WEBSOCKET_PROTOCOL);
        match protocol.and_then(|text| text.strip_prefix(PROTOCOL)) {
            Some(shown) if same(&self.session, shown) => Ok(protocol.map(str::to_owned)),
            _ => Err((StatusCode::FORBIDDEN, AGAIN)),
        }
    }
}

fn value<'a>(headers: &'a HeaderMap, name: &http::HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn same(secret: &str, shown: &str) -> bool {
    secret.as_bytes().ct_eq(shown.as_bytes()).into()
}

/// 32 random bytes, in hexadecimal.
fn secret() -> Result<String, String> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes).map_err(|e| format!("no random numbers from the kernel: {e}"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

const MAX_BODY: usize = 1024;
const AGAIN: &str =
    "this URL was used already, or is of another `etherctl dashboard`; start it again for a new one";

#[cfg(test)]
mod tests {
    use super::*;

    fn gate() -> (Gate, String) {
        Gate::new("127.0.0.1:4000".parse().unwrap()).unwrap()
    }

    fn request(headers: &[(&str, &str)]) -> Request<()> {
        let builder = headers.iter().fold(Request::get("/ctl"), |b, (name, value)| b.header(*name, *value));
        builder.body(()).unwrap()
    }

    #[test]
    fn bad_50_bad_52_only_its_own_name_and_pages() {
        let (gate, _) = gate();
        for (headers, status) in [
            (&[("host", "127.0.0.1:4000")][..], None),
            (&[("host", "localhost:4000"), ("sec-fetch-site", "none")], None),
            (&[("host", "127.0.0.1:4000"), ("origin", "http://127.0.0.1:4000")], None),
            (&[], Some(400)),
            (&[("host", "127.0.0.1:4000"), ("host", "127.0.0.1:4000")], Some(400)),
            (&[("host", "127.0.0.1:4001")], Some(403)),
            (&[("host", "127.0.0.1")], Some(403)),
            (&[("host", "127.0.0.2:4000")], Some(403)),
            (&[("host", "evil.example:4000")], Some(403)),
            (&[("host", "127.0.0.1:4000"), ("origin", "http://localhost:4000")], Some(403)),
            (&[("host", "127.0.0.1:4000"), ("origin", "null")], Some(403)),
            (&[("host", "127.0.0.1:4000"), ("sec-fetch-site", "same-site")], Some(403)),
        ] {
            let found = gate.check_page(&request(headers)).err().map(|(status, _)| status.as_u16());
            assert_eq!(found, status, "{headers:?}");
        }
    }

    #[test]
    fn a_token_works_once_and_a_session_is_another_secret() {
        let (gate, token) = gate();
        assert_eq!(token.len(), 64);
        assert!(!gate.spend("") && !gate.spend(&token[1..]) && !gate.spend(&gate.session));
        let bearer = |secret: &str| gate.session(&request(&[("authorization", &format!("Bearer {secret}"))]));
        assert!(bearer(&token).is_err(), "a token is no session");
        assert!(gate.spend(&token));
        assert!(!gate.spend(&token), "once");
        assert_eq!(bearer(&gate.session).ok(), Some(None));
        let protocol = format!("{PROTOCOL}{}", gate.session);
        let shown = |text: &str| gate.session(&request(&[("sec-websocket-protocol", text)])).ok();
        assert_eq!(shown(&protocol), Some(Some(protocol.clone())));
        assert_eq!(shown(PROTOCOL), None);
        assert!(gate.session(&request(&[])).is_err());
    }
}
