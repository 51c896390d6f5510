//! What a flame graph is made of: a snapshot, or a file of any kind that holds stacks.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use etherws::prof::formats::{MAX_FILE, json, read_tree};
use etherws::prof::snapshot::Snapshot;
use etherws::prof::view::{Node, Top, tree};

use super::graph::Graph;
use super::view::Unit;
use crate::client::io_text;
use crate::table::escaped;

/// Stacks and what they count; `-` is stdin.
pub fn file(path: &Path, port: Option<&str>) -> Result<(Graph, Unit), String> {
    let shown = || escaped(&path.display().to_string());
    let mut bytes = Vec::new();
    // One more than may be: the reader says that it is too many.
    let limit = MAX_FILE as u64 + 1;
    let read = match path.to_str() {
        Some("-") => io::stdin().take(limit).read_to_end(&mut bytes),
        _ => File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)),
    };
    read.map_err(|e| format!("could not read {}: {}", shown(), io_text(&e)))?;
    content(&bytes, port).map_err(|why| format!("{}: {}", shown(), escaped(&why)))
}

fn content(bytes: &[u8], port: Option<&str>) -> Result<(Graph, Unit), String> {
    if port.is_some() {
        let snapshot = json::read(bytes).map_err(|why| format!("--port needs a snapshot: {why}"))?;
        return Ok((of_snapshot(&snapshot, port)?, Unit::Nanoseconds));
    }
    let tree = read_tree(bytes)?;
    // Only of our own is it known what they count.
    let ours = |node: &Node| ["rx", "sw", "tx", "q", "other"].contains(&node.name.as_str());
    let unit = if tree.children.iter().all(ours) { Unit::Nanoseconds } else { Unit::Count };
    Ok((Graph::of(tree.stacks()), unit))
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

#[cfg(test)]
mod tests {
    use etherws::prof::formats::{Format, Stack, Stacks, write};
    use etherws::prof::snapshot::{FORMAT, VERSION};

    use super::*;
    use crate::top::table::tests::snapshot;

    #[test]
    fn folded_stacks_of_anybody() {
        let (graph, unit) = content(b"# x\nmain;a b;c 3\nmain;a b 4\r\n\n", None).unwrap();
        assert_eq!((graph.node(0).total, unit), (7, Unit::Count));
        assert_eq!(graph.node(graph.find(&["main".into(), "a b".into()])).own, 4);
        for wrong in ["", "a;b", "a;b -1", "{\"format\": \"x\"}", "{", "[]"] {
            assert!(content(wrong.as_bytes(), None).is_err(), "{wrong:?}");
        }
        assert!(content(b"words", None).unwrap_err().contains("expected"));
    }

    #[test]
    fn snapshots_and_their_ports() {
        let mut ours = Snapshot { format: FORMAT.into(), version: VERSION, ..snapshot() };
        let total = |snapshot: &Snapshot, port| {
            let bytes = serde_json::to_vec(snapshot).unwrap();
            content(&bytes, port).map(|(graph, unit)| (graph.node(0).total, unit))
        };
        assert_eq!(total(&ours, None), Ok((1100, Unit::Nanoseconds)));
        assert_eq!(total(&ours, Some("far")), Ok((400, Unit::Nanoseconds)));
        assert_eq!(total(&ours, Some("1")), Ok((600, Unit::Nanoseconds)));
        assert!(total(&ours, Some("9")).unwrap_err().contains("no port 9"));
        for format in [Format::Pprof, Format::Folded] {
            let (graph, unit) = content(&write(&ours, format).unwrap(), None).unwrap();
            assert_eq!((graph.node(0).total, unit), (1100, Unit::Nanoseconds), "{format:?}");
        }
        ours.version += 1;
        assert!(total(&ours, None).unwrap_err().contains("version"));
        assert!(content(b"a 1", Some("1")).unwrap_err().contains("--port"));
    }

    /// A pprof of 64 KiB has thousands of places.
    #[test]
    fn a_pprof_of_64_kib_is_drawn() {
        let mut state = 1_u64;
        let mut stack = |_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let name = |shift: u32| format!("function_{}", (state >> shift) % 29);
            let values = vec![state >> 44];
            Stack { thread: "t".into(), names: [8, 16, 24, 32, 40].map(name).into(), values, labels: vec![] }
        };
        let stacks: Vec<Stack> = (0..9_000).map(&mut stack).collect();
        let stacks = Stacks { values: vec![("time", "nanoseconds")], stacks, ..Stacks::default() };
        let file = stacks.write(Format::Pprof).unwrap();
        assert!(file.len() > 64 << 10, "{}", file.len());
        let began = std::time::Instant::now();
        let (graph, unit) = content(&file, None).unwrap();
        let look = crate::top::screen::Look { colour: true, attributes: true };
        let text = super::super::text(&graph, unit, 200, look);
        println!("{} KiB of pprof drawn in {:?}", file.len() >> 10, began.elapsed());
        assert_eq!(graph.node(0).total, stacks.stacks.iter().map(Stack::ns).sum::<u64>());
        assert!(text.lines().count() > 4);
    }
}
