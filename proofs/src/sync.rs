//! loom's locks and atomics by the names of `crate::sync`, in whose place this stands.

pub use loom::sync::{Mutex, MutexGuard};
pub use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;

/// There is more than one thread: what happens before is the same in every order.
pub static SHARED: AtomicBool = AtomicBool::new(false);

// Not every proof needs all of it.
#[allow(dead_code, unused_imports)]
/// Atomics of which every access is an event of its own for loom. By itself loom 0.7 remembers only the last one of
/// each: a writer that looks before it writes hides from it who looked before, and orders go untried. The
/// relaxed `touch` orders nothing in the memory model.
pub mod atomic {
    use loom::sync::atomic::{self, AtomicUsize};
    pub use loom::sync::atomic::{Ordering, fence};

    use super::SHARED;

    macro_rules! atomics {
        ($($name:ident $value:ty),*) => {$(
            #[derive(Default)]
            pub struct $name {
                value: atomic::$name,
                touched: AtomicUsize,
            }

            impl $name {
                #[allow(dead_code)]
                pub fn new(value: $value) -> Self {
                    Self { value: atomic::$name::new(value), touched: AtomicUsize::new(0) }
                }

                pub fn load(&self, order: Ordering) -> $value {
                    self.touch();
                    self.value.load(order)
                }

                pub fn store(&self, value: $value, order: Ordering) {
                    self.touch();
                    self.value.store(value, order);
                }

                fn touch(&self) {
                    if SHARED.load(Ordering::Relaxed) {
                        self.touched.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        )*};
    }

    atomics!(AtomicU32 u32, AtomicU64 u64);
}
