//! Sessions with a peer of a test's own at the other end of a loopback connection.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream as Peer};
use std::sync::atomic::AtomicU64;
use std::thread;

use super::*;
use crate::frame::{Frame, Retag, Tag};
use crate::port::egress::{Departing, Egress};
use crate::prof::{PortAt, Profiler, Side, Want};
use crate::switch::counters::Counters;
use crate::switch::guard::Policer;
use crate::switch::{Fdb, Port, VlanRule};
use crate::ws::codec::{close_body, encode};
use crate::ws::mask::Key;

const KEY: Key = [1, 2, 3, 4];
const PING: Duration = Duration::from_secs(15);
const SOON: Duration = Duration::from_secs(30);

/// A switch with a port for the session in slot 0 and one more, not connected, that frames go to.
struct Bench {
    fabric: Arc<Fabric>,
    link: Arc<Link>,
    stop: watch::Sender<Option<Stop>>,
}

impl Bench {
    fn new() -> Self {
        Self::of(Link::default())
    }

    fn of(link: Link) -> Self {
        let fabric = Arc::new(Fabric::new(Fdb::new(64, 300, [1, 2]), Profiler::new(Want::default())));
        let link = Arc::new(link);
        fabric.switch.put(port(0, 1, link.clone()));
        fabric.switch.put(port(1, 2, Arc::default()));
        Self { fabric, link, stop: watch::Sender::new(None) }
    }

    /// A server's session of port 1, and its peer.
    fn session(&self) -> (Session, Peer) {
        let (ours, peer) = pair();
        ours.set_nonblocking(true).unwrap();
        let session = Session {
            link: self.link.clone(),
            fabric: self.fabric.clone(),
            slot: Slot(0),
            number: 1,
            member: 0,
            live: false,
            role: Role::Server,
            vnet: false,
            congestion: Congestion::System,
            stream: Some(ours),
            tls: None,
            early: Bytes::new(),
            ping: PING,
            answers: Arc::default(),
            stop: self.stop.subscribe(),
        };
        (session, peer)
    }

    fn wire<T>(&self, work: impl FnOnce(&mut Wire) -> T) -> T {
        self.link.with(0, 1, work).unwrap()
    }

    /// Frames received by the port in `slot`.
    fn rx(&self, slot: u32) -> u64 {
        self.counters(slot).rx.load(Relaxed)
    }

    /// Frames for the link that were dropped so.
    fn dropped(&self, reason: Reason) -> u64 {
        self.link.counters.drops().find(|(other, _)| *other == reason).map_or(0, |(_, frames)| frames)
    }

    fn counters(&self, slot: u32) -> Arc<Counters> {
        self.fabric.table().get(Slot(slot)).unwrap().counters.clone()
    }
}

fn port(slot: u32, number: u32, link: Arc<Link>) -> Port<Egress> {
    Port {
        slot: Slot(slot),
        number,
        vlan: VlanRule::Transparent,
        isolated: false,
        bpdu: false,
        macs: Vec::new(),
        remote: true,
        rate: None,
        ethertypes: Vec::new(),
        storm: None,
        heard: Arc::new(Policer::of_frames(1)),
        asked: Arc::new(Policer::of_frames(1)),
        max_macs: u32::MAX,
        gate: Arc::default(),
        counters: link.counters.clone(),
        egress: Egress::Link(link),
    }
}

pub fn pair() -> (Peer, Peer) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = Peer::connect(listener.local_addr().unwrap()).unwrap();
    (listener.accept().unwrap().0, peer)
}

fn frame(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    bytes[..14].copy_from_slice(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x08, 0]);
    bytes
}

/// A client's message.
fn masked(opcode: Opcode, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&mut out, opcode, &[body.into()], Some(KEY), &mut ());
    out
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let waited = timeout(SOON, async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what}");
}

#[tokio::test]
async fn a_session_that_outlives_its_port_is_not_taken_for_the_next_one_in_its_slot() {
    let bench = Bench::new();
    let (session, mut peer) = bench.session();
    let running = tokio::spawn(session.run());
    peer.write_all(&masked(Opcode::Binary, &frame(60))).unwrap();
    until("the first frame", || bench.rx(0) == 1).await;
    bench.fabric.switch.remove(Slot(0));
    bench.fabric.switch.put(port(0, 3, Arc::default()));
    peer.write_all(&masked(Opcode::Binary, &frame(60))).unwrap();
    let ended = timeout(SOON, running).await;
    assert_eq!(bench.rx(0), 0, "counted for the new port");
    assert!(matches!(ended, Ok(Ok(Ended::Stopped))), "{ended:?}");
}

/// What has to come before comes by another connection, or never.
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

#[tokio::test]
async fn bad_08_any_number_of_bytes_behind_the_handshake_are_taken() {
    let bench = Bench::new();
    let (mut session, _peer) = bench.session();
    session.early = masked(Opcode::Binary, &frame(1_000)).repeat(400).into();
    let running = tokio::spawn(session.run());
    until("400 frames", || bench.rx(0) == 400 || running.is_finished()).await;
    assert_eq!(bench.rx(0), 400);
    running.abort();
}

/// The peer never lets its session run out of bytes to read.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_link_that_never_pauses_still_writes_and_still_ends() {
    let bench = Bench::new();
    let (session, peer) = bench.session();
    let running = tokio::spawn(session.run());
    let mut writer = peer.try_clone().unwrap();
    let flood = thread::spawn(move || {
        let bytes = masked(Opcode::Binary, &frame(14)).repeat(20_000);
        while writer.write_all(&bytes).is_ok() {}
    });
    until("the flood", || bench.rx(0) > 100_000).await;
    let big = frame(60_000);
    let out = Departing::new(Frame::checked(&big).unwrap(), Retag::Keep, None);
    for _ in 0..200 {
        bench.link.send(&out, &mut ()).unwrap();
    }
    bench.link.flush(&mut ());
    let got = Arc::<AtomicU64>::default();
    let (mut reader, counted) = (peer.try_clone().unwrap(), got.clone());
    let sink = thread::spawn(move || {
        let mut bytes = vec![0; 1 << 16];
        while let Ok(n @ 1..) = reader.read(&mut bytes) {
            counted.fetch_add(n as u64, Relaxed);
        }
    });
    let wanted = || (200 - bench.dropped(Reason::QueueFull) - bench.dropped(Reason::QueueDelay)) * 60_000;
    until("what waited is written", || got.load(Relaxed) >= wanted()).await;
    bench.stop.send_replace(Some(Stop { code: 1001, reason: "going away" }));
    let ended = timeout(SOON, running).await;
    assert!(matches!(ended, Ok(Ok(Ended::Stopped))), "{ended:?}");
    flood.join().unwrap();
    sink.join().unwrap();
}

#[tokio::test]
async fn what_waits_when_the_connection_dies_is_dropped_by_name_and_not_sent() {
    let bench = Bench::new();
    let (session, peer) = bench.session();
    let running = tokio::spawn(session.run());
    until("the link", || bench.link.is_connected()).await;
    let big = frame(60_000);
    let fabric = &bench.fabric;
    let mut taken = 0;
    for _ in 0..200 {
        let table = fabric.table();
        let mut tape = ();
        let mut batch = fabric.batch(&table, Slot(1), 2, &mut tape).unwrap();
        batch.frame(&big);
        drop(batch);
        taken += 1;
        tokio::task::yield_now().await;
    }
    socket2::SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
    drop(peer);
    timeout(SOON, running).await.unwrap().unwrap();
    let counters = bench.counters(0);
    let drops: Vec<_> = counters.drops().collect();
    let dropped = |reason| drops.iter().find(|(r, _)| *r == reason).map_or(0, |(_, n)| *n);
    assert!(dropped(Reason::LinkDown) > 0, "{drops:?}");
    let tx = counters.tx.load(Relaxed);
    assert_eq!(tx + dropped(Reason::LinkDown) + dropped(Reason::QueueFull), taken, "{drops:?}");
}

/// So many frames for the link, all in one batch.
fn send(bench: &Bench, frames: usize) {
    let (table, mut tape, one) = (bench.fabric.table(), (), frame(1514));
    let mut batch = bench.fabric.batch(&table, Slot(1), 2, &mut tape).unwrap();
    (0..frames).for_each(|_| batch.frame(&one));
}

#[tokio::test]
async fn a_paced_link_sends_a_few_at_once_and_the_rest_in_its_time() {
    let bench = Bench::new();
    let (session, peer) = bench.session();
    // Four are half an hour's worth.
    bench.link.set_pace(Some(24));
    let running = tokio::spawn(session.run());
    until("the link", || bench.link.is_connected()).await;
    let tx = || bench.link.counters.tx.load(Relaxed);
    for _ in 0..3 {
        send(&bench, 10);
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(tx(), 4, "neither a new batch nor a timer lets more out");
    }
    // Nobody but the timer is there to do it. On a busy machine some may have waited for too long by then.
    bench.link.set_pace(Some(10_000_000));
    until("the timer lets all out", || tx() + bench.dropped(Reason::QueueDelay) == 30).await;
    let before = tx();
    bench.link.set_pace(Some(24));
    send(&bench, 10);
    assert_eq!(tx(), before + 4);
    bench.link.set_pace(None);
    assert_eq!(tx(), before + 10, "without a pace at once");
    // The end does not wait either.
    bench.link.set_pace(Some(24));
    send(&bench, 10);
    bench.stop.send_replace(Some(Stop { code: 1000, reason: "port deleted" }));
    until("what waited is out", || tx() == before + 20).await;
    drop(peer);
    timeout(SOON, running).await.unwrap().unwrap();
}

#[test]
fn a_tag_does_not_make_a_frame_that_the_far_end_must_refuse() {
    let bytes = frame(MAX_FRAME);
    let tag = Tag { tpid: 0x8100, tci: 10 };
    let out = Departing::new(Frame::checked(&bytes).unwrap(), Retag::Push(tag), None);
    assert_eq!(Link::default().send(&out, &mut ()), Err(Reason::TooBig));
}

/// A session about to forward, to be given bytes and time by hand.
fn serving(session: &Session, stream: Peer) -> Serving<'_> {
    let socket = Arc::new(Stream::adopt(stream.into()).unwrap());
    let at = PortAt { slot: 0, number: 1, side: Side::Server };
    let prof = (session.fabric.prof.clone(), at);
    let wire = Wire::new(socket.clone(), None, session.role, false, session.link.counters.clone(), prof);
    let count = session.link.connected(0, wire, &Congestion::System, false);
    Serving::new(session, socket, false, (Arc::default(), count))
}

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
        (0..100).for_each(|_| _ = bench.link.send(&out, &mut ()).unwrap());
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
async fn bad_27_text_is_answered_only_with_text() {
    let bench = Bench::new();
    let (session, mut peer) = bench.session();
    peer.set_read_timeout(Some(SOON)).unwrap();
    let running = tokio::spawn(session.run());
    // A peer that checks must not find bytes in a text message that are none.
    for body in [&b"hello"[..], b"ping:\xff", b"ping:4711", b"\xff"] {
        peer.write_all(&masked(Opcode::Text, body)).unwrap();
    }
    peer.write_all(&masked(Opcode::Close, &[])).unwrap();
    let ended = timeout(SOON, running).await;
    assert!(matches!(ended, Ok(Ok(Ended::Closed(None)))), "{ended:?}");
    let mut got = Vec::new();
    peer.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"\x81\x09pong:4711\x88\x00");
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
        (0..100).for_each(|_| _ = bench.link.send(&out, &mut ()).unwrap());
        bench.link.flush(&mut ());
        bench.wire(|wire| wire.is_blocked()) && bench.dropped(Reason::QueueFull) > 0
    };
    serving.socket.writable().await.unwrap();
    until("the queue is full", full).await;
    let stuck_since = Instant::now() - STUCK;
    let taken = bench.wire(|wire| wire.progress());
    serving.progress = Progress { taken, since: stuck_since };
    assert!(matches!(serving.tick(), Err(Ended::Stuck)), "not a byte in 10 s");
    serving.progress = Progress { taken, since: stuck_since };
    // Far less than makes the socket writable.
    for _ in 0..8 {
        peer.read_exact(&mut [0; 32 << 10]).unwrap();
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(serving.tick().is_ok(), "the peer does read");
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
        (0..100).for_each(|_| _ = bench.link.send(&out, &mut ()).unwrap());
        bench.link.flush(&mut ());
        bench.wire(|wire| wire.is_blocked())
    })
    .await;
    let text = answer(b"ping:x").unwrap();
    (0..100_000).for_each(|_| _ = bench.wire(|wire| wire.say(Opcode::Text, &text)));
    let waiting = bench.wire(|wire| wire.memory());
    assert!(waiting < 6 << 20, "{waiting} bytes");
}

#[tokio::test]
async fn a_close_that_is_asked_for_says_why() {
    let bench = Bench::new();
    let (session, mut peer) = bench.session();
    let running = tokio::spawn(session.run());
    until("the link", || bench.link.is_connected()).await;
    // As a port is deleted while the session forwards: what ends it is that its port is gone.
    peer.write_all(&masked(Opcode::Binary, &frame(60))).unwrap();
    thread::sleep(Duration::from_millis(50));
    bench.stop.send_replace(Some(Stop { code: 1000, reason: "port deleted" }));
    bench.fabric.switch.remove(Slot(0));
    timeout(SOON, running).await.unwrap().unwrap();
    let mut got = Vec::new();
    let _ = peer.read_to_end(&mut got);
    let mut want = Vec::new();
    encode(&mut want, Opcode::Close, &[close_body(1000, "port deleted").as_slice().into()], None, &mut ());
    assert_eq!(got, want);
}

/// Both ends of TLS, their handshake behind them.
pub fn tls_pair() -> (rustls::ServerConnection, rustls::ClientConnection) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let server = rustls::ServerConfig::builder().with_no_client_auth();
    let server = server.with_single_cert(vec![made.cert.der().clone()], key).unwrap();
    let client = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let mut server = rustls::ServerConnection::new(Arc::new(server)).unwrap();
    let name = "localhost".try_into().unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(client), name).unwrap();
    let mut bytes = Vec::new();
    while client.is_handshaking() || server.is_handshaking() || client.wants_write() || server.wants_write() {
        client.write_tls(&mut bytes).unwrap();
        server.read_tls(&mut &*std::mem::take(&mut bytes)).unwrap();
        server.process_new_packets().unwrap();
        server.write_tls(&mut bytes).unwrap();
        client.read_tls(&mut &*std::mem::take(&mut bytes)).unwrap();
        client.process_new_packets().unwrap();
    }
    (server, client)
}

/// rustls takes nothing more behind a close_notify; whoever goes on offering it waits for ever.
#[test]
fn bytes_behind_a_close_notify_end_the_session() {
    let (done, waiting) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let ended = runtime.block_on(async {
            let bench = Bench::new();
            let (mut session, mut peer) = bench.session();
            let (server, mut client) = tls_pair();
            session.tls = Some(Box::new(server.into()));
            client.writer().write_all(&masked(Opcode::Binary, &frame(60))).unwrap();
            client.send_close_notify();
            let mut bytes = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut bytes).unwrap();
            }
            bytes.extend([0; 100_000]);
            peer.write_all(&bytes).unwrap();
            let ended = timeout(SOON, session.run()).await;
            assert_eq!(bench.rx(0), 1);
            drop(peer);
            ended
        });
        done.send(format!("{ended:?}")).unwrap();
    });
    assert_eq!(waiting.recv_timeout(SOON * 2).as_deref(), Ok("Ok(Eof)"));
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
