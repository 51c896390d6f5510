//! PINGs that measure: each carries a number that nobody can guess, by which its PONG is known (RFC 6455 5.5.3).

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

/// Those that are not answered.
#[derive(Default)]
pub struct Pings {
    asked: Vec<Asked>,
    /// Those of the second that began then.
    second: Option<Instant>,
    count: u32,
}

struct Asked {
    payload: Payload,
    at: Instant,
    answer: oneshot::Sender<Duration>,
}

type Payload = [u8; 16];

impl Pings {
    /// What a new PING carries, and where its answer comes. `None`: there were enough in this second.
    pub fn ask(&mut self, now: Instant) -> Option<(Payload, oneshot::Receiver<Duration>)> {
        if self.second.is_none_or(|second| now >= second + Duration::from_secs(1)) {
            (self.second, self.count) = (Some(now), 0);
        }
        if self.count >= A_SECOND {
            return None;
        }
        self.count += 1;
        // Nobody waits any more for those that were given up, nor for the oldest of very many.
        self.asked.retain(|asked| !asked.answer.is_closed());
        if self.asked.len() >= MOST {
            self.asked.remove(0);
        }
        let payload = rand::random();
        let (answer, receiver) = oneshot::channel();
        self.asked.push(Asked { payload, at: now, answer });
        Some((payload, receiver))
    }

    /// A PONG that carries none of these is somebody else's.
    pub fn answered(&mut self, payload: &[u8], now: Instant) {
        if let Some(at) = self.asked.iter().position(|asked| asked.payload == payload) {
            let Asked { at, answer, .. } = self.asked.swap_remove(at);
            // Whoever asked may be gone.
            let _ = answer.send(now.saturating_duration_since(at));
        }
    }
}

const MOST: usize = 64;
/// A peer like us takes more than 200 for a flood.
pub const A_SECOND: u32 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pong_answers_its_own_ping_once() {
        let (mut pings, start) = (Pings::default(), Instant::now());
        let (first, mut one) = pings.ask(start).unwrap();
        let (second, mut two) = pings.ask(start + Duration::from_secs(1)).unwrap();
        assert_ne!(first, second);
        pings.answered(&second, start + Duration::from_secs(3));
        pings.answered(b"", start);
        assert_eq!((one.try_recv().ok(), two.try_recv().ok()), (None, Some(Duration::from_secs(2))));
        pings.answered(&second, start);
        pings.answered(&first, start + Duration::from_secs(4));
        assert_eq!(one.try_recv().ok(), Some(Duration::from_secs(4)));
        assert!(pings.asked.is_empty());
    }

    #[test]
    fn those_that_nobody_waits_for_are_forgotten() {
        let (mut pings, start) = (Pings::default(), Instant::now());
        (0..1000).for_each(|_| drop(pings.ask(start)));
        assert_eq!((pings.asked.len(), pings.count), (1, A_SECOND));
        let later = start + Duration::from_secs(1);
        let kept: Vec<_> = (0..1000).filter_map(|_| pings.ask(later)).collect();
        assert_eq!((pings.asked.len(), kept.len()), (MOST, A_SECOND as usize));
    }
}
