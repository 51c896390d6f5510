//! Numbers as text. What is not zero is never printed as zero.

/// What costs are shown in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Unit {
    #[default]
    Ns,
    Us,
    /// Of the time-stamp counter.
    Cycles,
}

impl Unit {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ns => "ns",
            Self::Us => "us",
            Self::Cycles => "cycles",
        }
    }

    /// Nanoseconds in this unit; `ghz`: ticks in a nanosecond.
    pub fn of(self, ns: f64, ghz: f64) -> f64 {
        match self {
            Self::Ns => ns,
            Self::Us => ns / 1000.0,
            Self::Cycles => ns * if ghz > 0.0 { ghz } else { 1.0 },
        }
    }
}

impl std::str::FromStr for Unit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "ns" => Ok(Self::Ns),
            "us" => Ok(Self::Us),
            "cycles" => Ok(Self::Cycles),
            _ => Err(format!("{text:?} is no unit: ns, us or cycles")),
        }
    }
}

/// A cost to three digits or so: `0`, `0.0042`, `1.23`, `45.6`, `789`, `12345`, `4.2e-7`.
pub fn cost(value: f64) -> String {
    let size = value.abs();
    match size {
        _ if value == 0.0 => "0".into(),
        _ if !value.is_finite() => "-".into(),
        0.0..0.000_095 => format!("{value:.1e}"),
        0.000_095..0.000_95 => format!("{value:.5}"),
        0.000_95..0.009_5 => format!("{value:.4}"),
        0.009_5..0.995 => format!("{value:.3}"),
        0.995..9.95 => format!("{value:.2}"),
        9.95..99.5 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// `-` for what is not known.
pub fn maybe(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), cost)
}

/// A share in percent: `12.34`, and `<0.01` for what is less.
pub fn percent(value: f64) -> String {
    match value {
        _ if value > 0.0 && value < 0.005 => "<0.01".into(),
        _ => format!("{value:.2}"),
    }
}

/// A time with its unit: `870 ns`, `12.3 us`, `4.56 ms`, `10.0 s`.
pub fn time(ns: f64) -> String {
    match ns.abs() {
        0.0..999.5 => format!("{} ns", cost(ns)),
        999.5..999_500.0 => format!("{} us", cost(ns / 1e3)),
        999_500.0..999_500_000.0 => format!("{} ms", cost(ns / 1e6)),
        _ => format!("{} s", cost(ns / 1e9)),
    }
}

/// A count in at most six characters or so: `123456`, `1.23M`, `45.6G`.
pub fn count(value: u64) -> String {
    match value {
        0..1_000_000 => value.to_string(),
        1_000_000..1_000_000_000 => format!("{}M", cost(value as f64 / 1e6)),
        1_000_000_000..1_000_000_000_000 => format!("{}G", cost(value as f64 / 1e9)),
        _ => format!("{}T", cost(value as f64 / 1e12)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_by_their_size() {
        for (value, text) in [
            (0.0, "0"),
            (4.2e-7, "4.2e-7"),
            (0.0004, "0.00040"),
            (0.0042, "0.0042"),
            (0.5, "0.500"),
            (1.234, "1.23"),
            (45.64, "45.6"),
            (789.2, "789"),
            (12345.0, "12345"),
            (f64::NAN, "-"),
        ] {
            assert_eq!(cost(value), text);
        }
    }

    #[test]
    fn what_is_not_zero_never_looks_like_it() {
        let mut value = 1e-300;
        while value < 1e12 {
            for text in [cost(value), percent(value), time(value)] {
                assert!(text.bytes().any(|b| (b'1'..=b'9').contains(&b)), "{value}: {text}");
            }
            value *= 1.7;
        }
        assert_eq!((percent(0.0), percent(0.001)), ("0.00".into(), "<0.01".into()));
    }

    #[test]
    fn times_and_counts_have_units() {
        for (ns, text) in [
            (870.0, "870 ns"),
            (999.7, "1.00 us"),
            (12_300.0, "12.3 us"),
            (4.56e6, "4.56 ms"),
            (1e10, "10.0 s"),
        ] {
            assert_eq!(time(ns), text);
        }
        assert_eq!((count(999_999), count(1_234_567)), ("999999".into(), "1.23M".into()));
        assert_eq!(Unit::Cycles.of(10.0, 2.5), 25.0);
        assert_eq!(Unit::Us.of(10.0, 2.5), 0.01);
    }
}
