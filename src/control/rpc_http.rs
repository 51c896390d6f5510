//! The control path: JSON-RPC over HTTP POST and over WebSocket. jsonrpsee does the calls; what it would
//! answer in another way than JSON-RPC over HTTP asks for is answered here, before it.

use std::net::SocketAddr;
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
use tokio::time::timeout;
use tower::Service;

use super::auth::{Credentials, Verdict};
use super::connection::Context;
use super::data::{busy, too_many, unauthorized};
use super::origin::{self, Authority, HostError};
use super::proxied;
use super::reply::{Reply, closing, json, text, with};
use super::rpc_body::{self, Body as Checked};
use super::rules::Rules;
use super::settings::Limits;
use super::upgrade;
use crate::port::tally::Event;

type Call = dyn Fn(Request<HttpBody>) -> BoxFuture<'static, Reply> + Send + Sync;

/// jsonrpsee with our methods and limits.
pub struct Rpc {
    call: Box<Call>,
    limits: Limits,
    /// Dropping it would end the WebSocket sessions.
    _handle: ServerHandle,
}

impl Rpc {
    pub fn new(methods: Methods, limits: &Limits) -> Self {
        let (stop, handle) = stop_channel();
        let config = ServerConfig::builder()
            .max_request_body_size(limits.rpc_body)
            .max_response_body_size(MAX_RESPONSE)
            .max_connections(MAX_SESSIONS)
            .set_batch_request_config(BatchRequestConfig::Limit(limits.rpc_batch))
            .max_subscriptions_per_connection(limits.rpc_subscriptions)
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
        Self { call: Box::new(call), limits: *limits, _handle: handle }
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
            Ok(_) => called(context, rpc, request.map(HttpBody::new)).await,
            Err(reply) => *reply,
        };
    }
    post(context, rpc, request).await
}

/// Hands over to jsonrpsee.
async fn called(context: &Context, rpc: &Rpc, request: Request<HttpBody>) -> Reply {
    let reply = (rpc.call)(request).await;
    if reply.status() == StatusCode::TOO_MANY_REQUESTS {
        context.count(Event::CallsAtATime);
    }
    reply
}

/// Whether a request may control the switch, or read of it what only who controls it may: on TCP only from a
/// host, a page and a person that may.
pub async fn admit<B>(context: &Context, rules: &Rules, request: &Request<B>) -> Result<(), Reply> {
    let (Some(local), Some(tcp)) = (context.local, &rules.settings.control.tcp) else { return Ok(()) };
    let headers = request.headers();
    let trusted = rules.settings.listen.as_ref().map_or(&[][..], |listen| &listen.trusted_proxies);
    let forwarded = proxied::forwarded(headers, context.peer, trusted);
    if !context.came_from(rules, forwarded.peer) {
        return Err(too_many("too many connections from your address"));
    }
    let refuse = |status, why: &str, event| {
        context.refused(forwarded.peer, why, event);
        closing(text(status, why))
    };
    let host =
        own_host(request, &[&tcp.host], local, "control does not go by this Host; name it with --ctlhost")
            .map_err(|(status, why)| refuse(status, why, Event::ForeignHost))?;
    if !origin::control_origin_fits(headers, &host, forwarded.tls.unwrap_or(context.tls)) {
        let why = "control answers no foreign page";
        return Err(refuse(StatusCode::FORBIDDEN, why, Event::ForeignOrigin));
    }
    let limit = rules.settings.limits.failed_logins;
    let shown = Credentials::of(headers);
    let login = rules.control_gate.admit(&context.shared.logins, shown, forwarded.peer.ip(), limit);
    let verdict = login.await;
    context.judged(forwarded.peer, &verdict, "control");
    match verdict {
        Verdict::Open | Verdict::User(_) | Verdict::Token(_) => {
            context.let_in();
            Ok(())
        }
        Verdict::Busy => Err(busy()),
        Verdict::TooMany => Err(too_many("too many failed logins from your address")),
        Verdict::Missing | Verdict::Refused => {
            let reply = unauthorized(true, rules.control_gate.wants_token());
            Err(reply.map(|_| HttpBody::from(how_to_log_in(context, rules))))
        }
    }
}

/// The refusal of metrics to who calls the switch by a foreign name: a page may have pointed a name of its own at it.
pub fn foreign_reader<B>(context: &Context, rules: &Rules, request: &Request<B>) -> Option<Reply> {
    let settings = &rules.settings;
    let metrics = settings.metrics.as_ref().map(|at| at.host.as_str());
    let names: Vec<&str> =
        metrics.into_iter().chain(settings.control.tcp.as_ref().map(|tcp| tcp.host.as_str())).collect();
    let foreign = "metrics do not go by this Host; name it with --metrics or --ctlhost";
    let (status, why) = own_host(request, &names, context.local?, foreign).err()?;
    context.refused(context.peer, why, Event::ForeignHost);
    Some(closing(text(status, why)))
}

/// The Host of a request, if it is one of ours: `names`, the address `local`, loopback.
fn own_host<B>(
    request: &Request<B>,
    names: &[&str],
    local: SocketAddr,
    foreign: &'static str,
) -> Result<Authority, (StatusCode, &'static str)> {
    let host = origin::host(request.uri(), request.headers()).map_err(|error| match error {
        HostError::Absent => (StatusCode::BAD_REQUEST, "no Host"),
        HostError::Malformed => (StatusCode::BAD_REQUEST, "a request has exactly one Host"),
    })?;
    match names.iter().any(|name| origin::control_host_fits(&host, name, local.ip())) {
        true => Ok(host),
        false => Err((StatusCode::FORBIDDEN, foreign)),
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

async fn post(context: &Context, rpc: &Rpc, request: Request<Incoming>) -> Reply {
    if request.method() != Method::POST {
        let reply = text(StatusCode::METHOD_NOT_ALLOWED, "JSON-RPC is POST, or WebSocket");
        return with(closing(reply), header::ALLOW, "POST");
    }
    if !is_json(&request) {
        context.count(Event::ContentType);
        let reply = text(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the content type is application/json");
        return closing(reply);
    }
    let most = rpc.limits.rpc_body;
    let too_large = || {
        context.count(Event::BodySize);
        closing(text(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is larger than {most} bytes")))
    };
    if request.body().size_hint().lower() > u64::from(most) {
        return too_large();
    }
    // RFC 9112, 6.1: what came with Transfer-Encoding is not trusted to have ended where it seems to.
    let close = request.headers().contains_key(header::TRANSFER_ENCODING);
    let (mut parts, body) = request.into_parts();
    let body = match timeout(BODY_TIME, Limited::new(body, most as usize).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(e)) if e.is::<LengthLimitError>() => {
            return too_large();
        }
        Ok(Err(_)) => return closing(text(StatusCode::BAD_REQUEST, "the body is broken")),
        Err(_) => {
            context.count(Event::BodyTime);
            return closing(text(StatusCode::REQUEST_TIMEOUT, "the body did not come within 30 s"));
        }
    };
    let reply = match rpc_body::check(&body) {
        Checked::Wrong(error) => {
            context.count(Event::BadCall);
            json(error)
        }
        checked => {
            // jsonrpsee says so.
            if matches!(checked, Checked::Batch(calls) if calls > rpc.limits.rpc_batch as usize) {
                context.count(Event::BatchSize);
            }
            let body = Bytes::copy_from_slice(body.trim_ascii_start());
            parts.headers.remove(header::TRANSFER_ENCODING);
            parts.headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
            parts.headers.insert(header::CONTENT_LENGTH, body.len().into());
            called(context, rpc, Request::from_parts(parts, HttpBody::new(Full::new(body)))).await
        }
    };
    if close { closing(reply) } else { reply }
}

fn is_json<B>(request: &Request<B>) -> bool {
    let Ok(Some(kind)) = origin::single(request.headers(), &header::CONTENT_TYPE) else { return false };
    let essence = kind.split(';').next().unwrap_or_default().trim();
    ["application/json", "application/json-rpc"].iter().any(|json| essence.eq_ignore_ascii_case(json))
}

/// Everything that lists may be: 8,192 stations are about 1 MiB.
const MAX_RESPONSE: u32 = 64 << 20;
const MAX_SESSIONS: u32 = 256;
/// Messages for a WebSocket session that does not read.
const MAX_WAITING: u32 = 8;
const BODY_TIME: Duration = Duration::from_secs(30);
