//! Counters so light that they are always on, and the names of all the ways a frame can be dropped.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::frame::offload::Reason as Refusal;

/// Defines [`Reason`] with its names, so that no reason can lack one.
macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why a frame was not forwarded.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Reason { $($(#[$doc])* $variant,)* }

        impl Reason {
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name that `etherctl counters` prints.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

reasons! {
    /// Fewer than 14 bytes.
    Runt = "runt",
    /// More than MAX_FRAME bytes, or more than the buffer it was read into.
    Oversize = "oversize",
    /// The frame ends inside its VLAN tag.
    TruncatedTag = "truncated-tag",
    /// VID 4095.
    ReservedVid = "reserved-vid",
    /// Tagged, on a port that takes untagged frames only.
    VlanTagged = "vlan-tagged",
    /// Untagged, on a trunk without a native VLAN.
    VlanUntagged = "vlan-untagged",
    /// The port is not in the frame's VLAN.
    VlanNotMember = "vlan-not-member",
    /// The source is a group address or zero.
    BadSource = "bad-source",
    /// The source is one of this host's own TAPs, and came from a peer.
    OwnSource = "own-source",
    /// The source has a static entry on another port.
    FixedElsewhere = "fixed-elsewhere",
    /// The source is not in the port's MAC list.
    SourceNotAllowed = "source-not-allowed",
    /// The EtherType is not in the port's list.
    EthertypeNotAllowed = "ethertype-not-allowed",
    /// The port holds as many stations as it may, and this one is new.
    MacLimit = "mac-limit",
    /// The station moves too often, and is held on another port.
    MacMove = "mac-move",
    /// More broadcast than the port may send.
    StormBroadcast = "storm-broadcast",
    /// More multicast than the port may send.
    StormMulticast = "storm-multicast",
    /// More unicast to unknown stations than the port may send.
    StormUnknown = "storm-unknown",
    /// The ingress or egress port is blocked because it closes a loop.
    LoopBlocked = "loop-blocked",
    /// A probe of our own loop guard, back again.
    LoopProbe = "loop-probe",
    /// 01:80:c2:00:00:0x, which bridges keep to themselves.
    ReservedGroup = "reserved-group",
    /// The destination is on the ingress port.
    Filtered = "filtered",
    /// Both ports are isolated.
    Isolated = "isolated",
    /// The ingress or egress port is shut.
    PortShut = "port-shut",
    /// A question for a station's address that was answered from what is known, instead of being flooded.
    Suppressed = "suppressed",
    /// For a multicast group that no other port has asked for, or for routers where there is none.
    Snooped = "snooped",
    /// Nobody to send it to.
    NoEgress = "no-egress",
    /// More than the port's rate.
    RateLimit = "rate-limit",
    /// The link is not connected, or ended before the frame was written.
    LinkDown = "link-down",
    /// The link goes over to another far end, and the frame is ours, or comes by the other connection too.
    LinkMoved = "link-moved",
    /// The egress queue is full: of the longest flow in it.
    QueueFull = "queue-full",
    /// It waited for too long in the egress queue, as others of its flow did before (CoDel).
    QueueDelay = "queue-delay",
    /// Larger than the egress device's MTU, or than MAX_FRAME with its new tag.
    TooBig = "too-big",
    /// The device is down or gone.
    DeviceDown = "device-down",
    /// The kernel refused the frame (ENOBUFS and the like).
    DeviceError = "device-error",
    /// A frame of the kernel's that virtio_net_hdr has no words for (SCTP GSO).
    OffloadUnknown = "offload-unknown",
    /// A peer's virtio_net_hdr has a flag that we do not know.
    VnetFlags = "vnet-flags",
    /// The checksum field asked for lies outside the frame.
    ChecksumBounds = "checksum-bounds",
    /// csum_start is not where the TCP or UDP header is.
    ChecksumStart = "checksum-start",
    /// csum_offset is not that of TCP's or UDP's checksum.
    ChecksumOffset = "checksum-offset",
    /// A gso_type that we do not know.
    GsoUnknown = "gso-unknown",
    /// UDP fragmentation offload.
    GsoUfo = "gso-ufo",
    /// gso_type says something else than the frame's headers.
    GsoType = "gso-type",
    /// gso_size is 0, 0xffff or, from a peer, less than 8.
    GsoSize = "gso-size",
    /// More segments than anybody honest asks for.
    GsoSegments = "gso-segments",
    /// A super-frame without a checksum to complete.
    GsoNoChecksum = "gso-no-checksum",
    /// A super-frame with SYN or RST.
    GsoSynRst = "gso-syn-rst",
    /// What is to be finished is inside a tunnel.
    OffloadTunnel = "offload-tunnel",
    /// What is to be finished is neither TCP nor UDP over IP.
    OffloadProtocol = "offload-protocol",
    /// What is to be finished is an IP fragment.
    OffloadFragment = "offload-fragment",
    /// A header of what is to be finished ends outside the frame, or contradicts its length.
    OffloadLength = "offload-length",
    /// More headers than a frame is looked into for.
    OffloadHeaders = "offload-headers",
    /// A text message on a link (not a frame).
    Text = "text",
}

/// Why a frame could not be understood or finished, by the same names.
impl From<Refusal> for Reason {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Runt => Self::Runt,
            Refusal::Oversize => Self::Oversize,
            Refusal::VnetFlags => Self::VnetFlags,
            Refusal::ChecksumBounds => Self::ChecksumBounds,
            Refusal::ChecksumStart => Self::ChecksumStart,
            Refusal::ChecksumOffset => Self::ChecksumOffset,
            Refusal::GsoUnknown => Self::GsoUnknown,
            Refusal::GsoUfo => Self::GsoUfo,
            Refusal::GsoType => Self::GsoType,
            Refusal::GsoSize => Self::GsoSize,
            Refusal::GsoSegments => Self::GsoSegments,
            Refusal::GsoNoChecksum => Self::GsoNoChecksum,
            Refusal::GsoSynRst => Self::GsoSynRst,
            Refusal::OffloadTunnel => Self::OffloadTunnel,
            Refusal::OffloadProtocol => Self::OffloadProtocol,
            Refusal::OffloadFragment => Self::OffloadFragment,
            Refusal::OffloadLength => Self::OffloadLength,
            Refusal::OffloadHeaders => Self::OffloadHeaders,
        }
    }
}

/// One port's counters. `rx` counts what came in, `tx` what went out.
#[derive(Debug)]
pub struct Counters {
    pub rx: AtomicU64,
    pub rx_bytes: AtomicU64,
    pub tx: AtomicU64,
    pub tx_bytes: AtomicU64,
    /// Of `tx`, those that got a congestion mark here.
    pub marked: AtomicU64,
    /// Copies that floods of what came in made, beyond one for each frame, and frames of the switch's own. Over all ports of a switch in which
    /// nothing waits, rx and copies together are tx and drops.
    pub copies: AtomicU64,
    /// Of `rx`, messages of IGMP and MLD that came too fast to be listened to, or are too long.
    pub unheard: AtomicU64,
    drops: [AtomicU64; Reason::ALL.len()],
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            rx: AtomicU64::new(0),
            rx_bytes: AtomicU64::new(0),
            tx: AtomicU64::new(0),
            tx_bytes: AtomicU64::new(0),
            marked: AtomicU64::new(0),
            copies: AtomicU64::new(0),
            unheard: AtomicU64::new(0),
            drops: [const { AtomicU64::new(0) }; Reason::ALL.len()],
        }
    }
}

impl Counters {
    /// All that the `other` ones count, added to these.
    pub fn add(&self, other: &Self) {
        let pairs = self.all().zip(other.all());
        pairs.for_each(|(sum, count)| _ = sum.fetch_add(count.load(Relaxed), Relaxed));
    }

    /// Whether there was anything to count.
    pub fn counts(&self) -> bool {
        self.all().any(|count| count.load(Relaxed) > 0)
    }

    fn all(&self) -> impl Iterator<Item = &AtomicU64> {
        let Self { rx, rx_bytes, tx, tx_bytes, marked, copies, unheard, drops } = self;
        [rx, rx_bytes, tx, tx_bytes, marked, copies, unheard].into_iter().chain(drops)
    }

    pub fn received(&self, frames: u64, bytes: u64) {
        self.rx.fetch_add(frames, Relaxed);
        self.rx_bytes.fetch_add(bytes, Relaxed);
    }

    pub fn sent(&self, frames: u64, bytes: u64) {
        self.tx.fetch_add(frames, Relaxed);
        self.tx_bytes.fetch_add(bytes, Relaxed);
    }

    pub fn copied(&self, frames: u64) {
        self.copies.fetch_add(frames, Relaxed);
    }

    /// Sent with Congestion Experienced in their IP header, which they came without.
    pub fn marked(&self, frames: u64) {
        self.marked.fetch_add(frames, Relaxed);
    }

    pub fn dropped(&self, reason: Reason) {
        self.dropped_many(reason, 1);
    }

    pub fn dropped_many(&self, reason: Reason, frames: u64) {
        self.drops[reason as usize].fetch_add(frames, Relaxed);
    }

    pub fn dropped_by(&self, reason: Reason) -> u64 {
        self.drops[reason as usize].load(Relaxed)
    }

    /// Drops by reason, those that never happened left out.
    pub fn drops(&self) -> impl Iterator<Item = (Reason, u64)> + '_ {
        Reason::ALL.iter().map(|reason| (*reason, self.dropped_by(*reason))).filter(|(_, count)| *count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_have_distinct_names_and_count_apart() {
        let names: std::collections::HashSet<_> = Reason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
        let counters = Counters::default();
        counters.dropped(Reason::Runt);
        counters.dropped(Reason::Text);
        counters.dropped(Reason::Text);
        assert_eq!(counters.drops().collect::<Vec<_>>(), [(Reason::Runt, 1), (Reason::Text, 2)]);
    }
}
