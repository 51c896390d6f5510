//! `etherctl watch`: what happens to ports, a line each, for as long as somebody looks. JSON-RPC over
//! WebSocket over the same ways as a call; a switch that went away is asked again until it is back.

use std::io::{self, Write};
use std::time::Duration;

use etherws::control::api::events::{Event, NOTIFICATION, SUBSCRIBE, What};
use etherws::control::api::{ErrorReply, METHOD_NOT_FOUND};
use futures_util::{SinkExt, StreamExt};
use http::Uri;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::{ClientRequestBuilder, Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::Wrong;
use crate::client::{Failure, Stream, TIME_LIMIT, connect, unauthorized};
use crate::prof::places::time_of_day;
use crate::server::Server;
use crate::table::escaped;

/// How long until a switch that did not answer is asked again.
const RETRY: Duration = Duration::from_secs(1);
/// The switch sends a PING every 30 s; silence for longer than two means that it is gone.
const SILENCE: Duration = Duration::from_secs(75);

/// Goes on until nobody reads what it prints, or an error that does not pass.
pub async fn run(mut server: Server, json: bool) -> Result<(), Wrong> {
    let mut subscribed = subscribe(&server).await;
    if let Err(Failure::Unauthorized(_)) = subscribed
        && server.may_prompt()
    {
        server.prompt()?;
        subscribed = subscribe(&server).await;
    }
    let mut socket = subscribed.map_err(|failure| failure.to_string())?;
    loop {
        say(&format!("watching {}", server.url));
        let why = loop {
            match next(&mut socket).await {
                Ok(event) if print(&event, json) => {}
                Ok(_) => return Ok(()),
                Err(why) => break why,
            }
        };
        say(&format!("the switch at {} is gone: {why}, retrying", server.url));
        socket = loop {
            sleep(RETRY).await;
            match subscribe(&server).await {
                Ok(socket) => break socket,
                Err(Failure::Unauthorized(_)) if server.renew_token() => {}
                Err(failure @ (Failure::Unauthorized(_) | Failure::Refused(_))) => {
                    return Err(failure.to_string().into());
                }
                Err(_) => {}
            }
        };
    }
}

type Socket = WebSocketStream<Box<dyn Stream>>;

/// A connection on which events come from now on.
async fn subscribe(server: &Server) -> Result<Socket, Failure> {
    let url = &server.url;
    let late = |_| Failure::Unreachable(format!("could not reach {url}: no answer in time"));
    timeout(TIME_LIMIT, open(server)).await.map_err(late)?
}

async fn open(server: &Server) -> Result<Socket, Failure> {
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
            unauthorized(url, answer.body().as_deref().unwrap_or_default())
        }
        Error::Http(answer) => unexpected(answer.status().as_str()),
        other => Failure::Unreachable(format!("no answer from {url}: {}", escaped(&other.to_string()))),
    })?;
    let ask = json!({"jsonrpc": "2.0", "id": 0, "method": SUBSCRIBE, "params": {}}).to_string();
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
                message: format!("the switch at {url} is too old to be watched"),
                data: None,
            }),
            Ok(reply) => Failure::Refused(reply),
            Err(e) => unexpected(&e.to_string()),
        }),
    }
}

/// The next event, or why there is none.
async fn next(socket: &mut Socket) -> Result<Event, String> {
    loop {
        let text = text(socket).await?;
        let told: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
        if told["method"] == NOTIFICATION {
            let event = told["params"]["result"].clone();
            // A newer switch may tell what is not known here.
            if let Ok(event) = serde_json::from_value(event) {
                return Ok(event);
            }
        }
    }
}

/// The next text message. PINGs are answered on the way.
async fn text(socket: &mut Socket) -> Result<String, String> {
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

/// `false` when nobody reads any more.
fn print(event: &Event, json: bool) -> bool {
    let line = if json { serde_json::to_string(event).unwrap_or_default() } else { line(event) };
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).is_ok()
}

/// `23:59:59.999 2 (far) loop-blocked: loop with port 1 (near)`, UTC.
fn line(event: &Event) -> String {
    let Event { unix_ms, event, port, name, text } = event;
    let time = time_of_day(unix_ms.saturating_mul(1_000_000));
    let port = match *event {
        What::Missed => String::new(),
        _ => format!(" {port} ({})", escaped(name)),
    };
    let text = if text.is_empty() { String::new() } else { format!(": {}", escaped(text)) };
    // Milliseconds are all that there is.
    format!("{}{port} {event}{text}", &time[..time.len() - 3])
}

fn say(text: &str) {
    // Nowhere is left to say that stderr is gone.
    let _ = writeln!(io::stderr(), "etherctl: {text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_line_whatever_its_words() {
        let event = |what, text: &str| Event {
            unix_ms: 86_399_999,
            event: what,
            port: 2,
            name: "far\n".to_owned(),
            text: text.to_owned(),
        };
        let blocked = line(&event(What::LoopBlocked, "loop\x1b[2J"));
        assert_eq!(blocked, "23:59:59.999 2 (far\\u{a}) loop-blocked: loop\\u{1b}[2J");
        assert_eq!(line(&event(What::Missed, "")), "23:59:59.999 missed");
    }
}
