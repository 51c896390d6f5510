//! TAPs, packet sockets and netlink against the kernel, in network namespaces of their own.
//!
//! ```text
//!   namespace "near"                  namespace "far"
//!   b 10.9.0.1/24  ----- veth -----   a 10.9.0.2/24
//!     fd09::1/64                        fd09::2/64
//!   sender                            receiver and PacketSocket
//! ```

mod netif_changes;
mod offload;
mod queues;

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::thread;
use std::time::{Duration, Instant};

use etherws::frame::offload::{VnetHeader, insert_tag};
use etherws::frame::{MAX_FRAME, Tag};
use etherws::port::netif;
use etherws::port::spec::InterfaceChange;
use etherws::sys::OpenError;
use etherws::sys::packet::{Burst, PacketSocket, Received};
use etherws::sys::tun::Tap;
use nix::sched::{CloneFlags, setns, unshare};
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
