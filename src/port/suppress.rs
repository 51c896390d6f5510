//! Suppression: a question that ARP or ND floods, answered from what stations said of themselves.

use super::egress::Egress;
use super::fabric::Fabric;
use crate::frame::Frame;
use crate::frame::neighbour::{self, MAX_ANSWER, MAX_LEN};
use crate::switch::{Now, Port, Table, Verdict};

/// What is looked at of a frame of ARP or ND; `None`: it is another one.
pub fn spoken(frame: Frame<'_>) -> Option<Frame<'_>> {
    let clear = &frame.bytes()[..frame.bytes().len().min(MAX_LEN)];
    // Pings are ICMPv6 too.
    Frame::checked(clear).filter(|frame| neighbour::may_be(*frame) && neighbour::is_one(*frame))
}

/// The answer to what [`spoken`] has of a frame that is about to be flooded, to go out of the port that it came in by; how
/// long it is.
///
/// `None`: the verdict stands. That is so for all that is not flooded, for all that is no plain question, for an address
/// that nobody is known to have, or more than one, for a station that the FDB does not know, that is on the asker's own
/// port, or that the asker could not reach.
pub fn answer(
    fabric: &Fabric,
    table: &Table<Egress>,
    ingress: &Port<Egress>,
    (frame, verdict): (Frame<'_>, Verdict),
    now: Now,
    out: &mut [u8; MAX_ANSWER],
) -> Option<usize> {
    let Verdict::Flood(_) = verdict else { return None };
    let known = fabric.known.load();
    let known = known.as_ref()?;
    let query = neighbour::query(frame)?;
    let class = ingress.vlan.classify(frame).ok()?;
    let (mac, role) = known.find(class.vid, query.target)?;
    let slot = fabric.switch.fdb.lookup(class.vid, mac, now.seconds())?;
    let port = table.get(slot)?;
    let reaches = slot != ingress.slot
        && port.gate.closed().is_none()
        && !(ingress.isolated && port.isolated)
        && port.vlan.egress(class).is_some();
    if !reaches || mac == frame.src() {
        return None;
    }
    neighbour::answer(frame, &query, mac, role, out)
}
