//! `prof show` in our own style: a header line, a row a stage, and below them what a frame costs in each
//! direction.

use std::collections::BTreeSet;

use etherws::prof::snapshot::{Cell, Clock, Snapshot};
use etherws::prof::stage::{Dir, is_wall};
use etherws::prof::view::number::{count, maybe, percent};
use etherws::prof::view::sort::{select, sort};
use etherws::prof::view::{Column, Row, Selection, Split, Unit, rows, total_ns, unaccounted, volume};

use super::args::Show;
use super::columns::{Side, aligned};

/// Rows shown when nobody says how many.
const ROWS: usize = 20;

/// What `show` prints.
pub fn text(snapshot: &Snapshot, show: &Show, note: Option<&str>) -> String {
    let by = show.by.unwrap_or_default();
    let columns = &show.sort.0;
    let mut all = rows(snapshot, &by);
    sort(&mut all, columns, show.reverse);
    let found = all.len();
    let counted = show.selection.iter().any(|s| !matches!(s, Selection::Matching(_)));
    let mut chosen = select(all, &show.selection, label);
    let matching = chosen.len();
    if !counted {
        chosen.truncate(ROWS);
    }
    let mut out = header(snapshot, columns, note);
    if found == 0 {
        out.push_str("nothing was measured: no frames, or not long enough (--interval S looks longer)\n");
        return out;
    }
    if matching == 0 {
        out.push_str("no row has all that was asked for (each word narrows what is left)\n");
        return out;
    }
    out.push_str(&table(&chosen, &by, show.unit, snapshot));
    match matching - chosen.len() {
        0 => {}
        1 => out.push_str("  1 row more (a number shows so many)\n"),
        more => out.push_str(&format!("  {more} rows more (a number shows so many)\n")),
    }
    if show.by.is_none() && show.selection.is_empty() {
        out.push_str(&directions(snapshot, show.unit));
    }
    out
}

/// `Clock: wall (TSC 2.6 GHz)  Ordered by: own time  10.000 s  sampled 1/64  lost 0`
pub fn header(snapshot: &Snapshot, columns: &[Column], note: Option<&str>) -> String {
    let titles: Vec<_> = columns.iter().map(|column| column.title()).collect();
    let note = note.map(|note| format!("  {note}")).unwrap_or_default();
    format!(
        "Clock: {}  Ordered by: {}  {:.3} s  sampled 1/{}  lost {}{note}\n",
        clock(snapshot.clock, snapshot.ghz),
        titles.join(", "),
        snapshot.elapsed_ns as f64 / 1e9,
        snapshot.sample.max(1),
        snapshot.lost,
    )
}

pub fn clock(clock: Clock, ghz: f64) -> String {
    match clock {
        Clock::Wall if ghz > 0.0 => format!("wall (TSC {ghz:.1} GHz)"),
        Clock::Wall => "wall".into(),
        Clock::Cpu => "cpu (CLOCK_THREAD_CPUTIME_ID)".into(),
    }
}

/// What patterns of a selection are looked for in.
pub fn label(row: &Row) -> String {
    let parts = [row.path.clone(), row.thread.clone(), row.port_label(), dir(row.dir), row.size.clone()];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

fn dir(dir: Option<Dir>) -> String {
    dir.map_or_else(String::new, |dir| dir.name().to_owned())
}

fn table(rows: &[Row], by: &Split, unit: Unit, snapshot: &Snapshot) -> String {
    let ghz = snapshot.ghz;
    let per_byte = match unit {
        Unit::Ns => "ns/B",
        Unit::Us => "us/B",
        Unit::Cycles => "cyc/B",
    };
    let split =
        [(by.thread, "thread"), (by.port, "port"), (by.dir, "dir"), (by.size, "size"), (by.stage, "stage")];
    let split: Vec<&str> = split.into_iter().filter(|(is, _)| *is).map(|(_, title)| title).collect();
    let mut titles: Vec<(&str, Side)> = [
        ("frames", 9),
        ("own/f", 8),
        ("own%", 6),
        ("deep/f", 8),
        ("deep%", 6),
        ("cyc/f", 7),
        (per_byte, 6),
        ("p50", 6),
        ("p99", 6),
        ("max", 6),
        ("f/batch", 8),
    ]
    .map(|(title, width)| (title, Side::Right(width)))
    .into();
    titles.extend(split.iter().map(|title| (*title, Side::Left)));
    let lines = rows.iter().map(|row| {
        let cost = |ns: Option<f64>| maybe(ns.map(|ns| unit.of(ns, ghz)));
        let share = |value: f64| if row.wall { "-".into() } else { percent(value) };
        // A group does nothing itself.
        let own = row.own_per_frame().filter(|_| !row.group);
        let mut cells = vec![
            row.frames.to_string(),
            cost(own),
            match row {
                _ if row.group => "-".into(),
                _ if row.wall && row.frames == 0 => waited(row, snapshot),
                _ => share(row.own_pct),
            },
            cost(row.deep_per_frame()),
            share(row.deep_pct),
            maybe(own.filter(|_| ghz > 0.0).map(|ns| ns * ghz)),
            cost(row.own_per_byte().filter(|_| !row.group)),
            cost(row.p50_ns),
            cost(row.p99_ns),
            cost(row.max_ns),
            maybe(row.frames_per_batch()),
        ];
        cells.extend(split.iter().map(|title| match *title {
            "thread" => row.thread.clone(),
            "port" => row.port_label(),
            "dir" => dir(row.dir),
            "size" if row.size.is_empty() => "-".into(),
            "size" => row.size.clone(),
            _ => row.path.clone(),
        }));
        cells
    });
    aligned(&titles, lines)
}

/// A thread's waiting in percent of the time that passed; in brackets, since it is no part of any sum.
fn waited(row: &Row, snapshot: &Snapshot) -> String {
    let waiting =
        |cell: &&Cell| cell.path == row.path && (row.thread.is_empty() || cell.thread == row.thread);
    let threads: BTreeSet<&str> = snapshot.cells.iter().filter(waiting).map(|c| c.thread.as_str()).collect();
    let passed = snapshot.elapsed_ns as f64 * threads.len() as f64;
    if passed > 0.0 { format!("({:.1})", 100.0 * row.own_ns as f64 / passed) } else { "-".into() }
}

/// What a frame costs that way: client to server beside server to client, per frame and per byte, each
/// stage's part of it; and what of it is fixed, and what grows with the frame.
fn directions(snapshot: &Snapshot, unit: Unit) -> String {
    struct Way {
        dir: Dir,
        frames: u64,
        bytes: u64,
    }
    let ways = Dir::ALL.into_iter().map(|dir| {
        let busy = |cell: &&Cell| cell.port != 0 && !is_wall(&cell.path);
        let cells = snapshot.cells.iter().filter(busy).filter(move |cell| cell.dir == dir);
        let (frames, bytes) = volume(cells);
        Way { dir, frames, bytes }
    });
    // Frames over no link are shown when there are no others.
    let ways: Vec<Way> = ways.filter(|way| way.frames > 0).collect();
    if ways.is_empty() {
        return String::new();
    }
    let each = |ns: u64, of: u64| {
        let ns = (of > 0 && ns > 0).then(|| unit.of(ns as f64 / of as f64, snapshot.ghz));
        maybe(ns)
    };
    let mut titles = Vec::new();
    for way in &ways {
        let name = way.dir.name();
        titles.extend([format!("{name} {}/f", unit.name()), format!("{name} /B")]);
    }
    let mut titles: Vec<(&str, Side)> = titles.iter().map(|title| (title.as_str(), Side::Right(9))).collect();
    titles.extend([("fixed", Side::Right(8)), ("+ per byte", Side::Right(8)), ("stage", Side::Left)]);

    let by = Split { stage: true, dir: true, ..Split::NOTHING };
    let split = rows(snapshot, &by);
    let whole = rows(snapshot, &Split::default());
    let mut lines = Vec::new();
    let all: Vec<String> = ways
        .iter()
        .flat_map(|way| {
            let cells = snapshot.cells.iter().filter(|cell| cell.dir == way.dir && cell.port != 0);
            let ns =
                cells.filter(|cell| !is_wall(&cell.path)).map(|cell| cell.ns).fold(0, u64::saturating_add);
            [each(ns, way.frames), each(ns, way.bytes)]
        })
        .collect();
    lines.push([all, vec!["-".into(), "-".into(), "all".into()]].concat());
    for row in whole.iter().filter(|row| !row.group && !row.wall && row.frames > 0) {
        let mut cells: Vec<String> = ways
            .iter()
            .flat_map(|way| {
                let ns = split.iter().find(|r| r.path == row.path && r.dir == Some(way.dir));
                let ns = ns.map_or(0, |r| r.own_ns);
                [each(ns, way.frames), each(ns, way.bytes)]
            })
            .collect();
        let cost = |ns: Option<f64>| maybe(ns.map(|ns| unit.of(ns, snapshot.ghz)));
        cells.extend([cost(row.fixed_ns()), cost(row.per_byte_ns()), row.path.clone()]);
        lines.push(cells);
    }
    let frames: Vec<_> = ways.iter().map(|way| format!("{} {}", way.dir.name(), count(way.frames))).collect();
    let rest: u64 = unaccounted(snapshot).iter().map(|cell| cell.ns).fold(0, u64::saturating_add);
    let total = total_ns(snapshot);
    let rest = if total > 0 { 100.0 * rest as f64 / total as f64 } else { 0.0 };
    format!(
        "\nA frame's cost, from the client to the server (c>s) and back (s>c); frames: {}; unaccounted {}%\n{}",
        frames.join(", "),
        percent(rest),
        aligned(&titles, lines.into_iter())
    )
}
