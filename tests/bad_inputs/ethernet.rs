//! Frames that are none, or lie: 30 to 43 of the list.

use std::time::{Duration, Instant};

use crate::lab::frames::{BROADCAST, Wire, frame, mac, mac_text, only_passes, passes, payload};
use crate::lab::switch::TwoHosts;
use crate::lab::ws::BINARY;
use crate::lab::{SOON, wait_until};
use crate::target::Target;

#[test]
fn bad_30_31_short_frames() {
    let hosts = TwoHosts::new();
    let target = Target::new(&hosts, &[]);
    let mut peer = target.open();
    for len in 0..14 {
        peer.send(BINARY, &vec![2; len]);
    }
    for len in [0, 1, 20, 45] {
        let sent = frame(BROADCAST, mac(1), &[], &payload(60)[..len]);
        peer.send(BINARY, &sent);
        assert!(target.wire.receives(&sent, SOON), "{len} bytes behind the header, as it is");
    }
    assert_eq!(target.switch.drops("runt"), 14);
}

#[test]
fn bad_32_larger_than_the_egress_mtu() {
    let hosts = TwoHosts::new();
    let mut target = Target::new(&hosts, &[]);
    let mut peer = target.open();
    for len in [1600, 9000, 65_000, 65_583] {
        peer.send(BINARY, &frame(BROADCAST, mac(1), &[], &payload(len)));
    }
    let small = frame(BROADCAST, mac(1), &[], &payload(60));
    peer.send(BINARY, &small);
    let mut got = Vec::new();
    wait_until("the small one arrives", SOON, || {
        got.extend(target.wire.collect(Duration::from_millis(200)));
        got.contains(&small)
    });
    assert_eq!((target.switch.state("t0").as_str(), target.switch.drops("too-big")), ("up", 4));
    assert!(
        got.iter().all(|bytes| bytes.len() <= 1518),
        "{:?}",
        got.iter().map(Vec::len).collect::<Vec<_>>()
    );
    target.lives();
}

#[test]
fn bad_34_36_sources_that_cannot_be() {
    let hosts = TwoHosts::new();
    let target = Target::new(&hosts, &[]);
    let mut peer = target.open();
    let own = target.switch.entries("listInterface")[0]["mac"].as_str().expect("the TAP's MAC").to_owned();
    let mut tap = [0; 6];
    for (byte, text) in tap.iter_mut().zip(own.split(':')) {
        *byte = u8::from_str_radix(text, 16).expect("hex");
    }
    for source in [[0; 6], BROADCAST, [1, 0, 0x5e, 1, 2, 3], [3, 2, 2, 2, 2, 2], tap] {
        let bad = frame(BROADCAST, source, &[], &payload(60));
        let marker = frame(BROADCAST, mac(1), &[], &payload(60));
        peer.send(BINARY, &bad);
        peer.send(BINARY, &marker);
        let deadline = Instant::now() + SOON;
        loop {
            let got = target.wire.next(deadline).expect("the marker");
            assert_ne!(got, bad, "from {source:02x?}");
            if got == marker {
                break;
            }
        }
        let text = mac_text(source);
        let learned = target.switch.fdb().into_iter().any(|(_, mac, port)| mac == text && port != "t0");
        assert!(!learned, "{text} was learned: {:?}", target.switch.fdb());
    }
    assert_eq!((target.switch.drops("bad-source"), target.switch.drops("own-source")), (4, 1));
}

#[test]
fn bad_35_37_filtering_and_flooding_by_many_sources() {
    let hosts = TwoHosts::new();
    let target = Target::new(&hosts, &["--fdb-limit", "256"]);
    target.switch.ctl_ok(&["addport", "tap", "t1"]);
    let other = Wire::open(&hosts.b, "t1");
    passes(&other, &target.wire, &frame(BROADCAST, mac(1), &[], &payload(60)));
    let mut peer = target.open();
    for number in 0..20_000 {
        peer.send(BINARY, &frame(mac(1), mac(100_000 + number), &[], &payload(46)));
    }
    let sent = frame(BROADCAST, mac(2), &[], &payload(60));
    peer.send(BINARY, &sent);
    wait_until("the flood is through", SOON, || target.wire.receives(&sent, Duration::from_secs(1)));
    let fdb = target.switch.fdb();
    assert!(fdb.len() <= 256, "{}", fdb.len());
    assert!(fdb.contains(&(0, mac_text(mac(1)), "t1".to_owned())), "the other port's entry stays");
    let leak = frame(mac(1), mac(2), &[], &payload(60));
    peer.send(BINARY, &leak);
    let marker = frame(BROADCAST, mac(2), &[], &payload(60));
    peer.send(BINARY, &marker);
    let got = target.wire.collect(Duration::from_millis(500));
    assert!(got.contains(&marker) && !got.contains(&leak), "unicast of others leaks");
    only_passes(
        &other,
        &target.wire,
        &frame(BROADCAST, mac(1), &[], &payload(60)),
        &frame(mac(1), mac(1), &[], &payload(60)),
    );
    assert!(target.switch.drops("filtered") > 0, "{}", target.switch.all_drops());
}

#[test]
fn bad_41_truncated_and_stacked_tags() {
    let hosts = TwoHosts::new();
    let mut target = Target::new(&hosts, &[]);
    let mut peer = target.open();
    let start = frame(BROADCAST, mac(1), &[], &[]);
    for tpid in [[0x81, 0x00], [0x88, 0xa8]] {
        for rest in 0..8 {
            let mut bytes = start[..12].to_vec();
            bytes.extend(tpid);
            bytes.extend(&[0x0f, 0xff, 0x81, 0x00, 0x0f, 0xff, 0x81, 0x00][..rest]);
            peer.send(BINARY, &bytes);
        }
    }
    for tags in [&[(0x8100, 1); 3][..], &[(0x88a8, 0), (0x8100, 0)]] {
        let sent = frame(BROADCAST, mac(1), tags, &payload(60));
        peer.send(BINARY, &sent);
        assert!(target.wire.receives(&sent, SOON), "{tags:?}");
    }
    // 4095 is reserved: no station lives there.
    peer.send(BINARY, &frame(BROADCAST, mac(9), &[(0x8100, 0x0fff)], &payload(60)));
    target.lives();
    assert!(!target.switch.fdb().iter().any(|(vid, _, _)| *vid > 4094), "{:?}", target.switch.fdb());
    let drops = |reason| target.switch.drops(reason);
    assert_eq!((drops("truncated-tag"), drops("reserved-vid")), (8, 9), "{}", target.switch.all_drops());
}

#[test]
fn bad_43_lying_ip_lengths_are_none_of_our_business() {
    let hosts = TwoHosts::new();
    let target = Target::new(&hosts, &[]);
    let mut peer = target.open();
    let mut lie = frame(BROADCAST, mac(1), &[], &payload(60));
    lie[12..14].copy_from_slice(&[8, 0]);
    lie[14..18].copy_from_slice(&[0x4f, 0, 0xff, 0xff]);
    peer.send(BINARY, &lie);
    assert!(target.wire.receives(&lie, SOON));
}
