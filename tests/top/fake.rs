//! A switch that is made up: JSON-RPC over a Unix socket, counters that grow by one and the same amount
//! with every look.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use etherws::prof::snapshot::{
    Batches, Cell, Connections, FORMAT, Level, PortName, Snapshot, Span, Thread, VERSION,
};
use etherws::prof::stage::Dir as Direction;
use serde_json::{Value, json};

/// A directory that goes away.
pub struct Dir(pub PathBuf);

impl Dir {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("ew-top-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// How it answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mood {
    Well,
    /// An error of its own.
    Refusing,
    /// No such method.
    TooOld,
    /// 401.
    Closed,
    /// Not at all, the connection being open.
    Stalled,
}

struct State {
    mood: Mood,
    looks: u64,
    lease: u64,
    /// Method, without what all begin with, and parameters.
    calls: Vec<(String, Value)>,
    ended: bool,
}

pub struct Fake {
    path: PathBuf,
    state: Arc<Mutex<State>>,
    thread: Option<JoinHandle<()>>,
    _dir: Dir,
}

impl Fake {
    pub fn start() -> Self {
        let dir = Dir::new();
        let state = State { mood: Mood::Well, looks: 0, lease: 1_000, calls: Vec::new(), ended: true };
        let path = dir.0.join("ctl");
        let mut fake = Self { path, state: Arc::new(Mutex::new(state)), thread: None, _dir: dir };
        fake.restart();
        fake
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn url(&self) -> String {
        format!("unix:{}", self.path.display())
    }

    /// Nobody listens any more.
    pub fn stop(&mut self) {
        self.state().ended = true;
        let _ = UnixStream::connect(&self.path);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        let _ = std::fs::remove_file(&self.path);
    }

    /// Another daemon in the same place: it has counted nothing, and was asked nothing.
    pub fn restart(&mut self) {
        let listener = UnixListener::bind(&self.path).unwrap();
        let mut state = self.state();
        (state.looks, state.ended, state.lease) = (0, false, state.lease + 7);
        state.calls.clear();
        drop(state);
        let state = self.state.clone();
        self.thread = Some(thread::spawn(move || {
            for stream in listener.incoming() {
                if state.lock().unwrap().ended {
                    return;
                }
                let state = state.clone();
                // A connection for itself: one that stalls holds up none.
                thread::spawn(move || answer(&stream.unwrap(), &state));
            }
        }));
    }

    pub fn mood(&self, mood: Mood) {
        self.state().mood = mood;
    }

    /// The number of the lease that it grants.
    pub fn lease(&self) -> u64 {
        self.state().lease
    }

    pub fn params(&self, method: &str) -> Vec<Value> {
        let state = self.state();
        state.calls.iter().filter(|(name, _)| name == method).map(|(_, params)| params.clone()).collect()
    }

    pub fn count(&self, method: &str) -> usize {
        self.params(method).len()
    }

    pub fn until(&self, what: &str, expected: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !expected(self) {
            assert!(began.elapsed() < Duration::from_secs(30), "never: {what}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop();
    }
}

fn answer(stream: &UnixStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        // Whoever only wanted to wake us says nothing.
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length: ") {
            length = value.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let request: Value = serde_json::from_slice(&body).unwrap();
    let method = request["method"].as_str().unwrap().trim_start_matches("etherws.control.").to_owned();
    let mut now = state.lock().unwrap();
    now.calls.push((method.clone(), request["params"].clone()));
    let error = |code: i32, message: &str| json!({"jsonrpc": "2.0", "id": 0, "error": {"code": code, "message": message}});
    let (status, reply) = match (now.mood, method.as_str()) {
        (Mood::Refusing, _) => ("200 OK", error(-32000, "too many")),
        (Mood::TooOld, _) => ("200 OK", error(-32601, "method not found")),
        (Mood::Closed, _) => ("401 Unauthorized", json!("who are you?")),
        (Mood::Stalled, _) => {
            drop(now);
            // Until the other side gives up.
            let _ = reader.read(&mut [0]);
            return;
        }
        (Mood::Well, "leaseProf") => {
            ("200 OK", json!({"result": {"lease": now.lease, "ttl_ms": request["params"]["ttl_ms"]}}))
        }
        (Mood::Well, "showProf") => {
            now.looks += 1;
            ("200 OK", json!({"result": snapshot(now.looks)}))
        }
        (Mood::Well, _) => ("200 OK", error(-32601, "method not found")),
    };
    drop(now);
    let body = reply.to_string();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = stream;
    // It may have gone away.
    let _ = stream.write_all((head + &body).as_bytes());
}

/// A second of a switch with two ports and one thread, `looks` times.
fn snapshot(looks: u64) -> Snapshot {
    let cell = |port, size: &str, path: &str, ns: u64| Cell {
        thread: "data-0".into(),
        port,
        dir: Direction::ToServer,
        size: size.into(),
        path: path.into(),
        frames: 20_000 * looks,
        bytes: 2_000_000 * looks,
        ns: ns * looks,
    };
    let named = |port, name: &str, kind: &str, connections| PortName {
        port,
        name: name.into(),
        kind: kind.into(),
        connections,
    };
    Snapshot {
        format: FORMAT.into(),
        version: VERSION,
        program: "etherws 2.0.0".into(),
        host: "made-up".into(),
        elapsed_ns: 1_000_000_000 * looks,
        level: Level::Stage,
        sample: 64,
        ghz: 2.0,
        ports: vec![
            named(1, "vms", "tap", None),
            named(2, "far", "client", Some(Connections { up: 3, of: 4 })),
        ],
        threads: vec![Thread {
            name: "data-0".into(),
            cpu_ns: 250_000_000 * looks,
            staged_cpu_ns: 200_000_000 * looks,
        }],
        batches: vec![Batches {
            thread: "data-0".into(),
            port: 1,
            batches: 1_000 * looks,
            frames: 20_000 * looks,
            bytes: 2_000_000 * looks,
            ns: 190_000_000 * looks,
        }],
        cells: vec![
            cell(1, "128", "rx.tap.read", 60_000_000),
            cell(1, "128", "sw.lookup", 10_000_000),
            cell(2, "128", "tx.ws.encode", 20_000_000),
            cell(2, "1518", "tx.ws.encode;tx.ws.mask", 80_000_000),
            cell(2, "128", "tx.ws.encode;tx.ws.mask", 20_000_000),
        ],
        spans: vec![Span {
            thread: "data-0".into(),
            port: 1,
            path: "rx.tap.read".into(),
            batches: 1_000 * looks,
            max_ns: 9_000,
            hist: vec![(60, 20_000 * looks)],
        }],
        ..Snapshot::default()
    }
}
