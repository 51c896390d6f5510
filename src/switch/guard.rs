//! What keeps one port from costing the others: a rate limit on what comes in.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A token bucket in virtual time (the generic cell rate algorithm, ITU-T I.371): one number, the moment
/// when the bucket will be full again. Lossless races: a lost update lets one frame more through.
#[derive(Debug)]
pub struct Policer {
    /// Bits a second.
    rate: u64,
    /// Nanoseconds since the switch's start.
    full_at: AtomicU64,
}

impl Policer {
    /// `rate` in bits a second, at least 1.
    pub fn new(rate: u64) -> Self {
        Self { rate: rate.max(1), full_at: AtomicU64::new(0) }
    }

    /// Whether a frame of `len` bytes may pass at `now`, the time since the switch's start.
    pub fn admits(&self, len: usize, now: Duration) -> bool {
        let now = now.as_nanos() as u64;
        let cost = (len as u128 * 8 * 1_000_000_000 / u128::from(self.rate)) as u64;
        let full_at = self.full_at.load(Relaxed).max(now);
        if full_at - now > BURST.as_nanos() as u64 {
            return false;
        }
        self.full_at.store(full_at.saturating_add(cost), Relaxed);
        true
    }
}

/// How far a burst may run ahead of the rate.
const BURST: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_holds_over_a_second_after_the_burst() {
        let policer = Policer::new(8_000_000); // one byte a microsecond
        let passed = (0..2_000_000u64)
            .step_by(500)
            .filter(|us| policer.admits(1000, Duration::from_micros(*us)))
            .count();
        // Two seconds of 1,000 frames each, and a burst of 50.
        assert!((2_000..=2_055).contains(&passed), "{passed}");
    }
}
