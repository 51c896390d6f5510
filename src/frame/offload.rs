//! Work that the kernel left for hardware: checksums to complete and super-frames to split, as told
//! by the virtio_net_hdr in front of a frame (OASIS virtio 1.2, 5.1.6; linux/virtio_net.h), and VLAN
//! tags taken out of it.
//!
//! A [`VnetHeader`] is bytes somebody sent; an [`Unfinished`] is what we found in the frame ourselves.
//! The header says what is wanted, the frame's own headers say where: at ingress they have to agree,
//! and at egress a new header is written from what was found. So no kernel and no peer ever gets
//! a header that another peer wrote. hdr_len is a hint that nobody here believes.

use super::checksum::Sum;
use super::eth::{MAX_FRAME, MIN_FRAME, Tag};
pub use super::packet::Reason;
use super::packet::{Packet, Transport, tcp};

/// struct virtio_net_hdr, linux/virtio_net.h, without num_buffers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VnetHeader {
    pub flags: u8,
    pub gso_type: u8,
    pub hdr_len: u16,
    pub gso_size: u16,
    pub csum_start: u16,
    pub csum_offset: u16,
}

impl VnetHeader {
    pub const LEN: usize = 10;

    /// As AF_PACKET gives it: in the machine's byte order.
    pub fn from_native(bytes: [u8; Self::LEN]) -> Self {
        Self::parse(bytes, u16::from_ne_bytes)
    }

    /// As a TAP with TUNSETVNETLE gives it, and a peer.
    pub fn from_little_endian(bytes: [u8; Self::LEN]) -> Self {
        Self::parse(bytes, u16::from_le_bytes)
    }

    pub fn to_native(self) -> [u8; Self::LEN] {
        self.write(u16::to_ne_bytes)
    }

    pub fn to_little_endian(self) -> [u8; Self::LEN] {
        self.write(u16::to_le_bytes)
    }

    /// The same for the frame after [`insert_tag`], which moves everything back by four bytes.
    pub fn behind_tag(self) -> Self {
        // 65,535 is in no frame's headers: refused like what it was.
        Self { csum_start: self.csum_start.saturating_add(Tag::LEN as u16), ..self }
    }

    fn parse(bytes: [u8; Self::LEN], word: fn([u8; 2]) -> u16) -> Self {
        let [flags, gso_type, a, b, c, d, e, f, g, h] = bytes;
        Self {
            flags,
            gso_type,
            hdr_len: word([a, b]),
            gso_size: word([c, d]),
            csum_start: word([e, f]),
            csum_offset: word([g, h]),
        }
    }

    fn write(self, word: fn(u16) -> [u8; 2]) -> [u8; Self::LEN] {
        let ([a, b], [c, d]) = (word(self.hdr_len), word(self.gso_size));
        let ([e, f], [g, h]) = (word(self.csum_start), word(self.csum_offset));
        [self.flags, self.gso_type, a, b, c, d, e, f, g, h]
    }

    /// Whether a checksum is to be completed. DATA_VALID asks for nothing.
    fn needs_checksum(&self) -> Result<bool, Reason> {
        if self.flags & !(VIRTIO_NET_HDR_F_NEEDS_CSUM | VIRTIO_NET_HDR_F_DATA_VALID) != 0 {
            return Err(Reason::VnetFlags);
        }
        Ok(self.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM != 0)
    }

    /// IP version (`None`: either) and transport of a super-frame; `None` for an ordinary frame.
    fn gso(&self) -> Result<Option<(Option<bool>, Transport)>, Reason> {
        if self.gso_type & (VIRTIO_NET_HDR_GSO_UDP_TUNNEL_IPV4 | VIRTIO_NET_HDR_GSO_UDP_TUNNEL_IPV6) != 0 {
            return Err(Reason::OffloadTunnel);
        }
        // ECN says that CWR may be set; we look at the flag itself.
        match (self.gso_type & !VIRTIO_NET_HDR_GSO_ECN, self.gso_type & VIRTIO_NET_HDR_GSO_ECN != 0) {
            (VIRTIO_NET_HDR_GSO_NONE, false) => Ok(None),
            (VIRTIO_NET_HDR_GSO_TCPV4, _) => Ok(Some((Some(false), Transport::Tcp))),
            (VIRTIO_NET_HDR_GSO_TCPV6, _) => Ok(Some((Some(true), Transport::Tcp))),
            (VIRTIO_NET_HDR_GSO_UDP_L4, false) => Ok(Some((None, Transport::Udp))),
            (VIRTIO_NET_HDR_GSO_NONE | VIRTIO_NET_HDR_GSO_UDP_L4, true) => Err(Reason::GsoType),
            (VIRTIO_NET_HDR_GSO_UDP, _) => Err(Reason::GsoUfo),
            _ => Err(Reason::GsoUnknown),
        }
    }

    /// The frame is finished, and nothing else is said of it.
    pub fn asks_nothing(&self) -> bool {
        self.flags & !VIRTIO_NET_HDR_F_DATA_VALID == 0 && self.gso_type == VIRTIO_NET_HDR_GSO_NONE
    }

    /// `Ok` when it asks for the checksum of `packet`'s own transport.
    fn asks_for(&self, packet: &Packet) -> Result<(), Reason> {
        if usize::from(self.csum_start) != packet.l4 {
            return Err(Reason::ChecksumStart);
        }
        if usize::from(self.csum_offset) != packet.transport.checksum() {
            return Err(Reason::ChecksumOffset);
        }
        Ok(())
    }
}

/// What is still to be done to a frame, as we parsed it. Its offsets are within the frame that it was
/// made of, or made for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unfinished {
    /// The IP header.
    pub(super) l3: u16,
    /// The TCP or UDP header, whose checksum field has the pseudo-header's sum alone.
    pub(super) l4: u16,
    pub(super) payload: u16,
    /// Bytes of payload in each segment but the last, which has fewer than the whole; 0: the frame
    /// is one segment.
    pub(super) gso_size: u16,
    /// Sum of the pseudo-header without its length.
    pub(super) pseudo: u16,
    pub(super) v6: bool,
    pub(super) transport: Transport,
    /// TCP's CWR flag is set, and is for the first segment.
    pub(super) cwr: bool,
    /// It is set, and is for all (AccECN), which virtio_net_hdr cannot say.
    pub(super) cwr_in_all: bool,
}

/// What a frame is when it comes in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrived {
    /// As on a cable.
    Finished,
    /// May go on as it is, with [`Unfinished::header`], or be finished by `Segments`.
    Unfinished(Unfinished),
    /// May not go on as it is: to be finished by `Segments` here.
    Split(Unfinished),
}

impl Unfinished {
    /// Reads what this host's kernel says of `frame`, its tag put back. The checksum of a packet inside
    /// another one is completed at once, in the frame. Nothing that a kernel does is refused for sizes;
    /// what is refused is a super-frame that is in a tunnel or contradicts itself.
    pub fn from_kernel(frame: &mut [u8], header: &VnetHeader) -> Result<Arrived, Reason> {
        let len = frame.len();
        if len < MIN_FRAME {
            return Err(Reason::Runt);
        }
        let needs_checksum = header.needs_checksum()?;
        let Some(kind) = header.gso()? else {
            if !needs_checksum {
                return Ok(Arrived::Finished);
            }
            if let Ok(packet) = Packet::parse(frame, len)
                && header.asks_for(&packet).is_ok()
                && !packet.big
                && let Some(unfinished) = Self::new(&packet, frame, len, &VnetHeader::default())
                && unfinished.may_go_whole(len)
            {
                return Ok(Arrived::Unfinished(unfinished));
            }
            complete_checksum(frame, header.csum_start.into(), header.csum_offset.into())?;
            return Ok(Arrived::Finished);
        };
        if matches!(header.gso_size, 0 | GSO_BY_FRAGS) {
            return Err(Reason::GsoSize);
        }
        let packet = Packet::parse(frame, len)?;
        // gso_type describes the innermost packet: UDP around TCP is a tunnel.
        agree(kind, &packet).map_err(|reason| match packet.transport {
            Transport::Udp => Reason::OffloadTunnel,
            Transport::Tcp => reason,
        })?;
        splittable(&packet, frame)?;
        // UDP around UDP is one too.
        if needs_checksum && header.asks_for(&packet).is_err() {
            return Err(Reason::OffloadTunnel);
        }
        // Each segment has all of them.
        if packet.payload > HEAD {
            return Err(Reason::OffloadHeaders);
        }
        let mut unfinished = Self::new(&packet, frame, len, header).ok_or(Reason::OffloadHeaders)?;
        if !needs_checksum {
            unfinished.pseudo = packet.pseudo(frame).ok_or(Reason::OffloadProtocol)?;
        }
        if unfinished.count(len) > MAX_SEGMENTS {
            return Err(Reason::GsoSegments);
        }
        // Otherwise the lengths of the segments would not fit 16 bits.
        if unfinished.longest(len) - packet.l3 > usize::from(u16::MAX) + if packet.v6 { 40 } else { 0 } {
            return Err(Reason::OffloadLength);
        }
        let whole = needs_checksum && !packet.big && unfinished.may_go_whole(len);
        Ok(if whole { Arrived::Unfinished(unfinished) } else { Arrived::Split(unfinished) })
    }

    /// Reads what a peer says of a frame of `len` bytes. `head` is its start, [`HEAD`] bytes or all of
    /// it. Whatever a kernel might stumble over is refused by name; what is only unreasonable is to be
    /// split.
    pub fn from_peer(head: &[u8], len: usize, header: &VnetHeader) -> Result<Arrived, Reason> {
        if len < MIN_FRAME {
            return Err(Reason::Runt);
        }
        if len > MAX_FRAME {
            return Err(Reason::Oversize);
        }
        let needs_checksum = header.needs_checksum()?;
        let gso = header.gso()?;
        match gso {
            None if !needs_checksum => return Ok(Arrived::Finished),
            None => (),
            Some(_) if !needs_checksum => return Err(Reason::GsoNoChecksum),
            Some(_) if !(PEER_MIN_GSO_SIZE..GSO_BY_FRAGS).contains(&header.gso_size) => {
                return Err(Reason::GsoSize);
            }
            Some(_) => (),
        }
        let packet = Packet::parse(head, len)?;
        if packet.big {
            return Err(Reason::OffloadLength);
        }
        if let Some(kind) = gso {
            agree(kind, &packet)?;
            splittable(&packet, head)?;
        }
        header.asks_for(&packet)?;
        // Without a GSO type its size says nothing.
        let header = if gso.is_some() { header } else { &VnetHeader::default() };
        let unfinished = Self::new(&packet, head, len, header).ok_or(Reason::OffloadHeaders)?;
        if unfinished.count(len) > PEER_MAX_SEGMENTS {
            return Err(Reason::GsoSegments);
        }
        let whole = unfinished.may_go_whole(len);
        Ok(if whole { Arrived::Unfinished(unfinished) } else { Arrived::Split(unfinished) })
    }

    /// More than one segment.
    pub fn is_super(&self) -> bool {
        self.gso_size != 0
    }

    /// A super-frame of UDP, which a kernel before 6.2 does not take.
    pub fn is_super_udp(&self) -> bool {
        self.is_super() && self.transport == Transport::Udp
    }

    /// What to write in front of the frame for a kernel or a peer. `shift`: the bytes that egress adds
    /// in front of the IP header; 4 for a tag more, -4 for one less.
    pub fn header(&self, shift: isize) -> VnetHeader {
        let shifted = |offset: u16| offset.wrapping_add_signed(shift as i16);
        let kind = match (self.is_super(), self.transport, self.v6) {
            (false, ..) => VIRTIO_NET_HDR_GSO_NONE,
            (true, Transport::Udp, _) => VIRTIO_NET_HDR_GSO_UDP_L4,
            (true, Transport::Tcp, false) => VIRTIO_NET_HDR_GSO_TCPV4,
            (true, Transport::Tcp, true) => VIRTIO_NET_HDR_GSO_TCPV6,
        };
        let ecn = if self.is_super() && self.cwr { VIRTIO_NET_HDR_GSO_ECN } else { 0 };
        VnetHeader {
            flags: VIRTIO_NET_HDR_F_NEEDS_CSUM,
            gso_type: kind | ecn,
            hdr_len: shifted(self.payload),
            gso_size: self.gso_size,
            csum_start: shifted(self.l4),
            csum_offset: self.transport.checksum() as u16,
        }
    }

    /// Length of the longest frame that a frame of `len` bytes becomes: what an egress compares with
    /// its MTU (plus 14 and tags).
    pub fn longest(&self, len: usize) -> usize {
        if self.is_super() { len.min(usize::from(self.payload) + usize::from(self.gso_size)) } else { len }
    }

    /// How many frames a frame of `len` bytes becomes.
    pub fn count(&self, len: usize) -> usize {
        if !self.is_super() {
            return 1;
        }
        len.saturating_sub(self.payload.into()).div_ceil(self.gso_size.into()).max(1)
    }

    /// The bytes of those.
    pub fn bytes(&self, len: usize) -> usize {
        len + (self.count(len) - 1) * usize::from(self.payload)
    }

    /// `packet` as found in a frame of `len` bytes, with the pseudo-header that was left in its
    /// checksum field. `None` when its headers are longer than any.
    fn new(packet: &Packet, head: &[u8], len: usize, header: &VnetHeader) -> Option<Self> {
        let gso_size = header.gso_size;
        let ecn = header.gso_type & VIRTIO_NET_HDR_GSO_ECN != 0;
        let offset = |offset: usize| u16::try_from(offset).ok();
        // What fits one segment is one, as for the kernel (linux/virtio_net.h).
        let one = len - packet.payload <= usize::from(gso_size);
        let cwr = !one && gso_size != 0 && packet.has_tcp_flag(head, tcp::CWR);
        Some(Self {
            l3: offset(packet.l3)?,
            l4: offset(packet.l4)?,
            payload: offset(packet.payload)?,
            gso_size: if one { 0 } else { gso_size },
            pseudo: packet.left_in_field(head, len),
            v6: packet.v6,
            transport: packet.transport,
            cwr: cwr && ecn,
            cwr_in_all: cwr && !ecn,
        })
    }

    /// A kernel and every peer takes a frame of `len` bytes with this still to be done.
    fn may_go_whole(&self, len: usize) -> bool {
        // Another tag may come in front on its way.
        let readable = usize::from(self.payload) <= HEAD - 2 * Tag::LEN
            && usize::from(self.l3) <= MIN_FRAME + 2 * Tag::LEN;
        let most = match self.transport {
            Transport::Tcp => WHOLE_MAX_SEGMENTS,
            Transport::Udp => WHOLE_MAX_DATAGRAMS,
        };
        let ordinary = self.gso_size >= WHOLE_MIN_GSO_SIZE && self.count(len) <= most && !self.cwr_in_all;
        readable && (!self.is_super() || ordinary)
    }
}

fn agree((v6, transport): (Option<bool>, Transport), packet: &Packet) -> Result<(), Reason> {
    let agrees = v6.is_none_or(|v6| v6 == packet.v6) && transport == packet.transport;
    if agrees { Ok(()) } else { Err(Reason::GsoType) }
}

fn splittable(packet: &Packet, head: &[u8]) -> Result<(), Reason> {
    if packet.has_tcp_flag(head, tcp::SYN | tcp::RST) { Err(Reason::GsoSynRst) } else { Ok(()) }
}

/// How much of a peer's frame is looked into.
pub const HEAD: usize = 512;

/// 65,535 bytes in pieces of the smallest MSS that Linux's TCP uses: TCP_MIN_SND_MSS 48 less 40 of
/// options. A kernel never asks for more; somebody who injects frames might.
pub const MAX_SEGMENTS: usize = 8_192;

/// The same for a peer, which has split already what is not to go whole.
pub const PEER_MAX_SEGMENTS: usize = 1_024;

/// The smallest gso_size of a peer.
const PEER_MIN_GSO_SIZE: u16 = 8;

/// What goes whole: pieces of at least this size, and not more of them, of TCP and of UDP
/// (UDP_MAX_SEGMENTS of linux/udp.h before 6.9).
pub(super) const WHOLE_MIN_GSO_SIZE: u16 = 256;
pub const WHOLE_MAX_SEGMENTS: usize = 128;
const WHOLE_MAX_DATAGRAMS: usize = 64;

/// gso_size of frames whose segments have different lengths, linux/skbuff.h.
const GSO_BY_FRAGS: u16 = 0xffff;

/// Completes a partial checksum: the field holds the sum of the pseudo-header, as the kernel left it.
/// A result of 0 becomes 0xffff, which means the same sum and not UDP's "no checksum". Works at any
/// depth, an inner packet of a tunnel included.
pub fn complete_checksum(frame: &mut [u8], csum_start: usize, csum_offset: usize) -> Result<(), Reason> {
    let field = csum_start.checked_add(csum_offset).ok_or(Reason::ChecksumBounds)?;
    let end = field.checked_add(2).filter(|end| *end <= frame.len()).ok_or(Reason::ChecksumBounds)?;
    let mut sum = Sum::default();
    sum.add(&frame[csum_start..]);
    frame[field..end].copy_from_slice(&mangled(sum.checksum()).to_be_bytes());
    Ok(())
}

/// 0xffff for 0: CSUM_MANGLED_0 of the kernel, RFC 768's rule for UDP.
pub(super) fn mangled(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

/// Puts a VLAN tag back into the frame that begins at `buf[4]`: its addresses move into the four
/// bytes in front, and the tagged frame is the whole of `buf`.
pub fn insert_tag(buf: &mut [u8], tag: Tag) -> Result<(), Reason> {
    const ADDRESSES: usize = 12;
    if buf.len() < Tag::LEN + ADDRESSES {
        return Err(Reason::Runt);
    }
    buf.copy_within(Tag::LEN..Tag::LEN + ADDRESSES, 0);
    buf[ADDRESSES..ADDRESSES + Tag::LEN].copy_from_slice(&tag.bytes());
    Ok(())
}

// linux/virtio_net.h; the libc crate has none of them.

/// csum_start and csum_offset are to be used.
pub const VIRTIO_NET_HDR_F_NEEDS_CSUM: u8 = 1;
/// The checksum has been checked.
pub const VIRTIO_NET_HDR_F_DATA_VALID: u8 = 2;
/// The csum fields are about receive coalescing.
pub const VIRTIO_NET_HDR_F_RSC_INFO: u8 = 4;

pub const VIRTIO_NET_HDR_GSO_NONE: u8 = 0;
pub const VIRTIO_NET_HDR_GSO_TCPV4: u8 = 1;
/// UFO.
pub const VIRTIO_NET_HDR_GSO_UDP: u8 = 3;
pub const VIRTIO_NET_HDR_GSO_TCPV6: u8 = 4;
/// USO.
pub const VIRTIO_NET_HDR_GSO_UDP_L4: u8 = 5;
pub const VIRTIO_NET_HDR_GSO_UDP_TUNNEL_IPV4: u8 = 0x20;
pub const VIRTIO_NET_HDR_GSO_UDP_TUNNEL_IPV6: u8 = 0x40;
/// TCP has ECN set: a bit beside the type.
pub const VIRTIO_NET_HDR_GSO_ECN: u8 = 0x80;

#[cfg(test)]
#[path = "offload_tests.rs"]
mod tests;
