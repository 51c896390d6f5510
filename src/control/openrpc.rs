//! `rpc.discover`: the contract as an OpenRPC 1.3 document (<https://spec.open-rpc.org>). It is a file, which tests make
//! from the very table that dispatches the methods: it cannot drift from what is served, and no daemon carries the
//! 200 KiB of code that describe types.

use serde_json::Value;

#[cfg(test)]
pub mod made;

/// What a method takes or gives: where the document is made, something that has a schema.
#[cfg(test)]
pub trait Shape: schemars::JsonSchema {}
#[cfg(test)]
impl<T: schemars::JsonSchema> Shape for T {}
#[cfg(not(test))]
pub trait Shape {}
#[cfg(not(test))]
impl<T> Shape for T {}

pub fn document() -> Value {
    // That it is JSON is tested.
    serde_json::from_str(FILE).unwrap_or_default()
}

const FILE: &str = include_str!("../../docs/openrpc.json");
