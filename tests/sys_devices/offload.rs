//! What a kernel leaves to be done: checksums, and super-frames to split.

use std::io::{self, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use etherws::frame::Tag;
use etherws::frame::offload::{Arrived, Unfinished, VIRTIO_NET_HDR_F_NEEDS_CSUM, VnetHeader, insert_tag};
use etherws::frame::segment::Segments;
use etherws::port::netif;
use etherws::sys::packet::{PacketSocket, Received};
use etherws::sys::tun::Tap;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::uio::writev;

use super::{Cable, OneByOne, PATIENCE, frame, in_namespace, receive, soon};

/// The frames that the kernel's `bytes` become, and whether they were one super-frame.
fn finished(header: VnetHeader, mut bytes: Vec<u8>) -> (Vec<Vec<u8>>, bool) {
    let unfinished = match Unfinished::from_kernel(&mut bytes, &header).unwrap() {
        Arrived::Finished => return (vec![bytes], false),
        Arrived::Unfinished(unfinished) => unfinished,
        Arrived::Split(unfinished) => panic!("a kernel's own may go whole: {unfinished:?}"),
    };
    let mut segments = Segments::new(&bytes, &unfinished);
    let mut pieces = Vec::new();
    let mut buf = vec![0; segments.longest()];
    while let Some(len) = segments.write_next(&mut buf) {
        pieces.push(buf[..len].to_vec());
    }
    (pieces, unfinished.is_super())
}

fn header(received: &Received) -> VnetHeader {
    VnetHeader::from_native(received.vnet)
}

/// The definition of the checksum, over pseudo-header and datagram; 0xffff when it is right. No IP
/// options or extension headers here.
fn l4_sum(frame: &[u8], l3: usize) -> u16 {
    let v6 = frame[l3] >> 4 == 6;
    let (addresses, protocol, l4) = match v6 {
        true => (l3 + 8..l3 + 40, frame[l3 + 6], l3 + 40),
        false => (l3 + 12..l3 + 20, frame[l3 + 9], l3 + 20),
    };
    let len = (frame.len() - l4) as u16;
    ones_sum(&[&frame[addresses], &len.to_be_bytes(), &[0, protocol], &frame[l4..]].concat())
}

pub fn ones_sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[test]
fn partial_udp_checksums_are_completed() {
    in_namespace("partial_udp_checksums_are_completed", async || {
        let cable = Cable::lay().await;
        let udp = UdpSocket::bind("10.9.0.1:0").unwrap();
        udp.set_broadcast(true).unwrap();
        udp.send_to(b"a DHCP server's offer", "10.9.0.255:68").unwrap();
        let (received, bytes) = receive(&cable.socket, |_, bytes| bytes[12..14] == [8, 0]);
        assert_ne!(l4_sum(&bytes, 14), 0xffff, "a veth leaves checksums to hardware");
        let mut tagged = [&[0; 4], &bytes[..]].concat();
        let (pieces, _) = finished(header(&received), bytes);
        assert_eq!(l4_sum(&pieces[0], 14), 0xffff);

        // The same frame in a VLAN: the receiving kernel takes the tag out and leaves the checksum.
        insert_tag(&mut tagged, Tag { tpid: 0x8100, tci: 10 }).unwrap();
        let vnet = VnetHeader {
            flags: VIRTIO_NET_HDR_F_NEEDS_CSUM,
            csum_start: 38,
            csum_offset: 6,
            ..VnetHeader::default()
        };
        let sender = PacketSocket::open("b", false).unwrap();
        writev(&sender, &[IoSlice::new(&vnet.to_native()), IoSlice::new(&tagged)]).unwrap();
        let (received, bytes) = receive(&cable.socket, |received, _| received.tag.is_some());
        let mut whole = [&[0; 4], &bytes[..]].concat();
        insert_tag(&mut whole, received.tag.unwrap()).unwrap();
        assert_eq!(whole, tagged);
        assert_ne!(l4_sum(&whole, 18), 0xffff);
        let (pieces, _) = finished(header(&received).behind_tag(), whole);
        assert_eq!(l4_sum(&pieces[0], 18), 0xffff);
    });
}

/// Byte `i` of what is sent over TCP.
fn pattern(i: usize) -> u8 {
    (i * 31 + i / 251) as u8
}

#[test]
fn tcp_super_frames_split_into_valid_segments() {
    in_namespace("tcp_super_frames_split_into_valid_segments", async || {
        const TOTAL: usize = 600_000;
        for (address, l3_header) in [("10.9.0.2:0", 20), ("[fd09::2]:0", 40)] {
            let cable = Cable::lay().await;
            // An IPv6 address is tentative for a moment, although nobody asks for duplicates.
            let listener = cable.over_there(|| soon(|| TcpListener::bind(address)));
            let to: SocketAddr = listener.local_addr().unwrap();
            let reader = thread::spawn(move || {
                let mut sink = Vec::new();
                listener.accept().unwrap().0.read_to_end(&mut sink).unwrap();
                sink.len()
            });
            let sent: Vec<u8> = (0..TOTAL).map(pattern).collect();
            TcpStream::connect(to).unwrap().write_all(&sent).unwrap();
            assert_eq!(reader.join().unwrap(), TOTAL);

            let (mut isn, mut super_frames) = (0, 0);
            let mut seen = vec![false; TOTAL];
            let l4 = 14 + l3_header;
            let is_tcp = |bytes: &[u8]| match l3_header {
                20 => bytes[12..14] == [0x08, 0x00] && bytes[23] == 6,
                _ => bytes[12..14] == [0x86, 0xdd] && bytes[20] == 6,
            };
            for (received, bytes) in cable.drain().into_iter().filter(|(_, bytes)| is_tcp(bytes)) {
                assert!(!received.truncated);
                let (pieces, was_super) = finished(header(&received), bytes);
                super_frames += usize::from(was_super);
                for piece in pieces {
                    assert!(piece.len() <= 1514, "{}", piece.len());
                    assert_eq!(l4_sum(&piece, 14), 0xffff);
                    let seq = u32::from_be_bytes(piece[l4 + 4..l4 + 8].try_into().unwrap());
                    if piece[l4 + 13] & 0x02 != 0 {
                        isn = seq.wrapping_add(1);
                        continue;
                    }
                    let payload = &piece[l4 + usize::from(piece[l4 + 12] >> 4) * 4..];
                    let start = seq.wrapping_sub(isn) as usize;
                    for (i, byte) in payload.iter().enumerate() {
                        assert_eq!(*byte, pattern(start + i));
                        seen[start + i] = true;
                    }
                }
            }
            assert!(super_frames > 0, "{address}: the kernel sent no super-frame");
            assert!(seen.iter().all(|seen| *seen), "{address}: bytes are missing");
        }
    });
}

#[test]
fn udp_super_frames_split_into_valid_segments() {
    in_namespace("udp_super_frames_split_into_valid_segments", async || {
        for (from, to) in [("10.9.0.1:0", "10.9.0.2:9"), ("[fd09::1]:0", "[fd09::2]:9")] {
            let cable = Cable::lay().await;
            let udp = soon(|| UdpSocket::bind(from));
            setsockopt(&udp, sockopt::UdpGsoSegment, &1000).unwrap();
            let sent: Vec<u8> = (0..5500).map(pattern).collect();
            udp.send_to(&sent, to).unwrap();
            let (received, bytes) = receive(&cable.socket, |_, bytes| bytes.len() > 5500);
            let headers = bytes.len() - sent.len();
            let (pieces, _) = finished(header(&received), bytes);
            assert_eq!(pieces.len(), 6);
            let mut joined = Vec::new();
            for piece in pieces {
                assert_eq!(l4_sum(&piece, 14), 0xffff);
                joined.extend_from_slice(&piece[headers..]);
            }
            assert_eq!(joined, sent);
        }
    });
}

#[test]
fn a_tap_takes_and_gives_super_frames() {
    in_namespace("a_tap_takes_and_gives_super_frames", async || {
        let tap = Tap::open("t0", true, 1).unwrap();
        let granted = tap.offload().expect("this kernel has TUNSETOFFLOAD");
        netif::set_up("t0", true).await.unwrap();
        // What the TAP's host sends by itself is behind a header too, and asks for nothing.
        let on_device = PacketSocket::open("t0", true).unwrap();
        assert_eq!(on_device.offload().map(|granted| granted.uso), Some(granted.uso));
        let sent = frame(&[0x88, 0xb5, 1, 2, 3]);
        on_device.send(&[IoSlice::new(&sent)]).unwrap();
        let mut buf = [0; 2048];
        let deadline = Instant::now() + PATIENCE;
        let got = loop {
            assert!(Instant::now() < deadline, "the frame does not come out of the TAP");
            match tap.read(0, &mut buf) {
                Ok(len) if buf[VnetHeader::LEN..len] == sent => break len,
                Ok(_) => (),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(1)),
                Err(e) => panic!("{e}"),
            }
        };
        assert_eq!(got, VnetHeader::LEN + sent.len());
        let [header @ .., _] = buf.first_chunk::<11>().unwrap();
        assert!(VnetHeader::from_little_endian(*header).asks_nothing());
        // Into the host: with a header, else the kernel takes the frame's start for one.
        let header = VnetHeader::default().to_little_endian();
        tap.write(&[IoSlice::new(&header), IoSlice::new(&sent)]).unwrap();
        let mut buf = [0; 2048];
        let received = loop {
            assert!(Instant::now() < deadline, "the frame does not come out of the device");
            match on_device.recv(&mut buf) {
                Ok(received) => break received,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(1)),
                Err(e) => panic!("{e}"),
            }
        };
        assert_eq!(buf[..received.len], sent);
    });
}

#[test]
fn a_persistent_tap_is_left_without_offload() {
    in_namespace("a_persistent_tap_is_left_without_offload", async || {
        let tap = Tap::open("t0", true, 1).unwrap();
        tap.set_persist(true).unwrap();
        assert!(features("t0").contains("tx-tcp-segmentation: on"), "{}", features("t0"));
        drop(tap);
        assert!(features("t0").contains("tx-tcp-segmentation: off"), "{}", features("t0"));
        let tap = Tap::open("t0", true, 1).unwrap();
        assert!(tap.existed() && tap.offload().is_some());
        drop(tap);
        let tap = Tap::open("t0", false, 1).unwrap();
        assert!(tap.existed() && tap.offload().is_none());
        tap.set_persist(false).unwrap();
    });
}

/// `ethtool -k`, from the calling thread's namespace.
fn features(device: &str) -> String {
    let output = std::process::Command::new("ethtool").args(["-k", device]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}
