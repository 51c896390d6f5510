//! More than two switches, and things that break: shut ports, cut cables, killed daemons.

mod lab;

use std::time::Duration;

use lab::frames::{BROADCAST, Wire, frame, mac, only_passes, passes, payload};
use lab::switch::TwoHosts;
use lab::{Host, SOON, Switch, join, pair, wait_until};
use nix::sys::signal::Signal;

#[test]
fn three_switches_in_a_line() {
    let hosts = [Host::new(), Host::new(), Host::new()];
    let (ab, bc) = (join(&hosts[0], &hosts[1]), join(&hosts[1], &hosts[2]));
    let [a, b, c] = [&hosts[0], &hosts[1], &hosts[2]].map(|host| Switch::start(host, &[]));
    for (number, switch) in [&a, &b, &c].into_iter().enumerate() {
        switch.ctl_ok(&["addport", "tap", "t0", "--address", &format!("10.1.0.{}/24", number + 1)]);
    }
    a.ctl_ok(&["addport", "client", &format!("ws://{}/", ab.b), "--name", "right"]);
    b.ctl_ok(&["addport", "client", &format!("ws://{}/", bc.b), "--name", "right"]);
    a.wait_state("right", "up");
    b.wait_state("right", "up");
    for (host, other) in [(0, 3), (0, 2), (1, 3), (2, 1)] {
        hosts[host].ping(&format!("10.1.0.{other}"));
    }
    let (first, last) = (Wire::open(&hosts[0], "t0"), Wire::open(&hosts[2], "t0"));
    passes(&first, &last, &frame(BROADCAST, mac(1), &[(0x88a8, 5), (0x8100, 6)], &payload(200)));
}

#[test]
fn a_star_of_eight() {
    let hub = Host::new();
    let leaves: Vec<Host> = (0..8).map(|_| Host::new()).collect();
    let links: Vec<_> = leaves.iter().map(|leaf| join(leaf, &hub)).collect();
    let centre = Switch::start(&hub, &[]);
    let switches: Vec<Switch> = leaves.iter().map(|leaf| Switch::start(leaf, &["--no-listen"])).collect();
    for (number, (switch, link)) in switches.iter().zip(&links).enumerate() {
        switch.ctl_ok(&["addport", "tap", "t0", "--address", &format!("10.1.0.{}/24", number + 1)]);
        switch.ctl_ok(&["addport", "client", &format!("ws://{}/", link.b), "--name", "hub"]);
    }
    switches.iter().for_each(|switch| switch.wait_state("hub", "up"));
    for (number, leaf) in leaves.iter().enumerate() {
        leaf.ping(&format!("10.1.0.{}", (number + 1) % 8 + 1));
    }
    // One broadcast reaches the seven others, once each, and does not come back.
    let wires: Vec<Wire> = leaves.iter().map(|leaf| Wire::open(leaf, "t0")).collect();
    let sent = frame(BROADCAST, mac(1), &[], &payload(100));
    wires[0].send(&sent);
    for (number, wire) in wires.iter().enumerate() {
        let copies = wire.collect(Duration::from_millis(300)).iter().filter(|got| **got == sent).count();
        assert_eq!(copies, usize::from(number != 0), "copies at leaf {number}");
    }
    assert_eq!(centre.entries("listPort").len(), 8);
}

#[test]
fn a_shut_port_is_silent_and_comes_back() {
    let hosts = TwoHosts::new();
    let pair = pair(&hosts);
    hosts.a.ping("10.1.0.2");
    // The TAP.
    pair.a.ctl_ok(&["setport", "t0", "--shut", "1"]);
    assert_eq!(pair.a.state("t0"), "shut");
    assert!(!hosts.a.pings("10.1.0.2"), "a shut port carries nothing");
    pair.a.ctl_ok(&["setport", "t0", "--shut", "0"]);
    hosts.a.ping("10.1.0.2");
    // The link, at the end that dialled, then at the end that was called.
    pair.a.ctl_ok(&["setport", "link", "--shut", "1"]);
    assert!(!hosts.b.pings("10.1.0.1"));
    pair.a.ctl_ok(&["setport", "link", "--shut", "0"]);
    pair.a.wait_state("link", "up");
    hosts.b.ping("10.1.0.1");
    let number = pair.b.wait_server_port()["port"].to_string();
    pair.b.ctl_ok(&["setport", &number, "--shut", "1"]);
    assert!(!hosts.a.pings("10.1.0.2"));
    pair.b.ctl_ok(&["setport", &number, "--shut", "0"]);
    hosts.a.ping("10.1.0.2");
}

#[test]
fn a_deleted_port_takes_its_device_stations_and_peer_with_it() {
    let hosts = TwoHosts::new();
    let pair = pair(&hosts);
    hosts.a.ping("10.1.0.2");
    let number = pair.a.port("link")["port"].clone();
    pair.a.ctl_ok(&["delport", "link"]);
    assert!(!pair.a.fdb().iter().any(|(_, _, port)| port == "link"));
    wait_until("the other end notices at once", SOON, || {
        !pair.b.entries("listPort").iter().any(|entry| entry["type"] == "server")
    });
    pair.a.ctl_ok(&["delport", "t0"]);
    assert!(!hosts.a.run(&["ip", "link", "show", "t0"]).status.success(), "the TAP is gone");
    let next = pair.a.ctl_json(&["addport", "tap", "t1"]);
    let next = &next["entries"][0]["port"];
    assert!(next.as_u64() > number.as_u64(), "numbers are not used again: {next}");
}

#[test]
fn a_persistent_tap_outlives_its_port() {
    let host = Host::new();
    let switch = Switch::start(&host, &["--no-listen"]);
    switch.ctl_ok(&["addport", "tap", "keep0", "--persist"]);
    switch.ctl_ok(&["delport", "keep0"]);
    host.ok(&["ip", "link", "show", "keep0"]);
    switch.ctl_ok(&["addport", "tap", "keep0"]);
}

#[test]
fn a_cut_link_heals() {
    let hosts = TwoHosts::new();
    let a = Switch::start(&hosts.a, &["--no-listen"]);
    let b = Switch::start(&hosts.b, &["--ping", "1"]);
    a.ctl_ok(&["addport", "tap", "t0", "--address", "10.1.0.1/24"]);
    b.ctl_ok(&["addport", "tap", "t0", "--address", "10.1.0.2/24"]);
    a.ctl_ok(&["addport", "client", &format!("ws://{}/", hosts.link.b), "--name", "link", "--ping", "1"]);
    a.wait_state("link", "up");
    hosts.a.ping("10.1.0.2");
    let number = a.port("link")["port"].clone();
    // A short cut: TCP itself carries on, or the link is made anew; either way the port stays.
    hosts.link.set(&hosts.b, false);
    std::thread::sleep(Duration::from_secs(2));
    hosts.link.set(&hosts.b, true);
    wait_until("pings pass again", Duration::from_secs(45), || hosts.a.pings("10.1.0.2"));
    assert_eq!(a.port("link")["port"], number);
}

/// Without a route each try fails at once and the waits grow; the route's coming ends the wait.
#[test]
fn a_new_route_is_tried_at_once() {
    let hosts = TwoHosts::new();
    let _b = Switch::start(&hosts.b, &[]);
    let net = format!("{}/24", hosts.link.a);
    hosts.a.ok(&["ip", "addr", "del", &net, "dev", &hosts.link.device]);
    let a = Switch::start(&hosts.a, &["--no-listen"]);
    a.ctl_ok(&["addport", "client", &format!("ws://{}/", hosts.link.b), "--name", "link"]);
    let waits = || a.process.log().lines().filter(|line| line.contains("next try in ")).count();
    let last_wait = || -> Option<f32> {
        let log = a.process.log();
        let (_, wait) = log.rsplit_once("next try in ")?;
        wait.split_whitespace().next()?.parse().ok()
    };
    // Waits are random; one of more than 6 s just begun tells a try at once from a lucky one.
    let mut seen = 0;
    wait_until("a long wait", Duration::from_secs(120), || {
        let new = waits() > seen;
        seen = waits();
        new && last_wait() > Some(6.0)
    });
    hosts.a.ok(&["ip", "addr", "add", &net, "dev", &hosts.link.device]);
    a.wait_state_for("link", "up", Duration::from_secs(3));
}

/// The peer is gone without a word: noticed within 45 s, up again within 30 s of healing.
#[test]
fn a_black_hole_is_noticed_and_heals() {
    let hosts = TwoHosts::new();
    let pair = pair(&hosts);
    hosts.a.ping("10.1.0.2");
    let (number, connects) = (pair.a.port("link")["port"].clone(), pair.a.port("link")["connects"].clone());
    hosts.link.set(&hosts.b, false);
    wait_until("A notices", Duration::from_secs(50), || pair.a.state("link") != "up");
    wait_until("B notices", Duration::from_secs(50), || {
        !pair.b.entries("listPort").iter().any(|entry| entry["type"] == "server")
    });
    assert!(!pair.a.fdb().iter().any(|(_, _, port)| port == "link"), "its stations are forgotten");
    hosts.link.set(&hosts.b, true);
    pair.a.wait_state_for("link", "up", Duration::from_secs(30));
    hosts.a.ping("10.1.0.2");
    assert_eq!(pair.a.port("link")["port"], number);
    assert!(pair.a.port("link")["connects"].as_u64() > connects.as_u64());
}

#[test]
fn the_killed_daemon_comes_back_as_it_was_saved() {
    let hosts = TwoHosts::new();
    let config = hosts.a.file("etherws.toml", "[listen]\nenabled = false\n");
    let mut a = Switch::start(&hosts.a, &["--config", &config]);
    let mut b = Switch::start(&hosts.b, &[]);
    b.ctl_ok(&["addport", "tap", "t0", "--address", "10.1.0.2/24"]);
    let url = format!("ws://{}/", hosts.link.b);
    a.ctl_ok(&["addport", "tap", "t0", "--address", "10.1.0.1/24", "--mtu", "1400", "--name", "lan"]);
    a.ctl_ok(&["addport", "client", &url, "--name", "up", "--user", "joe", "--passwd", "secret-4711"]);
    a.ctl_ok(&["addport", "tap", "t1", "--access", "10", "--isolated", "--shut"]);
    a.wait_state("up", "up");
    hosts.a.ping("10.1.0.2");
    a.ctl_ok(&["saveconf"]);
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(&config).expect("saved").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "secrets are inside");

    a.kill_and_restart();
    a.wait_state("up", "up");
    hosts.a.ping("10.1.0.2");
    assert_eq!(a.state("t1"), "shut");
    assert_eq!(a.port("t1")["vlan"], "access 10");
    assert_eq!(a.port("t1")["isolated"], true);
    assert_eq!(a.port("lan")["target"], "t0");
    let lan = a.entries("listInterface").into_iter().find(|entry| entry["name"] == "lan").expect("lan");
    assert_eq!((&lan["mtu"], &lan["address"]), (&1400.into(), &"10.1.0.1".into()));
    assert!(!a.ctl_ok(&["--json", "listport"]).contains("secret-4711"));

    // The other end: its incoming link returns by itself.
    b.kill_and_restart();
    b.ctl_ok(&["addport", "tap", "t0", "--address", "10.1.0.2/24"]);
    a.wait_state_for("up", "up", Duration::from_secs(30));
    hosts.a.ok(&["ip", "neigh", "flush", "all"]); // the new TAP has a new MAC
    hosts.a.ping("10.1.0.2");
}

#[test]
fn sigterm_says_goodbye() {
    let hosts = TwoHosts::new();
    let mut pair = pair(&hosts);
    pair.b.process.signal(Signal::SIGTERM);
    assert_eq!(pair.b.process.wait(Duration::from_secs(10)), 0, "{}", pair.b.process.log());
    wait_until("A has seen the Close", Duration::from_secs(3), || pair.a.state("link") != "up");
}

#[test]
fn reload_leaves_unchanged_ports_alone_and_a_bad_file_changes_nothing() {
    let hosts = TwoHosts::new();
    let link = format!(
        "[listen]\nenabled = false\n[[port]]\ntype = \"client\"\ntarget = \"ws://{}/\"\nname = \"link\"\n",
        hosts.link.b
    );
    let tap = |name: &str| format!("[[port]]\ntype = \"tap\"\ntarget = \"{name}\"\n");
    let config = hosts.a.file("etherws.toml", format!("{link}{}", tap("t0")));
    let _b = Switch::start(&hosts.b, &[]);
    let a = Switch::start(&hosts.a, &["--config", &config]);
    a.wait_state("link", "up");
    let before = (a.port("link")["port"].clone(), a.port("link")["connects"].clone());

    hosts.a.file("etherws.toml", format!("{link}{}", tap("t1")));
    a.ctl_ok(&["reload"]);
    assert!(a.find("t0").is_none() && a.find("t1").is_some());
    assert_eq!((a.port("link")["port"].clone(), a.port("link")["connects"].clone()), before);

    hosts.a.file("etherws.toml", format!("{link}{}[[port]]\ntype = \"tap\"\ntragte = \"t2\"\n", tap("t3")));
    let error = a.ctl_err(1, &["reload"]);
    assert!(error.contains("tragte") && error.contains("target"), "names the key and a guess: {error}");
    assert!(a.find("t1").is_some() && a.find("t3").is_none(), "nothing half-applied");

    hosts.a.file("etherws.toml", format!("{link}{}", tap("t4")));
    a.process.signal(Signal::SIGHUP);
    wait_until("SIGHUP reloads", SOON, || a.find("t4").is_some() && a.find("t1").is_none());
    assert_eq!((a.port("link")["port"].clone(), a.port("link")["connects"].clone()), before);
}

#[test]
fn a_device_that_goes_away_fails_its_port_and_nothing_else() {
    let hosts = TwoHosts::new();
    let pair = pair(&hosts);
    pair.a.ctl_ok(&["addport", "tap", "t1"]);
    hosts.a.ok(&["ip", "link", "del", "t1"]);
    pair.a.wait_state("t1", "failed");
    hosts.a.ping("10.1.0.2");
    // Down and up again: it resumes.
    hosts.a.ok(&["ip", "link", "set", "t0", "down"]);
    hosts.a.ok(&["ip", "link", "set", "t0", "up"]);
    hosts.a.ping("10.1.0.2");
}

#[test]
fn static_entries_steer_and_survive_a_flush() {
    let hosts = TwoHosts::new();
    let pair = pair(&hosts);
    pair.b.ctl_ok(&["addport", "tap", "t1"]);
    let station = lab::frames::mac_text(mac(77));
    pair.b.ctl_ok(&["addfdb", &station, "t1"]);
    let (a, b0, b1) = (Wire::open(&hosts.a, "t0"), Wire::open(&hosts.b, "t0"), Wire::open(&hosts.b, "t1"));
    let unicast = frame(mac(77), mac(1), &[], &payload(60));
    passes(&a, &b1, &unicast);
    only_passes(&a, &b0, &frame(BROADCAST, mac(1), &[], &payload(60)), &unicast);
    pair.b.ctl_ok(&["flushfdb"]);
    assert!(pair.b.fdb().iter().any(|(_, mac, port)| *mac == station && port == "t1"));
    pair.b.ctl_ok(&["delfdb", &station]);
    pair.b.ctl_err(1, &["delfdb", &station]);
    passes(&a, &b0, &unicast);
}
