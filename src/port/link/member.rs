//! The place of one connection of a link. One that takes another's place finds the old one's words still to be said:
//! that one lets them out, and the new one reads when the old one has read all that was sent to it.

use super::spread::Mark;
use super::{Wire, fair};
use crate::frame::offload::VnetHeader;
use crate::port::spec::Congestion;
use crate::prof::Tape;
use crate::switch::Reason;
use crate::sync::{Mutex, MutexGuard, PoisonError};
use crate::ws::codec::Piece;

/// How a connection takes the place of the one before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Takeover {
    /// That one is lost; what had come by it is read before.
    Lost,
    /// That one works: it ends with a Close behind all that it has, and the new one is read behind that.
    Live,
    /// That one works and leads elsewhere: both are read, for a moment ([`Moving`](crate::switch::Moving)).
    Moved,
}

/// One place.
#[derive(Default)]
pub struct Member {
    place: Mutex<Place>,
}

#[derive(Default)]
pub struct Place {
    /// The connection; `None` while there is none.
    pub wire: Option<Wire>,
    /// The one before, while it has something to say.
    before: Option<Box<Wire>>,
    /// Connections that were here.
    count: u64,
    /// Of those, the last that has read all it will.
    read_by: u64,
    /// What both ends call the last one; `None`: of this link none was here.
    n: Option<u32>,
    /// The last that was waited for in vain.
    forgone: Option<u32>,
}

impl Member {
    pub fn lock(&self) -> MutexGuard<'_, Place> {
        // A panic under the lock ends the session that caused it, and its wire with it.
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Encodes a frame behind the others. `flow` is where it waits, where that is known. With what [`Wire::push`] says
    /// comes the number of the connection.
    pub fn send(
        &self,
        header: &VnetHeader,
        frame: &[Piece<'_>],
        sent: (u32, u32),
        flow: Option<usize>,
        tape: &mut impl Tape,
    ) -> Result<(bool, u32), Reason> {
        let mut place = self.lock();
        let Some(wire) = place.wire.as_mut() else { return Err(Reason::LinkDown) };
        let first = wire.push(header, frame, sent, flow, tape)?;
        if wire.wants_flush() {
            flush(wire, tape);
        }
        Ok((first, wire.n))
    }

    /// Says something of a flow, behind its frames: the number of the connection, unless nobody is there to hear it.
    pub fn mark(&self, flow: usize, mark: Mark) -> Option<u32> {
        let mut place = self.lock();
        let wire = place.wire.as_mut()?;
        wire.mark(flow, &mark.bytes()).then_some(wire.n)
    }

    /// More may be said of flows.
    pub fn has_room(&self) -> bool {
        self.lock().wire.as_ref().is_none_or(Wire::has_room)
    }

    /// Somebody's flows may come here: what was said of others is on its way.
    pub fn takes_in(&self) -> bool {
        self.lock().wire.as_ref().is_none_or(|wire| wire.has_room() && !wire.has_marks())
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
        if let Some(wire) = self.lock().wire.as_mut()
            && wire.set_pace(bits)
        {
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
}

impl Place {
    /// The new connection is the `n`th of the link here: its number among all that were. Unless it is lost, the one before
    /// has its say; else only what it was sent counts.
    pub fn put(&mut self, mut wire: Wire, n: u32, takes: Takeover) -> u64 {
        self.count += 1;
        (wire.count, wire.n) = (self.count, n);
        self.n = Some(n);
        if let Some(mut before) = self.wire.replace(wire) {
            before.replaced = Some(takes);
            before.stuck.notify_one();
            self.before = Some(Box::new(before));
        }
        self.count
    }

    /// How many connections were here.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The `count`th connection.
    pub fn of(&mut self, count: u64) -> Option<&mut Wire> {
        let both = self.wire.iter_mut().chain(self.before.as_deref_mut());
        both.into_iter().find(|wire| wire.count == count)
    }

    /// Another link begins here: its connections are counted anew.
    pub fn begins(&mut self) {
        (self.n, self.forgone) = (None, None);
    }

    /// The `count`th will read no more.
    pub fn reads_no_more(&mut self, count: u64) {
        self.read_by = self.read_by.max(count);
    }

    /// Whether those up to the `count`th have read all that they will.
    pub fn has_read_by(&self, count: u64) -> bool {
        self.read_by >= count
    }

    /// Whether the connection `n` has, or is not worth waiting for. One that is still to come has not.
    pub fn has_read(&self, n: u32) -> bool {
        let read = match self.n {
            Some(last) if last == n => self.has_read_by(self.count),
            // It had this place before, and those behind it read when it has read all.
            Some(last) if last > n => self.has_read_by(self.count - 1),
            _ => false,
        };
        read || self.forgone.is_some_and(|forgone| forgone >= n)
    }

    /// Nobody is to wait for connection `n` once more, whatever it still reads.
    pub fn forgo(&mut self, n: u32) {
        self.forgone = self.forgone.max(Some(n));
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
