//! A WebSocket link, or a virtual machine's socket: the egress side, which any thread may use, and the session that
//! reads and keeps it alive, on one data thread.
//!
//! A frame for a link is encoded behind what waits there, under the link's lock; at the end of its
//! ingress batch the whole is written. Only when the socket would block does anything stay, and only
//! then is the session's thread told to wait for the socket.

mod backlog;
mod fair;
mod leaving;
mod member;
mod moves;
mod pace;
mod pings;
mod progress;
mod queue;
mod session;
mod spread;
mod stream;
mod vm;
mod wire;

use std::io;
use std::sync::atomic::{
    AtomicBool, AtomicU16, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::oneshot;

pub use leaving::{LEAVING, News};
pub use member::Takeover;
pub use session::{Ended, Session, Stop, linger};
pub use stream::Stream;
pub use vm::VmSession;
pub use wire::Wire;

use self::member::Member;
use self::pings::Pings;
use self::spread::Spread;
use super::egress::Departing;
use super::spec::Congestion;
use crate::frame::MAX_FRAME;
use crate::frame::offload::VnetHeader;
use crate::prof::{Side, Tape};
use crate::switch::{Counters, Now, Reason};
use crate::sync::{Mutex, MutexGuard, PoisonError};
use crate::ws::codec::Piece;
use crate::ws::header::Opcode;
use crate::ws::joining::Which;

/// A link's egress. Outlives its connections.
pub struct Link {
    /// The place of the one connection that most links have; of several, that for sparse flows.
    first: Member,
    /// The others' places and which flow goes where, once one has come.
    more: OnceLock<Box<Spread>>,
    /// Connections at most.
    most: u8,
    /// A bit for each member that is connected.
    up: AtomicU16,
    /// Of the connections that were in the first place, the last that was left for one to another far end.
    left: AtomicU64,
    /// The port's counters: only here is it known what was written.
    pub counters: Arc<Counters>,
    /// What it is to the way of a frame; absent: a link that comes in.
    side: Option<Side>,
    /// The connection speaks `etherws.vnet1`: each message begins with a virtio_net_hdr.
    vnet: AtomicBool,
    /// As it is asked for; locked behind a member's place.
    congestion: Mutex<Congestion>,
    /// PINGs that measure.
    pings: Mutex<Pings>,
    /// Bits a second; 0: as many as go.
    pace: AtomicU64,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            first: Member::default(),
            more: OnceLock::new(),
            most: 1,
            up: AtomicU16::new(0),
            left: AtomicU64::new(0),
            counters: Arc::default(),
            side: None,
            vnet: AtomicBool::new(false),
            congestion: Mutex::default(),
            pings: Mutex::default(),
            pace: AtomicU64::new(0),
        }
    }
}

impl Link {
    /// A link that is dialled from here.
    pub fn dialled(congestion: Congestion) -> Self {
        Self { side: Some(Side::Client), ..Self::incoming(congestion) }
    }

    pub fn incoming(congestion: Congestion) -> Self {
        Self { congestion: Mutex::new(congestion), ..Self::default() }
    }

    /// The same, of so many connections at most.
    #[must_use]
    pub fn of_members(self, most: u8) -> Self {
        Self { most: most.max(1), ..self }
    }

    /// One to a virtual machine: as with a device, nothing is masked and no direction the slower one.
    pub fn to_vm() -> Self {
        Self { side: Some(Side::Device), ..Self::default() }
    }

    /// What it is to the way of a frame.
    pub fn side(&self) -> Side {
        self.side.unwrap_or(Side::Server)
    }

    /// Encodes one frame behind the others; it is counted as sent when it is written. `Ok(true)`:
    /// nobody has promised to flush yet, the caller must. `now` may be that of its batch.
    pub fn send(&self, frame: &Departing<'_>, now: Now, tape: &mut impl Tape) -> Result<bool, Reason> {
        let pieces = frame.out.parts().map(Piece::from);
        self.send_pieces(&frame.header, &pieces, frame.out.len(), (frame.frames, frame.bytes), now, tape)
    }

    /// The same for a frame of `len` bytes in pieces, some of which may wear the mask they came with.
    /// `sent`: what the counters will say of it, frames and bytes on a cable.
    pub fn send_pieces(
        &self,
        header: &VnetHeader,
        frame: &[Piece<'_>],
        len: usize,
        sent: (u32, u32),
        now: Now,
        tape: &mut impl Tape,
    ) -> Result<bool, Reason> {
        if is_too_big(len) {
            return Err(Reason::TooBig);
        }
        match self.more.get() {
            None => self.first.send(header, frame, sent, None, tape).map(|(first, _)| first),
            Some(more) => self.send_spread(more, header, frame, sent, now, tape),
        }
    }

    /// Why a frame of `len` bytes would not be taken now.
    pub fn refuses(&self, len: usize) -> Option<Reason> {
        match self.is_connected() {
            _ if is_too_big(len) => Some(Reason::TooBig),
            false => Some(Reason::LinkDown),
            true => None,
        }
    }

    /// Sends a PING, before the frames that wait; its answer is the time until the PONG. The error says why there can be
    /// none.
    pub fn ping(&self) -> Result<oneshot::Receiver<Duration>, &'static str> {
        let member = self.members().find(|member| member.is_connected());
        let mut place = member.ok_or("not connected")?.lock();
        let Some(wire) = place.wire.as_mut() else { return Err("not connected") };
        let mut pings = self.pings();
        let Some((payload, answer)) = pings.ask(tokio::time::Instant::now()) else {
            return Err("it is measured a hundred times in this second already");
        };
        drop(pings);
        let said = wire.say(Opcode::Ping, &payload);
        if said {
            wire.flush(&mut ());
        }
        // The socket may have blocked, or broken.
        wire.stuck.notify_one();
        if said { Ok(answer) } else { Err("the link is busy: too much is on its way out") }
    }

    /// Says by each connection that this switch is about to end ([`LEAVING`]).
    pub fn say_leaving(&self) {
        for member in self.members() {
            if let Some(wire) = member.lock().wire.as_mut() {
                wire.say_leaving();
                // The socket may have blocked, or broken.
                wire.stuck.notify_one();
            }
        }
    }

    /// A PONG came.
    fn ponged(&self, payload: &[u8]) {
        self.pings().answered(payload, tokio::time::Instant::now());
    }

    fn pings(&self) -> MutexGuard<'_, Pings> {
        self.pings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether super-frames may be sent as they are.
    pub fn is_vnet(&self) -> bool {
        self.vnet.load(Relaxed)
    }

    /// Writes what waits, as far as the sockets take it.
    pub fn flush(&self, tape: &mut impl Tape) {
        self.first.flush(tape);
        if let Some(more) = self.more.get() {
            more.members.iter().for_each(|member| member.flush(tape));
        }
    }

    pub fn is_connected(&self) -> bool {
        self.up.load(Relaxed) != 0
    }

    /// How many connections there are.
    pub fn connections(&self) -> u8 {
        self.up.load(Relaxed).count_ones() as u8
    }

    /// How many there may be.
    pub fn most(&self) -> u8 {
        self.most
    }

    /// The far end begins anew: what it said of moves counts no more, nor what its connections were called.
    pub fn begins(&self) {
        self.members().for_each(|member| member.lock().begins());
        if let Some(more) = self.more.get() {
            more.forget();
        }
    }

    /// Which link it is, of those that the port has had since it first had several connections.
    pub fn which(&self) -> u32 {
        self.more.get().map_or(1, |more| more.link())
    }

    /// The largest segment that the path of the connection takes, in bytes; none without TCP.
    pub fn segment(&self) -> Option<u32> {
        self.members().find_map(|member| member.lock().wire.as_ref().and_then(Wire::segment))
    }

    /// For the connection that there is, and for those to come.
    pub fn set_congestion(&self, wanted: &Congestion) -> io::Result<()> {
        // First, so that a connection that is just coming has it in any case.
        let before = std::mem::replace(&mut *self.congestion(), wanted.clone());
        if before == *wanted {
            return Ok(());
        }
        let outcome = self.members().try_for_each(|member| member.set_congestion(wanted));
        if outcome.is_err() {
            *self.congestion() = before;
        }
        outcome
    }

    /// Bits a second at most, for the connection that there is and for those to come.
    pub fn set_pace(&self, bits: Option<u64>) {
        if self.pace.swap(bits.unwrap_or(0), Relaxed) != bits.unwrap_or(0) {
            self.pace_members();
        }
    }

    /// The pace, if there is one.
    fn pace(&self) -> Option<u64> {
        Some(self.pace.load(Relaxed)).filter(|bits| *bits != 0)
    }

    /// A pace is one connection's, the first's of those that there are. The others let out what they have.
    fn pace_members(&self) {
        let (bits, paced) = (self.pace(), self.up.load(Relaxed).trailing_zeros());
        for (number, member) in (0..).zip(self.members()) {
            member.set_pace(bits.filter(|_| number == paced));
        }
    }

    /// A connection is there: its number among those of this member. `made_with` may have changed since.
    fn connected(&self, which: Which, mut wire: Wire, made_with: &Congestion, takes: Takeover) -> u64 {
        let Which { member, n } = which;
        if member > 0 && self.more.get().is_none() {
            // Another member's session may be as far.
            let _ = self.more.set(Box::new(Spread::new(self.most)));
        }
        let Some(at) = self.member(member) else { return 0 };
        let mut place = at.lock();
        let wanted = self.congestion();
        if *wanted != *made_with {
            // The kernel was asked when it was wanted.
            let _ = wire.set_congestion(&wanted);
        }
        let pace = self.pace();
        wire.set_pace(pace);
        self.vnet.store(wire.is_vnet(), Relaxed);
        if takes == Takeover::Moved {
            // Before anything goes by the new one: it may come back by the old one.
            self.left.store(place.count(), Release);
            // Nor is it to overtake what went by that: to those behind both the stations would seem to go back and forth.
            let waits = place.wire.as_ref().is_some_and(Wire::waits);
            wire.pause(if waits { BEHIND_A_QUEUE } else { BEHIND });
        }
        let count = place.put(wire, n, takes);
        self.up.fetch_or(1 << member, Relaxed);
        drop(place);
        drop(wanted);
        if pace.is_some() {
            self.pace_members();
        }
        count
    }

    /// Whether the `count`th connection of the first place was left for one to another far end.
    fn has_left(&self, count: u64) -> bool {
        self.left.load(Acquire) >= count
    }

    /// The `count`th connection of a member is at its end.
    fn ended(&self, member: u8, count: u64) {
        let Some(at) = self.member(member) else { return };
        let mut place = at.lock();
        if place.take(count) {
            self.up.fetch_and(!(1 << member), Relaxed);
        }
        drop(place);
        self.reads_no_more(member, count);
        if self.pace().is_some() {
            self.pace_members();
        }
    }

    /// It reads no more: those that waited for that may go on.
    fn reads_no_more(&self, member: u8, count: u64) {
        if let Some(at) = self.member(member) {
            at.lock().reads_no_more(count);
        }
        self.members().for_each(Member::wake);
    }

    /// Does something with the `count`th connection of a member, while it is there.
    fn with<T>(&self, member: u8, count: u64, work: impl FnOnce(&mut Wire) -> T) -> Option<T> {
        self.member(member)?.lock().of(count).map(work)
    }

    fn member(&self, member: u8) -> Option<&Member> {
        match member {
            0 => Some(&self.first),
            _ => self.more.get()?.members.get(usize::from(member) - 1),
        }
    }

    fn members(&self) -> impl Iterator<Item = &Member> {
        std::iter::once(&self.first).chain(self.more.get().into_iter().flat_map(|more| &more.members))
    }

    fn congestion(&self) -> MutexGuard<'_, Congestion> {
        self.congestion.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a connection to another far end waits for what went by the one before: that has one switch more to pass.
const BEHIND: Duration = Duration::from_millis(50);
const BEHIND_A_QUEUE: Duration = Duration::from_millis(200);

/// A tag that was pushed may make a frame too large for the far end, which would have to close.
fn is_too_big(len: usize) -> bool {
    len > MAX_FRAME
}
