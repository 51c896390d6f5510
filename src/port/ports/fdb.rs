//! The forwarding database, as people see and change it: by ports' names instead of slots.

use std::sync::Weak;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::sleep;

use super::entry::State;
use super::{PortError, Ports};
use crate::frame::MacAddr;
use crate::port::egress::Egress;
use crate::port::spec::PortRef;
use crate::port::status::FdbStatus;
use crate::switch::Table;
use crate::switch::fdb::Station;

/// Reclaims aged entries now and then; lookups judge age by themselves.
pub async fn sweep(ports: Weak<Ports>) {
    loop {
        let Some(ageout) = ports.upgrade().map(|ports| ports.ageout.load(Relaxed)) else { return };
        sleep(Duration::from_secs((ageout / 4).clamp(1, 30))).await;
        let Some(ports) = ports.upgrade() else { return };
        ports.fabric.switch.fdb.sweep(ports.fabric.now().seconds());
    }
}

impl Ports {
    /// All stations, in the order of port, VLAN and MAC address; `None`: they are more than `most`.
    pub fn fdb(&self, most: usize) -> Option<Vec<FdbStatus>> {
        let mut listed = self.fdb_after(None, most + 1);
        if listed.len() > most {
            return None;
        }
        listed.sort_by(|a, b| (a.port, a.vid, &a.mac).cmp(&(b.port, b.vid, &b.mac)));
        Some(listed)
    }

    /// The first `most` stations behind `after`, in the order of VLAN and MAC address.
    pub fn fdb_after(&self, after: Option<(u16, MacAddr)>, most: usize) -> Vec<FdbStatus> {
        let (fdb, table) = (&self.fabric.switch.fdb, self.fabric.table());
        fdb.page(after, most, self.fabric.now().seconds(), |station| self.status(&table, station))
    }

    /// The static entries, in the order of VLAN and MAC address.
    pub fn fixed_stations(&self) -> Vec<FdbStatus> {
        let table = self.fabric.table();
        let mut stations = self.fabric.switch.fdb.those(self.fabric.now().seconds(), |station| station.fixed);
        stations.sort_by_key(|station| (station.vid, station.mac.bits()));
        stations.into_iter().filter_map(|station| self.status(&table, station)).collect()
    }

    /// A station of a port that is there.
    fn status(&self, table: &Table<Egress>, station: Station) -> Option<FdbStatus> {
        let number = table.get(station.slot)?.number;
        let entry = self.entries().get(&number)?.clone();
        Some(FdbStatus {
            vid: station.vid,
            mac: station.mac.to_string(),
            port: number,
            age: station.age.into(),
            name: entry.name(),
            fixed: station.fixed,
        })
    }

    /// How many stations there are.
    pub fn fdb_len(&self) -> usize {
        let table = self.fabric.table();
        let fdb = &self.fabric.switch.fdb;
        fdb.count(self.fabric.now().seconds(), |station| table.get(station.slot).is_some())
    }

    /// A static entry. `vid` 0 is untagged.
    pub fn add_fdb(&self, vid: u16, mac: MacAddr, port: &PortRef) -> Result<FdbStatus, PortError> {
        check_vid(vid)?;
        if mac.is_group() || mac.is_zero() {
            return Err(PortError::Invalid(format!("{mac} is not a station's address")));
        }
        let entry = self.find(port)?;
        if entry.life().state == State::Listening {
            return Err(PortError::Invalid(format!(
                "no frame passes port {port}, which listens: name a machine's port"
            )));
        }
        if !self.fabric.switch.fdb.insert_static(vid, mac, entry.slot) {
            return Err(PortError::Failed(format!(
                "no room for {mac}: all {} entries of the FDB are static",
                self.fabric.switch.fdb.limit()
            )));
        }
        let (port, name) = (entry.number, entry.name());
        Ok(FdbStatus { vid, mac: mac.to_string(), port, age: 0, name, fixed: true })
    }

    /// Removes a static or learned entry; the entry as it was.
    pub fn delete_fdb(&self, vid: u16, mac: MacAddr) -> Result<FdbStatus, PortError> {
        check_vid(vid)?;
        let entries = self.entries();
        let gone = self.fabric.switch.fdb.delete(vid, mac, self.fabric.now().seconds());
        let station = gone.ok_or_else(|| {
            PortError::NotFound(format!("no FDB entry for {mac} in VLAN {vid}; listfdb shows them"))
        })?;
        let entry = entries.values().find(|entry| entry.slot == station.slot);
        Ok(FdbStatus {
            vid,
            mac: mac.to_string(),
            port: entry.map_or(0, |entry| entry.number),
            age: station.age.into(),
            name: entry.map_or_else(String::new, |entry| entry.name()),
            fixed: station.fixed,
        })
    }

    /// Forgets learned entries (static ones stay), of one port or of all; how many.
    pub fn flush_fdb(&self, port: Option<&PortRef>) -> Result<u64, PortError> {
        let slots: Vec<_> = match port {
            Some(port) => vec![self.find(port)?.slot],
            None => self.entries().values().map(|entry| entry.slot).collect(),
        };
        Ok(slots.into_iter().map(|slot| self.fabric.switch.fdb.flush(slot)).sum())
    }
}

pub(super) fn check_vid(vid: u16) -> Result<(), PortError> {
    if vid <= 4094 {
        return Ok(());
    }
    Err(PortError::Invalid(format!("VID {vid} is out of range (0 for untagged, 1 to 4094)")))
}
