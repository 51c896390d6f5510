//! What the benches share: a wire that is memory, and masking keys as a link draws them.
#![allow(dead_code, reason = "each bench uses its part")]

pub mod way;

use std::cell::RefCell;
use std::io::{self, IoSlice, Read, Write};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion};
use etherws::ws::mask::Key;
use futures_util::FutureExt;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Times for a careful run; `--warm-up-time` and the like on the command line go before them.
pub fn criterion() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(30)
        .configure_from_args()
}

/// What a future that never waits gives.
pub fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("memory has all the bytes")
}

/// What is timed beside others: does its work so many times.
pub type Work<'a> = Box<dyn FnMut(usize) + 'a>;

/// The nanoseconds that each takes once, a value a round. All take turns, each for about `turn`, so that
/// what disturbs the machine disturbs them alike: one after the other for a second each, on a machine
/// that others use, their ratios are off by a half.
pub fn beside(works: &mut [Work<'_>], turn: Duration, rounds: usize) -> Vec<Vec<f64>> {
    let time = |work: &mut Work<'_>, times: usize| {
        let start = Instant::now();
        work(times);
        start.elapsed()
    };
    let often = |work: &mut Work<'_>| {
        let mut times = 1;
        while time(work, times) < turn / 2 {
            times *= 2;
        }
        times
    };
    let often: Vec<usize> = works.iter_mut().map(often).collect();
    let mut values = vec![Vec::new(); works.len()];
    for round in 0..rounds {
        for i in 0..works.len() {
            // Nobody is always behind the same neighbour.
            let i = if round % 2 == 0 { i } else { works.len() - 1 - i };
            values[i].push(time(&mut works[i], often[i]).as_nanos() as f64 / often[i] as f64);
        }
    }
    values
}

/// Has Criterion record nanoseconds that were measured elsewhere: as its samples, the medians of parts.
pub fn record(group: &mut BenchmarkGroup<'_, WallTime>, id: BenchmarkId, nanoseconds: &[f64]) {
    const SAMPLES: usize = 10;
    let median = |part: &[f64]| {
        let mut part = part.to_vec();
        part.sort_unstable_by(f64::total_cmp);
        // A difference can come out as nothing, which Criterion refuses.
        part[part.len() / 2].max(1.0)
    };
    let medians: Vec<f64> = nanoseconds.chunks(nanoseconds.len().div_ceil(SAMPLES)).map(median).collect();
    let mut round = medians.iter().cycle();
    let pause = Duration::from_millis(1);
    group.sample_size(SAMPLES).nresamples(1_000).warm_up_time(pause);
    group.bench_function(id, |b| {
        b.iter_custom(|turns| {
            // The warm-up goes on until some time has passed.
            std::thread::sleep(2 * pause);
            Duration::from_secs_f64(round.next().copied().unwrap_or(0.0) * 1e-9 * turns as f64)
        })
    });
}

/// Masking keys from a CSPRNG refilled in batches, as a link has them.
pub struct Keys {
    rng: StdRng,
    batch: [u8; 1024],
    next: usize,
}

impl Keys {
    pub fn new() -> Self {
        Self { rng: StdRng::from_seed([7; 32]), batch: [0; 1024], next: 1024 }
    }

    pub fn draw(&mut self) -> Key {
        loop {
            if self.next == self.batch.len() {
                self.rng.fill_bytes(&mut self.batch);
                self.next = 0;
            }
            let key = [0, 1, 2, 3].map(|i| self.batch[self.next + i]);
            self.next += key.len();
            if key != [0; 4] {
                return key;
            }
        }
    }
}

/// One direction of a wire: what one end writes, the other reads. Never full; empty would block.
#[derive(Clone, Default, Debug)]
pub struct Wire(Rc<RefCell<Bytes>>);

#[derive(Default, Debug)]
struct Bytes {
    bytes: Vec<u8>,
    at: usize,
}

impl Wire {
    /// Forgets what nobody read.
    pub fn clear(&self) {
        let mut wire = self.0.borrow_mut();
        wire.bytes.clear();
        wire.at = 0;
    }

    /// Hands over up to `room` bytes; how many.
    fn give(&self, room: usize, take: impl FnOnce(&[u8])) -> usize {
        let wire = &mut *self.0.borrow_mut();
        let n = room.min(wire.bytes.len() - wire.at);
        take(&wire.bytes[wire.at..wire.at + n]);
        wire.at += n;
        if wire.at == wire.bytes.len() {
            wire.bytes.clear();
            wire.at = 0;
        }
        n
    }
}

impl Read for Wire {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let n = self.give(to.len(), |bytes| to[..bytes.len()].copy_from_slice(bytes));
        if n == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(n) }
    }
}

impl Write for Wire {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().bytes.extend_from_slice(from);
        Ok(from.len())
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        parts.iter().map(|part| self.write(part)).sum()
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.give(to.remaining(), |bytes| to.put_slice(bytes)) {
            0 => Poll::Pending,
            _ => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(self.get_mut().write(from))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(self.get_mut().write_vectored(parts))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
