//! Links that a connection may come back to, or join: what both ends agreed on over the first one
//! ([`crate::ws::joining`]). The door judges by this who may; the port keeps it for as long as it lives.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use zeroize::Zeroizing;

use super::spec::Profile;
use super::tally::Event;
use crate::ws::joining::{Id, JOINED, Join, Terms, Which};

/// All of a switch.
#[derive(Clone, Default)]
pub struct Resumables(Arc<Mutex<HashMap<Id, Weak<Resumable>>>>);

/// One link of them.
pub struct Resumable {
    pub terms: Terms,
    /// Who made it, and what he may.
    whose: Whose,
    /// Its port's number; 0: there is none yet, or none any more.
    port: AtomicU32,
    /// The last `n` of each member.
    last: Mutex<Vec<u32>>,
    all: Resumables,
}

/// Whom a link belongs to, and what its connections speak.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Whose {
    pub user: Option<String>,
    pub profile: Option<Profile>,
    pub vnet: bool,
}

/// What a connection is to its link.
pub enum Linked {
    /// The first.
    New(Arc<Resumable>),
    Joins {
        link: Arc<Resumable>,
        which: Which,
        live: bool,
    },
}

impl Linked {
    /// What the answer says of it, which may be a secret.
    pub fn told(&self) -> Zeroizing<String> {
        match self {
            Self::New(link) => link.terms.value(),
            Self::Joins { .. } => Zeroizing::new(JOINED.to_owned()),
        }
    }
}

/// Why a connection may not join.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// There is no such link, or no more.
    Unknown,
    /// Whoever asks does not have its secret.
    Proof,
    /// It is somebody else's, or its user's rules have changed since.
    Foreign,
    /// This try, or a later one, was seen before.
    Replayed,
    /// The link has not so many members.
    Member,
}

impl Resumables {
    /// A link that is about to be made.
    pub fn offer(
        &self,
        whose: Whose,
        members: u8,
        resume: Duration,
    ) -> Result<Arc<Resumable>, getrandom::Error> {
        let (mut id, mut secret) = ([0; 16], Zeroizing::new([0; 32]));
        getrandom::fill(&mut id)?;
        getrandom::fill(&mut *secret)?;
        let terms = Terms { id, secret, members, resume };
        let last = Mutex::new(vec![0; members.into()]);
        let link = Arc::new(Resumable { terms, whose, port: AtomicU32::new(0), last, all: self.clone() });
        self.lock().insert(id, Arc::downgrade(&link));
        Ok(link)
    }

    /// The link that this connection joins. It takes the same time to find out that there is no such link and that the
    /// secret is wrong.
    pub fn judge(&self, join: &Join, key: &str, whose: &Whose) -> Result<Arc<Resumable>, Refusal> {
        let link = self.lock().get(&join.id).and_then(Weak::upgrade);
        let secret = link.as_ref().map_or([0; 32], |link| *link.terms.secret);
        let secret = Zeroizing::new(secret);
        let proven = join.is_proven(&secret, key);
        let link = link.ok_or(Refusal::Unknown)?;
        match () {
            () if !proven => Err(Refusal::Proof),
            () if link.whose != *whose => Err(Refusal::Foreign),
            () => link.count(join).map(|()| link),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Id, Weak<Resumable>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Resumable {
    fn count(&self, join: &Join) -> Result<(), Refusal> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match last.get_mut(usize::from(join.which.member)) {
            None => Err(Refusal::Member),
            Some(last) if join.which.n <= *last => Err(Refusal::Replayed),
            Some(last) => {
                *last = join.which.n;
                Ok(())
            }
        }
    }

    /// The number of its port, while there is one.
    pub fn port(&self) -> Option<u32> {
        Some(self.port.load(Relaxed)).filter(|number| *number != 0)
    }

    pub fn set_port(&self, number: u32) {
        self.port.store(number, Relaxed);
    }

    /// Its port is gone: nobody joins any more.
    pub fn end(&self) {
        self.set_port(0);
        self.all.lock().remove(&self.terms.id);
    }
}

impl Drop for Resumable {
    fn drop(&mut self) {
        self.all.lock().remove(&self.terms.id);
    }
}

impl Refusal {
    /// What is told to whoever asked. Only who has the secret learns that there is such a link.
    pub fn told(self) -> &'static str {
        match self {
            Self::Unknown | Self::Proof | Self::Foreign => "no such link; make a new one",
            Self::Replayed => "this join has been used; make another",
            Self::Member => "the link has not so many connections; make a new one",
        }
    }

    /// Whether the answer is [`GONE`](http::StatusCode::GONE), not a conflict.
    pub fn is_gone(self) -> bool {
        matches!(self, Self::Unknown | Self::Proof | Self::Foreign)
    }

    pub fn event(self) -> Event {
        match self {
            Self::Unknown => Event::JoinUnknown,
            Self::Proof => Event::JoinProof,
            Self::Foreign => Event::JoinForeign,
            Self::Replayed => Event::JoinReplayed,
            Self::Member => Event::JoinMember,
        }
    }

    /// For the log.
    pub fn text(self) -> &'static str {
        match self {
            Self::Unknown => "joins a link that there is not",
            Self::Proof => "joins a link without its secret",
            Self::Foreign => "joins a link of another user, or of other rules",
            Self::Replayed => "joins a link by a request that was used before",
            Self::Member => "joins a link that has not so many connections",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whose(user: &str) -> Whose {
        Whose { user: Some(user.to_owned()), profile: None, vnet: true }
    }

    #[test]
    fn bad_78_who_joins_what_is_refused_by_name() {
        let all = Resumables::default();
        let link = all.offer(whose("a"), 2, Duration::from_secs(1)).unwrap();
        let other = all.offer(whose("b"), 2, Duration::ZERO).unwrap();
        let join = |member, n| Join::new(&link.terms, Which { member, n }, false, "k");
        let judge = |join: &Join, key, user| all.judge(join, key, &whose(user)).map(|link| link.terms.id);
        assert_eq!(judge(&join(1, 1), "k", "a"), Ok(link.terms.id));
        assert_eq!(judge(&join(1, 1), "k", "a"), Err(Refusal::Replayed));
        assert_eq!(judge(&join(0, 1), "k", "a"), Ok(link.terms.id), "each member counts by itself");
        assert_eq!(judge(&join(1, 3), "k", "a"), Ok(link.terms.id));
        assert_eq!(judge(&join(1, 2), "k", "a"), Err(Refusal::Replayed));
        assert_eq!(judge(&join(2, 1), "k", "a"), Err(Refusal::Member));
        assert_eq!(judge(&join(1, 4), "l", "a"), Err(Refusal::Proof));
        assert_eq!(judge(&join(1, 4), "k", "b"), Err(Refusal::Foreign));
        // Another's id under one's own secret.
        let forged =
            Join { id: link.terms.id, ..Join::new(&other.terms, Which { member: 1, n: 9 }, false, "k") };
        assert_eq!(judge(&forged, "k", "b"), Err(Refusal::Proof));
        assert_eq!(judge(&join(1, 4), "k", "a"), Ok(link.terms.id), "what was refused counts for nothing");
        let stranger = Join { id: [0; 16], ..join(1, 5) };
        assert_eq!(judge(&stranger, "k", "a"), Err(Refusal::Unknown));
        link.end();
        assert_eq!(judge(&join(1, 5), "k", "a"), Err(Refusal::Unknown));
        drop((link, other));
        assert!(all.lock().is_empty());
    }
}
