//! What the profiler costs, level by level: the way of `path.rs` with the profiler beside the same with the
//! probe that is nobody, in one run. The two take turns, a pair at a time, and each pair gives a ratio: the
//! median of these, and the 95 % interval of that median by order statistics.
//!
//! Prints a line of JSON for each level and length, `cost` and its interval as parts of the whole.

mod common;

use std::hint::black_box;
use std::time::{Duration, Instant};

use common::way::{Path, frames};
use etherws::prof::snapshot::{Clock, Level};
use etherws::prof::{Profiler, Want};
use etherws::ws::codec::Role;

/// Pairs of turns.
const PAIRS: usize = 400;
const TURN: Duration = Duration::from_millis(2);

fn main() {
    let quick = std::env::args().any(|word| word == "--quick");
    let pairs = if quick { 200 } else { PAIRS };
    for (level, sample) in
        [(Level::Off, 1), (Level::Count, 1), (Level::Stage, 64), (Level::Stage, 1), (Level::Trace, 64)]
    {
        for len in [64, 1_500] {
            let (low, median, high) = cost(Want { level, sample, clock: Clock::Wall }, len, pairs);
            let name = match level {
                Level::Off | Level::Count => level.name().to_owned(),
                _ => format!("{} 1/{sample}", level.name()),
            };
            println!(
                r#"{{"level": "{name}", "bytes": {len}, "pairs": {pairs}, "cost": {median:.5}, "low": {low:.5}, "high": {high:.5}}}"#
            );
        }
    }
}

/// How much longer a pass takes: the median of the pairs, and its 95 % interval.
fn cost(want: Want, len: usize, pairs: usize) -> (f64, f64, f64) {
    let prof = Profiler::new(want);
    let frames = frames(len);
    let mut path = Path::new(Role::Client);
    let mut turn = |profiled: bool, passes: usize| {
        let from = Instant::now();
        for _ in 0..passes {
            match profiled {
                true => path.pass_profiled(black_box(&frames), |out| _ = black_box(out.parts()), &prof),
                false => path.pass(black_box(&frames), |out| _ = black_box(out.parts())),
            }
        }
        from.elapsed().as_secs_f64()
    };
    let one = (0..50).map(|_| turn(false, 1).min(turn(true, 1))).fold(f64::MAX, f64::min);
    let passes = (TURN.as_secs_f64() / one).ceil() as usize;
    let mut ratios: Vec<f64> = (0..pairs)
        .map(|pair| {
            // Whoever comes first finds the caches as the last pair left them.
            let (plain, profiled) = match pair % 2 {
                0 => (turn(false, passes), turn(true, passes)),
                _ => {
                    let profiled = turn(true, passes);
                    (turn(false, passes), profiled)
                }
            };
            profiled / plain - 1.0
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    // The ranks of the median's 95 % interval, from the binomial distribution's normal approximation.
    let half = 1.96 * (pairs as f64).sqrt() / 2.0;
    let rank = |at: f64| ratios[(at.round() as usize).min(pairs - 1)];
    let middle = pairs as f64 / 2.0;
    (rank(middle - half), rank(middle), rank(middle + half))
}
