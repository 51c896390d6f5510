//! Tests of [`super`].

mod queriers;

use super::*;
use crate::frame::group::{Query, Record};

const ME: MacAddr = MacAddr::new([0xfe, 0, 0, 0, 0, 9]);
const HOST: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 1]);
const TIMERS: Timers = Timers { interval: Duration::from_secs(125) };
/// When everybody has been asked.
const SETTLED: u64 = 136;

/// Time, the groups, and who is up.
struct Bench {
    now: u64,
    groups: Groups,
    up: Vec<(u32, u64)>,
    members: Members,
    asked: Vec<Ask>,
}

impl Bench {
    /// With ports 1 to 4, and everybody asked.
    fn new() -> Self {
        Self::with(TIMERS, SETTLED)
    }

    /// The same with other timers, at a time when everybody has been asked.
    fn with(timers: Timers, settled: u64) -> Self {
        let up = (1..5).map(|port| (port, 1)).collect();
        let groups = Groups::new(timers, ME);
        let mut bench = Self { now: 0, groups, up, members: Members::default(), asked: Vec::new() };
        bench.until(settled);
        bench
    }

    /// Second by second.
    fn until(&mut self, second: u64) {
        self.asked.clear();
        while self.now < second {
            self.now += 1;
            self.groups.tick(self.at(), self.up.clone().into_iter(), |_, _| true, Some(&BTreeSet::from([0])));
            self.asked.extend(self.groups.asks());
        }
        self.news();
    }

    fn news(&mut self) {
        let up = self.up.clone();
        let place = |port| up.iter().any(|(number, _)| *number == port).then_some(Slot(port * 10));
        self.members = self.groups.news(place).unwrap_or(std::mem::take(&mut self.members));
    }

    fn at(&self) -> Duration {
        Duration::from_secs(self.now)
    }

    fn says(&mut self, port: u32, group: &str, says: Says) {
        let record = Record { group: ip(group), says };
        let report = Message::Report(Records::One(Some(record)));
        self.groups.hear(0, (port, true), HOST, report, self.at());
        self.news();
    }

    fn hears(&mut self, port: u32, src: MacAddr, message: Message<'_>) {
        self.groups.hear(0, (port, true), src, message, self.at());
        self.news();
    }

    /// The ports that get a packet to a group; `None`: all.
    fn gets(&self, group: &str) -> Option<Vec<u32>> {
        let found = self.members.groups.get(&(0, ip(group)));
        let only = found.or_else(|| self.members.routers.get(&(0, ip(group).is_ipv6())))?;
        Some(self.members.slots(*only).map(|slot| slot.0 / 10).collect())
    }

    fn querier(&self, v6: bool) -> Querier {
        let areas = self.groups.areas(self.at());
        areas.into_iter().find(|area| (area.vid, area.v6) == (0, v6)).expect("an area").querier
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn query(source: &str, group: Option<&str>) -> Message<'static> {
    let response = Duration::from_secs(if group.is_some() { 1 } else { 10 });
    let (source, group) = (ip(source), group.map(ip));
    Message::Query(Query { source, group, decides: true, response, interval: None, robustness: None })
}

const MEMBER: Says = Says::Member { mute: false };
const A: &str = "239.1.2.3";
const B: &str = "239.1.2.4";
const SIX: &str = "ff05::1:3";

#[test]
fn a_group_goes_to_its_members_for_as_long_as_they_say_so() {
    let mut bench = Bench::new();
    bench.says(1, A, MEMBER);
    bench.says(3, A, MEMBER);
    bench.says(2, SIX, MEMBER);
    assert_eq!((bench.gets(A), bench.gets(SIX)), (Some(vec![1, 3]), Some(vec![2])));
    assert_eq!((bench.gets(B), bench.gets("ff05::1:4")), (Some(vec![]), Some(vec![])), "nobody wants it");
    bench.until(SETTLED + 200);
    bench.says(3, A, MEMBER);
    bench.until(SETTLED + 261);
    assert_eq!(bench.gets(A), Some(vec![1, 3]), "it is asked for twice before that");
    bench.until(SETTLED + 262);
    assert_eq!(bench.gets(A), Some(vec![3]));
    bench.until(SETTLED + 462);
    assert_eq!((bench.gets(A), bench.groups.total, bench.groups.shares.len()), (Some(vec![]), 0, 0));
}

#[test]
fn until_everybody_has_been_asked_all_is_flooded() {
    let mut bench = Bench::new();
    bench.now = 0;
    bench.groups = Groups::new(TIMERS, ME);
    bench.until(1);
    let both = [false, true].map(|v6| Ask { vid: 0, v6, group: None, port: None });
    assert_eq!(bench.asked, both);
    bench.says(1, A, MEMBER);
    assert_eq!(bench.gets(A), None);
    bench.until(SETTLED - 1);
    assert_eq!((bench.gets(A), bench.gets(B)), (None, None));
    let reports = bench.members.reports.values().map(|only| bench.members.slots(*only).count());
    assert_eq!(reports.collect::<Vec<_>>(), [0, 0], "but what is for routers is for them from the start");
    assert_eq!(bench.asked, both, "once more after 31 s, and then after 125");
    bench.until(SETTLED);
    assert_eq!((bench.gets(A), bench.gets(B)), (Some(vec![1]), Some(vec![])));
    bench.until(SETTLED + 250);
    assert_eq!(bench.asked.iter().filter(|ask| ask.group.is_none()).count(), 4);
}

#[test]
fn a_port_that_comes_up_is_asked_and_gets_everything_meanwhile() {
    let mut bench = Bench::new();
    bench.says(1, A, MEMBER);
    // Up anew, and new.
    bench.up[3].1 = 2;
    bench.up.push((5, 1));
    bench.until(SETTLED + 1);
    let ask = |port, v6| Ask { vid: 0, v6, group: None, port: Some(port) };
    assert_eq!(bench.asked, [ask(4, false), ask(4, true), ask(5, false), ask(5, true)]);
    assert_eq!((bench.gets(A), bench.gets(B)), (Some(vec![1, 4, 5]), Some(vec![4, 5])));
    bench.until(SETTLED + 137);
    assert_eq!((bench.gets(A), bench.gets(B)), (Some(vec![1]), Some(vec![])));
    // Whoever goes takes what was his with him.
    bench.up.remove(0);
    bench.until(SETTLED + 138);
    assert_eq!((bench.gets(A), bench.groups.total), (Some(vec![]), 0));
}

#[test]
fn bad_37_a_port_of_which_something_went_unheard_gets_everything_and_is_asked_again() {
    let mut bench = Bench::new();
    bench.says(1, A, MEMBER);
    bench.up[1].1 += 1;
    bench.until(SETTLED + 1);
    let ask = |v6| Ask { vid: 0, v6, group: None, port: Some(2) };
    assert_eq!(bench.asked, [ask(false), ask(true)]);
    assert_eq!((bench.gets(A), bench.gets(B)), (Some(vec![1, 2]), Some(vec![2])));
    // A flood of reports makes no flood of questions, and no new table each time.
    let mut asked = Vec::new();
    for second in SETTLED + 1..SETTLED + 311 {
        bench.up[1].1 += 1;
        bench.until(second + 1);
        asked.extend(bench.asked.iter().filter(|ask| ask.port == Some(2)).copied());
        assert_eq!(bench.gets(B), Some(vec![2]), "at {second}");
    }
    assert_eq!(asked, [ask(false), ask(true)].repeat(9), "every 32 s");
    bench.up[1].1 += 1;
    bench.groups.tick(bench.at(), bench.up.clone().into_iter(), |_, _| true, None);
    assert!(bench.groups.news(|_| None).is_none());
    // Once more behind the last of it, and then it settles.
    bench.until(SETTLED + 311 + 32);
    assert!(bench.asked.ends_with(&[ask(false), ask(true)]), "{:?}", bench.asked);
    bench.until(SETTLED + 311 + 32 + SETTLED);
    assert_eq!(bench.gets(B), Some(vec![]));
}

#[test]
fn bad_37_when_all_ports_are_in_doubt_questions_take_their_time() {
    let mut bench = Bench::new();
    bench.up = (1..=3_000).map(|port| (port, 1)).collect();
    bench.until(2 * SETTLED + 10);
    assert_eq!(bench.gets(B), Some(vec![]));
    bench.up.iter_mut().for_each(|(_, life)| *life += 1);
    bench.until(2 * SETTLED + 11);
    let asked = |bench: &Bench| bench.asked.iter().filter(|ask| ask.port.is_some()).count();
    let first = asked(&bench);
    assert!((asks::OF_PORTS..asks::OF_PORTS + 2).contains(&first), "{first}");
    bench.until(2 * SETTLED + 12);
    assert_eq!(first + asked(&bench), 6_000);
    assert_eq!(bench.gets(B).map(|ports| ports.len()), Some(3_000));
}

#[test]
fn a_port_is_asked_in_the_vlans_that_it_is_in_and_for_no_others() {
    let mut bench = Bench::new();
    let vids: BTreeSet<u16> = (0..100).collect();
    // Port 4 is in all VLANs, any other in that of its number.
    let is_in = |port: u32, vid: u16| port == 4 || u32::from(vid) == port;
    let asked = |bench: &mut Bench| {
        bench.now += 1;
        bench.groups.tick(bench.at(), bench.up.clone().into_iter(), is_in, Some(&vids));
        bench.groups.asks().into_iter().filter(|ask| ask.port.is_some()).collect::<Vec<_>>()
    };
    asked(&mut bench);
    bench.up = (1..=3_000).map(|port| (port, 2)).collect();
    // 2,900 ports are in no VLAN that is asked, and cost nothing.
    let all = asked(&mut bench);
    assert_eq!(all.len(), 2 * (99 - 1) + 200);
    assert!(all.iter().all(|ask| is_in(ask.port.unwrap(), ask.vid)));
}

/// They were asked in the order of their numbers: where the first ones were never sure, the last ones never had their turn.
#[test]
fn bad_37_of_ports_in_doubt_the_one_that_waits_longest_is_asked_first() {
    let mut bench = Bench::new();
    let vids: BTreeSet<u16> = (0..128).collect();
    let mut asked = BTreeSet::new();
    // In 256 areas 16 ports a second are asked, 700 within 44 s; after 32 s one may be asked again.
    for second in 0..50 {
        match second {
            0 => (),
            1 => bench.up = (1..=700).map(|port| (port, 1)).collect(),
            _ => bench.up.iter_mut().take(600).for_each(|(_, life)| *life += 1),
        }
        bench.now += 1;
        bench.groups.tick(bench.at(), bench.up.clone().into_iter(), |_, _| true, Some(&vids));
        let of_port = bench.groups.asks().into_iter().filter_map(|ask| ask.port);
        asked.extend(of_port.filter(|_| second > 0));
    }
    assert!(asked.into_iter().eq(1..=700), "each of them in its turn");
}

#[test]
fn who_leaves_is_asked_for_twice_before_he_is_gone() {
    let mut bench = Bench::new();
    for port in [1, 2] {
        bench.says(port, A, MEMBER);
    }
    bench.says(1, A, Says::Leaves);
    let ask = Ask { vid: 0, v6: false, group: Some(ip(A)), port: Some(1) };
    assert_eq!(bench.groups.asks(), [ask]);
    bench.says(1, A, Says::Leaves);
    assert_eq!(bench.groups.asks(), [], "it is being asked for");
    bench.until(SETTLED + 1);
    assert_eq!((bench.asked.clone(), bench.gets(A)), (vec![ask], Some(vec![1, 2])));
    bench.until(SETTLED + 2);
    assert_eq!(bench.gets(A), Some(vec![2]), "and nobody else's port");
    // Somebody answers.
    bench.says(2, A, Says::Leaves);
    bench.says(2, A, MEMBER);
    bench.until(SETTLED + 10);
    assert_eq!(bench.gets(A), Some(vec![2]));
    // One of IGMPv1 never says that it is there when it is asked so.
    bench.says(2, A, Says::Member { mute: true });
    bench.says(2, A, Says::Leaves);
    bench.until(SETTLED + 20);
    assert_eq!(bench.gets(A), Some(vec![2]));
}

#[test]
fn who_leaves_is_not_asked_for_by_two() {
    let mut bench = Bench::new();
    bench.hears(4, HOST, query("192.168.0.1", None));
    bench.says(1, A, MEMBER);
    bench.says(2, A, MEMBER);
    bench.says(1, A, Says::Leaves);
    assert_eq!(bench.groups.asks(), []);
    // Anybody could say so.
    bench.hears(2, HOST, query("192.168.0.1", Some(A)));
    bench.until(SETTLED + 5);
    assert_eq!(bench.gets(A), Some(vec![1, 2, 4]));
    bench.hears(4, HOST, query("192.168.0.1", Some(A)));
    bench.says(2, A, MEMBER);
    bench.until(SETTLED + 9);
    assert_eq!(bench.gets(A), Some(vec![2, 4]), "asked for by us as well");
}

#[test]
fn bad_37_a_hundred_thousand_groups_take_no_more_room_and_nobody_goes_without() {
    let mut bench = Bench::new();
    bench.says(2, A, MEMBER);
    let group = |n: u32| IpAddr::from((0xef80_0000 + n).to_be_bytes());
    let join = |n| Message::Report(Records::One(Some(Record { group: group(n), says: MEMBER })));
    (0..100_000).for_each(|n| bench.groups.hear(0, (1, true), HOST, join(n), bench.at()));
    bench.news();
    assert_eq!((bench.groups.total, bench.groups.members.len()), (SHARE + 1, SHARE + 1));
    // It gets all of them, and more; others what they asked for.
    assert_eq!((bench.gets(A), bench.gets(B)), (Some(vec![1, 2]), Some(vec![1])));
    bench.says(3, B, MEMBER);
    assert_eq!(bench.gets(B), Some(vec![1, 3]));
    assert_eq!(bench.groups.full(bench.at()).len(), 1);
    // Forty ports together.
    bench.up = (1..=44).map(|port| (port, 1)).collect();
    bench.until(SETTLED + 1);
    for n in 0..60_000 {
        bench.groups.hear(0, (5 + n % 40, true), HOST, join(n), bench.at());
    }
    assert_eq!(bench.groups.total, LIMIT);
    bench.says(4, B, MEMBER);
    assert!(bench.gets(B).is_some_and(|ports| ports.contains(&3) && ports.contains(&4)));
    // And leaves of all of it at once do not make as many questions.
    for n in 0..60_000 {
        let record = Record { group: group(n), says: Says::Leaves };
        bench.groups.hear(
            0,
            (5 + n % 40, true),
            HOST,
            Message::Report(Records::One(Some(record))),
            bench.at(),
        );
    }
    assert_eq!(bench.groups.asks().len(), asks::ASKS);
    bench.until(SETTLED + 400);
    assert_eq!((bench.groups.total, bench.groups.full(bench.at()).len()), (0, 0));
}

#[test]
fn bad_37_ports_that_get_everything_take_no_room_in_each_group() {
    let mut bench = Bench::new();
    bench.up = (1..=32).map(|port| (port, 1)).collect();
    bench.until(SETTLED + 1);
    let group = |n: u32| IpAddr::from((0xef80_0000 + n).to_be_bytes());
    let join = |bench: &mut Bench, vid: u16, n| {
        let report = Message::Report(Records::One(Some(Record { group: group(n), says: MEMBER })));
        bench.groups.hear(vid, (u32::from(vid) + 1, true), HOST, report, bench.at());
    };
    (0..32).for_each(|vid| join(&mut bench, vid, 0));
    bench.until(2 * SETTLED + 1);
    (0..32).for_each(|vid| (1..SHARE as u32).for_each(|n| join(&mut bench, vid, n)));
    bench.up.extend((33..=1_032).map(|port| (port, 1)));
    bench.until(2 * SETTLED + 2);
    // Two of them are routers, too.
    bench.hears(1, HOST, query("10.0.0.1", None));
    bench.hears(40, HOST, query("10.0.0.2", None));
    let members = &bench.members;
    assert_eq!((members.groups.len(), members.all.len()), (LIMIT, 1_000));
    assert_eq!(members.slots.len(), LIMIT + 2, "what was said, and no more");
    // And a frame goes to each once, in order.
    let all = || 33..=1_032;
    assert_eq!(bench.gets(&group(7).to_string()), Some([1].into_iter().chain(all()).collect()));
    let only = members.groups[&(3, group(7))];
    let got: Vec<u32> = members.slots(only).map(|slot| slot.0 / 10).collect();
    assert_eq!(got, [4].into_iter().chain(all()).collect::<Vec<_>>());
    assert!([4, 33, 1_032].iter().all(|port| members.slots(only).has(Slot(port * 10))));
    assert!(!members.slots(only).has(Slot(10)));
}

#[test]
fn bad_37_joins_and_leaves_keep_no_questions_off() {
    let mut bench = Bench::new();
    bench.says(2, B, MEMBER);
    let general = |ask: &Ask| ask.group.is_none();
    let mut asked = Vec::new();
    for second in SETTLED..SETTLED + 250 {
        for n in 0..512 {
            let group = IpAddr::from((0xef80_0000_u32 + n).to_be_bytes());
            for says in [MEMBER, Says::Leaves] {
                let report = Message::Report(Records::One(Some(Record { group, says })));
                bench.groups.hear(0, (1, true), HOST, report, bench.at());
            }
        }
        bench.until(second + 1);
        let of_port = bench.asked.iter().filter(|ask| !general(ask)).count();
        assert!(of_port <= 2 * asks::OF_PORT, "{of_port}");
        asked.extend(bench.asked.iter().filter(|ask| general(ask)).copied());
    }
    assert_eq!(asked.len(), 4, "two of each, as ever");
    // And what another port says of leaving is asked about.
    bench.says(2, B, MEMBER);
    bench.says(2, B, Says::Leaves);
    assert!(bench.groups.asks().iter().any(|ask| ask.group == Some(ip(B))));
}

/// He answers a question for all groups and no other; it was put for each of his groups, 64 times a second.
#[test]
fn bad_37_a_host_of_igmpv1_that_falls_silent_is_asked_once_for_all_its_groups() {
    let mut bench = Bench::new();
    let group = |n: u32| IpAddr::from((0xef80_0000 + n).to_be_bytes());
    let says = |bench: &mut Bench, range: std::ops::Range<u32>, mute| {
        for n in range {
            let record = Record { group: group(n), says: Says::Member { mute } };
            let report = Message::Report(Records::One(Some(record)));
            bench.groups.hear(0, (1, true), HOST, report, bench.at());
        }
    };
    says(&mut bench, 0..1_000, true);
    bench.until(SETTLED + 5);
    says(&mut bench, 1_000..1_024, true);
    bench.until(SETTLED + 259);
    assert_eq!(bench.groups.total, 1_024);
    let of_port =
        |bench: &Bench| bench.asked.iter().filter(|ask| ask.port.is_some()).copied().collect::<Vec<_>>();
    let ask = Ask { vid: 0, v6: false, group: None, port: Some(1) };
    // The turns of those that came later are in between.
    bench.until(SETTLED + 275);
    assert_eq!(of_port(&bench), [ask, ask]);
    assert_eq!(bench.groups.total, 1_024);
    says(&mut bench, 0..1, true);
    bench.until(SETTLED + 300);
    assert_eq!((of_port(&bench), bench.groups.total), (vec![], 1), "who answered is there");
    // A host of a later version in its place is asked as such.
    bench.until(SETTLED + 500);
    says(&mut bench, 0..1, false);
    bench.until(SETTLED + 700);
    says(&mut bench, 0..1, false);
    bench.until(SETTLED + 970);
    assert_eq!(of_port(&bench), [Ask { group: Some(group(0)), ..ask }; 2]);
    assert_eq!(bench.groups.total, 0);
}

#[test]
fn nobody_is_forgotten_before_we_have_asked_whoever_else_asks() {
    let mut bench = Bench::new();
    bench.says(1, A, MEMBER);
    bench.says(2, A, MEMBER);
    // Somebody whose questions no host answers.
    for second in (SETTLED..SETTLED + 260).step_by(20) {
        bench.until(second);
        bench.hears(4, HOST, query("10.0.0.1", None));
    }
    bench.hears(4, HOST, query("10.0.0.1", Some(A)));
    bench.until(SETTLED + 260);
    let ask = |port| Ask { vid: 0, v6: false, group: Some(ip(A)), port: Some(port) };
    assert!(bench.asked.contains(&ask(1)) && bench.asked.contains(&ask(2)), "{:?}", bench.asked);
    bench.says(2, A, MEMBER);
    bench.until(SETTLED + 270);
    assert_eq!(bench.gets(A), Some(vec![2, 4]));
}

#[test]
fn a_port_that_comes_up_is_asked_by_us_while_somebody_else_asks() {
    let mut bench = Bench::new();
    bench.hears(4, HOST, query("10.0.0.1", None));
    bench.up.push((5, 1));
    bench.until(SETTLED + 1);
    let ask = |v6| Ask { vid: 0, v6, group: None, port: Some(5) };
    assert_eq!(bench.asked, [ask(false), ask(true)]);
    assert_eq!(bench.gets(B), Some(vec![4, 5]));
    // And a VLAN of which nobody else's question is known to have been heard.
    bench.groups.hear(7, (4, true), HOST, query("10.0.0.1", None), bench.at());
    bench.until(SETTLED + 2);
    assert_eq!(bench.asked, [Ask { vid: 7, v6: false, group: None, port: None }]);
}

#[test]
fn there_are_so_many_vlans_and_others_are_flooded() {
    let mut bench = Bench::new();
    for vid in 0..4_000 {
        let record = Record { group: ip(A), says: MEMBER };
        bench.groups.hear(vid, (1, true), HOST, Message::Report(Records::One(Some(record))), bench.at());
    }
    assert_eq!(bench.groups.areas.len(), AREAS);
    assert_eq!(bench.groups.total, AREAS - 1, "one is of IPv6");
    bench.until(SETTLED + 300);
    assert_eq!(bench.groups.areas.len(), 2, "nobody is there any more");
}
