//! Who has which IP address: what the switch hears of ARP and ND on real devices and between real switches, and what
//! it does with that.

mod lab;

use std::time::Duration;

use lab::frames::{BROADCAST, Wire, frame, mac, mac_text, passes, payload};
use lab::switch::{TwoHosts, pair};
use lab::{Host, Switch, wait_until, ws};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);

/// An ARP request or reply, padded as on a cable.
fn arp(dst: [u8; 6], src: [u8; 6], operation: u8, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut bytes = [dst, src].concat();
    bytes.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, operation]);
    bytes.extend(src);
    bytes.extend(sender);
    bytes.extend([0; 6]);
    bytes.extend(target);
    bytes.resize(60, 0);
    bytes
}

fn who_has(src: [u8; 6], sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    arp(BROADCAST, src, 1, sender, target)
}

fn v4(n: u32) -> [u8; 4] {
    (0x0a09_0000 + n).to_be_bytes()
}

fn stations(switch: &Switch<'_>) -> Vec<Value> {
    let answer =
        lab::switch::call(switch.sock(), "etherws.control.listStations", json!({})).expect("an answer");
    answer["result"].as_array().unwrap_or_else(|| panic!("no array: {answer}")).clone()
}

/// The IP addresses of a station.
fn ips(switch: &Switch<'_>, mac: &str) -> Vec<String> {
    let found = stations(switch).into_iter().find(|station| station["mac"] == mac);
    let ips = found.and_then(|station| station["ips"].as_array().cloned()).unwrap_or_default();
    ips.iter().map(|ip| ip.as_str().expect("text").to_owned()).collect()
}

/// The MAC address of a host's device.
fn device_mac(host: &Host, device: &str) -> String {
    host.ok(&["cat", &format!("/sys/class/net/{device}/address")]).trim().to_owned()
}

#[test]
fn stations_are_listed_with_the_addresses_that_their_kernels_speak_by() {
    let hosts = TwoHosts::new();
    let pair = pair(&hosts);
    hosts.a.ok(&["ip", "addr", "add", "fd00:9::1/64", "dev", "t0", "nodad"]);
    hosts.b.ok(&["ip", "addr", "add", "fd00:9::2/64", "dev", "t0", "nodad"]);
    hosts.a.ping("10.1.0.2");
    hosts.a.ping("fd00:9::2");
    let (near, far) = (device_mac(&hosts.a, "t0"), device_mac(&hosts.b, "t0"));
    for switch in [&pair.a, &pair.b] {
        wait_until("both are known by both addresses", LIMIT, || {
            ips(switch, &near).starts_with(&["10.1.0.1".to_owned()])
                && ips(switch, &near).contains(&"fd00:9::1".to_owned())
                && ips(switch, &far).starts_with(&["10.1.0.2".to_owned()])
                && ips(switch, &far).contains(&"fd00:9::2".to_owned())
        });
    }
    let station = stations(&pair.a).into_iter().find(|station| station["mac"] == *far).expect("known");
    assert_eq!((&station["name"], &station["vlan"]), (&json!("link"), &Value::Null));
    assert_eq!(station["port"], pair.a.port("link")["port"]);
    assert!(station["age"].as_u64().is_some_and(|age| age < 300), "{station}");
    let text = pair.a.ctl_ok(&["liststations", "--port", "link"]);
    assert!(text.contains("10.1.0.2") && !text.contains("10.1.0.1"), "{text}");
    // Whoever goes takes his addresses with him.
    pair.a.ctl_ok(&["delport", "link"]);
    assert!(!stations(&pair.a).iter().any(|station| station["mac"] == *far));
}

#[test]
fn bad_37_what_is_claimed_of_others_or_too_often_is_not_believed() {
    let host = Host::new();
    let switch = Switch::start(&host, &["--no-listen"]);
    for tap in ["t0", "t1"] {
        switch.ctl_ok(&["addport", "tap", tap, "--access", "7"]);
    }
    let (t0, t1) = (Wire::open(&host, "t0"), Wire::open(&host, "t1"));
    let good = who_has(mac(1), v4(1), v4(2));
    // Cut short at every length, in another's name, from no host's address.
    for len in 14..42 {
        t0.send(&good[..len]);
    }
    let mut forged = who_has(mac(1), v4(66), v4(2));
    forged[22..28].copy_from_slice(&mac(3));
    t0.send(&forged);
    t0.send(&who_has(mac(1), [224, 0, 0, 1], v4(2)));
    t0.send(&who_has(mac(1), [0; 4], v4(2)));
    // In order, so what is heard of this was heard after the others.
    passes(&t0, &t1, &good);
    let text = mac_text(mac(1));
    wait_until("the good one is heard", LIMIT, || ips(&switch, &text) == ["10.9.0.1"]);
    assert_eq!(stations(&switch).iter().find(|s| s["mac"] == *text).expect("known")["vlan"], 7);
    // One station says that it has a hundred thousand addresses.
    for n in 0..100_000 {
        t0.send(&arp(mac(9), mac(1), 2, v4(n), v4(2)));
    }
    wait_until("it is heard out", LIMIT, || {
        t0.send(&good);
        ips(&switch, &text).contains(&"10.9.0.1".to_owned())
    });
    assert!(ips(&switch, &text).len() <= 8, "{:?}", ips(&switch, &text));
    // Others are heard meanwhile as ever.
    passes(&t1, &t0, &who_has(mac(2), v4(2), v4(1)));
    wait_until("another is heard", LIMIT, || ips(&switch, &mac_text(mac(2))) == ["10.9.0.2"]);
}

/// The bridge's place of a station: the device that it learned it on.
fn bridge_port(host: &Host, mac: &str) -> String {
    let text = host.ok(&["bridge", "fdb", "show", "br", "br0"]);
    let line = text.lines().find(|line| line.starts_with(mac)).unwrap_or_default();
    line.split(' ').skip_while(|word| *word != "dev").nth(1).unwrap_or_default().to_owned()
}

/// A host with a bridge, in it a TAP of its switch and a cable to "the rest of the network", whose far end is e0.
fn node() -> Host {
    let host = Host::new();
    host.ok(&["ip", "link", "add", "br0", "type", "bridge"]);
    host.ok(&["ip", "link", "add", "e1", "type", "veth", "peer", "name", "e0"]);
    for device in ["br0", "e1", "e0"] {
        host.ok(&["ip", "link", "set", device, "up"]);
    }
    host.ok(&["ip", "link", "set", "e1", "master", "br0"]);
    host
}

/// RARP for a station, as it is announced when nothing is known of it.
fn rarp(src: [u8; 6]) -> Vec<u8> {
    let mut bytes = [BROADCAST, src].concat();
    bytes.extend([0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3]);
    bytes.extend(src);
    bytes.extend([0; 4]);
    bytes.extend(src);
    bytes.resize(60, 0);
    bytes
}

#[test]
fn a_station_that_a_link_brings_is_announced_to_the_bridge() {
    let host = node();
    let switch = Switch::start(&host, &[]);
    switch.ctl_ok(&["addport", "tap", "t0", "--bridge", "br0"]);
    let outside = Wire::open(&host, "e0");
    let station = mac(1);
    let text = mac_text(station);
    // It was heard by way of the network, with its address.
    outside.send(&who_has(station, v4(1), v4(9)));
    wait_until("it is known there", LIMIT, || ips(&switch, &text) == ["10.9.0.1"]);
    wait_until("by the bridge too", LIMIT, || bridge_port(&host, &text) == "e1");
    // Now a link brings it, by a frame for a station that the switch knows behind the TAP, so nothing of that
    // says anything of addresses.
    outside.send(&frame(BROADCAST, mac(2), &[], &payload(60)));
    wait_until("the other is known", LIMIT, || {
        switch.fdb().iter().any(|(_, mac, _)| *mac == mac_text([0x02, 0x5e, 0, 0, 0, 2]))
    });
    let mut link = ws::open(&host, "127.0.0.1:80");
    link.send(ws::BINARY, &frame(mac(2), station, &[], &payload(60)));
    let announced = arp(BROADCAST, station, 1, v4(1), v4(1));
    assert!(outside.receives(&announced, LIMIT), "no gratuitous ARP came out of the bridge");
    assert_eq!(bridge_port(&host, &text), "t0", "the bridge has learned where it is");
    // Of whom no address is known by RARP, when it is new as well.
    link.send(ws::BINARY, &frame(mac(2), mac(3), &[], &payload(60)));
    assert!(outside.receives(&rarp(mac(3)), LIMIT), "no RARP came out of the bridge");
    wait_until("the bridge knows it", LIMIT, || bridge_port(&host, &mac_text(mac(3))) == "t0");
}

#[test]
fn without_announcements_the_switch_says_nothing_for_others() {
    let host = Host::new();
    let switch = Switch::start(&host, &["--no-announce"]);
    switch.ctl_ok(&["addport", "tap", "t0"]);
    let out = Wire::open(&host, "t0");
    let mut link = ws::open(&host, "127.0.0.1:80");
    link.send(ws::BINARY, &frame(BROADCAST, mac(3), &[], &payload(60)));
    let marker = frame(BROADCAST, mac(4), &[], &payload(60));
    let deadline = std::time::Instant::now() + Duration::from_secs(2);
    link.send(ws::BINARY, &marker);
    while let Some(got) = out.next(deadline) {
        assert!(got != rarp(mac(3)), "it was announced");
    }
}

#[test]
fn a_link_that_comes_up_or_is_opened_again_is_told_who_is_there() {
    let hosts = TwoHosts::new();
    let a = Switch::start(&hosts.a, &["--no-listen"]);
    let b = Switch::start(&hosts.b, &[]);
    let mut wires = Vec::new();
    for (host, switch, station) in [(&hosts.a, &a, 1), (&hosts.b, &b, 2)] {
        switch.ctl_ok(&["addport", "tap", "t0"]);
        let wire = Wire::open(host, "t0");
        wire.send(&who_has(mac(station), v4(station), v4(9)));
        wait_until("it is known", LIMIT, || ips(switch, &mac_text(mac(station))) == [v4_text(station)]);
        wires.push(wire);
    }
    // Both stations are silent from here on.
    let url = format!("ws://{}/", hosts.link.b);
    a.ctl_ok(&["addport", "client", &url, "--name", "one"]);
    wait_until("the far end has heard of it", LIMIT, || ips(&b, &mac_text(mac(1))) == [v4_text(1)]);
    // Of two links one is blocked, and all forget what they heard meanwhile.
    a.ctl_ok(&["addport", "client", &url, "--name", "two"]);
    let count = |switch: &Switch<'_>, state: &str| {
        let links = switch.entries("listPort").into_iter().filter(|port| port["type"] != "tap");
        links.filter(|port| port["state"] == state).count()
    };
    let place = |switch: &Switch<'_>, station: u32| {
        let text = mac_text(mac(station));
        switch.fdb().into_iter().find(|(_, mac, _)| *mac == text).map(|(.., port)| port)
    };
    wait_until("one is blocked and the stations are known by the other", Duration::from_secs(60), || {
        if count(&a, "blocked") + count(&b, "blocked") != 1 {
            return false;
        }
        (1..).zip(&wires).for_each(|(station, wire)| wire.send(&who_has(mac(station), v4(station), v4(9))));
        let is_far = |switch, station| place(switch, station).is_some_and(|at| at != "t0");
        let is_near = |switch, station| place(switch, station).is_some_and(|at| at == "t0");
        let known = is_near(&a, 1) && is_near(&b, 2) && is_far(&a, 2) && is_far(&b, 1);
        count(&a, "blocked") + count(&b, "blocked") == 1 && known
    });
    // That is shut at the end that has blocked; the far end is not told. Nobody speaks.
    let (side, far, station) = if count(&a, "blocked") == 1 { (&a, &b, 1) } else { (&b, &a, 2) };
    let before = place(far, station).expect("known");
    let is_open = |port: &Value| port["type"] != "tap" && port["state"] == "up";
    let open = side.entries("listPort").into_iter().find(is_open).expect("a link is open");
    side.ctl_ok(&["setport", open["name"].as_str().expect("a name"), "--shut", "1"]);
    wait_until("the far end hears of it by the other link", Duration::from_secs(60), || {
        place(far, station).is_some_and(|at| at != before && at != "t0")
    });
}

fn v4_text(n: u32) -> String {
    v4(n).map(|byte| byte.to_string()).join(".")
}

/// What came in by a wire of ARP, until a marker.
fn arp_until(wire: &Wire, marker: &[u8]) -> Vec<Vec<u8>> {
    let deadline = std::time::Instant::now() + LIMIT;
    let mut found = Vec::new();
    while let Some(got) = wire.next(deadline) {
        if got == marker {
            return found;
        }
        found.extend((lab::frames::ethertype(&got) == 0x0806).then_some(got));
    }
    panic!("the marker never came");
}

/// A switch that suppresses, with TAPs on which kernels say nothing of themselves, and of one queue: what is sent there is
/// read in that order.
fn suppressing<'h>(host: &'h Host, taps: &[&str]) -> (Switch<'h>, Vec<Wire>) {
    host.ok(&["sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1"]);
    let switch = Switch::start(host, &["--no-listen", "--suppress"]);
    let open = |tap: &&str| {
        host.ok(&["ip", "tuntap", "add", tap, "mode", "tap"]);
        switch.ctl_ok(&["addport", "tap", tap]);
        Wire::open(host, tap)
    };
    let wires = taps.iter().map(open).collect();
    (switch, wires)
}

#[test]
fn what_is_known_is_answered_and_all_else_is_flooded() {
    let host = Host::new();
    let (switch, wires) = suppressing(&host, &["t0", "t1", "t2"]);
    let [t0, t1, t2] = &wires[..] else { unreachable!() };
    let (asker, owner) = (mac(1), mac(2));
    passes(t1, t2, &who_has(owner, v4(2), v4(77)));
    wait_until("the owner is known", LIMIT, || ips(&switch, &mac_text(owner)) == ["10.9.0.2"]);
    let question = who_has(asker, v4(1), v4(2));
    // A padded request is answered by a reply of 42 bytes in the owner's name.
    let reply = |got: &[u8]| {
        got[..12] == [asker, owner].concat()[..]
            && got[21] == 2
            && got[28..32] == v4(2)
            && got[22..28] == owner
    };
    wait_until("it is answered", LIMIT, || {
        t0.send(&question);
        let deadline = std::time::Instant::now() + Duration::from_millis(300);
        std::iter::from_fn(|| t0.next(deadline)).any(|got| got.len() >= 42 && reply(&got))
    });
    // From here on nothing of it is flooded, but of the others all.
    let marker = frame(BROADCAST, asker, &[], &payload(60));
    passes(t0, t2, &marker);
    let mut probe = question.clone();
    probe[28..32].copy_from_slice(&[0; 4]);
    let others = [who_has(asker, v4(1), v4(3)), probe, who_has(asker, v4(1), v4(1))];
    t0.send(&question);
    others.iter().for_each(|other| t0.send(other));
    let last = frame(BROADCAST, asker, &[], &payload(61));
    t0.send(&last);
    assert_eq!(arp_until(t2, &last), others);
    assert!(switch.drops("suppressed") >= 2);
    // Nobody is answered for who has gone.
    switch.ctl_ok(&["setport", "t1", "--shut", "1"]);
    t0.send(&question);
    let last = frame(BROADCAST, asker, &[], &payload(62));
    t0.send(&last);
    assert_eq!(arp_until(t2, &last), [question]);
}

#[test]
fn a_trace_foretells_what_is_answered_and_what_is_not() {
    let host = Host::new();
    let (switch, wires) = suppressing(&host, &["t0", "t1"]);
    let [t0, t1] = &wires[..] else { unreachable!() };
    let trace = |frame: &[u8]| {
        let bytes: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
        let traced = switch.ctl_json(&["trace", "--from", "t0", &bytes]);
        traced["reason"].as_str().or(traced["verdict"].as_str()).expect("a verdict").to_owned()
    };
    passes(t1, t0, &who_has(mac(2), v4(2), v4(77)));
    let question = who_has(mac(1), v4(1), v4(2));
    wait_until("the owner is known", LIMIT, || trace(&question) == "suppressed");
    assert_eq!(switch.drops("suppressed"), 0, "a trace counts nothing");
    t0.send(&question);
    wait_until("it is answered", LIMIT, || switch.drops("suppressed") == 1);
    for other in [who_has(mac(1), v4(1), v4(3)), frame(BROADCAST, mac(1), &[], &payload(60))] {
        assert_eq!(trace(&other), "flood");
        passes(t0, t1, &other);
    }
    assert_eq!(switch.drops("suppressed"), 1);
}

#[test]
fn an_address_that_two_claim_is_not_answered_for() {
    let host = Host::new();
    let (switch, wires) = suppressing(&host, &["t0", "t1", "t2"]);
    let [t0, t1, t2] = &wires[..] else { unreachable!() };
    for (wire, station) in [(t1, mac(2)), (t2, mac(3))] {
        passes(wire, t0, &arp(BROADCAST, station, 1, v4(2), v4(2)));
        wait_until("it is heard", LIMIT, || ips(&switch, &mac_text(station)) == ["10.9.0.2"]);
    }
    let question = who_has(mac(1), v4(1), v4(2));
    passes(t0, t1, &question);
    assert_eq!(switch.drops("suppressed"), 0);
}

#[test]
fn kernels_find_each_other_by_answers_of_the_switch() {
    let hosts = TwoHosts::new();
    let a = Switch::start(&hosts.a, &["--no-listen", "--suppress"]);
    let b = Switch::start(&hosts.b, &["--suppress"]);
    for (host, switch, last) in [(&hosts.a, &a, 1), (&hosts.b, &b, 2)] {
        switch.ctl_ok(&["addport", "tap", "t0", "--address", &format!("10.1.0.{last}/24")]);
        host.ok(&["ip", "addr", "add", &format!("fd00:9::{last}/64"), "dev", "t0", "nodad"]);
    }
    a.ctl_ok(&["addport", "client", &format!("ws://{}/", hosts.link.b), "--name", "link"]);
    a.wait_state("link", "up");
    for (ip, known) in [("10.1.0.2", "10.1.0.2"), ("fd00:9::2", "fd00:9::2")] {
        hosts.a.ping(ip);
        let far = device_mac(&hosts.b, "t0");
        wait_until("it is known", LIMIT, || ips(&a, &far).contains(&known.to_owned()));
        let before = a.drops("suppressed");
        wait_until("it is answered here", LIMIT, || {
            hosts.a.ok(&["ip", "neigh", "flush", "dev", "t0"]);
            hosts.a.ping(ip);
            a.drops("suppressed") > before
        });
        let neighbours = hosts.a.ok(&["ip", "neigh", "show", "dev", "t0"]);
        assert!(neighbours.lines().any(|line| line.starts_with(ip) && line.contains(&far)), "{neighbours}");
    }
}

#[test]
fn a_thousand_lookups_across_links_are_flooded_a_hundred_times_at_most() {
    let hosts = TwoHosts::new();
    let hub = Switch::start(&hosts.b, &["--suppress"]);
    let at = format!("{}:80", hosts.link.b);
    let mut links: Vec<ws::RawWs> = (0..10).map(|_| ws::open(&hosts.a, &at)).collect();
    wait_until("all are ports", LIMIT, || hub.entries("listPort").len() == 10);
    // Each speaks once, and then asks for each other one.
    for (number, link) in (0..).zip(&mut links) {
        link.send(ws::BINARY, &who_has(mac(number), v4(number), v4(99)));
    }
    wait_until("all are known", LIMIT, || {
        let all = stations(&hub);
        (0..10).all(|number| {
            all.iter().any(|station| station["mac"] == mac_text(mac(number)) && station["ips"][0].is_string())
        })
    });
    let copies =
        || -> u64 { hub.entries("listCounters").iter().filter_map(|port| port["copies"].as_u64()).sum() };
    let before = (hub.drops("suppressed"), copies());
    wait_until("a thousand are asked for", LIMIT, || {
        for asker in 0..10u32 {
            for target in (0..10).filter(|target| *target != asker) {
                links[asker as usize].send(ws::BINARY, &who_has(mac(asker), v4(asker), v4(target)));
            }
        }
        hub.drops("suppressed") - before.0 >= 1000
    });
    // An answer is a copy too; a flood would have been nine.
    let (answered, copied) = (hub.drops("suppressed") - before.0, copies() - before.1);
    let flooded = (copied - answered) / 9;
    assert!(flooded <= answered / 10, "{answered} answered, {flooded} flooded");
}
