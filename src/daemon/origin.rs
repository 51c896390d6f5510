//! Where the configuration comes from, and where it is saved to.

use std::path::{Path, PathBuf};

use super::cli::Sw;
use super::config::{Config, Layer};
use super::{prof, read};

/// Why the daemon could not start.
#[derive(Debug)]
pub struct Failure {
    /// 2 for a mistake of the command line, 1 for the rest.
    pub code: u8,
    pub lines: Vec<String>,
}

impl Failure {
    pub fn usage(text: impl Into<String>) -> Self {
        Self { code: 2, lines: vec![text.into()] }
    }
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self { code: 1, lines: vec![text] }
    }
}

/// Where the configuration comes from, again at each reload.
#[derive(Clone, Debug)]
pub struct Origin {
    pub flags: Layer,
    /// `--config`
    file: Option<PathBuf>,
    /// `$STATE_DIRECTORY/etherws.toml`
    state: Option<PathBuf>,
    /// `--prof-dump`
    pub prof_dump: Option<PathBuf>,
}

impl Origin {
    pub fn new(sw: &Sw) -> Result<Self, Failure> {
        let prof_dump = prof::check(sw.prof_dump.as_deref()).map_err(|why| Failure::usage(&why))?;
        let state = std::env::var_os("STATE_DIRECTORY").and_then(|list| state_file(list.to_str()?));
        let rust_log = std::env::var("RUST_LOG").ok();
        Ok(Self { flags: sw.layer(rust_log), file: sw.config.clone(), state, prof_dump })
    }

    /// The file to be read: the one named, or the saved one when there is one.
    fn existing(&self) -> Option<&Path> {
        self.file.as_deref().or_else(|| self.state.as_deref().filter(|state| state.exists()))
    }

    /// The file to be saved to when none is named.
    pub fn own(&self) -> Option<&Path> {
        self.file.as_deref().or(self.state.as_deref())
    }

    pub fn load(&self) -> Result<Config, Failure> {
        let below = match self.existing() {
            Some(file) => read::file(file).map_err(|lines| Failure { code: 1, lines })?,
            None => Layer::default(),
        };
        self.flags.clone().over(below).resolve().map_err(|problems| Failure {
            code: if problems.iter().any(|problem| problem.is_usage()) { 2 } else { 1 },
            lines: problems.iter().map(ToString::to_string).collect(),
        })
    }
}

/// Whoever may control the switch names this file, and the daemon may be root: so nothing that a shell,
/// cron or the like would read.
pub fn may_save(path: &Path, own: Option<&Path>) -> Result<(), String> {
    if own == Some(path) || path.extension().is_some_and(|extension| extension == "toml") {
        return Ok(());
    }
    Err(format!("{}: not saved there: the name must end in .toml", path.display()))
}

/// systemd separates several directories by colons; the first is ours.
fn state_file(list: &str) -> Option<PathBuf> {
    let first = list.split(':').next().filter(|first| !first.is_empty())?;
    Some(Path::new(first).join("etherws.toml"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_file_is_in_the_first_directory() {
        assert_eq!(state_file("/var/lib/etherws"), Some("/var/lib/etherws/etherws.toml".into()));
        assert_eq!(state_file("/a:/b"), Some("/a/etherws.toml".into()));
        assert_eq!(state_file(""), None);
    }

    #[test]
    fn only_toml_files_are_written_or_the_own_one() {
        assert!(may_save(Path::new("/x/a.toml"), None).is_ok());
        assert!(may_save(Path::new("/x/a.conf"), Some(Path::new("/x/a.conf"))).is_ok());
        for path in ["/etc/cron.d/etherws", "/root/.profile", "/x/.toml", "a"] {
            assert!(may_save(Path::new(path), Some(Path::new("/x/a.toml"))).is_err(), "{path}");
        }
    }

    #[test]
    fn a_named_file_must_be_there_and_a_saved_one_need_not() {
        let missing = PathBuf::from("/nonexistent/etherws.toml");
        let mut origin =
            Origin { flags: Layer::default(), file: None, state: Some(missing.clone()), prof_dump: None };
        assert!(origin.load().is_ok());
        assert_eq!(origin.own(), Some(missing.as_path()));
        origin.file = Some(missing);
        let failure = origin.load().unwrap_err();
        assert!(
            failure.code == 1 && failure.lines[0].starts_with("/nonexistent/etherws.toml: "),
            "{failure:?}"
        );
        assert!(failure.lines[0].ends_with("; it may be empty, but has to be there"), "{failure:?}");
    }
}
