//! The way out: directly, through an HTTP proxy by CONNECT (RFC 9110 9.3.6), or through SOCKS5 (RFC 1928,
//! 1929). Names are resolved by the proxy. Its credentials come from its URL alone and go to it alone.
//!
//! CONNECT goes through hyper like the upgrade itself, not through hyper-util's `Tunnel`: that one drops
//! what the proxy sends behind its answer and does not say with which status it refused.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Uri};
use http_body_util::Empty;
use hyper_util::client::legacy::connect::proxy::SocksV5;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tower_service::Service;

use super::rewound::Rewound;
use super::{DialError, Target, race, target, upgrade};

/// Whether a proxy option can be used: `none`, or a URL of a kind that is spoken here.
pub(super) fn check(option: &str) -> Result<(), String> {
    if is_none(option) {
        return Ok(());
    }
    let way = way(option).and_then(|way| supported(&way).map(|()| way));
    way.map(drop).map_err(|rule| format!("proxy {}: {rule}", target::redacted(option)))
}

/// Connects to the target, through the proxy that its options or the environment name.
pub(super) async fn reach(to: &Target) -> Result<Rewound, DialError> {
    let Some(proxy) = choose(to, Matcher::from_env)? else {
        return race::connect(&to.host, to.port, &to.congestion)
            .await
            .map(|stream| Rewound::new(stream, Bytes::new()));
    };
    let (host, port) = place(proxy.uri());
    let name = target::authority(&host, port);
    let stream = race::connect(&host, port, &to.congestion).await.map_err(|error| match error {
        DialError::Connect { to, error } => DialError::Connect { to: format!("proxy {to}"), error },
        DialError::Resolve { host, error } => DialError::Resolve { host: format!("proxy {host}"), error },
        other => other,
    })?;
    let reached = if is_socks(proxy.uri()) {
        socks(stream, &proxy, to).await
    } else {
        connect(stream, proxy.basic_auth(), to).await
    };
    reached.map_err(|reason| DialError::Proxy { proxy: name, reason })
}

/// Which proxy, if any: the option's, otherwise the environment's for http (ws) or https (wss).
fn choose(to: &Target, environment: impl FnOnce() -> Matcher) -> Result<Option<Intercept>, DialError> {
    let setting = |rule: String| DialError::ProxySetting(rule);
    let way = match to.options.proxy.as_deref() {
        Some(option) if is_none(option) => return Ok(None),
        Some(option) => {
            let refuse = |rule| setting(format!("proxy {}: {rule}", target::redacted(option)));
            Some(way(option).map_err(refuse)?)
        }
        None => {
            let scheme = if to.secure { "https" } else { "http" };
            let uri = format!("{scheme}://{}/", to.authority()).parse::<Uri>();
            environment().intercept(&uri.map_err(|error| setting(error.to_string()))?)
        }
    };
    if let Some(way) = &way {
        supported(way).map_err(|rule| setting(format!("proxy {} of the environment: {rule}", way.uri())))?;
    }
    Ok(way)
}

fn is_none(option: &str) -> bool {
    option.is_empty() || option == "none"
}

fn way(option: &str) -> Result<Intercept, String> {
    let any = Uri::from_static("http://any/");
    Matcher::builder().all(option).build().intercept(&any).ok_or(KINDS.to_owned())
}

fn supported(way: &Intercept) -> Result<(), String> {
    match way.uri().scheme_str() {
        Some("http" | "socks5" | "socks5h") => Ok(()),
        _ => Err(KINDS.to_owned()),
    }
}

const KINDS: &str = "must be http://[USER:PASSWORD@]HOST:PORT, socks5://[USER:PASSWORD@]HOST:PORT or none";

fn is_socks(proxy: &Uri) -> bool {
    proxy.scheme_str() != Some("http")
}

/// Host, without brackets, and port.
fn place(proxy: &Uri) -> (String, u16) {
    let default = if is_socks(proxy) { 1080 } else { 80 };
    let host = proxy.host().unwrap_or_default();
    (host.trim_start_matches('[').trim_end_matches(']').to_owned(), proxy.port_u16().unwrap_or(default))
}

/// Asks an HTTP proxy for a tunnel. The error continues "proxy HOST:PORT".
async fn connect(stream: TcpStream, auth: Option<&HeaderValue>, to: &Target) -> Result<Rewound, String> {
    let authority = to.authority();
    let mut request = Request::builder().method(Method::CONNECT).uri(&authority).header("host", &authority);
    if let Some(auth) = auth {
        request = request.header("proxy-authorization", auth);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| format!("cannot be asked: {error}"))?;
    let exchange = upgrade::exchange(stream, request).await.map_err(|reason| format!("failed: {reason}"))?;
    let status = exchange.answer.status;
    match exchange.taken {
        Some((stream, early)) if status.is_success() => Ok(Rewound::new(stream, early)),
        _ => {
            let hint = match status.as_u16() {
                // 401 is tinyproxy's word for a wrong password.
                401 | 407 => " (check user and password in the proxy's URL)",
                403 => " (it may let CONNECT go to port 443 alone)",
                _ => "",
            };
            Err(format!("answered {status}{hint}"))
        }
    }
}

/// Asks a SOCKS5 proxy for a connection. The error continues "proxy HOST:PORT".
async fn socks(stream: TcpStream, proxy: &Intercept, to: &Target) -> Result<Rewound, String> {
    let mut service = SocksV5::new(proxy.uri().clone(), Given(Some(stream)));
    if let Some((user, password)) = proxy.raw_auth() {
        service = service.with_auth(user.to_owned(), password.to_owned());
    }
    let uri = format!("tcp://{}", to.authority()).parse::<Uri>().map_err(|error| error.to_string())?;
    let stream = service.call(uri).await.map_err(|error| {
        let text = error.to_string();
        format!("refused: {}", text.strip_prefix("SOCKS error: ").unwrap_or(&text))
    })?;
    Ok(Rewound::new(stream.into_inner().0, Bytes::new()))
}

/// A "connector" that gives out the one connection which is already there.
struct Given(Option<TcpStream>);

impl Service<Uri> for Given {
    type Response = TokioIo<Sip>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let stream = self.0.take();
        Box::pin(async move {
            match stream {
                Some(stream) => Ok(TokioIo::new(Sip(stream))),
                // Called once only.
                None => std::future::pending().await,
            }
        })
    }
}

/// Reads one byte at a time: `SocksV5` throws away what it read behind the proxy's last message, so it
/// must not get any. Its messages have some 20 bytes.
struct Sip(TcpStream);

impl AsyncRead for Sip {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut byte = [0];
        let mut one = ReadBuf::new(&mut byte);
        std::task::ready!(Pin::new(&mut self.0).poll_read(cx, &mut one))?;
        buf.put_slice(one.filled());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Sip {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::spec::LinkOptions;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// A proxy that says `answer`, one part after each message it gets, and hangs up.
    async fn scripted(answer: &'static [&'static [u8]]) -> TcpStream {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            for part in answer {
                assert_ne!(server.read(&mut [0; 1024]).await.unwrap(), 0);
                server.write_all(part).await.unwrap();
            }
        });
        client
    }

    async fn first_six(mut stream: Rewound) -> [u8; 6] {
        let mut six = [0; 6];
        stream.read_exact(&mut six).await.unwrap();
        six
    }

    #[tokio::test]
    async fn bytes_behind_a_proxys_answer_are_kept() {
        let to = Target::parse("ws://far.invalid", &LinkOptions::default()).unwrap();
        let proxy = scripted(&[b"HTTP/1.1 200 OK\r\nVia: x\r\n\r\nbehind"]).await;
        assert_eq!(&first_six(connect(proxy, None, &to).await.unwrap()).await, b"behind");

        let proxy = scripted(&[b"\x05\x00", b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50behind"]).await;
        let way = way("socks5://p:1").unwrap();
        assert_eq!(&first_six(socks(proxy, &way, &to).await.unwrap()).await, b"behind");
    }

    fn chosen(url: &str, option: Option<&str>) -> Result<Option<String>, DialError> {
        let options = LinkOptions { proxy: option.map(str::to_owned), ..LinkOptions::default() };
        let to = Target::parse(url, &options).unwrap();
        let environment = || {
            Matcher::builder()
                .http("http://h:1")
                .https("http://s:2")
                .no("inside.example, 10.0.0.0/8, 2001:db8::/32")
                .build()
        };
        Ok(choose(&to, environment)?.map(|proxy| format!("{:?}", place(proxy.uri()))))
    }

    #[test]
    fn which_proxy() {
        let via = |host: &str, port: u16| Some(format!("{:?}", (host, port)));
        let table = [
            ("ws://far", None, via("h", 1)),
            ("wss://far", None, via("s", 2)),
            ("ws://a.inside.example:81", None, None),
            ("ws://10.1.2.3", None, None),
            ("wss://[2001:db8::1]", None, None),
            ("ws://[2001:db9::1]", None, via("h", 1)),
            ("ws://far", Some("none"), None),
            ("ws://far", Some("p:3"), via("p", 3)),
            ("ws://10.1.2.3", Some("http://p:3"), via("p", 3)),
            ("ws://far", Some("http://u:p@[::1]"), via("::1", 80)),
            ("wss://far", Some("socks5://p"), via("p", 1080)),
            ("wss://far", Some("socks5h://p:9"), via("p", 9)),
        ];
        for (url, option, expected) in table {
            assert_eq!(chosen(url, option).unwrap(), expected, "{url} {option:?}");
        }
    }

    #[test]
    fn proxies_refused() {
        for option in ["ftp://p", "https://p", "socks4://p", "http://", "http://a b"] {
            assert!(check(option).unwrap_err().contains("must be http://"), "{option}");
        }
        let far = Target::parse("ws://far", &LinkOptions::default()).unwrap();
        let error = choose(&far, || Matcher::builder().all("socks4://u:hunter2@p:1").build())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("p:1") && error.contains("of the environment") && !error.contains("hunter2"),
            "{error}"
        );
    }
}
