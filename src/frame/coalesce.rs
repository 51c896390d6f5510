//! Making super-frames of the TCP segments that come in together, as the kernel's GRO does.
//!
//! A link that speaks the classic dialect, or a device without offload, brings every segment as a frame
//! of its own, and a kernel that takes them one by one spends a microsecond on each. A [`Coalescer`]
//! looks at the frames of one read: those of one flow that follow on one another leave as one
//! super-frame. Payloads stay where they were read to; only the first frame's headers are changed.
//!
//! A super-frame promises that splitting it gives the frames back, so only frames go together of which
//! that is true byte by byte: the headers are equal in all but what [`Segments`] counts up, the first
//! length is everybody's (the last may be shorter), and both checksums are right and written the usual
//! way. net/ipv4/tcp_offload.c `tcp_gro_receive` is more lenient with the IPv4 ID, which it lets stand
//! still: a virtio header cannot say that. Every other frame is the caller's to
//! send, after what came before it in its flow.
//!
//! [`Segments`]: super::segment::Segments

use std::ops::Range;

use super::checksum::{Sum, checksum};
use super::eth::{MIN_FRAME, Tag, is_tpid};
use super::offload::{Unfinished, WHOLE_MAX_SEGMENTS, WHOLE_MIN_GSO_SIZE};
use super::packet::{Transport, ipv4, ipv6, put, tcp, word};

/// Merges TCP segments of one flow, read together, into super-frames. Allocates only when made.
pub struct Coalescer {
    flows: Box<[Flow; FLOWS]>,
    /// Flows begun so far.
    begun: u64,
}

impl Default for Coalescer {
    fn default() -> Self {
        Self::new()
    }
}

impl Coalescer {
    pub fn new() -> Self {
        Self { flows: Box::new([const { Flow::EMPTY }; FLOWS]), begun: 0 }
    }

    /// Offers the finished frame at `buffer[range]`, on its way to `to`. True: it is kept, and comes
    /// out of `emit` now or later; until [`Coalescer::flush`] nobody else may change `buffer`. False:
    /// what was kept of its flow has gone to `emit`, and the caller sends the frame itself.
    ///
    /// # Panics
    /// If `range` is not within `buffer`.
    pub fn offer(
        &mut self,
        buffer: &mut [u8],
        range: Range<usize>,
        to: u32,
        emit: &mut impl FnMut(Merged<'_>),
    ) -> bool {
        let segment = match Segment::find(&buffer[range.clone()], range.start) {
            Found::Segment(segment) => segment,
            Found::Other => return false,
            Found::Odd => {
                self.flush(buffer, emit);
                return false;
            }
        };
        let known = self.flows.iter_mut().find(|flow| flow.is_of(buffer, &segment, to));
        if let Some(flow) = known {
            if flow.continues_with(buffer, &segment) && segment.verifies(buffer) {
                if flow.append(&segment) == Filled::Up {
                    flow.emit(buffer, emit);
                }
                return true;
            }
            flow.emit(buffer, emit);
        }
        if !segment.can_be_first() || !segment.verifies(buffer) {
            return false;
        }
        let oldest = self.flows.iter_mut().min_by_key(|flow| (flow.count != 0, flow.begun));
        // There is always one.
        let Some(flow) = oldest else { return false };
        flow.emit(buffer, emit);
        self.begun += 1;
        flow.begin(&segment, to, self.begun);
        true
    }

    /// Everything kept comes out; nothing refers to `buffer` any more.
    pub fn flush(&mut self, buffer: &mut [u8], emit: &mut impl FnMut(Merged<'_>)) {
        self.flows.iter_mut().for_each(|flow| flow.emit(buffer, emit));
    }
}

/// A super-frame in parts, or a single frame to which nothing came.
pub struct Merged<'a> {
    /// As given with its frames.
    pub to: u32,
    /// `None`: a single frame, as it came.
    pub unfinished: Option<Unfinished>,
    /// Bytes in all.
    pub len: usize,
    /// How many frames it was.
    pub frames: usize,
    buffer: &'a [u8],
    parts: &'a [Range<usize>],
}

impl<'a> Merged<'a> {
    /// The frame in order: the first part has all the headers and the first payload, each other one a
    /// payload. At most 128.
    pub fn parts(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + use<'a> {
        let buffer = self.buffer;
        self.parts.iter().map(move |part| &buffer[part.clone()])
    }
}

/// Frames of a flow that are kept.
struct Flow {
    to: u32,
    /// How many are kept; 0: the place is free.
    count: usize,
    begun: u64,
    /// The first one, as found.
    first: Segment,
    /// TCP flags that the last one brings with it.
    ending: u8,
    /// Bytes of payload so far.
    payload: usize,
    /// The first frame, then payloads.
    parts: [Range<usize>; WHOLE_MAX_SEGMENTS],
}

/// Can anything come behind?
#[derive(PartialEq, Eq)]
enum Filled {
    Up,
    NotYet,
}

impl Flow {
    const EMPTY: Self = Self {
        to: 0,
        count: 0,
        begun: 0,
        first: Segment::NONE,
        ending: 0,
        payload: 0,
        parts: [const { 0..0 }; WHOLE_MAX_SEGMENTS],
    };

    fn begin(&mut self, segment: &Segment, to: u32, begun: u64) {
        (self.to, self.begun, self.count, self.ending) = (to, begun, 1, 0);
        self.first = *segment;
        self.payload = segment.payload_len();
        self.parts[0] = segment.frame..segment.end;
    }

    /// Same way, same Ethernet header and tags, same addresses and ports.
    fn is_of(&self, buffer: &[u8], segment: &Segment, to: u32) -> bool {
        let first = &self.first;
        if self.count == 0 || self.to != to || first.flow != segment.flow || first.l4 != segment.l4 {
            return false;
        }
        let same = |from: usize, to: usize| first.bytes(buffer, from, to) == segment.bytes(buffer, from, to);
        let Segment { l3, l4, v6, .. } = *first;
        let addresses = l3 + if v6 { ipv6::ADDRESSES } else { ipv4::ADDRESSES };
        v6 == segment.v6 && same(0, l3) && same(addresses, l4 + tcp::SEQ)
    }

    /// Splitting everything with `segment` behind gives the same frames again.
    fn continues_with(&self, buffer: &[u8], segment: &Segment) -> bool {
        let first = &self.first;
        let len = segment.payload_len();
        let ip_payload = first.payload - first.l4 + self.payload + len;
        if first.payload != segment.payload
            || len > first.payload_len()
            || ip_payload + if first.v6 { 0 } else { ipv4::HEADER } > usize::from(u16::MAX)
            || segment.seq != first.seq.wrapping_add(self.payload as u32)
        {
            return false;
        }
        let same = |from: usize, to: usize| first.bytes(buffer, from, to) == segment.bytes(buffer, from, to);
        let Segment { l3, l4, payload, v6, .. } = *first;
        let ip = if v6 {
            // Class and flow label; next header and hop limit.
            same(l3, l3 + ipv6::PAYLOAD_LEN) && same(l3 + ipv6::NEXT_HEADER, l3 + ipv6::ADDRESSES)
        } else {
            // Type of service; DF, time to live and protocol; the ID has counted on.
            same(l3, l3 + ipv4::TOTAL_LEN)
                && same(l3 + ipv4::FRAGMENT, l3 + ipv4::CHECKSUM)
                && segment.id == first.id.wrapping_add(self.count as u16)
        };
        let changed = first.flags ^ segment.flags;
        ip && changed & !(tcp::FIN | tcp::PSH | tcp::CWR) == 0
            && segment.flags & tcp::CWR == 0
            // Acknowledgement and data offset; window; urgent pointer and options.
            && same(l4 + tcp::ACK, l4 + tcp::FLAGS)
            && same(l4 + tcp::FLAGS + 1, l4 + tcp::CHECKSUM)
            && same(l4 + tcp::CHECKSUM + 2, payload)
    }

    fn append(&mut self, segment: &Segment) -> Filled {
        self.parts[self.count] = segment.frame + segment.payload..segment.end;
        self.count += 1;
        self.payload += segment.payload_len();
        self.ending = segment.flags & (tcp::FIN | tcp::PSH);
        let last = self.ending != 0 || segment.payload_len() < self.first.payload_len();
        if last || self.count == WHOLE_MAX_SEGMENTS { Filled::Up } else { Filled::NotYet }
    }

    /// Gives away what is kept, if anything.
    fn emit(&mut self, buffer: &mut [u8], emit: &mut impl FnMut(Merged<'_>)) {
        if self.count == 0 {
            return;
        }
        let frames = std::mem::take(&mut self.count);
        let len = self.first.payload + self.payload;
        let unfinished = (frames > 1).then(|| self.patch(buffer, len));
        emit(Merged { to: self.to, unfinished, len, frames, buffer, parts: &self.parts[..frames] });
    }

    /// Makes the first frame's headers those of a super-frame of `len` bytes.
    fn patch(&self, buffer: &mut [u8], len: usize) -> Unfinished {
        let Segment { l3, l4, payload, v6, .. } = self.first;
        let headers = &mut buffer[self.first.frame..self.first.frame + payload];
        let addresses = if v6 {
            put(headers, l3 + ipv6::PAYLOAD_LEN, (len - l4) as u16);
            ipv6::ADDRESSES
        } else {
            put(headers, l3 + ipv4::TOTAL_LEN, (len - l3) as u16);
            put(headers, l3 + ipv4::CHECKSUM, 0);
            let sum = checksum(&headers[l3..l4]);
            put(headers, l3 + ipv4::CHECKSUM, sum);
            ipv4::ADDRESSES
        };
        headers[l4 + tcp::FLAGS] |= self.ending;
        let mut pseudo = Sum::pseudo(&headers[l3 + addresses..l4], tcp::PROTOCOL);
        let without_length = pseudo.folded();
        pseudo.add_word((len - l4) as u16);
        put(headers, l4 + tcp::CHECKSUM, pseudo.folded());
        Unfinished {
            l3: l3 as u16,
            l4: l4 as u16,
            payload: payload as u16,
            gso_size: self.first.payload_len() as u16,
            pseudo: without_length,
            v6,
            transport: Transport::Tcp,
            cwr: self.first.flags & tcp::CWR != 0,
            cwr_in_all: false,
        }
    }
}

/// A TCP segment in a frame of its own. Offsets are within the frame unless said otherwise.
#[derive(Clone, Copy)]
struct Segment {
    /// Where the frame begins and ends in the buffer.
    frame: usize,
    end: usize,
    l3: usize,
    l4: usize,
    payload: usize,
    v6: bool,
    id: u16,
    seq: u32,
    flags: u8,
    /// Ports, and the end of the source address: differs between most flows.
    flow: u64,
}

/// What a frame is to a [`Coalescer`].
enum Found {
    Segment(Segment),
    /// Not TCP: nothing to do with what is kept.
    Other,
    /// It may be of any flow: IP options, extension headers, later fragments, more than two tags.
    Odd,
}

impl Segment {
    const NONE: Self =
        Self { frame: 0, end: 0, l3: 0, l4: 0, payload: 0, v6: false, id: 0, seq: 0, flags: 0, flow: 0 };

    fn find(frame: &[u8], start: usize) -> Found {
        let mut l3 = MIN_FRAME;
        while l3 <= frame.len() && is_tpid(word(frame, l3 - 2)) {
            l3 += Tag::LEN;
        }
        let Some(ip) = frame.get(l3..) else { return Found::Other };
        let (header_len, v6) = match (word(frame, l3 - 2), ip) {
            (ipv4::ETHERTYPE, [0x45, ..]) => (ipv4::HEADER, false),
            (ipv4::ETHERTYPE, _) => return Found::Odd,
            (ipv6::ETHERTYPE, _) => (ipv6::HEADER, true),
            _ => return Found::Other,
        };
        if ip.len() < header_len {
            return Found::Other;
        }
        match (v6, ip[if v6 { ipv6::NEXT_HEADER } else { ipv4::PROTOCOL }]) {
            (_, tcp::PROTOCOL) => (),
            (true, ipv6::HOP_BY_HOP | ipv6::ROUTING | ipv6::FRAGMENT | ipv6::DESTINATION) => {
                return Found::Odd;
            }
            _ => return Found::Other,
        }
        let l4 = l3 + header_len;
        let later = !v6 && word(ip, ipv4::FRAGMENT) & ipv4::FRAGMENT_OFFSET != 0;
        if later || frame.len() < l4 + tcp::HEADER || l3 > MIN_FRAME + 2 * Tag::LEN {
            return Found::Odd;
        }
        let payload = l4 + usize::from(frame[l4 + tcp::DATA_OFFSET] >> 4) * 4;
        if payload > frame.len() {
            return Found::Odd;
        }
        let long = |at: usize| u32::from_be_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]]);
        let source_end = l3 + if v6 { ipv6::ADDRESSES + 16 } else { ipv4::ADDRESSES + 4 };
        Found::Segment(Self {
            frame: start,
            end: start + frame.len(),
            l3,
            l4,
            payload,
            v6,
            id: word(ip, ipv4::ID),
            seq: long(l4 + tcp::SEQ),
            flags: frame[l4 + tcp::FLAGS],
            flow: u64::from(long(l4)) << 32 | u64::from(long(source_end - 4)),
        })
    }

    /// There is data in it, and its lengths and checksums are right and as [`Segments`] writes them.
    ///
    /// [`Segments`]: super::segment::Segments
    fn verifies(&self, buffer: &[u8]) -> bool {
        let Self { l3, l4, payload, v6, .. } = *self;
        let frame = &buffer[self.frame..self.end];
        if self.flags & (tcp::SYN | tcp::RST | tcp::URG) != 0
            || payload < l4 + tcp::HEADER
            || payload >= frame.len()
        {
            return false;
        }
        let ip = &frame[l3..l4];
        let (length_is_right, addresses) = if v6 {
            (usize::from(word(ip, ipv6::PAYLOAD_LEN)) == frame.len() - l4, ipv6::ADDRESSES)
        } else {
            let whole = word(ip, ipv4::FRAGMENT) & ipv4::MORE_FRAGMENTS == 0;
            let sums_up = word(ip, ipv4::CHECKSUM) != MANGLED && checksum(ip) == 0;
            let total = usize::from(word(ip, ipv4::TOTAL_LEN));
            (whole && sums_up && total == frame.len() - l3, ipv4::ADDRESSES)
        };
        if !length_is_right || word(frame, l4 + tcp::CHECKSUM) == MANGLED {
            return false;
        }
        let mut sum = Sum::pseudo(&ip[addresses..], tcp::PROTOCOL);
        sum.add_word((frame.len() - l4) as u16);
        sum.add(&frame[l4..]);
        sum.checksum() == 0
    }

    /// Nothing ends with it, and it is not so small that the whole would have to be split again.
    fn can_be_first(&self) -> bool {
        self.flags & (tcp::FIN | tcp::PSH) == 0 && self.payload_len() >= usize::from(WHOLE_MIN_GSO_SIZE)
    }

    fn payload_len(&self) -> usize {
        (self.end - self.frame).saturating_sub(self.payload)
    }

    fn bytes<'a>(&self, buffer: &'a [u8], from: usize, to: usize) -> &'a [u8] {
        &buffer[self.frame + from..self.frame + to]
    }
}

/// Flows that are kept at a time.
const FLOWS: usize = 8;

/// Instead of 0 in a checksum field: as right, but Segments would write 0.
const MANGLED: u16 = 0xffff;

#[cfg(test)]
#[path = "coalesce_tests.rs"]
mod tests;
