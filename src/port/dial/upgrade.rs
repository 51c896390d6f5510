//! One HTTP/1.1 request that turns its connection into something else: CONNECT to a proxy, GET with
//! `Upgrade: websocket` to a server. hyper speaks it; what it read behind the answer comes back out.

use std::error::Error;
use std::io;

use bytes::Bytes;
use http::response::Parts;
use http::{Request, Response};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::trust;

/// An answer and, when it was a 101 or a 2xx to CONNECT, the connection and the bytes read beyond it.
pub(super) struct Exchange<T> {
    pub answer: Parts,
    pub taken: Option<(T, Bytes)>,
}

/// Sends the request and reads the head of the answer, at most [`HEAD_LIMIT`] of it. The error says what
/// went wrong, as the reason behind "HTTP with HOST:PORT failed".
pub(super) async fn exchange<T>(io: T, request: Request<Empty<Bytes>>) -> Result<Exchange<T>, String>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_LIMIT)
        .max_headers(MAX_FIELDS)
        // `Sec-Websocket-Key` rather than `sec-websocket-key`: some old servers compare by case.
        .title_case_headers(true)
        .handshake(TokioIo::new(io))
        .await
        .map_err(|error| explained(&error))?;
    // The connection is polled here, not spawned: a dial that is dropped leaves nothing running.
    let connection = connection.with_upgrades();
    let broken = async {
        match connection.await {
            Err(error) => explained(&error),
            Ok(()) => std::future::pending().await,
        }
    };
    let answered = async {
        let mut response = sender.send_request(request).await.map_err(|error| explained(&error))?;
        let taken = if switches(&response) {
            let upgraded = hyper::upgrade::on(&mut response).await.map_err(|error| explained(&error))?;
            let parts =
                upgraded.downcast::<TokioIo<T>>().map_err(|_| "the connection was replaced".to_owned())?;
            Some((parts.io.into_inner(), parts.read_buf))
        } else {
            None
        };
        Ok(Exchange { answer: response.into_parts().0, taken })
    };
    tokio::select! {
        biased;
        outcome = answered => outcome,
        reason = broken => Err(reason),
    }
}

/// Whether hyper hands the connection over: it marks such answers itself.
fn switches(response: &Response<Incoming>) -> bool {
    response.extensions().get::<hyper::upgrade::OnUpgrade>().is_some()
}

fn explained(error: &hyper::Error) -> String {
    if error.is_parse_too_large() {
        return format!("the answer's head is longer than {} KiB or {MAX_FIELDS} fields", HEAD_LIMIT >> 10);
    }
    if error.is_parse() {
        return NOT_HTTP.to_owned();
    }
    if error.is_canceled() {
        return "the peer spoke before it was asked, or closed the connection".to_owned();
    }
    if error.is_incomplete_message() || error.is_closed() {
        return "the peer closed the connection without an answer".to_owned();
    }
    match error.source().and_then(|source| source.downcast_ref::<io::Error>()) {
        Some(error) => trust::explained(error),
        None => error.to_string(),
    }
}

/// What came was no answer at all.
pub(super) const NOT_HTTP: &str = "the answer is not HTTP/1.1";
/// The longest head of an answer.
const HEAD_LIMIT: usize = 16 << 10;
/// The most fields in it.
const MAX_FIELDS: usize = 64;
