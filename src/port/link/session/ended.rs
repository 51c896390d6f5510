//! Why a session ended.

use std::io;

use crate::frame::MAX_FRAME;
use crate::port::link::member::Takeover;
use crate::port::link::progress::STUCK;
use crate::ws::header::Violation;

/// Why a session ended.
#[derive(Debug)]
pub enum Ended {
    /// The peer sent a Close with this status code.
    Closed(Option<u16>),
    /// The peer's side of the stream ended without a Close.
    Eof,
    /// The same, over TLS and without close_notify: anybody on the path could have ended it.
    Truncated,
    /// The peer broke the protocol; it was told so.
    Violation(Violation),
    /// A VM announced a frame of so many bytes.
    TooLong(u32),
    /// No data for the time after which an answering peer is dead.
    Silent,
    /// The peer took no byte for 10 s while some waited.
    Stuck,
    /// A fragmented message was never finished.
    Unfinished,
    Broken(io::Error),
    /// Another connection has taken its place.
    Replaced(Takeover),
    /// We closed it, as told.
    Stopped,
}

impl Ended {
    /// Nobody wanted it to end: the path failed, or the far end as a whole.
    pub fn is_loss(&self) -> bool {
        match self {
            Self::Eof | Self::Truncated | Self::Silent | Self::Stuck | Self::Broken(_) => true,
            Self::Replaced(_) => true,
            Self::Closed(_) | Self::Violation(_) | Self::TooLong(_) | Self::Unfinished | Self::Stopped => {
                false
            }
        }
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Closed(Some(code)) => write!(f, "closed by the peer with status {code}"),
            Self::Closed(None) => f.write_str("closed by the peer"),
            Self::Eof => f.write_str("the peer ended the connection"),
            Self::Truncated => f.write_str("the connection ended without TLS close_notify"),
            Self::Violation(violation) => write!(f, "protocol violation: {}", violation.text()),
            Self::TooLong(len) => {
                write!(f, "the peer announced a frame of {len} bytes, more than {MAX_FRAME}")
            }
            Self::Silent => f.write_str("the peer fell silent"),
            Self::Stuck => write!(f, "the peer took no data for {} s", STUCK.as_secs()),
            Self::Unfinished => f.write_str("the peer left a message unfinished"),
            Self::Broken(error) => write!(f, "the connection broke: {error}"),
            Self::Replaced(Takeover::Moved) => f.write_str("left for another connection"),
            Self::Replaced(_) => f.write_str("replaced by another connection"),
            Self::Stopped => f.write_str("closed"),
        }
    }
}
