//! Which server, as whom: the control URL, the credentials, the trust in its certificate.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use etherws::control::api;

use crate::Wrong;
use crate::cli::ServerArgs;

/// Where the control service listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Url {
    Unix(PathBuf),
    Tcp { tls: bool, host: String, port: u16, path: String },
}

impl Url {
    /// The Host header: what the server knows itself by.
    pub fn authority(&self) -> String {
        match self {
            Self::Unix(_) => "localhost".into(),
            Self::Tcp { tls, host, port, .. } if *port == default_port(*tls) => bracketed(host),
            Self::Tcp { host, port, .. } => format!("{}:{port}", bracketed(host)),
        }
    }

    pub fn path(&self) -> &str {
        match self {
            Self::Unix(_) => api::DEFAULT_PATH,
            Self::Tcp { path, .. } => path,
        }
    }

    fn is_loopback(&self) -> bool {
        match self {
            Self::Unix(_) => false,
            Self::Tcp { host, .. } => {
                host.eq_ignore_ascii_case("localhost")
                    || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
            }
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp { tls, path, .. } => {
                write!(f, "{}://{}{path}", if *tls { "https" } else { "http" }, self.authority())
            }
        }
    }
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            // unix:///run/x is how others write it.
            let path = path.strip_prefix("//").unwrap_or(path);
            return match path {
                "" => Err("unix: needs a path".into()),
                path => Ok(Self::Unix(path.into())),
            };
        }
        let uri: http::Uri = text.parse().map_err(|e| format!("not a URL: {e}"))?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err("expected unix:PATH, http://HOST:PORT/ctl or https://HOST:PORT/ctl".into()),
        };
        let authority = uri.authority().ok_or("no host in it")?;
        if authority.as_str().contains('@') {
            return Err("credentials in it (use --ctluser and --ctlpasswd)".into());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err("no host in it".into());
        }
        let port = match authority.as_str()[authority.host().len()..].strip_prefix(':') {
            Some(digits) => digits.parse().map_err(|_| format!("{digits:?} is not a port number"))?,
            None => default_port(tls),
        };
        // An explicit / is taken at its word.
        let bare = text.split_once("://").is_some_and(|(_, rest)| !rest.contains(['/', '?']));
        let path = uri.path_and_query().map_or(api::DEFAULT_PATH, |path| path.as_str());
        let path = if bare { api::DEFAULT_PATH } else { path };
        Ok(Self::Tcp { tls, host, port, path: path.to_owned() })
    }
}

/// A server with all that is needed to talk to it.
#[derive(Clone)]
pub struct Server {
    pub url: Url,
    pub trust_file: Option<PathBuf>,
    pub insecure: bool,
    authorization: Option<String>,
}

impl Server {
    /// Reads the local token, asks for a password that `--ctluser` lacks.
    pub fn of(args: ServerArgs) -> Result<Self, Wrong> {
        let url = match args.ctlurl {
            Some(url) => url,
            None => Url::Unix(existing_socket().ok_or_else(|| {
                "no XDG_RUNTIME_DIR to look for the switch in (--ctlurl names it)".to_owned()
            })?),
        };
        let authorization = match (args.ctluser, args.ctlpasswd) {
            (Some(user), Some(passwd)) => Some(basic(&user, &passwd)?),
            (Some(user), None) => Some(basic(&user, &ask_password("Control Password: ", "--ctlpasswd")?)?),
            (None, Some(_)) => return Err(Wrong::Usage("--ctlpasswd needs --ctluser".into())),
            (None, None) if url.is_loopback() => local_token().map(|token| format!("Bearer {token}")),
            (None, None) => None,
        };
        Ok(Self { url, trust_file: args.ctlsslcert, insecure: args.ctlinsecure, authorization })
    }

    /// The Authorization header.
    pub fn authorization(&self) -> Option<&str> {
        self.authorization.as_deref()
    }

    /// True when somebody has said who they are; a token is the switch's own.
    pub fn is_user(&self) -> bool {
        self.authorization.as_deref().is_some_and(|header| !header.starts_with("Bearer "))
    }

    /// Reads the local token again, which is another after the switch was started again; whether it is.
    pub fn renew_token(&mut self) -> bool {
        let Some(old) = self.authorization.as_deref().filter(|header| header.starts_with("Bearer ")) else {
            return false;
        };
        let new = local_token().map(|token| format!("Bearer {token}"));
        let renewed = new.as_deref().is_some_and(|new| new != old);
        if renewed {
            self.authorization = new;
        }
        renewed
    }

    /// True when nobody has said who they are and somebody is there to ask.
    pub fn may_prompt(&self) -> bool {
        !self.is_user() && io::stdin().is_terminal() && io::stderr().is_terminal()
    }

    pub fn prompt(&mut self) -> Result<(), Wrong> {
        let mut user = String::new();
        write!(io::stderr(), "Control User: ")
            .and_then(|()| io::stderr().flush())
            .and_then(|()| io::stdin().read_line(&mut user))
            .map_err(|e| format!("could not ask for the user: {e}"))?;
        let passwd = ask_password("Control Password: ", "--ctlpasswd")?;
        self.authorization = Some(basic(user.trim_end_matches(['\r', '\n']), &passwd)?);
        Ok(())
    }
}

/// Asks on the terminal; `instead` is the option that spares it.
pub fn ask_password(prompt: &str, instead: &str) -> Result<String, String> {
    if !io::stdin().is_terminal() {
        return Err(format!("no password, and no terminal to ask for it on ({instead} gives it)"));
    }
    rpassword::prompt_password(prompt)
        .map_err(|e| format!("could not ask for the password: {e} ({instead} gives it)"))
}

fn basic(user: &str, passwd: &str) -> Result<String, Wrong> {
    if user.contains(':') {
        let why = format!("user {user:?} has ':' in it, which Basic authentication cannot carry");
        return Err(Wrong::Usage(why));
    }
    Ok(format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{passwd}"))))
}

/// The local switch's socket: this user's own, or the system's when only that is there.
fn existing_socket() -> Option<PathBuf> {
    let own = own_socket();
    let system = Path::new(api::SYSTEM_SOCKET);
    match own {
        Some(own) if own.exists() || !system.exists() => Some(own),
        _ => Some(system.to_owned()),
    }
}

fn own_socket() -> Option<PathBuf> {
    let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    api::default_socket(nix::unistd::geteuid().is_root(), runtime_dir.as_deref())
}

/// The token that a local switch left for this user. Whatever is no token stays where it is.
fn local_token() -> Option<String> {
    let candidates = [own_socket(), Some(api::SYSTEM_SOCKET.into())];
    let text = candidates
        .into_iter()
        .flatten()
        .find_map(|socket| std::fs::read_to_string(api::token_file(&socket)).ok())?;
    let token = text.trim();
    (token.len() == 64 && token.bytes().all(|b| b.is_ascii_hexdigit())).then(|| token.to_owned())
}

fn default_port(tls: bool) -> u16 {
    if tls { 443 } else { 80 }
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_read_and_print() {
        let table = [
            ("unix:/run/x.sock", "unix:/run/x.sock", "localhost"),
            ("unix:///run/x.sock", "unix:/run/x.sock", "localhost"),
            ("http://127.0.0.1:7867/ctl", "http://127.0.0.1:7867/ctl", "127.0.0.1:7867"),
            ("http://h:7867", "http://h:7867/ctl", "h:7867"),
            ("http://h/", "http://h/", "h"),
            ("https://h", "https://h/ctl", "h"),
            ("https://[::1]:443/a?b=c", "https://[::1]/a?b=c", "[::1]"),
        ];
        for (text, shown, authority) in table {
            let url: Url = text.parse().expect(text);
            assert_eq!(
                (url.to_string(), url.authority()),
                (shown.to_owned(), authority.to_owned()),
                "{text}"
            );
        }
        for wrong in
            ["", "unix:", "ftp://h/", "h:80", "http://", "http://u:p@h/", "http://h:99999/", "http://h:/"]
        {
            assert!(wrong.parse::<Url>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_token_is_for_loopback_alone() {
        for (url, local) in [
            ("http://localhost:1/", true),
            ("http://127.9.9.9/", true),
            ("https://[::1]/", true),
            ("http://[::ffff:127.0.0.1]/", true),
            ("http://localhost.example/", false),
            ("http://127.0.0.1.example/", false),
            ("http://192.0.2.1/", false),
            ("unix:/x", false),
        ] {
            assert_eq!(url.parse::<Url>().unwrap().is_loopback(), local, "{url}");
        }
    }
}
