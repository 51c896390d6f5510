//! The forwarding database as people see and change it.

use std::collections::BTreeMap;

use super::entry::State;
use super::{PortError, Ports};
use crate::frame::MacAddr;
use crate::port::spec::PortRef;
use crate::port::status::FdbStatus;

impl Ports {
    pub fn fdb(&self) -> Vec<FdbStatus> {
        let entries = self.entries();
        let by_slot: BTreeMap<_, _> = entries.values().map(|entry| (entry.slot, entry)).collect();
        let stations = self.fabric.switch.fdb.stations(self.fabric.now().seconds());
        let mut listed: Vec<_> = stations
            .into_iter()
            .filter_map(|station| Some((by_slot.get(&station.slot)?, station)))
            .map(|(entry, station)| FdbStatus {
                vid: station.vid,
                mac: station.mac.to_string(),
                port: entry.number,
                age: station.age.into(),
                name: entry.name(),
                fixed: station.fixed,
            })
            .collect();
        listed.sort_by(|a, b| (a.port, a.vid, &a.mac).cmp(&(b.port, b.vid, &b.mac)));
        listed
    }

    /// How many [`Ports::fdb`] lists.
    pub fn fdb_len(&self) -> usize {
        let table = self.fabric.table();
        let stations = self.fabric.switch.fdb.stations(self.fabric.now().seconds());
        stations.iter().filter(|station| table.get(station.slot).is_some()).count()
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
