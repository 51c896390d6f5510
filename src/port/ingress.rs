//! Reading a device, batch after batch.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::AcqRel, Ordering::Release};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

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
}

/// Which queues are to be looked at, and who does it. With a waker for all of them each wake would be a look at each.
struct Bells {
    rung: AtomicU64,
    task: AtomicWaker,
}

/// One queue's waker.
struct Bell {
    bells: Arc<Bells>,
    queue: usize,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.bells.rung.fetch_or(1 << self.queue, Release);
        self.bells.task.wake();
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
    let bells = Arc::new(Bells { rung: AtomicU64::new(0), task: AtomicWaker::new() });
    let wakers: Vec<Waker> =
        (0..queues.len()).map(|queue| Arc::new(Bell { bells: bells.clone(), queue }).into()).collect();
    // Those whose bell does not ring before they are looked at.
    let mut silent = u64::MAX >> (u64::BITS as usize - queues.len());
    loop {
        let readable = poll_fn(|cx| {
            bells.task.register(cx.waker());
            let mut asked = std::mem::take(&mut silent) | bells.rung.swap(0, AcqRel);
            while asked != 0 {
                let queue = asked.trailing_zeros() as usize;
                asked &= asked - 1;
                let Some(guard @ None) = guards.get_mut(queue) else { continue };
                if let Poll::Ready(ready) =
                    queues[queue].poll_read_ready(&mut Context::from_waker(&wakers[queue]))
                {
                    *guard = Some(ready?);
                    turns.ready |= 1 << queue;
                }
            }
            if turns.ready == 0 { Poll::Pending } else { Poll::Ready(Ok(())) }
        });
        if let Err(e) = readable.await {
            return e;
        }
        let had = turns.ready;
        match batch(&device, &mut turns) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => turns.ready = 0,
            Err(e) => return e,
        }
        let mut ended = had & !turns.ready;
        silent |= ended;
        while ended != 0 {
            if let Some(mut guard) = guards[ended.trailing_zeros() as usize].take() {
                guard.clear_ready();
            }
            ended &= ended - 1;
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
        assert_eq!(turns.next(), None);
    }
}
