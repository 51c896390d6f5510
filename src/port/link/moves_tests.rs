//! What the far ends of a link's connections are told when flows go from one to another.

use std::io::{ErrorKind, Read};
use std::net::TcpStream as Peer;
use std::time::Duration;

use super::*;
use crate::frame::{Frame, Retag};
use crate::port::egress::Departing;
use crate::port::link::session::with_peers::{Bench, connect, frame, until};
use crate::ws::header::Header;

/// The far end of a connection that no session serves.
struct Far {
    peer: Peer,
    bytes: Vec<u8>,
    heard: Vec<Heard>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Heard {
    /// One of the flow that is looked at, by its number.
    Frame(u32),
    Mark(Mark),
}

impl Far {
    async fn connected(bench: &Bench, member: u8, n: u32) -> Self {
        let (mut session, peer) = bench.session_of(member, n);
        let stream = session.stream.take().unwrap();
        connect(&session, stream).0.writable().await.unwrap();
        peer.set_nonblocking(true).unwrap();
        Self { peer, bytes: Vec::new(), heard: Vec::new() }
    }

    /// All that has come by now.
    fn hears(&mut self) -> &[Heard] {
        let mut some = vec![0; 1 << 16];
        loop {
            match self.peer.read(&mut some) {
                Ok(0) => break,
                Ok(n) => self.bytes.extend_from_slice(&some[..n]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => panic!("{e}"),
            }
        }
        let mut at = 0;
        while let Some(header) = Header::parse(&self.bytes[at..]).unwrap() {
            let end = at + header.len + header.payload as usize;
            let Some(body) = self.bytes.get(at + header.len..end) else { break };
            match Mark::read(body, 16) {
                Some(mark) => self.heard.push(Heard::Mark(mark)),
                None if body[11] == FLOW => {
                    self.heard.push(Heard::Frame(u32::from_be_bytes(*body[14..].first_chunk().unwrap())));
                }
                None => (),
            }
            at = end;
        }
        self.bytes.drain(..at);
        &self.heard
    }

    fn frames(&mut self) -> Vec<u32> {
        let frames = self.hears().iter().filter_map(|heard| match heard {
            Heard::Frame(number) => Some(*number),
            Heard::Mark(_) => None,
        });
        frames.collect()
    }
}

/// The flow that is looked at: what its source's address ends with.
const FLOW: u8 = 7;
const NOW: Now = Now(Duration::from_secs(100));

fn numbered(flow: u8, number: u32, len: usize) -> Vec<u8> {
    let mut bytes = frame(len);
    bytes[11] = flow;
    bytes[14..18].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn send(bench: &Bench, bytes: &[u8], now: Now) {
    let out = Departing::new(Frame::checked(bytes).unwrap(), Retag::Keep, None);
    bench.link.send(&out, now, &mut ()).unwrap();
    bench.link.flush(&mut ());
}

fn bucket_of(bench: &Bench, flow: u8) -> usize {
    bench.link.more.get().unwrap().bucket_of(&[numbered(flow, 0, 60).as_slice().into()])
}

/// A link of three connections, of which the flow, after 60 frames, has found the second.
async fn busy() -> (Bench, [Far; 3]) {
    let bench = Bench::of(Link::default().of_members(3));
    let mut far = [
        Far::connected(&bench, 0, 0).await,
        Far::connected(&bench, 1, 4).await,
        Far::connected(&bench, 2, 9).await,
    ];
    (0..60).for_each(|number| send(&bench, &numbered(FLOW, number, 1_500), NOW));
    until("all frames", || far[0].frames().len() + far[1].frames().len() == 60).await;
    let bucket = bucket_of(&bench, FLOW) as u16;
    let first: Vec<_> = (0..43).map(Heard::Frame).chain([told(Mark::Leaves { bucket, epoch: 1 })]).collect();
    let from = Which { member: 0, n: 0 };
    let enters = told(Mark::Enters { bucket, epoch: 1, from, told: true });
    let second: Vec<_> = [enters].into_iter().chain((43..60).map(Heard::Frame)).collect();
    for (far, heard) in far.iter_mut().zip([&first[..], &second, &[]]) {
        assert_eq!(far.hears(), heard);
    }
    far.iter_mut().for_each(|far| far.heard.clear());
    (bench, far)
}

fn told(mark: Mark) -> Heard {
    Heard::Mark(mark)
}

#[tokio::test]
async fn a_flow_that_a_pace_takes_from_its_connection_is_told_on_both() {
    let (bench, mut far) = busy().await;
    let bucket = bucket_of(&bench, FLOW) as u16;
    bench.link.set_pace(Some(10_000_000));
    (60..63).for_each(|number| send(&bench, &numbered(FLOW, number, 1_500), NOW));
    until("three frames", || far[0].frames().len() == 3).await;
    let from = Which { member: 1, n: 4 };
    let enters = told(Mark::Enters { bucket, epoch: 2, from, told: true });
    assert_eq!(far[0].hears()[0], enters);
    assert_eq!(far[0].frames(), [60, 61, 62]);
    until("that it left", || far[1].hears() == [told(Mark::Leaves { bucket, epoch: 2 })]).await;
    assert_eq!(far[2].hears(), []);
    // Whoever is first has the pace, and the others have none: what is behind them would wait for it.
    let paced = |member| bench.link.with(member, 1, |wire| wire.is_paced());
    assert_eq!([0, 1, 2].map(paced), [Some(true), Some(false), Some(false)]);
    bench.link.ended(0, 1);
    assert_eq!([0, 1, 2].map(paced), [None, Some(true), Some(false)]);
    send(&bench, &numbered(FLOW, 63, 1_500), NOW);
    until("the next", || far[1].frames() == [63]).await;
    let from = Which { member: 0, n: 0 };
    assert_eq!(far[1].hears()[1], told(Mark::Enters { bucket, epoch: 3, from, told: false }));
}

/// Nobody has noticed but who writes.
#[tokio::test]
async fn a_flow_whose_connection_breaks_in_a_write_goes_on_by_another() {
    let (bench, mut far) = busy().await;
    let bucket = bucket_of(&bench, FLOW) as u16;
    let [_, broken, third] = &mut far;
    socket2::SockRef::from(&broken.peer).set_linger(Some(Duration::ZERO)).unwrap();
    broken.peer = third.peer.try_clone().unwrap();
    let mut number = 60;
    until("another has it", || {
        send(&bench, &numbered(FLOW, number, 1_500), NOW);
        number += 1;
        !third.hears().is_empty()
    })
    .await;
    assert_eq!(bench.link.connections(), 3);
    (number..number + 10).for_each(|number| send(&bench, &numbered(FLOW, number, 1_500), NOW));
    until("the last", || third.frames().last() == Some(&(number + 9))).await;
    let from = Which { member: 1, n: 4 };
    assert_eq!(third.hears()[0], told(Mark::Enters { bucket, epoch: 2, from, told: false }));
    let frames = third.frames();
    assert!(frames.windows(2).all(|pair| pair[1] == pair[0] + 1), "{frames:?}");
    assert_eq!(far[0].hears(), []);
}

#[tokio::test]
async fn a_flow_stays_where_it_is_while_there_is_no_room_to_say_that_it_moves() {
    let bench = Bench::of(Link::default().of_members(2));
    let mut far = [Far::connected(&bench, 0, 0).await, Far::connected(&bench, 1, 1).await];
    // None of the others' sends much in any second.
    let others = (8..u8::MAX).find(|flow| bucket_of(&bench, *flow) != bucket_of(&bench, FLOW)).unwrap();
    let mut later = 200;
    let mut other = |len| {
        later += 1;
        send(&bench, &numbered(others, 0, len), Now(Duration::from_secs(later)));
    };
    until("the socket is blocked", || {
        other(60_000);
        bench.link.with(0, 1, |wire| wire.is_blocked()) == Some(true)
    })
    .await;
    let mut fill = || {
        while bench.link.first.has_room() {
            other(60);
        }
    };
    let epoch = || bench.link.more.get().unwrap().lock(bucket_of(&bench, FLOW)).epoch;
    fill();
    send(&bench, &numbered(FLOW, 0, 40_000), NOW);
    fill();
    send(&bench, &numbered(FLOW, 1, 40_000), NOW);
    assert_eq!(epoch(), 0, "it did not move");
    assert!(bench.link.first.has_room(), "who sends makes some");
    send(&bench, &numbered(FLOW, 2, 1_500), NOW);
    assert_eq!((epoch(), far[1].hears()), (0, &[][..]), "not at once again");
    until("all is out", || {
        far[0].hears();
        bench.link.flush(&mut ());
        bench.link.with(0, 1, |wire| wire.is_drained()) == Some(true)
    })
    .await;
    (3..5).for_each(|number| send(&bench, &numbered(FLOW, number, 40_000), NOW));
    let bucket = bucket_of(&bench, FLOW) as u16;
    until("it has moved", || far[1].frames() == [4]).await;
    let from = Which { member: 0, n: 0 };
    assert_eq!(far[1].hears()[0], told(Mark::Enters { bucket, epoch: 1, from, told: true }));
    until("that it left", || far[0].hears().last() == Some(&told(Mark::Leaves { bucket, epoch: 1 }))).await;
    let frames = far[0].frames();
    assert!(frames.is_sorted() && frames.last() == Some(&3), "{frames:?}");
}
