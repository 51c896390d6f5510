//! Two profiles beside each other: own time a frame and a byte.

use std::collections::BTreeMap;

use super::super::formats::pstats::Stats;
use super::super::snapshot::Snapshot;
use super::{Split, rows, stage_order};

/// What a place, or a function, took.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Cost {
    pub frames: u64,
    /// 0: not known.
    pub bytes: u64,
    pub own_ns: f64,
}

impl Cost {
    pub fn per_frame(&self) -> Option<f64> {
        (self.frames > 0).then(|| self.own_ns / self.frames as f64)
    }

    pub fn per_byte(&self) -> Option<f64> {
        (self.bytes > 0).then(|| self.own_ns / self.bytes as f64)
    }
}

/// A place in either or both.
#[derive(Clone, PartialEq, Debug)]
pub struct Change {
    pub name: String,
    pub a: Option<Cost>,
    pub b: Option<Cost>,
}

impl Change {
    /// How much dearer a frame is in the second, in percent; the whole time where none is counted.
    pub fn percent(&self) -> Option<f64> {
        let (a, b) = (self.a?, self.b?);
        let (a, b) = a.per_frame().zip(b.per_frame()).unwrap_or((a.own_ns, b.own_ns));
        (a > 0.0).then(|| 100.0 * (b - a) / a)
    }

    /// What it makes of the whole, at the second's count of frames.
    fn weight(&self) -> f64 {
        match (self.a, self.b) {
            (Some(a), Some(b)) => match a.per_frame().zip(b.per_frame()) {
                Some((was, is)) => (is - was) * b.frames as f64,
                None => b.own_ns - a.own_ns,
            },
            (Some(a), None) => a.own_ns,
            (None, Some(b)) => b.own_ns,
            (None, None) => 0.0,
        }
        .abs()
    }
}

/// A snapshot's places; waits are no costs.
pub fn costs(snapshot: &Snapshot) -> BTreeMap<String, Cost> {
    let rows = rows(snapshot, &Split::default()).into_iter().filter(|row| !row.wall && !row.group);
    rows.map(|row| {
        let cost = Cost { frames: row.frames, bytes: row.bytes, own_ns: row.own_ns as f64 };
        (row.path, cost)
    })
    .collect()
}

/// A pstats file's functions; those of one name and file are one, whatever their line was.
pub fn costs_of_stats(stats: &Stats) -> BTreeMap<String, Cost> {
    let mut out: BTreeMap<String, Cost> = BTreeMap::new();
    for (func, entry) in &stats.funcs {
        // Ours are places in one program, whose file says nothing.
        let ours = stage_order(&func.name) < super::super::Stage::ALL.len();
        let name = if ours { func.name.clone() } else { format!("{}({})", func.file, func.name) };
        let cost = out.entry(name).or_default();
        cost.frames = cost.frames.saturating_add(u64::try_from(entry.calls.calls).unwrap_or(0));
        cost.own_ns += entry.calls.own * 1e9;
    }
    out
}

/// The greatest change of the whole first.
pub fn compare(a: &BTreeMap<String, Cost>, b: &BTreeMap<String, Cost>) -> Vec<Change> {
    let names: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let mut changes: Vec<Change> = names
        .into_iter()
        .map(|name| Change { name: name.clone(), a: a.get(name).copied(), b: b.get(name).copied() })
        .filter(|change| [change.a, change.b].into_iter().flatten().any(|cost| cost.own_ns > 0.0))
        .collect();
    changes.sort_by(|x, y| y.weight().total_cmp(&x.weight()));
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gain_is_found_whatever_the_counts() {
        let cost = |frames, own_ns| Cost { frames, bytes: frames * 100, own_ns };
        let a = BTreeMap::from([
            ("tx.ws.mask".to_owned(), cost(100, 9_000.0)),
            ("sw.parse".to_owned(), cost(100, 500.0)),
            ("gone".to_owned(), cost(1, 3.0)),
        ]);
        let b = BTreeMap::from([
            ("tx.ws.mask".to_owned(), cost(1_000, 9_000.0)),
            ("sw.parse".to_owned(), cost(1_000, 5_000.0)),
            ("zero".to_owned(), cost(1, 0.0)),
        ]);
        let changes = compare(&a, &b);
        let names: Vec<_> = changes.iter().map(|change| change.name.as_str()).collect();
        assert_eq!(names, ["tx.ws.mask", "gone", "sw.parse"]);
        assert_eq!(changes[0].percent(), Some(-90.0));
        assert_eq!(changes[0].a.unwrap().per_byte(), Some(0.9));
        assert_eq!((changes[1].percent(), changes[2].percent()), (None, Some(0.0)));
    }
}
