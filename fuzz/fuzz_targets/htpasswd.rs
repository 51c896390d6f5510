//! A password file and a login against it.
#![no_main]

#[path = "../../tests/fuzz_corpus/htpasswd.rs"]
mod case;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| case::run(data));
