//! What a peer may not send, numbered as in the project's list: each is dropped by its name.

use crate::lab::SOON;
use crate::lab::frames::{BROADCAST, frame, mac, payload};
use crate::lab::packets::{Build, GSO_ECN, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, TCP, UDP, Vnet};
use crate::lab::switch::TwoHosts;
use crate::lab::ws::{self, BINARY};
use crate::target::{C, FLOWS, MAX_FRAME, S, Target, four, frames_at};

/// The same with another header.
fn lie(v6: bool, protocol: u8, change: impl FnOnce(&mut Vnet)) -> Vec<u8> {
    let (mut vnet, frame) = four(v6, protocol, &[]);
    change(&mut vnet);
    vnet.message(&frame)
}

/// The same with another frame.
fn broken(v6: bool, protocol: u8, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let (vnet, mut frame) = four(v6, protocol, &[]);
    change(&mut frame);
    vnet.message(&frame)
}

#[test]
fn bad_30_44_too_short_for_their_headers() {
    let hosts = TwoHosts::new();
    let target = Target::new(&hosts, &[]);
    let (vnet, frame) = four(false, TCP, &[]);
    let whole = vnet.message(&frame);
    let cases: Vec<_> = [0, 1, 9, 10, 11, 23].map(|len| ("short", whole[..len].to_vec(), "runt")).into();
    target.refuses(&cases);
}

#[test]
fn bad_44_sizes_that_are_none() {
    let hosts = TwoHosts::new();
    let target = Target::new(&hosts, &[]);
    let mut cases = Vec::new();
    for (v6, protocol) in FLOWS {
        for size in (0..8).chain([0xffff]) {
            cases.push(("gso_size", lie(v6, protocol, |vnet| vnet.gso_size = size), "gso-size"));
        }
    }
    target.refuses(&cases);
}

#[test]
fn bad_45_types_that_disagree() {
    let hosts = TwoHosts::new();
    let target = Target::new(&hosts, &[]);
    let mut cases = Vec::new();
    for (v6, protocol) in FLOWS {
        let mut typed = |what, gso_type, reason| {
            cases.push((what, lie(v6, protocol, |vnet| vnet.gso_type = gso_type), reason));
        };
        let (right, _) = four(v6, protocol, &[]);
        for gso_type in [GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4].into_iter().filter(|it| *it != right.gso_type) {
            typed("another flow's type", gso_type, "gso-type");
        }
        typed("ECN of nothing", GSO_ECN, "gso-type");
        typed("ECN of UDP", GSO_ECN | GSO_UDP_L4, "gso-type");
        typed("UFO", 3, "gso-ufo");
        typed("UFO with ECN", 3 | GSO_ECN, "gso-ufo");
        for tunnel in [0x20, 0x40, 0x60, 0x20 | right.gso_type, 0x40 | right.gso_type] {
            typed("a tunnel", tunnel, "offload-tunnel");
        }
        for unknown in [2, 6, 7, 0x10, 0x11, 0x1f] {
            typed("no type", unknown, "gso-unknown");
        }
        for flags in [4, 5, 8, 0x81, 0xff] {
            cases.push(("flags", lie(v6, protocol, |vnet| vnet.flags = flags), "vnet-flags"));
        }
    }
    for (what, flags) in [("SYN", 0x02), ("RST", 0x14)] {
        for v6 in [false, true] {
            let body = payload(3500);
            let build = Build { v6, payload: &body, gso_size: 1000, tcp_flags: flags, ..Build::default() };
            cases.push((what, build.message(), "gso-syn-rst"));
        }
    }
    let mut changed = |what, v6, at, bytes: &[u8], reason| {
        let change = |frame: &mut Vec<u8>| frame[at..at + bytes.len()].copy_from_slice(bytes);
        cases.push((what, broken(v6, TCP, change), reason));
    };
    for v6 in [false, true] {
        changed("ARP", v6, 12, &[8, 6], "offload-protocol");
        changed(
            "the other version's EtherType",
            v6,
            12,
            if v6 { &[8, 0] } else { &[0x86, 0xdd] },
            "offload-protocol",
        );
        let protocol = if v6 { 14 + 6 } else { 14 + 9 };
        changed("SCTP", v6, protocol, &[132], "offload-protocol");
        changed("IP in IP", v6, protocol, &[4], "offload-tunnel");
        changed("GRE", v6, protocol, &[47], "offload-tunnel");
    }
    changed("the first fragment", false, 14 + 6, &[0x20, 0], "offload-fragment");
    changed("a later fragment", false, 14 + 6, &[0, 5], "offload-fragment");
    changed("an IPv6 fragment", true, 14 + 6, &[44], "offload-fragment");
    target.refuses(&cases);
}

#[test]
fn bad_46_checksums_that_are_not_at_l4() {
    let hosts = TwoHosts::new();
    let target = Target::new(&hosts, &[]);
    let mut cases = Vec::new();
    for (v6, protocol) in FLOWS {
        for gso in [true, false] {
            let mut case = |what, reason, change: &dyn Fn(&mut Vnet)| {
                let plain = |vnet: &mut Vnet| {
                    if !gso {
                        (vnet.gso_type, vnet.gso_size) = (0, 0);
                    }
                    change(vnet);
                };
                // Not longer than the device's MTU.
                let body = payload(if gso { 3500 } else { 900 });
                let build = Build { v6, protocol, payload: &body, gso_size: 1000, ..Build::default() };
                let (mut vnet, frame) = build.build();
                plain(&mut vnet);
                cases.push((what, vnet.message(&frame), reason));
            };
            for start in [0, 14, 33, 50, 55, 900, 3553, 3554, 0x7fff, 0xfffe, 0xffff] {
                case("csum_start", "checksum-start", &|vnet| vnet.csum_start = start);
            }
            let other = if protocol == TCP { 6 } else { 16 };
            for offset in [0, 2, other, 4000, 0xffff] {
                case("csum_offset", "checksum-offset", &|vnet| vnet.csum_offset = offset);
            }
        }
    }
    target.refuses(&cases);
}

#[test]
fn bad_47_super_frames_without_a_checksum_request() {
    let hosts = TwoHosts::new();
    let target = Target::new(&hosts, &[]);
    let mut cases = Vec::new();
    let tags: [&[(u16, u16)]; 4] = [&[], &[(C, 10)], &[(S, 20), (C, 10)], &[(C, 1), (C, 2), (C, 3)]];
    for (v6, protocol) in FLOWS {
        for tags in tags {
            for flags in [0, 2] {
                let (vnet, frame) = four(v6, protocol, tags);
                cases.push(("no request", Vnet { flags, ..vnet }.message(&frame), "gso-no-checksum"));
            }
        }
    }
    target.refuses(&cases);
}

#[test]
fn bad_48_lengths_that_disagree_and_too_many_segments() {
    let hosts = TwoHosts::new();
    let target = Target::new(&hosts, &[]);
    let mut cases = Vec::new();
    for (v6, protocol) in FLOWS {
        let body = payload(8 * 1025);
        let build = Build { v6, protocol, payload: &body, gso_size: 8, ..Build::default() };
        cases.push(("1,025 segments", build.message(), "gso-segments"));
        let l3_len = if v6 { 14 + 4 } else { 14 + 2 };
        for change in [-1i32, 1, 100, -3000] {
            cases.push((
                "IP's length",
                broken(v6, protocol, |frame| add(frame, l3_len, change)),
                "offload-length",
            ));
        }
        cases.push(("cut off", broken(v6, protocol, |frame| frame.truncate(2000)), "offload-length"));
        cases.push((
            "cut in its headers",
            broken(v6, protocol, |frame| frame.truncate(40)),
            "offload-length",
        ));
        cases.push(("more behind", broken(v6, protocol, |frame| frame.extend([0; 10])), "offload-length"));
        let l4 = if v6 { 54 } else { 34 };
        if protocol == UDP {
            for change in [-1, 1, -3000] {
                cases.push((
                    "UDP's length",
                    broken(v6, UDP, |frame| add(frame, l4 + 4, change)),
                    "offload-length",
                ));
            }
        } else {
            cases.push(("data offset 4", broken(v6, TCP, |frame| frame[l4 + 12] = 0x40), "offload-length"));
        }
    }
    cases.push(("IHL 4", broken(false, TCP, |frame| frame[14] = 0x44), "offload-length"));
    target.refuses(&cases);

    // The message that is longer than any frame with its header closes the link; the longest does not.
    let (vnet, mut longest) = four(false, TCP, &[]);
    longest.resize(MAX_FRAME, 0);
    let mut peer = target.vnet1();
    peer.send(BINARY, &vnet.message(&longest));
    target.honest(&mut peer);
    longest.push(0);
    peer.send(BINARY, &vnet.message(&longest));
    assert_eq!(peer.close_code(), 1009);
}

fn add(frame: &mut [u8], at: usize, change: i32) {
    let old = u16::from_be_bytes([frame[at], frame[at + 1]]);
    frame[at..at + 2].copy_from_slice(&old.wrapping_add(change as u16).to_be_bytes());
}

/// On a classic link a virtio header is no header but the first bytes of a frame; on a vnet1 link a plain
/// frame's first bytes are a header that is refused.
#[test]
fn bad_49_a_header_that_was_not_negotiated() {
    let hosts = TwoHosts::new();
    let target = Target::new(&hosts, &[]);
    let mut classic = ws::open(&hosts.a, &target.addr);
    let (vnet, frame) = Build { payload: &payload(900), gso_size: 400, ..Build::default() }.build();
    let message = vnet.message(&frame);
    let capture = frames_at(&hosts.b, "t0");
    classic.send(BINARY, &message);
    assert!(target.wire.receives(&message, SOON), "{}", target.switch.all_drops());
    let (seen, _) = capture.stop();
    assert!(seen == [(Vnet::default(), None, message)], "taken for what it is not");
    drop(classic);

    let plain = |dst| frame_to(dst);
    target.refuses(&[
        ("a plain broadcast", plain(BROADCAST), "vnet-flags"),
        ("a plain frame to a station", plain([0x52, 0x54, 0, 1, 2, 3]), "vnet-flags"),
        ("a plain frame to another", plain([2, 0x42, 0, 1, 2, 3]), "offload-tunnel"),
    ]);
}

fn frame_to(dst: [u8; 6]) -> Vec<u8> {
    frame(dst, mac(1), &[], &payload(60))
}
