//! The flags of `etherws`: those of 1.3 with their names, meanings and defaults, and ours.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;
use clap::{Args, Parser, Subcommand};
use ipnet::IpNet;

use super::config::Layer;
use super::read;
use crate::port::spec::Congestion;
use crate::prof::snapshot::Level;

/// An Ethernet switch whose long cables are WebSockets.
#[derive(Parser, Debug)]
#[command(name = "etherws", version, about, max_term_width = 100, infer_long_args = true, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run the switch
    #[command(after_help = SW_EXAMPLES)]
    Sw(Box<Sw>),
    /// Check a configuration file, and the files that it names, without running anything
    Check {
        /// Configuration file (TOML)
        file: PathBuf,
    },
    /// Control a running switch; the same as etherctl (see etherws ctl --help)
    #[command(disable_help_flag = true)]
    Ctl {
        /// etherctl's arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, num_args = 0..)]
        arguments: Vec<OsString>,
    },
    /// Write the man pages into a directory
    #[command(hide = true)]
    Man { directory: PathBuf },
    /// Print a completion script
    #[command(hide = true)]
    Completions { shell: clap_complete::Shell },
}

const EXAMPLES: &str = "Examples, one Ethernet segment over two hosts:
  hostA# etherws sw --htpasswd /etc/etherws/htpasswd
  hostA# etherctl addport tap tap0
  hostB# etherws sw --no-listen
  hostB# etherctl addport tap tap0
  hostB# etherctl addport client ws://hostA/ --user alice";

const SW_EXAMPLES: &str = "Examples:
  etherws sw --port 8080                            for links without TLS or password, on port 8080
  etherws sw --sslkey key.pem --sslcert cert.pem --htpasswd /etc/etherws/htpasswd
  etherws sw --config /etc/etherws/etherws.toml     reread by SIGHUP and etherctl reload
  etherws sw --ctlport 7867 --ctlanonymous          control as with etherws 1.3

Ports are added by etherctl, or in the configuration file.";

/// Flags of `etherws sw`. They override the configuration file.
#[derive(Args, Clone, Default, Debug)]
pub struct Sw {
    /// Configuration file (TOML); flags override it [default: $STATE_DIRECTORY/etherws.toml, when it is there]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Stay attached to the terminal (the default)
    #[arg(long)]
    pub foreground: bool,
    /// Go to the background once the switch listens
    #[arg(long, conflicts_with = "foreground")]
    pub daemon: bool,
    /// Verbose log: --log info,etherws=debug
    #[arg(long)]
    pub debug: bool,
    /// Log filter, such as warn or etherws=debug [default: $RUST_LOG, else info]
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
    /// Gone since 1.3
    #[arg(long, value_name = "FILE", hide = true)]
    pub logconf: Option<PathBuf>,
    /// What this switch is called in log lines, metrics and listport, among others [default: the host's name, which is
    /// not shown there]
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// Seconds until a silent station is forgotten [default: 300]
    #[arg(long, value_name = "SEC", value_parser = RangedU64ValueParser::<u64>::new().range(1..=4_294_967_295))]
    pub ageout: Option<u64>,
    /// Stations (MAC addresses) known at a time [default: 8192]
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=16_777_216))]
    pub fdb_limit: Option<usize>,
    /// Announce no stations that links bring
    #[arg(long)]
    pub no_announce: bool,
    /// Answer ARP and ND for stations that are known, instead of flooding the question
    #[arg(long)]
    pub suppress: bool,
    /// Send multicast to those who asked for it (IGMP and MLD snooping), instead of to everybody
    #[arg(long)]
    pub snoop: bool,
    /// Seconds between questions who wants which multicast, where no router asks [default: 125]
    #[arg(long, value_name = "SEC", value_parser = RangedU64ValueParser::<u32>::new().range(4..=3600))]
    pub snoop_interval: Option<u32>,
    /// Data threads [default: one for two processors, at most 4]
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=256))]
    pub threads: Option<usize>,
    /// Seconds without received data before a link is probed; dead after 8/3 of it [default: 15]
    #[arg(long, value_name = "SEC", value_parser = RangedU64ValueParser::<u32>::new().range(1..=3600))]
    pub ping: Option<u32>,
    /// How closely to look at what frames cost, while nobody asks: off, count, stage or trace [default: count]
    #[arg(long, value_name = "LEVEL")]
    pub prof: Option<Level>,
    /// Write the profile there at the end, and when SIGUSR2 ends it; the name's ending says as what (.json,
    /// .pstats, .pb.gz, .folded, .svg, .speedscope.json)
    #[arg(long, value_name = "FILE")]
    pub prof_dump: Option<PathBuf>,
    /// Metrics for Prometheus at http://ADDR/metrics, for everybody: 127.0.0.1, or 127.0.0.1:9867 [default: beside
    /// control alone]
    #[arg(long, value_name = "ADDR")]
    pub metrics: Option<String>,
    /// User whose process a switch started as root becomes, but for two capabilities [default: etherws, if there is
    /// such a user]
    #[arg(long, value_name = "NAME", conflicts_with = "no_sandbox")]
    pub user: Option<String>,
    /// Keep all privileges, files and system calls
    #[arg(long)]
    pub no_sandbox: bool,
    /// Start, check that every thread is in the sandbox, and end: exit code 0 or 1
    #[arg(long, conflicts_with = "daemon")]
    pub self_test: bool,
    #[command(flatten, next_help_heading = "WebSocket service")]
    pub listen: Listen,
    #[command(flatten, next_help_heading = "Control service")]
    pub control: Control,
}

#[derive(Args, Clone, Default, Debug)]
pub struct Listen {
    /// No WebSocket service: this switch only dials
    #[arg(long)]
    pub no_listen: bool,
    /// Address to listen on [default: all]
    #[arg(long, value_name = "ADDR")]
    pub host: Option<String>,
    /// Port to listen on [default: 80, with TLS 443]
    #[arg(long, value_name = "N")]
    pub port: Option<u16>,
    /// Path of the service [default: /]
    #[arg(long, value_name = "PATH")]
    pub path: Option<String>,
    /// TLS key (PEM); with --sslcert [default: no TLS]
    #[arg(long, value_name = "FILE")]
    pub sslkey: Option<PathBuf>,
    /// TLS certificate chain (PEM)
    #[arg(long, value_name = "FILE")]
    pub sslcert: Option<PathBuf>,
    /// CAs (PEM) of client certificates, which every client must then show
    #[arg(long, value_name = "FILE")]
    pub sslclientca: Option<PathBuf>,
    /// Users and passwords, as htpasswd(1) writes them [default: everybody may link]
    #[arg(long, value_name = "FILE")]
    pub htpasswd: Option<PathBuf>,
    /// Bearer tokens for browsers, NAME TOKEN a line
    #[arg(long, value_name = "FILE")]
    pub tokens: Option<PathBuf>,
    /// Origin of web pages let in beside the service's own, such as https://vm.example (repeatable)
    #[arg(long, value_name = "ORIGIN")]
    pub origin: Vec<String>,
    /// Reverse proxy whose word about clients is believed (repeatable)
    #[arg(long, value_name = "CIDR", value_parser = read::network)]
    pub trusted_proxy: Vec<IpNet>,
    /// Trusted proxies send the PROXY protocol, version 1 or 2
    #[arg(long)]
    pub proxy_protocol: bool,
    /// No super-frames on incoming links, whatever they offer
    #[arg(long)]
    pub no_offload: bool,
    /// Congestion control of incoming links, such as bbr [default: the system's]
    #[arg(long, value_name = "NAME")]
    pub congestion: Option<Congestion>,
    /// Wait so long for a link whose connection broke: its port keeps number, counters and stations, and what is sent to it
    /// meanwhile is lost [default: 0]
    #[arg(long, value_name = "SEC", value_parser = seconds)]
    pub resume: Option<u32>,
    /// Told to end, go on for so long without letting new links in, so that a load balancer finds /readyz saying 503 and
    /// sends them elsewhere, and those that are there go elsewhere too [default: 0]
    #[arg(long, value_name = "SEC", value_parser = seconds)]
    pub drain_wait: Option<u32>,
}

#[derive(Args, Clone, Default, Debug)]
pub struct Control {
    /// Unix socket [default: /run/etherws/ctl.sock, or under $XDG_RUNTIME_DIR when not root]
    #[arg(long, value_name = "PATH")]
    pub ctlsock: Option<PathBuf>,
    /// Listen on TCP too, on this address [default: 127.0.0.1]
    #[arg(long, value_name = "ADDR")]
    pub ctlhost: Option<String>,
    /// Listen on TCP too, on this port [default: 7867]
    #[arg(long, value_name = "N")]
    pub ctlport: Option<u16>,
    /// Path on TCP [default: /ctl]
    #[arg(long, value_name = "PATH")]
    pub ctlpath: Option<String>,
    /// TLS key (PEM); with --ctlsslcert [default: no TLS]
    #[arg(long, value_name = "FILE")]
    pub ctlsslkey: Option<PathBuf>,
    /// TLS certificate chain (PEM)
    #[arg(long, value_name = "FILE")]
    pub ctlsslcert: Option<PathBuf>,
    /// Users and passwords on TCP [default: a token, new at each start, in the file PATH.token beside the socket]
    #[arg(long, value_name = "FILE")]
    pub ctlhtpasswd: Option<PathBuf>,
    /// Neither password nor token on TCP, on loopback alone; with --ctlport 7867 as etherws 1.3
    #[arg(long)]
    pub ctlanonymous: bool,
}

/// `30s`, or a bare number of seconds; an hour at most.
fn seconds(text: &str) -> Result<u32, String> {
    let number = text.strip_suffix('s').unwrap_or(text).parse().ok().filter(|seconds| *seconds <= 3600);
    number.ok_or_else(|| "expected seconds, such as 30s, up to 3600".to_owned())
}

impl Sw {
    /// The settings among the flags. `rust_log` is the environment's RUST_LOG.
    pub fn layer(&self, rust_log: Option<String>) -> Layer {
        let (listen, control) = (&self.listen, &self.control);
        let some = |on: bool| on.then_some(true);
        let mut log = self.log.clone();
        let mut log_place = "--log";
        if log.is_none() && self.debug {
            log = Some("info,etherws=debug".to_owned());
        } else if log.is_none() {
            log = rust_log.filter(|filter| !filter.is_empty());
            log_place = "RUST_LOG";
        }
        let mut layer = Layer {
            node: self.node.clone(),
            ageout: self.ageout,
            fdb_limit: self.fdb_limit,
            announce: self.no_announce.then_some(false),
            suppress: some(self.suppress),
            snoop: some(self.snoop),
            snoop_interval: self.snoop_interval,
            threads: self.threads,
            ping: self.ping,
            prof: self.prof,
            log,
            enabled: listen.no_listen.then_some(false),
            host: listen.host.clone(),
            port: listen.port,
            path: listen.path.clone(),
            sslkey: listen.sslkey.clone(),
            sslcert: listen.sslcert.clone(),
            sslclientca: listen.sslclientca.clone(),
            htpasswd: listen.htpasswd.clone(),
            tokens: listen.tokens.clone(),
            origin: (!listen.origin.is_empty()).then(|| listen.origin.clone()),
            trusted_proxy: (!listen.trusted_proxy.is_empty()).then(|| listen.trusted_proxy.clone()),
            proxy_protocol: some(listen.proxy_protocol),
            offload: listen.no_offload.then_some(false),
            congestion: listen.congestion.clone(),
            resume: listen.resume,
            drain_wait: listen.drain_wait,
            sock: control.ctlsock.clone(),
            tcp: some(control.ctlhost.is_some() || control.ctlport.is_some() || control.ctlpath.is_some()),
            ctlhost: control.ctlhost.clone(),
            ctlport: control.ctlport,
            ctlpath: control.ctlpath.clone(),
            ctlsslkey: control.ctlsslkey.clone(),
            ctlsslcert: control.ctlsslcert.clone(),
            ctlhtpasswd: control.ctlhtpasswd.clone(),
            ctlanonymous: some(control.ctlanonymous),
            metrics: self.metrics.clone(),
            sandbox: self.no_sandbox.then_some(false),
            sandbox_user: self.user.clone(),
            ..Layer::default()
        };
        for (given, key, flag) in [
            (layer.log.is_some(), "switch.log", log_place),
            (layer.node.is_some(), "switch.node", "--node"),
            (layer.host.is_some(), "listen.host", "--host"),
            (layer.path.is_some(), "listen.path", "--path"),
            (layer.sslkey.is_some(), "listen.sslkey", "--sslkey"),
            (layer.sslcert.is_some(), "listen.sslcert", "--sslcert"),
            (layer.sslclientca.is_some(), "listen.sslclientca", "--sslclientca"),
            (layer.proxy_protocol.is_some(), "listen.proxy_protocol", "--proxy-protocol"),
            (layer.ctlhost.is_some(), "control.tcp.host", "--ctlhost"),
            (layer.tcp.is_some(), "control.tcp.port", "--ctlport"),
            (layer.ctlpath.is_some(), "control.tcp.path", "--ctlpath"),
            (layer.ctlsslkey.is_some(), "control.tcp.sslkey", "--ctlsslkey"),
            (layer.ctlsslcert.is_some(), "control.tcp.sslcert", "--ctlsslcert"),
            (layer.ctlhtpasswd.is_some(), "control.tcp.htpasswd", "--ctlhtpasswd"),
            (layer.ctlanonymous.is_some(), "control.tcp.anonymous", "--ctlanonymous"),
            (layer.metrics.is_some(), "metrics.listen", "--metrics"),
            (layer.sandbox_user.is_some(), "sandbox.user", "--user"),
        ] {
            if given {
                layer.places.insert(key, flag.to_owned());
            }
        }
        layer
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn sw(line: &str) -> Result<Sw, clap::Error> {
        match Cli::try_parse_from(["etherws", "sw"].into_iter().chain(line.split_whitespace()))?.command {
            Command::Sw(sw) => Ok(*sw),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_parser_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_command_line_of_1_3_is_understood() {
        let line = "--foreground --debug --ageout 60 --host 10.0.0.1 --port 8080 --path /sw --sslkey k --sslcert c \
                    --htpasswd h --ctlhost 127.0.0.1 --ctlport 7867 --ctlpath /ctl --ctlsslkey ck --ctlsslcert cc \
                    --ctlhtpasswd ch";
        let config = sw(line).unwrap().layer(None).resolve().unwrap();
        let listen = config.door.listen.unwrap();
        assert_eq!(
            (listen.host.as_deref(), listen.port, listen.path.as_str()),
            (Some("10.0.0.1"), Some(8080), "/sw")
        );
        assert_eq!(config.switch.ageout.as_secs(), 60);
        assert_eq!(config.door.control.tcp.unwrap().htpasswd, Some("ch".into()));
        assert_eq!(config.log.as_deref(), Some("info,etherws=debug"));
    }

    #[test]
    fn control_on_tcp_only_when_asked_for() {
        let tcp = |line| sw(line).unwrap().layer(None).resolve().map(|config| config.door.control.tcp);
        assert_eq!(tcp("").unwrap(), None);
        for line in ["--ctlhost 127.0.0.1", "--ctlport 7867", "--ctlpath /ctl"] {
            assert_eq!(tcp(line).unwrap(), Some(crate::control::http::ControlTcp::default()), "{line}");
        }
        let problems = tcp("--ctlanonymous").unwrap_err();
        assert!(problems[0].is_usage() && problems[0].why.contains("--ctlport"), "{problems:?}");
    }

    #[test]
    fn mistakes_name_the_flag() {
        for (line, flag) in [
            ("--sslkey k", "--sslkey"),
            ("--sslcert c", "--sslcert"),
            ("--ctlport 1 --ctlsslcert c", "--ctlsslcert"),
            ("--sslclientca c", "--sslclientca"),
            ("--path nowhere", "--path"),
            ("--ctlport 1 --ctlpath a?b", "--ctlpath"),
            ("--host a:80", "--host"),
            ("--proxy-protocol", "--proxy-protocol"),
            ("--log =[", "--log"),
            ("--ctlhost 10.0.0.1 --ctlanonymous", "--ctlanonymous"),
            ("--ctlport 80", "--ctlport"),
            ("--host 127.0.0.1 --port 7867 --path /ctl --ctlport 7867", "--ctlport"),
            ("--metrics 9867", "--metrics"),
            ("--port 9867 --metrics 127.0.0.1", "--metrics"),
            ("--host 127.0.0.1 --port 7867 --ctlport 7867 --sslkey k --sslcert c", "--ctlport"),
        ] {
            let problems = sw(line).unwrap().layer(None).resolve().unwrap_err();
            assert!(problems[0].place == flag && problems[0].is_usage(), "{line}: {problems:?}");
        }
        for line in
            ["--ageout 0", "--ageout x", "--port 65536", "--ping 0", "--trusted-proxy x", "--nonsense"]
        {
            assert_eq!(sw(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn super_frames_are_taken_unless_flag_or_file_says_no() {
        for (line, file, offload) in [
            ("", "", true),
            ("--no-offload", "", false),
            ("", "offload=false", false),
            ("--no-offload", "offload=true", false),
        ] {
            let below = read::parse("f", &format!("[listen]\n{file}")).unwrap();
            let config = sw(line).unwrap().layer(None).over(below).resolve().unwrap();
            assert_eq!(config.door.listen.unwrap().offload, offload, "{line:?} over {file:?}");
        }
    }

    #[test]
    fn how_long_a_lost_link_is_waited_for() {
        let resume =
            |line: &str| sw(line).map(|sw| sw.layer(None).resolve().unwrap().door.listen.unwrap().resume);
        for (line, seconds) in [("", 0), ("--resume 30s", 30), ("--resume 30", 30), ("--resume 0", 0)] {
            assert_eq!(resume(line).unwrap().as_secs(), seconds, "{line}");
        }
        let waits = sw("--drain-wait 15s").unwrap().layer(None).resolve().unwrap();
        assert_eq!(waits.door.listen.unwrap().drain_wait.as_secs(), 15);
        for line in ["--resume 3601", "--resume -1s", "--resume 5m", "--resume s", "--drain-wait 1h"] {
            assert_eq!(resume(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn both_services_may_share_an_address() {
        for line in [
            "--host 127.0.0.1 --port 7867 --ctlport 7867",
            "--host 10.0.0.1 --port 7867 --ctlport 7867",
            "--port 0 --ctlport 0",
            "--no-listen --ctlport 80",
        ] {
            assert!(sw(line).unwrap().layer(None).resolve().is_ok(), "{line}");
        }
    }

    #[test]
    fn the_log_filter_comes_from_the_nearest_place() {
        let log = |line, env: Option<&str>| sw(line).unwrap().layer(env.map(str::to_owned)).log;
        assert_eq!(log("--log warn --debug", Some("trace")).as_deref(), Some("warn"));
        assert_eq!(log("--debug", Some("trace")).as_deref(), Some("info,etherws=debug"));
        assert_eq!(log("", Some("trace")).as_deref(), Some("trace"));
        assert_eq!(log("", Some("")), None);
    }

    #[test]
    fn ctl_passes_everything_on() {
        let cli = Cli::try_parse_from(["etherws", "ctl", "--ctlurl", "x", "listport", "--help"]).unwrap();
        let Command::Ctl { arguments } = cli.command else { panic!("{cli:?}") };
        assert_eq!(arguments, ["--ctlurl", "x", "listport", "--help"]);
    }
}
