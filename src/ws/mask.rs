//! The mask of RFC 6455 5.3: byte i of a payload XOR byte i mod 4 of the key. The same operation masks
//! and unmasks.
//!
//! `phase` is the payload offset of the first byte given, so that a payload can be masked in pieces.

/// A masking key, in wire order.
pub type Key = [u8; 4];

/// Masks or unmasks `bytes` in place; the first is byte `phase` of its payload.
pub fn mask(bytes: &mut [u8], key: Key, phase: usize) {
    let key = rotate(key, phase);
    let wide = u64::from_ne_bytes([key[0], key[1], key[2], key[3], key[0], key[1], key[2], key[3]]);
    let (words, tail) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in tail.iter_mut().zip(wide.to_ne_bytes()) {
        *byte ^= key;
    }
}

/// The key as seen from payload offset `phase`.
fn rotate(mut key: Key, phase: usize) -> Key {
    key.rotate_left(phase & 3);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The oracle: the sentence of the RFC.
    fn naive(bytes: &mut [u8], key: Key, phase: usize) {
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte ^= key[(i + phase) % 4];
        }
    }

    #[test]
    fn agrees_with_the_rfc_at_every_offset_length_and_phase() {
        let key = [0x37, 0xfa, 0x21, 0x3d];
        let source: Vec<u8> = (0..400u32).map(|i| (i * 7) as u8).collect();
        for offset in 0..64 {
            for len in 0..300 {
                let phase = offset + len;
                let (mut got, mut want) = (source.clone(), source.clone());
                mask(&mut got[offset..offset + len], key, phase);
                naive(&mut want[offset..offset + len], key, phase);
                assert_eq!(got, want, "offset {offset} len {len} phase {phase}");
            }
        }
    }

    #[test]
    fn pieces_make_the_whole() {
        let key = [1, 2, 3, 4];
        for cut in 0..50 {
            let (mut pieces, mut whole) = ([0x55; 50], [0x55; 50]);
            let (left, right) = pieces.split_at_mut(cut);
            mask(left, key, 0);
            mask(right, key, cut);
            mask(&mut whole, key, 0);
            assert_eq!(pieces, whole);
        }
    }

    #[test]
    fn rfc_6455_5_7_hello() {
        let mut bytes = *b"\x7f\x9f\x4d\x51\x58";
        mask(&mut bytes, [0x37, 0xfa, 0x21, 0x3d], 0);
        assert_eq!(&bytes, b"Hello");
    }
}
