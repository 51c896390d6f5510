//! `examples/ws_echo.rs` over loopback: handshake, TLS, messages of 16 MiB, and a client's way through a
//! fuzzing server. Its peer is tungstenite.

use std::sync::{Arc, Mutex};

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};

#[path = "../examples/ws_echo.rs"]
#[allow(dead_code)]
mod ws_echo;

use ws_echo::{Client, serve, tls};

fn certificate() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

async fn talk<S: AsyncRead + AsyncWrite + Unpin>(stream: S) {
    let config = WebSocketConfig::default().max_frame_size(Some(16 << 20));
    let (mut ws, answer) =
        tokio_tungstenite::client_async_with_config("ws://localhost/", stream, Some(config)).await.unwrap();
    assert!(!answer.headers().contains_key("sec-websocket-extensions"));
    for message in
        [Message::binary(vec![0xfe; 16 << 20]), Message::text("é".repeat(8 << 20)), Message::text("")]
    {
        ws.send(message.clone()).await.unwrap();
        assert!(ws.next().await.unwrap().unwrap() == message);
    }
    ws.close(None).await.unwrap();
    assert!(matches!(ws.next().await, Some(Ok(Message::Close(None)))));
    assert!(ws.next().await.is_none());
}

#[tokio::test]
async fn serves_ws_and_wss() {
    let (cert, key) = certificate();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let clear = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, None));
    talk(TcpStream::connect(clear).await.unwrap()).await;

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sealed = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, Some(tls(cert.as_bytes(), key.as_bytes()).unwrap())));
    let client = Client::new("wss://localhost", cert.as_bytes()).unwrap();
    let stream = TcpStream::connect(sealed).await.unwrap();
    talk(client.tls.unwrap().connect("localhost".try_into().unwrap(), stream).await.unwrap()).await;

    let mut stream = TcpStream::connect(clear).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

/// A fuzzing server of two cases; the second ends with a violation.
async fn fuzz<S: AsyncRead + AsyncWrite + Unpin>(stream: S, asked: Arc<Mutex<Vec<String>>>) {
    let mut path = String::new();
    #[allow(clippy::result_large_err)]
    let note = |request: &tungstenite::handshake::server::Request, response| {
        path = request.uri().to_string();
        Ok(response)
    };
    let mut ws = tokio_tungstenite::accept_hdr_async(stream, note).await.unwrap();
    asked.lock().unwrap().push(path.clone());
    if path == "/getCaseCount" {
        ws.send(Message::text("2")).await.unwrap();
    } else if path.contains("case=1&") {
        ws.send(Message::text("hello")).await.unwrap();
        assert_eq!(ws.next().await.unwrap().unwrap(), Message::text("hello"));
    } else if path.contains("case=2&") {
        ws.get_mut().write_all(&[0x83, 0]).await.unwrap();
        let Message::Close(Some(frame)) = ws.next().await.unwrap().unwrap() else { panic!() };
        assert_eq!(u16::from(frame.code), 1002);
        asked.lock().unwrap().push("refused".to_owned());
    }
    let _ = ws.close(None).await;
    while let Some(Ok(_)) = ws.next().await {}
}

#[tokio::test]
async fn runs_every_case_of_a_fuzzing_server() {
    let (cert, key) = certificate();
    for scheme in ["ws", "wss"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("{scheme}://localhost:{}", listener.local_addr().unwrap().port());
        let tls = tls(cert.as_bytes(), key.as_bytes()).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noted = asked.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                if scheme == "ws" {
                    fuzz(stream, noted.clone()).await;
                } else {
                    let stream = tokio_rustls::TlsAcceptor::from(tls.clone()).accept(stream).await.unwrap();
                    fuzz(stream, noted.clone()).await;
                }
            }
        });
        assert_eq!(Client::new(&url, cert.as_bytes()).unwrap().run_all().await.unwrap(), 2);
        let want = [
            "/getCaseCount",
            "/runCase?case=1&agent=etherws",
            "/runCase?case=2&agent=etherws",
            "refused",
            "/updateReports?agent=etherws",
        ];
        assert_eq!(*asked.lock().unwrap(), want, "{scheme}");
    }
}
