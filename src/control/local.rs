//! Who of this host may control the switch over its Unix socket: root, the user that the switch runs as, and the
//! members of group `etherws`. The file's mode keeps most others out before; but a mode can be changed by mistake, and
//! a directory be shared.

use std::os::fd::AsFd;
use std::os::unix::fs::lchown;
use std::path::Path;

use nix::unistd::{Gid, Group, geteuid};
use tokio::net::UnixStream;

use crate::sys::peer;

/// The group whose members may.
const GROUP: &str = "etherws";

/// The group whose members may, where there is one.
pub fn group() -> Option<Gid> {
    let found = Group::from_name(GROUP).unwrap_or_else(|e| {
        tracing::warn!("group {GROUP} could not be looked up, so its members may not control: {e}");
        None
    });
    found.map(|group| group.gid)
}

/// Gives the socket's file to that group; the mode that fits: 0660 where it could be, else 0600.
pub fn hand_over(socket: &Path) -> u32 {
    let handed = group().is_some_and(|group| lchown(socket, None, Some(group.as_raw())).is_ok());
    if handed { 0o660 } else { 0o600 }
}

/// Who may, beside root and ourselves.
pub struct Admins {
    /// As it was at start.
    group: Option<u32>,
}

impl Admins {
    pub fn look_up() -> Self {
        Self { group: group().map(Gid::as_raw) }
    }

    /// Why whoever connected may not control; nothing when he may.
    pub fn refusal(&self, stream: &UnixStream) -> Option<String> {
        let peer = match stream.peer_cred() {
            Ok(peer) => peer,
            Err(e) => return Some(format!("the kernel does not say who you are: {e}")),
        };
        let more = || peer::groups(stream.as_fd()).unwrap_or_default();
        // Not that of the start: the switch may have left root behind since.
        let own = geteuid().as_raw();
        if peer.uid() == own || self.may(peer.uid(), peer.gid(), more) {
            return None;
        }
        Some(format!(
            "user {} may not control this switch; root, user {} and members of group {GROUP} may \
             (usermod -aG {GROUP} NAME, then log in again)",
            peer.uid(),
            own
        ))
    }

    fn may(&self, user: u32, group: u32, more: impl FnOnce() -> Vec<u32>) -> bool {
        let is_member = |wanted: u32| group == wanted || more().contains(&wanted);
        user == 0 || self.group.is_some_and(is_member)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::sys::unix::UnixSocket;

    #[test]
    fn root_and_the_group_may() {
        let admins = Admins { group: Some(989) };
        for (user, group, more, may) in [
            (0, 0, vec![], true),
            (1000, 989, vec![], true),
            (1000, 1000, vec![4, 989], true),
            (1000, 1000, vec![4, 990], false),
            (989, 1000, vec![], false),
        ] {
            assert_eq!(admins.may(user, group, || more.clone()), may, "{user} {group} {more:?}");
        }
        let nobody = Admins { group: None };
        assert!(!nobody.may(1000, 989, || vec![989]));
    }

    #[tokio::test]
    async fn the_socket_is_the_group_s_or_nobody_else_s() -> Result<(), Box<dyn std::error::Error>> {
        let path = std::env::temp_dir().join(format!("etherws-local-{}.sock", std::process::id()));
        let _socket = UnixSocket::listen(&path, hand_over, "elsewhere")?;
        let file = fs::metadata(&path)?;
        let mode = file.mode() & 0o777;
        match group() {
            Some(group) if geteuid().is_root() => assert_eq!((mode, file.gid()), (0o660, group.as_raw())),
            Some(group) => assert!(mode == 0o600 || (mode, file.gid()) == (0o660, group.as_raw())),
            None => assert_eq!(mode, 0o600),
        }
        Ok(())
    }

    #[tokio::test]
    async fn we_ourselves_may() {
        let (one, _other) = UnixStream::pair().unwrap();
        assert_eq!(Admins::look_up().refusal(&one), None);
    }
}
