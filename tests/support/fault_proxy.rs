//! A TCP proxy that makes a connection bad: late, slow, in slices, with bytes flipped, reset, closed on one
//! side, or silent. All chance comes from a seed, by connection and by place in the stream, not by time: what
//! failed once fails again with the same seed.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// What goes wrong. Of each direction, unless it says otherwise.
#[derive(Clone, Copy, Default, Debug)]
pub struct Faults {
    pub latency: Duration,
    /// Up to so much more, anew for each piece; the order stays.
    pub jitter: Duration,
    /// Bytes a second.
    pub bandwidth: Option<u64>,
    /// Pieces of 1 to so many bytes.
    pub slice: Option<usize>,
    /// A byte is flipped about once in so many.
    pub flip: Option<u64>,
    /// How a connection ends, after about so many bytes of one direction.
    pub end: Option<(End, u64)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// RST to both sides.
    Reset,
    /// This direction is closed, the other goes on.
    HalfClose,
    /// Both stay open, and nothing comes through in this direction any more.
    BlackHole,
}

pub struct FaultProxy {
    pub addr: SocketAddr,
    faults: Arc<Mutex<Faults>>,
    pub connections: Arc<AtomicU64>,
    /// How many came to their [`End`].
    pub ended: Arc<AtomicU64>,
    stopped: Arc<AtomicBool>,
}

impl FaultProxy {
    /// Listens on `addr`, in the network namespace of the calling thread, and passes on to `to`.
    pub fn start(addr: &str, to: SocketAddr, seed: u64, faults: Faults) -> Self {
        let listener = TcpListener::bind(addr).expect("the proxy's address");
        let proxy = Self {
            addr: listener.local_addr().unwrap(),
            faults: Arc::new(Mutex::new(faults)),
            connections: Arc::default(),
            ended: Arc::default(),
            stopped: Arc::default(),
        };
        let (faults, stopped) = (proxy.faults.clone(), proxy.stopped.clone());
        let (connections, ended) = (proxy.connections.clone(), proxy.ended.clone());
        thread::spawn(move || {
            for incoming in listener.incoming() {
                if stopped.load(Relaxed) {
                    return;
                }
                let Ok(near) = incoming else { continue };
                let number = connections.fetch_add(1, Relaxed);
                let Ok(far) = TcpStream::connect_timeout(&to, Duration::from_secs(5)) else { continue };
                let faults = *faults.lock().unwrap();
                let reset = Arc::new(AtomicBool::new(false));
                let pair = [(&near, &far), (&far, &near)];
                for (way, (from, into)) in pair.into_iter().enumerate() {
                    let rng = StdRng::seed_from_u64(seed ^ number << 1 ^ way as u64);
                    let (from, into) = (from.try_clone().unwrap(), into.try_clone().unwrap());
                    let (ended, reset) = (ended.clone(), reset.clone());
                    thread::spawn(move || Way { from, into, faults, rng, ended, reset }.run());
                }
            }
        });
        proxy
    }

    /// For connections from now on.
    pub fn set(&self, faults: Faults) {
        *self.faults.lock().unwrap() = faults;
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.stopped.store(true, Relaxed);
    }
}

/// One direction of a connection.
struct Way {
    from: TcpStream,
    into: TcpStream,
    faults: Faults,
    rng: StdRng,
    ended: Arc<AtomicU64>,
    /// The other direction has ended both.
    reset: Arc<AtomicBool>,
}

impl Way {
    fn run(mut self) {
        // Enough for the latency at some rate; a reader that is faster waits.
        let (send, pieces) = sync_channel(256);
        let writer = {
            let (into, bandwidth) = (self.into.try_clone().unwrap(), self.faults.bandwidth);
            thread::spawn(move || write(into, &pieces, bandwidth))
        };
        let end = self.read(&send);
        drop(send);
        let _ = writer.join();
        match end {
            Some(End::Reset) => {
                self.reset.store(true, Relaxed);
                for stream in [&self.from, &self.into] {
                    let socket = socket2::SockRef::from(stream);
                    let _ = socket.set_linger(Some(Duration::ZERO));
                    let _ = socket.shutdown(Shutdown::Read);
                }
                // The other direction's threads hold the sockets, too: RST goes out when they let go of them.
            }
            None if self.reset.load(Relaxed) => {}
            Some(End::BlackHole) => {
                let mut bytes = [0; 4096];
                while matches!(self.from.read(&mut bytes), Ok(1..)) {}
            }
            Some(End::HalfClose) | None => drop(self.into.shutdown(Shutdown::Write)),
        }
    }

    /// Reads to the end of the stream (`None`) or to one of our making.
    fn read(&mut self, to: &SyncSender<(Instant, Vec<u8>)>) -> Option<End> {
        let about = |rng: &mut StdRng, n: u64| rng.random_range(n / 2..=n.max(1) * 3 / 2);
        let end = self.faults.end.map(|(end, after)| (end, about(&mut self.rng, after)));
        let mut flip = self.faults.flip.map(|every| about(&mut self.rng, every));
        let (mut seen, mut due) = (0, Instant::now());
        let mut bytes = vec![0; 64 << 10];
        loop {
            let n = match self.from.read(&mut bytes) {
                Ok(0) | Err(_) => return None,
                Ok(n) => n as u64,
            };
            let keep = end.map_or(n, |(_, after)| n.min(after - seen));
            let piece = &mut bytes[..keep as usize];
            while let (Some(at), Some(every)) = (flip.filter(|at| *at < seen + keep), self.faults.flip) {
                piece[(at - seen) as usize] ^= 1 << self.rng.random_range(0..8);
                flip = Some(at + 1 + about(&mut self.rng, every));
            }
            let mut rest = &*piece;
            while !rest.is_empty() {
                let most = self.faults.slice.map_or(rest.len(), |most| self.rng.random_range(1..=most));
                let (slice, behind) = rest.split_at(most.min(rest.len()));
                rest = behind;
                let jitter = self.faults.jitter.mul_f64(self.rng.random());
                due = due.max(Instant::now() + self.faults.latency + jitter);
                if to.send((due, slice.to_vec())).is_err() {
                    return None;
                }
            }
            seen += keep;
            if let Some((end, after)) = end
                && seen == after
            {
                self.ended.fetch_add(1, Relaxed);
                return Some(end);
            }
        }
    }
}

fn write(
    mut into: TcpStream,
    pieces: &Receiver<(Instant, Vec<u8>)>,
    bandwidth: Option<u64>,
) -> io::Result<()> {
    let mut free = Instant::now();
    for (due, bytes) in pieces {
        thread::sleep(due.max(free).saturating_duration_since(Instant::now()));
        if let Some(rate) = bandwidth {
            free = free.max(Instant::now()) + Duration::from_secs_f64(bytes.len() as f64 / rate as f64);
        }
        into.write_all(&bytes)?;
    }
    Ok(())
}
