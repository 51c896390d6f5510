//! What is left to whoever takes the daemon over: the files of its work, its sockets, two capabilities.
//!
//! Three layers, each there when another fails: the user and the capabilities
//! ([`privileges`](super::privileges)), Landlock for files, and [`seccomp`](super::seccomp) for system calls. All
//! of them bind the calling thread and those that it starts, none is ever taken back, and so [`enter`] wants to be
//! called while there is no other thread. A kernel that lacks one of them (Landlock came with Linux 5.13, and grew) gets the
//! others, and [`Entered`] says so.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use caps::Capability;
use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, LandlockStatus, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope, make_bitflags,
};

use super::privileges::{self, Account};
use super::seccomp;

/// What is asked for.
#[derive(Default, Debug)]
pub struct Plan {
    /// Files and folders, with all below them; what is not there is left out.
    pub read: Vec<PathBuf>,
    pub write: Vec<PathBuf>,
    /// Devices: opened for reading and writing, and their ioctls.
    pub devices: Vec<PathBuf>,
    /// Whose process this is to become.
    pub user: Option<Account>,
}

/// What came of it.
#[derive(Debug)]
pub struct Entered {
    /// The user that it became.
    pub user: Option<String>,
    pub capabilities: Vec<Capability>,
    /// The interface of Landlock that is enforced (1 and up), or why there is none.
    pub landlock: Result<i32, String>,
    /// Why system calls are not filtered.
    pub unfiltered: Option<String>,
    read: Vec<PathBuf>,
    write: Vec<PathBuf>,
}

static ENTERED: OnceLock<Entered> = OnceLock::new();

/// The sandbox that this process is in.
pub fn entered() -> Option<&'static Entered> {
    ENTERED.get()
}

/// Enters it, for good.
///
/// # Errors
/// When there are other threads, which would stay outside, and when privileges could not be given up.
pub fn enter(plan: &Plan) -> Result<&'static Entered, String> {
    alone()?;
    // While it can still be looked for everywhere.
    let (read, write) = (real(&plan.read), real(&[&plan.write[..], &plan.devices].concat()));
    let rules = Rules::new(plan);

    privileges::narrow_bounds();
    plan.user.as_ref().map_or(Ok(()), privileges::become_user)?;
    let capabilities = privileges::keep_two()?;
    nix::sys::prctl::set_no_new_privs().map_err(|e| format!("no_new_privs could not be set: {e}"))?;
    let landlock = rules.enforce();
    let unfiltered = seccomp::deny().err();
    let user = plan.user.as_ref().map(|account| account.name.clone());
    let entered = Entered { user, capabilities, landlock, unfiltered, read, write };
    Ok(ENTERED.get_or_init(|| entered))
}

/// One that has just ended may be listed for a moment yet, and one that waits for work in vain is about to.
fn alone() -> Result<(), String> {
    const SOON: Duration = Duration::from_secs(5);
    let start = Instant::now();
    loop {
        let threads = std::fs::read_dir("/proc/self/task")
            .map_err(|e| format!("/proc/self/task: {e}; the sandbox needs /proc (or --no-sandbox)"))?
            .count();
        if threads == 1 {
            return Ok(());
        }
        if start.elapsed() > SOON {
            return Err(format!("{} threads would stay outside the sandbox", threads - 1));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Landlock's rules, with every file of theirs open.
struct Rules {
    beneath: Vec<(PathFd, BitFlags<AccessFs>)>,
}

impl Rules {
    fn new(plan: &Plan) -> Self {
        let kinds = [(&plan.read, READ), (&plan.write, READ | WRITE), (&plan.devices, READ | DEVICE)];
        let beneath = kinds.iter().flat_map(|(paths, access)| {
            let opened = paths.iter().filter_map(|path| PathFd::new(path).ok());
            opened.map(|path| (path, *access))
        });
        Self { beneath: beneath.collect() }
    }

    fn enforce(self) -> Result<i32, String> {
        let fail = |e: &dyn std::fmt::Display| format!("Landlock could not be enforced: {e}");
        let mut created = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(LATEST))
            .and_then(|rules| rules.scope(SCOPE))
            .and_then(|rules| rules.create())
            .map_err(|e| fail(&e))?;
        for (path, access) in self.beneath {
            // Of a file only what can be done to a file; the crate takes the rest off by itself.
            created = created.add_rule(PathBeneath::new(path, access)).map_err(|e| fail(&e))?;
        }
        let status = created.restrict_self().map_err(|e| fail(&e))?;
        match status.landlock {
            LandlockStatus::Available { effective_abi, kernel_abi }
                if status.ruleset != RulesetStatus::NotEnforced =>
            {
                Ok(kernel_abi.unwrap_or(effective_abi as i32))
            }
            LandlockStatus::NotEnabled => Err("Landlock is not enabled in this kernel".to_owned()),
            _ => Err("this kernel has no Landlock".to_owned()),
        }
    }
}

/// What to say behind an error about `path`, when the sandbox is its cause; else nothing.
pub fn hint(path: &Path, error: &io::Error, access: Want) -> String {
    let Some(entered) = entered().filter(|_| error.kind() == io::ErrorKind::PermissionDenied) else {
        return String::new();
    };
    entered.explain(path, access)
}

/// Whether a TCP port can still be listened on, as far as privileges go.
pub fn may_bind(port: u16) -> bool {
    port >= 1024 || entered().is_none()
}

/// Why a port below 1024 cannot be listened on any more.
pub fn bind_hint() -> &'static str {
    match entered() {
        Some(_) => "; the sandbox gave that privilege up when etherws started: start it anew",
        None => "",
    }
}

/// What is to be done to a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Want {
    Read,
    Write,
}

impl Entered {
    fn explain(&self, path: &Path, access: Want) -> String {
        let path = whole(path);
        let inside = |allowed: &[PathBuf]| allowed.iter().any(|allowed| path.starts_with(allowed));
        let (may, key) = match access {
            Want::Read => (inside(&self.read) || inside(&self.write), "read"),
            Want::Write => (inside(&self.write), "write"),
        };
        match (&self.landlock, may, &self.user) {
            (Ok(_), false, _) => {
                let folder = path.parent().unwrap_or(&path).display();
                format!(
                    "; the sandbox does not let etherws {key} there: add \"{folder}\" to {key} in [sandbox] of the \
                     configuration and start it anew"
                )
            }
            (_, _, Some(user)) => format!("; etherws runs as user {user}, who must be able to {key} it"),
            _ => String::new(),
        }
    }
}

/// Absolute and without symbolic links, also where the last part is not there yet.
fn whole(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    if let Ok(whole) = path.canonicalize() {
        return whole;
    }
    match (path.parent().and_then(|parent| parent.canonicalize().ok()), path.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => path,
    }
}

/// The folders among them: who is denied a file that was allowed by itself is denied the one that has replaced it.
fn real(paths: &[PathBuf]) -> Vec<PathBuf> {
    paths.iter().filter_map(|path| path.canonicalize().ok()).filter(|path| path.is_dir()).collect()
}

/// What is handled, and so denied where no rule allows it: as far as Linux 6.10 knows. Newer ones know more rights, which
/// this was not tested with.
const LATEST: ABI = ABI::V5;

/// No signal to a process outside, and no socket of theirs in the abstract namespace (Linux 6.12).
const SCOPE: BitFlags<Scope> = make_bitflags!(Scope::{Signal | AbstractUnixSocket});

const READ: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | ReadDir});

/// Files and sockets made, changed, renamed and removed; no folders, devices or symbolic links.
const WRITE: BitFlags<AccessFs> =
    make_bitflags!(AccessFs::{WriteFile | Truncate | MakeReg | MakeSock | RemoveFile});

const DEVICE: BitFlags<AccessFs> = make_bitflags!(AccessFs::{WriteFile | Truncate | IoctlDev});
