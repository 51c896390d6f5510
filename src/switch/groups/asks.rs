//! The questions to be put, and how many there may be.

use core::net::IpAddr;
use std::collections::BTreeMap;
use std::time::Duration;

use super::Area;

/// Questions about single groups in a second; others have to wait for the next.
pub(super) const ASKS: usize = 1_024;
/// Of them, those out of one port: whoever joins and leaves again and again uses up his own.
pub(super) const OF_PORT: usize = 64;

/// Questions for all groups in a second out of single ports, before others have to wait.
pub(super) const OF_PORTS: usize = 4_096;

/// A question to be put.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ask {
    pub vid: u16,
    pub v6: bool,
    /// `None`: for all groups.
    pub group: Option<IpAddr>,
    /// Out of this port; `None`: of all.
    pub port: Option<u32>,
}

/// Those that wait, and what is left of this second's.
#[derive(Default)]
pub(super) struct Asks {
    waiting: Vec<Ask>,
    second: Duration,
    put: usize,
    of_ports: usize,
    by_port: BTreeMap<u32, usize>,
    /// Questions for all groups out of single ports to which answers may come, until then.
    open: BTreeMap<(Area, u32), Duration>,
}

impl Asks {
    /// For all groups: nothing keeps these off.
    pub fn general(&mut self, (vid, v6): Area, port: Option<u32>) {
        self.of_ports += usize::from(port.is_some());
        self.waiting.push(Ask { vid, v6, group: None, port });
    }

    /// Who is left behind a port, of a group or, `None`, of all: that is put once until its answers are there. `false`: it
    /// has to wait.
    pub fn last(&mut self, area: Area, group: Option<IpAddr>, port: u32, answered: Duration) -> bool {
        if group.is_none() && self.open.contains_key(&(area, port)) {
            return true;
        }
        let of_port = self.by_port.entry(port).or_default();
        let has_room = self.put < ASKS && *of_port < OF_PORT;
        if has_room {
            self.put += 1;
            *of_port += 1;
            let (vid, v6) = area;
            self.waiting.push(Ask { vid, v6, group, port: Some(port) });
            if group.is_none() {
                self.open.insert((area, port), answered);
            }
        }
        has_room
    }

    /// It is `now`.
    pub fn tick(&mut self, now: Duration) {
        self.open.retain(|_, answered| *answered > now);
        if now >= self.second + Duration::from_secs(1) {
            (self.second, self.put, self.of_ports) = (now, 0, 0);
            self.by_port.clear();
        }
    }

    /// Whether another port may be asked for all groups.
    pub fn has_room(&self) -> bool {
        self.of_ports < OF_PORTS
    }

    pub fn take(&mut self) -> Vec<Ask> {
        std::mem::take(&mut self.waiting)
    }
}
