//! A device that tells lies at random. Its kernel says what it was told by whoever may: a packet socket, the driver of a
//! guest. What a peer is told of it then is sound all the same.

use crate::hostile::{Random, hostile};
use crate::lab::capture::Injector;
use crate::lab::frames::{PROBE, ethertype, frame, mac, payload};
use crate::lab::packets::{NEEDS_CSUM, Packet, Vnet};
use crate::lab::switch::TwoHosts;
use crate::lab::ws::{BINARY, RawWs};
use crate::lab::{Host, SOON};
use crate::target::{MAX_FRAME, Target};

/// What a peer was sent.
#[derive(Default, Debug)]
struct Sent {
    supers: usize,
    unfinished: usize,
    finished: usize,
}

#[test]
fn bad_44_to_bad_48_a_device_that_lies_hurts_nobody() {
    const COUNT: usize = 4_000;
    let hosts = TwoHosts::new();
    let tail = Host::new();
    tail.ok(&["sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1"]);
    let target = Target::new(&hosts, &[]);
    hosts.b.ok(&["ip", "link", "add", "x0", "type", "veth", "peer", "name", "y0", "netns", tail.name()]);
    hosts.b.ok(&["ip", "link", "set", "x0", "up"]);
    tail.ok(&["ip", "link", "set", "y0", "up"]);
    target.switch.ctl_ok(&["addport", "netdev", "x0", "--no-loop-guard"]);
    let mut peer = target.vnet1();
    // The station that all of it is for.
    peer.send(BINARY, &Vnet::default().message(&frame(mac(3), mac(2), &[], &payload(60))));
    for (host, device, port) in [(&hosts.b, "t0", "t0"), (&tail, "y0", "x0")] {
        let stack = Injector::open(host, device);
        let mut random = Random(0x0ff1_0ad5);
        let (mut sent, mut taken, before) = (Sent::default(), 0, target.all_drops());
        for number in 0..COUNT {
            let (vnet, lie) = hostile(&mut random);
            taken += usize::from(stack.offer(&vnet, &lie).is_ok());
            // Not more than waits somewhere: what is lost there says nothing.
            if number % 20 == 19 {
                let marker = frame(mac(2), mac(0xbeef), &[], &payload(60));
                stack.send(&Vnet::default(), &marker);
                assert!(
                    sent.all_before(&mut peer, &marker),
                    "{device}, before {number}: {}",
                    target.switch.all_drops()
                );
            }
        }
        let refused = target.all_drops() - before;
        println!(
            "{device}: {taken} taken by the kernel, {sent:?}, {refused} refused: {}",
            target.switch.all_drops()
        );
        // It was a mixture.
        assert!(
            taken > COUNT / 4 && sent.supers > COUNT / 50 && sent.unfinished > COUNT / 50,
            "too little passed"
        );
        assert!(sent.finished > COUNT / 50 && refused > 0, "too little was done, or refused");
        assert_eq!(target.switch.state(port), "up");
    }
    assert!(!target.switch.process.log().contains("panicked"));
}

impl Sent {
    /// Looks at what comes until `marker` does; `false` when it does not.
    fn all_before(&mut self, peer: &mut RawWs, marker: &[u8]) -> bool {
        while let Some(message) = peer.wait(BINARY, SOON) {
            let (header, frame) = message.split_at(Vnet::LEN);
            if frame == marker {
                return true;
            }
            if ethertype(frame) != PROBE {
                self.look(Vnet::from_bytes(header), frame);
            }
        }
        false
    }

    fn look(&mut self, vnet: Vnet, frame: &[u8]) {
        let what = || format!("{vnet:?}, {} bytes: {:02x?}", frame.len(), &frame[..frame.len().min(100)]);
        assert!(frame.len() <= MAX_FRAME, "{}", what());
        if vnet.flags & NEEDS_CSUM == 0 && !vnet.is_super() {
            assert_eq!(vnet, Vnet::default());
            return self.finished += 1;
        }
        let packet = Packet::parse(vnet, None, frame).unwrap_or_else(|| panic!("no TCP or UDP: {}", what()));
        assert_eq!(packet.check_request(), Ok(()), "{}", what());
        if vnet.is_super() {
            let segments = packet.payload().len().div_ceil(vnet.gso_size.into());
            assert!(vnet.gso_size >= 256 && segments <= 128, "should have been split: {}", what());
            self.supers += 1;
        }
        self.unfinished += 1;
    }
}
