//! A switch at the edge of somebody's network: in his bridges, behind his load balancer, one node of many.

mod lab;

use std::time::Duration;

use lab::{Host, Switch, wait_until};
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
