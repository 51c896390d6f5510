//! A switch under test: the built `etherws sw` in a host, driven by the built `etherctl` or by raw
//! JSON-RPC on its Unix socket.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Host, Link, Process, SOON, join, said, wait_until};

pub const ETHERWS: &str = env!("CARGO_BIN_EXE_etherws");
pub const ETHERCTL: &str = env!("CARGO_BIN_EXE_etherctl");

pub struct Switch<'h> {
    host: &'h Host,
    pub process: Process,
    sock: PathBuf,
    args: Vec<String>,
}

impl<'h> Switch<'h> {
    /// Starts `etherws sw ARGS` with a control socket of its own, and waits until that answers. One
    /// switch per host; its service listens on port 80 unless the arguments say otherwise.
    pub fn start(host: &'h Host, args: &[&str]) -> Self {
        Self::start_with_env(host, args, &[])
    }

    pub fn start_with_env(host: &'h Host, args: &[&str], env: &[(&str, &str)]) -> Self {
        let sock = host.dir().join("ctl.sock");
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        let process = launch(host, &sock, &[], &args, env);
        let mut switch = Self { host, process, sock, args };
        switch.wait_ready();
        switch
    }

    /// The same, the switch being run by another command (which becomes it).
    pub fn start_by(host: &'h Host, by: &[&str], args: &[&str]) -> Self {
        let sock = host.dir().join("ctl.sock");
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        let process = launch(host, &sock, by, &args, &[]);
        let mut switch = Self { host, process, sock, args };
        switch.wait_ready();
        switch
    }

    /// SIGKILL, then the same command line again.
    pub fn kill_and_restart(&mut self) {
        self.process.kill();
        self.process = launch(self.host, &self.sock, &[], &self.args, &[]);
        self.wait_ready();
    }

    fn wait_ready(&mut self) {
        let (process, sock) = (&mut self.process, &self.sock);
        wait_until("the control socket answers", SOON, || {
            assert!(process.is_running(), "etherws ended at start:\n{}", process.log());
            call(sock, "etherws.control.getVersion", json!({})).is_ok()
        });
    }

    pub fn url(&self) -> String {
        format!("unix:{}", self.sock.display())
    }

    pub fn sock(&self) -> &std::path::Path {
        &self.sock
    }

    /// `etherctl ARGS` for this switch.
    pub fn ctl(&self, args: &[&str]) -> Output {
        let url = self.url();
        let mut all = vec![ETHERCTL, "--ctlurl", &url];
        all.extend(args);
        self.host.run_for(30, &all)
    }

    /// `etherctl ARGS`, which must succeed; its output.
    #[track_caller]
    pub fn ctl_ok(&self, args: &[&str]) -> String {
        let output = self.ctl(args);
        assert!(output.status.success(), "etherctl {args:?}: {}", said(&output));
        String::from_utf8(output.stdout).expect("UTF-8 output")
    }

    /// `etherctl --json ARGS`, parsed.
    #[track_caller]
    pub fn ctl_json(&self, args: &[&str]) -> Value {
        let mut all = vec!["--json"];
        all.extend(args);
        let text = self.ctl_ok(&all);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("etherctl {all:?}: {error}: {text}"))
    }

    /// `etherctl ARGS`, which must fail with `code`; its standard error.
    #[track_caller]
    pub fn ctl_err(&self, code: i32, args: &[&str]) -> String {
        let output = self.ctl(args);
        assert_eq!(output.status.code(), Some(code), "etherctl {args:?}: {}", said(&output));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// A JSON-RPC call in namespace `etherws.control.`; the result, or the error object.
    pub fn rpc(&self, method: &str, params: Value) -> Result<Value, Value> {
        let answer = call(&self.sock, &format!("etherws.control.{method}"), params)
            .unwrap_or_else(|error| panic!("{method}: {error}\n{}", self.process.log()));
        match answer.get("error") {
            Some(error) => Err(error.clone()),
            None => Ok(answer["result"].clone()),
        }
    }

    #[track_caller]
    pub fn rpc_ok(&self, method: &str, params: Value) -> Value {
        self.rpc(method, params).unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// The entries of a list method.
    #[track_caller]
    pub fn entries(&self, method: &str) -> Vec<Value> {
        self.rpc_ok(method, json!({}))["entries"].as_array().expect("entries").clone()
    }

    /// The `listPort` entry of a port's name or number, when there is one.
    pub fn find(&self, port: &str) -> Option<Value> {
        let number = port.parse::<u64>().ok();
        let is =
            |entry: &Value| entry["name"] == port || number.is_some() && entry["port"].as_u64() == number;
        self.entries("listPort").into_iter().find(is)
    }

    #[track_caller]
    pub fn port(&self, port: &str) -> Value {
        self.find(port).unwrap_or_else(|| panic!("no port {port} in {:?}", self.entries("listPort")))
    }

    pub fn state(&self, port: &str) -> String {
        self.find(port).and_then(|entry| entry["state"].as_str().map(str::to_owned)).unwrap_or_default()
    }

    #[track_caller]
    pub fn wait_state(&self, port: &str, state: &str) {
        self.wait_state_for(port, state, SOON);
    }

    #[track_caller]
    pub fn wait_state_for(&self, port: &str, state: &str, limit: Duration) {
        let what = format!("port {port} of {} is {state}; it is {:?}", self.host.name(), self.find(port));
        wait_until(&what, limit, || self.state(port) == state);
    }

    /// Waits until the port is not up and its reason contains `words`, in any case of letters.
    #[track_caller]
    pub fn wait_reason(&self, port: &str, words: &[&str]) -> String {
        let mut reason = String::new();
        let end = std::time::Instant::now() + SOON;
        loop {
            let entry = self.port(port);
            reason = entry["reason"].as_str().map_or(reason, str::to_lowercase);
            if entry["state"] != "up" && words.iter().any(|word| reason.contains(word)) {
                return reason;
            }
            assert!(
                std::time::Instant::now() < end,
                "no reason with one of {words:?}: {entry}; last {reason:?}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Adds a client port that must come up, looks at it, and deletes it.
    #[track_caller]
    pub fn dials(&self, url: &str, options: &[&str]) -> Value {
        self.add_client(url, options);
        self.wait_state("try", "up");
        let entry = self.port("try");
        self.ctl_ok(&["delport", "try"]);
        entry
    }

    /// Adds a client port that must fail for one of these reasons, and deletes it.
    #[track_caller]
    pub fn dials_in_vain(&self, url: &str, options: &[&str], words: &[&str]) -> String {
        self.add_client(url, options);
        let reason = self.wait_reason("try", words);
        assert_eq!(self.port("try")["connects"], 0, "{reason}");
        self.ctl_ok(&["delport", "try"]);
        reason
    }

    fn add_client(&self, url: &str, options: &[&str]) {
        let mut args = vec!["addport", "client", url, "--name", "try"];
        args.extend(options);
        self.ctl_ok(&args);
    }

    /// The first port made of an incoming link, once there is one.
    #[track_caller]
    pub fn wait_server_port(&self) -> Value {
        let mut found = None;
        wait_until("an incoming link has become a port", SOON, || {
            found = self.entries("listPort").into_iter().find(|entry| entry["type"] == "server");
            found.is_some()
        });
        found.expect("found")
    }

    /// Sum of all ports' drops for `reason`, the switch's own (port 0) included.
    pub fn drops(&self, reason: &str) -> u64 {
        self.entries("listCounters").iter().filter_map(|entry| entry["drops"][reason].as_u64()).sum()
    }

    /// All drops by reason and port, for messages.
    pub fn all_drops(&self) -> String {
        let entries = self.entries("listCounters");
        entries.iter().map(|entry| format!("{} {}; ", entry["name"], entry["drops"])).collect()
    }

    /// The FDB as (vid, mac, port name).
    pub fn fdb(&self) -> Vec<(u64, String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let entry = |e: Value| (e["vid"].as_u64().unwrap_or(9999), text(&e["mac"]), text(&e["name"]));
        self.entries("listFdb").into_iter().map(entry).collect()
    }
}

fn launch(
    host: &Host,
    sock: &std::path::Path,
    by: &[&str],
    args: &[String],
    env: &[(&str, &str)],
) -> Process {
    let sock = sock.to_str().expect("UTF-8 path");
    let mut all = [by, &[ETHERWS, "sw", "--foreground", "--ctlsock", sock]].concat();
    all.extend(args.iter().map(String::as_str));
    // Whatever users this machine has: the lab's folders are root's.
    if !args.iter().any(|arg| arg == "--user" || arg == "--no-sandbox")
        && by.is_empty()
        && nix::unistd::geteuid().is_root()
    {
        all.extend(["--user", "root"]);
    }
    let mut command = host.command(&all);
    command.envs(env.iter().copied()).env("STATE_DIRECTORY", host.dir());
    if std::env::var_os("RUST_LOG").is_none() {
        command.env("RUST_LOG", "etherws=debug");
    }
    host.spawn_command("etherws", command)
}

/// One JSON-RPC call by hand, HTTP/1.1 on the Unix socket: the whole answer object.
pub fn call(sock: &std::path::Path, method: &str, params: Value) -> Result<Value, String> {
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
    let (status, text) = post(sock, "application/json", &body)?;
    serde_json::from_str(&text).map_err(|error| format!("HTTP {status}: {error}: {text:?}"))
}

/// POST /ctl on the Unix socket: HTTP status and body.
pub fn post(sock: &std::path::Path, content_type: &str, body: &str) -> Result<(u16, String), String> {
    let text = |error: std::io::Error| format!("{}: {error}", sock.display());
    let mut stream = UnixStream::connect(sock).map_err(text)?;
    stream.set_read_timeout(Some(SOON)).map_err(text)?;
    let head = format!(
        "POST /ctl HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).map_err(text)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(text)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| format!("no HTTP: {answer:?}"))?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or("no HTTP status")?;
    Ok((status, body.to_owned()))
}

/// Two joined hosts. [`pair`] starts the story's two switches in them.
pub struct TwoHosts {
    pub a: Host,
    pub b: Host,
    pub link: Link,
}

impl TwoHosts {
    pub fn new() -> Self {
        let (a, b) = (Host::new(), Host::new());
        let link = join(&a, &b);
        Self { a, b, link }
    }
}

/// The two commands' outcome: B listens, A dials it (port `link`), each has TAP `t0` with 10.1.0.1 or
/// 10.1.0.2 /24.
pub struct Pair<'h> {
    pub a: Switch<'h>,
    pub b: Switch<'h>,
}

pub fn pair<'h>(hosts: &'h TwoHosts) -> Pair<'h> {
    let pair = Pair { a: Switch::start(&hosts.a, &["--no-listen"]), b: Switch::start(&hosts.b, &[]) };
    pair.a.ctl_ok(&["addport", "tap", "t0", "--address", "10.1.0.1/24"]);
    pair.b.ctl_ok(&["addport", "tap", "t0", "--address", "10.1.0.2/24"]);
    pair.a.ctl_ok(&["addport", "client", &format!("ws://{}/", hosts.link.b), "--name", "link"]);
    pair.a.wait_state("link", "up");
    pair.b.wait_server_port();
    pair
}
