//! Unix sockets to listen on.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;

use super::sandbox::{Want, hint};

/// A listening Unix socket; its file goes away with it.
pub struct UnixSocket {
    pub path: PathBuf,
    pub listener: UnixListener,
    /// Device and inode: a file that another process has put in its place is not ours to remove.
    identity: (u64, u64),
}

impl UnixSocket {
    /// A file left behind is replaced when nobody answers on it. `mode`: what the new one is to have, said when it is there
    /// and can be given away. `place`: where another path can be named, for messages.
    pub fn listen(path: &Path, mode: impl FnOnce(&Path) -> u32, place: &str) -> Result<Self, String> {
        let fail = |e: io::Error| {
            let hint = hint(path, &e, Want::Write);
            format!("could not listen on {}: {e}{hint}; name another socket {place}", path.display())
        };
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(|e| {
                format!(
                    "could not create {}: {e}{}; name another socket {place}",
                    parent.display(),
                    hint(path, &e, Want::Write)
                )
            })?;
        }
        remove_stale(path, place)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None).map_err(fail)?;
        socket.bind(&SockAddr::unix(path).map_err(fail)?).map_err(fail)?;
        // Nobody can connect before listen(), so the mode is right from the first moment.
        let prepared = fs::set_permissions(path, fs::Permissions::from_mode(mode(path)))
            .and_then(|()| fs::symlink_metadata(path))
            .and_then(|meta| socket.listen(BACKLOG).map(|()| (meta.dev(), meta.ino())))
            .and_then(|identity| Ok((identity, UnixListener::from_std(socket.into())?)));
        match prepared {
            Ok((identity, listener)) => Ok(Self { path: path.to_owned(), listener, identity }),
            Err(e) => {
                let _ = fs::remove_file(path);
                Err(fail(e))
            }
        }
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|meta| (meta.dev(), meta.ino()) == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn remove_stale(path: &Path, place: &str) -> Result<(), String> {
    let shown = path.display();
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(format!("could not look at {shown}: {e}")),
    };
    if !meta.file_type().is_socket() {
        return Err(format!("{shown} exists and is not a socket; name another {place}"));
    }
    let connected = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)
        .and_then(|probe| probe.connect(&SockAddr::unix(path)?));
    match connected {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(|e| {
            format!("could not remove the stale socket {shown}: {e}{}", hint(path, &e, Want::Write))
        }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        // A full backlog is somebody, too.
        Ok(()) | Err(_) => {
            Err(format!("another switch answers on {shown}; stop it, or name another socket {place}"))
        }
    }
}

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn unix_socket_replaces_the_stale_and_respects_the_living() -> Result<(), Box<dyn std::error::Error>>
    {
        let dir = std::env::temp_dir().join(format!("etherws-unix-{}", std::process::id()));
        let path = dir.join("deep/ctl.sock");
        let listen = || UnixSocket::listen(&path, |_| 0o640, "elsewhere");
        let first = listen()?;
        assert_eq!(fs::metadata(&path)?.permissions().mode() & 0o777, 0o640);
        let error = listen().err().unwrap_or_default();
        assert!(error.contains("another switch answers on") && error.contains("elsewhere"), "{error}");
        drop(first);
        assert!(!path.exists(), "the file goes with the socket");
        drop(std::os::unix::net::UnixListener::bind(&path)?);
        assert!(path.exists(), "std leaves a stale file");
        let second = listen()?;
        fs::remove_file(&path)?;
        fs::write(&path, "mine")?;
        drop(second);
        assert!(path.exists(), "not ours to remove");
        let error = listen().err().unwrap_or_default();
        assert!(error.contains("is not a socket"), "{error}");
        fs::remove_dir_all(&dir)?;
        Ok(())
    }
}
