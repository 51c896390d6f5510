//! The stages of a frame's way, and the static tree they stand in: a "stack" is the number of a path in
//! it, and no stack is ever unwound.

use serde::{Deserialize, Serialize};

/// What takes time. A stage ends where the next one begins: one clock read for both.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Stage {
    /// The thread sleeps until a device or socket has something (wall time).
    RxWait,
    RxTapRead,
    RxDevRead,
    RxSockRead,
    /// Records decrypted and checked.
    RxTlsOpen,
    /// Message headers.
    RxWsParse,
    /// The mask taken off, as far as somebody needs it off.
    RxWsUnmask,
    /// The frame's headers looked at, and its VLAN.
    SwParse,
    SwLearn,
    SwLookup,
    /// Finding the ports of a flood; what is done for each stands below it.
    SwFlood,
    /// A super-frame split, a checksum completed; what is done with the parts stands below it.
    SwSegment,
    /// Frames of a flow put together for a device that takes them so.
    SwMerge,
    /// A frame that goes nowhere.
    SwDrop,
    /// From encoded to handed to the socket (wall time).
    QWait,
    /// Message headers, and the copy of a frame that gets no mask.
    TxWsEncode,
    /// The copy of a frame that puts a mask on.
    TxWsMask,
    TxTlsSeal,
    TxSockWrite,
    TxTapWrite,
    TxDevWrite,
    /// Control: JSON-RPC, logs, certificates.
    Ctl,
    /// Keep-alives and deadlines of links.
    Timer,
    /// The runtime: epoll, wakers, tasks.
    Poll,
    /// The profiler's own clock reads.
    ProfSelf,
    /// CPU time of a thread that no stage explains.
    Unaccounted,
}

use Stage::*;

impl Stage {
    pub const ALL: [Self; 26] = [
        RxWait,
        RxTapRead,
        RxDevRead,
        RxSockRead,
        RxTlsOpen,
        RxWsParse,
        RxWsUnmask,
        SwParse,
        SwLearn,
        SwLookup,
        SwFlood,
        SwSegment,
        SwMerge,
        SwDrop,
        QWait,
        TxWsEncode,
        TxWsMask,
        TxTlsSeal,
        TxSockWrite,
        TxTapWrite,
        TxDevWrite,
        Ctl,
        Timer,
        Poll,
        ProfSelf,
        Unaccounted,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            RxWait => "rx.wait",
            RxTapRead => "rx.tap.read",
            RxDevRead => "rx.dev.read",
            RxSockRead => "rx.sock.read",
            RxTlsOpen => "rx.tls.open",
            RxWsParse => "rx.ws.parse",
            RxWsUnmask => "rx.ws.unmask",
            SwParse => "sw.parse",
            SwLearn => "sw.learn",
            SwLookup => "sw.lookup",
            SwFlood => "sw.flood",
            SwSegment => "sw.segment",
            SwMerge => "sw.merge",
            SwDrop => "sw.drop",
            QWait => "q.wait",
            TxWsEncode => "tx.ws.encode",
            TxWsMask => "tx.ws.mask",
            TxTlsSeal => "tx.tls.seal",
            TxSockWrite => "tx.sock.write",
            TxTapWrite => "tx.tap.write",
            TxDevWrite => "tx.dev.write",
            Ctl => "ctl",
            Timer => "timer",
            Poll => "poll",
            ProfSelf => "prof.self",
            Unaccounted => "unaccounted",
        }
    }

    /// Charged to the port that a frame leaves by; the others to the one it came in by.
    pub const fn is_egress(self) -> bool {
        matches!(self, QWait | TxWsEncode | TxWsMask | TxTlsSeal | TxSockWrite | TxTapWrite | TxDevWrite)
    }

    /// May happen below a flood or a split.
    const fn nests(self) -> bool {
        matches!(self, SwParse | SwLearn | SwLookup | SwFlood | SwSegment | SwDrop | RxWsUnmask)
            || self.is_egress() && !matches!(self, QWait)
    }
}

/// Whether a stage's time passes without a processor: it is shown, and stands in no sum of CPU time.
pub fn is_wall(stage: &str) -> bool {
    stage == RxWait.name() || stage == QWait.name()
}

/// What a stage is done for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Within {
    /// The frame itself.
    Frame,
    /// One copy of a flood.
    Flood,
    /// A part of a super-frame, or a frame whose checksum was completed.
    Segment,
    /// A part, for one port of a flood.
    FloodSegment,
    /// A copy of a part that is flooded.
    SegmentFlood,
}

const CONTEXTS: [(Within, &[Stage]); 5] = [
    (Within::Frame, &[]),
    (Within::Flood, &[SwFlood]),
    (Within::Segment, &[SwSegment]),
    (Within::FloodSegment, &[SwFlood, SwSegment]),
    (Within::SegmentFlood, &[SwSegment, SwFlood]),
];

/// A place in the tree.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Path(u8);

impl Path {
    /// How many there are.
    pub const COUNT: usize = TREE.1;

    /// A stage that never happens there counts as done for the frame itself.
    #[inline(always)]
    pub const fn of(within: Within, stage: Stage) -> Self {
        Self(TREE.0[within as usize][stage as usize])
    }

    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The name of each place, by its number: stages from the outermost in, with `;` between.
    pub fn names() -> Vec<String> {
        let name = |stack: Vec<Stage>| stack.iter().map(|stage| stage.name()).collect::<Vec<_>>().join(";");
        Self::all().map(|(_, stack)| name(stack)).collect()
    }

    /// Every place, in the order of a frame's way.
    pub fn all() -> impl Iterator<Item = (Self, Vec<Stage>)> {
        CONTEXTS.into_iter().flat_map(|(within, parents)| {
            let here = move |stage: &Stage| match within {
                Within::Frame => true,
                _ => stage.nests() && own_of(within as usize, *stage).is_none(),
            };
            Stage::ALL.into_iter().filter(here).map(move |stage| {
                let mut stack = parents.to_vec();
                if stage == TxWsMask {
                    stack.push(TxWsEncode);
                }
                stack.push(stage);
                (Self::of(within, stage), stack)
            })
        })
    }
}

// A bit each in a word of the recorder's.
const _: () = assert!(Path::COUNT <= 128);

/// The context whose stage this is, when it is what the context is for: the own time of a flood is not
/// below the flood.
const fn own_of(context: usize, stage: Stage) -> Option<usize> {
    match (context, stage) {
        (FLOOD, SwFlood) | (SEGMENT, SwSegment) => Some(Within::Frame as usize),
        (FLOOD_SEGMENT, SwSegment) => Some(FLOOD),
        (SEGMENT_FLOOD, SwFlood) => Some(SEGMENT),
        _ => None,
    }
}

const FLOOD: usize = Within::Flood as usize;
const SEGMENT: usize = Within::Segment as usize;
const FLOOD_SEGMENT: usize = Within::FloodSegment as usize;
const SEGMENT_FLOOD: usize = Within::SegmentFlood as usize;

/// The number of each stage in each context, and how many numbers there are.
const TREE: ([[u8; Stage::ALL.len()]; CONTEXTS.len()], usize) = {
    let mut numbers = [[0; Stage::ALL.len()]; CONTEXTS.len()];
    let mut next = 0;
    let mut context = 0;
    while context < CONTEXTS.len() {
        let mut stage = 0;
        while stage < Stage::ALL.len() {
            if let Some(parent) = own_of(context, Stage::ALL[stage]) {
                numbers[context][stage] = numbers[parent][stage];
            } else if context == 0 || Stage::ALL[stage].nests() {
                numbers[context][stage] = next as u8;
                next += 1;
            } else {
                numbers[context][stage] = numbers[0][stage];
            }
            stage += 1;
        }
        context += 1;
    }
    (numbers, next)
};

/// Which way a frame goes over a link.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[repr(u8)]
pub enum Dir {
    /// From the side that dialled, whose frames are masked.
    #[serde(rename = "c>s")]
    ToServer,
    #[serde(rename = "s>c")]
    ToClient,
    /// Over no link, or not known.
    #[serde(rename = "local")]
    Local,
}

impl Dir {
    pub const ALL: [Self; 3] = [Self::ToServer, Self::ToClient, Self::Local];

    pub const fn name(self) -> &'static str {
        match self {
            Self::ToServer => "c>s",
            Self::ToClient => "s>c",
            Self::Local => "local",
        }
    }
}

/// Names of the size classes, smallest first.
pub const SIZES: [&str; 8] = ["<=64", "128", "256", "512", "1024", "1518", "jumbo", "super"];

/// The size class of a frame of so many bytes: up to 64, 128, 256, 512, 1,024 and 1,518, beyond that jumbo;
/// `more_than_one`: a super-frame.
#[inline]
pub const fn size_class(len: usize, more_than_one: bool) -> usize {
    match len {
        _ if more_than_one => 7,
        0..=64 => 0,
        65..=128 => 1,
        129..=256 => 2,
        257..=512 => 3,
        513..=1024 => 4,
        1025..=1518 => 5,
        _ => 6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_has_its_own_number() {
        let all: Vec<_> = Path::all().collect();
        assert_eq!(all.len(), Path::COUNT);
        for (index, (path, stack)) in all.iter().enumerate() {
            assert_eq!(path.index(), index, "{stack:?}");
        }
        let text = |stack: &[Stage]| stack.iter().map(|s| s.name()).collect::<Vec<_>>().join(";");
        let names: std::collections::BTreeSet<_> = all.iter().map(|(_, stack)| text(stack)).collect();
        assert_eq!(names.len(), all.len());
        assert!(names.contains("tx.tap.write") && names.contains("sw.flood;tx.tap.write"));
        assert!(names.contains("sw.flood;tx.ws.encode;tx.ws.mask"));
        assert!(!names.iter().any(|name| name.contains("sw.flood;sw.flood")), "{names:?}");
        assert_eq!(Path::of(Within::SegmentFlood, SwFlood), Path::of(Within::Segment, SwFlood));
        assert_eq!(Path::of(Within::Flood, Stage::RxSockRead), Path::of(Within::Frame, Stage::RxSockRead));
    }

    #[test]
    fn stages_are_listed_in_their_own_order() {
        for (index, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(stage as usize, index);
        }
    }

    #[test]
    fn sizes_by_their_edges() {
        for (len, name) in
            [(14, "<=64"), (64, "<=64"), (65, "128"), (1024, "1024"), (1518, "1518"), (1519, "jumbo")]
        {
            assert_eq!(SIZES[size_class(len, false)], name, "{len}");
        }
        assert_eq!(SIZES[size_class(1000, true)], "super");
    }
}
