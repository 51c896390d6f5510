//! The forwarding database: which port a station was last heard on, by (VID, MAC).
//!
//! A chained hash table in arrays that never move. Readers walk a chain of atomics and take no lock; a
//! station heard again on its port costs at most one relaxed exchange a second. Everything else (a new
//! station, a moved one, eviction, ageing) happens under one lock, the *book*, which also keeps for each
//! port the list of its entries in order of arrival.
//!
//! A reader may meet an entry while a writer reuses it. The writer clears the key first and sets it
//! last, and the reader looks at the key again after reading the rest: a torn read is a miss, a miss is
//! a flood, and a flood is always right. A chain that changes underfoot may lead a reader astray, so
//! a walk is bounded.
//!
//! Each port slot has a generation. Entries carry the generation of their port; flushing a port is one
//! increment, and its old entries are reclaimed when somebody needs the room or the sweep comes by.
//!
//! The database is bounded. When it is full, the port that holds most entries pays for a new one with
//! its stalest of the oldest few, so that a MAC flood on one port evicts only that port's entries. The
//! hash is seeded: chains cannot be made long from outside.
//!
//! Static entries are never aged, moved, evicted or flushed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::*, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::forward::Slot;
use crate::frame::MacAddr;

/// Learned and static stations. Time is whole seconds since any fixed start.
pub struct Fdb {
    seeds: [u64; 2],
    ageout: AtomicU32,
    heads: Box<[AtomicU32]>,
    entries: Box<[Entry]>,
    generations: Box<[AtomicU32]>,
    book: Mutex<Book>,
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
        let limit = limit.clamp(1, MAX_ENTRIES);
        let buckets = (limit * 2).next_power_of_two();
        Self {
            seeds: [seeds[0], seeds[1] | 1],
            ageout: AtomicU32::new(ageout),
            heads: (0..buckets).map(|_| AtomicU32::new(NIL)).collect(),
            entries: (0..limit).map(|_| Entry::default()).collect(),
            generations: (0..MAX_SLOTS).map(|_| AtomicU32::new(0)).collect(),
            book: Mutex::new(Book { links: vec![Link::default(); limit].into(), ..Book::default() }),
        }
    }

    pub fn limit(&self) -> usize {
        self.entries.len()
    }

    pub fn set_ageout(&self, seconds: u32) {
        self.ageout.store(seconds, Relaxed);
    }

    /// The port of a station heard within the ageing time, or of a static entry.
    pub fn lookup(&self, vid: u16, mac: MacAddr, now: u32) -> Option<Slot> {
        let entry = &self.entries[self.find(key(vid, mac))? as usize];
        let place = entry.place.load(Acquire);
        let seen = entry.seen.load(Relaxed);
        fence(Acquire);
        if entry.key.load(Relaxed) != key(vid, mac) || !self.is_live(place, seen, now) {
            return None;
        }
        Some(place_slot(place))
    }

    /// `mac` was heard on the port in `slot`. Group and zero addresses are the caller's to refuse.
    pub fn learn(&self, vid: u16, mac: MacAddr, slot: Slot, now: u32) -> Learned {
        let key = key(vid, mac);
        let here = self.place(slot);
        if let Some(index) = self.find(key) {
            let entry = &self.entries[index as usize];
            let seen = entry.seen.load(Relaxed);
            if entry.place.load(Acquire) == here && seen != STATIC {
                if seen != now {
                    // Not over what a writer made of the entry since, a static one for example.
                    let _ = entry.seen.compare_exchange(seen, now, Relaxed, Relaxed);
                }
                return Learned::Known;
            }
        }
        self.learn_slowly(key, slot, now)
    }

    /// A static entry; replaces whatever was known of the station. `false` when all room is static.
    pub fn insert_static(&self, vid: u16, mac: MacAddr, slot: Slot) -> bool {
        let key = key(vid, mac);
        let mut book = self.book();
        if let Some(index) = self.find(key) {
            self.remove(&mut book, index);
        }
        self.insert(&mut book, key, slot, STATIC)
    }

    /// Removes a station, static or learned; the entry as it was.
    pub fn delete(&self, vid: u16, mac: MacAddr, now: u32) -> Option<Station> {
        let mut book = self.book();
        let index = self.find(key(vid, mac))?;
        let station = self.station(index, now);
        self.remove(&mut book, index);
        station
    }

    /// Forgets what was learned on a port, in constant time; how many entries that were.
    pub fn flush(&self, slot: Slot) -> u64 {
        let mut book = self.book();
        self.generations[slot.index()].fetch_add(1, Release);
        u64::from(book.orphan(slot))
    }

    /// Forgets everything about a port that goes away, static entries included.
    pub fn forget_port(&self, slot: Slot) {
        self.flush(slot);
        let mut book = self.book();
        let mut next = book.head(STATICS);
        while next != NIL {
            let index = next;
            next = book.links[index as usize].next;
            if place_slot(self.entries[index as usize].place.load(Relaxed)) == slot {
                self.remove(&mut book, index);
            }
        }
    }

    /// Reclaims aged and flushed entries. Call every few seconds.
    pub fn sweep(&self, now: u32) {
        let mut book = self.book();
        for index in 0..self.entries.len() as u32 {
            let entry = &self.entries[index as usize];
            let (place, seen) = (entry.place.load(Relaxed), entry.seen.load(Relaxed));
            if entry.key.load(Relaxed) != EMPTY && !self.is_live(place, seen, now) {
                self.remove(&mut book, index);
            }
        }
    }

    /// Every live entry, in no order.
    pub fn stations(&self, now: u32) -> Vec<Station> {
        let _book = self.book();
        (0..self.entries.len() as u32).filter_map(|index| self.station(index, now)).collect()
    }

    fn station(&self, index: u32, now: u32) -> Option<Station> {
        let entry = &self.entries[index as usize];
        let (key, place, seen) =
            (entry.key.load(Relaxed), entry.place.load(Relaxed), entry.seen.load(Relaxed));
        (key != EMPTY && self.is_live(place, seen, now)).then(|| Station {
            vid: (key >> 48) as u16 & 0x0fff,
            mac: MacAddr::from_bits(key),
            slot: place_slot(place),
            age: if seen == STATIC { 0 } else { now.saturating_sub(seen) },
            fixed: seen == STATIC,
        })
    }

    fn learn_slowly(&self, key: u64, slot: Slot, now: u32) -> Learned {
        let mut book = self.book();
        let Some(index) = self.find(key) else {
            self.insert(&mut book, key, slot, now);
            return Learned::New;
        };
        let entry = &self.entries[index as usize];
        let (place, seen) = (entry.place.load(Relaxed), entry.seen.load(Relaxed));
        let from = place_slot(place);
        if seen == STATIC {
            return if from == slot { Learned::Known } else { Learned::Fixed(from) };
        }
        let was_live = self.is_live(place, seen, now);
        book.unlink(index);
        let list = book.list_of(slot);
        book.push(list, index);
        entry.seen.store(now, Relaxed);
        entry.place.store(self.place(slot), Release);
        match was_live {
            true if from != slot => Learned::Moved { from },
            true => Learned::Known,
            false => Learned::New,
        }
    }

    /// Puts a new entry into a free place, or one made free. `false` when all room is static.
    fn insert(&self, book: &mut Book, key: u64, slot: Slot, seen: u32) -> bool {
        let Some(index) = self.take_free(book) else { return false };
        let entry = &self.entries[index as usize];
        let head = &self.heads[self.bucket(key)];
        entry.place.store(self.place(slot), Release);
        entry.seen.store(seen, Relaxed);
        entry.next.store(head.load(Relaxed), Relaxed);
        entry.key.store(key, Release);
        head.store(index, Release);
        let list = if seen == STATIC { STATICS } else { book.list_of(slot) };
        book.push(list, index);
        true
    }

    fn take_free(&self, book: &mut Book) -> Option<u32> {
        if (book.fresh as usize) < self.entries.len() {
            book.fresh += 1;
            return Some(book.fresh - 1);
        }
        if let Some(index) = book.free.pop() {
            return Some(index);
        }
        let payer = book.payer()?;
        let mut candidate = book.head(payer);
        let mut victim = candidate;
        for _ in 0..EVICTION_LOOK {
            if candidate == NIL {
                break;
            }
            let seen = |index: u32| self.entries[index as usize].seen.load(Relaxed);
            if seen(candidate) < seen(victim) {
                victim = candidate;
            }
            candidate = book.links[candidate as usize].next;
        }
        self.remove(book, victim);
        book.free.pop()
    }

    fn remove(&self, book: &mut Book, index: u32) {
        let entry = &self.entries[index as usize];
        let key = entry.key.swap(EMPTY, Release);
        let next = entry.next.load(Relaxed);
        let mut link = &self.heads[self.bucket(key)];
        // The chain is whole while the book is held.
        while link.load(Relaxed) != index {
            link = &self.entries[link.load(Relaxed) as usize].next;
        }
        link.store(next, Release);
        book.unlink(index);
        book.free.push(index);
    }

    fn find(&self, key: u64) -> Option<u32> {
        let mut index = self.heads[self.bucket(key)].load(Acquire);
        for _ in 0..MAX_CHAIN {
            let entry = self.entries.get(index as usize)?;
            if entry.key.load(Acquire) == key {
                return Some(index);
            }
            index = entry.next.load(Acquire);
        }
        None
    }

    fn bucket(&self, key: u64) -> usize {
        let folded = u128::from(key ^ self.seeds[0]) * u128::from(self.seeds[1]);
        let mixed = (folded as u64) ^ (folded >> 64) as u64;
        (mixed ^ mixed >> 32) as usize & (self.heads.len() - 1)
    }

    fn is_live(&self, place: u64, seen: u32, now: u32) -> bool {
        if seen == STATIC {
            return true;
        }
        let slot = place_slot(place);
        place == self.place(slot) && now.saturating_sub(seen) <= self.ageout.load(Relaxed)
    }

    /// A slot with its present generation.
    fn place(&self, slot: Slot) -> u64 {
        u64::from(slot.0) << 32 | u64::from(self.generations[slot.index()].load(Relaxed))
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // Each critical section leaves the lists whole at every point where it could panic.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ports at a time; a slot is below it.
pub const MAX_SLOTS: usize = 1 << 16;

const MAX_ENTRIES: usize = 1 << 24;
const NIL: u32 = u32::MAX;
const EMPTY: u64 = 0;
/// `seen` of a static entry.
const STATIC: u32 = u32::MAX;
/// The list of static entries.
const STATICS: u32 = u32::MAX;
/// Entries of the payer that eviction compares.
const EVICTION_LOOK: usize = 8;
/// Longer than any chain of a table half full, by far.
const MAX_CHAIN: usize = 64;

#[derive(Default)]
struct Entry {
    /// In-use bit, VID, MAC; 0 when free.
    key: AtomicU64,
    /// Slot and generation.
    place: AtomicU64,
    seen: AtomicU32,
    next: AtomicU32,
}

fn key(vid: u16, mac: MacAddr) -> u64 {
    1 << 60 | u64::from(vid & 0x0fff) << 48 | mac.bits()
}

fn place_slot(place: u64) -> Slot {
    Slot((place >> 32) as u32)
}

/// What the writers keep: free entries, and a doubly linked list of entries for each owner.
#[derive(Default)]
struct Book {
    /// Entries from here on were never used.
    fresh: u32,
    free: Vec<u32>,
    links: Box<[Link]>,
    lists: BTreeMap<u32, List>,
    /// The list of each slot that has learned entries.
    current: BTreeMap<Slot, u32>,
    /// Lists whose port was flushed, as long as anything is in them.
    stale: Vec<u32>,
    next_list: u32,
}

#[derive(Clone, Copy, Default)]
struct Link {
    prev: u32,
    next: u32,
    list: u32,
}

#[derive(Clone, Copy)]
struct List {
    head: u32,
    tail: u32,
    count: u32,
    /// Whose it is; `None` for the static entries and once flushed.
    slot: Option<Slot>,
}

impl Book {
    fn head(&self, list: u32) -> u32 {
        self.lists.get(&list).map_or(NIL, |list| list.head)
    }

    fn list_of(&mut self, slot: Slot) -> u32 {
        if let Some(list) = self.current.get(&slot) {
            return *list;
        }
        while self.next_list == STATICS || self.lists.contains_key(&self.next_list) {
            self.next_list = self.next_list.wrapping_add(1);
        }
        self.current.insert(slot, self.next_list);
        self.lists.insert(self.next_list, List { head: NIL, tail: NIL, count: 0, slot: Some(slot) });
        self.next_list
    }

    /// The slot's list is nobody's from now on; how many entries are in it.
    fn orphan(&mut self, slot: Slot) -> u32 {
        let Some(id) = self.current.remove(&slot) else { return 0 };
        self.stale.push(id);
        self.lists.get_mut(&id).map_or(0, |list| {
            list.slot = None;
            list.count
        })
    }

    /// Which list gives an entry up: a flushed one, else the longest.
    fn payer(&mut self) -> Option<u32> {
        if let Some(id) = self.stale.last() {
            return Some(*id);
        }
        let learned = self.lists.iter().filter(|(_, list)| list.slot.is_some());
        learned.max_by_key(|(_, list)| list.count).map(|(id, _)| *id)
    }

    fn push(&mut self, id: u32, index: u32) {
        let list = self.lists.entry(id).or_insert(List { head: NIL, tail: NIL, count: 0, slot: None });
        self.links[index as usize] = Link { prev: list.tail, next: NIL, list: id };
        match list.tail {
            NIL => list.head = index,
            tail => self.links[tail as usize].next = index,
        }
        list.tail = index;
        list.count += 1;
    }

    fn unlink(&mut self, index: u32) {
        let Link { prev, next, list: id } = self.links[index as usize];
        if prev != NIL {
            self.links[prev as usize].next = next;
        }
        if next != NIL {
            self.links[next as usize].prev = prev;
        }
        let Some(list) = self.lists.get_mut(&id) else { return };
        if prev == NIL {
            list.head = next;
        }
        if next == NIL {
            list.tail = prev;
        }
        list.count -= 1;
        if list.count == 0 {
            let slot = list.slot;
            self.lists.remove(&id);
            match slot {
                Some(slot) => drop(self.current.remove(&slot)),
                // The number may be given to another list, which is not stale.
                None => self.stale.retain(|stale| *stale != id),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Slot = Slot(1);
    const B: Slot = Slot(2);

    fn mac(n: u64) -> MacAddr {
        MacAddr::from_bits(0x0200_0000_0000 | n)
    }

    fn fdb(limit: usize) -> Fdb {
        Fdb::new(limit, 300, [0x1234_5678_9abc_def0, 0x0fed_cba9_8765_4321])
    }

    /// A list's number was given to a port again while it still stood among those of flushed ports.
    #[test]
    fn bad_37_a_port_that_was_flushed_and_learns_again_does_not_pay_for_a_flood() {
        let fdb = fdb(64);
        fdb.learn(0, mac(1), A, 0);
        fdb.flush(A);
        fdb.learn(0, mac(1), A, 0);
        (100..1100).for_each(|n| _ = fdb.learn(0, mac(n), B, 0));
        assert_eq!(fdb.lookup(0, mac(1), 0), Some(A));
    }

    #[test]
    fn learns_moves_and_ages() {
        let fdb = fdb(8);
        assert_eq!(fdb.learn(0, mac(1), A, 0), Learned::New);
        assert_eq!(fdb.learn(0, mac(1), A, 10), Learned::Known);
        assert_eq!(fdb.lookup(0, mac(1), 310), Some(A));
        assert_eq!(fdb.lookup(0, mac(1), 311), None);
        assert_eq!(fdb.lookup(5, mac(1), 10), None, "VLANs are apart");
        assert_eq!(fdb.learn(0, mac(1), B, 20), Learned::Moved { from: A });
        assert_eq!(fdb.lookup(0, mac(1), 20), Some(B));
        fdb.sweep(400);
        assert!(fdb.stations(400).is_empty());
        assert_eq!(fdb.learn(0, mac(1), A, 400), Learned::New);
    }

    #[test]
    fn a_flush_forgets_one_port_and_leaves_static_entries() {
        let fdb = fdb(16);
        for n in 0..5 {
            fdb.learn(0, mac(n), A, 0);
        }
        fdb.learn(0, mac(9), B, 0);
        assert!(fdb.insert_static(0, mac(7), A));
        assert_eq!(fdb.flush(A), 5);
        assert_eq!(fdb.flush(A), 0);
        assert_eq!((fdb.lookup(0, mac(0), 0), fdb.lookup(0, mac(9), 0)), (None, Some(B)));
        assert_eq!(fdb.lookup(0, mac(7), 0), Some(A));
        fdb.forget_port(A);
        assert_eq!(fdb.stations(0).len(), 1);
    }

    #[test]
    fn static_entries_do_not_move_age_or_give_way() {
        let fdb = fdb(4);
        assert!(fdb.insert_static(0, mac(1), A));
        assert_eq!(fdb.learn(0, mac(1), B, 0), Learned::Fixed(A));
        assert_eq!(fdb.learn(0, mac(1), A, 0), Learned::Known);
        for n in 10..100 {
            fdb.learn(0, mac(n), B, 1);
        }
        assert_eq!(fdb.lookup(0, mac(1), 1_000_000), Some(A));
        assert_eq!(fdb.delete(0, mac(1), 0).map(|s| (s.slot, s.fixed)), Some((A, true)));
        assert_eq!(fdb.delete(0, mac(1), 0), None);
    }

    #[test]
    fn all_room_static_learns_nothing_and_says_so() {
        let fdb = fdb(2);
        assert!(fdb.insert_static(0, mac(1), A) && fdb.insert_static(0, mac(2), A));
        assert!(!fdb.insert_static(0, mac(3), A));
        fdb.learn(0, mac(4), B, 0);
        assert_eq!(fdb.lookup(0, mac(4), 0), None);
    }

    #[test]
    fn bad_37_a_mac_flood_evicts_only_its_own_port() {
        let fdb = fdb(64);
        for n in 0..16 {
            fdb.learn(0, mac(n), A, 0);
        }
        for n in 1000..101_000 {
            fdb.learn(0, mac(n), B, 1);
        }
        for n in 0..16 {
            assert_eq!(fdb.lookup(0, mac(n), 1), Some(A), "{n}");
        }
        assert_eq!(fdb.stations(1).len(), 64);
        assert_eq!(fdb.lookup(0, mac(100_999), 1), Some(B), "the newest is there");
    }

    #[test]
    fn a_flushed_port_gives_way_before_a_live_one() {
        let fdb = fdb(8);
        (0..4).for_each(|n| _ = fdb.learn(0, mac(n), A, 0));
        (10..14).for_each(|n| _ = fdb.learn(0, mac(n), B, 0));
        fdb.flush(A);
        (20..24).for_each(|n| _ = fdb.learn(0, mac(n), A, 1));
        assert_eq!((10..14).filter(|n| fdb.lookup(0, mac(*n), 1) == Some(B)).count(), 4);
        assert_eq!((20..24).filter(|n| fdb.lookup(0, mac(*n), 1) == Some(A)).count(), 4);
    }

    /// The same operations on a plain map give the same answers while there is room.
    #[test]
    fn agrees_with_a_map() {
        let fdb = fdb(4096);
        let mut oracle = std::collections::HashMap::new();
        let mut random = 1u64;
        for step in 0..50_000u32 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let (station, slot) = (mac(random >> 33 & 0x3ff), Slot((random >> 50 & 3) as u32));
            match random >> 60 {
                0 => {
                    fdb.flush(slot);
                    oracle.retain(|_, at| *at != slot);
                }
                1 => {
                    let known = oracle.remove(&station);
                    assert_eq!(fdb.delete(0, station, 0).map(|s| s.slot), known, "step {step}");
                }
                2 => fdb.sweep(0),
                _ => {
                    fdb.learn(0, station, slot, 0);
                    oracle.insert(station, slot);
                }
            }
            assert_eq!(fdb.lookup(0, station, 0), oracle.get(&station).copied(), "step {step}");
        }
        assert_eq!(fdb.stations(0).len(), oracle.len());
    }

    #[test]
    fn readers_and_writers_together_never_see_a_foreign_port() {
        let fdb = fdb(32);
        std::thread::scope(|scope| {
            for slot in 1..3u64 {
                let fdb = &fdb;
                scope.spawn(move || {
                    for n in 0..100_000 {
                        // Odd stations live on slot 1, even ones on slot 2.
                        fdb.learn(0, mac(n % 100 * 2 + slot), Slot(slot as u32), 0);
                    }
                });
            }
            for n in 0..200_000 {
                let station = n % 200 + 1;
                let want = Slot(if station % 2 == 1 { 1 } else { 2 });
                if let Some(slot) = fdb.lookup(0, mac(station), 0) {
                    assert_eq!(slot, want);
                }
            }
        });
    }
}
