//! Of tokio what a link's session uses. Sockets are made of loom's locks, and no time passes: what only a timer
//! would find waits for ever, and loom calls that a deadlock.

pub use real_tokio::select;

pub mod sync {
    pub use real_tokio::sync::{Notify, oneshot, watch};
}

pub mod io {
    pub enum Interest {
        Readable,
    }

    impl Interest {
        pub const READABLE: Self = Self::Readable;
    }
}

pub mod time {
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use std::time::Duration;

    pub use real_tokio::time::Instant;

    pub struct Sleep(Instant);

    pub fn sleep_until(due: Instant) -> Sleep {
        Sleep(due)
    }

    impl Sleep {
        pub fn deadline(&self) -> Instant {
            self.0
        }

        pub fn is_elapsed(&self) -> bool {
            false
        }

        pub fn reset(mut self: Pin<&mut Self>, due: Instant) {
            self.0 = due;
        }
    }

    impl Future for Sleep {
        type Output = ();

        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
            Poll::Pending
        }
    }

    pub async fn timeout<T>(_: Duration, work: impl Future<Output = T>) -> Result<T, Infallible> {
        Ok(work.await)
    }
}

pub mod task {
    pub async fn yield_now() {}
}

pub mod net {
    use std::future::poll_fn;
    use std::io::{self, IoSlice};
    use std::os::fd::{AsFd, BorrowedFd};
    use std::sync::Arc;
    use std::task::{Context, Poll, Waker};

    use loom::sync::{Condvar, Mutex, MutexGuard};

    use crate::io::Interest;

    /// A connection: what the kernel keeps of it, and what tokio believes.
    #[derive(Debug)]
    pub struct Connection {
        state: Mutex<State>,
        arrived: Condvar,
        /// Bytes that wait for the peer at most.
        room: usize,
    }

    #[derive(Debug, Default)]
    struct State {
        to_peer: Vec<u8>,
        from_peer: Vec<u8>,
        ended: bool,
        broken: bool,
        /// A write was refused: only then does the kernel tell when there is room again.
        refused: bool,
        writable: Readiness,
        readable: Readiness,
    }

    /// tokio's: set by an event, cleared by who was refused, unless an event has come meanwhile.
    #[derive(Debug, Default)]
    struct Readiness {
        is: bool,
        /// For ever: that a side is at its end is an event that is not cleared.
        closed: bool,
        events: u32,
        waiting: Vec<Waker>,
    }

    impl Connection {
        pub fn new(room: usize) -> Arc<Self> {
            Arc::new(Self { state: Mutex::default(), arrived: Condvar::new(), room })
        }

        /// The event that tokio gets for a socket that is new to it.
        pub fn begin(&self) {
            self.tell(|state| &mut state.writable);
        }

        /// What has come to the peer, once there is something.
        pub fn take(&self) -> Vec<u8> {
            let mut state = self.state();
            while state.to_peer.is_empty() {
                state = self.arrived.wait(state).unwrap();
            }
            let taken = std::mem::take(&mut state.to_peer);
            let tells = std::mem::take(&mut state.refused);
            drop(state);
            if tells {
                self.tell(|state| &mut state.writable);
            }
            taken
        }

        /// Bytes that the peer has not taken.
        pub fn waiting(&self) -> usize {
            self.state().to_peer.len()
        }

        /// The peer sends.
        pub fn give(&self, bytes: &[u8]) {
            self.state().from_peer.extend_from_slice(bytes);
            self.tell(|state| &mut state.readable);
        }

        /// The peer's side ends.
        pub fn end(&self) {
            let mut state = self.state();
            state.ended = true;
            state.readable.closed = true;
            drop(state);
            self.tell(|state| &mut state.readable);
        }

        /// The peer is gone.
        pub fn reset(&self) {
            let mut state = self.state();
            state.broken = true;
            (state.readable.closed, state.writable.closed) = (true, true);
            drop(state);
            self.tell(|state| &mut state.readable);
            self.tell(|state| &mut state.writable);
        }

        fn tell(&self, which: fn(&mut State) -> &mut Readiness) {
            let mut state = self.state();
            let readiness = which(&mut state);
            readiness.is = true;
            readiness.events += 1;
            let waiting = std::mem::take(&mut readiness.waiting);
            drop(state);
            waiting.into_iter().for_each(Waker::wake);
        }

        fn poll_ready(
            &self,
            which: fn(&mut State) -> &mut Readiness,
            context: &mut Context<'_>,
        ) -> Poll<io::Result<()>> {
            let waker = context.waker().clone();
            let mut state = self.state();
            let readiness = which(&mut state);
            if readiness.is {
                return Poll::Ready(Ok(()));
            }
            readiness.waiting.push(waker);
            Poll::Pending
        }

        /// tokio's `try_io`: three steps, between which others come.
        fn attempt<T>(
            &self,
            which: fn(&mut State) -> &mut Readiness,
            call: impl FnOnce() -> io::Result<T>,
        ) -> io::Result<T> {
            let events = {
                let mut state = self.state();
                let readiness = which(&mut state);
                if !readiness.is {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                readiness.events
            };
            let result = call();
            if result.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock) {
                let mut state = self.state();
                let readiness = which(&mut state);
                readiness.is &= readiness.closed || readiness.events != events;
            }
            result
        }

        fn state(&self) -> MutexGuard<'_, State> {
            self.state.lock().unwrap()
        }
    }

    #[derive(Debug)]
    pub struct TcpStream {
        connection: Arc<Connection>,
        /// For the options that are set on it.
        fd: std::net::TcpStream,
    }

    /// A link may have one; none here does.
    pub type UnixStream = TcpStream;

    /// What the next [`TcpStream::from_std`] is the other end of.
    pub static NEXT: std::sync::Mutex<Option<Arc<Connection>>> = std::sync::Mutex::new(None);

    impl TcpStream {
        pub fn from_std(fd: std::net::TcpStream) -> io::Result<Self> {
            let connection = NEXT.lock().unwrap().take().expect("a connection");
            Ok(Self { connection, fd })
        }

        pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
            self.try_write_vectored(&[IoSlice::new(bytes)])
        }

        pub fn try_write_vectored(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
            let connection = &self.connection;
            connection.attempt(
                |state| &mut state.writable,
                || {
                    let mut state = connection.state();
                    if state.broken {
                        return Err(io::ErrorKind::ConnectionReset.into());
                    }
                    let room = connection.room - state.to_peer.len();
                    if room == 0 {
                        state.refused = true;
                        return Err(io::ErrorKind::WouldBlock.into());
                    }
                    let all = parts.iter().flat_map(|part| part.iter().copied());
                    let before = state.to_peer.len();
                    state.to_peer.extend(all.take(room));
                    connection.arrived.notify_one();
                    Ok(state.to_peer.len() - before)
                },
            )
        }

        pub fn try_read(&self, bytes: &mut [u8]) -> io::Result<usize> {
            self.connection.attempt(
                |state| &mut state.readable,
                || {
                    let mut state = self.connection.state();
                    match state.from_peer.len().min(bytes.len()) {
                        _ if state.broken => Err(io::ErrorKind::ConnectionReset.into()),
                        0 if state.ended => Ok(0),
                        0 => Err(io::ErrorKind::WouldBlock.into()),
                        n => {
                            bytes[..n].copy_from_slice(&state.from_peer[..n]);
                            state.from_peer.drain(..n);
                            Ok(n)
                        }
                    }
                },
            )
        }

        pub fn try_io<T>(&self, of: Interest, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
            let Interest::Readable = of;
            self.connection.attempt(|state| &mut state.readable, call)
        }

        pub fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.connection.poll_ready(|state| &mut state.readable, context)
        }

        pub async fn writable(&self) -> io::Result<()> {
            poll_fn(|context| self.connection.poll_ready(|state| &mut state.writable, context)).await
        }
    }

    impl AsFd for TcpStream {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.fd.as_fd()
        }
    }
}
