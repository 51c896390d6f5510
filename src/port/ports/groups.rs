//! Who wants which multicast group: what hosts say of it, heard on the control thread from the copies that the data path
//! leaves, and the questions that are put to them where nobody else asks.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::Ports;
use super::entry::{Entry, State};
use crate::frame::{Frame, Vid, group};
use crate::port::fabric::Told;
use crate::port::status::{GroupPort, GroupStatus, GroupsStatus, QuerierStatus, RoutersStatus};
use crate::switch::groups::{Ask, Asked, Groups, Querier, Timers};

/// Between looks at what was said: a flood of it takes no more of the thread than that allows.
const REST: Duration = Duration::from_millis(20);
/// What frames go by is made anew as a whole: then so many times as long as that took it is left as it is, and what is due
/// is not looked at out of turn.
const SHARE: u32 = 20;
/// Between looks at what is due.
const TICK: Duration = Duration::from_secs(1);

/// What was said, and when there is something to do next.
struct Listener {
    told: Vec<Told>,
    known: Option<Timers>,
    next: Instant,
    /// Not before then out of turn.
    early: Instant,
    look: Instant,
    tell: Instant,
}

/// Goes on until the ports are gone.
pub async fn listen(ports: Weak<Ports>) {
    let Some(fabric) = ports.upgrade().map(|ports| ports.fabric.clone()) else { return };
    let mut listener = Listener::new(Instant::now());
    loop {
        let Some(is_on) = ports.upgrade().map(|ports| ports.groups().is_some()) else { return };
        tokio::select! {
            () = sleep_until(listener.next), if is_on => (),
            () = fabric.told.some() => (),
        }
        let Some(ports) = ports.upgrade() else { return };
        listener.look(&ports, Instant::now());
        drop(ports);
        sleep(REST).await;
    }
}

impl Listener {
    fn new(now: Instant) -> Self {
        Self { told: Vec::new(), known: None, next: now, early: now, look: now, tell: now }
    }

    /// Hears what was said, and does what is due.
    fn look(&mut self, ports: &Ports, now: Instant) {
        ports.fabric.told.take(&mut self.told);
        ports.hear_groups(&self.told);
        let timers = ports.groups().as_ref().map(Groups::timers);
        if timers != self.known {
            (self.known, self.next, self.look) = (timers, now, now);
        }
        if ports.fabric.has_doubts() {
            self.next = self.next.min(self.early);
        }
        if let Some(timers) = timers.filter(|_| now >= self.next) {
            let vids = (now >= self.look).then(|| ports.vids());
            if vids.is_some() {
                self.look = now + timers.interval / 4;
            }
            ports.tick_groups(vids.as_ref());
            self.early = now + now.elapsed() * SHARE;
            self.next = now + TICK.min(timers.last());
        }
        ports.ask();
        if now >= self.tell {
            ports.tell_members();
            self.tell = now + now.elapsed() * SHARE;
        } else {
            self.next = self.next.min(self.tell);
        }
    }
}

impl Ports {
    /// Multicast goes to those who want it from now on, or to everybody. Who wants what is asked every `interval`.
    pub(super) fn snoop(&self, on: bool, interval: Duration) {
        let groups = on.then(|| Groups::new(Timers { interval }, Groups::source(rand::random())));
        let members = groups.as_ref().map(|_| Arc::default());
        *self.groups() = groups;
        self.fabric.switch.set_members(members);
        self.fabric.told.wake();
    }

    /// How often it is asked who wants what, if at all.
    pub(super) fn snoops(&self) -> Option<Duration> {
        self.groups().as_ref().map(|groups| groups.timers().interval)
    }

    /// Whose groups are known, who asks for them, and who gets all; nothing while nobody snoops.
    pub fn list_groups(&self) -> GroupsStatus {
        let now = self.fabric.now().0;
        let groups = self.groups();
        let Some(groups) = groups.as_ref() else { return GroupsStatus::default() };
        let entries = self.entries();
        let port = |(port, left): (u32, Duration)| {
            let name = entries.get(&port).map(|entry| entry.name()).unwrap_or_default();
            GroupPort { port, name, expires: left.as_secs() }
        };
        let vlan = |vid: u16| Some(vid).filter(|vid| *vid != 0);
        let family = |v6: bool| if v6 { "ipv6" } else { "ipv4" }.to_owned();
        let areas = groups.areas(now);
        let querier = |area: &Asked| {
            let (address, port, expires) = match area.querier {
                Querier::Own { .. } => (None, None, None),
                Querier::Other { source, port, until } => {
                    let left = until.saturating_sub(now).as_secs();
                    (Some(source.to_string()), Some(port), Some(left))
                }
            };
            let (vlan, family) = (vlan(area.vid), family(area.v6));
            QuerierStatus { vlan, family, filters: area.filters, address, port, expires }
        };
        let routers = areas.iter().filter(|area| !area.routers.is_empty()).map(|area| RoutersStatus {
            vlan: vlan(area.vid),
            family: family(area.v6),
            ports: area.routers.iter().copied().map(port).collect(),
        });
        GroupsStatus {
            snoops: true,
            groups: groups
                .groups(now)
                .into_iter()
                .map(|group| GroupStatus {
                    vlan: vlan(group.vid),
                    group: group.group.to_string(),
                    ports: group.ports.into_iter().map(port).collect(),
                })
                .collect(),
            routers: routers.collect(),
            queriers: areas.iter().map(querier).collect(),
            full: groups.full(now).into_iter().map(port).collect(),
            settling: groups.settling(now).into_iter().map(port).collect(),
        }
    }

    fn hear_groups(&self, told: &[Told]) {
        let table = self.fabric.table();
        let now = self.fabric.now().0;
        let mut groups = self.groups();
        let Some(groups) = groups.as_mut() else { return };
        for left in told {
            let slot = self.entries().get(&left.port).map(|entry| entry.slot);
            let port = slot.and_then(|slot| table.get(slot)).filter(|port| port.number == left.port);
            let (Some(port), Some(frame)) = (port, Frame::checked(left.bytes())) else { continue };
            if let (Some(message), Ok(class)) = (group::message(frame), port.vlan.classify(frame)) {
                let from = (left.port, !port.isolated);
                groups.hear(class.vid, from, frame.src(), message, now);
            }
        }
    }

    fn tick_groups(&self, vids: Option<&BTreeSet<u16>>) {
        let entries: Vec<_> = self.entries().values().cloned().collect();
        let is_up = |state: State, port: &Entry| state == State::Up && port.gate.closed().is_none();
        let up = entries.iter().filter_map(|entry| {
            let life = entry.life();
            // More with all that leaves it open who is there.
            let unsure = life.connects + entry.counters.unheard.load(Relaxed);
            is_up(life.state, entry).then_some((entry.number, unsure))
        });
        let now = self.fabric.now().0;
        if let Some(groups) = self.groups().as_mut() {
            groups.tick(now, up, vids);
        }
    }

    /// Puts the questions that are due.
    fn ask(&self) {
        let mut groups = self.groups();
        let Some(groups) = groups.as_mut() else { return };
        let (timers, mac) = (groups.timers(), groups.mac());
        for Ask { vid, v6, group, port } in groups.asks() {
            let (vid, wanted) = (Vid::new(vid), |number: u32| port.is_none_or(|port| port == number));
            let response = if group.is_some() { timers.last() } else { timers.response() };
            if group.is_none() && !v6 {
                // In front: by the question behind it another switch knows that this one really asks.
                let advertisement = group::advertisement(mac, vid, timers.interval);
                self.fabric.send_in(&advertisement, |port| wanted(port.number));
            }
            let query = group::query(mac, vid, v6, group, response, timers.interval);
            self.fabric.send_in(&query, |port| wanted(port.number));
        }
    }

    /// Gives the data path what it is to go by.
    fn tell_members(&self) {
        let mut groups = self.groups();
        let Some(groups) = groups.as_mut() else { return };
        let entries = self.entries();
        let place = |port: u32| entries.get(&port).map(|entry| entry.slot);
        if let Some(members) = groups.news(place) {
            self.fabric.switch.set_members(Some(Arc::new(members)));
        }
    }

    /// The VLANs in which somebody has been heard lately.
    fn vids(&self) -> BTreeSet<u16> {
        let stations = self.fabric.switch.fdb.stations(self.fabric.now().seconds());
        stations.into_iter().map(|station| station.vid).collect()
    }

    fn groups(&self) -> MutexGuard<'_, Option<Groups>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
