//! The clock reads of one batch: stamped as they come, accounted when a frame, or the batch, is done.

use std::sync::Arc;

use super::Probe;
use super::counters::{PortAt, Whole, add};
use super::per_thread::{MARKS, Mark, PER_THREAD, PerThread, Place};
use super::profiler::{Orders, Profiler};
use super::snapshot::Level;
use super::stage::{Dir, Path, Stage, Within, size_class};
use super::trace::Traced;
use crate::sys::clock::{thread_cpu_ns, ticks};

/// What the data path tells of a batch, besides the end of each stage.
pub trait Tape: Probe {
    /// The port that the batch came in by.
    fn from(&mut self, port: PortAt);
    /// The port that frames leave by from here on.
    fn to(&mut self, port: PortAt);
    /// What follows is done for a copy of a flood ([`Within::Flood`]) or for a part of a super-frame
    /// ([`Within::Segment`]), until [`Tape::leave`] with what is returned.
    fn enter(&mut self, below: Within) -> Within;
    fn leave(&mut self, within: Within);
    /// What was done since the last mark was `stage`, for all frames of the batch.
    fn mark_batch(&mut self, stage: Stage);
    /// The same, for so many frames that leave by `port`.
    fn mark_many(&mut self, stage: Stage, port: PortAt, frames: u64, bytes: u64);
    /// A frame of `len` bytes is done, `frames` and `bytes` on a cable; it begins with `head`.
    fn frame(&mut self, head: Head, len: usize, frames: u32, bytes: u32);
    /// The time, for a frame to carry while it waits; 0: it is not watched.
    fn stamp(&self) -> u64;
    /// Frames with a stamp have left by `port`.
    fn waited(&mut self, profiler: &Arc<Profiler>, stamp: u64, port: PortAt, frames: u32, bytes: u32);
    /// The batch is done, all its writes too.
    fn end(&mut self, profiler: &Arc<Profiler>, frames: u64, bytes: u64);
    /// It was no batch, but work for the port all the same: a read that found nothing, a write of what waited.
    /// Nothing if it has ended.
    fn close(&mut self, profiler: &Arc<Profiler>);
    /// The addresses that a frame begins with; looked at only where somebody wants them.
    fn head(&self, frame: &[u8]) -> Head;
}

/// Destination and source.
pub type Head = [u8; 12];

/// A batch whose stages are not measured; two clock reads tell how long it took, or none.
pub struct Lap {
    /// Ticks; 0: nothing is counted.
    began: u64,
    from: Option<PortAt>,
}

/// A batch whose stages are measured.
pub struct Recorder {
    // Taken out only by `drop`.
    thread: Option<Box<PerThread>>,
}

/// One or the other, as sampling will have it.
pub enum Opened {
    Lap(Lap),
    Recorder(Recorder),
}

/// Work that is the same for both, once for each.
#[macro_export]
macro_rules! with_tape {
    ($profiler:expr, |$tape:ident| $work:expr) => {
        match $profiler.open() {
            $crate::prof::recorder::Opened::Lap(mut lap) => {
                let $tape = &mut lap;
                let result = $work;
                $crate::prof::Tape::close(&mut lap, &$profiler);
                result
            }
            $crate::prof::recorder::Opened::Recorder(mut recorder) => {
                let $tape = &mut recorder;
                let result = $work;
                $crate::prof::Tape::close(&mut recorder, &$profiler);
                result
            }
        }
    };
}

impl Profiler {
    /// Begins what may become a batch: before the read.
    #[inline]
    pub fn open(self: &Arc<Self>) -> Opened {
        let orders = self.orders();
        match orders.level {
            Level::Off => Opened::Lap(Lap { began: 0, from: None }),
            Level::Count => Opened::Lap(Lap { began: ticks(), from: None }),
            Level::Stage | Level::Trace => self.open_staged(orders),
        }
    }

    #[cold]
    fn open_staged(self: &Arc<Self>, orders: Orders) -> Opened {
        let now = ticks();
        let chosen = PerThread::with(self, |thread| {
            if (thread.epoch, thread.sample) != (orders.epoch, orders.sample) {
                thread.countdown = thread.next_countdown(orders.sample);
                thread.sample = orders.sample;
            }
            thread.gap(orders, now);
            thread.countdown = thread.countdown.saturating_sub(1);
            thread.countdown == 0
        });
        let thread = if chosen == Some(true) { PerThread::take(self) } else { None };
        let Some(mut thread) = thread else { return Opened::Lap(Lap { began: now, from: None }) };
        thread.countdown = thread.next_countdown(orders.sample);
        thread.begin(orders);
        Opened::Recorder(Recorder { thread: Some(thread) })
    }

    /// A data thread is about to sleep.
    pub fn parks(self: &Arc<Self>) {
        let Orders { level, epoch, .. } = self.orders();
        if level < Level::Stage {
            return;
        }
        PER_THREAD.with_borrow_mut(|place| {
            let Place::Here(thread) = place else { return };
            thread.parks = thread.parks.wrapping_add(1);
            let watched = thread.parks.is_multiple_of(PARKS);
            thread.parked_at = Some((epoch, ticks(), watched.then(thread_cpu_ns)));
        });
    }

    /// It has woken.
    pub fn unparks(&self) {
        let Orders { level, epoch, .. } = self.orders();
        if level < Level::Stage {
            return;
        }
        PER_THREAD.with_borrow_mut(|place| {
            let Place::Here(thread) = place else { return };
            // One of another time was not followed to its end.
            let Some((at_epoch, at, cpu)) = thread.parked_at.take() else { return };
            if at_epoch != epoch {
                return;
            }
            let slept = ticks().saturating_sub(at);
            thread.slept += slept;
            add(&thread.counters.wait, slept);
            if let Some(cpu) = cpu {
                add(&thread.counters.poll_cpu_ns, thread_cpu_ns().saturating_sub(cpu) * u64::from(PARKS));
            }
        });
    }

    /// Counts `work` as [`Stage::Timer`].
    pub fn timer<T>(self: &Arc<Self>, work: impl FnOnce() -> T) -> T {
        if self.orders().level < Level::Stage {
            return work();
        }
        let began = ticks();
        let result = work();
        PER_THREAD.with_borrow_mut(|place| {
            if let Place::Here(thread) = place {
                let took = ticks().saturating_sub(began);
                // It stands between two batches, where all else is the runtime's.
                thread.slept += took;
                add(&thread.counters.timer, took);
            }
        });
        result
    }
}

impl Probe for Recorder {
    #[inline]
    fn mark(&mut self, stage: Stage) {
        let Some(thread) = &mut self.thread else { return };
        #[cfg(test)]
        tests::slow_down(stage);
        let ticks = thread.lap();
        let egress = if stage.is_egress() { thread.egress } else { None };
        let mark = Mark { path: Path::of(thread.within, stage), egress, ticks };
        // A frame counts once for each place, however often it comes by.
        let same = |other: &&mut Mark| (other.path, other.egress) == (mark.path, mark.egress);
        let bit = 1 << mark.path.index();
        let mut known = thread.marks.iter_mut().rev().take(if thread.seen & bit == 0 { 0 } else { MARKS });
        if let Some(known) = known.find(same) {
            known.ticks += ticks;
        } else if thread.marks.len() < MARKS {
            thread.marks.push(mark);
            thread.seen |= bit;
        } else {
            // A flood to very many: what comes behind counts as no more frames.
            thread.charge(mark, thread.dir(), 0, 0, 0);
        }
        if thread.traces {
            thread.traced.push(mark.path, ticks);
        }
    }
}

impl Tape for Recorder {
    fn from(&mut self, port: PortAt) {
        if let Some(thread) = &mut self.thread {
            thread.ingress = Some(port);
        }
    }

    fn to(&mut self, port: PortAt) {
        let Some(thread) = &mut self.thread else { return };
        thread.egress = Some(port);
        thread.dir = thread.dir.or(port.side.sent());
    }

    fn enter(&mut self, below: Within) -> Within {
        let Some(thread) = &mut self.thread else { return Within::Frame };
        let before = thread.within;
        thread.within = match (before, below) {
            (Within::Frame, below) => below,
            (Within::Flood, Within::Segment) => Within::FloodSegment,
            (Within::Segment, Within::Flood) => Within::SegmentFlood,
            (before, _) => before,
        };
        before
    }

    fn leave(&mut self, within: Within) {
        if let Some(thread) = &mut self.thread {
            thread.within = within;
        }
    }

    fn mark_batch(&mut self, stage: Stage) {
        let Some(thread) = &mut self.thread else { return };
        let ticks = thread.lap();
        if thread.of_batch.len() < MARKS {
            thread.of_batch.push(Mark { path: Path::of(Within::Frame, stage), egress: None, ticks });
        }
        if thread.traces {
            thread.traced.push(Path::of(Within::Frame, stage), ticks);
        }
    }

    fn mark_many(&mut self, stage: Stage, port: PortAt, frames: u64, bytes: u64) {
        let Some(thread) = &mut self.thread else { return };
        let ticks = thread.lap();
        let egress = stage.is_egress().then_some(port);
        let mark = Mark { path: Path::of(Within::Frame, stage), egress, ticks };
        // In the middle of a frame it is that frame's fate, too.
        if thread.traces && !thread.marks.is_empty() {
            thread.traced.push(mark.path, ticks);
        }
        let dir = port.side.sent().unwrap_or(match thread.dir() {
            Dir::Local => thread.last_dir,
            dir => dir,
        });
        let size = thread.size_of_many(frames, bytes);
        thread.charge(mark, dir, size, frames, bytes);
        thread.accounted();
    }

    fn frame(&mut self, head: Head, len: usize, frames: u32, bytes: u32) {
        let Some(thread) = &mut self.thread else { return };
        let dir = thread.dir();
        let size = size_class(len, frames > 1);
        thread.has_super |= frames > 1;
        for index in 0..thread.marks.len() {
            let mark = thread.marks[index];
            thread.charge(mark, dir, size, frames.into(), bytes.into());
        }
        thread.marks.clear();
        thread.seen = 0;
        if thread.traces {
            thread.traced.at = ticks();
            thread.traced.len = len as u32;
            thread.traced.head = head;
            thread.traced.ingress = thread.ingress.map_or(0, |at| at.number);
            thread.traced.egress = thread.egress.map_or(0, |at| at.number);
            thread.writer.keep(&thread.counters.slowest, &thread.traced);
            thread.traced = Traced::NONE;
        }
        thread.last_dir = dir;
        (thread.dir, thread.egress, thread.within) = (None, None, Within::Frame);
        thread.accounted();
    }

    fn stamp(&self) -> u64 {
        // Whoever takes it off may run on another thread: only the common clock will do.
        ticks()
    }

    fn waited(&mut self, _: &Arc<Profiler>, stamp: u64, port: PortAt, frames: u32, bytes: u32) {
        if let Some(thread) = &mut self.thread {
            thread.waited(stamp, port, frames, bytes);
        }
    }

    fn end(&mut self, _: &Arc<Profiler>, frames: u64, bytes: u64) {
        let Some(thread) = &mut self.thread else { return };
        let size = thread.size_of_many(frames, bytes);
        let dir = match thread.dir() {
            Dir::Local => thread.last_dir,
            dir => dir,
        };
        for index in 0..thread.of_batch.len() {
            let mark = thread.of_batch[index];
            thread.charge(mark, dir, size, frames, bytes);
        }
        // Marks that no frame has claimed: of frames that were refused before they were one.
        for index in 0..thread.marks.len() {
            let mark = thread.marks[index];
            thread.charge(mark, dir, size, 0, 0);
        }
        thread.accounted();
        let took = ticks().saturating_sub(thread.ended);
        if let Some(at) = thread.ingress.take() {
            let whole = &thread.port(at).whole;
            count(whole, frames, bytes, took);
        }
        thread.ended = ticks();
    }

    fn close(&mut self, _: &Arc<Profiler>) {
        let Some(thread) = &mut self.thread else { return };
        if thread.ingress.is_none() {
            return;
        }
        let dir = thread.dir();
        let marks = [std::mem::take(&mut thread.of_batch), std::mem::take(&mut thread.marks)];
        marks.iter().flatten().for_each(|mark| thread.charge(*mark, dir, 0, 0, 0));
        let [of_batch, frame] = marks;
        (thread.of_batch, thread.marks) = (of_batch, frame);
        thread.accounted();
        thread.ingress = None;
        thread.ended = ticks();
    }

    fn head(&self, frame: &[u8]) -> Head {
        frame.first_chunk().copied().unwrap_or_default()
    }
}

fn count(whole: &Whole, frames: u64, bytes: u64, took: u64) {
    add(&whole.batches, 1);
    add(&whole.frames, frames);
    add(&whole.bytes, bytes);
    add(&whole.ticks, took);
}

/// Gives the thread its own back.
impl Drop for Recorder {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.give_back();
        }
    }
}

impl Probe for Lap {
    #[inline(always)]
    fn mark(&mut self, _: Stage) {}
}

/// Nobody: for what belongs to no batch, and to measure what measuring costs.
impl Tape for () {
    #[inline(always)]
    fn from(&mut self, _: PortAt) {}

    #[inline(always)]
    fn to(&mut self, _: PortAt) {}

    #[inline(always)]
    fn enter(&mut self, _: Within) -> Within {
        Within::Frame
    }

    #[inline(always)]
    fn leave(&mut self, _: Within) {}

    #[inline(always)]
    fn mark_batch(&mut self, _: Stage) {}

    #[inline(always)]
    fn mark_many(&mut self, _: Stage, _: PortAt, _: u64, _: u64) {}

    #[inline(always)]
    fn frame(&mut self, _: Head, _: usize, _: u32, _: u32) {}

    #[inline(always)]
    fn stamp(&self) -> u64 {
        0
    }

    #[inline(always)]
    fn waited(&mut self, _: &Arc<Profiler>, _: u64, _: PortAt, _: u32, _: u32) {}

    #[inline(always)]
    fn end(&mut self, _: &Arc<Profiler>, _: u64, _: u64) {}

    #[inline(always)]
    fn close(&mut self, _: &Arc<Profiler>) {}

    #[inline(always)]
    fn head(&self, _: &[u8]) -> Head {
        Head::default()
    }
}

impl Tape for Lap {
    #[inline(always)]
    fn from(&mut self, port: PortAt) {
        self.from = Some(port);
    }

    #[inline(always)]
    fn to(&mut self, _: PortAt) {}

    #[inline(always)]
    fn enter(&mut self, _: Within) -> Within {
        Within::Frame
    }

    #[inline(always)]
    fn leave(&mut self, _: Within) {}

    #[inline(always)]
    fn mark_batch(&mut self, _: Stage) {}

    #[inline(always)]
    fn mark_many(&mut self, _: Stage, _: PortAt, _: u64, _: u64) {}

    #[inline(always)]
    fn frame(&mut self, _: Head, _: usize, _: u32, _: u32) {}

    #[inline(always)]
    fn stamp(&self) -> u64 {
        0
    }

    /// What was stamped in a batch that was measured may leave in one that is not.
    #[cold]
    fn waited(&mut self, profiler: &Arc<Profiler>, stamp: u64, port: PortAt, frames: u32, bytes: u32) {
        let orders = profiler.orders();
        if orders.level < Level::Stage {
            return;
        }
        PerThread::with(profiler, |thread| {
            thread.weight = orders.sample.into();
            (thread.ingress, thread.dir) = (None, None);
            thread.waited(stamp, port, frames, bytes);
        });
    }

    #[inline]
    fn end(&mut self, profiler: &Arc<Profiler>, frames: u64, bytes: u64) {
        if self.began == 0 {
            return;
        }
        let Some(at) = self.from.take() else { return };
        let now = ticks();
        PerThread::with(profiler, |thread| {
            count(&thread.port(at).whole, frames, bytes, now.saturating_sub(self.began));
            thread.ended = now;
        });
    }

    #[inline]
    fn close(&mut self, profiler: &Arc<Profiler>) {
        if self.began == 0 || self.from.is_none() {
            return;
        }
        PerThread::with(profiler, |thread| thread.ended = ticks());
    }

    #[inline(always)]
    fn head(&self, _: &[u8]) -> Head {
        Head::default()
    }
}

/// Of so many sleeps one is looked at with the CPU clock.
const PARKS: u32 = 8;

#[cfg(test)]
#[path = "recorder_tests.rs"]
pub mod tests;
