//! Start, signals, the end.
//!
//! The order of the start: read and check, detach, bind, enter the sandbox, threads, ports, serve, READY=1. So
//! whoever waits for readiness finds everything listening, a failure leaves nothing behind, and what privileges
//! are for is done before there is a thread.

use std::io::Write;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use listenfd::ListenFd;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Mutex, Notify};
use tokio::time::{sleep, timeout};
use tracing::{debug, error, info, warn};

use super::apply::{Running, apply};
use super::check::same_line;
use super::cli::Sw;
use super::config::{Config, label};
use super::diagnose::diagnose;
use super::handover::{self, Left};
use super::logs::Logs;
use super::origin::{Failure, Origin, may_save};
use super::watchdog::watch;
use super::{detach, prof, read, sandbox, save, self_test};
use crate::control::api::diagnosis::Diagnosis;
use crate::control::api::token_file;
use crate::control::http::{Door, check_files};
use crate::control::rpc::{Hooks, methods};
use crate::port::Ports;
use crate::sys::passed;
use crate::ws::mask;

/// How long links are given to take their last frames and the Close.
const DRAIN: Duration = Duration::from_secs(10);
/// What the end takes besides.
const HANDOVER: Duration = Duration::from_secs(5);
/// How long a look at what is wrong waits for a reload or save.
const DIAGNOSE_WAIT: Duration = Duration::from_secs(2);
/// SIGHUPs within this time are one.
const STORM: Duration = Duration::from_millis(100);
/// `etherws sw`
pub fn sw(sw: &Sw) -> ExitCode {
    match start_up(sw) {
        Ok(code) => code,
        Err(failure) => {
            for line in &failure.lines {
                complain(line);
            }
            if detach::is_child() {
                detach::failed(failure.code);
            }
            ExitCode::from(failure.code)
        }
    }
}

/// `etherws check FILE`
pub fn check(file: &Path) -> ExitCode {
    let found = read::file(file).and_then(|layer| {
        let mut errors = layer.unreadable_files();
        match layer.resolve() {
            Err(problems) => errors.extend(problems.iter().map(ToString::to_string)),
            // What is in them is looked at once they can be read at all.
            Ok(config) if errors.is_empty() => errors = check_files(&config.door),
            Ok(_) => {}
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    });
    match found {
        Ok(()) => {
            let _ = writeln!(std::io::stdout(), "{}: ok", file.display());
            ExitCode::SUCCESS
        }
        Err(errors) => {
            for error in errors {
                let _ = writeln!(std::io::stderr(), "{error}");
            }
            ExitCode::FAILURE
        }
    }
}

/// A line on stderr, which may be dead.
pub fn complain(line: &str) {
    let _ = writeln!(std::io::stderr(), "etherws: {line}");
}

fn start_up(sw: &Sw) -> Result<ExitCode, Failure> {
    if sw.logconf.is_some() {
        return Err(Failure::usage(
            "--logconf: Python logging files went with 1.3; say what to log with --log FILTER or RUST_LOG",
        ));
    }
    let origin = Origin::new(sw)?;
    let config = origin.load()?;
    if sw.daemon && !detach::is_child() {
        return Ok(detach::start()?);
    }
    let detached = sw.daemon;
    if detached {
        detach::leave()?;
    }
    // Taken while there is one thread: it clears the environment.
    let (inherited, left) = inherited()?;
    let logs = Logs::start(config.log.as_deref(), detached, config.switch.node.as_deref())?;
    raise_nofile();
    // Control is a trickle; frames run on the data threads, which `Ports` starts.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // A thread that has resolved a name to listen on has to be gone when the sandbox is entered.
        .thread_keep_alive(Duration::from_millis(10))
        .build()
        .map_err(|e| format!("could not start: {e}"))?;
    let logs = Arc::new(logs);
    let start =
        Start { origin, config, logs: Arc::clone(&logs), inherited, left, detached, self_test: sw.self_test };
    let result = runtime.block_on(start.live());
    // Connections still open end with the process.
    runtime.shutdown_background();
    logs.flush();
    Ok(result?)
}

/// Descriptors by their names.
type Named = Vec<(String, OwnedFd)>;

/// From systemd: sockets, and what a switch before this one left.
fn inherited() -> Result<(Vec<TcpListener>, Named), String> {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let names: Vec<_> = names.split(':').collect();
    let mut passed = ListenFd::from_env();
    let (mut listeners, mut left) = (Vec::new(), Vec::new());
    for index in 0..passed.len() {
        if let Some(name) = names.get(index).filter(|name| handover::is_ours(name)) {
            let fd = passed.take_raw_fd(index).and_then(|fd| fd.map(passed::own).transpose());
            let fd = fd.map_err(|e| format!("inherited descriptor {index} ({name}): {e}"))?;
            left.extend(fd.map(|fd| ((*name).to_owned(), fd)));
            continue;
        }
        let listener = passed.take_tcp_listener(index).map_err(|e| {
            format!("inherited socket {index} is not a listening TCP socket: {e}; see etherws.socket")
        })?;
        listeners.extend(listener);
    }
    Ok((listeners, left))
}

/// A link is a descriptor; the soft limit of 1,024 is there for select(2), which nobody calls here.
fn raise_nofile() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// The signals, caught from the first moment: none but SIGKILL ends the daemon unasked. SIGPIPE is
/// ignored by Rust's runtime already.
struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
    usr1: Signal,
    usr2: Signal,
}

impl Signals {
    fn catch() -> std::io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
            usr1: signal(SignalKind::user_defined1())?,
            usr2: signal(SignalKind::user_defined2())?,
        })
    }

    async fn end(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }

    /// Returns when the daemon is to end; each SIGHUP is passed on, each SIGUSR2 is `toggle`d.
    async fn until_end(&mut self, reload: &Notify, toggle: impl Fn()) {
        loop {
            tokio::select! {
                _ = self.term.recv() => return,
                _ = self.int.recv() => return,
                _ = self.hup.recv() => reload.notify_one(),
                _ = self.usr1.recv() => debug!("SIGUSR1 means nothing here"),
                _ = self.usr2.recv() => toggle(),
            }
        }
    }
}

/// The running daemon.
struct Daemon {
    origin: Origin,
    ports: Arc<Ports>,
    door: Arc<Door>,
    logs: Arc<Logs>,
    /// What is in force; locked for the length of a reload or save.
    config: Mutex<Config>,
}

/// What a daemon starts from.
struct Start {
    origin: Origin,
    config: Config,
    logs: Arc<Logs>,
    inherited: Vec<TcpListener>,
    left: Named,
    detached: bool,
    self_test: bool,
}

impl Start {
    async fn live(mut self) -> Result<ExitCode, String> {
        let mut signals = Signals::catch().map_err(|e| format!("could not catch signals: {e}"))?;
        let door = tokio::select! {
            door = self.open() => door?,
            () = signals.end() => return Ok(ExitCode::SUCCESS),
        };
        self.logs.begin()?;
        let Self { origin, config, logs, left, detached, self_test, .. } = self;
        let left = Left::of(left);
        let has_left = left.is_some();
        let ports =
            Ports::start(config.switch.clone()).map_err(|e| format!("could not start the switch: {e}"))?;
        // Cancelled by a signal, a start leaves as little behind as a failed one.
        let daemon = tokio::select! {
            daemon = Daemon::start(origin, config.clone(), left, Arc::clone(&ports), door, logs) => daemon,
            // But what was left to it, and is nowhere else now, is taken up first, and left again at the end.
            () = signals.end(), if !has_left => {
                ports.drain(Duration::from_secs(1)).await;
                remove_files(&config);
                return Ok(ExitCode::SUCCESS);
            }
        };
        let daemon = match daemon {
            Ok(daemon) => daemon,
            Err(why) => {
                ports.drain(Duration::from_secs(1)).await;
                return Err(why);
            }
        };
        if detached {
            detach::listens()?;
        }
        match mask::wish() {
            Some((name, true)) => info!("masking: {name}, as ETHERWS_MASK says"),
            Some((name, false)) => {
                let used = mask::kernel();
                warn!("masking: {used}; ETHERWS_MASK={name} is none, or this processor has it not");
            }
            None => debug!("masking: {}", mask::kernel()),
        }
        for listener in daemon.say_ready().await {
            info!("listening: {listener}");
        }

        let reload = Arc::new(Notify::new());
        tokio::spawn(Arc::clone(&daemon).reload_on(Arc::clone(&reload)));
        if let Some(timeout) = sd_notify::watchdog_enabled() {
            tokio::spawn(watch(Arc::clone(&ports), timeout, || notify(&[NotifyState::Watchdog])));
        }
        let dump = daemon.origin.prof_dump.clone();
        let mut code = ExitCode::SUCCESS;
        if self_test {
            code = self_test::run(&daemon.ports, &daemon.door, &daemon.logs).await;
        } else {
            signals.until_end(&reload, || prof::toggle(&daemon.ports, dump.as_deref())).await;
        }
        prof::write(&daemon.ports, dump.as_deref());

        notify(&[NotifyState::Stopping, NotifyState::Status("draining")]);
        daemon.door.drain();
        let wait = match daemon.config.try_lock() {
            Ok(now) => drain_wait(&now),
            Err(_) => drain_wait(&config),
        };
        if !self_test && !wait.is_zero() {
            // Else it would be killed in the middle of it (TimeoutStopSec).
            let needed = wait + DRAIN + HANDOVER;
            notify(&[NotifyState::ExtendTimeoutUsec(u32::try_from(needed.as_micros()).unwrap_or(u32::MAX))]);
            info!("ending in {} s: no new links, /readyz says so", wait.as_secs());
            daemon.ports.say_leaving();
            tokio::select! {
                () = sleep(wait) => {}
                () = signals.end() => {}
            }
        }
        info!("ending: links are closed");
        daemon.door.stop_accepting();
        // Before the drain: then they may be another switch's already. Not `config`: a reload may have moved the socket.
        // A reload that hangs does not hold up the end.
        let file = match daemon.config.try_lock() {
            Ok(now) => {
                remove_files(&now);
                now.ports.clone()
            }
            Err(_) => {
                remove_files(&config);
                config.ports.clone()
            }
        };
        // A trial is no switch that another one is to go on from.
        if !self_test {
            handover::leave(&daemon.ports, &file).await;
        }
        tokio::select! {
            () = ports.drain(DRAIN) => {}
            () = signals.end() => warn!("second signal: draining cut short"),
        }
        Ok(code)
    }

    /// Binds and reads what takes privileges, and gives them up.
    async fn open(&mut self) -> Result<Arc<Door>, String> {
        let inherited = std::mem::take(&mut self.inherited);
        let own = [self.origin.own(), self.origin.prof_dump.as_deref()];
        Door::open_with(self.config.door.clone(), inherited, || sandbox::enter(&self.config, &own)).await
    }
}

impl Daemon {
    async fn start(
        origin: Origin,
        mut config: Config,
        left: Option<Left>,
        ports: Arc<Ports>,
        door: Arc<Door>,
        logs: Arc<Logs>,
    ) -> Result<Arc<Self>, String> {
        let fresh = if left.is_none() { config.ports.clone() } else { Vec::new() };
        if let Some(left) = left {
            let missing = left.take_up(&ports, &config.ports).await;
            // What is not there differs from the file: the next reload tries it again.
            config.ports.retain(|spec| !missing.iter().any(|gone| same_line(spec, gone)));
        }
        for spec in fresh {
            let name = label(&spec);
            let kind = spec.kind;
            if let Err(why) = ports.add(spec).await {
                remove_files(&config);
                return Err(format!("port {name} ({kind}) could not be added: {why}"));
            }
        }
        let daemon = Arc::new(Self { origin, ports, door, logs, config: Mutex::new(config) });
        let hooks = Hooks {
            save: daemon.save_hook(),
            reload: daemon.reload_hook(),
            diagnose: daemon.diagnose_hook(),
        };
        daemon.door.serve(Arc::clone(&daemon.ports), methods(Arc::clone(&daemon.ports), hooks));
        Ok(daemon)
    }

    fn save_hook(self: &Arc<Self>) -> SaveHook {
        let daemon = Arc::clone(self);
        Box::new(move |file| Box::pin(to_the_end(Arc::clone(&daemon).save(file))))
    }

    fn reload_hook(self: &Arc<Self>) -> ReloadHook {
        let daemon = Arc::clone(self);
        Box::new(move || Box::pin(to_the_end(Arc::clone(&daemon).reload())))
    }

    fn diagnose_hook(self: &Arc<Self>) -> DiagnoseHook {
        let daemon = Arc::clone(self);
        Box::new(move || {
            let daemon = Arc::clone(&daemon);
            Box::pin(to_the_end(async move {
                let config = timeout(DIAGNOSE_WAIT, daemon.config.lock()).await;
                let config =
                    config.map_err(|_| "a reload or save goes on and does not end; see the log")?.clone();
                let ports = Arc::clone(&daemon.ports);
                let facts = tokio::task::spawn_blocking(move || diagnose(&config, &ports)).await;
                facts.map_err(|e| format!("could not look: {e}"))
            }))
        })
    }

    /// To systemd; the listeners are returned, `SERVICE ADDRESS` each.
    async fn say_ready(&self) -> Vec<String> {
        let sock = self.config.lock().await.door.control.sock.display().to_string();
        let mut listeners = vec![format!("control {sock}")];
        listeners.extend(self.door.local_addrs().iter().map(|(service, at)| format!("{service} {at}")));
        let count = self.ports.list().len();
        let status = format!("{count} ports; listening: {}", listeners.join(", "));
        notify(&[NotifyState::Ready, NotifyState::Status(&status)]);
        listeners
    }

    /// Reloads at each notification; many at a time are one.
    async fn reload_on(self: Arc<Self>, wanted: Arc<Notify>) {
        loop {
            wanted.notified().await;
            sleep(STORM).await;
            // The storm's own permit, unless another signal comes from now on.
            let _ = futures_util::FutureExt::now_or_never(wanted.notified());
            let _ = Arc::clone(&self).reload().await;
        }
    }

    async fn reload(self: Arc<Self>) -> Result<Vec<String>, String> {
        let mut current = self.config.lock().await;
        let now = NotifyState::monotonic_usec_now();
        notify(&[NotifyState::Reloading]);
        now.into_iter().for_each(|now| notify(&[now]));
        let result = match self.origin.load() {
            Ok(new) => apply(&mut current, new, &self.ports, &self.door, &self.logs).await,
            Err(failure) => Err(format!("nothing was changed: {}", failure.lines.join("\n"))),
        };
        drop(current);
        match &result {
            Ok(lines) if lines.is_empty() => info!("reloaded: nothing differs"),
            Ok(lines) => lines.iter().for_each(|line| info!("reloaded: {line}")),
            Err(why) => error!("reload failed: {why}"),
        }
        let _ = self.say_ready().await;
        result
    }

    async fn save(self: Arc<Self>, file: Option<PathBuf>) -> Result<PathBuf, String> {
        let mut config = self.config.lock().await;
        let own = self.origin.own().map(Path::to_owned);
        let path =
            file.or_else(|| own.clone()).ok_or("no file to save to: name one (etherctl saveconf FILE)")?;
        may_save(&path, own.as_deref())?;
        let running = Running::all(&self.ports);
        let mut now = config.clone();
        // A filter given for this run (--debug, RUST_LOG) is not made the next one's.
        let own_log = self.origin.flags.log.is_none();
        let target = path.clone();
        // Off the control thread: a slow disk is nobody else's business.
        let saved = tokio::task::spawn_blocking(move || {
            let existing = if target.exists() { Some(read::text(&target)?) } else { None };
            let name = target.display().to_string();
            if !own_log {
                now.log = existing.as_ref().and_then(|text| read::parse(&name, text).ok()?.log);
            }
            let text = save::render(&name, existing.as_ref().map(|text| text.as_str()), &now, &running)
                .map_err(|why| if why.starts_with(&name) { why } else { format!("{name}: {why}") })?;
            let ports = read::parse(&name, &text).map(|layer| layer.ports).unwrap_or_default();
            Ok::<_, String>((save::write(&target, &text)?, ports))
        });
        let (written, ports) = saved.await.map_err(|e| format!("could not be saved: {e}"))??;
        if own.is_some_and(|own| std::fs::canonicalize(own).is_ok_and(|own| own == written)) {
            // From here on the file is what the next reload differs from.
            config.ports = ports;
        }
        info!("configuration saved to {}", written.display());
        Ok(written)
    }
}

type BoxFuture<T> = futures_util::future::BoxFuture<'static, T>;
type SaveHook = Box<dyn Fn(Option<PathBuf>) -> BoxFuture<Result<PathBuf, String>> + Send + Sync>;
type DiagnoseHook = Box<dyn Fn() -> BoxFuture<Result<Diagnosis, String>> + Send + Sync>;
type ReloadHook = Box<dyn Fn() -> BoxFuture<Result<Vec<String>, String>> + Send + Sync>;

/// In a task of its own: a caller who hangs up must not leave the work half done.
async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, String>> + Send + 'static,
) -> Result<T, String> {
    tokio::spawn(work).await.unwrap_or_else(|e| Err(format!("failed unexpectedly: {e}")))
}

fn notify(states: &[NotifyState]) {
    if let Err(e) = sd_notify::notify(states) {
        debug!("systemd could not be told: {e}");
    }
}

/// How long a load balancer is given to notice.
fn drain_wait(config: &Config) -> Duration {
    config.door.listen.as_ref().map_or(Duration::ZERO, |listen| listen.drain_wait)
}

/// The control socket and the token beside it.
fn remove_files(config: &Config) {
    let sock = &config.door.control.sock;
    for file in [sock.clone(), token_file(sock)] {
        if let Err(e) = std::fs::remove_file(&file)
            && e.kind() != std::io::ErrorKind::NotFound
        {
            debug!("{} could not be removed: {e}", file.display());
        }
    }
}
