//! Of tokio what a link's session uses. Sockets are made of loom's locks, and no time passes: what only a timer
//! would find waits for ever, and loom calls that a deadlock.

pub use real_tokio::select;

pub mod sync {
    pub use real_tokio::sync::{Notify, oneshot, watch};
}

pub mod time {
    use std::convert::Infallible;
    use std::time::Duration;

    pub use real_tokio::time::Instant;

    pub async fn sleep_until(_: Instant) {
        std::future::pending().await
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
    use std::task::{Poll, Waker};

    use loom::sync::{Condvar, Mutex, MutexGuard};

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
            self.state().ended = true;
            self.tell(|state| &mut state.readable);
        }

        /// The peer is gone.
        pub fn reset(&self) {
            self.state().broken = true;
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

        async fn ready(&self, which: fn(&mut State) -> &mut Readiness) -> io::Result<()> {
            poll_fn(|context| {
                let waker = context.waker().clone();
                let mut state = self.state();
                let readiness = which(&mut state);
                if readiness.is {
                    return Poll::Ready(Ok(()));
                }
                readiness.waiting.push(waker);
                Poll::Pending
            })
            .await
        }

        /// tokio's `try_io`: three steps, between which others come.
        fn attempt(
            &self,
            which: fn(&mut State) -> &mut Readiness,
            call: impl FnOnce(&mut State) -> io::Result<usize>,
        ) -> io::Result<usize> {
            let events = {
                let mut state = self.state();
                let readiness = which(&mut state);
                if !readiness.is {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                readiness.events
            };
            let result = call(&mut self.state());
            if result.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock) {
                let mut state = self.state();
                let readiness = which(&mut state);
                readiness.is &= readiness.events != events;
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
                |state| {
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
                |state| match state.from_peer.len().min(bytes.len()) {
                    _ if state.broken => Err(io::ErrorKind::ConnectionReset.into()),
                    0 if state.ended => Ok(0),
                    0 => Err(io::ErrorKind::WouldBlock.into()),
                    n => {
                        bytes[..n].copy_from_slice(&state.from_peer[..n]);
                        state.from_peer.drain(..n);
                        Ok(n)
                    }
                },
            )
        }

        pub async fn readable(&self) -> io::Result<()> {
            self.connection.ready(|state| &mut state.readable).await
        }

        pub async fn writable(&self) -> io::Result<()> {
            self.connection.ready(|state| &mut state.writable).await
        }
    }

    impl AsFd for TcpStream {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.fd.as_fd()
        }
    }
}
