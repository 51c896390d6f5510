//! Reading a device, batch after batch.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::Poll;

use crate::sys::{Device, Held, readable};

/// The queues of a device that may have frames, each in its turn.
#[derive(Default)]
pub struct Turns {
    /// A bit for each.
    ready: u64,
    next: u32,
}

impl Turns {
    /// The queue to be read next.
    #[inline]
    pub fn next(&mut self) -> Option<usize> {
        let ahead = self.ready >> self.next << self.next;
        let queue = if ahead != 0 { ahead } else { self.ready }.trailing_zeros();
        self.next = (queue + 1) % u64::BITS;
        (self.ready != 0).then_some(queue as usize)
    }

    /// There are no more frames in `queue`.
    pub fn ends(&mut self, queue: usize) {
        self.ready &= !(1 << queue);
    }

    fn has(&self, queue: usize) -> bool {
        self.ready & 1 << queue != 0
    }
}

/// Calls `batch` whenever the device may have frames, until it fails. `batch` says which queues have no more, or answers
/// `WouldBlock` when none has. Runs on a data thread.
pub async fn pump<T: Device>(
    device: Arc<Held<T>>,
    mut batch: impl FnMut(&T, &mut Turns) -> io::Result<()>,
) -> io::Error {
    let queues: io::Result<Vec<_>> = (0..device.queues()).map(|queue| readable(&device, queue)).collect();
    let queues = match queues {
        Ok(queues) => queues,
        Err(e) => return e,
    };
    // Held from before a queue is read until it is known to be empty: what comes in between is not missed.
    let mut guards: Vec<_> = queues.iter().map(|_| None).collect();
    let mut turns = Turns::default();
    loop {
        let readable = poll_fn(|cx| {
            for (queue, guard) in guards.iter_mut().enumerate().filter(|(_, guard)| guard.is_none()) {
                if let Poll::Ready(ready) = queues[queue].poll_read_ready(cx) {
                    *guard = Some(ready?);
                    turns.ready |= 1 << queue;
                }
            }
            if turns.ready == 0 { Poll::Pending } else { Poll::Ready(Ok(())) }
        });
        if let Err(e) = readable.await {
            return e;
        }
        match batch(&device, &mut turns) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => turns.ready = 0,
            Err(e) => return e,
        }
        for (queue, guard) in guards.iter_mut().enumerate() {
            if !turns.has(queue)
                && let Some(mut guard) = guard.take()
            {
                guard.clear_ready();
            }
        }
        if turns.ready != 0 {
            // Other ports live on this thread too.
            tokio::task::yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_queue_has_its_turn() {
        let mut turns = Turns { ready: 1 << 63 | 0b101, next: 0 };
        let four: Vec<_> = (0..4).map(|_| turns.next()).collect();
        assert_eq!(four, [Some(0), Some(2), Some(63), Some(0)]);
        turns.ends(63);
        assert_eq!((turns.next(), turns.next()), (Some(2), Some(0)));
        turns.ends(0);
        turns.ends(2);
        assert_eq!((turns.next(), turns.has(0)), (None, false));
    }
}
