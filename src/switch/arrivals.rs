//! Stations that came, left by the data path for the control side to announce (see `port::ports::announce`).

use std::sync::atomic::{AtomicBool, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::sync::{Mutex, PoisonError};

use super::forward::Slot;
use crate::frame::MacAddr;

/// A station that a peer brought: one that was not known, or was on another port before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arrival {
    pub vid: u16,
    pub mac: MacAddr,
    pub slot: Slot,
}

/// A few arrivals; of more it is known that there were some.
#[derive(Debug)]
pub struct Arrivals {
    /// Somebody wants to know.
    wanted: AtomicBool,
    some: AtomicBool,
    /// Some could not be left.
    missed: AtomicBool,
    waiting: Mutex<Vec<Arrival>>,
}

impl Default for Arrivals {
    fn default() -> Self {
        let waiting = Mutex::new(Vec::with_capacity(WAITING));
        let [wanted, some, missed] = [(); 3].map(|()| AtomicBool::new(false));
        Self { wanted, some, missed, waiting }
    }
}

impl Arrivals {
    /// Leaves one, if nobody else is here and there is room: a data thread waits for nobody.
    pub fn put(&self, arrival: Arrival) {
        if !self.wanted.load(Relaxed) {
            return;
        }
        match self.waiting.try_lock() {
            Ok(mut waiting) if waiting.len() < WAITING => waiting.push(arrival),
            _ => self.missed.store(true, Relaxed),
        }
        self.some.store(true, Release);
    }

    pub fn want(&self, wanted: bool) {
        self.wanted.store(wanted, Relaxed);
    }

    pub fn is_some(&self) -> bool {
        self.some.load(Relaxed)
    }

    /// All that were left, moved to `into`; `true`: there were others, which are to be looked for in the FDB.
    pub fn take(&self, into: &mut Vec<Arrival>) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        self.some.swap(false, Acquire);
        into.extend(waiting.drain(..));
        self.missed.swap(false, Relaxed)
    }
}

const WAITING: usize = 256;

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn arrival(n: u64) -> Arrival {
        Arrival { vid: 0, mac: MacAddr::from_bits(0x0200_0000_0000 | n), slot: Slot(1) }
    }

    #[test]
    fn none_is_lost_without_a_trace() {
        let arrivals = Arrivals::default();
        arrivals.want(true);
        let mut left = Vec::new();
        (0..WAITING as u64).for_each(|n| arrivals.put(arrival(n)));
        assert!(!arrivals.take(&mut left) && left.len() == WAITING && !arrivals.is_some());
        // There is no room.
        (0..=WAITING as u64).for_each(|n| arrivals.put(arrival(n)));
        assert!(arrivals.take(&mut left) && !arrivals.take(&mut left));
        // Somebody else is here, and nothing has been left yet.
        let held = arrivals.waiting.lock().unwrap();
        thread::scope(|scope| scope.spawn(|| arrivals.put(arrival(1))).join()).unwrap();
        drop(held);
        assert!(arrivals.is_some() && arrivals.take(&mut left));
    }
}
