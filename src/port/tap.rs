//! A TAP's ingress: what the host's kernel sends into the switch.

use std::io;
use std::sync::Arc;

use super::fabric::{Fabric, with_scratch};
use super::ingress::pump;
use crate::frame::MAX_FRAME;
use crate::switch::Slot;
use crate::sys::Held;
use crate::sys::tun::Tap;

/// Reads frames until the device fails. Runs on a data thread.
pub async fn ingress(fabric: Arc<Fabric>, slot: Slot, number: u32, tap: Arc<Held<Tap>>) -> io::Error {
    pump(tap, |tap| forward_batch(&fabric, slot, number, tap)).await
}

/// Up to [`BUDGET`] frames; `WouldBlock` when there are no more.
fn forward_batch(fabric: &Fabric, slot: Slot, number: u32, tap: &Tap) -> io::Result<()> {
    let table = fabric.table();
    let mut batch = fabric.batch(&table, slot, number).ok_or(io::ErrorKind::NotConnected)?;
    with_scratch(|scratch| {
        // One byte more than any frame: what fills it was cut, and is dropped as oversize.
        let buffer = &mut scratch.plain[..=MAX_FRAME];
        for _ in 0..BUDGET {
            let len = tap.read(buffer)?;
            batch.frame(&buffer[..len]);
        }
        Ok(())
    })
}

/// Frames in one batch: enough to make one write of many, few enough to leave at once.
const BUDGET: usize = 64;
