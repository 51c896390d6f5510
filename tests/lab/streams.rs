//! Bytes that are known on both ends: over TCP and UDP from one host to another, and looked at by a
//! capture between them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

use super::capture::{Capture, Captured};
use super::packets::{NEEDS_CSUM, Packet, TCP};
use super::star::VID;
use super::{Host, SOON, inside};

/// Of every device, unless a test says otherwise.
pub const MTU: usize = 1500;

/// What is sent: the same bytes again and again, their number no power of two, so that a piece in the
/// wrong place is a wrong piece.
pub struct Content(Vec<u8>);

impl Content {
    pub fn new() -> Arc<Self> {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let word = |_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        };
        Arc::new(Self((0..131_101 / 8).flat_map(word).collect()))
    }

    /// The bytes at `offset` of the stream, some or all of the next `len`.
    pub fn at(&self, offset: usize, len: usize) -> &[u8] {
        let rest = &self.0[offset % self.0.len()..];
        &rest[..len.min(rest.len())]
    }

    fn is(&self, mut offset: usize, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let expected = self.at(offset, bytes.len());
            if !bytes.starts_with(expected) {
                return false;
            }
            offset += expected.len();
            bytes = &bytes[expected.len()..];
        }
        true
    }

    /// A datagram that is unlike its neighbours: its number, then bytes.
    pub fn datagram(&self, number: usize, len: usize) -> Vec<u8> {
        let mut bytes = (number as u32).to_be_bytes().to_vec();
        while bytes.len() < len {
            let more = self.at(number * 977 + bytes.len(), len - bytes.len()).to_vec();
            bytes.extend(more);
        }
        bytes
    }
}

/// What a capture made of the packets to one port.
pub struct Seen {
    content: Arc<Content>,
    port: u16,
    pub frames: usize,
    pub supers: usize,
    pub partial: usize,
    pub ecn: usize,
    pub longest: usize,
    pub untagged: usize,
    isn: Option<u32>,
    /// Of the stream: from, to.
    ranges: Vec<(usize, usize)>,
    pub datagrams: Vec<usize>,
    pub wrong: Vec<String>,
}

impl Seen {
    pub fn new(content: &Arc<Content>, port: u16) -> Self {
        Self {
            content: Arc::clone(content),
            port,
            frames: 0,
            supers: 0,
            partial: 0,
            ecn: 0,
            longest: 0,
            untagged: 0,
            isn: None,
            ranges: Vec::new(),
            datagrams: Vec::new(),
            wrong: Vec::new(),
        }
    }

    pub fn capture(self, host: &Host, device: &str) -> Capture<Self> {
        Capture::start(host, device, self, Self::look)
    }

    fn look(&mut self, captured: &Captured) {
        let Some(packet) = captured.packet() else { return };
        let mut say = |what: String| {
            if self.wrong.len() < 5 {
                let head = &packet.frame[..packet.frame.len().min(74)];
                self.wrong.push(format!(
                    "{what}: {:?}, {} bytes: {head:02x?}",
                    packet.vnet,
                    packet.frame.len()
                ));
            }
        };
        if let Err(what) = packet.check() {
            say(what);
        }
        if packet.longest() > MTU {
            say(format!("{} bytes at an MTU of {MTU}", packet.longest()));
        }
        if packet.port() != self.port {
            return;
        }
        self.frames += 1;
        self.supers += usize::from(packet.vnet.is_super());
        self.partial += usize::from(packet.vnet.flags & NEEDS_CSUM != 0);
        self.longest = self.longest.max(packet.end - packet.l3);
        self.untagged +=
            usize::from(packet.tag.is_none_or(|(tpid, tci)| (tpid, tci & 0xfff) != (0x8100, VID)));
        match packet.protocol {
            TCP => self.segment(&packet),
            _ => self.pieces(&packet),
        }
    }

    fn segment(&mut self, packet: &Packet) {
        if packet.is_syn() {
            self.isn = Some(packet.seq().wrapping_add(1));
        }
        let (Some(isn), payload) = (self.isn, packet.payload()) else { return };
        if payload.is_empty() {
            return;
        }
        self.ecn += usize::from(packet.ecn() == 2);
        let start = packet.seq().wrapping_sub(isn) as usize;
        if !self.content.is(start, payload) {
            self.wrong.push(format!("the bytes from {start} to {} of the stream", start + payload.len()));
            self.wrong.truncate(5);
        }
        match self.ranges.last_mut() {
            Some((_, end)) if *end == start => *end += payload.len(),
            _ => self.ranges.push((start, start + payload.len())),
        }
    }

    fn pieces(&mut self, packet: &Packet) {
        for piece in packet.pieces() {
            let number = piece.first_chunk().map_or(usize::MAX, |bytes| u32::from_be_bytes(*bytes) as usize);
            if piece != self.content.datagram(number % (1 << 20), piece.len()) {
                self.wrong.push(format!("datagram {number}"));
                self.wrong.truncate(5);
            }
            self.datagrams.push(number);
        }
    }

    /// Whether every byte of a stream of `size` was seen.
    pub fn is_whole(&mut self, size: usize) -> bool {
        self.ranges.sort_unstable();
        let reach = |reached, &(start, end): &(usize, usize)| {
            if start <= reached { end.max(reached) } else { reached }
        };
        self.ranges.iter().fold(0, reach) == size
    }
}

/// Sends `size` bytes; the receiver gets these and no others.
pub fn tcp(content: &Content, from: &Host, to: &Host, address: SocketAddr, size: usize) {
    let listener = inside(to, || TcpListener::bind(address)).expect("listen");
    let mut out =
        from.connect(&address.to_string()).unwrap_or_else(|error| panic!("connect {address}: {error}"));
    let (mut incoming, _) = listener.accept().expect("accept");
    incoming.set_read_timeout(Some(SOON)).expect("timeout");
    std::thread::scope(|scope| {
        scope.spawn(move || receive(content, &mut incoming, size));
        let mut sent = 0;
        while sent < size {
            let piece = content.at(sent, size - sent);
            out.write_all(piece).expect("send");
            sent += piece.len();
        }
        out.shutdown(std::net::Shutdown::Write).expect("shutdown");
        assert_eq!(out.read(&mut [0; 8]).expect("the receiver's end"), 0);
    });
}

fn receive(content: &Content, stream: &mut TcpStream, size: usize) {
    let (mut bytes, mut got) = (vec![0; 1 << 18], 0);
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => break,
            Ok(len) => {
                assert!(content.is(got, &bytes[..len]), "the stream differs between {got} and {}", got + len);
                got += len;
            }
            Err(error) => panic!("after {got} of {size} bytes: {error}"),
        }
    }
    assert_eq!(got, size);
}

pub const DATAGRAM: usize = 1200;

/// Sends datagrams 0 to `count`, many in one call, and the last of each call a short one; the receiver
/// gets each of them once and in order.
pub fn udp(content: &Content, from: &Host, to: &Host, address: SocketAddr, count: usize) {
    const CALL: usize = 40;
    let receiver = inside(to, || UdpSocket::bind(address)).expect("bind");
    setsockopt(&receiver, sockopt::RcvBufForce, &(16 << 20)).expect("SO_RCVBUF");
    receiver.set_read_timeout(Some(SOON)).expect("timeout");
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let sender = inside(from, || UdpSocket::bind(any)).expect("bind");
    setsockopt(&sender, sockopt::UdpGsoSegment, &(DATAGRAM as i32)).expect("UDP_SEGMENT");
    let got = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut bytes = [0; 2048];
            for number in 0..count {
                let len =
                    receiver.recv(&mut bytes).unwrap_or_else(|error| panic!("datagram {number}: {error}"));
                assert!(
                    bytes[..len] == content.datagram(number, datagram_len(number, CALL)),
                    "datagram {number}"
                );
                got.store(number + 1, Relaxed);
            }
        });
        for start in (0..count).step_by(CALL) {
            // A few calls ahead of the receiver, so that no queue overflows.
            let deadline = Instant::now() + SOON;
            while got.load(Relaxed) + 3 * CALL <= start {
                assert!(Instant::now() < deadline, "{} of {start} datagrams arrived", got.load(Relaxed));
                std::thread::sleep(Duration::from_millis(1));
            }
            let numbers = start..(start + CALL).min(count);
            let bytes: Vec<_> = numbers.flat_map(|n| content.datagram(n, datagram_len(n, CALL))).collect();
            assert_eq!(sender.send_to(&bytes, address).expect("send"), bytes.len());
        }
    });
}

fn datagram_len(number: usize, call: usize) -> usize {
    if number % call == call - 1 { 77 } else { DATAGRAM }
}
