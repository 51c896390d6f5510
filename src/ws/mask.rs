//! The mask of RFC 6455 5.3: byte i of a payload XOR byte i mod 4 of the key. The same operation masks
//! and unmasks.
//!
//! `phase` is the payload offset of the first byte given, so that a payload can be masked in pieces.
//! Two masks over the same bytes are one mask with the XOR of their keys ([`combine`]): a message from
//! one masked link to another is neither unmasked nor masked, but re-keyed in one pass.
//!
//! One kernel does all the work, chosen once: AVX-512, AVX2, or words that the compiler vectorises
//! as the target allows. Each reads what it needs of the end before it writes anything, and writes the
//! end last and whole: the last vector overlaps the one before instead of a loop over single bytes.
#![allow(unsafe_code)]

use std::sync::OnceLock;

/// A masking key, in wire order.
pub type Key = [u8; 4];

/// Masks or unmasks `bytes` in place; the first is byte `phase` of its payload.
#[inline]
pub fn mask(bytes: &mut [u8], key: Key, phase: usize) {
    let word = word(key, phase);
    if word == 0 {
        return;
    }
    let (at, len) = (bytes.as_mut_ptr(), bytes.len());
    // SAFETY: `at` is valid for reads and writes of `len` bytes, and the kernels allow dst == src. In
    // place through two slices is what safe code cannot say; a safe loop in place and another for the
    // copy would be two kernels to tune and test.
    unsafe { xor(at, at, len, word) }
}

/// Appends `bytes`, masked, to `out`: one pass that copies and masks.
pub fn mask_into(out: &mut Vec<u8>, bytes: &[u8], key: Key, phase: usize) {
    let word = word(key, phase);
    if word == 0 {
        return out.extend_from_slice(bytes);
    }
    out.reserve(bytes.len());
    let end = out.len();
    // SAFETY: `reserve` made room for `bytes.len()` bytes behind the end; a `&mut Vec` and a `&[u8]` do
    // not overlap. All of the room is written before `set_len` declares it. Safe code would have to
    // write zeroes first: a third of the time at 1,514 bytes.
    unsafe {
        xor(out.as_mut_ptr().add(end), bytes.as_ptr(), bytes.len(), word);
        out.set_len(end + bytes.len());
    }
}

/// The key that does what `a` from payload offset `a_phase` on and `b` from `b_phase` on do together.
/// All zero when they undo each other.
pub fn combine(a: Key, a_phase: usize, b: Key, b_phase: usize) -> Key {
    (word(a, a_phase) ^ word(b, b_phase)).to_ne_bytes()
}

/// The name of the kernel in use.
pub fn kernel() -> &'static str {
    chosen().name
}

/// What `ETHERWS_MASK` asks for, and whether that kernel is in use: the name may be wrong, or this processor may lack it.
pub fn wish() -> Option<(String, bool)> {
    let wanted = std::env::var_os("ETHERWS_MASK")?.to_string_lossy().into_owned();
    let met = wanted == kernel();
    Some((wanted, met))
}

/// The key as the bytes from offset `phase` on meet it, in memory order.
fn word(key: Key, phase: usize) -> u32 {
    turn(u32::from_ne_bytes(key), phase)
}

/// `dst[i] = src[i] ^ word[i % 4]` in bytes.
///
/// # Safety
/// `src` is valid for reads and `dst` for writes of `len` bytes; they are the same or do not overlap.
#[inline]
unsafe fn xor(dst: *mut u8, src: *const u8, len: usize, word: u32) {
    // SAFETY: as required of the caller; a kernel is in the table only if the processor has it.
    unsafe {
        if len <= SHORT {
            return xor_short(dst, src, len, word);
        }
        (chosen().run)(dst, src, len, word);
    }
}

#[derive(Clone, Copy)]
struct Kernel {
    name: &'static str,
    /// As [`xor`]. Called with more than [`SHORT`] bytes.
    run: unsafe fn(*mut u8, *const u8, usize, u32),
    present: fn() -> bool,
}

/// Best first. The last is always there.
static KERNELS: &[Kernel] = &[
    #[cfg(target_arch = "x86_64")]
    Kernel {
        name: "avx512",
        run: xor_avx512,
        present: || is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512f"),
    },
    #[cfg(target_arch = "x86_64")]
    Kernel { name: "avx2", run: xor_avx2, present: || is_x86_feature_detected!("avx2") },
    Kernel { name: "portable", run: xor_portable, present: || true },
    // Only when asked for: what a mask costs that nobody thought about.
    Kernel { name: "rfc", run: xor_rfc, present: || true },
];

/// `ETHERWS_MASK=avx2` and the like forces a kernel, if the processor has it.
fn chosen() -> &'static Kernel {
    static CHOSEN: OnceLock<&Kernel> = OnceLock::new();
    CHOSEN.get_or_init(|| {
        let wanted = std::env::var("ETHERWS_MASK").ok();
        let mut there = KERNELS.iter().filter(|kernel| (kernel.present)());
        let named = there.clone().find(|kernel| Some(kernel.name) == wanted.as_deref());
        named.or_else(|| there.next()).unwrap_or(&KERNELS[KERNELS.len() - 1])
    })
}

/// Up to here a call through a pointer costs more than the work.
const SHORT: usize = 64;

/// As [`xor`], for up to [`SHORT`] bytes: two overlapping pieces of the largest size that fits.
///
/// # Safety
/// As [`xor`].
#[inline]
unsafe fn xor_short(dst: *mut u8, src: *const u8, len: usize, word: u32) {
    // SAFETY: as required of the caller; bytes are taken up to `len`, and words where that many are.
    unsafe {
        match len {
            0..4 => {
                for (at, key) in word.to_ne_bytes().into_iter().enumerate().take(len) {
                    *dst.add(at) = *src.add(at) ^ key;
                }
            }
            4..8 => xor_ends::<1>(dst, src, len, word),
            8..16 => xor_ends::<2>(dst, src, len, word),
            16..32 => xor_ends::<4>(dst, src, len, word),
            _ => xor_ends::<8>(dst, src, len, word),
        }
    }
}

/// As [`xor`], for at least as many bytes as N words have, and at most twice as many.
///
/// # Safety
/// As [`xor`].
#[inline]
unsafe fn xor_ends<const N: usize>(dst: *mut u8, src: *const u8, len: usize, word: u32) {
    let tail = len - N * 4;
    // SAFETY: both pieces lie within the bytes, by the length; both are read before either is written.
    unsafe {
        let first = words::<N>(src, word);
        let last = words::<N>(src.add(tail), turn(word, tail));
        dst.cast::<[u32; N]>().write_unaligned(first);
        dst.add(tail).cast::<[u32; N]>().write_unaligned(last);
    }
}

/// N words, masked. The compiler makes vectors of them; of a `u128` it makes two halves.
///
/// # Safety
/// `src` is valid for reads of `N * 4` bytes.
#[inline]
unsafe fn words<const N: usize>(src: *const u8, word: u32) -> [u32; N] {
    // SAFETY: as required of the caller.
    unsafe { src.cast::<[u32; N]>().read_unaligned() }.map(|piece| piece ^ word)
}

/// The word that begins `offset` bytes further on. (`rotate_left` of the bytes is a call of 10 ns.)
fn turn(word: u32, offset: usize) -> u32 {
    let bits = (offset as u32 & 3) * 8;
    if cfg!(target_endian = "little") { word.rotate_right(bits) } else { word.rotate_left(bits) }
}

/// As [`xor`], as the RFC says it: byte by byte.
///
/// # Safety
/// As [`xor`].
unsafe fn xor_rfc(dst: *mut u8, src: *const u8, len: usize, word: u32) {
    let key = word.to_ne_bytes();
    for at in 0..len {
        // SAFETY: as required of the caller. Volatile, or the compiler makes vectors of it.
        unsafe { dst.add(at).write_volatile(*src.add(at) ^ key[at % 4]) };
    }
}

/// As [`xor`], in words.
///
/// # Safety
/// As [`xor`], with at least 32 bytes.
unsafe fn xor_portable(dst: *mut u8, src: *const u8, len: usize, word: u32) {
    const SIZE: usize = 32;
    let tail = len - SIZE;
    // SAFETY: every piece lies within `len` bytes: `at` stops SIZE before the end, and the last piece
    // ends there. It is read before anything is written.
    unsafe {
        let last = words::<8>(src.add(tail), turn(word, tail));
        let mut at = 0;
        while at < tail {
            dst.add(at).cast::<[u32; 8]>().write_unaligned(words(src.add(at), word));
            at += SIZE;
        }
        dst.add(tail).cast::<[u32; 8]>().write_unaligned(last);
    }
}

/// As [`xor`], 128 bytes a turn. In all but short messages the stores between the first and the last
/// are aligned: one that crosses a cache line takes twice as long.
///
/// # Safety
/// As [`xor`], with at least 32 bytes, on a processor with AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn xor_avx2(dst: *mut u8, src: *const u8, len: usize, word: u32) {
    use std::arch::x86_64::*;
    const SIZE: usize = 32;
    let keyed = |offset: usize| _mm256_set1_epi32(turn(word, offset).cast_signed());
    let tail = len - SIZE;
    // Behind the first vector or, to be aligned, in it; never before its second byte.
    let mut at = if len < 8 * SIZE { SIZE } else { SIZE - dst.addr() % SIZE };
    let key = keyed(at);
    // SAFETY: every vector lies within `len` bytes: the turns of four and the single ones stop before
    // `tail`, and the last one ends at the end. The first and the last are read before anything is
    // written and written when all is read.
    unsafe {
        let load = |at: usize, key| _mm256_xor_si256(_mm256_loadu_si256(src.add(at).cast()), key);
        let store = |at: usize, vector| _mm256_storeu_si256(dst.add(at).cast(), vector);
        let first = load(0, keyed(0));
        let last = load(tail, keyed(tail));
        if len >= 8 * SIZE && !(dst.addr() + at).is_multiple_of(2 * SIZE) {
            // A turn is two cache lines then, not one and two halves.
            store(at, load(at, key));
            at += SIZE;
        }
        while at + 4 * SIZE <= tail {
            let four = [0, SIZE, 2 * SIZE, 3 * SIZE].map(|i| load(at + i, key));
            for (i, vector) in four.into_iter().enumerate() {
                store(at + i * SIZE, vector);
            }
            at += 4 * SIZE;
        }
        while at < tail {
            store(at, load(at, key));
            at += SIZE;
        }
        store(0, first);
        store(tail, last);
    }
}

/// As [`xor`]. In all but short messages each store is one cache line: every one of 64 bytes that is not
/// aligned crosses into the next.
///
/// # Safety
/// As [`xor`], with at least 64 bytes, on a processor with AVX-512 F and BW.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn xor_avx512(dst: *mut u8, src: *const u8, len: usize, word: u32) {
    use std::arch::x86_64::*;
    const SIZE: usize = 64;
    let head = dst.addr().wrapping_neg() % SIZE;
    // SAFETY: the first vector lies within the bytes, and so does what is behind `head`, which is less than a vector.
    // The first is read before anything is written and written when all is read.
    unsafe {
        if len < 8 * SIZE || head == 0 {
            return xor_vectors(dst, src, len, word);
        }
        let first = _mm512_xor_si512(_mm512_loadu_si512(src.cast()), _mm512_set1_epi32(word.cast_signed()));
        xor_vectors(dst.add(head), src.add(head), len - head, turn(word, head));
        _mm512_storeu_si512(dst.cast(), first);
    }
}

/// As [`xor`], 256 bytes a turn; the end by a byte mask.
///
/// # Safety
/// As [`xor`], on a processor with AVX-512 F and BW.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn xor_vectors(dst: *mut u8, src: *const u8, len: usize, word: u32) {
    use std::arch::x86_64::*;
    const SIZE: usize = 64;
    let key = _mm512_set1_epi32(word.cast_signed());
    // SAFETY: whole vectors lie within `len` bytes; the last one touches only the bytes of its mask.
    // Vectors do not overlap, so none is read after it was written.
    unsafe {
        let load = |at: usize| _mm512_xor_si512(_mm512_loadu_si512(src.add(at).cast()), key);
        let store = |at: usize, vector| _mm512_storeu_si512(dst.add(at).cast(), vector);
        let mut at = 0;
        while at + 4 * SIZE <= len {
            let four = [0, SIZE, 2 * SIZE, 3 * SIZE].map(|i| load(at + i));
            for (i, vector) in four.into_iter().enumerate() {
                store(at + i * SIZE, vector);
            }
            at += 4 * SIZE;
        }
        while at + SIZE <= len {
            store(at, load(at));
            at += SIZE;
        }
        if at < len {
            let bytes = u64::MAX >> (SIZE - (len - at));
            let piece = _mm512_maskz_loadu_epi8(bytes, src.add(at).cast());
            _mm512_mask_storeu_epi8(dst.add(at).cast(), bytes, _mm512_xor_si512(piece, key));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = [0x37, 0xfa, 0x21, 0x3d];

    /// The oracle: the sentence of the RFC.
    fn naive(bytes: &mut [u8], key: Key, phase: usize) {
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte ^= key[(i + phase) % 4];
        }
    }

    /// Every kernel that this processor has, on exactly `len` bytes at `offset`, both ways.
    fn check(offset: usize, len: usize, phase: usize) {
        let source: Vec<u8> = (0..offset + len + 64).map(|i| (i * 7 + i / 251) as u8).collect();
        let mut want = source.clone();
        naive(&mut want[offset..offset + len], KEY, phase);
        for kernel in KERNELS.iter().filter(|kernel| (kernel.present)() && len > SHORT) {
            let mut got = source.clone();
            let at = got[offset..offset + len].as_mut_ptr();
            // SAFETY: `at` points at `len` bytes of `got`.
            unsafe { (kernel.run)(at, at, len, word(KEY, phase)) };
            assert_eq!(got, want, "{} in place, offset {offset} len {len} phase {phase}", kernel.name);
            let mut got = source.clone();
            let from = &source[offset..offset + len];
            // SAFETY: both are `len` bytes long and apart.
            unsafe { (kernel.run)(got[offset..].as_mut_ptr(), from.as_ptr(), len, word(KEY, phase)) };
            assert_eq!(got, want, "{} copying, offset {offset} len {len} phase {phase}", kernel.name);
        }
        let mut got = source.clone();
        mask(&mut got[offset..offset + len], KEY, phase);
        assert_eq!(got, want, "mask, offset {offset} len {len} phase {phase}");
        let mut got = source[..offset].to_vec();
        mask_into(&mut got, &source[offset..offset + len], KEY, phase);
        assert_eq!(got, want[..offset + len], "mask_into, offset {offset} len {len} phase {phase}");
    }

    #[test]
    fn agrees_with_the_rfc_at_every_offset_length_and_phase() {
        // Miri takes a day for all.
        let step = if cfg!(miri) { 29 } else { 1 };
        for offset in (0..64).step_by(step) {
            for len in (0..300).step_by(step) {
                (0..4).for_each(|phase| check(offset, len, phase));
            }
        }
        for phase in 0..4 {
            // Longer ones are brought to a cache line first.
            for offset in (0..64).step_by(step) {
                for len in [511, 512, 513, 575, 576, 639, 1_100] {
                    check(offset, len, phase);
                }
            }
            for len in [1_514, 9_014, 65_549] {
                check(1, len, phase);
            }
        }
    }

    /// The bytes end where their allocation ends: the memory checker of scripts/test.sh sees whatever
    /// goes beyond, and whatever was never written.
    #[test]
    fn memory_beyond_the_bytes_is_left_alone() {
        let lengths = |offset| (0..300).chain(505..580).map(move |len| (offset, len));
        for (offset, len) in [0, 1, 17, 31].into_iter().flat_map(lengths) {
            let source: Box<[u8]> = (0..offset + len).map(|i| (i * 7) as u8).collect();
            let mut want = source.clone();
            naive(&mut want[offset..], KEY, 1);
            for kernel in KERNELS.iter().filter(|kernel| (kernel.present)() && len > SHORT) {
                let (mut in_place, mut copy) = (source.clone(), source.clone());
                let at = in_place[offset..].as_mut_ptr();
                // SAFETY: each points at the last `len` bytes of its box; the boxes are apart.
                unsafe {
                    (kernel.run)(at, at, len, word(KEY, 1));
                    (kernel.run)(copy[offset..].as_mut_ptr(), source[offset..].as_ptr(), len, word(KEY, 1));
                }
                assert_eq!((&in_place, &copy), (&want, &want), "{} {len}+{offset}", kernel.name);
            }
            let mut got = source.clone();
            mask(&mut got[offset..], KEY, 1);
            assert_eq!(got, want, "mask {len}+{offset}");
            let mut got = Vec::with_capacity(offset + len);
            got.extend_from_slice(&source[..offset]);
            mask_into(&mut got, &source[offset..], KEY, 1);
            assert_eq!(got[..], want[..], "mask_into {len}+{offset}");
        }
    }

    proptest::proptest! {
        #[test]
        fn agrees_with_the_rfc_on_anything(bytes: Vec<u8>, key: Key, phase in 0usize..70_000, cut: usize) {
            let mut want = bytes.clone();
            naive(&mut want, key, phase);
            let cut = cut % (bytes.len() + 1);
            let mut got = Vec::new();
            mask_into(&mut got, &bytes[..cut], key, phase);
            mask_into(&mut got, &bytes[cut..], key, phase + cut);
            assert_eq!(got, want, "in two pieces");
            mask(&mut got, key, phase);
            assert_eq!(got, bytes, "and back");
        }

        #[test]
        fn a_combined_key_does_both(bytes: Vec<u8>, a: Key, b: Key, p in 0usize..8, q in 0usize..8) {
            let mut want = bytes.clone();
            naive(&mut want, a, p);
            naive(&mut want, b, q);
            let mut got = bytes;
            mask(&mut got, combine(a, p, b, q), 0);
            assert_eq!(got, want);
        }
    }

    #[test]
    fn pieces_make_the_whole() {
        for cut in 0..50 {
            let (mut pieces, mut whole) = ([0x55; 50], [0x55; 50]);
            let (left, right) = pieces.split_at_mut(cut);
            mask(left, KEY, 0);
            mask(right, KEY, cut);
            mask(&mut whole, KEY, 0);
            assert_eq!(pieces, whole);
        }
    }

    #[test]
    fn rfc_6455_5_7_hello() {
        let mut bytes = *b"\x7f\x9f\x4d\x51\x58";
        mask(&mut bytes, KEY, 0);
        assert_eq!(&bytes, b"Hello");
    }
}
