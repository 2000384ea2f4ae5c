//! What the conductor and the threads of a run share: the phase in one direction, the counters in the other.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use super::tally::Counters;
use crate::latency::Latencies;

/// What the whole run is doing. It only goes forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Connect,
    Publish,
    /// Nothing more is published, acknowledgements are waited for.
    Drain,
    Disconnect,
}

/// The phase, as the conductor sets it for all threads.
#[derive(Debug, Default)]
pub(super) struct Baton {
    phase: AtomicU8,
    /// When publishing began, in nanoseconds since the start.
    published_from: AtomicU64,
}

impl Baton {
    pub(super) fn pass(&self, phase: Phase, now: Duration) {
        if phase == Phase::Publish {
            let nanos = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
            self.published_from.store(nanos, Ordering::Relaxed);
        }
        // Release: who sees the phase sees the time that was stored before it.
        self.phase.store(phase as u8, Ordering::Release);
    }

    pub(super) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Connect,
            1 => Phase::Publish,
            2 => Phase::Drain,
            _ => Phase::Disconnect,
        }
    }

    pub(super) fn published_from(&self) -> Duration {
        Duration::from_nanos(self.published_from.load(Ordering::Relaxed))
    }
}

/// What a thread lets be seen while it runs.
#[derive(Debug)]
pub(super) struct Window {
    /// The phase that the thread knows of: its counters are those of this phase.
    pub(super) phase: Phase,
    pub(super) counters: Counters,
    /// The acknowledgements since the conductor last took them.
    pub(super) acknowledged: Latencies,
}

impl Window {
    pub(super) fn new() -> Self {
        Self { phase: Phase::Connect, counters: Counters::default(), acknowledged: Latencies::new() }
    }

    /// Whether the thread sends no more, and waits for nothing.
    pub(super) fn is_drained(&self) -> bool {
        self.phase >= Phase::Drain && self.counters.in_flight == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_only_go_forward_and_carry_their_time() {
        let baton = Baton::default();
        assert_eq!(baton.phase(), Phase::Connect);
        baton.pass(Phase::Publish, Duration::from_secs(3));
        assert_eq!((baton.phase(), baton.published_from()), (Phase::Publish, Duration::from_secs(3)));
        baton.pass(Phase::Disconnect, Duration::from_secs(9));
        assert_eq!((baton.phase(), baton.published_from()), (Phase::Disconnect, Duration::from_secs(3)));
    }
}
