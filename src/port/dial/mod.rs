//! Making the outgoing end of a link: from a URL to a connected, authenticated, upgraded stream.
//!
//! One dial goes through these steps, each in its file, all of them within [`TIME_LIMIT`]:
//! read the files named in the options (they may have changed) -> [`proxy`]: which way out ->
//! [`race`]: resolve and connect, IPv6 and IPv4 raced -> the proxy's CONNECT or SOCKS5 ->
//! [`trust`]: TLS -> [`upgrade`]: HTTP/1.1 to WebSocket. What comes out is a plain TCP stream, the
//! TLS state beside it and the bytes that were read too far, for a data thread to take over.
//! When to dial again is [`Backoff`]'s to say.

mod backoff;
mod proxy;
mod race;
mod target;
mod trust;
mod upgrade;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpStream;

pub use backoff::Backoff;
pub use target::Target;

use crate::ws::handshake;

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
    /// [`TIME_LIMIT`] (or the limit given) ran out.
    Timeout { to: String, limit: Duration },
}

/// Connects, all the way to an upgraded WebSocket, within [`TIME_LIMIT`].
pub async fn dial(target: &Target) -> Result<Dialed, DialError> {
    dial_offering(target, &[], TIME_LIMIT).await
}

/// [`dial`] that offers `protocols` (in order of preference) within `limit`. A server that refuses
/// the offer is asked once more without one.
pub async fn dial_offering(
    target: &Target,
    protocols: &[&str],
    limit: Duration,
) -> Result<Dialed, DialError> {
    let _ = (target, protocols, limit);
    Err(DialError::File("not built yet".into()))
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(text) | Self::ProxySetting(text) => f.write_str(text),
            Self::Resolve { host, error } => write!(f, "could not resolve {host}: {}", plain(error)),
            Self::Connect { to, error } => write!(f, "could not connect to {to}: {}", plain(error)),
            Self::Proxy { proxy, reason } => write!(f, "proxy {proxy} {reason}"),
            Self::Tls { to, reason } => write!(f, "TLS with {to} failed: {reason}"),
            Self::Handshake { to, error } => write!(f, "{to} {error}"),
            Self::Http { to, reason } => write!(f, "HTTP with {to} failed: {reason}"),
            Self::Timeout { to, limit } => {
                write!(f, "could not set up a link with {to} within {} s", limit.as_secs_f32())
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
