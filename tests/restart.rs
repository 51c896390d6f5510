//! Restarted, as by `systemctl restart` or an upgrade: nothing of it is to be seen in bridges and listings. The service
//! manager's part is played by tests/lab/service_manager.py.

mod lab;

use lab::switch::TwoHosts;
use lab::{Host, Process, SOON, Switch, wait_until};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const MANAGER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/service_manager.py");

/// A switch that is restarted by its manager.
fn start<'h>(host: &'h Host, args: &[&str]) -> Switch<'h> {
    let socket = host.dir().join("notify");
    Switch::start_by(host, &["/usr/bin/python3", MANAGER, socket.to_str().expect("UTF-8")], args)
}

fn log(process: &Process, word: &str) -> usize {
    process.log().matches(word).count()
}

/// Returns when the next one is there.
fn restart(switch: &Switch) {
    let before = log(&switch.process, "listening: control");
    switch.process.signal(Signal::SIGHUP);
    wait_until("it is back", SOON, || log(&switch.process, "listening: control") > before);
}

fn facts(switch: &Switch) -> Vec<Value> {
    let keep = ["port", "name", "type", "target", "vlan", "isolated", "shut", "offload"];
    let fact = |entry: Value| keep.iter().map(|key| entry[key].clone()).collect();
    switch.entries("listPort").into_iter().map(fact).collect()
}

fn index_and_master(host: &Host, device: &str) -> (Value, Value) {
    let text = host.ok(&["ip", "-j", "link", "show", "dev", device]);
    let link: Value = serde_json::from_str(&text).expect("JSON");
    (link[0]["ifindex"].clone(), link[0]["master"].clone())
}

#[test]
fn a_restart_keeps_taps_bridges_numbers_and_settings_and_the_link_is_back() {
    let hosts = TwoHosts::new();
    let b = Switch::start(&hosts.b, &[]);
    b.ctl_ok(&["addport", "tap", "t0", "--address", "10.1.0.2/24"]);
    let config =
        hosts.a.file("etherws.toml", "[listen]\nenabled = false\n[[port]]\ntype = 'tap'\ntarget = 't9'\n");
    let a = start(&hosts.a, &["--config", &config]);
    a.ctl_ok(&["addport", "tap", "gone"]);
    a.ctl_ok(&["addport", "tap", "t0", "--name", "vms"]);
    a.ctl_ok(&["addport", "client", &format!("ws://{}/", hosts.link.b), "--name", "far"]);
    a.ctl_ok(&["addport", "tap", "t1", "--no-offload", "--mtu", "1400"]);
    a.ctl_ok(&["delport", "gone"]);
    a.ctl_ok(&["setport", "t1", "--access", "10", "--isolated", "1", "--max-macs", "7"]);
    a.ctl_ok(&["addfdb", "02:00:00:00:00:99", "t1", "--vid", "10"]);
    hosts.a.ok(&["ip", "link", "add", "br0", "type", "bridge"]);
    hosts.a.ok(&["ip", "link", "set", "t0", "master", "br0"]);
    hosts.a.ok(&["ip", "addr", "add", "10.1.0.1/24", "dev", "br0"]);
    hosts.a.ok(&["ip", "link", "set", "br0", "up"]);
    a.wait_state("far", "up");
    hosts.a.ping("10.1.0.2");
    let (before, place) = (facts(&a), index_and_master(&hosts.a, "t0"));
    assert_eq!(place.1, "br0");

    for _ in 0..2 {
        restart(&a);
        assert_eq!(facts(&a), before);
        // The very same devices: one that was made anew would have another index, and no bridge.
        assert_eq!(index_and_master(&hosts.a, "t0"), place);
        assert_eq!(a.ctl_json(&["listif"])["entries"][2]["mtu"], 1400);
        let fixed = a.ctl_json(&["listfdb", "--port", "t1"]);
        assert_eq!(fixed["entries"][0]["mac"], "02:00:00:00:00:99");
        // Without a wait to begin with: it was the switch that dials which went away.
        a.wait_state("far", "up");
        hosts.a.ping("10.1.0.2");
    }
    // A number that was given is not given again, and what the manager held is let go.
    assert_eq!(a.ctl_json(&["addport", "tap", "t2"])["entries"][0]["port"], 6);
    a.ctl_ok(&["delport", "t1"]);
    assert!(!hosts.a.run(&["ip", "link", "show", "t1"]).status.success(), "somebody still holds the TAP");
}

#[test]
fn a_switch_that_is_dialled_has_its_links_back_within_5_s_and_one_that_is_stopped_leaves_nothing() {
    let hosts = TwoHosts::new();
    let mut b = start(&hosts.b, &[]);
    b.ctl_ok(&["addport", "tap", "t0"]);
    let a = Switch::start(&hosts.a, &["--no-listen"]);
    a.ctl_ok(&["addport", "client", &format!("ws://{}/", hosts.link.b), "--name", "far"]);
    a.wait_state("far", "up");
    restart(&b);
    a.wait_state("far", "up");
    wait_until("a second connection", SOON, || a.port("far")["connects"] == 2);
    // Told by the log's clock, since this machine's may be busy: the wait that was chosen.
    let log = a.process.log();
    let wait = log
        .lines()
        .rev()
        .find_map(|line| line.split("next try in ").nth(1))
        .unwrap_or_else(|| panic!("{log}"));
    let seconds: f64 = wait.split(' ').next().unwrap_or_default().parse().expect(wait);
    assert!(seconds <= 4.0, "{wait}");
    b.process.signal(Signal::SIGTERM);
    assert_eq!(b.process.wait(SOON), 0);
    assert!(!hosts.b.run(&["ip", "link", "show", "t0"]).status.success(), "stopped, it leaves a TAP");
}

#[test]
fn what_the_file_says_anew_counts_and_a_port_that_cannot_be_had_costs_no_other() {
    let host = Host::new();
    let text = |ports: &str| format!("[listen]\nenabled = false\n{ports}");
    let tap = |name: &str, more: &str| format!("[[port]]\ntype = 'tap'\ntarget = '{name}'\n{more}");
    let card = |name: &str| {
        host.ok(&["ip", "link", "add", name, "type", "veth", "peer", "name", &format!("{name}-far")])
    };
    let netdev = "[[port]]\ntype = 'netdev'\ntarget = 'w0'\n";
    card("v0");
    card("w0");
    let config =
        host.file("etherws.toml", text(&[&tap("t0", ""), &tap("t1", ""), netdev].map(String::from).concat()));
    let a = start(&host, &["--config", &config]);
    a.ctl_ok(&["addport", "netdev", "v0"]);
    a.ctl_ok(&["addport", "tap", "t2"]);
    a.ctl_ok(&["setport", "t0", "--access", "7"]);
    // One of the file goes, one changes, one comes; a card is taken out, a TAP is deleted.
    host.file(
        "etherws.toml",
        text(&[&tap("t0", "rate = 1000000\n"), &tap("t3", ""), netdev].map(String::from).concat()),
    );
    host.ok(&["ip", "link", "del", "v0"]);
    host.ok(&["ip", "link", "del", "w0"]);
    host.ok(&["ip", "link", "del", "t2"]);
    a.wait_state("t2", "failed");
    restart(&a);
    let ports: Vec<_> =
        a.entries("listPort").iter().map(|p| (p["port"].clone(), p["name"].clone())).collect();
    let wanted = [(1, "t0"), (5, "t2"), (6, "t3")].map(|(port, name)| (json!(port), json!(name)));
    assert_eq!(ports, wanted, "{}", a.process.log());
    assert_eq!(a.port("t0")["vlan"], "access 7", "what was set by hand stays");
    assert_eq!(a.state("t2"), "up", "made anew");
    assert!(a.process.log().contains("port 4 (netdev v0) is not back"), "{}", a.process.log());
    assert!(a.process.log().contains("port t0 changed: rate 1000000"), "{}", a.process.log());
    // What the file wants and was not to be had is tried again.
    card("w0");
    a.ctl_ok(&["reload"]);
    assert_eq!(a.state("w0"), "up", "{}", a.process.log());
}
