//! The units, as systemd reads them, and the sample configuration, as etherws does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A copy of the units with an ExecStart that exists.
struct Units(PathBuf);

impl Units {
    fn new(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("etherws-units-{name}-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        for unit in ["etherws.service", "etherws.socket"] {
            let text = fs::read_to_string(source(unit)).unwrap();
            let text = text.replace("/usr/bin/etherws", env!("CARGO_BIN_EXE_etherws"));
            fs::write(directory.join(unit), text).unwrap();
        }
        Self(directory)
    }

    /// `None`, said aloud, where systemd-analyze is missing.
    fn analyze(&self, arguments: &[&str], units: &[&str]) -> Option<Output> {
        let mut command = Command::new("systemd-analyze");
        command.args(arguments).args(units.iter().map(|unit| self.0.join(unit)));
        match command.env("SYSTEMD_LOG_LEVEL", "warning").output() {
            Ok(output) => Some(output),
            Err(e) => {
                eprintln!("skipped: systemd-analyze could not be run: {e}");
                None
            }
        }
    }
}

impl Drop for Units {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn source(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(file)
}

fn text(output: &Output) -> String {
    [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat()
}

#[test]
fn the_units_are_sound() {
    let units = Units::new("verify");
    let Some(output) = units.analyze(&["verify", "--man=no"], &["etherws.service", "etherws.socket"]) else {
        return;
    };
    let text = text(&output);
    let ours: Vec<_> = text.lines().filter(|line| line.contains("etherws")).collect();
    assert!(output.status.success() && ours.is_empty(), "{text}");
}

#[test]
fn the_service_is_exposed_by_2_at_most() {
    let units = Units::new("security");
    let arguments = ["security", "--offline=true", "--threshold=20", "--no-pager"];
    let Some(output) = units.analyze(&arguments, &["etherws.service"]) else { return };
    assert!(output.status.success(), "{}", text(&output));
}

/// What hardening must not take away.
#[test]
fn the_service_may_do_what_a_switch_does() {
    let unit = fs::read_to_string(source("etherws.service")).unwrap();
    let set = |line: &str| unit.lines().any(|own| own == line);
    for line in [
        "Type=notify",
        "AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW",
        "DevicePolicy=closed",
        "DeviceAllow=/dev/net/tun rw",
        "SystemCallFilter=landlock_create_ruleset landlock_add_rule landlock_restrict_self seccomp",
        "LimitNOFILE=262144",
        "RuntimeDirectory=etherws",
        "StateDirectory=etherws",
        "Restart=on-failure",
        // For ever: at boot a bridge of its may come after it.
        "StartLimitIntervalSec=0",
        "FileDescriptorStoreMax=4096",
        "ReadWritePaths=-/etc/etherws",
    ] {
        assert!(set(line), "{line}");
    }
    for word in ["PrivateDevices=yes", "PrivateUsers=yes", "PrivateNetwork=yes"] {
        assert!(!unit.contains(word), "{word}");
    }
}

#[test]
fn the_sample_is_valid_as_it_is_and_with_every_comment_taken_for_real() {
    let sample = fs::read_to_string(source("etherws.toml")).unwrap();
    let whole: String = sample
        .lines()
        // A setting is a comment without a space behind the sign; prose has one.
        .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
        .flat_map(|line| [line, "\n"])
        .collect();
    for (text, ports) in [(&sample, 0), (&whole, 4)] {
        let layer = etherws::daemon::read::parse("etherws.toml", text).unwrap_or_else(|e| panic!("{e:#?}"));
        let config = layer.resolve().unwrap_or_else(|e| panic!("{e:#?}"));
        assert_eq!(config.ports.len(), ports);
    }
}
