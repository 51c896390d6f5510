//! Hosts that ask for everything, speak for others, or say more than anybody can listen to.

use std::time::Instant;

use serde_json::Value;

use super::lab::frames::{BROADCAST, Wire, frame, mac, passes, payload};
use super::lab::{Host, Switch, wait_until};
use super::queriers::left;
use super::{A, B, LIMIT, NOBODY, goes_to, groups, igmp, join, members, packet, snooping, tap, who_gets};

/// A report of IGMPv3 with these records, as (type, group).
fn report(station: u32, records: &[(u8, u32)]) -> Vec<u8> {
    let mut message = vec![0x22, 0, 0, 0, 0, 0, 0, records.len() as u8];
    for (kind, group) in records {
        message.extend([*kind, 0, 0, 0]);
        message.extend(group.to_be_bytes());
    }
    igmp(station, [10, 9, 0, 9], [224, 0, 0, 22], &message)
}

#[test]
fn bad_37_whoever_asks_for_everything_or_speaks_for_others_costs_nobody_else() {
    let host = Host::new();
    let (switch, wires) = snooping(&host, &["--no-listen"], &["t0", "t1", "t2", "t3"]);
    let [t0, t1, t2, t3] = &wires[..] else { unreachable!() };
    let _member = join(&host, "t1", A);
    goes_to(t0, [t1, t2, t3], 1, A, [true, false, false]);
    // A hundred thousand groups from one port.
    let mut asked = 0xef80_0000;
    while asked < 0xef80_0000 + 100_000 {
        let records: Vec<_> = (asked..asked + 180).map(|group| (4, group)).collect();
        t3.send(&report(9, &records));
        asked += 180;
    }
    let name = |port: &Value| port["name"].as_str().map(str::to_owned);
    wait_until("it gets everything", LIMIT, || {
        let full: Vec<_> =
            groups(&switch)["full"].as_array().into_iter().flatten().filter_map(name).collect();
        full == ["t3"]
    });
    let of_t3 = |groups: &Value| {
        let all = groups["groups"].as_array().expect("groups").iter();
        all.filter(|group| {
            group["ports"].as_array().is_some_and(|ports| ports.iter().any(|p| p["name"] == "t3"))
        })
        .count()
    };
    assert_eq!(of_t3(&groups(&switch)), 1_024);
    goes_to(t0, [t1, t2, t3], 1, A, [true, false, true]);
}

#[test]
fn bad_37_what_is_malformed_or_said_for_others_ends_nothing() {
    let host = Host::new();
    // Nobody is forgotten or asked again but for what is said here.
    let switch = Switch::start(&host, &["--snoop", "--snoop-interval", "3600", "--no-listen"]);
    let [t1, t2] = ["t1", "t2"].map(|name| tap(&host, &switch, name));
    let _members = [join(&host, "t1", A), join(&host, "t1", B)];
    wait_until("both are known", LIMIT, || [A, B].map(|group| members(&switch, group)) == [["t1"], ["t1"]]);
    let expires = || left(&switch, A).expect("a member");
    let before = expires();
    // Cut short, forged, and a leave of what another port has.
    let leave = report(9, &[(3, 0xef01_0203)]);
    let mut wrong = leave.clone();
    wrong[39] ^= 1;
    for wire in [&t1, &t2] {
        (14..leave.len()).for_each(|len| wire.send(&leave[..len]));
        wire.send(&wrong);
    }
    t2.send(&leave);
    passes(&t2, &t1, &frame(BROADCAST, mac(9), &[], &payload(60)));
    // A leave that counts comes behind all of it: it is asked about, and nothing was before. That host answers.
    let asks = |frame: &[u8], group: [u8; 4]| frame.len() > 42 && frame[38] == 0x11 && frame[42..46] == group;
    let mut asked = Vec::new();
    wait_until("it is asked about B", LIMIT, || {
        t1.send(&report(9, &[(3, 0xef01_0204)]));
        let frames = || std::iter::from_fn(|| t1.next(Instant::now()));
        asked.extend(
            frames().filter(|frame| [[239, 1, 2, 3], [239, 1, 2, 4]].iter().any(|group| asks(frame, *group))),
        );
        !asked.is_empty()
    });
    assert!(asked.iter().all(|frame| asks(frame, [239, 1, 2, 4])), "{asked:02x?}");
    assert!(members(&switch, A) == ["t1"] && before - expires() < 600, "{before}");
}

#[test]
fn bad_37_where_more_is_said_than_can_be_heard_nobody_goes_without() {
    let host = Host::new();
    let (switch, wires) = snooping(&host, &["--no-listen"], &["t0", "t1", "t2", "t3"]);
    let [t0, t1, t2, t3] = &wires[..] else { unreachable!() };
    let _member = join(&host, "t1", A);
    goes_to(t0, [t1, t2, t3], 1, A, [true, false, false]);
    goes_to(t0, [t1, t2, t3], 1, NOBODY, [false; 3]);
    // One thing over and over. Among it somebody else may have said something.
    let said = report(9, &[(4, 0xef09_0909)]);
    wait_until("the port gets everything", LIMIT, || {
        (0..1_000).for_each(|_| t3.send(&said));
        who_gets(t0, &[t3], &packet(1, NOBODY)) == [true]
    });
    let counters = switch.entries("listCounters");
    let unheard = |port: &&Value| port["name"] == "t3" && port["unheard"].as_u64() > Some(0);
    assert!(counters.iter().any(|port| unheard(&port)), "{counters:?}");
    // It is asked, and settles.
    let _late = join(&host, "t3", B);
    goes_to(t0, [t1, t2, t3], 1, NOBODY, [false; 3]);
    goes_to(t0, [t1, t2, t3], 1, B, [false, false, true]);
    goes_to(t0, [t1, t2, t3], 1, A, [true, false, false]);
}

#[test]
fn bad_39_what_a_limit_drops_of_it_is_asked_for_again() {
    let host = Host::new();
    let (switch, wires) = snooping(&host, &["--no-listen"], &["t0", "t1"]);
    let [t0, t1] = &wires[..] else { unreachable!() };
    switch.ctl_ok(&["addport", "tap", "t3", "--storm", "multicast=1"]);
    host.ok(&["sysctl", "-qw", "net.ipv6.conf.t3.disable_ipv6=1"]);
    let t3 = Wire::open(&host, "t3");
    goes_to(t0, [t1, &t3], 1, NOBODY, [false; 2]);
    let said = report(9, &[(4, 0xef09_0909)]);
    wait_until("the port gets everything", LIMIT, || {
        (0..20).for_each(|_| t3.send(&said));
        who_gets(t0, &[&t3], &packet(1, NOBODY)) == [true]
    });
    goes_to(t0, [t1, &t3], 1, NOBODY, [false; 2]);
}

#[test]
fn bad_37_a_report_that_is_too_long_to_be_read_is_not_passed_over() {
    let host = Host::new();
    let (_switch, wires) = snooping(&host, &["--no-listen"], &["t0", "t1", "t3"]);
    let [t0, t1, t3] = &wires[..] else { unreachable!() };
    host.ok(&["ip", "link", "set", "t3", "mtu", "9000"]);
    goes_to(t0, [t1, t3], 1, NOBODY, [false; 2]);
    let records: Vec<_> = (0..200).map(|n| (4, 0xef80_0000 + n)).collect();
    wait_until("the port gets everything", LIMIT, || {
        t3.send(&report(9, &records));
        who_gets(t0, &[t3], &packet(1, NOBODY)) == [true]
    });
    goes_to(t0, [t1, t3], 1, NOBODY, [false; 2]);
}
