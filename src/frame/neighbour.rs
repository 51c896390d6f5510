//! Which station has which IP address: what ARP ([`arp`]) and ND ([`nd`]) frames say of it and ask, and the frames
//! that answer or announce it. Behind one VLAN tag at most: whose addresses those behind two are is not known here.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::arp::{self, Arp};
use super::eth::{MIN_FRAME, TPID_8021Q, is_tpid};
use super::nd::{self, Nd};
use super::{Frame, MacAddr, Tag, Vid};

/// As much of a frame as is looked at.
pub const MAX_LEN: usize = 128;
/// The longest answer: an advertisement behind a tag.
pub const MAX_ANSWER: usize = MIN_FRAME + Tag::LEN + nd::LEN;

/// A station's word that an address is its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claim {
    pub ip: IpAddr,
    /// As what it would answer for the address; `None`: that is not said in a solicitation.
    pub role: Option<Role>,
}

/// What an answer says beside the address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    Host,
    /// Whoever hears that a router is none takes its routes away (RFC 4861 7.2.5).
    Router,
}

/// A question who has an address, put to everybody.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Query {
    pub target: IpAddr,
    pub asker: IpAddr,
}

/// Whether a frame may be of ARP or ND, by its first bytes: those up to the next header of an IPv6 packet behind a tag.
pub fn may_be(frame: Frame<'_>) -> bool {
    let Some((ethertype, at)) = behind_tag(frame) else { return false };
    match ethertype {
        arp::ETHERTYPE => true,
        nd::ETHERTYPE => frame.bytes().get(at + nd::NEXT_HEADER) == Some(&nd::ICMPV6),
        _ => false,
    }
}

/// Whether one that [`may_be`] is, by the type of its ICMPv6 message.
pub fn is_one(frame: Frame<'_>) -> bool {
    match behind_tag(frame) {
        Some((nd::ETHERTYPE, at)) => {
            frame.bytes().get(at + nd::HEADER).is_some_and(|kind| nd::is_kind(*kind))
        }
        found => found.is_some(),
    }
}

/// What the sender says of itself. `None` when the addresses in the packet are not those of the frame.
pub fn claim(frame: Frame<'_>) -> Option<Claim> {
    let (ethertype, at) = behind_tag(frame)?;
    let payload = frame.bytes().get(at..)?;
    let is_own = |mac: Option<MacAddr>| mac == Some(frame.src());
    match ethertype {
        arp::ETHERTYPE => {
            let arp = Arp::parse(payload)?;
            let claim = Claim { ip: arp.sender.into(), role: Some(Role::Host) };
            (is_own(Some(arp.sender_mac)) && is_host_v4(arp.sender)).then_some(claim)
        }
        nd::ETHERTYPE => match Nd::parse(payload)? {
            Nd::Solicitation { source, mac, .. } => {
                let claim = Claim { ip: source.into(), role: None };
                (is_own(mac) && is_host_v6(source)).then_some(claim)
            }
            Nd::Advertisement { target, router, overrides, mac } => {
                let role = overrides.then_some(if router { Role::Router } else { Role::Host });
                (is_own(mac) && is_host_v6(target)).then_some(Claim { ip: target.into(), role })
            }
        },
        _ => None,
    }
}

/// What a frame asks everybody. Not one that tries an address out, or announces it: all are to hear those.
pub fn query(frame: Frame<'_>) -> Option<Query> {
    let (ethertype, at) = behind_tag(frame)?;
    let payload = frame.bytes().get(at..)?;
    match ethertype {
        arp::ETHERTYPE => {
            let arp = Arp::parse(payload)?;
            let asks = arp.is_request
                && frame.dst().is_broadcast()
                && arp.sender_mac == frame.src()
                && is_host_v4(arp.sender)
                && arp.sender != arp.target;
            asks.then(|| Query { target: arp.target.into(), asker: arp.sender.into() })
        }
        nd::ETHERTYPE => match Nd::parse(payload)? {
            Nd::Solicitation { source, to_group: true, target, mac } => {
                let asks = frame.dst().is_group() && mac == Some(frame.src()) && is_host_v6(source);
                (asks && source != target).then(|| Query { target: target.into(), asker: source.into() })
            }
            _ => None,
        },
        _ => None,
    }
}

/// Writes the answer of the station `mac` to the frame `asked`, with the tag that it came with; how long it is.
pub fn answer(
    asked: Frame<'_>,
    query: &Query,
    mac: MacAddr,
    role: Role,
    out: &mut [u8; MAX_ANSWER],
) -> Option<usize> {
    let tag = asked.tag();
    let mut end = 0;
    let mut push = |bytes: &[u8]| {
        out[end..end + bytes.len()].copy_from_slice(bytes);
        end += bytes.len();
    };
    push(&asked.src().octets());
    push(&mac.octets());
    tag.iter().for_each(|tag| push(&tag.bytes()));
    match (query.target, query.asker) {
        (IpAddr::V4(sender), IpAddr::V4(target)) => {
            push(&arp::ETHERTYPE.to_be_bytes());
            let target_mac = asked.src();
            push(&Arp { is_request: false, sender_mac: mac, sender, target_mac, target }.bytes());
        }
        (IpAddr::V6(target), IpAddr::V6(asker)) => {
            push(&nd::ETHERTYPE.to_be_bytes());
            push(&nd::advertisement(mac, target, role == Role::Router, Some(asker)));
        }
        _ => return None,
    }
    Some(end)
}

/// The frame by which a station tells everybody where it is: with an address that it has, or else in the manner
/// of hypervisors, by a RARP request (RFC 903) that nobody answers.
pub fn announcement(mac: MacAddr, vid: Option<Vid>, address: Option<(IpAddr, Role)>) -> Vec<u8> {
    let (dst, ethertype, payload) = match address {
        Some((IpAddr::V4(ip), _)) => {
            (MacAddr::BROADCAST, arp::ETHERTYPE, Arp::announcement(mac, ip).bytes().to_vec())
        }
        Some((IpAddr::V6(ip), role)) => {
            let packet = nd::advertisement(mac, ip, role == Role::Router, None);
            (nd::all_nodes_mac(), nd::ETHERTYPE, packet.to_vec())
        }
        None => {
            let request = Arp { target_mac: mac, ..Arp::announcement(mac, Ipv4Addr::UNSPECIFIED) };
            let mut payload = request.bytes();
            payload[7] = RARP_REQUEST;
            (MacAddr::BROADCAST, RARP, payload.to_vec())
        }
    };
    let mut bytes = [dst.octets(), mac.octets()].concat();
    bytes.extend(vid.map(|vid| Tag { tpid: TPID_8021Q, tci: vid.get() }.bytes()).iter().flatten());
    bytes.extend(ethertype.to_be_bytes());
    bytes.extend(payload);
    // The least that there is on a cable, without FCS.
    bytes.resize(bytes.len().max(60), 0);
    bytes
}

/// EtherType of RARP.
const RARP: u16 = 0x8035;
const RARP_REQUEST: u8 = 3;

/// The EtherType behind one tag at most, and where its payload begins.
pub(super) fn behind_tag(frame: Frame<'_>) -> Option<(u16, usize)> {
    match frame.ethertype() {
        tpid if is_tpid(tpid) => Some((frame.inner_ethertype_of_one_tag()?, MIN_FRAME + Tag::LEN)),
        ethertype => Some((ethertype, MIN_FRAME)),
    }
}

fn is_host_v4(ip: Ipv4Addr) -> bool {
    let [first, ..] = ip.octets();
    first != 0 && first != 127 && first < 224
}

fn is_host_v6(ip: Ipv6Addr) -> bool {
    !ip.is_unspecified() && !ip.is_multicast() && !ip.is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 1]);
    const YOU: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 2]);

    fn arp(dst: MacAddr, src: MacAddr, tags: &[u8], arp: Arp) -> Vec<u8> {
        [&dst.octets()[..], &src.octets(), tags, &[8, 6], &arp.bytes(), &[0; 18]].concat()
    }

    fn who_has(sender: [u8; 4], target: [u8; 4]) -> Arp {
        let (sender, target) = (sender.into(), target.into());
        Arp { is_request: true, sender_mac: ME, sender, target_mac: MacAddr::ZERO, target }
    }

    fn v4(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn arp_claims_and_asks() {
        let plain = who_has([10, 0, 0, 1], [10, 0, 0, 2]);
        for tags in [&[][..], &[0x81, 0, 0, 7]] {
            let bytes = arp(MacAddr::BROADCAST, ME, tags, plain);
            let frame = Frame::checked(&bytes).unwrap();
            assert!(may_be(Frame::checked(&bytes[..26]).unwrap()));
            assert_eq!(claim(frame), Some(Claim { ip: v4(1), role: Some(Role::Host) }));
            let asked = query(frame).unwrap();
            assert_eq!(asked, Query { target: v4(2), asker: v4(1) });
            let mut out = [0; MAX_ANSWER];
            let len = answer(frame, &asked, YOU, Role::Host, &mut out).unwrap();
            let reply = Frame::checked(&out[..len]).unwrap();
            assert_eq!((reply.dst(), reply.src(), reply.tag()), (ME, YOU, frame.tag()));
            assert_eq!(claim(reply), Some(Claim { ip: v4(2), role: Some(Role::Host) }));
            assert_eq!(query(reply), None);
        }
    }

    #[test]
    fn whoever_speaks_for_another_is_not_heard() {
        let two_tags = [0x88, 0xa8, 0, 7, 0x81, 0, 0, 8];
        for (src, tags, packet) in [
            (YOU, &[][..], who_has([10, 0, 0, 1], [10, 0, 0, 2])),
            (ME, &[], who_has([0, 0, 0, 0], [10, 0, 0, 2])),
            (ME, &[], who_has([224, 0, 0, 1], [10, 0, 0, 2])),
            (ME, &[], who_has([127, 0, 0, 1], [10, 0, 0, 2])),
            (ME, &[], who_has([255, 255, 255, 255], [10, 0, 0, 2])),
            (ME, &two_tags, who_has([10, 0, 0, 1], [10, 0, 0, 2])),
        ] {
            let bytes = arp(MacAddr::BROADCAST, src, tags, packet);
            let frame = Frame::checked(&bytes).unwrap();
            assert_eq!((claim(frame), query(frame)), (None, None), "{packet:?}");
        }
    }

    #[test]
    fn probes_announcements_and_questions_to_one_are_no_queries() {
        for (dst, packet) in [
            (MacAddr::BROADCAST, who_has([0, 0, 0, 0], [10, 0, 0, 2])),
            (MacAddr::BROADCAST, who_has([10, 0, 0, 1], [10, 0, 0, 1])),
            (MacAddr::BROADCAST, Arp { is_request: false, ..who_has([10, 0, 0, 1], [10, 0, 0, 2]) }),
            (YOU, who_has([10, 0, 0, 1], [10, 0, 0, 2])),
        ] {
            let bytes = arp(dst, ME, &[], packet);
            assert_eq!(query(Frame::checked(&bytes).unwrap()), None, "{packet:?}");
        }
    }

    #[test]
    fn a_ping_may_be_one_and_is_none() {
        for tags in [&[][..], &[0x81, 0, 0, 7]] {
            for (kind, is_nd) in [(135, true), (136, true), (128, false), (134, false)] {
                let mut bytes = [&[2; 12][..], tags, &[0x86, 0xdd], &[0; 60]].concat();
                let packet = MIN_FRAME + tags.len();
                (bytes[packet + nd::NEXT_HEADER], bytes[packet + nd::HEADER]) = (nd::ICMPV6, kind);
                let frame = Frame::checked(&bytes).unwrap();
                assert_eq!((may_be(frame), is_one(frame)), (true, is_nd), "{kind}");
            }
        }
    }

    #[test]
    fn announcements_claim_what_they_announce() {
        let v6: IpAddr = "fe80::7".parse().unwrap();
        for (ip, role) in [(v4(9), Role::Host), (v6, Role::Router)] {
            let bytes = announcement(ME, Vid::new(7), Some((ip, role)));
            let frame = Frame::checked(&bytes).unwrap();
            assert_eq!(claim(frame), Some(Claim { ip, role: Some(role) }));
            assert_eq!((query(frame), frame.src(), frame.tag().map(Tag::vid)), (None, ME, Some(7)));
            assert!(frame.dst().is_group() && may_be(frame));
        }
        let bytes = announcement(ME, None, None);
        let frame = Frame::checked(&bytes).unwrap();
        assert_eq!((frame.ethertype(), frame.src(), frame.bytes().len()), (0x8035, ME, 60));
        assert!(frame.dst().is_broadcast() && !may_be(frame));
    }
}
