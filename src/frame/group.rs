//! Multicast groups of IP: which one a frame is for, and what messages of IGMP ([`igmp`]) and MLD ([`mld`]) say of
//! who wants which; the queries that ask for it. Behind one tag of 802.1Q at most: what is behind two, or one of 802.1ad,
//! is flooded.
//!
//! Groups of the link itself, 224.0.0.0/24 and ff02::/16, are never told apart: all hosts of a link have to hear them
//! (RFC 4541 sections 2.1.2 and 3), whether they asked for them or not.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::time::Duration;

use super::eth::{TPID_8021AD, TPID_8021Q};
use super::neighbour::behind_tag;
use super::packet::{ipv4, ipv6};
use super::{Frame, MacAddr, Tag, Vid, igmp, mld, nd};

/// As much of a frame as tells what sort it is: an IPv4 header with all its options behind a tag, and a type.
pub const HEAD: usize = 80;
/// The longest message that is read: a packet of 1,500 bytes behind a tag. What a host has to say beyond that, it says in
/// another one.
pub const MAX_LEN: usize = 1_518;

/// What a frame to an Ethernet group is, as far as it isn't flooded without a thought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sort {
    /// A packet to this group, which is none of the link's own.
    To(IpAddr),
    /// A host's word about its groups, for routers alone: of IPv6.
    Report { v6: bool },
    /// A message that is for all, and to be looked at.
    Notice,
}

/// A message that is as it has to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Message<'a> {
    Query(Query),
    Report(Records<'a>),
    /// A multicast router says that it is there: by an advertisement (RFC 4286) or a PIM hello (RFC 7761).
    Router {
        /// Unspecified: a switch that asks in want of a router.
        source: IpAddr,
        advertised: bool,
    },
}

/// The question who wants which groups, or who still wants one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Query {
    /// Unspecified: a switch, which has no address.
    pub source: IpAddr,
    /// `None`: all groups.
    pub group: Option<IpAddr>,
    /// Whoever doesn't answer does not want the group any more: not so for a question about some of its sources, or one
    /// that the querier has asked before.
    pub decides: bool,
    /// The longest that a host takes to answer.
    pub response: Duration,
    /// How often the querier asks (QQIC), where he says so: IGMPv3 and MLDv2 have a field for it.
    pub interval: Option<Duration>,
    /// How often he does before silence counts (QRV), where he says so.
    pub robustness: Option<u32>,
}

/// What is said of one group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    pub group: IpAddr,
    pub says: Says,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Says {
    /// The host wants it, from whichever sources. `mute`: it is of IGMPv1 and will not say when it wants it no more.
    Member { mute: bool },
    /// It may be that nobody wants it any more.
    Leaves,
}

/// The records of a report that are about groups which are told apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Records<'a> {
    /// Of versions before those with lists.
    One(Option<Record>),
    /// Of IGMPv3 or MLDv2; as many as were counted before.
    Many { v6: bool, left: u16, rest: &'a [u8] },
}

impl<'a> Records<'a> {
    /// `count` records, and what stands behind them; `None` when they are not all there.
    pub(super) fn checked(v6: bool, count: u16, bytes: &'a [u8]) -> Option<Self> {
        let mut rest = bytes;
        for _ in 0..count {
            (_, rest) = record(v6, rest)?;
        }
        Some(Self::Many { v6, left: count, rest: bytes })
    }
}

impl Iterator for Records<'_> {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        match self {
            Self::One(record) => record.take().filter(|record| is_told_apart(record.group)),
            Self::Many { v6, left, rest } => loop {
                *left = left.checked_sub(1)?;
                let (found, behind) = record(*v6, rest)?;
                *rest = behind;
                if let Some(found) = found.filter(|found| is_told_apart(found.group)) {
                    return Some(found);
                }
            },
        }
    }
}

/// The sort of a frame by its first [`HEAD`] bytes; `None`: it is flooded.
pub fn sort(frame: Frame<'_>) -> Option<Sort> {
    let [a, b, ..] = frame.dst().octets();
    if !matches!([a, b], [0x01, 0x00] | [0x33, 0x33]) {
        return None;
    }
    let (ethertype, at) = behind_8021q(frame)?;
    let bytes = frame.bytes();
    let packet = bytes.get(at..bytes.len().min(HEAD))?;
    let (group, found) = match ethertype {
        ipv4::ETHERTYPE => (igmp::destination(packet)?.into(), igmp::sort(packet)),
        ipv6::ETHERTYPE => (mld::destination(packet)?.into(), mld::sort(packet)),
        _ => return None,
    };
    // What lies about its group, in one of its two headers, is everybody's.
    if group_mac(group) != frame.dst() {
        return None;
    }
    found.or_else(|| is_told_apart(group).then_some(Sort::To(group)))
}

/// What a whole frame says, by all the rules of its protocol.
pub fn message(frame: Frame<'_>) -> Option<Message<'_>> {
    let (ethertype, at) = behind_8021q(frame)?;
    let packet = frame.bytes().get(at..)?;
    let (group, message) = match ethertype {
        ipv4::ETHERTYPE => (igmp::destination(packet)?.into(), igmp::parse(packet)?),
        ipv6::ETHERTYPE => (mld::destination(packet)?.into(), mld::parse(packet)?),
        _ => return None,
    };
    (group_mac(group) == frame.dst()).then_some(message)
}

/// The question, from the station `mac`, which wants to hear within `response`: of the newest version, which hosts of
/// older ones understand as theirs. `interval` is how often it asks.
pub fn query(
    mac: MacAddr,
    vid: Option<Vid>,
    v6: bool,
    group: Option<IpAddr>,
    response: Duration,
    interval: Duration,
) -> Vec<u8> {
    match (group, v6) {
        (Some(IpAddr::V4(group)), _) => framed(mac, vid, &igmp::query(Some(group), response, interval)),
        (None, false) => framed(mac, vid, &igmp::query(None, response, interval)),
        (Some(IpAddr::V6(group)), _) => framed(mac, vid, &mld::query(mac, Some(group), response, interval)),
        (None, true) => framed(mac, vid, &mld::query(mac, None, response, interval)),
    }
}

/// The word that a switch without an address asks, and wants to hear of IPv4's groups what a router does.
pub fn advertisement(mac: MacAddr, vid: Option<Vid>, interval: Duration) -> Vec<u8> {
    framed(mac, vid, &igmp::advertisement(interval))
}

/// The link-local address of a station (RFC 4291 appendix A).
pub fn link_local(mac: MacAddr) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.octets();
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// Whether it is a group whose members are kept apart from others.
pub fn is_told_apart(group: IpAddr) -> bool {
    match group {
        IpAddr::V4(group) => group.is_multicast() && group.octets()[..3] != [224, 0, 0],
        IpAddr::V6(group) => group.is_multicast() && group.octets()[1] & 0x0f > LINK_SCOPE,
    }
}

/// The Ethernet group (RFC 1112 section 6.4, RFC 2464 section 7).
pub fn group_mac(group: IpAddr) -> MacAddr {
    match group {
        IpAddr::V4(group) => {
            let [_, b, c, d] = group.octets();
            MacAddr::new([0x01, 0x00, 0x5e, b & 0x7f, c, d])
        }
        IpAddr::V6(group) => nd::group_mac(group),
    }
}

/// RFC 4291 section 2.7.
const LINK_SCOPE: u8 = 2;

/// One record (RFC 3376 section 4.2.4, RFC 3810 section 5.2.4), if it says anything, and what stands behind it.
fn record(v6: bool, bytes: &[u8]) -> Option<(Option<Record>, &[u8])> {
    let (&[kind, auxiliary, high, low], rest) = bytes.split_first_chunk::<4>()?;
    let address = if v6 { 16 } else { 4 };
    let (group, rest) = rest.split_at_checked(address)?;
    let sources = usize::from(u16::from_be_bytes([high, low]));
    let rest = rest.get(sources * address + usize::from(auxiliary) * 4..)?;
    let group = match <[u8; 16]>::try_from(group) {
        Ok(group) => IpAddr::from(Ipv6Addr::from(group)),
        Err(_) => IpAddr::from(Ipv4Addr::from(*group.first_chunk::<4>()?)),
    };
    let says = match kind {
        IS_EXCLUDE | TO_EXCLUDE => Some(Says::Member { mute: false }),
        IS_INCLUDE | TO_INCLUDE | ALLOW if sources > 0 => Some(Says::Member { mute: false }),
        TO_INCLUDE | BLOCK => Some(Says::Leaves),
        _ => None,
    };
    Some((says.map(|says| Record { group, says }), rest))
}

const IS_INCLUDE: u8 = 1;
const IS_EXCLUDE: u8 = 2;
const TO_INCLUDE: u8 = 3;
const TO_EXCLUDE: u8 = 4;
const ALLOW: u8 = 5;
const BLOCK: u8 = 6;

/// A time in a field of `bits`, below the topmost bit as it is, else as a mantissa of four or twelve bits and an
/// exponent of three (RFC 3376 section 4.1.1, RFC 3810 section 5.1.3).
pub(super) fn time_of(code: u16, bits: u32) -> u32 {
    let mantissa = bits - 4;
    match code >> (bits - 1) {
        0 => code.into(),
        _ => (u32::from(code) & ((1 << mantissa) - 1) | 1 << mantissa) << ((code >> mantissa & 7) + 3),
    }
}

/// The same the other way; what can't be said exactly is said too short.
pub(super) fn code_of(time: u32, bits: u32) -> u16 {
    let mantissa = bits - 4;
    if time < 1 << (bits - 1) {
        return time as u16;
    }
    let exponent = (32 - time.leading_zeros()).saturating_sub(mantissa + 1 + 3);
    if exponent > 7 {
        return ((1u32 << bits) - 1) as u16;
    }
    let low = time >> (exponent + 3) & ((1 << mantissa) - 1);
    (1 << (bits - 1) | exponent << mantissa | low) as u16
}

/// What a querier says of himself by QRV and QQIC: robustness, and interval in seconds. Zero in one of them says nothing
/// (RFC 3376 sections 4.1.6 and 4.1.7, RFC 3810 sections 5.1.8 and 5.1.9).
pub(super) fn habits_of(flags: u8, qqic: u8) -> (Option<u32>, Option<Duration>) {
    let robustness = u32::from(flags & QRV);
    let seconds = u64::from(time_of(qqic.into(), 8));
    let interval = Some(Duration::from_secs(seconds)).filter(|interval| !interval.is_zero());
    (Some(robustness).filter(|robustness| *robustness != 0), interval)
}

/// In the flags of a query.
const QRV: u8 = 0x07;

/// [`behind_tag`] of 802.1Q: we ask behind no other, and whoever is not asked is not told apart.
fn behind_8021q(frame: Frame<'_>) -> Option<(u16, usize)> {
    behind_tag(frame).filter(|_| frame.ethertype() != TPID_8021AD)
}

/// A packet to a group as a frame, padded as on a cable.
fn framed(mac: MacAddr, vid: Option<Vid>, packet: &[u8]) -> Vec<u8> {
    let (ethertype, group) = match packet[0] >> 4 {
        4 => (ipv4::ETHERTYPE, igmp::destination(packet).map(IpAddr::from)),
        _ => (ipv6::ETHERTYPE, mld::destination(packet).map(IpAddr::from)),
    };
    let dst = group.map_or(MacAddr::BROADCAST, group_mac);
    let mut bytes = [dst.octets(), mac.octets()].concat();
    bytes.extend(vid.map(|vid| Tag { tpid: TPID_8021Q, tci: vid.get() }.bytes()).iter().flatten());
    bytes.extend(ethertype.to_be_bytes());
    bytes.extend(packet);
    bytes.resize(bytes.len().max(60), 0);
    bytes
}

#[cfg(test)]
#[path = "group_tests.rs"]
mod tests;
