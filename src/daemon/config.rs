//! What the daemon runs by: the file's settings with the flags laid over them, checked as a whole.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::sandbox::SandboxSettings;
use crate::control::api::{SYSTEM_SOCKET, default_socket};
use crate::control::http::{
    ControlSettings, ControlTcp, DoorSettings, Limits, ListenSettings, MetricsListen, TlsFiles, UserRule,
};
use crate::control::metrics;
use crate::port::dial::Target;
use crate::port::ports::SwitchSettings;
use crate::port::spec::{Congestion, GuardSettings, PortKind, PortSpec, StormLimit};
use crate::prof::Want;
use crate::prof::snapshot::Level;
use crate::sys::credential::located;

/// The merged, checked configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    pub switch: SwitchSettings,
    /// Log filter; absent: `info`.
    pub log: Option<String>,
    pub door: DoorSettings,
    pub sandbox: SandboxSettings,
    /// The `[[port]]` tables.
    pub ports: Vec<PortSpec>,
}

/// How messages call a port that has no number yet; never with the credentials in a URL.
pub fn label(spec: &PortSpec) -> String {
    spec.name.clone().unwrap_or_else(|| target_text(spec))
}

/// The target without the credentials in a URL.
pub fn target_text(spec: &PortSpec) -> String {
    match Target::parse(&spec.target, &spec.options) {
        Ok(target) if spec.kind == PortKind::Client => target.display().to_owned(),
        Err(_) if spec.kind == PortKind::Client => "a client".to_owned(),
        _ => spec.target.clone(),
    }
}

/// Settings as given in one place, the file or the flags; absent ones are left to the place below.
#[derive(Clone, Default, Debug)]
pub struct Layer {
    pub node: Option<String>,
    pub ageout: Option<u64>,
    pub fdb_limit: Option<usize>,
    pub max_macs: Option<u32>,
    pub storm: Option<StormLimit>,
    pub loop_guard: Option<bool>,
    pub announce: Option<bool>,
    pub suppress: Option<bool>,
    pub snoop: Option<bool>,
    /// Seconds.
    pub snoop_interval: Option<u32>,
    pub threads: Option<usize>,
    pub ping: Option<u32>,
    pub prof: Option<Level>,
    pub log: Option<String>,
    pub enabled: Option<bool>,
    pub host: Option<String>,
    pub port: Option<u16>,
    pub path: Option<String>,
    pub sslkey: Option<PathBuf>,
    pub sslcert: Option<PathBuf>,
    pub sslclientca: Option<PathBuf>,
    pub htpasswd: Option<PathBuf>,
    pub tokens: Option<PathBuf>,
    pub origin: Option<Vec<String>>,
    pub trusted_proxy: Option<Vec<IpNet>>,
    pub proxy_protocol: Option<bool>,
    pub offload: Option<bool>,
    pub congestion: Option<Congestion>,
    pub resume: Option<u32>,
    pub drain_wait: Option<u32>,
    pub sock: Option<PathBuf>,
    /// `[control.tcp]` is there, or a flag that asks for it.
    pub tcp: Option<bool>,
    pub ctlhost: Option<String>,
    pub ctlport: Option<u16>,
    pub ctlpath: Option<String>,
    pub ctlsslkey: Option<PathBuf>,
    pub ctlsslcert: Option<PathBuf>,
    pub ctlhtpasswd: Option<PathBuf>,
    pub ctlanonymous: Option<bool>,
    /// `ADDR` or `ADDR:PORT`.
    pub metrics: Option<String>,
    /// Of the file; no flag sets one.
    pub limits: Option<Limits>,
    pub sandbox: Option<bool>,
    pub sandbox_user: Option<String>,
    pub sandbox_read: Option<Vec<PathBuf>>,
    pub sandbox_write: Option<Vec<PathBuf>>,
    pub ports: Vec<PortSpec>,
    pub users: Vec<UserRule>,
    /// How messages call a given setting: `--sslkey`, or `FILE:3:1: listen.sslkey`.
    pub places: BTreeMap<&'static str, String>,
}

/// A mistake that shows only in the whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// The setting, as its author wrote it.
    pub place: String,
    pub why: String,
}

impl Problem {
    /// A mistake of the command line: exit code 2.
    pub fn is_usage(&self) -> bool {
        self.place.starts_with("--")
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.why)
    }
}

impl Layer {
    /// These settings, and where one is absent, that of `below`.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        macro_rules! merge {
            ($($field:ident)*) => {
                Self {
                    $($field: self.$field.or(below.$field),)*
                    ports: [below.ports, self.ports].concat(),
                    users: [below.users, self.users].concat(),
                    places: below.places.into_iter().chain(self.places).collect(),
                }
            };
        }
        merge!(node ageout fdb_limit max_macs storm loop_guard announce suppress snoop snoop_interval threads ping prof log enabled host port path sslkey sslcert sslclientca htpasswd
            tokens origin trusted_proxy proxy_protocol offload congestion resume drain_wait sock tcp ctlhost ctlport ctlpath ctlsslkey
            ctlsslcert ctlhtpasswd ctlanonymous metrics sandbox sandbox_user sandbox_read sandbox_write limits)
    }

    /// Every file named here that cannot be used: `PLACE: FILE: why`.
    pub fn unreadable_files(&self) -> Vec<String> {
        let files = [
            ("listen.sslkey", &self.sslkey),
            ("listen.sslcert", &self.sslcert),
            ("listen.sslclientca", &self.sslclientca),
            ("listen.htpasswd", &self.htpasswd),
            ("listen.tokens", &self.tokens),
            ("control.tcp.sslkey", &self.ctlsslkey),
            ("control.tcp.sslcert", &self.ctlsslcert),
            ("control.tcp.htpasswd", &self.ctlhtpasswd),
        ];
        let unreadable = files.into_iter().filter_map(|(key, file)| {
            let file = file.as_ref()?;
            let why = std::fs::read(located(file)).err()?;
            Some(format!("{}: {}: {why}", self.place(key), file.display()))
        });
        let links = self.ports.iter().filter(|spec| spec.kind == PortKind::Client);
        let broken = links.filter_map(|spec| {
            let target = Target::parse(&spec.target, &spec.options).ok()?;
            let why = target.check_files().err()?;
            Some(format!("port {}: options: {why}", label(spec)))
        });
        unreadable.chain(broken).collect()
    }

    fn place(&self, key: &str) -> String {
        self.places.get(key).cloned().unwrap_or_else(|| key.to_owned())
    }

    /// Fills in the defaults and checks the whole.
    pub fn resolve(self) -> Result<Config, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut wrong = |key: &str, why: String| {
            problems.push(Problem { place: self.place(key), why });
        };
        let mut range = |key: &str, value: u64, low: u64, high: u64| {
            if !(low..=high).contains(&value) {
                wrong(key, format!("{value} is out of range (expected {low} to {high})"));
            }
        };
        let usual = SwitchSettings::default();
        let ageout = self.ageout.unwrap_or(usual.ageout.as_secs());
        range("switch.ageout", ageout, 1, u64::from(u32::MAX));
        let fdb_limit = self.fdb_limit.unwrap_or(usual.fdb_limit);
        range("switch.fdb_limit", fdb_limit as u64, 1, 1 << 24);
        let threads = self.threads.unwrap_or_else(default_threads);
        range("switch.threads", threads as u64, 1, 256);
        let ping = self.ping.map(|ping| Duration::from_secs(u64::from(ping)));
        range("switch.ping", u64::from(self.ping.unwrap_or(15)), 1, 3600);
        let snoop_interval = self.snoop_interval.map_or(usual.snoop_interval.as_secs(), u64::from);
        range("switch.snoop_interval", snoop_interval, 4, 3600);
        let drain_wait = self.drain_wait.unwrap_or_default();
        range("listen.drain_wait", drain_wait.into(), 0, 3600);
        let resume = self.resume.unwrap_or_default();
        range("listen.resume", resume.into(), 0, 3600);
        let max_macs = self.max_macs.unwrap_or(usual.guard.max_macs);
        range("switch.max_macs", max_macs.into(), 1, 1 << 24);
        let storm = self.storm.unwrap_or_default();
        if let Err(why) = storm.check() {
            wrong("switch.storm", why);
        }
        if let Some(Err(why)) = self.log.as_deref().map(super::logs::check_filter) {
            wrong("switch.log", why);
        }
        if let Some(Err(why)) = self.node.as_deref().map(check_node) {
            wrong("switch.node", why);
        }
        for (key, path) in [("listen.path", &self.path), ("control.tcp.path", &self.ctlpath)] {
            if let Some(Err(why)) = path.as_deref().map(check_path) {
                wrong(key, why);
            }
        }
        for (key, host) in [("listen.host", &self.host), ("control.tcp.host", &self.ctlhost)] {
            if let Some(Err(why)) = host.as_deref().map(check_host) {
                wrong(key, why);
            }
        }
        for (key, other, given) in [
            ("listen.sslkey", "sslcert", (self.sslkey.is_some(), self.sslcert.is_some())),
            ("listen.sslcert", "sslkey", (self.sslcert.is_some(), self.sslkey.is_some())),
            ("control.tcp.sslkey", "sslcert", (self.ctlsslkey.is_some(), self.ctlsslcert.is_some())),
            ("control.tcp.sslcert", "sslkey", (self.ctlsslcert.is_some(), self.ctlsslkey.is_some())),
        ] {
            if given == (true, false) {
                wrong(key, format!("given without {other}; give both, or neither"));
            }
        }
        let tls = |cert: &Option<PathBuf>, key: &Option<PathBuf>, client_ca: Option<PathBuf>| {
            cert.clone().zip(key.clone()).map(|(cert, key)| TlsFiles { cert, key, client_ca })
        };
        if self.sslclientca.is_some() && self.sslcert.is_none() {
            wrong(
                "listen.sslclientca",
                "client certificates need TLS; give sslkey and sslcert too".to_owned(),
            );
        }
        let trusted_proxies = self.trusted_proxy.clone().unwrap_or_default();
        let proxy_protocol = self.proxy_protocol.unwrap_or_default();
        if proxy_protocol && trusted_proxies.is_empty() {
            wrong(
                "listen.proxy_protocol",
                "believed from trusted proxies alone; name them with trusted_proxy (--trusted-proxy)"
                    .to_owned(),
            );
        }
        let listen = self.enabled.unwrap_or(true).then(|| ListenSettings {
            host: self.host.clone(),
            port: self.port,
            path: self.path.clone().unwrap_or_else(|| "/".to_owned()),
            tls: tls(&self.sslcert, &self.sslkey, self.sslclientca.clone()),
            htpasswd: self.htpasswd.clone(),
            tokens: self.tokens.clone(),
            origins: self.origin.clone().unwrap_or_default(),
            trusted_proxies,
            proxy_protocol,
            ping,
            offload: self.offload.unwrap_or(true),
            congestion: self.congestion.clone().unwrap_or_default(),
            resume: Duration::from_secs(resume.into()),
            drain_wait: Duration::from_secs(drain_wait.into()),
        });
        let default = ControlTcp::default();
        let tcp = self.tcp.unwrap_or_default().then(|| ControlTcp {
            host: self.ctlhost.clone().unwrap_or(default.host),
            port: self.ctlport.unwrap_or(default.port),
            path: self.ctlpath.clone().unwrap_or(default.path),
            tls: tls(&self.ctlsslcert, &self.ctlsslkey, None),
            htpasswd: self.ctlhtpasswd.clone(),
            anonymous: self.ctlanonymous.unwrap_or_default(),
        });
        if let Some(tcp) = &tcp {
            if tcp.anonymous && !is_loopback(&tcp.host) {
                wrong("control.tcp.anonymous", format!("only on loopback, and {} is not", tcp.host));
            }
            if tcp.anonymous && tcp.htpasswd.is_some() {
                wrong("control.tcp.anonymous", "contradicts htpasswd; give one of them".to_owned());
            }
            if let Some(Err(why)) = listen.as_ref().map(|listen| check_shared(listen, tcp)) {
                wrong("control.tcp.port", why);
            }
        } else {
            for (key, given) in [
                ("control.tcp.sslkey", self.ctlsslkey.is_some()),
                ("control.tcp.sslcert", self.ctlsslcert.is_some()),
                ("control.tcp.htpasswd", self.ctlhtpasswd.is_some()),
                ("control.tcp.anonymous", self.ctlanonymous.is_some()),
            ] {
                if given {
                    wrong(
                        key,
                        "control listens on its Unix socket alone; add --ctlport 7867 for TCP".to_owned(),
                    );
                }
            }
        }
        let metrics = match self.metrics.as_deref().map(metrics_listen) {
            Some(Ok(metrics)) => {
                if let Some(other) = taken(&metrics, listen.as_ref(), tcp.as_ref()) {
                    wrong(
                        "metrics.listen",
                        format!("port {} is {other}'s, on an address that overlaps", metrics.port),
                    );
                }
                Some(metrics)
            }
            Some(Err(why)) => {
                wrong("metrics.listen", why);
                None
            }
            None => None,
        };
        let enabled = self.sandbox.unwrap_or(true);
        if !enabled && self.sandbox_user.is_some() {
            wrong("sandbox.user", "becoming a user is a part of the sandbox, which is off".to_owned());
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Config {
            switch: SwitchSettings {
                node: self.node,
                ageout: Duration::from_secs(ageout),
                fdb_limit,
                threads,
                ping,
                prof: Want { level: self.prof.unwrap_or_default(), ..Want::default() },
                guard: GuardSettings {
                    storm: storm.over(usual.guard.storm),
                    max_macs,
                    loop_guard: self.loop_guard.unwrap_or(usual.guard.loop_guard),
                },
                announce: self.announce.unwrap_or(usual.announce),
                suppress: self.suppress.unwrap_or(usual.suppress),
                snoop: self.snoop.unwrap_or(usual.snoop),
                snoop_interval: Duration::from_secs(snoop_interval),
            },
            log: self.log,
            door: DoorSettings {
                listen,
                control: ControlSettings { sock: self.sock.unwrap_or_else(default_sock), tcp },
                metrics,
                users: self.users,
                limits: self.limits.unwrap_or_default(),
            },
            sandbox: SandboxSettings {
                enabled,
                user: self.sandbox_user,
                read: self.sandbox_read.unwrap_or_default(),
                write: self.sandbox_write.unwrap_or_default(),
            },
            ports: self.ports,
        })
    }
}

/// The control socket when none is named: in the service's own directory, or the user's.
pub fn default_sock() -> PathBuf {
    let directory = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(directory) = directory("RUNTIME_DIRECTORY") {
        return directory.join("ctl.sock");
    }
    let root = nix::unistd::geteuid().is_root();
    default_socket(root, directory("XDG_RUNTIME_DIR").as_deref()).unwrap_or_else(|| SYSTEM_SOCKET.into())
}

/// As many as there are processors, up to four: ports are pinned, and few switches have more busy ones.
fn default_threads() -> usize {
    // The kernel's half of the work runs beside it; see docs/decisions.md for the figures.
    (std::thread::available_parallelism().map_or(1, usize::from) / 2).clamp(1, 4)
}

/// It goes into log lines, labels and tables.
fn check_node(node: &str) -> Result<(), String> {
    let shaped = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    match (1..=63).contains(&node.len()) && node.chars().all(shaped) {
        true => Ok(()),
        false => Err(format!("{node:?} cannot be a node's name: 1 to 63 letters, digits and ._-")),
    }
}

fn check_path(path: &str) -> Result<(), String> {
    if !path.starts_with('/') {
        return Err(format!("{path:?} does not start with '/'"));
    }
    if path.contains(|c: char| c.is_whitespace() || c.is_control() || "?#".contains(c)) {
        return Err(format!("{path:?} has a space, '?' or '#' in it"));
    }
    Ok(())
}

fn check_host(host: &str) -> Result<(), String> {
    let name = |c: char| c.is_alphanumeric() || "-._".contains(c);
    if host.parse::<IpAddr>().is_ok() || bare(host).parse::<IpAddr>().is_ok() || host.contains('%') {
        return Ok(());
    }
    if host.is_empty() || !host.chars().all(name) {
        return Err(format!(
            "{host:?} is neither an address nor a host name (the port is a setting of its own)"
        ));
    }
    Ok(())
}

/// `ADDR` or `ADDR:PORT`; IPv6 addresses with a port stand in brackets.
fn metrics_listen(text: &str) -> Result<MetricsListen, String> {
    let expected = || format!("{text:?} is not an address (expected 127.0.0.1 or 127.0.0.1:9867)");
    let (host, port) = match text.rsplit_once(':') {
        _ if text.parse::<IpAddr>().is_ok() => (text, None),
        Some((host, port)) if !text.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let port = port.map_or(Ok(metrics::DEFAULT_PORT), str::parse).map_err(|_| expected())?;
    // A lone number is a port whose address was forgotten, not a host.
    if host.bytes().all(|b| b.is_ascii_digit()) || check_host(host).is_err() {
        return Err(expected());
    }
    Ok(MetricsListen { host: bare(host).to_owned(), port })
}

/// Which service has the port that metrics are to have, on the same address or on all.
fn taken(
    metrics: &MetricsListen,
    listen: Option<&ListenSettings>,
    tcp: Option<&ControlTcp>,
) -> Option<&'static str> {
    let overlaps = |host: Option<&str>, port: u16| {
        let hosts = [host.map(bare), Some(metrics.host.as_str())];
        let any = |host: &Option<&str>| {
            host.is_none_or(|host| host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified()))
        };
        port == metrics.port && port != 0 && (hosts[0] == hosts[1] || hosts.iter().any(any))
    };
    let data = |listen: &ListenSettings| {
        overlaps(listen.host.as_deref(), listen.port.unwrap_or(if listen.tls.is_some() { 443 } else { 80 }))
    };
    if listen.is_some_and(data) {
        return Some("the WebSocket service");
    }
    tcp.is_some_and(|tcp| overlaps(Some(&tcp.host), tcp.port)).then_some("control")
}

/// Without the brackets of an IPv6 literal.
fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || bare(host).parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Both services on one port: fine on the same address with different paths and the same TLS.
fn check_shared(listen: &ListenSettings, tcp: &ControlTcp) -> Result<(), String> {
    let port = listen.port.unwrap_or(if listen.tls.is_some() { 443 } else { 80 });
    if port != tcp.port || port == 0 {
        return Ok(());
    }
    let any =
        |host: &str| host.is_empty() || bare(host).parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified());
    let data = listen.host.as_deref().map(bare);
    if data != Some(bare(&tcp.host)) {
        if data.is_some_and(|host| !any(host)) && !any(&tcp.host) {
            return Ok(());
        }
        return Err(format!(
            "port {port} is the WebSocket service's, on {}, and {} is among its addresses; give both the same host, or another port",
            data.unwrap_or("all addresses"),
            tcp.host
        ));
    }
    if listen.path == tcp.path {
        return Err(format!(
            "{}:{port}{} is the WebSocket service's too; give one another path",
            tcp.host, tcp.path
        ));
    }
    let files = |tls: &Option<TlsFiles>| tls.as_ref().map(|tls| (tls.cert.clone(), tls.key.clone()));
    if files(&listen.tls) != files(&tcp.tls) {
        return Err(format!(
            "{}:{port} is the WebSocket service's too, with other TLS settings; give both the same, or another port",
            tcp.host
        ));
    }
    Ok(())
}
