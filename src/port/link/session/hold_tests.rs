//! What has to come before comes by another connection, or never.

use std::io::{Read, Write};

use super::with_peers::{Bench, frame, masked, serving, until};
use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn which(member: u8, n: u32) -> Which {
    Which { member, n }
}

fn enters(epoch: u32, from: Which, told: bool) -> Vec<u8> {
    masked(Opcode::Binary, &Mark::Enters { bucket: 5, epoch, from, told }.bytes())
}

fn leaves(epoch: u32) -> Vec<u8> {
    masked(Opcode::Binary, &Mark::Leaves { bucket: 5, epoch }.bytes())
}

fn one_frame() -> Vec<u8> {
    masked(Opcode::Binary, &frame(60))
}

/// These connections of a link, each to be given bytes and time by hand.
macro_rules! connections {
    ($bench:expr, $($name:ident: $member:literal, $n:literal);+) => {$(
        let (mut session, _peer) = $bench.session_of($member, $n);
        let stream = session.stream.take().unwrap();
        #[allow(unused_mut)]
        let mut $name = serving(&session, stream);
    )+};
}

impl Serving<'_> {
    fn gets(&mut self, bytes: &[Vec<u8>]) {
        self.forward(&mut bytes.concat(), &mut ()).unwrap();
    }

    /// It may be read again, and is.
    fn goes_on(&mut self, now: Instant) {
        assert!(self.is_let_go(now));
        self.read_and_forward().unwrap();
    }
}

#[tokio::test]
async fn frames_of_a_bucket_wait_for_those_that_went_by_another_connection() {
    let bench = Bench::of(Link::default().of_members(3));
    connections!(bench, zero: 0, 0; one: 1, 1; two: 2, 1);
    let now = Instant::now();
    one.gets(&[enters(1, which(0, 0), true), one_frame(), one_frame()]);
    assert!(one.held.is_some() && !one.is_let_go(now));
    zero.gets(&[one_frame(), leaves(1), one_frame()]);
    assert_eq!(bench.rx(0), 2);
    one.goes_on(now);
    assert_eq!(bench.rx(0), 4);
    // What has left already is not waited for, nor what comes by the same connection.
    one.gets(&[enters(1, which(0, 0), true), enters(9, which(1, 1), true), one_frame()]);
    assert_eq!((one.held.is_some(), bench.rx(0)), (false, 5));
    // A connection that ends takes what it was to say with it.
    one.gets(&[enters(2, which(0, 0), true), one_frame()]);
    two.gets(&[enters(3, which(0, 0), false), one_frame()]);
    assert!(!one.is_let_go(now) && !two.is_let_go(now));
    zero.gets(&[one_frame()]);
    bench.link.ended(0, zero.count);
    one.goes_on(now);
    two.goes_on(now);
    assert_eq!(bench.rx(0), 8);
    one.gets(&[enters(4, which(0, 0), true), one_frame()]);
    assert_eq!((one.held.is_some(), bench.rx(0)), (false, 9), "nobody is there to say it");
    // Nor is it member 0 alone that is left.
    two.gets(&[enters(5, which(1, 1), true), one_frame()]);
    assert!(!two.is_let_go(now));
    one.gets(&[leaves(5)]);
    two.goes_on(now);
    assert_eq!(bench.rx(0), 10);
    // What is no mark is no frame either.
    one.gets(&[masked(Opcode::Binary, b"123456789012")]);
    assert_eq!(bench.dropped(Reason::Runt), 1);
}

#[tokio::test]
async fn a_mark_is_for_the_connection_that_it_names_and_not_for_who_has_its_place_now() {
    let bench = Bench::of(Link::default().of_members(3));
    connections!(bench, zero: 0, 0; old: 1, 3; new: 1, 7);
    let now = Instant::now();
    // What came by the old one is still read, and the new one waits for it.
    assert!(new.held.is_some());
    zero.gets(&[enters(1, which(1, 3), false), one_frame()]);
    assert!(!zero.is_let_go(now) && !new.is_let_go(now));
    old.gets(&[one_frame()]);
    bench.link.reads_no_more(1, old.count);
    zero.goes_on(now);
    assert!(new.is_let_go(now));
    assert_eq!(bench.rx(0), 2);
    // That was long ago: nobody has to wait for the end of the new one.
    zero.gets(&[enters(2, which(1, 3), false), enters(2, which(1, 1), true), one_frame()]);
    assert_eq!((zero.held.is_some(), bench.rx(0)), (false, 3));
    // One that this end has not seen yet is waited for.
    zero.gets(&[enters(3, which(1, 8), false), one_frame()]);
    assert!(!zero.is_let_go(now));
    connections!(bench, next: 1, 8);
    bench.link.reads_no_more(1, new.count);
    assert!(next.is_let_go(now) && !zero.is_let_go(now));
    bench.link.ended(1, next.count);
    zero.goes_on(now);
    assert_eq!(bench.rx(0), 4);
    // Of another link the same names are others'.
    bench.link.begins();
    zero.gets(&[enters(4, which(1, 3), false)]);
    assert!(zero.held.is_some());
}

#[tokio::test]
async fn a_mark_that_comes_late_takes_nothing_back() {
    let bench = Bench::of(Link::default().of_members(3));
    connections!(bench, zero: 0, 0; one: 1, 1; two: 2, 1);
    // Said by another connection before, and read now.
    zero.gets(&[leaves(7)]);
    two.gets(&[leaves(6)]);
    one.gets(&[enters(7, which(0, 0), true), one_frame()]);
    assert_eq!((one.held.is_some(), bench.rx(0)), (false, 1));
    // Of the link before nothing counts for the next one, whose far end begins to count anew.
    bench.link.begins();
    two.gets(&[leaves(9)]);
    connections!(bench, next_zero: 0, 0; next_one: 1, 1);
    next_one.gets(&[enters(1, which(0, 0), true), one_frame()]);
    two.gets(&[leaves(10)]);
    assert!(next_one.held.is_some() && bench.rx(0) == 1);
    next_zero.gets(&[leaves(1)]);
    two.gets(&[leaves(11)]);
    next_one.goes_on(Instant::now());
    assert_eq!(bench.rx(0), 2);
}

/// As when a path is gone and the far end alone knows.
#[tokio::test]
async fn connections_that_were_lost_unnoticed_are_waited_for_together_and_once() {
    let bench = Bench::of(Link::default().of_members(5));
    connections!(bench, zero: 0, 0; _one: 1, 1; _two: 2, 1; _three: 3, 1; four: 4, 1);
    let lost = |member| [enters(1, which(member, 1), false), one_frame()].concat();
    let before = Instant::now();
    zero.gets(&[lost(1), lost(2), lost(3)]);
    assert!(!zero.is_let_go(before + SECOND));
    let now = Instant::now() + 2 * SECOND;
    (0..3).for_each(|_| zero.goes_on(now));
    assert_eq!((zero.held.is_some(), bench.rx(0)), (false, 3));
    // They are known by now.
    four.gets(&[lost(1), lost(2), lost(3)]);
    assert_eq!((four.held.is_some(), bench.rx(0)), (false, 6));
}

#[tokio::test]
async fn bad_78_who_names_what_never_was_waits_two_seconds_for_all_of_it() {
    let bench = Bench::of(Link::default().of_members(3));
    connections!(bench, zero: 0, 0; _one: 1, 1);
    let mut held = Duration::ZERO;
    for n in 2..100 {
        zero.gets(&[enters(n, which(n as u8 % 2 + 1, u32::MAX - 100 + n), n % 3 > 0), one_frame()]);
        held += zero.held.unwrap().until.saturating_duration_since(Instant::now());
        zero.goes_on(Instant::now() + 60 * SECOND);
    }
    assert!(held <= 2 * SECOND, "{held:?}");
    assert_eq!(bench.rx(0), 98);
}

/// With sessions of their own that nobody leads by the hand.
#[tokio::test]
async fn what_waited_goes_out_behind_what_it_waited_for() {
    let bench = Bench::of(Link::default().of_members(2));
    let mut out = bench.connect_out().await;
    let [(zero, mut to_zero), (one, mut to_one)] = [bench.session_of(0, 0), bench.session_of(1, 1)];
    for session in [zero, one] {
        tokio::spawn(session.run());
    }
    until("two connections", || bench.link.connections() == 2).await;
    let numbered = |number: u8| {
        let mut frame = frame(60);
        frame[14] = number;
        masked(Opcode::Binary, &frame)
    };
    for round in 0..50_u8 {
        let (first, epoch) = (4 * round, u32::from(round) + 1);
        let held = [enters(epoch, which(0, 0), true), numbered(first + 2), numbered(first + 3)].concat();
        to_one.write_all(&held).unwrap();
        // Now and then it has been read by then.
        tokio::task::yield_now().await;
        to_zero.write_all(&[numbered(first), numbered(first + 1), leaves(epoch)].concat()).unwrap();
    }
    let reads = tokio::task::spawn_blocking(move || {
        let mut message = [0; 62];
        (0..200).map(|_| out.read_exact(&mut message).map(|()| message[16]).unwrap()).collect::<Vec<_>>()
    });
    let came = reads.await.unwrap();
    let at = |number: u8| came.iter().position(|other| *other == number).unwrap();
    for first in (0..200).step_by(4) {
        let order = [0, 1, 2, 3].map(|more| at(first + more));
        assert!(order.is_sorted(), "{first}: {came:?}");
    }
}
