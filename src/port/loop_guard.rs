//! Where the data threads leave the probes of ours that came back, for the control side to judge.

use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use crate::frame::MacAddr;
use crate::switch::guard::loops::{self, MAX_LEN};

/// A few probes that came back and are not judged yet.
#[derive(Default)]
pub struct Returned {
    waiting: Mutex<Vec<Probe>>,
    some: Notify,
}

/// A frame that looks like a probe of ours, and the number of the port it came in by.
#[derive(Clone, Copy)]
pub struct Probe {
    pub port: u32,
    len: usize,
    bytes: [u8; MAX_LEN],
}

impl Probe {
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Returned {
    pub fn new() -> Self {
        Self { waiting: Mutex::new(Vec::with_capacity(WAITING)), some: Notify::new() }
    }

    /// Takes a copy of a frame that looks like a probe, if nobody else is here and there is room: a data
    /// thread waits for nobody, and the next probe is not far.
    pub fn put(&self, port: u32, frame: &[u8]) {
        let Ok(mut waiting) = self.waiting.try_lock() else { return };
        if waiting.len() >= WAITING {
            return;
        }
        let mut probe = Probe { port, len: frame.len().min(MAX_LEN), bytes: [0; MAX_LEN] };
        probe.bytes[..probe.len].copy_from_slice(&frame[..probe.len]);
        waiting.push(probe);
        drop(waiting);
        self.some.notify_one();
    }

    /// Waits until there is one.
    pub async fn some(&self) {
        self.some.notified().await;
    }

    /// All that wait, moved to `into`, whose room takes the place of theirs.
    pub fn take(&self, into: &mut Vec<Probe>) {
        into.clear();
        into.extend(self.waiting.lock().unwrap_or_else(PoisonError::into_inner).drain(..));
    }
}

/// The address that a new switch's probes come from.
pub fn source() -> MacAddr {
    loops::source(rand::random())
}

const WAITING: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_probes_takes_no_more_room() {
        let returned = Returned::new();
        (0..1000).for_each(|port| returned.put(port, &[9; 2000]));
        let mut taken = Vec::new();
        returned.take(&mut taken);
        assert_eq!((taken.len(), taken[0].bytes().len()), (WAITING, MAX_LEN));
        returned.take(&mut taken);
        assert!(taken.is_empty());
        returned.put(7, &[1; 60]);
        returned.take(&mut taken);
        assert_eq!((taken[0].port, taken[0].bytes()), (7, &[1; 60][..]));
    }
}
