//! The byte stream under HTTP: TCP, TLS over TCP, or a Unix socket.

use std::io::{self, Read};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use super::lobby::Seat;

pub struct Wire {
    stream: Stream,
    /// Whether anything has been sent.
    pub spoke: bool,
    /// Among the connections, for as long as this is one, whoever has it.
    place: Arc<Seat>,
}

pub enum Stream {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

/// A TCP connection taken back from HTTP: the socket, its TLS state, what the peer sent ahead, its place.
pub type Taken = (TcpStream, Option<rustls::ServerConnection>, Bytes, Arc<Seat>);

impl Wire {
    pub fn new(stream: Stream, place: Arc<Seat>) -> Self {
        Self { stream, spoke: false, place }
    }

    /// Takes the connection back. `early` is what HTTP has read and not used; bytes that TLS has already
    /// decrypted are put behind it.
    pub fn take(self, early: Bytes) -> io::Result<Taken> {
        match self.stream {
            Stream::Tcp(stream) => Ok((stream, None, Bytes::copy_from_slice(&early), self.place)),
            Stream::Tls(stream) => {
                let (stream, mut tls) = stream.into_inner();
                let decrypted = decrypted(&mut tls)?;
                let early = [&early[..], &decrypted].concat();
                Ok((stream, Some(tls), early.into(), self.place))
            }
            Stream::Unix(_) => Err(io::Error::other("a Unix socket carries no link")),
        }
    }

    /// Closes so that the peer reads our last reply: with its bytes unread, close() would send a reset, which
    /// may overtake the reply.
    pub async fn linger(mut self) {
        let _ = timeout(LINGER, async {
            self.shutdown().await?;
            let mut scrap = [0; 4096];
            while self.read(&mut scrap).await? > 0 {}
            io::Result::Ok(())
        })
        .await;
    }
}

/// Everything that rustls holds in clear, complete records included that it has not looked at yet.
fn decrypted(tls: &mut rustls::ServerConnection) -> io::Result<BytesMut> {
    let mut out = BytesMut::new();
    let mut chunk = [0; 4096];
    loop {
        let state = tls.process_new_packets().map_err(io::Error::other)?;
        if state.plaintext_bytes_to_read() == 0 {
            return Ok(out);
        }
        let n = tls.reader().read(&mut chunk)?;
        out.extend_from_slice(&chunk[..n]);
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.spoke = true;
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

const LINGER: Duration = Duration::from_millis(500);
