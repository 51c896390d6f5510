//! Frames, tagged in any way, through a switch of four ports: who gets them, with which tag, and what was learned.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use etherws::frame::eth::Outgoing;
use etherws::frame::group::{self, Message};
use etherws::frame::neighbour::{self, MAX_ANSWER, Role};
use etherws::frame::{EtherType, Frame, MIN_FRAME, MacAddr, Retag, Tag, Vid, VidSet};
use etherws::switch::guard::{Policer, Storm, StormRates};
use etherws::switch::{Fdb, Now, Port, Reason, Slot, Switch, Table, Verdict, VlanRule};

/// Four bytes choose the ports' rules; then come frames, each behind its ingress port and its length.
pub fn run(data: &[u8]) {
    let Some((rules, mut rest)) = data.split_first_chunk::<4>() else { return };
    let switch = Switch::new(Fdb::new(16, AGEOUT, [1, 2]));
    (0..).zip(rules).for_each(|(slot, choice)| switch.put(port(slot, *choice)));
    switch.set_own(vec![OWN]);
    let table = switch.table().load();
    let mut stations = Stations::default();
    let mut second = 0;
    while let [ingress, len, more @ ..] = rest {
        let (bytes, behind) = more.split_at(more.len().min(usize::from(*len)));
        rest = behind;
        second += u64::from(ingress >> 2);
        let Some(frame) = Frame::checked(bytes) else {
            assert!(bytes.len() < MIN_FRAME);
            continue;
        };
        let ingress = table.get(Slot(u32::from(ingress & 3))).expect("one of four");
        let now = Now(Duration::from_secs(second));
        speaks(frame);
        wants(frame);
        let foreseen = switch.trace(&table, ingress, frame, 1, now);
        let verdict = switch.forward(&table, ingress, frame, 1, now, &mut ());
        stations.judge(&table, ingress, frame, now.seconds(), verdict);
        // Where there is no room its destination may have gone for a new station.
        if stations.are_few() {
            assert_eq!(foreseen.verdict, Some(verdict), "{:?}", foreseen.steps);
        }
        match verdict {
            Verdict::Unicast(slot, retag) => {
                assert!(!frame.dst().is_group() && slot != ingress.slot);
                goes_out(ingress, frame, table.get(slot).expect("a port"), retag);
            }
            Verdict::Flood(flood) => {
                let reserved = frame.dst().is_reserved();
                assert!(!reserved || ingress.bpdu);
                for (egress, retag) in table.flood(flood, reserved) {
                    assert!(egress.slot != ingress.slot && (!reserved || egress.bpdu));
                    assert!(!(ingress.isolated && egress.isolated));
                    goes_out(ingress, frame, egress, retag);
                }
            }
            Verdict::Drop(_) => (),
        }
        let known = switch.fdb.stations(now.seconds());
        assert!(known.len() <= 16);
        for slot in 0..4 {
            let most = table.get(Slot(slot)).expect("one of four").max_macs as usize;
            assert!(known.iter().filter(|station| station.slot == Slot(slot)).count() <= most);
        }
        assert!(
            known
                .iter()
                .all(|station| !station.mac.is_group() && !station.mac.is_zero() && station.vid < 4095)
        );
    }
}

/// Who was heard where, and in which second: what a switch learns, without its table and its limits.
#[derive(Default)]
struct Stations(HashMap<(u16, MacAddr), (Slot, u32)>);

impl Stations {
    /// So few are never in each other's way, whatever they are called.
    fn are_few(&self) -> bool {
        self.0.len() <= 8
    }

    /// Holds a verdict against the rules, in their order, and against who was heard.
    fn judge(&mut self, table: &Table<()>, ingress: &Port<()>, frame: Frame<'_>, now: u32, verdict: Verdict) {
        let (src, dst) = (frame.src(), frame.dst());
        let drops = |reason| assert_eq!(verdict, Verdict::Drop(reason));
        if src.is_group() || src.is_zero() {
            return drops(Reason::BadSource);
        }
        if !ingress.macs.is_empty() && !ingress.macs.contains(&src) {
            return drops(Reason::SourceNotAllowed);
        }
        if ingress.remote && src == OWN {
            return drops(Reason::OwnSource);
        }
        if verdict == Verdict::Drop(Reason::RateLimit) {
            return assert!(ingress.rate.is_some());
        }
        if !ingress.ethertypes.is_empty() && !ingress.ethertypes.contains(&frame.inner_ethertype()) {
            return drops(Reason::EthertypeNotAllowed);
        }
        let class = match ingress.vlan.classify(frame) {
            Err(reason) => return drops(reason),
            Ok(class) => class,
        };
        if dst.is_reserved() && !ingress.bpdu {
            return drops(Reason::ReservedGroup);
        }
        match verdict {
            Verdict::Drop(Reason::StormBroadcast) => {
                return assert!(ingress.storm.is_some() && dst.is_broadcast());
            }
            Verdict::Drop(Reason::StormMulticast) => {
                return assert!(ingress.storm.is_some() && dst.is_group());
            }
            // It stays where it was.
            Verdict::Drop(Reason::MacMove) => {
                let before = self.0.get(&(class.vid, src)).expect("it was somewhere");
                return assert_ne!(before.0, ingress.slot);
            }
            Verdict::Drop(Reason::MacLimit) => return assert!(ingress.max_macs < u32::MAX),
            _ => (),
        }
        self.0.insert((class.vid, src), (ingress.slot, now));
        let few = self.are_few();
        let heard = self.0.get(&(class.vid, dst)).filter(|(_, when)| now - when <= AGEOUT);
        let known = heard.map(|(slot, _)| table.get(*slot).expect("one of four"));
        match (verdict, known) {
            (Verdict::Unicast(slot, _), known) => assert_eq!(Some(slot), known.map(|port| port.slot)),
            (Verdict::Flood(_) | Verdict::Drop(Reason::StormUnknown), known) => {
                assert!(!few || known.is_none(), "{dst} is known");
            }
            (Verdict::Drop(reason), Some(port)) => match reason {
                Reason::Filtered => assert_eq!(port.slot, ingress.slot),
                Reason::Isolated => assert!(ingress.isolated && port.isolated),
                Reason::VlanNotMember => assert_eq!(port.vlan.egress(class), None),
                other => panic!("{other:?}"),
            },
            (Verdict::Drop(reason), None) => panic!("{reason:?} on the way to nobody"),
        }
    }
}

/// Seconds.
const AGEOUT: u32 = 300;
/// A device of this host's.
const OWN: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 7]);

/// Whatever is read of ARP and ND in a frame, an answer fits and says what was asked.
fn speaks(frame: Frame<'_>) {
    let claim = neighbour::claim(frame);
    assert!(claim.is_none() || neighbour::may_be(frame));
    let Some(query) = neighbour::query(frame) else { return };
    let mut out = [0; MAX_ANSWER];
    let mac = MacAddr::new([2, 0, 0, 0, 0, 9]);
    let len = neighbour::answer(frame, &query, mac, Role::Host, &mut out).expect("of one family");
    let answer = Frame::checked(&out[..len]).expect("a frame");
    assert_eq!((answer.dst(), answer.src(), answer.tag()), (frame.src(), mac, frame.tag()));
    assert!(neighbour::claim(answer).is_none_or(|claim| claim.ip == query.target));
    assert_eq!(neighbour::query(answer), None);
}

/// Whatever is said of groups is about some that are told apart.
fn wants(frame: Frame<'_>) {
    group::sort(frame);
    if let Some(Message::Report(mut records)) = group::message(frame) {
        assert!(records.all(|record| group::is_told_apart(record.group)));
    }
}

/// The frame as it leaves has the same stations and the same payload, and the port's own rule finds it in the VLAN that
/// it came in by: nobody hops.
fn goes_out(ingress: &Port<()>, frame: Frame<'_>, egress: &Port<()>, retag: Retag) {
    let class = ingress.vlan.classify(frame).expect("it was let in");
    let out = Outgoing::new(frame, retag);
    let bytes = out.parts().concat();
    assert_eq!(bytes.len(), out.len());
    assert_eq!(bytes[..12], frame.bytes()[..12]);
    assert!(out.payload_len() <= frame.bytes().len() && bytes.len().abs_diff(frame.bytes().len()) <= 4);
    let behind = bytes.len().min(frame.bytes().len()).saturating_sub(12 + Tag::LEN);
    assert!(bytes.ends_with(&frame.bytes()[frame.bytes().len() - behind..]));
    let Some(again) = Frame::checked(&bytes) else { panic!("a runt came out: {bytes:02x?}") };
    match egress.vlan.classify(again) {
        Ok(found) => assert_eq!(found.vid, class.vid, "{bytes:02x?}"),
        // An access port gives the customer his own tag back.
        Err(_) => assert!(matches!(egress.vlan, VlanRule::Access(_)) && frame.is_double_tagged()),
    }
}

fn port(slot: u32, choice: u8) -> Port<()> {
    let vid = |number| Vid::new(number).expect("a VID");
    let mut allowed = VidSet::empty();
    (1..=3).for_each(|number| allowed.insert(vid(number)));
    let vlan = match choice & 7 {
        0..=2 => VlanRule::Transparent,
        3 => VlanRule::Access(vid(1)),
        4 => VlanRule::Access(vid(2)),
        5 => VlanRule::Trunk { allowed, native: None },
        6 => VlanRule::Trunk { allowed, native: Some(vid(1)) },
        _ => VlanRule::Trunk { allowed: VidSet::empty(), native: Some(vid(7)) },
    };
    let limited = choice & 128 != 0;
    let rates = StormRates { broadcast: Some(1), multicast: Some(2), unknown: Some(1) };
    Port {
        slot: Slot(slot),
        number: slot + 1,
        vlan,
        isolated: choice & 8 != 0,
        bpdu: choice & 16 != 0,
        macs: if choice & 32 != 0 { vec![MacAddr::new([2, 0, 0, 0, 0, 1]), OWN] } else { Vec::new() },
        remote: slot == 3,
        rate: limited.then(|| Arc::new(Policer::of_bits(8_000))),
        ethertypes: if choice & 64 != 0 { vec![EtherType(0x0800), EtherType(0x0806)] } else { Vec::new() },
        storm: limited.then(|| Arc::new(Storm::new(rates))),
        heard: Arc::new(Policer::of_frames(1)),
        asked: Arc::new(Policer::of_frames(1)),
        max_macs: if limited { 2 } else { u32::MAX },
        gate: Default::default(),
        counters: Default::default(),
        egress: (),
    }
}
