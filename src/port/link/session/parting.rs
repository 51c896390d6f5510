//! The end of a connection: what is said last, and what is still read.

use std::io;
use std::time::Duration;

use tokio::time::timeout;

use super::{Ended, Serving, Stop, Takeover, Wire};
use crate::port::link::Stream;

impl Serving<'_> {
    /// The end of a connection: our Close if it is ours to send, what waits before it, the peer's.
    pub(super) async fn part(&mut self, ended: &Ended) {
        let mut time = PARTING;
        if matches!(ended, Ended::Replaced(Takeover::Moved)) {
            let _ = timeout(HEARING_OUT, self.hear_out()).await;
            time -= HEARING_OUT;
        }
        let (code, reason) = match ended {
            Ended::Closed(code) => (*code, ""),
            Ended::Violation(violation) => (Some(violation.close_code()), violation.text()),
            Ended::Unfinished => (Some(1008), "message unfinished"),
            Ended::Stopped => {
                let told = *self.session.stop.borrow();
                let Stop { code, reason } = told.unwrap_or(Stop { code: 1001, reason: "port removed" });
                (Some(code), reason)
            }
            Ended::Replaced(Takeover::Live) => (Some(1000), "replaced by another connection"),
            Ended::Replaced(Takeover::Moved) => (Some(1000), "moved to another connection"),
            Ended::Replaced(Takeover::Lost)
            | Ended::Eof
            | Ended::Truncated
            | Ended::TooLong(_)
            | Ended::Silent
            | Ended::Stuck
            | Ended::Broken(_) => return,
        };
        self.wire(|wire| wire.close(code, reason));
        let _ = timeout(time, self.farewell(ended)).await;
        // Nothing more is read that could come late.
        self.session.link.reads_no_more(self.session.which.member, self.count);
        self.wire(Wire::end_tls);
        linger(&self.socket).await;
    }

    /// What still comes by a connection that its link has left: until those behind the far end know of it they send here.
    pub(super) async fn hear_out(&mut self) {
        self.wire(Wire::wait_no_more);
        loop {
            let out = self.wire(|wire| {
                wire.flush(&mut ());
                (wire.is_blocked(), wire.take_error().is_some())
            });
            // A socket that broke stays writable for ever.
            let Some((blocked, false)) = out else { return };
            match self.read_and_forward() {
                Ok(true) => (),
                Ok(false) => tokio::select! {
                    _ = self.socket.readable() => (),
                    _ = self.socket.writable(), if blocked => (),
                },
                Err(_) => return,
            }
            tokio::task::yield_now().await;
        }
    }

    /// Lets out what waits; after our own Close also waits for the peer's.
    async fn farewell(&mut self, ended: &Ended) {
        while self.wire(|wire| wire.flush(&mut ())) == Some(false) {
            if self.wire(Wire::take_error).flatten().is_some() {
                return;
            }
            let _ = self.socket.writable().await;
        }
        if !matches!(ended, Ended::Stopped | Ended::Replaced(_)) {
            return;
        }
        self.parked |= self.held.take().is_some() && !self.rest.is_empty();
        // Frames that are on their way to us are still forwarded: nothing accepted is lost.
        loop {
            match self.read_and_forward() {
                Ok(true) => (),
                Ok(false) => drop(self.socket.readable().await),
                Err(_) => return,
            }
            tokio::task::yield_now().await;
        }
    }
}

/// Ends our side of a connection whose last words are said. Unread bytes at close would turn into a reset that takes
/// our Close away from the peer; so what comes is thrown away, until the peer ends too or has had its time.
pub async fn linger(socket: &Stream) {
    let _ = socket2::SockRef::from(socket).shutdown(std::net::Shutdown::Write);
    let discard = async {
        // On the heap: no session is to carry it along for all its time.
        let mut bytes = vec![0; 4096];
        while socket.readable().await.is_ok() {
            match socket.try_read(&mut bytes) {
                Ok(0) => return,
                Err(e) if e.kind() != io::ErrorKind::WouldBlock => return,
                _ => (),
            }
        }
    };
    let _ = timeout(LINGER, discard).await;
}

/// For what waits, and for the peer's answer to our Close.
pub const PARTING: Duration = Duration::from_secs(3);
/// Of that, for what still comes where the far end leaves.
const HEARING_OUT: Duration = Duration::from_secs(1);
const LINGER: Duration = Duration::from_millis(200);
