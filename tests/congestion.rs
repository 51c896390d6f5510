//! What paces a link: a congestion control, asked for on either end, seen by the kernel, changed while it is up; or a rate
//! of the switch's own.

mod lab;

use lab::frames::{BROADCAST, Wire, frame, mac, payload};
use lab::switch::TwoHosts;
use lab::{Host, SOON, Switch, wait_until, ws};
use serde_json::{Value, json};
use std::time::Duration;

/// What the host's kernel has: all of it, or the one that it takes unasked.
fn setting(host: &Host, name: &str) -> Vec<String> {
    let text = host.ok(&["cat", &format!("/proc/sys/net/ipv4/{name}")]);
    text.split_whitespace().map(str::to_owned).collect()
}

/// What it takes unasked, and another.
fn usual_and_other(host: &Host) -> (String, String) {
    let usual = setting(host, "tcp_congestion_control").remove(0);
    let mut available = setting(host, "tcp_available_congestion_control").into_iter();
    let other = available.rfind(|name| *name != usual).expect("a kernel with two of them");
    (usual, other)
}

/// What paces the connections of port 80, as the kernel says.
fn paced(host: &Host) -> Vec<String> {
    let text = host.ok(&["ss", "-tinHO", "state", "established", "( sport = :80 or dport = :80 )"]);
    // Addresses and timers, then words of the connection: the algorithm is one by itself.
    let known = setting(host, "tcp_available_congestion_control");
    let of = |line: &str| {
        line.split_whitespace().find(|word| known.iter().any(|name| name == word)).map(str::to_owned)
    };
    text.lines().filter_map(of).collect()
}

#[track_caller]
fn wait_paced(host: &Host, wanted: &[&str]) {
    let what = format!("{} paces by {wanted:?}; it is {:?}", host.name(), paced(host));
    wait_until(&what, SOON, || paced(host) == wanted);
}

#[test]
fn both_ends_are_paced_as_asked_and_a_change_costs_no_connection() {
    let hosts = TwoHosts::new();
    let (usual, other) = usual_and_other(&hosts.a);
    let url = format!("ws://{}/", hosts.link.b);
    let b = Switch::start(&hosts.b, &["--congestion", &other]);
    let a = Switch::start(&hosts.a, &["--no-listen"]);
    a.ctl_ok(&["addport", "client", &url, "--name", "link", "--congestion", &other]);
    a.wait_state("link", "up");
    let at_b = b.wait_server_port();
    wait_paced(&hosts.a, &[&other]);
    wait_paced(&hosts.b, &[&other]);
    assert_eq!((&a.port("link")["congestion"], &at_b["congestion"]), (&json!(other), &json!(other)));
    let listed = a.ctl_ok(&["listport"]);
    assert!(listed.contains("Congestion") && listed.contains(&format!("  {other}")), "{listed}");

    a.ctl_ok(&["setport", "link", "--congestion", "default"]);
    b.ctl_ok(&["setport", &at_b["port"].to_string(), "--congestion", "default"]);
    assert_eq!((paced(&hosts.a), paced(&hosts.b)), (vec![usual.clone()], vec![usual]), "at once");
    assert_eq!(a.port("link")["congestion"], Value::Null);
    a.rpc_ok("setPort", json!({"port": "link", "congestion": other}));
    assert_eq!(paced(&hosts.a), [&*other]);
    assert_eq!(a.port("link")["connects"], 1);

    // The next connection has it too.
    drop(b);
    wait_until("the link is down", SOON, || a.state("link") != "up");
    let _b = Switch::start(&hosts.b, &[]);
    a.wait_state("link", "up");
    assert_eq!(a.port("link")["connects"], 2);
    wait_paced(&hosts.a, &[&other]);
}

#[test]
fn what_the_kernel_has_not_is_refused_by_name_and_nothing_is_changed() {
    let hosts = TwoHosts::new();
    let url = format!("ws://{}/", hosts.link.b);
    let b = Switch::start(&hosts.b, &[]);
    let config = hosts.a.file("a.toml", "[listen]\nenabled = false\n");
    let mut a = Switch::start(&hosts.a, &["--config", &config]);
    let available = setting(&hosts.a, "tcp_available_congestion_control");
    let refused = |text: &str| {
        // By a switch in its sandbox.
        assert!(
            text.contains("\"nonesuch\"") && available.iter().all(|name| text.contains(&**name)),
            "{text}"
        );
    };
    refused(&a.ctl_err(1, &["addport", "client", &url, "--name", "link", "--congestion", "nonesuch"]));
    assert_eq!(a.find("link"), None);
    a.ctl_ok(&["addport", "client", &url, "--name", "link"]);
    a.wait_state("link", "up");
    refused(
        &a.ctl_err(1, &["setport", "link", "--congestion", "nonesuch", "--rate", "5", "--name", "other"]),
    );
    a.ctl_ok(&["saveconf"]);
    let saved = std::fs::read_to_string(&config).expect("saved");
    assert!(
        !saved.contains("rate") && !saved.contains("congestion") && saved.contains("\"link\""),
        "{saved}"
    );
    // Names that are none, and ports that have no connection.
    for wrong in ["", "../x", "sixteen_letters_"] {
        let text = a.ctl_err(2, &["setport", "link", "--congestion", wrong]);
        assert!(text.contains("expected a name such as bbr"), "{text}");
        let error = a.rpc("setPort", json!({"port": "link", "congestion": wrong})).unwrap_err();
        assert_eq!(error["code"], -32602, "{error}");
    }
    a.ctl_ok(&["addport", "tap", "t0"]);
    let text = a.ctl_err(1, &["setport", "t0", "--congestion", &available[0]]);
    assert!(text.contains("a tap port has none"), "{text}");
    let tap = json!({"type": "tap", "target": "t1", "congestion": available[0]});
    assert_eq!(a.rpc("addPort", tap).unwrap_err()["code"], -32602);

    // A file that asks for it changes nothing, of a port as of the service.
    for text in [
        format!("{saved}congestion = \"nonesuch\"\n"),
        saved
            .replace("[listen]", "[listen]\ncongestion = \"nonesuch\"")
            .replace("enabled = false\n", "port = 8080\n"),
    ] {
        std::fs::write(&config, &text).expect("write");
        let why = a.ctl_err(1, &["reload"]);
        refused(&why);
        assert!(why.contains("nothing was changed"), "{why}");
    }
    assert_eq!(a.port("link")["connects"], 1);
    // Nor does a switch start with it.
    a.process.kill();
    let ended = hosts.a.run_for(20, &[lab::switch::ETHERWS, "sw", "--user", "root", "--config", &config]);
    assert_eq!(ended.status.code(), Some(1));
    refused(&String::from_utf8_lossy(&ended.stderr));
    drop(b);
}

#[test]
fn it_is_saved_and_a_reload_applies_it_in_place() {
    let hosts = TwoHosts::new();
    let (usual, other) = usual_and_other(&hosts.a);
    let url = format!("ws://{}/", hosts.link.b);
    let b_config = hosts.b.file("b.toml", "");
    let b = Switch::start(&hosts.b, &["--config", &b_config]);
    let config = hosts.a.file("a.toml", "[listen]\nenabled = false\n");
    let mut a = Switch::start(&hosts.a, &["--config", &config]);
    a.ctl_ok(&["addport", "client", &url, "--name", "link", "--congestion", &other]);
    a.wait_state("link", "up");
    a.ctl_ok(&["saveconf"]);
    let saved = std::fs::read_to_string(&config).expect("saved");
    let line = format!("congestion = \"{other}\"");
    assert!(saved.lines().any(|text| text == line), "{saved}");
    a.kill_and_restart();
    a.wait_state("link", "up");
    wait_paced(&hosts.a, &[&other]);

    std::fs::write(&config, saved.replace(&line, &format!("congestion = \"{usual}\""))).expect("write");
    assert_eq!(a.ctl_ok(&["reload"]), format!("port link changed: congestion {usual}\n"));
    assert_eq!(paced(&hosts.a), [usual]);
    assert_eq!(a.port("link")["connects"], 1);

    // Of the service it counts from the next link.
    std::fs::write(&b_config, format!("[listen]\n{line}\n")).expect("write");
    assert_eq!(b.ctl_ok(&["reload"]), "WebSocket service\n");
    a.ctl_ok(&["addport", "client", &url, "--name", "later"]);
    a.wait_state("later", "up");
    let theirs: Vec<_> = b.entries("listPort").into_iter().map(|port| port["congestion"].clone()).collect();
    assert_eq!(theirs, [Value::Null, json!(other)]);
}

#[test]
fn a_user_s_links_are_paced_as_his_table_says() {
    let hosts = TwoHosts::new();
    let (usual, other) = usual_and_other(&hosts.a);
    let tokens =
        hosts.b.file("tokens", "far 0123456789abcdef\nnear fedcba9876543210\nany 00112233445566778899\n");
    let listen = format!("[listen]\ntokens = \"{tokens}\"\n");
    let user = |name: &str, congestion: &str| {
        format!("[[user]]\ntoken = \"{name}\"\ncongestion = \"{congestion}\"\n")
    };
    let config = hosts.b.file("b.toml", format!("{listen}{}", user("far", &other)));
    let b = Switch::start(&hosts.b, &["--config", &config]);
    let comes = |token: &str| {
        let path = format!("/?token={token}");
        let (answer, link) = ws::get(&hosts.a, &format!("{}:80", hosts.link.b), &path, ws::UPGRADE);
        assert_eq!(answer.status, 101, "{}", answer.head);
        link
    };
    let far = comes("0123456789abcdef");
    b.wait_state("far", "up");
    assert_eq!(b.port("far")["congestion"], json!(other));
    wait_paced(&hosts.b, &[&other]);
    drop(far);
    wait_until("the link is gone", SOON, || b.find("far").is_none());

    // Over what the service says, both ways; and of who has no table the service's counts.
    let service = format!("{listen}congestion = \"{other}\"\n");
    std::fs::write(&config, format!("{service}{}", user("near", "default"))).expect("write");
    b.ctl_ok(&["reload"]);
    let _near = comes("fedcba9876543210");
    b.wait_state("near", "up");
    assert_eq!(b.port("near")["congestion"], Value::Null);
    wait_paced(&hosts.b, &[&usual]);
    let _any = comes("00112233445566778899");
    wait_until("the other link is up", SOON, || b.entries("listPort").len() == 2);
    assert!(b.entries("listPort").iter().any(|port| port["congestion"] == json!(other)));

    // What the kernel has not is refused with whose it is, and nothing is changed.
    std::fs::write(&config, format!("{listen}{}", user("near", "nonesuch"))).expect("write");
    let why = b.ctl_err(1, &["reload"]);
    assert!(why.contains("[[user]] near: congestion: ") && why.contains("nothing was changed"), "{why}");
}

/// A browser's network card loses what comes too fast, and a slow link of ours need not fill its path.
#[test]
fn a_link_is_sent_no_more_than_its_pace() {
    let hosts = TwoHosts::new();
    let tokens = hosts.b.file("tokens", "kiosk 0123456789abcdef\n");
    // Four frames are half an hour's worth.
    let user = "[[user]]\ntoken = \"kiosk\"\npace = 24\nloop_guard = false\n";
    let config = hosts.b.file("b.toml", format!("[listen]\ntokens = \"{tokens}\"\n{user}"));
    let b = Switch::start(&hosts.b, &["--config", &config]);
    b.ctl_ok(&["addport", "tap", "t0"]);
    let (addr, path) = (format!("{}:80", hosts.link.b), "/?token=0123456789abcdef");
    let (answer, mut browser) = ws::get(&hosts.a, &addr, path, ws::UPGRADE);
    assert_eq!(answer.status, 101, "{}", answer.head);
    b.wait_state("kiosk", "up");
    assert_eq!(b.port("kiosk")["pace"], 24);

    let tap = Wire::open(&hosts.b, "t0");
    let sent: Vec<_> = (0..64).map(|n| frame(BROADCAST, mac(1), &[], &payload(1400 + n))).collect();
    sent.iter().for_each(|frame| tap.send(frame));
    let mut ours = Vec::new();
    while let Some(message) = browser.wait(ws::BINARY, Duration::from_secs(1)) {
        ours.push(message);
        assert!(ours.len() <= 4 || ours.iter().any(|message| message.len() < 1400), "{}", ours.len());
    }
    assert!(ours.len() < sent.len(), "{} frames at once", ours.len());
    // What waited is not lost.
    b.ctl_ok(&["setport", "kiosk", "--pace", "0"]);
    assert_eq!(b.port("kiosk")["pace"], Value::Null);
    ours.extend(std::iter::from_fn(|| browser.wait(ws::BINARY, Duration::from_secs(1))));
    ours.retain(|message| message.get(6..12) == Some(&mac(1)));
    assert!(ours == sent, "{} of {} frames: {}", ours.len(), sent.len(), b.all_drops());

    let why = b.ctl_err(1, &["setport", "t0", "--pace", "8000000"]);
    assert!(why.contains("pace: a tap port has none"), "{why}");
}
