//! Statistics of functions as pstats prints them (CPython `Lib/pstats.py`): its header lines, columns, sort
//! keys and messages, so that who knows one knows the other. One thing differs: a time that is not zero is
//! never printed as 0.000.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::super::formats::pstats::{Calls, Func, Stats};
use super::sort::Selection;

/// pstats' sort keys in its own order, and how it speaks of them.
pub const SORT_KEYS: [(&str, &str); 13] = [
    ("calls", "call count"),
    ("ncalls", "call count"),
    ("cumtime", "cumulative time"),
    ("cumulative", "cumulative time"),
    ("filename", "file name"),
    ("line", "line number"),
    ("module", "file name"),
    ("name", "function name"),
    ("nfl", "name/file/line"),
    ("pcalls", "primitive call count"),
    ("stdname", "standard name"),
    ("time", "internal time"),
    ("tottime", "internal time"),
];

/// Statistics and the order they are printed in.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Printed above everything: where they come from.
    pub files: Vec<String>,
    pub stats: Stats,
    order: Option<(String, Vec<Func>)>,
}

/// An argument of `stats`, `callers` and `callees`, as it was typed.
#[derive(Clone, Debug)]
pub struct Restriction {
    text: String,
    selection: Result<Selection, String>,
}

impl Restriction {
    /// The error is pstats' own.
    pub fn new(text: &str) -> Result<Self, String> {
        let number = text.parse::<f64>().ok();
        if number.is_some_and(|part| text.parse::<i64>().is_err() && !(0.0..=1.0).contains(&part)) {
            return Err("Fraction argument must be in [0, 1]".into());
        }
        // pstats takes -1 and 1.0 for no restriction at all.
        let selection = match number {
            Some(number) if number < 0.0 || number == 1.0 && text != "1" => Ok(Selection::First(usize::MAX)),
            _ => text.parse(),
        };
        Ok(Self { text: text.to_owned(), selection })
    }

    fn shown(&self) -> String {
        match self.selection {
            Ok(Selection::Matching(_)) | Err(_) => format!("'{}'", self.text),
            _ => self.text.clone(),
        }
    }
}

impl Report {
    pub fn new(file: String, stats: Stats) -> Self {
        Self { files: vec![file], stats, order: None }
    }

    /// Adds another's numbers; the order is forgotten, as in pstats.
    pub fn add(&mut self, file: String, stats: &Stats) {
        self.files.push(file);
        self.stats.add(stats);
        self.order = None;
    }

    pub fn strip(&mut self) {
        self.stats = self.stats.stripped();
        self.order = None;
    }

    pub fn reverse(&mut self) {
        if let Some((_, order)) = &mut self.order {
            order.reverse();
        }
    }

    /// `false`: a word is no key, nor the beginning of one only.
    pub fn sort(&mut self, words: &[&str]) -> bool {
        let Some(keys) = words.iter().map(|word| key(word)).collect::<Option<Vec<_>>>() else {
            return false;
        };
        let mut order: Vec<(&Func, &Calls)> = self.stats.funcs.iter().map(|(f, e)| (f, &e.calls)).collect();
        order.sort_by(|(f, a), (g, b)| {
            keys.iter().fold(std::cmp::Ordering::Equal, |order, (key, _)| {
                order.then_with(|| match *key {
                    "calls" | "ncalls" => b.calls.cmp(&a.calls),
                    "pcalls" => b.primitive.cmp(&a.primitive),
                    "cumtime" | "cumulative" => b.cumulative.total_cmp(&a.cumulative),
                    "time" | "tottime" => b.own.total_cmp(&a.own),
                    "filename" | "module" => f.file.cmp(&g.file),
                    "line" => f.line.cmp(&g.line),
                    "name" => f.name.cmp(&g.name),
                    "nfl" => (&f.name, &f.file, f.line).cmp(&(&g.name, &g.file, g.line)),
                    _ => f.standard().cmp(&g.standard()),
                })
            })
        });
        let titles: Vec<_> = keys.iter().map(|(_, title)| *title).collect();
        self.order = Some((titles.join(", "), order.into_iter().map(|(func, _)| func.clone()).collect()));
        true
    }

    pub fn print_stats(&self, restrictions: &[Restriction]) -> String {
        let mut out = String::new();
        for file in &self.files {
            line(&mut out, file);
        }
        if !self.files.is_empty() {
            line(&mut out, "");
        }
        let totals = self.stats.totals();
        let primitive = match totals.calls == totals.primitive {
            true => String::new(),
            false => format!("({} primitive calls) ", totals.primitive),
        };
        let seconds = seconds(totals.own);
        line(
            &mut out,
            &format!("         {} function calls {primitive}in {} seconds", totals.calls, seconds.trim()),
        );
        line(&mut out, "");
        let (_, funcs) = self.list(restrictions, &mut out);
        if funcs.is_empty() {
            return out;
        }
        line(&mut out, TITLE);
        for func in funcs {
            line(&mut out, &self.line(func));
        }
        out.push_str("\n\n");
        out
    }

    pub fn print_callers(&self, restrictions: &[Restriction]) -> String {
        let nobody = BTreeMap::new();
        self.print_calls(restrictions, "was called by...", "<-", |func| {
            self.stats.funcs.get(func).map_or(&nobody, |entry| &entry.callers)
        })
    }

    pub fn print_callees(&self, restrictions: &[Restriction]) -> String {
        let mut callees: BTreeMap<&Func, BTreeMap<Func, Calls>> = BTreeMap::new();
        for (func, entry) in &self.stats.funcs {
            for (caller, calls) in &entry.callers {
                callees.entry(caller).or_default().insert(func.clone(), *calls);
            }
        }
        let nobody = BTreeMap::new();
        self.print_calls(restrictions, "called...", "->", |func| callees.get(func).unwrap_or(&nobody))
    }

    fn print_calls<'a>(
        &'a self,
        restrictions: &[Restriction],
        title: &str,
        arrow: &str,
        of: impl Fn(&Func) -> &'a BTreeMap<Func, Calls>,
    ) -> String {
        let mut out = String::new();
        let (width, funcs) = self.list(restrictions, &mut out);
        if funcs.is_empty() {
            return out;
        }
        line(&mut out, &format!("{:width$}{title}", "Function "));
        if self.stats.funcs.values().any(|entry| !entry.callers.is_empty()) {
            line(&mut out, &format!("{:width$}    ncalls  tottime  cumtime", ""));
        }
        for func in funcs {
            let mut start = format!("{:width$}{arrow} ", func.standard());
            let calls = of(func);
            if calls.is_empty() {
                line(&mut out, start.trim_end());
            }
            for (index, (other, c)) in calls.iter().enumerate() {
                let ncalls = ncalls(c);
                let pad = if index == 0 { 7 } else { 9 };
                let (own, deep) = (seconds(c.own), seconds(c.cumulative));
                line(&mut out, &format!("{start}{ncalls:>pad$} {own} {deep}  {}", other.standard()));
                start = " ".repeat(width + 1);
            }
        }
        out.push_str("\n\n");
        out
    }

    /// The functions to print, and the width of the widest; above them, how they are ordered and which
    /// restriction left out some.
    fn list(&self, restrictions: &[Restriction], out: &mut String) -> (usize, Vec<&Func>) {
        let (mut message, mut funcs): (String, Vec<&Func>) = match &self.order {
            Some((title, order)) => (format!("   Ordered by: {title}\n"), order.iter().collect()),
            None => ("   Random listing order was used\n".into(), self.stats.funcs.keys().collect()),
        };
        for restriction in restrictions {
            let before = funcs.len();
            match &restriction.selection {
                Ok(selection) => {
                    funcs =
                        super::sort::select(funcs, std::slice::from_ref(selection), |func| func.standard());
                }
                Err(_) => {
                    let _ = writeln!(message, "   <Invalid regular expression {}>", restriction.shown());
                }
            }
            if funcs.len() != before {
                let (now, shown) = (funcs.len(), restriction.shown());
                let _ =
                    writeln!(message, "   List reduced from {before} to {now} due to restriction <{shown}>");
            }
        }
        if !funcs.is_empty() {
            line(out, &message);
        }
        let width = funcs.iter().map(|func| func.standard().chars().count()).max().unwrap_or(0);
        (width + 2, funcs)
    }

    fn line(&self, func: &Func) -> String {
        let calls = self.stats.funcs.get(func).map(|entry| entry.calls).unwrap_or_default();
        let each = |time: f64, count: i64| match count {
            0 => " ".repeat(8),
            count => seconds(time / count as f64),
        };
        let (own, deep) = (seconds(calls.own), seconds(calls.cumulative));
        let (own_each, deep_each) = (each(calls.own, calls.calls), each(calls.cumulative, calls.primitive));
        format!("{:>9} {own} {own_each} {deep} {deep_each} {}", ncalls(&calls), func.standard())
    }
}

const TITLE: &str = "   ncalls  tottime  percall  cumtime  percall filename:lineno(function)";

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

fn ncalls(calls: &Calls) -> String {
    match calls.calls == calls.primitive {
        true => calls.calls.to_string(),
        false => format!("{}/{}", calls.calls, calls.primitive),
    }
}

/// As wide as pstats' `%8.3f`.
fn seconds(value: f64) -> String {
    match value {
        _ if value != 0.0 && value.abs() < 0.0005 => format!("{value:8.1e}"),
        _ => format!("{value:8.3}"),
    }
}

/// A key by its name or a beginning that no other key has; those that mean the same are others to pstats,
/// too, but are taken here.
fn key(word: &str) -> Option<(&'static str, &'static str)> {
    let exact = SORT_KEYS.iter().find(|(name, _)| *name == word);
    if exact.is_some() {
        return exact.copied();
    }
    let mut begun = SORT_KEYS.iter().filter(|(name, _)| !word.is_empty() && name.starts_with(word));
    let first = begun.next()?;
    begun.all(|(_, title)| *title == first.1).then_some(*first)
}

#[cfg(test)]
mod tests {
    use super::super::super::formats::pstats::Entry;
    use super::*;

    fn report() -> Report {
        let func = |file: &str, line, name: &str| Func { file: file.into(), line, name: name.into() };
        let calls = |count, own, cumulative| Calls { primitive: count, calls: count, own, cumulative };
        let mut stats = Stats::default();
        let (main, work) = (func("/x/a.py", 1, "main"), func("/x/a.py", 9, "work"));
        stats.funcs.insert(main.clone(), Entry { calls: calls(1, 0.5, 2.0), callers: BTreeMap::new() });
        let callers = BTreeMap::from([(main, calls(4, 1.5, 1.5))]);
        stats.funcs.insert(work, Entry { calls: Calls { calls: 6, ..calls(4, 1.5, 1.5) }, callers });
        let len = func("~", 0, "<built-in method len>");
        stats.funcs.insert(len, Entry { calls: calls(8, 0.000_02, 0.000_02), callers: BTreeMap::new() });
        Report::new("a.prof".into(), stats)
    }

    #[test]
    fn statistics_look_like_pstats() {
        let mut report = report();
        assert!(report.sort(&["time"]));
        let two = Restriction::new("2").unwrap();
        let expected = "a.prof

         15 function calls (13 primitive calls) in 2.000 seconds

   Ordered by: internal time
   List reduced from 3 to 2 due to restriction <2>

   ncalls  tottime  percall  cumtime  percall filename:lineno(function)
      6/4    1.500    0.250    1.500    0.375 /x/a.py:9(work)
        1    0.500    0.500    2.000    2.000 /x/a.py:1(main)


";
        assert_eq!(report.print_stats(&[two]), expected);
        let len = Restriction::new("len").unwrap();
        assert!(
            report.print_stats(&[len]).contains("        8   2.0e-5   2.5e-6   2.0e-5   2.5e-6 {built-in")
        );
    }

    #[test]
    fn callers_and_callees() {
        let mut report = report();
        report.strip();
        assert!(report.sort(&["stdname"]));
        let work = [Restriction::new("work").unwrap()];
        let text = report.print_callers(&work);
        assert!(text.contains("Function      was called by...\n"), "{text}");
        assert!(text.contains("a.py:9(work)  <-       4    1.500    1.500  a.py:1(main)\n"), "{text}");
        let text = report.print_callees(&[]);
        assert!(
            text.contains("a.py:1(main)           ->       4    1.500    1.500  a.py:9(work)\n"),
            "{text}"
        );
        assert!(text.contains("a.py:9(work)           ->\n"), "{text}");
    }

    #[test]
    fn keys_and_restrictions() {
        let mut report = report();
        for good in ["cum", "t", "ti", "nf", "na", "pc", "std", "calls"] {
            assert!(report.sort(&[good]), "{good}");
        }
        for bad in ["x", "n", "c", ""] {
            assert!(!report.sort(&[bad]), "{bad:?}");
        }
        assert_eq!(Restriction::new("1.5").unwrap_err(), "Fraction argument must be in [0, 1]");
        let broken = [Restriction::new("(").unwrap()];
        assert!(report.print_stats(&broken).contains("<Invalid regular expression '('>"));
        let nothing = [Restriction::new("nowhere").unwrap()];
        assert!(!report.print_stats(&nothing).contains("ncalls"));
    }
}
