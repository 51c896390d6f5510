//! One property, in every order of what its threads do to atomics and locks that the C11 memory model allows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use loom::model::Builder;
use loom::thread::JoinHandle;

use crate::sync::SHARED;

/// Runs `property` in each of them, but for those in which a thread is interrupted more than `interrupted` times
/// between two operations of its own. What it asserts ends the program where it does not hold.
pub fn prove(name: &str, interrupted: usize, property: impl Fn() + Send + Sync + 'static) {
    let mut model = Builder::new();
    model.preemption_bound = Some(interrupted);
    model.max_branches = 10_000;
    let property = Arc::new(property);
    let tried = Arc::new(AtomicU64::new(0));
    let (start, count) = (Instant::now(), tried.clone());
    println!("{name}");
    model.check(move || {
        count.fetch_add(1, Relaxed);
        SHARED.store(false, Relaxed);
        let property = property.clone();
        thread(move || property()).join().expect("a property that holds");
    });
    println!("    {} orders, {:.1} s", tried.load(Relaxed), start.elapsed().as_secs_f32());
}

/// Another thread of a property.
pub fn go<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    SHARED.store(true, Relaxed);
    thread(work)
}

fn thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    loom::thread::Builder::new().stack_size(STACK).spawn(work).expect("a thread")
}

/// Words: loom's own would do for little more than atomics.
const STACK: usize = 32 << 10;
