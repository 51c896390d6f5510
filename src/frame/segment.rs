//! Splitting a super-frame into the frames that hardware would have sent.
//!
//! A kernel hands over up to 64 KiB of TCP or UDP payload behind one set of headers and says how long
//! the pieces should be. [`Segments`] parses the headers itself (VLAN tags, IPv4 options, IPv6
//! extension headers, TCP options), believes nothing else, and writes one piece after the other into
//! the caller's buffer, each with headers and checksums of its own. Nothing is allocated, and a frame
//! that cannot be split is refused with a [`Reason`] before the first piece.
//!
//! The rules are the kernel's: net/ipv4/af_inet.c `inet_gso_segment`, net/ipv4/tcp_offload.c
//! `tcp_gso_segment`, net/ipv4/udp_offload.c `__udp_gso_segment`.

use super::checksum::{Sum, checksum};
use super::eth::{MIN_FRAME, is_tpid};
use super::offload::{Checksum, GsoKind, Offload, Reason, mangled};

/// 65,535 bytes in pieces of the smallest MSS that Linux's TCP uses: TCP_MIN_SND_MSS 48 less 40 of
/// options. A kernel never asks for more; somebody who injects frames might.
pub const MAX_SEGMENTS: usize = 8_192;

/// The pieces of one super-frame, in order.
#[derive(Clone, Debug)]
pub struct Segments<'a> {
    headers: &'a [u8],
    payload: &'a [u8],
    layout: Layout,
    size: usize,
    count: usize,
    next: usize,
}

impl<'a> Segments<'a> {
    /// `frame` is whole (tag put back) and `offload` describes it as it is.
    pub fn new(frame: &'a [u8], offload: &Offload) -> Result<Self, Reason> {
        let gso = offload.gso.ok_or(Reason::GsoSize)?;
        if matches!(gso.size, 0 | GSO_BY_FRAGS) {
            return Err(Reason::GsoSize);
        }
        let layout = Layout::parse(frame, gso.kind, offload.checksum)?;
        let (headers, payload) = frame.split_at(layout.payload);
        let size = usize::from(gso.size);
        let count = payload.len().div_ceil(size).max(1);
        if count > MAX_SEGMENTS {
            return Err(Reason::GsoSegments);
        }
        let segments = Self { headers, payload, layout, size, count, next: 0 };
        // Otherwise the lengths written below would not fit 16 bits.
        if segments.longest() - layout.l3 > usize::from(u16::MAX) + if layout.v6 { ipv6::HEADER } else { 0 } {
            return Err(Reason::GsoLength);
        }
        Ok(segments)
    }

    /// Pieces still to come.
    pub fn remaining(&self) -> usize {
        self.count - self.next
    }

    /// Length of the longest piece: what the buffer needs, and what an egress compares with its MTU
    /// (plus 14 and tags).
    pub fn longest(&self) -> usize {
        self.headers.len() + self.payload.len().min(self.size)
    }

    /// Writes the next piece to the start of `buf` and says how long it is. `None` after the last
    /// one, or when `buf` is shorter than [`Segments::longest`].
    pub fn write_next(&mut self, buf: &mut [u8]) -> Option<usize> {
        if self.next == self.count || buf.len() < self.longest() {
            return None;
        }
        let start = self.next * self.size;
        let payload = &self.payload[start..self.payload.len().min(start + self.size)];
        let piece = &mut buf[..self.headers.len() + payload.len()];
        let (headers, rest) = piece.split_at_mut(self.headers.len());
        headers.copy_from_slice(self.headers);
        rest.copy_from_slice(payload);
        self.finish_ip(piece);
        self.finish_transport(piece, start);
        self.next += 1;
        Some(piece.len())
    }

    fn finish_ip(&self, piece: &mut [u8]) {
        let Layout { l3, l4, v6, .. } = self.layout;
        if v6 {
            put(piece, l3 + ipv6::PAYLOAD_LEN, (piece.len() - l3 - ipv6::HEADER) as u16);
            return;
        }
        put(piece, l3 + ipv4::TOTAL_LEN, (piece.len() - l3) as u16);
        let id = word(self.headers, l3 + ipv4::ID).wrapping_add(self.next as u16);
        put(piece, l3 + ipv4::ID, id);
        put(piece, l3 + ipv4::CHECKSUM, 0);
        let sum = checksum(&piece[l3..l4]);
        put(piece, l3 + ipv4::CHECKSUM, sum);
    }

    fn finish_transport(&self, piece: &mut [u8], start: usize) {
        let l4 = self.layout.l4;
        let len = (piece.len() - l4) as u16;
        let field = match self.layout.transport {
            Transport::Tcp => {
                let mut seq = [0; 4];
                seq.copy_from_slice(&self.headers[l4 + tcp::SEQ..l4 + tcp::SEQ + 4]);
                let seq = u32::from_be_bytes(seq).wrapping_add(start as u32);
                piece[l4 + tcp::SEQ..l4 + tcp::SEQ + 4].copy_from_slice(&seq.to_be_bytes());
                if self.next + 1 < self.count {
                    piece[l4 + tcp::FLAGS] &= !(tcp::FIN | tcp::PSH);
                }
                if self.next > 0 {
                    piece[l4 + tcp::FLAGS] &= !tcp::CWR;
                }
                l4 + tcp::CHECKSUM
            }
            Transport::Udp => {
                put(piece, l4 + udp::LEN, len);
                l4 + udp::CHECKSUM
            }
        };
        put(piece, field, 0);
        let mut sum = self.layout.pseudo;
        sum.add_word(len);
        sum.add(&piece[l4..]);
        let sum = match self.layout.transport {
            Transport::Tcp => sum.checksum(),
            Transport::Udp => mangled(sum.checksum()),
        };
        put(piece, field, sum);
    }
}

/// Where things are in a super-frame; every offset is within it.
#[derive(Clone, Copy, Debug)]
struct Layout {
    /// The IP header.
    l3: usize,
    v6: bool,
    /// The TCP or UDP header.
    l4: usize,
    transport: Transport,
    payload: usize,
    /// Sum of the pseudo-header without its length.
    pseudo: Sum,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Transport {
    Tcp,
    Udp,
}

impl Layout {
    /// The IP packet has to end where the frame does.
    fn parse(frame: &[u8], kind: GsoKind, request: Option<Checksum>) -> Result<Self, Reason> {
        if frame.len() < MIN_FRAME {
            return Err(Reason::Runt);
        }
        let mut l3 = MIN_FRAME;
        while is_tpid(word(frame, l3 - 2)) {
            l3 += 4;
            if l3 > frame.len() {
                return Err(Reason::GsoLength);
            }
        }
        let ip = match word(frame, l3 - 2) {
            ipv4::ETHERTYPE => Ip::parse_v4(frame, l3)?,
            ipv6::ETHERTYPE => Ip::parse_v6(frame, l3)?,
            _ => return Err(Reason::GsoProtocol),
        };
        let v6 = matches!(ip.version, Version::V6);
        let transport = match (kind, ip.version, ip.protocol) {
            (GsoKind::Tcp4, Version::V4, tcp::PROTOCOL) | (GsoKind::Tcp6, Version::V6, tcp::PROTOCOL) => {
                Transport::Tcp
            }
            (GsoKind::Udp, _, udp::PROTOCOL) => Transport::Udp,
            // gso_type describes the innermost packet.
            (_, _, udp::PROTOCOL | IPPROTO_IPIP | IPPROTO_IPV6 | IPPROTO_GRE) => {
                return Err(Reason::GsoTunnel);
            }
            (_, _, tcp::PROTOCOL) => return Err(Reason::GsoType),
            _ => return Err(Reason::GsoProtocol),
        };
        let l4 = ip.l4;
        let (payload, field) = match transport {
            Transport::Tcp => (tcp_payload(frame, l4)?, tcp::CHECKSUM),
            Transport::Udp => (udp_payload(frame, l4)?, udp::CHECKSUM),
        };
        let pseudo = if ip.routed {
            // The pseudo-header has the final destination (RFC 8200 8.1), which the header has not
            // yet; but its sum is in the checksum field, where the kernel left it for hardware.
            if request != Some(Checksum { start: l4, offset: field }) {
                return Err(Reason::GsoProtocol);
            }
            let mut sum = Sum::default();
            sum.add_word(word(frame, l4 + field));
            sum.add_word(!((frame.len() - l4) as u16));
            sum
        } else {
            Sum::pseudo(&frame[ip.addresses.0..ip.addresses.1], ip.protocol)
        };
        Ok(Self { l3, v6, l4, transport, payload, pseudo })
    }
}

#[derive(Clone, Copy)]
enum Version {
    V4,
    V6,
}

/// What an IP header says; all offsets are within the frame.
struct Ip {
    version: Version,
    protocol: u8,
    l4: usize,
    /// Source and destination, start and end.
    addresses: (usize, usize),
    /// A routing header has segments left.
    routed: bool,
}

impl Ip {
    fn parse_v4(frame: &[u8], l3: usize) -> Result<Self, Reason> {
        if frame.len() < l3 + ipv4::HEADER || frame[l3] >> 4 != 4 {
            return Err(Reason::GsoLength);
        }
        let l4 = l3 + usize::from(frame[l3] & 0x0f) * 4;
        // Above 65,535 the kernel writes 0 (BIG TCP).
        let total = match usize::from(word(frame, l3 + ipv4::TOTAL_LEN)) {
            0 => frame.len() - l3,
            total => total,
        };
        if l4 < l3 + ipv4::HEADER || l4 > frame.len() || l3 + total != frame.len() {
            return Err(Reason::GsoLength);
        }
        if word(frame, l3 + ipv4::FRAGMENT) & (ipv4::MORE_FRAGMENTS | ipv4::FRAGMENT_OFFSET) != 0 {
            return Err(Reason::GsoUnsplittable);
        }
        Ok(Self {
            version: Version::V4,
            protocol: frame[l3 + ipv4::PROTOCOL],
            l4,
            addresses: (l3 + ipv4::ADDRESSES, l3 + ipv4::HEADER),
            routed: false,
        })
    }

    fn parse_v6(frame: &[u8], l3: usize) -> Result<Self, Reason> {
        let header_end = l3 + ipv6::HEADER;
        if frame.len() < header_end || frame[l3] >> 4 != 6 {
            return Err(Reason::GsoLength);
        }
        if header_end + usize::from(word(frame, l3 + ipv6::PAYLOAD_LEN)) != frame.len() {
            return Err(Reason::GsoLength);
        }
        let mut protocol = frame[l3 + ipv6::NEXT_HEADER];
        let mut l4 = header_end;
        let mut routed = false;
        // Each of them is at least eight bytes long, so the frame's end ends the walk.
        while let ipv6::HOP_BY_HOP | ipv6::ROUTING | ipv6::DESTINATION = protocol {
            let extension = frame.get(l4..l4 + 8).ok_or(Reason::GsoLength)?;
            routed |= protocol == ipv6::ROUTING && extension[3] != 0;
            protocol = extension[0];
            l4 += (usize::from(extension[1]) + 1) * 8;
        }
        if protocol == ipv6::FRAGMENT {
            return Err(Reason::GsoUnsplittable);
        }
        let addresses = (l3 + ipv6::ADDRESSES, header_end);
        Ok(Self { version: Version::V6, protocol, l4, addresses, routed })
    }
}

fn tcp_payload(frame: &[u8], l4: usize) -> Result<usize, Reason> {
    if l4 + tcp::HEADER > frame.len() {
        return Err(Reason::GsoLength);
    }
    let payload = l4 + usize::from(frame[l4 + tcp::DATA_OFFSET] >> 4) * 4;
    if payload < l4 + tcp::HEADER || payload > frame.len() {
        return Err(Reason::GsoLength);
    }
    if frame[l4 + tcp::FLAGS] & (tcp::SYN | tcp::RST) != 0 {
        return Err(Reason::GsoUnsplittable);
    }
    Ok(payload)
}

fn udp_payload(frame: &[u8], l4: usize) -> Result<usize, Reason> {
    if l4 + udp::HEADER > frame.len() || usize::from(word(frame, l4 + udp::LEN)) != frame.len() - l4 {
        return Err(Reason::GsoLength);
    }
    Ok(l4 + udp::HEADER)
}

/// `at + 2` is within `bytes`.
fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn put(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// gso_size of frames whose segments have different lengths, linux/skbuff.h.
const GSO_BY_FRAGS: u16 = 0xffff;
const IPPROTO_IPIP: u8 = 4;
const IPPROTO_IPV6: u8 = 41;
const IPPROTO_GRE: u8 = 47;

/// RFC 791.
mod ipv4 {
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
mod ipv6 {
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
mod tcp {
    pub const PROTOCOL: u8 = 6;
    pub const HEADER: usize = 20;
    pub const SEQ: usize = 4;
    pub const DATA_OFFSET: usize = 12;
    pub const FLAGS: usize = 13;
    pub const CHECKSUM: usize = 16;
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const PSH: u8 = 0x08;
    pub const CWR: u8 = 0x80;
}

/// RFC 768.
mod udp {
    pub const PROTOCOL: u8 = 17;
    pub const HEADER: usize = 8;
    pub const LEN: usize = 4;
    pub const CHECKSUM: usize = 6;
}

#[cfg(test)]
#[path = "segment_tests.rs"]
mod tests;
