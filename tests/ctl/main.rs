//! etherctl against a server that records what it is asked and gives canned answers: the requests are
//! 1.3's to the letter, the answers of a 1.3 server are understood, and errors say what to do.

mod tcp;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use serde_json::{Value, json};

/// A directory that goes away.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("etherctl-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir(&dir).unwrap();
        Self(dir)
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.join(name);
        std::fs::write(&path, text).unwrap();
        path.into_os_string().into_string().unwrap()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What came: request line, headers in lower case, body.
struct Asked {
    line: String,
    headers: Vec<String>,
    body: String,
}

impl Asked {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|header| header.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// Reads one request, answers it.
fn answer(stream: impl Read + Write, status: &str, body: &str) -> Asked {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    let mut headers = Vec::new();
    loop {
        let mut header = String::new();
        stream.read_line(&mut header).unwrap();
        match header.trim_end().split_once(": ") {
            Some((name, value)) => headers.push(format!("{}: {value}", name.to_lowercase())),
            None => break,
        }
    }
    let mut asked = Asked { line: line.trim_end().to_owned(), headers, body: String::new() };
    let length = asked.header("content-length").map_or(0, |length| length.parse().unwrap());
    stream.by_ref().take(length).read_to_string(&mut asked.body).unwrap();
    let reply =
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    stream.get_mut().write_all(reply.as_bytes()).unwrap();
    stream.get_mut().flush().unwrap();
    asked
}

struct Ran {
    code: i32,
    out: String,
    err: String,
}

fn etherctl(args: &[&str]) -> Ran {
    run(Command::new(env!("CARGO_BIN_EXE_etherctl")).args(args))
}

fn run(command: &mut Command) -> Ran {
    let output = command.env_remove("ETHERWS_CTLURL").stdin(Stdio::null()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

/// Runs etherctl against a Unix socket whose server answers once.
fn on_socket(args: &[&str], status: &str, body: &str) -> (Asked, Ran) {
    let dir = Dir::new();
    let path = dir.join("ctl.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let url = format!("unix:{}", path.display());
    thread::scope(|scope| {
        let server = scope.spawn(|| answer(listener.accept().unwrap().0, status, body));
        let ran = etherctl(&[&["--ctlurl", &url], args].concat());
        // Had it asked nothing, accept would wait for ever.
        assert!(ran.code != 2, "usage: {}", ran.err);
        let _ = std::os::unix::net::UnixStream::connect(&path);
        (server.join().unwrap(), ran)
    })
}

fn result(result: Value) -> String {
    json!({"jsonrpc": "2.0", "id": 0, "result": result}).to_string()
}

fn old_port() -> Value {
    json!({"port": 1, "type": "tap", "target": "tap0", "tx": 22, "rx": 333, "shut": false})
}

#[test]
fn each_command_asks_exactly_this() {
    let dir = Dir::new();
    let pem = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";
    let ca = dir.write("ca.pem", pem);
    let key = dir.write("key.pem", "-----BEGIN PRIVATE KEY-----\nAA==\n");
    let cwd = std::env::current_dir().unwrap();
    let file = cwd.join("secret").into_os_string().into_string().unwrap();
    let ports = json!({"entries": [old_port()]});
    let fdb = json!({"entries": [{"vid": 0, "mac": "02:00:00:00:00:01", "port": 1, "age": 3}]});
    let interfaces = json!({"entries": [{"port": 1, "type": "tap", "target": "tap0", "address": "", "netmask": "", "mtu": 1500}]});
    let client = format!(
        "addport client wss://h/ --user u --passwd p --cacerts {ca} --cert {ca} --key {key} --proxy none --ping 5"
    );
    let table = [
        ("listport", "listPort", Value::Null, &ports),
        ("addport tap tap0", "addPort", json!({"type": "tap", "target": "tap0"}), &ports),
        (
            "addport tap tap0 --name a --shut --access 10 --isolated --bpdu forward --persist --bridge br0 --address 192.0.2.1/24 --address 2001:db8::1/64 --mtu 9000 --mac 02:00:00:00:00:01",
            "addPort",
            json!({"type": "tap", "target": "tap0", "name": "a", "shut": true, "access": 10, "isolated": true,
                "bpdu": "forward", "persist": true, "bridge": "br0", "address": ["192.0.2.1/24", "2001:db8::1/64"], "mtu": 9000,
                "mac": "02:00:00:00:00:01"}),
            &ports,
        ),
        (
            "addport netdev eth0 --trunk 10,20-29 --native 10",
            "addPort",
            json!({"type": "netdev", "target": "eth0", "trunk": "10,20-29", "native": 10}),
            &ports,
        ),
        (
            client.as_str(),
            "addPort",
            json!({"type": "client", "target": "wss://h/", "options": {"user": "u", "passwd": "p", "cacerts": pem,
                "cert": pem, "key": "-----BEGIN PRIVATE KEY-----\nAA==\n", "proxy": "none", "ping": 5}}),
            &ports,
        ),
        (
            "addport tap tap0 --no-offload",
            "addPort",
            json!({"type": "tap", "target": "tap0", "offload": false}),
            &ports,
        ),
        (
            "addport client ws://h/ --no-offload",
            "addPort",
            json!({"type": "client", "target": "ws://h/", "offload": false}),
            &ports,
        ),
        (
            "addport client wss://h/ --user u --passwd-file credential:far",
            "addPort",
            json!({"type": "client", "target": "wss://h/", "options": {"user": "u", "passwd_file": "credential:far"}}),
            &ports,
        ),
        (
            "addport client ws://h/ --congestion bbr --pace 8000000",
            "addPort",
            json!({"type": "client", "target": "ws://h/", "congestion": "bbr", "pace": 8_000_000}),
            &ports,
        ),
        (
            "setport far --congestion default",
            "setPort",
            json!({"port": "far", "congestion": "default"}),
            &ports,
        ),
        (
            "addport client wss://h/ --user u --passwd-file secret --insecure",
            "addPort",
            json!({"type": "client", "target": "wss://h/", "options": {"user": "u", "passwd_file": file, "insecure": true}}),
            &ports,
        ),
        (
            "addport client ws://h/ --token t",
            "addPort",
            json!({"type": "client", "target": "ws://h/", "options": {"token": "t"}}),
            &ports,
        ),
        ("setport 1 --shut 1", "setPort", json!({"port": 1, "shut": true}), &ports),
        ("setport 1 --shut 0", "setPort", json!({"port": 1, "shut": false}), &ports),
        (
            "setport a --transparent --isolated 0",
            "setPort",
            json!({"port": "a", "transparent": true, "isolated": false}),
            &ports,
        ),
        (
            "setport 1 --name b --access 5 --bpdu drop",
            "setPort",
            json!({"port": 1, "name": "b", "access": 5, "bpdu": "drop"}),
            &ports,
        ),
        ("delport 1", "delPort", json!({"port": 1}), &ports),
        (
            "setif 1 --address 192.0.2.1 --netmask 255.255.255.0 --mtu 1400",
            "setInterface",
            json!({"port": 1, "address": "192.0.2.1", "netmask": "255.255.255.0", "mtu": 1400}),
            &interfaces,
        ),
        (
            "setif 1 --address 192.0.2.1/25",
            "setInterface",
            json!({"port": 1, "address": "192.0.2.1", "netmask": "255.255.255.128"}),
            &interfaces,
        ),
        (
            "setif 1 --address 192.0.2.1/25 --address 2001:db8::1/64 --mac 02:00:00:00:00:01",
            "setInterface",
            json!({"port": 1, "address": ["192.0.2.1/25", "2001:db8::1/64"], "mac": "02:00:00:00:00:01"}),
            &interfaces,
        ),
        ("listif", "listInterface", Value::Null, &interfaces),
        ("listfdb", "listFdb", Value::Null, &fdb),
        (
            "addfdb 02:00:00:00:00:01 a",
            "addFdb",
            json!({"vid": 0, "mac": "02:00:00:00:00:01", "port": "a"}),
            &fdb,
        ),
        ("delfdb 02-00-00-00-00-01 --vid 7", "delFdb", json!({"vid": 7, "mac": "02:00:00:00:00:01"}), &fdb),
        ("flushfdb", "flushFdb", json!({}), &json!({"flushed": 1})),
        ("flushfdb 2", "flushFdb", json!({"port": 2}), &json!({"flushed": 0})),
        ("counters", "listCounters", Value::Null, &json!({"entries": []})),
        ("saveconf", "saveConfig", json!({}), &json!({"file": "/x"})),
        ("saveconf /x", "saveConfig", json!({"file": "/x"}), &json!({"file": "/x"})),
        ("reload", "reloadConfig", Value::Null, &json!({"changes": []})),
        ("version", "getVersion", Value::Null, &json!({"version": "2.0.0", "name": "etherws"})),
    ];
    for (line, method, params, reply) in table {
        let words: Vec<&str> = line.split(' ').collect();
        let (asked, ran) = on_socket(&words, "200 OK", &result(reply.clone()));
        let mut expected = json!({"jsonrpc": "2.0", "id": 0, "method": format!("etherws.control.{method}")});
        if !params.is_null() {
            expected["params"] = params;
        }
        assert_eq!(asked.json(), expected, "{line}");
        assert_eq!(asked.line, "POST /ctl HTTP/1.1");
        assert_eq!(asked.header("content-type"), Some("application/json"));
        assert_eq!(asked.header("host"), Some("localhost"));
        assert_eq!(asked.header("authorization"), None);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{line}");
        assert!(!ran.out.is_empty(), "{line}");
    }
}

#[test]
fn what_a_1_3_server_lists_looks_as_in_1_3() {
    let mut shut = old_port();
    shut["port"] = json!(10);
    shut["type"] = json!("client");
    shut["target"] = json!("ws://h/");
    shut["shut"] = json!(true);
    let entries = json!({"entries": [old_port(), shut]});
    let (_, ran) = on_socket(&["listport"], "200 OK", &result(entries));
    assert_eq!(
        ran.out,
        "  Port  Type    State  RX   TX  Target\n  1     tap     up     333  22  tap0\n  10    client  shut   333  22  ws://h/\n"
    );
    let entries = json!({"entries": [
        {"port": 1, "type": "tap", "target": "tap0", "address": "192.0.2.1", "netmask": "255.255.255.0", "mtu": 1500},
        {"port": 2, "type": "tap", "target": "tap1", "address": "", "netmask": "", "mtu": 1500},
    ]});
    let (_, ran) = on_socket(&["listif"], "200 OK", &result(entries));
    assert_eq!(
        ran.out,
        "  Port  Type  Address    Netmask        MTU   Target\n  1     tap   192.0.2.1  255.255.255.0  1500  tap0\n  2     tap                             1500  tap1\n"
    );
    let entries = json!({"entries": [
        {"vid": 0, "mac": "02:00:00:00:00:01", "port": 1, "age": 3},
        {"vid": 7, "mac": "02:00:00:00:00:02", "port": 2, "age": 300},
    ]});
    let (_, ran) = on_socket(&["listfdb"], "200 OK", &result(entries.clone()));
    assert_eq!(
        ran.out,
        "  Port  VLAN  MAC                Age\n  1     0     02:00:00:00:00:01  3\n  2     7     02:00:00:00:00:02  300\n"
    );
    let (_, ran) = on_socket(&["listfdb", "--port", "2", "--json"], "200 OK", &result(entries));
    let shown: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(shown, json!({"entries": [{"vid": 7, "mac": "02:00:00:00:00:02", "port": 2, "age": 300}]}));
}

#[test]
fn our_columns_stand_to_the_right() {
    let entries = json!({"entries": [
        {"port": 1, "type": "tap", "target": "tap0", "tx": 0, "rx": 0, "shut": false, "name": "lan", "tx_bytes": 0,
         "rx_bytes": 0, "drops": 0, "state": "up", "vlan": "access 10", "isolated": true, "connects": 0},
        {"port": 2, "type": "client", "target": "ws://h/", "tx": 0, "rx": 0, "shut": false, "name": "wan", "tx_bytes": 0,
         "rx_bytes": 0, "drops": 4, "state": "waiting", "reason": "refused\u{1b}[2J", "vlan": "transparent"},
    ]});
    let (_, ran) = on_socket(&["listport"], "200 OK", &result(entries));
    assert_eq!(
        ran.out,
        "  Port  Type    State    RX  TX  Target   Name  VLAN                Drops  Reason\n\
         \x20 1     tap     up       0   0   tap0     lan   access 10 isolated  -      -\n\
         \x20 2     client  waiting  0   0   ws://h/  wan   transparent         4      refused\\u{1b}[2J\n"
    );
    let link = |port, offload: Value| {
        json!({"port": port, "type": "server", "target": "h:1", "tx": 0, "rx": 0, "shut": false, "name": "far",
               "state": "up", "vlan": "transparent", "tls": "TLSv1.3 X", "offload": offload, "drops": port})
    };
    let entries = json!({"entries": [link(1, json!("vnet1")), link(2, Value::Null)]});
    let (_, ran) = on_socket(&["listport"], "200 OK", &result(entries));
    assert_eq!(
        ran.out,
        "  Port  Type    State  RX  TX  Target  Name  VLAN         TLS        Offload  Drops\n\
         \x20 1     server  up     0   0   h:1     far   transparent  TLSv1.3 X  vnet1    1\n\
         \x20 2     server  up     0   0   h:1     far   transparent  TLSv1.3 X  -        2\n"
    );
    let entries = json!({"entries": [
        {"port": 0, "name": "switch", "rx": 0, "rx_bytes": 0, "tx": 0, "tx_bytes": 0, "drops": {}},
        {"port": 1, "name": "lan", "rx": 2, "rx_bytes": 120, "tx": 0, "tx_bytes": 0, "drops": {"runt": 3}},
    ]});
    let (_, ran) = on_socket(&["counters"], "200 OK", &result(entries.clone()));
    assert_eq!(
        ran.out,
        "  Port  Name  Count  Counter\n  1     lan   2      rx\n  1     lan   120    rx_bytes\n  1     lan   3      drop runt\n"
    );
    let (_, ran) = on_socket(&["counters", "lan"], "200 OK", &result(entries.clone()));
    assert!(ran.out.contains("drop runt"), "{}", ran.out);
    let (_, ran) = on_socket(&["counters", "9"], "200 OK", &result(entries));
    assert_eq!((ran.code, ran.err.as_str()), (1, "etherctl: no port 9; listport names them\n"));
}

#[test]
fn groups_are_listed_with_who_gets_everything_and_how_many_are_left_out() {
    let port = |port, name| json!([{"port": port, "name": name, "expires": 9}]);
    let mut status = json!({
        "snoops": true, "groups": [{"vlan": 7, "group": "239.1.2.3", "ports": port(1, "a")}], "routers": [],
        "queriers": [{"vlan": 7, "family": "ipv4", "filters": true}], "full": [],
    });
    let group = "  VLAN  Group      Expires  Ports\n  7     239.1.2.3  9        1 (a)\n";
    let querier = "ipv4 in VLAN 7 is asked for by this switch\n";
    let (_, ran) = on_socket(&["listgroups"], "200 OK", &result(status.clone()));
    assert_eq!(ran.out, format!("{group}{querier}"));
    (status["settling"], status["left_out"]) = (port(2, "b"), json!(1_024));
    let (_, ran) = on_socket(&["listgroups"], "200 OK", &result(status));
    let lines: Vec<_> = ran.out.lines().collect();
    assert_eq!(lines[2], "  -     not yet asked for long enough  9        2 (b)");
    assert_eq!(lines[4], "and 1024 more ports, which are left out");
}

#[test]
fn refusals_are_told_and_exit_1() {
    let error = |error: Value| json!({"jsonrpc": "2.0", "id": 0, "error": error}).to_string();
    let table = [
        (
            "200 OK",
            error(json!({"code": -32602, "message": "Invalid params", "data": "port: no port 9"})),
            "etherctl: Invalid params: port: no port 9 (-32602)\n",
        ),
        (
            "200 OK",
            error(json!({"code": -32000, "message": "busy", "data": "busy"})),
            "etherctl: busy (-32000)\n",
        ),
        ("200 OK", error(json!({"code": -1, "message": "a\u{1b}b"})), "etherctl: a\\u{1b}b (-1)\n"),
    ];
    for (status, body, expected) in table {
        let (_, ran) = on_socket(&["delport", "9"], status, &body);
        assert_eq!((ran.code, ran.err.as_str(), ran.out.as_str()), (1, expected, ""));
    }
    // A switch of before there was such a method.
    let body = error(json!({"code": -32601, "message": "Method not found"}));
    let (_, ran) = on_socket(&["liststations"], "200 OK", &body);
    assert!(ran.err.ends_with(" is too old for that: it has no listStations\n"), "{}", ran.err);
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    for (status, body, words) in [
        ("404 Not Found", "nothing here\nat all", &["404 Not Found: nothing here", "is the path right?"][..]),
        ("403 Forbidden", "foreign Host", &["403 Forbidden: foreign Host"]),
        ("200 OK", "<html>", &["unexpected answer", "200 OK"]),
        ("200 OK", "{}", &["unexpected answer"]),
        ("200 OK", r#"{"result":{"entries":[{"port":"x"}]}}"#, &["unexpected result", "entries[0].port"]),
        (
            "401 Unauthorized",
            "log in, or start it with --ctlanonymous",
            &["--ctluser", "--ctlpasswd", "it says: log in"],
        ),
        ("302 Found", "", &["302 Found"]),
    ] {
        let (_, ran) = on_socket(&["listport"], status, body);
        assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{status}");
        for word in words {
            assert!(ran.err.contains(word), "{word} is not in {}", ran.err);
        }
    }
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let dir = Dir::new();
    let url = format!("unix:{}/none.sock", dir.0.display());
    let ran = etherctl(&["listport", "--ctlurl", &url]);
    let expected = format!(
        "etherctl: could not reach {url}: no such file or directory; is `etherws sw` running? (--ctlurl names another)\n"
    );
    assert_eq!((ran.code, ran.err), (1, expected));
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let ran = etherctl(&["listport", "--ctlurl", &format!("http://{free}/ctl")]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.err.contains(&format!("http://{free}/ctl: connection refused; is `etherws sw` running?")),
        "{}",
        ran.err
    );
}

#[test]
fn wrong_usage_asks_nobody_and_exits_2() {
    for line in
        ["", "listports", "setport 1 --shut 2", "setif 1 --mtu 575", "addport client ws://h --passwd x"]
    {
        let words: Vec<&str> = line.split(' ').filter(|word| !word.is_empty()).collect();
        let ran = etherctl(&words);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{line}: {}", ran.err);
    }
    // Told before anyone is asked, too: what makes no sense in itself, and files and passwords that are missing.
    let dir = Dir::new();
    let plain = dir.write("plain", "root:x:0:0");
    for (words, why, code) in [
        (&["addport", "tap", "../x"][..], "target: ", 2),
        (&["addport", "tap", "abcdefghijklmnop"], "15 bytes", 2),
        (&["addport", "client", "http://h"], "target: ", 2),
        (&["addport", "client", "ws://h", "--user", "u"], "--passwd-file", 1),
        (&["addport", "client", "wss://h", "--cacerts", &plain], "no PEM in it", 1),
        (&["addport", "client", "wss://h", "--cacerts", "/nonexistent"], "no such file", 1),
        (&["setif", "1", "--address", "192.0.2.1", "--netmask", "255.0.255.0"], "netmask: ", 2),
        (&["listport", "--ctluser", "u"], "--ctlpasswd", 1),
        (&["listport", "--ctlpasswd", "p"], "--ctluser", 2),
    ] {
        let ran = etherctl(words);
        assert_eq!((ran.code, ran.out.as_str()), (code, ""), "{words:?}");
        assert!(ran.err.contains(why) && !ran.err.contains("could not reach"), "{words:?}: {}", ran.err);
    }
}

#[test]
fn the_page_and_completions_are_made() {
    let dir = Dir::new();
    // As on a fresh machine, whose /usr/local/share/man has nothing in it.
    let ran = etherctl(&["man", dir.join("man/man1").to_str().unwrap()]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(Path::new(&dir.join("man/man1/etherctl.1")).exists());
    assert!(etherctl(&["completions", "bash"]).out.contains("etherctl"));
    let ran = etherctl(&["man", "/dev/null"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("/dev/null/etherctl.1"), "{}", ran.err);
}
