//! A subscription: JSON-RPC over WebSocket over the same ways as a call.

use std::time::Duration;

use etherws::control::api::{ErrorReply, METHOD_NOT_FOUND};
use futures_util::{SinkExt, StreamExt};
use http::Uri;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{ClientRequestBuilder, Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::client::{Failure, Stream, TIME_LIMIT, connect, unauthorized};
use crate::progress;
use crate::server::Server;
use crate::table::escaped;

/// The switch sends a PING every 30 s; silence for longer than two means that it is gone.
const SILENCE: Duration = Duration::from_secs(75);

/// A connection on which notifications come.
pub struct Subscription {
    socket: WebSocketStream<Box<dyn Stream>>,
    notification: &'static str,
}

impl Subscription {
    /// Calls `method`; `notification` is what then comes. `what` names it to people whose switch is too old for it.
    pub async fn open(
        server: &Server,
        (method, notification): (&str, &'static str),
        params: &impl Serialize,
        what: &str,
    ) -> Result<Self, Failure> {
        let url = &server.url;
        let late = |_| Failure::Unreachable(format!("could not reach {url}: no answer in time"));
        let params = serde_json::to_value(params)
            .map_err(|e| Failure::Unexpected(format!("not expressible in JSON: {e}")))?;
        let ask = json!({"jsonrpc": "2.0", "id": 0, "method": method, "params": params}).to_string();
        let waiting = |seconds| format!("waiting for {url}: {seconds} s of at most {}", TIME_LIMIT.as_secs());
        let asked = timeout(TIME_LIMIT, ask_for(server, ask, what));
        let socket = progress::shown(waiting, asked).await.map_err(late)??;
        Ok(Self { socket, notification })
    }

    /// The result of the next notification, or why there is none.
    pub async fn next(&mut self) -> Result<Value, String> {
        loop {
            let text = text(&mut self.socket).await?;
            let mut told: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
            if told["method"] == self.notification {
                return Ok(told["params"]["result"].take());
            }
        }
    }
}

async fn ask_for(
    server: &Server,
    ask: String,
    what: &str,
) -> Result<WebSocketStream<Box<dyn Stream>>, Failure> {
    let url = &server.url;
    let unexpected =
        |why: &str| Failure::Unexpected(format!("unexpected answer from {url}: {}", escaped(why)));
    let stream = connect(server).await?;
    let uri: Uri = format!("ws://{}{}", url.authority(), url.path())
        .parse()
        .map_err(|e| Failure::Unexpected(format!("no request can be made to {url}: {e}")))?;
    let mut request = ClientRequestBuilder::new(uri);
    if let Some(authorization) = server.authorization() {
        request = request.with_header("Authorization", authorization);
    }
    let (mut socket, _) = client_async(request, stream).await.map_err(|e| match e {
        Error::Http(answer) if answer.status() == http::StatusCode::UNAUTHORIZED => {
            unauthorized(server, answer.body().as_deref().unwrap_or_default())
        }
        Error::Http(answer) => unexpected(answer.status().as_str()),
        other => Failure::Unreachable(format!("no answer from {url}: {}", escaped(&other.to_string()))),
    })?;
    socket.send(Message::from(ask)).await.map_err(|e| unexpected(&e.to_string()))?;
    // Nothing is told before the answer.
    let answer = text(&mut socket).await.map_err(|why| unexpected(&why))?;
    let answer: Value = serde_json::from_str(&answer).map_err(|e| unexpected(&e.to_string()))?;
    match answer.get("error") {
        None if answer.get("result").is_some() => Ok(socket),
        None => Err(unexpected("no result")),
        Some(error) => Err(match serde_json::from_value::<ErrorReply>(error.clone()) {
            Ok(ErrorReply { code: METHOD_NOT_FOUND, .. }) => Failure::Refused(ErrorReply {
                code: METHOD_NOT_FOUND,
                message: format!("the switch at {url} is too old {what}"),
                data: None,
            }),
            Ok(reply) => Failure::Refused(reply),
            Err(e) => unexpected(&e.to_string()),
        }),
    }
}

/// The next text message. PINGs are answered on the way.
async fn text(socket: &mut WebSocketStream<Box<dyn Stream>>) -> Result<String, String> {
    loop {
        let message = timeout(SILENCE, socket.next()).await.map_err(|_| "it is silent".to_owned())?;
        match message {
            Some(Ok(Message::Text(text))) => return Ok(text.to_string()),
            Some(Ok(_)) => {}
            Some(Err(e)) => return Err(escaped(&e.to_string())),
            None => return Err("the connection ended".to_owned()),
        }
    }
}
