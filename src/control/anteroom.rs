//! Connections that nobody has been let in by yet. Each costs a descriptor and up to 100 KiB, and whoever opens them
//! without end must not keep others out for the time that each may last: where there is no room for a newcomer, the
//! oldest goes, of his own address when that has its share, else of the address that has most.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::lobby::{Full, Most, neighbourhood};

#[derive(Clone, Default)]
pub struct Anteroom(Arc<Mutex<Waiting>>);

/// Whose connections they are; nobody's, of trusted proxies, which may bring as many as there is room for.
type Share = Option<IpAddr>;

#[derive(Default)]
struct Waiting {
    all: usize,
    arrivals: u64,
    /// In order of arrival.
    each: HashMap<Share, BTreeMap<u64, oneshot::Sender<Full>>>,
}

/// A place in the anteroom; dropped, it is free.
pub struct Stay {
    room: Anteroom,
    of: Share,
    number: u64,
}

impl Anteroom {
    /// A place for a newcomer. The receiver tells when he has to go for another, and why; it ends when the place is
    /// given up.
    pub fn enter(&self, address: Share, most: Most) -> (Stay, oneshot::Receiver<Full>) {
        let of = address.map(neighbourhood);
        let mut waiting = self.waiting();
        if of.is_some() && waiting.each.get(&of).is_some_and(|theirs| theirs.len() >= most.each) {
            waiting.put_out(of, Full::Address);
        } else if waiting.all >= most.all {
            // Among equals whoever came first.
            let oldest = |theirs: &BTreeMap<u64, _>| theirs.keys().next().copied().map(Reverse);
            let holder = waiting.each.iter().max_by_key(|(_, theirs)| (theirs.len(), oldest(theirs)));
            let holder = holder.map(|(of, _)| *of);
            holder.into_iter().for_each(|holder| waiting.put_out(holder, Full::All));
        }
        let (sender, told) = oneshot::channel();
        waiting.arrivals += 1;
        waiting.all += 1;
        let number = waiting.arrivals;
        waiting.each.entry(of).or_default().insert(number, sender);
        drop(waiting);
        (Stay { room: self.clone(), of, number }, told)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn put_out(&mut self, of: Share, why: Full) {
        let oldest = self.each.get(&of).and_then(|theirs| theirs.keys().next()).copied();
        if let Some(told) = oldest.and_then(|number| self.take(of, number)) {
            let _ = told.send(why);
        }
    }

    fn take(&mut self, of: Share, number: u64) -> Option<oneshot::Sender<Full>> {
        let theirs = self.each.get_mut(&of)?;
        let told = theirs.remove(&number)?;
        if theirs.is_empty() {
            self.each.remove(&of);
        }
        self.all -= 1;
        Some(told)
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.room.waiting().take(self.of, self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Most = Most { all: 20, each: 5 };

    fn ip(text: &str) -> Share {
        Some(text.parse().unwrap())
    }

    type Place = (Stay, oneshot::Receiver<Full>);

    fn told(places: &mut [Place]) -> Vec<Option<Full>> {
        places.iter_mut().map(|(_, told)| told.try_recv().ok()).collect()
    }

    #[test]
    fn an_address_with_its_share_gives_its_oldest_up() {
        let room = Anteroom::default();
        let mut near: Vec<Place> = (0..5).map(|_| room.enter(ip("2001:db8::1"), MOST)).collect();
        let mut far = vec![room.enter(ip("2001:db8:0:1::1"), MOST)];
        assert_eq!(told(&mut near), [None; 5]);
        let _sixth = room.enter(ip("2001:db8::ffff:1"), MOST);
        assert_eq!(told(&mut near), [Some(Full::Address), None, None, None, None], "the same /64");
        near.pop();
        let _again = room.enter(ip("2001:db8::2"), MOST);
        assert_eq!(told(&mut near[1..]), [None; 3], "a place that is left is free");
        assert_eq!(told(&mut far), [None]);
    }

    #[test]
    fn when_all_is_full_who_has_most_gives_its_oldest_up() {
        let room = Anteroom::default();
        let mut few = vec![room.enter(ip("192.0.2.1"), MOST)];
        let mut proxy: Vec<Place> = (0..19).map(|_| room.enter(None, MOST)).collect();
        let _newcomers: Vec<Place> =
            (0..3_u8).map(|n| room.enter(ip(&format!("10.0.0.{n}")), MOST)).collect();
        assert_eq!(told(&mut few), [None]);
        assert_eq!(told(&mut proxy)[..4], [Some(Full::All), Some(Full::All), Some(Full::All), None]);
        assert_eq!(room.waiting().all, MOST.all);
        drop((few, proxy, _newcomers));
        assert!(room.waiting().all == 0 && room.waiting().each.is_empty());
    }

    #[test]
    fn whoever_was_let_in_is_put_out_no_more() {
        let room = Anteroom::default();
        let (stay, mut told) = room.enter(ip("192.0.2.1"), Most { all: 1, each: 1 });
        drop(stay);
        let _next = room.enter(ip("192.0.2.1"), Most { all: 1, each: 1 });
        assert_eq!(told.try_recv(), Err(oneshot::error::TryRecvError::Closed));
    }
}
