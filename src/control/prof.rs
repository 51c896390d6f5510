//! The profiler's methods: levels, leases, snapshots, and the subscription for live viewers.

use std::sync::Arc;
use std::time::Duration;

use jsonrpsee::types::ErrorObjectOwned;
use jsonrpsee::{PendingSubscriptionSink, SubscriptionMessage};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::api::check::without_credentials;
use super::api::prof::{
    LEASE_MS, LeaseProf, LeaseStatus, Leased, ProfStatus, ShowProf, Since, SlowFrame, SlowProf, StartProf,
    SubscribeProf,
};
use crate::frame::MacAddr;
use crate::port::Ports;
use crate::prof::snapshot::{Clock, Level, PortName, Snapshot};
use crate::prof::stage::Path;
use crate::prof::{Profiler, Want};

/// The ports, as the profiler may show them.
pub fn names(ports: &Ports) -> Vec<PortName> {
    let mut names = ports.names();
    names.iter_mut().for_each(|port| port.name = without_credentials(&port.name));
    names
}

/// `startProf`
pub fn start(ports: &Ports, start: &StartProf) -> Result<ProfStatus, String> {
    let want = want(start.level, start.sample, start.clock)?;
    if want.level >= Level::Stage && ports.prof().base().level < Level::Stage {
        ports.prof().reset(names(ports));
    }
    ports.prof().set_base(Some(want));
    Ok(status(ports))
}

/// `stopProf`
pub fn stop(ports: &Ports) -> ProfStatus {
    ports.prof().set_base(None);
    status(ports)
}

/// `resetProf`
pub fn reset(ports: &Ports) -> ProfStatus {
    ports.prof().reset(names(ports));
    status(ports)
}

/// `getProf`
pub fn status(ports: &Ports) -> ProfStatus {
    let prof = ports.prof();
    let now = prof.now();
    let leases = prof.expire();
    let orders = prof.orders();
    let left = |until: Duration| u32::try_from(until.saturating_sub(now).as_millis()).unwrap_or(u32::MAX);
    let (stamp, ghz) = prof.calibrate(orders.clock);
    let leases = leases.into_iter().map(|(lease, of)| LeaseStatus {
        lease,
        level: of.want.level,
        sample: of.want.sample,
        left_ms: left(of.until),
    });
    ProfStatus {
        level: orders.level,
        sample: orders.sample,
        clock: orders.clock,
        base: prof.base().level,
        leases: leases.collect(),
        ghz: crate::sys::clock::ghz(),
        stamp_ns: stamp as f64 / ghz,
        elapsed_ns: prof.since_reset(Vec::new()).elapsed_ns,
        threads: prof.thread_count() as u32,
    }
}

/// `showProf`
pub fn show(ports: &Ports, show: &ShowProf) -> Snapshot {
    match show.since {
        Since::Start => ports.prof().snapshot(names(ports)),
        Since::Reset => ports.prof().since_reset(names(ports)),
    }
}

/// `leaseProf`
pub fn lease(ports: &Arc<Ports>, lease: &LeaseProf) -> Result<Leased, String> {
    let prof = ports.prof();
    let ttl_ms = lease.ttl_ms.unwrap_or(TTL_MS);
    let held = lease.lease.and_then(|lease| prof.lease_until(lease));
    if held.is_some_and(|until| until >= FOR_EVER) {
        return Err("lease: that one is a subscription's, and ends with it".into());
    }
    if ttl_ms == 0 {
        let lease = lease.lease.ok_or("ttl_ms: 0 gives a lease back, and needs its number")?;
        prof.release(lease);
        return Ok(Leased { lease, ttl_ms });
    }
    if !LEASE_MS.contains(&ttl_ms) {
        return Err(format!("ttl_ms: {ttl_ms} is not 0 or {} to {}", LEASE_MS.start(), LEASE_MS.end()));
    }
    let want = want(lease.level, lease.sample, lease.clock)?;
    if held.is_none() && prof.expire().len() >= MAX_LEASES {
        return Err(format!("lease: {MAX_LEASES} are held already"));
    }
    let ttl = Duration::from_millis(ttl_ms.into());
    let number = prof.lease(lease.lease, want, ttl);
    if lease.lease != Some(number) {
        // Somebody sees to its end, however often that is put off.
        let prof = prof.clone();
        tokio::spawn(async move {
            while let Some(until) = prof.lease_until(number) {
                tokio::time::sleep(until.saturating_sub(prof.now()) + Duration::from_millis(1)).await;
                prof.expire();
            }
        });
    }
    Ok(Leased { lease: number, ttl_ms })
}

/// `slowProf`
pub fn slow(ports: &Ports, slow: &SlowProf) -> Result<Vec<SlowFrame>, String> {
    let least = slow.us.unwrap_or(0.0);
    if !least.is_finite() || least < 0.0 {
        return Err(format!("us: {least} is no time"));
    }
    let prof = ports.prof();
    let ghz = crate::sys::clock::ghz();
    let ns = |ticks: u64| (ticks as f64 / ghz) as u64;
    let names = Path::names();
    let mac =
        |bytes: &[u8]| bytes.try_into().map_or(String::new(), |mac: [u8; 6]| MacAddr::new(mac).to_string());
    let mut frames: Vec<_> = prof
        .slowest()
        .into_iter()
        .map(|(thread, frame)| SlowFrame {
            unix_ns: prof.unix_ns(frame.at),
            ns: ns(frame.ticks),
            len: frame.len,
            dst: mac(&frame.head[..6]),
            src: mac(&frame.head[6..]),
            thread,
            ingress: frame.ingress,
            egress: frame.egress,
            stages: frame.stages[..usize::from(frame.count)]
                .iter()
                .filter_map(|(path, ticks)| Some((names.get(usize::from(*path))?.clone(), ns(*ticks))))
                .collect(),
        })
        .filter(|frame| frame.ns as f64 >= least * 1e3)
        .collect();
    frames.sort_by_key(|frame| std::cmp::Reverse(frame.ns));
    frames.truncate(slow.limit.unwrap_or(20) as usize);
    Ok(frames)
}

/// `subscribeProf`: until the viewer goes.
pub async fn subscribe(ports: Arc<Ports>, subscribe: SubscribeProf, pending: PendingSubscriptionSink) {
    let every = subscribe.interval_ms.unwrap_or(1000);
    let checked =
        want(subscribe.level, subscribe.sample, None).and_then(|want| match LEASE_MS.contains(&every) {
            true => Ok(want),
            false => Err(format!("interval_ms: {every} is not {} to {}", LEASE_MS.start(), LEASE_MS.end())),
        });
    let want = match checked {
        Ok(want) => want,
        Err(why) => {
            let error = ErrorObjectOwned::owned(super::api::INVALID_PARAMS, "Invalid params", Some(why));
            return pending.reject(error).await;
        }
    };
    let Ok(mut sink) = pending.accept().await else { return };
    let period = Duration::from_millis(every.into());
    let prof = ports.prof().clone();
    let _held = Held { number: prof.lease(None, want, FOR_EVER), prof };
    let mut before = ports.prof().snapshot(names(&ports));
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = Instant::now();
    // The first is at once.
    ticks.tick().await;
    loop {
        tokio::select! {
            () = sink.closed() => return,
            _ = ticks.tick() => {
                let now = ports.prof().snapshot(names(&ports));
                let Ok(message) = serde_json::value::to_raw_value(&now.since(&before)) else { return };
                match sink.try_send(SubscriptionMessage::from(message)) {
                    Ok(()) => (before, told) = (now, Instant::now()),
                    // A viewer that reads nothing for so long is none.
                    Err(_) if sink.is_closed() || told.elapsed() > PATIENCE.max(3 * period) => return,
                    Err(_) => (),
                }
            }
        }
    }
}

/// A subscription's lease: it ends when the subscription does, however that happens.
struct Held {
    prof: Arc<Profiler>,
    number: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.prof.release(self.number);
    }
}

fn want(level: Option<Level>, sample: Option<u32>, clock: Option<Clock>) -> Result<Want, String> {
    let sample = sample.unwrap_or(super::api::prof::SAMPLE);
    if !(1..=MAX_SAMPLE).contains(&sample) {
        return Err(format!("sample: {sample} is not 1 to {MAX_SAMPLE}"));
    }
    Ok(Want { level: level.unwrap_or(Level::Stage), sample, clock: clock.unwrap_or_default() })
}

const TTL_MS: u32 = 2_000;
const MAX_LEASES: usize = 1_000;
const MAX_SAMPLE: u32 = 1_000_000;
const FOR_EVER: Duration = Duration::from_secs(1 << 40);
const PATIENCE: Duration = Duration::from_secs(2);
