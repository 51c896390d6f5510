//! Stations that move too often. One whose place changes more than [`MOST`] times within a second of the
//! clock is held for [`HOLD`], where it was when that began: two hosts have its address, or the network has a loop.
//!
//! What is remembered is bounded: a cache of the stations that moved last, in sets of four ways by the
//! hash of the key. A station that finds no way free because four held ones share its set moves on
//! uncounted.

use super::super::forward::Slot;
use super::MAX_SLOTS;

/// Moves in a second that nobody minds.
const MOST: u32 = 5;
/// Seconds.
const HOLD: u32 = 10;
const SETS: usize = 256;
const WAYS: usize = 4;
/// Holds and releases that wait to be told; more are not told.
const UNTOLD: usize = 64;

#[derive(Clone)]
pub struct Moves {
    sets: Box<[[Mover; WAYS]; SETS]>,
    /// Stations held.
    held: usize,
    /// All moves so far.
    count: u64,
    /// A bit for each slot that a station has gone from or to since that was last asked.
    places: Box<[u64]>,
    untold: Vec<Told>,
}

/// A station was held on the port in `slot`, or is free to move again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Told {
    pub key: u64,
    pub slot: Slot,
    pub held: bool,
}

#[derive(Clone, Copy)]
struct Mover {
    /// 0: nobody.
    key: u64,
    /// The second that `moves` counts.
    second: u32,
    moves: u32,
    /// Where it was before it began to move in each second: whoever takes an address by sending more often than
    /// its owner is not to be held in possession of it.
    home: Slot,
    /// Where it is held, and the last second of that.
    held: Option<(Slot, u32)>,
}

impl Mover {
    const NOBODY: Self = Self { key: 0, second: 0, moves: 0, home: Slot(0), held: None };
}

impl Moves {
    pub fn new() -> Self {
        let sets = vec![[Mover::NOBODY; WAYS]; SETS].into_boxed_slice();
        // The length is that of the type.
        let sets = sets.try_into().unwrap_or_else(|_| Box::new([[Mover::NOBODY; WAYS]; SETS]));
        let places = vec![0; MAX_SLOTS / 64].into_boxed_slice();
        Self { sets, held: 0, count: 0, places, untold: Vec::with_capacity(UNTOLD) }
    }

    /// Whether the station may go `from` one port `to` another at second `now`.
    pub fn admits(&mut self, key: u64, hash: u64, (from, to): (Slot, Slot), now: u32) -> bool {
        let set = &mut self.sets[hash as usize % SETS];
        let known = set.iter().position(|mover| mover.key == key);
        let stalest = || {
            let free = (0..WAYS).filter(|way| set[*way].held.is_none_or(|(_, until)| until < now));
            free.min_by_key(|way| set[*way].second)
        };
        let Some(way) = known.or_else(stalest) else {
            self.note(from, to);
            return true;
        };
        let mover = &mut set[way];
        if let Some((slot, until)) = mover.held {
            if known.is_some() && now <= until {
                return false;
            }
            let told = Told { key: mover.key, slot, held: false };
            mover.held = None;
            self.held -= 1;
            tell(&mut self.untold, told);
        }
        if known.is_none() || mover.second != now {
            let goes_on = known.is_some() && mover.second + 1 == now;
            let home = if goes_on { mover.home } else { from };
            *mover = Mover { key, second: now, moves: 0, home, held: None };
        }
        mover.moves += 1;
        let returns = to == mover.home;
        if mover.moves > MOST {
            let slot = if returns { to } else { from };
            mover.held = Some((slot, now.saturating_add(HOLD)));
            self.held += 1;
            tell(&mut self.untold, Told { key, slot, held: true });
            if !returns {
                return false;
            }
        }
        self.note(from, to);
        true
    }

    fn note(&mut self, from: Slot, to: Slot) {
        self.count += 1;
        for slot in [from, to] {
            self.places[slot.index() / 64] |= 1 << (slot.index() % 64);
        }
    }

    /// All moves so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The slots that stations have gone from or to since the last call, in order.
    pub fn places(&mut self) -> Vec<Slot> {
        let mut slots = Vec::new();
        for (index, bits) in self.places.iter_mut().enumerate() {
            let bits = std::mem::take(bits);
            slots.extend((0..64).filter(|bit| bits >> bit & 1 == 1).map(|bit| Slot(index as u32 * 64 + bit)));
        }
        slots
    }

    /// Ends the holds that are over; what was held or released since the last call.
    pub fn tell(&mut self, now: u32) -> Vec<Told> {
        if self.held > 0 {
            for mover in self.sets.iter_mut().flatten() {
                if let Some((slot, until)) = mover.held
                    && until < now
                {
                    mover.held = None;
                    self.held -= 1;
                    tell(&mut self.untold, Told { key: mover.key, slot, held: false });
                }
            }
        }
        self.untold.drain(..).collect()
    }
}

/// Never more than there is room for: the data path allocates nothing.
fn tell(untold: &mut Vec<Told>, told: Told) {
    if untold.len() < UNTOLD {
        untold.push(told);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: (Slot, Slot) = (Slot(1), Slot(2));

    #[test]
    fn bad_38_the_sixth_move_of_a_second_is_refused_for_ten_seconds() {
        let mut moves = Moves::new();
        assert_eq!((0..8).filter(|_| moves.admits(7, 7, A, 3)).count(), 5);
        assert_eq!(moves.tell(3), [Told { key: 7, slot: A.0, held: true }]);
        assert!(!moves.admits(7, 7, A, 13));
        assert_eq!(moves.tell(13), []);
        assert_eq!(moves.tell(14), [Told { key: 7, slot: A.0, held: false }]);
        assert!(moves.admits(7, 7, A, 14));
        assert_eq!(moves.count(), 6);
        let far = (Slot(64), Slot(MAX_SLOTS as u32 - 1));
        assert!(moves.admits(8, 8, far, 14));
        assert_eq!(moves.places(), [A.0, A.1, far.0, far.1]);
        assert_eq!(moves.places(), []);
    }

    #[test]
    fn bad_38_whoever_takes_an_address_is_not_held_in_possession_of_it() {
        let (owner, taker) = (Slot(1), Slot(2));
        let mut moves = Moves::new();
        let mut at = owner;
        // Each frame of the owner is answered by one of the taker; a second ends in between.
        for (turn, now) in [3, 3, 3, 4, 4, 4, 4, 4, 4, 4, 4].into_iter().enumerate() {
            let to = if turn % 2 == 0 { taker } else { owner };
            if at != to && moves.admits(7, 7, (at, to), now) {
                at = to;
            }
        }
        assert_eq!(moves.tell(4), [Told { key: 7, slot: owner, held: true }]);
        assert_eq!(at, owner);
    }

    #[test]
    fn five_moves_in_each_second_are_nobodys_business() {
        let mut moves = Moves::new();
        assert!((0..100).all(|n| moves.admits(7, 7, A, n / 5)));
        assert_eq!(moves.tell(100), []);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_holds_are_kept() {
        let mut moves = Moves::new();
        for key in 1..=4 {
            (0..6).for_each(|_| _ = moves.admits(key, 0, A, 1));
        }
        // No way is left in their set; others move freely, and drive nobody out.
        for key in 100..10_000 {
            (0..10).for_each(|_| assert!(moves.admits(key, 0, A, 2)));
        }
        assert!((1..=4).all(|key| !moves.admits(key, 0, A, 2)));
        assert_eq!(moves.tell(2).len(), 4);
        for key in 100..100_000 {
            (0..6).for_each(|_| _ = moves.admits(key, key, A, 20));
        }
        assert_eq!(moves.tell(20).len(), UNTOLD);
    }
}
