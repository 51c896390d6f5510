//! Sessions with a peer of a test's own at the other end of a loopback connection.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream as Peer};
use std::sync::atomic::AtomicU64;
use std::thread;

use tokio::time::timeout;

use super::*;
use crate::frame::{Frame, Retag, Tag};
use crate::port::egress::{Departing, Egress};
use crate::prof::{Profiler, Side, Want};
use crate::switch::counters::Counters;
use crate::switch::guard::Policer;
use crate::switch::{Fdb, Now, Port, VlanRule};
use crate::ws::codec::{close_body, encode};
use crate::ws::mask::Key;

const KEY: Key = [1, 2, 3, 4];
pub const PING: Duration = Duration::from_secs(15);
pub const SOON: Duration = Duration::from_secs(30);

/// A switch with a port for the session in slot 0 and one more, at first not connected, that frames go to.
pub struct Bench {
    pub fabric: Arc<Fabric>,
    pub link: Arc<Link>,
    pub stop: watch::Sender<Option<Stop>>,
    /// Of the other port.
    out: Arc<Link>,
}

impl Bench {
    pub fn new() -> Self {
        Self::of(Link::default())
    }

    pub fn of(link: Link) -> Self {
        let fabric = Arc::new(Fabric::new(Fdb::new(64, 300, [1, 2]), Profiler::new(Want::default())));
        let link = Arc::new(link);
        fabric.switch.put(port(0, 1, link.clone()));
        let out = Arc::<Link>::default();
        fabric.switch.put(port(1, 2, out.clone()));
        Self { fabric, link, stop: watch::Sender::new(None), out }
    }

    /// A server's session of port 1, and its peer.
    pub fn session(&self) -> (Session, Peer) {
        let (ours, peer) = pair();
        ours.set_nonblocking(true).unwrap();
        let session = Session {
            link: self.link.clone(),
            fabric: self.fabric.clone(),
            slot: Slot(0),
            number: 1,
            which: Which::default(),
            takes: Takeover::Lost,
            role: Role::Server,
            vnet: false,
            congestion: Congestion::System,
            stream: Some(ours),
            tls: None,
            early: Bytes::new(),
            ping: PING,
            answers: Arc::default(),
            news: None,
            stop: self.stop.subscribe(),
        };
        (session, peer)
    }

    /// The same by another of the link's connections.
    pub fn session_of(&self, member: u8, n: u32) -> (Session, Peer) {
        let (session, peer) = self.session();
        (Session { which: Which { member, n }, ..session }, peer)
    }

    /// Connects the other port too: its peer.
    pub async fn connect_out(&self) -> Peer {
        let (session, peer) = self.session();
        let session = Session { link: self.out.clone(), slot: Slot(1), number: 2, ..session };
        tokio::spawn(session.run());
        until("the other port", || self.out.is_connected()).await;
        peer
    }

    pub fn wire<T>(&self, work: impl FnOnce(&mut Wire) -> T) -> T {
        self.link.with(0, 1, work).unwrap()
    }

    /// Frames received by the port in `slot`.
    pub fn rx(&self, slot: u32) -> u64 {
        self.counters(slot).rx.load(Relaxed)
    }

    /// Frames for the link that were dropped so.
    pub fn dropped(&self, reason: Reason) -> u64 {
        self.link.counters.drops().find(|(other, _)| *other == reason).map_or(0, |(_, frames)| frames)
    }

    pub fn counters(&self, slot: u32) -> Arc<Counters> {
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

pub fn frame(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    bytes[..14].copy_from_slice(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x08, 0]);
    bytes
}

/// A connection of the link, although nobody serves it: its socket and number.
pub fn connect(session: &Session, stream: Peer) -> (Arc<Stream>, u64) {
    let socket = Arc::new(Stream::adopt(stream.into()).unwrap());
    let at = PortAt { slot: 0, number: 1, side: Side::Server };
    let prof = (session.fabric.prof.clone(), at);
    let wire = Wire::new(socket.clone(), None, session.role, false, session.link.counters.clone(), prof);
    let count = session.link.connected(session.which, wire, &Congestion::System, session.takes);
    (socket, count)
}

/// A session about to forward, to be given bytes and time by hand.
pub(super) fn serving(session: &Session, stream: Peer) -> Serving<'_> {
    let (socket, count) = connect(session, stream);
    Serving::new(session, socket, false, (Arc::default(), count))
}

/// A client's message.
pub fn masked(opcode: Opcode, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&mut out, opcode, &[body.into()], Some(KEY), &mut ());
    out
}

pub async fn until(what: &str, mut done: impl FnMut() -> bool) {
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
        bench.link.send(&out, bench.fabric.now(), &mut ()).unwrap();
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
    assert_eq!(Link::default().send(&out, Now(Duration::ZERO), &mut ()), Err(Reason::TooBig));
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
async fn a_close_that_is_asked_for_says_why() {
    let bench = Bench::new();
    let (session, mut peer) = bench.session();
    let ours = session.stream.as_ref().unwrap().try_clone().unwrap();
    let running = tokio::spawn(session.run());
    until("the link", || bench.link.is_connected()).await;
    // As a port is deleted while the session forwards: what ends it is that its port is gone.
    peer.write_all(&masked(Opcode::Binary, &frame(60))).unwrap();
    while ours.peek(&mut [0]).is_err() {
        thread::yield_now();
    }
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
