//! Frames that wait because a link is slower than what they come from.

mod lab;

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use lab::switch::TwoHosts;
use lab::{inside, pair, wait_until};

/// Ten times what the cable carries, for as long as the other is done.
fn flooded<T>(hosts: &TwoHosts, work: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            inside(&hosts.a, || {
                let socket = UdpSocket::bind("10.1.0.1:0").unwrap();
                while !done.load(Relaxed) {
                    for _ in 0..12 {
                        let _ = socket.send_to(&[7; 1400], "10.1.0.2:9");
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
        });
        let _done = Done(&done);
        work()
    })
}

/// Sets it whatever happens: a thread waits for that.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// 4 MiB in front of it would take the cable over three seconds.
#[test]
fn a_ping_does_not_wait_behind_a_flood() {
    let hosts = TwoHosts::new();
    let pair = pair(&hosts);
    let cable = &hosts.link.device;
    hosts.a.ok(&[
        "tc", "qdisc", "add", "dev", cable, "root", "tbf", "rate", "10mbit", "burst", "16kb", "latency",
        "50ms",
    ]);
    hosts.a.ping("10.1.0.2");
    let counter = |name: &str| {
        let entries = pair.a.entries("listCounters");
        let link = entries.iter().find(|entry| entry["name"] == "link").expect("the link").clone();
        link["drops"][name].as_u64().unwrap_or(0)
    };
    flooded(&hosts, || {
        // CoDel lets a queue grow slowly shorter; until then the longest flow pays.
        wait_until("the queue is full", Duration::from_secs(30), || counter("queue-full") > 100);
        for _ in 0..5 {
            let answer = hosts.a.ok(&["ping", "-c1", "-W10", "10.1.0.2"]);
            let time = answer.split("time=").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
            assert!(time.parse::<f64>().unwrap() < 1_000.0, "{answer}");
        }
        wait_until("frames were too late", Duration::from_secs(30), || counter("queue-delay") > 0);
    });
}
