//! `prof callers`, `callees`, `hist` and `slow`: one place in the tree, or one frame, looked at closely.

use std::collections::{BTreeMap, BTreeSet};

use etherws::control::api::prof::SlowFrame;
use etherws::prof::snapshot::{Snapshot, bucket_ticks};
use etherws::prof::view::number::{count, maybe, percent, time};
use etherws::prof::view::sort::select;
use etherws::prof::view::{Row, Split, group, leaf, rows, stage_order, tree};

use super::args::Calls;
use super::columns::{Side, aligned};

/// `stage <- what it happens below`, or `stage -> what happens below it`.
pub fn calls(snapshot: &Snapshot, args: &Calls, callers: bool) -> String {
    let rows: Vec<Row> =
        rows(snapshot, &Split::default()).into_iter().filter(|row| !row.group && !row.wall).collect();
    // (stage, the other) to the paths that end in it; for callees, those that go on from it.
    let mut edges: BTreeMap<(usize, &str), BTreeMap<&str, Vec<&Row>>> = BTreeMap::new();
    for row in &rows {
        let stage = row.stage();
        let above = match row.path.rsplit_once(';') {
            Some((above, _)) => leaf(above),
            None => group(&row.path).unwrap_or("other"),
        };
        let (from, to) = if callers { (stage, above) } else { (above, stage) };
        edges.entry((stage_order(from), from)).or_default().entry(to).or_default().push(row);
        // A stage that nothing is below is said to have nothing below it.
        edges.entry((stage_order(stage), stage)).or_default();
    }
    let places = select(edges.into_iter().collect(), &args.selection, |((_, stage), _)| (*stage).to_owned());
    let cost = |ns: Option<f64>| maybe(ns.map(|ns| args.unit.of(ns, snapshot.ghz)));
    let mut lines = Vec::new();
    for ((_, stage), others) in &places {
        let mut name = (*stage).to_owned();
        let arrow = if callers { "<-" } else { "->" };
        if others.is_empty() {
            lines.push(vec![name.clone(), arrow.into()]);
        }
        for (other, rows) in others {
            let sum = |value: fn(&Row) -> u64| rows.iter().map(|row| value(row)).fold(0, u64::saturating_add);
            let (frames, own, deep) = (sum(|r| r.frames), sum(|r| r.own_ns), sum(|r| r.deep_ns));
            let each = |ns: u64| cost((frames > 0).then(|| ns as f64 / frames as f64));
            let share: f64 = rows.iter().map(|row| row.own_pct).sum();
            lines.push(vec![
                std::mem::take(&mut name),
                arrow.into(),
                count(frames),
                each(own),
                percent(share),
                each(deep),
                (*other).to_owned(),
            ]);
        }
    }
    let titles = [
        ("stage", Side::Left),
        ("", Side::Left),
        ("frames", Side::Right(9)),
        ("own/f", Side::Right(8)),
        ("own%", Side::Right(6)),
        ("deep/f", Side::Right(8)),
        (if callers { "happens below" } else { "what happens below it" }, Side::Left),
    ];
    aligned(&titles, lines.into_iter())
}

/// Quantiles of every stage.
pub fn quantiles(snapshot: &Snapshot) -> String {
    let titles = [
        ("times", Side::Right(9)),
        ("p50", Side::Right(8)),
        ("p90", Side::Right(8)),
        ("p99", Side::Right(8)),
        ("p99.9", Side::Right(8)),
        ("max", Side::Right(8)),
        ("stage", Side::Left),
    ];
    let lines = histograms(snapshot).into_iter().map(|(path, spread)| {
        let quantile = |q: f64| spread.quantile(snapshot, q).map_or_else(|| "-".into(), time);
        vec![
            count(spread.total()),
            quantile(0.5),
            quantile(0.9),
            quantile(0.99),
            quantile(0.999),
            time(spread.max_ns as f64),
            path,
        ]
    });
    aligned(&titles, lines)
}

/// The times of all places that `stage` names: a bar for each power of two.
pub fn histogram(snapshot: &Snapshot, stage: &str) -> Result<String, String> {
    const BAR: f64 = 40.0;
    let all = histograms(snapshot);
    let exact: Vec<_> = all.iter().filter(|(path, _)| path == stage || leaf(path) == stage).collect();
    let found = match exact.is_empty() {
        false => exact,
        true => all.iter().filter(|(path, _)| leaf(path).contains(stage)).collect(),
    };
    if found.is_empty() {
        let names: BTreeSet<&str> = all.iter().map(|(path, _)| leaf(path)).collect();
        let names = names.into_iter().collect::<Vec<_>>().join(", ");
        return Err(match names.as_str() {
            "" => "no times were measured (is there traffic?)".into(),
            names => format!("no times of a stage {stage:?}; there are {names}"),
        });
    }
    let mut out = String::new();
    let ns = |ticks: u64| ticks as f64 / if snapshot.ghz > 0.0 { snapshot.ghz } else { 1.0 };
    for (path, spread) in found {
        let total = spread.total();
        out.push_str(&format!("{path}: {} times, longest {}\n", count(total), time(spread.max_ns as f64)));
        let mut powers: BTreeMap<u16, u64> = BTreeMap::new();
        for (bucket, times) in &spread.hist {
            let sum = powers.entry(bucket / 8 * 8).or_default();
            *sum = sum.saturating_add(*times);
        }
        let most = powers.values().copied().max().unwrap_or(0).max(1) as f64;
        let titles = [
            ("from", Side::Right(9)),
            ("below", Side::Right(9)),
            ("times", Side::Right(9)),
            ("%", Side::Right(6)),
            ("", Side::Left),
        ];
        let lines = powers.iter().map(|(first, times)| {
            let (from, to) =
                (bucket_ticks(*first).0, bucket_ticks(first.saturating_add(7)).1.saturating_add(1));
            // What is there is seen.
            let bar = (BAR * *times as f64 / most).ceil() as usize;
            let share = 100.0 * *times as f64 / total.max(1) as f64;
            vec![time(ns(from)), time(ns(to)), count(*times), percent(share), "#".repeat(bar)]
        });
        out.push_str(&aligned(&titles, lines));
    }
    Ok(out)
}

#[derive(Default)]
struct Spread {
    hist: BTreeMap<u16, u64>,
    max_ns: u64,
}

impl Spread {
    fn total(&self) -> u64 {
        self.hist.values().copied().fold(0, u64::saturating_add)
    }

    fn quantile(&self, snapshot: &Snapshot, q: f64) -> Option<f64> {
        let wanted = q * self.total() as f64;
        let mut seen = 0.0;
        let bucket = self.hist.iter().find(|(_, times)| {
            seen += **times as f64;
            seen >= wanted
        });
        let most = if self.max_ns > 0 { self.max_ns as f64 } else { f64::INFINITY };
        bucket.map(|(bucket, _)| snapshot.bucket_ns(*bucket).min(most))
    }
}

/// Every place's times over all ports and threads, in the order of a frame's way.
fn histograms(snapshot: &Snapshot) -> Vec<(String, Spread)> {
    let mut places: BTreeMap<(Vec<usize>, &str), Spread> = BTreeMap::new();
    for span in snapshot.spans.iter().filter(|span| !span.hist.is_empty()) {
        let order = span.path.split(';').map(stage_order).collect();
        let spread = places.entry((order, &span.path)).or_default();
        spread.max_ns = spread.max_ns.max(span.max_ns);
        for (bucket, times) in &span.hist {
            let sum = spread.hist.entry(*bucket).or_default();
            *sum = sum.saturating_add(*times);
        }
    }
    places.into_iter().map(|((_, path), spread)| (path.to_owned(), spread)).collect()
}

/// Frames as the switch gives them; `ports`: names of ports.
pub fn slow(frames: &[SlowFrame], ports: &Snapshot) -> String {
    let titles = [
        ("time (UTC)", Side::Left),
        ("took", Side::Right(8)),
        ("bytes", Side::Right(6)),
        ("from", Side::Left),
        ("to", Side::Left),
        ("in", Side::Left),
        ("out", Side::Left),
        ("thread", Side::Left),
        ("stages", Side::Left),
    ];
    let lines = frames.iter().map(|frame| {
        let stages: Vec<String> =
            frame.stages.iter().map(|(path, ns)| format!("{path} {}", time(*ns as f64))).collect();
        vec![
            time_of_day(frame.unix_ns),
            time(frame.ns as f64),
            frame.len.to_string(),
            frame.src.clone(),
            frame.dst.clone(),
            tree::port_name(ports, frame.ingress),
            tree::port_name(ports, frame.egress),
            frame.thread.clone(),
            stages.join(", "),
        ]
    });
    aligned(&titles, lines)
}

/// 23:59:59.999999.
pub fn time_of_day(unix_ns: u64) -> String {
    let us = unix_ns / 1_000 % 86_400_000_000;
    let (s, us) = (us / 1_000_000, us % 1_000_000);
    format!("{:02}:{:02}:{:02}.{us:06}", s / 3600, s / 60 % 60, s % 60)
}
