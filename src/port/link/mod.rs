//! A WebSocket link: the egress side, which any thread may use, and the session that reads and keeps
//! it alive, on one data thread.
//!
//! A frame for a link is encoded behind what waits there, under the link's lock; at the end of its
//! ingress batch the whole is written. Only when the socket would block does anything stay, and only
//! then is the session's thread told to wait for the socket.

mod queue;
mod session;
mod wire;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

pub use session::{Ended, Session, Stop};
pub use wire::Wire;

use crate::frame::{MAX_FRAME, Outgoing};
use crate::switch::{Counters, Reason};
use crate::ws::codec::Piece;

/// A link's egress. Outlives its connections.
#[derive(Default)]
pub struct Link {
    wire: Mutex<Option<Wire>>,
    /// The port's counters: only here is it known what was written.
    pub counters: Arc<Counters>,
    /// Tells the session that the socket would block, or broke.
    stuck: Notify,
}

impl Link {
    /// Encodes one frame behind the others; it is counted as sent when it is written. `Ok(true)`:
    /// nobody has promised to flush yet, the caller must.
    pub fn send(&self, out: &Outgoing<'_>) -> Result<bool, Reason> {
        self.send_pieces(&out.parts().map(Piece::from), out.len())
    }

    /// The same for a frame of `len` bytes in pieces, some of which may wear the mask they came with.
    pub fn send_pieces(&self, frame: &[Piece<'_>], len: usize) -> Result<bool, Reason> {
        // A tag that was pushed may make it too large for the far end, which would have to close.
        if len > MAX_FRAME {
            return Err(Reason::TooBig);
        }
        let mut wire = self.lock();
        let Some(wire) = wire.as_mut() else { return Err(Reason::LinkDown) };
        let first = wire.push(frame, len)?;
        if wire.wants_flush() {
            self.flush_wire(wire);
        }
        Ok(first)
    }

    /// Writes what waits, as far as the socket takes it.
    pub fn flush(&self) {
        if let Some(wire) = self.lock().as_mut() {
            self.flush_wire(wire);
        }
    }

    /// The session is woken once for each time that the socket blocks.
    fn flush_wire(&self, wire: &mut Wire) {
        let known = wire.is_blocked();
        if !wire.flush() && !known {
            self.stuck.notify_one();
        }
    }

    pub fn is_connected(&self) -> bool {
        self.lock().is_some()
    }

    /// The connection; `None` while there is none.
    fn lock(&self) -> MutexGuard<'_, Option<Wire>> {
        // A panic under the lock ends the session that caused it, and its wire with it.
        self.wire.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
