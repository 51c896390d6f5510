//! What a failed login costs whoever tries: a place among the failures of its address, and time until the next
//! stroke of a clock that does not show what was checked. Pure.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::lobby::neighbourhood;

/// Failures of each address (IPv4, or IPv6 /64) as far as they are remembered: GCRA, a burst of a minute's worth.
#[derive(Default)]
pub struct Failures {
    /// When the account is even again; those of the past are as good as none.
    even: HashMap<IpAddr, Instant>,
    /// Of each address, tries whose end is not known yet.
    checked: HashMap<IpAddr, usize>,
}

/// What becomes of a try.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Try {
    /// It is to be checked, and ended.
    Begun,
    /// So many of this address are being checked that it has to wait for the end of one.
    Later,
    /// The address has had its share of failures.
    Refused,
}

impl Failures {
    /// Counts a try before it is known to fail, so that a thousand at a time are a thousand; `false` when the
    /// address has had its share, `a_minute`.
    pub fn charge(&mut self, address: IpAddr, a_minute: u32, now: Instant) -> bool {
        let address = neighbourhood(address);
        let even = self.even.get(&address).copied().unwrap_or(now).max(now) + MINUTE / a_minute.max(1);
        if even > now + MINUTE {
            return false;
        }
        if self.even.len() >= MAX_ADDRESSES && !self.even.contains_key(&address) {
            self.forget_some(now);
        }
        self.even.insert(address, even);
        true
    }

    /// A try that takes time to check: charged until its end, so that no more of an address are under way than may
    /// fail; but those who turn out right keep nobody out who can wait.
    pub fn begin(&mut self, address: IpAddr, a_minute: u32, now: Instant) -> Try {
        let of = neighbourhood(address);
        if self.charge(address, a_minute, now) {
            *self.checked.entry(of).or_default() += 1;
            return Try::Begun;
        }
        if self.checked.contains_key(&of) { Try::Later } else { Try::Refused }
    }

    /// The end of a try that was begun.
    pub fn end(&mut self, address: IpAddr, a_minute: u32, failed: bool, now: Instant) {
        let of = neighbourhood(address);
        if let Some(checked) = self.checked.get_mut(&of) {
            *checked -= 1;
            if *checked == 0 {
                self.checked.remove(&of);
            }
        }
        if !failed {
            self.refund(address, a_minute, now);
        }
    }

    fn refund(&mut self, address: IpAddr, a_minute: u32, now: Instant) {
        let address = neighbourhood(address);
        let Some(even) = self.even.get_mut(&address) else { return };
        match even.checked_sub(MINUTE / a_minute.max(1)) {
            Some(before) if before > now => *even = before,
            _ => drop(self.even.remove(&address)),
        }
    }

    /// Those whose account is even; if there are none, the one that owes least.
    fn forget_some(&mut self, now: Instant) {
        self.even.retain(|_, even| *even > now);
        if self.even.len() >= MAX_ADDRESSES
            && let Some(least) = self.even.iter().min_by_key(|(_, even)| **even).map(|(address, _)| *address)
        {
            self.even.remove(&least);
        }
    }
}

/// When a refusal is told that was asked for at `began` and decided at `now`: on the next stroke of a clock that
/// began with the request, and not before the `dearest` check could have been made twice. An unknown user, a wrong
/// password and a cheaper hash then look alike.
pub fn told_at(began: Instant, now: Instant, dearest: Duration) -> Instant {
    let least = now.saturating_duration_since(began).max(dearest * 2);
    let strokes = least.as_nanos().div_ceil(STROKE.as_nanos()).max(1);
    began + STROKE * u32::try_from(strokes).unwrap_or(u32::MAX)
}

const MINUTE: Duration = Duration::from_secs(60);
const STROKE: Duration = Duration::from_millis(250);
/// About half a megabyte.
const MAX_ADDRESSES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_its_share_of_failures_and_gets_it_back_with_time() {
        let (mut failures, start) = (Failures::default(), Instant::now());
        let tries = |failures: &mut Failures, address, now| {
            (0..100).filter(|_| failures.charge(ip(address), 10, now)).count()
        };
        assert_eq!(tries(&mut failures, "2001:db8::1", start), 10);
        assert_eq!(tries(&mut failures, "2001:db8::2", start), 0, "the same /64");
        assert_eq!(tries(&mut failures, "192.0.2.1", start), 10);
        assert_eq!(tries(&mut failures, "::ffff:192.0.2.1", start), 0, "the same address");
        let later = start + Duration::from_secs(12);
        assert_eq!(tries(&mut failures, "192.0.2.1", later), 2);
        assert_eq!(tries(&mut failures, "192.0.2.1", start + MINUTE * 3), 10, "a minute's worth is the most");
    }

    #[test]
    fn what_did_not_fail_is_not_counted_and_what_is_checked_is_waited_for() {
        let (mut failures, now, nat) = (Failures::default(), Instant::now(), ip("192.0.2.1"));
        for _ in 0..100 {
            let three = [(); 3].map(|()| failures.begin(nat, 2, now));
            assert_eq!(three, [Try::Begun, Try::Begun, Try::Later]);
            assert_eq!(failures.begin(ip("192.0.2.2"), 2, now), Try::Begun, "nobody else waits");
            failures.end(ip("192.0.2.2"), 2, false, now);
            failures.end(nat, 2, false, now);
            assert_eq!(failures.begin(nat, 2, now), Try::Begun);
            (0..2).for_each(|_| failures.end(nat, 2, false, now));
        }
        assert!(failures.even.is_empty() && failures.checked.is_empty());
        // Those that fail are as many as ever, however many are under way.
        assert_eq!([(); 2].map(|()| failures.begin(nat, 2, now)), [Try::Begun; 2]);
        failures.end(nat, 2, true, now);
        assert_eq!(failures.begin(nat, 2, now), Try::Later);
        failures.end(nat, 2, true, now);
        assert_eq!(failures.begin(nat, 2, now), Try::Refused);
    }

    #[test]
    fn the_table_is_bounded_and_the_worst_stay() {
        let (mut failures, now) = (Failures::default(), Instant::now());
        let worst = ip("192.0.2.1");
        while failures.charge(worst, 3, now) {}
        for number in 0..6_000_u32 {
            assert!(failures.charge(IpAddr::V4(number.into()), 3, now));
            assert!(failures.even.len() <= MAX_ADDRESSES);
        }
        assert!(!failures.charge(worst, 3, now), "forgiven by being crowded out");
    }

    #[test]
    fn refusals_are_told_on_the_stroke() {
        let began = Instant::now();
        let ms = Duration::from_millis;
        for (took, dearest, told) in [
            (ms(0), ms(0), ms(250)),
            (ms(3), ms(0), ms(250)),
            (ms(249), ms(100), ms(250)),
            (ms(250), ms(0), ms(250)),
            (ms(251), ms(0), ms(500)),
            // The cheap hash of one user waits for the dear one of another.
            (ms(1), ms(130), ms(500)),
            (ms(130), ms(130), ms(500)),
            (ms(1_900), ms(900), ms(2_000)),
        ] {
            assert_eq!(told_at(began, began + took, dearest) - began, told, "{took:?} {dearest:?}");
        }
    }
}
