//! A link whose connection breaks: the port waits for it and is the same when it comes back; and who must not come back
//! by another's name.

mod lab;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use lab::frames::{BROADCAST, Wire, ethertype, frame, mac, passes, payload};
use lab::relay::Relay;
use lab::switch::TwoHosts;
use lab::ws::{self, Answer, RawWs};
use lab::{Host, Switch, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

const LIMIT: Duration = Duration::from_secs(30);

/// B listens with these arguments, A dials it through a relay (port `link`); each has TAP `t0`, 10.1.0.1 and 10.1.0.2.
struct Cut<'h> {
    hosts: &'h TwoHosts,
    a: Switch<'h>,
    b: Switch<'h>,
    relay: Relay,
}

fn cut<'h>(hosts: &'h TwoHosts, args: &[&str]) -> Cut<'h> {
    let relay = Relay::start(&hosts.a, &format!("{}:80", hosts.link.b));
    let a = Switch::start(&hosts.a, &["--no-listen"]);
    let b = Switch::start(&hosts.b, args);
    for (switch, number) in [(&a, 1), (&b, 2)] {
        add_tap(switch, number);
    }
    a.ctl_ok(&["addport", "client", &relay.url(), "--name", "link"]);
    a.wait_state("link", "up");
    hosts.a.ping("10.1.0.2");
    Cut { hosts, a, b, relay }
}

/// With the same address whenever it is made: neighbours remember it.
fn add_tap(switch: &Switch, number: u8) {
    let (address, mac) = (format!("10.1.0.{number}/24"), format!("02:00:00:00:00:0{number}"));
    switch.ctl_ok(&["addport", "tap", "t0", "--address", &address, "--mac", &mac]);
}

impl Cut<'_> {
    /// B's end of the link.
    fn server(&self) -> Option<Value> {
        self.b.entries("listPort").into_iter().find(|entry| entry["type"] == "server")
    }

    fn server_is(&self, state: &str) {
        wait_until(&format!("B's end is {state}: {:?}", self.server()), LIMIT, || {
            self.server().is_some_and(|entry| entry["state"] == state)
        });
    }
}

fn count(entry: &Value, name: &str) -> u64 {
    entry[name].as_u64().unwrap_or_else(|| panic!("{name} of {entry}"))
}

#[test]
fn a_link_that_breaks_and_comes_back_is_the_same_port() {
    let hosts = TwoHosts::new();
    let link = cut(&hosts, &["--resume", "60s"]);
    let before = link.server().expect("B's end");
    let (far, near) = (Wire::open(&hosts.b, "t0"), Wire::open(&hosts.a, "t0"));
    // Stations on both sides that never speak again.
    passes(&near, &far, &frame(BROADCAST, mac(1), &[], &payload(60)));
    passes(&far, &near, &frame(BROADCAST, mac(2), &[], &payload(60)));
    link.relay.open(false);
    link.relay.cut();
    link.server_is("away");
    let away = link.server().unwrap();
    assert!(away["reason"].as_str().unwrap().contains("60 s"), "{away}");
    assert_eq!((&away["port"], &away["name"]), (&before["port"], &before["name"]));
    // What is sent to it meanwhile is lost by name, and is not flooded elsewhere.
    let lost = link.b.drops("link-down");
    far.send(&frame(mac(1), mac(2), &[], &payload(60)));
    wait_until("the frame is dropped", LIMIT, || link.b.drops("link-down") > lost);
    let knows = |switch: &Switch, station, port: &Value| {
        let port = port.as_str().unwrap_or("link").to_owned();
        switch.fdb().iter().any(|(_, mac, at)| *mac == lab::frames::mac_text(station) && *at == port)
    };
    assert!(knows(&link.b, mac(1), &before["name"]) && knows(&link.a, mac(2), &Value::Null));
    link.relay.open(true);
    link.server_is("up");
    link.a.wait_state("link", "up");
    let after = link.server().unwrap();
    assert_eq!((&after["port"], &after["name"]), (&before["port"], &before["name"]));
    assert_eq!(count(&after, "connects"), 2);
    assert!(count(&after, "rx") >= count(&before, "rx"), "counters go on: {before} {after}");
    assert!(knows(&link.b, mac(1), &before["name"]) && knows(&link.a, mac(2), &Value::Null));
    link.hosts.a.ping("10.1.0.2");
    assert_eq!(link.b.entries("listPort").len(), 2, "no second port");
}

/// What the user's table says of a port, and what people have said since. A table that says something else means another
/// link.
#[test]
fn a_port_that_comes_back_keeps_its_profile() {
    let hosts = TwoHosts::new();
    let tokens = hosts.b.file("tokens", "far 0123456789abcdef\n");
    let config = |access: u16| {
        let user = format!("[[user]]\ntoken = \"far\"\naccess = {access}\nrate = 50000000\nmax_macs = 2\n");
        hosts.b.file("b.toml", format!("[listen]\ntokens = \"{tokens}\"\nresume = 60\n{user}"))
    };
    let relay = Relay::start(&hosts.a, &format!("{}:80", hosts.link.b));
    let a = Switch::start(&hosts.a, &["--no-listen"]);
    let b = Switch::start(&hosts.b, &["--config", &config(7)]);
    add_tap(&a, 1);
    add_tap(&b, 2);
    b.ctl_ok(&["setport", "t0", "--access", "7"]);
    let url = format!("{}?token=0123456789abcdef", relay.url());
    a.ctl_ok(&["addport", "client", &url, "--name", "link"]);
    let link = Cut { hosts: &hosts, a, b, relay };
    link.server_is("up");
    hosts.a.ping("10.1.0.2");
    let (near, far) = (Wire::open(&hosts.a, "t0"), Wire::open(&hosts.b, "t0"));
    passes(&near, &far, &frame(BROADCAST, mac(1), &[], &payload(60)));
    let before = link.server().expect("B's end");
    assert_eq!((&before["vlan"], &before["isolated"]), (&"access 7".into(), &false.into()));
    link.relay.open(false);
    link.relay.cut();
    link.server_is("away");
    link.b.ctl_ok(&["setport", before["name"].as_str().expect("a name"), "--isolated", "1"]);
    link.relay.open(true);
    link.server_is("up");
    hosts.a.ping("10.1.0.2");
    let after = link.server().expect("B's end");
    for same in ["port", "name", "user", "vlan"] {
        assert_eq!(after[same], before[same], "{same}");
    }
    assert_eq!(after["isolated"], true);
    assert!(count(&after, "rx") > count(&before, "rx"), "counters go on: {before} {after}");
    // Two stations are as many as there may be.
    let limited = link.b.drops("mac-limit");
    near.send(&frame(BROADCAST, mac(3), &[], &payload(60)));
    wait_until("a third station is refused", LIMIT, || link.b.drops("mac-limit") > limited);

    config(8);
    link.b.ctl_ok(&["reload"]);
    link.relay.cut();
    // The one that was there is waited for beside it.
    let other = || {
        let entries = link.b.entries("listPort").into_iter();
        entries.rev().find(|entry| entry["type"] == "server" && entry["port"] != before["port"])
    };
    wait_until("another port", LIMIT, || other().is_some_and(|entry| entry["state"] == "up"));
    let entry = other().expect("B's end");
    assert_eq!((&entry["vlan"], &entry["isolated"]), (&"access 8".into(), &false.into()));
    assert!(link.b.drops("join-foreign") > 0, "{}", link.b.all_drops());
}

/// The path has forgotten the old connection, and only the end that dialled knows.
#[test]
fn a_connection_that_is_back_before_the_loss_was_noticed_takes_the_place() {
    let hosts = TwoHosts::new();
    let link = cut(&hosts, &["--resume", "60s"]);
    let before = link.server().expect("B's end");
    let near = Wire::open(&hosts.a, "t0");
    let far = Wire::open(&hosts.b, "t0");
    let mut peer = before["peer"].clone();
    for round in 0..3 {
        link.relay.cut_here();
        wait_until("another connection", LIMIT, || link.relay.alive().len() == 1);
        link.a.wait_state("link", "up");
        passes(&far, &near, &frame(BROADCAST, mac(2), &[], &payload(60 + round)));
        let entry = link.server().unwrap();
        let facts = ["port", "name", "state", "connects"].map(|name| &entry[name]);
        assert_eq!(
            facts,
            ["port", "name", "state", "connects"].map(|name| &before[name]),
            "it was never away"
        );
        assert_ne!(entry["peer"], peer, "it is shown where it is now");
        peer = entry["peer"].clone();
    }
    hosts.a.ping("10.1.0.2");
    assert_eq!(link.b.entries("listPort").len(), 2);
}

#[test]
fn who_does_not_come_back_in_time_is_gone_and_begins_anew() {
    let hosts = TwoHosts::new();
    let link = cut(&hosts, &["--resume", "2s"]);
    let before = link.server().expect("B's end");
    link.relay.open(false);
    link.relay.cut();
    link.server_is("away");
    wait_until("the port is gone", LIMIT, || link.server().is_none());
    wait_until("A forgets too", LIMIT, || !link.a.fdb().iter().any(|(_, _, port)| port == "link"));
    link.relay.open(true);
    link.server_is("up");
    assert!(count(&link.server().unwrap(), "port") > count(&before, "port"));
    hosts.a.ping("10.1.0.2");
    assert!(link.b.drops("join-unknown") > 0);
}

#[test]
fn an_orderly_end_is_one_at_once() {
    let hosts = TwoHosts::new();
    let link = cut(&hosts, &["--resume", "600"]);
    // Who says Close is not waited for.
    link.a.ctl_ok(&["delport", "link"]);
    wait_until("the port is gone", LIMIT, || link.server().is_none());
    // Nor is one that was removed here while it was away.
    link.a.ctl_ok(&["addport", "client", &link.relay.url(), "--name", "link"]);
    link.server_is("up");
    let first = link.server().unwrap();
    link.relay.open(false);
    link.relay.cut();
    link.server_is("away");
    link.b.ctl_ok(&["delport", first["name"].as_str().unwrap()]);
    assert!(link.server().is_none());
    link.relay.open(true);
    link.server_is("up");
    assert!(count(&link.server().unwrap(), "port") > count(&first, "port"));
    hosts.a.ping("10.1.0.2");
    // A switch that ends waits for nobody who is away.
    link.relay.open(false);
    link.relay.cut();
    link.server_is("away");
    let mut b = link.b;
    b.process.signal(Signal::SIGTERM);
    assert_eq!(b.process.wait(Duration::from_secs(20)), 0);
}

#[test]
fn without_resume_a_lost_link_is_gone_at_once() {
    let hosts = TwoHosts::new();
    let link = cut(&hosts, &[]);
    link.relay.open(false);
    link.relay.cut();
    wait_until("the port is gone", LIMIT, || link.server().is_none());
    wait_until("A forgets too", LIMIT, || !link.a.fdb().iter().any(|(_, _, port)| port == "link"));
}

#[test]
fn a_server_that_was_killed_knows_no_link_of_before() {
    let hosts = TwoHosts::new();
    let mut link = cut(&hosts, &["--resume", "600s"]);
    link.b.kill_and_restart();
    add_tap(&link.b, 2);
    link.server_is("up");
    hosts.a.ping("10.1.0.2");
    assert_eq!(link.a.port("link")["connects"], 2);
}

/// What a client is told of its new link.
#[derive(Clone)]
struct Terms {
    id: String,
    secret: Vec<u8>,
    members: u8,
}

/// The value of `Etherws-Link` in an answer.
fn said(answer: &Answer) -> Option<&str> {
    answer.head.lines().find_map(|line| line.strip_prefix("etherws-link: "))
}

fn part<'a>(said: &'a str, name: &str) -> &'a str {
    let parts = said.split("; ").filter_map(|part| part.split_once('='));
    parts.into_iter().find(|(other, _)| *other == name).unwrap_or_else(|| panic!("{name} in {said}")).1
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
}

/// `Sec-WebSocket-Key` of [`ws::UPGRADE`].
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// By the words of docs/links.md, and nothing of the program's.
fn join(terms: &Terms, member: u8, n: u64, live: bool, key: &str) -> String {
    let signed = [
        &b"etherws-link join"[..],
        &unhex(&terms.id),
        &n.to_be_bytes(),
        &[member, live.into()],
        key.as_bytes(),
    ];
    let proof = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &terms.secret), &signed.concat());
    let proof: String = proof.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let after = if live { "live" } else { "lost" };
    format!("join={}; member={member}; n={n}; after={after}; proof={proof}", terms.id)
}

fn ask(host: &Host, link: &str, more: &str) -> (Answer, RawWs) {
    ws::get(host, "127.0.0.1:80", "/", &format!("{}Etherws-Link: {link}\r\n{more}", ws::UPGRADE))
}

#[track_caller]
fn begin(host: &Host, members: u8, more: &str) -> (Terms, RawWs) {
    let (answer, ws) = ask(host, &format!("new; members={members}"), more);
    assert_eq!(answer.status, 101, "{}", answer.head);
    let said = said(&answer).unwrap_or_else(|| panic!("{}", answer.head));
    let terms = Terms {
        id: part(said, "id").to_owned(),
        secret: unhex(part(said, "secret")),
        members: part(said, "members").parse().unwrap(),
    };
    assert_eq!((terms.id.len(), terms.secret.len()), (32, 32));
    (terms, ws)
}

#[test]
fn bad_78_who_joins_by_a_forged_name_is_refused_by_a_true_one() {
    let host = Host::new();
    // 16 bytes each.
    let tokens = host.file("tokens", "alice alicealicealice1\nbob bobbobbobbobbob1\n");
    let switch = Switch::start(&host, &["--resume", "30s", "--tokens", &tokens, "--debug"]);
    let (alice, bob) =
        ("Authorization: Bearer alicealicealice1\r\n", "Authorization: Bearer bobbobbobbobbob1\r\n");
    let (terms, first) = begin(&host, 4, alice);
    let (others, _second) = begin(&host, 2, bob);
    assert_eq!((terms.members, others.members), (4, 2));
    assert_ne!((&terms.id, &terms.secret), (&others.id, &others.secret));
    let good = join(&terms, 1, 5, false, KEY);
    let refused = |link: &str, who: &str, status: u16, event: &str| {
        let before = switch.drops(event);
        let (answer, _) = ask(&host, link, who);
        assert_eq!(answer.status, status, "{link}: {}", answer.head);
        assert_eq!(switch.drops(event), before + 1, "{link}: {}", switch.all_drops());
        answer.head.lines().filter(|line| !line.starts_with("date:")).map(str::to_owned).collect::<Vec<_>>()
    };
    // The login comes first, as ever.
    assert_eq!(ask(&host, &good, "").0.status, 401);
    let unknown = Terms { id: "00".repeat(16), ..terms.clone() };
    let strange = refused(&join(&unknown, 1, 5, false, KEY), alice, 410, "join-unknown");
    let wrong = Terms { secret: vec![0; 32], ..terms.clone() };
    let forged = refused(&join(&wrong, 1, 5, false, KEY), alice, 410, "join-proof");
    assert_eq!(strange, forged, "whether there is such a link is nobody's business");
    // Two ports that claim one id: the other's secret is no good, nor is the other's login.
    let claimed = Terms { id: terms.id.clone(), ..others.clone() };
    refused(&join(&claimed, 0, 5, false, KEY), bob, 410, "join-proof");
    let stolen = refused(&good, bob, 410, "join-foreign");
    assert_eq!(stolen, strange);
    refused(&join(&terms, 4, 5, false, KEY), alice, 409, "join-member");
    refused(&join(&terms, 1, 5, false, "another key"), alice, 410, "join-proof");
    refused(&good.replace("after=lost", "after=live"), alice, 410, "join-proof");
    refused("join=1", alice, 400, "join-malformed");
    // The same that is good once.
    let (answer, _joined) = ask(&host, &good, alice);
    assert_eq!((answer.status, said(&answer)), (101, Some("joined")), "{}", answer.head);
    refused(&good, alice, 409, "join-replayed");
    refused(&join(&terms, 1, 4, false, KEY), alice, 409, "join-replayed");
    let link = switch.port("alice");
    wait_until("two connections", LIMIT, || switch.port("alice")["connections"]["up"] == 2);
    assert_eq!(link["connections"]["of"], 4);
    assert_eq!(switch.entries("listPort").len(), 2, "each has one port");
    drop(first);
    let log = switch.process.log();
    assert!(log.contains("joins a link"), "what was refused is told: {log}");
    for link in [&terms, &others] {
        let secret: String = link.secret.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(!log.contains(&link.id) && !log.contains(&secret), "nobody's id and secret is in the log");
    }
}

/// The head of a request.
fn request(stream: &mut TcpStream) -> String {
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a request");
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// By a server that does not answer the first join, and says no to the second.
#[test]
fn a_join_that_fails_is_tried_again_under_another_number() {
    let host = Host::new();
    let listener = host.listen("127.0.0.1:0");
    listener.set_nonblocking(true).unwrap();
    let a = Switch::start(&host, &["--no-listen"]);
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    a.ctl_ok(&["addport", "client", &url, "--name", "link", "--connections", "2"]);
    let terms = Terms { id: "5a".repeat(16), secret: vec![9; 32], members: 2 };
    // The key and what is said of a link.
    let next = || {
        let mut came = None;
        wait_until("a connection", LIMIT, || {
            came = listener.accept().ok();
            came.is_some()
        });
        let mut stream = came.unwrap().0;
        stream.set_nonblocking(false).unwrap();
        let head = request(&mut stream);
        let field = |name: &str| {
            let lines = head.lines().filter_map(|line| line.split_once(": "));
            let mut values = lines.filter(|(other, _)| other.eq_ignore_ascii_case(name));
            values.next().unwrap_or_else(|| panic!("{name} in {head}")).1.to_owned()
        };
        (field("sec-websocket-key"), field("etherws-link"), stream)
    };
    let switch = |stream: &mut TcpStream, key: &str, said: &str| {
        let accept = derive_accept_key(key.as_bytes());
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\nEtherws-Link: {said}\r\n\r\n"
        );
        stream.write_all(answer.as_bytes()).unwrap();
    };
    let (key, said, mut first) = next();
    assert_eq!(said, "new; members=2");
    let secret = "09".repeat(32);
    switch(&mut first, &key, &format!("id={}; secret={secret}; members=2; resume=0", terms.id));
    for n in 1..=3 {
        let (key, said, mut stream) = next();
        assert_eq!(said, join(&terms, 1, n, false, &key));
        match n {
            1 => (),
            2 => stream.write_all(b"HTTP/1.1 409 Conflict\r\nContent-Length: 0\r\n\r\n").unwrap(),
            _ => {
                switch(&mut stream, &key, "joined");
                wait_until("both", LIMIT, || a.port("link")["connections"]["up"] == 2);
            }
        }
        let port = a.port("link");
        assert_eq!((&port["state"], &port["connects"]), (&"up".into(), &1.into()), "{port}");
    }
}

/// One connection from each address is enough to be a link.
#[test]
fn a_link_whose_other_connections_are_refused_is_up_all_the_same() {
    let hosts = TwoHosts::new();
    let config = hosts.b.file("c.toml", "[limits]\nconnections_per_address = 1\n");
    let b = Switch::start(&hosts.b, &["--config", &config]);
    let a = Switch::start(&hosts.a, &["--no-listen"]);
    let url = format!("ws://{}/", hosts.link.b);
    a.ctl_ok(&["addport", "client", &url, "--name", "link", "--connections", "4"]);
    a.wait_state("link", "up");
    let refused = || b.drops("connections-per-address");
    let start = refused();
    wait_until("the others were refused, and again", LIMIT, || {
        let port = a.port("link");
        assert_eq!((&port["state"], &port["connects"]), (&"up".into(), &1.into()), "{port}");
        assert!(port["peer"].is_string(), "{port}");
        refused() >= start + 4
    });
}

#[test]
fn an_answer_is_given_to_who_asks_and_where_there_is_something_to_give() {
    let host = Host::new();
    let mut switch = Switch::start(&host, &[]);
    // One connection, and nobody waits: then there is nothing to be said.
    assert_eq!(said(&ask(&host, "new; members=1", "").0), None);
    assert_eq!(
        said(&ask(&host, "new; members=3", "").0).map(|said| part(said, "members").to_owned()),
        Some("3".into())
    );
    assert_eq!(begin(&host, 200, "").0.members, 8, "as many as there may be");
    assert_eq!(said(&ws::get(&host, "127.0.0.1:80", "/", ws::UPGRADE).0), None);
    switch.process.kill();
    let config = host.file("c.toml", "[limits]\nlink_connections = 1\n[listen]\nresume = 5\n");
    let _switch = Switch::start(&host, &["--config", &config]);
    assert_eq!(begin(&host, 16, "").0.members, 1);
}

/// A client that has a second connection before the first one ends loses nothing, and nothing comes twice or out of order.
#[test]
fn a_connection_that_takes_over_from_a_live_one_costs_no_frame() {
    let hosts = TwoHosts::new();
    let b = Switch::start(&hosts.b, &["--resume", "30s"]);
    b.ctl_ok(&["addport", "tap", "t0"]);
    let tap = Wire::open(&hosts.b, "t0");
    let (terms, mut old) = begin(&hosts.b, 1, "");
    let number = |n: u32| frame(mac(8), mac(7), &[], &n.to_be_bytes());
    // From here on both are known, and nobody's limits count.
    old.send(ws::BINARY, &frame(BROADCAST, mac(7), &[], &[]));
    tap.send(&frame(BROADCAST, mac(8), &[], &[]));
    wait_until("both are heard", LIMIT, || {
        [mac(7), mac(8)].iter().all(|mac| b.fdb().iter().any(|entry| entry.1 == lab::frames::mac_text(*mac)))
    });
    // What was flooded to it before its first connection was served.
    let lost = b.drops("link-down");
    let is_ours = |bytes: &[u8]| ethertype(bytes) == lab::frames::TYPE && bytes.len() > 14;
    let numbered = |bytes: &[u8]| u32::from_be_bytes(*bytes[14..].first_chunk().unwrap());
    let (mut n, mut back) = (0, 0);
    let (mut up, mut down) = (Vec::new(), Vec::new());
    for round in 1..=5 {
        for _ in 0..200 {
            old.send(ws::BINARY, &number(n));
            tap.send(&frame(mac(7), mac(8), &[], &u32::to_be_bytes(back)));
            (n, back) = (n + 1, back + 1);
        }
        let (answer, mut new) = ask(&hosts.b, &join(&terms, 0, round, true, KEY), "");
        assert_eq!(answer.status, 101, "{}", answer.head);
        // Both are open now, and what comes by the new one waits for what went by the old one.
        for _ in 0..200 {
            new.send(ws::BINARY, &number(n));
            n += 1;
        }
        for _ in 0..100 {
            old.send(ws::BINARY, &number(u32::MAX));
        }
        let (late, before) = (n - 200, up.len());
        let deadline = Instant::now() + LIMIT;
        // The old one says Close behind all that it has; ours comes behind what we had for it.
        let close = loop {
            match old.next(deadline.saturating_duration_since(Instant::now())).expect("a Close") {
                (ws::BINARY, bytes) if is_ours(&bytes) => down.push(numbered(&bytes)),
                (ws::CLOSE, body) => break body,
                _ => (),
            }
        };
        assert_eq!(close[..2], 1000_u16.to_be_bytes(), "{:?}", String::from_utf8_lossy(&close));
        old.send(ws::CLOSE, &1000_u16.to_be_bytes());
        let mut extra = 0;
        while up.len() - before < 400 || extra < 100 {
            let got = tap.next(deadline).expect("all frames");
            match is_ours(&got) {
                true if numbered(&got) == u32::MAX => {
                    extra += 1;
                    assert!(up.len() - before <= 200, "the new connection was read before the old one's end");
                }
                true => up.push(numbered(&got)),
                false => (),
            }
        }
        assert!(up[before..].is_sorted() && up[up.len() - 1] == n - 1, "from {late}: {:?}", &up[before..]);
        old = new;
    }
    assert_eq!(up, (0..n).collect::<Vec<_>>());
    wait_until("all that went down", LIMIT, || {
        if let Some((ws::BINARY, bytes)) = old.next(Duration::from_millis(200))
            && is_ours(&bytes)
        {
            down.push(numbered(&bytes));
        }
        down.len() == back as usize
    });
    assert_eq!(down, (0..back).collect::<Vec<_>>());
    let entry = b.wait_server_port();
    assert_eq!((&entry["state"], &entry["connects"]), (&"up".into(), &1.into()), "{entry}");
    assert_eq!((b.drops("link-down"), b.entries("listPort").len()), (lost, 2));
}
