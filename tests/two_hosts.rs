//! Two hosts, one WebSocket link, a TAP on each side: what goes in on one comes out on the other.

mod lab;

use std::time::{Duration, Instant};

use lab::frames::{BROADCAST, Wire, ethertype, frame, mac, mac_text, only_passes, passes, payload};
use lab::switch::TwoHosts;
use lab::{SOON, pair, wait_until};
use serde_json::json;

#[test]
fn ping_passes_in_both_directions() {
    let hosts = TwoHosts::new();
    let pair = pair(&hosts);
    hosts.a.ping("10.1.0.2");
    hosts.b.ping("10.1.0.1");
    let (a, b) = (pair.a.port("link"), pair.b.wait_server_port());
    for port in [&a, &b] {
        assert!(port["rx"].as_u64() > Some(0) && port["tx"].as_u64() > Some(0), "{port}");
        assert_eq!(port["state"], "up", "{port}");
    }
    let peer = b["peer"].as_str().expect("the listener knows its peer");
    assert!(peer.starts_with(&hosts.link.a.to_string()), "{peer}");
}

#[test]
fn an_mtu_of_9000_passes_over_a_path_of_1500() {
    let hosts = TwoHosts::new();
    let pair = pair(&hosts);
    for switch in [&pair.a, &pair.b] {
        switch.ctl_ok(&["setif", "t0", "--mtu", "9000"]);
    }
    hosts.a.ping_with("10.1.0.2", &["-M", "do", "-s", "8972"]);
    hosts.b.ping_with("10.1.0.1", &["-M", "do", "-s", "8972"]);
}

#[test]
fn tagged_and_qinq_frames_arrive_byte_by_byte() {
    let hosts = TwoHosts::new();
    let _pair = pair(&hosts);
    let (a, b) = (Wire::open(&hosts.a, "t0"), Wire::open(&hosts.b, "t0"));
    let tags: [&[(u16, u16)]; 7] = [
        &[],
        &[(0x8100, 5)],
        &[(0x8100, 0xe000)], // priority-tagged
        &[(0x8100, 0x7ffe)], // priority, DEI and VID 4094
        &[(0x88a8, 100)],
        &[(0x88a8, 100), (0x8100, 7)],
        &[(0x8100, 100), (0x8100, 7), (0x8100, 9)],
    ];
    for (number, tags) in (10..).zip(tags) {
        for len in [8, 46, 1400] {
            passes(&a, &b, &frame(BROADCAST, mac(number), tags, &payload(len)));
            // By now unicast to mac(number) knows its way.
            passes(&b, &a, &frame(mac(number), mac(900 + number), tags, &payload(len)));
        }
    }
}

#[test]
fn frames_keep_their_order_and_none_is_lost() {
    let hosts = TwoHosts::new();
    let _pair = pair(&hosts);
    let (a, b) = (Wire::open(&hosts.a, "t0"), Wire::open(&hosts.b, "t0"));
    passes(&b, &a, &frame(BROADCAST, mac(2), &[], &payload(50)));
    passes(&a, &b, &frame(mac(2), mac(1), &[], &payload(50)));
    let sent: Vec<_> = (0..500).map(|n| frame(mac(2), mac(1), &[], &payload(60 + n))).collect();
    for chunk in sent.chunks(50) {
        chunk.iter().for_each(|bytes| a.send(bytes));
        std::thread::sleep(Duration::from_millis(5));
    }
    let (mut got, deadline) = (Vec::new(), Instant::now() + SOON);
    while got.len() < sent.len() {
        let Some(bytes) = b.next(deadline) else { break };
        if ethertype(&bytes) == lab::frames::TYPE {
            got.push(bytes);
        }
    }
    assert_eq!(got.len(), sent.len());
    assert!(got == sent, "order or content changed");
}

#[test]
fn ipv6_neighbour_discovery_and_multicast_pass() {
    let hosts = TwoHosts::new();
    let pair = pair(&hosts);
    for (switch, addr) in [(&pair.a, "fd00:1::1/64"), (&pair.b, "fd00:1::2/64")] {
        switch.ctl_ok(&["setif", "t0", "--address", addr]);
    }
    hosts.a.ping_with("fd00:1::2", &["-6"]);
    let neighbours = hosts.a.ok(&["ip", "-6", "neigh", "show", "fd00:1::2"]);
    assert!(neighbours.contains("lladdr"), "{neighbours}");
    // All nodes of the segment; only the other host's answer proves anything.
    let answer = hosts.a.run(&["ping", "-6", "-n", "-c3", "-W1", "-i0.3", "ff02::1%t0"]);
    let text = String::from_utf8_lossy(&answer.stdout).into_owned();
    let link_local = hosts.b.ok(&["ip", "-6", "-br", "addr", "show", "dev", "t0", "scope", "link"]);
    let other = link_local.split_whitespace().nth(2).and_then(|a| a.split('/').next()).expect("fe80::");
    assert!(text.contains(other), "{other} did not answer ff02::1: {text}");
    // IPv4 multicast, as a frame.
    let (a, b) = (Wire::open(&hosts.a, "t0"), Wire::open(&hosts.b, "t0"));
    passes(&a, &b, &frame([1, 0, 0x5e, 1, 2, 3], mac(5), &[], &payload(64)));
}

#[test]
fn a_thousand_stations_behind_one_port() {
    let hosts = TwoHosts::new();
    let pair = pair(&hosts);
    let (a, b) = (Wire::open(&hosts.a, "t0"), Wire::open(&hosts.b, "t0"));
    let learned = |name: &str| pair.b.fdb().iter().filter(|(_, _, port)| port == name).count();
    let link = pair.b.wait_server_port()["name"].as_str().expect("name").to_owned();
    wait_until("1,000 stations are learned on B's link", SOON, || {
        for number in 0..1000 {
            a.send(&frame(BROADCAST, mac(1000 + number), &[], &payload(46)));
            if number % 50 == 0 {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        learned(&link) >= 1000
    });
    b.collect(Duration::from_millis(100));
    // Unicast to each reaches A's TAP.
    for number in [0, 499, 999] {
        passes(&b, &a, &frame(mac(1000 + number), mac(7), &[], &payload(46)));
    }
    let table = pair.b.ctl_ok(&["listfdb"]);
    assert!(table.contains(&mac_text(mac(1999))), "{table}");
    let all = pair.b.ctl_json(&["listfdb"]);
    assert!(all["entries"].as_array().expect("entries").len() >= 1000);
    let flushed = pair.b.rpc_ok("flushFdb", json!({"port": link}));
    assert!(flushed["flushed"].as_u64() >= Some(1000), "{flushed}");
    assert!(learned(&link) < 10);
}

#[test]
fn known_unicast_is_not_flooded() {
    let hosts = TwoHosts::new();
    let pair = pair(&hosts);
    pair.b.ctl_ok(&["addport", "tap", "t1"]);
    let (a, b0, b1) = (Wire::open(&hosts.a, "t0"), Wire::open(&hosts.b, "t0"), Wire::open(&hosts.b, "t1"));
    passes(&b0, &a, &frame(BROADCAST, mac(1), &[], &payload(46)));
    let unicast = frame(mac(1), mac(2), &[], &payload(46));
    passes(&a, &b0, &unicast);
    only_passes(&a, &b1, &frame(BROADCAST, mac(2), &[], &payload(46)), &unicast);
}

#[test]
fn the_tables_are_those_of_1_3() {
    let hosts = TwoHosts::new();
    let pair = pair(&hosts);
    hosts.a.ping("10.1.0.2");
    let head = |command: &str, words: &[&str]| {
        let table = pair.a.ctl_ok(&[command]);
        let first: Vec<_> = table.lines().next().unwrap_or_default().split_whitespace().collect();
        assert_eq!(first.get(..words.len()), Some(words), "{table}");
        table
    };
    let ports = head("listport", &["Port", "Type", "State", "RX", "TX", "Target"]);
    assert!(ports.lines().any(|line| line.split_whitespace().take(3).eq(["1", "tap", "up"])), "{ports}");
    let ifs = head("listif", &["Port", "Type", "Address", "Netmask", "MTU", "Target"]);
    assert!(ifs.contains("10.1.0.1") && ifs.contains("255.255.255.0") && ifs.contains("1500"), "{ifs}");
    head("listfdb", &["Port", "VLAN", "MAC", "Age"]);
}
