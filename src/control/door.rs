//! The door: every listener, opened, served, reloaded, closed.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use arc_swap::ArcSwap;
use jsonrpsee::Methods;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;

use super::anteroom::Anteroom;
use super::bind::{Bind, BindError, write_secret};
use super::connection::{self, OnLink, Shared};
use super::lobby::Lobby;
use super::local::{self, Admins};
use super::logins::Logins;
use super::metrics::Metrics;
use super::rpc_http::Rpc;
use super::rules::Rules;
use super::settings::DoorSettings;
use super::tokens::Key;
use crate::port::Ports;
use crate::port::throttle::{Throttle, pause};
use crate::sys::sandbox;
use crate::sys::unix::UnixSocket;

/// Every listener of the daemon, what is behind them, and the files that they read.
pub struct Door {
    shared: Arc<Shared>,
    sockets: Mutex<Sockets>,
    /// One reload at a time.
    reloading: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Sockets {
    tcp: Vec<Listener>,
    unix: Option<(Arc<UnixSocket>, Option<JoinHandle<()>>)>,
    token_file: Option<PathBuf>,
}

/// An address and the sockets that listen there (a name may have several addresses).
struct Listener {
    bind: Bind,
    sockets: Vec<Arc<TcpListener>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Door {
    /// Binds, loads every file, checks for conflicts; serves nothing yet. Inherited listeners (socket
    /// activation) take the place of binding: by port, or where no port fits the first is for the WebSocket
    /// service and the second for control.
    pub async fn open(
        settings: DoorSettings,
        inherited: Vec<std::net::TcpListener>,
    ) -> Result<Arc<Self>, String> {
        Self::open_with(settings, inherited, || Ok(())).await
    }

    /// The same; `bound` is called when all is bound and read that may take privileges, before there is
    /// another thread.
    pub async fn open_with(
        settings: DoorSettings,
        inherited: Vec<std::net::TcpListener>,
        bound: impl FnOnce() -> Result<(), String>,
    ) -> Result<Arc<Self>, String> {
        let key = Key::random()?;
        let token = key_text(&Key::random()?);
        let rules = Rules::load(settings, &token, &key).await?;
        let mut inherited = adopt(inherited, &rules)?;
        let mut tcp = Vec::new();
        for plan in &rules.plans {
            let sockets = match inherited.iter().position(|(bind, _)| *bind == plan.bind) {
                Some(index) => vec![inherited.swap_remove(index).1],
                None => plan.bind.listen().await.map_err(BindError::text)?,
            };
            tcp.push(Listener::new(plan.bind.clone(), sockets));
        }
        check_anonymous_addresses(&rules, &tcp)?;
        let unix = UnixSocket::listen(&rules.settings.control.sock, local::hand_over, CTLSOCK)?;
        bound()?;
        let shared = Arc::new(Shared {
            rules: ArcSwap::from_pointee(rules),
            logins: Logins::start()?,
            key,
            token,
            handlers: OnceLock::new(),
            metrics: OnceLock::new(),
            draining: AtomicBool::new(false),
            refusals: Throttle::default(),
            tally: OnceLock::new(),
            links: OnceLock::new(),
            connections: Lobby::default(),
            unauthenticated: Anteroom::default(),
            local: Lobby::default(),
            admins: Admins::look_up(),
        });
        let token_file = write_token(&shared, &shared.rules.load())?;
        let sockets = Mutex::new(Sockets { tcp, unix: Some((Arc::new(unix), None)), token_file });
        Ok(Arc::new(Self { shared, sockets, reloading: tokio::sync::Mutex::new(()) }))
    }

    /// Accepts on the current runtime.
    pub fn serve(self: &Arc<Self>, ports: Arc<Ports>, methods: Methods) {
        let shared = Arc::clone(&self.shared);
        let _ = shared.metrics.set(Metrics::new(Arc::clone(&ports)));
        let _ = shared.tally.set(ports.tally().clone());
        let _ = shared.links.set(ports.resumables().clone());
        self.serve_with(
            Arc::new(move |link| {
                let (ports, shared) = (Arc::clone(&ports), Arc::clone(&shared));
                tokio::spawn(async move {
                    let (peer, user) = (link.peer, link.user.clone().unwrap_or_default());
                    match ports.accept(link).await {
                        // Told where the port is made.
                        Ok(_) => (),
                        Err(e) => {
                            if let Some(kept_back) = shared.refusals.allow(std::time::Instant::now()) {
                                tracing::info!(%peer, user, kept_back, "link refused: {e}");
                            }
                        }
                    }
                });
            }),
            methods,
        );
    }

    /// The same with another taker of links, and without metrics.
    pub fn serve_with(self: &Arc<Self>, on_link: OnLink, methods: Methods) {
        let limits = self.shared.rules.load().settings.limits;
        let _ = self.shared.handlers.set((on_link, Arc::new(Rpc::new(methods, &limits))));
        let mut sockets = self.sockets();
        for listener in &mut sockets.tcp {
            listener.start(&self.shared);
        }
        if let Some((socket, task @ None)) = &mut sockets.unix {
            *task = Some(tokio::spawn(accept_unix(Arc::clone(socket), Arc::clone(&self.shared))));
        }
    }

    /// Applies new settings, all or nothing: files read again, users, origins, changed addresses.
    /// Returns what changed, for people.
    pub async fn reload(&self, settings: DoorSettings) -> Result<Vec<String>, String> {
        let _one = self.reloading.lock().await;
        let shared = &self.shared;
        let rules = Rules::load(settings, &shared.token, &shared.key).await?;
        let old = shared.rules.load_full();
        let unix = match &rules.settings.control.sock {
            sock if *sock == old.settings.control.sock => None,
            sock => Some(UnixSocket::listen(sock, local::hand_over, CTLSOCK)?),
        };
        let token_file = write_token(shared, &rules)?;
        // What is no longer wanted must go before an address that overlaps with it can be bound, and comes back
        // when that fails.
        let (keep, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut self.sockets().tcp)
            .into_iter()
            .partition(|listener| rules.plan(&listener.bind).is_some());
        let mut tcp = keep;
        let (mut retired, mut closed) = (gone, Vec::new());
        let mut failure = None;
        for plan in &rules.plans {
            if tcp.iter().any(|listener| listener.bind == plan.bind) {
                continue;
            }
            let mut bound = plan.bind.listen().await;
            if matches!(bound, Err(BindError::InUse(_))) {
                // What could not be bound again stays until all the rest has succeeded.
                let again = |listener: &mut Listener| sandbox::may_bind(listener.bind.port);
                for listener in retired.extract_if(.., again) {
                    closed.push(listener.bind.clone());
                    listener.close().await;
                }
                bound = plan.bind.listen().await;
            }
            match bound {
                Ok(sockets) => tcp.push(Listener::new(plan.bind.clone(), sockets)),
                Err(e) => {
                    failure = Some(e.text());
                    break;
                }
            }
        }
        let failure = failure.or_else(|| check_anonymous_addresses(&rules, &tcp).err());
        if let Some(text) = failure {
            self.restore(tcp, retired, &closed, &old).await;
            self.restore_token(token_file, &old);
            return Err(text);
        }
        for listener in retired {
            listener.close().await;
        }
        let changes = rules.changes_since(&old);
        shared.rules.store(Arc::new(rules));
        let serving = shared.handlers.get().is_some();
        let mut sockets = self.sockets();
        if serving {
            for listener in &mut tcp {
                listener.start(shared);
            }
        }
        sockets.tcp = tcp;
        if let Some(unix) = unix {
            let unix = Arc::new(unix);
            let task = serving.then(|| tokio::spawn(accept_unix(Arc::clone(&unix), Arc::clone(shared))));
            if let Some((_, Some(task))) = sockets.unix.replace((unix, task)) {
                task.abort();
            }
        }
        if sockets.token_file != token_file
            && let Some(path) = std::mem::replace(&mut sockets.token_file, token_file)
        {
            let _ = std::fs::remove_file(path);
        }
        Ok(changes)
    }

    /// `("data" | "control" | "metrics", address)` of every TCP listener.
    pub fn local_addrs(&self) -> Vec<(&'static str, SocketAddr)> {
        let rules = self.shared.rules.load();
        let mut found = Vec::new();
        for listener in &self.sockets().tcp {
            let Some(plan) = rules.plan(&listener.bind) else { continue };
            for address in listener.sockets.iter().filter_map(|socket| socket.local_addr().ok()) {
                found.extend(plan.data.then_some(("data", address)));
                found.extend(plan.control.then_some(("control", address)));
                found.extend(plan.metrics.then_some(("metrics", address)));
            }
        }
        found
    }

    /// Runs `work` on the thread that checks passwords.
    pub fn on_login_thread(&self, work: impl FnOnce() + Send + 'static) {
        self.shared.logins.on_thread(work);
    }

    /// From now on no link comes in, and load balancers are told so.
    pub fn drain(&self) {
        self.shared.draining.store(true, Relaxed);
    }

    /// Closes the listeners; connections and links stay.
    pub fn stop_accepting(&self) {
        let mut sockets = std::mem::take(&mut *self.sockets());
        for task in sockets.tcp.drain(..).flat_map(|listener| listener.tasks) {
            task.abort();
        }
        if let Some((_, Some(task))) = sockets.unix.take() {
            task.abort();
        }
        if let Some(path) = sockets.token_file {
            let _ = std::fs::remove_file(path);
        }
    }

    /// Puts the listeners back as they were before a reload that failed.
    async fn restore(&self, tcp: Vec<Listener>, retired: Vec<Listener>, closed: &[Bind], old: &Rules) {
        let mut back = retired;
        for listener in tcp {
            if old.plan(&listener.bind).is_some() {
                back.push(listener);
            } else {
                listener.close().await;
            }
        }
        for bind in closed {
            match bind.listen().await {
                Ok(sockets) => back.push(Listener::new(bind.clone(), sockets)),
                Err(e) => tracing::error!("after a failed reload: {}", e.text()),
            }
        }
        if self.shared.handlers.get().is_some() {
            back.iter_mut().for_each(|listener| listener.start(&self.shared));
        }
        self.sockets().tcp = back;
    }

    fn restore_token(&self, new: Option<PathBuf>, old: &Rules) {
        let before = write_token(&self.shared, old).unwrap_or_default();
        if let Some(path) = new.filter(|path| before.as_ref() != Some(path)) {
            let _ = std::fs::remove_file(path);
        }
        self.sockets().token_file = before;
    }

    fn sockets(&self) -> MutexGuard<'_, Sockets> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.stop_accepting();
    }
}

impl Listener {
    fn new(bind: Bind, sockets: Vec<TcpListener>) -> Self {
        Self { bind, sockets: sockets.into_iter().map(Arc::new).collect(), tasks: Vec::new() }
    }

    fn start(&mut self, shared: &Arc<Shared>) {
        if self.tasks.is_empty() {
            let spawn = |socket: &Arc<TcpListener>| {
                tokio::spawn(accept_tcp(Arc::clone(socket), self.bind.clone(), Arc::clone(shared)))
            };
            self.tasks = self.sockets.iter().map(spawn).collect();
        }
    }

    /// Done when the sockets are closed.
    async fn close(self) {
        for task in self.tasks {
            task.abort();
            let _ = task.await;
        }
    }
}

async fn accept_tcp(socket: Arc<TcpListener>, bind: Bind, shared: Arc<Shared>) {
    let trouble = Throttle::default();
    loop {
        match socket.accept().await {
            Ok((stream, peer)) => {
                // In a task of its own: its panic ends that connection alone.
                tokio::spawn(connection::tcp(Arc::clone(&shared), bind.clone(), stream, peer));
            }
            Err(e) => pause(&e, &trouble, shared.tally()).await,
        }
    }
}

async fn accept_unix(socket: Arc<UnixSocket>, shared: Arc<Shared>) {
    let trouble = Throttle::default();
    let listener: &UnixListener = &socket.listener;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(connection::unix(Arc::clone(&shared), stream));
            }
            Err(e) => pause(&e, &trouble, shared.tally()).await,
        }
    }
}

/// Writes the token file when one is needed; its path.
fn write_token(shared: &Shared, rules: &Rules) -> Result<Option<PathBuf>, String> {
    if !rules.wants_token {
        return Ok(None);
    }
    let path = shared.token_path(&rules.settings);
    write_secret(&path, &format!("{}\n", shared.token))?;
    Ok(Some(path))
}

/// Assigns inherited listeners to the addresses that are to be listened on.
fn adopt(inherited: Vec<std::net::TcpListener>, rules: &Rules) -> Result<Vec<(Bind, TcpListener)>, String> {
    let fail = |e: io::Error| format!("could not use an inherited socket: {e}");
    let mut ports = Vec::new();
    for listener in &inherited {
        listener.set_nonblocking(true).map_err(fail)?;
        ports.push(listener.local_addr().map_err(fail)?.port());
    }
    let wanted: Vec<u16> = rules.plans.iter().map(|plan| plan.bind.port).collect();
    let mut adopted = Vec::new();
    for (listener, plan) in inherited.into_iter().zip(assign(&ports, &wanted)) {
        match plan {
            Some(plan) => {
                let listener = TcpListener::from_std(listener).map_err(fail)?;
                adopted.push((rules.plans[plan].bind.clone(), listener));
            }
            None => tracing::info!("an inherited socket fits no configured port and is closed"),
        }
    }
    Ok(adopted)
}

/// For each inherited port the index of the wanted one: by equality, and where nothing is equal by order.
fn assign(inherited: &[u16], wanted: &[u16]) -> Vec<Option<usize>> {
    let mut taken = vec![false; wanted.len()];
    let mut result: Vec<Option<usize>> = Vec::new();
    for port in inherited {
        let index = (0..wanted.len()).find(|&i| wanted[i] == *port && !taken[i]);
        if let Some(index) = index {
            taken[index] = true;
        }
        result.push(index);
    }
    if result.iter().all(Option::is_none) {
        return (0..inherited.len()).map(|i| (i < wanted.len()).then_some(i)).collect();
    }
    result
}

/// An inherited socket, or a name that has changed its mind, may listen elsewhere than the settings say.
fn check_anonymous_addresses(rules: &Rules, listeners: &[Listener]) -> Result<(), String> {
    if !rules.settings.control.tcp.as_ref().is_some_and(|tcp| tcp.anonymous) {
        return Ok(());
    }
    for listener in listeners {
        if !rules.plan(&listener.bind).is_some_and(|plan| plan.control) {
            continue;
        }
        for address in listener.sockets.iter().filter_map(|socket| socket.local_addr().ok()) {
            if !address.ip().to_canonical().is_loopback() {
                return Err(format!("--ctlanonymous would let everyone who reaches {address} in"));
            }
        }
    }
    Ok(())
}

/// Where the control socket is named.
const CTLSOCK: &str = "with --ctlsock";

/// 64 hexadecimal digits.
fn key_text(key: &Key) -> String {
    key.hash(b"control token").iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inherited_sockets_go_by_port_then_by_order() {
        for (inherited, wanted, expected) in [
            (&[80, 443][..], &[443, 7867][..], &[None, Some(0)][..]),
            (&[443, 80], &[80], &[None, Some(0)]),
            (&[8080, 9090], &[80, 7867], &[Some(0), Some(1)]),
            (&[8080], &[80, 7867], &[Some(0)]),
            (&[8080, 9090], &[80], &[Some(0), None]),
            (&[7867], &[80, 7867], &[Some(1)]),
            (&[], &[80], &[]),
        ] {
            assert_eq!(assign(inherited, wanted), expected, "{inherited:?} {wanted:?}");
        }
    }
}
