//! The place of one connection of a link. One that takes another's place finds the old one's words still to be said:
//! that one lets them out, and the new one reads when the old one has read all that was sent to it.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::spread::Mark;
use super::{Wire, fair};
use crate::frame::offload::VnetHeader;
use crate::port::spec::Congestion;
use crate::prof::Tape;
use crate::switch::Reason;
use crate::sync::{Mutex, MutexGuard, PoisonError};
use crate::ws::codec::Piece;

/// One place.
#[derive(Default)]
pub struct Member {
    place: Mutex<Place>,
    /// Of those that were here, the last that has read all it will.
    read_by: AtomicU64,
    /// The last that was waited for in vain.
    forgone: AtomicU64,
}

#[derive(Default)]
pub struct Place {
    /// The connection; `None` while there is none.
    pub wire: Option<Wire>,
    /// The one before, while it has something to say.
    before: Option<Box<Wire>>,
    /// Connections that were here.
    count: u64,
}

impl Member {
    pub fn lock(&self) -> MutexGuard<'_, Place> {
        // A panic under the lock ends the session that caused it, and its wire with it.
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Encodes a frame behind the others. `flow` is where it waits, where that is known.
    pub fn send(
        &self,
        header: &VnetHeader,
        frame: &[Piece<'_>],
        sent: (u32, u32),
        flow: Option<usize>,
        tape: &mut impl Tape,
    ) -> Result<bool, Reason> {
        let mut place = self.lock();
        let Some(wire) = place.wire.as_mut() else { return Err(Reason::LinkDown) };
        let first = wire.push(header, frame, sent, flow, tape)?;
        if wire.wants_flush() {
            flush(wire, tape);
        }
        Ok(first)
    }

    /// Says something of a flow, behind its frames; `false`: nobody is there to hear it.
    pub fn mark(&self, flow: usize, mark: Mark) -> bool {
        self.lock().wire.as_mut().is_some_and(|wire| wire.mark(flow, &mark.bytes()))
    }

    /// More may be said of flows.
    pub fn has_room(&self) -> bool {
        self.lock().wire.as_ref().is_none_or(Wire::has_room)
    }

    /// Nothing waits here, and the far end's kernel has all that was sent.
    pub fn is_drained(&self) -> bool {
        self.lock().wire.as_ref().is_none_or(Wire::is_drained)
    }

    /// Writes what waits, as far as the socket takes it.
    pub fn flush(&self, tape: &mut impl Tape) {
        if let Some(wire) = self.lock().wire.as_mut() {
            flush(wire, tape);
        }
    }

    pub fn is_connected(&self) -> bool {
        self.lock().wire.is_some()
    }

    pub fn set_congestion(&self, wanted: &Congestion) -> std::io::Result<()> {
        self.lock().wire.as_ref().map_or(Ok(()), |wire| wire.set_congestion(wanted))
    }

    pub fn set_pace(&self, bits: Option<u64>) {
        if let Some(wire) = self.lock().wire.as_mut() {
            wire.set_pace(bits);
            wire.flush(&mut ());
            // What waits may be due sooner than the session has been told.
            wire.stuck.notify_one();
        }
    }

    /// Wakes the sessions that are here.
    pub fn wake(&self) {
        let place = self.lock();
        place.wire.iter().chain(place.before.as_deref()).for_each(|wire| wire.stuck.notify_one());
    }

    /// The last connection that was here.
    pub fn last(&self) -> u64 {
        self.lock().count
    }

    /// Whether the `count`th connection has read all that it will.
    pub fn has_read(&self, count: u64) -> bool {
        self.read_by.load(Acquire) >= count
    }

    /// The `count`th will read no more.
    pub fn reads_no_more(&self, count: u64) {
        self.read_by.fetch_max(count, Release);
    }

    /// Nobody is to wait for the `count`th once more, whatever it still reads.
    pub fn forgo(&self, count: u64) {
        self.forgone.fetch_max(count, Relaxed);
    }

    pub fn is_forgone(&self, count: u64) -> bool {
        self.forgone.load(Relaxed) >= count
    }
}

impl Place {
    /// The number of the new connection. With `live` the one before still works, and has its say; else only what it was
    /// sent counts.
    pub fn put(&mut self, mut wire: Wire, live: bool) -> u64 {
        self.count += 1;
        wire.count = self.count;
        if let Some(mut before) = self.wire.replace(wire) {
            before.replaced = Some(live);
            before.stuck.notify_one();
            self.before = Some(Box::new(before));
        }
        self.count
    }

    /// The `count`th connection.
    pub fn of(&mut self, count: u64) -> Option<&mut Wire> {
        let both = self.wire.iter_mut().chain(self.before.as_deref_mut());
        both.into_iter().find(|wire| wire.count == count)
    }

    /// The `count`th connection is at its end; `true`: nobody is here now.
    pub fn take(&mut self, count: u64) -> bool {
        self.before.take_if(|wire| wire.count == count);
        self.wire.take_if(|wire| wire.count == count);
        self.wire.is_none()
    }
}

/// The session is woken once for each time that the socket blocks or frames begin to wait for their turn.
pub fn flush(wire: &mut Wire, tape: &mut impl Tape) {
    let known = wire.is_blocked() || wire.held_for().is_some();
    if !wire.flush(tape) && !known {
        wire.stuck.notify_one();
    }
}

/// Where frames of a flow wait ([`fair`]), and by which they are spread.
pub const FLOWS: usize = fair::FLOWS;
