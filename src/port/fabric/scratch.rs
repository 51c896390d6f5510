//! What a data thread keeps for itself, so that no batch allocates.

use std::cell::RefCell;
use std::sync::Arc;

use crate::frame::coalesce::Coalescer;
use crate::frame::offload::VnetHeader;
use crate::frame::{MAX_FRAME, Retag};
use crate::port::egress::Egress;
use crate::switch::Port;

/// What is kept between batches so that none allocates.
#[derive(Default)]
pub(super) struct Kept {
    /// The list of ports to flush.
    pub touched: Vec<Arc<Port<Egress>>>,
    pub others: Vec<(Arc<Port<Egress>>, Retag)>,
    pub coalescer: Option<Box<Coalescer>>,
}

thread_local! {
    pub(super) static KEPT: RefCell<Kept> = RefCell::default();
    /// Where a frame is finished.
    pub(super) static FINISHED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::default());
}

/// A thread's read buffers; every ingress on the thread borrows them for one read.
pub struct Scratch {
    /// Where frames are read to.
    pub plain: Box<[u8]>,
    /// Where a TLS link's records are read to.
    pub sealed: Box<[u8]>,
}

/// The longest message: a frame with a header in front.
pub const MAX_MESSAGE: usize = VnetHeader::LEN + MAX_FRAME;

/// What one read takes at most.
pub const READ: usize = 256 << 10;

impl Default for Scratch {
    fn default() -> Self {
        // The rest of a message that a read cut stands in front of the next read.
        let plain = vec![0; READ + MAX_MESSAGE + crate::ws::header::MAX_HEADER];
        // TLS may hold a few records of plaintext back; they fit too.
        Self { plain: plain.into(), sealed: vec![0; READ - (64 << 10)].into() }
    }
}

/// Lends the calling thread's read buffers. Not re-entrant.
pub fn with_scratch<T>(work: impl FnOnce(&mut Scratch) -> T) -> T {
    SCRATCH.with_borrow_mut(work)
}
