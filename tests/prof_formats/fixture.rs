//! A snapshot made by hand: a client's switch with two threads, 2 s of processor time in 10 s.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use etherws::prof::formats::{Stack, Stacks};
use etherws::prof::snapshot::{
    Cell, Clock, FORMAT, Level, PortName, Snapshot, Span, Thread, VERSION, bucket,
};
use etherws::prof::stage::Dir;

pub fn snapshot() -> Snapshot {
    const MS: u64 = 1_000_000;
    let cell = |thread: &str, port, dir, size: &str, path: &str, frames: u64, len, ms| Cell {
        thread: thread.into(),
        port,
        dir,
        size: size.into(),
        path: path.into(),
        frames: frames * 1_000,
        bytes: frames * 1_000 * len,
        ns: ms * MS,
    };
    let (a, b) = ("data-0", "data-1");
    let (out, back, local) = (Dir::ToServer, Dir::ToClient, Dir::Local);
    Snapshot {
        format: FORMAT.into(),
        version: VERSION,
        program: "etherws 2.0.0".into(),
        host: "here".into(),
        unix_ns: 1_700_000_000_000_000_000,
        elapsed_ns: 10_000 * MS,
        level: Level::Stage,
        sample: 64,
        ghz: 2.6,
        ports: vec![
            PortName { port: 1, name: "vms".into(), kind: "tap".into(), ..PortName::default() },
            // Where a reader would cut it.
            PortName { port: 2, name: "up/link".into(), kind: "client".into(), ..PortName::default() },
        ],
        threads: vec![
            Thread { name: a.into(), cpu_ns: 1_600 * MS, staged_cpu_ns: 1_500 * MS },
            Thread { name: b.into(), cpu_ns: 600 * MS, staged_cpu_ns: 500 * MS },
        ],
        batches: vec![],
        cells: vec![
            cell(a, 1, local, "", "rx.wait", 0, 0, 8_000),
            cell(a, 1, out, "<=64", "rx.tap.read", 500, 64, 100),
            cell(a, 1, out, "1518", "rx.tap.read", 500, 1500, 150),
            cell(a, 1, out, "1518", "sw.lookup", 500, 1500, 10),
            cell(a, 2, out, "1518", "tx.ws.encode", 1_000, 782, 90),
            cell(a, 2, out, "<=64", "tx.ws.encode;tx.ws.mask", 500, 64, 100),
            cell(a, 2, out, "1518", "tx.ws.encode;tx.ws.mask", 500, 1500, 800),
            cell(a, 2, out, "", "tx.sock.write", 1_000, 782, 200),
            cell(b, 2, back, "", "rx.sock.read", 400, 1500, 270),
            cell(b, 2, back, "1518", "sw.flood", 100, 1500, 20),
            cell(b, 1, back, "1518", "sw.flood;tx.tap.write", 300, 1500, 30),
            cell(b, 1, back, "1518", "tx.tap.write", 300, 1500, 100),
            cell(b, 0, local, "", "poll", 0, 0, 80),
        ],
        spans: vec![
            span(a, 2, "tx.ws.encode;tx.ws.mask", 100_000, &[(180, 500), (1_600, 500)], 9_000),
            span(a, 1, "rx.tap.read", 50, &[(220, 900), (4_000, 100)], 12_345),
        ],
        clock: Clock::Wall,
        lost: 3,
    }
}

fn span(thread: &str, port: u32, path: &str, batches: u64, ns: &[(u64, u64)], max_ns: u64) -> Span {
    let ticks = |ns: u64| bucket((ns as f64 * 2.6) as u64) as u16;
    let hist = ns.iter().map(|(ns, times)| (ticks(*ns), *times)).collect();
    Span { thread: thread.into(), port, path: path.into(), batches, max_ns, hist }
}

/// Function stacks with many names, and their sum.
pub fn large(stacks: u64) -> (Stacks, u64) {
    // Numbers that gzip finds nothing in.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let stack = |_| Stack {
        thread: "data-0".into(),
        names: (0..8)
            .map(|depth| format!("f{depth}::{:016x}", next() % (1 << (8 * depth).min(60))))
            .collect(),
        values: vec![1, 1_000],
        labels: vec![],
    };
    let profile = Stacks {
        program: "etherws 2.0.0".into(),
        values: vec![("samples", "count"), ("cpu", "nanoseconds")],
        period_ns: 1_000,
        stacks: (0..stacks).map(stack).collect(),
        ..Stacks::default()
    };
    (profile, stacks * 1_000)
}

/// A directory that goes away.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("etherws-prof-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir(&dir).unwrap();
        Self(dir)
    }

    pub fn path(&self, name: &str) -> String {
        self.0.join(name).into_os_string().into_string().unwrap()
    }

    pub fn write(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
