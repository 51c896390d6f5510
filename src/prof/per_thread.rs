//! What a thread keeps between its batches, and the accounting of what one batch has stamped.

use std::cell::RefCell;
use std::sync::Arc;

use super::counters::{Charge, PortAt, PortCounters, ThreadCounters, add};
use super::profiler::{Orders, Profiler};
use super::snapshot::{Clock, Level};
use super::stage::{Dir, Path, Stage, Within, size_class};
use super::trace::{Traced, Writer};
use crate::sys::clock::{thread_cpu_ns, ticks};

/// What a thread keeps between its batches.
pub struct PerThread {
    pub profiler: Arc<Profiler>,
    pub counters: Arc<ThreadCounters>,
    /// By slot.
    pub ports: Vec<Option<Arc<PortCounters>>>,
    pub countdown: u32,
    /// Of which sampling that is.
    pub sample: u32,
    pub random: u64,
    pub batch: u64,
    pub weight: u64,
    pub clock: Clock,
    pub traces: bool,
    /// Ticks of one clock read.
    pub stamp: u64,
    pub ghz: f64,
    /// The last clock read.
    pub last: u64,
    /// Ticks that clock reads took, since that was last counted.
    pub own: u64,
    /// The end of the last batch.
    pub ended: u64,
    /// When stages were measured then, a number of that time.
    pub epoch: u16,
    /// Ticks since then that are explained.
    pub slept: u64,
    /// The epoch, the time, and the CPU time of one that is watched.
    pub parked_at: Option<(u16, u64, Option<u64>)>,
    pub parks: u32,
    pub ingress: Option<PortAt>,
    pub egress: Option<PortAt>,
    pub within: Within,
    /// Which way this frame goes, once a link has told.
    pub dir: Option<Dir>,
    /// And the last one did.
    pub last_dir: Dir,
    pub has_super: bool,
    pub marks: Vec<Mark>,
    /// Places that have a mark, a bit each.
    pub seen: u128,
    pub of_batch: Vec<Mark>,
    pub writer: Writer,
    pub traced: Traced,
}

#[derive(Clone, Copy)]
pub struct Mark {
    pub path: Path,
    /// The port that it leaves by, of an egress stage.
    pub egress: Option<PortAt>,
    pub ticks: u64,
}

impl PerThread {
    /// This thread's, made if need be; `None` while another batch has it.
    pub fn take(profiler: &Arc<Profiler>) -> Option<Box<Self>> {
        PER_THREAD.with_borrow_mut(|place| match std::mem::replace(place, Place::Lent) {
            Place::Lent => None,
            Place::Here(thread) if Arc::ptr_eq(&thread.profiler, profiler) => Some(thread),
            _ => Some(Self::new(profiler)),
        })
    }

    /// Does `work` with it where it is; `None` while another batch has it.
    #[inline]
    pub fn with<T>(profiler: &Arc<Profiler>, work: impl FnOnce(&mut Self) -> T) -> Option<T> {
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

    pub fn give_back(self: Box<Self>) {
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
    pub fn gap(&mut self, orders: Orders, now: u64) {
        // Else the level was lower between the two batches.
        if self.epoch == orders.epoch {
            add(&self.counters.poll, now.saturating_sub(self.ended).saturating_sub(self.slept));
        }
        self.epoch = orders.epoch;
        self.slept = 0;
        self.ended = now;
    }

    /// Begins to measure.
    pub fn begin(&mut self, orders: Orders) {
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
    pub fn next_countdown(&mut self, sample: u32) -> u32 {
        // xorshift64 (Marsaglia 2003).
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        1 + (self.random % (2 * u64::from(sample) - 1)) as u32
    }

    #[inline]
    pub fn now(&self) -> u64 {
        match self.clock {
            Clock::Wall => ticks(),
            Clock::Cpu => (thread_cpu_ns() as f64 * self.ghz) as u64,
        }
    }

    /// What has passed since the last clock read, without what the read itself takes.
    #[inline]
    pub fn lap(&mut self) -> u64 {
        let now = self.now();
        // The counters of two processors may differ, whatever they promise.
        let passed = now.saturating_sub(self.last);
        self.last = now;
        let own = passed.min(self.stamp);
        self.own += own;
        passed - own
    }

    /// Ends the time that accounting took.
    pub fn accounted(&mut self) {
        let now = self.now();
        let own = std::mem::take(&mut self.own) + now.saturating_sub(self.last);
        add(&self.counters.prof, own * self.weight);
        self.last = now;
    }

    pub fn port(&mut self, at: PortAt) -> &PortCounters {
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

    pub fn charge(&mut self, mark: Mark, dir: Dir, size: usize, frames: u64, bytes: u64) {
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
    pub fn dir(&self) -> Dir {
        let received = self.ingress.and_then(|at| at.side.received());
        received.or(self.dir).unwrap_or(Dir::Local)
    }

    pub fn size_of_many(&self, frames: u64, bytes: u64) -> usize {
        size_class(bytes.checked_div(frames).unwrap_or(0) as usize, self.has_super)
    }

    pub fn waited(&mut self, stamp: u64, port: PortAt, frames: u32, bytes: u32) {
        let ticks = ticks().saturating_sub(stamp);
        let mark = Mark { path: Path::of(Within::Frame, Stage::QWait), egress: Some(port), ticks };
        let size = size_class((bytes / frames.max(1)) as usize, frames > 1);
        self.charge(mark, self.dir(), size, frames.into(), bytes.into());
    }
}

thread_local! {
    pub static PER_THREAD: RefCell<Place> = const { RefCell::new(Place::Empty) };
}

pub enum Place {
    Empty,
    /// A batch has it.
    Lent,
    Here(Box<PerThread>),
}

/// Stages of one frame, and of one batch, that are remembered.
pub const MARKS: usize = 256;
