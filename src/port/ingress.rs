//! Reading a device, batch after batch.

use std::io;
use std::sync::Arc;

use crate::sys::{Device, Held, readable};

/// Calls `batch` whenever the device may have frames, until it fails. `batch` answers `Ok` when there
/// may be more and `WouldBlock` when there are none. Runs on a data thread.
pub async fn pump<T: Device>(device: Arc<Held<T>>, mut batch: impl FnMut(&T) -> io::Result<()>) -> io::Error {
    let readiness = match readable(device) {
        Ok(readiness) => readiness,
        Err(e) => return e,
    };
    loop {
        let mut ready = match readiness.readable().await {
            Ok(ready) => ready,
            Err(e) => return e,
        };
        match batch(readiness.get_ref()) {
            // Other ports live on this thread too.
            Ok(()) => tokio::task::yield_now().await,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
            Err(e) => return e,
        }
    }
}
