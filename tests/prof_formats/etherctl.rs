//! etherctl prof and stats as a whole, against a switch that gives canned answers and writes down what it is
//! asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use etherws::control::api::prof::{CpuProfile, CpuStack, SlowFrame};
use etherws::prof::formats::{self, Format};
use etherws::prof::snapshot::Snapshot;
use serde_json::{Value, json};

use super::fixture::{TempDir, snapshot};

pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

pub fn etherctl(args: &[&str], input: &str) -> Ran {
    let mut child = spawn(args);
    // It may end before it has read all.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

fn spawn(args: &[&str]) -> std::process::Child {
    Command::new(env!("CARGO_BIN_EXE_etherctl"))
        .args(args)
        .env_remove("ETHERWS_CTLURL")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// A switch whose profiler has counted nothing before each look, and the fixture after it.
struct Fake {
    dir: TempDir,
    url: String,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Fake {
    fn new(base: &'static str) -> Self {
        let dir = TempDir::new();
        let path = dir.path("ctl.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                serve(stream, base, &log);
            }
        });
        Self { dir, url: format!("unix:{path}"), asked }
    }

    fn run(&self, args: &[&str]) -> Ran {
        etherctl(&[&["--ctlurl", &self.url], args].concat(), "")
    }

    fn ok(&self, args: &[&str]) -> String {
        let ran = self.run(args);
        assert_eq!(ran.code, 0, "{args:?}: {}", ran.err);
        ran.out
    }

    fn asked(&self, method: &str) -> Vec<Value> {
        let all = self.asked.lock().unwrap();
        all.iter().filter(|(name, _)| name == method).map(|(_, params)| params.clone()).collect()
    }

    /// Nobody looks any more: the last that was said of the lease is that it is given back.
    fn is_left_alone(&self) -> bool {
        self.asked("leaseProf").last().is_none_or(|last| last["ttl_ms"] == 0 && last["lease"] == 7)
    }
}

fn serve(stream: UnixStream, base: &str, log: &Mutex<Vec<(String, Value)>>) {
    let mut stream = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        match line.trim_end().to_lowercase().split_once(": ") {
            Some(("content-length", value)) => length = value.parse().unwrap(),
            None if line.trim_end().is_empty() => break,
            _ => {}
        }
    }
    let mut body = String::new();
    stream.by_ref().take(length).read_to_string(&mut body).unwrap();
    let request: Value = serde_json::from_str(&body).unwrap();
    let method = request["method"].as_str().unwrap().trim_start_matches("etherws.control.").to_owned();
    let nth = {
        let mut log = log.lock().unwrap();
        log.push((method.clone(), request["params"].clone()));
        log.iter().filter(|(name, _)| *name == method).count()
    };
    let answer = match method.as_str() {
        _ if base == "old" => Err(json!({"code": -32601, "message": "Method not found"})),
        "showProf" if base == "count" && nth % 2 == 1 => {
            Ok(json!(Snapshot { version: 1, ..Snapshot::default() }))
        }
        "showProf" => Ok(json!(snapshot())),
        "leaseProf" => Ok(json!({"lease": 7, "ttl_ms": 2000})),
        "slowProf" if base == "stage" && request["params"]["us"] == 999.0 => Ok(json!({"entries": []})),
        "slowProf" => Ok(json!({"entries": slow()})),
        "cpuProf" => Ok(json!(sampled())),
        _ => Ok(json!({"level": base, "sample": 64, "clock": "wall", "base": base, "ghz": 2.6,
            "stamp_ns": 11.5, "elapsed_ns": 5_000_000_000_u64, "threads": 2,
            "leases": [{"lease": 7, "level": "stage", "sample": 1, "left_ms": 1500}]})),
    };
    let answer = match answer {
        Ok(result) => json!({"jsonrpc": "2.0", "id": 0, "result": result}),
        Err(error) => json!({"jsonrpc": "2.0", "id": 0, "error": error}),
    };
    let text = answer.to_string();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", text.len());
    let _ = stream.get_mut().write_all((head + &text).as_bytes());
}

fn slow() -> Vec<SlowFrame> {
    vec![SlowFrame {
        unix_ns: 1_700_000_000_123_456_000,
        ns: 312_000,
        len: 1514,
        src: "02:00:00:00:00:01".into(),
        dst: "02:00:00:00:00:02\x1b[31m".into(),
        thread: "data-0".into(),
        ingress: 1,
        egress: 2,
        stages: vec![("rx.tap.read".into(), 12_000), ("tx.sock.write".into(), 300_000)],
    }]
}

fn sampled() -> CpuProfile {
    let stack = |names: &[&str], count| CpuStack {
        thread: "data-0".into(),
        stack: names.iter().map(|name| name.to_string()).collect(),
        count,
    };
    CpuProfile {
        program: "etherws 2.0.0".into(),
        elapsed_ns: 1_000_000_000,
        hz: 100,
        stacks: vec![stack(&["main", "work<[u8; 4]>"], 30), stack(&["main"], 10)],
        lost: 2,
        note: Some("no symbols".into()),
    }
}

#[test]
fn show_looks_under_a_lease_and_gives_it_back() {
    let fake = Fake::new("count");
    let out = fake.ok(&["prof", "show", "--interval", "0.1", "--sample", "1/1"]);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], "Clock: wall (TSC 2.6 GHz)  Ordered by: own time  10.000 s  sampled 1/64  lost 3");
    assert_eq!(
        lines[1],
        "   frames    own/f   own%   deep/f  deep%   cyc/f   ns/B    p50    p99    max  f/batch stage"
    );
    assert!(lines[2].ends_with("tx.ws.encode;tx.ws.mask"), "{out}");
    let first: Vec<&str> = lines[2].split_whitespace().collect();
    assert_eq!(first[..6], ["1000000", "900", "45.00", "900", "45.00", "2340"], "{out}");
    assert!(out.contains("unaccounted") && out.contains(" rx\n") && out.contains(" tx\n"), "{out}");
    let wait = lines.iter().find(|line| line.ends_with("rx.wait")).expect(&out);
    assert!(wait.contains(" (80.0) "), "of the time of the one thread that waited: {out}");
    let leases = fake.asked("leaseProf");
    assert_eq!((leases[0]["level"].as_str(), leases[0]["sample"].as_u64()), (Some("stage"), Some(1)));
    assert!(fake.is_left_alone(), "{leases:?}");
}

#[test]
fn show_answers_the_first_question() {
    let out = Fake::new("stage").ok(&["prof", "show"]);
    let (_, answer) = out.split_once("\nA frame's cost").expect(&out);
    let lines: Vec<&str> = answer.lines().collect();
    assert!(lines[0].contains("c>s 1.00M, s>c 400000"), "{answer}");
    assert!(lines[1].contains("c>s ns/f") && lines[1].contains("s>c ns/f"), "{answer}");
    // 1,450 ms for 1,000,000 frames one way, 420 ms for 400,000 the other.
    let all: Vec<&str> = lines[2].split_whitespace().collect();
    assert_eq!((all[0], all[2], all.last()), ("1450", "1050", Some(&"all")), "{answer}");
    let mask = lines.iter().find(|line| line.ends_with("tx.ws.mask")).unwrap();
    let mask: Vec<&str> = mask.split_whitespace().collect();
    assert_eq!((mask[0], mask[2]), ("900", "-"), "masked one way only: {answer}");
    // 64 bytes take 200 ns, 1,500 take 1,600 ns: 0.975 ns a byte and 138 ns more.
    assert_eq!((mask[4], mask[5]), ("138", "0.975"), "{answer}");
}

#[test]
fn what_was_started_is_shown_since_its_reset_and_no_lease_is_taken() {
    let fake = Fake::new("stage");
    fake.ok(&["prof", "show"]);
    assert_eq!(fake.asked("showProf"), [json!({"since": "reset"})]);
    assert!(fake.asked("leaseProf").is_empty());
    let counting = Fake::new("count");
    let out = counting.ok(&["prof", "show"]);
    assert!(out.lines().next().unwrap().ends_with("looked for 2 s (level is count)"), "{out}");
    assert!(counting.asked("leaseProf").len() >= 4 && counting.is_left_alone(), "renewed while it looks");
}

#[test]
fn tables_are_sorted_selected_and_split() {
    let fake = Fake::new("stage");
    let stages = |args: &[&str]| -> Vec<String> {
        let out = fake.ok(&[&["prof", "show"], args].concat());
        let rows = out.lines().skip(2).take_while(|line| !line.is_empty() && !line.contains("more"));
        rows.map(|line| line.split_whitespace().last().unwrap().to_owned()).collect()
    };
    assert_eq!(stages(&["2"]), ["tx.ws.encode;tx.ws.mask", "rx.sock.read"]);
    assert_eq!(stages(&["--sort", "stage", "^sw", "2"]), ["sw", "sw.flood"]);
    assert_eq!(stages(&["--sort", "ncalls", "-r", "lookup|flood$", "1"]), ["sw.flood"]);
    assert_eq!(
        stages(&["--sort", "cum", "mask|sock"]),
        ["tx.ws.encode;tx.ws.mask", "rx.sock.read", "tx.sock.write"]
    );
    assert_eq!(stages(&["--by", "dir", "--sort", "dir"]), ["c>s", "s>c", "local"]);
    assert_eq!(stages(&["--by", "port", "--sort", "port"]), ["-", "vms", "up/link"]);
    assert!(fake.ok(&["prof", "show", "mask", "sock"]).contains("no row has all"));
    let us = fake.ok(&["prof", "show", "--unit", "us", "mask"]);
    assert!(us.contains("us/B") && us.lines().nth(2).unwrap().contains(" 0.900 "), "{us}");
}

#[test]
fn other_profilers_styles() {
    let fake = Fake::new("stage");
    let out = fake.ok(&["prof", "show", "--style", "pstats", "--sort", "cumulative", "3"]);
    assert!(
        out.contains("\n   ncalls  tottime  percall  cumtime  percall filename:lineno(function)\n"),
        "{out}"
    );
    assert!(out.contains("Ordered by: cumulative time\n   List reduced from"), "{out}");
    assert!(out.contains("  1000000    0.000    0.000    1.290   1.3e-6 etherws:0(tx)\n"), "{out}");
    let out = fake.ok(&["prof", "show", "--style", "runtime"]);
    let header = out.lines().find(|line| line.starts_with("Name")).unwrap();
    let words: Vec<&str> = header.split_whitespace().collect();
    assert_eq!(words, ["Name", "State", "Calls", "Vectors", "Suspends", "Clocks", "Vectors/Call"]);
    let mask = out.lines().find(|line| line.contains("tx.ws.mask")).unwrap();
    let mask: Vec<&str> = mask.split_whitespace().collect();
    assert_eq!(mask[1..], ["active", "100000", "1000000", "0", "2340", "10.00"]);
}

#[test]
fn callers_callees_histograms_and_slow_frames() {
    let fake = Fake::new("stage");
    let out = fake.ok(&["prof", "callers", "tap.write"]);
    let write: Vec<&str> = out.lines().filter(|line| line.contains("<-")).collect();
    assert_eq!(write.len(), 2, "two parents: {out}");
    assert!(write[0].ends_with("sw.flood") && write[1].ends_with(" tx"), "{out}");
    let out = fake.ok(&["prof", "callees", "sw.flood"]);
    assert!(out.contains("sw.flood -> ") && out.trim_end().ends_with("tx.tap.write"), "{out}");
    let out = fake.ok(&["prof", "hist", "tx.ws.mask"]);
    assert!(
        out.contains("tx.ws.encode;tx.ws.mask: 1000 times, longest 9.00 us") && out.contains("50.00 ####"),
        "{out}"
    );
    let out = fake.ok(&["prof", "hist"]);
    assert!(out.contains("p99.9") && out.contains("12.3 us rx.tap.read"), "{out}");
    let ran = fake.run(&["prof", "hist", "nix"]);
    assert!(ran.code == 1 && ran.err.contains("rx.tap.read, tx.ws.mask"), "{}", ran.err);
    let out = fake.ok(&["prof", "slow", "--us", "250"]);
    assert!(out.contains("22:13:20.123456") && out.contains("312 us") && out.contains("up/link"), "{out}");
    assert!(out.contains("tx.sock.write 300 us") && !out.contains('\x1b'), "{out}");
    assert_eq!(fake.asked("slowProf"), [json!({"us": 250.0, "limit": 20})]);
    assert!(fake.ok(&["prof", "slow", "--us", "999"]).contains("level is stage"));
    let out = fake.ok(&["prof", "slow", "--us", "999", "--interval", "0.1"]);
    assert_eq!(out, "no frame took so long\n");
    let out = fake.ok(&["prof", "status"]);
    assert!(out.contains("11.5 ns") && out.contains("1 viewer") && out.contains("1500 ms left"), "{out}");
}

#[test]
fn start_stop_and_reset_ask_exactly_this() {
    let fake = Fake::new("stage");
    fake.ok(&["prof", "start", "--level", "trace", "--sample", "16", "--clock", "cpu"]);
    fake.ok(&["prof", "stop"]);
    fake.ok(&["prof", "reset"]);
    assert_eq!(fake.asked("startProf"), [json!({"level": "trace", "sample": 16, "clock": "cpu"})]);
    assert_eq!((fake.asked("stopProf"), fake.asked("resetProf")), (vec![Value::Null], vec![Value::Null]));
}

#[test]
fn recordings_by_every_format() {
    let fake = Fake::new("count");
    for format in Format::ALL {
        let file = fake.dir.path(&format!("x.{}", format.name()));
        let out = fake.ok(&["prof", "record", "-d", "0.1", "-f", format.name(), "-o", &file]);
        assert!(out.contains(&file) && out.contains(format.name()), "{out}");
        assert!(fake.is_left_alone());
        assert!(std::fs::metadata(&file).unwrap().len() > 100);
        let cpu = fake.dir.path(&format!("cpu.{}", format.name()));
        fake.ok(&["prof", "record", "-d", "1", "--cpu", "-f", format.name(), "-o", &cpu]);
        assert!(std::fs::metadata(&cpu).unwrap().len() > 100 || format == Format::Folded);
    }
    let folded = std::fs::read_to_string(fake.dir.path("cpu.folded")).unwrap();
    assert_eq!(folded, "data-0;main 100000000\ndata-0;main;work<[u8: 4]> 300000000\n");
    let out = fake.ok(&["prof", "record", "-d", "0.1", "-f", "folded", "-o", "-"]);
    assert!(out.contains("tx;tx.ws.encode;tx.ws.mask 900000000\n"), "{out}");
    let ran = fake.run(&["prof", "record", "-d", "0.1", "-o", "/nowhere/x.svg"]);
    assert!(ran.code == 1 && ran.err.contains("/nowhere"), "{}", ran.err);
}

#[test]
fn ctrl_c_ends_the_look_and_shows_what_there_is() {
    let fake = Fake::new("count");
    let child = spawn(&["--ctlurl", &fake.url, "prof", "show", "--interval", "600"]);
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    let end = Instant::now() + Duration::from_secs(20);
    // The second renewal: it is waiting.
    while fake.asked("leaseProf").len() < 3 {
        assert!(Instant::now() < end, "no lease was renewed");
        thread::sleep(Duration::from_millis(20));
    }
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("tx.ws.mask"));
    assert!(fake.is_left_alone());
}

#[test]
fn an_old_switch_is_told_so() {
    let fake = Fake::new("old");
    for (args, method) in [(["prof", "show"], "getProf"), (["prof", "stop"], "stopProf")] {
        let ran = fake.run(&args);
        assert_eq!(ran.code, 1);
        let expected = format!("the switch at {} is too old for the profiler (it has no {method})", fake.url);
        assert!(ran.err.contains(&expected), "{}", ran.err);
    }
}

#[test]
fn unknown_words_are_answered_with_the_known_ones() {
    for (args, words) in [
        (["--sort", "colour"], ["tottime", "f/batch"]),
        (["--by", "colour"], ["stage, port, thread", "size"]),
        (["--unit", "min"], ["cycles", "us"]),
        (["--interval", "never"], ["seconds", "0.05"]),
        (["--sample", "0"], ["1/1000000", "--sample"]),
    ] {
        let ran = etherctl(&[&["prof", "show"], &args[..]].concat(), "");
        assert_eq!(ran.code, 2, "{args:?}");
        assert!(words.iter().all(|word| ran.err.contains(word)), "{}", ran.err);
    }
}

#[test]
fn diff_shows_the_gain() {
    let dir = TempDir::new();
    let naive = snapshot();
    let mut fast = naive.clone();
    for cell in fast.cells.iter_mut().filter(|cell| cell.path.ends_with("mask")) {
        (cell.frames, cell.bytes, cell.ns) = (cell.frames * 3, cell.bytes * 3, cell.ns / 3);
    }
    for (format, line) in [
        (Format::Json, "     900      100   -88.9%     1.15    0.128"),
        (Format::Pstats, "     900      100   -88.9%        -        -"),
    ] {
        let a = dir.write("a", &formats::write(&naive, format).unwrap());
        let b = dir.write("b", &formats::write(&fast, format).unwrap());
        let ran = etherctl(&["prof", "diff", &a, &b], "");
        let first = ran.out.lines().nth(3).unwrap_or("");
        assert!(first.contains(line) && first.ends_with("tx.ws.mask"), "{}{}", ran.out, ran.err);
        assert_eq!(ran.out.lines().filter(|line| line.contains("-88.9%")).count(), 1, "nothing else changed");
    }
}

#[test]
fn the_shell_of_pstats() {
    let dir = TempDir::new();
    let pstats = dir.write("a.pstats", &formats::write(&snapshot(), Format::Pstats).unwrap());
    let json = dir.write("a.json", &formats::write(&snapshot(), Format::Json).unwrap());
    let script = format!(
        "sort time\nstats 1\nadd {json}\nstrip\nsort cum\nreverse\nstats mask\ncallers mask\ncallees flood\nsort x\nstats 1.5\nfoo\nhelp\nhelp stats\nread {json}\nstats 2 (\nread nowhere\nquit\nstats\n"
    );
    let ran = etherctl(&["stats", &pstats], &script);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    for text in [
        "Welcome to the profile statistics browser.\n",
        "Ordered by: internal time\n   List reduced from 14 to 1 due to restriction <1>\n",
        "  1000000    0.900   9.0e-7    0.900   9.0e-7 etherws/tx:17(tx.ws.mask)\n",
        "  2000000    1.800   9.0e-7    1.800   9.0e-7 tx:17(tx.ws.mask)\n",
        "was called by...\n",
        "called...\n",
        "Valid sort keys (unique prefixes are accepted):\ncalls -- call count\n",
        "Fraction argument must be in [0, 1]\n",
        "*** Unknown syntax: foo\n",
        "Documented commands",
        "* A decimal fractional number",
        "<Invalid regular expression '('>",
        "could not read nowhere: no such file",
    ] {
        assert!(ran.out.contains(text), "{text:?} is missing in {}", ran.out);
    }
    assert!(ran.out.ends_with("Goodbye.\n"), "quit ends it: {}", ran.out);
    let none = etherctl(&["stats"], "stats\nread\n");
    assert!(
        none.out.contains("No statistics object is loaded.\nNo statistics object is current"),
        "{}",
        none.out
    );
    assert!(none.out.ends_with("\nGoodbye.\n"), "the end of input ends it: {}", none.out);
}

#[test]
fn the_shell_prints_what_python_prints() {
    let dir = TempDir::new();
    // Of times so long that Python prints none as 0.000.
    let mut long = snapshot();
    long.cells.iter_mut().for_each(|cell| cell.ns *= 1_000_000);
    let file = dir.write("a.pstats", &formats::write(&long, Format::Pstats).unwrap());
    let script = "sort tottime name\nstats tap|mask\ncallees sw\ncallers tap.write\nquit\n";
    let ours = etherctl(&["stats", &file], script).out;
    let theirs = super::python(&["-m", "pstats", &file], script);
    // Theirs prints a prompt before each answer, and the file's time beside its name.
    let table = |text: &str| -> Vec<String> {
        let wanted = |line: &&str| {
            ["(tx.", "(sw.", "(rx.", "ncalls", "function calls", "List reduced"]
                .iter()
                .any(|w| line.contains(w))
        };
        text.lines().filter(wanted).map(|line| line.trim_end().to_owned()).collect()
    };
    assert!(table(&ours).len() > 10, "{ours}");
    assert_eq!(table(&ours), table(&theirs));
}
