//! Tables and trees of a snapshot. Own time is added up, never averaged; what passes without a processor
//! ([`is_wall`]) is shown and stands in no sum; what no stage explains is a row of its own.
//!
//! * [`rows`]: one row for each place and whatever else the table is split by
//! * [`number`]: costs as text
//! * [`sort`]: names of columns, order, selection
//! * [`diff`]: two of them
//! * [`report`]: as pstats prints
//! * [`tree`]: stacks, for flame graphs

pub mod diff;
pub mod fit;
pub mod number;
pub mod report;
pub mod sort;
pub mod tree;

use std::collections::{BTreeMap, BTreeSet};

use super::Stage;
use super::snapshot::{Cell, Snapshot, Span};
use super::stage::{Dir, is_wall};

pub use fit::Fit;
pub use number::Unit;
pub use sort::{Column, Selection};
pub use tree::{Node, Top, tree};

/// What a table has a row for (`--by`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Split {
    pub stage: bool,
    pub port: bool,
    pub thread: bool,
    pub dir: bool,
    pub size: bool,
}

/// A line of a table. Times in nanoseconds; shares in percent of all processor time.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Row {
    /// Stages from the outermost to this one, `;` between; a group (`rx`, `sw`, `tx`) has no stage of its
    /// own; empty when not split by them.
    pub path: String,
    /// Empty when not split by them, like the rest.
    pub thread: String,
    /// Number and name; 0 is no port's.
    pub port: Option<(u32, String)>,
    pub dir: Option<Dir>,
    pub size: String,
    /// Time that passes without a processor: it has no share.
    pub wall: bool,
    /// All stages of `rx`, `sw` or `tx` together.
    pub group: bool,
    pub frames: u64,
    pub bytes: u64,
    pub own_ns: u64,
    pub own_pct: f64,
    pub deep_ns: u64,
    pub deep_pct: f64,
    /// 0: not known, as when split by direction or size.
    pub batches: u64,
    pub p50_ns: Option<f64>,
    pub p99_ns: Option<f64>,
    pub max_ns: Option<f64>,
    /// What a frame costs however long it is, and each of its bytes; with two sizes or more.
    pub fit: Option<Fit>,
}

/// One row for each place (and what else `by` says), in the order of a frame's way.
pub fn rows(snapshot: &Snapshot, by: &Split) -> Vec<Row> {
    let unaccounted = unaccounted(snapshot);
    let mut places: BTreeMap<Key, Place> = BTreeMap::new();
    for cell in snapshot.cells.iter().chain(&unaccounted) {
        let key = Key::of(cell, by);
        if !by.stage {
            places.entry(key).or_default().own.push(cell);
            continue;
        }
        if let Some(group @ ("rx" | "sw" | "tx")) = group(&cell.path)
            && !is_wall(&cell.path)
        {
            places.entry(key.at(group)).or_default().below.push(cell);
        }
        for parent in parents(&cell.path) {
            places.entry(key.at(parent)).or_default().below.push(cell);
        }
        places.entry(key.at(&cell.path)).or_default().own.push(cell);
    }
    // A group of one says what its stage says; where all only waited, nothing is said without the stage.
    places.retain(|key, place| match key.path {
        "" => place.own.iter().any(|cell| !is_wall(&cell.path)),
        _ => !key.is_group() || place.stages() > 1,
    });
    if !by.dir && !by.size {
        for span in &snapshot.spans {
            let path = if by.stage { span.path.as_str() } else { continue };
            let key = Key {
                port: by.port.then_some(span.port),
                thread: if by.thread { &span.thread } else { "" },
                ..Key::default()
            };
            if let Some(place) = places.get_mut(&key.at(path)) {
                place.spans.push(span);
            }
        }
    }
    let total = total_ns(snapshot) as f64;
    let names: BTreeMap<u32, &str> = snapshot.ports.iter().map(|p| (p.port, p.name.as_str())).collect();
    places.iter().map(|(key, place)| place.row(key, snapshot, total, &names)).collect()
}

/// All processor time that stages were measured in.
pub fn total_ns(snapshot: &Snapshot) -> u64 {
    let staged = snapshot.cells.iter().filter(|cell| !is_wall(&cell.path)).map(|cell| cell.ns);
    staged.chain(unaccounted(snapshot).iter().map(|cell| cell.ns)).fold(0, u64::saturating_add)
}

/// What no stage explains of each thread's processor time.
pub fn unaccounted(snapshot: &Snapshot) -> Vec<Cell> {
    let mut explained: BTreeMap<&str, u64> = BTreeMap::new();
    for cell in snapshot.cells.iter().filter(|cell| !is_wall(&cell.path)) {
        let sum = explained.entry(&cell.thread).or_default();
        *sum = sum.saturating_add(cell.ns);
    }
    let rest = snapshot.threads.iter().map(|thread| Cell {
        thread: thread.name.clone(),
        port: 0,
        dir: Dir::Local,
        size: String::new(),
        path: Stage::Unaccounted.name().into(),
        frames: 0,
        bytes: 0,
        ns: thread.staged_cpu_ns.saturating_sub(explained.get(thread.name.as_str()).copied().unwrap_or(0)),
    });
    rest.filter(|cell| cell.ns > 0).collect()
}

/// `rx`, `sw`, `q` or `tx`; `None`: no frame's.
pub fn group(path: &str) -> Option<&'static str> {
    ["rx", "sw", "q", "tx"]
        .into_iter()
        .find(|group| path.strip_prefix(group).is_some_and(|rest| rest.starts_with('.')))
}

/// The stage at a path's end.
pub fn leaf(path: &str) -> &str {
    path.rsplit_once(';').map_or(path, |(_, leaf)| leaf)
}

/// What a path stands below, outermost first.
fn parents(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices(';').map(|(at, _)| &path[..at])
}

/// Frames and bytes that went through stages: of one, what it counted. Of several, what came in to them
/// (a copy of a flood is no further frame), each direction for itself; waiting counts where all is.
pub fn volume<'a>(cells: impl Iterator<Item = &'a Cell> + Clone) -> (u64, u64) {
    let mut stages: BTreeMap<(Dir, &str), (u64, u64)> = BTreeMap::new();
    let all_wait = cells.clone().all(|cell| is_wall(&cell.path));
    for cell in cells.filter(|cell| cell.frames > 0 && (all_wait || !is_wall(&cell.path))) {
        let (frames, bytes) = stages.entry((cell.dir, &cell.path)).or_default();
        *frames = frames.saturating_add(cell.frames);
        *bytes = bytes.saturating_add(cell.bytes);
    }
    let mut sum = (0_u64, 0_u64);
    for dir in Dir::ALL {
        let of_dir = || stages.iter().filter(move |((d, _), _)| *d == dir);
        let inward =
            of_dir().filter(|((_, path), _)| matches!(group(path), Some("rx" | "sw")) && !path.contains(';'));
        let most =
            inward.map(|(_, v)| *v).max().or_else(|| of_dir().map(|(_, v)| *v).max()).unwrap_or((0, 0));
        sum = (sum.0.saturating_add(most.0), sum.1.saturating_add(most.1));
    }
    sum
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
struct Key<'a> {
    thread: &'a str,
    port: Option<u32>,
    dir: Option<Dir>,
    size: Option<usize>,
    order: Vec<usize>,
    path: &'a str,
}

impl<'a> Key<'a> {
    fn of(cell: &'a Cell, by: &Split) -> Self {
        Self {
            thread: if by.thread { &cell.thread } else { "" },
            port: by.port.then_some(cell.port),
            dir: by.dir.then_some(cell.dir),
            // What belongs to no frame has no size, and comes first.
            size: by.size.then(|| size_order(&cell.size)),
            ..Self::default()
        }
    }

    fn at(&self, path: &'a str) -> Self {
        Self { order: path.split(';').map(stage_order).collect(), path, ..self.clone() }
    }

    fn is_group(&self) -> bool {
        matches!(self.path, "rx" | "sw" | "tx")
    }
}

/// A stage's place in a frame's way; a group stands before its first.
pub fn stage_order(name: &str) -> usize {
    let found = Stage::ALL.iter().position(|stage| {
        stage.name() == name || stage.name().strip_prefix(name).is_some_and(|rest| rest.starts_with('.'))
    });
    found.unwrap_or(Stage::ALL.len())
}

/// A size class's place; 0: none.
pub fn size_order(size: &str) -> usize {
    super::stage::SIZES.iter().position(|name| *name == size).map_or(0, |at| at + 1)
}

#[derive(Default)]
struct Place<'a> {
    own: Vec<&'a Cell>,
    /// Of the stages below this one.
    below: Vec<&'a Cell>,
    spans: Vec<&'a Span>,
}

impl Place<'_> {
    fn stages(&self) -> usize {
        let outermost = |cell: &&Cell| cell.path.split(';').next().unwrap_or("").to_owned();
        self.below.iter().map(outermost).collect::<BTreeSet<_>>().len()
    }

    fn row(&self, key: &Key, snapshot: &Snapshot, total: f64, names: &BTreeMap<u32, &str>) -> Row {
        let wall = !key.path.is_empty() && is_wall(key.path);
        let sum = |cells: &[&Cell]| {
            cells
                .iter()
                .filter(|cell| wall || !is_wall(&cell.path))
                .map(|cell| cell.ns)
                .fold(0, u64::saturating_add)
        };
        let own_ns = sum(&self.own);
        let deep_ns = own_ns.saturating_add(sum(&self.below));
        let share = |ns: u64| if wall || total <= 0.0 { 0.0 } else { 100.0 * ns as f64 / total };
        let counted = if self.own.is_empty() { &self.below } else { &self.own };
        let (frames, bytes) = volume(counted.iter().copied());
        let spread = Spread::of(&self.spans);
        Row {
            path: key.path.to_owned(),
            thread: key.thread.to_owned(),
            port: key.port.map(|port| (port, names.get(&port).copied().unwrap_or("").to_owned())),
            dir: key.dir,
            size: match key.size {
                Some(at) if at > 0 => super::stage::SIZES[at - 1].to_owned(),
                _ => String::new(),
            },
            wall,
            group: key.is_group(),
            frames,
            bytes,
            own_ns,
            own_pct: share(own_ns),
            deep_ns,
            deep_pct: share(deep_ns),
            batches: spread.batches,
            p50_ns: spread.quantile(snapshot, 0.5),
            p99_ns: spread.quantile(snapshot, 0.99),
            max_ns: spread.max_ns.map(|ns| ns as f64),
            fit: Fit::of(counted),
        }
    }
}

/// Spans as one.
#[derive(Default)]
struct Spread {
    batches: u64,
    max_ns: Option<u64>,
    hist: BTreeMap<u16, u64>,
}

impl Spread {
    fn of(spans: &[&Span]) -> Self {
        let mut out = Self::default();
        for span in spans {
            out.batches = out.batches.saturating_add(span.batches);
            out.max_ns = out.max_ns.max(Some(span.max_ns));
            for (bucket, count) in &span.hist {
                let sum = out.hist.entry(*bucket).or_default();
                *sum = sum.saturating_add(*count);
            }
        }
        out
    }

    /// The time that the share `q` of all does not exceed; never more than the longest.
    fn quantile(&self, snapshot: &Snapshot, q: f64) -> Option<f64> {
        let total: f64 = self.hist.values().map(|count| *count as f64).sum();
        let mut seen = 0.0;
        for (bucket, count) in &self.hist {
            seen += *count as f64;
            if seen >= q * total {
                let most = self.max_ns.filter(|ns| *ns > 0).map_or(f64::INFINITY, |ns| ns as f64);
                return Some(snapshot.bucket_ns(*bucket).min(most));
            }
        }
        None
    }
}

impl Row {
    /// The stage, or what the row is for when not split by stages.
    pub fn stage(&self) -> &str {
        leaf(&self.path)
    }

    /// A port's name, or its number; `-`: no port's.
    pub fn port_label(&self) -> String {
        match &self.port {
            None => String::new(),
            Some((0, _)) => "-".into(),
            Some((number, name)) if name.is_empty() => number.to_string(),
            Some((_, name)) => name.clone(),
        }
    }

    /// Nanoseconds of own time a frame.
    pub fn own_per_frame(&self) -> Option<f64> {
        ratio(self.own_ns, self.frames)
    }

    pub fn deep_per_frame(&self) -> Option<f64> {
        ratio(self.deep_ns, self.frames)
    }

    /// Nanoseconds of own time a byte.
    pub fn own_per_byte(&self) -> Option<f64> {
        ratio(self.own_ns, self.bytes)
    }

    pub fn frames_per_batch(&self) -> Option<f64> {
        ratio(self.frames, self.batches)
    }

    /// Nanoseconds, fitted: what a frame costs however long it is.
    pub fn fixed_ns(&self) -> Option<f64> {
        self.fit.map(|fit| fit.fixed_ns)
    }

    /// Nanoseconds, fitted: what each byte of it adds.
    pub fn per_byte_ns(&self) -> Option<f64> {
        self.fit.map(|fit| fit.per_byte_ns)
    }
}

fn ratio(a: u64, b: u64) -> Option<f64> {
    (b > 0).then(|| a as f64 / b as f64)
}

impl Default for Split {
    fn default() -> Self {
        Self { stage: true, ..Self::NOTHING }
    }
}

impl Split {
    /// One row for all.
    pub const NOTHING: Self = Self { stage: false, port: false, thread: false, dir: false, size: false };
}

impl std::str::FromStr for Split {
    type Err = String;

    /// Names with commas between.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut split = Self::NOTHING;
        for word in text.split(',') {
            match word.trim() {
                "stage" => split.stage = true,
                "port" => split.port = true,
                "thread" => split.thread = true,
                "dir" => split.dir = true,
                "size" => split.size = true,
                other => return Err(format!("{other:?} is none of stage, port, thread, dir, size")),
            }
        }
        Ok(split)
    }
}

#[cfg(test)]
mod tests;
