//! What a shell completes by asking: ports' names and numbers, of the switch that the command line so far is about. The
//! scripts of `etherctl completions` start etherctl with [`VARIABLE`] set.

use std::time::Duration;

use clap::{CommandFactory, FromArgMatches};
use clap_complete::CompleteEnv;
use clap_complete::engine::CompletionCandidate;
use etherws::control::api::{Entries, Method, PortStatus};
use tokio::time::timeout;

use crate::cli::{Cli, ServerArgs};
use crate::client::{self, TIME_LIMIT};
use crate::commands::{self, Request};
use crate::runtime;
use crate::server::Server;
use crate::table::escaped;

/// Names the shell that asks.
pub const VARIABLE: &str = "_ETHERCTL_COMPLETE";

/// Whoever presses TAB does not wait for a switch that is busy or gone.
const LIMIT: Duration = Duration::from_millis(500);

/// Answers a shell that asks, and ends; else returns.
pub fn answer() {
    CompleteEnv::with_factory(Cli::command).var(VARIABLE).complete();
}

/// Names, then numbers, each with what it stands for. None, and not a word, where the switch does not answer at once.
pub fn ports() -> Vec<CompletionCandidate> {
    let ports = asked().unwrap_or_default();
    let name = |port: &PortStatus| {
        let what = format!("{} {} {}", port.port, port.kind, escaped(&port.target));
        CompletionCandidate::new(&port.name).help(Some(what.into())).display_order(Some(0))
    };
    let number = |port: &PortStatus| {
        let what = format!("{} {}", escaped(&port.name), port.kind);
        CompletionCandidate::new(port.port.to_string()).help(Some(what.into())).display_order(Some(1))
    };
    // A server of version 1.3 knows no names.
    let named = ports.iter().filter(|port| !port.name.is_empty());
    named.map(name).chain(ports.iter().map(number)).collect()
}

fn asked() -> Option<Vec<PortStatus>> {
    let args = switch()?;
    // There is nobody to be asked for a password.
    if args.ctluser.is_some() && args.ctlpasswd.is_none() {
        return None;
    }
    let server = Server::of(args).ok()?;
    let request = Request { method: Method::ListPort, params: None };
    let asked = async { timeout(LIMIT, client::call(&server, &request, TIME_LIMIT)).await };
    let answer = runtime().ok()?.block_on(asked);
    commands::read::<Entries<PortStatus>>(answer.ok()?.ok()?).ok().map(|ports| ports.entries)
}

/// Which switch the unfinished command line is about: behind `--` stands what was typed.
fn switch() -> Option<ServerArgs> {
    let typed = std::env::args_os().skip_while(|word| word != "--").skip(1);
    let matches = Cli::command().ignore_errors(true).try_get_matches_from(typed).ok()?;
    ServerArgs::from_arg_matches(&matches).ok()
}
