//! A stage's cost as a straight line over the frame's length.

use std::collections::BTreeMap;

use super::super::snapshot::Cell;
use super::super::stage::is_wall;
use super::volume;

/// What a frame costs: `fixed_ns`, and `per_byte_ns` for each of its bytes. Neither is negative.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Fit {
    pub fixed_ns: f64,
    pub per_byte_ns: f64,
}

impl Fit {
    /// The line through the size classes' means, each weighing as much as it has frames (weighted least
    /// squares); `None` with fewer than two classes.
    pub fn of(cells: &[&Cell]) -> Option<Self> {
        let mut classes: BTreeMap<&str, Vec<&Cell>> = BTreeMap::new();
        for cell in cells.iter().copied().filter(|cell| !cell.size.is_empty()) {
            classes.entry(&cell.size).or_default().push(cell);
        }
        let points: Vec<(f64, f64, f64)> = classes
            .values()
            .filter_map(|cells| {
                let (frames, bytes) = volume(cells.iter().copied());
                let all_wall = cells.iter().all(|cell| is_wall(&cell.path));
                let counts = |cell: &&&Cell| all_wall || !is_wall(&cell.path);
                let ns: f64 = cells.iter().filter(counts).map(|cell| cell.ns as f64).sum();
                let weight = frames as f64;
                (frames > 0).then(|| (weight, bytes as f64 / weight, ns / weight))
            })
            .collect();
        Self::line(&points)
    }

    /// Through points (weight, bytes, nanoseconds).
    fn line(points: &[(f64, f64, f64)]) -> Option<Self> {
        let sum = |term: fn(&(f64, f64, f64)) -> f64| points.iter().map(term).sum::<f64>();
        let weight = sum(|(w, _, _)| *w);
        if points.len() < 2 || weight <= 0.0 {
            return None;
        }
        let (x, y) = (sum(|(w, x, _)| w * x) / weight, sum(|(w, _, y)| w * y) / weight);
        let spread: f64 = points.iter().map(|(w, px, _)| w * (px - x) * (px - x)).sum();
        if spread <= 1e-9 * weight {
            return None;
        }
        let slope = points.iter().map(|(w, px, py)| w * (px - x) * (py - y)).sum::<f64>() / spread;
        let fixed = y - slope * x;
        // Beyond what costs can be, the best that can.
        Some(match (slope < 0.0, fixed < 0.0) {
            (true, _) => Self { fixed_ns: y, per_byte_ns: 0.0 },
            (_, true) => {
                let squares = sum(|(w, x, _)| w * x * x);
                Self { fixed_ns: 0.0, per_byte_ns: sum(|(w, x, y)| w * x * y) / squares }
            }
            _ => Self { fixed_ns: fixed, per_byte_ns: slope },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_again() {
        let at = |x: f64| 40.0 + 0.25 * x;
        let points: Vec<_> = [(10.0, 64.0), (3.0, 512.0), (90.0, 1500.0)].map(|(w, x)| (w, x, at(x))).into();
        let fit = Fit::line(&points).unwrap();
        assert!((fit.fixed_ns - 40.0).abs() < 1e-6 && (fit.per_byte_ns - 0.25).abs() < 1e-9, "{fit:?}");
    }

    #[test]
    fn weights_weigh() {
        let heavy = Fit::line(&[(1000.0, 0.0, 10.0), (1000.0, 100.0, 20.0), (1.0, 50.0, 1000.0)]).unwrap();
        assert!((heavy.per_byte_ns - 0.1).abs() < 0.01 && heavy.fixed_ns < 11.0, "{heavy:?}");
    }

    #[test]
    fn costs_are_not_negative() {
        let falling = Fit::line(&[(1.0, 64.0, 30.0), (1.0, 1500.0, 20.0)]).unwrap();
        assert_eq!(falling, Fit { fixed_ns: 25.0, per_byte_ns: 0.0 });
        let steep = Fit::line(&[(1.0, 100.0, 1.0), (1.0, 1000.0, 100.0)]).unwrap();
        assert!(steep.fixed_ns == 0.0 && steep.per_byte_ns > 0.09, "{steep:?}");
    }

    #[test]
    fn one_size_says_nothing() {
        assert_eq!(Fit::line(&[(5.0, 64.0, 10.0)]), None);
        assert_eq!(Fit::line(&[(5.0, 64.0, 10.0), (5.0, 64.0, 20.0)]), None);
    }
}
