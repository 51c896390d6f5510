//! The switch beside a model of it: a map of stations and the rules of IEEE 802.1Q as anybody would write them down,
//! without buckets, generations or snapshots. Whatever happens in whatever order, both deliver the same bytes to the
//! same ports and know the same stations.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::guard::Policer;
use super::{Fdb, Now, Port, Slot, Switch, Verdict, VlanRule};
use crate::frame::eth::Outgoing;
use crate::frame::{Frame, MacAddr, Vid, VidSet};

/// Ports 0 to 3, stations 1 to 6, VLANs 1 to 3.
const PORTS: u32 = 4;
const STATIONS: u8 = 6;
const AGEOUT: u32 = 60;

#[derive(Clone, Debug)]
enum Op {
    /// From a port, station to station (0: everybody), perhaps with a tag; a second after what was before, so that
    /// no station moves too often.
    Frame {
        port: u32,
        src: u8,
        dst: u8,
        tag: Option<u16>,
    },
    Wait(u32),
    Flush(u32),
    /// The port gets this rule; it may be gone, or there already.
    Put(u32, Rule),
    Remove(u32),
    Static {
        vid: u16,
        station: u8,
        port: u32,
    },
    Delete {
        vid: u16,
        station: u8,
    },
    Sweep,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rule {
    Transparent,
    Access(u16),
    /// VLANs 1 and 2, and a native one.
    Trunk(Option<u16>),
}

fn op() -> impl Strategy<Value = Op> {
    let (port, station, vid) = (0..PORTS, 1..=STATIONS, 0..=3_u16);
    let rule = prop_oneof![
        3 => Just(Rule::Transparent),
        2 => (1..=3_u16).prop_map(Rule::Access),
        2 => proptest::option::of(1..=3_u16).prop_map(Rule::Trunk),
    ];
    let tag = prop_oneof![3 => Just(None), 2 => (0..=3_u16).prop_map(Some), 1 => Just(Some(4095))];
    prop_oneof![
        20 => (port.clone(), station.clone(), 0..=STATIONS, tag)
            .prop_map(|(port, src, dst, tag)| Op::Frame { port, src, dst, tag }),
        4 => (0..=AGEOUT + 5).prop_map(Op::Wait),
        1 => port.clone().prop_map(Op::Flush),
        2 => (port.clone(), rule).prop_map(|(port, rule)| Op::Put(port, rule)),
        1 => port.clone().prop_map(Op::Remove),
        1 => (vid.clone(), station.clone(), port)
            .prop_map(|(vid, station, port)| Op::Static { vid, station, port }),
        1 => (vid, station).prop_map(|(vid, station)| Op::Delete { vid, station }),
        1 => Just(Op::Sweep),
    ]
}

/// What leaves: bytes by port.
type Delivered = BTreeMap<u32, Vec<u8>>;

#[derive(Default)]
struct Model {
    ports: BTreeMap<u32, Rule>,
    stations: HashMap<(u16, u8), Known>,
    now: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Known {
    port: u32,
    /// When it was last heard; never, of a static entry.
    heard: Option<u32>,
}

impl Model {
    fn lives(&self, known: &Known) -> bool {
        known.heard.is_none_or(|heard| self.now - heard <= AGEOUT)
    }

    fn station(&self, vid: u16, station: u8) -> Option<Known> {
        self.stations.get(&(vid, station)).copied().filter(|known| self.lives(known))
    }

    fn frame(&mut self, port: u32, src: u8, dst: u8, tag: Option<u16>) -> Delivered {
        let nobody = Delivered::new();
        let Some(vid) = self.ports.get(&port).and_then(|rule| rule.vlan(tag)) else { return nobody };
        match self.station(vid, src) {
            Some(Known { port: other, heard: None }) if other != port => return nobody,
            Some(Known { heard: None, .. }) => (),
            _ => {
                self.stations.insert((vid, src), Known { port, heard: Some(self.now) });
            }
        }
        let to = self.station(vid, dst).map(|known| known.port).filter(|to| self.ports.contains_key(to));
        let others =
            self.ports.iter().filter(|(other, _)| **other != port && to.is_none_or(|to| to == **other));
        others.filter_map(|(other, rule)| Some((*other, bytes(dst, src, rule.tag(vid, tag)?)))).collect()
    }

    fn known(&self) -> BTreeMap<(u16, u8), (u32, Option<u32>)> {
        let alive = self.stations.iter().filter(|(_, known)| self.lives(known));
        alive.map(|(key, known)| (*key, (known.port, known.heard.map(|heard| self.now - heard)))).collect()
    }
}

impl Rule {
    /// The VLAN of a frame that comes in; nothing: it does not.
    fn vlan(self, tag: Option<u16>) -> Option<u16> {
        let outer = tag.unwrap_or(0);
        match self {
            _ if outer == 4095 => None,
            Self::Transparent => Some(outer),
            Self::Access(vid) => (outer == 0).then_some(vid),
            Self::Trunk(native) if outer == 0 => native,
            Self::Trunk(native) => (outer <= 2 || native == Some(outer)).then_some(outer),
        }
    }

    /// The tag with which a frame of `vid` goes out that came in with `tag`; nothing: it does not.
    fn tag(self, vid: u16, tag: Option<u16>) -> Option<Option<u16>> {
        let tagged = if vid == 0 { tag } else { Some(vid) };
        match self {
            Self::Transparent => Some(tagged),
            Self::Access(own) => (own == vid).then_some(None),
            Self::Trunk(Some(native)) if native == vid => Some(None),
            Self::Trunk(_) => matches!(vid, 1 | 2).then_some(tagged),
        }
    }

    fn real(self) -> VlanRule {
        let vid = |number| Vid::new(number).unwrap();
        match self {
            Self::Transparent => VlanRule::Transparent,
            Self::Access(number) => VlanRule::Access(vid(number)),
            Self::Trunk(native) => {
                let mut allowed = VidSet::empty();
                [1, 2].into_iter().for_each(|number| allowed.insert(vid(number)));
                VlanRule::Trunk { allowed, native: native.map(vid) }
            }
        }
    }
}

/// Station 0 is everybody.
fn mac(station: u8) -> MacAddr {
    if station == 0 { MacAddr::BROADCAST } else { MacAddr::from_bits(0x0200_0000_0000 | u64::from(station)) }
}

fn bytes(dst: u8, src: u8, tag: Option<u16>) -> Vec<u8> {
    let tag = tag.map(|vid| [[0x81, 0x00], vid.to_be_bytes()].concat()).unwrap_or_default();
    [&mac(dst).octets()[..], &mac(src).octets(), &tag, &[0x08, 0x00], &[src; 46]].concat()
}

fn port(slot: u32, rule: Rule) -> Port<()> {
    Port {
        slot: Slot(slot),
        number: slot + 1,
        vlan: rule.real(),
        isolated: false,
        bpdu: false,
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

/// What the switch delivers.
fn forward(switch: &Switch<()>, ingress: u32, bytes: &[u8], now: u32) -> Delivered {
    let table = switch.table().load();
    let Some(ingress) = table.get(Slot(ingress)) else { return Delivered::new() };
    let frame = Frame::checked(bytes).unwrap();
    let leaves = |slot: Slot, retag| (slot.0, Outgoing::new(frame, retag).parts().concat());
    match switch.forward(&table, ingress, frame, 1, Now(Duration::from_secs(now.into())), &mut ()) {
        Verdict::Drop(_) => Delivered::new(),
        Verdict::Unicast(slot, retag) => [leaves(slot, retag)].into(),
        Verdict::Flood(flood) => {
            table.flood(flood, false).map(|(port, retag)| leaves(port.slot, retag)).collect()
        }
    }
}

fn known(fdb: &Fdb, now: u32) -> BTreeMap<(u16, u8), (u32, Option<u32>)> {
    let stations = fdb.stations(now).into_iter();
    let entry =
        |s: super::fdb::Station| ((s.vid, s.mac.octets()[5]), (s.slot.0, Some(s.age).filter(|_| !s.fixed)));
    stations.map(entry).collect()
}

proptest! {
    #[test]
    fn the_switch_does_what_the_model_does(ops in proptest::collection::vec(op(), 1..150), seeds: [u64; 2]) {
        let switch = Switch::new(Fdb::new(64, AGEOUT, seeds));
        let mut model = Model::default();
        for slot in 0..PORTS {
            switch.put(port(slot, Rule::Transparent));
            model.ports.insert(slot, Rule::Transparent);
        }
        for op in ops {
            match op {
                Op::Frame { port, src, dst, tag } => {
                    model.now += 1;
                    let delivered = forward(&switch, port, &bytes(dst, src, tag), model.now);
                    prop_assert_eq!(delivered, model.frame(port, src, dst, tag), "{:?}", op);
                }
                Op::Wait(seconds) => model.now += seconds,
                Op::Flush(port) => {
                    switch.fdb.flush(Slot(port));
                    model.stations.retain(|_, known| known.port != port || known.heard.is_none());
                }
                Op::Put(slot, rule) => {
                    switch.put(port(slot, rule));
                    model.ports.insert(slot, rule);
                }
                Op::Remove(port) => {
                    switch.remove(Slot(port));
                    model.ports.remove(&port);
                    model.stations.retain(|_, known| known.port != port);
                }
                Op::Static { vid, station, port } => {
                    prop_assert!(switch.fdb.insert_static(vid, mac(station), Slot(port)));
                    model.stations.insert((vid, station), Known { port, heard: None });
                }
                Op::Delete { vid, station } => {
                    let gone = switch.fdb.delete(vid, mac(station), model.now);
                    prop_assert_eq!(gone.map(|s| s.slot.0), model.station(vid, station).map(|k| k.port));
                    model.stations.remove(&(vid, station));
                }
                Op::Sweep => switch.fdb.sweep(model.now),
            }
            prop_assert_eq!(known(&switch.fdb, model.now), model.known());
        }
    }
}
