//! What keeps one port from costing the others: a rate limit on what comes in, limits on frames that go
//! to many, and the gate that shuts a port. [`loops`] finds out what has to be blocked.

pub mod loops;

use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::counters::Reason;
use crate::frame::MacAddr;

/// A token bucket in virtual time (the generic cell rate algorithm, ITU-T I.371): one number, the moment
/// when the bucket will be full again. Lossless races: a lost update lets one frame more through.
#[derive(Debug)]
pub struct Policer {
    /// Units a second.
    rate: u64,
    /// How far a burst may run ahead of the rate, in nanoseconds.
    burst: u64,
    /// Nanoseconds since the switch's start.
    full_at: AtomicU64,
}

impl Policer {
    /// `rate` in bits a second, at least 1; a burst of 50 ms.
    pub fn of_bits(rate: u64) -> Self {
        Self::new(rate, Duration::from_millis(50))
    }

    /// `rate` in frames a second, at least 1; a burst of twice as many.
    pub fn of_frames(rate: u32) -> Self {
        Self::new(rate.into(), Duration::from_secs(2))
    }

    /// The same with a burst of so many.
    pub fn of_frames_at_once(rate: u32, burst: u32) -> Self {
        let rate = rate.max(1);
        // The first of them is not ahead of the rate.
        Self::new(rate.into(), Duration::from_secs(1) * burst.saturating_sub(1) / rate)
    }

    fn new(rate: u64, burst: Duration) -> Self {
        Self { rate: rate.max(1), burst: burst.as_nanos() as u64, full_at: AtomicU64::new(0) }
    }

    /// Units a second.
    pub fn rate(&self) -> u64 {
        self.rate
    }

    /// Whether so many bits or frames may pass at `now`, the time since the switch's start.
    pub fn admits(&self, units: u64, now: Duration) -> bool {
        let now = now.as_nanos() as u64;
        let cost = (u128::from(units) * 1_000_000_000 / u128::from(self.rate)) as u64;
        let full_at = self.full_at.load(Relaxed).max(now);
        if full_at - now > self.burst {
            return false;
        }
        self.full_at.store(full_at.saturating_add(cost), Relaxed);
        true
    }
}

/// A copy stands where the original stands now, and goes its own way.
impl Clone for Policer {
    fn clone(&self) -> Self {
        Self { full_at: AtomicU64::new(self.full_at.load(Relaxed)), ..*self }
    }
}

/// What a port may send, in frames a second, of what goes to many ports; `None`: any number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StormRates {
    pub broadcast: Option<u32>,
    pub multicast: Option<u32>,
    /// Unicast to a station that is not known.
    pub unknown: Option<u32>,
}

impl StormRates {
    /// More than any honest host, less than what costs the others.
    pub const USUAL: Self = Self { broadcast: Some(1_000), multicast: Some(5_000), unknown: Some(5_000) };
}

/// The limits of one port. Unicast to a known station passes untouched.
#[derive(Clone, Debug)]
pub struct Storm {
    broadcast: Option<Policer>,
    multicast: Option<Policer>,
    unknown: Option<Policer>,
}

impl Storm {
    pub fn new(rates: StormRates) -> Self {
        let policer = |rate: Option<u32>| rate.map(Policer::of_frames);
        Self {
            broadcast: policer(rates.broadcast),
            multicast: policer(rates.multicast),
            unknown: policer(rates.unknown),
        }
    }

    /// Whether so many frames to `dst`, a group or a station that nobody knows, may pass.
    pub fn admits(&self, dst: MacAddr, frames: u32, now: Duration) -> Result<(), Reason> {
        let (policer, reason) = match dst {
            dst if dst.is_broadcast() => (&self.broadcast, Reason::StormBroadcast),
            dst if dst.is_group() => (&self.multicast, Reason::StormMulticast),
            _ => (&self.unknown, Reason::StormUnknown),
        };
        let passes = policer.as_ref().is_none_or(|policer| policer.admits(frames.into(), now));
        if passes { Ok(()) } else { Err(reason) }
    }
}

/// Whether frames pass a port, in one byte that the data path reads once a frame.
#[derive(Debug, Default)]
pub struct Gate(AtomicU8);

impl Gate {
    const SHUT: u8 = 1;
    const BLOCKED: u8 = 2;

    pub fn new(shut: bool) -> Self {
        Self(AtomicU8::new(if shut { Self::SHUT } else { 0 }))
    }

    /// Why frames do not pass.
    pub fn closed(&self) -> Option<Reason> {
        match self.0.load(Relaxed) {
            0 => None,
            bits if bits & Self::SHUT != 0 => Some(Reason::PortShut),
            _ => Some(Reason::LoopBlocked),
        }
    }

    /// By a person.
    pub fn is_shut(&self) -> bool {
        self.0.load(Relaxed) & Self::SHUT != 0
    }

    pub fn set_shut(&self, shut: bool) {
        self.set(Self::SHUT, shut);
    }

    /// By the loop guard.
    pub fn is_blocked(&self) -> bool {
        self.0.load(Relaxed) & Self::BLOCKED != 0
    }

    pub fn set_blocked(&self, blocked: bool) {
        self.set(Self::BLOCKED, blocked);
    }

    fn set(&self, bit: u8, on: bool) {
        if on {
            self.0.fetch_or(bit, Relaxed);
        } else {
            self.0.fetch_and(!bit, Relaxed);
        }
    }
}

/// For people: `is open`.
impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.closed() {
            None => "is open",
            Some(Reason::PortShut) => "is shut",
            Some(_) => "is blocked: frames would go round",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_holds_over_a_second_after_the_burst() {
        let policer = Policer::of_bits(8_000_000); // one byte a microsecond
        let passed = (0..2_000_000u64)
            .step_by(500)
            .filter(|us| policer.admits(8_000, Duration::from_micros(*us)))
            .count();
        // Two seconds of 1,000 frames each, and a burst of 50.
        assert!((2_000..=2_055).contains(&passed), "{passed}");
    }

    #[test]
    fn a_burst_is_as_long_as_it_is_said_to_be() {
        let policer = Policer::of_frames_at_once(1_000, 128);
        let passed = |at: u64| (0..1_000).filter(|_| policer.admits(1, Duration::from_millis(at))).count();
        assert_eq!((passed(0), passed(50), passed(1_000)), (128, 50, 128));
    }

    #[test]
    fn bad_39_each_kind_of_frame_has_a_limit_of_its_own() {
        let storm = Storm::new(StormRates::USUAL);
        let passed = |dst: &str, seconds: u64| {
            let dst: MacAddr = dst.parse().unwrap();
            let every = (0..seconds * 1_000_000).step_by(50);
            every.filter(|us| storm.admits(dst, 1, Duration::from_micros(*us)).is_ok()).count()
        };
        // 20,000 a second for two seconds: two seconds' worth, and the burst.
        assert!((4_000..=4_010).contains(&passed("ff:ff:ff:ff:ff:ff", 2)));
        assert!((20_000..=20_010).contains(&passed("01:00:5e:00:00:01", 2)));
        assert!((20_000..=20_010).contains(&passed("02:00:00:00:00:01", 2)));
        let start = Duration::from_secs(10);
        assert_eq!(storm.admits(MacAddr::BROADCAST, 2_500, start), Ok(()));
        let reason = storm.admits(MacAddr::BROADCAST, 1, start);
        assert_eq!(reason, Err(Reason::StormBroadcast), "a super-frame is what it will be on a cable");
        let open = Storm::new(StormRates::default());
        assert!((0..100_000).all(|_| open.admits(MacAddr::BROADCAST, 1, start).is_ok()));
    }

    #[test]
    fn a_port_is_open_when_nobody_closed_it() {
        let gate = Gate::new(true);
        gate.set_blocked(true);
        assert_eq!(gate.closed(), Some(Reason::PortShut));
        gate.set_shut(false);
        assert_eq!((gate.closed(), gate.is_blocked()), (Some(Reason::LoopBlocked), true));
        gate.set_blocked(false);
        assert_eq!(gate.closed(), None);
    }
}
