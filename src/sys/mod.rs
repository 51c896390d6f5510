//! The kernel's doors: ioctls and socket options. With `ws::mask` and `frame::checksum` the only
//! place where `unsafe` is allowed.
#![allow(unsafe_code)]

pub mod packet;
pub mod tun;
