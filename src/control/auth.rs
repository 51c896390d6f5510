//! Who is let in. Password hashing is slow on purpose, so it happens in a thread of its own, which runs when nobody
//! else wants the processor; what it found right is remembered for ten minutes, as a keyed hash, and forgotten when
//! the file changes. What it found wrong is counted against the address that tried, and told on a clock's stroke.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, header};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::failures::{Failures, told_at};
use super::htpasswd::{Htpasswd, MAX_PASSWORD};
use super::lobby::neighbourhood;
use super::tokens::{Key, Tokens};
use super::watched::Watched;
use crate::sys::clock::thread_cpu_ns;
use crate::sys::peer::run_last;

/// What a request shows of itself.
pub enum Credentials {
    Nothing,
    Basic {
        user: String,
        password: Zeroizing<Vec<u8>>,
    },
    Bearer(Zeroizing<Vec<u8>>),
    /// Something that is no credential at all; refused at the price of a wrong password.
    Malformed,
}

impl Credentials {
    /// From the Authorization header (RFC 7617, RFC 6750); two of them are malformed.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let (value, more) = (values.next(), values.next());
        let Some(value) = value else { return Self::Nothing };
        let (None, Some((scheme, rest))) = (more, split_scheme(value.as_bytes())) else {
            return Self::Malformed;
        };
        if scheme.eq_ignore_ascii_case(b"bearer") {
            return Self::Bearer(Zeroizing::new(rest.to_vec()));
        }
        if scheme.eq_ignore_ascii_case(b"basic") { Self::basic(rest) } else { Self::Malformed }
    }

    /// From `token=` in a query string: for browsers, whose WebSocket cannot set headers.
    pub fn of_query(query: &str) -> Self {
        match query.split('&').find_map(|pair| pair.strip_prefix("token=")) {
            Some(token) => Self::Bearer(Zeroizing::new(percent_decoded(token))),
            None => Self::Nothing,
        }
    }

    fn basic(encoded: &[u8]) -> Self {
        let Ok(decoded) = STANDARD.decode(encoded).map(Zeroizing::new) else { return Self::Malformed };
        let Some(colon) = decoded.iter().position(|&b| b == b':') else { return Self::Malformed };
        let Ok(user) = std::str::from_utf8(&decoded[..colon]) else { return Self::Malformed };
        Self::Basic { user: user.to_owned(), password: Zeroizing::new(decoded[colon + 1..].to_vec()) }
    }
}

/// The answer to a request's credentials.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Nothing is asked for.
    Open,
    User(String),
    Token(String),
    /// Nothing was shown, and something is asked for.
    Missing,
    Refused,
    /// The address has failed too often lately: try later.
    TooMany,
    /// Too many logins are waiting to be checked: try later.
    Busy,
}

impl Verdict {
    pub fn lets_in(&self) -> bool {
        matches!(self, Self::Open | Self::User(_) | Self::Token(_))
    }
}

/// What one service asks for; nothing configured means open.
#[derive(Default)]
pub struct Gate {
    passwords: Option<Watched<Realm>>,
    tokens: Option<TokenSource>,
}

enum TokenSource {
    File(Watched<Tokens>),
    /// The token made at start. As 1.3's clients know only Basic, it is taken as a password too.
    Generated(Tokens),
}

impl Gate {
    /// Asks for what the files say; either lets in.
    pub fn of_files(htpasswd: Option<&Path>, tokens: Option<&Path>, key: &Key) -> Result<Self, String> {
        let passwords = htpasswd.map(|path| Watched::open(path, realm(key.clone()))).transpose();
        let passwords = passwords.map_err(|why| format!("password file: {why}"))?;
        let key = key.clone();
        let parse = move |text: &[u8]| {
            let (tokens, refused) = Tokens::parse(text, &key);
            let empty = tokens.is_empty();
            (tokens, empty, refused)
        };
        let tokens = tokens.map(|path| Watched::open(path, parse)).transpose();
        let tokens = tokens.map_err(|why| format!("token file: {why}"))?.map(TokenSource::File);
        Ok(Self { passwords, tokens })
    }

    /// Asks for `token`.
    pub fn of_token(token: &str, key: &Key) -> Self {
        Self { passwords: None, tokens: Some(TokenSource::Generated(Tokens::single("local", token, key))) }
    }

    pub fn wants_password(&self) -> bool {
        self.passwords.is_some() || matches!(self.tokens, Some(TokenSource::Generated(_)))
    }

    pub fn wants_token(&self) -> bool {
        self.tokens.is_some()
    }

    /// Judges what a request from `address` shows. `a_minute`: how many failures an address has.
    pub async fn admit(
        &self,
        logins: &Logins,
        credentials: Credentials,
        address: IpAddr,
        a_minute: u32,
    ) -> Verdict {
        let began = Instant::now();
        let (user, password) = match credentials {
            _ if self.passwords.is_none() && self.tokens.is_none() => return Verdict::Open,
            Credentials::Nothing => return Verdict::Missing,
            Credentials::Bearer(token) => match self.find_token(&token, began) {
                Some(name) => return Verdict::Token(name),
                None => (None, token),
            },
            Credentials::Basic { user, password } => (Some(user), password),
            // No user has an empty name, so this costs what a wrong password costs and fails.
            Credentials::Malformed => (Some(String::new()), Zeroizing::default()),
        };
        if let (Some(user), Some(TokenSource::Generated(tokens))) = (&user, &self.tokens)
            && tokens.find(&password).is_some()
        {
            return Verdict::User(user.clone());
        }
        let login = user.zip(self.passwords.as_ref().map(|passwords| passwords.current(began)));
        if let Some((user, realm)) = &login
            && realm.knows(&realm.key_of(user, &password), address, began)
        {
            return Verdict::User(user.clone());
        }
        // Whoever was let in lately from this address has passed by here, whatever others there do. From elsewhere the
        // same is a guess until it is paid for: else one could guess at any rate what somebody was let in by lately.
        if !logins.failures().charge(address, a_minute, began) {
            return Verdict::TooMany;
        }
        let mut dearest = Duration::ZERO;
        if let Some((user, realm)) = login {
            let verdict = match logins.verify(&realm, user.clone(), password, address).await {
                Some(false) => Verdict::Refused,
                Some(true) => Verdict::User(user),
                None => Verdict::Busy,
            };
            if verdict != Verdict::Refused {
                logins.failures().refund(address, a_minute, Instant::now());
                return verdict;
            }
            dearest = realm.dearest();
        }
        tokio::time::sleep_until(told_at(began, Instant::now(), dearest).into()).await;
        Verdict::Refused
    }

    fn find_token(&self, token: &[u8], now: Instant) -> Option<String> {
        match self.tokens.as_ref()? {
            TokenSource::File(file) => file.current(now).find(token).map(str::to_owned),
            TokenSource::Generated(tokens) => tokens.find(token).map(str::to_owned),
        }
    }
}

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
    fn key_of(&self, user: &str, password: &[u8]) -> [u8; 32] {
        let length = (user.len() as u64).to_be_bytes();
        let message = Zeroizing::new([&length[..], user.as_bytes(), password].concat());
        self.key.hash(&message)
    }

    fn knows(&self, key: &[u8; 32], from: IpAddr, now: Instant) -> bool {
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

    fn dearest(&self) -> Duration {
        Duration::from_nanos(self.dearest.load(Relaxed))
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
fn realm(key: Key) -> impl Fn(&[u8]) -> (Realm, bool, Vec<String>) + Send + Sync + 'static {
    move |text| {
        let (file, refused) = Htpasswd::parse(text);
        let empty = file.is_empty();
        let (known, dearest) = (Mutex::default(), AtomicU64::new(0));
        (Realm { file, key: key.clone(), known, dearest }, empty, refused)
    }
}

/// The thread that checks passwords, which ends with this, and who failed lately.
pub struct Logins {
    jobs: SyncSender<Work>,
    failures: Mutex<Failures>,
}

enum Work {
    Check(Job),
    /// Anything that is to happen on that thread.
    Other(Box<dyn FnOnce() + Send>),
}

struct Job {
    realm: Arc<Realm>,
    key: [u8; 32],
    user: String,
    password: Zeroizing<Vec<u8>>,
    reply: oneshot::Sender<bool>,
}

impl Logins {
    pub fn start() -> Result<Self, String> {
        let (jobs, queue) = sync_channel(MAX_WAITING);
        std::thread::Builder::new()
            .name("login".to_owned())
            .spawn(move || run(&queue))
            .map_err(|e| format!("could not start the login thread: {e}"))?;
        Ok(Self { jobs, failures: Mutex::default() })
    }

    fn failures(&self) -> MutexGuard<'_, Failures> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` on the thread.
    pub fn on_thread(&self, work: impl FnOnce() + Send + 'static) {
        let _ = self.jobs.try_send(Work::Other(Box::new(work)));
    }

    /// Nothing when too many are waiting.
    async fn verify(
        &self,
        realm: &Arc<Realm>,
        user: String,
        mut password: Zeroizing<Vec<u8>>,
        from: IpAddr,
    ) -> Option<bool> {
        let key = realm.key_of(&user, &password);
        // Refused by length all the same; the queue need not carry it.
        password.truncate(MAX_PASSWORD + 1);
        let (reply, answer) = oneshot::channel();
        match self.jobs.try_send(Work::Check(Job { realm: Arc::clone(realm), key, user, password, reply })) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => return None,
        }
        let good = answer.await.unwrap_or(false);
        if good {
            // Not in the thread there: it may be put aside with the lock in its hand.
            realm.remember(key, from, Instant::now());
        }
        Some(good)
    }
}

fn run(queue: &Receiver<Work>) {
    // Before frames come logins. Where that is not allowed they are served all the same.
    if let Err(e) = run_last() {
        tracing::debug!("the login thread has the priority of the others: {e}");
    }
    // Of many links that come back at once with the same password, one is hashed.
    let mut lately: HashSet<[u8; 32]> = HashSet::new();
    let mut of: Option<Arc<Realm>> = None;
    loop {
        let work = match queue.try_recv() {
            Err(TryRecvError::Empty) => {
                lately.clear();
                queue.recv().ok()
            }
            other => other.ok(),
        };
        let Job { realm, key, user, password, reply } = match work {
            None => return,
            Some(Work::Check(job)) => job,
            Some(Work::Other(work)) => {
                work();
                continue;
            }
        };
        if reply.is_closed() {
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

fn split_scheme(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = value.iter().position(|&b| b == b' ')?;
    Some((&value[..space], value[space..].trim_ascii()))
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let hex = |b: u8| char::from(b).to_digit(16);
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let pair = bytes.get(at + 1).copied().and_then(hex).zip(bytes.get(at + 2).copied().and_then(hex));
        match pair {
            Some((high, low)) if byte == b'%' => {
                out.extend(u8::try_from(high << 4 | low));
                at += 3;
            }
            _ => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

const REMEMBERED: Duration = Duration::from_secs(600);
const MAX_KNOWN: usize = 4096;
const MAX_WAITING: usize = 4096;

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for value in values {
            map.append(header::AUTHORIZATION, value.parse().unwrap());
        }
        map
    }

    fn shown(credentials: Credentials) -> String {
        match credentials {
            Credentials::Nothing => "nothing".to_owned(),
            Credentials::Malformed => "malformed".to_owned(),
            Credentials::Bearer(token) => format!("bearer {}", String::from_utf8_lossy(&token)),
            Credentials::Basic { user, password } => {
                format!("basic {user} {}", String::from_utf8_lossy(&password))
            }
        }
    }

    #[test]
    fn bad_60_credentials_are_parsed_or_malformed() {
        for (values, expected) in [
            (&[][..], "nothing"),
            (&["Basic YWxpY2U6c2VzYW1lIG9wZW4="], "basic alice sesame open"),
            (&["bAsIc  YWxpY2U6c2VzYW1lIG9wZW4="], "basic alice sesame open"),
            (&["Basic YTpiOmM="], "basic a b:c"),
            (&["Basic !!"], "malformed"),
            (&["Basic YWxpY2U="], "malformed"),
            (&["Basic"], "malformed"),
            (&["Digest x"], "malformed"),
            (&["Basic YTpi", "Basic YTpi"], "malformed"),
            (&["Bearer abc"], "bearer abc"),
        ] {
            assert_eq!(shown(Credentials::of(&headers(values))), expected, "{values:?}");
        }
    }

    #[test]
    fn tokens_in_queries() {
        for (query, expected) in [
            ("", "nothing"),
            ("xtoken=a", "nothing"),
            ("token=a", "bearer a"),
            ("x=1&token=a%2Bb%2&y", "bearer a+b%2"),
        ] {
            assert_eq!(shown(Credentials::of_query(query)), expected, "{query}");
        }
    }

    fn basic(user: &str, password: &str) -> Credentials {
        Credentials::Basic { user: user.to_owned(), password: Zeroizing::new(password.as_bytes().to_vec()) }
    }

    #[tokio::test]
    async fn gate_lets_in_by_password_or_token_and_forgets_with_the_file()
    -> Result<(), Box<dyn std::error::Error>> {
        let key = Key::random()?;
        let logins = Logins::start()?;
        let admit =
            async |gate: &Gate, shown| gate.admit(&logins, shown, Ipv4Addr::LOCALHOST.into(), 60).await;
        let path = |name: &str| std::env::temp_dir().join(format!("etherws-{name}-{}", std::process::id()));
        let (passwd, tokens) = (path("htpasswd"), path("tokens"));
        std::fs::write(&passwd, "alice:{SHA}udxrLVIvrjOzqwtjo2u0x3ZBNcU=\n")?;
        std::fs::write(&tokens, "browser 0123456789abcdef\n")?;
        let gate = Gate::of_files(Some(&passwd), Some(&tokens), &key)?;
        let bearer = |t: &str| Credentials::Bearer(Zeroizing::new(t.as_bytes().to_vec()));
        for _ in 0..2 {
            assert_eq!(admit(&gate, basic("alice", "sesame open")).await, Verdict::User("alice".into()));
        }
        assert_eq!(admit(&gate, bearer("0123456789abcdef")).await, Verdict::Token("browser".into()));
        for wrong in [basic("alice", "x"), basic("bob", "x"), Credentials::Malformed, bearer("x")] {
            let start = Instant::now();
            assert_eq!(admit(&gate, wrong).await, Verdict::Refused);
            assert!(start.elapsed() >= told_at(start, start, Duration::ZERO) - start, "before the stroke");
        }
        assert_eq!(admit(&gate, Credentials::Nothing).await, Verdict::Missing);
        let Some(watched) = &gate.passwords else { return Err("no passwords".into()) };
        std::fs::write(&passwd, "")?;
        let later = Instant::now() + Duration::from_secs(5);
        assert!(watched.current(later).file.is_empty());
        let verdict = admit(&gate, basic("alice", "sesame open")).await;
        assert_eq!(verdict, Verdict::Refused, "a remembered login goes with the file");
        assert_eq!(admit(&Gate::default(), Credentials::Nothing).await, Verdict::Open);
        assert!(Gate::of_files(Some(Path::new("/nonexistent")), None, &key).is_err(), "bad_63");
        std::fs::remove_file(&passwd)?;
        std::fs::remove_file(&tokens)?;
        Ok(())
    }

    #[tokio::test]
    async fn the_generated_token_is_a_password_too() -> Result<(), String> {
        let logins = Logins::start()?;
        let admit =
            async |gate: &Gate, shown| gate.admit(&logins, shown, Ipv4Addr::LOCALHOST.into(), 60).await;
        let gate = Gate::of_token("0123456789abcdef", &Key::random()?);
        assert_eq!(admit(&gate, basic("any", "0123456789abcdef")).await, Verdict::User("any".into()));
        assert_eq!(admit(&gate, basic("any", "wrong")).await, Verdict::Refused);
        assert_eq!(admit(&gate, Credentials::Nothing).await, Verdict::Missing);
        Ok(())
    }
}
