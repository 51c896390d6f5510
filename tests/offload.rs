//! Which links carry super-frames: what two switches agree on, what is kept of it, and how it shows.

mod lab;

use lab::switch::TwoHosts;
use lab::{SOON, Switch, wait_until};
use serde_json::{Value, json};

/// The `offload` of B's server port and of A's client port.
fn agreed(a: &Switch, b: &Switch) -> (Value, Value) {
    (b.wait_server_port()["offload"].clone(), a.port("link")["offload"].clone())
}

#[test]
fn both_switches_carry_super_frames_unless_one_says_no() {
    let hosts = TwoHosts::new();
    let url = format!("ws://{}/", hosts.link.b);
    let vnet1 = || (json!("vnet1"), json!("vnet1"));
    let classic = || (Value::Null, Value::Null);
    for (server, client, expected) in [
        (&[][..], &[][..], vnet1()),
        (&["--no-offload"], &[], classic()),
        (&[], &["--no-offload"], classic()),
    ] {
        let b = Switch::start(&hosts.b, server);
        b.ctl_ok(&["addport", "tap", "t0", "--address", "10.1.0.2/24"]);
        let a = Switch::start(&hosts.a, &["--no-listen"]);
        a.ctl_ok(&["addport", "tap", "t0", "--address", "10.1.0.1/24"]);
        a.ctl_ok(&[&["addport", "client", &url, "--name", "link"], client].concat());
        a.wait_state("link", "up");
        assert_eq!(agreed(&a, &b), expected, "{server:?} {client:?}");
        hosts.a.ping("10.1.0.2");
        let listed = a.ctl_ok(&["listport"]);
        let line = listed.lines().find(|line| line.contains(&url)).expect("the link");
        assert_eq!(line.contains("vnet1"), expected == vnet1(), "{listed}");
    }
}

#[test]
fn what_was_agreed_goes_with_the_connection() {
    let hosts = TwoHosts::new();
    let a = Switch::start(&hosts.a, &["--no-listen"]);
    {
        let b = Switch::start(&hosts.b, &[]);
        a.ctl_ok(&["addport", "client", &format!("ws://{}/", hosts.link.b), "--name", "link"]);
        a.wait_state("link", "up");
        assert_eq!(agreed(&a, &b).1, json!("vnet1"));
    }
    wait_until("the link is down", SOON, || a.state("link") != "up");
    assert_eq!(a.port("link")["offload"], Value::Null);
    // A server that can do less comes in its place.
    let b = Switch::start(&hosts.b, &["--no-offload"]);
    a.wait_state("link", "up");
    assert_eq!(agreed(&a, &b), (Value::Null, Value::Null));
}

#[test]
fn the_setting_is_saved_and_reloaded() {
    let hosts = TwoHosts::new();
    let config = hosts.b.file("b.toml", "");
    let b = Switch::start(&hosts.b, &["--config", &config]);
    let a_config = hosts.a.file("a.toml", "[listen]\nenabled = false\n");
    let a = Switch::start(&hosts.a, &["--config", &a_config]);
    let url = format!("ws://{}/", hosts.link.b);
    a.ctl_ok(&["addport", "client", &url, "--name", "link", "--no-offload"]);
    a.wait_state("link", "up");
    a.ctl_ok(&["saveconf"]);
    let saved = std::fs::read_to_string(&a_config).expect("saved");
    assert_eq!(saved.matches("offload").count(), 1, "{saved}");
    assert!(saved.contains("offload = false"), "{saved}");

    std::fs::write(&a_config, saved.replace("offload = false", "offload = true")).expect("write");
    assert_eq!(a.ctl_ok(&["reload"]), format!("port link recreated (client {url})\n"));
    a.wait_state("link", "up");
    assert_eq!(a.port("link")["offload"], json!("vnet1"));

    // Of the service it counts from the next link; what is there stays as it was agreed.
    std::fs::write(&config, "[listen]\noffload = false\n").expect("write");
    assert!(b.ctl_ok(&["reload"]).contains("WebSocket service"));
    assert_eq!(a.port("link")["offload"], json!("vnet1"));
    // Two links to one switch are a loop, and one of them would be blocked.
    a.ctl_ok(&["delport", "link"]);
    a.ctl_ok(&["addport", "client", &url, "--name", "later"]);
    a.wait_state("later", "up");
    assert_eq!(a.port("later")["offload"], Value::Null);
}
