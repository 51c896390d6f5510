//! Which flow a frame belongs to, and the congestion mark of its IP header (RFC 3168). Reads only the start
//! of a frame; what that does not bear out makes a coarser flow, never an error.

use std::hash::{BuildHasher, Hasher};

use super::eth::{MIN_FRAME, is_tpid};
use super::packet::{ipv4, ipv6, put, tcp, udp, word};

/// A number for the frame's flow: addresses, protocol and ports of IP, fragments without ports; of anything
/// else the Ethernet header. Frames of one flow get the same one, others nearly always another, and with a
/// hasher of random keys nobody finds flows that share a number.
pub fn flow(head: &[u8], hasher: &impl BuildHasher) -> u64 {
    let mut hash = hasher.build_hasher();
    let Some(l3) = l3(head) else {
        hash.write(head);
        return hash.finish();
    };
    let (version, protocol, l4) = match word(head, l3 - 2) {
        ipv4::ETHERTYPE if has(head, l3 + ipv4::HEADER) && head[l3] >> 4 == 4 => {
            hash.write(&head[l3 + ipv4::ADDRESSES..l3 + ipv4::HEADER]);
            let fragment = word(head, l3 + ipv4::FRAGMENT);
            let whole = fragment & (ipv4::MORE_FRAGMENTS | ipv4::FRAGMENT_OFFSET) == 0;
            let l4 = l3 + usize::from(head[l3] & 0x0f) * 4;
            (4, head[l3 + ipv4::PROTOCOL], whole.then_some(l4))
        }
        ipv6::ETHERTYPE if has(head, l3 + ipv6::HEADER) && head[l3] >> 4 == 6 => {
            hash.write(&head[l3 + ipv6::ADDRESSES..l3 + ipv6::HEADER]);
            (6, head[l3 + ipv6::NEXT_HEADER], Some(l3 + ipv6::HEADER))
        }
        _ => {
            hash.write(&head[..l3]);
            return hash.finish();
        }
    };
    hash.write(&[version, protocol]);
    // The ports come first in both.
    if let (tcp::PROTOCOL | udp::PROTOCOL, Some(l4)) = (protocol, l4) {
        hash.write(head.get(l4..l4 + 4).unwrap_or_default());
    }
    hash.finish()
}

/// Sets Congestion Experienced in a frame of a transport that understands it; `false`: it does not.
pub fn mark_congestion(head: &mut [u8]) -> bool {
    let Some(l3) = l3(head) else { return false };
    match word(head, l3 - 2) {
        ipv4::ETHERTYPE if has(head, l3 + ipv4::HEADER) && head[l3] >> 4 == 4 => {
            let before = word(head, l3);
            if before & ECN == 0 {
                return false;
            }
            put(head, l3, before | ECN);
            // RFC 1624, equation 3.
            let at = l3 + ipv4::CHECKSUM;
            let sum = u32::from(!word(head, at)) + u32::from(!before) + u32::from(before | ECN);
            let sum = (sum & 0xffff) + (sum >> 16);
            put(head, at, !((sum & 0xffff) + (sum >> 16)) as u16);
            true
        }
        ipv6::ETHERTYPE if has(head, l3 + ipv6::HEADER) && head[l3] >> 4 == 6 => {
            let before = word(head, l3);
            if before & ECN << 4 == 0 {
                return false;
            }
            put(head, l3, before | ECN << 4);
            true
        }
        _ => false,
    }
}

/// Where the header behind the EtherType begins.
fn l3(head: &[u8]) -> Option<usize> {
    let mut l3 = MIN_FRAME;
    while has(head, l3) && is_tpid(word(head, l3 - 2)) {
        l3 += 4;
    }
    has(head, l3).then_some(l3)
}

fn has(head: &[u8], end: usize) -> bool {
    end <= head.len()
}

/// Both bits: congestion was experienced (RFC 3168 5).
const ECN: u16 = 0b11;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::checksum::checksum;
    use std::hash::RandomState;

    fn v4(source: u8, port: u16, tos: u8) -> Vec<u8> {
        let mut frame = vec![0; 60];
        frame[12..14].copy_from_slice(&[0x08, 0]);
        frame[14..24].copy_from_slice(&[0x45, tos, 0, 46, 0, 1, 0, 0, 64, 6]);
        frame[26..34].copy_from_slice(&[10, 0, 0, source, 10, 0, 0, 2]);
        frame[34..38].copy_from_slice(&[port.to_be_bytes(), [0, 80]].concat());
        let sum = checksum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        frame
    }

    #[test]
    fn flows_are_told_apart_by_addresses_and_ports_and_by_nothing_else() {
        let hasher = RandomState::new();
        let mut seen: Vec<u64> = Vec::new();
        for source in 0..20 {
            for port in 1000..1100 {
                seen.push(flow(&v4(source, port, 0), &hasher));
            }
        }
        let all = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), all);
        let mut other = v4(1, 1000, 0);
        other[40] = 9;
        other[1] = 3;
        other[15] = 2;
        assert_eq!(
            flow(&other, &hasher),
            flow(&v4(1, 1000, 0), &hasher),
            "payload, TOS and Ethernet are no part of it"
        );
        assert_ne!(flow(&other, &RandomState::new()), flow(&other, &hasher));
        let buckets: std::collections::HashSet<u64> = seen.iter().map(|flow| flow % 1024).collect();
        assert!(buckets.len() > 800, "2,000 flows in {} of 1,024 places", buckets.len());
    }

    #[test]
    fn fragments_of_a_datagram_are_one_flow() {
        let (mut first, mut second) = (v4(1, 1000, 0), v4(1, 0xdead, 0));
        first[20] = 0x20;
        second[21] = 0x10;
        let hasher = RandomState::new();
        assert_eq!(flow(&first, &hasher), flow(&second, &hasher));
    }

    #[test]
    fn bad_41_43_whatever_is_cut_short_is_a_flow_too() {
        let tagged = [&v4(1, 1, 0)[..12], &[0x81, 0, 0, 5, 0x88, 0xa8, 0, 6], &v4(1, 1, 0)[12..]].concat();
        let hasher = RandomState::new();
        assert_eq!(flow(&tagged, &hasher), flow(&v4(1, 1, 0), &hasher));
        for frame in [v4(1, 1, 1), tagged, vec![0x81; 64], vec![0x86, 0xdd, 0x60, 0].repeat(16)] {
            for len in 0..frame.len() {
                flow(&frame[..len], &hasher);
                mark_congestion(&mut frame[..len].to_vec());
            }
        }
    }

    #[test]
    fn a_mark_leaves_a_checksum_that_is_right() {
        for (tos, marked) in [(0, false), (1, true), (2, true), (3, true), (0xb8, false), (0xba, true)] {
            let mut frame = v4(1, 1, tos);
            assert_eq!(mark_congestion(&mut frame), marked);
            assert_eq!(frame[15], if marked { tos | 3 } else { tos });
            assert_eq!(checksum(&frame[14..34]), 0, "TOS {tos}");
        }
        let mut frame = vec![0; 60];
        frame[12..16].copy_from_slice(&[0x86, 0xdd, 0x60, 0x10]);
        assert!(mark_congestion(&mut frame));
        assert_eq!(frame[14..16], [0x60, 0x30]);
    }
}
