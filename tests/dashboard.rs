//! The dashboard: who may have it, by curl; what people do with it, in a real Chromium (tests/dashboard/*.mjs,
//! driven by playwright-core). Pictures of it are left in target/pictures.

mod lab;

use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use lab::frames::crowd;
use lab::switch::{ETHERCTL, TwoHosts};
use lab::{Host, Pair, Process, SOON, Switch, pair, said, sh, wait_until};
use serde_json::Value;

/// A browser is slow to start on a busy machine, and a scenario has many waits of its own.
const SCENARIO: Duration = Duration::from_secs(300);

/// `etherctl dashboard` for a switch, and the URL that it printed.
struct Dashboard {
    process: Process,
    url: String,
}

impl Dashboard {
    fn start(host: &Host, switch: &Switch) -> Self {
        let process = host.spawn("dashboard", &[ETHERCTL, "--ctlurl", &switch.url(), "dashboard"]);
        wait_until("its URL", SOON, || process.log().contains("/#token="));
        let url = process.log().lines().find(|line| line.starts_with("http")).expect("URL").to_owned();
        Self { process, url }
    }

    /// Without the token.
    fn root(&self) -> &str {
        self.url.split("/#").next().expect("root")
    }

    fn token(&self) -> &str {
        self.url.split("#token=").nth(1).expect("token")
    }
}

/// Whether there is a browser; a word about it when there is none.
fn browser() -> bool {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let there = root.join("target/browser/complete").exists() && Path::new("/usr/bin/chromium").exists();
    if !there {
        eprintln!("SKIPPED: the dashboard in a browser: scripts/browser.sh installs what it takes");
    }
    there
}

fn scenario(host: &Host, name: &str, args: &[&str]) -> Process {
    let file = format!("{}/tests/dashboard/{name}.mjs", env!("CARGO_MANIFEST_DIR"));
    host.spawn(name, &[&["node", file.as_str()], args].concat())
}

fn says(process: &mut Process, word: &str) {
    let mut log = String::new();
    wait_until(&format!("the browser says {word}"), SCENARIO, || {
        log = process.log();
        log.lines().any(|line| line == word) || log.contains("FAILED") || !process.is_running()
    });
    assert!(process.log().lines().any(|line| line == word), "before {word}: {}", process.log());
}

fn ends_well(mut process: Process) {
    says(&mut process, "done");
    assert_eq!(process.wait(SOON), 0);
}

/// Status, lower-case head, body.
fn curl(host: &Host, how: &[&str]) -> (u16, String, String) {
    let text = host.ok(&[&["curl", "-sS", "-i", "-m", "20"], how].concat());
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{how:?}: {text:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.expect("status"), head.to_lowercase(), body.to_owned())
}

const POLICY: &str = "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";
const VERSION: &str = r#"{"jsonrpc":"2.0","id":1,"method":"etherws.control.getVersion"}"#;
const JSON: &str = "Content-Type: application/json";

#[test]
fn the_token_works_once_and_the_session_is_asked_for() {
    let host = Host::new();
    let switch = Switch::start(&host, &["--no-listen"]);
    let mut dashboard = Dashboard::start(&host, &switch);
    assert_eq!(dashboard.token().len(), 64);
    let (session, ctl) = (format!("{}/session", dashboard.root()), format!("{}/ctl", dashboard.root()));
    let status = |how: &[&str]| curl(&host, how).0;
    let shown = |token: &str| format!(r#"{{"token":"{token}"}}"#);

    let (page, head, body) = curl(&host, &[dashboard.root()]);
    assert_eq!(page, 200);
    assert!(head.contains(POLICY) && head.contains("cache-control: private, no-cache"), "{head}");
    assert!(body.contains("<title>etherws</title>") && body.contains("data-control=\"/ctl\""), "{body}");
    assert_eq!(status(&[&format!("{}/none", dashboard.root())]), 404);

    assert_eq!(status(&["-H", JSON, "-d", VERSION, &ctl]), 403, "no session");
    let foreign = "Origin: http://evil.example";
    assert_eq!(status(&["-H", foreign, "-d", &shown(dashboard.token()), &session]), 403);
    assert_eq!(status(&["-H", "Host: evil.example", "-d", &shown(dashboard.token()), &session]), 403);
    assert_eq!(status(&["-H", "Sec-Fetch-Site: cross-site", dashboard.root()]), 403);
    assert_eq!(status(&["-d", &shown(&"0".repeat(64)), &session]), 403, "a wrong token spends nothing");
    assert_eq!(status(&["-d", "x", &session]), 403);
    assert_eq!(status(&[&session]), 405);
    let (admitted, head, body) = curl(&host, &["-d", &shown(dashboard.token()), &session]);
    assert_eq!(admitted, 200, "{body}");
    assert!(head.contains("cache-control: no-store"), "{head}");
    let body: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(body["switch"], switch.url());
    assert_eq!(status(&["-d", &shown(dashboard.token()), &session]), 403, "once");

    let bearer = format!("Authorization: Bearer {}", body["session"].as_str().expect("session"));
    let (called, head, answer) = curl(&host, &["-H", &bearer, "-H", JSON, "-d", VERSION, &ctl]);
    assert_eq!(called, 200);
    assert!(answer.contains("etherws") && head.contains("cache-control: no-store"), "{head} {answer}");
    assert_eq!(status(&["-H", &bearer, "-H", foreign, "-H", JSON, "-d", VERSION, &ctl]), 403);
    let other = format!("{bearer}0");
    assert_eq!(status(&["-H", &other, "-H", JSON, "-d", VERSION, &ctl]), 403);
    assert_eq!(status(&["-H", &bearer, "-d", VERSION, &ctl]), 415, "what the switch says goes back");

    dashboard.process.signal(nix::sys::signal::Signal::SIGINT);
    assert_eq!(dashboard.process.wait(SOON), 0, "Ctrl-C is its end");
    switch.ctl_err(2, &["dashboard", "--listen", "0.0.0.0:0"]);
    let nowhere = host.run(&[ETHERCTL, "--ctlurl", "unix:/nowhere", "dashboard"]);
    assert!(
        !nowhere.status.success() && said(&nowhere).contains("could not reach unix:/nowhere"),
        "{nowhere:?}"
    );
}

#[test]
fn who_never_shows_his_token_keeps_nobody_out() {
    let host = Host::new();
    let switch = Switch::start(&host, &["--no-listen"]);
    let dashboard = Dashboard::start(&host, &switch);
    let address = dashboard.root().trim_start_matches("http://");
    let request = format!("POST /session HTTP/1.1\r\nHost: {address}\r\nContent-Length: 80\r\n\r\n{{");
    // All that it serves at a time.
    let mut idle: Vec<_> = (0..64).map(|_| host.connect(address).expect("connect")).collect();
    for stream in &mut idle {
        stream.write_all(request.as_bytes()).expect("write");
    }
    let is_served =
        || host.run(&["curl", "-sS", "-f", "-m", "2", "-o", "/dev/null", dashboard.root()]).status.success();
    wait_until("there is a place for another", Duration::from_secs(60), is_served);
    let mut answer = String::new();
    idle[0].read_to_string(&mut answer).expect("an answer, and the end");
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

#[test]
fn bad_50_bad_52_control_serves_the_dashboard_to_who_may_control() {
    let host = Host::new();
    let switch = Switch::start(&host, &["--no-listen", "--ctlport", "7867"]);
    let status = |how: &[&str]| curl(&host, how).0;
    let at = |path: &str| format!("http://127.0.0.1:7867{path}");
    let token = std::fs::read_to_string(format!("{}.token", switch.sock().display())).expect("token");
    let login = format!("any:{}", token.trim());
    for path in ["/", "/dashboard", "/dashboard/", "/dashboard/app.js", "/style.css"] {
        let (refused, head, _) = curl(&host, &[&at(path)]);
        assert_eq!(refused, 401, "{path}");
        assert!(head.contains("www-authenticate: basic"), "a browser asks for it: {head}");
        let (served, head, _) = curl(&host, &["-u", &login, &at(path)]);
        assert_eq!(served, if path == "/dashboard" { 302 } else { 200 }, "{path}");
        assert!(head.contains(POLICY), "{head}");
        assert_eq!(status(&["-u", &login, "-H", "Host: evil.example", &at(path)]), 403);
        assert_eq!(status(&["-u", &login, "-H", "Sec-Fetch-Site: cross-site", &at(path)]), 403);
        assert_eq!(status(&["-u", &login, "-H", "Origin: http://evil.example", &at(path)]), 403);
    }
    let (_, head, _) = curl(&host, &["-u", &login, &at("/app.js")]);
    let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).expect("ETag").to_owned();
    assert_eq!(status(&["-u", &login, "-H", &format!("If-None-Match: {tag}"), &at("/app.js")]), 304);
    let sock = switch.sock().to_str().expect("path");
    assert_eq!(status(&["--unix-socket", sock, "http://localhost/"]), 404, "the socket is none for browsers");
}

/// Two hosts with a link, and traffic over it until the end.
fn busy(hosts: &TwoHosts) -> (Pair<'_>, Process) {
    let pair = pair(hosts);
    hosts.a.ping("10.1.0.2");
    let traffic = hosts.a.spawn("ping", &["ping", "-n", "-i", "0.01", "-s", "1200", "10.1.0.2"]);
    (pair, traffic)
}

#[test]
fn people_use_it_in_a_browser() {
    if !browser() {
        return;
    }
    let hosts = TwoHosts::new();
    let (pair, _traffic) = busy(&hosts);
    pair.a.ctl_ok(&["addport", "client", "ws://127.0.0.1:1/", "--name", "several", "--connections", "3"]);
    // Half of the traffic.
    pair.a.ctl_ok(&["setport", "link", "--pace", "500000"]);
    let dashboard = Dashboard::start(&hosts.a, &pair.a);
    ends_well(scenario(&hosts.a, "flows", &[&dashboard.url]));
    // The page is gone, and with it what was measured for it.
    wait_until("nobody looks", SOON, || {
        pair.a.rpc_ok("getProf", Value::Null)["leases"] == Value::Array(vec![])
    });
}

/// More stations than the switch lists at once: once it was then said that there is no connection.
#[test]
fn very_many_stations_are_looked_through_in_part() {
    if !browser() {
        return;
    }
    let host = Host::new();
    let switch = Switch::start(&host, &["--no-listen", "--fdb-limit", "200000"]);
    let socket = host.dir().join("vms.sock");
    let target = format!("unix:{}", socket.display());
    switch.ctl_ok(&["addport", "qemu", &target, "--name", "vms", "--storm", "off", "--max-macs", "200000"]);
    let _machine = crowd(&socket, 100_001);
    // Not by asking for them again and again: each answer would be as long as one can be.
    wait_until("all have spoken", SOON, || {
        switch.find("vms-1").is_some_and(|port| port["rx"].as_u64() > Some(100_000))
    });
    assert!(switch.rpc("listFdb", serde_json::json!({})).is_err(), "more than it lists");
    let dashboard = Dashboard::start(&host, &switch);
    ends_well(scenario(&host, "crowd", &[&dashboard.url]));
}

/// A peer's name is the peer's to choose.
#[test]
fn bad_59_names_that_are_markup_stay_text() {
    if !browser() {
        return;
    }
    let hosts = TwoHosts::new();
    let user = "<img src=x onerror=alert(1)>";
    let htpasswd = hosts.b.file("htpasswd", sh(&["htpasswd", "-nbB", user, "pw"]));
    let b = Switch::start(&hosts.b, &["--htpasswd", &htpasswd]);
    let a = Switch::start(&hosts.a, &["--no-listen"]);
    let url = format!("ws://{}/?%3Cscript%3E", hosts.link.b);
    a.ctl_ok(&["addport", "client", &url, "--name", "link", "--user", user, "--passwd", "pw"]);
    a.wait_state("link", "up");
    for (switch, address) in [(&a, "10.1.0.1/24"), (&b, "10.1.0.2/24")] {
        switch.ctl_ok(&["addport", "tap", "t0", "--address", address]);
    }
    hosts.a.ping("10.1.0.2");
    let _traffic = hosts.a.spawn("ping", &["ping", "-n", "-i", "0.05", "10.1.0.2"]);
    let dashboard = Dashboard::start(&hosts.b, &b);
    ends_well(scenario(&hosts.b, "markup", &[&dashboard.url]));
}

#[test]
fn a_switch_that_went_and_came_back_is_told() {
    if !browser() {
        return;
    }
    let host = Host::new();
    let file =
        host.file("etherws.toml", "[listen]\nenabled = false\n[[port]]\ntype = \"tap\"\ntarget = \"t0\"\n");
    let mut switch = Switch::start(&host, &["--config", &file]);
    let dashboard = Dashboard::start(&host, &switch);
    let mut page = scenario(&host, "restart", &[&dashboard.url]);
    says(&mut page, "kill");
    switch.process.kill();
    says(&mut page, "restart");
    switch.kill_and_restart();
    says(&mut page, "event");
    switch.ctl_ok(&["setport", "t0", "--shut", "1"]);
    ends_well(page);
    let log = dashboard.process.log();
    assert!(log.contains("etherctl: the switch is gone: "), "{log}");
    assert!(log.contains(" is back"), "{log}");
}

#[test]
fn control_s_own_page_works_with_the_browser_s_login() {
    if !browser() {
        return;
    }
    let host = Host::new();
    let htpasswd = host.file("htpasswd", sh(&["htpasswd", "-nbB", "admin", "pw"]));
    let _switch = Switch::start(&host, &["--no-listen", "--ctlport", "7867", "--ctlhtpasswd", &htpasswd]);
    ends_well(scenario(&host, "control", &["http://127.0.0.1:7867/dashboard", "admin:pw"]));
}

/// `make pictures`.
#[test]
#[ignore = "makes the picture of the README"]
fn pictures() {
    assert!(browser(), "a browser is needed");
    let hosts = TwoHosts::new();
    let (pair, _traffic) = busy(&hosts);
    for (name, vlan) in [("office", "10"), ("lab", "20"), ("guests", "30")] {
        pair.a.ctl_ok(&["addport", "tap", name, "--access", vlan]);
    }
    let _server = hosts.b.spawn("iperf3", &["iperf3", "-s", "-B", "10.1.0.2"]);
    hosts.b.wait_port("10.1.0.2:5201");
    let load = "while sleep 7; do iperf3 -c 10.1.0.2 -t 9 -b 40M; iperf3 -c 10.1.0.2 -t 5 -b 90M -R; done";
    let _load = hosts.a.spawn("load", &["sh", "-c", load]);
    let dashboard = Dashboard::start(&hosts.a, &pair.a);
    let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/docs");
    let page = scenario(&hosts.a, "pictures", &[&dashboard.url, docs]);
    std::thread::sleep(Duration::from_secs(30));
    pair.a.ctl_ok(&["addport", "client", "ws://192.0.2.9/", "--name", "backup"]);
    pair.a.ctl_ok(&["setport", "guests", "--shut", "1"]);
    ends_well(page);
    let size = std::fs::metadata(format!("{docs}/dashboard.png")).expect("the picture").len();
    assert!(size < 200_000, "{size} bytes");
}
