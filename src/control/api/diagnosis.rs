//! What a switch says of itself and of where it runs, for `etherctl doctor` to judge.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Result of `diagnose`. Facts; what they mean is the client's business.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Diagnosis {
    pub pid: u32,
    /// User that the process is.
    pub uid: u32,
    /// Seconds since 1970 by the switch's clock.
    pub unix_time: i64,
    /// Why /dev/net/tun cannot be opened; absent when it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tun: Option<String>,
    /// Descriptors: open, and the soft limit of the process.
    pub descriptors: u64,
    pub descriptor_limit: u64,
    /// Absent: off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<SandboxFacts>,
    /// `http_proxy` and the like, as they are set, without credentials.
    #[serde(default)]
    pub proxies: BTreeMap<String, String>,
    #[serde(default)]
    pub certificates: Vec<CertificateFacts>,
    #[serde(default)]
    pub links: Vec<LinkFacts>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SandboxFacts {
    pub capabilities: Vec<String>,
    /// What should be enforced and is not, and why.
    #[serde(default)]
    pub missing: Vec<String>,
}

/// The first certificate of a file that the configuration or a port names.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CertificateFacts {
    /// Who names it: `listen.sslcert`, `port far: cacerts`.
    pub place: String,
    /// Empty for one that is in the configuration as text.
    pub file: String,
    /// Seconds since 1970; absent when it could not be read, for which `error` is the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A link that is connected, by TCP.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LinkFacts {
    pub port: u32,
    /// The largest segment that the path takes, in bytes (TCP_MAXSEG).
    pub segment: u32,
}
