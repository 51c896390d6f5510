//! What befalls the switch as a whole, where no port can count it: who was turned away at the door, and why.
//! `listCounters` shows it as port 0, `switch`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::port::link::Ended;
use crate::ws::header::Violation;

/// Defines [`Event`] with its names, so that no event can lack one.
macro_rules! events {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Event { $($(#[$doc])* $variant,)* }

        impl Event {
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name that `etherctl counters` prints.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

events! {
    /// A connection beyond `limits.connections`, or beyond the places kept for the Unix socket.
    Connections = "connections",
    /// One beyond `limits.connections_per_address`.
    ConnectionsPerAddress = "connections-per-address",
    /// One that had to go for a newcomer beyond `limits.unauthenticated`.
    Unauthenticated = "unauthenticated",
    /// The same beyond `limits.unauthenticated_per_address`.
    UnauthenticatedPerAddress = "unauthenticated-per-address",
    /// accept() found no descriptor or memory, and paused.
    AcceptPaused = "accept-paused",
    /// A PROXY header was wanted, and the peer is no trusted proxy.
    UntrustedProxy = "untrusted-proxy",
    /// A user of this host on the Unix socket who may not control the switch.
    ForeignUser = "foreign-user",
    /// A first request that took longer than `limits.header_time`, PROXY header and TLS included.
    HeaderTime = "header-time",
    /// A header larger than `limits.header_size`, or of more than 64 fields.
    HeaderSize = "header-size",
    /// Bytes that are no HTTP.
    BadRequest = "bad-request",
    /// Bytes that are no TLS where TLS is spoken, or a TLS handshake that cannot be: a version, a certificate.
    TlsHandshake = "tls-handshake",
    /// A request for a link that is no handshake of RFC 6455, 4.2.1.
    Handshake = "handshake",
    /// A link that was lost while its 101 was on its way.
    LinkSetup = "link-setup",
    /// Control, called by a name that is not its own.
    ForeignHost = "foreign-host",
    /// A web page of another origin.
    ForeignOrigin = "foreign-origin",
    /// A call whose content type is not JSON's.
    ContentType = "content-type",
    /// A call larger than `limits.rpc_body`.
    BodySize = "body-size",
    /// A call whose body did not come within 30 s.
    BodyTime = "body-time",
    /// A batch of more calls than `limits.rpc_batch`.
    BatchSize = "batch-size",
    /// A call or session beyond the 256 at a time.
    CallsAtATime = "calls-at-a-time",
    /// A call that is none, or of parameters that no method takes: -32602, and by POST -32700 and -32600.
    BadCall = "bad-call",
    /// Credentials that are wrong.
    LoginFailed = "login-failed",
    /// An address that failed more often than `limits.failed_logins` a minute.
    LoginRate = "login-rate",
    /// Too many logins were waiting for their password to be checked.
    LoginQueue = "login-queue",
    /// A link that sent a message larger than a frame, or in more than 1,024 fragments; a VM that announced such a frame.
    MessageSize = "message-size",
    /// A link that broke the WebSocket protocol in another way.
    Violation = "websocket-violation",
    /// A link that left a message unfinished for 30 s.
    MessageTime = "message-time",
    /// A link whose peer took nothing for 10 s while something waited.
    Stuck = "stuck",
    /// A link whose peer answered PINGs, and then was not heard for the time of two.
    Silent = "silent",
    /// A connection that would join a link that there is not.
    JoinUnknown = "join-unknown",
    /// One that has not the link's secret.
    JoinProof = "join-proof",
    /// One of another user than the link's, or of one whose rules have changed.
    JoinForeign = "join-foreign",
    /// One by a request that was used before.
    JoinReplayed = "join-replayed",
    /// One more than the link may have.
    JoinMember = "join-member",
    /// One that says of its link what makes no sense.
    JoinMalformed = "join-malformed",
    /// A link over TLS that ended without close_notify (RFC 8446, 6.1): whoever can cut the path could have cut it.
    TlsTruncated = "tls-truncated",
    /// A link that broke TLS: records that were altered, or nothing but key updates.
    TlsViolation = "tls-violation",
}

/// Counts [`Event`]s; clones count together.
#[derive(Clone, Default)]
pub struct Tally(Arc<Counts>);

struct Counts([AtomicU64; Event::ALL.len()]);

impl Default for Counts {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; Event::ALL.len()])
    }
}

impl Tally {
    pub fn count(&self, event: Event) {
        self.0.0[event as usize].fetch_add(1, Relaxed);
    }

    /// Counts the end of a link, if it is one of those that count.
    pub fn link_ended(&self, ended: &Ended) {
        match ended {
            Ended::Violation(Violation::TooBig) | Ended::TooLong(_) => self.count(Event::MessageSize),
            Ended::Violation(_) => self.count(Event::Violation),
            Ended::Truncated => self.count(Event::TlsTruncated),
            Ended::Unfinished => self.count(Event::MessageTime),
            Ended::Stuck => self.count(Event::Stuck),
            Ended::Silent => self.count(Event::Silent),
            // What rustls finds wrong; the socket's own errors are of other kinds.
            Ended::Broken(e) if e.kind() == std::io::ErrorKind::InvalidData => {
                self.count(Event::TlsViolation)
            }
            Ended::Closed(_) | Ended::Eof | Ended::Broken(_) | Ended::Replaced { .. } | Ended::Stopped => (),
        }
    }

    /// The names and counts of those that have befallen.
    pub fn counted(&self) -> impl Iterator<Item = (String, u64)> + '_ {
        self.all().filter(|(_, count)| *count > 0).map(|(event, count)| (event.name().to_owned(), count))
    }

    /// Every event with its count, zeroes too.
    pub fn all(&self) -> impl Iterator<Item = (Event, u64)> + '_ {
        Event::ALL.iter().map(|event| (*event, self.0.0[*event as usize].load(Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_have_distinct_names_and_count_apart() {
        let names: std::collections::HashSet<_> = Event::ALL.iter().map(|event| event.name()).collect();
        assert_eq!(names.len(), Event::ALL.len());
        let tally = Tally::default();
        let clone = tally.clone();
        clone.count(Event::BodySize);
        clone.link_ended(&Ended::Truncated);
        clone.link_ended(&Ended::Eof);
        let counted: Vec<_> = tally.counted().collect();
        assert_eq!(counted, [("body-size".to_owned(), 1), ("tls-truncated".to_owned(), 1)]);
        // 22 of the list, 67, 65; a reset is nobody's fault.
        let broken = |kind: std::io::ErrorKind| Ended::Broken(kind.into());
        for (ended, name) in [
            (Ended::Unfinished, Some("message-time")),
            (Ended::Stuck, Some("stuck")),
            (Ended::Silent, Some("silent")),
            (broken(std::io::ErrorKind::InvalidData), Some("tls-violation")),
            (broken(std::io::ErrorKind::ConnectionReset), None),
            (Ended::Stopped, None),
        ] {
            let tally = Tally::default();
            tally.link_ended(&ended);
            assert_eq!(tally.counted().map(|(name, _)| name).next().as_deref(), name, "{ended}");
        }
        assert_eq!(tally.all().count(), Event::ALL.len());
    }
}
