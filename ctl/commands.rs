//! From a command to a request, and from its result to text.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use etherws::control::api::{
    self, Addresses, CounterStatus, Entries, GroupPort, GroupsStatus, InterfaceStatus, LinkOptions, Method,
    PortKind, PortRef, PortSpec, PortStatus,
};
use ipnet::IpNet;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::Wrong;
use crate::cli::{AddPort, Command, InterfaceArgs, LinkArgs, PortArgs, SetIf, SetPort};
use crate::server::ask_password;
use crate::table::{escaped, table, without_empty_columns};
use crate::{stations, trace};

/// What is asked of the server.
#[derive(Debug)]
pub struct Request {
    pub method: Method,
    pub params: Option<Value>,
}

impl Request {
    /// Reads the files named and asks for passwords that are missing.
    pub fn of(command: &Command) -> Result<Self, Wrong> {
        let bare = |method| Ok(Self { method, params: None });
        match command {
            Command::Listport => bare(Method::ListPort),
            Command::Listif => bare(Method::ListInterface),
            Command::Listfdb { .. } => bare(Method::ListFdb),
            Command::Liststations { .. } => bare(Method::ListStations),
            Command::Listgroups => bare(Method::ListGroups),
            Command::Counters { .. } => bare(Method::ListCounters),
            Command::Reload => bare(Method::ReloadConfig),
            Command::Version => bare(Method::GetVersion),
            Command::Addport(add) => with(Method::AddPort, spec(add)?),
            Command::Setport(set) => with(Method::SetPort, set_port(set)),
            Command::Delport { port } => with(Method::DelPort, api::DelPort { port: port.clone() }),
            Command::Setif(set) => with(Method::SetInterface, set_interface(set)?),
            Command::Addfdb { mac, port, vid } => {
                with(Method::AddFdb, api::AddFdb { vid: *vid, mac: *mac, port: port.clone() })
            }
            Command::Delfdb { mac, vid } => with(Method::DelFdb, api::DelFdb { vid: *vid, mac: *mac }),
            Command::Flushfdb { port } => with(Method::FlushFdb, api::FlushFdb { port: port.clone() }),
            Command::Saveconf { file } => {
                with(Method::SaveConfig, api::SaveConfig { file: file.as_deref().map(absolute).transpose()? })
            }
            Command::Trace(args) => with(Method::TraceFrame, trace::question(args)?),
            Command::Watch
            | Command::Doctor
            | Command::Capture(_)
            | Command::Ping(_)
            | Command::Dashboard(_)
            | Command::Top(_)
            | Command::Flame(_)
            | Command::Prof(_)
            | Command::Stats { .. }
            | Command::Man { .. }
            | Command::Completions { .. } => Err(Wrong::Failure("no question to a switch".into())),
        }
    }
}

fn with(method: Method, params: impl Serialize) -> Result<Request, Wrong> {
    let params = serde_json::to_value(params).map_err(|e| format!("not expressible in JSON: {e}"))?;
    Ok(Request { method, params: Some(params) })
}

fn spec(add: &AddPort) -> Result<PortSpec, Wrong> {
    let mut spec = match add {
        AddPort::Tap { target, port, interface, persist, bridge } => PortSpec {
            persist: *persist,
            bridge: bridge.clone(),
            ..with_interface(with_port(PortSpec::new(PortKind::Tap, target), port), interface)
        },
        AddPort::Netdev { target, port, interface } => {
            with_interface(with_port(PortSpec::new(PortKind::Netdev, target), port), interface)
        }
        AddPort::Client { target, port, congestion, pace, .. } => PortSpec {
            congestion: congestion.clone().unwrap_or_default(),
            pace: pace.filter(|pace| *pace != 0),
            ..with_port(PortSpec::new(PortKind::Client, target), port)
        },
        AddPort::Qemu { target, port, connect, anonymous } => {
            let options = LinkOptions { connect: *connect, anonymous: *anonymous, ..LinkOptions::default() };
            PortSpec { options, ..with_port(PortSpec::new(PortKind::Qemu, target), port) }
        }
    };
    if let AddPort::Client { link, .. } = add {
        // What is wrong already needs no password.
        api::check_spec(&spec).map_err(Wrong::Usage)?;
        spec.options = options(link)?;
    }
    api::check_spec(&spec).map_err(Wrong::Usage)?;
    Ok(spec)
}

fn with_port(spec: PortSpec, port: &PortArgs) -> PortSpec {
    PortSpec {
        name: port.name.clone(),
        shut: port.shut,
        access: port.vlan.access,
        trunk: port.vlan.trunk.clone(),
        native: port.vlan.native,
        isolated: port.isolated,
        bpdu: port.bpdu.unwrap_or_default(),
        macs: port.guard.macs.clone().map_or(Vec::new(), |words| words.0),
        ethertypes: port.guard.ethertypes.clone().map_or(Vec::new(), |words| words.0),
        rate: port.guard.rate.filter(|rate| *rate != 0),
        storm: port.guard.storm.unwrap_or_default(),
        max_macs: port.guard.max_macs.filter(|most| *most != 0),
        loop_guard: !port.no_loop_guard,
        offload: !port.no_offload,
        ..spec
    }
}

fn with_interface(spec: PortSpec, interface: &InterfaceArgs) -> PortSpec {
    PortSpec { address: interface.address.clone(), mtu: interface.mtu, mac: interface.mac, ..spec }
}

fn options(link: &LinkArgs) -> Result<LinkOptions, String> {
    let passwd = match (&link.user, &link.passwd, &link.passwd_file) {
        (Some(_), None, None) => Some(ask_password("Client Password: ", "--passwd or --passwd-file")?),
        (_, passwd, _) => passwd.clone(),
    };
    let pem = |flag, file: &Option<_>| file.as_deref().map(|file| read_pem(flag, file)).transpose();
    Ok(LinkOptions {
        user: link.user.clone(),
        passwd: passwd.map(Into::into),
        passwd_file: link.passwd_file.as_deref().map(absolute).transpose()?,
        token: link.token.clone().map(Into::into),
        cacerts: pem("--cacerts", &link.cacerts)?,
        cert: pem("--cert", &link.cert)?,
        key: pem("--key", &link.key)?.map(Into::into),
        insecure: link.insecure,
        proxy: link.proxy.clone(),
        ping: link.ping,
        connections: link.connections,
        ..LinkOptions::default()
    })
}

/// A file's content, since the switch may be on another host.
fn read_pem(flag: &str, file: &Path) -> Result<String, String> {
    /// The switch takes a request of 1 MiB in all.
    const LIMIT: usize = 256 << 10;
    let shown = file.display();
    let bytes = std::fs::read(file).map_err(|e| format!("{flag} {shown}: {}", crate::client::io_text(&e)))?;
    match String::from_utf8(bytes) {
        Ok(text) if text.len() > LIMIT => Err(format!("{flag} {shown}: larger than {} KiB", LIMIT >> 10)),
        Ok(text) if text.contains("-----BEGIN ") => Ok(text),
        _ => Err(format!("{flag} {shown}: no PEM in it")),
    }
}

/// The switch reads the file, from another working directory. `credential:NAME` is among what its service manager gave it.
fn absolute(file: &Path) -> Result<String, String> {
    let absolute = match file.to_str() {
        Some(name) if name.starts_with("credential:") => file.to_owned(),
        _ => std::path::absolute(file).map_err(|e| format!("{}: {e}", file.display()))?,
    };
    absolute
        .into_os_string()
        .into_string()
        .map_err(|path| format!("{}: not UTF-8", Path::new(&path).display()))
}

fn set_port(set: &SetPort) -> api::SetPort {
    api::SetPort {
        shut: set.shut,
        name: set.name.clone(),
        access: set.vlan.access,
        trunk: set.vlan.trunk.clone(),
        native: set.vlan.native,
        transparent: set.transparent.then_some(true),
        isolated: set.isolated,
        bpdu: set.bpdu,
        macs: set.guard.macs.clone().map(|words| words.0),
        ethertypes: set.guard.ethertypes.clone().map(|words| words.0),
        rate: set.guard.rate,
        storm: set.guard.storm,
        max_macs: set.guard.max_macs,
        loop_guard: set.loop_guard,
        congestion: set.congestion.clone(),
        pace: set.pace,
        ..api::SetPort::of(set.port.clone())
    }
}

fn set_interface(set: &SetIf) -> Result<api::SetInterface, Wrong> {
    let mut netmask = set.netmask.map(|mask| mask.to_string());
    let mut address = set.address.clone();
    // A single A/LEN goes out as 1.3 understands it, too.
    if let ([one], None) = (address.as_slice(), &netmask)
        && let Ok(IpNet::V4(net)) = one.parse()
    {
        netmask = Some(net.netmask().to_string());
        address = vec![net.addr().to_string()];
    }
    let address = (!address.is_empty()).then_some(Addresses(address));
    if address.is_some() {
        api::check::addresses(address.as_ref(), netmask.as_deref(), None).map_err(Wrong::Usage)?;
    }
    Ok(api::SetInterface { port: set.port.clone(), address, netmask, mtu: set.mtu, mac: set.mac })
}

/// The part of a listing that was asked for.
pub fn select(command: &Command, mut result: Value) -> Result<Value, String> {
    let (port, must_exist) = match command {
        Command::Listfdb { port: Some(port) } | Command::Liststations { port: Some(port) } => (port, false),
        Command::Counters { port: Some(port) } => (port, true),
        _ => return Ok(result),
    };
    let entries = match &mut result {
        Value::Array(entries) => Some(entries),
        result => result.get_mut("entries").and_then(Value::as_array_mut),
    };
    if let Some(entries) = entries {
        entries.retain(|entry| match port {
            PortRef::Number(number) => entry["port"] == *number,
            PortRef::Name(name) => entry["name"] == **name,
        });
        if must_exist && entries.is_empty() {
            return Err(no_port(port));
        }
    }
    Ok(result)
}

/// What is said of a port that is not there.
pub fn no_port(port: &PortRef) -> String {
    format!("no port {}; listport names them", escaped(&port.to_string()))
}

/// The result as 1.3 prints it; what is ours stands to the right.
pub fn render(command: &Command, result: Value) -> Result<String, String> {
    Ok(match command {
        Command::Addport(_) | Command::Setport(_) | Command::Delport { .. } | Command::Listport => {
            ports(&read::<Entries<PortStatus>>(result)?.entries)
        }
        Command::Setif(_) | Command::Listif => interfaces(&read::<Entries<InterfaceStatus>>(result)?.entries),
        Command::Listfdb { .. }
        | Command::Addfdb { .. }
        | Command::Delfdb { .. }
        | Command::Liststations { .. } => {
            let rows = stations::rows(command, result)?;
            stations::table(command, rows)
        }
        Command::Listgroups => groups(&read(result)?),
        Command::Counters { .. } => counters(&read::<Entries<CounterStatus>>(result)?.entries),
        Command::Flushfdb { .. } => match read::<api::Flushed>(result)?.flushed {
            1 => "flushed 1 entry\n".into(),
            count => format!("flushed {count} entries\n"),
        },
        Command::Saveconf { .. } => format!("saved {}\n", escaped(&read::<api::Saved>(result)?.file)),
        Command::Reload => match read::<api::Changes>(result)?.changes.as_slice() {
            [] => "nothing changed\n".into(),
            changes => changes.iter().map(|line| format!("{}\n", escaped(line))).collect(),
        },
        Command::Version => {
            let api::Version { version, name, node } = read(result)?;
            let node = node.map(|node| format!(" on {}", escaped(&node))).unwrap_or_default();
            format!("{} {}{node}\n", escaped(&name), escaped(&version))
        }
        Command::Trace(_) => trace::render(&read(result)?),
        Command::Watch
        | Command::Doctor
        | Command::Capture(_)
        | Command::Ping(_)
        | Command::Dashboard(_)
        | Command::Top(_)
        | Command::Flame(_)
        | Command::Prof(_)
        | Command::Stats { .. }
        | Command::Man { .. }
        | Command::Completions { .. } => String::new(),
    })
}

/// A result as what it should be.
pub fn read<T: DeserializeOwned>(result: Value) -> Result<T, String> {
    serde_path_to_error::deserialize(result)
        .map_err(|e| format!("unexpected result: {}", escaped(&e.to_string())))
}

fn ports(entries: &[PortStatus]) -> String {
    let header = [
        "Port",
        "Type",
        "State",
        "RX",
        "TX",
        "Target",
        "Name",
        "VLAN",
        "Peer",
        "User",
        "TLS",
        "Offload",
        "Connections",
        "Bridge",
        "Node",
        "Congestion",
        "Pace",
        "Drops",
        "Alerts",
        "Reason",
    ];
    let rows = entries.iter().map(|entry| {
        let state = match entry.state.as_str() {
            // 1.3 knows two.
            "" | "up" | "shut" => if entry.shut { "shut" } else { "up" }.to_owned(),
            state => state.to_owned(),
        };
        let vlan = match (entry.vlan.as_str(), entry.isolated) {
            ("", _) => String::new(),
            (vlan, true) => format!("{vlan} isolated"),
            (vlan, false) => vlan.to_owned(),
        };
        vec![
            entry.port.to_string(),
            entry.kind.to_string(),
            state,
            entry.rx.to_string(),
            entry.tx.to_string(),
            entry.target.clone(),
            entry.name.clone(),
            vlan,
            entry.peer.clone().unwrap_or_default(),
            entry.user.clone().unwrap_or_default(),
            entry.tls.clone().unwrap_or_default(),
            entry.offload.clone().unwrap_or_default(),
            entry.connections.map_or(String::new(), |connections| connections.to_string()),
            entry.bridge.clone().unwrap_or_default(),
            entry.node.clone().unwrap_or_default(),
            entry.congestion.clone().unwrap_or_default(),
            entry.pace.map_or(String::new(), |pace| pace.to_string()),
            unless_zero(entry.drops),
            entry.alerts.join(","),
            entry.reason.clone().unwrap_or_default(),
        ]
    });
    listing(&header, rows, 6)
}

fn interfaces(entries: &[InterfaceStatus]) -> String {
    let header = ["Port", "Type", "Address", "Netmask", "MTU", "Target", "Name", "MAC", "Link", "Addresses"];
    let rows = entries.iter().map(|entry| {
        vec![
            entry.port.to_string(),
            entry.kind.to_string(),
            entry.address.clone(),
            entry.netmask.clone(),
            entry.mtu.to_string(),
            entry.target.clone(),
            entry.name.clone(),
            entry.mac.clone(),
            // 1.3 says nothing of it, and has no index.
            match (entry.index, entry.up) {
                (0, _) => "",
                (_, true) => "up",
                (_, false) => "down",
            }
            .to_owned(),
            entry
                .addresses
                .iter()
                .filter(|text| !stands_left(text, entry))
                .cloned()
                .collect::<Vec<_>>()
                .join(","),
        ]
    });
    listing(&header, rows, 6)
}

/// True for the address that 1.3's columns show.
fn stands_left(text: &str, entry: &InterfaceStatus) -> bool {
    let (Ok(net), Ok(address)) = (text.parse::<IpNet>(), entry.address.parse::<IpAddr>()) else {
        return false;
    };
    net.addr() == address && net.netmask().to_string() == entry.netmask
}

/// A line for each group; the routers and who asks below.
fn groups(status: &GroupsStatus) -> String {
    if !status.snoops {
        return "multicast goes to everybody; etherws sw --snoop sends it to those who ask for it\n".into();
    }
    let vlan = |vlan: Option<u16>| vlan.map_or_else(|| "-".to_owned(), |vlan| vlan.to_string());
    let port = |port: &GroupPort| match port.name.as_str() {
        "" => port.port.to_string(),
        name => format!("{} ({name})", port.port),
    };
    let ports = |ports: &[GroupPort]| ports.iter().map(port).collect::<Vec<_>>().join(", ");
    let last = |ports: &[GroupPort]| ports.iter().map(|port| port.expires).max().unwrap_or(0).to_string();
    let line = |of: Option<u16>, what: &str, whose: &[GroupPort]| {
        vec![vlan(of), what.to_owned(), last(whose), ports(whose)]
    };
    let groups = status.groups.iter().map(|group| line(group.vlan, &group.group, &group.ports));
    let routers = status
        .routers
        .iter()
        .map(|routers| line(routers.vlan, &format!("routers of {}", routers.family), &routers.ports));
    let all =
        [("more than there is room for", &status.full), ("not yet asked for long enough", &status.settling)];
    let all = all.into_iter().filter(|(_, ports)| !ports.is_empty());
    let all = all.map(|(why, ports)| line(None, why, ports));
    let mut text = listing(&["VLAN", "Group", "Expires", "Ports"], groups.chain(routers).chain(all), 4);
    if status.queriers.is_empty() {
        text += "nobody has been asked yet, all is flooded\n";
    }
    for querier in &status.queriers {
        let who = match (&querier.address, querier.port) {
            (Some(address), Some(port)) if address == "0.0.0.0" => format!("another switch at port {port}"),
            (Some(address), Some(port)) => format!("{} at port {port}", escaped(address)),
            _ => "this switch".to_owned(),
        };
        let until = if querier.filters { "" } else { "; not everybody has been asked yet, all is flooded" };
        text += &format!(
            "{} in VLAN {} is asked for by {who}{until}\n",
            escaped(&querier.family),
            vlan(querier.vlan)
        );
    }
    if status.left_out > 0 {
        text += &format!("and {} more ports, which are left out\n", status.left_out);
    }
    text
}

fn counters(entries: &[CounterStatus]) -> String {
    let mut rows = Vec::new();
    for entry in entries {
        let CounterStatus { port, name, rx, rx_bytes, tx, tx_bytes, marked, copies, unheard, drops } = entry;
        let fixed = [
            ("rx", rx),
            ("rx_bytes", rx_bytes),
            ("tx", tx),
            ("tx_bytes", tx_bytes),
            ("marked", marked),
            ("copies", copies),
            ("unheard", unheard),
        ];
        let fixed = fixed.map(|(counter, &value)| (counter.to_owned(), value));
        let drops: BTreeMap<_, _> =
            drops.iter().map(|(why, &count)| (format!("drop {why}"), count)).collect();
        for (counter, value) in fixed.into_iter().chain(drops).filter(|(_, value)| *value != 0) {
            rows.push(vec![port.to_string(), name.clone(), value.to_string(), counter]);
        }
    }
    listing(&["Port", "Name", "Count", "Counter"], rows.into_iter(), 4)
}

/// A table whose columns from `ours` on vanish when nothing is in them.
pub fn listing(header: &[&str], rows: impl Iterator<Item = Vec<String>>, ours: usize) -> String {
    let header = header.iter().map(|&title| title.to_owned()).collect();
    let rows = std::iter::once(header).chain(rows).collect();
    table(without_empty_columns(rows, ours))
}

fn unless_zero(count: u64) -> String {
    if count == 0 { String::new() } else { count.to_string() }
}
