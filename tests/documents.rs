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

/// podman reads the one, docker the other: without it the whole of target/ would be sent.
#[test]
fn docker_ignores_what_podman_does() {
    let [podman, docker] = [".containerignore", ".dockerignore"]
        .map(|name| fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}")));
    assert!(podman.lines().any(|line| line == "/target"), "{podman}");
    assert_eq!(docker, podman);
}

/// Command lines in the documents have no flags that are gone.
#[test]
fn each_flag_that_the_documents_name_is_there() {
    let known: BTreeSet<_> = [env!("CARGO_BIN_EXE_etherws"), env!("CARGO_BIN_EXE_etherctl")]
        .iter()
        .flat_map(|program| commands(program, &[]))
        .flat_map(|command| flags(&command.help))
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

/// Files, and headings in them.
#[test]
fn each_link_of_the_documents_leads_somewhere() {
    let documents = ["docs", "examples"].map(|top| below(&root().join(top))).concat();
    let documents = documents.into_iter().chain([root().join("README.md"), root().join("CHANGELOG.md")]);
    let mut seen = 0;
    for path in documents.filter(|path| path.extension().is_some_and(|ext| ext == "md")) {
        let text = fs::read_to_string(&path).expect("document");
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.contains("://")) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let there = if file.is_empty() { path.clone() } else { path.with_file_name(file) };
            assert!(there.exists(), "{}: {link}", path.display());
            let is_heading = |line: &str| line.starts_with('#') && anchor(line) == heading;
            let found =
                heading.is_empty() || fs::read_to_string(&there).expect("text").lines().any(is_heading);
            assert!(found, "{}: {link}", path.display());
            seen += 1;
        }
    }
    assert!(seen > 60, "{seen} links in the documents");
}

/// What a heading is linked by, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let heading = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// Packages carry both for each program.
#[test]
fn man_pages_and_completions_have_every_command_with_its_flags() {
    let folder = std::env::temp_dir().join(format!("etherws-documents-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    let mut seen = 0;
    for program in [env!("CARGO_BIN_EXE_etherws"), env!("CARGO_BIN_EXE_etherctl")] {
        ran(Command::new(program).arg("man").arg(&folder));
        let name = Path::new(program).file_stem().and_then(|name| name.to_str()).expect("a name");
        for Described { words, help } in commands(program, &[]) {
            let words: Vec<_> = words.iter().map(String::as_str).collect();
            let page = section(&folder, name, &words);
            let offered = offered(program, name, &words);
            for flag in defined(&help) {
                assert!(page.contains(&flag), "{name} {words:?}: {flag} is not in the man page");
                assert!(offered.contains(&flag), "{name} {words:?}: {flag} is not completed: {offered}");
                seen += 1;
            }
            if let Some((last, above)) = words.split_last() {
                assert!(
                    self::offered(program, name, above).contains(last),
                    "{name} {words:?} is not completed"
                );
            }
        }
    }
    let _ = fs::remove_dir_all(folder);
    assert!(seen > 150, "{seen} flags");
}

/// What the man pages say of a command, what is said of all included.
fn section(folder: &Path, name: &str, words: &[&str]) -> String {
    let read = |file: String| {
        let text = fs::read_to_string(folder.join(&file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        text.replace("\\-", "-")
    };
    if name == "etherws" {
        return read(format!("{}.1", [&[name], words].concat().join("-")));
    }
    let page = read(format!("{name}.1"));
    let (general, commands) = page.split_once(".SH COMMANDS\n").expect("commands");
    let is_it = |section: &&str| section.starts_with(&format!("\"{name} {}\"", words.join(" ")));
    match commands.split(".SS ").find(is_it) {
        Some(section) => [general, section].concat(),
        None => {
            let below = format!(".SS \"{name} {}", words.join(" "));
            assert!(page.contains(below.trim_end()), "{name} {words:?} is not in the man page");
            general.to_owned()
        }
    }
}

/// What shells are told of a command: its flags and the commands below it.
fn offered(program: &str, name: &str, words: &[&str]) -> String {
    if name == "etherws" {
        // Its scripts know everything themselves; all of them know the same.
        let script = |shell: &str| ran(Command::new(program).args(["completions", shell]));
        let (bash, zsh, fish) = (script("bash"), script("zsh"), script("fish").replace("-l ", "--"));
        let in_all = |word: &&str| zsh.contains(*word) && fish.contains(*word);
        let all = bash.split(|c: char| c.is_whitespace() || c == '"').filter(in_all);
        return all.collect::<Vec<_>>().join(" ");
    }
    // etherctl's ask it.
    let ask = |start: &str| {
        let mut command = Command::new(program);
        command.args(["--", name]).args(words).arg(start).env("_ETHERCTL_COMPLETE", "bash");
        command.env("_CLAP_COMPLETE_INDEX", (words.len() + 1).to_string()).env("_CLAP_IFS", "\n");
        ran(command.env("_CLAP_COMPLETE_COMP_TYPE", "9").env("_CLAP_COMPLETE_SPACE", "false"))
    };
    ask("") + "\n" + &ask("--")
}

/// A command of a program, and what `--help` says of it.
struct Described {
    words: Vec<String>,
    help: String,
}

/// A program and all its commands.
fn commands(program: &str, words: &[&str]) -> Vec<Described> {
    let help = ran(Command::new(program).args(words).arg("--help"));
    let listed =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = listed.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = names.filter_map(|line| line.split_whitespace().next());
    let names = names.filter(|name| !["help", "ctl"].contains(name));
    let below: Vec<_> = names.flat_map(|name| commands(program, &[words, &[name]].concat())).collect();
    let words = words.iter().map(|&word| word.to_owned()).collect();
    std::iter::once(Described { words, help }).chain(below).collect()
}

/// The flags that a text of help explains, each in a line that begins with it.
fn defined(help: &str) -> Vec<String> {
    // Further in, it is a text's next line.
    let lines = help
        .lines()
        .filter(|line| line.trim_start_matches(' ').starts_with('-') && !line.starts_with("       "));
    lines.filter_map(|line| flags(line).into_iter().next()).collect()
}

/// The output of what must succeed.
fn ran(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
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
