//! ws://: the request, the early bytes, every wrong answer, the time limit.

use std::time::{Duration, Instant};

use etherws::port::LinkOptions;
use etherws::port::dial::{Target, Wish, dial_offering};
use etherws::ws::handshake::{CLASSIC, OFFER};
use etherws::ws::joining::{Terms, Which};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use crate::*;

#[tokio::test]
async fn a_link_with_tungstenite_carries_messages_both_ways() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut link = tokio_tungstenite::accept_async(stream).await.unwrap();
        link.send(Message::binary(&b"first"[..])).await.unwrap();
        link.next().await.unwrap().unwrap()
    });
    let dialed = dial(&format!("ws://{address}/p?q=1"), &direct()).await.unwrap();
    assert_eq!(dialed.peer, address);
    assert!(dialed.stream.nodelay().unwrap());
    assert_eq!(
        socket2::SockRef::from(&dialed.stream).tcp_user_timeout().unwrap(),
        Some(Duration::from_secs(40))
    );
    let mut link = tokio_tungstenite::WebSocketStream::from_partially_read(
        dialed.stream,
        dialed.early.to_vec(),
        Role::Client,
        Some(WebSocketConfig::default()),
    )
    .await;
    assert_eq!(link.next().await.unwrap().unwrap(), Message::binary(&b"first"[..]));
    link.send(Message::binary(&b"back"[..])).await.unwrap();
    assert_eq!(server.await.unwrap(), Message::binary(&b"back"[..]));
}

#[tokio::test]
async fn the_request_says_what_it_must() {
    let (address, mut heads) = server(|head| switching(head, "").into()).await;
    let with_user = LinkOptions { user: Some("alice".into()), passwd: Some("pä:ss".into()), ..direct() };
    dial(&format!("ws://{address}/a/b?c=d"), &with_user).await.unwrap();
    let head = heads.recv().await.unwrap();
    assert!(head.starts_with("GET /a/b?c=d HTTP/1.1\r\n"), "{head}");
    assert_eq!(field(&head, "host"), Some(address.to_string().as_str()));
    assert_eq!(field(&head, "upgrade"), Some("websocket"));
    assert_eq!(field(&head, "connection"), Some("Upgrade"));
    assert_eq!(field(&head, "sec-websocket-version"), Some("13"));
    assert_eq!(field(&head, "user-agent"), Some(concat!("etherws/", env!("CARGO_PKG_VERSION"))));
    assert_eq!(field(&head, "authorization"), Some("Basic YWxpY2U6cMOkOnNz"));
    assert_eq!(field(&head, "sec-websocket-protocol"), None);
    assert_eq!(field(&head, "sec-websocket-extensions"), None);

    let with_token = LinkOptions { token: Some("t0ken".into()), ..direct() };
    dial(&format!("ws://{address}"), &with_token).await.unwrap();
    assert_eq!(field(&heads.recv().await.unwrap(), "authorization"), Some("Bearer t0ken"));
    dial(&format!("ws://bob:b%20b@{address}"), &direct()).await.unwrap();
    assert_eq!(field(&heads.recv().await.unwrap(), "authorization"), Some("Basic Ym9iOmIgYg=="));
}

/// A server that knows nothing of links takes each connection for a link of its own, and floods to all of them.
#[tokio::test]
async fn what_was_to_join_a_link_and_did_not_is_none() {
    let (address, mut heads) = server(|head| match head.starts_with("GET /new ") {
        true => switching(head, "").into(),
        false => b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n".into(),
    })
    .await;
    let terms =
        Terms { id: [1; 16], secret: zeroize::Zeroizing::new([2; 32]), members: 2, resume: Duration::ZERO };
    let which = Which { member: 1, n: 1 };
    for (path, is_gone) in [("/new", true), ("/broken", false)] {
        let target = Target::parse(&format!("ws://{address}{path}"), &direct()).unwrap();
        let wish = Wish::Join { terms: &terms, which, live: false };
        let error = etherws::port::dial::dial(&target, true, wish).await.expect_err(path);
        assert_eq!(error.is_gone(), is_gone, "{error}");
        let head = heads.recv().await.unwrap();
        assert!(field(&head, "etherws-link").is_some_and(|link| link.starts_with("join=01")), "{head}");
        assert!(heads.try_recv().is_err(), "it is asked once, with the subprotocol of its link");
    }
}

#[tokio::test]
async fn a_password_file_is_read_at_each_dial() {
    let (address, mut heads) = server(|head| switching(head, "").into()).await;
    let path = std::env::temp_dir().join(format!("etherws-dial-passwd-{}", std::process::id()));
    let file = Some(path.to_str().unwrap().to_owned());
    let target = LinkOptions { user: Some("u".into()), passwd_file: file, ..direct() };
    let target = Target::parse(&format!("ws://{address}"), &target).unwrap();
    for (content, field_value) in [("one\nx", "Basic dTpvbmU="), ("two", "Basic dTp0d28=")] {
        std::fs::write(&path, content).unwrap();
        dial_offering(&target, &[], AMPLE).await.unwrap();
        assert_eq!(field(&heads.recv().await.unwrap(), "authorization"), Some(field_value));
    }
    std::fs::remove_file(&path).unwrap();
    let error = dial_offering(&target, &[], AMPLE).await.unwrap_err().to_string();
    assert!(error.contains("could not read password file") && error.contains("no such file"), "{error}");
    assert_eq!(target.check_files().unwrap_err(), error);
}

#[tokio::test]
async fn bytes_behind_the_101_are_kept() {
    let message =
        b"\x82\x7e\x13\x88".iter().copied().chain((0..5_000u32).map(|i| i as u8)).collect::<Vec<_>>();
    let expected = message.clone();
    let (address, _heads) = server(move |head| [switching(head, "").as_bytes(), &message].concat()).await;
    let mut dialed = dial(&format!("ws://{address}"), &direct()).await.unwrap();
    assert!(!dialed.early.is_empty(), "one write on loopback: some of it was read with the 101");
    let mut all = dialed.early.to_vec();
    all.resize(expected.len(), 0);
    dialed.stream.read_exact(&mut all[dialed.early.len()..]).await.unwrap();
    assert_eq!(all, expected);
}

type Answer = Box<dyn Fn(&str) -> Vec<u8> + Send + Sync>;

#[tokio::test]
async fn bad_14_each_wrong_answer_is_named() {
    let fixed = |text: &'static str| Box::new(move |_: &str| text.as_bytes().to_vec()) as Answer;
    let table: Vec<(Answer, &str)> = vec![
        (
            Box::new(|head| switching(head, "").replace("Accept: ", "Accept: A").into()),
            "wrong Sec-WebSocket-Accept",
        ),
        (
            Box::new(|head| switching(head, "Sec-WebSocket-Extensions: permessage-deflate\r\n").into()),
            "extension \"permessage-deflate\", which was not offered",
        ),
        (
            Box::new(|head| switching(head, "Sec-WebSocket-Protocol: chat\r\n").into()),
            "subprotocol \"chat\", which was not offered",
        ),
        (Box::new(|head| switching(head, "").replace("HTTP/1.1", "HTTP/1.0").into()), "HTTP/1.0"),
        (fixed("HTTP/1.1 101 Switching Protocols\r\n\r\n"), "without \"Upgrade: websocket\""),
        (fixed("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"), "answered 200 OK instead of 101"),
        (fixed("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"), "answered 401 Unauthorized"),
        (fixed("HTTP/1.1 404 Not Found\r\n\r\n"), "answered 404 Not Found"),
        (fixed("HTTP/1.1 503 Service Unavailable\r\n\r\n"), "answered 503 Service Unavailable"),
        (fixed("SSH-2.0-OpenSSH_9.2p1\r\n\r\n"), "not HTTP/1.1"),
        (fixed("\x15\x03\x01\x00\x02\x02\x46"), "not HTTP/1.1 (is it a wss:// service?)"),
        (Box::new(|_| [b"HTTP/1.1 101 ".to_vec(), vec![b'x'; 100 << 10]].concat()), "longer than 16 KiB"),
        (
            Box::new(|head| switching(head, &"X-Y: z\r\n".repeat(100)).into()),
            "longer than 16 KiB or 64 fields",
        ),
    ];
    for (answer, expected) in table {
        let (address, _heads) = server(answer).await;
        let error = refusal(&format!("ws://{address}"), &direct()).await;
        assert!(error.contains(expected), "{error:?} should tell {expected:?}");
        assert!(error.contains(&address.to_string()), "{error:?} should name {address}");
    }
}

#[tokio::test]
async fn bad_14_a_redirect_is_not_followed() {
    let (elsewhere, mut heads) = server(|head| switching(head, "").into()).await;
    for status in ["301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let (address, _heads) =
            server(move |_| format!("HTTP/1.1 {status}\r\nLocation: ws://{elsewhere}/\r\n\r\n").into()).await;
        let error = refusal(&format!("ws://u:hunter2@{address}"), &direct()).await;
        assert!(error.contains(status) && error.contains("not followed"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    assert!(heads.try_recv().is_err(), "nobody went there, with or without credentials");
}

#[tokio::test]
async fn a_peer_that_hangs_up_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_head(&mut stream).await;
            let _ = stream.shutdown().await;
        }
    });
    let error = refusal(&format!("ws://{address}"), &direct()).await;
    assert_eq!(
        error,
        format!("HTTP with {address} failed: the peer closed the connection without an answer")
    );
}

#[tokio::test]
async fn connection_refused_and_unknown_names() {
    let address = closed_port().await;
    let error = refusal(&format!("ws://{address}"), &direct()).await;
    assert_eq!(error, format!("could not connect to {address}: connection refused"));
    let error = refusal("ws://no-such-host.invalid/", &direct()).await;
    assert!(error.starts_with("could not resolve no-such-host.invalid: "), "{error}");
}

/// localhost is ::1 and 127.0.0.1 on most machines; the server is on the second one only.
#[tokio::test]
async fn a_name_with_two_families_finds_the_one_that_listens() {
    let (address, mut heads) = server(|head| switching(head, "").into()).await;
    let dialed = dial(&format!("ws://localhost:{}", address.port()), &direct()).await.unwrap();
    assert_eq!(dialed.peer, address);
    assert_eq!(
        field(&heads.recv().await.unwrap(), "host"),
        Some(format!("localhost:{}", address.port()).as_str())
    );
}

#[tokio::test]
async fn a_black_hole_is_left_in_time() {
    let hole = black_hole().await;
    let limit = Duration::from_millis(300);
    for (url, proxy, stage) in [
        (format!("ws://{hole}"), "none".to_owned(), "waiting for the answer"),
        (format!("wss://{hole}"), "none".to_owned(), "in the TLS handshake"),
        ("ws://far.example".to_owned(), format!("http://{hole}"), "connecting"),
        ("ws://far.example".to_owned(), format!("socks5://{hole}"), "connecting"),
    ] {
        let target = Target::parse(&url, &LinkOptions { proxy: Some(proxy), ..options() }).unwrap();
        let start = Instant::now();
        let error = dial_offering(&target, &["a"], limit).await.unwrap_err().to_string();
        assert!(start.elapsed() < AMPLE / 4, "{:?}", start.elapsed());
        assert!(error.contains("within 0.3 s") && error.contains(stage), "{error}");
    }
}

#[tokio::test]
async fn an_answer_that_trickles_is_left_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut answer = b"HTTP/1.1 101 ".to_vec();
        while stream.write_all(&answer).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
            answer = b"x".to_vec();
        }
    });
    let target = Target::parse(&format!("ws://{address}"), &direct()).unwrap();
    let error = dial_offering(&target, &[], Duration::from_millis(400)).await.unwrap_err().to_string();
    assert!(error.contains("still waiting for the answer"), "{error}");
}

#[tokio::test]
async fn an_offer_may_be_taken_or_ignored() {
    let (address, mut heads) =
        server(|head| switching(head, "Sec-WebSocket-Protocol: etherws.vnet1\r\n").into()).await;
    let target = Target::parse(&format!("ws://{address}"), &direct()).unwrap();
    let dialed = dial_offering(&target, &OFFER, AMPLE).await.unwrap();
    assert_eq!(dialed.protocol.as_deref(), Some("etherws.vnet1"));
    assert_eq!(
        field(&heads.recv().await.unwrap(), "sec-websocket-protocol"),
        Some("etherws.eth1, etherws.vnet1")
    );
    let (address, _heads) = server(|head| switching(head, "").into()).await;
    let target = Target::parse(&format!("ws://{address}"), &direct()).unwrap();
    assert_eq!(dial_offering(&target, &OFFER, AMPLE).await.unwrap().protocol, None);
}

#[tokio::test]
async fn a_refused_offer_is_retried_once_with_none() {
    let (address, mut heads) = server(|head| match field(head, "sec-websocket-protocol") {
        Some(_) => b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n".to_vec(),
        None => switching(head, "").into(),
    })
    .await;
    let target = Target::parse(&format!("ws://{address}"), &direct()).unwrap();
    assert_eq!(dial_offering(&target, &OFFER, AMPLE).await.unwrap().protocol, None);
    assert!(field(&heads.recv().await.unwrap(), "sec-websocket-protocol").is_some());
    assert!(field(&heads.recv().await.unwrap(), "sec-websocket-protocol").is_none());

    // Not where the answer is about something else.
    for (status, tries) in [
        ("400 Bad Request", 2),
        ("404 Not Found", 2),
        ("500 Internal Server Error", 2),
        ("200 OK", 1),
        ("302 Found", 1),
        ("401 Unauthorized", 1),
        ("403 Forbidden", 1),
        ("407 Proxy Authentication Required", 1),
        ("429 Too Many Requests", 1),
        ("503 Service Unavailable", 1),
    ] {
        let (address, mut heads) = server(move |_| format!("HTTP/1.1 {status}\r\n\r\n").into()).await;
        let target = Target::parse(&format!("ws://{address}"), &direct()).unwrap();
        dial_offering(&target, &OFFER, AMPLE).await.unwrap_err();
        let mut seen = 0;
        while heads.try_recv().is_ok() {
            seen += 1;
        }
        assert_eq!(seen, tries, "{status}");
    }
}

/// What servers do that know nothing of our subprotocols; all are still spoken to.
#[tokio::test]
async fn servers_that_do_not_understand_an_offer_get_a_classic_link() {
    let refusals: [fn(&str) -> String; 3] = [
        |_| String::new(),
        |offer| format!("Sec-WebSocket-Protocol: {offer}\r\n"),
        |_| "Sec-WebSocket-Protocol: binary\r\n".to_owned(),
    ];
    for refusal in refusals {
        let (address, mut heads) = server(move |head| match field(head, "sec-websocket-protocol") {
            Some(offer) if refusal(offer).is_empty() => Vec::new(),
            Some(offer) => switching(head, &refusal(offer)).into(),
            None => switching(head, "").into(),
        })
        .await;
        let target = Target::parse(&format!("ws://{address}"), &direct()).unwrap();
        // Asked anew by each dial: the server may be another one by then.
        for _ in 0..2 {
            assert_eq!(dial_offering(&target, &OFFER, AMPLE).await.unwrap().protocol, None);
            assert!(field(&heads.recv().await.unwrap(), "sec-websocket-protocol").is_some());
            assert!(field(&heads.recv().await.unwrap(), "sec-websocket-protocol").is_none());
        }
    }
    // The first name echoed, as Node's ws does, is the classic one.
    let (address, _heads) = server(|head| {
        let offer = field(head, "sec-websocket-protocol").unwrap_or_default();
        let first = offer.split(',').next().unwrap_or_default();
        switching(head, &format!("Sec-WebSocket-Protocol: {first}\r\n")).into()
    })
    .await;
    let target = Target::parse(&format!("ws://{address}"), &direct()).unwrap();
    let dialed = dial_offering(&target, &OFFER, AMPLE).await.unwrap();
    assert_eq!(dialed.protocol.as_deref(), Some(CLASSIC));
}
