//! The forwarding database: which port a station was last heard on, by (VID, MAC).
//!
//! A hash table of buckets, each one cache line of four entries, that never moves. A station is in one of
//! two buckets: in the first one as long as that has room, and at most half of all places are ever
//! taken, so nearly every lookup reads one line. Its four keys are compared without a branch. When both
//! buckets are full, an entry moves to the other bucket of its own (a [`cuckoo`] hash).
//!
//! Readers walk atomics and take no lock; a station heard again on its port costs at most one relaxed
//! store a second. Everything else (a new station, a moved one, eviction, ageing) happens under one
//! lock, the *book*, which also keeps for each port the list of its entries in order of arrival.
//!
//! A reader may meet an entry while a writer reuses it. The writer clears the key first and sets it
//! last, and the reader looks at the key again after reading the rest: what it read torn it reads anew.
//! (A reader that stands still in the middle while its station goes, another comes and the first returns
//! to the same place does not notice; it sends one frame to the port of the other.) An entry that moves
//! is written in its new place before it leaves the old one, and a reader looks again where it may have
//! gone: nobody misses a station because others come. Were one to move faster than it is looked for, that
//! would be a miss, a miss is a flood, and a flood is always right. The store that says when a station was
//! last heard can come so late that the entry is another station's by then, or a static one: it says
//! nothing but the present time, which is harmless on the one and not looked at on the other. `proofs/`
//! tries all of this in every order that the memory model allows.
//!
//! Each port slot has a generation. Entries carry the generation of their port; flushing a port is one
//! increment, and its old entries are reclaimed when somebody needs the room or the sweep comes by.
//!
//! The database is bounded. When it is full, the port that holds most entries pays for a new one with
//! its stalest of the oldest few, so that a MAC flood on one port evicts only that port's entries.
//!
//! A port may hold so many entries and no more: a station beyond that is not learned. One that moves
//! too often is held where it is (see [`moves`]). Both are looked at only where the book is held anyway.
//!
//! Static entries are never aged, moved to another port, evicted or flushed.

mod book;
mod cuckoo;
mod listing;
mod moves;
#[cfg(test)]
mod tests;

use super::forward::Slot;
use crate::frame::MacAddr;
use crate::sync::atomic::{AtomicU32, Ordering::*, fence};
use crate::sync::{Mutex, MutexGuard, PoisonError};
use book::{Book, STATICS};
use cuckoo::{Bucket, EMPTY, WAYS};
use listing::Ahead;
use moves::Moves;

/// Learned and static stations. Time is whole seconds since any fixed start. Slots are below `SLOTS`.
pub struct Fdb<const SLOTS: usize = MAX_SLOTS> {
    seeds: [u64; 2],
    ageout: AtomicU32,
    limit: usize,
    buckets: Box<[Bucket]>,
    /// What the entries of a slot have for a place, with its present generation.
    places: Box<[AtomicU32; SLOTS]>,
    book: Mutex<Book>,
    /// Taken with the book held, or alone.
    moves: Mutex<Moves>,
    /// What the next page is made of; taken before the book.
    ahead: Mutex<Option<Ahead>>,
}

/// What [`Fdb::learn`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Learned {
    /// On the port where it was.
    Known,
    New,
    Moved {
        from: Slot,
    },
    /// A static entry says another port; nothing was learned.
    Fixed(Slot),
    /// The port holds as many stations as it may; nothing was learned.
    Full,
    /// It moves too often and is held on another port; nothing was learned.
    Held,
}

/// A station was held on the port in `slot` because it moves too often, or is free to move again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hold {
    pub vid: u16,
    pub mac: MacAddr,
    pub slot: Slot,
    pub held: bool,
}

/// One entry, for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Station {
    pub vid: u16,
    pub mac: MacAddr,
    pub slot: Slot,
    /// Seconds since it was last heard; 0 for a static entry.
    pub age: u32,
    pub fixed: bool,
}

impl Fdb {
    /// `limit` entries at most. `seeds` are random and stay secret.
    pub fn new(limit: usize, ageout: u32, seeds: [u64; 2]) -> Self {
        Self::with_slots(limit, ageout, seeds)
    }
}

impl<const SLOTS: usize> Fdb<SLOTS> {
    /// The same for any number of slots.
    pub fn with_slots(limit: usize, ageout: u32, seeds: [u64; 2]) -> Self {
        let limit = limit.clamp(1, MAX_ENTRIES);
        let buckets = (limit * 2).div_ceil(WAYS).next_power_of_two().max(2);
        // In its place at once: 256 KiB would stay with the stack of whoever begins.
        let places: Box<[_]> = (0..SLOTS as u32).map(AtomicU32::new).collect();
        let Ok(places) = places.try_into() else { unreachable!("SLOTS of them") };
        Self {
            seeds: [seeds[0], seeds[1] | 1],
            ageout: AtomicU32::new(ageout),
            limit,
            buckets: (0..buckets).map(|_| Bucket::default()).collect(),
            places,
            book: Mutex::new(Book::new(buckets * WAYS)),
            moves: Mutex::new(Moves::new()),
            ahead: Mutex::new(None),
        }
    }

    pub fn limit(&self) -> usize {
        self.limit
    }

    pub fn set_ageout(&self, seconds: u32) {
        self.ageout.store(seconds, Relaxed);
    }

    /// The port in `slot` may hold `most` learned stations from now on; those that it has stay.
    pub fn limit_port(&self, slot: Slot, most: u32) {
        self.book().set_most(slot, most);
    }

    /// How many stations moved from port to port so far, and who was held or released since the last call.
    pub fn moves(&self, now: u32) -> (u64, Vec<Hold>) {
        let mut moves = self.moves.lock().unwrap_or_else(PoisonError::into_inner);
        let told = moves.tell(now);
        let hold = |told: moves::Told| Hold {
            vid: vid_of(told.key),
            mac: MacAddr::from_bits(told.key),
            slot: told.slot,
            held: told.held,
        };
        (moves.count(), told.into_iter().map(hold).collect())
    }

    /// The slots that stations have moved from or to since the last call, in order.
    pub fn moved(&self) -> Vec<Slot> {
        self.moves.lock().unwrap_or_else(PoisonError::into_inner).places()
    }

    /// The port of a station heard within the ageing time, or of a static entry.
    pub fn lookup(&self, vid: u16, mac: MacAddr, now: u32) -> Option<Slot> {
        let key = key(vid, mac);
        for _ in 0..LOOKS {
            let entry = self.find(key)?;
            // In this order, for `learn_slowly` writes in the other: an old place never goes with a new time.
            let seen = entry.seen.load(Acquire);
            let place = entry.place.load(Acquire);
            fence(Acquire);
            if entry.key.load(Relaxed) == key {
                return self.is_live(place, seen, now).then(|| slot_of(place));
            }
        }
        None
    }

    /// `mac` was heard on the port in `slot`. Group and zero addresses are the caller's to refuse.
    pub fn learn(&self, vid: u16, mac: MacAddr, slot: Slot, now: u32) -> Learned {
        let key = key(vid, mac);
        if let Some(entry) = self.find(key) {
            let place = entry.place.load(Acquire);
            if place == self.place(slot) {
                if entry.seen.load(Relaxed) != now {
                    entry.seen.store(now, Relaxed);
                    #[cfg(test)]
                    tests::STORES.with(|stores| stores.set(stores.get() + 1));
                }
                return Learned::Known;
            }
            fence(Acquire);
            if place & FIXED != 0 && entry.key.load(Relaxed) == key {
                return fixed(place, slot);
            }
        }
        self.learn_slowly(key, slot, now)
    }

    /// A static entry; replaces whatever was known of the station. `false` when all room is static.
    pub fn insert_static(&self, vid: u16, mac: MacAddr, slot: Slot) -> bool {
        let key = key(vid, mac);
        self.forget_ahead();
        let mut book = self.book();
        if let Some(index) = self.index_of(key) {
            self.remove(&mut book, index);
        }
        self.insert(&mut book, key, slot.0 | FIXED, 0)
    }

    /// Removes a station, static or learned; the entry as it was.
    pub fn delete(&self, vid: u16, mac: MacAddr, now: u32) -> Option<Station> {
        let mut book = self.book();
        let index = self.index_of(key(vid, mac))?;
        let station = self.station(self.entry(index), now);
        self.remove(&mut book, index);
        station
    }

    /// Forgets what was learned on a port, in constant time; how many entries that were.
    pub fn flush(&self, slot: Slot) -> u64 {
        let mut book = self.book();
        let place = self.place(slot).wrapping_add(GENERATION) & !FIXED;
        self.places[slot.index()].store(place, Release);
        let flushed = book.orphan(slot);
        if place == slot.0 {
            // All generations were used: nothing of the first one may be left.
            self.remove_all(&mut book, |place, _| slot_of(place) == slot && place & FIXED == 0);
        }
        u64::from(flushed)
    }

    /// Forgets everything about a port that goes away, static entries included.
    pub fn forget_port(&self, slot: Slot) {
        self.flush(slot);
        let mut book = self.book();
        let statics: Vec<u32> = book.list(STATICS).collect();
        for index in statics {
            if slot_of(self.entry(index).place.load(Relaxed)) == slot {
                self.remove(&mut book, index);
            }
        }
    }

    /// Reclaims aged and flushed entries. Call every few seconds.
    pub fn sweep(&self, now: u32) {
        self.sweep_ahead(now);
        let mut book = self.book();
        self.remove_all(&mut book, |place, seen| !self.is_live(place, seen, now));
    }

    /// What [`Fdb::learn`] would answer; nothing is learned.
    pub fn would_learn(&self, vid: u16, mac: MacAddr, slot: Slot, now: u32) -> Learned {
        let key = key(vid, mac);
        let book = self.book();
        let may_move = |way| {
            let mut moves = self.moves.lock().unwrap_or_else(PoisonError::into_inner).clone();
            moves.admits(key, self.hash_of(key), way, now)
        };
        self.lesson(&book, key, slot, now, may_move).map_or_else(|learned| learned, |lesson| lesson.learned)
    }

    #[cold]
    fn learn_slowly(&self, key: u64, slot: Slot, now: u32) -> Learned {
        let mut book = self.book();
        let lesson = self.lesson(&book, key, slot, now, |way| self.may_move(key, way, now));
        let Lesson { learned, index, stale } = match lesson {
            Ok(lesson) => lesson,
            Err(learned) => return learned,
        };
        if let Some(stale) = stale {
            self.remove(&mut book, stale);
        }
        let here = self.place(slot);
        match index {
            None => _ = self.insert(&mut book, key, here, now),
            Some(index) => {
                book.unlink(index);
                let list = book.list_of(slot);
                book.push(list, index);
                let entry = self.entry(index);
                entry.place.store(here, Release);
                entry.seen.store(now, Release);
            }
        }
        learned
    }

    /// What there is to learn. `Err`: nothing, for this reason.
    fn lesson(
        &self,
        book: &Book,
        key: u64,
        slot: Slot,
        now: u32,
        may_move: impl FnOnce((Slot, Slot)) -> bool,
    ) -> Result<Lesson, Learned> {
        let Some(index) = self.index_of(key) else {
            let stale = self.room(book, slot, now)?;
            return Ok(Lesson { learned: Learned::New, index: None, stale });
        };
        let (_, place, seen) = self.entry(index).read();
        if place & FIXED != 0 {
            return Err(fixed(place, slot));
        }
        let was_live = self.is_live(place, seen, now);
        let from = slot_of(place);
        if was_live && from != slot && !may_move((from, slot)) {
            return Err(Learned::Held);
        }
        // One that stays on this port's list needs no room there.
        let needs_room = from != slot || place != self.place(slot);
        let stale = if needs_room { self.room(book, slot, now)? } else { None };
        let learned = match from {
            from if was_live && from != slot => Learned::Moved { from },
            _ if was_live => Learned::Known,
            _ => Learned::New,
        };
        Ok(Lesson { learned, index: Some(index), stale })
    }

    /// Room for one more station of the port in `slot`: one of its oldest has to go for it when they are not live.
    fn room(&self, book: &Book, slot: Slot, now: u32) -> Result<Option<u32>, Learned> {
        if !book.is_full(slot) {
            return Ok(None);
        }
        let stale = book.of_slot(slot).take(EVICTION_LOOK).find(|index| {
            let (_, place, seen) = self.entry(*index).read();
            !self.is_live(place, seen, now)
        });
        stale.map(Some).ok_or(Learned::Full)
    }

    /// Whether a station of this key may go from one port to another.
    fn may_move(&self, key: u64, way: (Slot, Slot), now: u32) -> bool {
        let mut moves = self.moves.lock().unwrap_or_else(PoisonError::into_inner);
        moves.admits(key, self.hash_of(key), way, now)
    }

    /// Puts a new entry into a free place, or one made free. `false` when all room is static.
    fn insert(&self, book: &mut Book, key: u64, place: u32, seen: u32) -> bool {
        if book.entries() == self.limit && !self.evict(book) {
            return false;
        }
        let Some(index) = self.make_room(book, key) else { return false };
        self.entry(index).write(key, place, seen);
        let list = if place & FIXED != 0 { STATICS } else { book.list_of(slot_of(place)) };
        book.push(list, index);
        true
    }

    /// Removes the stalest of the oldest few entries of the port that holds most. `false` when it has none.
    fn evict(&self, book: &mut Book) -> bool {
        let Some(payer) = book.payer() else { return false };
        let oldest = book.list(payer).take(EVICTION_LOOK);
        let stalest = oldest.min_by_key(|index| self.entry(*index).seen.load(Relaxed));
        stalest.map(|index| self.remove(book, index)).is_some()
    }

    fn remove(&self, book: &mut Book, index: u32) {
        self.entry(index).key.store(EMPTY, Release);
        book.unlink(index);
    }

    /// Removes the entries of which `which` is true, by place and time.
    fn remove_all(&self, book: &mut Book, which: impl Fn(u32, u32) -> bool) {
        for index in self.indices() {
            let (key, place, seen) = self.entry(index).read();
            if key != EMPTY && which(place, seen) {
                self.remove(book, index);
            }
        }
    }

    fn is_live(&self, place: u32, seen: u32, now: u32) -> bool {
        let is_current = place == self.place(slot_of(place));
        place & FIXED != 0 || is_current && now.saturating_sub(seen) <= self.ageout.load(Relaxed)
    }

    /// A slot with its present generation.
    fn place(&self, slot: Slot) -> u32 {
        self.places[slot.index()].load(Relaxed)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // Each critical section leaves the lists whole at every point where it could panic.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is to be learned.
struct Lesson {
    learned: Learned,
    /// Where the station is already.
    index: Option<u32>,
    /// Whose place it takes.
    stale: Option<u32>,
}

/// Ports at a time; a slot is below it.
pub const MAX_SLOTS: usize = 1 << 16;

const MAX_ENTRIES: usize = 1 << 24;
/// Times that a reader looks for an entry that moves under it.
const LOOKS: usize = 4;
/// Entries of the payer that eviction compares.
const EVICTION_LOOK: usize = 8;
/// In a place: the entry is static, and has no generation.
const FIXED: u32 = 1 << 31;
/// In a place: the lowest bit of the generation.
const GENERATION: u32 = MAX_SLOTS as u32;

fn key(vid: u16, mac: MacAddr) -> u64 {
    1 << 60 | u64::from(vid & 0x0fff) << 48 | mac.bits()
}

fn vid_of(key: u64) -> u16 {
    (key >> 48) as u16 & 0x0fff
}

fn slot_of(place: u32) -> Slot {
    Slot(place % MAX_SLOTS as u32)
}

/// What is learned of a station with a static entry.
fn fixed(place: u32, slot: Slot) -> Learned {
    if slot_of(place) == slot { Learned::Known } else { Learned::Fixed(slot_of(place)) }
}
