//! Of `src/port` what stands between a batch of frames and the socket of a link.

pub use etherws::port::spec;

#[path = "../../src/port/capture.rs"]
mod capture;
#[path = "../../src/port/congestion.rs"]
mod congestion;
#[path = "../../src/port/egress.rs"]
pub mod egress;
#[path = "../../src/port/fabric/mod.rs"]
pub mod fabric;
#[path = "../../src/port/handover.rs"]
mod handover;
#[path = "../../src/port/link/mod.rs"]
pub mod link;
#[path = "../../src/port/suppress.rs"]
mod suppress;
#[path = "../../src/port/tally.rs"]
mod tally;
