//! The storm limit of a port as it is asked for: `"default"`, `"off"`, or frames a second by kind.

use std::fmt;
use std::str::FromStr;

#[cfg(test)]
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::switch::guard::StormRates;

/// How much of what goes to many ports a port may send.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum StormLimit {
    /// As the switch has it.
    #[default]
    Default,
    Off,
    Rates(Rates),
}

/// Frames a second, bursts of twice as many; a kind that is absent is limited as the switch has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Rates {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broadcast: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multicast: Option<u32>,
    /// Unicast to stations that are not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<u32>,
}

impl StormLimit {
    /// What it comes to where `usual` holds.
    pub fn over(self, usual: StormRates) -> StormRates {
        match self {
            Self::Default => usual,
            Self::Off => StormRates::default(),
            Self::Rates(rates) => StormRates {
                broadcast: rates.broadcast.or(usual.broadcast),
                multicast: rates.multicast.or(usual.multicast),
                unknown: rates.unknown.or(usual.unknown),
            },
        }
    }

    /// Why it cannot be meant so.
    pub fn check(self) -> Result<(), String> {
        let Self::Rates(rates) = self else { return Ok(()) };
        match rates.named().into_iter().find(|(_, rate)| *rate == Some(0)) {
            Some((kind, _)) => {
                Err(format!("{kind}: 0 frames a second lets nothing in (\"off\" is no limit)"))
            }
            None => Ok(()),
        }
    }
}

impl Rates {
    pub fn named(self) -> [(&'static str, Option<u32>); 3] {
        [("broadcast", self.broadcast), ("multicast", self.multicast), ("unknown", self.unknown)]
    }
}

/// `default`, `off` or `broadcast=1000,unknown=500`.
impl fmt::Display for StormLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Off => f.write_str("off"),
            Self::Rates(rates) => {
                let given =
                    rates.named().into_iter().filter_map(|(kind, rate)| Some(format!("{kind}={}", rate?)));
                f.write_str(&given.collect::<Vec<_>>().join(","))
            }
        }
    }
}

impl FromStr for StormLimit {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let wrong = || {
            format!("{s:?} is no storm limit (expected default, off or broadcast=N,multicast=N,unknown=N)")
        };
        match s {
            "default" => return Ok(Self::Default),
            "off" => return Ok(Self::Off),
            _ => {}
        }
        let mut rates = Rates::default();
        for part in s.split(',') {
            let (kind, rate) = part.split_once('=').ok_or_else(wrong)?;
            let place = match kind.trim() {
                "broadcast" => &mut rates.broadcast,
                "multicast" => &mut rates.multicast,
                "unknown" => &mut rates.unknown,
                _ => return Err(wrong()),
            };
            *place = Some(rate.trim().parse().map_err(|_| wrong())?);
        }
        Ok(Self::Rates(rates))
    }
}

impl Serialize for StormLimit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Rates(rates) => rates.serialize(serializer),
            word => serializer.collect_str(word),
        }
    }
}

impl<'de> Deserialize<'de> for StormLimit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = StormLimit;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"off\", \"default\" or { broadcast = N, multicast = N, unknown = N }")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<StormLimit, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<StormLimit, A::Error> {
                Rates::deserialize(MapAccessDeserializer::new(map)).map(StormLimit::Rates)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
impl JsonSchema for StormLimit {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "StormLimit".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let rates = generator.subschema_for::<Rates>();
        json_schema!({"anyOf": [{"type": "string"}, rates]})
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn limits_are_words_or_rates() {
        let some = StormLimit::Rates(Rates { broadcast: Some(7), ..Rates::default() });
        for (text, value, limit) in [
            ("default", json!("default"), StormLimit::Default),
            ("off", json!("off"), StormLimit::Off),
            ("broadcast=7", json!({"broadcast": 7}), some),
        ] {
            assert_eq!(text.parse(), Ok(limit));
            assert_eq!(limit.to_string(), text);
            assert_eq!(serde_json::to_value(limit).unwrap(), value);
            assert_eq!(serde_json::from_value::<StormLimit>(value).unwrap(), limit);
        }
        for wrong in [json!("on"), json!({"brodcast": 1}), json!({"unknown": -1}), json!(7), json!([1])] {
            assert!(serde_json::from_value::<StormLimit>(wrong.clone()).is_err(), "{wrong}");
        }
        for wrong in ["", "broadcast", "broadcast=x", "all=1", "broadcast=1,"] {
            assert!(wrong.parse::<StormLimit>().is_err(), "{wrong}");
        }
        assert!("unknown=0".parse::<StormLimit>().unwrap().check().unwrap_err().starts_with("unknown: "));
    }

    #[test]
    fn what_is_not_said_is_as_the_switch_has_it() {
        let some = StormLimit::Rates(Rates { broadcast: Some(7), ..Rates::default() });
        let usual = StormRates { broadcast: Some(1), multicast: Some(2), unknown: None };
        assert_eq!(some.over(usual), StormRates { broadcast: Some(7), ..usual });
        assert_eq!(
            (StormLimit::Default.over(usual), StormLimit::Off.over(usual)),
            (usual, StormRates::default())
        );
    }
}
