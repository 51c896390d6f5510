//! Links that come in: each is a port for as long as it has a connection, and for a while longer when the last one was
//! lost; others may join it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use bytes::Bytes;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::time::sleep;
use tracing::{debug, info};

use super::add::full;
use super::client::{PING, describe_tls, serve};
use super::entry::{Entry, Life, Parts, State, Way};
use super::names::name_from;
use super::{Incoming, PortError, Ports};
use crate::port::congestion;
use crate::port::link::{Ended, Link, Session, Stream, Takeover, Wire, linger};
use crate::port::resumable::{Linked, Resumable};
use crate::port::spec::{Congestion, PortKind, PortSpec, Profile};
use crate::port::status::PortStatus;
use crate::prof::{PortAt, Side};
use crate::switch::{Slot, VlanRule};
use crate::ws::codec::Role;
use crate::ws::joining::Which;

/// A connection that has come in.
struct Connection {
    stream: std::net::TcpStream,
    tls: Option<rustls::ServerConnection>,
    early: Bytes,
    peer: SocketAddr,
    ping: Duration,
    vnet: bool,
    congestion: Congestion,
    browser: bool,
    /// Its place among the connections.
    place: Box<dyn Send>,
}

impl Ports {
    /// Makes a port of an incoming link, or joins a connection to one. Who is refused (its user has too many, no room, the
    /// link is gone) is closed with a status code and a reason; the error says the same for the log.
    pub async fn accept(&self, incoming: Incoming) -> Result<PortStatus, PortError> {
        let changing = self.changing.lock().await;
        let Incoming {
            stream,
            tls,
            early,
            peer,
            user,
            profile,
            ping,
            vnet,
            congestion,
            linked,
            browser,
            place,
        } = incoming;
        let profile = profile.unwrap_or_default();
        let admitted = match &linked {
            Some(Linked::Joins { link, .. }) => self.joined(link).map(Admitted::To),
            _ => self.admit(user.as_deref(), profile.links).map(Admitted::In),
        };
        let admitted = match admitted {
            Ok(admitted) => admitted,
            Err((code, error)) => {
                drop(changing);
                self.turn_away(stream, tls, code, &error);
                return Err(error);
            }
        };
        let refused = |e: std::io::Error| PortError::Failed(format!("link of {peer}: {e}"));
        let stream = stream.into_std().map_err(refused)?;
        // What the kernel had when the service was asked for it may be gone: that costs no link.
        let congestion = match congestion {
            Congestion::Named(_) => {
                congestion::set(&SockRef::from(&stream), &congestion).map(|()| congestion)
            }
            Congestion::System => Ok(congestion),
        };
        let congestion = congestion.unwrap_or_else(|e| {
            debug!(%peer, "{e}");
            Congestion::System
        });
        let ping = ping.unwrap_or(PING);
        let connection = Connection { stream, tls, early, peer, ping, vnet, congestion, browser, place };
        let (entry, which, takes) = match (admitted, linked) {
            (Admitted::To(entry), Some(Linked::Joins { which, live, .. })) => {
                comes_back(&entry, &connection, which.member);
                (entry, which, if live { Takeover::Live } else { Takeover::Lost })
            }
            (Admitted::To(entry), _) => (entry, Which::default(), Takeover::Lost),
            (Admitted::In(slot), linked) => {
                let entry = self.enter_incoming(slot, &connection, user, &profile, linked);
                (entry, Which::default(), Takeover::Lost)
            }
        };
        let status = entry.status();
        self.keep(entry, connection, which, takes);
        Ok(status)
    }

    /// The port of a link that a connection joins.
    fn joined(&self, link: &Resumable) -> Result<Arc<Entry>, (u16, PortError)> {
        let entry = link.port().and_then(|number| self.entries().get(&number).cloned());
        // It may have ended since the door looked.
        let entry = entry.filter(|entry| entry.stop.borrow().is_none());
        entry.ok_or_else(|| (1001, PortError::Failed("the link to be joined has ended".to_owned())))
    }

    /// Closes a connection with a reason.
    fn turn_away(
        &self,
        stream: TcpStream,
        tls: Option<rustls::ServerConnection>,
        code: u16,
        why: &PortError,
    ) {
        let at = PortAt { slot: u32::MAX, number: 0, side: Side::Server };
        let prof = (self.fabric.prof.clone(), at);
        let stream = Arc::new(Stream::Tcp(stream));
        let tls = tls.map(|tls| Box::new(tls.into()));
        let mut wire = Wire::new(stream.clone(), tls, Role::Server, false, Arc::default(), prof);
        wire.close(Some(code), &why.to_string());
        wire.end_tls();
        let open = self.open.clone();
        tokio::spawn(async move {
            linger(&stream).await;
            drop(open);
        });
    }

    /// The port of a new link.
    fn enter_incoming(
        &self,
        slot: Slot,
        connection: &Connection,
        user: Option<String>,
        profile: &Profile,
        linked: Option<Linked>,
    ) -> Arc<Entry> {
        let Connection { peer, vnet, congestion, browser, .. } = connection;
        let (mut spec, vlan) = self.incoming_spec(*peer, user.as_deref(), profile);
        spec.congestion.clone_from(congestion);
        let resumable = linked.map(|(Linked::New(link) | Linked::Joins { link, .. })| link);
        let members = resumable.as_ref().map_or(1, |link| link.terms.members);
        let link = Link::incoming(congestion.clone()).of_members(members);
        link.set_pace(spec.pace);
        let tls = connection.tls.as_ref().and_then(|tls| describe_tls(tls));
        let parts = Parts {
            number: 0,
            slot,
            target: peer.to_string(),
            spec,
            way: Way::Link(Arc::new(link)),
            life: Life {
                state: State::Up,
                peer: Some(peer.to_string()),
                tls,
                vnet: *vnet,
                browser: *browser,
                connects: 1,
                ..Life::default()
            },
            user,
            listener: None,
        };
        let entry = self.enter(slot, vlan, parts);
        if let Some(link) = resumable {
            link.set_port(entry.number);
            // Nobody else has set it.
            let _ = entry.resumable.set(link);
        }
        entry
    }

    /// Serves a connection, and sees to what becomes of its link when it ends. `changing` is held.
    fn keep(&self, entry: Arc<Entry>, connection: Connection, which: Which, takes: Takeover) {
        let Connection { stream, tls, early, peer, ping, vnet, congestion, place, .. } = connection;
        let session = Session {
            link: entry.link().cloned().unwrap_or_default(),
            fabric: self.fabric.clone(),
            slot: entry.slot,
            number: entry.number,
            which,
            takes,
            role: Role::Server,
            vnet,
            congestion,
            stream: Some(stream),
            tls: tls.map(|tls| Box::new(tls.into())),
            early,
            ping,
            answers: Arc::default(),
            news: None,
            stop: entry.stop.subscribe(),
        };
        // Whoever may open links may open and close a thousand a second; what is not told of the beginning is not
        // told of the end.
        let told = self.arrivals.allow(Instant::now());
        if let Some(kept_back) = told {
            info!(port = entry.number, %peer, user = entry.user, member = which.member, kept_back, "link accepted");
        }
        entry.sessions.fetch_add(1, Relaxed);
        let Some(ports) = self.me.upgrade() else { return };
        let session = Box::pin(session.run());
        tokio::spawn(async move {
            let weak = Arc::downgrade(&ports);
            let ended = serve(ports, session).await;
            if told.is_some() {
                info!(port = entry.number, %peer, user = entry.user, member = which.member, "link ended: {ended}");
            }
            if let Some(ports) = weak.upgrade() {
                ports.parted(&entry, &ended, place).await;
            }
        });
    }

    /// A connection has ended: with the last one goes the port, unless it was lost and may come back. Then its place among
    /// the connections stays taken meanwhile.
    async fn parted(&self, entry: &Entry, ended: &Ended, place: Box<dyn Send>) {
        let grace = entry.resumable.get().map(|link| link.terms.resume).filter(|grace| !grace.is_zero());
        let (grace, mut returns) = {
            let _changing = self.changing.lock().await;
            if entry.sessions.fetch_sub(1, Relaxed) > 1 {
                return;
            }
            let ends = entry.stop.borrow().is_some() || !ended.is_loss();
            let Some(grace) = grace.filter(|_| !ends) else { return self.leave(entry) };
            let mut life = entry.life();
            life.state = State::Away;
            life.reason = Some(format!("{ended}; it may come back within {} s", grace.as_secs()));
            drop(life);
            entry.tell();
            (grace, entry.returns.subscribe())
        };
        tokio::select! {
            // The sender lives in the entry.
            _ = returns.changed() => return,
            () = entry.ended() => (),
            () = sleep(grace) => (),
        }
        drop(place);
        let _changing = self.changing.lock().await;
        if entry.sessions.load(Relaxed) == 0 {
            self.leave(entry);
        }
    }

    /// Room for one more link of `user`, who may have `links`; a one-link user's old session ends.
    fn admit(&self, user: Option<&str>, links: Option<u32>) -> Result<Slot, (u16, PortError)> {
        if let (Some(user), Some(links)) = (user, links) {
            let theirs: Vec<_> =
                self.entries().values().filter(|e| e.user.as_deref() == Some(user)).cloned().collect();
            if links == 1 {
                for stale in &theirs {
                    if self.arrivals.allow(Instant::now()).is_some() {
                        info!(port = stale.number, user, "replaced by a new session");
                    }
                    stale.end(1008, "replaced by a new session");
                    self.leave(stale);
                }
            } else if theirs.len() >= links as usize {
                let text = format!("user {user} has {links} links already");
                return Err((1013, PortError::Failed(text)));
            }
        }
        self.fabric.switch.free_slot().ok_or_else(|| (1013, full()))
    }

    /// The spec that stands for an incoming link, and its rule.
    fn incoming_spec(&self, peer: SocketAddr, user: Option<&str>, profile: &Profile) -> (PortSpec, VlanRule) {
        let wanted = profile.name.as_deref().or(user).unwrap_or("link");
        let rule = VlanRule::from_options(profile.access, profile.trunk.clone(), profile.native);
        let spec = PortSpec {
            name: Some(self.free_name(&name_from(wanted))),
            access: profile.access,
            trunk: profile.trunk.clone(),
            native: profile.native,
            isolated: profile.isolated,
            macs: profile.macs.clone(),
            ethertypes: profile.ethertypes.clone(),
            rate: profile.rate,
            storm: profile.storm,
            max_macs: profile.max_macs,
            loop_guard: profile.loop_guard.unwrap_or(true),
            pace: profile.pace,
            ..PortSpec::new(PortKind::Server, peer.to_string())
        };
        // The configuration was checked; a rule that cannot be is closed, not open: it has no VLAN.
        let closed = VlanRule::Trunk { allowed: crate::frame::VidSet::empty(), native: None };
        (spec, rule.unwrap_or(closed))
    }
}

/// What a connection was admitted to.
enum Admitted {
    /// A port that is there.
    To(Arc<Entry>),
    /// A new one, in this slot.
    In(Slot),
}

/// One more connection of a link; with the first one the port is up again, with one in the first place its peer is
/// another.
fn comes_back(entry: &Entry, connection: &Connection, member: u8) {
    let was_away = entry.sessions.load(Relaxed) == 0;
    if !was_away && member != 0 {
        return;
    }
    let mut life = entry.life();
    life.peer = Some(connection.peer.to_string());
    life.tls = connection.tls.as_ref().and_then(|tls| describe_tls(tls));
    if was_away {
        (life.state, life.reason) = (State::Up, None);
        life.vnet = connection.vnet;
        life.connects += 1;
    }
    drop(life);
    if was_away {
        entry.returns.send_modify(|times| *times += 1);
    }
    entry.tell();
}
