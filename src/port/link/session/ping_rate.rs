//! How often a peer asks whether we are here.

use std::ops::ControlFlow::{self, Break, Continue};
use std::time::Duration;

use tokio::time::Instant;

use super::Ended;
use crate::ws::header::Violation;

/// More than 200 PINGs a second over 5 s are a flood, however they are spread over them.
#[derive(Default)]
pub struct PingRate {
    began: Option<Instant>,
    count: u32,
}

impl PingRate {
    pub fn count(&mut self, now: Instant) -> ControlFlow<Ended> {
        let elapsed = now.saturating_duration_since(*self.began.get_or_insert(now));
        if elapsed >= WINDOW {
            let flood = f64::from(self.count) > MOST * elapsed.as_secs_f64();
            if flood {
                return Break(Ended::Violation(Violation::PingFlood));
            }
            (self.began, self.count) = (Some(now), 0);
        }
        self.count = self.count.saturating_add(1);
        Continue(())
    }
}

const WINDOW: Duration = Duration::from_secs(5);
/// A second.
const MOST: f64 = 200.0;

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

    #[test]
    fn bad_23_a_ping_flood_with_pauses_is_one() {
        let start = Instant::now();
        // So many at a time, that long apart.
        let bursts = |many: u32, apart: u64| {
            let mut pings = PingRate::default();
            (0..20).any(|turn| {
                let burst = start + Duration::from_millis(apart * turn);
                (0..many).any(|n| pings.count(burst + Duration::from_micros(n.into())).is_break())
            })
        };
        assert!(bursts(100_000, 2_000));
        assert!(bursts(1_000, 4_000));
        assert!(bursts(100_000, 60_000));
        assert!(!bursts(390, 2_000));
    }
}
