//! Control: whom it answers, and what it takes for a call.

use std::time::Duration;

use etherws::control::http::ControlTcp;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::harness::*;

#[tokio::test]
async fn bad_12_bad_50_bad_52_control_answers_to_its_own_names_and_pages() -> Test {
    let dir = Dir::new("bad50");
    let anonymous = ControlTcp { anonymous: true, ..ControlTcp::default() };
    let running = Running::start(dir.with_control(anonymous)).await?;
    let port = running.address("control").port();
    for (host, more, expected) in [
        (format!("Host: localhost:{port}\r\n"), "", 200),
        (format!("Host: 127.0.0.1:{port}\r\n"), "", 200),
        ("Host: [::1]\r\n".to_owned(), "", 200),
        (String::new(), "", 400),
        ("Host: localhost\r\nHost: localhost\r\n".to_owned(), "", 400),
        ("Host: evil.example\r\n".to_owned(), "", 403),
        (format!("Host: localhost.evil.example:{port}\r\n"), "", 403),
        ("Host: localhost\r\n".to_owned(), "Origin: http://localhost\r\n", 200),
        ("Host: localhost\r\n".to_owned(), "Origin: https://localhost\r\n", 403),
        ("Host: localhost\r\n".to_owned(), "Origin: null\r\n", 403),
        ("Host: localhost\r\n".to_owned(), "Origin: http://evil.example\r\n", 403),
        ("Host: localhost\r\n".to_owned(), "Sec-Fetch-Site: cross-site\r\n", 403),
    ] {
        let request =
            post(ECHO, &format!("{host}{JSON}{more}")).replace("Host: localhost\r\nContent-L", "Content-L");
        let reply = running.control(&request).await;
        assert_eq!(status(&reply), expected, "{host}{more}: {reply}");
        assert!(!reply.to_ascii_lowercase().contains("access-control-"), "{reply}");
    }
    let socket = handshake("Sec-WebSocket-Version: 13\r\n").replace("GET / ", "GET /ctl ");
    let socket = socket.replace("Host: sw.example", "Host: localhost");
    let foreign = socket.replace("Upgrade: web", "Origin: http://evil.example\r\nUpgrade: web");
    assert_eq!(status(&running.control(foreign).await), 403);
    let mut stream = TcpStream::connect(running.address("control")).await?;
    stream.write_all(socket.as_bytes()).await?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).await?;
    assert_eq!(&head, b"HTTP/1.1 101");
    Ok(())
}

#[tokio::test]
async fn bad_51_bad_53_bad_54_what_control_takes_for_a_call() -> Test {
    let dir = Dir::new("bad53");
    let running = Running::start(dir.settings()).await?;
    let reply = running.unix(&dir, post(ECHO, JSON)).await;
    assert!(status(&reply) == 200 && reply.contains(r#""result":{"x":"pong"}"#), "{reply}");
    let utf8 = "Content-Type: application/json; charset=UTF-8\r\n";
    assert!(running.unix(&dir, post(&format!("{}{ECHO}", " ".repeat(300)), utf8)).await.contains("pong"));
    for kind in ["", "Content-Type: text/plain\r\n", "Content-Type: application/x-www-form-urlencoded\r\n"] {
        assert_eq!(status(&running.unix(&dir, post(ECHO, kind)).await), 415, "{kind}");
    }
    let call = |params: &str| format!(r#"{{"jsonrpc":"2.0","id":1,"method":"echo","params":{params}}}"#);
    let batch = format!("[{}]", vec![ECHO; 101].join(","));
    let large_batch = format!("[{}]", vec!["1"; 10_000].join(","));
    for (body, code) in [
        ("5".to_owned(), "-32600"),
        ("null".to_owned(), "-32600"),
        ("\"x\"".to_owned(), "-32600"),
        ("[]".to_owned(), "-32600"),
        ("[1]".to_owned(), "-32600"),
        ("{}".to_owned(), "-32600"),
        ("{".to_owned(), "-32700"),
        (String::new(), "-32700"),
        ("[".repeat(100_000), "-32700"),
        (call(&format!("{}{}", "[".repeat(100_000), "]".repeat(100_000))), "-32700"),
        (call("[1e999]"), "-32700"),
        (call(r#"["\ud800"]"#), "-32700"),
        (r#"{"jsonrpc":"2.0","id":1,"method":"nope"}"#.to_owned(), "-32601"),
        (batch, "-32010"),
        (large_batch, "-32010"),
    ] {
        let reply = running.unix(&dir, post(&body, JSON)).await;
        let shown = &body[..body.len().min(40)];
        assert!(status(&reply) == 200 && reply.contains(&format!(r#""code":{code}"#)), "{shown}: {reply}");
    }
    assert_eq!(status(&running.unix(&dir, post(&" ".repeat(2 << 20), JSON)).await), 413);
    let chunked = format!(
        "POST /ctl HTTP/1.1\r\nHost: a\r\n{JSON}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{ECHO}\r\n0\r\n\r\n",
        ECHO.len()
    );
    assert!(running.unix(&dir, &chunked).await.contains("pong"), "and closed behind it");
    let endless = format!(
        "POST /ctl HTTP/1.1\r\nHost: a\r\n{JSON}Transfer-Encoding: chunked\r\n\r\n200000\r\n{}",
        " ".repeat(1 << 21)
    );
    assert_eq!(status(&running.unix(&dir, endless).await), 413);
    assert_eq!(status(&running.unix(&dir, "GET /ctl HTTP/1.1\r\nHost: a\r\n\r\n").await), 405);
    Ok(())
}

#[tokio::test]
async fn bad_53_control_over_websocket_survives_what_it_is_sent() -> Test {
    use futures_util::{SinkExt, StreamExt};
    let dir = Dir::new("bad53ws");
    let _running = Running::start(dir.settings()).await?;
    let stream = UnixStream::connect(dir.0.join("ctl.sock")).await?;
    let (mut socket, _) = tokio_tungstenite::client_async("ws://localhost/ctl", stream).await?;
    let call = |params: &str| format!(r#"{{"jsonrpc":"2.0","id":1,"method":"echo","params":{params}}}"#);
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for (message, words) in [
        (ECHO.to_owned(), "pong"),
        ("5".to_owned(), r#""code":-32"#),
        ("[]".to_owned(), r#""code":-32600"#),
        (deep.clone(), r#""code":-32"#),
        (call(&deep), r#""code":-32"#),
        (call("[1e999]"), r#""code":-32"#),
        (call(r#"["\ud800"]"#), r#""code":-32"#),
        (ECHO.to_owned(), "pong"),
    ] {
        socket.send(message.clone().into()).await?;
        let mut reply = socket.next().await.ok_or("closed")??;
        while reply.is_ping() {
            reply = timeout(Duration::from_secs(5), socket.next()).await?.ok_or("closed")??;
        }
        assert!(reply.to_text()?.contains(words), "{:.60}: {reply:?}", message);
    }
    Ok(())
}

/// Whatever a name or a request holds: text or JSON comes back, and a browser is told to run nothing of it.
#[tokio::test]
async fn bad_59_no_reply_is_a_page() -> Test {
    let dir = Dir::new("bad59");
    let mut settings = dir.with_control(ControlTcp::default());
    if let Some(listen) = &mut settings.listen {
        listen.htpasswd = Some(dir.file("htpasswd", HTPASSWD));
    }
    let running = Running::start(settings).await?;
    let script = "<script>alert(1)</script>";
    let echo = ECHO.replace("pong", script);
    let origin = format!("Origin: http://{script}\r\nConnection: close\r\n");
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let mut replies = vec![
        (426, running.data(get("/")).await),
        (404, running.data(get("/%3Cscript%3Ealert(1)")).await),
        (403, running.data(handshake(&origin)).await),
        (401, running.data(handshake("Authorization: Basic PHNjcmlwdD46eA==\r\n")).await),
        (401, running.control(post(&echo, JSON)).await),
        (403, running.control(post(&echo, JSON).replace("localhost", "evil.example")).await),
    ];
    for (status, body, kind) in
        [(200, echo.as_str(), JSON), (200, script, JSON), (415, script, "Content-Type: text/html\r\n")]
    {
        replies.push((status, running.unix(&dir, post(body, kind)).await));
    }
    replies.push((405, running.unix(&dir, get("/ctl")).await));
    for (expected, reply) in replies {
        assert_eq!(status(&reply), expected, "{reply}");
        let head = reply.split("\r\n\r\n").next().unwrap_or_default().to_ascii_lowercase();
        assert!(head.contains("content-security-policy: default-src 'none'; script-src 'self'; "), "{reply}");
        assert!(head.contains("x-content-type-options: nosniff"), "{reply}");
        let kind = head.lines().find(|line| line.starts_with("content-type:")).unwrap_or_default();
        assert!(kind.contains("text/plain") || kind.contains("application/json"), "{reply}");
        assert!(kind.contains("json") || !reply.contains("<script"), "echoed: {reply}");
    }
    Ok(())
}

#[tokio::test]
async fn bad_77_a_panic_ends_one_connection() -> Test {
    let dir = Dir::new("bad77");
    let running = Running::start(dir.settings()).await?;
    let boom = r#"{"jsonrpc":"2.0","id":1,"method":"boom"}"#;
    let reply = running.unix(&dir, post(boom, JSON)).await;
    assert!(!reply.contains("result"), "{reply}");
    assert!(running.unix(&dir, post(ECHO, JSON)).await.contains("pong"));
    Ok(())
}

#[tokio::test]
async fn control_on_tcp_asks_for_the_token_and_says_where_it_is() -> Test {
    let dir = Dir::new("token");
    let running = Running::start(dir.with_control(ControlTcp::default())).await?;
    let path = dir.0.join("ctl.sock.token");
    let token = std::fs::read_to_string(&path)?.trim().to_owned();
    assert!(token.len() == 64 && token.bytes().all(|b| b.is_ascii_hexdigit()), "{token}");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path)?.permissions());
    assert_eq!(mode & 0o777, 0o600);
    let reply = running.control(post(ECHO, JSON)).await;
    assert_eq!(status(&reply), 401, "{reply}");
    assert!(reply.contains("--ctlanonymous") && reply.contains(&*path.to_string_lossy()), "{reply}");
    let bearer = running.control(post(ECHO, &format!("{JSON}Authorization: Bearer {token}\r\n"))).await;
    assert!(bearer.contains("pong"), "{bearer}");
    let basic = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, format!("me:{token}"));
    let reply = running.control(post(ECHO, &format!("{JSON}Authorization: Basic {basic}\r\n"))).await;
    assert!(reply.contains("pong"), "{reply}");
    assert_eq!(status(&running.control(post(ECHO, &format!("{JSON}{ALICE}"))).await), 401);
    running.stop(&dir).await?;
    assert!(!path.exists(), "the token's file goes with the door");

    let htpasswd = Some(dir.file("ctlpasswd", HTPASSWD));
    let running = Running::start(dir.with_control(ControlTcp { htpasswd, ..ControlTcp::default() })).await?;
    assert!(!path.exists());
    assert!(running.control(post(ECHO, &format!("{JSON}{ALICE}"))).await.contains("pong"));
    assert_eq!(status(&running.control(post(ECHO, JSON)).await), 401);
    Ok(())
}
