//! Ways out of the switch: a TAP, which takes one frame a system call; a network device, which takes
//! the frames of a batch in one; or a link.

use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use super::link::Link;
use crate::frame::{MacAddr, Outgoing};
use crate::switch::{Counters, Reason};
use crate::sys::Held;
use crate::sys::packet::{BURST, PacketSocket};
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
    Packet(Arc<Held<PacketSocket>>, Mutex<Outbox>),
}

/// Frames of one batch on their way to a network device, one behind the other.
#[derive(Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    ends: Vec<usize>,
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

    /// Writes a frame to a TAP, or leaves it for the flush: `Ok(true)`, the caller must see to that. A
    /// TAP would take a frame larger than its MTU; no network would, so the MTU is checked for both.
    pub fn send(&self, out: &Outgoing<'_>, counters: &Counters) -> Result<bool, Reason> {
        if out.payload_len() > self.mtu.load(Relaxed) as usize {
            return Err(Reason::TooBig);
        }
        match &self.handle {
            Handle::Tap(tap) => {
                let parts = out.parts().map(IoSlice::new);
                let whole = parts[1].is_empty() && parts[2].is_empty();
                tap.write(if whole { &parts[..1] } else { &parts }).map_err(|e| refusal(&e))?;
                counters.sent(1, out.len() as u64);
                Ok(false)
            }
            Handle::Packet(socket, outbox) => {
                let mut outbox = outbox.lock().unwrap_or_else(PoisonError::into_inner);
                out.parts().iter().for_each(|part| outbox.bytes.extend_from_slice(part));
                let end = outbox.bytes.len();
                outbox.ends.push(end);
                if outbox.ends.len() == BURST {
                    outbox.flush(socket, counters);
                }
                Ok(outbox.ends.len() == 1)
            }
        }
    }

    /// Sends what a batch has left, of this batch or of another thread's.
    pub fn flush(&self, counters: &Counters) {
        if let Handle::Packet(socket, outbox) = &self.handle {
            outbox.lock().unwrap_or_else(PoisonError::into_inner).flush(socket, counters);
        }
    }
}

impl Outbox {
    /// A frame that the kernel refuses is dropped by name, and those behind it go on.
    fn flush(&mut self, socket: &PacketSocket, counters: &Counters) {
        let (mut first, mut bytes, mut frames) = (0, 0, 0);
        while first < self.ends.len() {
            let start = if first == 0 { 0 } else { self.ends[first - 1] };
            match socket.send_burst(&self.bytes, start, &self.ends[first..]) {
                Ok(sent @ 1..) => {
                    first += sent;
                    frames += sent as u64;
                    bytes += (self.ends[first - 1] - start) as u64;
                }
                refused => {
                    let reason = refused.err().map_or(Reason::DeviceError, |e| refusal(&e));
                    counters.dropped(reason);
                    first += 1;
                }
            }
        }
        self.bytes.clear();
        self.ends.clear();
        counters.sent(frames, bytes);
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
