//! A word to whoever waits at a terminal: nothing in the first second, and nothing where standard error is no terminal.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use tokio::time::{Instant, interval_at};

const SECOND: Duration = Duration::from_secs(1);

/// Does `work`. From its second second on a line says what `text` makes of the whole seconds so far; it is gone when the work
/// is done.
pub async fn shown<T>(text: impl Fn(u64) -> String, work: impl Future<Output = T>) -> T {
    let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    if dumb || !io::stderr().is_terminal() {
        return work.await;
    }
    let began = Instant::now();
    let mut ticks = interval_at(began + SECOND, SECOND);
    let mut work = std::pin::pin!(work);
    let mut written = false;
    let done = loop {
        tokio::select! {
            biased;
            done = &mut work => break done,
            _ = ticks.tick() => {
                write(&format!("\r\x1b[Ketherctl: {}", text(began.elapsed().as_secs())));
                written = true;
            }
        }
    };
    if written {
        write("\r\x1b[K");
    }
    done
}

/// A terminal that went away is no failure of the work.
fn write(text: &str) {
    let mut err = io::stderr().lock();
    let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
}
