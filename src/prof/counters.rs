//! Where the stages are counted: one set for each thread and port, written by that thread alone and read
//! by whoever takes a snapshot. No lock, no read-modify-write; memory comes with the first batch of a
//! port, and with the first time of a stage.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::snapshot::{BUCKETS, bucket};
use super::stage::{Dir, Path, SIZES};
use super::trace::Slowest;
use crate::sys::clock::CpuClock;

/// What a port is to the way of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// A TAP or network device of this host.
    Device,
    /// A link that was dialled from here.
    Client,
    /// A link that came in.
    Server,
}

impl Side {
    /// Which way frames go that come in by such a port.
    pub fn received(self) -> Option<Dir> {
        match self {
            Self::Device => None,
            Self::Client => Some(Dir::ToClient),
            Self::Server => Some(Dir::ToServer),
        }
    }

    /// Which way frames go that leave by it.
    pub fn sent(self) -> Option<Dir> {
        match self {
            Self::Device => None,
            Self::Client => Some(Dir::ToServer),
            Self::Server => Some(Dir::ToClient),
        }
    }
}

/// A port as the data path knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortAt {
    pub slot: u32,
    pub number: u32,
    pub side: Side,
}

/// One thread's counters.
pub struct ThreadCounters {
    pub name: String,
    pub cpu: CpuClock,
    /// CPU time had when stages began to be measured, and had while they were before that; the control side's.
    pub staged: Mutex<Staged>,
    /// Ticks asleep, and of those the CPU time of falling asleep and waking, in nanoseconds.
    pub wait: AtomicU64,
    pub poll_cpu_ns: AtomicU64,
    /// Ticks between batches, awake.
    pub poll: AtomicU64,
    pub timer: AtomicU64,
    pub prof: AtomicU64,
    /// Marks that found no room.
    pub lost: AtomicU64,
    pub slowest: Slowest,
    ports: Mutex<Vec<Arc<PortCounters>>>,
}

/// Since when a thread's stages are measured (`None`: they are not), and its CPU time while they were.
#[derive(Default)]
pub struct Staged {
    pub from: Option<u64>,
    pub ns: u64,
}

/// One port's counters on one thread.
pub struct PortCounters {
    pub at: PortAt,
    pub whole: Whole,
    paths: [OnceLock<Box<PathCounters>>; Path::COUNT],
}

/// Of whole batches, on a cache line of its own.
#[repr(align(64))]
#[derive(Default)]
pub struct Whole {
    pub batches: AtomicU64,
    pub frames: AtomicU64,
    pub bytes: AtomicU64,
    pub ticks: AtomicU64,
}

/// One place in the tree.
pub struct PathCounters {
    pub cells: [[CellCounters; SIZES.len()]; Dir::ALL.len()],
    pub batches: AtomicU64,
    /// The latest of them.
    batch: AtomicU64,
    pub max: AtomicU64,
    pub hist: [AtomicU64; BUCKETS],
}

#[derive(Default)]
pub struct CellCounters {
    pub frames: AtomicU64,
    pub bytes: AtomicU64,
    pub ticks: AtomicU64,
}

/// One writer only: the others read.
#[inline]
pub fn add(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(more), Relaxed);
}

/// What one mark says.
#[derive(Clone, Copy, Debug)]
pub struct Charge {
    pub path: Path,
    pub dir: Dir,
    pub size: usize,
    pub frames: u64,
    pub bytes: u64,
    pub ticks: u64,
    /// It stands for so many of its kind.
    pub weight: u64,
    /// A number of the batch.
    pub batch: u64,
}

impl ThreadCounters {
    pub fn of_this_thread() -> Self {
        let thread = std::thread::current();
        Self {
            name: thread.name().unwrap_or("unnamed").to_owned(),
            cpu: CpuClock::of_this_thread(),
            staged: Mutex::default(),
            wait: AtomicU64::new(0),
            poll_cpu_ns: AtomicU64::new(0),
            poll: AtomicU64::new(0),
            timer: AtomicU64::new(0),
            prof: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            slowest: Slowest::default(),
            ports: Mutex::default(),
        }
    }

    /// Held only while a port is added or a snapshot is taken.
    pub fn ports(&self) -> MutexGuard<'_, Vec<Arc<PortCounters>>> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counters for a port that this thread has not met; those of the port that had its slot are gone.
    pub fn meet(&self, at: PortAt) -> Arc<PortCounters> {
        let new = Arc::new(PortCounters {
            at,
            whole: Whole::default(),
            paths: [const { OnceLock::new() }; Path::COUNT],
        });
        let mut ports = self.ports();
        ports.retain(|port| port.at.slot != at.slot);
        ports.push(new.clone());
        new
    }
}

impl PortCounters {
    pub fn charge(&self, charge: Charge) {
        let path = self.paths[charge.path.index()].get_or_init(Box::default);
        let cell = &path.cells[charge.dir as usize][charge.size];
        add(&cell.frames, charge.frames * charge.weight);
        add(&cell.bytes, charge.bytes * charge.weight);
        add(&cell.ticks, charge.ticks * charge.weight);
        if path.batch.load(Relaxed) != charge.batch {
            path.batch.store(charge.batch, Relaxed);
            add(&path.batches, charge.weight);
        }
        if charge.ticks > path.max.load(Relaxed) {
            path.max.store(charge.ticks, Relaxed);
        }
        add(&path.hist[bucket(charge.ticks)], charge.weight);
    }

    /// What there is of each place in the tree.
    pub fn paths(&self) -> impl Iterator<Item = (usize, &PathCounters)> {
        self.paths.iter().enumerate().filter_map(|(index, path)| Some((index, &**path.get()?)))
    }
}

impl Default for PathCounters {
    fn default() -> Self {
        Self {
            cells: Default::default(),
            batches: AtomicU64::new(0),
            batch: AtomicU64::new(0),
            max: AtomicU64::new(0),
            hist: [const { AtomicU64::new(0) }; BUCKETS],
        }
    }
}
