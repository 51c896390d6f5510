//! Super-frames made part by part, split, and each piece checked against the naive checksum and
//! against what its maker knows of it.

use proptest::prelude::*;

use super::super::checksum::naive_sum;
use super::super::offload::*;
use super::super::recipe::*;
use super::*;

/// Everything that must hold for the pieces of `recipe`.
fn verify(recipe: &Recipe) {
    let made = recipe.make();
    let pieces = recipe.split();
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
        let udp = recipe.udp;
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

#[test]
fn flags_ids_and_sequence_numbers_go_on_from_piece_to_piece() {
    let recipe = Recipe { flags: 0x99, seq: u32::MAX - 10, id: 0xffff, ..Recipe::tcp4() };
    verify(&recipe);
    let pieces = recipe.split();
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
    let mut made = recipe.make();
    let header = recipe.header(&made);
    put(&mut made.frame, 16, 0);
    let arrived = Unfinished::from_kernel(&mut made.frame, &header).unwrap();
    assert!(matches!(arrived, Arrived::Split(_)));
    let pieces = pieces(&made.frame, &unfinished(arrived));
    assert_eq!(pieces.iter().map(|piece| word(piece, 16)).collect::<Vec<_>>(), [32_810, 32_810]);
    for piece in pieces {
        assert_eq!(l4_sum(&piece, &recipe.addresses, made.l4, 6), 0xffff);
    }
    let whole = VnetHeader { gso_size: 65_534, ..header };
    assert_eq!(split(&mut made.frame, &whole), Err(Reason::OffloadLength));
}

#[test]
fn udp_pieces_whose_checksum_is_zero_say_ones() {
    // A payload that makes the sum 0xffff by itself: its own complement at the end.
    let mut recipe = Recipe { udp: true, payload: vec![0; 2], size: 2, ..Recipe::tcp4() };
    let made = recipe.make();
    let mut piece = made.frame.clone();
    put(&mut piece, made.l4 + 6, 0);
    recipe.payload = (!l4_sum(&piece, &recipe.addresses, made.l4, 17)).to_be_bytes().to_vec();
    let pieces = recipe.split();
    assert_eq!(word(&pieces[0], made.l4 + 6), 0xffff);
    verify(&recipe);
}

/// A routing header with segments left: only the partial checksum knows the final destination.
#[test]
fn with_a_routing_header_the_pseudo_header_comes_from_the_checksum_field() {
    let final_destination = [0xfd; 16];
    let mut routing = vec![0, 2, 2, 1, 0, 0, 0, 0];
    routing.extend(final_destination);
    let recipe =
        Recipe { v6: true, extensions: vec![(43, routing)], addresses: (1..33).collect(), ..Recipe::tcp4() };
    let made = recipe.make();
    let mut frame = made.frame.clone();
    let addresses = [&recipe.addresses[..16], &final_destination].concat();
    let len = frame.len() - made.l4;
    put(&mut frame, made.l4 + 16, pseudo_sum(&addresses, len, 6));
    let header = recipe.header(&made);
    let elsewhere = VnetHeader { flags: 0, ..header };
    assert_eq!(split(&mut frame, &elsewhere), Err(Reason::OffloadProtocol));
    let pieces = split(&mut frame, &header).unwrap();
    assert_eq!(pieces.len(), 3);
    for piece in pieces {
        assert_eq!(l4_sum(&piece, &addresses, made.l4, 6), 0xffff);
    }
}

#[test]
fn what_a_kernel_would_not_send_is_refused_by_name() {
    type Spoil = fn(&mut Vec<u8>, &mut VnetHeader);
    let cases: [(&str, Reason, Spoil); 21] = [
        ("gso_size 0", Reason::GsoSize, |_, h| h.gso_size = 0),
        ("GSO_BY_FRAGS", Reason::GsoSize, |_, h| h.gso_size = 0xffff),
        ("too many pieces", Reason::GsoSegments, |f, h| {
            f.resize(14 + 40 + MAX_SEGMENTS + 1, 0);
            put(f, 16, 40 + MAX_SEGMENTS as u16 + 1);
            h.gso_size = 1;
        }),
        ("a runt", Reason::Runt, |f, _| f.truncate(13)),
        ("ARP", Reason::OffloadProtocol, |f, _| put(f, 12, 0x0806)),
        ("a frame that ends in its tag", Reason::OffloadLength, |f, _| {
            f.truncate(16);
            put(f, 12, 0x8100);
        }),
        ("IPv6 in an IPv4 EtherType", Reason::OffloadProtocol, |f, _| f[14] = 0x65),
        ("IHL 4", Reason::OffloadLength, |f, _| f[14] = 0x44),
        ("IHL beyond the frame", Reason::OffloadLength, |f, _| {
            f.truncate(60);
            put(f, 16, 46);
            f[14] = 0x4f;
        }),
        ("total length too long", Reason::OffloadLength, |f, _| put(f, 16, 141)),
        ("total length too short", Reason::OffloadLength, |f, _| put(f, 16, 139)),
        ("a fragment", Reason::OffloadFragment, |f, _| put(f, 20, 0x2000)),
        ("a later fragment", Reason::OffloadFragment, |f, _| put(f, 20, 0x0001)),
        ("SYN", Reason::GsoSynRst, |f, _| f[47] = 0x02),
        ("RST", Reason::GsoSynRst, |f, _| f[47] = 0x14),
        ("data offset 4", Reason::OffloadLength, |f, _| f[46] = 0x40),
        ("UDP on the outside", Reason::OffloadTunnel, |f, _| {
            f[23] = 17;
            put(f, 38, 120);
        }),
        ("GRE on the outside", Reason::OffloadTunnel, |f, _| f[23] = 47),
        ("the other IP version", Reason::GsoType, |_, h| h.gso_type = 4),
        ("TCP that is said to be UDP", Reason::GsoType, |_, h| h.gso_type = 5),
        ("ICMP", Reason::OffloadProtocol, |f, _| f[23] = 1),
    ];
    for (what, reason, spoil) in cases {
        let recipe = Recipe::tcp4();
        let made = recipe.make();
        let (mut frame, mut header) = (made.frame.clone(), recipe.header(&made));
        spoil(&mut frame, &mut header);
        assert_eq!(split(&mut frame, &header), Err(reason), "{what}");
    }
    let udp = Recipe { udp: true, ..Recipe::tcp4() };
    let mut made = udp.make();
    let header = udp.header(&made);
    put(&mut made.frame, 38, 109);
    assert_eq!(split(&mut made.frame, &header), Err(Reason::OffloadLength));
    let fragment =
        Recipe { v6: true, addresses: vec![1; 32], extensions: vec![(44, vec![0; 8])], ..Recipe::tcp4() };
    let mut made = fragment.make();
    let header = fragment.header(&made);
    assert_eq!(split(&mut made.frame, &header), Err(Reason::OffloadFragment));
}

#[test]
fn a_buffer_that_is_too_short_gets_nothing() {
    let recipe = Recipe::tcp4();
    let mut made = recipe.make();
    let header = recipe.header(&made);
    let unfinished = unfinished(Unfinished::from_kernel(&mut made.frame, &header).unwrap());
    let mut segments = Segments::new(&made.frame, &unfinished);
    assert_eq!(segments.longest(), 94);
    assert_eq!(segments.write_next(&mut [0; 93]), None);
    assert_eq!(segments.write_next(&mut [0; 94]), Some(94));
}

#[test]
fn a_frame_that_is_no_super_frame_is_one_piece_with_its_checksum() {
    for udp in [false, true] {
        let recipe = Recipe { udp, flags: 0x02, ..Recipe::tcp4() };
        let made = recipe.make();
        let mut frame = made.frame.clone();
        let header = VnetHeader { gso_type: 0, gso_size: 0, ..recipe.header(&made) };
        let arrived = Unfinished::from_kernel(&mut frame, &header).unwrap();
        assert!(matches!(arrived, Arrived::Unfinished(_)));
        assert_eq!(frame, made.frame, "completed too early");
        let pieces = pieces(&frame, &unfinished(arrived));
        let field = made.l4 + recipe.csum_offset();
        put(&mut frame, field, word(&pieces[0], field));
        assert_eq!(pieces, [frame]);
        assert_eq!(l4_sum(&pieces[0], &recipe.addresses, made.l4, if udp { 17 } else { 6 }), 0xffff);
    }
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
        gso_type in prop::sample::select(vec![0u8, 1, 4, 5]),
        size in prop_oneof![0u16..10, any::<u16>()],
        start in prop_oneof![Just(None), (0u16..100).prop_map(Some)],
        fix_length: bool,
    ) {
        let made = recipe.make();
        let mut frame = made.frame.clone();
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
        let csum_start = start.unwrap_or(made.l4 as u16);
        let header = VnetHeader { gso_type, gso_size: size, csum_start, ..recipe.header(&made) };
        let Ok(Arrived::Unfinished(unfinished) | Arrived::Split(unfinished)) =
            Unfinished::from_kernel(&mut frame, &header)
        else {
            return Ok(());
        };
        let pieces = pieces(&frame, &unfinished);
        prop_assert!((1..=MAX_SEGMENTS).contains(&pieces.len()));
        prop_assert!(unfinished.longest(frame.len()) <= frame.len());
    }

    #[test]
    fn noise_does_not_panic(mut frame in prop::collection::vec(any::<u8>(), 0..200), header: [u8; 10]) {
        let header = VnetHeader::from_native(header);
        let _ = Unfinished::from_peer(&frame, frame.len(), &header);
        let _ = Unfinished::from_kernel(&mut frame, &header);
    }
}
