//! How people reach the switch: the JSON-RPC contract, the HTTP listener, authentication.
//!
//! A connection's way: `door` accepts, `connection` opens it (PROXY header, TLS) and runs HTTP, `data` makes
//! a link of a request, `rpc_http` a call, `metrics` or `dashboard` a page; `origin`, `proxied`, `upgrade`, `auth` decide.

mod anteroom;
pub mod api;
mod auth;
mod bind;
mod connection;
mod cpu_prof;
pub mod dashboard;
mod data;
mod door;
mod events;
mod failures;
mod health;
pub mod htpasswd;
pub mod http;
mod lobby;
mod local;
mod logins;
pub mod metrics;
pub mod openrpc;
mod origin;
pub mod prof;
mod proxied;
mod reply;
pub mod rpc;
pub mod rpc_body;
mod rpc_http;
mod rules;
mod seeing;
pub mod settings;
mod tls;
mod tokens;
mod upgrade;
mod watched;
mod wire;
