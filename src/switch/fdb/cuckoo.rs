//! The cuckoo hash: the array of buckets, the two of them that a key may be in, and how room is made there.

use super::book::Book;
use super::{FIXED, Fdb};
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering::*, fence};

impl<const SLOTS: usize> Fdb<SLOTS> {
    /// As readers find it.
    #[inline(always)]
    pub(super) fn find(&self, key: u64) -> Option<&Entry> {
        let [first, second] = self.buckets_of(key);
        self.buckets[first].find(key).or_else(|| self.find_beyond(first, second, key))
    }

    /// Apart, that the rest stays as small as most lookups are.
    #[cold]
    #[inline(never)]
    fn find_beyond(&self, first: usize, second: usize, key: u64) -> Option<&Entry> {
        // It may have gone from the second to the first between the two.
        self.buckets[second].find(key).or_else(|| self.buckets[first].find(key))
    }

    /// Where it is; certain only while the book is held.
    pub(super) fn index_of(&self, key: u64) -> Option<u32> {
        let mut there = self.buckets_of(key).into_iter().flat_map(ways);
        there.find(|index| self.entry(*index).key.load(Relaxed) == key)
    }

    /// The two buckets of a key, which are never the same.
    ///
    /// The hash is keyed: a multiplication by an odd secret, folded. That is no pseudo-random function;
    /// it need not be, for whoever sends frames never sees a hash or a part of one. What could be seen
    /// is that a station is forgotten, and that follows from the hash only where two full buckets and
    /// all that their entries could move to meet.
    fn buckets_of(&self, key: u64) -> [usize; 2] {
        let hash = self.hash_of(key);
        let within = self.buckets.len() - 1;
        let first = hash as usize & within;
        [first, first ^ ((hash >> 32) as usize | 1) & within]
    }

    #[inline(always)]
    pub(super) fn hash_of(&self, key: u64) -> u64 {
        let product = u128::from(key ^ self.seeds[0]) * u128::from(self.seeds[1]);
        product as u64 ^ (product >> 64) as u64
    }

    pub(super) fn entry(&self, index: u32) -> &Entry {
        &self.buckets[index as usize / WAYS].0[index as usize % WAYS]
    }

    pub(super) fn indices(&self) -> std::ops::Range<u32> {
        0..(self.buckets.len() * WAYS) as u32
    }

    /// A free place for `key` in one of its buckets.
    pub(super) fn make_room(&self, book: &mut Book, key: u64) -> Option<u32> {
        let buckets = self.buckets_of(key);
        let free = || buckets.into_iter().find_map(|bucket| self.free_way(bucket));
        free().or_else(|| buckets.into_iter().find_map(|bucket| self.displace(book, bucket, MOVES))).or_else(
            || {
                // Two moves do not help: with half of all places free this takes more luck than there is, or
                // knowledge of the seeds. Somebody in these buckets has to go.
                let learned = |index: &u32| self.entry(*index).place.load(Relaxed) & FIXED == 0;
                let there = buckets.into_iter().flat_map(ways).filter(learned);
                let stalest = there.min_by_key(|index| self.entry(*index).seen.load(Relaxed))?;
                self.remove(book, stalest);
                Some(stalest)
            },
        )
    }

    /// Frees a place in a full bucket: one of its entries moves to its other bucket, in which another may
    /// have to move first.
    fn displace(&self, book: &mut Book, bucket: usize, moves: u32) -> Option<u32> {
        ways(bucket).find_map(|from| {
            let entry = self.entry(from);
            let [first, second] = self.buckets_of(entry.key.load(Relaxed));
            let other = bucket ^ first ^ second;
            let deeper = || (moves > 1).then(|| self.displace(book, other, moves - 1)).flatten();
            let to = self.free_way(other).or_else(deeper)?;
            let (key, place, seen) = entry.read();
            self.entry(to).write(key, place, seen);
            entry.key.store(EMPTY, Release);
            book.relocate(key, from, to);
            Some(from)
        })
    }

    pub(super) fn free_way(&self, bucket: usize) -> Option<u32> {
        ways(bucket).find(|index| self.entry(*index).key.load(Relaxed) == EMPTY)
    }
}

/// A cache line.
#[derive(Default)]
#[repr(align(64))]
pub struct Bucket([Entry; WAYS]);

impl Bucket {
    /// Looks at all keys without a branch: which of them it is cannot be foretold.
    #[inline(always)]
    fn find(&self, key: u64) -> Option<&Entry> {
        let is_in = |way: usize| usize::from(self.0[way].key.load(Acquire) == key);
        // In none of these: it is in the first, or not there.
        let entry = &self.0[is_in(1) | (is_in(2) * 2) | (is_in(3) * 3)];
        (entry.key.load(Acquire) == key).then_some(entry)
    }
}

#[derive(Default)]
pub struct Entry {
    /// In-use bit, VID, MAC; 0 when free.
    pub key: AtomicU64,
    /// From the top: FIXED, 15 bits of generation, 16 bits of slot.
    pub place: AtomicU32,
    /// When it was last heard.
    pub seen: AtomicU32,
}

impl Entry {
    /// Key, place and time; whole only while the book is held.
    pub fn read(&self) -> (u64, u32, u32) {
        (self.key.load(Relaxed), self.place.load(Relaxed), self.seen.load(Relaxed))
    }

    /// The same whoever holds the book; `None`: it was written meanwhile.
    pub fn read_whole(&self) -> Option<(u64, u32, u32)> {
        let key = self.key.load(Acquire);
        // In the order of `Fdb::lookup`, which says why.
        let seen = self.seen.load(Acquire);
        let place = self.place.load(Acquire);
        fence(Acquire);
        (self.key.load(Relaxed) == key).then_some((key, place, seen))
    }

    /// The key was cleared before, and who sees the new place sees that.
    pub fn write(&self, key: u64, place: u32, seen: u32) {
        self.place.store(place, Release);
        self.seen.store(seen, Release);
        self.key.store(key, Release);
    }
}

fn ways(bucket: usize) -> std::ops::Range<u32> {
    (bucket * WAYS) as u32..(bucket * WAYS + WAYS) as u32
}

pub const WAYS: usize = 4;
/// Entries that move for one new one.
const MOVES: u32 = 2;
/// The key of a free place.
pub const EMPTY: u64 = 0;
