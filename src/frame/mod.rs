//! Ethernet as bytes: views, addresses, checksums, the virtio header, super-frames split and
//! put together; flows; who has which address; who wants which group; filters. Pure.

pub mod arp;
pub mod bpf;
pub mod checksum;
pub mod coalesce;
pub mod eth;
mod ethertype;
pub mod flow;
pub mod group;
mod igmp;
mod mld;
pub mod nd;
pub mod neighbour;
pub mod offload;
mod packet;
#[cfg(test)]
mod recipe;
pub mod segment;
pub mod stream;

pub use eth::{Frame, MAX_FRAME, MIN_FRAME, MacAddr, Outgoing, Retag, Tag, Vid, VidSet};
pub use ethertype::EtherType;
