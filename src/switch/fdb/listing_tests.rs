use super::super::Learned;
use super::super::tests::{A, B, crowded, in_buckets, mac};
use super::*;

/// A database in which nobody grows old.
fn fdb(limit: usize) -> Fdb {
    Fdb::new(limit, u32::MAX, [0x1234_5678_9abc_def0, 0x0fed_cba9_8765_4321])
}

fn place(station: Station) -> Option<(u16, MacAddr)> {
    Some((station.vid, station.mac))
}

/// All stations by pages of so many, a page a second; before each of them `meanwhile` happens.
fn listed(fdb: &Fdb, most: usize, start: u32, mut meanwhile: impl FnMut(u32)) -> Vec<(u16, MacAddr)> {
    let mut found: Vec<(u16, MacAddr)> = Vec::new();
    for now in start.. {
        meanwhile(now);
        let page = fdb.page(found.last().copied(), most, now, place);
        found.extend(&page);
        if page.len() < most {
            return found;
        }
    }
    unreachable!("a page is short");
}

#[test]
fn pages_have_every_station_once_in_its_place() {
    let fdb = fdb(4096);
    let mut all: Vec<_> = (0..1000_u64).map(|n| (n as u16 % 3 * 7, mac(n * 7919 % 65_521))).collect();
    all.iter().for_each(|&(vid, mac)| _ = fdb.learn(vid, mac, A, 0));
    all.sort_by_key(|&(vid, mac)| (vid, mac.bits()));
    for (turn, most) in [1, 64, 1000, 1001].into_iter().enumerate() {
        let mut at = A;
        let found = listed(&fdb, most, turn as u32 * 2_000 + 1, |now| {
            // Whoever goes to another port is where it was: one that was listed, and one that is to come.
            let to = if at == A { B } else { A };
            for (vid, mac) in [all[0], all[999]] {
                assert_eq!(fdb.learn(vid, mac, to, now), Learned::Moved { from: at });
            }
            at = to;
        });
        assert_eq!(found, all, "pages of {most}");
        if at == B {
            [all[0], all[999]].iter().for_each(|(vid, mac)| _ = fdb.learn(*vid, *mac, A, 9_999));
        }
    }
    assert_eq!(fdb.count(0, |station| station.vid == 7), all.iter().filter(|(vid, _)| *vid == 7).count());
    assert_eq!(fdb.vids(0), BTreeSet::from([0, 7, 14]));
}

#[test]
fn pages_have_what_is_wanted_and_not_too_old() {
    let fdb = fdb(64);
    fdb.set_ageout(300);
    (0..20).for_each(|n| _ = fdb.learn(3, mac(n), A, 0));
    fdb.learn(0, mac(70), B, 5);
    let of_b = |station: Station| (station.slot == B).then_some((station.vid, station.age));
    assert_eq!(fdb.page(None, 64, 300, of_b), [(0, 295)]);
    assert_eq!(fdb.page(None, 64, 301, place), [(0, mac(70))], "the others are too old");
    assert_eq!(fdb.vids(301), BTreeSet::from([0]));
}

/// A page was made in two looks, and what became too old between them was left out of it.
#[test]
fn a_page_is_not_cut_short_by_what_happens_while_it_is_made() {
    let fdb = fdb(256);
    (0..50).for_each(|n| _ = fdb.learn(0, mac(n), A, 0));
    (50..100).for_each(|n| assert!(fdb.insert_static(0, mac(n), B)));
    let page = fdb.page(None, 60, 100, |station| {
        if station.mac == mac(24) {
            fdb.set_ageout(10);
        }
        place(station)
    });
    let want: Vec<_> = (0..25).chain(50..85).map(|n| (0, mac(n))).collect();
    assert_eq!(page, want);
    let rest = fdb.page(page.last().copied(), 60, 100, place);
    assert_eq!(rest.len(), 15);
}

#[test]
fn bad_37_a_million_stations_that_are_listed_stop_nobody_from_being_learned() {
    let fdb = fdb(1 << 20);
    let many = 2 * AHEAD as u64 + 75_000;
    // Backwards, so that those that come first are met last.
    (0..many).rev().for_each(|n| _ = fdb.learn(0, mac(n), A, 0));
    let mut found = Vec::new();
    while found.len().is_multiple_of(25_000) {
        let (before, after) = (found.len(), found.last().map(|n| (0, mac(*n))));
        found.extend(fdb.page(after, 25_000, 0, |station| {
            assert!(fdb.book.try_lock().is_ok(), "who wants to learn waits");
            Some(station.mac.bits() & 0xffff_ffff)
        }));
        assert!(found.len() > before);
    }
    assert!(found.iter().copied().eq(0..many));
    let _book = fdb.book();
    // Nor does what is for all of them wait for who learns.
    assert_eq!((fdb.count(0, |_| true), fdb.vids(0).len()), (found.len(), 1));
}

/// All keys are gone through once for many pages, however short; and again when that was too long ago.
#[test]
fn a_page_costs_a_page() {
    let fdb = fdb(4096);
    (0..1_000).for_each(|n| _ = fdb.learn(0, mac(n * 2), A, 0));
    assert_eq!(fdb.page(None, 1, 7, place), [(0, mac(0))]);
    let at = |fdb: &Fdb| fdb.ahead().as_ref().map(|ahead| (ahead.after, ahead.at, ahead.keys.len()));
    let looked = at(&fdb);
    assert_eq!(looked, Some((EMPTY, 7, 1_000)));
    fdb.learn(0, mac(3), A, 7);
    for n in 1..500 {
        assert_eq!(fdb.page(Some((0, mac(n * 2 - 2))), 1, 7 + FRESH, place), [(0, mac(n * 2))]);
    }
    assert_eq!(at(&fdb), looked);
    assert_eq!(fdb.page(Some((0, mac(2))), 1, 8 + FRESH, place), [(0, mac(3))]);
    // One that is gone leaves no hole, and one that was put there is there.
    assert!(fdb.delete(0, mac(4), 8).is_some() && fdb.insert_static(0, mac(5), B));
    assert_eq!(fdb.page(Some((0, mac(3))), 2, 8 + FRESH, place), [(0, mac(5)), (0, mac(6))]);
    assert_eq!(fdb.page(Some((0, mac(1_998))), 1, 8 + FRESH, place), []);
    assert_eq!(at(&fdb), None, "nothing is kept at the end");
    fdb.page(None, 1, 20, place);
    fdb.sweep(20 + FRESH);
    assert!(at(&fdb).is_some());
    fdb.sweep(21 + FRESH);
    assert_eq!(at(&fdb), None, "nor of a listing that does not come to it");
}

/// Whoever goes through the keys goes from bucket to bucket, and entries do as well.
#[test]
fn an_entry_that_moves_meanwhile_is_not_missed() {
    let fdb = crowded();
    let near: Vec<_> = (1..6).map(|n| in_buckets(0, 1, n)).collect();
    let far: Vec<_> = (1..5).map(|n| in_buckets(1, 5, n)).collect();
    far.iter().chain(&near[..4]).for_each(|mac| _ = fdb.learn(0, *mac, A, 0));
    // One goes from bucket 1 to 4, where they were gone through, and one from 0 to 1.
    let learn = |index: &u32| {
        if *index == 0 {
            assert_eq!(fdb.learn(0, near[4], A, 0), Learned::New);
        }
    };
    let ahead = fdb.look_ahead_in((16..20).chain((0..16).chain(20..128).inspect(learn)), EMPTY, 0);
    let mut keys: Vec<_> = far.iter().chain(&near).map(|mac| key(0, *mac)).collect();
    keys.sort_unstable();
    assert_eq!((ahead.keys, ahead.more), (keys, false));
}
