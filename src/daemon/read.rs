//! The configuration file as tables of [`Layer`], [`PortSpec`] and [`UserRule`], each checked beyond
//! its syntax.

use std::path::Path;
use std::str::FromStr;

use ipnet::IpNet;
use zeroize::Zeroizing;

use super::check::{check_guards, check_name, check_port, check_vlan, same_line, unprefixed};
use super::config::{Layer, target_text};
use super::limits;
use super::source::{Source, Table};
use crate::control::api::check::check_pace;
use crate::control::http::{UserRule, Who};
use crate::frame::{EtherType, MacAddr};
use crate::port::Profile;
use crate::port::spec::{Bpdu, LinkOptions, PortKind, PortSpec};
use crate::sys::sandbox::{Want, hint};

/// Keys of the top level.
const TABLES: &[&str] = &["switch", "listen", "control", "metrics", "limits", "sandbox", "port", "user"];
const SWITCH: &[&str] = &[
    "node",
    "ageout",
    "fdb_limit",
    "max_macs",
    "storm",
    "loop_guard",
    "announce",
    "suppress",
    "snoop",
    "snoop_interval",
    "threads",
    "ping",
    "prof",
    "log",
];
const LISTEN: &[&str] = &[
    "enabled",
    "host",
    "port",
    "path",
    "sslkey",
    "sslcert",
    "sslclientca",
    "htpasswd",
    "tokens",
    "origin",
    "trusted_proxy",
    "proxy_protocol",
    "offload",
    "congestion",
    "resume",
    "drain_wait",
];
const CONTROL: &[&str] = &["sock", "tcp"];
const TCP: &[&str] = &["host", "port", "path", "sslkey", "sslcert", "htpasswd", "anonymous"];
const METRICS: &[&str] = &["listen"];
const SANDBOX: &[&str] = &["enabled", "user", "read", "write"];
/// Keys of `[[port]]`: the fields of [`PortSpec`] in the order in which they are written.
pub const PORT: &[&str] = &[
    "name",
    "type",
    "target",
    "shut",
    "access",
    "trunk",
    "native",
    "isolated",
    "bpdu",
    "macs",
    "ethertypes",
    "rate",
    "storm",
    "max_macs",
    "loop_guard",
    "persist",
    "bridge",
    "address",
    "mtu",
    "mac",
    "offload",
    "congestion",
    "pace",
    "options",
];
/// The table below `path` that has such a key.
pub fn part_with(path: &str, key: &str) -> Option<&'static str> {
    (path == "port" && OPTIONS.contains(&key)).then_some("options")
}

/// Keys of `port.options`.
pub const OPTIONS: &[&str] = &[
    "user",
    "passwd",
    "passwd_file",
    "token",
    "cacerts",
    "cert",
    "key",
    "insecure",
    "proxy",
    "ping",
    "connections",
    "connect",
    "anonymous",
];
const USER: &[&str] = &[
    "user",
    "token",
    "certificate",
    "port",
    "access",
    "trunk",
    "native",
    "isolated",
    "macs",
    "ethertypes",
    "rate",
    "storm",
    "max_macs",
    "loop_guard",
    "congestion",
    "pace",
    "links",
];
/// A configuration larger than this is something else.
const MAX_FILE: u64 = 4 << 20;

/// The file's settings, or every mistake in it as `FILE:LINE:COLUMN: key: why`.
pub fn file(path: &Path) -> Result<Layer, Vec<String>> {
    let text = text(path).map_err(|why| vec![why])?;
    parse(&path.display().to_string(), &text)
}

/// The text of a configuration file.
pub fn text(path: &Path) -> Result<Zeroizing<String>, String> {
    let fail = |why: &dyn std::fmt::Display| format!("{}: could not be read: {why}", path.display());
    let io_fail = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::NotFound => fail(&format!("{e}; it may be empty, but has to be there")),
        _ => fail(&format!("{e}{}", hint(path, &e, Want::Read))),
    };
    let meta = std::fs::metadata(path).map_err(io_fail)?;
    if !meta.is_file() {
        return Err(fail(&"not a regular file"));
    }
    if meta.len() > MAX_FILE {
        return Err(fail(&"larger than 4 MiB, so hardly a configuration"));
    }
    let bytes = std::fs::read(path).map_err(io_fail)?;
    String::from_utf8(bytes).map(Zeroizing::new).map_err(|_| fail(&"not UTF-8 text"))
}

/// As [`file`], for text at hand; `name` is how messages call it.
pub fn parse(name: &str, text: &str) -> Result<Layer, Vec<String>> {
    let source = Source::new(name, text);
    let mut layer = Layer::default();
    if let Some(document) = source.parse() {
        let top = Table::new(&source, "", document.get_ref(), 0, TABLES);
        settings(&top, &mut layer);
        ports(&top, &mut layer.ports);
        users(&top, &mut layer.users);
    }
    let errors = source.into_errors();
    if errors.is_empty() { Ok(layer) } else { Err(errors) }
}

/// `layer.FIELD = table.KEY`, remembering the place for messages about it.
macro_rules! take {
    ($layer:ident, $table:ident, $($field:ident = $path:literal),* $(,)?) => {$(
        let key = $path.rsplit('.').next().unwrap_or($path);
        $layer.$field = $table.read(key);
        if $table.has(key) {
            $layer.places.insert($path, $table.place(key));
        }
    )*};
}

fn settings(top: &Table, layer: &mut Layer) {
    if let Some(switch) = top.table("switch", "switch", SWITCH) {
        take!(
            layer,
            switch,
            node = "switch.node",
            ageout = "switch.ageout",
            fdb_limit = "switch.fdb_limit",
            max_macs = "switch.max_macs",
            storm = "switch.storm",
            loop_guard = "switch.loop_guard",
            announce = "switch.announce",
            suppress = "switch.suppress",
            snoop = "switch.snoop",
            snoop_interval = "switch.snoop_interval",
            threads = "switch.threads",
            ping = "switch.ping",
            prof = "switch.prof",
            log = "switch.log"
        );
    }
    if let Some(listen) = top.table("listen", "listen", LISTEN) {
        take!(
            layer,
            listen,
            enabled = "listen.enabled",
            host = "listen.host",
            port = "listen.port",
            path = "listen.path",
            sslkey = "listen.sslkey",
            sslcert = "listen.sslcert",
            sslclientca = "listen.sslclientca",
            htpasswd = "listen.htpasswd",
            tokens = "listen.tokens",
            origin = "listen.origin",
            proxy_protocol = "listen.proxy_protocol",
            offload = "listen.offload",
            congestion = "listen.congestion",
            resume = "listen.resume",
            drain_wait = "listen.drain_wait"
        );
        layer.trusted_proxy = listen.read_each("trusted_proxy", network);
    }
    if let Some(metrics) = top.table("metrics", "metrics", METRICS) {
        take!(layer, metrics, metrics = "metrics.listen");
    }
    layer.limits = top.table("limits", "limits", limits::KEYS).map(|table| limits::read(&table));
    if let Some(table) = top.table("sandbox", "sandbox", SANDBOX) {
        take!(
            layer,
            table,
            sandbox = "sandbox.enabled",
            sandbox_user = "sandbox.user",
            sandbox_read = "sandbox.read",
            sandbox_write = "sandbox.write"
        );
    }
    let Some(control) = top.table("control", "control", CONTROL) else { return };
    take!(layer, control, sock = "control.sock");
    if let Some(tcp) = control.table("tcp", "control.tcp", TCP) {
        layer.tcp = Some(true);
        take!(
            layer,
            tcp,
            ctlhost = "control.tcp.host",
            ctlport = "control.tcp.port",
            ctlpath = "control.tcp.path",
            ctlsslkey = "control.tcp.sslkey",
            ctlsslcert = "control.tcp.sslcert",
            ctlhtpasswd = "control.tcp.htpasswd",
            ctlanonymous = "control.tcp.anonymous"
        );
    }
}

fn ports(top: &Table, ports: &mut Vec<PortSpec>) {
    for table in top.tables("port", PORT) {
        let kind: Option<PortKind> = table.require("type");
        let target: Option<String> = table.require("target");
        let spec = PortSpec {
            kind: kind.unwrap_or(PortKind::Server),
            target: target.clone().unwrap_or_default(),
            name: table.read("name"),
            shut: table.read("shut").unwrap_or_default(),
            access: table.read("access"),
            trunk: table.read("trunk"),
            native: table.read("native"),
            isolated: table.read("isolated").unwrap_or_default(),
            bpdu: table.read::<Bpdu>("bpdu").unwrap_or_default(),
            macs: table.read_each("macs", MacAddr::from_str).unwrap_or_default(),
            ethertypes: table.read_each("ethertypes", EtherType::from_str).unwrap_or_default(),
            rate: table.read("rate"),
            storm: table.read("storm").unwrap_or_default(),
            max_macs: table.read("max_macs"),
            loop_guard: table.read("loop_guard").unwrap_or(true),
            persist: table.read("persist").unwrap_or_default(),
            bridge: table.read("bridge"),
            address: table.read_each("address", address).unwrap_or_default(),
            mtu: table.read("mtu"),
            mac: table.read::<MacAddr>("mac"),
            offload: table.read("offload").unwrap_or(true),
            congestion: table.read("congestion").unwrap_or_default(),
            pace: table.read("pace"),
            options: table.table("options", "port.options", OPTIONS).map(|t| options(&t)).unwrap_or_default(),
        };
        if kind.is_none() || target.is_none() {
            continue;
        }
        for (key, why) in check_port(&spec) {
            table.error(key, why);
        }
        if let Some(name) = &spec.name
            && ports.iter().any(|other| other.name.as_ref() == Some(name))
        {
            table.error("name", format!("{name:?} is another port's name already"));
        }
        if ports.iter().any(|other| same_line(other, &spec)) {
            table.error("target", format!("{} is another port's target already", target_text(&spec)));
        }
        ports.push(spec);
    }
}

fn options(table: &Table) -> LinkOptions {
    LinkOptions {
        user: table.read("user"),
        passwd: table.read("passwd"),
        passwd_file: table.read("passwd_file"),
        token: table.read("token"),
        cacerts: table.read("cacerts"),
        cert: table.read("cert"),
        key: table.read("key"),
        insecure: table.read("insecure").unwrap_or_default(),
        proxy: table.read("proxy"),
        ping: table.read("ping"),
        connections: table.read("connections"),
        connect: table.read("connect").unwrap_or_default(),
        anonymous: table.read("anonymous").unwrap_or_default(),
    }
}

fn users(top: &Table, users: &mut Vec<UserRule>) {
    for table in top.tables("user", USER) {
        let given: Vec<_> =
            ["user", "token", "certificate"].into_iter().filter(|key| table.has(key)).collect();
        let [key] = given[..] else {
            let key = given.last().copied().unwrap_or("user");
            table.error(key, "expected exactly one of user, token and certificate, the name to match");
            continue;
        };
        let profile = Profile {
            name: table.read("port"),
            access: table.read("access"),
            trunk: table.read("trunk"),
            native: table.read("native"),
            isolated: table.read("isolated").unwrap_or_default(),
            macs: table.read_each("macs", MacAddr::from_str).unwrap_or_default(),
            ethertypes: table.read_each("ethertypes", EtherType::from_str).unwrap_or_default(),
            rate: table.read("rate"),
            storm: table.read("storm").unwrap_or_default(),
            max_macs: table.read("max_macs"),
            loop_guard: table.read("loop_guard"),
            congestion: table.read("congestion"),
            pace: table.read("pace"),
            links: table.read("links"),
        };
        let Some(name) = table.read::<String>(key) else { continue };
        if name.is_empty() {
            table.error(key, "empty name");
        }
        if let Some(Err(why)) = profile.name.as_deref().map(check_name) {
            table.error("port", why);
        }
        let vlan = check_vlan(profile.access.is_some(), profile.trunk.is_some(), profile.native.is_some());
        if let Some((key, why)) = vlan {
            table.error(key, why);
        }
        if let Some((key, why)) = check_guards(&profile.macs, profile.rate, profile.storm, profile.max_macs) {
            table.error(key, why);
        }
        if let Err(why) = check_pace(profile.pace) {
            table.error("pace", unprefixed(&why, "pace"));
        }
        if profile.links == Some(0) {
            table.error("links", "0 links lets nobody in; leave it out for no limit");
        }
        let who = match key {
            "user" => Who::User(name),
            "token" => Who::Token(name),
            _ => Who::Certificate(name),
        };
        if users.iter().any(|other| other.who == who) {
            table.error(key, "has a [[user]] table already");
        }
        users.push(UserRule { who, profile });
    }
}

fn address(text: &str) -> Result<IpNet, String> {
    text.parse().map_err(|_| format!("{text:?} is not an address with prefix length (expected 192.0.2.1/24)"))
}

/// A network, or a lone address meant as a network of one.
pub fn network(text: &str) -> Result<IpNet, String> {
    text.parse()
        .or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from))
        .map_err(|_| format!("{text:?} is not a network (expected 192.0.2.0/24)"))
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
