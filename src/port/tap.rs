//! A TAP's ingress: what the host's kernel sends into the switch.

use std::io;
use std::sync::Arc;

use super::fabric::{Fabric, with_scratch};
use super::ingress::{Turns, pump};
use crate::frame::MAX_FRAME;
use crate::frame::offload::VnetHeader;
use crate::prof::{Stage, Tape};
use crate::switch::{Reason, Slot};
use crate::sys::Held;
use crate::sys::tun::Tap;

/// Reads frames until the device fails. Runs on a data thread.
pub async fn ingress(fabric: Arc<Fabric>, slot: Slot, number: u32, tap: Arc<Held<Tap>>) -> io::Error {
    pump(tap, |tap, turns| {
        crate::with_tape!(fabric.prof, |tape| forward_batch(&fabric, slot, number, (tap, turns), tape))
    })
    .await
}

/// Up to [`BUDGET`] frames, one of each queue in turn.
fn forward_batch<T: Tape>(
    fabric: &Fabric,
    slot: Slot,
    number: u32,
    (tap, turns): (&Tap, &mut Turns),
    tape: &mut T,
) -> io::Result<()> {
    let table = fabric.table();
    let mut batch = fabric.batch(&table, slot, number, tape).ok_or(io::ErrorKind::NotConnected)?;
    let offload = tap.offload().is_some();
    with_scratch(|scratch| {
        // One byte more than any frame: what fills it was cut, and is dropped as oversize.
        let header = if offload { VnetHeader::LEN } else { 0 };
        let buffer = &mut scratch.plain[..=header + MAX_FRAME];
        let mut bytes = 0;
        for _ in 0..BUDGET {
            let Some(queue) = turns.next() else { break };
            let read = tap.read(queue, buffer);
            // One that finds nothing costs too.
            batch.tape.mark(Stage::RxTapRead);
            let len = match read {
                Ok(len) => len,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    turns.ends(queue);
                    continue;
                }
                Err(e) => return Err(e),
            };
            match buffer[..len].split_first_chunk_mut() {
                Some((_, frame)) if offload && frame.len() > MAX_FRAME => {
                    batch.refused(frame, frame.len(), Reason::Oversize);
                }
                Some((header, frame)) if offload => {
                    batch.frame_of_kernel(frame, &VnetHeader::from_little_endian(*header), true);
                }
                _ => batch.frame(&buffer[..len]),
            }
            bytes += len;
            if bytes >= MOST_BYTES {
                break;
            }
        }
        Ok(())
    })
}

/// Of a TAP that is made by us: with so many, a flow that sends little meets none of four that send much in nine cases
/// of ten. Each is a descriptor, and some 12 KiB of the kernel's.
pub const QUEUES: usize = 32;
/// Frames in one batch: enough to make one write of many, few enough to leave at once. Of the usual 1,514 bytes they are
/// two writes' worth.
const BUDGET: usize = 84;
/// And bytes: four super-frames are as much as a link's peer reads at a time.
const MOST_BYTES: usize = 256 << 10;
