//! Super-frames between every pair of port kinds (the star of `lab::star`, two of each kind): what leaves
//! one host arrives at the other, byte by byte, in frames that the receiving device can stand.
//!
//! ETHERWS_FILE_MIB is the size of a transfer; at 1024 the whole takes long.

mod lab;

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use lab::capture::KernelLog;
use lab::packets::{TCP, UDP};
use lab::star::{Hosts, KINDS, Kind, Star, Station, Tagged, two_of_each};
use lab::streams::{Content, DATAGRAM, MTU, Seen, tcp, udp};
use lab::switch::TwoHosts;
use lab::{SOON, inside, pair, wait_until};
use nix::sys::socket::{setsockopt, sockopt};

/// TCP and UDP from one station to the other, captured there.
fn transfer(content: &Arc<Content>, from: &Station, to: &Station, v6: bool, ecn: bool, size: usize) {
    let ip = if v6 { to.v6 } else { to.v4 };
    let what = format!("{:?} ({:?}) -> {:?} ({:?}), {ip}", from.kind, from.tagged, to.kind, to.tagged);
    for protocol in [TCP, UDP] {
        let address = SocketAddr::new(ip, 5001);
        let count = (size / DATAGRAM / 8).max(120);
        let capture = Seen::new(content, address.port()).capture(to.host, "e0");
        match protocol {
            TCP => tcp(content, from.host, to.host, address, size),
            _ => udp(content, from.host, to.host, address, count),
        }
        let (mut seen, lost) = capture.stop();
        let what = format!("{what}, {}", if protocol == TCP { "TCP" } else { "UDP" });
        assert!(seen.wrong.is_empty(), "{what}: {:#?}", seen.wrong);
        match protocol {
            TCP => assert!(lost > 0 || seen.is_whole(size), "{what}: not the whole stream was seen"),
            _ => assert!(
                lost > 0 || seen.datagrams.iter().copied().eq(0..count),
                "{what}: {:?}",
                seen.datagrams
            ),
        }
        assert!(seen.frames > 0, "{what}");
        if from.kind.is_super() && to.kind.is_super() {
            assert!(seen.supers > 0 && seen.longest > MTU, "{what}: no super-frame among {}", seen.frames);
        }
        if to.kind == Kind::Plain {
            assert_eq!((seen.supers, seen.partial), (0, 0), "{what}");
            assert!(seen.longest <= MTU, "{what}: {}", seen.longest);
        }
        let tags = to.tagged == Tagged::Outside && !to.kind.is_link();
        assert_eq!(seen.untagged, if tags { 0 } else { seen.frames }, "{what}: tags");
        if protocol == TCP {
            assert_eq!(seen.ecn > 0, ecn, "{what}: ECN");
        }
    }
}

/// Every ordered pair of kinds: IPv4 from the first five stations to the others, IPv6 back.
fn every_pair(one: Tagged, other: Tagged, ecn: bool, size: usize) {
    let mut log = KernelLog::open();
    let hosts = Hosts::new(&two_of_each(one, other));
    for (_, _, host, _) in &hosts.others {
        // 1: ask for it. 2, the default: agree when asked.
        host.ok(&["sysctl", "-qw", &format!("net.ipv4.tcp_ecn={}", if ecn { 1 } else { 2 })]);
    }
    let star = Star::new(&hosts);
    let content = Content::new();
    let (first, second) = star.stations.split_at(KINDS.len());
    for a in first {
        for b in second {
            transfer(&content, a, b, false, ecn, size);
            transfer(&content, b, a, true, ecn, size);
        }
    }
    nothing_was_refused(&star);
    let complaints = log.as_mut().map(KernelLog::complaints).unwrap_or_default();
    assert!(complaints.is_empty(), "{complaints:#?}");
}

/// Nothing that a kernel made was dropped for what it was, and no kernel refused what we made of it.
#[track_caller]
fn nothing_was_refused(star: &Star) {
    for switch in star.others.iter().chain([&star.centre]) {
        for entry in switch.entries("listCounters") {
            for (reason, count) in entry["drops"].as_object().expect("drops") {
                let bad =
                    ["gso-", "checksum-", "offload-", "vnet-"].iter().any(|word| reason.starts_with(word))
                        || ["too-big", "oversize", "runt", "device-error"].contains(&reason.as_str());
                assert!(!bad, "{reason} {count} of {}", entry["name"]);
            }
        }
    }
}

/// Bytes of a transfer.
fn file_size(default_kib: usize) -> usize {
    match std::env::var("ETHERWS_FILE_MIB") {
        Ok(text) => text.parse::<usize>().expect("ETHERWS_FILE_MIB: a number") << 20,
        Err(_) => default_kib << 10,
    }
}

#[test]
fn every_pair_of_kinds_untagged() {
    every_pair(Tagged::Never, Tagged::Never, false, file_size(4096));
}

#[test]
fn every_pair_of_kinds_tagged_and_with_ecn() {
    every_pair(Tagged::Outside, Tagged::Inside, true, file_size(2048));
}

/// A station that nobody has heard: super-frames to it go everywhere, whole or split.
#[test]
fn a_flooded_super_frame_reaches_every_kind() {
    let hosts = Hosts::new(&two_of_each(Tagged::Never, Tagged::Never));
    let star = Star::new(&hosts);
    let content = Content::new();
    const COUNT: usize = 40;
    for from in &star.stations {
        for (ip, option) in [("10.77.0.200", "-4"), ("fd77::200", "-6")] {
            let neighbour =
                ["ip", option, "neigh", "replace", ip, "lladdr", "02:5e:aa:aa:aa:aa", "dev", "e0"];
            from.host.ok(&neighbour);
            let others = || star.stations.iter().filter(|to| !std::ptr::eq(*to, from));
            let captures: Vec<_> =
                others().map(|to| Seen::new(&content, 5002).capture(to.host, "e0")).collect();
            let address = SocketAddr::new(ip.parse().expect("an address"), 5002);
            let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = inside(from.host, || UdpSocket::bind(any)).expect("bind");
            setsockopt(&socket, sockopt::UdpGsoSegment, &(DATAGRAM as i32)).expect("UDP_SEGMENT");
            let bytes: Vec<_> = (0..COUNT).flat_map(|n| content.datagram(n, DATAGRAM)).collect();
            assert_eq!(socket.send_to(&bytes, address).expect("send"), bytes.len());
            // The order is kept: behind a broadcast that every host has seen nothing of it is left.
            let marker = SocketAddr::new("10.77.0.255".parse().expect("an address"), 5003);
            let markers: Vec<_> =
                others().map(|to| inside(to.host, || UdpSocket::bind(marker)).expect("bind")).collect();
            let sender = inside(from.host, || UdpSocket::bind("0.0.0.0:0")).expect("bind");
            sender.set_broadcast(true).expect("SO_BROADCAST");
            for socket in &markers {
                socket.set_read_timeout(Some(Duration::from_millis(500))).expect("timeout");
                wait_until("the broadcast arrives", SOON, || {
                    sender.send_to(b"marker", marker).expect("send");
                    match socket.recv(&mut [0; 16]) {
                        Ok(_) => true,
                        Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
                    }
                });
            }
            for (to, capture) in others().zip(captures) {
                let (seen, _) = capture.stop();
                let what = format!("{:?} -> {:?}, {ip}", from.kind, to.kind);
                assert!(seen.wrong.is_empty(), "{what}: {:#?}", seen.wrong);
                assert!(seen.datagrams.iter().copied().eq(0..COUNT), "{what}: {:?}", seen.datagrams);
                let whole = from.kind.is_super() && to.kind.is_super();
                assert!(!whole || seen.supers > 0, "{what}: split");
                assert!(
                    to.kind != Kind::Plain || (seen.supers, seen.partial) == (0, 0),
                    "{what}: not finished"
                );
            }
        }
    }
    nothing_was_refused(&star);
}

/// A segment that is longer than the far device's MTU is dropped there, by name, whatever its super-frame
/// is; the rest passes.
#[test]
fn segments_beyond_the_far_mtu_are_dropped_and_counted() {
    let hosts = TwoHosts::new();
    let pair = pair(&hosts);
    let content = Content::new();
    let (from, to) = (&hosts.a, &hosts.b);
    let address: SocketAddr = "10.1.0.2:5001".parse().expect("an address");
    pair.b.ctl_ok(&["setif", "t0", "--mtu", "1300"]);
    // The receiver's MSS is that of its MTU.
    tcp(&content, from, to, address, 1 << 20);
    udp(&content, from, to, address, 200);
    assert_eq!(pair.b.drops("too-big"), 0, "{}", pair.b.all_drops());

    // Now it says 1,460 all the same.
    to.ok(&["ip", "route", "replace", "10.1.0.0/24", "dev", "t0", "src", "10.1.0.2", "advmss", "1460"]);
    let listener = inside(to, || TcpListener::bind(address)).expect("listen");
    let mut out = from.connect("10.1.0.2:5001").expect("connect");
    let (incoming, _) = listener.accept().expect("accept");
    out.set_nonblocking(true).expect("non-blocking");
    assert!(out.write(content.at(0, 100_000)).expect("into the socket's buffer") > 2 * 1460);
    wait_until("segments are dropped", SOON, || pair.b.drops("too-big") > 0);
    incoming.set_nonblocking(true).expect("non-blocking");
    assert!(incoming.peek(&mut [0]).is_err(), "a segment of 1,460 bytes got through");
    let of_tap: u64 = {
        let entries = pair.b.entries("listCounters");
        let tap = entries.iter().find(|entry| entry["name"] == "t0").expect("t0");
        tap["drops"]["too-big"].as_u64().unwrap_or(0)
    };
    assert_eq!(of_tap, pair.b.drops("too-big"), "{}", pair.b.all_drops());
    // Datagrams that fit still pass in super-frames larger than any MTU.
    udp(&content, from, to, "10.1.0.2:5004".parse().expect("an address"), 200);
    assert_eq!((pair.a.state("link").as_str(), pair.b.state("t0").as_str()), ("up", "up"));
}

/// An independent judge of checksums.
#[test]
fn tshark_finds_no_bad_checksum_at_a_plain_tap() {
    let kinds = [(Kind::Plain, Tagged::Never), (Kind::Tap, Tagged::Never), (Kind::Vnet, Tagged::Never)];
    let hosts = Hosts::new(&kinds);
    let star = Star::new(&hosts);
    let content = Content::new();
    let [to, senders @ ..] = &star.stations[..] else { panic!("three stations") };
    if !to.host.run(&["tshark", "--version"]).status.success() {
        // Past the harness, which swallows the output of tests that pass.
        let text =
            "SKIPPED tshark_finds_no_bad_checksum_at_a_plain_tap: no tshark (apt-get install tshark)\n";
        std::io::stderr().write_all(text.as_bytes()).expect("stderr");
        return;
    }
    let file = to.host.dir().join("e0.pcap").display().to_string();
    let args = [
        "tcpdump",
        "-i",
        "e0",
        "-Q",
        "in",
        "-s0",
        "-B65536",
        "-U",
        "--immediate-mode",
        "-Zroot",
        "-w",
        &file,
        "tcp or udp",
    ];
    let mut tcpdump = to.host.spawn("tcpdump", &args);
    wait_until("tcpdump listens", SOON, || tcpdump.log().contains("listening on"));
    for from in senders {
        for ip in [to.v4, to.v6] {
            let address = SocketAddr::new(ip, 5001);
            tcp(&content, from.host, to.host, address, 1 << 20);
            udp(&content, from.host, to.host, address, 200);
        }
    }
    // What it has not read when it is told to end it does not write.
    let last = inside(senders[0].host, || UdpSocket::bind("0.0.0.0:0")).expect("bind");
    last.send_to(b"the very last datagram", (to.v4, 5009)).expect("send");
    wait_until("tcpdump has written all", SOON, || {
        std::fs::read(&file).expect("the capture").windows(22).any(|bytes| bytes == b"the very last datagram")
    });
    tcpdump.signal(nix::sys::signal::Signal::SIGINT);
    tcpdump.wait(SOON);
    let count = |filter: &str| {
        let prefs = ["ip", "tcp", "udp"].map(|protocol| format!("{protocol}.check_checksum:TRUE"));
        let mut args = vec!["tshark", "-n", "-r", &file];
        prefs.iter().for_each(|pref| args.extend(["-o", pref]));
        args.extend(["-Y", filter, "-T", "fields", "-e", "frame.number"]);
        to.host.ok(&args).lines().count()
    };
    let bad = count("ip.checksum.status == 0 || tcp.checksum.status == 0 || udp.checksum.status == 0");
    assert_eq!(bad, 0, "see {file}");
    let (tcp, udp) = (count("tcp.checksum.status == 1"), count("udp.checksum.status == 1"));
    // Four mebibytes in segments of 1,448 bytes, 800 datagrams: it did look at them.
    assert!(tcp > 2_000 && udp >= 800, "{tcp} of TCP, {udp} of UDP");
    assert_eq!(count("frame.len > 1514"), 0);
}
