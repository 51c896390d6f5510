//! Files that are cut, changed or somebody else's: refused in words, never a panic, and no memory for what
//! a header promises.

use etherws::prof::formats::{self, Format, read_numbers, read_tree};
use proptest::prelude::*;

use super::fixture::{TempDir, snapshot};
use crate::etherctl::etherctl;

#[test]
fn cut_files_are_refused() {
    let pstats = formats::write(&snapshot(), Format::Pstats).unwrap();
    let json = formats::write(&snapshot(), Format::Json).unwrap();
    // Without its last newline JSON is whole.
    for (file, whole) in [(&pstats, pstats.len()), (&json, json.len() - 1)] {
        for cut in (0..whole).step_by(7).chain(whole - 20..whole) {
            let why = read_numbers(&file[..cut]).expect_err("cut").to_string();
            assert!(why.contains("expected") && why.contains("pstats"), "{why}");
        }
        assert!(read_numbers(&file[..whole]).is_ok());
    }
    let pprof = formats::write(&snapshot(), Format::Pprof).unwrap();
    for cut in 0..pprof.len() {
        assert!(read_tree(&pprof[..cut]).is_err(), "cut at {cut}");
    }
}

proptest! {
    #[test]
    fn flipped_bits_do_no_harm(format in 0..Format::ALL.len(), at in any::<prop::sample::Index>(), bit in 0..8_u32, more in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20)) {
        let mut file = formats::write(&snapshot(), Format::ALL[format]).unwrap();
        let at = at.index(file.len());
        file[at] ^= 1_u8 << bit;
        for (at, byte) in more {
            let at = at.index(file.len());
            file[at] = byte;
        }
        // A changed number may still make a file: then it is looked at, too.
        if let Ok(tree) = read_tree(&file) {
            prop_assert!(tree.depth() <= 1_000);
            let _ = (tree.total(), tree.stacks().len());
        }
        if let Ok(formats::Numbers::Snapshot(snapshot)) = read_numbers(&file) {
            let split = "stage,port,thread,dir,size".parse().unwrap();
            let _ = etherws::prof::view::rows(&snapshot, &split);
            for format in Format::ALL {
                let _ = formats::write(&snapshot, format);
            }
        }
    }

    #[test]
    fn noise_is_no_profile(noise in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = read_tree(&noise);
        let mut marshalled = vec![b'{'];
        marshalled.extend(&noise);
        prop_assert!(read_numbers(&marshalled).is_err());
    }
}

#[test]
fn a_bomb_stays_packed() {
    use std::io::Write;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    for _ in 0..300 {
        gzip.write_all(&vec![0; 1 << 20]).unwrap();
    }
    let why = read_tree(&gzip.finish().unwrap()).unwrap_err();
    assert!(why.contains("more than 256 MiB"), "{why}");
}

#[test]
fn a_newer_version_is_not_guessed_at() {
    let mut newer = snapshot();
    newer.version = 2;
    let why = read_numbers(&formats::write(&newer, Format::Json).unwrap()).unwrap_err();
    assert!(why.contains("version 2"), "{why}");
}

#[test]
fn foreign_files_are_named_with_what_was_expected() {
    let dir = TempDir::new();
    let good = dir.write("good.json", &formats::write(&snapshot(), Format::Json).unwrap());
    let table: [(&str, &[u8], &str); 5] = [
        ("empty", b"", "empty"),
        ("text", b"hello\n", "pstats"),
        ("other.json", b"{\"a\": 1}", "etherws-prof"),
        ("list.json", b"[1]", "pstats"),
        ("elf", b"\x7fELF\x02\x01\x01", "pstats"),
    ];
    for (name, bytes, word) in table {
        let file = dir.write(name, bytes);
        for args in [["prof", "diff", &good, &file].as_slice(), &["stats", &file]] {
            let ran = etherctl(args, "");
            assert_eq!(ran.code, 1, "{args:?}");
            assert!(
                ran.err.contains(&file) && ran.err.contains(word) && ran.err.contains("expected"),
                "{}",
                ran.err
            );
        }
    }
    let ran = etherctl(&["stats", &dir.path("nowhere")], "");
    assert!(ran.code == 1 && ran.err.contains("nowhere: no such file"), "{}", ran.err);
}
