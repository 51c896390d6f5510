//! A link goes over to another far end.

use std::io::{Read, Write};
use std::net::TcpStream as Peer;

use tokio::time::timeout;

use super::with_peers::{Bench, SOON, serving, until};
use super::*;
use crate::frame::{Frame, MacAddr, Retag};
use crate::port::egress::Departing;
use crate::ws::codec::encode;

const ALL: [u8; 6] = [0xff; 6];
/// At the other port.
const OURS: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Behind the link.
const THEIRS: [u8; 6] = [2, 0, 0, 0, 0, 2];

fn frame(dst: [u8; 6], src: [u8; 6]) -> Vec<u8> {
    [&dst[..], &src, &[8, 0], &[0; 46]].concat()
}

fn bench() -> Bench {
    let bench = Bench::new();
    let fabric = &bench.fabric;
    fabric.switch.fdb.learn(0, MacAddr::new(OURS), Slot(1), fabric.now().seconds());
    bench
}

/// A session of somebody who dialled, for the far end's messages.
fn dialled(bench: &Bench, takes: Takeover) -> (Session, Peer, Arc<News>) {
    let (session, peer) = bench.session();
    let news = Arc::<News>::default();
    (Session { takes, role: Role::Client, news: Some(news.clone()), ..session }, peer, news)
}

fn said(opcode: Opcode, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&mut out, opcode, &[body.into()], None, &mut ());
    out
}

fn send(bench: &Bench, frame: &[u8]) {
    let out = Departing::new(Frame::checked(frame).unwrap(), Retag::Keep, None);
    bench.link.send(&out, bench.fabric.now(), &mut ()).unwrap();
    bench.link.flush(&mut ());
}

#[tokio::test]
async fn each_of_two_connections_brings_what_the_other_does_not() {
    let bench = bench();
    let [(mut old, ..), (mut new, ..)] = [Takeover::Lost, Takeover::Moved].map(|how| dialled(&bench, how));
    let (to_old, to_new) = (old.stream.take().unwrap(), new.stream.take().unwrap());
    let gets = |serving: &mut Serving<'_>, dst, src| {
        let before = bench.dropped(Reason::LinkMoved);
        serving.forward(&mut said(Opcode::Binary, &frame(dst, src)), &mut ()).unwrap();
        bench.dropped(Reason::LinkMoved) == before
    };
    let mut old = serving(&old, to_old);
    assert!(gets(&mut old, ALL, THEIRS), "there is no other");
    let mut new = serving(&new, to_new);
    assert!(new.held.is_none(), "it leads elsewhere, and waits for nobody");
    for (dst, src, by_old, by_new) in [
        (OURS, THEIRS, true, true),
        (ALL, THEIRS, false, true),
        (ALL, OURS, false, false),
        (THEIRS, OURS, false, false),
    ] {
        assert_eq!((gets(&mut old, dst, src), gets(&mut new, dst, src)), (by_old, by_new), "{src:?} {dst:?}");
    }
    let known = bench.fabric.switch.fdb.lookup(0, MacAddr::new(OURS), bench.fabric.now().seconds());
    assert_eq!(known, Some(Slot(1)), "what came back has moved nobody");
    // Nothing of ours is on its way any more.
    new.heard += PARTING;
    assert!(gets(&mut new, ALL, OURS));
}

#[tokio::test]
async fn bad_23_however_often_a_far_end_says_that_it_leaves_it_is_told_once() {
    let bench = bench();
    let (mut session, _peer, news) = dialled(&bench, Takeover::Lost);
    let stream = session.stream.take().unwrap();
    let mut serving = serving(&session, stream);
    serving.forward(&mut said(Opcode::Ping, b"etherws leaving!"), &mut ()).unwrap();
    assert!(timeout(Duration::ZERO, news.leaving.notified()).await.is_err(), "another word");
    serving.forward(&mut said(Opcode::Ping, LEAVING).repeat(1_000), &mut ()).unwrap();
    assert!(timeout(Duration::ZERO, news.leaving.notified()).await.is_ok());
    assert!(timeout(Duration::ZERO, news.leaving.notified()).await.is_err());
}

#[tokio::test]
async fn what_goes_by_the_new_connection_is_behind_what_went_by_the_old_one() {
    let bench = bench();
    let [(mut old, _at_old, _), (mut new, _at_new, _)] =
        [Takeover::Lost, Takeover::Moved].map(|how| dialled(&bench, how));
    let (to_old, to_new) = (old.stream.take().unwrap(), new.stream.take().unwrap());
    let _old = serving(&old, to_old);
    assert!(bench.wire(|wire| wire.due().is_none()));
    let new = serving(&new, to_new);
    new.socket.writable().await.unwrap();
    let second = |work: fn(&mut Wire)| bench.link.with(0, 2, work).unwrap();
    assert!(bench.link.with(0, 2, |wire| wire.due()).unwrap().is_some());
    let tx = || bench.link.counters.tx.load(Relaxed);
    second(|wire| wire.pause(Duration::from_secs(3_600)));
    send(&bench, &frame(ALL, OURS));
    assert!(tx() == 0 && bench.link.with(0, 2, |wire| wire.held_for()).unwrap().is_some());
    second(|wire| wire.pause(Duration::ZERO));
    send(&bench, &frame(ALL, OURS));
    assert!(tx() == 2 && bench.link.with(0, 2, |wire| wire.due()).unwrap().is_none());
    // The end does not wait.
    second(|wire| wire.pause(Duration::from_secs(3_600)));
    send(&bench, &frame(ALL, OURS));
    second(|wire| wire.close(None, ""));
    assert_eq!(tx(), 3);
}

#[tokio::test]
async fn one_that_broke_when_it_was_left_is_not_heard_out() {
    let bench = bench();
    let (mut old, at_old, _) = dialled(&bench, Takeover::Lost);
    let stream = old.stream.take().unwrap();
    let mut serving = serving(&old, stream);
    serving.socket.writable().await.unwrap();
    // A reset, which the kernel tells who writes before the runtime hears of it.
    socket2::SockRef::from(&at_old).set_linger(Some(Duration::ZERO)).unwrap();
    drop(at_old);
    send(&bench, &frame(ALL, OURS));
    assert!(!bench.wire(|wire| wire.flush(&mut ())));
    // Without an end of its own this would never give the thread back.
    serving.hear_out().await;
}

/// By sessions of their own.
#[tokio::test]
async fn a_link_that_is_left_ends_with_a_close_behind_what_it_was_given() {
    let bench = bench();
    let (old, mut at_old, _) = dialled(&bench, Takeover::Lost);
    let old = tokio::spawn(old.run());
    until("the link", || bench.link.is_connected()).await;
    send(&bench, &frame(ALL, OURS));
    let (new, mut at_new, news) = dialled(&bench, Takeover::Moved);
    let new = tokio::spawn(new.run());
    timeout(SOON, news.placed.notified()).await.unwrap();
    send(&bench, &frame(THEIRS, OURS));
    // The old one is still heard, and the new one at once.
    at_old.write_all(&said(Opcode::Binary, &frame(OURS, THEIRS))).unwrap();
    at_new.write_all(&said(Opcode::Binary, &frame(ALL, THEIRS))).unwrap();
    until("both are read", || bench.rx(0) == 2).await;
    assert_eq!(bench.dropped(Reason::LinkMoved), 0);
    let came = tokio::task::spawn_blocking(move || {
        let mut came = Vec::new();
        at_old.read_to_end(&mut came).map(|_| came)
    });
    let ended = timeout(SOON, old).await.unwrap().unwrap();
    assert!(matches!(ended, Ended::Replaced(Takeover::Moved)), "{ended:?}");
    let mut came = came.await.unwrap().unwrap();
    let mut decoder = Decoder::new(Role::Server, MAX_FRAME);
    let (mut at, mut frames, mut close) = (0, Vec::new(), None);
    while let Step::Used(used, event) = decoder.next(&mut came[at..]).unwrap() {
        at += used;
        match event {
            Some(Event::Binary(payload)) => frames.push(payload.open().to_vec()),
            Some(Event::Close(code)) => close = code,
            _ => (),
        }
    }
    assert_eq!((frames, close), (vec![frame(ALL, OURS)], Some(1000)));
    assert!(bench.link.is_connected(), "by the other one");
    at_new.set_read_timeout(Some(SOON)).unwrap();
    // A header with its key, and the second frame.
    at_new.read_exact(&mut [0; 6 + 60]).unwrap();
    bench.stop.send_replace(Some(Stop { code: 1000, reason: "port deleted" }));
    drop(at_new);
    timeout(SOON, new).await.unwrap().unwrap();
}

/// Of a server that ends, whoever was there and whoever still comes.
#[tokio::test]
async fn who_comes_in_is_told_that_the_switch_leaves() {
    let bench = bench();
    let hears = |mut peer: Peer| async move {
        tokio::task::spawn_blocking(move || {
            peer.set_read_timeout(Some(SOON)).unwrap();
            let mut word = [0; 2 + LEAVING.len()];
            peer.read_exact(&mut word).map(|()| word[2..] == *LEAVING && word[0] == 0x89)
        })
        .await
        .unwrap()
        .unwrap()
    };
    let (first, at_first) = bench.session();
    let first = tokio::spawn(first.run());
    until("the link", || bench.link.is_connected()).await;
    bench.fabric.leaves();
    bench.link.say_leaving();
    assert!(hears(at_first).await);
    let (late, at_late) = bench.session();
    let late = tokio::spawn(late.run());
    assert!(hears(at_late).await);
    first.abort();
    late.abort();
}
