//! A virtio header and a frame, from a peer or a kernel, through to what egress would write.
#![no_main]

#[path = "../../tests/fuzz_corpus/ingress.rs"]
mod case;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| case::run(data));
