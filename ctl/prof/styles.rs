//! `prof show` as users of other profilers know it: pstats' report, VPP's `show runtime`.

use etherws::prof::formats::Stacks;
use etherws::prof::formats::pstats::Stats;
use etherws::prof::snapshot::Snapshot;
use etherws::prof::view::number::cost;
use etherws::prof::view::report::{Report, Restriction};
use etherws::prof::view::sort::{select, sort};
use etherws::prof::view::{Column, Row, Split, rows};

use super::args::Show;
use super::show::label;
use crate::table::escaped_lines;

/// pstats' header lines and columns; seconds.
pub fn pstats(snapshot: &Snapshot, show: &Show) -> Result<String, String> {
    let stats = Stats::of(&Stacks::of(snapshot));
    let file = format!("{:.3} s of {}", snapshot.elapsed_ns as f64 / 1e9, snapshot.program);
    let mut report = Report::new(file, stats);
    let keys: Vec<&str> = show.sort.0.iter().map(|column| in_pstats(*column)).collect();
    report.sort(&keys);
    if show.reverse {
        report.reverse();
    }
    let restrictions: Result<Vec<Restriction>, String> =
        show.selection.iter().map(|selection| Restriction::new(&selection.to_string())).collect();
    Ok(escaped_lines(&report.print_stats(&restrictions?)) + "\n")
}

/// What pstats calls a column; what it does not have is time.
fn in_pstats(column: Column) -> &'static str {
    match column {
        Column::Frames | Column::Bytes => "calls",
        Column::Deep | Column::DeepPerFrame => "cumulative",
        Column::Stage => "name",
        Column::Way => "line",
        Column::Port | Column::Thread | Column::Dir | Column::Size => "filename",
        _ => "time",
    }
}

/// VPP's `show runtime`: a section a thread, clocks a vector. A frame is a vector, a batch a call.
pub fn runtime(snapshot: &Snapshot, show: &Show) -> String {
    let by = Split { stage: true, thread: true, ..Split::NOTHING };
    let mut all: Vec<Row> = rows(snapshot, &by).into_iter().filter(|row| !row.group).collect();
    sort(&mut all, &show.sort.0, show.reverse);
    let mut out = String::new();
    let threads: std::collections::BTreeSet<String> = all.iter().map(|row| row.thread.clone()).collect();
    let seconds = snapshot.elapsed_ns as f64 / 1e9;
    for (index, thread) in threads.iter().enumerate() {
        let of_thread: Vec<Row> = all.iter().filter(|row| row.thread == *thread).cloned().collect();
        let vectors = of_thread.iter().filter(|row| row.path.starts_with("rx.")).map(|row| row.frames).max();
        let rate = if seconds > 0.0 { vectors.unwrap_or(0) as f64 / seconds } else { 0.0 };
        out.push_str(&format!("Thread {index} {thread}\nTime {seconds:.1}, vector rate in {rate:.4e}\n"));
        out.push_str(&node("Name", "State", "Calls", "Vectors", "Suspends", "Clocks", "Vectors/Call"));
        for row in select(of_thread, &show.selection, label) {
            let state = match (row.wall, row.frames) {
                (true, _) => "event wait",
                (_, 0) => "done",
                _ => "active",
            };
            let ghz = if snapshot.ghz > 0.0 { snapshot.ghz } else { 1.0 };
            let clocks = cost(row.own_per_frame().unwrap_or(row.own_ns as f64) * ghz);
            let (calls, vectors) = (row.batches.to_string(), row.frames.to_string());
            let per_call = format!("{:.2}", row.frames_per_batch().unwrap_or(0.0));
            out.push_str(&node(&row.path, state, &calls, &vectors, "0", &clocks, &per_call));
        }
        out.push('\n');
    }
    escaped_lines(&out) + "\n"
}

fn node(
    name: &str,
    state: &str,
    calls: &str,
    vectors: &str,
    suspends: &str,
    clocks: &str,
    per: &str,
) -> String {
    format!("{name:<36}{state:^12}{calls:>16}{vectors:>16}{suspends:>16}{clocks:>16}{per:>16}\n")
}
