//! `cpuProf`: one sampling at a time, in a thread of its own, which the daemon's end does not wait for.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::api::prof::{CpuProf, CpuProfile, CpuStack, MAX_CPU_SECONDS};
use crate::port::PortError;
use crate::prof::cpu;

/// When the sampling that runs will be done.
static RUNNING: Mutex<Option<Instant>> = Mutex::new(None);

/// Samples as asked for. Whoever drops this future ends the sampling.
pub async fn sample(asked: CpuProf) -> Result<CpuProfile, PortError> {
    let seconds = asked.seconds.unwrap_or(DEFAULT_SECONDS);
    let hz = asked.hz.unwrap_or(DEFAULT_HZ);
    if !(1..=MAX_CPU_SECONDS).contains(&seconds) {
        return Err(PortError::Invalid(format!("seconds: {seconds} is not in 1 to {MAX_CPU_SECONDS}")));
    }
    if !(1..=MAX_HZ).contains(&hz) {
        return Err(PortError::Invalid(format!("hz: {hz} is not in 1 to {MAX_HZ}")));
    }
    let time = Duration::from_secs(seconds.into());
    let turn = Turn::take(Instant::now(), time)?;
    let (tell, told) = oneshot::channel();
    let sampling = std::thread::Builder::new().name("cpu-sampler".to_owned()).spawn(move || {
        let profile = cpu::sample(hz, time, || tell.is_closed());
        drop(turn);
        let _ = tell.send(profile);
    });
    sampling.map_err(|e| PortError::Failed(format!("no thread for the CPU sampling: {e}")))?;
    let profile = told.await.map_err(|_| PortError::Failed("the CPU sampling broke off".to_owned()))?;
    let profile = profile.map_err(|e| PortError::Failed(format!("could not sample the CPU: {e}")))?;
    let stacks = profile.stacks.into_iter();
    Ok(CpuProfile {
        program: format!("etherws {}", env!("CARGO_PKG_VERSION")),
        elapsed_ns: u64::try_from(profile.elapsed.as_nanos()).unwrap_or(u64::MAX),
        hz,
        stacks: stacks.map(|((thread, stack), count)| CpuStack { thread, stack, count }).collect(),
        lost: profile.lost,
        note: profile.note,
    })
}

/// The right to sample; dropped, it is free.
struct Turn;

impl Turn {
    fn take(now: Instant, time: Duration) -> Result<Self, PortError> {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(end) = *running {
            let left = end.saturating_duration_since(now).as_secs_f64().ceil();
            return Err(PortError::Failed(format!("a CPU sampling is running, {left} s left")));
        }
        *running = Some(now + time);
        Ok(Self)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

const DEFAULT_SECONDS: u32 = 5;
const DEFAULT_HZ: u32 = 99;
const MAX_HZ: u32 = 1000;
