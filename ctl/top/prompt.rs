//! The line at the bottom that is being typed, and what is found with it.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use regex::Regex;

/// A line being typed. The cursor is always at its end.
#[derive(Clone, Default, Debug)]
pub struct Prompt {
    pub text: String,
}

/// What a key did to it.
#[derive(PartialEq, Eq, Debug)]
pub enum Typed {
    More,
    /// Enter.
    Done,
    /// Esc, or a step back before the beginning.
    Cancelled,
}

impl Prompt {
    pub fn key(&mut self, key: KeyEvent) -> Typed {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Enter => return Typed::Done,
            KeyCode::Esc => return Typed::Cancelled,
            KeyCode::Char('c' | 'g') if control => return Typed::Cancelled,
            KeyCode::Char('u') if control => self.text.clear(),
            KeyCode::Backspace if self.text.pop().is_none() => return Typed::Cancelled,
            KeyCode::Char(c) if !control && self.text.len() < LIMIT => self.text.push(c),
            _ => {}
        }
        Typed::More
    }
}

/// What a line must have in it; a pattern without capitals does not tell them apart.
#[derive(Clone, Debug)]
pub struct Filter {
    pub text: String,
    pattern: Regex,
}

impl Filter {
    /// A regular expression; what is none is looked for as it stands. Nothing typed is no filter.
    pub fn of(text: &str) -> Option<Self> {
        let pattern = Regex::new(text).or_else(|_| Regex::new(&regex::escape(text))).ok()?;
        (!text.is_empty()).then(|| Self { text: text.into(), pattern })
    }

    pub fn finds(&self, line: &str) -> bool {
        match self.text.chars().any(char::is_uppercase) {
            true => self.pattern.is_match(line),
            false => self.pattern.is_match(&line.to_lowercase()),
        }
    }
}

/// Characters that are enough for a pattern.
const LIMIT: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_typed() {
        let mut prompt = Prompt::default();
        for c in "tx.x".chars() {
            assert_eq!(prompt.key(KeyCode::Char(c).into()), Typed::More);
        }
        prompt.key(KeyCode::Backspace.into());
        assert_eq!(prompt.key(KeyCode::Enter.into()), Typed::Done);
        assert_eq!(prompt.text, "tx.");
        prompt.key(KeyEvent::new(KeyCode::Char('u'), KeyModifiers::CONTROL));
        assert_eq!(prompt.key(KeyCode::Backspace.into()), Typed::Cancelled);
        assert_eq!(prompt.key(KeyCode::Esc.into()), Typed::Cancelled);
    }

    #[test]
    fn patterns_and_plain_words() {
        for (pattern, line, found) in [
            ("^tx", "tx.ws.mask", true),
            ("^tx", "sw.flood;tx.ws.mask", false),
            ("mask|parse", "Tx.Ws.Mask", true),
            ("MASK|parse", "tx.ws.mask", false),
            ("mask(", "tx.ws.mask", false),
            ("mask(", "a mask( b", true),
        ] {
            assert_eq!(Filter::of(pattern).unwrap().finds(line), found, "{pattern} {line}");
        }
        assert!(Filter::of("").is_none());
    }
}
