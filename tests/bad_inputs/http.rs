//! Requests that are none, and servers that are none: 1 to 14 of the list.

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use crate::lab::frames::{BROADCAST, frame, mac, payload};
use crate::lab::servers::Ca;
use crate::lab::switch::TwoHosts;
use crate::lab::ws::{BINARY, FIN, UPGRADE};
use crate::lab::{Host, SOON, Switch, sh, wait_until, ws};
use crate::target::Target;

#[test]
fn bad_01_a_header_trickled_byte_by_byte() {
    let hosts = TwoHosts::new();
    let mut target = Target::new(&hosts, &[]);
    let mut stream = target.guest.connect(&target.addr).expect("connect");
    stream.set_read_timeout(Some(Duration::from_millis(400))).expect("timeout");
    let start = Instant::now();
    let request = format!("GET / HTTP/1.1\r\nHost: x\r\nX-Long: {}", "y".repeat(1000));
    let mut bytes = request.bytes().take_while(|_| start.elapsed() < Duration::from_secs(30));
    let ended =
        bytes.any(|byte| stream.write_all(&[byte]).is_err() || matches!(stream.read(&mut [0; 512]), Ok(0)));
    assert!(ended, "held open for {:?}", start.elapsed());
    assert!(start.elapsed() > Duration::from_secs(9), "closed after {:?}", start.elapsed());
    wait_until("it is counted", SOON, || target.switch.drops("header-time") == 1);
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
    // The four versions and the two keys, and whatever of 05 HTTP let through.
    wait_until("they are counted", SOON, || target.switch.drops("handshake") >= 6);
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
    let ca = Ca::new("lab");
    let cert = ca.server(&hosts.b, "server", &[&hosts.link.b.to_string()]);
    // Neither is waited for as a header is, which here may take five minutes.
    let patient = |host: &Host| host.file("etherws.toml", "[limits]\nheader_time = 300\n");
    let args = ["--config", &patient(&hosts.b), "--sslcert", &cert.cert, "--sslkey", &cert.key];
    let tls = Switch::start(&hosts.b, &args);
    let plain = Switch::start(&hosts.a, &["--config", &patient(&hosts.a)]);
    let ends = |host: &Host, addr: String, bytes: &[u8]| {
        let mut stream = host.connect(&addr).expect("connect");
        stream.write_all(bytes).expect("send");
        let mut answer = Vec::new();
        // A reset is an end, too; silence is none.
        let ended = stream.read_to_end(&mut answer);
        let held = ended.is_err_and(|e| matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut));
        assert!(!held, "held open for {SOON:?}");
        answer
    };
    let request = format!("GET / HTTP/1.1\r\nHost: x\r\n{UPGRADE}\r\n");
    let answer = ends(&hosts.a, format!("{}:443", hosts.link.b), request.as_bytes());
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    wait_until("it is counted", SOON, || tls.drops("tls-handshake") == 1);
    let hello = [22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3];
    ends(&hosts.b, format!("{}:80", hosts.link.a), &hello);
    wait_until("it is counted", SOON, || plain.drops("bad-request") == 1);
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
