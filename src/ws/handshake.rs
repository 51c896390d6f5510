//! The opening handshake (RFC 6455 section 4) as header fields: what a client asks, what it must see in
//! the answer, and what a server answers. Pure: HTTP itself is spoken elsewhere.

use std::fmt;

use http::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, LOCATION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{StatusCode, Version};
use tokio_tungstenite::tungstenite::handshake::{client::generate_key, derive_accept_key};

/// One message is one Ethernet frame, as without any subprotocol.
pub const CLASSIC: &str = "etherws.eth1";
/// One message is a virtio_net_hdr and an Ethernet frame, which may be a super-frame.
pub const SUPER: &str = "etherws.vnet1";
/// What a client offers. The classic one stands first: servers that echo the first offer without
/// knowing it (Node's `ws` does by default) choose what they speak.
pub const OFFER: [&str; 2] = [CLASSIC, SUPER];

/// A client's side of one handshake: the key that it sent and the subprotocols that it offered.
#[derive(Clone, Debug)]
pub struct Opening {
    key: String,
    offered: Vec<String>,
}

impl Opening {
    /// A fresh random key (section 4.1, item 7). `offered` are tokens, in the order in which they are offered; may be empty.
    pub fn new(offered: &[&str]) -> Self {
        Self { key: generate_key(), offered: offered.iter().map(|&p| p.to_owned()).collect() }
    }

    /// `Sec-WebSocket-Key`.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Adds the fields that make a GET an opening handshake (section 4.1, items 5 to 10). `Host`, and
    /// any credentials, are the caller's.
    pub fn write_fields(&self, fields: &mut HeaderMap) {
        fields.insert(UPGRADE, HeaderValue::from_static("websocket"));
        fields.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        fields.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        // A base64 key and tokens are always valid field values; were one not, it is left out.
        if let Ok(key) = HeaderValue::from_str(&self.key) {
            fields.insert(SEC_WEBSOCKET_KEY, key);
        }
        if !self.offered.is_empty()
            && let Ok(offer) = HeaderValue::from_str(&self.offered.join(", "))
        {
            fields.insert(SEC_WEBSOCKET_PROTOCOL, offer);
        }
    }

    /// Checks the server's answer (section 4.1, last list) and says which subprotocol it chose.
    pub fn check(
        &self,
        status: StatusCode,
        version: Version,
        fields: &HeaderMap,
    ) -> Result<Option<String>, Error> {
        // Item 1: anything but 101 is for HTTP to handle; this client has nothing to do with it.
        if status != StatusCode::SWITCHING_PROTOCOLS {
            let location = fields.get(LOCATION).filter(|_| status.is_redirection()).map(shown);
            return Err(Error::Status { status, location });
        }
        if version < Version::HTTP_11 {
            return Err(Error::Version);
        }
        // Items 2 and 3.
        if !has_token(fields, &UPGRADE, "websocket") {
            return Err(Error::Upgrade);
        }
        if !has_token(fields, &CONNECTION, "upgrade") {
            return Err(Error::Connection);
        }
        // Item 4: a cache or an echo cannot know the answer to this key.
        match only(fields, &SEC_WEBSOCKET_ACCEPT) {
            None => return Err(Error::AcceptMissing),
            Some(accept) if accept.as_bytes().trim_ascii() != accept_for(self.key.as_bytes()).as_bytes() => {
                return Err(Error::AcceptWrong);
            }
            Some(_) => {}
        }
        // Item 5: none is ever offered. An empty field offers nothing and is let pass.
        if let Some(extension) = fields
            .get_all(SEC_WEBSOCKET_EXTENSIONS)
            .iter()
            .find(|value| !value.as_bytes().trim_ascii().is_empty())
        {
            return Err(Error::Extension(shown(extension)));
        }
        // Item 6.
        if !fields.contains_key(SEC_WEBSOCKET_PROTOCOL) {
            return Ok(None);
        }
        let chosen = only(fields, &SEC_WEBSOCKET_PROTOCOL).map(shown).unwrap_or_default();
        if self.offered.contains(&chosen) { Ok(Some(chosen)) } else { Err(Error::Protocol(chosen)) }
    }
}

/// A server's choice among the subprotocols of a request (section 4.2.2, item 5.5): nothing is chosen
/// that was not offered, names compare exactly, and the client's order does not matter. Without
/// `offload` super-frames are declined.
pub fn choose(fields: &HeaderMap, offload: bool) -> Option<&'static str> {
    let offered = |name: &str| tokens(fields, &SEC_WEBSOCKET_PROTOCOL).any(|token| token == name.as_bytes());
    [SUPER, CLASSIC].into_iter().find(|&name| (offload || name != SUPER) && offered(name))
}

/// The server's `Sec-WebSocket-Accept` for a client's `Sec-WebSocket-Key` (section 4.2.2, item 5.4).
pub fn accept_for(key: &[u8]) -> String {
    derive_accept_key(key)
}

/// Why an answer is not the one that makes a link. Display continues "HOST:PORT ...".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// Not 101; with the `Location` of a redirection, which is never followed.
    Status { status: StatusCode, location: Option<String> },
    /// HTTP/1.0.
    Version,
    /// No `Upgrade: websocket`.
    Upgrade,
    /// No `Connection: Upgrade`.
    Connection,
    /// No `Sec-WebSocket-Accept`, or more than one.
    AcceptMissing,
    /// A `Sec-WebSocket-Accept` for another key.
    AcceptWrong,
    /// An extension that was not offered.
    Extension(String),
    /// A subprotocol that was not offered, or more than one.
    Protocol(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status { status, location: Some(location) } => {
                write!(
                    f,
                    "answered {status} to {location:?} (redirects are not followed; use that address if you trust it)"
                )
            }
            Self::Status { status: status @ StatusCode::UNAUTHORIZED, .. } => {
                write!(f, "answered {status} (check user, password or token)")
            }
            Self::Status { status: status @ StatusCode::NOT_FOUND, .. } => {
                write!(f, "answered {status} (check the URL's path)")
            }
            Self::Status { status: status @ StatusCode::OK, .. } => {
                write!(f, "answered {status} instead of 101 (is this the path of a WebSocket service?)")
            }
            Self::Status { status, .. } => write!(f, "answered {status}"),
            Self::Version => f.write_str("answered in HTTP/1.0, which has no WebSockets"),
            Self::Upgrade => f.write_str("answered 101 without \"Upgrade: websocket\""),
            Self::Connection => f.write_str("answered 101 without \"Connection: Upgrade\""),
            Self::AcceptMissing => f.write_str("answered 101 without one Sec-WebSocket-Accept"),
            Self::AcceptWrong => {
                f.write_str("answered 101 with a wrong Sec-WebSocket-Accept (a cache or proxy in between?)")
            }
            Self::Extension(name) => write!(f, "chose the extension {name:?}, which was not offered"),
            Self::Protocol(name) => write!(f, "chose the subprotocol {name:?}, which was not offered"),
        }
    }
}

impl std::error::Error for Error {}

/// Whether a list of tokens (RFC 9110 5.6.1) holds one, ignoring case, over all lines of the field.
pub fn has_token(fields: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    tokens(fields, name).any(|part| part.eq_ignore_ascii_case(token.as_bytes()))
}

/// The elements of a comma-separated field, over all its lines.
fn tokens<'a>(fields: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let lines = fields.get_all(name).iter();
    lines.flat_map(|value| value.as_bytes().split(|&byte| byte == b',')).map(<[u8]>::trim_ascii)
}

/// The field's value when it stands there once.
fn only<'a>(fields: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = fields.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// A peer's text, bounded, for a message.
fn shown(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).chars().take(SHOWN).collect()
}

/// Characters of a peer's field that a message shows.
const SHOWN: usize = 120;

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6455 section 1.3's own example.
    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

    fn opening(offered: &[&str]) -> Opening {
        Opening { key: KEY.to_owned(), ..Opening::new(offered) }
    }

    fn fields(lines: &[(&'static str, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
            .fold(HeaderMap::new(), |mut all, (name, value)| {
                all.append(name, value);
                all
            })
    }

    fn check(offered: &[&str], lines: &[(&'static str, &str)]) -> Result<Option<String>, Error> {
        opening(offered).check(StatusCode::SWITCHING_PROTOCOLS, Version::HTTP_11, &fields(lines))
    }

    const UP: (&str, &str) = ("upgrade", "WebSocket");
    const CON: (&str, &str) = ("connection", "keep-alive, Upgrade");
    const ACC: (&str, &str) = ("sec-websocket-accept", ACCEPT);

    #[test]
    fn the_accept_of_the_rfc() {
        assert_eq!(accept_for(KEY.as_bytes()), ACCEPT);
    }

    #[test]
    fn the_request_has_every_field_and_a_fresh_key() {
        let mut one = HeaderMap::new();
        Opening::new(&OFFER).write_fields(&mut one);
        assert_eq!(one[UPGRADE], "websocket");
        assert_eq!(one[CONNECTION], "Upgrade");
        assert_eq!(one[SEC_WEBSOCKET_VERSION], "13");
        assert_eq!(one[SEC_WEBSOCKET_KEY].len(), 24);
        assert_eq!(one[SEC_WEBSOCKET_PROTOCOL], "etherws.eth1, etherws.vnet1");
        let mut two = HeaderMap::new();
        Opening::new(&[]).write_fields(&mut two);
        assert_ne!(one[SEC_WEBSOCKET_KEY], two[SEC_WEBSOCKET_KEY]);
        assert!(!two.contains_key(SEC_WEBSOCKET_PROTOCOL));
        assert!(!two.contains_key(SEC_WEBSOCKET_EXTENSIONS));
    }

    #[test]
    fn a_right_answer() {
        assert_eq!(check(&[], &[UP, CON, ACC]), Ok(None));
        assert_eq!(check(&["a", "b"], &[UP, CON, ACC]), Ok(None));
        assert_eq!(
            check(&["a", "b"], &[UP, CON, ACC, ("sec-websocket-protocol", "b")]),
            Ok(Some("b".to_owned()))
        );
    }

    #[test]
    fn bad_11_the_server_chooses_what_it_knows_and_nothing_else() {
        // The lines of the offer; the choice with super-frames, and without.
        let table: &[(&[&str], Option<&str>, Option<&str>)] = &[
            (&[], None, None),
            (&["etherws.eth1, etherws.vnet1"], Some(SUPER), Some(CLASSIC)),
            (&["etherws.vnet1,etherws.eth1"], Some(SUPER), Some(CLASSIC)),
            (&["etherws.eth1", "binary,\tetherws.vnet1"], Some(SUPER), Some(CLASSIC)),
            (&["etherws.vnet1"], Some(SUPER), None),
            (&["etherws.eth1"], Some(CLASSIC), Some(CLASSIC)),
            (&["binary", "etherws.eth1 , chat"], Some(CLASSIC), Some(CLASSIC)),
            (&["binary, base64"], None, None),
            (&["", ",, ,"], None, None),
            // A client compares exactly and would take another spelling for a choice it never offered.
            (&["ETHERWS.VNET1, Etherws.eth1"], None, None),
            (&["etherws.vnet10, xetherws.vnet1, etherws.vnet1;q=1, \"etherws.vnet1\""], None, None),
        ];
        for (offer, with, without) in table {
            let lines: Vec<_> = offer.iter().map(|line| ("sec-websocket-protocol", *line)).collect();
            let fields = fields(&lines);
            assert_eq!((choose(&fields, true), choose(&fields, false)), (*with, *without), "{offer:?}");
        }
        let mut bytes = HeaderMap::new();
        bytes.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_bytes(b"\xff\xfe, etherws.vnet1").unwrap());
        assert_eq!(choose(&bytes, true), Some(SUPER));
    }

    #[test]
    fn what_a_server_makes_of_our_offer() {
        let answered = |chosen| check(&OFFER, &[UP, CON, ACC, ("sec-websocket-protocol", chosen)]);
        assert_eq!(answered("etherws.vnet1"), Ok(Some(SUPER.to_owned())));
        assert_eq!(answered("etherws.eth1"), Ok(Some(CLASSIC.to_owned())));
        // The whole offer echoed is no choice.
        for wrong in ["etherws.eth1, etherws.vnet1", "etherws.vnet2", ""] {
            assert_eq!(answered(wrong), Err(Error::Protocol(wrong.to_owned())));
        }
    }

    #[test]
    fn bad_14_wrong_answers() {
        let wrong = ("sec-websocket-accept", "AAAAAAAAAAAAAAAAAAAAAAAAAAA=");
        let deflate = ("sec-websocket-extensions", "permessage-deflate");
        let table: &[(&[(&'static str, &str)], Error)] = &[
            (&[CON, ACC], Error::Upgrade),
            (&[("upgrade", "h2c"), CON, ACC], Error::Upgrade),
            (&[UP, ACC], Error::Connection),
            (&[UP, ("connection", "upgraded"), ACC], Error::Connection),
            (&[UP, CON], Error::AcceptMissing),
            (&[UP, CON, ACC, wrong], Error::AcceptMissing),
            (&[UP, CON, wrong], Error::AcceptWrong),
            (&[UP, CON, ("sec-websocket-accept", KEY)], Error::AcceptWrong),
            (&[UP, CON, ACC, deflate], Error::Extension("permessage-deflate".into())),
            (&[UP, CON, ACC, ("sec-websocket-protocol", "chat")], Error::Protocol("chat".into())),
            (&[UP, CON, ACC, ("sec-websocket-protocol", "A")], Error::Protocol("A".into())),
            (
                &[UP, CON, ACC, ("sec-websocket-protocol", "a"), ("sec-websocket-protocol", "a")],
                Error::Protocol(String::new()),
            ),
        ];
        for (lines, error) in table {
            assert_eq!(check(&["a"], lines).as_ref(), Err(error), "{lines:?}");
        }
    }

    #[test]
    fn bad_14_other_statuses() {
        let fields = fields(&[UP, CON, ACC, ("location", "ws://evil.example/\u{9b}x")]);
        let at = |status, version| opening(&[]).check(status, version, &fields);
        assert_eq!(at(StatusCode::SWITCHING_PROTOCOLS, Version::HTTP_10), Err(Error::Version));
        let error = at(StatusCode::FOUND, Version::HTTP_11).unwrap_err().to_string();
        assert!(error.starts_with("answered 302 Found to \"ws://evil.example/"), "{error}");
        assert!(!error.contains('\u{9b}'), "control characters of a peer reach no log: {error:?}");
        let error = at(StatusCode::UNAUTHORIZED, Version::HTTP_11).unwrap_err().to_string();
        assert_eq!(error, "answered 401 Unauthorized (check user, password or token)");
        let error = at(StatusCode::NOT_FOUND, Version::HTTP_11).unwrap_err().to_string();
        assert_eq!(error, "answered 404 Not Found (check the URL's path)");
        let error = at(StatusCode::OK, Version::HTTP_11).unwrap_err().to_string();
        assert!(error.starts_with("answered 200 OK instead of 101"), "{error}");
    }

    #[test]
    fn a_peers_text_is_bounded() {
        let long = "x".repeat(5_000);
        let error = check(&[], &[UP, CON, ACC, ("sec-websocket-extensions", &long)]).unwrap_err();
        assert!(error.to_string().len() < 250);
    }
}
