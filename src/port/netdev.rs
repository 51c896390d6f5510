//! A network device's ingress: what its cable, or the other end of a veth, sends into the switch.
//!
//! The kernel hands frames over as its own stack would take them: the VLAN tag beside the frame, the
//! checksum unfinished, many segments as one. The tag is put back here; the rest is done where a frame
//! leaves through a port that cannot leave it to somebody else.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;

use super::fabric::{Batch, Fabric};
use super::ingress::pump;
use crate::frame::offload::{VnetHeader, insert_tag};
use crate::frame::{MAX_FRAME, Tag};
use crate::prof::{Stage, Tape};
use crate::switch::{Reason, Slot};
use crate::sys::Held;
use crate::sys::packet::{BURST, Burst, PacketSocket, Received};

/// Reads frames until the socket fails; a device that goes down may come back. Runs on a data thread.
pub async fn ingress(
    fabric: Arc<Fabric>,
    slot: Slot,
    number: u32,
    socket: Arc<Held<PacketSocket>>,
) -> io::Error {
    pump(socket, |socket, _| {
        crate::with_tape!(fabric.prof, |tape| forward_batch(&fabric, slot, number, socket, tape))
    })
    .await
}

/// One burst of frames; `WouldBlock` when there are no more.
fn forward_batch<T: Tape>(
    fabric: &Fabric,
    slot: Slot,
    number: u32,
    socket: &PacketSocket,
    tape: &mut T,
) -> io::Result<()> {
    BURST_OF.with_borrow_mut(|burst| {
        match socket.recv_burst(burst) {
            Ok(_) => (),
            // Told once when the device goes down; frames come again when it is up.
            Err(e) if e.raw_os_error() == Some(libc::ENETDOWN) => return Ok(()),
            // One frame that virtio_net_hdr has no words for: it is counted below.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
                let table = fabric.table();
                let batch = fabric.batch(&table, slot, number, tape);
                batch.ok_or(io::ErrorKind::NotConnected)?.refused(&[], 0, Reason::OffloadUnknown);
                return Ok(());
            }
            Err(e) => return Err(e),
        }
        tape.mark_batch(Stage::RxDevRead);
        let table = fabric.table();
        let mut batch = fabric.batch(&table, slot, number, tape).ok_or(io::ErrorKind::NotConnected)?;
        let offload = socket.offload().is_some();
        for (received, buffer) in burst.frames() {
            let Some(received) = received else {
                batch.refused(&[], 0, Reason::OffloadUnknown);
                continue;
            };
            if let Err(reason) = take(&mut batch, received, buffer, offload) {
                let bytes = buffer.get(Tag::LEN..).unwrap_or_default();
                batch.refused(&bytes[..bytes.len().min(received.len)], received.len, reason);
            }
        }
        Ok(())
    })
}

thread_local! {
    static BURST_OF: RefCell<Burst> = RefCell::new(Burst::new(BURST, MAX_FRAME));
}

/// Puts one received frame, which stands behind [`Tag::LEN`] bytes of room, together and forwards it.
fn take<T: Tape>(
    batch: &mut Batch<'_, T>,
    received: Received,
    buffer: &mut [u8],
    offload: bool,
) -> Result<(), Reason> {
    if received.truncated {
        return Err(Reason::Oversize);
    }
    let end = Tag::LEN + received.len;
    let mut header = VnetHeader::from_native(received.vnet);
    let frame = match received.tag {
        None => &mut buffer[Tag::LEN..end],
        Some(tag) => {
            insert_tag(&mut buffer[..end], tag)?;
            header = header.behind_tag();
            &mut buffer[..end]
        }
    };
    batch.frame_of_kernel(frame, &header, offload);
    Ok(())
}
