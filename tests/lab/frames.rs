//! Frames by hand: build them, send and receive them on a device through a packet socket, with the
//! VLAN tag that the kernel strips put back, so that a test can compare whole frames byte by byte.

use std::io::{IoSlice, IoSliceMut, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, bind,
    recvmsg, sendmsg, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::{Host, inside};

/// IEEE "local experimental": traffic of this type is ours, whatever else the kernel says meanwhile.
pub const TYPE: u16 = 0x88b5;
/// The loop guard's probes, which come at any moment.
pub const PROBE: u16 = 0x88b6;
pub const BROADCAST: [u8; 6] = [0xff; 6];

#[derive(Clone, Copy)]
struct PacketAuxdata;
nix::setsockopt_impl!(PacketAuxdata, libc::SOL_PACKET, libc::PACKET_AUXDATA, bool, sockopt::SetBool);
#[derive(Clone, Copy)]
struct PacketIgnoreOutgoing;
nix::setsockopt_impl!(
    PacketIgnoreOutgoing,
    libc::SOL_PACKET,
    libc::PACKET_IGNORE_OUTGOING,
    bool,
    sockopt::SetBool
);

/// A locally administered unicast address.
pub fn mac(number: u32) -> [u8; 6] {
    let [a, b, c, d] = number.to_be_bytes();
    [0x02, 0x5e, a, b, c, d]
}

pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// `tags` are (TPID, TCI) outermost first; `payload` follows EtherType [`TYPE`].
pub fn frame(dst: [u8; 6], src: [u8; 6], tags: &[(u16, u16)], payload: &[u8]) -> Vec<u8> {
    let mut bytes = [dst, src].concat();
    for (tpid, tci) in tags {
        bytes.extend(tpid.to_be_bytes());
        bytes.extend(tci.to_be_bytes());
    }
    bytes.extend(TYPE.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Connects to a `qemu` port's socket and speaks as so many stations, [`mac`] of 1 and up.
pub fn crowd(socket: &Path, stations: u32) -> UnixStream {
    let mut machine = UnixStream::connect(socket).expect("connect");
    let frames = (1..=stations).flat_map(|n| {
        let frame = frame(mac(0), mac(n), &[], &[0; 46]);
        [&(frame.len() as u32).to_be_bytes()[..], &frame].concat()
    });
    machine.write_all(&frames.collect::<Vec<_>>()).expect("send");
    machine
}

/// A payload that no other call returns, `len` (at least 8) bytes long.
pub fn payload(len: usize) -> Vec<u8> {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    static NEXT: AtomicU64 = AtomicU64::new(0x5eed_0000_0000_0001);
    let number = NEXT.fetch_add(1, Relaxed);
    let mut bytes = number.to_be_bytes().to_vec();
    bytes.extend((8..len).map(|i| (i as u64).wrapping_mul(number) as u8));
    bytes
}

/// A packet socket on one device of a host.
pub struct Wire {
    fd: OwnedFd,
}

impl Wire {
    pub fn open(host: &Host, device: &str) -> Self {
        inside(host, || {
            let fd = socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                Some(SockProtocol::EthAll),
            )
            .expect("packet socket (root is needed)");
            prepare(&fd, 4 << 20);
            let addr = link_address(host, device);
            bind(fd.as_raw_fd(), &addr).expect("bind to the device");
            let wire = Self { fd };
            while wire.next(Instant::now()).is_some() {} // from before the bind: any device's
            wire
        })
    }

    /// Out of the device: for a TAP, into the switch.
    pub fn send(&self, frame: &[u8]) {
        sendmsg::<()>(self.fd.as_raw_fd(), &[IoSlice::new(frame)], &[], MsgFlags::empty(), None)
            .unwrap_or_else(|error| panic!("send {} bytes: {error}", frame.len()));
    }

    /// The next frame that came in by the device before `deadline`, its tag put back.
    pub fn next(&self, deadline: Instant) -> Option<Vec<u8>> {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let left = TimeVal::microseconds(i64::try_from(left.as_micros()).expect("short"));
        setsockopt(&self.fd, sockopt::ReceiveTimeout, &left).expect("SO_RCVTIMEO");
        let mut bytes = vec![0; 70_000];
        let mut space = nix::cmsg_space!([u8; 64]);
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let message = recvmsg::<()>(self.fd.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::empty());
        let Ok(message) = message else { return None };
        let len = message.bytes;
        let tag = message.cmsgs().expect("control messages").find_map(stripped_tag);
        bytes.truncate(len);
        if let Some((tpid, tci)) = tag {
            bytes.splice(12..12, [tpid.to_be_bytes(), tci.to_be_bytes()].concat());
        }
        Some(bytes)
    }

    /// Whether exactly this frame comes in within the limit.
    pub fn receives(&self, frame: &[u8], limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while let Some(got) = self.next(deadline) {
            if got == frame {
                return true;
            }
        }
        false
    }

    /// Everything of our own [`TYPE`] that comes in within `time`.
    pub fn collect(&self, time: Duration) -> Vec<Vec<u8>> {
        let deadline = Instant::now() + time;
        std::iter::from_fn(|| self.next(deadline)).filter(|bytes| ethertype(bytes) == TYPE).collect()
    }
}

/// Tags beside the frame, nothing of our own, and room for `room` bytes of frames.
pub(super) fn prepare(fd: &OwnedFd, room: usize) {
    setsockopt(fd, PacketAuxdata, &true).expect("PACKET_AUXDATA");
    setsockopt(fd, PacketIgnoreOutgoing, &true).expect("PACKET_IGNORE_OUTGOING");
    // Beyond net.core.rmem_max where that is allowed.
    if setsockopt(fd, sockopt::RcvBufForce, &room).is_err() {
        setsockopt(fd, sockopt::RcvBuf, &room).expect("SO_RCVBUF");
    }
}

/// The device's own link address, in the calling thread's namespace: it carries the index that bind needs.
pub(super) fn link_address(host: &Host, device: &str) -> SockaddrStorage {
    let addrs = nix::ifaddrs::getifaddrs().expect("getifaddrs");
    addrs
        .filter(|ifaddr| ifaddr.interface_name == device)
        .find_map(|ifaddr| ifaddr.address.filter(|addr| addr.as_link_addr().is_some()))
        .unwrap_or_else(|| panic!("{} has no device {device}", host.name()))
}

/// The EtherType behind all tags; 0 when the frame ends before.
pub fn ethertype(frame: &[u8]) -> u16 {
    let mut at = 12;
    while let Some(&[high, low]) = frame.get(at..at + 2) {
        match u16::from_be_bytes([high, low]) {
            0x8100 | 0x88a8 => at += 4,
            other => return other,
        }
    }
    0
}

/// Sends `frame` again until `to` has received it byte by byte, for at most ten seconds.
#[track_caller]
pub fn passes(from: &Wire, to: &Wire, frame: &[u8]) {
    for _ in 0..20 {
        from.send(frame);
        if to.receives(frame, Duration::from_millis(500)) {
            return;
        }
    }
    panic!("the frame never arrived unchanged: {:02x?}", &frame[..frame.len().min(64)]);
}

/// Sends `blocked`, then `marker`; `marker` must arrive and `blocked` must not: order is kept, so
/// nothing is decided by a timer.
#[track_caller]
pub fn only_passes(from: &Wire, to: &Wire, marker: &[u8], blocked: &[u8]) {
    for _ in 0..20 {
        from.send(blocked);
        from.send(marker);
        let deadline = Instant::now() + Duration::from_millis(500);
        while let Some(got) = to.next(deadline) {
            assert!(!same_content(&got, blocked), "got through: {:02x?}", &got[..got.len().min(64)]);
            if got == marker {
                return;
            }
        }
    }
    panic!("the marker never arrived: {:02x?}", &marker[..marker.len().min(64)]);
}

/// Same payload behind whatever tags.
pub fn same_content(a: &[u8], b: &[u8]) -> bool {
    let rest = |frame: &[u8]| {
        let at = frame.windows(2).position(|pair| pair == TYPE.to_be_bytes()).unwrap_or(0);
        frame[at..].to_vec()
    };
    ethertype(a) == TYPE && rest(a) == rest(b)
}

/// The tag in the kernel's struct tpacket_auxdata: u32 status, len, snaplen; u16 mac, net, vlan_tci,
/// vlan_tpid.
pub(super) fn stripped_tag(message: ControlMessageOwned) -> Option<(u16, u16)> {
    const VLAN_VALID: u32 = 0x10;
    const TPID_VALID: u32 = 0x40;
    let ControlMessageOwned::Unknown(unknown) = message else { return None };
    let bytes = unknown.data_bytes;
    let half = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
    let status = u32::from_ne_bytes(*bytes.first_chunk()?);
    if bytes.len() < 20 || status & VLAN_VALID == 0 {
        return None;
    }
    Some((if status & TPID_VALID == 0 { 0x8100 } else { half(18) }, half(16)))
}
