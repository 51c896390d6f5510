//! The TAPs and network cards behind ports: what becomes of them by itself, and their interfaces.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};

use tracing::{info, warn};

use super::entry::{Entry, State};
use super::{PortError, Ports};
use crate::port::egress::Handle;
use crate::port::netif::{self, Event};
use crate::port::spec::PortKind;
use crate::port::status::InterfaceStatus;

/// Follows what happens to devices, addresses and routes.
pub async fn watch(ports: Weak<Ports>) {
    let mut events = match netif::watch() {
        Ok(events) => events,
        Err(error) => {
            warn!("changes of devices and routes will not be noticed: {error}");
            return;
        }
    };
    while let Some(event) = events.recv().await {
        let Some(ports) = ports.upgrade() else { return };
        match event {
            Event::Addresses | Event::Routes => {
                ports.moved.send_replace(());
            }
            Event::Link { index, name, up, gone, .. } => {
                ports.device_changed(index, up, gone).await;
                ports.bridge_changed(&name, index, gone).await;
            }
        }
    }
}

impl Ports {
    /// The TAPs and network devices among the ports; one that is gone is left out.
    pub async fn interfaces(&self) -> Result<Vec<InterfaceStatus>, PortError> {
        let entries: Vec<_> = self.entries().values().cloned().collect();
        let mut interfaces = Vec::new();
        for entry in entries {
            match interface(&entry).await {
                Some(Ok(interface)) => interfaces.push(interface),
                None | Some(Err(PortError::NotFound(_))) => (),
                Some(Err(error)) => return Err(error),
            }
        }
        Ok(interfaces)
    }

    /// The TAPs among the ports: a descriptor of each, to be given to another process.
    pub fn taps(&self) -> Vec<(u32, OwnedFd)> {
        let tap = |entry: &Arc<Entry>| match &entry.device()?.handle {
            Handle::Tap(tap) => Some((entry.number, tap.as_fd().try_clone_to_owned().ok()?)),
            Handle::Packet(..) => None,
        };
        self.entries().values().filter_map(tap).collect()
    }

    async fn device_changed(&self, index: u32, up: bool, gone: bool) {
        let entry = self.entries().values().find(|entry| has_index(entry, index)).cloned();
        let Some((entry, device)) = entry.as_ref().and_then(|entry| Some((entry, entry.device()?))) else {
            return;
        };
        let (state, reason) = match (gone, up) {
            (true, _) => (State::Failed, Some(format!("{} was deleted", device.name))),
            (false, false) => (State::Down, Some(format!("{} is down", device.name))),
            (false, true) => (State::Up, None),
        };
        if let (false, Ok(netif)) = (gone, netif::status(&device.name).await) {
            device.note(netif.index, netif.mtu, netif.mac);
        }
        self.refresh_own();
        {
            let mut life = entry.life();
            if life.state == state || life.state == State::Failed {
                return;
            }
            (life.state, life.reason) = (state, reason.clone());
        }
        entry.tell();
        match reason {
            Some(reason) => warn!(port = entry.number, "{reason}"),
            None => info!(port = entry.number, "{} is up", device.name),
        }
        if state != State::Up {
            self.fabric.switch.fdb.flush(entry.slot);
        }
    }

    /// A bridge that is made anew gets the TAPs that belong there. One that was taken out of a bridge that is still there
    /// stays out.
    async fn bridge_changed(&self, name: &str, index: u32, gone: bool) {
        let belongs = |entry: &Arc<Entry>| entry.spec().bridge.as_deref() == Some(name);
        let entries: Vec<_> = self.entries().values().filter(|entry| belongs(entry)).cloned().collect();
        for entry in entries {
            let Some(device) = entry.device().filter(|_| entry.life().state != State::Failed) else {
                continue;
            };
            let was = device.bridge.load(Relaxed);
            if gone != (was == index) {
                continue;
            }
            device.bridge.store(if gone { 0 } else { index }, Relaxed);
            let reason = match gone {
                true => Some(format!(
                    "bridge: {name} was deleted; make it again, and {} is put there",
                    device.name
                )),
                false => netif::join(&device.name, name).await.err().map(|error| error.to_string()),
            };
            match &reason {
                Some(reason) => warn!(port = entry.number, "{reason}"),
                None => info!(port = entry.number, "{} is in {name} again", device.name),
            }
            let mut life = entry.life();
            if life.state == State::Up {
                life.reason = reason;
            }
        }
    }

    /// Tells the switch the addresses of this host's own TAPs.
    pub(super) fn refresh_own(&self) {
        let entries = self.entries();
        let taps = entries.values().filter(|entry| entry.kind == PortKind::Tap);
        let own = taps.filter_map(|entry| Some(entry.device()?.mac())).filter(|mac| !mac.is_zero());
        self.fabric.switch.set_own(own.collect());
    }
}

fn has_index(entry: &Entry, index: u32) -> bool {
    entry.device().is_some_and(|device| device.index.load(Relaxed) == index)
}

/// `None` for a link.
pub(super) async fn interface(entry: &Entry) -> Option<Result<InterfaceStatus, PortError>> {
    let device = entry.device()?;
    let netif = match netif::status(&device.name).await {
        Ok(netif) => netif,
        Err(error) => return Some(Err(error)),
    };
    let ipv4 = netif.ipv4();
    Some(Ok(InterfaceStatus {
        port: entry.number,
        kind: entry.kind,
        target: entry.target.clone(),
        address: ipv4.map_or_else(String::new, |net| net.addr().to_string()),
        netmask: ipv4.map_or_else(String::new, |net| net.netmask().to_string()),
        mtu: netif.mtu,
        name: entry.name(),
        addresses: netif.addresses.iter().map(ToString::to_string).collect(),
        mac: netif.mac.to_string(),
        index: netif.index,
        up: netif.up,
    }))
}
