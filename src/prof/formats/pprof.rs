//! pprof's profile.proto, gzipped (<https://github.com/google/pprof/tree/main/proto>): the part of it that
//! is needed. Readers' rules that are not in the proto: the leaf comes first; flameshow wants every
//! location to point at a mapping, and cuts names at `/`; `go tool pprof` shows the last value.

use std::collections::HashMap;
use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use prost::Message;

use super::super::view::Node;
use super::{Stacks, place};

/// What a gzipped file may grow to.
const MAX_UNPACKED: u64 = 256 << 20;

pub fn write(stacks: &Stacks) -> Result<Vec<u8>, String> {
    let mut strings = Strings::new();
    let mut out = Profile {
        sample_type: stacks.values.iter().map(|(r#type, unit)| strings.value_type(r#type, unit)).collect(),
        time_nanos: stacks.unix_ns as i64,
        duration_nanos: stacks.elapsed_ns as i64,
        ..Profile::default()
    };
    let program = stacks.program.split(' ').next().unwrap_or("");
    out.mapping.push(Mapping { id: 1, filename: strings.number(program), has_functions: true });
    if stacks.period_ns > 0 {
        out.period_type = Some(strings.value_type("cpu", "nanoseconds"));
        out.period = stacks.period_ns as i64;
    }
    let mut locations: HashMap<&str, u64> = HashMap::new();
    for stack in stacks.stacks.iter().filter(|stack| stack.values.iter().any(|value| *value > 0)) {
        let mut location_id = Vec::with_capacity(stack.names.len());
        for name in stack.names.iter().rev() {
            let id = match locations.get(name.as_str()) {
                Some(id) => *id,
                None => {
                    let id = locations.len() as u64 + 1;
                    locations.insert(name, id);
                    let (file, line) = place(name, program);
                    let number = strings.number(&name.replace('/', "."));
                    out.function.push(Function {
                        id,
                        name: number,
                        system_name: number,
                        filename: strings.number(&file),
                        start_line: line.into(),
                    });
                    let line = vec![Line { function_id: id, line: line.into() }];
                    out.location.push(Location { id, mapping_id: 1, line });
                    id
                }
            };
            location_id.push(id);
        }
        let labels = stack.labels.iter().filter(|(_, text)| !text.is_empty());
        out.sample.push(Sample {
            location_id,
            value: stack.values.iter().map(|value| i64::try_from(*value).unwrap_or(i64::MAX)).collect(),
            label: labels
                .map(|(key, text)| Label { key: strings.number(key), str: strings.number(text) })
                .collect(),
        });
    }
    out.string_table = strings.table;
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(&out.encode_to_vec()).and_then(|()| gzip.finish()).map_err(|e| format!("not packed: {e}"))
}

/// The graph of its default value (or last: mostly time). Names that the file does not have are `?`.
pub fn read(bytes: &[u8]) -> Result<Node, String> {
    let mut unpacked = Vec::new();
    let raw = if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut reader = GzDecoder::new(bytes).take(MAX_UNPACKED + 1);
        reader.read_to_end(&mut unpacked).map_err(|e| format!("damaged gzip: {e}"))?;
        if unpacked.len() as u64 > MAX_UNPACKED {
            return Err(format!("unpacks to more than {} MiB", MAX_UNPACKED >> 20));
        }
        &unpacked
    } else {
        bytes
    };
    let profile = Profile::decode(raw).map_err(|_| "no pprof profile".to_owned())?;
    // Anything short may happen to be a message; a profile says what its numbers are.
    if profile.sample_type.is_empty() || profile.string_table.first().is_none_or(|first| !first.is_empty()) {
        return Err("no pprof profile".into());
    }
    let text = |number: i64| {
        usize::try_from(number).ok().and_then(|at| profile.string_table.get(at)).map_or("?", String::as_str)
    };
    let wanted = profile
        .sample_type
        .iter()
        .position(|t| profile.default_sample_type != 0 && t.r#type == profile.default_sample_type);
    let value = wanted.unwrap_or(profile.sample_type.len() - 1);
    let functions: HashMap<u64, &str> = profile.function.iter().map(|f| (f.id, text(f.name))).collect();
    let locations: HashMap<u64, &Location> = profile.location.iter().map(|l| (l.id, l)).collect();
    let mut root = Node::new("all");
    for sample in &profile.sample {
        let ns = sample.value.get(value).copied().unwrap_or(0);
        let mut names = Vec::new();
        for id in sample.location_id.iter().rev().take(super::super::view::tree::MAX_DEPTH) {
            match locations.get(id) {
                // What was inlined stands before its caller.
                Some(location) if !location.line.is_empty() => {
                    let lines = location.line.iter().rev().take(super::super::view::tree::MAX_DEPTH);
                    names.extend(lines.map(|line| functions.get(&line.function_id).copied().unwrap_or("?")));
                }
                _ => names.push("?"),
            }
        }
        root.add(names, u64::try_from(ns).unwrap_or(0));
    }
    root.sort();
    Ok(root)
}

/// The string table: each text once, the empty one first.
struct Strings {
    table: Vec<String>,
    numbers: HashMap<String, i64>,
}

impl Strings {
    fn new() -> Self {
        Self { table: vec![String::new()], numbers: HashMap::from([(String::new(), 0)]) }
    }

    fn number(&mut self, text: &str) -> i64 {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let number = self.table.len() as i64;
        self.table.push(text.to_owned());
        self.numbers.insert(text.to_owned(), number);
        number
    }

    fn value_type(&mut self, r#type: &str, unit: &str) -> ValueType {
        ValueType { r#type: self.number(r#type), unit: self.number(unit) }
    }
}

#[derive(Clone, PartialEq, Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    mapping: Vec<Mapping>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
    /// Read, never written: flameshow takes it for an index.
    #[prost(int64, tag = "14")]
    default_sample_type: i64,
}

#[derive(Clone, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    r#type: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    label: Vec<Label>,
}

#[derive(Clone, PartialEq, Message)]
struct Label {
    #[prost(int64, tag = "1")]
    key: i64,
    #[prost(int64, tag = "2")]
    str: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Mapping {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "5")]
    filename: i64,
    #[prost(bool, tag = "7")]
    has_functions: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    mapping_id: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Clone, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
    #[prost(int64, tag = "2")]
    line: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
    #[prost(int64, tag = "3")]
    system_name: i64,
    #[prost(int64, tag = "4")]
    filename: i64,
    #[prost(int64, tag = "5")]
    start_line: i64,
}
