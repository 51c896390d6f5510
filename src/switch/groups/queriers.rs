//! Who asks besides this switch, and behind which ports there are routers.

use core::net::IpAddr;
use std::time::Duration;

use super::timers::ROBUSTNESS;
use super::{Area, Groups, Querier, ROUTERS, State};
use crate::frame::MacAddr;
use crate::frame::group::{self, Query};

impl Groups {
    /// What somebody asks in a VLAN.
    pub(super) fn queried(
        &mut self,
        vid: u16,
        (port, to_all): (u32, bool),
        src: MacAddr,
        query: &Query,
        now: Duration,
    ) {
        let v6 = query.source.is_ipv6();
        let timers = self.timers;
        let until = now + timers.querier(query);
        let (mac, own) = (self.mac, v6.then(|| IpAddr::from(group::link_local(self.mac))));
        let Some(state) = self.area((vid, v6), now) else { return };
        if let Some(group) = query.group {
            let is_querier = matches!(state.querier, Querier::Other { port: its, .. } if its == port);
            if is_querier && query.decides && query.response < timers.interval {
                let until = now + query.response.max(timers.last()) * ROBUSTNESS;
                let members = self.members.get_mut(&(vid, group)).into_iter().flatten();
                members
                    .filter(|member| member.mute <= now)
                    .for_each(|member| member.until = member.until.min(until));
            }
            return;
        }
        let is_switch = query.source.is_unspecified();
        let wins = match state.querier {
            Querier::Own { .. } if is_switch => state.switch == Some(src) && src < mac,
            Querier::Own { .. } => own.is_none_or(|own| query.source < own),
            Querier::Other { source, .. } if is_switch => {
                source.is_unspecified() && state.switch == Some(src) && src < mac
            }
            Querier::Other { source, .. } => source.is_unspecified() || query.source <= source,
        };
        // Whoever waits for longer than that would have members forgotten that are there.
        if wins && to_all && query.response < timers.interval {
            state.querier = Querier::Other { source: query.source, port, until };
        }
        if !is_switch {
            self.note_router((vid, v6), port, until, now);
        }
    }

    /// There is a router behind a port, until then if not longer.
    pub(super) fn note_router(&mut self, area: Area, port: u32, until: Duration, now: Duration) {
        if self.area(area, now).is_none() {
            return;
        }
        let noted: usize = self.areas.values().map(|state| state.routers.len()).sum();
        let routers = self.areas.get_mut(&area).map(|state| &mut state.routers);
        let known = routers.filter(|routers| noted < ROUTERS || routers.contains_key(&port));
        let is_new = if let Some(routers) = known {
            let before = routers.get(&port).copied();
            routers.insert(port, until.max(before.unwrap_or(until)));
            before.is_none()
        } else if let Some(kept) = self.ports.get_mut(&port) {
            kept.routes.replace(until.max(kept.routes.unwrap_or(until))).is_none()
        } else {
            false
        };
        self.changed |= is_new;
    }
}

impl State {
    /// The other querier is gone, and we ask. Whoever comes and goes does not make us do so more often than that.
    pub(super) fn ask_soon(&mut self, now: Duration, startup: Duration) {
        let next = self.asked.map_or(now, |asked| now.max(asked + startup));
        self.querier = Querier::Own { next, sent: 0 };
    }
}
