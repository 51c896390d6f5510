//! The subscription to what happens to ports.

use std::sync::Arc;

use jsonrpsee::{PendingSubscriptionSink, SubscriptionMessage};
use tokio::sync::broadcast::error::RecvError;

use crate::port::Ports;
use crate::port::events::{Event, What};

/// `subscribeEvents`: until the listener goes.
pub async fn subscribe(ports: Arc<Ports>, pending: PendingSubscriptionSink) {
    // Before the answer: whoever has it misses nothing that happens from then on.
    let mut events = ports.events();
    drop(ports);
    let Ok(sink) = pending.accept().await else { return };
    loop {
        let event = tokio::select! {
            () = sink.closed() => return,
            event = events.recv() => event,
        };
        let event = match event {
            Ok(event) => event,
            Err(RecvError::Lagged(count)) => {
                Event::new(What::Missed, 0, String::new(), format!("{count} events were not told"))
            }
            Err(RecvError::Closed) => return,
        };
        let Ok(message) = serde_json::value::to_raw_value(&event) else { return };
        // One who does not read misses what comes meanwhile, and is told how much that was.
        if sink.send(SubscriptionMessage::from(message)).await.is_err() {
            return;
        }
    }
}
