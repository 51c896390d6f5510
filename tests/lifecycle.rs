//! Beginnings and ends: drained, refused, reloaded under load, killed, robbed of its devices.

mod lab;

use std::fs;
use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use lab::frames::{BROADCAST, TYPE, Wire, ethertype, frame, mac, passes, payload};
use lab::servers::Ca;
use lab::switch::TwoHosts;
use lab::ws::{self, BINARY, CLOSE, FIN, RawWs, UPGRADE};
use lab::{Host, SOON, Switch, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

#[test]
fn drained_every_link_gets_what_was_accepted_and_then_1001() {
    let host = Host::new();
    let mut switch = Switch::start(&host, &["--port", "8080"]);
    switch.ctl_ok(&["addport", "tap", "t0"]);
    let mut peers: Vec<RawWs> = (0..40).map(|_| ws::open(&host, "127.0.0.1:8080")).collect();
    wait_until("all are ports", SOON, || switch.entries("listPort").len() == 41);
    let wire = Wire::open(&host, "t0");
    let sent: Vec<_> = (0..100).map(|n| frame(BROADCAST, mac(n), &[], &payload(1000))).collect();
    let before = switch.port("t0")["rx"].as_u64().expect("rx");
    sent.iter().for_each(|frame| wire.send(frame));
    wait_until("all are accepted", SOON, || switch.port("t0")["rx"].as_u64() >= Some(before + 100));
    // Some go at the very moment, with and without a word; some come.
    let late = [0; 3].map(|_| host.connect("127.0.0.1:8080").expect("connect"));
    peers.truncate(35);
    peers.drain(30..).for_each(|mut peer| peer.send(CLOSE, &1000u16.to_be_bytes()));
    switch.process.signal(Signal::SIGTERM);
    for (number, peer) in peers.iter_mut().enumerate() {
        let mut got = Vec::new();
        let code = loop {
            match peer.next(SOON) {
                Some((CLOSE, code)) => break code,
                Some((BINARY, frame)) if ethertype(&frame) == TYPE => got.push(frame),
                Some(_) => {}
                None => panic!("peer {number}: no Close behind {} frames", got.len()),
            }
        };
        assert!(got == sent, "peer {number}: {} frames", got.len());
        assert_eq!(code[..2], 1001u16.to_be_bytes(), "peer {number}");
        peer.send(CLOSE, &code);
    }
    assert_eq!(switch.process.wait(SOON), 0, "{}", switch.process.log());
    drop(late);
}

#[test]
fn a_link_deleted_just_before_the_end_has_its_last_words_too() {
    let host = Host::new();
    let mut switch = Switch::start(&host, &["--port", "8080"]);
    switch.ctl_ok(&["addport", "tap", "t0", "--mtu", "60000", "--no-offload"]);
    let mut peer = ws::open(&host, "127.0.0.1:8080");
    let port = switch.wait_server_port();
    let wire = Wire::open(&host, "t0");
    // More than the kernel takes of a peer that does not read, and less than a link's queue.
    let sent: Vec<_> = (0..70).map(|n| frame(BROADCAST, mac(n), &[], &payload(58_000))).collect();
    let before = switch.port("t0")["rx"].as_u64().expect("rx");
    for (number, frame) in (1..).zip(&sent) {
        wire.send(frame);
        wait_until("it is accepted", SOON, || switch.port("t0")["rx"].as_u64() >= Some(before + number));
    }
    assert_eq!(switch.drops("queue-full"), 0);
    switch.rpc_ok("delPort", json!({"port": port["port"]}));
    switch.process.signal(Signal::SIGTERM);
    let mut got = Vec::new();
    while let Some((opcode, bytes)) = peer.next(SOON) {
        match opcode {
            BINARY if ethertype(&bytes) == TYPE => got.push(bytes),
            CLOSE => break,
            _ => {}
        }
    }
    // Of as many flows, each of which comes when it is its turn.
    let (mut got, mut sent) = (got, sent);
    got.sort_unstable();
    sent.sort_unstable();
    assert!(got == sent, "{} of {} frames", got.len(), sent.len());
    assert_eq!(switch.process.wait(SOON), 0);
}

#[test]
fn a_refused_link_hears_why_however_much_it_has_said() {
    let host = Host::new();
    // alice:secret
    let users = host.file("htpasswd", "alice:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n");
    let config = host.file(
        "etherws.toml",
        format!("[listen]\nport = 8080\nhtpasswd = {users:?}\n[[user]]\nuser = 'alice'\nlinks = 2\n"),
    );
    let switch = Switch::start(&host, &["--config", &config]);
    let addr = "127.0.0.1:8080";
    let request =
        format!("GET / HTTP/1.1\r\nHost: {addr}\r\n{UPGRADE}Authorization: Basic YWxpY2U6c2VjcmV0\r\n\r\n");
    let open = |more: &[u8]| {
        let (answer, mut ws) = ws::exchange(&host, addr, &request);
        assert_eq!(answer.status, 101, "{}", answer.head);
        ws.send_raw(more);
        ws
    };
    let _two = [open(b""), open(b"")];
    wait_until("both are ports", SOON, || switch.entries("listPort").len() == 2);
    // More than a receive buffer takes: some of it is unread when the link is closed.
    let talk = ws::frame(FIN | BINARY, &frame(BROADCAST, mac(1), &[], &payload(1400))).repeat(400);
    for _ in 0..20 {
        let mut third = open(&talk);
        assert_eq!(third.close_code(), 1013);
        // An end and not a reset, which a slower path would let overtake the Close.
        let end = third.stream.read(&mut [0; 16]);
        assert!(matches!(end, Ok(0)), "{end:?}");
    }
    assert_eq!(switch.entries("listPort").len(), 2);
}

#[test]
fn twenty_reloads_under_load_cost_no_frame() {
    let hosts = TwoHosts::new();
    let ca = Ca::new("lab");
    let name = hosts.link.b.to_string();
    let pem = ca.server(&hosts.b, "server", &[&name]);
    let [cert, key] = [&pem.cert, &pem.key].map(|file| fs::read(file).expect("PEM"));
    let text = |extra: &str| {
        format!("[listen]\nport = 8443\nsslcert = {:?}\nsslkey = {:?}\n{extra}", pem.cert, pem.key)
    };
    let tap = "[[port]]\ntype = 'tap'\ntarget = 't1'\n";
    let config = hosts.b.file("etherws.toml", text(""));
    let b = Switch::start(&hosts.b, &["--config", &config]);
    let a = Switch::start(&hosts.a, &["--no-listen"]);
    for switch in [&a, &b] {
        switch.ctl_ok(&["addport", "tap", "t0"]);
    }
    let ca_file = hosts.a.file("ca.pem", &ca.pem);
    a.ctl_ok(&["addport", "client", &format!("wss://{name}:8443/"), "--name", "far", "--cacerts", &ca_file]);
    a.wait_state("far", "up");
    let (from, to) = (Wire::open(&hosts.a, "t0"), Wire::open(&hosts.b, "t0"));
    // From here on the way is known, and nothing is flooded.
    passes(&to, &from, &frame(BROADCAST, mac(1), &[], &payload(100)));
    passes(&from, &to, &numbered(u32::MAX));

    let (done, sent, got) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Never more under way than a TAP's queue takes: what is lost is lost by the switches.
            while !done.load(Relaxed) {
                let next = sent.load(Relaxed);
                if next - got.load(Relaxed) < 200 {
                    from.send(&numbered(next));
                    sent.store(next + 1, Relaxed);
                }
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        let receiver = scope.spawn(|| {
            let mut silent = 0;
            while !done.load(Relaxed) || got.load(Relaxed) < sent.load(Relaxed) {
                // 30 s, told by waits and not by a clock, which a machine put to sleep lets jump.
                assert!(silent < 300, "only {got:?} of {sent:?} came: {} {}", a.all_drops(), b.all_drops());
                let Some(bytes) = to.next(Instant::now() + Duration::from_millis(100)) else {
                    silent += 1;
                    continue;
                };
                // Copies of the first one may still come.
                if ethertype(&bytes) != TYPE || bytes == numbered(u32::MAX) {
                    continue;
                }
                assert_eq!(bytes, numbered(got.load(Relaxed)), "lost, doubled or out of order");
                got.fetch_add(1, Relaxed);
                silent = 0;
            }
        });
        for round in 1..=20usize {
            // Another certificate each time (a second copy of it is one), and a port that comes and goes.
            hosts.b.file("server.crt", if round % 2 == 0 { cert.clone() } else { cert.repeat(2) });
            hosts.b.file("server.key", &key);
            hosts.b.file("etherws.toml", text(if round % 2 == 0 { "" } else { tap }));
            b.process.signal(Signal::SIGHUP);
            let word = if round % 2 == 0 { "reloaded: port t1 removed" } else { "reloaded: port t1 added" };
            wait_until(&format!("reload {round}"), SOON, || {
                b.process.log().matches(word).count() >= round.div_ceil(2) || receiver.is_finished()
            });
        }
        done.store(true, Relaxed);
    });
    assert!(sent.load(Relaxed) > 500 && a.port("far")["connects"] == 1, "{sent:?}");
    assert_eq!(b.process.log().matches("reloaded: certificates").count(), 20);
}

#[test]
fn bad_71_a_device_that_comes_up_again_resumes_and_one_deleted_fails_alone() {
    let host = Host::new();
    let switch = Switch::start(&host, &["--no-listen"]);
    host.ok(&["ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1"]);
    host.ok(&["ip", "link", "set", "v1", "up"]);
    for port in [["tap", "t0"], ["tap", "t1"], ["netdev", "v0"]] {
        switch.ctl_ok(&[&["addport"], &port[..]].concat());
    }
    let reaches = |device: &str| {
        let (from, to) = (Wire::open(&host, device), Wire::open(&host, "t1"));
        passes(&from, &to, &frame(BROADCAST, mac(1), &[], &payload(100)));
        passes(&to, &from, &frame(BROADCAST, mac(2), &[], &payload(100)));
    };
    for (device, far) in [("t0", "t0"), ("v0", "v1")] {
        reaches(far);
        host.ok(&["ip", "link", "set", device, "down"]);
        switch.wait_state(device, "down");
        host.ok(&["ip", "link", "set", device, "up"]);
        switch.wait_state(device, "up");
        reaches(far);
    }
    host.ok(&["ip", "link", "del", "v0"]);
    switch.wait_state("v0", "failed");
    reaches("t0");
    host.ok(&["ip", "link", "del", "t0"]);
    switch.wait_state("t0", "failed");
    switch.ctl_ok(&["addport", "tap", "t2"]);
    reaches("t2");
}

#[test]
fn bad_76_killed_under_a_supervisor_it_comes_back_with_its_ports() {
    let hosts = TwoHosts::new();
    let b = Switch::start(&hosts.b, &[]);
    b.ctl_ok(&["addport", "tap", "t0", "--address", "10.1.0.2/24"]);
    let config = hosts.a.file("etherws.toml", "[listen]\nenabled = false\n");
    // What Restart=on-failure does.
    let supervisor = ["sh", "-c", "until \"$@\"; do sleep 0.1; done", "sh"];
    let mut a = Switch::start_by(&hosts.a, &supervisor, &["--config", &config]);
    a.ctl_ok(&["addport", "tap", "t0", "--persist"]);
    a.ctl_ok(&["addport", "client", &format!("ws://{}/", hosts.link.b), "--name", "far"]);
    a.ctl_ok(&["saveconf"]);
    hosts.a.ok(&["ip", "link", "add", "br0", "type", "bridge"]);
    hosts.a.ok(&["ip", "link", "set", "t0", "master", "br0"]);
    hosts.a.ok(&["ip", "addr", "add", "10.1.0.1/24", "dev", "br0"]);
    hosts.a.ok(&["ip", "link", "set", "br0", "up"]);
    a.wait_state("far", "up");
    hosts.a.ping("10.1.0.2");
    for _ in 0..3 {
        let killed = daemon(&hosts.a).expect("a daemon");
        kill(killed, Signal::SIGKILL).expect("kill");
        let mut again = None;
        wait_until("another daemon runs", SOON, || {
            again = daemon(&hosts.a).filter(|pid| *pid != killed);
            again.is_some()
        });
        wait_until("it answers", SOON, || {
            lab::switch::call(a.sock(), "etherws.control.getVersion", json!({})).is_ok()
        });
        a.wait_state("far", "up");
        assert_eq!(a.state("t0"), "up");
        assert!(
            hosts.a.ok(&["ip", "-o", "link", "show", "master", "br0"]).contains("t0"),
            "out of its bridge"
        );
        hosts.a.ping("10.1.0.2");
    }
    // Ended by wish it is not started again.
    kill(daemon(&hosts.a).expect("a daemon"), Signal::SIGTERM).expect("kill");
    assert_eq!(a.process.wait(SOON), 0);
}

fn numbered(number: u32) -> Vec<u8> {
    let mut payload = number.to_be_bytes().to_vec();
    payload.resize(200, number as u8);
    frame(mac(1), mac(2), &[], &payload)
}

/// The switch that runs in the host, whoever started it.
fn daemon(host: &Host) -> Option<Pid> {
    let pids = lab::sh(&["ip", "netns", "pids", host.name()]);
    let is =
        |pid: &&str| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == "etherws\n");
    pids.lines().find(is)?.parse().ok().map(Pid::from_raw)
}

#[test]
fn a_port_is_found_by_the_name_that_it_has_now() {
    let host = Host::new();
    let switch = Switch::start(&host, &["--port", "8080"]);
    switch.ctl_ok(&["addport", "tap", "t0"]);
    switch.ctl_ok(&["setport", "t0", "--name", "lan"]);
    assert!(switch.ctl_err(1, &["delport", "t0"]).contains("no port t0"));
    // That name is anybody's now.
    switch.ctl_ok(&["addport", "tap", "t1", "--name", "t0"]);
    assert_eq!((&switch.port("lan")["target"], &switch.port("t0")["target"]), (&json!("t0"), &json!("t1")));
    assert!(switch.ctl_err(1, &["setport", "t0", "--name", "lan"]).contains("another port is called lan"));
    switch.ctl_ok(&["setport", "t0", "--name", "t0"]);

    let is_there = |name: &str| switch.entries("listPort").iter().any(|port| port["name"] == name);
    let link = |name: &str| {
        let link = ws::open(&host, "127.0.0.1:8080");
        wait_until(name, SOON, || is_there(name));
        link
    };
    let (_first, second, _third) = (link("link"), link("link-2"), link("link-3"));
    drop(second);
    wait_until("it is gone", SOON, || !is_there("link-2"));
    let _again = link("link-2");
}
