//! The forwarding database: what a frame between known stations costs (its source learned, its
//! destination looked up) beside two random reads of memory as large; flushing; and two threads at it.
//!
//! Stations come in random order, each as often as any other: the worst that a cache can meet. Frames
//! come in two manners: `back to back`, where the processor begins with the next ones while it waits for
//! memory, as in a batch whose frames it has little else to do for; and `in turn`, where a frame begins
//! when the one before it is answered, which is what waiting for memory costs. The two reads are made in
//! the same two manners, each pair by itself, from a list as long.

mod common;

use std::collections::HashSet;
use std::hint::black_box;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use common::{Work, beside};
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
        known(&mut criterion, stations);
        flush(&mut criterion, stations);
        contention(&mut criterion, stations);
    }
    criterion.final_summary();
}

fn random() -> StdRng {
    StdRng::from_seed([5; 32])
}

/// Stations with addresses drawn at random, as virtual machines have them, each on a port.
fn stations(stations: usize, ports: u32) -> Vec<(MacAddr, Slot)> {
    let mut random = random();
    let mut taken = HashSet::new();
    while taken.len() < stations {
        taken.insert(random.random_range(0..1u64 << 40));
    }
    let mut numbers: Vec<_> = taken.into_iter().collect();
    numbers.sort_unstable();
    let mac = |n: u64| MacAddr::from_bits(0x0200_0000_0000 | n);
    numbers.into_iter().map(|n| (mac(n), Slot(random.random_range(0..ports)))).collect()
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
struct Round<T> {
    list: Rc<Vec<T>>,
    at: usize,
    /// Zero, which the compiler does not know.
    nothing: usize,
}

impl<T: Copy> Round<T> {
    fn new(list: Rc<Vec<T>>) -> Self {
        Self { list, at: 0, nothing: black_box(0) }
    }

    fn next(&mut self) -> T {
        self.after(0)
    }

    /// The next, when `answer` is known.
    fn after(&mut self, answer: usize) -> T {
        let item = self.list[self.at + (answer & self.nothing)];
        self.at = if self.at + 1 == self.list.len() { 0 } else { self.at + 1 };
        item
    }
}

/// Who speaks to whom.
fn talks(stations: &[(MacAddr, Slot)]) -> Vec<(MacAddr, Slot, MacAddr)> {
    let (mut from, mut to) = (stations.to_vec(), stations.to_vec());
    let mut random = random();
    from.shuffle(&mut random);
    to.shuffle(&mut random);
    from.into_iter().zip(to).map(|((src, slot), (dst, _))| (src, slot, dst)).collect()
}

fn known(criterion: &mut Criterion, count: usize) {
    let mut names = Vec::new();
    let mut works: Vec<Work<'_>> = Vec::new();
    for ports in PORTS {
        let stations = stations(count, ports);
        let fdb = filled(&stations, count);
        let mut round = Round::new(Rc::new(talks(&stations)));
        names.push(format!("lookup + learn, {ports} ports"));
        works.push(Box::new(move |times| (0..times).for_each(|_| _ = frame(&fdb, round.next()))));
        if ports > PORTS[0] {
            continue;
        }
        // A table and a list of their own: the ones above would be found in the caches, those of more ports would not.
        let (fdb, list) = (Rc::new(filled(&stations, count)), Rc::new(talks(&stations)));
        let (table, mut talks) = (fdb.clone(), Round::new(list.clone()));
        names.push("lookup".to_owned());
        works.push(Box::new(move |times| {
            (0..times).for_each(|_| _ = black_box(table.lookup(0, talks.next().2, NOW)))
        }));
        let mut talks = Round::new(list.clone());
        names.push("lookup + learn in turn".to_owned());
        works.push(Box::new(move |times| {
            (0..times).fold(0, |answer, _| frame(&fdb, talks.after(answer)));
        }));
    }

    let memory = Rc::new(Memory::new(count));
    let (bytes, mut pairs) = (memory.clone(), Round::new(memory.pairs.clone()));
    names.push("two random reads".to_owned());
    works.push(Box::new(move |times| (0..times).for_each(|_| _ = bytes.read(pairs.next()))));
    let mut pairs = Round::new(memory.pairs.clone());
    names.push("two random reads in turn".to_owned());
    works.push(Box::new(move |times| {
        (0..times).fold(0, |answer, _| memory.read(pairs.after(answer)));
    }));

    // Long enough that what the neighbours left in the caches hardly counts, short enough to be left alone: each line of
    // the table is to be met a dozen times, or the slowest way is the one that is still warming up.
    let (turn, rounds) = if count > 10_000 { (50, 24) } else { (4, 100) };
    let times = beside(&mut works, Duration::from_millis(turn), rounds);
    let mut group = criterion.benchmark_group("fdb");
    for (name, times) in names.into_iter().zip(times) {
        common::record(&mut group, BenchmarkId::new(name, count), &times);
    }
}

/// One frame's share of the database; what its verdict depends on.
fn frame(fdb: &Fdb, (src, slot, dst): (MacAddr, Slot, MacAddr)) -> usize {
    let learned = black_box(fdb.learn(0, src, slot, NOW));
    let found = black_box(fdb.lookup(0, dst, NOW));
    found.map_or(0, Slot::index) ^ usize::from(learned == Learned::Known)
}

/// As many bytes as a database of `count` entries keeps for its readers, a line of 64 for two entries;
/// and pairs of places in it.
struct Memory {
    words: Vec<usize>,
    pairs: Rc<Vec<(usize, usize)>>,
}

impl Memory {
    fn new(count: usize) -> Self {
        let len = count.div_ceil(2).next_power_of_two() * 8;
        let mut random = random();
        let words = (0..len).map(|_| random.random_range(0..len)).collect();
        let pairs = (0..count).map(|_| (random.random_range(0..len), random.random_range(0..len)));
        Self { words, pairs: Rc::new(pairs.collect()) }
    }

    fn read(&self, (one, other): (usize, usize)) -> usize {
        black_box(self.words[one]) ^ black_box(self.words[other])
    }
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
        common::record(&mut criterion.benchmark_group("fdb"), id, &times);
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
                let mut talks = Round::new(Rc::new(talks(&stations)));
                let mut stranger = 0;
                while !stop.load(Relaxed) {
                    for _ in 0..100 {
                        if strangers {
                            stranger += 1;
                            fdb.learn(0, MacAddr::from_bits(0x0600_0000_0000 + stranger), Slot(7), NOW);
                        } else {
                            _ = frame(&fdb, talks.next());
                        }
                    }
                }
            });
            let mut talks = Round::new(Rc::new(talks(&stations)));
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
