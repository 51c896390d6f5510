//! A cable that is long and bad: packets are late and some are lost, which a proxy of TCP cannot do. A TAP at each end,
//! and we in between.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tun_tap::{Iface, Mode};

use super::{Host, inside};

pub struct Lossy {
    pub a: Ipv4Addr,
    pub b: Ipv4Addr,
    stopped: Arc<AtomicBool>,
    /// Packets that came, and that were lost.
    pub packets: Arc<AtomicU64>,
    pub lost: Arc<AtomicU64>,
}

/// Device `wan` on both hosts. One packet in `one_in` is lost, each is `late`, one way.
pub fn join_badly(a: &Host, b: &Host, late: Duration, one_in: u32, seed: u64) -> Lossy {
    let net = |last| Ipv4Addr::new(10, 250, 0, last);
    let lossy = Lossy {
        a: net(1),
        b: net(2),
        stopped: Arc::default(),
        packets: Arc::default(),
        lost: Arc::default(),
    };
    let [here, there] = [(a, lossy.a), (b, lossy.b)].map(|(host, addr)| {
        let tap = inside(host, || Iface::without_packet_info("wan", Mode::Tap).expect("a TAP"));
        host.ok(&["ip", "addr", "add", &format!("{addr}/24"), "dev", "wan"]);
        host.ok(&["ip", "link", "set", "wan", "up"]);
        Arc::new(tap)
    });
    for (way, from, into) in [(0, &here, &there), (1, &there, &here)] {
        let (send, packets) = sync_channel(20_000);
        let (from, into) = (from.clone(), into.clone());
        let stopped = lossy.stopped.clone();
        let (seen, lost) = (lossy.packets.clone(), lossy.lost.clone());
        std::thread::spawn(move || {
            let rng = StdRng::seed_from_u64(seed ^ way);
            take(&from, &send, (late, one_in), rng, (&seen, &lost), &stopped);
        });
        std::thread::spawn(move || give(&into, &packets));
    }
    lossy
}

impl Drop for Lossy {
    fn drop(&mut self) {
        self.stopped.store(true, Relaxed);
    }
}

type Late = (Instant, Vec<u8>);

fn take(
    tap: &Iface,
    send: &SyncSender<Late>,
    (late, one_in): (Duration, u32),
    mut rng: StdRng,
    (seen, lost): (&AtomicU64, &AtomicU64),
    stopped: &AtomicBool,
) {
    let mut bytes = [0; 2_000];
    while let Ok(n) = tap.recv(&mut bytes) {
        if stopped.load(Relaxed) {
            return;
        }
        seen.fetch_add(1, Relaxed);
        if rng.random_range(0..one_in) == 0
            || send.try_send((Instant::now() + late, bytes[..n].to_vec())).is_err()
        {
            lost.fetch_add(1, Relaxed);
        }
    }
}

fn give(tap: &Iface, packets: &Receiver<Late>) {
    while let Ok((due, packet)) = packets.recv() {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let _ = tap.send(&packet);
    }
}
