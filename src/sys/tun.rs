//! TAP devices: a character device whose reads and writes are Ethernet frames
//! (Linux Documentation/networking/tuntap.rst).

use std::fs::OpenOptions;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::sys::uio::writev;
use nix::unistd::{read, write};

use super::{Granted, OpenError, check_device_name};
use crate::frame::offload::VnetHeader;

/// An open TAP device, non-blocking, without packet information. The device goes away with it unless it is persistent.
///
/// With several queues the kernel deals out to them what it sends, by flow, so that a frame waits for those of its own
/// queue and not for all.
#[derive(Debug)]
pub struct Tap {
    /// Where frames are written. Of a device with several queues it is none of them (`IFF_DETACH_QUEUE`): the kernel
    /// would send the answers of a flow to the queue that the flow was written to, all to one.
    fd: OwnedFd,
    /// Where frames are read; none when that is `fd`.
    queues: Vec<OwnedFd>,
    existed: bool,
    offload: Option<Granted>,
}

impl Tap {
    /// Attaches to the TAP called `name` in the calling thread's network namespace, making it when
    /// there is none, with so many queues; one that is there has a single one. With `offload` frames carry a
    /// virtio_net_hdr both ways, if the kernel knows how: see [`Tap::offload`].
    pub fn open(name: &str, offload: bool, queues: usize) -> Result<Self, OpenError> {
        check_device_name(name)?;
        if !offload {
            return Self::attach(name, 0, queues);
        }
        let mut tap = Self::attach(name, libc::IFF_VNET_HDR, queues)?;
        tap.offload = tap.take_on().ok();
        if tap.offload.is_some() {
            return Ok(tap);
        }
        // A device that was there must not be left with a header that nobody speaks of.
        let existed = tap.existed;
        drop(tap);
        let mut tap = Self::attach(name, 0, queues)?;
        tap.existed = existed;
        Ok(tap)
    }

    /// Takes over the TAP called `name` from another process, whose descriptor of it is `fd`; it is non-blocking and
    /// speaks a header or not as that process asked for, which must be what is asked for now. What waited in queues that
    /// only that process had is lost; there are `queues` new ones, if it had several.
    pub fn adopt(fd: OwnedFd, name: &str, offload: bool, queues: usize) -> Result<Self, OpenError> {
        let failed = |why: &dyn std::fmt::Display| {
            Err(OpenError::Failed(format!("TAP {name} could not be taken over: {why}")))
        };
        let (its, flags) = match attached(fd.as_fd()) {
            Ok(attached) => attached,
            Err(e) => return failed(&e),
        };
        let has = |flag: libc::c_int| libc::c_int::from(flags) & flag != 0;
        if its != name.as_bytes() || !has(libc::IFF_TAP) {
            return failed(&format!("the descriptor is that of {}", String::from_utf8_lossy(&its)));
        }
        let mut tap = Self { fd, queues: Vec::new(), existed: true, offload: None };
        if has(libc::IFF_MULTI_QUEUE) {
            let extra = if has(libc::IFF_VNET_HDR) { libc::IFF_VNET_HDR } else { 0 };
            if let Err(e) = tap.spread(name, extra, queues) {
                return failed(&e);
            }
        }
        match (offload, has(libc::IFF_VNET_HDR)) {
            (true, true) => match tap.take_on() {
                Ok(granted) => tap.offload = Some(granted),
                Err(e) => return failed(&e),
            },
            (false, true) => return failed(&"it has super-frames"),
            (_, false) => {}
        }
        Ok(tap)
    }

    /// `extra`: flags besides those of every TAP.
    fn attach(name: &str, extra: libc::c_int, queues: usize) -> Result<Self, OpenError> {
        let fd = open_device().map_err(|e| {
            OpenError::Failed(format!("could not open {DEVICE} for TAP {name}: {}", open_reason(&e)))
        })?;
        // With IFF_TUN_EXCL the kernel itself says whether the device was there; a look beforehand
        // would race with another maker. One that is there is never taken with several queues, since any number
        // of processes may have those of one device, each a share of its frames.
        let flags = TAP_FLAGS | extra;
        let several = if queues > 1 { libc::IFF_MULTI_QUEUE } else { 0 };
        let existed = match attach(fd.as_fd(), name, flags | several | libc::IFF_TUN_EXCL) {
            Ok(()) => false,
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {
                attach(fd.as_fd(), name, flags).map_err(|e| attach_error(name, &e))?;
                true
            }
            Err(e) => return Err(attach_error(name, &e)),
        };
        let mut tap = Self { fd, queues: Vec::new(), existed, offload: None };
        if several != 0 && !existed {
            tap.spread(name, extra, queues)?;
        }
        // Whoever had a persistent device before may have taken on what nobody does now.
        let _ = tap.set_offload(0);
        Ok(tap)
    }

    /// Takes so many queues, and its first descriptor out of them.
    fn spread(&mut self, name: &str, extra: libc::c_int, queues: usize) -> Result<(), OpenError> {
        let failed = |why: &dyn std::fmt::Display| {
            OpenError::Failed(format!("could not take queues of TAP {name}: {why}"))
        };
        let flags = TAP_FLAGS | libc::IFF_MULTI_QUEUE | extra;
        for _ in 0..queues.clamp(1, MAX_QUEUES) {
            let queue = match open_device() {
                Ok(queue) => queue,
                // As many as there are descriptors for: one is enough.
                Err(e) if !self.queues.is_empty() && out_of_descriptors(&e) => break,
                Err(e) => return Err(failed(&open_reason(&e))),
            };
            // A name is all that a queue is asked for by; it must mean this device, and none that is made by asking.
            if attach(queue.as_fd(), name, flags | libc::IFF_TUN_EXCL).is_ok() {
                return Err(failed(&"the device went away, or is in another network namespace"));
            }
            attach(queue.as_fd(), name, flags).map_err(|e| failed(&e))?;
            self.queues.push(queue);
        }
        let (is, its) = attached(self.fd.as_fd()).map_err(|e| failed(&e))?;
        for queue in &self.queues {
            if attached(queue.as_fd()).map_err(|e| failed(&e))?.0 != is {
                return Err(failed(&"it was given another name meanwhile"));
            }
        }
        // One that was handed over is out of them already.
        if libc::c_int::from(its) & libc::IFF_DETACH_QUEUE == 0 {
            detach(self.fd.as_fd()).map_err(|e| failed(&e))?;
        }
        Ok(())
    }

    /// Tells the kernel what it may leave to us.
    fn take_on(&self) -> io::Result<Granted> {
        ioctl_with_int(&self.fd, libc::TUNSETVNETHDRSZ, VnetHeader::LEN as libc::c_int)?;
        ioctl_with_int(&self.fd, libc::TUNSETVNETLE, 1)?;
        let always = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
        if self.set_offload(always | libc::TUN_F_USO4 | libc::TUN_F_USO6).is_ok() {
            return Ok(Granted { uso: true });
        }
        self.set_offload(always).map(|()| Granted { uso: false })
    }

    fn set_offload(&self, flags: libc::c_uint) -> io::Result<()> {
        // SAFETY: TUNSETOFFLOAD takes its argument by value, no memory is shared. nix has no wrapper.
        let rc = unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(flags)) };
        if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// With it, what is read and what is written begins with a virtio_net_hdr of ten bytes, little
    /// endian.
    pub fn offload(&self) -> Option<Granted> {
        self.offload
    }

    /// The device was there before [`Tap::open`].
    pub fn existed(&self) -> bool {
        self.existed
    }

    /// A persistent device outlives this descriptor and the process.
    pub fn set_persist(&self, persist: bool) -> io::Result<()> {
        // SAFETY: TUNSETPERSIST takes its argument by value, no memory is shared. nix has no wrapper.
        let rc =
            unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::TUNSETPERSIST, libc::c_ulong::from(persist)) };
        if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// How many queues it is read by.
    pub fn queues(&self) -> usize {
        self.queues.len().max(1)
    }

    /// The descriptor that becomes readable when `queue` has a frame.
    pub fn queue(&self, queue: usize) -> BorrowedFd<'_> {
        self.queues.get(queue).unwrap_or(&self.fd).as_fd()
    }

    /// One frame of a queue, behind its header if there is one; what does not fit into `buf` is lost, so a read that
    /// fills it may be truncated. `WouldBlock` when there is none or the device is down, EBADFD once it is deleted.
    pub fn read(&self, queue: usize, buf: &mut [u8]) -> io::Result<usize> {
        Ok(read(self.queue(queue), buf)?)
    }

    /// One frame in pieces, behind its header if there is one. EIO while the device is down, EBADFD once it
    /// is deleted, EINVAL for a runt.
    pub fn write(&self, frame: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(match frame {
            // What the kernel need not copy a list for.
            [whole] => write(&self.fd, whole)?,
            pieces => writev(&self.fd, pieces)?,
        })
    }
}

/// What another process can [adopt](Tap::adopt).
impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Not persistent, the device is gone with us. A persistent one is left as `ip tuntap` makes it.
impl Drop for Tap {
    fn drop(&mut self) {
        if self.offload.is_some() {
            let _ = self.set_offload(0);
        }
    }
}

fn open_device() -> io::Result<OwnedFd> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC);
    Ok(options.open(DEVICE)?.into())
}

fn out_of_descriptors(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// `name` has passed [`check_device_name`].
fn attach(fd: BorrowedFd<'_>, name: &str, flags: libc::c_int) -> io::Result<()> {
    let mut ifr_name = NO_NAME;
    for (to, from) in ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from as libc::c_char;
    }
    set(fd, libc::TUNSETIFF, ifr_name, flags)
}

/// Takes a queue out of the device's; it can still be written to.
fn detach(fd: BorrowedFd<'_>) -> io::Result<()> {
    set(fd, libc::TUNSETQUEUE, NO_NAME, libc::IFF_DETACH_QUEUE)
}

/// `name` ends with a NUL.
fn set(
    fd: BorrowedFd<'_>,
    request: libc::Ioctl,
    ifr_name: [libc::c_char; libc::IFNAMSIZ],
    flags: libc::c_int,
) -> io::Result<()> {
    // The flags are read as 16 bits: IFF_TUN_EXCL, 0x8000, is their sign bit.
    let ifr_ifru = libc::__c_anonymous_ifr_ifru { ifru_flags: flags as u16 as libc::c_short };
    let mut of = libc::ifreq { ifr_name, ifr_ifru };
    // SAFETY: the requests given here (TUNSETIFF, TUNSETQUEUE) read and write one `ifreq`, which lives on this stack
    // frame. nix has no wrappers.
    let rc = unsafe { libc::ioctl(fd.as_raw_fd(), request, &raw mut of) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Name and flags (IFF_TAP, ...) of the device behind a descriptor of /dev/net/tun.
fn attached(fd: BorrowedFd<'_>) -> io::Result<(Vec<u8>, u16)> {
    // SAFETY: an `ifreq` of zeroes is one: integers, and a union of such and a pointer.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: TUNGETIFF writes one `ifreq`, which lives on this stack frame. nix has no wrapper.
    let rc = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETIFF, &raw mut request) };
    if rc < 0 {
        return Err(io::Error::last_os_error());
    }
    let name = request.ifr_name.iter().take_while(|byte| **byte != 0).map(|byte| *byte as u8).collect();
    // SAFETY: TUNGETIFF has set the flags, and all bytes of the union were set before.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok((name, flags as u16))
}

/// An ioctl that reads an int through a pointer.
fn ioctl_with_int(fd: &OwnedFd, request: libc::Ioctl, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the requests given here (TUNSETVNETHDRSZ, TUNSETVNETLE) read one int, which lives on this
    // stack frame. nix has no wrappers.
    let rc = unsafe { libc::ioctl(fd.as_raw_fd(), request, &raw const value) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn open_reason(e: &io::Error) -> String {
    match e.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
            format!("{e}; load the tun module (modprobe tun), and in a container pass {DEVICE} in")
        }
        _ if out_of_descriptors(e) => {
            format!("{e}; allow more (LimitNOFILE=, ulimit -n): a TAP of its own takes a switch 33")
        }
        Some(libc::EPERM | libc::EACCES) => {
            format!("{e}; allow it (systemd: DeviceAllow={DEVICE} rw) or run as root")
        }
        _ => e.to_string(),
    }
}

fn attach_error(name: &str, e: &io::Error) -> OpenError {
    let hint = match e.raw_os_error() {
        Some(libc::EPERM) => "; run as root or with CAP_NET_ADMIN, or make it first with ip tuntap add user",
        Some(libc::EBUSY) => "; another process has it open: stop that one or choose another name",
        Some(libc::EINVAL) => {
            let text = format!(
                "a device {name} exists and is not a TAP with a single queue; choose another name, or stop the process \
                 that has it open (a switch gives a TAP of its own several queues)"
            );
            return OpenError::Invalid(text);
        }
        _ => "",
    };
    OpenError::Failed(format!("could not attach to TAP {name}: {e}{hint}"))
}

const DEVICE: &str = "/dev/net/tun";
const TAP_FLAGS: libc::c_int = libc::IFF_TAP | libc::IFF_NO_PI;
const NO_NAME: [libc::c_char; libc::IFNAMSIZ] = [0; libc::IFNAMSIZ];
/// Whoever reads them keeps a bit for each in a word.
const MAX_QUEUES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_says_what_to_do_next() {
        let error = |errno| attach_error("tap0", &io::Error::from_raw_os_error(errno)).to_string();
        assert!(error(libc::EPERM).contains("CAP_NET_ADMIN"));
        assert!(error(libc::EBUSY).contains("another process"));
        assert!(error(libc::EINVAL).contains("not a TAP"));
        assert!(open_reason(&io::Error::from_raw_os_error(libc::ENOENT)).contains("modprobe tun"));
        assert!(open_reason(&io::Error::from_raw_os_error(libc::EPERM)).contains("DeviceAllow"));
    }

    #[test]
    fn impossible_names_never_reach_the_kernel() {
        assert!(matches!(Tap::open("tap%d", true, 1), Err(OpenError::Invalid(_))));
    }
}
