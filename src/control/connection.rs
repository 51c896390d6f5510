//! One connection from accept to its end: PROXY header, TLS, requests, and the hand-over of what becomes a
//! link. Everything up to the first request's last header has `limits.header_time` in all.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{Request, StatusCode, header};
use hyper::body::Incoming as Body;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;

use super::anteroom::{Anteroom, Stay};
use super::auth::Verdict;
use super::bind::{Bind, Service};
use super::dashboard;
use super::data::{self, Accepted};
use super::health;
use super::lobby::{Full, Lobby, Most, Seat};
use super::local::Admins;
use super::logins::Logins;
use super::metrics::{self, Metrics};
use super::proxied;
use super::reply::{Reply, closing, guarded, text, with};
use super::rpc_http::{self, Rpc};
use super::rules::Rules;
use super::settings::{DoorSettings, Limits};
use super::tls::certificate_name;
use super::tokens::Key;
use super::wire::{Stream, Wire};
use crate::port::Incoming;
use crate::port::resumable::Resumables;
use crate::port::tally::{Event, Tally};
use crate::port::throttle::Throttle;

/// Takes a link that has come in; its 101 is sent.
pub type OnLink = Arc<dyn Fn(Incoming) + Send + Sync>;

/// What all connections share.
pub struct Shared {
    pub rules: ArcSwap<Rules>,
    pub logins: Logins,
    pub key: Key,
    /// The token of control on TCP, made at start.
    pub token: String,
    pub handlers: OnceLock<(OnLink, Arc<Rpc>)>,
    pub metrics: OnceLock<Metrics>,
    /// No new links: the switch is about to end.
    pub draining: AtomicBool,
    pub refusals: Throttle,
    pub tally: OnceLock<Tally>,
    /// Links that connections may join.
    pub links: OnceLock<Resumables>,
    /// Everybody on TCP, links included.
    pub connections: Lobby,
    /// Those of them that nobody has been let in by yet.
    pub unauthenticated: Anteroom,
    /// On the Unix socket: a crowd on TCP must not keep its administrator out.
    pub local: Lobby,
    pub admins: Admins,
}

impl Shared {
    /// Beside the socket, so that etherctl finds it.
    pub fn token_path(&self, settings: &DoorSettings) -> PathBuf {
        let mut path = settings.control.sock.clone().into_os_string();
        path.push(".token");
        path.into()
    }

    pub fn tally(&self) -> &Tally {
        self.tally.get_or_init(Tally::default)
    }

    pub fn links(&self) -> &Resumables {
        self.links.get_or_init(Resumables::default)
    }

    pub fn refused(&self, peer: SocketAddr, why: &str, event: Event) {
        self.tally().count(event);
        if let Some(kept_back) = self.refusals.allow(std::time::Instant::now()) {
            tracing::info!(%peer, kept_back, "refused: {why}");
        }
    }

    /// A place among all connections, and one among those that nobody has been let in by yet, which may have to be
    /// given up.
    fn places(&self, peer: SocketAddr) -> Option<(Seat, Stay, oneshot::Receiver<Full>)> {
        let rules = self.rules.load();
        let limits = &rules.settings.limits;
        let trusted = rules.settings.listen.as_ref().map_or(&[][..], |listen| &listen.trusted_proxies);
        let address = Some(peer.ip()).filter(|ip| !proxied::is_trusted(*ip, trusted));
        // Half of all places is for those who are let in, whatever the figures: else who waits would fill them, and
        // nobody could take the place of the oldest.
        let half = |n: usize| n.min((limits.connections / 2).max(1));
        let most = Most { all: half(limits.unauthenticated), each: half(limits.unauthenticated_per_address) };
        match self.connections.enter(address, connections(limits)) {
            Ok(seat) => {
                let (stay, put_out) = self.unauthenticated.enter(address, most);
                return Some((seat, stay, put_out));
            }
            Err(Full::All) => self.refused(peer, "too many connections", Event::Connections),
            Err(Full::Address) => {
                self.refused(peer, "too many connections from its address", Event::ConnectionsPerAddress);
            }
        }
        None
    }
}

fn connections(limits: &Limits) -> Most {
    Most { all: limits.connections, each: limits.connections_per_address }
}

/// What a request knows about the connection that it came on.
pub struct Context {
    pub shared: Arc<Shared>,
    /// Which listener; nothing: the Unix socket.
    bind: Option<Bind>,
    /// Our address; nothing on the Unix socket.
    pub local: Option<SocketAddr>,
    /// The other end, as the PROXY header names it where one is wanted.
    pub peer: SocketAddr,
    pub tls: bool,
    /// The name in the client's certificate.
    pub certificate: Option<String>,
    /// Where a request that becomes a link goes, past HTTP.
    accepted: Mutex<Option<oneshot::Sender<Accepted>>>,
    /// Among all connections.
    place: Arc<Seat>,
    /// Among those that are not let in yet; left for good with the first request that is.
    stay: Mutex<Option<Stay>>,
    /// Why a user of this host may not control the switch.
    refusal: Option<String>,
}

impl Context {
    pub fn refused(&self, peer: SocketAddr, why: &str, event: Event) {
        self.shared.refused(peer, why, event);
    }

    pub fn count(&self, event: Event) {
        self.shared.tally().count(event);
    }

    /// Tells and counts how a login for `what` ended, if it was in vain.
    pub fn judged(&self, peer: SocketAddr, verdict: &Verdict, what: &str) {
        match verdict {
            Verdict::Open | Verdict::User(_) | Verdict::Token(_) => (),
            // Browsers, and others, show none before they are asked.
            Verdict::Missing => tracing::debug!(%peer, "no credentials for {what}"),
            Verdict::Refused => {
                self.refused(peer, &format!("wrong credentials for {what}"), Event::LoginFailed);
            }
            Verdict::TooMany => self.refused(peer, "too many failed logins", Event::LoginRate),
            Verdict::Busy => self.refused(peer, "too many logins are waiting", Event::LoginQueue),
        }
    }

    /// Somebody was let in.
    pub fn let_in(&self) {
        drop(self.stay.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Counts a connection that a trusted proxy brings as `peer`'s; `false` when he has enough of them.
    pub fn came_from(&self, rules: &Rules, peer: SocketAddr) -> bool {
        let most = connections(&rules.settings.limits);
        if peer.ip() == self.peer.ip() || self.place.is_of(peer.ip(), most).is_ok() {
            return true;
        }
        self.refused(peer, "too many connections from its address", Event::ConnectionsPerAddress);
        false
    }
}

/// Serves a TCP connection.
pub async fn tcp(shared: Arc<Shared>, bind: Bind, stream: TcpStream, peer: SocketAddr) {
    let Some((seat, stay, mut put_out)) = shared.places(peer) else { return };
    let work = open_and_serve(&shared, bind, stream, peer, (seat, stay));
    tokio::select! {
        biased;
        // Never, once somebody was let in.
        Ok(full) = &mut put_out => match full {
            Full::All => shared.refused(peer, "too many connections that are not let in yet", Event::Unauthenticated),
            Full::Address => {
                let why = "too many connections from its address that are not let in yet";
                shared.refused(peer, why, Event::UnauthenticatedPerAddress);
            }
        },
        () = work => {}
    }
}

async fn open_and_serve(
    shared: &Arc<Shared>,
    bind: Bind,
    stream: TcpStream,
    peer: SocketAddr,
    places: (Seat, Stay),
) {
    let deadline = Instant::now() + shared.rules.load().settings.limits.header_time;
    match open(shared, &bind, stream, peer, deadline, places).await {
        // One request and its answer: nobody has more to do there.
        Ok((context, wire)) if bind.service == Service::Metrics => {
            let _ = timeout(METRICS_TIME, serve(context, wire, deadline)).await;
        }
        Ok((context, wire)) => serve(context, wire, deadline).await,
        Err(e) => {
            if e.kind() == io::ErrorKind::TimedOut {
                shared.tally().count(Event::HeaderTime);
            }
            tracing::debug!(%peer, "connection closed: {e}");
        }
    }
}

/// Serves a connection to the Unix socket.
pub async fn unix(shared: Arc<Shared>, stream: UnixStream) {
    let refusal = shared.admins.refusal(&stream);
    if let Some(why) = &refusal {
        shared.refused(LOCAL, why, Event::ForeignUser);
    }
    let all = if refusal.is_some() { MAX_FOREIGN } else { MAX_LOCAL };
    let Ok(place) = shared.local.enter(None, Most { all, each: all }) else {
        shared.tally().count(Event::Connections);
        return;
    };
    let place = Arc::new(place);
    let deadline = Instant::now() + shared.rules.load().settings.limits.header_time;
    let context = Context {
        shared,
        bind: None,
        local: None,
        peer: LOCAL,
        tls: false,
        certificate: None,
        accepted: Mutex::default(),
        place: Arc::clone(&place),
        stay: Mutex::default(),
        refusal,
    };
    serve(context, Wire::new(Stream::Unix(stream), place), deadline).await;
}

/// Everything before HTTP.
async fn open(
    shared: &Arc<Shared>,
    bind: &Bind,
    mut stream: TcpStream,
    socket_peer: SocketAddr,
    deadline: Instant,
    (place, stay): (Seat, Stay),
) -> io::Result<(Context, Wire)> {
    let mut peer = SocketAddr::new(socket_peer.ip().to_canonical(), socket_peer.port());
    stream.set_nodelay(true)?;
    let local = stream.local_addr()?;
    let rules = shared.rules.load_full();
    let plan = rules.plan(bind).ok_or_else(|| io::Error::other("no longer served here"))?;
    if let Some(listen) = rules.settings.listen.as_ref().filter(|listen| plan.data && listen.proxy_protocol) {
        if !proxied::is_trusted(peer.ip(), &listen.trusted_proxies) {
            shared.refused(peer, "not a trusted proxy", Event::UntrustedProxy);
            return Err(io::Error::other("not a trusted proxy"));
        }
        if let Some(client) = timeout_at(deadline, proxied::proxy_header(&mut stream)).await?? {
            let limits = &rules.settings.limits;
            if place.is_of(client.ip(), connections(limits)).is_err() {
                let why = "too many connections from its address";
                shared.refused(client, why, Event::ConnectionsPerAddress);
                return Err(io::Error::other(why));
            }
            peer = client;
        }
    }
    let (mut tls, mut certificate) = (false, None);
    let stream = match &plan.tls {
        None => Stream::Tcp(stream),
        Some(config) => {
            let stream = timeout_at(deadline, TlsAcceptor::from(Arc::clone(config)).accept(stream)).await?;
            let stream = stream.inspect_err(|e| {
                // What rustls finds wrong; who goes away in the middle has done nothing.
                if e.kind() == io::ErrorKind::InvalidData {
                    shared.tally().count(Event::TlsHandshake);
                }
            })?;
            tls = true;
            let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
            certificate = shown.and_then(certificate_name);
            Stream::Tls(Box::new(stream))
        }
    };
    let (shared, bind, accepted) = (Arc::clone(shared), Some(bind.clone()), Mutex::default());
    let (local, place, stay) = (Some(local), Arc::new(place), Mutex::new(Some(stay)));
    let wire = Wire::new(stream, Arc::clone(&place));
    let refusal = None;
    Ok((Context { shared, bind, local, peer, tls, certificate, accepted, place, stay, refusal }, wire))
}

/// Runs HTTP over the wire until it ends or a request becomes a link.
async fn serve(context: Context, wire: Wire, deadline: Instant) {
    let (sender, accepted) = oneshot::channel();
    *context.accepted.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
    let header_size = context.shared.rules.load().settings.limits.header_size;
    let context = Arc::new(context);
    let service = {
        let context = Arc::clone(&context);
        service_fn(move |request| {
            let context = Arc::clone(&context);
            async move { Ok::<_, Infallible>(guarded(dispatch(&context, request).await)) }
        })
    };
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(deadline.saturating_duration_since(Instant::now()))
        .max_headers(MAX_HEADERS)
        .max_header_size(header_size)
        .max_buf_size(header_size.max(MAX_BUFFER))
        .serve_connection(TokioIo::new(wire), service)
        .with_upgrades();
    // A request that becomes a link never gets an answer from HTTP: the socket is taken away under it, with
    // nothing half written.
    let ended = tokio::select! {
        biased;
        Ok(accepted) = accepted => Ok(accepted),
        ended = Pin::new(&mut connection) => Err(ended),
    };
    // Nothing is left where jsonrpsee has taken over.
    let Some(parts) = connection.into_parts() else { return };
    let mut wire = parts.io.into_inner();
    match ended {
        Ok(accepted) => {
            let peer = accepted.peer;
            match hand_over(accepted, wire, parts.read_buf).await {
                Ok(link) => {
                    if let Some((on_link, _)) = context.shared.handlers.get() {
                        on_link(link);
                    }
                }
                Err(e) => {
                    context.count(Event::LinkSetup);
                    if let Some(kept_back) = context.shared.refusals.allow(std::time::Instant::now()) {
                        tracing::info!(%peer, kept_back, "link lost while it was set up: {e}");
                    }
                }
            }
        }
        Err(result) => {
            if let Err(e) = &result {
                tracing::debug!(peer = %context.peer, "connection closed: {e}");
                // The preface of HTTP/2 among others, to which hyper has no answer.
                match () {
                    () if e.is_parse_too_large() => context.count(Event::HeaderSize),
                    () if e.is_parse() => context.count(Event::BadRequest),
                    // Later it is a client that has nothing more to ask.
                    () if e.is_timeout() && !wire.spoke => context.count(Event::HeaderTime),
                    () => (),
                }
                if e.is_parse() && !wire.spoke {
                    let _ = wire.write_all(BAD_REQUEST).await;
                }
                if e.is_timeout() {
                    return;
                }
            }
            wire.linger().await;
        }
    }
}

/// Sends the 101 and takes the socket out of HTTP.
async fn hand_over(accepted: Accepted, mut wire: Wire, early: bytes::Bytes) -> io::Result<Incoming> {
    let Accepted { reply, peer, user, profile, ping, vnet, congestion, linked, browser } = accepted;
    timeout(SEND_TIME, async {
        wire.write_all(reply.as_bytes()).await?;
        wire.flush().await
    })
    .await??;
    let (stream, tls, early, place) = wire.take(early)?;
    let place = Box::new(place);
    Ok(Incoming { stream, tls, early, peer, user, profile, ping, vnet, congestion, linked, browser, place })
}

/// One request: whose path is it?
async fn dispatch(context: &Arc<Context>, request: Request<Body>) -> Reply {
    let rules = context.shared.rules.load_full();
    let Some((_, rpc)) = context.shared.handlers.get() else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "starting");
    };
    let (data, control, metrics) = match &context.bind {
        None => (false, true, false),
        Some(bind) => rules.plan(bind).map_or_else(Default::default, |p| (p.data, p.control, p.metrics)),
    };
    if let Some(why) = &context.refusal {
        return closing(text(StatusCode::FORBIDDEN, why.clone()));
    }
    let path = request.uri().path();
    let draining = context.shared.draining.load(Relaxed);
    if metrics {
        if let Some(reply) = health::answer(&request, draining) {
            return closing(reply);
        }
        return closing(match rpc_http::foreign_reader(context, &rules, &request) {
            None => show_metrics(context, &request).await,
            Some(refusal) => refusal,
        });
    }
    if let Some(listen) = rules.settings.listen.as_ref().filter(|listen| data && listen.path == path) {
        if draining {
            let reply = text(StatusCode::SERVICE_UNAVAILABLE, "this switch is ending; try again");
            return with(closing(reply), header::RETRY_AFTER, "2");
        }
        return match data::answer(context, &rules, listen, &request).await {
            Ok(accepted) => leave_http(context, accepted).await,
            Err(reply) => closing(reply),
        };
    }
    let control_path = rules.settings.control.tcp.as_ref().map_or(DEFAULT_CONTROL_PATH, |tcp| &tcp.path);
    if control && (path == control_path || context.bind.is_none() && path == DEFAULT_CONTROL_PATH) {
        return rpc_http::answer(context, &rules, rpc, request).await;
    }
    if control && path == metrics::PATH {
        return match rpc_http::admit(context, &rules, &request).await {
            Ok(()) => show_metrics(context, &request).await,
            Err(reply) => reply,
        };
    }
    // On the Unix socket nobody looks at Host and Origin: it is none for browsers.
    if let Some(file) = dashboard::find(path).filter(|_| control && context.bind.is_some()) {
        return match rpc_http::admit(context, &rules, &request).await {
            Ok(()) => file.answer(&request, control_path),
            Err(reply) => reply,
        };
    }
    health::answer(&request, draining).unwrap_or_else(|| text(StatusCode::NOT_FOUND, "nothing here"))
}

async fn show_metrics(context: &Context, request: &Request<Body>) -> Reply {
    match context.shared.metrics.get() {
        Some(metrics) if request.uri().path() == metrics::PATH => metrics.answer(request).await,
        _ => text(StatusCode::NOT_FOUND, "nothing here"),
    }
}

/// Never returns when the connection is taken away, as it is meant to be.
async fn leave_http(context: &Context, accepted: Accepted) -> Reply {
    let sender = context.accepted.lock().unwrap_or_else(PoisonError::into_inner).take();
    if sender.is_some_and(|sender| sender.send(accepted).is_ok()) {
        std::future::pending::<()>().await;
    }
    text(StatusCode::INTERNAL_SERVER_ERROR, "the connection is gone")
}

/// How long the 101 may take to leave.
const SEND_TIME: Duration = Duration::from_secs(10);
/// How long a connection to the listener of metrics may last in all.
const METRICS_TIME: Duration = Duration::from_secs(30);
const MAX_HEADERS: usize = 64;
/// What hyper may buffer of a request's body at a time.
const MAX_BUFFER: usize = 64 << 10;
/// The peer on the Unix socket.
const LOCAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// Connections on the Unix socket, and up to how many of them those are told why who may not control.
const MAX_LOCAL: usize = 512;
const MAX_FOREIGN: usize = 64;
const DEFAULT_CONTROL_PATH: &str = "/ctl";
const BAD_REQUEST: &[u8] = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
