//! A peer that tells lies at random. ETHERWS_HOSTILE is the number of its messages, ETHERWS_SEED where the
//! randomness begins.

use std::time::Instant;

use crate::lab::capture::{Capture, Captured, KernelLog};
use crate::lab::frames::{BROADCAST, frame, mac, payload};
use crate::lab::packets::{Build, NEEDS_CSUM, Vnet};
use crate::lab::switch::TwoHosts;
use crate::lab::ws::{BINARY, FIN, PING, PONG};
use crate::lab::{Host, SOON, Switch, wait_until};
use crate::target::{C, FLOWS, MAX_FRAME, S, Target};

/// What a device behind the switch saw of a hostile peer.
#[derive(Default)]
struct Hostility {
    frames: u64,
    supers: u64,
    partial: u64,
    wrong: Vec<String>,
}

impl Hostility {
    fn say(&mut self, what: &str, it: &Captured) {
        if self.wrong.len() < 10 {
            let head = &it.frame[..it.frame.len().min(100)];
            self.wrong.push(format!(
                "{what}: {:?} {:?}, {} bytes: {head:02x?}",
                it.vnet,
                it.tag,
                it.frame.len()
            ));
        }
    }

    /// At the TAP: what the switch asks of the kernel is sound.
    fn at_tap(&mut self, it: &Captured) {
        self.frames += 1;
        self.supers += u64::from(it.vnet.is_super());
        if it.vnet.flags & NEEDS_CSUM == 0 && !it.vnet.is_super() {
            return;
        }
        self.partial += 1;
        let Some(packet) = it.packet() else { return self.say("no TCP or UDP", it) };
        if let Err(what) = packet.check_request() {
            self.say(&what, it);
        }
        let segments = packet.payload().len().div_ceil(usize::from(it.vnet.gso_size).max(1));
        if it.vnet.is_super() && (it.vnet.gso_size < 256 || segments > 128) {
            self.say("should have been split", it);
        }
    }

    /// Behind a device without offloads: the kernel has done what was asked.
    fn behind(&mut self, it: &Captured) {
        self.frames += 1;
        if it.vnet.flags & NEEDS_CSUM != 0 || it.vnet.is_super() {
            self.say("not finished", it);
        }
    }
}

/// Tens of thousands of messages, each nearly honest or not at all. The TAP is in a bridge with a device
/// that can do nothing, so that the kernel does in software whatever it is asked: there it would stumble.
#[test]
fn hostile_messages_hurt_nobody() {
    let count =
        std::env::var("ETHERWS_HOSTILE").map_or(50_000, |n| n.parse().expect("ETHERWS_HOSTILE: a number"));
    let seed =
        std::env::var("ETHERWS_SEED").map_or(0x5eed_0bad, |n| n.parse().expect("ETHERWS_SEED: a number"));
    println!("{count} messages, ETHERWS_SEED={seed}");
    let hosts = TwoHosts::new();
    let tail = Host::new();
    tail.ok(&["sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1"]);
    let target = Target::new(&hosts, &[]);
    let b = &hosts.b;
    b.ok(&["ip", "link", "add", "x0", "type", "veth", "peer", "name", "y0", "netns", tail.name()]);
    b.ok(&["ethtool", "-K", "x0", "tx", "off", "tso", "off", "tx-udp-segmentation", "off"]);
    b.ok(&["ip", "link", "add", "br0", "type", "bridge", "mcast_snooping", "0"]);
    for device in ["t0", "x0"] {
        b.ok(&["ip", "link", "set", device, "master", "br0"]);
        b.ok(&["ip", "link", "set", device, "up"]);
    }
    b.ok(&["ip", "link", "set", "br0", "up"]);
    tail.ok(&["ip", "link", "set", "y0", "up"]);
    let mut log = KernelLog::open();
    let mut peer = target.vnet1();
    // Both stations are known: nothing is flooded.
    target.honest(&mut peer);
    target.wire.send(&frame(BROADCAST, mac(2), &[], &payload(60)));
    wait_until("the station behind the TAP is known", SOON, || target.switch.fdb().len() == 2);

    let at_tap = Capture::start(b, "t0", Hostility::default(), Hostility::at_tap);
    let behind = Capture::start(&tail, "y0", Hostility::default(), Hostility::behind);
    let mut random = Random(seed);
    let warm_up = count / 5;
    let mut before = 0;
    for number in 0..count {
        if number == warm_up {
            before = resident(&target.switch);
        }
        let (vnet, frame) = hostile(&mut random);
        peer.send_raw(&unkeyed(&vnet.message(&frame)));
        if number % 500 == 499 {
            peer.send(PING, b"?");
            let alive = peer.wait(PONG, SOON).is_some();
            assert!(alive, "the link died before message {number}: {}", target.switch.process.log());
        }
    }
    let grown = resident(&target.switch).saturating_sub(before);
    // Nobody has read this one meanwhile: full, it would not take the honest frame either.
    while target.wire.next(Instant::now()).is_some() {}
    target.honest(&mut peer);
    let (tap, tap_lost) = at_tap.stop();
    let (far, far_lost) = behind.stop();
    let drops = target.switch.all_drops();
    println!(
        "TAP: {} frames, {} super, {} partial, {tap_lost} lost; behind: {} frames, {far_lost} lost; \
         grown by {grown} KiB; {drops}",
        tap.frames, tap.supers, tap.partial, far.frames
    );
    assert!(tap.wrong.is_empty(), "{:#?}", tap.wrong);
    assert!(far.wrong.is_empty(), "{:#?}", far.wrong);
    // It was a mixture: honest enough to pass often, hostile enough to be refused often.
    let seen = count / 50;
    assert!(tap.supers > seen && tap.partial > tap.supers && far.frames > tap.supers, "too little passed");
    let refused: u64 = target.all_drops();
    assert!(refused > seen * 10, "too little was refused: {drops}");
    assert_eq!(target.switch.drops("device-error"), 0, "the kernel refused what we made of it: {drops}");
    assert!(grown < 2048, "grown by {grown} KiB");
    let complaints = log.as_mut().map(KernelLog::complaints).unwrap_or_default();
    assert!(complaints.is_empty(), "{complaints:#?}");
    assert!(!target.switch.process.log().contains("panicked"));
}

/// KiB of memory that the switch has.
fn resident(switch: &Switch) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", switch.process.pid())).expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// A whole message masked with a key of zeros: the masks are not what is tested here.
fn unkeyed(payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![FIN | BINARY];
    match payload.len() {
        len @ 0..126 => bytes.push(0x80 | len as u8),
        len @ 126..65536 => {
            bytes.push(0x80 | 126);
            bytes.extend((len as u16).to_be_bytes());
        }
        len => {
            bytes.push(0x80 | 127);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}

/// xorshift64*, S. Vigna.
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 11) as usize % limit
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// An honest frame for station 2, and up to three lies in it.
pub fn hostile(random: &mut Random) -> (Vnet, Vec<u8>) {
    static BYTES: [u8; MAX_FRAME] = [0x5a; MAX_FRAME];
    const TAGS: [&[(u16, u16)]; 6] = [&[], &[], &[], &[(C, 10)], &[(S, 20), (C, 10)], &[(C, 0)]];
    let (v6, protocol) = random.one(&FLOWS);
    let gso_size = random.one(&[0, 8, 100, 255, 256, 536, 1000, 1440]);
    let segments = random.one(&[1, 2, 3, 5, 10, 44]);
    let most = if gso_size == 0 { 1400 } else { (usize::from(gso_size) * segments).min(60_000) };
    let len = most - random.below(most.min(200));
    let build = Build {
        dst: mac(2),
        src: mac(0xbeef),
        tags: random.one(&TAGS),
        v6,
        protocol,
        payload: &BYTES[..len],
        gso_size,
        tcp_flags: random.one(&[0x10, 0x10, 0x10, 0x18, 0x11, 0x90, 0xd0, 0x02, 0x14]),
    };
    let (mut vnet, mut frame) = build.build();
    for _ in 0..random.below(4) {
        tell_a_lie(random, &mut vnet, &mut frame);
    }
    (vnet, frame)
}

fn tell_a_lie(random: &mut Random, vnet: &mut Vnet, frame: &mut Vec<u8>) {
    const HALVES: [u16; 16] = [0, 1, 6, 7, 8, 14, 16, 34, 38, 54, 255, 256, 1500, 0x7fff, 0xfffe, 0xffff];
    let half =
        |random: &mut Random| if random.below(4) == 0 { random.next() as u16 } else { random.one(&HALVES) };
    match random.below(12) {
        0 => vnet.flags = random.one(&[0, 1, 2, 3, 4, 5, 0x80, 0xff]),
        1 => vnet.gso_type = random.one(&[0, 1, 2, 3, 4, 5, 0x20, 0x21, 0x44, 0x80, 0x81, 0x84, 0x85, 0xff]),
        2 => vnet.hdr_len = half(random),
        3 => vnet.gso_size = half(random),
        4 => vnet.csum_start = half(random),
        5 => vnet.csum_offset = half(random),
        6 => *vnet = Vnet::from_bytes(&[random.next().to_le_bytes(), random.next().to_le_bytes()].concat()),
        // Headers behind the addresses.
        7..10 => {
            for _ in 0..=random.below(3) {
                let (at, any) = (12 + random.below(70), random.next() as u8);
                let byte = random.one(&[0, 1, 4, 5, 6, 17, 41, 43, 44, 0x45, 0x4f, 0x60, 0x86, 0xff, any]);
                if let Some(place) = frame.get_mut(at) {
                    *place = byte;
                }
            }
        }
        10 => frame.truncate(random.below(frame.len().min(200) + 1)),
        _ => frame.extend(vec![0x33; random.below(100)]),
    }
}
