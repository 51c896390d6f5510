//! What has to come before comes by another connection, or never.

use std::io::Write;

use super::with_peers::{Bench, frame, masked, until};
use super::*;

#[tokio::test]
async fn frames_of_a_bucket_wait_for_those_that_went_by_another_connection() {
    let bench = Bench::of(Link::default().of_members(3));
    let begin = |member: u8| {
        let (session, peer) = bench.session();
        tokio::spawn(Session { member, ..session }.run());
        peer
    };
    let (mut zero, mut one, mut two) = (begin(0), begin(1), begin(2));
    until("three connections", || bench.link.connections() == 3).await;
    let enters =
        |epoch, from, told| masked(Opcode::Binary, &Mark::Enters { bucket: 5, epoch, from, told }.bytes());
    let leaves = |epoch| masked(Opcode::Binary, &Mark::Leaves { bucket: 5, epoch }.bytes());
    let one_frame = masked(Opcode::Binary, &frame(60));
    let settle = || tokio::time::sleep(Duration::from_millis(50));
    // Two behind the mark, and one that comes while nobody reads.
    one.write_all(&[&enters(1, 0, true)[..], &one_frame, &one_frame].concat()).unwrap();
    settle().await;
    one.write_all(&one_frame).unwrap();
    settle().await;
    assert_eq!(bench.rx(0), 0);
    zero.write_all(&[&one_frame[..], &leaves(1)].concat()).unwrap();
    until("all four", || bench.rx(0) == 4).await;
    // What has left already is not waited for, nor what comes by the same connection.
    one.write_all(&[&enters(1, 0, true)[..], &enters(9, 1, true), &one_frame].concat()).unwrap();
    until("the fifth", || bench.rx(0) == 5).await;
    // A connection that ends takes what it was to say with it.
    one.write_all(&[&enters(2, 0, true)[..], &one_frame].concat()).unwrap();
    two.write_all(&[&enters(3, 0, false)[..], &one_frame].concat()).unwrap();
    settle().await;
    assert_eq!(bench.rx(0), 5);
    zero.write_all(&one_frame).unwrap();
    drop(zero);
    until("the eighth", || bench.rx(0) == 8).await;
    // Nobody is there to say it: then nobody waits for ever.
    let began = Instant::now();
    one.write_all(&[&enters(4, 0, true)[..], &one_frame].concat()).unwrap();
    until("the ninth", || bench.rx(0) == 9).await;
    assert!(began.elapsed() > Duration::from_secs(1), "not without having waited");
    // What is no mark is no frame either.
    one.write_all(&masked(Opcode::Binary, b"12345678")).unwrap();
    until("a runt", || bench.dropped(Reason::Runt) == 1).await;
}
