//! What the conductor and the threads of a run share: the phase in one direction, the counters in the other, and among
//! the threads how many deliveries are on their way.

use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::tally::Counters;
use crate::latency::Latencies;

/// What the whole run is doing. It only goes forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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
    /// Deliveries that were caused and have not come. Counted only where their number sets the pace.
    on_their_way: AtomicI64,
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

    pub(super) fn on_their_way(&self) -> i64 {
        self.on_their_way.load(Ordering::Relaxed)
    }

    /// Counts deliveries that were caused (above zero) or came (below).
    pub(super) fn add_on_their_way(&self, deliveries: i64) {
        self.on_their_way.fetch_add(deliveries, Ordering::Relaxed);
    }

    /// Waits no longer for the deliveries on their way, if they are still as many.
    pub(super) fn give_up_on(&self, deliveries: i64) {
        let _ = self.on_their_way.compare_exchange(deliveries, 0, Ordering::Relaxed, Ordering::Relaxed);
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
    /// The latencies that the run is about, since the conductor last took them.
    pub(super) latencies: Latencies,
}

impl Window {
    pub(super) fn new() -> Self {
        Self { phase: Phase::Connect, counters: Counters::default(), latencies: Latencies::new() }
    }

    /// Whether the thread sends no more, and waits for no acknowledgement.
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
