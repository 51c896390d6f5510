//! Every second, less often while nothing happens: what the data path counted becomes events, and the loop
//! guard goes its rounds. On the control thread; a data thread only counts, and leaves what came back.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::entry::{Entry, State};
use super::{Ports, announce};
use crate::frame::{Frame, Vid};
use crate::port::events::What;
use crate::port::fabric::Probe;
use crate::port::spec::PortKind;
use crate::switch::guard::loops::LoopGuard;
use crate::switch::{Reason, Slot};

const ROUND: Duration = Duration::from_secs(1);
/// While nothing happens: a timer wakes its thread twice, and an idle switch is to sleep. A loop is found in
/// the round that follows the first move of a station, so this is how long that takes.
const IDLE: Duration = Duration::from_millis(1_500);
/// Between looks at what came back: forged probes take no more of the thread than that allows.
const REST: Duration = Duration::from_millis(20);
/// VLANs of a trunk that are probed in one round.
const AT_A_TIME: usize = 8;
/// Rounds without a drop after which a storm is over.
const QUIET: u32 = 3;

/// What is told of a port by its drops, in the order of the bits of [`Entry::alerts`].
pub const ALERTS: [Reason; 8] = [
    Reason::StormBroadcast,
    Reason::StormMulticast,
    Reason::StormUnknown,
    Reason::MacLimit,
    Reason::MacMove,
    Reason::RateLimit,
    Reason::SourceNotAllowed,
    Reason::EthertypeNotAllowed,
];

/// What the rounds remember.
struct Rounds {
    guard: LoopGuard,
    /// Of each port, what is told by its drops.
    drops: BTreeMap<u32, [Watched; ALERTS.len()]>,
    came_back: Vec<Probe>,
    /// Of each port: which of its VLANs have their turn, and whether a probe of these came back.
    turns: BTreeMap<u32, (usize, bool)>,
}

/// A reason to drop, as it was a second ago.
#[derive(Clone, Copy, Default)]
struct Watched {
    count: u64,
    /// When it began.
    before: u64,
    quiet: u32,
    on: bool,
}

/// Goes on until the ports are gone.
pub async fn go(ports: Weak<Ports>, key: [u8; 32]) {
    let Some(fabric) = ports.upgrade().map(|ports| ports.fabric.clone()) else { return };
    let Some(source) = fabric.switch.probe_source else { return };
    let mut rounds = Rounds {
        guard: LoopGuard::new(key, source),
        drops: BTreeMap::new(),
        came_back: Vec::new(),
        turns: BTreeMap::new(),
    };
    // Two switches that were started together had better not probe at the same moment for ever.
    let mut next = Instant::now() + ROUND.mul_f64(rand::random());
    loop {
        let due = tokio::select! {
            () = sleep_until(next) => true,
            () = fabric.returned.some() => false,
        };
        let Some(ports) = ports.upgrade() else { return };
        if due {
            rounds.round(&ports);
            next = Instant::now() + if rounds.is_busy(fabric.now().0) { ROUND } else { IDLE };
            continue;
        }
        rounds.judge(&ports);
        drop(ports);
        sleep(REST).await;
    }
}

impl Rounds {
    fn round(&mut self, ports: &Ports) {
        let entries: Vec<_> = ports.entries().values().cloned().collect();
        self.watch_drops(ports, &entries);
        self.watch_moves(ports, &entries);
        self.reopen(ports, &entries);
        self.probe(ports, &entries);
        // A batch that passed the gate just before it shut may have learned behind the flush that followed.
        let closed = entries.iter().filter(|entry| entry.gate.closed().is_some());
        closed.for_each(|entry| _ = ports.fabric.switch.fdb.flush(entry.slot));
    }

    /// Whether there is something to be looked at every second.
    fn is_busy(&self, now: Duration) -> bool {
        let drops = || self.drops.values().flatten().any(|watched| watched.on);
        self.guard.is_eager(now) || drops()
    }

    fn watch_drops(&mut self, ports: &Ports, entries: &[Arc<Entry>]) {
        let mut before = std::mem::take(&mut self.drops);
        for entry in entries {
            let mut watched = before.remove(&entry.number).unwrap_or_default();
            let mut alerts = 0;
            for (bit, (reason, watched)) in ALERTS.iter().zip(&mut watched).enumerate() {
                let storm = match reason {
                    Reason::StormBroadcast => Some("broadcast"),
                    Reason::StormMulticast => Some("multicast"),
                    Reason::StormUnknown => Some("unknown unicast"),
                    _ => None,
                };
                match (watched.look(entry.counters.dropped_by(*reason)), storm) {
                    // Each station that is held is told by itself.
                    (Some(_), _) if *reason == Reason::MacMove => {}
                    (Some(Turn::Began), Some(kind)) => {
                        entry.raise(What::StormBegan, format!("{kind} is over its limit"));
                        self.guard.changed([entry.number], ports.fabric.now().0);
                    }
                    (Some(Turn::Ended(dropped)), Some(kind)) => {
                        entry.raise(What::StormEnded, format!("{kind}, {dropped} frames dropped"));
                    }
                    (Some(Turn::Began), None) => {
                        let text = format!("{}: {}", reason.name(), began(*reason, entry, ports));
                        entry.raise(What::LimitBegan, text);
                    }
                    (Some(Turn::Ended(dropped)), None) => {
                        let text = format!("{}, {dropped} frames dropped", reason.name());
                        entry.raise(What::LimitEnded, text);
                    }
                    (None, _) => {}
                }
                alerts |= u8::from(watched.on) << bit;
            }
            entry.alerts.store(alerts, Relaxed);
            self.drops.insert(entry.number, watched);
        }
    }

    fn watch_moves(&mut self, ports: &Ports, entries: &[Arc<Entry>]) {
        let now = ports.fabric.now();
        let (_, holds) = ports.fabric.switch.fdb.moves(now.seconds());
        let moved = ports.fabric.switch.fdb.moved();
        let concerned = entries.iter().filter(|entry| moved.binary_search(&entry.slot).is_ok());
        self.guard.changed(concerned.map(|entry| entry.number), now.0);
        for hold in holds {
            let Some(entry) = entries.iter().find(|entry| entry.slot == hold.slot) else { continue };
            let vlan = if hold.vid == 0 { String::new() } else { format!(" in VLAN {}", hold.vid) };
            let (what, text) = match hold.held {
                true => (What::MacMoveHeld, "moves too often, held here for 10 s"),
                false => (What::MacMoveReleased, "may move again"),
            };
            entry.raise(what, format!("{}{vlan} {text}", hold.mac));
        }
    }

    fn reopen(&mut self, ports: &Ports, entries: &[Arc<Entry>]) {
        let guarded =
            |port: &u32| entries.iter().any(|entry| entry.number == *port && ports.guards_loops(entry));
        let now = ports.fabric.now().0;
        let unguarded: Vec<u32> = self.guard.blocked().filter(|port| !guarded(port)).collect();
        unguarded.iter().for_each(|port| self.guard.forget(*port));
        let quiet = self.guard.reopened(now);
        for (open, why) in
            [(unguarded, "the loop guard was turned off"), (quiet, "no probe has come back for a while")]
        {
            for entry in entries.iter().filter(|entry| open.contains(&entry.number)) {
                entry.unblock();
                self.ways_changed(ports, entries, entry);
                entry.raise(What::LoopReopened, why.to_owned());
            }
        }
    }

    /// Frames take another way from now on: what was heard by links is not to be sent there without asking, and the
    /// far end is told who is here.
    fn ways_changed(&self, ports: &Ports, entries: &[Arc<Entry>], opened: &Entry) {
        let links = entries.iter().filter(|entry| entry.link().is_some() && entry.kind != PortKind::Qemu);
        links.for_each(|link| _ = ports.fabric.switch.fdb.flush(link.slot));
        if opened.link().is_some() && opened.kind != PortKind::Qemu {
            ports.introduce(opened, announce::SETTLE);
        }
    }

    fn probe(&mut self, ports: &Ports, entries: &[Arc<Entry>]) {
        let now = ports.fabric.now().0;
        let up = |entry: &&Arc<Entry>| {
            let life = entry.life();
            let runs = life.state == State::Up && !entry.gate.is_shut();
            // A virtual machine is shown nothing of ours, be it one in a page; a probe that it bridges from elsewhere
            // counts all the same.
            runs && entry.kind != PortKind::Qemu && !life.browser && ports.guards_loops(entry)
        };
        let up: BTreeMap<u32, &Arc<Entry>> = entries.iter().filter(up).map(|e| (e.number, e)).collect();
        self.turns.retain(|port, _| up.contains_key(port));
        for port in self.guard.due(up.keys().copied(), now) {
            let Some(entry) = up.get(&port) else { continue };
            let (turn, stays) = self.turns.entry(port).or_insert((usize::MAX, false));
            // Where there is a loop is looked again until it is gone: what holds a block are probes that come back.
            if !std::mem::take(stays) {
                *turn = turn.wrapping_add(1);
            }
            for vid in vids_of(entry, *turn) {
                let probe = self.guard.probe(port, vid, now);
                ports.fabric.send_own(entry.slot, port, &probe);
            }
        }
    }

    /// Looks at what came back.
    fn judge(&mut self, ports: &Ports) {
        let mut came_back = std::mem::take(&mut self.came_back);
        ports.fabric.returned.take(&mut came_back);
        for probe in &came_back {
            self.judge_one(ports, probe);
        }
        self.came_back = came_back;
    }

    fn judge_one(&mut self, ports: &Ports, probe: &Probe) -> Option<()> {
        let now = ports.fabric.now().0;
        let frame = Frame::checked(probe.bytes())?;
        let left = self.guard.came_back(frame, probe.port, now)?;
        let (out, back) = {
            let entries = ports.entries();
            (entries.get(&left)?.clone(), entries.get(&probe.port)?.clone())
        };
        if let Some((_, stays)) = self.turns.get_mut(&left) {
            *stays = true;
        }
        let guarded = |entry: &Arc<Entry>| ports.guards_loops(entry) && !entry.gate.is_shut();
        if !guarded(&out) || !guarded(&back) || !goes_round(ports, frame, back.slot, out.slot) {
            return None;
        }
        let port = self.guard.looped(left, probe.port, now, rand::random())?;
        let (entry, other) = if port == left { (&out, &back) } else { (&back, &out) };
        let text = match port == left && port == probe.port {
            true => "loop beyond it".to_owned(),
            false => format!("loop with port {} ({})", other.number, other.name()),
        };
        entry.block(text.clone());
        // Whatever was heard meanwhile, and by whatever port, may have come round the loop.
        let slots: Vec<_> = ports.entries().values().map(|entry| entry.slot).collect();
        slots.into_iter().for_each(|slot| _ = ports.fabric.switch.fdb.flush(slot));
        entry.raise(What::LoopBlocked, text);
        Some(())
    }
}

/// What a guard that is no storm's drops from now on.
fn began(reason: Reason, entry: &Entry, ports: &Ports) -> String {
    match reason {
        Reason::MacLimit => {
            let most = entry.spec().max_macs.unwrap_or(ports.guards().max_macs);
            format!("{most} stations are learned there, others are dropped")
        }
        Reason::RateLimit => "what is over its rate is dropped".to_owned(),
        Reason::SourceNotAllowed => "frames of other stations than its macs are dropped".to_owned(),
        _ => "frames of other types than its ethertypes are dropped".to_owned(),
    }
}

/// How something began or ended.
enum Turn {
    Began,
    /// So much of it there was.
    Ended(u64),
}

impl Watched {
    fn look(&mut self, count: u64) -> Option<Turn> {
        let grown = count != self.count;
        let began = self.count;
        self.count = count;
        if grown {
            self.quiet = 0;
            if !self.on {
                (self.on, self.before) = (true, began);
                return Some(Turn::Began);
            }
        } else if self.on {
            self.quiet += 1;
            if self.quiet >= QUIET {
                self.on = false;
                return Some(Turn::Ended(count - self.before));
            }
        }
        None
    }
}

impl Ports {
    fn guards_loops(&self, entry: &Entry) -> bool {
        self.guards().loop_guard && entry.spec().loop_guard
    }
}

/// A frame as it came in at `from` may leave by `to` again.
fn goes_round(ports: &Ports, frame: Frame<'_>, from: Slot, to: Slot) -> bool {
    let table = ports.fabric.table();
    let (Some(from), Some(to)) = (table.get(from), table.get(to)) else { return false };
    let passes = |class| to.vlan.egress(class).is_some();
    from.slot == to.slot || from.vlan.classify(frame).is_ok_and(passes) && !(from.isolated && to.isolated)
}

/// Where a port is probed this time: untagged, and a trunk in some of its VLANs, in all of them by turns.
fn vids_of(entry: &Entry, turn: usize) -> Vec<Option<Vid>> {
    let spec = entry.spec();
    let Some(trunk) = &spec.trunk else { return vec![None] };
    let native = spec.native.map(|_| None);
    let tagged = (1..=4094).filter(|vid| trunk.contains(*vid)).filter_map(Vid::new);
    let all: Vec<_> =
        native.into_iter().chain(tagged.filter(|vid| spec.native != Some(*vid)).map(Some)).collect();
    let first = turn.wrapping_mul(AT_A_TIME) % all.len().max(1);
    all.iter().copied().cycle().skip(first).take(all.len().min(AT_A_TIME)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_begins_once_and_is_over_when_it_was_quiet_for_a_while() {
        let mut watched = Watched::default();
        let mut told = Vec::new();
        for (second, count) in [0, 5, 9, 9, 9, 12, 12, 12, 12, 12, 20].into_iter().enumerate() {
            match watched.look(count) {
                Some(Turn::Began) => told.push((second, 0)),
                Some(Turn::Ended(dropped)) => told.push((second, dropped)),
                None => {}
            }
        }
        assert_eq!(told, [(1, 0), (8, 12), (10, 0)]);
    }
}
