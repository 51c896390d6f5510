//! Through HTTP and SOCKS5 proxies, named by the options or by the environment.

use std::net::SocketAddr;
use std::process::Stdio;

use etherws::port::LinkOptions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::*;

fn via(proxy: String) -> LinkOptions {
    LinkOptions { proxy: Some(proxy), ..options() }
}

/// A CONNECT proxy that leads every tunnel to `to`, whatever was asked for; with `auth` it wants that
/// value in Proxy-Authorization. The heads of the requests come out of the channel.
async fn connect_proxy(
    to: SocketAddr,
    auth: Option<&'static str>,
) -> (SocketAddr, UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (heads, seen) = unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let head = read_head(&mut stream).await;
            let denied = auth.is_some() && field(&head, "proxy-authorization") != auth;
            let _ = heads.send(head);
            if denied {
                let refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 4\r\n\r\nno!\n";
                stream.write_all(refusal).await.unwrap();
                continue;
            }
            stream.write_all(b"HTTP/1.0 200 Connection established\r\n\r\n").await.unwrap();
            tokio::spawn(async move { relay(stream, &to.to_string()).await });
        }
    });
    (address, seen)
}

#[tokio::test]
async fn through_a_connect_proxy_that_resolves_the_name() {
    let (far, mut heads) = server(|head| switching(head, "").into()).await;
    let (proxy, mut asked) = connect_proxy(far, None).await;
    let with_user =
        LinkOptions { user: Some("u".into()), passwd: Some("p".into()), ..via(format!("http://{proxy}")) };
    let dialed = dial("ws://far.invalid:8080/x", &with_user).await.unwrap();
    assert_eq!(dialed.peer, proxy);
    let request = asked.recv().await.unwrap();
    assert!(request.starts_with("CONNECT far.invalid:8080 HTTP/1.1\r\n"), "{request}");
    assert_eq!(field(&request, "host"), Some("far.invalid:8080"));
    assert_eq!(field(&request, "authorization"), None, "the server's credentials are not the proxy's");
    let head = heads.recv().await.unwrap();
    assert_eq!(field(&head, "authorization"), Some("Basic dTpw"));
}

#[tokio::test]
async fn a_proxys_credentials_go_to_the_proxy_alone() {
    let (far, mut heads) = server(|head| switching(head, "").into()).await;
    let (proxy, mut asked) = connect_proxy(far, Some("Basic cHU6cHA6eA==")).await;
    dial("ws://far.invalid", &via(format!("http://pu:pp%3Ax@{proxy}"))).await.unwrap();
    assert!(field(&asked.recv().await.unwrap(), "proxy-authorization").is_some());
    let head = heads.recv().await.unwrap();
    assert_eq!((field(&head, "proxy-authorization"), field(&head, "authorization")), (None, None));

    for wrong in [format!("http://{proxy}"), format!("http://pu:hunter2@{proxy}")] {
        let error = refusal("ws://far.invalid", &via(wrong)).await;
        assert_eq!(
            error,
            format!(
                "proxy {proxy} answered 407 Proxy Authentication Required (check user and password in the proxy's URL)"
            )
        );
    }
}

#[tokio::test]
async fn a_proxy_that_breaks_its_protocol_is_named() {
    let endless = || [b"HTTP/1.1 200 OK\r\nX: ".to_vec(), vec![b'x'; 100 << 10]].concat();
    let (long, _long) = server(move |_| endless()).await;
    let error = refusal("ws://far.invalid", &via(format!("http://{long}"))).await;
    assert!(error.starts_with(&format!("proxy {long} failed: ")) && error.contains("16 KiB"), "{error}");
    let (denies, _denies) = server(|_| b"HTTP/1.1 403 Forbidden\r\n\r\n".to_vec()).await;
    let error = refusal("ws://far.invalid", &via(format!("http://{denies}"))).await;
    assert_eq!(
        error,
        format!("proxy {denies} answered 403 Forbidden (it may let CONNECT go to port 443 alone)")
    );
    let closed = closed_port().await;
    let error = refusal("ws://far.invalid", &via(format!("http://{closed}"))).await;
    assert_eq!(error, format!("could not connect to proxy {closed}: connection refused"));
}

/// A SOCKS5 proxy (RFC 1928, 1929): checks `auth`, notes the name asked for, answers `status` and relays to `to`.
async fn socks_proxy(
    to: SocketAddr,
    auth: Option<(&'static str, &'static str)>,
    status: u8,
) -> (SocketAddr, UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (names, seen) = unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert_eq!(stream.read_u8().await.unwrap(), 5);
            let methods = counted(&mut stream).await;
            let method = if auth.is_some() { 2 } else { 0 };
            if !methods.contains(&method) {
                stream.write_all(&[5, 0xff]).await.unwrap();
                continue;
            }
            stream.write_all(&[5, method]).await.unwrap();
            if let Some((user, password)) = auth {
                assert_eq!(stream.read_u8().await.unwrap(), 1);
                let given = (counted(&mut stream).await, counted(&mut stream).await);
                let right = given == (user.as_bytes().to_vec(), password.as_bytes().to_vec());
                stream.write_all(&[1, u8::from(!right)]).await.unwrap();
                if !right {
                    continue;
                }
            }
            let mut ask = [0; 4];
            stream.read_exact(&mut ask).await.unwrap();
            assert_eq!(ask[..3], [5, 1, 0]);
            let name = match ask[3] {
                3 => String::from_utf8(counted(&mut stream).await).unwrap(),
                1 => std::net::Ipv4Addr::from(stream.read_u32().await.unwrap()).to_string(),
                other => panic!("address type {other}"),
            };
            let port = stream.read_u16().await.unwrap();
            names.send(format!("{name}:{port}")).unwrap();
            let reply = [5, status, 0, 1, 127, 0, 0, 1, 0, 80];
            if status != 0 {
                stream.write_all(&reply).await.unwrap();
                continue;
            }
            stream.write_all(&reply).await.unwrap();
            tokio::spawn(async move { relay(stream, &to.to_string()).await });
        }
    });
    (address, seen)
}

async fn counted(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = vec![0; usize::from(stream.read_u8().await.unwrap())];
    stream.read_exact(&mut bytes).await.unwrap();
    bytes
}

#[tokio::test]
async fn through_socks5() {
    let (far, mut heads) = server(|head| switching(head, "").into()).await;
    for (auth, userinfo) in [(None, ""), (Some(("su", "s:p")), "su:s%3Ap@")] {
        let (proxy, mut names) = socks_proxy(far, auth, 0).await;
        for (host, asked) in [("far.invalid:81", "far.invalid:81"), ("192.0.2.7", "192.0.2.7:80")] {
            let dialed =
                dial(&format!("ws://{host}"), &via(format!("socks5://{userinfo}{proxy}"))).await.unwrap();
            assert_eq!(dialed.peer, proxy);
            assert_eq!(names.recv().await.unwrap(), asked, "resolved by the proxy");
            assert_eq!(field(&heads.recv().await.unwrap(), "authorization"), None);
        }
    }
}

#[tokio::test]
async fn a_socks5_proxy_that_refuses_is_named() {
    let far = closed_port().await;
    let table = [
        (Some(("su", "sp")), "su:hunter2@", 0, "credentials not accepted"),
        (Some(("su", "sp")), "", 0, "authentication"),
        (None, "", 5, "connection refused"),
        (None, "", 2, "not allowed"),
    ];
    for (auth, userinfo, status, reason) in table {
        let (proxy, _names) = socks_proxy(far, auth, status).await;
        let error = refusal("ws://far.invalid", &via(format!("socks5://{userinfo}{proxy}"))).await;
        assert!(error.starts_with(&format!("proxy {proxy} refused: ")) && error.contains(reason), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

/// The environment belongs to the process, so this test dials in a child of its own (`in_a_child`).
#[tokio::test]
async fn the_environments_proxies() {
    let (far, mut heads) = server(|head| switching(head, "").into()).await;
    let (proxy, mut asked) = connect_proxy(far, None).await;
    let (socks, mut names) = socks_proxy(far, None, 0).await;
    let (http, all) = (format!("http://{proxy}"), format!("socks5://{socks}"));
    let child = async |variables: &[(&str, &str)], url: &str| {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "proxies::in_a_child", "--nocapture"]).stdout(Stdio::null());
        for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
            child.env_remove(name).env_remove(name.to_uppercase());
        }
        child.envs(variables.iter().copied()).env("ETHERWS_TEST_URL", url);
        let done = tokio::task::spawn_blocking(move || child.status()).await.unwrap();
        assert!(done.unwrap().success(), "{variables:?} {url}");
    };
    child(&[("http_proxy", &http)], "ws://one.invalid").await;
    assert!(asked.recv().await.unwrap().starts_with("CONNECT one.invalid:80 "));
    child(&[("HTTP_PROXY", &http), ("all_proxy", &all)], "ws://two.invalid").await;
    assert!(asked.recv().await.unwrap().starts_with("CONNECT two.invalid:80 "));
    child(&[("https_proxy", "http://127.0.0.1:9"), ("all_proxy", &all)], "ws://three.invalid").await;
    assert_eq!(names.recv().await.unwrap(), "three.invalid:80");
    for _ in 0..3 {
        heads.recv().await.unwrap();
    }
    let direct = format!("ws://{far}");
    child(&[("http_proxy", &http), ("no_proxy", "example.com,127.0.0.0/8")], &direct).await;
    heads.recv().await.unwrap();
    assert!(asked.try_recv().is_err() && names.try_recv().is_err());
}

#[tokio::test]
async fn in_a_child() {
    if let Ok(url) = std::env::var("ETHERWS_TEST_URL") {
        dial(&url, &options()).await.unwrap();
    }
}
