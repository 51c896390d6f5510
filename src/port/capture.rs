//! Frames copied for whoever looks on (`etherctl capture`).
//!
//! A batch asks once whether anybody does: one relaxed load. While somebody does, each frame that a port lets in or sends,
//! and each drop by its name, is copied into a buffer of the capture's own, in one of a few *lanes* that each have a
//! lock. Nobody waits for a lane: who finds one taken, or full, takes the next, and when all are the frame is counted as
//! lost by the capture. One reader empties the lanes in turn; a lane is its for a moment only, and all others are free
//! meanwhile.

use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;

use crate::frame::bpf::Program;
use crate::frame::offload::Unfinished;
use crate::switch::Reason;

/// All captures of a switch.
#[derive(Default)]
pub struct Captures {
    on: AtomicBool,
    running: ArcSwap<Vec<Arc<Capture>>>,
    /// Held while `running` changes.
    changing: Mutex<()>,
}

/// The captures that run while one batch does; `None`: nobody looks on.
pub type Watch = Option<Arc<Vec<Arc<Capture>>>>;

/// What is captured.
#[derive(Debug)]
pub struct Wanted {
    /// A port's number; absent: all.
    pub port: Option<u32>,
    pub filter: Option<Program>,
    /// Bytes of a frame at most.
    pub snaplen: u32,
}

/// One capture.
pub struct Capture {
    wanted: Wanted,
    lanes: [Mutex<Lane>; LANES],
    /// Numbers for frames, in their order.
    next: AtomicU64,
    lost: AtomicU64,
}

/// Which way a frame goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    In,
    Out,
}

/// A frame at a port, and what becomes of it there.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    pub port: u32,
    pub way: Way,
    /// Frames that it will be on a cable.
    pub frames: u32,
    /// Of each of these, bytes of payload; 0: it is one.
    pub gso_size: u16,
    /// It goes no further.
    pub dropped: Option<Reason>,
}

/// A frame that was captured.
#[derive(Clone, Debug)]
pub struct Record {
    pub number: u64,
    /// Nanoseconds since 1970.
    pub unix_ns: u64,
    pub seen: Seen,
    /// Of the whole frame.
    pub len: u32,
    /// Its first bytes.
    pub bytes: Vec<u8>,
}

impl Seen {
    pub fn new(port: u32, way: Way, unfinished: Option<&Unfinished>, len: usize) -> Self {
        let (frames, gso_size) = unfinished.map_or((1, 0), |u| (u.count(len) as u32, u.header(0).gso_size));
        Self { port, way, frames, gso_size, dropped: None }
    }

    pub fn dropped(self, reason: Reason) -> Self {
        Self { dropped: Some(reason), ..self }
    }
}

impl Captures {
    /// Who looks on now.
    #[inline]
    pub fn watch(&self) -> Watch {
        if self.on.load(Relaxed) { Some(self.running.load_full()) } else { None }
    }

    /// Begins a capture, which lasts as long as its [`Running`]. `None`: there are enough already.
    pub fn begin(self: &Arc<Self>, wanted: Wanted) -> Option<Running> {
        let capture = Arc::new(Capture::new(wanted));
        self.change(|running| {
            (running.len() < MAX_CAPTURES).then(|| running.push(capture.clone()))?;
            Some(Running { captures: self.clone(), capture, spare: Lane::new(), held: Vec::new() })
        })
    }

    fn change<T>(&self, change: impl FnOnce(&mut Vec<Arc<Capture>>) -> T) -> T {
        let _changing = locked(&self.changing);
        let mut running = Vec::clone(&self.running.load());
        let result = change(&mut running);
        self.on.store(!running.is_empty(), Relaxed);
        self.running.store(Arc::new(running));
        result
    }
}

/// Shows a frame in parts to all who look on.
#[cold]
pub fn show(watch: &[Arc<Capture>], seen: Seen, parts: &[&[u8]]) {
    watch.iter().for_each(|capture| capture.take(seen, parts));
}

impl Capture {
    fn new(wanted: Wanted) -> Self {
        let lanes = std::array::from_fn(|_| Mutex::new(Lane::new()));
        Self { wanted, lanes, next: AtomicU64::new(0), lost: AtomicU64::new(0) }
    }

    fn take(&self, seen: Seen, parts: &[&[u8]]) {
        if self.wanted.port.is_some_and(|port| port != seen.port) {
            return;
        }
        let bytes = match &self.wanted.filter {
            Some(filter) => filter.run(parts).min(self.wanted.snaplen),
            None => self.wanted.snaplen,
        };
        if bytes == 0 {
            return;
        }
        let first = LANE.with(|lane| *lane);
        for lane in (0..LANES).map(|n| &self.lanes[(first + n) % LANES]) {
            if let Ok(mut lane) = lane.try_lock()
                && lane.put(&self.next, seen, parts, bytes as usize)
            {
                return;
            }
        }
        self.lost.fetch_add(1, Relaxed);
    }
}

/// A capture that runs, and its reader. It ends when this is dropped.
pub struct Running {
    captures: Arc<Captures>,
    capture: Arc<Capture>,
    /// What a lane gets for what it gives.
    spare: Lane,
    /// What is read already and has to wait for what comes before it.
    held: Vec<Record>,
}

impl Running {
    /// Frames that were captured since the last call, in their order.
    pub fn read(&mut self) -> Vec<Record> {
        // Those with a lower number are in their lanes, or their lane is taken: numbers are drawn under its lock.
        let until = self.capture.next.load(Relaxed);
        let mut read = mem::take(&mut self.held);
        for lane in &self.capture.lanes {
            mem::swap(&mut *locked(lane), &mut self.spare);
            self.spare.empty_into(&mut read);
        }
        read.sort_unstable_by_key(|record| record.number);
        let ready = read.partition_point(|record| record.number < until);
        self.held = read.split_off(ready);
        read
    }

    /// Frames that were wanted, and for which there was no room.
    pub fn lost(&self) -> u64 {
        self.capture.lost.load(Relaxed)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.captures.change(|running| running.retain(|other| !Arc::ptr_eq(other, &self.capture)));
    }
}

/// Room for frames that never grows.
struct Lane {
    bytes: Vec<u8>,
    heads: Vec<Head>,
}

struct Head {
    number: u64,
    unix_ns: u64,
    seen: Seen,
    len: u32,
    /// Where its bytes end.
    end: usize,
}

impl Lane {
    fn new() -> Self {
        Self { bytes: Vec::with_capacity(LANE_BYTES), heads: Vec::with_capacity(LANE_FRAMES) }
    }

    /// Copies the first `most` bytes of a frame; `false`: there is no room.
    fn put(&mut self, numbers: &AtomicU64, seen: Seen, parts: &[&[u8]], most: usize) -> bool {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let mut left = len.min(most);
        if self.heads.len() == LANE_FRAMES || self.bytes.len() + left > LANE_BYTES {
            return false;
        }
        for part in parts {
            let part = &part[..part.len().min(left)];
            self.bytes.extend_from_slice(part);
            left -= part.len();
        }
        let number = numbers.fetch_add(1, Relaxed);
        let unix_ns = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
        self.heads.push(Head { number, unix_ns, seen, len: len as u32, end: self.bytes.len() });
        true
    }

    fn empty_into(&mut self, read: &mut Vec<Record>) {
        let mut start = 0;
        for Head { number, unix_ns, seen, len, end } in self.heads.drain(..) {
            read.push(Record { number, unix_ns, seen, len, bytes: self.bytes[start..end].to_vec() });
            start = end;
        }
        self.bytes.clear();
    }
}

/// What a lock keeps is whole whenever somebody could panic.
fn locked<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

thread_local! {
    /// The lane that a thread tries first.
    static LANE: usize = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        NEXT.fetch_add(1, Relaxed)
    };
}

/// Captures at a time.
pub const MAX_CAPTURES: usize = 4;
/// More than there are data threads, unless somebody asks for many of these.
const LANES: usize = 8;
/// 8 MiB in all: a sixtieth of a second of 4 Gb/s.
const LANE_BYTES: usize = 1 << 20;
const LANE_FRAMES: usize = 8192;

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Wanted {
        Wanted { port: None, filter: None, snaplen: 262_144 }
    }

    fn seen(port: u32) -> Seen {
        Seen::new(port, Way::In, None, 60)
    }

    #[test]
    fn nobody_looks_on_until_a_capture_begins_and_after_it_ends() {
        let captures = Arc::<Captures>::default();
        assert!(captures.watch().is_none());
        let running = captures.begin(wanted()).unwrap();
        assert_eq!(captures.watch().unwrap().len(), 1);
        drop(running);
        assert!(captures.watch().is_none());
        let all: Vec<_> = (0..MAX_CAPTURES).map(|_| captures.begin(wanted()).unwrap()).collect();
        assert!(captures.begin(wanted()).is_none(), "there are enough");
        drop(all);
        assert!(captures.begin(wanted()).is_some());
    }

    #[test]
    fn a_frame_is_what_was_wanted_of_it() {
        let captures = Arc::<Captures>::default();
        let filter =
            Program::checked(&[[0x30, 0, 0, 4], [0x15, 0, 1, 5], [6, 0, 0, 100], [6, 0, 0, 0]]).unwrap();
        let mut running = captures.begin(Wanted { port: Some(2), filter: Some(filter), snaplen: 6 }).unwrap();
        let watch = captures.watch().unwrap();
        show(&watch, seen(1), &[&[1, 2, 3, 4, 5]]);
        show(&watch, seen(2), &[&[1, 2, 3, 4, 9]]);
        show(&watch, seen(2).dropped(Reason::Runt), &[&[1, 2, 3], &[], &[4, 5, 6, 7, 8]]);
        let read = running.read();
        assert_eq!(read.len(), 1);
        assert_eq!((read[0].len, &read[0].bytes[..]), (8, &[1, 2, 3, 4, 5, 6][..]));
        assert_eq!(read[0].seen.dropped, Some(Reason::Runt));
        assert!(running.read().is_empty());
    }

    #[test]
    fn what_there_is_no_room_for_is_lost_and_counted() {
        let captures = Arc::<Captures>::default();
        let mut running = captures.begin(wanted()).unwrap();
        let watch = captures.watch().unwrap();
        let frame = [7; 60_000];
        let sent = 2 * LANES * LANE_BYTES / frame.len();
        (0..sent).for_each(|_| show(&watch, seen(1), &[&frame]));
        let read = running.read().len();
        assert!(read > sent / 3 && running.lost() > 0, "{read} of {sent}");
        assert_eq!(read as u64 + running.lost(), sent as u64);
        show(&watch, seen(1), &[&frame]);
        assert_eq!(running.read().len(), 1, "there is room again");
    }

    #[test]
    fn frames_of_many_threads_come_in_order_and_none_twice() {
        const EACH: u64 = 20_000;
        let captures = Arc::<Captures>::default();
        let mut running = captures.begin(wanted()).unwrap();
        let mut read = Vec::new();
        std::thread::scope(|scope| {
            let threads: Vec<_> = (1..=3)
                .map(|port| {
                    let watch = captures.watch().unwrap();
                    scope.spawn(move || {
                        (0..EACH).for_each(|n| show(&watch, seen(port), &[&n.to_be_bytes()]));
                    })
                })
                .collect();
            while !threads.iter().all(|thread| thread.is_finished()) {
                read.extend(running.read());
            }
        });
        read.extend(running.read());
        assert!(read.is_sorted_by_key(|record| record.number));
        assert_eq!(read.len() as u64 + running.lost(), 3 * EACH);
        for port in 1..=3 {
            let of_port = read.iter().filter(|record| record.seen.port == port);
            assert!(of_port.map(|record| &record.bytes).is_sorted_by(|a, b| a < b), "each thread's in order");
        }
    }
}
