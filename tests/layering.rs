//! The layers of `src/`: a module imports only from those below it, and the pure ones touch neither
//! runtime nor sockets nor clock.

use std::fs;
use std::path::{Path, PathBuf};

/// May this module name that one? Its own is always allowed.
fn allowed(from: &str, to: &str) -> bool {
    if from == to {
        return true;
    }
    match from {
        "main" => true,
        "daemon" => to != "main",
        "control" => matches!(to, "port" | "switch" | "frame" | "ws" | "prof" | "sys"),
        "port" => matches!(to, "switch" | "frame" | "ws" | "prof" | "sys"),
        "switch" => matches!(to, "frame" | "prof"),
        "sys" => to == "frame",
        "ws" => to == "prof",
        "prof" => to == "sys",
        "frame" | "sync" => false,
        "ctl" => matches!(to, "control" | "prof"),
        other => panic!("src/{other} has no place in the layers yet: give it one here and in src/lib.rs"),
    }
}

#[test]
fn imports_point_down_only() {
    let mut wrong = Vec::new();
    for (module, path) in sources() {
        for (number, line) in code(&path) {
            for target in ["crate::", "etherws::"].iter().flat_map(|root| modules_named(&line, root)) {
                let own_module = fs::exists(root().join("src").join(&target)).expect("look");
                if own_module && !allowed(&module, &target) {
                    wrong.push(format!(
                        "{}:{number}: {module} must not know {target}: {line}",
                        path.display()
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn etherctl_sees_only_the_contract_and_the_profiler_s_formats() {
    let wrong: Vec<_> = sources()
        .into_iter()
        .filter(|(module, _)| module == "ctl")
        .flat_map(|(_, path)| code(&path))
        .filter(|(_, line)| line.contains("etherws::"))
        .filter(|(_, line)| {
            !["control::api", "prof::"].iter().any(|may| line.contains(&format!("etherws::{may}")))
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn the_pure_modules_do_no_input_output_and_read_no_clock() {
    const IMPURE: [&str; 10] = [
        "tokio",
        "std::net",
        "std::fs",
        "std::io",
        "std::thread",
        "Instant::now",
        "SystemTime",
        "nix::",
        "socket2",
        "tracing::",
    ];
    let mut wrong = Vec::new();
    for (module, path) in sources() {
        if !matches!(module.as_str(), "frame" | "ws" | "switch") {
            continue;
        }
        for (number, line) in code(&path) {
            for word in IMPURE.iter().filter(|word| line.contains(**word)) {
                let tungstenite = line.contains("tokio_tungstenite"); // its handshake helpers are pure
                if !tungstenite {
                    wrong.push(format!("{}:{number}: {word}: {line}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_is_where_it_is_allowed() {
    let mut wrong = Vec::new();
    for (module, path) in sources() {
        let name = path.strip_prefix(root()).expect("inside").display().to_string();
        if module == "sys" || ["src/ws/mask.rs", "src/frame/checksum.rs"].contains(&name.as_str()) {
            continue;
        }
        let is_unsafe = |line: &str| {
            line.contains("unsafe {") || line.contains("unsafe fn") || line.contains("unsafe impl")
        };
        wrong.extend(
            code(&path).into_iter().filter(|(_, line)| is_unsafe(line)).map(|(n, _)| format!("{name}:{n}")),
        );
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// (module, file) of src/ and ctl/; `src/lib.rs` is the map and names all.
fn sources() -> Vec<(String, PathBuf)> {
    let mut files = Vec::new();
    for top in ["src", "ctl"] {
        walk(&root().join(top), &mut files);
    }
    assert!(files.len() > 10, "the sources are here: {files:?}");
    let module = |path: &Path| {
        let inner = path.strip_prefix(root()).expect("inside");
        let first = if inner.starts_with("src") { inner.iter().nth(1) } else { inner.iter().next() };
        first.expect("a name").to_string_lossy().trim_end_matches(".rs").to_owned()
    };
    files.into_iter().map(|path| (module(&path), path)).filter(|(module, _)| module != "lib").collect()
}

fn walk(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            walk(&path, files);
        } else if path.extension().is_some_and(|ext| ext == "rs") && !is_unit_tests(&path) {
            files.push(path);
        }
    }
}

/// `tests.rs` and `x_tests.rs`, of which `code` sees no `#[cfg(test)]`.
fn is_unit_tests(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name == "tests.rs" || name.ends_with("_tests.rs")
}

/// Numbered lines without comments, up to the unit tests at the foot.
fn code(path: &Path) -> Vec<(usize, String)> {
    let text = fs::read_to_string(path).expect("source");
    let lines = text.lines().take_while(|line| line.trim() != "#[cfg(test)]");
    let bare = |line: &str| line.split("//").next().unwrap_or_default().trim().to_owned();
    lines
        .enumerate()
        .map(|(number, line)| (number + 1, bare(line)))
        .filter(|(_, line)| !line.is_empty())
        .collect()
}

/// The first path segment behind each `root`, of `crate::{a, b::c}` both.
fn modules_named(line: &str, root: &str) -> Vec<String> {
    let word = |text: &str| -> String {
        text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    line.match_indices(root)
        .filter(|(at, _)| !line[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
        .flat_map(|(at, _)| {
            let rest = &line[at + root.len()..];
            match rest.strip_prefix('{') {
                Some(list) => list.trim_end_matches(['}', ';']).split(',').map(word).collect(),
                None => vec![word(rest)],
            }
        })
        .collect()
}
