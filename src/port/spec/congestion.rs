//! The congestion control of a link as it is asked for: `"default"`, or the name of one of the kernel's algorithms.

use std::fmt;
use std::str::FromStr;

#[cfg(test)]
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What decides how fast a link's TCP connection sends (TCP_CONGESTION, tcp(7)).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Congestion {
    /// As the system has it (net.ipv4.tcp_congestion_control).
    #[default]
    System,
    /// Such as `bbr`; whether this kernel knows it is not said.
    Named(String),
}

impl fmt::Display for Congestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::System => SYSTEM,
            Self::Named(name) => name,
        })
    }
}

impl FromStr for Congestion {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        // The kernel cuts a longer name off, and may look for a module of that name.
        let fine = |b: u8| b.is_ascii_alphanumeric() || b"_-".contains(&b);
        match s {
            SYSTEM => Ok(Self::System),
            _ if (1..=MAX_NAME).contains(&s.len()) && s.bytes().all(fine) => Ok(Self::Named(s.to_owned())),
            _ => Err(format!("{s:?} is no congestion control (expected a name such as bbr, or default)")),
        }
    }
}

impl Serialize for Congestion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Congestion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
impl JsonSchema for Congestion {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Congestion".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": "^[A-Za-z0-9_-]{1,15}$"})
    }
}

const SYSTEM: &str = "default";
/// TCP_CA_NAME_MAX (linux/tcp.h) without its NUL.
const MAX_NAME: usize = 15;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn it_is_a_name_or_the_system_s() {
        let named = |name: &str| Congestion::Named(name.into());
        for (text, congestion) in [
            ("default", Congestion::System),
            ("bbr", named("bbr")),
            ("fifteen_letters", named("fifteen_letters")),
        ] {
            assert_eq!(text.parse(), Ok(congestion.clone()));
            assert_eq!(serde_json::to_value(&congestion).unwrap(), json!(text));
            assert_eq!(serde_json::from_value::<Congestion>(json!(text)).unwrap(), congestion);
        }
        for wrong in
            [json!(""), json!("b r"), json!("bbr\0"), json!("../x"), json!("sixteen_letters_"), json!(1)]
        {
            assert!(serde_json::from_value::<Congestion>(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
