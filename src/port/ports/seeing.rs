//! Looking at the switch without changing it: captures, what would become of a frame, a link's round trip.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::entry::{Entry, State};
use super::fdb::check_vid;
use super::{PortError, Ports};
use crate::frame::eth::TPID_8021Q;
use crate::frame::neighbour::MAX_ANSWER;
use crate::frame::{EtherType, Frame, MAX_FRAME, MacAddr, Retag, Tag};
use crate::port::capture::{Captures, MAX_CAPTURES, Running, Wanted};
use crate::port::egress::Departing;
use crate::port::fabric::{Snapshot, checked};
use crate::port::spec::{PortKind, PortRef};
use crate::port::status::{PingStatus, Traced, TracedStep, TracedWay};
use crate::port::suppress;
use crate::switch::trace::Step;
use crate::switch::{Reason, Slot, Verdict};

/// A frame to be traced.
pub enum Example {
    /// All of it.
    Whole(Vec<u8>),
    /// The shortest there is. `src`: of the port's station that was heard last, unless it is given.
    Short { src: Option<MacAddr>, dst: MacAddr, vid: u16, ethertype: EtherType },
}

impl Ports {
    /// The number of a port.
    pub fn number(&self, port: &PortRef) -> Result<u32, PortError> {
        self.find(port).map(|entry| entry.number)
    }

    /// Who looks on.
    pub fn captures(&self) -> &Arc<Captures> {
        &self.fabric.captures
    }

    /// Begins a capture, which lasts as long as what is returned.
    pub fn capture(&self, wanted: Wanted) -> Result<Running, PortError> {
        self.captures().begin(wanted).ok_or_else(|| {
            PortError::Failed(format!("{MAX_CAPTURES} captures run already; end one of them first"))
        })
    }

    /// What the switch would do with a frame that came in at `port` now; absent: at the port where its source is known.
    pub fn trace(&self, port: Option<&PortRef>, example: Example) -> Result<Traced, PortError> {
        let entry = match (port, &example) {
            (Some(port), _) => self.find(port)?,
            (None, Example::Whole(bytes)) => self.home_of(bytes)?,
            (None, Example::Short { .. }) => {
                return Err(PortError::Invalid("port: name the port that the frame comes in by".to_owned()));
            }
        };
        if entry.life().state == State::Listening {
            return Err(PortError::Invalid(format!(
                "no frame passes port {}, which listens: name a machine's port",
                entry.number
            )));
        }
        let bytes = match example {
            Example::Whole(bytes) => bytes,
            Example::Short { src, dst, vid, ethertype } => {
                check_vid(vid)?;
                let src = src.unwrap_or_else(|| self.somebody_at(&entry));
                short(dst, src, vid, ethertype)
            }
        };
        let table = self.fabric.table();
        let ingress = table.get(entry.slot).filter(|port| port.number == entry.number);
        let ingress = ingress.ok_or_else(|| PortError::NotFound(format!("port {} is gone", entry.number)))?;
        let mut traced = Traced {
            port: entry.number,
            name: entry.name(),
            len: bytes.len() as u32,
            src: String::new(),
            dst: String::new(),
            verdict: "drop".to_owned(),
            reason: None,
            steps: Vec::new(),
            egress: Vec::new(),
        };
        let frame = match checked(&bytes) {
            Ok(frame) => frame,
            Err(reason) => {
                let why = format!("{} bytes; a frame has 14 to {MAX_FRAME}", bytes.len());
                let reason = Some(reason.name().to_owned());
                traced.steps.push(TracedStep { check: "length".to_owned(), reason: reason.clone(), why });
                return Ok(Traced { reason, ..traced });
            }
        };
        (traced.src, traced.dst) = (frame.src().to_string(), frame.dst().to_string());
        let now = self.fabric.now();
        let mut trace = self.fabric.switch.trace(&table, ingress, frame, 1, now);
        if let (Some(verdict), Some(clear)) = (trace.verdict, suppress::spoken(frame))
            && suppress::answer(&self.fabric, &table, ingress, (clear, verdict), now, &mut [0; MAX_ANSWER])
                .is_some()
        {
            let why = "a question for an address that is known: the switch answers it".to_owned();
            trace.steps.push(Step { check: "neighbours", reason: Some(Reason::Suppressed), why });
            (trace.verdict, trace.ways) = (Some(Verdict::Drop(Reason::Suppressed)), Vec::new());
        }
        traced.steps.extend(trace.steps.into_iter().map(|step| TracedStep {
            check: step.check.to_owned(),
            reason: step.reason.map(|reason| reason.name().to_owned()),
            why: step.why,
        }));
        let ways: Vec<_> =
            trace.ways.into_iter().filter_map(|(slot, way)| self.way(&table, frame, slot, way)).collect();
        let reason = match trace.verdict {
            Some(Verdict::Drop(reason)) => Some(reason.name()),
            // As `Batch::deliver` counts it: what a port then refuses is that port's drop.
            Some(Verdict::Flood(flood)) if !ways.iter().any(|(goes, _)| *goes) => Some(flood.nobody().name()),
            _ => None,
        };
        traced.verdict = match (trace.verdict, reason) {
            (Some(Verdict::Unicast(..)), None) => "unicast",
            (Some(Verdict::Flood(_)), None) => "flood",
            _ => "drop",
        }
        .to_owned();
        traced.egress = ways.into_iter().map(|(_, way)| way).collect();
        Ok(Traced { reason: reason.map(str::to_owned), ..traced })
    }

    /// A way that was thought of, and whether the switch itself would take it.
    fn way(
        &self,
        table: &Snapshot,
        frame: Frame<'_>,
        slot: Slot,
        way: Result<Retag, Reason>,
    ) -> Option<(bool, TracedWay)> {
        let port = table.get(slot)?;
        let name = self.entries().get(&port.number).map(|entry| entry.name()).unwrap_or_default();
        let refused = |retag: Retag| port.egress.refuses(&Departing::new(frame, retag, None));
        let reason = way.map_or_else(Some, refused).map(|reason| reason.name().to_owned());
        let tag = way.map_or_else(|_| String::new(), tag_text);
        Some((way.is_ok(), TracedWay { port: port.number, name, reason, tag }))
    }

    /// The port where a frame's source was heard last, in any VLAN.
    fn home_of(&self, bytes: &[u8]) -> Result<Arc<Entry>, PortError> {
        let unknown = |what: String| PortError::Invalid(format!("port: {what}; name the port (--from)"));
        let frame = checked(bytes).map_err(|_| unknown("that is no whole frame".to_owned()))?;
        self.at_home(frame.src(), None).map_err(|_| unknown(format!("nobody has heard {}", frame.src())))
    }

    /// The port where a station was heard last.
    fn at_home(&self, mac: MacAddr, vid: Option<u16>) -> Result<Arc<Entry>, PortError> {
        let stations = self.fabric.switch.fdb.stations(self.fabric.now().seconds());
        let its =
            stations.into_iter().filter(|known| known.mac == mac && vid.is_none_or(|vid| known.vid == vid));
        let slot = its.min_by_key(|known| known.age).map(|known| known.slot);
        let entries = self.entries();
        let entry = entries.values().find(|entry| Some(entry.slot) == slot).cloned();
        entry.ok_or_else(|| {
            PortError::NotFound(format!("no port is known to have {mac}; listfdb shows those that are"))
        })
    }

    /// A station of a port: one heard there, or its device, or nobody.
    fn somebody_at(&self, entry: &Entry) -> MacAddr {
        let stations = self.fabric.switch.fdb.stations(self.fabric.now().seconds());
        let heard =
            stations.into_iter().filter(|known| known.slot == entry.slot).min_by_key(|known| known.age);
        let device = || entry.device().map(|device| device.mac()).filter(|mac| !mac.is_zero());
        heard.map(|known| known.mac).or_else(device).unwrap_or(NOBODY)
    }

    /// The round trip of a port's link, or of the link behind which a station is. No frame goes anywhere.
    pub async fn ping_port(&self, whose: &Whose, limit: Duration) -> Result<PingStatus, PortError> {
        let entry = match whose {
            Whose::Port(port) => self.find(port)?,
            Whose::Station(mac, vid) => self.at_home(*mac, *vid)?,
        };
        let number = entry.number;
        let no_link =
            |what: &str| PortError::Invalid(format!("port {number} is {what}: it has no link to measure"));
        let link = match (entry.kind, entry.link()) {
            (PortKind::Client | PortKind::Server, Some(link)) => link,
            (PortKind::Tap, _) => return Err(no_link("a TAP")),
            (PortKind::Netdev, _) => return Err(no_link("a network device")),
            _ => return Err(no_link("a virtual machine's")),
        };
        let answer = match link.ping() {
            Ok(answer) => timeout(limit, answer).await.map_err(|_| "no answer in time".to_owned()),
            Err(why) => Err(why.to_owned()),
        };
        let (rtt, why) = match answer {
            Ok(Ok(rtt)) => (Some(rtt.as_nanos() as u64), None),
            Ok(Err(_)) => (None, Some("too many others measure".to_owned())),
            Err(why) => (None, Some(why)),
        };
        let peer = entry.life().peer.clone();
        Ok(PingStatus { port: number, name: entry.name(), peer, rtt_ns: rtt, why })
    }
}

/// Whose link is measured.
pub enum Whose {
    Port(PortRef),
    /// In this VLAN, or in any.
    Station(MacAddr, Option<u16>),
}

/// The shortest frame on a cable without its checksum, padded with zeroes.
fn short(dst: MacAddr, src: MacAddr, vid: u16, ethertype: EtherType) -> Vec<u8> {
    let tag = (vid != 0).then(|| Tag { tpid: TPID_8021Q, tci: vid }.bytes());
    let tag = tag.as_ref().map_or(&[][..], |tag| &tag[..]);
    let mut bytes = [&dst.octets()[..], &src.octets(), tag, &ethertype.0.to_be_bytes()].concat();
    bytes.resize(60 + tag.len(), 0);
    bytes
}

fn tag_text(retag: Retag) -> String {
    let vlan = |tag: Tag| format!("VLAN {}", tag.vid());
    match retag {
        Retag::Keep => "as it came".to_owned(),
        Retag::Pop => "its tag taken off".to_owned(),
        Retag::Replace(tag) => format!("its tag replaced: {}", vlan(tag)),
        Retag::Push(tag) => format!("a tag put on: {}", vlan(tag)),
    }
}

/// Who sends where nobody has been heard: locally administered.
const NOBODY: MacAddr = MacAddr::new([0x02, 0, 0, 0, 0, 0x01]);
