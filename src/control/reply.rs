//! Short HTTP replies.

use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use jsonrpsee::server::HttpBody;

pub type Reply = Response<HttpBody>;

/// A status with a line of plain text; the text ends with a newline of its own.
pub fn text(status: StatusCode, text: impl Into<String>) -> Reply {
    let mut text = text.into();
    text.push('\n');
    let reply = with_body(status, "text/plain; charset=utf-8", text);
    with(reply, header::X_CONTENT_TYPE_OPTIONS, "nosniff")
}

pub fn json(text: String) -> Reply {
    with_body(StatusCode::OK, "application/json; charset=utf-8", text)
}

/// Adds a header.
pub fn with(mut reply: Reply, name: HeaderName, value: &'static str) -> Reply {
    reply.headers_mut().append(name, HeaderValue::from_static(value));
    reply
}

/// The connection ends with this reply: for when the rest of what was sent cannot be trusted or is not
/// worth reading.
pub fn closing(reply: Reply) -> Reply {
    let closes = reply.headers().get_all(header::CONNECTION).iter().any(|value| value == "close");
    if closes { reply } else { with(reply, header::CONNECTION, "close") }
}

/// What a browser is to make of any reply, should somebody get it to show one.
pub fn guarded(reply: Reply) -> Reply {
    let reply = with(reply, header::CONTENT_SECURITY_POLICY, POLICY);
    let reply = with(reply, header::REFERRER_POLICY, "no-referrer");
    match reply.headers().contains_key(header::X_CONTENT_TYPE_OPTIONS) {
        true => reply,
        false => with(reply, header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    }
}

pub fn with_body(status: StatusCode, kind: &'static str, text: String) -> Reply {
    let mut reply = Response::new(HttpBody::from(text));
    *reply.status_mut() = status;
    with(reply, header::CONTENT_TYPE, kind)
}

/// Nothing from elsewhere, nothing written into the page, nothing sent elsewhere, in nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";
