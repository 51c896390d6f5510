//! VLAN rules of a port, isolation and reserved multicast, seen from the devices.

mod lab;

use lab::frames::{BROADCAST, Wire, frame, mac, only_passes, passes, payload};
use lab::{Host, Switch};

const C: u16 = 0x8100;
const S: u16 = 0x88a8;

/// A switch with TAPs of these names and options; a wire on each.
fn switch_with<'h>(host: &'h Host, taps: &[(&str, &[&str])]) -> (Switch<'h>, Vec<Wire>) {
    let switch = Switch::start(host, &["--no-listen"]);
    for (name, options) in taps {
        let mut args = vec!["addport", "tap", name];
        args.extend(*options);
        switch.ctl_ok(&args);
    }
    let wires = taps.iter().map(|(name, _)| Wire::open(host, name)).collect();
    (switch, wires)
}

#[test]
fn an_access_port_is_untagged_outside_and_tagged_inside() {
    let host = Host::new();
    let (switch, wires) = switch_with(&host, &[("acc", &["--access", "10"]), ("tr", &["--trunk", "10,20"])]);
    let [access, trunk] = [&wires[0], &wires[1]];
    let body = payload(64);
    // In untagged, out tagged with 10.
    access.send(&frame(BROADCAST, mac(1), &[], &body));
    let tagged = frame(BROADCAST, mac(1), &[(C, 10)], &body);
    assert!(trunk.receives(&tagged, lab::SOON), "{}", switch.all_drops());
    // And back, the tag taken off.
    let body = payload(64);
    trunk.send(&frame(mac(1), mac(2), &[(C, 10)], &body));
    assert!(access.receives(&frame(mac(1), mac(2), &[], &body), lab::SOON), "{}", switch.all_drops());
    // VID 20 is not the access port's business.
    let marker = frame(BROADCAST, mac(2), &[(C, 10)], &payload(64));
    let other = frame(BROADCAST, mac(2), &[(C, 20)], &payload(64));
    trunk.send(&other);
    trunk.send(&marker);
    let got = access.collect(std::time::Duration::from_millis(500));
    assert_eq!(got.len(), 1, "only the frame of VLAN 10: {got:02x?}");
    assert!(switch.fdb().iter().any(|(vid, _, port)| *vid == 10 && port == "acc"), "{:?}", switch.fdb());
}

#[test]
fn a_trunk_lets_its_vlans_in_and_no_other() {
    let host = Host::new();
    let (_switch, wires) =
        switch_with(&host, &[("tr", &["--trunk", "5-7,100", "--native", "9"]), ("any", &[])]);
    let [trunk, any] = [&wires[0], &wires[1]];
    // A station on each side: one that were on both would be held on one.
    for (station, from, to) in [(1, trunk, any), (2, any, trunk)] {
        let marker = frame(BROADCAST, mac(station), &[(C, 100)], &payload(64));
        for vid in [4, 8, 99, 4094] {
            only_passes(from, to, &marker, &frame(BROADCAST, mac(station), &[(C, vid)], &payload(64)));
        }
    }
    for vid in [5, 6, 7, 100] {
        passes(trunk, any, &frame(BROADCAST, mac(1), &[(C, vid)], &payload(64)));
    }
    // The native VLAN: untagged on the trunk, VID 9 elsewhere.
    let body = payload(64);
    trunk.send(&frame(BROADCAST, mac(1), &[], &body));
    assert!(any.receives(&frame(BROADCAST, mac(1), &[(C, 9)], &body), lab::SOON));
    let body = payload(64);
    any.send(&frame(BROADCAST, mac(2), &[(C, 9)], &body));
    assert!(trunk.receives(&frame(BROADCAST, mac(2), &[], &body), lab::SOON));
}

#[test]
fn a_trunk_without_native_drops_untagged_frames() {
    let host = Host::new();
    let (_switch, wires) = switch_with(&host, &[("tr", &["--trunk", "5"]), ("any", &[])]);
    let marker = frame(BROADCAST, mac(1), &[(C, 5)], &payload(64));
    only_passes(&wires[0], &wires[1], &marker, &frame(BROADCAST, mac(1), &[], &payload(64)));
    only_passes(&wires[1], &wires[0], &marker, &frame(BROADCAST, mac(1), &[], &payload(64)));
}

#[test]
fn isolated_ports_see_the_others_but_not_each_other() {
    let host = Host::new();
    let (switch, wires) =
        switch_with(&host, &[("i1", &["--isolated"]), ("i2", &["--isolated"]), ("up", &[])]);
    let [one, two, up] = [&wires[0], &wires[1], &wires[2]];
    let from_one = frame(BROADCAST, mac(1), &[], &payload(64));
    passes(one, up, &from_one);
    passes(up, one, &frame(BROADCAST, mac(3), &[], &payload(64)));
    // one -> two is blocked; the marker reaches two from up.
    one.send(&from_one);
    let marker = frame(BROADCAST, mac(3), &[], &payload(64));
    std::thread::sleep(std::time::Duration::from_millis(100));
    up.send(&marker);
    let got = two.collect(std::time::Duration::from_millis(500));
    assert!(got.contains(&marker) && !got.contains(&from_one), "{got:02x?}");
    switch.ctl_ok(&["setport", "i2", "--isolated", "0"]);
    passes(one, two, &frame(BROADCAST, mac(1), &[], &payload(64)));
}

#[test]
fn bad_40_reserved_multicast_stays_unless_forwarded() {
    let host = Host::new();
    let (switch, wires) = switch_with(&host, &[("t0", &[]), ("t1", &[])]);
    let marker = frame(BROADCAST, mac(1), &[], &payload(64));
    for last in [0x00, 0x01, 0x02, 0x03, 0x0e] {
        let bpdu = frame([1, 0x80, 0xc2, 0, 0, last], mac(1), &[], &payload(64));
        only_passes(&wires[0], &wires[1], &marker, &bpdu);
    }
    assert!(switch.drops("reserved-group") >= 5, "{}", switch.all_drops());
    passes(&wires[0], &wires[1], &frame([1, 0x80, 0xc2, 0, 0, 0x10], mac(1), &[], &payload(64)));
    for port in ["t0", "t1"] {
        switch.ctl_ok(&["setport", port, "--bpdu", "forward"]);
    }
    passes(&wires[0], &wires[1], &frame([1, 0x80, 0xc2, 0, 0, 0], mac(1), &[], &payload(64)));
}

#[test]
fn bad_42_a_second_tag_does_not_hop_into_another_vlan() {
    let host = Host::new();
    let ports: &[(&str, &[&str])] =
        &[("acc", &["--access", "10"]), ("v20", &["--access", "20"]), ("v10", &["--access", "10"])];
    let (switch, wires) = switch_with(&host, ports);
    let (access, victim, same) = (&wires[0], &wires[1], &wires[2]);
    for tags in [
        &[(C, 20)][..],
        &[(C, 10)],
        &[(C, 10), (C, 20)],
        &[(C, 0), (C, 20)],
        &[(S, 10), (C, 20)],
        &[(S, 0), (C, 20)],
        &[(S, 20)],
    ] {
        access.send(&frame(BROADCAST, mac(1), tags, &payload(64)));
    }
    // Behind them all: they have been judged when it arrives.
    passes(access, same, &frame(BROADCAST, mac(1), &[], &payload(64)));
    let got = victim.collect(std::time::Duration::from_millis(500));
    assert!(got.is_empty(), "hopped: {got:02x?}");
    assert_eq!(switch.drops("vlan-tagged"), 7, "{}", switch.all_drops());
}

#[test]
fn a_priority_tag_counts_as_untagged_on_an_access_port() {
    let host = Host::new();
    let (switch, wires) = switch_with(&host, &[("acc", &["--access", "10"]), ("two", &["--access", "10"])]);
    let body = payload(64);
    wires[0].send(&frame(BROADCAST, mac(1), &[(C, 0xa000)], &body));
    let got = wires[1].collect(std::time::Duration::from_millis(500));
    assert!(
        got.iter().any(|bytes| lab::frames::same_content(bytes, &frame(BROADCAST, mac(1), &[], &body))),
        "{}",
        switch.all_drops()
    );
}

#[test]
fn the_rule_of_a_running_port_can_be_changed() {
    let host = Host::new();
    let (switch, wires) = switch_with(&host, &[("t0", &[]), ("t1", &[])]);
    passes(&wires[0], &wires[1], &frame(BROADCAST, mac(1), &[(C, 30)], &payload(64)));
    switch.ctl_ok(&["setport", "t1", "--trunk", "31-40"]);
    assert_eq!(switch.port("t1")["vlan"], "trunk 31-40");
    let marker = frame(BROADCAST, mac(1), &[(C, 31)], &payload(64));
    only_passes(&wires[0], &wires[1], &marker, &frame(BROADCAST, mac(1), &[(C, 30)], &payload(64)));
    switch.ctl_ok(&["setport", "t1", "--transparent"]);
    assert_eq!(switch.port("t1")["vlan"], "transparent");
    passes(&wires[0], &wires[1], &frame(BROADCAST, mac(1), &[(C, 30)], &payload(64)));
    for bad in [
        &["--access", "0"][..],
        &["--access", "4095"],
        &["--trunk", "9-5"],
        &["--access", "1", "--trunk", "2"],
    ] {
        let mut args = vec!["setport", "t1"];
        args.extend(bad);
        let output = switch.ctl(&args);
        assert!(matches!(output.status.code(), Some(1 | 2)), "{bad:?}: {}", lab::said(&output));
        assert_eq!(switch.port("t1")["vlan"], "transparent", "nothing half-applied by {bad:?}");
    }
}
