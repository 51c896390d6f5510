//! Neighbour Discovery for IPv6 (RFC 4861): solicitations and advertisements, read by all the rules of
//! section 7.1, and advertisements written.

use core::net::Ipv6Addr;

use super::MacAddr;
use super::checksum::Sum;

/// EtherType of IPv6.
pub const ETHERTYPE: u16 = 0x86dd;
/// Next header of ICMPv6; it stands at [`NEXT_HEADER`] in the packet.
pub const ICMPV6: u8 = 58;
pub const NEXT_HEADER: usize = 6;
/// Bytes of an advertisement as it is written here, IPv6 header included.
pub const LEN: usize = HEADER + MESSAGE + OPTION;

/// Bytes of the IPv6 header.
pub const HEADER: usize = 40;
/// Type, code, checksum, flags, target.
const MESSAGE: usize = 24;
/// A link-layer address.
const OPTION: usize = 8;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOURCE_ADDRESS: u8 = 1;
const TARGET_ADDRESS: u8 = 2;
const ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
/// ff02::1.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// A message that is as it has to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Nd {
    Solicitation {
        /// Unspecified while the asker tries an address out (RFC 4862 5.4.2).
        source: Ipv6Addr,
        /// The group of those who may have the address, or the one who had it.
        to_group: bool,
        target: Ipv6Addr,
        /// Its source link-layer address.
        mac: Option<MacAddr>,
    },
    Advertisement {
        target: Ipv6Addr,
        router: bool,
        /// What was known before gives way to it; not for an anycast address, or by a proxy.
        overrides: bool,
        /// Its target link-layer address.
        mac: Option<MacAddr>,
    },
}

impl Nd {
    /// An IPv6 packet, and what stands behind it. `None` for anything else, and for what RFC 4861 says is to be
    /// discarded: another hop limit than 255, a wrong checksum, options without length.
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let (header, rest) = packet.split_first_chunk::<HEADER>()?;
        let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let message = rest.get(..len)?;
        let (fixed, options) = message.split_first_chunk::<MESSAGE>()?;
        let kind = fixed[0];
        let is_ours = header[0] >> 4 == 6
            && header[NEXT_HEADER] == ICMPV6
            && header[7] == 255
            && is_kind(kind)
            && fixed[1] == 0;
        if !is_ours || checksum(&header[8..], message) != 0 {
            return None;
        }
        let source = address(&header[8..24])?;
        let destination = address(&header[24..])?;
        let target = address(&fixed[8..]).filter(|ip| !ip.is_multicast())?;
        if kind == SOLICITATION {
            let mac = option(options, SOURCE_ADDRESS)?;
            let group = solicited_node(target);
            if source.is_multicast()
                || source.is_unspecified() && (destination != group || mac.is_some())
                || destination.is_multicast() && destination != group
            {
                return None;
            }
            return Some(Self::Solicitation { source, to_group: destination == group, target, mac });
        }
        let flags = fixed[4];
        if destination.is_multicast() && flags & SOLICITED != 0 {
            return None;
        }
        let (router, overrides) = (flags & ROUTER != 0, flags & OVERRIDE != 0);
        Some(Self::Advertisement { target, router, overrides, mac: option(options, TARGET_ADDRESS)? })
    }
}

/// The IPv6 packet by which the station `mac` says that `target` is its own: to the asker `to`, or to all when
/// nobody asked.
pub fn advertisement(mac: MacAddr, target: Ipv6Addr, router: bool, to: Option<Ipv6Addr>) -> [u8; LEN] {
    let mut packet = [0; LEN];
    packet[0] = 0x60;
    packet[4..6].copy_from_slice(&((MESSAGE + OPTION) as u16).to_be_bytes());
    (packet[NEXT_HEADER], packet[7]) = (ICMPV6, 255);
    packet[8..24].copy_from_slice(&target.octets());
    packet[24..40].copy_from_slice(&to.unwrap_or(ALL_NODES).octets());
    packet[HEADER] = ADVERTISEMENT;
    let asked = if to.is_some() { SOLICITED } else { 0 };
    packet[HEADER + 4] = OVERRIDE | asked | if router { ROUTER } else { 0 };
    packet[HEADER + 8..HEADER + MESSAGE].copy_from_slice(&target.octets());
    (packet[HEADER + MESSAGE], packet[HEADER + MESSAGE + 1]) = (TARGET_ADDRESS, 1);
    packet[HEADER + MESSAGE + 2..].copy_from_slice(&mac.octets());
    let (header, message) = packet.split_at(HEADER);
    let sum = checksum(&header[8..], message);
    packet[HEADER + 2..HEADER + 4].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// The Ethernet group of an IPv6 group (RFC 2464 section 7).
pub fn group_mac(group: Ipv6Addr) -> MacAddr {
    let [.., a, b, c, d] = group.octets();
    MacAddr::new([0x33, 0x33, a, b, c, d])
}

/// Where all stations hear it.
pub fn all_nodes_mac() -> MacAddr {
    group_mac(ALL_NODES)
}

/// Whether a type of ICMPv6 is one of those that are read here.
pub fn is_kind(kind: u8) -> bool {
    matches!(kind, SOLICITATION | ADVERTISEMENT)
}

/// RFC 4291 2.7.1.
fn solicited_node(target: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = target.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// RFC 4443 2.3; 0 when the message has it in its place.
fn checksum(addresses: &[u8], message: &[u8]) -> u16 {
    let mut sum = Sum::pseudo(addresses, ICMPV6);
    sum.add_word(message.len() as u16);
    sum.add(message);
    sum.checksum()
}

fn address(bytes: &[u8]) -> Option<Ipv6Addr> {
    Some(Ipv6Addr::from(*bytes.first_chunk::<16>()?))
}

/// The link-layer address among the options; the outer `None`: they are not well formed.
fn option(mut options: &[u8], wanted: u8) -> Option<Option<MacAddr>> {
    let mut found = None;
    while !options.is_empty() {
        let [kind, eights, ..] = *options else { return None };
        let (option, rest) = options.split_at_checked(usize::from(eights) * 8)?;
        if option.is_empty() {
            return None;
        }
        if kind == wanted && found.is_none() {
            found = Some(MacAddr::new(*option[2..].first_chunk()?)).filter(|_| eights == 1);
        }
        options = rest;
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 1]);

    /// A solicitation for `target` with an option in it.
    fn solicitation(source: &str, to: &str, target: &str, option: &[u8]) -> Vec<u8> {
        let octets = |ip: &str| ip.parse::<Ipv6Addr>().unwrap().octets();
        let mut message = vec![SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
        message.extend(octets(target));
        message.extend(option);
        let mut packet = vec![0x60, 0, 0, 0, 0, message.len() as u8, ICMPV6, 255];
        packet.extend([octets(source), octets(to)].concat());
        let sum = checksum(&packet[8..], &message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        packet.extend(message);
        packet
    }

    const OPTION_MAC: [u8; 8] = [1, 1, 2, 0, 0, 0, 0, 1];

    #[test]
    fn a_solicitation_is_read() {
        let packet = solicitation("fe80::1", "ff02::1:ff00:2", "fe80::2", &OPTION_MAC);
        let (source, target) = ("fe80::1".parse().unwrap(), "fe80::2".parse().unwrap());
        let read = Nd::Solicitation { source, to_group: true, target, mac: Some(MAC) };
        assert_eq!(Nd::parse(&packet), Some(read));
        assert_eq!(Nd::parse(&[&packet[..], &[0; 4]].concat()), Some(read), "padding");
        let probe = solicitation("::", "ff02::1:ff00:2", "fe80::2", &[]);
        assert!(
            matches!(Nd::parse(&probe), Some(Nd::Solicitation { source, .. }) if source.is_unspecified())
        );
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let target = "2001:db8::7".parse().unwrap();
        for (router, to) in [(false, None), (true, Some("fe80::9".parse().unwrap()))] {
            let packet = advertisement(MAC, target, router, to);
            let read = Nd::Advertisement { target, router, overrides: true, mac: Some(MAC) };
            assert_eq!(Nd::parse(&packet), Some(read));
        }
        assert_eq!(all_nodes_mac().to_string(), "33:33:00:00:00:01");
    }

    #[test]
    fn what_rfc_4861_discards_is_none() {
        let good = solicitation("fe80::1", "ff02::1:ff00:2", "fe80::2", &OPTION_MAC);
        for len in 0..good.len() {
            assert_eq!(Nd::parse(&good[..len]), None, "{len}");
        }
        // Version, next header, hop limit, type, code, checksum, target: each alone.
        for (at, value) in [(0, 0x40), (6, 17), (7, 254), (40, 133), (41, 1), (42, 0), (60, 9)] {
            let mut bytes = good.clone();
            bytes[at] ^= value;
            bytes[at] = if at == 42 { !good[42] } else { value };
            assert_eq!(Nd::parse(&bytes), None, "{at}");
        }
        for (source, to, target, option) in [
            ("fe80::1", "ff02::1:ff00:2", "ff02::2", &OPTION_MAC[..]),
            ("::", "ff02::1:ff00:2", "fe80::2", &OPTION_MAC),
            ("::", "fe80::2", "fe80::2", &[]),
            ("ff02::1", "ff02::1:ff00:2", "fe80::2", &OPTION_MAC),
            ("fe80::1", "ff02::1:ff00:3", "fe80::2", &OPTION_MAC),
            ("fe80::1", "ff02::1:ff00:2", "fe80::2", &[1, 0, 0, 0, 0, 0, 0, 0]),
            ("fe80::1", "ff02::1:ff00:2", "fe80::2", &[1, 2, 2, 0, 0, 0, 0, 1]),
        ] {
            assert_eq!(
                Nd::parse(&solicitation(source, to, target, option)),
                None,
                "{source} {to} {option:?}"
            );
        }
    }
}
