//! What is wrong with a port or profile although each of its values is of the right kind.

use crate::control::api::{
    self,
    check::{check_device_name, check_port_name},
};
use crate::frame::MacAddr;
use crate::port::dial::Target;
use crate::port::qemu::Address;
use crate::port::spec::{Congestion, LinkOptions, PortKind, PortSpec, StormLimit};

/// Everything wrong with a port: `(key, why)`.
pub fn check_port(spec: &PortSpec) -> Vec<(&'static str, String)> {
    let mut wrong = Vec::new();
    let device = matches!(spec.kind, PortKind::Tap | PortKind::Netdev);
    match spec.kind {
        PortKind::Server => wrong.push((
            "type",
            "a server port comes from an incoming link; expected tap, netdev, client or qemu".to_owned(),
        )),
        PortKind::Client => {
            wrong.extend(Target::parse(&spec.target, &spec.options).err().map(|why| ("target", why)))
        }
        PortKind::Qemu => {
            wrong.extend(Address::of(&spec.target, &spec.options).err().map(|why| ("target", why)));
        }
        PortKind::Tap | PortKind::Netdev => {
            let name = check_device_name(&spec.target).map_err(|why| unprefixed(&why, "target"));
            wrong.extend(name.err().map(|why| ("target", why)));
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
    only(spec.kind != PortKind::Tap && spec.bridge.is_some(), "bridge", "tap");
    only(device && spec.options != LinkOptions::default(), "options", "client and qemu");
    only(spec.kind != PortKind::Client && spec.congestion != Congestion::System, "congestion", "client");
    wrong.extend(check_guards(&spec.macs, spec.rate, spec.storm, spec.max_macs));
    // What addPort would refuse of the rest, so that a file and a request are measured alike.
    if wrong.is_empty()
        && let Err(why) = api::check_spec(spec)
    {
        let keys = ["target", "name", "bridge", "address", "mtu", "mac", "options"];
        wrong.push(match why.split_once(": ") {
            Some((key, why)) if let Some(key) = keys.iter().find(|known| **known == key) => {
                (*key, why.to_owned())
            }
            _ => ("target", why),
        });
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

/// What is wrong with what a port or profile is guarded by.
pub fn check_guards(
    macs: &[MacAddr],
    rate: Option<u64>,
    storm: StormLimit,
    max_macs: Option<u32>,
) -> Option<(&'static str, String)> {
    let why = api::check::check_guards(macs, rate, storm, max_macs).err()?;
    let key = ["macs", "rate", "storm", "max_macs"].into_iter().find(|key| why.starts_with(key))?;
    Some((key, unprefixed(&why, key)))
}

/// A port's name must not be taken for a number or an option, and must fit in a table.
pub fn check_name(name: &str) -> Result<(), String> {
    check_port_name(name).map_err(|why| unprefixed(&why, "name"))
}

/// The parameter's name stands before the message already.
fn unprefixed(why: &str, key: &str) -> String {
    why.strip_prefix(key).and_then(|why| why.strip_prefix(": ")).unwrap_or(why).to_owned()
}
