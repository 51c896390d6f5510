//! Messages through codecs in memory: one end encodes a batch, the other decodes it. Every payload that
//! comes out is compared with the one that went in before anything is timed.
//!
//! The others are driven through their streams over [`common::Wire`], which is all that they offer. A
//! role is the one that sends: a client masks, a server unmasks.

mod common;

use std::hint::black_box;

use bytes::Bytes;
use common::{Keys, Wire, now};
use criterion::{BenchmarkId, Criterion, Throughput};
use etherws::ws::codec::{Decoder, Event, Role, Step, encode};
use etherws::ws::header::Opcode;
use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{self, Message, protocol};

const BATCH: usize = 64;

fn main() {
    let mut criterion = common::criterion();
    for role in [Role::Client, Role::Server] {
        for len in [64, 1_024] {
            bench(&mut criterion, role, len);
        }
    }
    criterion.final_summary();
}

/// Both ends of one crate's link.
trait Link {
    /// Sends the batch and gives each payload that arrives.
    fn pass(&mut self, batch: &[Bytes], take: impl FnMut(&[u8]));
}

fn bench(criterion: &mut Criterion, role: Role, len: usize) {
    let batch: Vec<Bytes> =
        (0..BATCH).map(|n| (0..len).map(|i| (n * 31 + i * 7 + i / 251) as u8).collect()).collect();
    let mut group = criterion.benchmark_group(format!("codec {role:?}"));
    group.throughput(Throughput::Elements(BATCH as u64));
    macro_rules! bench {
        ($($name:literal: $link:expr,)*) => {$({
            let mut link = $link;
            for _ in 0..3 {
                let mut arrived = Vec::new();
                link.pass(&batch, |payload| arrived.push(Bytes::copy_from_slice(payload)));
                assert!(arrived == batch, "{} as {role:?} with {len} bytes", $name);
            }
            group.bench_function(BenchmarkId::new($name, len), |b| {
                b.iter(|| link.pass(black_box(&batch), |payload| _ = black_box(payload)))
            });
        })*};
    }
    bench! {
        "etherws": Ours::new(role),
        "tungstenite": Tungstenite::new(role),
        "tokio-tungstenite": TokioTungstenite::new(role),
        "tokio-websockets": TokioWebsockets::new(role),
        "fastwebsockets": FastWebsockets::new(role),
        "web-socket": WebSocket::new(role),
    }
}

struct Ours {
    keys: Option<Keys>,
    bytes: Vec<u8>,
    decoder: Decoder,
}

impl Ours {
    fn new(role: Role) -> Self {
        let (keys, other) = match role {
            Role::Client => (Some(Keys::new()), Role::Server),
            Role::Server => (None, Role::Client),
        };
        Self { keys, bytes: Vec::new(), decoder: Decoder::new(other, 1 << 16) }
    }
}

impl Link for Ours {
    fn pass(&mut self, batch: &[Bytes], mut take: impl FnMut(&[u8])) {
        self.bytes.clear();
        for message in batch {
            let key = self.keys.as_mut().map(Keys::draw);
            encode(&mut self.bytes, Opcode::Binary, &[(&message[..]).into()], key, &mut ());
        }
        let mut at = 0;
        while let Step::Used(used, event) = self.decoder.next(&mut self.bytes[at..]).expect("well formed") {
            let Some(Event::Binary(payload)) = event else { panic!("{event:?}") };
            take(payload.open());
            at += used;
        }
    }
}

fn theirs(role: Role) -> [protocol::Role; 2] {
    match role {
        Role::Client => [protocol::Role::Client, protocol::Role::Server],
        Role::Server => [protocol::Role::Server, protocol::Role::Client],
    }
}

struct Tungstenite([tungstenite::WebSocket<Wire>; 2]);

impl Tungstenite {
    fn new(role: Role) -> Self {
        let wire = Wire::default();
        Self(theirs(role).map(|role| tungstenite::WebSocket::from_raw_socket(wire.clone(), role, None)))
    }
}

impl Link for Tungstenite {
    fn pass(&mut self, batch: &[Bytes], mut take: impl FnMut(&[u8])) {
        let Self([from, to]) = self;
        for message in batch {
            from.write(Message::Binary(message.clone())).expect("memory takes it");
        }
        from.flush().expect("memory takes it");
        for _ in batch {
            take(&to.read().expect("a message").into_data());
        }
    }
}

struct TokioTungstenite([WebSocketStream<Wire>; 2]);

impl TokioTungstenite {
    fn new(role: Role) -> Self {
        let wire = Wire::default();
        Self(theirs(role).map(|role| now(WebSocketStream::from_raw_socket(wire.clone(), role, None))))
    }
}

impl Link for TokioTungstenite {
    fn pass(&mut self, batch: &[Bytes], mut take: impl FnMut(&[u8])) {
        let Self([from, to]) = self;
        for message in batch {
            now(from.feed(Message::Binary(message.clone()))).expect("memory takes it");
        }
        now(from.flush()).expect("memory takes it");
        for _ in batch {
            take(&now(to.next()).expect("a message").expect("well formed").into_data());
        }
    }
}

struct TokioWebsockets([tokio_websockets::WebSocketStream<Wire>; 2]);

impl TokioWebsockets {
    fn new(role: Role) -> Self {
        let wire = Wire::default();
        let client = tokio_websockets::ClientBuilder::new().take_over(wire.clone());
        let server = tokio_websockets::ServerBuilder::new().serve(wire);
        Self(if role == Role::Client { [client, server] } else { [server, client] })
    }
}

impl Link for TokioWebsockets {
    fn pass(&mut self, batch: &[Bytes], mut take: impl FnMut(&[u8])) {
        let Self([from, to]) = self;
        for message in batch {
            let message = tokio_websockets::Message::binary(message.clone());
            now(from.feed(message)).expect("memory takes it");
        }
        now(from.flush()).expect("memory takes it");
        for _ in batch {
            take(now(to.next()).expect("a message").expect("well formed").as_payload());
        }
    }
}

struct FastWebsockets([fastwebsockets::WebSocket<Wire>; 2]);

impl FastWebsockets {
    fn new(role: Role) -> Self {
        use fastwebsockets::Role::{Client, Server};
        let wire = Wire::default();
        let roles = if role == Role::Client { [Client, Server] } else { [Server, Client] };
        Self(roles.map(|role| fastwebsockets::WebSocket::after_handshake(wire.clone(), role)))
    }
}

impl Link for FastWebsockets {
    fn pass(&mut self, batch: &[Bytes], mut take: impl FnMut(&[u8])) {
        let Self([from, to]) = self;
        for message in batch {
            let payload = fastwebsockets::Payload::Borrowed(message);
            now(from.write_frame(fastwebsockets::Frame::binary(payload))).expect("memory takes it");
        }
        for _ in batch {
            take(&now(to.read_frame()).expect("a message").payload);
        }
    }
}

struct WebSocket([web_socket::WebSocket<Wire>; 2]);

impl WebSocket {
    fn new(role: Role) -> Self {
        let wire = Wire::default();
        let client = web_socket::WebSocket::client(wire.clone());
        let server = web_socket::WebSocket::server(wire);
        Self(if role == Role::Client { [client, server] } else { [server, client] })
    }
}

impl Link for WebSocket {
    fn pass(&mut self, batch: &[Bytes], mut take: impl FnMut(&[u8])) {
        let Self([from, to]) = self;
        for message in batch {
            now(from.send(&message[..])).expect("memory takes it");
        }
        for _ in batch {
            let event = now(to.recv_event()).expect("a message");
            let web_socket::Event::Data { data, .. } = event else { panic!("{event:?}") };
            take(&data);
        }
    }
}
