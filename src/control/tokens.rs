//! Bearer tokens: a file with `NAME TOKEN` a line, for clients that cannot type a password. Tokens are kept
//! and compared as keyed hashes, so that neither memory nor timing shows one.

use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::crypto::tls13::OkmBlock;
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

/// Shortest token taken: anything shorter can be guessed.
pub const MIN_TOKEN: usize = 16;

/// A random key for HMAC-SHA-256, new in every run.
#[derive(Clone)]
pub struct Key([u8; 32]);

impl Key {
    pub fn random() -> Result<Self, String> {
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(|e| format!("no random numbers from the kernel: {e}"))?;
        Ok(Self(key))
    }

    pub fn hash(&self, message: &[u8]) -> [u8; 32] {
        // rustls' provider has HMAC-SHA-256 at hand as a part of HKDF.
        let mut out = [0; 32];
        if let Some(suite) = TLS13_AES_128_GCM_SHA256.tls13() {
            let tag = suite.hkdf_provider.hmac_sign(&OkmBlock::new(&self.0), message);
            out.copy_from_slice(tag.as_ref());
        }
        out
    }
}

/// The tokens of one file.
pub struct Tokens {
    key: Key,
    entries: Vec<(String, [u8; 32])>,
}

impl Tokens {
    /// Reads the file's text. Lines that cannot be used are skipped and named in the second value.
    pub fn parse(text: &[u8], key: &Key) -> (Self, Vec<String>) {
        let mut entries = Vec::new();
        let mut refused = Vec::new();
        for (index, line) in text.split(|&b| b == b'\n').enumerate() {
            let Ok(line) = std::str::from_utf8(line) else {
                refused.push(format!("line {}: not UTF-8", index + 1));
                continue;
            };
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                [] => {}
                [first, ..] if first.starts_with('#') => {}
                [name, token] if token.len() >= MIN_TOKEN => {
                    entries.push((name.to_owned(), key.hash(token.as_bytes())));
                }
                [_, _] => {
                    refused.push(format!("line {}: token shorter than {MIN_TOKEN} characters", index + 1));
                }
                _ => refused.push(format!("line {}: not NAME TOKEN", index + 1)),
            }
        }
        (Self { key: key.clone(), entries }, refused)
    }

    /// A single token, of the name given.
    pub fn single(name: &str, token: &str, key: &Key) -> Self {
        Self { key: key.clone(), entries: vec![(name.to_owned(), key.hash(token.as_bytes()))] }
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The name that `token` belongs to. Looks at every entry, whichever matches.
    pub fn find(&self, token: &[u8]) -> Option<&str> {
        let hash = self.key.hash(token);
        let mut found = u32::MAX;
        for (index, (_, entry)) in (0u32..).zip(&self.entries) {
            let matches: Choice = hash.ct_eq(entry);
            found = u32::conditional_select(&found, &index, matches);
        }
        self.entries.get(usize::try_from(found).ok()?).map(|(name, _)| name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hmac_is_keyed_and_deterministic() {
        let (a, b) = (Key([1; 32]), Key([2; 32]));
        assert_eq!(a.hash(b"x"), a.hash(b"x"));
        assert_ne!(a.hash(b"x"), b.hash(b"x"));
        assert_ne!(a.hash(b"x"), a.hash(b"y"));
        // RFC 4231, test case 2 pads its key with zeros as HMAC does.
        let mut jefe = [0; 32];
        jefe[..4].copy_from_slice(b"Jefe");
        assert_eq!(Key(jefe).hash(b"what do ya want for nothing?")[..4], [0x5b, 0xdc, 0xc1, 0x46]);
    }

    #[test]
    fn finds_names_and_reports_lines() {
        let key = Key([7; 32]);
        let text =
            b"# browsers\nanna 0123456789abcdef\nben  fedcba9876543210\nshort 1234\nthree words here\n\xff\n";
        let (tokens, refused) = Tokens::parse(text, &key);
        assert_eq!(tokens.find(b"0123456789abcdef"), Some("anna"));
        assert_eq!(tokens.find(b"fedcba9876543210"), Some("ben"));
        for wrong in [&b""[..], b"1234", b"0123456789abcde", b"0123456789abcdefg"] {
            assert_eq!(tokens.find(wrong), None);
        }
        assert_eq!(
            refused,
            ["line 4: token shorter than 16 characters", "line 5: not NAME TOKEN", "line 6: not UTF-8"]
        );
        assert!(Tokens::parse(b"", &key).0.is_empty());
    }
}
