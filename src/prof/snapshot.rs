//! What the profiler has counted, at one moment, as it travels to whoever looks at it. Differences of two
//! snapshots are snapshots; views and file formats are made of nothing else.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::stage::Dir;

/// How closely it is looked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Level {
    /// Nothing is counted here (the ports' own counters go on).
    Off = 0,
    /// Frames, bytes, batches; two clock reads a batch.
    #[default]
    Count = 1,
    /// A clock read between stages, in one batch of so many.
    Stage = 2,
    /// Stages, and whole frames kept: the latest and the slowest.
    Trace = 3,
}

impl Level {
    pub const ALL: [Self; 4] = [Self::Off, Self::Count, Self::Stage, Self::Trace];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Count => "count",
            Self::Stage => "stage",
            Self::Trace => "trace",
        }
    }
}

impl std::str::FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|level| level.name() == text);
        found.ok_or_else(|| format!("{text:?} is no level: off, count, stage or trace"))
    }
}

/// What a stage's time is taken with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Clock {
    /// The processor's time-stamp counter: what passes.
    #[default]
    Wall,
    /// CLOCK_THREAD_CPUTIME_ID: what the thread is given; a system call for each read.
    Cpu,
}

/// Everything counted in `elapsed_ns`. All numbers of cells and spans are estimates for all frames: what
/// was measured, times one in how many were.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Snapshot {
    /// `etherws-prof`: how a file of this kind is told from others.
    pub format: String,
    /// 1; a reader refuses what is newer.
    pub version: u32,
    /// Name and version of the program.
    pub program: String,
    /// The switch's node or host.
    pub host: String,
    /// When it was taken: nanoseconds since 1970.
    pub unix_ns: u64,
    /// The time that it is about.
    pub elapsed_ns: u64,
    pub level: Level,
    /// One batch in so many is measured.
    pub sample: u32,
    pub clock: Clock,
    /// Ticks of the time-stamp counter in a nanosecond.
    pub ghz: f64,
    /// Frames that could not be accounted.
    pub lost: u64,
    pub ports: Vec<PortName>,
    pub threads: Vec<Thread>,
    /// What each port's batches took as a whole, at every level but off.
    pub batches: Vec<Batches>,
    pub cells: Vec<Cell>,
    pub spans: Vec<Span>,
}

/// A port, as it is called.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PortName {
    pub port: u32,
    pub name: String,
    /// tap, netdev, client, server, qemu.
    pub kind: String,
    /// Of a link that may have several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<Connections>,
}

/// How many connections a link has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Connections {
    /// Now.
    pub up: u8,
    /// When it has all that were asked for, or that there may be.
    pub of: u8,
}

/// `3/4`
impl std::fmt::Display for Connections {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.up, self.of)
    }
}

/// A thread, and its CPU time.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Thread {
    pub name: String,
    /// All its CPU time (CLOCK_THREAD_CPUTIME_ID).
    pub cpu_ns: u64,
    /// That part of it during which stages were measured: what the stages have to explain.
    pub staged_cpu_ns: u64,
}

/// One port's batches on one thread.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Batches {
    pub thread: String,
    pub port: u32,
    pub batches: u64,
    pub frames: u64,
    pub bytes: u64,
    /// From the read to the last write.
    pub ns: u64,
}

/// Own time of one place in the tree, for one port, direction and size class.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Cell {
    pub thread: String,
    /// 0: no port's (the runtime, control).
    pub port: u32,
    pub dir: Dir,
    /// A size class's name; empty for what belongs to no frame.
    pub size: String,
    /// Stages from the outermost to this one, with `;` between.
    pub path: String,
    pub frames: u64,
    pub bytes: u64,
    pub ns: u64,
}

/// How one place's times are spread, for one port.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Span {
    pub thread: String,
    pub port: u32,
    pub path: String,
    /// Batches that it occurred in.
    pub batches: u64,
    /// The longest single time ever, of the batch for what is done once a batch.
    pub max_ns: u64,
    /// Bucket ([`bucket_ns`]) and how many times fell into it.
    pub hist: Vec<(u16, u64)>,
}

/// The format's name and version.
pub const FORMAT: &str = "etherws-prof";
pub const VERSION: u32 = 1;

/// Sub-buckets of a power of two.
const SUB: u32 = 8;
/// Buckets in all: from 0 to 2^40 ticks, some seven minutes.
pub const BUCKETS: usize = (SUB * (40 - 3 + 1)) as usize;

/// The bucket of a time in ticks: exact below 8, then eight to a power of two (12 % wide).
#[inline]
pub fn bucket(ticks: u64) -> usize {
    if ticks < u64::from(SUB) {
        return ticks as usize;
    }
    let power = 63 - ticks.leading_zeros();
    let sub = (ticks >> (power - 3)) & u64::from(SUB - 1);
    let index = (power - 2) as usize * SUB as usize + sub as usize;
    index.min(BUCKETS - 1)
}

/// The least and the greatest time of a bucket, in ticks.
pub fn bucket_ticks(index: u16) -> (u64, u64) {
    let (block, sub) = (u64::from(index) / u64::from(SUB), u64::from(index) % u64::from(SUB));
    if block == 0 {
        return (sub, sub);
    }
    // A foreign file may name any bucket.
    let shift = (block - 1).min(40) as u32;
    ((u64::from(SUB) + sub) << shift, ((u64::from(SUB) + sub + 1) << shift) - 1)
}

impl Snapshot {
    /// The middle of a bucket in nanoseconds.
    pub fn bucket_ns(&self, index: u16) -> f64 {
        let (least, most) = bucket_ticks(index);
        (least as f64 + most as f64) / 2.0 / if self.ghz > 0.0 { self.ghz } else { 1.0 }
    }

    /// What came to it since `earlier`, of the same daemon. What has shrunk was counted anew: then all of
    /// it came since.
    pub fn since(&self, earlier: &Self) -> Self {
        let minus = |now: u64, then: u64| if now >= then { now - then } else { now };
        let key = |thread: &str, port: u32, path: &str| (thread.to_owned(), port, path.to_owned());
        let mut out = self.clone();
        out.elapsed_ns = minus(self.elapsed_ns, earlier.elapsed_ns);
        out.lost = minus(self.lost, earlier.lost);
        let threads: BTreeMap<_, _> = earlier.threads.iter().map(|t| (&t.name, t)).collect();
        for thread in &mut out.threads {
            if let Some(then) = threads.get(&thread.name) {
                thread.cpu_ns = minus(thread.cpu_ns, then.cpu_ns);
                thread.staged_cpu_ns = minus(thread.staged_cpu_ns, then.staged_cpu_ns);
            }
        }
        let batches: BTreeMap<_, _> = earlier.batches.iter().map(|b| ((&b.thread, b.port), b)).collect();
        for now in &mut out.batches {
            if let Some(then) = batches.get(&(&now.thread, now.port)) {
                now.batches = minus(now.batches, then.batches);
                now.frames = minus(now.frames, then.frames);
                now.bytes = minus(now.bytes, then.bytes);
                now.ns = minus(now.ns, then.ns);
            }
        }
        out.batches.retain(|b| b.batches > 0);
        let cell = |c: &Cell| (key(&c.thread, c.port, &c.path), c.dir, c.size.clone());
        let cells: BTreeMap<_, _> = earlier.cells.iter().map(|c| (cell(c), c)).collect();
        for now in &mut out.cells {
            if let Some(then) = cells.get(&cell(now)) {
                now.frames = minus(now.frames, then.frames);
                now.bytes = minus(now.bytes, then.bytes);
                now.ns = minus(now.ns, then.ns);
            }
        }
        out.cells.retain(|c| c.frames > 0 || c.ns > 0);
        let spans: BTreeMap<_, _> =
            earlier.spans.iter().map(|s| (key(&s.thread, s.port, &s.path), s)).collect();
        for now in &mut out.spans {
            if let Some(then) = spans.get(&key(&now.thread, now.port, &now.path)) {
                now.batches = minus(now.batches, then.batches);
                let before: BTreeMap<_, _> = then.hist.iter().copied().collect();
                for (index, count) in &mut now.hist {
                    *count = minus(*count, before.get(index).copied().unwrap_or(0));
                }
                now.hist.retain(|(_, count)| *count > 0);
                // The longest ever may have been before: the fullest bucket's upper end is the bound.
                let top = now.hist.iter().map(|(index, _)| bucket_ticks(*index).1).max().unwrap_or(0);
                let ghz = if self.ghz > 0.0 { self.ghz } else { 1.0 };
                now.max_ns = now.max_ns.min((top as f64 / ghz) as u64);
            }
        }
        out.spans.retain(|s| s.batches > 0 || !s.hist.is_empty());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_without_gaps() {
        let mut next = 0;
        for index in 0..BUCKETS as u16 - 1 {
            let (least, most) = bucket_ticks(index);
            assert_eq!(least, next, "{index}");
            assert_eq!((bucket(least), bucket(most)), (index.into(), index.into()));
            next = most + 1;
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn a_difference_of_snapshots_is_what_came_between() {
        let cell = |ns| Cell {
            thread: "data-0".into(),
            port: 1,
            dir: Dir::Local,
            size: "<=64".into(),
            path: "rx.tap.read".into(),
            frames: ns / 10,
            bytes: ns,
            ns,
        };
        let span = |count| Span {
            thread: "data-0".into(),
            port: 1,
            path: "rx.tap.read".into(),
            batches: count,
            max_ns: 5_000,
            hist: vec![(9, count), (20, 1)],
        };
        let mut then = Snapshot { elapsed_ns: 5, ghz: 1.0, ..Snapshot::default() };
        then.cells.push(cell(100));
        then.spans.push(span(3));
        let mut now = Snapshot { elapsed_ns: 9, ghz: 1.0, ..Snapshot::default() };
        now.cells.push(cell(150));
        now.spans.push(span(4));
        let diff = now.since(&then);
        assert_eq!((diff.elapsed_ns, &diff.cells[..]), (4, &[cell(50)][..]));
        assert_eq!((diff.spans[0].batches, &diff.spans[0].hist[..]), (1, &[(9, 1)][..]));
        assert_eq!(diff.spans[0].max_ns, 9, "not the one of before");
        assert!(now.since(&now).cells.is_empty());
        assert_eq!(then.since(&now).cells, then.cells, "a daemon that began anew");
    }
}
