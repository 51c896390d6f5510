//! The laboratory: hosts are network namespaces, cables are veth pairs, switches are the real
//! `etherws` in them. No mocks: what is tested is what runs.
//!
//! Everything is released on drop, panic included: processes by pid, then the namespace, then the
//! files. What a killed test run left behind is swept by the next one. Every wait is bounded.
//! Root (or a user namespace's root) is needed; `make test` says so.
#![allow(dead_code, unused_imports)] // each test file uses its own part of the laboratory

pub mod capture;
pub mod frames;
pub mod lossy;
pub mod packets;
pub mod relay;
pub mod servers;
pub mod star;
pub mod streams;
pub mod switch;
pub mod ws;

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub use switch::{Pair, Switch, pair};

/// How long a thing may take that should be done at once; generous, for slow shared machines.
pub const SOON: Duration = Duration::from_secs(20);

static NUMBER: AtomicU32 = AtomicU32::new(1);
const PREFIX: &str = "ewt";

/// A host: a network namespace with `lo` up. Its name is unique to process and host.
pub struct Host {
    name: String,
    dir: PathBuf,
}

impl Host {
    pub fn new() -> Self {
        static SWEEP: Once = Once::new();
        SWEEP.call_once(sweep);
        let name = format!("{PREFIX}{}-{}", std::process::id(), NUMBER.fetch_add(1, Relaxed));
        let dir = std::env::temp_dir().join(&name);
        fs::create_dir_all(&dir).expect("temporary directory");
        sh(&["ip", "netns", "add", &name]);
        let host = Self { name, dir };
        host.ok(&["ip", "link", "set", "lo", "up"]);
        // Without this an IPv6 address is useless for its first second or two.
        for scope in ["all", "default"] {
            host.ok(&["sysctl", "-qw", &format!("net.ipv6.conf.{scope}.accept_dad=0")]);
        }
        host
    }

    /// The namespace's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A directory for the host's files, gone with it.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes a file into the host's directory; its path.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.dir.join(name);
        fs::write(&path, content).expect("write a file of the laboratory");
        path.to_str().expect("UTF-8 path").to_owned()
    }

    /// A command in the host, not yet started.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).args(args).stdin(Stdio::null());
        // The outer world's proxies have no meaning in a laboratory host.
        for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
            command.env_remove(name).env_remove(name.to_uppercase());
        }
        command
    }

    /// Runs a command in the host to its end, at most 60 s.
    pub fn run(&self, args: &[&str]) -> Output {
        self.run_for(60, args)
    }

    /// Runs a command in the host for at most `seconds`; exit code 124 when they did not suffice.
    pub fn run_for(&self, seconds: u32, args: &[&str]) -> Output {
        let limit = seconds.to_string();
        let mut all = vec!["timeout", "-k", "2", &limit];
        all.extend(args);
        self.command(&all).output().unwrap_or_else(|error| panic!("run {args:?}: {error}"))
    }

    /// Runs a command that must succeed; its standard output.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "in {}: {args:?}: {}", self.name, said(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Starts a process in the host, its output in `<dir>/<log>.log`.
    pub fn spawn(&self, log: &str, args: &[&str]) -> Process {
        self.spawn_command(log, self.command(args))
    }

    pub fn spawn_command(&self, log: &str, mut command: Command) -> Process {
        let path = self.dir.join(format!("{log}.log"));
        let out = fs::File::options().create(true).append(true).open(&path).expect("log file");
        let err = out.try_clone().expect("log file");
        let child = command.stdout(out).stderr(err).spawn().unwrap_or_else(|e| panic!("start {log}: {e}"));
        Process { child: Some(child), log: path }
    }

    /// Pings `to`, which must answer at least once within the limit (the first may be lost to ARP or
    /// to a link that is just coming up).
    pub fn ping(&self, to: &str) {
        self.ping_with(to, &[]);
    }

    pub fn ping_with(&self, to: &str, more: &[&str]) {
        let mut args = vec!["ping", "-n", "-c1", "-W1"];
        args.extend(more);
        args.push(to);
        wait_until(&format!("{} pings {to} {more:?}", self.name), SOON, || {
            self.run_for(5, &args).status.success()
        });
    }

    /// Whether `to` answers one of three pings.
    pub fn pings(&self, to: &str) -> bool {
        self.run_for(8, &["ping", "-n", "-c3", "-i0.2", "-W1", to]).status.success()
    }

    /// TCP from inside the host.
    pub fn connect(&self, addr: &str) -> std::io::Result<TcpStream> {
        inside(self, || {
            let addr = addr.parse().expect("socket address");
            let stream = TcpStream::connect_timeout(&addr, Duration::from_secs(5))?;
            stream.set_read_timeout(Some(SOON))?;
            stream.set_write_timeout(Some(SOON))?;
            Ok(stream)
        })
    }

    pub fn listen(&self, addr: &str) -> TcpListener {
        inside(self, || TcpListener::bind(addr).expect("bind"))
    }

    /// Waits until something accepts TCP at `addr` of this host.
    pub fn wait_port(&self, addr: &str) {
        wait_until(&format!("something listens on {addr}"), SOON, || self.connect(addr).is_ok());
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        remove_namespace(&self.name);
        if !(std::thread::panicking() && std::env::var_os("KEEP").is_some()) {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// A process of the laboratory: killed on drop, its log shown when the test fails.
pub struct Process {
    child: Option<Child>,
    log: PathBuf,
}

impl Process {
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the process runs").id()
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid().cast_signed()), signal).expect("signal a process that runs");
    }

    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Waits for the end: exit code, or 128 + signal.
    pub fn wait(&mut self, limit: Duration) -> i32 {
        let mut code = None;
        let log = self.log.clone();
        wait_until(&format!("{} ends", log.display()), limit, || {
            code = self.child.as_mut().expect("the process runs").try_wait().expect("wait");
            code.is_some()
        });
        self.child = None;
        let status = code.expect("ended");
        status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
    }

    /// SIGKILL, at once.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<_> = log.lines().rev().take(40).collect();
            eprintln!("--- last lines of {}", self.log.display());
            tail.iter().rev().for_each(|line| eprintln!("    {line}"));
        }
        self.kill();
    }
}

/// A cable between two hosts: device `w<n>` on both ends, MTU 1500, addressed.
pub struct Link {
    pub device: String,
    pub a: Ipv4Addr,
    pub b: Ipv4Addr,
}

impl Link {
    /// Cuts or mends the cable, at the end of `host`.
    pub fn set(&self, host: &Host, up: bool) {
        host.ok(&["ip", "link", "set", &self.device, if up { "up" } else { "down" }]);
    }
}

pub fn join(a: &Host, b: &Host) -> Link {
    let number = NUMBER.fetch_add(1, Relaxed);
    let device = format!("w{number}");
    let net = |last| Ipv4Addr::new(10, 200, (number % 250) as u8, last);
    let link = Link { device, a: net(1), b: net(2) };
    let dev = link.device.as_str();
    a.ok(&["ip", "link", "add", dev, "type", "veth", "peer", "name", dev, "netns", b.name()]);
    for (host, addr) in [(a, link.a), (b, link.b)] {
        host.ok(&["ip", "addr", "add", &format!("{addr}/24"), "dev", dev]);
        host.ok(&["ip", "link", "set", dev, "up"]);
    }
    link
}

/// Runs `f` in a thread that has entered the host. Sockets made there stay there.
pub fn inside<T: Send>(host: &Host, f: impl FnOnce() -> T + Send) -> T {
    let result = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                let ns = fs::File::open(Path::new("/run/netns").join(host.name())).expect("namespace");
                setns(ns, CloneFlags::CLONE_NEWNET).expect("enter the namespace (root is needed)");
                f()
            })
            .join()
    });
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Polls until `f` is true; panics naming `what` when the limit has passed.
#[track_caller]
pub fn wait_until(what: &str, limit: Duration, mut f: impl FnMut() -> bool) {
    let start = Instant::now();
    while !f() {
        assert!(start.elapsed() < limit, "waited {limit:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A `current_thread` runtime for the asynchronous peers.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), future).await.expect("60 s") })
}

/// Runs a command outside any host; it must succeed.
pub fn sh(args: &[&str]) -> String {
    let output = Command::new(args[0]).args(&args[1..]).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("run {args:?}: {error}"));
    assert!(output.status.success(), "{args:?}: {}", said(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Exit status and output of a command, for messages.
pub fn said(output: &Output) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).trim().to_owned();
    format!("{}; {} {}", output.status, text(&output.stdout), text(&output.stderr))
}

/// Kills what runs in the namespace, by pid, and deletes it.
fn remove_namespace(name: &str) {
    if let Ok(output) = Command::new("ip").args(["netns", "pids", name]).output() {
        for pid in String::from_utf8_lossy(&output.stdout).lines().filter_map(|line| line.parse().ok()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    let _ = Command::new("ip").args(["netns", "del", name]).stderr(Stdio::null()).status();
}

/// Removes the namespaces of test processes that were killed before they could.
fn sweep() {
    let Ok(entries) = fs::read_dir("/run/netns") else { return };
    for name in entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-')).map(|(pid, _)| pid);
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            remove_namespace(&name);
            let _ = fs::remove_dir_all(std::env::temp_dir().join(&name));
        }
    }
}
