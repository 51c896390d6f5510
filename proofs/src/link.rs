//! A link (`port::link`): who forwards frames writes them, until the socket takes no more; then the session waits for it.

// Only the way of a frame to the socket is looked at here.
#[allow(dead_code, unused_imports)]
mod port;
mod prove;
mod sync;

/// What that is built on, as it is.
use etherws::{frame, prof, switch, sys, with_tape, ws};

use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Waker};
use std::time::Duration;

use loom::future::block_on;
use loom::thread::JoinHandle;
use port::egress::Egress;
use port::fabric::Fabric;
use port::link::{Ended, Link, Session, Stop, Takeover};
use port::spec::Congestion;
use prof::{Profiler, Want};
use prove::{go, prove};
use switch::guard::Policer;
use switch::{Fdb, Port, Reason, Slot, VlanRule};
use tokio::net::{Connection, NEXT};
use tokio::sync::watch;
use ws::codec::{Role, encode};
use ws::header::Opcode;
use ws::joining::Which;

fn main() {
    fabric();

    prove("no frame of two threads stays behind while the socket takes some", 1, || {
        let (world, session) = World::new(40);
        let peer = world.peer(|peer| {
            peer.until(|heard| heard.len() == 2);
            peer.connection.end();
        });
        let other = world.sends(2, 0..1);
        world.send(1, 0..1);
        other.join().unwrap();
        let mut heard = peer.join().unwrap();
        heard.sort();
        assert_eq!(heard, [frame(1, 0), frame(2, 0)]);
        assert!(matches!(session.join().unwrap(), Ended::Eof));
        assert_eq!(world.counted(), (2, 0));
    });

    prove("frames of a flow come in the order in which they went", 1, || {
        let (world, session) = World::new(40);
        let peer = world.peer(|peer| {
            peer.until(|heard| heard.len() == 3);
            peer.connection.end();
        });
        world.send(1, 0..3);
        assert_eq!(peer.join().unwrap(), [0, 1, 2].map(|n| frame(1, n)));
        assert!(matches!(session.join().unwrap(), Ended::Eof));
        assert_eq!(world.counted(), (3, 0));
    });

    prove("a PING is answered between frames, and breaks none", 1, || {
        let (world, session) = World::new(40);
        let peer = world.peer(|peer| {
            let mut ping = Vec::new();
            encode(&mut ping, Opcode::Ping, &[b"?"[..].into()], Some([1, 2, 3, 4]), &mut ());
            peer.connection.give(&ping);
            peer.until(|heard| heard.len() == 3);
            peer.connection.end();
        });
        world.send(1, 0..2);
        let (pongs, frames): (Vec<_>, Vec<_>) =
            peer.join().unwrap().into_iter().partition(|heard| heard.0 == 10);
        assert_eq!((pongs, frames), (vec![(10, b"?".to_vec())], vec![frame(1, 0), frame(1, 1)]));
        assert!(matches!(session.join().unwrap(), Ended::Eof));
        assert_eq!(world.counted(), (2, 0));
    });

    prove("when the connection breaks, what was not written is dropped by name", 2, || {
        let (world, session) = World::new(40);
        let peer = world.peer(|peer| peer.connection.reset());
        world.send(1, 0..2);
        peer.join().unwrap();
        assert!(matches!(session.join().unwrap(), Ended::Broken(_)));
        assert!(!world.link.is_connected());
        let (sent, dropped) = world.counted();
        assert_eq!(sent + dropped, 2);
        assert_eq!(world.dropped(Reason::LinkDown), dropped);
    });

    prove("a link that is closed sends what it has accepted, and then its Close", 2, || {
        let (world, session) = World::new(40);
        let peer = world.peer(|peer| {
            peer.until(|heard| heard.iter().any(|heard| heard.0 == 8));
            assert!(peer.bytes.is_empty(), "nothing follows it");
            peer.connection.end();
        });
        world.send(1, 0..1);
        world.stop.send_replace(Some(Stop { code: 1001, reason: "" }));
        world.send(1, 1..2);
        let heard = peer.join().unwrap();
        assert!(matches!(session.join().unwrap(), Ended::Stopped));
        let (sent, dropped) = world.counted();
        assert_eq!((sent + dropped, world.dropped(Reason::LinkDown)), (2, dropped));
        assert_eq!(world.connection.waiting(), 0, "nor later");
        let (close, frames) = heard.split_last().unwrap();
        assert_eq!(*close, (8, 1001_u16.to_be_bytes().to_vec()));
        assert_eq!(frames, &[0, 1].map(|n| frame(1, n))[..sent as usize]);
    });
}

/// A switch whose port 0 is the link, and others that frames come in by.
struct World {
    fabric: Arc<Fabric>,
    link: Arc<Link>,
    connection: Arc<Connection>,
    stop: watch::Sender<Option<Stop>>,
}

impl World {
    /// The link is connected; its socket takes `room` bytes before the peer has to read some.
    fn new(room: usize) -> (Arc<Self>, JoinHandle<Ended>) {
        let fabric = fabric();
        let link = Arc::<Link>::default();
        fabric.switch.put(port(0, link.clone()));
        (1..3).for_each(|slot| fabric.switch.put(port(slot, Arc::default())));
        let connection = Connection::new(room);
        *NEXT.lock().unwrap() = Some(connection.clone());
        let stop = watch::Sender::new(None);
        let session = Session {
            link: link.clone(),
            fabric: fabric.clone(),
            slot: Slot(0),
            number: 0,
            which: Which::default(),
            takes: Takeover::Lost,
            role: Role::Server,
            vnet: false,
            congestion: Congestion::System,
            stream: Some(any_socket()),
            tls: None,
            early: Default::default(),
            ping: Duration::from_secs(3600),
            answers: Arc::default(),
            news: None,
            stop: stop.subscribe(),
        };
        let mut session: Pin<Box<dyn Future<Output = Ended> + Send>> = Box::pin(session.run());
        assert!(session.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        assert!(link.is_connected());
        (Arc::new(Self { fabric, link, connection, stop }), go(move || block_on(session)))
    }

    /// As a data thread does that has read frames from a port, each in a batch of its own.
    fn send(&self, slot: u8, frames: Range<u8>) {
        for n in frames {
            let table = self.fabric.table();
            let tape = &mut ();
            let mut batch = self.fabric.batch(&table, Slot(slot.into()), slot.into(), tape).unwrap();
            batch.frame(&frame(slot, n).1);
        }
    }

    fn sends(self: &Arc<Self>, slot: u8, frames: Range<u8>) -> JoinHandle<()> {
        let world = self.clone();
        go(move || world.send(slot, frames))
    }

    fn peer(&self, does: impl FnOnce(&mut Peer) + Send + 'static) -> JoinHandle<Vec<Heard>> {
        let connection = self.connection.clone();
        go(move || {
            connection.begin();
            let mut peer = Peer { connection, bytes: Vec::new(), heard: Vec::new() };
            does(&mut peer);
            peer.heard
        })
    }

    /// Frames sent, and dropped.
    fn counted(&self) -> (u64, u64) {
        let dropped = self.link.counters.drops().map(|(_, frames)| frames).sum();
        (self.link.counters.tx.load(Relaxed), dropped)
    }

    fn dropped(&self, reason: Reason) -> u64 {
        self.link.counters.drops().find(|(other, _)| *other == reason).map_or(0, |(_, frames)| frames)
    }
}

/// One for all, made where there is stack for it: beside the link nothing of it changes from one order to the next.
fn fabric() -> Arc<Fabric> {
    static FABRIC: OnceLock<Arc<Fabric>> = OnceLock::new();
    let make = || Arc::new(Fabric::new(Fdb::new(64, 300, [1, 2]), Profiler::new(Want::default())));
    FABRIC.get_or_init(make).clone()
}

fn port(slot: u32, link: Arc<Link>) -> Port<Egress> {
    Port {
        slot: Slot(slot),
        number: slot,
        vlan: VlanRule::Transparent,
        isolated: slot > 0,
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

/// One that options can be set on.
fn any_socket() -> TcpStream {
    static SOCKET: OnceLock<TcpStream> = OnceLock::new();
    let socket = SOCKET.get_or_init(|| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
        TcpStream::connect(listener.local_addr().expect("its address")).expect("a connection")
    });
    socket.try_clone().expect("a descriptor")
}

/// The far end.
struct Peer {
    connection: Arc<Connection>,
    bytes: Vec<u8>,
    heard: Vec<Heard>,
}

/// Opcode and body of a message.
type Heard = (u8, Vec<u8>);

/// The `n`th frame of the port in `slot`, to all.
fn frame(slot: u8, n: u8) -> Heard {
    let mut frame = vec![255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, slot, 0x08, 0];
    frame.resize(60, n);
    (2, frame)
}

impl Peer {
    /// Reads until `enough` was heard.
    fn until(&mut self, enough: impl Fn(&[Heard]) -> bool) {
        while !enough(&self.heard) {
            self.bytes.extend(self.connection.take());
            while let [first, len, rest @ ..] = &self.bytes[..]
                && rest.len() >= usize::from(*len)
            {
                let len = usize::from(*len);
                self.heard.push((first & 0x0f, rest[..len].to_vec()));
                self.bytes.drain(..2 + len);
            }
        }
    }
}
