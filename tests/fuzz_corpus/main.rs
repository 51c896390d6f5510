//! The bodies of the fuzz targets, over the seeds in `fuzz/corpus/` and a few thousand mutations of them: what
//! `make fuzz` looks for longer. The target `ingress` has a test of its own.

mod codec;
mod config;
mod frame;
mod handshake;
mod htpasswd;
mod jsonrpc;
mod stream;

use std::path::Path;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

#[test]
fn bad_15_bad_29_codec() {
    seeds_and_mutations("codec", codec::run, 4_000);
}

#[test]
fn bad_14_handshake() {
    seeds_and_mutations("handshake", handshake::run, 4_000);
}

#[test]
fn bad_34_bad_41_bad_42_frame() {
    seeds_and_mutations("frame", frame::run, 4_000);
}

#[test]
fn bad_53_bad_55_jsonrpc() {
    seeds_and_mutations("jsonrpc", jsonrpc::run, 3_000);
}

#[test]
fn bad_60_bad_61_htpasswd() {
    seeds_and_mutations("htpasswd", htpasswd::run, 2_000);
}

#[test]
fn bad_17_stream() {
    seeds_and_mutations("stream", stream::run, 4_000);
}

#[test]
fn config() {
    seeds_and_mutations("config", config::run, 1_000);
}

/// Every seed as it is; then what comes of cutting, doubling, joining and spoiling them.
fn seeds_and_mutations(target: &str, run: fn(&[u8]), mutations: usize) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut paths: Vec<_> =
        std::fs::read_dir(&dir).expect("the corpus").map(|entry| entry.expect("seed").path()).collect();
    paths.sort();
    let seeds: Vec<Vec<u8>> = paths.iter().map(|path| std::fs::read(path).expect("seed")).collect();
    assert!(seeds.len() >= 5, "{} has {} seeds", dir.display(), seeds.len());
    for (path, seed) in paths.iter().zip(&seeds) {
        told(run, seed, || path.display().to_string());
    }
    let mut random = SmallRng::seed_from_u64(0x65_7468_6572);
    for number in 0..mutations {
        let mut data = seeds[random.random_range(0..seeds.len())].clone();
        for _ in 0..random.random_range(1..5) {
            mutate(&mut data, &seeds, &mut random);
        }
        told(run, &data, || format!("mutation {number}"));
    }
}

fn mutate(data: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut SmallRng) {
    let mut at = |data: &[u8]| random.random_range(0..=data.len());
    let (from, to) = (at(data), at(data));
    let (from, to) = (from.min(to), from.max(to));
    match random.random_range(0..7) {
        0 => drop(data.drain(from..to)),
        1 => data.truncate(from),
        2 if data.len() < 100_000 => data.extend_from_within(from..to),
        3 => {
            let other = &seeds[random.random_range(0..seeds.len())];
            data.truncate(from);
            data.extend_from_slice(&other[random.random_range(0..=other.len())..]);
        }
        4 => data.insert(from, random.random()),
        _ => {
            if let Some(byte) = data.get_mut(from) {
                *byte = match random.random_range(0..4) {
                    0 => random.random(),
                    1 => *byte ^ 1 << random.random_range(0..8),
                    2 => byte.wrapping_add(1),
                    _ => [0, 0x7e, 0x7f, 0x80, 0xff, b'\n', b':', b'"'][random.random_range(0..8)],
                };
            }
        }
    }
}

/// Runs a case; one that fails is shown, so that it can become a seed.
fn told(run: fn(&[u8]), data: &[u8], what: impl Fn() -> String) {
    if let Err(panic) = std::panic::catch_unwind(|| run(data)) {
        eprintln!("{}: {:?}", what(), data.escape_ascii().to_string());
        std::panic::resume_unwind(panic);
    }
}
