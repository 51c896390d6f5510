//! Super-frames made part by part, split, and each piece checked against the naive checksum and
//! against what its maker knows of it.

use proptest::prelude::*;

use super::super::checksum::naive_sum;
use super::super::offload::Gso;
use super::*;

/// What a super-frame is made of.
#[derive(Clone, Debug)]
struct Recipe {
    kind: GsoKind,
    v6: bool,
    tags: Vec<[u8; 4]>,
    /// IPv4 options (a multiple of 4) or IPv6 extension headers as (type, bytes).
    ip_options: Vec<u8>,
    extensions: Vec<(u8, Vec<u8>)>,
    tcp_options: Vec<u8>,
    flags: u8,
    seq: u32,
    id: u16,
    addresses: Vec<u8>,
    payload: Vec<u8>,
    size: u16,
}

struct Made {
    frame: Vec<u8>,
    l3: usize,
    l4: usize,
    payload: usize,
}

impl Recipe {
    fn tcp4() -> Self {
        Self {
            kind: GsoKind::Tcp4,
            v6: false,
            tags: vec![],
            ip_options: vec![],
            extensions: vec![],
            tcp_options: vec![],
            flags: 0x10,
            seq: 1,
            id: 1,
            addresses: vec![10, 0, 0, 1, 10, 0, 0, 2],
            payload: (0..100).collect(),
            size: 40,
        }
    }

    fn make(&self) -> Made {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        self.tags.iter().for_each(|tag| frame.extend(tag));
        frame.extend(if self.v6 { [0x86, 0xdd] } else { [0x08, 0x00] });
        let l3 = frame.len();
        let udp = self.kind == GsoKind::Udp;
        let protocol = if udp { 17 } else { 6 };
        let l4_len = self.payload.len() + if udp { 8 } else { 20 + self.tcp_options.len() };
        if self.v6 {
            let extensions: usize = self.extensions.iter().map(|(_, bytes)| bytes.len()).sum();
            frame.extend([0x60, 0, 0, 0]);
            frame.extend(((extensions + l4_len) as u16).to_be_bytes());
            frame.extend([self.extensions.first().map_or(protocol, |(kind, _)| *kind), 64]);
            frame.extend(&self.addresses);
            for (i, (_, bytes)) in self.extensions.iter().enumerate() {
                frame.push(self.extensions.get(i + 1).map_or(protocol, |(kind, _)| *kind));
                frame.extend(&bytes[1..]);
            }
        } else {
            let header = 20 + self.ip_options.len();
            frame.extend([0x40 | (header / 4) as u8, 0]);
            frame.extend(((header + l4_len) as u16).to_be_bytes());
            frame.extend(self.id.to_be_bytes());
            frame.extend([0x40, 0, 64, protocol, 0xde, 0xad]);
            frame.extend(&self.addresses);
            frame.extend(&self.ip_options);
        }
        let l4 = frame.len();
        frame.extend([0x12, 0x34, 0x56, 0x78]);
        if udp {
            frame.extend((l4_len as u16).to_be_bytes());
            frame.extend([0xbe, 0xef]);
        } else {
            frame.extend(self.seq.to_be_bytes());
            frame.extend([0, 0, 0, 9, (((20 + self.tcp_options.len()) / 4) << 4) as u8, self.flags]);
            frame.extend([0x20, 0, 0xbe, 0xef, 0, 0]);
            frame.extend(&self.tcp_options);
        }
        let payload = frame.len();
        frame.extend(&self.payload);
        Made { frame, l3, l4, payload }
    }

    fn offload(&self) -> Offload {
        Offload { checksum: None, gso: Some(Gso { kind: self.kind, size: self.size }) }
    }
}

fn split(frame: &[u8], offload: &Offload) -> Result<Vec<Vec<u8>>, Reason> {
    let mut segments = Segments::new(frame, offload)?;
    let mut buf = vec![0xa5; segments.longest()];
    let mut pieces = Vec::new();
    let count = segments.remaining();
    while let Some(len) = segments.write_next(&mut buf) {
        pieces.push(buf[..len].to_vec());
    }
    assert_eq!(pieces.len(), count);
    Ok(pieces)
}

fn l4_sum(piece: &[u8], addresses: &[u8], l4: usize, protocol: u8) -> u16 {
    let len = ((piece.len() - l4) as u32).to_be_bytes();
    naive_sum(&[addresses, &len, &[0, 0, 0, protocol], &piece[l4..]].concat())
}

/// Everything that must hold for the pieces of `recipe`.
fn verify(recipe: &Recipe) {
    let made = recipe.make();
    let pieces = split(&made.frame, &recipe.offload()).unwrap();
    let (l3, l4) = (made.l3, made.l4);
    let size = usize::from(recipe.size);
    let mut joined: Vec<u8> = Vec::new();
    for (i, piece) in pieces.iter().enumerate() {
        let (first, last) = (i == 0, i + 1 == pieces.len());
        let body = &piece[made.payload..];
        assert!(last || body.len() == size, "piece {i}");
        joined.extend(body);

        let mut expected = made.frame[..made.payload].to_vec();
        if recipe.v6 {
            put(&mut expected, l3 + 4, (piece.len() - l3 - 40) as u16);
        } else {
            put(&mut expected, l3 + 2, (piece.len() - l3) as u16);
            put(&mut expected, l3 + 4, recipe.id.wrapping_add(i as u16));
            put(&mut expected, l3 + 10, word(piece, l3 + 10));
            assert_eq!(naive_sum(&piece[l3..l4]), 0xffff, "IPv4 header of piece {i}");
        }
        let udp = recipe.kind == GsoKind::Udp;
        if udp {
            put(&mut expected, l4 + 4, (piece.len() - l4) as u16);
            put(&mut expected, l4 + 6, word(piece, l4 + 6));
            assert_ne!(word(piece, l4 + 6), 0, "piece {i} says that it has no checksum");
        } else {
            let seq = recipe.seq.wrapping_add((i * size) as u32);
            expected[l4 + 4..l4 + 8].copy_from_slice(&seq.to_be_bytes());
            let mut flags = recipe.flags;
            if !last {
                flags &= !0x09;
            }
            if !first {
                flags &= !0x80;
            }
            expected[l4 + 13] = flags;
            put(&mut expected, l4 + 16, word(piece, l4 + 16));
        }
        assert_eq!(piece[..made.payload], expected, "headers of piece {i}");
        let sum = l4_sum(piece, &recipe.addresses, l4, if udp { 17 } else { 6 });
        assert_eq!(sum, 0xffff, "checksum of piece {i}");
    }
    assert_eq!(joined, recipe.payload);
}

fn recipes() -> impl Strategy<Value = Recipe> {
    let kinds = prop::sample::select(vec![
        (GsoKind::Tcp4, false),
        (GsoKind::Tcp6, true),
        (GsoKind::Udp, false),
        (GsoKind::Udp, true),
    ]);
    let tag = (prop::sample::select(vec![[0x81, 0x00], [0x88, 0xa8]]), any::<[u8; 2]>());
    let extension = (prop::sample::select(vec![0u8, 43, 60]), 0u8..3, any::<u8>());
    (
        (
            kinds,
            prop::collection::vec(tag, 0..4),
            0usize..=10,
            prop::collection::vec(extension, 0..4),
            0usize..=10,
        ),
        (any::<u8>(), any::<u32>(), any::<u16>(), any::<[u8; 32]>()),
        (prop::collection::vec(any::<u8>(), 0..4000), 1u16..2000),
    )
        .prop_map(
            |(
                (kind, tags, ip_words, extensions, tcp_words),
                (flags, seq, id, addresses),
                (payload, size),
            )| {
                let extensions = extensions.into_iter().map(|(kind, units, fill)| {
                    let mut bytes = vec![fill; usize::from(units + 1) * 8];
                    // No segments left: the destination is the final one.
                    (bytes[1], bytes[3]) = (units, 0);
                    (kind, bytes)
                });
                Recipe {
                    kind: kind.0,
                    v6: kind.1,
                    tags: tags.into_iter().map(|([a, b], [c, d])| [a, b, c, d]).collect(),
                    ip_options: vec![1; ip_words * 4],
                    extensions: extensions.collect(),
                    tcp_options: vec![1; tcp_words * 4],
                    flags: flags & !0x06,
                    seq,
                    id,
                    addresses: addresses[..if kind.1 { 32 } else { 8 }].to_vec(),
                    payload,
                    size,
                }
            },
        )
}

#[test]
fn flags_ids_and_sequence_numbers_go_on_from_piece_to_piece() {
    let recipe = Recipe { flags: 0x99, seq: u32::MAX - 10, id: 0xffff, ..Recipe::tcp4() };
    verify(&recipe);
    let pieces = split(&recipe.make().frame, &recipe.offload()).unwrap();
    let field = |at: usize| pieces.iter().map(|piece| piece[at]).collect::<Vec<_>>();
    assert_eq!(pieces.iter().map(Vec::len).collect::<Vec<_>>(), [94, 94, 74]);
    assert_eq!(field(14 + 20 + 13), [0x90, 0x10, 0x19]);
    assert_eq!(pieces.iter().map(|piece| word(piece, 18)).collect::<Vec<_>>(), [0xffff, 0, 1]);
    assert_eq!(pieces.iter().map(|piece| word(piece, 40)).collect::<Vec<_>>(), [0xfff5, 0x1d, 0x45]);
}

#[test]
fn a_payload_that_needs_no_splitting_still_gets_its_checksum() {
    verify(&Recipe { payload: vec![7; 40], ..Recipe::tcp4() });
    verify(&Recipe { payload: vec![], ..Recipe::tcp4() });
}

#[test]
fn the_largest_super_frames_split() {
    verify(&Recipe { payload: vec![9; 65_535 - 40], size: 1460, ..Recipe::tcp4() });
    verify(&Recipe { payload: vec![9; 65_535 - 40], size: 8, ..Recipe::tcp4() });
}

/// Above 65,535 bytes the kernel leaves IPv4's total length 0 (BIG TCP).
#[test]
fn a_total_length_of_zero_means_the_rest_of_the_frame() {
    let recipe = Recipe { payload: vec![9; 65_540], size: 32_770, ..Recipe::tcp4() };
    let mut frame = recipe.make().frame;
    put(&mut frame, 16, 0);
    let pieces = split(&frame, &recipe.offload()).unwrap();
    assert_eq!(pieces.iter().map(|piece| word(piece, 16)).collect::<Vec<_>>(), [32_810, 32_810]);
    let whole = Offload { gso: Some(Gso { kind: GsoKind::Tcp4, size: 65_534 }), checksum: None };
    assert_eq!(split(&frame, &whole), Err(Reason::GsoLength));
}

#[test]
fn udp_pieces_whose_checksum_is_zero_say_ones() {
    // A payload that makes the sum 0xffff by itself: its own complement at the end.
    let mut recipe = Recipe { kind: GsoKind::Udp, payload: vec![0; 2], size: 2, ..Recipe::tcp4() };
    let made = recipe.make();
    let mut piece = made.frame.clone();
    put(&mut piece, made.l4 + 6, 0);
    recipe.payload = (!l4_sum(&piece, &recipe.addresses, made.l4, 17)).to_be_bytes().to_vec();
    let pieces = split(&recipe.make().frame, &recipe.offload()).unwrap();
    assert_eq!(word(&pieces[0], made.l4 + 6), 0xffff);
    verify(&recipe);
}

/// A routing header with segments left: only the partial checksum knows the final destination.
#[test]
fn with_a_routing_header_the_pseudo_header_comes_from_the_checksum_field() {
    let final_destination = [0xfd; 16];
    let mut routing = vec![0, 2, 2, 1, 0, 0, 0, 0];
    routing.extend(final_destination);
    let recipe = Recipe {
        kind: GsoKind::Tcp6,
        v6: true,
        extensions: vec![(43, routing)],
        addresses: (1..33).collect(),
        ..Recipe::tcp4()
    };
    let made = recipe.make();
    let mut frame = made.frame.clone();
    let addresses = [&recipe.addresses[..16], &final_destination].concat();
    let len = ((frame.len() - made.l4) as u32).to_be_bytes();
    put(&mut frame, made.l4 + 16, naive_sum(&[&addresses[..], &len, &[0, 0, 0, 6]].concat()));
    assert_eq!(split(&frame, &recipe.offload()), Err(Reason::GsoProtocol));
    let checksum = Some(Checksum { start: made.l4, offset: 16 });
    let pieces = split(&frame, &Offload { checksum, ..recipe.offload() }).unwrap();
    assert_eq!(pieces.len(), 3);
    for piece in pieces {
        assert_eq!(l4_sum(&piece, &addresses, made.l4, 6), 0xffff);
    }
}

#[test]
fn what_cannot_be_split_is_refused_by_name() {
    type Spoil = fn(&mut Vec<u8>, &mut Offload);
    fn size(offload: &mut Offload, size: u16) {
        offload.gso.as_mut().unwrap().size = size;
    }
    let cases: [(&str, Reason, Spoil); 20] = [
        ("no GSO at all", Reason::GsoSize, |_, o| o.gso = None),
        ("gso_size 0", Reason::GsoSize, |_, o| size(o, 0)),
        ("GSO_BY_FRAGS", Reason::GsoSize, |_, o| size(o, 0xffff)),
        ("too many pieces", Reason::GsoSegments, |f, o| {
            f.resize(14 + 40 + MAX_SEGMENTS + 1, 0);
            put(f, 16, 40 + MAX_SEGMENTS as u16 + 1);
            size(o, 1);
        }),
        ("a runt", Reason::Runt, |f, _| f.truncate(13)),
        ("ARP", Reason::GsoProtocol, |f, _| put(f, 12, 0x0806)),
        ("a frame that ends in its tag", Reason::GsoLength, |f, _| {
            f.truncate(16);
            put(f, 12, 0x8100);
        }),
        ("IPv6 in an IPv4 EtherType", Reason::GsoLength, |f, _| f[14] = 0x65),
        ("IHL 4", Reason::GsoLength, |f, _| f[14] = 0x44),
        ("IHL beyond the frame", Reason::GsoLength, |f, _| {
            f.truncate(60);
            put(f, 16, 46);
            f[14] = 0x4f;
        }),
        ("total length too long", Reason::GsoLength, |f, _| put(f, 16, 141)),
        ("total length too short", Reason::GsoLength, |f, _| put(f, 16, 139)),
        ("a fragment", Reason::GsoUnsplittable, |f, _| put(f, 20, 0x2000)),
        ("a later fragment", Reason::GsoUnsplittable, |f, _| put(f, 20, 0x0001)),
        ("SYN", Reason::GsoUnsplittable, |f, _| f[47] = 0x02),
        ("data offset 4", Reason::GsoLength, |f, _| f[46] = 0x40),
        ("UDP on the outside", Reason::GsoTunnel, |f, _| f[23] = 17),
        ("GRE on the outside", Reason::GsoTunnel, |f, _| f[23] = 47),
        ("the other IP version", Reason::GsoType, |_, o| o.gso.as_mut().unwrap().kind = GsoKind::Tcp6),
        ("ICMP", Reason::GsoProtocol, |f, _| f[23] = 1),
    ];
    for (what, reason, spoil) in cases {
        let recipe = Recipe::tcp4();
        let (mut frame, mut offload) = (recipe.make().frame, recipe.offload());
        spoil(&mut frame, &mut offload);
        assert_eq!(split(&frame, &offload), Err(reason), "{what}");
    }
    let udp = Recipe { kind: GsoKind::Udp, ..Recipe::tcp4() };
    let mut frame = udp.make().frame;
    put(&mut frame, 38, 109);
    assert_eq!(split(&frame, &udp.offload()), Err(Reason::GsoLength));
    let fragment = Recipe {
        kind: GsoKind::Tcp6,
        v6: true,
        addresses: vec![1; 32],
        extensions: vec![(44, vec![0; 8])],
        ..Recipe::tcp4()
    };
    assert_eq!(split(&fragment.make().frame, &fragment.offload()), Err(Reason::GsoUnsplittable));
}

#[test]
fn a_buffer_that_is_too_short_gets_nothing() {
    let recipe = Recipe::tcp4();
    let frame = recipe.make().frame;
    let mut segments = Segments::new(&frame, &recipe.offload()).unwrap();
    assert_eq!(segments.longest(), 94);
    assert_eq!(segments.write_next(&mut [0; 93]), None);
    assert_eq!(segments.write_next(&mut [0; 94]), Some(94));
}

proptest! {
    #[test]
    fn every_piece_is_a_whole_frame(recipe in recipes()) {
        verify(&recipe);
    }

    /// Good super-frames with a few bytes changed or the end cut off, and any description: no panic,
    /// no piece longer than promised, no more bytes than the headers times the cap.
    #[test]
    fn hostile_frames_neither_panic_nor_grow(
        recipe in recipes(),
        changes in prop::collection::vec((0usize..160, any::<u8>()), 0..6),
        cut in 0usize..300,
        kind in prop::sample::select(vec![GsoKind::Tcp4, GsoKind::Tcp6, GsoKind::Udp]),
        size in prop_oneof![0u16..10, any::<u16>()],
        start in 0usize..100,
        fix_length: bool,
    ) {
        let made = recipe.make();
        let mut frame = made.frame;
        if cut < 150 {
            frame.truncate(frame.len().saturating_sub(cut));
        }
        if fix_length && !recipe.v6 && frame.len() > made.l4 {
            let total = (frame.len() - made.l3) as u16;
            put(&mut frame, made.l3 + 2, total);
        }
        for (at, value) in changes {
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
        }
        let offload = Offload { checksum: Some(Checksum { start, offset: 16 }), gso: Some(Gso { kind, size }) };
        if let Ok(mut segments) = Segments::new(&frame, &offload) {
            let (count, longest) = (segments.remaining(), segments.longest());
            prop_assert!((1..=MAX_SEGMENTS).contains(&count) && longest <= frame.len());
            let mut buf = vec![0; longest];
            let mut written = 0;
            while let Some(len) = segments.write_next(&mut buf) {
                prop_assert!(len <= longest);
                written += 1;
            }
            prop_assert_eq!(written, count);
        }
    }

    #[test]
    fn noise_does_not_panic(frame in prop::collection::vec(any::<u8>(), 0..200), size: u16) {
        for kind in [GsoKind::Tcp4, GsoKind::Tcp6, GsoKind::Udp] {
            let _ = split(&frame, &Offload { checksum: None, gso: Some(Gso { kind, size }) });
        }
    }
}
