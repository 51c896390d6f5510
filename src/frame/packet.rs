//! A frame taken apart down to its TCP or UDP payload: tags, IPv4 options, IPv6 extension headers and
//! TCP options are walked over, and every length is held against the frame's.
//!
//! Only the start of a frame is needed, as much as its headers take. A frame with more behind its IP
//! packet, padding for example, is not for us: a checksum left to hardware would take that in.

use std::fmt;

use super::checksum::Sum;
use super::eth::{MIN_FRAME, is_tpid};

/// Why a frame cannot be finished, or a peer's virtio header is not believed, and the frame is
/// dropped: the name of its counter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// No room for an Ethernet header.
    Runt,
    /// Longer than MAX_FRAME.
    Oversize,
    /// A flag that we do not know, or receive coalescing's (RSC_INFO).
    VnetFlags,
    /// The checksum field asked for lies outside the frame.
    ChecksumBounds,
    /// csum_start is not where the TCP or UDP header is.
    ChecksumStart,
    /// csum_offset is not that of TCP's or UDP's checksum.
    ChecksumOffset,
    /// A gso_type that we do not know.
    GsoUnknown,
    /// UDP fragmentation offload, gone from the kernel since 4.14.
    GsoUfo,
    /// gso_type says something else than the headers.
    GsoType,
    /// gso_size is 0 or 0xffff (GSO_BY_FRAGS), from a peer less than 8.
    GsoSize,
    /// More segments than anybody honest asks for.
    GsoSegments,
    /// Segments to make, and no checksum to complete.
    GsoNoChecksum,
    /// A SYN or RST cannot be split.
    GsoSynRst,
    /// The packet is inside a tunnel (VXLAN, GRE, IP in IP).
    OffloadTunnel,
    /// No TCP or UDP in the IP version of the EtherType.
    OffloadProtocol,
    /// An IP fragment.
    OffloadFragment,
    /// A header ends outside the frame, or contradicts its length.
    OffloadLength,
    /// More headers than a peer's frame is looked into for.
    OffloadHeaders,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Runt => "runt",
            Self::Oversize => "oversize",
            Self::VnetFlags => "vnet-flags",
            Self::ChecksumBounds => "checksum-bounds",
            Self::ChecksumStart => "checksum-start",
            Self::ChecksumOffset => "checksum-offset",
            Self::GsoUnknown => "gso-unknown",
            Self::GsoUfo => "gso-ufo",
            Self::GsoType => "gso-type",
            Self::GsoSize => "gso-size",
            Self::GsoSegments => "gso-segments",
            Self::GsoNoChecksum => "gso-no-checksum",
            Self::GsoSynRst => "gso-syn-rst",
            Self::OffloadTunnel => "offload-tunnel",
            Self::OffloadProtocol => "offload-protocol",
            Self::OffloadFragment => "offload-fragment",
            Self::OffloadLength => "offload-length",
            Self::OffloadHeaders => "offload-headers",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where things are in a frame whose end is the end of its IP packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Packet {
    /// The IP header.
    pub l3: usize,
    pub v6: bool,
    /// IPv4's total length is 0, which the kernel writes for more than 65,535 (BIG TCP).
    pub big: bool,
    /// The TCP or UDP header.
    pub l4: usize,
    pub transport: Transport,
    pub payload: usize,
    /// A routing header has segments left: the final destination, which the pseudo-header has
    /// (RFC 8200 8.1), is not yet in the IP header.
    routed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    /// Where in its header the checksum is.
    pub fn checksum(self) -> usize {
        match self {
            Self::Tcp => tcp::CHECKSUM,
            Self::Udp => udp::CHECKSUM,
        }
    }

    pub fn protocol(self) -> u8 {
        match self {
            Self::Tcp => tcp::PROTOCOL,
            Self::Udp => udp::PROTOCOL,
        }
    }
}

impl Packet {
    /// `head` is the start of a frame of `len` bytes. All headers found are within `head`.
    pub fn parse(head: &[u8], len: usize) -> Result<Self, Reason> {
        let view = View { head: &head[..head.len().min(len)], len };
        if view.head.len() < MIN_FRAME {
            return Err(Reason::Runt);
        }
        let mut l3 = MIN_FRAME;
        while is_tpid(word(head, l3 - 2)) {
            l3 += 4;
            view.reaches(l3)?;
        }
        let ip = match word(head, l3 - 2) {
            ipv4::ETHERTYPE => Ip::parse_v4(view, l3)?,
            ipv6::ETHERTYPE => Ip::parse_v6(view, l3)?,
            _ => return Err(Reason::OffloadProtocol),
        };
        let l4 = ip.l4;
        let (transport, payload) = match ip.protocol {
            tcp::PROTOCOL => (Transport::Tcp, tcp_payload(view, l4)?),
            udp::PROTOCOL => (Transport::Udp, udp_payload(view, l4)?),
            IPPROTO_IPIP | IPPROTO_IPV6 | IPPROTO_GRE => return Err(Reason::OffloadTunnel),
            _ => return Err(Reason::OffloadProtocol),
        };
        Ok(Self { l3, v6: ip.v6, big: ip.big, l4, transport, payload, routed: ip.routed })
    }

    /// Sum of the pseudo-header without its length, from the addresses; `None` when they are not all
    /// in the IP header.
    pub fn pseudo(&self, head: &[u8]) -> Option<u16> {
        let addresses = if self.v6 {
            self.l3 + ipv6::ADDRESSES..self.l3 + ipv6::HEADER
        } else {
            self.l3 + ipv4::ADDRESSES..self.l3 + ipv4::HEADER
        };
        (!self.routed).then(|| Sum::pseudo(&head[addresses], self.transport.protocol()).folded())
    }

    /// The same from the checksum field, in which the sum of the whole pseudo-header was left for
    /// hardware. What a routing header or a home address (RFC 6275 6.3) changes in it is in there.
    pub fn left_in_field(&self, head: &[u8], len: usize) -> u16 {
        let length = len - self.l4;
        let mut sum = Sum::default();
        sum.add_word(word(head, self.l4 + self.transport.checksum()));
        sum.add_word(!(length as u16));
        sum.add_word(!((length >> 16) as u16));
        sum.folded()
    }

    pub fn has_tcp_flag(&self, head: &[u8], flag: u8) -> bool {
        self.transport == Transport::Tcp && head[self.l4 + tcp::FLAGS] & flag != 0
    }
}

/// The start of a frame and the length of all of it.
#[derive(Clone, Copy)]
struct View<'a> {
    head: &'a [u8],
    len: usize,
}

impl View<'_> {
    /// `head` has the first `end` bytes.
    fn reaches(self, end: usize) -> Result<(), Reason> {
        match end {
            _ if end > self.len => Err(Reason::OffloadLength),
            _ if end > self.head.len() => Err(Reason::OffloadHeaders),
            _ => Ok(()),
        }
    }
}

/// What an IP header says.
struct Ip {
    v6: bool,
    big: bool,
    protocol: u8,
    l4: usize,
    routed: bool,
}

impl Ip {
    fn parse_v4(view: View<'_>, l3: usize) -> Result<Self, Reason> {
        let View { head, len } = view;
        view.reaches(l3 + ipv4::HEADER)?;
        if head[l3] >> 4 != 4 {
            return Err(Reason::OffloadProtocol);
        }
        let l4 = l3 + usize::from(head[l3] & 0x0f) * 4;
        let total = usize::from(word(head, l3 + ipv4::TOTAL_LEN));
        if l4 < l3 + ipv4::HEADER || (total != 0 && l3 + total != len) {
            return Err(Reason::OffloadLength);
        }
        view.reaches(l4)?;
        if word(head, l3 + ipv4::FRAGMENT) & (ipv4::MORE_FRAGMENTS | ipv4::FRAGMENT_OFFSET) != 0 {
            return Err(Reason::OffloadFragment);
        }
        Ok(Self { v6: false, big: total == 0, protocol: head[l3 + ipv4::PROTOCOL], l4, routed: false })
    }

    fn parse_v6(view: View<'_>, l3: usize) -> Result<Self, Reason> {
        let View { head, len } = view;
        let mut l4 = l3 + ipv6::HEADER;
        view.reaches(l4)?;
        if head[l3] >> 4 != 6 {
            return Err(Reason::OffloadProtocol);
        }
        // A jumbogram's (RFC 2675) is 0.
        if l4 + usize::from(word(head, l3 + ipv6::PAYLOAD_LEN)) != len {
            return Err(Reason::OffloadLength);
        }
        let mut protocol = head[l3 + ipv6::NEXT_HEADER];
        let mut routed = false;
        // Each of them is at least eight bytes long, so the head's end ends the walk.
        while let ipv6::HOP_BY_HOP | ipv6::ROUTING | ipv6::DESTINATION = protocol {
            view.reaches(l4 + 8)?;
            routed |= protocol == ipv6::ROUTING && head[l4 + 3] != 0;
            protocol = head[l4];
            l4 += (usize::from(head[l4 + 1]) + 1) * 8;
        }
        if protocol == ipv6::FRAGMENT {
            return Err(Reason::OffloadFragment);
        }
        Ok(Self { v6: true, big: false, protocol, l4, routed })
    }
}

fn tcp_payload(view: View<'_>, l4: usize) -> Result<usize, Reason> {
    view.reaches(l4 + tcp::HEADER)?;
    let payload = l4 + usize::from(view.head[l4 + tcp::DATA_OFFSET] >> 4) * 4;
    if payload < l4 + tcp::HEADER {
        return Err(Reason::OffloadLength);
    }
    view.reaches(payload)?;
    Ok(payload)
}

fn udp_payload(view: View<'_>, l4: usize) -> Result<usize, Reason> {
    view.reaches(l4 + udp::HEADER)?;
    if usize::from(word(view.head, l4 + udp::LEN)) != view.len - l4 {
        return Err(Reason::OffloadLength);
    }
    Ok(l4 + udp::HEADER)
}

/// `at + 2` is within `bytes`.
pub(super) fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// `at + 2` is within `bytes`.
pub(super) fn put(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

const IPPROTO_IPIP: u8 = 4;
const IPPROTO_IPV6: u8 = 41;
const IPPROTO_GRE: u8 = 47;

/// RFC 791.
pub(super) mod ipv4 {
    pub const ETHERTYPE: u16 = 0x0800;
    pub const HEADER: usize = 20;
    pub const TOTAL_LEN: usize = 2;
    pub const ID: usize = 4;
    pub const FRAGMENT: usize = 6;
    pub const PROTOCOL: usize = 9;
    pub const CHECKSUM: usize = 10;
    pub const ADDRESSES: usize = 12;
    pub const MORE_FRAGMENTS: u16 = 0x2000;
    pub const FRAGMENT_OFFSET: u16 = 0x1fff;
}

/// RFC 8200.
pub(super) mod ipv6 {
    pub const ETHERTYPE: u16 = 0x86dd;
    pub const HEADER: usize = 40;
    pub const PAYLOAD_LEN: usize = 4;
    pub const NEXT_HEADER: usize = 6;
    pub const ADDRESSES: usize = 8;
    pub const HOP_BY_HOP: u8 = 0;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const DESTINATION: u8 = 60;
}

/// RFC 9293.
pub(super) mod tcp {
    pub const PROTOCOL: u8 = 6;
    pub const HEADER: usize = 20;
    pub const SEQ: usize = 4;
    pub const ACK: usize = 8;
    pub const DATA_OFFSET: usize = 12;
    pub const FLAGS: usize = 13;
    pub const CHECKSUM: usize = 16;
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const PSH: u8 = 0x08;
    pub const URG: u8 = 0x20;
    pub const CWR: u8 = 0x80;
}

/// RFC 768.
pub(super) mod udp {
    pub const PROTOCOL: u8 = 17;
    pub const HEADER: usize = 8;
    pub const LEN: usize = 4;
    pub const CHECKSUM: usize = 6;
}
