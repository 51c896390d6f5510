//! Memory for messages that wait.

use crate::ws::codec::Room;
use crate::ws::mask::{Key, mask_into};

/// Memory for messages, in pieces of one size; those of a message are chained.
#[derive(Default)]
pub struct Chunks {
    pub all: Vec<Vec<u8>>,
    next: Vec<u16>,
    pub free: Vec<u16>,
    /// Chunks with something in them.
    pub used: usize,
}

impl Chunks {
    pub fn draw(&mut self) -> u16 {
        self.used += 1;
        if let Some(chunk) = self.free.pop() {
            return chunk;
        }
        self.all.push(Vec::with_capacity(CHUNK));
        self.next.push(NONE);
        (self.all.len() - 1) as u16
    }

    pub fn of(&self, first: u16) -> impl Iterator<Item = &Vec<u8>> {
        let follow = |chunk: u16| Some(usize::from(chunk)).filter(|_| chunk != NONE);
        let chain = std::iter::successors(follow(first), move |chunk| follow(self.next[*chunk]));
        chain.map(|chunk| &self.all[chunk])
    }

    pub fn release(&mut self, first: u16) {
        let mut chunk = first;
        while chunk != NONE {
            let index = usize::from(chunk);
            self.all[index].clear();
            self.free.push(chunk);
            self.used -= 1;
            chunk = std::mem::replace(&mut self.next[index], NONE);
        }
    }
}

/// Where a message is encoded to.
pub struct Message<'a> {
    pub chunks: &'a mut Chunks,
    pub last: u16,
    pub len: usize,
}

impl Room for Message<'_> {
    fn append(&mut self, mut bytes: &[u8], key: Key) {
        self.len += bytes.len();
        let mut phase = 0;
        loop {
            let chunk = &mut self.chunks.all[usize::from(self.last)];
            let (part, rest) = bytes.split_at(bytes.len().min(CHUNK - chunk.len()));
            mask_into(chunk, part, key, phase);
            if rest.is_empty() {
                return;
            }
            let next = self.chunks.draw();
            self.chunks.next[usize::from(self.last)] = next;
            self.last = next;
            (bytes, phase) = (rest, phase + part.len());
        }
    }
}

/// A frame of 1,500 bytes with its tags and headers fits in one.
pub const CHUNK: usize = 2048;
/// The end of a chain.
const NONE: u16 = u16::MAX;
