//! Names of far ends that fail and change: they are resolved anew for each try.

mod lab;

use std::path::PathBuf;

use lab::switch::TwoHosts;
use lab::{Host, SOON, Switch, wait_until};

/// The /etc/hosts of one host, which its processes see in the place of this machine's.
struct Names(PathBuf);

impl Names {
    /// With a resolver beside it that answers nothing.
    fn of(host: &Host) -> Self {
        // `ip netns exec` puts these over the files of /etc.
        let etc = PathBuf::from("/etc/netns").join(host.name());
        std::fs::create_dir_all(&etc).expect("directory");
        std::fs::write(etc.join("nsswitch.conf"), "hosts: files dns\n").expect("nsswitch.conf");
        let silent = "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n";
        std::fs::write(etc.join("resolv.conf"), silent).expect("resolv.conf");
        std::fs::write(etc.join("hosts"), "127.0.0.1 localhost\n").expect("hosts");
        Self(etc)
    }

    /// In place: a new file would not be the one that is mounted.
    fn set(&self, name: &str, address: &str) {
        std::fs::write(self.0.join("hosts"), format!("127.0.0.1 localhost\n{address} {name}\n"))
            .expect("hosts");
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn bad_73_a_name_is_resolved_again_for_each_try() {
    let hosts = TwoHosts::new();
    let names = Names::of(&hosts.a);
    hosts.a.ok(&["ip", "addr", "add", "198.51.100.1/24", "dev", &hosts.link.device]);
    hosts.b.ok(&["ip", "addr", "add", "198.51.100.2/24", "dev", &hosts.link.device]);
    let a = Switch::start(&hosts.a, &["--no-listen"]);
    a.ctl_ok(&["addport", "client", "ws://far.test/", "--name", "link"]);
    // The name fails.
    let reason = a.wait_reason("link", &["resolve"]);
    assert!(reason.starts_with("could not resolve far.test: "), "{reason}");

    // It has an address now.
    let b = Switch::start(&hosts.b, &[]);
    let first = hosts.link.b.to_string();
    names.set("far.test", &first);
    a.wait_state("link", "up");
    assert_eq!(a.port("link")["peer"], format!("{first}:80"));

    // The far end moves.
    names.set("far.test", "198.51.100.2");
    b.ctl_ok(&["delport", &b.wait_server_port()["port"].to_string()]);
    wait_until("it has moved", SOON, || a.port("link")["peer"] == "198.51.100.2:80");
    assert_eq!(a.port("link")["connects"], 2);
}
