//! Which of a link's connections a frame takes, so that a flow's frames come in the order in which they went.
//!
//! Frames go by buckets of flows. A bucket begins on member 0, which is for sparse flows. When more than [`SPARSE`] bytes
//! of it went within a second it moves to the one of the other members that has the fewest such, and stays there until it
//! was silent for [`IDLE`] and all that it sent is acknowledged: then it begins anew. When a member is lost its buckets go
//! to those that are left, at once.
//!
//! A move could let frames overtake others that went before. So the old connection is told `leaves` behind the bucket's
//! last frame, and the new one `enters` before its first. Whoever reads `enters` before `leaves` reads no more of that
//! connection until that has come, or will not come any more ([`Awaited`]). `enters` names the connection that went
//! before, not its place alone: that may have been taken by another one since, which nobody has to wait for. A connection
//! where `leaves` still waits behind frames takes no bucket in: so what is read before a `leaves` was said before it, who
//! waits does so for somebody who waits for something older or not at all, and no two wait for each other. (Two threads
//! that look at the same moment, while a pace is being set, may both enter: then the bound of a wait ends it.) What is said of
//! a bucket is a binary message of [`Mark::LEN`] bytes, shorter than any frame. All of it happens under the bucket's lock,
//! so that another thread's frame of the same flow comes before or behind.
//!
//! Between members that work buckets leave member 0, and others when the link gets a pace: that is one connection's.

use std::cmp::Ordering;
use std::hash::RandomState;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, AtomicU64};

use super::fair;
use super::member::{FLOWS, Member};
use crate::sync::{Mutex, MutexGuard, PoisonError};
use crate::ws::codec::Piece;
use crate::ws::joining::Which;

/// The other connections of a link, and what is where.
pub struct Spread {
    /// From member 1 on.
    pub members: Box<[Member]>,
    hasher: RandomState,
    buckets: Box<[Mutex<Bucket>]>,
    /// Which link it is of those that there were, from 1 on: the far end of each counts moves for itself.
    link: AtomicU32,
    /// Of each bucket, the last move of which the far end's `leaves` has come; above it, of which link that was.
    left: Box<[AtomicU64]>,
}

/// Flows that go together.
#[derive(Clone, Copy, Default, Debug)]
pub struct Bucket {
    /// The connection that its last frame took.
    pub went: Which,
    /// Its moves so far.
    pub epoch: u32,
    /// When that was, in nanoseconds; 0: none of it is on its way.
    last: u64,
    /// When this second of it began, and its bytes since.
    second: u64,
    bytes: u64,
}

/// Which member a bucket's next frame takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// There is nothing to be said of it.
    Goes(u8),
    /// From another one.
    Moves(u8),
}

/// What is said of a bucket between frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mark {
    /// No more of it comes by this connection.
    Leaves { bucket: u16, epoch: u32 },
    /// From here on it comes by this one. With `told` a `Leaves` comes by connection `from`; else that one is lost.
    Enters { bucket: u16, epoch: u32, from: Which, told: bool },
}

/// What has to come before a connection is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Awaited {
    /// All that came by those that were in its place before, up to the `count`th.
    Turn { member: u8, count: u64 },
    /// All that came by this connection.
    Read(Which),
    /// `leaves`, or all that came by this connection without.
    Left { bucket: u16, epoch: u32, from: Which },
}

impl Spread {
    /// Of a link with so many members, the first counted.
    pub fn new(members: u8) -> Self {
        Self {
            members: (1..members).map(|_| Member::default()).collect(),
            hasher: RandomState::new(),
            buckets: (0..FLOWS).map(|_| Mutex::default()).collect(),
            link: AtomicU32::new(1),
            left: (0..FLOWS).map(|_| AtomicU64::new(0)).collect(),
        }
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
        if among.is_power_of_two() {
            return among.trailing_zeros() as u8;
        }
        let mut busy = [0_u32; 16];
        for bucket in self.buckets.iter().filter_map(|bucket| bucket.try_lock().ok()) {
            let is_busy = bucket.last != 0 && now.saturating_sub(bucket.last) < SECOND;
            busy[usize::from(bucket.went.member) % busy.len()] += u32::from(is_busy);
        }
        let members = (0..16_u8).filter(|member| among >> member & 1 == 1);
        members.min_by_key(|member| busy[usize::from(*member)]).unwrap_or(0)
    }

    /// Which link it is at the moment.
    pub fn link(&self) -> u32 {
        self.link.load(Acquire)
    }

    /// The far end said that a bucket has left: that of this link, which may be one of before. What it has said since is
    /// not taken back.
    pub fn has_left(&self, link: u32, bucket: u16, epoch: u32) {
        let said = u64::from(link) << 32 | u64::from(epoch);
        let is_news = |before: u64| match ((before >> 32) as u32).cmp(&link) {
            Ordering::Less => true,
            Ordering::Equal => !is_by(before as u32, epoch),
            Ordering::Greater => false,
        };
        let news = |before| is_news(before).then_some(said);
        let _ = self.left[usize::from(bucket)].fetch_update(Release, Relaxed, news);
    }

    /// Another link begins: its far end has said nothing yet, and nothing has gone to it.
    pub fn forget(&self) {
        self.link.fetch_add(1, Release);
        (0..FLOWS).for_each(|bucket| self.lock(bucket).begins());
    }

    /// Whether it has, by this move at least.
    pub fn is_left(&self, bucket: u16, epoch: u32) -> bool {
        let said = self.left[usize::from(bucket)].load(Acquire);
        (said >> 32) as u32 == self.link() && is_by(said as u32, epoch)
    }
}

/// Whether a move is that one, or came behind it.
fn is_by(this: u32, that: u32) -> bool {
    this.wrapping_sub(that).cast_signed() >= 0
}

impl Bucket {
    /// A frame of `len` bytes is about to go.
    pub fn count(&mut self, len: usize, now: u64) {
        if now.saturating_sub(self.second) >= SECOND {
            (self.second, self.bytes) = (now, 0);
        }
        self.bytes += len as u64;
    }

    /// Where it goes. A bit of `up` stands for each member that may have it; `drained` says whether a member has sent all,
    /// `lightest` chooses among some. `None`: there is nobody.
    pub fn route(
        &mut self,
        now: u64,
        up: u16,
        drained: impl FnOnce(u8) -> bool,
        lightest: impl FnOnce(u16) -> u8,
    ) -> Option<Way> {
        let bulk = up & !1;
        let is_up = |member: u8| up >> member & 1 == 1;
        let idle = now.saturating_sub(self.last) >= IDLE;
        if self.went.member != 0 && is_up(0) && idle && drained(self.went.member) {
            // Nothing of it is on its way that could be overtaken.
            self.begins();
        }
        let from = self.went.member;
        let to = match (is_up(from), bulk) {
            (true, 1..) if from == 0 && self.bytes > SPARSE => lightest(bulk),
            (true, _) => from,
            (false, _) if is_up(0) && self.bytes <= SPARSE => 0,
            (false, 1..) => lightest(bulk),
            (false, 0) if is_up(0) => 0,
            (false, 0) => return None,
        };
        // Nothing has gone by a lost one that could come late.
        let is_first = self.last == 0 && !is_up(from);
        Some(if to == from || is_first { Way::Goes(to) } else { Way::Moves(to) })
    }

    /// It went.
    pub fn went(&mut self, which: Which, now: u64) {
        (self.went, self.last) = (which, now.max(1));
    }

    /// It cannot move now: not before as much has gone again is that looked at.
    pub fn stays(&mut self) {
        self.bytes = 0;
    }

    /// The number of a move that is told.
    pub fn moves(&mut self) -> u32 {
        self.epoch = self.epoch.wrapping_add(1);
        self.epoch
    }

    /// None of it is on its way.
    fn begins(&mut self) {
        (self.went, self.last) = (Which::default(), 0);
    }
}

impl Mark {
    pub const LEN: usize = 12;

    pub fn bytes(self) -> [u8; Self::LEN] {
        let (kind, from, bucket, epoch) = match self {
            Self::Leaves { bucket, epoch } => (LEAVES, Which::default(), bucket, epoch),
            Self::Enters { bucket, epoch, from, told: true } => (ENTERS, from, bucket, epoch),
            Self::Enters { bucket, epoch, from, told: false } => (ENTERS_LOST, from, bucket, epoch),
        };
        let ([a, b], [c, d, e, f]) = (bucket.to_be_bytes(), epoch.to_be_bytes());
        let [g, h, i, j] = from.n.to_be_bytes();
        [kind, from.member, a, b, c, d, e, f, g, h, i, j]
    }

    /// What a peer says of a link with so many members, if it makes sense.
    pub fn read(bytes: &[u8], members: u8) -> Option<Self> {
        let [kind, member, a, b, c, d, e, f, g, h, i, j] = *<&[u8; Self::LEN]>::try_from(bytes).ok()?;
        let (bucket, epoch) = (u16::from_be_bytes([a, b]), u32::from_be_bytes([c, d, e, f]));
        let from = Which { member, n: u32::from_be_bytes([g, h, i, j]) };
        if usize::from(bucket) >= FLOWS || member >= members {
            return None;
        }
        match kind {
            LEAVES if from == Which::default() => Some(Self::Leaves { bucket, epoch }),
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

#[cfg(test)]
mod tests {
    use super::*;

    const TO: fn(u16) -> u8 = |among| among.trailing_zeros() as u8;

    /// A frame of 1,500 bytes goes.
    fn go(bucket: &mut Bucket, now: u64, up: u16) -> Option<Way> {
        let before = bucket.went.member;
        bucket.count(1_500, now);
        let way = bucket.route(now, up, |_| true, TO)?;
        let (Way::Goes(member) | Way::Moves(member)) = way;
        assert!(way != Way::Moves(before), "to where it was");
        bucket.went(Which { member, n: 0 }, now);
        Some(way)
    }

    #[test]
    fn a_flow_that_sends_much_moves_once_and_comes_back_when_it_was_silent() {
        let mut bucket = Bucket::default();
        let mut moves = Vec::new();
        for n in 1..200 {
            match go(&mut bucket, n * 1_000, 0b1111).unwrap() {
                Way::Goes(_) => (),
                moved => moves.push((n, moved)),
            }
        }
        assert_eq!(moves, [(44, Way::Moves(1))]);
        // A second of silence is not enough, nor one with frames on their way.
        assert_eq!(go(&mut bucket, 2 * SECOND, 0b1111), Some(Way::Goes(1)));
        bucket.count(60, 9 * SECOND);
        assert_eq!(bucket.route(9 * SECOND, 0b1111, |_| false, TO), Some(Way::Goes(1)));
        assert_eq!(go(&mut bucket, 20 * SECOND, 0b1111), Some(Way::Goes(0)));
    }

    #[test]
    fn a_flow_that_sends_little_stays_for_ever() {
        let mut bucket = Bucket::default();
        for n in 0..1_000 {
            assert_eq!(go(&mut bucket, n * SECOND / 40, 0b11), Some(Way::Goes(0)));
        }
    }

    #[test]
    fn who_is_lost_is_left_at_once_and_nobody_else_is() {
        let mut bucket = Bucket::default();
        (0..100).for_each(|n| _ = go(&mut bucket, n, 0b1111));
        assert_eq!(go(&mut bucket, 200, 0b1101), Some(Way::Moves(2)));
        assert_eq!(go(&mut bucket, 201, 0b1111), Some(Way::Goes(2)), "although the other one is back");
        assert_eq!(go(&mut bucket, 202, 0b0001), Some(Way::Moves(0)));
        assert_eq!(go(&mut bucket, 203, 0), None);
        // A sparse one goes where there is somebody, and back to member 0 when it may.
        let mut sparse = Bucket::default();
        assert_eq!(go(&mut sparse, 1, 0b1110), Some(Way::Goes(1)), "nothing of it was ever on member 0");
        assert_eq!(go(&mut sparse, 2, 0b1101), Some(Way::Moves(0)));
    }

    #[test]
    fn what_did_not_go_has_not_moved() {
        let mut bucket = Bucket::default();
        (0..100).for_each(|n| _ = go(&mut bucket, n, 0b0111));
        assert_eq!(bucket.went.member, 1);
        // One after the other is found broken: what is left behind is always member 1.
        for (up, to) in [(0b1101, 2), (0b1001, 3), (0b0001, 0)] {
            assert_eq!(bucket.route(200, up, |_| true, TO), Some(Way::Moves(to)));
            assert_eq!(bucket.went.member, 1);
        }
    }

    #[test]
    fn the_lightest_has_the_fewest_that_are_busy() {
        let spread = Spread::new(4);
        for (bucket, member) in [1, 1, 2, 3, 3].into_iter().enumerate() {
            spread.lock(bucket).went(Which { member, n: 7 }, 5 * SECOND);
        }
        assert_eq!(spread.lightest(0b1110, 5 * SECOND), 2);
        assert_eq!(spread.lightest(0b1010, 5 * SECOND), 1);
        assert_eq!(spread.lightest(0b1110, 7 * SECOND), 1, "all are idle");
        let held = spread.lock(2);
        assert_eq!(spread.lightest(0b1110, 5 * SECOND), 2);
        drop(held);
        spread.forget();
        assert_eq!(spread.lightest(0b1110, 5 * SECOND), 1, "of another link");
    }

    #[test]
    fn bad_78_marks_are_what_they_say_or_nothing() {
        for mark in [
            Mark::Leaves { bucket: 1023, epoch: u32::MAX },
            Mark::Enters { bucket: 0, epoch: 1, from: Which { member: 3, n: 0 }, told: true },
            Mark::Enters { bucket: 7, epoch: 9, from: Which { member: 1, n: u32::MAX }, told: false },
        ] {
            let bytes = mark.bytes();
            assert_eq!(Mark::read(&bytes, 4), Some(mark));
            assert_eq!(Mark::read(&bytes[..11], 4), None);
            assert_eq!(Mark::read(&[&bytes[..], &[0]].concat(), 4), None);
        }
        assert_eq!(Mark::read(b"l\0\x04\0\0\0\0\x01\0\0\0\0", 4), None, "no such bucket");
        assert_eq!(Mark::read(b"e\x04\0\0\0\0\0\x01\0\0\0\0", 4), None, "no such member");
        assert_eq!(Mark::read(b"l\x01\0\0\0\0\0\x01\0\0\0\0", 4), None);
        assert_eq!(Mark::read(b"l\0\0\0\0\0\0\x01\0\0\0\x01", 4), None);
        assert_eq!(Mark::read(&[0; Mark::LEN], 4), None);
    }

    #[test]
    fn what_has_left_is_known_over_the_end_of_numbers() {
        let spread = Spread::new(2);
        assert!(!spread.is_left(5, 1) && !spread.is_left(5, 1 << 31));
        spread.has_left(1, 5, u32::MAX);
        assert!(spread.is_left(5, u32::MAX) && !spread.is_left(5, 0));
        spread.has_left(1, 5, 0);
        assert!(spread.is_left(5, 0) && spread.is_left(5, u32::MAX) && !spread.is_left(6, 1));
    }
}
