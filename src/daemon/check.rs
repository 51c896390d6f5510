//! What is wrong with a port or profile although each of its values is of the right kind.

use crate::port::dial::Target;
use crate::port::spec::{LinkOptions, PortKind, PortSpec};

/// Everything wrong with a port: `(key, why)`.
pub fn check_port(spec: &PortSpec) -> Vec<(&'static str, String)> {
    let mut wrong = Vec::new();
    let device = matches!(spec.kind, PortKind::Tap | PortKind::Netdev);
    match spec.kind {
        PortKind::Server => wrong.push((
            "type",
            "a server port comes from an incoming link; expected tap, netdev or client".to_owned(),
        )),
        PortKind::Client => {
            wrong.extend(Target::parse(&spec.target, &spec.options).err().map(|why| ("target", why)))
        }
        PortKind::Tap | PortKind::Netdev => {
            wrong.extend(check_device(&spec.target).err().map(|why| ("target", why)));
        }
    }
    if let Some(name) = &spec.name {
        wrong.extend(check_name(name).err().map(|why| ("name", why)));
    }
    wrong.extend(check_vlan(spec.access.is_some(), spec.trunk.is_some(), spec.native.is_some()));
    let mut only = |given: bool, key, kinds: &str| {
        if given {
            wrong.push((key, format!("not for a {} port, only for {kinds}", spec.kind)));
        }
    };
    only(!device && !spec.address.is_empty(), "address", "tap and netdev");
    only(!device && spec.mtu.is_some(), "mtu", "tap and netdev");
    only(!device && spec.mac.is_some(), "mac", "tap and netdev");
    only(spec.kind != PortKind::Tap && spec.persist, "persist", "tap");
    only(device && spec.options != LinkOptions::default(), "options", "client");
    if let Some(mtu) = spec.mtu.filter(|mtu| !(576..=65_535).contains(mtu)) {
        wrong.push(("mtu", format!("{mtu} is out of range (expected 576 to 65535)")));
    }
    if let Some(mac) = spec.mac.filter(|mac| mac.is_group() || mac.is_zero()) {
        wrong.push(("mac", format!("{mac} cannot be a device's own address")));
    }
    if spec.options.ping.is_some_and(|ping| !(1..=3600).contains(&ping)) {
        wrong.push(("options", "ping out of range (expected 1 to 3600)".to_owned()));
    }
    wrong
}

/// Two specs for one and the same device or link.
pub fn same_line(a: &PortSpec, b: &PortSpec) -> bool {
    let client = |spec: &PortSpec| spec.kind == PortKind::Client;
    a.target == b.target
        && client(a) == client(b)
        && (a.options.user == b.options.user && a.options.token == b.options.token)
}

/// What is wrong with a VLAN rule of which these parts are given.
pub fn check_vlan(access: bool, trunk: bool, native: bool) -> Option<(&'static str, String)> {
    if access && trunk {
        Some(("access", "access and trunk exclude each other".to_owned()))
    } else if native && !trunk {
        Some(("native", "only with trunk (an access port's VLAN is access)".to_owned()))
    } else {
        None
    }
}

/// As the kernel's `dev_valid_name`, and without `%`, which it would take for a pattern.
fn check_device(name: &str) -> Result<(), String> {
    let fine = (1..16).contains(&name.len())
        && name != "."
        && name != ".."
        && !name.contains(|c: char| c.is_whitespace() || c.is_control() || "/:%".contains(c));
    if fine {
        return Ok(());
    }
    Err(format!("{name:?} is not a device name (expected 1 to 15 bytes without space, '/', ':' or '%')"))
}

/// A port's name must not be taken for a number, and must fit in a table.
pub fn check_name(name: &str) -> Result<(), String> {
    let fine = (1..=64).contains(&name.len())
        && name.parse::<u64>().is_err()
        && !name.contains(|c: char| c.is_whitespace() || c.is_control());
    if fine {
        return Ok(());
    }
    Err(format!("{name:?} is not a port name (expected 1 to 64 bytes without space, and not a number)"))
}
