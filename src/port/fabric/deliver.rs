//! Where a judged frame goes: out of one port or many, as it is, finished or put together with others.

use std::sync::Arc;

use super::scratch::{FINISHED, KEPT, Kept};
use super::{Batch, at, on_cable};
use crate::frame::coalesce::Merged;
use crate::frame::offload::{Unfinished, WHOLE_MAX_SEGMENTS};
use crate::frame::segment::Segments;
use crate::frame::{Frame, MAX_FRAME, Retag};
use crate::port::egress::{At, Departing, Egress};
use crate::prof::stage::Within;
use crate::prof::{Stage, Tape};
use crate::switch::{Port, Reason, Slot, Verdict};
use crate::ws::codec::Payload;

impl<T: Tape> Batch<'_, T> {
    /// Sends a judged frame, all of it in clear, to whom the verdict says.
    pub(super) fn deliver(&mut self, verdict: Verdict, bytes: &[u8], unfinished: Option<&Unfinished>) {
        let Some(frame) = Frame::checked(bytes) else { return };
        match verdict {
            Verdict::Unicast(slot, retag) => {
                let Some(port) = self.table.get(slot) else { return };
                match unfinished {
                    Some(unfinished) if !port.egress.takes(unfinished) => {
                        self.finish_frame(bytes, unfinished, |this, frame| {
                            this.send(port, frame, retag, None)
                        });
                    }
                    _ => self.send(port, frame, retag, unfinished),
                }
            }
            Verdict::Flood(flood) => {
                let within = self.tape.enter(Within::Flood);
                let mut copies = 0;
                let mut others = std::mem::take(&mut self.others);
                for (port, retag) in self.table.flood(flood, frame.dst().is_reserved()) {
                    copies += 1;
                    self.tape.mark(Stage::SwFlood);
                    match unfinished {
                        Some(unfinished) if !port.egress.takes(unfinished) => {
                            others.push((port.clone(), retag));
                        }
                        _ => self.send(port, frame, retag, unfinished),
                    }
                }
                if let (false, Some(unfinished)) = (others.is_empty(), unfinished) {
                    self.finish_frame(bytes, unfinished, |this, frame| {
                        others.iter().for_each(|(port, retag)| this.send(port, frame, *retag, None));
                    });
                }
                others.clear();
                self.others = others;
                self.tape.leave(within);
                let frames = u64::from(on_cable(bytes.len(), unfinished).0);
                match copies {
                    0 => self.ingress.counters.dropped_many(flood.nobody(), frames),
                    1 => (),
                    _ => self.ingress.counters.copied((copies - 1) * frames),
                }
            }
            Verdict::Drop(reason) => self.dropped(reason),
        }
    }

    /// Sends a judged frame that may still be masked but for what was looked at. From link to link it
    /// stays so: its bytes are touched once, by the copy that gives them their new mask.
    pub(super) fn deliver_sealed(
        &mut self,
        verdict: Verdict,
        payload: Payload<'_>,
        unfinished: Option<&Unfinished>,
    ) {
        let port = match verdict {
            Verdict::Unicast(slot, Retag::Keep) => self.table.get(slot),
            _ => None,
        };
        match port.map(|port| (port, &port.egress)) {
            Some((port, egress @ Egress::Link(link))) if unfinished.is_none_or(|u| egress.takes(u)) => {
                let len = payload.len();
                let header = unfinished.map(|unfinished| unfinished.header(0)).unwrap_or_default();
                let sent = on_cable(len, unfinished);
                self.tape.to(at(port));
                let taken = link.send_pieces(&header, &payload.pieces(), len, sent, self.now, self.tape);
                self.at(port).gone(&header, sent.0, &[payload.raw()], taken.err());
                self.note(port, taken, sent.0);
            }
            _ => {
                let frame = self.open(payload);
                self.deliver(verdict, frame, unfinished);
            }
        }
    }

    /// Does what is left to do for a frame and calls `each` with what it becomes, one after the other.
    pub(super) fn finish_frame(
        &mut self,
        bytes: &[u8],
        unfinished: &Unfinished,
        mut each: impl FnMut(&mut Self, Frame<'_>),
    ) {
        let within = self.tape.enter(Within::Segment);
        FINISHED.with_borrow_mut(|buffer| {
            buffer.resize(MAX_FRAME, 0);
            let mut segments = Segments::new(bytes, unfinished);
            while let Some(len) = segments.write_next(buffer) {
                self.tape.mark(Stage::SwSegment);
                if let Some(frame) = Frame::checked(&buffer[..len]) {
                    each(self, frame);
                }
            }
        });
        self.tape.leave(within);
    }

    pub(super) fn send(
        &mut self,
        port: &Arc<Port<Egress>>,
        frame: Frame<'_>,
        retag: Retag,
        unfinished: Option<&Unfinished>,
    ) {
        let departing = Departing::new(frame, retag, unfinished);
        self.tape.to(at(port));
        let taken = match &port.egress {
            Egress::Device(device) => {
                let taken = device.send(&departing, &port.counters, self.at(port));
                self.tape.mark(device.write_stage());
                taken
            }
            Egress::Link(link) => link.send(&departing, self.now, self.tape),
        };
        self.at(port).left(&departing, taken.err());
        self.note(port, taken, departing.frames);
    }

    /// An egress port and who looks on there.
    fn at(&self, port: &Port<Egress>) -> At<'_> {
        At { watch: &self.watch, port: port.number }
    }

    pub(super) fn takes_merged(&self, slot: Slot) -> bool {
        match self.table.get(slot).map(|port| &port.egress) {
            Some(Egress::Device(device)) => device.takes_merged(),
            _ => false,
        }
    }

    pub(super) fn send_merged(&mut self, merged: &Merged<'_>) {
        self.tape.mark(Stage::SwMerge);
        let Some(port) = self.table.get(Slot(merged.to)) else { return };
        if let Egress::Device(device) = &port.egress {
            let sent = device.send_merged(merged, &port.counters);
            if self.watch.is_some() {
                let mut parts = [&[][..]; WHOLE_MAX_SEGMENTS];
                let count = merged.parts().len();
                parts.iter_mut().zip(merged.parts()).for_each(|(place, part)| *place = part);
                let header = merged.unfinished.map(|unfinished| unfinished.header(0)).unwrap_or_default();
                self.at(port).gone(&header, merged.frames as u32, &parts[..count], sent.err());
            }
            if let Err(reason) = sent {
                port.counters.dropped_many(reason, merged.frames as u64);
            }
        }
        self.tape.mark_many(Stage::TxTapWrite, at(port), merged.frames as u64, merged.len as u64);
    }

    /// Takes note of what became of so many frames; `Ok(true)`: their port is to be flushed.
    fn note(&mut self, port: &Arc<Port<Egress>>, taken: Result<bool, Reason>, frames: u32) {
        match taken {
            Ok(true) => self.touched.push(port.clone()),
            Ok(false) => (),
            Err(reason) => port.counters.dropped_many(reason, frames.into()),
        }
    }
}

/// Writes out what the batch left with its egress ports.
impl<T: Tape> Drop for Batch<'_, T> {
    fn drop(&mut self) {
        self.ingress.counters.received(self.frames, self.bytes);
        for port in self.touched.drain(..) {
            match &port.egress {
                Egress::Device(device) => {
                    let frames = device.flush(&port.counters, At { watch: &self.watch, port: port.number });
                    self.tape.mark_many(device.write_stage(), at(&port), frames.0, frames.1);
                }
                Egress::Link(link) => link.flush(self.tape),
            }
        }
        if self.fabric.switch.arrivals.is_some() {
            self.fabric.heard.wake();
        }
        self.tape.end(&self.fabric.prof, self.frames, self.bytes);
        // What was kept of a batch that panics is nobody's.
        if std::thread::panicking() {
            self.coalescer = None;
        }
        let (touched, others) = (std::mem::take(&mut self.touched), std::mem::take(&mut self.others));
        KEPT.set(Kept { touched, others, coalescer: self.coalescer.take() });
    }
}
