//! The JSON-RPC interface as clients of 1.3 use it: plain curl, by Unix socket and by TCP.

mod lab;

use lab::switch::TwoHosts;
use lab::{Host, Switch, sh};
use serde_json::{Value, json};

/// curl's POST of `body`: HTTP status and body.
fn curl(host: &Host, how: &[&str], body: &str) -> (u16, String) {
    let file = host.file("request.json", body);
    let data = format!("@{file}");
    let mut args = vec!["curl", "-sS", "-m", "20", "-w", "\n%{http_code}", "--data-binary", &data];
    args.extend(how);
    let text = host.ok(&args);
    let (body, status) = text.rsplit_once('\n').expect("status line");
    (status.parse().expect("status"), body.to_owned())
}

const JSON: [&str; 2] = ["-H", "Content-Type: application/json"];

struct Client<'h> {
    host: &'h Host,
    how: Vec<String>,
}

impl<'h> Client<'h> {
    fn unix(host: &'h Host, switch: &Switch) -> Self {
        let sock = switch.sock().to_str().expect("path");
        Self { host, how: ["--unix-socket", sock, "http://localhost/ctl"].map(str::to_owned).to_vec() }
    }

    fn tcp(host: &'h Host, url: &str, more: &[&str]) -> Self {
        Self { host, how: more.iter().chain([&url]).map(|&s| s.to_owned()).collect() }
    }

    fn send(&self, body: &str) -> (u16, Value) {
        let how: Vec<&str> = JSON.into_iter().chain(self.how.iter().map(String::as_str)).collect();
        let (status, text) = curl(self.host, &how, body);
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    #[track_caller]
    fn call(&self, method: &str, params: Value) -> Value {
        let name = format!("etherws.control.{method}");
        let (status, answer) =
            self.send(&json!({"jsonrpc": "2.0", "id": 7, "method": name, "params": params}).to_string());
        assert_eq!((status, &answer["id"], &answer["jsonrpc"]), (200, &json!(7), &json!("2.0")), "{answer}");
        assert!(answer.get("error").is_none(), "{method}: {answer}");
        answer["result"].clone()
    }

    /// A method whose result is one entry, in 1.3's wrapping.
    #[track_caller]
    fn one(&self, method: &str, params: Value) -> Value {
        let result = self.call(method, params);
        let entries = result["entries"].as_array().unwrap_or_else(|| panic!("{method}: {result}"));
        assert_eq!(entries.len(), 1, "{method}: {result}");
        entries[0].clone()
    }

    #[track_caller]
    fn fails(&self, code: i64, method: &str, params: Value) -> Value {
        let name = format!("etherws.control.{method}");
        let (status, answer) =
            self.send(&json!({"jsonrpc": "2.0", "id": 7, "method": name, "params": params}).to_string());
        assert_eq!((status, &answer["error"]["code"]), (200, &json!(code)), "{method} {params}: {answer}");
        answer["error"].clone()
    }
}

/// Every method once; the fields of 1.3 with their types.
fn every_method(client: &Client, config: &str) {
    client.host.ok(&["ip", "link", "add", "n0", "type", "veth", "peer", "name", "n1"]);
    let tap = client.one("addPort", json!({"type": "tap", "target": "t0"}));
    assert_eq!(
        (&tap["port"], &tap["type"], &tap["target"]),
        (&json!(1), &json!("tap"), &json!("t0")),
        "{tap}"
    );
    assert_eq!((&tap["tx"].is_u64(), &tap["rx"].is_u64(), &tap["shut"]), (&true, &true, &json!(false)));
    let options = json!({"user": "u", "passwd": "p", "cacerts": null, "insecure": false});
    let link =
        client.one("addPort", json!({"type": "client", "target": "ws://127.0.0.1:1/", "options": options}));
    assert_eq!((&link["port"], &link["type"]), (&json!(2), &json!("client")), "{link}");
    let net = client.one("addPort", json!({"type": "netdev", "target": "n0", "name": "loop"}));
    assert_eq!(net["name"], "loop");

    let list = client.call("listPort", json!({}));
    assert_eq!(list["entries"].as_array().map(Vec::len), Some(3), "{list}");
    assert_eq!(client.one("setPort", json!({"port": 1, "shut": true}))["shut"], true);
    assert_eq!(client.one("setPort", json!({"port": "t0", "shut": false}))["shut"], false);
    let was = client.one("delPort", json!({"port": 2}));
    assert_eq!((&was["port"], &was["target"]), (&json!(2), &json!("ws://127.0.0.1:1/")));

    let interface = json!({"port": 1, "address": "10.9.0.1", "netmask": "255.255.255.0", "mtu": 1400});
    client.one("setInterface", interface);
    let list = client.call("listInterface", json!({}));
    let t0 =
        list["entries"].as_array().and_then(|all| all.iter().find(|entry| entry["port"] == 1)).expect("t0");
    for (field, value) in [
        ("type", json!("tap")),
        ("target", json!("t0")),
        ("address", json!("10.9.0.1")),
        ("netmask", json!("255.255.255.0")),
        ("mtu", json!(1400)),
    ] {
        assert_eq!(t0[field], value, "{field} of {t0}");
    }
    client.call("setInterface", json!({"port": "t0", "address": ["10.9.0.2/16", "fd00::2/64"]}));

    client.call("addFdb", json!({"vid": 5, "mac": "02:00:00:00:00:99", "port": "t0"}));
    let list = client.call("listFdb", json!({}));
    let entry = list["entries"].as_array().and_then(|all| all.iter().find(|e| e["vid"] == 5)).expect("entry");
    assert_eq!((&entry["mac"], &entry["port"]), (&json!("02:00:00:00:00:99"), &json!(1)));
    assert!(entry["age"].is_u64(), "{entry}");
    assert!(client.call("flushFdb", json!({}))["flushed"].is_u64());
    assert!(client.call("flushFdb", json!({"port": 1}))["flushed"].is_u64());
    client.call("delFdb", json!({"vid": 5, "mac": "02:00:00:00:00:99"}));
    assert!(client.call("listCounters", json!({}))["entries"].is_array());
    assert_eq!(client.call("getVersion", json!({}))["name"], "etherws");
    assert_eq!(client.call("saveConfig", json!({"file": config}))["file"], config);
    assert!(std::fs::read_to_string(config).expect("saved").contains("t0"));
    client.one("delPort", json!({"port": 1}));
    client.one("delPort", json!({"port": "loop"}));
}

#[test]
fn every_method_on_the_unix_socket() {
    let host = Host::new();
    let switch = Switch::start(&host, &["--no-listen"]);
    let saved = host.dir().join("saved.toml");
    every_method(&Client::unix(&host, &switch), saved.to_str().expect("path"));
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(switch.sock()).expect("socket").permissions().mode();
    // Whether this machine has the group.
    let group = nix::unistd::Group::from_name("etherws").expect("groups");
    assert_eq!(mode & 0o777, if group.is_some() { 0o660 } else { 0o600 });
}

#[test]
fn reload_from_curl() {
    let host = Host::new();
    let config = host.file("etherws.toml", "[listen]\nenabled = false\n");
    let switch = Switch::start(&host, &["--config", &config]);
    host.file("etherws.toml", "[listen]\nenabled = false\n[[port]]\ntype = \"tap\"\ntarget = \"t0\"\n");
    let client = Client::unix(&host, &switch);
    let changes = client.call("reloadConfig", json!({}));
    assert!(changes["changes"].as_array().is_some_and(|all| !all.is_empty()), "{changes}");
    assert_eq!(switch.port("t0")["type"], "tap");
}

#[test]
fn discovery_describes_every_method() {
    let host = Host::new();
    let switch = Switch::start(&host, &["--no-listen"]);
    let client = Client::unix(&host, &switch);
    let (status, answer) = client.send(r#"{"jsonrpc":"2.0","id":1,"method":"rpc.discover"}"#);
    assert_eq!(status, 200);
    let document = &answer["result"];
    assert!(document["openrpc"].is_string(), "{answer}");
    let methods: Vec<&str> =
        document["methods"].as_array().expect("methods").iter().filter_map(|m| m["name"].as_str()).collect();
    for name in [
        "listPort",
        "addPort",
        "setPort",
        "delPort",
        "listInterface",
        "setInterface",
        "listFdb",
        "addFdb",
        "delFdb",
        "flushFdb",
        "listStations",
        "listGroups",
        "listCounters",
        "saveConfig",
        "reloadConfig",
        "getVersion",
    ] {
        assert!(methods.contains(&format!("etherws.control.{name}").as_str()), "{name} in {methods:?}");
    }
    let add = document["methods"].as_array().expect("methods").iter();
    let add = add.filter(|method| method["name"] == "etherws.control.addPort");
    let mut params = add.flat_map(|method| method["params"].as_array().expect("parameters"));
    let offload = params.find(|param| param["name"] == "offload").expect("offload");
    assert_eq!(
        (&offload["required"], &offload["schema"]["type"]),
        (&json!(false), &json!("boolean")),
        "{offload}"
    );
    assert!(
        document["components"]["schemas"]["PortStatus"]["properties"]["offload"].is_object(),
        "{document}"
    );
}

/// 1.3's own way: TCP on 127.0.0.1:7867 without a password, when asked for.
#[test]
fn every_method_on_1_3s_tcp_port() {
    let host = Host::new();
    let _switch = Switch::start(&host, &["--no-listen", "--ctlport", "7867", "--ctlanonymous"]);
    let saved = host.dir().join("saved.toml");
    every_method(&Client::tcp(&host, "http://127.0.0.1:7867/ctl", &[]), saved.to_str().expect("path"));
}

#[test]
fn tcp_wants_a_token_or_a_password() {
    let host = Host::new();
    let switch = Switch::start(&host, &["--no-listen", "--ctlport", "7867"]);
    let url = "http://127.0.0.1:7867/ctl";
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"etherws.control.listPort","params":{}}"#;
    let [one, two] = JSON;
    let (status, text) = curl(&host, &[one, two, url], body);
    assert_eq!(status, 401);
    assert!(text.contains("--ctlanonymous"), "the 401 names the flag: {text}");
    let token_file = format!("{}.token", switch.sock().display());
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&token_file).expect("token").permissions().mode() & 0o777, 0o600);
    let token = std::fs::read_to_string(&token_file).expect("token");
    let bearer = format!("Authorization: Bearer {}", token.trim());
    assert_eq!(curl(&host, &[one, two, "-H", &bearer, url], body).0, 200);
    drop(switch);

    let htpasswd = host.file("htpasswd", sh(&["htpasswd", "-nbB", "admin", "pw"]));
    let switch = Switch::start(&host, &["--no-listen", "--ctlport", "7867", "--ctlhtpasswd", &htpasswd]);
    assert_eq!(curl(&host, &[one, two, "-u", "admin:pw", url], body).0, 200);
    assert_eq!(curl(&host, &[one, two, "-u", "admin:no", url], body).0, 401);
    let ctl = |password| {
        let args = [
            lab::switch::ETHERCTL,
            "--ctlurl",
            url,
            "--ctluser",
            "admin",
            "--ctlpasswd",
            password,
            "listport",
        ];
        host.run(&args).status.code()
    };
    assert_eq!((ctl("pw"), ctl("no")), (Some(0), Some(1)));
    drop(switch);
}

#[test]
fn anonymous_control_is_for_loopback_alone() {
    let hosts = TwoHosts::new();
    let sock = hosts.a.dir().join("ctl.sock").display().to_string();
    let args = [
        lab::switch::ETHERWS,
        "sw",
        "--no-listen",
        "--ctlsock",
        &sock,
        "--ctlhost",
        "0.0.0.0",
        "--ctlport",
        "7867",
        "--ctlanonymous",
    ];
    let output = hosts.a.run_for(10, &args);
    assert!(matches!(output.status.code(), Some(1 | 2)), "{}", lab::said(&output));
    assert!(lab::said(&output).contains("ctlanonymous"), "{}", lab::said(&output));
}

#[test]
fn bad_53_errors_are_those_of_json_rpc() {
    let host = Host::new();
    let switch = Switch::start(&host, &["--no-listen"]);
    let client = Client::unix(&host, &switch);
    for (body, code) in [
        ("{", -32700),
        ("", -32700),
        ("\u{0}", -32700),
        ("4711", -32600),
        ("\"text\"", -32600),
        ("null", -32600),
        ("{}", -32600),
        ("[]", -32600),
        (r#"{"jsonrpc":"2.0","id":1}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"etherws.control.noSuch"}"#, -32601),
        (r#"{"jsonrpc":"2.0","id":1,"method":"listPort"}"#, -32601),
    ] {
        let (status, answer) = client.send(body);
        assert!(status < 500, "{body}: HTTP {status}");
        assert_eq!(answer["error"]["code"], code, "{body}: HTTP {status} {answer}");
    }
    assert_eq!(switch.drops("bad-call"), 9, "{}", switch.all_drops());
    for body in ["[".repeat(100_000), format!("{{\"x\":\"{}\"}}", "y".repeat(2 << 20))] {
        let (status, answer) = client.send(&body);
        let code = &answer["error"]["code"];
        assert!(status == 413 || *code == -32700 || *code == -32600, "HTTP {status} {answer}");
    }
    let batch: Vec<Value> = (0..10_000)
        .map(|id| json!({"jsonrpc": "2.0", "id": id, "method": "etherws.control.getVersion"}))
        .collect();
    let (status, answer) = client.send(&Value::from(batch).to_string());
    assert!(status == 413 || answer.get("error").is_some(), "a batch of 10,000 is refused: HTTP {status}");
    client.call("listPort", json!({}));
}

#[test]
fn bad_55_parameters_are_refused_by_name_and_nothing_is_half_applied() {
    let host = Host::new();
    let switch = Switch::start(&host, &["--no-listen"]);
    let client = Client::unix(&host, &switch);
    client.one("addPort", json!({"type": "tap", "target": "t0"}));
    let before = host.ok(&["ip", "-o", "link"]);
    let wrong = [
        ("addPort", json!({})),
        ("addPort", json!({"type": "tap"})),
        ("addPort", json!({"type": "rocket", "target": "t1"})),
        ("addPort", json!({"type": "server", "target": "x"})),
        ("addPort", json!({"type": "tap", "target": "../x"})),
        ("addPort", json!({"type": "tap", "target": "a%d"})),
        ("addPort", json!({"type": "tap", "target": "sixteen-letters-"})),
        ("addPort", json!({"type": "tap", "target": "nul\u{0}"})),
        ("addPort", json!({"type": "tap", "target": ""})),
        ("addPort", json!({"type": "tap", "target": "t1", "colour": "red"})),
        ("addPort", json!({"type": "tap", "target": "t1", "mtu": -1})),
        ("addPort", json!({"type": "tap", "target": "t1", "offload": "tso"})),
        ("setPort", json!({"port": 1, "offload": false})),
        ("addPort", json!({"type": "tap", "target": "t1", "access": 4095})),
        ("addPort", json!({"type": "tap", "target": "t1", "name": "t0"})),
        ("addPort", json!({"type": "client", "target": "http://x/"})),
        ("addPort", json!({"type": "client", "target": "not a url"})),
        ("setPort", json!({"port": 99, "shut": true})),
        ("setPort", json!({"port": "nobody", "shut": true})),
        ("setPort", json!({"port": 1, "shut": "yes"})),
        ("setPort", json!({"port": true})),
        ("setPort", json!({"port": -1})),
        ("delPort", json!({"port": 99})),
        ("delPort", json!({})),
        ("setInterface", json!({"port": 1, "mtu": -1})),
        ("setInterface", json!({"port": 1, "mtu": 4_294_967_296_u64})),
        ("setInterface", json!({"port": 1, "mtu": 575})),
        ("setInterface", json!({"port": 1, "address": "10.0.0.999"})),
        ("setInterface", json!({"port": 1, "address": "10.0.0.1", "netmask": "255.0.255.0"})),
        ("setInterface", json!({"port": 99, "mtu": 1400})),
        ("addFdb", json!({"vid": 5000, "mac": "02:00:00:00:00:01", "port": 1})),
        ("addFdb", json!({"vid": 0, "mac": "02:00:00:00:00", "port": 1})),
        ("addFdb", json!({"vid": 0, "mac": "ff:ff:ff:ff:ff:ff", "port": 1})),
        ("delFdb", json!({"vid": 0, "mac": "02:00:00:00:00:01"})),
        ("flushFdb", json!({"port": 99})),
    ];
    for (number, (method, params)) in (1..).zip(wrong) {
        let error = client.fails(-32602, method, params.clone());
        assert!(
            error["data"].as_str().is_some_and(|why| why.len() > 5),
            "{method} {params} says why: {error}"
        );
        assert_eq!(switch.drops("bad-call"), number, "{method} {params}");
    }
    assert_eq!(host.ok(&["ip", "-o", "link"]), before, "no device came, went or changed");
    assert_eq!(client.call("listPort", json!({}))["entries"].as_array().map(Vec::len), Some(1));
}

#[test]
fn bad_51_a_form_cannot_post_and_no_foreign_page_may() {
    let host = Host::new();
    let _switch = Switch::start(&host, &["--no-listen", "--ctlport", "7867", "--ctlanonymous"]);
    let url = "http://127.0.0.1:7867/ctl";
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"etherws.control.listPort","params":{}}"#;
    let post = |headers: &[&str]| {
        let mut how: Vec<&str> = headers.iter().flat_map(|header| ["-H", header]).collect();
        how.push(url);
        curl(&host, &how, body).0
    };
    let json = "Content-Type: application/json";
    assert_eq!(post(&[json]), 200);
    for kind in ["Content-Type: text/plain", "Content-Type: application/x-www-form-urlencoded"] {
        assert!(matches!(post(&[kind]), 403 | 415), "{kind}");
    }
    for origin in ["http://evil.example", "null", "http://127.0.0.1.evil.example:7867", "http://127.0.0.1:1"]
    {
        assert_eq!(post(&[json, &format!("Origin: {origin}")]), 403, "{origin}");
    }
    assert!(matches!(post(&[json, "Host: evil.example"]), 400 | 403), "bad_50: a rebound name");
}

/// A browser adds the login that it remembers to whatever a page makes it send.
#[test]
fn bad_51_a_remembered_login_helps_no_foreign_page() {
    let host = Host::new();
    let htpasswd = host.file("htpasswd", sh(&["htpasswd", "-nbs", "admin", "pw"]));
    let _switch = Switch::start(&host, &["--no-listen", "--ctlport", "7867", "--ctlhtpasswd", &htpasswd]);
    let url = "http://127.0.0.1:7867/ctl";
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"etherws.control.listPort","params":{}}"#;
    // Body and head, for a header that lets other pages read it.
    let answer = |headers: &[&str]| {
        let mut how = vec!["-u", "admin:pw", "-D", "-"];
        how.extend(headers.iter().flat_map(|header| ["-H", header]));
        how.push(url);
        curl(&host, &how, body)
    };
    let json = "Content-Type: application/json";
    assert_eq!(answer(&[json]).0, 200);
    for (headers, refused) in [
        (&["Content-Type: text/plain"][..], 415),
        (&["Content-Type: application/x-www-form-urlencoded"], 415),
        (&["Content-Type: multipart/form-data; boundary=x"], 415),
        (&[json, "Origin: http://evil.example"], 403),
        (&[json, "Origin: null"], 403),
        (&[json, "Sec-Fetch-Site: cross-site"], 403),
    ] {
        let (status, text) = answer(headers);
        assert_eq!(status, refused, "{headers:?}: {text}");
        assert!(!text.to_lowercase().contains("access-control-"), "{headers:?}: {text}");
    }
}

#[test]
fn bad_57_files_named_in_a_request_are_not_echoed() {
    let host = Host::new();
    let switch = Switch::start(&host, &["--no-listen"]);
    let client = Client::unix(&host, &switch);
    let secret = host.file("shadow", "root:$6$verysecret:1:2:3\n");
    let params = json!({"type": "client", "target": "wss://127.0.0.1:1/", "options": {"cacerts": secret}});
    let body = json!({"jsonrpc": "2.0", "id": 7, "method": "etherws.control.addPort", "params": params});
    let (_, answer) = client.send(&body.to_string());
    assert!(!answer.to_string().contains("verysecret"), "{answer}");
    assert!(!switch.ctl_ok(&["--json", "listport"]).contains("verysecret"));
    assert!(!switch.process.log().contains("verysecret"));
}
