//! What a request must be to become a WebSocket (RFC 6455, 4.2.1), in the tolerant reading of the clients in
//! the field. Pure.

use http::{Method, Request, StatusCode, Version, header};
use zeroize::Zeroizing;

use super::origin::single;
use super::reply::{Reply, text, with};
use crate::ws::handshake::has_token;

/// Whether this asks for a WebSocket at all.
pub fn is_wanted<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    has_token(headers, &header::UPGRADE, "websocket") && has_token(headers, &header::CONNECTION, "upgrade")
}

/// The key of a handshake that can be answered; otherwise the refusal.
pub fn check<B>(request: &Request<B>) -> Result<&str, Box<Reply>> {
    let refuse = |status, why: &str| Err(Box::new(text(status, why)));
    if request.method() != Method::GET || request.version() != Version::HTTP_11 {
        return refuse(StatusCode::BAD_REQUEST, "a WebSocket handshake is GET in HTTP/1.1");
    }
    let headers = request.headers();
    // A body would be taken for WebSocket bytes by someone on the way, or the reverse.
    let length = headers.get(header::CONTENT_LENGTH).map(|value| value.as_bytes());
    if headers.contains_key(header::TRANSFER_ENCODING) || length.is_some_and(|value| value != b"0") {
        return refuse(StatusCode::BAD_REQUEST, "a WebSocket handshake has no body");
    }
    // vpn-ws sends no version and means 13.
    if !matches!(single(headers, &header::SEC_WEBSOCKET_VERSION), Ok(None | Some("13"))) {
        let reply = text(StatusCode::UPGRADE_REQUIRED, "this switch speaks WebSocket version 13");
        return Err(Box::new(with(reply, header::SEC_WEBSOCKET_VERSION, "13")));
    }
    // Nor is its key 16 bytes long.
    match single(headers, &header::SEC_WEBSOCKET_KEY) {
        Ok(Some(key)) if !key.trim().is_empty() => Ok(key.trim()),
        Ok(_) => refuse(StatusCode::BAD_REQUEST, "no Sec-WebSocket-Key"),
        Err(()) => refuse(StatusCode::BAD_REQUEST, "more than one Sec-WebSocket-Key"),
    }
}

/// The reply that ends HTTP. `protocol` is the subprotocol chosen, `link` what is said of the link, which may be a secret.
/// Extensions offered are declined by saying nothing.
pub fn switching(key: &str, protocol: Option<&str>, link: Option<&str>) -> Zeroizing<String> {
    let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
    let protocol = protocol.map_or(String::new(), |name| format!("Sec-WebSocket-Protocol: {name}\r\n"));
    let link = link.map_or(String::new(), |text| format!("Etherws-Link: {text}\r\n"));
    let link = Zeroizing::new(link);
    Zeroizing::new(format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{protocol}{}\r\n",
        *link
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&str, &str)]) -> Request<()> {
        let builder =
            Request::get("/").header("upgrade", "WebSocket").header("connection", "keep-alive, Upgrade");
        headers.iter().fold(builder, |b, (name, value)| b.header(*name, *value)).body(()).unwrap()
    }

    #[test]
    fn bad_05_bad_06_bad_07_handshakes() {
        let key = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        let version = ("sec-websocket-version", "13");
        for (headers, status) in [
            (&[key, version][..], None),
            (&[key], None),
            (&[("sec-websocket-key", "0123456789"), version], None),
            (&[key, ("sec-websocket-version", "8")], Some(426)),
            (&[key, ("sec-websocket-version", "13, 8")], Some(426)),
            (&[version], Some(400)),
            (&[key, key, version], Some(400)),
            (&[("sec-websocket-key", " "), version], Some(400)),
            (&[key, version, ("content-length", "5")], Some(400)),
            (&[key, version, ("content-length", "0")], None),
            (&[key, version, ("transfer-encoding", "chunked")], Some(400)),
        ] {
            let request = request(headers);
            assert!(is_wanted(&request));
            assert_eq!(check(&request).err().map(|reply| reply.status().as_u16()), status, "{headers:?}");
        }
        assert!(!is_wanted(&Request::get("/").header("upgrade", "websocket").body(()).unwrap()));
        assert!(!is_wanted(&Request::get("/").header("connection", "upgrade").body(()).unwrap()));
    }

    #[test]
    fn bad_11_the_reply_names_what_was_chosen_and_no_extension() {
        // RFC 6455, 1.3.
        let reply = switching("dGhlIHNhbXBsZSBub25jZQ==", Some("etherws.eth1"), None);
        assert!(reply.contains("\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
        assert!(reply.contains("\r\nSec-WebSocket-Protocol: etherws.eth1\r\n\r\n"));
        assert!(!switching("x", None, None).contains("Protocol:") && !reply.contains("Extensions"));
        assert!(
            !reply.contains("Link") && switching("x", None, Some("joined")).ends_with("Link: joined\r\n\r\n")
        );
    }
}
