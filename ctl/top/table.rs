//! The table: what it has a row for, its columns, what of a snapshot is in it.

use etherws::prof::snapshot::Snapshot;
use etherws::prof::view::sort::{Column as Key, sort};
use etherws::prof::view::{Row, Split, number, rows, total_ns, unaccounted};

use super::prompt::Filter;

/// What the outermost table has a row for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Base {
    #[default]
    Stages,
    Ports,
    Threads,
}

/// What a table has a row for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Of {
    Stage,
    Port,
    Thread,
    Size,
}

/// A row that was gone into.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    Stage(String),
    /// Number, and what it is called.
    Port(u32, String),
    Thread(String),
}

/// Where one is: a base and what was gone into from there.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Place {
    pub base: Base,
    pub steps: Vec<Step>,
}

/// A line: what it is for, its figures.
#[derive(Clone, PartialEq, Debug)]
pub struct Line {
    pub label: String,
    /// Where Enter leads; nowhere from a size.
    pub step: Option<Step>,
    pub row: Row,
}

impl Place {
    /// What the table has a row for here.
    pub fn of(&self) -> Of {
        let order: &[Of] = match self.base {
            Base::Stages => &[Of::Stage, Of::Port],
            Base::Ports => &[Of::Port, Of::Stage],
            Base::Threads => &[Of::Thread, Of::Stage, Of::Port],
        };
        order.get(self.steps.len()).copied().unwrap_or(Of::Size)
    }

    /// `stages > tx.ws.mask > 2 far`.
    pub fn text(&self) -> String {
        let base = match self.base {
            Base::Stages => "stages",
            Base::Ports => "ports",
            Base::Threads => "threads",
        };
        let steps = self.steps.iter().map(|step| match step {
            Step::Stage(path) => path.as_str(),
            Step::Port(_, label) => label,
            Step::Thread(name) => name,
        });
        std::iter::once(base).chain(steps).collect::<Vec<_>>().join(" > ")
    }

    /// The lines of `snapshot` in order. Shares are of all processor time, zoomed in or not.
    pub fn lines(&self, snapshot: &Snapshot, order: Key, filter: Option<&Filter>) -> Vec<Line> {
        let total = total_ns(snapshot) as f64;
        let share = |ns: u64| if total > 0.0 { 100.0 * ns as f64 / total } else { 0.0 };
        let narrowed = self.narrowed(snapshot);
        let stage = self.steps.iter().find_map(|step| match step {
            Step::Stage(path) => Some(path.as_str()),
            _ => None,
        });
        let of = self.of();
        let split = Split {
            stage: of == Of::Stage || stage.is_some(),
            port: of == Of::Port,
            thread: of == Of::Thread,
            size: of == Of::Size,
            dir: false,
        };
        let mut rows = rows(&narrowed, &split);
        rows.retain(|row| !row.group && stage.is_none_or(|path| row.path == path));
        for row in &mut rows {
            if !row.wall {
                (row.own_pct, row.deep_pct) = (share(row.own_ns), share(row.deep_ns));
            }
        }
        sort(&mut rows, &[order, Key::Way, Key::Port, Key::Thread, Key::Size], false);
        let line = |row: Row| {
            let (label, step) = label(of, &row, snapshot);
            Line { label, step, row }
        };
        let lines = rows.into_iter().map(line);
        lines.filter(|line| filter.is_none_or(|filter| filter.finds(&line.label))).collect()
    }

    /// What is at this place, and what stands below it in the tree. What no stage explains is a cell in it.
    pub fn narrowed(&self, snapshot: &Snapshot) -> Snapshot {
        let mut out = snapshot.clone();
        out.cells.extend(unaccounted(snapshot));
        out.threads.iter_mut().for_each(|thread| thread.staged_cpu_ns = 0);
        let below = |path: &str, top: &str| {
            path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with(';'))
        };
        let inside = |thread: &str, port: u32, path: &str| {
            self.steps.iter().all(|step| match step {
                Step::Stage(top) => below(path, top),
                Step::Port(number, _) => port == *number,
                Step::Thread(name) => thread == name,
            })
        };
        out.cells.retain(|cell| inside(&cell.thread, cell.port, &cell.path));
        out.spans.retain(|span| inside(&span.thread, span.port, &span.path));
        out
    }
}

fn label(of: Of, row: &Row, snapshot: &Snapshot) -> (String, Option<Step>) {
    match of {
        Of::Stage => (row.path.clone(), Some(Step::Stage(row.path.clone()))),
        Of::Port => {
            let number = row.port.as_ref().map_or(0, |(number, _)| *number);
            let label = port_label(number, snapshot);
            (label.clone(), Some(Step::Port(number, label)))
        }
        Of::Thread => (row.thread.clone(), Some(Step::Thread(row.thread.clone()))),
        Of::Size if row.size.is_empty() => ("no frame's".into(), None),
        Of::Size => (row.size.clone(), None),
    }
}

/// `2 far (client)`.
pub fn port_label(number: u32, snapshot: &Snapshot) -> String {
    match snapshot.ports.iter().find(|port| port.port == number) {
        _ if number == 0 => "no port's".into(),
        None => number.to_string(),
        Some(port) => {
            let kind = if port.kind.is_empty() { String::new() } else { format!(" ({})", port.kind) };
            format!("{number} {}{kind}", port.name)
        }
    }
}

/// A column of figures.
pub struct Column {
    pub title: &'static str,
    pub order: Key,
    pub width: u16,
    /// The higher, the longer it stays when there is little room.
    pub weight: u8,
    pub text: fn(&Row, f64) -> String,
}

/// From left to right; the label stands behind them.
pub const COLUMNS: [Column; 11] = [
    Column {
        title: "frames",
        order: Key::Frames,
        width: 9,
        weight: 8,
        text: |row, _| number::count(row.frames),
    },
    Column {
        title: "own/f",
        order: Key::OwnPerFrame,
        width: 8,
        weight: 10,
        text: |row, _| number::maybe(row.own_per_frame()),
    },
    Column {
        title: "own%",
        order: Key::Own,
        width: 7,
        weight: 11,
        text: |row, _| if row.wall { "wall".into() } else { number::percent(row.own_pct) },
    },
    Column {
        title: "deep/f",
        order: Key::DeepPerFrame,
        width: 8,
        weight: 5,
        text: |row, _| number::maybe(row.deep_per_frame()),
    },
    Column {
        title: "deep%",
        order: Key::Deep,
        width: 7,
        weight: 9,
        text: |row, _| if row.wall { "wall".into() } else { number::percent(row.deep_pct) },
    },
    Column {
        title: "cyc/f",
        order: Key::OwnPerFrame,
        width: 8,
        weight: 2,
        text: |row, ghz| number::maybe(row.own_per_frame().map(|ns| ns * if ghz > 0.0 { ghz } else { 1.0 })),
    },
    Column {
        title: "ns/B",
        order: Key::OwnPerByte,
        width: 8,
        weight: 4,
        text: |row, _| number::maybe(row.own_per_byte()),
    },
    Column { title: "p50", order: Key::P50, width: 7, weight: 6, text: |row, _| number::maybe(row.p50_ns) },
    Column { title: "p99", order: Key::P99, width: 7, weight: 7, text: |row, _| number::maybe(row.p99_ns) },
    Column { title: "max", order: Key::Max, width: 8, weight: 3, text: |row, _| number::maybe(row.max_ns) },
    Column {
        title: "f/batch",
        order: Key::FramesPerBatch,
        width: 8,
        weight: 1,
        text: |row, _| number::maybe(row.frames_per_batch()),
    },
];

/// Width that labels are not pushed below: that of most paths, and the mark.
const LABEL: u16 = 25;

/// The columns, from the one numbered `first` on, that fit into `width` beside the label. The least
/// important go first; `sorted` stays longest.
pub fn fitting(first: usize, sorted: Key, width: u16) -> Vec<&'static Column> {
    let mut left: Vec<&Column> = COLUMNS.iter().skip(first).collect();
    let weight = |column: &Column| if column.order == sorted { 100 + column.weight } else { column.weight };
    while left.iter().map(|column| column.width + 1).sum::<u16>() + LABEL > width {
        let Some(least) = (0..left.len()).min_by_key(|&at| weight(left[at])) else { break };
        left.remove(least);
    }
    left
}

#[cfg(test)]
pub mod tests {
    use etherws::prof::snapshot::{Batches, Cell, PortName, Span, Thread};
    use etherws::prof::stage::Dir;
    use proptest::prelude::*;

    use super::*;

    fn titles(columns: &[&Column]) -> Vec<&'static str> {
        columns.iter().map(|column| column.title).collect()
    }

    #[test]
    fn columns_go_by_their_weight() {
        assert_eq!(fitting(0, Key::Own, 300).len(), COLUMNS.len());
        let narrow = titles(&fitting(0, Key::Own, 80));
        assert_eq!(narrow, ["frames", "own/f", "own%", "deep%", "p50", "p99"]);
        assert_eq!(titles(&fitting(0, Key::Max, 45)), ["own%", "max"]);
        assert_eq!(titles(&fitting(5, Key::Own, 80)), ["cyc/f", "ns/B", "p50", "p99", "max", "f/batch"]);
        assert!(fitting(0, Key::Own, 3).is_empty());
    }

    /// Two ports, two threads, one place below another, 1,100 ns in all of which 100 are unexplained.
    pub fn snapshot() -> Snapshot {
        let cell = |thread: &str, port, size: &str, path: &str, ns| Cell {
            thread: thread.into(),
            port,
            dir: Dir::Local,
            size: size.into(),
            path: path.into(),
            frames: 10,
            bytes: 640,
            ns,
        };
        let named = |port, name: &str, kind: &str| PortName {
            port,
            name: name.into(),
            kind: kind.into(),
            ..PortName::default()
        };
        Snapshot {
            elapsed_ns: 1_000_000_000,
            ghz: 2.0,
            sample: 1,
            host: "here".into(),
            ports: vec![named(1, "vms", "tap"), named(2, "far", "client")],
            threads: vec![
                Thread { name: "data-0".into(), cpu_ns: 250_000_000, staged_cpu_ns: 700 },
                Thread { name: "data-1".into(), cpu_ns: 150_000_000, staged_cpu_ns: 400 },
            ],
            batches: vec![Batches {
                thread: "data-0".into(),
                port: 1,
                batches: 5,
                frames: 20_000,
                bytes: 2_000_000,
                ns: 900,
            }],
            cells: vec![
                cell("data-0", 1, "<=64", "rx.tap.read", 200),
                cell("data-0", 1, "1518", "rx.tap.read", 100),
                cell("data-0", 2, "<=64", "tx.ws.encode", 100),
                cell("data-0", 2, "1518", "tx.ws.encode;tx.ws.mask", 200),
                cell("data-1", 1, "<=64", "tx.tap.write", 300),
                cell("data-1", 2, "<=64", "tx.tap.write", 100),
                cell("data-1", 2, "", "rx.wait", 9_000),
            ],
            spans: vec![Span {
                thread: "data-0".into(),
                port: 1,
                path: "rx.tap.read".into(),
                batches: 5,
                max_ns: 60,
                hist: vec![(20, 20)],
            }],
            ..Snapshot::default()
        }
    }

    fn shown(place: &Place) -> Vec<(String, u64, u64)> {
        let lines = place.lines(&snapshot(), Key::Own, None);
        lines.into_iter().map(|line| (line.label, line.row.own_ns, line.row.deep_ns)).collect()
    }

    fn line(label: &str, own: u64, deep: u64) -> (String, u64, u64) {
        (label.into(), own, deep)
    }

    #[test]
    fn stages_then_their_ports_then_their_sizes() {
        let mut place = Place::default();
        let lines = shown(&place);
        assert_eq!(lines[0], line("tx.tap.write", 400, 400));
        assert!(
            lines.contains(&line("tx.ws.encode", 100, 300)) && lines.contains(&line("unaccounted", 100, 100))
        );
        place.steps.push(Step::Stage("tx.ws.encode".into()));
        assert_eq!(shown(&place), [line("2 far (client)", 100, 300)]);
        place.steps.push(Step::Port(2, "2 far (client)".into()));
        assert_eq!(place.of(), Of::Size);
        assert_eq!(place.text(), "stages > tx.ws.encode > 2 far (client)");
        assert!(shown(&place).contains(&line("<=64", 100, 100)), "{:?}", shown(&place));
    }

    #[test]
    fn ports_and_threads_add_up_and_shares_are_of_all() {
        let ports = Place { base: Base::Ports, steps: Vec::new() };
        let expected =
            [line("1 vms (tap)", 600, 600), line("2 far (client)", 400, 400), line("no port's", 100, 100)];
        assert_eq!(shown(&ports), expected);
        let threads = Place { base: Base::Threads, steps: Vec::new() };
        assert_eq!(shown(&threads), [line("data-0", 700, 700), line("data-1", 400, 400)]);
        let inner = Place { base: Base::Ports, steps: vec![Step::Port(1, String::new())] };
        let lines = inner.lines(&snapshot(), Key::Own, None);
        assert_eq!(lines[0].label, "rx.tap.read");
        assert!((lines[0].row.own_pct - 300.0 / 11.0).abs() < 1e-9, "{}", lines[0].row.own_pct);
        assert!(lines[0].row.p50_ns.is_some());
    }

    #[test]
    fn a_filter_leaves_what_it_finds() {
        let filter = Filter::of("^tx.*mask$");
        let lines = Place::default().lines(&snapshot(), Key::Own, filter.as_ref());
        assert_eq!(
            lines.iter().map(|line| line.label.as_str()).collect::<Vec<_>>(),
            ["tx.ws.encode;tx.ws.mask"]
        );
    }

    prop_compose! {
        /// Anything that passes for a snapshot: names that are none, sums that no 64 bits hold.
        pub fn any_snapshot()(
            cells in prop::collection::vec(
                ("[a-c\u{1b}]{0,3}", 0..4_u32, prop::sample::select(vec!["", "<=64", "super", "?"]),
                 "(rx|sw|tx|q|\u{202e})?[.;a-z]{0,9}", any::<u64>(), any::<u64>(), any::<u64>()), 0..12),
            spans in prop::collection::vec(
                ("[a-c]{0,3}", 0..4_u32, "[.;a-z]{0,9}", any::<u64>(),
                 prop::collection::vec((any::<u16>(), any::<u64>()), 0..4)), 0..6),
            threads in prop::collection::vec(("[a-c]{0,3}", any::<u64>(), any::<u64>()), 0..4),
            numbers in (any::<u64>(), any::<u64>(), any::<u32>()),
            ghz in prop_oneof![Just(0.0), Just(2.6), any::<f64>()],
        ) -> Snapshot {
            Snapshot {
                elapsed_ns: numbers.0,
                lost: numbers.1,
                sample: numbers.2,
                ghz,
                cells: cells.into_iter().map(|(thread, port, size, path, frames, bytes, ns)| Cell {
                    thread, port, dir: Dir::Local, size: size.into(), path, frames, bytes, ns,
                }).collect(),
                spans: spans.into_iter().map(|(thread, port, path, count, hist)| Span {
                    thread, port, path, batches: count, max_ns: count, hist,
                }).collect(),
                batches: threads.iter().map(|(name, a, b)| Batches {
                    thread: name.clone(), port: 1, batches: *a, frames: *b, bytes: *a, ns: *b,
                }).collect(),
                threads: threads.into_iter().map(|(name, cpu_ns, staged_cpu_ns)| {
                    Thread { name, cpu_ns, staged_cpu_ns }
                }).collect(),
                ..Snapshot::default()
            }
        }
    }
}
