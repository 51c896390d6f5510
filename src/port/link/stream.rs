//! The sockets that a link may have.

use std::future::poll_fn;
use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::task::{Context, Poll};

use socket2::{Domain, Socket};
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};

/// A connected stream socket, at home in the runtime of the thread that made it this.
#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    /// Takes over a non-blocking socket of either family.
    pub fn adopt(socket: Socket) -> io::Result<Self> {
        match socket.domain()? {
            Domain::UNIX => UnixStream::from_std(socket.into()).map(Self::Unix),
            _ => TcpStream::from_std(socket.into()).map(Self::Tcp),
        }
    }

    /// One read. What does not fill the buffer was all that there is (epoll(7), edge-triggered, says when there is more):
    /// the next one is `WouldBlock` without asking the kernel. (A peer that sends urgent data, which nobody does, may wait for
    /// its own next bytes.)
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        // The inner read clears readiness when the kernel has nothing, and the outer one also behind the last that it has;
        // neither does where an event has come since it began.
        let mut got = None;
        let mut note = |n: usize, len: usize| {
            got = Some(n);
            if 0 < n && n < len { Err(ErrorKind::WouldBlock.into()) } else { Ok(n) }
        };
        let len = buffer.len();
        let tried = match self {
            Self::Tcp(stream) => stream.try_io(READABLE, || note(stream.try_read(buffer)?, len)),
            Self::Unix(stream) => stream.try_io(READABLE, || note(stream.try_read(buffer)?, len)),
        };
        got.map_or(tried, Ok)
    }

    pub fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write_vectored(slices),
            Self::Unix(stream) => stream.try_write_vectored(slices),
        }
    }

    pub async fn readable(&self) -> io::Result<()> {
        poll_fn(|cx| self.poll_readable(cx)).await
    }

    /// As [`Stream::readable`], for the one task that reads.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(cx),
            Self::Unix(stream) => stream.poll_read_ready(cx),
        }
    }

    pub async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.writable().await,
            Self::Unix(stream) => stream.writable().await,
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

const READABLE: Interest = Interest::READABLE;

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[tokio::test]
    async fn what_comes_behind_a_short_read_is_told_and_so_is_the_end() {
        let (ours, mut peer) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let stream = Stream::adopt(std::os::fd::OwnedFd::from(ours).into()).unwrap();
        let mut buffer = [0; 8];
        peer.write_all(b"0123456789").unwrap();
        stream.readable().await.unwrap();
        assert_eq!(stream.try_read(&mut buffer).unwrap(), 8);
        assert_eq!(stream.try_read(&mut buffer).unwrap(), 2);
        // The kernel is not asked: it would have this by now.
        peer.write_all(b"abc").unwrap();
        assert_eq!(stream.try_read(&mut buffer).unwrap_err().kind(), ErrorKind::WouldBlock);
        stream.readable().await.unwrap();
        assert_eq!(stream.try_read(&mut buffer).unwrap(), 3);
        peer.write_all(b"xyz").unwrap();
        drop(peer);
        stream.readable().await.unwrap();
        assert_eq!(stream.try_read(&mut buffer).unwrap(), 3);
        stream.readable().await.unwrap();
        assert_eq!(stream.try_read(&mut buffer).unwrap(), 0);
    }
}
