//! The wall clock is nobody's business: it may jump.

mod lab;

use lab::switch::TwoHosts;
use lab::{SOON, Switch, sh, wait_until, ws};

/// clock_gettime(2) as libc has it, but for the wall clock, which is as many seconds ahead as the file $JUMP says.
const SHIM: &str = r#"#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t id, struct timespec *t) {
  int result = syscall(SYS_clock_gettime, id, t);
  if (id == CLOCK_REALTIME && !result && getenv("JUMP")) {
    char text[32] = {0};
    int file = open(getenv("JUMP"), O_RDONLY | O_CLOEXEC);
    if (file >= 0) { if (read(file, text, 31) > 0) t->tv_sec += atol(text); close(file); }
  }
  return result;
}
"#;

#[test]
fn bad_72_the_wall_clock_jumps_a_day_and_nothing_happens() {
    let hosts = TwoHosts::new();
    let source = hosts.b.file("shim.c", SHIM);
    let shim = hosts.b.dir().join("shim.so").display().to_string();
    sh(&["cc", "-shared", "-fPIC", "-o", &shim, &source]);
    let jump = hosts.b.file("jump", "0");
    let htpasswd = hosts.b.file("htpasswd", sh(&["htpasswd", "-nbs", "joe", "pw"]));
    let env = [("LD_PRELOAD", shim.as_str()), ("JUMP", jump.as_str())];
    let b = Switch::start_with_env(&hosts.b, &["--htpasswd", &htpasswd, "--ping", "1"], &env);
    let a = Switch::start(&hosts.a, &["--no-listen"]);
    b.ctl_ok(&["addport", "tap", "t0", "--address", "10.1.0.2/24"]);
    a.ctl_ok(&["addport", "tap", "t0", "--address", "10.1.0.1/24"]);
    let url = format!("ws://{}/", hosts.link.b);
    a.ctl_ok(&["addport", "client", &url, "--user", "joe", "--passwd", "pw", "--name", "link"]);
    a.wait_state("link", "up");
    hosts.a.ping("10.1.0.2");
    let stations = b.fdb();
    assert!(!stations.is_empty());
    for seconds in ["86400", "-86400", "0"] {
        std::fs::write(&jump, seconds).expect("jump");
        hosts.a.ping("10.1.0.2");
        let now = b.fdb();
        assert!(stations.iter().all(|station| now.contains(station)), "{seconds}: {stations:?}, now {now:?}");
        // Whoever was let in is remembered, and who was not is told in time.
        let login = |login: &str| {
            let headers = format!("{}Authorization: Basic {login}\r\n", ws::UPGRADE);
            ws::get(&hosts.a, &format!("{}:80", hosts.link.b), "/", &headers).0.status
        };
        assert_eq!((login("am9lOnB3"), login("am9lOng=")), (101, 401), "{seconds}");
    }
    // The PING's time and the sweep of the FDB have come by more than once.
    let pinged = std::time::Instant::now();
    wait_until("three seconds have passed", SOON, || pinged.elapsed().as_secs() >= 3);
    assert_eq!(a.port("link")["connects"], 1, "the link stood all the while");

    // And the clock did jump: the log has more than one day.
    let log = b.process.log();
    let days: std::collections::BTreeSet<_> = log.lines().filter_map(|line| line.get(..10)).collect();
    assert!(days.iter().filter(|day| day.starts_with("20")).count() >= 2, "{days:?}");
}
