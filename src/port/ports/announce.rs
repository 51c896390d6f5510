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
//! station is not announced twice within a second.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::Ports;
use super::entry::Entry;
use crate::frame::{MacAddr, Vid, neighbour};
use crate::port::egress::Egress;
use crate::prof::Side;
use crate::switch::arrivals::Arrival;
use crate::switch::{Port, Slot};

/// Between looks at who is to be announced.
pub const PACE: Duration = Duration::from_millis(20);
/// Stations announced at a time: a hundred a second.
const AT_A_TIME: usize = 2;
/// Announcements that may wait; more are not made.
const WAITING: usize = 1_024;
/// A station is left alone for so long.
const AGAIN: Duration = Duration::from_secs(1);
/// How long a link that has just come up may take to carry frames.
const PATIENCE: Duration = Duration::from_secs(10);

/// To whom.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum To {
    /// The TAPs and network devices.
    Devices,
    /// The link with this port number.
    Link(u32),
}

/// What is still to be announced, and what was lately.
#[derive(Default)]
pub struct Announcer {
    waiting: VecDeque<(Arrival, To, Duration)>,
    told: HashMap<(u16, MacAddr, To), Duration>,
}

impl Announcer {
    /// At `now`, the time since the switch's start.
    pub fn add(&mut self, station: Arrival, to: To, now: Duration) {
        let key = (station.vid, station.mac, to);
        if self.told.len() >= WAITING {
            self.told.retain(|_, told| now < *told + AGAIN);
        }
        let is_told = self.told.get(&key).is_some_and(|told| now < *told + AGAIN);
        if !is_told && self.waiting.len() < WAITING && self.told.len() < 2 * WAITING {
            self.told.insert(key, now);
            self.waiting.push_back((station, to, now));
        }
    }

    pub fn is_busy(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The next ones, and since when they wait.
    fn take(&mut self) -> Vec<(Arrival, To, Duration)> {
        let some = self.waiting.len().min(AT_A_TIME);
        self.waiting.drain(..some).collect()
    }
}

impl Ports {
    /// Takes what the data path left, and makes the next announcements; whether more are to come.
    pub(super) fn announce(&self, arrivals: &mut Vec<Arrival>) -> bool {
        let now = self.fabric.now();
        self.fabric.switch.arrivals.take(arrivals);
        let mut announcer = self.announcer();
        let is_on = self.announces();
        arrivals.drain(..).filter(|_| is_on).for_each(|station| announcer.add(station, To::Devices, now.0));
        let next = announcer.take();
        for (station, to, since) in next {
            let waits = matches!(to, To::Link(number) if !self.is_connected(number));
            if waits && now.0 < since + PATIENCE {
                announcer.waiting.push_back((station, to, since));
            } else if self.fabric.switch.fdb.lookup(station.vid, station.mac, now.seconds())
                == Some(station.slot)
            {
                self.announce_one(&station, to);
            }
        }
        announcer.is_busy()
    }

    /// Frames pass a link again: it is told of the stations behind this host's own devices.
    pub(super) fn introduce(&self, entry: &Entry) {
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
            announcer.add(Arrival { vid: station.vid, mac: station.mac, slot: station.slot }, to, now.0);
        }
        self.fabric.heard.wake();
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

    fn is_connected(&self, number: u32) -> bool {
        let entry = self.entries().get(&number).cloned();
        entry.is_some_and(|entry| entry.link().is_some_and(|link| link.is_connected()))
    }
}

/// Another switch is at its end.
fn is_link(port: &Port<Egress>) -> bool {
    matches!(&port.egress, Egress::Link(link) if link.side() != Side::Device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcements_are_paced_bounded_and_not_repeated_at_once() {
        let mut announcer = Announcer::default();
        let station =
            |n: u64| Arrival { vid: 0, mac: MacAddr::from_bits(0x0200_0000_0000 | n), slot: Slot(1) };
        let second = Duration::from_secs(1);
        for now in [Duration::ZERO, second / 2, second] {
            announcer.add(station(1), To::Devices, now);
        }
        announcer.add(station(1), To::Link(7), second);
        assert_eq!(
            announcer.take(),
            [(station(1), To::Devices, Duration::ZERO), (station(1), To::Devices, second)]
        );
        assert_eq!(announcer.take(), [(station(1), To::Link(7), second)]);
        assert!(!announcer.is_busy());
        for n in 0..1_000_000 {
            announcer.add(station(n), To::Devices, second * (n / 100_000) as u32);
        }
        assert_eq!(announcer.waiting.len(), WAITING);
        assert!(announcer.told.len() <= 2 * WAITING);
    }
}
