//! Files of a snapshot, for other people's readers; and some of theirs, read.
//!
//! All that hold stacks are made of [`Stacks`], which a snapshot's paths or sampled function stacks become.
//!
//! * [`pprof`]: Google's, gzipped; `go tool pprof` and flameshow read it
//! * [`folded`]: a stack a line, for everything that draws flame graphs
//! * [`speedscope`]: for speedscope.app
//! * [`svg`]: a flame graph as a page of its own
//! * [`pstats`]: cProfile's, in [`marshal`]; `python3 -m pstats` reads it
//! * [`json`]: the snapshot as it is

pub mod folded;
pub mod json;
pub mod marshal;
pub mod pprof;
pub mod pstats;
pub mod speedscope;
pub mod svg;

use super::snapshot::Snapshot;
use super::stage::is_wall;
use super::view::tree::port_name;
use super::view::{Node, group, stage_order, unaccounted};

/// Longer files are refused: no profile of ours comes near.
pub const MAX_FILE: usize = 256 << 20;

/// A kind of file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    Pprof,
    Folded,
    Speedscope,
    Svg,
    Pstats,
    Json,
}

impl Format {
    pub const ALL: [Self; 6] =
        [Self::Pprof, Self::Folded, Self::Speedscope, Self::Svg, Self::Pstats, Self::Json];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Pprof => "pprof",
            Self::Folded => "folded",
            Self::Speedscope => "speedscope",
            Self::Svg => "svg",
            Self::Pstats => "pstats",
            Self::Json => "json",
        }
    }

    /// The kind that a file's name ends in.
    pub fn of(path: &std::path::Path) -> Result<Self, String> {
        const ENDINGS: [(&str, Format); 8] = [
            (".speedscope.json", Format::Speedscope),
            (".json", Format::Json),
            (".pstats", Format::Pstats),
            (".prof", Format::Pstats),
            (".pb.gz", Format::Pprof),
            (".pprof", Format::Pprof),
            (".folded", Format::Folded),
            (".svg", Format::Svg),
        ];
        let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        let found = ENDINGS.iter().find(|(ending, _)| name.ends_with(ending)).map(|(_, format)| *format);
        found.ok_or_else(|| {
            let endings: Vec<_> = ENDINGS.iter().map(|(ending, _)| *ending).collect();
            format!("the name ends in none of {}", endings.join(", "))
        })
    }
}

/// Stacks and what they took, from anywhere.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Stacks {
    /// Name and version of the program.
    pub program: String,
    pub title: String,
    pub unix_ns: u64,
    pub elapsed_ns: u64,
    /// Name and unit of each of a stack's values; the last is time in nanoseconds.
    pub values: Vec<(&'static str, &'static str)>,
    /// Nanoseconds that one count stands for; 0: none does.
    pub period_ns: u64,
    pub stacks: Vec<Stack>,
}

/// A stack, outermost name first.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Stack {
    pub thread: String,
    pub names: Vec<String>,
    /// As many as [`Stacks::values`].
    pub values: Vec<u64>,
    pub labels: Vec<(&'static str, String)>,
}

impl Stacks {
    /// The snapshot's processor time as stacks: rx, sw, tx or other, then the stages. Waits are left out.
    pub fn of(snapshot: &Snapshot) -> Self {
        let stack = |cell: &super::snapshot::Cell| Stack {
            thread: cell.thread.clone(),
            names: std::iter::once(group(&cell.path).unwrap_or("other"))
                .chain(cell.path.split(';'))
                .map(str::to_owned)
                .collect(),
            values: vec![cell.frames, cell.bytes, cell.ns],
            labels: vec![
                ("port", port_name(snapshot, cell.port)),
                ("thread", cell.thread.clone()),
                ("dir", cell.dir.name().to_owned()),
                ("frame_size", cell.size.clone()),
            ],
        };
        let unaccounted = unaccounted(snapshot);
        let cells = snapshot.cells.iter().chain(&unaccounted).filter(|cell| !is_wall(&cell.path));
        Self {
            program: snapshot.program.clone(),
            title: match snapshot.host.as_str() {
                "" => snapshot.program.clone(),
                host => format!("{} on {host}", snapshot.program),
            },
            unix_ns: snapshot.unix_ns,
            elapsed_ns: snapshot.elapsed_ns,
            values: vec![("frames", "count"), ("bytes", "bytes"), ("time", "nanoseconds")],
            period_ns: 0,
            stacks: cells.map(stack).collect(),
        }
    }

    /// All of them as one graph.
    pub fn tree(&self) -> Node {
        let mut root = Node::new("all");
        for stack in &self.stacks {
            root.add(stack.names.iter().map(String::as_str), stack.ns());
        }
        root.sort();
        root
    }

    /// The file, for every format but `json`, which holds more than stacks.
    pub fn write(&self, format: Format) -> Result<Vec<u8>, String> {
        match format {
            Format::Pprof => pprof::write(self),
            Format::Folded => Ok(folded::write(&self.tree()).into_bytes()),
            Format::Speedscope => Ok(speedscope::write(self).into_bytes()),
            Format::Svg => svg::write(self),
            Format::Pstats => Ok(pstats::Stats::of(self).write()),
            Format::Json => Err("stacks are no snapshot".into()),
        }
    }
}

impl Stack {
    pub fn ns(&self) -> u64 {
        self.values.last().copied().unwrap_or(0)
    }
}

/// The snapshot as a file.
pub fn write(snapshot: &Snapshot, format: Format) -> Result<Vec<u8>, String> {
    match format {
        Format::Json => Ok(json::write(snapshot)),
        other => Stacks::of(snapshot).write(other),
    }
}

/// The graph in a file of any kind that holds stacks: json, pprof (gzipped or not), speedscope, folded.
/// The error says what was expected.
pub fn read_tree(bytes: &[u8]) -> Result<Node, String> {
    const EXPECTED: &str = "expected pprof, folded stacks, speedscope or etherctl's json";
    if bytes.len() > MAX_FILE {
        return Err(format!("larger than {} MiB", MAX_FILE >> 20));
    }
    let text = std::str::from_utf8(bytes).ok();
    match bytes.first() {
        None => Err(format!("empty; {EXPECTED}")),
        Some(0x1f) => pprof::read(bytes),
        Some(b'{') if text.is_some_and(|text| text.contains("speedscope")) => speedscope::read(bytes),
        Some(b'{') if text.is_some() => {
            json::read(bytes).map(|snapshot| super::view::tree(&snapshot, Default::default()))
        }
        _ => text
            .and_then(folded::read)
            .map_or_else(|| pprof::read(bytes), Ok)
            .map_err(|why| format!("{why}; {EXPECTED}")),
    }
}

/// What a file of numbers holds.
#[derive(Clone, Debug)]
pub enum Numbers {
    Snapshot(Box<Snapshot>),
    Stats(pstats::Stats),
}

/// The snapshot (json) or the statistics (pstats) in a file; the error says what was expected.
pub fn read_numbers(bytes: &[u8]) -> Result<Numbers, String> {
    const EXPECTED: &str = "expected json of `etherctl prof record -f json`, or pstats as cProfile writes it";
    if bytes.len() > MAX_FILE {
        return Err(format!("larger than {} MiB", MAX_FILE >> 20));
    }
    // Both begin with a brace; a marshalled dict goes on with a code.
    let mut words = bytes.iter().copied().filter(|byte| !byte.is_ascii_whitespace());
    let read = match (words.next(), words.next()) {
        (None, _) => Err("empty".into()),
        (Some(b'{'), Some(b'"' | b'}')) => {
            json::read(bytes).map(|snapshot| Numbers::Snapshot(Box::new(snapshot)))
        }
        _ => pstats::Stats::read(bytes).map(Numbers::Stats),
    };
    read.map_err(|why| format!("{why}; {EXPECTED}"))
}

/// Where a name of ours stands: file and line, as readers of functions want them.
fn place(name: &str, program: &str) -> (String, u32) {
    match (group(name), stage_order(name)) {
        (Some(group), order) => (format!("etherws/{group}"), order as u32 + 1),
        (None, order) if order < super::Stage::ALL.len() => ("etherws/other".into(), order as u32 + 1),
        _ => (program.split(' ').next().unwrap_or("").to_owned(), 0),
    }
}
