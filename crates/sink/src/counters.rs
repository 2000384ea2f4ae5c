//! What a feed counts. Plain numbers: whoever exports metrics reads them.

use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use parking_lot::Mutex;

use crate::{Outcome, Rejection};

/// Longest text kept of an error, in bytes: a peer writes part of it.
const LAST_ERROR_BYTES: usize = 512;

/// Counts of one feed. At every moment `offered = delivered + rejected + dead_lettered + dropped + lost + held`.
#[derive(Debug, Default)]
pub struct Counters {
    offered: AtomicU64,
    refused: AtomicU64,
    delivered: AtomicU64,
    rejected: AtomicU64,
    dead_lettered: [AtomicU64; Rejection::ALL.len()],
    dropped: [AtomicU64; DropReason::ALL.len()],
    lost: AtomicU64,
    in_flight: AtomicU64,
    retries: AtomicU64,
    last_error: Mutex<Option<LastError>>,
}

/// Why a feed threw a record away, as its policy says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum DropReason {
    /// The feed was full, and this was the newest.
    FullNewest,
    /// The feed was full, and this was the oldest.
    FullOldest,
}

impl DropReason {
    /// All reasons.
    pub const ALL: [Self; 2] = [Self::FullNewest, Self::FullOldest];

    /// A name for metrics, such as `full_oldest`.
    pub fn name(self) -> &'static str {
        match self {
            Self::FullNewest => "full_newest",
            Self::FullOldest => "full_oldest",
        }
    }
}

/// The last thing that went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastError {
    /// When.
    pub at: SystemTime,
    /// What, without control characters and of bounded length.
    pub text: String,
}

/// [`Counters`] at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CountersSnapshot {
    /// Records taken, or taken over from an earlier process.
    pub offered: u64,
    /// Offers given back because the budget was used up.
    pub refused: u64,
    /// Records that are safe at their destination.
    pub delivered: u64,
    /// Records that the destination refused for good.
    pub rejected: u64,
    /// Records that the destination refused for good and that are kept among the dead letters, by reason.
    pub dead_lettered: BTreeMap<Rejection, u64>,
    /// Records that were thrown away as the policy says, by reason.
    pub dropped: BTreeMap<DropReason, u64>,
    /// Records whose end nobody knows.
    pub lost: u64,
    /// Records taken and not settled, in flight or not.
    pub held: u64,
    /// Records handed to the destination and not answered.
    pub in_flight: u64,
    /// Batches written again after a failure.
    pub retries: u64,
    /// The last thing that went wrong.
    pub last_error: Option<LastError>,
}

impl Counters {
    /// Counts a record taken.
    pub fn offered(&self) {
        self.offered.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts `records` that an earlier process took and left behind: they are held here now.
    pub fn taken_over(&self, records: u64) {
        self.offered.fetch_add(records, Ordering::Relaxed);
    }

    /// Counts an offer given back.
    pub fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts `records` settled with `outcome`.
    pub fn settled(&self, outcome: Outcome, records: u64) {
        let counter = match outcome {
            Outcome::Delivered => &self.delivered,
            Outcome::Rejected(_) => &self.rejected,
            Outcome::Lost => &self.lost,
        };
        counter.fetch_add(records, Ordering::Relaxed);
    }

    /// Counts `records` kept among the dead letters.
    pub fn dead_lettered(&self, reason: Rejection, records: u64) {
        self.dead_lettered[reason.index()].fetch_add(records, Ordering::Relaxed);
    }

    /// Counts `records` thrown away.
    pub fn dropped(&self, reason: DropReason, records: u64) {
        self.dropped[reason as usize].fetch_add(records, Ordering::Relaxed);
    }

    /// Counts `records` handed to the destination.
    pub fn sent(&self, records: u64) {
        self.in_flight.fetch_add(records, Ordering::Relaxed);
    }

    /// Counts `records` answered, or given up on, by the destination.
    pub fn answered(&self, records: u64) {
        self.in_flight.fetch_sub(records, Ordering::Relaxed);
    }

    /// Counts a batch that has to be written again.
    pub fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    /// Remembers what went wrong, shortened and without control characters: a peer may have written it.
    pub fn failed(&self, at: SystemTime, text: &str) {
        let mut kept = String::with_capacity(text.len().min(LAST_ERROR_BYTES));
        for c in text.chars() {
            let c = if c.is_control() { ' ' } else { c };
            if kept.len() + c.len_utf8() > LAST_ERROR_BYTES {
                break;
            }
            kept.push(c);
        }
        *self.last_error.lock() = Some(LastError { at, text: kept });
    }

    /// The counts now. Each is read for itself, so sums can be off by what moves at this moment.
    pub fn snapshot(&self) -> CountersSnapshot {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        // What a record becomes is read before what it was, so that `held` can't be negative.
        let (delivered, rejected, lost) = (read(&self.delivered), read(&self.rejected), read(&self.lost));
        let dead_lettered: BTreeMap<_, _> =
            Rejection::ALL.into_iter().zip(self.dead_lettered.iter().map(read)).collect();
        let dropped: BTreeMap<_, _> =
            DropReason::ALL.into_iter().zip(self.dropped.iter().map(read)).collect();
        let kept_or_dropped = dead_lettered.values().chain(dropped.values()).sum::<u64>();
        let offered = read(&self.offered);
        CountersSnapshot {
            offered,
            refused: read(&self.refused),
            delivered,
            rejected,
            dead_lettered,
            dropped,
            lost,
            held: offered.saturating_sub(delivered + rejected + kept_or_dropped + lost),
            in_flight: read(&self.in_flight),
            retries: read(&self.retries),
            last_error: self.last_error.lock().clone(),
        }
    }
}

impl AddAssign<&Self> for CountersSnapshot {
    /// Adds what another part of the same feed counted; the later error stays.
    fn add_assign(&mut self, other: &Self) {
        self.offered += other.offered;
        self.refused += other.refused;
        self.delivered += other.delivered;
        self.rejected += other.rejected;
        for (reason, records) in &other.dead_lettered {
            *self.dead_lettered.entry(*reason).or_default() += records;
        }
        for (reason, records) in &other.dropped {
            *self.dropped.entry(*reason).or_default() += records;
        }
        self.lost += other.lost;
        self.held += other.held;
        self.in_flight += other.in_flight;
        self.retries += other.retries;
        let at = |error: &Option<LastError>| error.as_ref().map(|error| error.at);
        if at(&other.last_error) > at(&self.last_error) {
            self.last_error.clone_from(&other.last_error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_text_is_bounded_and_has_no_control_characters() {
        let counters = Counters::default();
        counters.failed(SystemTime::UNIX_EPOCH, &format!("a\nb\u{1b}[31m{}", "\u{20ac}".repeat(1000)));
        let text = counters.snapshot().last_error.unwrap().text;
        assert!(text.starts_with("a b [31m") && text.len() <= LAST_ERROR_BYTES);
    }
}
