//! The command line. Names and meanings of etherws 1.3's `ctl` commands are kept, abbreviated long
//! options (which Python's argparse took) included.

mod port_options;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use clap_complete::engine::ArgValueCandidates;
use etherws::control::api::{MacAddr, PortRef};

pub use self::port_options::{AddPort, InterfaceArgs, LinkArgs, PortArgs, SetIf, SetPort};
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
