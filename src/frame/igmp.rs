//! IGMP of all versions (RFC 1112, 2236, 3376), read strictly, and what else in IPv4 tells of a multicast router:
//! advertisements (RFC 4286) and PIM hellos (RFC 7761). Queries and advertisements are written.

use core::net::Ipv4Addr;
use core::time::Duration;

use super::checksum::checksum;
use super::group::{Message, Query, Record, Records, Says, Sort, code_of, habits_of, time_of};
use super::packet::{ipv4, word};

/// The group that an IPv4 packet is for.
pub fn destination(packet: &[u8]) -> Option<Ipv4Addr> {
    let octets = packet.get(ipv4::ADDRESSES + 4..)?.first_chunk::<4>()?;
    Some(Ipv4Addr::from(*octets)).filter(|to| packet[0] >> 4 == 4 && to.is_multicast())
}

/// The sort of a packet, if it is a message that is looked at.
pub fn sort(packet: &[u8]) -> Option<Sort> {
    let header = header_len(packet)?;
    let kind = *packet.get(header)?;
    if is_fragment(packet) {
        return None;
    }
    match (packet[ipv4::PROTOCOL], kind) {
        (IGMP, V1_REPORT | V2_REPORT | LEAVE | V3_REPORT) => Some(Sort::Report { v6: false }),
        (IGMP, QUERY | ADVERTISEMENT) | (PIM, HELLO) => Some(Sort::Notice),
        _ => None,
    }
}

/// What an IPv4 packet says; padding behind it is not looked at. `None` for anything else, for what was routed, and for
/// wrong checksums and lengths.
pub fn parse(packet: &[u8]) -> Option<Message<'_>> {
    let header = header_len(packet)?;
    let total = usize::from(word(packet, ipv4::TOTAL_LEN));
    let packet = packet.get(..total)?;
    let message = packet.get(header..)?;
    let is_sound = packet[TTL] == 1
        && !is_fragment(packet)
        && checksum(&packet[..header]) == 0
        && checksum(message) == 0;
    let (source, to) = (address(packet, ipv4::ADDRESSES)?, destination(packet)?);
    if !is_sound || source.is_multicast() || source.is_broadcast() || source.is_loopback() {
        return None;
    }
    match packet[ipv4::PROTOCOL] {
        IGMP => igmp(message, source, to),
        PIM => {
            let is_hello = message.len() >= 4 && message[0] == HELLO && to == ALL_PIM_ROUTERS;
            (is_hello && !source.is_unspecified())
                .then_some(Message::Router { source: source.into(), advertised: false })
        }
        _ => None,
    }
}

fn igmp(message: &[u8], source: Ipv4Addr, to: Ipv4Addr) -> Option<Message<'_>> {
    let (fixed, more) = message.split_first_chunk::<8>()?;
    let group = address(message, 4)?;
    let one = |says| {
        let record = Record { group: group.into(), says };
        Message::Report(Records::One(Some(record)))
    };
    match fixed[0] {
        QUERY => {
            let about = (!group.is_unspecified()).then_some(group);
            if to != about.unwrap_or(ALL_HOSTS) || about.is_some_and(|group| !group.is_multicast()) {
                return None;
            }
            let (tenths, decides, (robustness, interval)) = match *more {
                // IGMPv1 has no field for it.
                [] if fixed[1] == 0 => (100, true, (None, None)),
                [] => (u32::from(fixed[1]), true, (None, None)),
                [flags, qqic, high, low, ref sources @ ..] => {
                    let count = usize::from(u16::from_be_bytes([high, low]));
                    if sources.len() < count * 4 {
                        return None;
                    }
                    let decides = count == 0 && flags & SUPPRESS == 0;
                    (time_of(fixed[1].into(), 8), decides, habits_of(flags, qqic))
                }
                _ => return None,
            };
            let response = Duration::from_millis(u64::from(tenths) * 100);
            let (source, group) = (source.into(), about.map(Into::into));
            Some(Message::Query(Query { source, group, decides, response, interval, robustness }))
        }
        V1_REPORT if to == group => Some(one(Says::Member { mute: true })),
        V2_REPORT if to == group => Some(one(Says::Member { mute: false })),
        LEAVE if (to == ALL_ROUTERS || to == group) && group.is_multicast() => Some(one(Says::Leaves)),
        V3_REPORT if to == ALL_V3_ROUTERS => {
            Records::checked(false, word(message, 6), more).map(Message::Report)
        }
        ADVERTISEMENT if to == ALL_SNOOPERS => {
            Some(Message::Router { source: source.into(), advertised: true })
        }
        _ => None,
    }
}

/// The packet that asks for all groups, or for one. Its source is unspecified, as a switch has no address: all hosts
/// answer it (RFC 4541 section 2.1.1), and no router takes it for a router's.
pub fn query(group: Option<Ipv4Addr>, response: Duration, interval: Duration) -> Vec<u8> {
    let mut message = [0; 12];
    message[0] = QUERY;
    message[1] = code_of((response.as_millis() / 100) as u32, 8) as u8;
    message[4..8].copy_from_slice(&group.unwrap_or(Ipv4Addr::UNSPECIFIED).octets());
    message[8] = ROBUSTNESS;
    message[9] = code_of(interval.as_secs() as u32, 8) as u8;
    packet(group.unwrap_or(ALL_HOSTS), message)
}

/// The packet that says where what routers have to hear is to go (RFC 4286 section 4).
pub fn advertisement(interval: Duration) -> Vec<u8> {
    let seconds = interval.as_secs().clamp(4, 180) as u8;
    let mut message = [0; 8];
    message[..2].copy_from_slice(&[ADVERTISEMENT, seconds]);
    message[4..6].copy_from_slice(&(interval.as_secs() as u16).to_be_bytes());
    message[7] = ROBUSTNESS;
    packet(ALL_SNOOPERS, message)
}

/// A packet with a Router Alert (RFC 2113) and `message`, whose checksum is put in.
fn packet<const LEN: usize>(to: Ipv4Addr, mut message: [u8; LEN]) -> Vec<u8> {
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut header = [0; ipv4::HEADER + ROUTER_ALERT.len()];
    let total = (header.len() + LEN) as u16;
    header[..2].copy_from_slice(&[0x46, INTERNETWORK_CONTROL]);
    header[ipv4::TOTAL_LEN..ipv4::TOTAL_LEN + 2].copy_from_slice(&total.to_be_bytes());
    header[ipv4::FRAGMENT] = 0x40; // don't fragment: so no identification is wanted
    (header[TTL], header[ipv4::PROTOCOL]) = (1, IGMP);
    header[ipv4::ADDRESSES + 4..ipv4::HEADER].copy_from_slice(&to.octets());
    header[ipv4::HEADER..].copy_from_slice(&ROUTER_ALERT);
    let sum = checksum(&header);
    header[ipv4::CHECKSUM..ipv4::CHECKSUM + 2].copy_from_slice(&sum.to_be_bytes());
    [&header[..], &message].concat()
}

/// Of a header that is there.
fn header_len(packet: &[u8]) -> Option<usize> {
    let len = usize::from(packet.first()? & 0x0f) * 4;
    (packet[0] >> 4 == 4 && len >= ipv4::HEADER && packet.len() >= len).then_some(len)
}

fn is_fragment(packet: &[u8]) -> bool {
    word(packet, ipv4::FRAGMENT) & (ipv4::MORE_FRAGMENTS | ipv4::FRAGMENT_OFFSET) != 0
}

fn address(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(*bytes.get(at..)?.first_chunk::<4>()?))
}

const TTL: usize = 8;
const INTERNETWORK_CONTROL: u8 = 0xc0;
const ROUTER_ALERT: [u8; 4] = [0x94, 4, 0, 0];
const IGMP: u8 = 2;
const PIM: u8 = 103;
const QUERY: u8 = 0x11;
const V1_REPORT: u8 = 0x12;
const V2_REPORT: u8 = 0x16;
const LEAVE: u8 = 0x17;
const V3_REPORT: u8 = 0x22;
const ADVERTISEMENT: u8 = 0x30;
/// Version 2, type 0.
const HELLO: u8 = 0x20;
/// In the flags of a query: it was asked before.
const SUPPRESS: u8 = 0x08;
/// How often a question is asked before its answers count.
const ROBUSTNESS: u8 = 2;
const ALL_HOSTS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);
const ALL_ROUTERS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 2);
const ALL_PIM_ROUTERS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 13);
const ALL_V3_ROUTERS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 22);
const ALL_SNOOPERS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 106);
