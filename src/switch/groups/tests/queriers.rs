//! Who asks, and where routers are.

use super::*;
use crate::frame::group;

/// Of somebody who waits for so long, and says so much of how he asks.
fn asks(response: u64, interval: Option<u64>, robustness: Option<u32>) -> Query {
    let [response, interval] = [Some(response), interval].map(|s| s.map(Duration::from_secs));
    let response = response.unwrap_or_default();
    Query { source: ip("10.0.0.1"), group: None, decides: true, response, interval, robustness }
}

/// Another switch says that it asks.
fn advertised() -> Message<'static> {
    Message::Router { source: ip("0.0.0.0"), advertised: true }
}

#[test]
fn a_router_asks_and_gets_everything() {
    let mut bench = Bench::new();
    bench.says(1, A, MEMBER);
    bench.hears(4, HOST, query("192.168.0.1", None));
    assert_eq!((bench.gets(A), bench.gets(B)), (Some(vec![1, 4]), Some(vec![4])));
    assert_eq!(bench.gets(SIX), Some(vec![]), "it is of IPv4 alone");
    assert!(matches!(bench.querier(false), Querier::Other { port: 4, .. }));
    // One with a higher address does not, but is a router too.
    bench.hears(3, HOST, query("192.168.0.2", None));
    assert_eq!(bench.gets(B), Some(vec![3, 4]));
    assert!(matches!(bench.querier(false), Querier::Other { port: 4, .. }));
    bench.hears(2, HOST, query("192.168.0.0", None));
    assert!(matches!(bench.querier(false), Querier::Other { port: 2, .. }));
    // We keep silent for as long as that lasts.
    bench.until(SETTLED + 254);
    assert!(bench.asked.iter().all(|ask| ask.v6), "{:?}", bench.asked);
    bench.until(SETTLED + 255);
    assert_eq!(bench.asked[0], Ask { vid: 0, v6: false, group: None, port: None });
    assert_eq!(bench.gets(B), Some(vec![]));
}

#[test]
fn when_the_querier_falls_silent_this_switch_asks_and_nobody_goes_without() {
    // RFC 3376 section 8.5: two intervals and half a response, 8.5 s.
    let mut bench = Bench::with(Timers { interval: Duration::from_secs(4) }, 6);
    let general = |bench: &Bench| bench.asked.iter().filter(|ask| ask.group.is_none() && !ask.v6).count();
    let query = asks(1, None, None);
    bench.says(1, A, MEMBER);
    for second in (7..=19).step_by(2) {
        bench.until(second);
        assert_eq!(general(&bench), 0, "he asks");
        bench.hears(4, HOST, Message::Query(query));
        bench.says(1, A, MEMBER);
    }
    bench.until(27);
    assert_eq!(general(&bench), 0);
    assert_eq!((bench.gets(A), bench.gets(B)), (Some(vec![1, 4]), Some(vec![4])), "a router until then");
    bench.until(28);
    assert_eq!(general(&bench), 1);
    assert_eq!((bench.gets(A), bench.gets(B)), (Some(vec![1]), Some(vec![])));
    // As in the beginning; the member answers, and those that do not are asked for before they are forgotten.
    bench.says(1, A, MEMBER);
    bench.says(2, B, MEMBER);
    bench.until(29);
    assert_eq!(general(&bench), 1, "once more after a second");
    bench.until(32);
    assert_eq!(general(&bench), 0);
    bench.until(33);
    assert_eq!((general(&bench), bench.gets(A)), (1, Some(vec![1])));
}

#[test]
fn when_the_querier_s_port_is_gone_this_switch_asks_at_once_and_not_all_the_time() {
    let mut bench = Bench::new();
    bench.hears(4, HOST, query("10.0.0.1", None));
    bench.says(1, A, MEMBER);
    let mut asked = 0;
    for second in SETTLED..SETTLED + 250 {
        // It comes and goes.
        match second % 2 {
            0 => bench.up.truncate(3),
            _ => bench.up.push((4, second)),
        }
        bench.until(second + 1);
        asked +=
            bench.asked.iter().filter(|ask| (ask.group, ask.port, ask.v6) == (None, None, false)).count();
        if second == SETTLED {
            assert_eq!(asked, 1);
            assert!(matches!(bench.querier(false), Querier::Own { .. }));
            assert_eq!((bench.gets(A), bench.gets(B)), (Some(vec![1]), Some(vec![])));
        }
        bench.hears(4, HOST, query("10.0.0.1", None));
    }
    assert!((2..=8).contains(&asked), "{asked} times");
}

#[test]
fn of_switches_the_lower_address_asks_and_both_hear_all_members() {
    let mut bench = Bench::new();
    let (lower, higher) = (MacAddr::new([0xfe, 0, 0, 0, 0, 8]), MacAddr::new([0xfe, 0, 0, 0, 0, 10]));
    let asks = || query("0.0.0.0", None);
    bench.hears(3, lower, asks());
    assert_eq!(bench.gets(B), Some(vec![]), "a question without an address says nothing");
    bench.hears(4, higher, advertised());
    bench.hears(4, higher, asks());
    assert_eq!(bench.gets(B), Some(vec![4]));
    bench.hears(3, lower, advertised());
    assert!(matches!(bench.querier(false), Querier::Own { .. }), "one that does not ask is none");
    bench.groups.hear(0, (3, false), lower, asks(), bench.at());
    assert!(matches!(bench.querier(false), Querier::Own { .. }), "one that not everybody hears");
    bench.hears(3, lower, asks());
    assert!(matches!(bench.querier(false), Querier::Other { port: 3, .. }));
    assert_eq!(bench.gets(B), Some(vec![3, 4]));
    // A router is before both, and a switch not before a router.
    bench.hears(2, HOST, query("10.0.0.1", None));
    bench.hears(3, lower, advertised());
    bench.hears(3, lower, asks());
    assert!(matches!(bench.querier(false), Querier::Other { port: 2, .. }));
    // In IPv6 all have addresses.
    let address = |mac| group::link_local(mac).to_string();
    bench.hears(4, higher, query(&address(higher), None));
    assert!(matches!(bench.querier(true), Querier::Own { .. }));
    bench.hears(3, lower, query(&address(lower), None));
    assert!(matches!(bench.querier(true), Querier::Other { port: 3, .. }));
    // Our own that come back count for nothing.
    let before = bench.groups.areas(bench.at());
    bench.hears(1, ME, advertised());
    bench.hears(1, ME, asks());
    assert_eq!(bench.groups.areas(bench.at()), before);
}

#[test]
fn a_querier_that_waits_for_longer_than_it_asks_is_not_believed() {
    let mut bench = Bench::new();
    bench.hears(4, HOST, Message::Query(asks(125, None, None)));
    assert!(matches!(bench.querier(false), Querier::Own { .. }));
    assert_eq!(bench.gets(B), Some(vec![4]), "a router he is all the same");
}

/// RFC 3376 sections 4.1.6, 4.1.7 and 8.5: it was by our own interval, and who asks less often was no router in between.
#[test]
fn a_router_is_one_for_as_long_as_he_says() {
    for (interval, robustness, seconds) in [
        (None, None, 255),
        (Some(600), None, 1_205),
        (Some(600), Some(3), 1_805),
        (None, Some(1), 130),
        (Some(20), Some(2), 45),
        // Nobody is forgotten at once, nor for hours.
        (Some(1), Some(1), 32),
        (Some(31_744), Some(7), 7_205),
    ] {
        let mut bench = Bench::new();
        bench.hears(4, HOST, Message::Query(asks(10, interval, robustness)));
        for (second, is_one) in [(SETTLED + seconds - 1, true), (SETTLED + seconds, false)] {
            bench.until(second);
            let want = if is_one { vec![4] } else { vec![] };
            assert_eq!(bench.gets(B), Some(want), "{interval:?} {robustness:?} at {second}");
            assert_eq!(matches!(bench.querier(false), Querier::Other { .. }), is_one);
        }
    }
    // Of two behind a port the one that asks more often does not end it for the other.
    let mut bench = Bench::new();
    bench.hears(4, HOST, Message::Query(asks(10, Some(600), None)));
    bench.hears(4, HOST, Message::Query(asks(10, Some(20), None)));
    bench.until(SETTLED + 1_204);
    assert_eq!(bench.gets(B), Some(vec![4]));
}

#[test]
fn bad_37_who_falls_silent_again_and_again_brings_no_flood_of_questions() {
    let mut bench = Bench::new();
    let mut asked = 0;
    for second in SETTLED..SETTLED + 250 {
        if matches!(bench.querier(false), Querier::Own { .. }) {
            bench.hears(4, HOST, Message::Query(asks(1, Some(1), Some(1))));
        }
        bench.until(second + 1);
        asked += bench.asked.iter().filter(|ask| !ask.v6).count();
    }
    assert!((2..=8).contains(&asked), "{asked} times");
}

#[test]
fn an_advertised_router_and_one_with_pim_get_everything_and_do_not_ask() {
    let mut bench = Bench::new();
    let router = |advertised| Message::Router { source: ip("10.0.0.1"), advertised };
    bench.hears(3, HOST, router(true));
    bench.hears(4, HOST, router(false));
    assert_eq!(bench.gets(B), Some(vec![3, 4]));
    assert!(matches!(bench.querier(false), Querier::Own { .. }));
}

#[test]
fn bad_37_routers_behind_many_ports_in_many_vlans_take_no_more_room_and_none_goes_without() {
    let mut bench = Bench::new();
    bench.up = (1..=40).map(|port| (port, 1)).collect();
    bench.until(2 * SETTLED + 1);
    bench.says(39, A, MEMBER);
    let hello = |v6| {
        let source = if v6 { ip("fe80::7") } else { ip("10.0.0.7") };
        Message::Router { source, advertised: false }
    };
    let everywhere = || (1..=37).flat_map(|port| (0..128).map(move |vid| (port, vid)));
    for (port, vid) in everywhere() {
        for v6 in [false, true] {
            bench.groups.hear(vid, (port, true), HOST, hello(v6), bench.at());
        }
    }
    bench.news();
    let noted = |bench: &Bench| bench.groups.areas.values().map(|state| state.routers.len()).sum::<usize>();
    assert_eq!(noted(&bench), ROUTERS);
    // Whoever came too late gets what a router gets, and what hosts say to them.
    assert_eq!(bench.gets(A), Some((1..=37).chain([39]).collect()));
    let reports = |bench: &Bench, vid| {
        let slots = bench.members.slots(bench.members.reports[&(vid, false)]);
        slots.map(|slot| slot.0 / 10).collect::<Vec<_>>()
    };
    assert_eq!((reports(&bench, 0), reports(&bench, 127)), ((1..=37).collect(), (1..=37).collect()));
    assert_eq!(bench.groups.full(bench.at()).len(), 37 - ROUTERS / 256);
    // And for as long as one. Then those that heard what others said are asked what they did not say.
    let late = || (17..=37).chain([39]).collect::<Vec<_>>();
    bench.until(2 * SETTLED + 1 + 255);
    assert_eq!((bench.gets(A), reports(&bench, 0), noted(&bench)), (Some(late()), vec![], 0));
    assert_eq!(bench.groups.full(bench.at()), []);
    bench.says(39, A, MEMBER);
    bench.until(2 * SETTLED + 1 + 256);
    let asked: BTreeSet<_> = bench.asked.iter().filter_map(|ask| ask.port).collect();
    assert!(asked.into_iter().eq(17..=37));
    bench.until(3 * SETTLED + 1 + 256);
    assert_eq!(bench.gets(A), Some(vec![39]));
}
