//! `etherctl stats`: the shell of `python3 -m pstats`, for pstats files and for those of `prof record -f
//! json`. Commands, messages and output are its own; input may be a terminal or a script.

use std::io::{self, BufRead, IsTerminal};
use std::path::{Path, PathBuf};

use etherws::prof::formats::pstats::Stats;
use etherws::prof::formats::{Numbers, Stacks};
use etherws::prof::view::report::{Report, Restriction, SORT_KEYS};

use crate::Wrong;
use crate::prof::numbers;
use crate::table::escaped_lines;

/// Reads commands until `quit` or the end.
pub fn run(files: &[PathBuf]) -> Result<(), Wrong> {
    let mut shell = Shell::default();
    if let Some((first, others)) = files.split_first() {
        // A script should fail where a person would try again.
        shell.load(first)?;
        for file in others {
            let (name, stats) = read(file)?;
            shell.report.get_or_insert_default().add(name, &stats);
        }
    }
    let interactive = io::stdin().is_terminal();
    say("Welcome to the profile statistics browser.\n")?;
    let mut input = io::stdin().lock();
    loop {
        if interactive {
            say(&shell.prompt())?;
        }
        let mut line = Vec::new();
        let read = input.read_until(b'\n', &mut line).map_err(|e| format!("could not read commands: {e}"))?;
        let line = String::from_utf8_lossy(&line);
        let answer = if read == 0 { shell.answer("EOF") } else { shell.answer(&line) };
        match answer {
            Answer::Text(text) => say(&text)?,
            Answer::Done(text) => {
                say(&text)?;
                break;
            }
        }
    }
    say("Goodbye.\n")
}

fn say(text: &str) -> Result<(), Wrong> {
    Ok(crate::print(text)?)
}

/// What a line is answered with.
#[derive(PartialEq, Eq, Debug)]
enum Answer {
    Text(String),
    Done(String),
}

#[derive(Default)]
struct Shell {
    file: Option<PathBuf>,
    report: Option<Report>,
    last: String,
}

const COMMANDS: [(&str, &str); 11] = [
    ("EOF", "Leave the profile browser."),
    ("add", "Add profile info from given file to current statistics object."),
    ("callees", "Print callees statistics from the current stat object."),
    ("callers", "Print callers statistics from the current stat object."),
    ("help", "Show help for a given command."),
    ("quit", "Leave the profile browser."),
    ("read", "Read in profile data from a specified file.\nWithout argument, reload the current file."),
    ("reverse", "Reverse the sort order of the profiling report."),
    (
        "sort",
        "Sort profile data according to specified keys.\n(Typing `sort' without arguments lists valid keys.)",
    ),
    ("stats", "Print statistics from the current stat object."),
    ("strip", "Strip leading path information from filenames in the report."),
];

const ARGUMENTS: &str = "Arguments may be:
* An integer maximum number of entries to print.
* A decimal fractional number between 0 and 1, controlling
  what fraction of selected entries to print.
* A regular expression; only entries with function names
  that match it are printed.
";

const NOTHING: &str = "No statistics object is loaded.\n";

impl Shell {
    fn prompt(&self) -> String {
        let file = self.file.as_ref().map(|file| escaped_lines(&file.display().to_string()));
        format!("{}% ", file.unwrap_or_default())
    }

    fn load(&mut self, file: &Path) -> Result<(), String> {
        let (name, stats) = read(file)?;
        self.report = Some(Report::new(name, stats));
        self.file = Some(file.to_owned());
        Ok(())
    }

    fn answer(&mut self, line: &str) -> Answer {
        let line = line.trim();
        let line = match line {
            // An empty line says the last one again, as Python's cmd does.
            "" => std::mem::take(&mut self.last),
            line => line.to_owned(),
        };
        self.last = line.clone();
        // `?` is help.
        let (word, rest) = match line.strip_prefix('?') {
            Some(rest) => ("help", rest.trim()),
            None => {
                line.split_once(char::is_whitespace).map_or((line.as_str(), ""), |(w, rest)| (w, rest.trim()))
            }
        };
        let text = match word {
            "" => String::new(),
            "EOF" => return Answer::Done("\n".into()),
            "quit" => return Answer::Done(String::new()),
            "help" => help(rest),
            "read" => self.read(rest),
            "add" => self.add(rest),
            "sort" => self.sort(rest),
            "reverse" => self.with(|report| {
                report.reverse();
                String::new()
            }),
            "strip" => self.with(|report| {
                report.strip();
                String::new()
            }),
            "stats" => self.restricted(rest, Report::print_stats),
            "callers" => self.restricted(rest, Report::print_callers),
            "callees" => self.restricted(rest, Report::print_callees),
            _ => format!("*** Unknown syntax: {line}\n"),
        };
        Answer::Text(safe(&text))
    }

    fn with(&mut self, what: impl FnOnce(&mut Report) -> String) -> String {
        self.report.as_mut().map_or_else(|| NOTHING.into(), what)
    }

    fn restricted(&mut self, words: &str, print: fn(&Report, &[Restriction]) -> String) -> String {
        let mut said = String::new();
        let mut restrictions = Vec::new();
        for word in words.split_whitespace() {
            match Restriction::new(word) {
                Ok(restriction) => restrictions.push(restriction),
                Err(why) => said.push_str(&format!("{why}\n")),
            }
        }
        said + &self.with(|report| print(report, &restrictions))
    }

    fn read(&mut self, file: &str) -> String {
        let file = match (file, &self.file) {
            ("", None) => return "No statistics object is current -- cannot reload.\n".into(),
            ("", Some(file)) => file.clone(),
            (file, _) => file.into(),
        };
        self.load(&file).map_or_else(|why| format!("{why}\n"), |()| String::new())
    }

    fn add(&mut self, file: &str) -> String {
        let Some(report) = &mut self.report else { return NOTHING.into() };
        match read(Path::new(file)) {
            Ok((name, stats)) => {
                report.add(name, &stats);
                String::new()
            }
            Err(why) => format!("Failed to load statistics for {file}: {why}\n"),
        }
    }

    fn sort(&mut self, keys: &str) -> String {
        let Some(report) = &mut self.report else { return NOTHING.into() };
        let words: Vec<&str> = keys.split_whitespace().collect();
        if !words.is_empty() && report.sort(&words) {
            return String::new();
        }
        let keys = SORT_KEYS.iter().map(|(key, title)| format!("{key} -- {title}\n"));
        std::iter::once("Valid sort keys (unique prefixes are accepted):\n".to_owned()).chain(keys).collect()
    }
}

fn help(word: &str) -> String {
    if word.is_empty() {
        let names: Vec<_> = COMMANDS.iter().map(|(name, _)| *name).collect();
        let rule = "=".repeat(40);
        return format!("\nDocumented commands (type help <topic>):\n{rule}\n{}\n\n", names.join("  "));
    }
    match COMMANDS.iter().find(|(name, _)| *name == word) {
        None => format!("*** No help on {word}\n"),
        Some(("stats" | "callers" | "callees", text)) => format!("{text}\n{ARGUMENTS}"),
        Some((_, text)) => format!("{text}\n"),
    }
}

/// A file's name as it is printed above the statistics, and these.
fn read(file: &Path) -> Result<(String, Stats), String> {
    let stats = match numbers(file)? {
        Numbers::Stats(stats) => stats,
        Numbers::Snapshot(snapshot) => Stats::of(&Stacks::of(&snapshot)),
    };
    Ok((file.display().to_string(), stats))
}

/// Names in a file are anybody's; lines end where they did.
fn safe(text: &str) -> String {
    text.split_inclusive('\n')
        .map(|line| match line.strip_suffix('\n') {
            Some(line) => escaped_lines(line) + "\n",
            None => escaped_lines(line),
        })
        .collect()
}
