//! An htpasswd file: `USER:HASH` a line, hashes as Apache's `htpasswd` and `openssl passwd` make them:
//! bcrypt, SHA-256-crypt (`$5$`), SHA-512-crypt (`$6$`), apr1 and `{SHA}`. Pure.
//!
//! Every question costs the same, whoever asks: an unknown user, or a password that no hash could be of
//! (NUL, too long), is measured against a hash all the same, of the kind and price most used in the file.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::Md5;
use sha_crypt::{PasswordVerifier, ShaCrypt};
use sha1::{Digest, Sha1};
use subtle::ConstantTimeEq;

/// Longest password looked at. SHA-crypt's cost grows with the length, so there must be an end.
pub const MAX_PASSWORD: usize = 256;

/// bcrypt sees no more than this of a password: a longer one is refused rather than half checked.
const MAX_BCRYPT: usize = 72;

/// The dearest hash taken: a second or two of one core. A dearer line would stall every login.
const MAX_BCRYPT_COST: u32 = 15;
const MAX_SHA_ROUNDS: u32 = 2_000_000;

/// Kinds and costs that are measured; nobody has as many in one file.
const MAX_KINDS: usize = 16;

/// The users of one file.
#[derive(Default)]
pub struct Htpasswd {
    users: HashMap<String, Hash>,
    /// Of the kind and cost most used; what an unknown user is measured against.
    dummy: Option<Hash>,
}

impl Htpasswd {
    /// Reads the file's text. Lines that cannot be used are skipped and named in the second value.
    /// The last line of a user wins, as in Apache.
    pub fn parse(text: &[u8]) -> (Self, Vec<String>) {
        let mut users = HashMap::new();
        let mut refused = Vec::new();
        for (index, line) in text.split(|&b| b == b'\n').enumerate() {
            match parse_line(line.trim_ascii()) {
                Ok(Some((user, hash))) => {
                    users.insert(user, hash);
                }
                Ok(None) => {}
                Err(why) => refused.push(format!("line {}: {why}", index + 1)),
            }
        }
        let dummy = most_used(&users);
        (Self { users, dummy }, refused)
    }

    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// One hash of each kind and cost, of the first sixteen.
    pub fn kinds(&self) -> Vec<&Hash> {
        let kinds: HashMap<_, _> = self.users.values().map(|hash| (hash.class(), hash)).collect();
        kinds.into_values().take(MAX_KINDS).collect()
    }

    /// Whether `password` is `user`'s. Takes as long as the hash was made to take (milliseconds to a
    /// second): not for a thread that has other work.
    pub fn verify(&self, user: &str, password: &[u8]) -> bool {
        let known = self.users.get(user);
        let Some(hash) = known.or(self.dummy.as_ref()) else { return false };
        let possible = !password.contains(&0)
            && password.len() <= MAX_PASSWORD
            && !(matches!(hash, Hash::Bcrypt(_)) && password.len() > MAX_BCRYPT);
        let matches = hash.matches(if possible { password } else { b"impossible" });
        known.is_some() && possible && matches
    }
}

/// One hash, checked for shape.
#[derive(Clone)]
pub enum Hash {
    /// The whole 60 characters.
    Bcrypt(String),
    /// The whole string, `$5$` or `$6$`.
    Sha(String),
    Apr1 {
        salt: Vec<u8>,
        digest: [u8; 16],
    },
    Sha1([u8; 20]),
}

impl Hash {
    fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with("$2a$") || text.starts_with("$2b$") || text.starts_with("$2y$") {
            let parts: bcrypt::HashParts = text.parse().map_err(|_| "malformed bcrypt hash".to_owned())?;
            return match parts.get_cost() {
                4..=MAX_BCRYPT_COST => Ok(Self::Bcrypt(text.to_owned())),
                cost => Err(format!("bcrypt cost {cost} outside 4 to {MAX_BCRYPT_COST}")),
            };
        }
        if text.starts_with("$5$") || text.starts_with("$6$") {
            return parse_sha_crypt(text);
        }
        if let Some(rest) = text.strip_prefix("$apr1$") {
            let (salt, digest) = rest.split_once('$').ok_or("malformed apr1 hash")?;
            if salt.len() > 8 {
                return Err("malformed apr1 hash".to_owned());
            }
            let digest = apr1_decode(digest).ok_or("malformed apr1 hash")?;
            return Ok(Self::Apr1 { salt: salt.as_bytes().to_vec(), digest });
        }
        if let Some(rest) = text.strip_prefix("{SHA}") {
            let digest = STANDARD.decode(rest).ok().and_then(|bytes| bytes.try_into().ok());
            return digest.map(Self::Sha1).ok_or_else(|| "malformed {SHA} hash".to_owned());
        }
        Err(match text.as_bytes() {
            [] => "empty hash",
            [b'$', ..] | [b'{', ..] => "unknown hash; make one with htpasswd -B",
            bytes if bytes.len() == 13 && bytes.iter().all(|&b| crypt_value(b).is_some()) => {
                "DES-crypt is too weak to be used; make a new hash with htpasswd -B"
            }
            _ => "not a hash (plain text is refused); make one with htpasswd -B",
        }
        .to_owned())
    }

    pub fn matches(&self, password: &[u8]) -> bool {
        match self {
            Self::Bcrypt(hash) => bcrypt::verify(password, hash).unwrap_or(false),
            Self::Sha(hash) => ShaCrypt::default().verify_password(password, hash.as_str()).is_ok(),
            Self::Apr1 { salt, digest } => apr1(password, salt).ct_eq(digest).into(),
            Self::Sha1(digest) => Sha1::digest(password).as_slice().ct_eq(digest).into(),
        }
    }

    /// What hashes of equal price have in common.
    fn class(&self) -> &str {
        match self {
            Self::Bcrypt(hash) => hash.get(4..6).unwrap_or_default(),
            Self::Sha(hash) => match hash[3..].split_once('$') {
                Some((rounds, _)) if rounds.starts_with("rounds=") => &hash[..3 + rounds.len()],
                _ => &hash[..3],
            },
            Self::Apr1 { .. } => "apr1",
            Self::Sha1(_) => "sha1",
        }
    }
}

fn parse_line(line: &[u8]) -> Result<Option<(String, Hash)>, String> {
    if line.is_empty() || line.starts_with(b"#") {
        return Ok(None);
    }
    let line = std::str::from_utf8(line).map_err(|_| "not UTF-8")?;
    let (user, hash) = line.split_once(':').ok_or("no colon between user and hash")?;
    if user.is_empty() {
        return Err("no user before the colon".to_owned());
    }
    // A third field is a comment, as in Apache.
    let hash = hash.split(':').next().unwrap_or_default();
    Ok(Some((user.to_owned(), Hash::parse(hash)?)))
}

/// `$5$[rounds=N$]SALT$HASH`, checked here because a field that the verifier misreads as a salt would
/// never match and nobody would know why.
fn parse_sha_crypt(text: &str) -> Result<Hash, String> {
    let malformed = || "malformed SHA-crypt hash".to_owned();
    let mut fields = text[3..].split('$');
    let mut salt = fields.next().ok_or_else(malformed)?;
    if let Some(rounds) = salt.strip_prefix("rounds=") {
        match rounds.parse::<u32>() {
            Ok(1_000..=MAX_SHA_ROUNDS) => {}
            _ => return Err(format!("SHA-crypt rounds outside 1000 to {MAX_SHA_ROUNDS}")),
        }
        salt = fields.next().ok_or_else(malformed)?;
    }
    let digest = fields.next().ok_or_else(malformed)?;
    let length = if text.starts_with("$5$") { 43 } else { 86 };
    let printable = |s: &str| s.bytes().all(|b| crypt_value(b).is_some());
    if fields.next().is_some()
        || salt.is_empty()
        || salt.len() > 16
        || !printable(salt)
        || digest.len() != length
        || !printable(digest)
        || sha_crypt::PasswordHashRef::new(text).is_err()
    {
        return Err(malformed());
    }
    Ok(Hash::Sha(text.to_owned()))
}

fn most_used(users: &HashMap<String, Hash>) -> Option<Hash> {
    let mut counts: HashMap<&str, (usize, &Hash)> = HashMap::new();
    for hash in users.values() {
        counts.entry(hash.class()).or_insert((0, hash)).0 += 1;
    }
    counts.into_iter().max_by_key(|(class, (count, _))| (*count, *class)).map(|(_, (_, hash))| hash.clone())
}

const CRYPT: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Which digest bytes each group of four characters holds, highest first.
const APR1_ORDER: [[usize; 3]; 5] = [[0, 6, 12], [1, 7, 13], [2, 8, 14], [3, 9, 15], [4, 10, 5]];

fn crypt_value(byte: u8) -> Option<u32> {
    CRYPT.iter().position(|&c| c == byte).and_then(|at| u32::try_from(at).ok())
}

fn apr1_decode(text: &str) -> Option<[u8; 16]> {
    let text: &[u8; 22] = text.as_bytes().try_into().ok()?;
    let number = |chars: &[u8]| {
        chars.iter().rev().try_fold(0u32, |sum, &c| Some(sum << 6 | crypt_value(c)?)).map(u32::to_be_bytes)
    };
    let mut digest = [0; 16];
    for (group, order) in text.chunks(4).zip(APR1_ORDER) {
        let [_, high, middle, low] = number(group)?;
        for (at, byte) in order.into_iter().zip([high, middle, low]) {
            digest[at] = byte;
        }
    }
    let [0, 0, 0, last] = number(&text[20..])? else { return None };
    digest[11] = last;
    Some(digest)
}

/// Apache's variant of MD5-crypt: the same but for its magic.
fn apr1(password: &[u8], salt: &[u8]) -> [u8; 16] {
    let inner = Md5::new().chain_update(password).chain_update(salt).chain_update(password).finalize();
    let mut outer = Md5::new().chain_update(password).chain_update(b"$apr1$").chain_update(salt);
    for chunk in password.chunks(16) {
        outer.update(&inner[..chunk.len()]);
    }
    let mut bits = password.len();
    while bits > 0 {
        outer.update(if bits & 1 == 1 { &[0] } else { password.get(..1).unwrap_or(&[0]) });
        bits >>= 1;
    }
    let mut digest = outer.finalize();
    for round in 0..1000 {
        let mut next = Md5::new();
        let odd = round & 1 == 1;
        next.update(if odd { password } else { &digest });
        if round % 3 != 0 {
            next.update(salt);
        }
        if round % 7 != 0 {
            next.update(password);
        }
        next.update(if odd { &digest[..] } else { password });
        digest = next.finalize();
    }
    digest.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::clock::thread_cpu_ns;

    /// Made by `openssl passwd` and `htpasswd`; the password of all is `sesame open`.
    const REAL: &[&str] = &[
        "$apr1$Abc12345$/jbZkPsnPdB9XKE6VPZ53/",
        "$5$Abc12345$qOXdxkRwUM0zLj9CvYfoYhItKO2kRL6tTauBUz4.ymA",
        "$6$Abc12345$BqUHt6vSFOSgKrTurzo4jPSj.HM.aD5PgsiVlGuAAOM49vkA0CSjVaUOpQv28yj6V2Ecu7co9EqgWLooUs2/G1",
        "$2y$05$YFyGXPGUwIcTVpNurpJnBOtMbvkg4g0MzFM7RJVtL5ppItArVHLKa",
        "$2y$04$JU6bRVBRGWk1BnWJEx.xaeJMitfsTBeMRKHZZmUDp/9FsxT/EsLeO",
        "$2a$04$JU6bRVBRGWk1BnWJEx.xaeJMitfsTBeMRKHZZmUDp/9FsxT/EsLeO",
        "$2b$04$JU6bRVBRGWk1BnWJEx.xaeJMitfsTBeMRKHZZmUDp/9FsxT/EsLeO",
        "{SHA}udxrLVIvrjOzqwtjo2u0x3ZBNcU=",
        "$6$rounds=1000$hf6d5taOg0dfAN6T$FY9pUIuKiJJV9g3RCwO61i4OJLnZUQAn1d7L8MUNwN9CoJ7X85WsMLoOWuXQ9sFqs1tTZ3CbbIWcRW6VR1CiL1",
        "$5$Y.elIvC8G5OFku5r$0O8V/GR1olo/W3KMICncsUnV7Bjwg.j9KfCdzznstg9",
    ];

    #[test]
    fn every_format_lets_its_password_in_and_no_other() {
        for hash in REAL {
            let (file, refused) = Htpasswd::parse(format!("alice:{hash}\r\n").as_bytes());
            assert!(refused.is_empty(), "{hash}: {refused:?}");
            assert!(file.verify("alice", b"sesame open"), "{hash}");
            for wrong in [&b"sesame opeN"[..], b"", b"sesame open ", b"sesame open\0", b"\0sesame open"] {
                assert!(!file.verify("alice", wrong), "{hash} {wrong:?}");
            }
            assert!(!file.verify("bob", b"sesame open"), "{hash}");
            assert!(!file.verify("", b"sesame open"), "{hash}");
        }
    }

    #[test]
    fn apr1_of_unusual_lengths() {
        for (hash, password) in [
            ("$apr1$x$tMwYqBfQwi3FYAr0aJc8M/", ""),
            ("$apr1$abcdefgh$iIr1R/NwhfCuuLvO5Mqjb.", "a much longer password, of more than sixteen bytes"),
        ] {
            let (file, _) = Htpasswd::parse(format!("u:{hash}").as_bytes());
            assert!(file.verify("u", password.as_bytes()), "{hash}");
        }
    }

    #[test]
    fn bad_61_malformed_lines_are_skipped_by_name() {
        let table = [
            ("alice", "no colon"),
            (":$apr1$Abc12345$/jbZkPsnPdB9XKE6VPZ53/", "no user"),
            ("a:", "empty hash"),
            ("a:sx/V7p/uV93V.", "DES-crypt"),
            ("a:sesame", "plain text"),
            ("a:$1$Abc12345$/jbZkPsnPdB9XKE6VPZ53/", "unknown hash"),
            ("a:{SSHA}udxrLVIvrjOzqwtjo2u0x3ZBNcU=", "unknown hash"),
            ("a:{SHA}udxrLVIv", "malformed {SHA}"),
            ("a:$2y$05$YFyGXPGUwIcTVpNurpJnBOtMbvkg4g0MzFM7RJVtL5ppItArVHLK", "malformed bcrypt"),
            ("a:$2y$31$YFyGXPGUwIcTVpNurpJnBOtMbvkg4g0MzFM7RJVtL5ppItArVHLKa", "cost 31"),
            ("a:$apr1$Abc12345$/jbZkPsnPdB9XKE6VPZ53z", "malformed apr1"),
            ("a:$apr1$Abc12345", "malformed apr1"),
            ("a:$5$Abc12345$short", "malformed SHA-crypt"),
            ("a:$5$rounds=9$Abc12345$qOXdxkRwUM0zLj9CvYfoYhItKO2kRL6tTauBUz4.ymA", "rounds"),
            ("a:$6$rounds=999999999$Abc12345$x", "rounds"),
        ];
        for (line, word) in table {
            let (file, refused) = Htpasswd::parse(format!("# comment\n\n{line}\n").as_bytes());
            assert!(file.is_empty(), "{line}");
            assert_eq!(refused.len(), 1, "{line}");
            assert!(refused[0].starts_with("line 3: ") && refused[0].contains(word), "{line}: {refused:?}");
            assert!(!file.verify("a", b"sesame"));
        }
        let (file, refused) = Htpasswd::parse(b"a:\xff\nb:{SHA}udxrLVIvrjOzqwtjo2u0x3ZBNcU=:remark\n");
        assert_eq!(refused, ["line 1: not UTF-8"]);
        assert!(file.verify("b", b"sesame open"));
    }

    #[test]
    fn bad_60_an_unknown_user_is_measured_against_the_kind_most_used() {
        let text = format!("a:{}\nb:{}\nc:{}\n", REAL[7], REAL[1], REAL[9]);
        let (file, _) = Htpasswd::parse(text.as_bytes());
        assert!(matches!(&file.dummy, Some(Hash::Sha(hash)) if hash.starts_with("$5$")));
    }

    #[test]
    fn bad_60_every_refusal_costs_the_same() {
        let (file, _) = Htpasswd::parse(format!("alice:{}", REAL[1]).as_bytes());
        let cost = |user: &str, password: &[u8]| {
            let once = |_| {
                // Of this thread: what others do meanwhile is none of it.
                let start = thread_cpu_ns();
                assert!(!file.verify(user, password));
                thread_cpu_ns() - start
            };
            (0..9).map(once).min().unwrap_or_default()
        };
        let known = cost("alice", b"wrong guess");
        for (user, password) in
            [("bob", &b"wrong guess"[..]), ("alice", b"wrong\0guess"), ("alice", &[b'x'; 10_000]), ("", b"")]
        {
            let other = cost(user, password);
            assert!(other < known * 2 && known < other * 2, "{user}: {other} ns, known: {known} ns");
        }
    }

    #[test]
    fn bad_60_bcrypt_is_not_half_checked() {
        let password = [b'x'; 80];
        let hash = bcrypt::hash(&password[..72], 4).unwrap_or_default();
        let (file, _) = Htpasswd::parse(format!("a:{hash}").as_bytes());
        assert!(file.verify("a", &password[..72]));
        assert!(!file.verify("a", &password[..73]));
        let (file, _) = Htpasswd::parse(b"a:{SHA}udxrLVIvrjOzqwtjo2u0x3ZBNcU=");
        assert!(!file.verify("a", &[b'x'; MAX_PASSWORD + 1]));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_a_file(text: Vec<u8>, hash in "[$]?(apr1|5|6|2y)[$](rounds=[0-9]{1,9}[$])?[./a-zA-Z0-9$\\u{e9}]{0,90}") {
            let _ = Htpasswd::parse(&text);
            let _ = Htpasswd::parse(format!("a:{hash}").as_bytes());
        }
    }
}
