//! A limit on log lines that a stranger can cause.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const PER_SECOND: u32 = 10;

#[derive(Default)]
pub struct Throttle {
    state: Mutex<Option<(Instant, u32)>>,
}

impl Throttle {
    /// Whether to log now; how many were kept back before.
    pub fn allow(&self, now: Instant) -> Option<u32> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *state {
            Some((since, count)) if now.saturating_duration_since(*since) < Duration::from_secs(1) => {
                *count += 1;
                (*count <= PER_SECOND).then_some(0)
            }
            other => {
                let kept_back = other.map_or(0, |(_, count)| count.saturating_sub(PER_SECOND));
                *other = Some((now, 1));
                Some(kept_back)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_a_second() {
        let (throttle, start) = (Throttle::default(), Instant::now());
        assert_eq!((0..100).filter(|_| throttle.allow(start).is_some()).count(), 10);
        assert_eq!(throttle.allow(start + Duration::from_secs(1)), Some(90));
        assert_eq!(throttle.allow(start + Duration::from_secs(1)), Some(0));
    }
}
