//! `Etherws-Link`, the field of a handshake by which a connection becomes one of several of one link, or takes the place
//! of one that broke.
//!
//! ```text
//! GET   Etherws-Link: new; members=4
//! 101   Etherws-Link: id=<32 hex>; secret=<64 hex>; members=4; resume=30
//!
//! GET   Etherws-Link: join=<id>; member=2; n=1; after=lost; proof=<64 hex>
//! 101   Etherws-Link: joined
//! ```
//!
//! `n` grows with every try of a member; `after=live` says that the connection whose place is taken still works, and ends
//! with a Close. The proof is HMAC-SHA256 under the secret of `etherws-link join`, the id, `n` (8 bytes, network order),
//! member, `after` (1: live; a byte each) and `Sec-WebSocket-Key`. Who does not know the field ignores it, and the link has
//! one connection.

use std::time::Duration;

use aws_lc_rs::hmac;
use http::{HeaderMap, HeaderName, HeaderValue};
use zeroize::Zeroizing;

pub const FIELD: HeaderName = HeaderName::from_static("etherws-link");
/// Connections of a link, at most.
pub const MOST: u8 = 16;
/// What the answer to a join says.
pub const JOINED: &str = "joined";

/// Which link.
pub type Id = [u8; 16];

/// Which of a link's connections, as both its ends call it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Which {
    /// Its place; 0 is the first.
    pub member: u8,
    /// The `n` that it joined by; 0: the one that the link began with.
    pub n: u32,
}

/// Who has it may join: wiped from memory where it is dropped.
pub type Secret = Zeroizing<[u8; 32]>;

/// What a client asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Asked {
    /// A link that may have so many connections, and that a connection may come back to.
    New {
        members: u8,
    },
    Join(Join),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Join {
    pub id: Id,
    /// Whose place this connection takes, and the try that it is.
    pub which: Which,
    /// The connection before it still works.
    pub live: bool,
    pub proof: [u8; 32],
}

/// What a server grants to a new link.
#[derive(Clone)]
pub struct Terms {
    pub id: Id,
    pub secret: Secret,
    /// Connections at most, this one counted.
    pub members: u8,
    /// How long it waits for a link without a connection; whole seconds.
    pub resume: Duration,
}

/// Whether an answer says that the connection has joined.
pub fn has_joined(fields: &HeaderMap) -> bool {
    fields.get(&FIELD).is_some_and(|value| value == JOINED)
}

/// The field stands there and says nothing that makes sense.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed;

impl Asked {
    /// What a request asks for, if it has the field.
    pub fn of(fields: &HeaderMap) -> Result<Option<Self>, Malformed> {
        let mut values = fields.get_all(&FIELD).iter();
        let Some(value) = values.next() else { return Ok(None) };
        let parts = Parts::of(value).filter(|_| values.next().is_none()).ok_or(Malformed)?;
        if parts.has("new") {
            let members = parts.number("members").ok_or(Malformed)?;
            return Ok(Some(Self::New { members: u8::try_from(members).unwrap_or(u8::MAX) }));
        }
        parts.join().map(|join| Some(Self::Join(join))).ok_or(Malformed)
    }

    pub fn value(&self) -> String {
        match self {
            Self::New { members } => format!("new; members={members}"),
            Self::Join(Join { id, which: Which { member, n }, live, proof }) => {
                let after = if *live { "live" } else { "lost" };
                format!("join={}; member={member}; n={n}; after={after}; proof={}", hex(id), hex(proof))
            }
        }
    }
}

impl Join {
    /// `key` is the request's `Sec-WebSocket-Key`.
    pub fn new(terms: &Terms, which: Which, live: bool, key: &str) -> Self {
        let mut join = Self { id: terms.id, which, live, proof: [0; 32] };
        let proof = hmac::sign(&signing(&terms.secret), &join.signed(key));
        join.proof.copy_from_slice(proof.as_ref());
        join
    }

    /// Whether who asks has the secret; takes the same time whatever is wrong.
    pub fn is_proven(&self, secret: &[u8; 32], key: &str) -> bool {
        hmac::verify(&signing(secret), &self.signed(key), &self.proof).is_ok()
    }

    fn signed(&self, key: &str) -> Vec<u8> {
        let Which { member, n } = self.which;
        let (n, flags) = (u64::from(n).to_be_bytes(), [member, self.live.into()]);
        [b"etherws-link join", &self.id[..], &n, &flags, key.as_bytes()].concat()
    }
}

fn signing(secret: &[u8; 32]) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, secret)
}

impl Terms {
    /// What an answer grants; nothing of one that makes no sense.
    pub fn of(fields: &HeaderMap) -> Option<Self> {
        let parts = Parts::of(fields.get(&FIELD)?)?;
        let members = u8::try_from(parts.number("members")?).ok().filter(|n| (1..=MOST).contains(n))?;
        let secret = Zeroizing::new(unhex(parts.get("secret")?)?);
        let resume = Duration::from_secs(parts.number("resume")?.min(MAX_RESUME));
        Some(Self { id: unhex(parts.get("id")?)?, secret, members, resume })
    }

    pub fn value(&self) -> Zeroizing<String> {
        let secret = Zeroizing::new(hex(&*self.secret));
        let (id, members, resume) = (hex(&self.id), self.members, self.resume.as_secs());
        Zeroizing::new(format!("id={id}; secret={}; members={members}; resume={resume}", *secret))
    }
}

/// Never the secret.
impl std::fmt::Debug for Terms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (members, resume) = (self.members, self.resume);
        f.debug_struct("Terms").field("members", &members).field("resume", &resume).finish_non_exhaustive()
    }
}

/// Words and `name=value`, with semicolons between. Names that are not known are for later versions.
struct Parts<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Parts<'a> {
    fn of(value: &'a HeaderValue) -> Option<Self> {
        let text = value.to_str().ok().filter(|text| text.len() <= LONGEST)?;
        let parts = text.split(';').map(|part| part.split_once('=').unwrap_or((part, "")));
        Some(Self(parts.map(|(name, value)| (name.trim(), value.trim())).collect()))
    }

    fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// What stands there once.
    fn get(&self, name: &str) -> Option<&'a str> {
        let mut all = self.0.iter().filter(|(other, _)| *other == name);
        all.next().filter(|_| all.next().is_none()).map(|(_, value)| *value)
    }

    /// Digits and nothing else.
    fn number(&self, name: &str) -> Option<u64> {
        self.get(name).filter(|text| text.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()
    }

    fn join(&self) -> Option<Join> {
        Some(Join {
            id: unhex(self.get("join")?)?,
            which: Which {
                member: u8::try_from(self.number("member")?).unwrap_or(u8::MAX),
                n: self.number("n")?.try_into().ok()?,
            },
            live: match self.get("after")? {
                "live" => true,
                "lost" => false,
                _ => return None,
            },
            proof: unhex(self.get("proof")?)?,
        })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Lower-case digits for so many bytes.
fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |digit: &u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    let pairs = text.as_bytes().as_chunks::<2>();
    if pairs.0.len() != N || !pairs.1.is_empty() {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs.0) {
        *byte = digit(high)? << 4 | digit(low)?;
    }
    Some(bytes)
}

/// Of a field's value.
const LONGEST: usize = 512;
/// Seconds that a client believes a server to wait.
const MAX_RESUME: u64 = 3600;

#[cfg(test)]
mod tests {
    use super::*;

    fn terms() -> Terms {
        let secret = Zeroizing::new([7; 32]);
        Terms { id: [0xab; 16], secret, members: 4, resume: Duration::from_secs(30) }
    }

    fn fields(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(FIELD, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn what_is_written_is_read_back() {
        let got = Terms::of(&fields(&terms().value())).unwrap();
        assert_eq!((got.id, *got.secret, got.members, got.resume), ([0xab; 16], [7; 32], 4, terms().resume));
        let join = Join::new(&terms(), Which { member: 3, n: 9 }, true, "key");
        for asked in [Asked::New { members: 4 }, Asked::Join(join)] {
            assert_eq!(Asked::of(&fields(&asked.value())), Ok(Some(asked)));
        }
        assert_eq!(Asked::of(&HeaderMap::new()), Ok(None));
        assert!(!format!("{:?}", terms()).contains('7'));
    }

    #[test]
    fn bad_78_a_proof_is_for_one_secret_one_key_and_all_that_it_says() {
        let which = Which { member: 3, n: 9 };
        let join = Join::new(&terms(), which, false, "key");
        assert!(join.is_proven(&[7; 32], "key"));
        assert!(!join.is_proven(&[8; 32], "key") && !join.is_proven(&[7; 32], "another"));
        for forged in [
            Join { id: [0xac; 16], ..join.clone() },
            Join { which: Which { member: 2, ..which }, ..join.clone() },
            Join { which: Which { n: 10, ..which }, ..join.clone() },
            Join { live: true, ..join.clone() },
            Join { proof: [0; 32], ..join.clone() },
        ] {
            assert!(!forged.is_proven(&[7; 32], "key"), "{forged:?}");
        }
    }

    #[test]
    fn bad_78_what_makes_no_sense_is_malformed() {
        let good = Asked::Join(Join::new(&terms(), Which { member: 3, n: 9 }, false, "key")).value();
        for bad in [
            String::new(),
            "new".to_owned(),
            "new; members=-1".to_owned(),
            "new; members=1; members=2".to_owned(),
            "join=ab".to_owned(),
            good.replace("abab", "ab"),
            good.replace("abab", "ABAB"),
            good.replace("n=9", "n=+9"),
            good.replace("n=9", "n=4294967296"),
            good.replace("n=9", "n=99999999999999999999"),
            good.replace("lost", "dead"),
            good.replace("; proof", "; prof"),
            format!("{good}; {}", "x".repeat(600)),
        ] {
            assert_eq!(Asked::of(&fields(&bad)), Err(Malformed), "{bad}");
        }
        let mut twice = fields(&good);
        twice.append(FIELD, HeaderValue::from_static("new; members=1"));
        assert_eq!(Asked::of(&twice), Err(Malformed));
        assert!(Asked::of(&fields(&format!("{good}; later=1"))).unwrap().is_some());
        for bad in ["joined", "id=00; secret=00; members=4; resume=30", ""] {
            assert!(Terms::of(&fields(bad)).is_none(), "{bad}");
        }
        assert!(Terms::of(&fields(&terms().value().replace("members=4", "members=17"))).is_none());
    }
}
