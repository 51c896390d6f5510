//! Descriptors that a service manager passed at the start (sd_listen_fds(3)).

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

/// Owns a descriptor that this process was started with, by a copy that programs run from here do not inherit; the number
/// that it was passed under is free again.
pub fn own(passed: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl(F_DUPFD_CLOEXEC) takes numbers alone; nix asks for a borrowed descriptor, which cannot be had of a
    // number in safe code.
    let copy = unsafe { libc::fcntl(passed, libc::F_DUPFD_CLOEXEC, 3) };
    let copy = Errno::result(copy)?;
    // SAFETY: the descriptor was made a line above, and nobody else knows it.
    let copy = unsafe { OwnedFd::from_raw_fd(copy) };
    // SAFETY: the number was passed to this process, and is given here once; nobody else in it uses it.
    drop(unsafe { OwnedFd::from_raw_fd(passed) });
    Ok(copy)
}
