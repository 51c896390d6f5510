//! Data threads: each runs a single-threaded runtime, and each port lives on one of them, so that a
//! frame wakes nobody else.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::prof::Profiler;

/// The pool. Dropping it ends the threads.
pub struct Threads {
    threads: Vec<Thread>,
    /// Kept only to be dropped.
    _ends: Vec<oneshot::Sender<()>>,
    /// When the oldest probe that is not answered was sent.
    probe: Mutex<Option<Probe>>,
}

struct Thread {
    handle: Handle,
    ports: Arc<AtomicUsize>,
}

struct Probe {
    sent: Instant,
    answers: Arc<AtomicU64>,
}

/// A place on a thread; the thread is the busier for it until it is dropped.
pub struct Seat {
    pub handle: Handle,
    ports: Arc<AtomicUsize>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.ports.fetch_sub(1, Relaxed);
    }
}

impl Threads {
    /// `prof` is told when a thread sleeps and wakes.
    pub fn start(count: usize, prof: &Arc<Profiler>) -> io::Result<Self> {
        let (mut threads, mut ends) = (Vec::new(), Vec::new());
        for index in 0..count.max(1) {
            let (sleeps, wakes) = (prof.clone(), prof.clone());
            let runtime = Builder::new_current_thread()
                .enable_all()
                .on_thread_park(move || sleeps.parks())
                .on_thread_unpark(move || wakes.unparks())
                .build()?;
            let handle = runtime.handle().clone();
            let (end, ended) = oneshot::channel::<()>();
            std::thread::Builder::new().name(format!("data-{index}")).spawn(move || {
                // The sender is only ever dropped.
                let _ = runtime.block_on(ended);
            })?;
            threads.push(Thread { handle, ports: Arc::default() });
            ends.push(end);
        }
        Ok(Self { threads, _ends: ends, probe: Mutex::new(None) })
    }

    /// A place on the thread with the fewest ports.
    pub fn seat(&self) -> Seat {
        let thread = self.threads.iter().min_by_key(|thread| thread.ports.load(Relaxed));
        let thread = thread.unwrap_or(&self.threads[0]);
        thread.ports.fetch_add(1, Relaxed);
        Seat { handle: thread.handle.clone(), ports: thread.ports.clone() }
    }

    /// Runs `work` on each thread.
    pub fn on_each(&self, work: impl Fn() + Clone + Send + 'static) {
        for thread in &self.threads {
            let work = work.clone();
            thread.handle.spawn(async move { work() });
        }
    }

    /// How long a thread has not answered; 0 when all did. Each call asks anew once all have
    /// answered, so only a caller that comes again learns anything.
    pub fn stalled_for(&self) -> Duration {
        let mut probe = self.probe.lock().unwrap_or_else(PoisonError::into_inner);
        let open = probe.as_ref().filter(|p| p.answers.load(Relaxed) < self.threads.len() as u64);
        if let Some(Probe { sent, .. }) = open {
            return sent.elapsed();
        }
        let answers = Arc::<AtomicU64>::default();
        for thread in &self.threads {
            let answers = answers.clone();
            thread.handle.spawn(async move { answers.fetch_add(1, Relaxed) });
        }
        *probe = Some(Probe { sent: Instant::now(), answers });
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_spread_and_a_stalled_thread_is_noticed() {
        let threads = Threads::start(2, &Profiler::new(crate::prof::Want::default())).unwrap();
        let (a, b) = (threads.seat(), threads.seat());
        assert_ne!(a.handle.id(), b.handle.id());
        let id = a.handle.id();
        drop(a);
        assert_eq!(threads.seat().handle.id(), id);
        let (release, wait) = std::sync::mpsc::channel::<()>();
        b.handle.spawn(async move { wait.recv() });
        assert_eq!(threads.stalled_for(), Duration::ZERO);
        while threads.stalled_for() < Duration::from_millis(20) {
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(release);
        let start = Instant::now();
        while threads.stalled_for() > Duration::ZERO {
            assert!(start.elapsed() < Duration::from_secs(5));
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
