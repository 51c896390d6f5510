//! `etherctl ping`: the round trip of a port's link, as ping(8) prints it. WebSocket PINGs are sent, no frames.

use std::time::Duration;

use clap::Args;
use etherws::control::api::seeing::{MAX_PING_MS, PingPort, PingStatus};
use etherws::control::api::{MacAddr, Method};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use crate::cli::{port, span};
use crate::client::{TIME_LIMIT, call};
use crate::commands::{Request, read};
use crate::server::Server;
use crate::table::escaped;
use crate::{Wrong, ask, print};

const LEAST_INTERVAL: Duration = Duration::from_millis(10);

#[derive(Args, Debug)]
pub struct PingArgs {
    /// A port's number or name, or a station's MAC address: the link behind which it was heard.
    #[arg(value_name = "PORT|MAC")]
    target: String,
    /// End after so many [default: until interrupted].
    #[arg(short = 'c', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Between two of them: 1s, 200ms.
    #[arg(short = 'i', long, value_name = "TIME", default_value = "1s", value_parser = span)]
    interval: Duration,
    /// How long to wait for an answer.
    #[arg(short = 'W', long, value_name = "TIME", default_value = "1s", value_parser = span)]
    timeout: Duration,
    /// The station's VLAN [default: any].
    #[arg(long, value_name = "VID", value_parser = clap::value_parser!(u16).range(0..=4094))]
    vid: Option<u16>,
}

/// Goes on until it is interrupted, or has sent all; a failure when nothing was answered.
pub async fn run(mut server: Server, args: &PingArgs, json: bool) -> Result<(), Wrong> {
    let request = question(args)?;
    let limit = TIME_LIMIT + args.timeout;
    let mut interrupt =
        signal(SignalKind::interrupt()).map_err(|e| format!("could not listen for signals: {e}"))?;
    let mut found: Option<PingStatus> = None;
    let mut times = Vec::new();
    let mut sent = 0;
    while args.count.is_none_or(|count| sent < count) {
        let next = Instant::now() + args.interval;
        let answer = async {
            match found {
                None => ask(&mut server, &request, limit).await,
                Some(_) => call(&server, &request, limit).await,
            }
        };
        let answer = tokio::select! {
            answer = answer => answer.map_err(|failure| failure.to_string())?,
            _ = interrupt.recv() => break,
        };
        let status: PingStatus = read(answer)?;
        sent += 1;
        if !json {
            if found.is_none() {
                print(&format!("PING {}, a WebSocket link\n", name(&status)))?;
            }
            print(&line(&status, sent))?;
        }
        times.extend(status.rtt_ns);
        found = Some(status);
        if args.count == Some(sent) {
            break;
        }
        tokio::select! {
            () = sleep_until(next) => {}
            _ = interrupt.recv() => break,
        }
    }
    let Some(status) = found else { return Ok(()) };
    let Times { min, avg, max, mdev } = Times::of(&times);
    if json {
        let lost = sent - times.len() as u64;
        print(&crate::table::json(&json!({
            "port": status.port, "name": status.name, "peer": status.peer, "sent": sent, "lost": lost,
            "rtt_ns": times, "min_ns": min, "avg_ns": avg, "max_ns": max, "mdev_ns": mdev,
        })))?;
    } else {
        print(&summary(&status, sent, &times))?;
    }
    match times.is_empty() {
        true => Err(Wrong::Failure(format!("no answer from {}", name(&status)))),
        false => Ok(()),
    }
}

fn question(args: &PingArgs) -> Result<Request, Wrong> {
    let timeout_ms = u32::try_from(args.timeout.as_millis()).ok().filter(|ms| (1..=MAX_PING_MS).contains(ms));
    let timeout_ms = timeout_ms.ok_or_else(|| Wrong::Usage("--timeout is 1ms to 60s".into()))?;
    if args.interval < LEAST_INTERVAL {
        return Err(Wrong::Usage(
            "--interval is 10ms at least: a link is measured 100 times a second at most".into(),
        ));
    }
    let mut ping = PingPort { vid: args.vid, timeout_ms: Some(timeout_ms), ..PingPort::default() };
    match args.target.parse::<MacAddr>() {
        Ok(mac) => ping.mac = Some(mac),
        Err(_) if args.vid.is_some() => {
            return Err(Wrong::Usage("--vid is of a station, which is named by its MAC address".into()));
        }
        Err(_) => ping.port = Some(port(&args.target).map_err(Wrong::Usage)?),
    }
    Ok(Request { method: Method::PingPort, params: Some(json!(ping)) })
}

fn name(status: &PingStatus) -> String {
    format!("port {} ({})", status.port, escaped(&status.name))
}

fn line(status: &PingStatus, sequence: u64) -> String {
    let peer = escaped(status.peer.as_deref().unwrap_or("the peer"));
    match status.rtt_ns {
        Some(rtt) => format!("pong from {peer}: seq={sequence} time={} ms\n", ms(rtt)),
        None => {
            format!("no pong: seq={sequence}: {}\n", escaped(status.why.as_deref().unwrap_or("no answer")))
        }
    }
}

fn summary(status: &PingStatus, sent: u64, times: &[u64]) -> String {
    let lost = (sent - times.len() as u64) * 100 / sent;
    let mut text = format!("--- {} ping statistics ---\n", name(status));
    text += &format!("{sent} sent, {} answered, {lost}% lost\n", times.len());
    if !times.is_empty() {
        let Times { min, avg, max, mdev } = Times::of(times);
        text += &format!("rtt min/avg/max/mdev = {}/{}/{}/{} ms\n", ms(min), ms(avg), ms(max), ms(mdev));
    }
    text
}

/// Of round trips, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Times {
    min: u64,
    avg: u64,
    max: u64,
    /// The standard deviation.
    mdev: u64,
}

impl Times {
    fn of(times: &[u64]) -> Self {
        let (Some(min), Some(max)) = (times.iter().min(), times.iter().max()) else { return Self::default() };
        let count = times.len() as f64;
        let avg = times.iter().map(|ns| *ns as f64).sum::<f64>() / count;
        let variance = times.iter().map(|ns| (*ns as f64 - avg).powi(2)).sum::<f64>() / count;
        Self { min: *min, avg: avg as u64, max: *max, mdev: variance.sqrt() as u64 }
    }
}

fn ms(ns: u64) -> String {
    format!("{:.3}", ns as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_summed_up_as_ping_does() {
        let times = [1_000_000, 2_000_000, 6_000_000];
        let Times { min, avg, max, mdev } = Times::of(&times);
        assert_eq!((min, avg, max, mdev), (1_000_000, 3_000_000, 6_000_000, 2_160_246));
        assert_eq!(Times::of(&[]), Times::default());
        let status = PingStatus {
            port: 1,
            name: "far".into(),
            peer: Some("[::1]:80".into()),
            rtt_ns: None,
            why: None,
        };
        let text = summary(&status, 4, &times);
        assert!(text.contains("4 sent, 3 answered, 25% lost"), "{text}");
        assert!(text.contains("= 1.000/3.000/6.000/2.160 ms"), "{text}");
        assert_eq!(line(&status, 2), "no pong: seq=2: no answer\n");
        let line = line(&PingStatus { rtt_ns: Some(412_345), ..status }, 3);
        assert_eq!(line, "pong from [::1]:80: seq=3 time=0.412 ms\n");
    }
}
