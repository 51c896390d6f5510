//! Making the outgoing end of a link: from a URL to a connected, authenticated, upgraded stream.
//!
//! One dial goes through these steps, each in its file, all of them within [`TIME_LIMIT`]:
//! read the files named in the options (they may have changed) -> [`proxy`]: which way out ->
//! [`race`]: resolve and connect, IPv6 and IPv4 raced -> the proxy's CONNECT or SOCKS5 ->
//! [`trust`]: TLS -> [`upgrade`]: HTTP/1.1 to WebSocket. What comes out is a plain TCP stream, the
//! TLS state beside it and the bytes that were read too far, for a data thread to take over.
//! When to dial again is [`Backoff`]'s to say.

mod backoff;
mod files;
mod proxy;
mod race;
mod rewound;
mod target;
mod trust;
mod upgrade;

use std::fmt;
use std::io::{self, ErrorKind, Read};
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, USER_AGENT};
use http::{HeaderValue, Request, StatusCode};
use http_body_util::Empty;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tracing::{debug, warn};

pub use backoff::Backoff;
pub(super) use race::{connect, set_options};
pub use target::Target;

use crate::ws::handshake::{self, OFFER, Opening};
use crate::ws::joining::{self, Asked, Join, Terms, Which};
use trust::Trust;
use upgrade::Exchange;

/// For connect, proxy, TLS and upgrade together.
pub const TIME_LIMIT: Duration = Duration::from_secs(10);

/// A link's stream after its 101.
#[derive(Debug)]
pub struct Dialed {
    pub stream: TcpStream,
    pub tls: Option<rustls::ClientConnection>,
    /// Bytes of the peer's first messages that came behind its 101 (already decrypted).
    pub early: Bytes,
    /// The far end, or the proxy on the way to it.
    pub peer: SocketAddr,
    /// The `Sec-WebSocket-Protocol` that the server chose among those offered.
    pub protocol: Option<String>,
    /// What it grants to a new link; of who was not asked, or does not know of it, nothing.
    pub terms: Option<Terms>,
}

/// What the connection is to be to its link.
#[derive(Clone, Copy)]
pub enum Wish<'a> {
    /// All there is to it.
    Alone,
    /// The first of a new one, of which there may be so many.
    New { members: u8 },
    /// One more of a link, or again; good for one try.
    Join { terms: &'a Terms, which: Which, live: bool },
}

impl Wish<'_> {
    /// What both ends call the connection.
    pub fn which(self) -> Which {
        match self {
            Self::Alone | Self::New { .. } => Which::default(),
            Self::Join { which, .. } => which,
        }
    }

    fn is_join(self) -> bool {
        matches!(self, Self::Join { .. })
    }

    fn field(self, key: &str) -> Option<String> {
        match self {
            Self::Alone => None,
            Self::New { members } => Some(Asked::New { members }.value()),
            Self::Join { terms, which, live } => {
                Some(Asked::Join(Join::new(terms, which, live, key)).value())
            }
        }
    }
}

/// Why a dial failed; Display says what was attempted, on what, and why.
#[derive(Debug)]
pub enum DialError {
    /// A file of the options (password, certificate, key) cannot be used; the text names it.
    File(String),
    /// The proxy setting cannot be used; the text says where it came from.
    ProxySetting(String),
    /// The name has no address.
    Resolve { host: String, error: io::Error },
    /// No address took the connection; `to` is the address, or `host:port` when several were tried.
    Connect { to: String, error: io::Error },
    /// The proxy refused or broke its protocol.
    Proxy { proxy: String, reason: String },
    /// TLS failed; the reason names the rule.
    Tls { to: String, reason: String },
    /// The server's answer to the upgrade request is not a WebSocket's.
    Handshake { to: String, error: handshake::Error },
    /// The exchange of HTTP broke off or was not HTTP.
    Http { to: String, reason: String },
    /// What was to join a link was taken for one of its own.
    Alone { to: String },
    /// [`TIME_LIMIT`] (or the limit given) ran out.
    Timeout { to: String, limit: Duration, stage: &'static str },
}

/// Connects, all the way to an upgraded WebSocket, within [`TIME_LIMIT`]. With `offload` the server may
/// choose that the link carries super-frames.
pub async fn dial(target: &Target, offload: bool, wish: Wish<'_>) -> Result<Dialed, DialError> {
    let offer: &[&str] = if offload { &OFFER } else { &[] };
    dial_wishing(target, offer, wish, TIME_LIMIT).await
}

/// TLS alone, over a stream that is connected already, with the trust of a link to `target` (wss://).
pub async fn secure<T>(target: &Target, stream: T) -> Result<TlsStream<T>, DialError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    match Credentials::read(target).await?.trust {
        Some(trust) => trust::handshake(&trust, target, stream).await,
        None => Err(DialError::Tls { to: target.authority(), reason: "no TLS with ws://".to_owned() }),
    }
}

/// [`dial`] that offers `protocols` in this order and has `limit` for all of it. A server that
/// refuses the offer is asked once more without one. That is found out anew by each dial: a link breaks
/// when its server is replaced, and the next one may know more; remembering would save one connection.
pub async fn dial_offering(
    target: &Target,
    protocols: &[&str],
    limit: Duration,
) -> Result<Dialed, DialError> {
    dial_wishing(target, protocols, Wish::Alone, limit).await
}

async fn dial_wishing(
    target: &Target,
    protocols: &[&str],
    wish: Wish<'_>,
    limit: Duration,
) -> Result<Dialed, DialError> {
    let stage = Mutex::new("reading its files");
    let whole = async {
        let credentials = Credentials::read(target).await?;
        if target.secure && target.options.insecure {
            let url = target.display();
            warn!(
                "INSECURE: the certificate of {url} is NOT checked, anyone on the way can read and change this link"
            );
        }
        match attempt(target, &credentials, (protocols, wish), &stage).await {
            // All of a link speak the same: what one connection of it is refused says nothing of that.
            Err(error) if !protocols.is_empty() && !wish.is_join() && error.refuses_offer() => {
                debug!("{error}; asking once more without a subprotocol");
                attempt(target, &credentials, (&[], wish), &stage).await
            }
            outcome => outcome,
        }
    };
    match timeout(limit, whole).await {
        Ok(outcome) => outcome,
        Err(_) => {
            let stage = *stage.lock().unwrap_or_else(PoisonError::into_inner);
            Err(DialError::Timeout { to: target.authority(), limit, stage })
        }
    }
}

/// What the files of the options hold, read once a dial.
struct Credentials {
    authorization: Option<HeaderValue>,
    trust: Option<Trust>,
}

impl Credentials {
    /// Off the runtime's thread: a slow disk must not stop the others' dials.
    async fn read(target: &Target) -> Result<Self, DialError> {
        let owned = target.clone();
        let read = move || {
            let trust = if owned.secure { Some(trust::client_config(&owned)?) } else { None };
            Ok(Self { authorization: owned.authorization()?, trust })
        };
        match spawn_blocking(read).await {
            Ok(outcome) => outcome.map_err(DialError::File),
            Err(error) => {
                Err(DialError::File(format!("could not read the files of {}: {error}", target.display())))
            }
        }
    }
}

/// One connection, from TCP to the checked 101.
async fn attempt(
    target: &Target,
    credentials: &Credentials,
    (protocols, wish): (&[&str], Wish<'_>),
    stage: &Mutex<&'static str>,
) -> Result<Dialed, DialError> {
    let enter = |now| *stage.lock().unwrap_or_else(PoisonError::into_inner) = now;
    enter("connecting");
    let stream = proxy::reach(target).await?;
    let peer = stream.peer_addr().map_err(|error| DialError::Connect { to: target.authority(), error })?;
    let opening = Opening::new(protocols);
    let request = request(target, credentials, &opening, wish)?;
    let Some(trust) = &credentials.trust else {
        enter(ANSWER);
        let (stream, read, protocol, terms) = upgraded(target, stream, request, &opening, wish).await?;
        let (stream, unread) = stream.into_parts();
        let early = [read, unread].concat().into();
        return Ok(Dialed { stream, tls: None, early, peer, protocol, terms });
    };
    enter("in the TLS handshake");
    let stream = trust::handshake(trust, target, stream).await?;
    enter(ANSWER);
    let (stream, read, protocol, terms) = upgraded(target, stream, request, &opening, wish).await?;
    let (stream, mut tls) = stream.into_inner();
    let (stream, unread) = stream.into_parts();
    let mut early = read.to_vec();
    drain(&mut tls, &unread, &mut early)
        .map_err(|error| DialError::Tls { to: target.authority(), reason: trust::explained(&error) })?;
    Ok(Dialed { stream, tls: Some(tls), early: early.into(), peer, protocol, terms })
}

/// The upgrade over a connected stream: the stream again, the bytes read behind the 101, the
/// subprotocol, and what is granted to a link.
async fn upgraded<T>(
    target: &Target,
    stream: T,
    request: Request<Empty<Bytes>>,
    opening: &Opening,
    wish: Wish<'_>,
) -> Result<(T, Bytes, Option<String>, Option<Terms>), DialError>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let to = target.authority();
    let http = |reason| DialError::Http { to: to.clone(), reason };
    let Exchange { answer, taken } = upgrade::exchange(stream, request).await.map_err(|reason| {
        let plain = !target.secure && reason == upgrade::NOT_HTTP;
        http(if plain { format!("{reason} (is it a wss:// service?)") } else { reason })
    })?;
    match opening.check(answer.status, answer.version, &answer.headers) {
        Err(error) => Err(DialError::Handshake { to, error }),
        // It knows nothing of links, and would take each connection for one of its own.
        Ok(_) if wish.is_join() && !joining::has_joined(&answer.headers) => Err(DialError::Alone { to }),
        Ok(protocol) => {
            let (stream, read) = taken.ok_or_else(|| http("no connection behind the 101".to_owned()))?;
            Ok((stream, read, protocol, Terms::of(&answer.headers)))
        }
    }
}

/// The client's request (RFC 6455 section 4.1).
fn request(
    target: &Target,
    credentials: &Credentials,
    opening: &Opening,
    wish: Wish<'_>,
) -> Result<Request<Empty<Bytes>>, DialError> {
    let built = Request::get(&target.path)
        .header(HOST, target.host_field())
        .header(USER_AGENT, concat!("etherws/", env!("CARGO_PKG_VERSION")))
        .body(Empty::new());
    let mut request =
        built.map_err(|error| DialError::Http { to: target.authority(), reason: error.to_string() })?;
    opening.write_fields(request.headers_mut());
    // Digits, letters and what stands between them: always a field's value.
    if let Some(value) = wish.field(opening.key()).and_then(|text| HeaderValue::from_str(&text).ok()) {
        request.headers_mut().insert(joining::FIELD, value);
    }
    if let Some(authorization) = &credentials.authorization {
        request.headers_mut().insert(AUTHORIZATION, authorization.clone());
    }
    Ok(request)
}

/// Moves into `early` what TLS has decrypted and nobody read yet, and what it decrypts from `unread`.
fn drain(tls: &mut rustls::ClientConnection, mut unread: &[u8], early: &mut Vec<u8>) -> io::Result<()> {
    loop {
        match tls.reader().read_to_end(early) {
            // Nothing more for now, or for ever: whoever takes the link over will see that for itself.
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::UnexpectedEof) => {}
            outcome => drop(outcome?),
        }
        if unread.is_empty() || tls.read_tls(&mut unread)? == 0 {
            return Ok(());
        }
        tls.process_new_packets().map_err(io::Error::other)?;
    }
}

const ANSWER: &str = "waiting for the answer to the upgrade request";

impl DialError {
    /// Whether this may be a server's way to say that it does not take the offered subprotocols. Not
    /// when it asks for other credentials, sends elsewhere or is overloaded.
    fn refuses_offer(&self) -> bool {
        match self {
            Self::Handshake { error: handshake::Error::Protocol(_), .. } | Self::Http { .. } => true,
            Self::Handshake { error: handshake::Error::Status { status, .. }, .. } => {
                let refused = status.is_client_error() || status.is_server_error();
                refused && !matches!(status.as_u16(), 401 | 403 | 407 | 409 | 410 | 429 | 503)
            }
            _ => false,
        }
    }

    /// The server has no such link as was to be joined.
    pub fn is_gone(&self) -> bool {
        matches!(
            self,
            Self::Alone { .. }
                | Self::Handshake { error: handshake::Error::Status { status: StatusCode::GONE, .. }, .. }
        )
    }
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(text) | Self::ProxySetting(text) => f.write_str(text),
            Self::Resolve { host, error } => {
                write!(f, "could not resolve {host}: {}{}", plain(error), race::resolver_hint())
            }
            Self::Connect { to, error } => write!(f, "could not connect to {to}: {}", plain(error)),
            Self::Proxy { proxy, reason } => write!(f, "proxy {proxy} {reason}"),
            Self::Tls { to, reason } => write!(f, "TLS with {to} failed: {reason}"),
            Self::Handshake { to, error } => write!(f, "{to} {error}"),
            Self::Http { to, reason } => write!(f, "HTTP with {to} failed: {reason}"),
            Self::Alone { to } => {
                write!(f, "{to} took what was to join a link for a link of its own")
            }
            Self::Timeout { to, limit, stage } => {
                write!(f, "no link with {to} within {} s, still {stage}", limit.as_secs_f32())
            }
        }
    }
}

impl std::error::Error for DialError {}

/// The error as people say it, without "(os error 111)".
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}
