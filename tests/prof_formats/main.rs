//! The profiler's files in the hands of readers that we did not write (python3 -m pstats, flameshow's parsers
//! with the protobuf of pprof, inferno, speedscope's rules), and what etherctl makes of them and of a switch.

mod etherctl;
mod fixture;
mod hostile;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use etherws::prof::formats::{self, Format, Stacks, read_tree};
use etherws::prof::view::{Node, Top, total_ns, tree};
use fixture::{TempDir, snapshot};
use serde_json::Value;

const PYTHON: &str = "/usr/bin/python3";

#[test]
fn python_s_pstats_opens_ours() {
    let dir = TempDir::new();
    let file = dir.write("a.pstats", &formats::write(&snapshot(), Format::Pstats).unwrap());
    let text = python(
        &["-m", "pstats", &file],
        "sort time\nstats 10\nstrip\ncallees sw.flood\ncallers tx.ws.mask\nquit\n",
    );
    assert!(text.contains("Ordered by: internal time"), "{text}");
    let lines: Vec<&str> =
        text.lines().filter(|line| line.contains("(tx.") || line.contains("(rx.")).collect();
    assert!(lines[0].ends_with("(tx.ws.mask)"), "the dearest first: {text}");
    // 1,000,000 frames, 0.9 s of their own.
    assert_eq!(lines[0].split_whitespace().take(2).collect::<Vec<_>>(), ["1000000", "0.900"], "{text}");
    assert!(text.contains("in 2.000 seconds"), "all processor time, and no waits: {text}");
    assert!(text.contains("(sw.flood)  ->") && text.contains("(tx.tap.write)"), "{text}");
    assert!(text.contains("(tx.ws.mask)  <-") && text.contains("(tx.ws.encode)"), "{text}");
}

#[test]
fn flameshow_reads_pprof_folded_and_speedscope() {
    let Some(packages) = flameshow() else { return };
    let dir = TempDir::new();
    for (format, name, unit) in [
        (Format::Pprof, "a.pb.gz", "nanoseconds"),
        (Format::Folded, "a.folded", "count"),
        (Format::Speedscope, "a.speedscope.json", "nanoseconds"),
    ] {
        let file = dir.write(name, &formats::write(&snapshot(), format).unwrap());
        let seen = reader(packages, "flameshow", &file);
        assert_eq!(seen["total"], Value::from(of_format(format)), "{name}");
        assert_eq!(seen["units"].as_array().unwrap().last().unwrap(), unit, "{name}");
        let names = seen["names"].as_array().unwrap();
        for name in ["rx", "tx.ws.mask", "sw.lookup"] {
            assert!(names.contains(&name.into()), "{name} is missing in {names:?}");
        }
        assert!(!names.contains(&"rx.wait".into()), "waiting is no processor time");
    }
}

/// speedscope shows one thread at a time, the busiest first.
fn of_format(format: Format) -> u64 {
    match format {
        Format::Speedscope => {
            snapshot()
                .cells
                .iter()
                .filter(|c| c.thread == "data-0" && c.path != "rx.wait")
                .map(|c| c.ns)
                .sum::<u64>()
                + 50_000_000
        }
        _ => total_ns(&snapshot()),
    }
}

#[test]
fn the_protobuf_of_pprof_is_as_its_readers_want_it() {
    let Some(packages) = flameshow() else { return };
    let dir = TempDir::new();
    let file = dir.write("a.pb.gz", &formats::write(&snapshot(), Format::Pprof).unwrap());
    let seen = reader(packages, "pprof", &file);
    assert_eq!(
        seen["sample_types"],
        serde_json::json!([["frames", "count"], ["bytes", "bytes"], ["time", "nanoseconds"]])
    );
    assert_eq!(seen["first_string"], "");
    assert_eq!(seen["mappings"], serde_json::json!([[1, "etherws", true]]));
    assert_eq!(seen["location_mappings"], serde_json::json!([1]), "each location has the mapping");
    assert_eq!(seen["default_sample_type"], 0);
    assert_eq!(seen["duration_nanos"], 10_000_000_000_u64);
    let samples = seen["samples"].as_array().unwrap();
    let masked: Vec<&Value> = samples.iter().filter(|s| s["stack"][0] == "tx.ws.mask").collect();
    assert_eq!(masked[0]["stack"], serde_json::json!(["tx.ws.mask", "tx.ws.encode", "tx"]), "leaf first");
    let labels = &masked[0]["labels"];
    assert_eq!(
        (&labels["port"], &labels["thread"], &labels["dir"]),
        (&"up/link".into(), &"data-0".into(), &"c>s".into())
    );
    assert!(["<=64", "1518"].contains(&labels["frame_size"].as_str().unwrap()), "{labels}");
    let names = samples.iter().flat_map(|s| s["stack"].as_array().unwrap());
    assert!(names.clone().count() > 0 && names.clone().all(|name| !name.as_str().unwrap().contains('/')));
    let time: u64 = samples.iter().map(|s| s["values"][2].as_u64().unwrap()).sum();
    assert_eq!(time, total_ns(&snapshot()));
}

#[test]
fn inferno_reads_folded_and_its_page_stands_alone() {
    let folded = String::from_utf8(formats::write(&snapshot(), Format::Folded).unwrap()).unwrap();
    let sum: u64 = folded.lines().map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum();
    assert_eq!(sum, total_ns(&snapshot()));
    let mut page = Vec::new();
    let mut options = inferno::flamegraph::Options::default();
    inferno::flamegraph::from_lines(&mut options, folded.lines(), &mut page).unwrap();
    let page = String::from_utf8(page).unwrap();
    assert!(page.contains("all (2,000,000,000 samples, 100%)"), "inferno counts the same");

    let ours = String::from_utf8(formats::write(&snapshot(), Format::Svg).unwrap()).unwrap();
    assert!(ours.contains("<title>tx.ws.mask (900,000,000 ns, 45.00%)</title>"), "{ours}");
    // No style, script, font or image from elsewhere.
    let fetched: Vec<&str> = ours
        .split(['"', '\''])
        .filter(|text| text.contains("://") && !text.contains("www.w3.org"))
        .filter(|text| !text.contains(['\n', ' ']))
        .collect();
    assert!(fetched.iter().all(|url| url.contains("github.com")), "{fetched:?}");
    assert!(
        !ours.contains("<image") && !ours.contains("@import") && !ours.contains("<script src"),
        "self-contained"
    );
    assert!(ours.contains("search") && ours.contains("zoom"));
}

#[test]
fn speedscope_s_schema_is_kept() {
    let text = formats::write(&snapshot(), Format::Speedscope).unwrap();
    let file: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(file["$schema"], "https://www.speedscope.app/file-format-schema.json");
    let frames = file["shared"]["frames"].as_array().unwrap();
    assert!(frames.iter().all(|frame| frame["name"].is_string()));
    let profiles = file["profiles"].as_array().unwrap();
    let threads: Vec<_> = profiles.iter().map(|p| p["name"].as_str().unwrap()).collect();
    assert_eq!(threads, ["data-0", "data-1"]);
    assert_eq!(file["activeProfileIndex"], 0, "the busiest");
    let mut total = 0;
    for profile in profiles {
        assert_eq!((&profile["type"], &profile["unit"]), (&"sampled".into(), &"nanoseconds".into()));
        let (samples, weights) =
            (profile["samples"].as_array().unwrap(), profile["weights"].as_array().unwrap());
        assert_eq!(samples.len(), weights.len());
        let known = |number: &Value| number.as_u64().is_some_and(|number| (number as usize) < frames.len());
        assert!(samples.iter().all(|sample| sample.as_array().unwrap().iter().all(known)));
        let sum: u64 = weights.iter().map(|weight| weight.as_u64().unwrap()).sum();
        assert_eq!((&profile["startValue"], &profile["endValue"]), (&0.into(), &sum.into()));
        total += sum;
    }
    assert_eq!(total, total_ns(&snapshot()));
}

#[test]
fn every_file_of_stacks_is_read_back_whole() {
    let expected = tree(&snapshot(), Top::Nothing);
    for format in [Format::Pprof, Format::Folded, Format::Speedscope, Format::Json] {
        let file = formats::write(&snapshot(), format).unwrap();
        assert_eq!(read_tree(&file).as_ref(), Ok(&expected), "{}", format.name());
    }
}

#[test]
fn a_pprof_of_64_kib_becomes_a_tree() {
    let (profile, total) = fixture::large(3_000);
    let file = profile.write(Format::Pprof).unwrap();
    assert!(file.len() > 64 << 10, "{}", file.len());
    let tree = read_tree(&file).unwrap();
    assert_eq!((tree.total(), count(&tree)), (total, count(&profile.tree())));
    assert!(count(&tree) > 3_000);
}

fn count(node: &Node) -> usize {
    1 + node.children.iter().map(count).sum::<usize>()
}

#[test]
fn a_profile_of_cprofile_is_read() {
    let dir = TempDir::new();
    let file = dir.path("c.prof");
    let script = "import cProfile, sys\ndef fib(n):\n    return n if n < 2 else fib(n-1) + fib(n-2)\ncProfile.run('fib(15)', sys.argv[1])\n";
    python(&["-c", script, &file], "");
    let stats = formats::pstats::Stats::read(&std::fs::read(&file).unwrap()).unwrap();
    let (func, fib) = stats.funcs.iter().find(|(func, _)| func.name == "fib").unwrap();
    assert_eq!((func.line, fib.calls.calls, fib.calls.primitive), (2, 1973, 1));
    assert_eq!(fib.callers.len(), 2, "itself and the module");
}

#[test]
fn nothing_measured_is_written_and_read_or_said() {
    let nothing =
        etherws::prof::snapshot::Snapshot { format: "etherws-prof".into(), version: 1, ..Default::default() };
    for format in Format::ALL {
        match (format, formats::write(&nothing, format)) {
            (Format::Svg, result) => assert!(result.unwrap_err().contains("nothing was measured")),
            (_, result) => assert!(result.is_ok(), "{}", format.name()),
        }
    }
    assert_eq!(Stacks::of(&nothing).tree().total(), 0);
}

/// What Python prints.
fn python(args: &[&str], input: &str) -> String {
    let mut child = Command::new(PYTHON)
        .args(args)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect(PYTHON);
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{args:?}: {out}{err}");
    out.into_owned()
}

/// What `readers.py` makes of a file.
fn reader(packages: &Path, what: &str, file: &str) -> Value {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/prof_formats/readers.py");
    let text = python(&[script, packages.to_str().unwrap(), what, file], "");
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// Where flameshow and what it needs is installed, once for all runs; `None`, said aloud, where PyPI cannot
/// be reached.
fn flameshow() -> Option<&'static Path> {
    static PACKAGES: OnceLock<Option<PathBuf>> = OnceLock::new();
    let install = || {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("flameshow-1.1.5");
        if dir.join("flamegraph_textual").is_dir() {
            return Some(dir);
        }
        // Tests may run in several processes: each installs for itself, the first takes the name.
        let own = dir.with_extension(std::process::id().to_string());
        let pip = [
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--retries=1",
            "--timeout=20",
            "--target",
        ];
        let output = Command::new(PYTHON).args(pip).arg(&own).arg("flameshow==1.1.5").output();
        let installed = output.as_ref().is_ok_and(|output| output.status.success());
        if installed && std::fs::rename(&own, &dir).is_err() {
            let _ = std::fs::remove_dir_all(&own);
        }
        if dir.join("flamegraph_textual").is_dir() {
            return Some(dir);
        }
        let why = output.map_or_else(|e| e.to_string(), |o| String::from_utf8_lossy(&o.stderr).into_owned());
        eprintln!("##### SKIPPED: flameshow's readers: pip could not install them: {why} #####");
        None
    };
    PACKAGES.get_or_init(install).as_deref()
}

#[test]
fn own_times_by_stage_are_the_same_in_every_file() {
    let by_leaf = |node: &Node| {
        let mut sums: BTreeMap<String, u64> = BTreeMap::new();
        for (stack, ns) in node.stacks() {
            *sums.entry(stack.last().unwrap().to_string()).or_default() += ns;
        }
        sums
    };
    let stats = formats::pstats::Stats::read(&formats::write(&snapshot(), Format::Pstats).unwrap()).unwrap();
    let expected = by_leaf(&tree(&snapshot(), Top::Nothing));
    for (name, ns) in &expected {
        let (_, entry) = stats.funcs.iter().find(|(func, _)| func.name == *name).expect(name);
        assert!((entry.calls.own * 1e9 - *ns as f64).abs() < 1.0, "{name}");
    }
    assert_eq!(expected["tx.tap.write"], 130_000_000, "under two parents");
}
