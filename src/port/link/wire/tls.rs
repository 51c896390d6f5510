//! TLS inside a connection: rustls's state machine, without a stream around it.

use std::io::{self, IoSlice, Read, Write};

use super::{Stream, Wire};
use crate::prof::{Stage, Tape};

impl Wire {
    /// Reads from the socket into `plain`, through TLS if there is one, with `sealed` as room for its
    /// records. 0: the peer has closed its side; UnexpectedEof: without close_notify.
    pub fn read_tls(
        &mut self,
        plain: &mut [u8],
        sealed: &mut [u8],
        tape: &mut impl Tape,
    ) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return Err(io::ErrorKind::Unsupported.into()) };
        // Decrypted bytes come first: the socket may have nothing more to say for a long time.
        let mut filled = drain(tls, plain)?;
        if filled > 0 {
            return Ok(filled);
        }
        if tls.process_new_packets().is_ok_and(|state| state.peer_has_closed()) {
            return Ok(0);
        }
        let got = self.socket.try_read(sealed)?;
        tape.mark_batch(Stage::RxSockRead);
        let mut records = &sealed[..got];
        while !records.is_empty() {
            // Nothing is taken behind a close_notify.
            if tls.read_tls(&mut records)? == 0 {
                break;
            }
            let outcome = tls.process_new_packets();
            if let Err(e) = outcome {
                // The alert tells the peer; the link ends whether it arrives or not.
                let _ = tls.write_tls(&mut Socket(&self.socket));
                return Err(io::Error::new(io::ErrorKind::InvalidData, e));
            }
            filled += drain(tls, &mut plain[filled..])?;
        }
        tape.mark_batch(Stage::RxTlsOpen);
        if tls.wants_write() {
            self.flush(tape);
        }
        match (got, filled) {
            (0, 0) => Err(io::ErrorKind::UnexpectedEof.into()),
            // Records without payload: tickets, key updates.
            (_, 0) => Err(io::ErrorKind::WouldBlock.into()),
            (_, filled) => Ok(filled),
        }
    }
}

/// The socket as `rustls` wants to see it.
pub struct Socket<'a>(pub &'a Stream);

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(parts)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Plaintext that TLS has ready. That a stream ended without close_notify is told when it has no more.
fn drain(tls: &mut rustls::Connection, plain: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    loop {
        match tls.reader().read(&mut plain[filled..]) {
            Ok(0) => return Ok(filled),
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(filled),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(filled),
            Err(e) => return Err(e),
        }
    }
}
