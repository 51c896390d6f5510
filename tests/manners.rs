//! How etherctl behaves to people and scripts: what `doctor` finds, what a shell completes, what is said while something
//! lasts, and that `--json` prints what docs/control.md says.

mod lab;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use lab::frames::{crowd, mac, mac_text};
use lab::switch::{ETHERCTL, TwoHosts};
use lab::{Host, SOON, Switch, said, wait_until};
use serde_json::{Value, json};

/// `etherctl doctor --json`: exit code and findings.
fn doctor(host: &Host, url: &str) -> (i32, Vec<Value>) {
    let output = host.run(&[ETHERCTL, "--ctlurl", url, "--json", "doctor"]);
    let found: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", said(&output)));
    (output.status.code().expect("an exit code"), found["findings"].as_array().expect("findings").clone())
}

#[track_caller]
fn finding<'a>(findings: &'a [Value], what: &str) -> &'a Value {
    let has = |finding: &&Value| finding["what"].as_str().is_some_and(|text| text.contains(what));
    findings.iter().find(has).unwrap_or_else(|| panic!("nothing about {what} in {findings:?}"))
}

#[test]
fn the_doctor_finds_what_is_wrong_and_says_what_to_do() {
    let hosts = TwoHosts::new();
    let key = rcgen::KeyPair::generate().expect("key");
    let mut params = rcgen::CertificateParams::new(vec!["b.example".to_owned()]).expect("parameters");
    let today =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock").as_secs();
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(today + 86_400 * 20);
    let pem = params.self_signed(&key).expect("certificate").pem();
    let (cert, key) = (hosts.b.file("cert.pem", pem), hosts.b.file("key.pem", key.serialize_pem()));
    let b = Switch::start(&hosts.b, &["--sslcert", &cert, "--sslkey", &key]);
    b.ctl_ok(&["addport", "tap", "t0"]);
    let (code, findings) = doctor(&hosts.b, &b.url());
    let found = finding(&findings, "listen.sslcert");
    assert_eq!((code, &found["level"]), (1, &json!("warn")), "{findings:?}");
    assert!(found["next"].as_str().expect("next").contains("renew"), "{found}");
    assert_eq!(finding(&findings, "TAPs")["level"], "ok");
    assert_eq!(finding(&findings, "sandbox")["level"], "ok");

    // The other end trusts nobody, so it waits; then it is told to, and has a path.
    let a = Switch::start(&hosts.a, &["--no-listen"]);
    let url = format!("wss://{}/", hosts.link.b);
    a.ctl_ok(&["addport", "client", &url, "--name", "far"]);
    a.wait_state("far", "waiting");
    let (code, findings) = doctor(&hosts.a, &a.url());
    assert_eq!((code, &finding(&findings, "far")["level"]), (1, &json!("warn")));
    a.ctl_ok(&["delport", "far"]);
    a.ctl_ok(&["addport", "client", &url, "--name", "far", "--insecure"]);
    a.wait_state("far", "up");
    let (code, findings) = doctor(&hosts.a, &a.url());
    assert!(
        finding(&findings, "path of port 2")["found"].as_str().expect("found").contains("1448"),
        "{findings:?}"
    );
    assert_eq!(code, 0, "{findings:?}");
    // For people: a line a finding, and no colours on what is no terminal.
    let text = a.ctl_ok(&["doctor"]);
    assert!(text.lines().all(|line| line.starts_with("ok  ")) && !text.contains('\x1b'), "{text}");
}

#[test]
fn without_a_switch_the_doctor_says_how_to_start_one() {
    let host = Host::new();
    let (code, findings) = doctor(&host, &format!("unix:{}/nobody.sock", host.dir().display()));
    let found = finding(&findings, "switch");
    assert_eq!((code, &found["level"]), (2, &json!("fail")));
    assert!(found["found"].as_str().expect("found").contains("is `etherws sw` running?"), "{found}");
    assert!(finding(&findings, "/dev/net/tun")["found"].is_string());
}

/// What bash would offer behind these words, the last of which is unfinished.
fn completed(host: &Host, url: &str, words: &[&str]) -> Vec<String> {
    const SCRIPT: &str = r#"
        PATH=$(dirname "$1"):$PATH; shift
        source <(etherctl completions bash)
        COMP_WORDS=(etherctl "$@"); COMP_CWORD=$#; COMP_TYPE=9
        _clap_complete_etherctl etherctl "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
        printf '%s\n' "${COMPREPLY[@]}""#;
    let mut command = host.command(&[&["bash", "-c", SCRIPT, "bash", ETHERCTL], words].concat());
    let output = command.env("ETHERWS_CTLURL", url).output().expect("bash");
    assert!(output.status.success() && output.stderr.is_empty(), "{}", said(&output));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
}

#[test]
fn shells_complete_names_and_numbers_of_ports() {
    let host = Host::new();
    let switch = Switch::start(&host, &["--no-listen"]);
    switch.ctl_ok(&["addport", "tap", "t0", "--name", "vms"]);
    switch.ctl_ok(&["addport", "tap", "t1", "--name", "vault"]);
    let url = switch.url();
    assert_eq!(completed(&host, &url, &["delport", "v"]), ["vms", "vault"]);
    for words in [&["setport", ""][..], &["addfdb", "02:00:00:00:00:01", ""], &["listfdb", "--port", ""]] {
        let offered = completed(&host, &url, words);
        for port in ["1", "2", "vms", "vault"] {
            assert!(offered.iter().any(|word| word == port), "{words:?}: {offered:?}");
        }
    }
    assert_eq!(completed(&host, &url, &["listp"]), ["listport"]);
    // The switch that the line names, and not the environment's.
    let nobody = "unix:/nonexistent/ctl.sock";
    assert_eq!(completed(&host, nobody, &["--ctlurl", &url, "delport", "vm"]), ["vms"]);
    assert_eq!(completed(&host, nobody, &["delport", "vm"]), [""; 0]);
    // What the script for zsh asks, and how it wants the answer: a word, a colon, what it stands for.
    let mut zsh = host.command(&[ETHERCTL, "--", "etherctl", "delport", ""]);
    zsh.env("ETHERWS_CTLURL", &url).env("_ETHERCTL_COMPLETE", "zsh");
    let output = zsh.env("_CLAP_COMPLETE_INDEX", "2").env("_CLAP_IFS", "\n").output().expect("etherctl");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for line in ["vms:1 tap t0", "vault:2 tap t1"] {
        assert!(text.lines().any(|offered| offered == line), "{line}: {}", said(&output));
    }
    for number in ["1:", "2:"] {
        assert!(text.lines().any(|offered| offered.starts_with(number)), "{number} {}", said(&output));
    }
    if host.run(&["fish", "--version"]).status.success() {
        let line = format!("source ({ETHERCTL} completions fish | psub); complete -C 'etherctl delport v'");
        let path = format!("{}:/usr/bin:/bin", Path::new(ETHERCTL).parent().expect("a folder").display());
        let mut fish = host.command(&["fish", "-c", &line]);
        let output = fish.env("ETHERWS_CTLURL", &url).env("PATH", path).env("HOME", host.dir()).output();
        let output = output.expect("fish");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("vms\t1 tap t0") && text.contains("vault"), "{}", said(&output));
    } else {
        eprintln!("SKIPPED: completion in fish: there is no fish");
    }
}

#[test]
fn errors_say_what_to_do_next() {
    let host = Host::new();
    let switch = Switch::start(&host, &["--no-listen"]);
    switch.ctl_ok(&["addport", "tap", "t0"]);
    let table: &[(&[&str], &str)] = &[
        (&["delport", "nosuch"], "listport names them"),
        (&["counters", "nosuch"], "listport names them"),
        (&["listfdb", "--port", "nosuch"], "listport names them"),
        (&["liststations", "--port", "nosuch"], "listport names them"),
        (&["delfdb", "02:00:00:00:00:01"], "listfdb shows them"),
        (&["addport", "netdev", "nosuch"], "ip link shows them"),
        (&["addport", "tap", "t0"], "delport lets it go"),
        (&["addport", "tap", "t1", "--name", "t0"], "choose another name"),
        (&["addport", "tap", "lo"], "choose another name"),
        (&["addport", "client", "ws://h/", "--user", "u"], "--passwd-file"),
        (&["saveconf", "/x/y.conf"], "must end in .toml"),
    ];
    for (args, next) in table {
        let said = switch.ctl_err(1, args);
        assert!(said.contains(next), "{args:?}: {said}");
    }
    // A port without stations is one.
    switch.ctl_ok(&["addport", "client", "ws://127.0.0.1:1/", "--name", "idle"]);
    assert_eq!(switch.ctl_ok(&["listfdb", "--port", "idle"]).lines().count(), 1);
}

#[test]
fn whoever_waits_at_a_terminal_is_told_what_for_and_nobody_else() {
    let host = Host::new();
    // It is there, and says nothing.
    let path = host.dir().join("silent.sock");
    let _silent = std::os::unix::net::UnixListener::bind(&path).expect("bind");
    // A call, and a subscription.
    for command in ["listport", "watch"] {
        let line = format!("{ETHERCTL} --ctlurl unix:{} {command}", path.display());
        let mut terminal = host.command(&["script", "-qefc", &line, "/dev/null"]);
        terminal.env("TERM", "xterm");
        let mut at_terminal = host.spawn_command(&format!("terminal-{command}"), terminal);
        let mut in_pipe = host.spawn(&format!("pipe-{command}"), &["sh", "-c", &line]);
        wait_until("a word", SOON, || at_terminal.log().contains("waiting for unix:"));
        assert_eq!(in_pipe.wait(SOON), 1);
        assert!(in_pipe.log().starts_with("etherctl: could not reach"), "{}", in_pipe.log());
        assert!(!in_pipe.log().contains('\x1b'));
        at_terminal.wait(SOON);
        assert!(at_terminal.log().contains("\r\x1b[Ketherctl: could not reach"), "{:?}", at_terminal.log());
    }
}

/// More stations than one answer may have: etherctl asks for them page by page, of which the switch holds one at a time.
#[test]
fn very_many_stations_are_listed() {
    const STATIONS: u32 = 101_000;
    let host = Host::new();
    let switch = Switch::start(&host, &["--no-listen", "--fdb-limit", "200000"]);
    let socket = host.dir().join("vms.sock");
    let target = format!("unix:{}", socket.display());
    switch.ctl_ok(&["addport", "qemu", &target, "--name", "vms", "--storm", "off", "--max-macs", "200000"]);
    let machine = crowd(&socket, STATIONS);
    let behind = |n: u32, limit: u32| {
        let page = json!({"limit": limit, "after": {"mac": mac_text(mac(n))}});
        switch.rpc_ok("listFdb", page)["entries"].as_array().expect("entries").clone()
    };
    wait_until("all are known", SOON, || behind(STATIONS - 1, 1).len() == 1);
    let macs = |entries: &[Value]| -> Vec<String> {
        entries.iter().map(|entry| entry["mac"].as_str().expect("mac").to_owned()).collect()
    };
    assert_eq!(macs(&behind(7, 3)), [8, 9, 10].map(|n| mac_text(mac(n))));

    let too_many = switch.rpc("listFdb", json!({})).expect_err("all at once");
    assert_eq!(too_many["code"], -32001, "{too_many}");
    assert!(too_many["message"].as_str().expect("message").contains("limit and after"), "{too_many}");
    let peak = || {
        let status = fs::read_to_string(format!("/proc/{}/status", switch.process.pid())).expect("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
        line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).expect("a number") >> 10
    };
    let before = peak();
    let all: Vec<_> = (1..=STATIONS).map(|n| mac_text(mac(n))).collect();
    let url = switch.url();
    let list = |args: &[&str]| {
        let output = host.run_for(240, &[&[ETHERCTL, "--ctlurl", &url], args].concat());
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let listed: Value = serde_json::from_str(&list(&["--json", "listfdb"])).expect("JSON");
    assert!(macs(listed["entries"].as_array().expect("entries")) == all, "each once and in order");
    let table = list(&["liststations", "--port", "vms-1"]);
    assert!(table.starts_with("  Port  VLAN  MAC                Age  Name   IP\n"), "{table:.200}");
    assert!(table.lines().skip(1).map(|line| line.split_whitespace().nth(2).expect("mac")).eq(&all));
    assert_eq!(list(&["listfdb", "--port", "vms"]).lines().count(), 1, "nobody's, but a port");
    assert!(peak() < before + 48, "from {before} to {} MiB", peak());
    drop(machine);
}

/// A row of the table in docs/control.md.
struct Row {
    commands: Vec<String>,
    /// The name of the list that the object holds; absent: it is the object itself that has the keys.
    list: Option<String>,
    keys: BTreeSet<String>,
    optional: BTreeSet<String>,
}

fn documented() -> Vec<Row> {
    let text =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/control.md")).expect("docs/control.md");
    let quoted = |cell: &str| -> Vec<(String, bool)> {
        let pieces: Vec<_> = cell.split('`').collect();
        let word = |index: usize| {
            (pieces[index].to_owned(), pieces.get(index + 1).is_some_and(|p| p.starts_with('?')))
        };
        (1..pieces.len()).step_by(2).map(word).collect()
    };
    let (_, table) = text.split_once("| command | prints |\n| --- | --- |\n").expect("the table of --json");
    let rows = table.lines().take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").collect();
        let (list, keys) = match cells[1].split_once(": ") {
            Some((list, keys)) => (Some(quoted(list)[0].0.clone()), keys),
            None => (None, cells[1]),
        };
        let keys = quoted(keys);
        let optional = keys.iter().filter(|key| key.1).map(|key| key.0.clone()).collect();
        let commands = quoted(cells[0]).into_iter().map(|word| word.0).collect();
        Row { commands, list, keys: keys.into_iter().map(|key| key.0).collect(), optional }
    })
    .collect()
}

#[test]
fn json_is_what_the_document_says() {
    let hosts = TwoHosts::new();
    let b = Switch::start(&hosts.b, &[]);
    let config = hosts.a.file("etherws.toml", "[listen]\nenabled = false\n");
    let a = Switch::start(&hosts.a, &["--config", &config]);
    let url = format!("ws://{}/", hosts.link.b);
    let mac = "02:00:00:00:00:99";
    let lines: &[&[&str]] = &[
        &["addport", "tap", "t0", "--address", "10.1.0.1/24", "--access", "10"],
        &["addport", "client", &url, "--name", "far"],
        &["setport", "t0", "--isolated", "1"],
        &["listport"],
        &["setif", "t0", "--mtu", "1400"],
        &["listif"],
        &["addfdb", mac, "t0", "--vid", "10"],
        &["listfdb"],
        &["delfdb", mac, "--vid", "10"],
        &["flushfdb"],
        &["counters"],
        &["saveconf"],
        &["reload"],
        &["version"],
        &["doctor"],
        &["prof", "start"],
        &["prof", "status"],
        &["prof", "stop"],
        &["prof", "reset"],
        &["delport", "far"],
    ];
    let rows = documented();
    let mut tried = BTreeSet::new();
    for line in lines {
        let command = if line[0] == "prof" { format!("prof {}", line[1]) } else { line[0].to_owned() };
        let row = rows.iter().find(|row| row.commands.contains(&command));
        let Row { list, keys, optional, .. } =
            row.unwrap_or_else(|| panic!("{command} is not in docs/control.md"));
        let output = a.ctl(&[&["--json"], *line].concat());
        let printed: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", said(&output)));
        let objects = match list {
            Some(list) => printed[list].as_array().unwrap_or_else(|| panic!("{command}: {printed}")).clone(),
            None => vec![printed],
        };
        assert!(!objects.is_empty(), "{command}: nothing to look at");
        for object in objects {
            let has: BTreeSet<String> = object.as_object().expect("an object").keys().cloned().collect();
            let unknown: Vec<_> = has.difference(keys).collect();
            let missing: Vec<_> = keys.difference(&has).filter(|key| !optional.contains(*key)).collect();
            assert!(
                unknown.is_empty() && missing.is_empty(),
                "{command}: {unknown:?} {missing:?} in {object}"
            );
        }
        tried.insert(command);
    }
    let promised: BTreeSet<_> = rows.iter().flat_map(|row| row.commands.iter().cloned()).collect();
    assert_eq!(tried, promised, "what the document promises is tried here");
    drop(b);
}
