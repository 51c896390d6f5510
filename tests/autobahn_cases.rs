//! What the cases of Autobahn|Testsuite send and what they must get, without Autobahn: all but 9 (large
//! messages), 12 and 13 (compression), in both roles, with the logic of `examples/ws_echo.rs`, in memory.
//! `make autobahn` runs the suite itself.

#[path = "../examples/ws_echo.rs"]
#[allow(dead_code)]
mod ws_echo;

use std::collections::HashSet;

use etherws::ws::codec::Role;
use ws_echo::Echo;

/// The first byte and the payload of a frame.
type Frame = (u8, Vec<u8>);

/// What is sent, what must come back before the end, and the Close that must end it, by its status code;
/// `OPEN` when it must still be open afterwards.
struct Case {
    id: String,
    sent: Vec<Frame>,
    want: Vec<Frame>,
    end: Option<u16>,
}

const OPEN: Option<u16> = None;
/// A Close without a status code.
const BARE: Option<u16> = Some(0);
const PROTOCOL: Option<u16> = Some(1002);
const NOT_TEXT: Option<u16> = Some(1007);

/// With U+1F79, three bytes long, as in Kuhn's test.
const KOSME: &[u8] = "κ\u{1f79}σμε".as_bytes();
const HELLO: &[u8] = b"Hello, world!";

fn frame(first: u8, payload: impl AsRef<[u8]>) -> Frame {
    (first, payload.as_ref().to_vec())
}
fn text(payload: impl AsRef<[u8]>) -> Frame {
    frame(0x81, payload)
}
fn binary(payload: impl AsRef<[u8]>) -> Frame {
    frame(0x82, payload)
}
/// The first of several fragments of text; more; the last.
fn begin(payload: impl AsRef<[u8]>) -> Frame {
    frame(0x01, payload)
}
fn more(payload: impl AsRef<[u8]>) -> Frame {
    frame(0x00, payload)
}
fn last(payload: impl AsRef<[u8]>) -> Frame {
    frame(0x80, payload)
}
fn ping(payload: impl AsRef<[u8]>) -> Frame {
    frame(0x89, payload)
}
fn pong(payload: impl AsRef<[u8]>) -> Frame {
    frame(0x8a, payload)
}
fn close(code: u16, reason: impl AsRef<[u8]>) -> Frame {
    frame(0x88, [&code.to_be_bytes(), reason.as_ref()].concat())
}
/// Text in fragments of `size` bytes.
fn fragments(payload: &[u8], size: usize) -> Vec<Frame> {
    let mut frames: Vec<_> = payload.chunks(size).map(more).collect();
    frames[0].0 |= 0x01;
    frames.last_mut().unwrap().0 |= 0x80;
    frames
}

#[derive(Default)]
struct Cases(Vec<Case>);

impl Cases {
    fn add(&mut self, id: &str, sent: &[Frame], want: &[Frame], end: Option<u16>) {
        self.0.push(Case { id: id.into(), sent: sent.to_vec(), want: want.to_vec(), end });
    }
}

#[test]
fn every_case_in_both_roles() {
    let mut cases = Cases::default();
    framing(&mut cases);
    pings(&mut cases);
    reserved(&mut cases);
    fragmentation(&mut cases);
    utf8(&mut cases);
    closing(&mut cases);
    let ids: HashSet<_> = cases.0.iter().map(|case| &case.id).collect();
    // 301 are Autobahn's outside 12 and 13, and 54 of these are in 9.
    assert_eq!((cases.0.len(), ids.len()), (301 - 54, 301 - 54));
    for case in &cases.0 {
        for role in [Role::Server, Role::Client] {
            for cut in [Cut::Bytes(1), Cut::Bytes(3), Cut::Bytes(997), Cut::Frames, Cut::Bytes(usize::MAX)] {
                check(case, role, cut);
            }
        }
    }
}

fn check(case: &Case, role: Role, cut: Cut) {
    let what = format!("{} as {role:?}, cut {cut:?}", case.id);
    let mut sent = case.sent.clone();
    let end = case.end.unwrap_or_else(|| {
        sent.push(close(1000, ""));
        1000
    });
    // Nothing may follow our Close.
    sent.push(ping("late"));
    let mut got = Peer::new(role).say(&sent, cut).unwrap_or_else(|wrong| panic!("{what}: {wrong}"));
    let (opcode, body) = got.pop().unwrap_or_else(|| panic!("{what}: no answer"));
    assert_eq!(opcode, 0x88, "{what}: ends with a Close");
    let code = body.first_chunk().map_or(0, |code| u16::from_be_bytes(*code));
    assert_eq!(code, end, "{what}: close code");
    assert!(std::str::from_utf8(body.get(2..).unwrap_or_default()).is_ok() && body.len() <= 125, "{what}");
    if got != case.want {
        let brief = |frames: &[Frame]| -> String {
            frames
                .iter()
                .map(|(first, body)| {
                    format!("\n{first:02x} {:?}", body[..body.len().min(50)].escape_ascii().to_string())
                })
                .collect()
        };
        panic!("{what}: got{}\nand wanted{}", brief(&got), brief(&case.want));
    }
}

/// How the bytes come.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Bytes(usize),
    Frames,
}

/// The other end of an echo, which shares no code with it.
struct Peer {
    echo: Echo,
    role: Role,
    rest: Vec<u8>,
    key: u8,
}

impl Peer {
    /// `role` is the echo's.
    fn new(role: Role) -> Self {
        Self { echo: Echo::new(role), role, rest: Vec::new(), key: 0x5a }
    }

    fn say(&mut self, frames: &[Frame], cut: Cut) -> Result<Vec<Frame>, String> {
        let wire: Vec<Vec<u8>> = frames.iter().map(|frame| self.bytes(frame)).collect();
        let mut out = Vec::new();
        match cut {
            Cut::Frames => wire.iter().for_each(|piece| self.bring(piece, &mut out)),
            Cut::Bytes(n) => wire.concat().chunks(n).for_each(|piece| self.bring(piece, &mut out)),
        }
        self.read(&out)
    }

    fn bring(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        self.rest.extend_from_slice(piece);
        let done = self.echo.take(&mut self.rest, out);
        self.rest.drain(..done);
    }

    fn bytes(&mut self, (first, payload): &Frame) -> Vec<u8> {
        let mask = if self.role == Role::Server { 0x80 } else { 0 };
        let mut bytes = vec![*first];
        match payload.len() {
            n @ 0..=125 => bytes.push(mask | n as u8),
            n @ 126..=65_535 => {
                bytes.push(mask | 126);
                bytes.extend((n as u16).to_be_bytes());
            }
            n => {
                bytes.push(mask | 127);
                bytes.extend((n as u64).to_be_bytes());
            }
        }
        if mask == 0 {
            bytes.extend(payload);
        } else {
            self.key = self.key.wrapping_mul(5).wrapping_add(1);
            let key = [self.key, 0x17, self.key ^ 0xff, 0x80];
            bytes.extend(key);
            bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
        }
        bytes
    }

    /// The echo's frames, which must be whole and masked if and only if it is a client.
    fn read(&self, mut bytes: &[u8]) -> Result<Vec<Frame>, String> {
        let mut take = |n: usize| {
            let (head, tail) = bytes.split_at_checked(n)?;
            bytes = tail;
            Some(head)
        };
        let mut frames = Vec::new();
        while let Some(&[first, second]) = take(2) {
            if first & 0xf0 != 0x80 || (second & 0x80 != 0) != (self.role == Role::Client) {
                return Err(format!("its frame begins {first:02x} {second:02x}"));
            }
            let number = |bytes: &[u8]| bytes.iter().fold(0, |n, byte| n << 8 | usize::from(*byte));
            let mut rest = || {
                let len = match second & 0x7f {
                    126 => number(take(2)?),
                    127 => number(take(8)?),
                    len => usize::from(len),
                };
                let key = if second & 0x80 != 0 { take(4)? } else { &[0] };
                Some(take(len)?.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect())
            };
            frames.push((first, rest().ok_or("its answer is cut short")?));
        }
        if bytes.is_empty() { Ok(frames) } else { Err("half a header is left".to_owned()) }
    }
}

/// 1: lengths around the borders of the header's forms. 10.1.1: a long text in fragments.
fn framing(cases: &mut Cases) {
    for (n, len) in (1..).zip([0, 125, 126, 127, 128, 65_535, 65_536, 65_536]) {
        let stars = text(vec![b'*'; len]);
        cases.add(&format!("1.1.{n}"), std::slice::from_ref(&stars), std::slice::from_ref(&stars), OPEN);
        let bytes = binary(vec![0xfe; len]);
        cases.add(&format!("1.2.{n}"), std::slice::from_ref(&bytes), std::slice::from_ref(&bytes), OPEN);
    }
    let stars = [b'*'; 65_536];
    cases.add("10.1.1", &fragments(&stars, 1300), &[text(stars)], OPEN);
}

/// 2: every PING is answered in order with its payload, no PONG is.
fn pings(cases: &mut Cases) {
    let odd = b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff";
    cases.add("2.1", &[ping("")], &[pong("")], OPEN);
    cases.add("2.2", &[ping(HELLO)], &[pong(HELLO)], OPEN);
    cases.add("2.3", &[ping(odd)], &[pong(odd)], OPEN);
    cases.add("2.4", &[ping([0xfe; 125])], &[pong([0xfe; 125])], OPEN);
    cases.add("2.5", &[ping([0xfe; 126])], &[], PROTOCOL);
    cases.add("2.6", &[ping([0xfe; 125])], &[pong([0xfe; 125])], OPEN);
    cases.add("2.7", &[pong("")], &[], OPEN);
    cases.add("2.8", &[pong("unsolicited")], &[], OPEN);
    cases.add("2.9", &[pong("unsolicited"), ping("asked")], &[pong("asked")], OPEN);
    let ten: Vec<_> = (0..10).map(|n| ping(format!("payload-{n}"))).collect();
    let answers: Vec<_> = (0..10).map(|n| pong(format!("payload-{n}"))).collect();
    cases.add("2.10", &ten, &answers, OPEN);
    cases.add("2.11", &ten, &answers, OPEN);
}

/// 3: reserved bits. 4: reserved opcodes. What came before is echoed, what comes behind is not looked at.
fn reserved(cases: &mut Cases) {
    let hello = || text(HELLO);
    let bits = |bits: u8, frame: Frame| (frame.0 | bits << 4, frame.1);
    cases.add("3.1", &[bits(1, hello())], &[], PROTOCOL);
    for rsv in 2..=4 {
        let sent = [hello(), bits(rsv, hello()), ping("")];
        cases.add(&format!("3.{rsv}"), &sent, &[hello()], PROTOCOL);
    }
    cases.add("3.5", &[bits(5, binary(b"\x00\xff\xfe"))], &[], PROTOCOL);
    cases.add("3.6", &[bits(6, binary(HELLO))], &[], PROTOCOL);
    cases.add("3.7", &[bits(7, frame(0x88, ""))], &[], PROTOCOL);
    for (section, first) in [(1, 0x83), (2, 0x8b)] {
        for n in 0..5 {
            let bad = frame(first + n, if n % 2 == 0 { "" } else { "reserved" });
            let id = format!("4.{section}.{}", n + 1);
            match n {
                0 | 1 => cases.add(&id, &[bad], &[], PROTOCOL),
                _ => cases.add(&id, &[hello(), bad, ping("")], &[hello()], PROTOCOL),
            }
        }
    }
}

/// 5: control frames are whole and may stand between fragments; a message begins once and continues.
fn fragmentation(cases: &mut Cases) {
    cases.add("5.1", &[frame(0x09, "one"), last("two")], &[], PROTOCOL);
    cases.add("5.2", &[frame(0x0a, "one"), last("two")], &[], PROTOCOL);
    for n in 3..=5 {
        cases.add(&format!("5.{n}"), &[begin("one"), last("two")], &[text("onetwo")], OPEN);
    }
    for n in 6..=8 {
        let sent = [begin("one"), ping("between"), last("two")];
        cases.add(&format!("5.{n}"), &sent, &[pong("between"), text("onetwo")], OPEN);
    }
    for n in 9..=11 {
        cases.add(&format!("5.{n}"), &[last("of nothing"), text(HELLO)], &[], PROTOCOL);
        cases.add(&format!("5.{}", n + 3), &[more("of nothing"), text(HELLO)], &[], PROTOCOL);
    }
    let sent = [begin("one"), last("two"), more("three"), text("four")];
    cases.add("5.15", &sent, &[text("onetwo")], PROTOCOL);
    for (id, lone) in [("5.16", more("of nothing")), ("5.17", last("of nothing"))] {
        let once = [lone, begin("one"), last("two")];
        cases.add(id, &[once.clone(), once].concat(), &[], PROTOCOL);
    }
    cases.add("5.18", &[begin("one"), text("two")], &[], PROTOCOL);
    for id in ["5.19", "5.20"] {
        let sent = [begin("a"), more("b"), ping("first"), more("c"), more("d"), ping("second"), last("e")];
        cases.add(id, &sent, &[pong("first"), pong("second"), text("abcde")], OPEN);
    }
}

/// 6: text is UTF-8, in fragments that may cut a character; what is not is refused.
fn utf8(cases: &mut Cases) {
    cases.add("6.1.1", &[text("")], &[text("")], OPEN);
    cases.add("6.1.2", &[begin(""), more(""), last("")], &[text("")], OPEN);
    cases.add("6.1.3", &[begin(""), more("middle"), last("")], &[text("middle")], OPEN);
    let mixed = "Hello-µ@ßöäüàá-UTF-8!!".as_bytes();
    cases.add("6.2.1", &[text(mixed)], &[text(mixed)], OPEN);
    cases.add("6.2.2", &[begin(&mixed[..11]), last(&mixed[11..])], &[text(mixed)], OPEN);
    cases.add("6.2.3", &fragments(mixed, 1), &[text(mixed)], OPEN);
    cases.add("6.2.4", &fragments(KOSME, 1), &[text(KOSME)], OPEN);
    let surrogate = [KOSME, b"\xed\xa0\x80edited"].concat();
    cases.add("6.3.1", &[text(&surrogate)], &[], NOT_TEXT);
    cases.add("6.3.2", &fragments(&surrogate, 1), &[], NOT_TEXT);
    // How soon these are refused is a test of its own, below.
    let (too_high, at) = too_high();
    cases.add("6.4.1", &[begin(KOSME), more(&too_high[KOSME.len()..at + 3]), last("edited")], &[], NOT_TEXT);
    cases.add("6.4.2", &[begin(&too_high[..at]), more(&too_high[at..=at]), last(b"\x80\x80")], &[], NOT_TEXT);
    cases.add("6.4.3", &[text(&too_high)], &[], NOT_TEXT);
    cases.add("6.4.4", &[text(&too_high)], &[], NOT_TEXT);
    for (section, sequences) in (5..).zip(sequences()) {
        for (n, (is_text, bytes)) in (1..).zip(sequences) {
            assert_eq!(std::str::from_utf8(&bytes).is_ok(), is_text, "the table: {bytes:02x?}");
            let (id, sent) = (format!("6.{section}.{n}"), text(bytes));
            match is_text {
                true => cases.add(&id, std::slice::from_ref(&sent), std::slice::from_ref(&sent), OPEN),
                false => cases.add(&id, &[sent], &[], NOT_TEXT),
            }
        }
    }
}

/// U+110000 behind good text, and where the byte is that shows it.
fn too_high() -> (Vec<u8>, usize) {
    ([KOSME, b"\xf4\x90\x80\x80edited"].concat(), KOSME.len() + 1)
}

/// 6.5 to 6.23: Markus Kuhn's stress test.
fn sequences() -> Vec<Vec<(bool, Vec<u8>)>> {
    let all = |is_text: bool, sequences: &[&[u8]]| -> Vec<(bool, Vec<u8>)> {
        sequences.iter().map(|bytes| (is_text, bytes.to_vec())).collect()
    };
    let chars = |numbers: &[u32]| -> Vec<(bool, Vec<u8>)> {
        numbers.iter().map(|n| (true, char::from_u32(*n).unwrap().to_string().into_bytes())).collect()
    };
    // Characters of two to six bytes (once, there were such) without their last: the least and the greatest.
    let starts: Vec<Vec<u8>> =
        [([0xc0, 0xe0, 0xf0, 0xf8, 0xfc], 0x80), ([0xdf, 0xef, 0xf7, 0xfb, 0xfd], 0xbf)]
            .iter()
            .flat_map(|(firsts, next)| {
                (0..).zip(firsts).map(|(n, first)| [vec![*first], vec![*next; n]].concat())
            })
            .collect();
    let between = |from: u8, to: u8| (from..to).flat_map(|byte| [byte, b' ']).collect::<Vec<u8>>();
    vec![
        // Some text.
        ["hello$world", "hello¢world", "hello€world", "hello𤭢world", "κ\u{1f79}σμε"]
            .map(|text| (true, text.as_bytes().to_vec()))
            .into(),
        // Every prefix of one.
        (1..=KOSME.len())
            .map(|end| (std::str::from_utf8(KOSME).unwrap().is_char_boundary(end), KOSME[..end].to_vec()))
            .collect(),
        // The first character of each length, and of the lengths that are none.
        chars(&[0, 0x80, 0x800, 0x1_0000]),
        all(false, &[b"\xf8\x88\x80\x80\x80", b"\xfc\x84\x80\x80\x80\x80"]),
        // The last.
        chars(&[0x7f, 0x7ff, 0xffff, 0x10_ffff]),
        all(false, &[b"\xf7\xbf\xbf\xbf", b"\xfb\xbf\xbf\xbf\xbf", b"\xfd\xbf\xbf\xbf\xbf\xbf"]),
        // Other borders.
        [chars(&[0xd7ff, 0xe000, 0xfffd, 0x10_ffff]), all(false, &[b"\xf4\x90\x80\x80"])].concat(),
        // Continuation bytes of nothing.
        [b"\x80".to_vec(), b"\xbf".to_vec()]
            .into_iter()
            .chain((2..=6).map(|n| b"\x80\xbf".repeat(3)[..n].to_vec()))
            .chain([(0x80..0xbf).collect()])
            .map(|bytes| (false, bytes))
            .collect(),
        // Starts of nothing.
        [(0xc0, 0xdf), (0xe0, 0xef), (0xf0, 0xf7), (0xf8, 0xfb), (0xfc, 0xfd)]
            .map(|(from, to)| (false, between(from, to)))
            .into(),
        // Characters without their last byte, alone and all together.
        starts.iter().map(|start| (false, start.clone())).collect(),
        vec![(false, starts.concat())],
        // Bytes that are in no text.
        all(false, &[b"\xfe", b"\xff", b"\xfe\xfe\xff\xff"]),
        // Longer than need be: '/', the last of each length, NUL.
        all(
            false,
            &[
                b"\xc0\xaf",
                b"\xe0\x80\xaf",
                b"\xf0\x80\x80\xaf",
                b"\xf8\x80\x80\x80\xaf",
                b"\xfc\x80\x80\x80\x80\xaf",
            ],
        ),
        all(
            false,
            &[
                b"\xc1\xbf",
                b"\xe0\x9f\xbf",
                b"\xf0\x8f\xbf\xbf",
                b"\xf8\x87\xbf\xbf\xbf",
                b"\xfc\x83\xbf\xbf\xbf\xbf",
            ],
        ),
        all(
            false,
            &[
                b"\xc0\x80",
                b"\xe0\x80\x80",
                b"\xf0\x80\x80\x80",
                b"\xf8\x80\x80\x80\x80",
                b"\xfc\x80\x80\x80\x80\x80",
            ],
        ),
        // Halves of surrogate pairs, and pairs.
        all(
            false,
            &[
                b"\xed\xa0\x80",
                b"\xed\xad\xbf",
                b"\xed\xae\x80",
                b"\xed\xaf\xbf",
                b"\xed\xb0\x80",
                b"\xed\xbe\x80",
                b"\xed\xbf\xbf",
            ],
        ),
        [b"\xed\xa0\x80", b"\xed\xad\xbf", b"\xed\xae\x80", b"\xed\xaf\xbf"]
            .iter()
            .flat_map(|high| [b"\xed\xb0\x80", b"\xed\xbf\xbf"].map(|low| (false, [&high[..], low].concat())))
            .collect(),
        // The two of each plane that are no characters are text all the same.
        chars(&(0..=16).flat_map(|plane| [plane << 16 | 0xfffe, plane << 16 | 0xffff]).collect::<Vec<_>>()),
        chars(&(0xfff9..=0xffff).collect::<Vec<_>>()),
    ]
}

/// 7: a Close is answered with its code, once, and ends everything; a bad one with ours.
fn closing(cases: &mut Cases) {
    cases.add("7.1.1", &[text(HELLO)], &[text(HELLO)], OPEN);
    cases.add("7.1.2", &[close(1000, ""), frame(0x88, "")], &[], Some(1000));
    cases.add("7.1.3", &[close(1000, ""), ping("")], &[], Some(1000));
    cases.add("7.1.4", &[close(1000, ""), text(HELLO)], &[], Some(1000));
    cases.add("7.1.5", &[begin("one"), close(1000, ""), last("two")], &[], Some(1000));
    let long = text(b"BAsd7&jh23".repeat(26_215));
    cases.add(
        "7.1.6",
        &[long.clone(), text(HELLO), close(1000, ""), ping("")],
        &[long, text(HELLO)],
        Some(1000),
    );
    cases.add("7.3.1", &[frame(0x88, "")], &[], BARE);
    cases.add("7.3.2", &[frame(0x88, "a")], &[], PROTOCOL);
    cases.add("7.3.3", &[close(1000, "")], &[], Some(1000));
    cases.add("7.3.4", &[close(1000, HELLO)], &[], Some(1000));
    cases.add("7.3.5", &[close(1000, [b'*'; 123])], &[], Some(1000));
    cases.add("7.3.6", &[close(1000, [b'*'; 124])], &[], PROTOCOL);
    cases.add("7.5.1", &[close(1000, [KOSME, b"\xed\xa0\x80edited"].concat())], &[], NOT_TEXT);
    let good = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999];
    for (n, code) in (1..).zip(good) {
        cases.add(&format!("7.7.{n}"), &[close(code, "")], &[], Some(code));
    }
    for (n, code) in (1..).zip([0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999]) {
        cases.add(&format!("7.9.{n}"), &[close(code, "")], &[], PROTOCOL);
    }
    for (n, code) in (1..).zip([5000, 65_535]) {
        cases.add(&format!("7.13.{n}"), &[close(code, "")], &[], PROTOCOL);
    }
}

#[test]
fn pings_between_fragments_are_answered_at_once() {
    for role in [Role::Server, Role::Client] {
        let mut peer = Peer::new(role);
        let got = peer.say(&[begin("a"), more("b"), ping("first")], Cut::Frames).unwrap();
        assert_eq!(got, [pong("first")], "5.19");
        let got = peer.say(&[more("c"), ping("second"), last("d")], Cut::Frames).unwrap();
        assert_eq!(got, [pong("second"), text("abcd")], "5.19");
    }
}

#[test]
fn bad_text_is_refused_before_its_message_or_frame_ends() {
    let (bytes, at) = too_high();
    let refused = |peer: &Peer, out: &[u8]| {
        let got = peer.read(out).unwrap();
        assert!(matches!(&got[..], [(0x88, body)] if body[..2] == 1007u16.to_be_bytes()), "{got:02x?}");
    };
    for role in [Role::Server, Role::Client] {
        for (good, bad) in [(KOSME.len(), at + 3), (at, at + 1)] {
            // In fragments: 6.4.1 and 6.4.2.
            let mut peer = Peer::new(role);
            assert_eq!(peer.say(&[begin(&bytes[..good])], Cut::Frames), Ok(vec![]));
            let mut out = Vec::new();
            let fragment = peer.bytes(&more(&bytes[good..bad]));
            peer.bring(&fragment, &mut out);
            refused(&peer, &out);
            // In one frame of which not all is there: 6.4.3 and 6.4.4.
            let mut peer = Peer::new(role);
            let wire = peer.bytes(&text(&bytes));
            let header = wire.len() - bytes.len();
            let mut out = Vec::new();
            peer.bring(&wire[..header + good], &mut out);
            assert!(out.is_empty() && !peer.echo.is_closed(), "nothing is wrong yet");
            peer.bring(&wire[header + good..header + bad], &mut out);
            refused(&peer, &out);
        }
    }
}

#[test]
fn sixteen_mebibytes_and_no_more() {
    for role in [Role::Server, Role::Client] {
        for size in [16 << 20, 1 << 20] {
            let stars = vec![b'*'; 16 << 20];
            let got = Peer::new(role).say(&fragments(&stars, size), Cut::Bytes(256 << 10)).unwrap();
            assert!(got == [text(&stars)], "fragments of {size}");
            let more = vec![b'*'; (16 << 20) + 1];
            let got = Peer::new(role).say(&fragments(&more, size), Cut::Bytes(256 << 10)).unwrap();
            assert_eq!(got.last().map(|(_, body)| &body[..2]), Some(&1009u16.to_be_bytes()[..]));
            assert_eq!(got.len(), 1);
        }
    }
}
