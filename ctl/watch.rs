//! `etherctl watch`: what happens to ports, a line each, for as long as somebody looks. A switch that went away is
//! asked again until it is back.

use std::io::{self, Write};
use std::time::Duration;

use etherws::control::api::events::{Event, NOTIFICATION, SUBSCRIBE, SubscribeEvents, What};
use tokio::time::sleep;

use crate::Wrong;
use crate::client::Failure;
use crate::prof::places::time_of_day;
use crate::server::Server;
use crate::subscription::Subscription;
use crate::table::escaped;

/// How long until a switch that did not answer is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// Goes on until nobody reads what it prints, or an error that does not pass.
pub async fn run(mut server: Server, json: bool) -> Result<(), Wrong> {
    let mut subscribed = subscribe(&server).await;
    if let Err(Failure::Unauthorized(_)) = subscribed
        && server.may_prompt()
    {
        server.prompt()?;
        subscribed = subscribe(&server).await;
    }
    let mut subscription = subscribed.map_err(|failure| failure.to_string())?;
    loop {
        say(&format!("watching {}", server.url));
        let why = loop {
            match next(&mut subscription).await {
                Ok(event) if print(&event, json) => {}
                Ok(_) => return Ok(()),
                Err(why) => break why,
            }
        };
        say(&format!("the switch at {} is gone: {why}, retrying", server.url));
        subscription = loop {
            sleep(RETRY).await;
            match subscribe(&server).await {
                Ok(again) => break again,
                Err(Failure::Unauthorized(_)) if server.renew_token() => {}
                Err(failure @ (Failure::Unauthorized(_) | Failure::Refused(_))) => {
                    return Err(failure.to_string().into());
                }
                Err(_) => {}
            }
        };
    }
}

/// Events from now on.
async fn subscribe(server: &Server) -> Result<Subscription, Failure> {
    Subscription::open(server, (SUBSCRIBE, NOTIFICATION), &SubscribeEvents {}, "to be watched").await
}

/// The next event, or why there is none.
async fn next(subscription: &mut Subscription) -> Result<Event, String> {
    loop {
        // A newer switch may tell what is not known here.
        if let Ok(event) = serde_json::from_value(subscription.next().await?) {
            return Ok(event);
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
