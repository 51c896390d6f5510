//! What a device may do to a port: hand over too much, or take nothing. On real devices.

mod lab;

use std::time::Duration;

use etherws::sys::packet::PacketSocket;
use lab::frames::{BROADCAST, Wire, frame, mac, passes, payload};
use lab::switch::TwoHosts;
use lab::{Host, SOON, Switch, inside, wait_until};

/// The kernel's BIG TCP makes frames larger than ours. Our own end of a cable refuses to; the other end is others'.
#[test]
fn bad_33_a_frame_larger_than_ours_is_dropped_by_name() {
    let hosts = TwoHosts::new();
    let cable = hosts.link.device.as_str();
    let switch = Switch::start(&hosts.b, &["--no-listen"]);
    switch.ctl_ok(&["addport", "netdev", cable]);
    switch.ctl_ok(&["addport", "tap", "t0"]);
    hosts.a.ok(&["ip", "link", "set", cable, "gso_max_size", "200000"]);
    let far = Wire::open(&hosts.b, "t0");
    let socket = inside(&hosts.a, || PacketSocket::open(cable, true).expect("socket"));
    let send = |frame: &[u8]| {
        // virtio_net_hdr: checksum wanted, TCPv6, 74 bytes of headers, segments of 1428, from 54 on, at 16.
        let fields = [74_u16, 1428, 54, 16].map(u16::to_ne_bytes).concat();
        let bytes = [&[1, 4], &*fields, frame].concat();
        socket.send_burst(&bytes, 0, &[bytes.len()]).expect("sent");
    };
    // Ethernet, IPv6 whose length says nothing any more, TCP with data.
    let tcp = |len: usize| {
        let mut frame = frame(mac(9), mac(1), &[], &payload(len));
        frame[12..22].copy_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, 6, 64]);
        frame[54..74].copy_from_slice(&[0, 9, 0, 9, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
        frame
    };
    for len in [65_584, 100_000, 150_000] {
        let before = switch.drops("oversize");
        send(&tcp(len));
        wait_until(&format!("{len} bytes are counted"), SOON, || switch.drops("oversize") == before + 1);
    }
    // Nothing of them came through, cut or whole, and the port lives.
    let near = Wire::open(&hosts.a, cable);
    let last = frame(BROADCAST, mac(1), &[], &payload(60));
    near.send(&last);
    let mut got = Vec::new();
    wait_until("the next frame comes through", SOON, || {
        got.extend(far.collect(Duration::from_millis(100)));
        got.contains(&last)
    });
    assert!(!got.iter().any(|frame| frame.starts_with(&mac(9))), "a part of it");
    assert_eq!(switch.state(cable), "up");
}

/// A TAP's kernel side takes no more than its send buffer, and what a slow network behind it has not sent is in there.
#[test]
fn bad_70_a_tap_that_takes_nothing_costs_frames_by_name_and_no_port() {
    let host = Host::new();
    let switch = Switch::start(&host, &["--no-listen"]);
    for tap in ["t0", "t1"] {
        // One that was there: where the switch writes to one of its own, the kernel does not let anybody set a limit.
        host.ok(&["ip", "tuntap", "add", tap, "mode", "tap"]);
        switch.ctl_ok(&["addport", "tap", tap, "--storm", "off"]);
    }
    host.ok(&["ip", "link", "add", "br0", "type", "bridge"]);
    host.ok(&["ip", "link", "add", "slow", "type", "veth", "peer", "name", "end"]);
    host.ok(&[
        "tc", "qdisc", "add", "dev", "slow", "root", "tbf", "rate", "8kbit", "burst", "2000", "limit",
        "1000000",
    ]);
    for device in ["t1", "slow"] {
        host.ok(&["ip", "link", "set", device, "master", "br0"]);
    }
    for device in ["br0", "slow", "end"] {
        host.ok(&["ip", "link", "set", device, "up"]);
    }
    let send_buffer = |bytes: u32| {
        let pid = switch.process.pid().to_string();
        host.ok(&["python3", "-c", SEND_BUFFER, &pid, &bytes.to_string()]);
    };
    let (t0, t1) = (Wire::open(&host, "t0"), Wire::open(&host, "t1"));
    // Of what goes to many the bridge sends copies, which are not charged to the TAP.
    let one = frame(mac(9), mac(1), &[], &payload(1400));
    passes(&t0, &t1, &one);
    send_buffer(1);
    let refused = || switch.drops("device-error");
    wait_until("frames are refused", SOON, || {
        (0..20).for_each(|_| t0.send(&one));
        refused() > 0
    });
    assert_eq!((switch.state("t0"), switch.state("t1")), ("up".to_owned(), "up".to_owned()));
    send_buffer(i32::MAX as u32);
    passes(&t0, &t1, &frame(BROADCAST, mac(1), &[], &payload(61)));
    assert_eq!(switch.state("t1"), "up");
}

/// Sets the send buffer of another process's TAPs (TUNSETSNDBUF), through a copy of its descriptors.
const SEND_BUFFER: &str = "
import ctypes, fcntl, os, struct, sys
pid, libc = int(sys.argv[1]), ctypes.CDLL(None, use_errno=True)
process, found = os.pidfd_open(pid), 0
for fd in os.listdir(f'/proc/{pid}/fd'):
    try:
        if os.readlink(f'/proc/{pid}/fd/{fd}') != '/dev/net/tun':
            continue
    except FileNotFoundError:
        continue
    own = libc.syscall(438, process, int(fd), 0)
    assert own >= 0, 'pidfd_getfd: ' + os.strerror(ctypes.get_errno())
    fcntl.ioctl(own, 0x400454d4, struct.pack('i', int(sys.argv[2])))
    found += 1
assert found > 0
";
