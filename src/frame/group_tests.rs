//! Tests of [`super`], [`igmp`] and [`mld`]: packets as kernels send them, and what is wrong with others.

use proptest::prelude::*;

use super::super::checksum::{Sum, checksum};
use super::*;

const ME: MacAddr = MacAddr::new([0xfe, 0, 0, 0, 0, 1]);
const SECOND: Duration = Duration::from_secs(1);

/// IGMPv3 of Linux: 239.1.2.3 is joined from all sources, 239.1.2.4 is left.
const V3_REPORT: &str = "01005e0000160200000000020800 46c00030000040000102 4347 c0a80002 e0000016 94040000 \
     2200 f4f2 0000 0002 04000000 ef010203 03000000 ef010204";
/// MLDv2 of Linux: ff05::1:3 is joined, ff02::1:ff00:2 as well.
const MLD_REPORT: &str = "33330000001602000000000286dd 60000000 0038 00 01 fe800000000000000000000000000002 \
     ff020000000000000000000000000016 3a00050200000100 8f00 0000 0000 0002 \
     04000000 ff050000000000000000000000010003 04000000 ff0200000000000000000001ff000002";

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

/// A frame of IPv4 to a group, with its checksums put in.
fn v4(header: &str, source: [u8; 4], to: [u8; 4], message: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    if message.len() >= 4 {
        message[2..4].fill(0);
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    let mut packet = [&bytes(header)[..12], &source, &to, &bytes(header)[12..]].concat();
    let total = packet.len() + message.len();
    packet[2..4].copy_from_slice(&(total as u16).to_be_bytes());
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    let dst = group_mac(IpAddr::from(to)).octets();
    [&dst[..], &[2, 0, 0, 0, 0, 2, 8, 0], &packet, &message].concat()
}

/// With TTL 1, IGMP and a Router Alert.
fn igmp(to: [u8; 4], message: &[u8]) -> Vec<u8> {
    v4("46c00000000040000102 0000 94040000", [192, 168, 0, 2], to, message)
}

/// A frame of MLD to a group, with its checksum put in.
fn mld(source: &str, to: &str, message: &[u8]) -> Vec<u8> {
    let octets = |ip: &str| ip.parse::<Ipv6Addr>().unwrap().octets();
    let mut message = message.to_vec();
    message[2..4].fill(0);
    let mut sum = Sum::pseudo(&[octets(source), octets(to)].concat(), 58);
    sum.add_word(message.len() as u16);
    sum.add(&message);
    message[2..4].copy_from_slice(&sum.checksum().to_be_bytes());
    let len = (message.len() as u16 + 8).to_be_bytes();
    let dst = group_mac(IpAddr::from(octets(to))).octets();
    let alert = [58, 0, 5, 2, 0, 0, 1, 0];
    let head = [0x86, 0xdd, 0x60, 0, 0, 0, len[0], len[1], 0, 1];
    [&dst[..], &[2, 0, 0, 0, 0, 2], &head, &octets(source), &octets(to), &alert, &message].concat()
}

fn read(bytes: &[u8]) -> Option<Message<'_>> {
    message(Frame::checked(bytes)?)
}

fn sorted(bytes: &[u8]) -> Option<Sort> {
    sort(Frame::checked(bytes)?)
}

fn records(bytes: &[u8]) -> Vec<(String, Says)> {
    let Some(Message::Report(records)) = read(bytes) else { return Vec::new() };
    records.map(|record| (record.group.to_string(), record.says)).collect()
}

const MEMBER: Says = Says::Member { mute: false };

#[test]
fn reports_of_linux_are_read() {
    let frame = bytes(V3_REPORT);
    assert_eq!(records(&frame), [("239.1.2.3".into(), MEMBER), ("239.1.2.4".into(), Says::Leaves)]);
    assert_eq!(sorted(&frame), Some(Sort::Report { v6: false }));
    let sent = bytes(MLD_REPORT);
    let frame = mld("fe80::2", "ff02::16", &sent[62..]);
    assert_eq!(frame[..62], sent[..62]);
    assert_eq!(records(&frame), [("ff05::1:3".into(), MEMBER)], "the link's own are not told apart");
    assert_eq!(sorted(&frame), Some(Sort::Report { v6: true }));
    // A tag in front, padding behind.
    let tagged = [&frame[..12], &[0x81, 0, 0, 7], &frame[12..], &[0; 9]].concat();
    assert_eq!((records(&tagged).len(), sorted(&tagged)), (1, Some(Sort::Report { v6: true })));
}

#[test]
fn bad_41_behind_two_tags_or_one_of_802_1ad_nobody_says_anything() {
    let packet = v4("4500000000000000 40 11 0000", [10, 0, 0, 1], [239, 1, 2, 3], &[0; 20]);
    let query = query(ME, None, true, None, SECOND, SECOND);
    let report = mld("fe80::2", "ff02::16", &bytes(MLD_REPORT)[62..]);
    for frame in [bytes(V3_REPORT), report, query, packet] {
        let behind = |tags: &[u8]| [&frame[..12], tags, &frame[12..]].concat();
        assert_eq!(sorted(&behind(&[0x81, 0, 0, 7])), sorted(&frame));
        for tags in [
            &[0x88, 0xa8, 0, 7][..],
            &[0x88, 0xa8, 0, 7, 0x81, 0, 0, 7],
            &[0x81, 0, 0, 7, 0x81, 0, 0, 7],
            &[0x81, 0, 0, 7, 0x88, 0xa8, 0, 7],
        ] {
            assert_eq!((read(&behind(tags)), sorted(&behind(tags))), (None, None), "{tags:x?}");
        }
    }
}

#[test]
fn older_versions_are_read() {
    let group = [239, 1, 2, 3];
    let about = |kind: u8| [&[kind, 0, 0, 0][..], &group].concat();
    for (to, kind, says) in [
        (group, 0x12, Says::Member { mute: true }),
        (group, 0x16, MEMBER),
        ([224, 0, 0, 2], 0x17, Says::Leaves),
        (group, 0x17, Says::Leaves),
    ] {
        let frame = igmp(to, &about(kind));
        assert_eq!(records(&frame), [("239.1.2.3".into(), says)]);
        assert_eq!(sorted(&frame), Some(Sort::Report { v6: false }), "not a packet to the group");
    }
    // Of another group than it is sent to, or of one of the link's own.
    assert_eq!(read(&igmp([239, 1, 2, 4], &about(0x16))), None);
    assert!(records(&igmp([224, 0, 0, 251], &[0x16, 0, 0, 0, 224, 0, 0, 251])).is_empty());
    let group: Ipv6Addr = "ff0e::7".parse().unwrap();
    let about = |kind: u8| [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &group.octets()].concat();
    assert_eq!(records(&mld("fe80::2", "ff0e::7", &about(131))), [("ff0e::7".into(), MEMBER)]);
    assert_eq!(records(&mld("::", "ff0e::7", &about(131))).len(), 1, "a host without an address (RFC 3590)");
    assert_eq!(records(&mld("fe80::2", "ff02::2", &about(132))), [("ff0e::7".into(), Says::Leaves)]);
    assert_eq!(read(&mld("2001:db8::2", "ff0e::7", &about(131))), None);
}

#[test]
fn each_kind_of_record_says_what_its_rfc_has_it_say() {
    let source = [10, 0, 0, 1];
    for (kind, sources, says) in [
        (1, 0, None),
        (1, 1, Some(MEMBER)),
        (2, 0, Some(MEMBER)),
        (2, 1, Some(MEMBER)),
        (3, 0, Some(Says::Leaves)),
        (3, 1, Some(MEMBER)),
        (4, 0, Some(MEMBER)),
        (5, 1, Some(MEMBER)),
        (6, 1, Some(Says::Leaves)),
        (7, 0, None),
    ] {
        let head = [0x22, 0, 0, 0, 0, 0, 0, 1, kind, 1, 0, sources, 239, 1, 2, 3];
        let message = [&head[..], &source.repeat(sources.into()), &[9; 4]].concat();
        let want: Vec<_> = says.into_iter().map(|says| ("239.1.2.3".to_owned(), says)).collect();
        assert_eq!(records(&igmp([224, 0, 0, 22], &message)), want, "{kind} {sources}");
    }
}

#[test]
fn queries_are_read_by_the_version_that_they_are_of() {
    let query = |to, message: &[u8]| match read(&igmp(to, message)) {
        Some(Message::Query(query)) => {
            Some((query.group.map(|group| group.to_string()), query.response.as_millis(), query.decides))
        }
        _ => None,
    };
    let all = [224, 0, 0, 1];
    let one = [239, 1, 2, 3];
    assert_eq!(query(all, &[0x11, 0, 0, 0, 0, 0, 0, 0]), Some((None, 10_000, true)), "IGMPv1");
    assert_eq!(query(all, &[0x11, 20, 0, 0, 0, 0, 0, 0]), Some((None, 2_000, true)));
    assert_eq!(query(all, &[0x11, 0x8f, 0, 0, 0, 0, 0, 0, 2, 125, 0, 0]), Some((None, 24_800, true)));
    let about = [0x11, 10, 0, 0, 239, 1, 2, 3];
    assert_eq!(query(one, &about), Some((Some("239.1.2.3".to_owned()), 1_000, true)));
    assert_eq!(query(all, &about), None, "it goes to the group");
    assert_eq!(
        query(one, &[&about[..], &[0x0a, 125, 0, 0]].concat()).map(|q| q.2),
        Some(false),
        "asked before"
    );
    assert_eq!(query(one, &[&about[..], &[2, 125, 0, 1, 10, 0, 0, 1]].concat()).map(|q| q.2), Some(false));
    assert_eq!(query(one, &[&about[..], &[2, 125, 0, 2, 10, 0, 0, 1]].concat()), None, "sources missing");
    assert_eq!(query(all, &[0x11, 20, 0, 0, 0, 0, 0, 0, 0]), None, "of no version's length");
    assert_eq!(query(all, &[0x11, 20, 0, 0, 10, 0, 0, 1]), None, "no group");
    let local: IpAddr = "fe80::2".parse().unwrap();
    let message = [&[130, 0, 0, 0, 0x8f, 0xff, 0, 0][..], &[0; 16], &[2, 125, 0, 0]].concat();
    let frame = mld("fe80::2", "ff02::1", &message);
    let Some(Message::Query(query)) = read(&frame) else { panic!("no query") };
    let millis = 0x1fff << 3;
    assert_eq!((query.source, query.group, query.response.as_millis()), (local, None, millis));
    assert_eq!(read(&mld("::", "ff02::1", &message)), None);
}

#[test]
fn queriers_of_the_newest_versions_say_how_often_they_ask() {
    let four = |message: &[u8]| igmp([224, 0, 0, 1], message);
    let six = |more: &[u8]| {
        let message = [&[130, 0, 0, 0, 0, 10, 0, 0][..], &[0; 16], more].concat();
        mld("fe80::2", "ff02::1", &message)
    };
    // QRV and QQIC; an exponent of 7 and a mantissa of 31; a flag beside, and zeros, which say nothing.
    for (more, want) in [
        (&[][..], (None, None)),
        (&[2, 125, 0, 0], (Some(2), Some(125))),
        (&[0x0f, 0xff, 0, 0], (Some(7), Some(31 << 10))),
        (&[3, 0x80, 0, 0], (Some(3), Some(128))),
        (&[0xf0, 0, 0, 0], (None, None)),
    ] {
        for frame in [four(&[&[0x11, 20, 0, 0, 0, 0, 0, 0][..], more].concat()), six(more)] {
            let Some(Message::Query(query)) = read(&frame) else { panic!("no query: {more:?}") };
            let said = (query.robustness, query.interval.map(|interval| interval.as_secs()));
            assert_eq!(said, want, "{more:?}");
        }
    }
}

#[test]
fn routers_are_known_by_advertisements_and_hellos() {
    let source: IpAddr = [192, 168, 0, 2].into();
    let advertised = igmp([224, 0, 0, 106], &[0x30, 20, 0, 0, 0, 125, 0, 2]);
    assert_eq!(read(&advertised), Some(Message::Router { source, advertised: true }));
    assert_eq!(sorted(&advertised), Some(Sort::Notice));
    let pim = |header, to| v4(header, [192, 168, 0, 2], to, &[0x20, 0, 0, 0, 0, 1, 0, 2, 0, 105]);
    let hello = pim("45c0000000000000 01 67 0000", [224, 0, 0, 13]);
    assert_eq!(read(&hello), Some(Message::Router { source, advertised: false }));
    assert_eq!(sorted(&hello), Some(Sort::Notice));
    assert_eq!(read(&pim("45c0000000000000 02 67 0000", [224, 0, 0, 13])), None, "it was routed");
    let source: IpAddr = "fe80::2".parse().unwrap();
    let message = [151, 20, 0, 0, 0, 125, 0, 2];
    let frame = mld("fe80::2", "ff02::6a", &message);
    assert_eq!(read(&frame), Some(Message::Router { source, advertised: true }));
}

#[test]
fn what_is_written_is_what_is_read() {
    let interval = Duration::from_secs(125);
    let v4: IpAddr = "239.1.2.3".parse().unwrap();
    let v6: IpAddr = "ff0e::7".parse().unwrap();
    for (is_v6, group, vid) in [
        (false, None, None),
        (false, Some(v4), Vid::new(7)),
        (true, None, Vid::new(9)),
        (true, Some(v6), None),
    ] {
        let bytes = query(ME, vid, is_v6, group, SECOND, interval);
        let frame = Frame::checked(&bytes).unwrap();
        let source = if is_v6 { link_local(ME).into() } else { IpAddr::from([0; 4]) };
        let (interval, robustness) = (Some(interval), Some(2));
        let query = Query { source, group, decides: true, response: SECOND, interval, robustness };
        assert_eq!(message(frame), Some(Message::Query(query)));
        assert_eq!((frame.src(), frame.tag().map(Tag::vid)), (ME, vid.map(Vid::get)));
        assert_eq!((sort(frame), bytes.len() >= 60), (Some(Sort::Notice), true));
    }
    let bytes = advertisement(ME, None, interval);
    let source = IpAddr::from([0; 4]);
    assert_eq!(read(&bytes), Some(Message::Router { source, advertised: true }));
    assert_eq!(link_local(ME).to_string(), "fe80::fc00:ff:fe00:1");
}

#[test]
fn a_packet_goes_by_its_group_when_both_headers_name_it() {
    let packet = |to| v4("4500000000000000 40 11 0000", [10, 0, 0, 1], to, &[0; 20]);
    let group: IpAddr = [239, 1, 2, 3].into();
    let frame = packet([239, 1, 2, 3]);
    assert_eq!(sorted(&frame), Some(Sort::To(group)));
    assert_eq!(sorted(&frame[..HEAD.min(frame.len())]), Some(Sort::To(group)));
    // 225.129.2.3 has the same MAC address, and is another group.
    assert_eq!(sorted(&packet([225, 129, 2, 3])), Some(Sort::To([225, 129, 2, 3].into())));
    for to in [[224, 0, 0, 1], [224, 0, 0, 251]] {
        assert_eq!(sorted(&packet(to)), None, "the link's own");
    }
    for (at, value) in [(0, 0xff), (5, 4), (3, 2), (12, 9), (14, 0x55), (30, 10)] {
        let mut bytes = frame.clone();
        bytes[at] = value;
        assert_eq!(sorted(&bytes), None, "{at}");
    }
    for (to, want) in
        [("ff05::1:3", true), ("ff02::fb", false), ("ff02::1:ff00:7", false), ("ff01::9", false)]
    {
        let mut frame = mld("fe80::2", to, &[0; 8]);
        frame[20] = 17;
        assert_eq!(sorted(&frame).is_some(), want, "{to}");
    }
}

#[test]
fn what_is_wrong_is_none() {
    let message = bytes(V3_REPORT)[38..].to_vec();
    let good = igmp([224, 0, 0, 22], &message);
    assert!(read(&good).is_some());
    for len in 0..good.len() {
        assert_eq!(read(&good[..len]), None, "{len}");
    }
    // Version, header length, total length, fragment, TTL, header checksum, checksum, count of records.
    for (at, value) in [
        (14, 0x66),
        (14, 0x44),
        (14, 0x4f),
        (17, 0x31),
        (20, 0x20),
        (22, 2),
        (24, 9),
        (40, 9),
        (45, 3),
        (5, 0x17),
    ] {
        let mut bytes = good.clone();
        bytes[at] = value;
        assert_eq!(read(&bytes), None, "{at}");
    }
    let more = [&message[..6], &[0, 3], &message[8..]].concat();
    assert_eq!(read(&igmp([224, 0, 0, 22], &more)), None, "more records than there are");
    let good = mld("fe80::2", "ff02::16", &bytes(MLD_REPORT)[62..]);
    for len in 0..good.len() {
        assert_eq!(read(&good[..len]), None, "{len}");
    }
    // Version, length, next header, hop limit, source, the alert: its place and what it says; type, checksum.
    for (at, value) in
        [(14, 0x40), (19, 9), (20, 60), (21, 2), (22, 0x20), (54, 59), (56, 1), (59, 1), (62, 1), (64, 9)]
    {
        let mut bytes = good.clone();
        bytes[at] = value;
        assert_eq!(read(&bytes), None, "{at}");
    }
}

#[test]
fn times_are_written_as_they_are_read() {
    for bits in [8, 16] {
        for time in (0..1 << 20).step_by(77).chain([127, 128, 32_767, 32_768]) {
            let told = time_of(code_of(time, bits), bits);
            let most = time_of(((1u32 << bits) - 1) as u16, bits);
            assert!(
                told <= time && (told >= most || time - told <= time >> (bits - 4)),
                "{bits} {time} {told}"
            );
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(
        v6: bool,
        kind in prop::sample::select(vec![0x11u8, 0x12, 0x16, 0x17, 0x22, 0x30, 130, 131, 132, 143, 151]),
        body in prop::collection::vec(any::<u8>(), 3..120),
        to in any::<[u8; 3]>(),
    ) {
        let message = [&[kind][..], &body].concat();
        let local = [224, 0, 0, to[2]];
        let frame = match v6 {
            false => igmp(local, &message),
            true => mld("fe80::2", "ff02::16", &message),
        };
        sorted(&frame);
        if let Some(Message::Report(records)) = read(&frame) {
            prop_assert!(records.count() <= body.len() / 8 + 1);
        }
        // And cut anywhere.
        let cut = usize::from(to[0]) % frame.len();
        sorted(&frame[..cut]);
        prop_assert_eq!(read(&frame[..cut]), None);
    }
}
