//! etherws: an Ethernet switch whose long cables are WebSockets.
//!
//! The map, top to bottom; a module may import only from those below it:
//!
//! * [`daemon`]: configuration, start, signals and systemd
//! * [`control`]: how people reach it: the JSON-RPC contract, the HTTP listener, authentication
//! * [`port`]: where frames meet the kernel: TAP, network device, WebSocket link, virtual machine, egress queue
//! * [`switch`]: who gets a frame: FDB, VLAN, forward -> verdict (pure)
//! * [`frame`]: Ethernet as bytes (pure)
//!
//! [`ws`] (WebSocket as bytes, pure) and [`prof`] (what a frame costs) are used from `port` upward;
//! [`sys`] holds ioctls, socket options and clocks and lies under `port` and `prof`. The pure modules
//! know of `prof` only its stages and the [`prof::Probe`] that they tell them to. `sync` names std's locks for
//! those whose every interleaving is tried.

pub mod control;
pub mod daemon;
pub mod frame;
pub mod port;
pub mod prof;
pub mod switch;
mod sync;
pub mod sys;
pub mod ws;
