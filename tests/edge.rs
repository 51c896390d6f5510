//! A switch at the edge of somebody's network: in his bridges, behind his load balancer, one node of many.

mod lab;

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use lab::frames::Wire;
use lab::switch::TwoHosts;
use lab::{Host, Switch, inside, wait_until, ws};
use nix::sys::signal::Signal;

const LIMIT: Duration = Duration::from_secs(30);

fn add_bridge(host: &Host, name: &str) {
    host.ok(&["ip", "link", "add", name, "type", "bridge"]);
    host.ok(&["ip", "link", "set", name, "up"]);
}

/// The bridge that a device is in.
fn bridge_of(host: &Host, device: &str) -> String {
    let path = format!("/sys/class/net/{device}/master");
    let target = host.run(&["readlink", &path]);
    String::from_utf8_lossy(&target.stdout).trim().rsplit('/').next().unwrap_or_default().to_owned()
}

/// Queues of its own; a device that was there, or is to persist, is as `ip tuntap add` makes it.
#[test]
fn a_tap_of_the_switch_has_queues_that_flows_are_dealt_out_to() {
    let host = Host::new();
    let switch = Switch::start(&host, &["--no-listen", "--no-announce"]);
    host.ok(&["ip", "tuntap", "add", "t3", "mode", "tap"]);
    host.ok(&["sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1"]);
    switch.ctl_ok(&["addport", "tap", "t0", "--address", "10.9.0.1/24"]);
    switch.ctl_ok(&["addport", "tap", "t1"]);
    switch.ctl_ok(&["addport", "tap", "t2", "--persist"]);
    switch.ctl_ok(&["addport", "tap", "t3"]);
    let queues = |tap: &str| host.ok(&["ip", "-d", "link", "show", tap]).contains("multi_queue");
    assert_eq!(["t0", "t1", "t2", "t3"].map(queues), [true, true, false, false]);
    let qdiscs = host.ok(&["tc", "qdisc", "show", "dev", "t0"]);
    assert!(qdiscs.lines().count() == 1 && qdiscs.contains("pfifo_fast"), "{qdiscs}");
    assert_eq!(host.ok(&["cat", "/sys/class/net/t0/tx_queue_len"]).trim(), "500");

    // Of forty flows, each to a port of its own, every frame comes in.
    host.ok(&["ip", "neigh", "add", "10.9.0.2", "lladdr", "02:00:00:00:00:09", "dev", "t0"]);
    let wire = Wire::open(&host, "t1");
    let sender = inside(&host, || UdpSocket::bind("10.9.0.1:0").expect("bind"));
    for port in 0..40u16 {
        sender.send_to(&port.to_be_bytes(), ("10.9.0.2", 2000 + port)).expect("send");
    }
    let mut missing: BTreeSet<u16> = (0..40).collect();
    let deadline = Instant::now() + LIMIT;
    while !missing.is_empty() {
        let frame = wire.next(deadline).unwrap_or_else(|| panic!("{missing:?} never came"));
        if frame[12..14] == [8, 0] && frame[23] == 17 {
            missing.remove(&u16::from_be_bytes([frame[42], frame[43]]));
        }
    }
}

#[test]
fn a_tap_joins_its_bridge_and_is_back_there_after_a_restart() {
    let host = Host::new();
    add_bridge(&host, "br0");
    let config = host.file("etherws.toml", "[listen]\nenabled = false\n");
    let mut switch = Switch::start(&host, &["--config", &config]);
    switch.ctl_ok(&["addport", "tap", "t0", "--bridge", "br0"]);
    assert_eq!(bridge_of(&host, "t0"), "br0");
    assert_eq!(switch.port("t0")["bridge"], "br0");
    let listed = switch.ctl_ok(&["listport"]);
    assert!(listed.contains("Bridge") && listed.contains("br0"), "{listed}");
    switch.ctl_ok(&["saveconf"]);
    let saved = std::fs::read_to_string(&config).expect("saved");
    assert!(saved.lines().any(|line| line == "bridge = \"br0\""), "{saved}");
    switch.kill_and_restart();
    assert_eq!(bridge_of(&host, "t0"), "br0");
    // Another bridge in the file is another bridge.
    add_bridge(&host, "br1");
    std::fs::write(&config, saved.replace("\"br0\"", "\"br1\"")).expect("write");
    assert!(switch.ctl_ok(&["reload"]).contains("port t0 recreated"));
    assert_eq!(bridge_of(&host, "t0"), "br1");
}

#[test]
fn a_bridge_that_is_made_anew_gets_its_tap_again() {
    let host = Host::new();
    add_bridge(&host, "br0");
    let switch = Switch::start(&host, &["--no-listen"]);
    switch.ctl_ok(&["addport", "tap", "t0", "--bridge", "br0"]);
    for _ in 0..2 {
        host.ok(&["ip", "link", "del", "br0"]);
        let said = || switch.port("t0")["reason"].as_str().is_some_and(|why| why.contains("br0 was deleted"));
        wait_until("that is said", LIMIT, said);
        add_bridge(&host, "br0");
        wait_until("t0 is in its bridge again", LIMIT, || bridge_of(&host, "t0") == "br0");
        wait_until("nothing is wrong any more", LIMIT, || switch.port("t0")["reason"].is_null());
    }
    // Who takes it out wants it so, whatever becomes of the bridge.
    host.ok(&["ip", "link", "set", "t0", "nomaster"]);
    host.ok(&["ip", "link", "set", "br0", "down"]);
    host.ok(&["ip", "link", "set", "br0", "up"]);
    host.ok(&["ip", "link", "set", "t0", "down"]);
    switch.wait_state("t0", "down");
    assert_eq!(bridge_of(&host, "t0"), "");
}

#[test]
fn a_bridge_that_cannot_be_joined_is_told_and_leaves_no_port() {
    let host = Host::new();
    add_bridge(&host, "br0");
    let switch = Switch::start(&host, &["--no-listen"]);
    for (bridge, words) in [
        ("br7", "no network device br7; make it first: ip link add br7 type bridge"),
        ("lo", "lo is no bridge"),
        ("a/b", "bridge: "),
    ] {
        let output = switch.ctl(&["addport", "tap", "t0", "--bridge", bridge]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(words), "{bridge}: {said}");
        assert!(!host.run(&["ip", "link", "show", "t0"]).status.success(), "{bridge}: t0 is still there");
    }
    // One that somebody has put elsewhere stays there.
    host.ok(&["ip", "tuntap", "add", "t1", "mode", "tap"]);
    add_bridge(&host, "theirs");
    host.ok(&["ip", "link", "set", "t1", "master", "theirs"]);
    let output = switch.ctl(&["addport", "tap", "t1", "--bridge", "br0"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("t1 is in theirs already") && said.contains("nomaster"), "{said}");
    assert_eq!(bridge_of(&host, "t1"), "theirs");
    switch.ctl_ok(&["addport", "tap", "t1", "--bridge", "theirs"]);
}

/// The status of a GET, and its body.
fn get(host: &Host, url: &str) -> (String, String) {
    let output = host.run(&["curl", "-s", "-m", "10", "-w", "\n%{http_code}", url]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').unwrap_or_default();
    (status.to_owned(), body.trim().to_owned())
}

#[test]
fn a_balancer_is_told_before_links_are_closed() {
    let hosts = TwoHosts::new();
    let mut b =
        Switch::start(&hosts.b, &["--drain-wait", "600", "--ctlport", "7867", "--metrics", "127.0.0.1"]);
    let a = Switch::start(&hosts.a, &["--no-listen"]);
    let at = hosts.link.b.to_string();
    a.ctl_ok(&["addport", "client", &format!("ws://{at}/"), "--name", "link"]);
    a.wait_state("link", "up");
    let ready = || get(&hosts.a, &format!("http://{at}/readyz"));
    assert_eq!(ready(), ("200".into(), "ready".into()));
    for url in ["http://127.0.0.1:7867/healthz", "http://127.0.0.1:9867/healthz", "http://127.0.0.1/healthz"]
    {
        assert_eq!(get(&hosts.b, url), ("200".into(), "ok".into()), "{url}");
    }
    b.process.signal(Signal::SIGTERM);
    wait_until("it is not ready", LIMIT, || ready() == ("503".into(), "draining".into()));
    assert_eq!(get(&hosts.a, &format!("http://{at}/healthz")).0, "200");
    // The links that it has go on; no new one comes in.
    let (answer, _) = ws::get(&hosts.a, &format!("{at}:80"), "/", ws::UPGRADE);
    assert!(answer.status == 503 && answer.head.contains("\r\nretry-after: "), "{}", answer.head);
    assert_eq!(a.state("link"), "up");
    assert_eq!(a.port("link")["connects"], 1);
    b.process.signal(Signal::SIGTERM);
    assert_eq!(b.process.wait(LIMIT), 0);
    wait_until("the link is closed", LIMIT, || a.state("link") != "up");
    let log = a.process.log();
    assert!(log.contains("closed by the peer with status 1001"), "{log}");
}

#[test]
fn a_node_is_called_by_its_name() {
    let host = Host::new();
    let switch = Switch::start(&host, &["--no-listen", "--node", "edge-1", "--metrics", "127.0.0.1"]);
    switch.ctl_ok(&["addport", "tap", "t0"]);
    assert_eq!(switch.port("t0")["node"], "edge-1");
    let listed = switch.ctl_ok(&["listport"]);
    assert!(listed.contains("Node") && listed.contains("edge-1"), "{listed}");
    assert!(switch.ctl_ok(&["version"]).ends_with(" on edge-1\n"));
    assert!(get(&host, "http://127.0.0.1:9867/metrics").1.contains("etherws_fdb_entries{node=\"edge-1\"}"));
    let log = switch.process.log();
    assert!(
        log.lines().any(|line| line.contains(" edge-1 ") && line.contains("listening: control")),
        "{log}"
    );
    // Without a name nothing is said of it but where it is asked for.
    let other = Host::new();
    let nameless = Switch::start(&other, &["--no-listen"]);
    nameless.ctl_ok(&["addport", "tap", "t0"]);
    assert!(nameless.port("t0")["node"].is_null());
    assert!(nameless.ctl_json(&["version"])["node"].is_string());
}
