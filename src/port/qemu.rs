//! Where virtual machines are met: a Unix socket or a TCP address, to listen on or to dial. What is spoken there is
//! [`crate::frame::stream`]'s to say.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use socket2::Socket;
use tokio::net::{TcpListener, UnixStream};
use tokio::time::timeout;

use super::dial::{self, DialError};
use super::spec::{Congestion, LinkOptions, PortKind, PortSpec};
use crate::sys::unix::UnixSocket;

/// `unix:PATH`, `tcp:PORT` (on 127.0.0.1), `tcp:HOST:PORT` or `tcp:[IPv6]:PORT`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    Unix(PathBuf),
    Tcp { host: String, port: u16 },
}

impl Address {
    /// The address that a port of such a target and options has.
    ///
    /// # Errors
    /// What is wrong with it, for people. A TCP address of this host that others reach is taken only with
    /// `options.anonymous`: nobody who connects is asked who he is.
    pub fn of(target: &str, options: &LinkOptions) -> Result<Self, String> {
        let address: Self = match target.split_once(':') {
            Some(("unix", path)) => unix(path)?,
            Some(("tcp", rest)) => tcp(rest)?,
            _ => {
                return Err(format!(
                    "{target:?} is no address of virtual machines (expected unix:PATH or tcp:ADDRESS:PORT)"
                ));
            }
        };
        if let (Self::Tcp { host, .. }, false) = (&address, options.connect) {
            let ip: IpAddr = host.parse().map_err(|_| {
                format!("{host:?} is not an IP address to listen on (a name is for connect alone)")
            })?;
            if !ip.to_canonical().is_loopback() && !options.anonymous {
                return Err(format!(
                    "whoever reaches {address} could join the network, unasked: listen on 127.0.0.1 or on a Unix \
                     socket, or say --anonymous (options.anonymous) if that is meant"
                ));
            }
        }
        Ok(address)
    }

    /// The file that a port of this kind would listen on.
    pub fn socket_of(spec: &PortSpec) -> Option<PathBuf> {
        let listens = spec.kind == PortKind::Qemu && !spec.options.connect;
        match Self::of(&spec.target, &spec.options).ok().filter(|_| listens)? {
            Self::Unix(path) => Some(path),
            Self::Tcp { .. } => None,
        }
    }

    /// How a port there is called that was given no name: as its socket, or `qemu`.
    pub fn stem(&self) -> String {
        let stem = match self {
            Self::Unix(path) => path.file_stem().map(|stem| stem.to_string_lossy().into_owned()),
            Self::Tcp { .. } => None,
        };
        stem.unwrap_or_else(|| "qemu".to_owned())
    }

    pub async fn listen(&self) -> Result<Listener, String> {
        match self {
            Self::Unix(path) => {
                UnixSocket::listen(path, |_| 0o660, "in the port's target").map(Listener::Unix)
            }
            Self::Tcp { host, port } => {
                let bound = TcpListener::bind((host.as_str(), *port)).await;
                bound.map(Listener::Tcp).map_err(|e| {
                    format!("could not listen on {self}: {e}; end what listens there, or choose another port")
                })
            }
        }
    }

    /// Connects to a QEMU that listens; the socket, which does not block, and whose it is.
    pub async fn dial(&self) -> Result<(Socket, String), DialError> {
        let failed = |error| DialError::Connect { to: self.to_string(), error };
        let whole = async {
            match self {
                Self::Unix(path) => {
                    let stream = UnixStream::connect(path).await;
                    let whole = stream.and_then(|stream| Ok((owner(&stream), stream.into_std()?)));
                    let (peer, stream) = whole.map_err(failed)?;
                    Ok((stream.into(), peer))
                }
                Self::Tcp { host, port } => {
                    let stream = dial::connect(host, *port, &Congestion::System).await?;
                    let whole = stream.peer_addr().and_then(|peer| Ok((stream.into_std()?, peer)));
                    let (stream, peer) = whole.map_err(failed)?;
                    Ok((stream.into(), peer.to_string()))
                }
            }
        };
        let to = self.to_string();
        let late = DialError::Timeout { to, limit: dial::TIME_LIMIT, stage: "connecting" };
        timeout(dial::TIME_LIMIT, whole).await.unwrap_or(Err(late))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp { host, port } if host.contains(':') => write!(f, "tcp:[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "tcp:{host}:{port}"),
        }
    }
}

/// What virtual machines connect to. A Unix socket's file goes away with it.
pub enum Listener {
    Unix(UnixSocket),
    Tcp(TcpListener),
}

impl Listener {
    /// The next one to connect: its socket, which does not block, and who it is.
    pub async fn accept(&self) -> io::Result<(Socket, String)> {
        match self {
            Self::Unix(socket) => {
                let (stream, _) = socket.listener.accept().await?;
                let peer = owner(&stream);
                Ok((stream.into_std()?.into(), peer))
            }
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                dial::set_options(&stream)?;
                Ok((stream.into_std()?.into(), peer.to_string()))
            }
        }
    }

    /// The address that was bound: where port 0 was asked for, what became of it.
    pub fn bound(&self) -> Option<SocketAddr> {
        match self {
            Self::Unix(_) => None,
            Self::Tcp(listener) => listener.local_addr().ok(),
        }
    }
}

/// The process at the other end of a Unix socket.
fn owner(stream: &UnixStream) -> String {
    // 0: it is in a PID namespace that is not ours.
    let pid = stream.peer_cred().ok().and_then(|cred| cred.pid()).filter(|pid| *pid > 0);
    pid.map_or_else(|| "a container".to_owned(), |pid| format!("pid {pid}"))
}

fn unix(path: &str) -> Result<Address, String> {
    let path = Path::new(path);
    let wrong = |why: &str| Err(format!("{path:?} cannot be a Unix socket: {why}"));
    if !path.is_absolute() {
        return wrong("the path has to begin with /");
    }
    if path.file_name().is_none() {
        return wrong("it names no file");
    }
    // sun_path (unix(7)), with its NUL.
    if path.as_os_str().len() > 107 {
        return wrong("the path is longer than 107 bytes");
    }
    if path.as_os_str().as_bytes().iter().any(u8::is_ascii_control) {
        return wrong("the path has a control character in it");
    }
    Ok(Address::Unix(path.to_owned()))
}

fn tcp(text: &str) -> Result<Address, String> {
    let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
    let wrong = || format!("{text:?} is not a TCP address (expected 5000, 127.0.0.1:5000 or [::1]:5000)");
    let port = port.parse().map_err(|_| wrong())?;
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host = match (host, bracketed) {
        ("", _) => Ipv4Addr::LOCALHOST.to_string(),
        (_, Some(six)) if six.parse::<std::net::Ipv6Addr>().is_ok() => six.to_owned(),
        (name, None) if name.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b)) => {
            name.to_owned()
        }
        _ => return Err(wrong()),
    };
    Ok(Address::Tcp { host, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown() {
        let connect = LinkOptions { connect: true, ..LinkOptions::default() };
        let anonymous = LinkOptions { anonymous: true, ..LinkOptions::default() };
        let listen = LinkOptions::default();
        for (text, options, shown, stem) in [
            ("unix:/run/etherws/vms.sock", &listen, "unix:/run/etherws/vms.sock", "vms"),
            ("tcp:5000", &listen, "tcp:127.0.0.1:5000", "qemu"),
            ("tcp:127.0.0.2:0", &listen, "tcp:127.0.0.2:0", "qemu"),
            ("tcp:[::1]:5000", &listen, "tcp:[::1]:5000", "qemu"),
            ("tcp:0.0.0.0:5000", &anonymous, "tcp:0.0.0.0:5000", "qemu"),
            ("tcp:vm-host.example.net:5000", &connect, "tcp:vm-host.example.net:5000", "qemu"),
        ] {
            let address = Address::of(text, options).unwrap();
            assert_eq!((address.to_string().as_str(), address.stem().as_str()), (shown, stem), "{text}");
        }
    }

    #[test]
    fn bad_55_addresses_that_make_no_sense_are_refused() {
        for (text, word) in [
            ("vms", "expected unix:PATH"),
            ("udp:5000", "expected unix:PATH"),
            ("unix:vms.sock", "begin with /"),
            ("unix:/", "names no file"),
            ("unix:/a\nb", "control character"),
            (&format!("unix:/{}", "a".repeat(107)), "107 bytes"),
            ("tcp:", "not a TCP address"),
            ("tcp:65536", "not a TCP address"),
            ("tcp:::1:5000", "not a TCP address"),
            ("tcp:localhost:5000", "not an IP address"),
            ("tcp:0.0.0.0:5000", "--anonymous"),
            ("tcp:[::]:5000", "--anonymous"),
            ("tcp:192.0.2.1:5000", "--anonymous"),
        ] {
            let why = Address::of(text, &LinkOptions::default()).unwrap_err();
            assert!(why.contains(word) && !why.contains('\n'), "{text}: {why}");
        }
    }
}
