//! The fuzz target's case over seeded input: what `fuzz/` looks for longer.

mod case;

use case::{Outcome, ingress};

#[test]
fn two_hundred_thousand_cases_keep_their_promises() {
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let mut total = Outcome::default();
    for _ in 0..200_000 {
        let len = next() as usize % 120;
        let data: Vec<u8> = (0..len).map(|_| (next() >> 24) as u8).collect();
        total += ingress(&data);
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
        assert!(count > 2_000, "{what}: {count}");
    }
}
