//! Work that the kernel left for hardware: checksums to complete and super-frames to split, as told
//! by the virtio_net_hdr in front of a frame (OASIS virtio 1.2, 5.1.6; linux/virtio_net.h), and VLAN
//! tags taken out of it.
//!
//! A [`VnetHeader`] is bytes somebody sent; an [`Offload`] is what we understood of it. hdr_len is a
//! hint that nobody here believes: whoever splits a frame parses it.

use std::fmt;

use super::Tag;
use super::checksum::Sum;

/// Why a frame cannot be finished and is dropped: the name of its counter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// Too short for what has to be done to it.
    Runt,
    /// The checksum field asked for lies outside the frame.
    ChecksumBounds,
    /// A gso_type or flag that is not one we take (RSC, none of the known types).
    GsoUnknown,
    /// UDP fragmentation offload, gone from the kernel since 4.14.
    GsoUfo,
    /// The segments are inside a tunnel (VXLAN, GRE, IP in IP).
    GsoTunnel,
    /// gso_size 0 or 0xffff (GSO_BY_FRAGS).
    GsoSize,
    /// More segments than any kernel asks for.
    GsoSegments,
    /// gso_type says something else than the headers.
    GsoType,
    /// Neither IPv4 nor IPv6 behind the tags, or not a TCP or UDP that we find.
    GsoProtocol,
    /// An IP fragment, or a SYN or RST, cannot be split.
    GsoUnsplittable,
    /// A header ends outside the frame, or contradicts its length.
    GsoLength,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Runt => "runt",
            Self::ChecksumBounds => "checksum-bounds",
            Self::GsoUnknown => "gso-unknown",
            Self::GsoUfo => "gso-ufo",
            Self::GsoTunnel => "gso-tunnel",
            Self::GsoSize => "gso-size",
            Self::GsoSegments => "gso-segments",
            Self::GsoType => "gso-type",
            Self::GsoProtocol => "gso-protocol",
            Self::GsoUnsplittable => "gso-unsplittable",
            Self::GsoLength => "gso-length",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

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

    /// As a TAP with TUNSETVNETLE gives it.
    pub fn from_little_endian(bytes: [u8; Self::LEN]) -> Self {
        Self::parse(bytes, u16::from_le_bytes)
    }

    pub fn to_little_endian(self) -> [u8; Self::LEN] {
        let [a, b] = self.hdr_len.to_le_bytes();
        let [c, d] = self.gso_size.to_le_bytes();
        let [e, f] = self.csum_start.to_le_bytes();
        let [g, h] = self.csum_offset.to_le_bytes();
        [self.flags, self.gso_type, a, b, c, d, e, f, g, h]
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
}

/// What is still to be done to a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Offload {
    pub checksum: Option<Checksum>,
    pub gso: Option<Gso>,
}

/// Sum from `start` to the end of the frame into the two bytes at `start + offset`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Checksum {
    pub start: usize,
    pub offset: usize,
}

/// Split the payload into pieces of `size` bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gso {
    pub kind: GsoKind,
    pub size: u16,
}

/// What gso_type says the frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GsoKind {
    Tcp4,
    Tcp6,
    /// UDP over either IP.
    Udp,
}

impl Offload {
    /// Reads what the kernel says of a frame of its own. Without NEEDS_CSUM the csum fields are not
    /// read; DATA_VALID asks for nothing.
    pub fn from_kernel(header: &VnetHeader) -> Result<Self, Reason> {
        if header.flags & VIRTIO_NET_HDR_F_RSC_INFO != 0 {
            return Err(Reason::GsoUnknown);
        }
        let checksum = (header.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM != 0)
            .then(|| Checksum { start: header.csum_start.into(), offset: header.csum_offset.into() });
        if header.gso_type & (VIRTIO_NET_HDR_GSO_UDP_TUNNEL_IPV4 | VIRTIO_NET_HDR_GSO_UDP_TUNNEL_IPV6) != 0 {
            return Err(Reason::GsoTunnel);
        }
        // ECN says that CWR may be set; we look at the flag itself.
        let kind = match header.gso_type & !VIRTIO_NET_HDR_GSO_ECN {
            VIRTIO_NET_HDR_GSO_NONE => return Ok(Self { checksum, gso: None }),
            VIRTIO_NET_HDR_GSO_TCPV4 => GsoKind::Tcp4,
            VIRTIO_NET_HDR_GSO_TCPV6 => GsoKind::Tcp6,
            VIRTIO_NET_HDR_GSO_UDP_L4 => GsoKind::Udp,
            VIRTIO_NET_HDR_GSO_UDP => return Err(Reason::GsoUfo),
            _ => return Err(Reason::GsoUnknown),
        };
        Ok(Self { checksum, gso: Some(Gso { kind, size: header.gso_size }) })
    }

    /// The same for the frame after [`insert_tag`], which moves everything back by four bytes.
    pub fn behind_tag(self) -> Self {
        let checksum = self.checksum.map(|c| Checksum { start: c.start + Tag::LEN, ..c });
        Self { checksum, ..self }
    }
}

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
mod tests {
    use proptest::prelude::*;

    use super::super::checksum::naive_sum;
    use super::*;

    #[test]
    fn headers_are_read_in_either_byte_order() {
        let header = VnetHeader {
            flags: 1,
            gso_type: 0x81,
            hdr_len: 0x0203,
            gso_size: 0x0405,
            csum_start: 0x0607,
            csum_offset: 0x0809,
        };
        let bytes = [1, 0x81, 3, 2, 5, 4, 7, 6, 9, 8];
        assert_eq!(header.to_little_endian(), bytes);
        assert_eq!(VnetHeader::from_little_endian(bytes), header);
        let mut native = bytes;
        if cfg!(target_endian = "big") {
            native[2..].chunks_mut(2).for_each(|pair| pair.swap(0, 1));
        }
        assert_eq!(VnetHeader::from_native(native), header);
    }

    #[test]
    fn gso_types_are_understood_or_refused_by_name() {
        let read = |flags, gso_type| {
            Offload::from_kernel(&VnetHeader {
                flags,
                gso_type,
                gso_size: 1448,
                csum_start: 34,
                csum_offset: 16,
                ..VnetHeader::default()
            })
        };
        let gso = |kind| Some(Gso { kind, size: 1448 });
        let checksum = Some(Checksum { start: 34, offset: 16 });
        assert_eq!(read(0, 0), Ok(Offload::default()));
        assert_eq!(read(VIRTIO_NET_HDR_F_DATA_VALID, 0), Ok(Offload::default()));
        assert_eq!(read(1, 0), Ok(Offload { checksum, gso: None }));
        assert_eq!(read(1, 0x81), Ok(Offload { checksum, gso: gso(GsoKind::Tcp4) }));
        assert_eq!(read(0, 4), Ok(Offload { checksum: None, gso: gso(GsoKind::Tcp6) }));
        assert_eq!(read(1, 5), Ok(Offload { checksum, gso: gso(GsoKind::Udp) }));
        for (flags, gso_type, reason) in [
            (4, 0, Reason::GsoUnknown),
            (1, 2, Reason::GsoUnknown),
            (1, 3, Reason::GsoUfo),
            (1, 0x21, Reason::GsoTunnel),
            (1, 0x44, Reason::GsoTunnel),
            (1, 0x11, Reason::GsoUnknown),
        ] {
            assert_eq!(read(flags, gso_type), Err(reason), "{flags} {gso_type:#x}");
        }
    }

    #[test]
    fn a_tag_goes_back_where_it_was_and_the_checksum_moves_with_it() {
        let mut buf = *b"....\x01\x02\x03\x04\x05\x06\x11\x12\x13\x14\x15\x16\x08\x00rest";
        insert_tag(&mut buf, Tag { tpid: 0x8100, tci: 0x600a }).unwrap();
        assert_eq!(&buf, b"\x01\x02\x03\x04\x05\x06\x11\x12\x13\x14\x15\x16\x81\x00\x60\x0a\x08\x00rest");
        let offload = Offload { checksum: Some(Checksum { start: 34, offset: 6 }), gso: None };
        assert_eq!(offload.behind_tag().checksum, Some(Checksum { start: 38, offset: 6 }));
        assert_eq!(insert_tag(&mut [0; 15], Tag { tpid: 0x8100, tci: 1 }), Err(Reason::Runt));
    }

    #[test]
    fn a_checksum_outside_the_frame_is_refused() {
        for (start, offset, fits) in [
            (14, 6, true),
            (0, 28, true),
            (0, 29, false),
            (28, 0, true),
            (29, 0, false),
            (30, 0, false),
            (31, 6, false),
            (usize::MAX, 6, false),
            (usize::MAX - 6, 6, false),
        ] {
            let outcome = complete_checksum(&mut [0x55; 30], start, offset);
            assert_eq!(outcome, if fits { Ok(()) } else { Err(Reason::ChecksumBounds) }, "{start} {offset}");
        }
    }

    #[test]
    fn a_checksum_of_zero_becomes_ones() {
        let mut frame = [0xff; 20];
        complete_checksum(&mut frame, 14, 4).unwrap();
        assert_eq!(frame[18..], [0xff, 0xff]);
    }

    proptest! {
        /// With the pseudo-header's sum in the field, the whole sums up to 0xffff afterwards.
        #[test]
        fn completed_checksums_verify(mut frame in prop::collection::vec(any::<u8>(), 60..200), start in 14usize..40, offset in prop::sample::select(vec![6usize, 16]), pseudo in any::<[u8; 12]>()) {
            frame[start + offset..start + offset + 2].copy_from_slice(&naive_sum(&pseudo).to_be_bytes());
            complete_checksum(&mut frame, start, offset).unwrap();
            prop_assert_eq!(naive_sum(&[&pseudo[..], &frame[start..]].concat()), 0xffff);
        }
    }
}
