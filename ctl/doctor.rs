//! `etherctl doctor`: what is wrong here, or soon will be, and what to do about it. The facts are gathered here, from this
//! host and from the switch; [`judge`] says what they mean.

mod judge;

use std::fs::File;
use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use etherws::control::api::diagnosis::Diagnosis;
use etherws::control::api::{Entries, InterfaceStatus, METHOD_NOT_FOUND, Method, PortStatus, Version};
use serde::de::DeserializeOwned;
use serde_json::json;

use self::judge::{Facts, Finding, Host, Level, Told};
use crate::client::{Failure, TIME_LIMIT, io_text};
use crate::commands::{self, Request};
use crate::server::{Server, Url};
use crate::table::{escaped, json as shown};
use crate::{ask, print, runtime};

/// Prints a line a finding. Exit code 0: all is well, 1: there are warnings, 2: something does not work.
pub fn run(mut server: Server, json: bool) -> Result<ExitCode, String> {
    let told = runtime()?.block_on(told(&mut server));
    // What is said of this host is said of the switch's.
    let host = matches!(server.url, Url::Unix(_)).then(host);
    let findings = judge::judge(&Facts { url: server.url.to_string(), now: now(), host, told });
    let worst = findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok);
    match json {
        true => print(&shown(&json!({"worst": worst, "findings": findings})))?,
        false => print(&lines(&findings, io::stdout().is_terminal() && no_color_is_unset()))?,
    }
    Ok(ExitCode::from(worst as u8))
}

async fn told(server: &mut Server) -> Result<Told, String> {
    let version: Version = get(server, Method::GetVersion).await.map_err(|failure| failure.to_string())?;
    let diagnosis = match get::<Diagnosis>(server, Method::Diagnose).await {
        Ok(diagnosis) => Some(diagnosis),
        Err(Failure::Refused(error)) if error.code == METHOD_NOT_FOUND => None,
        Err(failure) => return Err(failure.to_string()),
    };
    let ports: Entries<PortStatus> =
        get(server, Method::ListPort).await.map_err(|failure| failure.to_string())?;
    let interfaces: Entries<InterfaceStatus> =
        get(server, Method::ListInterface).await.map_err(|failure| failure.to_string())?;
    Ok(Told { version: version.version, diagnosis, ports: ports.entries, interfaces: interfaces.entries })
}

async fn get<T: DeserializeOwned>(server: &mut Server, method: Method) -> Result<T, Failure> {
    let result = ask(server, &Request { method, params: None }, TIME_LIMIT).await?;
    commands::read(result).map_err(Failure::Unexpected)
}

fn host() -> Host {
    let release = nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned());
    Host {
        kernel: release.unwrap_or_default(),
        tun: File::options()
            .read(true)
            .write(true)
            .open("/dev/net/tun")
            .err()
            .map(|e| (e.kind(), io_text(&e))),
        newest: ["/etc/passwd", "/etc/ld.so.cache", "/etc/machine-id"]
            .iter()
            .map(|file| (*file).to_owned())
            .chain(std::env::current_exe().ok().and_then(|file| file.to_str().map(str::to_owned)))
            .filter_map(|file| Some((seconds(std::fs::metadata(&file).ok()?.modified().ok()?), file)))
            .max(),
    }
}

fn now() -> i64 {
    seconds(SystemTime::now())
}

fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// <https://no-color.org>
fn no_color_is_unset() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn lines(findings: &[Finding], colour: bool) -> String {
    let line = |finding: &Finding| {
        let Finding { level, what, found, next } = finding;
        let (word, sgr) = match level {
            Level::Ok => ("ok  ", 32),
            Level::Warn => ("warn", 33),
            Level::Fail => ("fail", 31),
        };
        let word = if colour { format!("\x1b[{sgr}m{word}\x1b[0m") } else { word.to_owned() };
        let next = next.as_ref().map(|next| format!("; {}", escaped(next))).unwrap_or_default();
        format!("{word}  {}: {}{next}\n", escaped(what), escaped(found))
    };
    findings.iter().map(line).collect()
}
