//! A session that is given bytes and time by hand.

use std::io::Read;

use super::with_peers::{Bench, PING, frame, masked, serving, until};
use super::*;
use crate::frame::{Frame, Retag};
use crate::port::egress::Departing;
use crate::port::link::progress::STUCK;

#[tokio::test]
async fn bad_22_messages_in_fragments_that_do_end_are_not_held_against_the_peer() {
    let bench = Bench::new();
    let (mut session, _peer) = bench.session();
    let stream = session.stream.take().unwrap();
    let mut serving = serving(&session, stream);
    let mut start = masked(Opcode::Binary, &frame(60));
    start[0] &= 0x7f;
    let end = masked(Opcode::Continuation, &[]);
    let long_ago = Instant::now() - UNFINISHED;
    serving.heard = long_ago;
    serving.forward(&mut start.clone(), &mut ()).unwrap();
    assert_eq!(serving.unfinished, Some(long_ago));
    serving.heard = Instant::now();
    // The end of one and the start of the next in one read, and so for ever.
    serving.forward(&mut [end, start].concat(), &mut ()).unwrap();
    assert_eq!(serving.unfinished, Some(serving.heard));
    assert!(serving.tick().is_ok());
}

#[tokio::test]
async fn bad_22_a_message_that_does_not_end_in_time_ends_the_session() {
    let bench = Bench::new();
    let (mut session, _peer) = bench.session();
    let stream = session.stream.take().unwrap();
    let mut serving = serving(&session, stream);
    let mut part = masked(Opcode::Binary, &frame(60));
    part[0] &= 0x7f;
    let mut more = masked(Opcode::Continuation, &[0]);
    more[0] &= 0x7f;
    serving.heard = Instant::now() - UNFINISHED;
    serving.forward(&mut part, &mut ()).unwrap();
    // That it goes on is no end.
    serving.heard = Instant::now();
    serving.forward(&mut more, &mut ()).unwrap();
    assert!(matches!(serving.tick(), Err(Ended::Unfinished)));
    assert_eq!(bench.rx(0), 0);
}

/// To a peer that asks and does not read: sixteen answers, and the latest (RFC 6455 5.5.3).
#[tokio::test]
async fn bad_23_of_many_pings_sixteen_and_the_latest_are_answered() {
    let bench = Bench::new();
    let (mut session, mut peer) = bench.session();
    let stream = session.stream.take().unwrap();
    let mut serving = serving(&session, stream);
    serving.socket.writable().await.unwrap();
    let big = frame(60_000);
    let out = Departing::new(Frame::checked(&big).unwrap(), Retag::Keep, None);
    until("the socket is blocked", || {
        (0..100).for_each(|_| _ = bench.link.send(&out, bench.fabric.now(), &mut ()).unwrap());
        bench.link.flush(&mut ());
        bench.wire(|wire| wire.is_blocked())
    })
    .await;
    for number in 0..100_u8 {
        serving.forward(&mut masked(Opcode::Ping, &[number]), &mut ()).unwrap();
    }
    peer.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut got = Vec::new();
    until("the last answer", || {
        _ = peer.read_to_end(&mut got);
        bench.link.flush(&mut ());
        got.ends_with(&[0x8a, 1, 99])
    })
    .await;
    let mut decoder = Decoder::new(Role::Client, MAX_FRAME);
    let (mut at, mut answered) = (0, Vec::new());
    while let Step::Used(used, event) = decoder.next(&mut got[at..]).unwrap() {
        at += used;
        if let Some(Event::Pong(payload)) = event {
            answered.extend_from_slice(payload.open());
        }
    }
    assert_eq!(answered, (0..16).chain([99]).collect::<Vec<u8>>());
}

/// To one that reads, a write for each would hold up every other port of the thread.
#[tokio::test]
async fn bad_23_pings_that_come_at_once_are_answered_at_once() {
    let bench = Bench::new();
    let (mut session, mut peer) = bench.session();
    let stream = session.stream.take().unwrap();
    let mut serving = serving(&session, stream);
    serving.socket.writable().await.unwrap();
    let mut flood: Vec<u8> = (0..10_000_u16).flat_map(|n| masked(Opcode::Ping, &n.to_be_bytes())).collect();
    serving.forward(&mut flood, &mut ()).unwrap();
    let mut question = masked(Opcode::Text, b"ping:x").repeat(1_000);
    serving.forward(&mut question, &mut ()).unwrap();
    bench.wire(|wire| wire.close(None, ""));
    drop(serving);
    drop(session);
    bench.link.ended(0, 1);
    let mut got = Vec::new();
    peer.read_to_end(&mut got).unwrap();
    let pongs = (0..16).chain([9_999_u16]).flat_map(|n| [&[0x8a, 2][..], &n.to_be_bytes()].concat());
    let texts = b"\x81\x06pong:x".repeat(1_000);
    assert_eq!(got, pongs.chain(texts).chain([0x88, 0]).collect::<Vec<u8>>());
}

#[tokio::test]
async fn bad_24_an_unsolicited_pong_does_not_make_a_peer_that_answers() {
    let bench = Bench::new();
    let (mut session, _peer) = bench.session();
    let stream = session.stream.take().unwrap();
    let mut serving = serving(&session, stream);
    serving.forward(&mut masked(Opcode::Pong, b""), &mut ()).unwrap();
    assert!(!session.answers.load(Relaxed));
    serving.heard = Instant::now() - PING;
    serving.tick().unwrap();
    serving.forward(&mut masked(Opcode::Pong, b""), &mut ()).unwrap();
    assert!(session.answers.load(Relaxed));
}

#[tokio::test]
async fn a_peer_that_is_always_heard_is_asked_once_all_the_same() {
    let bench = Bench::new();
    let (mut session, _peer) = bench.session();
    let stream = session.stream.take().unwrap();
    let mut serving = serving(&session, stream);
    serving.tick().unwrap();
    assert!(!serving.asked);
    serving.began = Instant::now() - PING;
    serving.tick().unwrap();
    assert!(std::mem::take(&mut serving.asked));
    session.answers.store(true, Relaxed);
    serving.pinged = None;
    serving.tick().unwrap();
    assert!(!serving.asked, "it is known now");
}

#[tokio::test]
async fn bad_67_a_slow_reader_is_not_a_stuck_one() {
    let bench = Bench::new();
    let (mut session, mut peer) = bench.session();
    let stream = session.stream.take().unwrap();
    let mut serving = serving(&session, stream);
    let big = frame(60_000);
    let out = Departing::new(Frame::checked(&big).unwrap(), Retag::Keep, None);
    let full = || -> bool {
        (0..100).for_each(|_| _ = bench.link.send(&out, bench.fabric.now(), &mut ()).unwrap());
        bench.link.flush(&mut ());
        bench.wire(|wire| wire.is_blocked()) && bench.dropped(Reason::QueueFull) > 0
    };
    serving.socket.writable().await.unwrap();
    until("the queue is full", full).await;
    let stuck_since = Instant::now() - STUCK;
    let taken = bench.wire(|wire| wire.progress());
    serving.progress = Progress { taken, since: stuck_since };
    assert!(matches!(serving.tick(), Err(Ended::Stuck)), "not a byte in 10 s");
    // Far less than makes the socket writable.
    for _ in 0..8 {
        peer.read_exact(&mut [0; 32 << 10]).unwrap();
    }
    until("the peer does read", || {
        serving.progress = Progress { taken, since: stuck_since };
        serving.tick().is_ok()
    })
    .await;
}

/// A peer that does not read may still ask and ask.
#[tokio::test]
async fn bad_27_answers_to_a_peer_that_does_not_read_are_bounded() {
    let bench = Bench::new();
    let (mut session, _peer) = bench.session();
    let stream = session.stream.take().unwrap();
    let serving = serving(&session, stream);
    let big = frame(60_000);
    let out = Departing::new(Frame::checked(&big).unwrap(), Retag::Keep, None);
    serving.socket.writable().await.unwrap();
    until("the socket is blocked", || {
        (0..100).for_each(|_| _ = bench.link.send(&out, bench.fabric.now(), &mut ()).unwrap());
        bench.link.flush(&mut ());
        bench.wire(|wire| wire.is_blocked())
    })
    .await;
    let text = answer(b"ping:x").unwrap();
    (0..100_000).for_each(|_| _ = bench.wire(|wire| wire.say(Opcode::Text, &text)));
    let waiting = bench.wire(|wire| wire.memory());
    assert!(waiting < 6 << 20, "{waiting} bytes");
}

/// An acceptance of the profiler: a microsecond more in one stage is found there and nowhere else. Medians are
/// looked at, of short turns in turn, which others' work on the machine does not move.
#[tokio::test]
async fn a_slower_stage_is_found_where_it_is() {
    use crate::prof::recorder::tests::inject;
    use crate::prof::snapshot::{Level, PortName, Snapshot};
    use crate::prof::{Stage, Want};

    let bench = Bench::new();
    let (mut session, _peer) = bench.session();
    let stream = session.stream.take().unwrap();
    let mut serving = serving(&session, stream);
    let prof = bench.fabric.prof.clone();
    prof.set_base(Some(Want { level: Level::Stage, sample: 1, ..Want::default() }));
    let bytes: Vec<u8> = (0..32).flat_map(|_| masked(Opcode::Binary, &frame(60))).collect();
    let mut half = |slower: u32| {
        inject(Stage::SwLearn, slower);
        let ports =
            || vec![PortName { port: 1, name: "link".into(), kind: "server".into(), ..PortName::default() }];
        let before = prof.snapshot(ports());
        for _ in 0..40 {
            with_tape!(prof, |tape| serving.forward(&mut bytes.clone(), tape)).unwrap();
        }
        inject(Stage::SwLearn, 0);
        let came: Snapshot = prof.snapshot(ports()).since(&before);
        let median = |hist: &[(u16, u64)]| {
            let all: u64 = hist.iter().map(|(_, count)| count).sum();
            let mut seen = 0;
            let found = hist.iter().find(|(_, count)| {
                seen += count;
                seen * 2 >= all
            });
            found.map_or(0.0, |(bucket, _)| came.bucket_ns(*bucket))
        };
        came.spans.iter().map(|span| (span.path.clone(), median(&span.hist))).collect::<Vec<_>>()
    };
    // The first turn finds cold caches.
    half(0);
    let turns: Vec<_> = (0..15).map(|_| (half(0), half(1_000))).collect();
    let paths: Vec<_> = turns[0].0.iter().map(|(path, _)| path.as_str()).collect();
    for stage in ["rx.ws.parse", "rx.ws.unmask", "sw.parse", "sw.learn", "sw.flood"] {
        assert!(paths.contains(&stage), "{paths:?}");
    }
    for (i, path) in paths.iter().enumerate() {
        let mut more: Vec<f64> = Vec::new();
        for (plain, slower) in &turns {
            assert_eq!((plain.len(), slower.len()), (paths.len(), paths.len()));
            assert_eq!((&*plain[i].0, &*slower[i].0), (*path, *path));
            more.push(slower[i].1 - plain[i].1);
        }
        more.sort_by(f64::total_cmp);
        match *path {
            "sw.learn" => assert!((800.0..2_000.0).contains(&more[7]), "{path}: {more:?}"),
            _ => assert!(more[7].abs() < 400.0, "{path}: {more:?}"),
        }
    }
}
