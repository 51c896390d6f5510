//! What messages are masked with.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::ws::mask::Key;

/// Masking keys from a CSPRNG of the connection's own, drawn in batches (RFC 6455 10.3).
pub struct Keys {
    rng: StdRng,
    batch: [u8; 1024],
    next: usize,
}

impl Keys {
    pub fn new() -> Self {
        let mut seed = [0; 32];
        rand::rng().fill_bytes(&mut seed);
        Self { rng: StdRng::from_seed(seed), batch: [0; 1024], next: 1024 }
    }

    /// Never 0, which would be no mask.
    pub fn draw(&mut self) -> Key {
        loop {
            if self.next == self.batch.len() {
                self.rng.fill_bytes(&mut self.batch);
                self.next = 0;
            }
            let key = [0, 1, 2, 3].map(|i| self.batch[self.next + i]);
            self.next += key.len();
            if key != [0; 4] {
                return key;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_distinct_and_never_zero() {
        let mut keys = Keys::new();
        let drawn: std::collections::HashSet<_> = (0..10_000).map(|_| keys.draw()).collect();
        assert!(drawn.len() > 9_990 && !drawn.contains(&[0; 4]), "{}", drawn.len());
    }
}
