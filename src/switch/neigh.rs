//! Neighbours: which IP addresses the stations of the switch have, as they said themselves in ARP and ND.
//!
//! It is kept by the control side, from copies of such frames that the data path leaves; what it comes to is
//! given to the data path as a [`Known`], a table that is never changed.
//!
//! Where a station is, and whether it is there at all, is the FDB's to say; of addresses heard on a port whose
//! station has gone nothing is kept beyond the next [`Neighbours::sweep`]. An address counts for as long as its
//! station repeats it within the ageing time.
//!
//! All of it is bounded, and nobody pays for somebody else: a station has [`ADDRESSES`] addresses at most, of which
//! the one not heard for longest gives way; a port has [`SHARE`], and takes no more; when all [`LIMIT`] are taken, the
//! port with most gives up its oldest for one with fewer.
//!
//! Anybody can say that an address is his own. One that two stations claim is nobody's as long as both do: no
//! answer is given for it.

use core::net::IpAddr;
use std::collections::{BTreeMap, HashMap};

use super::forward::Slot;
use crate::frame::MacAddr;
use crate::frame::neighbour::{Claim, Role};

/// Addresses of one station.
pub const ADDRESSES: usize = 8;
/// Addresses heard on one port.
pub const SHARE: usize = 4_096;
/// Addresses in all.
pub const LIMIT: usize = 16_384;
/// How many give way at a time.
const EVICTED: usize = 64;

/// A station in a VLAN, 0 where there is none.
type Key = (u16, MacAddr);

/// Time is whole seconds since any fixed start.
#[derive(Default)]
pub struct Neighbours {
    stations: HashMap<Key, Station>,
    /// How many stations say that an address is theirs.
    claims: HashMap<(u16, IpAddr), u32>,
    /// Addresses by port.
    shares: BTreeMap<Slot, usize>,
    total: usize,
    /// What [`Known`] says is different from what it said last.
    changed: bool,
}

struct Station {
    slot: Slot,
    addresses: Vec<Address>,
}

struct Address {
    ip: IpAddr,
    role: Option<Role>,
    seen: u32,
}

/// The addresses that can be answered for.
#[derive(Default)]
pub struct Known(HashMap<(u16, IpAddr), (MacAddr, Role)>);

impl Known {
    /// Whose the address is.
    pub fn find(&self, vid: u16, ip: IpAddr) -> Option<(MacAddr, Role)> {
        self.0.get(&(vid, ip)).copied()
    }
}

impl Neighbours {
    /// The station, which is on the port in `slot`, claims an address.
    pub fn learn(&mut self, vid: u16, mac: MacAddr, slot: Slot, claim: Claim, now: u32) {
        let key = (vid, mac);
        self.place(key, slot);
        let known = self.stations.get_mut(&key).map_or(&mut [][..], |station| &mut station.addresses);
        if let Some(address) = known.iter_mut().find(|address| address.ip == claim.ip) {
            address.seen = now;
            if claim.role.is_some() && address.role != claim.role {
                address.role = claim.role;
                self.changed = true;
            }
            return;
        }
        if known.len() >= ADDRESSES {
            let stalest = known.iter().min_by_key(|address| address.seen).map(|address| address.ip);
            stalest.into_iter().for_each(|ip| self.forget(key, ip));
        }
        if !self.has_room(slot) {
            return;
        }
        let address = Address { ip: claim.ip, role: claim.role, seen: now };
        let station = self.stations.entry(key).or_insert(Station { slot, addresses: Vec::new() });
        station.addresses.push(address);
        *self.claims.entry((vid, claim.ip)).or_default() += 1;
        *self.shares.entry(slot).or_default() += 1;
        self.total += 1;
        self.changed = true;
    }

    /// The addresses of a station heard within `ageout` seconds, IPv4 first, and what it would answer for them;
    /// `None` for those that somebody else claims too.
    pub fn of(&self, vid: u16, mac: MacAddr, now: u32, ageout: u32) -> Vec<(IpAddr, Option<Role>)> {
        let Some(station) = self.stations.get(&(vid, mac)) else { return Vec::new() };
        let fresh = station.addresses.iter().filter(|address| is_fresh(address, now, ageout));
        let role = |address: &Address| address.role.filter(|_| self.is_sole(vid, address.ip));
        let mut found: Vec<_> = fresh.map(|address| (address.ip, role(address))).collect();
        found.sort_by_key(|(ip, _)| *ip);
        found
    }

    /// Forgets addresses that were not heard for `ageout` seconds, and stations of which `place` says that they are
    /// nowhere; of the others it says where they are.
    pub fn sweep(&mut self, now: u32, ageout: u32, place: impl Fn(u16, MacAddr) -> Option<Slot>) {
        let keys: Vec<Key> = self.stations.keys().copied().collect();
        for key in keys {
            let slot = place(key.0, key.1);
            let addresses = self.stations.get(&key).map_or(&[][..], |station| &station.addresses);
            let gone = addresses.iter().filter(|address| slot.is_none() || !is_fresh(address, now, ageout));
            let gone: Vec<IpAddr> = gone.map(|address| address.ip).collect();
            gone.into_iter().for_each(|ip| self.forget(key, ip));
            slot.into_iter().for_each(|slot| self.place(key, slot));
        }
    }

    /// Whether what can be answered for is different from the last time.
    pub fn has_news(&self) -> bool {
        self.changed
    }

    /// What can be answered for, when that is different from the last time.
    pub fn news(&mut self) -> Option<Known> {
        std::mem::take(&mut self.changed).then(|| self.known())
    }

    /// The same, whether it is different or not.
    pub fn known(&self) -> Known {
        let all = self.stations.iter().flat_map(|((vid, mac), station)| {
            station.addresses.iter().map(move |address| (*vid, *mac, address.ip, address.role))
        });
        let sole = all.filter(|(vid, _, ip, _)| self.is_sole(*vid, *ip));
        Known(sole.filter_map(|(vid, mac, ip, role)| Some(((vid, ip), (mac, role?)))).collect())
    }

    fn is_sole(&self, vid: u16, ip: IpAddr) -> bool {
        self.claims.get(&(vid, ip)) == Some(&1)
    }

    /// The station is there now, and so are its addresses.
    fn place(&mut self, key: Key, slot: Slot) {
        let Some(station) = self.stations.get_mut(&key) else { return };
        let from = std::mem::replace(&mut station.slot, slot);
        let count = station.addresses.len();
        if from != slot {
            self.unshare(from, count);
            *self.shares.entry(slot).or_default() += count;
        }
    }

    fn has_room(&mut self, slot: Slot) -> bool {
        let own = self.shares.get(&slot).copied().unwrap_or(0);
        if own >= SHARE {
            return false;
        }
        if self.total < LIMIT {
            return true;
        }
        let Some((payer, most)) = self.shares.iter().max_by_key(|(_, count)| **count) else { return false };
        if *most <= own + 1 {
            return false;
        }
        let payer = *payer;
        let theirs = self.stations.iter().filter(|(_, station)| station.slot == payer);
        let theirs = theirs.flat_map(|(key, station)| station.addresses.iter().map(|a| (a.seen, *key, a.ip)));
        let mut theirs: Vec<_> = theirs.collect();
        let few = EVICTED.min(most - own - 1).max(1);
        theirs.sort_unstable_by_key(|(seen, ..)| *seen);
        theirs.into_iter().take(few).for_each(|(_, key, ip)| self.forget(key, ip));
        true
    }

    fn forget(&mut self, key: Key, ip: IpAddr) {
        let Some(station) = self.stations.get_mut(&key) else { return };
        let before = station.addresses.len();
        station.addresses.retain(|address| address.ip != ip);
        if station.addresses.len() == before {
            return;
        }
        let (slot, is_bare) = (station.slot, station.addresses.is_empty());
        if is_bare {
            self.stations.remove(&key);
        }
        if let Some(count) = self.claims.get_mut(&(key.0, ip)) {
            *count -= 1;
            if *count == 0 {
                self.claims.remove(&(key.0, ip));
            }
        }
        self.unshare(slot, 1);
        self.total -= 1;
        self.changed = true;
    }

    fn unshare(&mut self, slot: Slot, count: usize) {
        if let Some(share) = self.shares.get_mut(&slot) {
            *share = share.saturating_sub(count);
            if *share == 0 {
                self.shares.remove(&slot);
            }
        }
    }
}

fn is_fresh(address: &Address, now: u32, ageout: u32) -> bool {
    now.saturating_sub(address.seen) <= ageout
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGEOUT: u32 = 300;

    fn mac(n: u32) -> MacAddr {
        MacAddr::from_bits(0x0200_0000_0000 | u64::from(n))
    }

    fn ip(n: u32) -> IpAddr {
        IpAddr::from((0x0a00_0000 + n).to_be_bytes())
    }

    fn host(n: u32) -> Claim {
        Claim { ip: ip(n), role: Some(Role::Host) }
    }

    fn consistent(neighbours: &Neighbours) {
        let count = |slot: Option<Slot>| -> usize {
            let on = neighbours.stations.values().filter(|s| slot.is_none_or(|slot| s.slot == slot));
            on.map(|station| station.addresses.len()).sum()
        };
        assert_eq!(count(None), neighbours.total);
        assert_eq!(neighbours.claims.values().sum::<u32>() as usize, neighbours.total);
        assert!(neighbours.shares.iter().all(|(slot, share)| count(Some(*slot)) == *share && *share > 0));
    }

    #[test]
    fn a_station_has_what_it_claims_for_as_long_as_it_says_so() {
        let mut neighbours = Neighbours::default();
        neighbours.learn(7, mac(1), Slot(1), host(1), 10);
        neighbours.learn(7, mac(1), Slot(1), Claim { ip: "fe80::1".parse().unwrap(), role: None }, 200);
        let known = neighbours.news().unwrap();
        assert_eq!(known.find(7, ip(1)), Some((mac(1), Role::Host)));
        assert_eq!((known.find(0, ip(1)), known.find(7, ip(2))), (None, None));
        assert_eq!(known.find(7, "fe80::1".parse().unwrap()), None, "what it would answer is not known");
        neighbours.learn(7, mac(1), Slot(1), host(1), 20);
        assert!(neighbours.news().is_none(), "nothing new");
        assert_eq!(neighbours.of(7, mac(1), 320, AGEOUT).len(), 2);
        assert_eq!(neighbours.of(7, mac(1), 321, AGEOUT), [("fe80::1".parse().unwrap(), None)]);
        neighbours.sweep(321, AGEOUT, |_, _| Some(Slot(1)));
        assert_eq!(neighbours.news().unwrap().find(7, ip(1)), None);
        neighbours.sweep(321, AGEOUT, |_, _| None);
        assert_eq!(neighbours.total, 0);
        consistent(&neighbours);
    }

    #[test]
    fn what_two_claim_is_nobodys() {
        let mut neighbours = Neighbours::default();
        neighbours.learn(0, mac(1), Slot(1), host(1), 0);
        neighbours.learn(0, mac(2), Slot(2), host(1), 0);
        assert_eq!(neighbours.news().unwrap().find(0, ip(1)), None);
        assert_eq!(neighbours.of(0, mac(1), 0, AGEOUT), [(ip(1), None)]);
        neighbours.learn(0, mac(1), Slot(1), host(1), 200);
        neighbours.sweep(301, AGEOUT, |_, _| Some(Slot(1)));
        assert_eq!(neighbours.news().unwrap().find(0, ip(1)), Some((mac(1), Role::Host)));
        consistent(&neighbours);
    }

    #[test]
    fn addresses_move_with_their_station() {
        let mut neighbours = Neighbours::default();
        neighbours.learn(0, mac(1), Slot(1), host(1), 0);
        neighbours.learn(0, mac(1), Slot(2), host(2), 0);
        neighbours.learn(0, mac(2), Slot(1), host(3), 0);
        consistent(&neighbours);
        neighbours.sweep(1, AGEOUT, |_, mac_| Some(if mac_ == mac(1) { Slot(3) } else { Slot(1) }));
        consistent(&neighbours);
        assert_eq!(neighbours.shares, BTreeMap::from([(Slot(1), 1), (Slot(3), 2)]));
    }

    #[test]
    fn bad_37_a_hundred_thousand_addresses_take_no_more_room() {
        let mut neighbours = Neighbours::default();
        // One station, then many on one port.
        (0..100_000).for_each(|n| neighbours.learn(0, mac(1), Slot(1), host(n), n / 1000));
        assert_eq!(neighbours.total, ADDRESSES);
        assert!(neighbours.of(0, mac(1), 99, AGEOUT).iter().all(|(found, _)| *found > ip(99_000)));
        (0..100_000).for_each(|n| neighbours.learn(0, mac(n), Slot(1), host(n), 100));
        assert_eq!(neighbours.total, SHARE);
        neighbours.learn(0, mac(1 << 20), Slot(2), host(1 << 20), 100);
        assert_eq!(neighbours.shares[&Slot(2)], 1, "another port has a share of its own");
        // Ports together.
        for n in 0..100_000 {
            neighbours.learn(0, mac(n), Slot(2 + n % 4), host(n), 101);
        }
        assert_eq!(neighbours.total, LIMIT);
        neighbours.learn(0, mac(2 << 20), Slot(9), host(2 << 20), 102);
        assert_eq!(neighbours.shares[&Slot(9)], 1, "who has most gives way");
        assert!(neighbours.total <= LIMIT);
        consistent(&neighbours);
    }
}
