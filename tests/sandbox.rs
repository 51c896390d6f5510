//! The sandbox, from inside and from outside: nothing that a switch does is missing, and all else is refused.

mod lab;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use lab::servers::Ca;
use lab::switch::ETHERWS;
use lab::{Host, SOON, Switch, wait_until};
use nix::sys::signal::Signal;
use serde_json::json;

/// A user that every system has and that owns nothing.
const NOBODY: u32 = 65534;

/// CAP_NET_ADMIN and CAP_NET_RAW.
const TWO: &str = "0000000000003000";

#[test]
fn the_self_test_tries_every_kind_of_thread() {
    let host = Host::new();
    let sock = host.dir().join("ctl.sock");
    let test = |more: &[&str]| {
        let sock = sock.to_str().expect("path");
        let args = [&[ETHERWS, "sw", "--threads", "2", "--ctlsock", sock, "--self-test"], more].concat();
        let output = host.run(&args);
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let users: &[&[&str]] = if others_are_here() { &[&[], &["--user", "nobody"]] } else { &[&[]] };
    for more in users {
        let (code, said) = test(more);
        assert_eq!(code, Some(0), "{more:?}: {said}");
        for thread in ["main", "data-0", "data-1", "login", "log", "tokio-rt-worker"] {
            let tried = said.lines().filter(|line| line.starts_with(&format!("{thread}: ok, refused: ")));
            assert_eq!(tried.count(), 1, "{thread}: {said}");
            assert_eq!(said.matches(", writing a file, execve, ptrace, ").count(), 6, "{said}");
        }
        let bound = said.lines().filter(|line| line.contains(&format!("Seccomp 2, CapEff {TWO}")));
        assert!(bound.count() >= 6, "{said}");
    }
    let (code, said) = test(&["--no-sandbox"]);
    assert!(code == Some(1) && said.contains("FAILED"), "{said}");
}

#[test]
fn a_running_switch_has_two_capabilities_and_no_more_on_any_thread() {
    let host = Host::new();
    let switch = Switch::start(&host, &[]);
    switch.ctl_ok(&["addport", "tap", "t0"]);
    switch.ctl_ok(&["addport", "client", "ws://localhost:9/", "--name", "far"]);
    switch.wait_reason("far", &["refused"]);
    let tasks = Path::new("/proc").join(pid(&switch).to_string()).join("task");
    let mut seen = 0;
    for task in fs::read_dir(tasks).expect("threads").flatten() {
        let Ok(status) = fs::read_to_string(task.path().join("status")) else { continue };
        for line in ["NoNewPrivs:\t1", "Seccomp:\t2", &format!("CapEff:\t{TWO}"), &format!("CapBnd:\t{TWO}")]
        {
            assert!(status.contains(line), "{line}: {status}");
        }
        seen += 1;
    }
    assert!(seen >= 4, "{seen} threads");
}

/// All that has to work after the drop, as another user.
#[test]
fn as_another_user_a_switch_does_all_that_it_did() {
    if !others_are_here() {
        return;
    }
    let host = Host::new();
    let ca = Ca::new("lab");
    let first = ca.server(&host, "first", &["localhost"]);
    chown(host.dir(), Some(NOBODY), Some(NOBODY)).expect("chown");
    let text = |cert: &str, key: &str| {
        format!("[listen]\nport = 443\nsslcert = {cert:?}\nsslkey = {key:?}\n[control.tcp]\nport = 0\n")
    };
    let config = host.file("etherws.toml", text(&first.cert, &first.key));
    for file in [&first.cert, &first.key, &config] {
        chown(file, Some(NOBODY), Some(NOBODY)).expect("chown");
    }
    host.ok(&["ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1"]);
    // As udev makes it, where there is none; seen by the switch alone, which has a mount namespace of its own.
    let tun = host.dir().join("tun");
    let tun = format!(
        "mknod {0} c 10 200 && chmod 666 {0} && mount --bind {0} /dev/net/tun; exec \"$@\"",
        tun.display()
    );
    let by = ["sh", "-c", &tun, "sh"];
    let mut switch = Switch::start_by(&host, &by, &["--user", "nobody", "--config", &config]);
    let sock = fs::metadata(switch.sock()).expect("socket");
    let group = nix::unistd::Group::from_name("etherws").expect("groups");
    let mode = if group.is_some() { 0o660 } else { 0o600 };
    assert_eq!((sock.uid(), sock.mode() & 0o777), (NOBODY, mode));
    assert!(fs::metadata(host.dir().join("ctl.sock.token")).expect("token").uid() == NOBODY);

    switch.ctl_ok(&[
        "addport",
        "tap",
        "t0",
        "--persist",
        "--address",
        "10.1.0.1/24",
        "--mac",
        "02:00:00:00:00:07",
    ]);
    switch.ctl_ok(&["addport", "netdev", "v0"]);
    host.ok(&["ip", "link", "set", "v1", "up"]);
    switch.wait_state("v0", "up");
    let ca_file = host.file("ca.pem", &ca.pem);
    switch.dials("wss://localhost/", &["--cacerts", &ca_file]);
    // A new certificate, moved into the place of the old one.
    let second = ca.server(&host, "second", &["localhost"]);
    for (new, old) in [(&second.cert, &first.cert), (&second.key, &first.key)] {
        chown(new, Some(NOBODY), Some(NOBODY)).expect("chown");
        fs::rename(new, old).expect("replaced");
    }
    assert!(switch.ctl_ok(&["reload"]).contains("certificates"));
    switch.dials("wss://localhost/", &["--cacerts", &ca_file]);
    switch.ctl_ok(&["saveconf"]);
    assert!(fs::read_to_string(&config).expect("saved").contains("02:00:00:00:00:07"));
    switch.process.signal(Signal::SIGHUP);
    wait_until("SIGHUP reloads", SOON, || switch.process.log().matches("reloaded").count() >= 2);
    let profile = switch.rpc_ok("cpuProf", json!({"seconds": 1, "hz": 100}));
    assert!(profile["stacks"].as_array().is_some() && profile["note"].is_null(), "{profile}");

    switch.process.signal(Signal::SIGTERM);
    assert_eq!(switch.process.wait(SOON), 0, "{}", switch.process.log());
    for file in ["ctl.sock", "ctl.sock.token"] {
        assert!(!host.dir().join(file).exists(), "{file} is left");
    }
    host.ok(&["ip", "link", "show", "t0"]);
}

#[test]
fn what_it_refuses_is_told_with_the_way_out() {
    let (host, other) = (Host::new(), Host::new());
    let pem = Ca::new("lab").server(&other, "other", &["localhost"]);
    let elsewhere = other.dir().display().to_string();
    let text = "[listen]\nport = 8080\n";
    let config = host.file("etherws.toml", text);
    let told = |error: &str, key: &str| {
        let words = ["sandbox", &format!("add \"{elsewhere}\" to {key} in [sandbox]")];
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    };
    let mut switch = Switch::start(&host, &["--config", &config]);
    // etherctl would read the files itself.
    let options = json!({"cert": pem.cert, "key": pem.key});
    let client = json!({"type": "client", "target": "wss://localhost:1/", "options": options});
    told(&switch.rpc("addPort", client.clone()).expect_err("refused").to_string().replace('\\', ""), "read");
    let saved = format!("{elsewhere}/saved.toml");
    told(&switch.ctl_err(1, &["saveconf", &saved]), "write");
    for line in [
        format!("sslcert = {:?}\nsslkey = {:?}\n", pem.cert, pem.key),
        format!("htpasswd = {:?}\n", pem.cert),
    ] {
        host.file("etherws.toml", format!("{text}{line}"));
        let error = switch.ctl_err(1, &["reload"]);
        assert!(error.contains("nothing was changed"), "{error}");
        told(&error, "read");
    }

    // And that is the way out.
    host.file("etherws.toml", format!("{text}[sandbox]\nread = [{elsewhere:?}]\nwrite = [{elsewhere:?}]\n"));
    assert!(switch.ctl_ok(&["reload"]).contains("sandbox: takes effect at the next start"));
    told(&switch.ctl_err(1, &["saveconf", &saved]), "write");
    switch.kill_and_restart();
    switch.rpc_ok("addPort", client);
    switch.ctl_ok(&["saveconf", &saved]);
}

#[test]
fn a_listener_below_1024_is_not_given_up_for_one_that_cannot_be_had() {
    let host = Host::new();
    let file = |listen: u16, control: u16| {
        host.file("etherws.toml", format!("[listen]\nport = {listen}\n[control.tcp]\nport = {control}\n"))
    };
    let config = file(80, 8080);
    let switch = Switch::start(&host, &["--config", &config]);
    // The second wants 8080 for the first thing, which closes what was there, and then a port that is out of reach.
    for (listen, control) in [(81, 8080), (8080, 81)] {
        file(listen, control);
        let error = switch.ctl_err(1, &["reload"]);
        for words in ["nothing was changed", ":81 for", "start it anew"] {
            assert!(error.contains(words), "{words}: {error}");
        }
        for port in [80, 8080] {
            host.wait_port(&format!("127.0.0.1:{port}"));
        }
    }
    file(8081, 8080);
    switch.ctl_ok(&["reload"]);
    host.wait_port("127.0.0.1:8081");
    assert!(host.connect("127.0.0.1:80").is_err(), "given up by wish");
}

#[test]
fn credentials_of_the_service_manager_are_found_by_name() {
    let (host, vault) = (Host::new(), Host::new());
    let ca = Ca::new("lab");
    let pem = ca.server(&vault, "server", &["localhost"]);
    let password = vault.file("password", "sesame\n");
    let name = |path: &str| {
        format!("credential:{}", Path::new(path).file_name().expect("name").to_str().expect("UTF-8"))
    };
    let config = host.file(
        "etherws.toml",
        format!("[listen]\nport = 8443\nsslcert = {:?}\nsslkey = {:?}\n", name(&pem.cert), name(&pem.key)),
    );
    let folder = vault.dir().to_str().expect("path");
    let switch = Switch::start_with_env(&host, &["--config", &config], &[("CREDENTIALS_DIRECTORY", folder)]);
    let ca_file = host.file("ca.pem", &ca.pem);
    let options = json!({"cacerts": ca_file, "user": "u", "passwd_file": name(&password)});
    let far = json!({"type": "client", "target": "wss://localhost:8443/", "name": "far", "options": options});
    switch.rpc_ok("addPort", far);
    switch.wait_state("far", "up");
    switch.ctl_ok(&["reload"]);
    switch.ctl_ok(&["saveconf"]);
    let saved = fs::read_to_string(&config).expect("saved");
    assert!(!saved.contains(folder) && saved.matches("credential:").count() == 3, "{saved}");
}

#[test]
fn files_that_only_root_could_read_are_told_of() {
    if !others_are_here() {
        return;
    }
    let host = Host::new();
    let users = host.file("htpasswd", "alice:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n");
    fs::set_permissions(&users, fs::Permissions::from_mode(0o600)).expect("mode");
    let switch = Switch::start(&host, &["--user", "nobody", "--htpasswd", &users]);
    let log = switch.process.log();
    assert!(log.contains(&format!("{users} cannot be read by user nobody")), "{log}");
    let error = switch.ctl_err(1, &["reload"]);
    assert!(
        error.contains("nothing was changed") && error.contains("etherws runs as user nobody"),
        "{error}"
    );
}

#[test]
fn a_resolver_robbed_of_its_settings_says_so() {
    let (host, other) = (Host::new(), Host::new());
    // An /etc of its own, in which a DHCP client may do as it likes.
    let etc = other.dir().join("etc");
    let script = format!("cp -a /etc {0} && mount --bind {0} /etc; exec \"$@\"", etc.display());
    let switch = Switch::start_by(&host, &["sh", "-c", &script, "sh"], &["--no-listen"]);
    switch.ctl_ok(&["addport", "client", "ws://nobody.invalid/", "--name", "before"]);
    assert!(!switch.wait_reason("before", &["could not resolve"]).contains("sandbox"));
    fs::write(etc.join("new"), "nameserver 127.0.0.1\n").expect("write");
    fs::rename(etc.join("new"), etc.join("resolv.conf")).expect("replace");
    switch.ctl_ok(&["addport", "client", "ws://nobody.invalid/x", "--name", "behind"]);
    let reason = switch.wait_reason("behind", &["could not resolve"]);
    assert!(reason.contains("/etc/resolv.conf was replaced; the sandbox"), "{reason}");
}

/// False, and said aloud, in a user namespace with no other user in it.
fn others_are_here() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").expect("/proc");
    let here = map.split_whitespace().nth(2).and_then(|count| count.parse().ok()) > Some(u64::from(NOBODY));
    if !here {
        eprintln!("skipped: there is no user but root in this namespace");
    }
    here
}

fn pid(switch: &Switch) -> u32 {
    // `ip netns exec` becomes the switch.
    switch.process.pid()
}
