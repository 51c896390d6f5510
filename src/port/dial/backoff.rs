//! When to dial again: exponential backoff with full jitter. Pure: the random number is an argument.

use std::time::Duration;

/// The waiting times of one link between its tries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    /// Tries that failed since the link last lived.
    failures: u32,
}

impl Backoff {
    /// The longest wait.
    pub const CEILING: Duration = Duration::from_secs(15);
    /// The most that the first wait may be; it doubles with each failure.
    pub const FIRST: Duration = Duration::from_secs(1);
    /// The longest wait after Close 1001: the peer goes away and says so, most often to restart. With the dial it is
    /// 5 s at most.
    pub const GOING_AWAY: Duration = Duration::from_secs(4);

    pub fn new() -> Self {
        Self::default()
    }

    /// How long to wait before the next try: evenly spread over `[0, min(15 s, 1 s * 2^n)]` where n
    /// counts the calls since [`Backoff::reset`]. `random` is even over all of u64.
    pub fn next(&mut self, random: u64) -> Duration {
        let most = Self::CEILING.min(Self::FIRST.saturating_mul(1 << self.failures.min(16)));
        self.failures = self.failures.saturating_add(1);
        spread(most, random)
    }

    /// The wait after the peer closed with 1001: evenly spread over `[0, 4 s]`, so that a restarted
    /// server does not meet all its clients at once.
    pub fn going_away(&mut self, random: u64) -> Duration {
        self.failures = 0;
        spread(Self::GOING_AWAY, random)
    }

    /// The link lived: start again from the shortest waits. Call it for a link that stood for a while, whatever it
    /// carried; a peer that accepts and closes at once must not be dialled in a tight loop.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// `most * random / 2^64`.
fn spread(most: Duration, random: u64) -> Duration {
    let nanos = (most.as_nanos() * u128::from(random)) >> 64;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_doubles_to_15_s() {
        let mut backoff = Backoff::new();
        let most: Vec<f32> = (0..8).map(|_| backoff.next(u64::MAX).as_secs_f32().round()).collect();
        assert_eq!(most, [1., 2., 4., 8., 15., 15., 15., 15.]);
    }

    #[test]
    fn jitter_is_full_and_even() {
        let mut backoff = Backoff { failures: 40 };
        assert_eq!(backoff.next(0), Duration::ZERO);
        assert_eq!(backoff.next(1 << 63), Duration::from_millis(7_500));
        assert!(backoff.next(u64::MAX) <= Backoff::CEILING);
        let mut worn = Backoff { failures: u32::MAX };
        assert_eq!(worn.next(1 << 63), Duration::from_millis(7_500));
    }

    #[test]
    fn a_lived_link_and_1001_start_again() {
        let mut backoff = Backoff { failures: 9 };
        backoff.reset();
        assert!(backoff.next(u64::MAX) <= Backoff::FIRST);
        backoff.failures = 9;
        assert_eq!(backoff.going_away(1 << 63), Duration::from_millis(2_000));
        assert!(backoff.next(u64::MAX) <= Backoff::FIRST);
    }
}
