//! Events as part of the contract.

use serde::{Deserialize, Serialize};

pub use crate::port::events::{Event, What};

/// The subscription, over WebSocket only: its methods and its notification, whose result is an [`Event`].
pub const SUBSCRIBE: &str = "etherws.control.subscribeEvents";
pub const UNSUBSCRIBE: &str = "etherws.control.unsubscribeEvents";
pub const NOTIFICATION: &str = "etherws.control.event";

/// `subscribeEvents`: what happens from now on. A listener that reads too slowly is told how many events it
/// missed, and one that reads nothing for 10 s is cut off.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SubscribeEvents {}
