//! The Ethernet header as a view over bytes, and the words in it: [`MacAddr`], [`Vid`], [`VidSet`].
//!
//! A [`Frame`] is proved long enough once, by [`Frame::checked`]; no accessor panics afterwards.
//! Frames carry no FCS. Offsets are IEEE 802.3 clause 3; tags are IEEE 802.1Q clause 9.

use std::fmt;
use std::str::FromStr;

use super::EtherType;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Destination, source and EtherType: the least that can be switched.
pub const MIN_FRAME: usize = 14;

/// The largest frame anywhere in the program: 65,535 of IPv6 payload, 40 of IPv6 header, 14 of
/// Ethernet and two VLAN tags.
pub const MAX_FRAME: usize = 65_597;

/// EtherType of an 802.1Q customer tag.
pub const TPID_8021Q: u16 = 0x8100;
/// EtherType of an 802.1ad service tag.
pub const TPID_8021AD: u16 = 0x88a8;

mod field {
    use std::ops::Range;
    pub const DST: Range<usize> = 0..6;
    pub const SRC: Range<usize> = 6..12;
    pub const TYPE: Range<usize> = 12..14;
    pub const TCI: Range<usize> = 14..16;
    pub const INNER_TYPE: Range<usize> = 16..18;
}

/// A view of at least [`MIN_FRAME`] bytes of Ethernet.
#[derive(Clone, Copy)]
pub struct Frame<'a>(&'a [u8]);

impl<'a> Frame<'a> {
    /// `None` for a runt (fewer than 14 bytes) and for an oversize frame (more than [`MAX_FRAME`]).
    pub fn checked(bytes: &'a [u8]) -> Option<Self> {
        (MIN_FRAME..=MAX_FRAME).contains(&bytes.len()).then_some(Self(bytes))
    }

    pub fn bytes(self) -> &'a [u8] {
        self.0
    }

    pub fn dst(self) -> MacAddr {
        MacAddr::from_slice(&self.0[field::DST])
    }

    pub fn src(self) -> MacAddr {
        MacAddr::from_slice(&self.0[field::SRC])
    }

    /// The EtherType (or length) behind the addresses; a TPID when the frame is tagged.
    pub fn ethertype(self) -> u16 {
        u16::from_be_bytes([self.0[field::TYPE.start], self.0[field::TYPE.start + 1]])
    }

    /// What stands behind at most two tags; a TPID when there are more, or the frame ends inside them.
    pub fn inner_ethertype(self) -> EtherType {
        let at = |at: usize| self.0.get(at..at + 2).map(|two| u16::from_be_bytes([two[0], two[1]]));
        let mut found = self.ethertype();
        for place in [field::INNER_TYPE.start, field::INNER_TYPE.start + Tag::LEN] {
            match at(place) {
                Some(inner) if is_tpid(found) => found = inner,
                _ => break,
            }
        }
        EtherType(found)
    }

    /// What stands behind the one tag of a tagged frame; `None` when that is another tag, or the frame ends before.
    pub fn inner_ethertype_of_one_tag(self) -> Option<u16> {
        let inner = self.0.get(field::INNER_TYPE)?;
        Some(u16::from_be_bytes([inner[0], inner[1]])).filter(|inner| !is_tpid(*inner))
    }

    /// The outer 802.1Q or 802.1ad tag. A frame that ends inside its tag has none.
    pub fn tag(self) -> Option<Tag> {
        let tpid = self.ethertype();
        if !is_tpid(tpid) {
            return None;
        }
        let tci = self.0.get(field::TCI)?;
        Some(Tag { tpid, tci: u16::from_be_bytes([tci[0], tci[1]]) })
    }

    /// A TPID with fewer than a tag and an EtherType behind it.
    pub fn ends_inside_tag(self) -> bool {
        is_tpid(self.ethertype()) && self.0.len() < field::INNER_TYPE.end
    }

    /// True when another tag stands behind the outer one.
    pub fn is_double_tagged(self) -> bool {
        is_tpid(self.ethertype())
            && self.0.get(field::INNER_TYPE).is_some_and(|t| is_tpid(u16::from_be_bytes([t[0], t[1]])))
    }
}

/// True for the EtherTypes that announce a VLAN tag.
pub fn is_tpid(ethertype: u16) -> bool {
    matches!(ethertype, TPID_8021Q | TPID_8021AD)
}

/// A VLAN tag as it stands in a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tag {
    pub tpid: u16,
    /// PCP (3 bits), DEI (1 bit), VID (12 bits).
    pub tci: u16,
}

impl Tag {
    /// Length of a tag in a frame.
    pub const LEN: usize = 4;

    /// The raw 12-bit VID, 0 and 4095 included.
    pub fn vid(self) -> u16 {
        self.tci & 0x0fff
    }

    pub fn bytes(self) -> [u8; Self::LEN] {
        let ([a, b], [c, d]) = (self.tpid.to_be_bytes(), self.tci.to_be_bytes());
        [a, b, c, d]
    }
}

/// How a frame's outer tag changes on its way out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Retag {
    Keep,
    /// The outer tag goes.
    Pop,
    /// This tag takes the outer one's place.
    Replace(Tag),
    /// This tag comes in front.
    Push(Tag),
}

/// A frame as it leaves: the same bytes with another outer tag, as slices to gather, never copied.
#[derive(Clone, Copy)]
pub struct Outgoing<'a> {
    head: &'a [u8],
    tag: [u8; Tag::LEN],
    tag_len: usize,
    tail: &'a [u8],
}

impl<'a> Outgoing<'a> {
    /// `Pop` and `Replace` need the tag and the EtherType behind it; without them nothing changes.
    pub fn new(frame: Frame<'a>, retag: Retag) -> Self {
        let bytes = frame.bytes();
        let whole = Self { head: bytes, tag: [0; Tag::LEN], tag_len: 0, tail: &[] };
        let (head, rest) = bytes.split_at(field::SRC.end);
        match (retag, rest.get(Tag::LEN..).filter(|inner| inner.len() >= 2)) {
            (Retag::Push(tag), _) => Self { head, tag: tag.bytes(), tag_len: Tag::LEN, tail: rest },
            (Retag::Pop, Some(tail)) => Self { head, tail, ..whole },
            (Retag::Replace(tag), Some(tail)) => Self { head, tag: tag.bytes(), tag_len: Tag::LEN, tail },
            _ => whole,
        }
    }

    /// Never 0: a frame has at least its header.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.head.len() + self.tag_len + self.tail.len()
    }

    /// The frame in order; a part may be empty.
    pub fn parts(&self) -> [&[u8]; 3] {
        [self.head, &self.tag[..self.tag_len], self.tail]
    }

    /// Bytes behind the Ethernet header and at most two tags: what a device's MTU bounds.
    pub fn payload_len(&self) -> usize {
        let mut header = MIN_FRAME;
        for _ in 0..2 {
            let Some(low) = self.byte(header - 1) else { break };
            let Some(high) = self.byte(header - 2) else { break };
            if !is_tpid(u16::from_be_bytes([high, low])) {
                break;
            }
            header += Tag::LEN;
        }
        self.len().saturating_sub(header)
    }

    fn byte(&self, mut at: usize) -> Option<u8> {
        for part in self.parts() {
            match part.get(at) {
                Some(byte) => return Some(*byte),
                None => at -= part.len(),
            }
        }
        None
    }
}

/// A 48-bit MAC address, in its low 48 bits, first octet highest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacAddr(u64);

impl MacAddr {
    pub const BROADCAST: Self = Self(0xffff_ffff_ffff);
    pub const ZERO: Self = Self(0);

    pub const fn new(octets: [u8; 6]) -> Self {
        let [a, b, c, d, e, f] = octets;
        Self(u64::from_be_bytes([0, 0, a, b, c, d, e, f]))
    }

    /// The low 48 bits of `bits`.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits & 0xffff_ffff_ffff)
    }

    pub const fn bits(self) -> u64 {
        self.0
    }

    pub const fn octets(self) -> [u8; 6] {
        let [_, _, a, b, c, d, e, f] = self.0.to_be_bytes();
        [a, b, c, d, e, f]
    }

    /// Group address: multicast or broadcast (IEEE 802.3, I/G bit).
    pub const fn is_group(self) -> bool {
        self.0 & 0x0100_0000_0000 != 0
    }

    pub const fn is_broadcast(self) -> bool {
        self.0 == Self::BROADCAST.0
    }

    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// 01:80:c2:00:00:00 to :0f, which a bridge keeps to itself (IEEE 802.1Q 8.6.3).
    pub const fn is_reserved(self) -> bool {
        self.0 & !0xf == 0x0180_c200_0000
    }

    fn from_slice(six: &[u8]) -> Self {
        let mut octets = [0; 6];
        octets.copy_from_slice(six);
        Self::new(octets)
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.octets();
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Six hexadecimal octets separated by `:` or `-`.
impl FromStr for MacAddr {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("{s:?} is not a MAC address (expected aa:bb:cc:dd:ee:ff)");
        let mut octets = [0; 6];
        let mut parts = s.split([':', '-']);
        for octet in &mut octets {
            let part = parts
                .next()
                .filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()))
                .ok_or_else(wrong)?;
            *octet = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() {
            return Err(wrong());
        }
        Ok(Self::new(octets))
    }
}

/// A VLAN identifier in use: 1 to 4094 (IEEE 802.1Q table 9-2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Vid(u16);

impl Vid {
    pub fn new(vid: u16) -> Option<Self> {
        (1..=4094).contains(&vid).then_some(Self(vid))
    }

    pub fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Vid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Vid {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        s.parse().ok().and_then(Self::new).ok_or_else(|| format!("{s:?} is not a VID (expected 1 to 4094)"))
    }
}

/// A set of VIDs, written `10,20-29`.
#[derive(Clone, PartialEq, Eq)]
pub struct VidSet(Box<[u64; 64]>);

impl VidSet {
    pub fn empty() -> Self {
        Self(Box::new([0; 64]))
    }

    pub fn insert(&mut self, vid: Vid) {
        self.0[usize::from(vid.0 >> 6)] |= 1 << (vid.0 & 63);
    }

    /// `vid` is the raw 12-bit field of a tag; 0 and 4095 are in no set.
    pub fn contains(&self, vid: u16) -> bool {
        self.0[usize::from((vid & 0x0fff) >> 6)] >> (vid & 63) & 1 == 1
    }
}

impl fmt::Display for VidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut vid = 1;
        let mut first = true;
        while vid <= 4094 {
            if !self.contains(vid) {
                vid += 1;
                continue;
            }
            let start = vid;
            while vid < 4094 && self.contains(vid + 1) {
                vid += 1;
            }
            if !first {
                f.write_str(",")?;
            }
            first = false;
            match vid - start {
                0 => write!(f, "{start}")?,
                _ => write!(f, "{start}-{vid}")?,
            }
            vid += 1;
        }
        Ok(())
    }
}

impl fmt::Debug for VidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VidSet({self})")
    }
}

impl FromStr for VidSet {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let mut set = Self::empty();
        for part in s.split(',').map(str::trim) {
            let (low, high) = part.split_once('-').unwrap_or((part, part));
            let (low, high): (Vid, Vid) = (low.parse()?, high.parse()?);
            if low > high {
                return Err(format!("VID range {part:?} runs backwards"));
            }
            (low.0..=high.0).for_each(|vid| set.insert(Vid(vid)));
        }
        Ok(set)
    }
}

/// Serde by `Display` and `FromStr`, as the text people write.
macro_rules! serde_as_text {
    ($type:ty, $pattern:literal) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
        #[cfg(test)]
        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({"type": "string", "pattern": $pattern})
            }
        }
    };
}
serde_as_text!(MacAddr, "^[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}$");
serde_as_text!(VidSet, "^[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*$");

impl Serialize for Vid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u16(self.0)
    }
}

impl<'de> Deserialize<'de> for Vid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u64::deserialize(deserializer)?;
        u16::try_from(number)
            .ok()
            .and_then(Self::new)
            .ok_or_else(|| de::Error::invalid_value(de::Unexpected::Unsigned(number), &"a VID, 1 to 4094"))
    }
}

#[cfg(test)]
impl schemars::JsonSchema for Vid {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Vid".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "integer", "minimum": 1, "maximum": 4094})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runts_and_oversize_are_not_frames() {
        assert!(Frame::checked(&[0; 13]).is_none());
        assert!(Frame::checked(&[0; 14]).is_some());
        assert!(Frame::checked(&vec![0; MAX_FRAME]).is_some());
        assert!(Frame::checked(&vec![0; MAX_FRAME + 1]).is_none());
    }

    #[test]
    fn header_fields_stand_where_ieee_puts_them() {
        let bytes = *b"\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x01\x81\x00\x60\x0a\x08\x00";
        let frame = Frame::checked(&bytes).unwrap();
        assert!(frame.dst().is_broadcast() && frame.dst().is_group());
        assert_eq!(frame.src().to_string(), "02:00:00:00:00:01");
        assert_eq!(frame.tag(), Some(Tag { tpid: 0x8100, tci: 0x600a }));
        assert_eq!(frame.tag().unwrap().vid(), 10);
        assert_eq!(frame.tag().unwrap().bytes(), bytes[12..16]);
    }

    #[test]
    fn bad_41_a_frame_that_ends_inside_its_tag_has_none() {
        for tpid in [[0x81, 0x00], [0x88, 0xa8]] {
            for len in 14..16 {
                let mut bytes = vec![2; len];
                bytes[12..14].copy_from_slice(&tpid);
                assert_eq!(Frame::checked(&bytes).unwrap().tag(), None);
            }
        }
    }

    #[test]
    fn retagging_gathers_the_right_bytes() {
        let plain: Vec<u8> = (0..12).chain([0x08, 0x00, 1, 2, 3]).collect();
        let tagged: Vec<u8> = (0..12).chain([0x81, 0x00, 0x20, 0x05, 0x08, 0x00, 1, 2, 3]).collect();
        let other: Vec<u8> = (0..12).chain([0x88, 0xa8, 0x00, 0x07, 0x08, 0x00, 1, 2, 3]).collect();
        let tag = Tag { tpid: 0x8100, tci: 0x2005 };
        let s_tag = Tag { tpid: 0x88a8, tci: 7 };
        for (from, retag, to, payload) in [
            (&plain, Retag::Keep, &plain, 3),
            (&plain, Retag::Push(tag), &tagged, 3),
            (&tagged, Retag::Pop, &plain, 3),
            (&tagged, Retag::Replace(s_tag), &other, 3),
        ] {
            let out = Outgoing::new(Frame::checked(from).unwrap(), retag);
            assert_eq!(&out.parts().concat(), to, "{retag:?}");
            assert_eq!((out.len(), out.payload_len()), (to.len(), payload), "{retag:?}");
        }
    }

    #[test]
    fn bad_41_no_retagging_reads_past_the_end() {
        for len in 14..20 {
            let mut bytes = vec![0x81; len];
            bytes[13] = 0;
            for retag in [Retag::Keep, Retag::Pop, Retag::Replace(Tag { tpid: 0x8100, tci: 1 })] {
                let out = Outgoing::new(Frame::checked(&bytes).unwrap(), retag);
                assert!(out.len() >= MIN_FRAME && out.payload_len() <= len);
            }
        }
    }

    #[test]
    fn mac_addresses_read_and_print() {
        assert_eq!("AA-bb-cc-DD-ee-0f".parse::<MacAddr>().unwrap().to_string(), "aa:bb:cc:dd:ee:0f");
        for wrong in [
            "",
            "aa:bb",
            "aa:bb:cc:dd:ee:f",
            "aa:bb:cc:dd:ee:ff:00",
            "gg:bb:cc:dd:ee:ff",
            "aa:bb:cc:dd:ee:+f",
        ] {
            assert!(wrong.parse::<MacAddr>().is_err(), "{wrong}");
        }
        assert!("01:80:c2:00:00:0e".parse::<MacAddr>().unwrap().is_reserved());
        assert!(!"01:80:c2:00:00:10".parse::<MacAddr>().unwrap().is_reserved());
    }

    #[test]
    fn vid_sets_read_and_print() {
        let set: VidSet = "20-29, 10,4094,1".parse().unwrap();
        assert_eq!(set.to_string(), "1,10,20-29,4094");
        assert!(set.contains(25) && !set.contains(30) && !set.contains(0));
        for wrong in ["", "0", "4095", "5-3", "1-", "a", "1,,2"] {
            assert!(wrong.parse::<VidSet>().is_err(), "{wrong}");
        }
    }
}
