//! Encoded messages on their way out. Few: what waits for long does so in [`super::fair`].

use std::collections::VecDeque;

/// Bytes that wait to be written, and where each message among them ends.
#[derive(Default)]
pub struct Queue {
    bytes: Vec<u8>,
    /// How many of `bytes` are written.
    head: usize,
    /// Ends of the messages not yet wholly written, counted from the queue's beginning of time, and what
    /// each is on a cable: frames and bytes.
    ends: VecDeque<Waiting>,
    /// Bytes ever written.
    written: u64,
}

/// One message that waits.
#[derive(Clone, Copy)]
pub struct Waiting {
    end: u64,
    /// Frames on a cable, and bytes.
    pub frames: (u32, u32),
    /// When it came ([`crate::prof::Tape::stamp`]).
    pub stamp: u64,
}

impl Queue {
    /// Appends one message, which `encode` writes, with so many frames and bytes of them in it.
    pub fn push(&mut self, frames: (u32, u32), stamp: u64, encode: impl FnOnce(&mut Vec<u8>)) {
        encode(&mut self.bytes);
        let end = self.written + self.waiting().len() as u64;
        self.ends.push_back(Waiting { end, frames, stamp });
    }

    pub fn waiting(&self) -> &[u8] {
        &self.bytes[self.head..]
    }

    pub fn is_empty(&self) -> bool {
        self.head == self.bytes.len()
    }

    /// Frames of which something waits.
    pub fn frames(&self) -> u64 {
        self.ends.iter().map(|waiting| u64::from(waiting.frames.0)).sum()
    }

    /// The first `n` waiting bytes are written; the frames that are written whole with that, and their
    /// bytes. `each` is called for each message with a stamp.
    pub fn advance(&mut self, n: usize, mut each: impl FnMut(Waiting)) -> (u64, u64) {
        self.head += n;
        self.written += n as u64;
        let (mut frames, mut bytes) = (0, 0);
        while let Some(out) = self.ends.front().copied().filter(|waiting| waiting.end <= self.written) {
            self.ends.pop_front();
            frames += u64::from(out.frames.0);
            bytes += u64::from(out.frames.1);
            if out.stamp != 0 {
                each(out);
            }
        }
        if self.is_empty() {
            self.bytes.clear();
            self.head = 0;
        } else if self.head >= COMPACT {
            self.bytes.drain(..self.head);
            self.head = 0;
        }
        (frames, bytes)
    }

    /// Gives memory back after a burst.
    pub fn shrink(&mut self) {
        if self.is_empty() {
            self.bytes = Vec::new();
            self.ends = VecDeque::new();
        }
    }
}

/// Written bytes in front of waiting ones are worth a move from here on.
const COMPACT: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_out_when_all_of_it_is() {
        let mut queue = Queue::default();
        for _ in 0..3 {
            queue.push((1, 10), 0, |out| out.resize(out.len() + 10, 7));
        }
        assert_eq!(queue.advance(25, |_| ()), (2, 20));
        assert_eq!((queue.frames(), queue.waiting().len()), (1, 5));
    }

    #[test]
    fn bytes_come_out_in_order_through_compaction() {
        let mut queue = Queue::default();
        let (mut sent, mut next) = (Vec::new(), 0u32);
        while sent.len() < 8 << 20 {
            while queue.waiting().len() < 4 << 20 {
                next += 1;
                queue.push((0, 0), 0, |out| (0..15_000).for_each(|i| out.extend((next ^ i).to_be_bytes())));
            }
            let n = queue.waiting().len().min(777_777);
            sent.extend_from_slice(&queue.waiting()[..n]);
            queue.advance(n, |_| ());
        }
        for (word, bytes) in sent.as_chunks::<4>().0.iter().enumerate() {
            let want = (word / 15_000 + 1) as u32 ^ (word % 15_000) as u32;
            assert_eq!(u32::from_be_bytes(*bytes), want);
        }
        assert_eq!(queue.written, sent.len() as u64);
    }
}
