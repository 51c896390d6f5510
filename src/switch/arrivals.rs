//! Stations that came, left by the data path for the control side to announce (see `port::ports::announce`).

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
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

/// A few arrivals; more are not announced.
#[derive(Debug)]
pub struct Arrivals {
    /// Somebody wants to know.
    wanted: AtomicBool,
    some: AtomicBool,
    waiting: Mutex<Vec<Arrival>>,
}

impl Default for Arrivals {
    fn default() -> Self {
        let waiting = Mutex::new(Vec::with_capacity(WAITING));
        Self { wanted: AtomicBool::new(false), some: AtomicBool::new(false), waiting }
    }
}

impl Arrivals {
    /// Leaves one, if nobody else is here and there is room: a data thread waits for nobody.
    pub fn put(&self, arrival: Arrival) {
        if !self.wanted.load(Relaxed) {
            return;
        }
        let Ok(mut waiting) = self.waiting.try_lock() else { return };
        if waiting.len() < WAITING {
            waiting.push(arrival);
            self.some.store(true, Relaxed);
        }
    }

    pub fn want(&self, wanted: bool) {
        self.wanted.store(wanted, Relaxed);
    }

    pub fn is_some(&self) -> bool {
        self.some.load(Relaxed)
    }

    /// All that were left, moved to `into`.
    pub fn take(&self, into: &mut Vec<Arrival>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        self.some.store(false, Relaxed);
        into.extend(waiting.drain(..));
    }
}

const WAITING: usize = 256;
