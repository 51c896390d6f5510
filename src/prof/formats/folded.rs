//! A stack a line: names with `;` between, a blank, a whole number. The format of Brendan Gregg's
//! stackcollapse scripts, which inferno, flameshow and speedscope read.

use std::fmt::Write;

use super::super::view::Node;

/// In order, each stack once, nanoseconds.
pub fn write(root: &Node) -> String {
    let mut lines: Vec<String> = Vec::new();
    for (stack, ns) in root.stacks() {
        let names: Vec<_> = stack.into_iter().map(name).collect();
        if !names.is_empty() {
            lines.push(format!("{} {ns}", names.join(";")));
        }
    }
    lines.sort();
    let mut text = String::new();
    for line in lines {
        // To a String: never fails.
        let _ = writeln!(text, "{line}");
    }
    text
}

/// `None`: some line is none of these. Empty lines, and those that begin with `#`, are comments.
pub fn read(text: &str) -> Option<Node> {
    let mut root = Node::new("all");
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (stack, count) = line.rsplit_once(' ')?;
        // Some writers have fractions of samples.
        let count = count.parse::<u64>().ok().or_else(|| {
            let count = count.parse::<f64>().ok()?;
            (count.is_finite() && count >= 0.0).then_some(count as u64)
        })?;
        root.add(stack.trim_end().split(';'), count);
    }
    root.sort();
    (!root.children.is_empty()).then_some(root)
}

/// Without what ends a name.
fn name(name: &str) -> String {
    name.chars()
        .map(|c| {
            if c == ';' {
                ':'
            } else if c.is_control() {
                ' '
            } else {
                c
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let mut root = Node::new("all");
        root.add(["rx", "rx.tap.read"], 7);
        root.add(["f([u8; 4])", "with blanks"], 9);
        root.add(["rx"], 1);
        let text = write(&root);
        assert_eq!(text, "f([u8: 4]);with blanks 9\nrx 1\nrx;rx.tap.read 7\n");
        let back = read(&format!("# made by hand\n\n{text}")).unwrap();
        assert_eq!((back.total(), back.depth()), (17, 3));
    }

    #[test]
    fn what_is_not_folded_is_not_read() {
        for text in ["", "a;b", "a;b x", "a -1", "a nan", "just prose here"] {
            assert_eq!(read(text), None, "{text:?}");
        }
        assert_eq!(read("a;b 1.5").unwrap().total(), 1);
    }
}
