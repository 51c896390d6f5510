//! What the database has, for people: all of it, or so much at a time as they can take.

use std::collections::BinaryHeap;

use super::cuckoo::EMPTY;
use super::{FIXED, Fdb, Station, key, slot_of, vid_of};
use crate::frame::MacAddr;
use crate::sync::atomic::Ordering::Relaxed;

impl<const SLOTS: usize> Fdb<SLOTS> {
    /// Every live entry, in no order.
    pub fn stations(&self, now: u32) -> Vec<Station> {
        let _book = self.book();
        self.indices().filter_map(|index| self.station(index, now)).collect()
    }

    /// How many live entries there are that are wanted.
    pub fn count(&self, now: u32, wanted: impl Fn(&Station) -> bool) -> usize {
        let _book = self.book();
        self.indices().filter_map(|index| self.station(index, now)).filter(wanted).count()
    }

    /// The first `most` live entries behind `after` that are wanted, in the order of VID and MAC address; the others
    /// take no memory. In that order an entry keeps its place, on whatever port it is.
    pub fn stations_after(
        &self,
        after: Option<(u16, MacAddr)>,
        most: usize,
        now: u32,
        wanted: impl Fn(&Station) -> bool,
    ) -> Vec<Station> {
        let after = after.map_or(EMPTY, |(vid, mac)| key(vid, mac));
        let _book = self.book();
        let mut first = BinaryHeap::new();
        for index in self.indices() {
            let key = self.entry(index).key.load(Relaxed);
            let is_full = first.len() == most;
            if key <= after || is_full && first.peek().is_none_or(|(last, _)| key > *last) {
                continue;
            }
            if self.station(index, now).as_ref().is_some_and(&wanted) {
                if is_full {
                    first.pop();
                }
                first.push((key, index));
            }
        }
        let first = first.into_sorted_vec().into_iter();
        first.filter_map(|(_, index)| self.station(index, now)).collect()
    }

    pub(super) fn station(&self, index: u32, now: u32) -> Option<Station> {
        let (key, place, seen) = self.entry(index).read();
        let fixed = place & FIXED != 0;
        (key != EMPTY && self.is_live(place, seen, now)).then(|| Station {
            vid: vid_of(key),
            mac: MacAddr::from_bits(key),
            slot: slot_of(place),
            age: if fixed { 0 } else { now.saturating_sub(seen) },
            fixed,
        })
    }
}
