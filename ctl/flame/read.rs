//! Files that a flame graph is made of: our snapshots as JSON, folded stacks of anybody, pprof of anybody.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use etherws::prof::snapshot::{FORMAT, Snapshot, VERSION};
use etherws::prof::view::{Top, tree};

use super::graph::Graph;
use super::view::Unit;
use crate::client::io_text;
use crate::table::escaped;

/// The most that a file may hold, unpacked.
const LIMIT: u64 = 256 << 20;
pub const EXPECTED: &str = "expected a snapshot of `etherctl prof record -f json`, or folded stacks: \
                            lines of names with ; between, and a number";

/// Stacks and what they count; `-` is stdin.
pub fn file(path: &Path, port: Option<&str>) -> Result<(Graph, Unit), String> {
    let shown = || escaped(&path.display().to_string());
    let mut bytes = Vec::new();
    let read = match path.to_str() {
        Some("-") => io::stdin().take(LIMIT + 1).read_to_end(&mut bytes),
        _ => File::open(path).and_then(|file| file.take(LIMIT + 1).read_to_end(&mut bytes)),
    };
    read.map_err(|e| format!("could not read {}: {}", shown(), io_text(&e)))?;
    if bytes.len() as u64 > LIMIT {
        return Err(format!("{}: larger than {} MiB", shown(), LIMIT >> 20));
    }
    content(&bytes, port).map_err(|why| format!("{}: {why}", shown()))
}

fn content(bytes: &[u8], port: Option<&str>) -> Result<(Graph, Unit), String> {
    let Ok(text) = std::str::from_utf8(bytes) else { return Err(EXPECTED.into()) };
    if text.trim_start().starts_with('{') {
        let snapshot: Snapshot =
            serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_str(text))
                .map_err(|e| format!("no snapshot: {}", escaped(&e.to_string())))?;
        return match snapshot.format.as_str() {
            FORMAT if snapshot.version <= VERSION => Ok((of_snapshot(&snapshot, port)?, Unit::Nanoseconds)),
            FORMAT => Err(format!("a snapshot of version {}, newer than this etherctl", snapshot.version)),
            _ => Err(EXPECTED.into()),
        };
    }
    if port.is_some() {
        return Err("--port needs a snapshot: these stacks know no ports".into());
    }
    Ok((folded(text)?, Unit::Count))
}

/// The stacks of a snapshot; of one port only, by number or name.
pub fn of_snapshot(snapshot: &Snapshot, port: Option<&str>) -> Result<Graph, String> {
    let Some(port) = port else { return Ok(graph_of(snapshot)) };
    let found = snapshot.ports.iter().find(|p| p.name == port || p.port.to_string() == port);
    let number = found.map(|p| p.port).ok_or_else(|| format!("no port {} in it", escaped(port)))?;
    let mut narrowed = snapshot.clone();
    narrowed.cells.retain(|cell| cell.port == number);
    // What no stage explains is no port's.
    narrowed.threads.clear();
    Ok(graph_of(&narrowed))
}

fn graph_of(snapshot: &Snapshot) -> Graph {
    Graph::of(tree(snapshot, Top::Nothing).stacks())
}

/// `a;b;c 12`, a line a stack; lines that begin with `#` say nothing.
fn folded(text: &str) -> Result<Graph, String> {
    let mut stacks = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let stack =
            line.rsplit_once(' ').and_then(|(names, cost)| Some((names.trim_end(), cost.parse().ok()?)));
        let Some((names, cost)) = stack else {
            return Err(format!("line {}: {EXPECTED}", number + 1));
        };
        stacks.push((names.split(';'), cost));
    }
    match stacks.is_empty() {
        true => Err(format!("nothing in it: {EXPECTED}")),
        false => Ok(Graph::of(stacks)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::table::tests::snapshot;

    #[test]
    fn folded_stacks_of_anybody() {
        let (graph, unit) = content(b"# x\nmain;a b;c 3\nmain;a b 4\r\n\n", None).unwrap();
        assert_eq!((graph.node(0).total, unit), (7, Unit::Count));
        assert_eq!(graph.node(graph.find(&["main".into(), "a b".into()])).own, 4);
        for wrong in ["", "a;b", "a;b -1", "a;b 1.5", "\u{1f}", "{\"format\": \"x\"}", "{", "[]"] {
            assert!(content(wrong.as_bytes(), None).is_err(), "{wrong:?}");
        }
        assert!(content(&[0x1f, 0x8b, 8, 0xff], None).unwrap_err().contains("expected"));
    }

    #[test]
    fn snapshots_and_their_ports() {
        let mut ours = Snapshot { format: FORMAT.into(), version: VERSION, ..snapshot() };
        let total = |snapshot: &Snapshot, port| {
            let bytes = serde_json::to_vec(snapshot).unwrap();
            content(&bytes, port).map(|(graph, _)| graph.node(0).total)
        };
        assert_eq!(total(&ours, None), Ok(1100));
        assert_eq!(total(&ours, Some("far")), Ok(400));
        assert_eq!(total(&ours, Some("1")), Ok(600));
        assert!(total(&ours, Some("9")).unwrap_err().contains("no port 9"));
        ours.version += 1;
        assert!(total(&ours, None).unwrap_err().contains("newer"));
        assert!(content(b"a 1", Some("1")).unwrap_err().contains("--port"));
    }
}
