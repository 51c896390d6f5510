//! A connection that is not read until what went before by another one has come ([`crate::port::link::spread`]), or for
//! so long that nobody waits for it any more.

use std::time::Duration;

use tokio::time::Instant;

use super::{PARTING, Serving};
use crate::port::link::spread::{Awaited, Mark};

/// Why a connection is not read.
#[derive(Clone, Copy, Debug)]
pub struct Hold {
    pub what: Awaited,
    /// Then it is read in any case.
    pub until: Instant,
}

impl Serving<'_> {
    /// What was said on this connection, behind all that came before it: whether it is held for that.
    pub fn hears(&mut self, mark: Mark, now: Instant) -> bool {
        let what = self.session.link.hear(self.of, self.session.which.member, mark);
        self.held = what.map(|what| Hold { what, until: now + self.waits.begin(now) });
        self.held.is_some()
    }

    /// Whether it is held no longer.
    pub fn is_let_go(&mut self, now: Instant) -> bool {
        let link = &self.session.link;
        let over = |hold: &mut Hold| now >= hold.until || link.is_over(hold.what);
        let Some(Hold { what, .. }) = self.held.take_if(over) else { return false };
        link.forgo(what);
        if !matches!(what, Awaited::Turn { .. }) {
            self.waits.end(now);
        }
        self.heard = now;
        true
    }
}

/// How long a connection may still be held. What is waited for in a row was lost in a row, and on its way at the same
/// time: so all of that has [`HOLD`], and each second of reading earns another.
pub struct Waits {
    left: Duration,
    /// When that was so.
    at: Instant,
}

impl Waits {
    pub fn new(now: Instant) -> Self {
        Self { left: HOLD, at: now }
    }

    /// How long the one that begins may take.
    fn begin(&mut self, now: Instant) -> Duration {
        self.left = (self.left + now.saturating_duration_since(self.at)).min(HOLD);
        self.at = now;
        self.left
    }

    fn end(&mut self, now: Instant) {
        self.left = self.left.saturating_sub(now.saturating_duration_since(self.at));
        self.at = now;
    }
}

const HOLD: Duration = Duration::from_secs(2);
/// For the connection before, which has [`PARTING`] for its own end.
pub const TURN: Duration = PARTING.saturating_add(Duration::from_secs(2));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_in_a_row_are_as_long_as_one() {
        let second = Duration::from_secs(1);
        let mut now = Instant::now();
        let mut waits = Waits::new(now);
        assert_eq!(waits.begin(now), 2 * second);
        now += second / 2;
        waits.end(now);
        assert_eq!(waits.begin(now), 3 * second / 2);
        now += 2 * second;
        waits.end(now);
        assert_eq!(waits.begin(now), Duration::ZERO, "all that was lost is late by now");
        waits.end(now);
        now += second;
        assert_eq!(waits.begin(now), second);
        waits.end(now);
        now += 60 * second;
        assert_eq!(waits.begin(now), 2 * second);
    }
}
