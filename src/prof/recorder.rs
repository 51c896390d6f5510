//! The clock reads of one batch: stamped as they come, accounted when a frame, or the batch, is done.

use std::cell::RefCell;
use std::sync::Arc;

use super::Probe;
use super::counters::{Charge, PortAt, PortCounters, ThreadCounters, add};
use super::profiler::{Orders, Profiler};
use super::snapshot::{Clock, Level};
use super::stage::{Dir, Path, Stage, Within, size_class};
use super::trace::{Traced, Writer};
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

/// What a thread keeps between its batches.
struct PerThread {
    profiler: Arc<Profiler>,
    counters: Arc<ThreadCounters>,
    /// By slot.
    ports: Vec<Option<Arc<PortCounters>>>,
    countdown: u32,
    /// Of which sampling that is.
    sample: u32,
    random: u64,
    batch: u64,
    weight: u64,
    clock: Clock,
    traces: bool,
    /// Ticks of one clock read.
    stamp: u64,
    ghz: f64,
    /// The last clock read.
    last: u64,
    /// Ticks that clock reads took, since that was last counted.
    own: u64,
    /// The end of the last batch.
    ended: u64,
    /// When stages were measured then, a number of that time.
    epoch: u16,
    /// Ticks since then that are explained.
    slept: u64,
    /// The epoch, the time, and the CPU time of one that is watched.
    parked_at: Option<(u16, u64, Option<u64>)>,
    parks: u32,
    ingress: Option<PortAt>,
    egress: Option<PortAt>,
    within: Within,
    /// Which way this frame goes, once a link has told.
    dir: Option<Dir>,
    /// And the last one did.
    last_dir: Dir,
    has_super: bool,
    marks: Vec<Mark>,
    /// Places that have a mark, a bit each.
    seen: u128,
    of_batch: Vec<Mark>,
    writer: Writer,
    traced: Traced,
}

#[derive(Clone, Copy)]
struct Mark {
    path: Path,
    /// The slot of an egress port.
    egress: Option<PortAt>,
    ticks: u64,
}

impl PerThread {
    /// This thread's, made if need be; `None` while another batch has it.
    fn take(profiler: &Arc<Profiler>) -> Option<Box<Self>> {
        PER_THREAD.with_borrow_mut(|place| match std::mem::replace(place, Place::Lent) {
            Place::Lent => None,
            Place::Here(thread) if Arc::ptr_eq(&thread.profiler, profiler) => Some(thread),
            _ => Some(Self::new(profiler)),
        })
    }

    /// Does `work` with it where it is; `None` while another batch has it.
    #[inline]
    fn with<T>(profiler: &Arc<Profiler>, work: impl FnOnce(&mut Self) -> T) -> Option<T> {
        PER_THREAD.with_borrow_mut(|place| {
            match place {
                Place::Lent => return None,
                Place::Here(thread) if Arc::ptr_eq(&thread.profiler, profiler) => {}
                _ => *place = Place::Here(Self::new(profiler)),
            }
            match place {
                Place::Here(thread) => Some(work(thread)),
                _ => None,
            }
        })
    }

    fn give_back(self: Box<Self>) {
        PER_THREAD.with_borrow_mut(|place| *place = Place::Here(self));
    }

    fn new(profiler: &Arc<Profiler>) -> Box<Self> {
        let counters = Arc::new(ThreadCounters::of_this_thread());
        profiler.register(counters.clone());
        Box::new(Self {
            profiler: profiler.clone(),
            counters,
            ports: Vec::new(),
            countdown: 0,
            sample: 0,
            random: ticks() | 1,
            batch: 0,
            weight: 1,
            clock: Clock::Wall,
            traces: false,
            stamp: 0,
            ghz: 1.0,
            last: 0,
            own: 0,
            seen: 0,
            ended: 0,
            epoch: 0,
            slept: 0,
            parked_at: None,
            parks: 0,
            ingress: None,
            egress: None,
            within: Within::Frame,
            dir: None,
            last_dir: Dir::Local,
            has_super: false,
            marks: Vec::with_capacity(MARKS),
            of_batch: Vec::with_capacity(MARKS),
            writer: Writer::default(),
            traced: Traced::NONE,
        })
    }

    /// Counts the time since the last batch, but for what was slept.
    fn gap(&mut self, orders: Orders, now: u64) {
        // Else the level was lower between the two batches.
        if self.epoch == orders.epoch {
            add(&self.counters.poll, now.saturating_sub(self.ended).saturating_sub(self.slept));
        }
        self.epoch = orders.epoch;
        self.slept = 0;
        self.ended = now;
    }

    /// Begins to measure.
    fn begin(&mut self, orders: Orders) {
        self.weight = orders.sample.into();
        self.batch += 1;
        self.clock = orders.clock;
        self.traces = orders.level == Level::Trace;
        (self.stamp, self.ghz) = self.profiler.calibration(orders.clock);
        self.last = self.now();
        (self.ingress, self.egress, self.dir) = (None, None, None);
        (self.within, self.has_super, self.last_dir) = (Within::Frame, false, Dir::Local);
        self.marks.clear();
        self.seen = 0;
        self.of_batch.clear();
        self.traced = Traced::NONE;
    }

    /// One batch in `sample`, at uneven distances: an even one might always meet the same of a pattern.
    fn next_countdown(&mut self, sample: u32) -> u32 {
        // xorshift64 (Marsaglia 2003).
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        1 + (self.random % (2 * u64::from(sample) - 1)) as u32
    }

    #[inline]
    fn now(&self) -> u64 {
        match self.clock {
            Clock::Wall => ticks(),
            Clock::Cpu => (thread_cpu_ns() as f64 * self.ghz) as u64,
        }
    }

    /// What has passed since the last clock read, without what the read itself takes.
    #[inline]
    fn lap(&mut self) -> u64 {
        let now = self.now();
        // The counters of two processors may differ, whatever they promise.
        let passed = now.saturating_sub(self.last);
        self.last = now;
        let own = passed.min(self.stamp);
        self.own += own;
        passed - own
    }

    /// Ends the time that accounting took.
    fn accounted(&mut self) {
        let now = self.now();
        let own = std::mem::take(&mut self.own) + now.saturating_sub(self.last);
        add(&self.counters.prof, own * self.weight);
        self.last = now;
    }

    fn port(&mut self, at: PortAt) -> &PortCounters {
        let index = at.slot as usize;
        if self.ports.len() <= index {
            self.ports.resize(index + 1, None);
        }
        let known = self.ports[index].as_ref().is_some_and(|port| port.at.number == at.number);
        if !known {
            self.ports[index] = None;
        }
        self.ports[index].get_or_insert_with(|| self.counters.meet(at))
    }

    fn charge(&mut self, mark: Mark, dir: Dir, size: usize, frames: u64, bytes: u64) {
        let Some(at) = mark.egress.or(self.ingress) else {
            add(&self.counters.lost, self.weight);
            return;
        };
        let dir = mark.egress.and_then(|at| at.side.sent()).unwrap_or(dir);
        let (weight, batch) = (self.weight, self.batch);
        let Mark { path, ticks, .. } = mark;
        self.port(at).charge(Charge { path, dir, size, frames, bytes, ticks, weight, batch });
    }

    /// Which way the frame goes, as far as is known.
    fn dir(&self) -> Dir {
        let received = self.ingress.and_then(|at| at.side.received());
        received.or(self.dir).unwrap_or(Dir::Local)
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

impl PerThread {
    fn size_of_many(&self, frames: u64, bytes: u64) -> usize {
        size_class(bytes.checked_div(frames).unwrap_or(0) as usize, self.has_super)
    }

    fn waited(&mut self, stamp: u64, port: PortAt, frames: u32, bytes: u32) {
        let ticks = ticks().saturating_sub(stamp);
        let mark = Mark { path: Path::of(Within::Frame, Stage::QWait), egress: Some(port), ticks };
        let size = size_class((bytes / frames.max(1)) as usize, frames > 1);
        self.charge(mark, self.dir(), size, frames.into(), bytes.into());
    }
}

fn count(whole: &super::counters::Whole, frames: u64, bytes: u64, took: u64) {
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

thread_local! {
    static PER_THREAD: RefCell<Place> = const { RefCell::new(Place::Empty) };
}

enum Place {
    Empty,
    /// A batch has it.
    Lent,
    Here(Box<PerThread>),
}

/// Stages of one frame, and of one batch, that are remembered.
const MARKS: usize = 256;
/// Of so many sleeps one is looked at with the CPU clock.
const PARKS: u32 = 8;

#[cfg(test)]
#[path = "recorder_tests.rs"]
pub mod tests;
