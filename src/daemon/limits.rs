//! `[limits]`, read and written.

use std::time::Duration;

use super::source::Table;
use crate::control::http::Limits;
use crate::ws::joining::MOST;

pub const KEYS: &[&str] = &[
    "connections",
    "connections_per_address",
    "unauthenticated",
    "unauthenticated_per_address",
    "header_time",
    "header_size",
    "link_connections",
    "failed_logins",
    "rpc_body",
    "rpc_batch",
    "rpc_subscriptions",
];

/// Least and most of each, in their order.
const RANGES: [(u64, u64); KEYS.len()] = [
    (1, 1 << 20),
    (1, 1 << 20),
    (1, 1 << 20),
    (1, 1 << 20),
    (1, 300),
    (1 << 10, 1 << 20),
    (1, MOST as u64),
    (1, 1_000_000),
    (1 << 10, 64 << 20),
    (1, 10_000),
    (1, 1024),
];

/// The table's limits; for a key that is absent, or (then reported) out of its range, the default.
pub fn read(table: &Table) -> Limits {
    let mut numbers = numbers(&Limits::default());
    for ((key, (low, high)), number) in KEYS.iter().zip(RANGES).zip(&mut numbers) {
        match table.read::<u64>(key) {
            None => {}
            Some(given) if (low..=high).contains(&given) => *number = given,
            Some(given) => table.error(key, format!("{given} is out of range (expected {low} to {high})")),
        }
    }
    let [connections, of_address, unauthenticated, unauthenticated_of_address, ..] =
        numbers.map(|number| usize::try_from(number).unwrap_or(usize::MAX));
    let [.., header_size, link_connections, failed_logins, rpc_body, rpc_batch, rpc_subscriptions] =
        numbers.map(|number| u32::try_from(number).unwrap_or(u32::MAX));
    Limits {
        connections,
        connections_per_address: of_address,
        unauthenticated,
        unauthenticated_per_address: unauthenticated_of_address,
        header_time: Duration::from_secs(numbers[4]),
        header_size: header_size as usize,
        link_connections: u8::try_from(link_connections).unwrap_or(MOST),
        failed_logins,
        rpc_body,
        rpc_batch,
        rpc_subscriptions,
    }
}

/// The limits as they are written, in the order of [`KEYS`].
pub fn numbers(limits: &Limits) -> [u64; KEYS.len()] {
    [
        limits.connections as u64,
        limits.connections_per_address as u64,
        limits.unauthenticated as u64,
        limits.unauthenticated_per_address as u64,
        limits.header_time.as_secs(),
        limits.header_size as u64,
        limits.link_connections.into(),
        limits.failed_logins.into(),
        limits.rpc_body.into(),
        limits.rpc_batch.into(),
        limits.rpc_subscriptions.into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::read::parse;

    #[test]
    fn every_limit_is_read_into_its_own_place_and_back() {
        let given: Vec<u64> = RANGES.iter().zip(1..).map(|((low, _), n)| low + n).collect();
        let lines: String =
            KEYS.iter().zip(&given).map(|(key, number)| format!("{key} = {number}\n")).collect();
        let limits = parse("f", &format!("[limits]\n{lines}")).unwrap().limits.unwrap();
        assert_eq!(numbers(&limits)[..], given);
        assert_eq!((limits.header_time.as_secs(), limits.rpc_batch), (6, 11));
        assert_eq!(parse("f", "[limits]\n").unwrap().limits, Some(Limits::default()));
        assert_eq!(parse("f", "").unwrap().resolve().unwrap().door.limits, Limits::default());
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        for (text, wanted) in [
            ("connections = 0", "f:2:1: limits.connections: 0 is out of range (expected 1 to 1048576)"),
            ("header_time = 301", "f:2:1: limits.header_time: 301 is out of range"),
            ("rpc_body = -1", "f:2:12: limits.rpc_body: "),
            ("conections = 1", "f:2:1: limits.conections: unknown key; did you mean \"connections\"?"),
        ] {
            let errors = parse("f", &format!("[limits]\n{text}")).unwrap_err();
            assert!(errors[0].starts_with(wanted), "{text}: {errors:?}");
        }
    }
}
