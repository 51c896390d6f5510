//! What a frame costs: stages, counters, and what is made of them.
//!
//! * [`stage`]: the static tree of stages, directions and size classes
//! * [`recorder`]: the clock reads of one batch, as the data path tells of it; what a thread keeps of them
//!   between batches stands in `per_thread`
//! * [`counters`], [`trace`]: where they are added up, and the slowest frames kept
//! * [`profiler`]: the control side: levels, leases, snapshots
//! * [`snapshot`]: everything counted, at one moment, as it travels
//! * [`cpu`]: function stacks of the whole program, by CPU time
//! * [`view`]: tables of a snapshot
//! * [`formats`]: files of a snapshot, for other people's readers

pub mod counters;
pub mod cpu;
pub mod formats;
mod per_thread;
pub mod profiler;
pub mod recorder;
pub mod snapshot;
pub mod stage;
pub mod trace;
pub mod view;

pub use counters::{PortAt, Side};
pub use profiler::{Profiler, Want};
pub use recorder::Tape;
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
