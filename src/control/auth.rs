//! Who is let in: what a request shows of itself, and what a service asks for.

use std::net::IpAddr;
use std::path::Path;
use std::pin::pin;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, header};
use zeroize::Zeroizing;

use super::failures::{Try, told_at};
use super::logins::{Logins, Realm, realm};
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
        let mut dearest = Duration::ZERO;
        match (user, &self.passwords) {
            (Some(user), Some(passwords)) => {
                let verdict = check(passwords, logins, (user, password), address, a_minute).await;
                match verdict {
                    Verdict::Refused => dearest = passwords.current(Instant::now()).dearest(),
                    verdict => return verdict,
                }
            }
            _ if !logins.tries().charge(address, a_minute, began) => return Verdict::TooMany,
            _ => {}
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

/// Looks a password up, or has it checked when its turn comes.
async fn check(
    passwords: &Watched<Realm>,
    logins: &Logins,
    (user, password): (String, Zeroizing<Vec<u8>>),
    address: IpAddr,
    a_minute: u32,
) -> Verdict {
    let realm = loop {
        let decided = pin!(logins.decided());
        let now = Instant::now();
        let realm = passwords.current(now);
        // Whoever was let in lately from this address passes here, whatever others there do. From elsewhere the same
        // is a guess until it is paid for: else one could guess at any rate what somebody was let in by lately.
        if realm.knows(&realm.key_of(&user, &password), address, now) {
            return Verdict::User(user);
        }
        let tried = logins.tries().begin(address, a_minute, now);
        match tried {
            Try::Begun => break realm,
            Try::Later => decided.await,
            Try::Refused => return Verdict::TooMany,
        }
    };
    match logins.verify(realm, user.clone(), password, address, a_minute).await {
        Some(true) => Verdict::User(user),
        Some(false) => Verdict::Refused,
        None => Verdict::Busy,
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;

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
        assert!(watched.current(later).is_empty());
        let verdict = admit(&gate, basic("alice", "sesame open")).await;
        assert_eq!(verdict, Verdict::Refused, "a remembered login goes with the file");
        assert_eq!(admit(&Gate::default(), Credentials::Nothing).await, Verdict::Open);
        assert!(Gate::of_files(Some(Path::new("/nonexistent")), None, &key).is_err(), "bad_63");
        std::fs::remove_file(&passwd)?;
        std::fs::remove_file(&tokens)?;
        Ok(())
    }

    /// A dear hash on a busy machine takes longer than the ten seconds that a dialling switch waits.
    #[tokio::test]
    async fn a_password_that_was_right_after_its_client_had_gone_lets_the_next_try_in() -> Result<(), String>
    {
        let path = std::env::temp_dir().join(format!("etherws-patience-{}", std::process::id()));
        // The first check measures both kinds before, so that its beginning is seen.
        let lines = "alice:$2y$12$yUrQfHnCEMoHlLo6Oh.NDuouhWNz7TmcHg8twGYId.ahBi7gXykcu\n\
                     bob:{SHA}GpHWL3ymc5liWkNopqtdSjuqYHM=\n";
        std::fs::write(&path, lines).map_err(|e| e.to_string())?;
        let gate = Arc::new(Gate::of_files(Some(&path), None, &Key::random()?)?);
        let realm =
            gate.passwords.as_ref().map(|passwords| passwords.current(Instant::now())).ok_or("none")?;
        let logins = Arc::new(Logins::start()?);
        let nat = IpAddr::from(Ipv4Addr::LOCALHOST);
        let first = {
            let (gate, logins) = (Arc::clone(&gate), Arc::clone(&logins));
            tokio::spawn(async move { gate.admit(&logins, basic("alice", "pw"), nat, 1).await })
        };
        let wait_for = async |what: &str, is: &dyn Fn() -> bool| {
            let end = Instant::now() + Duration::from_secs(30);
            while !is() {
                assert!(Instant::now() < end, "waited in vain: {what}");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        wait_for("the check begins", &|| !realm.dearest().is_zero()).await;
        first.abort();
        wait_for("it is remembered", &|| realm.knows(&realm.key_of("alice", b"pw"), nat, Instant::now()))
            .await;
        // And is no failure: there is one a minute.
        wait_for("it is paid back", &|| logins.tries().begin(nat, 1, Instant::now()) == Try::Begun).await;
        logins.tries().end(nat, 1, false, Instant::now());
        // At once, whatever else is being checked.
        let (release, hold) = std::sync::mpsc::channel::<()>();
        logins.on_thread(move || _ = hold.recv());
        let next = gate.admit(&logins, basic("alice", "pw"), nat, 1);
        let next = tokio::time::timeout(Duration::from_secs(30), next).await.map_err(|e| e.to_string())?;
        assert_eq!(next, Verdict::User("alice".into()));
        drop(release);
        std::fs::remove_file(&path).map_err(|e| e.to_string())
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
