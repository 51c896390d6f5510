//! A virtual machine's connection on its data thread: frames behind their lengths ([`stream`]), and nothing else. Nothing
//! is said at its beginning or end, and nobody is asked whether he is still there: a VM may be silent as long as it likes.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::progress::Progress;
use super::session::{Down, PARTING, READ_FRAMES, TURNS, put_off};
use super::{Ended, Link, Stop, Stream, Takeover, Wire, linger};
use crate::frame::stream::{self, PREFIX, TooLong};
use crate::port::fabric::{Fabric, Scratch, with_scratch};
use crate::port::spec::Congestion;
use crate::prof::{PortAt, Stage, Tape};
use crate::switch::Slot;
use crate::with_tape;
use crate::ws::codec::Payload;
use crate::ws::joining::Which;

/// A connection about to be served.
pub struct VmSession {
    pub link: Arc<Link>,
    pub fabric: Arc<Fabric>,
    pub slot: Slot,
    /// The port's number: its slot may be another's before the session has ended.
    pub number: u32,
    /// Non-blocking.
    pub socket: socket2::Socket,
    pub stop: watch::Receiver<Option<Stop>>,
}

impl VmSession {
    /// Serves the connection until it ends. Runs on the data thread that the socket is to belong to.
    pub async fn run(self) -> Ended {
        let fabric = self.fabric.clone();
        let ended = match self.serve().await {
            Ok(never) => match never {},
            Err(ended) => ended,
        };
        fabric.tally.link_ended(&ended);
        ended
    }

    async fn serve(self) -> Result<Infallible, Ended> {
        let stream = Arc::new(Stream::adopt(self.socket).map_err(Ended::Broken)?);
        let at = PortAt { slot: self.slot.0, number: self.number, side: self.link.side() };
        let prof = (self.fabric.prof.clone(), at);
        let stuck = Arc::default();
        let wire = Wire::bare(stream.clone(), self.link.counters.clone(), prof)
            .shown_to(&self.fabric.captures)
            .waking(&stuck);
        let count = self.link.connected(Which::default(), wire, &Congestion::System, Takeover::Lost);
        // However the session ends, and be it by a panic, the port must not think it is connected.
        let _down = Down { link: self.link.clone(), member: 0, count };
        let mut serving = Serving {
            link: self.link,
            fabric: self.fabric,
            at,
            stream,
            count,
            stuck,
            rest: Vec::new(),
            progress: Progress::new(Instant::now()),
            shrunk: Instant::now(),
        };
        let Err(ended) = serving.forward_until_the_end(self.stop).await;
        if matches!(ended, Ended::Stopped) {
            serving.part().await;
        }
        Err(ended)
    }
}

struct Serving {
    link: Arc<Link>,
    fabric: Arc<Fabric>,
    at: PortAt,
    stream: Arc<Stream>,
    count: u64,
    stuck: Arc<Notify>,
    /// The start of a frame whose end has not been read.
    rest: Vec<u8>,
    progress: Progress,
    /// When the memory of a burst was last given back.
    shrunk: Instant,
}

impl Serving {
    async fn forward_until_the_end(
        &mut self,
        mut stop: watch::Receiver<Option<Stop>>,
    ) -> Result<Infallible, Ended> {
        let (link, prof) = (self.link.clone(), self.fabric.prof.clone());
        let stuck = self.stuck.clone();
        let mut stopped = pin!(stop.wait_for(Option::is_some));
        let mut notified = pin!(stuck.notified());
        let mut timer = pin!(sleep_until(Instant::now()));
        let mut waiting = false;
        let mut turns = 0u32;
        loop {
            if waiting {
                waiting = with_tape!(prof, |tape| self.read_batch(tape))?;
                turns = if waiting { turns + 1 } else { 0 };
                if waiting && turns < TURNS {
                    continue;
                }
                // Other ports live on this thread too, and a VM that never pauses must not keep this one from
                // writing, nor from its end.
                if waiting {
                    turns = 0;
                    tokio::task::yield_now().await;
                }
            }
            let (deadline, blocked) = prof.timer(|| self.tick())?;
            put_off(timer.as_mut(), deadline);
            tokio::select! {
                // What there is to read comes last: of the others each is done with when it is done.
                biased;
                // A sender that is gone means a port that is gone.
                _ = &mut stopped => return Err(Ended::Stopped),
                ready = self.stream.writable(), if blocked => {
                    ready.map_err(Ended::Broken)?;
                    with_tape!(prof, |tape| {
                        tape.from(self.at);
                        link.flush(tape)
                    });
                }
                () = &mut notified => notified.set(stuck.notified()),
                () = &mut timer => (),
                () = std::future::ready(()), if waiting => (),
                ready = self.stream.readable() => {
                    ready.map_err(Ended::Broken)?;
                    waiting = true;
                }
            }
        }
    }

    /// One read and all whole frames in it. `true` when there may be more to read.
    fn read_batch(&mut self, tape: &mut impl Tape) -> Result<bool, Ended> {
        tape.from(self.at);
        with_scratch(|scratch| {
            let kept = self.rest.len();
            scratch.plain[..kept].copy_from_slice(&self.rest);
            let got = self.stream.try_read(&mut scratch.plain[kept..kept + READ_FRAMES]);
            tape.mark_batch(Stage::RxSockRead);
            match got {
                Ok(0) => Err(Ended::Eof),
                Ok(got) => self.forward(scratch, kept + got, tape).map(|()| got == READ_FRAMES),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
                Err(e) => Err(Ended::Broken(e)),
            }
        })
    }

    /// Forwards the whole frames among the first `len` bytes and keeps the rest.
    fn forward(&mut self, scratch: &mut Scratch, len: usize, tape: &mut impl Tape) -> Result<(), Ended> {
        let bytes = &mut scratch.plain[..len];
        let table = self.fabric.table();
        let slot = Slot(self.at.slot);
        let mut batch = self.fabric.batch(&table, slot, self.at.number, tape).ok_or(Ended::Stopped)?;
        let mut at = 0;
        let outcome = loop {
            let (before, rest) = bytes.split_at_mut(at);
            let len = match stream::first(rest) {
                Ok(Some(len)) => len,
                Ok(None) => break Ok(()),
                Err(TooLong(announced)) => break Err(Ended::TooLong(announced)),
            };
            batch.tape.mark(Stage::RxWsParse);
            let frame = at + PREFIX..at + PREFIX + len;
            at = frame.end;
            if let Some(slot) = batch.message(before, Payload::clear(&mut rest[PREFIX..PREFIX + len]), false)
            {
                batch.merge(bytes, frame, slot);
            }
        };
        batch.finish(bytes);
        self.rest.clear();
        // Nothing of a stream that is to be closed is looked at again.
        self.rest.extend_from_slice(if outcome.is_ok() { &bytes[at..] } else { &[] });
        batch.tape.mark(Stage::RxWsParse);
        outcome
    }

    /// What time has made due; when to look again, and whether the socket is blocked. An error of a write is told here.
    fn tick(&mut self) -> Result<(Instant, bool), Ended> {
        let now = Instant::now();
        let Self { link, count, progress, shrunk, .. } = self;
        let looked = link.with(0, *count, |wire| {
            if let Some(error) = wire.take_error() {
                return Err(Ended::Broken(error));
            }
            let due = progress.check(wire, now)?;
            if due.is_none() && now >= *shrunk + SHRINK {
                *shrunk = now;
                wire.shrink();
            }
            Ok((due.unwrap_or(*shrunk + SHRINK), wire.is_blocked()))
        });
        looked.unwrap_or(Err(Ended::Eof))
    }

    /// Lets out what waits.
    async fn part(&self) {
        let all_out = async {
            while self.link.with(0, self.count, |wire| wire.flush(&mut ())) == Some(false) {
                if self.link.with(0, self.count, Wire::take_error).flatten().is_some() {
                    return;
                }
                let _ = self.stream.writable().await;
            }
        };
        let _ = timeout(PARTING, all_out).await;
        linger(&self.stream).await;
    }
}

/// Often enough for memory that nobody needs, seldom enough for memory that is needed again at once.
const SHRINK: Duration = Duration::from_secs(60);
