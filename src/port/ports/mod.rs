//! The registry of ports: everything above adds, changes and removes them here.
//!
//! Changes are serialised; the data path only ever sees whole tables. A change that fails leaves
//! everything as it was.

mod add;
mod agreed;
mod announce;
mod change;
mod client;
mod devices;
mod entry;
mod fdb;
mod groups;
mod incoming;
mod machines;
mod names;
mod removed;
mod rounds;
mod seeing;
mod stations;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, sleep};

use self::announce::Announcer;
use self::entry::Entry;
use self::names::Names;
use self::removed::Removed;
pub use self::seeing::{Example, Whose};
use super::events::{Event as Happened, Events};
use super::fabric::Fabric;
use super::resumable::{Linked, Resumables};
use super::spec::{Congestion, GuardSettings, PortKind, PortRef, PortSpec, Profile};
use super::status::{CounterStatus, PortStatus};
use super::tally::Tally;
use super::threads::Threads;
use super::throttle::Throttle;
use crate::prof::snapshot::PortName;
use crate::prof::{Profiler, Want};
use crate::switch::groups::Groups;
use crate::switch::neigh::Neighbours;
use crate::switch::{Counters, Fdb};

/// Why a request about a port was refused. Display names what and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortError {
    /// The request itself is wrong.
    Invalid(String),
    /// No such port, interface or FDB entry.
    NotFound(String),
    /// The kernel or the peer refused.
    Failed(String),
}

impl std::fmt::Display for PortError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::Invalid(text) | Self::NotFound(text) | Self::Failed(text)) = self;
        f.write_str(text)
    }
}

impl std::error::Error for PortError {}

impl From<crate::sys::OpenError> for PortError {
    fn from(error: crate::sys::OpenError) -> Self {
        use crate::sys::OpenError::*;
        match error {
            Invalid(text) => Self::Invalid(text),
            NotFound(text) => Self::NotFound(text),
            Failed(text) => Self::Failed(text),
        }
    }
}

/// Switch-wide settings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SwitchSettings {
    /// What this switch is called among others; fixed at start.
    pub node: Option<String>,
    pub ageout: Duration,
    /// Fixed at start.
    pub fdb_limit: usize,
    /// Data threads; fixed at start.
    pub threads: usize,
    /// PING interval of clients that do not set their own; default 15 s.
    pub ping: Option<Duration>,
    /// How closely frames are looked at while nobody asks.
    pub prof: Want,
    pub guard: GuardSettings,
    /// Stations that come are announced where they came to.
    pub announce: bool,
    /// Questions who has an address are answered by the switch, where it knows.
    pub suppress: bool,
    /// Multicast goes to those who asked for it.
    pub snoop: bool,
    /// How often they are asked.
    pub snoop_interval: Duration,
}

/// What holds where nobody says otherwise, but for `threads`, which go by the processors.
impl Default for SwitchSettings {
    fn default() -> Self {
        Self {
            node: None,
            ageout: Duration::from_secs(300),
            fdb_limit: 8192,
            threads: 1,
            ping: None,
            prof: Want::default(),
            guard: GuardSettings::default(),
            announce: true,
            suppress: false,
            snoop: false,
            snoop_interval: Duration::from_secs(125),
        }
    }
}

/// A WebSocket link that has been accepted: upgraded, authenticated, its 101 already sent.
pub struct Incoming {
    pub stream: TcpStream,
    pub tls: Option<rustls::ServerConnection>,
    /// Bytes of the peer's first messages that came behind its request (already decrypted).
    pub early: Bytes,
    /// The peer, as a trusted proxy named it, otherwise the socket's.
    pub peer: SocketAddr,
    pub user: Option<String>,
    pub profile: Option<Profile>,
    /// PING interval; default 15 s.
    pub ping: Option<Duration>,
    /// Its 101 said `etherws.vnet1`.
    pub vnet: bool,
    pub congestion: Congestion,
    /// What it is to a link that others may join.
    pub linked: Option<Linked>,
    /// A web page's: of the switch itself it is to hear nothing.
    pub browser: bool,
    /// Its place among the connections, let go when the link has ended.
    pub place: Box<dyn Send>,
}

/// All ports of the switch.
pub struct Ports {
    me: Weak<Self>,
    node: Option<String>,
    fabric: Arc<Fabric>,
    threads: Threads,
    entries: Mutex<BTreeMap<u32, Arc<Entry>>>,
    named: Mutex<Names>,
    next_number: AtomicU32,
    /// Held while ports change.
    changing: tokio::sync::Mutex<()>,
    ageout: AtomicU64,
    /// Seconds without received data before a PING, for who does not say otherwise.
    ping: AtomicU64,
    guards: Mutex<GuardSettings>,
    neighbours: Mutex<Neighbours>,
    announcer: Mutex<Announcer>,
    /// Stations that come are announced.
    announces: AtomicBool,
    /// Questions who has an address are answered from what is known.
    suppresses: AtomicBool,
    /// Who wants which multicast group; `None`: everybody gets all.
    groups: Mutex<Option<Groups>>,
    events: Arc<Events>,
    /// A local address or route changed: waiting clients dial at once.
    moved: watch::Sender<()>,
    /// Links that connections may join.
    resumables: Resumables,
    /// Log lines about incoming links.
    arrivals: Throttle,
    /// Each connection that is not at its end holds one more of it.
    open: Arc<()>,
    removed: Mutex<Removed>,
}

impl Ports {
    /// Starts the data threads, and the housekeeping on the calling runtime.
    pub fn start(settings: SwitchSettings) -> io::Result<Arc<Self>> {
        let mut seeds = [[0; 8]; 2];
        for seed in &mut seeds {
            getrandom::fill(seed).map_err(io::Error::other)?;
        }
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(io::Error::other)?;
        let seconds = settings.ageout.as_secs();
        let fdb = Fdb::new(settings.fdb_limit, saturated(seconds), seeds.map(u64::from_ne_bytes));
        let prof = Profiler::new(settings.prof);
        let threads = Threads::start(settings.threads, &prof)?;
        let ports = Arc::new_cyclic(|me| Self {
            me: me.clone(),
            node: settings.node.clone(),
            fabric: Arc::new(Fabric::new(fdb, prof)),
            threads,
            entries: Mutex::default(),
            named: Mutex::default(),
            next_number: AtomicU32::new(1),
            changing: tokio::sync::Mutex::default(),
            ageout: AtomicU64::new(seconds),
            ping: AtomicU64::new(ping_of(&settings)),
            guards: Mutex::new(settings.guard),
            neighbours: Mutex::default(),
            announcer: Mutex::default(),
            announces: AtomicBool::new(settings.announce),
            suppresses: AtomicBool::new(false),
            groups: Mutex::default(),
            events: Arc::default(),
            moved: watch::Sender::new(()),
            resumables: Resumables::default(),
            arrivals: Throttle::default(),
            open: Arc::default(),
            removed: Mutex::default(),
        });
        ports.fabric.switch.arrivals.want(settings.announce);
        ports.suppress(settings.suppress);
        ports.snoop(settings.snoop, settings.snoop_interval);
        tokio::spawn(fdb::sweep(Arc::downgrade(&ports)));
        tokio::spawn(devices::watch(Arc::downgrade(&ports)));
        tokio::spawn(rounds::go(Arc::downgrade(&ports), key));
        tokio::spawn(stations::listen(Arc::downgrade(&ports)));
        tokio::spawn(groups::listen(Arc::downgrade(&ports)));
        Ok(ports)
    }

    /// What this switch is called among others, if it was given a name.
    pub fn node(&self) -> Option<&str> {
        self.node.as_deref()
    }

    /// What happens to ports from now on. A listener that is slow misses the oldest.
    pub fn events(&self) -> broadcast::Receiver<Happened> {
        self.events.listen()
    }

    /// What frames cost.
    pub fn prof(&self) -> &Arc<Profiler> {
        &self.fabric.prof
    }

    /// What no port can count.
    pub fn tally(&self) -> &Tally {
        &self.fabric.tally
    }

    /// Links that connections may join.
    pub fn resumables(&self) -> &Resumables {
        &self.resumables
    }

    /// The ports, as the profiler shows them.
    pub fn names(&self) -> Vec<PortName> {
        let name = |entry: &Arc<Entry>| {
            let name = Some(entry.name()).filter(|name| !name.is_empty());
            let name = name.unwrap_or_else(|| entry.target.clone());
            let kind = entry.kind.to_string();
            PortName { port: entry.number, name, kind, connections: entry.connections() }
        };
        self.entries().values().map(name).collect()
    }

    /// Applies what can change while running: the ageing time, the PING interval, from each client's next
    /// connection on, and what all ports are guarded by.
    pub async fn reconfigure(&self, settings: &SwitchSettings) {
        self.ageout.store(settings.ageout.as_secs(), Relaxed);
        self.fabric.switch.fdb.set_ageout(saturated(settings.ageout.as_secs()));
        self.ping.store(ping_of(settings), Relaxed);
        self.announces.store(settings.announce, Relaxed);
        self.fabric.switch.arrivals.want(settings.announce);
        if self.suppresses.load(Relaxed) != settings.suppress {
            self.suppress(settings.suppress);
        }
        if self.snoops() != settings.snoop.then_some(settings.snoop_interval) {
            self.snoop(settings.snoop, settings.snoop_interval);
        }
        if self.fabric.prof.configured() != settings.prof {
            self.fabric.prof.configure(settings.prof);
        }
        let _changing = self.changing.lock().await;
        let before = std::mem::replace(&mut *self.guards_mut(), settings.guard);
        if before != settings.guard {
            let entries: Vec<_> = self.entries().values().cloned().collect();
            let table = self.fabric.table();
            for entry in entries {
                let Some(port) = table.get(entry.slot) else { continue };
                self.fabric.switch.put(entry.port(port.vlan.clone(), &settings.guard));
            }
        }
    }

    /// What ports are guarded by that say nothing else.
    fn guards(&self) -> GuardSettings {
        *self.guards_mut()
    }

    fn guards_mut(&self) -> MutexGuard<'_, GuardSettings> {
        self.guards.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The PING interval of clients that do not set their own.
    fn ping(&self) -> Duration {
        Duration::from_secs(self.ping.load(Relaxed))
    }

    pub fn list(&self) -> Vec<PortStatus> {
        self.entries().values().map(|entry| entry.status()).collect()
    }

    /// Of the switch as a whole and of the ports that are no more, once there is something to tell, and of each port.
    pub fn counters(&self) -> Vec<CounterStatus> {
        let whole = Counters::default();
        let mut whole = counter_status(0, "switch".to_owned(), &whole);
        whole.drops.extend(self.tally().counted());
        let whole = Some(whole).filter(|whole| !whole.drops.is_empty());
        let entries = self.entries();
        let ports = entries.values().map(|e| counter_status(e.number, e.name(), &e.counters));
        let removed = self.removed().total();
        let removed = removed.counts().then(|| counter_status(0, "removed".to_owned(), &removed));
        whole.into_iter().chain(removed).chain(ports).collect()
    }

    /// The configured ports (no incoming links, no machines that came in by a listener) as `add` would take them, with secrets, in number order.
    pub fn specs(&self) -> Vec<(u32, PortSpec)> {
        let entries = self.entries();
        let configured = entries.values().filter(|e| e.kind != PortKind::Server && e.listener.is_none());
        configured.map(|entry| (entry.number, entry.spec().clone())).collect()
    }

    /// The number that the next port will have.
    pub fn next_number(&self) -> u32 {
        self.next_number.load(Relaxed)
    }

    /// Of each link that is connected by TCP, the largest segment that its path takes, in bytes.
    pub fn segments(&self) -> Vec<(u32, u32)> {
        let of = |entry: &Arc<Entry>| Some((entry.number, entry.link()?.segment()?));
        self.entries().values().filter_map(of).collect()
    }

    /// Tells all who came in, and who still comes, that this switch is about to end: time to find another one.
    pub fn say_leaving(&self) {
        self.fabric.leaves();
        let links: Vec<_> = self.entries().values().filter(|e| e.kind == PortKind::Server).cloned().collect();
        links.iter().filter_map(|entry| entry.link()).for_each(|link| link.say_leaving());
    }

    /// Sends Close 1001 on every link, lets accepted frames out, closes; at most `limit`.
    pub async fn drain(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        loop {
            // Again and again: a link may just be coming in.
            let links: Vec<_> = self.entries().values().filter(|e| e.link().is_some()).cloned().collect();
            for entry in links.iter().filter(|entry| entry.stop.borrow().is_none()) {
                entry.end(1001, "going away");
            }
            // Not what the entries say: links that ended a moment ago, or were refused, are at their last words.
            if Arc::strong_count(&self.open) == 1 || Instant::now() >= deadline {
                return;
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Runs `work` on each data thread.
    pub fn on_each_thread(&self, work: impl Fn() + Clone + Send + 'static) {
        self.threads.on_each(work);
    }

    /// How long the slowest data thread has not shown life; for the watchdog, which asks repeatedly.
    pub fn stalled_for(&self) -> Duration {
        self.threads.stalled_for()
    }

    fn find(&self, port: &PortRef) -> Result<Arc<Entry>, PortError> {
        let number = match port {
            PortRef::Number(number) => Some(*number),
            PortRef::Name(name) => self.named().owner(name),
        };
        let found = number.and_then(|number| self.entries().get(&number).cloned());
        found.ok_or_else(|| PortError::NotFound(format!("no port {port}; listport names them")))
    }

    fn removed(&self) -> MutexGuard<'_, Removed> {
        self.removed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<u32, Arc<Entry>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn counter_status(port: u32, name: String, counters: &Counters) -> CounterStatus {
    CounterStatus {
        port,
        name,
        rx: counters.rx.load(Relaxed),
        rx_bytes: counters.rx_bytes.load(Relaxed),
        tx: counters.tx.load(Relaxed),
        tx_bytes: counters.tx_bytes.load(Relaxed),
        marked: counters.marked.load(Relaxed),
        copies: counters.copies.load(Relaxed),
        unheard: counters.unheard.load(Relaxed),
        drops: counters.drops().map(|(reason, count)| (reason.name().to_owned(), count)).collect(),
    }
}

fn no_congestion(kind: PortKind) -> PortError {
    PortError::Invalid(format!("congestion: a {kind} port has none; only a link has"))
}

fn no_pace(kind: PortKind) -> PortError {
    PortError::Invalid(format!("pace: a {kind} port has none; only a link has"))
}

fn ping_of(settings: &SwitchSettings) -> u64 {
    settings.ping.unwrap_or(client::PING).as_secs()
}

fn saturated(seconds: u64) -> u32 {
    u32::try_from(seconds).unwrap_or(u32::MAX)
}
