//! `etherctl dashboard`: the dashboard for a browser of this host, whatever the switch is reached by. The files
//! and the checks of who asks are the control service's own ([`etherws::control::api::dashboard`]); calls go
//! on to the switch as this etherctl's.
//!
//! * [`gate`]: the token of the URL, which works once, and the session that it is exchanged for
//! * [`proxy`]: calls and subscriptions, handed on

mod gate;
mod proxy;

use std::convert::Infallible;
use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use etherws::control::api::dashboard::{Reply, closing, find, guarded, text, with};
use etherws::control::api::{DEFAULT_PATH, Method};
use http::{Request, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::unistd::geteuid;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::time::sleep;

use crate::Wrong;
use crate::client::{TIME_LIMIT, io_text};
use crate::commands::Request as Call;
use crate::server::Server;
use gate::Gate;
use proxy::Proxy;

#[derive(Args, Debug)]
pub struct DashboardArgs {
    /// Where to serve it, on this host; port 0: any that is free.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:0", value_parser = loopback)]
    pub listen: SocketAddr,
    /// Do not open a browser.
    #[arg(long)]
    pub no_open: bool,
}

/// Serves until it is interrupted.
pub async fn run(args: &DashboardArgs, mut server: Server) -> Result<(), Wrong> {
    // A user and a password may have to be asked for; and a wrong URL is told here, not in a browser.
    let version = Call { method: Method::GetVersion, params: None };
    crate::ask(&mut server, &version, TIME_LIMIT).await.map_err(|failure| failure.to_string())?;
    let cannot = |e: io::Error| format!("could not listen on {}: {}", args.listen, io_text(&e));
    let listener = TcpListener::bind(args.listen).await.map_err(cannot)?;
    let address = listener.local_addr().map_err(cannot)?;
    let (gate, token) = Gate::new(address)?;
    let url = format!("http://{address}/#token={token}");
    crate::print(&format!("{url}\n"))?;
    if !args.no_open && io::stdout().is_terminal() && !geteuid().is_root() {
        open(&url);
    }
    let service = Arc::new(Service { gate, proxy: Proxy::new(server) });
    let mut terminated =
        signal(SignalKind::terminate()).map_err(|e| format!("could not wait for signals: {e}"))?;
    tokio::select! {
        () = accept(listener, service) => {}
        _ = tokio::signal::ctrl_c() => {}
        _ = terminated.recv() => {}
    }
    Ok(())
}

struct Service {
    gate: Gate,
    proxy: Proxy,
}

async fn accept(listener: TcpListener, service: Arc<Service>) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let service = Arc::clone(&service);
                tokio::spawn(async move {
                    serve(stream, service).await;
                    drop(place);
                });
            }
            // Out of descriptors, most likely: it passes.
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn serve(stream: TcpStream, service: Arc<Service>) {
    let answer = service_fn(move |request| {
        let service = Arc::clone(&service);
        async move { Ok::<_, Infallible>(guarded(service.answer(request).await)) }
    });
    // How a browser ends its connection is of no interest.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(READ_TIME)
        .serve_connection(TokioIo::new(stream), answer)
        .with_upgrades()
        .await;
}

impl Service {
    async fn answer(&self, request: Request<Incoming>) -> Reply {
        if let Err((status, why)) = self.gate.check_page(&request) {
            return closing(text(status, why));
        }
        match request.uri().path() {
            gate::PATH => never_stored(self.gate.exchange(request, &self.proxy.url()).await),
            DEFAULT_PATH => never_stored(match self.gate.session(&request) {
                Ok(protocol) => self.proxy.answer(request, protocol).await,
                Err((status, why)) => closing(text(status, why)),
            }),
            path => match find(path) {
                Some(file) => file.answer(&request, DEFAULT_PATH),
                None => text(StatusCode::NOT_FOUND, "nothing here"),
            },
        }
    }
}

fn never_stored(reply: Reply) -> Reply {
    with(reply, header::CACHE_CONTROL, "no-store")
}

/// What this host alone reaches: there is no TLS here.
fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| "expected ADDRESS:PORT, such as 127.0.0.1:8080")?;
    match address.ip().to_canonical().is_loopback() {
        true => Ok(address),
        false => {
            Err("not an address of this host alone; from afar, `ssh -L PORT:127.0.0.1:PORT` reaches it"
                .into())
        }
    }
}

/// A browser is a convenience: without one, there is the URL.
fn open(url: &str) {
    let mut command = Command::new("xdg-open");
    command.arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if let Ok(mut child) = command.spawn() {
        std::thread::spawn(move || child.wait());
    }
}

/// Tells whoever started it.
fn say(text: &str) {
    // Nowhere is left to say that stderr is gone.
    let _ = writeln!(io::stderr(), "etherctl: {text}");
}

const MAX_CONNECTIONS: usize = 64;
/// For a request's header, and for the token.
const READ_TIME: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_served_on_this_host_alone() {
        for fine in ["127.0.0.1:0", "127.9.9.9:80", "[::1]:8080"] {
            assert!(loopback(fine).is_ok(), "{fine}");
        }
        for wrong in ["0.0.0.0:0", "[::]:0", "192.0.2.1:80", "localhost:80", "127.0.0.1", "8080"] {
            assert!(loopback(wrong).is_err(), "{wrong}");
        }
    }
}
