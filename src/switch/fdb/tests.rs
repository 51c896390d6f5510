use super::*;

pub(super) const A: Slot = Slot(1);
pub(super) const B: Slot = Slot(2);

thread_local! {
    /// How often a known station's time was written.
    pub static STORES: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

pub(super) fn mac(n: u64) -> MacAddr {
    MacAddr::from_bits(0x0200_0000_0000 | n)
}

fn fdb(limit: usize) -> Fdb {
    Fdb::new(limit, 300, [0x1234_5678_9abc_def0, 0x0fed_cba9_8765_4321])
}

/// The data path takes no lock for stations that are known: whoever holds it, be it for long, holds up no frame.
#[test]
fn known_stations_are_looked_up_and_learned_while_the_book_is_held() {
    let fdb = std::sync::Arc::new(fdb(8));
    fdb.learn(0, mac(1), A, 0);
    fdb.insert_static(0, mac(2), B);
    let (done, waiting) = std::sync::mpsc::channel();
    let held = fdb.book();
    let other = fdb.clone();
    std::thread::spawn(move || {
        let learned =
            (other.learn(0, mac(1), A, 9), other.learn(0, mac(2), B, 9), other.learn(0, mac(2), A, 9));
        let _ = done.send((learned, other.lookup(0, mac(1), 9), other.lookup(0, mac(3), 9)));
    });
    let found = waiting.recv_timeout(std::time::Duration::from_secs(30));
    drop(held);
    let learned = (Learned::Known, Learned::Known, Learned::Fixed(B));
    assert_eq!(found, Ok((learned, Some(A), None)));
}

/// A store takes the entry's cache line from every other thread that reads it.
#[test]
fn a_known_station_costs_a_store_a_second() {
    let fdb = fdb(8);
    fdb.learn(0, mac(1), A, 0);
    let before = STORES.get();
    for now in [0, 1, 2] {
        (0..1_000).for_each(|_| assert_eq!(fdb.learn(0, mac(1), A, now), Learned::Known));
    }
    assert_eq!(STORES.get() - before, 2);
}

/// A list's number was given to a port again while it still stood among those of flushed ports.
#[test]
fn bad_37_a_port_that_was_flushed_and_learns_again_does_not_pay_for_a_flood() {
    let fdb = fdb(64);
    fdb.learn(0, mac(1), A, 0);
    fdb.flush(A);
    fdb.learn(0, mac(1), A, 0);
    (100..1100).for_each(|n| _ = fdb.learn(0, mac(n), B, 0));
    assert_eq!(fdb.lookup(0, mac(1), 0), Some(A));
}

#[test]
fn learns_moves_and_ages() {
    let fdb = fdb(8);
    assert_eq!(fdb.learn(0, mac(1), A, 0), Learned::New);
    assert_eq!(fdb.learn(0, mac(1), A, 10), Learned::Known);
    assert_eq!(fdb.lookup(0, mac(1), 310), Some(A));
    assert_eq!(fdb.lookup(0, mac(1), 311), None);
    assert_eq!(fdb.lookup(5, mac(1), 10), None, "VLANs are apart");
    assert_eq!(fdb.learn(0, mac(1), B, 20), Learned::Moved { from: A });
    assert_eq!(fdb.lookup(0, mac(1), 20), Some(B));
    fdb.sweep(400);
    assert!(fdb.stations(400).is_empty());
    assert_eq!(fdb.learn(0, mac(1), A, 400), Learned::New);
}

#[test]
fn a_flush_forgets_one_port_and_leaves_static_entries() {
    let fdb = fdb(16);
    for n in 0..5 {
        fdb.learn(0, mac(n), A, 0);
    }
    fdb.learn(0, mac(9), B, 0);
    assert!(fdb.insert_static(0, mac(7), A));
    assert_eq!(fdb.flush(A), 5);
    assert_eq!(fdb.flush(A), 0);
    assert_eq!((fdb.lookup(0, mac(0), 0), fdb.lookup(0, mac(9), 0)), (None, Some(B)));
    assert_eq!(fdb.lookup(0, mac(7), 0), Some(A));
    fdb.forget_port(A);
    assert_eq!(fdb.stations(0).len(), 1);
}

#[test]
fn static_entries_do_not_move_age_or_give_way() {
    let fdb = fdb(4);
    assert!(fdb.insert_static(0, mac(1), A));
    assert_eq!(fdb.learn(0, mac(1), B, 0), Learned::Fixed(A));
    assert_eq!(fdb.learn(0, mac(1), A, 0), Learned::Known);
    assert_eq!(fdb.learn(0, mac(1), A, 7), Learned::Known);
    for n in 10..100 {
        fdb.learn(0, mac(n), B, 1);
    }
    assert_eq!(fdb.lookup(0, mac(1), 1_000_000), Some(A));
    assert_eq!(fdb.delete(0, mac(1), 0).map(|s| (s.slot, s.fixed)), Some((A, true)));
    assert_eq!(fdb.delete(0, mac(1), 0), None);
}

#[test]
fn all_room_static_learns_nothing_and_says_so() {
    let fdb = fdb(2);
    assert!(fdb.insert_static(0, mac(1), A) && fdb.insert_static(0, mac(2), A));
    assert!(!fdb.insert_static(0, mac(3), A));
    fdb.learn(0, mac(4), B, 0);
    assert_eq!(fdb.lookup(0, mac(4), 0), None);
}

#[test]
fn bad_37_a_mac_flood_evicts_only_its_own_port() {
    let fdb = fdb(8192);
    for n in 0..4000 {
        fdb.learn(0, mac(n), A, 0);
    }
    for n in 10_000..1_010_000 {
        fdb.learn(0, mac(n), B, 1);
    }
    for n in 0..4000 {
        assert_eq!(fdb.lookup(0, mac(n), 1), Some(A), "{n}");
    }
    assert_eq!(fdb.stations(1).len(), 8192);
    assert_eq!(fdb.lookup(0, mac(1_009_999), 1), Some(B), "the newest is there");
}

#[test]
fn a_flushed_port_gives_way_before_a_live_one() {
    let fdb = fdb(8);
    (0..4).for_each(|n| _ = fdb.learn(0, mac(n), A, 0));
    (10..14).for_each(|n| _ = fdb.learn(0, mac(n), B, 0));
    fdb.flush(A);
    (20..24).for_each(|n| _ = fdb.learn(0, mac(n), A, 1));
    assert_eq!((10..14).filter(|n| fdb.lookup(0, mac(*n), 1) == Some(B)).count(), 4);
    assert_eq!((20..24).filter(|n| fdb.lookup(0, mac(*n), 1) == Some(A)).count(), 4);
}

/// The same operations on a plain map give the same answers while there is room.
#[test]
fn agrees_with_a_map() {
    let fdb = Fdb::new(4096, u32::MAX, [0x1234_5678_9abc_def0, 0x0fed_cba9_8765_4321]);
    let mut oracle = std::collections::HashMap::new();
    let mut random = 1u64;
    for step in 0..50_000u32 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let (station, slot) = (mac(random >> 33 & 0x3ff), Slot((random >> 50 & 3) as u32));
        match random >> 60 {
            0 => {
                fdb.flush(slot);
                oracle.retain(|_, at| *at != slot);
            }
            1 => {
                let known = oracle.remove(&station);
                assert_eq!(fdb.delete(0, station, step).map(|s| s.slot), known, "step {step}");
            }
            2 => fdb.sweep(step),
            _ => {
                // A second each: nobody moves too often.
                fdb.learn(0, station, slot, step);
                oracle.insert(station, slot);
            }
        }
        assert_eq!(fdb.lookup(0, station, step), oracle.get(&station).copied(), "step {step}");
    }
    assert_eq!(fdb.stations(50_000).len(), oracle.len());
}

#[test]
fn bad_37_a_port_learns_no_more_than_it_may() {
    let fdb = fdb(64);
    fdb.limit_port(B, 4);
    (0..4).for_each(|n| assert_eq!(fdb.learn(0, mac(n), B, 0), Learned::New));
    assert_eq!(fdb.learn(0, mac(4), B, 0), Learned::Full);
    assert_eq!(fdb.learn(0, mac(0), B, 1), Learned::Known, "who is there stays");
    assert_eq!(fdb.learn(0, mac(9), A, 1), Learned::New);
    assert_eq!(fdb.learn(0, mac(9), B, 1), Learned::Full, "nor does one move in");
    assert_eq!(fdb.lookup(0, mac(9), 1), Some(A));
    // Whoever is silent for too long gives way, and a flush makes room for all.
    assert_eq!(fdb.learn(0, mac(4), B, 301), Learned::New);
    assert_eq!(fdb.flush(B), 4);
    (10..14).for_each(|n| assert_eq!(fdb.learn(0, mac(n), B, 301), Learned::New));
    assert_eq!(fdb.learn(0, mac(14), B, 301), Learned::Full);
    fdb.limit_port(B, 5);
    assert_eq!(fdb.learn(0, mac(14), B, 301), Learned::New);
}

#[test]
fn bad_38_a_station_that_moves_too_often_is_held_where_it_is() {
    let fdb = fdb(64);
    fdb.learn(0, mac(1), A, 0);
    for n in 1..=5 {
        let (to, from) = if n % 2 == 1 { (B, A) } else { (A, B) };
        assert_eq!(fdb.learn(0, mac(1), to, 7), Learned::Moved { from });
    }
    assert_eq!(fdb.learn(0, mac(1), A, 7), Learned::Moved { from: B }, "home");
    let hold = |held| Hold { vid: 0, mac: mac(1), slot: A, held };
    assert_eq!(fdb.moves(7), (6, vec![hold(true)]));
    assert_eq!(fdb.learn(0, mac(1), A, 8), Learned::Known, "there it may speak");
    assert_eq!(fdb.learn(0, mac(2), B, 8), Learned::New, "others are not concerned");
    assert_eq!(fdb.learn(0, mac(1), B, 17), Learned::Held);
    assert_eq!(fdb.moves(18), (6, vec![hold(false)]));
    assert_eq!(fdb.learn(0, mac(1), B, 18), Learned::Moved { from: A });
    // A port that goes takes the hold along.
    (0..9).for_each(|n| _ = fdb.learn(0, mac(1), if n % 2 == 0 { B } else { A }, 20));
    let held = fdb.lookup(0, mac(1), 20).unwrap();
    fdb.flush(held);
    let other = if held == A { B } else { A };
    assert_eq!(fdb.learn(0, mac(1), other, 21), Learned::New);
}

/// Seeds under which a station's first bucket of 32 is `first`, its second one `first ^ step`.
pub(super) fn crowded() -> Fdb {
    Fdb::new(64, 300, [0, 1])
}

pub(super) fn in_buckets(first: u64, step: u64, n: u64) -> MacAddr {
    MacAddr::from_bits(first | n << 8 | step << 32)
}

#[test]
fn entries_move_for_a_new_one() {
    let fdb = crowded();
    let near: Vec<_> = (1..6).map(|n| in_buckets(0, 1, n)).collect();
    let far: Vec<_> = (1..5).map(|n| in_buckets(1, 5, n)).collect();
    far.iter().for_each(|mac| _ = fdb.learn(0, *mac, B, 0));
    near[..4].iter().for_each(|mac| _ = fdb.learn(0, *mac, A, 0));
    assert_eq!((fdb.free_way(0), fdb.free_way(1)), (None, None));
    assert_eq!(fdb.learn(0, near[4], A, 0), Learned::New, "one of 1 to 4, then one of 0 to 1");
    near.iter().for_each(|mac| assert_eq!(fdb.lookup(0, *mac, 0), Some(A)));
    far.iter().for_each(|mac| assert_eq!(fdb.lookup(0, *mac, 0), Some(B)));
    assert_eq!((fdb.flush(A), fdb.flush(B)), (5, 4), "the lists moved along");
    fdb.sweep(0);
    assert_eq!(fdb.book().entries(), 0);
    assert!(fdb.indices().all(|index| fdb.entry(index).key.load(Relaxed) == EMPTY));
}

#[test]
fn in_buckets_that_cannot_be_relieved_the_stalest_gives_way_and_no_static_one() {
    let fdb = crowded();
    let macs: Vec<_> = (1..12).map(|n| in_buckets(0, 1, n)).collect();
    assert!(fdb.insert_static(0, macs[0], B));
    for (now, mac) in macs[1..].iter().enumerate() {
        assert_eq!(fdb.learn(0, *mac, A, now as u32), Learned::New);
    }
    let known: Vec<_> = macs.iter().map(|mac| fdb.lookup(0, *mac, 10).is_some()).collect();
    assert_eq!(known, [true, false, false, false, true, true, true, true, true, true, true]);
    assert!(macs[1..8].iter().all(|mac| fdb.insert_static(0, *mac, B)));
    assert!(!fdb.insert_static(0, macs[8], B));
    assert_eq!(fdb.book().entries(), 8);
}

#[test]
fn a_generation_that_comes_round_brings_nothing_back() {
    let fdb = fdb(16);
    fdb.learn(0, mac(1), A, 0);
    fdb.learn(0, mac(2), B, 0);
    assert!(fdb.insert_static(0, mac(3), A));
    let flushed: u64 = (0..1 << 15).map(|_| fdb.flush(A)).sum();
    assert_eq!((flushed, fdb.place(A)), (1, A.0));
    let at = |n| fdb.lookup(0, mac(n), 0);
    assert_eq!((at(1), at(2), at(3)), (None, Some(B), Some(A)));
}

/// The store of a station heard again must not make an entry a learned one that has become static.
#[test]
fn a_late_stamp_leaves_a_static_entry_static() {
    let fdb = fdb(8);
    assert!(fdb.insert_static(0, mac(1), A));
    fdb.find(key(0, mac(1))).unwrap().seen.store(5, Relaxed);
    assert_eq!(fdb.lookup(0, mac(1), 1_000_000), Some(A));
    assert_eq!(fdb.learn(0, mac(1), B, 1_000_000), Learned::Fixed(A));
    assert_eq!(fdb.stations(1_000_000)[0].age, 0);
}

/// Two writers, one that flushes, sweeps and fixes, and a reader; in a table where entries are always
/// on the move.
#[test]
fn readers_and_writers_together_never_see_a_foreign_port() {
    for fdb in [fdb(32), crowded()] {
        // Odd stations live on slot 1, even ones on slot 2; the buckets of a few hold all of them.
        let station = |n: u64| in_buckets(n & 3, n % 3 * 2 + 1, n);
        std::thread::scope(|scope| {
            for slot in 1..3u64 {
                let fdb = &fdb;
                scope.spawn(move || {
                    for n in 0..50_000 {
                        fdb.learn(0, station(n % 100 * 2 + slot), Slot(slot as u32), n as u32 / 10_000);
                    }
                });
            }
            scope.spawn(|| {
                for n in 0..5_000 {
                    assert!(fdb.insert_static(1, station(n % 4), Slot(3)));
                    assert!(fdb.lookup(1, station(n % 4), 5).is_none_or(|slot| slot == Slot(3)));
                    fdb.sweep(0);
                    fdb.flush(Slot(n as u32 % 3));
                    assert!(fdb.delete(1, station(n % 4), 5).is_some_and(|station| station.fixed));
                }
            });
            for n in 0..200_000 {
                let n = n % 200 + 1;
                let want = Slot(if n % 2 == 1 { 1 } else { 2 });
                if let Some(slot) = fdb.lookup(0, station(n), 5) {
                    assert_eq!(slot, want);
                }
            }
        });
        fdb.flush(A);
        fdb.flush(B);
        fdb.sweep(5);
        assert_eq!(fdb.book().entries(), 0);
    }
}
