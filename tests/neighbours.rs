//! Who has which IP address: what the switch hears of ARP and ND on real devices and between real switches, and what
//! it does with that.

mod lab;

use std::time::Duration;

use lab::frames::{BROADCAST, Wire, mac, mac_text, passes};
use lab::switch::{TwoHosts, pair};
use lab::{Host, Switch, wait_until};
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
