//! A port whose link goes over to another far end while the one before still works. For a moment it is in the same network
//! twice, by two connections, and must not join them.
//!
//! It sends by the new connection alone. So what the old one brings may be our own, gone round by the new one, or what the
//! new one brings too: it is for stations of other ports alone, from who is not at one of these. What we sent last by the
//! old one may come back by the new one, from stations of ours. Who goes over to the far end in that moment is heard
//! from there a little later.

use super::counters::Reason;
use super::forward::{Now, Port, Switch, Table};
use crate::frame::{Frame, MacAddr};

/// Which of the two connections a frame came by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moving {
    /// Nothing is sent by it any more.
    Before,
    /// It has just taken that one's place.
    After,
}

impl<E> Switch<E> {
    /// Whether a frame that came in at `ingress` by one of them is to be judged as any other.
    pub fn comes_once(
        &self,
        table: &Table<E>,
        ingress: &Port<E>,
        frame: Frame<'_>,
        moving: Moving,
        now: Now,
    ) -> Result<(), Reason> {
        // One in no VLAN of the port is dropped for that.
        let Ok(class) = ingress.vlan.classify(frame) else { return Ok(()) };
        let is_elsewhere = |station: MacAddr| {
            let slot = self.fdb.lookup(class.vid, station, now.seconds());
            slot.is_some_and(|slot| slot != ingress.slot && table.get(slot).is_some())
        };
        let is_ours = self.is_own_probe(frame) || is_elsewhere(frame.src());
        let is_for_us = || !frame.dst().is_group() && is_elsewhere(frame.dst());
        match moving {
            Moving::Before if is_ours || !is_for_us() => Err(Reason::LinkMoved),
            Moving::After if is_ours => Err(Reason::LinkMoved),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Vid;
    use crate::switch::VlanRule;
    use crate::switch::forward::Slot;
    use crate::switch::forward::tests::{ALL, NOW, X, Y, frame, send, switch};

    /// At no port.
    const Z: &str = "02:00:00:00:00:0c";
    const GROUP: &str = "01:00:5e:00:00:05";

    #[test]
    fn two_connections_of_a_port_bring_each_frame_once_and_none_of_ours() {
        let mut switch = switch(|_| ());
        switch.probe_source = Some(Z.parse().unwrap());
        // X is at another port, Y behind the link, which is in slot 2.
        send(&switch, 0, ALL, X);
        send(&switch, 2, ALL, Y);
        let table = switch.table().load();
        let link = table.get(Slot(2)).unwrap();
        let comes = |dst: &str, src: &str| {
            let bytes = frame(dst, src);
            let frame = Frame::checked(&bytes).unwrap();
            let by = |moving| switch.comes_once(&table, link, frame, moving, NOW).is_ok();
            (by(Moving::Before), by(Moving::After))
        };
        for (dst, src, before, after) in [
            (X, Y, true, true),
            (X, "02:00:00:00:00:0d", true, true),
            // Nobody knows whom it is for, or all get it: the other one brings it too.
            ("02:00:00:00:00:0d", Y, false, true),
            (ALL, Y, false, true),
            (GROUP, Y, false, true),
            // For the far end, which has two connections to us.
            (Y, "02:00:00:00:00:0d", false, true),
            // Ours.
            (ALL, X, false, false),
            (Y, X, false, false),
            ("03:65:77:6c:6f:6f", Z, false, false),
        ] {
            assert_eq!(comes(dst, src), (before, after), "{src} to {dst}");
        }
    }

    #[test]
    fn a_station_is_ours_in_its_vlan_alone() {
        let vid = Vid::new(7).unwrap();
        let switch = switch(|port| {
            if port.slot != Slot(0) {
                port.vlan = VlanRule::Access(vid);
            }
        });
        // In no VLAN; the link is in VLAN 7.
        send(&switch, 0, ALL, X);
        let table = switch.table().load();
        let bytes = frame(ALL, X);
        let (link, frame) = (table.get(Slot(2)).unwrap(), Frame::checked(&bytes).unwrap());
        assert_eq!(switch.comes_once(&table, link, frame, Moving::After, NOW), Ok(()));
        send(&switch, 1, ALL, X);
        assert_eq!(switch.comes_once(&table, link, frame, Moving::After, NOW), Err(Reason::LinkMoved));
    }
}
