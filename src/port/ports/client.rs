//! The life of a port that dials: dial, serve, wait, for ever.

use std::io;
use std::pin::Pin;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{info, warn};

use super::entry::{Entry, State};
use super::{Ports, announce};
use crate::port::dial::{Backoff, DialError, Dialed, Target, dial};
use crate::port::link::{Ended, Link, Session, VmSession};
use crate::port::qemu::Address;
use crate::port::spec::Congestion;
use crate::ws::codec::Role;
use crate::ws::handshake::SUPER;

/// Silence before a PING, when nobody says otherwise.
pub const PING: Duration = Duration::from_secs(15);

/// Whom a port dials.
pub enum Far {
    /// Another switch. Without an interval of its own it is probed at the switch's.
    Switch(Box<Target>, Option<Duration>),
    Qemu(Address),
}

/// Keeps `entry` connected to `far` until the port is ended.
pub async fn keep_connected(ports: Weak<Ports>, entry: Arc<Entry>, mut far: Far) {
    tokio::select! {
        biased;
        () = entry.ended() => {
            // A session that runs hears of it too, and says Close.
            while entry.link().is_some_and(|link| link.is_connected()) {
                sleep(Duration::from_millis(5)).await;
            }
        }
        () = redial(ports, &entry, &mut far) => (),
    }
}

async fn redial(ports: Weak<Ports>, entry: &Arc<Entry>, far: &mut Far) {
    let Some(moved) = ports.upgrade().map(|ports| ports.moved.subscribe()) else { return };
    let mut patience = Patience { backoff: Backoff::new(), moved, hurried: false };
    // A peer that answered a PING once will be taken to answer on its next connection too.
    let answers = Arc::<AtomicBool>::default();
    loop {
        set_state(entry, State::Connecting, None);
        patience.moved.mark_unchanged();
        let outcome = match far.dial(entry).await {
            Ok(reached) => {
                let Some(ports) = ports.upgrade() else { return };
                let since = Instant::now();
                let peer = reached.peer();
                let is_back = {
                    let mut life = entry.life();
                    life.state = State::Up;
                    life.reason = None;
                    life.peer = Some(peer.clone());
                    (life.tls, life.vnet) = (reached.tls(), reached.is_vnet());
                    life.connects += 1;
                    life.connects > 1
                };
                entry.tell();
                info!(port = entry.number, peer, "connected to {}", entry.target);
                if matches!(reached, Reached::Switch { .. }) {
                    ports.introduce(entry, if is_back { Duration::ZERO } else { announce::SETTLE });
                }
                let ended = match reached {
                    Reached::Switch { dialed, made_with, ping } => {
                        let session = session(&ports, entry, *dialed, made_with, ping, &answers);
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
                if since.elapsed() >= Backoff::CEILING {
                    patience.backoff.reset();
                }
                ended
            }
            Err(error) => {
                let delay = patience.backoff.next(rand::random());
                patience.wait(entry, delay, error.to_string()).await;
                continue;
            }
        };
        if let Some(ports) = ports.upgrade() {
            ports.fabric.switch.fdb.flush(entry.slot);
        }
        let random: u64 = rand::random();
        let delay = match outcome {
            Ended::Closed(Some(1001)) => patience.backoff.going_away(random),
            _ => patience.backoff.next(random),
        };
        patience.wait(entry, delay, outcome.to_string()).await;
    }
}

impl Far {
    async fn dial(&mut self, entry: &Entry) -> Result<Reached, DialError> {
        match self {
            Self::Switch(target, ping) => {
                let offload = entry.spec().offload;
                target.congestion.clone_from(&entry.spec().congestion);
                let dialed = Box::new(dial(target, offload).await?);
                Ok(Reached::Switch { dialed, made_with: target.congestion.clone(), ping: *ping })
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
    Switch { dialed: Box<Dialed>, made_with: Congestion, ping: Option<Duration> },
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
    answers: &Arc<AtomicBool>,
) -> io::Result<Session> {
    Ok(Session {
        link: link(entry),
        fabric: ports.fabric.clone(),
        slot: entry.slot,
        number: entry.number,
        role: Role::Client,
        vnet: dialed.protocol.as_deref() == Some(SUPER),
        congestion,
        stream: Some(dialed.stream.into_std()?),
        tls: dialed.tls.map(|tls| Box::new(tls.into())),
        early: dialed.early,
        ping: ping.unwrap_or_else(|| ports.ping()),
        answers: answers.clone(),
        stop: entry.stop.subscribe(),
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
    async fn wait(&mut self, entry: &Entry, delay: Duration, reason: String) {
        let target = &entry.target;
        warn!(port = entry.number, "{target}: {reason}; next try in {:.1} s", delay.as_secs_f32());
        set_state(entry, State::Waiting, Some(reason));
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

fn set_state(entry: &Entry, state: State, reason: Option<String>) {
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
        let settings = SwitchSettings {
            node: None,
            ageout: Duration::from_secs(300),
            fdb_limit: 16,
            threads: 1,
            ping: None,
            prof: Default::default(),
            guard: Default::default(),
            announce: true,
            suppress: false,
            snoop: false,
            snoop_interval: Duration::from_secs(125),
        };
        let ports = Ports::start(settings).unwrap();
        let broken = serve(ports.clone(), Box::pin(async { panic!("a bug of ours") })).await;
        assert!(
            matches!(&broken, Ended::Broken(e) if e.to_string().contains("internal error")),
            "{broken:?}"
        );
        // On the same thread, which goes on.
        let next = serve(ports, Box::pin(async { Ended::Eof })).await;
        assert!(matches!(next, Ended::Eof), "{next:?}");
    }
}
