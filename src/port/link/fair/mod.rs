//! What waits for a socket that takes no more: a queue for each flow, so that a flow that fills its own does
//! not delay another (FQ-CoDel, RFC 8290). Flows that have just begun come first, the others take turns by
//! bytes. A flow whose frames wait too long for too long has them marked, or dropped (CoDel, RFC 8289).
//!
//! A frame is encoded once, into chunks that are used again, and written from there: [`FairQueue::pop`] moves
//! messages to the end of those that are [leaving](FairQueue::leaving), in the order of the wire. Time is an
//! argument, in nanoseconds since some moment.

mod chunks;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::hash::RandomState;
use std::io::IoSlice;
use std::sync::Arc;

use self::chunks::{CHUNK, Chunks, Message};
use crate::frame::MAX_FRAME;
use crate::frame::flow::{flow, mark_congestion};
use crate::frame::offload::VnetHeader;
use crate::port::capture::{self, Captures, Seen, Way};
use crate::prof::Probe;
use crate::switch::Reason;
use crate::ws::codec::{Piece, append, encode};
use crate::ws::header::{MAX_HEADER, Opcode};
use crate::ws::mask::{Key, mask};

/// Messages in wait.
#[derive(Default)]
pub struct FairQueue {
    /// Frames are written as they come, without a message's header.
    bare: bool,
    hasher: RandomState,
    /// None before the first frame.
    flows: Vec<Flow>,
    /// Flows that have just begun, and those that had a turn.
    new: VecDeque<u16>,
    old: VecDeque<u16>,
    waiting: Vec<Waiting>,
    free: Vec<u16>,
    /// Messages that wait in flows.
    held: usize,
    /// Of these, what is said of flows.
    marks: usize,
    /// Messages on their way out, and how much of the first is written.
    leaving: VecDeque<u16>,
    written: usize,
    chunks: Chunks,
    /// The longest frame there was: a flow that has no more than one left is not late.
    longest: u32,
    pub lost: Lost,
    /// Who looks on, and the number of the port.
    captures: (Arc<Captures>, u32),
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

/// What goes with a message.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Label {
    /// Frames on a cable, and their bytes.
    pub frames: (u32, u32),
    /// When it came ([`crate::prof::Tape::stamp`]).
    pub stamp: u64,
}

#[derive(Clone, Copy)]
struct Waiting {
    label: Label,
    came: u64,
    /// Encoded.
    len: u32,
    /// Its first chunk, and where the frame begins in that.
    chunk: u16,
    frame: u8,
    /// The mask, and the place in it where the frame begins.
    key: Key,
    phase: u8,
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
    /// Of a connection that does not speak WebSocket; `default` is of one that does.
    pub fn bare() -> Self {
        Self { bare: true, ..Self::default() }
    }

    /// Whoever looks on at `port` is shown what is dropped here.
    pub fn show_to(&mut self, captures: Arc<Captures>, port: u32) {
        self.captures = (captures, port);
    }

    /// All that waits, or has not left whole, is dropped for this reason.
    pub fn show_all(&self, reason: Reason) {
        if self.captures.0.watch().is_some() {
            self.all().for_each(|at| self.show(at, reason));
        }
    }

    /// Nothing waits, nothing is leaving.
    pub fn is_empty(&self) -> bool {
        self.held == 0 && self.leaving.is_empty()
    }

    /// Frames of which something is still here, as on a cable.
    pub fn frames(&self) -> u64 {
        self.all().map(|at| u64::from(self.waiting[usize::from(at)].label.frames.0)).sum()
    }

    fn all(&self) -> impl Iterator<Item = u16> {
        let follow = |at: u16| Some(at).filter(|at| *at != NONE);
        let flows = self.flows.iter().flat_map(move |flow| {
            std::iter::successors(follow(flow.head), move |at| follow(self.waiting[usize::from(*at)].next))
        });
        flows.chain(self.leaving.iter().copied())
    }

    /// Shows a frame that goes no further, without its message's header and mask.
    fn show(&self, at: u16, reason: Reason) {
        let Some(watch) = self.captures.0.watch() else { return };
        let Waiting { chunk, frame, key, phase, label, .. } = self.waiting[usize::from(at)];
        // What is said on a link is no frame.
        if label.frames.0 == 0 {
            return;
        }
        DROPPED.with_borrow_mut(|bytes| {
            bytes.clear();
            self.chunks.of(chunk).for_each(|chunk| bytes.extend_from_slice(chunk));
            let frame = bytes.get_mut(usize::from(frame)..).unwrap_or_default();
            mask(frame, key, phase.into());
            let (port, frames) = (self.captures.1, label.frames.0);
            let seen = Seen { port, way: Way::Out, frames, gso_size: 0, dropped: Some(reason) };
            capture::show(&watch, seen, &[frame]);
        });
    }

    /// Encodes a frame, the last of the `pieces`, behind `header`, and lets it wait, in this `flow` where it is known;
    /// makes room in the longest queue if there is none.
    pub fn push(
        &mut self,
        (header, flow): (usize, Option<usize>),
        pieces: &[Piece<'_>],
        key: Option<Key>,
        label: Label,
        now: u64,
        probe: &mut impl Probe,
    ) {
        self.begin();
        let full =
            |q: &Self| q.held + q.leaving.len() >= MAX_MESSAGES || q.chunks.used + MAX_PIECES > MAX_CHUNKS;
        while self.held > 0 && full(self) {
            self.relieve();
        }
        let flow = flow.unwrap_or_else(|| flow_of(&pieces[header..], &self.hasher));
        let at = self.encode(Opcode::Binary, pieces, key, label, probe);
        let waiting = &mut self.waiting[usize::from(at)];
        let prefix: usize = pieces[..header].iter().map(|piece| piece.bytes.len()).sum();
        let payload: usize = pieces.iter().map(|piece| piece.bytes.len()).sum();
        waiting.came = now;
        waiting.frame = (waiting.len as usize - payload + prefix) as u8;
        waiting.phase = prefix as u8;
        self.longest = self.longest.max(waiting.len);
        self.append(flow, at);
    }

    /// Says something of a flow behind its frames, which is neither late nor ever dropped.
    pub fn push_mark(&mut self, flow: usize, body: &[u8], key: Option<Key>) {
        self.begin();
        let at = self.encode(Opcode::Binary, &[body.into()], key, Label::default(), &mut ());
        match self.flows[flow].head {
            NONE => self.leaving.push_back(at),
            _ => {
                self.marks += 1;
                self.append(flow, at);
            }
        }
    }

    /// Something that is said of a flow waits behind its frames.
    pub fn has_marks(&self) -> bool {
        self.marks > 0
    }

    /// Fewer messages are here than frames may be.
    pub fn has_room(&self) -> bool {
        self.held + self.leaving.len() < MAX_MESSAGES
    }

    fn begin(&mut self) {
        if self.flows.is_empty() {
            self.flows = vec![Flow::EMPTY; FLOWS];
        }
    }

    fn append(&mut self, flow: usize, at: u16) {
        let len = self.waiting[usize::from(at)].len;
        self.held += 1;
        let queue = &mut self.flows[flow];
        match queue.head {
            NONE => queue.head = at,
            _ => self.waiting[usize::from(queue.tail)].next = at,
        }
        queue.tail = at;
        queue.backlog += len;
        if !queue.listed {
            (queue.listed, queue.credit) = (true, QUANTUM);
            self.new.push_back(flow as u16);
        }
    }

    /// A message that does not wait: right behind those that are leaving.
    pub fn push_leaving(&mut self, opcode: Opcode, body: &[u8], key: Option<Key>) {
        let at = self.encode(opcode, &[body.into()], key, Label::default(), &mut ());
        self.leaving.push_back(at);
    }

    /// Moves the next frame to those that are leaving: its length, or `None` when there is none.
    pub fn pop(&mut self, now: u64) -> Option<usize> {
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
            let len = self.waiting[usize::from(at)].len;
            self.flows[index].credit -= len as i32;
            self.held -= 1;
            self.leaving.push_back(at);
            return Some(len as usize);
        }
        None
    }

    /// Fills `slices` with what is leaving, from its beginning; how many there are.
    pub fn leaving<'q>(&'q self, slices: &mut [IoSlice<'q>]) -> usize {
        let (mut count, mut skip) = (0, self.written);
        for at in &self.leaving {
            for chunk in self.chunks.of(self.waiting[usize::from(*at)].chunk) {
                // What is written fills whole chunks but for the last that it reaches.
                let done = skip.min(chunk.len());
                skip -= done;
                if done == chunk.len() {
                    continue;
                }
                let Some(slice) = slices.get_mut(count) else { return count };
                *slice = IoSlice::new(&chunk[done..]);
                count += 1;
            }
        }
        count
    }

    /// Messages that are leaving.
    pub fn count_leaving(&self) -> usize {
        self.leaving.len()
    }

    /// `n` more bytes of what is leaving are written; the frames that are out whole with that, and their bytes.
    /// `each` is called for each message with a stamp.
    pub fn advance(&mut self, n: usize, mut each: impl FnMut(Label)) -> (u64, u64) {
        self.written += n;
        let (mut frames, mut bytes) = (0, 0);
        while let Some(&at) = self.leaving.front() {
            let Waiting { len, label, .. } = self.waiting[usize::from(at)];
            if self.written < len as usize {
                break;
            }
            self.written -= len as usize;
            self.leaving.pop_front();
            self.release(at);
            frames += u64::from(label.frames.0);
            bytes += u64::from(label.frames.1);
            if label.stamp != 0 {
                each(label);
            }
        }
        (frames, bytes)
    }

    /// Gives memory back after a burst.
    pub fn shrink(&mut self) {
        if self.is_empty() {
            let (lost, bare, captures) = (self.lost, self.bare, std::mem::take(&mut self.captures));
            *self = Self { lost, bare, captures, ..Self::default() };
        }
    }

    fn encode(
        &mut self,
        opcode: Opcode,
        pieces: &[Piece<'_>],
        key: Option<Key>,
        label: Label,
        probe: &mut impl Probe,
    ) -> u16 {
        let chunk = self.chunks.draw();
        let mut message = Message { chunks: &mut self.chunks, last: chunk, len: 0 };
        match self.bare {
            true => append(&mut message, pieces, None, probe),
            false => encode(&mut message, opcode, pieces, key, probe),
        }
        let len = message.len as u32;
        let key = key.unwrap_or_default();
        let waiting = Waiting { label, came: 0, len, chunk, frame: 0, key, phase: 0, next: NONE };
        match self.free.pop() {
            Some(at) => {
                self.waiting[usize::from(at)] = waiting;
                at
            }
            None => {
                self.waiting.push(waiting);
                (self.waiting.len() - 1) as u16
            }
        }
    }

    #[cfg(test)]
    pub fn memory(&self) -> usize {
        self.chunks.all.len() * CHUNK
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
        loop {
            let flow = &mut self.flows[index];
            let at = flow.head;
            if at == NONE {
                return None;
            }
            let waiting = &self.waiting[usize::from(at)];
            flow.head = waiting.next;
            flow.backlog -= waiting.len;
            if waiting.label.frames.0 > 0 {
                return Some(at);
            }
            // A mark: all that went before it has left by now, or is dropped.
            self.held -= 1;
            self.marks -= 1;
            self.leaving.push_back(at);
        }
    }

    fn mark(&mut self, at: u16) -> bool {
        let Waiting { chunk, frame, key, phase, label, .. } = self.waiting[usize::from(at)];
        let head = &mut self.chunks.all[usize::from(chunk)][usize::from(frame)..];
        let end = head.len().min(HEAD);
        let head = &mut head[..end];
        mask(head, key, phase.into());
        let marked = mark_congestion(head);
        mask(head, key, phase.into());
        self.lost.marked += if marked { label.frames.0.into() } else { 0 };
        marked
    }

    fn drop_late(&mut self, at: u16) {
        self.lost.late += u64::from(self.waiting[usize::from(at)].label.frames.0);
        self.show(at, Reason::QueueDelay);
        self.forget(at);
    }

    /// Drops the oldest of the longest queue, and of others where that is short: so much that this is not to be done
    /// for the next frame again.
    fn relieve(&mut self) {
        let longest = self.flows.iter().enumerate().max_by_key(|(_, flow)| flow.backlog);
        let Some((mut index, _)) = longest else { return };
        let (held, chunks) = (self.held, self.chunks.used);
        while self.held > 0 && self.held + MAX_MESSAGES / 16 > held && self.chunks.used + MAX_PIECES > chunks
        {
            let Some(at) = self.unlink(index) else {
                index = (index + 1) % FLOWS;
                continue;
            };
            self.lost.full += u64::from(self.waiting[usize::from(at)].label.frames.0);
            self.show(at, Reason::QueueFull);
            self.forget(at);
        }
    }

    fn forget(&mut self, at: u16) {
        self.held -= 1;
        self.release(at);
    }

    fn release(&mut self, at: u16) {
        self.chunks.release(self.waiting[usize::from(at)].chunk);
        self.free.push(at);
    }
}

thread_local! {
    /// Where a frame is put together again that was dropped while somebody looked on.
    static DROPPED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The place of a frame's flow.
pub fn flow_of(frame: &[Piece<'_>], hasher: &RandomState) -> usize {
    let mut head = [0; HEAD];
    let mut filled = 0;
    for piece in frame {
        let n = piece.bytes.len().min(HEAD - filled);
        let part = &mut head[filled..filled + n];
        part.copy_from_slice(&piece.bytes[..n]);
        mask(part, piece.key, piece.phase);
        filled += n;
    }
    flow(&head[..filled], hasher) as usize % FLOWS
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

fn control_law(from: u64, count: u32) -> u64 {
    from + (INTERVAL as f64 / f64::from(count).sqrt()) as u64
}

/// A port's queue holds at most so many messages, and 4 MiB of memory for them.
const MAX_MESSAGES: usize = 1024;
const MAX_CHUNKS: usize = (4 << 20) / CHUNK;
/// Of a message.
const MAX_PIECES: usize = (MAX_HEADER + VnetHeader::LEN + MAX_FRAME).div_ceil(CHUNK);
const NONE: u16 = u16::MAX;
/// Of a frame, enough for its tags, IP header and ports.
const HEAD: usize = 96;

/// RFC 8290 5.2.
pub const FLOWS: usize = 1024;
const QUANTUM: i32 = 1514;
/// RFC 8289 4.3 and 4.2, in nanoseconds.
const TARGET: u64 = 5_000_000;
const INTERVAL: u64 = 100_000_000;

#[cfg(test)]
mod tests;
