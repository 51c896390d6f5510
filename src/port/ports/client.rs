//! The life of a port that dials: dial, serve, wait, for ever. When the far end says that it is about to end
//! ([`LEAVING`](crate::port::link::LEAVING)) the next connection is dialled while the one that there is goes on.

use std::future::ready;
use std::io;
use std::pin::Pin;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, info, warn};

use super::agreed::{Agreed, Here, Ticket};
use super::entry::{Entry, State};
use super::{Ports, announce};
use crate::port::dial::{Backoff, DialError, Dialed, Target, Wish, dial};
use crate::port::link::{Ended, Link, News, Session, Stop, Takeover, VmSession};
use crate::port::qemu::Address;
use crate::port::spec::Congestion;
use crate::ws::codec::Role;
use crate::ws::handshake::SUPER;
use crate::ws::joining::Which;

/// Silence before a PING, when nobody says otherwise.
pub const PING: Duration = Duration::from_secs(15);

/// Whom a port dials.
#[derive(Clone)]
pub enum Far {
    /// Another switch. Without an interval of its own it is probed at the switch's.
    Switch(Box<Target>, Option<Duration>),
    Qemu(Address),
}

/// Keeps `entry` connected to `far` until the port is ended.
pub async fn keep_connected(ports: Weak<Ports>, entry: Arc<Entry>, far: Far) {
    let terms = Agreed::default();
    tokio::select! {
        biased;
        () = entry.ended() => {
            // A session that runs hears of it too, and says Close.
            if let (Some(ticket), Some(stop)) = (terms.ticket(), *entry.stop.borrow()) {
                ticket.stop.send_replace(Some(stop));
            }
            while entry.link().is_some_and(|link| link.is_connected()) {
                sleep(Duration::from_millis(5)).await;
            }
        }
        () = redial_all(ports, &entry, far, &terms) => (),
    }
}

/// Each of a link's connections by itself; the first agrees with the server about the others.
async fn redial_all(ports: Weak<Ports>, entry: &Arc<Entry>, far: Far, agreed: &Agreed) {
    let most = entry.link().map_or(1, |link| link.most());
    let all = (0..most).map(|member| redial(ports.clone(), entry, far.clone(), member, agreed));
    join_all(all).await;
}

async fn redial(ports: Weak<Ports>, entry: &Arc<Entry>, far: Far, member: u8, agreed: &Agreed) {
    let Some(moved) = ports.upgrade().map(|ports| ports.moved.subscribe()) else { return };
    let patience = Patience { backoff: Backoff::new(), moved, hurried: false };
    let mut client = Client { ports, entry, far, member, agreed, patience, answers: Arc::default() };
    let mut next = Some(client.reach(false).await);
    while let Some(reached) = next {
        next = client.live(reached).await;
    }
}

/// One of a link's connections, again and again.
struct Client<'a> {
    ports: Weak<Ports>,
    entry: &'a Arc<Entry>,
    far: Far,
    member: u8,
    agreed: &'a Agreed,
    patience: Patience,
    /// A peer that answered a PING once will be taken to answer on its next connection too.
    answers: Arc<AtomicBool>,
}

/// What was dialled, and the link that it joined.
type Made = (Reached, Option<Arc<Ticket>>);

/// A connection whose session runs.
struct Served<'a> {
    running: Pin<Box<dyn Future<Output = Ended> + Send>>,
    news: Arc<News>,
    since: Instant,
    _here: Here<'a>,
    /// The link that it is of, once another one is agreed on.
    ticket: Option<Arc<Ticket>>,
}

impl<'a> Client<'a> {
    /// Dials until a connection is there: of the link that there is or, `anew`, of another one.
    async fn reach(&mut self, anew: bool) -> Made {
        let Self { entry, member, agreed, .. } = *self;
        loop {
            // What is not the first has nobody to ask before there is a link.
            let ticket = match member {
                _ if anew => None,
                0 => agreed.ticket(),
                _ => Some(agreed.with_room_for(member).await),
            };
            set_state(entry, agreed, State::Connecting, None);
            self.patience.moved.mark_unchanged();
            match self.far.dial(entry, member, ticket.as_deref()).await {
                Ok(reached) => return (reached, ticket),
                // While others of the link are there it is not gone: this one came to another server.
                Err(error) if error.is_gone() && ticket.is_some() && agreed.has_somebody(entry) => {
                    debug!(port = entry.number, member, "{error}");
                    entry.life().reason = Some(STRAY.to_owned());
                    let delay = self.patience.backoff.next(rand::random());
                    self.patience.wait(entry, agreed, delay, STRAY.to_owned()).await;
                }
                Err(error) if error.is_gone() && ticket.is_some() => {
                    info!(port = entry.number, member, "{} knows nothing of the link any more", entry.target);
                    agreed.forget(&self.ports, entry, ticket.as_ref());
                }
                Err(error) => {
                    let delay = self.patience.backoff.next(rand::random());
                    self.patience.wait(entry, agreed, delay, error.to_string()).await;
                }
            }
        }
    }

    /// The same while there is one that works.
    async fn reach_meanwhile(&mut self) -> Made {
        let delay = self.patience.backoff.next(rand::random());
        self.patience.wait(self.entry, self.agreed, delay, LEAVES.to_owned()).await;
        self.reach(true).await
    }

    /// Serves a connection, and those that it is left for, until one has ended and the next is there. `None`: the ports are
    /// gone.
    async fn live(&mut self, reached: Made) -> Option<Made> {
        let mut served = self.begin(reached, Takeover::Lost)?;
        loop {
            tokio::select! {
                biased;
                ended = &mut served.running => {
                    self.patience.lived(served.since);
                    drop(served);
                    self.agreed.lost(&self.ports, self.entry, &ended);
                    let delay = after(&ended, &mut self.patience.backoff);
                    self.patience.wait(self.entry, self.agreed, delay, ended.to_string()).await;
                    return Some(self.reach(false).await);
                }
                () = served.news.leaving.notified() => (),
            }
            self.patience.lived(served.since);
            let (ports, entry, agreed) = (self.ports.clone(), self.entry, self.agreed);
            let mut backoff = self.patience.backoff.clone();
            let mut next = Box::pin(self.reach_meanwhile());
            let reached = tokio::select! {
                biased;
                ended = &mut served.running => {
                    drop(served);
                    agreed.lost(&ports, entry, &ended);
                    warn!(port = entry.number, "{}: {ended}; the next one is being dialled", entry.target);
                    set_state(entry, agreed, State::Waiting, Some(ended.to_string()));
                    // What is being dialled is the next one, if that takes no longer than to wait for another try.
                    let reached = timeout(after(&ended, &mut backoff), &mut next).await;
                    drop(next);
                    let Ok(reached) = reached else {
                        self.patience.backoff = backoff;
                        return Some(self.reach(false).await);
                    };
                    return Some(reached);
                }
                reached = &mut next => reached,
            };
            drop(next);
            served = self.go_over(served, reached).await?;
        }
    }

    /// Leaves a connection that works for another one, if that takes its place.
    async fn go_over(&mut self, mut old: Served<'a>, reached: Made) -> Option<Served<'a>> {
        let facts = Facts::of(&reached.0);
        // It ends when nobody has this any more.
        old.ticket = old.ticket.or_else(|| self.agreed.ticket());
        let mut new = self.begin(reached, Takeover::Moved)?;
        let is_placed = tokio::select! {
            biased;
            () = new.news.placed.notified() => true,
            _ = &mut new.running => false,
        };
        if !is_placed {
            // As if it could not be dialled. That the old one stood for long counts once.
            old.since = Instant::now();
            old.news.leaving.notify_one();
            return Some(old);
        }
        self.came_up(&*self.ports.upgrade()?, facts, true);
        let Served { running, ticket, .. } = old;
        let number = self.entry.number;
        tokio::spawn(async move {
            debug!(port = number, "the connection before: {}", running.await);
            drop(ticket);
        });
        Some(new)
    }

    /// Starts the session of a connection.
    fn begin(&self, (reached, ticket): Made, takes: Takeover) -> Option<Served<'a>> {
        let Self { entry, agreed, .. } = *self;
        let ports = self.ports.upgrade()?;
        let _here = agreed.comes();
        let ticket = match (&reached, ticket) {
            (Reached::Switch { dialed, .. }, None) => agreed.begin(entry, dialed),
            (_, ticket) => ticket.inspect(|ticket| agreed.joined(ticket)),
        };
        if takes != Takeover::Moved {
            self.came_up(&ports, Facts::of(&reached), false);
        }
        let stop = match &ticket {
            Some(ticket) => ticket.stop.subscribe(),
            None => entry.stop.subscribe(),
        };
        // It lives as long as its link is agreed on.
        drop(ticket);
        let news = Arc::<News>::default();
        let running: Pin<Box<dyn Future<Output = Ended> + Send>> = match reached {
            Reached::Switch { dialed, which, made_with, ping } => {
                // Of several each would have to go, to the same far end, and what is known of their flows with them.
                let news = Some(news.clone()).filter(|_| link(entry).most() == 1);
                let told = (stop, &self.answers, news);
                match session(&ports, entry, *dialed, made_with, ping, (which, takes), told) {
                    Ok(session) => Box::pin(serve(ports, Box::pin(session.run()))),
                    Err(error) => Box::pin(ready(Ended::Broken(error))),
                }
            }
            Reached::Qemu(socket, _) => {
                let session = vm_session(&ports, entry, socket);
                Box::pin(serve(ports, Box::pin(session.run())))
            }
        };
        Some(Served { running, news, since: Instant::now(), _here, ticket: None })
    }

    /// A connection is there; with the first one the port is up, and with one that leads elsewhere.
    fn came_up(&self, ports: &Ports, facts: Facts, moved: bool) {
        let Self { entry, agreed, member, .. } = *self;
        let begins = moved || agreed.is_alone(entry);
        info!(port = entry.number, peer = facts.peer, member, "connected to {}", entry.target);
        let is_back = {
            let mut life = entry.life();
            (life.state, life.reason) = (State::Up, agreed.fewer(entry));
            life.peer = Some(facts.peer);
            (life.tls, life.vnet) = (facts.tls, facts.vnet);
            life.connects += u64::from(begins);
            life.connects > 1
        };
        entry.tell();
        if begins && matches!(self.far, Far::Switch(..)) {
            ports.introduce(entry, if is_back { Duration::ZERO } else { announce::SETTLE });
        }
    }
}

impl Far {
    async fn dial(
        &mut self,
        entry: &Entry,
        member: u8,
        ticket: Option<&Ticket>,
    ) -> Result<Reached, DialError> {
        match self {
            Self::Switch(target, ping) => {
                // All of a link speak the same.
                let offload = ticket.map_or_else(|| entry.spec().offload, |ticket| ticket.vnet);
                target.congestion.clone_from(&entry.spec().congestion);
                let wish = match ticket {
                    Some(ticket) => ticket.wish(member),
                    None => Wish::New { members: entry.link().map_or(1, |link| link.most()) },
                };
                // Without a ticket it is the only one of its place.
                let which = Which { member, ..wish.which() };
                let dialed = Box::new(dial(target, offload, wish).await?);
                Ok(Reached::Switch { dialed, which, made_with: target.congestion.clone(), ping: *ping })
            }
            Self::Qemu(address) => {
                let (socket, peer) = address.dial().await?;
                Ok(Reached::Qemu(socket, peer))
            }
        }
    }
}

/// What came of a dial.
enum Reached {
    Switch { dialed: Box<Dialed>, which: Which, made_with: Congestion, ping: Option<Duration> },
    Qemu(socket2::Socket, String),
}

/// What is shown of it.
struct Facts {
    peer: String,
    tls: Option<String>,
    vnet: bool,
}

impl Facts {
    fn of(reached: &Reached) -> Self {
        match reached {
            Reached::Switch { dialed, .. } => Self {
                peer: dialed.peer.to_string(),
                tls: dialed.tls.as_ref().and_then(|tls| describe_tls(tls)),
                vnet: dialed.protocol.as_deref() == Some(SUPER),
            },
            Reached::Qemu(_, peer) => Self { peer: peer.clone(), tls: None, vnet: false },
        }
    }
}

fn session(
    ports: &Ports,
    entry: &Entry,
    dialed: Dialed,
    congestion: Congestion,
    ping: Option<Duration>,
    (which, takes): (Which, Takeover),
    (stop, answers, news): (watch::Receiver<Option<Stop>>, &Arc<AtomicBool>, Option<Arc<News>>),
) -> io::Result<Session> {
    Ok(Session {
        link: link(entry),
        fabric: ports.fabric.clone(),
        slot: entry.slot,
        number: entry.number,
        which,
        takes,
        role: Role::Client,
        vnet: dialed.protocol.as_deref() == Some(SUPER),
        congestion,
        stream: Some(dialed.stream.into_std()?),
        tls: dialed.tls.map(|tls| Box::new(tls.into())),
        early: dialed.early,
        ping: ping.unwrap_or_else(|| ports.ping()),
        answers: answers.clone(),
        news,
        stop,
    })
}

/// The session of a virtual machine.
pub fn vm_session(ports: &Ports, entry: &Entry, socket: socket2::Socket) -> VmSession {
    VmSession {
        link: link(entry),
        fabric: ports.fabric.clone(),
        slot: entry.slot,
        number: entry.number,
        socket,
        stop: entry.stop.subscribe(),
    }
}

/// How long to wait between tries.
struct Patience {
    backoff: Backoff,
    /// Changes of local addresses and routes since the last try began.
    moved: watch::Receiver<()>,
    /// The last wait was cut short.
    hurried: bool,
}

impl Patience {
    /// A connection has stood since then.
    fn lived(&mut self, since: Instant) {
        if since.elapsed() >= Backoff::CEILING {
            self.backoff.reset();
        }
    }

    /// Waits out the backoff, less when an address or a route changes: what failed may work now.
    async fn wait(&mut self, entry: &Entry, agreed: &Agreed, delay: Duration, reason: String) {
        let target = &entry.target;
        warn!(port = entry.number, "{target}: {reason}; next try in {:.1} s", delay.as_secs_f32());
        set_state(entry, agreed, State::Waiting, Some(reason));
        let deadline = Instant::now() + delay;
        // Changes come in bursts, and our own TAPs make some; a router's never end.
        let settle = if self.hurried { RESTLESS } else { SETTLE };
        sleep(settle.min(delay)).await;
        self.hurried = tokio::select! {
            () = sleep_until(deadline) => false,
            // The sender is gone with the ports, and this port is being ended.
            Ok(()) = self.moved.changed() => true,
        };
    }
}

/// How long to wait after the end of a connection.
fn after(ended: &Ended, backoff: &mut Backoff) -> Duration {
    match ended {
        Ended::Closed(Some(1001)) => backoff.going_away(rand::random()),
        _ => backoff.next(rand::random()),
    }
}

/// A session about to run. In a box of its own: whoever waits for it would be as large, for as long as it lasts.
pub type Running = Pin<Box<dyn Future<Output = Ended> + Send>>;

/// Runs a session on a data thread and waits for its end.
pub async fn serve(ports: Arc<Ports>, session: Running) -> Ended {
    let (seat, open) = (ports.threads.seat(), ports.open.clone());
    drop(ports);
    let whole = async move {
        let ended = session.await;
        drop(open);
        ended
    };
    match seat.handle.spawn(whole).await {
        Ok(ended) => ended,
        // A panic is a bug of ours; it costs this connection and no other.
        Err(error) => Ended::Broken(std::io::Error::other(format!("internal error: {error}"))),
    }
}

/// `TLSv1.3 AES_128_GCM_SHA256`.
pub fn describe_tls(tls: &rustls::CommonState) -> Option<String> {
    let suite = tls.negotiated_cipher_suite()?.suite();
    let suite =
        suite.as_str().unwrap_or("?").trim_start_matches("TLS13_").trim_start_matches("TLS_").to_owned();
    Some(format!("{} {suite}", tls.protocol_version()?.as_str().unwrap_or("?").replace('_', ".")))
}

fn link(entry: &Entry) -> Arc<Link> {
    entry.link().cloned().unwrap_or_default()
}

/// How a port fares that no connection serves at the moment.
fn set_state(entry: &Entry, agreed: &Agreed, state: State, reason: Option<String>) {
    if agreed.has_somebody(entry) {
        return;
    }
    let mut life = entry.life();
    life.state = state;
    life.peer = None;
    life.tls = None;
    life.vnet = false;
    if reason.is_some() || state == State::Up {
        life.reason = reason;
    }
    drop(life);
    entry.tell();
}

const STRAY: &str = "the server knows nothing of this link: does a balancer spread its connections?";
const LEAVES: &str = "the far end is about to end";
const SETTLE: Duration = Duration::from_millis(200);
const RESTLESS: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::ports::SwitchSettings;

    #[tokio::test]
    async fn bad_77_a_session_that_panics_costs_its_connection_alone() {
        let settings = SwitchSettings { fdb_limit: 16, ..SwitchSettings::default() };
        let ports = Ports::start(settings).unwrap();
        let broken = serve(ports.clone(), Box::pin(async { panic!("a bug of ours") })).await;
        assert!(
            matches!(&broken, Ended::Broken(e) if e.to_string().contains("internal error")),
            "{broken:?}"
        );
        // On the same thread, which goes on.
        let next = serve(ports.clone(), Box::pin(async { Ended::Eof })).await;
        assert!(matches!(next, Ended::Eof), "{next:?}");
    }
}
