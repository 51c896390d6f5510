//! Bytes in, messages out; messages in, bytes out (RFC 6455 5). No I/O.
//!
//! [`Decoder::next`] looks at the bytes that a read left in a buffer and yields one message at a time,
//! in place. A payload arrives still masked: [`Payload::peek`] unmasks the first few bytes, enough to
//! decide where a frame goes, and [`Payload::open`] the rest when it goes anywhere. One that goes out as
//! a message again is not unmasked at all: [`Payload::pieces`] go to [`encode`], which copies, takes the
//! old mask off and puts the new one on in one pass. Only fragments are copied on their way in, into a
//! buffer that grows with what has arrived, never with what a header promises.

use super::header::{Header, MAX_CONTROL, MAX_HEADER, Opcode, Violation};
use super::mask::{Key, combine, mask, mask_into};
use super::utf8::Utf8;
use crate::prof::{Probe, Stage};

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
    text: Option<Text>,
    closed: bool,
}

/// Text that is looked at.
#[derive(Default)]
struct Text {
    utf8: Utf8,
    /// How much of a frame that is not whole yet was looked at, and unmasked for it.
    seen: usize,
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
    Pong(Payload<'a>),
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
        Self { role, limit, assembly: Vec::new(), fragments: None, text: None, closed: false }
    }

    /// Text that is not UTF-8 is a violation, as soon as the byte is there that makes it so. The start
    /// of a frame of text is then unmasked where it lies: what [`Step::More`] left has to come back.
    pub fn with_text(mut self) -> Self {
        self.text = Some(Text::default());
        self
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
            .filter(|payload| {
                before.checked_add(*payload).is_some_and(|all| all <= self.limit.max(MAX_CONTROL))
            })
            .ok_or(Violation::TooBig)?;
        let used = header.len.checked_add(payload).ok_or(Violation::TooBig)?;
        if bytes.len() < used {
            self.look(&header, &mut bytes[header.len..])?;
            return Ok(Step::More);
        }
        let bytes = &mut bytes[header.len..used];
        let payload = Payload { bytes, key: header.key.unwrap_or([0; 4]), open: 0 };
        let event = match header.opcode {
            Opcode::Binary if header.fin => Some(Event::Binary(payload)),
            Opcode::Text if header.fin => Some(Event::Text(self.read(&header, payload)?)),
            Opcode::Ping => Some(Event::Ping(payload)),
            Opcode::Pong => Some(Event::Pong(payload)),
            Opcode::Close => {
                self.closed = true;
                Some(Event::Close(close_code(payload.open())?))
            }
            opcode => {
                let payload = self.read(&header, payload)?;
                self.assemble(opcode, header.fin, payload)
            }
        };
        Ok(Step::Used(used, event))
    }

    /// Checks a data frame's place in its message; the bytes of the message so far.
    fn admit(&self, header: &Header) -> Result<usize, Violation> {
        match (&self.fragments, header.opcode) {
            (Some(fragments), Opcode::Continuation) if fragments.count < max_fragments(self.limit) => {
                Ok(self.assembly.len())
            }
            (Some(_), Opcode::Continuation) => Err(Violation::TooBig),
            (None, Opcode::Continuation) | (Some(_), _) => Err(Violation::BadFragment),
            (None, _) => Ok(0),
        }
    }

    /// Whether a data frame is looked at as text.
    fn is_text(&self, header: &Header) -> bool {
        self.text.is_some()
            && match header.opcode {
                Opcode::Continuation => self.fragments.as_ref().is_some_and(|fragments| fragments.text),
                opcode => opcode == Opcode::Text,
            }
    }

    /// Looks at what is there of a frame that is not whole.
    fn look(&mut self, header: &Header, bytes: &mut [u8]) -> Result<(), Violation> {
        if self.is_text(header)
            && let Some(Text { utf8, seen }) = &mut self.text
        {
            let new = bytes.get_mut(*seen..).unwrap_or_default();
            mask(new, header.key.unwrap_or_default(), *seen);
            utf8.push(new).map_err(|_| Violation::BadUtf8)?;
            *seen += new.len();
        }
        Ok(())
    }

    /// Looks at the rest of a frame that is whole.
    fn read<'a>(&mut self, header: &Header, mut payload: Payload<'a>) -> Result<Payload<'a>, Violation> {
        if self.is_text(header)
            && let Some(Text { utf8, seen }) = &mut self.text
        {
            payload.open = std::mem::take(seen);
            let new = payload.open;
            utf8.push(&payload.peek(usize::MAX)[new..]).map_err(|_| Violation::BadUtf8)?;
            if header.fin {
                utf8.end().map_err(|_| Violation::BadUtf8)?;
            }
        }
        Ok(payload)
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
    /// Bytes in clear that lie where they were read to.
    pub fn clear(bytes: &'a mut [u8]) -> Self {
        Self { bytes, key: [0; 4], open: 0 }
    }

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

    /// Whether some of it still wears a mask.
    pub fn is_sealed(&self) -> bool {
        self.key != [0; 4] && self.open < self.bytes.len()
    }

    /// Whether it lies where it was read to, rather than put together from fragments.
    pub fn is_in_place(&self) -> bool {
        self.open != usize::MAX
    }

    /// All but the first `n` bytes, which were peeked at.
    pub fn behind(self, n: usize) -> Self {
        let mut key = self.key;
        key.rotate_left(n % 4);
        let n = n.min(self.bytes.len());
        let open = if self.is_in_place() { self.open.saturating_sub(n) } else { self.open };
        Self { bytes: &mut self.bytes[n..], key, open }
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

/// Where a message is encoded to.
pub trait Room {
    /// Appends `bytes`, masked with `key`.
    fn append(&mut self, bytes: &[u8], key: Key);
}

impl Room for Vec<u8> {
    #[inline]
    fn append(&mut self, bytes: &[u8], key: Key) {
        mask_into(self, bytes, key, 0);
    }
}

/// Appends one message to `out`: header, then `pieces` in order, masked when there is a key.
pub fn encode(
    out: &mut impl Room,
    opcode: Opcode,
    pieces: &[Piece<'_>],
    key: Option<Key>,
    probe: &mut impl Probe,
) {
    let payload = pieces.iter().map(|piece| piece.bytes.len()).sum();
    let mut header = [0; MAX_HEADER];
    let len = Header::write(&mut header, opcode, payload, key);
    out.append(&header[..len], [0; 4]);
    if key.is_some() {
        probe.mark(Stage::TxWsEncode);
    }
    append(out, pieces, key, probe);
}

/// Appends `pieces` to `out` in order, without a header; masked when there is a key.
pub fn append(out: &mut impl Room, pieces: &[Piece<'_>], key: Option<Key>, probe: &mut impl Probe) {
    let mut at = 0;
    for piece in pieces {
        let both = combine(key.unwrap_or_default(), at, piece.key, piece.phase);
        out.append(piece.bytes, both);
        at += piece.bytes.len();
    }
    probe.mark(match key {
        Some(_) => Stage::TxWsMask,
        // The copy took the mask off that they came with.
        None if pieces.iter().any(|piece| piece.key != [0; 4]) => Stage::RxWsUnmask,
        None => Stage::TxWsEncode,
    });
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

/// A message in more pieces than this is an attack on our patience: 1,024, or more where a message may
/// be so long that these would be over 64 bytes each.
fn max_fragments(limit: usize) -> u32 {
    u32::try_from(limit / 65).unwrap_or(u32::MAX).max(1024)
}

struct Fragments {
    text: bool,
    count: u32,
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
