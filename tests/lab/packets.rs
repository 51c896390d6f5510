//! TCP and UDP by hand: packets to send and packets seen, with the virtio_net_hdr that tells what is
//! still to be done to them. Written from RFCs 791, 768, 8200, 9293 and OASIS virtio 1.2 (5.1.6) alone,
//! sharing nothing with the program under test.

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

pub const NEEDS_CSUM: u8 = 1;
pub const GSO_NONE: u8 = 0;
pub const GSO_TCPV4: u8 = 1;
pub const GSO_TCPV6: u8 = 4;
pub const GSO_UDP_L4: u8 = 5;
pub const GSO_ECN: u8 = 0x80;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const CWR: u8 = 0x80;

/// struct virtio_net_hdr.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Vnet {
    pub flags: u8,
    pub gso_type: u8,
    pub hdr_len: u16,
    pub gso_size: u16,
    pub csum_start: u16,
    pub csum_offset: u16,
}

impl Vnet {
    pub const LEN: usize = 10;

    /// Little endian, as on the wire.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        Self {
            flags: bytes[0],
            gso_type: bytes[1],
            hdr_len: half(2),
            gso_size: half(4),
            csum_start: half(6),
            csum_offset: half(8),
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.flags, self.gso_type];
        for half in [self.hdr_len, self.gso_size, self.csum_start, self.csum_offset] {
            bytes.extend(half.to_le_bytes());
        }
        bytes
    }

    /// As a packet socket has it: in the machine's byte order.
    pub fn from_native(bytes: &[u8]) -> Self {
        let mut bytes = bytes.to_vec();
        swap_on_big_endian(&mut bytes);
        Self::from_bytes(&bytes)
    }

    pub fn native(&self) -> Vec<u8> {
        let mut bytes = self.bytes();
        swap_on_big_endian(&mut bytes);
        bytes
    }

    /// A message of `etherws.vnet1`.
    pub fn message(&self, frame: &[u8]) -> Vec<u8> {
        [&self.bytes(), frame].concat()
    }

    pub fn is_super(&self) -> bool {
        self.gso_type != GSO_NONE
    }
}

/// What to build: a frame whose checksum is partial, and its header.
#[derive(Clone, Debug)]
pub struct Build<'a> {
    pub dst: [u8; 6],
    pub src: [u8; 6],
    /// (TPID, TCI), outermost first.
    pub tags: &'a [(u16, u16)],
    pub v6: bool,
    pub protocol: u8,
    pub payload: &'a [u8],
    /// Bytes of payload in each segment; 0: not a super-frame.
    pub gso_size: u16,
    pub tcp_flags: u8,
}

impl Default for Build<'_> {
    fn default() -> Self {
        Self {
            dst: super::frames::BROADCAST,
            src: super::frames::mac(1),
            tags: &[],
            v6: false,
            protocol: TCP,
            payload: &[],
            gso_size: 0,
            tcp_flags: ACK,
        }
    }
}

impl Build<'_> {
    pub fn build(&self) -> (Vnet, Vec<u8>) {
        let l4_header = if self.protocol == TCP { 20 } else { 8 };
        let l4_len = l4_header + self.payload.len();
        let mut frame = [self.dst, self.src].concat();
        for (tpid, tci) in self.tags {
            frame.extend(tpid.to_be_bytes());
            frame.extend(tci.to_be_bytes());
        }
        frame.extend(if self.v6 { [0x86, 0xdd] } else { [8, 0] });
        let l3 = frame.len();
        if self.v6 {
            frame.extend([0x60, 0, 0, 0]);
            frame.extend((l4_len as u16).to_be_bytes());
            frame.extend([self.protocol, 64]);
            for last in [1, 2] {
                frame.extend([0xfd, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
            }
        } else {
            frame.extend([0x45, 0]);
            frame.extend((20 + l4_len as u16).to_be_bytes());
            frame.extend([0x12, 0x34, 0x40, 0, 64, self.protocol, 0, 0, 10, 9, 0, 1, 10, 9, 0, 2]);
            let checksum = !sum(&[&frame[l3..]]);
            frame[l3 + 10..l3 + 12].copy_from_slice(&checksum.to_be_bytes());
        }
        let l4 = frame.len();
        frame.extend([0x30, 0x39, 0, 9]); // ports 12345, 9
        if self.protocol == TCP {
            frame.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, self.tcp_flags, 0xff, 0xff, 0, 0, 0, 0]);
        } else {
            frame.extend((l4_len as u16).to_be_bytes());
            frame.extend([0, 0]);
        }
        frame.extend(self.payload);
        let offset = checksum_offset(self.protocol);
        let pseudo = pseudo_sum(&frame, l3, self.v6, self.protocol, l4_len);
        frame[l4 + offset..l4 + offset + 2].copy_from_slice(&pseudo.to_be_bytes());
        let gso_type = match (self.gso_size, self.protocol, self.v6) {
            (0, ..) => GSO_NONE,
            (_, UDP, _) => GSO_UDP_L4,
            (_, _, false) => GSO_TCPV4,
            (_, _, true) => GSO_TCPV6,
        };
        let vnet = Vnet {
            flags: NEEDS_CSUM,
            gso_type,
            hdr_len: if self.gso_size == 0 { 0 } else { (l4 + l4_header) as u16 },
            gso_size: self.gso_size,
            csum_start: l4 as u16,
            csum_offset: offset as u16,
        };
        (vnet, frame)
    }

    pub fn message(&self) -> Vec<u8> {
        let (vnet, frame) = self.build();
        vnet.message(&frame)
    }
}

/// Does what a header without GSO asks for.
pub fn finish(vnet: &Vnet, frame: &mut [u8]) {
    let start = usize::from(vnet.csum_start);
    let checksum = !sum(&[&frame[start..]]);
    let field = start + usize::from(vnet.csum_offset);
    frame[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// A TCP or UDP packet as it was seen on a device.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    pub vnet: Vnet,
    /// The tag that the kernel took out of `frame`.
    pub tag: Option<(u16, u16)>,
    pub frame: &'a [u8],
    pub v6: bool,
    pub protocol: u8,
    pub l3: usize,
    pub l4: usize,
    /// End of the packet by its IP length; the frame may be padded behind it.
    pub end: usize,
}

impl<'a> Packet<'a> {
    /// `None`: not an unfragmented TCP or UDP packet whose headers lie within the frame.
    pub fn parse(vnet: Vnet, tag: Option<(u16, u16)>, frame: &'a [u8]) -> Option<Self> {
        let mut l3 = 14;
        while matches!(half(frame, l3 - 2)?, 0x8100 | 0x88a8) {
            l3 += 4;
        }
        let v6 = match half(frame, l3 - 2)? {
            0x0800 if frame.get(l3)? >> 4 == 4 => false,
            0x86dd if frame.get(l3)? >> 4 == 6 => true,
            _ => return None,
        };
        let (protocol, l4, end) = if v6 {
            let (mut next, mut at) = (*frame.get(l3 + 6)?, l3 + 40);
            while matches!(next, 0 | 43 | 60) {
                let extension = frame.get(at..at + 2)?;
                (next, at) = (extension[0], at + 8 + usize::from(extension[1]) * 8);
            }
            (next, at, l3 + 40 + usize::from(half(frame, l3 + 4)?))
        } else {
            let options = frame[l3] & 15;
            if options < 5 || half(frame, l3 + 6)? & 0x3fff != 0 {
                return None;
            }
            (*frame.get(l3 + 9)?, l3 + usize::from(options) * 4, l3 + usize::from(half(frame, l3 + 2)?))
        };
        let header = match protocol {
            TCP => 20.max(usize::from(frame.get(l4 + 12)? >> 4) * 4),
            UDP => 8,
            _ => return None,
        };
        let fits = l4 + header <= end && end <= frame.len();
        fits.then_some(Self { vnet, tag, frame, v6, protocol, l3, l4, end })
    }

    pub fn payload(&self) -> &'a [u8] {
        let header = if self.protocol == TCP { usize::from(self.frame[self.l4 + 12] >> 4) * 4 } else { 8 };
        &self.frame[self.l4 + header..self.end]
    }

    /// The datagrams of a UDP super-frame, or the one of a plain frame.
    pub fn pieces(&self) -> impl Iterator<Item = &'a [u8]> {
        let size = if self.vnet.is_super() { usize::from(self.vnet.gso_size) } else { usize::MAX };
        self.payload().chunks(size.max(1))
    }

    pub fn port(&self) -> u16 {
        half(self.frame, self.l4 + 2).expect("parsed")
    }

    pub fn seq(&self) -> u32 {
        u32::from_be_bytes(*self.frame[self.l4 + 4..].first_chunk().expect("parsed"))
    }

    pub fn is_syn(&self) -> bool {
        self.frame[self.l4 + 13] & SYN != 0
    }

    /// The IP header's ECN field, RFC 3168.
    pub fn ecn(&self) -> u8 {
        let traffic_class = half(self.frame, self.l3).expect("parsed") >> if self.v6 { 4 } else { 0 };
        (traffic_class & 3) as u8
    }

    /// Length of the packet, or of the longest it becomes when it is split, as an MTU counts.
    pub fn longest(&self) -> usize {
        let (len, payload) = (self.end - self.l3, self.payload().len());
        match self.vnet.is_super() {
            true => len - payload + payload.min(self.vnet.gso_size.into()),
            false => len,
        }
    }

    /// What is wrong with it: every checksum must be valid, or asked for so that completing it makes it so,
    /// and the headers must agree with what is asked.
    pub fn check(&self) -> Result<(), String> {
        if !self.v6
            && sum(&[&self.frame[self.l3..self.l3 + usize::from(self.frame[self.l3] & 15) * 4]]) != 0xffff
        {
            return Err("IPv4 header checksum".into());
        }
        let l4 = &self.frame[self.l4..self.end];
        let pseudo = pseudo_sum(self.frame, self.l3, self.v6, self.protocol, l4.len());
        if self.protocol == UDP && usize::from(half(l4, 4).expect("parsed")) != l4.len() {
            return Err("UDP length".into());
        }
        if self.vnet.flags & NEEDS_CSUM == 0 {
            return match sum(&[&pseudo.to_be_bytes(), l4]) {
                _ if self.vnet.is_super() => Err("a super-frame without a checksum request".into()),
                0xffff => Ok(()),
                _ => Err("checksum".into()),
            };
        }
        self.check_request()?;
        let field = half(l4, checksum_offset(self.protocol)).expect("parsed");
        match field % 0xffff == pseudo % 0xffff {
            true => Ok(()),
            false => Err(format!("{field:#06x} is not the pseudo-header's sum {pseudo:#06x}")),
        }
    }

    /// What is wrong with the header's requests: a checksum at L4 and nowhere else, a GSO type that is what
    /// the headers say.
    pub fn check_request(&self) -> Result<(), String> {
        let vnet = self.vnet;
        let asked = (usize::from(vnet.csum_start), usize::from(vnet.csum_offset));
        if vnet.flags & NEEDS_CSUM != 0 && asked != (self.l4, checksum_offset(self.protocol)) {
            return Err(format!("a checksum is asked for at {asked:?}, L4 is at {}", self.l4));
        }
        if !vnet.is_super() {
            return Ok(());
        }
        let (gso_type, payload) = (vnet.gso_type & !GSO_ECN, self.payload().len());
        let right = match (self.protocol, self.v6) {
            (UDP, _) => GSO_UDP_L4,
            (_, false) => GSO_TCPV4,
            (_, true) => GSO_TCPV6,
        };
        if vnet.flags & NEEDS_CSUM == 0 {
            return Err("a super-frame without a checksum request".into());
        }
        if gso_type != right {
            return Err(format!("gso_type {gso_type}, not {right}"));
        }
        if self.protocol == TCP && (self.frame[self.l4 + 13] & CWR != 0) != (vnet.gso_type & GSO_ECN != 0) {
            return Err("GSO_ECN and CWR differ".into());
        }
        if vnet.gso_size == 0 || payload == 0 || self.end != self.frame.len() {
            return Err(format!(
                "gso_size {} for {payload} bytes, {} behind",
                vnet.gso_size,
                self.frame.len() - self.end
            ));
        }
        Ok(())
    }
}

fn swap_on_big_endian(header: &mut [u8]) {
    if cfg!(target_endian = "big") {
        header[2..].chunks_mut(2).for_each(|pair| pair.swap(0, 1));
    }
}

fn checksum_offset(protocol: u8) -> usize {
    if protocol == TCP { 16 } else { 6 }
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
}

/// RFC 793 3.1, RFC 768, RFC 8200 8.1.
fn pseudo_sum(frame: &[u8], l3: usize, v6: bool, protocol: u8, l4_len: usize) -> u16 {
    let addresses = if v6 { l3 + 8..l3 + 40 } else { l3 + 12..l3 + 20 };
    sum(&[&frame[addresses], &[0, protocol], &(l4_len as u32).to_be_bytes()])
}

/// The sum of RFC 1071, not complemented. All parts but the last have an even length.
fn sum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u64;
    for part in parts {
        let words = part.chunks_exact(4);
        let rest = words.remainder();
        sum += words
            .map(|word| u64::from(u32::from_be_bytes([word[0], word[1], word[2], word[3]])))
            .sum::<u64>();
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        sum += u64::from(u32::from_be_bytes(last));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
