//! Settings of network devices over rtnetlink: addresses, MTU, MAC, up and down; and what changes by
//! itself ([`watch`]).
//!
//! Every call opens its own netlink socket, in the network namespace of the calling thread, on the
//! current tokio runtime (which must have I/O and time): cheap for something people do by hand, and
//! no shared state.

use std::net::IpAddr;

use futures_util::{StreamExt, TryStreamExt};
use ipnet::{IpNet, Ipv4Net};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec};
use tokio::task::JoinHandle;

pub use self::bridge::join;
pub use self::watch::{Event, watch};
use super::PortError;
use super::spec::InterfaceChange;
use crate::frame::MacAddr;

mod bridge;
mod watch;

/// A network device as the kernel sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Netif {
    pub index: u32,
    pub name: String,
    pub mtu: u32,
    pub mac: MacAddr,
    /// Administratively up.
    pub up: bool,
    /// Up and with carrier.
    pub running: bool,
    /// IPv4 first, then IPv6 (link-local ones too), each in the kernel's order.
    pub addresses: Vec<IpNet>,
}

impl Netif {
    /// The first IPv4 address.
    pub fn ipv4(&self) -> Option<Ipv4Net> {
        self.addresses.iter().find_map(|net| match net {
            IpNet::V4(net) => Some(*net),
            IpNet::V6(_) => None,
        })
    }
}

/// The device called `name`.
pub async fn status(name: &str) -> Result<Netif, PortError> {
    Netlink::open()?.status(name).await
}

/// False also for names that no device can have.
pub async fn exists(name: &str) -> Result<bool, PortError> {
    match Netlink::open()?.link(name).await {
        Ok(_) => Ok(true),
        Err(PortError::NotFound(_) | PortError::Invalid(_)) => Ok(false),
        Err(e) => Err(e),
    }
}

pub async fn set_up(name: &str, up: bool) -> Result<(), PortError> {
    let netlink = Netlink::open()?;
    let index = netlink.link(name).await?.header.index;
    netlink.set_up(name, index, up).await
}

pub async fn delete(name: &str) -> Result<(), PortError> {
    let netlink = Netlink::open()?;
    let index = netlink.link(name).await?.header.index;
    netlink.handle.link().del(index).execute().await.map_err(|e| refused(name, "delete it", &e))
}

/// Lowers the device's gso_max_size and gro_max_size to 65,536 where BIG TCP has raised them: a larger
/// frame would not fit [`MAX_FRAME`](crate::frame::MAX_FRAME). The caller may ignore an error.
pub async fn pin_gso(name: &str) -> Result<(), PortError> {
    let netlink = Netlink::open()?;
    let link = netlink.link(name).await?;
    let limits: Vec<_> = link.attributes.iter().filter_map(pinned).collect();
    if limits.is_empty() {
        return Ok(());
    }
    let mut message = LinkMessageBuilder::<LinkUnspec>::new().index(link.header.index).build();
    message.attributes = limits;
    netlink.set(name, "its gso_max_size and gro_max_size", message).await
}

/// Gives a TAP of several queues one queueing discipline, pfifo_fast, and of the frames that wait for us 500 at most in each
/// queue. By default there is one for each of 256 queues, some 6 MiB, of no use for a device that takes all that it is sent.
/// The caller may ignore an error.
pub async fn bound_queues(name: &str) -> Result<(), PortError> {
    let mut netlink = Netlink::open()?;
    let index = netlink.link(name).await?.header.index;
    let mut message = LinkMessageBuilder::<LinkUnspec>::new().index(index).build();
    message.attributes.push(LinkAttribute::TxQueueLen(QUEUE_LEN));
    netlink.set(name, "its txqueuelen", message).await?;
    let mut message = TcMessage::with_index(index as i32);
    message.header.parent = TcHandle::ROOT;
    message.attributes.push(TcAttribute::Kind("pfifo_fast".into()));
    let mut message = NetlinkMessage::from(RouteNetlinkMessage::NewQueueDiscipline(message));
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
    let refused = |e| refused(name, "set its queueing discipline", &e);
    let mut answers = netlink.handle.request(message).map_err(refused)?;
    while let Some(answer) = answers.next().await {
        if let NetlinkPayload::Error(e) = answer.payload
            && e.code.is_some()
        {
            return Err(refused(rtnetlink::Error::NetlinkError(e)));
        }
    }
    Ok(())
}

/// Changes a device. Everything that can be known is checked before the first change; when the kernel
/// then refuses one all the same, MAC, MTU and added addresses are put back.
///
/// Addresses replace those of the families that occur in the change, IPv6 link-local ones excepted;
/// a device is never without one in between, unless only a prefix length changes.
pub async fn apply(name: &str, change: &InterfaceChange) -> Result<(), PortError> {
    let netlink = Netlink::open()?;
    let link = netlink.link(name).await?;
    let before = netlink.describe(name, &link).await?;
    check(name, &link, &before, change)?;
    let mac = change.mac.filter(|mac| *mac != before.mac);
    let mtu = change.mtu.filter(|mtu| *mtu != before.mtu);
    if let Some(mac) = mac {
        netlink.set_mac(name, &before, mac).await?;
    }
    let outcome = async {
        if let Some(mtu) = mtu {
            netlink.set_mtu(name, before.index, mtu).await?;
        }
        netlink.set_addresses(name, &before, &change.address).await
    };
    let outcome = outcome.await;
    if outcome.is_err() {
        // Best effort: the error to tell is the first one.
        if mtu.is_some() {
            let _ = netlink.set_mtu(name, before.index, before.mtu).await;
        }
        if mac.is_some() {
            let _ = netlink.set_mac(name, &before, before.mac).await;
        }
        let _ = netlink.add_missing(name, before.index, &before.addresses).await;
    }
    outcome
}

/// One netlink socket and the task that serves it.
struct Netlink {
    handle: Handle,
    task: JoinHandle<()>,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Netlink {
    fn open() -> Result<Self, PortError> {
        // Strict (Linux 4.20), so that the kernel picks out what is asked for: who looks at one device of ten thousand
        // must not be told the addresses of all.
        let (connection, handle, _) = rtnetlink::new_connection_with_strict_check()
            .or_else(|_| rtnetlink::new_connection())
            .map_err(|e| PortError::Failed(format!("could not open a netlink socket: {e}")))?;
        Ok(Self { handle, task: tokio::spawn(connection) })
    }

    async fn link(&self, name: &str) -> Result<LinkMessage, PortError> {
        crate::sys::check_device_name(name).map_err(|e| PortError::Invalid(e.to_string()))?;
        let mut answers = std::pin::pin!(self.handle.link().get().match_name(name).execute());
        match answers.try_next().await {
            Ok(Some(link)) => Ok(link),
            Ok(None) => Err(gone(name)),
            Err(e) if errno(&e) == Some(libc::ENODEV) => Err(gone(name)),
            Err(e) => Err(refused(name, "read its state", &e)),
        }
    }

    async fn status(&self, name: &str) -> Result<Netif, PortError> {
        let link = self.link(name).await?;
        self.describe(name, &link).await
    }

    async fn describe(&self, name: &str, link: &LinkMessage) -> Result<Netif, PortError> {
        let mut netif = Netif {
            index: link.header.index,
            name: name.to_owned(),
            mtu: 0,
            mac: MacAddr::ZERO,
            up: link.header.flags.contains(LinkFlags::Up),
            running: link.header.flags.contains(LinkFlags::Running),
            addresses: Vec::new(),
        };
        for attribute in &link.attributes {
            match attribute {
                LinkAttribute::IfName(name) => netif.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => netif.mtu = *mtu,
                LinkAttribute::Address(octets) => {
                    netif.mac = octets.as_slice().try_into().map_or(MacAddr::ZERO, MacAddr::new);
                }
                _ => {}
            }
        }
        let messages = self.address_messages(name, netif.index).await?;
        netif.addresses = messages.iter().filter_map(network).collect();
        netif.addresses.sort_by_key(|net| matches!(net, IpNet::V6(_)));
        Ok(netif)
    }

    async fn address_messages(&self, name: &str, index: u32) -> Result<Vec<AddressMessage>, PortError> {
        // A kernel that is not strict answers with all of them.
        let mut request = self.handle.address().get().set_link_index_filter(index);
        request.message_mut().header.index = index;
        request.execute().try_collect().await.map_err(|e| match errno(&e) {
            Some(libc::ENODEV) => gone(name),
            _ => refused(name, "read its addresses", &e),
        })
    }

    async fn set(&self, name: &str, what: &str, message: LinkMessage) -> Result<(), PortError> {
        let outcome = self.handle.link().set(message).execute().await;
        outcome.map_err(|e| refused(name, &format!("set {what}"), &e))
    }

    async fn set_up(&self, name: &str, index: u32, up: bool) -> Result<(), PortError> {
        let message = LinkMessageBuilder::<LinkUnspec>::new().index(index);
        let message = if up { message.up() } else { message.down() };
        self.set(name, if up { "it up" } else { "it down" }, message.build()).await
    }

    async fn set_mtu(&self, name: &str, index: u32, mtu: u32) -> Result<(), PortError> {
        let message = LinkMessageBuilder::<LinkUnspec>::new().index(index).mtu(mtu).build();
        self.set(name, &format!("its MTU to {mtu}"), message).await
    }

    /// Some drivers change the MAC of a device only while it is down (EBUSY). Going down costs its
    /// IPv6 addresses, which are given back.
    async fn set_mac(&self, name: &str, before: &Netif, mac: MacAddr) -> Result<(), PortError> {
        let message = || {
            LinkMessageBuilder::<LinkUnspec>::new().index(before.index).address(mac.octets().to_vec()).build()
        };
        let what = format!("its MAC address to {mac}");
        match self.handle.link().set(message()).execute().await {
            Err(e) if errno(&e) == Some(libc::EBUSY) && before.up => {}
            outcome => return outcome.map_err(|e| refused(name, &format!("set {what}"), &e)),
        }
        self.set_up(name, before.index, false).await?;
        let outcome = self.set(name, &what, message()).await;
        self.set_up(name, before.index, true).await?;
        outcome?;
        self.add_missing(name, before.index, &before.addresses).await
    }

    async fn set_addresses(&self, name: &str, before: &Netif, wanted: &[IpNet]) -> Result<(), PortError> {
        if wanted.is_empty() {
            return Ok(());
        }
        let index = before.index;
        let mut added = Vec::new();
        for net in wanted.iter().filter(|net| !before.addresses.contains(net)) {
            if let Err(e) = self.add_address(name, index, *net).await {
                for net in added {
                    let _ = self.remove_address(name, index, net).await;
                }
                return Err(e);
            }
            added.push(*net);
        }
        for old in before.addresses.iter().filter(|old| replaced(**old, wanted)) {
            self.remove_address(name, index, *old).await?;
        }
        // Removing the first IPv4 address of a subnet takes the later ones of that subnet with it
        // (unless promote_secondaries is set), and IPv6 knows an address once, whatever its prefix
        // length: both are added only now.
        self.add_missing(name, index, wanted).await
    }

    async fn add_missing(&self, name: &str, index: u32, wanted: &[IpNet]) -> Result<(), PortError> {
        let present: Vec<_> = self.address_messages(name, index).await?.iter().filter_map(network).collect();
        for net in wanted.iter().filter(|net| !present.contains(net)) {
            self.add_address(name, index, *net).await?;
        }
        Ok(())
    }

    async fn add_address(&self, name: &str, index: u32, net: IpNet) -> Result<(), PortError> {
        match self.handle.address().add(index, net.addr(), net.prefix_len()).execute().await {
            Err(e) if errno(&e) != Some(libc::EEXIST) => {
                Err(refused(name, &format!("add address {net}"), &e))
            }
            _ => Ok(()),
        }
    }

    async fn remove_address(&self, name: &str, index: u32, net: IpNet) -> Result<(), PortError> {
        for message in self.address_messages(name, index).await? {
            if network(&message) == Some(net) {
                match self.handle.address().del(message).execute().await {
                    Err(e) if errno(&e) != Some(libc::EADDRNOTAVAIL) => {
                        return Err(refused(name, &format!("remove address {net}"), &e));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// The address that belongs to this host: IFA_LOCAL, or IFA_ADDRESS where that is absent (IPv6).
fn network(message: &AddressMessage) -> Option<IpNet> {
    let local = message
        .attributes
        .iter()
        .find_map(|a| if let AddressAttribute::Local(ip) = a { Some(*ip) } else { None });
    let ip = local.or_else(|| {
        message
            .attributes
            .iter()
            .find_map(|a| if let AddressAttribute::Address(ip) = a { Some(*ip) } else { None })
    })?;
    IpNet::new(ip, message.header.prefix_len).ok()
}

/// `old` has to go when `wanted` takes its place.
fn replaced(old: IpNet, wanted: &[IpNet]) -> bool {
    let link_local = matches!(old, IpNet::V6(net) if net.addr().is_unicast_link_local());
    let same_family = |net: &&IpNet| net.addr().is_ipv4() == old.addr().is_ipv4();
    !link_local && !wanted.contains(&old) && wanted.iter().any(|net| same_family(&net))
}

/// What can be known to be wrong before anything is changed.
fn check(name: &str, link: &LinkMessage, before: &Netif, change: &InterfaceChange) -> Result<(), PortError> {
    let wrong = |text: String| Err(PortError::Invalid(text));
    if let Some(mac) = change.mac.filter(|mac| mac.is_group() || mac.is_zero()) {
        return wrong(format!("MAC address {mac} for {name} is not one station's (group address or zero)"));
    }
    let (mut least, mut most) = (LEAST_MTU, u32::MAX);
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::MinMtu(mtu) => least = least.max(*mtu),
            // 0 is no limit.
            LinkAttribute::MaxMtu(mtu) if *mtu != 0 => most = *mtu,
            _ => {}
        }
    }
    if let Some(mtu) = change.mtu.filter(|mtu| !(least..=most).contains(mtu)) {
        return wrong(format!("MTU {mtu} for {name} is out of range (expected {least} to {most})"));
    }
    let mtu = change.mtu.unwrap_or(before.mtu);
    for net in &change.address {
        let ip = net.addr();
        if ip.is_multicast() || ip.is_unspecified() || ip == IpAddr::from([255; 4]) {
            return wrong(format!("{net} for {name} is not one host's address"));
        }
        if ip.is_ipv6() && mtu < LEAST_IPV6_MTU {
            return wrong(format!(
                "IPv6 address {net} for {name} needs an MTU of {LEAST_IPV6_MTU} (it is {mtu})"
            ));
        }
    }
    Ok(())
}

fn pinned(attribute: &LinkAttribute) -> Option<LinkAttribute> {
    match attribute {
        LinkAttribute::GsoMaxSize(size) if *size > GSO_SIZE => Some(LinkAttribute::GsoMaxSize(GSO_SIZE)),
        LinkAttribute::GroMaxSize(size) if *size > GSO_SIZE => Some(LinkAttribute::GroMaxSize(GSO_SIZE)),
        LinkAttribute::GsoIpv4MaxSize(size) if *size > GSO_SIZE => {
            Some(LinkAttribute::GsoIpv4MaxSize(GSO_SIZE))
        }
        LinkAttribute::GroIpv4MaxSize(size) if *size > GSO_SIZE => {
            Some(LinkAttribute::GroIpv4MaxSize(GSO_SIZE))
        }
        _ => None,
    }
}

fn errno(e: &rtnetlink::Error) -> Option<i32> {
    match e {
        rtnetlink::Error::NetlinkError(e) => Some(e.raw_code().wrapping_abs()),
        _ => None,
    }
}

fn gone(name: &str) -> PortError {
    PortError::NotFound(format!("no network device {name}; ip link shows them"))
}

fn refused(name: &str, what: &str, e: &rtnetlink::Error) -> PortError {
    let reason = match errno(e) {
        Some(errno) => std::io::Error::from_raw_os_error(errno).to_string(),
        None => e.to_string(),
    };
    let hint = match errno(e) {
        Some(libc::EPERM) => "; run as root or with CAP_NET_ADMIN".to_owned(),
        Some(libc::EACCES) if what.contains("address") => {
            format!("; IPv6 may be off there: sysctl net.ipv6.conf.{name}.disable_ipv6")
        }
        _ => String::new(),
    };
    PortError::Failed(format!("network device {name}: could not {what}: {reason}{hint}"))
}

/// Super-frames of 64 KiB in 32 queues are 1 GiB then, if all of them are full.
const QUEUE_LEN: u32 = 500;
/// 1.3's limit: the least that every IPv4 host takes (RFC 1122 3.3.2).
const LEAST_MTU: u32 = 576;
/// RFC 8200 section 5.
const LEAST_IPV6_MTU: u32 = 1280;
/// GSO_LEGACY_MAX_SIZE, linux/netdevice.h.
const GSO_SIZE: u32 = 65_536;
