//! `etherctl trace`: what the switch would do with a frame, step by step.

use std::path::Path;

use clap::Args;
use etherws::control::api::seeing::{TraceFrame, Traced};
use etherws::control::api::{EtherType, MacAddr, PortRef};

use crate::Wrong;
use crate::cli::port;
use crate::pcapng::first_packet;
use crate::table::{escaped, table};

#[derive(Args, Debug)]
pub struct TraceArgs {
    /// The whole frame in hexadecimal digits, or @FILE: the first packet of a pcap or pcapng file.
    #[arg(required_unless_present = "dst", conflicts_with_all = ["dst", "src", "vid", "ethertype"])]
    frame: Option<String>,
    /// The port that it comes in by, number or name [default: where its source was heard last].
    #[arg(long, value_name = "PORT", value_parser = port)]
    from: Option<PortRef>,
    /// A short frame to this station, instead of FRAME.
    #[arg(long, value_name = "MAC", requires = "from")]
    dst: Option<MacAddr>,
    /// From this one [default: the one that was heard last at the port].
    #[arg(long, value_name = "MAC")]
    src: Option<MacAddr>,
    /// With a tag of this VLAN.
    #[arg(long, value_name = "VID", value_parser = clap::value_parser!(u16).range(1..=4094))]
    vid: Option<u16>,
    /// arp, ipv4, ipv6 or a number such as 0x88cc [default: ipv4].
    #[arg(long, value_name = "TYPE")]
    ethertype: Option<EtherType>,
}

/// What is asked of the switch; a file is read here.
pub fn question(args: &TraceArgs) -> Result<TraceFrame, Wrong> {
    let frame = match args.frame.as_deref().map(|frame| (frame, frame.strip_prefix('@'))) {
        None => None,
        Some((_, Some(file))) => {
            let bytes = first_packet(Path::new(file))?;
            Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
        }
        Some((hex, None)) => Some(hex.to_owned()),
    };
    let TraceArgs { from, dst, src, vid, ethertype, .. } = args;
    Ok(TraceFrame { port: from.clone(), frame, src: *src, dst: *dst, vid: *vid, ethertype: *ethertype })
}

pub fn render(traced: &Traced) -> String {
    let stations = match traced.src.as_str() {
        "" => String::new(),
        src => format!("{src} > {}, ", traced.dst),
    };
    let mut text = format!("in at port {} ({}): {stations}{} bytes\n", traced.port, traced.name, traced.len);
    let outcome = |reason: &Option<String>, ok: &str| match reason {
        None => ok.to_owned(),
        Some(reason) => format!("drop: {reason}"),
    };
    let step = |step: &etherws::control::api::seeing::TracedStep| {
        vec![step.check.clone(), outcome(&step.reason, "passes"), step.why.clone()]
    };
    text = escaped(text.trim_end()) + "\n";
    text += &table(traced.steps.iter().map(step).collect());
    text += &match &traced.reason {
        None => format!("{}\n", escaped(&traced.verdict)),
        Some(reason) => format!("{}: {}\n", escaped(&traced.verdict), escaped(reason)),
    };
    let way = |way: &etherws::control::api::seeing::TracedWay| {
        let goes = match &way.reason {
            None => "goes out".to_owned(),
            Some(reason) => format!("not: {reason}"),
        };
        vec![format!("port {} ({})", way.port, way.name), goes, way.tag.clone()]
    };
    text + &table(traced.egress.iter().map(way).collect())
}
