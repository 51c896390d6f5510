//! What a virtual machine sends, whole and cut anywhere, beside a second reading of QEMU's framing.

use etherws::frame::MAX_FRAME;
use etherws::frame::stream::{PREFIX, TooLong, first, prefix};

/// The first byte says where the stream is cut.
pub fn run(data: &[u8]) {
    let [cut, stream @ ..] = data else { return };
    let whole = decode(stream, stream.len());
    assert_eq!(whole, decode(stream, usize::from(*cut) + 1), "cut every {} bytes", *cut as usize + 1);
    assert_eq!(whole, read(stream), "another reading");
    let again: Vec<u8> = whole
        .0
        .iter()
        .flat_map(|frame| prefix(frame.len()).into_iter().chain(frame.iter().copied()))
        .collect();
    assert!(stream.starts_with(&again), "what is written is what was read");
}

/// The frames, and the length that was none.
type Told = (Vec<Vec<u8>>, Option<u32>);

/// As a session does it: what is not whole is kept for the next read.
fn decode(stream: &[u8], step: usize) -> Told {
    let (mut frames, mut kept) = (Vec::new(), Vec::new());
    for piece in stream.chunks(step.max(1)) {
        kept.extend_from_slice(piece);
        let mut at = 0;
        loop {
            match first(&kept[at..]) {
                Ok(Some(len)) => {
                    frames.push(kept[at + PREFIX..][..len].to_vec());
                    at += PREFIX + len;
                }
                Ok(None) => break,
                Err(TooLong(len)) => return (frames, Some(len)),
            }
        }
        kept.drain(..at);
        assert!(kept.len() < PREFIX + MAX_FRAME, "a frame is kept that is whole");
    }
    (frames, None)
}

fn read(stream: &[u8]) -> Told {
    let (mut frames, mut at) = (Vec::new(), 0);
    while at + 4 <= stream.len() {
        let len = stream[at..at + 4].iter().fold(0u64, |len, byte| len << 8 | u64::from(*byte));
        if len > 65_597 {
            return (frames, Some(len as u32));
        }
        let end = at + 4 + len as usize;
        if end > stream.len() {
            break;
        }
        frames.push(stream[at + 4..end].to_vec());
        at = end;
    }
    (frames, None)
}
