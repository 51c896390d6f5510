//! The service manager's watchdog, fed by those whose work it watches.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tracing::error;

use crate::port::Ports;

/// Feeds systemd's watchdog while all is well: this thread runs, and no data thread is stuck.
pub async fn watch(ports: Arc<Ports>, timeout: Duration, feed: impl Fn()) {
    let mut tick = interval(timeout / 3);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let stalled = ports.stalled_for();
        if stalled < STALL.min(timeout / 2) {
            feed();
        } else {
            error!("a data thread has shown no life for {} s: watchdog not fed", stalled.as_secs());
        }
    }
}

/// A data thread silent for longer is stuck: the watchdog is fed no more.
const STALL: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
    use std::sync::mpsc::channel;
    use std::time::Instant;

    use super::*;
    use crate::daemon::config::Layer;

    #[tokio::test]
    async fn it_is_fed_by_living_data_threads_alone() {
        let mut settings = Layer::default().resolve().unwrap().switch;
        settings.threads = 2;
        let ports = Ports::start(settings).unwrap();
        let fed = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&fed);
        let timeout = Duration::from_millis(300);
        let feed = move || {
            counter.fetch_add(1, Relaxed);
        };
        tokio::spawn(watch(Arc::clone(&ports), timeout, feed));
        more(&fed).await;
        // One of the two hangs.
        let (release, hangs) = channel::<()>();
        let hangs = Arc::new(Mutex::new(Some(hangs)));
        ports.on_each_thread(move || {
            let hangs = hangs.lock().unwrap().take();
            let _ = hangs.map(|hangs| hangs.recv());
        });
        let (mut last, mut since, start) = (fed.load(Relaxed), Instant::now(), Instant::now());
        while since.elapsed() < 3 * timeout {
            assert!(start.elapsed() < Duration::from_secs(30), "fed all the same");
            tokio::time::sleep(Duration::from_millis(5)).await;
            if fed.load(Relaxed) != last {
                (last, since) = (fed.load(Relaxed), Instant::now());
            }
        }
        drop(release);
        more(&fed).await;
    }

    async fn more(fed: &AtomicU32) {
        let (before, start) = (fed.load(Relaxed), Instant::now());
        while fed.load(Relaxed) == before {
            assert!(start.elapsed() < Duration::from_secs(30), "not fed");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
