//! Finishing a frame in software: its checksum, and the frames that hardware would have made of
//! a super-frame.
//!
//! A kernel hands over up to 64 KiB of TCP or UDP payload behind one set of headers and says how long
//! the pieces should be. [`Segments`] writes one piece after the other into the caller's buffer, each
//! with headers and checksums of its own. Nothing is allocated; whatever could go wrong was refused
//! when the frame was made out to be [`Unfinished`].
//!
//! The rules are the kernel's: net/ipv4/af_inet.c `inet_gso_segment`, net/ipv4/tcp_offload.c
//! `tcp_gso_segment`, net/ipv4/udp_offload.c `__udp_gso_segment`.

use super::checksum::{Sum, checksum};
use super::offload::{Unfinished, mangled};
use super::packet::{Transport, ipv4, ipv6, put, tcp, udp, word};

/// The pieces of one frame, in order.
#[derive(Clone, Debug)]
pub struct Segments<'a> {
    headers: &'a [u8],
    payload: &'a [u8],
    unfinished: Unfinished,
    count: usize,
    next: usize,
}

impl<'a> Segments<'a> {
    /// `unfinished` was made of `frame`. A frame that is no super-frame is one piece: itself, with its
    /// checksum completed.
    ///
    /// # Panics
    /// If `frame` is shorter than the headers that were found in it.
    pub fn new(frame: &'a [u8], unfinished: &Unfinished) -> Self {
        let (headers, payload) = frame.split_at(unfinished.payload.into());
        let count = unfinished.count(frame.len());
        Self { headers, payload, unfinished: *unfinished, count, next: 0 }
    }

    /// Pieces still to come.
    pub fn remaining(&self) -> usize {
        self.count - self.next
    }

    /// Length of the longest piece: what the buffer needs.
    pub fn longest(&self) -> usize {
        self.headers.len() + self.payload.len().min(self.size())
    }

    /// Writes the next piece to the start of `buf` and says how long it is. `None` after the last
    /// one, or when `buf` is shorter than [`Segments::longest`].
    pub fn write_next(&mut self, buf: &mut [u8]) -> Option<usize> {
        if self.next == self.count || buf.len() < self.longest() {
            return None;
        }
        let size = self.size();
        let start = self.next * size;
        let payload = &self.payload[start..self.payload.len().min(start + size)];
        let piece = &mut buf[..self.headers.len() + payload.len()];
        let (headers, rest) = piece.split_at_mut(self.headers.len());
        headers.copy_from_slice(self.headers);
        rest.copy_from_slice(payload);
        if self.unfinished.is_super() {
            self.write_ip(piece);
            self.write_transport(piece, start);
        }
        self.write_checksum(piece);
        self.next += 1;
        Some(piece.len())
    }

    /// Bytes of payload in a piece.
    fn size(&self) -> usize {
        if self.unfinished.is_super() { self.unfinished.gso_size.into() } else { self.payload.len() }
    }

    fn write_ip(&self, piece: &mut [u8]) {
        let (l3, l4) = (usize::from(self.unfinished.l3), usize::from(self.unfinished.l4));
        if self.unfinished.v6 {
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

    fn write_transport(&self, piece: &mut [u8], start: usize) {
        let l4 = usize::from(self.unfinished.l4);
        match self.unfinished.transport {
            Transport::Tcp => {
                let mut seq = [0; 4];
                seq.copy_from_slice(&self.headers[l4 + tcp::SEQ..l4 + tcp::SEQ + 4]);
                let seq = u32::from_be_bytes(seq).wrapping_add(start as u32);
                piece[l4 + tcp::SEQ..l4 + tcp::SEQ + 4].copy_from_slice(&seq.to_be_bytes());
                if self.next + 1 < self.count {
                    piece[l4 + tcp::FLAGS] &= !(tcp::FIN | tcp::PSH);
                }
                if self.next > 0 && self.unfinished.cwr {
                    piece[l4 + tcp::FLAGS] &= !tcp::CWR;
                }
            }
            Transport::Udp => put(piece, l4 + udp::LEN, (piece.len() - l4) as u16),
        }
    }

    fn write_checksum(&self, piece: &mut [u8]) {
        let Unfinished { l4, transport, pseudo, .. } = self.unfinished;
        let l4 = usize::from(l4);
        let field = l4 + transport.checksum();
        put(piece, field, 0);
        let mut sum = Sum::default();
        sum.add_word(pseudo);
        sum.add_word((piece.len() - l4) as u16);
        sum.add(&piece[l4..]);
        let sum = match transport {
            Transport::Tcp => sum.checksum(),
            Transport::Udp => mangled(sum.checksum()),
        };
        put(piece, field, sum);
    }
}

#[cfg(test)]
#[path = "segment_tests.rs"]
mod tests;
