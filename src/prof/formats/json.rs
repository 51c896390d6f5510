//! The snapshot as it is: what `etherctl prof record -f json` writes, and `diff` and `stats` read.

use serde::Deserialize;

use super::super::snapshot::{FORMAT, Snapshot, VERSION};

pub fn write(snapshot: &Snapshot) -> Vec<u8> {
    // Maps with text for keys and finite numbers: never fails.
    let mut text = serde_json::to_vec_pretty(snapshot).unwrap_or_default();
    text.push(b'\n');
    text
}

/// What a foreign file says is taken as it is: nothing but this program's views look at it.
pub fn read(bytes: &[u8]) -> Result<Snapshot, String> {
    #[derive(Deserialize)]
    struct Head {
        format: String,
        version: u32,
    }
    let head: Head = serde_json::from_slice(bytes)
        .map_err(|_| format!("no {FORMAT} JSON (record one with: etherctl prof record -f json)"))?;
    match (head.format.as_str(), head.version) {
        (FORMAT, 1..=VERSION) => {}
        (FORMAT, version) => {
            return Err(format!("version {version} of {FORMAT}; this program reads up to {VERSION}"));
        }
        (other, _) => return Err(format!("format {other:?} where {FORMAT:?} was expected")),
    }
    serde_json::from_slice(bytes).map_err(|e| format!("damaged {FORMAT} JSON: {e}"))
}
