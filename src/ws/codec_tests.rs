//! The codec, from bytes to events and back.

use super::*;

const LIMIT: usize = 70_000;
const KEY: Key = [0xde, 0xad, 0xbe, 0xef];

/// Every event as text, from bytes arriving in pieces of `step`.
fn decode(role: Role, bytes: &[u8], step: usize) -> Result<Vec<String>, Violation> {
    let mut decoder = Decoder::new(role, LIMIT);
    let (mut buffer, mut events) = (Vec::new(), Vec::new());
    for piece in bytes.chunks(step.max(1)) {
        buffer.extend_from_slice(piece);
        let mut at = 0;
        while let Step::Used(used, event) = decoder.next(&mut buffer[at..])? {
            at += used;
            events.extend(event.map(|event| match event {
                Event::Binary(p) => format!("binary {:?}", p.open()),
                Event::Text(p) => format!("text {:?}", p.open()),
                Event::Ping(p) => format!("ping {:?}", p.open()),
                Event::Pong(_) => "pong".into(),
                Event::Close(code) => format!("close {code:?}"),
            }));
        }
        buffer.drain(..at);
    }
    Ok(events)
}

fn frame(fin: bool, opcode: Opcode, payload: &[u8], key: Option<Key>) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&mut out, opcode, &[payload.into()], key, &mut ());
    if !fin {
        out[0] &= 0x7f;
    }
    out
}

#[test]
fn bad_29_a_stream_cut_anywhere_gives_the_same_messages() {
    for (role, key) in [(Role::Server, Some(KEY)), (Role::Client, None)] {
        let big = vec![7; 300];
        let stream = [
            frame(true, Opcode::Binary, &[1, 2, 3], key),
            frame(true, Opcode::Ping, b"x", key),
            frame(false, Opcode::Binary, &[4], key),
            frame(true, Opcode::Pong, &[], key),
            frame(false, Opcode::Continuation, &[], key),
            frame(true, Opcode::Continuation, &[5, 6], key),
            frame(true, Opcode::Binary, &big, key),
            frame(true, Opcode::Text, b"hi", key),
            frame(true, Opcode::Close, &close_body(1000, "bye"), key),
            vec![0xff; 9],
        ]
        .concat();
        let want = [
            "binary [1, 2, 3]".to_owned(),
            "ping [120]".into(),
            "pong".into(),
            "binary [4, 5, 6]".into(),
            format!("binary {big:?}"),
            "text [104, 105]".into(),
            "close Some(1000)".into(),
        ];
        for step in 1..=stream.len() {
            assert_eq!(decode(role, &stream, step).as_deref(), Ok(&want[..]), "step {step}");
        }
    }
}

#[test]
fn bad_15_17_20_21_25_28_violations() {
    let client = |bytes: &[&[u8]]| decode(Role::Client, &bytes.concat(), 1 << 20).unwrap_err();
    let one = frame(true, Opcode::Binary, &[0; 20], None);
    let open = frame(false, Opcode::Binary, &[0; 20], None);
    let lone = frame(true, Opcode::Continuation, &[], None);
    let more = frame(false, Opcode::Continuation, &[], None);
    let close = |body: &[u8]| frame(true, Opcode::Close, body, None);
    assert_eq!(client(&[&frame(true, Opcode::Binary, &[0], Some(KEY))]), Violation::Masked, "bad 15");
    assert_eq!(decode(Role::Server, &one, 99), Err(Violation::Unmasked), "bad 15");
    assert_eq!(client(&[&[0x82, 127, 0x7f, 255, 255, 255, 255, 255, 255, 255]]), Violation::TooBig);
    assert_eq!(client(&[&[0x82, 127, 0, 0, 0, 0, 0, 2, 0, 0]]), Violation::TooBig, "bad 28");
    assert_eq!(client(&[&lone]), Violation::BadFragment, "bad 21");
    assert_eq!(client(&[&open, &one]), Violation::BadFragment, "bad 21");
    let endless: Vec<&[u8]> = std::iter::once(&open[..]).chain((0..1093).map(|_| &more[..])).collect();
    assert_eq!(client(&endless), Violation::TooBig, "bad 20");
    let half = frame(false, Opcode::Binary, &vec![0; 40_000], None);
    let other_half = frame(true, Opcode::Continuation, &vec![0; 40_000], None);
    assert_eq!(client(&[&half, &other_half]), Violation::TooBig, "bad 20");
    for code in [0u16, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000] {
        assert_eq!(client(&[&close(&code.to_be_bytes())]), Violation::BadClose, "bad 25: {code}");
    }
    assert_eq!(client(&[&close(&[3])]), Violation::BadClose, "bad 25");
    assert_eq!(client(&[&close(&[0x03, 0xe8, 0xff])]), Violation::BadUtf8, "bad 25");
}

/// What a decoder makes of text in `frames`, each as (last of its message, opcode, payload), that come
/// in pieces of `step` bytes; and how many bytes it had seen.
fn read_text(frames: &[(bool, Opcode, &[u8])], key: Option<Key>, step: usize) -> (String, usize) {
    let role = if key.is_some() { Role::Server } else { Role::Client };
    let mut decoder = Decoder::new(role, LIMIT).with_text();
    let stream: Vec<u8> =
        frames.iter().flat_map(|(fin, opcode, payload)| frame(*fin, *opcode, payload, key)).collect();
    let (mut buffer, mut events, mut came) = (Vec::new(), String::new(), 0);
    for piece in stream.chunks(step) {
        buffer.extend_from_slice(piece);
        came += piece.len();
        let mut at = 0;
        loop {
            match decoder.next(&mut buffer[at..]) {
                Ok(Step::More) => break,
                Ok(Step::Used(used, event)) => {
                    at += used;
                    match event {
                        Some(Event::Text(p)) => events += std::str::from_utf8(p.open()).unwrap(),
                        Some(Event::Ping(_)) => events += "!",
                        Some(Event::Binary(_)) => events += "?",
                        _ => (),
                    }
                }
                Err(violation) => return (events + violation.text(), came),
            }
        }
        buffer.drain(..at);
    }
    (events, came)
}

#[test]
fn text_is_read_however_it_is_cut() {
    use Opcode::*;
    let text = "Hello-µ@ßöäüàá-UTF-8!! κόσμε".as_bytes();
    for key in [None, Some(KEY)] {
        for cut in 0..=text.len() {
            for step in [1, 2, 3, 7, 1000] {
                let got = read_text(
                    &[
                        (false, Text, &text[..cut]),
                        (true, Ping, b"\xff"),
                        (true, Continuation, &text[cut..]),
                        (true, Text, text),
                        (true, Binary, b"\xff"),
                        (false, Binary, b"\xff"),
                        (true, Continuation, b"\xfe"),
                    ],
                    key,
                    step,
                );
                let text = std::str::from_utf8(text).unwrap();
                assert_eq!(got.0, format!("!{text}{text}??"), "cut {cut} step {step}");
            }
        }
    }
}

#[test]
fn text_that_is_none_is_refused_at_the_byte_that_shows_it() {
    use Opcode::*;
    let refused = Violation::BadUtf8.text().to_owned();
    for (key, header) in [(None, 2), (Some(KEY), 6)] {
        // U+110000 is none: its second byte says so.
        let bad = b"abc\xf4\x90\x80\x80def";
        assert_eq!(read_text(&[(true, Text, bad)], key, 1), (refused.clone(), header + 5));
        let frames = [(false, Text, &bad[..4]), (true, Ping, b""), (false, Continuation, &bad[4..])];
        assert_eq!(read_text(&frames, key, 1), (format!("!{refused}"), 4 + 3 * header + 1));
        for end in [&[(true, Text, &bad[..4])][..], &[(false, Text, &bad[..4]), (true, Continuation, b"")]] {
            assert_eq!(read_text(end, key, 1).0, refused, "a text ends inside a character");
        }
    }
}

/// Also where a virtio_net_hdr makes the largest message longer.
#[test]
fn bad_20_the_largest_message_may_have_1024_fragments() {
    for limit in [1_514, 65_597, 65_607] {
        let mut stream = frame(false, Opcode::Binary, &[1], None);
        (1..1_023).for_each(|_| stream.extend(frame(false, Opcode::Continuation, &[], None)));
        let mut decoder = Decoder::new(Role::Client, limit);
        let mut at = 0;
        while at < stream.len() {
            let Ok(Step::Used(used, None)) = decoder.next(&mut stream[at..]) else { panic!("at {at}") };
            at += used;
        }
        let mut last = frame(false, Opcode::Continuation, &[], None);
        assert!(matches!(decoder.next(&mut last), Ok(Step::Used(_, None))), "1,024: {limit}");
        assert!(matches!(decoder.next(&mut last), Err(Violation::TooBig)), "1,025: {limit}");
    }
}

#[test]
fn a_long_message_may_have_many_fragments() {
    let mut stream = frame(false, Opcode::Binary, &[1; 64], None);
    for _ in 0..2_000 {
        stream.extend(frame(false, Opcode::Continuation, &[1; 64], None));
    }
    stream.extend(frame(true, Opcode::Continuation, &[], None));
    let mut decoder = Decoder::new(Role::Client, 1 << 20);
    let mut at = 0;
    loop {
        match decoder.next(&mut stream[at..]).unwrap() {
            Step::Used(_, Some(Event::Binary(payload))) => return assert_eq!(payload.len(), 2_001 * 64),
            Step::Used(used, None) => at += used,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn peeking_unmasks_no_further() {
    let mut bytes = frame(true, Opcode::Binary, &[9; 40], Some(KEY));
    let sealed = bytes.clone();
    let mut decoder = Decoder::new(Role::Server, LIMIT);
    let Ok(Step::Used(_, Some(Event::Binary(mut payload)))) = decoder.next(&mut bytes) else { panic!() };
    assert_eq!(payload.peek(14), [9; 14]);
    assert_eq!(payload.peek(5), [9; 5]);
    assert_eq!(payload.open(), [9; 40]);
    let mut bytes = sealed.clone();
    let Ok(Step::Used(_, Some(Event::Binary(mut payload)))) = decoder.next(&mut bytes) else { panic!() };
    payload.peek(14);
    assert_eq!(bytes[6 + 14..], sealed[6 + 14..]);
}

#[test]
fn a_message_is_masked_anew_without_being_opened() {
    let body: Vec<u8> = (0..200).collect();
    for looked_at in [0, 1, 14, 22, 200] {
        for key in [None, Some([9, 8, 7, 6]), Some(KEY)] {
            let mut bytes = frame(true, Opcode::Binary, &body, Some(KEY));
            let mut decoder = Decoder::new(Role::Server, LIMIT);
            let Ok(Step::Used(_, Some(Event::Binary(mut payload)))) = decoder.next(&mut bytes) else {
                panic!()
            };
            payload.peek(looked_at);
            let mut got = Vec::new();
            encode(&mut got, Opcode::Binary, &payload.pieces(), key, &mut ());
            assert_eq!(got, frame(true, Opcode::Binary, &body, key), "{looked_at} {key:?}");
        }
    }
}

#[test]
fn what_stands_behind_a_header_keeps_its_mask() {
    let body: Vec<u8> = (0..200).collect();
    for behind in [0, 1, 3, 10, 22] {
        for key in [None, Some([9, 8, 7, 6])] {
            let mut bytes = frame(true, Opcode::Binary, &body, Some(KEY));
            let mut decoder = Decoder::new(Role::Server, LIMIT);
            let Ok(Step::Used(_, Some(Event::Binary(mut payload)))) = decoder.next(&mut bytes) else {
                panic!()
            };
            payload.peek(22);
            let mut payload = payload.behind(behind);
            assert!(payload.is_in_place());
            assert_eq!(payload.peek(40), &body[behind..behind + 40]);
            let mut got = Vec::new();
            encode(&mut got, Opcode::Binary, &payload.pieces(), key, &mut ());
            assert_eq!(got, frame(true, Opcode::Binary, &body[behind..], key), "{behind} {key:?}");
            assert_eq!(payload.open(), &body[behind..]);
        }
    }
}

#[test]
fn a_long_close_reason_is_cut_between_characters() {
    let body = close_body(1001, &"é".repeat(100));
    assert!(body.len() <= MAX_CONTROL && std::str::from_utf8(&body[2..]).is_ok());
}
