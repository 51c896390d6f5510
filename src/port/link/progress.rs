//! Whether a peer takes what is sent to it.

use std::time::Duration;

use tokio::time::Instant;

use super::{Ended, Wire};

/// Bytes written, and when that last changed or nothing waited.
pub struct Progress {
    pub taken: u64,
    pub since: Instant,
}

impl Progress {
    pub fn new(now: Instant) -> Self {
        Self { taken: 0, since: now }
    }

    /// When to look again at a wire that is blocked. One whose peer takes no byte for [`STUCK`] is at its end.
    pub fn check(&mut self, wire: &mut Wire, now: Instant) -> Result<Option<Instant>, Ended> {
        let blocked = wire.is_blocked();
        if blocked && now >= self.since + STUCK {
            wire.nudge();
        }
        let taken = wire.progress();
        if !blocked || taken != self.taken {
            (self.taken, self.since) = (taken, now);
        } else if now >= self.since + STUCK {
            return Err(Ended::Stuck);
        }
        Ok(blocked.then(|| self.since + STUCK))
    }
}

pub const STUCK: Duration = Duration::from_secs(10);
