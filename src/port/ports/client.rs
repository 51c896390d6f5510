//! The life of a port that dials: dial, serve, wait, for ever.

use std::io;
use std::pin::Pin;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{info, warn};

use super::agreed::{Agreed, Ticket};
use super::entry::{Entry, State};
use super::{Ports, announce};
use crate::port::dial::{Backoff, DialError, Dialed, Target, Wish, dial};
use crate::port::link::{Ended, Link, Session, Stop, VmSession};
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

async fn redial(ports: Weak<Ports>, entry: &Arc<Entry>, mut far: Far, member: u8, agreed: &Agreed) {
    let Some(moved) = ports.upgrade().map(|ports| ports.moved.subscribe()) else { return };
    let mut patience = Patience { backoff: Backoff::new(), moved, hurried: false };
    // A peer that answered a PING once will be taken to answer on its next connection too.
    let answers = Arc::<AtomicBool>::default();
    loop {
        // What is not the first has nobody to ask before there is a link.
        let ticket = if member == 0 { agreed.ticket() } else { Some(agreed.with_room_for(member).await) };
        set_state(entry, agreed, State::Connecting, None);
        patience.moved.mark_unchanged();
        let dialled = far.dial(entry, member, ticket.as_deref()).await;
        let outcome = match dialled {
            Ok(reached) => {
                let Some(ports) = ports.upgrade() else { return };
                let here = agreed.comes();
                let ticket = match (&reached, ticket) {
                    (Reached::Switch { dialed, .. }, None) => agreed.begin(entry, dialed),
                    (_, ticket) => ticket.inspect(|ticket| agreed.joined(ticket)),
                };
                let since = Instant::now();
                let peer = reached.peer();
                came_up(&ports, entry, &reached, agreed);
                info!(port = entry.number, peer, member, "connected to {}", entry.target);
                let stop = match &ticket {
                    Some(ticket) => ticket.stop.subscribe(),
                    None => entry.stop.subscribe(),
                };
                // It lives as long as its link is agreed on.
                drop(ticket);
                let ended = match reached {
                    Reached::Switch { dialed, which, made_with, ping } => {
                        let of = (which, stop, &answers);
                        let session = session(&ports, entry, *dialed, made_with, ping, of);
                        match session.map(|session| Box::pin(session.run())) {
                            Ok(session) => serve(ports, session).await,
                            Err(error) => Ended::Broken(error),
                        }
                    }
                    Reached::Qemu(socket, _) => {
                        let session = Box::pin(vm_session(&ports, entry, socket).run());
                        serve(ports, session).await
                    }
                };
                drop(here);
                if since.elapsed() >= Backoff::CEILING {
                    patience.backoff.reset();
                }
                ended
            }
            Err(error) => {
                if error.is_gone() && ticket.is_some() {
                    info!(port = entry.number, member, "{} knows nothing of the link any more", entry.target);
                    agreed.forget(&ports, entry, ticket.as_ref());
                    continue;
                }
                let delay = patience.backoff.next(rand::random());
                patience.wait(entry, agreed, delay, error.to_string()).await;
                continue;
            }
        };
        agreed.lost(&ports, entry, &outcome);
        let random: u64 = rand::random();
        let delay = match outcome {
            Ended::Closed(Some(1001)) => patience.backoff.going_away(random),
            _ => patience.backoff.next(random),
        };
        patience.wait(entry, agreed, delay, outcome.to_string()).await;
    }
}

/// A connection is there; with the first one the port is up.
fn came_up(ports: &Ports, entry: &Entry, reached: &Reached, agreed: &Agreed) {
    let is_first = agreed.is_alone(entry);
    let is_back = {
        let mut life = entry.life();
        (life.state, life.reason) = (State::Up, agreed.fewer(entry));
        life.peer = Some(reached.peer());
        (life.tls, life.vnet) = (reached.tls(), reached.is_vnet());
        life.connects += u64::from(is_first);
        life.connects > 1
    };
    entry.tell();
    if is_first && matches!(reached, Reached::Switch { .. }) {
        ports.introduce(entry, if is_back { Duration::ZERO } else { announce::SETTLE });
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

impl Reached {
    fn peer(&self) -> String {
        match self {
            Self::Switch { dialed, .. } => dialed.peer.to_string(),
            Self::Qemu(_, peer) => peer.clone(),
        }
    }

    fn tls(&self) -> Option<String> {
        match self {
            Self::Switch { dialed, .. } => dialed.tls.as_ref().and_then(|tls| describe_tls(tls)),
            Self::Qemu(..) => None,
        }
    }

    fn is_vnet(&self) -> bool {
        matches!(self, Self::Switch { dialed, .. } if dialed.protocol.as_deref() == Some(SUPER))
    }
}

fn session(
    ports: &Ports,
    entry: &Entry,
    dialed: Dialed,
    congestion: Congestion,
    ping: Option<Duration>,
    (which, stop, answers): (Which, watch::Receiver<Option<Stop>>, &Arc<AtomicBool>),
) -> io::Result<Session> {
    Ok(Session {
        link: link(entry),
        fabric: ports.fabric.clone(),
        slot: entry.slot,
        number: entry.number,
        which,
        // A place is dialled for when its connection has ended.
        live: false,
        role: Role::Client,
        vnet: dialed.protocol.as_deref() == Some(SUPER),
        congestion,
        stream: Some(dialed.stream.into_std()?),
        tls: dialed.tls.map(|tls| Box::new(tls.into())),
        early: dialed.early,
        ping: ping.unwrap_or_else(|| ports.ping()),
        answers: answers.clone(),
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
