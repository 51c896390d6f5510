//! A WebSocket echo on the codec that carries the switch's links, to be examined by others:
//!
//! * `ws_echo serve ADDR [--tls CERT KEY]` answers every message with itself.
//! * `ws_echo autobahn URL [CACERT]` runs every case of an Autobahn fuzzing server as its client.
//!
//! Messages up to 16 MiB; text is checked to be UTF-8; extensions are declined.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use etherws::ws::codec::{Decoder, Event, Piece, Role, Step, close_body, encode};
use etherws::ws::handshake::{Opening, accept_for, has_token};
use etherws::ws::header::Opcode;
use etherws::ws::mask::Key;
use http::header::{
    CONNECTION, HOST, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const USAGE: &str = "usage: ws_echo serve ADDR [--tls CERT KEY] | ws_echo autobahn URL [CACERT]";
const MAX_MESSAGE: usize = 16 << 20;
const READ: usize = 256 << 10;
/// For the peer's end of the connection after ours.
const LINGER: Duration = Duration::from_secs(2);

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// What an echo is, without its connection.
pub struct Echo {
    decoder: Decoder,
    role: Role,
    keys: StdRng,
    last: Option<Vec<u8>>,
    closed: bool,
}

impl Echo {
    pub fn new(role: Role) -> Self {
        let mut seed = [0; 32];
        rand::rng().fill_bytes(&mut seed);
        let decoder = Decoder::new(role, MAX_MESSAGE).with_text();
        Self { decoder, role, keys: StdRng::from_seed(seed), last: None, closed: false }
    }

    /// Our Close is sent: nothing that comes is looked at any more.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// The last text that came, where it is wanted instead of an echo.
    fn keeping_text(mut self) -> Self {
        self.last = Some(Vec::new());
        self
    }

    /// Appends the answers to every message in `bytes` to `out`; how many bytes are done with. The rest
    /// comes again with more behind it.
    pub fn take(&mut self, bytes: &mut [u8], out: &mut Vec<u8>) -> usize {
        let key = |keys: &mut StdRng| (self.role == Role::Client).then(|| keys.next_u32().to_ne_bytes());
        let mut at = 0;
        while !self.closed {
            let event = match self.decoder.next(&mut bytes[at..]) {
                Ok(Step::More) => return at,
                Ok(Step::Used(used, event)) => {
                    at += used;
                    event
                }
                Err(violation) => {
                    close(out, Some(violation.close_code()), violation.text(), key(&mut self.keys));
                    self.closed = true;
                    break;
                }
            };
            match event {
                Some(Event::Text(payload)) => match &mut self.last {
                    Some(last) => *last = payload.open().to_vec(),
                    None => encode(out, Opcode::Text, &payload.pieces(), key(&mut self.keys), &mut ()),
                },
                Some(Event::Binary(payload)) => {
                    encode(out, Opcode::Binary, &payload.pieces(), key(&mut self.keys), &mut ());
                }
                Some(Event::Ping(payload)) => {
                    encode(out, Opcode::Pong, &payload.pieces(), key(&mut self.keys), &mut ());
                }
                Some(Event::Pong(_)) | None => (),
                Some(Event::Close(code)) => {
                    close(out, code, "", key(&mut self.keys));
                    self.closed = true;
                }
            }
        }
        bytes.len()
    }
}

fn close(out: &mut Vec<u8>, code: Option<u16>, reason: &str, key: Option<Key>) {
    let body = code.map(|code| close_body(code, reason)).unwrap_or_default();
    encode(out, Opcode::Close, &[Piece::from(body.as_slice())], key, &mut ());
}

/// Answers whatever comes until one side closes.
pub async fn converse<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, echo: &mut Echo) -> io::Result<()> {
    let (mut buffer, mut out) = (Vec::new(), Vec::new());
    while !echo.is_closed() {
        buffer.reserve(READ);
        if stream.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
        let done = echo.take(&mut buffer, &mut out);
        // Only what came behind a whole message moves, and once: a long one is never copied here.
        buffer.drain(..done);
        stream.write_all(&out).await?;
        stream.flush().await?;
        out.clear();
    }
    // All is said. What the peer still says must be read, or a reset takes our Close from it; a reset of its
    // own is as good an end as any.
    let rest = async {
        if echo.role == Role::Server {
            stream.shutdown().await?;
        }
        loop {
            buffer.clear();
            if stream.read_buf(&mut buffer).await? == 0 {
                return io::Result::Ok(());
            }
        }
    };
    let _ = timeout(LINGER, rest).await;
    Ok(())
}

/// One connection, from its HTTP request on.
pub async fn serve_one<S>(stream: S) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = hyper::service::service_fn(async |mut request: Request<Incoming>| {
        let fields = request.headers();
        let key = fields.get(SEC_WEBSOCKET_KEY).filter(|_| {
            request.method() == Method::GET
                && request.version() == Version::HTTP_11
                && has_token(fields, &UPGRADE, "websocket")
                && has_token(fields, &CONNECTION, "upgrade")
                && fields.get(SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13")
        });
        let mut response = Response::new(Empty::<Bytes>::new());
        let Some(accept) = key.and_then(|key| accept_for(key.as_bytes()).parse().ok()) else {
            *response.status_mut() = StatusCode::BAD_REQUEST;
            return Ok::<_, Infallible>(response);
        };
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let fields = response.headers_mut();
        fields.insert(UPGRADE, HeaderValue::from_static("websocket"));
        fields.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        fields.insert(SEC_WEBSOCKET_ACCEPT, accept);
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let Ok(upgraded) = upgraded.await else { return };
            // A peer that is gone in the middle is not our failure.
            let _ = converse(&mut TokioIo::new(upgraded), &mut Echo::new(Role::Server)).await;
        });
        Ok(response)
    });
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    Ok(connection.with_upgrades().await?)
}

/// Serves for ever.
pub async fn serve(listener: TcpListener, tls: Option<Arc<rustls::ServerConfig>>) -> Result<Infallible> {
    loop {
        let (stream, peer) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let tls = tls.clone().map(tokio_rustls::TlsAcceptor::from);
        tokio::spawn(async move {
            let served = match tls {
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => serve_one(stream).await,
                    Err(error) => Err(error.into()),
                },
                None => serve_one(stream).await,
            };
            if let Err(error) = served {
                eprintln!("{peer}: {error}");
            }
        });
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A server's TLS from PEM.
pub fn tls(cert: &[u8], key: &[u8]) -> Result<Arc<rustls::ServerConfig>> {
    let certs = CertificateDer::pem_slice_iter(cert).collect::<std::result::Result<Vec<_>, _>>()?;
    let config = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certs, PrivateKeyDer::from_pem_slice(key)?)?;
    Ok(Arc::new(config))
}

/// The client of one Autobahn fuzzing server.
pub struct Client {
    base: Uri,
    pub tls: Option<tokio_rustls::TlsConnector>,
}

impl Client {
    /// `trusted`: certificates in PEM, for wss.
    pub fn new(url: &str, trusted: &[u8]) -> Result<Self> {
        let base: Uri = url.trim_end_matches('/').parse()?;
        let mut roots = rustls::RootCertStore::empty();
        for cert in CertificateDer::pem_slice_iter(trusted) {
            roots.add(cert?)?;
        }
        let tls = match base.scheme_str() {
            Some("ws") => None,
            Some("wss") => Some(
                rustls::ClientConfig::builder_with_provider(provider())
                    .with_safe_default_protocol_versions()?
                    .with_root_certificates(roots)
                    .with_no_client_auth(),
            ),
            _ => return Err(format!("{url:?} is not ws:// or wss://").into()),
        };
        Ok(Self { base, tls: tls.map(|config| Arc::new(config).into()) })
    }

    /// Every case there is, then the report.
    pub async fn run_all(&self) -> Result<usize> {
        let mut counter = Echo::new(Role::Client).keeping_text();
        self.run("/getCaseCount", &mut counter).await?;
        let count = counter.last.and_then(|text| String::from_utf8(text).ok()?.trim().parse().ok());
        let count = count.ok_or("getCaseCount was answered with no number")?;
        for case in 1..=count {
            let path = format!("/runCase?case={case}&agent=etherws");
            // Cases end in many ways; whether rightly is the server's to say.
            if let Err(error) = self.run(&path, &mut Echo::new(Role::Client)).await {
                eprintln!("case {case} of {count}: {error}");
            }
        }
        self.run("/updateReports?agent=etherws", &mut Echo::new(Role::Client)).await?;
        Ok(count)
    }

    async fn run(&self, path: &str, echo: &mut Echo) -> Result<()> {
        let host = self.base.host().ok_or("the URL has no host")?;
        let name = host.trim_matches(['[', ']']);
        let port = self.base.port_u16().unwrap_or(if self.tls.is_some() { 443 } else { 80 });
        let stream = TcpStream::connect((name, port)).await?;
        stream.set_nodelay(true)?;
        match &self.tls {
            Some(tls) => {
                let name = ServerName::try_from(name.to_owned())?;
                self.talk(tls.connect(name, stream).await?, path, echo).await
            }
            None => self.talk(stream, path, echo).await,
        }
    }

    async fn talk<S>(&self, stream: S, path: &str, echo: &mut Echo) -> Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let opening = Opening::new(&[]);
        let authority = self.base.authority().map_or("", |authority| authority.as_str());
        let path = format!("{}{path}", self.base.path().trim_end_matches('/'));
        let mut request = Request::get(path).header(HOST, authority).body(Empty::<Bytes>::new())?;
        opening.write_fields(request.headers_mut());
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection.with_upgrades());
        let mut response = sender.send_request(request).await?;
        opening.check(response.status(), response.version(), response.headers())?;
        let upgraded = hyper::upgrade::on(&mut response).await?;
        connection.await??;
        Ok(converse(&mut TokioIo::new(upgraded), echo).await?)
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", addr, ref rest @ ..] => {
            let tls = match rest {
                [] => None,
                ["--tls", cert, key] => Some(tls(&std::fs::read(cert)?, &std::fs::read(key)?)?),
                _ => return Err(USAGE.into()),
            };
            let listener = TcpListener::bind(addr.parse::<SocketAddr>()?).await?;
            println!("listening on {}", listener.local_addr()?);
            match serve(listener, tls).await? {}
        }
        ["autobahn", url, ref rest @ ..] => {
            let trusted = match rest {
                [] => Vec::new(),
                [file] => std::fs::read(file)?,
                _ => return Err(USAGE.into()),
            };
            println!("{} cases run", Client::new(url, &trusted)?.run_all().await?);
            Ok(())
        }
        _ => Err(USAGE.into()),
    }
}
