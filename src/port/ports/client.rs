//! The life of a client port: dial, serve, wait, for ever.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{info, warn};

use super::Ports;
use super::entry::{Entry, State};
use crate::port::dial::{Backoff, Target, dial};
use crate::port::link::{Ended, Link, Session};
use crate::ws::codec::Role;
use crate::ws::handshake::SUPER;

/// Silence before a PING, when nobody says otherwise.
pub const PING: Duration = Duration::from_secs(15);

/// Keeps `entry` connected to `target` until the port is ended.
/// Without a `ping` of its own it probes at the switch's interval.
pub async fn keep_connected(
    ports: Weak<Ports>,
    entry: Arc<Entry>,
    mut target: Target,
    ping: Option<Duration>,
) {
    tokio::select! {
        biased;
        () = entry.ended() => {
            // A session that runs hears of it too, and says Close.
            while entry.link().is_some_and(|link| link.is_connected()) {
                sleep(Duration::from_millis(5)).await;
            }
        }
        () = redial(ports, &entry, &mut target, ping) => (),
    }
}

async fn redial(ports: Weak<Ports>, entry: &Arc<Entry>, target: &mut Target, ping: Option<Duration>) {
    let Some(moved) = ports.upgrade().map(|ports| ports.moved.subscribe()) else { return };
    let mut patience = Patience { backoff: Backoff::new(), moved, hurried: false };
    // A peer that answered a PING once will be taken to answer on its next connection too.
    let answers = Arc::<AtomicBool>::default();
    let offload = entry.spec().offload;
    loop {
        set_state(entry, State::Connecting, None);
        patience.moved.mark_unchanged();
        target.congestion.clone_from(&entry.spec().congestion);
        let outcome = match dial(target, offload).await {
            Ok(dialed) => {
                let Some(ports) = ports.upgrade() else { return };
                let since = Instant::now();
                let peer = dialed.peer.to_string();
                let vnet = dialed.protocol.as_deref() == Some(SUPER);
                {
                    let mut life = entry.life();
                    life.state = State::Up;
                    life.reason = None;
                    life.peer = Some(peer.clone());
                    life.tls = dialed.tls.as_ref().and_then(|tls| describe_tls(tls));
                    life.vnet = vnet;
                    life.connects += 1;
                }
                entry.tell();
                info!(port = entry.number, peer, "connected to {}", target.display());
                let ended = match dialed.stream.into_std() {
                    Ok(stream) => {
                        let session = Session {
                            link: link(entry),
                            fabric: ports.fabric.clone(),
                            slot: entry.slot,
                            number: entry.number,
                            role: Role::Client,
                            vnet,
                            congestion: target.congestion.clone(),
                            stream: Some(stream),
                            tls: dialed.tls.map(Into::into),
                            early: dialed.early,
                            ping: ping.unwrap_or_else(|| ports.ping()),
                            answers: answers.clone(),
                            stop: entry.stop.subscribe(),
                        };
                        serve(ports, session).await
                    }
                    Err(error) => Ended::Broken(error),
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

/// Runs a session on a data thread and waits for its end.
pub async fn serve(ports: Arc<Ports>, session: Session) -> Ended {
    let (seat, open) = (ports.threads.seat(), ports.open.clone());
    drop(ports);
    let whole = async move {
        let ended = session.run().await;
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
