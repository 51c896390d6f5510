//! What a client and its server have agreed on about a link: how its connections join it, and how long it is waited for.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use tokio::sync::watch;
use tokio::time::sleep;
use tracing::warn;

use super::Ports;
use super::entry::Entry;
use crate::port::dial::Wish;
use crate::port::link::{Ended, Stop};
use crate::ws::joining::Terms;

/// What there is at the moment.
#[derive(Default)]
pub struct Agreed {
    ticket: watch::Sender<Option<Arc<Ticket>>>,
    /// It was said that the server takes fewer connections than there should be.
    told: AtomicBool,
}

/// One link: when this is dropped the connections that joined it end.
pub struct Ticket {
    terms: Terms,
    /// The last `n` of each member.
    last: Vec<AtomicU64>,
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

    /// A new link has its first connection; without terms that is all it has.
    pub fn begin(&self, entry: &Entry, terms: Option<Terms>) {
        if let Some(link) = entry.link() {
            link.begins();
        }
        let ticket = terms.map(|terms| {
            let last = (0..terms.members).map(|_| AtomicU64::new(0)).collect();
            Arc::new(Ticket { terms, last, stop: watch::Sender::new(None) })
        });
        self.ticket.send_replace(ticket);
        if let Some(fewer) = self.fewer(entry)
            && !self.told.swap(true, Relaxed)
        {
            warn!(port = entry.number, "{}: {fewer}", entry.target);
        }
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
        if forgotten && entry.link().is_none_or(|link| !link.is_connected()) {
            flush(ports, entry);
        }
    }

    /// A connection has ended. What was heard by the last one is kept for as long as the server waits for the next.
    pub fn lost(&self, ports: &Weak<Ports>, entry: &Arc<Entry>, ended: &Ended) {
        if entry.link().is_some_and(|link| link.is_connected()) {
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
    pub fn wish(&self, member: u8) -> Wish<'_> {
        match self.last.get(usize::from(member)) {
            Some(n) => Wish::Join { terms: &self.terms, member, n, live: false },
            None => Wish::Alone,
        }
    }
}

fn flush(ports: &Weak<Ports>, entry: &Entry) {
    if let Some(ports) = ports.upgrade() {
        ports.fabric.switch.fdb.flush(entry.slot);
    }
}
