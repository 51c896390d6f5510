//! `--daemon`: the switch in the background, its parent waiting until it listens.
//!
//! A fork is nothing that safe code can do, so the parent starts this program anew, marked by [`MARK`]; that child leaves
//! the session with daemon(3) before it has any thread. Its stdout is a pipe to the parent: one byte
//! says that it listens, the end of the pipe without one that it has failed. Its message went to the
//! stderr that both share.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::process::{Command, ExitCode, Stdio};

const MARK: &str = "ETHERWS_DETACHED";
const LISTENS: u8 = b'+';

/// True in the process that is to become the daemon.
pub fn is_child() -> bool {
    std::env::var_os(MARK).is_some()
}

/// Starts the daemon; its exit code as soon as it listens or has failed.
pub fn start() -> Result<ExitCode, String> {
    let fail = |e: &dyn std::fmt::Display| format!("--daemon: could not be started: {e}");
    // Not /proc/self/exe, which would make every message and process list speak of "exe".
    let program = std::env::current_exe().map_err(|e| fail(&e))?;
    let mut child = Command::new(program)
        .args(std::env::args_os().skip(1))
        .env(MARK, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| fail(&e))?;
    let mut said = Vec::new();
    if let Some(mut pipe) = child.stdout.take() {
        pipe.read_to_end(&mut said).map_err(|e| fail(&e))?;
    }
    // The one that was spawned ends at once, when it has forked; the daemon is its child.
    child.wait().map_err(|e| fail(&e))?;
    Ok(match said[..] {
        [LISTENS] => ExitCode::SUCCESS,
        [code] => ExitCode::from(code),
        _ => ExitCode::FAILURE,
    })
}

/// In the child: into a session of its own. The working directory stays, since reload reads relative
/// file names again.
pub fn leave() -> Result<(), String> {
    nix::unistd::daemon(true, true).map_err(|e| format!("--daemon: could not detach: {e}"))
}

/// In the child: the parent may go; the terminal is let go too.
pub fn listens() -> Result<(), String> {
    tell(LISTENS);
    let null = OpenOptions::new().read(true).write(true).open("/dev/null");
    let null = null.map_err(|e| format!("/dev/null: {e}"))?;
    let redirect = || -> nix::Result<()> {
        nix::unistd::dup2_stdin(&null)?;
        nix::unistd::dup2_stdout(&null)?;
        // A log file stays; a terminal or a pipe, whose reader may wait for its end, does not.
        let stderr = io::stderr().as_fd().try_clone_to_owned().map(std::fs::File::from);
        let file = stderr.and_then(|f| f.metadata()).is_ok_and(|meta| meta.is_file());
        if file { Ok(()) } else { nix::unistd::dup2_stderr(&null) }
    };
    redirect().map_err(|e| format!("--daemon: could not let the terminal go: {e}"))
}

/// In the child: the parent is to exit with this code.
pub fn failed(code: u8) {
    tell(code);
}

fn tell(byte: u8) {
    let mut out = io::stdout();
    let _ = out.write_all(&[byte]).and_then(|()| out.flush());
}
