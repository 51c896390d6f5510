//! Calls and subscriptions of the page, handed on to the switch with this etherctl's credentials. What the
//! switch says goes back as it is; of who asks it hears nothing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use etherws::control::api::dashboard::{Reply, closing, text};
use http::header::{CONNECTION, CONTENT_TYPE, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY};
use http::header::{SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::request::Builder;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::upgrade::on;
use hyper_util::rt::TokioIo;
use jsonrpsee::server::HttpBody;

use super::say;
use crate::client::{self, Failure, unauthorized};
use crate::server::Server;

/// The way to the switch.
pub struct Proxy {
    server: Mutex<Server>,
    reached: AtomicBool,
}

impl Proxy {
    pub fn new(server: Server) -> Self {
        Self { server: Mutex::new(server), reached: AtomicBool::new(true) }
    }

    pub fn url(&self) -> String {
        self.server().url.to_string()
    }

    /// Hands a request on. `protocol` is the subprotocol that a WebSocket is to be answered with.
    pub async fn answer(&self, request: Request<Incoming>, protocol: Option<String>) -> Reply {
        let answer = match *request.method() {
            Method::POST => self.call(request).await,
            Method::GET if request.headers().contains_key(SEC_WEBSOCKET_KEY) => {
                self.subscribe(request, protocol).await
            }
            _ => return closing(text(StatusCode::METHOD_NOT_ALLOWED, "JSON-RPC is POST, or WebSocket")),
        };
        self.tell(answer.as_ref().err());
        answer.unwrap_or_else(|failure| text(StatusCode::BAD_GATEWAY, failure.to_string()))
    }

    async fn call(&self, request: Request<Incoming>) -> Result<Reply, Failure> {
        let kind = request.headers().get(CONTENT_TYPE).cloned();
        let body = match Limited::new(request.into_body(), MAX_BODY).collect().await {
            Ok(body) => body.to_bytes(),
            Err(_) => {
                return Ok(closing(text(StatusCode::PAYLOAD_TOO_LARGE, "the body is broken, or too large")));
            }
        };
        let kind = kind.unwrap_or(HeaderValue::from_static("text/plain"));
        let answer = self.ask(|| Request::post("/").header(CONTENT_TYPE, &kind), &body).await?;
        let (parts, body) = answer.into_parts();
        let mut reply = Response::new(HttpBody::new(body));
        *reply.status_mut() = parts.status;
        if let Some(kind) = parts.headers.get(CONTENT_TYPE) {
            reply.headers_mut().insert(CONTENT_TYPE, kind.clone());
        }
        Ok(reply)
    }

    /// Two handshakes with one key, and then bytes both ways until either side ends.
    async fn subscribe(
        &self,
        mut request: Request<Incoming>,
        protocol: Option<String>,
    ) -> Result<Reply, Failure> {
        let (page, key) = (on(&mut request), request.headers()[SEC_WEBSOCKET_KEY].clone());
        let ask = || {
            Request::get("/")
                .header(CONNECTION, "Upgrade")
                .header(UPGRADE, "websocket")
                .header(SEC_WEBSOCKET_VERSION, "13")
                .header(SEC_WEBSOCKET_KEY, &key)
        };
        let mut answer = self.ask(ask, &Bytes::new()).await?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            let why = format!("unexpected answer from {}: {}", self.url(), answer.status());
            return Err(Failure::Unexpected(why));
        }
        let switch = on(&mut answer);
        let mut reply = Response::new(HttpBody::empty());
        *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = reply.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        if let Some(accept) = answer.headers().get(SEC_WEBSOCKET_ACCEPT) {
            headers.insert(SEC_WEBSOCKET_ACCEPT, accept.clone());
        }
        if let Some(protocol) = protocol.and_then(|protocol| HeaderValue::from_str(&protocol).ok()) {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        tokio::spawn(async move {
            let (Ok(page), Ok(switch)) = tokio::join!(page, switch) else { return };
            // Either end may just go.
            let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(page), &mut TokioIo::new(switch)).await;
        });
        Ok(reply)
    }

    /// Asks the switch, and once more with the token of one that was started again.
    async fn ask(&self, request: impl Fn() -> Builder, body: &Bytes) -> Result<Response<Incoming>, Failure> {
        let server = self.server();
        let answer = client::send(&server, request(), Full::new(body.clone())).await?;
        if answer.status() != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        let renewed = {
            let mut now = self.server.lock().unwrap_or_else(PoisonError::into_inner);
            // Of requests at a time the first one renews it for all.
            (now.renew_token() || now.authorization() != server.authorization()).then(|| now.clone())
        };
        if let Some(server) = renewed {
            let answer = client::send(&server, request(), Full::new(body.clone())).await?;
            if answer.status() != StatusCode::UNAUTHORIZED {
                return Ok(answer);
            }
        }
        // Never the browser's business: it would ask for a password that it has no use for.
        let said = Limited::new(answer.into_body(), MAX_BODY).collect().await;
        Err(unauthorized(&server, &said.map(|body| body.to_bytes()).unwrap_or_default()))
    }

    /// Says when the switch goes, and when it is back.
    fn tell(&self, failure: Option<&Failure>) {
        match failure {
            Some(Failure::Unreachable(why)) if self.reached.swap(false, Ordering::Relaxed) => {
                say(&format!("the switch is gone: {why}"));
            }
            None if !self.reached.swap(true, Ordering::Relaxed) => {
                say(&format!("the switch at {} is back", self.url()));
            }
            _ => {}
        }
    }

    fn server(&self) -> Server {
        self.server.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// As much as the switch takes, unless it was told otherwise.
const MAX_BODY: usize = 1 << 20;
