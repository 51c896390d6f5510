//! What the hand-made peers are let loose on.

use crate::lab::capture::{Capture, Captured, KernelLog};
use crate::lab::frames::{BROADCAST, Wire, frame, mac, payload};
use crate::lab::packets::{Build, TCP, UDP, Vnet};
use crate::lab::switch::TwoHosts;
use crate::lab::ws::{self, BINARY, PING, PONG, RawWs, UPGRADE};
use crate::lab::{Host, SOON, Switch};

pub const C: u16 = 0x8100;
pub const S: u16 = 0x88a8;
pub const OFFER: &str = "Sec-WebSocket-Protocol: etherws.eth1, etherws.vnet1\r\n";
/// The largest frame; with its header the largest message.
pub const MAX_FRAME: usize = 65_597;

pub type Frames = Vec<(Vnet, Option<(u16, u16)>, Vec<u8>)>;

pub fn frames_at(host: &Host, device: &str) -> Capture<Frames> {
    let keep = |seen: &mut Frames, it: &Captured| seen.push((it.vnet, it.tag, it.frame.to_vec()));
    Capture::start(host, device, Vec::new(), keep)
}

/// A switch on B with a TAP that nobody but the test uses; peers are on A.
pub struct Target<'h> {
    pub hosts: &'h TwoHosts,
    pub switch: Switch<'h>,
    pub wire: Wire,
    pub addr: String,
}

impl<'h> Target<'h> {
    pub fn new(hosts: &'h TwoHosts, tap: &[&str]) -> Self {
        hosts.b.ok(&["sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1"]);
        // Captures of the TAP are compared whole.
        let switch = Switch::start(&hosts.b, &["--no-announce"]);
        switch.ctl_ok(&[&["addport", "tap", "t0", "--no-loop-guard"], tap].concat());
        let wire = Wire::open(&hosts.b, "t0");
        Self { hosts, switch, wire, addr: format!("{}:80", hosts.link.b) }
    }

    #[track_caller]
    pub fn vnet1(&self) -> RawWs {
        let (answer, ws) = ws::get(&self.hosts.a, &self.addr, "/", &format!("{UPGRADE}{OFFER}"));
        assert_eq!(answer.status, 101, "{}", answer.head);
        assert!(answer.head.contains("sec-websocket-protocol: etherws.vnet1\r\n"), "{}", answer.head);
        ws
    }

    /// A plain frame that nobody can refuse arrives.
    #[track_caller]
    pub fn honest(&self, peer: &mut RawWs) -> Vec<u8> {
        let marker = frame(BROADCAST, mac(0xbeef), &[], &payload(60));
        peer.send(BINARY, &Vnet::default().message(&marker));
        assert!(
            self.wire.receives(&marker, SOON),
            "{}\n{}",
            self.switch.all_drops(),
            self.switch.process.log()
        );
        marker
    }

    /// Each message is refused, counted once under its reason and under no other; nothing of it arrives,
    /// the kernel has nothing to say, the link stays and carries what is honest.
    #[track_caller]
    pub fn refuses(&self, cases: &[(&str, Vec<u8>, &str)]) {
        let mut log = KernelLog::open();
        let mut peer = self.vnet1();
        let mut markers = vec![self.honest(&mut peer)];
        let capture = frames_at(&self.hosts.b, "t0");
        markers.clear();
        for (what, message, reason) in cases {
            let before = (self.switch.drops(reason), self.all_drops());
            peer.send(BINARY, message);
            markers.push(self.honest(&mut peer));
            let after = (self.switch.drops(reason), self.all_drops());
            let drops = self.switch.all_drops();
            assert_eq!(after, (before.0 + 1, before.1 + 1), "{what}: not one of {reason}: {drops}");
        }
        let (seen, _) = capture.stop();
        let seen: Vec<_> = seen.into_iter().map(|(_, _, frame)| frame).collect();
        assert!(seen == markers, "something else arrived: {} frames, {} markers", seen.len(), markers.len());
        peer.send(PING, b"still there?");
        assert_eq!(peer.wait(PONG, SOON).as_deref(), Some(&b"still there?"[..]));
        let complaints = log.as_mut().map(KernelLog::complaints).unwrap_or_default();
        assert!(complaints.is_empty(), "{complaints:#?}");
    }

    pub fn all_drops(&self) -> u64 {
        let entries = self.switch.entries("listCounters");
        let drops = entries.iter().filter_map(|entry| entry["drops"].as_object());
        drops.flat_map(|drops| drops.values()).filter_map(serde_json::Value::as_u64).sum()
    }
}

/// A super-frame of four segments, the last one short.
pub fn four(v6: bool, protocol: u8, tags: &[(u16, u16)]) -> (Vnet, Vec<u8>) {
    let payload = payload(3500);
    Build { v6, protocol, tags, payload: &payload, gso_size: 1000, ..Build::default() }.build()
}

/// All that there are: IP version and protocol.
pub const FLOWS: [(bool, u8); 4] = [(false, TCP), (true, TCP), (false, UDP), (true, UDP)];
