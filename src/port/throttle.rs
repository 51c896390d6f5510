//! A limit on log lines that a stranger can cause, and on accepting when there is nothing left to accept with.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::tally::{Event, Tally};

const PER_SECOND: u32 = 10;

#[derive(Default)]
pub struct Throttle {
    state: Mutex<Option<(Instant, u32)>>,
}

impl Throttle {
    /// Whether to log now; how many were kept back before, if any (tracing leaves a `None` out).
    pub fn allow(&self, now: Instant) -> Option<Option<u32>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *state {
            Some((since, count)) if now.saturating_duration_since(*since) < Duration::from_secs(1) => {
                *count += 1;
                (*count <= PER_SECOND).then_some(None)
            }
            other => {
                let kept_back = other.map_or(0, |(_, count)| count.saturating_sub(PER_SECOND));
                *other = Some((now, 1));
                Some((kept_back > 0).then_some(kept_back))
            }
        }
    }
}

/// Out of descriptors or memory, accept() fails at once and for ever: give the rest time to end. A connection
/// that was gone before it was accepted needs no pause.
pub async fn pause(error: &io::Error, trouble: &Throttle, tally: &Tally) {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
            tally.count(Event::AcceptPaused);
            if trouble.allow(Instant::now()).is_some() {
                tracing::warn!("accepting pauses: {error}");
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        _ => tokio::task::yield_now().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_a_second() {
        let (throttle, start) = (Throttle::default(), Instant::now());
        assert_eq!((0..100).filter(|_| throttle.allow(start).is_some()).count(), 10);
        assert_eq!(throttle.allow(start + Duration::from_secs(1)), Some(Some(90)));
        assert_eq!(throttle.allow(start + Duration::from_secs(1)), Some(None));
    }
}
