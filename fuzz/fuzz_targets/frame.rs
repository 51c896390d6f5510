//! Frames, tagged in any way, through a switch of four ports.
#![no_main]

#[path = "../../tests/fuzz_corpus/frame.rs"]
mod case;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| case::run(data));
