//! The service and its control, as a user of 1.3 or a stranger finds them.

mod lab;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use lab::{Host, SOON, Switch, join, sh, wait_until};
use tokio_tungstenite::tungstenite::{self, Message};

#[test]
fn the_switchs_ping_interval_is_that_of_clients_added_later_too() {
    let host = Host::new();
    let listener = host.listen("127.0.0.1:8080");
    let config = host.file("ping.toml", "[switch]\nping = 1\n");
    let switch = Switch::start(&host, &["--no-listen", "--config", &config]);
    switch.ctl_ok(&["addport", "client", "ws://127.0.0.1:8080/", "--name", "late"]);
    let (stream, _) = listener.accept().expect("the client's connection");
    stream.set_read_timeout(Some(Duration::from_secs(6))).expect("time limit");
    let mut ws = tungstenite::accept(stream).expect("handshake");
    // Frames of the host itself may come first.
    loop {
        match ws.read().expect("a PING within the 6 s that the default of 15 s would not keep") {
            Message::Ping(_) => break,
            other => assert!(other.is_binary(), "{other:?}"),
        }
    }
    switch.ctl_ok(&["saveconf"]);
    let saved = std::fs::read_to_string(&config).expect("saved");
    assert_eq!(saved.matches("ping").count(), 1, "the switch's interval became the port's: {saved}");
}

/// Whoever forces a mask's kernel wants to know whether that is what he measures.
#[test]
fn a_mask_kernel_that_is_asked_for_is_told_of() {
    let host = Host::new();
    let log = |wanted: &str| {
        let switch = Switch::start_with_env(&host, &["--no-listen"], &[("ETHERWS_MASK", wanted)]);
        switch.process.log()
    };
    assert!(log("rfc").contains("masking: rfc, as ETHERWS_MASK says"));
    let said = log("avx1024");
    assert!(said.contains("WARN") && said.contains("ETHERWS_MASK=avx1024 is none"), "{said}");
}

#[test]
fn certificate_options_without_tls_are_taken_as_1_3_takes_them() {
    let (a, b) = (Host::new(), Host::new());
    let link = join(&a, &b);
    let _b = Switch::start(&b, &[]);
    let a_switch = Switch::start(&a, &["--no-listen"]);
    let ca = lab::servers::Ca::new("lab");
    let file = a.file("ca.pem", &ca.pem);
    a_switch.dials(&format!("ws://{}/", link.b), &["--insecure", "--cacerts", &file]);
    let log = a_switch.process.log();
    assert!(log.contains("cacerts and insecure mean nothing for ws://"), "{log}");
    assert!(!log.contains("NOT checked"), "there is no certificate: {log}");
}

#[test]
fn a_version_1_certificate_serves_who_pins_it() {
    let host = Host::new();
    let path = |name: &str| host.dir().join(name).to_str().expect("path").to_owned();
    let (csr, key, cert, other) = (path("v1.csr"), path("v1.key"), path("v1.pem"), path("other.key"));
    let new = ["openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-keyout"];
    sh(&[&new[..], &[&key, "-out", &csr]].concat());
    sh(&["openssl", "x509", "-req", "-in", &csr, "-signkey", &key, "-days", "30", "-out", &cert]);
    sh(&["openssl", "genrsa", "-out", &other, "2048"]);
    let config = host.file("v1.toml", format!("[listen]\nsslcert = {cert:?}\nsslkey = {other:?}\n"));
    let check = host.run(&[lab::switch::ETHERWS, "check", &config]);
    assert!(!check.status.success(), "{check:?}");
    assert!(lab::said(&check).contains("does not belong to the certificate"), "{check:?}");

    let switch = Switch::start(&host, &["--sslcert", &cert, "--sslkey", &key]);
    switch.dials("wss://localhost/", &["--cacerts", &cert]);
    switch.dials_in_vain("wss://127.0.0.1/", &["--cacerts", &cert], &["not for"]);
}

#[test]
fn connections_that_never_log_in_leave_room_for_others() {
    let (a, b) = (Host::new(), Host::new());
    let link = join(&a, &b);
    // So long that no connection ends by that.
    let config = b.file("etherws.toml", "[limits]\nheader_time = 60\n");
    let switch = Switch::start(&b, &["--config", &config]);
    let address = format!("{}:80", link.b);
    let hold = || {
        let mut stream = a.connect(&address).expect("connect");
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n").map(|()| stream)
    };
    let held: Vec<TcpStream> = (0..600).filter_map(|_| hold().ok()).collect();
    held.iter().for_each(|stream| stream.set_nonblocking(true).expect("nonblocking"));
    let is_closed = |mut stream: &TcpStream| match stream.read(&mut [0; 64]) {
        Ok(n) => n == 0,
        Err(e) => e.kind() != std::io::ErrorKind::WouldBlock,
    };
    wait_until("the silent connections of one address are too many", Duration::from_secs(30), || {
        held.iter().filter(|stream| is_closed(stream)).count() >= 80
    });
    // From elsewhere the door is open.
    switch.dials("ws://127.0.0.1/", &[]);
    let lines = switch.process.log().matches("not let in yet").count();
    assert!((1..=40).contains(&lines), "{lines} log lines");
    drop(held);
    let again = std::time::Instant::now();
    while again.elapsed() < SOON {
        let mut stream = a.connect(&address).expect("connect");
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("send");
        let mut answer = [0; 12];
        if stream.read_exact(&mut answer).is_ok() {
            assert_eq!(&answer, b"HTTP/1.1 426");
            return;
        }
    }
    panic!("the address stays shut out");
}

#[test]
fn bad_58_no_log_filter_shows_a_password() {
    let host = Host::new();
    let switch = Switch::start(&host, &["--no-listen", "--log", "trace"]);
    switch.ctl_ok(&["addport", "client", "ws://127.0.0.1:1/", "--user", "u", "--passwd", "hunter2"]);
    switch.ctl_ok(&["addport", "client", "ws://v:hunter2@127.0.0.1:1/?token=hunter2"]);
    switch.wait_reason("1", &["refused"]);
    let log = switch.process.log();
    assert!(log.contains("added client") && !log.contains("hunter2"), "{log}");
}

#[test]
fn links_opened_and_closed_at_a_rate_do_not_fill_the_log() {
    let (a, b) = (Host::new(), Host::new());
    let link = join(&a, &b);
    let switch = Switch::start(&b, &[]);
    let address = format!("{}:80", link.b);
    let start = std::time::Instant::now();
    for _ in 0..300 {
        drop(lab::ws::open(&a, &address));
    }
    lab::wait_until("the links are gone", SOON, || switch.entries("listPort").is_empty());
    let (log, seconds) = (switch.process.log(), start.elapsed().as_secs() as usize);
    let lines = log.lines().filter(|line| line.contains(" link ")).count();
    let most = 20 * (seconds + 2);
    assert!((2..=most).contains(&lines), "{lines} lines in {seconds} s for 300 links");
}

#[test]
fn what_a_request_may_ask_for_the_file_may_say() {
    let host = Host::new();
    let switch = Switch::start(&host, &["--no-listen"]);
    let saved = host.dir().join("saved.toml");
    let saved = saved.to_str().expect("path");
    for (options, fits) in
        [(serde_json::json!({"ping": 3600}), true), (serde_json::json!({"ping": 3601}), false)]
    {
        let spec = serde_json::json!({"type": "client", "target": "ws://127.0.0.1:1/", "options": options});
        assert_eq!(switch.rpc("addPort", spec).is_ok(), fits, "{options}");
        // One port that the file cannot hold would keep all of them from being saved.
        switch.ctl_ok(&["saveconf", saved]);
        let check = host.run(&[lab::switch::ETHERWS, "check", saved]);
        assert!(check.status.success(), "{check:?}");
    }
    for (key, value) in
        [("name", "\"é\""), ("name", "\"-x\""), ("target", "\"é\""), ("address", "[\"224.0.0.1/4\"]")]
    {
        let target = if key == "target" { "" } else { "target = \"t\"\n" };
        let file = host.file("port.toml", format!("[[port]]\ntype = \"tap\"\n{target}{key} = {value}\n"));
        let check = host.run(&[lab::switch::ETHERWS, "check", &file]);
        let said = lab::said(&check);
        assert!(!check.status.success() && said.contains(&format!("port.{key}: ")), "{key}: {said}");
    }
}

#[test]
fn a_reload_that_fails_half_way_changes_nothing() {
    let host = Host::new();
    let link = "[[port]]\nname = \"up\"\ntype = \"client\"\ntarget = \"ws://127.0.0.1:1/\"\n";
    let good = format!(
        "[switch]\nageout = 50\n[listen]\nport = 8080\n[[port]]\ntype = \"tap\"\ntarget = \"t0\"\n{link}"
    );
    let bad = good.replace(":1/", ":2/").replace("8080", "8081").replace("= \"t0\"", "= \"t0\"\naccess = 7")
        + "[[port]]\ntype = \"netdev\"\ntarget = \"nowhere\"\n";
    let config = host.file("etherws.toml", &good);
    let switch = Switch::start(&host, &["--config", &config]);
    host.file("etherws.toml", &bad);
    let error = switch.ctl_err(1, &["reload"]);
    assert!(error.contains("nothing was changed") && error.contains("nowhere"), "{error}");
    for round in ["after the failure", "after the good file again"] {
        assert_eq!(switch.port("up")["target"], "ws://127.0.0.1:1/", "{round}");
        assert_eq!(
            (&switch.port("t0")["vlan"], &switch.port("t0")["port"]),
            (&"transparent".into(), &1.into())
        );
        host.wait_port("127.0.0.1:8080");
        host.file("etherws.toml", &good);
        switch.ctl_ok(&["reload"]);
    }
}
