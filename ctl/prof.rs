//! `etherctl prof`: what a frame costs.
//!
//! * [`args`]: its command line
//! * [`viewer`]: a look at the switch, under a lease
//! * [`show`], [`styles`], [`places`]: tables of a snapshot
//! * [`record`]: files of it, and two of them compared

mod args;
mod columns;
pub mod places;
mod record;
mod show;
mod styles;
mod viewer;

use etherws::control::api::prof::{Level, ProfStatus, SlowFrame, SlowProf, Snapshot, StartProf};
use etherws::control::api::{Entries, Method};
use etherws::prof::formats::json;
use etherws::prof::view::Column;
use serde::Serialize;

use crate::server::Server;
use crate::{print, table};

pub use args::Prof;
pub use record::{diff, numbers};

use args::{Calls, Show, Style};
use viewer::Switch;

/// Prints what comes of a command.
pub async fn run(server: Server, command: &Prof, json: bool) -> Result<(), String> {
    let mut switch = Switch { server };
    let text = match command {
        Prof::Start { level, how } => {
            let start = StartProf { level: Some(*level), sample: how.sample, clock: how.clock };
            status(&switch.ask(Method::StartProf, &start).await?, json)?
        }
        Prof::Stop => status(&switch.ask(Method::StopProf, &()).await?, json)?,
        Prof::Status => status(&switch.status().await?, json)?,
        Prof::Reset => status(&switch.ask(Method::ResetProf, &()).await?, json)?,
        Prof::Show(show) => shown(&mut switch, show, json).await?,
        Prof::Callers(calls) => called(&mut switch, calls, true, json).await?,
        Prof::Callees(calls) => called(&mut switch, calls, false, json).await?,
        Prof::Hist { stage, look } => {
            let (snapshot, note) = switch.look(look).await?;
            match stage {
                _ if json => document(&snapshot),
                Some(stage) => places::histogram(&snapshot, stage)?,
                None => {
                    show::header(&snapshot, &[Column::Way], note.as_deref()) + &places::quantiles(&snapshot)
                }
            }
        }
        Prof::Slow { us, limit, interval } => {
            if let Some(interval) = interval {
                switch.trace(*interval).await?;
            }
            let ask = SlowProf { us: Some(*us), limit: Some(*limit) };
            slow(&mut switch, &ask, interval.is_some(), json).await?
        }
        Prof::Record(record) => return record::run(&mut switch, record, json).await,
        // Needs no switch, and was done without one.
        Prof::Diff { a, b } => diff(a, b, json)?,
    };
    print(&text)
}

async fn shown(switch: &mut Switch, show: &Show, json: bool) -> Result<String, String> {
    let (snapshot, note) = switch.look(&show.look).await?;
    match show.style {
        _ if json => Ok(document(&snapshot)),
        Style::Etherws => Ok(show::text(&snapshot, show, note.as_deref())),
        Style::Pstats => styles::pstats(&snapshot, show),
        Style::Runtime => Ok(styles::runtime(&snapshot, show)),
    }
}

async fn called(switch: &mut Switch, calls: &Calls, callers: bool, json: bool) -> Result<String, String> {
    let (snapshot, note) = switch.look(&calls.look).await?;
    if json {
        return Ok(document(&snapshot));
    }
    Ok(show::header(&snapshot, &[Column::Way], note.as_deref()) + &places::calls(&snapshot, calls, callers))
}

async fn slow(switch: &mut Switch, ask: &SlowProf, traced: bool, json: bool) -> Result<String, String> {
    let slow: Entries<SlowFrame> = switch.ask(Method::SlowProf, ask).await?;
    if json {
        return as_json(&slow);
    }
    if !slow.entries.is_empty() {
        let names = switch.snapshot(Default::default()).await?;
        return Ok(places::slow(&slow.entries, &names));
    }
    // Back at what it was before, perhaps.
    let level = if traced { Level::Trace } else { switch.status().await?.level };
    Ok(match level {
        Level::Trace => "no frame took so long\n".into(),
        level => format!(
            "no slow frames: level is {} (etherctl prof start --level trace, or slow --interval S)\n",
            level.name()
        ),
    })
}

/// The snapshot as `record -f json` writes it.
fn document(snapshot: &Snapshot) -> String {
    let text = json::write(snapshot);
    // As JSON is written: what a terminal might act on is escaped.
    serde_json::from_slice(&text).map_or_else(|_| String::new(), |value| table::json(&value))
}

fn as_json(result: &impl Serialize) -> Result<String, String> {
    let value = serde_json::to_value(result).map_err(|e| format!("not expressible in JSON: {e}"))?;
    Ok(table::json(&value))
}

fn status(status: &ProfStatus, json: bool) -> Result<String, String> {
    if json {
        return as_json(status);
    }
    let looking = match status.leases.len() {
        0 => "nobody".into(),
        1 => "1 viewer".into(),
        many => format!("{many} viewers"),
    };
    let mut rows = vec![
        vec!["Level".into(), status.level.name().into()],
        vec!["Without viewers".into(), status.base.name().into()],
        vec!["Sampled".into(), format!("1/{} of batches", status.sample.max(1))],
        vec!["Clock".into(), show::clock(status.clock, status.ghz)],
        vec!["A clock read".into(), etherws::prof::view::number::time(status.stamp_ns)],
        vec!["Counting since".into(), format!("{:.3} s", status.elapsed_ns as f64 / 1e9)],
        vec!["Threads".into(), status.threads.to_string()],
        vec!["Looking".into(), looking],
    ];
    for lease in &status.leases {
        rows.push(vec![
            format!("Lease {}", lease.lease),
            format!("{}, 1/{}, {} ms left", lease.level.name(), lease.sample.max(1), lease.left_ms),
        ]);
    }
    Ok(table::table(rows))
}
