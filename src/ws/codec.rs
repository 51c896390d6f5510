//! Bytes in, messages out; messages in, bytes out (RFC 6455 5). No I/O.
//!
//! [`Decoder::next`] looks at the bytes that a read left in a buffer and yields one message at a time,
//! in place. A payload arrives still masked: [`Payload::peek`] unmasks the first few bytes, enough to
//! decide where a frame goes, and [`Payload::open`] the rest when it goes anywhere. One that goes out as
//! a message again is not unmasked at all: [`Payload::pieces`] go to [`encode`], which copies, takes the
//! old mask off and puts the new one on in one pass. Only fragments are copied on their way in, into a buffer that grows with what has arrived, never with what a header promises.

use super::header::{Header, MAX_CONTROL, MAX_HEADER, Opcode, Violation};
use super::mask::{Key, combine, mask, mask_into};

/// Which end of the link we are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    Client,
    Server,
}

/// Takes a link's bytes apart.
pub struct Decoder {
    role: Role,
    limit: usize,
    /// A message in fragments, unmasked so far; empty `parts` when there is none.
    assembly: Vec<u8>,
    fragments: Option<Fragments>,
    closed: bool,
}

/// One step through the bytes.
#[derive(Debug)]
pub enum Step<'a> {
    /// The rest of the bytes is less than a frame: read more behind it.
    More,
    /// So many bytes are used up, and this is what they were, if anything to act on.
    Used(usize, Option<Event<'a>>),
}

/// What a peer said.
#[derive(Debug)]
pub enum Event<'a> {
    Binary(Payload<'a>),
    Text(Payload<'a>),
    Ping(Payload<'a>),
    Pong,
    /// The status code, absent in an empty Close. Whatever follows is ignored.
    Close(Option<u16>),
}

/// A message's payload, unmasked as far as it was asked for.
#[derive(Debug)]
pub struct Payload<'a> {
    bytes: &'a mut [u8],
    key: Key,
    open: usize,
}

impl Decoder {
    /// Messages of more than `limit` bytes are a violation.
    pub fn new(role: Role, limit: usize) -> Self {
        Self { role, limit, assembly: Vec::new(), fragments: None, closed: false }
    }

    /// True while a fragmented message is unfinished.
    pub fn is_mid_message(&self) -> bool {
        self.fragments.is_some()
    }

    /// The message at the start of `bytes`.
    pub fn next<'a>(&'a mut self, bytes: &'a mut [u8]) -> Result<Step<'a>, Violation> {
        if self.closed {
            return Ok(if bytes.is_empty() { Step::More } else { Step::Used(bytes.len(), None) });
        }
        let Some(header) = Header::parse(bytes)? else { return Ok(Step::More) };
        match (self.role, header.key) {
            (Role::Client, Some(_)) => return Err(Violation::Masked),
            (Role::Server, None) => return Err(Violation::Unmasked),
            _ => (),
        }
        let before = if header.opcode.is_control() { 0 } else { self.admit(&header)? };
        let payload = usize::try_from(header.payload)
            .ok()
            .filter(|payload| before + payload <= self.limit.max(MAX_CONTROL))
            .ok_or(Violation::TooBig)?;
        let used = header.len + payload;
        let Some(bytes) = bytes.get_mut(header.len..used) else { return Ok(Step::More) };
        let payload = Payload { bytes, key: header.key.unwrap_or([0; 4]), open: 0 };
        let event = match header.opcode {
            Opcode::Binary if header.fin => Some(Event::Binary(payload)),
            Opcode::Text if header.fin => Some(Event::Text(payload)),
            Opcode::Ping => Some(Event::Ping(payload)),
            Opcode::Pong => Some(Event::Pong),
            Opcode::Close => {
                self.closed = true;
                Some(Event::Close(close_code(payload.open())?))
            }
            opcode => self.assemble(opcode, header.fin, payload),
        };
        Ok(Step::Used(used, event))
    }

    /// Checks a data frame's place in its message; the bytes of the message so far.
    fn admit(&self, header: &Header) -> Result<usize, Violation> {
        match (&self.fragments, header.opcode) {
            (Some(fragments), Opcode::Continuation) if fragments.count < MAX_FRAGMENTS => {
                Ok(self.assembly.len())
            }
            (Some(_), Opcode::Continuation) => Err(Violation::TooBig),
            (None, Opcode::Continuation) | (Some(_), _) => Err(Violation::BadFragment),
            (None, _) => Ok(0),
        }
    }

    fn assemble<'a>(&'a mut self, opcode: Opcode, fin: bool, payload: Payload<'_>) -> Option<Event<'a>> {
        if opcode != Opcode::Continuation {
            self.assembly.clear();
            self.fragments = Some(Fragments { text: opcode == Opcode::Text, count: 0 });
        }
        self.assembly.extend_from_slice(payload.open());
        let fragments = self.fragments.as_mut()?;
        fragments.count += 1;
        if !fin {
            return None;
        }
        let text = fragments.text;
        self.fragments = None;
        let payload = Payload { bytes: &mut self.assembly, key: [0; 4], open: usize::MAX };
        Some(if text { Event::Text(payload) } else { Event::Binary(payload) })
    }
}

impl<'a> Payload<'a> {
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The first `n` bytes (or all), unmasked.
    pub fn peek(&mut self, n: usize) -> &[u8] {
        let n = n.min(self.bytes.len());
        if n > self.open {
            mask(&mut self.bytes[self.open..n], self.key, self.open);
            self.open = n;
        }
        &self.bytes[..n]
    }

    /// All of it, unmasked only as far as was peeked at.
    pub fn raw(&self) -> &[u8] {
        self.bytes
    }

    /// All of it, as it is: what was looked at in clear, the rest under its mask.
    pub fn pieces(&self) -> [Piece<'_>; 2] {
        let (clear, sealed) = self.bytes.split_at(self.open.min(self.bytes.len()));
        [clear.into(), Piece { bytes: sealed, key: self.key, phase: clear.len() }]
    }

    /// All of it, unmasked.
    pub fn open(self) -> &'a mut [u8] {
        if self.open < self.bytes.len() {
            mask(&mut self.bytes[self.open..], self.key, self.open);
        }
        self.bytes
    }
}

/// Part of a message to send: bytes, and the mask that they still wear.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    pub bytes: &'a [u8],
    /// All zero for bytes in clear.
    pub key: Key,
    /// Where the first byte stood in the payload that was masked.
    pub phase: usize,
}

impl<'a> From<&'a [u8]> for Piece<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self { bytes, key: [0; 4], phase: 0 }
    }
}

/// Appends one message to `out`: header, then `pieces` in order, masked when there is a key.
pub fn encode(out: &mut Vec<u8>, opcode: Opcode, pieces: &[Piece<'_>], key: Option<Key>) {
    let payload = pieces.iter().map(|piece| piece.bytes.len()).sum();
    let mut header = [0; MAX_HEADER];
    let len = Header::write(&mut header, opcode, payload, key);
    out.extend_from_slice(&header[..len]);
    let mut at = 0;
    for piece in pieces {
        let both = combine(key.unwrap_or_default(), at, piece.key, piece.phase);
        mask_into(out, piece.bytes, both, 0);
        at += piece.bytes.len();
    }
}

/// The body of a Close: code and reason, cut to what a control frame holds.
pub fn close_body(code: u16, reason: &str) -> Vec<u8> {
    let mut end = reason.len().min(MAX_CONTROL - 2);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    [&code.to_be_bytes()[..], &reason.as_bytes()[..end]].concat()
}

/// RFC 6455 5.5.1 and 7.4.
fn close_code(body: &[u8]) -> Result<Option<u16>, Violation> {
    let Some((code, reason)) = body.split_first_chunk::<2>() else {
        return if body.is_empty() { Ok(None) } else { Err(Violation::BadClose) };
    };
    let code = u16::from_be_bytes(*code);
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(Violation::BadClose);
    }
    std::str::from_utf8(reason).map_err(|_| Violation::BadUtf8)?;
    Ok(Some(code))
}

/// A message in more pieces than this is an attack on our patience.
const MAX_FRAGMENTS: u32 = 1024;

struct Fragments {
    text: bool,
    count: u32,
}

#[cfg(test)]
mod tests {
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
                    Event::Pong => "pong".into(),
                    Event::Close(code) => format!("close {code:?}"),
                }));
            }
            buffer.drain(..at);
        }
        Ok(events)
    }

    fn frame(fin: bool, opcode: Opcode, payload: &[u8], key: Option<Key>) -> Vec<u8> {
        let mut out = Vec::new();
        encode(&mut out, opcode, &[payload.into()], key);
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
    fn violations() {
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
        let endless: Vec<&[u8]> = std::iter::once(&open[..]).chain((0..1024).map(|_| &more[..])).collect();
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
                encode(&mut got, Opcode::Binary, &payload.pieces(), key);
                assert_eq!(got, frame(true, Opcode::Binary, &body, key), "{looked_at} {key:?}");
            }
        }
    }

    #[test]
    fn a_long_close_reason_is_cut_between_characters() {
        let body = close_body(1001, &"é".repeat(100));
        assert!(body.len() <= MAX_CONTROL && std::str::from_utf8(&body[2..]).is_ok());
    }
}
