//! One connection's life on its data thread: read, decode, forward; keep alive; close.

mod ended;
mod held;
mod parting;
mod ping_rate;

use std::io;
use std::ops::ControlFlow::{Break, Continue};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, Sleep, sleep_until};

pub use self::ended::Ended;
use self::held::{Hold, TURN, Waits};
pub use self::parting::{PARTING, linger};
use self::ping_rate::PingRate;

use super::progress::Progress;
use super::spread::{Awaited, Mark};
use super::{LEAVING, Link, News, Stream, Takeover, Wire, member};
use crate::frame::MAX_FRAME;
use crate::frame::offload::VnetHeader;
use crate::port::fabric::{Fabric, MAX_MESSAGE, READ, Scratch, with_scratch};
use crate::port::spec::Congestion;
use crate::prof::{PortAt, Stage, Tape};
use crate::switch::{Moving, Reason, Slot};
use crate::with_tape;
use crate::ws::codec::{Decoder, Event, Role, Step};
use crate::ws::header::Opcode;
use crate::ws::joining::Which;

/// How a session is told to close: status code and reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stop {
    pub code: u16,
    pub reason: &'static str,
}

/// A connection about to be served.
pub struct Session {
    pub link: Arc<Link>,
    pub fabric: Arc<Fabric>,
    pub slot: Slot,
    /// The port's number: its slot may be another's before the session has ended.
    pub number: u32,
    pub which: Which,
    /// What becomes of the connection whose place it takes, if there is one.
    pub takes: Takeover,
    pub role: Role,
    /// `etherws.vnet1` was chosen: each message begins with a virtio_net_hdr of 10 bytes.
    pub vnet: bool,
    /// What the connection was made with.
    pub congestion: Congestion,
    /// Non-blocking; taken when the session starts.
    pub stream: Option<std::net::TcpStream>,
    pub tls: Option<Box<rustls::Connection>>,
    pub early: Bytes,
    /// Silence before a PING.
    pub ping: Duration,
    /// Whether this peer was ever seen to answer a PING; kept over the connections of one port.
    pub answers: Arc<AtomicBool>,
    /// For who dialled, and would dial anew when the far end leaves.
    pub news: Option<Arc<News>>,
    pub stop: watch::Receiver<Option<Stop>>,
}

impl Session {
    /// Serves the connection until it ends. Runs on the data thread that the socket is to belong to.
    pub async fn run(mut self) -> Ended {
        match self.serve().await {
            Ok(never) => match never {},
            Err(ended) => {
                self.fabric.tally.link_ended(&ended);
                ended
            }
        }
    }

    /// The port as the profiler knows it.
    fn at(&self) -> PortAt {
        PortAt { slot: self.slot.0, number: self.number, side: self.link.side() }
    }

    async fn serve(&mut self) -> Result<std::convert::Infallible, Ended> {
        let stream = self.stream.take().ok_or(Ended::Stopped)?;
        let socket = Arc::new(Stream::adopt(stream.into()).map_err(Ended::Broken)?);
        tune(&socket, self.ping).map_err(Ended::Broken)?;
        let counters = self.link.counters.clone();
        let prof = (self.fabric.prof.clone(), self.at());
        let stuck = Arc::default();
        let wire = Wire::new(socket.clone(), self.tls.take(), self.role, self.vnet, counters, prof)
            .shown_to(&self.fabric.captures)
            .waking(&stuck);
        let has_tls = wire.has_tls();
        let count = self.link.connected(self.which, wire, &self.congestion, self.takes);
        if let Some(news) = &self.news {
            news.placed.notify_one();
        }
        if self.role == Role::Server && self.fabric.is_leaving() {
            self.link.with(self.which.member, count, Wire::say_leaving);
        }
        // However the session ends, and be it by a panic, the port must not think it is connected.
        let _down = Down { link: self.link.clone(), member: self.which.member, count };
        let early = std::mem::take(&mut self.early);
        let mut serving = Serving { early, ..Serving::new(self, socket, has_tls, (stuck, count)) };
        let outcome = serving.forward_until_the_end().await;
        let Err(ended) = outcome;
        if matches!(ended, Ended::Replaced(Takeover::Lost)) {
            serving.read_what_came().await;
        }
        serving.part(&ended).await;
        Err(ended)
    }
}

/// The connection of this number is at its end when this is dropped.
pub struct Down {
    pub link: Arc<Link>,
    pub member: u8,
    pub count: u64,
}

impl Drop for Down {
    fn drop(&mut self) {
        self.link.ended(self.member, self.count);
    }
}

struct Serving<'a> {
    session: &'a Session,
    socket: Arc<Stream>,
    /// Its number among those of its place.
    count: u64,
    /// Which of the links it is of that its port has had.
    of: u32,
    stuck: Arc<Notify>,
    has_tls: bool,
    /// Bytes that came behind the handshake.
    early: Bytes,
    decoder: Decoder,
    /// The start of a message whose end has not been read; of a connection that is held, or was just now, all that was
    /// read and not looked at.
    rest: Vec<u8>,
    held: Option<Hold>,
    waits: Waits,
    /// `rest` is to be looked at before more is read.
    parked: bool,
    began: Instant,
    /// Until then what went by the connection before may come back.
    fresh: Option<Instant>,
    /// When data last came.
    heard: Instant,
    /// When the last PING of this silence was sent.
    pinged: Option<Instant>,
    /// A PING of ours is not answered yet.
    asked: bool,
    progress: Progress,
    unfinished: Option<Instant>,
    pings: PingRate,
    /// When the memory of a burst was last given back.
    shrunk: Instant,
}

impl<'a> Serving<'a> {
    fn new(
        session: &'a Session,
        socket: Arc<Stream>,
        has_tls: bool,
        (stuck, count): (Arc<Notify>, u64),
    ) -> Self {
        // What went by the connection before went before.
        let what = Awaited::Turn { member: session.which.member, count: count - 1 };
        let (now, moved) = (Instant::now(), session.takes == Takeover::Moved);
        Self {
            session,
            socket,
            count,
            of: session.link.which(),
            stuck,
            has_tls,
            early: Bytes::new(),
            held: (!moved && !session.link.is_over(what)).then_some(Hold { what, until: now + TURN }),
            waits: Waits::new(now),
            parked: false,
            decoder: Decoder::new(session.role, if session.vnet { MAX_MESSAGE } else { MAX_FRAME }),
            rest: Vec::new(),
            began: now,
            fresh: moved.then_some(now + PARTING),
            heard: now,
            pinged: None,
            asked: false,
            progress: Progress::new(now),
            unfinished: None,
            pings: PingRate::default(),
            shrunk: now,
        }
    }

    async fn forward_until_the_end(&mut self) -> Result<std::convert::Infallible, Ended> {
        let session = self.session;
        let link = session.link.clone();
        let (mut stop, stuck) = (session.stop.clone(), self.stuck.clone());
        // Made once: what is made for each turn is put into lists, and taken out of them, under their locks.
        let mut stopped = pin!(stop.wait_for(Option::is_some));
        let mut notified = pin!(stuck.notified());
        let mut timer = pin!(sleep_until(self.began));
        // TLS may have records that it has not been asked for.
        let mut waiting = self.has_tls || !self.early.is_empty();
        let mut turns = 0u32;
        loop {
            if self.held.is_some() && self.is_let_go(Instant::now()) {
                waiting = true;
            }
            if waiting && self.held.is_none() {
                waiting = self.read_and_forward()?;
                turns = if waiting { turns + 1 } else { 0 };
                if waiting && turns < TURNS {
                    continue;
                }
                // Other ports live on this thread too, and a peer that never pauses must not keep this
                // one from writing, nor from its end.
                if waiting {
                    turns = 0;
                    tokio::task::yield_now().await;
                }
            }
            let reads = self.held.is_none();
            let (deadline, blocked) = session.fabric.prof.timer(|| self.tick())?;
            put_off(timer.as_mut(), deadline);
            tokio::select! {
                // What there is to read comes last: of the others each is done with when it is done.
                biased;
                // A sender that is gone means a port that is gone.
                _ = &mut stopped => return Err(Ended::Stopped),
                ready = self.socket.writable(), if blocked => {
                    ready.map_err(Ended::Broken)?;
                    with_tape!(session.fabric.prof, |tape| {
                        tape.from(session.at());
                        link.flush(tape)
                    });
                }
                () = &mut notified => notified.set(stuck.notified()),
                () = &mut timer => with_tape!(session.fabric.prof, |tape| {
                    tape.from(session.at());
                    self.flush_held(tape)
                }),
                () = std::future::ready(()), if waiting && reads => (),
                ready = self.socket.readable(), if reads => {
                    ready.map_err(Ended::Broken)?;
                    waiting = true;
                }
            }
        }
    }

    /// Writes what had to wait for its turn.
    fn flush_held(&self, tape: &mut impl Tape) {
        self.wire(|wire| {
            if wire.held_for().is_some() {
                member::flush(wire, tape);
            }
        });
    }

    /// Does something with the connection's way out, while there is one.
    fn wire<T>(&self, work: impl FnOnce(&mut Wire) -> T) -> Option<T> {
        self.session.link.with(self.session.which.member, self.count, work)
    }

    /// All that has come by a connection that is no more; of a peer that goes on all the same, not for ever.
    async fn read_what_came(&mut self) {
        (self.held, self.parked) = (None, self.parked || !self.rest.is_empty());
        // What came behind the last read may not have been told yet.
        tokio::task::yield_now().await;
        for _ in 0..MOST_LEFT {
            if !matches!(self.read_and_forward(), Ok(true)) {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// One read and all whole messages in it. `true` when there may be more to read.
    fn read_and_forward(&mut self) -> Result<bool, Ended> {
        with_tape!(self.session.fabric.prof, |tape| self.read_batch(tape))
    }

    fn read_batch(&mut self, tape: &mut impl Tape) -> Result<bool, Ended> {
        tape.from(self.session.at());
        with_scratch(|scratch| {
            // TLS has to be given as much room as it may have read.
            let most = if self.session.vnet || self.has_tls { READ } else { READ_FRAMES };
            let end = self.put_rest(scratch, most);
            let kept = end - most;
            if std::mem::take(&mut self.parked) {
                return self.forward(&mut scratch.plain[..kept], tape).map(|()| true);
            }
            let room = &mut scratch.plain[kept..end];
            let early = !self.early.is_empty();
            let got = if early {
                let piece = self.early.split_to(self.early.len().min(most));
                room[..piece.len()].copy_from_slice(&piece);
                Ok(piece.len())
            } else if self.has_tls {
                let got = self.wire(|wire| wire.read_tls(room, &mut scratch.sealed, tape));
                let Some(got) = got else { return Err(Ended::Eof) };
                got
            } else {
                let got = self.socket.try_read(room);
                tape.mark_batch(Stage::RxSockRead);
                got
            };
            let got = match got {
                Ok(0) => return Err(Ended::Eof),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Err(Ended::Truncated),
                Err(e) => return Err(Ended::Broken(e)),
            };
            self.heard = Instant::now();
            self.pinged = None;
            self.forward(&mut scratch.plain[..kept + got], tape)?;
            // Of TLS there may be more in its own buffers, and behind what came early in the socket.
            Ok(self.has_tls || early || got == most)
        })
    }

    /// Puts the start of a message in front of `more` bytes to come; where they end.
    fn put_rest(&self, scratch: &mut Scratch, more: usize) -> usize {
        let kept = self.rest.len();
        scratch.plain[..kept].copy_from_slice(&self.rest);
        kept + more
    }

    fn forward(&mut self, bytes: &mut [u8], tape: &mut impl Tape) -> Result<(), Ended> {
        let fabric = self.session.fabric.clone();
        let table = fabric.table();
        let (slot, number) = (self.session.slot, self.session.number);
        let mut batch = fabric.batch(&table, slot, number, tape).ok_or(Ended::Stopped)?;
        let mut at = 0;
        let mut outcome = Ok(());
        let mut answers = false;
        let vnet = self.session.vnet;
        let (link, member, count) = (&self.session.link, self.session.which.member, self.count);
        batch.moving = self.moving();
        loop {
            // A message that is put together elsewhere would overtake those that wait.
            if self.decoder.is_mid_message() {
                batch.finish(bytes);
            }
            let (before, rest) = bytes.split_at_mut(at);
            match self.decoder.next(rest) {
                Ok(Step::More) => break,
                Ok(Step::Used(used, mut event)) => {
                    batch.tape.mark(Stage::RxWsParse);
                    at += used;
                    if let Some(Event::Binary(_) | Event::Text(_)) = &event {
                        self.unfinished = None;
                    }
                    let mark = match &mut event {
                        Some(Event::Binary(payload)) if link.most() > 1 && payload.len() == Mark::LEN => {
                            Mark::read(payload.peek(Mark::LEN), link.most())
                        }
                        _ => None,
                    };
                    let told = match event {
                        Some(Event::Binary(_)) if mark.is_some() => Continue(()),
                        Some(Event::Binary(payload)) => {
                            let len = payload.len().saturating_sub(if vnet { VnetHeader::LEN } else { 0 });
                            if let Some(slot) = batch.message(before, payload, vnet) {
                                batch.merge(bytes, at - len..at, slot);
                            }
                            Continue(())
                        }
                        Some(Event::Text(payload)) => {
                            batch.dropped(Reason::Text);
                            if let Some(answer) = answer(payload.open()) {
                                link.with(member, count, |wire| wire.say(Opcode::Text, &answer));
                                answers = true;
                            }
                            Continue(())
                        }
                        Some(Event::Ping(payload)) => {
                            let payload = payload.open();
                            if let Some(news) = self.session.news.as_ref().filter(|_| payload == LEAVING) {
                                news.leaving.notify_one();
                            }
                            link.with(member, count, |wire| wire.pong(payload));
                            answers = true;
                            self.pings.count(Instant::now())
                        }
                        Some(Event::Pong(payload)) => {
                            link.ponged(payload.open());
                            // An unsolicited one says nothing of the peer's answers.
                            if std::mem::take(&mut self.asked) {
                                self.session.answers.store(true, Relaxed);
                            }
                            Continue(())
                        }
                        Some(Event::Close(code)) => Break(Ended::Closed(code)),
                        None => Continue(()),
                    };
                    if let Break(ended) = told {
                        outcome = Err(ended);
                        break;
                    }
                    if let Some(mark) = mark {
                        // What was said behind frames is told behind them.
                        batch.finish(bytes);
                        if self.hears(mark, Instant::now()) {
                            self.parked = true;
                            break;
                        }
                    }
                }
                Err(violation) => {
                    outcome = Err(Ended::Violation(violation));
                    break;
                }
            }
        }
        batch.finish(bytes);
        // Once, however often was asked: a write for each answer is what a flood of questions would be after.
        if answers {
            link.with(member, count, |wire| wire.flush(&mut ()));
        }
        self.rest.clear();
        self.rest.extend_from_slice(&bytes[at..]);
        batch.tape.mark(Stage::RxWsParse);
        self.unfinished = match self.decoder.is_mid_message() {
            true => self.unfinished.or(Some(self.heard)),
            false => None,
        };
        outcome
    }

    /// Which of two connections it is, while its link goes over to another far end.
    fn moving(&self) -> Option<Moving> {
        let is_first = self.session.which.member == 0;
        match self.fresh {
            _ if is_first && self.session.link.has_left(self.count) => Some(Moving::Before),
            Some(until) if self.heard < until => Some(Moving::After),
            _ => None,
        }
    }

    /// What time has made due; when to look again, and whether the socket is blocked. An error of a write is told here,
    /// and that another has taken the place.
    fn tick(&mut self) -> Result<(Instant, bool), Ended> {
        let now = Instant::now();
        let ping = self.session.ping;
        let dead = dead_after(ping);
        let silent_since = self.heard;
        if self.session.answers.load(Relaxed) && now >= silent_since + dead {
            return Err(Ended::Silent);
        }
        if self.unfinished.is_some_and(|since| now >= since + UNFINISHED) {
            return Err(Ended::Unfinished);
        }
        let asks = now >= self.ping_due();
        let idle = asks && self.rest.is_empty();
        if asks {
            (self.pinged, self.asked) = (Some(now), true);
        }
        if idle {
            self.rest = Vec::new();
        }
        let (progress, shrunk) = (&mut self.progress, &mut self.shrunk);
        let looked = self.session.link.with(self.session.which.member, self.count, |wire| {
            let blocked = wire.is_blocked();
            if idle && !blocked {
                wire.shrink();
            }
            if asks && wire.say(Opcode::Ping, b"") {
                wire.flush(&mut ());
            }
            if !blocked && now >= *shrunk + ping {
                *shrunk = now;
                wire.shrink_queue();
            }
            match (wire.take_error(), wire.replaced) {
                (Some(error), _) => return Err(Ended::Broken(error)),
                (None, Some(takes)) => return Err(Ended::Replaced(takes)),
                (None, None) => (),
            }
            // No timer goes as far as the slowest pace.
            let held = wire.held_for().map(|wait| now + wait.min(ping));
            Ok(([progress.check(wire, now)?, held], wire.is_blocked()))
        });
        let (due, blocked) = looked.unwrap_or(Err(Ended::Eof))?;
        let mut next = self.ping_due();
        if self.session.answers.load(Relaxed) {
            next = next.min(silent_since + dead);
        }
        if let Some(since) = self.unfinished {
            next = next.min(since + UNFINISHED);
        }
        if let Some(hold) = self.held {
            next = next.min(hold.until);
        }
        Ok((due.into_iter().flatten().fold(next, Instant::min), blocked))
    }

    /// When the next PING is: after a silence, and once in any case. Where something is always heard nobody would know
    /// whether this peer answers when the silence comes.
    fn ping_due(&self) -> Instant {
        let ping = self.session.ping;
        let due = self.pinged.unwrap_or(self.heard) + ping;
        let known = self.asked || self.session.answers.load(Relaxed);
        if known { due } else { due.min(self.began + ping) }
    }
}

/// `ping:X` is answered `pong:X`, once for each; the rest of text is nobody's (jor1k's relays).
fn answer(text: &[u8]) -> Option<Vec<u8>> {
    let rest = text.strip_prefix(b"ping:").filter(|rest| rest.len() <= 64)?;
    // Text is not checked when it comes, but what we send has to be (RFC 6455 5.6).
    std::str::from_utf8(rest).ok()?;
    Some([b"pong:", rest].concat())
}

/// Small messages leave at once. The kernel notices when a peer is gone that never answered a PING:
/// our PING after the silence is the probe data, so the two times together are the one above.
fn tune(socket: &Stream, ping: Duration) -> io::Result<()> {
    let socket = socket2::SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    // The kernel's milliseconds are an int.
    let most = Duration::from_millis(i32::MAX as u64);
    socket.set_tcp_user_timeout(Some((dead_after(ping) - ping).min(most)))
}

/// A peer that answers PINGs is dead after so much silence: 40 s for the usual 15 s to a PING.
fn dead_after(ping: Duration) -> Duration {
    ping * 40 / 15
}

/// Sets a timer to a time at which something is due, if that is earlier than its own. Where it is later the timer fires for
/// nothing, once, which costs less than to set it back each time that something is heard.
pub fn put_off(timer: Pin<&mut Sleep>, due: Instant) {
    if due < timer.deadline() || timer.is_elapsed() {
        timer.reset(due);
    }
}

/// Reads in a row before other tasks of the thread get their turn.
pub const TURNS: u32 = 4;
/// Bytes of frames that are written one by one, which takes ten times as long as super-frames: so long waits what goes the
/// other way on this thread.
pub const READ_FRAMES: usize = READ / 4;
const UNFINISHED: Duration = Duration::from_secs(30);
/// Reads of what a connection that is no more has left.
const MOST_LEFT: u32 = 64;

#[cfg(test)]
#[path = "peer_tests.rs"]
pub(super) mod with_peers;

#[cfg(test)]
mod hold_tests;

#[cfg(test)]
mod moved_tests;

#[cfg(test)]
mod serving_tests;
