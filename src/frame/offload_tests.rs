//! What is believed of a virtio header, rule by rule, and what becomes of it.

use proptest::prelude::*;

use super::super::checksum::naive_sum;
use super::super::eth::TPID_8021Q;
use super::super::packet::put;
use super::super::recipe::*;
use super::*;

/// A peer's super-frame of three segments that is as it should be.
fn good() -> Recipe {
    Recipe { payload: vec![7; 3000], size: 1000, ..Recipe::tcp4() }
}

fn good_udp() -> Recipe {
    Recipe { udp: true, ..good() }
}

fn from_peer(frame: &[u8], header: &VnetHeader) -> Result<Arrived, Reason> {
    Unfinished::from_peer(&frame[..frame.len().min(HEAD)], frame.len(), header)
}

type Spoil = fn(&mut [u8], &mut VnetHeader);

/// Each case spoils a good super-frame and is refused by its name, tagged or not.
fn refused(recipe: &Recipe, cases: &[(&str, Reason, Spoil)]) {
    for tags in [vec![], vec![[0x81, 0, 0, 5]], vec![[0x88, 0xa8, 0, 6], [0x81, 0, 0, 5]]] {
        let shift = 4 * tags.len();
        let recipe = Recipe { tags, ..recipe.clone() };
        let made = recipe.make();
        let good = recipe.header(&made);
        assert!(matches!(from_peer(&made.frame, &good), Ok(Arrived::Unfinished(_))));
        for (what, reason, spoil) in cases {
            let (mut frame, mut header) = (made.frame.clone(), good);
            // From the two bytes in front of the IP header on, as without tags.
            spoil(&mut frame[shift..], &mut header);
            assert_eq!(from_peer(&frame, &header), Err(*reason), "{what}, {shift} bytes of tags");
        }
    }
}

#[test]
fn headers_are_read_in_either_byte_order() {
    let header = VnetHeader {
        flags: 1,
        gso_type: 0x81,
        hdr_len: 0x0203,
        gso_size: 0x0405,
        csum_start: 0x0607,
        csum_offset: 0x0809,
    };
    let bytes = [1, 0x81, 3, 2, 5, 4, 7, 6, 9, 8];
    assert_eq!(header.to_little_endian(), bytes);
    assert_eq!(VnetHeader::from_little_endian(bytes), header);
    let mut native = bytes;
    if cfg!(target_endian = "big") {
        native[2..].chunks_mut(2).for_each(|pair| pair.swap(0, 1));
    }
    assert_eq!(VnetHeader::from_native(native), header);
    assert_eq!(header.to_native(), native);
}

#[test]
fn a_tag_goes_back_where_it_was_and_the_checksum_moves_with_it() {
    let mut buf = *b"....\x01\x02\x03\x04\x05\x06\x11\x12\x13\x14\x15\x16\x08\x00rest";
    insert_tag(&mut buf, Tag { tpid: 0x8100, tci: 0x600a }).unwrap();
    assert_eq!(&buf, b"\x01\x02\x03\x04\x05\x06\x11\x12\x13\x14\x15\x16\x81\x00\x60\x0a\x08\x00rest");
    let header = VnetHeader { csum_start: 34, csum_offset: 6, ..VnetHeader::default() };
    assert_eq!(header.behind_tag(), VnetHeader { csum_start: 38, ..header });
    assert_eq!(insert_tag(&mut [0; 15], Tag { tpid: 0x8100, tci: 1 }), Err(Reason::Runt));
}

#[test]
fn a_checksum_outside_the_frame_is_refused() {
    for (start, offset, fits) in [
        (14, 6, true),
        (0, 28, true),
        (0, 29, false),
        (28, 0, true),
        (29, 0, false),
        (30, 0, false),
        (31, 6, false),
        (usize::MAX, 6, false),
        (usize::MAX - 6, 6, false),
    ] {
        let outcome = complete_checksum(&mut [0x55; 30], start, offset);
        assert_eq!(outcome, if fits { Ok(()) } else { Err(Reason::ChecksumBounds) }, "{start} {offset}");
    }
}

#[test]
fn a_checksum_of_zero_becomes_ones() {
    let mut frame = [0xff; 20];
    complete_checksum(&mut frame, 14, 4).unwrap();
    assert_eq!(frame[18..], [0xff, 0xff]);
}

#[test]
fn bad_44_gso_sizes_that_no_tcp_has() {
    refused(
        &good(),
        &[
            ("0", Reason::GsoSize, |_, h| h.gso_size = 0),
            ("1", Reason::GsoSize, |_, h| h.gso_size = 1),
            ("7", Reason::GsoSize, |_, h| h.gso_size = 7),
            ("GSO_BY_FRAGS", Reason::GsoSize, |_, h| h.gso_size = 0xffff),
        ],
    );
}

#[test]
fn bad_45_types_that_are_not_the_frames() {
    refused(
        &good(),
        &[
            ("TCP over IPv6", Reason::GsoType, |_, h| h.gso_type = 4),
            ("UDP", Reason::GsoType, |_, h| h.gso_type = 5),
            ("ECN alone", Reason::GsoType, |_, h| h.gso_type = 0x80),
            ("UDP with ECN", Reason::GsoType, |_, h| h.gso_type = 0x85),
            ("UFO", Reason::GsoUfo, |_, h| h.gso_type = 3),
            ("UFO with ECN", Reason::GsoUfo, |_, h| h.gso_type = 0x83),
            ("no type of these", Reason::GsoUnknown, |_, h| h.gso_type = 2),
            ("a bit of none", Reason::GsoUnknown, |_, h| h.gso_type = 0x11),
            ("a tunnel over IPv4", Reason::OffloadTunnel, |_, h| h.gso_type = 0x21),
            ("a tunnel over IPv6", Reason::OffloadTunnel, |_, h| h.gso_type = 0x41),
            ("receive coalescing", Reason::VnetFlags, |_, h| h.flags |= 4),
            ("an unknown flag", Reason::VnetFlags, |_, h| h.flags |= 8),
            ("ARP", Reason::OffloadProtocol, |f, _| put(f, 12, 0x0806)),
            ("the other EtherType", Reason::OffloadProtocol, |f, _| put(f, 12, 0x86dd)),
            ("ICMP", Reason::OffloadProtocol, |f, _| f[23] = 1),
            ("IP in IP", Reason::OffloadTunnel, |f, _| f[23] = 4),
            ("UDP inside", Reason::GsoType, |f, h| {
                f[23] = 17;
                put(f, 38, 3020);
                h.csum_offset = 6;
            }),
        ],
    );
    refused(&good_udp(), &[("TCP", Reason::GsoType, |_, h| h.gso_type = 1)]);
}

#[test]
fn bad_46_checksums_that_are_not_the_transports() {
    let cases: [(&str, Reason, Spoil); 7] = [
        ("inside the header", Reason::ChecksumStart, |_, h| h.csum_start += 2),
        ("the IP header's", Reason::ChecksumStart, |_, h| h.csum_start -= 20),
        ("outside the frame", Reason::ChecksumStart, |_, h| h.csum_start = 0xfff0),
        ("at 0", Reason::ChecksumStart, |_, h| h.csum_start = 0),
        ("offset 0", Reason::ChecksumOffset, |_, h| h.csum_offset = 0),
        ("the other transport's", Reason::ChecksumOffset, |_, h| h.csum_offset ^= 6 ^ 16),
        ("offset outside", Reason::ChecksumOffset, |_, h| h.csum_offset = 0xffff),
    ];
    for recipe in [good(), good_udp()] {
        refused(&recipe, &cases);
        // The same when only the checksum is asked for.
        let made = recipe.make();
        for (what, reason, spoil) in cases {
            let mut header = VnetHeader { gso_type: 0, gso_size: 0, ..recipe.header(&made) };
            assert!(matches!(from_peer(&made.frame, &header), Ok(Arrived::Unfinished(_))));
            spoil(&mut [], &mut header);
            assert_eq!(from_peer(&made.frame, &header), Err(reason), "{what}");
            // Nobody reads them when nothing is to be completed.
            header.flags = VIRTIO_NET_HDR_F_DATA_VALID;
            assert_eq!(from_peer(&made.frame, &header), Ok(Arrived::Finished), "{what}");
        }
    }
    let none = VnetHeader { flags: 1, csum_start: 34, csum_offset: 16, ..VnetHeader::default() };
    for (what, frame, reason) in [
        ("nothing", &[][..], Reason::Runt),
        ("a runt", &[0; 13], Reason::Runt),
        ("no IP", &[0; 60], Reason::OffloadProtocol),
        ("half an IP header", b"\0\0\0\0\0\0\0\0\0\0\0\0\x08\0\x45\0\0\x14", Reason::OffloadLength),
    ] {
        assert_eq!(from_peer(frame, &none), Err(reason), "{what}");
    }
}

#[test]
fn bad_47_segments_without_a_checksum() {
    refused(
        &good(),
        &[
            ("none", Reason::GsoNoChecksum, |_, h| h.flags = 0),
            ("one that is said to be right", Reason::GsoNoChecksum, |_, h| h.flags = 2),
        ],
    );
}

#[test]
fn bad_48_more_segments_than_the_cap() {
    let most = Recipe { payload: vec![0; 8 * PEER_MAX_SEGMENTS], size: 8, ..good() };
    let made = most.make();
    assert!(matches!(from_peer(&made.frame, &most.header(&made)), Ok(Arrived::Split(_))));
    let more = Recipe { payload: vec![0; 8 * PEER_MAX_SEGMENTS + 1], ..most };
    let made = more.make();
    assert_eq!(from_peer(&made.frame, &more.header(&made)), Err(Reason::GsoSegments));
}

#[test]
fn bad_48_a_frame_beyond_the_largest() {
    let made = good().make();
    let header = good().header(&made);
    assert_eq!(Unfinished::from_peer(&made.frame[..HEAD], MAX_FRAME + 1, &header), Err(Reason::Oversize));
}

#[test]
fn what_contradicts_itself_or_cannot_be_split_is_refused() {
    refused(
        &good(),
        &[
            ("SYN", Reason::GsoSynRst, |f, _| f[47] |= 2),
            ("RST", Reason::GsoSynRst, |f, _| f[47] |= 4),
            ("a fragment", Reason::OffloadFragment, |f, _| f[20] |= 0x20),
            ("a later fragment", Reason::OffloadFragment, |f, _| f[21] = 1),
            ("total length 0 (BIG TCP)", Reason::OffloadLength, |f, _| put(f, 16, 0)),
            ("total length one short", Reason::OffloadLength, |f, _| put(f, 16, 3039)),
            ("total length one long", Reason::OffloadLength, |f, _| put(f, 16, 3041)),
            ("IHL 4", Reason::OffloadLength, |f, _| f[14] = 0x44),
            ("data offset 4", Reason::OffloadLength, |f, _| f[46] = 0x40),
        ],
    );
    refused(
        &good_udp(),
        &[
            ("UDP length one short", Reason::OffloadLength, |f, _| put(f, 38, 3007)),
            ("UDP length 0", Reason::OffloadLength, |f, _| put(f, 38, 0)),
        ],
    );
    let v6 = Recipe { v6: true, addresses: vec![1; 32], ..good() };
    refused(
        &v6,
        &[
            ("payload length 0 (jumbogram)", Reason::OffloadLength, |f, _| put(f, 18, 0)),
            ("payload length one short", Reason::OffloadLength, |f, _| put(f, 18, 3019)),
            ("a fragment", Reason::OffloadFragment, |f, _| f[20] = 44),
            ("an extension header beyond all", Reason::OffloadHeaders, |f, _| {
                f[20] = 60;
                put(f, 54, 0x0664);
            }),
            ("no next header", Reason::OffloadProtocol, |f, _| f[20] = 59),
        ],
    );
}

/// A SYN is as good as any when only its checksum is missing.
#[test]
fn a_syn_may_have_its_checksum_left_to_hardware() {
    let recipe = Recipe { flags: 2, payload: vec![], ..good() };
    let made = recipe.make();
    let header = VnetHeader { gso_type: 0, gso_size: 0, ..recipe.header(&made) };
    assert!(matches!(from_peer(&made.frame, &header), Ok(Arrived::Unfinished(_))));
}

#[test]
fn what_is_only_unreasonable_is_split() {
    let tags = vec![[0x81, 0, 0, 1]; 3];
    let extension =
        |units: u8| vec![(60, [vec![0, units - 1], vec![0; usize::from(units) * 8 - 2]].concat())];
    let v6 = Recipe { v6: true, addresses: vec![1; 32], ..good() };
    for (what, recipe, whole) in [
        ("256 bytes each", Recipe { size: 256, ..good() }, true),
        ("255 bytes each", Recipe { size: 255, ..good() }, false),
        ("8 bytes each", Recipe { size: 8, ..good() }, false),
        ("128 segments", Recipe { payload: vec![0; 128 * 300], size: 300, ..good() }, true),
        ("129 segments", Recipe { payload: vec![0; 128 * 300 + 1], size: 300, ..good() }, false),
        ("64 datagrams", Recipe { payload: vec![0; 64 * 300], size: 300, ..good_udp() }, true),
        ("65 datagrams", Recipe { payload: vec![0; 64 * 300 + 1], size: 300, ..good_udp() }, false),
        ("three tags", Recipe { tags, ..good() }, false),
        ("498 bytes of headers", Recipe { extensions: extension(53), ..v6.clone() }, true),
        ("506 bytes of headers", Recipe { extensions: extension(54), ..v6 }, false),
    ] {
        let made = recipe.make();
        let arrived = from_peer(&made.frame, &recipe.header(&made)).unwrap();
        assert_eq!(matches!(arrived, Arrived::Unfinished(_)), whole, "{what}");
        assert_eq!(Unfinished::from_kernel(&mut made.frame.clone(), &recipe.header(&made)), Ok(arrived));
    }
}

/// Nobody's hardware splits it, and the kernel calls it no super-frame either.
#[test]
fn a_super_frame_of_one_segment_is_none() {
    for payload in [0, 1, 999, 1000] {
        let recipe = Recipe { payload: vec![1; payload], ..good() };
        let made = recipe.make();
        let Ok(Arrived::Unfinished(unfinished)) = from_peer(&made.frame, &recipe.header(&made)) else {
            panic!("refused")
        };
        assert!(!unfinished.is_super());
        let header = unfinished.header(0);
        assert_eq!((header.gso_type, header.gso_size), (0, 0));
        assert_eq!(unfinished.longest(made.frame.len()), made.frame.len());
    }
}

#[test]
fn a_kernels_super_frame_without_a_partial_checksum_is_split() {
    for recipe in [good(), good_udp(), Recipe { v6: true, addresses: vec![1; 32], ..good() }] {
        let mut made = recipe.make();
        let good = recipe.header(&made);
        let whole = pieces(&made.frame, &unfinished(from_peer(&made.frame, &good).unwrap()));
        // It is complete, or whatever: not the sum of the pseudo-header.
        put(&mut made.frame, made.l4 + recipe.csum_offset(), 0x1234);
        for header in [VnetHeader { flags: 0, ..good }, VnetHeader { flags: 2, ..good }] {
            let Ok(Arrived::Split(unfinished)) = Unfinished::from_kernel(&mut made.frame, &header) else {
                panic!("not split")
            };
            assert_eq!(pieces(&made.frame, &unfinished), whole);
        }
    }
}

/// Ethernet padding is in the sum that hardware takes, so the kernel's is finished here; behind a
/// peer's frame it stands for something to hide.
#[test]
fn a_partial_checksum_takes_padding_in() {
    let recipe = Recipe { payload: vec![1; 3], ..good() };
    let made = recipe.make();
    let mut frame = [&made.frame[..], &[0; 3]].concat();
    let header = VnetHeader { gso_type: 0, gso_size: 0, ..recipe.header(&made) };
    assert_eq!(from_peer(&frame, &header), Err(Reason::OffloadLength));
    assert_eq!(Unfinished::from_kernel(&mut frame, &header), Ok(Arrived::Finished));
    assert_eq!(l4_sum(&frame[..made.frame.len()], &recipe.addresses, made.l4, 6), 0xffff);
}

/// A bridged container's VXLAN: the outer UDP has no checksum, the inner TCP's is left to hardware.
#[test]
fn the_checksum_of_a_packet_inside_another_is_completed_at_once() {
    let inner = Recipe { payload: vec![3; 100], ..good() };
    let made = inner.make();
    let payload = [&[8, 0, 0, 0, 0, 0, 1, 0][..], &made.frame].concat();
    let outer = Recipe { udp: true, payload, ..good() }.make();
    let mut frame = outer.frame.clone();
    put(&mut frame, outer.l4 + 6, 0);
    let start = outer.payload + 8 + made.l4;
    let header = VnetHeader { flags: 1, csum_start: start as u16, csum_offset: 16, ..VnetHeader::default() };
    assert_eq!(from_peer(&frame, &header), Err(Reason::ChecksumStart));
    assert_eq!(Unfinished::from_kernel(&mut frame, &header), Ok(Arrived::Finished));
    assert_eq!(l4_sum(&frame[outer.payload + 8..], &inner.addresses, made.l4, 6), 0xffff);
    assert_eq!(frame[..outer.payload], [&outer.frame[..outer.l4 + 6], &[0, 0]].concat());
    let beyond = VnetHeader { csum_start: 0xfff0, ..header };
    assert_eq!(Unfinished::from_kernel(&mut frame, &beyond), Err(Reason::ChecksumBounds));
}

/// A container's QUIC in VXLAN: the segments are the inner datagram's, which nobody here can split.
#[test]
fn a_kernels_super_frame_in_a_tunnel_of_its_own_kind_is_refused() {
    let inner = Recipe { payload: vec![3; 3000], ..good_udp() };
    let made = inner.make();
    let payload = [&[8, 0, 0, 0, 0, 0, 1, 0][..], &made.frame].concat();
    let mut outer = Recipe { payload, ..good_udp() }.make();
    let header = VnetHeader { csum_start: (outer.payload + 8 + made.l4) as u16, ..inner.header(&made) };
    assert_eq!(Unfinished::from_kernel(&mut outer.frame, &header), Err(Reason::OffloadTunnel));
}

/// Each of thousands of segments would have all of them.
#[test]
fn a_super_frame_of_headers_is_refused() {
    let extensions = vec![(60, [vec![0, 255], vec![0; 2046]].concat())];
    let recipe = Recipe { v6: true, addresses: vec![1; 32], extensions, size: 8, ..good() };
    let mut made = recipe.make();
    let header = recipe.header(&made);
    assert_eq!(Unfinished::from_kernel(&mut made.frame, &header), Err(Reason::OffloadHeaders));
    assert!(from_peer(&made.frame, &header).is_err());
}

/// Without the ECN bit CWR is no echo for the first segment alone, but a count in all (AccECN).
#[test]
fn cwr_without_ecn_stays_in_every_segment() {
    let recipe = Recipe { flags: 0x90, ..good() };
    let made = recipe.make();
    let once = recipe.header(&made);
    for (header, whole, flags) in [(once, true, 0x10), (VnetHeader { gso_type: 1, ..once }, false, 0x90)] {
        let arrived = from_peer(&made.frame, &header).unwrap();
        assert_eq!(Unfinished::from_kernel(&mut made.frame.clone(), &header), Ok(arrived));
        assert_eq!(matches!(arrived, Arrived::Unfinished(_)), whole);
        let pieces = pieces(&made.frame, &unfinished(arrived));
        assert_eq!(pieces[0][made.l4 + 13], 0x90);
        assert!(pieces.len() > 1 && pieces[1..].iter().all(|piece| piece[made.l4 + 13] == flags));
    }
}

#[test]
fn the_header_is_written_anew() {
    let recipe = Recipe { flags: 0x90, tcp_options: vec![1; 12], ..good() };
    let made = recipe.make();
    // hdr_len is nonsense, DATA_VALID stays here.
    let theirs = VnetHeader { flags: 3, hdr_len: 0x4321, ..recipe.header(&made) };
    let unfinished = unfinished(from_peer(&made.frame, &theirs).unwrap());
    let ours = VnetHeader { flags: 1, gso_type: 0x81, hdr_len: 66, ..theirs };
    assert_eq!(unfinished.header(0), ours);
    assert_eq!(unfinished.header(4), VnetHeader { hdr_len: 70, csum_start: 38, ..ours });
    assert_eq!(unfinished.header(-4), VnetHeader { hdr_len: 62, csum_start: 30, ..ours });
}

proptest! {
    /// With the pseudo-header's sum in the field, the whole sums up to 0xffff afterwards.
    #[test]
    fn completed_checksums_verify(mut frame in prop::collection::vec(any::<u8>(), 60..200), start in 14usize..40, offset in prop::sample::select(vec![6usize, 16]), pseudo in any::<[u8; 12]>()) {
        frame[start + offset..start + offset + 2].copy_from_slice(&naive_sum(&pseudo).to_be_bytes());
        complete_checksum(&mut frame, start, offset).unwrap();
        prop_assert_eq!(naive_sum(&[&pseudo[..], &frame[start..]].concat()), 0xffff);
    }

    /// Whatever a peer's header says of whatever frame: no panic, and what is accepted is within its
    /// bounds, splits, and its own header says the same of it.
    #[test]
    fn what_is_accepted_from_a_peer_is_said_again_by_its_header(
        recipe in recipes(),
        changes in prop::collection::vec((0usize..160, any::<u8>()), 0..4),
        cut in prop_oneof![Just(0usize), 0usize..300],
        gso in prop_oneof![Just(None), any::<(u8, u16)>().prop_map(Some)],
        flags in prop_oneof![Just(1u8), any::<u8>()],
    ) {
        let made = recipe.make();
        let mut frame = made.frame.clone();
        frame.truncate(frame.len().saturating_sub(cut));
        for (at, value) in changes {
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
        }
        let good = VnetHeader { flags, ..recipe.header(&made) };
        let header = match gso {
            Some((gso_type, gso_size)) => VnetHeader { gso_type, gso_size, ..good },
            None => good,
        };
        let Ok(Arrived::Unfinished(unfinished)) = from_peer(&frame, &header) else { return Ok(()) };
        let again = unfinished.header(0);
        prop_assert_eq!(from_peer(&frame, &again), Ok(Arrived::Unfinished(unfinished)));
        prop_assert_eq!(Unfinished::from_kernel(&mut frame, &again), Ok(Arrived::Unfinished(unfinished)));
        prop_assert!(usize::from(again.csum_start + again.csum_offset) + 2 <= frame.len());
        prop_assert!(usize::from(again.hdr_len) <= frame.len());
        if again.gso_type != 0 {
            prop_assert!(again.gso_size >= 256 && unfinished.count(frame.len()) <= 128);
        }
        let pieces = pieces(&frame, &unfinished);
        prop_assert_eq!(pieces.len(), unfinished.count(frame.len()));

        // The same with a tag more and, if there is one, less.
        let tagged = [&frame[..12], &Tag { tpid: TPID_8021Q, tci: 7 }.bytes(), &frame[12..]].concat();
        let moved = from_peer(&tagged, &unfinished.header(4)).map(self::unfinished);
        prop_assert_eq!(moved.map(|moved| moved.header(-4)), Ok(again));
    }

    /// What a kernel says of a frame of its own goes whole to a peer, which understands the same.
    #[test]
    fn a_kernels_frame_is_taken_by_a_peer(recipe in recipes(), one_segment: bool) {
        let mut made = recipe.make();
        let mut header = recipe.header(&made);
        if one_segment {
            (header.gso_type, header.gso_size) = (0, 0);
        }
        let arrived = Unfinished::from_kernel(&mut made.frame, &header).unwrap();
        if let Arrived::Unfinished(unfinished) = arrived {
            prop_assert_eq!(from_peer(&made.frame, &unfinished.header(0)), Ok(arrived));
        }
    }
}
