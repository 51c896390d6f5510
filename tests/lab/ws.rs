//! WebSocket by hand over a plain TCP stream, for what no library would send. Written from RFC 6455
//! alone, sharing nothing with the program under test.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::Host;

pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;
pub const FIN: u8 = 0x80;

/// Headers of a good opening request but Host.
pub const UPGRADE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                           Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// An HTTP answer: status and head, lower case.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
}

pub struct RawWs {
    pub stream: TcpStream,
    got: Vec<u8>,
}

/// Sends `request` as it is; the answer and the open connection. Status 0: closed without one.
pub fn exchange(host: &Host, addr: &str, request: &str) -> (Answer, RawWs) {
    let mut stream = host.connect(addr).unwrap_or_else(|error| panic!("connect {addr}: {error}"));
    let _ = stream.write_all(request.as_bytes()); // may be refused half-way
    let mut got = Vec::new();
    let end = loop {
        if let Some(end) = got.windows(4).position(|w| w == b"\r\n\r\n") {
            break end + 4;
        }
        let mut bytes = [0; 4096];
        match stream.read(&mut bytes) {
            Ok(0) | Err(_) => return (Answer { status: 0, head: String::new() }, RawWs { stream, got }),
            Ok(n) => got.extend(&bytes[..n]),
        }
    };
    let head = String::from_utf8_lossy(&got[..end]).to_lowercase();
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
    got.drain(..end);
    (Answer { status, head }, RawWs { stream, got })
}

/// GET / with these header lines (each ending in CRLF) behind Host.
pub fn get(host: &Host, addr: &str, path: &str, headers: &str) -> (Answer, RawWs) {
    exchange(host, addr, &format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\n{headers}\r\n"))
}

/// An open WebSocket.
#[track_caller]
pub fn open(host: &Host, addr: &str) -> RawWs {
    let (answer, ws) = get(host, addr, "/", UPGRADE);
    assert_eq!(answer.status, 101, "{}", answer.head);
    // RFC 6455 1.3, the answer to the sample key
    assert!(answer.head.contains("s3pplmbitxaq9kygzzhzrbk+xoo="), "{}", answer.head);
    ws
}

/// One frame as a client sends it, its length in the shortest form.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let key = [0x11, 0x22, 0x33, 0x44];
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..126 => bytes.push(0x80 | len as u8),
        len @ 126..65536 => {
            bytes.push(0x80 | 126);
            bytes.extend((len as u16).to_be_bytes());
        }
        len => {
            bytes.push(0x80 | 127);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    bytes.extend(key);
    bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

impl RawWs {
    pub fn send_raw(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes); // the peer may have closed already; reading shows it
    }

    /// A whole message, masked.
    pub fn send(&mut self, opcode: u8, payload: &[u8]) {
        self.send_raw(&frame(FIN | opcode, payload));
    }

    /// The next frame, (opcode, payload); `None` at the end of the stream or when the time is up.
    /// Frames from the server must be whole and unmasked.
    pub fn next(&mut self, limit: Duration) -> Option<(u8, Vec<u8>)> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(frame) = self.parse() {
                return Some(frame);
            }
            let left = deadline.checked_duration_since(Instant::now())?.max(Duration::from_millis(1));
            self.stream.set_read_timeout(Some(left)).ok()?;
            let mut bytes = [0; 70_000];
            match self.stream.read(&mut bytes) {
                Ok(0) => return None,
                Ok(n) => self.got.extend(&bytes[..n]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
    }

    /// The next message of this opcode, whatever comes between.
    pub fn wait(&mut self, opcode: u8, limit: Duration) -> Option<Vec<u8>> {
        let deadline = Instant::now() + limit;
        while let Some((got, payload)) = self.next(deadline.saturating_duration_since(Instant::now())) {
            if got == opcode {
                return Some(payload);
            }
        }
        None
    }

    /// The status code of the Close that must come.
    #[track_caller]
    pub fn close_code(&mut self) -> u16 {
        let payload = self.wait(CLOSE, Duration::from_secs(10)).expect("a Close frame");
        u16::from_be_bytes(*payload.first_chunk().expect("a status code"))
    }

    /// Whether the peer ends the connection within the limit.
    pub fn ends(&mut self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if self.next(Duration::from_millis(200)).is_none() && self.at_end() {
                return true;
            }
        }
        false
    }

    fn at_end(&mut self) -> bool {
        let _ = self.stream.set_read_timeout(Some(Duration::from_millis(50)));
        match self.stream.peek(&mut [0]) {
            Ok(n) => n == 0,
            Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        }
    }

    fn parse(&mut self) -> Option<(u8, Vec<u8>)> {
        let [first, second] = *self.got.first_chunk()?;
        assert_eq!(second & 0x80, 0, "a server must not mask");
        assert_eq!(first & 0x70, 0, "no extension was agreed on");
        let (len, start) = match second {
            126 => (usize::from(u16::from_be_bytes(*self.got[2..].first_chunk()?)), 4),
            127 => (u64::from_be_bytes(*self.got[2..].first_chunk()?) as usize, 10),
            len => (usize::from(len), 2),
        };
        let payload = self.got.get(start..start + len)?.to_vec();
        self.got.drain(..start + len);
        Some((first & 0x0f, payload))
    }
}
