//! UTF-8 that arrives in pieces (RFC 3629), refused at the first byte that no text can have there.

/// What a text so far leaves open: the start of a character, at most three bytes.
#[derive(Default, Debug)]
pub struct Utf8 {
    start: [u8; 4],
    len: usize,
}

/// No text begins like this.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotUtf8;

impl Utf8 {
    /// The next piece of the text.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), NotUtf8> {
        let mut rest = bytes;
        while self.len > 0 {
            let Some((&byte, behind)) = rest.split_first() else { return Ok(()) };
            rest = behind;
            // Four bytes are a character or an error, so there is room.
            self.start[self.len] = byte;
            self.len += 1;
            match std::str::from_utf8(&self.start[..self.len]) {
                Ok(_) => self.len = 0,
                Err(error) if error.error_len().is_some() => return Err(NotUtf8),
                Err(_) => (),
            }
        }
        let Err(error) = std::str::from_utf8(rest) else { return Ok(()) };
        if error.error_len().is_some() {
            return Err(NotUtf8);
        }
        let open = &rest[error.valid_up_to()..];
        self.start[..open.len()].copy_from_slice(open);
        self.len = open.len();
        Ok(())
    }

    /// The text ends here.
    pub fn end(&mut self) -> Result<(), NotUtf8> {
        if std::mem::take(&mut self.len) == 0 { Ok(()) } else { Err(NotUtf8) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_pieces(bytes: &[u8], step: usize) -> Result<(), NotUtf8> {
        let mut text = Utf8::default();
        bytes.chunks(step).try_for_each(|piece| text.push(piece))?;
        text.end()
    }

    #[test]
    fn every_character_in_any_pieces() {
        let all: String = ('\0'..=char::MAX).collect();
        for step in [1, 2, 3, 5, 7, 1000, all.len()] {
            assert_eq!(in_pieces(all.as_bytes(), step), Ok(()), "step {step}");
        }
    }

    #[test]
    fn refused_at_the_first_byte_that_cannot_be() {
        // How many bytes are still the start of some text; the next one is not.
        for (good, bytes) in [
            (0, &b"\x80"[..]),
            (0, b"\xc1\xbf"),
            (0, b"\xf5"),
            (0, b"\xff"),
            (1, b"\xe0\x9f"),
            (1, b"\xed\xa0\x80"),
            (1, b"\xf0\x8f"),
            (1, b"\xf4\x90\x80\x80"),
            (2, b"\xf0\x90a"),
            (3, b"\xf0\x90\x80\xc0"),
            (12, b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xf4\x90\x80\x80edited"),
        ] {
            let mut text = Utf8::default();
            for (at, byte) in bytes[..good].iter().enumerate() {
                assert_eq!(text.push(&[*byte]), Ok(()), "{at} of {bytes:02x?}");
            }
            assert_eq!(text.push(&bytes[good..=good]), Err(NotUtf8), "{bytes:02x?}");
            assert_eq!(Utf8::default().push(bytes), Err(NotUtf8), "{bytes:02x?}");
        }
    }

    #[test]
    fn a_text_does_not_end_inside_a_character() {
        for bytes in [&b"\xc3"[..], b"a\xe1\xbd", b"\xf0\x90\x80"] {
            for step in 1..=bytes.len() {
                assert_eq!(in_pieces(bytes, step), Err(NotUtf8), "{bytes:02x?}");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn agrees_with_the_whole(bytes: Vec<u8>, step in 1usize..6) {
            assert_eq!(in_pieces(&bytes, step).is_ok(), std::str::from_utf8(&bytes).is_ok());
        }
    }
}
