//! Columns by the names that users of other profilers know, the order of rows, and which of them to show.

use std::cmp::Ordering;

use regex::Regex;

use super::{Row, size_order, stage_order};

/// What rows are put in order by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Column {
    Frames,
    Bytes,
    #[default]
    Own,
    OwnPerFrame,
    Deep,
    DeepPerFrame,
    OwnPerByte,
    P50,
    P99,
    Max,
    FramesPerBatch,
    Fixed,
    PerByte,
    Stage,
    /// The order of a frame's way.
    Way,
    Port,
    Thread,
    Dir,
    Size,
}

use Column::*;

/// Every name: ours, then those of pstats, then those of Yappi.
const NAMES: [(&str, Column); 57] = [
    ("frames", Frames),
    ("bytes", Bytes),
    ("own", Own),
    ("own%", Own),
    ("own/f", OwnPerFrame),
    ("deep", Deep),
    ("deep%", Deep),
    ("deep/f", DeepPerFrame),
    ("cyc/f", OwnPerFrame),
    ("cycles", OwnPerFrame),
    ("ns/b", OwnPerByte),
    ("p50", P50),
    ("p99", P99),
    ("max", Max),
    ("f/batch", FramesPerBatch),
    ("batch", FramesPerBatch),
    ("fixed", Fixed),
    ("per-byte", PerByte),
    ("stage", Stage),
    ("way", Way),
    ("port", Port),
    ("thread", Thread),
    ("dir", Dir),
    ("size", Size),
    ("calls", Frames),
    ("ncalls", Frames),
    ("pcalls", Frames),
    ("cumulative", Deep),
    ("cumtime", Deep),
    ("file", Port),
    ("filename", Port),
    ("module", Port),
    ("line", Way),
    ("name", Stage),
    ("nfl", Stage),
    ("stdname", Stage),
    ("time", Own),
    ("tottime", Own),
    ("callcount", Frames),
    ("ncall", Frames),
    ("totaltime", Deep),
    ("totaltime/f", DeepPerFrame),
    ("ttot", Deep),
    ("subtime", Own),
    ("tsub", Own),
    ("avgtime", DeepPerFrame),
    ("tavg", DeepPerFrame),
    ("percall", OwnPerFrame),
    ("self", Own),
    ("total", Deep),
    ("function", Stage),
    ("direction", Dir),
    ("clocks", OwnPerFrame),
    ("vectors", Frames),
    ("vectors/call", FramesPerBatch),
    ("vectors/calls", FramesPerBatch),
    ("pct", Own),
];

impl Column {
    /// By name, or by the beginning of names that all mean it.
    pub fn named(word: &str) -> Result<Self, String> {
        let word = word.trim().to_lowercase();
        let valid = || {
            let names: Vec<_> = NAMES.iter().map(|(name, _)| *name).collect();
            format!("; valid are {}", names.join(", "))
        };
        if let Some((_, column)) = NAMES.iter().find(|(name, _)| *name == word) {
            return Ok(*column);
        }
        let mut begun = NAMES.iter().filter(|(name, _)| !word.is_empty() && name.starts_with(&word));
        let Some((_, column)) = begun.next() else {
            return Err(format!("{word:?} is no sort key{}", valid()));
        };
        match begun.find(|(_, other)| other != column) {
            Some(_) => Err(format!("{word:?} begins several sort keys{}", valid())),
            None => Ok(*column),
        }
    }

    /// Names with commas between.
    pub fn list(text: &str) -> Result<Vec<Self>, String> {
        text.split(',').map(Self::named).collect()
    }

    /// In a header line.
    pub const fn title(self) -> &'static str {
        match self {
            Frames => "frames",
            Bytes => "bytes",
            Own => "own time",
            OwnPerFrame => "own time per frame",
            Deep => "deep time",
            DeepPerFrame => "deep time per frame",
            OwnPerByte => "own time per byte",
            P50 => "median",
            P99 => "99th percentile",
            Max => "maximum",
            FramesPerBatch => "frames per batch",
            Fixed => "fixed cost",
            PerByte => "cost per byte",
            Stage => "stage",
            Way => "the frame's way",
            Port => "port",
            Thread => "thread",
            Dir => "direction",
            Size => "size",
        }
    }

    /// Numbers from the greatest down, names from the first up; what is not known comes last.
    fn compare(self, a: &Row, b: &Row) -> Ordering {
        let number = |value: fn(&Row) -> Option<f64>| {
            let (a, b) = (value(a).unwrap_or(-1.0), value(b).unwrap_or(-1.0));
            b.total_cmp(&a)
        };
        match self {
            Frames => b.frames.cmp(&a.frames),
            Bytes => b.bytes.cmp(&a.bytes),
            // Time without a processor is no cost: it never hides one.
            Own => a.wall.cmp(&b.wall).then(b.own_ns.cmp(&a.own_ns)),
            Deep => a.wall.cmp(&b.wall).then(b.deep_ns.cmp(&a.deep_ns)),
            OwnPerFrame => a.wall.cmp(&b.wall).then(number(Row::own_per_frame)),
            DeepPerFrame => a.wall.cmp(&b.wall).then(number(Row::deep_per_frame)),
            OwnPerByte => a.wall.cmp(&b.wall).then(number(Row::own_per_byte)),
            P50 => number(|row| row.p50_ns),
            P99 => number(|row| row.p99_ns),
            Max => number(|row| row.max_ns),
            FramesPerBatch => number(Row::frames_per_batch),
            Fixed => number(Row::fixed_ns),
            PerByte => number(Row::per_byte_ns),
            Stage => a.stage().cmp(b.stage()).then_with(|| a.path.cmp(&b.path)),
            Way => way(a).cmp(&way(b)),
            Port => a.port.cmp(&b.port),
            Thread => a.thread.cmp(&b.thread),
            Dir => a.dir.cmp(&b.dir),
            Size => size_order(&a.size).cmp(&size_order(&b.size)),
        }
    }
}

fn way(row: &Row) -> Vec<usize> {
    row.path.split(';').map(stage_order).collect()
}

/// Puts rows in order; `reverse`: the other way round.
pub fn sort(rows: &mut [Row], columns: &[Column], reverse: bool) {
    rows.sort_by(|a, b| {
        let order =
            columns.iter().fold(Ordering::Equal, |order, column| order.then_with(|| column.compare(a, b)));
        if reverse { order.reverse() } else { order }
    });
}

/// Which rows to show, as pstats takes it: so many, such a part, or those that a pattern is found in.
#[derive(Clone, Debug)]
pub enum Selection {
    First(usize),
    /// From 0 up to 1.
    Part(f64),
    Matching(Regex),
}

impl std::str::FromStr for Selection {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(count) = text.parse() {
            return Ok(Self::First(count));
        }
        match text.parse::<f64>() {
            Ok(part) if (0.0..1.0).contains(&part) => return Ok(Self::Part(part)),
            Ok(_) => return Err(format!("{text} is neither a count of rows nor a part from 0 to 1")),
            Err(_) => {}
        }
        // What a pattern may grow to when made ready: a person types it, on one line.
        let pattern = regex::RegexBuilder::new(text).size_limit(1 << 20).build();
        pattern.map(Self::Matching).map_err(|e| {
            let why = e.to_string();
            format!(
                "{text:?} is no pattern: {}",
                why.lines().last().unwrap_or("").trim_start_matches("error: ")
            )
        })
    }
}

impl std::fmt::Display for Selection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::First(count) => write!(f, "{count}"),
            Self::Part(part) => write!(f, "{part}"),
            Self::Matching(pattern) => write!(f, "{pattern}"),
        }
    }
}

/// Each selection narrows what the ones before it left, as in pstats.
pub fn select<T>(mut rows: Vec<T>, by: &[Selection], text: impl Fn(&T) -> String) -> Vec<T> {
    for selection in by {
        match selection {
            Selection::First(count) => rows.truncate(*count),
            Selection::Part(part) => rows.truncate((rows.len() as f64 * part + 0.5) as usize),
            Selection::Matching(pattern) => rows.retain(|row| pattern.is_match(&text(row))),
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_other_profilers_are_known() {
        for (name, column) in [
            ("tottime", Own),
            ("cumulative", Deep),
            ("cumtime", Deep),
            ("nfl", Stage),
            ("ttot", Deep),
            ("tsub", Own),
            ("ncall", Frames),
            ("tavg", DeepPerFrame),
            ("OWN%", Own),
        ] {
            assert_eq!(Column::named(name), Ok(column), "{name}");
        }
        for pstats in
            "calls cumtime cumulative filename file line module name ncalls nfl pcalls stdname time tottime"
                .split(' ')
        {
            assert!(Column::named(pstats).is_ok(), "{pstats}");
        }
        let twice =
            NAMES.iter().enumerate().find(|(i, (name, _))| NAMES[..*i].iter().any(|(n, _)| n == name));
        assert_eq!(twice, None);
    }

    #[test]
    fn beginnings_do_when_they_mean_one_thing() {
        assert_eq!(Column::named("cum"), Ok(Deep));
        assert_eq!(Column::named("fr"), Ok(Frames));
        assert_eq!(Column::list("own,fra"), Ok(vec![Own, Frames]));
        for wrong in ["t", "", "zeit", "own,"] {
            let why = Column::list(wrong).expect_err(wrong);
            assert!(why.contains("tottime") && why.contains("f/batch"), "{why}");
        }
    }

    #[test]
    fn rows_by_several_columns_and_backwards() {
        let row = |path: &str, frames, own_ns, wall| Row {
            path: path.into(),
            frames,
            own_ns,
            wall,
            ..Row::default()
        };
        let mut rows =
            vec![row("a", 1, 5, false), row("b", 2, 5, false), row("w", 9, 900, true), row("c", 1, 7, false)];
        let paths = |rows: &[Row]| rows.iter().map(|row| row.path.clone()).collect::<String>();
        sort(&mut rows, &[Own, Frames], false);
        assert_eq!(paths(&rows), "cbaw", "a wait is not the dearest");
        sort(&mut rows, &[Own, Frames], true);
        assert_eq!(paths(&rows), "wabc");
        sort(&mut rows, &[Stage], false);
        assert_eq!(paths(&rows), "abcw");
    }

    #[test]
    fn selections_as_in_pstats() {
        let chosen = |words: &[&str]| {
            let by: Vec<Selection> = words.iter().map(|word| word.parse().unwrap()).collect();
            select(vec!["ab", "b", "c", "db"], &by, |row| row.to_string())
        };
        assert_eq!(chosen(&["b$", "2"]), ["ab", "b"]);
        assert_eq!(chosen(&["2", "b$"]), ["ab", "b"]);
        assert_eq!(chosen(&["0.5"]), ["ab", "b"]);
        assert_eq!(chosen(&["a|c"]), ["ab", "c"]);
        for wrong in ["1.5", "(", "-1"] {
            let result = wrong.parse::<Selection>();
            assert!(result.is_err(), "{wrong}: {result:?}");
        }
    }
}
