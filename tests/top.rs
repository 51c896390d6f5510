//! `etherctl top` and `etherctl flame` in a terminal (tmux), against a switch that is made up: its counters
//! grow by the same amount with every look, so that each key's effect is known to the digit. It writes down
//! what it is asked.

#[path = "top/fake.rs"]
mod fake;
#[path = "top/real.rs"]
mod real;
#[path = "top/tmux.rs"]
mod tmux;

use std::process::{Command, Stdio};

use fake::{Fake, Mood};
use serde_json::Value;
use tmux::Tmux;

/// The command, to be typed at a shell.
fn top(fake: &Fake, rest: &str) -> String {
    format!(
        "{} top --ctlurl unix:{} --interval 0.2 {rest}",
        env!("CARGO_BIN_EXE_etherctl"),
        fake.path().display()
    )
}

macro_rules! tmux_or_skip {
    ($width:expr, $height:expr) => {
        match Tmux::start($width, $height) {
            Some(tmux) => tmux,
            None => return eprintln!("skipped: tmux is not there (scripts/install-deps.sh test installs it)"),
        }
    };
}

/// The label of the selected line.
fn selected(screen: &str) -> String {
    let line = screen.lines().skip(4).find(|line| line.starts_with('>'));
    line.and_then(|line| line.split_whitespace().last()).unwrap_or_default().to_owned()
}

/// Without what a line's end may have taken away: where it falls depends on the length of a path.
fn unwrapped(text: &str) -> String {
    text.split_whitespace().collect()
}

#[test]
fn each_key_does_what_it_says() {
    let tmux = tmux_or_skip!(80, 24);
    let fake = Fake::start();
    tmux.run(&top(&fake, ""));
    let screen = tmux.until("figures", |text| text.contains("tx.ws.mask"));
    let lines: Vec<&str> = screen.lines().collect();
    assert!(
        lines[0].starts_with("etherws top  level stage  sampled 1/64  clock wall (TSC 2.00 GHz)"),
        "{screen}"
    );
    assert!(
        lines[1].starts_with("last 1.00 s of ")
            && lines[1].contains("lost 0  20.0 kpps  16.0 Mb/s  busy 25.00 %")
    );
    assert_eq!(lines[2], "stages  by own time");
    assert!(lines[3].contains("*own%") && lines[3].ends_with("stage"), "{screen}");
    assert_eq!(selected(&screen), "tx.ws.encode;tx.ws.mask", "the dearest first: {screen}");

    for (down, up) in [("Down", "Up"), ("j", "k")] {
        tmux.key(down);
        tmux.until("one down", |text| selected(text) == "rx.tap.read");
        tmux.key(up);
        tmux.until("one up", |text| selected(text).ends_with("tx.ws.mask"));
    }
    for (right, left) in [("Right", "Left"), ("l", "h")] {
        tmux.key(right);
        tmux.until("no frames any more", |text| !text.lines().nth(3).unwrap_or("").contains("frames"));
        tmux.key(left);
        tmux.until("frames again", |text| text.lines().nth(3).unwrap_or("").contains("frames"));
    }

    tmux.key("Enter");
    tmux.until("its ports", |text| {
        text.contains("stages > tx.ws.encode;tx.ws.mask  by") && text.contains("2 far (client)")
    });
    tmux.key("Enter");
    tmux.until("its sizes", |text| text.contains("mask > 2 far (client)  by") && selected(text) == "1518");
    tmux.key("Escape");
    tmux.until("the ports again", |text| text.contains("stages > tx.ws.encode;tx.ws.mask  by"));
    tmux.key("Escape");
    tmux.until("the stages again", |text| text.contains("stages  by own time"));

    tmux.key("[");
    tmux.until("the column to the left", |text| text.contains("*own/f"));
    tmux.key("]");
    tmux.key("]");
    tmux.until("the one to the right", |text| {
        text.contains("*deep/f") && text.contains("by deep time per frame")
    });
    tmux.key("[");
    tmux.until("own time", |text| text.contains("*own%"));

    tmux.key("/");
    tmux.literal("rx.");
    tmux.until("the line being typed", |text| text.lines().last() == Some("/rx."));
    tmux.key("Enter");
    let screen =
        tmux.until("what was found", |text| text.contains("  /rx./") && !text.contains("tx.ws.mask"));
    assert!(screen.contains("rx.tap.read"), "{screen}");
    tmux.key("/");
    tmux.literal("nothing");
    tmux.until("the line being typed", |text| text.ends_with("\n/rx.nothing"));
    tmux.key("Escape");
    tmux.until("the old filter", |text| !text.contains("nothing") && text.contains("  /rx./"));
    tmux.key("Escape");
    tmux.until("no filter", |text| !text.contains("  /rx./") && text.contains("tx.ws.mask"));

    tmux.key("Space");
    let paused = tmux.until("pause", |text| text.contains("PAUSED"));
    let looks = fake.count("showProf");
    fake.until("three more looks", |fake| fake.count("showProf") >= looks + 3);
    assert_eq!(tmux.screen(), paused, "nothing moves");
    tmux.key("Space");
    tmux.until("it goes on", |text| !text.contains("PAUSED"));

    let since = |text: &str| -> f64 {
        let line = text.lines().nth(1).unwrap_or("");
        let words: Vec<&str> = line.split_whitespace().collect();
        let at = words.iter().position(|word| *word == "of");
        at.and_then(|at| words.get(at + 1)).and_then(|word| word.parse().ok()).unwrap_or(f64::MAX)
    };
    let before = since(&tmux.until("some looks", |text| (9.0..1e9).contains(&since(text))));
    tmux.key("r");
    tmux.until("this viewer's zero", |text| since(text) < before);
    assert_eq!(fake.count("resetProf"), 0, "nobody else's");
    tmux.key("c");
    tmux.until("all since the zero", |text| text.contains("all ") && since(text) > 2.0);
    tmux.key("c");
    tmux.until("the last interval", |text| text.contains("last 1.00 s of"));

    tmux.key("t");
    tmux.until("threads", |text| text.contains("threads  by") && text.contains("data-0 (busy 25.00 %)"));
    tmux.key("p");
    let screen = tmux.until("ports", |text| text.contains("ports  by") && text.contains("1 vms (tap)"));
    let ends = |end: &str| screen.lines().any(|line| line.ends_with(end));
    assert!(ends("1 vms (tap)") && ends("2 far (client) 3/4"), "{screen}");
    tmux.key("Enter");
    tmux.until("a port's stages", |text| {
        text.contains("ports > 2 far (client)  by") && text.contains("tx.ws.mask")
    });
    tmux.key("F");
    let screen = tmux.until("its flame", |text| text.contains("flame: all"));
    assert!(
        screen.contains(">all 100.00 %") && screen.contains("|tx.ws.mask") && !screen.contains("rx.tap"),
        "{screen}"
    );
    tmux.key("Down");
    tmux.until("into it", |text| text.contains(">tx 100.00 %"));
    tmux.key("Enter");
    tmux.until("zoomed", |text| text.contains("flame: all > tx  "));
    tmux.key("F");
    tmux.until("the table", |text| text.contains("ports > 2 far (client)  by") && !text.contains("flame:"));
    tmux.key("p");
    tmux.until("the stages", |text| text.contains("stages  by"));

    tmux.key("?");
    tmux.until("help", |text| text.contains("the zero of this screen is now"));
    tmux.key("x");
    tmux.until("no help", |text| !text.contains("the zero of this screen"));
    tmux.key("q");
    tmux.until_restored();
}

#[test]
fn the_lease_is_renewed_and_given_back_however_it_ends() {
    let tmux = tmux_or_skip!(80, 24);
    for (end, code) in [("q", 0), ("C-c", 0), ("TERM", 143), ("HUP", 129), ("INT", 130)] {
        let fake = Fake::start();
        tmux.run(&format!("{}; echo code $?", top(&fake, "")));
        tmux.until("figures", |text| text.contains("tx.ws.mask"));
        fake.until("renewals", |fake| fake.count("leaseProf") >= 4);
        let params: Vec<Value> = fake.params("leaseProf");
        assert!(params[0].get("lease").is_none() && params[0]["ttl_ms"] == 2000, "{params:?}");
        assert_eq!(params[0]["level"], "stage");
        assert!(params[1..].iter().all(|p| p["lease"] == fake.lease() && p["ttl_ms"] == 2000), "{params:?}");
        match end {
            "q" | "C-c" => tmux.key(end),
            signal => tmux.signal(signal),
        }
        tmux.until("the shell", |text| text.contains(&format!("code {code}")));
        tmux.until_restored();
        let params = fake.params("leaseProf");
        let last = params.last().unwrap();
        assert!(last["lease"] == fake.lease() && last["ttl_ms"] == 0, "{end}: {last}");
    }
}

#[test]
fn a_resize_is_followed_and_nothing_breaks_when_there_is_no_room() {
    let tmux = tmux_or_skip!(80, 24);
    let fake = Fake::start();
    tmux.run(&top(&fake, ""));
    tmux.until("few columns", |text| text.contains("*own%") && !text.contains("f/batch"));
    tmux.resize(140, 30);
    let screen = tmux.until("all columns", |text| text.contains("f/batch") && text.contains("cyc/f"));
    let titles = screen.lines().nth(3).unwrap().split_whitespace().collect::<Vec<_>>();
    assert_eq!(
        titles,
        [
            "frames", "own/f", "*own%", "deep/f", "deep%", "cyc/f", "ns/B", "p50", "p99", "max", "f/batch",
            "stage"
        ]
    );
    tmux.key("F");
    tmux.until("the flame", |text| text.contains("flame: all"));
    tmux.resize(20, 3);
    tmux.until("a corner", |text| text.starts_with("etherws top  level s") && text.lines().count() <= 3);
    tmux.resize(80, 24);
    tmux.until("the flame again", |text| text.contains("flame: all") && text.contains("rx.tap.read"));
    tmux.key("q");
    tmux.until_restored();
}

#[test]
fn without_colour_everything_is_told_by_characters() {
    let tmux = tmux_or_skip!(80, 24);
    for (before, flag, coloured) in
        [("", "", true), ("NO_COLOR=1 ", "", false), ("", "--no-color", false), ("TERM=dumb ", "", false)]
    {
        let fake = Fake::start();
        tmux.run(&format!("{before}{}", top(&fake, flag)));
        tmux.until("figures", |text| text.contains("tx.ws.mask"));
        tmux.key("F");
        tmux.until("the flame", |text| text.contains(">all 100.00 %") && text.contains("|rx.tap.read"));
        let escapes = tmux.escapes();
        let colour = |code: &u32| matches!(code, 30..=38 | 40..=48 | 90..=107);
        assert_eq!(escapes.iter().any(colour), coloured, "{before}{flag}: {escapes:?}");
        if before.starts_with("TERM") {
            assert!(escapes.iter().all(|code| *code == 0 || *code == 39 || *code == 49), "{escapes:?}");
        }
        tmux.key("q");
        tmux.until_restored();
    }
}

#[test]
fn a_switch_that_dies_and_comes_back() {
    let tmux = tmux_or_skip!(80, 24);
    let mut fake = Fake::start();
    tmux.run(&top(&fake, ""));
    tmux.until("figures", |text| text.contains("tx.ws.mask") && text.contains("20.0 kpps"));
    let first = fake.lease();
    fake.stop();
    let screen = tmux.until("the trouble", |text| text.contains("does not answer"));
    let said: String = screen.lines().rev().take(2).collect::<Vec<_>>().into_iter().rev().collect();
    let trouble = format!("the switch at unix:{} does not answer: ", fake.path().display());
    assert!(unwrapped(&said).contains(&unwrapped(&trouble)), "{screen}");
    assert!(said.contains("retrying") && screen.contains("tx.ws.mask"), "the last figures stay: {screen}");
    assert!(tmux.escapes().contains(&2), "dimmed: {:?}", tmux.escapes());
    // The keyboard is not held up.
    tmux.key("j");
    tmux.until("a key", |text| selected(text) == "rx.tap.read");
    fake.restart();
    tmux.until("figures again", |text| !text.contains("does not answer") && text.contains("20.0 kpps"));
    assert_ne!(fake.lease(), first);
    fake.until("renewals", |fake| fake.count("leaseProf") >= 2);
    let params = fake.params("leaseProf");
    assert!(params[0].get("lease").is_none(), "a new switch, a new lease: {params:?}");
    assert!(params[1..].iter().all(|p| p["lease"] == fake.lease()), "{params:?}");
    fake.mood(Mood::Refusing);
    tmux.until("a refusal", |text| text.contains("refuses: too many"));
    fake.mood(Mood::Well);
    tmux.until("figures once more", |text| !text.contains("refuses") && text.contains("20.0 kpps"));
    // A switch that stops in the middle of an answer does not stop the screen.
    fake.mood(Mood::Stalled);
    tmux.key("k");
    tmux.until("another key", |text| selected(text).ends_with("tx.ws.mask"));
    tmux.key("q");
    tmux.until_restored();
}

#[test]
fn what_does_not_pass_ends_with_a_clear_word() {
    let tmux = tmux_or_skip!(80, 24);
    let table = [
        (Mood::TooOld, "is too old for the profiler (it has no showProf)"),
        (Mood::Closed, "wants a user and a password"),
    ];
    for (mood, word) in table {
        let fake = Fake::start();
        fake.mood(mood);
        let output = etherctl(&["top", "--ctlurl", &fake.url(), "--interval", "0.2"]);
        assert!(output.1.contains("stdout is no terminal"), "before anything else: {output:?}");
        let output = etherctl(&["flame", "--ctlurl", &fake.url()]);
        assert!(output.1.contains(word) && output.2 == Some(1), "{output:?}");
        // The same, while looking.
        fake.mood(Mood::Well);
        tmux.run(&format!("{}; echo code $?", top(&fake, "")));
        tmux.until("figures", |text| text.contains("tx.ws.mask"));
        fake.mood(mood);
        let screen = tmux.until("the shell", |text| text.contains("code 1"));
        assert!(unwrapped(&screen).contains(&unwrapped(word)), "{screen}");
        tmux.until_restored();
    }
}

#[test]
fn a_flame_graph_of_a_file_is_printed_or_walked_about_in() {
    let dir = fake::Dir::new();
    let file = dir.0.join("folded");
    std::fs::write(&file, "main;read 600\nmain;write 300\nmain;write;mask 100\n").unwrap();
    let file = file.to_str().unwrap();
    let (out, err, code) = etherctl(&["flame", file, "--width", "40"]);
    assert_eq!((err.as_str(), code), ("", Some(0)));
    assert_eq!(
        out,
        "all 1000\n|all 100.00 %\n|main 100.00 %\n|read 60.00 %           |write 40.00 %\n                        |mas\n"
    );
    let tmux = tmux_or_skip!(80, 24);
    tmux.run(&format!("{} flame {file}", env!("CARGO_BIN_EXE_etherctl")));
    tmux.until("the graph", |text| text.contains(">all 100.00 %"));
    for (key, chosen) in
        [("j", ">main"), ("Down", ">read"), ("l", ">write"), ("Left", ">read"), ("k", ">main")]
    {
        tmux.key(key);
        tmux.until(chosen, |text| text.contains(chosen));
    }
    tmux.key("/");
    tmux.literal("mas");
    tmux.key("Enter");
    tmux.until("marked", |text| text.contains("*mask") && text.contains("/mas/ 10.00 %"));
    tmux.key("Enter");
    tmux.until("zoomed", |text| text.contains("flame: all > main  1000"));
    tmux.key("Escape");
    tmux.until("out", |text| text.contains("flame: all  1000"));
    tmux.key("q");
    tmux.until_restored();
}

#[test]
fn a_flame_graph_of_a_running_switch() {
    let fake = Fake::start();
    let (out, err, code) = etherctl(&["flame", "--ctlurl", &fake.url(), "--port", "far", "--width", "60"]);
    assert_eq!((err.as_str(), code), ("", Some(0)));
    assert!(
        out.contains("|tx.ws.encode") && out.contains("|tx.ws.mask") && !out.contains("rx.tap.read"),
        "{out}"
    );
    let params = fake.params("leaseProf");
    assert_eq!(params.last().unwrap()["ttl_ms"], 0, "given back: {params:?}");
    let (_, err, code) = etherctl(&["flame", "--ctlurl", &fake.url(), "--port", "nosuch"]);
    assert!(err.contains("no port nosuch") && code == Some(1), "{err}");
}

#[test]
fn a_real_switch_is_looked_at_left_killed_and_found_again() {
    let tmux = tmux_or_skip!(100, 30);
    let dir = fake::Dir::new();
    let control = dir.0.join("ctl");
    let switch = real::Real::start(&control);
    assert_eq!(real::ask(&control, "getProf")["level"], "count");
    let (etherctl, url) = (env!("CARGO_BIN_EXE_etherctl"), format!("unix:{}", control.display()));
    tmux.run(&format!("{etherctl} top --ctlurl {url} --interval 0.3"));
    let figures = |text: &str| {
        let kpps = text.split(" kpps").next().and_then(|text| text.rsplit(' ').next());
        kpps.and_then(|kpps| kpps.parse::<f64>().ok()).is_some_and(|kpps| kpps > 0.0)
    };
    let floods = |text: &str| {
        let level = text.starts_with("etherws top  level stage ");
        level && figures(text) && text.contains("sw.flood") && text.contains("rx.ws.unmask")
    };
    // Only some batches are measured: all that was since the beginning.
    tmux.until("the screen", |text| text.contains("kpps"));
    tmux.key("c");
    tmux.until("a flood", floods);
    assert_eq!(real::ask(&control, "getProf")["leases"].as_array().unwrap().len(), 1);
    tmux.key("p");
    tmux.until("both links", |text| text.contains("ports  by") && text.matches("(server)").count() == 2);
    tmux.key("/");
    tmux.literal("server");
    tmux.key("Enter");
    tmux.until("the links alone", |text| {
        text.contains("/server/") && text.lines().nth(4).unwrap_or("").contains("(server)")
    });
    tmux.key("Enter");
    tmux.until("a link's stages", |text| text.contains("ports > ") && text.contains("rx.ws.parse"));
    tmux.key("F");
    tmux.until("its flame", |text| text.contains("flame: all") && text.contains("|rx"));
    tmux.key("F");
    tmux.key("p");
    drop(switch);
    tmux.until("the trouble", |text| text.contains("does not answer") && text.contains("retrying"));
    let _switch = real::Real::start(&control);
    tmux.until("a flood again", |text| floods(text) && !text.contains("does not answer"));
    tmux.key("q");
    tmux.until_restored();
    let status = real::ask(&control, "getProf");
    assert_eq!(
        (&status["leases"], &status["level"]),
        (&serde_json::json!([]), &"count".into()),
        "given back"
    );
}

/// Output, errors, code; with no terminal.
fn etherctl(args: &[&str]) -> (String, String, Option<i32>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_etherctl"));
    let output = command.args(args).stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr), output.status.code())
}

/// A window that is closed, a connection that is lost: nobody is there to see it, and nothing goes on.
#[test]
fn it_ends_with_its_terminal() {
    for what in ["top", "flame"] {
        let tmux = tmux_or_skip!(80, 24);
        let fake = Fake::start();
        match what {
            "top" => tmux.run(&top(&fake, "")),
            _ => tmux.run(&format!(
                "{} flame --ctlurl unix:{}",
                env!("CARGO_BIN_EXE_etherctl"),
                fake.path().display()
            )),
        }
        tmux.until("figures", |text| text.contains("rx"));
        let status = format!("/proc/{}/stat", tmux.child());
        drop(tmux);
        // Nobody may be there to reap it.
        let runs = || std::fs::read_to_string(&status).is_ok_and(|text| !text.contains(") Z "));
        let began = std::time::Instant::now();
        while runs() && began.elapsed().as_secs() < 10 {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        assert!(!runs(), "etherctl {what} runs on without a terminal");
    }
}
