//! A TCP proxy that makes a connection bad: late, slow, in slices, with bytes flipped, reset, closed on one
//! side, or silent. All chance comes from a seed, by connection and by place in the stream, not by time nor by how the
//! kernel cut the stream into reads: what failed once fails again with the same seed.

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
                    let chance = Chance::new(faults, seed ^ number << 1 ^ way as u64);
                    let (from, into) = (from.try_clone().unwrap(), into.try_clone().unwrap());
                    let (ended, reset) = (ended.clone(), reset.clone());
                    thread::spawn(move || Way { from, into, faults, chance, ended, reset }.run());
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
    chance: Chance,
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
        let end = self.chance.end;
        let (mut seen, mut due) = (0, Instant::now());
        let mut bytes = vec![0; 64 << 10];
        loop {
            let n = match self.from.read(&mut bytes) {
                Ok(0) | Err(_) => return None,
                Ok(n) => n as u64,
            };
            let keep = end.map_or(n, |(_, after)| n.min(after - seen));
            for (slice, late) in self.chance.befalls(&mut bytes[..keep as usize]) {
                due = due.max(Instant::now() + late);
                if to.send((due, slice)).is_err() {
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

/// What befalls the bytes of one direction, by their places. Each kind of fault has its own dice: how often one is thrown
/// for is not to move the others.
pub struct Chance {
    faults: Faults,
    /// How it ends, and behind so many bytes.
    end: Option<(End, u64)>,
    /// Bytes that were here.
    seen: u64,
    flips: StdRng,
    /// The place of the next one.
    flip: Option<u64>,
    slices: StdRng,
    /// What a slice still lacks, and how late it is.
    slice: (usize, Duration),
    jitter: StdRng,
}

impl Chance {
    pub fn new(faults: Faults, seed: u64) -> Self {
        let mut seeds = StdRng::seed_from_u64(seed);
        let [mut ends, mut flips, slices, jitter] = std::array::from_fn(|_| StdRng::from_rng(&mut seeds));
        let end = faults.end.map(|(end, after)| (end, about(&mut ends, after)));
        let flip = faults.flip.map(|every| about(&mut flips, every));
        Self { faults, end, seen: 0, flips, flip, slices, slice: (0, Duration::ZERO), jitter }
    }

    /// The bytes as they go on, in slices, and how late each is.
    pub fn befalls(&mut self, bytes: &mut [u8]) -> Vec<(Vec<u8>, Duration)> {
        let behind = self.seen + bytes.len() as u64;
        while let (Some(at), Some(every)) = (self.flip.filter(|at| *at < behind), self.faults.flip) {
            bytes[(at - self.seen) as usize] ^= 1 << self.flips.random_range(0..8);
            self.flip = Some(at + 1 + about(&mut self.flips, every));
        }
        self.seen = behind;
        let (mut rest, mut slices) = (&*bytes, Vec::new());
        while !rest.is_empty() {
            if self.slice.0 == 0 {
                let len = self.faults.slice.map_or(rest.len(), |most| self.slices.random_range(1..=most));
                let jitter = match self.faults.jitter {
                    Duration::ZERO => Duration::ZERO,
                    most => most.mul_f64(self.jitter.random()),
                };
                self.slice = (len, self.faults.latency + jitter);
            }
            // The rest of one that is not all here comes with the next read: who waits for it might wait for ever.
            let (slice, behind) = rest.split_at(self.slice.0.min(rest.len()));
            rest = behind;
            self.slice.0 -= slice.len();
            slices.push((slice.to_vec(), self.slice.1));
        }
        slices
    }
}

fn about(rng: &mut StdRng, n: u64) -> u64 {
    rng.random_range(n / 2..=n.max(1) * 3 / 2)
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
