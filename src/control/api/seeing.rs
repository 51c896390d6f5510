//! Captures, traces and pings as part of the contract.

use serde::{Deserialize, Serialize};

use super::{EtherType, MacAddr, PortRef, maybe_port_ref};
use crate::prof::snapshot::PortName;

pub use crate::port::status::{PingStatus, Traced, TracedStep, TracedWay};

/// The subscription, over WebSocket only: its methods and its notification, whose result is a [`Captured`].
pub const SUBSCRIBE: &str = "etherws.control.subscribeCapture";
pub const UNSUBSCRIBE: &str = "etherws.control.unsubscribeCapture";
pub const NOTIFICATION: &str = "etherws.control.capture";

/// What of a frame is captured when nobody says otherwise: all, whatever its size.
pub const SNAPLEN: u32 = 262_144;
/// The longest a PING is waited for, in milliseconds.
pub const MAX_PING_MS: u32 = 60_000;

/// `subscribeCapture`: frames from now on, as ports let them in, send or drop them. A reader that is too slow loses
/// frames and is told how many (`lost`); one that reads nothing for 10 s is cut off.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SubscribeCapture {
    /// At this port only; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "maybe_port_ref")]
    pub port: Option<PortRef>,
    /// A classic BPF program for Ethernet, `[code, jt, jf, k]` each, as `tcpdump -ddd -y EN10MB` prints it. At most 4,096
    /// instructions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<Vec<[u32; 4]>>,
    /// Bytes of a frame at most, 14 to 262,144; absent: 262,144.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snaplen: Option<u32>,
}

/// What was captured since the last one. The first comes at once, and one at least every second.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Captured {
    /// Ports that were not told of before.
    pub ports: Vec<PortName>,
    pub packets: Vec<Packet>,
    /// Frames for which there was no room, since the beginning.
    pub lost: u64,
}

/// A frame at a port.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Packet {
    /// Nanoseconds since 1970.
    pub unix_ns: u64,
    pub port: u32,
    pub way: Way,
    /// Bytes of the whole frame.
    pub len: u32,
    /// Its first bytes, in base64.
    pub data: String,
    /// Why it goes no further, by the name that `listCounters` has for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drop: Option<String>,
    /// A super-frame: bytes of payload in each frame that it will be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gso_size: Option<u16>,
    /// And how many these are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frames: Option<u32>,
}

/// Which way a frame goes at a port, seen from the switch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Way {
    In,
    Out,
}

/// `traceFrame`: `frame`, or `dst` with what else matters.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct TraceFrame {
    /// Where it comes in; absent: where its source was heard last.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "maybe_port_ref")]
    pub port: Option<PortRef>,
    /// A whole frame, in hexadecimal digits; blanks and colons between them are passed over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frame: Option<String>,
    /// Absent: the port's station that was heard last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub src: Option<MacAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dst: Option<MacAddr>,
    /// A tag; 0, or absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vid: Option<u16>,
    /// Absent: ipv4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ethertype: Option<EtherType>,
}

/// `pingPort`: `port`, or `mac`. One PING of the port's link; answers when its PONG has come, or the time is up.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PingPort {
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "maybe_port_ref")]
    pub port: Option<PortRef>,
    /// A station: the link behind which it was heard last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// In this VLAN; absent: in any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vid: Option<u16>,
    /// 1 to 60,000; absent: 1,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u32>,
}
