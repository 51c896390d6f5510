//! What a port is asked to be: the shape of `addPort`'s parameters and of a `[[port]]` table.

use std::fmt;
use std::net::IpAddr;
use std::ops::Deref;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

pub use self::congestion::Congestion;
pub use self::storm::{Rates, StormLimit};
use crate::frame::{EtherType, MacAddr, Vid, VidSet};
use crate::switch::guard::StormRates;

mod congestion;
mod storm;

/// The kinds of port. `Server` ports come from incoming links and cannot be asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum PortKind {
    Tap,
    Netdev,
    Client,
    Server,
    Qemu,
}

impl fmt::Display for PortKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tap => "tap",
            Self::Netdev => "netdev",
            Self::Client => "client",
            Self::Server => "server",
            Self::Qemu => "qemu",
        })
    }
}

/// A port as asked for, complete: what `addPort` takes and `saveconf` writes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PortSpec {
    #[serde(rename = "type")]
    pub kind: PortKind,
    /// Device name (tap, netdev), ws:// or wss:// URL (client), or unix:PATH or tcp:ADDRESS:PORT (qemu).
    pub target: String,
    /// Stable name, usable wherever a number is; chosen from the target when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub shut: bool,
    /// Untagged frames only, all in this VLAN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Vid>,
    /// Tagged frames of these VLANs only (and of `native`, untagged).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trunk: Option<VidSet>,
    /// The VLAN of a trunk's untagged frames.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub native: Option<Vid>,
    /// Isolated ports exchange no frames with each other.
    #[serde(default, skip_serializing_if = "is_default")]
    pub isolated: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub bpdu: Bpdu,
    /// Source addresses let in; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub macs: Vec<MacAddr>,
    /// EtherTypes let in, behind any VLAN tags; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ethertypes: Vec<EtherType>,
    /// Ingress limit in bits a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u64>,
    /// Broadcast, multicast and unknown unicast let in a second.
    #[serde(default, skip_serializing_if = "is_default")]
    pub storm: StormLimit,
    /// Stations learned here at most; absent: as the switch has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_macs: Option<u32>,
    /// The loop guard probes this port, and blocks it when it closes a loop. Default true.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub loop_guard: bool,
    /// The TAP outlives its port and the daemon.
    #[serde(default, skip_serializing_if = "is_default")]
    pub persist: bool,
    /// The Linux bridge of this host that the TAP is put into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// Addresses with prefix length, IPv4 and IPv6, of a TAP or network device.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    pub address: Vec<IpNet>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// Super-frames and unfinished checksums: taken from and given to the device, offered to the link's
    /// far end. Default true.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub offload: bool,
    /// Of a link: the kernel's algorithm that paces it, such as `bbr`. Default: the system's.
    #[serde(default, skip_serializing_if = "is_default")]
    pub congestion: Congestion,
    /// Of a link: bits a second sent at most; what is more waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pace: Option<u64>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub options: LinkOptions,
}

impl PortSpec {
    pub fn new(kind: PortKind, target: impl Into<String>) -> Self {
        Self {
            kind,
            target: target.into(),
            name: None,
            shut: false,
            access: None,
            trunk: None,
            native: None,
            isolated: false,
            bpdu: Bpdu::Drop,
            macs: Vec::new(),
            ethertypes: Vec::new(),
            rate: None,
            storm: StormLimit::Default,
            max_macs: None,
            loop_guard: true,
            persist: false,
            bridge: None,
            address: Vec::new(),
            mtu: None,
            mac: None,
            offload: true,
            congestion: Congestion::System,
            pace: None,
            options: LinkOptions::default(),
        }
    }
}

/// What happens to reserved multicast, 01:80:c2:00:00:0x.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Bpdu {
    #[default]
    Drop,
    Forward,
}

/// How a client link is dialled and whom it trusts; of a qemu port `connect` and `anonymous`, and nothing else.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct LinkOptions {
    /// Basic auth user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub passwd: Option<Secret>,
    /// File whose first line is the password; read again at each connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passwd_file: Option<String>,
    /// Bearer token, instead of user and password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub token: Option<Secret>,
    /// CA certificates: a path, or PEM text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cacerts: Option<String>,
    /// Client certificate chain: a path, or PEM text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert: Option<String>,
    /// Client key: a path, or PEM text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub key: Option<Secret>,
    /// No check of the server's certificate.
    #[serde(default, skip_serializing_if = "is_default")]
    pub insecure: bool,
    /// Proxy URL (http:// or socks5://, credentials in it); "none" for a direct connection;
    /// absent: from the environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    /// Seconds without received data before a PING (default 15).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ping: Option<u32>,
    /// WebSocket connections that the link is made of (default 1); one is for sparse flows, the others take turns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u8>,
    /// A qemu port dials a QEMU that listens, instead of listening itself.
    #[serde(default, skip_serializing_if = "is_default")]
    pub connect: bool,
    /// A qemu port may listen where other hosts reach it, although nobody is asked who he is.
    #[serde(default, skip_serializing_if = "is_default")]
    pub anonymous: bool,
}

impl LinkOptions {
    /// Whether a port of this kind knows all that is asked for.
    pub fn fit(&self, kind: PortKind) -> bool {
        let (connect, anonymous) = (self.connect, self.anonymous);
        match kind {
            PortKind::Client => !connect && !anonymous,
            PortKind::Qemu => *self == Self { connect, anonymous, ..Self::default() },
            PortKind::Tap | PortKind::Netdev | PortKind::Server => *self == Self::default(),
        }
    }
}

/// A password, a token or a key: wiped from memory where it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Deref for Secret {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Into::into)
    }
}

/// Secrets and file contents never reach a log.
impl fmt::Debug for LinkOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkOptions")
            .field("user", &self.user)
            .field("insecure", &self.insecure)
            .field("ping", &self.ping)
            .finish_non_exhaustive()
    }
}

/// A port named by its number or its name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum PortRef {
    Number(u32),
    Name(String),
}

impl fmt::Display for PortRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl FromStr for PortRef {
    type Err = std::convert::Infallible;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Ok(s.parse().map_or_else(|_| Self::Name(s.to_owned()), Self::Number))
    }
}

/// What an incoming link becomes: a `[[user]]` table without its matching part.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Profile {
    /// Port name; absent: the user's name, `-2`, `-3` behind it for further links.
    pub name: Option<String>,
    pub access: Option<Vid>,
    pub trunk: Option<VidSet>,
    pub native: Option<Vid>,
    pub isolated: bool,
    /// Source addresses let in; empty: all.
    pub macs: Vec<MacAddr>,
    /// EtherTypes let in; empty: all.
    pub ethertypes: Vec<EtherType>,
    /// Ingress limit in bits a second.
    pub rate: Option<u64>,
    pub storm: StormLimit,
    /// Stations learned there at most.
    pub max_macs: Option<u32>,
    /// Absent: guarded.
    pub loop_guard: Option<bool>,
    /// Absent: the service's.
    pub congestion: Option<Congestion>,
    /// Bits a second sent to it at most.
    pub pace: Option<u64>,
    /// Links at a time; with 1 a new session replaces the old one. Absent: any number.
    pub links: Option<u32>,
}

/// What all ports are guarded by that say nothing else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GuardSettings {
    pub storm: StormRates,
    /// Stations learned on a port at most.
    pub max_macs: u32,
    pub loop_guard: bool,
}

impl Default for GuardSettings {
    fn default() -> Self {
        Self { storm: StormRates::USUAL, max_macs: 1_024, loop_guard: true }
    }
}

/// A change to a running port; absent fields stay as they are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PortChange {
    pub shut: Option<bool>,
    pub name: Option<String>,
    pub vlan: Option<VlanChange>,
    pub isolated: Option<bool>,
    pub bpdu: Option<Bpdu>,
    pub macs: Option<Vec<MacAddr>>,
    pub ethertypes: Option<Vec<EtherType>>,
    /// `Some(None)`: no limit.
    pub rate: Option<Option<u64>>,
    pub storm: Option<StormLimit>,
    /// `Some(None)`: as the switch has it.
    pub max_macs: Option<Option<u32>>,
    pub loop_guard: Option<bool>,
    pub congestion: Option<Congestion>,
    /// `Some(None)`: as fast as it goes.
    pub pace: Option<Option<u64>>,
}

/// The VLAN rule as a whole: all absent means transparent.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VlanChange {
    pub access: Option<Vid>,
    pub trunk: Option<VidSet>,
    pub native: Option<Vid>,
}

/// A change to a TAP's or network device's interface; absent fields stay as they are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct InterfaceChange {
    /// Replaces the addresses of each family that occurs in it.
    pub address: Vec<IpNet>,
    pub mtu: Option<u32>,
    pub mac: Option<MacAddr>,
}

/// The address with its prefix as 1.3 splits it: `(address, netmask)`; IPv6 masks are printed as such.
pub fn address_and_netmask(net: IpNet) -> (IpAddr, IpAddr) {
    (net.addr(), net.netmask())
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn yes() -> bool {
    true
}

fn is_yes(value: &bool) -> bool {
    *value
}
