//! The settings made usable: files loaded, conflicts found, who listens where. Replaced as a whole by reload.

use std::sync::Arc;

use rustls::ServerConfig;

use super::auth::Gate;
use super::bind::{Bind, Service, overlap};
use super::origin;
use super::settings::{ControlTcp, DoorSettings, ListenSettings, MetricsListen, TlsFiles, UserRule, Who};
use super::tls;
use super::tokens::Key;
use crate::port::spec::Congestion;
use crate::port::{Profile, check_congestion};
use crate::sys::credential::located;

pub struct Rules {
    pub settings: DoorSettings,
    pub plans: Vec<Plan>,
    /// Of the WebSocket service.
    pub data_gate: Gate,
    /// Of control on TCP.
    pub control_gate: Gate,
    /// Whether control on TCP asks for the token made at start.
    pub wants_token: bool,
    /// The certificate files' bytes, to tell whether they changed.
    certificates: Vec<Vec<u8>>,
}

/// One address and what is behind it.
pub struct Plan {
    pub bind: Bind,
    pub data: bool,
    pub control: bool,
    /// Metrics and nothing else.
    pub metrics: bool,
    pub tls: Option<Arc<ServerConfig>>,
}

impl Rules {
    pub async fn load(settings: DoorSettings, token: &str, key: &Key) -> Result<Self, String> {
        let mut plans = Vec::new();
        let mut data_gate = Gate::default();
        if let Some(listen) = &settings.listen {
            check_listen(listen)?;
            data_gate = Gate::of_files(listen.htpasswd.as_deref(), listen.tokens.as_deref(), key)?;
            let tls = listen.tls.as_ref().map(tls::server_config).transpose()?;
            plans.push(Plan { bind: data_bind(listen), data: true, control: false, metrics: false, tls });
        }
        for UserRule { who: Who::User(name) | Who::Token(name) | Who::Certificate(name), profile } in
            &settings.users
        {
            let congestion = profile.congestion.as_ref().unwrap_or(&Congestion::System);
            check_congestion(congestion).map_err(|why| format!("[[user]] {name}: {why}"))?;
        }
        let mut control_gate = Gate::default();
        let mut wants_token = false;
        if let Some(tcp) = &settings.control.tcp {
            check_path(&tcp.path, "--ctlpath")?;
            let bind = Bind { host: Some(tcp.host.clone()), port: tcp.port, service: Service::Control };
            wants_token = tcp.htpasswd.is_none() && !tcp.anonymous;
            control_gate = if wants_token {
                Gate::of_token(token, key)
            } else {
                Gate::of_files(tcp.htpasswd.as_deref(), None, key)?
            };
            check_anonymous(tcp, &bind).await?;
            match (&settings.listen, plans.first_mut()) {
                (Some(listen), Some(plan))
                    if bind.port != 0 && plan.bind.host == bind.host && plan.bind.port == bind.port =>
                {
                    check_shared(listen, tcp, &bind)?;
                    plan.control = true;
                }
                (_, Some(plan)) if overlap(&plan.bind.resolve().await?, &bind.resolve().await?) => {
                    return Err(format!(
                        "the WebSocket service on {} and control on {bind} overlap; \
                         give both the same host, or control another --ctlport",
                        plan.bind
                    ));
                }
                _ => {
                    let tls = tcp.tls.as_ref().map(tls::server_config).transpose()?;
                    plans.push(Plan { bind, data: false, control: true, metrics: false, tls });
                }
            }
        }
        if let Some(MetricsListen { host, port }) = settings.metrics.clone() {
            let bind = Bind { host: Some(host), port, service: Service::Metrics };
            let addresses = bind.resolve().await?;
            for plan in &plans {
                if overlap(&plan.bind.resolve().await?, &addresses) {
                    return Err(format!(
                        "{} on {} and metrics on {bind} overlap; give --metrics another port",
                        plan.bind.service, plan.bind
                    ));
                }
            }
            plans.push(Plan { bind, data: false, control: false, metrics: true, tls: None });
        }
        let certificates = certificates(&settings);
        Ok(Self { settings, plans, data_gate, control_gate, wants_token, certificates })
    }

    pub fn plan(&self, bind: &Bind) -> Option<&Plan> {
        self.plans.iter().find(|plan| plan.bind == *bind)
    }

    /// What the links of someone become: by user or token first, then by certificate.
    pub fn profile(&self, user: Option<&Who>, certificate: Option<&str>) -> Option<Profile> {
        let certificate = certificate.map(|name| Who::Certificate(name.to_owned()));
        [user, certificate.as_ref()]
            .into_iter()
            .flatten()
            .find_map(|who| self.settings.users.iter().find(|rule| rule.who == *who))
            .map(|rule| rule.profile.clone())
    }

    /// What differs from `old`, for people.
    pub fn changes_since(&self, old: &Self) -> Vec<String> {
        let mut changes = Vec::new();
        let mut note = |changed: bool, text: &str| {
            if changed {
                changes.push(text.to_owned());
            }
        };
        let binds = |rules: &Self| {
            rules.plans.iter().map(|p| (p.bind.clone(), p.data, p.control)).collect::<Vec<_>>()
        };
        note(binds(self) != binds(old), "listening addresses");
        note(self.settings.control.sock != old.settings.control.sock, "control socket");
        note(self.certificates != old.certificates, "certificates");
        note(self.settings.users != old.settings.users, "users");
        let (limits, were) = (self.settings.limits, old.settings.limits);
        note(limits != were, "limits");
        note(limits.of_calls() != were.of_calls(), "limits of calls: take effect at the next start");
        let (mut new, mut before) = (self.settings.clone(), old.settings.clone());
        if let (Some(new), Some(before)) = (&mut new.listen, &mut before.listen) {
            note(new.origins != before.origins, "origins");
            new.origins.clone_from(&before.origins);
            (new.host, new.port) = (before.host.clone(), before.port);
        }
        if let (Some(new), Some(before)) = (&mut new.control.tcp, &before.control.tcp) {
            (new.host, new.port) = (before.host.clone(), before.port);
        }
        note(
            new.listen.is_some() == before.listen.is_some() && new.listen != before.listen,
            "WebSocket service",
        );
        note(
            new.control.tcp.is_some() == before.control.tcp.is_some()
                && new.control.tcp != before.control.tcp,
            "control service",
        );
        changes
    }
}

/// What is wrong with the files that the settings name: read as [`Rules::load`] reads them, without binding
/// or resolving anything.
pub fn check_files(settings: &DoorSettings) -> Vec<String> {
    let mut wrong = Vec::new();
    let key = match Key::random() {
        Ok(key) => key,
        Err(why) => return vec![why],
    };
    if let Some(listen) = &settings.listen {
        wrong.extend(listen.tls.as_ref().and_then(|tls| tls::server_config(tls).err()));
        wrong.extend(Gate::of_files(listen.htpasswd.as_deref(), listen.tokens.as_deref(), &key).err());
    }
    if let Some(tcp) = &settings.control.tcp {
        wrong.extend(tcp.tls.as_ref().and_then(|tls| tls::server_config(tls).err()));
        wrong.extend(Gate::of_files(tcp.htpasswd.as_deref(), None, &key).err());
    }
    wrong.dedup();
    wrong
}

fn data_bind(listen: &ListenSettings) -> Bind {
    let default = if listen.tls.is_some() { 443 } else { 80 };
    Bind { host: listen.host.clone(), port: listen.port.unwrap_or(default), service: Service::Data }
}

fn check_listen(listen: &ListenSettings) -> Result<(), String> {
    check_path(&listen.path, "--path")?;
    check_congestion(&listen.congestion)?;
    listen.origins.iter().try_for_each(|entry| origin::check_allowed(entry))?;
    if listen.proxy_protocol && listen.trusted_proxies.is_empty() {
        return Err("--proxy-protocol needs a --trusted-proxy to believe".to_owned());
    }
    Ok(())
}

fn check_path(path: &str, option: &str) -> Result<(), String> {
    let fine = |b: u8| b.is_ascii_graphic() && !matches!(b, b'?' | b'#');
    if path.starts_with('/') && path.bytes().all(fine) {
        return Ok(());
    }
    Err(format!("{option} \"{path}\" is not a path such as /ethernet"))
}

async fn check_anonymous(tcp: &ControlTcp, bind: &Bind) -> Result<(), String> {
    if !tcp.anonymous {
        return Ok(());
    }
    if tcp.htpasswd.is_some() {
        return Err("--ctlanonymous and --ctlhtpasswd exclude each other".to_owned());
    }
    if bind.resolve().await?.iter().all(|address| address.ip().to_canonical().is_loopback()) {
        return Ok(());
    }
    Err(format!("--ctlanonymous would let everyone who reaches {bind} in; it works on loopback alone"))
}

/// One address for both: paths must differ, TLS must not.
fn check_shared(listen: &ListenSettings, tcp: &ControlTcp, bind: &Bind) -> Result<(), String> {
    if listen.path == tcp.path {
        return Err(format!(
            "the WebSocket service and control are both at {bind}{}; change --path or --ctlpath",
            tcp.path
        ));
    }
    if listen.tls != tcp.tls {
        let shown = |tls: &Option<TlsFiles>| {
            tls.as_ref().map_or("no TLS".to_owned(), |files| format!("certificate {}", files.cert.display()))
        };
        return Err(format!(
            "the WebSocket service ({}) and control ({}) share {bind} but not their TLS settings",
            shown(&listen.tls),
            shown(&tcp.tls)
        ));
    }
    Ok(())
}

fn certificates(settings: &DoorSettings) -> Vec<Vec<u8>> {
    let data = settings.listen.iter().filter_map(|listen| listen.tls.as_ref());
    let control = settings.control.tcp.iter().filter_map(|tcp| tcp.tls.as_ref());
    let paths = data.chain(control).flat_map(|files| [Some(&files.cert), files.client_ca.as_ref()]);
    paths.flatten().map(|path| std::fs::read(located(path)).unwrap_or_default()).collect()
}
