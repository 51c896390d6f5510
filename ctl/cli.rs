//! The command line. Names and meanings of etherws 1.3's `ctl` commands are kept, abbreviated long
//! options (which Python's argparse took) included.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use clap_complete::engine::ArgValueCandidates;
use etherws::control::api::check::{MAX_CONNECTIONS, MAX_MTU, MAX_PING, MIN_MTU, MIN_PING};
use etherws::control::api::{Bpdu, Congestion, EtherType, MacAddr, PortRef, StormLimit, Vid, VidSet};
use ipnet::IpNet;

use crate::capture::CaptureArgs;
use crate::complete::ports;
use crate::dashboard::DashboardArgs;
use crate::flame::FlameArgs;
use crate::ping::PingArgs;
use crate::prof::Prof;
use crate::server::Url;
use crate::top::TopArgs;
use crate::trace::TraceArgs;

const EXAMPLES: &str = "Examples:
  etherctl addport tap tap0 --name vms --address 192.0.2.1/24
  etherctl addport client wss://far.example.net/ --user alice
  etherctl addport qemu unix:/run/etherws/vms.sock
  etherctl setport vms --access 10
  etherctl listport
  etherctl prof show
  etherctl --ctlurl https://far.example.net:7867/ctl --ctluser admin --json listfdb";

/// Controls an etherws switch.
#[derive(Parser, Debug)]
#[command(name = "etherctl", version, infer_long_args = true, max_term_width = 100, after_help = EXAMPLES)]
pub struct Cli {
    /// Print the result object as JSON instead of a table.
    #[arg(long, global = true, display_order = 900)]
    pub json: bool,
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(subcommand)]
    pub command: Command,
}

/// Which switch, as whom.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Switch")]
pub struct ServerArgs {
    /// unix:PATH, http://HOST:PORT/ctl or https://HOST:PORT/ctl [default: the local switch's Unix socket].
    #[arg(long, global = true, value_name = "URL", env = "ETHERWS_CTLURL")]
    pub ctlurl: Option<Url>,
    /// User name for control.
    #[arg(long, global = true, value_name = "USER")]
    pub ctluser: Option<String>,
    /// Its password; asked for on the terminal when missing (arguments show in `ps`).
    #[arg(long, global = true, value_name = "PASSWORD")]
    pub ctlpasswd: Option<String>,
    /// PEM file with the CA, or the very certificate, to trust instead of the system's roots.
    #[arg(long, global = true, value_name = "FILE")]
    pub ctlsslcert: Option<PathBuf>,
    /// Do not check the server's certificate.
    #[arg(long, global = true)]
    pub ctlinsecure: bool,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Add a port.
    #[command(subcommand, infer_long_args = true)]
    Addport(Box<AddPort>),
    /// Change a port: shut or open it, its name, its VLANs.
    #[command(infer_long_args = true)]
    Setport(SetPort),
    /// Delete a port.
    Delport {
        /// Number or name.
        #[arg(value_parser = port, add = ArgValueCandidates::new(ports))]
        port: PortRef,
    },
    /// List the ports.
    Listport,
    /// Set address, MTU or MAC of a TAP or network device port.
    #[command(infer_long_args = true)]
    Setif(SetIf),
    /// List the interfaces of TAP and network device ports.
    Listif,
    /// List the forwarding database.
    Listfdb {
        /// Entries of this port only.
        #[arg(long, value_parser = port, add = ArgValueCandidates::new(ports))]
        port: Option<PortRef>,
    },
    /// List the stations that are known, with their IP addresses.
    Liststations {
        /// Stations of this port only.
        #[arg(long, value_parser = port, add = ArgValueCandidates::new(ports))]
        port: Option<PortRef>,
    },
    /// List the multicast groups that somebody wants, and behind which ports (etherws sw --snoop).
    Listgroups,
    /// Add a static entry to the forwarding database.
    Addfdb {
        /// The station.
        mac: MacAddr,
        /// Number or name.
        #[arg(value_parser = port, add = ArgValueCandidates::new(ports))]
        port: PortRef,
        /// 1 to 4094; 0 is untagged.
        #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=4094))]
        vid: u16,
    },
    /// Delete an entry of the forwarding database.
    Delfdb {
        /// The station.
        mac: MacAddr,
        /// 1 to 4094; 0 is untagged.
        #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=4094))]
        vid: u16,
    },
    /// Forget the learned entries of a port, or all.
    Flushfdb {
        /// Number or name.
        #[arg(value_parser = port, add = ArgValueCandidates::new(ports))]
        port: Option<PortRef>,
    },
    /// Print the counters that are not zero, drops by reason; of a port, or all.
    Counters {
        /// Number or name.
        #[arg(value_parser = port, add = ArgValueCandidates::new(ports))]
        port: Option<PortRef>,
    },
    /// Print what happens to ports, a line each, until interrupted.
    Watch,
    /// Show frames as ports let them in, send or drop them, or write them to a pcapng file.
    #[command(infer_long_args = true)]
    Capture(CaptureArgs),
    /// Say what the switch would do with a frame, and why; nothing is sent or learned.
    #[command(infer_long_args = true)]
    Trace(TraceArgs),
    /// Measure the round trip of a port's link, or of the link behind which a station is.
    #[command(infer_long_args = true)]
    Ping(PingArgs),
    /// Serve the dashboard to a browser of this host, until interrupted; prints its URL, which works once.
    #[command(infer_long_args = true)]
    Dashboard(DashboardArgs),
    /// Write the running state to the switch's configuration file, or to another file on its host.
    Saveconf {
        /// Path on the switch's host.
        file: Option<PathBuf>,
    },
    /// Apply the differences of the switch's configuration file.
    Reload,
    /// Watch what frames cost, live.
    #[command(infer_long_args = true)]
    Top(TopArgs),
    /// Draw a flame graph in the terminal.
    #[command(infer_long_args = true)]
    Flame(FlameArgs),
    /// What a frame costs: measure it, show it, record it.
    #[command(subcommand, infer_long_args = true)]
    Prof(Prof),
    /// Look into files of statistics (pstats', or of `prof record -f json`) with the commands of
    /// `python3 -m pstats`: read, add, sort, stats, callers, callees, strip, reverse, quit.
    Stats {
        /// The first is read, the others are added.
        files: Vec<PathBuf>,
    },
    /// Look for what is wrong here, or soon will be, and say what to do. Exit code 0: nothing; 1: warnings; 2: something
    /// does not work.
    Doctor,
    /// Print the switch's version.
    Version,
    /// Write etherctl.1 into a directory.
    #[command(hide = true)]
    Man { dir: PathBuf },
    /// Print shell completions.
    #[command(hide = true)]
    Completions { shell: Shell },
}

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

/// A port's number (from 1) or name.
pub fn port(text: &str) -> Result<PortRef, String> {
    match text.parse() {
        Ok(PortRef::Number(0)) => Err("ports are numbered from 1".into()),
        Ok(PortRef::Name(name)) if name.is_empty() => Err("expected a port's number or name".into()),
        Ok(port) => Ok(port),
        Err(never) => match never {},
    }
}

/// A time: 200ms, 10s, 5m, 1h; a bare number is seconds.
pub fn span(text: &str) -> Result<Duration, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("expected a time such as 200ms, 10s, 5m or 1h".into()),
    };
    let number: f64 = number.parse().map_err(|_| "expected a time such as 200ms, 10s, 5m or 1h")?;
    match Duration::try_from_secs_f64(number * seconds) {
        Ok(span) if (LEAST_SPAN..=MOST_SPAN).contains(&span) => Ok(span),
        _ => Err("expected 1ms to a year".into()),
    }
}

const LEAST_SPAN: Duration = Duration::from_millis(1);
const MOST_SPAN: Duration = Duration::from_secs(365 * 24 * 3600);

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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn usage_errors_name_the_argument() {
        let table = [
            ("setport 1 --shut 2", "--shut"),
            ("setport 0 --shut 1", "numbered from 1"),
            ("setport 1 --access 10 --trunk 20", "--trunk"),
            ("setport 1 --transparent --access 10", "--access"),
            ("setport 1 --native 10", "--trunk"),
            ("setport 1 --access 4095", "not a VID"),
            ("setport 1 --storm on", "--storm"),
            ("setport 1 --ethertypes ip", "--ethertypes"),
            ("setport 1 --macs 1", "--macs"),
            ("setif 1 --mtu 575", "--mtu"),
            ("setif 1 --mtu 65536", "--mtu"),
            ("setif 1 --netmask 24", "--netmask"),
            ("setif 1 --address x", "--address"),
            ("addport server x", "server"),
            ("addport tap t0 --address 192.0.2.1", "with prefix length"),
            ("addport client ws://h --passwd x", "--user"),
            ("addport client ws://h --user u --passwd x --passwd-file y", "--passwd-file"),
            ("addport client ws://h --cert c", "--key"),
            ("addport qemu tcp:5000 --mtu 1500", "--mtu"),
            ("addport qemu tcp:5000 --connect --anonymous", "--anonymous"),
            ("addfdb 1 2", "not a MAC address"),
            ("addfdb 02:00:00:00:00:01 2 --vid 4095", "--vid"),
            ("listport --ctlurl ftp://h/", "--ctlurl"),
            ("listports", "listport"),
            ("capture --for 10x", "--for"),
            ("capture --snaplen 13", "--snaplen"),
            ("capture --count 0", "--count"),
            ("trace", "FRAME"),
            ("trace --dst 02:00:00:00:00:01", "--from"),
            ("trace 02 --from 1 --dst 02:00:00:00:00:01", "--dst"),
            ("ping", "PORT"),
            ("ping 1 -i 0s", "--interval"),
        ];
        for (line, word) in table {
            let words = std::iter::once("etherctl").chain(line.split(' '));
            let error = Cli::try_parse_from(words).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().contains(word), "{line}: {error}");
        }
    }

    #[test]
    fn command_lines_of_1_3_are_taken() {
        for line in [
            "--ctlurl http://127.0.0.1:7867/ctl --ctluser u --ctlpasswd p listport",
            "--ctlurl=https://h/ctl --ctlsslcert f --ctlinsecure addport tap tap0",
            "addport netdev eth1",
            "addport client wss://h/ --user u --passwd p --cacerts f --insecure",
            "setport 1 --shut 0",
            "setport 1",
            "setif 2 --addr 192.0.2.1 --netm 255.255.255.0 --mtu 576",
            "delport 1",
            "listif",
            "listfdb",
        ] {
            let words = std::iter::once("etherctl").chain(line.split(' '));
            assert!(Cli::try_parse_from(words).is_ok(), "{line}");
        }
    }
}
