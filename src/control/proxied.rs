//! Behind a reverse proxy: what a trusted one says about the client, in X-Forwarded-For, -Proto and -Host or
//! in a PROXY header. Nobody else's word counts.

use std::io;
use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;
use ppp::{HeaderResult, v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::origin::Authority;

pub fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    let address = address.to_canonical();
    trusted.iter().any(|net| net.contains(&address))
}

/// What a request says of its way here, as far as it can be believed.
#[derive(PartialEq, Eq, Debug)]
pub struct Forwarded {
    pub peer: SocketAddr,
    /// The client spoke TLS to the proxy.
    pub tls: Option<bool>,
    pub host: Option<Authority>,
}

/// Reads the X-Forwarded headers of a request that came from `peer`.
pub fn forwarded(headers: &HeaderMap, peer: SocketAddr, trusted: &[IpNet]) -> Forwarded {
    if !is_trusted(peer.ip(), trusted) {
        return Forwarded { peer, tls: None, host: None };
    }
    // The proxy next to us wrote the last value; what stands before it came from the client.
    let last = |name: &'static str| {
        let value = headers.get_all(HeaderName::from_static(name)).iter().next_back()?;
        value.to_str().ok()?.rsplit(',').next().map(str::trim)
    };
    let tls =
        last("x-forwarded-proto").map(|proto| matches!(proto.to_ascii_lowercase().as_str(), "https" | "wss"));
    let host = last("x-forwarded-host").and_then(Authority::parse);
    Forwarded { peer: client(headers, peer, trusted), tls, host }
}

/// The rightmost address of X-Forwarded-For that is not a trusted proxy's; where the list is exhausted or
/// cannot be read, the last address that could be believed.
fn client(headers: &HeaderMap, peer: SocketAddr, trusted: &[IpNet]) -> SocketAddr {
    let mut believed = peer;
    for value in headers.get_all(HeaderName::from_static("x-forwarded-for")).iter().rev() {
        let Ok(text) = value.to_str() else { return believed };
        for entry in text.rsplit(',') {
            let Some(address) = address(entry.trim()) else { return believed };
            believed = address;
            if !is_trusted(address.ip(), trusted) {
                return believed;
            }
        }
    }
    believed
}

/// `1.2.3.4`, `1.2.3.4:5`, `::1`, `[::1]`, `[::1]:5`; port 0 when there is none.
fn address(text: &str) -> Option<SocketAddr> {
    let bare = text.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(text);
    text.parse().ok().or_else(|| bare.parse().ok().map(|ip| SocketAddr::new(ip, 0)))
}

/// Reads a PROXY header, version 1 or 2, and not a byte more. Nothing: the proxy speaks for itself (a health
/// check, `LOCAL` or `UNKNOWN`).
pub async fn proxy_header(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<SocketAddr>> {
    let wrong = |text: &'static str| io::Error::new(io::ErrorKind::InvalidData, text);
    // Both versions are longer than the signature of the second.
    let mut head = vec![0; v2::PROTOCOL_PREFIX.len()];
    stream.read_exact(&mut head).await?;
    if head == v2::PROTOCOL_PREFIX {
        head.resize(V2_HEAD, 0);
        stream.read_exact(&mut head[v2::PROTOCOL_PREFIX.len()..]).await?;
        let length = usize::from(u16::from_be_bytes([head[14], head[15]]));
        if length > MAX_V2 {
            return Err(wrong("oversize PROXY header"));
        }
        head.resize(V2_HEAD + length, 0);
        stream.read_exact(&mut head[V2_HEAD..]).await?;
    } else if head.starts_with(b"PROXY ") {
        while !head.ends_with(b"\r\n") {
            if head.len() >= MAX_V1 {
                return Err(wrong("oversize PROXY header"));
            }
            head.push(stream.read_u8().await?);
        }
    } else {
        return Err(wrong("no PROXY header"));
    }
    match HeaderResult::parse(&head) {
        HeaderResult::V1(Ok(header)) => Ok(match header.addresses {
            v1::Addresses::Tcp4(ip) => Some((ip.source_address, ip.source_port).into()),
            v1::Addresses::Tcp6(ip) => Some((ip.source_address, ip.source_port).into()),
            v1::Addresses::Unknown => None,
        }),
        HeaderResult::V2(Ok(header)) => Ok(match (header.command, header.addresses) {
            (v2::Command::Proxy, v2::Addresses::IPv4(ip)) => Some((ip.source_address, ip.source_port).into()),
            (v2::Command::Proxy, v2::Addresses::IPv6(ip)) => Some((ip.source_address, ip.source_port).into()),
            _ => None,
        }),
        HeaderResult::V1(Err(_)) | HeaderResult::V2(Err(_)) => Err(wrong("malformed PROXY header")),
    }
}

/// Signature, command, family and length of version 2.
const V2_HEAD: usize = 16;

/// The longest line of version 1, and the most bytes of addresses and TLVs taken from version 2.
const MAX_V1: usize = 107;
const MAX_V2: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn nets() -> Vec<IpNet> {
        ["10.0.0.0/8", "::1/128"].iter().map(|net| net.parse().unwrap()).collect()
    }

    fn map(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    #[test]
    fn the_rightmost_untrusted_address_is_the_client() {
        for (peer, values, client) in [
            ("10.0.0.1:5", &["192.0.2.7"][..], "192.0.2.7:0"),
            ("[::ffff:10.0.0.1]:5", &["192.0.2.7"], "192.0.2.7:0"),
            ("10.0.0.1:5", &["6.6.6.6, 192.0.2.7, 10.0.0.9"], "192.0.2.7:0"),
            ("10.0.0.1:5", &["6.6.6.6", "192.0.2.7:99"], "192.0.2.7:99"),
            ("10.0.0.1:5", &["[2001:db8::1]:4"], "[2001:db8::1]:4"),
            ("10.0.0.1:5", &["10.0.0.9"], "10.0.0.9:0"),
            ("10.0.0.1:5", &["192.0.2.7, junk"], "10.0.0.1:5"),
            ("10.0.0.1:5", &["192.0.2.7, junk, 10.0.0.2"], "10.0.0.2:0"),
            ("10.0.0.1:5", &[], "10.0.0.1:5"),
            ("192.0.2.9:5", &["1.1.1.1"], "192.0.2.9:5"),
        ] {
            let pairs: Vec<_> = values.iter().map(|value| ("x-forwarded-for", *value)).collect();
            let found = forwarded(&map(&pairs), peer.parse().unwrap(), &nets());
            assert_eq!(found.peer, client.parse().unwrap(), "{peer} {values:?}");
        }
    }

    #[test]
    fn proto_and_host_only_from_the_trusted() {
        let headers = map(&[("x-forwarded-proto", "http, HTTPS"), ("x-forwarded-host", "evil, sw.example")]);
        let near = forwarded(&headers, "10.0.0.1:5".parse().unwrap(), &nets());
        assert_eq!((near.tls, near.host), (Some(true), Authority::parse("sw.example")));
        let far = forwarded(&headers, "192.0.2.1:5".parse().unwrap(), &nets());
        assert_eq!((far.tls, far.host), (None, None));
    }

    #[tokio::test]
    async fn proxy_headers_are_read_to_the_byte() {
        let v2 = |command: u8, family: u8, rest: &[u8]| {
            let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
            [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, family], &length, rest].concat()
        };
        let four = [192, 0, 2, 7, 10, 0, 0, 1, 0x30, 0x39, 0, 80];
        let good: [(Vec<u8>, Option<&str>); 5] = [
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 12345 80\r\n".to_vec(), Some("192.0.2.7:12345")),
            (b"PROXY TCP6 2001:db8::1 ::1 9 80\r\n".to_vec(), Some("[2001:db8::1]:9")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (v2(0x21, 0x11, &four), Some("192.0.2.7:12345")),
            (v2(0x20, 0x00, &[]), None),
        ];
        for (bytes, expected) in good {
            let input = [&bytes[..], b"GET /"].concat();
            let mut stream = &input[..];
            let found = proxy_header(&mut stream).await.unwrap();
            assert_eq!(found, expected.map(|text| text.parse().unwrap()), "{bytes:?}");
            assert_eq!(stream, b"GET /");
        }
        let long = [&b"PROXY "[..], &[b'x'; 200]].concat();
        for bytes in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            b"PROXY TCP4 x y 1 2\r\n",
            b"PROXY TC",
            &long,
            &v2(0x21, 0x11, &[1]),
        ] {
            assert!(proxy_header(&mut &bytes[..]).await.is_err(), "{bytes:?}");
        }
    }
}
