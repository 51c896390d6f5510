//! Whether what is asked for makes sense, before anything is touched. Pure: the kernel and the peer
//! may still refuse. Every message begins with the parameter that is wrong.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::{Addresses, SetPort};
use crate::frame::{MacAddr, Vid, VidSet};
use crate::port::dial::Target;
use crate::port::qemu::Address;
use crate::port::spec::{Congestion, PortChange, PortKind, PortSpec, StormLimit, VlanChange};

/// The least MTU of an interface: what every IPv4 host must take in (RFC 791 3.1), and 1.3's bound.
pub const MIN_MTU: u32 = 576;
/// The kernel refuses more on every device that we have.
pub const MAX_MTU: u32 = 65_535;
/// Seconds between PINGs that can be asked for.
pub const MIN_PING: u32 = 1;
pub const MAX_PING: u32 = 3600;
pub const MAX_CONNECTIONS: u8 = crate::ws::joining::MOST;
/// Longest port name, in bytes.
pub const MAX_PORT_NAME: usize = 63;
/// IFNAMSIZ without its NUL.
pub const MAX_DEVICE_NAME: usize = 15;

/// A port as `addPort` and a `[[port]]` table may ask for it.
pub fn check_spec(spec: &PortSpec) -> Result<(), String> {
    match spec.kind {
        PortKind::Server => {
            return Err(
                "type: server ports come from incoming links (ask for tap, netdev, client or qemu)".into()
            );
        }
        PortKind::Tap | PortKind::Netdev => check_device_name(&spec.target)?,
        PortKind::Client => {
            Target::parse(&spec.target, &spec.options).map_err(|why| format!("target: {why}"))?;
        }
        PortKind::Qemu => {
            Address::of(&spec.target, &spec.options).map_err(|why| format!("target: {why}"))?;
        }
    }
    spec.name.as_deref().map_or(Ok(()), check_port_name)?;
    check_vlan(spec.access, spec.trunk.as_ref(), spec.native)?;
    check_guards(&spec.macs, spec.rate, spec.storm, spec.max_macs)?;
    if matches!(spec.kind, PortKind::Client | PortKind::Qemu) {
        let given =
            [("address", !spec.address.is_empty()), ("mtu", spec.mtu.is_some()), ("mac", spec.mac.is_some())];
        if let Some((field, _)) = given.iter().find(|(_, given)| *given) {
            return Err(format!("{field}: a {} port has no interface to set it on", spec.kind));
        }
    }
    if !spec.options.fit(spec.kind) {
        return Err(match spec.kind {
            PortKind::Client => "options: connect and anonymous are for qemu ports".to_owned(),
            PortKind::Qemu => "options: a qemu port has connect and anonymous alone".to_owned(),
            kind => format!("options: a {kind} port has none; only client and qemu ports have"),
        });
    }
    if spec.kind != PortKind::Client && spec.congestion != Congestion::System {
        return Err(format!("congestion: a {} port has none; only a client link has", spec.kind));
    }
    if spec.kind != PortKind::Client && spec.pace.is_some() {
        return Err(format!("pace: a {} port has none; only a link has", spec.kind));
    }
    check_pace(spec.pace)?;
    if spec.persist && spec.kind != PortKind::Tap {
        return Err(format!("persist: a {} port is no TAP; only a TAP can outlive its port", spec.kind));
    }
    if let Some(bridge) = &spec.bridge {
        if spec.kind != PortKind::Tap {
            return Err(format!("bridge: a {} port is no TAP; only a TAP is put into one", spec.kind));
        }
        check_device_name(bridge).map_err(|why| why.replacen("target: ", "bridge: ", 1))?;
    }
    spec.options.ping.map_or(Ok(()), check_ping)?;
    spec.options.connections.map_or(Ok(()), check_connections)?;
    spec.mtu.map_or(Ok(()), check_mtu)?;
    spec.mac.map_or(Ok(()), check_mac)?;
    spec.address.iter().try_for_each(check_address)
}

/// `setPort`'s change; an error when its parts contradict each other.
pub fn port_change(set: SetPort) -> Result<PortChange, String> {
    set.name.as_deref().map_or(Ok(()), check_port_name)?;
    let ruled = set.access.is_some() || set.trunk.is_some() || set.native.is_some();
    let vlan = match set.transparent {
        Some(true) if ruled => {
            return Err("transparent: excludes access, trunk and native".into());
        }
        Some(true) => Some(VlanChange::default()),
        _ if ruled => {
            check_vlan(set.access, set.trunk.as_ref(), set.native)?;
            Some(VlanChange { access: set.access, trunk: set.trunk, native: set.native })
        }
        _ => None,
    };
    // Here 0 takes a limit away; in a spec, absence does.
    let nonzero = |limit: u64| Some(limit).filter(|limit| *limit != 0);
    let rate = set.rate.map(nonzero);
    let max_macs = set.max_macs.map(|most| Some(most).filter(|most| *most != 0));
    check_guards(set.macs.as_deref().unwrap_or_default(), None, set.storm.unwrap_or_default(), None)?;
    Ok(PortChange {
        shut: set.shut,
        name: set.name,
        vlan,
        isolated: set.isolated,
        bpdu: set.bpdu,
        macs: set.macs,
        ethertypes: set.ethertypes,
        rate,
        storm: set.storm,
        max_macs,
        loop_guard: set.loop_guard,
        congestion: set.congestion,
        pace: set.pace.map(nonzero),
    })
}

/// What a port is guarded by.
pub fn check_guards(
    macs: &[MacAddr],
    rate: Option<u64>,
    storm: StormLimit,
    max_macs: Option<u32>,
) -> Result<(), String> {
    if let Some(mac) = macs.iter().find(|mac| mac.is_group() || mac.is_zero()) {
        return Err(format!("macs: {mac} cannot be a source address"));
    }
    if rate == Some(0) {
        return Err("rate: 0 bits a second lets nothing in; leave it out for no limit".into());
    }
    if max_macs == Some(0) {
        return Err("max_macs: 0 stations let nothing in; leave it out for the switch's limit".into());
    }
    storm.check().map_err(|why| format!("storm: {why}"))
}

/// What a link is paced to.
pub fn check_pace(pace: Option<u64>) -> Result<(), String> {
    if pace == Some(0) {
        return Err("pace: 0 bits a second let nothing out; leave it out for no limit".into());
    }
    Ok(())
}

/// `setInterface`'s addresses with their prefix lengths. `current` is the interface's first IPv4
/// address, which a netmask given alone applies to.
pub fn addresses(
    asked: Option<&Addresses>,
    netmask: Option<&str>,
    current: Option<Ipv4Addr>,
) -> Result<Vec<IpNet>, String> {
    let mask = netmask.map(parse_netmask).transpose()?;
    let Some(Addresses(asked)) = asked else {
        let Some(mask) = mask else { return Ok(Vec::new()) };
        let address = current.ok_or("netmask: the interface has no IPv4 address (give address too)")?;
        return Ok(vec![with_mask(address.into(), mask)?]);
    };
    if asked.is_empty() {
        return Err("address: an empty list (name at least one address)".into());
    }
    if mask.is_some() && asked.len() > 1 {
        return Err("netmask: needs exactly one address (write the others A/LEN)".into());
    }
    let nets = asked.iter().map(|text| parse_address(text, mask)).collect::<Result<Vec<_>, _>>()?;
    nets.iter().try_for_each(check_address)?;
    Ok(nets)
}

/// 576 to 65535.
pub fn check_mtu(mtu: u32) -> Result<(), String> {
    match mtu {
        MIN_MTU..=MAX_MTU => Ok(()),
        _ => Err(format!("mtu: {mtu} is out of range ({MIN_MTU} to {MAX_MTU})")),
    }
}

/// 1 to 3600 s.
fn check_ping(ping: u32) -> Result<(), String> {
    match ping {
        MIN_PING..=MAX_PING => Ok(()),
        _ => Err(format!("options: ping of {ping} s is out of range ({MIN_PING} to {MAX_PING})")),
    }
}

/// 1 to 16.
fn check_connections(count: u8) -> Result<(), String> {
    match count {
        1..=MAX_CONNECTIONS => Ok(()),
        _ => Err(format!("options: {count} connections are out of range (1 to {MAX_CONNECTIONS})")),
    }
}

/// A station's own address: neither zero nor a group's.
pub fn check_mac(mac: MacAddr) -> Result<(), String> {
    match mac {
        mac if mac.is_zero() => Err(format!("mac: {mac} is no station's address")),
        mac if mac.is_group() => Err(format!("mac: {mac} is a group address")),
        _ => Ok(()),
    }
}

/// 0 (untagged) to 4094.
pub fn check_vid(vid: u16) -> Result<(), String> {
    match vid {
        0..=4094 => Ok(()),
        _ => Err(format!("vid: {vid} is out of range (1 to 4094; 0 is untagged)")),
    }
}

/// What the kernel takes as a device name (dev_valid_name), less its `%d` templates, control
/// characters and non-ASCII.
pub fn check_device_name(name: &str) -> Result<(), String> {
    let why = match name {
        "" => "is empty".to_owned(),
        "." | ".." => "is no device name".to_owned(),
        _ if name.len() > MAX_DEVICE_NAME => format!("is longer than {MAX_DEVICE_NAME} bytes"),
        _ => match name.chars().find(|c| !c.is_ascii_graphic() || matches!(c, '/' | ':' | '%')) {
            Some(c) => format!("has {c:?} in it"),
            None => return Ok(()),
        },
    };
    Err(format!("target: device name {name:?} {why}"))
}

/// What can be typed and not be taken for something else: ASCII, neither a number nor an option.
pub fn check_port_name(name: &str) -> Result<(), String> {
    let why = if name.is_empty() {
        "is empty".to_owned()
    } else if name.len() > MAX_PORT_NAME {
        format!("is longer than {MAX_PORT_NAME} bytes")
    } else if name.bytes().all(|b| b.is_ascii_digit()) {
        "could be taken for a port number".to_owned()
    } else if name.starts_with('-') {
        "could be taken for an option".to_owned()
    } else {
        match name.chars().find(|c| !c.is_ascii_alphanumeric() && !"._-:@".contains(*c)) {
            Some(c) => format!("has {c:?} in it (letters, digits and ._-:@ may be)"),
            None => return Ok(()),
        }
    };
    Err(format!("name: {name:?} {why}"))
}

fn check_vlan(access: Option<Vid>, trunk: Option<&VidSet>, native: Option<Vid>) -> Result<(), String> {
    match (access, trunk, native) {
        (Some(_), Some(_), _) => Err("access: excludes trunk (a port is one or the other)".into()),
        (Some(_), None, Some(_)) => {
            Err("native: excludes access (it is the VLAN of a trunk's untagged frames)".into())
        }
        (None, None, Some(_)) => Err("native: needs trunk".into()),
        _ => Ok(()),
    }
}

fn check_address(net: &IpNet) -> Result<(), String> {
    let address = net.addr();
    let broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
    if address.is_unspecified() || address.is_multicast() || broadcast {
        return Err(format!("address: {address} is no host's address"));
    }
    Ok(())
}

fn parse_netmask(text: &str) -> Result<Ipv4Addr, String> {
    text.parse().map_err(|_| format!("netmask: {text:?} is not a dotted quad (like 255.255.255.0)"))
}

fn parse_address(text: &str, mask: Option<Ipv4Addr>) -> Result<IpNet, String> {
    let wrong = || format!("address: {text:?} is not an address (expected A, or A/LEN)");
    if text.contains('/') {
        let net = text.parse::<IpNet>().map_err(|_| wrong())?;
        return match mask {
            Some(_) => Err(format!("netmask: {text:?} has its prefix length already")),
            None => Ok(net),
        };
    }
    match (text.parse().map_err(|_| wrong())?, mask) {
        (address, Some(mask)) => with_mask(address, mask),
        (IpAddr::V4(address), None) => {
            let prefix =
                class_prefix(address).ok_or_else(|| format!("address: {address} is no host's address"))?;
            IpNet::new(address.into(), prefix).map_err(|_| wrong())
        }
        (IpAddr::V6(_), None) => Err(format!("address: {text:?} needs a prefix length (like {text}/64)")),
    }
}

fn with_mask(address: IpAddr, mask: Ipv4Addr) -> Result<IpNet, String> {
    if address.is_ipv6() {
        return Err(format!("netmask: {mask} does not fit {address} (write {address}/LEN)"));
    }
    IpNet::with_netmask(address, mask.into()).map_err(|_| format!("netmask: {mask} has a hole in it"))
}

/// The prefix length that SIOCSIFADDR gave 1.3's users (inet_abc_len in the kernel's devinet.c).
fn class_prefix(address: Ipv4Addr) -> Option<u8> {
    match address.octets()[0] {
        1..=127 => Some(8),
        128..=191 => Some(16),
        192..=223 => Some(24),
        _ => None,
    }
}

/// A URL, or any other target, as it may be shown: user information, and the values of query
/// parameters that name a secret, left out.
pub fn without_credentials(target: &str) -> String {
    let Some((scheme, rest)) = target.split_once("://") else { return target.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let Some((path, query)) = tail.split_once('?') else { return format!("{scheme}://{host}{tail}") };
    let (query, fragment) = query.split_at(query.find('#').unwrap_or(query.len()));
    let shown: Vec<String> = query
        .split('&')
        .map(|pair| match pair.split_once('=') {
            Some((key, _)) if is_secret(key) => format!("{key}=***"),
            _ => pair.to_owned(),
        })
        .collect();
    format!("{scheme}://{host}{path}?{}{fragment}", shown.join("&"))
}

fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    ["token", "passw", "secret"].iter().any(|word| key.contains(word))
        || ["auth", "key", "pass", "pwd"].contains(&key.as_str())
}

/// serde's "unknown field `taget`, expected one of ..." with the likely word in the list's place;
/// other messages unchanged.
pub fn did_you_mean(message: &str) -> String {
    for kind in ["unknown field `", "unknown variant `"] {
        let Some(start) = message.find(kind).map(|at| at + kind.len()) else { continue };
        let Some(length) = message[start..].rfind("`, expected ") else { continue };
        let (wrong, list) = message[start..].split_at(length);
        let candidates = list["`, expected ".len()..].split('`').skip(1).step_by(2);
        let best = candidates
            .map(|word| (strsim::damerau_levenshtein(&wrong.to_lowercase(), word), word))
            .filter(|(distance, word)| *distance <= 1 + word.len() / 4)
            .min_by_key(|(distance, _)| *distance);
        if let Some((_, word)) = best {
            return format!("{}{wrong}` (did you mean `{word}`?)", &message[..start]);
        }
    }
    message.to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(value: serde_json::Value) -> PortSpec {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn ports_that_make_sense_pass() {
        for value in [
            json!({"type": "tap", "target": "tap0"}),
            json!({"type": "tap", "target": "abcdefghijklmno", "persist": true, "mtu": 576, "address": ["192.0.2.1/24", "2001:db8::1/64"]}),
            json!({"type": "netdev", "target": "eth0.10", "name": "up-link.1:a@b_", "access": 10}),
            json!({"type": "netdev", "target": "eth0", "trunk": "1-5", "native": 1, "mac": "02:00:00:00:00:01"}),
            json!({"type": "client", "target": "wss://u:p@host:8443/x", "options": {"insecure": true}}),
            json!({"type": "qemu", "target": "unix:/run/etherws/vms.sock", "access": 10}),
            json!({"type": "qemu", "target": "tcp:192.0.2.1:5000", "options": {"connect": true}}),
            json!({"type": "qemu", "target": "tcp:192.0.2.1:5000", "options": {"anonymous": true}}),
        ] {
            assert_eq!(check_spec(&spec(value.clone())), Ok(()), "{value}");
        }
    }

    #[test]
    fn bad_55_ports_that_make_no_sense_are_refused_by_field() {
        let mut table = vec![
            (json!({"type": "server", "target": "x"}), "type: "),
            (json!({"type": "tap", "target": "t", "access": 1, "trunk": "2"}), "access: "),
            (json!({"type": "tap", "target": "t", "access": 1, "native": 2}), "native: "),
            (json!({"type": "tap", "target": "t", "native": 2}), "native: "),
            (json!({"type": "client", "target": "ws://h", "options": {"ping": 3601}}), "options: ping"),
            (json!({"type": "client", "target": "ws://h", "options": {"connections": 0}}), "options: 0 conn"),
            (
                json!({"type": "client", "target": "ws://h", "options": {"connections": 17}}),
                "options: 17 conn",
            ),
            (json!({"type": "tap", "target": "t", "options": {"connections": 2}}), "options: a tap port"),
            (json!({"type": "tap", "target": "t", "mtu": 575}), "mtu: "),
            (json!({"type": "tap", "target": "t", "mtu": 65_536}), "mtu: "),
            (json!({"type": "tap", "target": "t", "mac": "01:00:00:00:00:01"}), "mac: "),
            (json!({"type": "tap", "target": "t", "mac": "00:00:00:00:00:00"}), "mac: "),
            (json!({"type": "tap", "target": "t", "address": ["224.0.0.1/24"]}), "address: "),
            (json!({"type": "tap", "target": "t", "address": ["::/64"]}), "address: "),
            (json!({"type": "tap", "target": "t", "options": {"user": "u"}}), "options: "),
            (json!({"type": "tap", "target": "t", "macs": ["01:00:5e:00:00:01"]}), "macs: "),
            (json!({"type": "tap", "target": "t", "rate": 0}), "rate: "),
            (json!({"type": "tap", "target": "t", "max_macs": 0}), "max_macs: "),
            (json!({"type": "tap", "target": "t", "pace": 8000}), "pace: "),
            (json!({"type": "client", "target": "ws://h", "pace": 0}), "pace: "),
            (json!({"type": "tap", "target": "t", "storm": {"unknown": 0}}), "storm: unknown: "),
            (json!({"type": "netdev", "target": "t", "persist": true}), "persist: "),
            (json!({"type": "netdev", "target": "t", "bridge": "br0"}), "bridge: "),
            (json!({"type": "tap", "target": "t", "bridge": "a/b"}), "bridge: "),
            (json!({"type": "tap", "target": "t", "bridge": ""}), "bridge: "),
            (json!({"type": "client", "target": "ws://h", "mtu": 1500}), "mtu: "),
            (json!({"type": "client", "target": "ws://h", "persist": true}), "persist: "),
            (json!({"type": "client", "target": "http://h"}), "target: "),
            (json!({"type": "client", "target": "ws://h", "options": {"connect": true}}), "options: connect"),
            (json!({"type": "qemu", "target": "vms"}), "target: "),
            (json!({"type": "qemu", "target": "tcp:0.0.0.0:5000"}), "target: "),
            (json!({"type": "qemu", "target": "tcp:5000", "options": {"insecure": true}}), "options: "),
            (json!({"type": "qemu", "target": "tcp:5000", "mtu": 1500}), "mtu: "),
            (json!({"type": "qemu", "target": "tcp:5000", "persist": true}), "persist: "),
            (json!({"type": "client", "target": "ws://"}), "target: "),
            (json!({"type": "client", "target": "ws://h", "options": {"passwd": "s3cret"}}), "target: "),
        ];
        for name in ["", ".", "..", "../x", "a/b", "a%d", "a b", "a\0b", "a:b", "é", "abcdefghijklmnop"] {
            table.push((json!({"type": "tap", "target": name}), "target: "));
        }
        for name in ["", "7", "-x", "a b", "é", "a+b", "../x", "a%d", "a\0", "\u{1b}[2J", &"x".repeat(64)] {
            table.push((json!({"type": "tap", "target": "t", "name": name}), "name: "));
        }
        for (value, start) in table {
            let why = check_spec(&spec(value.clone())).expect_err(&value.to_string());
            assert!(why.starts_with(start), "{value}: {why}");
            assert!(!why.contains("s3cret") && !why.chars().any(char::is_control), "{value}: {why}");
        }
    }

    #[test]
    fn a_change_of_vlan_replaces_the_rule() {
        let set = |value| serde_json::from_value::<SetPort>(value).unwrap();
        let vlan = |value| port_change(set(value)).map(|change| change.vlan);
        let vid = Vid::new;
        assert_eq!(vlan(json!({"port": 1, "shut": true})), Ok(None));
        assert_eq!(vlan(json!({"port": 1, "transparent": false})), Ok(None));
        assert_eq!(vlan(json!({"port": 1, "transparent": true})), Ok(Some(VlanChange::default())));
        let access = VlanChange { access: vid(10), ..VlanChange::default() };
        assert_eq!(vlan(json!({"port": 1, "access": 10})), Ok(Some(access)));
        for wrong in [
            json!({"port": 1, "access": 1, "trunk": "2"}),
            json!({"port": 1, "native": 1}),
            json!({"port": 1, "transparent": true, "access": 1}),
            json!({"port": 1, "name": "12"}),
        ] {
            assert!(port_change(set(wrong.clone())).is_err(), "{wrong}");
        }
    }

    #[test]
    fn addresses_and_netmasks_become_prefixes() {
        let list = |texts: &[&str]| Addresses(texts.iter().map(|&text| text.to_owned()).collect());
        let current = Some(Ipv4Addr::new(192, 0, 2, 9));
        // (address, netmask) and what they come to, or how the refusal begins.
        type Row = (
            Option<&'static [&'static str]>,
            Option<&'static str>,
            Result<&'static [&'static str], &'static str>,
        );
        let table: &[Row] = &[
            (None, None, Ok(&[])),
            (Some(&["192.0.2.1"]), Some("255.255.255.128"), Ok(&["192.0.2.1/25"])),
            (Some(&["192.0.2.1/26"]), None, Ok(&["192.0.2.1/26"])),
            (Some(&["192.0.2.1/24", "2001:db8::1/64"]), None, Ok(&["192.0.2.1/24", "2001:db8::1/64"])),
            // As SIOCSIFADDR did for 1.3.
            (Some(&["10.0.0.1"]), None, Ok(&["10.0.0.1/8"])),
            (Some(&["172.16.0.1"]), None, Ok(&["172.16.0.1/16"])),
            (Some(&["192.168.0.1"]), None, Ok(&["192.168.0.1/24"])),
            (None, Some("255.255.0.0"), Ok(&["192.0.2.9/16"])),
            (Some(&["192.0.2.1"]), Some("255.0.255.0"), Err("netmask: ")),
            (Some(&["192.0.2.1"]), Some("24"), Err("netmask: ")),
            (Some(&["192.0.2.1/24"]), Some("255.255.255.0"), Err("netmask: ")),
            (Some(&["192.0.2.1", "192.0.2.2"]), Some("255.255.255.0"), Err("netmask: ")),
            (Some(&["2001:db8::1"]), Some("255.255.255.0"), Err("netmask: ")),
            (Some(&["2001:db8::1"]), None, Err("address: ")),
            (Some(&["0.0.0.0"]), None, Err("address: ")),
            (Some(&["255.255.255.255"]), Some("255.0.0.0"), Err("address: ")),
            (Some(&["224.0.0.1/4"]), None, Err("address: ")),
            (Some(&["192.0.2.1/33"]), None, Err("address: ")),
            (Some(&["host"]), None, Err("address: ")),
            (Some(&[]), None, Err("address: ")),
        ];
        for (asked, mask, expected) in table {
            let got = addresses(asked.map(list).as_ref(), *mask, current);
            match expected {
                Ok(nets) => {
                    let got: Vec<_> = got.unwrap().iter().map(ToString::to_string).collect();
                    assert_eq!(got, *nets, "{asked:?} {mask:?}");
                }
                Err(start) => {
                    assert!(got.clone().unwrap_err().starts_with(start), "{asked:?} {mask:?}: {got:?}")
                }
            }
        }
        assert!(addresses(None, Some("255.0.0.0"), None).unwrap_err().contains("give address"));
    }

    #[test]
    fn bad_58_targets_show_no_credentials() {
        for (target, shown) in [
            ("tap0", "tap0"),
            ("ws://h/p", "ws://h/p"),
            ("wss://user:s3cret@h:1/p?a=b", "wss://h:1/p?a=b"),
            ("wss://u:p@x@h/", "wss://h/"),
            ("wss://h?token=s3cret", "wss://h?token=***"),
            ("wss://h/p@q?a=1&access_token=s3cret&b=2#f", "wss://h/p@q?a=1&access_token=***&b=2#f"),
        ] {
            assert_eq!(without_credentials(target), shown);
            assert_eq!(without_credentials(shown), shown, "twice is as once");
        }
    }

    #[test]
    fn the_likely_word_is_offered() {
        let error = |text| did_you_mean(&serde_json::from_str::<PortSpec>(text).unwrap_err().to_string());
        let text = error(r#"{"type":"tap","taget":"x"}"#);
        assert_eq!(text, "unknown field `taget` (did you mean `target`?)");
        assert!(error(r#"{"type":"clinet","target":"x"}"#).contains("did you mean `client`?"));
        let text = error(r#"{"type":"tap","quux`, expected `":"x"}"#);
        assert!(text.contains("expected one of `type`"), "{text}");
        assert_eq!(
            did_you_mean("unknown field `a`, there are no fields"),
            "unknown field `a`, there are no fields"
        );
    }
}
