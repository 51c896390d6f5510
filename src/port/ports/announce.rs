//! Announcements: frames in the name of stations that have come, or whose way here has changed, so that the networks
//! on the other side send there at once and not when the station next speaks.
//!
//! * A station that a link or a virtual machine's port brings, and that was not known or was elsewhere before, is
//!   announced out of TAPs and network devices: the bridge behind them learns where it is now.
//! * A link that is dialled and comes up is told of the stations behind this host's own devices, and so is one that the
//!   loop guard has opened again: the far end may be sending to where they were before.
//!
//! With an address that the station has claimed, and nobody else has, it is a gratuitous ARP request or an unsolicited
//! advertisement; else a RARP request, as hypervisors send it for a machine that has moved. All of them are paced, and a
//! station is not announced twice within a second. Of many that come at once the data path leaves some only word that there
//! were such, and some find no room here: for a few seconds they are looked for in the FDB, by when they were heard.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use super::Ports;
use super::entry::{Entry, State};
use crate::frame::{MacAddr, Vid, neighbour};
use crate::port::egress::Egress;
use crate::prof::Side;
use crate::switch::arrivals::Arrival;
use crate::switch::fdb::Station;
use crate::switch::{Port, Slot};

/// Between announcements.
const PACE: Duration = Duration::from_millis(20);
/// Stations announced at a time: a hundred a second.
const AT_A_TIME: usize = 2;
/// Announcements that may wait.
const WAITING: usize = 1_024;
/// Of these, what links may have that are told who is here, and what the stations of one port may: nobody else's wait
/// for want of room.
const FOR_LINKS: usize = WAITING / 2;
const OF_PORT: usize = WAITING / 4;
/// A station is left alone for so long.
const AGAIN: Duration = Duration::from_secs(1);
/// How long a new link has to be up before it is told who is here: if it closes a loop, the guard has seen that by
/// then, and a bridge beside a station that is silent does not hear of it by the wrong way. One that was up before
/// is told at once, for its stations have most likely come to another switch.
pub const SETTLE: Duration = Duration::from_secs(3);
/// Between looks while all that wait wait for that.
const UNSETTLED: Duration = Duration::from_millis(200);

/// After arrivals that could not be kept the FDB is looked through for so long, so often, for who was heard as lately.
const LOOKS: Duration = Duration::from_secs(5);
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// To whom.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum To {
    /// The TAPs and network devices.
    Devices,
    /// The link with this port number.
    Link(u32),
}

/// Who is to be announced, and who was lately.
#[derive(Default)]
pub struct Announcer {
    /// In the order in which they came.
    waiting: VecDeque<Key>,
    known: HashMap<Key, Known>,
    /// Stations that came are to be looked for: from when on, and until when.
    look: Option<(Duration, Duration)>,
}

type Key = (u16, MacAddr, To);

#[derive(Clone, Copy)]
struct Known {
    /// Where it was last.
    slot: Slot,
    /// When it is to be announced, or was.
    at: Duration,
    waits: bool,
}

impl Announcer {
    /// To be announced `after` so long, at `now`, the time since the switch's start. `false`: there is no room.
    pub fn add(&mut self, station: Arrival, to: To, after: Duration, now: Duration) -> bool {
        let key = (station.vid, station.mac, to);
        let settled = now + after;
        if let Some(known) = self.known.get_mut(&key).filter(|known| known.waits) {
            known.slot = station.slot;
            if to != To::Devices {
                known.at = known.at.min(settled); // a new link that broke, and is back
            }
            return true;
        }
        let at = self.known.get(&key).map_or(settled, |told| settled.max(told.at + AGAIN));
        let of = |key: &&Key| match to {
            To::Devices => key.2 == to && self.known.get(key).is_some_and(|known| known.slot == station.slot),
            To::Link(_) => key.2 != To::Devices,
        };
        let most = if to == To::Devices { OF_PORT } else { FOR_LINKS };
        if self.waiting.len() >= WAITING || self.waiting.iter().filter(of).nth(most - 1).is_some() {
            return false;
        }
        if self.known.len() >= 2 * WAITING {
            self.known.retain(|_, known| known.waits || now < known.at + AGAIN);
        }
        let has_room = self.known.len() < 2 * WAITING;
        if has_room {
            self.known.insert(key, Known { slot: station.slot, at, waits: true });
            self.waiting.push_back(key);
        }
        has_room
    }

    /// Stations that came are not in the list: they are to be looked for.
    fn missed(&mut self, now: Duration) {
        let from = self.look.map_or(now, |(from, _)| from);
        self.look = Some((from, now + LOOKS));
    }

    /// Whether to look for them now.
    fn looks(&mut self, now: Duration) -> bool {
        let due = self.look.filter(|(from, _)| *from <= now);
        if let Some((_, until)) = due {
            self.look = Some((now + BETWEEN_LOOKS, until)).filter(|(next, until)| next <= until);
        }
        due.is_some()
    }

    /// Adds those of `heard` that nobody was told of where they are. Who finds no room has another try at the next look.
    fn found(&mut self, heard: impl Iterator<Item = Arrival>, now: Duration) {
        // Of a port that brings a hundred thousand one is refused and not each.
        let mut full = HashSet::new();
        for station in heard {
            if self.waiting.len() >= WAITING {
                return;
            }
            let known = self.known.get(&(station.vid, station.mac, To::Devices));
            let is_told = known.is_some_and(|known| known.slot == station.slot);
            if !is_told
                && !full.contains(&station.slot)
                && !self.add(station, To::Devices, Duration::ZERO, now)
            {
                full.insert(station.slot);
            }
        }
    }

    /// The next ones that are due, to whom it `can` be told yet.
    fn take(&mut self, now: Duration, can: impl Fn(To) -> bool) -> Vec<(Arrival, To)> {
        let mut due = Vec::new();
        // Those who came go before those who are only told of.
        self.waiting.make_contiguous().sort_by_key(|key| key.2 != To::Devices);
        self.waiting.retain(|key| {
            let Some(known) = self.known.get_mut(key) else { return false };
            let goes = known.at <= now && due.len() < AT_A_TIME && can(key.2);
            if goes {
                (known.at, known.waits) = (now, false);
                due.push((Arrival { vid: key.0, mac: key.1, slot: known.slot }, key.2));
            }
            !goes
        });
        due
    }

    /// When to look again, if at all.
    fn rest(&self, now: Duration) -> Option<Duration> {
        let is_due = |key: &Key| self.known.get(key).is_some_and(|known| known.at <= now);
        match self.waiting.iter().any(is_due) {
            true => Some(PACE),
            false => (!self.waiting.is_empty() || self.look.is_some()).then_some(UNSETTLED),
        }
    }
}

impl Ports {
    /// Takes what the data path left, and makes the next announcements; when the next ones are due.
    pub(super) fn announce(&self, arrivals: &mut Vec<Arrival>) -> Option<Duration> {
        let now = self.fabric.now();
        let mut missed = self.fabric.switch.arrivals.take(arrivals);
        let mut announcer = self.announcer();
        let is_on = self.announces();
        if !is_on {
            *announcer = Announcer::default();
        }
        for station in arrivals.drain(..).filter(|_| is_on) {
            missed |= !announcer.add(station, To::Devices, Duration::ZERO, now.0);
        }
        if missed && is_on {
            announcer.missed(now.0);
        }
        if announcer.looks(now.0) {
            announcer.found(self.heard_lately().into_iter(), now.0);
        }
        let next = announcer.take(now.0, |to| self.hears(to));
        let rest = announcer.rest(now.0);
        drop(announcer);
        for (station, to) in next {
            // It may have gone on meanwhile.
            if self.fabric.switch.fdb.lookup(station.vid, station.mac, now.seconds()) == Some(station.slot) {
                self.announce_one(&station, to);
            }
        }
        rest
    }

    /// Stations that were heard lately at ports that peers bring them by.
    fn heard_lately(&self) -> Vec<Arrival> {
        let table = self.fabric.table();
        let is_wanted = |station: &Station| {
            !station.fixed
                && u64::from(station.age) <= LOOKS.as_secs()
                && table.get(station.slot).is_some_and(|port| port.remote)
        };
        let wanted = self.fabric.switch.fdb.those(self.fabric.now().seconds(), is_wanted).into_iter();
        wanted.map(|Station { vid, mac, slot, .. }| Arrival { vid, mac, slot }).collect()
    }

    /// Frames pass a link again: it is told, `after` so long, of the stations behind this host's own devices.
    pub(super) fn introduce(&self, entry: &Entry, after: Duration) {
        if !self.announces() {
            return;
        }
        let to = To::Link(entry.number);
        let table = self.fabric.table();
        let now = self.fabric.now();
        let is_own = |slot: Slot| table.get(slot).is_some_and(|port| !is_link(port));
        let stations = self.fabric.switch.fdb.stations(now.seconds());
        let mut announcer = self.announcer();
        for station in stations.into_iter().filter(|station| is_own(station.slot)) {
            let station = Arrival { vid: station.vid, mac: station.mac, slot: station.slot };
            announcer.add(station, to, after, now.0);
        }
        self.fabric.heard.wake();
    }

    /// Whether frames pass, but for a link that is just coming up; of one that has gone nothing more is to be expected.
    fn hears(&self, to: To) -> bool {
        let To::Link(number) = to else { return true };
        let entry = self.entries().get(&number).cloned();
        let is_coming = |entry: Arc<Entry>| {
            entry.life().state == State::Up && entry.link().is_some_and(|link| !link.is_connected())
        };
        !entry.is_some_and(is_coming)
    }

    fn announcer(&self) -> MutexGuard<'_, Announcer> {
        self.announcer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn announces(&self) -> bool {
        self.announces.load(Relaxed)
    }

    fn announce_one(&self, station: &Arrival, to: To) {
        let Arrival { vid, mac, slot } = *station;
        let wanted = |port: &Port<Egress>| match to {
            To::Devices => matches!(port.egress, Egress::Device(_)),
            To::Link(number) => port.number == number,
        };
        let addresses = self.addresses_of(vid, mac);
        let mut frames: Vec<_> = addresses
            .into_iter()
            .filter_map(|(ip, role)| Some(neighbour::announcement(mac, Vid::new(vid), Some((ip, role?)))))
            .collect();
        if frames.is_empty() {
            frames.push(neighbour::announcement(mac, Vid::new(vid), None));
        }
        frames.iter().for_each(|frame| self.fabric.send_for(slot, frame, wanted));
    }
}

/// Another switch is at its end.
fn is_link(port: &Port<Egress>) -> bool {
    matches!(&port.egress, Egress::Link(link) if link.side() != Side::Device)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn station(n: u64, slot: u32) -> Arrival {
        Arrival { vid: 0, mac: MacAddr::from_bits(0x0200_0000_0000 | n), slot: Slot(slot) }
    }

    #[test]
    fn a_station_is_announced_at_once_and_then_once_a_second_where_it_is() {
        let mut announcer = Announcer::default();
        announcer.add(station(1, 1), To::Devices, Duration::ZERO, Duration::ZERO);
        assert_eq!(announcer.take(Duration::ZERO, |_| true), [(station(1, 1), To::Devices)]);
        assert_eq!(announcer.rest(Duration::ZERO), None);
        for slot in 2..5 {
            announcer.add(station(1, slot), To::Devices, Duration::ZERO, SECOND / 2);
        }
        assert_eq!(
            (announcer.take(SECOND / 2, |_| true), announcer.rest(SECOND / 2)),
            (vec![], Some(UNSETTLED))
        );
        assert_eq!(announcer.take(SECOND, |_| true), [(station(1, 4), To::Devices)]);
    }

    #[test]
    fn a_link_is_told_when_it_has_settled_and_holds_up_nobody() {
        let mut announcer = Announcer::default();
        announcer.add(station(1, 1), To::Link(7), SETTLE, Duration::ZERO);
        (2..5).for_each(|n| _ = announcer.add(station(n, 1), To::Devices, Duration::ZERO, Duration::ZERO));
        assert_eq!(announcer.take(Duration::ZERO, |_| true), [2, 3].map(|n| (station(n, 1), To::Devices)));
        assert_eq!(announcer.rest(Duration::ZERO), Some(PACE));
        assert_eq!(announcer.take(Duration::ZERO, |_| true), [(station(4, 1), To::Devices)]);
        assert_eq!(announcer.rest(Duration::ZERO), Some(UNSETTLED));
        assert_eq!(announcer.take(SETTLE, |_| true), [(station(1, 1), To::Link(7))]);
    }

    #[test]
    fn a_link_that_is_coming_up_is_waited_for() {
        let mut announcer = Announcer::default();
        announcer.add(station(1, 1), To::Link(7), Duration::ZERO, Duration::ZERO);
        announcer.add(station(2, 1), To::Devices, Duration::ZERO, Duration::ZERO);
        let but_links = |to| to == To::Devices;
        assert_eq!(announcer.take(Duration::ZERO, but_links), [(station(2, 1), To::Devices)]);
        assert_eq!(announcer.take(PACE, but_links), []);
        assert_eq!(
            (announcer.rest(PACE), announcer.take(PACE, |_| true)),
            (Some(PACE), vec![(station(1, 1), To::Link(7))])
        );
    }

    #[test]
    fn a_port_that_brings_very_many_takes_no_room_and_no_time_from_others() {
        let mut announcer = Announcer::default();
        let crowd = (0..200_000).map(|n| station(n, 1));
        announcer.found(crowd.chain([station(200_000, 2)]), Duration::ZERO);
        assert_eq!(announcer.waiting.len(), OF_PORT + 1);
        assert!(announcer.known.values().any(|known| known.slot == Slot(2)));
    }

    #[test]
    fn who_finds_no_room_is_looked_for_a_few_seconds() {
        let mut announcer = Announcer::default();
        let heard = || (0..400).map(|n| station(n, 1));
        let mut told = Vec::new();
        for station in heard() {
            if !announcer.add(station, To::Devices, Duration::ZERO, Duration::ZERO) {
                announcer.missed(Duration::ZERO);
            }
        }
        assert_eq!(announcer.waiting.len(), OF_PORT);
        let mut now = Duration::ZERO;
        while let Some(rest) = announcer.rest(now) {
            now += rest;
            assert!(now < SECOND * 20, "it ends");
            if announcer.looks(now) {
                announcer.found(heard(), now);
            }
            told.extend(announcer.take(now, |_| true).into_iter().map(|(station, _)| station));
        }
        told.sort_by_key(|station| station.mac.bits());
        assert!(told.iter().copied().eq(heard()), "each once: {}", told.len());
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut announcer = Announcer::default();
        for n in 0..10_000 {
            let now = SECOND * (n / 1_000) as u32;
            announcer.add(station(n, n as u32 % 8), To::Devices, Duration::ZERO, now);
            if n % 20 == 0 {
                announcer.take(now, |_| true);
            }
        }
        assert!(announcer.waiting.len() <= WAITING && announcer.known.len() <= 2 * WAITING);
        assert_eq!(announcer.take(SECOND * 20, |_| true).len(), AT_A_TIME);
    }

    #[test]
    fn neither_a_new_link_nor_one_port_takes_all_the_room() {
        let mut announcer = Announcer::default();
        (0..8_192).for_each(|n| _ = announcer.add(station(n, 1), To::Link(7), SETTLE, Duration::ZERO));
        assert_eq!(announcer.waiting.len(), FOR_LINKS);
        (0..8_192)
            .for_each(|n| _ = announcer.add(station(n, 2), To::Devices, Duration::ZERO, Duration::ZERO));
        assert_eq!(announcer.waiting.len(), FOR_LINKS + OF_PORT);
        announcer.add(station(9_000, 3), To::Devices, Duration::ZERO, Duration::ZERO);
        // And it goes before what waits for the link, however long that has.
        let told: Vec<_> = (0..OF_PORT).flat_map(|_| announcer.take(SETTLE, |_| true)).collect();
        assert_eq!(told[OF_PORT], (station(9_000, 3), To::Devices));
    }
}
