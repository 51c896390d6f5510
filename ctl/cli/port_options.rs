//! What is said of a port and its device or link: options of `addport`, `setport` and `setif`.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCandidates;
use etherws::control::api::check::{MAX_CONNECTIONS, MAX_MTU, MAX_PING, MIN_MTU, MIN_PING};
use etherws::control::api::{Bpdu, Congestion, EtherType, MacAddr, PortRef, StormLimit, Vid, VidSet};
use ipnet::IpNet;

use super::port;
use crate::complete::ports;

#[derive(Subcommand, Debug)]
pub enum AddPort {
    /// Create a TAP device, or attach a persistent one.
    #[command(infer_long_args = true)]
    Tap {
        /// Device name.
        target: String,
        #[command(flatten)]
        port: PortArgs,
        #[command(flatten)]
        interface: InterfaceArgs,
        /// The TAP outlives its port and the switch.
        #[arg(long, help_heading = "Device or link")]
        persist: bool,
        /// Put it into this Linux bridge, now and whenever it is made anew.
        #[arg(long, value_name = "BR", help_heading = "Device or link")]
        bridge: Option<String>,
    },
    /// Attach a network device.
    #[command(infer_long_args = true)]
    Netdev {
        /// Device name.
        target: String,
        #[command(flatten)]
        port: PortArgs,
        #[command(flatten)]
        interface: InterfaceArgs,
    },
    /// Keep a WebSocket link to another switch.
    #[command(infer_long_args = true)]
    Client {
        /// ws:// or wss:// URL.
        target: String,
        #[command(flatten)]
        port: PortArgs,
        /// Congestion control of the connection, such as bbr [default: the system's].
        #[arg(long, value_name = "NAME", help_heading = "Device or link")]
        congestion: Option<Congestion>,
        /// Bits a second sent over the link at most; what is more waits.
        #[arg(long, value_name = "BITS", help_heading = "Device or link")]
        pace: Option<u64>,
        #[command(flatten)]
        link: LinkArgs,
    },
    /// Listen for virtual machines (QEMU's -netdev stream), each of which becomes a port, or dial one.
    #[command(infer_long_args = true)]
    Qemu {
        /// unix:PATH, tcp:PORT (on 127.0.0.1) or tcp:ADDRESS:PORT.
        target: String,
        #[command(flatten)]
        port: PortArgs,
        /// Dial a QEMU that listens there (server=on), again and again, instead of listening.
        #[arg(long, help_heading = "Device or link")]
        connect: bool,
        /// Listen where other hosts reach it, although nobody is asked who he is.
        #[arg(long, conflicts_with = "connect", help_heading = "Device or link")]
        anonymous: bool,
    },
}

#[derive(Args, Debug)]
pub struct PortArgs {
    /// Stable name, usable wherever a port number is.
    #[arg(long)]
    pub name: Option<String>,
    /// Add it administratively down.
    #[arg(long)]
    pub shut: bool,
    #[command(flatten)]
    pub vlan: VlanArgs,
    /// Exchange no frames with other isolated ports.
    #[arg(long)]
    pub isolated: bool,
    /// What to do with reserved multicast, 01:80:c2:00:00:0x [default: drop].
    #[arg(long, value_parser = bpdu())]
    pub bpdu: Option<Bpdu>,
    #[command(flatten)]
    pub guard: GuardArgs,
    /// Do not look for loops through this port.
    #[arg(long)]
    pub no_loop_guard: bool,
    /// No super-frames to and from the device, or over the link.
    #[arg(long, help_heading = "Device or link")]
    pub no_offload: bool,
}

#[derive(Args, Debug)]
pub struct VlanArgs {
    /// Untagged frames only, all in this VLAN.
    #[arg(long, value_name = "VID", conflicts_with_all = ["trunk", "native"])]
    pub access: Option<Vid>,
    /// Tagged frames of these VLANs only (10,20-29).
    #[arg(long, value_name = "VIDS")]
    pub trunk: Option<VidSet>,
    /// The VLAN of a trunk's untagged frames.
    #[arg(long, value_name = "VID", requires = "trunk")]
    pub native: Option<Vid>,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "What is let in")]
pub struct GuardArgs {
    /// Bits a second from this port; 0 is no limit.
    #[arg(long, value_name = "BITS")]
    pub rate: Option<u64>,
    /// Frames a second that go to many: off, default or broadcast=N,multicast=N,unknown=N.
    #[arg(long, value_name = "LIMIT")]
    pub storm: Option<StormLimit>,
    /// Stations learned here at most; 0 is the switch's limit.
    #[arg(long, value_name = "N")]
    pub max_macs: Option<u32>,
    /// Source addresses let in, separated by commas, or all.
    #[arg(long, value_name = "MACS", value_parser = words::<MacAddr>)]
    pub macs: Option<Words<MacAddr>>,
    /// EtherTypes let in (arp,ipv4,ipv6,0x88cc), or all.
    #[arg(long, value_name = "TYPES", value_parser = words::<EtherType>)]
    pub ethertypes: Option<Words<EtherType>>,
}

/// What stands between commas; `all` is nothing.
#[derive(Clone, Debug)]
pub struct Words<T>(pub Vec<T>);

#[derive(Args, Debug)]
#[command(next_help_heading = "Device or link")]
pub struct InterfaceArgs {
    /// Address with prefix length, IPv4 or IPv6 (repeatable).
    #[arg(long, value_name = "A/LEN", value_parser = prefixed)]
    pub address: Vec<IpNet>,
    /// 576 to 65535.
    #[arg(long, value_parser = mtu())]
    pub mtu: Option<u32>,
    /// The device's MAC address.
    #[arg(long)]
    pub mac: Option<MacAddr>,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Device or link")]
pub struct LinkArgs {
    /// User name at the other switch.
    #[arg(long)]
    pub user: Option<String>,
    /// Its password; asked for on the terminal when missing (arguments show in `ps`).
    #[arg(long, value_name = "PASSWORD", requires = "user")]
    pub passwd: Option<String>,
    /// File on the switch's host whose first line is the password; read at each connection.
    #[arg(long, value_name = "FILE", requires = "user", conflicts_with = "passwd")]
    pub passwd_file: Option<PathBuf>,
    /// Bearer token, instead of user and password.
    #[arg(long, conflicts_with = "user")]
    pub token: Option<String>,
    /// PEM file with the CAs, or the very certificate, to trust instead of the system's roots; read here.
    #[arg(long, value_name = "FILE")]
    pub cacerts: Option<PathBuf>,
    /// Do not check the other switch's certificate.
    #[arg(long)]
    pub insecure: bool,
    /// PEM file with the client certificate chain; read here.
    #[arg(long, value_name = "FILE", requires = "key")]
    pub cert: Option<PathBuf>,
    /// PEM file with its key; read here.
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// http:// or socks5:// URL, or none [default: the switch's environment].
    #[arg(long, value_name = "URL")]
    pub proxy: Option<String>,
    /// Seconds without received data before a PING [default: 15].
    #[arg(long, value_name = "SEC", value_parser = clap::value_parser!(u32).range(i64::from(MIN_PING)..=i64::from(MAX_PING)))]
    pub ping: Option<u32>,
    /// WebSocket connections that the link is made of: one for what sends little, the others for what sends much
    /// [default: 1].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=i64::from(MAX_CONNECTIONS)))]
    pub connections: Option<u8>,
}

#[derive(Args, Debug)]
pub struct SetPort {
    /// Number or name.
    #[arg(value_parser = port, add = ArgValueCandidates::new(ports))]
    pub port: PortRef,
    /// Administratively down (1) or up (0).
    #[arg(long, value_name = "0|1", hide_possible_values = true, value_parser = zero_or_one())]
    pub shut: Option<bool>,
    /// New name.
    #[arg(long)]
    pub name: Option<String>,
    #[command(flatten)]
    pub vlan: VlanArgs,
    /// Drop the VLAN rule: every frame passes as it is.
    #[arg(long, conflicts_with_all = ["access", "trunk", "native"])]
    pub transparent: bool,
    /// Exchange no frames with other isolated ports (1), or do (0).
    #[arg(long, value_name = "0|1", hide_possible_values = true, value_parser = zero_or_one())]
    pub isolated: Option<bool>,
    /// What to do with reserved multicast, 01:80:c2:00:00:0x.
    #[arg(long, value_parser = bpdu())]
    pub bpdu: Option<Bpdu>,
    #[command(flatten)]
    pub guard: GuardArgs,
    /// Look for loops through this port (1), or do not (0).
    #[arg(long, value_name = "0|1", hide_possible_values = true, value_parser = zero_or_one())]
    pub loop_guard: Option<bool>,
    /// Congestion control of a link, such as bbr, or default: the system's.
    #[arg(long, value_name = "NAME", help_heading = "Device or link")]
    pub congestion: Option<Congestion>,
    /// Bits a second sent over a link at most; 0 is no limit.
    #[arg(long, value_name = "BITS", help_heading = "Device or link")]
    pub pace: Option<u64>,
}

#[derive(Args, Debug)]
pub struct SetIf {
    /// Number or name.
    #[arg(value_parser = port, add = ArgValueCandidates::new(ports))]
    pub port: PortRef,
    /// A with --netmask, or A/LEN, IPv4 or IPv6 (repeatable); replaces those of its family.
    #[arg(long, value_name = "A[/LEN]", value_parser = address)]
    pub address: Vec<String>,
    /// Dotted quad; for the IPv4 address given, or the one that is there.
    #[arg(long, value_name = "MASK")]
    pub netmask: Option<Ipv4Addr>,
    /// 576 to 65535.
    #[arg(long, value_parser = mtu())]
    pub mtu: Option<u32>,
    /// The device's MAC address.
    #[arg(long)]
    pub mac: Option<MacAddr>,
}

fn words<T: FromStr<Err = String>>(text: &str) -> Result<Words<T>, String> {
    match text {
        "all" => Ok(Words(Vec::new())),
        text => text.split(',').map(|word| word.trim().parse()).collect::<Result<_, _>>().map(Words),
    }
}

fn prefixed(text: &str) -> Result<IpNet, String> {
    text.parse().map_err(|_| "expected an address with prefix length, such as 192.0.2.1/24".into())
}

/// Checked here, sent as written.
fn address(text: &str) -> Result<String, String> {
    match text.parse::<IpAddr>().is_ok() || text.parse::<IpNet>().is_ok() {
        true => Ok(text.to_owned()),
        false => Err("expected an address, or address/prefix length".into()),
    }
}

fn mtu() -> impl TypedValueParser<Value = u32> {
    clap::value_parser!(u32).range(i64::from(MIN_MTU)..=i64::from(MAX_MTU))
}

fn zero_or_one() -> impl TypedValueParser<Value = bool> {
    PossibleValuesParser::new(["0", "1"]).map(|text| text == "1")
}

fn bpdu() -> impl TypedValueParser<Value = Bpdu> {
    let parse = |text: String| if text == "forward" { Bpdu::Forward } else { Bpdu::Drop };
    PossibleValuesParser::new(["forward", "drop"]).map(parse)
}
