//! JSON-RPC 2.0 over HTTP POST, one request a connection, over a Unix socket, TCP or TLS. Reaching the
//! server is given [`TIME_LIMIT`], and mostly so is its answer.

use std::fmt;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use etherws::control::api::{self, ErrorReply};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use http::request::Builder;
use http::{Request as HttpRequest, Response as HttpResponse, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::commands::Request;
use crate::server::{Server, Url};
use crate::table::{escaped, escaped_lines};

pub const TIME_LIMIT: Duration = Duration::from_secs(10);
/// More than any listing takes.
const REPLY_LIMIT: usize = 256 << 20;

/// Why there is no result. Display is one line, or a few, safe to print.
#[derive(Debug)]
pub enum Failure {
    /// No connection, or one that broke.
    Unreachable(String),
    /// 401, with what the server says about it.
    Unauthorized(String),
    /// An answer that is no JSON-RPC.
    Unexpected(String),
    /// The switch says no.
    Refused(ErrorReply),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(text) | Self::Unauthorized(text) | Self::Unexpected(text) => f.write_str(text),
            Self::Refused(ErrorReply { code, message, data }) => {
                let data = match data {
                    Some(Value::String(text)) => text.clone(),
                    Some(value) => value.to_string(),
                    None => String::new(),
                };
                match data.as_str() {
                    "" => write!(f, "{} ({code})", escaped(message)),
                    // Ours repeat themselves for clients that look at one of the two only.
                    data if data == message => write!(f, "{} ({code})", escaped_lines(data)),
                    data => write!(f, "{}: {} ({code})", escaped(message), escaped_lines(data)),
                }
            }
        }
    }
}

/// Asks `server`; the `result` of its reply, which may take `limit`.
pub async fn call(server: &Server, request: &Request, limit: Duration) -> Result<Value, Failure> {
    let url = &server.url;
    let late = |what: &str, limit: Duration| {
        Failure::Unreachable(format!("could not reach {url}: {what} within {} seconds", limit.as_secs()))
    };
    let stream =
        timeout(TIME_LIMIT, connect(server)).await.map_err(|_| late("no connection", TIME_LIMIT))??;
    timeout(limit, exchange(server, request, stream)).await.map_err(|_| late("no answer", limit))?
}

pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

pub async fn connect(server: &Server) -> Result<Box<dyn Stream>, Failure> {
    let unreachable = |e: io::Error| {
        let hint = match e.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                "; is `etherws sw` running? (--ctlurl names another)"
            }
            io::ErrorKind::PermissionDenied => {
                "; root and the socket's group may use it (usermod -aG etherws NAME, then log in again)"
            }
            // The resolver's own errors have no kind.
            _ if e.to_string().contains("lookup") => "; is the host's name right, and does it resolve here?",
            _ => "",
        };
        Failure::Unreachable(format!("could not reach {}: {}{hint}", server.url, io_text(&e)))
    };
    match &server.url {
        Url::Unix(path) => Ok(Box::new(UnixStream::connect(path).await.map_err(unreachable)?)),
        Url::Tcp { tls, host, port, .. } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(unreachable)?;
            if !tls {
                return Ok(Box::new(stream));
            }
            let stream =
                api::secure(&server.url.authority(), server.trust_file.as_deref(), server.insecure, stream)
                    .await
                    .map_err(|why| {
                        Failure::Unreachable(format!("could not reach {}: {}", server.url, escaped(&why)))
                    })?;
            Ok(Box::new(stream))
        }
    }
}

async fn exchange(server: &Server, request: &Request, stream: Box<dyn Stream>) -> Result<Value, Failure> {
    let url = &server.url;
    let mut body = json!({"jsonrpc": "2.0", "id": 0, "method": request.method.name()});
    // 1.3 knows listing methods without parameters only.
    if let Some(params) = &request.params {
        body["params"] = params.clone();
    }
    let post = HttpRequest::post(url.path()).header(CONTENT_TYPE, "application/json");
    let response = send_over(server, post, Full::new(body.to_string().into()), stream).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), REPLY_LIMIT)
        .collect()
        .await
        .map_err(|e| broken(url, &e))?
        .to_bytes();
    reply(server, status, &body)
}

/// Sends a request, whatever its path, to where `server` takes calls; the answer as it comes.
pub async fn send(
    server: &Server,
    request: Builder,
    body: Full<Bytes>,
) -> Result<HttpResponse<Incoming>, Failure> {
    let late = |_| Failure::Unreachable(format!("could not reach {}: no connection in time", server.url));
    let stream = timeout(TIME_LIMIT, connect(server)).await.map_err(late)??;
    send_over(server, request.uri(server.url.path()), body, stream).await
}

async fn send_over(
    server: &Server,
    request: Builder,
    body: Full<Bytes>,
    stream: Box<dyn Stream>,
) -> Result<HttpResponse<Incoming>, Failure> {
    let url = &server.url;
    let mut request = request
        .header(HOST, url.authority())
        .header(USER_AGENT, concat!("etherctl/", env!("CARGO_PKG_VERSION")));
    if let Some(authorization) = server.authorization() {
        request = request.header(AUTHORIZATION, authorization);
    }
    let request = request
        .body(body)
        .map_err(|e| Failure::Unexpected(format!("no request can be made to {url}: {e}")))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| broken(url, &e))?;
    tokio::spawn(connection.with_upgrades());
    sender.send_request(request).await.map_err(|e| match url {
        Url::Tcp { tls: false, .. } if e.is_parse() => {
            broken(url, &"what came is not HTTP (is it https:// there?)")
        }
        _ => broken(url, &e),
    })
}

fn broken(url: &Url, e: &dyn fmt::Display) -> Failure {
    Failure::Unreachable(format!("no answer from {url}: {}", escaped(&e.to_string())))
}

fn reply(server: &Server, status: StatusCode, body: &[u8]) -> Result<Value, Failure> {
    if status == StatusCode::UNAUTHORIZED {
        return Err(unauthorized(server, body));
    }
    let url = &server.url;
    let unexpected = || {
        let said = said(body).map(|said| format!(": {said}")).unwrap_or_default();
        let hint = if status == StatusCode::NOT_FOUND { " (is the path right?)" } else { "" };
        Failure::Unexpected(format!("unexpected answer from {url}: {status}{said}{hint}"))
    };
    let reply: Value = serde_json::from_slice(body).map_err(|_| unexpected())?;
    match (reply.get("error"), reply.get("result")) {
        (Some(error), _) if !error.is_null() => {
            Err(serde_json::from_value(error.clone()).map_or_else(|_| unexpected(), Failure::Refused))
        }
        (_, Some(result)) if status.is_success() => Ok(result.clone()),
        _ => Err(unexpected()),
    }
}

/// What a 401 means, and says.
pub fn unauthorized(server: &Server, body: &[u8]) -> Failure {
    let mut text = match server.is_user() {
        true => format!("{} does not take this user and password", server.url),
        false => format!("{} wants a user and a password (--ctluser and --ctlpasswd)", server.url),
    };
    if let Some(said) = said(body) {
        text.push_str(&format!("; it says: {said}"));
    }
    Failure::Unauthorized(text)
}

/// The first line of an answer that is not for us, for people; nothing of a page of HTML.
fn said(body: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(&body[..body.len().min(1024)]);
    let line: String = escaped(text.trim().lines().next()?).chars().take(400).collect();
    (!line.is_empty() && !line.starts_with('<')).then_some(line)
}

/// The kernel's words without Rust's "(os error 2)", in lower case.
pub fn io_text(e: &io::Error) -> String {
    let text = match e.raw_os_error() {
        Some(errno) => nix::errno::Errno::from_raw(errno).desc().to_owned(),
        None => escaped(&e.to_string()),
    };
    let mut rest = text.chars();
    // An acronym keeps its capitals.
    match (rest.next(), rest.clone().next()) {
        (Some(first), Some(second)) if second.is_lowercase() => {
            format!("{}{}", first.to_lowercase(), rest.as_str())
        }
        _ => text,
    }
}
