//! Changes to ports that are there, and their end.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::timeout;
use tracing::info;

use super::devices::interface;
use super::entry::Entry;
use super::{PortError, Ports, no_congestion, no_pace};
use crate::port::spec::{InterfaceChange, PortChange, PortKind, PortRef};
use crate::port::status::{InterfaceStatus, PortStatus};
use crate::port::{congestion, netif};
use crate::switch::VlanRule;

impl Ports {
    /// The entry after the change. Of a listener it is changed for its machines too, but for the name.
    pub async fn set(&self, port: &PortRef, change: PortChange) -> Result<PortStatus, PortError> {
        let _changing = self.changing.lock().await;
        let entry = self.find(port)?;
        if let Some(name) = &change.name {
            self.check_name(name, Some(entry.number))?;
        }
        let is_link = matches!(entry.kind, PortKind::Client | PortKind::Server);
        if change.pace.is_some() && !is_link {
            return Err(no_pace(entry.kind));
        }
        if let Some(congestion) = &change.congestion {
            if !is_link {
                return Err(no_congestion(entry.kind));
            }
            congestion::check(congestion).map_err(PortError::Invalid)?;
        }
        let status = self.set_one(&entry, change.clone())?;
        for machine in self.machines(&entry) {
            self.set_one(&machine, PortChange { name: None, ..change.clone() })?;
        }
        Ok(status)
    }

    fn set_one(&self, entry: &Entry, change: PortChange) -> Result<PortStatus, PortError> {
        let mut spec = entry.spec().clone();
        if let Some(vlan) = change.vlan {
            (spec.access, spec.trunk, spec.native) = (vlan.access, vlan.trunk, vlan.native);
        }
        let vlan = VlanRule::from_options(spec.access, spec.trunk.clone(), spec.native)
            .map_err(|rule| PortError::Invalid(format!("port {}: {rule}", entry.number)))?;
        spec.name = change.name.or(spec.name);
        spec.isolated = change.isolated.unwrap_or(spec.isolated);
        spec.bpdu = change.bpdu.unwrap_or(spec.bpdu);
        spec.shut = change.shut.unwrap_or(spec.shut);
        spec.macs = change.macs.unwrap_or(spec.macs);
        spec.ethertypes = change.ethertypes.unwrap_or(spec.ethertypes);
        spec.rate = change.rate.unwrap_or(spec.rate);
        spec.storm = change.storm.unwrap_or(spec.storm);
        spec.max_macs = change.max_macs.unwrap_or(spec.max_macs);
        spec.loop_guard = change.loop_guard.unwrap_or(spec.loop_guard);
        spec.congestion = change.congestion.unwrap_or(spec.congestion);
        spec.pace = change.pace.unwrap_or(spec.pace);
        if let Some(link) = entry.link() {
            let failed = |e| PortError::Failed(format!("port {}: {e}", entry.number));
            link.set_congestion(&spec.congestion).map_err(failed)?;
            link.set_pace(spec.pace);
        }
        let before = std::mem::replace(&mut *entry.spec(), spec.clone());
        if before == spec {
            return Ok(entry.status());
        }
        if before.name != spec.name {
            let mut named = self.named();
            named.give_back(before.name.as_deref().unwrap_or_default());
            named.take(&entry.name(), entry.number);
        }
        entry.gate.set_shut(spec.shut);
        self.fabric.switch.put(entry.port(vlan, &self.guards()));
        // Stations behind a shut port, or of another VLAN, are not there any more.
        let moved = (before.access, &before.trunk, before.native) != (spec.access, &spec.trunk, spec.native);
        if spec.shut || moved {
            self.fabric.switch.fdb.flush(entry.slot);
        }
        if moved {
            entry.lives.fetch_add(1, Relaxed);
            self.fabric.doubt();
        }
        entry.tell();
        info!(port = entry.number, name = entry.name(), "changed");
        Ok(entry.status())
    }

    /// Ends a port, a listener's machines with it; the entry as it was. A TAP that was not to persist is gone when this
    /// returns, and the file of a Unix socket.
    pub async fn delete(&self, port: &PortRef) -> Result<PortStatus, PortError> {
        let _changing = self.changing.lock().await;
        let entry = self.find(port)?;
        let status = entry.status();
        for gone in self.machines(&entry).iter().chain([&entry]) {
            gone.end(1000, "port deleted");
            self.leave(gone);
        }
        self.released(entry).await;
        info!(port = status.port, name = status.name, "deleted {} {}", status.kind, status.target);
        Ok(status)
    }

    pub async fn set_interface(
        &self,
        port: &PortRef,
        change: InterfaceChange,
    ) -> Result<InterfaceStatus, PortError> {
        let _changing = self.changing.lock().await;
        let entry = self.find(port)?;
        let Some(device) = entry.device() else {
            let kind = entry.kind;
            return Err(PortError::Invalid(format!(
                "port {port} is a {kind} port and has no interface; setif is for tap and netdev ports"
            )));
        };
        netif::apply(&device.name, &change).await?;
        {
            let mut spec = entry.spec();
            let families: Vec<_> = change.address.iter().map(|net| net.addr().is_ipv4()).collect();
            if !families.is_empty() {
                spec.address.retain(|net| !families.contains(&net.addr().is_ipv4()));
                spec.address.extend(change.address);
            }
            spec.mtu = change.mtu.or(spec.mtu);
            spec.mac = change.mac.or(spec.mac);
        }
        let netif = netif::status(&device.name).await?;
        device.note(netif.index, netif.mtu, netif.mac);
        self.refresh_own();
        let gone = || PortError::NotFound(format!("no interface for port {port}"));
        interface(&entry).await.unwrap_or_else(|| Err(gone()))
    }

    /// Waits until nobody holds the port's device or listener any more: a batch that is under way, its task.
    async fn released(&self, entry: Arc<Entry>) {
        let Some(closed) = entry.closed().take() else { return };
        drop(entry);
        let _ = timeout(RELEASE, closed).await;
    }
}

/// Longer than any batch takes.
const RELEASE: Duration = Duration::from_secs(2);
