//! Time that goes on while the process is down.
//!
//! Deadlines (of messages, sessions and delayed wills) run on the monotonic clock, which ends with the machine, so what
//! is on disk needs the wall clock, which may be stepped. The store counts a time of its own: within a run it follows
//! the monotonic clock, whatever happens to the wall clock; from one run to the next it moves on by what passed on the
//! wall clock since the last batch, and never back. So a device that boots in 1970 and is set right an hour later
//! loses no session, and a clock that is set back makes nothing live longer than it was given.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The two clocks that a store reads, once for each batch.
pub trait Clock: Send + 'static {
    /// Returns the monotonic time that the sessions go by.
    fn now(&self) -> Instant;

    /// Returns the milliseconds since the Unix epoch; 0 before it.
    fn wall_ms(&self) -> u64;
}

/// The clocks of the system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wall_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

/// A moment on the store's own clock, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Moment(pub(crate) u64);

impl Moment {
    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// One moment on both clocks: what translates between them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    pub(crate) instant: Instant,
    pub(crate) moment: Moment,
}

impl Now {
    /// The same moment later on.
    pub(crate) fn at(self, instant: Instant) -> Self {
        let passed = instant.saturating_duration_since(self.instant);
        Self { instant, moment: Moment(self.moment.0.saturating_add(milliseconds(passed))) }
    }

    pub(crate) fn to_moment(self, instant: Instant) -> Moment {
        let left = instant.saturating_duration_since(self.instant);
        // Started milliseconds, so that a deadline never comes early.
        let started = u64::from(!left.subsec_nanos().is_multiple_of(1_000_000));
        Moment(self.moment.0.saturating_add(milliseconds(left)).saturating_add(started))
    }

    /// `None` for a moment that the monotonic clock can't express: it outlives this process.
    pub(crate) fn to_instant(self, moment: Moment) -> Option<Instant> {
        self.instant.checked_add(moment.since(self.moment))
    }
}

pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
