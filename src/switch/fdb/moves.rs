//! Stations that move too often. One whose place changes more than [`MOST`] times within a second of the
//! clock is held where it is for [`HOLD`]: two hosts have its address, or the network has a loop.
//!
//! What is remembered is bounded: a cache of the stations that moved last, in sets of four ways by the
//! hash of the key. A station that finds no way free because four held ones share its set moves on
//! uncounted.

use super::super::forward::Slot;

/// Moves in a second that nobody minds.
const MOST: u32 = 5;
/// Seconds.
const HOLD: u32 = 10;
const SETS: usize = 256;
const WAYS: usize = 4;
/// Holds and releases that wait to be told; more are not told.
const UNTOLD: usize = 64;

pub struct Moves {
    sets: Box<[[Mover; WAYS]; SETS]>,
    /// Stations held.
    held: usize,
    /// All moves so far.
    count: u64,
    untold: Vec<Told>,
}

/// A station was held on the port in `slot`, or is free to move again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Told {
    pub key: u64,
    pub slot: Slot,
    pub held: bool,
}

#[derive(Clone, Copy, Default)]
struct Mover {
    /// 0: nobody.
    key: u64,
    /// The second that `moves` counts.
    second: u32,
    moves: u32,
    /// Where it is held, and the last second of that.
    held: Option<(Slot, u32)>,
}

impl Moves {
    pub fn new() -> Self {
        let sets = vec![[Mover::default(); WAYS]; SETS].into_boxed_slice();
        // The length is that of the type.
        let sets = sets.try_into().unwrap_or_else(|_| Box::new([[Mover::default(); WAYS]; SETS]));
        Self { sets, held: 0, count: 0, untold: Vec::with_capacity(UNTOLD) }
    }

    /// Whether the station may leave `from` at second `now`.
    pub fn admits(&mut self, key: u64, hash: u64, from: Slot, now: u32) -> bool {
        let set = &mut self.sets[hash as usize % SETS];
        let known = set.iter().position(|mover| mover.key == key);
        let stalest = || {
            let free = (0..WAYS).filter(|way| set[*way].held.is_none_or(|(_, until)| until < now));
            free.min_by_key(|way| set[*way].second)
        };
        let Some(way) = known.or_else(stalest) else {
            self.count += 1;
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
            *mover = Mover { key, second: now, moves: 0, held: None };
        }
        mover.moves += 1;
        if mover.moves > MOST {
            mover.held = Some((from, now.saturating_add(HOLD)));
            self.held += 1;
            tell(&mut self.untold, Told { key, slot: from, held: true });
            return false;
        }
        self.count += 1;
        true
    }

    /// All moves so far.
    pub fn count(&self) -> u64 {
        self.count
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

    const A: Slot = Slot(1);

    #[test]
    fn bad_38_the_sixth_move_of_a_second_is_refused_for_ten_seconds() {
        let mut moves = Moves::new();
        assert_eq!((0..8).filter(|_| moves.admits(7, 7, A, 3)).count(), 5);
        assert_eq!(moves.tell(3), [Told { key: 7, slot: A, held: true }]);
        assert!(!moves.admits(7, 7, A, 13));
        assert_eq!(moves.tell(13), []);
        assert_eq!(moves.tell(14), [Told { key: 7, slot: A, held: false }]);
        assert!(moves.admits(7, 7, A, 14));
        assert_eq!(moves.count(), 6);
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
