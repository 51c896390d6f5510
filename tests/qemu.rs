//! Virtual machines as ports: by hand, from wire.md's account of `-netdev stream` alone, and QEMU itself.

mod lab;

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lab::frames::{BROADCAST, PROBE, Wire, ethertype, frame, mac, mac_text, payload};
use lab::packets::{Packet, Vnet};
use lab::{Host, Process, SOON, Switch, inside, wait_until};
use nix::sys::signal::Signal;
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);
/// wire.md's one constant.
const MAX_FRAME: usize = 65_597;

/// What a machine's network card is connected by.
struct Machine<S> {
    stream: S,
    got: Vec<u8>,
}

impl Machine<UnixStream> {
    fn join(path: &Path) -> Self {
        let stream = UnixStream::connect(path).expect("connect");
        stream.set_read_timeout(Some(Duration::from_millis(100))).expect("timeout");
        stream.set_write_timeout(Some(LIMIT)).expect("timeout");
        Self::on(stream)
    }
}

impl<S: Read + Write> Machine<S> {
    fn on(stream: S) -> Self {
        Self { stream, got: Vec::new() }
    }

    fn send(&mut self, frame: &[u8]) {
        self.stream.write_all(&behind_its_length(frame)).expect("send");
    }

    /// The next frame, whosever it is.
    fn next(&mut self, deadline: Instant) -> Option<Vec<u8>> {
        loop {
            if let Some((prefix, rest)) = self.got.split_first_chunk() {
                let len = u32::from_be_bytes(*prefix) as usize;
                assert!(len <= MAX_FRAME, "a frame of {len} bytes");
                if rest.len() >= len {
                    let frame = rest[..len].to_vec();
                    self.got.drain(..4 + len);
                    return Some(frame);
                }
            }
            let mut buffer = [0; 65_536];
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(len) => self.got.extend(&buffer[..len]),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => (),
                Err(_) => return None,
            }
            if Instant::now() >= deadline {
                return None;
            }
        }
    }

    fn receives(&mut self, frame: &[u8], limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        std::iter::from_fn(|| self.next(deadline)).any(|got| got == frame)
    }

    /// Whether the switch closes within the limit.
    fn is_closed(&mut self) -> bool {
        let deadline = Instant::now() + LIMIT;
        while Instant::now() < deadline {
            match self.stream.read(&mut [0; 65_536]) {
                Ok(0) => return true,
                Ok(_) => (),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => (),
                Err(_) => return true,
            }
        }
        false
    }
}

fn behind_its_length(frame: &[u8]) -> Vec<u8> {
    [&(frame.len() as u32).to_be_bytes(), frame].concat()
}

/// A switch that listens for machines, as port `vms`, and TAP `t0`.
struct Bench<'h> {
    switch: Switch<'h>,
    path: PathBuf,
    tap: Wire,
}

impl<'h> Bench<'h> {
    fn new(host: &'h Host, options: &[&str]) -> Self {
        let switch = Switch::start(host, &["--no-listen"]);
        switch.ctl_ok(&["addport", "tap", "t0"]);
        let path = host.dir().join("vms.sock");
        let target = format!("unix:{}", path.display());
        switch.ctl_ok(&[&["addport", "qemu", &target], options].concat());
        let tap = Wire::open(host, "t0");
        Self { switch, path, tap }
    }

    /// A machine that is port `name` now.
    fn join(&self, name: &str) -> Machine<UnixStream> {
        let machine = Machine::join(&self.path);
        self.switch.wait_state(name, "up");
        machine
    }

    fn counter(&self, port: &str, reason: &str) -> u64 {
        let entries = self.switch.entries("listCounters");
        let entry = entries.iter().find(|entry| entry["name"] == port);
        entry.and_then(|entry| entry["drops"][reason].as_u64()).unwrap_or(0)
    }

    fn is_there(&self, port: &str) -> bool {
        self.switch.find(port).is_some()
    }

    /// Frames go from `machine` to the TAP and back.
    #[track_caller]
    fn lives(&self, machine: &mut Machine<UnixStream>, station: u32) {
        let out = frame(BROADCAST, mac(station), &[], &payload(60));
        machine.send(&out);
        assert!(self.tap.receives(&out, LIMIT), "from the machine: {}", self.switch.all_drops());
        let back = frame(mac(station), mac(99), &[], &payload(1500));
        self.tap.send(&back);
        assert!(machine.receives(&back, LIMIT), "to the machine: {}", self.switch.all_drops());
    }
}

#[test]
fn each_machine_becomes_a_port_and_goes_with_it() {
    let host = Host::new();
    let bench = Bench::new(&host, &["--access", "7"]);
    let mode = bench.path.metadata().expect("the socket").permissions().mode() & 0o777;
    assert_eq!(mode, 0o660);
    let listener = bench.switch.port("vms");
    assert_eq!((&listener["type"], &listener["state"]), (&json!("qemu"), &json!("listening")));
    bench.switch.ctl_ok(&["setport", "t0", "--access", "7"]);

    let (mut one, mut two) = (bench.join("vms-1"), bench.join("vms-2"));
    let port = bench.switch.port("vms-1");
    let pid = format!("pid {}", std::process::id());
    assert_eq!((&port["type"], &port["vlan"]), (&json!("qemu"), &json!("access 7")));
    assert_eq!((&port["target"], &port["peer"]), (&listener["target"], &json!(pid)));
    bench.lives(&mut one, 1);
    bench.lives(&mut two, 2);
    let between = frame(mac(2), mac(1), &[], &payload(1500));
    one.send(&between);
    assert!(two.receives(&between, LIMIT));
    // The listener is no way out: what is flooded is not dropped there.
    assert_eq!(bench.switch.entries("listCounters")[1]["drops"], json!({}), "{}", bench.switch.all_drops());

    let why = bench.switch.ctl_err(1, &["addfdb", &mac_text(mac(5)), "vms"]);
    assert!(why.contains("name a machine's port"), "{why}");
    bench.switch.ctl_ok(&["addfdb", &mac_text(mac(5)), "vms-1", "--vid", "7"]);

    drop(one);
    wait_until("the port is gone", LIMIT, || !bench.is_there("vms-1"));
    assert!(bench.switch.fdb().iter().all(|(_, station, _)| *station != mac_text(mac(5))));
    assert!(bench.switch.fdb().iter().all(|(_, station, _)| *station != mac_text(mac(1))));
    let mut again = bench.join("vms-1");
    assert!(
        bench.switch.port("vms-1")["port"].as_u64() > port["port"].as_u64(),
        "numbers are not used again"
    );

    // What is set for the listener is set for its machines, those to come too.
    bench.switch.ctl_ok(&["setport", "vms", "--access", "8", "--isolated", "1"]);
    bench.switch.ctl_ok(&["setport", "t0", "--access", "8"]);
    for name in ["vms-1", "vms-2"] {
        let port = bench.switch.port(name);
        assert_eq!((&port["vlan"], &port["isolated"]), (&json!("access 8"), &json!(true)), "{name}");
    }
    bench.lives(&mut again, 3);
    let mut three = bench.join("vms-3");
    bench.lives(&mut three, 4);
    bench.switch.ctl_ok(&["setport", "vms", "--shut", "1"]);
    assert_eq!(bench.switch.state("vms-3"), "shut");
    assert!(Machine::join(&bench.path).is_closed(), "nobody is let in");
    bench.switch.ctl_ok(&["setport", "vms", "--shut", "0"]);

    bench.switch.ctl_ok(&["delport", "vms-3"]);
    assert!(three.is_closed());
    assert!(bench.is_there("vms"));
    bench.switch.ctl_ok(&["delport", "vms"]);
    assert!(!bench.path.exists() && !bench.is_there("vms-1") && !bench.is_there("vms-2"));
    assert!(two.is_closed() && again.is_closed());
}

#[test]
fn bad_17_a_length_that_no_frame_has_closes_that_machine_alone() {
    let host = Host::new();
    let bench = Bench::new(&host, &[]);
    let mut other = bench.join("vms-1");
    for (count, len) in [MAX_FRAME as u32 + 1, u32::MAX].into_iter().enumerate() {
        let mut bad = bench.join("vms-2");
        bench.lives(&mut bad, 2);
        let good = frame(BROADCAST, mac(2), &[], &payload(60));
        // What came before it is forwarded, what comes behind it is nobody's.
        bad.stream
            .write_all(&[behind_its_length(&good), len.to_be_bytes().to_vec(), vec![0; 100]].concat())
            .expect("send");
        assert!(bench.tap.receives(&good, LIMIT));
        assert!(bad.is_closed());
        wait_until("the port is gone", LIMIT, || !bench.is_there("vms-2"));
        wait_until("it is counted", LIMIT, || bench.switch.drops("message-size") == count as u64 + 1);
        bench.lives(&mut other, 1);
    }
    let log = bench.switch.process.log();
    assert!(log.contains("announced a frame of 4294967295 bytes, more than 65597"), "{log}");
}

#[test]
fn bad_29_frames_come_whole_however_they_are_cut() {
    let host = Host::new();
    let bench = Bench::new(&host, &[]);
    let mut machine = bench.join("vms-1");
    let whole = frame(BROADCAST, mac(1), &[], &payload(50));
    for byte in behind_its_length(&whole) {
        machine.stream.write_all(&[byte]).expect("send");
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(bench.tap.receives(&whole, LIMIT));
    // Many in one write, with the start of another that stays where it is while others go on.
    let many: Vec<_> = (0..50).map(|n| frame(BROADCAST, mac(1), &[], &payload(60 + n))).collect();
    let last = frame(BROADCAST, mac(1), &[], &payload(1000));
    let start = &behind_its_length(&last)[..500];
    let bytes: Vec<u8> =
        many.iter().flat_map(|frame| behind_its_length(frame)).chain(start.to_vec()).collect();
    machine.stream.write_all(&bytes).expect("send");
    assert!(many.iter().all(|frame| bench.tap.receives(frame, LIMIT)));
    let mut other = bench.join("vms-2");
    bench.lives(&mut other, 2);
    machine.stream.write_all(&behind_its_length(&last)[500..]).expect("send");
    assert!(bench.tap.receives(&last, LIMIT));
    // Nothing is left of one that ends in the middle of a frame.
    machine.stream.write_all(start).expect("send");
    drop(machine);
    wait_until("the port is gone", LIMIT, || !bench.is_there("vms-1"));
    bench.lives(&mut other, 2);
}

#[test]
fn bad_30_runts_are_dropped_by_name_and_a_flood_is_limited() {
    let host = Host::new();
    let bench = Bench::new(&host, &["--storm", "broadcast=50", "--max-macs", "2"]);
    let mut machine = bench.join("vms-1");
    for len in 0..14 {
        machine.send(&vec![2; len]);
    }
    // And no bytes at all, a hundred thousand times.
    machine.stream.write_all(&[0; 400_000]).expect("send");
    wait_until("they are counted", LIMIT, || bench.counter("vms-1", "runt") == 14 + 100_000);
    let storm = behind_its_length(&frame(BROADCAST, mac(1), &[], &payload(60))).repeat(1000);
    machine.stream.write_all(&storm).expect("send");
    wait_until("the storm is limited", LIMIT, || bench.counter("vms-1", "storm-broadcast") > 800);
    for station in 2..5 {
        machine.send(&frame(mac(99), mac(station), &[], &payload(60)));
    }
    wait_until("stations are", LIMIT, || bench.counter("vms-1", "mac-limit") > 0);
    let mut other = bench.join("vms-2");
    bench.lives(&mut other, 9);
    assert_eq!(bench.switch.state("vms-1"), "up");
}

#[test]
fn bad_67_a_machine_that_reads_nothing_is_nobody_else_s_loss() {
    let host = Host::new();
    let bench = Bench::new(&host, &[]);
    let mut slow = Machine::join(&bench.path);
    bench.switch.wait_state("vms-1", "up");
    let mut other = bench.join("vms-2");
    bench.lives(&mut slow, 1);
    bench.lives(&mut other, 2);
    let flood = frame(mac(1), mac(99), &[], &payload(1400));
    wait_until("the queue is full", LIMIT, || {
        (0..500).for_each(|_| bench.tap.send(&flood));
        bench.counter("vms-1", "queue-full") + bench.counter("vms-1", "queue-delay") > 500
    });
    bench.lives(&mut other, 2);
    wait_until("it is closed", LIMIT, || !bench.is_there("vms-1"));
    let log = bench.switch.process.log();
    assert!(log.contains("virtual machine gone: the peer took no data for 10 s"), "{log}");
    assert_eq!(bench.switch.drops("stuck"), 1);
    bench.lives(&mut other, 2);
}

#[test]
fn super_frames_reach_a_machine_as_on_a_cable() {
    let host = Host::new();
    let bench = Bench::new(&host, &[]);
    bench.switch.ctl_ok(&["setif", "t0", "--address", "10.9.0.1/24"]);
    assert!(bench.switch.port("t0")["offload"].as_str().is_some_and(|offload| offload.contains("tso")));
    let mut machine = bench.join("vms-1");
    bench.lives(&mut machine, 1);
    let station = mac_text(mac(1));
    host.ok(&["ip", "neigh", "replace", "10.9.0.2", "lladdr", &station, "dev", "t0"]);
    // What the kernel leaves unfinished: a checksum, and many datagrams in one.
    let socket = inside(&host, || UdpSocket::bind("10.9.0.1:0")).expect("bind");
    setsockopt(&socket.as_fd(), sockopt::UdpGsoSegment, &1000).expect("UDP_SEGMENT");
    assert_eq!(socket.send_to(&[7; 20_500], "10.9.0.2:9").expect("send"), 20_500);
    let mut lengths = Vec::new();
    while lengths.len() < 21 {
        let frame = machine.next(Instant::now() + LIMIT).expect("a frame");
        let Some(packet) = Packet::parse(Vnet::default(), None, &frame)
            .filter(|packet| packet.protocol == lab::packets::UDP)
        else {
            continue;
        };
        assert_eq!(packet.check(), Ok(()));
        lengths.push(packet.payload().len());
    }
    assert_eq!(lengths[..20], [1000; 20]);
    assert_eq!(lengths[20], 500);
}

#[test]
fn the_loop_guard_s_probes_are_not_for_machines() {
    let host = Host::new();
    let bench = Bench::new(&host, &[]);
    let mut machine = bench.join("vms-1");
    bench.lives(&mut machine, 1);
    let deadline = Instant::now() + LIMIT;
    let probes = std::iter::from_fn(|| bench.tap.next(deadline)).filter(|frame| ethertype(frame) == PROBE);
    assert_eq!(probes.take(3).count(), 3, "the TAP is probed");
    let marker = frame(mac(1), mac(99), &[], &payload(60));
    bench.tap.send(&marker);
    let deadline = Instant::now() + LIMIT;
    let before = std::iter::from_fn(|| machine.next(deadline)).take_while(|got| *got != marker);
    assert_eq!(before.filter(|got| ethertype(got) == PROBE).count(), 0);
}

#[test]
fn a_socket_is_taken_from_the_dead_and_left_to_the_living() {
    let host = Host::new();
    let mut bench = Bench::new(&host, &[]);
    let switch = &bench.switch;
    let target = |name: &str| format!("unix:{}", host.dir().join(name).display());
    let refused = |target: &str| switch.ctl_err(1, &["addport", "qemu", target]);
    let why = refused(&target("vms.sock"));
    assert!(why.contains("vms.sock is port 2 already"), "{why}");
    let living = UnixListener::bind(host.dir().join("living.sock")).expect("bind");
    let why = refused(&target("living.sock"));
    assert!(why.contains("living.sock; stop it, or name another socket in the port's target"), "{why}");
    host.file("file", "mine");
    let why = refused(&target("file"));
    assert!(why.contains("is not a socket"), "{why}");
    assert_eq!(std::fs::read(host.dir().join("file")).expect("it is still there"), b"mine");
    drop(living);
    switch.ctl_ok(&["addport", "qemu", &target("living.sock")]);
    assert_eq!(switch.state("living"), "listening");

    // Out of reach once it runs, and what to do about it.
    let elsewhere = Host::new();
    let outside = format!("unix:{}", elsewhere.dir().join("vms.sock").display());
    let why = refused(&outside);
    assert!(why.contains("sandbox does not let etherws write there") && why.contains("[sandbox]"), "{why}");

    // Whoever reaches it would be in.
    let why = switch.ctl_err(2, &["addport", "qemu", "tcp:0.0.0.0:5000"]);
    assert!(why.contains("--anonymous"), "{why}");
    switch.ctl_ok(&["addport", "qemu", "tcp:0.0.0.0:5000", "--anonymous", "--name", "open"]);
    let _machine = host.connect("127.0.0.1:5000").expect("it listens");
    switch.wait_state("open-1", "up");

    // What paces TCP is for links, and nothing of such a change is made.
    let asked = json!({"type": "qemu", "target": target("paced.sock"), "congestion": "cubic"});
    assert_eq!(switch.rpc("addPort", asked).unwrap_err()["code"], -32602);
    assert!(!host.dir().join("paced.sock").exists());
    for port in ["vms", "open", "open-1"] {
        let why = switch.ctl_err(1, &["setport", port, "--congestion", "cubic", "--isolated", "1"]);
        assert!(why.contains("congestion: a qemu port has none"), "{why}");
        assert_eq!(switch.port(port)["isolated"], json!(false));
    }

    // SIGKILL leaves a dead one; an orderly end leaves none.
    bench.switch.kill_and_restart();
    assert!(bench.path.exists());
    bench.switch.ctl_ok(&["addport", "qemu", &target("vms.sock")]);
    let mut machine = bench.join("vms-1");
    bench.switch.process.signal(Signal::SIGTERM);
    assert!(machine.is_closed());
    assert_eq!(bench.switch.process.wait(LIMIT), 0);
    assert!(!bench.path.exists());
}

#[test]
fn one_that_listens_is_dialled_again_and_again() {
    let host = Host::new();
    let switch = Switch::start(&host, &["--no-listen"]);
    switch.ctl_ok(&["addport", "tap", "t0"]);
    let tap = Wire::open(&host, "t0");
    let path = host.dir().join("vm.sock");
    switch.ctl_ok(&["addport", "qemu", &format!("unix:{}", path.display()), "--connect"]);
    switch.wait_reason("vm", &["could not connect to unix:"]);
    switch.ctl_ok(&["addport", "qemu", "tcp:localhost:5001", "--connect", "--name", "by-tcp"]);
    switch.wait_reason("by-tcp", &["connection refused"]);
    let number = switch.port("vm")["port"].clone();
    for round in 1..3 {
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).expect("bind");
        let (stream, _) = listener.accept().expect("accept");
        stream.set_read_timeout(Some(Duration::from_millis(100))).expect("timeout");
        let mut machine = Machine::on(stream);
        let out = frame(BROADCAST, mac(1), &[], &payload(60));
        machine.send(&out);
        assert!(tap.receives(&out, LIMIT));
        let back = frame(mac(1), mac(2), &[], &payload(60));
        tap.send(&back);
        assert!(machine.receives(&back, LIMIT));
        let port = switch.port("vm");
        assert_eq!((&port["state"], &port["port"]), (&json!("up"), &number));
        assert_eq!(port["connects"], round);
        drop((machine, listener));
        switch.wait_reason("vm", &["ended the connection", "broke", "could not connect"]);
    }
    let listener: TcpListener = host.listen("127.0.0.1:5001");
    let (stream, _) = listener.accept().expect("accept");
    stream.set_read_timeout(Some(Duration::from_millis(100))).expect("timeout");
    let mut machine = Machine::on(stream);
    let out = frame(BROADCAST, mac(3), &[], &payload(60));
    machine.send(&out);
    assert!(tap.receives(&out, LIMIT));
}

#[test]
fn what_listens_is_saved_and_what_came_in_is_not() {
    let host = Host::new();
    let file = host.file("etherws.toml", "");
    let switch = Switch::start(&host, &["--no-listen", "--config", &file]);
    let path = host.dir().join("vms.sock");
    switch.ctl_ok(&["addport", "qemu", &format!("unix:{}", path.display()), "--max-macs", "3"]);
    switch.ctl_ok(&["addport", "qemu", "tcp:127.0.0.1:5001", "--connect", "--name", "far"]);
    let _machine = Machine::join(&path);
    switch.wait_state("vms-1", "up");
    switch.ctl_ok(&["saveconf"]);
    let text = std::fs::read_to_string(&file).expect("saved");
    assert_eq!(text.matches("[[port]]").count(), 2, "{text}");
    switch.ctl_ok(&["reload"]);
    assert_eq!(switch.state("vms-1"), "up", "nothing differs");
    drop(switch);

    let switch = Switch::start(&host, &["--no-listen", "--config", &file]);
    assert_eq!(switch.state("vms"), "listening");
    let _machine = Machine::join(&path);
    switch.wait_state("vms-1", "up");
    switch.wait_reason("far", &["refused"]);
    // A file that names it no more ends it, and who came in by it.
    std::fs::write(&file, "").expect("written");
    switch.ctl_ok(&["reload"]);
    assert!(switch.find("vms").is_none() && switch.find("vms-1").is_none() && !path.exists());
}

#[test]
fn there_are_so_many_machines_and_no_more() {
    let host = Host::new();
    let bench = Bench::new(&host, &[]);
    let machines: Vec<_> = (0..256).map(|_| Machine::join(&bench.path)).collect();
    wait_until("all are in", LIMIT, || bench.is_there("vms-256"));
    assert!(Machine::join(&bench.path).is_closed());
    let ports = bench.switch.entries("listPort");
    assert_eq!(ports.iter().filter(|port: &&Value| port["state"] == "up").count(), 256 + 1);
    drop(machines);
    wait_until("all are gone", LIMIT, || bench.switch.entries("listPort").len() == 2);
    bench.lives(&mut bench.join("vms-1"), 1);
}

/// A machine without a disk: its firmware asks for an address, by DHCP.
fn qemu(host: &Host, log: &str, netdev: &str) -> Option<Process> {
    let program = "qemu-system-x86_64";
    if !host.run(&["sh", "-c", &format!("command -v {program}")]).status.success() {
        eprintln!("SKIPPED: no {program} here; scripts/install-deps.sh installs it");
        return None;
    }
    let card = format!("virtio-net-pci,netdev=n,mac={MAC}");
    let args =
        ["-nodefaults", "-display", "none", "-m", "64", "-boot", "n", "-netdev", netdev, "-device", &card];
    Some(host.spawn(log, &[&[program], &args[..]].concat()))
}

const MAC: &str = "52:54:00:12:34:57";

/// Waits for the machine's DHCPDISCOVER on the TAP.
#[track_caller]
fn asks_for_an_address(bench: &Bench<'_>, machine: &Process) {
    let from = [0x52, 0x54, 0, 0x12, 0x34, 0x57];
    let is = |frame: &Vec<u8>| {
        // IPv4, UDP, from port 68 to port 67
        frame[..6] == BROADCAST
            && frame[6..12] == from
            && frame.len() > 282
            && frame[23] == 17
            && frame[34..38] == [0, 68, 0, 67]
    };
    let deadline = Instant::now() + Duration::from_secs(90);
    let asked = std::iter::from_fn(|| bench.tap.next(deadline)).any(|frame| is(&frame));
    assert!(asked, "{}\n{}\n{}", bench.switch.all_drops(), machine.log(), bench.switch.process.log());
}

#[test]
fn qemu_itself_is_a_port() {
    let host = Host::new();
    let bench = Bench::new(&host, &[]);
    let stream = format!("stream,id=n,server=off,addr.type=unix,addr.path={}", bench.path.display());
    let Some(machine) = qemu(&host, "stream", &stream) else { return };
    asks_for_an_address(&bench, &machine);
    assert_eq!(bench.switch.port("vms-1")["peer"], format!("pid {}", machine.pid()));
    drop(machine);
    wait_until("the port is gone", SOON, || !bench.is_there("vms-1"));
    // The older way to say the same, by TCP.
    bench.switch.ctl_ok(&["addport", "qemu", "tcp:5000", "--name", "old"]);
    let machine = qemu(&host, "socket", "socket,id=n,connect=127.0.0.1:5000").expect("it was there");
    asks_for_an_address(&bench, &machine);
    assert_eq!(bench.switch.state("old-1"), "up");
}

#[test]
fn a_qemu_that_listens_is_dialled() {
    let host = Host::new();
    let bench = Bench::new(&host, &[]);
    let path = host.dir().join("vm.sock");
    bench.switch.ctl_ok(&["addport", "qemu", &format!("unix:{}", path.display()), "--connect"]);
    let stream = format!("stream,id=n,server=on,addr.type=unix,addr.path={}", path.display());
    let Some(machine) = qemu(&host, "server", &stream) else { return };
    bench.switch.wait_state_for("vm", "up", LIMIT);
    asks_for_an_address(&bench, &machine);
}
