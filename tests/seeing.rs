//! Looking at frames: captures that tshark reads, what `etherctl trace` says beside what the switch then does, round trips
//! of links; on real devices and between real switches.

mod lab;

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use etherws::frame::bpf::Program;
use lab::frames::{BROADCAST, TYPE, Wire, frame, mac, mac_text, passes, payload};
use lab::streams::{Content, tcp};
use lab::switch::{ETHERCTL, TwoHosts};
use lab::{Host, Process, SOON, Switch, pair, wait_until, ws};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);

/// A switch with TAPs `t0`, `t1`, ... (ports 1, 2, ...) and a packet socket on each.
fn bench<'h>(host: &'h Host, ports: &[&[&str]]) -> (Switch<'h>, Vec<Wire>) {
    let switch = Switch::start(host, &["--no-listen"]);
    let wires = ports.iter().enumerate().map(|(number, args)| {
        let name = format!("t{number}");
        switch.ctl_ok(&[&["addport", "tap", &name], *args].concat());
        Wire::open(host, &name)
    });
    let wires = wires.collect();
    (switch, wires)
}

/// `etherctl capture -w FILE`.
struct Capture<'h> {
    host: &'h Host,
    process: Process,
    file: String,
}

impl<'h> Capture<'h> {
    fn start(host: &'h Host, switch: &Switch<'_>, name: &str, args: &[&str]) -> Self {
        let file = host.dir().join(format!("{name}.pcapng")).display().to_string();
        let url = switch.url();
        let all = [&[ETHERCTL, "--ctlurl", &url, "capture", "-w", &file], args].concat();
        let process = host.spawn(name, &all);
        let capture = Self { host, process, file };
        wait_until("the capture runs", LIMIT, || capture.process.log().contains("capturing"));
        capture
    }

    fn has(&self, words: &[u8]) -> bool {
        fs::read(&self.file).is_ok_and(|bytes| bytes.windows(words.len()).any(|some| some == words))
    }

    /// Waits until the file has all of these.
    #[track_caller]
    fn wait(&self, words: &[&[u8]]) {
        for words in words {
            let what = format!("{:?} is captured", String::from_utf8_lossy(words));
            wait_until(&what, LIMIT, || self.has(words));
        }
    }

    /// Ends it, and what tshark finds: interface, comment, Ethernet addresses and the type, in lines.
    fn read(&mut self) -> Option<Vec<String>> {
        self.process.signal(Signal::SIGINT);
        assert_eq!(self.process.wait(LIMIT), 0, "{}", self.process.log());
        tshark(self.host, &self.file)
    }
}

/// `None`, with a word about it, where there is no tshark.
fn tshark(host: &Host, file: &str) -> Option<Vec<String>> {
    if !host.run(&["tshark", "--version"]).status.success() {
        // Past the harness, which swallows the output of tests that pass.
        let text = "SKIPPED what tshark reads: it is not there (scripts/install-deps.sh test installs it)\n";
        std::io::stderr().write_all(text.as_bytes()).expect("stderr");
        return None;
    }
    let fields = ["frame.interface_name", "frame.comment", "eth.src", "eth.dst", "eth.type", "frame.len"];
    let mut args = vec!["tshark", "-n", "-r", file, "-T", "fields", "-E", "separator=|"];
    fields.iter().for_each(|field| args.extend(["-e", field]));
    Some(host.ok(&args).lines().map(str::to_owned).collect())
}

#[test]
fn tshark_reads_what_came_in_went_out_and_was_dropped() {
    let host = Host::new();
    let (switch, wires) =
        bench(&host, &[&[], &["--ethertypes", "0x88b5", "--access", "7"], &["--access", "7"]]);
    let [t0, t1, t2] = &wires[..] else { unreachable!() };
    let mut capture = Capture::start(&host, &switch, "all", &[]);
    let (through, refused) = (frame(BROADCAST, mac(1), &[], &payload(60)), {
        let mut bytes = frame(BROADCAST, mac(1), &[], &payload(60));
        bytes[12..14].copy_from_slice(&[0x88, 0xcc]);
        bytes
    });
    passes(t1, t2, &through);
    t1.send(&refused);
    let runt_vlan = frame(mac(1), mac(9), &[(0x8100, 7)], &payload(60));
    t2.send(&runt_vlan);
    let alone = frame(BROADCAST, mac(5), &[(0x8100, 99)], &payload(60));
    t0.send(&alone);
    capture.wait(&[
        b"in at port 2 (t1), dropped: ethertype-not-allowed",
        b"in at port 3 (t2), dropped: vlan-tagged",
        b"in at port 1 (t0), dropped: no-egress",
        b"out at port 3 (t2)",
        // Tagged for the port that is in all VLANs.
        b"out at port 1 (t0)",
    ]);
    let Some(lines) = capture.read() else { return };
    let all = lines.join("\n");
    let has = |line: &str| assert!(lines.iter().any(|got| got == line), "{line:?} is not in\n{all}");
    let (one, all_of) = (mac_text(mac(1)), "ff:ff:ff:ff:ff:ff");
    has(&format!("t1|in at port 2 (t1)|{one}|{all_of}|0x88b5|74"));
    has(&format!("t2|out at port 3 (t2)|{one}|{all_of}|0x88b5|74"));
    has(&format!("t0|out at port 1 (t0)|{one}|{all_of}|0x8100|78"));
    has(&format!("t1|in at port 2 (t1), dropped: ethertype-not-allowed|{one}|{all_of}|0x88cc|74"));
    assert!(!capture.process_said("lost"), "{}", capture.process.log());
    let statistics = host.run(&["capinfos", "-M", &capture.file]);
    if statistics.status.success() {
        let text = String::from_utf8_lossy(&statistics.stdout).into_owned();
        assert!(text.contains("Name = switch") && text.contains("Number of stat entries = 1"), "{text}");
    }
}

impl Capture<'_> {
    fn process_said(&self, words: &str) -> bool {
        self.process.log().contains(words)
    }
}

#[test]
fn a_filter_a_port_and_a_count_choose_what_is_captured() {
    let host = Host::new();
    let (switch, wires) = bench(&host, &[&[], &[]]);
    let [t0, t1] = &wires[..] else { unreachable!() };
    let filter = format!("ether proto {TYPE:#x} and ether src {}", mac_text(mac(3)));
    let mut chosen = Capture::start(
        &host,
        &switch,
        "chosen",
        &["--port", "t1", "--filter", &filter, "--count", "1", "--snaplen", "20"],
    );
    for station in [2, 3, 4] {
        passes(t0, t1, &frame(BROADCAST, mac(station), &[], &payload(60)));
    }
    assert_eq!(chosen.process.wait(LIMIT), 0, "{}", chosen.process.log());
    assert!(chosen.process_said("1 frame"), "{}", chosen.process.log());
    assert!(chosen.has(b"out at port 2 (t1)") && !chosen.has(b"port 1 (t0)"));
    if let Some(lines) = tshark(&host, &chosen.file) {
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains(&mac_text(mac(3))) && lines[0].ends_with("|74"), "{lines:?}");
    }
    // As lines, for a while.
    let url = switch.url();
    let mut lines = host.spawn("lines", &[ETHERCTL, "--ctlurl", &url, "capture", "--for", "30s"]);
    wait_until("a line", LIMIT, || {
        t0.send(&frame(BROADCAST, mac(3), &[], &payload(60)));
        lines.log().contains(&format!("in 1 (t0) {} > ff:ff:ff:ff:ff:ff 0x88b5, 74 bytes", mac_text(mac(3))))
    });
    lines.kill();
    let wrong = switch.ctl_err(2, &["capture", "--filter", "ether hos"]);
    assert!(wrong.contains("--filter") && wrong.contains("syntax error"), "{wrong}");
    let wrong = switch.ctl_err(1, &["capture", "--port", "t9"]);
    assert!(wrong.contains("no port t9"), "{wrong}");
}

#[test]
fn between_links_frames_are_captured_without_their_masks() {
    let host = Host::new();
    let switch = Switch::start(&host, &[]);
    let (mut one, mut other) = (ws::open(&host, "127.0.0.1:80"), ws::open(&host, "127.0.0.1:80"));
    wait_until("two links", SOON, || switch.entries("listPort").len() == 2);
    let mut capture = Capture::start(&host, &switch, "links", &["--filter", "ether proto 0x88b5"]);
    let hello = frame(BROADCAST, mac(2), &[], &payload(200));
    other.send(ws::BINARY, &hello);
    assert!(heard(&mut one, &hello));
    // Known by now: these go from link to link under their masks, unless somebody looks on.
    let unicast = frame(mac(2), mac(1), &[], &payload(1200));
    one.send(ws::BINARY, &unicast);
    assert!(heard(&mut other, &unicast));
    let tail = &unicast[unicast.len() - 64..];
    capture.wait(&[tail]);
    let bytes = |capture: &Capture<'_>| {
        let file = fs::read(&capture.file).expect("the capture");
        file.windows(unicast.len()).filter(|some| *some == unicast).count()
    };
    wait_until("in and out", LIMIT, || bytes(&capture) == 2);
    capture.process.signal(Signal::SIGTERM);
    assert_eq!(capture.process.wait(LIMIT), 0);
    let after = frame(mac(2), mac(1), &[], &payload(1200));
    one.send(ws::BINARY, &after);
    assert!(heard(&mut other, &after), "and they pass when nobody looks on any more");
}

fn heard(link: &mut ws::RawWs, frame: &[u8]) -> bool {
    let end = Instant::now() + LIMIT;
    while let Some(message) = link.wait(ws::BINARY, end.saturating_duration_since(Instant::now())) {
        if message == frame {
            return true;
        }
    }
    false
}

#[test]
fn what_a_full_queue_drops_is_captured_by_its_name() {
    let host = Host::new();
    let switch = Switch::start(&host, &[]);
    switch.ctl_ok(&["addport", "tap", "t0", "--storm", "off"]);
    let wire = Wire::open(&host, "t0");
    // It reads nothing.
    let stuck = ws::open(&host, "127.0.0.1:80");
    let port = switch.wait_server_port()["name"].as_str().expect("a name").to_owned();
    let capture = Capture::start(&host, &switch, "queue", &["--port", &port, "--snaplen", "64"]);
    let sent = frame(BROADCAST, mac(1), &[], &payload(1400));
    wait_until("a drop at the queue", LIMIT, || {
        (0..500).for_each(|_| wire.send(&sent));
        capture.has(b"dropped: queue-full") || capture.has(b"dropped: queue-delay")
    });
    let file = fs::read(&capture.file).expect("the capture");
    // The packet stands before its comment: it is in clear, though it lay encoded in the queue.
    let is_ours = |at: usize| file[at.saturating_sub(160)..at].windows(48).any(|some| some == &sent[..48]);
    let dropped = file.windows(14).enumerate().filter(|(_, some)| *some == b"dropped: queue");
    assert!(dropped.map(|(at, _)| at).any(is_ours));
    drop(stuck);
}

#[test]
fn a_super_frame_is_captured_whole_with_its_size() {
    let hosts = TwoHosts::new();
    let pair = pair(&hosts);
    hosts.a.ping("10.1.0.2");
    if pair.a.port("link")["offload"] != "vnet1" {
        panic!("the link carries no super-frames");
    }
    let mut capture = Capture::start(&hosts.a, &pair.a, "super", &["--port", "link", "--filter", "tcp"]);
    let content = Content::new();
    tcp(
        &content,
        &hosts.a,
        &hosts.b,
        SocketAddr::new("10.1.0.2".parse().expect("an address"), 5001),
        1 << 20,
    );
    capture.wait(&[b"super-frame: gso size 14"]);
    let Some(lines) = capture.read() else { return };
    let supers = lines.iter().filter(|line| line.contains("super-frame: gso size 14"));
    let longest = supers.filter_map(|line| line.rsplit('|').next()?.parse::<u32>().ok()).max();
    assert!(longest.is_some_and(|len| len > 1514), "{longest:?}");
}

#[test]
fn what_came_just_before_the_end_is_captured() {
    let host = Host::new();
    let (switch, wires) = bench(&host, &[&[], &[]]);
    for n in 1..4 {
        let mut capture = Capture::start(&host, &switch, &format!("last{n}"), &[]);
        let last = frame(BROADCAST, mac(n), &[], &payload(60));
        passes(&wires[0], &wires[1], &last);
        capture.process.signal(Signal::SIGINT);
        assert_eq!(capture.process.wait(LIMIT), 0, "{}", capture.process.log());
        assert!(capture.has(&last), "frame {n}: {}", capture.process.log());
    }
}

#[test]
fn captures_end_with_their_viewers() {
    let host = Host::new();
    let (switch, wires) = bench(&host, &[&[], &[]]);
    let mut captures: Vec<_> =
        (0..4).map(|n| Capture::start(&host, &switch, &format!("viewer{n}"), &[])).collect();
    let refused = switch.ctl_err(1, &["capture", "--for", "1s"]);
    assert!(refused.contains("4 captures"), "{refused}");
    captures.iter_mut().for_each(|capture| capture.process.kill());
    wait_until("there is room for captures again", LIMIT, || {
        switch.ctl(&["capture", "--for", "100ms"]).status.success()
    });
    passes(&wires[0], &wires[1], &frame(BROADCAST, mac(1), &[], &payload(60)));
}

#[test]
fn a_filter_says_what_tcpdump_says() {
    let host = Host::new();
    let frames = various();
    let file = host.file("various.pcap", pcap(&frames));
    let of = |args: &[&str]| {
        let output = Command::new("tcpdump").args(args).stdin(Stdio::null()).output().expect("tcpdump");
        assert!(output.status.success(), "{args:?}: {}", lab::said(&output));
        output.stdout
    };
    let mut accepted = 0;
    for filter in [
        "",
        "arp",
        "ip",
        "ip6",
        "not ip",
        "tcp",
        "udp port 53",
        "tcp port 80 and host 10.0.0.1",
        "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0",
        "icmp or (ip6 and udp)",
        "vlan",
        "vlan 10 and ip",
        "vlan and arp",
        "ether broadcast",
        "ether multicast and not broadcast",
        "greater 200",
        "less 64",
        "len > 100 and len <= 300",
        "ether host 02:5e:00:00:00:03",
        "ip[0] & 0xf != 5",
        "ip[2:2] / 3 > 100",
        "ip[8] % 7 = 1 or ether[20] << 3 > 400",
        "portrange 50-100",
        "net 10.0.0.0/8 and not dst net 10.0.0.0/30",
        "tcp[((tcp[12] & 0xf0) >> 2)] = 0x47",
    ] {
        let listing = String::from_utf8(of(&["-ddd", "-y", "EN10MB", "--", filter])).expect("text");
        let words =
            |line: &str| line.split(' ').map(|word| word.parse().expect("a number")).collect::<Vec<u32>>();
        let program: Vec<[u32; 4]> =
            listing.lines().skip(1).map(|line| words(line).try_into().expect("four words")).collect();
        let program = Program::checked(&program).unwrap_or_else(|why| panic!("{filter}: {why}\n{listing}"));
        let ours: Vec<&Vec<u8>> = frames.iter().filter(|frame| program.run(&[frame]) != 0).collect();
        let theirs = of(&["-r", &file, "-w", "-", "--", filter]);
        assert_eq!(pcap(ours.iter().copied()), theirs, "{filter}: {} frames", ours.len());
        accepted += ours.len();
    }
    assert!(accepted > 100, "{accepted}");
}

/// Frames of many kinds, some cut in the middle of their headers.
fn various() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let ip = |protocol: u8, last: u8, options: usize, transport: &[u8]| {
        let len = (20 + options + transport.len()) as u16;
        let [high, low] = len.to_be_bytes();
        let head =
            [0x45 + (options / 4) as u8, 0, high, low, 0, 0, 0, 0, last.wrapping_mul(13), protocol, 0, 0];
        [&head[..], &[10, 0, 0, last], &[10, 0, last, 9], &vec![1; options], transport].concat()
    };
    let tcp = |port: u16, flags: u8, text: &[u8]| {
        let [high, low] = port.to_be_bytes();
        [&[0x30, 0x39, high, low, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 1, 1, 0, 0, 0, 0][..], text].concat()
    };
    let udp = |port: u16| {
        let [high, low] = port.to_be_bytes();
        vec![0x30, 0x39, high, low, 0, 12, 0, 0, 1, 2, 3, 4]
    };
    let ip6 = [&[0x60, 0, 0, 0, 0, 12, 17, 64][..], &[0xfe; 32], &udp(53)].concat();
    let arp = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &[2; 6], &[10, 0, 0, 1], &[0; 6], &[10, 0, 0, 2]].concat();
    for n in 0..8_u8 {
        let payloads = [
            (0x0800_u16, ip(6, n, 0, &tcp(80 + u16::from(n % 2), n, b"GET / HTTP/1.1"))),
            (0x0800, ip(6, n, usize::from(n) * 4, &tcp(443, 2, &vec![n; 40 * usize::from(n)]))),
            (0x0800, ip(17, n, 0, &udp(50 + u16::from(n)))),
            (0x0800, ip(1, n, 4, &[8, 0, 0, 0])),
            (0x86dd, ip6.clone()),
            (0x0806, arp.clone()),
            (0x88b5, vec![n; 30 * usize::from(n)]),
        ];
        for (kind, bytes) in payloads {
            let dst = [mac(u32::from(n)), BROADCAST, [1, 0, 0x5e, 0, 0, n]][usize::from(n % 3)];
            let tag = [0x81, 0x00, 0x00, 10 * (n % 3)];
            let tag = if n % 4 == 3 { &tag[..] } else { &[] };
            let whole = [&dst[..], &mac(3 + u32::from(n % 2)), tag, &kind.to_be_bytes(), &bytes].concat();
            frames.push(whole[..(14 + 7 * usize::from(n)).min(whole.len())].to_vec());
            frames.push(whole);
        }
    }
    frames
}

/// As tcpdump writes it: microseconds, LINKTYPE_ETHERNET.
fn pcap<'a>(frames: impl IntoIterator<Item = &'a Vec<u8>>) -> Vec<u8> {
    let word = u32::to_ne_bytes;
    let mut bytes = [word(0xa1b2_c3d4), word(0x0004_0002), word(0), word(0), word(262_144), word(1)].concat();
    for frame in frames {
        let len = word(frame.len() as u32);
        bytes.extend([word(0), word(0), len, len].concat());
        bytes.extend(frame);
    }
    bytes
}

#[test]
fn a_trace_says_what_the_switch_then_does_and_leaves_nothing_behind() {
    let host = Host::new();
    let (switch, wires) = bench(
        &host,
        &[
            &["--access", "7"],
            &["--access", "7", "--name", "vms"],
            &["--access", "8"],
            &["--macs", "02:5e:00:00:00:63"],
        ],
    );
    let [t0, t1, ..] = &wires[..] else { unreachable!() };
    let trace = |args: &[&str]| switch.ctl_json(&[&["trace"], args].concat());
    passes(t1, t0, &frame(BROADCAST, mac(2), &[], &payload(60)));
    let before = switch.fdb();
    let bytes: String =
        frame(mac(2), mac(77), &[], &payload(60)).iter().map(|byte| format!("{byte:02x}")).collect();
    let known = trace(&["--from", "t0", &bytes]);
    assert_eq!((known["verdict"].as_str(), known["port"].as_u64()), (Some("unicast"), Some(1)));
    assert_eq!(known["egress"], json!([{"port": 2, "name": "vms", "tag": "as it came"}]));
    let learning = |traced: &Value| {
        let steps = traced["steps"].as_array().expect("steps");
        let step = steps.iter().find(|step| step["check"] == "learning").expect("learning");
        step["why"].as_str().expect("text").to_owned()
    };
    assert!(learning(&known).contains("is new"), "{known}");
    let flood = trace(&["--from", "t0", "--src", &mac_text(mac(77)), "--dst", "ff:ff:ff:ff:ff:ff"]);
    assert_eq!(flood["verdict"], "flood");
    let ways: Vec<_> =
        flood["egress"].as_array().expect("ways").iter().map(|way| way["reason"].clone()).collect();
    assert_eq!(ways, [json!("filtered"), Value::Null, json!("vlan-not-member"), Value::Null], "{flood}");
    assert_eq!(flood["egress"][3]["tag"], "a tag put on: VLAN 7");
    let alone = trace(&["--from", "3", "--src", &mac_text(mac(77)), "--dst", "ff:ff:ff:ff:ff:ff"]);
    assert_eq!(alone["verdict"], "flood", "a transparent port is in all VLANs: {alone}");
    let refused = trace(&["--from", "t3", "--src", &mac_text(mac(1)), "--dst", &mac_text(mac(2))]);
    assert_eq!(
        (refused["verdict"].as_str(), refused["reason"].as_str()),
        (Some("drop"), Some("source-not-allowed"))
    );
    let text =
        switch.ctl_ok(&["trace", "--from", "t3", "--src", &mac_text(mac(1)), "--dst", &mac_text(mac(2))]);
    assert!(
        text.contains("drop: source-not-allowed") && text.contains("of the list 02:5e:00:00:00:63"),
        "{text}"
    );
    let tagged = trace(&["--from", "t0", "--dst", &mac_text(mac(2)), "--vid", "7"]);
    assert_eq!(tagged["reason"], "vlan-tagged", "{tagged}");
    let runt = trace(&["--from", "t0", "0102"]);
    assert_eq!(runt["reason"], "runt", "{runt}");
    assert_eq!(switch.fdb(), before, "nothing was learned");
    // Nor counted: nobody else sends such.
    assert_eq!(switch.drops("vlan-tagged"), 0);
    assert_eq!(switch.drops("runt"), 0);

    // A file's first packet, and the port by its source.
    let one = frame(BROADCAST, mac(2), &[], &payload(60));
    let file = host.file("one.pcap", pcap([&one, &frame(BROADCAST, mac(9), &[], &payload(60))]));
    let home = trace(&[&format!("@{file}")]);
    assert_eq!((home["name"].as_str(), home["src"].as_str()), (Some("vms"), Some(mac_text(mac(2)).as_str())));
    for (args, code, words) in [
        (&["trace", "--from", "t9", "0102"][..], 1, "no port t9"),
        (&["trace", "@/nowhere"], 1, "/nowhere"),
        (&["trace", "zz", "--from", "t0"], 1, "hexadecimal"),
        (&["trace", "ffffffffffff025e000000ff88b5"], 1, "--from"),
        (&["trace"], 2, "FRAME"),
    ] {
        let said = switch.ctl_err(code, args);
        assert!(said.contains(words), "{args:?}: {said}");
    }
    // And what was foretold happens.
    t0.send(&frame(mac(2), mac(77), &[(0x8100, 7)], &payload(60)));
    wait_until("the drop that was foretold", LIMIT, || switch.drops("vlan-tagged") == 1);
}

#[test]
fn ping_measures_links_and_nothing_else() {
    let hosts = TwoHosts::new();
    let pair = pair(&hosts);
    hosts.a.ping("10.1.0.2");
    let text = pair.a.ctl_ok(&["ping", "link", "-c", "3", "-i", "50ms", "-W", "20s"]);
    assert!(text.contains("3 sent, 3 answered, 0% lost") && text.contains("rtt min/avg/max/mdev"), "{text}");
    let peer = format!("pong from {}:80: seq=2 time=", hosts.link.b);
    assert!(text.contains(&peer), "{text}");
    // The far TAP is behind the link; the server pings its client as well.
    let far =
        pair.a.fdb().into_iter().find(|(.., port)| port == "link").expect("a station behind the link").1;
    // No frame goes to it.
    for host in [&hosts.a, &hosts.b] {
        host.ok(&["ip", "link", "set", "t0", "arp", "off"]);
    }
    let (near, station) = (Wire::open(&hosts.a, "t0"), Wire::open(&hosts.b, "t0"));
    let measured = pair.a.ctl_json(&["ping", &far, "-c", "1", "-W", "20s"]);
    let marker = frame(BROADCAST, mac(1), &[], &payload(60));
    near.send(&marker);
    let deadline = Instant::now() + LIMIT;
    loop {
        let came = station.next(deadline).expect("the marker");
        if came == marker {
            break;
        }
        assert!(mac_text(came[..6].try_into().expect("6 bytes")) != far, "{came:02x?}");
    }
    assert_eq!((measured["name"].as_str(), measured["lost"].as_u64()), (Some("link"), Some(0)));
    assert!(measured["min_ns"].as_u64().is_some_and(|ns| ns > 1_000), "{measured}");
    let server = pair.b.wait_server_port()["port"].to_string();
    pair.b.ctl_ok(&["ping", &server, "-c", "1", "-W", "20s"]);
    for (args, words) in [
        (&["ping", "t0"][..], "a TAP: it has no link to measure"),
        (&["ping", "nowhere"], "no port nowhere"),
        (&["ping", "02:00:00:00:00:77"], "no port is known to have 02:00:00:00:00:77"),
    ] {
        let said = pair.a.ctl_err(1, args);
        assert!(said.contains(words), "{said}");
    }
    // A link that is not there, and a peer that says nothing.
    pair.a.ctl_ok(&["addport", "client", "ws://127.0.0.1:1/", "--name", "dead"]);
    let output = pair.a.ctl(&["ping", "dead", "-c", "2", "-i", "10ms"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("seq=2: not connected") && text.contains("2 sent, 0 answered, 100% lost"),
        "{text}"
    );
    let mut mute = ws::open(&hosts.b, "127.0.0.1:80");
    let is_mute = |entry: &Value| entry["peer"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1"));
    let mut port = None;
    wait_until("the mute peer's port", LIMIT, || {
        port = pair.b.entries("listPort").into_iter().find(is_mute).map(|entry| entry["port"].to_string());
        port.is_some()
    });
    let output = pair.b.ctl(&["ping", &port.expect("found"), "-c", "1", "-W", "200ms"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("no answer in time"), "{}", lab::said(&output));
    // What it was asked by: not the empty PING that keeps a link alive.
    let measures = |mute: &mut ws::RawWs| mute.wait(ws::PING, LIMIT).expect("a PING").len() == 16;
    assert!((0..3).any(|_| measures(&mut mute)));
}
