//! Log lines, to stderr or to the journal; neither can hold up or end the daemon.
//!
//! stderr may be a pipe whose reader is stuck or gone, or a file on a full disk. So a thread of its own
//! writes it, from a bounded queue: a line that finds the queue full is dropped and counted, a failed
//! write is forgotten. The journal takes the fields (port, peer, user) as fields of its own.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing_subscriber::filter::{Targets, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, reload};

/// Lines waiting for stderr.
const QUEUE: usize = 1024;
/// At the end, how long the last lines are waited for.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The running logger.
pub struct Logs {
    filter: reload::Handle<Targets, Registry>,
    writer: Option<Lines>,
    /// Where lines wait until there is a thread to write them.
    waiting: Mutex<Option<Queue>>,
}

impl Logs {
    /// Takes lines from now on; stderr gets them once [`begin`](Self::begin) was called. `filter` is a checked
    /// one; `journal` prefers the journal even when stderr is something else (a detached daemon has no stderr).
    /// Lines bear the `node`'s name, if it has one.
    pub fn start(filter: Option<&str>, journal: bool, node: Option<&str>) -> Result<Self, String> {
        let (filter, handle) = reload::Layer::new(parse(filter)?);
        let journal = (journal || stderr_is_journal()).then(tracing_journald::layer).and_then(Result::ok);
        let (layer, writer, waiting) = match journal {
            Some(layer) => {
                let layer = layer.with_field_prefix(None).with_syslog_identifier("etherws".to_owned());
                let layer = layer.with_custom_fields(node.map(|node| ("NODE", node)));
                (layer.boxed(), None, None)
            }
            None => {
                let (lines, queue) = Lines::new();
                let layer = tracing_subscriber::fmt::layer()
                    .with_ansi(false)
                    .with_target(false)
                    .with_timer(Stamp(node.map(str::to_owned)))
                    .log_internal_errors(false)
                    .with_writer(lines.clone());
                (layer.boxed(), Some(lines), Some(queue))
            }
        };
        Registry::default()
            .with(filter_fn(is_discreet).and_then(filter).and_then(layer))
            .try_init()
            .map_err(|e| format!("logging could not be started: {e}"))?;
        Ok(Self { filter: handle, writer, waiting: Mutex::new(waiting) })
    }

    /// Starts the thread that writes to stderr.
    pub fn begin(&self) -> Result<(), String> {
        self.waiting().take().map_or(Ok(()), |queue| queue.write_to(io::stderr()))
    }

    /// Takes another filter from now on.
    pub fn set(&self, filter: Option<&str>) -> Result<(), String> {
        let filter = parse(filter)?;
        self.filter.reload(filter).map_err(|e| format!("log filter could not be changed: {e}"))
    }

    /// Runs `work` on the thread that writes to stderr, if there is one.
    pub fn on_thread(&self, work: impl FnOnce() + Send + 'static) {
        if let Some(lines) = &self.writer {
            let _ = lines.queue.try_send(Message::Work(Box::new(work)));
        }
    }

    /// Waits a little until the lines so far are out.
    pub fn flush(&self) {
        // Of a start that failed before there was a thread.
        let _ = self.begin();
        if let Some(lines) = &self.writer {
            lines.flush();
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Option<Queue>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a line on stderr begins with: the time, and the node's name behind it.
struct Stamp(Option<String>);

impl FormatTime for Stamp {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        SystemTime.format_time(w)?;
        self.0.as_ref().map_or(Ok(()), |node| write!(w, " {node}"))
    }
}

/// jsonrpsee writes whole requests at TRACE, the passwords of addPort among them. No filter brings that back.
fn is_discreet(line: &tracing::Metadata<'_>) -> bool {
    *line.level() <= tracing::Level::INFO || !line.target().starts_with("jsonrpsee")
}

/// Why a filter is not one.
pub fn check_filter(filter: &str) -> Result<(), String> {
    parse(Some(filter)).map(drop)
}

fn parse(filter: Option<&str>) -> Result<Targets, String> {
    // An environment variable that is there and empty says nothing.
    let filter = filter.filter(|filter| !filter.trim().is_empty()).unwrap_or("info");
    filter.replace(' ', "").parse::<Targets>().map_err(|e| {
        format!("{filter:?} is not a log filter: {e} (expected for example info or etherws=debug)")
    })
}

/// `JOURNAL_STREAM` names device and inode of the journal's end of stderr.
fn stderr_is_journal() -> bool {
    let meta = io::stderr().as_fd().try_clone_to_owned().and_then(|fd| File::from(fd).metadata());
    let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    meta.is_ok_and(|meta| stream == format!("{}:{}", meta.dev(), meta.ino()))
}

enum Message {
    Line(Vec<u8>),
    Work(Box<dyn FnOnce() + Send>),
    Flush(SyncSender<()>),
}

/// The queue before the writing thread.
#[derive(Clone)]
struct Lines {
    queue: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

/// Its other end.
struct Queue {
    lines: Receiver<Message>,
    dropped: Arc<AtomicU64>,
}

impl Queue {
    /// In a thread of its own.
    fn write_to(self, out: impl Write + Send + 'static) -> Result<(), String> {
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_lines(out, &self.lines, &self.dropped))
            .map(drop)
            .map_err(|e| format!("log thread could not be started: {e}"))
    }
}

impl Lines {
    fn new() -> (Self, Queue) {
        let (queue, lines) = sync_channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        (Self { queue, dropped: Arc::clone(&dropped) }, Queue { lines, dropped })
    }

    fn flush(&self) {
        let (done, wait) = sync_channel(1);
        if self.queue.try_send(Message::Flush(done)).is_ok() {
            let _ = wait.recv_timeout(LAST_WORDS);
        }
    }
}

impl Write for Lines {
    /// One call is one line: the formatter writes an event at once.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.queue.try_send(Message::Line(line.to_vec())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self::Writer {
        self.clone()
    }
}

fn write_lines(mut out: impl Write, lines: &Receiver<Message>, dropped: &AtomicU64) {
    while let Ok(message) = lines.recv() {
        match message {
            // Nobody is left to tell about a dead stderr; the next line tries again.
            Message::Line(line) => drop(out.write_all(&line)),
            Message::Work(work) => work(),
            Message::Flush(done) => {
                let _ = out.flush();
                let _ = done.try_send(());
            }
        }
        let lost = dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let _ = writeln!(out, "{lost} log lines dropped: stderr was too slow");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(out: impl Write + Send + 'static) -> Lines {
        let (lines, queue) = Lines::new();
        queue.write_to(out).unwrap();
        lines
    }

    #[derive(Clone, Default)]
    struct Out(Arc<Mutex<Vec<u8>>>);

    impl Write for Out {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A disk that is full, a pipe that is broken.
    struct Dead;

    impl Write for Dead {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::StorageFull.into())
        }
    }

    #[test]
    fn lines_come_out_whole_and_in_order() {
        let out = Out::default();
        let mut lines = start(out.clone());
        lines.write_all(b"one\n").unwrap();
        lines.write_all(b"two\n").unwrap();
        Lines::flush(&lines);
        assert_eq!(*out.0.lock().unwrap(), b"one\ntwo\n");
    }

    #[test]
    fn bad_74_a_dead_stderr_is_survived() {
        let mut lines = start(Dead);
        for _ in 0..10 {
            lines.write_all(b"line\n").unwrap();
        }
        let start = std::time::Instant::now();
        Lines::flush(&lines);
        assert!(start.elapsed() < LAST_WORDS, "the writing thread has died");
    }

    #[test]
    fn bad_74_a_stuck_stderr_blocks_nobody_and_the_loss_is_told() {
        let out = Out::default();
        let mut lines = start(out.clone());
        {
            let _stuck = out.0.lock().unwrap();
            for _ in 0..2 * QUEUE {
                lines.write_all(b"line\n").unwrap();
            }
        }
        while !String::from_utf8_lossy(&out.0.lock().unwrap()).contains("log lines dropped") {
            std::thread::yield_now();
        }
    }

    #[test]
    fn filters_are_checked() {
        for filter in ["info,etherws=debug", "warn, etherws::port=trace", "", "off"] {
            assert!(check_filter(filter).is_ok(), "{filter}");
        }
        assert!(check_filter("etherws=loud").unwrap_err().contains("etherws=loud"));
    }
}
