//! A frame's whole way in memory: bytes as a TAP gives them, a switch, a message, the bytes that a
//! socket would carry, the message taken apart, another switch, bytes as a TAP takes them. All in batches
//! of what one read holds. Every frame that comes out is compared with the one that went in before
//! anything is timed.

mod common;

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use common::Keys;
use criterion::{BenchmarkId, Throughput};
use etherws::frame::{Frame, MacAddr, Outgoing};
use etherws::switch::{Fdb, Now, Port, Slot, Switch, Verdict, VlanRule};
use etherws::ws::codec::{Decoder, Event, Piece, Role, Step, encode};
use etherws::ws::header::Opcode;

/// Bytes of a frame, its Ethernet header included; the last is the largest that needs a 64-bit length.
const LENGTHS: [usize; 3] = [64, 1_514, 65_549];
/// At most what one read takes.
const BATCH: usize = 64;
const READ: usize = 256 << 10;
const STATIONS: u64 = 16;
/// Bytes of a frame that a link unmasks for the switch to look at.
const LOOKED_AT: usize = 22;
const NOW: Now = Now(Duration::from_secs(1));
const TAP: Slot = Slot(0);
const LINK: Slot = Slot(1);

fn main() {
    let mut criterion = common::criterion();
    for (direction, role) in [("masked", Role::Client), ("clear", Role::Server)] {
        let mut group = criterion.benchmark_group(format!("path {direction}"));
        for len in LENGTHS {
            let frames = frames(len);
            let mut path = Path::new(role);
            let mut arrived = Vec::new();
            path.pass(&frames, |out| arrived.push(out.parts().concat()));
            assert!(arrived == frames, "{direction} with {len} bytes");
            group.throughput(Throughput::Elements(frames.len() as u64));
            group.bench_function(BenchmarkId::new("two switches", len), |b| {
                b.iter(|| path.pass(black_box(&frames), |out| _ = black_box(out.parts())))
            });
        }
        group.finish();
    }
    criterion.final_summary();
}

fn near(n: u64) -> MacAddr {
    MacAddr::from_bits(0x0200_0000_0000 + n % STATIONS)
}

fn far(n: u64) -> MacAddr {
    MacAddr::from_bits(0x0200_0001_0000 + n * 7 % STATIONS)
}

fn frames(len: usize) -> Vec<Vec<u8>> {
    let frame = |n: u64| {
        let mut bytes: Vec<u8> = (0..len).map(|i| (n as usize * 31 + i * 7 + i / 251) as u8).collect();
        bytes[..6].copy_from_slice(&far(n).octets());
        bytes[6..12].copy_from_slice(&near(n).octets());
        bytes[12..14].copy_from_slice(&[0x08, 0x00]);
        bytes
    };
    (0..BATCH.min(READ / len) as u64).map(frame).collect()
}

/// Two switches and the link between them, from the one's TAP to the other's.
struct Path {
    sender: Switch<()>,
    receiver: Switch<()>,
    keys: Option<Keys>,
    bytes: Vec<u8>,
    decoder: Decoder,
}

impl Path {
    /// `role` is the sender's.
    fn new(role: Role) -> Self {
        let (keys, other) = match role {
            Role::Client => (Some(Keys::new()), Role::Server),
            Role::Server => (None, Role::Client),
        };
        let decoder = Decoder::new(other, etherws::frame::MAX_FRAME);
        Self { sender: switch(LINK), receiver: switch(TAP), keys, bytes: Vec::new(), decoder }
    }

    fn pass(&mut self, frames: &[Vec<u8>], mut take: impl FnMut(Outgoing<'_>)) {
        self.bytes.clear();
        let table = self.sender.table().load();
        let ingress = table.get(TAP).expect("put there");
        for bytes in frames {
            let frame = Frame::checked(bytes).expect("a frame");
            let Verdict::Unicast(LINK, retag) = self.sender.forward(&table, ingress, frame, NOW, &mut ())
            else {
                panic!("the station is behind the link")
            };
            let key = self.keys.as_mut().map(Keys::draw);
            let out = Outgoing::new(frame, retag);
            encode(&mut self.bytes, Opcode::Binary, &out.parts().map(Piece::from), key, &mut ());
        }

        let table = self.receiver.table().load();
        let ingress = table.get(LINK).expect("put there");
        let mut at = 0;
        while let Step::Used(used, event) = self.decoder.next(&mut self.bytes[at..]).expect("well formed") {
            let Some(Event::Binary(mut payload)) = event else { panic!("{event:?}") };
            payload.peek(LOOKED_AT);
            let frame = Frame::checked(payload.raw()).expect("a frame");
            let Verdict::Unicast(TAP, retag) = self.receiver.forward(&table, ingress, frame, NOW, &mut ())
            else {
                panic!("the station is behind the TAP")
            };
            take(Outgoing::new(Frame::checked(payload.open()).expect("a frame"), retag));
            at += used;
        }
    }
}

/// A switch that knows the far stations at `far_at` and the near ones at its other port.
fn switch(far_at: Slot) -> Switch<()> {
    let switch = Switch::new(Fdb::new(8_192, 300, [1, 2]));
    for slot in [TAP, LINK] {
        switch.put(Port {
            slot,
            number: slot.0 + 1,
            vlan: VlanRule::Transparent,
            isolated: false,
            bpdu: false,
            macs: Vec::new(),
            remote: slot == LINK,
            rate: None,
            shut: Arc::default(),
            counters: Arc::default(),
            egress: (),
        });
    }
    let near_at = if far_at == LINK { TAP } else { LINK };
    for n in 0..STATIONS {
        switch.fdb.learn(0, near(n), near_at, NOW.seconds());
        switch.fdb.learn(0, far(n), far_at, NOW.seconds());
    }
    switch
}
