//! Tests of [`super`].

use std::collections::BTreeSet;

use super::*;
use crate::frame::Vid;
use crate::frame::group::{Message, Record, Records, Says};
use crate::switch::groups::{Groups, Timers};
use crate::switch::guard::StormRates;

pub const NOW: Now = Now(Duration::from_secs(1));

pub fn switch(change: impl Fn(&mut Port<()>)) -> Switch<()> {
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
        asked: Arc::new(Policer::of_frames(1)),
        max_macs: u32::MAX,
        gate: Arc::default(),
        counters: Arc::default(),
        egress: (),
    }
}

pub fn frame(dst: &str, src: &str) -> Vec<u8> {
    let mac = |s: &str| s.parse::<MacAddr>().unwrap().octets();
    [&mac(dst)[..], &mac(src), &[0x08, 0x00], &[0; 46]].concat()
}

pub fn send(switch: &Switch<()>, slot: u32, dst: &str, src: &str) -> Verdict {
    let table = switch.table().load();
    let bytes = frame(dst, src);
    let ingress = table.get(Slot(slot)).unwrap();
    switch.forward(&table, ingress, Frame::checked(&bytes).unwrap(), 1, NOW, &mut ())
}

fn flooded(switch: &Switch<()>, verdict: Verdict) -> Vec<u32> {
    let Verdict::Flood(flood) = verdict else { panic!("{verdict:?}") };
    switch.table().load().flood(flood, false).map(|(port, _)| port.slot.0).collect()
}

pub const X: &str = "02:00:00:00:00:0a";
pub const Y: &str = "02:00:00:00:00:0b";
pub const ALL: &str = "ff:ff:ff:ff:ff:ff";

#[test]
fn unknown_floods_known_goes_to_its_port() {
    let switch = switch(|_| ());
    assert_eq!(flooded(&switch, send(&switch, 0, Y, X)), [1, 2]);
    assert_eq!(send(&switch, 1, X, Y), Verdict::Unicast(Slot(0), Retag::Keep));
    assert_eq!(send(&switch, 0, Y, X), Verdict::Unicast(Slot(1), Retag::Keep));
    assert_eq!(flooded(&switch, send(&switch, 1, ALL, Y)), [0, 2]);
}

#[test]
fn a_station_that_a_peer_brings_is_left_once_where_it_is_wanted() {
    let switch = switch(|_| ());
    let arrived = || {
        let mut arrivals = Vec::new();
        switch.arrivals.take(&mut arrivals);
        arrivals.len()
    };
    send(&switch, 2, ALL, X);
    assert_eq!(arrived(), 0, "nobody asked");
    switch.arrivals.want(true);
    (0..2).for_each(|_| _ = send(&switch, 2, ALL, Y));
    send(&switch, 0, ALL, "02:00:00:00:00:0c");
    assert_eq!(arrived(), 1);
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
    switch.forward(&before, before.get(Slot(1)).unwrap(), Frame::checked(&bytes).unwrap(), 1, NOW, &mut ());
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
fn a_change_copies_no_page_but_its_own() {
    let switch = Switch::new(Fdb::new(64, 300, [1, 2]));
    let page = PAGE as u32;
    [0, page - 1, page, 3 * page].into_iter().for_each(|slot| switch.put(port(slot)));
    let before = switch.table().load_full();
    switch.put(port(3 * page + 1));
    switch.remove(Slot(page));
    let after = switch.table().load_full();
    let same = before.pages.iter().zip(&after.pages).map(|(one, other)| Arc::ptr_eq(one, other));
    assert_eq!(same.collect::<Vec<_>>(), [true, false, true, false]);
    let slots = |table: &Table<()>| table.ports().map(|port| port.slot.0).collect::<Vec<_>>();
    assert_eq!(slots(&before), [0, page - 1, page, 3 * page]);
    assert_eq!(slots(&after), [0, page - 1, 3 * page, 3 * page + 1]);
    let there = |slot| after.get(Slot(slot)).is_some();
    assert!(there(page - 1) && !there(page) && there(3 * page + 1) && !there(4 * page));
    assert_eq!(switch.free_slot(), Some(Slot(1)));
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
    assert_eq!(send(&switch, 1, Y, X), Verdict::Drop(Reason::LoopBlocked), "nor does anything leave there");
    gate(Gate::set_shut, true);
    assert_eq!(send(&switch, 0, group, X), Verdict::Drop(Reason::PortShut));
}

#[test]
fn access_ports_of_two_vlans_do_not_meet() {
    let switch = switch(|port| port.vlan = VlanRule::Access(Vid::new(10 + port.slot.0 as u16 % 2).unwrap()));
    assert_eq!(flooded(&switch, send(&switch, 0, ALL, X)), [2]);
    assert_eq!(flooded(&switch, send(&switch, 1, X, Y)), [0u32; 0]);
}

#[test]
fn multicast_goes_to_who_wants_it_and_a_trace_says_so() {
    let switch = switch(|_| ());
    let mut groups = Groups::new(Timers { interval: Duration::from_secs(4) }, MacAddr::BROADCAST);
    for second in 0..7 {
        let up = (1..4).map(|port| (port, 1));
        groups.tick(Duration::from_secs(second), up, |_, _| true, Some(&BTreeSet::from([0])));
    }
    let record = Record { group: [239, 1, 2, 3].into(), says: Says::Member { mute: false } };
    let report = Message::Report(Records::One(Some(record)));
    groups.hear(0, (3, true), MacAddr::ZERO, report, Duration::from_secs(6));
    switch.set_members(groups.news(|port| Some(Slot(port - 1))).map(Arc::new));
    let table = switch.table().load();
    let packet = |[a, b, c, d]: [u8; 4]| {
        let head = [&[1, 0, 0x5e, b, c, d, 2, 0, 0, 0, 0, 0x0a, 8, 0, 0x45][..], &[0; 15]].concat();
        [&head[..], &[a, b, c, d], &[0; 26]].concat()
    };
    for (to, ingress, want, nobody) in [
        ([239, 1, 2, 3], 0, &[2][..], Reason::Snooped),
        ([239, 1, 2, 3], 2, &[], Reason::Snooped),
        ([239, 1, 2, 4], 0, &[], Reason::Snooped),
        ([224, 0, 0, 251], 0, &[1, 2], Reason::NoEgress),
    ] {
        let bytes = packet(to);
        let (ingress, frame) = (table.get(Slot(ingress)).unwrap(), Frame::checked(&bytes).unwrap());
        let verdict = switch.forward(&table, ingress, frame, 1, NOW, &mut ());
        assert_eq!(flooded(&switch, verdict), want, "{to:?}");
        let Verdict::Flood(flood) = verdict else { panic!("{verdict:?}") };
        assert_eq!(flood.nobody(), nobody);
        let traced = switch.trace(&table, ingress, frame, 1, NOW);
        let goes = traced.ways.iter().filter(|(_, way)| way.is_ok()).map(|(slot, _)| slot.0);
        assert_eq!((traced.verdict, goes.collect::<Vec<_>>()), (Some(verdict), want.to_vec()));
        assert_eq!(traced.steps.last().map(|step| step.check), Some("groups"));
    }
    assert_eq!(flooded(&switch, send(&switch, 0, ALL, X)), [1, 2]);
}

#[test]
fn bad_41_what_is_behind_two_tags_or_one_of_802_1ad_is_flooded_while_groups_are_told_apart() {
    let switch = switch(|_| ());
    let mut groups = Groups::new(Timers { interval: Duration::from_secs(4) }, MacAddr::BROADCAST);
    for second in 0..7 {
        let up = (1..4).map(|port| (port, 1));
        groups.tick(Duration::from_secs(second), up, |_, _| true, Some(&BTreeSet::from([0, 7])));
    }
    switch.set_members(groups.news(|port| Some(Slot(port - 1))).map(Arc::new));
    let table = switch.table().load();
    let packet =
        [&[1, 0, 0x5e, 1, 2, 3, 2, 0, 0, 0, 0, 0x0a, 8, 0, 0x45][..], &[0; 15], &[239, 1, 2, 3], &[0; 26]];
    // A report of IGMPv2 to the same group.
    let report = {
        let head = [&[1, 0, 0x5e, 1, 2, 3, 2, 0, 0, 0, 0, 0x0a, 8, 0, 0x45][..], &[0; 8], &[2]].concat();
        [&head[..], &[0; 6], &[239, 1, 2, 3, 0x16, 0, 0, 0, 239, 1, 2, 3]].concat()
    };
    for frame in [packet.concat(), report] {
        for (tags, want) in [
            (&[0x81, 0, 0, 7][..], &[][..]),
            (&[0x88, 0xa8, 0, 7], &[1, 2]),
            (&[0x88, 0xa8, 0, 7, 0x81, 0, 0, 7], &[1, 2]),
            (&[0x81, 0, 0, 7, 0x81, 0, 0, 7], &[1, 2]),
        ] {
            let bytes = [&frame[..12], tags, &frame[12..]].concat();
            let (ingress, frame) = (table.get(Slot(0)).unwrap(), Frame::checked(&bytes).unwrap());
            let verdict = switch.forward(&table, ingress, frame, 1, NOW, &mut ());
            assert_eq!(flooded(&switch, verdict), want, "{tags:x?}");
        }
    }
}
