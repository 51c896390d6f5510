//! EtherTypes as people write them: by name or number.

use std::fmt;
use std::str::FromStr;

#[cfg(test)]
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What a frame carries (IEEE 802 Numbers, IANA); 0x0600 and more, below that it is a length.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EtherType(pub u16);

impl EtherType {
    /// Those with a name.
    const NAMED: [(&'static str, u16); 8] = [
        ("arp", 0x0806),
        ("ipv4", 0x0800),
        ("ipv6", 0x86dd),
        ("lldp", 0x88cc),
        ("mpls", 0x8847),
        ("pppoe-discovery", 0x8863),
        ("pppoe-session", 0x8864),
        ("eapol", 0x888e),
    ];
    /// The least that is no length (IEEE 802.3 3.2.6).
    const LEAST: u16 = 0x0600;

    fn of_number(number: u64) -> Option<Self> {
        u16::try_from(number).ok().filter(|number| *number >= Self::LEAST).map(Self)
    }
}

impl fmt::Display for EtherType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMED.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "{:#06x}", self.0),
        }
    }
}

impl FromStr for EtherType {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        if let Some((_, number)) = Self::NAMED.iter().find(|(name, _)| name.eq_ignore_ascii_case(s)) {
            return Ok(Self(*number));
        }
        let digits = s.strip_prefix("0x").or_else(|| s.strip_prefix("0X"));
        let number = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        number.and_then(Self::of_number).ok_or_else(|| {
            let names = Self::NAMED.map(|(name, _)| name).join(", ");
            format!("{s:?} is no EtherType (expected 0x0600 to 0xffff, or one of {names})")
        })
    }
}

impl Serialize for EtherType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A name or a hexadecimal number as text, or a number.
impl<'de> Deserialize<'de> for EtherType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = EtherType;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an EtherType, as a name or a number from 0x0600")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<EtherType, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<EtherType, E> {
                let wrong = || E::invalid_value(de::Unexpected::Unsigned(number), &self);
                EtherType::of_number(number).ok_or_else(wrong)
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<EtherType, E> {
                let wrong = || E::invalid_value(de::Unexpected::Signed(number), &self);
                u64::try_from(number).ok().and_then(EtherType::of_number).ok_or_else(wrong)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
impl JsonSchema for EtherType {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "EtherType".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"anyOf": [
            {"type": "string"},
            {"type": "integer", "minimum": Self::LEAST, "maximum": u16::MAX},
        ]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_read_and_written() {
        for (text, number) in [("ipv4", 0x0800), ("ARP", 0x0806), ("0x86DD", 0x86dd), ("0xffff", 0xffff)] {
            assert_eq!(text.parse(), Ok(EtherType(number)));
        }
        assert_eq!(
            (EtherType(0x86dd).to_string(), EtherType(0x88b6).to_string()),
            ("ipv6".into(), "0x88b6".into())
        );
        for wrong in ["", "ip", "0x05ff", "0x10000", "2048", "0x", "0x-1"] {
            assert!(wrong.parse::<EtherType>().is_err(), "{wrong}");
        }
        assert_eq!(serde_json::from_str::<EtherType>("2048").unwrap(), EtherType(0x0800));
        assert!(serde_json::from_str::<EtherType>("-1").is_err());
    }
}
