//! `/metrics`: by the Unix socket, by control on TCP and by the listener of its own; read by a parser of
//! Prometheus' own makers.

mod lab;

use std::collections::BTreeMap;
use std::time::SystemTime;

use etherws::control::metrics::Scrape;
use lab::switch::ETHERWS;
use lab::{Host, Switch, said, sh};
use serde_json::{Value, json};

const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const OWN: &str = "http://127.0.0.1:9867/metrics";
const CONTROL: &str = "http://127.0.0.1:7867/metrics";

/// curl: status, lower-case head, body.
fn curl(host: &Host, how: &[&str]) -> (u16, String, String) {
    let mut args = vec!["curl", "-sS", "-i", "-m", "20"];
    args.extend(how);
    let text = host.ok(&args);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{how:?}: {text:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.expect("status"), head.to_lowercase(), body.to_owned())
}

fn get(host: &Host, how: &[&str]) -> String {
    let (status, head, body) = curl(host, how);
    assert_eq!(status, 200, "{how:?}: {head}");
    assert!(head.contains(&format!("content-type: {TYPE}")), "{head}");
    assert!(!head.contains("access-control"), "no page may read it: {head}");
    assert!(body.ends_with("\n# EOF\n"), "{body}");
    body
}

/// Samples by name and sorted labels, as the parser of python3-prometheus-client reads them; nothing, with a
/// word about it, when that is not installed.
fn parsed(host: &Host, text: &str) -> Option<BTreeMap<String, f64>> {
    const PARSER: &str = "import sys, json
from prometheus_client.openmetrics.parser import text_string_to_metric_families as families
samples = [s for f in families(open(sys.argv[1]).read()) for s in f.samples]
print(json.dumps([[s.name, sorted(s.labels.items()), s.value] for s in samples]))";
    if !host.run(&["/usr/bin/python3", "-c", "import prometheus_client"]).status.success() {
        eprintln!("SKIPPED: a second reader of the metrics: there is no python3-prometheus-client");
        return None;
    }
    let file = host.file("metrics.txt", text);
    let output = host.run(&["/usr/bin/python3", "-c", PARSER, &file]);
    assert!(output.status.success(), "{}\n{text}", said(&output));
    type Sample = (String, Vec<(String, String)>, f64);
    let samples: Vec<Sample> = serde_json::from_slice(&output.stdout).expect("JSON");
    let keyed = |(name, labels, value): Sample| {
        let add = |key, (label, value): (String, String)| format!("{key} {label}={value}");
        (labels.into_iter().fold(name, add), value)
    };
    Some(samples.into_iter().map(keyed).collect())
}

/// What a parser must have found for these entries of `listCounters`.
fn agrees(found: &BTreeMap<String, f64>, counters: &[Value], kind: &str) {
    for entry in counters {
        let port = entry["port"].as_u64().expect("port").to_string();
        let name = entry["name"].as_str().expect("name");
        let one = |metric: &str, reason: &str| {
            let reason = if reason.is_empty() { String::new() } else { format!(" reason={reason}") };
            let key = format!("etherws_port_{metric} name={name} port={port}{reason} type={kind}");
            *found.get(&key).unwrap_or_else(|| panic!("no {key:?} in {found:#?}"))
        };
        for (field, metric) in [
            ("rx", "received_frames_total"),
            ("rx_bytes", "received_bytes_total"),
            ("tx", "sent_frames_total"),
            ("tx_bytes", "sent_bytes_total"),
        ] {
            assert_eq!(Some(one(metric, "")), entry[field].as_f64(), "{metric} of {entry}");
        }
        for (reason, count) in entry["drops"].as_object().expect("drops") {
            assert_eq!(Some(one("dropped_frames_total", reason)), count.as_f64(), "{reason} of {entry}");
        }
    }
}

#[test]
fn all_three_doors_show_what_list_counters_says() {
    let host = Host::new();
    let args = ["--no-listen", "--ctlport", "7867", "--metrics", "127.0.0.1"];
    let switch = Switch::start(&host, &args);
    // Addressless and without IPv6, so that only what is sent on purpose moves the counters.
    for tap in ["t0", "t1"] {
        switch.ctl_ok(&["addport", "tap", tap]);
        host.ok(&["sysctl", "-qw", &format!("net.ipv6.conf.{tap}.disable_ipv6=1")]);
    }
    switch.ctl_ok(&["setport", "t1", "--shut", "1"]);
    host.ok(&["ip", "addr", "add", "10.9.0.1/24", "dev", "t0"]);
    host.run_for(10, &["ping", "-n", "-c2", "-i0.2", "-W1", "10.9.0.2"]);
    lab::wait_until("frames were counted", lab::SOON, || switch.port("t0")["rx"].as_u64() > Some(0));
    host.ok(&["ip", "neigh", "flush", "dev", "t0"]);
    host.ok(&["ip", "addr", "flush", "dev", "t0"]);

    let sock = switch.sock().to_str().expect("path");
    let token = std::fs::read_to_string(format!("{sock}.token")).expect("token");
    let bearer = format!("Authorization: Bearer {}", token.trim());
    let unix = ["--unix-socket", sock, "http://localhost/metrics"];
    for how in [&unix[..], &["-H", &bearer, CONTROL], &[OWN]] {
        // Between two equal answers nothing has moved.
        let mut seen = None;
        lab::wait_until("a scrape while nothing moves", lab::SOON, || {
            let before = switch.entries("listCounters");
            let text = get(&host, how);
            let still = before == switch.entries("listCounters");
            seen = Some((text, before));
            still
        });
        let (text, counters) = seen.expect("seen");
        assert!(
            text.contains("etherws_build_info{version=\"") && text.contains("process_cpu_seconds_total ")
        );
        assert!(counters.iter().any(|entry| entry["rx"].as_u64() > Some(0)), "{counters:?}");
        assert!(counters.iter().any(|entry| entry["drops"] != json!({})), "{counters:?}");
        let Some(found) = parsed(&host, &text) else { continue };
        agrees(&found, &counters, "tap");
        let up = |tap: &str, port: u32| found[&format!("etherws_port_up name={tap} port={port} type=tap")];
        assert_eq!((up("t0", 1), up("t1", 2)), (1.0, 0.0));
        assert_eq!(found["etherws_fdb_entries"], switch.fdb().len() as f64);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("clock").as_secs_f64();
        assert!((now - 600.0..=now).contains(&found["etherws_start_time_seconds"]), "{found:?}");
        assert!(found["process_resident_memory_bytes"] > 1e6);
    }
}

#[test]
fn control_s_door_asks_for_what_control_asks_for() {
    let host = Host::new();
    let htpasswd = host.file("htpasswd", sh(&["htpasswd", "-nbB", "admin", "pw"]));
    let args = ["--no-listen", "--ctlport", "7867", "--ctlhtpasswd", &htpasswd];
    let switch = Switch::start(&host, &args);
    let status = |how: &[&str]| curl(&host, how).0;
    assert_eq!(status(&[CONTROL]), 401);
    assert_eq!(status(&["-u", "admin:no", CONTROL]), 401);
    assert_eq!(status(&["-u", "admin:pw", CONTROL]), 200);
    assert_eq!(status(&["-u", "admin:pw", "-H", "Host: evil.example", CONTROL]), 403);
    assert_eq!(status(&["-u", "admin:pw", "-H", "Origin: http://evil.example", CONTROL]), 403);
    let (post, head, _) = curl(&host, &["-u", "admin:pw", "-d", "x", CONTROL]);
    assert_eq!(post, 405);
    assert!(head.contains("allow: get, head"), "{head}");
    let sock = switch.sock().to_str().expect("path");
    assert_eq!(status(&["--unix-socket", sock, "-d", "x", "http://localhost/metrics"]), 405);
    let refused = host.run(&["curl", "-sS", "-m", "5", OWN]);
    assert!(!refused.status.success(), "no listener unless --metrics asks for one: {}", said(&refused));
}

/// A page whose name was made to lead here must not read what ports there are.
#[test]
fn bad_50_metrics_answer_to_their_own_names() {
    let host = Host::new();
    host.ok(&["ip", "addr", "add", "192.0.2.1/32", "dev", "lo"]);
    let etc = std::path::Path::new("/etc/netns").join(host.name());
    std::fs::create_dir_all(&etc).expect("directory");
    std::fs::write(etc.join("hosts"), "127.0.0.1 localhost\n192.0.2.1 sw.example\n").expect("hosts");
    let switch = Switch::start(&host, &["--no-listen", "--metrics", "sw.example"]);
    let _ = std::fs::remove_dir_all(&etc);
    for (name, status) in [
        ("sw.example:9867", "200"),
        ("192.0.2.1:9867", "200"),
        ("localhost", "200"),
        ("evil.example:9867", "403"),
        ("192.0.2.2", "403"),
        ("", "400"),
    ] {
        let field = format!("Host: {name}");
        let url = "http://192.0.2.1:9867/metrics";
        let said = host.ok(&["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-H", &field, url]);
        assert_eq!(said, status, "{name}");
    }
    assert_eq!(switch.drops("foreign-host"), 3);
}

#[test]
fn the_own_listener_shows_metrics_and_nothing_else() {
    let host = Host::new();
    let file = host.file("etherws.toml", "[listen]\nenabled = false\n[metrics]\nlisten = \"127.0.0.1\"\n");
    let switch = Switch::start(&host, &["--config", &file]);
    let status = |how: &[&str]| curl(&host, how).0;
    assert_eq!(status(&[OWN]), 200);
    let (head_only, head, body) = curl(&host, &["-I", OWN]);
    assert_eq!((head_only, body.as_str()), (200, ""), "{head}");
    assert_eq!(status(&["-d", "x", OWN]), 405);
    let root = OWN.trim_end_matches("/metrics");
    for path in ["/", "/ctl", "/metrics/", "/metric"] {
        assert_eq!(status(&[&format!("{root}{path}")]), 404, "{path}");
    }
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"etherws.control.getVersion"}"#;
    let json = "Content-Type: application/json";
    assert_eq!(status(&["-H", json, "-d", call, &format!("{root}/ctl")]), 404, "no control here");
    assert!(curl(&host, &["-H", "Host: any.example", OWN]).1.contains("connection: close"));
    let long = format!("X: {}", "y".repeat(100_000));
    assert!(matches!(status(&["-H", &long, OWN]), 400 | 431), "a bounded header");

    // Saved as it is, and moved by a reload.
    switch.ctl_ok(&["saveconf"]);
    let saved = std::fs::read_to_string(&file).expect("saved");
    assert!(saved.contains("[metrics]\nlisten = \"127.0.0.1\"\n"), "{saved}");
    host.file("etherws.toml", saved.replace("\"127.0.0.1\"", "\"127.0.0.1:9900\""));
    assert!(switch.ctl_ok(&["reload"]).contains("listening addresses"));
    assert_eq!(status(&["http://127.0.0.1:9900/metrics"]), 200);
    assert!(!host.run(&["curl", "-sS", "-m", "5", OWN]).status.success(), "the old address is closed");
    host.file("etherws.toml", "[listen]\nenabled = false\n");
    switch.ctl_ok(&["reload"]);
    assert!(!host.run(&["curl", "-sS", "-m", "5", "http://127.0.0.1:9900/metrics"]).status.success());
}

#[test]
fn addresses_that_cannot_be_are_named() {
    let host = Host::new();
    for (listen, words) in [
        ("9867", "is not an address"),
        ("a b", "is not an address"),
        ("127.0.0.1:x", "is not an address"),
        ("127.0.0.1:7867", "is control's"),
        ("0.0.0.0:80", "is the WebSocket service's"),
    ] {
        let text = format!("[control.tcp]\n[metrics]\nlisten = {listen:?}\n");
        let file = host.file("bad.toml", text);
        let output = host.run(&[ETHERWS, "check", &file]);
        assert!(!output.status.success(), "{listen}");
        let said = said(&output);
        assert!(said.contains(":3:1: metrics.listen: ") && said.contains(words), "{said}");
    }
}

/// Ports get tame names today; the text must not rely on that.
#[test]
fn a_hostile_name_survives_the_way_to_a_parser() {
    let host = Host::new();
    let name = "a\"b\\n\n} 1\nx";
    let port =
        json!({"port": 1, "type": "tap", "target": "t", "tx": 0, "rx": 0, "shut": false, "name": name});
    let counters = json!({"port": 1, "name": name, "rx": 1, "rx_bytes": 2, "tx": 3, "tx_bytes": 4,
        "drops": {"runt": 5}});
    let scrape = Scrape {
        node: None,
        ports: vec![serde_json::from_value(port).expect("port")],
        counters: vec![serde_json::from_value(counters.clone()).expect("counters")],
        events: Vec::new(),
        stations: 0,
        started: SystemTime::UNIX_EPOCH,
        process: None,
    };
    if let Some(found) = parsed(&host, &scrape.text()) {
        agrees(&found, &[counters], "tap");
    }
}
