//! A password file, and a login against it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use etherws::control::htpasswd::{Htpasswd, MAX_PASSWORD};
use sha1::{Digest, Sha1};

/// USER, NUL, PASSWORD, NUL, and the file.
pub fn run(data: &[u8]) {
    let mut parts = data.splitn(3, |byte| *byte == 0);
    let (Some(user), Some(password), Some(file)) = (parts.next(), parts.next(), parts.next()) else { return };
    let (parsed, refused) = Htpasswd::parse(file);
    let lines = file.split(|byte| *byte == b'\n').count();
    assert!(refused.len() <= lines);
    for why in &refused {
        let (number, why) = why.strip_prefix("line ").and_then(|why| why.split_once(": ")).expect("a place");
        assert!((1..=lines).contains(&number.parse().expect("a number")) && !why.contains('\n'), "{why}");
    }
    let Ok(user) = std::str::from_utf8(user) else { return };
    if !is_dear(file) {
        let good = parsed.verify(user, password);
        let has_line =
            file.split(|byte| *byte == b'\n').any(|line| line.trim_ascii().starts_with(user.as_bytes()));
        assert!(!good || has_line && password.len() <= MAX_PASSWORD);
        assert!(!parsed.verify("\u{1}nobody", password) && !parsed.verify("", password));
    }

    // The last line of a user counts, and his password is that one and no other.
    if user.is_empty() || user.starts_with('#') || user.contains([':', '\n']) || user.trim_ascii() != user {
        return;
    }
    let line = format!("\n{user}:{{SHA}}{}\n", STANDARD.encode(Sha1::digest(password)));
    let (parsed, more) = Htpasswd::parse(&[file, line.as_bytes()].concat());
    assert!(!parsed.is_empty() && more == refused, "{refused:?} {more:?}");
    assert_eq!(parsed.verify(user, password), password.len() <= MAX_PASSWORD);
    assert!(!parsed.verify(user, &[password, b"x"].concat()));
    assert!(!parsed.verify(user, &[password, b"\0"].concat()), "a NUL ends nothing");
}

/// Whether checking it may take longer than a fuzzer has.
fn is_dear(file: &[u8]) -> bool {
    let text = String::from_utf8_lossy(file);
    let bcrypt = ["$2a$", "$2b$", "$2y$"];
    let cheap =
        |hash: &str| bcrypt.iter().all(|kind| hash.split(kind).skip(1).all(|rest| rest.starts_with("04$")));
    text.contains("rounds=") || !text.lines().all(cheap)
}
