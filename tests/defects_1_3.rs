//! The fourteen defects of etherws 1.3: each test fails on a switch that has its defect.

mod lab;

use std::io::Write;
use std::time::{Duration, Instant};

use lab::frames::{BROADCAST, Wire, frame, mac, mac_text, only_passes, passes, payload};
use lab::servers::Ca;
use lab::switch::{TwoHosts, call, post};
use lab::{Host, SOON, Switch, pair, sh, wait_until, ws};
use serde_json::json;

fn taps<'h>(host: &'h Host, names: &[&str], args: &[&str]) -> (Switch<'h>, Vec<Wire>) {
    let mut all = vec!["--no-listen"];
    all.extend(args);
    let switch = Switch::start(host, &all);
    names.iter().for_each(|name| drop(switch.ctl_ok(&["addport", "tap", name])));
    (switch, names.iter().map(|name| Wire::open(host, name)).collect())
}

#[test]
fn defect_01_a_frame_for_its_own_ingress_port_is_filtered() {
    let host = Host::new();
    let (switch, wires) = taps(&host, &["t0", "t1"], &[]);
    passes(&wires[0], &wires[1], &frame(BROADCAST, mac(1), &[], &payload(60)));
    let home = frame(mac(1), mac(2), &[], &payload(60)); // mac(1) lives where this comes from
    only_passes(&wires[0], &wires[1], &frame(BROADCAST, mac(2), &[], &payload(60)), &home);
    assert!(wires[0].collect(Duration::from_millis(200)).is_empty(), "sent back out");
    assert!(switch.all_drops().contains("filter"), "{}", switch.all_drops());
}

#[test]
fn defect_02_one_failed_write_does_not_end_a_flood() {
    let host = Host::new();
    let (switch, wires) = taps(&host, &["t0", "t1", "t2", "t3"], &[]);
    host.ok(&["ip", "link", "set", "t1", "down"]); // writing to it fails
    passes(&wires[0], &wires[2], &frame(BROADCAST, mac(1), &[], &payload(60)));
    passes(&wires[0], &wires[3], &frame(BROADCAST, mac(1), &[], &payload(60)));
    host.ok(&["ip", "link", "del", "t2"]);
    passes(&wires[0], &wires[3], &frame(BROADCAST, mac(1), &[], &payload(60)));
    assert_eq!(switch.state("t3"), "up");
}

#[test]
fn defect_03_dialling_blocks_nobody() {
    let hosts = TwoHosts::new();
    let (a, wires) = taps(&hosts.a, &["t0", "t1"], &[]);
    let silent = hosts.b.listen("0.0.0.0:8000"); // takes the connection and says nothing
    let start = Instant::now();
    for url in [format!("ws://{}:8000/", hosts.link.b), format!("wss://{}:8000/", hosts.link.b)] {
        a.ctl_ok(&["addport", "client", &url]);
    }
    let [x, y, z, _] = hosts.link.b.octets();
    a.ctl_ok(&["addport", "client", &format!("ws://{x}.{y}.{z}.99/")]); // nobody there
    assert!(start.elapsed() < Duration::from_secs(9), "addport waited: {:?}", start.elapsed());
    let start = Instant::now();
    for _ in 0..10 {
        passes(&wires[0], &wires[1], &frame(BROADCAST, mac(1), &[], &payload(60)));
    }
    assert!(start.elapsed() < Duration::from_secs(9), "frames waited: {:?}", start.elapsed());
    drop(silent);
}

#[test]
fn defect_03_what_tls_has_decrypted_does_not_wait_for_the_next_packet() {
    let hosts = TwoHosts::new();
    let ca = Ca::new("lab");
    let cert = ca.server(&hosts.b, "server", &[&hosts.link.b.to_string()]);
    let b = Switch::start(&hosts.b, &["--sslcert", &cert.cert, "--sslkey", &cert.key]);
    b.ctl_ok(&["addport", "tap", "t0"]);
    let wire = Wire::open(&hosts.b, "t0");
    // Many messages in one TLS record, then silence: all of them come out.
    let frames: Vec<_> = (0..60).map(|_| frame(BROADCAST, mac(1), &[], &payload(100))).collect();
    let mut roots = rustls::RootCertStore::empty();
    use rustls_pki_types::pem::PemObject;
    let der = rustls_pki_types::CertificateDer::from_pem_slice(ca.pem.as_bytes()).expect("CA");
    roots.add(der).expect("root");
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = rustls_pki_types::ServerName::from(std::net::IpAddr::from(hosts.link.b));
    let mut tls = rustls::ClientConnection::new(config.into(), name).expect("TLS");
    let mut tcp = hosts.a.connect(&format!("{}:443", hosts.link.b)).expect("connect");
    let mut stream = rustls::Stream::new(&mut tls, &mut tcp);
    let request = format!("GET / HTTP/1.1\r\nHost: {}\r\n{}\r\n", hosts.link.b, ws::UPGRADE);
    stream.write_all(request.as_bytes()).expect("request");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        std::io::Read::read_exact(&mut stream, &mut byte).expect("answer");
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    let record: Vec<u8> = frames.iter().flat_map(|bytes| ws::frame(ws::FIN | ws::BINARY, bytes)).collect();
    assert!(record.len() < 16_000, "one TLS record");
    stream.write_all(&record).expect("send");
    stream.flush().expect("flush");
    let got = wire.collect(Duration::from_secs(2));
    assert!(got == frames, "{} of {} came", got.len(), frames.len());
}

/// B's `netdev` port is one end of a veth; the other end is a machine behind it.
#[test]
fn defect_04_a_netdev_is_promiscuous_keeps_tags_and_does_not_hear_itself() {
    let host = Host::new();
    let machine = Host::new();
    host.ok(&["ip", "link", "add", "n0", "type", "veth", "peer", "name", "eth0", "netns", machine.name()]);
    machine.ok(&["ip", "link", "set", "eth0", "up"]);
    let (switch, wires) = taps(&host, &["t0", "t1"], &[]);
    switch.ctl_ok(&["addport", "netdev", "n0"]);
    let (tap, outside) = (&wires[0], Wire::open(&machine, "eth0"));
    // Frames for stations that are not the device itself come in.
    passes(&outside, tap, &frame(mac(77), mac(1), &[], &payload(60)));
    // Tags, which the kernel strips on the way in, are put back; both ways, both kinds.
    for tags in [&[(0x8100, 0x6007)][..], &[(0x88a8, 9)], &[(0x88a8, 9), (0x8100, 7)], &[(0x8100, 0xe000)]] {
        passes(&outside, tap, &frame(BROADCAST, mac(1), tags, &payload(60)));
        passes(tap, &outside, &frame(BROADCAST, mac(2), tags, &payload(60)));
    }
    // What the switch sends out of the device does not come back in.
    let sent = frame(BROADCAST, mac(3), &[], &payload(60));
    passes(tap, &outside, &sent);
    assert!(!tap.collect(Duration::from_millis(200)).contains(&sent), "its own frame came back");
    let station = switch.fdb().into_iter().find(|(_, mac_, _)| *mac_ == mac_text(mac(3)));
    assert_eq!(station.map(|(_, _, port)| port).as_deref(), Some("t0"), "{:?}", switch.fdb());
}

// defect_04, partial checksums and GSO: tests/dhcp.rs.

#[test]
fn defect_05_text_is_not_a_frame() {
    let hosts = TwoHosts::new();
    let b = Switch::start(&hosts.b, &[]);
    b.ctl_ok(&["addport", "tap", "t0"]);
    let wire = Wire::open(&hosts.b, "t0");
    let addr = format!("{}:80", hosts.link.b);
    let mut peer = ws::open(&hosts.a, &addr);
    // Bytes of a frame that are UTF-8, too.
    let (dst, src) = ([0x02, 0x41, 0x41, 0x41, 0x41, 0x41], [0x02, 0x42, 0x42, 0x42, 0x42, 0x42]);
    let mut text = [dst, src].concat();
    text.extend(b"\x08\x06 this is text and no frame, however much it looks like one");
    let marker = frame(BROADCAST, mac(1), &[], &payload(60));
    peer.send(ws::TEXT, &text);
    peer.send(ws::BINARY, &marker);
    let mut got = Vec::new();
    wait_until("the marker arrives", SOON, || {
        got.extend(wire.next(Instant::now() + Duration::from_millis(100)));
        got.contains(&marker)
    });
    assert!(!got.contains(&text), "text was switched");
    assert!(!b.fdb().iter().any(|(_, mac, _)| *mac == mac_text(src)), "text was learned from");
    peer.send(ws::TEXT, b"ping:abc");
    assert_eq!(peer.wait(ws::TEXT, SOON).as_deref(), Some(&b"pong:abc"[..]));
}

#[test]
fn defect_06_json_that_is_no_object_is_an_invalid_request() {
    let host = Host::new();
    let switch = Switch::start(&host, &["--no-listen"]);
    for body in ["1", "true", "null", "\"x\"", "[1]", "[]"] {
        let (status, text) = post(switch.sock(), "application/json", body).expect("an answer");
        assert!(status < 500, "{body}: HTTP {status} {text}");
        assert!(text.contains("-32600"), "{body}: HTTP {status} {text}");
    }
}

#[test]
fn defect_07_origins_are_checked_by_rule_on_both_services() {
    let hosts = TwoHosts::new();
    let b = Switch::start(
        &hosts.b,
        &[
            "--origin",
            "https://guests.example",
            "--ctlhost",
            "127.0.0.1",
            "--ctlport",
            "7867",
            "--ctlanonymous",
        ],
    );
    let addr = format!("{}:80", hosts.link.b);
    let ip = hosts.link.b;
    let status = |origin: &str| {
        ws::get(&hosts.a, &addr, "/", &format!("{}Origin: {origin}\r\n", ws::UPGRADE)).0.status
    };
    // Named by --origin; the service's own, whatever the scheme (old clients say http for wss).
    for good in ["https://guests.example".to_owned(), format!("http://{ip}"), format!("http://{ip}:80")] {
        assert_eq!(status(&good), 101, "{good}");
    }
    for bad in [
        "https://evil.example",
        "null",
        "https://guests.example.evil.example",
        "https://evilguests.example",
        "http://guests.example:8080",
        "https://sub.guests.example",
    ] {
        assert_eq!(status(bad), 403, "bad_13: {bad}");
    }
    let headers = format!("{}Origin: http://evil.example\r\n", ws::UPGRADE);
    let (answer, _) = ws::get(&hosts.b, "127.0.0.1:7867", "/ctl", &headers);
    assert_eq!(answer.status, 403, "bad_52: a page's WebSocket to control");
    drop(b);
}

#[test]
fn defect_08_a_client_port_reconnects_by_itself() {
    let hosts = TwoHosts::new();
    let mut pair = pair(&hosts);
    hosts.a.ping("10.1.0.2");
    let number = pair.a.port("link")["port"].clone();
    let rx = pair.a.port("link")["rx"].as_u64().expect("rx");
    pair.b.process.kill();
    wait_until("A notices", SOON, || pair.a.state("link") != "up");
    pair.b.kill_and_restart();
    pair.b.ctl_ok(&["addport", "tap", "t0", "--address", "10.1.0.2/24"]);
    pair.a.wait_state_for("link", "up", Duration::from_secs(30));
    hosts.a.ok(&["ip", "neigh", "flush", "all"]); // the new TAP has a new MAC
    hosts.a.ping("10.1.0.2");
    let link = pair.a.port("link");
    assert_eq!(link["port"], number);
    assert_eq!(link["connects"], 2);
    assert!(link["rx"].as_u64() > Some(rx), "counters go on: {link}");
}

#[test]
fn defect_09_the_running_state_survives_a_restart() {
    let host = Host::new();
    let config = host.file("etherws.toml", "[listen]\nenabled = false\n");
    let mut switch = Switch::start(&host, &["--config", &config]);
    switch.ctl_ok(&["addport", "tap", "t0", "--name", "lan", "--trunk", "5,7-9"]);
    switch.ctl_ok(&["setif", "lan", "--address", "10.1.0.1", "--netmask", "255.255.0.0"]);
    switch.ctl_ok(&["saveconf"]);
    switch.kill_and_restart();
    assert_eq!(switch.port("lan")["vlan"], "trunk 5,7-9");
    assert!(host.ok(&["ip", "-4", "addr", "show", "t0"]).contains("10.1.0.1/16"));
}

#[test]
fn defect_10_shutting_a_port_forgets_its_stations() {
    let host = Host::new();
    let (switch, wires) = taps(&host, &["t0", "t1", "t2"], &[]);
    passes(&wires[0], &wires[1], &frame(BROADCAST, mac(1), &[], &payload(60)));
    assert!(switch.fdb().iter().any(|(_, _, port)| port == "t0"));
    switch.ctl_ok(&["setport", "t0", "--shut", "1"]);
    assert!(!switch.fdb().iter().any(|(_, _, port)| port == "t0"), "{:?}", switch.fdb());
    // The station is found where it moved to.
    passes(&wires[1], &wires[2], &frame(mac(1), mac(9), &[], &payload(60)));
}

#[test]
fn defect_11_the_fdb_is_bounded_and_the_flooder_pays() {
    let host = Host::new();
    let (switch, wires) = taps(&host, &["t0", "t1"], &["--fdb-limit", "64"]);
    passes(&wires[1], &wires[0], &frame(BROADCAST, mac(1), &[], &payload(60)));
    for number in 0..1000 {
        wires[0].send(&frame(BROADCAST, mac(10_000 + number), &[], &payload(46)));
        if number % 50 == 0 {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    let rx = || switch.port("t0")["rx"].as_u64();
    wait_until("the flood has arrived", SOON, || rx() >= Some(900));
    let fdb = switch.fdb();
    assert!(fdb.len() <= 64, "{} entries", fdb.len());
    assert!(fdb.iter().any(|(_, mac_, _)| *mac_ == mac_text(mac(1))), "bad_37: the other port's entry stays");
}

#[test]
fn defect_12_short_frames_are_counted_not_told_about() {
    let hosts = TwoHosts::new();
    let b = Switch::start(&hosts.b, &[]);
    b.ctl_ok(&["addport", "tap", "t0"]);
    let wire = Wire::open(&hosts.b, "t0");
    let mut peer = ws::open(&hosts.a, &format!("{}:80", hosts.link.b));
    let before = b.process.log().len();
    for len in (0..14).cycle().take(700) {
        peer.send(ws::BINARY, &vec![0x5a; len]);
    }
    let shortest = frame(BROADCAST, mac(1), &[], &[]); // 14 bytes: bad_31
    peer.send(ws::BINARY, &shortest);
    let marker = frame(BROADCAST, mac(1), &[], &payload(60));
    peer.send(ws::BINARY, &marker);
    assert!(wire.receives(&marker, SOON), "the link stays");
    let runts: u64 = b
        .entries("listCounters")
        .iter()
        .filter_map(|entry| entry["drops"].as_object())
        .flat_map(|drops| drops.values().filter_map(serde_json::Value::as_u64))
        .filter(|count| *count == 700)
        .sum();
    assert_eq!(runts, 700, "{}", b.all_drops());
    let log = &b.process.log()[before..];
    assert!(log.lines().count() < 10, "the log speaks of each: {log}");
    assert!(!log.contains("5a5a") && !log.contains("panicked"), "{log}");
}

#[test]
fn defect_13_modern_password_hashes_work() {
    let hosts = TwoHosts::new();
    let file = hosts.b.file("htpasswd", sh(&["htpasswd", "-nbB", "-C", "8", "joe", "pw"]));
    let _b = Switch::start(&hosts.b, &["--htpasswd", &file]);
    let a = Switch::start(&hosts.a, &["--no-listen"]);
    let url = format!("ws://{}/", hosts.link.b);
    a.dials(&url, &["--user", "joe", "--passwd", "pw"]);
    a.dials_in_vain(&url, &["--user", "joe", "--passwd", "pW"], &["401"]);
    // An unknown user costs the same as a wrong password: nobody learns names by the clock.
    let addr = format!("{}:80", hosts.link.b);
    let time = |login: &str| {
        let basic = sh(&["sh", "-c", &format!("printf %s {login} | base64")]);
        let headers = format!("{}Authorization: Basic {}\r\n", ws::UPGRADE, basic.trim());
        let mut times: Vec<_> = (0..7)
            .map(|_| {
                let start = Instant::now();
                assert_eq!(ws::get(&hosts.a, &addr, "/", &headers).0.status, 401);
                start.elapsed()
            })
            .collect();
        times.sort();
        times[1]
    };
    let (known, unknown) = (time("joe:no"), time("nobody:no"));
    assert!(unknown * 4 > known, "unknown user {unknown:?}, wrong password {known:?}");
}

#[test]
fn defect_14_service_tags_are_vlans_too() {
    let host = Host::new();
    let (switch, wires) = taps(&host, &["t0", "t1"], &[]);
    passes(&wires[0], &wires[1], &frame(BROADCAST, mac(1), &[(0x88a8, 5)], &payload(60)));
    passes(&wires[0], &wires[1], &frame(BROADCAST, mac(2), &[(0x8100, 6)], &payload(60)));
    passes(&wires[0], &wires[1], &frame(BROADCAST, mac(3), &[(0x8100, 0xe000)], &payload(60)));
    let fdb = switch.fdb();
    for (number, vid) in [(1, 5), (2, 6), (3, 0)] {
        let entry = (vid, mac_text(mac(number)), "t0".to_owned());
        assert!(fdb.contains(&entry), "{entry:?} in {fdb:?}");
    }
    // Same station, other VLAN: not the same entry.
    let unicast = frame(mac(1), mac(8), &[(0x8100, 6)], &payload(60));
    passes(&wires[1], &wires[0], &unicast);
    drop(call(switch.sock(), "etherws.control.listFdb", json!({})));
}
