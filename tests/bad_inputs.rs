//! Hostile and broken input from outside, numbered as in the project's list: each gets its named
//! answer, and the next guest is served as if nothing had been.

mod lab;

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use lab::frames::{BROADCAST, Wire, frame, mac, mac_text, only_passes, passes, payload};
use lab::switch::TwoHosts;
use lab::ws::{BINARY, CONTINUATION, FIN, PING, PONG, TEXT, UPGRADE};
use lab::{Host, SOON, Switch, sh, wait_until, ws};

struct Target<'h> {
    switch: Switch<'h>,
    guest: &'h Host,
    wire: Wire,
    addr: String,
}

impl<'h> Target<'h> {
    fn new(hosts: &'h TwoHosts, args: &[&str]) -> Self {
        let switch = Switch::start(&hosts.b, args);
        switch.ctl_ok(&["addport", "tap", "t0"]);
        let wire = Wire::open(&hosts.b, "t0");
        Self { switch, guest: &hosts.a, wire, addr: format!("{}:80", hosts.link.b) }
    }

    fn open(&self) -> ws::RawWs {
        ws::open(self.guest, &self.addr)
    }

    fn get(&self, headers: &str) -> ws::Answer {
        ws::get(self.guest, &self.addr, "/", headers).0
    }

    fn raw(&self, request: &str) -> ws::Answer {
        ws::exchange(self.guest, &self.addr, request).0
    }

    /// The switch lives and serves the next guest.
    #[track_caller]
    fn lives(&mut self) {
        let sent = frame(BROADCAST, mac(0xfeed), &[], &payload(60));
        self.open().send(BINARY, &sent);
        assert!(self.wire.receives(&sent, SOON), "not served any more\n{}", self.switch.process.log());
        assert!(self.switch.process.is_running());
        let log = self.switch.process.log();
        assert!(!log.contains("panicked"), "{log}");
    }

    /// These bytes end the link with this status code, and nothing of them reaches the TAP.
    #[track_caller]
    fn closes(&self, code: &[u16], bytes: &[u8]) {
        let mut peer = self.open();
        peer.send_raw(bytes);
        let got = peer.close_code();
        assert!(
            code.contains(&got),
            "closed with {got}, not {code:?}, after {:02x?}",
            &bytes[..bytes.len().min(20)]
        );
        assert!(peer.ends(SOON), "the connection stays after Close {got}");
        assert!(self.wire.collect(Duration::from_millis(100)).is_empty(), "something was delivered");
    }
}

#[test]
fn bad_01_a_header_trickled_byte_by_byte() {
    let hosts = TwoHosts::new();
    let mut target = Target::new(&hosts, &[]);
    let mut stream = target.guest.connect(&target.addr).expect("connect");
    stream.set_read_timeout(Some(Duration::from_millis(400))).expect("timeout");
    let start = Instant::now();
    let request = format!("GET / HTTP/1.1\r\nHost: x\r\nX-Long: {}", "y".repeat(1000));
    let ended = request.bytes().any(|byte| {
        let sent = stream.write_all(&[byte]);
        let read = stream.read(&mut [0; 512]);
        sent.is_err() || matches!(read, Ok(0)) || start.elapsed() > Duration::from_secs(20)
    });
    assert!(ended && start.elapsed() < Duration::from_secs(14), "held open for {:?}", start.elapsed());
    target.lives();
}

#[test]
fn bad_02_bad_03_bad_04_bad_05_bad_06_bad_07_bad_09_requests_that_are_none() {
    let hosts = TwoHosts::new();
    let mut target = Target::new(&hosts, &[]);
    let long = format!("X-Long: {}\r\n{UPGRADE}", "y".repeat(20_000));
    assert_eq!(target.get(&long).status, 431, "02");
    let many: String = (0..100).map(|n| format!("X-{n}: y\r\n")).collect();
    assert_eq!(target.get(&format!("{many}{UPGRADE}")).status, 431, "03");
    for request in [
        "\r\n\r\nrubbish\r\n\r\n",
        "GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n",
    ] {
        assert!(matches!(target.raw(request).status, 400 | 0), "04 {request:?}");
    }
    for lengths in [
        "Content-Length: 1\r\nContent-Length: 2\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: 99999999999999999999\r\n",
    ] {
        assert_eq!(target.get(&format!("{lengths}{UPGRADE}")).status, 400, "05 {lengths}");
    }
    let both = format!("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n{UPGRADE}");
    assert_ne!(target.get(&both).status, 101, "05");
    for version in ["12", "14", "8", "x"] {
        let answer = target.get(&UPGRADE.replace("Version: 13", &format!("Version: {version}")));
        assert_eq!(answer.status, 426, "06 {version}");
    }
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    assert_eq!(target.get(&UPGRADE.replace(key, "")).status, 400, "07 none");
    assert_eq!(target.get(&format!("{UPGRADE}{key}")).status, 400, "07 twice");
    assert!(matches!(target.raw("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").status, 400 | 0), "09");
    let plain = target.get("");
    assert_eq!(plain.status, 426, "a browser that looks in");
    target.lives();
}

#[test]
fn bad_08_nothing_is_switched_before_the_password() {
    let hosts = TwoHosts::new();
    let htpasswd = hosts.b.file("htpasswd", sh(&["htpasswd", "-nbs", "joe", "pw"]));
    let target = Target::new(&hosts, &["--htpasswd", &htpasswd]);
    let early = frame(BROADCAST, mac(1), &[], &payload(60));
    let mut request = format!("GET / HTTP/1.1\r\nHost: {}\r\n{UPGRADE}\r\n", target.addr).into_bytes();
    request.extend(ws::frame(FIN | BINARY, &early));
    let mut stream = target.guest.connect(&target.addr).expect("connect");
    stream.write_all(&request).expect("send");
    let mut head = [0; 12];
    stream.read_exact(&mut head).expect("answer");
    assert_eq!(&head[9..], b"401");
    assert!(!target.wire.receives(&early, Duration::from_millis(500)));
}

#[test]
fn bad_10_tls_to_a_plain_port_and_the_reverse() {
    let hosts = TwoHosts::new();
    let ca = lab::servers::Ca::new("lab");
    let cert = ca.server(&hosts.b, "server", &[&hosts.link.b.to_string()]);
    let _tls = Switch::start(&hosts.b, &["--sslcert", &cert.cert, "--sslkey", &cert.key]);
    let plain = Switch::start(&hosts.a, &[]);
    let start = Instant::now();
    let (answer, _) = ws::get(&hosts.a, &format!("{}:443", hosts.link.b), "/", UPGRADE);
    assert_ne!(answer.status, 101);
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    let mut stream = hosts.b.connect(&format!("{}:80", hosts.link.a)).expect("connect");
    let start = Instant::now();
    stream.write_all(&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3]).expect("a ClientHello's beginning");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(start.elapsed() < Duration::from_secs(3), "held for {:?}", start.elapsed());
    drop(plain);
}

#[test]
fn bad_11_deflate_is_not_chosen() {
    let hosts = TwoHosts::new();
    let mut target = Target::new(&hosts, &[]);
    let answer = target.get(&format!("{UPGRADE}Sec-WebSocket-Extensions: permessage-deflate\r\n"));
    assert_eq!(answer.status, 101);
    assert!(!answer.head.contains("extensions"), "{}", answer.head);
    target.lives();
}

#[test]
fn bad_14_a_server_that_is_none() {
    let hosts = TwoHosts::new();
    let a = Switch::start(&hosts.a, &["--no-listen"]);
    let server = hosts.b.listen("0.0.0.0:8000");
    server.set_nonblocking(true).expect("nonblocking");
    let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n";
    let cases = [
        format!("{head}Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n"),
        "HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\nContent-Length: 0\r\n\r\n".to_owned(),
        "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned(),
        format!("HTTP/1.1 101 {}\r\n\r\n", "x".repeat(100 << 10)),
        "SSH-2.0-OpenSSH_9.2\r\n".to_owned(),
    ];
    for answer in cases {
        let url = format!("ws://{}:8000/", hosts.link.b);
        a.ctl_ok(&["addport", "client", &url, "--user", "joe", "--passwd", "pw", "--name", "try"]);
        wait_until(&format!("{:?} is refused", &answer[..20]), SOON, || {
            // Each try gets the same answer.
            while let Ok((mut stream, _)) = server.accept() {
                stream.set_nonblocking(false).expect("blocking");
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(answer.as_bytes());
            }
            let port = a.port("try");
            port["state"] == "waiting" && port["reason"].is_string()
        });
        assert_eq!(a.port("try")["connects"], 0);
        a.ctl_ok(&["delport", "try"]);
    }
}

#[test]
fn bad_15_to_21_25_28_broken_messages_close_the_link() {
    let hosts = TwoHosts::new();
    let mut target = Target::new(&hosts, &[]);
    let good = frame(BROADCAST, mac(1), &[], &payload(40));
    let mut unmasked = vec![FIN | BINARY, good.len() as u8];
    unmasked.extend(&good);
    target.closes(&[1002], &unmasked); // 15
    for first in
        [FIN | 0x40 | BINARY, FIN | 0x20 | BINARY, FIN | 0x10 | BINARY, FIN | 3, FIN | 7, FIN | 11, FIN | 15]
    {
        target.closes(&[1002], &ws::frame(first, &good)); // 16
    }
    for len in [u64::MAX >> 1, 1 << 63, u64::MAX] {
        let mut huge = vec![FIN | BINARY, 0x80 | 127];
        huge.extend(len.to_be_bytes());
        huge.extend([1, 2, 3, 4]);
        target.closes(&[1009, 1002], &huge); // 17
    }
    target.closes(&[1002], &[&[FIN | BINARY, 0x80 | 126, 0, 60, 0, 0, 0, 0][..], &[0; 60]].concat()); // 18
    target.closes(
        &[1002],
        &[&[FIN | BINARY, 0x80 | 127, 0, 0, 0, 0, 0, 0, 0, 60, 0, 0, 0, 0][..], &[0; 60]].concat(),
    );
    target.closes(&[1002], &ws::frame(FIN | PING, &[0; 126])); // 19
    target.closes(&[1002], &ws::frame(PING, b"x"));
    let mut endless = ws::frame(BINARY, b"x"); // 20
    (0..1100).for_each(|_| endless.extend(ws::frame(CONTINUATION, b"")));
    target.closes(&[1009], &endless);
    target.closes(&[1002], &ws::frame(FIN | CONTINUATION, &good)); // 21
    target.closes(&[1002], &[ws::frame(BINARY, &good), ws::frame(FIN | BINARY, &good)].concat());
    for code in [1005_u16, 1006, 999, 0] {
        target.closes(&[1002], &ws::frame(FIN | ws::CLOSE, &code.to_be_bytes())); // 25
    }
    target.closes(&[1002], &ws::frame(FIN | ws::CLOSE, b"x"));
    target.closes(&[1007, 1002], &ws::frame(FIN | ws::CLOSE, b"\x03\xe8\xff\xfe"));
    target.closes(&[1009], &ws::frame(FIN | BINARY, &vec![2; 65_598])); // 28
    target.lives();
}

#[test]
fn bad_24_26_27_29_harmless_oddities_change_nothing() {
    let hosts = TwoHosts::new();
    let mut target = Target::new(&hosts, &[]);
    let mut peer = target.open();
    peer.send(PONG, b"nobody asked"); // 24
    peer.send(TEXT, b"hello"); // 27
    peer.send(PING, b"x");
    assert_eq!(peer.wait(PONG, SOON).as_deref(), Some(&b"x"[..]));
    let sent = frame(BROADCAST, mac(1), &[], &payload(300)); // 29
    let bytes = ws::frame(FIN | BINARY, &sent);
    for at in 0..10 {
        peer.send_raw(&bytes[..at]);
        std::thread::sleep(Duration::from_millis(20));
        peer.send_raw(&bytes[at..]);
        assert!(target.wire.receives(&sent, SOON), "split at {at}");
    }
    let late = frame(BROADCAST, mac(1), &[], &payload(60)); // 26
    peer.send_raw(
        &[ws::frame(FIN | ws::CLOSE, &1000_u16.to_be_bytes()), ws::frame(FIN | BINARY, &late)].concat(),
    );
    assert!(peer.ends(SOON));
    assert!(!target.wire.receives(&late, Duration::from_millis(200)));
    target.lives();
}

#[test]
fn bad_23_a_ping_flood_is_answered_a_while_then_closed() {
    let hosts = TwoHosts::new();
    let mut target = Target::new(&hosts, &[]);
    let mut peer = target.open();
    let burst: Vec<u8> = (0..50).flat_map(|_| ws::frame(FIN | PING, b"flood")).collect();
    let start = Instant::now();
    let mut code = None;
    while code.is_none() && start.elapsed() < Duration::from_secs(15) {
        peer.send_raw(&burst);
        while let Some((opcode, payload)) = peer.next(Duration::from_millis(50)) {
            if opcode == ws::CLOSE {
                code = payload.first_chunk().copied().map(u16::from_be_bytes);
            }
        }
    }
    assert_eq!(code, Some(1008));
    target.lives();
}

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
    assert_eq!(target.switch.state("t0"), "up");
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

#[test]
fn bad_56_racing_ports_leave_nothing_behind() {
    let host = Host::new();
    let switch = Switch::start(&host, &["--no-listen"]);
    let fds = || std::fs::read_dir(format!("/proc/{}/fd", switch.process.pid())).expect("fds").count();
    let before = fds();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let switch = &switch;
            scope.spawn(move || {
                for round in 0..25 {
                    let name = format!("r{thread}x{}", round % 3);
                    let added = switch.rpc_ok("addPort", serde_json::json!({"type": "tap", "target": name}));
                    switch.rpc_ok("delPort", serde_json::json!({"port": added["entries"][0]["port"]}));
                }
            });
        }
    });
    assert!(switch.entries("listPort").is_empty());
    assert!(!host.ok(&["ip", "-o", "link"]).contains(": r"), "TAPs stayed");
    wait_until("the file descriptors are closed", SOON, || fds() <= before + 2);
}

#[test]
fn bad_60_bad_61_bad_63_logins_that_are_none() {
    let hosts = TwoHosts::new();
    let good = sh(&["htpasswd", "-nbs", "joe", "pw"]);
    let lines =
        format!("broken\n:\nx:\nmax:$2y$99$nonsense\nann:$6$\nbob:$apr1$\neve:plain\nsha:{{SHA}}!!!\n{good}");
    let file = hosts.b.file("htpasswd", lines);
    let mut target = Target::new(&hosts, &[]);
    let addr = target.addr.clone();
    target.lives();
    drop(target);
    let b = Switch::start(&hosts.b, &["--htpasswd", &file]);
    let login =
        |basic: &str| ws::get(&hosts.a, &addr, "/", &format!("{UPGRADE}Authorization: {basic}\r\n")).0.status;
    let basic = |login: &[u8]| {
        use base64::Engine;
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(login))
    };
    assert_eq!(login(&basic(b"joe:pw")), 101);
    for bad in [
        "Basic".to_owned(),
        "Basic !!!".to_owned(),
        "Basic am9l".to_owned(),
        "Bearer joe:pw".to_owned(),
        basic(b"joe:pw\0"),
        basic(b"joe\0:pw"),
        basic(b":"),
        basic(b"broken:"),
        basic(b"x:"),
        basic(b"max:x"),
        basic(b"ann:"),
        basic(b"eve:plain"),
        basic(b"sha:"),
        basic(&[&b"joe:"[..], &[b'p'; 5000]].concat()),
    ] {
        assert_eq!(login(&bad), 401, "{bad:.60}");
    }
    drop(b);
    // An empty file lets nobody in; a missing one is an error at start.
    let empty = hosts.b.file("empty", "");
    let b = Switch::start(&hosts.b, &["--htpasswd", &empty]);
    assert_eq!(login(&basic(b"joe:pw")), 401);
    assert_eq!(ws::get(&hosts.a, &addr, "/", UPGRADE).0.status, 401);
    drop(b);
    let sock = hosts.b.dir().join("ctl.sock").display().to_string();
    let args = [lab::switch::ETHERWS, "sw", "--ctlsock", &sock, "--htpasswd", "/nonexistent/htpasswd"];
    let output = hosts.b.run_for(10, &args);
    assert_eq!(output.status.code(), Some(1), "{}", lab::said(&output));
    assert!(lab::said(&output).contains("/nonexistent/htpasswd"), "{}", lab::said(&output));
}

#[test]
fn bad_67_a_reset_and_a_half_close_end_one_link() {
    let hosts = TwoHosts::new();
    let mut target = Target::new(&hosts, &[]);
    let servers =
        |switch: &Switch| switch.entries("listPort").iter().filter(|entry| entry["type"] == "server").count();
    let half = target.open();
    let reset = target.open();
    wait_until("two links", SOON, || servers(&target.switch) == 2);
    half.stream.shutdown(std::net::Shutdown::Write).expect("shutdown");
    socket2::SockRef::from(&reset.stream).set_linger(Some(Duration::ZERO)).expect("linger");
    drop(reset);
    wait_until("both are gone", SOON, || servers(&target.switch) == 0);
    target.lives();
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
}
