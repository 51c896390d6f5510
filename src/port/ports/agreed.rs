//! What a client and its server have agreed on about a link: how its connections join it, and how long it is waited for.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use tokio::sync::watch;
use tokio::time::sleep;
use tracing::warn;

use super::Ports;
use super::entry::Entry;
use crate::port::dial::{Dialed, Wish};
use crate::port::link::{Ended, Stop};
use crate::ws::handshake::SUPER;
use crate::ws::joining::{Terms, Which};

/// What there is at the moment.
#[derive(Default)]
pub struct Agreed {
    ticket: watch::Sender<Option<Arc<Ticket>>>,
    /// It was said that the server takes fewer connections than there should be.
    told: AtomicBool,
    /// Connections that are there: those too whose sessions are about to begin, or have just ended.
    here: AtomicU8,
}

/// One of them, until it is dropped.
pub struct Here<'a>(&'a AtomicU8);

impl Drop for Here<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// One link: when this is dropped the connections that joined it end.
pub struct Ticket {
    terms: Terms,
    /// What its connections speak: `etherws.vnet1`, or nothing.
    pub vnet: bool,
    /// The last `n` of each member.
    last: Vec<AtomicU32>,
    pub stop: watch::Sender<Option<Stop>>,
}

impl Agreed {
    pub fn ticket(&self) -> Option<Arc<Ticket>> {
        self.ticket.borrow().clone()
    }

    /// Waits for a link that has room for this member.
    pub async fn with_room_for(&self, member: u8) -> Arc<Ticket> {
        let mut tickets = self.ticket.subscribe();
        loop {
            let ticket = tickets.borrow_and_update().clone();
            if let Some(ticket) = ticket.filter(|ticket| ticket.terms.members > member) {
                return ticket;
            }
            // The sender lives in `self`.
            let _ = tickets.changed().await;
        }
    }

    /// A connection has been made.
    pub fn comes(&self) -> Here<'_> {
        self.here.fetch_add(1, Relaxed);
        Here(&self.here)
    }

    /// Somebody is here.
    pub fn has_somebody(&self, entry: &Entry) -> bool {
        self.here.load(Relaxed) > 0 || entry.link().is_some_and(|link| link.is_connected())
    }

    /// Nobody is but the one that has just come.
    pub fn is_alone(&self, entry: &Entry) -> bool {
        self.here.load(Relaxed) == 1 && entry.link().is_none_or(|link| !link.is_connected())
    }

    /// A new link has its first connection; without terms that is all it has.
    pub fn begin(&self, entry: &Entry, dialed: &Dialed) -> Option<Arc<Ticket>> {
        if let Some(link) = entry.link() {
            link.begins();
        }
        let ticket = dialed.terms.clone().map(|terms| {
            let last = (0..terms.members).map(|_| AtomicU32::new(0)).collect();
            let vnet = dialed.protocol.as_deref() == Some(SUPER);
            Arc::new(Ticket { terms, vnet, last, stop: watch::Sender::new(None) })
        });
        self.ticket.send_replace(ticket.clone());
        if let Some(fewer) = self.fewer(entry)
            && !self.told.swap(true, Relaxed)
        {
            warn!(port = entry.number, "{}: {fewer}", entry.target);
        }
        ticket
    }

    /// The server has taken a connection of this link, which may have been given up while it was dialled.
    pub fn joined(&self, link: &Arc<Ticket>) {
        self.ticket.send_if_modified(|ticket| {
            let was_given_up = ticket.is_none();
            ticket.get_or_insert_with(|| link.clone());
            was_given_up
        });
    }

    /// What there is to say when the server takes fewer connections than asked for.
    pub fn fewer(&self, entry: &Entry) -> Option<String> {
        let most = entry.link().map_or(1, |link| link.most());
        let members = self.ticket.borrow().as_ref().map_or(1, |ticket| ticket.terms.members);
        (members < most).then(|| match members {
            1 => format!("the server takes one connection a link, not {most}"),
            _ => format!("the server takes {members} connections a link, not {most}"),
        })
    }

    /// The server knows nothing of this link any more.
    pub fn forget(&self, ports: &Weak<Ports>, entry: &Entry, gone: Option<&Arc<Ticket>>) {
        let forgotten = self.ticket.send_if_modified(|ticket| {
            let is_it = ticket.as_ref().zip(gone).is_some_and(|(ticket, gone)| Arc::ptr_eq(ticket, gone));
            ticket.take_if(|_| is_it).is_some()
        });
        if forgotten && !self.has_somebody(entry) {
            flush(ports, entry);
        }
    }

    /// A connection has ended. What was heard by the last one is kept for as long as the server waits for the next.
    pub fn lost(&self, ports: &Weak<Ports>, entry: &Arc<Entry>, ended: &Ended) {
        if self.has_somebody(entry) {
            return;
        }
        let ticket = self.ticket().filter(|ticket| ended.is_loss() && !ticket.terms.resume.is_zero());
        let Some(ticket) = ticket else {
            self.ticket.send_replace(None);
            return flush(ports, entry);
        };
        let (resume, connects) = (ticket.terms.resume, entry.life().connects);
        let (ports, entry) = (ports.clone(), Arc::downgrade(entry));
        tokio::spawn(async move {
            sleep(resume).await;
            if let Some(entry) = entry.upgrade().filter(|entry| entry.life().connects == connects) {
                flush(&ports, &entry);
            }
        });
    }
}

impl Ticket {
    /// Another try of a member.
    pub fn wish(&self, member: u8) -> Wish<'_> {
        let Some(last) = self.last.get(usize::from(member)) else { return Wish::Alone };
        let n = last.fetch_add(1, Relaxed).wrapping_add(1);
        Wish::Join { terms: &self.terms, which: Which { member, n }, live: false }
    }
}

fn flush(ports: &Weak<Ports>, entry: &Entry) {
    if let Some(ports) = ports.upgrade() {
        ports.fabric.switch.fdb.flush(entry.slot);
    }
}
