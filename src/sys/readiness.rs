//! Devices in the reactor, and the moment when the kernel has them back.

use std::convert::Infallible;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use super::packet::PacketSocket;
use super::tun::Tap;

/// A device whose descriptors stay open, and the same, for as long as the value lives.
pub trait Device: private::Sealed {
    /// How many queues it is read by, 64 at most.
    fn queues(&self) -> usize;

    /// What becomes readable with a queue.
    fn descriptor(&self, queue: usize) -> RawFd;
}

impl Device for Tap {
    fn queues(&self) -> usize {
        self.queues()
    }

    fn descriptor(&self, queue: usize) -> RawFd {
        self.queue(queue).as_raw_fd()
    }
}

impl Device for PacketSocket {
    fn queues(&self) -> usize {
        1
    }

    fn descriptor(&self, _queue: usize) -> RawFd {
        self.as_raw_fd()
    }
}

mod private {
    pub trait Sealed {}
    impl Sealed for super::Tap {}
    impl Sealed for super::PacketSocket {}
}

/// A shared device that tells when it is closed: after the last holder has let go the receiver ends,
/// and the descriptor is closed by then. (The count of an `Arc` falls before the value is dropped.)
pub struct Held<T> {
    device: T,
    /// Dropped behind `device`.
    _closed: oneshot::Sender<Infallible>,
}

impl<T> Held<T> {
    pub fn new(device: T) -> (Arc<Self>, oneshot::Receiver<Infallible>) {
        let (_closed, closed) = oneshot::channel();
        (Arc::new(Self { device, _closed }), closed)
    }
}

impl<T> Deref for Held<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.device
    }
}

/// One of a device's queues.
pub struct Queue<T> {
    device: Arc<Held<T>>,
    queue: usize,
}

impl<T: Device> AsRawFd for Queue<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.device.descriptor(self.queue)
    }
}

/// Readiness to read a queue, from the calling thread's tokio reactor.
pub fn readable<T: Device>(device: &Arc<Held<T>>, queue: usize) -> io::Result<AsyncFd<Queue<T>>> {
    let queue = Queue { device: device.clone(), queue };
    // SAFETY: register asks that the descriptor stay open until the AsyncFd is dropped, which holds
    // the `Arc`; a `Device` owns its descriptors and never gives them up, and `Held` never gives up the
    // device. There is no safe way in.
    let registered = unsafe { AsyncFd::register_with_interest(queue, Interest::READABLE) };
    registered.map_err(|refused| refused.into_parts().1)
}
