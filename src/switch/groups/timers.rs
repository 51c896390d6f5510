//! How long all of it lasts (RFC 3376 section 8).

use std::time::Duration;

use crate::frame::group::Query;

/// How often something is asked before silence counts (RFC 3376 section 8.1).
pub(super) const ROBUSTNESS: u32 = 2;

/// Between two questions.
const LONGEST: Duration = Duration::from_secs(3_600);

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

    /// How long there is a router that doesn't say when it will be heard again.
    pub(super) fn router(self) -> Duration {
        self.interval * ROBUSTNESS + self.response() / 2
    }

    /// How long somebody else asks, and is a router, who is not heard again: by what he says himself, else by our own
    /// interval (RFC 3376 section 8.5, RFC 3810 section 9.5). Not so short that it would be over before we may ask, and never
    /// longer than with the longest interval that we could be given.
    pub(super) fn querier(self, query: &Query) -> Duration {
        let interval = query.interval.unwrap_or(self.interval).min(LONGEST);
        let until_sure = interval * query.robustness.unwrap_or(ROBUSTNESS);
        (until_sure + query.response / 2).max(self.startup()).min(Self { interval: LONGEST }.router())
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
