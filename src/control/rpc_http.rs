//! The control path: JSON-RPC over HTTP POST and over WebSocket. jsonrpsee does the calls; what it would
//! answer in another way than JSON-RPC over HTTP asks for is answered here, before it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use jsonrpsee::Methods;
use jsonrpsee::server::{
    BatchRequestConfig, HttpBody, PingConfig, Server, ServerConfig, ServerHandle, stop_channel,
};
use serde_json::{Value, json};
use tokio::time::timeout;
use tower::Service;

use super::auth::{Credentials, Verdict};
use super::connection::Context;
use super::data::{busy, unauthorized};
use super::origin::{self, HostError};
use super::proxied;
use super::reply::{Reply, closing, json, text, with};
use super::rules::Rules;
use super::upgrade;

type Call = dyn Fn(Request<HttpBody>) -> BoxFuture<'static, Reply> + Send + Sync;

/// jsonrpsee with our methods and limits.
pub struct Rpc {
    call: Box<Call>,
    /// Dropping it would end the WebSocket sessions.
    _handle: ServerHandle,
}

impl Rpc {
    pub fn new(methods: Methods) -> Self {
        let (stop, handle) = stop_channel();
        let config = ServerConfig::builder()
            .max_request_body_size(MAX_BODY)
            .max_response_body_size(MAX_RESPONSE)
            .max_connections(MAX_SESSIONS)
            .set_batch_request_config(BatchRequestConfig::Limit(MAX_BATCH))
            .enable_ws_ping(PingConfig::new())
            .set_message_buffer_capacity(MAX_WAITING)
            .build();
        let service = Server::builder().set_config(config).to_service_builder().build(methods, stop);
        let call = move |request| -> BoxFuture<'static, Reply> {
            let reply = service.clone().call(request);
            Box::pin(async move {
                reply.await.unwrap_or_else(|e| text(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))
            })
        };
        Self { call: Box::new(call), _handle: handle }
    }
}

/// Answers a request to control.
pub async fn answer(
    context: &Context,
    rules: &Rules,
    rpc: &Arc<Rpc>,
    mut request: Request<Incoming>,
) -> Reply {
    if let Err(reply) = admit(context, rules, &request).await {
        return reply;
    }
    // Nothing below needs it, and nothing below can log what it has not got.
    request.headers_mut().remove(header::AUTHORIZATION);
    if upgrade::is_wanted(&request) {
        return match upgrade::check(&request) {
            Ok(_) => (rpc.call)(request.map(HttpBody::new)).await,
            Err(reply) => *reply,
        };
    }
    post(rpc, request).await
}

/// Whether a request may control the switch, or read of it what only who controls it may: on TCP only from a
/// host, a page and a person that may.
pub async fn admit<B>(context: &Context, rules: &Rules, request: &Request<B>) -> Result<(), Reply> {
    let (Some(local), Some(tcp)) = (context.local, &rules.settings.control.tcp) else { return Ok(()) };
    let headers = request.headers();
    let trusted = rules.settings.listen.as_ref().map_or(&[][..], |listen| &listen.trusted_proxies);
    let forwarded = proxied::forwarded(headers, context.peer, trusted);
    let refuse = |status, why: &str| {
        context.refused(forwarded.peer, why);
        closing(text(status, why))
    };
    let host = match origin::host(request.uri(), headers) {
        Ok(host) => host,
        Err(HostError::Absent) => return Err(refuse(StatusCode::BAD_REQUEST, "no Host")),
        Err(HostError::Malformed) => {
            return Err(refuse(StatusCode::BAD_REQUEST, "a request has exactly one Host"));
        }
    };
    if !origin::control_host_fits(&host, &tcp.host, local.ip()) {
        return Err(refuse(
            StatusCode::FORBIDDEN,
            "control does not go by this Host; name it with --ctlhost",
        ));
    }
    if !origin::control_origin_fits(headers, &host, forwarded.tls.unwrap_or(context.tls)) {
        return Err(refuse(StatusCode::FORBIDDEN, "control answers no foreign page"));
    }
    match rules.control_gate.admit(&context.shared.hasher, Credentials::of(headers)).await {
        Verdict::Open | Verdict::User(_) | Verdict::Token(_) => Ok(()),
        Verdict::Busy => Err(busy()),
        Verdict::Refused => {
            context.refused(forwarded.peer, "wrong or no credentials for control");
            let reply = unauthorized(true, rules.control_gate.wants_token());
            Err(reply.map(|_| HttpBody::from(how_to_log_in(context, rules))))
        }
    }
}

fn how_to_log_in(context: &Context, rules: &Rules) -> String {
    let way = if rules.wants_token {
        format!(
            "the token in {} as Bearer token, or as password of any user",
            context.shared.token_path(&rules.settings).display()
        )
    } else {
        "a user and password of the file given by --ctlhtpasswd".to_owned()
    };
    format!(
        "control on TCP asks for credentials: {way}. \
         The Unix socket asks for none, nor does a switch started with --ctlanonymous on loopback.\n"
    )
}

async fn post(rpc: &Arc<Rpc>, request: Request<Incoming>) -> Reply {
    if request.method() != Method::POST {
        let reply = text(StatusCode::METHOD_NOT_ALLOWED, "JSON-RPC is POST, or WebSocket");
        return with(closing(reply), header::ALLOW, "POST");
    }
    if !is_json(&request) {
        let reply = text(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the content type is application/json");
        return closing(reply);
    }
    let too_large = || closing(text(StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than 1 MiB"));
    if request.body().size_hint().lower() > u64::from(MAX_BODY) {
        return too_large();
    }
    // RFC 9112, 6.1: what came with Transfer-Encoding is not trusted to have ended where it seems to.
    let close = request.headers().contains_key(header::TRANSFER_ENCODING);
    let (mut parts, body) = request.into_parts();
    let body = match timeout(BODY_TIME, Limited::new(body, MAX_BODY as usize).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(e)) if e.is::<LengthLimitError>() => {
            return too_large();
        }
        Ok(Err(_)) => return closing(text(StatusCode::BAD_REQUEST, "the body is broken")),
        Err(_) => return closing(text(StatusCode::REQUEST_TIMEOUT, "the body did not come within 30 s")),
    };
    let reply = match precheck(&body) {
        Some(error) => json(error),
        None => {
            let body = Bytes::copy_from_slice(body.trim_ascii_start());
            parts.headers.remove(header::TRANSFER_ENCODING);
            parts.headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
            parts.headers.insert(header::CONTENT_LENGTH, body.len().into());
            (rpc.call)(Request::from_parts(parts, HttpBody::new(Full::new(body)))).await
        }
    };
    if close { closing(reply) } else { reply }
}

fn is_json<B>(request: &Request<B>) -> bool {
    let Ok(Some(kind)) = origin::single(request.headers(), &header::CONTENT_TYPE) else { return false };
    let essence = kind.split(';').next().unwrap_or_default().trim();
    ["application/json", "application/json-rpc"].iter().any(|json| essence.eq_ignore_ascii_case(json))
}

/// The error for a body that is no request and no batch. Parsing it whole, with a bounded depth, also refuses
/// numbers and strings that the methods could not read.
fn precheck(body: &[u8]) -> Option<String> {
    let (code, message, data, id) = match serde_json::from_slice::<Value>(body) {
        Ok(Value::Object(request)) => {
            let why = request_error(&request)?;
            let id = request.get("id").filter(|id| id.is_string() || id.is_u64());
            (-32600, "Invalid request", why.to_owned(), id.cloned())
        }
        Ok(Value::Array(items)) if items.is_empty() => {
            (-32600, "Invalid request", "empty batch".to_owned(), None)
        }
        Ok(Value::Array(_)) => return None,
        Ok(_) => (-32600, "Invalid request", "neither an object nor a batch".to_owned(), None),
        Err(e) => (-32700, "Parse error", e.to_string(), None),
    };
    let error = json!({"code": code, "message": message, "data": data});
    Some(json!({"jsonrpc": "2.0", "error": error, "id": id}).to_string())
}

/// What makes an object no request. jsonrpsee calls it a parse error, or takes an odd id for none and says
/// nothing at all.
fn request_error(request: &serde_json::Map<String, Value>) -> Option<&'static str> {
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

const MAX_BODY: u32 = 1 << 20;
/// Everything that lists may be: 8,192 stations are about 1 MiB.
const MAX_RESPONSE: u32 = 64 << 20;
const MAX_BATCH: u32 = 100;
const MAX_SESSIONS: u32 = 256;
/// Messages for a WebSocket session that does not read.
const MAX_WAITING: u32 = 8;
const BODY_TIME: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_53_54_what_is_no_request() {
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
            let error = precheck(body.as_bytes());
            let found = error.map(|text| serde_json::from_str::<Value>(&text).unwrap());
            assert_eq!(
                found.as_ref().map(|e| &e["error"]["code"]),
                code.map(Value::from).as_ref(),
                "{body:.20}"
            );
        }
        assert!(precheck(b"\"\xff\"").is_some_and(|text| text.contains("-32700")));
    }
}
