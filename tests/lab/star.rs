//! A star of hosts round one switch, a port of every kind for each:
//!
//! ```text
//!                          .--------- centre ---------.
//!   host e0 ---- veth ---- bridge -- tap               |
//!   host e0 ---- veth ---- bridge -- tap --no-offload  |
//!   host e0 ---- veth -------------- netdev            |
//!   host e0 = TAP of an edge switch --- classic link --|
//!   host e0 = TAP of an edge switch --- vnet1 link ----'
//! ```
//!
//! A host's `e0` is where it is captured: it shows what the switch gave to the device.

use std::net::IpAddr;

use super::{Host, Link, Switch, join};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Tap,
    /// A TAP with `--no-offload`.
    Plain,
    Netdev,
    Classic,
    Vnet,
}

pub const KINDS: [Kind; 5] = [Kind::Tap, Kind::Plain, Kind::Netdev, Kind::Classic, Kind::Vnet];

impl Kind {
    /// Whether super-frames come in here and go out here whole.
    pub fn is_super(self) -> bool {
        matches!(self, Self::Tap | Self::Netdev | Self::Vnet)
    }

    pub fn is_link(self) -> bool {
        matches!(self, Self::Classic | Self::Vnet)
    }
}

/// Where a VLAN tag is put on and taken off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tagged {
    Never,
    /// In the host, by a switch of its own: the centre's port sees tagged frames.
    Outside,
    /// By the centre's port: it is an access port.
    Inside,
}

pub const VID: u16 = 30;

pub struct Hosts {
    centre: Host,
    /// With the cable of a link.
    pub others: Vec<(Kind, Tagged, Host, Option<Link>)>,
}

impl Hosts {
    pub fn new(others: &[(Kind, Tagged)]) -> Self {
        let quiet = || {
            let host = Host::new();
            // No neighbour discovery of devices that have no address.
            host.ok(&["sysctl", "-qw", "net.ipv6.conf.default.addr_gen_mode=1"]);
            host
        };
        let centre = quiet();
        let other = |(kind, tagged): &(Kind, Tagged)| {
            let host = quiet();
            let link = kind.is_link().then(|| join(&centre, &host));
            (*kind, *tagged, host, link)
        };
        let others = others.iter().map(other).collect();
        Self { centre, others }
    }
}

/// A host with an address, behind a port of the centre.
pub struct Station<'h> {
    pub kind: Kind,
    pub tagged: Tagged,
    pub host: &'h Host,
    pub v4: IpAddr,
    pub v6: IpAddr,
}

pub struct Star<'h> {
    pub centre: Switch<'h>,
    /// The edges' switches and those that tag.
    pub others: Vec<Switch<'h>>,
    pub stations: Vec<Station<'h>>,
}

impl<'h> Star<'h> {
    pub fn new(hosts: &'h Hosts) -> Self {
        let centre = Switch::start(&hosts.centre, &[]);
        let mut star = Self { centre, others: Vec::new(), stations: Vec::new() };
        for (number, (kind, tagged, host, link)) in hosts.others.iter().enumerate() {
            match link {
                None => star.add_device(&hosts.centre, *kind, *tagged, host, number),
                Some(link) => star.add_link(*kind, *tagged, host, link, number),
            }
            let last = number + 1;
            let (v4, v6) = (format!("10.77.0.{last}"), format!("fd77::{last}"));
            let device = if !kind.is_link() && *tagged == Tagged::Outside { "h0" } else { "e0" };
            host.ok(&["ip", "addr", "add", &format!("{v4}/24"), "dev", device]);
            host.ok(&["ip", "addr", "add", &format!("{v6}/64"), "dev", device, "nodad"]);
            let address = |text: String| text.parse().expect("an address");
            star.stations.push(Station {
                kind: *kind,
                tagged: *tagged,
                host,
                v4: address(v4),
                v6: address(v6),
            });
        }
        for station in &star.stations[1..] {
            star.stations[0].host.ping(&station.v4.to_string());
        }
        star
    }

    fn add_device(&mut self, centre: &Host, kind: Kind, tagged: Tagged, host: &'h Host, number: usize) {
        let (port, veth, bridge) = (format!("p{number}"), format!("x{number}"), format!("br{number}"));
        let near = if kind == Kind::Netdev { &port } else { &veth };
        centre.ok(&["ip", "link", "add", near, "type", "veth", "peer", "name", "e0", "netns", host.name()]);
        centre.ok(&["ip", "link", "set", near, "up"]);
        host.ok(&["ip", "link", "set", "e0", "up"]);
        let what = if kind == Kind::Netdev { "netdev" } else { "tap" };
        let mut args = vec!["addport", what, &port];
        args.extend(access(tagged, Tagged::Inside));
        if kind == Kind::Plain {
            args.push("--no-offload");
        }
        self.centre.ctl_ok(&args);
        if kind != Kind::Netdev {
            centre.ok(&["ip", "link", "add", &bridge, "type", "bridge", "mcast_snooping", "0"]);
            for device in [&port, &veth] {
                centre.ok(&["ip", "link", "set", device, "master", &bridge]);
            }
            centre.ok(&["ip", "link", "set", &bridge, "up"]);
        }
        if tagged == Tagged::Outside {
            let switch = Switch::start(host, &["--no-listen"]);
            switch.ctl_ok(&["addport", "netdev", "e0"]);
            switch.ctl_ok(&["addport", "tap", "h0", "--access", &VID.to_string()]);
            self.others.push(switch);
        }
    }

    /// Half of the links are dialled by the edge, half by the centre.
    fn add_link(&mut self, kind: Kind, tagged: Tagged, host: &'h Host, link: &Link, number: usize) {
        let from_edge = tagged != Tagged::Inside;
        let edge = Switch::start(host, if from_edge { &["--no-listen"] } else { &[] });
        edge.ctl_ok(&[&["addport", "tap", "e0"], &access(tagged, Tagged::Outside)[..]].concat());
        let (name, address) = (format!("p{number}"), if from_edge { link.a } else { link.b });
        let url = format!("ws://{address}/");
        let mut args = vec!["addport", "client", &url, "--name", &name];
        args.extend(access(tagged, Tagged::Inside));
        if kind == Kind::Classic {
            args.push("--no-offload");
        }
        let dialler = if from_edge { &edge } else { &self.centre };
        dialler.ctl_ok(&args);
        dialler.wait_state(&name, "up");
        let agreed = dialler.port(&name)["offload"] == "vnet1";
        assert_eq!(agreed, kind == Kind::Vnet, "{}", dialler.port(&name));
        self.others.push(edge);
    }
}

/// The options of a port where the tag is put on.
fn access(tagged: Tagged, here: Tagged) -> Vec<&'static str> {
    if tagged == here { vec!["--access", "30"] } else { vec![] }
}

/// Two of each kind.
pub fn two_of_each(one: Tagged, other: Tagged) -> Vec<(Kind, Tagged)> {
    [one, other].into_iter().flat_map(|tagged| KINDS.map(|kind| (kind, tagged))).collect()
}
