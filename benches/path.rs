//! A frame's whole way in memory, from one switch's TAP to another's ([`common::way`]). Every frame that
//! comes out is compared with the one that went in before anything is timed.

mod common;

use std::hint::black_box;

use common::way::{Path, frames};
use criterion::{BenchmarkId, Throughput};
use etherws::ws::codec::Role;

/// Bytes of a frame, its Ethernet header included; the last is the largest that needs a 64-bit length.
const LENGTHS: [usize; 3] = [64, 1_514, 65_549];

fn main() {
    let mut criterion = common::criterion();
    for (direction, role) in [("masked", Role::Client), ("clear", Role::Server)] {
        let mut group = criterion.benchmark_group(format!("path {direction}"));
        for len in LENGTHS {
            let frames = frames(len);
            let mut path = Path::new(role);
            let mut arrived = Vec::new();
            path.pass(&frames, |out| arrived.push(out.parts().concat()));
            assert!(arrived == frames, "{direction} with {len} bytes");
            group.throughput(Throughput::Elements(frames.len() as u64));
            group.bench_function(BenchmarkId::new("two switches", len), |b| {
                b.iter(|| path.pass(black_box(&frames), |out| _ = black_box(out.parts())))
            });
        }
        group.finish();
    }
    criterion.final_summary();
}
