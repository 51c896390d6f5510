//! What a device receives, whole: a packet socket with PACKET_VNET_HDR, read by a thread of its own, so
//! that super-frames and unfinished checksums are seen as they are. And what the kernel complains of.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;

use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol, SockType, bind, recvmsg, sendmsg,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::frames::stripped_tag;
use super::packets::{Packet, Vnet};
use super::{Host, inside};

#[derive(Clone, Copy)]
struct PacketVnetHdr;
nix::setsockopt_impl!(PacketVnetHdr, libc::SOL_PACKET, libc::PACKET_VNET_HDR, bool, sockopt::SetBool);

/// One frame that a device received.
pub struct Captured<'a> {
    pub vnet: Vnet,
    /// The tag that the kernel took out of it.
    pub tag: Option<(u16, u16)>,
    pub frame: &'a [u8],
}

impl<'a> Captured<'a> {
    pub fn packet(&self) -> Option<Packet<'a>> {
        Packet::parse(self.vnet, self.tag, self.frame)
    }
}

/// Runs until it is stopped; `look` is told of every frame, and of what it made of them.
pub struct Capture<T> {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(T, u32)>,
}

impl<T: Send + 'static> Capture<T> {
    pub fn start(
        host: &Host,
        device: &str,
        mut seen: T,
        look: impl Fn(&mut T, &Captured) + Send + 'static,
    ) -> Self {
        let fd = open(host, device);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (mut bytes, mut lost) = (vec![0; 70_000], 0);
            loop {
                // Asked before the socket is, so that what came before the stop is seen.
                let last = stopped.load(Relaxed);
                while receive(&fd, &mut bytes, &mut lost, |captured| look(&mut seen, captured)) {}
                if last {
                    return (seen, lost);
                }
            }
        });
        Self { stop, thread }
    }

    /// What was seen until now, and how many frames the capture lost for want of room.
    pub fn stop(self) -> (T, u32) {
        self.stop.store(true, Relaxed);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Frames with a virtio_net_hdr out of a device: for a TAP, into the switch, as if this host's stack had
/// made them.
pub struct Injector(OwnedFd);

impl Injector {
    pub fn open(host: &Host, device: &str) -> Self {
        Self(open(host, device))
    }

    pub fn send(&self, vnet: &Vnet, frame: &[u8]) {
        self.offer(vnet, frame)
            .unwrap_or_else(|error| panic!("send {} bytes, {vnet:?}: {error}", frame.len()));
    }

    /// The same for what the kernel may not take.
    pub fn offer(&self, vnet: &Vnet, frame: &[u8]) -> nix::Result<usize> {
        let header = vnet.native();
        let parts = [IoSlice::new(&header), IoSlice::new(frame)];
        sendmsg::<()>(self.0.as_raw_fd(), &parts, &[], MsgFlags::empty(), None)
    }
}

fn open(host: &Host, device: &str) -> OwnedFd {
    let (kind, protocol) = (SockType::Raw, SockProtocol::EthAll);
    inside(host, || {
        let fd = socket(AddressFamily::Packet, kind, SockFlag::SOCK_CLOEXEC, Some(protocol))
            .expect("packet socket (root is needed)");
        setsockopt(&fd, PacketVnetHdr, &true).expect("PACKET_VNET_HDR");
        super::frames::prepare(&fd, 64 << 20);
        setsockopt(&fd, sockopt::RxqOvfl, &1).expect("SO_RXQ_OVFL");
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::milliseconds(20)).expect("SO_RCVTIMEO");
        bind(fd.as_raw_fd(), &super::frames::link_address(host, device)).expect("bind to the device");
        // From before the bind: any device's.
        while nix::sys::socket::recv(fd.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT).is_ok() {}
        fd
    })
}

/// Whether there was a frame.
fn receive(fd: &OwnedFd, bytes: &mut [u8], lost: &mut u32, look: impl FnOnce(&Captured)) -> bool {
    let mut space = nix::cmsg_space!([u8; 64], u32);
    let mut slices = [IoSliceMut::new(bytes)];
    let message = recvmsg::<()>(fd.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::empty());
    let Ok(message) = message else { return false };
    let (len, mut tag) = (message.bytes, None);
    for control in message.cmsgs().expect("control messages") {
        match control {
            ControlMessageOwned::RxqOvfl(count) => *lost = count,
            other => tag = stripped_tag(other).or(tag),
        }
    }
    let (vnet, frame) = bytes[..len].split_at(Vnet::LEN);
    look(&Captured { vnet: Vnet::from_native(vnet), tag, frame });
    true
}

/// The kernel's log from now on. The machine's others write to it too.
pub struct KernelLog(File);

impl KernelLog {
    /// `None` where it cannot be read.
    pub fn open() -> Option<Self> {
        let open = || {
            let mut file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg")?;
            file.seek(SeekFrom::End(0))?;
            Ok::<_, std::io::Error>(Self(file))
        };
        open()
            .inspect_err(|error| {
                // Past the harness, which swallows the output of tests that pass.
                let text = format!("SKIPPED a look at the kernel's log: /dev/kmsg: {error}\n");
                let _ = std::io::stderr().write_all(text.as_bytes());
            })
            .ok()
    }

    /// Lines since the last call of level warning or worse: what a device says of a frame that it could not
    /// make sense of. (Promiscuous mode and carriers are below that.) The log is the whole machine's: what a
    /// bridge says of a loop is another test's, which makes loops; and a busy machine complains of itself.
    pub fn complaints(&mut self) -> Vec<String> {
        const WARNING: u32 = 4;
        const OF_TIME: [&str; 7] =
            ["hrtimer:", "clocksource:", "perf:", "workqueue:", "sched:", "rcu:", "watchdog:"];
        let (mut lines, mut bytes) = (Vec::new(), [0; 8192]);
        // One record a read: "priority,sequence,time,flags;text"; the level is in the lower three bits.
        while let Ok(len @ 1..) = self.0.read(&mut bytes) {
            let line = String::from_utf8_lossy(&bytes[..len]).trim_end().to_owned();
            let level = line.split(',').next().and_then(|word| word.parse::<u32>().ok()).map(|word| word & 7);
            let of_a_loop =
                line.contains("with own address as source address") || line.contains("net_ratelimit");
            let text = line.split_once(';').map_or("", |(_, text)| text);
            let of_time = OF_TIME.iter().any(|who| text.starts_with(who));
            if level.is_some_and(|level| level <= WARNING) && !of_a_loop && !of_time {
                lines.push(line);
            }
        }
        lines
    }
}
