//! etherctl: drives an etherws switch, of this host or another, by its JSON-RPC contract
//! ([`etherws::control::api`], all that it sees of the switch).
//!
//! * [`cli`]: the command line
//! * [`commands`]: from a command to a request, from a result to text; [`stations`]: of very many
//! * [`prof`]: what a frame costs
//! * [`stats`]: pstats' shell
//! * [`table`]: rows of text, aligned and free of control characters
//! * [`server`]: which server, as whom
//! * [`client`]: JSON-RPC over HTTP over a Unix socket, TCP or TLS
//! * [`top`]: the live screen; [`flame`]: flame graphs
//! * [`dashboard`]: the page for a browser
//! * [`watch`]: events, as they happen; [`subscription`]: how they come
//! * [`capture`]: frames, as they pass; [`pcapng`]: their file
//! * [`trace`]: what would become of a frame; [`ping`]: round trips of links
//! * [`doctor`]: what is wrong, and what to do; [`progress`]: a word to whoever waits
//! * [`manual`]: man page and completions; [`complete`]: what a shell completes by asking the switch

mod capture;
mod cli;
mod client;
mod commands;
mod complete;
mod dashboard;
mod doctor;
mod flame;
mod manual;
mod pcapng;
mod ping;
mod prof;
mod progress;
mod server;
mod stations;
mod stats;
mod subscription;
mod table;
mod top;
mod trace;
mod watch;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use etherws::control::api::{Entries, METHOD_NOT_FOUND, Method, PortRef, PortStatus, TOO_MANY};
use serde_json::Value;
use tokio::runtime::Runtime;

use cli::{Cli, Command};
use client::Failure;
use commands::Request;
use prof::Prof;
use server::Server;

fn main() -> ExitCode {
    complete::answer();
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(wrong) => {
            let (why, code) = match wrong {
                Wrong::Usage(why) => (why, ExitCode::from(2)),
                Wrong::Failure(why) => (why, ExitCode::FAILURE),
            };
            // Nowhere is left to say that stderr is gone.
            let _ = writeln!(io::stderr(), "etherctl: {why}");
            code
        }
    }
}

/// Why there is nothing to print.
#[derive(Debug)]
pub enum Wrong {
    /// The command line makes no sense, whatever the switch is like.
    Usage(String),
    /// All the rest.
    Failure(String),
}

impl From<String> for Wrong {
    fn from(why: String) -> Self {
        Self::Failure(why)
    }
}

fn run(cli: Cli) -> Result<ExitCode, Wrong> {
    if let Command::Doctor = cli.command {
        return Ok(doctor::run(server_of(cli.server)?, cli.json)?);
    }
    serve(cli).map(|()| ExitCode::SUCCESS)
}

fn serve(cli: Cli) -> Result<(), Wrong> {
    match &cli.command {
        Command::Man { dir } => return Ok(manual::write_page(dir)?),
        Command::Completions { shell } => return Ok(print(&manual::completions(*shell)?)?),
        Command::Top(_) if cli.json => {
            return Err(Wrong::Usage(
                "a live screen is no JSON (`etherctl prof show --json` prints it)".into(),
            ));
        }
        Command::Top(args) => return top::run(args, server_of(cli.server)?),
        Command::Flame(_) if cli.json => {
            return Err(Wrong::Usage(
                "a flame graph is no JSON (`etherctl prof show --json` prints it)".into(),
            ));
        }
        Command::Flame(args) => return flame::run(args, || server_of(cli.server)),
        Command::Dashboard(_) if cli.json => {
            return Err(Wrong::Usage("a dashboard is no JSON (rpc.discover describes what it asks)".into()));
        }
        Command::Dashboard(args) => {
            let server = server_of(cli.server)?;
            return runtime()?.block_on(dashboard::run(args, server));
        }
        Command::Watch => {
            let server = server_of(cli.server)?;
            return runtime()?.block_on(watch::run(server, cli.json));
        }
        Command::Capture(args) => {
            let server = server_of(cli.server)?;
            return runtime()?.block_on(capture::run(server, args, cli.json));
        }
        Command::Ping(args) => {
            let server = server_of(cli.server)?;
            return runtime()?.block_on(ping::run(server, args, cli.json));
        }
        Command::Stats { files } => return stats::run(files),
        Command::Prof(Prof::Diff { a, b }) => return Ok(print(&prof::diff(a, b, cli.json)?)?),
        Command::Prof(command) => {
            let server = server_of(cli.server)?;
            return Ok(runtime()?.block_on(prof::run(server, command, cli.json))?);
        }
        _ => {}
    }
    let request = Request::of(&cli.command)?;
    let mut server = server_of(cli.server)?;
    let runtime = runtime()?;
    let answer = runtime.block_on(ask(&mut server, &request, client::TIME_LIMIT));
    let is_long = matches!(&answer, Err(Failure::Refused(error)) if error.code == TOO_MANY);
    let (text, is_empty) = if is_long {
        let pages = stations::page_by_page(&server, &cli.command, request.method, cli.json);
        let listed = runtime.block_on(pages)?;
        (listed.text, listed.is_empty)
    } else {
        let answer = answer.map_err(|failure| match failure {
            Failure::Refused(error) if error.code == METHOD_NOT_FOUND => {
                let name = request.method.name().rsplit('.').next().unwrap_or_default();
                format!("the switch at {} is too old for that: it has no {name}", server.url)
            }
            failure => failure.to_string(),
        });
        let result = commands::select(&cli.command, answer?)?;
        let is_empty = result.as_array().or(result["entries"].as_array()).is_some_and(Vec::is_empty);
        (if cli.json { table::json(&result) } else { commands::render(&cli.command, result)? }, is_empty)
    };
    if let Command::Listfdb { port: Some(port) } | Command::Liststations { port: Some(port) } = &cli.command
        && is_empty
    {
        must_exist(&mut server, port)?;
    }
    Ok(print(&text)?)
}

fn runtime() -> Result<Runtime, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|e| format!("could not start: {e}"))
}

fn server_of(args: cli::ServerArgs) -> Result<Server, Wrong> {
    let server = Server::of(args)?;
    if server.insecure {
        // As above.
        let _ = writeln!(io::stderr(), "etherctl: warning: the certificate of {} is not checked", server.url);
    }
    Ok(server)
}

/// Asks once, and once more with a user and password when the server wants one and a person is there.
async fn ask(server: &mut Server, request: &Request, limit: Duration) -> Result<Value, Failure> {
    match patiently(server, request, limit).await {
        Err(Failure::Unauthorized(_)) if server.may_prompt() => {
            server
                .prompt()
                .map_err(|(Wrong::Usage(why) | Wrong::Failure(why))| Failure::Unauthorized(why))?;
            patiently(server, request, limit).await
        }
        answer => answer,
    }
}

/// A port that nobody was heard on is another thing than none.
fn must_exist(server: &mut Server, port: &PortRef) -> Result<(), String> {
    let request = Request { method: Method::ListPort, params: None };
    let ports = runtime()?.block_on(ask(server, &request, client::TIME_LIMIT));
    let ports: Entries<PortStatus> = commands::read(ports.map_err(|failure| failure.to_string())?)?;
    let is = |entry: &PortStatus| match port {
        PortRef::Number(number) => entry.port == *number,
        PortRef::Name(name) => entry.name == *name,
    };
    if ports.entries.iter().any(is) { Ok(()) } else { Err(commands::no_port(port)) }
}

async fn patiently(server: &Server, request: &Request, limit: Duration) -> Result<Value, Failure> {
    let waiting = |seconds| format!("waiting for {}: {seconds} s of at most {}", server.url, limit.as_secs());
    progress::shown(waiting, client::call(server, request, limit)).await
}

/// A reader that went away (`etherctl listport | head`) is no failure.
fn print(text: &str) -> Result<(), String> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(format!("could not write the result: {e}")),
        _ => Ok(()),
    }
}
