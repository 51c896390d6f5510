//! The daemon's sandbox: which files a switch needs, as whom it runs, and what is said of it.
//!
//! [`sys::sandbox`](crate::sys::sandbox) is the means. Folders are allowed rather than files, since files are replaced (a
//! certificate renewed, a configuration saved), and a rule about a file is about the one that was there.

use std::os::unix::fs::lchown;
use std::path::{Path, PathBuf};

use tracing::{info, warn};

use super::config::Config;
use crate::control::api::SYSTEM_SOCKET;
use crate::port::qemu::Address;
use crate::port::spec::PortSpec;
use crate::sys::credential::located;
use crate::sys::privileges::{self, Account};
use crate::sys::sandbox::{self, Entered, Plan};

/// `[sandbox]`. All of it counts from the next start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SandboxSettings {
    pub enabled: bool,
    /// Whose process the switch becomes when it is started as root; absent: `etherws`, where there is one.
    pub user: Option<String>,
    /// Allowed beside what is named elsewhere, with all that is below.
    pub read: Vec<PathBuf>,
    pub write: Vec<PathBuf>,
}

impl Default for SandboxSettings {
    fn default() -> Self {
        Self { enabled: true, user: None, read: Vec::new(), write: Vec::new() }
    }
}

/// Enters the sandbox that `config` asks for. `own` are the files that the daemon writes: its configuration and
/// profile. Wants to be called while there is one thread.
pub fn enter(config: &Config, own: &[Option<&Path>]) -> Result<(), String> {
    let settings = &config.sandbox;
    if !settings.enabled {
        warn!("sandbox: off");
        return Ok(());
    }
    let (user, stays) = account(settings.user.as_deref())?;
    let plan = plan(config, own, user);
    if let Some(account) = &plan.user {
        hand_over(&config.door.control.sock, account)?;
    }
    let entered =
        sandbox::enter(&plan).map_err(|why| format!("sandbox: {why}; --no-sandbox does without"))?;
    tell(entered, stays.as_deref());
    if let Some(user) = &entered.user {
        warn_of_unreadable(config, user);
    }
    Ok(())
}

/// Files that root has just read, and that the user it became cannot read again.
fn warn_of_unreadable(config: &Config, user: &str) {
    for file in named(config) {
        let denied = |e: std::io::Error| e.kind() == std::io::ErrorKind::PermissionDenied;
        if std::fs::File::open(located(&file)).is_err_and(denied) {
            let file = file.display();
            warn!("{file} cannot be read by user {user}: what is in it counts, but a reload will fail");
        }
    }
}

/// Whose process root's is to become, or why it stays root's.
fn account(wanted: Option<&str>) -> Result<(Option<Account>, Option<String>), String> {
    let name = wanted.unwrap_or(USER);
    let root = nix::unistd::geteuid().is_root();
    let stays = |why: String| match wanted {
        Some(_) => Err(format!("--user: {why}; name another, or --no-sandbox does without")),
        None if root => Ok((None, Some(why))),
        None => Ok((None, None)),
    };
    match Account::find(name)? {
        Some(account) if account.is_us() => Ok((None, None)),
        None => stays(format!("there is no user {name}")),
        Some(_) if !root => stays(format!("only root can become user {name}")),
        Some(account) if wanted.is_none() && !account.may_use(Path::new(TUN)) => {
            stays(format!("user {name} may not open {TUN}"))
        }
        Some(_) if !privileges::may_change_user() => {
            stays("it may not change users: CAP_CHOWN, CAP_SETUID and CAP_SETGID".to_owned())
        }
        Some(account) if !account.is_mapped() => stays(format!("user {name} is unknown in this namespace")),
        account => Ok((account, None)),
    }
}

/// Gives the control socket to the user that the daemon becomes, and with it the folder that was made for it.
fn hand_over(sock: &Path, account: &Account) -> Result<(), String> {
    let give = |path: &Path, group: Option<u32>| {
        // Not through a link: the folder may be the other user's, who could put one there.
        lchown(path, Some(account.uid), group)
            .map_err(|e| format!("{} could not be given to user {}: {e}", path.display(), account.name))
    };
    // Its group is that of who may control already.
    give(sock, None)?;
    match sock.parent() {
        Some(folder) if Some(folder) == Path::new(SYSTEM_SOCKET).parent() => give(folder, Some(account.gid)),
        _ => Ok(()),
    }
}

fn tell(entered: &Entered, stays: Option<&str>) {
    let mut parts = Vec::new();
    parts.extend(entered.user.as_ref().map(|user| format!("user {user}")));
    parts.extend(stays.map(|why| format!("stays root ({why})")));
    parts.push(match &entered.capabilities[..] {
        [] => "no capabilities".to_owned(),
        some => some.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
    });
    match &entered.landlock {
        Ok(abi) => parts.push(format!("files by Landlock {abi}")),
        Err(why) => parts.push(format!("files NOT confined: {why}")),
    }
    match &entered.unfiltered {
        None => parts.push("system calls filtered".to_owned()),
        Some(why) => parts.push(format!("NOT filtered: {why}")),
    }
    let line = parts.join(", ");
    if entered.landlock.is_ok() && entered.unfiltered.is_none() {
        info!("sandbox: {line}");
    } else {
        warn!("sandbox: {line}");
    }
}

fn plan(config: &Config, own: &[Option<&Path>], user: Option<Account>) -> Plan {
    let env = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let listed =
        |name: &str| env(name).into_iter().flat_map(|list| std::env::split_paths(&list).collect::<Vec<_>>());
    let mut read: Vec<PathBuf> = HOST.iter().map(PathBuf::from).collect();
    read.extend(listed("CREDENTIALS_DIRECTORY").chain(listed("SSL_CERT_DIR")));
    let bundle = env("SSL_CERT_FILE").map(PathBuf::from);
    // The program's own functions, and their names, for CPU profiles.
    let program = std::env::current_exe().ok();
    read.extend(program.into_iter().flat_map(|file| [file.canonicalize().ok(), Some(file)]).flatten());
    let named = named(config).into_iter().chain(bundle);
    read.extend(named.flat_map(|file| folders(&file)));
    // What is in /etc is read by whoever resolves names, and replaced now and then: resolv.conf at each lease of
    // some DHCP clients. The host's secrets in there are root's; so root, if it has to stay, gets those files alone.
    let root = user.is_none() && nix::unistd::geteuid().is_root();
    read.extend(RESOLVER.iter().flat_map(|file| [PathBuf::from(file), target_folder(file)]));
    if !root {
        read.push("/etc".into());
    }
    read.extend(config.sandbox.read.iter().cloned());

    let mut write = vec![PathBuf::from("/dev/null")];
    write.extend(listed("STATE_DIRECTORY").chain(listed("RUNTIME_DIRECTORY")));
    let sockets: Vec<_> = config.ports.iter().filter_map(Address::socket_of).collect();
    let files = own.iter().flatten().copied().chain([config.door.control.sock.as_path()]);
    // The runtime folder, whatever is there now: sockets for virtual machines are made while the switch runs.
    let files = files.chain(sockets.iter().map(PathBuf::as_path)).chain([Path::new(SYSTEM_SOCKET)]);
    write.extend(files.flat_map(folders));
    write.extend(config.sandbox.write.iter().cloned());
    Plan { read, write, devices: vec!["/dev/net".into()], user }
}

/// Every file that the configuration names to be read.
fn named(config: &Config) -> Vec<PathBuf> {
    let door = &config.door;
    let listen =
        door.listen.iter().flat_map(|listen| [&listen.htpasswd, &listen.tokens].into_iter().flatten());
    let tls = door.listen.iter().filter_map(|listen| listen.tls.as_ref());
    let tcp = door.control.tcp.as_ref();
    let tls = tls.chain(tcp.and_then(|tcp| tcp.tls.as_ref()));
    let tls =
        tls.flat_map(|tls| [Some(&tls.cert), Some(&tls.key), tls.client_ca.as_ref()].into_iter().flatten());
    let control = tcp.and_then(|tcp| tcp.htpasswd.as_ref());
    let services = listen.chain(tls).chain(control).cloned();
    services.chain(config.ports.iter().flat_map(of_port)).collect()
}

fn of_port(spec: &PortSpec) -> Vec<PathBuf> {
    let options = &spec.options;
    let files = [&options.passwd_file, &options.cacerts, &options.cert].map(Option::as_deref);
    // Certificates may be given as text.
    let files = files.into_iter().chain([options.key.as_deref()]).flatten();
    files.filter(|file| !file.contains('\n')).map(PathBuf::from).collect()
}

/// The folder in which a file is named, and the one in which it is; of a file in `/` the file alone.
fn folders(file: &Path) -> Vec<PathBuf> {
    let named = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let real = named.canonicalize().ok();
    let folder = |file: PathBuf| match file.parent() {
        Some(parent) if parent != Path::new("/") => parent.to_owned(),
        _ => file,
    };
    [Some(named), real].into_iter().flatten().map(folder).collect()
}

/// Where a symbolic link leads to, the folder: what is there is replaced as one likes.
fn target_folder(link: &str) -> PathBuf {
    let link = Path::new(link);
    match link.canonicalize() {
        Ok(real) if real != link && real.parent() != link.parent() => {
            real.parent().map_or_else(|| real.clone(), Path::to_owned)
        }
        _ => link.to_owned(),
    }
}

const TUN: &str = "/dev/net/tun";

/// The service's user.
const USER: &str = "etherws";

/// What a switch reads of its host: itself, authorities, modules of the resolver, time zones, processors, what
/// there is to pace links by.
const HOST: &[&str] = &[
    "/proc/self",
    "/sys/fs/cgroup",
    "/sys/devices/system/cpu",
    "/proc/sys/net/ipv4/tcp_available_congestion_control",
    "/proc/sys/net/ipv4/tcp_allowed_congestion_control",
    "/dev/null",
    "/dev/urandom",
    "/etc/ssl",
    "/etc/pki",
    "/etc/ca-certificates",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/usr/share/pki",
    "/var/lib/ca-certificates",
    "/etc/group",
    "/etc/localtime",
    "/usr/share/zoneinfo",
    "/usr/lib",
    "/usr/lib64",
    "/lib",
    "/lib64",
    "/run/systemd/resolve",
];

const RESOLVER: &[&str] = &[
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/ld.so.cache",
];
