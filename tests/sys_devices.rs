//! TAPs, packet sockets and netlink against the kernel, in network namespaces of their own.
//!
//! ```text
//!   namespace "near"                  namespace "far"
//!   b 10.9.0.1/24  ----- veth -----   a 10.9.0.2/24
//!     fd09::1/64                        fd09::2/64
//!   sender                            receiver and PacketSocket
//! ```

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use etherws::frame::offload::{Arrived, Unfinished, VIRTIO_NET_HDR_F_NEEDS_CSUM, VnetHeader, insert_tag};
use etherws::frame::segment::Segments;
use etherws::frame::{MAX_FRAME, MacAddr, Tag};
use etherws::port::PortError;
use etherws::port::netif::{self, Event};
use etherws::port::spec::InterfaceChange;
use etherws::sys::OpenError;
use etherws::sys::packet::{Burst, PacketSocket, Received};
use etherws::sys::tun::Tap;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::uio::writev;
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};

/// One frame at a time, for tests that look at each.
trait OneByOne {
    fn recv(&self, buf: &mut [u8]) -> io::Result<Received>;
    fn send(&self, frame: &[IoSlice<'_>]) -> io::Result<usize>;
}

impl OneByOne for PacketSocket {
    fn recv(&self, buf: &mut [u8]) -> io::Result<Received> {
        let mut burst = Burst::new(1, buf.len());
        assert_eq!(self.recv_burst(&mut burst)?, 1);
        let (received, bytes) = burst.frames().next().unwrap();
        let received = received.unwrap();
        buf[..received.len].copy_from_slice(&bytes[Tag::LEN..][..received.len]);
        Ok(received)
    }

    fn send(&self, frame: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut bytes = VnetHeader::default().to_native().to_vec();
        frame.iter().for_each(|part| bytes.extend_from_slice(part));
        assert_eq!(self.send_burst(&bytes, 0, &[bytes.len()])?, 1);
        Ok(bytes.len() - VnetHeader::LEN)
    }
}

/// How long a busy machine may take for what happens at once.
const PATIENCE: Duration = Duration::from_secs(10);

/// Ethernet addresses, then what `rest` says.
fn frame(rest: &[u8]) -> Vec<u8> {
    let mut frame = b"\x02\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x02".to_vec();
    frame.extend(rest);
    frame.resize(frame.len().max(64), 0x5a);
    frame
}

/// Runs `test` on a thread with a network namespace and a tokio runtime of its own.
fn in_namespace(name: &str, test: impl AsyncFnOnce() + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        // Past the harness, which swallows the output of tests that pass.
        let text = format!("SKIPPED {name}: needs root (CAP_NET_ADMIN, /dev/net/tun)\n");
        io::stderr().write_all(text.as_bytes()).unwrap();
        return;
    }
    let outcome = thread::spawn(|| {
        enter_new_namespace();
        runtime().block_on(test());
    });
    if let Err(panic) = outcome.join() {
        std::panic::resume_unwind(panic);
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// With little of IPv6's own chatter on new devices.
fn enter_new_namespace() -> File {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    std::fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0").unwrap();
    std::fs::write("/proc/sys/net/ipv6/conf/default/addr_gen_mode", "1").unwrap();
    File::open("/proc/thread-self/ns/net").unwrap()
}

/// Until then the kernel drops what is sent.
async fn carrier(name: &str) {
    let wait = async {
        while !netif::status(name).await.unwrap().running {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("no carrier");
}

/// The first success of `attempt`.
fn soon<T>(mut attempt: impl FnMut() -> io::Result<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Ok(done) => return done,
            Err(e) => assert!(Instant::now() < deadline, "{e}"),
        }
        thread::sleep(Duration::from_millis(1));
    }
}

fn change(addresses: &[&str]) -> InterfaceChange {
    InterfaceChange { address: addresses.iter().map(|a| a.parse().unwrap()).collect(), mtu: None, mac: None }
}

fn texts(netif: &netif::Netif) -> Vec<String> {
    netif.addresses.iter().map(ToString::to_string).collect()
}

/// The topology above; the thread stays in "near".
struct Cable {
    far: File,
    near: File,
    socket: PacketSocket,
}

impl Cable {
    async fn lay() -> Self {
        let far = enter_new_namespace();
        let near = enter_new_namespace();
        {
            use std::os::fd::AsRawFd;
            let (connection, handle, _) = rtnetlink::new_connection().unwrap();
            tokio::spawn(connection);
            handle.link().add(LinkVeth::new("b", "a").build()).execute().await.unwrap();
            let index = netif::status("a").await.unwrap().index;
            let message =
                LinkMessageBuilder::<LinkUnspec>::new().index(index).setns_by_fd(far.as_raw_fd()).build();
            handle.link().set(message).execute().await.unwrap();
        }
        netif::apply("b", &change(&["10.9.0.1/24", "fd09::1/64"])).await.unwrap();
        netif::set_up("b", true).await.unwrap();
        setns(&far, CloneFlags::CLONE_NEWNET).unwrap();
        netif::apply("a", &change(&["10.9.0.2/24", "fd09::2/64"])).await.unwrap();
        netif::set_up("a", true).await.unwrap();
        let socket = PacketSocket::open("a", false).unwrap();
        carrier("a").await;
        setns(&near, CloneFlags::CLONE_NEWNET).unwrap();
        carrier("b").await;
        Self { far, near, socket }
    }

    /// What `make` opens belongs to "far".
    fn over_there<T>(&self, make: impl FnOnce() -> T) -> T {
        setns(&self.far, CloneFlags::CLONE_NEWNET).unwrap();
        let made = make();
        setns(&self.near, CloneFlags::CLONE_NEWNET).unwrap();
        made
    }

    fn drain(&self) -> Vec<(Received, Vec<u8>)> {
        let mut buf = vec![0; MAX_FRAME];
        let mut all = Vec::new();
        while let Ok(received) = self.socket.recv(&mut buf) {
            all.push((received, buf[..received.len].to_vec()));
        }
        all
    }
}

/// The first frame that `wanted` accepts; kernels chatter (MLD, neighbour discovery).
fn receive(socket: &PacketSocket, mut wanted: impl FnMut(&Received, &[u8]) -> bool) -> (Received, Vec<u8>) {
    let mut buf = vec![0; MAX_FRAME];
    soon(|| {
        loop {
            let received = socket.recv(&mut buf)?;
            if wanted(&received, &buf[..received.len]) {
                return Ok((received, buf[..received.len].to_vec()));
            }
        }
    })
}

/// Made by [`frame`].
fn ours(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x02\x00\x00\x00\x00\x01")
}

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

fn ones_sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[test]
fn a_tap_comes_stays_and_goes_as_asked() {
    in_namespace("a_tap_comes_stays_and_goes_as_asked", async || {
        let tap = Tap::open("t0", false, 1).unwrap();
        assert!(!tap.existed());
        let busy = Tap::open("t0", false, 1).unwrap_err();
        assert!(matches!(&busy, OpenError::Failed(text) if text.contains("another process")), "{busy}");
        tap.set_persist(true).unwrap();
        drop(tap);
        assert_eq!(netif::exists("t0").await, Ok(true));
        let tap = Tap::open("t0", false, 1).unwrap();
        assert!(tap.existed());
        tap.set_persist(false).unwrap();
        drop(tap);
        assert_eq!(netif::exists("t0").await, Ok(false));
        let wrong = Tap::open("lo", false, 1).unwrap_err();
        assert!(matches!(&wrong, OpenError::Invalid(text) if text.contains("not a TAP")), "{wrong}");
    });
}

#[test]
fn frames_pass_a_tap_in_both_directions() {
    in_namespace("frames_pass_a_tap_in_both_directions", async || {
        let tap = Tap::open("t0", false, 1).unwrap();
        let sent = frame(b"\x88\xb5hello");
        let down = tap.write(&[IoSlice::new(&sent)]).unwrap_err();
        assert_eq!(down.raw_os_error(), Some(libc::EIO));
        assert_eq!(tap.read(0, &mut [0; 100]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        netif::set_up("t0", true).await.unwrap();
        let on_device = PacketSocket::open("t0", false).unwrap();

        assert_eq!(tap.write(&[IoSlice::new(&sent[..20]), IoSlice::new(&sent[20..])]).unwrap(), sent.len());
        let mut buf = vec![0; MAX_FRAME];
        let (received, bytes) = receive(&on_device, |_, bytes| ours(bytes));
        assert_eq!((bytes, received.truncated), (sent.clone(), false));

        assert_eq!(
            on_device.send(&[IoSlice::new(&sent[..14]), IoSlice::new(&sent[14..])]).unwrap(),
            sent.len()
        );
        let len = soon(|| {
            loop {
                let len = tap.read(0, &mut buf)?;
                if ours(&buf) {
                    return Ok(len);
                }
            }
        });
        assert_eq!(&buf[..len], sent);

        assert_eq!(tap.write(&[IoSlice::new(&sent[..13])]).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        netif::delete("t0").await.unwrap();
        assert_eq!(tap.read(0, &mut buf).unwrap_err().raw_os_error(), Some(libc::EBADFD));
    });
}

#[test]
fn a_tap_of_several_queues_deals_out_flows_and_is_handed_over() {
    in_namespace("a_tap_of_several_queues_deals_out_flows_and_is_handed_over", async || {
        let mut tap = Tap::open("t0", false, 16).unwrap();
        assert_eq!(tap.queues(), 16);
        netif::one_qdisc("t0").await.unwrap();
        let change = InterfaceChange { address: vec!["10.9.0.1/24".parse().unwrap()], ..Default::default() };
        netif::apply("t0", &change).await.unwrap();
        netif::set_up("t0", true).await.unwrap();
        // A second process would get a share of the frames.
        let busy = Tap::open("t0", false, 16).unwrap_err();
        assert!(matches!(&busy, OpenError::Invalid(text) if text.contains("several queues")), "{busy}");

        // The station that all flows go to answers for itself, so the kernel knows both ways of a flow.
        let station = MacAddr::new([2, 0, 0, 0, 0, 9]);
        let ours = netif::status("t0").await.unwrap().mac;
        let neighbour = format!("ip neigh add 10.9.0.2 lladdr {station} dev t0");
        assert!(std::process::Command::new("sh").args(["-c", &neighbour]).status().unwrap().success());
        let flows = |tap: &Tap| {
            let mut of = vec![Vec::new(); tap.queues()];
            for n in 0..FLOWS {
                let socket = UdpSocket::bind("10.9.0.1:0").unwrap();
                let port = socket.local_addr().unwrap().port();
                for round in 0..3 {
                    socket.send_to(&[n, round], "10.9.0.2:9").unwrap();
                    let answer = udp((station, [10, 9, 0, 2], 9), (ours, [10, 9, 0, 1], port), &[n, round]);
                    tap.write(&[IoSlice::new(&answer)]).unwrap();
                    let mut read = [0; 2];
                    socket.set_read_timeout(Some(PATIENCE)).unwrap();
                    assert_eq!((socket.recv(&mut read).unwrap(), read), (2, [n, round]));
                }
            }
            let mut buf = vec![0; MAX_FRAME];
            for (queue, of) in of.iter_mut().enumerate() {
                while let Ok(len) = tap.read(queue, &mut buf) {
                    if buf[..6] == station.octets() {
                        of.push((buf[len - 2], buf[len - 1]));
                    }
                }
            }
            of
        };
        for handed_over in [false, true] {
            let of = flows(&tap);
            let all: usize = of.iter().map(Vec::len).sum();
            assert_eq!(all, usize::from(FLOWS) * 3, "{of:?}");
            assert!(of.iter().filter(|frames| !frames.is_empty()).count() > 4, "all in one: {of:?}");
            for n in 0..FLOWS {
                let whole = of
                    .iter()
                    .any(|of| of.iter().filter(|(flow, _)| *flow == n).map(|(_, round)| *round).eq(0..3));
                assert!(whole, "flow {n} is in several queues, or out of order: {of:?}");
            }
            if !handed_over {
                let fd = tap.as_fd().try_clone_to_owned().unwrap();
                drop(tap);
                tap = Tap::adopt(fd, "t0", false, 16).unwrap();
                assert_eq!(tap.queues(), 16);
            }
        }
        drop(tap);
        assert_eq!(netif::exists("t0").await, Ok(false));
    });
}

/// Enough that 16 queues do not get all of them into four by chance (one in 10^8).
const FLOWS: u8 = 32;

/// A UDP datagram, its checksum left out (RFC 768), from a station, its address and port to another's.
fn udp(from: (MacAddr, [u8; 4], u16), to: (MacAddr, [u8; 4], u16), payload: &[u8]) -> Vec<u8> {
    let len = 28 + payload.len() as u16;
    let mut ip = vec![0x45, 0];
    ip.extend(len.to_be_bytes());
    ip.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    ip.extend(from.1);
    ip.extend(to.1);
    let sum = !ones_sum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut frame = [to.0.octets(), from.0.octets()].concat();
    frame.extend([8, 0]);
    frame.extend(ip);
    frame.extend(from.2.to_be_bytes());
    frame.extend(to.2.to_be_bytes());
    frame.extend((len - 20).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(payload);
    frame
}

#[test]
fn vlan_tags_come_back_and_own_frames_do_not() {
    in_namespace("vlan_tags_come_back_and_own_frames_do_not", async || {
        let cable = Cable::lay().await;
        let sender = PacketSocket::open("b", false).unwrap();
        for (sent, tag) in [
            (frame(b"\x88\xb5plain"), None),
            (frame(b"\x81\x00\x60\x0a\x88\xb5tagged"), Some(Tag { tpid: 0x8100, tci: 0x600a })),
            (frame(b"\x81\x00\x00\x00\x88\xb5priority"), Some(Tag { tpid: 0x8100, tci: 0 })),
            (frame(b"\x88\xa8\x00\x14\x81\x00\x00\x0a\x88\xb5qinq"), Some(Tag { tpid: 0x88a8, tci: 20 })),
        ] {
            assert_eq!(sender.send(&[IoSlice::new(&sent)]).unwrap(), sent.len());
            let (received, bytes) = receive(&cable.socket, |_, bytes| ours(bytes));
            assert_eq!((received.tag, received.truncated), (tag, false));
            let mut whole = vec![0; 4];
            whole.extend(bytes);
            match tag {
                Some(tag) => insert_tag(&mut whole, tag).unwrap(),
                None => drop(whole.drain(..4)),
            }
            assert_eq!(whole, sent);
        }
        let short = &mut [0; 40];
        sender.send(&[IoSlice::new(&frame(b"\x88\xb5long"))]).unwrap();
        let received = soon(|| {
            loop {
                let received = cable.socket.recv(short)?;
                if ours(short) {
                    return Ok(received);
                }
            }
        });
        assert_eq!((received.len, received.truncated), (40, true));

        // Nor do those that others send from this side.
        let neighbour = cable.over_there(|| PacketSocket::open("a", false).unwrap());
        for sender in [&cable.socket, &neighbour] {
            sender.send(&[IoSlice::new(&frame(b"\x88\xb5own"))]).unwrap();
        }
        assert!(!cable.drain().iter().any(|(_, bytes)| ours(bytes)));
    });
}

#[test]
fn packet_sockets_refuse_what_they_cannot_serve_and_tell_when_it_is_down() {
    in_namespace("packet_sockets_refuse_what_they_cannot_serve_and_tell_when_it_is_down", async || {
        assert!(matches!(PacketSocket::open("nosuch", false), Err(OpenError::NotFound(_))));
        let lo = PacketSocket::open("lo", false).unwrap_err();
        assert!(matches!(&lo, OpenError::Invalid(text) if text.contains("not an Ethernet device")), "{lo}");
        let cable = Cable::lay().await;
        let far = PacketSocket::open("b", false).unwrap();
        netif::set_up("b", false).await.unwrap();
        let sent = frame(b"\x88\xb5down");
        assert_eq!(far.recv(&mut [0; 100]).unwrap_err().raw_os_error(), Some(libc::ENETDOWN));
        assert_eq!(far.send(&[IoSlice::new(&sent)]).unwrap_err().raw_os_error(), Some(libc::ENETDOWN));
        // Up again it goes on by itself.
        netif::set_up("b", true).await.unwrap();
        carrier("b").await;
        let mut buf = [0; 100];
        let received = soon(|| {
            // Dropped until that end has seen the carrier too.
            let _ = cable.socket.send(&[IoSlice::new(&sent)]);
            far.recv(&mut buf)
                .and_then(|r| if ours(&buf) { Ok(r) } else { Err(io::ErrorKind::WouldBlock.into()) })
        });
        assert_eq!(buf[..received.len], sent);
        netif::delete("b").await.unwrap();
        assert_eq!(far.recv(&mut buf).unwrap_err().raw_os_error(), Some(libc::ENETDOWN));
        assert_eq!(far.send(&[IoSlice::new(&sent)]).unwrap_err().raw_os_error(), Some(libc::ENXIO));
    });
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
fn interfaces_change_as_asked_and_not_by_halves() {
    in_namespace("interfaces_change_as_asked_and_not_by_halves", async || {
        let _tap = Tap::open("t0", false, 1).unwrap();
        assert!(matches!(netif::status("nosuch").await, Err(PortError::NotFound(_))));
        let mac: MacAddr = "02:11:22:33:44:55".parse().unwrap();
        let all =
            InterfaceChange { mtu: Some(9000), mac: Some(mac), ..change(&["10.0.0.1/24", "fd00::1/64"]) };
        netif::set_up("t0", true).await.unwrap();
        netif::apply("t0", &all).await.unwrap();
        let now = netif::status("t0").await.unwrap();
        assert_eq!((now.mtu, now.mac, now.up), (9000, mac, true));
        assert_eq!(texts(&now), ["10.0.0.1/24", "fd00::1/64"]);
        assert_eq!(now.ipv4().unwrap().to_string(), "10.0.0.1/24");

        for (wanted, outcome) in [
            // The same again.
            (&["10.0.0.1/24"][..], &["10.0.0.1/24", "fd00::1/64"][..]),
            // In the same subnet: without care the kernel would take the new one away with the old.
            (&["10.0.0.2/24"], &["10.0.0.2/24", "fd00::1/64"]),
            (&["10.0.0.3/24", "10.0.0.4/24"], &["10.0.0.3/24", "10.0.0.4/24", "fd00::1/64"]),
            // Only the prefix length.
            (&["10.0.0.3/16"], &["10.0.0.3/16", "fd00::1/64"]),
            (&["fd00::1/48"], &["10.0.0.3/16", "fd00::1/48"]),
            (&["fd00::2/64", "192.0.2.1/31"], &["192.0.2.1/31", "fd00::2/64"]),
        ] {
            netif::apply("t0", &change(wanted)).await.unwrap();
            assert_eq!(texts(&netif::status("t0").await.unwrap()), outcome, "{wanted:?}");
        }

        let before = netif::status("t0").await.unwrap();
        let good = InterfaceChange {
            mtu: Some(1400),
            mac: Some("02:00:00:00:00:01".parse().unwrap()),
            ..change(&["10.5.5.5/8"])
        };
        for wrong in [
            InterfaceChange { mtu: Some(575), ..good.clone() },
            InterfaceChange { mtu: Some(70_000), ..good.clone() },
            InterfaceChange { mac: Some(MacAddr::BROADCAST), ..good.clone() },
            InterfaceChange { mac: Some(MacAddr::ZERO), ..good.clone() },
            InterfaceChange { address: change(&["10.5.5.5/8", "224.0.0.1/24"]).address, ..good.clone() },
            InterfaceChange { address: change(&["0.0.0.0/0"]).address, ..good.clone() },
            InterfaceChange {
                mtu: Some(1279),
                address: change(&["10.5.5.5/8", "fd00::9/64"]).address,
                mac: None,
            },
        ] {
            let error = netif::apply("t0", &wrong).await.unwrap_err();
            assert!(matches!(&error, PortError::Invalid(text) if text.contains("t0")), "{error}");
            assert_eq!(netif::status("t0").await.unwrap(), before, "{wrong:?}");
        }
        // What only the kernel knows: IPv6 is off. MAC, MTU and the IPv4 address go back.
        std::fs::write("/proc/sys/net/ipv6/conf/t0/disable_ipv6", "1").unwrap();
        let before = netif::status("t0").await.unwrap();
        let refused = InterfaceChange { address: change(&["10.5.5.5/8", "fd00::9/64"]).address, ..good };
        let error = netif::apply("t0", &refused).await.unwrap_err();
        assert!(matches!(&error, PortError::Failed(text) if text.contains("disable_ipv6")), "{error}");
        assert_eq!(netif::status("t0").await.unwrap(), before);

        netif::set_up("t0", false).await.unwrap();
        assert!(!netif::status("t0").await.unwrap().up);
        netif::delete("t0").await.unwrap();
        assert_eq!(netif::exists("t0").await, Ok(false));
        assert!(matches!(netif::delete("t0").await, Err(PortError::NotFound(_))));
    });
}

#[test]
fn big_tcp_is_pinned() {
    in_namespace("big_tcp_is_pinned", async || {
        use rtnetlink::packet_route::link::LinkAttribute;
        let _cable = Cable::lay().await;
        let (connection, handle, _) = rtnetlink::new_connection().unwrap();
        tokio::spawn(connection);
        let mut message =
            LinkMessageBuilder::<LinkUnspec>::new().index(netif::status("b").await.unwrap().index).build();
        message.attributes = vec![LinkAttribute::GsoMaxSize(150_000), LinkAttribute::GroMaxSize(150_000)];
        handle.link().set(message).execute().await.unwrap();
        netif::pin_gso("b").await.unwrap();
        let mut links = std::pin::pin!(handle.link().get().match_name("b").execute());
        let link = futures_util::TryStreamExt::try_next(&mut links).await.unwrap().unwrap();
        for expected in [LinkAttribute::GsoMaxSize(65_536), LinkAttribute::GroMaxSize(65_536)] {
            assert!(link.attributes.contains(&expected), "{expected:?}");
        }
        netif::pin_gso("b").await.unwrap();
        assert!(netif::pin_gso("nosuch").await.is_err());
    });
}

#[test]
fn changes_are_told_as_they_happen() {
    in_namespace("changes_are_told_as_they_happen", async || {
        let mut events = netif::watch().unwrap();
        let mut told = async |wanted: &dyn Fn(&Event) -> bool| {
            let search = async { while !wanted(&events.recv().await.unwrap()) {} };
            tokio::time::timeout(PATIENCE, search).await.expect("not told");
        };
        let is = |is_up, is_gone| move |event: &Event| matches!(event, Event::Link { name, up, gone, .. } if name == "t0" && *up == is_up && *gone == is_gone);
        let tap = Tap::open("t0", false, 1).unwrap();
        told(&is(false, false)).await;
        netif::set_up("t0", true).await.unwrap();
        told(&is(true, false)).await;
        netif::apply("t0", &change(&["10.0.0.1/24"])).await.unwrap();
        told(&|event| *event == Event::Addresses).await;
        told(&|event| *event == Event::Routes).await;
        netif::set_up("t0", false).await.unwrap();
        told(&is(false, false)).await;
        drop(tap);
        told(&is(false, true)).await;
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
