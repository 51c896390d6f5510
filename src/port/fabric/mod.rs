//! One frame's way from ingress to egress, run to completion on the thread that read it.
//!
//! An ingress opens a [`Batch`] for what one read gave it, judges and delivers each frame, and closes
//! the batch: only then do links and network devices that were given frames write them, one system
//! call each.

mod deliver;
mod scratch;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::AcqRel, Ordering::Relaxed};
use std::time::Instant;

use arc_swap::ArcSwapOption;

use self::scratch::{KEPT, Kept};
pub use self::scratch::{MAX_MESSAGE, READ, Scratch, with_scratch};
use super::capture::{self, Captures, Seen, Watch, Way};
use super::egress::Egress;
use super::handover::{Handover, Left};
use super::suppress;
use super::tally::Tally;
use crate::frame::coalesce::Coalescer;
use crate::frame::group::{self, Sort};
use crate::frame::neighbour::{self, MAX_ANSWER};
use crate::frame::offload::{Arrived, HEAD, Unfinished, VnetHeader};
use crate::frame::{Frame, MIN_FRAME, Retag};
use crate::prof::recorder::Head;
use crate::prof::{PortAt, Profiler, Side, Stage, Tape};
use crate::switch::guard::loops;
use crate::switch::neigh::Known;
use crate::switch::{Fdb, Moving, Now, Port, Reason, Slot, Switch, Table, Verdict};
use crate::ws::codec::Payload;

/// Bytes of a frame that the switch looks at: addresses, two tags' worth and an EtherType; an IPv6 packet's next
/// header behind a tag.
pub const LOOKED_AT: usize = 26;

/// The switch, and the moment from which it counts time.
pub struct Fabric {
    pub switch: Switch<Egress>,
    /// What frames cost.
    pub prof: Arc<Profiler>,
    /// Who looks on.
    pub captures: Arc<Captures>,
    /// What no port can count.
    pub tally: Tally,
    /// Probes of the loop guard that came back.
    pub returned: Handover<{ loops::MAX_LEN }>,
    /// Frames of ARP and ND that were forwarded.
    pub heard: Handover<{ neighbour::MAX_LEN }>,
    /// Messages of IGMP and MLD that came in.
    pub told: Handover<{ group::MAX_LEN }>,
    /// Hosts are to be asked anew what they want.
    doubts: AtomicBool,
    /// This switch is about to end, and links that come in are told so.
    leaving: AtomicBool,
    /// What questions are answered by instead of being flooded; absent: all are flooded.
    pub known: ArcSwapOption<Known>,
    start: Instant,
}

/// What somebody said of his addresses.
pub type Heard = Left<{ neighbour::MAX_LEN }>;
/// What somebody said of multicast groups.
pub type Told = Left<{ group::MAX_LEN }>;
/// A probe of ours that came back.
pub type Probe = Left<{ loops::MAX_LEN }>;

/// A snapshot of the table, for as long as one batch.
pub type Snapshot = arc_swap::Guard<Arc<Table<Egress>>>;

impl Fabric {
    pub fn new(fdb: Fdb, prof: Arc<Profiler>) -> Self {
        let mut switch = Switch::new(fdb);
        switch.probe_source = Some(loops::source(rand::random()));
        Self {
            switch,
            prof,
            captures: Arc::default(),
            tally: Tally::default(),
            returned: Handover::new(RETURNED),
            heard: Handover::new(HEARD),
            told: Handover::new(TOLD),
            doubts: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            known: ArcSwapOption::empty(),
            start: Instant::now(),
        }
    }

    pub fn now(&self) -> Now {
        Now(self.start.elapsed())
    }

    /// Somewhere it is not sure any more who wants which multicast groups.
    pub fn doubt(&self) {
        // Whoever looks after this swap sees what was counted before it.
        if !self.doubts.swap(true, AcqRel) {
            self.told.wake();
        }
    }

    /// Whether there was such a doubt since the last time.
    pub fn has_doubts(&self) -> bool {
        self.doubts.swap(false, AcqRel)
    }

    /// From now on whoever comes in is told that this switch is about to end. Who is here is to be told after that.
    pub fn leaves(&self) {
        // The lock of a link comes before this for who comes in, or behind it for who tells.
        self.leaving.store(true, Relaxed);
    }

    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Relaxed)
    }

    pub fn table(&self) -> Snapshot {
        self.switch.table().load()
    }

    /// Begins a batch of frames from port `number` in `slot`; `None` once the port is gone, another one
    /// in its place or not. `tape` was opened before the frames were read.
    pub fn batch<'a, T: Tape>(
        &'a self,
        table: &'a Table<Egress>,
        slot: Slot,
        number: u32,
        tape: &'a mut T,
    ) -> Option<Batch<'a, T>> {
        let ingress = table.get(slot).filter(|port| port.number == number)?;
        let Kept { touched, others, coalescer } = KEPT.take();
        let now = self.now();
        tape.from(at(ingress));
        let (frames, bytes, watch) = (0, 0, self.captures.watch());
        Some(Batch {
            fabric: self,
            table,
            ingress,
            now,
            watch,
            touched,
            others,
            coalescer,
            frames,
            bytes,
            moving: None,
            tape,
        })
    }
}

/// A port as the profiler knows it.
fn at(port: &Port<Egress>) -> PortAt {
    let side = match &port.egress {
        Egress::Device(_) => Side::Device,
        Egress::Link(link) => link.side(),
    };
    PortAt { slot: port.slot.0, number: port.number, side }
}

/// Frames that came in together.
pub struct Batch<'a, T: Tape> {
    fabric: &'a Fabric,
    table: &'a Table<Egress>,
    ingress: &'a Port<Egress>,
    now: Now,
    watch: Watch,
    touched: Vec<Arc<Port<Egress>>>,
    /// Of the ports that a frame is flooded to, those that need it finished.
    others: Vec<(Arc<Port<Egress>>, Retag)>,
    coalescer: Option<Box<Coalescer>>,
    frames: u64,
    bytes: u64,
    /// By which connection of its port it came, while there are two.
    pub moving: Option<Moving>,
    /// What is told of it to the profiler.
    pub tape: &'a mut T,
}

impl<T: Tape> Batch<'_, T> {
    /// Judges and delivers a whole, finished frame.
    pub fn frame(&mut self, bytes: &[u8]) {
        self.finished(bytes);
        self.end_frame(self.tape.head(bytes), bytes.len(), None);
    }

    fn finished(&mut self, bytes: &[u8]) {
        if let Some(verdict) = self.judge(bytes, None) {
            self.deliver(verdict, bytes, None);
        }
    }

    /// The same for a frame of this host's kernel, which may have left something to do. With `offload`
    /// it may go on as it is; else it is finished here.
    pub fn frame_of_kernel(&mut self, frame: &mut [u8], header: &VnetHeader, offload: bool) {
        if header.asks_nothing() {
            return self.frame(frame);
        }
        let mut left = None;
        match Unfinished::from_kernel(frame, header) {
            Ok(Arrived::Finished) => self.finished(frame),
            Ok(Arrived::Unfinished(unfinished)) if offload => {
                if let Some(verdict) = self.judge(frame, Some(&unfinished)) {
                    self.deliver(verdict, frame, Some(&unfinished));
                }
                left = Some(unfinished);
            }
            Ok(Arrived::Unfinished(unfinished) | Arrived::Split(unfinished)) => {
                self.split(frame, &unfinished);
                left = Some(unfinished);
            }
            Err(refusal) => self.refuse(frame, frame.len(), refusal.into()),
        }
        self.end_frame(self.tape.head(frame), frame.len(), left.as_ref());
    }

    /// Tells the profiler that a frame is done.
    fn end_frame(&mut self, head: Head, len: usize, unfinished: Option<&Unfinished>) {
        let (frames, bytes) = on_cable(len, unfinished);
        self.tape.frame(head, len, frames, bytes);
    }

    /// The same for a peer's message; `vnet`: it begins with a header, and what that says is believed
    /// only as far as the frame bears it out. Bytes that go from link to link keep their mask until
    /// they are given another.
    ///
    /// `Some`: the frame is worth sending together with others of its read, and the caller gives it to
    /// [`Batch::merge`]; it is in clear then. `read` is what came before it in the read: what was kept
    /// of that goes out before a frame of perhaps the same flow that cannot be kept.
    pub fn message(&mut self, read: &mut [u8], mut payload: Payload<'_>, vnet: bool) -> Option<Slot> {
        let mut header = VnetHeader::default();
        let sealed = payload.is_sealed();
        // Who looks on sees all of it.
        let looked_at = if self.watch.is_some() { MAX_MESSAGE } else { LOOKED_AT };
        if vnet {
            payload.peek(VnetHeader::LEN + looked_at);
            let Some(bytes) = payload.raw().first_chunk() else {
                self.refused(&[], payload.len(), Reason::Runt);
                return None;
            };
            header = VnetHeader::from_little_endian(*bytes);
            payload = payload.behind(VnetHeader::LEN);
        } else {
            payload.peek(looked_at);
        }
        if sealed {
            self.tape.mark(Stage::RxWsUnmask);
        }
        let len = payload.len();
        match Frame::checked(payload.raw()) {
            Some(frame) if self.fabric.switch.is_own_probe(frame) => _ = payload.peek(loops::MAX_LEN),
            Some(frame) if neighbour::may_be(frame) => _ = payload.peek(neighbour::MAX_LEN),
            _ => (),
        }
        if self.table.snoops() && Frame::checked(payload.raw()).is_some_and(|frame| frame.dst().is_group()) {
            payload.peek(group::HEAD);
            if Frame::checked(payload.raw()).is_some_and(is_told) {
                payload.peek(group::MAX_LEN);
            }
        }
        let head = self.tape.head(payload.raw());
        let arrived = match checked(payload.raw()) {
            Err(reason) => Err(reason),
            Ok(_) if header.asks_nothing() => Ok(Arrived::Finished),
            Ok(_) => Unfinished::from_peer(payload.peek(HEAD), len, &header).map_err(Reason::from),
        };
        let mut left = None;
        match arrived {
            Err(reason) => self.refuse(payload.raw(), len, reason),
            Ok(Arrived::Split(unfinished)) => {
                self.finish(read);
                let frame = self.open(payload);
                self.split(frame, &unfinished);
                left = Some(unfinished);
            }
            Ok(Arrived::Unfinished(unfinished)) => {
                left = Some(unfinished);
                if let Some(verdict) = self.judge(payload.raw(), Some(&unfinished)) {
                    self.finish(read);
                    self.deliver_sealed(verdict, payload, Some(&unfinished));
                }
            }
            Ok(Arrived::Finished) => match self.judge(payload.raw(), None) {
                None => (),
                Some(Verdict::Unicast(slot, Retag::Keep))
                    if payload.is_in_place() && self.takes_merged(slot) =>
                {
                    self.open(payload);
                    return Some(slot);
                }
                Some(verdict) => {
                    // The rest of its flow may have come untagged, or before its station was forgotten.
                    if !matches!(verdict, Verdict::Unicast(slot, _) if !self.takes_merged(slot)) {
                        self.finish(read);
                    }
                    self.deliver_sealed(verdict, payload, None);
                }
            },
        }
        self.end_frame(head, len, left.as_ref());
        None
    }

    /// A payload in clear.
    fn open<'p>(&mut self, payload: Payload<'p>) -> &'p mut [u8] {
        let sealed = payload.is_sealed();
        let bytes = payload.open();
        if sealed {
            self.tape.mark(Stage::RxWsUnmask);
        }
        bytes
    }

    /// Sends the judged frame at `at` in `read`, a buffer with all messages of a read, to `slot`, now
    /// or together with those behind it: [`Batch::finish`] has to be called with the same buffer
    /// before it is used for anything else.
    pub fn merge(&mut self, read: &mut [u8], at: Range<usize>, slot: Slot) {
        let mut coalescer = self.coalescer.take().unwrap_or_default();
        let kept = coalescer.offer(read, at.clone(), slot.0, &mut |merged| self.send_merged(&merged));
        self.tape.mark(Stage::SwMerge);
        self.coalescer = Some(coalescer);
        if !kept {
            self.deliver(Verdict::Unicast(slot, Retag::Keep), &read[at.clone()], None);
        }
        self.end_frame(self.tape.head(&read[at.clone()]), at.len(), None);
    }

    /// Sends what [`Batch::merge`] kept.
    pub fn finish(&mut self, read: &mut [u8]) {
        if let Some(mut coalescer) = self.coalescer.take() {
            coalescer.flush(read, &mut |merged| self.send_merged(&merged));
            self.coalescer = Some(coalescer);
        }
    }

    /// Judges a frame by its first [`LOOKED_AT`] bytes; those behind may still be masked. `None` when
    /// it is dropped, and counted.
    fn judge(&mut self, bytes: &[u8], unfinished: Option<&Unfinished>) -> Option<Verdict> {
        let (frames, on_cable) = on_cable(bytes.len(), unfinished);
        self.frames += u64::from(frames);
        self.bytes += u64::from(on_cable);
        let reason = match checked(bytes).and_then(|frame| self.comes_once(frame)) {
            Ok(frame) => {
                let (table, ingress, now) = (self.table, self.ingress, self.now);
                match self.fabric.switch.forward(table, ingress, frame, frames, now, self.tape) {
                    Verdict::Drop(reason) => {
                        match reason {
                            Reason::LoopProbe => _ = self.fabric.returned.put(ingress.number, bytes),
                            Reason::StormMulticast | Reason::RateLimit | Reason::MacMove
                                if table.snoops() && is_told(frame) =>
                            {
                                self.goes_unheard();
                            }
                            _ => (),
                        }
                        reason
                    }
                    verdict => {
                        if table.snoops() && is_told(frame) {
                            self.leave_to_groups(bytes);
                        }
                        let may_be_asked = unfinished.is_none() && neighbour::may_be(frame);
                        if !(may_be_asked && self.overhear(frame, verdict)) {
                            if self.watch.is_some() {
                                self.show_in(bytes, unfinished, self.nowhere(verdict, frame));
                            }
                            return Some(verdict);
                        }
                        Reason::Suppressed
                    }
                }
            }
            Err(reason) => reason,
        };
        self.ingress.counters.dropped_many(reason, frames.into());
        self.show_in(bytes, unfinished, Some(reason));
        self.tape.mark(Stage::SwDrop);
        None
    }

    /// The frame, unless its port is in the same network twice at the moment and it came by the wrong way.
    fn comes_once<'f>(&self, frame: Frame<'f>) -> Result<Frame<'f>, Reason> {
        let Some(moving) = self.moving else { return Ok(frame) };
        self.fabric.switch.comes_once(self.table, self.ingress, frame, moving, self.now).map(|()| frame)
    }

    /// Leaves what a host or router says of multicast groups to the control side, not more of a port's than it can stand.
    /// What is lost of it is noted, for whoever said it may not say it again.
    fn leave_to_groups(&self, bytes: &[u8]) {
        let ingress = self.ingress;
        let is_heard = bytes.len() <= group::MAX_LEN
            && ingress.asked.admits(1, self.now.0)
            && self.fabric.told.put(ingress.number, bytes);
        if !is_heard {
            self.goes_unheard();
        }
    }

    fn goes_unheard(&self) {
        self.ingress.counters.unheard.fetch_add(1, Relaxed);
        self.fabric.doubt();
    }

    /// Leaves what is in clear of a frame of ARP or ND to the control side, not more of a port's than it can stand.
    /// `true`: it was a question, and is answered.
    fn overhear(&mut self, frame: Frame<'_>, verdict: Verdict) -> bool {
        let (table, ingress, now) = (self.table, self.ingress, self.now);
        let Some(clear) = suppress::spoken(frame) else { return false };
        if ingress.heard.admits(1, now.0) {
            self.fabric.heard.put(ingress.number, clear.bytes());
        }
        let mut answer = [0; MAX_ANSWER];
        let len = suppress::answer(self.fabric, table, ingress, (clear, verdict), now, &mut answer);
        let answer = len.and_then(|len| Frame::checked(&answer[..len]));
        let (Some(answer), Some(port)) = (answer, table.get(ingress.slot)) else { return false };
        // So that what goes out came in somewhere.
        ingress.counters.copied(1);
        self.send(port, answer, Retag::Keep, None);
        true
    }

    /// Shows a frame that came in, and why it goes no further.
    fn show_in(&self, bytes: &[u8], unfinished: Option<&Unfinished>, dropped: Option<Reason>) {
        if let Some(watch) = &self.watch {
            let seen = Seen::new(self.ingress.number, Way::In, unfinished, bytes.len());
            capture::show(watch, Seen { dropped, ..seen }, &[bytes]);
        }
    }

    /// Why a flooded frame comes to nobody, as `deliver` will find out.
    fn nowhere(&self, verdict: Verdict, frame: Frame<'_>) -> Option<Reason> {
        let Verdict::Flood(flood) = verdict else { return None };
        let nobody = self.table.flood(flood, frame.dst().is_reserved()).next().is_none();
        nobody.then_some(flood.nobody())
    }

    /// Finishes a frame and judges each of what it becomes by itself.
    fn split(&mut self, frame: &[u8], unfinished: &Unfinished) {
        self.finish_frame(frame, unfinished, |this, frame| this.finished(frame.bytes()));
    }

    /// Counts a frame of `len` bytes that could not be made whole, of which `bytes` are there.
    pub fn refused(&mut self, bytes: &[u8], len: usize, reason: Reason) {
        self.refuse(bytes, len, reason);
        self.end_frame(Head::default(), len, None);
    }

    fn refuse(&mut self, bytes: &[u8], len: usize, reason: Reason) {
        self.frames += 1;
        self.bytes += len as u64;
        self.dropped(reason);
        self.show_in(bytes, None, Some(reason));
        self.tape.mark(Stage::SwDrop);
    }

    /// Counts a drop at this batch's ingress.
    pub fn dropped(&self, reason: Reason) {
        self.ingress.counters.dropped(reason);
    }
}

/// A frame, if it can be one.
pub fn checked(bytes: &[u8]) -> Result<Frame<'_>, Reason> {
    match Frame::checked(bytes) {
        Some(frame) => Ok(frame),
        None if bytes.len() < MIN_FRAME => Err(Reason::Runt),
        None => Err(Reason::Oversize),
    }
}

/// Whether the control side is to look at a frame for what it says of multicast groups.
fn is_told(frame: Frame<'_>) -> bool {
    frame.dst().is_group() && matches!(group::sort(frame), Some(Sort::Report { .. } | Sort::Notice))
}

/// What a frame of `len` bytes is on a cable: frames and bytes.
fn on_cable(len: usize, unfinished: Option<&Unfinished>) -> (u32, u32) {
    unfinished.map_or((1, len as u32), |u| (u.count(len) as u32, u.bytes(len) as u32))
}

/// Frames that may wait for the control side.
const RETURNED: usize = 64;
const HEARD: usize = 512;
pub const TOLD: usize = 256;
