//! The forwarding database: what a frame between known stations costs (its source learned, its
//! destination looked up) beside two random reads of memory as large; learning anew; flushing; and two
//! threads at it.
//!
//! Stations come in random order, each as often as any other: the worst that a cache can meet.

mod common;

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

use criterion::{BenchmarkId, Criterion};
use etherws::frame::MacAddr;
use etherws::switch::fdb::Learned;
use etherws::switch::{Fdb, Slot};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

const STATIONS: [usize; 2] = [8_192, 100_000];
const PORTS: [u32; 4] = [2, 10, 100, 1_000];
const NOW: u32 = 100;

fn main() {
    let mut criterion = common::criterion();
    for stations in STATIONS {
        for ports in PORTS {
            known(&mut criterion, stations, ports);
        }
        memory(&mut criterion, stations);
        flush(&mut criterion, stations);
        contention(&mut criterion, stations);
    }
    criterion.final_summary();
}

fn random() -> StdRng {
    StdRng::from_seed([5; 32])
}

/// Stations as a vendor numbers them, each on a port.
fn stations(stations: usize, ports: u32) -> Vec<(MacAddr, Slot)> {
    let mut random = random();
    let mac = |n: usize| MacAddr::from_bits(0x0200_5e00_0000 + n as u64);
    (0..stations).map(|n| (mac(n), Slot(random.random_range(0..ports)))).collect()
}

fn filled(stations: &[(MacAddr, Slot)], limit: usize) -> Fdb {
    let fdb = Fdb::new(limit, 300, [0x1234_5678_9abc_def0, 0x0fed_cba9_8765_4321]);
    for (mac, slot) in stations {
        assert_eq!(fdb.learn(0, *mac, *slot, NOW), Learned::New);
    }
    for (mac, slot) in stations {
        assert_eq!(fdb.lookup(0, *mac, NOW), Some(*slot));
        assert_eq!(fdb.learn(0, *mac, *slot, NOW), Learned::Known);
    }
    fdb
}

/// Turns round a list for ever, in its order.
struct Round<T>(Vec<T>, usize);

impl<T: Copy> Round<T> {
    fn next(&mut self) -> T {
        let item = self.0[self.1];
        self.1 = if self.1 + 1 == self.0.len() { 0 } else { self.1 + 1 };
        item
    }
}

/// Who speaks to whom.
fn talks(stations: &[(MacAddr, Slot)]) -> Round<(MacAddr, Slot, MacAddr)> {
    let (mut from, mut to) = (stations.to_vec(), stations.to_vec());
    let mut random = random();
    from.shuffle(&mut random);
    to.shuffle(&mut random);
    Round(from.into_iter().zip(to).map(|((src, slot), (dst, _))| (src, slot, dst)).collect(), 0)
}

fn known(criterion: &mut Criterion, count: usize, ports: u32) {
    let stations = stations(count, ports);
    let fdb = filled(&stations, count);
    let mut talks = talks(&stations);
    let mut group = criterion.benchmark_group("fdb");
    group.bench_function(BenchmarkId::new(format!("lookup + learn, {ports} ports"), count), |b| {
        b.iter(|| frame(&fdb, talks.next()))
    });
    if ports == PORTS[0] {
        group.bench_function(BenchmarkId::new("lookup", count), |b| {
            b.iter(|| black_box(fdb.lookup(0, talks.next().2, NOW)))
        });
    }
}

/// One frame's share of the database.
fn frame(fdb: &Fdb, (src, slot, dst): (MacAddr, Slot, MacAddr)) {
    black_box(fdb.learn(0, src, slot, NOW));
    black_box(fdb.lookup(0, dst, NOW));
}

/// Two random reads, the second at the place that the first one names, of as many bytes as a database
/// of `count` entries keeps: 24 bytes an entry and 4 a bucket.
fn memory(criterion: &mut Criterion, count: usize) {
    let words = (count * 24 + (count * 2).next_power_of_two() * 4) / 8;
    let mut places: Vec<u64> = (0..words as u64).collect();
    places.shuffle(&mut random());
    let mut order: Vec<u64> = (0..words as u64).collect();
    order.shuffle(&mut random());
    order.truncate(count);
    let mut order = Round(order, 0);
    criterion.benchmark_group("fdb").bench_function(BenchmarkId::new("two random reads", count), |b| {
        b.iter(|| black_box(places[places[order.next() as usize] as usize]))
    });
}

/// Of few stations or all of them: it is to take the same.
fn flush(criterion: &mut Criterion, count: usize) {
    for known in [10, count] {
        let stations = stations(known, 1);
        let fdb = Fdb::new(count, 300, [1, 2]);
        let refill = || stations.iter().for_each(|(mac, slot)| _ = fdb.learn(0, *mac, *slot, NOW));
        refill();
        assert_eq!(fdb.flush(Slot(0)), known as u64);
        assert_eq!(fdb.lookup(0, stations[0].0, NOW), None);
        // Filling takes thousands of times longer than flushing: Criterion cannot have as many as it wants.
        let times: Vec<f64> = (0..50)
            .map(|_| {
                refill();
                let start = Instant::now();
                black_box(fdb.flush(Slot(0)));
                start.elapsed().as_nanos() as f64
            })
            .collect();
        let id = BenchmarkId::new(if known == 10 { "flush of a few" } else { "flush of all" }, count);
        criterion.benchmark_group("fdb").bench_function(id, |b| common::record(b, &times));
    }
}

/// The same while another thread does the same, and while it learns new stations all the time.
fn contention(criterion: &mut Criterion, count: usize) {
    let stations = stations(count, 2);
    for (name, strangers) in [("beside another", false), ("beside a flood of new stations", true)] {
        // The flood has as much room as the others together: it pays for itself.
        let fdb = filled(&stations, 2 * count);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut talks = talks(&stations);
                let mut stranger = 0;
                while !stop.load(Relaxed) {
                    for _ in 0..100 {
                        if strangers {
                            stranger += 1;
                            fdb.learn(0, MacAddr::from_bits(0x0600_0000_0000 + stranger), Slot(7), NOW);
                        } else {
                            frame(&fdb, talks.next());
                        }
                    }
                }
            });
            let mut talks = talks(&stations);
            let id = BenchmarkId::new(format!("lookup + learn {name}"), count);
            criterion.benchmark_group("fdb").bench_function(id, |b| b.iter(|| frame(&fdb, talks.next())));
            stop.store(true, Relaxed);
        });
        if strangers {
            let lost = stations.iter().filter(|(mac, slot)| fdb.lookup(0, *mac, NOW) != Some(*slot)).count();
            assert_eq!(lost, 0, "stations that gave way to the flood");
        }
    }
}
