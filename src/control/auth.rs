//! Who is let in. Password hashing is slow on purpose, so it happens in a thread of its own; what it found
//! is remembered for ten minutes, as a keyed hash, and forgotten when the file changes.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, header};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::htpasswd::{Htpasswd, MAX_PASSWORD};
use super::tokens::{Key, Tokens};
use super::watched::Watched;

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
    Refused,
    /// Too many logins are waiting to be checked: try later.
    Busy,
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

    pub async fn admit(&self, hasher: &Hasher, credentials: Credentials) -> Verdict {
        let now = Instant::now();
        match credentials {
            _ if self.passwords.is_none() && self.tokens.is_none() => Verdict::Open,
            Credentials::Nothing => Verdict::Refused,
            Credentials::Bearer(token) => {
                self.find_token(&token, now).map_or(Verdict::Refused, Verdict::Token)
            }
            Credentials::Basic { user, password } => {
                if let Some(TokenSource::Generated(tokens)) = &self.tokens
                    && tokens.find(&password).is_some()
                {
                    return Verdict::User(user);
                }
                self.check(hasher, user, password, now).await
            }
            Credentials::Malformed => {
                // No user has an empty name, so this costs what a wrong password costs and fails.
                self.check(hasher, String::new(), Zeroizing::default(), now).await
            }
        }
    }

    fn find_token(&self, token: &[u8], now: Instant) -> Option<String> {
        match self.tokens.as_ref()? {
            TokenSource::File(file) => file.current(now).find(token).map(str::to_owned),
            TokenSource::Generated(tokens) => tokens.find(token).map(str::to_owned),
        }
    }

    async fn check(
        &self,
        hasher: &Hasher,
        user: String,
        password: Zeroizing<Vec<u8>>,
        now: Instant,
    ) -> Verdict {
        let Some(passwords) = &self.passwords else { return Verdict::Refused };
        let realm = passwords.current(now);
        match hasher.verify(realm, user.clone(), password).await {
            Some(true) => Verdict::User(user),
            Some(false) => Verdict::Refused,
            None => Verdict::Busy,
        }
    }
}

/// An htpasswd file and the logins that it has let in lately.
pub struct Realm {
    file: Htpasswd,
    key: Key,
    /// Keyed hash of user and password -> when it was verified.
    known: Mutex<HashMap<[u8; 32], Instant>>,
}

impl Realm {
    fn key_of(&self, user: &str, password: &[u8]) -> [u8; 32] {
        let length = (user.len() as u64).to_be_bytes();
        let message = Zeroizing::new([&length[..], user.as_bytes(), password].concat());
        self.key.hash(&message)
    }

    fn knows(&self, key: &[u8; 32], now: Instant) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(key).is_some_and(|&since| now.saturating_duration_since(since) < REMEMBERED)
    }

    fn remember(&self, key: [u8; 32], now: Instant) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_KNOWN {
            known.retain(|_, since| now.saturating_duration_since(*since) < REMEMBERED);
        }
        if known.len() < MAX_KNOWN {
            known.insert(key, now);
        }
    }
}

/// How to make a [`Realm`] of a file's bytes. A changed file makes a new one, which knows nobody yet.
fn realm(key: Key) -> impl Fn(&[u8]) -> (Realm, bool, Vec<String>) + Send + Sync + 'static {
    move |text| {
        let (file, refused) = Htpasswd::parse(text);
        let empty = file.is_empty();
        (Realm { file, key: key.clone(), known: Mutex::default() }, empty, refused)
    }
}

/// The thread that checks passwords. It ends with the last clone of this.
#[derive(Clone)]
pub struct Hasher {
    jobs: SyncSender<Work>,
}

enum Work {
    Check(Job),
    /// Anything that is to happen on that thread.
    Other(Box<dyn FnOnce() + Send>),
}

struct Job {
    realm: Arc<Realm>,
    user: String,
    password: Zeroizing<Vec<u8>>,
    reply: oneshot::Sender<bool>,
}

impl Hasher {
    pub fn start() -> Result<Self, String> {
        let (jobs, queue) = sync_channel(MAX_WAITING);
        std::thread::Builder::new()
            .name("login".to_owned())
            .spawn(move || run(&queue))
            .map_err(|e| format!("could not start the login thread: {e}"))?;
        Ok(Self { jobs })
    }

    /// Runs `work` on the thread.
    pub fn on_thread(&self, work: impl FnOnce() + Send + 'static) {
        let _ = self.jobs.try_send(Work::Other(Box::new(work)));
    }

    /// Nothing when too many are waiting.
    async fn verify(
        &self,
        realm: Arc<Realm>,
        user: String,
        mut password: Zeroizing<Vec<u8>>,
    ) -> Option<bool> {
        if realm.knows(&realm.key_of(&user, &password), Instant::now()) {
            return Some(true);
        }
        // Refused by length all the same; the queue need not carry it.
        password.truncate(MAX_PASSWORD + 1);
        let (reply, answer) = oneshot::channel();
        match self.jobs.try_send(Work::Check(Job { realm, user, password, reply })) {
            Ok(()) => Some(answer.await.unwrap_or(false)),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => None,
        }
    }
}

fn run(queue: &Receiver<Work>) {
    while let Ok(work) = queue.recv() {
        let Job { realm, user, password, reply } = match work {
            Work::Check(job) => job,
            Work::Other(work) => {
                work();
                continue;
            }
        };
        if reply.is_closed() {
            continue;
        }
        let key = realm.key_of(&user, &password);
        let now = Instant::now();
        // Of many links that come back at once with the same password, one is hashed.
        let good = realm.knows(&key, now)
            || catch_unwind(AssertUnwindSafe(|| realm.file.verify(&user, &password))).unwrap_or(false);
        if good {
            realm.remember(key, now);
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
        let hasher = Hasher::start()?;
        let path = |name: &str| std::env::temp_dir().join(format!("etherws-{name}-{}", std::process::id()));
        let (passwd, tokens) = (path("htpasswd"), path("tokens"));
        std::fs::write(&passwd, "alice:{SHA}udxrLVIvrjOzqwtjo2u0x3ZBNcU=\n")?;
        std::fs::write(&tokens, "browser 0123456789abcdef\n")?;
        let gate = Gate::of_files(Some(&passwd), Some(&tokens), &key)?;
        let bearer = |t: &str| Credentials::Bearer(Zeroizing::new(t.as_bytes().to_vec()));
        for _ in 0..2 {
            assert_eq!(
                gate.admit(&hasher, basic("alice", "sesame open")).await,
                Verdict::User("alice".into())
            );
        }
        assert_eq!(gate.admit(&hasher, bearer("0123456789abcdef")).await, Verdict::Token("browser".into()));
        for wrong in [
            basic("alice", "x"),
            basic("bob", "x"),
            Credentials::Malformed,
            Credentials::Nothing,
            bearer("x"),
        ] {
            assert_eq!(gate.admit(&hasher, wrong).await, Verdict::Refused);
        }
        let Some(watched) = &gate.passwords else { return Err("no passwords".into()) };
        std::fs::write(&passwd, "")?;
        let later = Instant::now() + Duration::from_secs(5);
        let good = Zeroizing::new(b"sesame open".to_vec());
        assert!(watched.current(later).file.is_empty());
        let verdict = gate.check(&hasher, "alice".to_owned(), good, later).await;
        assert_eq!(verdict, Verdict::Refused, "a remembered login goes with the file");
        assert_eq!(Gate::default().admit(&hasher, Credentials::Nothing).await, Verdict::Open);
        assert!(Gate::of_files(Some(Path::new("/nonexistent")), None, &key).is_err(), "bad_63");
        std::fs::remove_file(&passwd)?;
        std::fs::remove_file(&tokens)?;
        Ok(())
    }

    #[tokio::test]
    async fn the_generated_token_is_a_password_too() -> Result<(), String> {
        let hasher = Hasher::start()?;
        let gate = Gate::of_token("0123456789abcdef", &Key::random()?);
        assert_eq!(gate.admit(&hasher, basic("any", "0123456789abcdef")).await, Verdict::User("any".into()));
        assert_eq!(gate.admit(&hasher, basic("any", "wrong")).await, Verdict::Refused);
        assert_eq!(gate.admit(&hasher, Credentials::Nothing).await, Verdict::Refused);
        Ok(())
    }
}
