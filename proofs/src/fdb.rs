//! The forwarding database (`switch::fdb`): lock-free readers beside writers.

mod prove;
mod sync;
// Only the database of it is looked at here.
#[allow(dead_code, unused_imports)]
#[path = "../../src/switch/mod.rs"]
mod switch;

/// What the switch is built on, as it is.
use etherws::{frame, prof};

use frame::MacAddr;
use loom::sync::Arc;
use loom::thread::JoinHandle;
use prove::{go, prove};
use switch::Slot;
use switch::fdb::Learned;

/// The fewest slots, so that there are few atomics.
type Fdb = switch::fdb::Fdb<4>;

const A: Slot = Slot(1);
const B: Slot = Slot(2);
const AGEOUT: u32 = 300;

fn main() {
    prove("who takes an entry over is not taken for the one before", 3, || {
        let fdb = fdb(1);
        let [first, second] = [1, 2].map(|n| station(0, 1, n));
        fdb.learn(0, first, A, 0);
        let writer = with(&fdb, move |fdb| fdb.learn(0, second, B, 0));
        assert!(matches!(fdb.lookup(0, first, 0), None | Some(A)));
        assert!(matches!(fdb.lookup(0, second, 0), None | Some(B)));
        assert_eq!(writer.join().unwrap(), Learned::New);
        assert_eq!((fdb.lookup(0, first, 0), fdb.lookup(0, second, 0)), (None, Some(B)));
        assert_eq!((fdb.flush(A), fdb.flush(B)), (0, 1));
    });

    prove("nor listed at the port of the other", 3, || {
        let fdb = fdb(1);
        let [first, second] = [1, 2].map(|n| station(0, 1, n));
        fdb.learn(0, first, A, 0);
        let writer = with(&fdb, move |fdb| fdb.learn(0, second, B, 0));
        let is_true = |mac, slot| (mac, slot) == (first, A) || (mac, slot) == (second, B);
        assert!(fdb.stations(0).into_iter().all(|listed| is_true(listed.mac, listed.slot)));
        assert_eq!(writer.join().unwrap(), Learned::New);
    });

    prove("an entry that goes from its second bucket to its first is found at all times", 3, || {
        let fdb = fdb(12);
        let first: Vec<_> = (1..=5).map(|n| station(0, 1, n)).collect();
        first.iter().for_each(|mac| _ = fdb.learn(0, *mac, A, 0));
        (1..=3).for_each(|n| _ = fdb.learn(0, station(1, 5, n), A, 0));
        (1..=4).for_each(|n| _ = fdb.learn(0, station(2, 1, n), A, 0));
        fdb.delete(0, first[0], 0);
        // 1 and 2 are full; the first of 1 is the fifth of 0, which has room again.
        let writer = with(&fdb, |fdb| fdb.learn(0, station(1, 3, 9), B, 0));
        assert_eq!(fdb.lookup(0, first[4], 0), Some(A));
        assert_eq!(writer.join().unwrap(), Learned::New);
        assert_eq!((fdb.flush(A), fdb.flush(B)), (11, 1));
    });

    prove("as is one that goes from its first to its second, and another out of its way", 2, || {
        let fdb = fdb(9);
        let near: Vec<_> = (1..=5).map(|n| station(0, 1, n)).collect();
        let far: Vec<_> = (1..=4).map(|n| station(1, 5, n)).collect();
        far.iter().for_each(|mac| _ = fdb.learn(0, *mac, A, 0));
        near[..4].iter().for_each(|mac| _ = fdb.learn(0, *mac, A, 0));
        let new = near[4];
        let writer = with(&fdb, move |fdb| fdb.learn(0, new, B, 0));
        assert_eq!(fdb.lookup(0, near[0], 0), Some(A));
        assert_eq!(fdb.lookup(0, far[0], 0), Some(A));
        assert_eq!(writer.join().unwrap(), Learned::New);
        assert_eq!((fdb.flush(A), fdb.flush(B)), (8, 1));
    });

    prove("a station that moves is at the one port or the other, and never twice", 2, || {
        let fdb = fdb(4);
        let mac = station(0, 1, 1);
        fdb.learn(0, mac, A, 0);
        let there = with(&fdb, move |fdb| fdb.learn(0, mac, B, 0));
        let back = with(&fdb, move |fdb| fdb.learn(0, mac, A, 0));
        assert!(matches!(fdb.lookup(0, mac, 0), Some(A | B)));
        let moves = [there, back].map(|thread| thread.join().unwrap());
        let moved = moves.iter().filter(|learned| matches!(learned, Learned::Moved { .. })).count();
        assert_eq!((fdb.moves(0).0, fdb.stations(0).len()), (moved as u64, 1), "{moves:?}");
    });

    prove("two that hear a new station at once make one entry", 3, || {
        let fdb = fdb(4);
        let mac = station(0, 1, 1);
        let other = with(&fdb, move |fdb| fdb.learn(0, mac, B, 0));
        let here = fdb.learn(0, mac, A, 0);
        let there = other.join().unwrap();
        assert!(
            matches!(
                (here, there),
                (Learned::New, Learned::Moved { from: A }) | (Learned::Moved { from: B }, Learned::New)
            ),
            "{here:?} {there:?}"
        );
        assert_eq!(fdb.flush(A) + fdb.flush(B), 1);
    });

    prove("an aged station that moves is not found where it was", 3, || {
        let fdb = fdb(4);
        let (mac, late) = (station(0, 1, 1), AGEOUT + 1);
        fdb.learn(0, mac, A, 0);
        let writer = with(&fdb, move |fdb| fdb.learn(0, mac, B, late));
        assert!(matches!(fdb.lookup(0, mac, late), None | Some(B)));
        assert_eq!(writer.join().unwrap(), Learned::New);
        assert_eq!(fdb.lookup(0, mac, late), Some(B));
    });

    prove("nothing of the time before a flush is found behind it", 3, || {
        let fdb = fdb(4);
        let [known, new] = [1, 2].map(|n| station(0, 1, n));
        fdb.learn(0, known, A, 0);
        let learns = with(&fdb, move |fdb| [known, new].map(|mac| fdb.learn(0, mac, A, 1)));
        let flushed = fdb.flush(A);
        let [again, learned] = learns.join().unwrap();
        let is_there = |mac| fdb.lookup(0, mac, 1).is_some();
        assert_eq!(is_there(known), again == Learned::New, "heard {again:?}");
        assert_eq!(learned, Learned::New);
        assert_eq!(flushed, 1 + u64::from(!is_there(new)));
        fdb.sweep(1);
        let left = u64::from(is_there(known)) + u64::from(is_there(new));
        assert_eq!(fdb.flush(A), left);
    });

    prove("a static entry stays, whoever learns beside it", 2, || {
        let fdb = fdb(4);
        let mac = station(0, 1, 1);
        let learns = with(&fdb, move |fdb| fdb.learn(0, mac, A, 0));
        let fixes = with(&fdb, move |fdb| fdb.insert_static(0, mac, B));
        assert!(matches!(fdb.lookup(0, mac, 0), None | Some(A | B)));
        assert!(matches!(learns.join().unwrap(), Learned::New | Learned::Fixed(B)));
        assert!(fixes.join().unwrap());
        assert_eq!((fdb.lookup(0, mac, AGEOUT + 1), fdb.stations(0).len()), (Some(B), 1));
    });

    prove("a port that may have one station learns one of two", 3, || {
        let fdb = fdb(4);
        fdb.limit_port(A, 1);
        let other = with(&fdb, |fdb| fdb.learn(0, station(0, 1, 1), A, 0));
        let mut learned = [fdb.learn(0, station(0, 1, 2), A, 0), other.join().unwrap()];
        learned.sort_by_key(|learned| *learned == Learned::Full);
        assert_eq!(learned, [Learned::New, Learned::Full]);
        assert_eq!(fdb.flush(A), 1);
    });
}

/// Under these seeds a station's address says which buckets it has.
fn fdb(limit: usize) -> Arc<Fdb> {
    Arc::new(Fdb::with_slots(limit, AGEOUT, [0, 1]))
}

/// A station whose first bucket is `first`, its second one `first ^ step`.
fn station(first: u64, step: u64, n: u64) -> MacAddr {
    MacAddr::from_bits(first | n << 8 | step << 32)
}

fn with<T: Send + 'static>(fdb: &Arc<Fdb>, work: impl FnOnce(&Fdb) -> T + Send + 'static) -> JoinHandle<T> {
    let fdb = fdb.clone();
    go(move || work(&fdb))
}
