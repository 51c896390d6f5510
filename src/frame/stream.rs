//! Frames in a stream of bytes, each behind its length: 32 bits, big endian, no checksum and no virtio_net_hdr.
//! So speaks QEMU over a socket (`-netdev stream`, `-netdev socket`; its net/net.c, `net_fill_rstate`).

use super::MAX_FRAME;

/// Bytes in front of each frame.
pub const PREFIX: usize = 4;

/// A length that no frame has. What follows means nothing any more, so the stream is to be closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooLong(pub u32);

/// What stands in front of a frame of `len` bytes, at most [`MAX_FRAME`].
pub fn prefix(len: usize) -> [u8; PREFIX] {
    (len as u32).to_be_bytes()
}

/// The length of the frame that `bytes` begin with, without its prefix; `None`: not all of it is there.
pub fn first(bytes: &[u8]) -> Result<Option<usize>, TooLong> {
    let Some((prefix, rest)) = bytes.split_first_chunk() else { return Ok(None) };
    let announced = u32::from_be_bytes(*prefix);
    let len = usize::try_from(announced).ok().filter(|len| *len <= MAX_FRAME).ok_or(TooLong(announced))?;
    Ok((rest.len() >= len).then_some(len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_there_when_all_of_it_is() {
        let mut bytes = prefix(3).to_vec();
        bytes.extend(*b"abcd");
        for end in 0..7 {
            assert_eq!(first(&bytes[..end]), Ok(None), "{end}");
        }
        assert_eq!(first(&bytes[..7]), Ok(Some(3)));
        assert_eq!(first(&bytes), Ok(Some(3)), "what follows is the next one's");
        assert_eq!(first(&[0; 4]), Ok(Some(0)));
    }

    #[test]
    fn bad_17_a_length_that_no_frame_has_is_refused_before_the_frame_comes() {
        assert_eq!(first(&prefix(MAX_FRAME)), Ok(None));
        for long in [MAX_FRAME as u32 + 1, 1 << 31, u32::MAX] {
            assert_eq!(first(&long.to_be_bytes()), Err(TooLong(long)));
        }
    }
}
