//! One port as the control side knows it.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::{oneshot, watch};

use super::super::egress::{Device, Egress};
use super::super::events::{Events, What};
use super::super::fabric::TOLD;
use super::super::link::{Link, Stop};
use super::super::resumable::Resumable;
use super::super::spec::{Bpdu, Congestion, GuardSettings, PortKind, PortSpec};
use super::super::status::{Connections, PortStatus};
use super::rounds::ALERTS;
use crate::switch::guard::{Gate, Policer, Storm, StormRates};
use crate::switch::vlan::VlanRule;
use crate::switch::{Counters, Port, Slot};

/// A port: what it was asked to be, what it is, and how to end it.
pub struct Entry {
    pub number: u32,
    pub slot: Slot,
    pub kind: PortKind,
    /// What `listPort` shows: the device, the URL without credentials, or the peer.
    pub target: String,
    pub counters: Arc<Counters>,
    pub gate: Arc<Gate>,
    pub way: Way,
    pub user: Option<String>,
    /// The number of the listener that it came in by: of a virtual machine.
    pub listener: Option<u32>,
    spec: Mutex<PortSpec>,
    limits: Mutex<Limits>,
    heard: Arc<Policer>,
    asked: Arc<Policer>,
    life: Mutex<Life>,
    closed: Mutex<Option<Closed>>,
    /// What others need to join it: of a link that came in.
    pub resumable: OnceLock<Arc<Resumable>>,
    /// Of a link that came in, its connections that are not at their end; changed by whoever holds `changing`.
    pub sessions: AtomicU32,
    /// Counts when it had none and one came.
    pub returns: watch::Sender<u64>,
    /// Ends the port's tasks: links with a Close.
    pub stop: watch::Sender<Option<Stop>>,
    events: Arc<Events>,
    /// It was told last that frames pass.
    told_up: AtomicBool,
    /// Counts whenever others may be behind it from now on.
    pub lives: AtomicU64,
    /// What is told by drops: a bit for each of [`ALERTS`], set while there are some.
    pub alerts: AtomicU8,
    /// Why the loop guard has blocked it.
    blocked: Mutex<Option<String>>,
}

/// Ends when the port's device is closed.
pub type Closed = oneshot::Receiver<Infallible>;

/// How frames leave.
pub enum Way {
    Device(Arc<Device>),
    Link(Arc<Link>),
}

/// What a port's rates have become; kept as long as the rates stay what they are.
#[derive(Default)]
struct Limits {
    rate: Option<(u64, Arc<Policer>)>,
    storm: Option<(StormRates, Arc<Storm>)>,
}

/// How the port fares.
#[derive(Clone, Debug, Default)]
pub struct Life {
    pub state: State,
    pub reason: Option<String>,
    pub peer: Option<String>,
    pub tls: Option<String>,
    /// The connection carries super-frames.
    pub vnet: bool,
    /// A web page is at the other end.
    pub browser: bool,
    pub connects: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum State {
    #[default]
    Up,
    /// For virtual machines: frames pass by the ports that they become.
    Listening,
    Connecting,
    Waiting,
    /// A link that came in has lost its connection, and is waited for.
    Away,
    Down,
    Failed,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Listening => "listening",
            Self::Connecting => "connecting",
            Self::Waiting => "waiting",
            Self::Away => "away",
            Self::Down => "down",
            Self::Failed => "failed",
        }
    }
}

/// What an entry is made of.
pub struct Parts {
    pub number: u32,
    pub slot: Slot,
    pub target: String,
    pub spec: PortSpec,
    pub way: Way,
    pub life: Life,
    pub user: Option<String>,
    pub listener: Option<u32>,
}

impl Entry {
    pub fn new(parts: Parts, events: Arc<Events>) -> Self {
        let gate = Gate::new(parts.spec.shut);
        // For ever: what floods goes to the machines, and not to where they come in.
        gate.set_blocked(parts.life.state == State::Listening);
        Self {
            number: parts.number,
            slot: parts.slot,
            kind: parts.spec.kind,
            target: parts.target,
            counters: match &parts.way {
                Way::Device(_) => Arc::default(),
                Way::Link(link) => link.counters.clone(),
            },
            gate: Arc::new(gate),
            way: parts.way,
            user: parts.user,
            listener: parts.listener,
            spec: Mutex::new(parts.spec),
            limits: Mutex::default(),
            heard: Arc::new(Policer::of_frames(HEARD)),
            asked: Arc::new(Policer::of_frames_at_once(ASKED, TOLD as u32 / 2)),
            life: Mutex::new(parts.life),
            closed: Mutex::default(),
            resumable: OnceLock::new(),
            sessions: AtomicU32::new(0),
            returns: watch::Sender::new(0),
            stop: watch::Sender::new(None),
            events,
            told_up: AtomicBool::new(false),
            lives: AtomicU64::new(0),
            alerts: AtomicU8::new(0),
            blocked: Mutex::default(),
        }
    }

    pub fn spec(&self) -> MutexGuard<'_, PortSpec> {
        self.spec.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn closed(&self) -> MutexGuard<'_, Option<Closed>> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn name(&self) -> String {
        self.spec().name.clone().unwrap_or_default()
    }

    pub fn device(&self) -> Option<&Arc<Device>> {
        match &self.way {
            Way::Device(device) => Some(device),
            Way::Link(_) => None,
        }
    }

    pub fn link(&self) -> Option<&Arc<Link>> {
        match &self.way {
            Way::Device(_) => None,
            Way::Link(link) => Some(link),
        }
    }

    /// Tells the port's tasks to end.
    pub fn end(&self, code: u16, reason: &'static str) {
        self.stop.send_replace(Some(Stop { code, reason }));
    }

    /// Waits for the port to be ended.
    pub async fn ended(&self) {
        // The sender lives in `self`.
        let _ = self.stop.subscribe().wait_for(Option::is_some).await;
    }

    /// Tells when frames begin or cease to pass.
    pub fn tell(&self) {
        let life = self.life().clone();
        let shut = self.gate.is_shut();
        let up = life.state == State::Up && !shut;
        if self.told_up.swap(up, Relaxed) == up {
            return;
        }
        self.lives.fetch_add(u64::from(up), Relaxed);
        let (what, text) = match (up, shut) {
            (true, _) => (What::PortUp, life.peer),
            (false, true) => (What::PortDown, Some("shut".to_owned())),
            (false, false) => (What::PortDown, life.reason),
        };
        self.raise(what, text.unwrap_or_default());
    }

    pub fn raise(&self, what: What, text: String) {
        self.events.raise(what, self.number, self.name(), text);
    }

    /// The loop guard lets nothing pass any more.
    pub fn block(&self, why: String) {
        *self.blocked.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
        self.gate.set_blocked(true);
    }

    pub fn unblock(&self) {
        self.gate.set_blocked(false);
        self.lives.fetch_add(1, Relaxed);
        *self.blocked.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The port as the switch sees it, by its present settings; `usual` where they say nothing.
    pub fn port(&self, vlan: VlanRule, usual: &GuardSettings) -> Port<Egress> {
        let spec = self.spec();
        let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        limits.rate = spec.rate.map(|rate| match limits.rate.take() {
            Some(known) if known.0 == rate => known,
            _ => (rate, Arc::new(Policer::of_bits(rate))),
        });
        let rates = spec.storm.over(usual.storm);
        limits.storm = (rates != StormRates::default()).then(|| match limits.storm.take() {
            Some(known) if known.0 == rates => known,
            _ => (rates, Arc::new(Storm::new(rates))),
        });
        Port {
            slot: self.slot,
            number: self.number,
            vlan,
            isolated: spec.isolated,
            bpdu: spec.bpdu == Bpdu::Forward,
            macs: spec.macs.clone(),
            remote: self.link().is_some(),
            rate: limits.rate.as_ref().map(|(_, policer)| policer.clone()),
            ethertypes: spec.ethertypes.clone(),
            storm: limits.storm.as_ref().map(|(_, storm)| storm.clone()),
            heard: self.heard.clone(),
            asked: self.asked.clone(),
            max_macs: spec.max_macs.unwrap_or(usual.max_macs),
            gate: self.gate.clone(),
            counters: self.counters.clone(),
            egress: match &self.way {
                Way::Device(device) => Egress::Device(device.clone()),
                Way::Link(link) => Egress::Link(link.clone()),
            },
        }
    }

    /// How many connections it has, of a link that may have several.
    pub fn connections(&self) -> Option<Connections> {
        let link = self.link().filter(|link| link.most() > 1)?;
        Some(Connections { up: link.connections(), of: link.most() })
    }

    pub fn status(&self) -> PortStatus {
        let spec = self.spec().clone();
        let life = self.life().clone();
        let shut = self.gate.is_shut();
        let blocked = self.blocked.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let blocked = blocked.filter(|_| life.state == State::Up && !shut);
        let alerts = self.alerts.load(Relaxed);
        let alerts = ALERTS.iter().enumerate().filter(|(bit, _)| alerts >> bit & 1 == 1);
        let vlan = VlanRule::from_options(spec.access, spec.trunk, spec.native).unwrap_or_default();
        PortStatus {
            port: self.number,
            kind: self.kind,
            target: self.target.clone(),
            tx: self.counters.tx.load(Relaxed),
            rx: self.counters.rx.load(Relaxed),
            shut,
            name: spec.name.unwrap_or_default(),
            tx_bytes: self.counters.tx_bytes.load(Relaxed),
            rx_bytes: self.counters.rx_bytes.load(Relaxed),
            drops: self.counters.drops().map(|(_, count)| count).sum(),
            state: match &blocked {
                _ if shut => "shut",
                Some(_) => "blocked",
                None => life.state.name(),
            }
            .to_owned(),
            reason: blocked.or(life.reason),
            alerts: alerts.map(|(_, reason)| reason.name().to_owned()).collect(),
            peer: life.peer,
            user: self.user.clone(),
            vlan: vlan.to_string(),
            isolated: spec.isolated,
            tls: life.tls,
            offload: match &self.way {
                Way::Link(_) => life.vnet.then(|| "vnet1".to_owned()),
                Way::Device(device) => granted(device),
            },
            connections: self.connections(),
            bridge: spec.bridge,
            // The switch's, where it is shown.
            node: None,
            congestion: Some(spec.congestion.to_string()).filter(|_| spec.congestion != Congestion::System),
            pace: spec.pace,
            connects: life.connects,
        }
    }
}

/// Frames of ARP and ND from a port that are looked at in a second: twice as many at once, as when a thousand
/// stations find each other.
const HEARD: u32 = 500;
/// Messages of IGMP and MLD from a port that are looked at in a second: ten thousand hosts answer a question
/// within ten seconds. Of what may wait to be read one port has half, so that there is room for what others say.
const ASKED: u32 = 1_000;

/// The offloads that the kernel granted a device; none is `-`.
fn granted(device: &Device) -> Option<String> {
    let granted = device.offload();
    (granted != "-").then(|| granted.to_owned())
}
