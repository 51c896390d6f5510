//! The body of a call and its parameters.
#![no_main]

#[path = "../../tests/fuzz_corpus/jsonrpc.rs"]
mod case;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| case::run(data));
