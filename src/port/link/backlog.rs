//! How much the kernel may hold of a connection before it has sent it (TCP_NOTSENT_LOWAT): what waits there
//! can no longer be overtaken. Enough for a millisecond at the rate that the connection has, measured while
//! it is blocked: then the rate is its own.

use std::time::Instant;

use socket2::SockRef;

pub struct Backlog {
    start: Instant,
    /// When this measurement began, in nanoseconds since `start`, and how many bytes were written by then.
    window: (u64, u64),
    /// Bytes a second, the best of late.
    rate: u64,
    /// Bytes.
    unsent: u32,
}

impl Backlog {
    pub fn new(socket: &SockRef<'_>) -> Self {
        // Where the kernel knows no such limit there is none.
        let _ = socket.set_tcp_notsent_lowat(FIRST);
        Self { start: Instant::now(), window: (0, 0), rate: 0, unsent: FIRST }
    }

    /// Nanoseconds since the connection began.
    pub fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// What a write is given at a time.
    pub fn piece(&self) -> usize {
        (self.unsent as usize / 2).clamp(16 << 10, 256 << 10)
    }

    /// The socket has become blocked, `taken` bytes being written.
    pub fn begins(&mut self, now: u64, taken: u64) {
        self.window = (now, taken);
    }

    /// It has been blocked since, and `taken` bytes are written now.
    pub fn goes_on(&mut self, socket: &SockRef<'_>, now: u64, taken: u64) {
        let (since, before) = self.window;
        let passed = now.saturating_sub(since);
        if passed < WINDOW {
            return;
        }
        let rate = (u128::from(taken - before) * 1_000_000_000 / u128::from(passed)) as u64;
        self.rate = rate.max(self.rate - self.rate / 8);
        self.window = (now, taken);
        let unsent = (self.rate / 1_000 * AHEAD_MS).clamp(LEAST.into(), MOST.into()) as u32;
        if unsent.abs_diff(self.unsent) > self.unsent / 4 {
            let _ = socket.set_tcp_notsent_lowat(unsent);
            self.unsent = unsent;
        }
    }
}

const WINDOW: u64 = 50_000_000;
const AHEAD_MS: u64 = 1;
const FIRST: u32 = 256 << 10;
/// 5 ms at 100 Mb/s.
const LEAST: u32 = 64 << 10;
const MOST: u32 = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_holds_a_millisecond_of_what_it_sends() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let socket = SockRef::from(&stream);
        let mut backlog = Backlog::new(&socket);
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), FIRST);
        let mut taken = 0;
        let mut at = |backlog: &mut Backlog, rate: u64, windows: u64, now: &mut u64| {
            backlog.begins(*now, taken);
            for _ in 0..windows {
                *now += WINDOW;
                taken += rate / 20;
                backlog.goes_on(&socket, *now, taken);
            }
            socket.tcp_notsent_lowat().unwrap()
        };
        let mut now = 0;
        assert_eq!(at(&mut backlog, 100_000_000, 1, &mut now), 100_000);
        assert_eq!(at(&mut backlog, 110_000_000, 1, &mut now), 100_000, "not for so little");
        assert_eq!(at(&mut backlog, 5_000_000_000, 1, &mut now), MOST);
        assert_eq!(at(&mut backlog, 1_000_000, 1, &mut now), MOST, "slowly back");
        let least = at(&mut backlog, 1_000_000, 60, &mut now);
        assert!((LEAST..LEAST * 4 / 3).contains(&least), "{least}");
        assert_eq!(backlog.piece(), least as usize / 2);
    }
}
