//! A switch with a TAP, and guests that come to it.

use std::time::Duration;

use crate::lab::frames::{BROADCAST, Wire, frame, mac, payload};
use crate::lab::switch::TwoHosts;
use crate::lab::ws::{self, BINARY};
use crate::lab::{Host, SOON, Switch};

pub struct Target<'h> {
    pub switch: Switch<'h>,
    pub guest: &'h Host,
    pub wire: Wire,
    pub addr: String,
}

impl<'h> Target<'h> {
    pub fn new(hosts: &'h TwoHosts, args: &[&str]) -> Self {
        let switch = Switch::start(&hosts.b, args);
        switch.ctl_ok(&["addport", "tap", "t0"]);
        let wire = Wire::open(&hosts.b, "t0");
        Self { switch, guest: &hosts.a, wire, addr: format!("{}:80", hosts.link.b) }
    }

    pub fn open(&self) -> ws::RawWs {
        ws::open(self.guest, &self.addr)
    }

    pub fn get(&self, headers: &str) -> ws::Answer {
        ws::get(self.guest, &self.addr, "/", headers).0
    }

    pub fn raw(&self, request: &str) -> ws::Answer {
        ws::exchange(self.guest, &self.addr, request).0
    }

    /// The switch lives and serves the next guest.
    #[track_caller]
    pub fn lives(&mut self) {
        let sent = frame(BROADCAST, mac(0xfeed), &[], &payload(60));
        self.open().send(BINARY, &sent);
        assert!(self.wire.receives(&sent, SOON), "not served any more\n{}", self.switch.process.log());
        assert!(self.switch.process.is_running());
        let log = self.switch.process.log();
        assert!(!log.contains("panicked"), "{log}");
    }

    /// These bytes end the link with this status code, and nothing of them reaches the TAP.
    #[track_caller]
    pub fn closes(&self, code: &[u16], bytes: &[u8]) {
        let mut peer = self.open();
        peer.send_raw(bytes);
        let got = peer.close_code();
        assert!(
            code.contains(&got),
            "closed with {got}, not {code:?}, after {:02x?}",
            &bytes[..bytes.len().min(20)]
        );
        assert!(peer.ends(SOON), "the connection stays after Close {got}");
        assert!(self.wire.collect(Duration::from_millis(100)).is_empty(), "something was delivered");
    }
}
