//! What a switch leaves to the one that is started in its place, as by `systemctl restart`, or when a package is upgraded.
//!
//! At its end it gives its TAPs' descriptors, and a file in memory that says which ports there were, into its service
//! manager's store (FDSTORE=1, sd_pid_notify_with_fds(3)). The manager passes them to the next start, and closes them when
//! the service is stopped for good. So TAPs never go away in a restart and keep their places in bridges, ports come back
//! with number and settings, also those that nobody saved, and no password is written anywhere. A switch that is killed
//! leaves nothing, and one without a service manager has nobody to leave it to: there `persist` and `saveconf` are the means.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use sd_notify::NotifyState;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::time::timeout;
use tracing::{info, warn};
use zeroize::Zeroizing;

use super::apply::{Running, Step, plan, run};
use super::config::label;
use crate::frame::MacAddr;
use crate::port::spec::{PortRef, PortSpec};
use crate::port::{PortError, Ports};

/// sd_notify(3) allows no colon in a name.
const LIST: &str = "etherws-ports";
const TAP: &str = "etherws-tap-";
/// What is left is ours, but a mistake must not fill the memory.
const MOST_BYTES: u64 = 64 << 20;
/// How long the service manager may take to have it all.
const PATIENCE: Duration = Duration::from_secs(2);

/// The ports of a switch that ended, in JSON.
#[derive(Serialize, Deserialize)]
struct List {
    /// The number of its next port.
    next: u32,
    ports: Vec<(u32, PortSpec)>,
    /// What its configuration file said: what differs there now is applied, as by a reload.
    file: Vec<PortSpec>,
    /// Static entries: VLAN, station, port.
    fdb: Vec<(u16, MacAddr, u32)>,
}

/// Leaves everything to the next one. `file` are the ports of the configuration in force.
pub async fn leave(ports: &Ports, file: &[PortSpec]) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    if let Err(e) = give(ports, file).await {
        warn!("ports are not kept over a restart: {e}");
    }
}

async fn give(ports: &Ports, file: &[PortSpec]) -> io::Result<()> {
    let fdb = ports.fixed_stations().into_iter();
    let fdb = fdb.filter_map(|station| Some((station.vid, station.mac.parse().ok()?, station.port)));
    let list = List {
        next: ports.next_number(),
        ports: Running::all(ports).into_iter().map(|port| (port.number, named(port))).collect(),
        file: file.to_vec(),
        fdb: fdb.collect(),
    };
    let mut memory = File::from(memfd_create(LIST, MFdFlags::MFD_CLOEXEC)?);
    memory.write_all(&secret_json(&list)?)?;
    store(LIST, memory.as_fd())?;
    for (number, tap) in ports.taps() {
        if let Err(e) = store(&format!("{TAP}{number}"), tap.as_fd()) {
            warn!("the TAP of port {number} is not kept over a restart: {e}");
        }
    }
    // The manager lets go of the other end when it has taken what was sent before; by then this process may end.
    let (mut ours, theirs) = UnixStream::pair()?;
    let theirs = OwnedFd::from(theirs.into_std()?);
    sd_notify::notify_with_fds(&[NotifyState::Custom("BARRIER=1")], &[theirs.as_fd()])?;
    drop(theirs);
    let _ = timeout(PATIENCE, ours.read(&mut [0])).await;
    Ok(())
}

/// JSON that may hold passwords. Measured first: a buffer that grows leaves copies behind.
fn secret_json(list: &List) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut length = Length(0);
    serde_json::to_writer(&mut length, list)?;
    let mut text = Zeroizing::new(Vec::with_capacity(length.0));
    serde_json::to_writer(&mut *text, list)?;
    Ok(text)
}

/// Counts bytes, and keeps none.
struct Length(usize);

impl Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether a descriptor of this name is one that was left.
pub fn is_ours(name: &str) -> bool {
    name == LIST || name.strip_prefix(TAP).is_some_and(|number| number.parse::<u32>().is_ok())
}

/// With the name that it has, chosen or given.
fn named(port: Running) -> PortSpec {
    PortSpec { name: Some(port.name), ..port.spec }
}

fn store(name: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
    sd_notify::notify_with_fds(&[NotifyState::FdStore, NotifyState::FdName(name)], &[fd])
}

/// What another switch left.
pub struct Left {
    list: List,
    taps: BTreeMap<u32, OwnedFd>,
}

impl Left {
    /// Of the descriptors passed that [are ours](is_ours); `None` when nothing of use is among them.
    pub fn of(passed: Vec<(String, OwnedFd)>) -> Option<Self> {
        let mut list = None;
        let mut taps = BTreeMap::new();
        for (name, fd) in passed {
            // Else the manager would hold the TAP for ever, and pass it to a start that has no use for it.
            let _ = sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(&name)]);
            if name == LIST {
                list = read(File::from(fd))
                    .inspect_err(|e| warn!("what the last switch left is of no use: {e}"))
                    .ok();
            } else if let Some(number) = name.strip_prefix(TAP).and_then(|number| number.parse().ok()) {
                taps.insert(number, fd);
            }
        }
        list.map(|list| Self { list, taps })
    }

    /// Makes the ports that were there, and applies what `file`, the ports of the configuration now, says differently. What
    /// cannot be made is told, left out and returned: the others are worth having.
    pub async fn take_up(self, ports: &Ports, file: &[PortSpec]) -> Vec<PortSpec> {
        let Self { list, mut taps } = self;
        let mut missing = Vec::new();
        let all = list.ports.len();
        let mut back = 0;
        ports.number_from(list.next);
        for (number, spec) in list.ports {
            let (name, kind) = (label(&spec), spec.kind);
            match ports.restore(number, spec.clone(), taps.remove(&number)).await {
                Ok(_) => back += 1,
                Err(why) => {
                    warn!("port {number} ({kind} {name}) is not back: {why}");
                    missing.push(spec);
                }
            }
        }
        for (vid, mac, port) in list.fdb {
            match ports.add_fdb(vid, mac, &PortRef::Number(port)) {
                // On a link that came in; its port is another now.
                Ok(_) | Err(PortError::NotFound(_)) => {}
                Err(why) => warn!("static entry {mac} is not back: {why}"),
            }
        }
        info!("restarted: {back} of {all} ports are back");
        for step in plan(&list.file, file, &Running::all(ports)) {
            match run(&step, ports).await {
                Ok(()) => info!("restarted: {step}"),
                Err(why) => {
                    warn!("could not apply \"{step}\": {why}");
                    if let Step::Add(spec) | Step::Recreate { new: spec, .. } = step {
                        missing.push(*spec);
                    }
                }
            }
        }
        missing
    }
}

fn read(mut memory: File) -> io::Result<List> {
    memory.rewind()?;
    let room = usize::try_from(memory.metadata()?.len().min(MOST_BYTES)).unwrap_or_default() + 1;
    let mut text = Zeroizing::new(Vec::with_capacity(room));
    memory.take(MOST_BYTES).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(text: &[u8]) -> OwnedFd {
        let mut file = File::from(memfd_create(LIST, MFdFlags::MFD_CLOEXEC).unwrap());
        file.write_all(text).unwrap();
        file.into()
    }

    #[test]
    fn what_is_left_is_written_without_growing() {
        let ports = (1..50).map(|number| {
            let mut spec = PortSpec::new(crate::port::spec::PortKind::Client, "wss://h/");
            spec.options.user = Some("u".repeat(number as usize * 99));
            (number, spec)
        });
        let list = List { next: 50, ports: ports.collect(), file: Vec::new(), fdb: Vec::new() };
        let text = secret_json(&list).unwrap();
        assert_eq!((text.len(), text.capacity()), (serde_json::to_vec(&list).unwrap().len(), text.len()));
    }

    #[test]
    fn what_was_left_is_read_and_what_is_of_no_use_is_not() {
        let list = br#"{"next":9,"ports":[[7,{"type":"client","target":"wss://h/","options":{"user":"u","passwd":"p"}}]],
            "file":[],"fdb":[[0,"02:00:00:00:00:01",7]]}"#;
        let tap = || ("etherws-tap-7".to_owned(), memory(b""));
        let left = Left::of(vec![tap(), (LIST.to_owned(), memory(list))]).unwrap();
        assert_eq!((left.list.next, left.list.ports[0].0, left.taps.len()), (9, 7, 1));
        assert_eq!(left.list.ports[0].1.options.passwd.as_deref(), Some("p"));
        assert!(Left::of(Vec::new()).is_none());
        // TAPs without a list belong to nobody, and are closed.
        assert!(Left::of(vec![tap()]).is_none());
        for text in [&b""[..], b"{", br#"{"next":9}"#, b"\xff"] {
            assert!(Left::of(vec![(LIST.to_owned(), memory(text))]).is_none(), "{text:?}");
        }
    }
}
