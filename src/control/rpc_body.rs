//! What a body must be to be a call. Pure.
//!
//! jsonrpsee calls an object that is no request a parse error, takes an odd `id` for none and answers nothing; 1.3's
//! clients expect -32600.

use serde_json::{Map, Value, json};

/// What a body turned out to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    Call,
    /// Of so many entries, not looked at yet.
    Batch(usize),
    /// Neither; the error that answers it.
    Wrong(String),
}

/// Parses the whole, with serde_json's bounded depth, which also refuses numbers and strings that no method could
/// read.
pub fn check(body: &[u8]) -> Body {
    let (code, message, data, id) = match serde_json::from_slice::<Value>(body) {
        Ok(Value::Object(request)) => {
            let Some(why) = request_error(&request) else { return Body::Call };
            let id = request.get("id").filter(|id| id.is_string() || id.is_u64());
            (-32600, "Invalid request", why.to_owned(), id.cloned())
        }
        Ok(Value::Array(items)) if items.is_empty() => {
            (-32600, "Invalid request", "empty batch".to_owned(), None)
        }
        Ok(Value::Array(items)) => return Body::Batch(items.len()),
        Ok(_) => (-32600, "Invalid request", "neither an object nor a batch".to_owned(), None),
        Err(e) => (-32700, "Parse error", e.to_string(), None),
    };
    let error = json!({"code": code, "message": message, "data": data});
    Body::Wrong(json!({"jsonrpc": "2.0", "error": error, "id": id}).to_string())
}

fn request_error(request: &Map<String, Value>) -> Option<&'static str> {
    if request.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
        return Some("jsonrpc is not \"2.0\"");
    }
    if !request.get("method").is_some_and(Value::is_string) {
        return Some("no method");
    }
    match request.get("id") {
        None | Some(Value::Null | Value::String(_)) => None,
        Some(id) if id.is_u64() => None,
        Some(_) => Some("id is neither text nor a whole number from 0"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_53_bad_54_what_is_no_request() {
        let deep = "[".repeat(100_000);
        let deep_object = r#"{"a":"#.repeat(100_000);
        for (body, code) in [
            ("", Some(-32700)),
            ("{", Some(-32700)),
            ("\u{feff}{}", Some(-32700)),
            (deep.as_str(), Some(-32700)),
            (deep_object.as_str(), Some(-32700)),
            (r#"{"a":1e999}"#, Some(-32700)),
            (r#"{"a":"\ud800"}"#, Some(-32700)),
            ("[]", Some(-32600)),
            ("5", Some(-32600)),
            ("null", Some(-32600)),
            (r#""text""#, Some(-32600)),
            ("{}", Some(-32600)),
            (r#"{"jsonrpc":"1.0","id":1,"method":"x"}"#, Some(-32600)),
            (r#"{"jsonrpc":"2.0","id":1,"method":5}"#, Some(-32600)),
            (r#"{"jsonrpc":"2.0","id":-1,"method":"x"}"#, Some(-32600)),
            (r#"{"jsonrpc":"2.0","id":1,"method":"x"}"#, None),
            (r#"{"jsonrpc":"2.0","method":"x"}"#, None),
            ("[1]", None),
        ] {
            let found = match check(body.as_bytes()) {
                Body::Wrong(text) => Some(serde_json::from_str::<Value>(&text).unwrap()),
                Body::Call | Body::Batch(_) => None,
            };
            assert_eq!(
                found.as_ref().map(|e| &e["error"]["code"]),
                code.map(Value::from).as_ref(),
                "{body:.20}"
            );
        }
        assert_eq!(check(b"[1,2]"), Body::Batch(2));
        assert!(matches!(check(b"\"\xff\""), Body::Wrong(text) if text.contains("-32700")));
    }
}
