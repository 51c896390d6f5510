//! What ports counted that are no more, so that frames are accounted for beyond the life of their ports.

use std::sync::Arc;

use crate::switch::Counters;

/// The counters of removed ports, added up when nobody counts there any more: until then frames may still be on their way,
/// and what a link has not sent is dropped when its session ends.
#[derive(Default)]
pub struct Removed {
    ended: Counters,
    ending: Vec<Arc<Counters>>,
}

impl Removed {
    pub fn add(&mut self, counters: &Arc<Counters>) {
        self.ending.push(counters.clone());
        self.settle();
    }

    /// Of all of them together.
    pub fn total(&mut self) -> Counters {
        self.settle();
        let total = Counters::default();
        total.add(&self.ended);
        self.ending.iter().for_each(|counters| total.add(counters));
        total
    }

    fn settle(&mut self) {
        for counters in std::mem::take(&mut self.ending) {
            match Arc::try_unwrap(counters) {
                Ok(counters) => self.ended.add(&counters),
                Err(counters) => self.ending.push(counters),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;
    use crate::switch::Reason;

    #[test]
    fn what_is_counted_behind_the_end_counts_and_no_port_stays() {
        let mut removed = Removed::default();
        assert!(!removed.total().counts());
        for _ in 0..3 {
            let counters = Arc::new(Counters::default());
            counters.received(5, 500);
            removed.add(&counters);
            counters.dropped(Reason::LinkDown);
            assert_eq!(removed.ending.len(), 1);
        }
        let total = removed.total();
        assert_eq!((total.rx.load(Relaxed), total.dropped_by(Reason::LinkDown)), (15, 3));
        assert!(total.counts() && removed.ending.is_empty());
        assert_eq!(removed.total().rx_bytes.load(Relaxed), 1_500, "and not twice");
    }
}
