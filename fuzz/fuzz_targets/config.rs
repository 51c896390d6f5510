//! A configuration file: read, checked, written, read again.
#![no_main]

#[path = "../../tests/fuzz_corpus/config.rs"]
mod case;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| case::run(data));
