//! A virtio header and a frame, which come in from a peer and from a kernel; everything that may leave is held against
//! rules written down a second time, in the plainest way.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::AddAssign;

use etherws::frame::MAX_FRAME;
use etherws::frame::coalesce::{Coalescer, Merged};
use etherws::frame::offload::{Arrived, HEAD, MAX_SEGMENTS, PEER_MAX_SEGMENTS, Unfinished, VnetHeader};
use etherws::frame::segment::Segments;

/// How often a case came to what.
#[derive(Clone, Copy, Default, Debug)]
pub struct Outcome {
    pub refused: usize,
    pub finished: usize,
    pub whole: usize,
    pub split: usize,
    pub kernel: usize,
    pub merged: usize,
}

impl AddAssign for Outcome {
    fn add_assign(&mut self, other: Self) {
        self.refused += other.refused;
        self.finished += other.finished;
        self.whole += other.whole;
        self.split += other.split;
        self.kernel += other.kernel;
        self.merged += other.merged;
    }
}

/// The first byte chooses: below 32 a header and a frame as they are, else what one is built of.
pub fn run(data: &[u8]) {
    outcome(data);
}

/// What the case came to.
pub fn outcome(data: &[u8]) -> Outcome {
    let mut input = Input(data);
    let mut outcome = Outcome::default();
    let (frame, header) = if input.byte() < 32 { raw(&mut input) } else { built(&mut input) };
    match Unfinished::from_peer(&frame[..frame.len().min(HEAD)], frame.len(), &header) {
        Err(reason) => {
            assert!(!reason.as_str().is_empty());
            outcome.refused += 1;
        }
        Ok(Arrived::Finished) => outcome.finished += 1,
        Ok(Arrived::Unfinished(unfinished)) => {
            outcome.whole += 1;
            goes_whole(&frame, &unfinished);
            pieces(&frame, &unfinished, 128);
        }
        Ok(Arrived::Split(unfinished)) => {
            outcome.split += 1;
            pieces(&frame, &unfinished, PEER_MAX_SEGMENTS);
        }
    }
    let mut bytes = frame.clone();
    let mut stream = match Unfinished::from_kernel(&mut bytes, &header) {
        Err(_) => vec![frame],
        Ok(Arrived::Finished) => vec![bytes],
        Ok(Arrived::Unfinished(unfinished)) => {
            assert_eq!(bytes, frame, "touched too early");
            outcome.kernel += 1;
            goes_whole(&frame, &unfinished);
            pieces(&frame, &unfinished, 128)
        }
        Ok(Arrived::Split(unfinished)) => {
            assert_eq!(bytes, frame, "touched too early");
            outcome.kernel += 1;
            pieces(&frame, &unfinished, MAX_SEGMENTS)
        }
    };
    mistreat(&mut stream, &mut input);
    outcome.merged += coalesce(&stream, &mut input);
    outcome
}

/// Bytes to make a case of; zeroes behind the end.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn word(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.byte())
    }

    fn header(&mut self) -> VnetHeader {
        VnetHeader::from_little_endian(self.bytes())
    }
}

fn raw(input: &mut Input<'_>) -> (Vec<u8>, VnetHeader) {
    let header = input.header();
    (input.0.to_vec(), header)
}

/// A frame that a kernel might have made, then spoiled a little.
fn built(input: &mut Input<'_>) -> (Vec<u8>, VnetHeader) {
    let (shape, more) = (input.byte(), input.byte());
    let (udp, v6) = (shape & 3 == 3, shape & 4 != 0);
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    for _ in 0..[0, 0, 1, 3][usize::from(shape >> 3 & 3)] {
        frame.extend([0x81, 0, 0, 5]);
    }
    let payload_len = usize::from(input.word()) % if input.byte() == 0 { 60_000 } else { 1_800 };
    let tcp_options = usize::from(more & 3) * 4;
    let protocol = if udp { 17 } else { 6 };
    let l4_len = payload_len + if udp { 8 } else { 20 + tcp_options };
    let l3;
    if v6 {
        frame.extend([0x86, 0xdd]);
        l3 = frame.len();
        let extension = more & 0x0c == 0x0c;
        frame.extend([0x60, 0, 0, 0]);
        frame.extend((l4_len as u16 + if extension { 8 } else { 0 }).to_be_bytes());
        frame.extend([if extension { 60 } else { protocol }, 64]);
        frame.extend([0xfd; 32]);
        if extension {
            frame.extend([protocol, 0, 1, 4, 0, 0, 0, 0]);
        }
    } else {
        frame.extend([8, 0]);
        l3 = frame.len();
        let options = if more & 0x0c == 0x0c { 4 } else { 0 };
        frame.extend([0x45 + options / 4, 0]);
        frame.extend((20 + u16::from(options) + l4_len as u16).to_be_bytes());
        frame.extend(input.bytes::<2>());
        frame.extend([0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend(vec![1; usize::from(options)]);
        let sum = !naive_sum(&frame[l3..]);
        frame[l3 + 10..l3 + 12].copy_from_slice(&sum.to_be_bytes());
    }
    let l4 = frame.len();
    frame.extend([0x12, 0x34, 0, 80]);
    let pseudo =
        naive_sum(&[addresses(&frame, l3), &(l4_len as u32).to_be_bytes(), &[0, 0, 0, protocol]].concat());
    if udp {
        frame.extend((l4_len as u16).to_be_bytes());
    } else {
        frame.extend(input.bytes::<4>());
        frame.extend([0, 0, 0, 9, 0x50 + (more & 3) * 16, 0x10 | input.byte() & 0xc9, 1, 0]);
    }
    frame.extend(pseudo.to_be_bytes());
    if !udp {
        frame.extend([0, 0]);
        frame.extend(vec![1; tcp_options]);
    }
    frame.extend((0..payload_len).map(|i| (i * 31 + i / 251) as u8));

    let gso_size = match input.byte() {
        size @ 0..32 => u16::from(size) * 16,
        _ => 200 + input.word() % 1_000,
    };
    // CWR for the first segment alone, or for all.
    let ecn = if !udp && frame[l4 + 13] & 0x80 != 0 && more & 0x80 == 0 { 0x80 } else { 0 };
    let mut header = VnetHeader {
        flags: 1,
        gso_type: if udp { 5 } else { ecn | (1 + 3 * u8::from(v6)) },
        hdr_len: input.word(),
        gso_size,
        csum_start: l4 as u16,
        csum_offset: if udp { 6 } else { 16 },
    };
    if shape & 0x40 == 0 && more & 0x40 == 0 {
        (header.gso_type, header.gso_size) = (0, 0);
    }
    match input.byte() {
        0..8 => header = input.header(),
        8..16 => header.flags = input.byte() & 7,
        16..24 => header.gso_type = input.byte(),
        24..32 => header.csum_start = input.word() % 100,
        _ => (),
    }
    if input.byte() < 64 {
        for _ in 0..input.byte() % 4 {
            let (at, value) = (usize::from(input.byte()), input.byte());
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
        }
        frame.truncate(frame.len() - usize::from(input.byte() % 16).min(frame.len()));
    }
    (frame, header)
}

/// What a kernel or a peer is given with a frame: within its bounds, no more than it takes, and the
/// same to whoever reads it.
fn goes_whole(frame: &[u8], unfinished: &Unfinished) {
    let header = unfinished.header(0);
    let (start, offset) = (usize::from(header.csum_start), usize::from(header.csum_offset));
    assert_eq!(header.flags, 1);
    assert!(matches!((header.gso_type, offset), (0, 6 | 16) | (1 | 0x81 | 4 | 0x84, 16) | (5, 6)));
    assert!(frame.len() <= MAX_FRAME && start + offset + 2 <= usize::from(header.hdr_len));
    assert!(usize::from(header.hdr_len) <= frame.len().min(HEAD));
    let payload = frame.len() - usize::from(header.hdr_len);
    if unfinished.is_super() {
        let size = usize::from(header.gso_size);
        assert!(header.gso_type != 0 && size >= 256 && payload > size);
        assert!(payload.div_ceil(size) <= if offset == 6 { 64 } else { 128 });
    } else {
        assert_eq!((header.gso_type, header.gso_size), (0, 0));
    }
    let head = &frame[..frame.len().min(HEAD)];
    let again = Ok(Arrived::Unfinished(*unfinished));
    assert_eq!(Unfinished::from_peer(head, frame.len(), &header), again);
    assert_eq!(Unfinished::from_kernel(&mut frame.to_vec(), &header), again);
}

/// Splits, and holds the pieces against the frame.
fn pieces(frame: &[u8], unfinished: &Unfinished, most: usize) -> Vec<Vec<u8>> {
    let mut segments = Segments::new(frame, unfinished);
    let (count, longest) = (segments.remaining(), segments.longest());
    assert!((1..=most).contains(&count), "{count} pieces");
    assert_eq!(count, unfinished.count(frame.len()));
    assert_eq!(longest, unfinished.longest(frame.len()));
    let mut buffer = vec![0xa5; longest];
    let mut pieces = Vec::with_capacity(count);
    while let Some(len) = segments.write_next(&mut buffer) {
        pieces.push(buffer[..len].to_vec());
    }
    assert_eq!(pieces.len(), count);

    let header = unfinished.header(0);
    let (l4, payload) = (usize::from(header.csum_start), usize::from(header.hdr_len));
    let field = l4 + usize::from(header.csum_offset);
    let tcp = header.csum_offset == 16;
    let l3 = network(frame);
    let v4 = frame[l3] >> 4 == 4;
    let word = |bytes: &[u8], at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    // The sum of a pseudo-header, if that is what was left in the field.
    let protocol = if tcp { 6 } else { 17 };
    let pseudo = |len: usize| {
        naive_sum(&[addresses(frame, l3), &(len as u32).to_be_bytes(), &[0, 0, 0, protocol]].concat())
    };
    let partial = naive_sum(&word(frame, field).to_be_bytes()) == pseudo(frame.len() - l4);
    let mut joined: Vec<u8> = Vec::new();
    for (i, piece) in pieces.iter().enumerate() {
        let (first, last) = (i == 0, i + 1 == count);
        assert!(piece.len() == longest || last);
        joined.extend(&piece[payload..]);
        let mut expected = frame[..payload].to_vec();
        expected[field..field + 2].copy_from_slice(&piece[field..field + 2]);
        if count > 1 {
            if v4 {
                expected[l3 + 2..l3 + 4].copy_from_slice(&((piece.len() - l3) as u16).to_be_bytes());
                let id = word(frame, l3 + 4).wrapping_add(i as u16);
                expected[l3 + 4..l3 + 6].copy_from_slice(&id.to_be_bytes());
                expected[l3 + 10..l3 + 12].copy_from_slice(&piece[l3 + 10..l3 + 12]);
                let header_len = usize::from(piece[l3] & 15) * 4;
                assert_eq!(naive_sum(&piece[l3..l3 + header_len]), 0xffff, "IPv4 checksum");
            } else {
                expected[l3 + 4..l3 + 6].copy_from_slice(&((piece.len() - l3 - 40) as u16).to_be_bytes());
            }
            if tcp {
                let seq = u32::from_be_bytes(frame[l4 + 4..l4 + 8].try_into().expect("four bytes"));
                let seq = seq.wrapping_add((i * (longest - payload)) as u32);
                expected[l4 + 4..l4 + 8].copy_from_slice(&seq.to_be_bytes());
                // FIN and PSH only on the last; CWR only on the first, if the header speaks of ECN.
                let once = header.gso_type & 0x80 != 0;
                let taken = if last { 0 } else { 0x09 } | if once && !first { 0x80 } else { 0 };
                expected[l4 + 13] &= !taken;
            } else {
                expected[l4 + 4..l4 + 6].copy_from_slice(&((piece.len() - l4) as u16).to_be_bytes());
            }
        }
        assert_eq!(piece[..payload], expected, "headers of piece {i}");
        assert!(tcp || word(piece, field) != 0, "UDP without a checksum");
        if partial {
            let sum = naive_sum(&[&pseudo(piece.len() - l4).to_be_bytes(), &piece[l4..]].concat());
            assert_eq!(sum, 0xffff, "checksum of piece {i}");
        }
    }
    assert_eq!(joined, frame[payload..]);
    pieces
}

/// Loses, doubles, swaps and spoils a few.
fn mistreat(stream: &mut Vec<Vec<u8>>, input: &mut Input<'_>) {
    for _ in 0..input.byte() % 4 {
        let at = usize::from(input.byte()) % stream.len();
        match input.byte() % 8 {
            0 if stream.len() > 1 => drop(stream.remove(at)),
            1 => stream.insert(at, stream[at].clone()),
            2 => {
                let other = usize::from(input.byte()) % stream.len();
                stream.swap(at, other);
            }
            3 => stream[at].push(0),
            4 => drop(stream[at].pop()),
            _ => {
                let (offset, value) = (usize::from(input.byte()), input.byte());
                if let Some(byte) = stream[at].get_mut(offset) {
                    *byte = value;
                }
            }
        }
    }
}

/// What comes out of a [`Coalescer`], split, is what went in, in every flow's order; how many frames
/// went together.
fn coalesce(stream: &[Vec<u8>], input: &mut Input<'_>) -> usize {
    let spread = u32::from(input.byte() % 3) + 1;
    let mut buffer = stream.concat();
    let mut coalescer = Coalescer::new();
    let (mut went_in, came_out) = (Flows::new(), RefCell::new(Flows::new()));
    let (mut start, mut merged_frames) = (0, 0);
    let mut emit = |merged: Merged<'_>| {
        let bytes: Vec<u8> = merged.parts().flatten().copied().collect();
        assert_eq!(bytes.len(), merged.len);
        let frames = match &merged.unfinished {
            None => vec![bytes],
            Some(unfinished) => {
                merged_frames += merged.frames;
                goes_whole(&bytes, unfinished);
                pieces(&bytes, unfinished, 128)
            }
        };
        assert_eq!(frames.len(), merged.frames);
        frames.iter().for_each(|frame| note(&mut came_out.borrow_mut(), merged.to, frame));
    };
    for (to, frame) in (0..spread).cycle().zip(stream) {
        note(&mut went_in, to, frame);
        let range = start..start + frame.len();
        start = range.end;
        if !coalescer.offer(&mut buffer, range.clone(), to, &mut emit) {
            note(&mut came_out.borrow_mut(), to, &buffer[range]);
        }
    }
    coalescer.flush(&mut buffer, &mut emit);
    assert_eq!(went_in, came_out.into_inner());
    merged_frames
}

type Flows = HashMap<(u32, Vec<u8>), Vec<Vec<u8>>>;

fn note(flows: &mut Flows, to: u32, frame: &[u8]) {
    flows.entry((to, flow(frame).unwrap_or_default())).or_default().push(frame.to_vec());
}

/// Ethernet header, addresses and ports of TCP without options or extension headers: whose order
/// counts.
fn flow(frame: &[u8]) -> Option<Vec<u8>> {
    let mut l3 = 14;
    while matches!(frame.get(l3 - 2..l3)?, [0x81, 0] | [0x88, 0xa8]) {
        l3 += 4;
    }
    let (addresses, l4) = match (&frame[l3 - 2..l3], *frame.get(l3)?) {
        ([8, 0], 0x45) if *frame.get(l3 + 9)? == 6 => (l3 + 12, l3 + 20),
        ([0x86, 0xdd], _) if *frame.get(l3 + 6)? == 6 => (l3 + 8, l3 + 40),
        _ => return None,
    };
    Some([&frame[..l3], frame.get(addresses..l4 + 4)?].concat())
}

/// Where the IP header begins.
fn network(frame: &[u8]) -> usize {
    let mut l3 = 14;
    while matches!(frame[l3 - 2..l3], [0x81, 0] | [0x88, 0xa8]) {
        l3 += 4;
    }
    l3
}

fn addresses(frame: &[u8], l3: usize) -> &[u8] {
    if frame[l3] >> 4 == 4 { &frame[l3 + 12..l3 + 20] } else { &frame[l3 + 8..l3 + 40] }
}

/// RFC 1071, word by word.
fn naive_sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
