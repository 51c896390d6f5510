//! The registry of ports. (Contract; the bodies follow.)
#![allow(unused_variables, clippy::unused_async, clippy::unimplemented)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpStream;

use super::spec::{InterfaceChange, PortChange, PortRef, PortSpec, Profile};
use super::status::{CounterStatus, FdbStatus, InterfaceStatus, PortStatus};
use crate::frame::MacAddr;

/// Why a request about a port was refused. Display names what and where.
#[derive(Debug, PartialEq, Eq)]
pub enum PortError {
    /// The request itself is wrong: JSON-RPC -32602, etherctl exit 1.
    Invalid(String),
    /// No such port, interface or FDB entry: JSON-RPC -32602.
    NotFound(String),
    /// The kernel or the peer refused: JSON-RPC -32000.
    Failed(String),
}

impl std::fmt::Display for PortError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::Invalid(text) | Self::NotFound(text) | Self::Failed(text)) = self;
        f.write_str(text)
    }
}

impl std::error::Error for PortError {}

/// Switch-wide settings, changeable while running.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SwitchSettings {
    pub ageout: Duration,
    pub fdb_limit: usize,
    /// Data threads; fixed at start.
    pub threads: usize,
}

/// A WebSocket link that has been accepted: upgraded, authenticated, its 101 already sent.
pub struct Incoming {
    pub stream: TcpStream,
    pub tls: Option<rustls::ServerConnection>,
    /// Bytes of the peer's first messages that came behind its request (already decrypted).
    pub early: Bytes,
    /// The peer, as a trusted proxy named it, otherwise the socket's.
    pub peer: SocketAddr,
    pub user: Option<String>,
    pub profile: Option<Profile>,
    /// PING interval; default 15 s.
    pub ping: Option<Duration>,
}

pub struct Ports {}

impl Ports {
    /// Starts the data threads.
    pub fn start(settings: SwitchSettings) -> std::io::Result<Arc<Self>> {
        unimplemented!()
    }

    pub fn reconfigure(&self, settings: &SwitchSettings) {
        unimplemented!()
    }

    pub async fn add(&self, spec: PortSpec) -> Result<PortStatus, PortError> {
        unimplemented!()
    }

    /// The entry after the change.
    pub async fn set(&self, port: &PortRef, change: PortChange) -> Result<PortStatus, PortError> {
        unimplemented!()
    }

    /// The entry as it was.
    pub async fn delete(&self, port: &PortRef) -> Result<PortStatus, PortError> {
        unimplemented!()
    }

    pub fn list(&self) -> Vec<PortStatus> {
        unimplemented!()
    }

    pub async fn interfaces(&self) -> Result<Vec<InterfaceStatus>, PortError> {
        unimplemented!()
    }

    pub async fn set_interface(
        &self,
        port: &PortRef,
        change: InterfaceChange,
    ) -> Result<InterfaceStatus, PortError> {
        unimplemented!()
    }

    pub fn fdb(&self) -> Vec<FdbStatus> {
        unimplemented!()
    }

    /// A static entry. `vid` 0 is untagged.
    pub fn add_fdb(&self, vid: u16, mac: MacAddr, port: &PortRef) -> Result<FdbStatus, PortError> {
        unimplemented!()
    }

    pub fn delete_fdb(&self, vid: u16, mac: MacAddr) -> Result<FdbStatus, PortError> {
        unimplemented!()
    }

    /// Forgets learned entries (static ones stay), of one port or of all; how many.
    pub fn flush_fdb(&self, port: Option<&PortRef>) -> Result<u64, PortError> {
        unimplemented!()
    }

    pub fn counters(&self) -> Vec<CounterStatus> {
        unimplemented!()
    }

    /// Makes a port of an incoming link. A link refused (profile's limit, no numbers left) is closed
    /// with a status code and a reason; the error says the same for the log.
    pub async fn accept(&self, link: Incoming) -> Result<PortStatus, PortError> {
        unimplemented!()
    }

    /// The configured ports (no incoming links) as `add` would take them, with secrets, in number order.
    pub fn specs(&self) -> Vec<(u32, PortSpec)> {
        unimplemented!()
    }

    /// Sends Close 1001 on every link, lets accepted frames out, closes; at most `limit`.
    pub async fn drain(&self, limit: Duration) {
        unimplemented!()
    }

    /// Seconds since the slowest data thread last showed life; for the watchdog.
    pub fn stalled_for(&self) -> Duration {
        unimplemented!()
    }
}
