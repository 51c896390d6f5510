//! A device's place in a Linux bridge.

use futures_util::TryStreamExt;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::{LinkMessageBuilder, LinkUnspec};

use super::Netlink;
use crate::port::PortError;

/// Puts device `name` into `bridge`, whose index is returned. It is not taken out of another one: whoever put it there may want it there.
pub async fn join(name: &str, bridge: &str) -> Result<u32, PortError> {
    let netlink = Netlink::open()?;
    let found = netlink.link(bridge).await.map_err(|error| match error {
        PortError::NotFound(_) => PortError::NotFound(format!(
            "bridge: no network device {bridge}; make it first: ip link add {bridge} type bridge"
        )),
        error => error,
    })?;
    if !is_bridge(&found) {
        return Err(PortError::Invalid(format!("bridge: {bridge} is no bridge")));
    }
    let index = found.header.index;
    let link = netlink.link(name).await?;
    match controller(&link) {
        Some(there) if there == index => Ok(index),
        Some(there) => {
            let there = netlink.name_of(there).await.unwrap_or_else(|| format!("device {there}"));
            Err(PortError::Failed(format!(
                "bridge: {name} is in {there} already and stays there; take it out first: ip link set {name} nomaster"
            )))
        }
        None => {
            let message = LinkMessageBuilder::<LinkUnspec>::new().index(link.header.index).controller(index);
            netlink.set(name, &format!("its bridge to {bridge}"), message.build()).await?;
            Ok(index)
        }
    }
}

impl Netlink {
    async fn name_of(&self, index: u32) -> Option<String> {
        let mut answers = std::pin::pin!(self.handle.link().get().match_index(index).execute());
        let link = answers.try_next().await.ok()??;
        link.attributes
            .into_iter()
            .find_map(|a| if let LinkAttribute::IfName(name) = a { Some(name) } else { None })
    }
}

fn is_bridge(link: &LinkMessage) -> bool {
    let infos = link
        .attributes
        .iter()
        .filter_map(|a| if let LinkAttribute::LinkInfo(i) = a { Some(i) } else { None });
    infos.flatten().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Bridge)))
}

/// Whose port the device is.
fn controller(link: &LinkMessage) -> Option<u32> {
    let index = link
        .attributes
        .iter()
        .find_map(|a| if let LinkAttribute::Controller(i) = a { Some(*i) } else { None });
    index.filter(|index| *index != 0)
}
