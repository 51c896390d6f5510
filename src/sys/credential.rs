//! Secrets that the service manager hands over as files (systemd.exec(5), LoadCredential=).

use std::borrow::Cow;
use std::path::{Component, Path, PathBuf};

/// Where a file is that a setting names: `credential:NAME` is NAME among the service's credentials. Anything else is
/// itself, as is this one outside a service that has credentials.
pub fn located(path: &Path) -> Cow<'_, Path> {
    let folder = std::env::var_os("CREDENTIALS_DIRECTORY").filter(|folder| !folder.is_empty());
    match (named(path), folder) {
        (Some(name), Some(folder)) => Cow::Owned(PathBuf::from(folder).join(name)),
        _ => Cow::Borrowed(path),
    }
}

/// The NAME of `credential:NAME`; a name and nothing that leads elsewhere.
fn named(path: &Path) -> Option<&str> {
    let name = path.to_str()?.strip_prefix("credential:")?;
    let mut parts = Path::new(name).components();
    let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
    plain.then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_nowhere_else() {
        assert_eq!(named(Path::new("credential:key.pem")), Some("key.pem"));
        for other in [
            "key.pem",
            "/credential:key",
            "credential:",
            "credential:../key",
            "credential:/key",
            "credential:a/b",
        ] {
            assert_eq!(named(Path::new(other)), None, "{other}");
        }
    }
}
