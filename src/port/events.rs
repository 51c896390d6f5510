//! What happens to ports, told to whoever listens: a bounded broadcast. Events are raised on the control
//! side alone; what the data path counts becomes one every second or so (`ports::rounds`).

use std::fmt;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use tracing::{info, warn};

use super::throttle::Throttle;

/// What can happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum What {
    PortAdded,
    PortRemoved,
    /// Frames pass.
    PortUp,
    /// Frames do not pass: it is shut, not connected, its device is down.
    PortDown,
    /// A station moved too often and is held on this port.
    MacMoveHeld,
    MacMoveReleased,
    /// More came in than the port may send to many; `text` begins with the kind.
    StormBegan,
    StormEnded,
    LoopBlocked,
    LoopReopened,
    /// Another guard of the port's began to drop what comes in; `text` begins with the name that the drop has.
    LimitBegan,
    LimitEnded,
    /// So much happened that the listener was not told all.
    Missed,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// Something that happened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Event {
    /// Milliseconds since 1970.
    pub unix_ms: u64,
    pub event: What,
    /// The port's number; 0: none.
    pub port: u32,
    /// Its name.
    pub name: String,
    /// Details, for people; may be empty.
    pub text: String,
}

impl Event {
    pub fn new(event: What, port: u32, name: String, text: String) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { unix_ms: since.as_millis() as u64, event, port, name, text }
    }
}

/// Where events are raised and listened to.
pub struct Events {
    sender: broadcast::Sender<Event>,
    lines: Throttle,
}

impl Default for Events {
    fn default() -> Self {
        Self { sender: broadcast::Sender::new(WAITING), lines: Throttle::default() }
    }
}

impl Events {
    /// Events from now on; a listener that is slow misses the oldest.
    pub fn listen(&self) -> broadcast::Receiver<Event> {
        self.sender.subscribe()
    }

    /// Tells everybody, and the log. Of ports that come and go the log hears from where that is done.
    pub fn raise(&self, event: What, port: u32, name: String, text: String) {
        let told = matches!(event, What::PortAdded | What::PortRemoved | What::PortUp | What::PortDown);
        if !told && let Some(kept_back) = self.lines.allow(Instant::now()) {
            match event {
                What::MacMoveReleased | What::StormEnded | What::LimitEnded | What::LoopReopened => {
                    info!(port, name, kept_back, "{event}: {text}");
                }
                _ => warn!(port, name, kept_back, "{event}: {text}"),
            }
        }
        // That nobody listens is no failure.
        let _ = self.sender.send(Event::new(event, port, name, text));
    }
}

/// Events that wait for a slow listener.
const WAITING: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_have_the_names_of_the_contract() {
        let event = Event::new(What::MacMoveHeld, 7, "a".into(), String::new());
        assert_eq!(serde_json::to_value(&event).unwrap()["event"], event.event.to_string());
        assert_eq!(event.event.to_string(), "mac-move-held");
    }

    #[test]
    fn a_slow_listener_misses_the_oldest_and_holds_up_nobody() {
        let events = Events::default();
        let mut slow = events.listen();
        (0..1000).for_each(|port| events.raise(What::PortAdded, port, String::new(), String::new()));
        assert!(matches!(slow.try_recv(), Err(broadcast::error::TryRecvError::Lagged(744))));
        assert_eq!(slow.try_recv().unwrap().port, 744);
    }
}
