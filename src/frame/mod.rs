//! Ethernet as bytes: views, addresses, checksums, the virtio header, segmentation. Pure.

pub mod checksum;
pub mod eth;
pub mod offload;
mod packet;
pub mod segment;

pub use eth::{Frame, MAX_FRAME, MIN_FRAME, MacAddr, Outgoing, Retag, Tag, Vid, VidSet};
