//! What the data path goes by: who gets which group, made of what is known and never changed.
//!
//! A frame goes to the ports of its group, to the routers of its area, and to whoever gets everything. Each of these is
//! kept once, and they are put together when it is flooded; so all of it takes the room of what was said, however many
//! ports get everything.

use core::net::IpAddr;
use std::collections::HashMap;

use super::{Area, Groups, Port};
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
    /// Who gets everything, in order.
    pub(super) all: Vec<Slot>,
    sets: Vec<Set>,
    /// What sets are made of, one part behind the other.
    pub(super) slots: Vec<Slot>,
}

/// The only ones who get a frame: an index into [`Members`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Only(u32);

/// Who gets a frame, in three parts.
#[derive(Clone, Copy, Default, Debug)]
struct Set {
    own: Part,
    routers: Part,
    /// And whoever gets everything.
    all: bool,
}

/// So many slots from one on, in order.
#[derive(Clone, Copy, Default, Debug)]
struct Part {
    at: u32,
    len: u32,
}

/// The slots of a set in order, each once, whichever of its parts it is in.
#[derive(Clone, Default, Debug)]
pub struct Slots<'a>([&'a [Slot]; 3]);

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

    /// Them.
    pub fn slots(&self, only: Only) -> Slots<'_> {
        let Some(set) = self.sets.get(only.0 as usize) else { return Slots::default() };
        let part =
            |part: Part| self.slots.get(part.at as usize..).and_then(|rest| rest.get(..part.len as usize));
        let all = if set.all { &self.all[..] } else { &[] };
        Slots([part(set.own).unwrap_or_default(), part(set.routers).unwrap_or_default(), all])
    }

    fn part(&mut self, slots: impl Iterator<Item = Slot>) -> Part {
        let at = self.slots.len();
        self.slots.extend(slots);
        self.slots[at..].sort_unstable();
        Part { at: at as u32, len: (self.slots.len() - at) as u32 }
    }

    fn put(&mut self, set: Set) -> Only {
        self.sets.push(set);
        Only(self.sets.len() as u32 - 1)
    }
}

impl Slots<'_> {
    /// Whether one is among them.
    pub fn has(&self, slot: Slot) -> bool {
        self.0.iter().any(|part| part.binary_search(&slot).is_ok())
    }
}

impl Iterator for Slots<'_> {
    type Item = Slot;

    fn next(&mut self) -> Option<Slot> {
        let first = *self.0.iter().filter_map(|part| part.first()).min()?;
        for part in &mut self.0 {
            *part = &part[usize::from(part.first() == Some(&first))..];
        }
        Some(first)
    }
}

impl Groups {
    pub(super) fn snapshot(&self, place: impl Fn(u32) -> Option<Slot>) -> Members {
        let mut found = Members::default();
        let gets_all = |port: &Port| port.settles.or(port.full).or(port.routes).is_some();
        let all = self.ports.iter().filter(|(_, port)| gets_all(port));
        found.all.extend(all.filter_map(|(port, _)| place(*port)));
        found.all.sort_unstable();
        let elsewhere = self.ports.iter().filter(|(_, port)| port.routes.is_some());
        let own = found.part(elsewhere.filter_map(|(port, _)| place(*port)));
        let mut routers = HashMap::new();
        for (area, state) in &self.areas {
            let part = found.part(state.routers.keys().filter_map(|port| place(*port)));
            let set = Set { own, routers: part, all: false };
            let only = found.put(set);
            found.reports.insert(*area, only);
            if state.filters {
                let set = Set { all: true, ..set };
                let only = found.put(set);
                found.routers.insert(*area, only);
                routers.insert(*area, set);
            }
        }
        for (&(vid, group), members) in &self.members {
            let Some(set) = routers.get(&(vid, group.is_ipv6())) else { continue };
            let own = found.part(members.iter().filter_map(|member| place(member.port)));
            let only = found.put(Set { own, ..*set });
            found.groups.insert((vid, group), only);
        }
        found
    }
}
