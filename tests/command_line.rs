//! `etherws` as a process: exit codes and messages, signals, `--daemon`. Needs no privilege: the
//! switches here have no port.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const ETHERWS: &str = env!("CARGO_BIN_EXE_etherws");

struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("etherws-cli-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// A switch without ports and without WebSocket service.
    fn quiet(&self) -> PathBuf {
        let sock = self.0.join("ctl.sock");
        self.file("quiet.toml", &format!("[listen]\nenabled = false\n[control]\nsock = {sock:?}\n"))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running switch, ended with the test.
struct Switch(Child);

impl Drop for Switch {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Switch {
    /// Returns once the switch is ready; the socket is where it talks to its service manager.
    fn start(directory: &Directory, stderr: Stdio) -> (Self, UnixDatagram) {
        let notify = directory.0.join("notify");
        let manager = UnixDatagram::bind(&notify).unwrap();
        manager.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut command = Command::new(ETHERWS);
        command.arg("sw").arg("--config").arg(directory.quiet()).env("NOTIFY_SOCKET", &notify);
        let child = command.env("WATCHDOG_USEC", "1000000").stderr(stderr).spawn().unwrap();
        let switch = Self(child);
        assert!(heard(&manager).contains("READY=1"));
        assert!(UnixStream::connect(directory.0.join("ctl.sock")).is_ok(), "ready before it listens");
        (switch, manager)
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().try_into().unwrap()), signal).unwrap();
    }

    fn end(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < Duration::from_secs(15), "does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn heard(manager: &UnixDatagram) -> String {
    let mut buffer = [0; 4096];
    let length = manager.recv(&mut buffer).expect("nothing heard from the switch");
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

fn heard_until(manager: &UnixDatagram, word: &str) {
    let start = Instant::now();
    while !heard(manager).contains(word) {
        assert!(start.elapsed() < Duration::from_secs(10), "no {word}");
    }
}

fn etherws(arguments: &[&str]) -> Output {
    Command::new(ETHERWS).args(arguments).env_remove("RUST_LOG").output().unwrap()
}

#[test]
fn exit_codes_and_messages() {
    let directory = Directory::new("codes");
    let bad = directory.file("bad.toml", "[listen]\nprt = 1\n[switch]\nageout = 'x'\n");
    let good = directory.file("good.toml", "[switch]\nageout = 5\n");
    let files =
        directory.file("files.toml", "[listen]\nhtpasswd = '/nonexistent'\nsslkey = '/nonexistent'\n");
    let hollow = directory.file(
        "hollow.toml",
        &format!("[listen]\nhtpasswd = {good:?}\nsslkey = {good:?}\nsslcert = {good:?}\n"),
    );
    let (bad, good, files) = (bad.to_str().unwrap(), good.to_str().unwrap(), files.to_str().unwrap());
    let hollow = hollow.to_str().unwrap();
    for (arguments, code, wanted) in [
        (&["check", good][..], 0, vec![format!("{good}: ok")]),
        (
            &["check", bad],
            1,
            vec![
                format!("{bad}:2:1: listen.prt: unknown key; did you mean \"port\"?"),
                format!("{bad}:4:10: switch.ageout: "),
            ],
        ),
        (
            &["check", files],
            1,
            vec![format!("{files}:2:1: listen.htpasswd: "), "given without sslcert".to_owned()],
        ),
        (
            &["check", hollow],
            1,
            vec![format!("no certificate in {good}"), format!("{good} has no usable line")],
        ),
        (&["check", "/nonexistent"], 1, vec!["/nonexistent: could not be read".to_owned()]),
        (&["sw", "--config", bad], 1, vec![format!("etherws: {bad}:2:1: ")]),
        (&["sw", "--daemon", "--config", bad], 1, vec![format!("etherws: {bad}:2:1: ")]),
        (
            &["sw", "--logconf", "f"],
            2,
            vec!["etherws: --logconf: ".to_owned(), "--log FILTER or RUST_LOG".to_owned()],
        ),
        (&["sw", "--sslkey", "k"], 2, vec!["etherws: --sslkey: given without sslcert".to_owned()]),
        (&["sw", "--nonsense"], 2, vec!["etherws: unexpected argument '--nonsense'".to_owned()]),
        (&["listport"], 2, vec!["'listport'".to_owned(), "etherctl's (etherctl --help)".to_owned()]),
        (&[], 2, vec!["Usage: etherws".to_owned()]),
        (&["--version"], 0, vec!["etherws 2".to_owned()]),
    ] {
        let output = etherws(arguments);
        let text = [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        for wanted in wanted {
            assert!(text.contains(&wanted), "{arguments:?}: wanted {wanted}, got {text}");
        }
    }
}

#[test]
fn ctl_is_etherctl_and_its_exit_code() {
    let version = etherws(&["ctl", "--version"]);
    assert!(version.status.success() && version.stdout.starts_with(b"etherctl"), "{version:?}");
    assert_eq!(etherws(&["ctl", "nonsense"]).status.code(), Some(2));
    assert_eq!(etherws(&["ctl", "--ctlurl", "unix:/nonexistent", "listport"]).status.code(), Some(1));
}

#[test]
fn sigterm_ends_it_with_0_and_its_files_gone() {
    let directory = Directory::new("term");
    let (mut switch, manager) = Switch::start(&directory, Stdio::null());
    heard_until(&manager, "WATCHDOG=1");
    switch.signal(Signal::SIGTERM);
    assert_eq!(switch.end().code(), Some(0));
    heard_until(&manager, "STOPPING=1");
    assert!(!directory.0.join("ctl.sock").exists());
}

#[test]
fn bad_75_signals_kill_nothing_and_a_storm_is_one_reload() {
    let directory = Directory::new("storm");
    let (mut switch, manager) = Switch::start(&directory, Stdio::null());
    for signal in [Signal::SIGPIPE, Signal::SIGUSR1, Signal::SIGUSR2] {
        switch.signal(signal);
    }
    (0..500).for_each(|_| switch.signal(Signal::SIGHUP));
    heard_until(&manager, "RELOADING=1");
    heard_until(&manager, "READY=1");
    switch.signal(Signal::SIGTERM);
    switch.signal(Signal::SIGTERM);
    assert_eq!(switch.end().code(), Some(0));
    manager.set_nonblocking(true).unwrap();
    let mut buffer = [0; 4096];
    let mut reloads = 1;
    while let Ok(length) = manager.recv(&mut buffer) {
        reloads += usize::from(buffer[..length].starts_with(b"RELOADING"));
    }
    assert!(reloads <= 3, "{reloads} reloads");
}

#[test]
fn bad_74_a_dead_or_full_stderr_is_survived() {
    let directory = Directory::new("stderr");
    let (mut switch, manager) = Switch::start(&directory, Stdio::piped());
    drop(switch.0.stderr.take());
    for _ in 0..3 {
        switch.signal(Signal::SIGHUP);
        heard_until(&manager, "READY=1");
    }
    switch.signal(Signal::SIGTERM);
    assert_eq!(switch.end().code(), Some(0));

    let directory = Directory::new("full");
    let full = File::options().write(true).open("/dev/full").unwrap();
    let (mut switch, manager) = Switch::start(&directory, full.into());
    switch.signal(Signal::SIGHUP);
    heard_until(&manager, "READY=1");
    switch.signal(Signal::SIGTERM);
    assert_eq!(switch.end().code(), Some(0));
}

#[test]
fn a_bad_file_changes_nothing_and_says_why() {
    let directory = Directory::new("reload");
    let (mut switch, manager) = Switch::start(&directory, Stdio::piped());
    let mut log = BufReader::new(switch.0.stderr.take().unwrap());
    directory.file("quiet.toml", "[switch]\nageuot = 3\n");
    switch.signal(Signal::SIGHUP);
    heard_until(&manager, "READY=1");
    let mut line = String::new();
    while !line.contains("reload failed") {
        line.clear();
        assert_ne!(log.read_line(&mut line).unwrap(), 0, "no word about the bad file");
    }
    assert!(line.contains("nothing was changed") && line.contains("quiet.toml:2:1: switch.ageuot"), "{line}");
    assert!(UnixStream::connect(directory.0.join("ctl.sock")).is_ok());
    switch.signal(Signal::SIGTERM);
    assert_eq!(switch.end().code(), Some(0));
}

#[test]
fn a_detached_switch_listens_when_its_parent_returns_and_holds_no_pipe() {
    let directory = Directory::new("daemon");
    let config = directory.quiet();
    let mut parent = Command::new(ETHERWS)
        .args(["sw", "--daemon", "--config"])
        .arg(&config)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    assert!(parent.wait().unwrap().success());
    let daemon = daemon_of(&config).expect("no daemon");
    let sock = directory.0.join("ctl.sock");
    let listens = UnixStream::connect(&sock).is_ok();
    // Comes to an end only when nobody holds the other side.
    let mut said = String::new();
    parent.stderr.take().unwrap().read_to_string(&mut said).unwrap();

    // Another one cannot have the same socket: its message and code come through.
    let second = Command::new(ETHERWS).args(["sw", "--daemon", "--config"]).arg(&config).output().unwrap();
    kill(daemon, Signal::SIGTERM).unwrap();
    assert!(listens, "{said}");
    assert_eq!(second.status.code(), Some(1), "{second:?}");
    assert!(second.stderr.starts_with(b"etherws: "), "{second:?}");
    let start = Instant::now();
    while sock.exists() {
        assert!(start.elapsed() < Duration::from_secs(15), "does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The process that runs with this configuration file.
fn daemon_of(config: &Path) -> Option<Pid> {
    let wanted = config.to_str()?.as_bytes();
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        line.split(|byte| *byte == 0).any(|argument| argument == wanted).then(|| Pid::from_raw(pid))
    })
}
