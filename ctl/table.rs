//! Rows of text as 1.3 prints them: columns by width, two spaces before each; nothing behind the last.

use serde_json::Value;

/// Rows whose first is the header. Cells are escaped; rows may end early.
pub fn table(mut rows: Vec<Vec<String>>) -> String {
    for cell in rows.iter_mut().flatten().filter(|cell| cell.chars().any(is_unprintable)) {
        *cell = escaped(cell);
    }
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell: &String| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in &rows {
        let line: String = row.iter().zip(&widths).map(|(cell, width)| format!("  {cell:width$}")).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// `rows` without the columns, from `first` on, in which no row but the header has anything; what is
/// empty in the ones that stay becomes `-`, so that columns can be counted.
pub fn without_empty_columns(mut rows: Vec<Vec<String>>, first: usize) -> Vec<Vec<String>> {
    let columns = rows.first().map_or(0, Vec::len);
    let used = |column: usize| {
        column < first || rows.iter().skip(1).any(|row| row.get(column).is_some_and(|cell| !cell.is_empty()))
    };
    let used: Vec<bool> = (0..columns).map(used).collect();
    for row in &mut rows {
        row.resize(columns, String::new());
        row.iter_mut().skip(first).filter(|cell| cell.is_empty()).for_each(|cell| cell.push('-'));
        let mut used = used.iter();
        row.retain(|_| used.next() == Some(&true));
    }
    rows
}

/// Text from elsewhere, harmless to a terminal: control, bidirectional and invisible characters as
/// `\u{..}`.
pub fn escaped(text: &str) -> String {
    text.chars()
        .map(|c| if is_unprintable(c) { c.escape_unicode().to_string() } else { c.to_string() })
        .collect()
}

/// As [`escaped`], line by line.
pub fn escaped_lines(text: &str) -> String {
    text.lines().map(escaped).collect::<Vec<_>>().join("\n")
}

/// Indented JSON; what a terminal might act on is written as JSON writes it.
pub fn json(value: &Value) -> String {
    let mut text = String::new();
    for c in format!("{value:#}\n").chars() {
        match c {
            '\n' => text.push(c),
            // All of these are in the Basic Multilingual Plane: one escape each.
            c if is_unprintable(c) => text.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => text.push(c),
        }
    }
    text
}

fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[&[&str]]) -> Vec<Vec<String>> {
        rows.iter().map(|row| row.iter().map(|&cell| cell.to_owned()).collect()).collect()
    }

    #[test]
    fn columns_align_and_lines_end_at_their_text() {
        let text = table(rows(&[&["Port", "Type", "Target"], &["1", "netdev", "e"], &["10", "tap", ""]]));
        assert_eq!(text, "  Port  Type    Target\n  1     netdev  e\n  10    tap\n");
        assert_eq!(table(Vec::new()), "");
    }

    #[test]
    fn our_empty_columns_go_and_theirs_stay() {
        let all = rows(&[&["Port", "Address", "User", "Name"], &["1", "", "", "a"], &["2", "", "", ""]]);
        let kept = without_empty_columns(all, 2);
        assert_eq!(kept, rows(&[&["Port", "Address", "Name"], &["1", "", "a"], &["2", "", "-"]]));
    }

    #[test]
    fn nothing_from_a_peer_reaches_the_terminal_raw() {
        let evil = "a\x1b[2J\u{9b}\n\u{202e}b\x7f";
        for text in [escaped(evil), json(&Value::from(evil))] {
            assert!(!text.trim_end().chars().any(is_unprintable), "{text:?}");
        }
        assert_eq!(serde_json::from_str::<Value>(&json(&Value::from(evil))).unwrap(), evil);
        assert_eq!(escaped("é ü 漢"), "é ü 漢");
        assert_eq!(escaped_lines("a\n\x07"), "a\n\\u{7}");
    }
}
