//! AF_PACKET sockets: all frames that an existing network device receives, and a way to send on it
//! (packet(7)).
//!
//! Three things the kernel does to frames on the way are made visible here. It strips the outer VLAN
//! tag (it comes back as [`Received::tag`]), it leaves checksums for hardware to complete, and it
//! hands over frames larger than the MTU for hardware to split (both told by the virtio_net_hdr of
//! PACKET_VNET_HDR, [`Received::vnet`]).

use std::io;
use std::mem::{MaybeUninit, size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use libc::{c_int, c_void, sockaddr_ll, socklen_t, tpacket_auxdata};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{setsockopt, sockopt};

use super::{Granted, OpenError, check_device_name};
use crate::frame::Tag;
use crate::frame::eth::TPID_8021Q;

/// Length of the virtio_net_hdr in front of each frame.
pub const VNET_LEN: usize = 10;

/// A raw packet socket bound to one Ethernet device, promiscuous, non-blocking, blind to frames that
/// leave through the device.
#[derive(Debug)]
pub struct PacketSocket {
    fd: OwnedFd,
    index: u32,
    offload: Option<Granted>,
}

/// One received frame; its bytes are in the buffer given to [`PacketSocket::recv_burst`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Bytes written to the buffer.
    pub len: usize,
    /// The virtio_net_hdr, native-endian; its offsets count from the frame as it is in the buffer,
    /// without `tag`.
    pub vnet: [u8; VNET_LEN],
    /// The outer VLAN tag that the kernel took out.
    pub tag: Option<Tag>,
    /// The frame was longer than the buffer: its end is lost.
    pub truncated: bool,
}

impl PacketSocket {
    /// Binds to the device called `name` in the calling thread's network namespace. Without `offload`
    /// [`PacketSocket::offload`] says that nothing may be left to the device.
    pub fn open(name: &str, offload: bool) -> Result<Self, OpenError> {
        check_device_name(name)?;
        let index = if_nametoindex(name)
            .map_err(|_| OpenError::NotFound(format!("no network device {name}; ip link shows them")))?;
        Self::bind(index)
            .map_err(|e| {
                let hint = match e.raw_os_error() {
                    Some(libc::EPERM) => "; run as root or with CAP_NET_RAW",
                    _ => "",
                };
                OpenError::Failed(format!("could not open a packet socket on {name}: {e}{hint}"))
            })
            .and_then(|socket| match socket.hardware_type() {
                Ok(libc::ARPHRD_ETHER) => {
                    Ok(Self { offload: offload.then(|| Granted { uso: kernel_knows_uso() }), ..socket })
                }
                Ok(kind) => {
                    Err(OpenError::Invalid(format!("{name} is not an Ethernet device (ARPHRD type {kind})")))
                }
                Err(e) => Err(OpenError::Failed(format!("could not ask for the type of {name}: {e}"))),
            })
    }

    /// Index of the device when it was opened.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// What may be left undone in frames that are sent: what the device cannot do, the kernel does.
    pub fn offload(&self) -> Option<Granted> {
        self.offload
    }

    /// As many frames as wait and `burst` has room for, in one system call; how many. `WouldBlock` when
    /// there is none; ENETDOWN once after the device went down or away; EINVAL: one frame is lost whose
    /// offload virtio_net_hdr cannot tell (SCTP GSO), carry on.
    pub fn recv_burst(&self, burst: &mut Burst) -> io::Result<usize> {
        burst.count = 0;
        // SAFETY: iovec and mmsghdr are plain old data for which all zeroes are valid.
        let mut parts: [[libc::iovec; 2]; BURST] = unsafe { zeroed() };
        // SAFETY: as above.
        let mut messages: [libc::mmsghdr; BURST] = unsafe { zeroed() };
        let mut vnets = [[0u8; VNET_LEN]; BURST];
        let mut controls = [MaybeUninit::<Control>::uninit(); BURST];
        let frames = burst.bytes.chunks_exact_mut(burst.stride);
        let places = parts.iter_mut().zip(&mut messages).zip(vnets.iter_mut().zip(&mut controls));
        for (((parts, message), (vnet, control)), frame) in places.zip(frames) {
            let room = &mut frame[Tag::LEN..];
            *parts = [
                libc::iovec { iov_base: vnet.as_mut_ptr().cast(), iov_len: VNET_LEN },
                libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() },
            ];
            message.msg_hdr.msg_iov = parts.as_mut_ptr();
            message.msg_hdr.msg_iovlen = parts.len() as _;
            message.msg_hdr.msg_control = control.as_mut_ptr().cast();
            message.msg_hdr.msg_controllen = size_of::<Control>() as _;
        }
        let (fd, at) = (self.fd.as_raw_fd(), messages.as_mut_ptr());
        let room = burst.received.len() as _;
        // SAFETY: each of the first `room` messages points at live buffers of the lengths beside them, all
        // distinct. nix's recvmmsg allocates, and does not give out the bytes of PACKET_AUXDATA.
        let got = unsafe { libc::recvmmsg(fd, at, room, libc::MSG_DONTWAIT, std::ptr::null_mut()) };
        let count = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
        for (place, (message, vnet)) in burst.received.iter_mut().zip(messages.iter().zip(vnets)).take(count)
        {
            *place = received(&message.msg_hdr, message.msg_len as usize, vnet);
        }
        burst.count = count;
        Ok(count)
    }

    /// Sends up to [`BURST`] frames in one system call, each behind its virtio_net_hdr in the machine's
    /// byte order: the first from `bytes[start]` to `ends[0]`, the next from there to `ends[1]`; how many
    /// went, at least one. What the header leaves undone, the device or the kernel before it does. The
    /// error is the first frame's: `WouldBlock` when the send buffer is full, ENOBUFS when the device's
    /// queue is, EMSGSIZE beyond the MTU, ENETDOWN while the device is down, ENXIO once it is gone.
    pub fn send_burst(&self, bytes: &[u8], start: usize, ends: &[usize]) -> io::Result<usize> {
        // SAFETY: iovec and mmsghdr are plain old data for which all zeroes are valid.
        let mut parts: [libc::iovec; BURST] = unsafe { zeroed() };
        // SAFETY: as above.
        let mut messages: [libc::mmsghdr; BURST] = unsafe { zeroed() };
        let mut at = start;
        let mut count = 0;
        for ((part, message), end) in parts.iter_mut().zip(&mut messages).zip(ends) {
            let frame = bytes.get(at..*end).ok_or(io::ErrorKind::InvalidInput)?;
            *part = libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: frame.len() };
            message.msg_hdr.msg_iov = part;
            message.msg_hdr.msg_iovlen = 1;
            at = *end;
            count += 1;
        }
        let fd = self.fd.as_raw_fd();
        // SAFETY: the first `count` messages point at live buffers of the lengths beside them, which
        // sendmmsg only reads. nix's sendmmsg allocates.
        let sent = unsafe { libc::sendmmsg(fd, messages.as_mut_ptr(), count, libc::MSG_DONTWAIT) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    fn bind(index: u32) -> io::Result<Self> {
        // Protocol 0 receives nothing: a socket made with ETH_P_ALL would collect frames of every
        // device until bind().
        let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: no pointers; the result is checked before it becomes a descriptor. nix's socket()
        // cannot name protocol 0 for AF_PACKET.
        let fd = check(unsafe { libc::socket(libc::AF_PACKET, kind, 0) })?;
        // SAFETY: `fd` was just opened and nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        for option in [libc::PACKET_VNET_HDR, libc::PACKET_AUXDATA, libc::PACKET_IGNORE_OUTGOING] {
            set_packet_option(&fd, option, &1)?;
        }
        // The forced one needs CAP_NET_ADMIN; without it the usual limit (rmem_max) has to do.
        if setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            setsockopt(&fd, sockopt::RcvBuf, &RECEIVE_BUFFER)?;
        }
        if setsockopt(&fd, sockopt::SndBufForce, &SEND_BUFFER).is_err() {
            setsockopt(&fd, sockopt::SndBuf, &SEND_BUFFER)?;
        }
        let ifindex = c_int::try_from(index).map_err(io::Error::other)?;
        let promiscuous = libc::packet_mreq {
            mr_ifindex: ifindex,
            mr_type: libc::PACKET_MR_PROMISC as _,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        set_packet_option(&fd, libc::PACKET_ADD_MEMBERSHIP, &promiscuous)?;
        // SAFETY: sockaddr_ll is plain old data for which all zeroes are valid.
        let mut address: sockaddr_ll = unsafe { zeroed() };
        address.sll_family = libc::AF_PACKET as _;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = ifindex;
        let len = size_of::<sockaddr_ll>() as socklen_t;
        // SAFETY: `address` is a live sockaddr_ll of that length. nix's LinkAddr cannot be built.
        check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) })?;
        Ok(Self { fd, index, offload: None })
    }

    /// ARPHRD_*, linux/if_arp.h.
    fn hardware_type(&self) -> io::Result<u16> {
        // SAFETY: sockaddr_ll is plain old data for which all zeroes are valid.
        let mut address: sockaddr_ll = unsafe { zeroed() };
        let mut len = size_of::<sockaddr_ll>() as socklen_t;
        // SAFETY: `address` has room for `len` bytes, and the kernel writes no more than that.
        check(unsafe { libc::getsockname(self.fd.as_raw_fd(), (&raw mut address).cast(), &raw mut len) })?;
        Ok(address.sll_hatype)
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for PacketSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Room for a burst of frames, each with room for its tag in front.
pub struct Burst {
    bytes: Box<[u8]>,
    stride: usize,
    received: Box<[Option<Received>]>,
    count: usize,
}

impl Burst {
    /// For up to `frames` frames ([`BURST`] at most) of `room` bytes each. The kernel gives memory to
    /// those pages alone that frames are written to.
    pub fn new(frames: usize, room: usize) -> Self {
        let (frames, stride) = (frames.clamp(1, BURST), Tag::LEN + room);
        let bytes = vec![0; frames * stride].into();
        Self { bytes, stride, received: vec![None; frames].into(), count: 0 }
    }

    /// What the last call received, with each frame's bytes behind [`Tag::LEN`] bytes of room. `None`:
    /// not even a virtio header came.
    pub fn frames(&mut self) -> impl Iterator<Item = (Option<Received>, &mut [u8])> {
        self.received.iter().copied().zip(self.bytes.chunks_exact_mut(self.stride)).take(self.count)
    }
}

/// Frames in one burst at most.
pub const BURST: usize = 32;

/// Room for about 80 frames of 64 KiB, or a few thousand small ones.
const RECEIVE_BUFFER: usize = 8 << 20;

/// Room for a burst of super-frames that the device's queue does not take at once.
const SEND_BUFFER: usize = 1 << 20;

/// Room for one PACKET_AUXDATA message and a spare, aligned as cmsghdr wants it.
type Control = [u64; 16];

fn check(rc: c_int) -> io::Result<c_int> {
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(rc) }
}

/// A packet socket cannot be asked; Linux 6.2 was the first.
fn kernel_knows_uso() -> bool {
    let Ok(name) = nix::sys::utsname::uname() else { return false };
    let release = name.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(2))
}

/// `T` is what packet(7) says the option takes.
fn set_packet_option<T>(fd: &OwnedFd, option: c_int, value: &T) -> io::Result<()> {
    let (value, len) = ((&raw const *value).cast::<c_void>(), size_of::<T>() as socklen_t);
    // SAFETY: `value` is live and `len` bytes long; the kernel only reads it. nix has no packet options.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_PACKET, option, value, len) })?;
    Ok(())
}

/// What the kernel says of one message of `got` bytes; `None` when it is shorter than its header.
/// `msg` has been filled by recvmsg and its control buffer is still alive.
fn received(msg: &libc::msghdr, got: usize, vnet: [u8; VNET_LEN]) -> Option<Received> {
    let len = got.checked_sub(VNET_LEN)?;
    let aux = auxdata(msg);
    let truncated = msg.msg_flags & libc::MSG_TRUNC != 0 || aux.is_some_and(|aux| aux.tp_len as usize > len);
    Some(Received { len, vnet, tag: aux.and_then(|aux| stripped_tag(&aux)), truncated })
}

/// `msg` has been filled by recvmsg and its control buffer is still alive.
fn auxdata(msg: &libc::msghdr) -> Option<tpacket_auxdata> {
    // SAFETY: the control buffer holds what recvmsg wrote, msg_controllen bytes of it; the CMSG
    // macros stay within that, and the length of the message is checked before its data is read.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(msg);
        while let Some(cmsg) = header.as_ref() {
            let wanted = libc::CMSG_LEN(size_of::<tpacket_auxdata>() as _);
            if (cmsg.cmsg_level, cmsg.cmsg_type) == (libc::SOL_PACKET, libc::PACKET_AUXDATA)
                && cmsg.cmsg_len >= wanted as _
            {
                return Some(libc::CMSG_DATA(cmsg).cast::<tpacket_auxdata>().read_unaligned());
            }
            header = libc::CMSG_NXTHDR(msg, cmsg);
        }
    }
    None
}

fn stripped_tag(aux: &tpacket_auxdata) -> Option<Tag> {
    let has = |status: u32| aux.tp_status & status != 0;
    has(libc::TP_STATUS_VLAN_VALID).then(|| Tag {
        tpid: if has(libc::TP_STATUS_VLAN_TPID_VALID) { aux.tp_vlan_tpid } else { TPID_8021Q },
        tci: aux.tp_vlan_tci,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_comes_from_auxdata_only_when_it_is_valid() {
        let aux = |tp_status| tpacket_auxdata {
            tp_status,
            tp_len: 60,
            tp_snaplen: 60,
            tp_mac: 0,
            tp_net: 0,
            tp_vlan_tci: 0x600a,
            tp_vlan_tpid: 0x88a8,
        };
        let both = libc::TP_STATUS_VLAN_VALID | libc::TP_STATUS_VLAN_TPID_VALID;
        assert_eq!(stripped_tag(&aux(0)), None);
        assert_eq!(stripped_tag(&aux(libc::TP_STATUS_VLAN_VALID)), Some(Tag { tpid: 0x8100, tci: 0x600a }));
        assert_eq!(stripped_tag(&aux(both)), Some(Tag { tpid: 0x88a8, tci: 0x600a }));
    }
}
