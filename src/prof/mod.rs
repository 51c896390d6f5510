//! What a frame costs: stages, counters, and what is made of them.
//!
//! * [`stage`]: the static tree of stages, directions and size classes
//! * [`snapshot`]: everything counted, at one moment, as it travels
//! * [`cpu`]: function stacks of the whole program, by CPU time
//! * [`view`]: tables of a snapshot
//! * [`formats`]: files of a snapshot, for other people's readers

pub mod cpu;
pub mod formats;
pub mod snapshot;
pub mod stage;
pub mod view;

pub use stage::Stage;

/// Where code says that a stage has ended. `()` is nobody: it compiles to nothing.
pub trait Probe {
    /// What was done since the last mark was `stage`.
    fn mark(&mut self, stage: Stage);
}

impl Probe for () {
    #[inline(always)]
    fn mark(&mut self, _: Stage) {}
}
