//! ARP for IPv4 over Ethernet (RFC 826), read strictly and written.

use core::net::Ipv4Addr;

use super::MacAddr;

/// EtherType.
pub const ETHERTYPE: u16 = 0x0806;
/// Bytes of a packet.
pub const LEN: usize = 28;

const REQUEST: u16 = 1;
const REPLY: u16 = 2;
/// Ethernet, IPv4, and the lengths of their addresses.
const KIND: [u8; 6] = [0, 1, 0x08, 0x00, 6, 4];

/// A request or a reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arp {
    pub is_request: bool,
    pub sender_mac: MacAddr,
    /// Unspecified in a probe (RFC 5227).
    pub sender: Ipv4Addr,
    pub target_mac: MacAddr,
    pub target: Ipv4Addr,
}

impl Arp {
    /// What stands behind the EtherType; padding behind the packet is not looked at. `None` for anything but a
    /// request or reply of Ethernet and IPv4.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let rest = payload.strip_prefix(&KIND)?;
        let (operation, rest) = rest.split_first_chunk()?;
        let (sender_mac, rest) = rest.split_first_chunk()?;
        let (sender, rest) = rest.split_first_chunk::<4>()?;
        let (target_mac, rest) = rest.split_first_chunk()?;
        let target = rest.first_chunk::<4>()?;
        let operation = u16::from_be_bytes(*operation);
        matches!(operation, REQUEST | REPLY).then(|| Self {
            is_request: operation == REQUEST,
            sender_mac: MacAddr::new(*sender_mac),
            sender: (*sender).into(),
            target_mac: MacAddr::new(*target_mac),
            target: (*target).into(),
        })
    }

    /// A gratuitous request: the station's own address, asked for by itself (RFC 5227 section 3).
    pub fn announcement(mac: MacAddr, ip: Ipv4Addr) -> Self {
        Self { is_request: true, sender_mac: mac, sender: ip, target_mac: MacAddr::ZERO, target: ip }
    }

    pub fn bytes(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        let operation = if self.is_request { REQUEST } else { REPLY };
        bytes[..6].copy_from_slice(&KIND);
        bytes[6..8].copy_from_slice(&operation.to_be_bytes());
        bytes[8..14].copy_from_slice(&self.sender_mac.octets());
        bytes[14..18].copy_from_slice(&self.sender.octets());
        bytes[18..24].copy_from_slice(&self.target_mac.octets());
        bytes[24..].copy_from_slice(&self.target.octets());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHO_HAS: [u8; LEN] =
        [0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2];

    #[test]
    fn a_request_is_read_and_written() {
        let arp = Arp::parse(&[&WHO_HAS[..], &[0; 18]].concat()).unwrap();
        assert!(arp.is_request);
        assert_eq!(arp.sender_mac.to_string(), "02:00:00:00:00:01");
        assert_eq!((arp.sender.to_string(), arp.target.to_string()), ("10.0.0.1".into(), "10.0.0.2".into()));
        assert_eq!(arp.bytes(), WHO_HAS);
    }

    #[test]
    fn what_is_cut_or_of_another_kind_is_none() {
        for len in 0..LEN {
            assert_eq!(Arp::parse(&WHO_HAS[..len]), None, "{len}");
        }
        for (at, value) in [(1, 6), (2, 0x86), (4, 8), (5, 16), (7, 3), (7, 0), (6, 1)] {
            let mut bytes = WHO_HAS;
            bytes[at] = value;
            assert_eq!(Arp::parse(&bytes), None, "{at}");
        }
    }
}
