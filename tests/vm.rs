//! Virtual machines with a kernel of their own (`make test-vm`): Debian's, and a busybox, made by scripts/vm.sh. One runs in
//! a browser; two are on two switches:
//!
//!     host A                                        host B
//!     VM 1 - vm0 - br0 - ews0 - etherws ---wss--- etherws - vms.sock - VM 2
//!                                                    t0, with a DHCP server
//!
//! The figures that it prints are what docs/vms.md names; only what has to be so is asserted.

mod lab;

use std::fmt::Display;
use std::io::{ErrorKind, Read, Write};
use std::net::UdpSocket;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use lab::servers::{Ca, dnsmasq};
use lab::switch::TwoHosts;
use lab::{Host, Process, SOON, Switch, inside, wait_until};

const MIB: usize = 1 << 20;
/// What goes each way.
const BULK: usize = 100 * MIB;
/// For all that a machine does: without KVM it is slow.
const PATIENCE: Duration = Duration::from_secs(300);

#[test]
#[ignore = "needs what scripts/vm.sh makes: make test-vm"]
fn two_machines_on_two_switches_joined_by_wss() {
    let table = Table::default();
    let hosts = TwoHosts::new();
    let (a, b) = (&hosts.a, &hosts.b);
    let accel = accelerator(a);
    table.row("machines run by", accel);
    let ca = Ca::new("lab");
    let pem = ca.server(b, "b", &[&hosts.link.b.to_string()]);
    let switch_b = Switch::start(b, &["--sslcert", &pem.cert, "--sslkey", &pem.key]);
    let switch_a = Switch::start(a, &["--no-listen"]);
    let (url, trusted) = (format!("wss://{}/", hosts.link.b), a.file("ca.pem", &ca.pem));
    switch_a.ctl_ok(&["addport", "client", &url, "--name", "link", "--cacerts", &trusted]);
    switch_a.wait_state("link", "up");

    // A's machine on a TAP of its own, in a bridge with the switch's: the recipe of the README.
    for args in [
        "ip link add br0 type bridge",
        "ip link set br0 mtu 9000 up",
        "ip tuntap add vm0 mode tap",
        "ip link set vm0 mtu 9000 master br0 up",
    ] {
        a.ok(&args.split(' ').collect::<Vec<_>>());
    }
    switch_a.ctl_ok(&["addport", "tap", "ews0", "--mtu", "9000"]);
    a.ok(&["ip", "link", "set", "ews0", "master", "br0"]);
    // B's on a QEMU port.
    let socket = b.dir().join("vms.sock");
    switch_b.ctl_ok(&["addport", "qemu", &format!("unix:{}", socket.display())]);
    switch_b.ctl_ok(&["addport", "tap", "t0", "--mtu", "9000", "--address", "10.9.0.1/24"]);
    let _dhcp = dnsmasq(b, "t0", "10.9.0.50", "10.9.0.99");

    let tap = "tap,id=n,ifname=vm0,script=no,downscript=no";
    let stream = format!("stream,id=n,server=off,addr.type=unix,addr.path={}", socket.display());
    let mut one = Vm::start(a, accel, tap, "52:54:00:00:00:01");
    let mut two = Vm::start(b, accel, &stream, "52:54:00:00:00:02");
    switch_b.wait_state_for("vms-1", "up", PATIENCE);

    let (at_one, at_two) = (one.lease(), two.lease());
    table.row("DHCP leases across the link, TAP machine and QEMU port", format!("{at_one} {at_two}"));

    let idle = one.ping(&at_two, 20);
    table.row("ping, idle", &idle);

    for vm in [&mut one, &mut two] {
        assert_eq!(vm.ok("cat /sys/class/net/eth0/mtu"), "9000", "what host_mtu says");
    }
    one.ok(&format!("ping -c 3 -s 8000 {at_two}"));
    two.ok(&format!("ping -c 3 -s 8000 {at_one}"));
    for vm in [&mut one, &mut two] {
        let fragments = vm.ok("awk '/^Ip: [0-9]/ { print $15 + $20 }' /proc/net/snmp");
        assert_eq!(fragments, "0", "8,000 bytes went in one frame");
    }
    table.row("MTU 9000: ping of 8,000 bytes", "both ways, no fragments");

    for (vm, last) in [(&mut one, 1), (&mut two, 2)] {
        vm.ok("ip link add link eth0 name eth0.10 type vlan id 10");
        vm.ok(&format!("ip addr add 10.10.0.{last}/24 dev eth0.10"));
        vm.ok("ip link set eth0.10 up");
    }
    one.ok("ping -c 3 10.10.0.2");
    table.row("VLAN 10 inside", "ping");
    for (switch, port) in [(&switch_a, "ews0"), (&switch_b, "vms-1")] {
        let learned = switch.fdb().into_iter().any(|(vid, _, name)| vid == 10 && name == port);
        assert!(learned, "VLAN 10 at {port}: {:?}", switch.fdb());
    }

    for vm in [&mut one, &mut two] {
        vm.ok(&format!("dd if=/dev/urandom of=/tmp/bulk bs=1M count={}", BULK / MIB));
        vm.ok("httpd -p 80 -h /tmp");
    }
    for mtu in [9000, 1500] {
        for vm in [&mut one, &mut two] {
            vm.ok(&format!("ip link set eth0 mtu {mtu}"));
        }
        let (speed, loaded) = bulk(&mut one, &mut two, &at_one);
        table.row(format!("100 MiB, TAP machine to QEMU port, MTU {mtu}"), speed);
        table.row("    ping meanwhile", loaded);
        let (speed, loaded) = bulk(&mut two, &mut one, &at_two);
        table.row(format!("100 MiB, QEMU port to TAP machine, MTU {mtu}"), speed);
        table.row("    ping meanwhile", loaded);
    }

    // The QEMU port by itself: its own switch's TAP is the other end.
    let sum = two.sha256();
    let folder = b.dir().join("www");
    std::fs::create_dir(&folder).expect("a folder");
    let (folder, file) = (folder.display().to_string(), folder.join("bulk").display().to_string());
    let start = Instant::now();
    let got = b.run_for(300, &["curl", "-s", "-o", &file, &format!("http://{at_two}/bulk")]);
    table.row("100 MiB, QEMU port to a TAP of its switch", speed(start.elapsed()));
    assert!(got.status.success(), "{}", lab::said(&got));
    assert_eq!(first_word(&lab::sh(&["sha256sum", &file])), sum);
    let _server = b.spawn("httpd", &["busybox", "httpd", "-f", "-p", "10.9.0.1:80", "-h", &folder]);
    b.wait_port("10.9.0.1:80");
    let start = Instant::now();
    two.ok("wget -q -O /tmp/got http://10.9.0.1/bulk");
    table.row("100 MiB, a TAP of its switch to the QEMU port", speed(start.elapsed()));
    let got = two.ok("sha256sum /tmp/got");
    assert_eq!(first_word(&got), sum);

    println!("drops at A: {}\ndrops at B: {}", switch_a.all_drops(), switch_b.all_drops());
    drop(two);
    wait_until("the machine's port is gone", SOON, || switch_b.find("vms-1").is_none());
}

/// Follows examples/browser-vm/README.md.
#[test]
#[ignore = "needs what examples/browser-vm/make.sh makes: make test-vm"]
fn a_machine_in_a_browser_is_paced() {
    let table = Table::default();
    let hosts = TwoHosts::new();
    let (a, b) = (&hosts.a, &hosts.b);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = root.join("target/browser-vm");
    assert!(page.join("vmlinuz").exists(), "no page in {}: examples/browser-vm/make.sh", page.display());
    let token = "0123456789abcdef0123456789abcdef";
    let tokens = b.file("tokens", format!("kiosk {token}\n"));
    let example =
        std::fs::read_to_string(root.join("examples/browser-vm/etherws.toml")).expect("the example");
    let origin = format!("http://{}:8000", hosts.link.b);
    let config = example.replace("/etc/etherws/tokens", &tokens).replace("http://localhost:8000", &origin);
    let switch = Switch::start(b, &["--config", &b.file("etherws.toml", config)]);
    let _dhcp = dnsmasq(b, "tap0", "10.77.0.50", "10.77.0.99");
    let folder = page.to_str().expect("UTF-8 path");
    let _server = b.spawn("http", &["python3", "-m", "http.server", "8000", "--directory", folder]);
    b.wait_port("127.0.0.1:8000");

    let start = Instant::now();
    let relay = format!("ws://{}:8080/?token={token}", hosts.link.b);
    let mut vm = Vm::in_browser(a, &format!("{origin}/#relay={relay}&agent=ttyS1"));
    table.row("browser: started after", format!("{:.0} s", start.elapsed().as_secs_f64()));
    let lease = vm.lease();
    table.row("DHCP lease in the browser", &lease);
    assert_eq!(switch.port("kiosk")["user"], "kiosk");
    table.row("ping from the browser to a TAP host", vm.ping("10.77.0.1", 10));
    b.ping(&lease);

    let sum = lab::sh(&["sha256sum", page.join("initrd").to_str().expect("UTF-8 path")]);
    let mut arrived = Vec::new();
    for pace in ["0", "8000000", "4000000", "2000000"] {
        switch.ctl_ok(&["setport", "kiosk", "--pace", pace]);
        let name = if pace == "0" { "no pace".to_owned() } else { format!("pace = {pace}") };
        let before = switch.drops("queue-delay");
        let got = bursts(b, &mut vm, &lease);
        let late = switch.drops("queue-delay") - before;
        let what = format!("{name}: of {} datagrams in bursts of {BURST}", BURST * BURSTS);
        table.row(what, format!("{got} arrived, {late} dropped as queue-delay"));
        arrived.push(got);
        let start = Instant::now();
        let fetched = vm.ok("wget -q -O - http://10.77.0.1:8000/initrd | sha256sum");
        let took = start.elapsed().as_secs_f64();
        assert_eq!(first_word(&fetched), first_word(&sum));
        table.row(format!("{name}: a download of 1 MiB"), format!("{took:.1} s"));
    }
    assert!(arrived[2] > arrived[0], "a pace loses less: {arrived:?}");
    println!("drops by port: {}", switch.all_drops());
}

const BURST: usize = 32;
const BURSTS: usize = 20;

/// How many of these datagrams of 1,472 bytes got past the machine's network card.
fn bursts(from: &Host, vm: &mut Vm, to: &str) -> usize {
    let seen = |vm: &mut Vm| -> usize {
        let text = vm.ok("awk '/^Udp: [0-9]/ { print $2 + $3 }' /proc/net/snmp");
        text.parse().unwrap_or_else(|_| panic!("a number: {text}"))
    };
    let before = seen(vm);
    let socket = inside(from, || UdpSocket::bind("10.77.0.1:0")).expect("bind");
    for _ in 0..BURSTS {
        for _ in 0..BURST {
            socket.send_to(&[7; 1472], (to, 9)).expect("send");
        }
        std::thread::sleep(Duration::from_millis(400));
    }
    seen(vm) - before
}

/// `to` fetches what `from` has, and pings meanwhile: the speed, and the ping.
fn bulk(from: &mut Vm, to: &mut Vm, address: &str) -> (String, String) {
    let sum = from.sha256();
    let start = Instant::now();
    to.ok(&format!(
        "ping -i 0.2 {address} >/tmp/ping & wget -q -O /tmp/got http://{address}/bulk; kill -INT $!; wait $!; true"
    ));
    let took = start.elapsed();
    let got = to.ok("sha256sum /tmp/got; rm /tmp/got");
    assert_eq!(first_word(&got), sum, "what {address} sent has changed on its way");
    (speed(took), round_trip(&to.ok("cat /tmp/ping")))
}

fn speed(took: Duration) -> String {
    format!("{:.0} Mb/s", BULK as f64 * 8.0 / 1e6 / took.as_secs_f64())
}

fn first_word(text: &str) -> String {
    text.split_whitespace().next().unwrap_or_default().to_owned()
}

/// `round-trip min/avg/max = 0.3/0.4/0.9 ms` of busybox's ping.
#[track_caller]
fn round_trip(text: &str) -> String {
    let times = text.lines().find_map(|line| line.strip_prefix("round-trip "));
    times.unwrap_or_else(|| panic!("no answer: {text}")).to_owned()
}

/// A machine and the line on which it is told what to do.
struct Vm {
    process: Process,
    line: UnixStream,
    got: Vec<u8>,
    console: PathBuf,
}

impl Vm {
    #[track_caller]
    fn start(host: &Host, accel: &str, netdev: &str, mac: &str) -> Self {
        let mut vm =
            Self::switch_on(host, accel, &["-netdev", netdev], mac).unwrap_or_else(|log| panic!("{log}"));
        vm.answer(PATIENCE);
        vm
    }

    /// The error is what QEMU says to it.
    fn switch_on(host: &Host, accel: &str, netdev: &[&str], mac: &str) -> Result<Self, String> {
        let parts = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/vm/amd64");
        assert!(parts.join("initrd").exists(), "no machine in {}: scripts/vm.sh amd64", parts.display());
        let part = |name| parts.join(name).to_str().expect("UTF-8 path").to_owned();
        let (kernel, initrd) = (part("vmlinuz"), part("initrd"));
        let (socket, console) = (host.dir().join("vm.line"), host.dir().join("console.log"));
        let file = format!("file:{}", console.display());
        let line = format!("unix:{},server=on", socket.display());
        let card = format!("virtio-net-pci,netdev=n,mac={mac},host_mtu=9000,romfile=");
        let machine = ["qemu-system-x86_64", "-accel", accel, "-nodefaults", "-no-user-config", "-no-reboot"];
        let inside = ["-display", "none", "-m", "640", "-kernel", &kernel, "-initrd", &initrd];
        let lines = ["-append", "console=ttyS0 panic=-1 agent=ttyS1", "-serial", &file, "-serial", &line];
        let all = [&machine[..], &inside, &lines, netdev, &["-device", &card]].concat();
        Self::behind(host.spawn("qemu", &all), &socket, console)
    }

    /// The machine of examples/browser-vm, as `make.sh` has put it together, in a browser that is shown `url`.
    #[track_caller]
    fn in_browser(host: &Host, url: &str) -> Self {
        let (socket, folder) = (host.dir().join("vm.line"), host.dir().join("chromium"));
        let driver = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser/vm.mjs");
        let paths = [&driver, &socket, &folder].map(|path| path.to_str().expect("UTF-8 path"));
        let process = host.spawn("browser", &["node", paths[0], url, paths[1], paths[2]]);
        let console = host.dir().join("browser.log");
        let mut vm = Self::behind(process, &socket, console).unwrap_or_else(|log| panic!("{log}"));
        vm.answer(PATIENCE);
        vm
    }

    /// Whose second serial line `socket` will be; it waits for us before it starts.
    fn behind(mut process: Process, socket: &Path, console: PathBuf) -> Result<Self, String> {
        let mut connected = None;
        wait_until("there is a serial line", SOON, || {
            connected = UnixStream::connect(socket).ok();
            connected.is_some() || !process.is_running()
        });
        let line = connected.ok_or_else(|| process.log())?;
        line.set_read_timeout(Some(Duration::from_millis(100))).expect("timeout");
        Ok(Self { process, line, got: Vec::new(), console })
    }

    /// Carries out a line of shell; its exit code and what it printed.
    #[track_caller]
    fn run(&mut self, command: &str) -> (i32, String) {
        self.line.write_all(format!("{command}\n").as_bytes()).expect("the machine's line");
        let (text, code) = self.answer(PATIENCE);
        (code.parse().unwrap_or_else(|_| panic!("{command}: {code}")), text)
    }

    #[track_caller]
    fn ok(&mut self, command: &str) -> String {
        let (code, text) = self.run(command);
        assert_eq!(code, 0, "in the machine: {command}: {text}");
        text
    }

    /// What was printed up to the next mark, and what stands at that.
    #[track_caller]
    fn answer(&mut self, limit: Duration) -> (String, String) {
        let answer = self.next_answer(Instant::now() + limit);
        answer.unwrap_or_else(|why| panic!("{why}: {}\n{}", self.process.log(), self.console()))
    }

    fn next_answer(&mut self, deadline: Instant) -> Result<(String, String), String> {
        const MARK: &str = "~~~ ";
        loop {
            let text = String::from_utf8_lossy(&self.got).into_owned();
            if let Some((before, rest)) = text.split_once(MARK)
                && let Some((code, _)) = rest.split_once('\n')
            {
                self.got.drain(..before.len() + MARK.len() + code.len() + 1);
                return Ok((before.trim().to_owned(), code.trim().to_owned()));
            }
            let mut buffer = [0; 4096];
            match self.line.read(&mut buffer) {
                Ok(n @ 1..) => self.got.extend(&buffer[..n]),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => (),
                ended => return Err(format!("the machine ended ({ended:?})")),
            }
            if Instant::now() >= deadline {
                return Err(format!("the machine does not answer: {text}"));
            }
        }
    }

    fn console(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.console).unwrap_or_default()).into_owned()
    }

    #[track_caller]
    fn lease(&mut self) -> String {
        let text = self.ok("udhcpc -n -q -t 30 -T 1 -i eth0 -s /etc/udhcpc.sh 2>&1");
        let lease = text.lines().find_map(|line| line.strip_prefix("lease "));
        first_word(lease.unwrap_or_else(|| panic!("no lease: {text}")))
    }

    #[track_caller]
    fn ping(&mut self, to: &str, count: u32) -> String {
        round_trip(&self.ok(&format!("ping -c {count} -i 0.2 {to}")))
    }

    fn sha256(&mut self) -> String {
        first_word(&self.ok("sha256sum /tmp/bulk"))
    }
}

/// KVM where a machine comes up with it: that there is a /dev/kvm does not say so.
fn accelerator(host: &Host) -> &'static str {
    if !Path::new("/dev/kvm").exists() {
        return "tcg";
    }
    let alone = ["-netdev", "hubport,id=n,hubid=0"];
    let vm = Vm::switch_on(host, "kvm", &alone, "52:54:00:00:00:03");
    let comes_up = vm.is_ok_and(|mut vm| vm.next_answer(Instant::now() + SOON).is_ok());
    if comes_up { "kvm" } else { "tcg" }
}

/// What was seen, printed however the test ends.
#[derive(Default)]
struct Table(Mutex<Vec<(String, String)>>);

impl Table {
    fn row(&self, what: impl Display, seen: impl Display) {
        self.0.lock().expect("one thread").push((what.to_string(), seen.to_string()));
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        let rows = self.0.get_mut().expect("one thread");
        println!();
        rows.iter().for_each(|(what, seen)| println!("| {what:<58} {seen}"));
    }
}
