//! From a name to a TCP connection: resolved at each call, IPv6 and IPv4 raced (RFC 8305, "happy
//! eyeballs"), so that a broken family costs a quarter of a second and not a timeout.

use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::sleep;

use super::{DialError, target};
use crate::port::congestion;
use crate::port::spec::Congestion;
use crate::sys::sandbox::{Want, hint};

/// Connects to the first address of `host` that answers, and sets the socket's options.
pub(in crate::port) async fn connect(
    host: &str,
    port: u16,
    congestion: &Congestion,
) -> Result<TcpStream, DialError> {
    let addresses = match host.parse::<IpAddr>() {
        Ok(address) => vec![SocketAddr::new(address, port)],
        Err(_) => match lookup_host((host, port)).await {
            Ok(found) => interleaved(found),
            Err(error) => return Err(DialError::Resolve { host: host.to_owned(), error }),
        },
    };
    let stream = race(addresses.iter().copied(), STAGGER, |address| one(address, congestion)).await.map_err(
        |error| {
            let to = match addresses.as_slice() {
                [one] => one.to_string(),
                several => format!(
                    "{} (tried {})",
                    target::authority(host, port),
                    several.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
                ),
            };
            DialError::Connect { to, error }
        },
    )?;
    set_options(&stream).map_err(|error| DialError::Connect { to: target::authority(host, port), error })?;
    Ok(stream)
}

async fn one(address: SocketAddr, congestion: &Congestion) -> io::Result<TcpStream> {
    let socket = if address.is_ipv6() { TcpSocket::new_v6() } else { TcpSocket::new_v4() }?;
    if *congestion != Congestion::System {
        // Before the first SYN: BBR for one measures from there.
        congestion::set(&SockRef::from(&socket), congestion)?;
    }
    socket.connect(address).await
}

/// What to say behind a name that was not found where the resolver has been robbed of its settings.
pub(super) fn resolver_hint() -> String {
    let settings = Path::new("/etc/resolv.conf");
    let denied = File::open(settings).err().map(|error| hint(settings, &error, Want::Read));
    denied
        .filter(|hint| !hint.is_empty())
        .map_or_else(String::new, |hint| format!("; /etc/resolv.conf was replaced{hint}"))
}

/// Tries the addresses in order, the next one after `stagger` or as soon as one fails; the first success
/// wins and the others are dropped. The error is that of the last failure that says more than "no route".
async fn race<T, F: Future<Output = io::Result<T>>>(
    addresses: impl IntoIterator<Item = SocketAddr>,
    stagger: Duration,
    mut attempt: impl FnMut(SocketAddr) -> F,
) -> io::Result<T> {
    let mut waiting = addresses.into_iter();
    let mut running = FuturesUnordered::new();
    let mut failure: Option<io::Error> = None;
    loop {
        let next = waiting.next();
        let more = next.is_some();
        if let Some(address) = next {
            running.push(attempt(address));
        }
        tokio::select! {
            outcome = running.next() => match outcome {
                Some(Ok(won)) => return Ok(won),
                Some(Err(error)) => {
                    let dull = matches!(error.kind(), io::ErrorKind::NetworkUnreachable | io::ErrorKind::AddrNotAvailable);
                    if failure.is_none() || !dull {
                        failure = Some(error);
                    }
                }
                None => return Err(failure.unwrap_or_else(|| io::Error::other("the name has no address"))),
            },
            () = sleep(stagger), if more => {}
        }
    }
}

/// Families in turn, IPv6 first (RFC 8305 section 4), in the resolver's order within each; no address twice.
fn interleaved(found: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let (mut six, mut four) = (Vec::new(), Vec::new());
    for address in found {
        let family = if address.is_ipv6() { &mut six } else { &mut four };
        if !family.contains(&address) && family.len() < PER_FAMILY {
            family.push(address);
        }
    }
    let longest = six.len().max(four.len());
    (0..longest).flat_map(|i| [six.get(i).copied(), four.get(i).copied()]).flatten().collect()
}

/// Small frames must not wait for an ACK (TCP_NODELAY); a peer that vanished is noticed by the probes, or
/// by data that nobody acknowledges, after 40 s.
pub(in crate::port) fn set_options(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(DEAD_AFTER))?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(PROBE).with_interval(PROBE / 2).with_retries(3))
}

/// RFC 8305 section 5, "Connection Attempt Delay".
const STAGGER: Duration = Duration::from_millis(250);
/// Addresses tried of each family: more than that do not fit into a dial's time.
const PER_FAMILY: usize = 8;
const DEAD_AFTER: Duration = Duration::from_secs(40);
const PROBE: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::time::Instant;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn families_take_turns() {
        let found = ["1.1.1.1:1", "[::1]:1", "1.1.1.2:1", "1.1.1.1:1", "1.1.1.3:1", "[::2]:1"].map(at);
        let wanted = ["[::1]:1", "1.1.1.1:1", "[::2]:1", "1.1.1.2:1", "1.1.1.3:1"].map(at);
        assert_eq!(interleaved(found.into_iter()), wanted);
    }

    #[tokio::test]
    async fn a_black_hole_costs_one_stagger() {
        let (hole, good) = (at("[2001:db8::1]:1"), at("192.0.2.1:1"));
        let tried = RefCell::new(Vec::new());
        let start = Instant::now();
        let won = race([hole, good, at("192.0.2.2:1")], Duration::from_millis(60), |address| {
            tried.borrow_mut().push(address);
            async move { if address == hole { std::future::pending().await } else { Ok(address) } }
        });
        assert_eq!(won.await.unwrap(), good);
        assert_eq!(*tried.borrow(), [hole, good], "the third one is not needed");
        assert!(start.elapsed() >= Duration::from_millis(60));
    }

    #[tokio::test]
    async fn a_slow_first_one_may_still_win() {
        let (slow, hole) = (at("[2001:db8::1]:1"), at("192.0.2.1:1"));
        let won = race([slow, hole], Duration::from_millis(20), |address| async move {
            if address == hole {
                return std::future::pending().await;
            }
            sleep(Duration::from_millis(80)).await;
            Ok(address)
        });
        assert_eq!(won.await.unwrap(), slow);
    }

    #[tokio::test]
    async fn a_failure_starts_the_next_at_once_and_the_telling_error_stays() {
        let start = Instant::now();
        let error = race::<(), _>(
            ["[::1]:1", "1.1.1.1:1", "[::2]:1"].map(at),
            Duration::from_secs(9),
            |address| async move {
                Err(if address.is_ipv4() {
                    io::ErrorKind::ConnectionRefused
                } else {
                    io::ErrorKind::NetworkUnreachable
                }
                .into())
            },
        );
        assert_eq!(error.await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert!(start.elapsed() < Duration::from_secs(5));
        let none = race::<(), _>([], Duration::ZERO, |_| std::future::pending());
        assert!(none.await.is_err());
    }
}
