//! What the daemon knows of itself and of where it runs: the facts behind `etherctl doctor`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::resource::{Resource, getrlimit};

use super::config::{Config, label};
use crate::control::api::diagnosis::{CertificateFacts, Diagnosis, LinkFacts, SandboxFacts};
use crate::control::http::{validity, validity_of};
use crate::port::Ports;
use crate::sys::sandbox;

/// Reads files; not for the control thread.
pub fn diagnose(config: &Config, ports: &Ports) -> Diagnosis {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Diagnosis {
        pid: std::process::id(),
        uid: nix::unistd::geteuid().as_raw(),
        unix_time: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
        tun: File::options().read(true).write(true).open(TUN).err().map(|e| e.to_string()),
        descriptors: fs::read_dir("/proc/self/fd").map_or(0, |open| open.count() as u64),
        descriptor_limit: getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft),
        sandbox: sandbox::entered().map(|entered| SandboxFacts {
            capabilities: entered.capabilities.iter().map(ToString::to_string).collect(),
            missing: entered
                .landlock
                .as_ref()
                .err()
                .into_iter()
                .chain(&entered.unfiltered)
                .cloned()
                .collect(),
        }),
        proxies: proxies(),
        certificates: certificates(config, ports),
        links: ports.segments().into_iter().map(|(port, segment)| LinkFacts { port, segment }).collect(),
    }
}

fn proxies() -> BTreeMap<String, String> {
    let set = |name: &&str| {
        let value = std::env::var(name).ok().filter(|value| !value.is_empty())?;
        Some(((*name).to_owned(), discreet(&value)))
    };
    PROXIES.iter().filter_map(set).collect()
}

/// A proxy without user and password, however it is written: hyper-util takes one without a scheme, and a password may
/// have a slash in it.
fn discreet(proxy: &str) -> String {
    let (scheme, rest) = proxy.split_at(proxy.find("://").map_or(0, |at| at + 3));
    format!("{scheme}{}", rest.rsplit_once('@').map_or(rest, |(_, host)| host))
}

fn certificates(config: &Config, ports: &Ports) -> Vec<CertificateFacts> {
    let door = &config.door;
    let listen = door.listen.as_ref().and_then(|listen| listen.tls.as_ref());
    let control = door.control.tcp.as_ref().and_then(|tcp| tcp.tls.as_ref());
    let mut named: Vec<(String, PathBuf)> = Vec::new();
    for (service, tls) in [("listen", listen), ("control.tcp", control)] {
        named.extend(tls.map(|tls| (format!("{service}.sslcert"), tls.cert.clone())));
        let ca = tls.and_then(|tls| tls.client_ca.clone());
        named.extend(ca.map(|file| (format!("{service}.sslclientca"), file)));
    }
    let mut facts: Vec<_> = named
        .into_iter()
        .map(|(place, file)| told(place, file.display().to_string(), validity(&file)))
        .collect();
    for (number, spec) in ports.specs() {
        let options = &spec.options;
        for (key, file) in [("cacerts", &options.cacerts), ("cert", &options.cert)] {
            let Some(file) = file else { continue };
            let place = format!("port {number} ({}): {key}", label(&spec));
            // Or the text itself, as etherctl sends it.
            let (file, found) = match file.contains('\n') {
                true => (String::new(), validity_of(file.as_bytes(), "it")),
                false => (file.clone(), validity(Path::new(file))),
            };
            facts.push(told(place, file, found));
        }
    }
    facts
}

fn told(place: String, file: String, found: Result<(i64, i64), String>) -> CertificateFacts {
    let (dates, error) = match found {
        Ok(dates) => (Some(dates), None),
        Err(why) => (None, Some(why)),
    };
    CertificateFacts { place, file, not_before: dates.map(|d| d.0), not_after: dates.map(|d| d.1), error }
}

const TUN: &str = "/dev/net/tun";
const PROXIES: [&str; 7] =
    ["http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_shown_without_its_password() {
        for (value, shown) in [
            ("u:s3cret@h:1", "h:1"),
            ("http://u:s/3c@ret@h:1/", "http://h:1/"),
            ("socks5h://h:1", "socks5h://h:1"),
            ("localhost,.example.com", "localhost,.example.com"),
        ] {
            assert_eq!(discreet(value), shown);
        }
    }
}
