//! Hosts that ask for everything, speak for others, or say more than anybody can listen to.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::lab::frames::{BROADCAST, frame, mac, passes, payload};
use super::lab::{Host, wait_until};
use super::{A, LIMIT, goes_to, groups, igmp, join, packet, snooping, who_gets};

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
    // Cut short, forged, and a leave of what another port has.
    let leave = report(9, &[(3, 0xef01_0203)]);
    (14..leave.len()).for_each(|len| t2.send(&leave[..len]));
    let mut wrong = leave.clone();
    wrong[44] ^= 1;
    t2.send(&wrong);
    t2.send(&leave);
    passes(t2, t1, &frame(BROADCAST, mac(9), &[], &payload(60)));
    let end = Instant::now() + Duration::from_secs(4);
    while Instant::now() < end {
        assert_eq!(who_gets(t0, &[t1], &packet(1, A)), [true]);
        std::thread::sleep(Duration::from_millis(50));
    }
}
