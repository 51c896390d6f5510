//! The data path: the request that becomes a link, or why it does not.

use std::net::SocketAddr;

use http::{HeaderMap, Method, Request, StatusCode, header};
use zeroize::Zeroizing;

use super::auth::{Credentials, Verdict};
use super::connection::Context;
use super::origin;
use super::proxied;
use super::reply::{Reply, closing, text, with};
use super::rules::Rules;
use super::settings::{ListenSettings, Who};
use super::upgrade;
use crate::port::Profile;
use crate::port::resumable::{Linked, Whose};
use crate::port::spec::Congestion;
use crate::port::tally::Event;
use crate::ws::handshake;
use crate::ws::joining::{Asked, Malformed};

/// A request that may become a link.
pub struct Accepted {
    /// The 101 in full.
    pub reply: Zeroizing<String>,
    pub peer: SocketAddr,
    pub user: Option<String>,
    pub profile: Option<Profile>,
    pub ping: Option<std::time::Duration>,
    /// The 101 says `etherws.vnet1`.
    pub vnet: bool,
    pub congestion: Congestion,
    /// What it is to a link that others may join.
    pub linked: Option<Linked>,
    /// A web page's.
    pub browser: bool,
}

/// Looks at everything in the order: is it a WebSocket, from a page that may, by someone that may.
pub async fn answer<B>(
    context: &Context,
    rules: &Rules,
    listen: &ListenSettings,
    request: &Request<B>,
) -> Result<Accepted, Reply> {
    let headers = request.headers();
    let forwarded = proxied::forwarded(headers, context.peer, &listen.trusted_proxies);
    let peer = forwarded.peer;
    if !context.came_from(rules, peer) {
        return Err(too_many("too many connections from your address"));
    }
    if !upgrade::is_wanted(request) {
        return Err(page(request.method(), context.tls));
    }
    let none = |reply| {
        context.count(Event::Handshake);
        reply
    };
    let key = upgrade::check(request).map_err(|reply| none(*reply))?;
    let own = origin::host(request.uri(), headers)
        .map_err(|_| none(text(StatusCode::BAD_REQUEST, "a request has exactly one Host")))?;
    let host = forwarded.host.unwrap_or(own);
    if !origin::data_origin_fits(headers, &host, forwarded.tls.unwrap_or(context.tls), &listen.origins) {
        let shown = headers.get(header::ORIGIN).map_or(&[][..], |value| value.as_bytes());
        let shown = shown[..shown.len().min(MAX_SHOWN)].escape_ascii();
        context.refused(peer, &format!("foreign origin {shown}"), Event::ForeignOrigin);
        return Err(text(StatusCode::FORBIDDEN, "this origin is not let in; see --origin"));
    }
    let limit = rules.settings.limits.failed_logins;
    let shown = credentials(headers, request.uri().query());
    let verdict = rules.data_gate.admit(&context.shared.logins, shown, peer.ip(), limit).await;
    context.judged(peer, &verdict, "a link");
    if verdict.lets_in() {
        context.let_in();
    }
    let who = match verdict {
        Verdict::Open => None,
        Verdict::User(name) => Some(Who::User(name)),
        Verdict::Token(name) => Some(Who::Token(name)),
        Verdict::Missing | Verdict::Refused => {
            return Err(unauthorized(rules.data_gate.wants_password(), rules.data_gate.wants_token()));
        }
        Verdict::Busy => return Err(busy()),
        Verdict::TooMany => return Err(too_many("too many failed logins from your address")),
    };
    let certificate = context.certificate.as_deref();
    let profile = rules.profile(who.as_ref(), certificate);
    let user = match who {
        Some(Who::User(name) | Who::Token(name) | Who::Certificate(name)) => Some(name),
        None => certificate.map(str::to_owned),
    };
    let protocol = handshake::choose(headers, listen.offload);
    let vnet = protocol == Some(handshake::SUPER);
    let whose = Whose { user: user.clone(), profile: profile.clone(), vnet };
    let linked = linked(context, rules, listen, (headers, key), peer, whose).map_err(|reply| *reply)?;
    let said = linked.as_ref().map(Linked::told);
    let reply = upgrade::switching(key, protocol, said.as_deref().map(String::as_str));
    let own = profile.as_ref().and_then(|profile| profile.congestion.clone());
    let congestion = own.unwrap_or_else(|| listen.congestion.clone());
    let browser = origin::is_browser(headers);
    Ok(Accepted { reply, peer, user, profile, ping: listen.ping, vnet, congestion, linked, browser })
}

/// What a connection is to be to its link; by now it is known whose it is.
fn linked(
    context: &Context,
    rules: &Rules,
    listen: &ListenSettings,
    (headers, key): (&HeaderMap, &str),
    peer: SocketAddr,
    whose: Whose,
) -> Result<Option<Linked>, Box<Reply>> {
    let links = &context.shared.links();
    match Asked::of(headers) {
        Ok(None) => Ok(None),
        Ok(Some(Asked::New { members })) => {
            let members = members.clamp(1, rules.settings.limits.link_connections);
            if members == 1 && listen.resume.is_zero() {
                return Ok(None);
            }
            // Without randomness there is one connection.
            Ok(links.offer(whose, members, listen.resume).ok().map(Linked::New))
        }
        Ok(Some(Asked::Join(join))) => match links.judge(&join, key, &whose) {
            Ok(link) => Ok(Some(Linked::Joins { link, which: join.which, live: join.live })),
            Err(refusal) => {
                context.refused(peer, refusal.text(), refusal.event());
                let status = if refusal.is_gone() { StatusCode::GONE } else { StatusCode::CONFLICT };
                Err(Box::new(text(status, refusal.told())))
            }
        },
        Err(Malformed) => {
            context.refused(peer, "says of its link what makes no sense", Event::JoinMalformed);
            Err(Box::new(text(StatusCode::BAD_REQUEST, "an Etherws-Link that makes no sense")))
        }
    }
}

/// The header wins; the query is for browsers, which cannot set one.
fn credentials(headers: &HeaderMap, query: Option<&str>) -> Credentials {
    match Credentials::of(headers) {
        Credentials::Nothing => query.map_or(Credentials::Nothing, Credentials::of_query),
        other => other,
    }
}

/// What a person with a browser sees.
fn page(method: &Method, tls: bool) -> Reply {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return with(text(StatusCode::METHOD_NOT_ALLOWED, "GET alone"), header::ALLOW, "GET, HEAD");
    }
    let also = if tls { "; TLS works" } else { "" };
    let page = format!("this is an etherws switch{also}\nIts ports are reached by WebSocket.");
    let reply = with(text(StatusCode::UPGRADE_REQUIRED, page), header::UPGRADE, "websocket");
    with(reply, header::CONNECTION, "upgrade")
}

pub fn unauthorized(password: bool, token: bool) -> Reply {
    let mut reply = text(StatusCode::UNAUTHORIZED, "credentials are wrong or missing");
    if password {
        reply = with(reply, header::WWW_AUTHENTICATE, "Basic realm=\"etherws\", charset=\"UTF-8\"");
    }
    if token {
        reply = with(reply, header::WWW_AUTHENTICATE, "Bearer realm=\"etherws\"");
    }
    closing(reply)
}

pub fn busy() -> Reply {
    let reply = text(StatusCode::SERVICE_UNAVAILABLE, "too many logins are waiting; try again");
    with(closing(reply), header::RETRY_AFTER, "2")
}

/// RFC 6585, 4.
pub fn too_many(why: &str) -> Reply {
    let reply = text(StatusCode::TOO_MANY_REQUESTS, format!("{why}; try again later"));
    with(closing(reply), header::RETRY_AFTER, "10")
}

/// How much of what a stranger sent goes to the log.
const MAX_SHOWN: usize = 100;
