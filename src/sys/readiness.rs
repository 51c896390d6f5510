//! Devices in the reactor.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

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

/// Readiness to read, from the calling thread's tokio reactor.
pub fn readable<T: Device>(device: Arc<T>) -> io::Result<AsyncFd<Arc<T>>> {
    // SAFETY: register asks that the descriptor stay open until the AsyncFd is dropped, which holds
    // the `Arc`; a `Device` owns its descriptor and never gives it up. There is no safe way in.
    let registered = unsafe { AsyncFd::register_with_interest(device, Interest::READABLE) };
    registered.map_err(|refused| refused.into_parts().1)
}
