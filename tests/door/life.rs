//! Start, conflicts, inherited sockets, reload.

use etherws::control::http::{ControlSettings, ControlTcp, Door, DoorSettings, Limits, ListenSettings};
use tokio::net::TcpStream;

use crate::harness::*;

#[tokio::test]
async fn conflicts_are_errors_at_start() -> Test {
    let dir = Dir::new("conflicts");
    let free = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let (files, _) = certificate(&dir, "sw.example")?;
    let with = |listen: ListenSettings, tcp: ControlTcp| DoorSettings {
        listen: Some(ListenSettings { port: Some(free), ..listen }),
        control: ControlSettings {
            sock: dir.0.join("ctl.sock"),
            tcp: Some(ControlTcp { port: free, ..tcp }),
        },
        metrics: None,
        users: Vec::new(),
        limits: Limits::default(),
    };
    let listen = ListenSettings { host: Some("127.0.0.1".to_owned()), ..ListenSettings::default() };
    let tcp = ControlTcp::default;
    let everywhere = ControlTcp { host: "0.0.0.0".to_owned(), anonymous: true, ..tcp() };
    for (settings, words) in [
        (with(listen.clone(), ControlTcp { path: "/".to_owned(), ..tcp() }), "change --path or --ctlpath"),
        (with(listen.clone(), ControlTcp { tls: Some(files), ..tcp() }), "not their TLS settings"),
        (with(ListenSettings::default(), tcp()), "overlap"),
        (with(listen.clone(), everywhere), "on loopback alone"),
        (with(ListenSettings { path: "x".to_owned(), ..listen.clone() }, tcp()), "is not a path"),
        (with(ListenSettings { origins: vec!["x".to_owned()], ..listen.clone() }, tcp()), "origin \"x\""),
        (with(ListenSettings { proxy_protocol: true, ..listen.clone() }, tcp()), "--trusted-proxy"),
    ] {
        let error = Door::open(settings, Vec::new()).await.err().unwrap_or_default();
        assert!(error.contains(words), "{words}: {error}");
    }
    let running = Running::start(with(listen.clone(), ControlTcp { anonymous: true, ..tcp() })).await?;
    assert!(running.control(post(ECHO, JSON)).await.contains("pong"));
    assert!(opens(&running, &handshake("")).await?, "both on one address");
    let error = Door::open(with(listen, tcp()), Vec::new()).await.err().unwrap_or_default();
    assert!(error.contains("could not listen on 127.0.0.1"), "{error}");
    Ok(())
}

#[tokio::test]
async fn inherited_sockets_are_served() -> Test {
    let dir = Dir::new("inherited");
    let (one, two) =
        (std::net::TcpListener::bind("127.0.0.1:0")?, std::net::TcpListener::bind("127.0.0.1:0")?);
    let (data, control) = (one.local_addr()?, two.local_addr()?);
    let mut settings = dir.with_control(ControlTcp { anonymous: true, ..ControlTcp::default() });
    if let Some(listen) = &mut settings.listen {
        listen.port = None;
    }
    let running = Running::with_inherited(settings, vec![one, two]).await?;
    assert_eq!(running.door.local_addrs(), [("data", data), ("control", control)]);
    assert!(opens(&running, &handshake("")).await?);
    assert!(running.control(post(ECHO, JSON)).await.contains("pong"));
    Ok(())
}

#[tokio::test]
async fn reload_is_all_or_nothing() -> Test {
    let dir = Dir::new("reload");
    let mut settings = dir.settings();
    let running = Running::start(settings.clone()).await?;
    let first = running.address("data");
    assert!(opens(&running, &handshake("")).await?);
    let listen = settings.listen.as_mut().ok_or("no listen")?;
    listen.htpasswd = Some(dir.0.join("absent"));
    listen.port = Some(1);
    let error = running.door.reload(settings.clone()).await.err().unwrap_or_default();
    assert!(error.contains("absent") && running.address("data") == first, "{error}");
    assert!(opens(&running, &handshake("")).await?, "a bad file changes nothing");

    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let listen = settings.listen.as_mut().ok_or("no listen")?;
    listen.htpasswd = Some(dir.file("htpasswd", HTPASSWD));
    listen.port = Some(taken.local_addr()?.port());
    let error = running.door.reload(settings.clone()).await.err().unwrap_or_default();
    assert!(error.contains("could not listen on"), "{error}");
    assert!(opens(&running, &handshake("")).await?, "an address in use changes nothing");

    drop(taken);
    let changes = running.door.reload(settings.clone()).await?;
    assert_eq!(changes, ["listening addresses", "WebSocket service"]);
    assert!(TcpStream::connect(first).await.is_err() || first.port() == running.address("data").port());
    assert_eq!(status(&running.data(handshake("")).await), 401);
    assert!(opens(&running, &handshake(ALICE)).await?);
    assert_eq!(running.door.reload(settings).await?, Vec::<String>::new());

    running.door.stop_accepting();
    assert!(running.door.local_addrs().is_empty());
    running.stop(&dir).await
}
