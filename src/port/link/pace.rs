//! How fast a link may send, for a far end that loses what comes too fast: a leaky bucket (GCRA, ITU-T I.371). Time is
//! an argument, in nanoseconds since some moment.

use crate::ws::header::MAX_HEADER;

/// The rate of a link.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    bits: u64,
    /// The bucket's depth in time at that rate.
    depth: u64,
    /// When the bucket is empty again.
    empty: u64,
}

impl Pace {
    /// `bits` a second, not 0.
    pub fn new(bits: u64) -> Self {
        let bits = bits.max(1);
        Self { bits, depth: cost(DEPTH, bits).max(TIMER), empty: 0 }
    }

    /// As it was made of.
    pub fn bits(&self) -> u64 {
        self.bits
    }

    /// When the next frame may leave.
    pub fn due(&self) -> u64 {
        self.empty.saturating_sub(self.depth)
    }

    /// A frame of so many bytes leaves.
    pub fn spend(&mut self, bytes: usize, now: u64) {
        self.empty = self.empty.max(now) + cost(bytes.max(LEAST), self.bits);
    }
}

fn cost(bytes: usize, bits: u64) -> u64 {
    (bytes as u128 * 8_000_000_000 / u128::from(bits)).try_into().unwrap_or(u64::MAX / 2)
}

/// With the frame that fills it, four of 1,514 bytes and a message's header in a row: half of the ring of an NE2000.
const DEPTH: usize = 3 * (1514 + MAX_HEADER);
/// The page that the smallest frame takes there.
const LEAST: usize = 256;
/// Twice what a timer can tell apart: or the rate would not be reached.
const TIMER: u64 = 2_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends whenever it may, looking every `step` ns: when each of `count` frames left.
    fn sent(pace: &mut Pace, len: usize, count: usize, from: u64, step: u64) -> Vec<u64> {
        let (mut now, mut sent) = (from, Vec::new());
        while sent.len() < count {
            while sent.len() < count && pace.due() <= now {
                pace.spend(len, now);
                sent.push(now);
            }
            now += step;
        }
        sent
    }

    #[test]
    fn a_few_at_once_and_then_at_the_rate() {
        // 1,514 bytes are 1,514 us.
        let mut pace = Pace::new(8_000_000);
        let times = sent(&mut pace, 1514, 104, 0, 1_000);
        assert_eq!(times.iter().filter(|at| **at == 0).count(), 4);
        let last = *times.last().unwrap();
        assert!((99 * 1_514_000..=100 * 1_514_000).contains(&last), "{last}");
        // Silence earns no more than that.
        let later = sent(&mut pace, 1514, 10, 60_000_000_000, 1_000);
        assert_eq!(later.iter().filter(|at| **at == later[0]).count(), 4);
    }

    #[test]
    fn the_rate_is_reached_with_a_slow_timer() {
        for bits in [1_000_000, 8_000_000, 100_000_000, 1_000_000_000] {
            let mut pace = Pace::new(bits);
            let count = (bits / 8 / 1514) as usize;
            let took = *sent(&mut pace, 1514, count, 0, 1_000_000).last().unwrap();
            assert!((900_000_000..=1_000_000_000).contains(&took), "{bits}: {took}");
        }
    }

    #[test]
    fn a_small_frame_counts_as_a_page_and_no_rate_is_too_small() {
        let mut pace = Pace::new(8_000_000);
        let times = sent(&mut pace, 60, 1_000, 0, 1_000);
        let at_once = times.iter().filter(|at| **at == 0).count();
        assert!((10..30).contains(&at_once), "{at_once}");
        assert!(*times.last().unwrap() > 200_000_000);
        let mut pace = Pace::new(1);
        pace.spend(65_000, 5);
        pace.spend(65_000, 5);
        assert!(pace.due() > 8 * 60_000_000_000_000);
    }
}
