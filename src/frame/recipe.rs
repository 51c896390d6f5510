//! Frames made part by part, as a kernel would make them, for the tests of what is done to them.

use proptest::prelude::*;

use super::checksum::naive_sum;
use super::offload::*;
use super::packet::put;
use super::segment::Segments;

/// What a super-frame is made of.
#[derive(Clone, Debug)]
pub struct Recipe {
    pub udp: bool,
    pub v6: bool,
    pub tags: Vec<[u8; 4]>,
    /// IPv4 options (a multiple of 4) or IPv6 extension headers as (type, bytes).
    pub ip_options: Vec<u8>,
    pub extensions: Vec<(u8, Vec<u8>)>,
    pub tcp_options: Vec<u8>,
    pub flags: u8,
    pub seq: u32,
    pub id: u16,
    pub addresses: Vec<u8>,
    pub payload: Vec<u8>,
    pub size: u16,
}

/// A frame, and where things are in it.
pub struct Made {
    pub frame: Vec<u8>,
    pub l3: usize,
    pub l4: usize,
    pub payload: usize,
}

impl Recipe {
    pub fn tcp4() -> Self {
        Self {
            udp: false,
            v6: false,
            tags: vec![],
            ip_options: vec![],
            extensions: vec![],
            tcp_options: vec![],
            flags: 0x10,
            seq: 1,
            id: 1,
            addresses: vec![10, 0, 0, 1, 10, 0, 0, 2],
            payload: (0..100).collect(),
            size: 40,
        }
    }

    pub fn make(&self) -> Made {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        self.tags.iter().for_each(|tag| frame.extend(tag));
        frame.extend(if self.v6 { [0x86, 0xdd] } else { [0x08, 0x00] });
        let l3 = frame.len();
        let udp = self.udp;
        let protocol = if udp { 17 } else { 6 };
        let l4_len = self.payload.len() + if udp { 8 } else { 20 + self.tcp_options.len() };
        if self.v6 {
            let extensions: usize = self.extensions.iter().map(|(_, bytes)| bytes.len()).sum();
            frame.extend([0x60, 0, 0, 0]);
            frame.extend(((extensions + l4_len) as u16).to_be_bytes());
            frame.extend([self.extensions.first().map_or(protocol, |(kind, _)| *kind), 64]);
            frame.extend(&self.addresses);
            for (i, (_, bytes)) in self.extensions.iter().enumerate() {
                frame.push(self.extensions.get(i + 1).map_or(protocol, |(kind, _)| *kind));
                frame.extend(&bytes[1..]);
            }
        } else {
            let header = 20 + self.ip_options.len();
            frame.extend([0x40 | (header / 4) as u8, 0]);
            frame.extend(((header + l4_len) as u16).to_be_bytes());
            frame.extend(self.id.to_be_bytes());
            frame.extend([0x40, 0, 64, protocol, 0xde, 0xad]);
            frame.extend(&self.addresses);
            frame.extend(&self.ip_options);
            put(&mut frame, l3 + 10, 0);
            let sum = !naive_sum(&frame[l3..]);
            put(&mut frame, l3 + 10, sum);
        }
        let l4 = frame.len();
        frame.extend([0x12, 0x34, 0x56, 0x78]);
        if udp {
            frame.extend((l4_len as u16).to_be_bytes());
            frame.extend([0xbe, 0xef]);
        } else {
            frame.extend(self.seq.to_be_bytes());
            frame.extend([0, 0, 0, 9, (((20 + self.tcp_options.len()) / 4) << 4) as u8, self.flags]);
            frame.extend([0x20, 0, 0xbe, 0xef, 0, 0]);
            frame.extend(&self.tcp_options);
        }
        let payload = frame.len();
        frame.extend(&self.payload);
        let field = l4 + self.csum_offset();
        put(&mut frame, field, pseudo_sum(&self.addresses, l4_len, protocol));
        Made { frame, l3, l4, payload }
    }

    pub fn csum_offset(&self) -> usize {
        if self.udp { 6 } else { 16 }
    }

    /// As a kernel writes it in front.
    pub fn header(&self, made: &Made) -> VnetHeader {
        let ecn = if self.flags & 0x80 != 0 { 0x80 } else { 0 };
        VnetHeader {
            flags: 1,
            gso_type: if self.udp { 5 } else { ecn | (1 + 3 * u8::from(self.v6)) },
            hdr_len: 0,
            gso_size: self.size,
            csum_start: made.l4 as u16,
            csum_offset: self.csum_offset() as u16,
        }
    }

    pub fn split(&self) -> Vec<Vec<u8>> {
        let mut made = self.make();
        let header = self.header(&made);
        split(&mut made.frame, &header).unwrap()
    }
}

pub fn recipes() -> impl Strategy<Value = Recipe> {
    let kinds = any::<(bool, bool)>();
    let tag = (prop::sample::select(vec![[0x81, 0x00], [0x88, 0xa8]]), any::<[u8; 2]>());
    let extension = (prop::sample::select(vec![0u8, 43, 60]), 0u8..3, any::<u8>());
    (
        (
            kinds,
            prop::collection::vec(tag, 0..4),
            0usize..=10,
            prop::collection::vec(extension, 0..4),
            0usize..=10,
        ),
        (any::<u8>(), any::<u32>(), any::<u16>(), any::<[u8; 32]>()),
        (prop::collection::vec(any::<u8>(), 0..4000), 1u16..2000),
    )
        .prop_map(
            |(
                ((udp, v6), tags, ip_words, extensions, tcp_words),
                (flags, seq, id, addresses),
                (payload, size),
            )| {
                let extensions = extensions.into_iter().map(|(kind, units, fill)| {
                    let mut bytes = vec![fill; usize::from(units + 1) * 8];
                    // No segments left: the destination is the final one.
                    (bytes[1], bytes[3]) = (units, 0);
                    (kind, bytes)
                });
                Recipe {
                    udp,
                    v6,
                    tags: tags.into_iter().map(|([a, b], [c, d])| [a, b, c, d]).collect(),
                    ip_options: vec![1; ip_words * 4],
                    extensions: extensions.collect(),
                    tcp_options: vec![1; tcp_words * 4],
                    flags: flags & !0x06,
                    seq,
                    id,
                    addresses: addresses[..if v6 { 32 } else { 8 }].to_vec(),
                    payload,
                    size,
                }
            },
        )
}

/// What is to be done to `arrived`, may it go whole or not.
pub fn unfinished(arrived: Arrived) -> Unfinished {
    match arrived {
        Arrived::Unfinished(unfinished) | Arrived::Split(unfinished) => unfinished,
        Arrived::Finished => panic!("nothing to do"),
    }
}

pub fn split(frame: &mut [u8], header: &VnetHeader) -> Result<Vec<Vec<u8>>, Reason> {
    Unfinished::from_kernel(frame, header).map(|arrived| pieces(frame, &unfinished(arrived)))
}

pub fn pieces(frame: &[u8], unfinished: &Unfinished) -> Vec<Vec<u8>> {
    let mut segments = Segments::new(frame, unfinished);
    assert_eq!(segments.longest(), unfinished.longest(frame.len()));
    let mut buf = vec![0xa5; segments.longest()];
    let mut pieces = Vec::new();
    let count = segments.remaining();
    while let Some(len) = segments.write_next(&mut buf) {
        pieces.push(buf[..len].to_vec());
    }
    assert_eq!(pieces.len(), count);
    pieces
}

pub fn pseudo_sum(addresses: &[u8], len: usize, protocol: u8) -> u16 {
    naive_sum(&[addresses, &(len as u32).to_be_bytes(), &[0, 0, 0, protocol]].concat())
}

pub fn l4_sum(piece: &[u8], addresses: &[u8], l4: usize, protocol: u8) -> u16 {
    let len = ((piece.len() - l4) as u32).to_be_bytes();
    naive_sum(&[addresses, &len, &[0, 0, 0, protocol], &piece[l4..]].concat())
}
