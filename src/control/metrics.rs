//! `/metrics` for Prometheus: the counters of `etherctl counters`, in the text format of OpenMetrics 1.0.
//!
//! Nothing is counted here. A scrape reads what `listCounters` and `listPort` answer, so the two never
//! disagree. It is served at two doors: beside control, to who may control, and on a listener of its own
//! (`--metrics`), which shows it to everybody and can do nothing else.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::{Method, Request, StatusCode, header};
use nix::unistd::{SysconfVar, sysconf};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::reply::{Reply, closing, text as short, with, with_body};
use crate::port::Ports;
use crate::port::status::{CounterStatus, PortStatus};

/// Where it is served.
pub const PATH: &str = "/metrics";
/// The port of `--metrics` when none is given.
pub const DEFAULT_PORT: u16 = 9867;
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What a scrape reads from.
pub struct Metrics {
    ports: Arc<Ports>,
    started: SystemTime,
    /// One scrape at a time: counting a large FDB is work.
    scraping: Arc<tokio::sync::Mutex<()>>,
}

impl Metrics {
    pub fn new(ports: Arc<Ports>) -> Self {
        Self { ports, started: SystemTime::now(), scraping: Arc::default() }
    }

    /// Answers a request for [`PATH`].
    pub async fn answer<B>(&self, request: &Request<B>) -> Reply {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let reply = short(StatusCode::METHOD_NOT_ALLOWED, "metrics are read: GET or HEAD");
            return with(closing(reply), header::ALLOW, "GET, HEAD");
        }
        let one = Arc::clone(&self.scraping).lock_owned().await;
        let (ports, started) = (Arc::clone(&self.ports), self.started);
        let text = tokio::task::spawn_blocking(move || {
            // To the end of the work: who asked may be gone before.
            let _one = one;
            Scrape::of(&ports, started).text()
        })
        .await;
        match text {
            Ok(text) => {
                let reply = with_body(StatusCode::OK, CONTENT_TYPE, text);
                with(reply, header::X_CONTENT_TYPE_OPTIONS, "nosniff")
            }
            Err(_) => short(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be read"),
        }
    }
}

/// All that is shown, at one moment.
#[derive(Clone, Debug)]
pub struct Scrape {
    /// A label on everything, where the switch was given a name.
    pub node: Option<String>,
    pub ports: Vec<PortStatus>,
    pub counters: Vec<CounterStatus>,
    /// What befell the switch as a whole: name and count, zeroes too.
    pub events: Vec<(&'static str, u64)>,
    /// Stations known.
    pub stations: u64,
    pub started: SystemTime,
    /// CPU seconds and resident bytes of the process, where /proc tells them.
    pub process: Option<(f64, u64)>,
}

impl Scrape {
    fn of(ports: &Ports, started: SystemTime) -> Self {
        Self {
            node: ports.node().map(str::to_owned),
            ports: ports.list(),
            counters: ports.counters(),
            events: ports.tally().all().map(|(event, count)| (event.name(), count)).collect(),
            stations: ports.fdb_len() as u64,
            started,
            process: std::fs::read_to_string("/proc/self/stat").ok().and_then(|stat| usage(&stat)),
        }
    }

    /// In OpenMetrics, with its `# EOF`.
    pub fn text(self) -> String {
        let node = self.node.clone().map(|node| ("node".into(), node.into()));
        let mut registry = Registry::with_labels(node.into_iter());
        registry.register_collector(Box::new(self));
        let mut out = String::new();
        // A String refuses nothing.
        let _ = text::encode(&mut out, &registry);
        out
    }

    /// The ports with their counters; one that came or went in between is left out.
    fn rows(&self) -> impl Iterator<Item = (Labels, &PortStatus, &CounterStatus)> {
        let counters: HashMap<_, _> =
            self.counters.iter().map(|counters| (counters.port, counters)).collect();
        self.ports.iter().filter_map(move |port| {
            let counters = *counters.get(&port.port)?;
            let labels = [
                ("port", port.port.to_string()),
                ("name", port.name.clone()),
                ("type", port.kind.to_string()),
            ];
            Some((labels, port, counters))
        })
    }
}

type Labels = [(&'static str, String); 3];

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        type Value = fn(&CounterStatus) -> u64;
        for (name, unit, help, value) in [
            ("received_frames", None, "Frames that came in by the port", (|c| c.rx) as Value),
            ("received", Some(Unit::Bytes), "Bytes of the frames that came in by the port", |c| c.rx_bytes),
            ("sent_frames", None, "Frames that went out by the port", |c| c.tx),
            ("sent", Some(Unit::Bytes), "Bytes of the frames that went out by the port", |c| c.tx_bytes),
            ("marked_frames", None, "Frames sent with a congestion mark of the egress queue", |c| c.marked),
            ("flood_copies", None, "Copies made by floods of frames received, beyond one each", |c| c.copies),
            ("unheard_frames", None, "Messages of IGMP and MLD that were not listened to", |c| c.unheard),
        ] {
            let name = format!("etherws_port_{name}");
            let kind = ConstCounter::new(0_u64).metric_type();
            let mut family = encoder.encode_descriptor(&name, help, unit.as_ref(), kind)?;
            for (labels, _, counters) in self.rows() {
                ConstCounter::new(value(counters)).encode(family.encode_family(&labels)?)?;
            }
        }

        let help = "Frames dropped at the port's ingress or egress, by reason";
        let kind = ConstCounter::new(0_u64).metric_type();
        let mut family = encoder.encode_descriptor("etherws_port_dropped_frames", help, None, kind)?;
        for ([port, name, kind], _, counters) in self.rows() {
            for (reason, count) in &counters.drops {
                let labels = [port.clone(), name.clone(), kind.clone(), ("reason", reason.clone())];
                ConstCounter::new(*count).encode(family.encode_family(&labels)?)?;
            }
        }

        let gauge = ConstGauge::new(0_i64).metric_type();
        let help = "1 when the port is up, 0 when frames do not pass";
        let mut family = encoder.encode_descriptor("etherws_port_up", help, None, gauge)?;
        // Where virtual machines come in, frames never pass: that is no port to be up.
        for (labels, port, _) in self.rows().filter(|(_, port, _)| port.state != "listening") {
            ConstGauge::new(i64::from(port.state == "up")).encode(family.encode_family(&labels)?)?;
        }

        let help = "Connections and requests refused, and links cut off, by name";
        let mut family = encoder.encode_descriptor("etherws_events", help, None, kind)?;
        for (name, count) in &self.events {
            ConstCounter::new(*count).encode(family.encode_family(&[("event", *name)])?)?;
        }

        let help = "1 while the loop guard blocks the port";
        let mut family = encoder.encode_descriptor("etherws_port_blocked", help, None, gauge)?;
        for (labels, port, _) in self.rows() {
            ConstGauge::new(i64::from(port.state == "blocked")).encode(family.encode_family(&labels)?)?;
        }

        let help = "Stations in the forwarding database";
        let metric = encoder.encode_descriptor("etherws_fdb_entries", help, None, gauge)?;
        ConstGauge::new(self.stations).encode(metric)?;

        let info = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        let help = "Version of the program";
        info.encode(encoder.encode_descriptor("etherws_build", help, None, info.metric_type())?)?;

        let help = "When the switch was started, since 1970";
        let started = self.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        let metric = encoder.encode_descriptor("etherws_start_time", help, Some(&Unit::Seconds), gauge)?;
        ConstGauge::new(started.as_secs_f64()).encode(metric)?;

        // By the names under which every Prometheus client shows them.
        let Some((cpu, resident)) = self.process else { return Ok(()) };
        let help = "CPU time of the process, user and system";
        let kind = ConstCounter::new(0_u64).metric_type();
        let metric = encoder.encode_descriptor("process_cpu", help, Some(&Unit::Seconds), kind)?;
        ConstCounter::new(cpu).encode(metric)?;
        let help = "Memory of the process that is resident";
        let metric = encoder.encode_descriptor("process_resident_memory", help, Some(&Unit::Bytes), gauge)?;
        ConstGauge::new(resident).encode(metric)
    }
}

/// CPU seconds and resident bytes out of /proc/PID/stat (proc_pid_stat(5)).
fn usage(stat: &str) -> Option<(f64, u64)> {
    // The name, in parentheses, may hold anything, parentheses too.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let ticks = field(14)?.checked_add(field(15)?)?;
    let a_second = sysconf(SysconfVar::CLK_TCK).ok()??;
    let page = sysconf(SysconfVar::PAGE_SIZE).ok()??;
    Some((ticks as f64 / a_second as f64, field(24)?.checked_mul(u64::try_from(page).ok()?)?))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn scrape(name: &str) -> Scrape {
        let port = serde_json::json!({"port": 7, "type": "tap", "target": "t", "tx": 0, "rx": 0, "shut": false,
            "name": name, "state": "up"});
        let counters = serde_json::json!({"port": 7, "name": name, "rx": u64::MAX, "rx_bytes": 2, "tx": 3,
            "tx_bytes": 4, "drops": {"runt": 5}});
        Scrape {
            node: None,
            ports: vec![serde_json::from_value(port).unwrap()],
            counters: vec![serde_json::from_value(counters).unwrap()],
            events: vec![("login-failed", 7)],
            stations: 6,
            started: UNIX_EPOCH + Duration::from_millis(1500),
            process: Some((0.25, 4096)),
        }
    }

    #[test]
    fn every_number_has_its_line() {
        let text = scrape("lan").text();
        let labels = r#"port="7",name="lan",type="tap""#;
        for line in [
            format!("etherws_port_received_frames_total{{{labels}}} 18446744073709551615"),
            format!("etherws_port_received_bytes_total{{{labels}}} 2"),
            format!("etherws_port_sent_frames_total{{{labels}}} 3"),
            format!("etherws_port_sent_bytes_total{{{labels}}} 4"),
            format!("etherws_port_dropped_frames_total{{{labels},reason=\"runt\"}} 5"),
            format!("etherws_port_up{{{labels}}} 1"),
            "etherws_events_total{event=\"login-failed\"} 7".to_owned(),
            format!("etherws_port_blocked{{{labels}}} 0"),
            "etherws_fdb_entries 6".to_owned(),
            format!("etherws_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION")),
            "etherws_start_time_seconds 1.5".to_owned(),
            "process_cpu_seconds_total 0.25".to_owned(),
            "process_resident_memory_bytes 4096".to_owned(),
        ] {
            assert_eq!(text.lines().filter(|found| *found == line).count(), 1, "{line}\n{text}");
        }
        assert!(text.ends_with("\n# EOF\n"), "{text}");
    }

    #[test]
    fn a_node_s_name_is_a_label_on_every_line() {
        let text = Scrape { node: Some("edge-1".to_owned()), ..scrape("lan") }.text();
        let values = || text.lines().filter(|line| !line.starts_with('#'));
        assert!(values().count() > 10 && values().all(|line| line.contains("node=\"edge-1\"")), "{text}");
        assert!(!scrape("lan").text().contains("node="));
    }

    #[test]
    fn a_name_cannot_leave_its_quotes() {
        let text = scrape("a\"} 1\n\\b").text();
        assert!(text.contains(r#"name="a\"} 1\n\\b""#), "{text}");
        assert_eq!(text.lines().count(), scrape("a").text().lines().count());
    }

    #[test]
    fn a_port_that_went_meanwhile_is_left_out() {
        let mut gone = scrape("a");
        gone.counters[0].port = 8;
        let text = gone.text();
        assert!(!text.contains("name="), "{text}");
    }

    #[test]
    fn the_process_is_read_past_its_name() {
        let stat = "9 (a) 1 (b) S 1 9 9 0 -1 0 10 11 12 13 100 50 16 17 18 19 20 21 22 23 3 25";
        let (cpu, resident) = usage(stat).unwrap();
        let page = u64::try_from(sysconf(SysconfVar::PAGE_SIZE).unwrap().unwrap()).unwrap();
        assert!((cpu - 1.5).abs() < 1e-9, "100 ticks a second: {cpu}");
        assert_eq!(resident, 3 * page);
        assert_eq!(usage("9 (a) S 1"), None);
    }
}
