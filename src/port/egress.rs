//! Ways out of the switch: a device that takes one frame a system call, or a link.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use super::link::Link;
use crate::frame::{MacAddr, Outgoing};
use crate::switch::Reason;
use crate::sys::Held;
use crate::sys::packet::PacketSocket;
use crate::sys::tun::Tap;

/// Where a port's frames go.
pub enum Egress {
    Device(Arc<Device>),
    Link(Arc<Link>),
}

/// A TAP or network device, and what is known of it.
pub struct Device {
    pub name: String,
    pub handle: Handle,
    pub index: AtomicU32,
    mtu: AtomicU32,
    mac: AtomicU64,
}

/// How the device is held open.
pub enum Handle {
    Tap(Arc<Held<Tap>>),
    Packet(Arc<Held<PacketSocket>>),
}

impl Device {
    pub fn new(name: &str, handle: Handle) -> Self {
        Self {
            name: name.to_owned(),
            handle,
            index: AtomicU32::new(0),
            mtu: AtomicU32::new(u32::MAX),
            mac: AtomicU64::new(0),
        }
    }

    /// Takes note of the interface's index, MTU and address.
    pub fn note(&self, index: u32, mtu: u32, mac: MacAddr) {
        self.index.store(index, Relaxed);
        self.mtu.store(mtu, Relaxed);
        self.mac.store(mac.bits(), Relaxed);
    }

    pub fn mac(&self) -> MacAddr {
        MacAddr::from_bits(self.mac.load(Relaxed))
    }

    /// One frame, one system call. The kernel serialises writers. A TAP would take a frame larger
    /// than its MTU; no network would, so the MTU is checked here for both.
    pub fn send(&self, out: &Outgoing<'_>) -> Result<(), Reason> {
        if out.payload_len() > self.mtu.load(Relaxed) as usize {
            return Err(Reason::TooBig);
        }
        let parts = out.parts().map(IoSlice::new);
        let parts = if parts[1].is_empty() && parts[2].is_empty() { &parts[..1] } else { &parts[..] };
        let sent = match &self.handle {
            Handle::Tap(tap) => tap.write(parts),
            Handle::Packet(socket) => socket.send(parts),
        };
        sent.map(|_| ()).map_err(|e| refusal(&e))
    }
}

fn refusal(error: &io::Error) -> Reason {
    match error.raw_os_error() {
        // A TAP that is down answers EIO, one that was deleted EBADFD.
        Some(libc::EIO | libc::EBADFD | libc::ENETDOWN | libc::ENXIO | libc::ENODEV) => Reason::DeviceDown,
        Some(libc::EMSGSIZE) => Reason::TooBig,
        _ => Reason::DeviceError,
    }
}
