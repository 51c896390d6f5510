//! Where frames meet the kernel: TAP, network device, WebSocket link, virtual machine, egress queue; and [`Ports`],
//! the registry through which everything above adds, changes and removes them.

pub mod capture;
mod congestion;
pub mod dial;
mod egress;
pub mod events;
mod fabric;
mod handover;
mod ingress;
mod link;
mod netdev;
pub mod netif;
mod own;
pub mod ports;
pub mod qemu;
pub mod resumable;
pub mod spec;
pub mod status;
mod suppress;
pub mod tally;
mod tap;
mod threads;
pub mod throttle;

pub use congestion::check as check_congestion;
pub use ports::{Incoming, PortError, Ports};
pub use spec::{LinkOptions, PortKind, PortRef, PortSpec, Profile};
pub use status::{InterfaceStatus, PortStatus};
