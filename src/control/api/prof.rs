//! The profiler's part of the contract.

use serde::{Deserialize, Serialize};

pub use crate::prof::profiler::SAMPLE;
pub use crate::prof::snapshot::{Clock, Level, Snapshot};

/// The shortest and the longest a lease lasts without being renewed, in milliseconds.
pub const LEASE_MS: std::ops::RangeInclusive<u32> = 100..=60_000;
/// The longest a CPU sampling lasts, in seconds.
pub const MAX_CPU_SECONDS: u32 = 300;
/// The subscription, over WebSocket only: its methods and its notification, whose result is a snapshot.
pub const SUBSCRIBE: &str = "etherws.control.subscribeProf";
pub const UNSUBSCRIBE: &str = "etherws.control.unsubscribeProf";
pub const NOTIFICATION: &str = "etherws.control.prof";

/// `startProf`: the level that stays until `stopProf`, viewers or not. Counts from now on, unless stages
/// were measured already.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct StartProf {
    /// Absent: stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<Level>,
    /// Measure one batch in so many, from 1 to 1,000,000; absent: 64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<u32>,
    /// Absent: wall.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<Clock>,
}

/// `leaseProf`: a level that lasts only as long as somebody renews it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct LeaseProf {
    /// A lease to renew or, with `ttl_ms` 0, to give back; absent: a new one. One that has run out is taken anew
    /// under another number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<u64>,
    /// Absent: stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<Level>,
    /// As of `startProf`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<u32>,
    /// As of `startProf`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<Clock>,
    /// Milliseconds until it runs out, 100 to 60,000; absent: 2,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u32>,
}

/// Result of `leaseProf`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Leased {
    pub lease: u64,
    pub ttl_ms: u32,
}

/// Since when a snapshot counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Since {
    /// The last `resetProf`, or the daemon's start.
    #[default]
    Reset,
    /// The daemon's start.
    Start,
}

/// `showProf`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ShowProf {
    #[serde(default)]
    pub since: Since,
}

/// `subscribeProf`: a snapshot every `interval_ms`, each counting since the one before;
/// the subscription holds a lease for as long as its connection lives.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SubscribeProf {
    /// 100 to 60,000; absent: 1,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_ms: Option<u32>,
    /// Absent: stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<Level>,
    /// As of `startProf`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<u32>,
}

/// `slowProf`: the slowest whole frames that level `trace` has kept since the last `resetProf`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SlowProf {
    /// Only those that took so many microseconds or more; absent: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub us: Option<f64>,
    /// At most so many; absent: 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// A frame that was watched from its read to its last copy.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SlowFrame {
    /// Nanoseconds since 1970.
    pub unix_ns: u64,
    /// All that its stages took.
    pub ns: u64,
    pub len: u32,
    pub src: String,
    pub dst: String,
    pub thread: String,
    /// The port that it came in by.
    pub ingress: u32,
    /// The (last) port that it left by; 0: none.
    pub egress: u32,
    /// Its stages in order: path and nanoseconds.
    pub stages: Vec<(String, u64)>,
}

/// `cpuProf`: function stacks of the whole daemon, sampled by CPU time. Answers when it is done.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CpuProf {
    /// 1 to 300; absent: 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u32>,
    /// Samples a second of CPU time, 1 to 1,000; absent: 99.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hz: Option<u32>,
}

/// Result of `cpuProf`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CpuProfile {
    /// Name and version of the program.
    pub program: String,
    pub elapsed_ns: u64,
    /// A count of 1 is so much CPU time: a second divided by this.
    pub hz: u32,
    pub stacks: Vec<CpuStack>,
    /// Samples that could not be kept.
    #[serde(default)]
    pub lost: u64,
    /// What a reader should know, such as that the program has no symbols.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Functions from the outermost in, and how often they were found so. One without a name is `module+0xoffset`, which
/// `addr2line -f -i -e MODULE` takes; `[cut off]` stands for outer functions that could not be found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CpuStack {
    pub thread: String,
    pub stack: Vec<String>,
    pub count: u64,
}

/// Result of `startProf`, `stopProf`, `resetProf` and `getProf`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ProfStatus {
    /// In force: the closest look that anybody wants.
    pub level: Level,
    pub sample: u32,
    pub clock: Clock,
    /// Without viewers: what `startProf`, `--prof` or SIGUSR2 said.
    pub base: Level,
    pub leases: Vec<LeaseStatus>,
    /// Ticks of the time-stamp counter in a nanosecond.
    pub ghz: f64,
    /// What one clock read costs.
    pub stamp_ns: f64,
    /// Since the last `resetProf`, or the start.
    pub elapsed_ns: u64,
    /// Threads that frames run on.
    pub threads: u32,
}

/// A lease that has not run out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LeaseStatus {
    pub lease: u64,
    pub level: Level,
    pub sample: u32,
    pub left_ms: u32,
}
