//! A server that says that it is about to end, and clients that dial the next one before it does.

mod lab;

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use lab::frames::{BROADCAST, Wire, frame, mac, passes, payload};
use lab::relay::Relay;
use lab::servers::Ca;
use lab::switch::TwoHosts;
use lab::ws::{self, CLOSE, PING, PONG, RawWs};
use lab::{Host, Switch, join, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

const LIMIT: Duration = Duration::from_secs(30);
/// As docs/links.md has it: a PING of a server.
const LEAVING: &[u8] = b"\x89\x0fetherws leaving";

fn count(entry: &Value, name: &str) -> u64 {
    entry[name].as_u64().unwrap_or_else(|| panic!("{name} of {entry}"))
}

fn numbered(dst: [u8; 6], src: [u8; 6], mark: u8, number: u16) -> Vec<u8> {
    let number = number.to_be_bytes();
    frame(dst, src, &[], &[&[mark, number[0], number[1]][..], &[0; 43]].concat())
}

/// The client's host, two servers on one segment, and what is dialled: a name behind which is the one or the other.
///
/// ```text
///         relay --- one --+
///   a ----|               | cable
///         +------- two ---+--- t0
/// ```
fn goes_over(tls: bool) {
    let (at_a, at_one, at_two) = (Host::new(), Host::new(), Host::new());
    let (to_one, to_two, cable) = (join(&at_a, &at_one), join(&at_a, &at_two), join(&at_one, &at_two));
    let relay = Relay::start(&at_a, &format!("{}:80", to_one.b));
    let ca = Ca::new("lab");
    let pem = ca.server(&at_a, "server", &["127.0.0.1"]);
    let secure = ["--port", "80", "--sslcert", &pem.cert, "--sslkey", &pem.key];
    let trusts = ["--cacerts", &at_a.file("ca.pem", &ca.pem)];
    let (secure, trusts, url) = match tls {
        true => (&secure[..], &trusts[..], relay.url().replace("ws:", "wss:")),
        false => (&[][..], &[][..], relay.url()),
    };
    // A link that may come back to the one makes a new one with the other.
    let start = |host, args: &[&str]| Switch::start(host, &[args, &["--resume", "30s"], secure].concat());
    let (mut one, two) = (start(&at_one, &["--drain-wait", "600"]), start(&at_two, &[]));
    let a = Switch::start(&at_a, &["--no-listen", "--threads", "2"]);
    for server in [&one, &two] {
        server.ctl_ok(&["addport", "netdev", &cable.device, "--name", "cable"]);
    }
    for switch in [&a, &two] {
        switch.ctl_ok(&["addport", "tap", "t0", "--no-offload"]);
    }
    a.ctl_ok(&[&["addport", "client", &url, "--name", "link"], trusts].concat());
    a.wait_state("link", "up");
    assert_eq!(a.port("link")["tls"].is_string(), tls);
    let (near, far) = (Wire::open(&at_a, "t0"), Wire::open(&at_two, "t0"));
    let (ours, theirs) = (mac(1), mac(2));
    passes(&near, &far, &frame(theirs, ours, &[], &payload(60)));
    passes(&far, &near, &frame(ours, theirs, &[], &payload(60)));
    let before = a.port("link");
    let lost = a.drops("link-down");

    // Both ways a flow, and broadcasts of ours, while the link goes over.
    let (stop, sent) = (AtomicBool::new(false), AtomicU32::new(0));
    let mut there = vec![0_u32; 60_000];
    let (mut back, mut all, mut own) = (there.clone(), there.clone(), there.clone());
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..60_000 {
                if stop.load(Relaxed) {
                    return;
                }
                near.send(&numbered(theirs, ours, 1, number));
                far.send(&numbered(ours, theirs, 2, number));
                if number % 8 == 0 {
                    near.send(&numbered(BROADCAST, ours, 3, number));
                }
                sent.store(u32::from(number) + 1, Relaxed);
                thread::sleep(Duration::from_millis(4));
            }
        });
        // It is asked once more where the one that leaves may be met again.
        let some = |more: u32| {
            let now = sent.load(Relaxed);
            wait_until("frames under way", LIMIT, || sent.load(Relaxed) >= now + more);
        };
        some(20);
        relay.turn(&format!("{}:80", to_two.b));
        one.process.signal(Signal::SIGTERM);
        wait_until("the link goes over", LIMIT, || count(&a.port("link"), "connects") == 2);
        assert_eq!(a.state("link"), "up");
        wait_until("the old connection has ended", LIMIT, || relay.alive().len() == 1);
        some(20);
        stop.store(true, Relaxed);
    });
    let sent = sent.load(Relaxed) as usize;
    let deadline = Instant::now() + LIMIT;
    let all_came = |there: &[u32], back: &[u32]| there[..sent].iter().chain(&back[..sent]).all(|n| *n > 0);
    let mut quiet = 0;
    while !all_came(&there, &back) && quiet < 20 && Instant::now() < deadline {
        quiet += 1;
        for frame in far.collect(Duration::from_millis(100)) {
            quiet = 0;
            let number = usize::from(u16::from_be_bytes([frame[15], frame[16]]));
            match frame[14] {
                1 => there[number] += 1,
                3 => all[number] += 1,
                _ => (),
            }
        }
        for frame in near.collect(Duration::from_millis(100)) {
            quiet = 0;
            let number = usize::from(u16::from_be_bytes([frame[15], frame[16]]));
            match frame[14] {
                2 => back[number] += 1,
                3 => own[number] += 1,
                _ => (),
            }
        }
    }
    let odd = |counts: &[u32]| {
        counts[..sent]
            .iter()
            .enumerate()
            .filter(|(_, n)| **n != 1)
            .map(|(at, n)| (at, *n))
            .collect::<Vec<_>>()
    };
    assert_eq!(odd(&there), [], "there, of {sent}");
    // Whoever is late by the old way shows the others the wrong way back, for a frame or two.
    let odd_back = odd(&back);
    let lost_back = odd_back.iter().all(|(_, n)| *n == 0) && odd_back.len() <= 3;
    assert!(lost_back, "back, of {sent}: {odd_back:?} {}", a.all_drops());
    let broadcasts: Vec<_> = all[..sent].iter().step_by(8).copied().collect();
    assert!(broadcasts.iter().all(|n| *n == 1), "each broadcast comes once: {broadcasts:?}");
    assert!(own.iter().all(|n| *n == 0), "and none comes back");

    let after = a.port("link");
    for same in ["port", "name", "target", "state"] {
        assert_eq!(before[same], after[same]);
    }
    assert!(count(&after, "rx") > count(&before, "rx") && count(&after, "tx") > count(&before, "tx"));
    assert_eq!(a.drops("link-down"), lost, "it was never down");
    let known = |switch: &Switch, station: [u8; 6]| {
        let found = switch.fdb().into_iter().find(|(_, mac, _)| *mac == lab::frames::mac_text(station));
        found.map(|(.., port)| port)
    };
    assert_eq!((known(&a, ours).as_deref(), known(&a, theirs).as_deref()), (Some("t0"), Some("link")));
    let server = two.wait_server_port();
    assert_eq!(known(&two, ours).as_deref(), server["name"].as_str());
    assert_eq!(known(&one, ours).as_deref(), Some("cable"));
    // No loop was seen, by none of the three.
    for switch in [&a, &one, &two] {
        let blocked: Vec<_> =
            switch.entries("listPort").into_iter().filter(|port| port["state"] == "blocked").collect();
        assert_eq!(blocked, Vec::<Value>::new());
    }
    one.process.signal(Signal::SIGTERM);
    assert_eq!(one.process.wait(LIMIT), 0);
    assert_eq!(a.state("link"), "up");
}

#[test]
fn a_link_goes_over_to_the_next_server_and_loses_nothing() {
    goes_over(false);
}

#[test]
fn so_does_one_with_tls() {
    goes_over(true);
}

/// Who does not dial anew is closed as ever, and what was accepted goes before.
#[test]
fn everybody_is_told_once_and_closed_in_the_end() {
    let host = Host::new();
    let mut switch = Switch::start(&host, &["--port", "8080", "--drain-wait", "1"]);
    let mut peers: Vec<RawWs> = (0..60).map(|_| ws::open(&host, "127.0.0.1:8080")).collect();
    wait_until("all are ports", LIMIT, || switch.entries("listPort").len() == 60);
    switch.process.signal(Signal::SIGTERM);
    for (number, peer) in peers.iter_mut().enumerate() {
        let told = peer.wait(PING, LIMIT);
        assert_eq!(told.as_deref(), Some(&LEAVING[2..]), "peer {number}");
        peer.send(PONG, &LEAVING[2..]);
    }
    for (number, peer) in peers.iter_mut().enumerate() {
        let code = loop {
            match peer.next(LIMIT) {
                Some((CLOSE, code)) => break code,
                Some((opcode, _)) => assert_ne!(opcode, PING, "peer {number} is told again"),
                None => panic!("peer {number}: no Close"),
            }
        };
        assert_eq!(code[..2], 1001_u16.to_be_bytes(), "peer {number}");
        peer.send(CLOSE, &code);
    }
    assert_eq!(switch.process.wait(LIMIT), 0);
}

/// Nobody else is there to be dialled.
#[test]
fn a_server_that_ends_alone_keeps_its_links_until_then() {
    let hosts = TwoHosts::new();
    let mut b = Switch::start(&hosts.b, &["--drain-wait", "600"]);
    let a = Switch::start(&hosts.a, &["--no-listen"]);
    for switch in [&a, &b] {
        switch.ctl_ok(&["addport", "tap", "t0", "--no-offload"]);
    }
    a.ctl_ok(&["addport", "client", &format!("ws://{}/", hosts.link.b), "--name", "link"]);
    a.wait_state("link", "up");
    let (near, far) = (Wire::open(&hosts.a, "t0"), Wire::open(&hosts.b, "t0"));
    let before = b.wait_server_port();
    b.process.signal(Signal::SIGTERM);
    let refused = || a.process.log().matches("answered 503").count();
    wait_until("it is dialled again, and again", LIMIT, || refused() >= 2);
    assert_eq!((a.state("link"), count(&a.port("link"), "connects")), ("up".into(), 1));
    passes(&near, &far, &frame(BROADCAST, mac(1), &[], &payload(60)));
    passes(&far, &near, &frame(BROADCAST, mac(2), &[], &payload(60)));
    assert_eq!(b.wait_server_port()["port"], before["port"]);
    b.process.signal(Signal::SIGTERM);
    assert_eq!(b.process.wait(LIMIT), 0);
    wait_until("the link is down", LIMIT, || a.state("link") != "up");
    // And it is as ever.
    let _b = Switch::start(&hosts.b, &[]);
    a.wait_state_for("link", "up", LIMIT);
    assert_eq!(count(&a.port("link"), "connects"), 2);
}

/// Takes a connection as a server would, and says `words` behind its 101.
fn take(listener: &TcpListener, words: &[u8]) -> Option<TcpStream> {
    let mut stream = match listener.accept() {
        Ok((stream, _)) => stream,
        Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
        Err(error) => panic!("{error}"),
    };
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a request");
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let key = head
        .lines()
        .find_map(|line| line.to_lowercase().starts_with("sec-websocket-key: ").then(|| &line[19..]));
    let accept = derive_accept_key(key.expect("a key").trim().as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    stream.write_all(&[answer.as_bytes(), words].concat()).unwrap();
    Some(stream)
}

/// What a client said.
fn opcodes(mut bytes: &[u8]) -> Vec<u8> {
    let mut found = Vec::new();
    while let [first, second, rest @ ..] = bytes {
        let (len, rest) = match (second & 0x7f, rest) {
            (126, [high, low, rest @ ..]) => (usize::from(u16::from_be_bytes([*high, *low])), rest),
            (len, rest) => (usize::from(len), rest),
        };
        found.push(first & 0x0f);
        bytes = rest.get(4 + len..).unwrap_or_default();
    }
    found
}

#[test]
fn bad_23_a_server_that_says_a_thousand_times_that_it_leaves_is_left_once() {
    let host = Host::new();
    let listener = host.listen("127.0.0.1:0");
    listener.set_nonblocking(true).unwrap();
    let a = Switch::start(&host, &["--no-listen"]);
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    a.ctl_ok(&["addport", "client", &url, "--name", "link"]);
    let mut streams = Vec::new();
    let dialled = |words: &[u8], streams: &mut Vec<TcpStream>| {
        wait_until("it dials", LIMIT, || {
            streams.extend(take(&listener, words));
            !streams.is_empty()
        });
        streams.pop().unwrap()
    };
    let mut first = dialled(&LEAVING.repeat(1_000), &mut streams);
    let second = dialled(b"", &mut streams);
    wait_until("the second is up", LIMIT, || count(&a.port("link"), "connects") == 2);
    // The first is left, in good order: PONGs, a Close, the end.
    let mut bytes = Vec::new();
    first.read_to_end(&mut bytes).expect("an end");
    let said = opcodes(&bytes);
    assert!(said.contains(&PONG) && said.ends_with(&[CLOSE]), "{said:?}");
    let _ = first.write_all(LEAVING);
    thread::sleep(Duration::from_secs(2));
    assert!(take(&listener, b"").is_none(), "nobody else was dialled");
    assert_eq!(a.state("link"), "up");

    // Each says it at once: the waits between them grow as for one that takes and closes.
    drop(second);
    let began = Instant::now();
    let mut all = Vec::new();
    while began.elapsed() < Duration::from_secs(5) {
        all.extend(take(&listener, LEAVING));
        thread::sleep(Duration::from_millis(10));
    }
    assert!((1..12).contains(&all.len()), "{} dials in 5 s", all.len());
    // They all end while one is dialled: it goes on from there.
    drop(all);
    let _last = dialled(b"", &mut streams);
    a.wait_state_for("link", "up", LIMIT);
}
