//! Loops: frames that come back. Out of every port goes a probe now and then, a group frame that every
//! switch floods. One that comes back tells that the port where it left and the port where it came in are
//! joined outside, and the one with the higher number is blocked. As long as probes go on coming back it
//! stays so; [`HOLD`] after the last one it is open again, to be tried.
//!
//! Two switches that both watch the same pair of links may block one each, when their probes cross on the
//! way. Then no probe comes back, both open again, and since each adds some chance to its wait, one of them
//! is first: its probes and the other's show the loop while the other is still blocked.
//!
//! A probe that comes back by the very port it left by tells of a loop beyond. That is its own switches'
//! to block, if they can; the port is blocked here when [`PATIENCE`] probes in a row have come back.
//!
//! Nobody else can make a probe: each is signed with a key of this process, counts once on each port and
//! for [`FRESH`] only. Whoever sees one can send it back, and so have the port blocked that it sends it
//! back by, or one that it got it from: its own.
//!
//! The frame, behind addresses and perhaps a tag, in network order: EtherType 0x88b6 (IEEE 802, local
//! experimental 2), `ewlg`, version 1, three bytes 0, number of the probe (8 bytes), port (4), milliseconds
//! since the switch's start (8), HMAC-SHA256 of these (32).

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use aws_lc_rs::hmac;

use crate::frame::eth::{TPID_8021Q, is_tpid};
use crate::frame::{Frame, MacAddr, Tag, Vid};

/// Where probes go: a locally administered group, which no bridge keeps to itself.
pub const GROUP: MacAddr = MacAddr::new([0x03, b'e', b'w', b'l', b'o', b'o']);
/// The longest probe: with two tags on its way.
pub const MAX_LEN: usize = 14 + 2 * Tag::LEN + PAYLOAD;

const ETHERTYPE: u16 = 0x88b6;
const MAGIC: [u8; 8] = *b"ewlg\x01\0\0\0";
/// What is signed, and the signature.
const SIGNED: usize = 28;
const PAYLOAD: usize = SIGNED + 32;
/// How long a probe counts.
const FRESH: Duration = Duration::from_secs(5);
/// How long a port is blocked after the last probe that came back, chance not counted.
const HOLD: Duration = Duration::from_secs(15);
const CHANCE: Duration = Duration::from_secs(5);
/// Probes that come back by the port they left by before it is blocked.
const PATIENCE: u32 = 3;
/// Between probes: for a while after a change, and later.
const EAGER: Duration = Duration::from_secs(1);
const EAGER_FOR: Duration = Duration::from_secs(30);
const LAZY: Duration = Duration::from_secs(10);
/// Moments in that time, for ports by turns.
const PHASES: u32 = 64;
/// Probes remembered as counted.
const COUNTED: usize = 4_096;

/// The address that probes of a switch come from, out of 40 random bits.
pub fn source(random: u64) -> MacAddr {
    MacAddr::from_bits(0x0200_0000_0000 | random & 0xff_ffff_ffff)
}

/// Which ports are probed when, and which are blocked. Ports are known by number; time is that since the
/// switch's start.
pub struct LoopGuard {
    key: hmac::Key,
    source: MacAddr,
    next: u64,
    ports: BTreeMap<u32, Probed>,
    blocked: BTreeMap<u32, Block>,
    /// Which probes counted on which port, and when, oldest first.
    counted: VecDeque<(Duration, u64, u32)>,
}

#[derive(Clone, Copy)]
struct Probed {
    /// When the last probe went out.
    sent: Option<Duration>,
    eager_until: Duration,
    /// Probes in a row that came back by this port, and when the last one did.
    echoes: (u32, Duration),
}

#[derive(Clone, Copy)]
struct Block {
    until: Duration,
    chance: Duration,
}

impl LoopGuard {
    /// `key` is random and stays secret; probes come from `source`.
    pub fn new(key: [u8; 32], source: MacAddr) -> Self {
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            source,
            next: 0,
            ports: BTreeMap::new(),
            blocked: BTreeMap::new(),
            counted: VecDeque::new(),
        }
    }

    /// These ports are up and to be probed; of the ones that are due now, the numbers. A port that is new is
    /// due at once, and probed eagerly for a while.
    pub fn due(&mut self, up: impl Iterator<Item = u32>, now: Duration) -> Vec<u32> {
        let before = std::mem::take(&mut self.ports);
        let new = Probed { sent: None, eager_until: now + EAGER_FOR, echoes: (0, Duration::ZERO) };
        self.ports = up.map(|port| (port, before.get(&port).copied().unwrap_or(new))).collect();
        let due = self.ports.iter_mut().filter(|(port, probed)| probed.is_due(**port, now));
        due.map(|(port, probed)| {
            probed.sent = Some(now);
            *port
        })
        .collect()
    }

    /// Something changed there: these ports are probed eagerly for a while. Frames that go round show at the ports that
    /// they go round by, and of ten thousand others none needs to be asked.
    pub fn changed(&mut self, ports: impl IntoIterator<Item = u32>, now: Duration) {
        for port in ports {
            if let Some(probed) = self.ports.get_mut(&port) {
                probed.hurry(now);
            }
        }
    }

    /// Whether some port is probed eagerly, or blocked.
    pub fn is_eager(&self, now: Duration) -> bool {
        !self.blocked.is_empty() || self.ports.values().any(|probed| now < probed.eager_until)
    }

    /// A probe to go out of `port`, in a VLAN or untagged.
    pub fn probe(&mut self, port: u32, vid: Option<Vid>, now: Duration) -> Vec<u8> {
        self.next += 1;
        let mut bytes = [GROUP.octets(), self.source.octets()].concat();
        bytes.extend(vid.map(|vid| Tag { tpid: TPID_8021Q, tci: vid.get() }.bytes()).iter().flatten());
        bytes.extend(ETHERTYPE.to_be_bytes());
        let signed = bytes.len();
        bytes.extend(MAGIC);
        bytes.extend(self.next.to_be_bytes());
        bytes.extend(port.to_be_bytes());
        bytes.extend((now.as_millis() as u64).to_be_bytes());
        let signature = hmac::sign(&self.key, &bytes[signed..]);
        bytes.extend(signature.as_ref());
        bytes
    }

    /// A frame came in by `port`: when it is a probe of ours that counts, the port by which it left.
    pub fn came_back(&mut self, frame: Frame<'_>, port: u32, now: Duration) -> Option<u32> {
        let payload = payload(frame)?;
        let (signed, signature) = payload.split_at_checked(SIGNED)?;
        let signature = signature.get(..PAYLOAD - SIGNED)?;
        if !signed.starts_with(&MAGIC) || hmac::verify(&self.key, signed, signature).is_err() {
            return None;
        }
        let (number, rest) = signed[MAGIC.len()..].split_first_chunk()?;
        let (left, sent) = rest.split_first_chunk()?;
        let number = u64::from_be_bytes(*number);
        let sent = Duration::from_millis(u64::from_be_bytes(*sent.first_chunk()?));
        if now.saturating_sub(sent) > FRESH {
            return None;
        }
        while self.counted.front().is_some_and(|(at, ..)| now.saturating_sub(*at) > FRESH) {
            self.counted.pop_front();
        }
        let known = self.counted.iter().any(|(_, other, by)| (*other, *by) == (number, port));
        if known || self.counted.len() >= COUNTED {
            return None;
        }
        self.counted.push_back((now, number, port));
        Some(u32::from_be_bytes(*left))
    }

    /// A probe that left by `left` came in by `came`, and frames could go the same way for ever: the port to
    /// be blocked, when none is yet. `random` is the chance in the wait.
    pub fn looped(&mut self, left: u32, came: u32, now: Duration, random: u64) -> Option<u32> {
        for port in [left, came] {
            self.ports.get_mut(&port)?.hurry(now);
        }
        // Of two that are blocked only the higher one is kept so by the other: a third port may be why.
        let mut blocked = [left.max(came), left.min(came)].into_iter();
        if let Some(block) = blocked.find_map(|port| self.blocked.get_mut(&port).map(|_| port)) {
            let block = self.blocked.get_mut(&block)?;
            block.until = now + HOLD + block.chance;
            return None;
        }
        if left == came && self.ports.get_mut(&came)?.echo(now) < PATIENCE {
            return None;
        }
        let port = left.max(came);
        let chance = CHANCE.mul_f64((random >> 11) as f64 / (1u64 << 53) as f64);
        self.blocked.insert(port, Block { until: now + HOLD + chance, chance });
        Some(port)
    }

    /// The ports that are to be tried again.
    pub fn reopened(&mut self, now: Duration) -> Vec<u32> {
        let over: Vec<_> = self.blocked.iter().filter(|(_, block)| block.until <= now).collect();
        let over: Vec<u32> = over.into_iter().map(|(port, _)| *port).collect();
        over.iter().for_each(|port| self.forget(*port));
        over
    }

    /// The port is gone, or guarded no more.
    pub fn forget(&mut self, port: u32) {
        self.blocked.remove(&port);
    }

    pub fn blocked(&self) -> impl Iterator<Item = u32> {
        self.blocked.keys().copied()
    }
}

impl Probed {
    fn hurry(&mut self, now: Duration) {
        self.eager_until = now + EAGER_FOR;
    }

    fn is_due(&self, port: u32, now: Duration) -> bool {
        let Some(sent) = self.sent else { return true };
        if now < self.eager_until {
            // Who asks every second asks a little early now and then.
            return now + EAGER / 8 >= sent + EAGER;
        }
        // Each at a moment of its own: those that came together are not to be probed together for ever.
        let turn = |at: Duration| (at + LAZY / PHASES * (port % PHASES)).as_millis() / LAZY.as_millis();
        turn(now) > turn(sent)
    }

    /// One more came back; how many in a row. Those of several VLANs at a time are one.
    fn echo(&mut self, now: Duration) -> u32 {
        let (count, last) = self.echoes;
        match now.saturating_sub(last) {
            pause if count > 0 && pause < EAGER / 2 => {}
            pause if pause > FRESH => self.echoes = (1, now),
            _ => self.echoes = (count + 1, now),
        }
        self.echoes.0
    }
}

/// What stands behind the EtherType of a probe.
fn payload(frame: Frame<'_>) -> Option<&[u8]> {
    let bytes = frame.bytes();
    let mut at = 12;
    loop {
        let (ethertype, rest) = bytes.get(at..)?.split_first_chunk()?;
        match u16::from_be_bytes(*ethertype) {
            ETHERTYPE => return Some(rest),
            tpid if is_tpid(tpid) && at < 12 + 2 * Tag::LEN => at += Tag::LEN,
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard() -> LoopGuard {
        LoopGuard::new([7; 32], source(1))
    }

    fn at(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    fn frame(bytes: &[u8]) -> Frame<'_> {
        Frame::checked(bytes).unwrap()
    }

    #[test]
    fn a_probe_of_ours_counts_once_on_each_port_while_it_is_fresh() {
        let mut guard = guard();
        for vid in [None, Vid::new(9)] {
            let probe = guard.probe(3, vid, at(1.0));
            assert!((60..=MAX_LEN).contains(&probe.len()));
            assert_eq!(guard.came_back(frame(&probe), 4, at(1.1)), Some(3));
            assert_eq!(guard.came_back(frame(&probe), 4, at(1.2)), None);
            assert_eq!(guard.came_back(frame(&probe), 5, at(6.0)), Some(3), "a second way round");
            assert_eq!(guard.came_back(frame(&probe), 6, at(6.1)), None, "too old");
        }
        // A tag that a port on the way put in front, and padding behind, are none of its business.
        let mut tagged = guard.probe(3, Vid::new(9), at(7.0));
        tagged.splice(12..12, [0x88, 0xa8, 0, 5]);
        tagged.extend([0; 9]);
        assert_eq!(guard.came_back(frame(&tagged), 1, at(7.0)), Some(3));
    }

    #[test]
    fn what_others_make_or_change_is_no_probe() {
        let mut guard = guard();
        let probe = guard.probe(3, None, at(1.0));
        for place in 12..probe.len() {
            let mut forged = probe.clone();
            forged[place] ^= 1;
            assert_eq!(guard.came_back(frame(&forged), 4, at(1.0)), None, "byte {place}");
        }
        for len in 14..probe.len() {
            assert_eq!(guard.came_back(frame(&probe[..len]), 4, at(1.0)), None, "{len} bytes");
        }
        let foreign = LoopGuard::new([8; 32], source(1)).probe(3, None, at(1.0));
        assert_eq!(guard.came_back(frame(&foreign), 4, at(1.0)), None);
        assert_eq!(guard.came_back(frame(&probe), 4, at(1.0)), Some(3), "nothing of that counted");
    }

    #[test]
    fn probes_are_frequent_after_a_change_and_rare_later() {
        let mut guard = guard();
        let mut times = Vec::new();
        for second in 0..100 {
            let now = Duration::from_secs(second);
            if second == 70 {
                guard.changed([1, 7], now);
            }
            times.extend(guard.due([1].into_iter(), now).iter().map(|_| second));
        }
        let rare = [30, 40, 50, 60];
        let expected: Vec<u64> = (0..30).chain(rare).chain(70..100).collect();
        assert_eq!(times, expected);
        assert_eq!(guard.due([1, 2].into_iter(), at(99.5)), [2], "a new port is due at once");
        (100..200).for_each(|second| _ = guard.due([1, 2].into_iter(), at(f64::from(second))));
        guard.changed([2], at(200.0));
        let times =
            (200..204).map(|second| guard.due([1, 2].into_iter(), at(f64::from(second))).contains(&1));
        assert!(times.filter(|due| *due).count() <= 1, "where nothing changed");
    }

    #[test]
    fn those_that_came_together_are_not_probed_together_for_ever() {
        let mut guard = guard();
        let mut last = [0; 1_000];
        for second in 0..100 {
            let due = guard.due(0..1_000, Duration::from_secs(second));
            assert!(second <= 30 || due.len() < 200, "{} at {second} s", due.len());
            due.into_iter().for_each(|port| last[port as usize] = second);
            assert!(last.iter().all(|probed| second - probed <= 10));
        }
    }

    #[test]
    fn of_two_ports_the_higher_one_is_blocked_until_probes_stay_away() {
        let mut guard = guard();
        guard.due([1, 2, 3].into_iter(), at(0.0));
        assert_eq!(guard.looped(2, 1, at(1.0), 0), Some(2));
        assert_eq!(guard.looped(1, 2, at(5.0), 0), None, "it is blocked already");
        assert_eq!(guard.reopened(at(19.9)), [0u32; 0]);
        assert_eq!(guard.reopened(at(20.0)), [2]);
        assert_eq!(guard.looped(1, 2, at(21.0), u64::MAX), Some(2), "and again");
        assert_eq!(guard.reopened(at(40.9)), [0u32; 0], "chance makes it longer");
        assert_eq!(guard.reopened(at(41.1)), [2]);
    }

    /// Three links side by side, of which the first is cut: one of the other two has to open.
    #[test]
    fn what_a_third_port_closed_is_not_kept_closed_by_the_second() {
        let mut guard = guard();
        guard.due([1, 2, 3].into_iter(), at(0.0));
        assert_eq!((guard.looped(1, 2, at(1.0), 0), guard.looped(1, 3, at(1.0), 0)), (Some(2), Some(3)));
        let mut open = Vec::new();
        for second in 2..40 {
            assert_eq!(guard.looped(2, 3, at(f64::from(second)), 0), None);
            open.extend(guard.reopened(at(f64::from(second))));
        }
        assert_eq!(open, [2]);
        assert_eq!(guard.blocked().collect::<Vec<_>>(), [3]);
    }

    #[test]
    fn a_loop_beyond_is_left_to_others_for_a_moment() {
        let mut guard = guard();
        guard.due([4].into_iter(), at(0.0));
        assert_eq!((guard.looped(4, 4, at(1.0), 0), guard.looped(4, 4, at(2.0), 0)), (None, None));
        assert_eq!(guard.looped(4, 4, at(9.0), 0), None, "not in a row");
        assert_eq!((guard.looped(4, 4, at(10.0), 0), guard.looped(4, 4, at(11.0), 0)), (None, Some(4)));
        guard.due([].into_iter(), at(12.0));
        assert_eq!(guard.looped(4, 4, at(12.0), 0), None, "a port that is not up is not judged");
    }
}
