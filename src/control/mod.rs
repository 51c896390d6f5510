//! How people reach the switch: the JSON-RPC contract, the HTTP listener, authentication.

pub mod api;
pub mod auth;
pub mod http;
pub mod rpc;
pub mod tls;
