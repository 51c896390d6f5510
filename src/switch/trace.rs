//! What would become of a frame, and why: the very decision that frames go through, step by step, with nothing learned
//! and nothing counted.
//!
//! [`Switch::forward`] and [`Switch::trace`] run the same code. What of it leaves a trace goes through an [`Act`]:
//! [`ForGood`] does it and tells nobody, a [`Trace`] asks a copy and writes down what came of it.

use super::arrivals::{Arrival, Arrivals};
use super::counters::Reason;
use super::fdb::{Fdb, Learned};
use super::forward::{Now, Port, Slot, Switch, Table, Verdict};
use super::guard::{Policer, Storm};
use super::vlan::Class;
use crate::frame::{Frame, MacAddr, Retag};
use crate::prof::{Probe, Stage};

/// What a decision does besides deciding.
pub trait Act {
    fn mark(&mut self, stage: Stage);
    /// Whether so many bits may come in.
    fn rate(&mut self, rate: &Policer, bits: u64, now: Now) -> bool;
    /// Whether so many frames may go to many.
    fn storm(&mut self, storm: &Storm, dst: MacAddr, frames: u32, now: Now) -> Result<(), Reason>;
    fn learn(&mut self, fdb: &Fdb, class: Class, src: MacAddr, slot: Slot, now: Now) -> Learned;
    /// A station is here that was not.
    fn arrived(&mut self, arrivals: &Arrivals, arrival: Arrival);
    /// A step was taken, with this outcome; `why` says what it found.
    fn step(
        &mut self,
        check: &'static str,
        outcome: Result<(), Reason>,
        why: impl FnOnce() -> String,
    ) -> Result<(), Reason>;
}

/// As frames have it.
pub struct ForGood<'p, P>(pub &'p mut P);

impl<P: Probe> Act for ForGood<'_, P> {
    #[inline(always)]
    fn mark(&mut self, stage: Stage) {
        self.0.mark(stage);
    }

    #[inline(always)]
    fn rate(&mut self, rate: &Policer, bits: u64, now: Now) -> bool {
        rate.admits(bits, now.0)
    }

    #[inline(always)]
    fn storm(&mut self, storm: &Storm, dst: MacAddr, frames: u32, now: Now) -> Result<(), Reason> {
        storm.admits(dst, frames, now.0)
    }

    #[inline(always)]
    fn learn(&mut self, fdb: &Fdb, class: Class, src: MacAddr, slot: Slot, now: Now) -> Learned {
        fdb.learn(class.vid, src, slot, now.seconds())
    }

    #[inline(always)]
    fn arrived(&mut self, arrivals: &Arrivals, arrival: Arrival) {
        arrivals.put(arrival);
    }

    #[inline(always)]
    fn step(
        &mut self,
        _: &'static str,
        outcome: Result<(), Reason>,
        _: impl FnOnce() -> String,
    ) -> Result<(), Reason> {
        outcome
    }
}

/// One step of a decision.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// What was looked at, in a word.
    pub check: &'static str,
    /// `None`: the frame passed.
    pub reason: Option<Reason>,
    pub why: String,
}

/// What would become of a frame.
#[derive(Default, Debug)]
pub struct Trace {
    pub steps: Vec<Step>,
    /// `None` before the decision.
    pub verdict: Option<Verdict>,
    /// The ports that were thought of: by slot, with the tag there, or why not.
    pub ways: Vec<(Slot, Result<Retag, Reason>)>,
}

impl<E> Switch<E> {
    /// What [`Switch::forward`] would answer now.
    pub fn trace(
        &self,
        table: &Table<E>,
        ingress: &Port<E>,
        frame: Frame<'_>,
        frames: u32,
        now: Now,
    ) -> Trace {
        let mut trace = Trace::default();
        let verdict =
            self.judge(table, ingress, frame, frames, now, &mut trace).unwrap_or_else(Verdict::Drop);
        trace.verdict = Some(verdict);
        trace.ways = match verdict {
            Verdict::Unicast(slot, retag) => vec![(slot, Ok(retag))],
            Verdict::Flood(flood) => {
                table.ways(flood, frame.dst().is_reserved()).map(|(port, way)| (port.slot, way)).collect()
            }
            Verdict::Drop(_) => Vec::new(),
        };
        trace
    }
}

impl Act for Trace {
    fn mark(&mut self, _: Stage) {}

    fn rate(&mut self, rate: &Policer, bits: u64, now: Now) -> bool {
        rate.clone().admits(bits, now.0)
    }

    fn storm(&mut self, storm: &Storm, dst: MacAddr, frames: u32, now: Now) -> Result<(), Reason> {
        storm.clone().admits(dst, frames, now.0)
    }

    fn learn(&mut self, fdb: &Fdb, class: Class, src: MacAddr, slot: Slot, now: Now) -> Learned {
        fdb.would_learn(class.vid, src, slot, now.seconds())
    }

    fn arrived(&mut self, _: &Arrivals, _: Arrival) {}

    fn step(
        &mut self,
        check: &'static str,
        outcome: Result<(), Reason>,
        why: impl FnOnce() -> String,
    ) -> Result<(), Reason> {
        self.steps.push(Step { check, reason: outcome.err(), why: why() });
        outcome
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::switch::guard::StormRates;
    use crate::switch::{Fdb, VlanRule};

    const NOW: Now = Now(Duration::from_secs(1));

    fn switch() -> Switch<()> {
        let switch = Switch::new(Fdb::new(64, 300, [1, 2]));
        let one = StormRates { broadcast: Some(1), multicast: None, unknown: Some(1) };
        for slot in 0..3 {
            switch.put(Port {
                slot: Slot(slot),
                number: slot + 1,
                vlan: VlanRule::Transparent,
                isolated: slot < 2,
                bpdu: false,
                macs: Vec::new(),
                remote: false,
                rate: Some(Arc::new(Policer::of_bits(8_000))),
                ethertypes: Vec::new(),
                storm: Some(Arc::new(Storm::new(one))),
                heard: Arc::new(Policer::of_frames(1)),
                asked: Arc::new(Policer::of_frames(1)),
                max_macs: 2,
                gate: Arc::default(),
                counters: Arc::default(),
                egress: (),
            });
        }
        switch
    }

    fn frame(dst: u8, src: u8) -> Vec<u8> {
        let dst = if dst == 0xff { [0xff; 6] } else { [2, 0, 0, 0, 0, dst] };
        [&dst[..], &[2, 0, 0, 0, 0, src, 0x08, 0x00], &[0; 46]].concat()
    }

    #[test]
    fn a_trace_says_what_forward_then_does_and_changes_nothing() {
        let switch = switch();
        let table = switch.table().load();
        for (turn, (slot, dst, src)) in [
            (0, 0xff, 1),
            (2, 1, 3),
            (0, 3, 1),
            (1, 3, 1),
            (0, 0xff, 1),
            (0, 0xff, 1),
            (0, 9, 2),
            (0, 9, 3),
            (0, 9, 4),
            (2, 5, 5),
        ]
        .into_iter()
        .cycle()
        .take(60)
        .enumerate()
        {
            let now = Now(NOW.0 + Duration::from_millis(turn as u64 * 30));
            let bytes = frame(dst, src);
            let (ingress, frame) = (table.get(Slot(slot)).unwrap(), Frame::checked(&bytes).unwrap());
            let stations = switch.fdb.stations(1);
            let traced = switch.trace(&table, ingress, frame, 1, now);
            for _ in 0..20 {
                let again = switch.trace(&table, ingress, frame, 1, now);
                assert_eq!((again.verdict, again.steps), (traced.verdict, traced.steps.clone()));
            }
            assert_eq!(switch.fdb.stations(1), stations, "nothing is learned");
            let verdict = switch.forward(&table, ingress, frame, 1, now, &mut ());
            assert_eq!(traced.verdict, Some(verdict), "turn {turn}: {:?}", traced.steps);
            let last = traced.steps.last().unwrap();
            assert_eq!(last.reason, if let Verdict::Drop(reason) = verdict { Some(reason) } else { None });
        }
    }

    #[test]
    fn each_port_of_a_flood_has_its_reason() {
        let switch = switch();
        let table = switch.table().load();
        table.get(Slot(2)).unwrap().gate.set_shut(true);
        let bytes = frame(0xff, 1);
        let traced =
            switch.trace(&table, table.get(Slot(0)).unwrap(), Frame::checked(&bytes).unwrap(), 1, NOW);
        let ways: Vec<_> = traced.ways.into_iter().map(|(slot, way)| (slot.0, way)).collect();
        let (own, other, shut) = (Reason::Filtered, Reason::Isolated, Reason::PortShut);
        assert_eq!(ways, [(0, Err(own)), (1, Err(other)), (2, Err(shut))]);
        let words: Vec<_> = traced.steps.iter().map(|step| step.check).collect();
        assert_eq!(words[..3], ["state", "probe", "source"]);
        assert!(traced.steps.iter().any(|step| step.check == "learning" && step.why.contains("new")));
    }
}
