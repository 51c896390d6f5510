//! Links over a connection that is late, slow, cut up, damaged, reset, half closed or silent: nothing crashes,
//! the link comes back, and each frame that came in is accounted for (R1 of the goals).

#[path = "support/fault_proxy.rs"]
mod fault_proxy;
mod lab;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use fault_proxy::{Chance, End, FaultProxy, Faults};
use lab::frames::{BROADCAST, Wire, frame, mac, passes, payload};
use lab::switch::TwoHosts;
use lab::{Host, Switch, inside, wait_until};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;

const LONG: Duration = Duration::from_secs(60);

/// What all chance of a test comes from: FAULT_SEED, as a test that failed has printed it.
fn seed_or(usual: u64) -> u64 {
    std::env::var("FAULT_SEED").map_or(usual, |seed| seed.parse().expect("FAULT_SEED is a number"))
}

/// A at this end of the proxy, B at the other; two TAPs each, of which the second takes no super-frames.
struct Bad<'h> {
    a: Switch<'h>,
    b: Switch<'h>,
    proxy: FaultProxy,
    wires: Vec<Wire>,
}

fn bad(hosts: &TwoHosts, seed: u64, faults: Faults) -> Bad<'_> {
    println!("FAULT_SEED={seed}, {faults:?}");
    let to: SocketAddr = format!("{}:80", hosts.link.b).parse().unwrap();
    let proxy = inside(&hosts.a, || FaultProxy::start("127.0.0.1:0", to, seed, faults));
    let a = Switch::start(&hosts.a, &["--no-listen"]);
    let b = Switch::start(&hosts.b, &["--ping", "1"]);
    for (switch, number) in [(&a, 1), (&b, 2)] {
        switch.ctl_ok(&["addport", "tap", "t0", "--address", &format!("10.1.0.{number}/24")]);
        switch.ctl_ok(&["addport", "tap", "t1", "--no-offload"]);
    }
    a.ctl_ok(&["addport", "client", &format!("ws://{}/", proxy.addr), "--name", "link", "--ping", "1"]);
    let wires = vec![
        Wire::open(&hosts.a, "t0"),
        Wire::open(&hosts.a, "t1"),
        Wire::open(&hosts.b, "t0"),
        Wire::open(&hosts.b, "t1"),
    ];
    Bad { a, b, proxy, wires }
}

impl Bad<'_> {
    /// Frames of all kinds, by chance, from all TAPs.
    fn chatter(&self, rng: &mut StdRng, count: usize) {
        for _ in 0..count {
            let from = rng.random_range(0..self.wires.len());
            let station = mac(1 + from as u32 * 10 + rng.random_range(0..10));
            let to = match rng.random_range(0..10) {
                0 => BROADCAST,
                1 => [0x01, 0x80, 0xc2, 0, 0, 0],
                2 => [0x33, 0x33, 0, 0, 0, 9],
                3 => mac(5_000 + rng.random_range(0..100)),
                4 => station,
                _ => mac(1 + rng.random_range(0..40)),
            };
            let station = if rng.random_range(0..50) == 0 { [1, 2, 3, 4, 5, 6] } else { station };
            let tags: &[(u16, u16)] = match rng.random_range(0..8) {
                0 => &[(0x8100, 7)],
                1 => &[(0x88a8, 5), (0x8100, 0)],
                _ => &[],
            };
            let len = if rng.random_range(0..4) == 0 {
                rng.random_range(8..60)
            } else {
                rng.random_range(60..1_400)
            };
            self.wires[from].send(&frame(to, station, tags, &payload(len)));
        }
    }

    /// A TCP stream each way for a while, in super-frames where they may be.
    fn streams(&self, a: &Host, b: &Host, done: &AtomicBool) {
        let listener = b.listen("10.1.0.2:9000");
        // What is connected waits to be accepted.
        let mut out = a.connect("10.1.0.2:9000").unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = listener.accept().unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
                let mut bytes = vec![0; 1 << 16];
                while !done.load(Relaxed) {
                    let _ = stream.read(&mut bytes);
                }
            });
            out.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
            while !done.load(Relaxed) {
                let _ = out.write(&[5; 1 << 16]);
            }
        });
    }
}

/// Sets it whatever happens: a thread waits for that.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// rx and copies of all ports of a switch, and their tx and drops.
fn account(switch: &Switch) -> (u64, u64, Vec<Value>) {
    let mut entries = switch.entries("listCounters");
    entries.retain(|entry| entry["port"] != 0 || is_of_removed_ports(entry));
    let sum = |name: &str| entries.iter().map(|entry| entry[name].as_u64().unwrap()).sum::<u64>();
    let drops = entries.iter().flat_map(|entry| entry["drops"].as_object().unwrap().values());
    let drops: u64 = drops.map(|count| count.as_u64().unwrap()).sum();
    (sum("rx") + sum("copies"), sum("tx") + drops, entries)
}

fn is_of_removed_ports(entry: &Value) -> bool {
    entry["port"] == 0 && entry["name"] == "removed"
}

/// As soon as nothing moves any more.
fn balances(switch: &Switch) {
    let mut last = (0, 0, Vec::new());
    wait_until("the switch is at rest and every frame is accounted for", LONG, || {
        let now = account(switch);
        let rest = now.0 == last.0 && now.0 == now.1;
        if now.0 == last.0 && !rest {
            eprintln!("in {} out {}: {:?}", now.0, now.1, now.2);
        }
        last = now;
        std::thread::sleep(Duration::from_millis(300));
        rest
    });
}

/// What the proxy does to a stream is the same however TCP cut it: else no seed would show a failure again.
#[test]
fn the_same_seed_does_the_same_to_the_same_bytes() {
    let faults = Faults {
        flip: Some(3_000),
        slice: Some(5_000),
        jitter: Duration::from_millis(9),
        ..Faults::default()
    };
    let whole: Vec<u8> = (0..500_000_u32).map(|n| n as u8).collect();
    // The bytes that come out, and of each how late it is.
    let out = |most: usize| {
        let (mut chance, mut rng) = (Chance::new(faults, 4), StdRng::seed_from_u64(most as u64));
        let mut rest = &whole[..];
        let mut out = Vec::new();
        while !rest.is_empty() {
            let (read, behind) = rest.split_at(rng.random_range(1..=most).min(rest.len()));
            rest = behind;
            for (slice, late) in chance.befalls(&mut read.to_vec()) {
                out.extend(slice.into_iter().map(|byte| (byte, late)));
            }
        }
        out
    };
    let one = out(whole.len());
    let flipped = one.iter().zip(&whole).filter(|((byte, _), was)| byte != *was).count();
    assert!((100..300).contains(&flipped), "{flipped}");
    for most in [1_500, 65_536] {
        assert!(out(most) == one, "in reads of up to {most} bytes it came out otherwise");
    }
}

#[test]
fn each_frame_is_delivered_or_dropped_by_name() {
    let hosts = TwoHosts::new();
    let seed = seed_or(1);
    let faults = Faults {
        latency: Duration::from_millis(3),
        jitter: Duration::from_millis(2),
        bandwidth: Some(4_000_000),
        slice: Some(3_000),
        ..Faults::default()
    };
    let bad = bad(&hosts, seed, faults);
    bad.a.wait_state("link", "up");
    hosts.a.ping("10.1.0.2");
    let (mut rng, done) = (StdRng::seed_from_u64(seed), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| bad.streams(&hosts.a, &hosts.b, &done));
        let _done = Done(&done);
        for _ in 0..20 {
            bad.chatter(&mut rng, 1_000);
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    balances(&bad.a);
    balances(&bad.b);
    let (frames, _, entries) = account(&bad.a);
    assert!(frames > 10_000, "{entries:?}");
    let copies: u64 = entries.iter().map(|entry| entry["copies"].as_u64().unwrap()).sum();
    assert!(copies > 500, "{entries:?}");
}

#[test]
fn bad_67_68_a_link_that_is_damaged_and_cut_comes_back_and_loses_nothing_without_a_name() {
    let hosts = TwoHosts::new();
    let seed = seed_or(2);
    let mut faults = Faults { flip: Some(40_000), slice: Some(5_000), ..Faults::default() };
    let bad = bad(&hosts, seed, faults);
    let mut rng = StdRng::seed_from_u64(seed);
    for end in [None, Some(End::Reset), Some(End::HalfClose)] {
        faults.end = end.map(|end| (end, 60_000));
        bad.proxy.set(faults);
        let (connections, ended) = (bad.proxy.connections.load(Relaxed), bad.proxy.ended.load(Relaxed));
        // A few connections' lives.
        wait_until("connections end and others begin", LONG, || {
            bad.chatter(&mut rng, 500);
            std::thread::sleep(Duration::from_millis(20));
            bad.proxy.connections.load(Relaxed) > connections + 1
                && (end.is_none() || bad.proxy.ended.load(Relaxed) > ended)
        });
    }
    bad.proxy.set(Faults::default());
    wait_until("a connection without a fault", LONG, || {
        bad.chatter(&mut rng, 200);
        hosts.a.pings("10.1.0.2")
    });
    passes(&bad.wires[1], &bad.wires[3], &frame(BROADCAST, mac(99), &[], &payload(100)));
    balances(&bad.a);
    // Each connection was a port of its own there, and is gone.
    balances(&bad.b);
    let removed = bad.b.entries("listCounters").into_iter().find(is_of_removed_ports);
    assert!(removed.is_some_and(|entry| entry["rx"].as_u64() > Some(0)));
    assert!(!bad.a.process.log().contains("panicked") && !bad.b.process.log().contains("panicked"));
}

#[test]
fn bad_67_a_connection_that_turns_into_a_black_hole_is_given_up() {
    let hosts = TwoHosts::new();
    let seed = seed_or(3);
    let bad = bad(&hosts, seed, Faults { end: Some((End::BlackHole, 60_000)), ..Faults::default() });
    bad.a.wait_state("link", "up");
    // Whoever never answered a PING may just be one who does not.
    std::thread::sleep(Duration::from_millis(2_500));
    let mut rng = StdRng::seed_from_u64(seed);
    wait_until("nothing comes through any more", LONG, || {
        bad.chatter(&mut rng, 100);
        bad.proxy.ended.load(Relaxed) > 0
    });
    bad.proxy.set(Faults::default());
    wait_until("another connection", LONG, || bad.proxy.connections.load(Relaxed) > 1);
    wait_until("it carries frames", LONG, || hosts.a.pings("10.1.0.2"));
    // Whichever end noticed first: either hears nothing, or has sent for too long.
    let noticed = |switch: &Switch| switch.drops("silent") + switch.drops("stuck");
    assert!(noticed(&bad.a) + noticed(&bad.b) > 0, "{} {}", bad.a.all_drops(), bad.b.all_drops());
    balances(&bad.a);
    balances(&bad.b);
}
