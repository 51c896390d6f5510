//! The body of a call: what it is, and what its parameters ask for, before any switch is touched.

use etherws::control::api::{self, check};
use etherws::control::rpc::parse;
use etherws::control::rpc_body::{self, Body};
use etherws::frame::bpf::Program;
use etherws::port::spec::{PortKind, PortSpec};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub fn run(data: &[u8]) {
    let json = serde_json::from_slice::<Value>(data);
    match rpc_body::check(data) {
        Body::Wrong(text) => {
            let error: Value = serde_json::from_str(&text).expect("the error is JSON itself");
            let code = if json.is_err() { -32700 } else { -32600 };
            assert_eq!((&error["error"]["code"], &error["jsonrpc"]), (&code.into(), &"2.0".into()));
            assert!(error["id"].is_null() || error["id"].is_string() || error["id"].is_u64());
        }
        Body::Batch(count) => assert_eq!(json.expect("JSON").as_array().map(Vec::len), Some(count)),
        Body::Call => {
            let call = json.expect("JSON");
            assert!(call["jsonrpc"] == "2.0" && call["method"].is_string());
            assert!(call.get("id").is_none_or(|id| id.is_null() || id.is_string() || id.is_u64()));
            parameters(&call.get("params").map(Value::to_string).unwrap_or_else(|| "null".to_owned()));
        }
    }
    if let Ok(text) = std::str::from_utf8(data) {
        parameters(text);
    }
}

/// Whatever the method: the text as the parameters of each.
fn parameters(text: &str) {
    if let Some(spec) = read::<PortSpec>(text)
        && check::check_spec(&spec).is_ok()
    {
        assert!(spec.kind != PortKind::Server);
        assert!(spec.name.as_ref().is_none_or(|name| (1..=check::MAX_PORT_NAME).contains(&name.len())));
        assert!(spec.mtu.is_none_or(|mtu| (check::MIN_MTU..=check::MAX_MTU).contains(&mtu)));
        if matches!(spec.kind, PortKind::Tap | PortKind::Netdev) {
            let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':' | b'%');
            assert!(spec.target.len() <= check::MAX_DEVICE_NAME && spec.target.bytes().all(plain));
            assert!(!matches!(spec.target.as_str(), "" | "." | ".."));
        }
        assert!(!(spec.access.is_some() && (spec.trunk.is_some() || spec.native.is_some())));
    }
    read::<api::SetPort>(text);
    read::<api::SetInterface>(text);
    read::<api::DelPort>(text);
    read::<api::AddFdb>(text);
    read::<api::DelFdb>(text);
    read::<api::prof::LeaseProf>(text);
    read::<api::seeing::TraceFrame>(text);
    read::<api::seeing::PingPort>(text);
    if let Some(capture) = read::<api::seeing::SubscribeCapture>(text)
        && let Some(filter) = capture.filter
    {
        runs(&filter);
    }
}

/// A filter that is taken ends, and says the same of a frame however its bytes lie.
fn runs(filter: &[[u32; 4]]) {
    let Ok(program) = Program::checked(filter) else { return };
    let frame: [u8; 90] = std::array::from_fn(|at| (at * 37 + at / 7) as u8);
    for frame in [&frame[..], &frame[..14], &[]] {
        let wanted = program.run(&[frame]);
        for at in 0..=frame.len() {
            let (front, back) = frame.split_at(at);
            assert_eq!(program.run(&[front, back]), wanted, "cut at {at}");
        }
    }
}

/// What is read is read again from what it is written as; what is not is an error that names the parameters.
fn read<P: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(text: &str) -> Option<P> {
    match parse::<P>(Some(text)) {
        Ok(params) => {
            let again = serde_json::to_string(&params).expect("JSON");
            assert_eq!(parse::<P>(Some(&again)).as_ref().ok(), Some(&params), "{again}");
            Some(params)
        }
        Err(error) => {
            assert!(matches!(error.code(), -32700 | -32602), "{error:?}");
            assert_eq!(error.code() == -32700, serde_json::from_str::<Value>(text).is_err(), "{error:?}");
            None
        }
    }
}
