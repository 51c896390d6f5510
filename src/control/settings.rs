//! What the HTTP listeners are asked to be: addresses, files, who gets which profile.

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::port::Profile;
use crate::port::spec::Congestion;

/// PEM files of a TLS server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
    /// CAs of client certificates; when present every client must show one.
    pub client_ca: Option<PathBuf>,
}

/// The WebSocket service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListenSettings {
    /// Address or name to bind; absent: all addresses, IPv6 and IPv4.
    pub host: Option<String>,
    /// Absent: 80, or 443 with TLS. 0: any free port.
    pub port: Option<u16>,
    pub path: String,
    pub tls: Option<TlsFiles>,
    pub htpasswd: Option<PathBuf>,
    pub tokens: Option<PathBuf>,
    /// Origins let in beside the service's own; `*` lets in every one.
    pub origins: Vec<String>,
    /// Reverse proxies whose word about the client is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Connections start with a PROXY header (v1 or v2), and only trusted proxies may connect.
    pub proxy_protocol: bool,
    /// PING interval of incoming links.
    pub ping: Option<Duration>,
    /// Incoming links that offer to carry super-frames may.
    pub offload: bool,
    /// Of incoming links.
    pub congestion: Congestion,
    /// How long a link that lost its connection is waited for; whole seconds, 0: not at all.
    pub resume: Duration,
    /// How long the switch goes on, not ready for new links, once it is told to end.
    pub drain_wait: Duration,
}

impl Default for ListenSettings {
    fn default() -> Self {
        Self {
            host: None,
            port: None,
            path: "/".to_owned(),
            tls: None,
            htpasswd: None,
            tokens: None,
            origins: Vec::new(),
            trusted_proxies: Vec::new(),
            proxy_protocol: false,
            ping: None,
            offload: true,
            congestion: Congestion::System,
            resume: Duration::ZERO,
            drain_wait: Duration::ZERO,
        }
    }
}

/// The control service on TCP.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ControlTcp {
    pub host: String,
    pub port: u16,
    pub path: String,
    pub tls: Option<TlsFiles>,
    pub htpasswd: Option<PathBuf>,
    /// No password: on loopback alone.
    pub anonymous: bool,
}

impl Default for ControlTcp {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port: 7867,
            path: "/ctl".to_owned(),
            tls: None,
            htpasswd: None,
            anonymous: false,
        }
    }
}

/// The control service: a Unix socket always, TCP when asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ControlSettings {
    pub sock: PathBuf,
    pub tcp: Option<ControlTcp>,
}

/// The listener that shows metrics and nothing else.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MetricsListen {
    pub host: String,
    /// 0: any free port.
    pub port: u16,
}

/// By what a `[[user]]` profile is found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Who {
    User(String),
    Token(String),
    Certificate(String),
}

/// What the incoming links of someone become.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UserRule {
    pub who: Who,
    pub profile: Profile,
}

/// How much strangers may take. Links are not ended when a limit sinks below what is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// On TCP in all: links, calls, and who has not been let in yet.
    pub connections: usize,
    /// From one IPv4 address or IPv6 /64.
    pub connections_per_address: usize,
    /// Of `connections`, those that nobody has been let in by yet.
    pub unauthenticated: usize,
    pub unauthenticated_per_address: usize,
    /// Until the first request's last header.
    pub header_time: Duration,
    /// In bytes.
    pub header_size: usize,
    /// Of one link, which then is one port.
    pub link_connections: u8,
    /// Wrong credentials from one IPv4 address or IPv6 /64 in a minute.
    pub failed_logins: u32,
    /// Bytes of a call or batch; fixed at start, as those below.
    pub rpc_body: u32,
    /// Calls in a batch.
    pub rpc_batch: u32,
    /// Of one WebSocket session.
    pub rpc_subscriptions: u32,
}

impl Limits {
    /// Those that are fixed at start.
    pub fn of_calls(&self) -> [u32; 3] {
        [self.rpc_body, self.rpc_batch, self.rpc_subscriptions]
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            connections_per_address: 4096,
            unauthenticated: 4096,
            unauthenticated_per_address: 512,
            header_time: Duration::from_secs(10),
            header_size: 16 << 10,
            link_connections: 8,
            failed_logins: 60,
            rpc_body: 1 << 20,
            rpc_batch: 100,
            rpc_subscriptions: 16,
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DoorSettings {
    /// Absent: no WebSocket service.
    pub listen: Option<ListenSettings>,
    pub control: ControlSettings,
    /// Absent: metrics are beside control alone.
    pub metrics: Option<MetricsListen>,
    pub users: Vec<UserRule>,
    pub limits: Limits,
}
