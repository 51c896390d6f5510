//! The mask beside those of other crates and beside memcpy, cache-hot, at several lengths and
//! alignments; every result is compared with the sentence of the RFC before it is timed.
//!
//! Where a crate keeps its mask to itself, its public encoder is timed both ways, `masked` and `clear`,
//! and what stands under its name is the difference, taken between neighbouring turns. Ours is there
//! too, to be compared with: at 64 KiB the mask brings bytes to the first cache that a copy needs next,
//! and the difference is less than the mask takes by itself.
//! `ETHERWS_MASK` forces one of our kernels; its name is in the bench's.

mod common;

use std::hint::black_box;
use std::process::Command;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use common::{Wire, Work, beside, now};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput};
use etherws::ws::codec::encode;
use etherws::ws::header::Opcode;
use etherws::ws::mask::{Key, kernel, mask, mask_into};
use futures_util::SinkExt;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{Frame, FrameHeader, FrameSocket};

const KEY: Key = [0x37, 0xfa, 0x21, 0x3d];
const LENGTHS: [usize; 5] = [64, 512, 1_514, 9_014, 65_549];
/// Away from a cache line's start; all of them at an Ethernet frame's length, the first two elsewhere.
const OFFSETS: [usize; 8] = [0, 1, 3, 8, 17, 31, 33, 63];
const TURN: Duration = Duration::from_micros(20);
const ROUNDS: usize = 1_000;

fn main() {
    let mut criterion = common::criterion();
    let mut group = criterion.benchmark_group("mask");
    for len in LENGTHS {
        group.throughput(Throughput::Bytes(len as u64));
        let offsets = if len == 1_514 { &OFFSETS[..] } else { &OFFSETS[..2] };
        for offset in offsets {
            in_memory(&mut group, len, *offset);
        }
        encoders(&mut group, len);
    }
    group.finish();
    python(&mut criterion);
    criterion.final_summary();
}

/// The sentence of the RFC.
fn naive(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().enumerate().map(|(i, byte)| byte ^ KEY[i % 4]).collect()
}

fn sample(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 251) as u8).collect()
}

/// Messages of `len` bytes that begin `offset` behind a cache line's start, as many as stay in the
/// first cache with a copy of them. They take turns: to mask one and the same again at once would time
/// how a load waits for the overlapping stores before it, which no link does.
struct Messages {
    bytes: Vec<u8>,
    base: usize,
    stride: usize,
    count: usize,
    len: usize,
}

impl Messages {
    fn new(len: usize, offset: usize) -> Self {
        let stride = (offset + len).next_multiple_of(64) + 64;
        let count = (8_192 / stride).max(1);
        let mut bytes = vec![0; count * stride + 64];
        let base = bytes.as_ptr().align_offset(64) + offset;
        for i in 0..count {
            bytes[base + i * stride..][..len].copy_from_slice(&sample(len));
        }
        Self { bytes, base, stride, count, len }
    }

    fn get(&mut self, i: usize) -> &mut [u8] {
        &mut self.bytes[self.base + i * self.stride..][..self.len]
    }

    fn after(&self, i: usize) -> usize {
        if i + 1 == self.count { 0 } else { i + 1 }
    }
}

fn in_memory(group: &mut BenchmarkGroup<'_, WallTime>, len: usize, offset: usize) {
    let ours = format!("etherws {}", kernel());
    let copying = format!("{ours} copying");
    let mut names: Vec<&str> = Vec::new();
    let mut works: Vec<Work<'_>> = Vec::new();
    for (name, contender) in IN_PLACE {
        let name = if name == "etherws" { &ours } else { name };
        names.push(name);
        works.push(contender(name, len, offset));
    }

    let (mut from, mut to) = (Messages::new(len, offset), Messages::new(len, offset));
    names.push("memcpy");
    works.push(Box::new(move |times| {
        let mut i = 0;
        for _ in 0..times {
            i = from.after(i);
            black_box(to.get(i)).copy_from_slice(black_box(from.get(i)));
        }
    }));

    let mut from = Messages::new(len, offset);
    let mut out = Vec::with_capacity(len);
    mask_into(&mut out, from.get(0), KEY, 0);
    assert_eq!(out, naive(from.get(0)), "mask_into at {len}+{offset}");
    names.push(&copying);
    works.push(Box::new(move |times| {
        let mut i = 0;
        for _ in 0..times {
            i = from.after(i);
            out.clear();
            mask_into(black_box(&mut out), black_box(from.get(i)), black_box(KEY), 0);
        }
    }));

    let times = beside(&mut works, TURN, ROUNDS);
    for (name, times) in names.iter().zip(times) {
        common::record(group, BenchmarkId::new(*name, format!("{len}+{offset}")), &times);
    }
}

type InPlace = fn(&str, usize, usize) -> Work<'static>;

/// A loop of its own for each mask, into which the compiler can put it if it is one to be put into loops.
const IN_PLACE: [(&str, InPlace); 3] = [
    ("etherws", |name, len, offset| in_place(name, len, offset, |bytes, key| mask(bytes, key, 0))),
    ("fastwebsockets", |name, len, offset| in_place(name, len, offset, fastwebsockets::unmask)),
    ("yawc", |name, len, offset| in_place(name, len, offset, yawc::mask::apply_mask)),
];

fn in_place(name: &str, len: usize, offset: usize, mask: impl Fn(&mut [u8], Key) + 'static) -> Work<'static> {
    let mut messages = Messages::new(len, offset);
    for i in 0..messages.count {
        mask(messages.get(i), KEY);
        assert_eq!(messages.get(i), naive(&sample(len)), "{name} at {len}+{offset}");
    }
    Box::new(move |times| {
        let mut i = 0;
        for _ in 0..times {
            i = messages.after(i);
            mask(black_box(messages.get(i)), black_box(KEY));
        }
    })
}

fn encoders(group: &mut BenchmarkGroup<'_, WallTime>, len: usize) {
    let encoders: [(&str, Encoder); 4] = [
        ("etherws", etherws),
        ("tungstenite", tungstenite),
        ("tokio-websockets", tokio_websockets),
        ("web-socket", web_socket),
    ];
    let body = Bytes::from(sample(len));
    for (name, encoder) in encoders {
        let times =
            beside(&mut [encoder(body.clone(), None), encoder(body.clone(), Some(KEY))], TURN, ROUNDS);
        let [clear, masked] = &times[..] else { unreachable!("two were timed") };
        common::record(group, BenchmarkId::new(format!("{name} clear"), len), clear);
        common::record(group, BenchmarkId::new(format!("{name} masked"), len), masked);
        let mask: Vec<f64> = masked.iter().zip(clear).map(|(masked, clear)| masked - clear).collect();
        common::record(group, BenchmarkId::new(name, len), &mask);
    }
}

/// One encodes a body, masked if there is a key.
type Encoder = fn(Bytes, Option<Key>) -> Work<'static>;

fn etherws(body: Bytes, key: Option<Key>) -> Work<'static> {
    let mut out = Vec::new();
    Box::new(move |times| {
        for _ in 0..times {
            out.clear();
            encode(black_box(&mut out), Opcode::Binary, &[(&body[..]).into()], black_box(key), &mut ());
            assert!(out.len() > body.len());
        }
    })
}

fn tungstenite(body: Bytes, key: Option<Key>) -> Work<'static> {
    let wire = Wire::default();
    let mut socket = FrameSocket::new(wire.clone());
    Box::new(move |times| {
        for _ in 0..times {
            let opcode = OpCode::Data(Data::Binary);
            let header = FrameHeader { opcode, mask: black_box(key), ..FrameHeader::default() };
            socket.send(Frame::from_payload(header, body.clone())).expect("memory takes it");
            wire.clear();
        }
    })
}

fn tokio_websockets(body: Bytes, key: Option<Key>) -> Work<'static> {
    let wire = Wire::default();
    let mut socket = match key {
        Some(_) => tokio_websockets::ClientBuilder::new().take_over(wire.clone()),
        None => tokio_websockets::ServerBuilder::new().serve(wire.clone()),
    };
    Box::new(move |times| {
        for _ in 0..times {
            // Masked in place, so both get bytes of their own.
            let message = tokio_websockets::Message::binary(BytesMut::from(&body[..]));
            now(socket.send(message)).expect("memory takes it");
            wire.clear();
        }
    })
}

fn web_socket(body: Bytes, key: Option<Key>) -> Work<'static> {
    let encode = move |body: &[u8]| {
        let frame = web_socket::Frame::from(black_box(body));
        if key.is_some() { frame.encode_with_mask() } else { frame.encode_without_mask() }
    };
    let got = encode(&body);
    let (header, got) = got.split_at(got.len() - body.len());
    let key = key.map_or([0; 4], |_| header[header.len() - 4..].try_into().expect("four bytes"));
    let want: Vec<u8> = body.iter().enumerate().map(|(i, byte)| byte ^ key[i % 4]).collect();
    assert_eq!(got, want, "web-socket at {}", body.len());
    Box::new(move |times| (0..times).for_each(|_| _ = black_box(encode(&body))))
}

/// The function that this project exists for: a loop over bytes, as etherws 1.3 had it.
const PYTHON: &str = "
import sys, timeit
def mask(payload, key):
    data = bytearray(payload)
    for i in range(len(data)):
        data[i] ^= key[i % 4]
    return bytes(data)
payload, key = bytes((i * 7 + i // 251) & 255 for i in range(1514)), bytes([0x37, 0xfa, 0x21, 0x3d])
assert mask(mask(payload, key), key) == payload
print(mask(payload, key).hex(), *(t / 200 * 1e9 for t in timeit.repeat(lambda: mask(payload, key), number=200, repeat=5)))
";

/// Python times itself, five times.
fn python(criterion: &mut Criterion) {
    let Ok(output) = Command::new("python3").args(["-c", PYTHON]).output() else {
        println!("skipped: mask/python: there is no python3");
        return;
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let mut words = text.split_whitespace();
    let want: String = naive(&sample(1_514)).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(words.next(), Some(&want[..]), "python: {}", String::from_utf8_lossy(&output.stderr));
    let times: Vec<f64> = words.filter_map(|word| word.parse().ok()).collect();
    let mut group = criterion.benchmark_group("mask");
    common::record(&mut group, BenchmarkId::new("python", 1_514), &times);
}
