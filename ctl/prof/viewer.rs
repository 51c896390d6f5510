//! Looks at a switch for a while, under a lease: what is measured because of us is measured no longer than
//! we look, even if we die.

use std::time::Duration;

use etherws::control::api::prof::{Clock, LeaseProf, Leased, Level, ProfStatus, ShowProf, Since, Snapshot};
use etherws::control::api::{METHOD_NOT_FOUND, Method};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};

use super::args::{How, Look};
use crate::client::{self, Failure};
use crate::commands::{self, Request};
use crate::progress;
use crate::server::Server;
use crate::table::escaped;

/// A lease lasts so long without us.
const TTL_MS: u32 = 2_000;
const RENEW: Duration = Duration::from_millis(700);
/// `show` without --interval, when nobody said `start`.
pub const SHORT_LOOK: Duration = Duration::from_secs(2);

/// A switch that is asked about its profiler.
pub struct Switch {
    pub server: Server,
}

impl Switch {
    /// The answer within the usual time.
    pub async fn ask<T: DeserializeOwned>(
        &mut self,
        method: Method,
        params: &impl Serialize,
    ) -> Result<T, String> {
        self.ask_within(method, params, client::TIME_LIMIT).await
    }

    pub async fn ask_within<T: DeserializeOwned>(
        &mut self,
        method: Method,
        params: &impl Serialize,
        limit: Duration,
    ) -> Result<T, String> {
        let params = serde_json::to_value(params).map_err(|e| format!("not expressible in JSON: {e}"))?;
        let request = Request { method, params: (!params.is_null()).then_some(params) };
        match crate::ask(&mut self.server, &request, limit).await {
            Ok(result) => commands::read(result),
            Err(Failure::Refused(error)) if error.code == METHOD_NOT_FOUND => Err(format!(
                "the switch at {} is too old for the profiler (it has no {})",
                self.server.url,
                method.name().rsplit('.').next().unwrap_or("")
            )),
            Err(failure) => Err(failure.to_string()),
        }
    }

    pub async fn status(&mut self) -> Result<ProfStatus, String> {
        self.ask(Method::GetProf, &()).await
    }

    pub async fn snapshot(&mut self, since: Since) -> Result<Snapshot, String> {
        let snapshot: Snapshot = self.ask(Method::ShowProf, &ShowProf { since }).await?;
        match snapshot.version {
            0..=etherws::prof::snapshot::VERSION => Ok(snapshot),
            version => Err(format!(
                "the switch at {} is newer than this etherctl (snapshots of version {version})",
                escaped(&self.server.url.to_string())
            )),
        }
    }

    /// What `look` asks for; and how it came about, if not by its being asked for.
    pub async fn look(&mut self, look: &Look) -> Result<(Snapshot, Option<String>), String> {
        if let Some(interval) = look.interval {
            return Ok((self.watch(interval, Level::Stage, look.how).await?, None));
        }
        let status = self.status().await?;
        let same = |wanted: Option<Clock>| wanted.is_none_or(|clock| clock == status.clock);
        let finer = look.how.sample.is_some_and(|sample| sample != status.sample);
        if status.base >= Level::Stage && same(look.how.clock) && !finer {
            return Ok((self.snapshot(Since::Reset).await?, None));
        }
        let seconds = SHORT_LOOK.as_secs();
        let why = format!("looked for {seconds} s (level is {})", status.base.name());
        Ok((self.watch(SHORT_LOOK, Level::Stage, look.how).await?, Some(why)))
    }

    /// What comes to the snapshot in `duration`, or until Ctrl-C.
    pub async fn watch(&mut self, duration: Duration, level: Level, how: How) -> Result<Snapshot, String> {
        let mut ask = LeaseProf {
            lease: None,
            level: Some(level),
            sample: how.sample,
            clock: how.clock,
            ttl_ms: Some(TTL_MS),
        };
        let leased: Leased = self.ask(Method::LeaseProf, &ask).await?;
        ask.lease = Some(leased.lease);
        let looking = |seconds| format!("looking: {seconds} of {} s, Ctrl-C ends it", duration.as_secs());
        let seen = progress::shown(looking, self.between(duration, &mut ask)).await;
        // Given back whatever happened; when that fails, it runs out by itself.
        ask.ttl_ms = Some(0);
        let given_back = self.ask::<serde_json::Value>(Method::LeaseProf, &ask).await;
        let seen = seen?;
        given_back.map(|_| seen)
    }

    async fn between(&mut self, duration: Duration, lease: &mut LeaseProf) -> Result<Snapshot, String> {
        let before = self.snapshot(Since::Start).await?;
        let end = Instant::now() + duration;
        let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
        loop {
            let next = end.min(Instant::now() + RENEW);
            if timeout_at(next, &mut interrupt).await.is_ok() || next >= end {
                break;
            }
            let renewed: Leased = self.ask(Method::LeaseProf, lease).await?;
            lease.lease = Some(renewed.lease);
        }
        Ok(self.snapshot(Since::Start).await?.since(&before))
    }

    /// Waits under a lease of level trace.
    pub async fn trace(&mut self, duration: Duration) -> Result<(), String> {
        self.watch(duration, Level::Trace, How::default()).await.map(drop)
    }
}
