//! The kernel's doors: ioctls, socket options, clocks, and what the process may no longer do. With `ws::mask` and `frame::checksum` the only
//! place where `unsafe` is allowed.
#![allow(unsafe_code)]

use std::fmt;

pub mod clock;
pub mod cpu_sampler;
pub mod credential;
pub mod modules;
pub mod packet;
pub mod passed;
pub mod peer;
pub mod privileges;
mod readiness;
pub mod sandbox;
mod seccomp;
pub mod tun;
mod unacked;
pub mod unix;

pub use readiness::{Device, Held, readable};
pub use unacked::unacked;

/// What the kernel leaves to whoever reads a device, and takes from whoever writes to it: checksums and
/// TCP segmentation always, and perhaps UDP segmentation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Granted {
    /// UDP segmentation too (Linux 6.2).
    pub uso: bool,
}

/// Why a device could not be opened. Display names the device, the reason and what to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum OpenError {
    /// No device can have this name, or the device is of the wrong kind.
    Invalid(String),
    /// There is no such device.
    NotFound(String),
    /// The kernel refused.
    Failed(String),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Invalid(text) | Self::NotFound(text) | Self::Failed(text)) = self;
        f.write_str(text)
    }
}

impl std::error::Error for OpenError {}

/// The rules of `dev_valid_name()` (net/core/dev.c), and no `%`, which would make the kernel choose a
/// number.
pub fn check_device_name(name: &str) -> Result<(), OpenError> {
    let wrong = if name.is_empty() {
        "it is empty"
    } else if name.len() >= libc::IFNAMSIZ {
        "it is longer than 15 bytes"
    } else if name == "." || name == ".." {
        "it is a directory"
    } else if name.contains(['/', ':', '%']) {
        "it contains '/', ':' or '%'"
    } else if name.bytes().any(|b| b.is_ascii_whitespace() || b.is_ascii_control()) || !name.is_ascii() {
        "it contains white space, a control character or a non-ASCII letter"
    } else {
        return Ok(());
    };
    Err(OpenError::Invalid(format!("{name:?} cannot be a device's name: {wrong}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_names_are_checked_before_the_kernel_sees_them() {
        for good in ["tap0", "a", "fifteen-bytes-x", "eth0.10", "..."] {
            assert_eq!(check_device_name(good), Ok(()), "{good}");
        }
        for bad in
            ["", ".", "..", "sixteen-bytes-xx", "a/b", "tap%d", "a b", "a\0b", "a\n", "eth0:1", "t\u{e4}p"]
        {
            assert!(matches!(check_device_name(bad), Err(OpenError::Invalid(_))), "{bad:?}");
        }
    }
}
