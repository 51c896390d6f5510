//! How many connections may be short of becoming a link at a time, in all and for one address: each costs
//! a descriptor and up to 100 KiB for ten seconds, and one stranger must not take them all.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Clone, Default)]
pub struct Lobby(Arc<Mutex<Counts>>);

#[derive(Default)]
struct Counts {
    all: usize,
    each: HashMap<IpAddr, usize>,
}

/// A place in the lobby; dropped, it is free.
pub struct Seat {
    lobby: Lobby,
    from: Option<IpAddr>,
}

impl Lobby {
    /// A place for a connection from `address`; a trusted proxy, which brings many, has no share of its own to
    /// overdraw.
    pub fn enter(&self, address: IpAddr, trusted: bool) -> Option<Seat> {
        let from = (!trusted).then(|| neighbourhood(address));
        let mut counts = self.counts();
        let theirs = from.map_or(0, |from| counts.each.get(&from).copied().unwrap_or(0));
        if counts.all >= MAX || theirs >= MAX_EACH {
            return None;
        }
        counts.all += 1;
        if let Some(from) = from {
            *counts.each.entry(from).or_default() += 1;
        }
        drop(counts);
        Some(Seat { lobby: self.clone(), from })
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut counts = self.lobby.counts();
        counts.all -= 1;
        if let Some(from) = self.from
            && let Some(theirs) = counts.each.get_mut(&from)
        {
            *theirs -= 1;
            if *theirs == 0 {
                counts.each.remove(&from);
            }
        }
    }
}

/// Who holds one IPv6 address holds its /64.
fn neighbourhood(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

const MAX: usize = 4096;
const MAX_EACH: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_leaves_room_for_the_others() {
        let lobby = Lobby::default();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let mut seats: Vec<_> = std::iter::from_fn(|| lobby.enter(ip("2001:db8::1"), false)).collect();
        assert_eq!(seats.len(), MAX_EACH);
        assert!(lobby.enter(ip("2001:db8::ffff:1"), false).is_none(), "the same /64");
        assert!(lobby.enter(ip("2001:db8:0:1::1"), false).is_some());
        assert!(lobby.enter(ip("::ffff:10.0.0.1"), false).is_some());
        seats.pop();
        assert!(lobby.enter(ip("2001:db8::2"), false).is_some(), "a place that is left is free");
        seats.extend(std::iter::from_fn(|| lobby.enter(ip("10.0.0.2"), true)));
        assert_eq!(seats.len(), MAX, "a trusted proxy may fill it");
        assert!(lobby.enter(ip("10.0.0.1"), false).is_none());
        drop(seats);
        assert!(lobby.counts().all == 0 && lobby.counts().each.is_empty());
    }
}
