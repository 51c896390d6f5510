//! Multicast goes to those who asked for it: kernels that join and leave groups, beside real bridges and switches.

mod hostile;
#[path = "../lab/mod.rs"]
mod lab;
mod queriers;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use lab::frames::{BROADCAST, Wire, frame, mac, payload};
use lab::servers::Ca;
use lab::switch::TwoHosts;
use lab::{Host, Switch, inside, wait_until};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::{Value, json};
use socket2::{InterfaceIndexOrAddress, SockRef};

const LIMIT: Duration = Duration::from_secs(30);
/// Groups that are joined here, and one that nobody joins.
const A: &str = "239.1.2.3";
const B: &str = "239.1.2.4";
const SIX: &str = "ff05::1:3";
const NOBODY: &str = "239.1.2.5";

/// With questions as often as may be, so that all is over within seconds.
fn snooping<'h>(host: &'h Host, args: &[&str], taps: &[&str]) -> (Switch<'h>, Vec<Wire>) {
    let switch = Switch::start(host, &[&["--snoop", "--snoop-interval", "4"], args].concat());
    let wires = taps.iter().map(|name| tap(host, &switch, name)).collect();
    (switch, wires)
}

/// A TAP of one queue: what is sent there is read in that order.
fn tap(host: &Host, switch: &Switch<'_>, name: &str) -> Wire {
    host.ok(&["ip", "tuntap", "add", name, "mode", "tap"]);
    switch.ctl_ok(&["addport", "tap", name]);
    Wire::open(host, name)
}

/// A member of the group on a device, until it is dropped.
fn join(host: &Host, device: &str, group: &str) -> UdpSocket {
    inside(host, || {
        let index = if_nametoindex(device).expect("the device is there");
        let group: IpAddr = group.parse().expect("an address");
        let any = if group.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).expect("bind");
        match group {
            IpAddr::V4(group) => {
                let device = InterfaceIndexOrAddress::Index(index);
                SockRef::from(&socket).join_multicast_v4_n(&group, &device)
            }
            IpAddr::V6(group) => socket.join_multicast_v6(&group, index),
        }
        .unwrap_or_else(|error| panic!("join {group} on {device}: {error}"));
        socket
    })
}

/// A packet to a group, unlike any other; of UDP, in the eyes of who doesn't look at it.
fn packet(station: u32, group: &str) -> Vec<u8> {
    let group: IpAddr = group.parse().expect("an address");
    let body = payload(64);
    let (dst, head) = match group {
        IpAddr::V4(group) => {
            let [a, b, c, d] = group.octets();
            let mut head = vec![0x08, 0x00, 0x45, 0, 0, 84, 0, 0, 0x40, 0, 8, 17, 0, 0, 10, 9, 0, 1];
            head.extend([a, b, c, d]);
            let check = checksum(&head[2..]).to_be_bytes();
            head[12..14].copy_from_slice(&check);
            ([0x01, 0x00, 0x5e, b & 0x7f, c, d], head)
        }
        IpAddr::V6(group) => {
            let octets = group.octets();
            let mut head = vec![0x86, 0xdd, 0x60, 0, 0, 0, 0, 64, 17, 8, 0xfe, 0x80];
            head.extend([0; 13]);
            head.push(1);
            head.extend(octets);
            ([0x33, 0x33, octets[12], octets[13], octets[14], octets[15]], head)
        }
    };
    [&dst[..], &mac(station), &head, &body].concat()
}

/// Which wires get a packet that is sent at one: what was sent behind it has come to all of them.
fn who_gets(from: &Wire, wires: &[&Wire], packet: &[u8]) -> Vec<bool> {
    who_gets_tagged(from, &[], wires, packet)
}

/// The same for a packet that is sent with a tag, and comes without.
fn who_gets_tagged(from: &Wire, tag: &[u8], wires: &[&Wire], packet: &[u8]) -> Vec<bool> {
    let mut src = [0; 6];
    src.copy_from_slice(&packet[6..12]);
    let marker = frame(BROADCAST, src, &[], &payload(60));
    for bytes in [packet, &marker] {
        from.send(&[&bytes[..12], tag, &bytes[12..]].concat());
    }
    let gets = |wire: &&Wire| {
        let deadline = Instant::now() + LIMIT;
        let mut found = false;
        while let Some(got) = wire.next(deadline) {
            found |= got == packet;
            if got == marker {
                return found;
            }
        }
        panic!("the marker never came");
    };
    wires.iter().map(gets).collect()
}

/// Waits until packets of a station to a group come to these wires and no others, three times in a row.
#[track_caller]
fn goes_to<const N: usize>(from: &Wire, wires: [&Wire; N], station: u32, group: &str, want: [bool; N]) {
    let end = Instant::now() + LIMIT;
    loop {
        let seen: Vec<_> = (0..3).map(|_| who_gets(from, &wires, &packet(station, group))).collect();
        if seen.iter().all(|seen| *seen == want) {
            return;
        }
        assert!(Instant::now() < end, "{group} goes to {seen:?}, not to {want:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What `listGroups` says.
fn groups(switch: &Switch<'_>) -> Value {
    switch.rpc_ok("listGroups", json!({}))
}

/// The names of the ports with members of a group.
fn members(switch: &Switch<'_>, group: &str) -> Vec<String> {
    let groups = groups(switch);
    let found = groups["groups"].as_array().into_iter().flatten().find(|entry| entry["group"] == group);
    let ports = found.and_then(|entry| entry["ports"].as_array()).into_iter().flatten();
    ports.map(|port| port["name"].as_str().unwrap_or_default().to_owned()).collect()
}

/// Who asks in the VLAN of untagged frames.
fn querier(switch: &Switch<'_>, family: &str) -> Value {
    let queriers = groups(switch)["queriers"].as_array().cloned().unwrap_or_default();
    let is_it = |entry: &Value| entry["family"] == family && entry["vlan"].is_null();
    queriers.into_iter().find(is_it).unwrap_or_default()
}

#[test]
fn multicast_goes_where_it_was_asked_for_until_nobody_does() {
    let host = Host::new();
    let (switch, wires) = snooping(&host, &["--no-listen"], &["t0", "t1", "t2", "t3"]);
    let [t0, t1, t2, t3] = &wires[..] else { unreachable!() };
    let others = [t1, t2, t3];
    for (family, key) in [("ipv4", "force_igmp_version=2"), ("ipv6", "force_mld_version=1")] {
        host.ok(&["sysctl", "-qw", &format!("net.{family}.conf.t2.{key}")]);
    }
    let first = [join(&host, "t1", A), join(&host, "t1", SIX)];
    let second = [join(&host, "t2", B), join(&host, "t2", SIX)];
    goes_to(t0, others, 1, A, [true, false, false]);
    goes_to(t0, others, 1, B, [false, true, false]);
    goes_to(t0, others, 1, SIX, [true, true, false]);
    assert_eq!(
        (members(&switch, A), members(&switch, SIX)),
        (vec!["t1".into()], vec!["t1".into(), "t2".into()])
    );
    assert_eq!(
        (&querier(&switch, "ipv4")["address"], &querier(&switch, "ipv6")["filters"]),
        (&Value::Null, &json!(true))
    );
    let before = switch.drops("snooped");
    goes_to(t0, others, 1, NOBODY, [false; 3]);
    assert!(switch.drops("snooped") >= before + 3);
    // mDNS and neighbour discovery go to all, as everything that is the link's own.
    for group in ["224.0.0.251", "ff02::fb", "ff02::1:ff00:7"] {
        assert_eq!(who_gets(t0, &others, &packet(1, group)), [true; 3], "{group}");
    }
    // Said for people, and by a trace.
    let text = switch.ctl_ok(&["listgroups"]);
    assert!(
        text.lines().any(|line| line.contains(A) && line.contains("t1") && !line.contains("t2")),
        "{text}"
    );
    assert!(text.contains("ipv4 in VLAN - is asked for by this switch\n"), "{text}");
    assert_eq!(switch.ctl_json(&["listgroups"])["snoops"], true);
    let hex: String = packet(1, A).iter().map(|byte| format!("{byte:02x}")).collect();
    let trace = switch.ctl_json(&["trace", "--from", "t0", &hex]);
    let way = |name: &str| {
        let ways = trace["egress"].as_array().expect("ports");
        ways.iter().find(|way| way["name"] == name).expect("a port")["reason"].clone()
    };
    assert_eq!((way("t1"), way("t2"), way("t3")), (Value::Null, json!("snooped"), json!("snooped")));
    // Both leave, each in the manner of its version.
    drop((first, second));
    for group in [A, B, SIX] {
        goes_to(t0, others, 1, group, [false; 3]);
    }
    wait_until("nobody is listed", LIMIT, || {
        members(&switch, A).is_empty() && members(&switch, SIX).is_empty()
    });
}

#[test]
fn each_vlan_is_asked_and_has_members_of_its_own() {
    let host = Host::new();
    let (switch, wires) = snooping(&host, &["--no-listen"], &["t0"]);
    for (tap, vid) in [("t1", "7"), ("t2", "7"), ("t3", "8")] {
        switch.ctl_ok(&["addport", "tap", tap, "--access", vid]);
    }
    let [t1, t2, t3] = ["t1", "t2", "t3"].map(|tap| Wire::open(&host, tap));
    let _members = [join(&host, "t1", A), join(&host, "t3", A), join(&host, "t3", B)];
    let gets =
        |vid, to: &[&Wire], group| who_gets_tagged(&wires[0], &[0x81, 0, 0, vid], to, &packet(1, group));
    wait_until("each goes where it was asked for", LIMIT, || {
        gets(7, &[&t1, &t2], A) == [true, false]
            && gets(7, &[&t1, &t2], B) == [false, false]
            && gets(8, &[&t3], A) == [true]
            && gets(8, &[&t3], B) == [true]
            && gets(8, &[&t3], NOBODY) == [false]
    });
    let groups = groups(&switch);
    let listed = groups["groups"].as_array().expect("groups").iter();
    let listed = listed.map(|entry| [&entry["vlan"], &entry["group"], &entry["ports"][0]["name"]]);
    let want =
        [(7, A, "t1"), (8, A, "t3"), (8, B, "t3")].map(|(vlan, group, name)| json!([vlan, group, name]));
    assert_eq!(listed.map(|entry| json!(entry)).collect::<Vec<_>>(), want);
}

#[test]
fn a_reload_turns_it_on_and_off() {
    let host = Host::new();
    let text = "[listen]\nenabled = false\n[switch]\nsnoop = true\nsnoop_interval = 4\n";
    let config = host.file("etherws.toml", text);
    let switch = Switch::start(&host, &["--config", &config]);
    let [t0, t1] = ["t0", "t1"].map(|name| tap(&host, &switch, name));
    goes_to(&t0, [&t1], 1, NOBODY, [false]);
    std::fs::write(&config, text.replace("snoop = true", "snoop = false")).expect("write");
    let said = switch.ctl_ok(&["reload"]);
    assert!(said.contains("snoop false") && !said.contains("snoop_interval"), "{said}");
    assert_eq!(groups(&switch)["snoops"], false);
    goes_to(&t0, [&t1], 1, NOBODY, [true]);
    std::fs::write(&config, text).expect("write");
    assert!(switch.ctl_ok(&["reload"]).contains("snoop true"));
    goes_to(&t0, [&t1], 1, NOBODY, [false]);
    switch.ctl_ok(&["saveconf"]);
    let saved = std::fs::read_to_string(&config).expect("saved");
    assert!(saved.contains("snoop = true") && saved.contains("snoop_interval = 4"), "{saved}");
}

#[test]
fn datagrams_that_a_kernel_sends_as_one_go_the_same_way() {
    let host = Host::new();
    let (switch, _) = snooping(&host, &["--no-listen"], &["t1", "t2"]);
    switch.ctl_ok(&["addport", "tap", "t0", "--address", "10.9.0.1/24"]);
    let [t0, t1, t2] = ["t0", "t1", "t2"].map(|tap| Wire::open(&host, tap));
    let _member = join(&host, "t1", A);
    goes_to(&t0, [&t1, &t2], 1, A, [true, false]);
    let sender = inside(&host, || UdpSocket::bind("10.9.0.1:0")).expect("bind");
    setsockopt(&sender, sockopt::UdpGsoSegment, &1_000).expect("UDP_SEGMENT");
    let to: SocketAddr = format!("{A}:9").parse().expect("an address");
    host.ok(&["ip", "route", "add", "239.0.0.0/8", "dev", "t0"]);
    let bytes: Vec<u8> = (0..20_000u32).map(|n| (n / 1_000) as u8 + 1).collect();
    inside(&host, || sender.send_to(&bytes, to)).expect("sent");
    let mut seen = std::collections::BTreeSet::new();
    let deadline = Instant::now() + LIMIT;
    while seen.len() < 20 {
        let got = t1.next(deadline).unwrap_or_else(|| panic!("{} of 20 datagrams came", seen.len()));
        if got[..6] == [0x01, 0x00, 0x5e, 1, 2, 3] && got.len() > 1_000 {
            seen.extend(got[42..].iter().copied().filter(|byte| (1..=20).contains(byte)));
        }
    }
    let marker = frame(BROADCAST, mac(1), &[], &payload(60));
    t0.send(&marker);
    let deadline = Instant::now() + LIMIT;
    while let Some(got) = t2.next(deadline) {
        assert!(got[..6] != [0x01, 0x00, 0x5e, 1, 2, 3], "it came where nobody asked");
        if got == marker {
            return;
        }
    }
    panic!("the marker never came");
}

#[test]
fn over_a_link_it_goes_both_ways_and_one_of_two_switches_asks() {
    let hosts = TwoHosts::new();
    let ca = Ca::new("lab");
    let pem = ca.server(&hosts.b, "b", &[&hosts.link.b.to_string()]);
    let listen = ["--sslcert", &pem.cert, "--sslkey", &pem.key];
    let (a, near) = snooping(&hosts.a, &["--no-listen"], &["t0", "t1"]);
    let (b, far) = snooping(&hosts.b, &listen, &["t0", "t1"]);
    let file = hosts.a.file("ca.pem", &ca.pem);
    let url = format!("wss://{}/", hosts.link.b);
    a.ctl_ok(&["addport", "client", &url, "--cacerts", &file, "--name", "link"]);
    a.wait_state("link", "up");
    let ([a0, a1], [b0, b1]) = (&near[..], &far[..]) else { unreachable!() };
    let _members = [join(&hosts.b, "t0", A), join(&hosts.a, "t1", B), join(&hosts.b, "t1", SIX)];
    goes_to(a0, [a1, b0, b1], 1, A, [false, true, false]);
    goes_to(b0, [b1, a0, a1], 2, B, [false, false, true]);
    goes_to(a0, [a1, b0, b1], 1, SIX, [false, false, true]);
    for family in ["ipv4", "ipv6"] {
        wait_until(&format!("one of them asks for {family}"), LIMIT, || {
            let own = [&a, &b].map(|switch| querier(switch, family)["address"].is_null());
            own[0] != own[1]
        });
    }
    // As it has settled, the same, and what nobody wants goes no further than to who asks.
    goes_to(a0, [a1, b0, b1], 1, A, [false, true, false]);
    goes_to(b0, [b1, a0, a1], 2, B, [false, false, true]);
    goes_to(a0, [a1, b0, b1], 1, NOBODY, [false; 3]);
    // A link that comes up again is asked, and gets everything meanwhile, however short it was away.
    wait_until("the link is asked", LIMIT, || {
        a.ctl_ok(&["setport", "link", "--shut", "1"]);
        a.ctl_ok(&["setport", "link", "--shut", "0"]);
        let settling = groups(&a)["settling"].as_array().cloned().unwrap_or_default();
        settling.iter().any(|port| port["name"] == "link")
    });
    goes_to(a0, [a1, b0, b1], 1, A, [false, true, false]);
}

/// The Internet checksum of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u64::from(u16::from_be_bytes([pair[0], pair[1]])));
    !((words.sum::<u64>() % 0xffff) as u16)
}

/// A message of IGMP to a group, its checksums put in.
fn igmp(station: u32, source: [u8; 4], to: [u8; 4], message: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    let check = checksum(&message).to_be_bytes();
    message[2..4].copy_from_slice(&check);
    let total = (24 + message.len() as u16).to_be_bytes();
    let mut head = vec![0x46, 0xc0, total[0], total[1], 0, 0, 0x40, 0, 1, 2, 0, 0];
    head.extend([&source[..], &to, &[0x94, 4, 0, 0]].concat());
    let check = checksum(&head).to_be_bytes();
    head[10..12].copy_from_slice(&check);
    [&[0x01, 0x00, 0x5e, to[1] & 0x7f, to[2], to[3]][..], &mac(station), &[8, 0], &head, &message].concat()
}
