//! The verdict on one frame: in a port, out of a port, all ports, or none.
//!
//! The table of ports is a snapshot that the control side replaces as a whole; a data thread reads it
//! without a lock. What hangs on a port besides its rules is the shell's (`E`).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::arrivals::{Arrival, Arrivals};
use super::counters::{Counters, Reason};
use super::fdb::{Fdb, Learned, MAX_SLOTS};
use super::groups::{Members, Only, Slots};
use super::guard::{Gate, Policer, Storm, loops};
use super::trace::{Act, ForGood};
use super::vlan::{Class, VlanRule};
use crate::frame::{EtherType, Frame, MacAddr, Retag};
use crate::prof::{Probe, Stage};

/// A port's place in the table. Slots are reused; port numbers never are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Slot(pub u32);

impl Slot {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// The time since the switch's start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Now(pub Duration);

impl Now {
    pub fn seconds(self) -> u32 {
        self.0.as_secs() as u32
    }
}

/// A port as the switch sees it.
#[derive(Debug)]
pub struct Port<E> {
    pub slot: Slot,
    pub number: u32,
    pub vlan: VlanRule,
    pub isolated: bool,
    /// Reserved multicast passes.
    pub bpdu: bool,
    /// Sources let in; empty: all.
    pub macs: Vec<MacAddr>,
    /// A remote peer: what it sends may not claim to come from this host's own devices.
    pub remote: bool,
    /// In bits a second.
    pub rate: Option<Arc<Policer>>,
    /// EtherTypes let in; empty: all.
    pub ethertypes: Vec<EtherType>,
    pub storm: Option<Arc<Storm>>,
    /// How much of what its stations say of their addresses is listened to.
    pub heard: Arc<Policer>,
    /// How much of what they say of the groups that they want.
    pub asked: Arc<Policer>,
    /// Stations that may be learned.
    pub max_macs: u32,
    pub gate: Arc<Gate>,
    pub counters: Arc<Counters>,
    pub egress: E,
}

/// All ports at one moment. Where there are ten thousand, links come and go all the time: a table shares with the one
/// before it all but the page that changed.
#[derive(Debug)]
pub struct Table<E> {
    pages: Vec<Arc<Page<E>>>,
    /// MAC addresses of this host's own devices, sorted.
    own: Vec<MacAddr>,
    /// Who gets which multicast group; `None`: everybody gets all.
    members: Option<Arc<Members>>,
}

/// The ports of so many slots in a row.
type Page<E> = [Option<Arc<Port<E>>>; PAGE];
const PAGE: usize = 64;

/// What becomes of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Unicast(Slot, Retag),
    /// To each port that [`Table::flood`] names.
    Flood(Flood),
    Drop(Reason),
}

/// A frame on its way to every port of its VLAN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flood {
    class: Class,
    ingress: Slot,
    isolated: bool,
    /// To these ports alone.
    only: Option<Only>,
}

/// The forwarding database and the table of ports.
pub struct Switch<E> {
    pub fdb: Fdb,
    /// Where probes of our own loop guard come from; `None`: there is none.
    pub probe_source: Option<MacAddr>,
    /// Stations that peers brought.
    pub arrivals: Arrivals,
    table: ArcSwap<Table<E>>,
    /// Ports that were removed or replaced while somebody may still read a table that has them. Held while the
    /// table changes.
    leaving: Mutex<Vec<Weak<Port<E>>>>,
}

impl<E> Switch<E> {
    pub fn new(fdb: Fdb) -> Self {
        let table = ArcSwap::from_pointee(Table { pages: Vec::new(), own: Vec::new(), members: None });
        Self { fdb, probe_source: None, arrivals: Arrivals::default(), table, leaving: Mutex::default() }
    }

    /// The table; take it anew for each batch.
    pub fn table(&self) -> &ArcSwap<Table<E>> {
        &self.table
    }

    /// Puts `port` into its slot, which is free or its own.
    pub fn put(&self, port: Port<E>) {
        self.fdb.limit_port(port.slot, port.max_macs);
        self.update(|table, leaving| {
            let page = port.slot.index() / PAGE;
            while table.pages.len() <= page {
                table.pages.push(Arc::new([const { None }; PAGE]));
            }
            let place = &mut Arc::make_mut(&mut table.pages[page])[port.slot.index() % PAGE];
            // Whoever still reads the one before keeps the slot from being given away, as after `remove`.
            leaving.extend(place.replace(Arc::new(port)).map(|before| Arc::downgrade(&before)));
        });
    }

    /// Empties a slot and forgets its stations. The slot is free when the last reader is done with the
    /// port.
    pub fn remove(&self, slot: Slot) {
        self.update(|table, leaving| {
            let page = table.pages.get_mut(slot.index() / PAGE).map(Arc::make_mut);
            leaving.extend(
                page.and_then(|page| page[slot.index() % PAGE].take()).map(|port| Arc::downgrade(&port)),
            );
        });
        self.fdb.forget_port(slot);
    }

    /// The MAC addresses of this host's own devices.
    pub fn set_own(&self, mut own: Vec<MacAddr>) {
        own.sort_unstable();
        self.update(|table, _| table.own = own);
    }

    /// Who gets which multicast group from now on.
    pub fn set_members(&self, members: Option<Arc<Members>>) {
        self.update(|table, _| table.members = members);
    }

    /// The lowest free slot, `None` when all are taken. Whoever asks fills it before asking again.
    ///
    /// A batch that began before a port was removed goes on with the table as it was: it may send to the
    /// port, and learn for it. Its slot is given to nobody while that lasts, and what was learned so late
    /// is forgotten.
    pub fn free_slot(&self) -> Option<Slot> {
        let mut leaving = self.leaving();
        leaving.retain(|port| port.strong_count() > 0);
        let busy: Vec<_> = leaving.iter().filter_map(|port| Some(port.upgrade()?.slot)).collect();
        drop(leaving);
        let table = self.table.load();
        let is_taken = |slot: &Slot| table.get(*slot).is_some() || busy.contains(slot);
        let slot = (0..MAX_SLOTS as u32).map(Slot).find(|slot| !is_taken(slot))?;
        self.fdb.forget_port(slot);
        Some(slot)
    }

    /// Who gets `frame`, which came in at `ingress` and is `frames` on a cable. Learns the source.
    pub fn forward(
        &self,
        table: &Table<E>,
        ingress: &Port<E>,
        frame: Frame<'_>,
        frames: u32,
        now: Now,
        probe: &mut impl Probe,
    ) -> Verdict {
        let judged = self.judge(table, ingress, frame, frames, now, &mut ForGood(probe));
        judged.unwrap_or_else(Verdict::Drop)
    }

    /// Whether a frame looks like a probe of our own loop guard; only [`loops::LoopGuard`] knows.
    pub fn is_own_probe(&self, frame: Frame<'_>) -> bool {
        frame.dst() == loops::GROUP && Some(frame.src()) == self.probe_source
    }

    /// The decision, whether it is for a frame or for somebody who wants to know ([`Switch::trace`]).
    pub(super) fn judge(
        &self,
        table: &Table<E>,
        ingress: &Port<E>,
        frame: Frame<'_>,
        frames: u32,
        now: Now,
        act: &mut impl Act,
    ) -> Result<Verdict, Reason> {
        let (src, dst) = (frame.src(), frame.dst());
        let state = match ingress.gate.closed() {
            Some(Reason::LoopBlocked) if self.is_own_probe(frame) => Err(Reason::LoopProbe),
            Some(reason) => Err(reason),
            None => Ok(()),
        };
        act.step("state", state, || format!("port {} {}", ingress.number, ingress.gate))?;
        let probe = unless(self.is_own_probe(frame), Reason::LoopProbe);
        act.step("probe", probe, || match probe {
            Ok(()) => "none of our own loop guard's".to_owned(),
            Err(_) => "one of our own loop guard's, which goes no further".to_owned(),
        })?;
        let source = unless(src.is_group() || src.is_zero(), Reason::BadSource);
        act.step("source", source, || match source {
            Ok(()) => format!("{src} is one station's address"),
            Err(_) => format!("{src} is not one station's address"),
        })?;
        let listed =
            unless(!ingress.macs.is_empty() && !ingress.macs.contains(&src), Reason::SourceNotAllowed);
        act.step("macs", listed, || list_of(&ingress.macs))?;
        let own = unless(ingress.remote && table.own.binary_search(&src).is_ok(), Reason::OwnSource);
        act.step("own", own, || match (ingress.remote, own) {
            (false, _) => "from a port of this host any may come".to_owned(),
            (true, Ok(())) => format!("{src} is no TAP's of this host"),
            (true, Err(_)) => format!("{src} is a TAP's of this host, and comes from far away"),
        })?;
        let rate = match &ingress.rate {
            Some(rate) => unless(!act.rate(rate, frame.bytes().len() as u64 * 8, now), Reason::RateLimit),
            None => Ok(()),
        };
        act.step("rate", rate, || match &ingress.rate {
            Some(rate) => format!("{} bits a second", rate.rate()),
            None => "no limit".to_owned(),
        })?;
        let listed = !ingress.ethertypes.is_empty() && !ingress.ethertypes.contains(&frame.inner_ethertype());
        act.step("ethertypes", unless(listed, Reason::EthertypeNotAllowed), || list_of(&ingress.ethertypes))?;
        let class = ingress.vlan.classify(frame);
        act.step("vlan", class.map(|_| ()), || match class {
            Ok(class) if class.vid == 0 => format!("the port is {}: untagged, in no VLAN", ingress.vlan),
            Ok(class) => format!("the port is {}: VLAN {}", ingress.vlan, class.vid),
            Err(_) => format!("the port is {}", ingress.vlan),
        })?;
        let class = class?;
        let reserved = unless(dst.is_reserved() && !ingress.bpdu, Reason::ReservedGroup);
        act.step("reserved", reserved, || match (dst.is_reserved(), ingress.bpdu) {
            (false, _) => format!("{dst} is none of those that bridges keep to themselves"),
            (true, false) => format!("bridges keep {dst} to themselves (bpdu: drop)"),
            (true, true) => format!("the port lets {dst} pass (bpdu: forward)"),
        })?;
        if dst.is_group() {
            // Before it is learned: a storm is to cost as little as can be.
            may_flood(ingress, dst, frames, now, act)?;
        }
        act.mark(Stage::SwParse);
        let learned = act.learn(&self.fdb, class, src, ingress.slot, now);
        if ingress.remote && matches!(learned, Learned::New | Learned::Moved { .. }) {
            act.arrived(&self.arrivals, Arrival { vid: class.vid, mac: src, slot: ingress.slot });
        }
        let learning = match learned {
            Learned::Known | Learned::New | Learned::Moved { .. } => Ok(()),
            Learned::Fixed(_) => Err(Reason::FixedElsewhere),
            Learned::Full => Err(Reason::MacLimit),
            Learned::Held => Err(Reason::MacMove),
        };
        let named =
            |slot| table.get(slot).map_or("another port".to_owned(), |port| format!("port {}", port.number));
        act.step("learning", learning, || match learned {
            Learned::Known => format!("{src} is known here"),
            Learned::New => format!("{src} is new"),
            Learned::Moved { from } => format!("{src} was known at {}", named(from)),
            Learned::Fixed(slot) => format!("{src} has a static entry at {}", named(slot)),
            Learned::Full => format!("{src} is new, and the port holds {} stations", ingress.max_macs),
            Learned::Held => format!("{src} moves too often and is held elsewhere"),
        })?;
        act.mark(Stage::SwLearn);
        let flood = Flood { class, ingress: ingress.slot, isolated: ingress.isolated, only: None };
        if dst.is_group() {
            let Some(members) = &table.members else { return Ok(Verdict::Flood(flood)) };
            let only = members.only(class.vid, frame);
            act.mark(Stage::SwLookup);
            act.step("groups", Ok(()), || match only {
                Some(only) => format!("for ports that want it: {}", numbers(table, members.slots(only))),
                None => "for everybody".to_owned(),
            })?;
            return Ok(Verdict::Flood(Flood { only, ..flood }));
        }
        // Who sends to himself is here, also where that was not learned (a trace).
        let slot =
            if dst == src { Some(ingress.slot) } else { self.fdb.lookup(class.vid, dst, now.seconds()) };
        act.mark(Stage::SwLookup);
        // An entry may outlive its port by a moment: then nobody is known to have the station.
        let egress = slot.and_then(|slot| table.get(slot));
        act.step("lookup", Ok(()), || match egress {
            Some(egress) => format!("{dst} is at port {}", egress.number),
            None => format!("nobody is known to have {dst}"),
        })?;
        let Some(egress) = egress else {
            return may_flood(ingress, dst, frames, now, act).map(|()| Verdict::Flood(flood));
        };
        let way = flood.leaves_by(egress, false);
        act.step("egress", way.map(|_| ()), || format!("port {} is {}", egress.number, egress.vlan))?;
        way.map(|retag| Verdict::Unicast(egress.slot, retag))
    }

    fn update(&self, change: impl FnOnce(&mut Table<E>, &mut Vec<Weak<Port<E>>>)) {
        let mut leaving = self.leaving();
        leaving.retain(|port| port.strong_count() > 0);
        let mut table = Table::clone(&self.table.load());
        change(&mut table, &mut leaving);
        self.table.store(Arc::new(table));
    }

    fn leaving(&self) -> MutexGuard<'_, Vec<Weak<Port<E>>>> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flood {
    /// Of a frame that is sent in the name of a station behind `port`; in no VLAN that its tag does not say.
    pub fn of<E>(frame: Frame<'_>, port: &Port<E>) -> Option<Self> {
        let class = VlanRule::Transparent.classify(frame).ok()?;
        Some(Self { class, ingress: port.slot, isolated: port.isolated, only: None })
    }

    /// Of a frame of the switch's own.
    pub fn own(frame: Frame<'_>) -> Option<Self> {
        let class = VlanRule::Transparent.classify(frame).ok()?;
        Some(Self { class, ingress: NOWHERE, isolated: false, only: None })
    }

    /// Why the frame comes to nobody, if it does not.
    pub fn nobody(self) -> Reason {
        if self.only.is_some() { Reason::Snooped } else { Reason::NoEgress }
    }
}

impl<E> Table<E> {
    pub fn get(&self, slot: Slot) -> Option<&Arc<Port<E>>> {
        self.pages.get(slot.index() / PAGE)?[slot.index() % PAGE].as_ref()
    }

    pub fn ports(&self) -> impl Iterator<Item = &Arc<Port<E>>> {
        self.pages.iter().flat_map(|page| page.iter().flatten())
    }

    /// Whether multicast groups are told apart.
    pub fn snoops(&self) -> bool {
        self.members.is_some()
    }

    /// The ports a flooded frame goes out of, and its tag there.
    pub fn flood(&self, flood: Flood, reserved: bool) -> impl Iterator<Item = (&Arc<Port<E>>, Retag)> {
        let (all, some) = match flood.only {
            Some(only) => (&[][..], self.only(only)),
            None => (&self.pages[..], Slots::default()),
        };
        let all = all.iter().flat_map(|page| page.iter().flatten());
        let ports = all.chain(some.filter_map(|slot| self.get(slot)));
        ports.filter_map(move |port| Some((port, flood.leaves_by(port, reserved).ok()?)))
    }

    /// One port that a flooded frame goes out of, and its tag there.
    pub fn flood_to(&self, flood: Flood, slot: Slot) -> Option<(&Arc<Port<E>>, Retag)> {
        let port = self.get(slot)?;
        Some((port, flood.leaves_by(port, false).ok()?))
    }

    fn only(&self, only: Only) -> Slots<'_> {
        self.members.as_ref().map_or_else(Slots::default, |members| members.slots(only))
    }

    /// All ports, and the tag of a flooded frame there, or why it does not go there.
    pub fn ways(
        &self,
        flood: Flood,
        reserved: bool,
    ) -> impl Iterator<Item = (&Arc<Port<E>>, Result<Retag, Reason>)> {
        let only = flood.only.map(|only| self.only(only));
        let wants = move |slot| only.as_ref().is_none_or(|slots| slots.has(slot));
        self.ports().map(move |port| {
            let way = flood.leaves_by(port, reserved);
            (port, way.and_then(|retag| if wants(port.slot) { Ok(retag) } else { Err(Reason::Snooped) }))
        })
    }
}

impl Flood {
    /// Whether a frame may go out of one port of its VLAN, and with which tag.
    fn leaves_by<E>(&self, port: &Port<E>, reserved: bool) -> Result<Retag, Reason> {
        if port.slot == self.ingress {
            return Err(Reason::Filtered);
        }
        if let Some(reason) = port.gate.closed() {
            return Err(reason);
        }
        if self.isolated && port.isolated {
            return Err(Reason::Isolated);
        }
        if reserved && !port.bpdu {
            return Err(Reason::ReservedGroup);
        }
        port.vlan.egress(self.class).ok_or(Reason::VlanNotMember)
    }
}

/// Whether a frame may go to many.
fn may_flood<E>(
    ingress: &Port<E>,
    dst: MacAddr,
    frames: u32,
    now: Now,
    act: &mut impl Act,
) -> Result<(), Reason> {
    let outcome = ingress.storm.as_ref().map_or(Ok(()), |storm| act.storm(storm, dst, frames, now));
    act.step("storm", outcome, || match ingress.storm {
        Some(_) if outcome.is_ok() => "within the limits of what goes to many".to_owned(),
        Some(_) => "over the limit of what goes to many".to_owned(),
        None => "no limits".to_owned(),
    })
}

fn unless(wrong: bool, reason: Reason) -> Result<(), Reason> {
    if wrong { Err(reason) } else { Ok(()) }
}

/// Where frames of the switch's own come in.
const NOWHERE: Slot = Slot(u32::MAX);

/// The numbers of ports, for people.
fn numbers<E>(table: &Table<E>, slots: Slots<'_>) -> String {
    let numbers = slots.filter_map(|slot| Some(table.get(slot)?.number.to_string()));
    let numbers: Vec<_> = numbers.collect();
    if numbers.is_empty() { "none".to_owned() } else { numbers.join(",") }
}

/// For people.
fn list_of(allowed: &[impl ToString]) -> String {
    match allowed {
        [] => "no list".to_owned(),
        some => format!("of the list {}", some.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")),
    }
}

impl<E> Clone for Table<E> {
    fn clone(&self) -> Self {
        Self { pages: self.pages.clone(), own: self.own.clone(), members: self.members.clone() }
    }
}

#[cfg(test)]
#[path = "forward_tests.rs"]
pub(super) mod tests;
