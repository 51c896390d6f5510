//! The bodies of the fuzz targets, over the seeds in `fuzz/corpus/` and a few thousand mutations of them: what
//! `make fuzz` looks for longer.

mod codec;
mod config;
mod frame;
mod handshake;
mod htpasswd;
mod ingress;
mod jsonrpc;
mod stream;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

type Case = fn(&[u8]);

const TARGETS: [(&str, Case); 8] = [
    ("codec", codec::run),
    ("config", config::run),
    ("frame", frame::run),
    ("handshake", handshake::run),
    ("htpasswd", htpasswd::run),
    ("ingress", ingress::run),
    ("jsonrpc", jsonrpc::run),
    ("stream", stream::run),
];

/// A target that is built by `make fuzz` has seeds, and all of them are run here.
#[test]
fn no_target_and_no_seeds_are_left_out() {
    let here: BTreeSet<String> = TARGETS.iter().map(|(target, _)| (*target).to_owned()).collect();
    let listed = |folder: &str| -> BTreeSet<String> {
        let name = |path: PathBuf| path.file_stem().expect("a name").to_str().expect("UTF-8").to_owned();
        entries(&fuzz().join(folder)).into_iter().map(name).collect()
    };
    assert_eq!(listed("fuzz_targets"), here);
    assert_eq!(listed("corpus"), here);
    let manifest = std::fs::read_to_string(fuzz().join("Cargo.toml")).expect("the manifest");
    let manifest: toml::Table = manifest.parse().expect("TOML");
    let built = manifest["bin"].as_array().expect("[[bin]]").iter();
    assert_eq!(
        built.map(|bin| bin["name"].as_str().expect("a name").to_owned()).collect::<BTreeSet<_>>(),
        here
    );
}

#[test]
fn bad_15_bad_29_codec() {
    seeds_and_mutations("codec", 4_000);
}

#[test]
fn bad_14_handshake() {
    seeds_and_mutations("handshake", 4_000);
}

#[test]
fn bad_34_bad_41_bad_42_frame() {
    seeds_and_mutations("frame", 4_000);
}

#[test]
fn bad_44_to_bad_48_ingress() {
    seeds_and_mutations("ingress", 4_000);
}

#[test]
fn bad_53_bad_55_jsonrpc() {
    seeds_and_mutations("jsonrpc", 3_000);
}

#[test]
fn bad_60_bad_61_htpasswd() {
    seeds_and_mutations("htpasswd", 2_000);
}

#[test]
fn bad_17_stream() {
    seeds_and_mutations("stream", 4_000);
}

#[test]
fn config() {
    seeds_and_mutations("config", 1_000);
}

/// From nothing but chance.
#[test]
fn a_hundred_thousand_super_frames_keep_their_promises() {
    let mut random = SmallRng::seed_from_u64(0x9e37_79b9_7f4a_7c15);
    let mut total = ingress::Outcome::default();
    for _ in 0..100_000 {
        let mut data = vec![0; random.random_range(0..120)];
        random.fill(&mut data[..]);
        total += ingress::outcome(&data);
    }
    // All of it was reached, and not by luck.
    for (what, count) in [
        ("refused from a peer", total.refused),
        ("whole from a peer", total.whole),
        ("split from a peer", total.split),
        ("finished from a peer", total.finished),
        ("from a kernel", total.kernel),
        ("merged", total.merged),
    ] {
        assert!(count > 1_000, "{what}: {count}");
    }
}

/// Every seed as it is; then what comes of cutting, doubling, joining and spoiling them.
fn seeds_and_mutations(target: &str, mutations: usize) {
    let (_, run) = *TARGETS.iter().find(|(name, _)| *name == target).expect("one of them");
    let dir = fuzz().join("corpus").join(target);
    let paths = entries(&dir);
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

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// What is in a folder, in order.
fn entries(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths
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
fn told(run: Case, data: &[u8], what: impl Fn() -> String) {
    if let Err(panic) = std::panic::catch_unwind(|| run(data)) {
        eprintln!("{}: {:?}", what(), data.escape_ascii().to_string());
        std::panic::resume_unwind(panic);
    }
}
