//! The write side of one connection: queues, masking keys, TLS records, socket.
//!
//! While the socket takes what it is given, a frame is encoded behind the others and written at the end of
//! its batch. When the socket would block, frames wait by flow ([`FairQueue`]) until it takes more; a write's
//! worth at a time leaves from there. The kernel is kept from taking much more than it sends ([`Backlog`]): what
//! waits there waits in one line.

mod keys;
mod tls;

use std::io::{self, IoSlice, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use self::keys::Keys;
use self::tls::Socket;
use super::backlog::Backlog;
use super::fair::{FairQueue, Label, Lost};
use super::leaving::LEAVING;
use super::member::Takeover;
use super::pace::Pace;
use super::queue::Queue;
use super::stream::Stream;
use crate::frame::MAX_FRAME;
use crate::frame::offload::VnetHeader;
use crate::frame::stream;
use crate::port::capture::Captures;
use crate::port::congestion;
use crate::port::spec::Congestion;
use crate::prof::{PortAt, Profiler, Stage, Tape};
use crate::switch::{Counters, Reason};
use crate::sys::unacked;
use crate::ws::codec::{self, Piece, Role};
use crate::ws::header::{MAX_HEADER, Opcode};

/// One connection's way out, under the link's lock.
pub struct Wire {
    /// Which it is of those that were in its place.
    pub count: u64,
    /// The same among those of its link, as both ends count.
    pub n: u32,
    /// Another has taken its place.
    pub replaced: Option<Takeover>,
    /// Tells the session that the socket would block, or broke, or that there is something to look at.
    pub stuck: Arc<Notify>,
    socket: Arc<Stream>,
    tls: Option<Box<rustls::Connection>>,
    keys: Option<Keys>,
    /// Frames go with a virtio_net_hdr in front.
    vnet: bool,
    /// Frames go behind their lengths, and no messages are made of them.
    bare: bool,
    queue: Queue,
    /// Frames that came while the socket was blocked.
    fair: FairQueue,
    backlog: Backlog,
    /// Frames wait by flow for their turn at this rate.
    pace: Option<Pace>,
    /// None leaves before, in the [`Backlog`]'s time.
    not_before: Option<u64>,
    /// Some wait, and the socket is not to blame.
    held: bool,
    /// The port's: a frame is sent when all of it is written, and dropped when that never happens.
    counters: Arc<Counters>,
    prof: Arc<Profiler>,
    /// The port, as the profiler knows it.
    at: PortAt,
    /// Frames, and their bytes, in records that the socket has not been given yet.
    sealed: (u64, u64),
    /// Bytes that the socket took.
    taken: u64,
    /// Somebody has promised to flush.
    dirty: bool,
    /// When the batch that somebody has promised to flush began to wait, by the backlog's clock.
    came: u64,
    blocked: bool,
    /// A Close is queued, or will be behind what waits: nothing comes behind it.
    closing: bool,
    late_close: Option<Vec<u8>>,
    broken: Option<io::Error>,
    pongs: u32,
    late_pong: Option<Vec<u8>>,
}

impl Wire {
    pub fn new(
        socket: Arc<Stream>,
        mut tls: Option<Box<rustls::Connection>>,
        role: Role,
        vnet: bool,
        counters: Arc<Counters>,
        (prof, at): (Arc<Profiler>, PortAt),
    ) -> Self {
        if let Some(tls) = &mut tls {
            tls.set_buffer_limit(Some(SEAL_AT_MOST));
        }
        Self {
            count: 0,
            n: 0,
            replaced: None,
            stuck: Arc::default(),
            tls,
            keys: (role == Role::Client).then(Keys::new),
            vnet,
            bare: false,
            queue: Queue::default(),
            fair: FairQueue::default(),
            backlog: Backlog::new(&socket2::SockRef::from(&*socket)),
            pace: None,
            not_before: None,
            held: false,
            counters,
            prof,
            at,
            sealed: (0, 0),
            taken: 0,
            dirty: false,
            came: 0,
            blocked: false,
            closing: false,
            late_close: None,
            broken: None,
            pongs: 0,
            late_pong: None,
            socket,
        }
    }

    /// Of a connection that carries frames behind their lengths ([`stream`]) and nothing else: nothing is to be said on it.
    pub fn bare(socket: Arc<Stream>, counters: Arc<Counters>, prof: (Arc<Profiler>, PortAt)) -> Self {
        let mut wire = Self::new(socket, None, Role::Server, false, counters, prof);
        (wire.bare, wire.fair) = (true, FairQueue::bare());
        wire
    }

    /// Whoever looks on is shown what is dropped here.
    pub fn shown_to(mut self, captures: &Arc<Captures>) -> Self {
        self.fair.show_to(captures.clone(), self.at.number);
        self
    }

    /// This session is to be told.
    pub fn waking(mut self, stuck: &Arc<Notify>) -> Self {
        self.stuck.clone_from(stuck);
        self
    }

    /// Encodes one frame, which is `sent` on a cable, or lets it wait, in this `flow` where it is known; `true` when the
    /// caller has to see to the flush.
    pub fn push(
        &mut self,
        header: &VnetHeader,
        frame: &[Piece<'_>],
        sent: (u32, u32),
        flow: Option<usize>,
        tape: &mut impl Tape,
    ) -> Result<bool, Reason> {
        if self.closing || self.broken.is_some() {
            return Err(Reason::LinkDown);
        }
        // The link was another when this was decided.
        if !self.vnet && *header != VnetHeader::default() {
            return Err(Reason::LinkDown);
        }
        let header = header.to_little_endian();
        let prefix = stream::prefix(frame.iter().map(|piece| piece.bytes.len()).sum());
        let mut pieces = [Piece::from(&[][..]); 4];
        pieces[0] = if self.bare { prefix.as_slice().into() } else { header.as_slice().into() };
        pieces[1..=frame.len()].copy_from_slice(frame);
        let in_front = usize::from(self.vnet || self.bare);
        let pieces = &pieces[1 - in_front..=frame.len()];
        let label = Label { frames: sent, stamp: tape.stamp() };
        if self.blocked || self.pace.is_some() || self.not_before.is_some() {
            let key = self.keys.as_mut().map(Keys::draw);
            self.note_time();
            self.fair.push((in_front, flow), pieces, key, label, self.came, tape);
            self.count_lost();
            // The socket is tried again once a batch: it may be long until somebody is told that it is ready.
            return Ok(!std::mem::replace(&mut self.dirty, true));
        }
        self.encode(Opcode::Binary, pieces, label, tape);
        let first = !self.dirty && !self.blocked;
        self.dirty = true;
        Ok(first)
    }

    /// One look at the clock for a batch: what CoDel tells apart is thousands of times as long.
    fn note_time(&mut self) {
        if !self.dirty {
            self.came = self.backlog.now();
        }
    }

    /// Says something of a flow, behind its frames; `false`: it goes nowhere.
    pub fn mark(&mut self, flow: usize, body: &[u8]) -> bool {
        if self.closing || self.broken.is_some() {
            return false;
        }
        if self.blocked || self.pace.is_some() || self.not_before.is_some() {
            let key = self.keys.as_mut().map(Keys::draw);
            self.note_time();
            self.fair.push_mark(flow, body, key);
        } else {
            self.encode(Opcode::Binary, &[body.into()], Label::default(), &mut ());
        }
        self.dirty = true;
        true
    }

    /// What is said of flows is never dropped, so who says it asks before: no peer is to make it grow without end.
    pub fn has_room(&self) -> bool {
        self.fair.has_room()
    }

    /// Something that is said of a flow waits behind its frames.
    pub fn has_marks(&self) -> bool {
        self.fair.has_marks()
    }

    /// Something is to be written.
    pub fn waits(&self) -> bool {
        !self.queue.is_empty() || !self.fair.is_empty()
    }

    /// Nothing waits, and the far end's kernel has all that was sent.
    pub fn is_drained(&self) -> bool {
        !self.waits() && unacked(self.socket.as_fd()).is_ok_and(|bytes| bytes == 0)
    }

    /// Enough waits for a write of its own.
    pub fn wants_flush(&self) -> bool {
        !self.blocked && self.queue.waiting().len() >= FLUSH_AT
    }

    pub fn is_vnet(&self) -> bool {
        self.vnet
    }

    pub fn set_congestion(&self, wanted: &Congestion) -> io::Result<()> {
        congestion::set(&socket2::SockRef::from(&*self.socket), wanted)
    }

    /// At most so many bits a second from here on; `true`: that is new, and the caller flushes what waited for the old
    /// rate.
    pub fn set_pace(&mut self, bits: Option<u64>) -> bool {
        let changes = self.pace.map(|pace| pace.bits()) != bits;
        if changes {
            self.pace = bits.map(Pace::new).filter(|_| !self.closing);
            self.came = self.backlog.now();
        }
        changes
    }

    #[cfg(test)]
    pub fn is_paced(&self) -> bool {
        self.pace.is_some()
    }

    /// From here on frames wait for so long.
    pub fn pause(&mut self, time: Duration) {
        self.not_before = Some(self.backlog.now() + time.as_nanos() as u64);
    }

    /// What waits for its turn has none any more.
    pub fn wait_no_more(&mut self) {
        (self.pace, self.not_before) = (None, None);
    }

    /// How long frames still have to wait for their turn; `None` where none do.
    pub fn held_for(&self) -> Option<Duration> {
        let due = self.due().filter(|_| self.held)?;
        Some(Duration::from_nanos(due.saturating_sub(self.backlog.now())))
    }

    /// When the next frame that waits by flow may leave, where that is up to us.
    pub fn due(&self) -> Option<u64> {
        self.pace.as_ref().map(Pace::due).max(self.not_before)
    }

    /// See [`super::Link::segment`].
    pub fn segment(&self) -> Option<u32> {
        match &*self.socket {
            Stream::Tcp(socket) => socket2::SockRef::from(socket).tcp_mss().ok(),
            Stream::Unix(_) => None,
        }
    }

    pub fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Bytes that the socket ever took, to see whether there is progress.
    pub fn progress(&self) -> u64 {
        self.taken
    }

    /// Offers bytes to a socket that is not reported writable: that happens only when a third of its
    /// buffer is free, which at the far end of a slow path takes longer than a dead one is waited for.
    pub fn nudge(&mut self) {
        let socket = socket2::SockRef::from(&*self.socket);
        match &mut self.tls {
            Some(tls) => self.taken += tls.write_tls(&mut &*socket).unwrap_or(0) as u64,
            None => {
                let taken = self.offer(|slices| socket.send_vectored(slices)).unwrap_or(0);
                let (frames, bytes) = self.advance(taken, &mut ());
                self.counters.sent(frames, bytes);
            }
        }
    }

    /// A PING, or text in answer to `ping:`; before the frames that wait, with the next flush. Dropped (`false`) when
    /// much is encoded already: the peer is alive enough.
    pub fn say(&mut self, opcode: Opcode, body: &[u8]) -> bool {
        let room = self.queue.waiting().len() < FLUSH_AT && self.fair.count_leaving() < SLICES;
        let says = !self.closing && room;
        if says {
            self.encode_control(opcode, body);
        }
        says
    }

    /// A PING that says that this end leaves. It is said once, so whatever waits.
    pub fn say_leaving(&mut self) {
        if !self.closing {
            self.encode_control(Opcode::Ping, LEAVING);
            self.flush(&mut ());
        }
    }

    /// A PONG, with the next flush. Beyond 16 that wait, only the latest is kept (RFC 6455 5.5.3).
    pub fn pong(&mut self, body: &[u8]) {
        if self.closing {
            return;
        }
        if self.pongs >= MAX_PONGS {
            let late = self.late_pong.get_or_insert_default();
            late.clear();
            late.extend_from_slice(body);
            return;
        }
        self.pongs += 1;
        self.encode_control(Opcode::Pong, body);
    }

    /// A Close behind everything that waits; nothing follows it.
    pub fn close(&mut self, code: Option<u16>, reason: &str) {
        if !self.closing {
            // It is the end, and waits for nothing but the socket.
            self.wait_no_more();
            self.late_close = Some(code.map(|code| codec::close_body(code, reason)).unwrap_or_default());
            self.closing = true;
            self.flush(&mut ());
        }
    }

    /// TLS close_notify, once everything is out.
    pub fn end_tls(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            self.flush(&mut ());
        }
    }

    /// Writes until nothing waits (`true`), or what waits has not its turn yet, or the socket would block or broke (`false`).
    pub fn flush(&mut self, tape: &mut impl Tape) -> bool {
        self.dirty = false;
        if self.broken.is_some() {
            return false;
        }
        if self.blocked {
            let socket = socket2::SockRef::from(&*self.socket);
            self.backlog.goes_on(&socket, self.backlog.now(), self.taken);
        }
        let mut sent = (0, 0);
        let all = loop {
            match self.write_once(&mut sent, tape) {
                Ok(true) => continue,
                Ok(false) if !self.fair.is_empty() && self.refill() => continue,
                Ok(false) => {
                    self.blocked = false;
                    self.pongs = 0;
                    let (opcode, body) = match (self.late_pong.take(), self.late_close.take()) {
                        (Some(body), close) => {
                            self.late_close = close;
                            (Opcode::Pong, body)
                        }
                        (None, Some(body)) => (Opcode::Close, body),
                        (None, None) => break self.fair.is_empty(),
                    };
                    self.encode_control(opcode, &body);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if !self.blocked {
                        self.backlog.begins(self.backlog.now(), self.taken);
                    }
                    self.blocked = true;
                    break false;
                }
                Err(e) => {
                    self.broken = Some(e);
                    break false;
                }
            }
        };
        self.held = !all && !self.blocked && self.broken.is_none();
        if sent.0 > 0 {
            self.counters.sent(sent.0, sent.1);
        }
        all
    }

    /// Why writing failed, once.
    pub fn take_error(&mut self) -> Option<io::Error> {
        self.broken.take()
    }

    /// Bytes that are kept for what waits.
    #[cfg(test)]
    pub fn memory(&self) -> usize {
        self.queue.waiting().len() + self.fair.memory()
    }

    /// The same for what only waited, which a link that is never idle needs now and then.
    pub fn shrink_queue(&mut self) {
        self.fair.shrink();
    }

    /// Memory back to the system while the link is idle.
    pub fn shrink(&mut self) {
        self.queue.shrink();
        self.fair.shrink();
    }

    pub fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Lets a write's worth of what waits by flow leave; `false`: nothing does.
    fn refill(&mut self) -> bool {
        let (now, full) = (self.backlog.now(), self.backlog.piece());
        self.not_before.take_if(|at| *at <= now);
        let mut bytes = 0;
        while bytes < full && self.fair.count_leaving() < SLICES {
            if self.due().is_some_and(|due| due > now) {
                break;
            }
            let Some(len) = self.fair.pop(now) else { break };
            if let Some(pace) = &mut self.pace {
                pace.spend(len, now);
            }
            bytes += len;
        }
        self.count_lost();
        self.fair.count_leaving() > 0
    }

    fn count_lost(&mut self) {
        let Lost { full, late, marked } = std::mem::take(&mut self.fair.lost);
        for (reason, frames) in [(Reason::QueueFull, full), (Reason::QueueDelay, late)] {
            if frames > 0 {
                self.counters.dropped_many(reason, frames);
            }
        }
        if marked > 0 {
            self.counters.marked(marked);
        }
    }

    /// Before frames that wait, but not into one that is leaving.
    fn encode_control(&mut self, opcode: Opcode, body: &[u8]) {
        if self.fair.count_leaving() > 0 {
            let key = self.keys.as_mut().map(Keys::draw);
            return self.fair.push_leaving(opcode, body, key);
        }
        self.encode(opcode, &[body.into()], Label::default(), &mut ());
    }

    fn encode(&mut self, opcode: Opcode, pieces: &[Piece<'_>], label: Label, tape: &mut impl Tape) {
        let key = self.keys.as_mut().map(Keys::draw);
        let out = |out: &mut Vec<u8>| match self.bare {
            true => codec::append(out, pieces, None, tape),
            false => codec::encode(out, opcode, pieces, key, tape),
        };
        self.queue.push(label, out);
    }

    /// One system call's worth; `Ok(false)` when nothing waits. Adds to `sent` the frames that are out
    /// whole and their bytes; what TLS has taken is out, as is what the socket has taken.
    fn write_once(&mut self, sent: &mut (u64, u64), tape: &mut impl Tape) -> io::Result<bool> {
        let nothing = self.queue.is_empty() && self.fair.count_leaving() == 0;
        let Some(tls) = &mut self.tls else {
            if nothing {
                return Ok(false);
            }
            let written = self.offer(|slices| self.socket.try_write_vectored(slices));
            let (frames, bytes) = self.advance(*written.as_ref().unwrap_or(&0), tape);
            tape.mark_many(Stage::TxSockWrite, self.at, frames, bytes);
            written?;
            *sent = (sent.0 + frames, sent.1 + bytes);
            return Ok(true);
        };
        if !tls.wants_write() {
            if nothing {
                return Ok(false);
            }
            let mut slices = [IoSlice::new(&[]); SLICES];
            let count = waiting(&self.queue, &self.fair, &mut slices);
            let n = tls.writer().write_vectored(&slices[..count])?;
            let (frames, bytes) = self.passed(n, tape);
            tape.mark_many(Stage::TxTlsSeal, self.at, frames, bytes);
            *sent = (sent.0 + frames, sent.1 + bytes);
            self.sealed = (self.sealed.0 + frames, self.sealed.1 + bytes);
        }
        let Some(tls) = &mut self.tls else { return Ok(false) };
        let written = tls.write_tls(&mut Socket(&self.socket));
        let sealed = if written.is_ok() { std::mem::take(&mut self.sealed) } else { (0, 0) };
        tape.mark_many(Stage::TxSockWrite, self.at, sealed.0, sealed.1);
        self.taken += written? as u64;
        Ok(true)
    }

    /// Gives what is next to `write`.
    fn offer(&self, write: impl FnOnce(&[IoSlice<'_>]) -> io::Result<usize>) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let count = waiting(&self.queue, &self.fair, &mut slices);
        write(&slices[..count])
    }

    fn advance(&mut self, n: usize, tape: &mut impl Tape) -> (u64, u64) {
        self.taken += n as u64;
        self.passed(n, tape)
    }

    /// `n` bytes of what is next are written or sealed: frames and bytes that are through with that.
    fn passed(&mut self, n: usize, tape: &mut impl Tape) -> (u64, u64) {
        let Self { queue, fair, prof, at, .. } = self;
        let each = |out: Label| tape.waited(prof, out.stamp, *at, out.frames.0, out.frames.1);
        if queue.is_empty() { fair.advance(n, each) } else { queue.advance(n, each) }
    }
}

/// What is to be written next: what is encoded in one piece, then what leaves the queue by flow.
fn waiting<'q>(queue: &'q Queue, fair: &'q FairQueue, slices: &mut [IoSlice<'q>; SLICES]) -> usize {
    if queue.is_empty() {
        return fair.leaving(slices);
    }
    slices[0] = IoSlice::new(queue.waiting());
    1
}

/// What still waits goes nowhere now.
impl Drop for Wire {
    fn drop(&mut self) {
        self.counters.dropped_many(Reason::LinkDown, self.queue.frames() + self.fair.frames());
        self.fair.show_all(Reason::LinkDown);
    }
}

/// A flush in the middle of a batch from here on: 42 frames of the usual 1,514 bytes are the most that the kernel sends in
/// one piece (GSO, 64 KiB: 45 segments of 1,448 bytes), and more would be a small piece behind it.
const FLUSH_AT: usize = 62 << 10;
/// What TLS seals at a time: whatever such a flush finds. rustls's own limit, 64 KiB, would leave the end of
/// it to a short record and a system call of its own.
const SEAL_AT_MOST: usize = FLUSH_AT + MAX_FRAME + MAX_HEADER + VnetHeader::LEN;
const MAX_PONGS: u32 = 16;
/// Of a write: a piece of the queue in chunks, or as many small messages.
const SLICES: usize = 160;

#[cfg(test)]
mod tests;
