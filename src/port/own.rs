//! Frames that came in nowhere: the switch's own, and those that it sends in the name of stations.

use super::egress::{At, Departing, Egress};
use super::fabric::Fabric;
use crate::frame::{Frame, Retag};
use crate::switch::{Flood, Port, Slot};

impl Fabric {
    /// Sends a finished frame of the switch's own out of port `number` in `slot`, whatever its gate says.
    pub fn send_own(&self, slot: Slot, number: u32, bytes: &[u8]) {
        let table = self.table();
        let port = table.get(slot).filter(|port| port.number == number);
        if let (Some(port), Some(frame)) = (port, Frame::checked(bytes)) {
            self.send_alone(port, frame, Retag::Keep);
        }
    }

    /// Sends a finished frame in the name of a station behind the port in `from`: to those ports of its VLAN that
    /// may have it and that are `wanted`.
    pub fn send_for(&self, from: Slot, bytes: &[u8], wanted: impl Fn(&Port<Egress>) -> bool) {
        let table = self.table();
        let port = table.get(from).filter(|port| port.gate.closed().is_none());
        let (Some(port), Some(frame)) = (port, Frame::checked(bytes)) else { return };
        let Some(flood) = Flood::of(frame, port) else { return };
        let egress = table.flood(flood, false).filter(|(port, _)| wanted(port));
        egress.for_each(|(port, retag)| self.send_alone(port, frame, retag));
    }

    /// Sends a finished frame of the switch's own to the ports of its VLAN that are open, or to port `number` in a slot
    /// alone if it is one of them.
    pub fn send_in(&self, bytes: &[u8], to: Option<(Slot, u32)>) {
        let table = self.table();
        let Some(frame) = Frame::checked(bytes) else { return };
        let Some(flood) = Flood::own(frame) else { return };
        match to {
            Some((slot, number)) => {
                let port = table.flood_to(flood, slot).filter(|(port, _)| port.number == number);
                port.into_iter().for_each(|(port, retag)| self.send_alone(port, frame, retag));
            }
            None => {
                table.flood(flood, false).for_each(|(port, retag)| self.send_alone(port, frame, retag));
            }
        }
    }

    /// Sends a frame that belongs to no batch.
    fn send_alone(&self, port: &Port<Egress>, frame: Frame<'_>, retag: Retag) {
        let departing = Departing::new(frame, retag, None);
        let watch = self.captures.watch();
        let at = At { watch: &watch, port: port.number };
        // So that what goes out came in somewhere.
        port.counters.copied(1);
        let taken = match &port.egress {
            Egress::Device(device) => device.send(&departing, &port.counters, at),
            Egress::Link(link) => link.send(&departing, self.now(), &mut ()),
        };
        at.left(&departing, taken.err());
        match (taken, &port.egress) {
            (Ok(true), Egress::Device(device)) => _ = device.flush(&port.counters, at),
            (Ok(true), Egress::Link(link)) => link.flush(&mut ()),
            (Ok(false), _) => (),
            (Err(reason), _) => port.counters.dropped(reason),
        }
    }
}
