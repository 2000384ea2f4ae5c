//! What the threads of a run count.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use serde::Serialize;

use crate::latency::Latencies;

/// Counters of a thread, or of all threads together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub(crate) struct Counters {
    /// Connections begun.
    pub(crate) attempted: u64,
    /// CONNACKs that said success.
    pub(crate) connected: u64,
    /// Connections that did not get there.
    pub(crate) failed: u64,
    /// Connections that ended before we said DISCONNECT.
    pub(crate) lost: u64,
    /// PUBLISH packets.
    pub(crate) sent: u64,
    /// Messages whose PUBACK, or PUBCOMP at QoS 2, said success.
    pub(crate) acked: u64,
    /// Messages whose acknowledgement carried an error (5.0).
    pub(crate) rejected: u64,
    /// Messages of connections that were lost, and of those that were still waiting at the end.
    pub(crate) unacked: u64,
    /// Messages that were not sent in their turn, because the window was full or the socket took no more.
    pub(crate) skipped: u64,
    /// PINGREQs.
    pub(crate) pings: u64,
    /// Messages that are waiting for their acknowledgement now.
    pub(crate) in_flight: u64,
    /// Devices that have nothing left to send, or are gone.
    pub(crate) finished: u64,
}

impl Counters {
    /// Connections that are open and greeted.
    pub(crate) fn online(&self) -> u64 {
        self.connected - self.lost
    }

    /// Whether everybody who began was let in and stayed, and every message was acknowledged.
    pub(crate) fn is_clean(&self) -> bool {
        self.connected > 0 && self.failed + self.lost + self.rejected + self.unacked == 0
    }
}

impl AddAssign for Counters {
    fn add_assign(&mut self, other: Self) {
        self.attempted += other.attempted;
        self.connected += other.connected;
        self.failed += other.failed;
        self.lost += other.lost;
        self.sent += other.sent;
        self.acked += other.acked;
        self.rejected += other.rejected;
        self.unacked += other.unacked;
        self.skipped += other.skipped;
        self.pings += other.pings;
        self.in_flight += other.in_flight;
        self.finished += other.finished;
    }
}

/// All that a thread counts, or all threads together.
#[derive(Debug, Clone)]
pub(crate) struct Tally {
    pub(crate) counters: Counters,
    /// From the first SYN to CONNACK.
    pub(crate) connect: Latencies,
    /// From PUBLISH to PUBACK or PUBCOMP.
    pub(crate) acknowledge: Latencies,
    /// From when a message was due to when it was sent: how late the generator itself was.
    pub(crate) behind: Latencies,
    /// How often what went wrong. Its keys come from fixed sets (kinds of error, reason codes), so it stays small.
    pub(crate) troubles: BTreeMap<String, u64>,
}

impl Tally {
    pub(crate) fn new() -> Self {
        Self {
            counters: Counters::default(),
            connect: Latencies::new(),
            acknowledge: Latencies::new(),
            behind: Latencies::new(),
            troubles: BTreeMap::new(),
        }
    }

    /// Counts something that went wrong.
    pub(super) fn count_trouble(&mut self, trouble: String) {
        *self.troubles.entry(trouble).or_default() += 1;
    }

    /// Counts what `other` counted.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.counters += other.counters;
        self.connect.merge(&other.connect);
        self.acknowledge.merge(&other.acknowledge);
        self.behind.merge(&other.behind);
        for (trouble, count) in &other.troubles {
            *self.troubles.entry(trouble.clone()).or_default() += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failure_of_any_kind_makes_a_run_unclean() {
        let clean = Counters { connected: 9, sent: 9, acked: 8, skipped: 1, ..Counters::default() };
        assert!(clean.is_clean());
        for unclean in [
            Counters { failed: 1, ..clean },
            Counters { lost: 1, ..clean },
            Counters { rejected: 1, ..clean },
            Counters { unacked: 1, ..clean },
            Counters { connected: 0, ..clean },
        ] {
            assert!(!unclean.is_clean(), "{unclean:?}");
        }
    }
}
