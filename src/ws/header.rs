//! The frame header of RFC 6455 5.2, both ways.

use super::mask::Key;

/// 2 bytes, 8 of extended length, 4 of key.
pub const MAX_HEADER: usize = 14;

/// RFC 6455 5.5.
pub const MAX_CONTROL: usize = 125;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Opcode {
    pub fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }

    fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xa => Self::Pong,
            _ => return None,
        })
    }

    fn bits(self) -> u8 {
        match self {
            Self::Continuation => 0x0,
            Self::Text => 0x1,
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xa,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    pub fin: bool,
    pub opcode: Opcode,
    pub key: Option<Key>,
    /// Payload length.
    pub payload: u64,
    /// Length of the header itself.
    pub len: usize,
}

/// A peer breaking RFC 6455. The link is closed with [`Violation::close_code`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Violation {
    /// A masked frame from a server (5.1).
    Masked,
    /// An unmasked frame from a client (5.1).
    Unmasked,
    /// RSV1 to RSV3 without an extension (5.2).
    ReservedBits,
    ReservedOpcode,
    /// A length not in its shortest form, or with its top bit set (5.2).
    BadLength,
    /// A control frame of more than 125 bytes or in fragments (5.5).
    BadControl,
    /// A continuation of nothing, or a new message inside another (5.4).
    BadFragment,
    /// A message larger than we take, or in too many fragments.
    TooBig,
    /// A Close body of one byte or with a code that must not be sent (7.4).
    BadClose,
    /// A Close reason, or text that is looked at, that is not UTF-8 (8.1).
    BadUtf8,
    /// More PINGs than any reason for them.
    PingFlood,
}

impl Violation {
    /// RFC 6455 7.4.1.
    pub fn close_code(self) -> u16 {
        match self {
            Self::TooBig => 1009,
            Self::BadUtf8 => 1007,
            Self::PingFlood => 1008,
            _ => 1002,
        }
    }

    pub fn text(self) -> &'static str {
        match self {
            Self::Masked => "unexpected masked frame",
            Self::Unmasked => "unexpected unmasked frame",
            Self::ReservedBits => "reserved bit set",
            Self::ReservedOpcode => "reserved opcode",
            Self::BadLength => "length not in its shortest form",
            Self::BadControl => "control frame too long or fragmented",
            Self::BadFragment => "fragment out of place",
            Self::TooBig => "message too big",
            Self::BadClose => "malformed close",
            Self::BadUtf8 => "text or close reason is not UTF-8",
            Self::PingFlood => "too many pings",
        }
    }
}

impl Header {
    /// The header at the start of `bytes`; `None` when more of it is needed.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, Violation> {
        let [first, second, rest @ ..] = bytes else {
            return match bytes {
                // One byte is enough to refuse some.
                [first] => Self::first_byte(*first).map(|_| None),
                _ => Ok(None),
            };
        };
        let (fin, opcode) = Self::first_byte(*first)?;
        let short = second & 0x7f;
        if opcode.is_control() && (!fin || usize::from(short) > MAX_CONTROL) {
            return Err(Violation::BadControl);
        }
        let (payload, rest) = match short {
            126 => {
                let Some((length, rest)) = rest.split_first_chunk::<2>() else { return Ok(None) };
                (u64::from(u16::from_be_bytes(*length)), rest)
            }
            127 => {
                let Some((length, rest)) = rest.split_first_chunk::<8>() else { return Ok(None) };
                (u64::from_be_bytes(*length), rest)
            }
            short => (u64::from(short), rest),
        };
        let shortest = match short {
            126 => payload >= 126,
            127 => payload > u64::from(u16::MAX) && payload >> 63 == 0,
            _ => true,
        };
        if !shortest {
            return Err(Violation::BadLength);
        }
        let (key, rest) = match second & 0x80 {
            0 => (None, rest),
            _ => {
                let Some((key, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
                (Some(*key), rest)
            }
        };
        Ok(Some(Self { fin, opcode, key, payload, len: bytes.len() - rest.len() }))
    }

    /// Writes a header; how long it is.
    pub fn write(out: &mut [u8; MAX_HEADER], opcode: Opcode, payload: usize, key: Option<Key>) -> usize {
        let masked = if key.is_some() { 0x80 } else { 0 };
        out[0] = 0x80 | opcode.bits();
        let mut len = match payload {
            0..=125 => {
                out[1] = masked | payload as u8;
                2
            }
            126..=0xffff => {
                out[1] = masked | 126;
                out[2..4].copy_from_slice(&(payload as u16).to_be_bytes());
                4
            }
            _ => {
                out[1] = masked | 127;
                out[2..10].copy_from_slice(&(payload as u64).to_be_bytes());
                10
            }
        };
        if let Some(key) = key {
            out[len..len + 4].copy_from_slice(&key);
            len += 4;
        }
        len
    }

    fn first_byte(first: u8) -> Result<(bool, Opcode), Violation> {
        if first & 0x70 != 0 {
            return Err(Violation::ReservedBits);
        }
        let opcode = Opcode::from_bits(first & 0x0f).ok_or(Violation::ReservedOpcode)?;
        Ok((first & 0x80 != 0, opcode))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for payload in [0, 1, 125, 126, 127, 65_535, 65_536, 1 << 20] {
            for key in [None, Some([1, 2, 3, 4])] {
                let mut out = [0; MAX_HEADER];
                let len = Header::write(&mut out, Opcode::Binary, payload, key);
                let want = Header { fin: true, opcode: Opcode::Binary, key, payload: payload as u64, len };
                assert_eq!(Header::parse(&out[..len]), Ok(Some(want)));
                for cut in 0..len {
                    assert_eq!(Header::parse(&out[..cut]), Ok(None), "cut at {cut}");
                }
            }
        }
    }

    #[test]
    fn bad_16_17_18_19_refused_headers() {
        use Violation::*;
        for (bytes, want) in [
            (&[0xc2][..], ReservedBits),
            (&[0xa2, 0], ReservedBits),
            (&[0x92, 0], ReservedBits),
            (&[0x83, 0], ReservedOpcode),
            (&[0x8f, 0], ReservedOpcode),
            (&[0x82, 126, 0, 125], BadLength),
            (&[0x82, 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff], BadLength),
            (&[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0], BadLength),
            (&[0x89, 126], BadControl),
            (&[0x09, 0], BadControl),
            (&[0x08, 0], BadControl),
        ] {
            assert_eq!(Header::parse(bytes), Err(want), "{bytes:02x?}");
        }
    }
}
