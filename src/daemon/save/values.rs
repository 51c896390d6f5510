//! The running state as keys of the file and their values, `None` for a key that is left out.

use std::path::PathBuf;

use toml_edit::{Array, Table, Value};

use super::set;
use crate::control::http::{TlsFiles, UserRule, Who};
use crate::daemon::config::Config;
use crate::daemon::limits;
use crate::port::spec::{Bpdu, Congestion, LinkOptions, PortSpec, Rates, StormLimit};
use crate::prof::snapshot::Level;
use crate::switch::guard::StormRates;

/// Table, key and value.
pub type Setting = (&'static [&'static str], &'static str, Option<Value>);

/// Every setting outside `[[port]]` and `[[user]]`, the same ones in the same order for each config.
pub fn entries(config: &Config) -> Vec<Setting> {
    const SWITCH: &[&str] = &["switch"];
    const LISTEN: &[&str] = &["listen"];
    const CONTROL: &[&str] = &["control"];
    const TCP: &[&str] = &["control", "tcp"];
    const METRICS: &[&str] = &["metrics"];
    const LIMITS: &[&str] = &["limits"];
    const SANDBOX: &[&str] = &["sandbox"];
    let number = |n: u64| Some(number(n));
    let level = |level: Level| (level != Level::default()).then(|| Value::from(level.name()));
    let path = |path: Option<&PathBuf>| path.map(|path| Value::from(path.display().to_string()));
    let string = |text: &str| Some(Value::from(text));
    let list = |items: Vec<String>| (!items.is_empty()).then(|| Value::Array(items.into_iter().collect()));
    let guard = config.switch.guard;
    let StormRates { broadcast, multicast, unknown } = guard.storm;
    let storm = match guard.storm == StormRates::default() {
        true => StormLimit::Off,
        false => StormLimit::Rates(Rates { broadcast, multicast, unknown }),
    };
    let off = config.door.listen.is_none();
    let listen = config.door.listen.clone().unwrap_or_default();
    let tcp = config.door.control.tcp.clone().unwrap_or_default();
    let cert = |tls: &Option<TlsFiles>| path(tls.as_ref().map(|tls| &tls.cert));
    let key = |tls: &Option<TlsFiles>| path(tls.as_ref().map(|tls| &tls.key));
    let proxies = listen.trusted_proxies.iter().map(ToString::to_string).collect();
    let mut all = vec![
        (SWITCH, "node", config.switch.node.as_deref().and_then(string)),
        (SWITCH, "ageout", number(config.switch.ageout.as_secs())),
        (SWITCH, "fdb_limit", number(config.switch.fdb_limit as u64)),
        (SWITCH, "max_macs", number(guard.max_macs.into())),
        (SWITCH, "storm", storm_value(storm)),
        (SWITCH, "loop_guard", Some(Value::from(guard.loop_guard))),
        (SWITCH, "announce", Some(Value::from(config.switch.announce))),
        (SWITCH, "suppress", Some(Value::from(config.switch.suppress))),
        (SWITCH, "snoop", Some(Value::from(config.switch.snoop))),
        (SWITCH, "snoop_interval", number(config.switch.snoop_interval.as_secs())),
        (SWITCH, "threads", number(config.switch.threads as u64)),
        (SWITCH, "prof", level(config.switch.prof.level)),
        (SWITCH, "ping", config.switch.ping.and_then(|ping| number(ping.as_secs()))),
        (SWITCH, "log", config.log.as_deref().and_then(string)),
        (LISTEN, "enabled", Some(Value::from(!off))),
        (CONTROL, "sock", path(Some(&config.door.control.sock))),
    ];
    let listen_entries = vec![
        (LISTEN, "host", listen.host.as_deref().and_then(string)),
        (LISTEN, "port", listen.port.and_then(|port| number(port.into()))),
        (LISTEN, "path", string(&listen.path)),
        (LISTEN, "sslkey", key(&listen.tls)),
        (LISTEN, "sslcert", cert(&listen.tls)),
        (LISTEN, "sslclientca", path(listen.tls.as_ref().and_then(|tls| tls.client_ca.as_ref()))),
        (LISTEN, "htpasswd", path(listen.htpasswd.as_ref())),
        (LISTEN, "tokens", path(listen.tokens.as_ref())),
        (LISTEN, "origin", list(listen.origins)),
        (LISTEN, "trusted_proxy", list(proxies)),
        (LISTEN, "proxy_protocol", Some(Value::from(listen.proxy_protocol))),
        (LISTEN, "offload", Some(Value::from(listen.offload))),
        (LISTEN, "congestion", congestion_value(&listen.congestion)),
        (LISTEN, "resume", number(listen.resume.as_secs())),
        (LISTEN, "drain_wait", number(listen.drain_wait.as_secs())),
    ];
    let tcp_entries = vec![
        (TCP, "host", string(&tcp.host)),
        (TCP, "port", number(tcp.port.into())),
        (TCP, "path", string(&tcp.path)),
        (TCP, "sslkey", key(&tcp.tls)),
        (TCP, "sslcert", cert(&tcp.tls)),
        (TCP, "htpasswd", path(tcp.htpasswd.as_ref())),
        (TCP, "anonymous", Some(Value::from(tcp.anonymous))),
    ];
    let metrics = config.door.metrics.as_ref().map(|at| match at.host.contains(':') {
        true => format!("[{}]:{}", at.host, at.port),
        false => format!("{}:{}", at.host, at.port),
    });
    all.push((METRICS, "listen", metrics.map(Value::from)));
    let numbers = limits::numbers(&config.door.limits);
    all.extend(limits::KEYS.iter().zip(numbers).map(|(key, limit)| (LIMITS, *key, number(limit))));
    let sandbox = &config.sandbox;
    let paths = |paths: &[PathBuf]| list(paths.iter().map(|path| path.display().to_string()).collect());
    // Not whether there is one: --no-sandbox, for this run, must not become the next one's.
    all.extend([
        (SANDBOX, "user", sandbox.user.as_deref().and_then(string)),
        (SANDBOX, "read", paths(&sandbox.read)),
        (SANDBOX, "write", paths(&sandbox.write)),
    ]);
    all.extend(listen_entries);
    all.extend(tcp_entries);
    all
}

pub fn port_value(spec: &PortSpec, key: &str) -> Option<Value> {
    let flag = |on: bool| on.then(|| Value::from(true));
    let vid = |vid: u16| Value::from(i64::from(vid));
    match key {
        "name" => spec.name.as_deref().map(Value::from),
        "type" => Some(Value::from(spec.kind.to_string())),
        "target" => Some(Value::from(spec.target.as_str())),
        "shut" => flag(spec.shut),
        "access" => spec.access.map(|access| vid(access.get())),
        "trunk" => spec.trunk.as_ref().map(|trunk| Value::from(trunk.to_string())),
        "native" => spec.native.map(|native| vid(native.get())),
        "isolated" => flag(spec.isolated),
        "bpdu" => (spec.bpdu == Bpdu::Forward).then(|| Value::from("forward")),
        "macs" => list(&spec.macs),
        "ethertypes" => list(&spec.ethertypes),
        "rate" => spec.rate.map(number),
        "storm" => storm_value(spec.storm),
        "max_macs" => spec.max_macs.map(|most| number(most.into())),
        "loop_guard" => (!spec.loop_guard).then(|| Value::from(false)),
        "persist" => flag(spec.persist),
        "bridge" => spec.bridge.as_deref().map(Value::from),
        "address" => list(&spec.address),
        "mtu" => spec.mtu.map(|mtu| Value::from(i64::from(mtu))),
        "mac" => spec.mac.map(|mac| Value::from(mac.to_string())),
        "offload" => (!spec.offload).then(|| Value::from(false)),
        "congestion" => congestion_value(&spec.congestion),
        "pace" => spec.pace.map(number),
        _ => None,
    }
}

pub fn option_value(options: &LinkOptions, key: &str) -> Option<Value> {
    let text = match key {
        "user" => options.user.as_deref(),
        "passwd" => options.passwd.as_deref(),
        "passwd_file" => options.passwd_file.as_deref(),
        "token" => options.token.as_deref(),
        "cacerts" => options.cacerts.as_deref(),
        "cert" => options.cert.as_deref(),
        "key" => options.key.as_deref(),
        "proxy" => options.proxy.as_deref(),
        "insecure" => return options.insecure.then(|| Value::from(true)),
        "connect" => return options.connect.then(|| Value::from(true)),
        "anonymous" => return options.anonymous.then(|| Value::from(true)),
        "ping" => return options.ping.map(|ping| Value::from(i64::from(ping))),
        "connections" => return options.connections.map(|count| Value::from(i64::from(count))),
        _ => return None,
    };
    text.map(Value::from)
}

pub fn user_table(rule: &UserRule) -> Table {
    let mut table = Table::new();
    let (key, name) = match &rule.who {
        Who::User(name) => ("user", name),
        Who::Token(name) => ("token", name),
        Who::Certificate(name) => ("certificate", name),
    };
    let profile = &rule.profile;
    for (key, value) in [
        (key, Some(Value::from(name.as_str()))),
        ("port", profile.name.as_deref().map(Value::from)),
        ("access", profile.access.map(|vid| number(vid.get().into()))),
        ("trunk", profile.trunk.as_ref().map(|trunk| Value::from(trunk.to_string()))),
        ("native", profile.native.map(|vid| number(vid.get().into()))),
        ("isolated", profile.isolated.then(|| Value::from(true))),
        ("macs", list(&profile.macs)),
        ("ethertypes", list(&profile.ethertypes)),
        ("rate", profile.rate.map(number)),
        ("storm", storm_value(profile.storm)),
        ("max_macs", profile.max_macs.map(|most| number(most.into()))),
        ("loop_guard", profile.loop_guard.map(Value::from)),
        ("congestion", profile.congestion.as_ref().map(|wanted| Value::from(wanted.to_string()))),
        ("pace", profile.pace.map(number)),
        ("links", profile.links.map(|links| number(links.into()))),
    ] {
        set(&mut table, key, value);
    }
    table.decor_mut().set_prefix("\n");
    table
}

fn number(n: u64) -> Value {
    Value::from(i64::try_from(n).unwrap_or(i64::MAX))
}

/// An array of what the items are written as; an empty one is left out.
fn list<T: ToString>(items: &[T]) -> Option<Value> {
    (!items.is_empty()).then(|| Value::Array(items.iter().map(ToString::to_string).collect::<Array>()))
}

fn congestion_value(congestion: &Congestion) -> Option<Value> {
    (*congestion != Congestion::System).then(|| Value::from(congestion.to_string()))
}

fn storm_value(limit: StormLimit) -> Option<Value> {
    match limit {
        StormLimit::Default => None,
        StormLimit::Off => Some(Value::from("off")),
        StormLimit::Rates(rates) => {
            let given = rates.named().into_iter().filter_map(|(kind, rate)| Some((kind, i64::from(rate?))));
            Some(Value::InlineTable(given.collect()))
        }
    }
}
