//! WebSocket (RFC 6455) as bytes: mask, header, text, codec, opening handshake. Pure: no socket, no clock.

pub mod codec;
pub mod handshake;
pub mod header;
pub mod joining;
pub mod mask;
pub mod utf8;
