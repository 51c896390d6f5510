//! Who wants which multicast group: what hosts say of it, heard on the control thread from the copies that the data path
//! leaves, and the questions that are put to them where nobody else asks.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::broadcast;
use tokio::time::{Instant, sleep, sleep_until};

use super::Ports;
use super::entry::{Entry, State};
use crate::frame::{Frame, Vid, group};
use crate::port::events::Event;
use crate::port::fabric::Told;
use crate::port::status::{GroupPort, GroupStatus, GroupsStatus, QuerierStatus, RoutersStatus};
use crate::switch::groups::{Ask, Asked, Groups, Querier, Timers};

/// Between looks at what was said: a flood of it takes no more of the thread than that allows.
const REST: Duration = Duration::from_millis(20);
/// What frames go by is made anew as a whole: then so many times as long as that took it is left as it is, and what is due
/// is not looked at out of turn.
const SHARE: u32 = 20;
/// Ports that are listed of groups, of routers, and of those that get everything.
const LISTED: usize = 4_096;
/// Between looks at what is due.
const TICK: Duration = Duration::from_secs(1);

/// What was said, and when there is something to do next.
struct Listener {
    told: Vec<Told>,
    events: broadcast::Receiver<Event>,
    /// Of them there were some.
    happened: bool,
    known: Option<Timers>,
    next: Instant,
    /// Not before then out of turn.
    early: Instant,
    look: Instant,
    tell: Instant,
}

/// Goes on until the ports are gone.
pub async fn listen(ports: Weak<Ports>) {
    let Some((fabric, mut listener)) =
        ports.upgrade().map(|ports| (ports.fabric.clone(), Listener::new(&ports, Instant::now())))
    else {
        return;
    };
    loop {
        let Some(is_on) = ports.upgrade().map(|ports| ports.groups().is_some()) else { return };
        tokio::select! {
            () = sleep_until(listener.next), if is_on => (),
            () = fabric.told.some() => (),
            // Or more than were kept.
            _ = listener.events.recv(), if is_on => listener.happened = true,
        }
        let Some(ports) = ports.upgrade() else { return };
        listener.look(&ports, Instant::now());
        drop(ports);
        sleep(REST).await;
    }
}

impl Listener {
    fn new(ports: &Ports, now: Instant) -> Self {
        let (told, events) = (Vec::new(), ports.events());
        Self { told, events, happened: false, known: None, next: now, early: now, look: now, tell: now }
    }

    /// Hears what was said, and does what is due; at once where a port came up, or where it isn't sure who is there.
    fn look(&mut self, ports: &Ports, now: Instant) {
        ports.fabric.told.take(&mut self.told);
        ports.hear_groups(&self.told);
        let timers = ports.groups().as_ref().map(Groups::timers);
        if timers != self.known {
            (self.known, self.next, self.look) = (timers, now, now);
        }
        if !self.events.is_empty() {
            self.happened = true;
            self.events = self.events.resubscribe();
        }
        if std::mem::take(&mut self.happened) | ports.fabric.has_doubts() {
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
        let mut kept = self.groups();
        *kept = groups;
        // While nobody else can: what frames go by is what is kept.
        self.fabric.switch.set_members(members);
        drop(kept);
        self.fabric.told.wake();
    }

    /// How often it is asked who wants what, if at all.
    pub(super) fn snoops(&self) -> Option<Duration> {
        self.groups().as_ref().map(|groups| groups.timers().interval)
    }

    /// Whose groups are known, who asks for them, and who gets all; nothing while nobody snoops. Of each list so many
    /// ports as can be read.
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
        let mut left_out = 0;
        let mut some = |ports: Vec<(u32, Duration)>, room: &mut usize| -> Vec<GroupPort> {
            let count = ports.len().min(*room);
            *room -= count;
            left_out += (ports.len() - count) as u64;
            ports.into_iter().take(count).map(port).collect()
        };
        let mut room = LISTED;
        let listed = groups.groups(now).into_iter().map(|group| GroupStatus {
            vlan: vlan(group.vid),
            group: group.group.to_string(),
            ports: some(group.ports, &mut room),
        });
        let listed = listed.filter(|group| !group.ports.is_empty()).collect();
        let mut room = LISTED;
        let routers = areas.iter().map(|area| RoutersStatus {
            vlan: vlan(area.vid),
            family: family(area.v6),
            ports: some(area.routers.clone(), &mut room),
        });
        let routers = routers.filter(|routers| !routers.ports.is_empty()).collect();
        let [full, settling] =
            [groups.full(now), groups.settling(now)].map(|ports| some(ports, &mut { LISTED }));
        let queriers = areas.iter().map(querier).collect();
        GroupsStatus { snoops: true, groups: listed, routers, queriers, full, settling, left_out }
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
        let (table, entries) = (self.fabric.table(), self.entries().clone());
        let is_in = |port: u32, vid: u16| {
            let port = entries.get(&port).and_then(|entry| table.get(entry.slot));
            port.is_some_and(|port| port.vlan.has(vid))
        };
        let is_up = |state: State, port: &Entry| state == State::Up && port.gate.closed().is_none();
        let up = entries.values().filter_map(|entry| {
            let life = entry.life();
            // More with all that leaves it open who is there.
            let unsure = life.connects + entry.lives.load(Relaxed) + entry.counters.unheard.load(Relaxed);
            is_up(life.state, entry).then_some((entry.number, unsure))
        });
        let now = self.fabric.now().0;
        if let Some(groups) = self.groups().as_mut() {
            groups.tick(now, up, is_in, vids);
        }
    }

    /// Puts the questions that are due.
    fn ask(&self) {
        let mut groups = self.groups();
        let Some(groups) = groups.as_mut() else { return };
        let (timers, mac) = (groups.timers(), groups.mac());
        for Ask { vid, v6, group, port } in groups.asks() {
            let to = match port {
                Some(port) => match self.entries().get(&port) {
                    Some(entry) => Some((entry.slot, port)),
                    None => continue,
                },
                None => None,
            };
            let vid = Vid::new(vid);
            let response = if group.is_some() { timers.last() } else { timers.response() };
            if group.is_none() && !v6 {
                // In front: by the question behind it another switch knows that this one really asks.
                self.fabric.send_in(&group::advertisement(mac, vid, timers.interval), to);
            }
            self.fabric.send_in(&group::query(mac, vid, v6, group, response, timers.interval), to);
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
        self.fabric.switch.fdb.vids(self.fabric.now().seconds())
    }

    fn groups(&self) -> MutexGuard<'_, Option<Groups>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;
    use crate::frame::MacAddr;
    use crate::frame::group::{Message, Record, Records, Says};
    use crate::port::fabric::TOLD;
    use crate::port::link::Link;
    use crate::port::ports::SwitchSettings;
    use crate::port::ports::entry::{Life, Parts, Way};
    use crate::port::spec::{Congestion, PortKind, PortSpec};
    use crate::switch::{Slot, VlanRule};

    /// A link that is up, as far as anybody is told.
    fn enter(ports: &Ports, slot: u32) -> Arc<Entry> {
        let parts = Parts {
            number: 0,
            slot: Slot(slot),
            target: "ws://h/".to_owned(),
            spec: PortSpec::new(PortKind::Client, "ws://h/"),
            way: Way::Link(Arc::new(Link::dialled(Congestion::System))),
            life: Life { state: State::Up, connects: 1, ..Life::default() },
            user: None,
            listener: None,
        };
        ports.enter(Slot(slot), VlanRule::Transparent, parts)
    }

    /// Who gets a packet that comes in at the first port and that nobody asked for; `None`: everybody.
    fn who_gets(ports: &Ports) -> Option<Vec<u32>> {
        let head = [1, 0, 0x5e, 1, 2, 3, 2, 0, 0, 0, 0, 1, 8, 0, 0x45];
        let bytes = [&head[..], &[0; 15], &[239, 1, 2, 3], &[0; 26]].concat();
        let (table, frame) = (ports.fabric.table(), Frame::checked(&bytes)?);
        let verdict = ports.fabric.switch.trace(&table, table.get(Slot(0))?, frame, 1, ports.fabric.now());
        let only = verdict.steps.iter().any(|step| step.check == "groups" && step.why != "for everybody");
        let ways = verdict.ways.iter().filter(|(_, way)| way.is_ok()).map(|(slot, _)| slot.0);
        only.then(|| ways.collect())
    }

    // Whoever listens on his own does so behind an await, and there is none here.
    #[tokio::test]
    async fn a_port_that_comes_up_gets_everything_before_anything_is_due() {
        let interval = Duration::from_millis(40);
        let settings = SwitchSettings { snoop: true, snoop_interval: interval, ..SwitchSettings::default() };
        let ports = Ports::start(settings).unwrap();
        let start = Instant::now() + Duration::from_secs(3_600);
        let mut listener = Listener::new(&ports, start);
        let first = enter(&ports, 0);
        assert!(ports.fabric.switch.fdb.insert_static(0, MacAddr::new([2, 0, 0, 0, 0, 1]), first.slot));
        listener.look(&ports, start);
        std::thread::sleep(2 * interval);
        let later = start + Duration::from_secs(1);
        listener.look(&ports, later);
        assert_eq!(who_gets(&ports), Some(vec![]), "all have settled");
        // At the same moment, so that nothing else is due.
        let second = enter(&ports, 1);
        assert_eq!(who_gets(&ports), Some(vec![]));
        listener.look(&ports, later);
        assert_eq!(who_gets(&ports), Some(vec![1]));
        // And one that was away for less than it takes to be missed.
        std::thread::sleep(2 * interval);
        let later = later + Duration::from_secs(1);
        listener.look(&ports, later);
        assert_eq!(who_gets(&ports), Some(vec![]));
        for shut in [true, false] {
            second.gate.set_shut(shut);
            second.tell();
        }
        listener.look(&ports, later);
        assert_eq!(who_gets(&ports), Some(vec![1]));
    }

    /// One port could fill all the room there is for what is said, and what others said then was lost.
    #[tokio::test]
    async fn bad_37_what_one_port_says_at_once_leaves_room_for_others() {
        let ports = Ports::start(SwitchSettings { snoop: true, ..SwitchSettings::default() }).unwrap();
        let entries = [0, 1].map(|slot| enter(&ports, slot));
        let table = ports.fabric.table();
        for (entry, count) in entries.iter().zip([1_000, 64]) {
            let head = [1, 0, 0x5e, 9, 9, 9, 2, 0, 0, 0, 0, entry.slot.0 as u8, 8, 0];
            let packet = [0x45, 0, 0, 28, 0, 0, 0, 0, 1, 2, 0, 0, 10, 0, 0, 1, 239, 9, 9, 9];
            let report = [&head[..], &packet, &[0x16, 0, 0, 0, 239, 9, 9, 9], &[0; 18]].concat();
            let tape = &mut ();
            let mut batch = ports.fabric.batch(&table, entry.slot, entry.number, tape).unwrap();
            (0..count).for_each(|_| batch.frame(&report));
        }
        let unheard = entries.map(|entry| entry.counters.unheard.load(Relaxed));
        assert_eq!(unheard, [1_000 - TOLD as u64 / 2, 0]);
    }

    /// The lock was let go between the two: who came between left his groups, and the sets of the other one.
    #[tokio::test]
    async fn what_frames_go_by_is_what_is_kept_whoever_changes_it_at_once() {
        let ports = Ports::start(SwitchSettings::default()).unwrap();
        let (ports, arrived) = (&*ports, &AtomicUsize::new(0));
        // Both at the same moment, which a barrier that sleeps is not.
        let meet = |turn: usize| {
            arrived.fetch_add(1, SeqCst);
            while arrived.load(SeqCst) < 2 * turn {
                std::thread::yield_now();
            }
        };
        let change = |on| {
            for round in 0..40_000 {
                meet(2 * round + 1);
                ports.snoop(on, Duration::from_secs(4));
                meet(2 * round + 2);
                assert_eq!(ports.groups().is_some(), ports.fabric.table().snoops(), "in round {round}");
            }
        };
        std::thread::scope(|scope| _ = (scope.spawn(|| change(true)), change(false)));
    }

    #[tokio::test]
    async fn so_many_are_listed_and_the_others_counted() {
        let ports = Ports::start(SwitchSettings { snoop: true, ..SwitchSettings::default() }).unwrap();
        let entries: Vec<_> = (0..5).map(|slot| enter(&ports, slot)).collect();
        let now = Instant::now();
        Listener::new(&ports, now).look(&ports, now);
        for (entry, n) in entries.iter().flat_map(|entry| (0..1_024_u32).map(move |n| (entry, n))) {
            let group = IpAddr::from((0xef80_0000 + n).to_be_bytes());
            let record = Record { group, says: Says::Member { mute: false } };
            let (from, report) = ((entry.number, true), Message::Report(Records::One(Some(record))));
            let mut groups = ports.groups();
            groups.as_mut().unwrap().hear(0, from, MacAddr::ZERO, report, ports.fabric.now().0);
        }
        let status = ports.list_groups();
        let listed: usize = status.groups.iter().map(|group| group.ports.len()).sum();
        assert_eq!((listed, status.left_out, status.settling.len()), (LISTED, 1_024, 5));
    }
}
