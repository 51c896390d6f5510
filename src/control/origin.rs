//! Host and Origin: which web pages may talk to us. Pure.
//!
//! On the data service a browser guest is welcome when its page came from the same host and port, or from a
//! listed origin. On control a request must name us as Host (a page that rebinds its DNS name to us names
//! itself), and a page's request must come from that very host.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, Uri, header};

/// A host and port as they stand in Host or Origin, lower case, no brackets, no trailing dot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Authority {
    pub host: String,
    pub port: Option<u16>,
}

impl Authority {
    /// `host`, `host:port`, `[v6]`, `[v6]:port`; nothing else (no user, no path).
    pub fn parse(text: &str) -> Option<Self> {
        let (host, rest) = match text.strip_prefix('[') {
            Some(inner) => {
                let (host, rest) = inner.split_once(']')?;
                let address: std::net::Ipv6Addr = host.parse().ok()?;
                (address.to_string(), rest)
            }
            None => {
                let end = text.find(':').unwrap_or(text.len());
                (text[..end].to_ascii_lowercase(), &text[end..])
            }
        };
        let port = match rest.strip_prefix(':') {
            None if rest.is_empty() => None,
            None => return None,
            Some("") => None,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => Some(digits.parse().ok()?),
            Some(_) => return None,
        };
        let host = host.strip_suffix('.').unwrap_or(&host);
        let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | 0x80..);
        if host.is_empty() || !host.bytes().all(fine) {
            return None;
        }
        Some(Self { host: host.to_owned(), port })
    }

    fn port_or(&self, default: u16) -> u16 {
        self.port.unwrap_or(default)
    }
}

/// Why a request's Host is not usable; both are 400.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostError {
    Absent,
    /// More than one, not a host, or another than the request line's.
    Malformed,
}

/// The one Host of a request (RFC 9112, 3.2).
pub fn host(uri: &Uri, headers: &HeaderMap) -> Result<Authority, HostError> {
    let host = match single(headers, &header::HOST) {
        Ok(Some(text)) => Authority::parse(text).ok_or(HostError::Malformed)?,
        Ok(None) => return Err(HostError::Absent),
        Err(()) => return Err(HostError::Malformed),
    };
    match uri.authority() {
        Some(target) if Authority::parse(target.as_str()).as_ref() != Some(&host) => {
            Err(HostError::Malformed)
        }
        _ => Ok(host),
    }
}

/// An Origin header: `scheme://host[:port]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Origin {
    scheme: String,
    authority: Authority,
}

impl Origin {
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let scheme = scheme.to_ascii_lowercase();
        if !matches!(scheme.as_str(), "http" | "https" | "ws" | "wss") {
            return None;
        }
        Some(Self { scheme, authority: Authority::parse(rest)? })
    }

    fn port(&self) -> u16 {
        self.authority.port_or(if matches!(self.scheme.as_str(), "https" | "wss") { 443 } else { 80 })
    }
}

/// Whether it is a browser that asks, by what no page can change: the Origin that it sends, and the first word of its
/// User-Agent. Origin alone says little, since other clients send one as well.
pub fn is_browser(headers: &HeaderMap) -> bool {
    let agent = headers.get(header::USER_AGENT).map_or(&[][..], |value| value.as_bytes());
    headers.contains_key(header::ORIGIN) && agent.starts_with(b"Mozilla/")
}

/// Whether a page may open a link: no Origin (no browser), the service's own host and port whatever the
/// scheme, 80 and 443 being one, or one of `allowed`.
pub fn data_origin_fits(headers: &HeaderMap, host: &Authority, tls: bool, allowed: &[String]) -> bool {
    let text = match single(headers, &header::ORIGIN) {
        Ok(None) => return true,
        Ok(Some(text)) => text,
        Err(()) => return false,
    };
    if allowed.iter().any(|entry| entry == "*" || origin_equals(entry, text)) {
        return true;
    }
    let Some(origin) = Origin::parse(text) else { return false };
    let web = |port| if port == 443 { 80 } else { port };
    origin.authority.host == host.host && web(origin.port()) == web(host.port_or(if tls { 443 } else { 80 }))
}

/// Whether a request to control comes from no page at all or from a page of ours.
pub fn control_origin_fits(headers: &HeaderMap, host: &Authority, tls: bool) -> bool {
    let fetch_site = HeaderName::from_static("sec-fetch-site");
    if !matches!(single(headers, &fetch_site), Ok(None | Some("same-origin" | "none"))) {
        return false;
    }
    let origin = match single(headers, &header::ORIGIN) {
        Ok(None) => return true,
        Ok(Some(text)) => Origin::parse(text),
        Err(()) => return false,
    };
    let (scheme, port) = if tls { ("https", 443) } else { ("http", 80) };
    origin.is_some_and(|origin| {
        origin.scheme == scheme && origin.authority.host == host.host && origin.port() == host.port_or(port)
    })
}

/// Whether control goes by this name: loopback, the configured host, the address connected to.
pub fn control_host_fits(host: &Authority, configured: &str, local: IpAddr) -> bool {
    let name = host.host.as_str();
    if name == "localhost" || name.eq_ignore_ascii_case(configured.trim_matches(['[', ']'])) {
        return true;
    }
    // An address cannot be rebound, but only ours is one of our names.
    name.parse::<IpAddr>().is_ok_and(|address| {
        address.to_canonical().is_loopback() || address.to_canonical() == local.to_canonical()
    })
}

/// Checks an entry of `--origin`.
pub fn check_allowed(entry: &str) -> Result<(), String> {
    if entry == "*" || Origin::parse(entry).is_some() {
        return Ok(());
    }
    Err(format!("origin \"{entry}\" is neither * nor of the form https://HOST[:PORT]"))
}

fn origin_equals(entry: &str, text: &str) -> bool {
    match (Origin::parse(entry), Origin::parse(text)) {
        (Some(a), Some(b)) => {
            a.scheme == b.scheme && a.authority.host == b.authority.host && a.port() == b.port()
        }
        _ => false,
    }
}

/// The only value of a header; an error when there are several or it is not text.
pub fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, ()> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| ()),
        _ => Err(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).fold(
            HeaderMap::new(),
            |mut map, (name, value)| {
                map.append(name, value);
                map
            },
        )
    }

    fn authority(text: &str) -> Authority {
        Authority::parse(text).unwrap_or_else(|| panic!("{text}"))
    }

    #[test]
    fn authorities() {
        for (text, host, port) in [
            ("Example.ORG", "example.org", None),
            ("example.org.:8080", "example.org", Some(8080)),
            ("[::1]:80", "::1", Some(80)),
            ("[0:0::1]", "::1", None),
            ("10.0.0.1:", "10.0.0.1", None),
        ] {
            assert_eq!(Authority::parse(text), Some(Authority { host: host.to_owned(), port }), "{text}");
        }
        for text in
            ["", ":80", "a:b", "a:99999", "a:+1", "a@b", "a/b", "[::1", "[x]", "::1", "a b", "[::1]x", "."]
        {
            assert_eq!(Authority::parse(text), None, "{text}");
        }
    }

    #[test]
    fn bad_12_exactly_one_host() {
        let uri = |text: &str| text.parse::<Uri>().unwrap();
        assert_eq!(host(&uri("/"), &map(&[("host", "a:1")])), Ok(authority("a:1")));
        assert_eq!(host(&uri("http://A:1/x"), &map(&[("host", "a:1")])), Ok(authority("a:1")));
        assert_eq!(host(&uri("/"), &map(&[])), Err(HostError::Absent));
        for (target, headers) in [
            ("/", &[("host", "a"), ("host", "a")][..]),
            ("/", &[("host", "a, b")]),
            ("/", &[("host", "")]),
            ("http://b/", &[("host", "a")]),
        ] {
            assert_eq!(host(&uri(target), &map(headers)), Err(HostError::Malformed), "{headers:?}");
        }
    }

    #[test]
    fn bad_13_data_origins() {
        let allowed = ["https://app.example".to_owned()];
        for (origin, host, tls, fits) in [
            ("http://sw.example", "sw.example", false, true),
            ("https://sw.example", "sw.example", true, true),
            ("http://sw.example", "sw.example", true, true),
            ("https://sw.example", "sw.example:80", false, true),
            ("http://sw.example:443", "sw.example:443", true, true),
            ("http://SW.example:8080", "sw.example:8080", true, true),
            ("http://[::1]:8080", "[::1]:8080", false, true),
            ("https://app.example", "sw.example", true, true),
            ("https://app.example:443", "sw.example", true, true),
            ("http://app.example", "sw.example", true, false),
            ("https://evil.app.example", "sw.example", true, false),
            ("https://app.example.evil", "sw.example", true, false),
            ("https://sw.example.evil.com", "sw.example", true, false),
            ("https://evilsw.example", "sw.example", true, false),
            ("https://x.sw.example", "sw.example", true, false),
            ("https://sw.example:8443", "sw.example", true, false),
            ("null", "sw.example", true, false),
            ("", "sw.example", true, false),
            ("file://sw.example", "sw.example", true, false),
            ("https://sw.example/path", "sw.example", true, false),
            ("https://sw.example@evil.com", "sw.example", true, false),
        ] {
            let headers = map(&[("origin", origin)]);
            assert_eq!(
                data_origin_fits(&headers, &authority(host), tls, &allowed),
                fits,
                "{origin} at {host}"
            );
        }
        let host = authority("sw.example");
        assert!(data_origin_fits(&map(&[]), &host, true, &[]));
        assert!(data_origin_fits(&map(&[("origin", "null")]), &host, true, &["*".to_owned()]));
        let two = map(&[("origin", "https://sw.example"), ("origin", "https://sw.example")]);
        assert!(!data_origin_fits(&two, &host, true, &[]));
    }

    #[test]
    fn bad_13_bad_52_control_origins() {
        let host = authority("127.0.0.1:7867");
        for (headers, fits) in [
            (&[][..], true),
            (&[("origin", "http://127.0.0.1:7867")], true),
            (&[("origin", "http://127.0.0.1:7867"), ("sec-fetch-site", "same-origin")], true),
            (&[("sec-fetch-site", "none")], true),
            (&[("sec-fetch-site", "cross-site")], false),
            (&[("sec-fetch-site", "same-site")], false),
            (&[("origin", "https://127.0.0.1:7867")], false),
            (&[("origin", "http://127.0.0.1")], false),
            (&[("origin", "http://127.0.0.1:7868")], false),
            (&[("origin", "http://localhost:7867")], false),
            (&[("origin", "null")], false),
            (&[("origin", "http://127.0.0.1:7867.evil.com")], false),
        ] {
            assert_eq!(control_origin_fits(&map(headers), &host, false), fits, "{headers:?}");
        }
        assert!(control_origin_fits(&map(&[("origin", "https://c.example")]), &authority("c.example"), true));
        assert!(control_origin_fits(
            &map(&[("origin", "https://c.example")]),
            &authority("c.example:443"),
            true
        ));
    }

    #[test]
    fn bad_50_control_hosts() {
        let local: IpAddr = "192.0.2.1".parse().unwrap();
        for (host, fits) in [
            ("localhost:7867", true),
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("[::1]:7867", true),
            ("ctl.example:1", true),
            ("192.0.2.1:7867", true),
            ("192.0.2.2", false),
            ("evil.example", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
        ] {
            assert_eq!(control_host_fits(&authority(host), "CTL.example", local), fits, "{host}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_an_authority_or_not(text: String, near in "[a-z\\[\\]:.0-9]{0,12}") {
            for text in [text, near] {
                if let Some(found) = Authority::parse(&text) {
                    proptest::prop_assert!(!found.host.is_empty());
                }
                let _ = Origin::parse(&text);
            }
        }
    }
}
