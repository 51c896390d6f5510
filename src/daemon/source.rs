//! A TOML file read key by key, so that every mistake is found in one go and each is told with file,
//! line, column, key and, where a known key is near, a "did you mean".

use std::cell::RefCell;
use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::read;

/// The text of a configuration file and the mistakes found in it so far.
pub struct Source<'a> {
    file: &'a str,
    text: &'a str,
    errors: RefCell<BTreeMap<(usize, usize), String>>,
}

impl<'a> Source<'a> {
    /// `file` is how messages call it.
    pub fn new(file: &'a str, text: &'a str) -> Self {
        Self { file, text, errors: RefCell::default() }
    }

    /// The top table; `None` after a syntax error.
    pub fn parse(&self) -> Option<Spanned<DeTable<'a>>> {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        for error in &errors {
            let offset = error.span().map_or(self.text.len(), |span| span.start);
            self.error(offset, error.message().lines().collect::<Vec<_>>().join(", "));
        }
        errors.is_empty().then_some(table)
    }

    /// `FILE:LINE:COLUMN` of a byte offset; columns count characters.
    pub fn place(&self, offset: usize) -> String {
        let before = self.text.get(..offset.min(self.text.len())).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        format!("{}:{line}:{column}", self.file)
    }

    pub fn error(&self, offset: usize, text: impl std::fmt::Display) {
        let mut errors = self.errors.borrow_mut();
        let key = (offset, errors.len());
        errors.insert(key, format!("{}: {text}", self.place(offset)));
    }

    /// Every mistake, in the file's order.
    pub fn into_errors(self) -> Vec<String> {
        self.errors.into_inner().into_values().collect()
    }
}

/// A table with the keys it may have.
pub struct Table<'s, 'i> {
    source: &'s Source<'i>,
    /// How messages call the table: `listen`, `port`; empty for the top.
    path: &'static str,
    map: &'s DeTable<'i>,
    start: usize,
}

impl<'s, 'i> Table<'s, 'i> {
    /// Keys other than `keys` are reported.
    pub fn new(
        source: &'s Source<'i>,
        path: &'static str,
        map: &'s DeTable<'i>,
        start: usize,
        keys: &[&str],
    ) -> Self {
        let table = Self { source, path, map, start };
        for key in map.keys() {
            let name: &str = key.get_ref();
            if !keys.contains(&name) {
                let hint = match (read::part_with(path, name), nearest(name, keys)) {
                    (Some(part), _) => format!("it stands in {part}: {part} = {{ {name} = ... }}"),
                    (None, Some(near)) => format!("did you mean {near:?}?"),
                    (None, None) => format!("valid keys here: {}", keys.join(", ")),
                };
                source.error(key.span().start, format!("{}: unknown key; {hint}", table.name(name)));
            }
        }
        table
    }

    /// The value, or `None` when the key is absent or (then reported) its value is of the wrong kind.
    pub fn read<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        let value = self.map.get(key)?;
        match T::deserialize(ValueDeserializer::from(value.clone())) {
            Ok(value) => Some(value),
            Err(error) => {
                let offset = error.span().map_or(value.span().start, |span| span.start);
                self.source.error(offset, format!("{}: {}", self.name(key), error.message()));
                None
            }
        }
    }

    /// As [`read`](Self::read), for a key that must be there.
    pub fn require<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        if !self.map.contains_key(key) {
            self.source.error(self.start, format!("{}: missing", self.name(key)));
        }
        self.read(key)
    }

    /// An array of strings, each turned into a `T`.
    pub fn read_each<T>(&self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<Vec<T>> {
        let texts: Vec<Spanned<String>> = self.read(key)?;
        let one = |text: &Spanned<String>| {
            parse(text.get_ref())
                .map_err(|why| self.source.error(text.span().start, format!("{}: {why}", self.name(key))))
                .ok()
        };
        Some(texts.iter().filter_map(one).collect())
    }

    pub fn table(&self, key: &str, path: &'static str, keys: &[&str]) -> Option<Table<'s, 'i>> {
        let value = self.map.get(key)?;
        match value.get_ref() {
            DeValue::Table(map) => Some(Table::new(self.source, path, map, value.span().start, keys)),
            other => {
                let text =
                    format!("{}: expected a table, [{path}], found {}", self.name(key), other.type_str());
                self.source.error(value.span().start, text);
                None
            }
        }
    }

    /// The tables of `[[key]]`.
    pub fn tables(&self, key: &'static str, keys: &[&str]) -> Vec<Table<'s, 'i>> {
        let Some(value) = self.map.get(key) else { return Vec::new() };
        let items = match value.get_ref() {
            DeValue::Array(items) => items.iter().collect(),
            // `[port]` for `[[port]]` is the likeliest slip of all.
            _ => vec![value],
        };
        let mut tables = Vec::new();
        for item in items {
            match item.get_ref() {
                DeValue::Table(map) if !std::ptr::eq(item, value) => {
                    tables.push(Table::new(self.source, key, map, item.span().start, keys));
                }
                _ => self.source.error(item.span().start, format!("{key}: expected tables; write [[{key}]]")),
            }
        }
        tables
    }

    /// Where a key stands; the table's own place when it is absent.
    pub fn offset(&self, key: &str) -> usize {
        self.map.get_key_value(key).map_or(self.start, |(key, _)| key.span().start)
    }

    pub fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    pub fn error(&self, key: &str, text: impl std::fmt::Display) {
        self.source.error(self.offset(key), format!("{}: {text}", self.name(key)));
    }

    /// `FILE:LINE:COLUMN: table.key`
    pub fn place(&self, key: &str) -> String {
        format!("{}: {}", self.source.place(self.offset(key)), self.name(key))
    }

    fn name(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

/// The valid word that `word` was probably meant to be.
pub fn nearest<'k>(word: &str, valid: &[&'k str]) -> Option<&'k str> {
    let word = word.to_lowercase();
    let score = |key: &str| strsim::jaro_winkler(&word, key);
    let best = valid.iter().copied().max_by(|a, b| score(a).total_cmp(&score(b)))?;
    (score(best) >= 0.75).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_offered_and_far_ones_are_not() {
        let keys = ["ageout", "fdb_limit", "threads", "ping", "prof", "log"];
        for (word, near) in [
            ("age_out", Some("ageout")),
            ("fdblimit", Some("fdb_limit")),
            ("Threads", Some("threads")),
            ("xyzzy", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, &keys), near, "{word}");
        }
    }

    #[test]
    fn places_count_lines_and_characters() {
        let source = Source::new("f", "a\nöb = 1\n");
        assert_eq!(source.place(0), "f:1:1");
        assert_eq!(source.place(2 + 'ö'.len_utf8()), "f:2:2");
        assert_eq!(source.place(999), "f:3:1");
    }

    #[test]
    fn several_syntax_errors_are_all_told() {
        let source = Source::new("f", "a = \nb = 1\nc = [\n");
        assert!(source.parse().is_none());
        let errors = source.into_errors();
        assert!(errors.len() >= 2 && errors[0].starts_with("f:1:"), "{errors:?}");
    }
}
