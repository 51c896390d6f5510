//! What strangers may take: connections, time, tries, calls. Each refusal is counted by name, and whoever keeps
//! within the limits notices nothing of the others.

mod lab;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::{SinkExt, StreamExt};
use lab::switch::{ETHERWS, TwoHosts, post};
use lab::ws::UPGRADE;
use lab::{Host, SOON, Switch, sh, wait_until, ws};

/// B with this configuration, and with a second cable's worth of addresses: whoever dials `near` comes from another
/// address than who dials `far`.
struct Place<'h> {
    hosts: &'h TwoHosts,
    switch: Switch<'h>,
    config: String,
    near: String,
    far: String,
}

impl<'h> Place<'h> {
    fn new(hosts: &'h TwoHosts, config: &str) -> Self {
        hosts.a.ok(&["ip", "addr", "add", "198.51.100.1/24", "dev", &hosts.link.device]);
        hosts.b.ok(&["ip", "addr", "add", "198.51.100.2/24", "dev", &hosts.link.device]);
        let config = hosts.b.file("etherws.toml", config);
        let switch = Switch::start(&hosts.b, &["--config", &config]);
        Self {
            hosts,
            switch,
            config,
            near: format!("{}:80", hosts.link.b),
            far: "198.51.100.2:80".to_owned(),
        }
    }

    /// A link, if the door lets it in.
    fn link(&self, addr: &str, headers: &str) -> Option<ws::RawWs> {
        let (answer, ws) = ws::get(&self.hosts.a, addr, "/", &format!("{UPGRADE}{headers}"));
        (answer.status == 101).then_some(ws)
    }

    fn status(&self, addr: &str, headers: &str) -> u16 {
        ws::get(&self.hosts.a, addr, "/", &format!("{UPGRADE}{headers}")).0.status
    }

    fn login(&self, addr: &str, user: &str, password: &str) -> u16 {
        self.status(addr, &basic(user, password))
    }

    /// A connection whose request never ends.
    fn slow(&self, addr: &str) -> TcpStream {
        let mut stream = self.hosts.a.connect(addr).expect("connect");
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n");
        stream
    }

    fn counted(&self, event: &str) -> u64 {
        let entries = self.switch.entries("listCounters");
        let whole = entries.iter().find(|entry| entry["port"] == 0);
        whole.and_then(|whole| whole["drops"][event].as_u64()).unwrap_or(0)
    }

    #[track_caller]
    fn wait_counted(&self, event: &str, least: u64) {
        wait_until(&format!("{event} counts {least}"), SOON, || self.counted(event) >= least);
    }
}

fn basic(user: &str, password: &str) -> String {
    format!("Authorization: Basic {}\r\n", STANDARD.encode(format!("{user}:{password}")))
}

/// Whether the other side has closed.
fn is_closed(mut stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).expect("nonblocking");
    match stream.read(&mut [0; 64]) {
        Ok(n) => n == 0,
        Err(e) => e.kind() != std::io::ErrorKind::WouldBlock,
    }
}

#[test]
fn connections_are_limited_in_all_and_from_an_address() {
    let hosts = TwoHosts::new();
    let place = Place::new(&hosts, "[limits]\nconnections = 6\nconnections_per_address = 4\n");
    let mut near: Vec<_> = (0..4).map(|_| place.link(&place.near, "").expect("within the limit")).collect();
    assert_eq!(place.status(&place.near, ""), 0, "a fifth from the same address");
    place.wait_counted("connections-per-address", 1);
    let _far: Vec<_> = (0..2).map(|_| place.link(&place.far, "").expect("another address")).collect();
    assert_eq!(place.status(&place.far, ""), 0, "a seventh in all");
    place.wait_counted("connections", 1);
    assert_eq!(place.switch.entries("listPort").len(), 6, "and control goes on");

    // A link that ends gives its place back.
    near.pop();
    let mut again = None;
    wait_until("the place is free", SOON, || {
        again = place.link(&place.near, "");
        again.is_some()
    });
    // What is counted is shown to people and to Prometheus.
    let table = place.switch.ctl_ok(&["counters"]);
    let line = table.lines().find(|line| line.ends_with("drop connections-per-address"));
    assert!(line.is_some_and(|line| line.split_whitespace().take(2).eq(["0", "switch"])), "{table}");
    let sock = place.switch.sock().to_str().expect("path");
    let metrics = hosts.b.ok(&["curl", "-sS", "--unix-socket", sock, "http://localhost/metrics"]);
    assert!(metrics.contains("etherws_events_total{event=\"connections-per-address\"} "), "{metrics}");
    assert!(metrics.contains("etherws_events_total{event=\"body-size\"} 0\n"), "{metrics}");
}

#[test]
fn a_trusted_proxy_s_clients_are_counted_one_by_one() {
    let hosts = TwoHosts::new();
    let config = "[listen]\ntrusted_proxy = [\"0.0.0.0/0\"]\n[limits]\nconnections_per_address = 2\n";
    let place = Place::new(&hosts, config);
    let open = |client: &str| place.link(&place.near, &format!("X-Forwarded-For: {client}\r\n"));
    // Every address is trusted but those of IPv6.
    let _three: Vec<_> = ["2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"].map(open).into();
    assert!(_three.iter().all(Option::is_some));
    let refused = place.status(&place.near, "X-Forwarded-For: 2001:db8::3\r\n");
    assert_eq!(refused, 429, "the third of a /64");
    assert!(place.counted("connections-per-address") >= 1);
    assert!(open("2001:db8:0:1::2").is_some());
}

#[test]
fn bad_01_four_hundred_slow_headers_keep_nobody_out() {
    let hosts = TwoHosts::new();
    let config = "[limits]\nheader_time = 8\nunauthenticated = 450\nunauthenticated_per_address = 400\n";
    let place = Place::new(&hosts, config);
    let link = place.link(&place.near, "").expect("first");
    let slow: Vec<TcpStream> = (0..400).map(|_| place.slow(&place.near)).collect();
    // Whoever asks at once takes the place of the oldest of them, from the same address or from another.
    assert!(place.link(&place.near, "").is_some(), "from the same address");
    assert!(place.link(&place.far, "").is_some(), "from another address");
    place.wait_counted("unauthenticated-per-address", 1);
    wait_until("all have been closed", SOON, || slow.iter().all(is_closed));
    place.wait_counted("header-time", 300);
    assert!(!is_closed(&link.stream), "a link is not concerned");
    // Both addresses together have more than there is room for: who has most gives way.
    let near: Vec<TcpStream> = (0..400).map(|_| place.slow(&place.near)).collect();
    let far: Vec<TcpStream> = (0..60).map(|_| place.slow(&place.far)).collect();
    place.wait_counted("unauthenticated", 10);
    assert!(
        far.iter().filter(|stream| is_closed(stream)).count() <= near.iter().filter(|s| is_closed(s)).count()
    );
}

#[test]
fn a_reload_changes_the_limits_and_ends_no_link() {
    let hosts = TwoHosts::new();
    let place = Place::new(&hosts, "[limits]\nconnections_per_address = 2\n");
    let two = [(); 2].map(|()| place.link(&place.near, "").expect("link"));
    assert_eq!(place.status(&place.near, ""), 0);
    std::fs::write(&place.config, "[limits]\nconnections_per_address = 3\nrpc_batch = 7\n").expect("write");
    let said = place.switch.ctl_ok(&["reload"]);
    assert_eq!(said, "limits\nlimits of calls: take effect at the next start\n");
    let third = place.link(&place.near, "").expect("the third");
    std::fs::write(&place.config, "[limits]\nconnections_per_address = 1\n").expect("write");
    place.switch.ctl_ok(&["reload"]);
    assert_eq!(place.status(&place.near, ""), 0);
    assert!(two.iter().chain([&third]).all(|link| !is_closed(&link.stream)), "those that are there stay");
    let saved = hosts.b.dir().join("saved.toml").display().to_string();
    place.switch.ctl_ok(&["saveconf", &saved]);
    let saved = std::fs::read_to_string(saved).expect("saved");
    assert!(saved.contains("[limits]\nconnections_per_address = 1\n"), "{saved}");
}

#[test]
fn failures_are_limited_and_who_was_let_in_passes() {
    let hosts = TwoHosts::new();
    let htpasswd = hosts.b.file("htpasswd", sh(&["htpasswd", "-nbs", "joe", "pw"]));
    let config = format!("[listen]\nhtpasswd = \"{htpasswd}\"\n[limits]\nfailed_logins = 5\n");
    let place = Place::new(&hosts, &config);
    assert_eq!(place.login(&place.near, "joe", "pw"), 101);
    let tries: Vec<u16> = (0..8).map(|_| place.login(&place.near, "joe", "guess")).collect();
    assert_eq!(tries[..5], [401; 5], "{tries:?}");
    // A fifth of a minute pays one of them back.
    assert!(tries[5..].contains(&429), "{tries:?}");
    assert!(place.counted("login-failed") >= 5 && place.counted("login-rate") >= 1);
    for _ in 0..20 {
        assert_eq!(place.login(&place.near, "joe", "pw"), 101, "he logged in a moment ago");
    }
    assert_eq!(place.login(&place.far, "joe", "guess"), 401, "another address has its own share");
    // Asking without credentials is how browsers begin; it is no guess.
    for _ in 0..20 {
        assert_eq!(place.status(&place.far, ""), 401);
    }
    assert_eq!(place.login(&place.far, "joe", "guess"), 401);
}

/// Eight switches behind one address dial again when theirs is back. None of them fails.
#[test]
fn who_is_still_being_checked_has_not_failed() {
    let hosts = TwoHosts::new();
    let line = |n| sh(&["htpasswd", "-nbB", "-C", "8", &format!("user{n}"), "pw"]);
    let htpasswd = hosts.b.file("htpasswd", (0..8).map(line).collect::<String>());
    let config = format!("[listen]\nhtpasswd = \"{htpasswd}\"\n[limits]\nfailed_logins = 3\n");
    let place = Place::new(&hosts, &config);
    let all = |addr: &str, password: &str| -> Vec<u16> {
        let login = |n| place.login(addr, &format!("user{n}"), password);
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|n| scope.spawn(move || login(n))).collect();
            threads.into_iter().map(|thread| thread.join().expect("an answer")).collect()
        })
    };
    assert_eq!(all(&place.near, "pw"), [101; 8]);
    // Of those that do fail no more are checked than ever, however many come at a time.
    let start = Instant::now();
    let guesses = all(&place.far, "guess");
    let (wrong, late) = guesses.iter().partition::<Vec<u16>, _>(|status| **status == 401);
    let paid_back = start.elapsed().as_secs() as usize / 20 + 1;
    assert!(wrong.len() >= 3 && wrong.len() <= 3 + paid_back, "{guesses:?}");
    assert!(late.iter().all(|status| *status == 429), "{guesses:?}");
}

/// What a thread of the switch has spent.
fn cpu_of(switch: &Switch, thread: &str) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", switch.process.pid())).expect("threads");
    let mut stats = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("stat")).ok());
    let stat = stats.find(|stat| stat.contains(&format!("({thread})"))).expect("the thread");
    // proc_pid_stat(5), fields 14 and 15: hundredths of a second.
    let (_, rest) = stat.rsplit_once(") ").expect("a name");
    let ticks = rest.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("ticks"));
    Duration::from_millis(10 * ticks.sum::<u64>())
}

/// No stopwatch tells an unknown user from a wrong password, nor one kind of hash from another: all wait for the
/// same strokes, and for those that the dearest hash could have reached.
#[test]
fn bad_60_refusals_are_told_on_a_stroke() {
    let hosts = TwoHosts::new();
    let line = |user: &str, how: &str| sh(&["htpasswd", "-nb", how, user, "pw"]);
    let dear = |user: &str| sh(&["htpasswd", "-nbB", "-C", "11", user, "pw"]);
    let lines = [line("cheap", "-s"), dear("dear1"), dear("dear2"), dear("dear3")];
    let file = hosts.b.file("htpasswd", lines.concat());
    let place = Place::new(&hosts, &format!("[listen]\nhtpasswd = \"{file}\"\n"));
    let time = |headers: &str, status| {
        let start = Instant::now();
        assert_eq!(place.status(&place.near, headers), status, "{headers}");
        start.elapsed()
    };
    // The very first refusal, when nothing has been measured by the way, is not told sooner than a dear hash takes, by the
    // clock of the thread that checks: what else the machine does meanwhile only makes it later.
    let first = time(&basic("cheap", "guess"), 401);
    let before = cpu_of(&place.switch, "login");
    _ = ["dear1", "dear2", "dear3"].map(|user| time(&basic(user, "pw"), 101));
    let hash = (cpu_of(&place.switch, "login") - before) / 3;
    assert!(first >= hash, "{first:?}, and {hash:?} to check one");
    let least = hash.max(Duration::from_millis(250));
    for headers in [
        basic("cheap", "guess"),
        basic("dear1", "guess"),
        basic("nobody", "guess"),
        basic("", ""),
        "Authorization: Basic !!!\r\n".to_owned(),
        format!("Authorization: Basic {}\r\n", STANDARD.encode([b"joe:".as_slice(), &[b'x'; 6000]].concat())),
    ] {
        let took = time(&headers, 401);
        assert!(took >= least, "{took:?}: {headers:.60}");
    }
}

#[test]
fn calls_are_limited() {
    let host = Host::new();
    let config = host.file(
        "etherws.toml",
        "[listen]\nenabled = false\n[limits]\nrpc_body = 2048\nrpc_batch = 3\nrpc_subscriptions = 2\n",
    );
    let switch = Switch::start(&host, &["--config", &config]);
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"etherws.control.getVersion"}"#;
    let send = |kind: &str, body: &str| post(switch.sock(), kind, body).expect("an answer");
    let json = "application/json";
    assert_eq!(send(json, &format!("[{}]", [call; 3].join(","))).0, 200);
    assert!(send(json, &format!("[{}]", [call; 4].join(","))).1.contains("-32010"), "bad_54");
    assert_eq!(send(json, &" ".repeat(2049)).0, 413);
    assert_eq!(send("text/plain", call).0, 415);
    for event in ["batch-size", "body-size", "content-type"] {
        assert_eq!(switch.drops(event), 1, "{event}");
    }

    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let answers = runtime.block_on(async {
        let stream = tokio::net::UnixStream::connect(switch.sock()).await.expect("connect");
        let (mut socket, _) =
            tokio_tungstenite::client_async("ws://localhost/ctl", stream).await.expect("101");
        let mut answers = Vec::new();
        for id in 1..=3 {
            let call = format!(
                r#"{{"jsonrpc":"2.0","id":{id},"method":"etherws.control.subscribeProf","params":{{}}}}"#
            );
            socket.send(call.into()).await.expect("send");
            while answers.len() < id {
                let limit = tokio::time::timeout(SOON, socket.next()).await.expect("an answer in time");
                let message = limit.expect("open").expect("message");
                let text = message.into_text().unwrap_or_default().to_string();
                // Notifications come in between.
                answers.extend(Some(text).filter(|text| text.contains(&format!("\"id\":{id}"))));
            }
        }
        answers
    });
    let errors: Vec<bool> = answers.iter().map(|answer| answer.contains("\"error\"")).collect();
    assert_eq!(errors, [false, false, true], "{answers:?}");
}

#[test]
fn bad_02_bad_04_what_is_no_request_is_counted() {
    let hosts = TwoHosts::new();
    let place = Place::new(&hosts, "[limits]\nheader_size = 4096\n");
    let (answer, _) =
        ws::get(&hosts.a, &place.near, "/", &format!("X-Long: {}\r\n{UPGRADE}", "y".repeat(5000)));
    assert_eq!(answer.status, 431);
    place.wait_counted("header-size", 1);
    assert_eq!(ws::exchange(&hosts.a, &place.near, "GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n").0.status, 400);
    place.wait_counted("bad-request", 1);
    assert_eq!(place.status(&place.near, "Origin: http://evil.example\r\n"), 403);
    place.wait_counted("foreign-origin", 1);
    let mut link = place.link(&place.near, "").expect("link");
    link.send_raw(&ws::frame(ws::FIN | ws::BINARY, &vec![2; 65_598]));
    assert_eq!(link.close_code(), 1009);
    place.wait_counted("message-size", 1);
}

/// The socket's mode alone would let this one in.
#[test]
fn the_unix_socket_is_for_root_and_the_group() {
    let host = Host::new();
    // `ip netns exec` puts these over the files of /etc.
    let etc = std::path::Path::new("/etc/netns").join(host.name());
    std::fs::create_dir_all(&etc).expect("directory");
    std::fs::write(etc.join("group"), "root:x:0:\netherws:x:54321:\n").expect("group");
    let switch = Switch::start(&host, &["--no-listen"]);
    let sock = switch.sock().to_str().expect("path");
    let meta = std::fs::metadata(sock).expect("socket");
    assert_eq!((meta.gid(), meta.mode() & 0o777), (54321, 0o660), "the group's");
    sh(&["chmod", "0666", sock]);
    sh(&["chmod", "0755", host.dir().to_str().expect("path")]);
    let call = |groups: &str| {
        let output = host.ok(&[
            "setpriv",
            "--reuid=12345",
            "--regid=12345",
            groups,
            "curl",
            "-sS",
            "-i",
            "--unix-socket",
            sock,
            "-H",
            "Content-Type: application/json",
            "-d",
            r#"{"jsonrpc":"2.0","id":1,"method":"etherws.control.getVersion"}"#,
            "http://localhost/ctl",
        ]);
        output.split(' ').nth(1).map(|status| (status.to_owned(), output.clone())).unwrap_or_default()
    };
    let (status, text) = call("--clear-groups");
    let counted = switch.drops("foreign-user");
    let (of_group, _) = call("--groups=54321");
    let _ = std::fs::remove_dir_all(&etc);
    assert_eq!(status, "403", "{text}");
    assert!(
        text.contains("user 12345 may not control this switch") && text.contains("group etherws"),
        "{text}"
    );
    assert!(!text.contains("version"), "{text}");
    assert_eq!((of_group.as_str(), counted), ("200", 1));
    assert!(switch.process.log().contains("user 12345 may not control"), "{}", switch.process.log());
}

#[test]
fn passwords_are_checked_by_a_thread_that_gives_way() {
    let host = Host::new();
    let switch = Switch::start(&host, &["--no-listen"]);
    let mut policies = Vec::new();
    // Each gives itself its name, and the other its place.
    wait_until("all threads are themselves", SOON, || {
        policies = std::fs::read_dir(format!("/proc/{}/task", switch.process.pid()))
            .expect("threads")
            .map(|task| {
                let path = task.expect("thread").path();
                let name = std::fs::read_to_string(path.join("comm")).expect("name").trim().to_owned();
                let stat = std::fs::read_to_string(path.join("stat")).expect("stat");
                // proc_pid_stat(5), field 19.
                let nice =
                    stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(16)).expect("nice");
                (name, nice == "10")
            })
            .collect::<Vec<_>>();
        policies.iter().any(|(name, last)| name == "login" && *last)
            && policies.iter().any(|(name, _)| name.starts_with("data"))
    });
    assert_eq!(policies.iter().filter(|(_, last)| *last).count(), 1, "{policies:?}");
}

#[test]
fn limits_that_make_no_sense_are_named_at_start() {
    let host = Host::new();
    let config = host.file("etherws.toml", "[limits]\nconnections = 0\nheader_tme = 3\n");
    let output = host.run_for(10, &[ETHERWS, "check", &config]);
    let said = lab::said(&output);
    assert!(said.contains("limits.connections: 0 is out of range"), "{said}");
    assert!(said.contains("limits.header_tme: unknown key; did you mean \"header_time\"?"), "{said}");
}
