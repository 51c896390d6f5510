//! New ports, asked for.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::client::{Far, keep_connected};
use super::entry::{Closed, Entry, Life, Parts, State, Way};
use super::names::default_name;
use super::{PortError, Ports, no_congestion, no_pace};
use crate::port::dial::Target;
use crate::port::egress::{Device, Handle};
use crate::port::events::What;
use crate::port::link::Link;
use crate::port::spec::{Congestion, InterfaceChange, PortKind, PortSpec};
use crate::port::status::PortStatus;
use crate::port::threads::Seat;
use crate::port::{congestion, netdev, netif, tap};
use crate::switch::{Slot, VlanRule};
use crate::sys::Held;
use crate::sys::packet::PacketSocket;
use crate::sys::tun::Tap;

impl Ports {
    /// Makes a port. A client's first connection is not waited for.
    pub async fn add(&self, spec: PortSpec) -> Result<PortStatus, PortError> {
        self.make(0, spec, None).await
    }

    /// Makes a port that was there before this switch: its number is the old one, and `tap` the descriptor of its
    /// TAP, which is then taken as it is. A descriptor of something else is closed, and the TAP made anew.
    pub async fn restore(
        &self,
        number: u32,
        spec: PortSpec,
        tap: Option<OwnedFd>,
    ) -> Result<PortStatus, PortError> {
        if number == 0 || self.entries().contains_key(&number) {
            return Err(PortError::Invalid(format!("number {number} is no port's, or another's")));
        }
        self.number_from(number.saturating_add(1));
        self.make(number, spec, tap).await
    }

    /// New ports have this number at least.
    pub fn number_from(&self, number: u32) {
        self.next_number.fetch_max(number, Relaxed);
    }

    /// Number 0 is the next one.
    async fn make(
        &self,
        number: u32,
        mut spec: PortSpec,
        tap: Option<OwnedFd>,
    ) -> Result<PortStatus, PortError> {
        let _changing = self.changing.lock().await;
        let vlan = check(&spec)?;
        let name = match &spec.name {
            Some(name) => {
                self.check_name(name, None)?;
                name.clone()
            }
            None => self.free_name(&default_name(&spec)),
        };
        spec.name = Some(name);
        let entry = match spec.kind {
            PortKind::Tap | PortKind::Netdev => self.add_device(number, spec, vlan, tap).await?,
            PortKind::Client => self.add_client(number, spec, vlan)?,
            PortKind::Qemu => self.add_qemu(number, spec, vlan).await?,
            PortKind::Server => return Err(incoming_only()),
        };
        info!(port = entry.number, name = entry.name(), "added {} {}", entry.kind, entry.target);
        Ok(entry.status())
    }

    async fn add_device(
        &self,
        number: u32,
        spec: PortSpec,
        vlan: VlanRule,
        tap: Option<OwnedFd>,
    ) -> Result<Arc<Entry>, PortError> {
        let name = spec.target.clone();
        let taken = self.entries().values().find(|e| e.device().is_some_and(|d| d.name == name)).cloned();
        if let Some(taken) = taken {
            return Err(PortError::Invalid(format!(
                "{name} is port {} already; setport and setif change it, delport lets it go",
                taken.number
            )));
        }
        let slot = self.fabric.switch.free_slot().ok_or_else(full)?;
        let (handle, closed, adopted) = open(&spec, tap)?;
        let device = Arc::new(Device::new(&name, handle));
        let change = InterfaceChange { address: spec.address.clone(), mtu: spec.mtu, mac: spec.mac };
        let made_up = async {
            // Frames larger than ours are possible only with BIG TCP; not every kernel knows it.
            let _ = netif::pin_gso(&name).await;
            // One that never went away has what it was given meanwhile.
            if adopted {
                if let Some(bridge) = &spec.bridge
                    && let Ok(bridge) = netif::status(bridge).await
                {
                    device.bridge.store(bridge.index, Relaxed);
                }
            } else {
                if device.has_queues() {
                    let _ = netif::bound_queues(&name).await;
                }
                if let Some(bridge) = &spec.bridge {
                    device.bridge.store(netif::join(&name, bridge).await?, Relaxed);
                }
                if change != InterfaceChange::default() {
                    netif::apply(&name, &change).await?;
                }
                netif::set_up(&name, true).await?;
            }
            let netif = netif::status(&name).await?;
            // Last, so that nothing persists of a port that could not be made.
            if let (Handle::Tap(tap), true) = (&device.handle, spec.persist) {
                tap.set_persist(true)
                    .map_err(|e| PortError::Failed(format!("could not make {name} persistent: {e}")))?;
            }
            Ok::<_, PortError>(netif)
        };
        let netif = made_up.await?;
        device.note(netif.index, netif.mtu, netif.mac);
        let entry = self.enter(
            slot,
            vlan,
            Parts {
                number,
                slot,
                target: name,
                spec,
                way: Way::Device(device.clone()),
                life: Life { state: State::Up, ..Life::default() },
                user: None,
                listener: None,
            },
        );
        *entry.closed() = Some(closed);
        self.refresh_own();
        self.start_device(&entry, &device);
        Ok(entry)
    }

    /// Starts a device's ingress on a data thread.
    fn start_device(&self, entry: &Arc<Entry>, device: &Device) {
        let seat = self.threads.seat();
        let (fabric, slot, number) = (self.fabric.clone(), entry.slot, entry.number);
        let task = match &device.handle {
            Handle::Tap(tap) => seat.handle.spawn(tap::ingress(fabric, slot, number, tap.clone())),
            Handle::Packet(socket, _) => {
                seat.handle.spawn(netdev::ingress(fabric, slot, number, socket.clone()))
            }
        };
        tokio::spawn(watch(entry.clone(), seat, task));
    }

    fn add_client(&self, number: u32, spec: PortSpec, vlan: VlanRule) -> Result<Arc<Entry>, PortError> {
        let target = Target::parse(&spec.target, &spec.options).map_err(PortError::Invalid)?;
        target.check_files().map_err(PortError::Invalid)?;
        if let Some(idle) = target.idle_options() {
            warn!("{}: {idle}", target.display());
        }
        congestion::check(&spec.congestion).map_err(PortError::Invalid)?;
        let slot = self.fabric.switch.free_slot().ok_or_else(full)?;
        let ping = spec.options.ping.map(|seconds| Duration::from_secs(seconds.into()));
        let link = Link::dialled(spec.congestion.clone()).of_members(spec.options.connections.unwrap_or(1));
        link.set_pace(spec.pace);
        let entry = self.enter(
            slot,
            vlan,
            Parts {
                number,
                slot,
                target: target.display().to_owned(),
                way: Way::Link(Arc::new(link)),
                spec,
                life: Life { state: State::Connecting, ..Life::default() },
                user: None,
                listener: None,
            },
        );
        let far = Far::Switch(Box::new(target), ping);
        tokio::spawn(keep_connected(self.me.clone(), entry.clone(), far));
        Ok(entry)
    }

    /// Gives a new port its number, unless it has one, and lets frames at it. `changing` is held.
    pub(super) fn enter(&self, slot: Slot, vlan: VlanRule, parts: Parts) -> Arc<Entry> {
        let number = match parts.number {
            0 => self.next_number.fetch_add(1, Relaxed),
            its => its,
        };
        let entry = Arc::new(Entry::new(Parts { number, slot, ..parts }, self.events.clone()));
        self.fabric.switch.put(entry.port(vlan, &self.guards()));
        self.entries().insert(number, entry.clone());
        self.named().take(&entry.name(), number);
        entry.raise(What::PortAdded, entry.kind.to_string());
        entry.tell();
        entry
    }

    /// Takes a port out of the registry and the switch; nothing happens the second time.
    pub(super) fn leave(&self, entry: &Entry) {
        let mut entries = self.entries();
        if entries.remove(&entry.number).is_some() {
            // Before anybody can look: no sum is ever less than before.
            self.removed().add(&entry.counters);
            drop(entries);
            if let Some(resumable) = entry.resumable.get() {
                resumable.end();
            }
            self.fabric.switch.remove(entry.slot);
            self.named().give_back(&entry.name());
            if entry.kind == PortKind::Tap {
                self.refresh_own();
            }
            entry.raise(What::PortRemoved, String::new());
        }
    }
}

/// Waits for the end of a port, or of its device's ingress, and tells of the latter. A panic there is a bug of ours; it
/// costs this port and no other.
async fn watch(entry: Arc<Entry>, _seat: Seat, ingress: JoinHandle<io::Error>) {
    let abort = ingress.abort_handle();
    let reason = tokio::select! {
        outcome = ingress => match outcome {
            Ok(error) => format!("could not read from {}: {error}", entry.target),
            Err(error) => format!("internal error: {error}"),
        },
        () = entry.ended() => return abort.abort(),
    };
    if !entry.gate.is_shut() {
        warn!(port = entry.number, "{reason}");
    }
    let mut life = entry.life();
    (life.state, life.reason) = (State::Failed, Some(reason));
    drop(life);
    entry.tell();
}

/// What can be said of a spec without asking the kernel.
fn check(spec: &PortSpec) -> Result<VlanRule, PortError> {
    let (kind, target) = (spec.kind, &spec.target);
    let wrong = |text: String| Err(PortError::Invalid(text));
    if kind == PortKind::Server {
        return Err(incoming_only());
    }
    if !spec.options.fit(kind) {
        return wrong(match kind {
            PortKind::Client | PortKind::Qemu => {
                format!(
                    "{kind} {target}: connect and anonymous are for qemu ports, the other options for client ports"
                )
            }
            _ => format!("{kind} {target}: options are for client and qemu ports"),
        });
    }
    let interface = !spec.address.is_empty() || spec.mtu.is_some() || spec.mac.is_some();
    if matches!(kind, PortKind::Client | PortKind::Qemu) && interface {
        return wrong(format!("{kind} {target}: a link has no address, MTU or MAC"));
    }
    if kind != PortKind::Client && spec.congestion != Congestion::System {
        return Err(no_congestion(kind));
    }
    if kind != PortKind::Client && spec.pace.is_some() {
        return Err(no_pace(kind));
    }
    if kind != PortKind::Tap && spec.persist {
        return wrong(format!("{kind} {target}: only a TAP can persist"));
    }
    if kind != PortKind::Tap && spec.bridge.is_some() {
        return wrong(format!("{kind} {target}: only a TAP is put into a bridge"));
    }
    if spec.options.ping == Some(0) {
        return wrong(format!("{kind} {target}: ping must be at least 1 s"));
    }
    VlanRule::from_options(spec.access, spec.trunk.clone(), spec.native)
        .map_err(|rule| PortError::Invalid(format!("{kind} {target}: {rule}")))
}

/// The device, and whether it is the one behind `passed`.
fn open(spec: &PortSpec, passed: Option<OwnedFd>) -> Result<(Handle, Closed, bool), PortError> {
    Ok(match spec.kind {
        PortKind::Tap => {
            // One that outlives us is as `ip tuntap` makes it, for whoever opens it then.
            let queues = if spec.persist { 1 } else { tap::QUEUES };
            let adopted = passed.and_then(|fd| {
                let adopted = Tap::adopt(fd, &spec.target, spec.offload, queues);
                adopted.inspect_err(|why| warn!("made anew: {why}")).ok()
            });
            let was_ours = adopted.is_some();
            let tap = match adopted {
                Some(tap) => tap,
                None => Tap::open(&spec.target, spec.offload, queues)?,
            };
            let (tap, closed) = Held::new(tap);
            (Handle::Tap(tap), closed, was_ours)
        }
        _ => {
            let (socket, closed) = Held::new(PacketSocket::open(&spec.target, spec.offload)?);
            (Handle::Packet(socket, Mutex::default()), closed, false)
        }
    })
}

fn incoming_only() -> PortError {
    PortError::Invalid("server ports come from incoming links and cannot be added".into())
}

pub(super) fn full() -> PortError {
    PortError::Failed("no room for another port".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::fabric::with_scratch;
    use crate::port::ports::SwitchSettings;
    use crate::port::spec::{LinkOptions, PortRef};

    #[test]
    fn specs_that_make_no_sense_are_refused_by_name() {
        let tap = PortSpec::new(PortKind::Tap, "tap0");
        let client = PortSpec::new(PortKind::Client, "ws://h/");
        let qemu = PortSpec::new(PortKind::Qemu, "unix:/run/vms.sock");
        for (spec, word) in [
            (PortSpec::new(PortKind::Server, "x"), "incoming"),
            (PortSpec { mtu: Some(1500), ..client.clone() }, "MTU"),
            (PortSpec { persist: true, ..client.clone() }, "persist"),
            (PortSpec { native: crate::frame::Vid::new(1), ..tap.clone() }, "trunk"),
            (
                PortSpec { options: LinkOptions { insecure: true, ..Default::default() }, ..tap.clone() },
                "client",
            ),
            (
                PortSpec { options: LinkOptions { connect: true, ..Default::default() }, ..client.clone() },
                "qemu",
            ),
            (
                PortSpec {
                    options: LinkOptions { user: Some("u".into()), ..Default::default() },
                    ..qemu.clone()
                },
                "client",
            ),
            (PortSpec { mtu: Some(1500), ..qemu.clone() }, "MTU"),
            (PortSpec { pace: Some(8_000), ..tap.clone() }, "pace"),
            (PortSpec { congestion: "bbr".parse().unwrap(), ..tap }, "congestion"),
            (PortSpec { congestion: "bbr".parse().unwrap(), ..qemu }, "congestion"),
            (PortSpec { options: LinkOptions { ping: Some(0), ..Default::default() }, ..client }, "ping"),
        ] {
            let error = check(&spec).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
    /// In the middle of a batch, with all in hand that a batch has.
    #[tokio::test]
    async fn bad_77_an_ingress_that_panics_costs_its_port_alone() {
        let settings = SwitchSettings { fdb_limit: 16, ..SwitchSettings::default() };
        let ports = Ports::start(settings).unwrap();
        // Neither has a device: what they would read is made up, and what they would write is counted.
        let entry = |name: &str| {
            let slot = ports.fabric.switch.free_slot().unwrap();
            let spec = PortSpec { name: Some(name.into()), ..PortSpec::new(PortKind::Tap, name) };
            let way = Way::Link(Arc::new(Link::dialled(Congestion::System)));
            let (target, life) = (name.to_owned(), Life::default());
            let parts = Parts { number: 0, slot, target, spec, way, life, user: None, listener: None };
            ports.enter(slot, VlanRule::Transparent, parts)
        };
        let (broken, other) = (entry("t0"), entry("t1"));
        let brings = |entry: &Arc<Entry>, src: u8, bug: bool| {
            let (fabric, slot, number) = (ports.fabric.clone(), entry.slot, entry.number);
            async move {
                let frame = [&[2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, src, 8, 0][..], &[0; 46]].concat();
                crate::with_tape!(fabric.prof, |tape| with_scratch(|scratch| {
                    scratch.plain[..frame.len()].copy_from_slice(&frame);
                    let table = fabric.table();
                    let mut batch = fabric.batch(&table, slot, number, tape).expect("the port is there");
                    batch.frame(&scratch.plain[..frame.len()]);
                    assert!(!bug, "a bug of ours");
                }));
                io::Error::other("at its end")
            }
        };
        let seat = ports.threads.seat();
        let thread = seat.handle.clone();
        let task = thread.spawn(brings(&broken, 1, true));
        watch(broken.clone(), seat, task).await;
        let [first, second] = &ports.list()[..] else { panic!("two ports") };
        assert_eq!((first.state.as_str(), second.state.as_str()), ("failed", "up"));
        assert!(first.reason.as_deref().is_some_and(|why| why.contains("internal error")), "{first:?}");

        // On the same thread, which goes on, with its buffers, the table and the stations.
        let ended = thread.spawn(brings(&other, 2, false)).await;
        assert_eq!(ended.unwrap().to_string(), "at its end");
        let known: Vec<_> =
            ports.fdb(10).unwrap().into_iter().map(|station| (station.port, station.mac)).collect();
        assert_eq!(known, [(1, "02:00:00:00:00:01".to_owned()), (2, "02:00:00:00:00:02".to_owned())]);
        assert_eq!(ports.list()[1].rx, 1);
        ports.delete(&PortRef::Number(1)).await.unwrap();
        assert_eq!(ports.list().len(), 1);
    }
}
