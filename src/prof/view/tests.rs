use super::super::snapshot::{PortName, Thread};
use super::*;

const HOUR: u64 = 3_600_000_000_000;

fn cell(path: &str, port: u32, dir: Dir, size: &str, frames: u64, len: u64, ns: u64) -> Cell {
    let text = |text: &str| text.to_owned();
    Cell {
        thread: text("data-0"),
        port,
        dir,
        size: text(size),
        path: text(path),
        frames,
        bytes: frames * len,
        ns,
    }
}

/// A server: frames from the link to a TAP, some of them flooded, and back.
fn snapshot() -> Snapshot {
    use Dir::{Local, ToClient, ToServer};
    Snapshot {
        ghz: 2.0,
        elapsed_ns: HOUR,
        ports: vec![
            PortName { port: 1, name: "tap0".into(), kind: "tap".into(), ..PortName::default() },
            PortName { port: 2, name: "".into(), kind: "server".into(), ..PortName::default() },
        ],
        threads: vec![Thread { name: "data-0".into(), cpu_ns: 500_000, staged_cpu_ns: 400_000 }],
        cells: vec![
            cell("rx.wait", 2, ToServer, "", 100, 0, HOUR),
            cell("rx.sock.read", 2, ToServer, "", 100, 500, 100_000),
            cell("rx.ws.unmask", 2, ToServer, "<=64", 60, 64, 6_000),
            cell("rx.ws.unmask", 2, ToServer, "1518", 40, 1500, 40_000),
            cell("sw.flood", 2, ToServer, "<=64", 10, 64, 1_000),
            cell("sw.flood;tx.tap.write", 1, ToServer, "<=64", 30, 64, 30_000),
            cell("tx.tap.write", 1, ToServer, "1518", 90, 1500, 90_000),
            cell("rx.tap.read", 1, ToClient, "<=64", 50, 64, 50_000),
            cell("tx.ws.encode", 2, ToClient, "<=64", 50, 64, 3_000),
            cell("poll", 0, Local, "", 0, 0, 30_000),
        ],
        spans: vec![Span {
            thread: "data-0".into(),
            port: 1,
            path: "tx.tap.write".into(),
            batches: 9,
            max_ns: 4_000,
            hist: vec![(bucket(2_000), 98), (bucket(100_000), 2)],
        }],
        ..Snapshot::default()
    }
}

fn bucket(ticks: u64) -> u16 {
    super::super::snapshot::bucket(ticks) as u16
}

fn row(rows: &[Row], path: &str) -> Row {
    rows.iter().find(|row| row.path == path).unwrap_or_else(|| panic!("{path} in {rows:#?}")).clone()
}

#[test]
fn own_deep_and_the_unexplained() {
    let rows = rows(&snapshot(), &Split::default());
    let all: u64 = rows.iter().filter(|row| !row.wall).map(|row| row.own_ns).sum();
    assert_eq!(all, 400_000, "own times add up to the thread's");
    assert_eq!(row(&rows, "unaccounted").own_ns, 50_000);
    assert!((rows.iter().map(|row| row.own_pct).sum::<f64>() - 100.0).abs() < 1e-9);
    let flood = row(&rows, "sw.flood");
    assert_eq!((flood.own_ns, flood.deep_ns, flood.frames), (1_000, 31_000, 10));
    assert_eq!(flood.deep_pct, 7.75);
    let wait = row(&rows, "rx.wait");
    assert_eq!((wait.wall, wait.own_ns, wait.own_pct), (true, HOUR, 0.0));
}

#[test]
fn one_stage_under_two_parents_is_two_rows() {
    let rows = rows(&snapshot(), &Split::default());
    assert_eq!(row(&rows, "tx.tap.write").own_ns, 90_000);
    assert_eq!(row(&rows, "sw.flood;tx.tap.write").own_ns, 30_000);
}

#[test]
fn groups_are_deep_and_come_first() {
    let rows = rows(&snapshot(), &Split::default());
    let rx = row(&rows, "rx");
    assert_eq!((rx.group, rx.own_ns, rx.deep_ns), (true, 0, 196_000), "without the wait");
    assert_eq!(rows[0].path, "rx");
    assert!(!rows.iter().any(|row| row.path == "sw"), "one stage needs no group");
}

#[test]
fn split_by_port_and_direction() {
    let by = |text: &str| rows(&snapshot(), &text.parse().unwrap());
    let ports = by("port");
    let labels: Vec<_> = ports.iter().map(Row::port_label).collect();
    assert_eq!(labels, ["-", "tap0", "2"]);
    let dirs = by("dir");
    let there = dirs.iter().find(|row| row.dir == Some(Dir::ToServer)).unwrap();
    assert_eq!(there.frames, 100, "a frame is counted where it came in, not where it is copied");
    assert_eq!(there.own_ns, 267_000);
    assert_eq!(by("stage,size").iter().filter(|row| row.path == "rx.ws.unmask").count(), 2);
    assert_eq!(by("thread")[0].thread, "data-0");
    let mut waiting = snapshot();
    waiting.cells[0].port = 3;
    assert_eq!(rows(&waiting, &"port".parse().unwrap()).len(), 3, "who only waited has no row");
    let why = "stage,colour".parse::<Split>().unwrap_err();
    assert!(why.contains("colour") && why.contains("size"), "{why}");
}

#[test]
fn costs_are_fitted_over_sizes() {
    let rows = rows(&snapshot(), &Split::default());
    let unmask = row(&rows, "rx.ws.unmask");
    let at = |len: f64| unmask.fixed_ns().unwrap() + len * unmask.per_byte_ns().unwrap();
    assert!((at(64.0) - 100.0).abs() < 1e-6 && (at(1500.0) - 1000.0).abs() < 1e-6, "{unmask:?}");
    assert_eq!(row(&rows, "rx.tap.read").fit, None, "one size only");
}

#[test]
fn how_times_are_spread() {
    let rows = rows(&snapshot(), &Split::default());
    let write = row(&rows, "tx.tap.write");
    assert_eq!((write.batches, write.frames_per_batch()), (9, Some(10.0)));
    assert!((write.p50_ns.unwrap() - 1_000.0).abs() < 130.0, "{write:?}");
    assert_eq!((write.p99_ns, write.max_ns), (Some(4_000.0), Some(4_000.0)), "no more than the longest");
    let split = super::rows(&snapshot(), &"stage,dir".parse().unwrap());
    assert_eq!(row(&split, "tx.tap.write").p50_ns, None);
}

#[test]
fn the_tree_has_all_and_leaves_out_waits() {
    let snapshot = snapshot();
    let tree = tree(&snapshot, Top::Nothing);
    assert_eq!(tree.total(), total_ns(&snapshot));
    let names: Vec<_> = tree.children.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["other", "rx", "sw", "tx"]);
    assert!(tree.stacks().contains(&(vec!["sw", "sw.flood", "tx.tap.write"], 30_000)));
    let ports = super::tree(&snapshot, Top::Port);
    let names: Vec<_> = ports.children.iter().map(|node| node.name.as_str()).collect();
    assert_eq!((ports.total(), names), (400_000, vec!["-", "2", "tap0"]));
    assert_eq!(super::tree(&snapshot, Top::Dir).children.len(), 3);
}

#[test]
fn nothing_is_a_snapshot_too() {
    let nothing = Snapshot::default();
    assert_eq!(rows(&nothing, &Split::default()), []);
    assert_eq!(tree(&nothing, Top::Port).total(), 0);
}
