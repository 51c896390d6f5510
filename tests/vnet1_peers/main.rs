//! Peers of `etherws.vnet1` made by hand: what honest ones send and get here, what dishonest ones do not
//! achieve in `refusals` and `hostile`, nor a device in `devices`.

mod devices;
mod hostile;
#[path = "../lab/mod.rs"]
mod lab;
mod refusals;
mod target;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use lab::capture::{Injector, KernelLog};
use lab::frames::{BROADCAST, PROBE, TYPE, ethertype, frame, mac, payload};
use lab::packets::{self, Build, GSO_ECN, GSO_NONE, GSO_TCPV4, Packet, TCP, UDP, Vnet};
use lab::switch::TwoHosts;
use lab::ws::{BINARY, FIN, PING, PONG, UPGRADE};
use lab::{Host, SOON, wait_until, ws};
use target::{C, FLOWS, OFFER, S, Target, four, frames_at};

#[test]
fn the_server_chooses_vnet1_when_it_is_offered() {
    let hosts = TwoHosts::new();
    let target = Target::new(&hosts, &[]);
    for (offer, chosen) in [
        (OFFER, Some("etherws.vnet1")),
        ("Sec-WebSocket-Protocol: etherws.vnet1\r\n", Some("etherws.vnet1")),
        ("Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Protocol: etherws.vnet1\r\n", Some("etherws.vnet1")),
        ("Sec-WebSocket-Protocol: etherws.eth1\r\n", Some("etherws.eth1")),
        ("Sec-WebSocket-Protocol: etherws.vnet2, chat\r\n", None),
        ("", None),
    ] {
        let (answer, mut peer) = ws::get(&hosts.a, &target.addr, "/", &format!("{UPGRADE}{offer}"));
        assert_eq!(answer.status, 101, "{offer}");
        let line = answer.head.lines().find_map(|line| line.strip_prefix("sec-websocket-protocol: "));
        assert_eq!(line, chosen, "{offer}");
        // And that is what it speaks.
        let marker = frame(BROADCAST, mac(3), &[], &payload(60));
        let message = Vnet::default().message(&marker);
        peer.send(BINARY, if chosen == Some("etherws.vnet1") { &message } else { &marker });
        assert!(target.wire.receives(&marker, SOON), "{offer}");
    }
}

/// Into the TAP and out of the link, and back: whole, with a header that we wrote.
#[test]
fn super_frames_pass_whole_in_both_directions() {
    let hosts = TwoHosts::new();
    let target = Target::new(&hosts, &[]);
    let mut peer = target.vnet1();
    both_ways(&target.hosts.b, &target, |message| peer.send(BINARY, message));
    let stack = Injector::open(&hosts.b, "t0");
    for (vnet, frame) in honest_frames() {
        stack.send(&vnet, &frame);
        assert_eq!(next_of(|limit| peer.wait(BINARY, limit), &frame), vnet);
    }
}

/// A server made by hand: its messages are not masked, ours are.
#[test]
fn a_client_offers_both_and_speaks_what_the_server_chose() {
    let hosts = TwoHosts::new();
    let target = Target::new(&hosts, &[]);
    let listener = hosts.a.listen("0.0.0.0:8000");
    target.switch.ctl_ok(&["addport", "client", &format!("ws://{}:8000/", hosts.link.a), "--name", "out"]);
    let (mut stream, _) = listener.accept().expect("accept");
    stream.set_read_timeout(Some(SOON)).expect("timeout");
    accept(&mut stream, "etherws.vnet1");
    target.switch.wait_state("out", "up");
    let mut out = stream.try_clone().expect("clone");
    both_ways(&hosts.b, &target, |message| out.write_all(&unmasked(message)).expect("send"));
    let stack = Injector::open(&hosts.b, "t0");
    for (vnet, frame) in honest_frames() {
        stack.send(&vnet, &frame);
        assert_eq!(next_of(|_| Some(read_masked(&mut stream)), &frame), vnet);
    }
}

/// Super-frames of every flow, with and without tags, and a frame with a checksum to complete.
fn honest_frames() -> Vec<(Vnet, Vec<u8>)> {
    let tags: [&[(u16, u16)]; 3] = [&[], &[(C, 0x600a)], &[(S, 20), (C, 10)]];
    let supers = FLOWS.into_iter().flat_map(|(v6, protocol)| tags.map(|tags| four(v6, protocol, tags)));
    let body = payload(900);
    let partial = FLOWS.map(|(v6, protocol)| {
        let (vnet, frame) = Build { v6, protocol, payload: &body, ..Build::default() }.build();
        // It tells us nothing that we do not find out.
        (Vnet { hdr_len: vnet.csum_start + if protocol == TCP { 20 } else { 8 }, ..vnet }, frame)
    });
    let cwr = Build { payload: &body, gso_size: 400, tcp_flags: 0x90, ..Build::default() }.build();
    let cwr = (Vnet { gso_type: GSO_TCPV4 | GSO_ECN, ..cwr.0 }, cwr.1);
    supers.chain(partial).chain([cwr]).collect()
}

/// Each honest frame sent by the peer arrives at the TAP as it was, whatever hdr_len said.
fn both_ways(host: &Host, target: &Target, mut send: impl FnMut(&[u8])) {
    let capture = frames_at(host, "t0");
    let sent = honest_frames();
    for (vnet, frame) in &sent {
        for hdr_len in [vnet.hdr_len, 0, 0xffff] {
            send(&Vnet { hdr_len, ..*vnet }.message(frame));
        }
    }
    let marker = frame(BROADCAST, mac(7), &[], &payload(60));
    send(&Vnet::default().message(&marker));
    assert!(target.wire.receives(&marker, SOON), "{}", target.switch.all_drops());
    let (seen, _) = capture.stop();
    assert_eq!(seen.len(), sent.len() * 3 + 1, "{}", target.switch.all_drops());
    for ((got, tag, bytes), (vnet, frame)) in seen.iter().zip(sent.iter().flat_map(|it| [it; 3])) {
        let mut whole = bytes.clone();
        // The kernel took the outer tag out, and counts from there.
        let shift = if let Some((tpid, tci)) = tag {
            whole.splice(12..12, [tpid.to_be_bytes(), tci.to_be_bytes()].concat());
            4
        } else {
            0
        };
        assert!(whole == *frame, "{vnet:?}: changed on its way");
        // hdr_len is the kernel's own here.
        let expected = Vnet { csum_start: vnet.csum_start - shift, hdr_len: got.hdr_len, ..*vnet };
        assert_eq!(*got, expected);
    }
}

/// The header of the message that has this frame.
#[track_caller]
fn next_of(mut next: impl FnMut(Duration) -> Option<Vec<u8>>, frame: &[u8]) -> Vnet {
    let deadline = Instant::now() + SOON;
    while let Some(message) = next(deadline.saturating_duration_since(Instant::now())) {
        let (header, rest) = message.split_at(Vnet::LEN);
        if rest == frame {
            return Vnet::from_bytes(header);
        }
        let is_other = [TYPE, PROBE].contains(&ethertype(rest));
        assert!(is_other, "another frame than expected: {:02x?}", &message[..80]);
    }
    panic!("the frame never came");
}

/// The server's side of the handshake; the client must have offered both.
fn accept(stream: &mut TcpStream, chosen: &str) {
    use base64::Engine;
    use sha1::Digest;
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a request");
        request.extend(byte);
    }
    let request = String::from_utf8(request).expect("UTF-8");
    let header = |name: &str| {
        let is = |line: &&str| line.to_lowercase().starts_with(name);
        request.lines().find(is).map(|line| line[name.len()..].trim().to_owned())
    };
    assert_eq!(
        header("sec-websocket-protocol:").as_deref(),
        Some("etherws.eth1, etherws.vnet1"),
        "{request}"
    );
    let key = header("sec-websocket-key:").expect("a key");
    let digest = sha1::Sha1::digest(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11"));
    let digest = base64::engine::general_purpose::STANDARD.encode(digest);
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {digest}\r\nSec-WebSocket-Protocol: {chosen}\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).expect("answer");
}

fn unmasked(payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![FIN | BINARY, 126];
    bytes.extend((payload.len() as u16).to_be_bytes());
    if payload.len() < 126 {
        bytes = vec![FIN | BINARY, payload.len() as u8];
    }
    [&bytes, payload].concat()
}

/// The next binary message of a client.
fn read_masked(stream: &mut TcpStream) -> Vec<u8> {
    loop {
        let mut head = [0; 2];
        stream.read_exact(&mut head).expect("a frame");
        assert_ne!(head[1] & 0x80, 0, "a client must mask");
        let len = match head[1] & 0x7f {
            126 => {
                let mut len = [0; 2];
                stream.read_exact(&mut len).expect("a length");
                usize::from(u16::from_be_bytes(len))
            }
            len => usize::from(len),
        };
        let (mut key, mut payload) = ([0; 4], vec![0; len]);
        stream.read_exact(&mut key).expect("a key");
        stream.read_exact(&mut payload).expect("a payload");
        payload.iter_mut().zip(key.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
        if head[0] == FIN | BINARY {
            return payload;
        }
    }
}

/// An access port puts a tag on what came untagged, and takes it off: the header moves with it.
#[test]
fn a_tag_that_comes_or_goes_moves_the_header() {
    let hosts = TwoHosts::new();
    let target = Target::new(&hosts, &["--access", "10"]);
    let mut peer = target.vnet1();
    let marker = frame(BROADCAST, mac(2), &[(C, 10)], &payload(60));
    peer.send(BINARY, &Vnet::default().message(&marker));
    let plain = [&marker[..12], &marker[16..]].concat();
    assert!(target.wire.receives(&plain, SOON), "{}", target.switch.all_drops());

    let stack = Injector::open(&hosts.b, "t0");
    for (v6, protocol) in FLOWS {
        let body = payload(3500);
        // A station on each side.
        let build = |station, tags| {
            let src = mac(station);
            Build { src, v6, protocol, tags, payload: &body, gso_size: 1000, ..Build::default() }.build()
        };
        let ((plain, untagged), (with_tag, tagged)) = (build(1, &[]), build(1, &[(C, 10)]));
        stack.send(&plain, &untagged);
        assert_eq!(next_of(|limit| peer.wait(BINARY, limit), &tagged), with_tag);
        let ((plain, untagged), (with_tag, tagged)) = (build(2, &[]), build(2, &[(C, 10)]));
        let capture = frames_at(&hosts.b, "t0");
        peer.send(BINARY, &with_tag.message(&tagged));
        assert!(target.wire.receives(&untagged, SOON), "{}", target.switch.all_drops());
        let (seen, _) = capture.stop();
        let [(got, None, bytes)] = &seen[..] else { panic!("one untagged frame: {}", seen.len()) };
        assert!(*bytes == untagged);
        assert_eq!(*got, Vnet { hdr_len: got.hdr_len, ..plain });
    }
}

/// What a classic peer gets is finished: segments of an ordinary size with valid checksums.
#[test]
fn a_classic_peer_gets_finished_frames() {
    let hosts = TwoHosts::new();
    let target = Target::new(&hosts, &[]);
    let mut peer = ws::open(&hosts.a, &target.addr);
    let marker = frame(BROADCAST, mac(3), &[], &payload(60));
    peer.send(BINARY, &marker);
    assert!(target.wire.receives(&marker, SOON));
    let stack = Injector::open(&hosts.b, "t0");
    for (vnet, frame) in honest_frames() {
        let whole = Packet::parse(vnet, None, &frame).expect("a packet").payload().to_vec();
        stack.send(&vnet, &frame);
        let mut got: Vec<u8> = Vec::new();
        while got.len() < whole.len() {
            let message = peer.wait(BINARY, SOON).expect("a segment");
            if ethertype(&message) == PROBE {
                continue;
            }
            let packet = Packet::parse(Vnet::default(), None, &message).expect("a packet");
            assert_eq!(packet.check(), Ok(()), "{vnet:?}");
            assert!(packet.payload().len() <= 1000, "{vnet:?}");
            assert_eq!(message[12..14], frame[12..14], "the tag");
            got.extend(packet.payload());
        }
        assert!(got == whole, "{vnet:?}");
    }
}

/// Many small segments are made here, not left to a kernel.
#[test]
fn what_is_unreasonable_is_split_in_software() {
    let hosts = TwoHosts::new();
    let target = Target::new(&hosts, &[]);
    let mut peer = target.vnet1();
    target.honest(&mut peer);
    let mut log = KernelLog::open();
    for (protocol, gso_size, count) in
        [(TCP, 8, 200), (TCP, 255, 4), (TCP, 256, 129), (UDP, 100, 20), (UDP, 300, 65)]
    {
        for v6 in [false, true] {
            let body = payload(gso_size * count);
            let build = Build { v6, protocol, payload: &body, gso_size: gso_size as u16, ..Build::default() };
            let capture = frames_at(&hosts.b, "t0");
            peer.send(BINARY, &build.message());
            target.honest(&mut peer);
            let (seen, _) = capture.stop();
            let what = format!("{protocol}, {count} of {gso_size}: {}", target.switch.all_drops());
            assert_eq!(seen.len(), count + 1, "{what}");
            let mut got: Vec<u8> = Vec::new();
            for (vnet, _, bytes) in &seen[..count] {
                let packet = Packet::parse(*vnet, None, bytes).expect("a packet");
                assert_eq!((packet.check(), vnet.gso_type), (Ok(()), GSO_NONE), "{what}");
                got.extend(packet.payload());
            }
            assert!(got == body, "{what}");
        }
    }
    let complaints = log.as_mut().map(KernelLog::complaints).unwrap_or_default();
    assert!(complaints.is_empty(), "{complaints:#?}");
}

/// A segment of one flow: TCP over IPv6, `seq` in the right place, finished or with its checksum (and
/// segmentation) still to be done.
fn segment(seq: u32, payload: &[u8], gso_size: u16, header_words: u8, is_finished: bool) -> (Vnet, Vec<u8>) {
    let build = Build { dst: mac(2), v6: true, payload, gso_size, ..Build::default() };
    let (mut vnet, mut frame) = build.build();
    frame[58..62].copy_from_slice(&seq.to_be_bytes());
    frame[66] = header_words << 4;
    if is_finished {
        packets::finish(&vnet, &mut frame);
        vnet = Vnet::default();
    }
    (vnet, frame)
}

/// A flow of which some frames are finished, some not, and some are to be split here, in one read.
#[test]
fn a_flow_keeps_its_order_finished_or_not() {
    let hosts = TwoHosts::new();
    let target = Target::new(&hosts, &[]);
    let mut peer = target.vnet1();
    target.honest(&mut peer);
    target.wire.send(&frame(BROADCAST, mac(2), &[], &payload(60)));
    wait_until("the station behind the TAP is known", SOON, || target.switch.fdb().len() == 2);
    let body = payload(3000);
    // (bytes, gso_size, finished)
    let flow = [
        (1000, 0, true),
        (1000, 0, true),
        (3000, 1000, false),
        (1000, 0, true),
        (600, 0, false),
        (1000, 0, true),
        (1000, 0, true),
        (1000, 200, false),
        (1000, 0, true),
    ];
    let (mut seq, mut sent) = (1000, Vec::new());
    for (len, gso_size, is_finished) in flow {
        let (vnet, frame) = segment(seq, &body[..len], gso_size, 5, is_finished);
        sent.extend(ws::frame(FIN | BINARY, &vnet.message(&frame)));
        seq += len as u32;
    }
    let capture = frames_at(&hosts.b, "t0");
    peer.send_raw(&sent);
    // A broadcast may overtake what is put together in its read; the next one is of a later read.
    let markers = [target.honest(&mut peer), target.honest(&mut peer)];
    let (seen, _) = capture.stop();
    let mut next = 1000;
    for (vnet, tag, bytes) in seen.iter().filter(|(_, _, bytes)| !markers.contains(bytes)) {
        let packet = Packet::parse(*vnet, *tag, bytes).expect("a packet");
        assert_eq!(packet.check(), Ok(()));
        assert_eq!(packet.seq(), next, "out of order");
        next += packet.payload().len() as u32;
    }
    assert_eq!(next, seq, "{}", target.switch.all_drops());
}

/// What comes in together is put together only when it is sound: here the second segment of a flow ends
/// where its options, says its header, begin, and the read with it.
#[test]
fn a_segment_cut_off_before_its_options_hurts_nobody() {
    let hosts = TwoHosts::new();
    let target = Target::new(&hosts, &[]);
    let mut peer = target.vnet1();
    let mut classic = ws::open(&hosts.a, &target.addr);
    target.honest(&mut peer);
    target.wire.send(&frame(BROADCAST, mac(2), &[], &payload(60)));
    wait_until("the station behind the TAP is known", SOON, || target.switch.fdb().len() == 2);
    let body = [&[1; 40][..], &payload(300)].concat();
    let (_, first) = segment(1000, &body, 0, 15, true);
    let (_, mut second) = segment(1300, &body, 0, 15, true);
    second.truncate(74);
    let plain = Vnet::default();
    let both = [&first, &second].map(|frame| ws::frame(FIN | BINARY, &plain.message(frame))).concat();
    let both_classic = [&first, &second].map(|frame| ws::frame(FIN | BINARY, frame)).concat();
    for (peer, bytes) in [(&mut peer, both), (&mut classic, both_classic)] {
        let capture = frames_at(&hosts.b, "t0");
        peer.send_raw(&bytes);
        // Neither is refused: what is inside finished frames is nobody's business.
        assert!(target.wire.receives(&second, SOON), "{}", target.switch.process.log());
        let (seen, _) = capture.stop();
        assert!(seen.iter().map(|(_, _, frame)| frame).eq([&first, &second]));
        peer.send(PING, b"?");
        assert!(peer.wait(PONG, SOON).is_some(), "{}", target.switch.process.log());
    }
    assert!(!target.switch.process.log().contains("panicked"));
}
