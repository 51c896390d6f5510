//! Where the data threads leave copies of frames for the control side to look at: probes of ours that came back,
//! and what stations say of their addresses.

use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

/// A few frames that wait, the first `LEN` bytes of each.
pub struct Handover<const LEN: usize> {
    room: usize,
    waiting: Mutex<Vec<Left<LEN>>>,
    some: Notify,
}

/// A frame, and the number of the port it came in by.
#[derive(Clone, Copy)]
pub struct Left<const LEN: usize> {
    pub port: u32,
    len: usize,
    bytes: [u8; LEN],
}

impl<const LEN: usize> Left<LEN> {
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl<const LEN: usize> Handover<LEN> {
    /// For `room` frames at a time.
    pub fn new(room: usize) -> Self {
        Self { room, waiting: Mutex::new(Vec::with_capacity(room)), some: Notify::new() }
    }

    /// Takes a copy of a frame, if nobody else is here and there is room, and says whether it did: a data thread waits
    /// for nobody, and the next such frame is not far.
    pub fn put(&self, port: u32, frame: &[u8]) -> bool {
        let Ok(mut waiting) = self.waiting.try_lock() else { return false };
        if waiting.len() >= self.room {
            return false;
        }
        let mut left = Left { port, len: frame.len().min(LEN), bytes: [0; LEN] };
        left.bytes[..left.len].copy_from_slice(&frame[..left.len]);
        waiting.push(left);
        drop(waiting);
        self.some.notify_one();
        true
    }

    /// Wakes whoever waits, for another reason.
    pub fn wake(&self) {
        self.some.notify_one();
    }

    /// Waits until there is one.
    pub async fn some(&self) {
        self.some.notified().await;
    }

    /// All that wait, moved to `into`, whose room takes the place of theirs.
    pub fn take(&self, into: &mut Vec<Left<LEN>>) {
        into.clear();
        into.extend(self.waiting.lock().unwrap_or_else(PoisonError::into_inner).drain(..));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_takes_no_more_room() {
        let handover = Handover::<82>::new(64);
        let put = (0..1000).filter(|port| handover.put(*port, &[9; 2000]));
        assert_eq!(put.count(), 64, "and of what is lost somebody knows");
        let mut taken = Vec::new();
        handover.take(&mut taken);
        assert_eq!((taken.len(), taken[0].bytes().len()), (64, 82));
        handover.take(&mut taken);
        assert!(taken.is_empty());
        handover.put(7, &[1; 60]);
        handover.take(&mut taken);
        assert_eq!((taken[0].port, taken[0].bytes()), (7, &[1; 60][..]));
    }
}
