//! What the database has, for people: all of it, or so much at a time as they can take.
//!
//! Whoever looks reads entries as those do who forward frames, and does not hold the book: nobody waits to learn because a
//! million stations are listed. An entry that moves to its other bucket meanwhile may be met twice, or not at all.
//!
//! Pages are in the order of keys, which the table does not have. So for a page all keys are gone through, and the [`AHEAD`]
//! that come next are kept in order for [`FRESH`] seconds: the pages behind it are made of these, at the cost of a page.
//! Of those that move while that is done the book takes note.

use std::collections::BTreeSet;

use super::cuckoo::{EMPTY, Entry};
use super::{FIXED, Fdb, LOOKS, Station, key, slot_of, vid_of};
use crate::frame::MacAddr;
use crate::sync::atomic::Ordering::Relaxed;
use crate::sync::{MutexGuard, PoisonError};

/// Keys that follow one another.
pub(super) struct Ahead {
    /// Behind this one.
    after: u64,
    keys: Vec<u64>,
    /// Others come behind them.
    more: bool,
    /// The second in which they were there.
    at: u32,
}

impl<const SLOTS: usize> Fdb<SLOTS> {
    /// Every live entry, in no order.
    pub fn stations(&self, now: u32) -> Vec<Station> {
        self.each(now).collect()
    }

    /// Those of them that are wanted.
    pub fn those(&self, now: u32, wanted: impl Fn(&Station) -> bool) -> Vec<Station> {
        self.each(now).filter(wanted).collect()
    }

    /// How many live entries there are that are wanted.
    pub fn count(&self, now: u32, wanted: impl Fn(&Station) -> bool) -> usize {
        self.each(now).filter(wanted).count()
    }

    /// The VIDs of live entries.
    pub fn vids(&self, now: u32) -> BTreeSet<u16> {
        let mut vids = BTreeSet::new();
        for entry in self.indices().map(|index| self.entry(index)) {
            let key = entry.key.load(Relaxed);
            if key != EMPTY && !vids.contains(&vid_of(key)) {
                vids.extend(self.station(entry, now).map(|station| station.vid));
            }
        }
        vids
    }

    /// What `pick` makes of the first `most` live entries behind `after` of which it makes anything, in the order of VID and
    /// MAC address. In that order an entry keeps its place, on whatever port it is. One that came [`FRESH`] seconds ago or
    /// later may be missing behind the first page. A page is shorter than `most` when there is nothing behind it.
    pub fn page<T>(
        &self,
        after: Option<(u16, MacAddr)>,
        most: usize,
        now: u32,
        pick: impl Fn(Station) -> Option<T>,
    ) -> Vec<T> {
        let mut last = after.map_or(EMPTY, |(vid, mac)| key(vid, mac));
        let mut kept = self.ahead();
        let goes_on = |kept: &Ahead| after.is_some() && kept.after <= last && kept.is_fresh(now);
        let mut ahead = kept.take().filter(goes_on).unwrap_or_else(|| self.look_ahead(last, now));
        let mut next = ahead.keys.partition_point(|key| *key <= last);
        let mut found = Vec::new();
        while found.len() < most {
            if let Some(key) = ahead.keys.get(next) {
                (last, next) = (*key, next + 1);
                found.extend(self.known(last, now).and_then(&pick));
            } else if ahead.more {
                (ahead, next) = (self.look_ahead(last, now), 0);
            } else {
                return found;
            }
        }
        *kept = Some(ahead);
        found
    }

    /// Pages are made anew from now on.
    pub(super) fn forget_ahead(&self) {
        *self.ahead() = None;
    }

    /// A listing that did not go on takes no room.
    pub(super) fn sweep_ahead(&self, now: u32) {
        self.ahead().take_if(|ahead| !ahead.is_fresh(now));
    }

    /// What is there of an entry, if it is live.
    pub(super) fn station(&self, entry: &Entry, now: u32) -> Option<Station> {
        let (key, place, seen) = (0..LOOKS).find_map(|_| entry.read_whole())?;
        let fixed = place & FIXED != 0;
        (key != EMPTY && self.is_live(place, seen, now)).then(|| Station {
            vid: vid_of(key),
            mac: MacAddr::from_bits(key),
            slot: slot_of(place),
            age: if fixed { 0 } else { now.saturating_sub(seen) },
            fixed,
        })
    }

    fn each(&self, now: u32) -> impl Iterator<Item = Station> {
        self.indices().filter_map(move |index| self.station(self.entry(index), now))
    }

    /// The live entry of a key, wherever it moves.
    fn known(&self, key: u64, now: u32) -> Option<Station> {
        let found = |station: &Station| super::key(station.vid, station.mac) == key;
        (0..LOOKS).find_map(|_| self.station(self.find(key)?, now).filter(found))
    }

    fn look_ahead(&self, after: u64, now: u32) -> Ahead {
        self.look_ahead_in(self.indices(), after, now)
    }

    fn look_ahead_in(&self, indices: impl Iterator<Item = u32>, after: u64, now: u32) -> Ahead {
        self.book().relocated.clear();
        let (mut keys, mut end) = (Vec::new(), u64::MAX);
        for index in indices {
            let key = self.entry(index).key.load(Relaxed);
            if key > after && key < end {
                keys.push(key);
                if keys.len() == 2 * AHEAD {
                    end = *keys.select_nth_unstable(AHEAD).1;
                    keys.truncate(AHEAD);
                }
            }
        }
        keys.extend(self.book().relocated.iter().filter(|key| **key > after && **key < end));
        keys.sort_unstable();
        keys.dedup();
        let more = end < u64::MAX || keys.len() > AHEAD;
        keys.truncate(AHEAD);
        keys.shrink_to_fit();
        Ahead { after, keys, more, at: now }
    }

    fn ahead(&self) -> MutexGuard<'_, Option<Ahead>> {
        // Whoever panics has taken it.
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ahead {
    fn is_fresh(&self, now: u32) -> bool {
        now.saturating_sub(self.at) <= FRESH
    }
}

/// Keys that are kept: two megabytes, and twice as much while they are looked for.
pub(super) const AHEAD: usize = 1 << 18;
/// Seconds.
pub(super) const FRESH: u32 = 2;

#[cfg(test)]
#[path = "listing_tests.rs"]
mod tests;
