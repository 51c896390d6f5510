//! Who was heard where. More stations than one answer may have are asked for page by page, and what is kept of a page is
//! what will be printed of it: a million of them take a few hundred megabytes here, and a page in the switch.

use std::cell::Cell;

use etherws::control::api::{Entries, FdbStatus, MacAddr, Method, Page, StationKey, StationStatus};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::Command;
use crate::client::{TIME_LIMIT, call};
use crate::commands::{self, Request, listing};
use crate::progress;
use crate::server::Server;
use crate::table;

/// Stations of a page: some megabytes, and far less than a second of the switch.
const PAGE: u32 = 25_000;

/// A listing as it will be printed.
pub struct Listed {
    pub text: String,
    pub is_empty: bool,
}

/// All that `command` lists, the parts of which `method` gives.
pub async fn page_by_page(
    server: &Server,
    command: &Command,
    method: Method,
    json: bool,
) -> Result<Listed, String> {
    let found = Cell::new(0);
    let told = |_| format!("{} stations so far", found.get());
    progress::shown(told, fetch(server, command, method, json, &found)).await
}

async fn fetch(
    server: &Server,
    command: &Command,
    method: Method,
    json: bool,
    found: &Cell<usize>,
) -> Result<Listed, String> {
    let (mut rows, mut objects) = (Vec::new(), Objects::of(command));
    let mut after = None;
    loop {
        let params = serde_json::to_value(Page { limit: Some(PAGE), after });
        let params = params.map_err(|e| format!("not expressible in JSON: {e}"))?;
        let request = Request { method, params: Some(params) };
        let page = call(server, &request, TIME_LIMIT).await.map_err(|failure| failure.to_string())?;
        let entries = entries(&page);
        let (count, last) = (entries.len(), entries.last().cloned());
        found.set(found.get() + count);
        let page = commands::select(command, page)?;
        match json {
            true => self::entries(&page).iter().for_each(|entry| objects.push(entry)),
            false => rows.extend(self::rows(command, page)?),
        }
        match last {
            Some(last) if count >= PAGE as usize => {
                let key = commands::read::<Place>(last)?.key();
                if after.as_ref().is_some_and(|after| (key.vid, key.mac) <= (after.vid, after.mac)) {
                    return Err("the switch answers with the same stations again".into());
                }
                after = Some(key);
            }
            _ => break,
        }
    }
    let is_empty = rows.is_empty() && objects.text.is_empty();
    let text = if json { objects.end() } else { self::table(command, rows) };
    Ok(Listed { text, is_empty })
}

fn entries(page: &Value) -> &[Value] {
    page.as_array().or(page["entries"].as_array()).map_or(&[], Vec::as_slice)
}

/// What tells a station apart, in either listing.
#[derive(Deserialize)]
struct Place {
    #[serde(alias = "vlan")]
    vid: Option<u16>,
    mac: MacAddr,
}

impl Place {
    fn key(&self) -> StationKey {
        StationKey { vid: self.vid.unwrap_or(0), mac: self.mac }
    }
}

/// The objects of a listing as text, in the form of [`table::json`] for the whole.
struct Objects {
    /// What stands around them.
    around: (&'static str, &'static str),
    indent: &'static str,
    text: String,
}

impl Objects {
    fn of(command: &Command) -> Self {
        match command {
            Command::Liststations { .. } => {
                Self { around: ("[\n", "\n]\n"), indent: "  ", text: String::new() }
            }
            _ => {
                let around = ("{\n  \"entries\": [\n", "\n  ]\n}\n");
                Self { around, indent: "    ", text: String::new() }
            }
        }
    }

    fn push(&mut self, entry: &Value) {
        if !self.text.is_empty() {
            self.text.push_str(",\n");
        }
        for (number, line) in table::json(entry).lines().enumerate() {
            if number > 0 {
                self.text.push('\n');
            }
            self.text.push_str(self.indent);
            self.text.push_str(line);
        }
    }

    fn end(self) -> String {
        match (self.text.is_empty(), self.indent) {
            (false, _) => [self.around.0, &self.text, self.around.1].concat(),
            (true, "  ") => table::json(&json!([])),
            (true, _) => table::json(&json!({"entries": []})),
        }
    }
}

/// The lines of a table.
pub fn rows(command: &Command, result: Value) -> Result<Vec<Vec<String>>, String> {
    if let Command::Liststations { .. } = command {
        let row = |entry: StationStatus| {
            vec![
                entry.port.to_string(),
                entry.vlan.map_or_else(|| "-".to_owned(), |vlan| vlan.to_string()),
                entry.mac,
                entry.age.to_string(),
                entry.name,
                entry.ips.join(","),
            ]
        };
        return Ok(commands::read::<Vec<_>>(result)?.into_iter().map(row).collect());
    }
    let row = |entry: FdbStatus| {
        vec![
            entry.port.to_string(),
            entry.vid.to_string(),
            entry.mac,
            entry.age.to_string(),
            entry.name,
            if entry.fixed { "yes" } else { "" }.to_owned(),
        ]
    };
    Ok(commands::read::<Entries<_>>(result)?.entries.into_iter().map(row).collect())
}

/// The table of these lines.
pub fn table(command: &Command, rows: Vec<Vec<String>>) -> String {
    let (last, ours) = match command {
        Command::Liststations { .. } => ("IP", 6),
        _ => ("Static", 4),
    };
    listing(&["Port", "VLAN", "MAC", "Age", "Name", last], rows.into_iter(), ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever parses it notices nothing of pages.
    #[test]
    fn objects_one_by_one_look_as_the_whole() {
        let fdb = Command::Listfdb { port: None };
        let stations = Command::Liststations { port: None };
        let (a, b) = (
            json!({"mac": "a", "port": 1}),
            json!({"mac": "b\u{202e}", "ips": ["10.0.0.1", "::1"], "x": {}}),
        );
        for entries in [vec![], vec![a.clone()], vec![a, b]] {
            let text = |command| {
                let mut objects = Objects::of(command);
                entries.iter().for_each(|entry| objects.push(entry));
                objects.end()
            };
            assert_eq!(text(&fdb), table::json(&json!({"entries": entries})));
            assert_eq!(text(&stations), table::json(&json!(entries)));
        }
    }

    #[test]
    fn either_listing_s_stations_are_told_apart() {
        let mac = "02:00:00:00:00:01";
        for (entry, vid) in [
            (json!({"vid": 7, "mac": mac, "port": 1, "age": 0}), 7),
            (json!({"vlan": null, "mac": mac, "port": 1, "name": "a", "ips": [], "age": 0}), 0),
        ] {
            let place: Place = serde_json::from_value(entry).unwrap();
            assert_eq!(place.key(), StationKey { vid, mac: mac.parse().unwrap() });
        }
    }
}
