//! Where a link goes: the URL and its options, checked once.

use std::fmt;
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderValue, Uri};
use rustls_pki_types::ServerName;
use zeroize::Zeroizing;

use super::{files, proxy, trust};
use crate::port::spec::{Congestion, LinkOptions};

/// A checked ws:// or wss:// URL with the options for dialling it.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    display: String,
    /// wss://.
    pub(super) secure: bool,
    /// Name or address, an IPv6 one without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// Path and query, at least "/".
    pub(super) path: String,
    /// With the credentials that stood in the URL.
    pub(super) options: LinkOptions,
    /// Of the connection, or of that to the proxy.
    pub congestion: Congestion,
}

impl Target {
    /// Checks URL and options; reads no file. The error names the URL (without credentials) and the rule.
    pub fn parse(url: &str, options: &LinkOptions) -> Result<Self, String> {
        let shown = redacted(url);
        let broken = |rule: &str| format!("URL {shown}: {rule}");
        let fail = |rule: &str| Err(broken(rule));
        let Some((scheme, rest)) = url.split_once("://") else {
            return fail("must start with ws:// or wss://");
        };
        let secure = match scheme.to_ascii_lowercase().as_str() {
            "ws" => false,
            "wss" => true,
            _ => return fail("must start with ws:// or wss://"),
        };
        if rest.contains('#') {
            return fail("must not have a fragment (RFC 6455 section 3); write # as %23");
        }
        // The user information is taken off first, so that nothing below can show it.
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (userinfo, authority) = match authority.rsplit_once('@') {
            Some((userinfo, authority)) => (Some(userinfo), authority),
            None => (None, authority),
        };
        let slash = if path.starts_with('/') { "" } else { "/" };
        let Ok(uri) = format!("http://{authority}{slash}{path}").parse::<Uri>() else {
            return fail("not a valid URL (characters beyond ASCII and spaces must be percent-encoded)");
        };
        let bracketed = uri.host().unwrap_or_default();
        let host = bracketed.trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return fail("has no host");
        }
        if ServerName::try_from(host.as_str()).is_err() {
            return fail("the host is neither a name nor an address");
        }
        let default = if secure { 443 } else { 80 };
        let port = match authority[bracketed.len()..].trim_start_matches(':') {
            "" => default,
            digits => match digits.parse() {
                Ok(port) if port != 0 => port,
                _ => return fail("the port must be 1 to 65535"),
            },
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let mut options = options.clone();
        if let Some(userinfo) = userinfo {
            take_userinfo(userinfo, &mut options).map_err(|rule| broken(&rule))?;
        }
        check_options(secure, &options).map_err(|rule| broken(&rule))?;

        let explicit = if port == default { String::new() } else { format!(":{port}") };
        let scheme = if secure { "wss" } else { "ws" };
        let display = format!("{scheme}://{bracketed}{explicit}{}", without_token(&path));
        Ok(Self { display, secure, host, port, path, options, congestion: Congestion::System })
    }

    /// The URL without credentials: neither user information nor the value of a `token` in the query.
    pub fn display(&self) -> &str {
        &self.display
    }

    /// The options that mean nothing without TLS, when there are such: someone may think that there is.
    pub fn idle_options(&self) -> Option<&'static str> {
        match (self.secure, self.options.cacerts.is_some(), self.options.insecure) {
            (true, ..) | (_, false, false) => None,
            (_, true, false) => Some("cacerts means nothing for ws://, which has no TLS"),
            (_, false, true) => Some("insecure means nothing for ws://, which has no TLS"),
            (_, true, true) => Some("cacerts and insecure mean nothing for ws://, which has no TLS"),
        }
    }

    /// Reads the files that the options name, as each dial will; for an answer to whoever adds the
    /// port. Blocks on the disk. The error names the file and never shows what is in it.
    pub fn check_files(&self) -> Result<(), String> {
        self.authorization()?;
        if self.secure {
            trust::client_config(self)?;
        }
        Ok(())
    }

    /// `host:port`, with brackets where IPv6 wants them.
    pub(super) fn authority(&self) -> String {
        authority(&self.host, self.port)
    }

    /// The `Host` field: the port only when it is not the scheme's (RFC 6455 section 4.1, item 4).
    pub(super) fn host_field(&self) -> String {
        let authority = self.authority();
        let default = if self.secure { ":443" } else { ":80" };
        authority.strip_suffix(default).map_or(authority.clone(), str::to_owned)
    }

    /// The `Authorization` field; reads the password's file. Blocks on the disk.
    pub(super) fn authorization(&self) -> Result<Option<HeaderValue>, String> {
        let options = &self.options;
        let text = Zeroizing::new(if let Some(token) = &options.token {
            format!("Bearer {}", &**token)
        } else if let Some(user) = &options.user {
            let password = match (&options.passwd, &options.passwd_file) {
                (Some(password), _) => Zeroizing::new(password.to_string()),
                (None, Some(file)) => files::first_line("password file", Path::new(file))?,
                (None, None) => Zeroizing::default(),
            };
            let both = Zeroizing::new(format!("{user}:{}", *password));
            format!("Basic {}", *Zeroizing::new(BASE64_STANDARD.encode(&*both)))
        } else {
            return Ok(None);
        });
        let mut value =
            HeaderValue::try_from(&*text).map_err(|_| "token with an unusable character".to_owned())?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Target").field(&self.display).finish()
    }
}

/// `host:port`, with brackets around an IPv6 address.
pub(super) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// A URL for an error message: everything up to its last `@` left out, whatever its form, and tokens.
pub(super) fn redacted(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let rest = without_token(rest.rsplit_once('@').map_or(rest, |(_, rest)| rest));
    if scheme.is_empty() { format!("{rest:?}") } else { format!("{:?}", format!("{scheme}://{rest}")) }
}

/// The path with the values of `token=` in its query replaced.
fn without_token(path: &str) -> String {
    let Some((path, query)) = path.split_once('?') else { return path.to_owned() };
    let parts = query.split('&').map(|part| if part.starts_with("token=") { "token=***" } else { part });
    format!("{path}?{}", parts.collect::<Vec<_>>().join("&"))
}

/// Moves `user:password` of a URL into the options.
fn take_userinfo(userinfo: &str, options: &mut LinkOptions) -> Result<(), String> {
    if options.user.is_some() || options.token.is_some() {
        return Err("credentials in the URL and in the options; give one of them".to_owned());
    }
    let (user, password) = userinfo.split_once(':').map_or((userinfo, None), |(user, p)| (user, Some(p)));
    let decode = |text| percent_decode(text).ok_or("credentials are not valid percent-encoding".to_owned());
    options.user = Some(decode(user)?);
    if let Some(password) = password {
        if options.passwd.is_some() || options.passwd_file.is_some() {
            return Err("a password in the URL and in the options; give one of them".to_owned());
        }
        options.passwd = Some(decode(password)?.into());
    }
    Ok(())
}

/// The rules between options. The text is the rule that was broken.
fn check_options(secure: bool, options: &LinkOptions) -> Result<(), String> {
    let rules = [
        (options.passwd.is_some() && options.passwd_file.is_some(), "give passwd or passwd_file, not both"),
        (
            options.user.is_none() && (options.passwd.is_some() || options.passwd_file.is_some()),
            "a password needs a user",
        ),
        (options.user.is_some() && options.token.is_some(), "give a user or a token, not both"),
        // RFC 7617 section 2: the first colon ends the user.
        (options.user.as_ref().is_some_and(|user| user.contains(':')), "a user must not contain a colon"),
        (
            options.token.as_ref().is_some_and(|t| t.is_empty() || !t.bytes().all(|b| b.is_ascii_graphic())),
            "a token is one or more visible ASCII characters",
        ),
        (options.cert.is_some() != options.key.is_some(), "cert and key: give both or neither"),
        (
            // cacerts and insecure, which 1.3 takes with either scheme, only mean nothing here.
            !secure && options.cert.is_some(),
            "cert and key are for wss:// only",
        ),
        (options.ping == Some(0), "ping must be at least 1 s"),
    ];
    if let Some((_, rule)) = rules.iter().find(|(broken, _)| *broken) {
        return Err((*rule).to_owned());
    }
    match &options.proxy {
        Some(proxy) => proxy::check(proxy),
        None => Ok(()),
    }
}

/// `%41` to `A`; None when a `%` has no two digits or the result is not UTF-8.
fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let [high, low, tail @ ..] = rest else { return None };
        let digit = |byte: u8| char::from(byte).to_digit(16);
        bytes.push(u8::try_from(digit(*high)? << 4 | digit(*low)?).ok()?);
        rest = tail;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Target, String> {
        Target::parse(url, &LinkOptions::default())
    }

    #[test]
    fn urls_taken() {
        let table = [
            ("ws://h", "ws://h/", "h", 80, "/", "h"),
            ("WSS://h", "wss://h/", "h", 443, "/", "h"),
            (
                "ws://10.0.0.1:8080/a/b?c=d&e",
                "ws://10.0.0.1:8080/a/b?c=d&e",
                "10.0.0.1",
                8080,
                "/a/b?c=d&e",
                "10.0.0.1:8080",
            ),
            (
                "wss://[2001:db8::1]:8443/",
                "wss://[2001:db8::1]:8443/",
                "2001:db8::1",
                8443,
                "/",
                "[2001:db8::1]:8443",
            ),
            ("ws://[::1]", "ws://[::1]/", "::1", 80, "/", "[::1]"),
            ("ws://h:443?x", "ws://h:443/?x", "h", 443, "/?x", "h:443"),
            ("wss://h:443/?token=s3cret&y=1", "wss://h/?token=***&y=1", "h", 443, "/?token=s3cret&y=1", "h"),
            ("ws://u:p@h/a@b", "ws://h/a@b", "h", 80, "/a@b", "h"),
        ];
        for (url, display, host, port, path, field) in table {
            let target = parse(url).unwrap_or_else(|error| panic!("{url}: {error}"));
            assert_eq!(
                (
                    target.display(),
                    target.host.as_str(),
                    target.port,
                    target.path.as_str(),
                    target.host_field()
                ),
                (display, host, port, path, field.to_owned()),
                "{url}"
            );
        }
    }

    #[test]
    fn urls_refused_by_rule() {
        let table = [
            ("http://h/", "ws:// or wss://"),
            ("h", "ws:// or wss://"),
            ("ws://", "not a valid URL"),
            ("ws:///x", "not a valid URL"),
            ("ws://h/#f", "fragment"),
            ("ws://h:0/", "port"),
            ("ws://h:65536/", "port"),
            ("ws://h:-1/", "port"),
            ("ws://h h/", "not a valid URL"),
            ("ws://[::1", "not a valid URL"),
            ("ws://a..b/", "neither a name nor an address"),
            ("ws://%zz@h/", "percent-encoding"),
            ("ws://h/\r\nX: y", "not a valid URL"),
        ];
        for (url, rule) in table {
            let error = parse(url).expect_err(url);
            assert!(error.contains(rule), "{url}: {error}");
            assert!(error.starts_with("URL \""), "{error}");
        }
    }

    #[test]
    fn bad_58_no_credentials_in_any_text() {
        for url in [
            "ws://u:hunter2@h:0/",
            "ws://u:hunter2#@h/",
            "ws://u:hunter2/@h/",
            "u:hunter2@h",
            "x://u:hunter2@h",
            "ws://h:0/?token=hunter2",
        ] {
            let error = parse(url).expect_err(url);
            assert!(!error.contains("hunter2"), "{error}");
        }
        let target = parse("ws://u:hunter2@h/?token=hunter2").unwrap();
        assert!(!format!("{target:?} {}", target.display()).contains("hunter2"));
        let proxied = LinkOptions { proxy: Some("ftp://u:hunter2@p".into()), ..LinkOptions::default() };
        assert!(!Target::parse("ws://h", &proxied).unwrap_err().contains("hunter2"));
    }

    #[test]
    fn credentials_of_url_and_options() {
        let target = parse("ws://b%40b:p%3a%25@h/").unwrap();
        assert_eq!(target.options.user.as_deref(), Some("b@b"));
        assert_eq!(
            target.authorization().unwrap().unwrap(),
            format!("Basic {}", BASE64_STANDARD.encode("b@b:p:%"))
        );
        let options = LinkOptions { token: Some("t0k".into()), ..LinkOptions::default() };
        let target = Target::parse("ws://h", &options).unwrap();
        let value = target.authorization().unwrap().unwrap();
        assert_eq!(value, "Bearer t0k");
        assert!(value.is_sensitive());
        assert_eq!(parse("ws://h").unwrap().authorization(), Ok(None));
    }

    #[test]
    fn options_of_tls_without_tls_are_taken_as_1_3_takes_them() {
        let options =
            LinkOptions { cacerts: Some("/nonexistent".into()), insecure: true, ..LinkOptions::default() };
        let target = Target::parse("ws://h", &options).unwrap();
        assert_eq!(target.check_files(), Ok(()), "a file that nobody needs is not looked for");
        assert!(target.idle_options().is_some_and(|text| text.contains("cacerts and insecure")));
        assert_eq!(Target::parse("wss://h", &options).unwrap().idle_options(), None);
        assert_eq!(parse("ws://h").unwrap().idle_options(), None);
    }

    #[test]
    fn options_refused_by_rule() {
        let base = LinkOptions::default;
        fn s<T: for<'t> From<&'t str>>(text: &str) -> Option<T> {
            Some(text.into())
        }
        let table = [
            ("ws://h", LinkOptions { passwd: s("x"), ..base() }, "needs a user"),
            (
                "ws://h",
                LinkOptions { user: s("u"), passwd: s("x"), passwd_file: s("f"), ..base() },
                "not both",
            ),
            ("ws://h", LinkOptions { user: s("u"), token: s("x"), ..base() }, "not both"),
            ("ws://h", LinkOptions { user: s("u:v"), ..base() }, "colon"),
            ("ws://h", LinkOptions { token: s("a\r\nb"), ..base() }, "visible ASCII"),
            ("ws://u@h", LinkOptions { user: s("u"), ..base() }, "give one of them"),
            ("wss://h", LinkOptions { cert: s("f"), ..base() }, "both or neither"),
            ("wss://h", LinkOptions { key: s("f"), ..base() }, "both or neither"),
            ("ws://h", LinkOptions { cert: s("c"), key: s("k"), ..base() }, "wss:// only"),
            ("ws://h", LinkOptions { proxy: s("ftp://p:1"), ..base() }, "proxy"),
            ("ws://h", LinkOptions { ping: Some(0), ..base() }, "ping"),
        ];
        for (url, options, rule) in table {
            let error = Target::parse(url, &options).expect_err(rule);
            assert!(error.contains(rule), "{error}");
        }
    }
}
