//! Several connections that are one link: one port, flows in order, whatever becomes of single connections.

mod lab;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use lab::frames::{BROADCAST, Wire, frame, mac, mac_text, passes, payload};
use lab::lossy::join_badly;
use lab::relay::Relay;
use lab::servers::{Ca, bulk_arrives_intact};
use lab::switch::TwoHosts;
use lab::{Host, SOON, Switch, join, said, wait_until};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(30);

/// A dials B through a relay by so many connections; each has TAP `t0`, 10.1.0.1 and 10.1.0.2.
fn several<'h>(hosts: &'h TwoHosts, connections: u8, args: &[&str]) -> (Switch<'h>, Switch<'h>, Relay) {
    let relay = Relay::start(&hosts.a, &format!("{}:80", hosts.link.b));
    let a = Switch::start(&hosts.a, &["--no-listen", "--threads", "2"]);
    let b = Switch::start(&hosts.b, &[&["--threads", "2"], args].concat());
    for (switch, number) in [(&a, 1), (&b, 2)] {
        switch.ctl_ok(&["addport", "tap", "t0", "--address", &format!("10.1.0.{number}/24")]);
    }
    let count = connections.to_string();
    a.ctl_ok(&["addport", "client", &relay.url(), "--name", "link", "--connections", &count]);
    (a, b, relay)
}

fn server(b: &Switch) -> Value {
    b.entries("listPort").into_iter().find(|entry| entry["type"] == "server").unwrap_or_default()
}

/// Both ends have so many connections.
fn wait_up(a: &Switch, b: &Switch, up: u64) {
    let both = || [a.port("link")["connections"]["up"].as_u64(), server(b)["connections"]["up"].as_u64()];
    wait_until(&format!("{up} connections at both ends: {:?}", both()), LIMIT, || both() == [Some(up); 2]);
}

/// A datagram of UDP from `port` of station 1 or 2, with a number in it.
fn datagram(from: u32, port: u16, number: u32, len: usize) -> Vec<u8> {
    let mut frame = [&mac(3 - from)[..], &mac(from), &[0x08, 0, 0x45, 0]].concat();
    frame.resize(len.max(60), 0);
    let ip = (frame.len() - 14) as u16;
    frame[16..18].copy_from_slice(&ip.to_be_bytes());
    frame[22..24].copy_from_slice(&[64, 17]);
    frame[26..34].copy_from_slice(&[10, 9, 0, 1, 10, 9, 0, 2]);
    let sum =
        frame[14..34].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u32>();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame[34..36].copy_from_slice(&port.to_be_bytes());
    frame[38..40].copy_from_slice(&(ip - 20).to_be_bytes());
    frame[42..46].copy_from_slice(&number.to_be_bytes());
    frame
}

/// Port and number of one.
fn numbered(frame: &[u8]) -> Option<(u16, u32)> {
    let is_ours = [1, 2].iter().any(|n| frame.starts_with(&mac(*n))) && frame.get(12..14)? == [0x08, 0];
    let port = u16::from_be_bytes(*frame.get(34..)?.first_chunk()?);
    is_ours.then_some((port, u32::from_be_bytes(*frame.get(42..)?.first_chunk()?)))
}

#[test]
fn a_link_of_four_connections_is_one_port_that_outlives_each_of_them() {
    let hosts = TwoHosts::new();
    let (a, b, relay) = several(&hosts, 4, &["--resume", "60s"]);
    wait_up(&a, &b, 4);
    assert_eq!((relay.count(), a.port("link")["connections"]["of"].as_u64()), (4, Some(4)));
    assert!(a.ctl_ok(&["listport"]).contains("4/4") && b.ctl_ok(&["listport"]).contains("4/4"));
    // As etherctl top shows it.
    let shown = a.rpc_ok("showProf", Value::Null)["ports"].clone();
    let of = |name: &str| {
        shown.as_array().and_then(|ports| ports.iter().find(|port| port["name"] == name)).expect("port")
    };
    assert_eq!(of("link")["connections"], serde_json::json!({"up": 4, "of": 4}));
    assert_eq!(of("t0").get("connections"), None);
    hosts.a.ping("10.1.0.2");
    let (before, near) = (server(&b), a.port("link")["port"].clone());
    let (far, wire) = (Wire::open(&hosts.b, "t0"), Wire::open(&hosts.a, "t0"));
    passes(&wire, &far, &frame(BROADCAST, mac(5), &[], &payload(60)));
    // One after the other; some are back before the next one goes.
    for n in [3, 0, 1, 0, 2, 0] {
        relay.cut_one(n);
        hosts.a.ping("10.1.0.2");
        assert_eq!((a.state("link").as_str(), server(&b)["state"].as_str()), ("up", Some("up")));
    }
    wait_up(&a, &b, 4);
    // And all of them at once.
    relay.cut();
    wait_up(&a, &b, 4);
    hosts.a.ping("10.1.0.2");
    let after = server(&b);
    assert_eq!((&after["port"], &after["name"]), (&before["port"], &before["name"]));
    assert_eq!(a.port("link")["port"], near);
    assert!(b.fdb().iter().any(|(_, mac, _)| *mac == mac_text(lab::frames::mac(5))), "{:?}", b.fdb());
    assert_eq!(b.entries("listPort").len(), 2);
    // A port that is deleted takes all of them with it, at either end.
    a.ctl_ok(&["delport", "link"]);
    wait_until("no connection is left", LIMIT, || relay.alive().is_empty() && server(&b).is_null());
    a.ctl_ok(&["addport", "client", &relay.url(), "--name", "link", "--connections", "2"]);
    wait_up(&a, &b, 2);
    b.ctl_ok(&["delport", server(&b)["name"].as_str().unwrap()]);
    wait_until("a new link of two", LIMIT, || relay.count() >= 4 && !server(&b).is_null());
    wait_up(&a, &b, 2);
    hosts.a.ping("10.1.0.2");
}

/// Flows that send much and flows that send little, in both directions, while connections are cut and come back and the link
/// gets a pace and loses it: what arrives of a flow is in order, and nothing comes twice.
#[test]
fn no_frame_overtakes_another_of_its_flow_while_connections_come_and_go() {
    const FLOWS: u16 = 12;
    let seed = 5;
    println!("seed {seed}");
    let hosts = TwoHosts::new();
    let (a, b, relay) = several(&hosts, 4, &["--resume", "60s"]);
    wait_up(&a, &b, 4);
    let wires = [Wire::open(&hosts.a, "t0"), Wire::open(&hosts.b, "t0")];
    let (done, least) = (AtomicBool::new(false), AtomicU64::new(u64::MAX));
    let got: Vec<BTreeMap<u16, Vec<u32>>> = std::thread::scope(|scope| {
        for (wire, from) in wires.iter().zip(1..) {
            let (done, least) = (&done, &least);
            scope.spawn(move || {
                let mut sent = 0;
                while !done.load(Relaxed) {
                    for port in 0..FLOWS {
                        // Every third is sparse: far below what may move.
                        if port % 3 != 0 || sent % 16 == 0 {
                            wire.send(&datagram(
                                from,
                                1_000 + port,
                                sent,
                                if port % 3 == 0 { 60 } else { 1_200 },
                            ));
                        }
                    }
                    sent += 1;
                    std::thread::sleep(Duration::from_millis(4));
                }
                least.fetch_min(sent.into(), Relaxed);
            });
        }
        let readers: Vec<_> = wires
            .iter()
            .map(|wire| {
                let done = &done;
                scope.spawn(move || {
                    let mut got = BTreeMap::<u16, Vec<u32>>::new();
                    let mut quiet = None;
                    loop {
                        match wire.next(Instant::now() + Duration::from_millis(500)) {
                            Some(frame) => {
                                if let Some((port, number)) = numbered(&frame) {
                                    got.entry(port).or_default().push(number);
                                }
                            }
                            None if quiet
                                .is_some_and(|since: Instant| since.elapsed() > Duration::from_secs(1)) =>
                            {
                                return got;
                            }
                            None => {
                                if done.load(Relaxed) {
                                    quiet.get_or_insert_with(Instant::now);
                                }
                            }
                        }
                    }
                })
            })
            .collect();
        let mut rng = StdRng::seed_from_u64(seed);
        // Long enough for flows to move before.
        std::thread::sleep(Duration::from_secs(3));
        let busy = relay.alive().iter().filter(|bytes| **bytes > 200_000).count();
        assert!(busy >= 3, "flows take their turns: {:?}", relay.alive());
        for n in 0..12 {
            // That takes flows from their connections, and lets them go again.
            match n {
                1 | 7 => _ = a.ctl_ok(&["setport", "link", "--pace", "80000000"]),
                4 | 10 => _ = a.ctl_ok(&["setport", "link", "--pace", "0"]),
                _ => (),
            }
            relay.cut_one(rng.random_range(0..4));
            std::thread::sleep(Duration::from_millis(rng.random_range(300..900)));
        }
        done.store(true, Relaxed);
        readers.into_iter().map(|reader| reader.join().unwrap()).collect()
    });
    wait_up(&a, &b, 4);
    let least = least.load(Relaxed) as usize;
    for (way, flows) in ["B to A", "A to B"].iter().zip(got) {
        assert_eq!(flows.len(), usize::from(FLOWS), "{way}");
        for (port, numbers) in flows {
            let wrong = numbers.windows(2).find(|pair| pair[0] >= pair[1]);
            assert_eq!(wrong, None, "{way}, flow {port}");
            let all = if (port - 1_000) % 3 == 0 { least.div_ceil(16) } else { least };
            assert!(numbers.len() > all / 2, "{way}, flow {port}: {} of {all}", numbers.len());
        }
    }
}

/// One packet in a hundred is lost and the round trip is 20 ms: each connection is slow then, and four are not.
#[test]
fn four_connections_over_a_lossy_path_carry_twice_what_one_does() {
    let (host_a, host_b) = (Host::new(), Host::new());
    let seed = 11;
    println!("seed {seed}");
    // What minds a loss. Others, such as bbr, do not know that these are none of congestion either.
    for host in [&host_a, &host_b] {
        host.ok(&["sysctl", "-qw", "net.ipv4.tcp_congestion_control=reno"]);
    }
    let path = join_badly(&host_a, &host_b, Duration::from_millis(10), 100, seed);
    let a = Switch::start(&host_a, &["--no-listen", "--threads", "2"]);
    let b = Switch::start(&host_b, &["--threads", "2"]);
    for (switch, number) in [(&a, 1), (&b, 2)] {
        switch.ctl_ok(&["addport", "tap", "t0", "--address", &format!("10.1.0.{number}/24")]);
    }
    let server = host_b.spawn("iperf3", &["iperf3", "-s", "-B", "10.1.0.2", "--forceflush"]);
    let goodput = |connections: &str| {
        let url = format!("ws://{}/", path.b);
        a.ctl_ok(&["addport", "client", &url, "--name", "link", "--connections", connections]);
        wait_until("all connections", LIMIT, || {
            let entry = a.port("link");
            entry["state"] == "up"
                && (connections == "1" || entry["connections"]["up"] == entry["connections"]["of"])
        });
        host_a.ping("10.1.0.2");
        let args = ["iperf3", "-c", "10.1.0.2", "-P", "4", "-t", "8", "-O", "2", "-J"];
        let answer: Value = serde_json::from_str(&host_a.ok(&args)).expect("iperf3 -J");
        a.ctl_ok(&["delport", "link"]);
        wait_until("B's end is gone", LIMIT, || b.entries("listPort").len() == 1);
        answer["end"]["sum_received"]["bits_per_second"].as_f64().expect("a rate") / 1e6
    };
    wait_until("iperf3 listens", SOON, || server.log().contains("listening"));
    // Somebody else's burst may fall into one of a pair; the median is none of its.
    let mut gains = [(); 3].map(|()| {
        let [one, four] = ["1", "4"].map(&goodput);
        println!("one connection {one:.1} Mb/s, four {four:.1}: {:.2}", four / one);
        four / one
    });
    gains.sort_by(f64::total_cmp);
    let (lost, all) = (path.lost.load(Relaxed), path.packets.load(Relaxed));
    assert!((0.005..0.03).contains(&(lost as f64 / all as f64)), "{lost} of {all}");
    assert!(gains[1] >= 2.0, "four connections did not carry twice what one does: {gains:.2?}");
}

/// Over TLS, with bulk each way: all connections are used, by threads of their own, and bytes arrive as they were sent.
#[test]
fn connections_over_tls_are_cut_in_the_middle_of_bulk() {
    let hosts = TwoHosts::new();
    let ca = Ca::new("lab");
    let cert = ca.server(&hosts.b, "server", &["127.0.0.1"]);
    let (tls_cert, tls_key) = (cert.cert.as_str(), cert.key.as_str());
    let args =
        ["--threads", "2", "--resume", "60s", "--port", "80", "--sslcert", tls_cert, "--sslkey", tls_key];
    let b = Switch::start(&hosts.b, &args);
    let a = Switch::start(&hosts.a, &["--no-listen", "--threads", "2"]);
    for (switch, number) in [(&a, 1), (&b, 2)] {
        switch.ctl_ok(&["addport", "tap", "t0", "--address", &format!("10.1.0.{number}/24")]);
    }
    let relay = Relay::start(&hosts.a, &format!("{}:80", hosts.link.b));
    let (url, ca) = (relay.url().replace("ws:", "wss:"), hosts.a.file("ca.pem", &ca.pem));
    a.ctl_ok(&["addport", "client", &url, "--name", "link", "--cacerts", &ca, "--connections", "3"]);
    wait_up(&a, &b, 3);
    assert!(a.port("link")["tls"].as_str().is_some_and(|tls| tls.contains("1.3")));
    hosts.a.ping("10.1.0.2");
    bulk_arrives_intact(&hosts.a, &hosts.b, "10.1.0.2", 4 << 20);
    several_threads_work(&hosts, &b);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in [1, 2, 0] {
                std::thread::sleep(Duration::from_millis(300));
                relay.cut_one(n);
            }
        });
        bulk_arrives_intact(&hosts.b, &hosts.a, "10.1.0.1", 16 << 20);
    });
    wait_up(&a, &b, 3);
    assert_eq!(b.entries("listPort").len(), 2);
}

/// Flows of one link are work for both threads, by the kernel's clock.
fn several_threads_work(hosts: &TwoHosts, switch: &Switch) {
    let spent = || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", switch.process.pid())).expect("threads");
        let read =
            |path: std::path::PathBuf, file: &str| std::fs::read_to_string(path.join(file)).expect(file);
        let data = tasks.map(|task| task.expect("a thread").path());
        let data = data.filter(|path| read(path.clone(), "comm").starts_with("data-"));
        // schedstat(5): the first figure is the time spent on a processor, in ns.
        let time = |path: std::path::PathBuf| {
            let text = read(path, "schedstat");
            text.split_whitespace().next().and_then(|ns| ns.parse::<u64>().ok()).expect("ns")
        };
        data.map(|path| (read(path.clone(), "comm"), time(path))).collect::<BTreeMap<_, _>>()
    };
    let before = spent();
    assert_eq!(before.len(), 2, "{before:?}");
    let _sink = hosts.b.spawn("iperf3", &["iperf3", "-s", "-B", "10.1.0.2"]);
    hosts.b.wait_port("10.1.0.2:5201");
    // Each has a connection by its ports: that all sixteen meet in one thread is one in five hundred.
    let sent = hosts.a.run_for(60, &["iperf3", "-c", "10.1.0.2", "-P", "16", "-n", "32M"]);
    assert!(sent.status.success(), "{}", said(&sent));
    let grown: Vec<_> = spent().into_iter().map(|(name, ns)| ns - before[&name]).collect();
    let sum: u64 = grown.iter().sum();
    assert!(grown.iter().all(|ns| ns * 10 > sum), "ns of each thread: {grown:?}");
}

#[test]
fn who_takes_one_connection_alone_is_linked_by_one_and_that_is_said() {
    let hosts = TwoHosts::new();
    let config = hosts.b.file("one.toml", "[limits]\nlink_connections = 1\n");
    let (a, b, relay) = several(&hosts, 4, &["--config", &config]);
    a.wait_state("link", "up");
    hosts.a.ping("10.1.0.2");
    let entry = a.port("link");
    assert_eq!((&entry["connections"]["up"], &entry["connections"]["of"]), (&1.into(), &4.into()));
    assert_eq!(entry["reason"], "the server takes one connection a link, not 4");
    // As often as it is dialled, it is told once.
    for connects in 2..4 {
        relay.cut();
        wait_until("it is back", LIMIT, || a.port("link")["connects"] == connects);
    }
    assert_eq!(a.process.log().matches("takes one connection").count(), 1);
    assert!(server(&b)["connections"].is_null());
    // Some are not all.
    let config = hosts.b.file("three.toml", "[limits]\nlink_connections = 3\n");
    drop(b);
    let b = Switch::start(&hosts.b, &["--config", &config]);
    wait_up(&a, &b, 3);
    assert_eq!(a.port("link")["reason"], "the server takes 3 connections a link, not 4");
}

/// A balancer that sends connections of one link to different servers.
#[test]
fn who_comes_to_another_server_costs_the_others_nothing() {
    let hosts = TwoHosts::new();
    let other = Host::new();
    let beyond = join(&hosts.a, &other);
    let (a, b, relay) = several(&hosts, 4, &[]);
    let c = Switch::start(&other, &[]);
    wait_up(&a, &b, 4);
    relay.turn(&format!("{}:80", beyond.b));
    // The first one, and then all but one: those that are left stay, however often the others are refused.
    for (n, up) in [(0, 3), (1, 2), (1, 1)] {
        relay.cut_one(n);
        let tries = relay.count() + 2;
        wait_until("it was refused more than once", LIMIT, || relay.count() > tries);
        wait_up(&a, &b, up);
        hosts.a.ping("10.1.0.2");
    }
    let entry = a.port("link");
    assert_eq!((&entry["connects"], &entry["state"]), (&1.into(), &"up".into()));
    assert!(entry["reason"].as_str().is_some_and(|why| why.contains("balancer")), "{entry}");
    assert!(server(&c).is_null());
    relay.turn(&format!("{}:80", hosts.link.b));
    wait_up(&a, &b, 4);
    assert_eq!((&a.port("link")["connects"], &a.port("link")["reason"]), (&1.into(), &Value::Null));
    // When none is left there is another link.
    relay.turn(&format!("{}:80", beyond.b));
    relay.cut();
    wait_up(&a, &c, 4);
    assert_eq!(a.port("link")["connects"], 2);
}

#[test]
fn how_many_connections_is_saved_and_bounded() {
    let host = Host::new();
    let file = host.file("etherws.toml", "[listen]\nresume = 30\n");
    let mut switch = Switch::start(&host, &["--config", &file]);
    switch.ctl_ok(&["addport", "client", "ws://127.0.0.1:1/", "--name", "l", "--connections", "3"]);
    switch.ctl_ok(&["saveconf"]);
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("connections = 3") && text.contains("resume = 30"), "{text}");
    switch.kill_and_restart();
    assert_eq!(switch.port("l")["connections"]["of"], 3);
    for bad in ["0", "17", "x"] {
        let why = switch.ctl_err(2, &["addport", "client", "ws://127.0.0.1:1/", "--connections", bad]);
        assert!(why.contains("--connections"), "{why}");
    }
    switch.ctl_err(2, &["addport", "tap", "t1", "--connections", "2"]);
}

/// A client that is linked to two nodes that are joined: the guard, and nothing else, keeps frames from going round.
#[test]
fn a_client_of_two_nodes_that_are_joined_is_no_loop() {
    let hosts = [Host::new(), Host::new(), Host::new()];
    let [client, one, two] = &hosts;
    let (to_one, to_two, between) = (join(client, one), join(client, two), join(one, two));
    let c = Switch::start(client, &["--no-listen"]);
    let [n1, n2] = [one, two].map(|host| Switch::start(host, &["--resume", "30s"]));
    for (number, switch) in [&c, &n1, &n2].into_iter().enumerate() {
        switch.ctl_ok(&["addport", "tap", "t0", "--address", &format!("10.1.0.{}/24", number + 1)]);
    }
    n1.ctl_ok(&[
        "addport",
        "client",
        &format!("ws://{}/", between.b),
        "--name",
        "nodes",
        "--connections",
        "2",
    ]);
    for (name, link) in [("first", &to_one), ("second", &to_two)] {
        let url = format!("ws://{}/", link.b);
        c.ctl_ok(&["addport", "client", &url, "--name", name, "--connections", "2"]);
    }
    let switches = [&c, &n1, &n2];
    let blocked = || {
        let ports = switches.iter().flat_map(|switch| switch.entries("listPort"));
        ports.filter(|port| port["state"] == "blocked").collect::<Vec<_>>()
    };
    wait_until("a port is blocked", LIMIT, || !blocked().is_empty());
    // Two may have been at it at once: then both open again, and one is first.
    let meet = || client.pings("10.1.0.2") && client.pings("10.1.0.3") && one.pings("10.1.0.3");
    wait_until("all hosts meet", Duration::from_secs(60), meet);
    wait_until("one port is blocked", Duration::from_secs(60), || blocked().len() == 1);
    let reason = blocked()[0]["reason"].as_str().unwrap_or_default().to_owned();
    assert!(reason.contains("loop"), "{reason}");
    let (out, far) = (Wire::open(client, "t0"), Wire::open(two, "t0"));
    passes(&out, &far, &frame(BROADCAST, mac(1), &[], &payload(60)));
    let last = frame(BROADCAST, mac(1), &[], &payload(61));
    out.send(&last);
    let copies = far.collect(Duration::from_secs(1)).into_iter().filter(|got| *got == last).count();
    assert!(copies <= 1, "it came {copies} times");
}
