//! How many connections there may be, in all and from one address: each costs a descriptor and memory, and one
//! stranger must not take them all. Links keep their place until they end.

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

/// How many may be there at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Most {
    pub all: usize,
    /// From one IPv4 address or IPv6 /64.
    pub each: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Full {
    All,
    /// Of that address.
    Address,
}

/// A place in the lobby; dropped, it is free.
pub struct Seat {
    lobby: Lobby,
    /// Whose share it is of.
    of: Mutex<Option<IpAddr>>,
}

impl Lobby {
    /// A place for a connection of `address`; nobody's, of a trusted proxy, which brings many, or of a user of
    /// this host.
    pub fn enter(&self, address: Option<IpAddr>, most: Most) -> Result<Seat, Full> {
        let mut counts = self.counts();
        if counts.all >= most.all {
            return Err(Full::All);
        }
        let of = address.map(neighbourhood);
        if let Some(of) = of {
            counts.charge(of, most.each)?;
        }
        counts.all += 1;
        Ok(Seat { lobby: self.clone(), of: Mutex::new(of) })
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn charge(&mut self, of: IpAddr, each: usize) -> Result<(), Full> {
        let theirs = self.each.get(&of).copied().unwrap_or(0);
        if theirs >= each {
            return Err(Full::Address);
        }
        self.each.insert(of, theirs + 1);
        Ok(())
    }
}

impl Seat {
    /// The place is of `address`'s share from now on, if it was nobody's: a proxy has said whom it brings.
    pub fn is_of(&self, address: IpAddr, most: Most) -> Result<(), Full> {
        let mut of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        if of.is_none() {
            let address = neighbourhood(address);
            self.lobby.counts().charge(address, most.each)?;
            *of = Some(address);
        }
        Ok(())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let of = *self.of.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut counts = self.lobby.counts();
        counts.all -= 1;
        if let Some(of) = of
            && let Some(theirs) = counts.each.get_mut(&of)
        {
            *theirs -= 1;
            if *theirs == 0 {
                counts.each.remove(&of);
            }
        }
    }
}

/// Who holds one IPv6 address holds its /64.
pub fn neighbourhood(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Most = Most { all: 20, each: 5 };

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn one_address_leaves_room_for_the_others() {
        let lobby = Lobby::default();
        let mut seats: Vec<_> =
            std::iter::from_fn(|| lobby.enter(ip("2001:db8::1"), MOST).ok()).take(100).collect();
        assert_eq!(seats.len(), MOST.each);
        let full = lobby.enter(ip("2001:db8::ffff:1"), MOST).err();
        assert_eq!(full, Some(Full::Address), "the same /64");
        assert!(lobby.enter(ip("2001:db8:0:1::1"), MOST).is_ok());
        assert!(lobby.enter(ip("::ffff:10.0.0.1"), MOST).is_ok());
        seats.pop();
        assert!(lobby.enter(ip("2001:db8::2"), MOST).is_ok(), "a place that is left is free");
        seats.extend(std::iter::from_fn(|| lobby.enter(None, MOST).ok()).take(100));
        assert_eq!(seats.len(), MOST.all, "a trusted proxy may fill it");
        assert_eq!(lobby.enter(ip("10.0.0.1"), MOST).err(), Some(Full::All));
        drop(seats);
        assert!(lobby.counts().all == 0 && lobby.counts().each.is_empty());
    }

    #[test]
    fn a_proxy_s_connection_is_counted_for_whom_it_brings() {
        let lobby = Lobby::default();
        let client = ip("192.0.2.1").unwrap();
        let seats: Vec<_> = (0..MOST.each)
            .map(|_| lobby.enter(None, MOST).ok().unwrap())
            .inspect(|seat| {
                assert_eq!(seat.is_of(client, MOST), Ok(()));
                assert_eq!(seat.is_of(client, MOST), Ok(()), "once for each");
            })
            .collect();
        let further = lobby.enter(None, MOST).ok().unwrap();
        assert_eq!(further.is_of(client, MOST), Err(Full::Address));
        assert_eq!(further.is_of(ip("192.0.2.2").unwrap(), MOST), Ok(()));
        assert_eq!(lobby.enter(Some(client), MOST).err(), Some(Full::Address));
        drop((seats, further));
        assert!(lobby.counts().all == 0 && lobby.counts().each.is_empty());
    }
}
