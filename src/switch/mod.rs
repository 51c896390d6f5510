//! Who gets a frame: the FDB, VLAN rules, and the verdict. Pure: time is an argument, and nothing
//! here knows a socket.

pub mod arrivals;
pub mod counters;
pub mod fdb;
mod forward;
pub mod groups;
pub mod guard;
#[cfg(test)]
mod model_tests;
mod moving;
pub mod neigh;
pub mod trace;
pub mod vlan;

pub use counters::{Counters, Reason};
pub use fdb::Fdb;
pub use forward::{Flood, Now, Port, Slot, Switch, Table, Verdict};
pub use moving::Moving;
pub use vlan::VlanRule;
