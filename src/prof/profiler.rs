//! The control side: which level is in force and who wants it, and the snapshot of all counters.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::counters::{Staged, ThreadCounters};
use super::snapshot::{Batches, Cell, Clock, FORMAT, Level, PortName, Snapshot, Span, Thread, VERSION};
use super::stage::{Dir, Path, SIZES, Stage};
use super::trace::Traced;
use crate::sys::clock::{CpuClock, ghz, thread_cpu_ns, ticks};

/// Everything that one switch's frames cost.
pub struct Profiler {
    /// [`Orders`], in one word: a data thread looks at it once a batch.
    orders: AtomicU64,
    /// Ticks of a clock read, by clock.
    stamps: [AtomicU64; 2],
    /// The bits of an f64.
    ghz: AtomicU64,
    began: u64,
    /// The thread that made it, which runs control.
    control: CpuClock,
    threads: Mutex<Vec<Arc<ThreadCounters>>>,
    state: Mutex<State>,
}

/// What the data threads are to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Orders {
    pub level: Level,
    pub clock: Clock,
    /// One batch in so many; at least 1.
    pub sample: u32,
    /// A number of the time since stages are measured.
    pub epoch: u16,
}

/// What somebody wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Want {
    pub level: Level,
    pub sample: u32,
    pub clock: Clock,
}

/// A want for as long as it is renewed.
#[derive(Clone, Copy, Debug)]
pub struct Lease {
    pub want: Want,
    /// Since the profiler began.
    pub until: Duration,
}

struct State {
    /// What `--prof` said.
    configured: Want,
    base: Want,
    leases: BTreeMap<u64, Lease>,
    next: u64,
    /// The control thread's CPU time while stages were measured.
    control: Staged,
    /// What [`Profiler::since_reset`] counts from.
    zero: Option<Snapshot>,
}

impl Profiler {
    /// Belongs to the calling thread, whose CPU time is control's.
    pub fn new(configured: Want) -> Arc<Self> {
        let state = State {
            configured,
            base: configured,
            leases: BTreeMap::new(),
            next: 1,
            control: Staged::default(),
            zero: None,
        };
        let profiler = Arc::new(Self {
            orders: AtomicU64::new(
                Orders { level: Level::Off, clock: Clock::Wall, sample: 1, epoch: 0 }.pack(),
            ),
            stamps: Default::default(),
            ghz: AtomicU64::new(1f64.to_bits()),
            began: ticks(),
            control: CpuClock::of_this_thread(),
            threads: Mutex::default(),
            state: Mutex::new(state),
        });
        profiler.decide(&mut profiler.state());
        profiler
    }

    /// One that counts nothing, for what is told to nobody.
    pub fn idle() -> &'static Arc<Self> {
        static IDLE: OnceLock<Arc<Profiler>> = OnceLock::new();
        IDLE.get_or_init(|| Self::new(Want { level: Level::Off, ..Want::default() }))
    }

    #[inline]
    pub fn orders(&self) -> Orders {
        Orders::unpack(self.orders.load(Relaxed))
    }

    /// Ticks of one clock read, and ticks in a nanosecond.
    pub fn calibration(&self, clock: Clock) -> (u64, f64) {
        (self.stamps[clock as usize].load(Relaxed), f64::from_bits(self.ghz.load(Relaxed)))
    }

    /// The same, found out if need be.
    pub fn calibrate(&self, clock: Clock) -> (u64, f64) {
        if self.stamps[clock as usize].load(Relaxed) == 0 {
            self.ghz.store(ghz().to_bits(), Relaxed);
            self.stamps[clock as usize].store(stamp_ticks(clock), Relaxed);
        }
        self.calibration(clock)
    }

    pub fn register(&self, thread: Arc<ThreadCounters>) {
        let mut threads = self.threads();
        if self.orders().level >= Level::Stage {
            staged(&thread).from = thread.cpu.ns();
        }
        threads.push(thread);
    }

    /// Since it began.
    pub fn now(&self) -> Duration {
        Duration::from_nanos((ticks().wrapping_sub(self.began) as f64 / ghz()) as u64)
    }

    /// What is wanted without viewers.
    pub fn base(&self) -> Want {
        self.state().base
    }

    /// What was wanted from the beginning.
    pub fn configured(&self) -> Want {
        self.state().configured
    }

    /// Changes that; `None`: back to what was configured.
    pub fn set_base(&self, want: Option<Want>) {
        let mut state = self.state();
        state.base = want.unwrap_or(state.configured);
        self.decide(&mut state);
    }

    /// What is wanted from the beginning: the level of [`Profiler::set_base`] with `None`.
    pub fn configure(&self, want: Want) {
        let mut state = self.state();
        (state.configured, state.base) = (want, want);
        self.decide(&mut state);
    }

    /// A lease, or `lease` renewed; one that ran out is taken anew, under another number.
    pub fn lease(&self, lease: Option<u64>, want: Want, ttl: Duration) -> u64 {
        let until = self.now() + ttl;
        let mut state = self.state();
        let number = lease.filter(|number| state.leases.contains_key(number)).unwrap_or(state.next);
        state.next = state.next.max(number + 1);
        state.leases.insert(number, Lease { want, until });
        self.decide(&mut state);
        number
    }

    /// When a lease runs out; `None`: there is no such lease.
    pub fn lease_until(&self, lease: u64) -> Option<Duration> {
        self.state().leases.get(&lease).map(|lease| lease.until)
    }

    /// Gives a lease back.
    pub fn release(&self, lease: u64) {
        let mut state = self.state();
        state.leases.remove(&lease);
        self.decide(&mut state);
    }

    /// Ends what has run out; to be called now and then. The leases that are left.
    pub fn expire(&self) -> BTreeMap<u64, Lease> {
        let now = self.now();
        let mut state = self.state();
        let before = state.leases.len();
        state.leases.retain(|_, lease| lease.until > now);
        if state.leases.len() != before {
            self.decide(&mut state);
        }
        state.leases.clone()
    }

    /// Counts since the beginning.
    pub fn snapshot(&self, ports: Vec<PortName>) -> Snapshot {
        let state = self.state();
        self.take(&state, ports)
    }

    /// Counts since the last reset.
    pub fn since_reset(&self, ports: Vec<PortName>) -> Snapshot {
        let state = self.state();
        let now = self.take(&state, ports);
        match &state.zero {
            Some(zero) => now.since(zero),
            None => now,
        }
    }

    /// Moves the zero of [`Profiler::since_reset`] and of the slowest frames here.
    pub fn reset(&self, ports: Vec<PortName>) {
        let mut state = self.state();
        state.zero = Some(self.take(&state, ports));
        self.threads().iter().for_each(|thread| thread.slowest.reset());
    }

    /// The slowest frames kept, by thread.
    pub fn slowest(&self) -> Vec<(String, Traced)> {
        let threads = self.threads();
        let of = |thread: &Arc<ThreadCounters>| {
            let name = thread.name.clone();
            thread.slowest.frames().into_iter().map(move |frame| (name.clone(), frame)).collect::<Vec<_>>()
        };
        threads.iter().flat_map(of).collect()
    }

    /// Nanoseconds since 1970 of a tick count in the past.
    pub fn unix_ns(&self, at: u64) -> u64 {
        let ago = ticks().saturating_sub(at) as f64 / ghz();
        unix_ns().saturating_sub(ago as u64)
    }

    pub fn thread_count(&self) -> usize {
        self.threads().len()
    }

    /// Puts the closest look that anybody wants in force.
    fn decide(&self, state: &mut State) {
        let wants = || state.leases.values().map(|lease| lease.want).chain([state.base]);
        let level = wants().map(|want| want.level).max().unwrap_or_default();
        let of_level = || wants().filter(|want| want.level >= Level::Stage);
        let sample = of_level().map(|want| want.sample).min().unwrap_or(state.base.sample).max(1);
        // The base's own clock, and a viewer's while the base measures no stages.
        let clock =
            [state.base].into_iter().filter(|base| base.level >= Level::Stage).chain(of_level()).next();
        let clock = clock.map_or(Clock::Wall, |want| want.clock);
        let before = self.orders();
        let (was, is) = (before.level >= Level::Stage, level >= Level::Stage);
        if is {
            self.calibrate(clock);
        }
        let epoch = if is && !was { before.epoch.wrapping_add(1) } else { before.epoch };
        let threads = self.threads();
        self.orders.store(Orders { level, clock, sample, epoch }.pack(), Relaxed);
        if was == is {
            return;
        }
        let turn = |staged: &mut Staged, cpu: Option<u64>| match staged.from.take() {
            Some(from) => staged.ns += cpu.unwrap_or(from).saturating_sub(from),
            None => staged.from = cpu,
        };
        for thread in threads.iter() {
            turn(&mut staged(thread), thread.cpu.ns());
        }
        turn(&mut state.control, self.control.ns());
    }

    fn take(&self, state: &State, ports: Vec<PortName>) -> Snapshot {
        let ghz = ghz();
        let ns = |ticks: u64| (ticks as f64 / ghz) as u64;
        let orders = self.orders();
        let mut out = Snapshot {
            format: FORMAT.into(),
            version: VERSION,
            program: concat!("etherws ", env!("CARGO_PKG_VERSION")).into(),
            host: host(),
            unix_ns: unix_ns(),
            elapsed_ns: self.now().as_nanos() as u64,
            level: orders.level,
            sample: orders.sample,
            clock: orders.clock,
            ghz,
            ports,
            ..Snapshot::default()
        };
        let names = Path::names();
        for thread in self.threads().iter() {
            let read = |counter: &AtomicU64| counter.load(Relaxed);
            let cpu_ns = thread.cpu.ns().unwrap_or(0);
            out.threads.push(Thread {
                name: thread.name.clone(),
                cpu_ns,
                staged_cpu_ns: staged(thread).so_far(cpu_ns),
            });
            out.lost += read(&thread.lost);
            for (stage, ns) in [
                (Stage::RxWait, ns(read(&thread.wait))),
                (Stage::Timer, ns(read(&thread.timer))),
                (Stage::Poll, ns(read(&thread.poll)) + read(&thread.poll_cpu_ns)),
                (Stage::ProfSelf, ns(read(&thread.prof))),
            ] {
                out.cells.extend(nobodys(&thread.name, stage, ns));
            }
            for port in thread.ports().iter() {
                let number = port.at.number;
                if !out.ports.iter().any(|known| known.port == number) {
                    continue;
                }
                out.batches.push(Batches {
                    thread: thread.name.clone(),
                    port: number,
                    batches: read(&port.whole.batches),
                    frames: read(&port.whole.frames),
                    bytes: read(&port.whole.bytes),
                    ns: ns(read(&port.whole.ticks)),
                });
                for (index, path) in port.paths() {
                    for dir in Dir::ALL {
                        for (size, cell) in SIZES.iter().zip(&path.cells[dir as usize]) {
                            let (frames, ticks) = (read(&cell.frames), read(&cell.ticks));
                            if frames > 0 || ticks > 0 {
                                out.cells.push(Cell {
                                    thread: thread.name.clone(),
                                    port: number,
                                    dir,
                                    size: (*size).into(),
                                    path: names[index].clone(),
                                    frames,
                                    bytes: read(&cell.bytes),
                                    ns: ns(ticks),
                                });
                            }
                        }
                    }
                    let hist = path.hist.iter().enumerate().map(|(n, count)| (n as u16, read(count)));
                    out.spans.push(Span {
                        thread: thread.name.clone(),
                        port: number,
                        path: names[index].clone(),
                        batches: read(&path.batches),
                        max_ns: ns(read(&path.max)),
                        hist: hist.filter(|(_, count)| *count > 0).collect(),
                    });
                }
            }
        }
        let cpu_ns = self.control.ns().unwrap_or(0);
        let staged_cpu_ns = state.control.so_far(cpu_ns);
        out.threads.push(Thread { name: "control".into(), cpu_ns, staged_cpu_ns });
        out.cells.extend(nobodys("control", Stage::Ctl, staged_cpu_ns));
        out
    }

    fn threads(&self) -> MutexGuard<'_, Vec<Arc<ThreadCounters>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Taken before [`Profiler::threads`].
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Staged {
    fn so_far(&self, cpu_ns: u64) -> u64 {
        self.ns + self.from.map_or(0, |from| cpu_ns.saturating_sub(from))
    }
}

impl Default for Want {
    fn default() -> Self {
        Self { level: Level::Count, sample: SAMPLE, clock: Clock::Wall }
    }
}

/// One batch in so many is measured, when nobody says otherwise.
pub const SAMPLE: u32 = 64;

impl Orders {
    fn pack(self) -> u64 {
        u64::from(self.sample) << 32
            | u64::from(self.epoch) << 8
            | (self.clock as u64) << 4
            | self.level as u64
    }

    fn unpack(word: u64) -> Self {
        Self {
            level: Level::ALL[word as usize & 3],
            clock: if word & 0x10 == 0 { Clock::Wall } else { Clock::Cpu },
            sample: (word >> 32) as u32,
            epoch: (word >> 8) as u16,
        }
    }
}

fn staged(thread: &ThreadCounters) -> MutexGuard<'_, Staged> {
    thread.staged.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Time that belongs to no port and no frame.
fn nobodys(thread: &str, stage: Stage, ns: u64) -> Option<Cell> {
    (ns > 0).then(|| Cell {
        thread: thread.into(),
        port: 0,
        dir: Dir::Local,
        size: String::new(),
        path: stage.name().into(),
        frames: 0,
        bytes: 0,
        ns,
    })
}

/// What one clock read takes, in ticks: the least of some runs.
fn stamp_ticks(clock: Clock) -> u64 {
    const READS: u64 = 100;
    let run = |_| {
        let from = ticks();
        for _ in 0..READS {
            std::hint::black_box(match clock {
                Clock::Wall => ticks(),
                Clock::Cpu => thread_cpu_ns(),
            });
        }
        ticks().wrapping_sub(from) / READS
    };
    (0..10).map(run).min().unwrap_or(0).max(1)
}

fn unix_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_nanos() as u64)
}

fn host() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default()
}
