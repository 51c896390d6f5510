//! A TCP relay whose connections a test can cut, hold up and count, one by one.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Host, inside};

pub struct Relay {
    pub addr: SocketAddr,
    connections: Arc<Mutex<Vec<Connection>>>,
    to: Arc<Mutex<SocketAddr>>,
    /// Nobody is let through.
    closed: Arc<AtomicBool>,
    stopped: Arc<AtomicBool>,
}

struct Connection {
    near: TcpStream,
    far: TcpStream,
    alive: Arc<AtomicBool>,
    /// The far end is to learn nothing.
    silent: Arc<AtomicBool>,
    /// Bytes there and back.
    bytes: Arc<AtomicU64>,
}

impl Relay {
    /// In `host`, to `to`.
    pub fn start(host: &Host, to: &str) -> Self {
        let listener = inside(host, || TcpListener::bind("127.0.0.1:0").expect("bind"));
        let addr = listener.local_addr().unwrap();
        let relay = Self {
            addr,
            connections: Arc::default(),
            to: Arc::new(Mutex::new(to.parse().expect("address"))),
            closed: Arc::default(),
            stopped: Arc::default(),
        };
        let (connections, to, closed, stopped) =
            (relay.connections.clone(), relay.to.clone(), relay.closed.clone(), relay.stopped.clone());
        let name = host.name().to_owned();
        std::thread::spawn(move || {
            let ns = std::fs::File::open(format!("/run/netns/{name}")).expect("namespace");
            nix::sched::setns(ns, nix::sched::CloneFlags::CLONE_NEWNET).expect("enter the namespace");
            for near in listener.incoming() {
                if stopped.load(Relaxed) {
                    return;
                }
                let Ok(near) = near else { continue };
                if closed.load(Relaxed) {
                    continue;
                }
                let to = *to.lock().unwrap();
                let Ok(far) = TcpStream::connect_timeout(&to, Duration::from_secs(5)) else { continue };
                let _ = (near.set_nodelay(true), far.set_nodelay(true));
                let (alive, bytes) = (Arc::new(AtomicBool::new(true)), Arc::<AtomicU64>::default());
                let silent = Arc::<AtomicBool>::default();
                for (from, into) in [(&near, &far), (&far, &near)] {
                    let (from, into) = (from.try_clone().unwrap(), into.try_clone().unwrap());
                    let (alive, silent, bytes) = (alive.clone(), silent.clone(), bytes.clone());
                    std::thread::spawn(move || pass(from, into, (&alive, &silent), &bytes));
                }
                connections.lock().unwrap().push(Connection { near, far, alive, silent, bytes });
            }
        });
        relay
    }

    /// `ws://` of it.
    pub fn url(&self) -> String {
        format!("ws://{}/", self.addr)
    }

    /// New connections go there; those that there are stay.
    pub fn turn(&self, to: &str) {
        *self.to.lock().unwrap() = to.parse().expect("address");
    }

    /// Whether new connections are let through.
    pub fn open(&self, open: bool) {
        self.closed.store(!open, Relaxed);
    }

    /// Ends all connections, without a word of what they carry.
    pub fn cut(&self) {
        self.connections.lock().unwrap().iter().for_each(Connection::cut);
    }

    /// Ends all connections at the near side alone.
    pub fn cut_here(&self) {
        for connection in self.connections.lock().unwrap().iter().filter(|c| c.is_alive()) {
            connection.silent.store(true, Relaxed);
            connection.alive.store(false, Relaxed);
            let _ = connection.near.shutdown(Shutdown::Both);
        }
    }

    /// Ends the `n`th of those that are alive, if there are so many.
    pub fn cut_one(&self, n: usize) {
        if let Some(connection) = self.connections.lock().unwrap().iter().filter(|c| c.is_alive()).nth(n) {
            connection.cut();
        }
    }

    /// Bytes of each connection that is alive.
    pub fn alive(&self) -> Vec<u64> {
        let connections = self.connections.lock().unwrap();
        connections.iter().filter(|c| c.is_alive()).map(|c| c.bytes.load(Relaxed)).collect()
    }

    /// Connections there were.
    pub fn count(&self) -> usize {
        self.connections.lock().unwrap().len()
    }
}

impl Connection {
    fn is_alive(&self) -> bool {
        self.alive.load(Relaxed)
    }

    fn cut(&self) {
        self.alive.store(false, Relaxed);
        let _ = (self.near.shutdown(Shutdown::Both), self.far.shutdown(Shutdown::Both));
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stopped.store(true, Relaxed);
        self.cut();
    }
}

fn pass(
    mut from: TcpStream,
    mut into: TcpStream,
    (alive, silent): (&AtomicBool, &AtomicBool),
    bytes: &AtomicU64,
) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        if into.write_all(&buffer[..n]).is_err() {
            break;
        }
        bytes.fetch_add(n as u64, Relaxed);
    }
    alive.store(false, Relaxed);
    if silent.load(Relaxed) {
        return;
    }
    let _ = (into.shutdown(Shutdown::Write), from.shutdown(Shutdown::Read));
}
