//! The document, made from the schemas of what each method takes and gives.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::control::api::{self, Method};

/// A method with the schemas of what it takes and gives.
#[derive(Clone, Copy)]
pub struct Described {
    pub name: &'static str,
    summary: &'static str,
    params: fn(&mut SchemaGenerator) -> Schema,
    result: fn(&mut SchemaGenerator) -> Schema,
}

impl Described {
    pub fn new<P: JsonSchema, R: JsonSchema>(method: Method) -> Self {
        Self::named::<P, R>(method.name(), method.summary())
    }

    /// What is served beside the methods: a subscription.
    pub fn named<P: JsonSchema, R: JsonSchema>(name: &'static str, summary: &'static str) -> Self {
        Self { name, summary, params: P::json_schema, result: SchemaGenerator::subschema_for::<R> }
    }
}

/// The document that describes `methods`.
pub fn document(methods: impl IntoIterator<Item = Described>) -> Value {
    // OpenRPC prescribes JSON Schema draft 7.
    let settings = SchemaSettings::draft07().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let methods: Vec<Value> = methods.into_iter().map(|method| describe(method, &mut generator)).collect();
    json!({
        "openrpc": "1.3.2",
        "info": {
            "title": "etherws",
            "description": "Control of an Ethernet switch whose long cables are WebSockets",
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "MIT OR Apache-2.0"},
        },
        "methods": methods,
        "components": {"schemas": generator.take_definitions(true)},
    })
}

fn describe(described: Described, generator: &mut SchemaGenerator) -> Value {
    let params = (described.params)(generator).to_value();
    let required = |name: &String| {
        params["required"].as_array().is_some_and(|list| list.iter().any(|item| item.as_str() == Some(name)))
    };
    let none = Map::new();
    let properties = params["properties"].as_object().unwrap_or(&none);
    // Required ones first: OpenRPC wants positional parameters so, and map order is alphabetical.
    let (first, rest): (Vec<_>, Vec<_>) = properties.iter().partition(|(name, _)| required(name));
    let mut errors = vec![
        json!({"code": api::INVALID_PARAMS, "message": "Invalid params"}),
        json!({"code": api::FAILED, "message": "refused by the system or the peer"}),
    ];
    if properties.contains_key("after") {
        errors.push(json!({"code": api::TOO_MANY, "message": "too many for one answer"}));
    }
    let params: Vec<Value> = first
        .into_iter()
        .chain(rest)
        .map(|(name, schema)| json!({"name": name, "required": required(name), "schema": schema}))
        .collect();
    json!({
        "name": described.name,
        "summary": described.summary,
        "paramStructure": "by-name",
        "params": params,
        "result": {"name": "result", "schema": (described.result)(generator)},
        "errors": errors,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::api::{Entries, PortSpec, PortStatus};

    #[test]
    fn parameters_results_and_references_are_described() {
        let document = document([Described::new::<PortSpec, Entries<PortStatus>>(Method::AddPort)]);
        assert_eq!(document["openrpc"], "1.3.2");
        let add = &document["methods"][0];
        assert_eq!(add["name"], "etherws.control.addPort");
        let names: Vec<_> = add["params"].as_array().unwrap().iter().map(|p| &p["name"]).collect();
        assert_eq!(names[..2], ["target", "type"], "required parameters first");
        assert!(names.iter().any(|name| *name == "options"));
        let mut text = document.to_string();
        let schemas = document["components"]["schemas"].as_object().unwrap();
        for name in schemas.keys() {
            text = text.replace(&format!("\"#/components/schemas/{name}\""), "");
        }
        assert!(!text.contains("\"#/"), "a reference leads nowhere: {text}");
        assert!(schemas.contains_key("PortStatus") && schemas.contains_key("LinkOptions"));
    }
}
