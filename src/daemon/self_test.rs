//! `--self-test`: the sandbox tried from inside, by the daemon's own threads.
//!
//! Each kind of thread tries what it must not be able to do, in a way that harms nobody where it succeeds after
//! all. Of every thread there is, the kernel is asked what binds it.

use std::ffi::CStr;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::process::ExitCode;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::ptrace;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::unistd::{Pid, execve};

use super::logs::Logs;
use crate::control::http::Door;
use crate::port::Ports;
use crate::sys::sandbox::{self, Entered};

/// Tries, and tells of each thread in one line on stdout. Success when all that must be refused is.
pub async fn run(ports: &Ports, door: &Door, logs: &Logs) -> ExitCode {
    let Some(entered) = sandbox::entered() else {
        say("FAILED: the sandbox is off");
        return ExitCode::FAILURE;
    };
    let mut failed = false;
    let missing = [entered.landlock.as_ref().err(), entered.unfiltered.as_ref()];
    for why in missing.into_iter().flatten() {
        say(&format!("FAILED: {why}"));
        failed = true;
    }
    for line in attempts(ports, door, logs).await.into_iter().chain(threads(entered)) {
        failed |= line.contains("FAILED");
        say(&line);
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// `THREAD: ...` for one thread of each kind, and each data thread.
async fn attempts(ports: &Ports, door: &Door, logs: &Logs) -> Vec<String> {
    let (told, tell) = channel();
    let report = |told: &Sender<String>| drop(told.send(attempt()));
    report(&told);
    ports.on_each_thread({
        let told = told.clone();
        move || report(&told)
    });
    door.on_login_thread({
        let told = told.clone();
        move || report(&told)
    });
    logs.on_thread({
        let told = told.clone();
        move || report(&told)
    });
    let waiting = tokio::task::spawn_blocking(move || {
        report(&told);
        drop(told);
        let mut lines = Vec::new();
        loop {
            match tell.recv_timeout(LIMIT) {
                Ok(line) => lines.push(line),
                Err(RecvTimeoutError::Disconnected) => return lines,
                Err(RecvTimeoutError::Timeout) => {
                    lines.push("FAILED: a thread did not answer".to_owned());
                    return lines;
                }
            }
        }
    });
    waiting.await.unwrap_or_else(|e| vec![format!("FAILED: {e}")])
}

/// On the thread in question.
fn attempt() -> String {
    let name = std::thread::current().name().unwrap_or("?").to_owned();
    let errno = |opened: std::io::Result<File>| match opened {
        Err(e) => e.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw),
        Ok(_) => Errno::from_raw(0),
    };
    let open = |path| errno(File::open(path));
    let empty: [&CStr; 0] = [];
    let not = |result: nix::Result<()>| result.err().unwrap_or(Errno::from_raw(0));
    // It stays as it is: nothing is written. Where it cannot be written by anybody there is nothing to refuse.
    let writing = match errno(OpenOptions::new().write(true).open("/etc/passwd")) {
        Errno::EROFS | Errno::ENOENT => Errno::EACCES,
        other => other,
    };
    let tries = [
        ("opening /", open("/"), Errno::EACCES),
        ("opening a program", open("/bin/sh"), Errno::EACCES),
        ("writing a file", writing, Errno::EACCES),
        // Nothing is there, so nothing would be run.
        ("execve", not(execve(c"/nonexistent", &empty, &empty).map(drop)), Errno::EPERM),
        // Of nobody's process.
        ("ptrace", not(ptrace::detach(Pid::from_raw(0), None)), Errno::EPERM),
        // Of no namespace at all: does nothing.
        ("unshare", not(unshare(CloneFlags::empty())), Errno::EPERM),
        (
            "a socket of the kernel's ciphers",
            not(socket(AddressFamily::Alg, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).map(drop)),
            Errno::EPERM,
        ),
    ];
    let let_in: Vec<_> = tries
        .iter()
        .filter(|(_, got, wanted)| got != wanted)
        .map(|(what, got, _)| format!("{what}: {got}"))
        .collect();
    match &let_in[..] {
        [] => format!("{name}: ok, refused: {}", tries.map(|(what, ..)| what).join(", ")),
        let_in => format!("{name}: FAILED, not refused: {}", let_in.join(", ")),
    }
}

/// What the kernel says of every thread.
fn threads(entered: &Entered) -> Vec<String> {
    let capabilities = entered.capabilities.iter().fold(0, |mask, cap| mask | cap.bitmask());
    let wanted = [
        ("NoNewPrivs", "1".to_owned()),
        ("Seccomp", "2".to_owned()),
        ("CapEff", format!("{capabilities:016x}")),
        ("CapPrm", format!("{capabilities:016x}")),
    ];
    let folder = std::fs::read_dir("/proc/self/task").map(|entries| entries.flatten().collect::<Vec<_>>());
    let threads = match folder {
        Ok(threads) => threads,
        Err(e) => return vec![format!("FAILED: /proc/self/task: {e}")],
    };
    let line = |status: String| {
        let value = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
            line.unwrap_or_default().trim().to_owned()
        };
        let name = value("Name");
        let wrong: Vec<_> = wanted
            .iter()
            .filter(|(key, wanted)| value(key) != *wanted)
            .map(|(key, wanted)| format!("{key} is {}, not {wanted}", value(key)))
            .collect();
        match &wrong[..] {
            [] => {
                format!(
                    "{name}: ok, {}",
                    wanted.iter().map(|(k, v)| format!("{k} {v}")).collect::<Vec<_>>().join(", ")
                )
            }
            wrong => format!("{name}: FAILED, {}", wrong.join(", ")),
        }
    };
    // A thread may end meanwhile.
    threads
        .iter()
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("status")).ok())
        .map(line)
        .collect()
}

fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

const LIMIT: Duration = Duration::from_secs(30);
