//! Clocks for the profiler: the processor's time-stamp counter, and the CPU time of threads.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Ticks since some moment: the time-stamp counter where it runs at one rate on all processors, else
/// nanoseconds. Not ordered against the instructions around it: a stage is longer than that matters.
#[inline]
pub fn ticks() -> u64 {
    #[cfg(target_arch = "x86_64")]
    if base().tsc {
        // SAFETY: RDTSC reads a register; processors without it, and kernels that forbid it, have no invariant TSC
        // in their CPUID either.
        return unsafe { core::arch::x86_64::_rdtsc() };
    }
    base().at.elapsed().as_nanos() as u64
}

/// Ticks in a nanosecond, by what had passed at the first call since the first of anything here. One figure for
/// the life of the process: what was counted and has not grown must not seem to shrink.
pub fn ghz() -> f64 {
    static GHZ: OnceLock<f64> = OnceLock::new();
    *GHZ.get_or_init(|| {
        let base = base();
        if !base.tsc {
            return 1.0;
        }
        // Some 20 ns of doubt at each end: a few millionths.
        const ENOUGH: Duration = Duration::from_millis(10);
        while base.at.elapsed() < ENOUGH {
            std::thread::sleep(ENOUGH);
        }
        let (ticks, passed) = (ticks(), base.at.elapsed());
        ticks.saturating_sub(base.ticks) as f64 / passed.as_nanos() as f64
    })
}

/// Nanoseconds of CPU time that the calling thread has had (clock_gettime(2), CLOCK_THREAD_CPUTIME_ID).
#[inline]
pub fn thread_cpu_ns() -> u64 {
    read(libc::CLOCK_THREAD_CPUTIME_ID).unwrap_or(0)
}

/// The CPU clock of one thread, for others to read.
#[derive(Clone, Copy, Debug)]
pub struct CpuClock(libc::clockid_t);

impl CpuClock {
    pub fn of_this_thread() -> Self {
        let mut id = libc::CLOCK_THREAD_CPUTIME_ID;
        // SAFETY: the calling thread is alive, and `id` is written to only.
        let _ = unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &mut id) };
        Self(id)
    }

    /// `None` once the thread has ended.
    pub fn ns(self) -> Option<u64> {
        read(self.0)
    }
}

fn read(clock: libc::clockid_t) -> Option<u64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec of ours to write to; an unknown clock is an error.
    let done = unsafe { libc::clock_gettime(clock, &mut time) } == 0;
    done.then_some(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

struct Base {
    tsc: bool,
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    ticks: u64,
    at: Instant,
}

#[inline]
fn base() -> &'static Base {
    static BASE: OnceLock<Base> = OnceLock::new();
    BASE.get_or_init(|| {
        let tsc = invariant_tsc();
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as in `ticks`.
        let ticks = if tsc { unsafe { core::arch::x86_64::_rdtsc() } } else { 0 };
        #[cfg(not(target_arch = "x86_64"))]
        let ticks = 0;
        Base { tsc, ticks, at: Instant::now() }
    })
}

/// CPUID 8000_0007h, EDX bit 8 (AMD APM vol. 3, Intel SDM vol. 2A).
#[cfg(target_arch = "x86_64")]
fn invariant_tsc() -> bool {
    use core::arch::x86_64::__cpuid;
    __cpuid(0x8000_0000).eax >= 0x8000_0007 && __cpuid(0x8000_0007).edx & 1 << 8 != 0
}

#[cfg(not(target_arch = "x86_64"))]
fn invariant_tsc() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_pass_at_the_rate_that_is_told() {
        let (from, at) = (ticks(), Instant::now());
        std::thread::sleep(Duration::from_millis(50));
        let (to, passed) = (ticks(), at.elapsed());
        let ns = (to - from) as f64 / ghz();
        assert!((ns / passed.as_nanos() as f64 - 1.0).abs() < 0.05, "{ns} ns in {passed:?}");
    }

    #[test]
    fn a_thread_s_cpu_time_is_read_by_others_until_it_ends() {
        let (tell, told) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            let from = thread_cpu_ns();
            while thread_cpu_ns() < from + 20_000_000 {}
            tell.send(CpuClock::of_this_thread()).unwrap();
            let _ = ended.recv();
        });
        let clock = told.recv().unwrap();
        assert!(clock.ns().unwrap() >= 20_000_000);
        assert!(CpuClock::of_this_thread().ns().unwrap() <= thread_cpu_ns() + 1_000_000_000);
        drop(end);
        thread.join().unwrap();
    }
}
