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
use super::guard::{Gate, Policer, Storm, loops};
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
    /// Stations that may be learned.
    pub max_macs: u32,
    pub gate: Arc<Gate>,
    pub counters: Arc<Counters>,
    pub egress: E,
}

/// All ports at one moment.
#[derive(Debug)]
pub struct Table<E> {
    slots: Vec<Option<Arc<Port<E>>>>,
    /// MAC addresses of this host's own devices, sorted.
    own: Vec<MacAddr>,
}

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
        let table = ArcSwap::from_pointee(Table { slots: Vec::new(), own: Vec::new() });
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
            let index = port.slot.index();
            if table.slots.len() <= index {
                table.slots.resize_with(index + 1, || None);
            }
            // Whoever still reads the one before keeps the slot from being given away, as after `remove`.
            leaving.extend(table.slots[index].replace(Arc::new(port)).map(|before| Arc::downgrade(&before)));
        });
    }

    /// Empties a slot and forgets its stations. The slot is free when the last reader is done with the
    /// port.
    pub fn remove(&self, slot: Slot) {
        self.update(|table, leaving| {
            if let Some(port) = table.slots.get_mut(slot.index()).and_then(Option::take) {
                leaving.push(Arc::downgrade(&port));
            }
        });
        self.fdb.forget_port(slot);
    }

    /// The MAC addresses of this host's own devices.
    pub fn set_own(&self, mut own: Vec<MacAddr>) {
        own.sort_unstable();
        self.update(|table, _| table.own = own);
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
        match self.judge(table, ingress, frame, frames, now, probe) {
            Ok(verdict) => verdict,
            Err(reason) => Verdict::Drop(reason),
        }
    }

    /// Whether a frame looks like a probe of our own loop guard; only [`loops::LoopGuard`] knows.
    pub fn is_own_probe(&self, frame: Frame<'_>) -> bool {
        frame.dst() == loops::GROUP && Some(frame.src()) == self.probe_source
    }

    fn judge(
        &self,
        table: &Table<E>,
        ingress: &Port<E>,
        frame: Frame<'_>,
        frames: u32,
        now: Now,
        probe: &mut impl Probe,
    ) -> Result<Verdict, Reason> {
        let (src, dst) = (frame.src(), frame.dst());
        if let Some(reason) = ingress.gate.closed() {
            let is_probe = reason == Reason::LoopBlocked && self.is_own_probe(frame);
            return Err(if is_probe { Reason::LoopProbe } else { reason });
        }
        if self.is_own_probe(frame) {
            return Err(Reason::LoopProbe);
        }
        if src.is_group() || src.is_zero() {
            return Err(Reason::BadSource);
        }
        if !ingress.macs.is_empty() && !ingress.macs.contains(&src) {
            return Err(Reason::SourceNotAllowed);
        }
        if ingress.remote && table.own.binary_search(&src).is_ok() {
            return Err(Reason::OwnSource);
        }
        let bits = || frame.bytes().len() as u64 * 8;
        if ingress.rate.as_ref().is_some_and(|rate| !rate.admits(bits(), now.0)) {
            return Err(Reason::RateLimit);
        }
        if !ingress.ethertypes.is_empty() && !ingress.ethertypes.contains(&frame.inner_ethertype()) {
            return Err(Reason::EthertypeNotAllowed);
        }
        let class = ingress.vlan.classify(frame)?;
        if dst.is_reserved() && !ingress.bpdu {
            return Err(Reason::ReservedGroup);
        }
        let may_flood = || ingress.storm.as_ref().map_or(Ok(()), |storm| storm.admits(dst, frames, now.0));
        if dst.is_group() {
            // Before it is learned: a storm is to cost as little as can be.
            may_flood()?;
        }
        probe.mark(Stage::SwParse);
        match self.fdb.learn(class.vid, src, ingress.slot, now.seconds()) {
            Learned::New | Learned::Moved { .. } if ingress.remote => {
                self.arrivals.put(Arrival { vid: class.vid, mac: src, slot: ingress.slot });
            }
            Learned::Known | Learned::New | Learned::Moved { .. } => (),
            Learned::Fixed(_) => return Err(Reason::FixedElsewhere),
            Learned::Full => return Err(Reason::MacLimit),
            Learned::Held => return Err(Reason::MacMove),
        }
        probe.mark(Stage::SwLearn);
        let flood = Flood { class, ingress: ingress.slot, isolated: ingress.isolated };
        if dst.is_group() {
            return Ok(Verdict::Flood(flood));
        }
        let slot = self.fdb.lookup(class.vid, dst, now.seconds());
        probe.mark(Stage::SwLookup);
        let Some(slot) = slot else { return may_flood().map(|()| Verdict::Flood(flood)) };
        if slot == ingress.slot {
            return Err(Reason::Filtered);
        }
        // An entry may outlive its port by a moment: then nobody is known to have the station.
        let Some(egress) = table.get(slot) else { return may_flood().map(|()| Verdict::Flood(flood)) };
        if let Some(reason) = egress.gate.closed() {
            return Err(reason);
        }
        if ingress.isolated && egress.isolated {
            return Err(Reason::Isolated);
        }
        let retag = egress.vlan.egress(class).ok_or(Reason::VlanNotMember)?;
        Ok(Verdict::Unicast(slot, retag))
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
        Some(Self { class, ingress: port.slot, isolated: port.isolated })
    }
}

impl<E> Table<E> {
    pub fn get(&self, slot: Slot) -> Option<&Arc<Port<E>>> {
        self.slots.get(slot.index())?.as_ref()
    }

    pub fn ports(&self) -> impl Iterator<Item = &Arc<Port<E>>> {
        self.slots.iter().flatten()
    }

    /// The ports a flooded frame goes out of, and its tag there.
    pub fn flood(&self, flood: Flood, reserved: bool) -> impl Iterator<Item = (&Arc<Port<E>>, Retag)> {
        self.ports().filter_map(move |port| {
            let out = port.slot == flood.ingress
                || port.gate.closed().is_some()
                || flood.isolated && port.isolated
                || reserved && !port.bpdu;
            if out { None } else { port.vlan.egress(flood.class).map(|retag| (port, retag)) }
        })
    }
}

impl<E> Clone for Table<E> {
    fn clone(&self) -> Self {
        Self { slots: self.slots.clone(), own: self.own.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Vid;
    use crate::switch::guard::StormRates;

    const NOW: Now = Now(Duration::from_secs(1));

    fn switch(change: impl Fn(&mut Port<()>)) -> Switch<()> {
        let switch = Switch::new(Fdb::new(64, 300, [1, 2]));
        for slot in 0..3 {
            let mut port = port(slot);
            change(&mut port);
            switch.put(port);
        }
        switch
    }

    fn port(slot: u32) -> Port<()> {
        Port {
            slot: Slot(slot),
            number: slot + 1,
            vlan: VlanRule::Transparent,
            isolated: false,
            bpdu: false,
            macs: Vec::new(),
            remote: slot == 2,
            rate: None,
            ethertypes: Vec::new(),
            storm: None,
            heard: Arc::new(Policer::of_frames(1)),
            max_macs: u32::MAX,
            gate: Arc::default(),
            counters: Arc::default(),
            egress: (),
        }
    }

    fn frame(dst: &str, src: &str) -> Vec<u8> {
        let mac = |s: &str| s.parse::<MacAddr>().unwrap().octets();
        [&mac(dst)[..], &mac(src), &[0x08, 0x00], &[0; 46]].concat()
    }

    fn send(switch: &Switch<()>, slot: u32, dst: &str, src: &str) -> Verdict {
        let table = switch.table().load();
        let bytes = frame(dst, src);
        let ingress = table.get(Slot(slot)).unwrap();
        switch.forward(&table, ingress, Frame::checked(&bytes).unwrap(), 1, NOW, &mut ())
    }

    fn flooded(switch: &Switch<()>, verdict: Verdict) -> Vec<u32> {
        let Verdict::Flood(flood) = verdict else { panic!("{verdict:?}") };
        switch.table().load().flood(flood, false).map(|(port, _)| port.slot.0).collect()
    }

    const X: &str = "02:00:00:00:00:0a";
    const Y: &str = "02:00:00:00:00:0b";
    const ALL: &str = "ff:ff:ff:ff:ff:ff";

    #[test]
    fn unknown_floods_known_goes_to_its_port() {
        let switch = switch(|_| ());
        assert_eq!(flooded(&switch, send(&switch, 0, Y, X)), [1, 2]);
        assert_eq!(send(&switch, 1, X, Y), Verdict::Unicast(Slot(0), Retag::Keep));
        assert_eq!(send(&switch, 0, Y, X), Verdict::Unicast(Slot(1), Retag::Keep));
        assert_eq!(flooded(&switch, send(&switch, 1, ALL, Y)), [0, 2]);
    }

    #[test]
    fn bad_35_a_frame_for_its_own_port_is_filtered() {
        let switch = switch(|_| ());
        send(&switch, 0, ALL, X);
        assert_eq!(send(&switch, 0, X, Y), Verdict::Drop(Reason::Filtered));
    }

    #[test]
    fn bad_34_36_sources_that_cannot_be() {
        let switch = switch(|_| ());
        switch.set_own(vec![Y.parse().unwrap()]);
        for (slot, src, reason) in [
            (0, "01:00:5e:00:00:01", Reason::BadSource),
            (0, "00:00:00:00:00:00", Reason::BadSource),
            (2, Y, Reason::OwnSource),
        ] {
            assert_eq!(send(&switch, slot, ALL, src), Verdict::Drop(reason), "{src}");
        }
        assert!(switch.fdb.stations(1).is_empty(), "nothing was learned");
        assert_eq!(flooded(&switch, send(&switch, 0, ALL, Y)), [1, 2], "its own port may use it");
    }

    #[test]
    fn bad_40_reserved_groups_pass_only_when_told() {
        let bpdu = "01:80:c2:00:00:00";
        let closed = switch(|_| ());
        assert_eq!(send(&closed, 0, bpdu, X), Verdict::Drop(Reason::ReservedGroup));
        let open = switch(|port| port.bpdu = port.slot.0 != 1);
        let Verdict::Flood(flood) = send(&open, 0, bpdu, X) else { panic!() };
        let out: Vec<_> = open.table().load().flood(flood, true).map(|(p, _)| p.slot.0).collect();
        assert_eq!(out, [2], "not to a port that keeps them out");
    }

    #[test]
    fn a_slot_is_not_given_away_under_a_batch_that_still_uses_it() {
        let switch = switch(|_| ());
        let before = switch.table().load();
        switch.remove(Slot(1));
        assert_eq!(switch.free_slot(), Some(Slot(3)));
        // The batch learns for the port that it knows.
        let bytes = frame(ALL, X);
        switch.forward(
            &before,
            before.get(Slot(1)).unwrap(),
            Frame::checked(&bytes).unwrap(),
            1,
            NOW,
            &mut (),
        );
        drop(before);
        assert_eq!(switch.free_slot(), Some(Slot(1)));
        assert_eq!(switch.fdb.lookup(0, X.parse().unwrap(), 1), None);
    }

    #[test]
    fn nor_when_the_port_was_changed_before_it_was_removed() {
        let switch = switch(|_| ());
        let before = switch.table().load();
        switch.put(port(1));
        switch.remove(Slot(1));
        assert_eq!(switch.free_slot(), Some(Slot(3)));
        drop(before);
        assert_eq!(switch.free_slot(), Some(Slot(1)));
        (0..100).for_each(|_| switch.put(port(2)));
        assert!(switch.leaving().len() <= 1, "what nobody reads is not kept");
    }

    #[test]
    fn isolated_ports_meet_only_the_others() {
        let switch = switch(|port| port.isolated = port.slot.0 < 2);
        assert_eq!(flooded(&switch, send(&switch, 0, ALL, X)), [2]);
        send(&switch, 1, ALL, Y);
        assert_eq!(send(&switch, 0, Y, X), Verdict::Drop(Reason::Isolated));
        assert_eq!(flooded(&switch, send(&switch, 2, ALL, "02:00:00:00:00:0c")), [0, 1]);
    }

    #[test]
    fn a_shut_port_neither_sends_nor_receives() {
        let switch = switch(|_| ());
        send(&switch, 0, ALL, X);
        switch.table().load().get(Slot(0)).unwrap().gate.set_shut(true);
        assert_eq!(send(&switch, 0, ALL, X), Verdict::Drop(Reason::PortShut));
        assert_eq!(send(&switch, 1, X, Y), Verdict::Drop(Reason::PortShut));
        assert_eq!(flooded(&switch, send(&switch, 1, ALL, Y)), [2]);
    }

    #[test]
    fn a_mac_list_lets_in_only_those() {
        let switch = switch(|port| port.macs = vec![X.parse().unwrap()]);
        assert_eq!(send(&switch, 0, ALL, Y), Verdict::Drop(Reason::SourceNotAllowed));
        assert_eq!(flooded(&switch, send(&switch, 0, ALL, X)), [1, 2]);
    }

    #[test]
    fn bad_39_a_storm_is_limited_and_unicast_passes() {
        let one = StormRates { broadcast: Some(1), multicast: Some(1), unknown: Some(1) };
        let switch = switch(|port| port.storm = Some(Arc::new(Storm::new(one))));
        send(&switch, 1, ALL, Y);
        for (dst, reason) in [
            (ALL, Reason::StormBroadcast),
            ("01:00:5e:00:00:01", Reason::StormMulticast),
            ("02:00:00:00:00:99", Reason::StormUnknown),
        ] {
            let verdicts: Vec<_> = (0..10).map(|_| send(&switch, 0, dst, X)).collect();
            let dropped = verdicts.iter().filter(|verdict| **verdict == Verdict::Drop(reason)).count();
            assert_eq!(dropped, 7, "{dst}: two seconds' worth and the frame that reaches it pass");
            assert_eq!(send(&switch, 0, Y, X), Verdict::Unicast(Slot(1), Retag::Keep));
        }
        assert_eq!(flooded(&switch, send(&switch, 1, ALL, Y)), [0, 2], "each port has limits of its own");
    }

    #[test]
    fn only_the_ethertypes_of_the_list_come_in_tagged_or_not() {
        let switch = switch(|port| port.ethertypes = vec![EtherType(0x0806)]);
        let table = switch.table().load();
        let verdict = |types: &[u16]| {
            let types: Vec<u8> = types.iter().flat_map(|t| [t.to_be_bytes(), [0, 1]].concat()).collect();
            let bytes = [&frame(ALL, X)[..12], &types, &[0; 46]].concat();
            let frame = Frame::checked(&bytes).unwrap();
            switch.forward(&table, table.get(Slot(0)).unwrap(), frame, 1, NOW, &mut ())
        };
        for types in [&[0x0806][..], &[0x8100, 0x0806], &[0x88a8, 0x8100, 0x0806]] {
            assert!(matches!(verdict(types), Verdict::Flood(_)), "{types:x?}");
        }
        for types in [&[0x0800][..], &[0x8100, 0x86dd], &[0x8100, 0x8100, 0x8100, 0x0806]] {
            assert_eq!(verdict(types), Verdict::Drop(Reason::EthertypeNotAllowed), "{types:x?}");
        }
    }

    #[test]
    fn a_probe_of_ours_is_never_forwarded_and_anybody_elses_is() {
        let mut switch = switch(|_| ());
        switch.probe_source = Some(X.parse().unwrap());
        let group = &loops::GROUP.to_string();
        let gate = |bit: fn(&Gate, bool), on| bit(&switch.table().load().get(Slot(0)).unwrap().gate, on);
        assert_eq!(send(&switch, 0, group, X), Verdict::Drop(Reason::LoopProbe));
        assert_eq!(flooded(&switch, send(&switch, 0, group, Y)), [1, 2]);
        gate(Gate::set_blocked, true);
        assert_eq!(send(&switch, 0, group, X), Verdict::Drop(Reason::LoopProbe));
        assert_eq!(send(&switch, 0, ALL, X), Verdict::Drop(Reason::LoopBlocked));
        assert_eq!(
            send(&switch, 1, Y, X),
            Verdict::Drop(Reason::LoopBlocked),
            "nor does anything leave there"
        );
        gate(Gate::set_shut, true);
        assert_eq!(send(&switch, 0, group, X), Verdict::Drop(Reason::PortShut));
    }

    #[test]
    fn access_ports_of_two_vlans_do_not_meet() {
        let switch =
            switch(|port| port.vlan = VlanRule::Access(Vid::new(10 + port.slot.0 as u16 % 2).unwrap()));
        assert_eq!(flooded(&switch, send(&switch, 0, ALL, X)), [2]);
        assert_eq!(flooded(&switch, send(&switch, 1, X, Y)), [0u32; 0]);
    }
}
