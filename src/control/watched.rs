//! A file of secrets that is read again when it changes. The last good content is kept when the new one
//! cannot be read or holds nothing usable although it is not empty: half a file locks nobody out.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use crate::sys::credential::located;
use crate::sys::sandbox::{Want, hint};

/// How often, at most, the file is looked at.
const INTERVAL: Duration = Duration::from_secs(1);

const MAX_FILE: u64 = 8 << 20;

/// What is made of the file's bytes: the value, whether it holds nothing, and the lines refused.
pub type Parsed<T> = (T, bool, Vec<String>);

type Parse<T> = dyn Fn(&[u8]) -> Parsed<T> + Send + Sync;

pub struct Watched<T> {
    path: PathBuf,
    parse: Box<Parse<T>>,
    state: Mutex<State<T>>,
}

struct State<T> {
    value: Arc<T>,
    stamp: Stamp,
    checked: Instant,
    /// The failure last reported, so that it is reported once.
    trouble: Option<String>,
}

/// mtime and ctime (with nanoseconds), inode, length; nothing when there is no file.
type Stamp = Option<[i64; 6]>;

impl<T> Watched<T> {
    /// Reads the file for the first time: it must be there and, unless it is empty, hold a
    /// usable line. An empty one lets nobody in.
    pub fn open(
        path: &Path,
        parse: impl Fn(&[u8]) -> Parsed<T> + Send + Sync + 'static,
    ) -> Result<Self, String> {
        let (stamp, text) = read(path)?;
        let (value, empty, refused) = parse(&text);
        if empty && !text.trim_ascii().is_empty() {
            let first = refused.first().map(|why| format!("; {why}")).unwrap_or_default();
            return Err(format!("{} has no usable line{first}", path.display()));
        }
        report(path, &refused);
        if empty {
            tracing::warn!(file = %path.display(), "the file is empty: nobody can log in with it");
        }
        let state = State { value: Arc::new(value), stamp, checked: Instant::now(), trouble: None };
        Ok(Self { path: located(path).into_owned(), parse: Box::new(parse), state: Mutex::new(state) })
    }

    /// The current content, read again when the file has changed.
    pub fn current(&self, now: Instant) -> Arc<T> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(state.checked) < INTERVAL {
            return Arc::clone(&state.value);
        }
        state.checked = now;
        let stamp = std::fs::metadata(&self.path).ok().map(|meta| stamp_of(&meta));
        if stamp == state.stamp && state.trouble.is_none() {
            return Arc::clone(&state.value);
        }
        match self.reload() {
            Ok((value, stamp)) => {
                tracing::info!(file = %self.path.display(), "file changed, read again");
                (state.value, state.stamp, state.trouble) = (Arc::new(value), stamp, None);
            }
            Err(why) => {
                if state.trouble.as_ref() != Some(&why) {
                    tracing::warn!(file = %self.path.display(), "{why}; what was read before stays in force");
                }
                state.trouble = Some(why);
            }
        }
        Arc::clone(&state.value)
    }

    fn reload(&self) -> Result<(T, Stamp), String> {
        let (stamp, text) = read(&self.path)?;
        let (value, empty, refused) = (self.parse)(&text);
        if empty && !text.trim_ascii().is_empty() {
            return Err("the file has no usable line".to_owned());
        }
        report(&self.path, &refused);
        Ok((value, stamp))
    }
}

fn report(path: &Path, refused: &[String]) {
    for line in refused {
        tracing::warn!(file = %path.display(), "{line}; skipped");
    }
}

/// The stamp is the opened file's own and taken before its bytes: a change in between is seen next time.
fn read(path: &Path) -> Result<(Stamp, Zeroizing<Vec<u8>>), String> {
    let located = located(path);
    let fail = |e: std::io::Error| {
        format!("could not read {}: {e}{}", path.display(), hint(&located, &e, Want::Read))
    };
    // Not blocking: opening a FIFO would otherwise wait for its writer.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&located).map_err(fail)?;
    let meta = file.metadata().map_err(fail)?;
    if !meta.is_file() {
        return Err(format!("could not read {}: not a regular file", path.display()));
    }
    // With room for all of it: a vector that grows leaves copies behind.
    let room = usize::try_from(meta.len().min(MAX_FILE)).unwrap_or_default() + 1;
    let mut text = Zeroizing::new(Vec::with_capacity(room));
    file.take(MAX_FILE + 1).read_to_end(&mut text).map_err(fail)?;
    if text.len() as u64 > MAX_FILE {
        return Err(format!("could not read {}: larger than 8 MiB", path.display()));
    }
    Ok((Some(stamp_of(&meta)), text))
}

fn stamp_of(meta: &std::fs::Metadata) -> [i64; 6] {
    let signed = |n: u64| n.cast_signed();
    [meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec(), signed(meta.ino()), signed(meta.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> Result<Watched<String>, String> {
        Watched::open(path, |text| {
            let text = String::from_utf8_lossy(text).trim().to_owned();
            let empty = text.is_empty() || text == "junk";
            (text, empty, Vec::new())
        })
    }

    #[test]
    fn bad_62_bad_63_reload_keeps_the_last_good() -> Result<(), Box<dyn std::error::Error>> {
        let path = std::env::temp_dir().join(format!("etherws-watched-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        assert!(open(&path).is_err(), "missing at start is an error");
        std::fs::write(&path, "junk")?;
        assert!(open(&path).is_err(), "nothing usable at start is an error");
        std::fs::write(&path, "one")?;
        let file = open(&path)?;
        let mut now = Instant::now();
        let mut next = |file: &Watched<String>| {
            now += INTERVAL;
            file.current(now).to_string()
        };
        assert_eq!(next(&file), "one");
        std::fs::write(&path, "junk")?;
        assert_eq!(next(&file), "one", "nothing usable: last good kept");
        std::fs::write(&path, "two")?;
        assert_eq!(next(&file), "two");
        std::fs::remove_file(&path)?;
        assert_eq!(next(&file), "two", "gone: last good kept");
        std::fs::write(&path, "")?;
        assert_eq!(next(&file), "", "emptied: closed");
        std::fs::write(&path, "three")?;
        assert_eq!(next(&file), "three");
        std::fs::write(&path, "four")?;
        assert_eq!(file.current(now).as_str(), "three", "looked at once a second at most");
        std::fs::remove_file(&path)?;
        Ok(())
    }
}
