//! Ways out of the switch: a TAP, which takes one frame a system call; a network device, which takes
//! the frames of a batch in one; or a link.
//!
//! Some take a frame whose checksum or whose segmentation is left to them ([`Egress::takes`]); to the
//! others only finished ones are sent.

use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use super::capture::{self, Seen, Watch, Way};
use super::link::Link;
use crate::frame::coalesce::Merged;
use crate::frame::offload::{Unfinished, VnetHeader, WHOLE_MAX_SEGMENTS};
use crate::frame::{Frame, MacAddr, Outgoing, Retag};
use crate::prof::Stage;
use crate::switch::{Counters, Reason};
use crate::sys::packet::{BURST, PacketSocket};
use crate::sys::tun::Tap;
use crate::sys::{Granted, Held};

/// Where a port's frames go.
pub enum Egress {
    Device(Arc<Device>),
    Link(Arc<Link>),
}

impl Egress {
    /// Why a frame would not be taken, as far as that can be known before.
    pub fn refuses(&self, frame: &Departing<'_>) -> Option<Reason> {
        match self {
            Self::Device(device) => device.refuses(frame),
            Self::Link(link) => link.refuses(frame.out.len()),
        }
    }

    /// Whether a frame may go out as it is; if not it has to be finished first.
    pub fn takes(&self, unfinished: &Unfinished) -> bool {
        match self {
            Self::Device(device) => {
                device.offload.is_some_and(|granted| granted.uso || !unfinished.is_super_udp())
            }
            Self::Link(link) => link.is_vnet(),
        }
    }
}

/// A frame as it leaves through one port.
pub struct Departing<'a> {
    pub out: Outgoing<'a>,
    /// What is left to whoever takes it; nothing in most.
    pub header: VnetHeader,
    /// Frames that it will be on a cable, and their bytes.
    pub frames: u32,
    pub bytes: u32,
    /// The longest of them without its Ethernet header and tags, to compare with an MTU.
    longest: usize,
}

impl<'a> Departing<'a> {
    pub fn new(frame: Frame<'a>, retag: Retag, unfinished: Option<&Unfinished>) -> Self {
        let out = Outgoing::new(frame, retag);
        let len = frame.bytes().len();
        let (longest, bytes) = (out.payload_len(), out.len() as u32);
        match unfinished {
            None => Self { out, header: VnetHeader::default(), frames: 1, bytes, longest },
            Some(unfinished) => {
                let shift = out.len() as isize - len as isize;
                let cut = len - unfinished.longest(len);
                let frames = unfinished.count(len);
                let bytes = unfinished.bytes(len).saturating_add_signed(shift * frames as isize);
                Self {
                    header: unfinished.header(shift),
                    frames: frames as u32,
                    bytes: bytes as u32,
                    longest: longest.saturating_sub(cut),
                    out,
                }
            }
        }
    }
}

/// An egress port, and who looks on there.
#[derive(Clone, Copy)]
pub struct At<'a> {
    pub watch: &'a Watch,
    pub port: u32,
}

impl At<'_> {
    /// Shows a frame that the port has taken, or refused.
    #[inline]
    pub fn left(&self, frame: &Departing<'_>, dropped: Option<Reason>) {
        self.gone(&frame.header, frame.frames, &frame.out.parts(), dropped);
    }

    /// The same for a frame in parts, which will be so many.
    #[inline]
    pub fn gone(&self, header: &VnetHeader, frames: u32, parts: &[&[u8]], dropped: Option<Reason>) {
        if let Some(watch) = self.watch {
            let (port, way, gso_size) = (self.port, Way::Out, header.gso_size);
            capture::show(watch, Seen { port, way, frames, gso_size, dropped }, parts);
        }
    }
}

/// A TAP or network device, and what is known of it.
pub struct Device {
    pub name: String,
    pub handle: Handle,
    offload: Option<Granted>,
    pub index: AtomicU32,
    /// The index of the bridge that the port's settings name, when it was last put there; 0: there is none.
    pub bridge: AtomicU32,
    mtu: AtomicU32,
    mac: AtomicU64,
}

/// How the device is held open.
pub enum Handle {
    Tap(Arc<Held<Tap>>),
    Packet(Arc<Held<PacketSocket>>, Mutex<Outbox>),
}

/// Frames of one batch on their way to a network device, each behind its header, one behind the other.
#[derive(Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    /// Of each: how many frames it is on a cable, and their bytes.
    frames: Vec<(u32, u32)>,
}

impl Device {
    pub fn new(name: &str, handle: Handle) -> Self {
        let offload = match &handle {
            Handle::Tap(tap) => tap.offload(),
            Handle::Packet(socket, _) => socket.offload(),
        };
        Self {
            name: name.to_owned(),
            handle,
            offload,
            index: AtomicU32::new(0),
            bridge: AtomicU32::new(0),
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

    /// What the kernel and we leave to each other, as `listport` shows it.
    pub fn offload(&self) -> &'static str {
        match self.offload {
            Some(Granted { uso: true }) => "tso,uso",
            Some(Granted { uso: false }) => "tso",
            None => "-",
        }
    }

    /// It is read by several queues.
    pub fn has_queues(&self) -> bool {
        matches!(&self.handle, Handle::Tap(tap) if tap.queues() > 1)
    }

    /// What writing to it is called.
    pub fn write_stage(&self) -> Stage {
        match self.handle {
            Handle::Tap(_) => Stage::TxTapWrite,
            Handle::Packet(..) => Stage::TxDevWrite,
        }
    }

    /// Whether frames of a flow are worth putting together before they are sent.
    pub fn takes_merged(&self) -> bool {
        matches!(self.handle, Handle::Tap(_)) && self.offload.is_some()
    }

    fn refuses(&self, frame: &Departing<'_>) -> Option<Reason> {
        (frame.longest > self.mtu.load(Relaxed) as usize).then_some(Reason::TooBig)
    }

    /// Writes a frame to a TAP, or leaves it for the flush: `Ok(true)`, the caller must see to that. A
    /// TAP would take a frame larger than its MTU; no network would, so the MTU is checked for both.
    pub fn send(&self, frame: &Departing<'_>, counters: &Counters, at: At<'_>) -> Result<bool, Reason> {
        if let Some(reason) = self.refuses(frame) {
            return Err(reason);
        }
        match &self.handle {
            Handle::Tap(tap) => {
                let header = frame.header.to_little_endian();
                let [head, tag, tail] = frame.out.parts().map(IoSlice::new);
                let parts = [IoSlice::new(&header), head, tag, tail];
                let first = usize::from(self.offload.is_none());
                let last = if tag.is_empty() && tail.is_empty() { 2 } else { 4 };
                tap.write(&parts[first..last]).map_err(|e| refusal(&e))?;
                counters.sent(frame.frames.into(), frame.bytes.into());
                Ok(false)
            }
            Handle::Packet(socket, outbox) => {
                let mut outbox = outbox.lock().unwrap_or_else(PoisonError::into_inner);
                let first = outbox.frames.is_empty();
                outbox.push(frame);
                if outbox.is_full() {
                    outbox.flush(socket, counters, at);
                }
                Ok(first)
            }
        }
    }

    /// Writes frames that were put together; the device [takes](Self::takes_merged) them.
    pub fn send_merged(&self, merged: &Merged<'_>, counters: &Counters) -> Result<(), Reason> {
        let Handle::Tap(tap) = &self.handle else { return Err(Reason::DeviceError) };
        let head = merged.parts().next().and_then(Frame::checked).ok_or(Reason::Runt)?;
        let header = head.bytes().len() - Outgoing::new(head, Retag::Keep).payload_len();
        let longest = merged.unfinished.map_or(merged.len, |unfinished| unfinished.longest(merged.len));
        if longest - header > self.mtu.load(Relaxed) as usize {
            return Err(Reason::TooBig);
        }
        let header = merged.unfinished.map(|unfinished| unfinished.header(0)).unwrap_or_default();
        let header = header.to_little_endian();
        let mut parts = [IoSlice::new(&[]); MAX_PARTS];
        parts[0] = IoSlice::new(&header);
        let mut count = 1;
        for (place, part) in parts[1..].iter_mut().zip(merged.parts()) {
            *place = IoSlice::new(part);
            count += 1;
        }
        tap.write(&parts[..count]).map_err(|e| refusal(&e))?;
        let bytes = merged.unfinished.map_or(merged.len, |unfinished| unfinished.bytes(merged.len));
        counters.sent(merged.frames as u64, bytes as u64);
        Ok(())
    }

    /// Sends what a batch has left, of this batch or of another thread's; frames and bytes of that.
    pub fn flush(&self, counters: &Counters, at: At<'_>) -> (u64, u64) {
        match &self.handle {
            Handle::Packet(socket, outbox) => {
                outbox.lock().unwrap_or_else(PoisonError::into_inner).flush(socket, counters, at)
            }
            Handle::Tap(_) => (0, 0),
        }
    }
}

impl Outbox {
    fn push(&mut self, frame: &Departing<'_>) {
        self.bytes.extend_from_slice(&frame.header.to_native());
        frame.out.parts().iter().for_each(|part| self.bytes.extend_from_slice(part));
        self.ends.push(self.bytes.len());
        self.frames.push((frame.frames, frame.bytes));
    }

    fn is_full(&self) -> bool {
        self.ends.len() == BURST || self.bytes.len() >= OUTBOX
    }

    /// A frame that the kernel refuses is dropped by name, and those behind it go on.
    fn flush(&mut self, socket: &PacketSocket, counters: &Counters, at: At<'_>) -> (u64, u64) {
        let (mut next, mut start, mut sent) = (0, 0, (0, 0));
        while next < self.ends.len() {
            let (gone, reason) = match socket.send_burst(&self.bytes, start, &self.ends[next..]) {
                Ok(gone @ 1..) => (gone, None),
                refused => (1, Some(refused.err().map_or(Reason::DeviceError, |e| refusal(&e)))),
            };
            for (frames, bytes) in &self.frames[next..next + gone] {
                match reason {
                    None => sent = (sent.0 + u64::from(*frames), sent.1 + u64::from(*bytes)),
                    Some(reason) => {
                        counters.dropped_many(reason, u64::from(*frames));
                        self.show(start, self.ends[next], *frames, reason, at);
                    }
                }
            }
            next += gone;
            start = self.ends[next - 1];
        }
        self.bytes.clear();
        self.ends.clear();
        self.frames.clear();
        counters.sent(sent.0, sent.1);
        sent
    }

    /// Shows a frame that the kernel refused.
    fn show(&self, start: usize, end: usize, frames: u32, reason: Reason, at: At<'_>) {
        if let Some((header, frame)) = self.bytes[start..end].split_first_chunk() {
            at.gone(&VnetHeader::from_native(*header), frames, &[frame], Some(reason));
        }
    }
}

/// Bytes of a burst to a network device at most, but for its last frame.
const OUTBOX: usize = 256 << 10;

/// A TAP's header and what a super-frame is put together from.
const MAX_PARTS: usize = 1 + WHOLE_MAX_SEGMENTS;

fn refusal(error: &io::Error) -> Reason {
    match error.raw_os_error() {
        // A TAP that is down answers EIO, one that was deleted EBADFD.
        Some(libc::EIO | libc::EBADFD | libc::ENETDOWN | libc::ENXIO | libc::ENODEV) => Reason::DeviceDown,
        Some(libc::EMSGSIZE) => Reason::TooBig,
        _ => Reason::DeviceError,
    }
}
