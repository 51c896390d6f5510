//! Who is where, by MAC and IP addresses: what stations say of themselves, heard on the control thread from the copies
//! that the data path leaves.

use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::{Ports, saturated};
use crate::frame::neighbour::{self, Role};
use crate::frame::{Frame, MacAddr};
use crate::port::fabric::Heard;
use crate::port::status::{FdbStatus, StationStatus};
use crate::switch::neigh::Neighbours;

/// Between looks at what was heard: a flood of it takes no more of the thread than that allows.
const REST: Duration = Duration::from_millis(20);
/// What questions are answered by is made anew as a whole, however little has changed: then so many times as long as
/// that took it is left as it is.
const SHARE: u32 = 20;
/// Between looks at who is still there.
const SWEEP: Duration = Duration::from_secs(15);

/// Goes on until the ports are gone.
pub async fn listen(ports: Weak<Ports>) {
    let Some(fabric) = ports.upgrade().map(|ports| ports.fabric.clone()) else { return };
    let (mut heard, mut arrivals) = (Vec::new(), Vec::new());
    let mut rest = None;
    let mut tell = Instant::now();
    let mut next = Instant::now() + SWEEP;
    loop {
        let due = tokio::select! {
            () = sleep_until(next) => true,
            () = fabric.heard.some() => false,
            () = sleep(rest.unwrap_or(REST)), if rest.is_some() => false,
        };
        let Some(ports) = ports.upgrade() else { return };
        if due {
            ports.sweep_neighbours();
            ports.tell_known();
            next = Instant::now() + SWEEP;
            continue;
        }
        fabric.heard.take(&mut heard);
        ports.hear(&heard);
        rest = ports.announce(&mut arrivals);
        let now = Instant::now();
        if now >= tell {
            ports.tell_known();
            tell = now + now.elapsed() * SHARE;
        } else if rest.is_none() && ports.suppresses() && ports.neighbours().has_news() {
            rest = Some(tell - now);
        }
        drop(ports);
        sleep(REST).await;
    }
}

impl Ports {
    /// The stations of the FDB with their addresses, in the order of port, VLAN and MAC.
    pub fn stations(&self) -> Vec<StationStatus> {
        let (now, ageout) = (self.fabric.now().seconds(), self.ageout_seconds());
        let listed = self.fdb();
        let neighbours = self.neighbours();
        let status = |entry: FdbStatus| {
            let addresses = entry.mac.parse().map(|mac| neighbours.of(entry.vid, mac, now, ageout));
            StationStatus {
                vlan: Some(entry.vid).filter(|vid| *vid != 0),
                mac: entry.mac,
                port: entry.port,
                name: entry.name,
                ips: addresses.unwrap_or_default().into_iter().map(|(ip, _)| ip.to_string()).collect(),
                age: entry.age,
            }
        };
        listed.into_iter().map(status).collect()
    }

    /// The addresses that a station has claimed lately, and what it would answer for those that nobody else has.
    pub(super) fn addresses_of(&self, vid: u16, mac: MacAddr) -> Vec<(IpAddr, Option<Role>)> {
        self.neighbours().of(vid, mac, self.fabric.now().seconds(), self.ageout_seconds())
    }

    fn hear(&self, heard: &[Heard]) {
        let table = self.fabric.table();
        let now = self.fabric.now().seconds();
        let mut neighbours = self.neighbours();
        for left in heard {
            let slot = self.entries().get(&left.port).map(|entry| entry.slot);
            let port = slot.and_then(|slot| table.get(slot)).filter(|port| port.number == left.port);
            let (Some(port), Some(frame)) = (port, Frame::checked(left.bytes())) else { continue };
            let (Some(claim), Ok(class)) = (neighbour::claim(frame), port.vlan.classify(frame)) else {
                continue;
            };
            // It was learned when it came; who moved on since is heard again where it is.
            if self.fabric.switch.fdb.lookup(class.vid, frame.src(), now) == Some(port.slot) {
                neighbours.learn(class.vid, frame.src(), port.slot, claim, now);
            }
        }
    }

    /// Gives the data path what it may answer by.
    fn tell_known(&self) {
        if self.suppresses()
            && let Some(known) = self.neighbours().news()
        {
            self.fabric.known.store(Some(Arc::new(known)));
        }
    }

    /// Questions are answered from now on, or no more.
    pub(super) fn suppress(&self, on: bool) {
        let known = on.then(|| Arc::new(self.neighbours().known()));
        self.suppresses.store(on, Relaxed);
        self.fabric.known.store(known);
    }

    fn suppresses(&self) -> bool {
        self.suppresses.load(Relaxed)
    }

    fn sweep_neighbours(&self) {
        let now = self.fabric.now().seconds();
        let fdb = &self.fabric.switch.fdb;
        self.neighbours().sweep(now, self.ageout_seconds(), |vid, mac| fdb.lookup(vid, mac, now));
    }

    fn ageout_seconds(&self) -> u32 {
        saturated(self.ageout.load(Relaxed))
    }

    fn neighbours(&self) -> MutexGuard<'_, Neighbours> {
        self.neighbours.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
