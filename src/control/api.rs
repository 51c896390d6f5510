//! The JSON-RPC contract, once: methods, parameters, results and error codes. The daemon serves it
//! ([`super::rpc`]), `rpc.discover` describes it ([`super::openrpc`]), etherctl speaks it; it is the
//! one module that etherctl sees.
//!
//! Method names, parameters and results of etherws 1.3 keep their names and types; what is ours is
//! added. A parameter that is null counts as absent, as 1.3's own client sends it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use tokio::io::{AsyncRead, AsyncWrite};

pub mod check;
pub mod diagnosis;
pub mod events;
mod method;
pub mod prof;
pub mod seeing;

use crate::port::dial;

pub use super::dashboard;
pub use crate::frame::{EtherType, MacAddr, Vid, VidSet};
pub use crate::port::spec::{Bpdu, Congestion, LinkOptions, PortKind, PortRef, PortSpec, StormLimit};
pub use crate::port::status::{
    Connections, CounterStatus, FdbStatus, GroupPort, GroupStatus, GroupsStatus, InterfaceStatus, PortStatus,
    StationStatus,
};
pub use check::{check_spec, did_you_mean, without_credentials};
pub use method::Method;

/// What every method but `rpc.discover` is prefixed with.
pub const NAMESPACE: &str = "etherws.control";

/// Where 1.3 served the contract, and we on TCP when nothing else is said.
pub const DEFAULT_PATH: &str = "/ctl";
pub const DEFAULT_TCP_PORT: u16 = 7867;

/// The control socket of a daemon that root, or systemd, started.
pub const SYSTEM_SOCKET: &str = "/run/etherws/ctl.sock";

/// The request is not JSON.
pub const PARSE_ERROR: i32 = -32700;
/// The request is JSON but not JSON-RPC 2.0.
pub const INVALID_REQUEST: i32 = -32600;
pub const METHOD_NOT_FOUND: i32 = -32601;
/// A parameter is missing, unknown, mistyped or out of range, or names nothing: `data` says which and why.
pub const INVALID_PARAMS: i32 = -32602;
/// A task of ours died.
pub const INTERNAL_ERROR: i32 = -32603;
/// The kernel, the file system or the peer refused: message and `data` say what.
pub const FAILED: i32 = -32000;
/// There are more stations than one answer may have: ask for them page by page.
pub const TOO_MANY: i32 = -32001;

/// Stations of one answer at most; a hundred bytes each, more or less.
pub const MAX_LISTED: u32 = 100_000;

/// Parameters of a method that takes none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct NoParams {}

/// `setPort`: absent fields stay as they are. `access`, `trunk` and `native` replace the port's VLAN
/// rule as a whole; `transparent` drops it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SetPort {
    #[serde(deserialize_with = "port_ref")]
    pub port: PortRef,
    /// true or false; 0 and 1 are taken too.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "maybe_switch")]
    pub shut: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Vid>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trunk: Option<VidSet>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub native: Option<Vid>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "maybe_switch")]
    pub transparent: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "maybe_switch")]
    pub isolated: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bpdu: Option<Bpdu>,
    /// `[]` lets all in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub macs: Option<Vec<MacAddr>>,
    /// `[]` lets all in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ethertypes: Option<Vec<EtherType>>,
    /// Bits a second; 0 is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storm: Option<StormLimit>,
    /// 0 is the switch's own limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_macs: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "maybe_switch")]
    pub loop_guard: Option<bool>,
    /// Of a link; `"default"` is the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub congestion: Option<Congestion>,
    /// Of a link: bits a second sent at most; 0 is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pace: Option<u64>,
}

impl SetPort {
    /// A request that changes nothing yet.
    pub fn of(port: PortRef) -> Self {
        Self {
            port,
            shut: None,
            name: None,
            access: None,
            trunk: None,
            native: None,
            transparent: None,
            isolated: None,
            bpdu: None,
            macs: None,
            ethertypes: None,
            rate: None,
            storm: None,
            max_macs: None,
            loop_guard: None,
            congestion: None,
            pace: None,
        }
    }
}

/// `delPort`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct DelPort {
    #[serde(deserialize_with = "port_ref")]
    pub port: PortRef,
}

/// `setInterface`: absent fields stay as they are.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SetInterface {
    #[serde(deserialize_with = "port_ref")]
    pub port: PortRef,
    /// `A` (with `netmask`, or with the prefix of A's class, as the kernel's SIOCSIFADDR gives it) or
    /// `A/len`, or a list of these. Replaces the addresses of each family that occurs in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Addresses>,
    /// Dotted quad, for the one IPv4 address in `address`, or for the one that the interface has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netmask: Option<String>,
    /// 576 to 65535.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
}

/// One address, as 1.3 writes it, or a list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Addresses(pub Vec<String>);

/// `addFdb`: a static entry.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct AddFdb {
    /// 1 to 4094; 0, or absent, is untagged.
    #[serde(default)]
    pub vid: u16,
    pub mac: MacAddr,
    #[serde(deserialize_with = "port_ref")]
    pub port: PortRef,
}

/// `delFdb`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct DelFdb {
    /// 1 to 4094; 0, or absent, is untagged.
    #[serde(default)]
    pub vid: u16,
    pub mac: MacAddr,
}

/// `listFdb` and `listStations`. Without parameters all stations, in the order of port, VLAN and MAC address, unless they
/// are more than [`MAX_LISTED`]. With one, a page: what comes behind `after` in the order of VLAN and MAC address, in which
/// a station keeps its place on whatever port it is. A page of less than `limit` is the last.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Page {
    /// How many at most, 1 to 100,000; absent: 100,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// The last one of the page before; absent: from the beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<StationKey>,
}

/// What tells stations apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct StationKey {
    /// 1 to 4094; 0, or absent, is untagged.
    #[serde(default)]
    pub vid: u16,
    pub mac: MacAddr,
}

/// `flushFdb`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct FlushFdb {
    /// Absent: all ports.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "maybe_port_ref")]
    pub port: Option<PortRef>,
}

/// `saveConfig`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SaveConfig {
    /// A path on the daemon's host; absent: the file it was started with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
}

/// The result of everything that lists, adds, changes or deletes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Entries<T> {
    pub entries: Vec<T>,
}

impl<T> From<T> for Entries<T> {
    fn from(entry: T) -> Self {
        Self { entries: vec![entry] }
    }
}

/// Result of `flushFdb`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Flushed {
    pub flushed: u64,
}

/// Result of `saveConfig`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Saved {
    pub file: String,
}

/// Result of `reloadConfig`: a line for each difference applied.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Changes {
    pub changes: Vec<String>,
}

/// Result of `getVersion`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Version {
    pub version: String,
    pub name: String,
    /// What the switch is called among others: as it was told, else the host's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

/// The error object of a JSON-RPC reply.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ErrorReply {
    pub code: i32,
    pub message: String,
    /// What and why; a string when it comes from us.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<serde_json::Value>,
}

impl Serialize for Addresses {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => one.serialize(serializer),
            list => list.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Addresses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Addresses;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an address or a list of addresses, as text")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Addresses, E> {
                Ok(Addresses(vec![text.to_owned()]))
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Addresses, A::Error> {
                let mut addresses = Vec::new();
                while let Some(address) = list.next_element()? {
                    addresses.push(address);
                }
                Ok(Addresses(addresses))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
impl schemars::JsonSchema for Addresses {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Addresses".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"anyOf": [
            {"type": "string"},
            {"type": "array", "items": {"type": "string"}},
        ]})
    }
}

/// A port number or name. Digits in a string are a number, as in 1.3.
fn port_ref<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PortRef, D::Error> {
    struct Visitor;
    impl de::Visitor<'_> for Visitor {
        type Value = PortRef;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a port's number or name")
        }
        fn visit_u64<E: de::Error>(self, number: u64) -> Result<PortRef, E> {
            let wrong = |_| E::invalid_value(de::Unexpected::Unsigned(number), &self);
            u32::try_from(number).map(PortRef::Number).map_err(wrong)
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<PortRef, E> {
            Ok(text.parse().unwrap_or_else(|never: std::convert::Infallible| match never {}))
        }
    }
    deserializer.deserialize_any(Visitor)
}

fn maybe_port_ref<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PortRef>, D::Error> {
    #[derive(Deserialize)]
    struct Present(#[serde(deserialize_with = "port_ref")] PortRef);
    Ok(Option::<Present>::deserialize(deserializer)?.map(|Present(port)| port))
}

/// A boolean; 0 and 1 are taken too.
fn maybe_switch<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
    struct Visitor;
    impl<'de> de::Visitor<'de> for Visitor {
        type Value = Option<bool>;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("true or false")
        }
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
        fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
            Ok(Some(value))
        }
        fn visit_u64<E: de::Error>(self, value: u64) -> Result<Self::Value, E> {
            match value {
                0 | 1 => Ok(Some(value == 1)),
                _ => Err(E::invalid_value(de::Unexpected::Unsigned(value), &self)),
            }
        }
    }
    deserializer.deserialize_any(Visitor)
}

/// Where the daemon listens when not told otherwise, for a user whose runtime directory is
/// `runtime_dir`; `None` when there is no such place.
pub fn default_socket(root: bool, runtime_dir: Option<&Path>) -> Option<PathBuf> {
    match runtime_dir {
        _ if root => Some(SYSTEM_SOCKET.into()),
        Some(dir) if dir.is_absolute() => Some(dir.join("etherws/ctl.sock")),
        _ => None,
    }
}

/// TLS to a control service at `authority` (host:port), by the rules that links trust by: `ca` names a
/// PEM file with authorities or the server's own certificate; absent, the system's roots decide.
pub async fn secure<T>(
    authority: &str,
    ca: Option<&Path>,
    insecure: bool,
    stream: T,
) -> Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static, String>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let cacerts = match ca {
        Some(path) => Some(path.to_str().ok_or_else(|| format!("{}: not UTF-8", path.display()))?.to_owned()),
        None => None,
    };
    let options = LinkOptions { cacerts, insecure, ..LinkOptions::default() };
    let target = dial::Target::parse(&format!("wss://{authority}/"), &options)?;
    // The rules' hints speak of links.
    let of_control =
        |hint: String| hint.replace("--cacerts", "--ctlsslcert").replace("a ws:// service", "http:// there");
    dial::secure(&target, stream).await.map_err(|e| of_control(e.to_string()))
}

/// The file, beside a control socket, with the token for control on TCP.
pub fn token_file(socket: &Path) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(".token");
    path.into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ports_are_numbers_or_names() {
        let port = |value| serde_json::from_value::<DelPort>(json!({"port": value})).map(|del| del.port);
        assert_eq!(port(json!(7)).unwrap(), PortRef::Number(7));
        assert_eq!(port(json!("7")).unwrap(), PortRef::Number(7), "1.3 took digits in a string");
        assert_eq!(port(json!("uplink")).unwrap(), PortRef::Name("uplink".into()));
        for wrong in [json!(-1), json!(1.5), json!(true), json!([1]), json!(4_294_967_296_u64)] {
            let why = port(wrong.clone()).expect_err(&wrong.to_string()).to_string();
            assert!(why.contains("a port's number or name"), "{why}");
        }
        assert_eq!(serde_json::from_value::<FlushFdb>(json!({})).unwrap().port, None);
        assert_eq!(serde_json::from_value::<FlushFdb>(json!({"port": null})).unwrap().port, None);
    }

    #[test]
    fn switches_are_booleans_or_zero_and_one() {
        let shut =
            |value| serde_json::from_value::<SetPort>(json!({"port": 1, "shut": value})).map(|set| set.shut);
        for (value, expected) in
            [(json!(true), true), (json!(false), false), (json!(0), false), (json!(1), true)]
        {
            assert_eq!(shut(value).unwrap(), Some(expected));
        }
        for wrong in [json!(2), json!(-1), json!("true"), json!(1.0), json!([])] {
            assert!(shut(wrong.clone()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_1_3_server_is_understood() {
        let old = json!({"port": 1, "type": "tap", "target": "tap0", "tx": 2, "rx": 3, "shut": false});
        let port: PortStatus = serde_json::from_value(old).unwrap();
        assert_eq!((port.rx, port.state.as_str(), port.peer), (3, "", None));
        let old =
            json!({"port": 1, "type": "tap", "target": "tap0", "address": "", "netmask": "", "mtu": 1500});
        assert_eq!(serde_json::from_value::<InterfaceStatus>(old).unwrap().index, 0);
        let old = json!({"port": 1, "vid": 0, "mac": "02:00:00:00:00:01", "age": 9});
        assert!(!serde_json::from_value::<FdbStatus>(old).unwrap().fixed);
    }

    #[test]
    fn one_address_is_written_as_1_3_writes_it() {
        let one = Addresses(vec!["192.0.2.1".into()]);
        assert_eq!(serde_json::to_value(&one).unwrap(), json!("192.0.2.1"));
        let two = Addresses(vec!["192.0.2.1/24".into(), "2001:db8::1/64".into()]);
        let value = serde_json::to_value(&two).unwrap();
        assert_eq!(serde_json::from_value::<Addresses>(value).unwrap(), two);
    }

    #[test]
    fn sockets_and_tokens_have_their_places() {
        let dir = Path::new("/run/user/1000");
        assert_eq!(default_socket(true, Some(dir)).unwrap(), Path::new("/run/etherws/ctl.sock"));
        let own = default_socket(false, Some(dir)).unwrap();
        assert_eq!(token_file(&own), Path::new("/run/user/1000/etherws/ctl.sock.token"));
        assert_eq!(default_socket(false, None), None);
        assert_eq!(default_socket(false, Some(Path::new("relative"))), None);
    }
}
