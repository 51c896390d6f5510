//! Columns of numbers: to the right, as wide as their title's column is meant to be, or wider.

use crate::table::escaped;

/// Where a column's text stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// At least so wide.
    Right(usize),
    Left,
}

/// A line of titles and a line for each row, one blank between columns; cells are escaped.
pub fn aligned(titles: &[(&str, Side)], rows: impl Iterator<Item = Vec<String>>) -> String {
    let header: Vec<String> = titles.iter().map(|(title, _)| (*title).to_owned()).collect();
    let lines: Vec<Vec<String>> = std::iter::once(header)
        .chain(rows)
        .map(|row| row.iter().map(|cell| escaped(cell)).collect())
        .collect();
    let width = |column: usize| {
        let least = match titles[column].1 {
            Side::Right(least) => least,
            Side::Left => 0,
        };
        let widest = lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max();
        widest.unwrap_or(0).max(least)
    };
    let widths: Vec<usize> = (0..titles.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let cells: Vec<String> = line
            .iter()
            .zip(titles.iter().zip(&widths))
            .map(|(cell, ((_, side), width))| match side {
                Side::Right(_) => format!("{cell:>width$}"),
                Side::Left => format!("{cell:width$}"),
            })
            .collect();
        text.push_str(cells.join(" ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_right_and_names_left() {
        let titles = [("frames", Side::Right(9)), ("stage", Side::Left), ("x", Side::Right(1))];
        let rows = [vec!["1", "a\x1b", "22"], vec!["1234567890", "longer", ""]];
        let rows = rows.map(|row| row.into_iter().map(str::to_owned).collect()).into_iter();
        let expected = "    frames stage    x\n         1 a\\u{1b} 22\n1234567890 longer\n";
        assert_eq!(aligned(&titles, rows), expected);
    }
}
