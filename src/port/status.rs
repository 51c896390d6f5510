//! What a port is: the entries of `listPort` and `listInterface`. The first fields are 1.3's and keep
//! their names and types; the rest are ours, and default when absent, so that etherctl reads a 1.3
//! server's entries too.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::spec::PortKind;
pub use crate::prof::snapshot::Connections;

/// One entry of `listPort`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PortStatus {
    pub port: u32,
    #[serde(rename = "type")]
    pub kind: PortKind,
    /// Device name, URL without credentials, address of virtual machines, or the peer's address.
    pub target: String,
    /// Frames sent.
    pub tx: u64,
    /// Frames received.
    pub rx: u64,
    pub shut: bool,
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub tx_bytes: u64,
    #[serde(default)]
    pub rx_bytes: u64,
    /// Frames dropped at this port's ingress or egress, all reasons.
    #[serde(default)]
    pub drops: u64,
    /// `up`, `shut`, `connecting`, `waiting` (for the next try), `away` (a link that came in, whose connection broke, and
    /// that is waited for), `down`, `failed`, `blocked` (by the loop guard), `listening` (for virtual machines, which
    /// become ports of their own).
    #[serde(default)]
    pub state: String,
    /// Why the state is not `up`, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The peer's address, once connected; behind a trusted proxy the one that it named; `pid 4711` on a Unix socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Who logged in on an incoming link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// `transparent`, `access 10`, `trunk 1-5 native 1`.
    #[serde(default)]
    pub vlan: String,
    #[serde(default)]
    pub isolated: bool,
    /// TLS version and cipher, when the link has TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<String>,
    /// What is left undone to the frames: `vnet1` for a link that carries super-frames, for a device
    /// what may be left to the kernel: `tso` or `tso,uso`. Absent: frames go whole and finished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offload: Option<String>,
    /// Of a link that was asked to have several connections, or has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<Connections>,
    /// The Linux bridge that the TAP was put into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// The name that the switch was given, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// What paces the link, when it is not the system's choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub congestion: Option<String>,
    /// Bits a second that the link is sent at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pace: Option<u64>,
    /// Guards that dropped frames within the last seconds, by the name of the drop: `storm-broadcast`,
    /// `storm-multicast`, `storm-unknown`, `mac-limit`, `mac-move`, `rate-limit`, `source-not-allowed`,
    /// `ethertype-not-allowed`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alerts: Vec<String>,
    /// Times the link was established.
    #[serde(default)]
    pub connects: u64,
}

/// One entry of `listInterface`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct InterfaceStatus {
    pub port: u32,
    #[serde(rename = "type")]
    pub kind: PortKind,
    pub target: String,
    /// First IPv4 address; empty when there is none.
    pub address: String,
    /// Its netmask, `255.255.255.0`; empty when there is no address.
    pub netmask: String,
    pub mtu: u32,
    #[serde(default)]
    pub name: String,
    /// Every address with its prefix length, IPv4 first.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// The device's MAC address.
    #[serde(default)]
    pub mac: String,
    /// Interface index.
    #[serde(default)]
    pub index: u32,
    /// Administratively up.
    #[serde(default)]
    pub up: bool,
}

/// One entry of `listFdb`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct FdbStatus {
    pub vid: u16,
    pub mac: String,
    pub port: u32,
    /// Whole seconds since the station was last heard.
    pub age: u64,
    #[serde(default)]
    pub name: String,
    #[serde(rename = "static", default)]
    pub fixed: bool,
}

/// One entry of `listStations`: a station of the FDB and what it says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct StationStatus {
    /// null: untagged.
    pub vlan: Option<u16>,
    pub mac: String,
    pub port: u32,
    pub name: String,
    /// Addresses by which it spoke in ARP and ND within the ageing time, IPv4 first.
    pub ips: Vec<String>,
    /// Whole seconds since the station was last heard.
    pub age: u64,
}

/// Result of `listGroups`: who gets which multicast.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct GroupsStatus {
    /// false: everybody gets all, and the rest is empty.
    pub snoops: bool,
    /// In the order of VLAN and group, IPv4 first.
    pub groups: Vec<GroupStatus>,
    /// Ports with multicast routers, which get all of it.
    pub routers: Vec<RoutersStatus>,
    /// Who asks for members, in each VLAN.
    pub queriers: Vec<QuerierStatus>,
    /// Ports that asked for more groups than there is room for, and get all of them.
    pub full: Vec<GroupPort>,
    /// Ports that get all of them until each host there must have answered: they came up lately, or said something that
    /// went unheard.
    #[serde(default)]
    pub settling: Vec<GroupPort>,
    /// Ports that are missing above: of groups, of routers, and of those that get all, 4,096 each are listed.
    #[serde(default)]
    pub left_out: u64,
}

/// A multicast group and the ports that it goes to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct GroupStatus {
    /// null: untagged.
    pub vlan: Option<u16>,
    pub group: String,
    pub ports: Vec<GroupPort>,
}

/// A port, and for how many seconds it counts without being heard of again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct GroupPort {
    pub port: u32,
    pub name: String,
    pub expires: u64,
}

/// The routers of a VLAN.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RoutersStatus {
    /// null: untagged.
    pub vlan: Option<u16>,
    /// `ipv4` or `ipv6`.
    pub family: String,
    pub ports: Vec<GroupPort>,
}

/// Who asks in a VLAN for the members of groups.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct QuerierStatus {
    /// null: untagged.
    pub vlan: Option<u16>,
    /// `ipv4` or `ipv6`.
    pub family: String,
    /// Groups are told apart; false: all is flooded, for not everybody has been asked yet.
    pub filters: bool,
    /// Somebody else; null: this switch. `0.0.0.0` is another switch.
    pub address: Option<String>,
    /// Where it was heard.
    pub port: Option<u32>,
    /// Seconds until this switch asks itself, unless it is heard again.
    pub expires: Option<u64>,
}

/// One entry of `listCounters`: a port's counters by name; port 0 is the switch as a whole (`switch`), and all ports together
/// that are no more (`removed`).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CounterStatus {
    pub port: u32,
    pub name: String,
    pub rx: u64,
    pub rx_bytes: u64,
    pub tx: u64,
    pub tx_bytes: u64,
    /// Of `tx`, frames that got a congestion mark in the egress queue instead of being dropped there.
    #[serde(default)]
    pub marked: u64,
    /// Copies that floods of frames received here made, beyond one for each frame, and frames of the switch's own.
    #[serde(default)]
    pub copies: u64,
    /// Of `rx`, messages of IGMP and MLD that came too fast to be listened to, or are too long: the port gets all multicast
    /// until its hosts have been asked again.
    #[serde(default)]
    pub unheard: u64,
    /// Drops at ingress and egress by reason; reasons that never occurred are left out.
    pub drops: BTreeMap<String, u64>,
}

/// Result of `traceFrame`: what the switch would do with a frame, and why.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Traced {
    /// Where it would come in.
    pub port: u32,
    pub name: String,
    /// Bytes.
    pub len: u32,
    /// Empty when it is too short to have one.
    pub src: String,
    pub dst: String,
    /// `unicast`, `flood` or `drop`.
    pub verdict: String,
    /// Why it would be dropped, by the name that `listCounters` has for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// In the order in which the switch decides.
    pub steps: Vec<TracedStep>,
    /// The ports that it could leave by.
    pub egress: Vec<TracedWay>,
}

/// One step of a decision.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TracedStep {
    /// `state`, `probe`, `source`, `macs`, `own`, `rate`, `ethertypes`, `vlan`, `reserved`, `storm`, `learning`, `lookup`,
    /// `egress`, `groups` or `neighbours`; `length` of what is no frame.
    pub check: String,
    /// Why the frame would be dropped here; absent: it passes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What was found, for people.
    pub why: String,
}

/// A port that a frame could leave by.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TracedWay {
    pub port: u32,
    pub name: String,
    /// Why it would not; absent: it would.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What would happen to its VLAN tag, for people.
    pub tag: String,
}

/// Result of `pingPort`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PingStatus {
    pub port: u32,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Nanoseconds from PING to PONG; absent: there was no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_ns: Option<u64>,
    /// Why there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}
