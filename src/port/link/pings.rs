//! PINGs that measure: each carries a number that nobody can guess, by which its PONG is known (RFC 6455 5.5.3).

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

/// Those that are not answered.
#[derive(Default)]
pub struct Pings(Vec<Asked>);

struct Asked {
    payload: Payload,
    at: Instant,
    answer: oneshot::Sender<Duration>,
}

type Payload = [u8; 16];

impl Pings {
    /// What a new PING carries, and where its answer comes.
    pub fn ask(&mut self, now: Instant) -> (Payload, oneshot::Receiver<Duration>) {
        // Nobody waits any more for those that were given up, nor for the oldest of very many.
        self.0.retain(|asked| !asked.answer.is_closed());
        if self.0.len() >= MOST {
            self.0.remove(0);
        }
        let payload = rand::random();
        let (answer, receiver) = oneshot::channel();
        self.0.push(Asked { payload, at: now, answer });
        (payload, receiver)
    }

    /// A PONG that carries none of these is somebody else's.
    pub fn answered(&mut self, payload: &[u8], now: Instant) {
        if let Some(at) = self.0.iter().position(|asked| asked.payload == payload) {
            let Asked { at, answer, .. } = self.0.swap_remove(at);
            // Whoever asked may be gone.
            let _ = answer.send(now.saturating_duration_since(at));
        }
    }
}

const MOST: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pong_answers_its_own_ping_once() {
        let (mut pings, start) = (Pings::default(), Instant::now());
        let (first, mut one) = pings.ask(start);
        let (second, mut two) = pings.ask(start + Duration::from_secs(1));
        assert_ne!(first, second);
        pings.answered(&second, start + Duration::from_secs(3));
        pings.answered(b"", start);
        assert_eq!((one.try_recv().ok(), two.try_recv().ok()), (None, Some(Duration::from_secs(2))));
        pings.answered(&second, start);
        pings.answered(&first, start + Duration::from_secs(4));
        assert_eq!(one.try_recv().ok(), Some(Duration::from_secs(4)));
        assert!(pings.0.is_empty());
    }

    #[test]
    fn those_that_nobody_waits_for_are_forgotten() {
        let (mut pings, start) = (Pings::default(), Instant::now());
        (0..1000).for_each(|_| drop(pings.ask(start)));
        assert_eq!(pings.0.len(), 1);
        let kept: Vec<_> = (0..1000).map(|_| pings.ask(start)).collect();
        assert_eq!(pings.0.len(), MOST);
        drop(kept);
    }
}
