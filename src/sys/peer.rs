//! Who is at the other end of a Unix socket, and how little the calling thread matters.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The supplementary groups of the process that connected, as they were then (SO_PEERGROUPS, Linux 4.13;
/// net/core/sock.c). Unlike /proc/PID/status it cannot be another process's by the time it is read.
pub fn groups(socket: BorrowedFd<'_>) -> io::Result<Vec<libc::gid_t>> {
    // NGROUPS_MAX; more groups nobody has.
    let mut groups = vec![0; 65_536];
    let mut len = libc::socklen_t::try_from(size_of_val(&groups[..])).unwrap_or(libc::socklen_t::MAX);
    // SAFETY: the kernel writes at most `len` bytes into `groups`, which has that many, and the number of those it
    // wrote into `len`; both live until it returns. nix has no such option.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    groups.truncate(len as usize / size_of::<libc::gid_t>());
    Ok(groups)
}

/// Of a thread that gives way to the others: a tenth of what one of them gets (sched(7)).
const LAST: libc::c_int = 10;

/// From now on the calling thread gives way to the others. Not SCHED_IDLE, a thousandth of a processor beside threads
/// that want all there is, nor nice 19, a seventieth: it is waited for.
pub fn run_last() -> io::Result<()> {
    // SAFETY: no pointer; 0 is the calling thread, as Linux has it (setpriority(2), "C library/kernel differences").
    // nix and std have no call for it.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, LAST) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn our_own_groups_are_those_of_our_peer() {
        let (one, _other) = UnixStream::pair().unwrap();
        let mut own: Vec<_> = nix::unistd::getgroups().unwrap().iter().map(|gid| gid.as_raw()).collect();
        let mut theirs = groups(one.as_fd()).unwrap();
        own.sort_unstable();
        theirs.sort_unstable();
        assert_eq!(theirs, own);
    }

    #[test]
    fn a_thread_alone_goes_last() {
        let nice = |path: &str| {
            let stat = std::fs::read_to_string(path).unwrap();
            // proc_pid_stat(5), field 19
            stat.rsplit_once(") ").unwrap().1.split(' ').nth(16).unwrap().to_owned()
        };
        let before = nice("/proc/thread-self/stat");
        let last = std::thread::spawn(move || {
            run_last().unwrap();
            nice("/proc/thread-self/stat")
        });
        assert_eq!(last.join().unwrap(), "10");
        assert_eq!(nice("/proc/thread-self/stat"), before);
    }
}
