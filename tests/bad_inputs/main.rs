//! Hostile and broken input from outside, numbered as in the project's list: each gets its named
//! answer, and the next guest is served as if nothing had been.
//! Control, logins and faults are here, the rest in a file for each layer.

mod ethernet;
mod http;
#[path = "../lab/mod.rs"]
mod lab;
mod target;
mod websocket;

use std::time::Duration;

use lab::frames::{BROADCAST, Wire, frame, mac, passes, payload};
use lab::switch::TwoHosts;
use lab::ws::{BINARY, UPGRADE};
use lab::{Host, SOON, Switch, sh, wait_until, ws};
use target::Target;

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
    for line in [1, 2, 3, 4, 5, 6, 7, 8] {
        assert!(b.process.log().contains(&format!("line {line}: ")), "line {line}: {}", b.process.log());
    }
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
    // Larger than a header may be, whatever it holds.
    assert_eq!(login(&basic(&[&b"joe:"[..], &[b'p'; 64 << 10]].concat())), 431);
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
fn bad_69_links_go_on_while_no_connection_can_be_accepted() {
    let hosts = TwoHosts::new();
    let config = hosts.b.file("etherws.toml", "[limits]\nheader_time = 300\n");
    let few = ["prlimit", "--nofile=64:64"];
    let switch = Switch::start_by(&hosts.b, &few, &["--user", "root", "--config", &config]);
    switch.ctl_ok(&["addport", "tap", "t0"]);
    let wire = Wire::open(&hosts.b, "t0");
    let addr = format!("{}:80", hosts.link.b);
    let mut link = ws::open(&hosts.a, &addr);
    let hoard: Vec<_> = (0..100).map(|_| hosts.a.connect(&addr).expect("the kernel lets all in")).collect();
    wait_until("accepting pauses", SOON, || switch.process.log().contains("accepting pauses: "));
    for _ in 0..10 {
        let sent = frame(BROADCAST, mac(1), &[], &payload(60));
        link.send(BINARY, &sent);
        assert!(wire.receives(&sent, SOON), "{}", switch.process.log());
    }
    drop(hoard);
    ws::open(&hosts.a, &addr);
    assert!(switch.drops("accept-paused") > 0);
}

#[test]
fn bad_74_a_full_disk_keeps_the_old_file_and_stops_no_frame() {
    let host = Host::new();
    let folder = host.dir().join("disk");
    std::fs::create_dir(&folder).expect("folder");
    let folder = folder.to_str().expect("UTF-8 path");
    let config = format!("{folder}/etherws.toml");
    // A disk of the switch's own, in the mounts that `ip netns exec` makes for it.
    let mount =
        "mount -t tmpfs -o size=64k tmpfs \"$0\" && echo '# mine' > \"$0/etherws.toml\" && exec \"$@\"";
    let args = ["--no-listen", "--user", "root", "--config", &config];
    let switch = Switch::start_by(&host, &["sh", "-c", mount, folder], &args);
    let disk = |path: &str| format!("/proc/{}/root{folder}/{path}", switch.process.pid());
    let wires = ["t0", "t1"].map(|tap| {
        switch.ctl_ok(&["addport", "tap", tap]);
        Wire::open(&host, tap)
    });
    switch.ctl_ok(&["saveconf"]);
    let saved = std::fs::read_to_string(disk("etherws.toml")).expect("saved");
    assert!(saved.starts_with("# mine\n") && saved.contains("\"t1\""), "{saved}");

    std::fs::write(disk("rest"), vec![0; 1 << 20]).expect_err("it is full");
    switch.ctl_ok(&["setport", "t1", "--name", "other"]);
    let why = switch.ctl_err(1, &["saveconf"]);
    assert!(why.contains(&config) && why.contains("the old file stays: No space left"), "{why}");
    assert_eq!(std::fs::read_to_string(disk("etherws.toml")).expect("there"), saved);
    assert_eq!(std::fs::read_dir(disk("")).expect("folder").count(), 2, "a temporary file was left");
    passes(&wires[0], &wires[1], &frame(BROADCAST, mac(1), &[], &payload(60)));

    std::fs::remove_file(disk("rest")).expect("remove");
    switch.ctl_ok(&["saveconf"]);
    assert!(std::fs::read_to_string(disk("etherws.toml")).expect("there").contains("\"other\""));
}
