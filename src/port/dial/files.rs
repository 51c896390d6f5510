//! Files that link options name: read anew at each dial, bounded, and never shown in an error.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use zeroize::Zeroizing;

use crate::sys::credential::located;
use crate::sys::sandbox::{Want, hint};

/// The first line of a file, without its end. The error names `what` and the path.
pub(super) fn first_line(what: &str, path: &Path) -> Result<Zeroizing<String>, String> {
    let bytes = read(what, path)?;
    let line = bytes.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    match std::str::from_utf8(line) {
        Ok("") => Err(format!("{what} {}: the first line is empty", path.display())),
        Ok(line) => Ok(Zeroizing::new(line.to_owned())),
        Err(_) => Err(format!("{what} {}: the first line is not UTF-8", path.display())),
    }
}

/// PEM given as text or as a path. Returns the bytes and how to name them in an error.
pub(super) fn pem(what: &str, source: &str) -> Result<(Zeroizing<Vec<u8>>, String), String> {
    if source.contains("-----BEGIN ") {
        return Ok((Zeroizing::new(source.as_bytes().to_vec()), format!("the {what} given as text")));
    }
    if source.contains('\n') {
        // Content, not a path: never echoed.
        return Err(format!("the {what} given as text is not PEM"));
    }
    let path = Path::new(source);
    Ok((read(what, path)?, format!("{what} {}", path.display())))
}

/// The whole file. Regular files only: a pipe could keep a dial, and a thread, for ever.
fn read(what: &str, path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let fail = |why: &str| format!("could not read {what} {}: {why}", path.display());
    let located = located(path);
    let io_fail = |error: io::Error| fail(&(super::plain(&error) + &hint(&located, &error, Want::Read)));
    let metadata = std::fs::metadata(&located).map_err(io_fail)?;
    if !metadata.is_file() {
        return Err(fail("not a regular file"));
    }
    let mut bytes = Zeroizing::new(Vec::new());
    File::open(&located).and_then(|file| file.take(LIMIT + 1).read_to_end(&mut bytes)).map_err(io_fail)?;
    if bytes.len() as u64 > LIMIT {
        return Err(fail("longer than 1 MiB"));
    }
    Ok(bytes)
}

/// The longest file; the bundle of all public authorities has a quarter of it.
const LIMIT: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_alone() {
        let dir = std::env::temp_dir().join(format!("etherws-files-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("password");
        for (content, line) in [("s3cret\nmore", "s3cret"), ("s3cret", "s3cret"), ("s3 cret\r\n", "s3 cret")]
        {
            std::fs::write(&path, content).unwrap();
            assert_eq!(first_line("password file", &path).map(|line| line.to_string()).as_deref(), Ok(line));
        }
        std::fs::write(&path, "\nx").unwrap();
        assert!(first_line("password file", &path).unwrap_err().contains("first line is empty"));
        std::fs::remove_dir_all(&dir).unwrap();
        let error = first_line("password file", &path).unwrap_err();
        assert!(error.contains("password") && error.contains("no such file"), "{error}");
        let error = first_line("password file", Path::new("/dev/zero")).unwrap_err();
        assert!(error.contains("not a regular file"), "{error}");
    }

    #[test]
    fn bad_57_text_that_is_no_pem_is_not_echoed() {
        let error = pem("cacerts", "root:hash\nother").unwrap_err();
        assert!(!error.contains("hash"), "{error}");
    }
}
