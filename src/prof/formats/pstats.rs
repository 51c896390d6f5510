//! cProfile's statistics (CPython `Lib/pstats.py`, `Lib/cProfile.py`): a dict from (file, line, name) to
//! (primitive calls, calls, own time, cumulative time, callers), callers a dict from such a key to (calls,
//! primitive calls, own, cumulative). Seconds. A stage is a function, what it stands below its caller.

use std::collections::{BTreeMap, BTreeSet};

use super::marshal::Value;
use super::{Stacks, place};

/// File, line, name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Func {
    pub file: String,
    pub line: i64,
    pub name: String,
}

/// Of a function, or of its calls by one caller.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Calls {
    /// Without recursive ones.
    pub primitive: i64,
    pub calls: i64,
    /// Seconds.
    pub own: f64,
    pub cumulative: f64,
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Entry {
    pub calls: Calls,
    pub callers: BTreeMap<Func, Calls>,
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Stats {
    pub funcs: BTreeMap<Func, Entry>,
}

impl Stats {
    pub fn of(stacks: &Stacks) -> Self {
        let mut out = Self::default();
        for stack in &stacks.stacks {
            let frames = i64::try_from(stack.values.first().copied().unwrap_or(0)).unwrap_or(i64::MAX);
            let seconds = stack.ns() as f64 / 1e9;
            let funcs: Vec<Func> = stack.names.iter().map(|name| Func::of(name, &stacks.program)).collect();
            let mut seen = BTreeSet::new();
            for (depth, func) in funcs.iter().enumerate() {
                let is_leaf = depth + 1 == funcs.len();
                let add = |calls: &mut Calls, once: bool| {
                    if is_leaf {
                        calls.calls = calls.calls.saturating_add(frames);
                        calls.primitive = calls.calls;
                        calls.own += seconds;
                    }
                    // A function that calls itself takes its time once.
                    calls.cumulative += if once { seconds } else { 0.0 };
                };
                let once = seen.insert(func);
                let entry = out.funcs.entry(func.clone()).or_default();
                add(&mut entry.calls, once);
                if let Some(caller) = depth.checked_sub(1) {
                    add(entry.callers.entry(funcs[caller].clone()).or_default(), once);
                }
            }
        }
        out.count_callers();
        out
    }

    /// What does nothing itself was called as often as the most frequent of what it calls.
    fn count_callers(&mut self) {
        for _ in 0..2 {
            let mut most: BTreeMap<Func, i64> = BTreeMap::new();
            for entry in self.funcs.values() {
                for (caller, calls) in &entry.callers {
                    let count = most.entry(caller.clone()).or_default();
                    *count = calls.calls.max(*count);
                }
            }
            for (func, count) in most {
                let calls = &mut self.funcs.entry(func).or_default().calls;
                if calls.calls == 0 && calls.own == 0.0 {
                    (calls.calls, calls.primitive) = (count, count);
                }
            }
        }
    }

    /// All calls, all primitive ones, all own time: pstats' first line.
    pub fn totals(&self) -> Calls {
        let mut sum = Calls::default();
        for entry in self.funcs.values() {
            sum.add(&entry.calls);
        }
        sum
    }

    /// Adds another's calls to these.
    pub fn add(&mut self, other: &Self) {
        for (func, theirs) in &other.funcs {
            let ours = self.funcs.entry(func.clone()).or_default();
            ours.calls.add(&theirs.calls);
            for (caller, calls) in &theirs.callers {
                ours.callers.entry(caller.clone()).or_default().add(calls);
            }
        }
    }

    /// The same without directories in the names of files.
    pub fn stripped(&self) -> Self {
        let mut out = Self::default();
        for (func, entry) in &self.funcs {
            let mut callers = BTreeMap::new();
            for (caller, calls) in &entry.callers {
                // As in pstats, the last of two callers that become one stays.
                callers.insert(caller.stripped(), *calls);
            }
            let one =
                Self { funcs: BTreeMap::from([(func.stripped(), Entry { calls: entry.calls, callers })]) };
            out.add(&one);
        }
        out
    }

    pub fn write(&self) -> Vec<u8> {
        let entries = self.funcs.iter().map(|(func, entry)| {
            let callers = entry.callers.iter().map(|(caller, c)| {
                let fields = [
                    Value::Int(c.calls),
                    Value::Int(c.primitive),
                    Value::Float(c.own),
                    Value::Float(c.cumulative),
                ];
                (caller.value(), Value::tuple(fields.into()))
            });
            let Calls { primitive, calls, own, cumulative } = entry.calls;
            let fields = vec![
                Value::Int(primitive),
                Value::Int(calls),
                Value::Float(own),
                Value::Float(cumulative),
                Value::Dict(callers.collect()),
            ];
            (func.value(), Value::tuple(fields))
        });
        let mut bytes = Vec::new();
        Value::Dict(entries.collect()).write(&mut bytes);
        bytes
    }

    /// Ours, cProfile's or profile's.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let foreign = |what: &str| format!("no pstats file: {what}");
        let value = Value::read(bytes).map_err(|why| foreign(&why))?;
        let Value::Dict(pairs) = value else {
            return Err(foreign("no dict of functions"));
        };
        let mut out = Self::default();
        // Callers may be shared in the file; what comes of it is no more than its length allows.
        let mut left = bytes.len();
        for (key, value) in pairs.iter() {
            let func = Func::read(key).ok_or_else(|| foreign("a function is no (file, line, name)"))?;
            let Value::Tuple(fields) = value else {
                return Err(foreign("a function has no numbers"));
            };
            let [head @ .., Value::Dict(callers)] = &fields[..] else {
                return Err(foreign("a function has no callers"));
            };
            let calls = Calls::read(head).ok_or_else(|| foreign("a function's numbers are others"))?;
            let mut entry = Entry { calls, ..Entry::default() };
            left = left
                .checked_sub(callers.len())
                .ok_or_else(|| foreign("more callers than it has room for"))?;
            for (key, value) in callers.iter() {
                let caller = Func::read(key).ok_or_else(|| foreign("a caller is no (file, line, name)"))?;
                let calls = match value {
                    // profile's, without times.
                    Value::Int(count) => Some(Calls { primitive: *count, calls: *count, ..Calls::default() }),
                    Value::Tuple(fields) => {
                        Calls::read(fields).map(|c| Calls { primitive: c.calls, calls: c.primitive, ..c })
                    }
                    _ => None,
                };
                entry.callers.insert(caller, calls.ok_or_else(|| foreign("a caller's numbers are others"))?);
            }
            out.funcs.insert(func, entry);
        }
        if out.funcs.is_empty() {
            return Err(foreign("no function in it"));
        }
        Ok(out)
    }
}

impl Func {
    fn of(name: &str, program: &str) -> Self {
        if ["rx", "sw", "tx", "other"].contains(&name) {
            return Self { file: "etherws".into(), line: 0, name: name.into() };
        }
        let (file, line) = place(name, program);
        Self { file, line: line.into(), name: name.into() }
    }

    fn stripped(&self) -> Self {
        let file = self.file.rsplit('/').next().unwrap_or("").to_owned();
        Self { file, ..self.clone() }
    }

    /// As pstats prints it: `file:line(name)`, and `{name}` for what is built in.
    pub fn standard(&self) -> String {
        if self.file == "~" && self.line == 0 {
            let inner = self.name.strip_prefix('<').and_then(|name| name.strip_suffix('>'));
            return inner.map_or_else(|| self.name.clone(), |inner| format!("{{{inner}}}"));
        }
        format!("{}:{}({})", self.file, self.line, self.name)
    }

    fn value(&self) -> Value {
        Value::tuple(vec![Value::text(&self.file), Value::Int(self.line), Value::text(&self.name)])
    }

    fn read(value: &Value) -> Option<Self> {
        let Value::Tuple(fields) = value else { return None };
        let [Value::Text(file), Value::Int(line), Value::Text(name)] = &fields[..] else { return None };
        Some(Self { file: file.to_string(), line: *line, name: name.to_string() })
    }
}

impl Calls {
    fn add(&mut self, other: &Self) {
        self.primitive = self.primitive.saturating_add(other.primitive);
        self.calls = self.calls.saturating_add(other.calls);
        self.own += other.own;
        self.cumulative += other.cumulative;
    }

    fn read(fields: &[Value]) -> Option<Self> {
        let seconds = |value: &Value| match value {
            Value::Float(seconds) if seconds.is_finite() => Some(*seconds),
            Value::Int(seconds) => Some(*seconds as f64),
            _ => None,
        };
        let [Value::Int(primitive), Value::Int(calls), own, cumulative] = fields else { return None };
        Some(Self {
            primitive: *primitive,
            calls: *calls,
            own: seconds(own)?,
            cumulative: seconds(cumulative)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Stack;
    use super::*;

    fn stacks() -> Stacks {
        let stack = |names: &[&str], frames, ns| Stack {
            names: names.iter().map(|name| name.to_string()).collect(),
            values: vec![frames, ns],
            ..Stack::default()
        };
        Stacks {
            program: "etherws 2.0.0".into(),
            stacks: vec![
                stack(&["tx", "tx.tap.write"], 10, 1_000),
                stack(&["sw", "sw.flood"], 2, 50),
                stack(&["sw", "sw.flood", "tx.tap.write"], 6, 500),
            ],
            ..Stacks::default()
        }
    }

    fn named(stats: &Stats, name: &str) -> (Func, Entry) {
        let found = stats.funcs.iter().find(|(func, _)| func.name == name);
        found.map(|(func, entry)| (func.clone(), entry.clone())).expect(name)
    }

    #[test]
    fn stages_are_functions_and_parents_their_callers() {
        let stats = Stats::of(&stacks());
        let (func, write) = named(&stats, "tx.tap.write");
        assert!(func.standard().starts_with("etherws/tx:"), "{func:?}");
        assert_eq!((write.calls.calls, write.callers.len()), (16, 2));
        assert!((write.calls.own - 1.5e-6).abs() < 1e-15 && (write.calls.cumulative - 1.5e-6).abs() < 1e-15);
        let (flood, entry) = named(&stats, "sw.flood");
        assert!((entry.calls.cumulative - 0.55e-6).abs() < 1e-15, "{entry:?}");
        assert_eq!(write.callers[&flood].calls, 6);
        assert_eq!(named(&stats, "sw").1.calls.calls, 2);
        assert_eq!(stats.totals().own, 1.55e-6);
    }

    #[test]
    fn there_and_back_and_added() {
        let stats = Stats::of(&stacks());
        let mut back = Stats::read(&stats.write()).unwrap();
        assert_eq!(back, stats);
        back.add(&stats);
        assert_eq!(back.totals().calls, 2 * stats.totals().calls);
        assert_eq!(named(&stats.stripped(), "tx.tap.write").0.file, "tx");
    }

    #[test]
    fn other_dicts_are_refused() {
        let mut bytes = Vec::new();
        Value::Dict(vec![(Value::text("a"), Value::Int(1))].into()).write(&mut bytes);
        assert!(Stats::read(&bytes).unwrap_err().contains("(file, line, name)"));
        assert!(Stats::read(b"{0").unwrap_err().contains("no function"));
        assert!(Stats::read(b"i\0\0\0\0").unwrap_err().contains("no dict"));
    }
}
