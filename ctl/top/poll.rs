//! The network's side of a viewer: it holds a lease, fetches snapshots and sends them on. Nothing here
//! waits for the screen, and the screen waits for nothing here.

use std::cell::RefCell;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use etherws::control::api::prof::{LeaseProf, Leased, ShowProf, Since};
use etherws::control::api::{ErrorReply, Method};
use etherws::prof::snapshot::{FORMAT, Level, Snapshot, VERSION};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, oneshot};
use tokio::time::{sleep, timeout};

use crate::Wrong;
use crate::client::{Failure, TIME_LIMIT, call};
use crate::commands::Request;
use crate::server::Server;
use crate::table::escaped;
use crate::top::screen::{Endings, Event};

/// How long a lease lasts, how often it is renewed, and how long giving it back may take.
const TTL_MS: u32 = 2_000;
const RENEWAL: Duration = Duration::from_millis(600);
const FAREWELL: Duration = Duration::from_millis(500);
/// How long an answer may take; a lease is lost before.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long until a switch that did not answer is asked again, at most.
const RETRY: Duration = Duration::from_secs(1);

/// What comes of asking.
#[derive(Debug)]
pub enum News {
    Snapshot(Box<Snapshot>),
    /// What is wrong, and will perhaps be right again.
    Trouble(String),
    /// What will not.
    Fatal(String),
}

/// A switch that is looked at.
pub struct Viewer {
    server: Server,
    /// The lease and since when, or why the switch grants none; nothing: it could not be asked.
    lease: RefCell<Result<(u64, Instant), Option<String>>>,
    /// It can be asked again.
    back: Notify,
}

impl Viewer {
    /// The first contact: a lease and a snapshot. A user and password are asked for, once, when the switch
    /// wants them and a person is there.
    pub async fn start(mut server: Server) -> Result<(Self, Snapshot), Wrong> {
        let mut leased = lease(&server, None, TTL_MS).await;
        if let Err(Failure::Unauthorized(_)) = leased
            && server.may_prompt()
        {
            server.prompt()?;
            leased = lease(&server, None, TTL_MS).await;
        }
        let leased = leased.map_err(|failure| final_text(&server, &failure))?;
        let snapshot = show(&server).await.map_err(|failure| final_text(&server, &failure))?;
        Ok((
            Self { server, lease: RefCell::new(Ok((leased, Instant::now()))), back: Notify::new() },
            snapshot,
        ))
    }

    pub fn url(&self) -> String {
        self.server.url.to_string()
    }

    /// Looks once more after `time`, the lease being renewed meanwhile.
    pub async fn look_again(&self, time: Duration) -> Result<Snapshot, Wrong> {
        let result = tokio::select! {
            failure = self.renew() => Err(failure),
            snapshot = async { sleep(time).await; show(&self.server).await } => snapshot,
        };
        Ok(result.map_err(|failure| final_text(&self.server, &failure))?)
    }

    /// Sends snapshots every `interval`, and signals, until `stop`; then gives the lease back.
    pub async fn run(
        self,
        interval: Duration,
        to: Sender<Event<News>>,
        mut endings: Endings,
        stop: oneshot::Receiver<()>,
    ) {
        let signals = async {
            loop {
                let _ = to.send(Event::Ended(endings.next().await));
            }
        };
        tokio::select! {
            _ = stop => {}
            () = signals => {}
            failure = async {
                tokio::select! {
                    failure = self.renew() => failure,
                    failure = self.watch(interval, &to) => failure,
                }
            } => {
                let _ = to.send(Event::News(News::Fatal(final_text(&self.server, &failure))));
                // Signals are of no interest any more: the screen is on its way out.
            }
        }
        self.leave().await;
    }

    /// Until something is the matter that will not pass.
    async fn watch(&self, interval: Duration, to: &Sender<Event<News>>) -> Failure {
        let send = |news| {
            let _ = to.send(Event::News(news));
        };
        let mut age = 0;
        loop {
            let answer = patiently(show(&self.server)).await;
            let pause = match answer {
                Ok(snapshot) => {
                    let restarted = snapshot.elapsed_ns < age;
                    age = snapshot.elapsed_ns;
                    if restarted && self.lease_age() > Duration::from_nanos(age) {
                        // Another daemon, so soon that nothing was noticed: the lease is none of its own.
                        *self.lease.borrow_mut() = Err(None);
                    }
                    send(News::Snapshot(Box::new(snapshot)));
                    match &*self.lease.borrow() {
                        Ok(_) => {}
                        Err(Some(why)) => send(News::Trouble(why.clone())),
                        Err(None) => self.back.notify_one(),
                    }
                    interval
                }
                Err(failure) if is_final(&failure) => return failure,
                Err(failure) => {
                    if let Failure::Unreachable(_) = failure {
                        // It may come back as another, whose leases are not ours.
                        *self.lease.borrow_mut() = Err(None);
                    }
                    send(News::Trouble(passing_text(&self.server, &failure)));
                    interval.min(RETRY)
                }
            };
            sleep(pause).await;
        }
    }

    /// Until something is the matter that will not pass.
    async fn renew(&self) -> Failure {
        loop {
            let _ = timeout(RENEWAL, self.back.notified()).await;
            let known = self.known();
            let answer = match patiently(lease(&self.server, known, TTL_MS)).await {
                Err(failure) if is_final(&failure) => return failure,
                Ok(number) if Some(number) == known => continue,
                answer => answer.map(|number| (number, Instant::now())).map_err(|failure| {
                    matches!(failure, Failure::Refused(_)).then(|| passing_text(&self.server, &failure))
                }),
            };
            *self.lease.borrow_mut() = answer;
        }
    }

    fn known(&self) -> Option<u64> {
        self.lease.borrow().as_ref().ok().map(|(number, _)| *number)
    }

    fn lease_age(&self) -> Duration {
        self.lease.borrow().as_ref().map_or(Duration::ZERO, |(_, since)| since.elapsed())
    }

    /// Gives the lease back.
    pub async fn leave(&self) {
        let known = self.known();
        if known.is_some() {
            // One that is not given back runs out by itself.
            let _ = timeout(FAREWELL, lease(&self.server, known, 0)).await;
        }
    }
}

async fn patiently<T>(answer: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    timeout(PATIENCE, answer).await.unwrap_or_else(|_| {
        Err(Failure::Unreachable(format!("no answer within {} seconds", PATIENCE.as_secs())))
    })
}

async fn lease(server: &Server, lease: Option<u64>, ttl_ms: u32) -> Result<u64, Failure> {
    let params = LeaseProf { lease, level: Some(Level::Stage), ttl_ms: Some(ttl_ms), ..LeaseProf::default() };
    Ok(ask::<Leased>(server, Method::LeaseProf, &params).await?.lease)
}

async fn show(server: &Server) -> Result<Snapshot, Failure> {
    // Not since the last reset: another viewer's zero is not this one's.
    let snapshot: Snapshot = ask(server, Method::ShowProf, &ShowProf { since: Since::Start }).await?;
    if snapshot.format != FORMAT || snapshot.version > VERSION {
        let why = format!(
            "the snapshot of {} is of a kind not known here ({:?}, version {})",
            server.url, snapshot.format, snapshot.version
        );
        return Err(Failure::Unexpected(why));
    }
    Ok(snapshot)
}

async fn ask<T: DeserializeOwned>(
    server: &Server,
    method: Method,
    params: &impl Serialize,
) -> Result<T, Failure> {
    let unexpected = |e: &dyn std::fmt::Display| {
        Failure::Unexpected(format!("unexpected answer from {}: {}", server.url, escaped(&e.to_string())))
    };
    let params = serde_json::to_value(params).map_err(|e| unexpected(&e))?;
    let result = call(server, &Request { method, params: Some(params) }, TIME_LIMIT).await?;
    serde_path_to_error::deserialize(result).map_err(|e| unexpected(&e))
}

/// Whether asking again is of no use.
fn is_final(failure: &Failure) -> bool {
    matches!(failure, Failure::Unauthorized(_)) || is_too_old(failure)
}

fn is_too_old(failure: &Failure) -> bool {
    const METHOD_NOT_FOUND: i64 = -32601;
    matches!(failure, Failure::Refused(ErrorReply { code, .. }) if i64::from(*code) == METHOD_NOT_FOUND)
}

fn final_text(server: &Server, failure: &Failure) -> String {
    match is_too_old(failure) {
        true => format!("the switch at {} is too old for the profiler (it has no showProf)", server.url),
        false => failure.to_string(),
    }
}

/// For a line on the screen: what the URL and the hints for the first contact are left out of.
fn passing_text(server: &Server, failure: &Failure) -> String {
    let (url, text) = (&server.url, failure.to_string());
    if let Failure::Refused(_) = failure {
        return format!("the switch at {url} refuses: {text}, retrying");
    }
    let why = ["could not reach ", "no answer from ", "unexpected answer from "]
        .iter()
        .find_map(|start| text.strip_prefix(&format!("{start}{url}: ")))
        .unwrap_or(&text);
    let why = why.split("; ").next().unwrap_or(why);
    format!("the switch at {url} does not answer: {why}, retrying")
}
