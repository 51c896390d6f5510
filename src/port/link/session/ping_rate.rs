//! How often a peer asks whether we are here.

use std::ops::ControlFlow::{self, Break, Continue};
use std::time::Duration;

use tokio::time::Instant;

use super::Ended;
use crate::ws::header::Violation;

/// More than 200 PINGs a second for 5 s are a flood.
#[derive(Default)]
pub struct PingRate {
    second: Option<Instant>,
    count: u32,
    bad_seconds: u32,
}

impl PingRate {
    pub fn count(&mut self, now: Instant) -> ControlFlow<Ended> {
        let since = *self.second.get_or_insert(now);
        if now >= since + Duration::from_secs(1) {
            let lasting = self.count > 200 && now < since + Duration::from_secs(2);
            self.bad_seconds = if lasting { self.bad_seconds + 1 } else { 0 };
            (self.second, self.count) = (Some(now), 0);
        }
        self.count += 1;
        if self.bad_seconds >= 5 { Break(Ended::Violation(Violation::PingFlood)) } else { Continue(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_23_only_a_lasting_ping_flood_ends_a_session() {
        let start = Instant::now();
        let flood = |rate: u64, seconds: u64| {
            let mut pings = PingRate::default();
            (0..rate * seconds)
                .any(|n| pings.count(start + Duration::from_micros(n * 1_000_000 / rate)).is_break())
        };
        assert!(flood(300, 7));
        assert!(!flood(300, 4));
        assert!(!flood(200, 60));
    }
}
