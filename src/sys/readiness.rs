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

/// A device whose descriptor stays open, and the same, for as long as the value lives.
pub trait Device: AsRawFd + private::Sealed {}

impl Device for Tap {}
impl Device for PacketSocket {}

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

impl<T: AsRawFd> AsRawFd for Held<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.device.as_raw_fd()
    }
}

/// Readiness to read, from the calling thread's tokio reactor.
pub fn readable<T: Device>(device: Arc<Held<T>>) -> io::Result<AsyncFd<Arc<Held<T>>>> {
    // SAFETY: register asks that the descriptor stay open until the AsyncFd is dropped, which holds
    // the `Arc`; a `Device` owns its descriptor and never gives it up, and `Held` never gives up the
    // device. There is no safe way in.
    let registered = unsafe { AsyncFd::register_with_interest(device, Interest::READABLE) };
    registered.map_err(|refused| refused.into_parts().1)
}
