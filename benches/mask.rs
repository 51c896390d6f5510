//! The mask beside those of other crates and beside memcpy, cache-hot, at several lengths and
//! alignments; every result is compared with the sentence of the RFC before it is timed.
//!
//! Where a crate keeps its mask to itself, `masked` and `clear` time its public encoder both ways: the
//! difference is the mask. `ETHERWS_MASK` forces one of our kernels; its name is in the bench's.

mod common;

use std::hint::black_box;
use std::process::Command;

use bytes::{Bytes, BytesMut};
use common::{Wire, now};
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
    type InPlace = fn(&mut [u8], Key);
    let ours = format!("etherws {}", kernel());
    let in_place: [(&str, InPlace); 2] =
        [(&ours, |bytes, key| mask(bytes, key, 0)), ("fastwebsockets", fastwebsockets::unmask)];
    let id = |name: &str| BenchmarkId::new(name, format!("{len}+{offset}"));
    for (name, mask) in in_place {
        let mut messages = Messages::new(len, offset);
        for i in 0..messages.count {
            mask(messages.get(i), KEY);
            assert_eq!(messages.get(i), naive(&sample(len)), "{name} at {len}+{offset}");
        }
        let mut i = 0;
        group.bench_function(id(name), |b| {
            b.iter(|| {
                i = messages.after(i);
                mask(black_box(messages.get(i)), black_box(KEY));
            })
        });
    }

    let (mut from, mut to) = (Messages::new(len, offset), Messages::new(len, offset));
    let mut i = 0;
    group.bench_function(id("memcpy"), |b| {
        b.iter(|| {
            i = from.after(i);
            black_box(to.get(i)).copy_from_slice(black_box(from.get(i)));
        })
    });

    let mut out = Vec::with_capacity(len);
    mask_into(&mut out, from.get(0), KEY, 0);
    assert_eq!(out, naive(from.get(0)), "mask_into at {len}+{offset}");
    group.bench_function(id(&format!("{ours} copying")), |b| {
        b.iter(|| {
            i = from.after(i);
            out.clear();
            mask_into(black_box(&mut out), black_box(from.get(i)), black_box(KEY), 0);
        })
    });
}

fn encoders(group: &mut BenchmarkGroup<'_, WallTime>, len: usize) {
    let body = Bytes::from(sample(len));
    for (mode, key) in [("clear", None), ("masked", Some(KEY))] {
        let id = |name: &str| BenchmarkId::new(format!("{name} {mode}"), len);

        let mut out = Vec::new();
        let mut ours = || {
            out.clear();
            encode(black_box(&mut out), Opcode::Binary, &[(&body[..]).into()], black_box(key));
            out.len()
        };
        assert!(ours() > len);
        group.bench_function(id("etherws"), |b| b.iter(&mut ours));

        let wire = Wire::default();
        let mut socket = FrameSocket::new(wire.clone());
        let mut tungstenite = || {
            let opcode = OpCode::Data(Data::Binary);
            let header = FrameHeader { opcode, mask: black_box(key), ..FrameHeader::default() };
            socket.send(Frame::from_payload(header, body.clone())).expect("memory takes it");
            wire.clear();
        };
        group.bench_function(id("tungstenite"), |b| b.iter(&mut tungstenite));

        let wire = Wire::default();
        let mut socket = match key {
            Some(_) => tokio_websockets::ClientBuilder::new().take_over(wire.clone()),
            None => tokio_websockets::ServerBuilder::new().serve(wire.clone()),
        };
        let mut tokio_websockets = || {
            // Masked in place, so both get bytes of their own.
            let message = tokio_websockets::Message::binary(BytesMut::from(&body[..]));
            now(socket.send(message)).expect("memory takes it");
            wire.clear();
        };
        group.bench_function(id("tokio-websockets"), |b| b.iter(&mut tokio_websockets));

        let web_socket = || {
            let frame = web_socket::Frame::from(black_box(&body[..]));
            if key.is_some() { frame.encode_with_mask() } else { frame.encode_without_mask() }
        };
        let got = web_socket();
        let (header, got) = got.split_at(got.len() - len);
        let want = match key {
            Some(_) => {
                let (_, key) = header.split_at(header.len() - 4);
                body.iter().enumerate().map(|(i, byte)| byte ^ key[i % 4]).collect()
            }
            None => body.to_vec(),
        };
        assert_eq!(got, want, "web-socket {mode} at {len}");
        group.bench_function(id("web-socket"), |b| b.iter(web_socket));
    }
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
    group.bench_function(BenchmarkId::new("python", 1_514), |b| common::record(b, &times));
}
