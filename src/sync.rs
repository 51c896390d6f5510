//! Locks and atomics, by the names that std gives them. `proofs/` compiles the files that import them from here with
//! loom's in their place.

pub use std::sync::{Mutex, MutexGuard, PoisonError, atomic};
