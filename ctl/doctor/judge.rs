//! What facts mean: pure, so that each of its rules is tried below.

use std::io::ErrorKind;

use etherws::control::api::diagnosis::{CertificateFacts, Diagnosis};
use etherws::control::api::{Connections, InterfaceStatus, PortKind, PortStatus};
use serde::Serialize;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Ok = 0,
    /// It works, for now or not as well as it could.
    Warn = 1,
    /// It does not work.
    Fail = 2,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    pub level: Level,
    pub what: String,
    pub found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Everything that is known.
pub struct Facts {
    pub url: String,
    /// Seconds since 1970.
    pub now: i64,
    /// This host, if the switch is on it.
    pub host: Option<Host>,
    /// The switch's word, or why there is none.
    pub told: Result<Told, String>,
}

pub struct Host {
    /// As uname(2) has it: `6.18.44-amd64`.
    pub kernel: String,
    /// Why /dev/net/tun cannot be opened by this user.
    pub tun: Option<(ErrorKind, String)>,
    /// A file that was written lately, and when.
    pub newest: Option<(i64, String)>,
}

pub struct Told {
    pub version: String,
    /// A switch of an older version has none.
    pub diagnosis: Option<Diagnosis>,
    pub ports: Vec<PortStatus>,
    pub interfaces: Vec<InterfaceStatus>,
}

/// In the order in which one would look.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let told = facts.told.as_ref().ok();
    if let Some(host) = &facts.host {
        findings.push(kernel(&host.kernel));
        findings.push(clock(facts.now, host.newest.as_ref()));
        if told.is_none_or(|told| told.diagnosis.is_none()) {
            findings.push(tun_here(host.tun.as_ref()));
        }
    }
    match &facts.told {
        Err(why) => findings.push(fail("switch", why, "")),
        Ok(told) => {
            findings.push(version(&told.version, &facts.url));
            if let Some(diagnosis) = &told.diagnosis {
                process(diagnosis, facts.now, &mut findings);
            }
            findings.extend(told.ports.iter().filter_map(port));
            findings.extend(paths(told));
            findings.push(offload(&told.ports));
        }
    }
    findings
}

fn kernel(release: &str) -> Finding {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|digits| digits.parse().unwrap_or(0));
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let found = format!("Linux {release}");
    match version {
        (0, _) => ok("kernel", &format!("unknown ({release:?})")),
        v if v < (5, 13) => {
            warn("kernel", &found, "files are not confined without Landlock: use Linux 5.13 or newer")
        }
        v if v < (6, 2) => warn(
            "kernel",
            &found,
            "UDP goes frame by frame (no USO): Linux 6.2 or newer hands it over in one piece",
        ),
        _ => ok("kernel", &found),
    }
}

fn clock(now: i64, newest: Option<&(i64, String)>) -> Finding {
    match newest {
        // Clocks are set back by minutes; nobody is a day ahead.
        Some((written, file)) if written - now > DAY => fail(
            "clock",
            &format!("{} days behind {file}, which was written before now", (written - now) / DAY),
            "set it (timedatectl set-ntp true): certificates are checked by it",
        ),
        _ => ok("clock", "no file is from the future"),
    }
}

fn tun_here(refused: Option<&(ErrorKind, String)>) -> Finding {
    match refused {
        None => ok("/dev/net/tun", "can be opened"),
        Some((kind, why)) => fail("/dev/net/tun", why, tun_next(*kind == ErrorKind::PermissionDenied)),
    }
}

fn tun_next(denied: bool) -> &'static str {
    match denied {
        true => {
            "run as root, or as one who may (systemd: DeviceAllow=/dev/net/tun rw; else chmod 666 /dev/net/tun)"
        }
        false => {
            "load the module (modprobe tun), and in a container pass the device in (--device /dev/net/tun)"
        }
    }
}

fn version(theirs: &str, url: &str) -> Finding {
    let ours = env!("CARGO_PKG_VERSION");
    match theirs == ours {
        true => ok("switch", &format!("version {theirs} at {url}")),
        false => warn(
            "switch",
            &format!("version {theirs} at {url}, this is etherctl {ours}"),
            "restart the switch if it was upgraded (systemctl restart etherws), or use its own etherctl",
        ),
    }
}

fn process(told: &Diagnosis, now: i64, findings: &mut Vec<Finding>) {
    findings.push(match &told.tun {
        None => ok("TAPs", "the switch can open /dev/net/tun"),
        Some(why) => {
            let denied = why.contains("os error 13") || why.contains("os error 1)");
            fail("TAPs", &format!("/dev/net/tun: {why}"), tun_next(denied))
        }
    });
    findings.push(match &told.sandbox {
        None => warn("sandbox", "off", "start the switch without --no-sandbox and without enabled = false in [sandbox]"),
        Some(sandbox) => match (&sandbox.missing[..], &sandbox.capabilities[..]) {
            ([], capabilities) if !capabilities.iter().any(|cap| cap == "CAP_NET_ADMIN") => warn(
                "capabilities",
                "no CAP_NET_ADMIN: no TAP can be made",
                "start it as root, or with CAP_NET_ADMIN and CAP_NET_RAW, if it is to have TAPs or network cards",
            ),
            ([], capabilities) => ok("sandbox", &format!("on, {}", capabilities.join(" "))),
            (missing, _) => warn("sandbox", &missing.join("; "), "use a newer kernel, or one with Landlock and seccomp"),
        },
    });
    findings.push(descriptors(told.descriptors, told.descriptor_limit));
    if (now - told.unix_time).abs() > HOUR {
        let apart = (now - told.unix_time).abs() / HOUR;
        findings.push(warn(
            "clocks",
            &format!("the switch's and this host's are {apart} hours apart"),
            "set both: certificates are checked by them",
        ));
    }
    findings.push(match told.proxies.is_empty() {
        true => ok("proxy", "none in the switch's environment"),
        false => {
            let list: Vec<_> = told.proxies.iter().map(|(name, url)| format!("{name}={url}")).collect();
            ok("proxy", &format!("links are dialled by {} unless they say --proxy", list.join(", ")))
        }
    });
    findings.extend(told.certificates.iter().map(|facts| certificate(facts, told.unix_time)));
}

fn descriptors(open: u64, limit: u64) -> Finding {
    let found = format!("{open} of {limit} in use");
    let next = "raise LimitNOFILE= in the unit, or ulimit -n";
    match () {
        () if open.saturating_mul(10) > limit.saturating_mul(9) => fail("descriptors", &found, next),
        () if open.saturating_mul(10) > limit.saturating_mul(7) || limit < 4_096 => {
            warn("descriptors", &found, next)
        }
        () => ok("descriptors", &found),
    }
}

fn certificate(facts: &CertificateFacts, now: i64) -> Finding {
    let what = match facts.file.as_str() {
        "" => format!("certificate of {}", facts.place),
        file => format!("certificate of {}, {file}", facts.place),
    };
    let (Some(from), Some(to)) = (facts.not_before, facts.not_after) else {
        let why = facts.error.as_deref().unwrap_or("not read");
        return fail(&what, why, "name a PEM file that the switch can read, then etherctl reload");
    };
    let days = |seconds: i64| seconds / DAY;
    match () {
        () if to < now => {
            fail(&what, &format!("expired {} days ago", days(now - to)), "renew it, then etherctl reload")
        }
        () if from > now => fail(
            &what,
            &format!("not valid for {} days yet", days(from - now)),
            "look whether the clock is right (timedatectl)",
        ),
        () if to - now < SOON => {
            warn(&what, &format!("expires in {} days", days(to - now)), "renew it, then etherctl reload")
        }
        () => ok(&what, &format!("valid for {} days", days(to - now))),
    }
}

/// What is wrong with a port; nothing, if nothing is.
fn port(port: &PortStatus) -> Option<Finding> {
    let what = format!("port {} ({}, {})", port.port, port.name, port.kind);
    let reason = port.reason.as_deref().unwrap_or("no reason given");
    let found = format!("{}: {reason}", port.state);
    match port.state.as_str() {
        "failed" => Some(fail(&what, &found, "mend that, then delete the port and add it again")),
        "waiting" | "connecting" => {
            Some(warn(&what, &found, "it goes on trying; etherctl watch shows when it is up"))
        }
        "away" => Some(warn(&what, &found, "it is gone when nobody comes back; etherctl watch shows either")),
        "blocked" => Some(warn(&what, &found, "take one of the two paths away, or shut the port")),
        "down" => Some(warn(&what, &found, "ip link set DEVICE up")),
        _ if let Some(Connections { up, of }) = port.connections
            && up < of =>
        {
            let (why, next) = match port.reason.as_deref() {
                // The server takes no more.
                Some(why) => {
                    (why, "allow more there ([limits] link_connections), or add the port anew with fewer")
                }
                None => ("the others are dialled again", "etherctl listport shows when all are there"),
            };
            Some(warn(&what, &format!("{up} of {of} connections: {why}"), next))
        }
        _ if !port.alerts.is_empty() => Some(warn(
            &what,
            &format!("its guards drop frames: {}", port.alerts.join(", ")),
            "etherctl counters shows how many; setport --storm, --rate, --max-macs, --macs and --ethertypes change them",
        )),
        _ => None,
    }
}

/// Frames must fit through every device of the segment; a link's path only splits them badly.
fn paths(told: &Told) -> Vec<Finding> {
    let mut findings = Vec::new();
    let (least, most) =
        (told.interfaces.iter().min_by_key(|i| i.mtu), told.interfaces.iter().max_by_key(|i| i.mtu));
    if let (Some(least), Some(most)) = (least, most) {
        let found = format!("{} has {}, {} has {}", least.target, least.mtu, most.target, most.mtu);
        findings.push(match least.mtu == most.mtu {
            true => ok("MTU", &format!("{} on every device", least.mtu)),
            false => warn("MTU", &found, "what fits the larger does not pass the smaller: setif PORT --mtu, on all hosts of the segment"),
        });
    }
    for link in told.diagnosis.iter().flat_map(|diagnosis| &diagnosis.links) {
        let what = format!("path of port {}", link.port);
        let found = format!("segments of {} bytes", link.segment);
        findings.push(match link.segment {
            0..SMALL_SEGMENT => {
                warn(&what, &found, "a tunnel or a wrong MTU is in the path: ping -M do -s 1472 PEER tells")
            }
            _ => ok(&what, &found),
        });
    }
    findings
}

fn offload(ports: &[PortStatus]) -> Finding {
    let able = |port: &&PortStatus| matches!(port.kind, PortKind::Tap | PortKind::Netdev);
    let without: Vec<_> = ports
        .iter()
        .filter(able)
        .filter(|port| port.state == "up" && port.offload.is_none())
        .map(|port| port.name.as_str())
        .collect();
    match without.is_empty() {
        true => ok("super-frames", "every device that is up takes them"),
        // It may have been asked for.
        false => ok(
            "super-frames",
            &format!("not on {}: --no-offload, or a kernel or card without", without.join(", ")),
        ),
    }
}

fn ok(what: &str, found: &str) -> Finding {
    Finding { level: Level::Ok, what: what.to_owned(), found: found.to_owned(), next: None }
}

fn warn(what: &str, found: &str, next: &str) -> Finding {
    Finding { level: Level::Warn, next: Some(next.to_owned()), ..ok(what, found) }
}

/// `next` may be empty where `found` says it.
fn fail(what: &str, found: &str, next: &str) -> Finding {
    let next = Some(next.to_owned()).filter(|next| !next.is_empty());
    Finding { level: Level::Fail, next, ..ok(what, found) }
}

const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;
/// Renewals are commonly made 30 days before the end.
const SOON: i64 = 30 * DAY;
/// IPv6's least MTU, 1,280, leaves 1,208 with timestamps; whoever has less cannot have that.
const SMALL_SEGMENT: u32 = 1_200;

#[cfg(test)]
mod tests {
    use etherws::control::api::diagnosis::{LinkFacts, SandboxFacts};
    use serde_json::json;

    use super::*;

    const NOW: i64 = 1_800_000_000;

    /// A host and a switch with nothing wrong.
    fn well() -> Facts {
        let port = json!({"port": 1, "type": "tap", "target": "t0", "tx": 0, "rx": 0, "shut": false, "name": "t0",
            "state": "up", "offload": "tso,uso"});
        let interface =
            json!({"port": 1, "type": "tap", "target": "t0", "address": "", "netmask": "", "mtu": 1500});
        let diagnosis = Diagnosis {
            unix_time: NOW,
            descriptors: 20,
            descriptor_limit: 65_536,
            sandbox: Some(SandboxFacts { capabilities: vec!["CAP_NET_ADMIN".into()], missing: Vec::new() }),
            certificates: vec![CertificateFacts {
                place: "listen.sslcert".into(),
                file: "cert.pem".into(),
                not_before: Some(NOW - DAY),
                not_after: Some(NOW + 90 * DAY),
                error: None,
            }],
            links: vec![LinkFacts { port: 2, segment: 1_448 }],
            ..Diagnosis::default()
        };
        Facts {
            url: "unix:/x".into(),
            now: NOW,
            host: Some(Host {
                kernel: "6.18.44-amd64".into(),
                tun: None,
                newest: Some((NOW - 5, "/etc/passwd".into())),
            }),
            told: Ok(Told {
                version: env!("CARGO_PKG_VERSION").into(),
                diagnosis: Some(diagnosis),
                ports: vec![serde_json::from_value(port).unwrap()],
                interfaces: vec![serde_json::from_value(interface).unwrap()],
            }),
        }
    }

    fn told(facts: &mut Facts) -> &mut Told {
        facts.told.as_mut().unwrap()
    }

    fn diagnosis(facts: &mut Facts) -> &mut Diagnosis {
        told(facts).diagnosis.as_mut().unwrap()
    }

    #[test]
    fn where_all_is_well_nothing_is_to_be_done() {
        for finding in judge(&well()) {
            assert!(finding.level == Level::Ok && finding.next.is_none(), "{finding:?}");
        }
    }

    #[test]
    fn each_thing_wrong_is_one_finding_that_says_what_to_do() {
        type Break = fn(&mut Facts);
        let table: &[(Break, Level, &str, &str)] = &[
            (|f| f.host.as_mut().unwrap().kernel = "5.10.0-32".into(), Level::Warn, "5.10.0-32", "Landlock"),
            (|f| f.host.as_mut().unwrap().kernel = "6.1.0".into(), Level::Warn, "6.1.0", "USO"),
            (
                |f| f.host.as_mut().unwrap().newest = Some((NOW + 3 * DAY, "/etc/x".into())),
                Level::Fail,
                "3 days behind /etc/x",
                "timedatectl",
            ),
            (|f| told(f).version = "1.9.9".into(), Level::Warn, "1.9.9", "restart"),
            (
                |f| diagnosis(f).tun = Some("No such file or directory (os error 2)".into()),
                Level::Fail,
                "/dev/net/tun",
                "modprobe tun",
            ),
            (
                |f| diagnosis(f).tun = Some("Permission denied (os error 13)".into()),
                Level::Fail,
                "denied",
                "run as root",
            ),
            (|f| diagnosis(f).sandbox = None, Level::Warn, "off", "--no-sandbox"),
            (
                |f| diagnosis(f).sandbox.as_mut().unwrap().missing = vec!["no Landlock".into()],
                Level::Warn,
                "no Landlock",
                "kernel",
            ),
            (
                |f| diagnosis(f).sandbox.as_mut().unwrap().capabilities.clear(),
                Level::Warn,
                "CAP_NET_ADMIN",
                "root",
            ),
            (|f| diagnosis(f).descriptor_limit = 1_024, Level::Warn, "20 of 1024", "LimitNOFILE"),
            (|f| diagnosis(f).descriptors = 65_000, Level::Fail, "65000 of", "LimitNOFILE"),
            (|f| diagnosis(f).unix_time = NOW + 5 * HOUR, Level::Warn, "5 hours", "set both"),
            (
                |f| diagnosis(f).certificates[0].not_after = Some(NOW + 29 * DAY),
                Level::Warn,
                "in 29 days",
                "renew",
            ),
            (
                |f| diagnosis(f).certificates[0].not_after = Some(NOW - 2 * DAY),
                Level::Fail,
                "2 days ago",
                "renew",
            ),
            (
                |f| diagnosis(f).certificates[0].not_before = Some(NOW + 2 * DAY),
                Level::Fail,
                "2 days yet",
                "clock",
            ),
            (
                |f| {
                    diagnosis(f).certificates[0] =
                        CertificateFacts { error: Some("no PEM".into()), ..Default::default() }
                },
                Level::Fail,
                "no PEM",
                "reload",
            ),
            (|f| diagnosis(f).links[0].segment = 536, Level::Warn, "536 bytes", "tunnel"),
            (|f| told(f).ports[0].state = "failed".into(), Level::Fail, "failed", "add it again"),
            (|f| told(f).ports[0].state = "waiting".into(), Level::Warn, "waiting", "watch"),
            (|f| told(f).ports[0].state = "away".into(), Level::Warn, "away", "watch"),
            (|f| told(f).ports[0].state = "blocked".into(), Level::Warn, "blocked", "path"),
            (
                |f| told(f).ports[0].connections = Some(Connections { up: 1, of: 4 }),
                Level::Warn,
                "1 of 4 connections",
                "listport",
            ),
            (
                |f| {
                    let port = &mut told(f).ports[0];
                    port.connections = Some(Connections { up: 1, of: 4 });
                    port.reason = Some("the server takes one connection a link, not 4".into());
                },
                Level::Warn,
                "takes one",
                "link_connections",
            ),
            (|f| told(f).ports[0].state = "down".into(), Level::Warn, "down", "ip link"),
            (|f| told(f).ports[0].alerts = vec!["mac-limit".into()], Level::Warn, "mac-limit", "counters"),
            (
                |f| {
                    let mut other = told(f).interfaces[0].clone();
                    other.mtu = 9_000;
                    told(f).interfaces.push(other);
                },
                Level::Warn,
                "9000",
                "setif",
            ),
        ];
        for (breaks, level, found, next) in table {
            let mut facts = well();
            breaks(&mut facts);
            let findings = judge(&facts);
            let wrong: Vec<_> = findings.iter().filter(|finding| finding.level > Level::Ok).collect();
            let [one] = wrong[..] else { panic!("{found}: {wrong:?}") };
            assert_eq!(one.level, *level, "{one:?}");
            assert!(format!("{} {}", one.what, one.found).contains(found), "{one:?}");
            assert!(one.next.as_ref().unwrap().contains(next), "{one:?}");
        }
    }

    #[test]
    fn without_a_switch_the_host_is_looked_at_and_the_error_says_what_to_do() {
        let mut facts = well();
        facts.told = Err("could not reach unix:/x: no such file; is `etherws sw` running?".into());
        facts.host.as_mut().unwrap().tun = Some((ErrorKind::NotFound, "no such file or directory".into()));
        let findings = judge(&facts);
        let fails: Vec<_> = findings.iter().filter(|finding| finding.level == Level::Fail).collect();
        assert_eq!(fails.len(), 2, "{findings:?}");
        assert!(fails[0].next.as_ref().unwrap().contains("modprobe") && fails[1].found.contains("running?"));
        // Of another host nothing is known but what the switch says.
        facts.host = None;
        assert_eq!(judge(&facts).len(), 1);
    }
}
