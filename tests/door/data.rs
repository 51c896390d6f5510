//! The WebSocket service: what it refuses, and the links that come of the rest.

use std::sync::Arc;
use std::time::{Duration, Instant};

use etherws::control::http::{UserRule, Who};
use etherws::port::Profile;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::*;

#[tokio::test]
async fn bad_01_a_trickled_header_is_closed_at_ten_seconds() -> Test {
    let dir = Dir::new("bad1");
    let running = Running::start(dir.settings()).await?;
    let stream = TcpStream::connect(running.address("data")).await?;
    let (mut read, mut write) = stream.into_split();
    let start = Instant::now();
    let trickle = tokio::spawn(async move {
        for byte in handshake("").bytes() {
            if write.write_all(&[byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    let mut reply = Vec::new();
    // The request alone would take two minutes.
    let _ = timeout(Duration::from_secs(30), read.read_to_end(&mut reply)).await?;
    trickle.abort();
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(9), "{took:?}");
    Ok(())
}

#[tokio::test]
async fn bad_02_bad_03_bad_04_bad_05_bad_06_bad_07_bad_09_requests_that_are_none() -> Test {
    let dir = Dir::new("bad2");
    let running = Running::start(dir.settings()).await?;
    let long = format!("X: {}\r\n", "y".repeat(17 << 10));
    let uri = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "y".repeat(17 << 10));
    let many = "X: y\r\n".repeat(61);
    for (name, request, expected) in [
        ("2: large header", handshake(&long).into_bytes(), 431),
        ("2: large target", uri.into_bytes(), 431),
        ("3: 65 headers", handshake(&many).into_bytes(), 431),
        ("4: request line", b"GET\r\n\r\n".to_vec(), 400),
        ("4: NUL", handshake("X: a\0b\r\n").into_bytes(), 400),
        ("4: obs-fold", handshake("X: a\r\n b\r\n").into_bytes(), 400),
        (
            "5: both lengths",
            handshake("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n").into_bytes(),
            400,
        ),
        ("5: differing", handshake("Content-Length: 3\r\nContent-Length: 4\r\n").into_bytes(), 400),
        ("5: signed", handshake("Content-Length: +3\r\n").into_bytes(), 400),
        ("5: overflowing", handshake("Content-Length: 99999999999999999999999\r\n").into_bytes(), 400),
        ("6: version", handshake("Sec-WebSocket-Version: 12\r\n").into_bytes(), 426),
        ("7: key twice", handshake("Sec-WebSocket-Key: YWJj\r\n").into_bytes(), 400),
        ("9: HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec(), 400),
        ("12: no Host", handshake("").replace("Host: sw.example\r\n", "").into_bytes(), 400),
        ("12: two Hosts", handshake("Host: b\r\n").into_bytes(), 400),
        ("plain GET", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), 426),
        ("POST", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".to_vec(), 405),
        ("path", b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".to_vec(), 404),
        ("control is not here", post(ECHO, JSON).into_bytes(), 404),
    ] {
        let reply = running.data(request).await;
        assert_eq!(status(&reply), expected, "{name}: {reply}");
        if expected == 426 {
            assert!(
                reply.contains("\r\nsec-websocket-version: 13\r\n") || reply.contains("an etherws switch")
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn bad_10_tls_and_plain_do_not_mix() -> Test {
    let dir = Dir::new("bad10");
    // Five minutes for a header, which are not waited for.
    let mut settings = dir.settings();
    settings.limits.header_time = Duration::from_secs(300);
    let plain = Running::start(settings.clone()).await?;
    plain.data(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 and so on").await;
    plain.stop(&dir).await?;
    let (files, _) = certificate(&dir, "sw.example")?;
    let secure = Running::start(with_tls(settings, files)).await?;
    let reply = secure.data(handshake("")).await;
    assert!(!reply.starts_with("HTTP"), "{reply}");
    Ok(())
}

#[tokio::test]
async fn bad_08_bad_11_bytes_behind_the_handshake_come_through() -> Test {
    let dir = Dir::new("bad8");
    let mut running = Running::start(dir.settings()).await?;
    let mut stream = TcpStream::connect(running.address("data")).await?;
    let offer = "Sec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Protocol: etherws.eth1, x\r\n";
    stream.write_all(format!("{}early", handshake(offer)).as_bytes()).await?;
    let mut link = timeout(Duration::from_secs(5), running.links.recv()).await?.ok_or("no link")?;
    let mut head = [0; 1024];
    let n = stream.read(&mut head).await?;
    let head = String::from_utf8_lossy(&head[..n]);
    assert!(head.starts_with("HTTP/1.1 101 ") && head.ends_with("\r\n\r\n"), "{head}");
    assert!(head.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{head}");
    assert!(head.contains("Protocol: etherws.eth1\r\n") && !head.contains("Extensions"), "{head}");
    assert_eq!((&link.early[..], &link.user, &link.tls.is_none()), (&b"early"[..], &None, &true));
    assert_eq!(link.peer, stream.local_addr()?);
    stream.write_all(b"later").await?;
    let mut later = [0; 5];
    link.stream.read_exact(&mut later).await?;
    assert_eq!(&later, b"later");
    Ok(())
}

/// The choice, and that the link is told the same as the peer.
#[tokio::test]
async fn a_link_carries_super_frames_when_the_peer_offers_it_and_the_settings_let_it() -> Test {
    let dir = Dir::new("offer");
    let mut settings = dir.settings();
    let offer = "Sec-WebSocket-Protocol: chat, etherws.eth1\r\nSec-WebSocket-Protocol: etherws.vnet1\r\n";
    for (offload, more, chosen) in [
        (true, offer, Some("etherws.vnet1")),
        (false, offer, Some("etherws.eth1")),
        (true, "Sec-WebSocket-Protocol: binary, base64\r\n", None),
        (true, "", None),
    ] {
        if let Some(listen) = &mut settings.listen {
            listen.offload = offload;
        }
        let mut running = Running::start(settings.clone()).await?;
        let mut stream = TcpStream::connect(running.address("data")).await?;
        stream.write_all(handshake(more).as_bytes()).await?;
        let link = timeout(Duration::from_secs(5), running.links.recv()).await?.ok_or("no link")?;
        let mut head = [0; 1024];
        let n = stream.read(&mut head).await?;
        let head = String::from_utf8_lossy(&head[..n]);
        let told = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Protocol: "));
        assert_eq!((told, link.vnet), (chosen, chosen == Some("etherws.vnet1")), "{offload} {more}");
        running.stop(&dir).await?;
    }
    Ok(())
}

#[tokio::test]
async fn bad_13_foreign_origins_open_no_link() -> Test {
    let dir = Dir::new("bad13");
    let mut settings = dir.settings();
    if let Some(listen) = &mut settings.listen {
        listen.origins = vec!["https://app.example".to_owned()];
    }
    let running = Running::start(settings).await?;
    for origin in ["null", "http://evil.example", "http://sw.example.evil.com", "http://sw.example:81"] {
        let reply = running.data(handshake(&format!("Origin: {origin}\r\nConnection: close\r\n"))).await;
        assert_eq!(status(&reply), 403, "{origin}: {reply}");
    }
    for origin in ["http://sw.example", "https://sw.example", "https://app.example"] {
        assert!(opens(&running, &handshake(&format!("Origin: {origin}\r\n"))).await?, "{origin}");
    }
    Ok(())
}

#[tokio::test]
async fn bad_60_credentials_before_the_101() -> Test {
    let dir = Dir::new("bad60");
    let mut settings = dir.settings();
    if let Some(listen) = &mut settings.listen {
        listen.htpasswd = Some(dir.file("htpasswd", HTPASSWD));
        listen.tokens = Some(dir.file("tokens", "browser 0123456789abcdef\n"));
    }
    let profile = Profile { name: Some("attic".to_owned()), ..Profile::default() };
    settings.users = vec![UserRule { who: Who::Token("browser".to_owned()), profile: profile.clone() }];
    let mut running = Running::start(settings).await?;
    for wrong in [
        "",
        "Authorization: Basic !!!\r\n",
        "Authorization: Basic YWxpY2U=\r\n",
        "Authorization: Basic YWxpY2U6d3Jvbmc=\r\n",
        "Authorization: Bearer 0123456789abcdeX\r\n",
        "Authorization: Negotiate x\r\n",
    ] {
        let reply = running.data(format!("{}early", handshake(wrong))).await;
        assert_eq!(status(&reply), 401, "{wrong}: {reply}");
        assert!(
            reply.contains("www-authenticate: Basic realm=") && reply.contains("www-authenticate: Bearer")
        );
    }
    assert!(running.links.try_recv().is_err(), "nobody came in");
    let query = handshake("").replace("GET / ", "GET /?token=0123456789abcdef ");
    let header = handshake("Authorization: Bearer 0123456789abcdef\r\n");
    for (request, user, expected) in [
        (handshake(ALICE), "alice", None),
        (query, "browser", Some(profile.clone())),
        (header, "browser", Some(profile)),
    ] {
        assert!(opens(&running, &request).await?, "{request}");
        let link = running.links.recv().await.ok_or("no link")?;
        assert_eq!((link.user.as_deref(), link.profile), (Some(user), expected));
    }
    Ok(())
}

#[tokio::test]
async fn bad_63_a_missing_file_is_an_error_and_an_empty_one_is_closed() -> Test {
    let dir = Dir::new("bad63");
    let mut settings = dir.settings();
    let mut set = |path| {
        if let Some(listen) = &mut settings.listen {
            listen.htpasswd = Some(path);
        }
        settings.clone()
    };
    let error = Running::start(set(dir.0.join("absent"))).await.err().unwrap_or_default();
    assert!(error.contains("absent"), "{error}");
    let running = Running::start(set(dir.file("empty", ""))).await?;
    assert_eq!(status(&running.data(handshake(ALICE)).await), 401);
    assert_eq!(status(&running.data(handshake("")).await), 401);
    Ok(())
}

#[tokio::test]
async fn a_kept_alive_connection_may_become_a_link() -> Test {
    let dir = Dir::new("keepalive");
    let mut running = Running::start(dir.settings()).await?;
    let mut stream = TcpStream::connect(running.address("data")).await?;
    stream.write_all(b"GET /none HTTP/1.1\r\nHost: a\r\n\r\n").await?;
    let mut head = [0; 2048];
    let n = stream.read(&mut head).await?;
    assert_eq!(status(&String::from_utf8_lossy(&head[..n])), 404);
    stream.write_all(handshake("").as_bytes()).await?;
    let n = stream.read(&mut head).await?;
    assert_eq!(status(&String::from_utf8_lossy(&head[..n])), 101);
    assert!(running.links.recv().await.is_some());
    Ok(())
}

#[tokio::test]
async fn only_trusted_proxies_are_believed() -> Test {
    let dir = Dir::new("proxies");
    let mut settings = dir.settings();
    let mut running = Running::start(settings.clone()).await?;
    let forwarded = handshake("X-Forwarded-For: 192.0.2.7\r\n");
    assert!(opens(&running, &forwarded).await?);
    let link = running.links.recv().await.ok_or("no link")?;
    assert!(link.peer.ip().is_loopback(), "nobody is trusted: {}", link.peer);
    running.stop(&dir).await?;
    if let Some(listen) = &mut settings.listen {
        listen.trusted_proxies = vec!["127.0.0.0/8".parse()?];
    }
    let mut running = Running::start(settings.clone()).await?;
    assert!(opens(&running, &forwarded).await?);
    assert_eq!(running.links.recv().await.ok_or("no link")?.peer, "192.0.2.7:0".parse()?);
    let front = handshake("X-Forwarded-Host: front.example\r\nOrigin: https://front.example\r\n");
    assert!(opens(&running, &front).await?);
    running.stop(&dir).await?;
    if let Some(listen) = &mut settings.listen {
        listen.proxy_protocol = true;
    }
    let mut running = Running::start(settings.clone()).await?;
    assert!(opens(&running, &format!("PROXY TCP4 192.0.2.8 127.0.0.1 99 80\r\n{}", handshake(""))).await?);
    let link = loop {
        let link = running.links.recv().await.ok_or("no link")?;
        if !link.peer.ip().is_loopback() {
            break link;
        }
    };
    assert_eq!(link.peer, "192.0.2.8:99".parse()?);
    assert_eq!(running.data(handshake("")).await, "", "no PROXY header: closed");
    running.stop(&dir).await?;
    if let Some(listen) = &mut settings.listen {
        listen.trusted_proxies = vec!["192.0.2.0/24".parse()?];
    }
    let running = Running::start(settings).await?;
    assert_eq!(running.data(b"PROXY TCP4 192.0.2.8 127.0.0.1 99 80\r\n").await, "", "untrusted: closed");
    Ok(())
}

#[tokio::test]
async fn tls_hands_over_what_it_has_decrypted_and_the_certificates_name() -> Test {
    let dir = Dir::new("tls");
    let (mut files, server) = certificate(&dir, "sw.example")?;
    let (client_files, client) = certificate(&dir, "anna.example")?;
    files.client_ca = Some(client_files.cert);
    let mut settings = with_tls(dir.settings(), files);
    let profile = Profile { name: Some("anna".to_owned()), ..Profile::default() };
    settings.users =
        vec![UserRule { who: Who::Certificate("anna.example".to_owned()), profile: profile.clone() }];
    let mut running = Running::start(settings).await?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(server.0)?;
    let builder = || rustls::ClientConfig::builder().with_root_certificates(roots.clone());
    let connect = async |config: rustls::ClientConfig, request: String| {
        let stream = TcpStream::connect(running.address("data")).await?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let mut stream = connector.connect(ServerName::try_from("sw.example")?, stream).await?;
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        let mut head = [0; 12];
        stream.read_exact(&mut head).await?;
        assert!(head.ends_with(b"101"), "{head:?}");
        Ok::<_, Box<dyn std::error::Error>>(stream)
    };
    let nameless = connect(builder().with_no_client_auth(), handshake("")).await;
    assert!(nameless.is_err(), "no client certificate, no way in");
    let config = builder().with_client_auth_cert(vec![client.0], client.1)?;
    let early = "e".repeat(50_000);
    let mut stream = connect(config, format!("{}{early}", handshake(""))).await?;
    stream.write_all(b"last").await?;
    let mut link = running.links.recv().await.ok_or("no link")?;
    assert_eq!((link.user.as_deref(), link.profile), (Some("anna.example"), Some(profile)));
    let mut tls = link.tls.ok_or("no TLS")?;
    assert_eq!(
        format!("{:?}", tls.negotiated_cipher_suite().ok_or("no suite")?.suite()),
        "TLS13_AES_128_GCM_SHA256"
    );
    // Read on where the door has stopped: nothing is lost between its bytes and the socket's.
    let mut seen = link.early.to_vec();
    while seen.len() < early.len() + 4 {
        link.stream.readable().await?;
        let mut raw = [0; 65536];
        let n = timeout(Duration::from_secs(5), link.stream.read(&mut raw)).await??;
        assert_ne!(n, 0, "closed after {}", seen.len());
        let mut rest = &raw[..n];
        while !rest.is_empty() {
            tls.read_tls(&mut rest)?;
            let state = tls.process_new_packets()?;
            let mut clear = vec![0; state.plaintext_bytes_to_read()];
            std::io::Read::read_exact(&mut tls.reader(), &mut clear)?;
            seen.extend(clear);
        }
    }
    assert!(seen.starts_with(early.as_bytes()) && seen.ends_with(b"elast"));
    Ok(())
}
