//! Frames, tagged in any way, through a switch of four ports: who gets them, with which tag, and what was learned.

use std::sync::Arc;
use std::time::Duration;

use etherws::frame::eth::Outgoing;
use etherws::frame::group::{self, Message};
use etherws::frame::neighbour::{self, MAX_ANSWER, Role};
use etherws::frame::{Frame, MIN_FRAME, MacAddr, Retag, Tag, Vid, VidSet};
use etherws::switch::guard::Policer;
use etherws::switch::{Fdb, Now, Port, Reason, Slot, Switch, Verdict, VlanRule};

/// Four bytes choose the ports' rules; then come frames, each behind its ingress port and its length.
pub fn run(data: &[u8]) {
    let Some((rules, mut rest)) = data.split_first_chunk::<4>() else { return };
    let switch = Switch::new(Fdb::new(16, 300, [1, 2]));
    (0..).zip(rules).for_each(|(slot, choice)| switch.put(port(slot, *choice)));
    let table = switch.table().load();
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
        let verdict = switch.forward(&table, ingress, frame, 1, now, &mut ());
        let heard = ingress.vlan.classify(frame);
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
        let source = frame.src();
        let refused = match heard {
            _ if source.is_group() || source.is_zero() => Some(Reason::BadSource),
            Err(reason) => Some(reason),
            Ok(_) if frame.dst().is_reserved() && !ingress.bpdu => Some(Reason::ReservedGroup),
            Ok(_) => None,
        };
        if let Some(reason) = refused {
            assert_eq!(verdict, Verdict::Drop(reason));
        }
        let stations = switch.fdb.stations(now.seconds());
        assert!(stations.len() <= 16);
        assert!(
            stations
                .iter()
                .all(|station| !station.mac.is_group() && !station.mac.is_zero() && station.vid < 4095)
        );
        if let (Ok(class), Verdict::Unicast(..) | Verdict::Flood(_)) = (heard, verdict) {
            assert_eq!(
                switch.fdb.lookup(class.vid, source, now.seconds()),
                Some(ingress.slot),
                "not learned"
            );
        }
    }
}

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
    Port {
        slot: Slot(slot),
        number: slot + 1,
        vlan,
        isolated: choice & 8 != 0,
        bpdu: choice & 16 != 0,
        macs: Vec::new(),
        remote: false,
        rate: None,
        ethertypes: Vec::new(),
        storm: None,
        heard: Arc::new(Policer::of_frames(1)),
        asked: Arc::new(Policer::of_frames(1)),
        max_macs: u32::MAX,
        gate: Default::default(),
        counters: Default::default(),
        egress: (),
    }
}
