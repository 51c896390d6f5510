//! What the documents name, held against what is there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Promises are worth as much as their tests.
#[test]
fn each_test_that_security_md_names_is_there() {
    let sources = ["src", "ctl", "tests"].map(|top| below(&root().join(top))).concat();
    let text = |path: &PathBuf| (path.clone(), fs::read_to_string(path).expect("source"));
    let sources: Vec<_> = sources.iter().map(text).collect();
    let document = fs::read_to_string(root().join("docs/security.md")).expect("docs/security.md");
    let rows = document.lines().filter(|line| line.starts_with("| "));
    let mut seen = 0;
    for word in rows.flat_map(|row| row.split('`').skip(1).step_by(2)).flat_map(str::split_whitespace) {
        let is_file = sources.iter().any(|(path, _)| path.iter().any(|part| is_named(part.as_ref(), word)));
        if !word.contains('_') || word.contains('/') || is_file {
            continue;
        }
        let function = match word.strip_suffix("...") {
            Some(start) => format!("fn {start}"),
            None => format!("fn {word}("),
        };
        assert!(sources.iter().any(|(_, text)| text.contains(&function)), "no test has the name {word}");
        seen += 1;
    }
    assert!(seen > 40, "{seen} names in docs/security.md");
}

/// Command lines in the documents have no flags that are gone.
#[test]
fn each_flag_that_the_documents_name_is_there() {
    let known: BTreeSet<_> = [env!("CARGO_BIN_EXE_etherws"), env!("CARGO_BIN_EXE_etherctl")]
        .iter()
        .flat_map(|program| help(program, &[]))
        .collect();
    let documents = below(&root().join("docs")).into_iter().chain([root().join("README.md")]);
    let mut seen = 0;
    for path in documents.filter(|path| path.extension().is_some_and(|ext| ext == "md")) {
        let text = fs::read_to_string(&path).expect("document").replace("\\\n", " ");
        for line in text.lines() {
            let starts = ["etherws sw ", "etherctl "].iter().filter_map(|start| line.find(start));
            let Some(at) = starts.min() else { continue };
            let ours = line[at..].split(['|', '#']).next().unwrap_or_default();
            for flag in flags(ours) {
                assert!(known.contains(&flag), "{}: {flag}: {line}", path.display());
                seen += 1;
            }
        }
    }
    assert!(seen > 80, "{seen} flags in the documents");
}

/// The flags of a program and of all its commands.
fn help(program: &str, command: &[&str]) -> Vec<String> {
    let output = Command::new(program).args(command).arg("--help").output().expect("--help");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && !text.is_empty(), "{program} {command:?} --help");
    let commands =
        text.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = commands.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = names
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| !["help", "ctl"].contains(name));
    let below = names.flat_map(|name| help(program, &[command, &[name]].concat()));
    flags(&text).into_iter().chain(below.collect::<Vec<_>>()).collect()
}

/// The words of a text that begin with two hyphens and a letter.
fn flags(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
    let is_flag = |word: &&str| {
        word.strip_prefix("--").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()))
    };
    words.filter(is_flag).map(|word| word.trim_end_matches('-').to_owned()).collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn is_named(file: &Path, name: &str) -> bool {
    file.file_stem().is_some_and(|stem| stem == name)
}

fn below(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let entries = entries.map(|entry| entry.expect("entry").path());
    let wanted = |path: &PathBuf| path.extension().is_some_and(|ext| ext == "rs" || ext == "md");
    entries.flat_map(|path| if path.is_dir() { below(&path) } else { vec![path] }).filter(wanted).collect()
}
