//! One frame's way from ingress to egress, run to completion on the thread that read it.
//!
//! An ingress opens a [`Batch`] for what one read gave it, judges and delivers each frame, and closes
//! the batch: only then do links and network devices that were given frames write them, one system
//! call each.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Instant;

use super::egress::Egress;
use crate::frame::{Frame, MIN_FRAME, Outgoing, Retag};
use crate::switch::{Fdb, Now, Port, Reason, Slot, Switch, Table, Verdict};
use crate::ws::codec::Payload;

/// Bytes of a frame that the switch looks at: addresses, two tags' worth and an EtherType.
pub const LOOKED_AT: usize = 22;

/// The switch, and the moment from which it counts time.
pub struct Fabric {
    pub switch: Switch<Egress>,
    start: Instant,
}

/// A snapshot of the table, for as long as one batch.
pub type Snapshot = arc_swap::Guard<Arc<Table<Egress>>>;

impl Fabric {
    pub fn new(fdb: Fdb) -> Self {
        Self { switch: Switch::new(fdb), start: Instant::now() }
    }

    pub fn now(&self) -> Now {
        Now(self.start.elapsed())
    }

    pub fn table(&self) -> Snapshot {
        self.switch.table().load()
    }

    /// Begins a batch of frames from port `number` in `slot`; `None` once the port is gone, another one
    /// in its place or not.
    pub fn batch<'a>(&'a self, table: &'a Table<Egress>, slot: Slot, number: u32) -> Option<Batch<'a>> {
        let ingress = table.get(slot).filter(|port| port.number == number)?;
        let touched = TOUCHED.take();
        Some(Batch { fabric: self, table, ingress, now: self.now(), touched, frames: 0, bytes: 0 })
    }
}

/// Frames that came in together.
pub struct Batch<'a> {
    fabric: &'a Fabric,
    table: &'a Table<Egress>,
    ingress: &'a Port<Egress>,
    now: Now,
    touched: Vec<Arc<Port<Egress>>>,
    frames: u64,
    bytes: u64,
}

impl Batch<'_> {
    /// Judges and delivers a whole frame.
    pub fn frame(&mut self, bytes: &[u8]) {
        if let Some(verdict) = self.judge(bytes) {
            self.deliver(verdict, bytes);
        }
    }

    /// Judges a frame by its first [`LOOKED_AT`] bytes; those behind may still be masked. `None` when
    /// it is dropped, and counted.
    pub fn judge(&mut self, bytes: &[u8]) -> Option<Verdict> {
        self.frames += 1;
        self.bytes += bytes.len() as u64;
        let Some(frame) = Frame::checked(bytes) else {
            self.dropped(if bytes.len() < MIN_FRAME { Reason::Runt } else { Reason::Oversize });
            return None;
        };
        match self.fabric.switch.forward(self.table, self.ingress, frame, self.now) {
            Verdict::Drop(reason) => {
                self.dropped(reason);
                None
            }
            verdict => Some(verdict),
        }
    }

    /// Sends a judged frame, all of it in clear, to whom the verdict says.
    pub fn deliver(&mut self, verdict: Verdict, bytes: &[u8]) {
        let Some(frame) = Frame::checked(bytes) else { return };
        match verdict {
            Verdict::Unicast(slot, retag) => {
                if let Some(port) = self.table.get(slot) {
                    self.send(port, frame, retag);
                }
            }
            Verdict::Flood(flood) => {
                let mut copies = 0;
                for (port, retag) in self.table.flood(flood, frame.dst().is_reserved()) {
                    self.send(port, frame, retag);
                    copies += 1;
                }
                if copies == 0 {
                    self.dropped(Reason::NoEgress);
                }
            }
            Verdict::Drop(reason) => self.dropped(reason),
        }
    }

    /// Sends a judged frame that may still be masked but for what was judged. From link to link it
    /// stays so: its bytes are touched once, by the copy that gives them their new mask.
    pub fn deliver_sealed(&mut self, verdict: Verdict, payload: Payload<'_>) {
        let port = match verdict {
            Verdict::Unicast(slot, Retag::Keep) => self.table.get(slot),
            _ => None,
        };
        match port.map(|port| (port, &port.egress)) {
            Some((port, Egress::Link(link))) => {
                let taken = link.send_pieces(&payload.pieces(), payload.len());
                self.note(port, taken);
            }
            _ => self.deliver(verdict, payload.open()),
        }
    }

    /// Counts a frame that could not be made whole.
    pub fn refused(&mut self, len: usize, reason: Reason) {
        self.frames += 1;
        self.bytes += len as u64;
        self.dropped(reason);
    }

    /// Counts a drop at this batch's ingress.
    pub fn dropped(&self, reason: Reason) {
        self.ingress.counters.dropped(reason);
    }

    fn send(&mut self, port: &Arc<Port<Egress>>, frame: Frame<'_>, retag: Retag) {
        let out = Outgoing::new(frame, retag);
        let taken = match &port.egress {
            Egress::Device(device) => device.send(&out, &port.counters),
            Egress::Link(link) => link.send(&out),
        };
        self.note(port, taken);
    }

    /// Takes note of what became of a frame; `Ok(true)`: its port is to be flushed.
    fn note(&mut self, port: &Arc<Port<Egress>>, taken: Result<bool, Reason>) {
        match taken {
            Ok(true) => self.touched.push(port.clone()),
            Ok(false) => (),
            Err(reason) => port.counters.dropped(reason),
        }
    }
}

/// Writes out what the batch left with its egress ports.
impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.ingress.counters.received(self.frames, self.bytes);
        for port in self.touched.drain(..) {
            match &port.egress {
                Egress::Device(device) => device.flush(&port.counters),
                Egress::Link(link) => link.flush(),
            }
        }
        TOUCHED.set(std::mem::take(&mut self.touched));
    }
}

thread_local! {
    /// The list of ports to flush, kept between batches so that none allocates.
    static TOUCHED: RefCell<Vec<Arc<Port<Egress>>>> = const { RefCell::new(Vec::new()) };
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::default());
}

/// A thread's read buffers; every ingress on the thread borrows them for one read.
pub struct Scratch {
    /// Where frames are read to.
    pub plain: Box<[u8]>,
    /// Where a TLS link's records are read to.
    pub sealed: Box<[u8]>,
}

/// What one read takes at most.
pub const READ: usize = 256 << 10;

impl Default for Scratch {
    fn default() -> Self {
        // The rest of a message that a read cut stands in front of the next read.
        let plain = vec![0; READ + crate::frame::MAX_FRAME + crate::ws::header::MAX_HEADER];
        // TLS may hold a few records of plaintext back; they fit too.
        Self { plain: plain.into(), sealed: vec![0; READ - (64 << 10)].into() }
    }
}

/// Lends the calling thread's read buffers. Not re-entrant.
pub fn with_scratch<T>(work: impl FnOnce(&mut Scratch) -> T) -> T {
    SCRATCH.with_borrow_mut(work)
}
