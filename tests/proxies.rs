//! Proxies on the way out (CONNECT) and in front (nginx), each the real program.

mod lab;

use lab::servers::{Ca, at, nginx, tinyproxy, tinyproxy_log};
use lab::switch::TwoHosts;
use lab::{Host, Link, SOON, Switch, join, wait_until, ws};

/// A - middle - B: nothing but what runs in the middle joins A and B.
struct Row {
    a: Host,
    middle: Host,
    b: Host,
    left: Link,
    right: Link,
}

impl Row {
    fn new() -> Self {
        let (a, middle, b) = (Host::new(), Host::new(), Host::new());
        let (left, right) = (join(&a, &middle), join(&middle, &b));
        Self { a, middle, b, left, right }
    }
}

#[test]
fn through_a_connect_proxy() {
    let row = Row::new();
    let _proxy = tinyproxy(&row.middle, None);
    let b = Switch::start(&row.b, &[]);
    let proxy = format!("http://{}:8888", row.left.b);
    let url = format!("ws://{}/", row.right.b);

    let a = Switch::start(&row.a, &["--no-listen"]);
    a.dials(&url, &["--proxy", &proxy]);
    assert!(tinyproxy_log(&row.middle).contains("CONNECT"), "{}", tinyproxy_log(&row.middle));
    a.dials_in_vain(&url, &["--proxy", "none"], &["unreachable", "timed out", "time", "route"]);
    drop(a);

    // From the environment, as 1.3 did; and frames pass.
    let a = Switch::start_with_env(&row.a, &["--no-listen"], &[("http_proxy", &proxy)]);
    a.ctl_ok(&["addport", "tap", "t0", "--address", "10.1.0.1/24"]);
    b.ctl_ok(&["addport", "tap", "t0", "--address", "10.1.0.2/24"]);
    a.ctl_ok(&["addport", "client", &url, "--name", "link"]);
    a.wait_state("link", "up");
    row.a.ping("10.1.0.2");
}

#[test]
fn through_a_connect_proxy_with_credentials() {
    let row = Row::new();
    let _proxy = tinyproxy(&row.middle, Some(("pat", "sesame")));
    let ca = Ca::new("lab");
    let cert = ca.server(&row.b, "server", &[&row.right.b.to_string()]);
    let _b = Switch::start(&row.b, &["--sslcert", &cert.cert, "--sslkey", &cert.key]);
    let a = Switch::start(&row.a, &["--no-listen"]);
    let ca_file = row.a.file("ca.pem", &ca.pem);
    let url = format!("wss://{}/", row.right.b);
    let with = |login: &str| format!("http://{login}{}:8888", row.left.b);
    a.dials(&url, &["--cacerts", &ca_file, "--proxy", &with("pat:sesame@")]);
    for login in ["", "pat:wrong@"] {
        a.dials_in_vain(
            &url,
            &["--cacerts", &ca_file, "--proxy", &with(login)],
            &["407", "401"], /* tinyproxy says 401 to who says nothing */
        );
    }
    let log = a.process.log();
    assert!(!log.contains("sesame"), "the proxy's password is in the log: {log}");
    assert!(!a.ctl_ok(&["--json", "listport"]).contains("sesame"));
}

#[test]
fn no_proxy_means_direct() {
    let hosts = TwoHosts::new();
    let _b = Switch::start(&hosts.b, &[]);
    let address = hosts.link.b.to_string();
    let env = [("http_proxy", "http://127.0.0.1:1"), ("no_proxy", address.as_str())];
    let a = Switch::start_with_env(&hosts.a, &["--no-listen"], &env);
    a.dials(&format!("ws://{address}/"), &[]);
    drop(a);
    let a = Switch::start_with_env(&hosts.a, &["--no-listen"], &env[..1]);
    a.dials_in_vain(&format!("ws://{address}/"), &[], &["refused", "proxy"]);
}

#[test]
fn a_proxy_that_says_nothing_costs_ten_seconds_and_no_other_port() {
    let row = Row::new();
    let silent = row.middle.listen("0.0.0.0:8888");
    let a = Switch::start(&row.a, &["--no-listen"]);
    a.ctl_ok(&["addport", "tap", "t0", "--address", "10.1.0.1/24"]);
    let start = std::time::Instant::now();
    let proxy = format!("http://{}:8888", row.left.b);
    a.ctl_ok(&["addport", "client", "ws://192.0.2.1/", "--proxy", &proxy, "--name", "try"]);
    assert!(start.elapsed().as_secs() < 3, "addport waited for the proxy");
    a.wait_reason("try", &["time", "10 s"]);
    assert!(start.elapsed().as_secs() < 15);
    drop(silent);
}

const FORWARD: &str = "proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; \
    proxy_set_header Connection upgrade; proxy_set_header Host $http_host; \
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; \
    proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Forwarded-Host $http_host; \
    proxy_read_timeout 3600s; proxy_buffering off;";

#[test]
fn behind_nginx_the_peer_is_whom_it_names() {
    let row = Row::new();
    let ca = Ca::new("lab");
    let cert = ca.server(&row.middle, "front", &[&row.left.b.to_string()]);
    let servers = format!(
        "server {{ listen 80; location / {{ proxy_pass http://{b}:80; {FORWARD} }} }}\n\
         server {{ listen 443 ssl; ssl_certificate {}; ssl_certificate_key {}; \
         location / {{ proxy_pass http://{b}:80; {FORWARD} }} }}",
        cert.cert,
        cert.key,
        b = row.right.b
    );
    let _front = nginx(&row.middle, &servers, at(row.left.b, 443));
    let trusted = format!("{}/32", row.right.a);
    let b = Switch::start(&row.b, &["--trusted-proxy", &trusted]);
    let a = Switch::start(&row.a, &["--no-listen"]);
    let ca_file = row.a.file("ca.pem", &ca.pem);
    a.ctl_ok(&["addport", "tap", "t0", "--address", "10.1.0.1/24"]);
    b.ctl_ok(&["addport", "tap", "t0", "--address", "10.1.0.2/24"]);
    for (url, options) in [
        (format!("ws://{}/", row.left.b), &[][..]),
        (format!("wss://{}/", row.left.b), &["--cacerts", &ca_file]),
    ] {
        let mut args = vec!["addport", "client", &url, "--name", "link"];
        args.extend(options);
        a.ctl_ok(&args);
        a.wait_state("link", "up");
        row.a.ping("10.1.0.2");
        let peer = b.wait_server_port()["peer"].as_str().unwrap_or_default().to_owned();
        assert!(peer.starts_with(&row.left.a.to_string()), "the peer is A, not nginx: {peer}");
        a.ctl_ok(&["delport", "link"]);
        wait_until("B's port is gone", SOON, || b.entries("listPort").len() == 1);
    }
    // An Origin that fits the name the browser used passes through nginx too; a foreign one does not.
    let addr = format!("{}:80", row.left.b);
    for (origin, status) in [(format!("http://{}", row.left.b), 101), ("http://evil.example".to_owned(), 403)]
    {
        let headers = format!("{}Origin: {origin}\r\n", ws::UPGRADE);
        assert_eq!(ws::get(&row.a, &addr, "/", &headers).0.status, status, "{origin}");
    }
}

#[test]
fn whoever_is_not_trusted_cannot_name_another_peer() {
    let hosts = TwoHosts::new();
    let b = Switch::start(&hosts.b, &["--trusted-proxy", "192.0.2.0/24"]);
    let addr = format!("{}:80", hosts.link.b);
    let headers = format!("{}X-Forwarded-For: 203.0.113.9\r\n", ws::UPGRADE);
    let (answer, _open) = ws::get(&hosts.a, &addr, "/", &headers);
    assert_eq!(answer.status, 101);
    let peer = b.wait_server_port()["peer"].as_str().unwrap_or_default().to_owned();
    assert!(peer.starts_with(&hosts.link.a.to_string()), "{peer}");
}

#[test]
fn the_proxy_protocol_names_the_peer() {
    let hosts = TwoHosts::new();
    let trusted = format!("{}/32", hosts.link.a);
    let b = Switch::start(&hosts.b, &["--proxy-protocol", "--trusted-proxy", &trusted]);
    let addr = format!("{}:80", hosts.link.b);
    let request = format!(
        "PROXY TCP4 203.0.113.9 192.0.2.1 4711 80\r\nGET / HTTP/1.1\r\nHost: {addr}\r\n{}\r\n",
        ws::UPGRADE
    );
    let (answer, _open) = ws::exchange(&hosts.a, &addr, &request);
    assert_eq!(answer.status, 101, "{}", b.process.log());
    let peer = b.wait_server_port()["peer"].as_str().unwrap_or_default().to_owned();
    assert!(peer.starts_with("203.0.113.9"), "{peer}");
}
