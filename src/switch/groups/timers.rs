//! How long all of it lasts (RFC 3376 section 8).

use std::time::Duration;

/// How often something is asked before silence counts (RFC 3376 section 8.1).
pub(super) const ROBUSTNESS: u32 = 2;

/// All times that there are, by the one that is chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timers {
    /// Between two questions.
    pub interval: Duration,
}

impl Timers {
    /// The longest that a host may take to answer a question for all groups.
    pub fn response(self) -> Duration {
        (self.interval / 4).min(Duration::from_secs(10))
    }

    /// Between the first questions.
    pub(super) fn startup(self) -> Duration {
        self.interval / 4
    }

    /// How long a host is a member that doesn't say so again.
    pub(super) fn membership(self) -> Duration {
        self.interval * ROBUSTNESS + self.response()
    }

    /// How long somebody else asks whom nobody hears asking.
    pub(super) fn querier(self) -> Duration {
        self.interval * ROBUSTNESS + self.response() / 2
    }

    /// The longest that a host may take to say that it is still there when another one has left.
    pub fn last(self) -> Duration {
        self.response().min(Duration::from_secs(1))
    }

    /// After how long everybody has been asked, and has answered.
    pub(super) fn settle(self) -> Duration {
        self.interval + self.response()
    }
}
