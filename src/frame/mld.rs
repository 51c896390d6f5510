//! MLD of both versions (RFC 2710, 3810), read strictly, and what else in IPv6 tells of a multicast router:
//! advertisements (RFC 4286) and PIM hellos (RFC 7761). Queries are written.

use core::net::Ipv6Addr;
use core::time::Duration;

use super::MacAddr;
use super::checksum::Sum;
use super::group::{Message, Query, Record, Records, Says, Sort, code_of, habits_of, link_local, time_of};
use super::nd::ICMPV6;
use super::packet::{ipv6, word};

/// The group that an IPv6 packet is for.
pub fn destination(packet: &[u8]) -> Option<Ipv6Addr> {
    let to = address(packet, ipv6::ADDRESSES + 16)?;
    (packet[0] >> 4 == 6 && to.is_multicast()).then_some(to)
}

/// The sort of a packet, if it is a message that is looked at.
pub fn sort(packet: &[u8]) -> Option<Sort> {
    let (protocol, at) = upper(packet)?;
    match (protocol, *packet.get(at)?) {
        (ICMPV6, V1_REPORT | DONE | V2_REPORT) => Some(Sort::Report { v6: true }),
        (ICMPV6, QUERY | ADVERTISEMENT) | (PIM, HELLO) => Some(Sort::Notice),
        _ => None,
    }
}

/// What an IPv6 packet says, and what stands behind it. `None` for anything else, for what was routed or comes without a
/// Router Alert where one belongs, and for wrong checksums and lengths.
pub fn parse(packet: &[u8]) -> Option<Message<'_>> {
    let (protocol, at) = upper(packet)?;
    let end = ipv6::HEADER + usize::from(word(packet, ipv6::PAYLOAD_LEN));
    let message = packet.get(at..end)?;
    let (source, to) = (address(packet, ipv6::ADDRESSES)?, destination(packet)?);
    let is_local = source.octets()[0] == 0xfe && source.octets()[1] & 0xc0 == 0x80;
    // A host that has no address yet says what it wants all the same (RFC 3590).
    if packet[HOP_LIMIT] != 1
        || !(is_local || source.is_unspecified())
        || checksum(packet, protocol, message) != 0
    {
        return None;
    }
    let router = |advertised| is_local.then_some(Message::Router { source: source.into(), advertised });
    match protocol {
        PIM if message.len() >= 4 && message[0] == HELLO && to == ALL_PIM_ROUTERS => router(false),
        ICMPV6 if !has_alert(packet.get(ipv6::HEADER..at)?) => None,
        ICMPV6 if message.len() >= 8 && message[0] == ADVERTISEMENT && to == ALL_SNOOPERS => router(true),
        ICMPV6 if is_local || message.first() != Some(&QUERY) => mld(message, source, to),
        _ => None,
    }
}

fn mld(message: &[u8], source: Ipv6Addr, to: Ipv6Addr) -> Option<Message<'_>> {
    let (fixed, more) = message.split_first_chunk::<8>()?;
    if fixed[0] == V2_REPORT {
        let records = Records::checked(true, word(message, 6), more).map(Message::Report);
        return records.filter(|_| to == ALL_V2_ROUTERS);
    }
    let group = address(message, 8)?;
    let more = &more[16..];
    let one = |says| {
        let record = Record { group: group.into(), says };
        Message::Report(Records::One(Some(record)))
    };
    match fixed[0] {
        QUERY => {
            let about = (!group.is_unspecified()).then_some(group);
            if to != about.unwrap_or(ALL_NODES) || about.is_some_and(|group| !group.is_multicast()) {
                return None;
            }
            let code = word(message, 4);
            let (millis, decides, (robustness, interval)) = match *more {
                [] => (code.into(), true, (None, None)),
                [flags, qqic, high, low, ref sources @ ..] => {
                    let count = usize::from(u16::from_be_bytes([high, low]));
                    if sources.len() < count * 16 {
                        return None;
                    }
                    (time_of(code, 16), count == 0 && flags & SUPPRESS == 0, habits_of(flags, qqic))
                }
                _ => return None,
            };
            let response = Duration::from_millis(millis.into());
            let (source, group) = (source.into(), about.map(Into::into));
            Some(Message::Query(Query { source, group, decides, response, interval, robustness }))
        }
        V1_REPORT if to == group => Some(one(Says::Member { mute: false })),
        DONE if (to == ALL_ROUTERS || to == group) && group.is_multicast() => Some(one(Says::Leaves)),
        _ => None,
    }
}

/// The packet by which the station `mac` asks for all groups, or for one.
pub fn query(mac: MacAddr, group: Option<Ipv6Addr>, response: Duration, interval: Duration) -> Vec<u8> {
    let mut message = [0; 28];
    message[0] = QUERY;
    message[4..6].copy_from_slice(&code_of(response.as_millis() as u32, 16).to_be_bytes());
    message[8..24].copy_from_slice(&group.unwrap_or(Ipv6Addr::UNSPECIFIED).octets());
    message[24] = ROBUSTNESS;
    message[25] = code_of(interval.as_secs() as u32, 8) as u8;
    let mut header = [0; ipv6::HEADER + ALERT.len()];
    header[0] = 0x60;
    header[ipv6::PAYLOAD_LEN..ipv6::PAYLOAD_LEN + 2]
        .copy_from_slice(&((ALERT.len() + message.len()) as u16).to_be_bytes());
    (header[ipv6::NEXT_HEADER], header[HOP_LIMIT]) = (ipv6::HOP_BY_HOP, 1);
    header[ipv6::ADDRESSES..][..16].copy_from_slice(&link_local(mac).octets());
    header[ipv6::ADDRESSES + 16..][..16].copy_from_slice(&group.unwrap_or(ALL_NODES).octets());
    header[ipv6::HEADER..].copy_from_slice(&ALERT);
    let sum = checksum(&header, ICMPV6, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    [&header[..], &message].concat()
}

/// The protocol of a packet behind a hop-by-hop header, or none, and where that begins.
fn upper(packet: &[u8]) -> Option<(u8, usize)> {
    if packet.len() < ipv6::HEADER || packet[0] >> 4 != 6 {
        return None;
    }
    match packet[ipv6::NEXT_HEADER] {
        ipv6::HOP_BY_HOP => {
            let options = packet.get(ipv6::HEADER..ipv6::HEADER + 8)?;
            Some((options[0], ipv6::HEADER + (usize::from(options[1]) + 1) * 8))
        }
        protocol => Some((protocol, ipv6::HEADER)),
    }
}

/// Whether a hop-by-hop header has a Router Alert for MLD (RFC 2711) in it.
fn has_alert(header: &[u8]) -> bool {
    let mut options = header.get(2..).unwrap_or_default();
    loop {
        match *options {
            [PAD, ref rest @ ..] => options = rest,
            [kind, len, ref rest @ ..] => {
                let Some((value, rest)) = rest.split_at_checked(len.into()) else { return false };
                if kind == ROUTER_ALERT {
                    return value == [0, 0];
                }
                options = rest;
            }
            _ => return false,
        }
    }
}

/// RFC 4443 2.3, RFC 7761 4.9; 0 when the message has it in its place.
fn checksum(header: &[u8], protocol: u8, message: &[u8]) -> u16 {
    let mut sum = Sum::pseudo(&header[ipv6::ADDRESSES..ipv6::HEADER], protocol);
    sum.add_word(message.len() as u16);
    sum.add(message);
    sum.checksum()
}

fn address(bytes: &[u8], at: usize) -> Option<Ipv6Addr> {
    Some(Ipv6Addr::from(*bytes.get(at..)?.first_chunk::<16>()?))
}

const HOP_LIMIT: usize = 7;
/// Next header ICMPv6, a Router Alert for MLD, and two bytes of padding.
const ALERT: [u8; 8] = [ICMPV6, 0, ROUTER_ALERT, 2, 0, 0, 1, 0];
const PAD: u8 = 0;
const ROUTER_ALERT: u8 = 5;
const PIM: u8 = 103;
const QUERY: u8 = 130;
const V1_REPORT: u8 = 131;
const DONE: u8 = 132;
const V2_REPORT: u8 = 143;
const ADVERTISEMENT: u8 = 151;
/// Version 2, type 0.
const HELLO: u8 = 0x20;
/// In the flags of a query: it was asked before.
const SUPPRESS: u8 = 0x08;
/// How often a question is asked before its answers count.
const ROBUSTNESS: u8 = 2;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
const ALL_PIM_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xd);
const ALL_V2_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
const ALL_SNOOPERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x6a);
