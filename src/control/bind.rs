//! Sockets to listen on: TCP by name or address; and secrets in files.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, lookup_host};

use crate::sys::sandbox::{self, Want, hint};

/// Where a service is to listen, as configured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bind {
    /// Absent: every address, IPv6 and IPv4.
    pub host: Option<String>,
    pub port: u16,
    /// For whom; where both services share an address, the WebSocket service.
    pub service: Service,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Service {
    Data,
    Control,
    Metrics,
}

impl std::fmt::Display for Bind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.host {
            Some(host) if host.contains(':') && !host.starts_with('[') => write!(f, "[{host}]:{}", self.port),
            Some(host) => write!(f, "{host}:{}", self.port),
            None => write!(f, "*:{}", self.port),
        }
    }
}

impl Bind {
    /// The addresses behind the name.
    pub async fn resolve(&self) -> Result<Vec<SocketAddr>, String> {
        let Some(host) = &self.host else {
            return Ok(vec![SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), self.port)]);
        };
        let bare = host.trim_matches(['[', ']']);
        let mut found: Vec<SocketAddr> = lookup_host((bare, self.port))
            .await
            .map_err(|e| format!("could not resolve the address to listen on, {host}: {e}"))?
            .collect();
        found.sort_unstable();
        found.dedup();
        if found.is_empty() {
            return Err(format!("the address to listen on, {host}, has no addresses"));
        }
        Ok(found)
    }

    /// Listens on every address behind the name.
    pub async fn listen(&self) -> Result<Vec<TcpListener>, BindError> {
        let mut addresses = self.resolve().await.map_err(BindError::Other)?;
        let mut listeners: Vec<TcpListener> = Vec::new();
        for address in &mut addresses {
            // Port 0 is chosen once and then the same for every address.
            if let Some(Ok(first)) = listeners.first().map(TcpListener::local_addr) {
                address.set_port(first.port());
            }
            let listener = match listen_tcp(*address) {
                Err(e) if self.host.is_none() && no_ipv6(&e) => {
                    listen_tcp(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), self.port))
                }
                other => other,
            };
            listeners.push(listener.map_err(|e| self.failure(&e))?);
        }
        Ok(listeners)
    }

    fn failure(&self, error: &io::Error) -> BindError {
        let text = format!("could not listen on {self} for {}: {error}", self.service);
        match error.kind() {
            io::ErrorKind::AddrInUse => {
                let (_, port) = self.service.options();
                BindError::InUse(format!("{text}; end what listens there, or choose another {port}"))
            }
            io::ErrorKind::AddrNotAvailable => BindError::Other(format!(
                "{text}; {} names an address of this machine, or is left out",
                self.service.options().0
            )),
            io::ErrorKind::PermissionDenied if self.port < 1024 => BindError::Other(format!(
                "{text}; ports below 1024 need CAP_NET_BIND_SERVICE or etherws.socket{}",
                sandbox::bind_hint()
            )),
            _ => BindError::Other(text),
        }
    }
}

impl Service {
    /// What sets its address, and its port.
    fn options(self) -> (&'static str, &'static str) {
        match self {
            Self::Data => ("--host", "--port"),
            Self::Control => ("--ctlhost", "--ctlport"),
            Self::Metrics => ("--metrics", "port in --metrics"),
        }
    }
}

impl std::fmt::Display for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Data => "the WebSocket service",
            Self::Control => "control",
            Self::Metrics => "metrics",
        })
    }
}

#[derive(Debug)]
pub enum BindError {
    InUse(String),
    Other(String),
}

impl BindError {
    pub fn text(self) -> String {
        let (Self::InUse(text) | Self::Other(text)) = self;
        text
    }
}

/// Whether two sets of addresses cannot be listened on at the same time.
pub fn overlap(a: &[SocketAddr], b: &[SocketAddr]) -> bool {
    let any = |ip: IpAddr| ip.is_unspecified();
    a.iter().any(|a| {
        b.iter().any(|b| a.port() == b.port() && a.port() != 0 && (a == b || any(a.ip()) || any(b.ip())))
    })
}

fn listen_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), None)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn no_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

/// Writes a secret whole or not at all, readable by its owner alone.
pub fn write_secret(path: &Path, text: &str) -> Result<(), String> {
    let fail =
        |e: io::Error| format!("could not write {}: {e}{}", path.display(), hint(path, &e, Want::Write));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let fresh = path.with_file_name(name);
    let _ = fs::remove_file(&fresh);
    let written =
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh).and_then(|mut file| {
            io::Write::write_all(&mut file, text.as_bytes())?;
            fs::rename(&fresh, path)
        });
    written.map_err(|e| {
        let _ = fs::remove_file(&fresh);
        fail(e)
    })
}

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_is_replaced_whole_and_its_owner_s_alone() -> Result<(), Box<dyn std::error::Error>> {
        let dir = std::env::temp_dir().join(format!("etherws-secret-{}", std::process::id()));
        fs::create_dir_all(&dir)?;
        let path = dir.join("token");
        fs::write(&path, "anybody's")?;
        write_secret(&path, "secret\n")?;
        write_secret(&path, "other\n")?;
        assert_eq!(fs::metadata(&path)?.permissions().mode() & 0o777, 0o600);
        assert_eq!((fs::read_to_string(&path)?.as_str(), fs::read_dir(&dir)?.count()), ("other\n", 1));
        fs::remove_dir_all(&dir)?;
        Ok(())
    }

    #[test]
    fn overlapping_addresses() {
        let set =
            |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<SocketAddr>>();
        for (a, b, expected) in [
            (&["[::]:80"][..], &["127.0.0.1:80"][..], true),
            (&["10.0.0.1:80"], &["127.0.0.1:80", "10.0.0.1:80"], true),
            (&["10.0.0.1:80"], &["127.0.0.1:80"], false),
            (&["[::]:80"], &["127.0.0.1:81"], false),
            (&["[::]:0"], &["127.0.0.1:0"], false),
        ] {
            assert_eq!(overlap(&set(a), &set(b)), expected, "{a:?} {b:?}");
        }
    }
}
