//! Who asks: bridges, routers, and the switch in want of one.

use std::time::{Duration, Instant};

use super::lab::frames::Wire;
use super::lab::{Host, Switch, wait_until};
use super::{A, LIMIT, NOBODY, SIX, goes_to, groups, igmp, join, packet, querier, snooping, who_gets};

/// A bridge with a TAP of the switch in it and a cable whose far end is e0; `options` of the bridge.
fn bridged(host: &Host, options: &[&str]) {
    host.ok(&["ip", "link", "add", "br0", "type", "bridge", "mcast_snooping", "1"]);
    host.ok(&["ip", "link", "add", "e1", "type", "veth", "peer", "name", "e0"]);
    host.ok(&["ip", "link", "set", "e1", "master", "br0"]);
    host.ok(&["ip", "addr", "add", "10.1.0.1/24", "dev", "br0"]);
    host.ok(&[&["ip", "link", "set", "br0", "type", "bridge"], options].concat());
    for device in ["br0", "e1", "e0"] {
        host.ok(&["ip", "link", "set", device, "up"]);
    }
}

#[test]
fn a_bridge_that_asks_is_the_querier_and_gets_what_routers_get() {
    let host = Host::new();
    let often = ["mcast_query_interval", "200", "mcast_startup_query_interval", "100"];
    bridged(&host, &[&often[..], &["mcast_query_response_interval", "100", "mcast_querier", "1"]].concat());
    let (switch, wires) = snooping(&host, &["--no-listen"], &["t1", "t2"]);
    switch.ctl_ok(&["addport", "tap", "t0", "--bridge", "br0"]);
    let [t1, t2] = &wires[..] else { unreachable!() };
    let (t0, outside) = (Wire::open(&host, "t0"), Wire::open(&host, "e0"));
    let member = join(&host, "t1", SIX);
    // In IPv6 all have addresses, and the bridge the lower one.
    wait_until("the bridge is the querier", LIMIT, || {
        let querier = querier(&switch, "ipv6");
        let address = querier["address"].as_str().is_some_and(|address| address.starts_with("fe80::"));
        address && querier["port"] == switch.port("t0")["port"]
    });
    goes_to(&outside, [t1, t2], 1, SIX, [true, false]);
    goes_to(t2, [t1, &t0], 2, "ff05::1:4", [false, true]);
    goes_to(t2, [t1, &t0], 2, SIX, [true, true]);
    drop(member);
    goes_to(&outside, [t1, t2], 1, SIX, [false, false]);
}

/// For how many seconds more the member behind a port counts.
pub fn left(switch: &Switch<'_>, group: &str) -> Option<u64> {
    let groups = groups(switch);
    let found = groups["groups"].as_array()?.iter().find(|entry| entry["group"] == group)?;
    found["ports"][0]["expires"].as_u64()
}

#[test]
fn a_router_asks_instead_of_the_switch_while_it_is_heard() {
    let host = Host::new();
    let (switch, wires) = snooping(&host, &["--no-listen"], &["t0", "t1", "t2"]);
    let [t0, t1, t2] = &wires[..] else { unreachable!() };
    let _member = join(&host, "t1", A);
    goes_to(t0, [t1, t2], 1, A, [true, false]);
    // A query of IGMPv2, to be answered within a second.
    let query = igmp(9, [10, 1, 0, 1], [224, 0, 0, 1], &[0x11, 10, 0, 0, 0, 0, 0, 0]);
    let is_believed = || querier(&switch, "ipv4")["address"] == "10.1.0.1";
    wait_until("it is believed", LIMIT, || {
        t2.send(&query);
        is_believed()
    });
    // It gets what nobody asked for; the switch keeps silent for longer than it would, and the member answers the router.
    let ours = |frame: &[u8]| frame[..6] == [0x01, 0x00, 0x5e, 0, 0, 1] && frame[26..30] == [0; 4];
    let heard = || std::iter::from_fn(|| t1.next(Instant::now())).any(|frame| ours(&frame));
    let (mut asked, mut answers) = (Instant::now(), 0);
    heard();
    let end = Instant::now() + LIMIT;
    while answers < 3 {
        assert!(Instant::now() < end, "{answers} answers without a break");
        wait_until("time goes by", LIMIT, || left(&switch, A).expect("it stays a member") <= 6);
        let now = Instant::now();
        t2.send(&query);
        wait_until("the member answers", LIMIT, || left(&switch, A) >= Some(7));
        assert_eq!(who_gets(t0, &[t2], &packet(1, NOBODY)), [true]);
        // Where the test was held up for as long as a router may be silent, nothing follows from that.
        let is_held_up = asked.elapsed() > Duration::from_secs(8);
        assert!(!heard() || is_held_up, "the switch asks as well");
        (asked, answers) = (now, if is_held_up { 0 } else { answers + 1 });
    }
    // It falls silent, and nobody goes without meanwhile.
    wait_until("the switch asks again", LIMIT, || {
        assert_eq!(who_gets(t0, &[t1], &packet(1, A)), [true]);
        querier(&switch, "ipv4")["address"].is_null()
    });
    wait_until("its questions come", LIMIT, heard);
    goes_to(t0, [t1, t2], 1, NOBODY, [false, false]);
    goes_to(t0, [t1, t2], 1, A, [true, false]);
}

#[test]
fn a_bridge_that_snoops_and_does_not_ask_learns_that_we_do() {
    let host = Host::new();
    bridged(&host, &["mcast_querier", "0"]);
    let (switch, wires) = snooping(&host, &["--no-listen"], &["t1", "t2"]);
    host.ok(&["sysctl", "-qw", "net.ipv4.conf.t1.force_igmp_version=2"]);
    switch.ctl_ok(&["addport", "tap", "t0", "--bridge", "br0"]);
    let [t1, t2] = &wires[..] else { unreachable!() };
    let outside = Wire::open(&host, "e0");
    let _member = join(&host, "t1", A);
    wait_until("the bridge has a router behind t0", LIMIT, || {
        let text = host.ok(&["bridge", "-d", "mdb", "show", "dev", "br0"]);
        text.lines().any(|line| line.contains("router") && line.contains("t0"))
    });
    // From a source behind the bridge to a member behind us, for longer than the bridge floods what it doesn't know.
    let end = Instant::now() + Duration::from_secs(6);
    while Instant::now() < end {
        goes_to(&outside, [t1, t2], 1, A, [true, false]);
        std::thread::sleep(Duration::from_millis(50));
    }
}
