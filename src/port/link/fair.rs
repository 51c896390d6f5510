//! What waits for a socket that takes no more: a queue for each flow, so that a flow that fills its own does
//! not delay another (FQ-CoDel, RFC 8290). Flows that have just begun come first, the others take turns by
//! bytes. A flow whose frames wait too long for too long has them marked, or dropped (CoDel, RFC 8289).
//!
//! Frames wait in clear, cut into chunks that are used again. Time is an argument, in nanoseconds since some
//! moment.

use std::collections::VecDeque;
use std::hash::RandomState;

use crate::frame::MAX_FRAME;
use crate::frame::flow::{flow, mark_congestion};
use crate::frame::offload::VnetHeader;
use crate::ws::codec::Piece;
use crate::ws::mask::mask;

/// Frames in wait.
#[derive(Default)]
pub struct FairQueue {
    hasher: RandomState,
    /// None before the first frame.
    flows: Vec<Flow>,
    /// Flows that have just begun, and those that had a turn.
    new: VecDeque<u16>,
    old: VecDeque<u16>,
    waiting: Vec<Waiting>,
    free: Vec<u16>,
    frames: usize,
    chunks: Chunks,
    /// The longest frame there was: a flow that has no more than one left is not late.
    longest: u32,
    pub lost: Lost,
}

/// Frames, as on a cable, that did not get out, or not unmarked; whoever counts takes them.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Lost {
    /// There was no room.
    pub full: u64,
    /// They had waited too long.
    pub late: u64,
    /// Got out with Congestion Experienced instead.
    pub marked: u64,
}

/// What goes with a frame.
#[derive(Clone, Copy, Default, Debug)]
pub struct Label {
    pub header: VnetHeader,
    /// Frames on a cable, and their bytes.
    pub frames: (u32, u32),
    /// When it came ([`crate::prof::Tape::stamp`]).
    pub stamp: u64,
}

#[derive(Clone, Copy)]
struct Waiting {
    label: Label,
    came: u64,
    len: u32,
    /// Its first chunk.
    chunk: u16,
    /// The next frame of its flow, or [`NONE`].
    next: u16,
}

#[derive(Clone, Copy)]
struct Flow {
    head: u16,
    tail: u16,
    listed: bool,
    /// Bytes that wait.
    backlog: u32,
    /// Bytes that it may still send in this turn.
    credit: i32,
    codel: Codel,
}

/// RFC 8289 5, by the names there.
#[derive(Clone, Copy, Default)]
struct Codel {
    first_above: u64,
    drop_next: u64,
    count: u32,
    last_count: u32,
    dropping: bool,
}

impl FairQueue {
    pub fn is_empty(&self) -> bool {
        self.frames == 0
    }

    /// Frames that wait, as on a cable.
    pub fn frames(&self) -> u64 {
        let each = self.flows.iter().flat_map(|flow| {
            let first = (flow.head != NONE).then_some(flow.head);
            std::iter::successors(first, |at| {
                Some(self.waiting[usize::from(*at)].next).filter(|at| *at != NONE)
            })
        });
        each.map(|at| u64::from(self.waiting[usize::from(at)].label.frames.0)).sum()
    }

    /// Takes a frame of at most [`MAX_FRAME`] bytes; makes room in the longest queue if there is none.
    pub fn push(&mut self, pieces: &[Piece<'_>], label: Label, now: u64) {
        if self.flows.is_empty() {
            self.flows = vec![Flow::EMPTY; FLOWS];
        }
        let len: usize = pieces.iter().map(|piece| piece.bytes.len()).sum();
        debug_assert!(len <= MAX_FRAME);
        while self.frames >= MAX_FRAMES || self.chunks.used + len.div_ceil(CHUNK) > MAX_CHUNKS {
            self.relieve();
        }
        let chunk = self.chunks.fill(pieces);
        let flow = flow(&self.chunks.first(chunk)[..len.min(CHUNK)], &self.hasher) as usize % FLOWS;
        let waiting = Waiting { label, came: now, len: len as u32, chunk, next: NONE };
        let at = match self.free.pop() {
            Some(at) => {
                self.waiting[usize::from(at)] = waiting;
                at
            }
            None => {
                self.waiting.push(waiting);
                (self.waiting.len() - 1) as u16
            }
        };
        self.frames += 1;
        self.longest = self.longest.max(waiting.len);
        let queue = &mut self.flows[flow];
        match queue.head {
            NONE => queue.head = at,
            _ => self.waiting[usize::from(queue.tail)].next = at,
        }
        queue.tail = at;
        queue.backlog += waiting.len;
        if !queue.listed {
            (queue.listed, queue.credit) = (true, QUANTUM);
            self.new.push_back(flow as u16);
        }
    }

    /// Gives the next frame to `send`, in clear and in pieces; `false` when there is none.
    pub fn pop(&mut self, now: u64, send: impl FnOnce(Label, &[Piece<'_>])) -> bool {
        while let Some((index, is_new)) = self.next_flow() {
            let flow = &mut self.flows[index];
            if flow.credit <= 0 {
                flow.credit += QUANTUM;
                self.rotate(is_new, true);
                continue;
            }
            let Some(at) = self.pop_from(index, now) else {
                // Else a flow that comes back at once would always be a new one.
                let stays = is_new && !self.old.is_empty();
                self.flows[index].listed = stays;
                self.rotate(is_new, stays);
                continue;
            };
            let waiting = self.waiting[usize::from(at)];
            self.flows[index].credit -= waiting.len as i32;
            let mut pieces = [Piece::from(&[][..]); MAX_PIECES];
            let pieces = self.chunks.pieces(waiting.chunk, waiting.len as usize, &mut pieces);
            send(waiting.label, pieces);
            self.forget(at);
            return true;
        }
        false
    }

    /// Gives memory back after a burst.
    pub fn shrink(&mut self) {
        if self.is_empty() {
            let lost = self.lost;
            *self = Self { lost, ..Self::default() };
        }
    }

    fn next_flow(&self) -> Option<(usize, bool)> {
        let new = self.new.front().map(|flow| (usize::from(*flow), true));
        new.or_else(|| self.old.front().map(|flow| (usize::from(*flow), false)))
    }

    /// The flow in front goes behind the old ones, or nowhere.
    fn rotate(&mut self, is_new: bool, stays: bool) {
        let list = if is_new { &mut self.new } else { &mut self.old };
        if let Some(flow) = list.pop_front().filter(|_| stays) {
            self.old.push_back(flow);
        }
    }

    /// CoDel's `dequeue`.
    fn pop_from(&mut self, index: usize, now: u64) -> Option<u16> {
        let (mut at, mut late) = self.take(index, now)?;
        let mut codel = self.flows[index].codel;
        if codel.dropping && !late {
            codel.dropping = false;
        }
        while codel.dropping && now >= codel.drop_next {
            codel.count += 1;
            codel.drop_next = control_law(codel.drop_next, codel.count);
            if self.mark(at) {
                break;
            }
            self.drop_late(at);
            let Some(next) = self.take_with(index, &mut codel, now) else {
                codel.dropping = false;
                self.flows[index].codel = codel;
                return None;
            };
            (at, late) = next;
            codel.dropping = late;
        }
        if !codel.dropping && late {
            // Where it was dropping a short while ago it goes on at the rate that did.
            let recently = now.saturating_sub(codel.drop_next) < 16 * INTERVAL;
            let since = codel.count.saturating_sub(codel.last_count);
            codel.count = if recently && since > 1 { since } else { 1 };
            codel.last_count = codel.count;
            codel.drop_next = control_law(now, codel.count);
            codel.dropping = true;
            if !self.mark(at) {
                self.drop_late(at);
                let next = self.take_with(index, &mut codel, now);
                self.flows[index].codel = codel;
                return next.map(|(at, _)| at);
            }
        }
        self.flows[index].codel = codel;
        Some(at)
    }

    fn take(&mut self, index: usize, now: u64) -> Option<(u16, bool)> {
        let mut codel = self.flows[index].codel;
        let taken = self.take_with(index, &mut codel, now);
        if taken.is_none() {
            codel.dropping = false;
        }
        self.flows[index].codel = codel;
        taken
    }

    /// The first frame of a flow, and whether frames have been late for an interval.
    fn take_with(&mut self, index: usize, codel: &mut Codel, now: u64) -> Option<(u16, bool)> {
        let Some(at) = self.unlink(index) else {
            codel.first_above = 0;
            return None;
        };
        let waited = now.saturating_sub(self.waiting[usize::from(at)].came);
        if waited < TARGET || self.flows[index].backlog <= self.longest {
            codel.first_above = 0;
            return Some((at, false));
        }
        if codel.first_above == 0 {
            codel.first_above = now + INTERVAL;
        }
        Some((at, now >= codel.first_above))
    }

    fn unlink(&mut self, index: usize) -> Option<u16> {
        let flow = &mut self.flows[index];
        let at = flow.head;
        if at == NONE {
            return None;
        }
        let waiting = &self.waiting[usize::from(at)];
        flow.head = waiting.next;
        flow.backlog -= waiting.len;
        Some(at)
    }

    fn mark(&mut self, at: u16) -> bool {
        let Waiting { chunk, len, label, .. } = self.waiting[usize::from(at)];
        let marked = mark_congestion(&mut self.chunks.first(chunk)[..CHUNK.min(len as usize)]);
        self.lost.marked += if marked { label.frames.0.into() } else { 0 };
        marked
    }

    fn drop_late(&mut self, at: u16) {
        self.lost.late += u64::from(self.waiting[usize::from(at)].label.frames.0);
        self.forget(at);
    }

    /// Drops the oldest of the longest queue, enough that this is not to be done for the next frame again.
    fn relieve(&mut self) {
        let longest = self.flows.iter().enumerate().max_by_key(|(_, flow)| flow.backlog);
        let Some((index, _)) = longest else { return };
        let (frames, chunks) = (self.frames, self.chunks.used);
        while self.frames + MAX_FRAMES / 16 > frames && self.chunks.used + MAX_CHUNKS / 16 > chunks {
            let Some(at) = self.unlink(index) else { return };
            self.lost.full += u64::from(self.waiting[usize::from(at)].label.frames.0);
            self.forget(at);
        }
    }

    fn forget(&mut self, at: u16) {
        let Waiting { chunk, len, .. } = self.waiting[usize::from(at)];
        self.chunks.release(chunk, len as usize);
        self.free.push(at);
        self.frames -= 1;
    }
}

impl Flow {
    const EMPTY: Self = Self {
        head: NONE,
        tail: NONE,
        listed: false,
        backlog: 0,
        credit: 0,
        codel: Codel { first_above: 0, drop_next: 0, count: 0, last_count: 0, dropping: false },
    };
}

/// Memory for frames, in pieces of one size; those of a frame are chained.
#[derive(Default)]
struct Chunks {
    all: Vec<Box<[u8; CHUNK]>>,
    next: Vec<u16>,
    free: Vec<u16>,
    used: usize,
}

impl Chunks {
    /// Copies a frame, its mask taken off; its first chunk.
    fn fill(&mut self, pieces: &[Piece<'_>]) -> u16 {
        let first = self.draw();
        let (mut chunk, mut filled) = (first, 0);
        for piece in pieces {
            let mut done = 0;
            while done < piece.bytes.len() {
                if filled == CHUNK {
                    let next = self.draw();
                    self.next[usize::from(chunk)] = next;
                    (chunk, filled) = (next, 0);
                }
                let n = (CHUNK - filled).min(piece.bytes.len() - done);
                let room = &mut self.all[usize::from(chunk)][filled..filled + n];
                room.copy_from_slice(&piece.bytes[done..done + n]);
                if piece.key != [0; 4] {
                    mask(room, piece.key, piece.phase + done);
                }
                (filled, done) = (filled + n, done + n);
            }
        }
        first
    }

    fn draw(&mut self) -> u16 {
        self.used += 1;
        if let Some(chunk) = self.free.pop() {
            return chunk;
        }
        self.all.push(Box::new([0; CHUNK]));
        self.next.push(NONE);
        (self.all.len() - 1) as u16
    }

    fn first(&mut self, chunk: u16) -> &mut [u8; CHUNK] {
        &mut self.all[usize::from(chunk)]
    }

    fn pieces<'c, 'p>(&'c self, first: u16, len: usize, room: &'p mut [Piece<'c>]) -> &'p [Piece<'c>] {
        let (mut chunk, mut left, mut count) = (usize::from(first), len, 0);
        while left > 0 {
            let n = left.min(CHUNK);
            room[count] = self.all[chunk][..n].into();
            (left, count) = (left - n, count + 1);
            if left > 0 {
                chunk = usize::from(self.next[chunk]);
            }
        }
        &room[..count]
    }

    fn release(&mut self, first: u16, len: usize) {
        let mut chunk = first;
        for _ in 0..len.div_ceil(CHUNK).max(1) {
            self.free.push(chunk);
            self.used -= 1;
            chunk = self.next[usize::from(chunk)];
        }
    }
}

fn control_law(from: u64, count: u32) -> u64 {
    from + (INTERVAL as f64 / f64::from(count).sqrt()) as u64
}

/// A port's queue holds at most so many frames, and 4 MiB of memory for them.
const MAX_FRAMES: usize = 1024;
const MAX_CHUNKS: usize = (4 << 20) / CHUNK;
/// A frame of 1,500 bytes with its tags fits in one.
const CHUNK: usize = 2048;
/// Of a frame.
pub const MAX_PIECES: usize = MAX_FRAME.div_ceil(CHUNK);
const NONE: u16 = u16::MAX;

/// RFC 8290 5.2.
const FLOWS: usize = 1024;
const QUANTUM: i32 = 1514;
/// RFC 8289 4.3 and 4.2, in nanoseconds.
const TARGET: u64 = 5_000_000;
const INTERVAL: u64 = 100_000_000;

#[cfg(test)]
#[path = "fair_tests.rs"]
mod tests;
