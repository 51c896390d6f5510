//! Passwords checked. Hashing is slow on purpose, so it happens in a thread of its own, which gives way to the
//! others; what it found right is remembered for ten minutes, as a keyed hash, and forgotten when the file
//! changes. What it found wrong is counted against the address that tried. Whoever comes from where somebody was let
//! in that day does not stand behind strangers, however many there are.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::Thread;
use std::time::{Duration, Instant};

use tokio::sync::futures::Notified;
use tokio::sync::{Notify, oneshot};
use zeroize::Zeroizing;

use super::failures::Failures;
use super::htpasswd::{Htpasswd, MAX_PASSWORD};
use super::lobby::neighbourhood;
use super::tokens::Key;
use crate::sys::clock::thread_cpu_ns;
use crate::sys::peer::run_last;

/// An htpasswd file and the logins that it has let in lately.
pub struct Realm {
    file: Htpasswd,
    key: Key,
    /// Keyed hash of user and password, and from which neighbourhood -> when it was verified.
    known: Mutex<HashMap<([u8; 32], IpAddr), Instant>>,
    /// Nanoseconds that the dearest of its hashes took to check; 0 until that is known.
    dearest: AtomicU64,
}

impl Realm {
    pub fn key_of(&self, user: &str, password: &[u8]) -> [u8; 32] {
        let length = (user.len() as u64).to_be_bytes();
        let message = Zeroizing::new([&length[..], user.as_bytes(), password].concat());
        self.key.hash(&message)
    }

    pub fn knows(&self, key: &[u8; 32], from: IpAddr, now: Instant) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .get(&(*key, neighbourhood(from)))
            .is_some_and(|&since| now.saturating_duration_since(since) < REMEMBERED)
    }

    fn remember(&self, key: [u8; 32], from: IpAddr, now: Instant) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_KNOWN {
            known.retain(|_, since| now.saturating_duration_since(*since) < REMEMBERED);
        }
        if known.len() < MAX_KNOWN {
            known.insert((key, neighbourhood(from)), now);
        }
    }

    pub fn dearest(&self) -> Duration {
        Duration::from_nanos(self.dearest.load(Relaxed))
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.file.is_empty()
    }

    /// Checks, and keeps in mind what that took.
    fn verify(&self, user: &str, password: &[u8]) -> bool {
        let timed = |check: &dyn Fn() -> bool| {
            // Not by the clock on the wall: one check that had to wait would make all refusals late for ever.
            let start = thread_cpu_ns();
            let good = catch_unwind(AssertUnwindSafe(check)).unwrap_or(false);
            let took = thread_cpu_ns().saturating_sub(start);
            self.dearest.fetch_max(took, Relaxed);
            good
        };
        // The first refusal already must not tell a cheap hash from a dear one.
        if self.dearest.load(Relaxed) == 0 {
            let kinds = self.file.kinds();
            // The only one is measured in what follows.
            for hash in kinds.iter().filter(|_| kinds.len() > 1) {
                timed(&|| hash.matches(b"impossible"));
            }
        }
        timed(&|| self.file.verify(user, password))
    }
}

/// How to make a [`Realm`] of a file's bytes. A changed file makes a new one, which knows nobody yet.
pub fn realm(key: Key) -> impl Fn(&[u8]) -> (Realm, bool, Vec<String>) + Send + Sync + 'static {
    move |text| {
        let (file, refused) = Htpasswd::parse(text);
        let empty = file.is_empty();
        let (known, dearest) = (Mutex::default(), AtomicU64::new(0));
        (Realm { file, key: key.clone(), known, dearest }, empty, refused)
    }
}

/// The thread that checks passwords, which ends with this, and who failed lately.
pub struct Logins {
    /// Those who come from where somebody was let in lately, and the strangers behind them.
    lanes: [SyncSender<Work>; 2],
    tries: Arc<Tries>,
    /// Behind the lanes, for it is to see them closed.
    bell: Bell,
}

/// Wakes the thread; the last time at its end.
struct Bell(Thread);

#[derive(Default)]
struct Tries {
    failures: Mutex<Failures>,
    /// From where somebody was let in, and when last.
    guests: Mutex<HashMap<IpAddr, Instant>>,
    /// One that was being checked is not any more.
    decided: Notify,
}

enum Work {
    /// In a box, for a lane keeps room for thousands.
    Check(Box<Job>),
    /// Anything that is to happen on that thread.
    Other(Box<dyn FnOnce() + Send>),
}

struct Job {
    realm: Arc<Realm>,
    key: [u8; 32],
    user: String,
    password: Zeroizing<Vec<u8>>,
    /// Gone when whoever asked is.
    asker: Weak<()>,
    reply: oneshot::Sender<bool>,
}

impl Logins {
    pub fn start() -> Result<Self, String> {
        let (guests, of_guests) = sync_channel(MAX_WAITING);
        let (strangers, of_strangers) = sync_channel(MAX_WAITING);
        let thread = std::thread::Builder::new()
            .name("login".to_owned())
            .spawn(move || run(&[of_guests, of_strangers]))
            .map_err(|e| format!("could not start the login thread: {e}"))?;
        let bell = Bell(thread.thread().clone());
        Ok(Self { lanes: [guests, strangers], tries: Arc::default(), bell })
    }

    pub fn tries(&self) -> MutexGuard<'_, Failures> {
        self.tries.failures()
    }

    /// Waits until a try that is being checked now has its end.
    pub fn decided(&self) -> Notified<'_> {
        // It hears of all that comes after this call, polled or not.
        self.tries.decided.notified()
    }

    /// `false` when too many are waiting.
    fn push(&self, is_guest: bool, work: Work) -> bool {
        let taken = self.lanes[usize::from(!is_guest)].try_send(work).is_ok();
        self.bell.0.unpark();
        taken
    }

    /// Runs `work` on the thread.
    pub fn on_thread(&self, work: impl FnOnce() + Send + 'static) {
        let _ = self.push(true, Work::Other(Box::new(work)));
    }

    /// Checks a try that has begun, and ends it. Nothing when too many are waiting.
    pub async fn verify(
        &self,
        realm: Arc<Realm>,
        user: String,
        mut password: Zeroizing<Vec<u8>>,
        from: IpAddr,
        a_minute: u32,
    ) -> Option<bool> {
        let key = realm.key_of(&user, &password);
        // Refused by length all the same; the queue need not carry it.
        password.truncate(MAX_PASSWORD + 1);
        let here = Arc::new(());
        let (reply, answer) = oneshot::channel();
        let asker = Arc::downgrade(&here);
        let job = Box::new(Job { realm: Arc::clone(&realm), key, user, password, asker, reply });
        let taken = self.push(self.tries.is_guest(from, Instant::now()), Work::Check(job));
        let tries = Arc::clone(&self.tries);
        // To the end, even when nobody waits any more: a check may take longer than a client has patience, and what it
        // found right lets his next try in. Not in the thread there, which may be put aside with a lock in its hand.
        let ending = async move {
            let found = if taken { answer.await.ok() } else { None };
            let now = Instant::now();
            if found == Some(true) {
                realm.remember(key, from, now);
                tries.welcome(from, now);
            }
            tries.failures().end(from, a_minute, found == Some(false), now);
            tries.decided.notify_waiters();
            found
        };
        let found = tokio::spawn(ending).await.unwrap_or(None);
        drop(here);
        found
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        self.0.unpark();
    }
}

impl Tries {
    fn failures(&self) -> MutexGuard<'_, Failures> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_guest(&self, from: IpAddr, now: Instant) -> bool {
        let guests = self.guests.lock().unwrap_or_else(PoisonError::into_inner);
        guests.get(&neighbourhood(from)).is_some_and(|&since| now.saturating_duration_since(since) < A_DAY)
    }

    fn welcome(&self, from: IpAddr, now: Instant) {
        let mut guests = self.guests.lock().unwrap_or_else(PoisonError::into_inner);
        guests.insert(neighbourhood(from), now);
        if guests.len() > MAX_KNOWN
            && let Some(longest_ago) = guests.iter().min_by_key(|(_, since)| **since).map(|(from, _)| *from)
        {
            guests.remove(&longest_ago);
        }
    }
}

/// The next one; waits for it after `idle` is done. `None` at the end.
fn next(lanes: &[Receiver<Work>; 2], mut idle: impl FnMut()) -> Option<Work> {
    loop {
        let mut is_over = true;
        for lane in lanes {
            match lane.try_recv() {
                Ok(work) => return Some(work),
                Err(TryRecvError::Empty) => is_over = false,
                Err(TryRecvError::Disconnected) => {}
            }
        }
        if is_over {
            return None;
        }
        idle();
        std::thread::park();
    }
}

fn run(lanes: &[Receiver<Work>; 2]) {
    // Before frames come logins. Where that is not allowed, as under systemd, they are served all the same.
    if let Err(e) = run_last() {
        tracing::debug!("the login thread has the priority of the others: {e}");
    }
    // Of many links that come back at once with the same password, one is hashed.
    let mut lately: HashSet<[u8; 32]> = HashSet::new();
    let mut of: Option<Arc<Realm>> = None;
    loop {
        let Job { realm, key, user, password, asker, reply } = match next(lanes, || lately.clear()) {
            None => return,
            Some(Work::Check(job)) => *job,
            Some(Work::Other(work)) => {
                work();
                continue;
            }
        };
        if asker.strong_count() == 0 {
            continue;
        }
        if lately.len() >= MAX_KNOWN || !of.as_ref().is_some_and(|of| Arc::ptr_eq(of, &realm)) {
            lately.clear();
            of = Some(Arc::clone(&realm));
        }
        let good = lately.contains(&key) || realm.verify(&user, &password);
        if good {
            lately.insert(key);
        }
        let _ = reply.send(good);
    }
}

const REMEMBERED: Duration = Duration::from_secs(600);
const A_DAY: Duration = Duration::from_secs(24 * 3600);
const MAX_KNOWN: usize = 4096;
/// Of each lane.
const MAX_WAITING: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn guests_of_that_day_do_not_stand_behind_strangers() -> Result<(), String> {
        let logins = Logins::start()?;
        let (realm, _, _) = realm(Key::random()?)(b"alice:{SHA}udxrLVIvrjOzqwtjo2u0x3ZBNcU=\n");
        let realm = Arc::new(realm);
        let verify = |password: &[u8], from: [u8; 4]| {
            let password = Zeroizing::new(password.to_vec());
            logins.verify(Arc::clone(&realm), "alice".to_owned(), password, from.into(), 60)
        };
        assert_eq!(verify(b"sesame open", [192, 0, 2, 1]).await, Some(true));
        assert_eq!(verify(b"guess", [192, 0, 2, 2]).await, Some(false));
        let is_guest = |last, after| logins.tries.is_guest([192, 0, 2, last].into(), Instant::now() + after);
        assert_eq!(
            [is_guest(1, REMEMBERED), is_guest(1, A_DAY), is_guest(2, Duration::ZERO)],
            [true, false, false]
        );

        let (release, hold) = std::sync::mpsc::channel::<()>();
        let (reached, held) = oneshot::channel();
        logins.on_thread(move || {
            let _ = reached.send(());
            let _ = hold.recv();
        });
        held.await.map_err(|e| e.to_string())?;
        let (tell, told) = std::sync::mpsc::channel();
        for (is_guest, who) in [(false, "stranger"), (false, "another"), (true, "guest")] {
            let tell = tell.clone();
            assert!(logins.push(is_guest, Work::Other(Box::new(move || _ = tell.send(who)))));
        }
        drop((release, tell));
        let told: Vec<_> = told.iter().collect();
        assert_eq!(told, ["guest", "stranger", "another"]);
        // What is under way is done to its end, and the thread ends.
        let (tell, told) = std::sync::mpsc::channel();
        logins.on_thread(move || _ = tell.send(()));
        drop(logins);
        assert_eq!(told.iter().count(), 1);
        Ok(())
    }
}
