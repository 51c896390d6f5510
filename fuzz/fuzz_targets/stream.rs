//! What a virtual machine sends, whole and cut anywhere.
#![no_main]

#[path = "../../tests/fuzz_corpus/stream.rs"]
mod case;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| case::run(data));
