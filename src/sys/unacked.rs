//! What a TCP connection has sent and the far end's kernel has not acknowledged.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Bytes given to the socket that are not acknowledged, sent or not (SIOCOUTQ, tcp(7)).
pub fn unacked(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: SIOCOUTQ, which is TIOCOUTQ, writes one int, to an int that lives; the descriptor is borrowed. No crate
    // that is here has a safe form of it.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    match result {
        0 => Ok(u32::try_from(bytes).unwrap_or(0)),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn what_nobody_has_room_for_is_not_acknowledged() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let _peer = listener.accept().unwrap();
        assert_eq!(unacked(stream.as_fd()).unwrap(), 0);
        stream.set_nonblocking(true).unwrap();
        while stream.write(&[0; 1 << 16]).is_ok() {}
        assert!(unacked(stream.as_fd()).unwrap() > 1 << 16);
    }
}
