//! Groups: behind which ports somebody wants which multicast group, as hosts say in IGMP and MLD (RFC 4541).
//!
//! It is kept by the control side, from copies of such messages that the data path leaves; what it comes to is given to
//! the data path as [`Members`], which is never changed.
//!
//! In a VLAN that somebody asks for its members (a *querier*: a router, or this switch in want of one), packets to a
//! group go to the ports that a member was heard on and to those that a router is behind, and what hosts say to routers
//! goes to these alone. IPv4 and IPv6 are told apart; each of them in each VLAN is an *area*. An area is flooded as ever
//! until it has been asked for so long that every member must have answered. A port that has just come up gets everything
//! for as long, and so does one that said more than could be listened to. What is unsure is flooded.
//!
//! **Querier.** Of two the one with the lower address asks, the other keeps silent for as long as it hears that. This
//! switch has no address in IPv4 and gives way to everybody who has. When the other one has fallen silent for long enough,
//! or his port is gone, this switch asks at once and then as in the beginning. Of switches like this one, which say by an
//! advertisement that they ask, it is the one with the lower MAC address. One that keeps silent has a router behind
//! the port where it hears the other: all multicast goes there, and so whoever asks sees all members. Nobody takes that
//! place by less than questions that all hosts hear, and answer: not from an isolated port, nor by an advertisement.
//!
//! **Reports** go to routers alone from the first question on, before anything else is told apart: a host of an older
//! version that heard another's would not say anything itself.
//!
//! **Bounds.** A port has [`SHARE`] memberships at most, and all have [`LIMIT`]. A port for which there is no room gets
//! everything until it could have said that it wants less: nobody goes without what he asked for because of others.
//! There are [`AREAS`] at most; others are flooded. Where routers are is noted [`ROUTERS`] times; of more the ports are, and
//! get everything. Questions about single groups are so many a second, of a port and in all; those for all groups are not
//! kept off by anything. Whatever a port says counts for that port alone, but for queries:
//! one that is not to be answered soon is not believed.

mod asks;
mod members;
mod queriers;
#[cfg(test)]
mod tests;
mod timers;

use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

pub use self::asks::Ask;
use self::asks::Asks;
pub use self::members::{Members, Only, Slots};
use self::timers::ROBUSTNESS;
pub use self::timers::Timers;
use super::forward::Slot;
use crate::frame::MacAddr;
use crate::frame::group::{Message, Records, Says};

/// Memberships of one port.
pub const SHARE: usize = 1_024;
/// Memberships in all.
pub const LIMIT: usize = 32_768;
/// VLANs that are snooped, IPv4 and IPv6 by themselves.
pub const AREAS: usize = 256;

/// Routers that are noted, each by its port and area.
pub const ROUTERS: usize = 4_096;

/// A VLAN, 0 where there is none, and whether it is about IPv6.
type Area = (u16, bool);

/// Time is since any fixed start.
pub struct Groups {
    timers: Timers,
    /// Whom our questions come from.
    mac: MacAddr,
    areas: BTreeMap<Area, State>,
    /// In the order of ports.
    members: HashMap<(u16, IpAddr), Vec<Member>>,
    /// Memberships by port.
    shares: BTreeMap<u32, usize>,
    total: usize,
    ports: BTreeMap<u32, Port>,
    asks: Asks,
    /// What [`Members`] says is different from what it said last.
    changed: bool,
}

/// Who asks in an area.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Querier {
    /// This switch: when next, after so many times.
    Own { next: Duration, sent: u32 },
    /// Behind this port somebody else, until he hasn't been heard for too long.
    Other { source: IpAddr, port: u32, until: Duration },
}

/// One group, for people: the ports, and in how long each will be forgotten.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    pub vid: u16,
    pub group: IpAddr,
    pub ports: Vec<(u32, Duration)>,
}

/// One area, for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Asked {
    pub vid: u16,
    pub v6: bool,
    pub querier: Querier,
    /// Groups are told apart by now.
    pub filters: bool,
    /// The ports with routers, and in how long each will be forgotten.
    pub routers: Vec<(u32, Duration)>,
}

struct State {
    /// When we asked first, and last.
    since: Option<Duration>,
    asked: Option<Duration>,
    querier: Querier,
    routers: BTreeMap<u32, Duration>,
    /// The last one to advertise itself that has no address.
    switch: Option<MacAddr>,
    filters: bool,
}

struct Member {
    port: u32,
    until: Duration,
    /// Until then somebody is there who doesn't say when he leaves.
    mute: Duration,
    /// How often we have asked whether anybody is left.
    asked: u32,
}

/// A port gets everything while one of these times is to come.
struct Port {
    /// Another one when what is known of it is not sure any more.
    life: u64,
    settles: Option<Duration>,
    /// It is to be asked, from then on, and does not settle before.
    doubted: Option<Duration>,
    /// Not before then: whoever goes on to give reason for doubt is not asked all the time.
    next: Duration,
    full: Option<Duration>,
    /// A router is there for whom there was no room: what hosts say to routers goes there as well, in every area.
    routes: Option<Duration>,
}

impl Groups {
    /// Questions come from `mac`.
    pub fn new(timers: Timers, mac: MacAddr) -> Self {
        Self {
            timers,
            mac,
            areas: BTreeMap::new(),
            members: HashMap::new(),
            shares: BTreeMap::new(),
            total: 0,
            ports: BTreeMap::new(),
            asks: Asks::default(),
            changed: true,
        }
    }

    pub fn timers(&self) -> Timers {
        self.timers
    }

    /// Where questions come from.
    pub fn mac(&self) -> MacAddr {
        self.mac
    }

    /// An address for that: a MAC address of which `random` has 40 bits. In any election by addresses it comes
    /// last, so that routers win.
    pub fn source(random: u64) -> MacAddr {
        MacAddr::from_bits(0xfe << 40 | random & 0xff_ffff_ffff)
    }

    /// What the station `src` says in a VLAN, heard on a port; `to_all`: what comes in there goes to all others.
    pub fn hear(
        &mut self,
        vid: u16,
        (port, to_all): (u32, bool),
        src: MacAddr,
        message: Message<'_>,
        now: Duration,
    ) {
        if src == self.mac || !self.ports.contains_key(&port) {
            return;
        }
        match message {
            Message::Report(records) => self.report(vid, port, records, now),
            Message::Query(query) => self.queried(vid, (port, to_all), src, &query, now),
            Message::Router { source, advertised } => {
                let area = (vid, source.is_ipv6());
                self.note_router(area, port, now + self.timers.router(), now);
                if advertised
                    && source.is_unspecified()
                    && let Some(state) = self.areas.get_mut(&area)
                {
                    state.switch = Some(src);
                }
            }
        }
    }

    /// What is due at `now`. `ports` are those that are up, each with a number that is another one when it came up anew or
    /// something that was said there went unheard; `is_in` whether one is in a VLAN; `vids` the VLANs in which there are stations, when somebody has looked.
    pub fn tick(
        &mut self,
        now: Duration,
        ports: impl Iterator<Item = (u32, u64)>,
        is_in: impl Fn(u32, u16) -> bool,
        vids: Option<&BTreeSet<u16>>,
    ) {
        self.asks.tick(now);
        self.follow(ports, is_in, now);
        for vid in vids.into_iter().flatten() {
            self.area((*vid, false), now);
            self.area((*vid, true), now);
        }
        self.expire(now);
        let Timers { interval } = self.timers;
        let (startup, settle) = (self.timers.startup(), self.timers.settle());
        for ((vid, v6), state) in &mut self.areas {
            if matches!(state.querier, Querier::Other { until, .. } if until <= now) {
                state.ask_soon(now, startup);
            }
            if let Querier::Own { next, sent } = &mut state.querier
                && *next <= now
            {
                self.asks.general((*vid, *v6), None);
                state.asked = Some(now);
                *sent += 1;
                *next = now + if *sent < ROBUSTNESS { startup } else { interval };
            }
            if state.since.is_none() {
                // Once, whoever else asks: nobody knows what hosts make of his questions.
                if matches!(state.querier, Querier::Other { .. }) {
                    self.asks.general((*vid, *v6), None);
                }
                state.since = Some(now);
            }
            let filters = state.since.is_some_and(|since| now >= since + settle);
            self.changed |= filters != state.filters;
            state.filters = filters;
        }
        let Some(vids) = vids else { return };
        let used: BTreeSet<Area> = self.members.keys().map(|(vid, group)| (*vid, group.is_ipv6())).collect();
        let before = self.areas.len();
        self.areas
            .retain(|area, state| vids.contains(&area.0) || used.contains(area) || !state.routers.is_empty());
        self.changed |= self.areas.len() != before;
    }

    /// The questions to be put now.
    pub fn asks(&mut self) -> Vec<Ask> {
        self.asks.take()
    }

    /// What frames go by, when that is different from the last time. `place` says where a port is.
    pub fn news(&mut self, place: impl Fn(u32) -> Option<Slot>) -> Option<Members> {
        std::mem::take(&mut self.changed).then(|| self.snapshot(place))
    }

    pub fn groups(&self, now: Duration) -> Vec<Group> {
        let left = |member: &Member| (member.port, member.until.saturating_sub(now));
        let group = |(&(vid, group), members): (&(u16, IpAddr), &Vec<Member>)| {
            let mut ports: Vec<_> = members.iter().map(left).collect();
            ports.sort_unstable();
            Group { vid, group, ports }
        };
        let mut groups: Vec<_> = self.members.iter().map(group).collect();
        groups.sort_unstable_by_key(|group| (group.vid, group.group));
        groups
    }

    pub fn areas(&self, now: Duration) -> Vec<Asked> {
        let asked = |(&(vid, v6), state): (&Area, &State)| {
            let routers = state.routers.iter().map(|(port, until)| (*port, until.saturating_sub(now)));
            let State { querier, filters, .. } = *state;
            Asked { vid, v6, querier, filters, routers: routers.collect() }
        };
        self.areas.iter().map(asked).collect()
    }

    /// The ports that get everything for want of room, and for how long.
    pub fn full(&self, now: Duration) -> Vec<(u32, Duration)> {
        let full =
            |(port, kept): (&u32, &Port)| Some((*port, kept.full.max(kept.routes)?.saturating_sub(now)));
        self.ports.iter().filter_map(full).collect()
    }

    /// Those that do until everybody there must have answered, and for how long.
    pub fn settling(&self, now: Duration) -> Vec<(u32, Duration)> {
        let settles = |(port, kept): (&u32, &Port)| Some((*port, kept.settles?.saturating_sub(now)));
        self.ports.iter().filter_map(settles).collect()
    }

    fn report(&mut self, vid: u16, port: u32, records: Records<'_>, now: Duration) {
        for record in records {
            match record.says {
                Says::Member { mute } => self.join((vid, record.group), port, mute, now),
                Says::Leaves => self.leave((vid, record.group), port, now),
            }
        }
    }

    fn join(&mut self, key: (u16, IpAddr), port: u32, mute: bool, now: Duration) {
        if self.area((key.0, key.1.is_ipv6()), now).is_none() {
            return;
        }
        let until = now + self.timers.membership();
        let mute_until = if mute { until } else { Duration::ZERO };
        if let Some(members) = self.members.get_mut(&key)
            && let Ok(at) = members.binary_search_by_key(&port, |member| member.port)
        {
            let member = &mut members[at];
            (member.until, member.asked) = (until, 0);
            // When that one has not been heard for so long, another one who is will answer.
            let kept = if member.mute > now { member.mute } else { Duration::ZERO };
            member.mute = kept.max(mute_until);
            return;
        }
        let share = self.shares.get(&port).copied().unwrap_or(0);
        if share >= SHARE || self.total >= LIMIT {
            let kept = self.ports.get_mut(&port);
            self.changed |= kept.is_some_and(|kept| kept.full.replace(until).is_none());
            return;
        }
        self.changed = true;
        let members = self.members.entry(key).or_default();
        let at = members.partition_point(|member| member.port < port);
        members.insert(at, Member { port, until, mute: mute_until, asked: 0 });
        self.shares.insert(port, share + 1);
        self.total += 1;
    }

    /// Whoever asks in this VLAN asks who is left; if that is somebody else, his question will be heard.
    fn leave(&mut self, key: (u16, IpAddr), port: u32, now: Duration) {
        let area = (key.0, key.1.is_ipv6());
        let is_ours = self.areas.get(&area).is_some_and(|state| matches!(state.querier, Querier::Own { .. }));
        let last = self.timers.last();
        let until = now + last * ROBUSTNESS;
        let member = self.members.get_mut(&key);
        let member = member.and_then(|members| {
            let at = members.binary_search_by_key(&port, |member| member.port).ok()?;
            members.get_mut(at)
        });
        let is_sure = |member: &&mut Member| member.mute <= now && member.until > until && member.asked == 0;
        let Some(member) = member.filter(is_sure) else { return };
        if is_ours {
            member.until = now;
            member.ask(key, &mut self.asks, self.timers, now);
        }
    }

    /// The area, made if there is room.
    fn area(&mut self, area: Area, now: Duration) -> Option<&mut State> {
        if self.areas.len() >= AREAS && !self.areas.contains_key(&area) {
            return None;
        }
        Some(self.areas.entry(area).or_insert_with(|| {
            self.changed = true;
            State {
                since: None,
                asked: None,
                querier: Querier::Own { next: now, sent: 0 },
                routers: BTreeMap::new(),
                switch: None,
                filters: false,
            }
        }))
    }

    /// Ports come and go; one that comes is asked at once, whoever else asks, and so is one that is not sure any more.
    fn follow(
        &mut self,
        up: impl Iterator<Item = (u32, u64)>,
        is_in: impl Fn(u32, u16) -> bool,
        now: Duration,
    ) {
        let (settles, next) = (now + self.timers.settle(), now + self.timers.startup());
        let mut before = std::mem::take(&mut self.ports);
        let mut due = Vec::new();
        for (port, life) in up {
            let doubted = Some(now);
            let new = || Port { life, settles: None, doubted, next: now, full: None, routes: None };
            let mut kept = before.remove(&port).unwrap_or_else(new);
            if kept.life != life {
                kept.life = life;
                kept.doubted.get_or_insert(now.max(kept.next));
            }
            if let Some(since) = kept.doubted {
                self.changed |= kept.settles.replace(settles).is_none();
                due.extend(Some((since, port)).filter(|_| since <= now));
            }
            self.ports.insert(port, kept);
        }
        // Who waits longest comes first, so that all of them come.
        due.sort_unstable();
        for (_, port) in due {
            if !self.asks.has_room() {
                break;
            }
            // Of areas that are asked for the first time everybody is.
            let asked =
                self.areas.iter().filter(|((vid, _), state)| state.since.is_some() && is_in(port, *vid));
            asked.for_each(|(area, _)| self.asks.general(*area, Some(port)));
            if let Some(kept) = self.ports.get_mut(&port) {
                (kept.doubted, kept.next) = (None, next);
            }
        }
        // Those that are down, or gone.
        self.forget(&before.into_keys().collect(), now);
    }

    fn forget(&mut self, gone: &BTreeSet<u32>, now: Duration) {
        if gone.is_empty() {
            return;
        }
        self.changed = true;
        let startup = self.timers.startup();
        for state in self.areas.values_mut() {
            state.routers.retain(|port, _| !gone.contains(port));
            if matches!(state.querier, Querier::Other { port, .. } if gone.contains(&port)) {
                state.ask_soon(now, startup);
            }
        }
        let shares: Vec<_> = gone.iter().filter_map(|port| self.shares.remove(port)).collect();
        if !shares.is_empty() {
            self.total -= shares.iter().sum::<usize>();
            self.members.retain(|_, members| {
                members.retain(|member| !gone.contains(&member.port));
                !members.is_empty()
            });
        }
    }

    /// Forgets what has not been said again in time, members only after we have asked ourselves: somebody else's questions
    /// may be such that hosts do not answer them.
    fn expire(&mut self, now: Duration) {
        let (changed, asks) = (&mut self.changed, &mut self.asks);
        let settles = now + self.timers.settle();
        for port in self.ports.values_mut() {
            for until in [&mut port.settles, &mut port.full] {
                *changed |= until.take_if(|until| *until <= now).is_some();
            }
            if port.routes.take_if(|until| *until <= now).is_some() {
                // Hosts there heard what others said to routers, and may have kept silent.
                port.doubted.get_or_insert(now.max(port.next));
                port.settles = Some(settles);
                *changed = true;
            }
        }
        for state in self.areas.values_mut() {
            let before = state.routers.len();
            state.routers.retain(|_, until| *until > now);
            *changed |= state.routers.len() != before;
        }
        let (shares, total, timers) = (&mut self.shares, &mut self.total, self.timers);
        self.members.retain(|key, members| {
            members.retain_mut(|member| {
                if member.until > now {
                    return true;
                }
                if member.asked < ROBUSTNESS {
                    member.ask(*key, asks, timers, now);
                    return true;
                }
                *changed = true;
                *total -= 1;
                let share = shares.entry(member.port).or_default();
                *share -= 1;
                if *share == 0 {
                    shares.remove(&member.port);
                }
                false
            });
            !members.is_empty()
        });
    }
}

impl Member {
    /// Its time is up: it is asked whether anybody is left, whoever else asks. It stays until there is room for that. One
    /// of IGMPv1 answers no question about one group, but one for all, which is put once for all his groups.
    fn ask(&mut self, (vid, group): (u16, IpAddr), asks: &mut Asks, timers: Timers, now: Duration) {
        let (about, response) = match self.mute {
            Duration::ZERO => (Some(group), timers.last()),
            _ => (None, timers.response()),
        };
        if asks.last((vid, group.is_ipv6()), about, self.port, now + response) {
            self.asked += 1;
            self.until = now + response;
        }
    }
}
