//! What the data path goes by: who gets which group, made of what is known and never changed.

use core::net::IpAddr;
use std::collections::{BTreeMap, HashMap};

use super::{Area, Groups};
use crate::frame::Frame;
use crate::frame::group::{self, Sort};
use crate::switch::forward::Slot;

/// Who gets what, by VLAN and group.
#[derive(Default, Debug)]
pub struct Members {
    pub(super) groups: HashMap<(u16, IpAddr), Only>,
    /// Who gets what nobody has asked for.
    pub(super) routers: HashMap<Area, Only>,
    /// Who hears what hosts say to routers.
    pub(super) reports: HashMap<Area, Only>,
    sets: Vec<Box<[Slot]>>,
}

/// The only ones who get a frame: an index into [`Members`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Only(u32);

impl Members {
    /// Who gets a frame of this VLAN; `None`: everybody, as ever.
    pub fn only(&self, vid: u16, frame: Frame<'_>) -> Option<Only> {
        match group::sort(frame)? {
            Sort::To(group) => {
                let found = self.groups.get(&(vid, group));
                found.or_else(|| self.routers.get(&(vid, group.is_ipv6()))).copied()
            }
            Sort::Report { v6 } => self.reports.get(&(vid, v6)).copied(),
            Sort::Notice => None,
        }
    }

    /// Them, in order.
    pub fn slots(&self, only: Only) -> &[Slot] {
        self.sets.get(only.0 as usize).map_or(&[], |set| set)
    }

    fn put(&mut self, mut slots: Vec<Slot>) -> Only {
        slots.sort_unstable();
        slots.dedup();
        self.sets.push(slots.into());
        Only(self.sets.len() as u32 - 1)
    }
}

impl Groups {
    pub(super) fn snapshot(&self, place: impl Fn(u32) -> Option<Slot>) -> Members {
        let mut found = Members::default();
        let gets_all = self.ports.iter().filter(|(_, port)| port.settles.or(port.full).is_some());
        let all: Vec<Slot> = gets_all.filter_map(|(port, _)| place(*port)).collect();
        let mut routers = BTreeMap::new();
        for (area, state) in &self.areas {
            let mut slots: Vec<Slot> = state.routers.keys().filter_map(|port| place(*port)).collect();
            let only = found.put(slots.clone());
            found.reports.insert(*area, only);
            if !state.filters {
                continue;
            }
            slots.extend(&all);
            let only = found.put(slots.clone());
            found.routers.insert(*area, only);
            routers.insert(*area, slots);
        }
        for (&(vid, group), members) in &self.members {
            let Some(routers) = routers.get(&(vid, group.is_ipv6())) else { continue };
            let slots = members.iter().filter_map(|member| place(member.port));
            let only = found.put(slots.chain(routers.iter().copied()).collect());
            found.groups.insert((vid, group), only);
        }
        found
    }
}
