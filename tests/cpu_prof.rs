//! `cpuProf`: a daemon at work is sampled, says which functions its threads are in, and works on.

mod lab;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use lab::switch::{ETHERWS, Pair, Switch, TwoHosts, call, pair};
use lab::{Host, SOON, sh, wait_until};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

fn stacks(profile: &Value) -> Vec<(String, Vec<String>, u64)> {
    let stack = |entry: &Value| {
        let thread = entry["thread"].as_str().expect("thread").to_owned();
        let stack = serde_json::from_value(entry["stack"].clone()).expect("stack");
        (thread, stack, entry["count"].as_u64().expect("count"))
    };
    profile["stacks"].as_array().expect("stacks").iter().map(stack).collect()
}

/// 1,000 signals a second in whatever the threads do: TCP across the switch, and calls to control.
#[test]
fn a_busy_switch_is_sampled_and_works_on() {
    let hosts = TwoHosts::new();
    let Pair { mut a, b } = pair(&hosts);
    let _server = hosts.b.spawn("iperf-server", &["iperf3", "-s", "-B", "10.1.0.2"]);
    hosts.b.wait_port("10.1.0.2:5201");
    let _client = hosts.a.spawn("iperf", &["iperf3", "-c", "10.1.0.2", "-t", "30"]);
    wait_until("data flows", SOON, || a.port("link")["tx_bytes"].as_u64() > Some(5_000_000));

    let done = AtomicBool::new(false);
    let (profile, calls) = std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut calls = 0;
            while !done.load(Relaxed) {
                call(a.sock(), "etherws.control.listCounters", json!({})).expect("control answers meanwhile");
                calls += 1;
            }
            calls
        });
        let profile = a.rpc("cpuProf", json!({"seconds": 3, "hz": 1000}));
        done.store(true, Relaxed);
        (profile.expect("a profile"), asking.join().expect("calls"))
    });
    assert!(calls > 10, "{calls}");
    assert!(
        profile["program"].as_str().is_some_and(|program| program.starts_with("etherws 2.")),
        "{profile}"
    );
    assert_eq!((&profile["hz"], &profile["note"]), (&json!(1000), &Value::Null));
    assert!((3e9..20e9).contains(&profile["elapsed_ns"].as_f64().expect("elapsed")), "{profile}");

    let stacks = stacks(&profile);
    let of = |wanted: &'static str| stacks.iter().filter(move |(thread, ..)| thread == wanted);
    let sum =
        |found: &mut dyn Iterator<Item = &(String, Vec<String>, u64)>| found.map(|(.., n)| n).sum::<u64>();
    let shown = || serde_json::to_string_pretty(&profile).expect("JSON");
    let data = sum(&mut of("data-0"));
    assert!(data > 20, "{}", shown());
    // Outermost first: from the thread's beginning, through our code, inward.
    let whole = |stack: &[String]| {
        let first = |word: &str| stack.iter().position(|name| name.contains(word));
        let (began, ours) = (first("thread_start"), first("etherws::port"));
        began.is_some() && began < ours && first("[cut off]").is_none()
    };
    let good = sum(&mut of("data-0").filter(|(_, stack, _)| whole(stack)));
    assert!(good * 10 >= data * 8, "{good} of {data} samples of data-0 lead through our code: {}", shown());
    // Control's futures are so large in a debug build that its outer functions may be cut off.
    assert!(sum(&mut of("main")) > 0, "{}", shown());
    for (_, stack, _) in &stacks {
        let hash = |name: &String| {
            let end = name.rsplit_once("::h").map(|(_, end)| end);
            end.is_some_and(|end| end.len() == 16 && end.bytes().all(|b| b.is_ascii_hexdigit()))
        };
        assert!(!stack.is_empty() && !stack.iter().any(hash), "demangled, without hashes: {stack:?}");
    }
    // No more than the CPU time that the threads can have had, and some for rounding.
    let cpus = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    let all = sum(&mut stacks.iter()) + profile["lost"].as_u64().expect("lost");
    assert!((all as f64) < profile["elapsed_ns"].as_f64().expect("elapsed") / 1e6 * cpus * 1.2, "{all}");

    // A signal that comes too late does nothing, and neither does somebody else's.
    a.process.signal(Signal::SIGPROF);
    let before = a.port("link")["tx_bytes"].as_u64();
    wait_until("frames go on", SOON, || {
        a.port("link")["tx_bytes"].as_u64() > before.map(|bytes| bytes + 1_000_000)
    });
    hosts.a.ping("10.1.0.2");
    assert!(a.process.is_running() && !b.entries("listPort").is_empty());
    assert!(!stacks_of_second_look(&a).is_empty());
}

/// It can be done again.
fn stacks_of_second_look(switch: &Switch) -> Vec<(String, Vec<String>, u64)> {
    stacks(&switch.rpc_ok("cpuProf", json!({"seconds": 1})))
}

/// A release has no symbols. Those in a file beside it, to which its debug link leads, are as good.
#[test]
fn without_symbols_there_are_offsets_and_with_a_debug_file_names() {
    let host = Host::new();
    let path = |name: &str| host.dir().join(name).to_str().expect("path").to_owned();
    let (bare, debug, linked) = (path("bare/etherws"), path("linked/etherws.debug"), path("linked/etherws"));
    for name in ["bare", "linked"] {
        std::fs::create_dir(path(name)).expect("directory");
    }
    sh(&["objcopy", "--only-keep-debug", ETHERWS, &debug]);
    sh(&["objcopy", "--strip-all", ETHERWS, &bare]);
    sh(&["objcopy", "--strip-all", &format!("--add-gnu-debuglink={debug}"), ETHERWS, &linked]);

    let profile = profile_of_control(&host, &bare);
    let all = stacks(&profile);
    let of_main = all.iter().filter(|(thread, ..)| thread == "main").flat_map(|(_, stack, _)| stack);
    let offsets: Vec<&str> = of_main.filter_map(|name| name.strip_prefix("etherws+")).collect();
    assert!(offsets.len() > 10, "{profile}");
    assert!(
        profile["note"].as_str().is_some_and(|note| note.contains("etherws.debug")),
        "{}",
        profile["note"]
    );
    // They are what addr2line takes.
    let mut addr2line = vec!["addr2line", "-f", "-e", &debug];
    addr2line.extend(&offsets);
    let found = sh(&addr2line);
    let functions: Vec<&str> = found.lines().step_by(2).collect();
    let known = functions.iter().filter(|name| **name != "??").count();
    assert!(known * 10 >= functions.len() * 9, "{known} of {}", functions.len());
    assert!(functions.iter().any(|name| name.contains("etherws")), "{functions:?}");

    let profile = profile_of_control(&host, &linked);
    assert_eq!(profile["note"], Value::Null);
    let named =
        |(_, stack, _): &(String, Vec<String>, u64)| stack.iter().any(|name| name.contains("etherws::"));
    assert!(stacks(&profile).iter().any(named), "{profile}");
}

/// A switch of this program, sampled while it is asked this and that.
fn profile_of_control(host: &Host, program: &str) -> Value {
    let sock = host.dir().join("own.sock");
    let args = [program, "sw", "--no-listen", "--ctlsock", sock.to_str().expect("path")];
    let _process = host.spawn("own", &args);
    let version = || call(&sock, "etherws.control.getVersion", json!({}));
    wait_until("it answers", SOON, || version().is_ok());
    let done = AtomicBool::new(false);
    let answer = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Relaxed) {
                version().expect("an answer");
            }
        });
        let answer = call(&sock, "etherws.control.cpuProf", json!({"seconds": 2, "hz": 1000}));
        done.store(true, Relaxed);
        answer
    });
    answer.expect("an answer")["result"].clone()
}

#[test]
fn one_samples_and_the_next_is_told_for_how_long() {
    let host = Host::new();
    let switch = Switch::start(&host, &["--no-listen"]);
    std::thread::scope(|scope| {
        // Whichever of the two comes first, the other is refused once.
        let first = scope.spawn(|| {
            wait_until("five seconds of sampling", SOON * 2, || {
                switch.rpc("cpuProf", json!({"seconds": 5})).is_ok()
            });
        });
        let mut refusal = Value::Null;
        wait_until("the first samples", SOON, || {
            match switch.rpc("cpuProf", json!({"seconds": 1, "hz": 10})) {
                Ok(_) => false,
                Err(error) => {
                    refusal = error;
                    true
                }
            }
        });
        let why = refusal["message"].as_str().expect("message");
        let left =
            why.strip_prefix("a CPU sampling is running, ").and_then(|rest| rest.strip_suffix(" s left"));
        assert!(left.and_then(|left| left.parse::<u32>().ok()).is_some_and(|left| left <= 5), "{refusal}");
        assert_eq!(refusal["code"], -32000);
        first.join().expect("first");
    });
    wait_until("the turn is over", Duration::from_secs(20), || {
        switch.rpc("cpuProf", json!({"seconds": 1})).is_ok()
    });
    for (params, word) in [
        (json!({"seconds": 0}), "seconds"),
        (json!({"seconds": 301}), "seconds"),
        (json!({"hz": 0}), "hz"),
        (json!({"hz": 1001}), "hz"),
    ] {
        let error = switch.rpc("cpuProf", params).expect_err("out of range");
        assert_eq!(error["code"], -32602, "{error}");
        assert!(error["data"].as_str().is_some_and(|why| why.starts_with(word)), "{error}");
    }
}
