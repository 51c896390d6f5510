//! `prof record`: a file for other tools; `prof diff`: two files compared.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use etherws::control::api::Method;
use etherws::control::api::prof::{CpuProf, CpuProfile, Level};
use etherws::prof::formats::pstats::Stats;
use etherws::prof::formats::{self, Format, Numbers, Stack, Stacks, read_numbers};
use etherws::prof::view::diff::{Cost, compare, costs, costs_of_stats};
use etherws::prof::view::number::maybe;

use super::args::{Record, cpu_seconds};
use super::columns::{Side, aligned};
use super::viewer::Switch;
use crate::client::{TIME_LIMIT, io_text};
use crate::print;
use crate::table::escaped;

/// Looks for a while and writes the file; says so when somebody reads it.
pub async fn run(switch: &mut Switch, record: &Record, json: bool) -> Result<(), String> {
    let format = record.format.unwrap_or_else(|| by_name(record.output.as_deref()));
    let output = record.output.clone().unwrap_or_else(|| default_name(format).into());
    check(&output)?;
    let (bytes, what) = match record.cpu {
        true => cpu(switch, record, format).await?,
        false => stages(switch, record, format).await?,
    };
    if output == Path::new("-") {
        let mut out = std::io::stdout().lock();
        return match out.write_all(&bytes).and_then(|()| out.flush()) {
            Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(format!("could not write the profile: {}", io_text(&e)))
            }
            _ => Ok(()),
        };
    }
    let shown = output.display().to_string();
    std::fs::write(&output, &bytes).map_err(|e| format!("could not write {shown}: {}", io_text(&e)))?;
    match json {
        true => print(&crate::table::json(&serde_json::json!({"file": shown, "bytes": bytes.len()}))),
        false => print(&format!("{}: {what}, {} bytes of {}\n", escaped(&shown), bytes.len(), format.name())),
    }
}

/// A recording that could not be written is not begun.
fn check(output: &Path) -> Result<(), String> {
    let parent = output.parent().filter(|parent| !parent.as_os_str().is_empty());
    match parent {
        Some(parent) if !parent.is_dir() => {
            Err(format!("could not write {}: no directory {}", output.display(), parent.display()))
        }
        _ if output.is_dir() => Err(format!("could not write {}: it is a directory", output.display())),
        _ => Ok(()),
    }
}

fn by_name(output: Option<&Path>) -> Format {
    output.and_then(|path| Format::of(path).ok()).unwrap_or(Format::Pprof)
}

fn default_name(format: Format) -> &'static str {
    match format {
        Format::Pprof => "etherws-prof.pb.gz",
        Format::Folded => "etherws-prof.folded",
        Format::Speedscope => "etherws-prof.speedscope.json",
        Format::Svg => "etherws-prof.svg",
        Format::Pstats => "etherws-prof.pstats",
        Format::Json => "etherws-prof.json",
    }
}

async fn stages(switch: &mut Switch, record: &Record, format: Format) -> Result<(Vec<u8>, String), String> {
    let snapshot = switch.watch(record.duration, Level::Stage, record.how).await?;
    let seconds = snapshot.elapsed_ns as f64 / 1e9;
    Ok((formats::write(&snapshot, format)?, format!("{seconds:.3} s of stages")))
}

async fn cpu(switch: &mut Switch, record: &Record, format: Format) -> Result<(Vec<u8>, String), String> {
    let ask = CpuProf { seconds: Some(cpu_seconds(record.duration)?), hz: record.hz };
    let limit = record.duration + TIME_LIMIT + Duration::from_secs(20);
    let profile: CpuProfile = switch.ask_within(Method::CpuProf, &ask, limit).await?;
    let samples: u64 = profile.stacks.iter().map(|stack| stack.count).fold(0, u64::saturating_add);
    let mut what = format!("{:.3} s, {samples} samples of functions", profile.elapsed_ns as f64 / 1e9);
    if profile.lost > 0 {
        what.push_str(&format!(", {} lost", profile.lost));
    }
    if let Some(note) = &profile.note {
        what.push_str(&format!(" ({})", escaped(note)));
    }
    let bytes = match format {
        Format::Json => serde_json::to_vec_pretty(&profile).map_err(|e| e.to_string())?,
        other => sampled(&profile).write(other)?,
    };
    Ok((bytes, what))
}

/// Sampled stacks, below their threads.
fn sampled(profile: &CpuProfile) -> Stacks {
    let period_ns = 1_000_000_000 / u64::from(profile.hz.max(1));
    let stack = |stack: &etherws::control::api::prof::CpuStack| Stack {
        thread: stack.thread.clone(),
        names: std::iter::once(&stack.thread).chain(&stack.stack).cloned().collect(),
        values: vec![stack.count, stack.count.saturating_mul(period_ns)],
        labels: vec![("thread", stack.thread.clone())],
    };
    Stacks {
        program: profile.program.clone(),
        title: format!("{}, CPU time by function", profile.program),
        unix_ns: 0,
        elapsed_ns: profile.elapsed_ns,
        values: vec![("samples", "count"), ("cpu", "nanoseconds")],
        period_ns,
        stacks: profile.stacks.iter().map(stack).collect(),
    }
}

/// Own time per frame and per byte in two files.
pub fn diff(a: &Path, b: &Path, json: bool) -> Result<String, String> {
    let (first, second) = (numbers(a)?, numbers(b)?);
    let (first, second) = match (&first, &second) {
        (Numbers::Snapshot(a), Numbers::Snapshot(b)) => (costs(a), costs(b)),
        (a, b) => (functions(a), functions(b)),
    };
    let changes = compare(&first, &second);
    if json {
        let side = |cost: Option<Cost>| {
            cost.map(|c| serde_json::json!({"frames": c.frames, "bytes": c.bytes, "own_ns": c.own_ns}))
        };
        let entries: Vec<_> = changes
            .iter()
            .map(|c| {
                let (a, b) = (side(c.a), side(c.b));
                serde_json::json!({"stage": c.name, "a": a, "b": b, "percent": c.percent()})
            })
            .collect();
        return Ok(crate::table::json(&serde_json::json!({"entries": entries})));
    }
    let titles = [
        ("A ns/f", Side::Right(8)),
        ("B ns/f", Side::Right(8)),
        ("change", Side::Right(8)),
        ("A ns/B", Side::Right(8)),
        ("B ns/B", Side::Right(8)),
        ("A ms", Side::Right(8)),
        ("B ms", Side::Right(8)),
        ("stage", Side::Left),
    ];
    let rows = changes.iter().map(|change| {
        let of = |cost: Option<Cost>, value: fn(&Cost) -> Option<f64>| maybe(cost.as_ref().and_then(value));
        let percent = change.percent().map_or_else(
            || if change.a.is_none() { "new".into() } else { "gone".into() },
            |percent| format!("{percent:+.1}%"),
        );
        vec![
            of(change.a, Cost::per_frame),
            of(change.b, Cost::per_frame),
            percent,
            of(change.a, Cost::per_byte),
            of(change.b, Cost::per_byte),
            of(change.a, |cost| Some(cost.own_ns / 1e6)),
            of(change.b, |cost| Some(cost.own_ns / 1e6)),
            change.name.clone(),
        ]
    });
    let head = format!("A {}\nB {}\n", escaped(&a.display().to_string()), escaped(&b.display().to_string()));
    Ok(head + &aligned(&titles, rows))
}

fn functions(numbers: &Numbers) -> BTreeMap<String, Cost> {
    match numbers {
        Numbers::Snapshot(snapshot) => costs_of_stats(&Stats::of(&Stacks::of(snapshot))),
        Numbers::Stats(stats) => costs_of_stats(stats),
    }
}

/// A json or pstats file; the error names it.
pub fn numbers(path: &Path) -> Result<Numbers, String> {
    let shown = escaped(&path.display().to_string());
    let bytes = std::fs::read(path).map_err(|e| format!("could not read {shown}: {}", io_text(&e)))?;
    read_numbers(&bytes).map_err(|why| format!("could not read {shown}: {}", escaped(&why)))
}
