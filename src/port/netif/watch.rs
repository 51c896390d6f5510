//! What changes by itself: a client link that waits dials again at once, and a port learns that its
//! device went away.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{Stream, StreamExt, TryStreamExt};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use tokio::sync::mpsc;

use super::Netlink;
use crate::port::PortError;

/// Something changed, by whomever.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A local address came or went.
    Addresses,
    /// A route came or went.
    Routes,
    /// A device as it is now; `gone`: deleted, or moved to another namespace.
    Link { index: u32, name: String, up: bool, running: bool, gone: bool },
}

/// Changes of addresses, routes and links from now on. While a reader is slow, equal events become one
/// and of each device only the latest state is kept, so memory stays bounded. Ends when the receiver is dropped.
pub fn watch() -> Result<mpsc::Receiver<Event>, PortError> {
    // The first socket is opened here, so that what happens after the call is seen.
    let first = Watch::open()?;
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(keep_watching(first, sender));
    Ok(receiver)
}

type Messages = std::pin::Pin<Box<dyn Stream<Item = NetlinkMessage<RouteNetlinkMessage>> + Send + Sync>>;

/// A netlink socket that listens to multicast groups.
struct Watch {
    messages: Messages,
    netlink: Netlink,
}

impl Watch {
    fn open() -> Result<Self, PortError> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ];
        let (connection, handle, messages) = rtnetlink::new_multicast_connection(&groups)
            .map_err(|e| PortError::Failed(format!("could not open a netlink socket: {e}")))?;
        let netlink = Netlink { handle, task: tokio::spawn(connection) };
        Ok(Self { messages: Box::pin(messages.map(|(message, _)| message)), netlink })
    }

    /// After messages were missed: anything may have changed.
    async fn take_stock(&self, pending: &mut Pending) {
        (pending.addresses, pending.routes) = (true, true);
        let mut links = std::pin::pin!(self.netlink.handle.link().get().execute());
        while let Ok(Some(link)) = links.try_next().await {
            pending.note_link(&link, false);
        }
    }
}

/// What the reader has not been told yet: at most one entry for each device.
#[derive(Default)]
struct Pending {
    addresses: bool,
    routes: bool,
    links: BTreeMap<u32, Event>,
}

impl Pending {
    fn note(&mut self, payload: NetlinkPayload<RouteNetlinkMessage>) {
        let NetlinkPayload::InnerMessage(message) = payload else { return };
        match message {
            RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_) => self.addresses = true,
            RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
                // Those of the table "local" repeat the addresses.
                self.routes |= route.header.table != libc::RT_TABLE_LOCAL;
            }
            RouteNetlinkMessage::NewLink(link) => self.note_link(&link, false),
            RouteNetlinkMessage::DelLink(link) => self.note_link(&link, true),
            _ => {}
        }
    }

    fn note_link(&mut self, link: &LinkMessage, gone: bool) {
        // A bridge tells of its ports in AF_BRIDGE: "gone" from it is not gone.
        if link.header.interface_family == AddressFamily::Bridge {
            return;
        }
        let index = link.header.index;
        let name = link
            .attributes
            .iter()
            .find_map(|a| if let LinkAttribute::IfName(n) = a { Some(n.clone()) } else { None });
        let flags = link.header.flags;
        let (up, running) = (flags.contains(LinkFlags::Up), flags.contains(LinkFlags::Running));
        let event = Event::Link {
            index,
            name: name.unwrap_or_default(),
            up: up && !gone,
            running: running && !gone,
            gone,
        };
        self.links.insert(index, event);
    }

    fn take(&mut self) -> Option<Event> {
        if let Some((_, link)) = self.links.pop_first() {
            return Some(link);
        }
        if std::mem::take(&mut self.addresses) {
            return Some(Event::Addresses);
        }
        std::mem::take(&mut self.routes).then_some(Event::Routes)
    }

    fn is_empty(&self) -> bool {
        !self.addresses && !self.routes && self.links.is_empty()
    }
}

async fn keep_watching(mut watch: Watch, sender: mpsc::Sender<Event>) {
    let mut pending = Pending::default();
    loop {
        tokio::select! {
            message = watch.messages.next() => {
                match message.map(|message| message.payload) {
                    // The kernel had to drop some.
                    Some(NetlinkPayload::Overrun(_)) => watch.take_stock(&mut pending).await,
                    Some(payload) => pending.note(payload),
                    None => {
                        tokio::time::sleep(REOPEN_AFTER).await;
                        if let Ok(again) = Watch::open() {
                            watch = again;
                            watch.take_stock(&mut pending).await;
                        }
                    }
                }
            }
            permit = sender.reserve(), if !pending.is_empty() => {
                let (Ok(permit), Some(event)) = (permit, pending.take()) else { return };
                permit.send(event);
            }
            () = sender.closed() => return,
        }
    }
}

/// Between attempts to open the watching socket again.
const REOPEN_AFTER: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use netlink_packet_route::address::AddressMessage;
    use netlink_packet_route::route::RouteMessage;

    use super::*;

    fn link(index: u32, flags: LinkFlags, family: AddressFamily) -> LinkMessage {
        let mut link = LinkMessage::default();
        (link.header.index, link.header.flags, link.header.interface_family) = (index, flags, family);
        link.attributes.push(LinkAttribute::IfName("t0".to_owned()));
        link
    }

    fn told(messages: Vec<RouteNetlinkMessage>) -> Vec<Event> {
        let mut pending = Pending::default();
        messages.into_iter().for_each(|message| pending.note(NetlinkPayload::InnerMessage(message)));
        let events = std::iter::from_fn(|| pending.take()).collect();
        assert!(pending.is_empty());
        events
    }

    #[test]
    fn of_each_device_only_the_latest_state_is_kept() {
        use RouteNetlinkMessage::{DelLink, NewAddress, NewLink};
        let (up, unspec) = (LinkFlags::Up, AddressFamily::Unspec);
        let event = |index, is_up, gone| Event::Link {
            index,
            name: "t0".to_owned(),
            up: is_up,
            running: false,
            gone,
        };
        let messages = vec![
            NewLink(link(7, LinkFlags::empty(), unspec)),
            NewAddress(AddressMessage::default()),
            NewLink(link(7, up, unspec)),
            NewAddress(AddressMessage::default()),
            NewLink(link(3, up, unspec)),
            DelLink(link(7, up, unspec)),
        ];
        assert_eq!(told(messages), [event(3, true, false), event(7, false, true), Event::Addresses]);
    }

    #[test]
    fn leaving_a_bridge_is_not_going_away() {
        assert_eq!(
            told(vec![RouteNetlinkMessage::DelLink(link(7, LinkFlags::Up, AddressFamily::Bridge))]),
            []
        );
    }

    #[test]
    fn routes_to_our_own_addresses_are_not_told() {
        let mut route = RouteMessage::default();
        route.header.table = libc::RT_TABLE_LOCAL;
        assert_eq!(told(vec![RouteNetlinkMessage::NewRoute(route.clone())]), []);
        route.header.table = libc::RT_TABLE_MAIN;
        assert_eq!(told(vec![RouteNetlinkMessage::DelRoute(route)]), [Event::Routes]);
    }
}
