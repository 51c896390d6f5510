//! Which of a link's connections a frame takes, so that a flow's frames come in the order in which they went.
//!
//! Frames go by buckets of flows. A bucket begins on member 0, which is for sparse flows. When more than [`SPARSE`] bytes
//! of it went within a second it moves to the one of the other members that has the fewest such, and stays there until it
//! was silent for [`IDLE`] and all that it sent is acknowledged: then it begins anew. When a member is lost its buckets go
//! to those that are left, at once.
//!
//! A move could let frames overtake others that went before. So the old connection is told `leaves` behind the bucket's
//! last frame, and the new one `enters` before its first. Whoever reads `enters` before `leaves` reads no more of that
//! connection until that has come, or will not come any more ([`Hold`]). Between members that work buckets leave only
//! member 0, so nobody waits for one that waits himself. What is said of a bucket is a binary message of [`Mark::LEN`]
//! bytes, shorter than any frame. All of it happens under the bucket's lock, so that another thread's frame of the same
//! flow comes before or behind.

use std::hash::RandomState;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::Instant as Clock;

use tokio::time::Instant;

use super::fair;
use super::member::{FLOWS, Member};
use crate::sync::{Mutex, MutexGuard, PoisonError};
use crate::ws::codec::Piece;

/// The other connections of a link, and what is where.
pub struct Spread {
    /// From member 1 on.
    pub members: Box<[Member]>,
    start: Clock,
    hasher: RandomState,
    buckets: Box<[Mutex<Bucket>]>,
    /// Of each bucket, the last move of which the far end's `leaves` has come.
    left: Box<[AtomicU32]>,
}

/// Flows that go together.
#[derive(Clone, Copy, Default, Debug)]
pub struct Bucket {
    /// Where it goes.
    pub member: u8,
    /// Its moves so far.
    pub epoch: u32,
    /// When the last frame went, in nanoseconds.
    last: u64,
    /// When this second of it began, and its bytes since.
    second: u64,
    bytes: u64,
}

/// What becomes of a bucket's next frame; it goes to [`Bucket::member`] then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    Stays,
    /// It has come from there just now. With `told` the old connection works, and is to be told.
    Moves {
        from: u8,
        told: bool,
    },
}

/// What is said of a bucket between frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mark {
    /// No more of it comes by this connection.
    Leaves { bucket: u16, epoch: u32 },
    /// From here on it comes by this one. With `told` a `Leaves` comes by member `from`; else that one is lost.
    Enters { bucket: u16, epoch: u32, from: u8, told: bool },
}

/// Why a connection is not read.
#[derive(Clone, Copy, Debug)]
pub struct Hold {
    pub what: Awaited,
    /// Then it is read in any case.
    pub until: Instant,
}

#[derive(Clone, Copy, Debug)]
pub enum Awaited {
    /// Until the `count`th connection of `member` has read all that it will.
    Read { member: u8, count: u64 },
    /// Until `leaves` has come, or the `count`th connection of `from` has read all without, if it was reading.
    Left { bucket: u16, epoch: u32, from: u8, count: Option<u64> },
}

impl Spread {
    /// Of a link with so many members, the first counted.
    pub fn new(members: u8) -> Self {
        Self {
            members: (1..members).map(|_| Member::default()).collect(),
            start: Clock::now(),
            hasher: RandomState::new(),
            buckets: (0..FLOWS).map(|_| Mutex::default()).collect(),
            left: (0..FLOWS).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    /// Nanoseconds.
    pub fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    pub fn bucket_of(&self, frame: &[Piece<'_>]) -> usize {
        fair::flow_of(frame, &self.hasher)
    }

    pub fn lock(&self, bucket: usize) -> MutexGuard<'_, Bucket> {
        self.buckets[bucket].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Of the members in `among`, not none, the one with the fewest buckets of late. What another thread holds at this
    /// moment is not counted: its owner may be counting too.
    pub fn lightest(&self, among: u16, now: u64) -> u8 {
        let mut busy = [0_u32; 16];
        for bucket in self.buckets.iter().filter_map(|bucket| bucket.try_lock().ok()) {
            let is_busy = bucket.last != 0 && now.saturating_sub(bucket.last) < SECOND;
            busy[usize::from(bucket.member) % busy.len()] += u32::from(is_busy);
        }
        let members = (0..16_u8).filter(|member| among >> member & 1 == 1);
        members.min_by_key(|member| busy[usize::from(*member)]).unwrap_or(0)
    }

    /// The far end said that a bucket has left.
    pub fn has_left(&self, bucket: u16, epoch: u32) {
        self.left[usize::from(bucket)].store(epoch, Release);
    }

    /// It has said nothing yet.
    pub fn forget(&self) {
        self.left.iter().for_each(|left| left.store(0, Relaxed));
    }

    /// Whether it has, by this move at least.
    pub fn is_left(&self, bucket: u16, epoch: u32) -> bool {
        self.left[usize::from(bucket)].load(Acquire).wrapping_sub(epoch).cast_signed() >= 0
    }
}

impl Bucket {
    /// Where the next frame, of `len` bytes, goes. A bit of `up` stands for each member that is connected; `drained` says
    /// whether a member has sent all, `lightest` chooses among some. `None`: nobody is connected.
    pub fn route(
        &mut self,
        len: usize,
        now: u64,
        up: u16,
        drained: impl FnOnce(u8) -> bool,
        lightest: impl FnOnce(u16) -> u8,
    ) -> Option<Way> {
        let bulk = up & !1;
        let is_up = |member: u8| up >> member & 1 == 1;
        let idle = now.saturating_sub(self.last) >= IDLE;
        let was_new = self.last == 0;
        self.last = now.max(1);
        if now.saturating_sub(self.second) >= SECOND {
            (self.second, self.bytes) = (now, 0);
        }
        self.bytes += len as u64;
        if self.member != 0 && is_up(0) && idle && drained(self.member) {
            // Nothing of it is on its way that could be overtaken.
            self.member = 0;
        }
        let from = self.member;
        let to = match (is_up(from), bulk) {
            (true, 1..) if from == 0 && self.bytes > SPARSE => lightest(bulk),
            (true, _) => return Some(Way::Stays),
            (false, _) if is_up(0) && self.bytes <= SPARSE => 0,
            (false, 1..) => lightest(bulk),
            (false, 0) if is_up(0) => 0,
            (false, 0) => return None,
        };
        self.member = to;
        self.epoch = self.epoch.wrapping_add(1);
        // Nothing has gone by a lost one that could come late.
        if was_new && !is_up(from) {
            return Some(Way::Stays);
        }
        Some(Way::Moves { from, told: is_up(from) })
    }
}

impl Bucket {
    /// It has not moved after all.
    pub fn stays(&mut self, from: u8) {
        self.member = from;
        self.epoch = self.epoch.wrapping_sub(1);
    }
}

impl Mark {
    pub const LEN: usize = 8;

    pub fn bytes(self) -> [u8; Self::LEN] {
        let (kind, from, bucket, epoch) = match self {
            Self::Leaves { bucket, epoch } => (LEAVES, 0, bucket, epoch),
            Self::Enters { bucket, epoch, from, told: true } => (ENTERS, from, bucket, epoch),
            Self::Enters { bucket, epoch, from, told: false } => (ENTERS_LOST, from, bucket, epoch),
        };
        let ([a, b], [c, d, e, f]) = (bucket.to_be_bytes(), epoch.to_be_bytes());
        [kind, from, a, b, c, d, e, f]
    }

    /// What a peer says of a link with so many members, if it makes sense.
    pub fn read(bytes: &[u8], members: u8) -> Option<Self> {
        let [kind, from, a, b, c, d, e, f] = *<&[u8; Self::LEN]>::try_from(bytes).ok()?;
        let (bucket, epoch) = (u16::from_be_bytes([a, b]), u32::from_be_bytes([c, d, e, f]));
        if usize::from(bucket) >= FLOWS || from >= members {
            return None;
        }
        match kind {
            LEAVES if from == 0 => Some(Self::Leaves { bucket, epoch }),
            ENTERS | ENTERS_LOST => Some(Self::Enters { bucket, epoch, from, told: kind == ENTERS }),
            _ => None,
        }
    }
}

const LEAVES: u8 = b'l';
const ENTERS: u8 = b'e';
const ENTERS_LOST: u8 = b'x';

const SECOND: u64 = 1_000_000_000;
/// Longer than any hold.
const IDLE: u64 = 3 * SECOND;
/// Bytes of a bucket in a second that member 0 takes.
pub const SPARSE: u64 = 64 << 10;
/// How long a connection is not read at most.
pub const HOLD: std::time::Duration = std::time::Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    fn go(bucket: &mut Bucket, now: u64, up: u16) -> Option<Way> {
        bucket.route(1_500, now, up, |_| true, |among| among.trailing_zeros() as u8)
    }

    #[test]
    fn a_flow_that_sends_much_moves_once_and_comes_back_when_it_was_silent() {
        let mut bucket = Bucket::default();
        let mut moves = Vec::new();
        for n in 1..200 {
            match go(&mut bucket, n * 1_000, 0b1111).unwrap() {
                Way::Stays => (),
                moved => moves.push((n, moved)),
            }
        }
        assert_eq!(moves, [(44, Way::Moves { from: 0, told: true })]);
        assert_eq!((bucket.member, bucket.epoch), (1, 1));
        // A second of silence is not enough, nor one with frames on their way.
        assert_eq!(go(&mut bucket, 2 * SECOND, 0b1111), Some(Way::Stays));
        assert_eq!(bucket.route(60, 9 * SECOND, 0b1111, |_| false, |_| 1), Some(Way::Stays));
        assert_eq!(bucket.member, 1);
        assert_eq!(go(&mut bucket, 20 * SECOND, 0b1111), Some(Way::Stays));
        assert_eq!(bucket.member, 0);
    }

    #[test]
    fn a_flow_that_sends_little_stays_for_ever() {
        let mut bucket = Bucket::default();
        for n in 0..1_000 {
            assert_eq!(go(&mut bucket, n * SECOND / 40, 0b11), Some(Way::Stays));
        }
        assert_eq!((bucket.member, bucket.epoch), (0, 0));
    }

    #[test]
    fn who_is_lost_is_left_at_once_and_nobody_else_is() {
        let mut bucket = Bucket::default();
        (0..100).for_each(|n| _ = go(&mut bucket, n, 0b1111));
        assert_eq!(go(&mut bucket, 200, 0b1101), Some(Way::Moves { from: 1, told: false }));
        assert_eq!(bucket.member, 2);
        assert_eq!(go(&mut bucket, 201, 0b1111), Some(Way::Stays), "although the other one is back");
        assert_eq!(go(&mut bucket, 202, 0b0001), Some(Way::Moves { from: 2, told: false }));
        assert_eq!((bucket.member, go(&mut bucket, 203, 0)), (0, None));
        // A sparse one goes where there is somebody, and back to member 0 when it may.
        let mut sparse = Bucket::default();
        assert_eq!(go(&mut sparse, 1, 0b1110), Some(Way::Stays), "nothing of it was ever on member 0");
        assert_eq!(sparse.member, 1);
        assert_eq!(go(&mut sparse, 2, 0b1101), Some(Way::Moves { from: 1, told: false }));
        assert_eq!(sparse.member, 0);
    }

    #[test]
    fn the_lightest_has_the_fewest_that_are_busy() {
        let spread = Spread::new(4);
        for (bucket, member) in [1, 1, 2, 3, 3].into_iter().enumerate() {
            *spread.lock(bucket) = Bucket { member, last: 5 * SECOND, ..Bucket::default() };
        }
        assert_eq!(spread.lightest(0b1110, 5 * SECOND), 2);
        assert_eq!(spread.lightest(0b1010, 5 * SECOND), 1);
        assert_eq!(spread.lightest(0b1110, 7 * SECOND), 1, "all are idle");
        let _held = spread.lock(2);
        assert_eq!(spread.lightest(0b1110, 5 * SECOND), 2);
    }

    #[test]
    fn bad_78_marks_are_what_they_say_or_nothing() {
        for mark in [
            Mark::Leaves { bucket: 1023, epoch: u32::MAX },
            Mark::Enters { bucket: 0, epoch: 1, from: 3, told: true },
            Mark::Enters { bucket: 7, epoch: 9, from: 1, told: false },
        ] {
            let bytes = mark.bytes();
            assert_eq!(Mark::read(&bytes, 4), Some(mark));
            assert_eq!(Mark::read(&bytes[..7], 4), None);
            assert_eq!(Mark::read(&[&bytes[..], &[0]].concat(), 4), None);
        }
        assert_eq!(Mark::read(&[b'l', 0, 4, 0, 0, 0, 0, 1], 4), None, "no such bucket");
        assert_eq!(Mark::read(&[b'e', 4, 0, 0, 0, 0, 0, 1], 4), None, "no such member");
        assert_eq!(Mark::read(&[b'l', 1, 0, 0, 0, 0, 0, 1], 4), None);
        assert_eq!(Mark::read(&[0; 8], 4), None);
    }

    #[test]
    fn what_has_left_is_known_over_the_end_of_numbers() {
        let spread = Spread::new(2);
        assert!(!spread.is_left(5, 1));
        spread.has_left(5, u32::MAX);
        assert!(spread.is_left(5, u32::MAX) && !spread.is_left(5, 0));
        spread.has_left(5, 0);
        assert!(spread.is_left(5, 0) && spread.is_left(5, u32::MAX) && !spread.is_left(6, 1));
    }
}
