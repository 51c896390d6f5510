//! Answers to our opening handshake, and what clients offer to our service.
#![no_main]

#[path = "../../tests/fuzz_corpus/handshake.rs"]
mod case;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| case::run(data));
