//! A frame's whole way in memory: bytes as a TAP gives them, a switch, a message, the bytes that a
//! socket would carry, the message taken apart, another switch, bytes as a TAP takes them. All in batches
//! of what one read holds.

use std::sync::Arc;
use std::time::Duration;

use etherws::frame::{Frame, MacAddr, Outgoing};
use etherws::prof::{PortAt, Profiler, Side, Stage, Tape};
use etherws::switch::guard::Policer;
use etherws::switch::{Fdb, Now, Port, Slot, Switch, Verdict, VlanRule};
use etherws::with_tape;
use etherws::ws::codec::{Decoder, Event, Piece, Role, Step, encode};
use etherws::ws::header::Opcode;

use super::Keys;

/// At most what one read takes.
const BATCH: usize = 64;
const READ: usize = 256 << 10;
const STATIONS: u64 = 16;
/// Bytes of a frame that a link unmasks for the switch to look at.
const LOOKED_AT: usize = 26;
const NOW: Now = Now(Duration::from_secs(1));
const TAP: Slot = Slot(0);
const LINK: Slot = Slot(1);

fn near(n: u64) -> MacAddr {
    MacAddr::from_bits(0x0200_0000_0000 + n % STATIONS)
}

fn far(n: u64) -> MacAddr {
    MacAddr::from_bits(0x0200_0001_0000 + n * 7 % STATIONS)
}

pub fn frames(len: usize) -> Vec<Vec<u8>> {
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
pub struct Path {
    sender: Switch<()>,
    receiver: Switch<()>,
    keys: Option<Keys>,
    bytes: Vec<u8>,
    decoder: Decoder,
}

impl Path {
    /// `role` is the sender's.
    pub fn new(role: Role) -> Self {
        let (keys, other) = match role {
            Role::Client => (Some(Keys::new()), Role::Server),
            Role::Server => (None, Role::Client),
        };
        let decoder = Decoder::new(other, etherws::frame::MAX_FRAME);
        Self { sender: switch(LINK), receiver: switch(TAP), keys, bytes: Vec::new(), decoder }
    }

    /// Passes a batch, told to nobody.
    pub fn pass(&mut self, frames: &[Vec<u8>], take: impl FnMut(Outgoing<'_>)) {
        let idle = Profiler::idle();
        self.send(frames, idle, &mut ());
        self.receive(take, idle, &mut ());
    }

    /// Passes a batch at the profiler's level, as a data thread does.
    pub fn pass_profiled(
        &mut self,
        frames: &[Vec<u8>],
        take: impl FnMut(Outgoing<'_>),
        prof: &Arc<Profiler>,
    ) {
        with_tape!(prof, |tape| self.send(frames, prof, tape));
        with_tape!(prof, |tape| self.receive(take, prof, tape));
    }

    fn send(&mut self, frames: &[Vec<u8>], prof: &Arc<Profiler>, tape: &mut impl Tape) {
        self.bytes.clear();
        let table = self.sender.table().load();
        let ingress = table.get(TAP).expect("put there");
        tape.from(PortAt { slot: 0, number: 1, side: Side::Device });
        let link = PortAt { slot: 1, number: 2, side: Side::Client };
        let mut sum = 0;
        for bytes in frames {
            tape.mark(Stage::RxTapRead);
            let frame = Frame::checked(bytes).expect("a frame");
            let Verdict::Unicast(LINK, retag) = self.sender.forward(&table, ingress, frame, 1, NOW, tape)
            else {
                panic!("the station is behind the link")
            };
            tape.to(link);
            let key = self.keys.as_mut().map(Keys::draw);
            let out = Outgoing::new(frame, retag);
            encode(&mut self.bytes, Opcode::Binary, &out.parts().map(Piece::from), key, tape);
            tape.frame(tape.head(bytes), bytes.len(), 1, bytes.len() as u32);
            sum += bytes.len() as u64;
        }
        tape.mark_many(Stage::TxSockWrite, link, frames.len() as u64, sum);
        tape.end(prof, frames.len() as u64, sum);
    }

    fn receive(&mut self, mut take: impl FnMut(Outgoing<'_>), prof: &Arc<Profiler>, tape: &mut impl Tape) {
        tape.mark_batch(Stage::RxSockRead);
        let table = self.receiver.table().load();
        let ingress = table.get(LINK).expect("put there");
        tape.from(PortAt { slot: 1, number: 2, side: Side::Server });
        let (mut at, mut count, mut sum) = (0, 0, 0);
        while let Step::Used(used, event) = self.decoder.next(&mut self.bytes[at..]).expect("well formed") {
            let Some(Event::Binary(mut payload)) = event else { panic!("{event:?}") };
            tape.mark(Stage::RxWsParse);
            let sealed = payload.is_sealed();
            payload.peek(LOOKED_AT);
            if sealed {
                tape.mark(Stage::RxWsUnmask);
            }
            let frame = Frame::checked(payload.raw()).expect("a frame");
            let Verdict::Unicast(TAP, retag) = self.receiver.forward(&table, ingress, frame, 1, NOW, tape)
            else {
                panic!("the station is behind the TAP")
            };
            let sealed = payload.is_sealed();
            let bytes = payload.open();
            if sealed {
                tape.mark(Stage::RxWsUnmask);
            }
            tape.to(PortAt { slot: 0, number: 1, side: Side::Device });
            take(Outgoing::new(Frame::checked(bytes).expect("a frame"), retag));
            tape.mark(Stage::TxTapWrite);
            tape.frame(tape.head(bytes), bytes.len(), 1, bytes.len() as u32);
            at += used;
            count += 1;
            sum += bytes.len() as u64;
        }
        tape.end(prof, count, sum);
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
            ethertypes: Vec::new(),
            storm: None,
            heard: Arc::new(Policer::of_frames(1)),
            asked: Arc::new(Policer::of_frames(1)),
            max_macs: u32::MAX,
            gate: Arc::default(),
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
