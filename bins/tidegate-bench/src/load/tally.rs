//! What the threads of a run count.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use serde::{Deserialize, Serialize};
use tidegate_ledger::file::Notes;

use crate::latency::Latencies;

/// Counters of a thread, or of all threads together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
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
    /// Deliveries that the messages sent should lead to: one for each subscriber of their topic.
    pub(crate) expected: u64,
    /// PUBLISH packets that came to subscribers.
    pub(crate) delivered: u64,
    /// Those among them whose payload was not what a device publishes.
    pub(crate) corrupt: u64,
    /// Connections that a storm cut.
    pub(crate) cut: u64,
    /// Those among them that came back.
    pub(crate) back: u64,
    /// Attempts to come back that failed, and were followed by another.
    pub(crate) retried: u64,
    /// Messages that are waiting for their acknowledgement now.
    pub(crate) in_flight: u64,
    /// Devices that have nothing left to send, or are gone.
    pub(crate) finished: u64,
}

impl Counters {
    /// Connections that are open and greeted.
    pub(crate) fn online(&self) -> u64 {
        (self.connected + self.back) - (self.lost + self.cut)
    }

    /// Deliveries that did not come.
    pub(crate) fn undelivered(&self) -> u64 {
        self.expected.saturating_sub(self.delivered)
    }

    /// Connections that a storm cut and that did not come back.
    pub(crate) fn away(&self) -> u64 {
        self.cut - self.back
    }

    /// Whether everybody who began was let in and stayed or came back, and every message was acknowledged and
    /// delivered.
    pub(crate) fn is_clean(&self) -> bool {
        let bad = [self.failed, self.lost, self.rejected, self.unacked, self.corrupt];
        self.connected > 0 && bad == [0; 5] && self.undelivered() + self.away() == 0
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
        self.expected += other.expected;
        self.delivered += other.delivered;
        self.corrupt += other.corrupt;
        self.cut += other.cut;
        self.back += other.back;
        self.retried += other.retried;
        self.in_flight += other.in_flight;
        self.finished += other.finished;
    }
}

/// All that a thread counts, or all threads together.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Tally {
    pub(crate) counters: Counters,
    /// From the first SYN to CONNACK.
    pub(crate) connect: Latencies,
    /// From PUBLISH to PUBACK or PUBCOMP.
    pub(crate) acknowledge: Latencies,
    /// From when a message was due to when it was sent: how late the generator itself was.
    pub(crate) behind: Latencies,
    /// From PUBLISH by one device to its arrival at another.
    pub(crate) deliver: Latencies,
    /// From the first SYN to CONNACK, of connections that replace one that a storm cut.
    pub(crate) reconnect: Latencies,
    /// From the storm's beginning to CONNACK.
    pub(crate) back: Latencies,
    /// What the ledger is to be told; `None` without one. Each thread tells its own.
    #[serde(skip)]
    pub(super) notes: Option<Notes>,
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
            deliver: Latencies::new(),
            reconnect: Latencies::new(),
            back: Latencies::new(),
            notes: None,
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
        self.deliver.merge(&other.deliver);
        self.reconnect.merge(&other.reconnect);
        self.back.merge(&other.back);
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
        let clean = Counters {
            connected: 9,
            sent: 9,
            acked: 8,
            skipped: 1,
            cut: 9,
            back: 9,
            retried: 1,
            ..Counters::default()
        };
        assert!(clean.is_clean());
        for unclean in [
            Counters { failed: 1, ..clean },
            Counters { lost: 1, ..clean },
            Counters { rejected: 1, ..clean },
            Counters { unacked: 1, ..clean },
            Counters { expected: 2, delivered: 1, ..clean },
            Counters { expected: 1, delivered: 1, corrupt: 1, ..clean },
            Counters { cut: 2, back: 1, ..clean },
            Counters { connected: 0, ..clean },
        ] {
            assert!(!unclean.is_clean(), "{unclean:?}");
        }
    }
}
