//! A WebSocket link, or a virtual machine's socket: the egress side, which any thread may use, and the session that
//! reads and keeps it alive, on one data thread.
//!
//! A frame for a link is encoded behind what waits there, under the link's lock; at the end of its
//! ingress batch the whole is written. Only when the socket would block does anything stay, and only
//! then is the session's thread told to wait for the socket.

mod backlog;
mod fair;
mod pace;
mod pings;
mod progress;
mod queue;
mod session;
mod stream;
mod vm;
mod wire;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

pub use session::{Ended, Session, Stop, linger};
pub use stream::Stream;
pub use vm::VmSession;
pub use wire::Wire;

use self::pings::Pings;
use super::egress::Departing;
use super::spec::Congestion;
use crate::frame::MAX_FRAME;
use crate::frame::offload::VnetHeader;
use crate::prof::{Side, Tape};
use crate::switch::{Counters, Reason};
use crate::sync::{Mutex, MutexGuard, PoisonError};
use crate::ws::codec::Piece;
use crate::ws::header::Opcode;

/// A link's egress. Outlives its connections.
#[derive(Default)]
pub struct Link {
    wire: Mutex<Option<Wire>>,
    /// The port's counters: only here is it known what was written.
    pub counters: Arc<Counters>,
    /// What it is to the way of a frame; absent: a link that comes in.
    side: Option<Side>,
    /// Tells the session that the socket would block, or broke.
    stuck: Notify,
    /// The connection speaks `etherws.vnet1`: each message begins with a virtio_net_hdr.
    vnet: AtomicBool,
    /// As it is asked for; locked behind `wire`.
    congestion: Mutex<Congestion>,
    /// PINGs that measure.
    pings: Mutex<Pings>,
    /// Bits a second; 0: as many as go.
    pace: AtomicU64,
}

impl Link {
    /// A link that is dialled from here.
    pub fn dialled(congestion: Congestion) -> Self {
        Self { side: Some(Side::Client), ..Self::incoming(congestion) }
    }

    pub fn incoming(congestion: Congestion) -> Self {
        Self { congestion: Mutex::new(congestion), ..Self::default() }
    }

    /// One to a virtual machine: as with a device, nothing is masked and no direction the slower one.
    pub fn to_vm() -> Self {
        Self { side: Some(Side::Device), ..Self::default() }
    }

    /// What it is to the way of a frame.
    pub fn side(&self) -> Side {
        self.side.unwrap_or(Side::Server)
    }

    /// Encodes one frame behind the others; it is counted as sent when it is written. `Ok(true)`:
    /// nobody has promised to flush yet, the caller must.
    pub fn send(&self, frame: &Departing<'_>, tape: &mut impl Tape) -> Result<bool, Reason> {
        let pieces = frame.out.parts().map(Piece::from);
        self.send_pieces(&frame.header, &pieces, frame.out.len(), (frame.frames, frame.bytes), tape)
    }

    /// The same for a frame of `len` bytes in pieces, some of which may wear the mask they came with.
    /// `sent`: what the counters will say of it, frames and bytes on a cable.
    pub fn send_pieces(
        &self,
        header: &VnetHeader,
        frame: &[Piece<'_>],
        len: usize,
        sent: (u32, u32),
        tape: &mut impl Tape,
    ) -> Result<bool, Reason> {
        if is_too_big(len) {
            return Err(Reason::TooBig);
        }
        let mut wire = self.lock();
        let Some(wire) = wire.as_mut() else { return Err(Reason::LinkDown) };
        let first = wire.push(header, frame, sent, tape)?;
        if wire.wants_flush() {
            self.flush_wire(wire, tape);
        }
        Ok(first)
    }

    /// Why a frame of `len` bytes would not be taken now.
    pub fn refuses(&self, len: usize) -> Option<Reason> {
        match self.is_connected() {
            _ if is_too_big(len) => Some(Reason::TooBig),
            false => Some(Reason::LinkDown),
            true => None,
        }
    }

    /// Sends a PING, before the frames that wait; its answer is the time until the PONG. The error says why there can be
    /// none.
    pub fn ping(&self) -> Result<oneshot::Receiver<Duration>, &'static str> {
        let mut wire = self.lock();
        let Some(wire) = wire.as_mut() else { return Err("not connected") };
        let mut pings = self.pings();
        let Some((payload, answer)) = pings.ask(tokio::time::Instant::now()) else {
            return Err("it is measured a hundred times in this second already");
        };
        drop(pings);
        let said = wire.say(Opcode::Ping, &payload);
        // The socket may have blocked, or broken.
        self.stuck.notify_one();
        if said { Ok(answer) } else { Err("the link is busy: too much is on its way out") }
    }

    /// A PONG came.
    fn ponged(&self, payload: &[u8]) {
        self.pings().answered(payload, tokio::time::Instant::now());
    }

    fn pings(&self) -> MutexGuard<'_, Pings> {
        self.pings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether super-frames may be sent as they are.
    pub fn is_vnet(&self) -> bool {
        self.vnet.load(Relaxed)
    }

    /// Writes what waits, as far as the socket takes it.
    pub fn flush(&self, tape: &mut impl Tape) {
        if let Some(wire) = self.lock().as_mut() {
            self.flush_wire(wire, tape);
        }
    }

    /// Writes what had to wait for its turn.
    fn flush_held(&self, tape: &mut impl Tape) {
        if let Some(wire) = self.lock().as_mut().filter(|wire| wire.held_for().is_some()) {
            self.flush_wire(wire, tape);
        }
    }

    /// The session is woken once for each time that the socket blocks or frames begin to wait for their turn.
    fn flush_wire(&self, wire: &mut Wire, tape: &mut impl Tape) {
        let known = wire.is_blocked() || wire.held_for().is_some();
        if !wire.flush(tape) && !known {
            self.stuck.notify_one();
        }
    }

    pub fn is_connected(&self) -> bool {
        self.lock().is_some()
    }

    /// The largest segment that the path of the connection takes, in bytes; none without TCP.
    pub fn segment(&self) -> Option<u32> {
        self.lock().as_ref().and_then(Wire::segment)
    }

    /// For the connection that there is, and for those to come.
    pub fn set_congestion(&self, wanted: &Congestion) -> io::Result<()> {
        let wire = self.lock();
        let mut now = self.congestion();
        if *now != *wanted {
            wire.as_ref().map_or(Ok(()), |wire| wire.set_congestion(wanted))?;
            now.clone_from(wanted);
        }
        Ok(())
    }

    /// Bits a second at most, for the connection that there is and for those to come.
    pub fn set_pace(&self, bits: Option<u64>) {
        let mut wire = self.lock();
        if self.pace.swap(bits.unwrap_or(0), Relaxed) == bits.unwrap_or(0) {
            return;
        }
        if let Some(wire) = wire.as_mut() {
            wire.set_pace(bits);
            wire.flush(&mut ());
            // What waits may be due sooner than the session has been told.
            self.stuck.notify_one();
        }
    }

    /// `made_with` may have changed since.
    fn connected(&self, mut wire: Wire, made_with: &Congestion) {
        let mut place = self.lock();
        let wanted = self.congestion();
        if *wanted != *made_with {
            // The kernel was asked when it was wanted.
            let _ = wire.set_congestion(&wanted);
        }
        wire.set_pace(Some(self.pace.load(Relaxed)).filter(|bits| *bits != 0));
        self.vnet.store(wire.is_vnet(), Relaxed);
        *place = Some(wire);
    }

    fn congestion(&self) -> MutexGuard<'_, Congestion> {
        self.congestion.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection; `None` while there is none.
    fn lock(&self) -> MutexGuard<'_, Option<Wire>> {
        // A panic under the lock ends the session that caused it, and its wire with it.
        self.wire.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A tag that was pushed may make a frame too large for the far end, which would have to close.
fn is_too_big(len: usize) -> bool {
    len > MAX_FRAME
}
