//! Whose process this is and what it may do beside that: the user, and the two capabilities of a switch.
//!
//! All of it is of the calling thread alone (capabilities(7)), so it happens while there is no other.

use std::ffi::CString;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use caps::{CapSet, Capability, CapsHashSet};
use nix::unistd::{Gid, Uid, User, geteuid, getgrouplist, initgroups, setresgid, setresuid};

/// What a switch needs: TAPs, addresses and routes; packet sockets.
pub const KEPT: [Capability; 2] = [Capability::CAP_NET_ADMIN, Capability::CAP_NET_RAW];

/// Whether this process, which is root, may become another user and give away files: a container's root may not always.
pub fn may_change_user() -> bool {
    let has = |cap| caps::has_cap(None, CapSet::Effective, cap).unwrap_or(false);
    [Capability::CAP_CHOWN, Capability::CAP_SETUID, Capability::CAP_SETGID].into_iter().all(has)
}

/// A user of the system.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

impl Account {
    /// `None` when there is no such user.
    pub fn find(name: &str) -> Result<Option<Self>, String> {
        let found = User::from_name(name).map_err(|e| format!("user {name} could not be looked up: {e}"))?;
        Ok(found.map(|user| Self { name: user.name, uid: user.uid.as_raw(), gid: user.gid.as_raw() }))
    }

    pub fn is_us(&self) -> bool {
        geteuid().as_raw() == self.uid
    }

    /// Whether the user may read and write a file that is there, by its mode.
    pub fn may_use(&self, path: &Path) -> bool {
        let (Ok(meta), Ok(name)) = (path.metadata(), CString::new(self.name.as_str())) else { return true };
        let groups = getgrouplist(&name, Gid::from_raw(self.gid)).unwrap_or_default();
        let class = match () {
            () if meta.uid() == self.uid => 0o600,
            () if groups.contains(&Gid::from_raw(meta.gid())) => 0o060,
            () => 0o006,
        };
        meta.mode() & class == class
    }

    /// False in a user namespace that has no number for it (user_namespaces(7)).
    pub fn is_mapped(&self) -> bool {
        let mapped = |line: &str| {
            let mut numbers = line.split_whitespace().map_while(|number| number.parse::<u64>().ok());
            let (first, _, count) = (numbers.next()?, numbers.next()?, numbers.next()?);
            Some((first..first + count).contains(&self.uid.into()))
        };
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        map.lines().filter_map(mapped).any(|mapped| mapped)
    }
}

/// Makes the process that of `account`, with its groups. The capabilities are still permitted then, but not
/// in force: [`keep_two`] has to follow.
///
/// # Errors
/// When it may not; the process is of no use then, for half of it may have been done.
pub fn become_user(account: &Account) -> Result<(), String> {
    let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    let fail = |e: &dyn std::fmt::Display| format!("could not become user {}: {e}", account.name);
    let name = CString::new(account.name.as_str()).map_err(|e| fail(&e))?;
    caps::securebits::set_keepcaps(true).map_err(|e| fail(&e))?;
    initgroups(&name, gid)
        .and_then(|()| setresgid(gid, gid, gid))
        .and_then(|()| setresuid(uid, uid, uid))
        .map_err(|e| fail(&e))
}

/// Gives up what can be given up for good before the user changes: the bounding set.
pub fn narrow_bounds() {
    let kept = |cap: &Capability| KEPT.contains(cap);
    for cap in caps::all().iter().filter(|cap| !kept(cap)) {
        // Without CAP_SETPCAP it stays; it bounds what an execve could bring, and there will be none.
        let _ = caps::drop(None, CapSet::Bounding, *cap);
    }
}

/// Of all capabilities leaves [`KEPT`], as far as they are there; returns what is left.
///
/// # Errors
/// When more would stay.
pub fn keep_two() -> Result<Vec<Capability>, String> {
    let fail = |e: caps::errors::CapsError| format!("could not give up capabilities: {e}");
    let permitted = caps::read(None, CapSet::Permitted).map_err(fail)?;
    let kept: CapsHashSet = KEPT.into_iter().filter(|cap| permitted.contains(cap)).collect();
    // Both only matter to an execve, and a service manager may forbid to change them.
    let _ = caps::clear(None, CapSet::Ambient);
    let _ = caps::clear(None, CapSet::Inheritable);
    for set in [CapSet::Effective, CapSet::Permitted] {
        if caps::read(None, set).map_err(fail)? != kept {
            caps::set(None, set, &kept).map_err(fail)?;
        }
    }
    Ok(KEPT.into_iter().filter(|cap| kept.contains(cap)).collect())
}
