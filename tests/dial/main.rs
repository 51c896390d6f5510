//! Dialling against real servers and proxies on loopback: the upgrade and its refusals, proxies, TLS.

mod plain;
mod proxies;
mod tls;

use std::net::SocketAddr;
use std::time::Duration;

use etherws::port::LinkOptions;
use etherws::port::dial::{DialError, Dialed, Target, dial_offering};
use etherws::ws::handshake::accept_for;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// Long enough for a loaded machine; no test waits for it.
const AMPLE: Duration = Duration::from_secs(20);

pub fn options() -> LinkOptions {
    LinkOptions::default()
}

/// Options that keep the environment's proxies out.
pub fn direct() -> LinkOptions {
    LinkOptions { proxy: Some("none".into()), ..options() }
}

pub async fn dial(url: &str, options: &LinkOptions) -> Result<Dialed, DialError> {
    dial_offering(&Target::parse(url, options).expect(url), &[], AMPLE).await
}

pub async fn refusal(url: &str, options: &LinkOptions) -> String {
    dial(url, options).await.expect_err("the dial must fail").to_string()
}

/// Bytes up to and including the empty line.
pub async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).expect("a head in UTF-8")
}

pub fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(": ")?;
        key.eq_ignore_ascii_case(name).then_some(value)
    })
}

/// The right answer to a request, with further lines (each with its CRLF) in it.
pub fn switching(head: &str, more: &str) -> String {
    let accept = accept_for(field(head, "sec-websocket-key").expect("a key").as_bytes());
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{more}\r\n"
    )
}

/// A server that answers each connection's first request with `answer(head)` and then holds the
/// connection, or hangs up when that is empty; the heads come out of the channel.
pub async fn server(
    answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static,
) -> (SocketAddr, UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (heads, seen) = unbounded_channel();
    tokio::spawn(async move {
        let mut held = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let head = read_head(&mut stream).await;
            let answer = answer(&head);
            let _ = heads.send(head);
            // The client may hang up in the middle of an endless answer.
            let _ = stream.write_all(&answer).await;
            if !answer.is_empty() {
                held.push(stream);
            }
        }
    });
    (address, seen)
}

/// Accepts and says nothing.
pub async fn black_hole() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut held = Vec::new();
        loop {
            held.push(listener.accept().await);
        }
    });
    address
}

/// A port on which nobody listens.
pub async fn closed_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

pub async fn relay(mut one: impl AsyncRead + AsyncWrite + Unpin, to: &str) {
    let mut other = TcpStream::connect(to).await.unwrap();
    let _ = tokio::io::copy_bidirectional(&mut one, &mut other).await;
}
