//! What the data path does to devices and peers when ports come and go.

use etherws::port::ports::SwitchSettings;
use etherws::port::{PortKind, PortRef, PortSpec, Ports};

/// A network namespace of this thread's own, and of the threads it starts.
fn own_namespace() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root, for a network namespace");
}

/// The device is released by its task, on a thread that may be busy: the port's end must wait for that,
/// or the same name cannot be used again.
#[test]
fn a_tap_is_gone_when_its_port_is_deleted() {
    own_namespace();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let settings = SwitchSettings { fdb_limit: 64, threads: 2, ..SwitchSettings::default() };
        let ports = Ports::start(settings).unwrap();
        for turn in 0..200 {
            let added = ports.add(PortSpec::new(PortKind::Tap, "rvd0")).await;
            let port = added.unwrap_or_else(|e| panic!("turn {turn}: {e}")).port;
            ports.delete(&PortRef::Number(port)).await.unwrap();
            let left = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
            assert!(!left.contains("rvd0"), "turn {turn}: the TAP is still there");
        }
    });
}
