//! What keeps one port from costing the others, on real devices and between real switches: storms, stations
//! that are too many or in two places, loops; and what `etherctl watch` tells of it.

mod lab;

use std::time::{Duration, Instant};

use lab::frames::{BROADCAST, Wire, frame, mac, mac_text, only_passes, passes, payload};
use lab::switch::{ETHERCTL, TwoHosts};
use lab::{Host, Process, SOON, Switch, wait_until, ws};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(30);

/// A switch with TAPs `t0`, `t1`, ... and a packet socket on each.
struct Bench<'h> {
    switch: Switch<'h>,
    wires: Vec<Wire>,
}

impl<'h> Bench<'h> {
    fn new(host: &'h Host, ports: &[&[&str]]) -> Self {
        let switch = Switch::start(host, &["--no-listen"]);
        let wires = ports.iter().enumerate().map(|(number, args)| {
            let name = format!("t{number}");
            switch.ctl_ok(&[&["addport", "tap", &name], *args].concat());
            Wire::open(host, &name)
        });
        let wires = wires.collect();
        Self { switch, wires }
    }

    fn drops(&self, port: &str, reason: &str) -> u64 {
        let counters = self.switch.entries("listCounters");
        let counters = counters.iter().find(|entry| entry["name"] == port).expect("the port's counters");
        counters["drops"][reason].as_u64().unwrap_or(0)
    }

    /// The port that a station is known on.
    fn place(&self, station: u32) -> Option<String> {
        let text = mac_text(mac(station));
        self.switch.fdb().into_iter().find(|(_, mac, _)| *mac == text).map(|(.., port)| port)
    }
}

/// `etherctl watch` in a host, until it is dropped.
struct Watch(Process);

impl Watch {
    fn start(host: &Host, switch: &Switch<'_>, args: &[&str]) -> Self {
        let url = switch.url();
        let all = [&[ETHERCTL, "--ctlurl", &url, "watch"], args].concat();
        let watch = Self(host.spawn("watch", &all));
        watch.tells("watching ");
        watch
    }

    /// Waits for a line with these words, and returns it.
    #[track_caller]
    fn tells(&self, words: &str) -> String {
        let find = || self.0.log().lines().find(|line| line.contains(words)).map(str::to_owned);
        wait_until(&format!("watch tells {words:?}"), LIMIT, || find().is_some());
        find().expect("found")
    }
}

#[test]
fn bad_39_a_storm_is_limited_and_unicast_passes() {
    let host = Host::new();
    let bench = Bench::new(&host, &[&["--storm", "broadcast=50"], &[], &["--storm", "off"]]);
    let watch = Watch::start(&host, &bench.switch, &[]);
    let [t0, t1, t2] = &bench.wires[..] else { unreachable!() };
    // The station that unicast is for.
    passes(t1, t0, &frame(BROADCAST, mac(1), &[], &payload(60)));
    let storm = frame(BROADCAST, mac(0), &[], &payload(60));
    let mut unicast = Vec::new();
    wait_until("the limit is reached", LIMIT, || {
        for _ in 0..50 {
            t0.send(&storm);
        }
        let one = frame(mac(1), mac(0), &[], &payload(60));
        t0.send(&one);
        unicast.push(one);
        bench.drops("t0", "storm-broadcast") > 500
    });
    let got = t1.collect(Duration::from_secs(1));
    assert!(unicast.iter().all(|one| got.contains(one)), "unicast to a known station suffered");
    wait_until("the port shows it", LIMIT, || {
        (0..50).for_each(|_| t0.send(&storm));
        bench.switch.port("t0")["alerts"] == serde_json::json!(["storm-broadcast"])
    });
    assert!(bench.switch.ctl_ok(&["listport"]).contains("storm-broadcast"));
    // Another port's broadcast is its own business.
    passes(t2, t1, &frame(BROADCAST, mac(2), &[], &payload(60)));
    assert!(watch.tells("storm-began").contains("(t0) storm-began: broadcast"));
    assert!(watch.tells("storm-ended").contains("frames dropped"));
    wait_until("the port shows that", LIMIT, || bench.switch.port("t0")["alerts"].is_null());
    let metrics = host.ok(&[
        "curl",
        "-s",
        "--unix-socket",
        bench.switch.sock().to_str().expect("UTF-8"),
        "http://localhost/metrics",
    ]);
    assert!(metrics.contains("reason=\"storm-broadcast\""), "{metrics}");
}

#[test]
fn bad_37_a_port_learns_so_many_stations_and_no_more() {
    let host = Host::new();
    let bench = Bench::new(&host, &[&["--max-macs", "3", "--ethertypes", "0x88b5"], &[]]);
    let watch = Watch::start(&host, &bench.switch, &["--json"]);
    let [t0, t1] = &bench.wires[..] else { unreachable!() };
    passes(t1, t0, &frame(BROADCAST, mac(9), &[], &payload(60)));
    for station in 0..3 {
        passes(t0, t1, &frame(BROADCAST, mac(station), &[], &payload(60)));
    }
    let marker = frame(BROADCAST, mac(0), &[], &payload(60));
    only_passes(t0, t1, &marker, &frame(BROADCAST, mac(77), &[], &payload(60)));
    assert_eq!(bench.place(77), None);
    assert_eq!((bench.place(2).as_deref(), bench.place(9).as_deref()), (Some("t0"), Some("t1")));
    assert!(bench.drops("t0", "mac-limit") > 0);
    let told: Value = serde_json::from_str(&watch.tells("mac-limit")).expect("a line of JSON");
    assert_eq!((told["event"].as_str(), told["name"].as_str()), (Some("limit-began"), Some("t0")));
    watch.tells("\"limit-ended\"");
    // More room, at once.
    bench.switch.ctl_ok(&["setport", "t0", "--max-macs", "0"]);
    passes(t0, t1, &frame(BROADCAST, mac(77), &[], &payload(60)));
    assert_eq!(bench.place(77).as_deref(), Some("t0"));
}

#[test]
fn bad_38_a_station_in_two_places_is_held_in_one() {
    let host = Host::new();
    let bench = Bench::new(&host, &[&[], &[], &[]]);
    let watch = Watch::start(&host, &bench.switch, &[]);
    let [t0, t1, t2] = &bench.wires[..] else { unreachable!() };
    wait_until("the station is held", LIMIT, || {
        for wire in [t0, t1].into_iter().cycle().take(40) {
            wire.send(&frame(BROADCAST, mac(5), &[], &payload(60)));
        }
        bench.drops("t0", "mac-move") + bench.drops("t1", "mac-move") > 0
    });
    wait_until("a port shows it", LIMIT, || {
        [t0, t1].iter().for_each(|wire| wire.send(&frame(BROADCAST, mac(5), &[], &payload(60))));
        ["t0", "t1"].iter().any(|port| bench.switch.port(port)["alerts"] == serde_json::json!(["mac-move"]))
    });
    let place = bench.place(5).expect("known");
    assert!(watch.tells("mac-move-held").contains(&format!("({place}) mac-move-held: {}", mac_text(mac(5)))));
    let (home, other) = if place == "t0" { (t0, t1) } else { (t1, t0) };
    // Where it is held it may speak; elsewhere it may not, and nobody else is concerned.
    passes(home, t2, &frame(BROADCAST, mac(5), &[], &payload(60)));
    let marker = frame(BROADCAST, mac(6), &[], &payload(60));
    only_passes(other, t2, &marker, &frame(BROADCAST, mac(5), &[], &payload(60)));
    assert_eq!(bench.place(5), Some(place));
    watch.tells("mac-move-released");
    passes(other, t2, &frame(BROADCAST, mac(5), &[], &payload(60)));
}

#[test]
fn filters_let_in_what_they_name() {
    let host = Host::new();
    let station = mac_text(mac(3));
    let guards = ["--macs", &station, "--ethertypes", "arp,0x88b5", "--rate", "8000000"];
    let bench = Bench::new(&host, &[&guards, &[]]);
    let watch = Watch::start(&host, &bench.switch, &[]);
    let [t0, t1] = &bench.wires[..] else { unreachable!() };
    let shows = |reason: &str, again: &dyn Fn()| {
        wait_until(&format!("the port shows {reason}"), LIMIT, || {
            again();
            bench.switch.port("t0")["alerts"].as_array().is_some_and(|alerts| alerts.contains(&reason.into()))
        });
        watch.tells(&format!("(t0) limit-began: {reason}: "));
    };
    let good = |n| frame(BROADCAST, mac(3), &[], &payload(n));
    only_passes(t0, t1, &good(60), &frame(BROADCAST, mac(4), &[], &payload(60)));
    let mut ip = good(61);
    ip[12..14].copy_from_slice(&[0x08, 0x00]);
    t0.send(&ip);
    passes(t0, t1, &good(62));
    assert!(bench.drops("t0", "ethertype-not-allowed") > 0);
    shows("ethertype-not-allowed", &|| t0.send(&ip));
    shows("source-not-allowed", &|| t0.send(&frame(BROADCAST, mac(4), &[], &payload(60))));
    wait_until("the rate is reached", LIMIT, || {
        (0..200).for_each(|_| t0.send(&good(1400)));
        bench.drops("t0", "rate-limit") > 0
    });
    shows("rate-limit", &|| (0..200).for_each(|_| t0.send(&good(1400))));
    bench.switch.ctl_ok(&["setport", "t0", "--macs", "all", "--rate", "0"]);
    passes(t0, t1, &frame(BROADCAST, mac(4), &[], &payload(60)));
    assert!(watch.tells("limit-ended: rate-limit").contains("frames dropped"));
}

#[test]
fn guards_are_saved_and_come_back() {
    let host = Host::new();
    let config = host.file("etherws.toml", "[listen]\nenabled = false\n[switch]\nmax_macs = 9\n");
    let mut switch = Switch::start(&host, &["--config", &config]);
    switch.ctl_ok(&[
        "addport",
        "tap",
        "t0",
        "--rate",
        "9000",
        "--storm",
        "broadcast=7,unknown=8",
        "--max-macs",
        "5",
        "--macs",
        "02:00:00:00:00:01",
        "--ethertypes",
        "arp,0x88b5",
        "--no-loop-guard",
    ]);
    switch.ctl_ok(&["addport", "tap", "t1"]);
    switch.ctl_ok(&["setport", "t1", "--storm", "off", "--rate", "5", "--loop-guard", "0"]);
    switch.ctl_ok(&["saveconf"]);
    let saved = std::fs::read_to_string(&config).expect("saved");
    let keys = [
        "max_macs = 9",
        "rate = 9000",
        "storm = { broadcast = 7, unknown = 8 }",
        "max_macs = 5",
        "macs = [\"02:00:00:00:00:01\"]",
        "ethertypes = [\"arp\", \"0x88b5\"]",
        "storm = \"off\"",
        "rate = 5",
    ];
    for key in keys {
        assert!(saved.lines().any(|line| line == key), "{key} is not in\n{saved}");
    }
    assert_eq!(saved.matches("loop_guard = false").count(), 2, "{saved}");
    switch.kill_and_restart();
    switch.ctl_ok(&["saveconf"]);
    assert_eq!(std::fs::read_to_string(&config).expect("saved"), saved, "read and written again");
    // A reload applies them in place.
    std::fs::write(&config, saved.replace("max_macs = 9", "storm = \"off\"").replace("rate = 5", "rate = 6"))
        .expect("write");
    let changes = switch.ctl_ok(&["reload"]);
    assert!(changes.contains("port t1 changed: rate 6") && changes.contains("guards"), "{changes}");
}

#[test]
fn two_taps_in_one_bridge_are_a_loop_and_one_is_blocked() {
    let host = Host::new();
    let bench = Bench::new(&host, &[&[], &[], &["--no-loop-guard"]]);
    let watch = Watch::start(&host, &bench.switch, &[]);
    host.ok(&["ip", "link", "add", "br0", "type", "bridge"]);
    host.ok(&["ip", "link", "set", "br0", "up"]);
    host.ok(&["ip", "link", "set", "t0", "master", "br0"]);
    host.ok(&["ip", "link", "set", "t1", "master", "br0"]);
    bench.switch.wait_state_for("t1", "blocked", LIMIT);
    let reason = bench.switch.port("t1")["reason"].clone();
    assert_eq!(reason, "loop with port 1 (t0)", "the higher number is the one");
    assert_eq!(bench.switch.state("t0"), "up");
    assert!(watch.tells("loop-blocked").contains("2 (t1) loop-blocked: loop with port 1 (t0)"));
    let metrics = host.ok(&[
        "curl",
        "-s",
        "--unix-socket",
        bench.switch.sock().to_str().expect("UTF-8"),
        "http://localhost/metrics",
    ]);
    assert!(metrics.contains("etherws_port_blocked{port=\"2\",name=\"t1\",type=\"tap\"} 1"), "{metrics}");
    host.ok(&["ip", "link", "set", "t1", "nomaster"]);
    bench.switch.wait_state_for("t1", "up", LIMIT);
    watch.tells("loop-reopened");
    assert!(bench.drops("t0", "loop-probe") + bench.drops("t1", "loop-probe") > 0);
}

#[test]
fn a_port_that_is_guarded_no_more_opens_and_says_why() {
    let host = Host::new();
    let bench = Bench::new(&host, &[&[], &[]]);
    let watch = Watch::start(&host, &bench.switch, &[]);
    host.ok(&["ip", "link", "add", "br0", "type", "bridge"]);
    host.ok(&["ip", "link", "set", "br0", "up"]);
    for tap in ["t0", "t1"] {
        host.ok(&["ip", "link", "set", tap, "master", "br0"]);
    }
    bench.switch.wait_state_for("t1", "blocked", LIMIT);
    // Probes come back as long as they are sent.
    bench.switch.ctl_ok(&["setport", "t1", "--loop-guard", "0"]);
    assert!(watch.tells("loop-reopened").contains("2 (t1) loop-reopened: the loop guard was turned off"));
    assert_eq!(bench.switch.state("t1"), "up");
}

#[test]
fn whose_links_are_guarded_is_said_in_their_profile() {
    let hosts = TwoHosts::new();
    let tokens = hosts.b.file("tokens", "loud 0123456789abcdef\nquiet fedcba9876543210\n");
    let config =
        format!("[listen]\ntokens = \"{tokens}\"\n[[user]]\ntoken = \"quiet\"\nloop_guard = false\n");
    let config = hosts.b.file("b.toml", config);
    let _b = Switch::start(&hosts.b, &["--config", &config]);
    let link = |token: &str| {
        let path = format!("/?token={token}");
        let (answer, ws) = ws::get(&hosts.a, &format!("{}:80", hosts.link.b), &path, ws::UPGRADE);
        assert_eq!(answer.status, 101, "{}", answer.head);
        ws
    };
    let is_probe = |message: &Vec<u8>| message.starts_with(b"\x03ewloo");
    let (mut quiet, mut loud) = (link("fedcba9876543210"), link("0123456789abcdef"));
    for _ in 0..3 {
        let probe =
            std::iter::repeat_with(|| loud.wait(ws::BINARY, LIMIT)).find(|got| got.iter().all(is_probe));
        assert!(probe.flatten().is_some(), "the other one is probed each second");
    }
    while let Some(message) = quiet.wait(ws::BINARY, Duration::from_millis(200)) {
        assert!(!is_probe(&message), "a probe");
    }
}

/// A page's machine has no use for them, and its card holds eight frames.
#[test]
fn a_browser_is_sent_no_probes() {
    let hosts = TwoHosts::new();
    let _b = Switch::start(&hosts.b, &[]);
    let addr = format!("{}:80", hosts.link.b);
    let link = |agent: &str| {
        let headers = format!("{}Origin: http://{addr}\r\nUser-Agent: {agent}\r\n", ws::UPGRADE);
        let (answer, ws) = ws::get(&hosts.a, &addr, "/", &headers);
        assert_eq!(answer.status, 101, "{}", answer.head);
        ws
    };
    let is_probe = |message: &Vec<u8>| message.get(12..14) == Some(&[0x88, 0xb6]);
    let mut page = link("Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0");
    // Old versions of websocket-client send an Origin, too.
    let mut program = link("websocket-client/0.59");
    for _ in 0..3 {
        let probe =
            std::iter::repeat_with(|| program.wait(ws::BINARY, LIMIT)).find(|got| got.iter().all(is_probe));
        assert!(probe.flatten().is_some(), "the other one is probed each second");
    }
    while let Some(message) = page.wait(ws::BINARY, Duration::from_millis(200)) {
        assert!(!is_probe(&message), "a probe");
    }
}

#[test]
fn of_two_links_side_by_side_one_is_blocked_and_opens_when_the_other_goes() {
    let hosts = TwoHosts::new();
    let a = Switch::start(&hosts.a, &["--no-listen"]);
    let b = Switch::start(&hosts.b, &[]);
    a.ctl_ok(&["addport", "tap", "t0", "--address", "10.1.0.1/24"]);
    b.ctl_ok(&["addport", "tap", "t0", "--address", "10.1.0.2/24"]);
    let url = format!("ws://{}/", hosts.link.b);
    for link in ["one", "two"] {
        a.ctl_ok(&["addport", "client", &url, "--name", link]);
    }
    let blocked = || {
        let ports = a.entries("listPort").into_iter().chain(b.entries("listPort"));
        ports.filter(|port| port["state"] == "blocked").count()
    };
    wait_until("a port is blocked", LIMIT, || blocked() > 0);
    // Both ends may have been at it at once: then both open again, and one is first.
    wait_until("the hosts meet", Duration::from_secs(60), || hosts.a.pings("10.1.0.2"));
    wait_until("one port is blocked", LIMIT, || blocked() == 1);
    // One broadcast arrives once, and is not there for ever.
    let (out, far) = (Wire::open(&hosts.a, "t0"), Wire::open(&hosts.b, "t0"));
    let one = frame(BROADCAST, mac(1), &[], &payload(60));
    passes(&out, &far, &one);
    let last = frame(BROADCAST, mac(1), &[], &payload(61));
    out.send(&last);
    let copies = far.collect(Duration::from_secs(1)).into_iter().filter(|got| *got == last).count();
    assert!(copies <= 1, "it came again and again: {copies}");

    // The link that frames take is taken away, at the end that has blocked the other.
    let is_link = |port: &Value| port["type"] != "tap";
    let side = [&a, &b].into_iter().find(|s| s.entries("listPort").iter().any(|p| p["state"] == "blocked"));
    let side = side.expect("one has blocked a link");
    let open = side.entries("listPort").into_iter().find(|port| is_link(port) && port["state"] == "up");
    side.ctl_ok(&["setport", open.expect("a link is up")["name"].as_str().expect("a name"), "--shut", "1"]);
    // The far end is not told of it. It sends that way until it hears from here, and a kernel asks for a
    // neighbour anew only when it has been unsure of it for a while: each host calls the other.
    let meet = || hosts.a.pings("10.1.0.2") || hosts.b.pings("10.1.0.1");
    wait_until("the hosts meet by the other link", LIMIT, meet);
    wait_until("no port is blocked", LIMIT, || blocked() == 0);
}

/// Of the one trunk it is the first VLAN that goes round, of the other the last.
#[test]
fn a_loop_in_one_of_many_vlans_of_two_trunks_is_found() {
    let hosts = TwoHosts::new();
    let a = Switch::start(&hosts.a, &["--no-listen"]);
    let _b = Switch::start(&hosts.b, &[]);
    let url = format!("ws://{}/", hosts.link.b);
    // More VLANs than have their turn while a block holds without probes that come back.
    for (link, trunk) in [("one", "100-299,300"), ("two", "300,400-599")] {
        a.ctl_ok(&["addport", "client", &url, "--name", link, "--trunk", trunk]);
    }
    let state = |port: &str| a.port(port)["state"].clone();
    wait_until("one is blocked", LIMIT, || state("two") == "blocked" && state("one") == "up");
    let (since, hold) = (Instant::now(), Duration::from_secs(25));
    wait_until("and stays so", hold * 2, || {
        assert_eq!(state("two"), "blocked");
        since.elapsed() > hold
    });
    a.ctl_ok(&["setport", "two", "--trunk", "400-599"]);
    wait_until("none is blocked", LIMIT, || state("two") == "up");
}

#[test]
fn watch_tells_of_ports_and_outlives_the_daemon() {
    let host = Host::new();
    let config = host.file("etherws.toml", "[listen]\nenabled = false\n");
    let mut switch = Switch::start(&host, &["--config", &config]);
    let mut watch = Watch::start(&host, &switch, &[]);
    switch.ctl_ok(&["addport", "tap", "t0", "--name", "lan"]);
    assert!(watch.tells("port-added").ends_with(" 1 (lan) port-added: tap"));
    watch.tells("1 (lan) port-up");
    switch.ctl_ok(&["setport", "lan", "--shut", "1"]);
    watch.tells("1 (lan) port-down: shut");
    switch.ctl_ok(&["setport", "lan", "--shut", "0"]);
    host.ok(&["ip", "link", "set", "t0", "down"]);
    watch.tells("1 (lan) port-down: t0 is down");
    switch.ctl_ok(&["delport", "lan"]);
    watch.tells("1 (lan) port-removed");
    switch.kill_and_restart();
    watch.tells("is gone");
    wait_until("it watches again", SOON, || watch.0.log().matches("watching ").count() == 2);
    switch.ctl_ok(&["addport", "tap", "t9"]);
    watch.tells("1 (t9) port-added");
    assert!(watch.0.is_running());
}

#[test]
fn a_switch_that_cannot_be_watched_is_named() {
    let host = Host::new();
    let output = host.run_for(20, &[ETHERCTL, "--ctlurl", "unix:/nonexistent/ctl.sock", "watch"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("could not reach unix:/nonexistent/ctl.sock"), "{text}");
    let _switch = Switch::start(&host, &["--no-listen", "--ctlport", "7867"]);
    let login = ["--ctluser", "joe", "--ctlpasswd", "wrong", "watch"];
    let url = "http://127.0.0.1:7867/ctl";
    let output = host.run_for(20, &[&[ETHERCTL, "--ctlurl", url], &login[..]].concat());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(1) && text.contains("does not take this user and password"),
        "{text}"
    );
}
