//! VLAN rules of a port (IEEE 802.1Q, 802.1ad): which VLAN a frame belongs to when it comes in, and
//! which tag it wears when it goes out.
//!
//! A frame is classified once, by its ingress port, into a VID; 0 means "untagged, and no port said
//! which VLAN". A *transparent* port belongs to every VLAN and changes nothing it need not. An *access*
//! port speaks untagged frames of one VLAN. A *trunk* speaks tagged frames of some VLANs, and untagged
//! ones of its native VLAN when it has one.
//!
//! The trap is double tagging: a frame `[native][victim]` that loses its outer tag on a trunk comes
//! out in the victim's VLAN. So a tag is never taken off a trunk's frame when another stands behind it,
//! and a port that accepts untagged frames does not accept a priority tag with another tag behind it.

use std::fmt;

use super::counters::Reason;
use crate::frame::eth::TPID_8021Q;
use crate::frame::{Frame, Retag, Tag, Vid, VidSet};

/// What VLANs a port speaks, and how.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum VlanRule {
    #[default]
    Transparent,
    Access(Vid),
    Trunk {
        allowed: VidSet,
        native: Option<Vid>,
    },
}

/// A frame's VLAN, and the tag it came with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Class {
    /// 0 to 4094; 0 is untagged or priority-tagged on a transparent port.
    pub vid: u16,
    tag: Option<Tag>,
    double: bool,
}

impl VlanRule {
    /// The rule that `--access`, `--trunk` and `--native` ask for together.
    pub fn from_options(
        access: Option<Vid>,
        trunk: Option<VidSet>,
        native: Option<Vid>,
    ) -> Result<Self, &'static str> {
        match (access, trunk, native) {
            (None, None, None) => Ok(Self::Transparent),
            (Some(vid), None, None) => Ok(Self::Access(vid)),
            (None, Some(allowed), native) => Ok(Self::Trunk { allowed, native }),
            (Some(_), Some(_), _) => Err("a port is either access or trunk"),
            (Some(_), None, Some(_)) | (None, None, Some(_)) => Err("a native VLAN needs a trunk"),
        }
    }

    /// The VLAN of a frame that comes in.
    pub fn classify(&self, frame: Frame<'_>) -> Result<Class, Reason> {
        if frame.ends_inside_tag() {
            return Err(Reason::TruncatedTag);
        }
        let tag = frame.tag();
        let double = frame.is_double_tagged();
        let outer = tag.map_or(0, Tag::vid);
        if outer == 0x0fff {
            return Err(Reason::ReservedVid);
        }
        let vid = match self {
            Self::Transparent => outer,
            Self::Access(_) if outer != 0 || double => return Err(Reason::VlanTagged),
            Self::Access(vid) => vid.get(),
            Self::Trunk { native: None, .. } if outer == 0 => return Err(Reason::VlanUntagged),
            Self::Trunk { .. } if outer == 0 && double => return Err(Reason::VlanTagged),
            Self::Trunk { native: Some(native), .. } if outer == 0 => native.get(),
            Self::Trunk { allowed, native } => {
                if !allowed.contains(outer) && native.is_none_or(|n| n.get() != outer) {
                    return Err(Reason::VlanNotMember);
                }
                outer
            }
        };
        Ok(Class { vid, tag, double })
    }

    /// Whether the port is in a VLAN, 0 where there is none.
    pub fn has(&self, vid: u16) -> bool {
        match self {
            Self::Transparent => true,
            Self::Access(own) => own.get() == vid,
            Self::Trunk { allowed, native } => {
                allowed.contains(vid) || native.is_some_and(|native| native.get() == vid)
            }
        }
    }

    /// What happens to the tag of a frame that goes out; `None` when the port is not in its VLAN.
    pub fn egress(&self, class: Class) -> Option<Retag> {
        match self {
            Self::Transparent => Some(class.tagged()),
            Self::Access(vid) if class.vid == vid.get() => Some(class.untagged()),
            Self::Access(_) => None,
            Self::Trunk { native: Some(native), .. } if class.vid == native.get() => {
                Some(if class.double { class.tagged() } else { class.untagged() })
            }
            Self::Trunk { allowed, .. } => allowed.contains(class.vid).then(|| class.tagged()),
        }
    }
}

impl Class {
    fn tagged(self) -> Retag {
        match self.tag {
            Some(tag) if tag.vid() == self.vid => Retag::Keep,
            // A priority tag gets its VLAN and keeps PCP and DEI.
            Some(tag) => Retag::Replace(Tag { tci: tag.tci & 0xf000 | self.vid, ..tag }),
            None if self.vid == 0 => Retag::Keep,
            None => Retag::Push(Tag { tpid: TPID_8021Q, tci: self.vid }),
        }
    }

    fn untagged(self) -> Retag {
        if self.tag.is_some() { Retag::Pop } else { Retag::Keep }
    }
}

impl fmt::Display for VlanRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transparent => f.write_str("transparent"),
            Self::Access(vid) => write!(f, "access {vid}"),
            Self::Trunk { allowed, native: None } => write!(f, "trunk {allowed}"),
            Self::Trunk { allowed, native: Some(native) } => write!(f, "trunk {allowed} native {native}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(tags: &[(u16, u16)]) -> Vec<u8> {
        let mut bytes = vec![2; 12];
        for (tpid, tci) in tags {
            bytes.extend(tpid.to_be_bytes());
            bytes.extend(tci.to_be_bytes());
        }
        bytes.extend([0x08, 0x00, 0xaa]);
        bytes
    }

    fn vid(v: u16) -> Vid {
        Vid::new(v).unwrap()
    }

    fn trunk(allowed: &str, native: Option<u16>) -> VlanRule {
        VlanRule::Trunk { allowed: allowed.parse().unwrap(), native: native.map(vid) }
    }

    #[test]
    fn classification() {
        let (c, s) = (0x8100, 0x88a8);
        let access = VlanRule::Access(vid(10));
        for (rule, tags, want) in [
            (&VlanRule::Transparent, &[][..], Ok(0)),
            (&VlanRule::Transparent, &[(c, 0x6000)], Ok(0)),
            (&VlanRule::Transparent, &[(c, 7)], Ok(7)),
            (&VlanRule::Transparent, &[(s, 8), (c, 7)], Ok(8)),
            (&VlanRule::Transparent, &[(c, 4095)], Err(Reason::ReservedVid)),
            (&access, &[], Ok(10)),
            (&access, &[(c, 0x6000)], Ok(10)),
            (&access, &[(c, 10)], Err(Reason::VlanTagged)),
            (&access, &[(s, 10)], Err(Reason::VlanTagged)),
            (&access, &[(c, 0), (c, 20)], Err(Reason::VlanTagged)),
            (&trunk("1-5", None), &[(c, 5)], Ok(5)),
            (&trunk("1-5", None), &[(c, 6)], Err(Reason::VlanNotMember)),
            (&trunk("1-5", None), &[], Err(Reason::VlanUntagged)),
            (&trunk("1-5", Some(9)), &[], Ok(9)),
            (&trunk("1-5", Some(9)), &[(c, 9)], Ok(9)),
            (&trunk("1-5", Some(9)), &[(c, 0), (c, 3)], Err(Reason::VlanTagged)),
        ] {
            let bytes = frame(tags);
            let got = rule.classify(Frame::checked(&bytes).unwrap()).map(|class| class.vid);
            assert_eq!(got, want, "{rule} {tags:?}");
        }
    }

    #[test]
    fn egress_tagging() {
        let c = 0x8100;
        let (open, access, native) =
            (VlanRule::Transparent, VlanRule::Access(vid(10)), trunk("10,20", Some(10)));
        for (from, tags, to, want) in [
            (&open, &[][..], &open, Some(Retag::Keep)),
            (&open, &[(c, 0x6000)], &open, Some(Retag::Keep)),
            (&open, &[(c, 10)], &open, Some(Retag::Keep)),
            (&open, &[], &access, None),
            (&open, &[(c, 10)], &access, Some(Retag::Pop)),
            (&open, &[(c, 11)], &access, None),
            (&access, &[], &access, Some(Retag::Keep)),
            (&access, &[(c, 0xe000)], &access, Some(Retag::Pop)),
            (&access, &[], &open, Some(Retag::Push(Tag { tpid: c, tci: 10 }))),
            (&access, &[(c, 0xe000)], &open, Some(Retag::Replace(Tag { tpid: c, tci: 0xe00a }))),
            (&access, &[], &native, Some(Retag::Keep)),
            (&access, &[], &trunk("20", None), None),
            (&open, &[], &native, None),
            (&open, &[(c, 10)], &native, Some(Retag::Pop)),
            (&open, &[(c, 20)], &native, Some(Retag::Keep)),
        ] {
            let bytes = frame(tags);
            let class = from.classify(Frame::checked(&bytes).unwrap()).unwrap();
            assert_eq!(to.egress(class), want, "{from} {tags:?} -> {to}");
            assert_eq!(to.has(class.vid), want.is_some(), "{from} {tags:?} -> {to}");
        }
    }

    #[test]
    fn bad_42_a_double_tagged_frame_does_not_hop_over_a_native_vlan() {
        let bytes = frame(&[(0x8100, 10), (0x8100, 20)]);
        let class = VlanRule::Transparent.classify(Frame::checked(&bytes).unwrap()).unwrap();
        assert_eq!(trunk("20", Some(10)).egress(class), Some(Retag::Keep));
    }

    #[test]
    fn bad_41_a_truncated_tag_is_refused_by_name() {
        for len in 14..18 {
            let mut bytes = vec![2; len];
            bytes[12..14].copy_from_slice(&[0x88, 0xa8]);
            let got = VlanRule::Transparent.classify(Frame::checked(&bytes).unwrap());
            assert_eq!(got, Err(Reason::TruncatedTag));
        }
    }
}
