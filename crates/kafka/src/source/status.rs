//! What a source tells of itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::source::claim::Claim;

/// What a source does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SourceState {
    /// It looks for Kafka, or for the node that coordinates its group.
    Connecting,
    /// It waits for the group to decide who reads what.
    Joining,
    /// It reads the partitions that it was given.
    Reading,
    /// It was closed.
    Closed,
}

impl SourceState {
    /// A name for metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Joining => "joining",
            Self::Reading => "reading",
            Self::Closed => "closed",
        }
    }
}

/// What went wrong, by what helps against it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SourceError {
    /// A node could not be reached, or its answer not be read. Tried again, over a new connection.
    Connection,
    /// A partition moved, or has no leader. Asked who leads it.
    Leadership,
    /// The group's coordinator moved, or is not ready. Looked for again.
    Coordinator,
    /// The group does not know this member any more. It joins anew.
    Membership,
    /// The offset to go on at does not exist any more. Goes on where [`Start`](crate::Start) says.
    OffsetOutOfRange,
    /// A batch that this crate can't read. Tried again at the backoff's cap; the partition stands still meanwhile.
    Unreadable,
    /// Kafka says no, to a topic, the group or a request: authorisation, above all. Tried again at the backoff's cap.
    Refused,
}

impl SourceError {
    pub(crate) const ALL: [Self; 7] = [
        Self::Connection,
        Self::Leadership,
        Self::Coordinator,
        Self::Membership,
        Self::OffsetOutOfRange,
        Self::Unreadable,
        Self::Refused,
    ];

    /// A name for metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Leadership => "leadership",
            Self::Coordinator => "coordinator",
            Self::Membership => "membership",
            Self::OffsetOutOfRange => "offset_out_of_range",
            Self::Unreadable => "unreadable",
            Self::Refused => "refused",
        }
    }
}

/// How a source is. Gauges, and counters since it was started.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SourceStatus {
    /// What it does.
    pub state: SourceState,
    /// What is wrong now, in words for the operator.
    pub problem: Option<String>,
    /// Records fetched.
    pub fetched_records: u64,
    /// Bytes of their keys, values and headers.
    pub fetched_bytes: u64,
    /// Records of which [`Batch::handed_over`](crate::Batch::handed_over) was said.
    pub handed_over: u64,
    /// Commits that Kafka took.
    pub commits: u64,
    /// Generations of the group in which this member was given its partitions.
    pub generations: u64,
    /// Bytes fetched and not handed over, as they are counted against [`SourceConfig::buffer_bytes`](crate::SourceConfig::buffer_bytes).
    pub buffered_bytes: usize,
    /// Errors so far.
    pub errors: Vec<(SourceError, u64)>,
    /// The partitions that it reads now.
    pub partitions: Vec<PartitionStatus>,
}

/// How far a partition is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionStatus {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// The offset that the group has committed.
    pub committed: Option<i64>,
    /// Everything before this offset was handed over.
    pub handed_over: Option<i64>,
    /// The end of the partition, as of the last fetch.
    pub high_watermark: Option<i64>,
}

impl PartitionStatus {
    /// Records between what was handed over and the end, where both are known.
    pub fn lag(&self) -> Option<u64> {
        let (end, done) = self.high_watermark.zip(self.handed_over)?;
        Some(u64::try_from(end.saturating_sub(done)).unwrap_or(0))
    }
}

/// Where a problem is, so that what is solved there does not hide what is wrong elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// The group, and the node that coordinates it.
    Group,
    /// The nodes that lead partitions.
    Nodes,
    Topic(String),
    Partition(Arc<str>, i32),
}

/// Problems that a status shows.
const SHOWN_PROBLEMS: usize = 3;

/// The counters behind a status.
#[derive(Debug)]
pub(crate) struct Meter {
    state: Mutex<SourceState>,
    /// What is wrong now, by where. Bounded by topics and partitions.
    problems: Mutex<BTreeMap<Part, String>>,
    pub(crate) fetched_records: AtomicU64,
    pub(crate) fetched_bytes: AtomicU64,
    pub(crate) handed_over: Arc<AtomicU64>,
    pub(crate) commits: AtomicU64,
    pub(crate) generations: AtomicU64,
    errors: [AtomicU64; SourceError::ALL.len()],
    claims: Mutex<Vec<Arc<Claim>>>,
}

impl Meter {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(SourceState::Connecting),
            problems: Mutex::default(),
            fetched_records: AtomicU64::new(0),
            fetched_bytes: AtomicU64::new(0),
            handed_over: Arc::default(),
            commits: AtomicU64::new(0),
            generations: AtomicU64::new(0),
            errors: Default::default(),
            claims: Mutex::default(),
        }
    }

    pub(crate) fn is(&self, state: SourceState) {
        *self.state.lock() = state;
    }

    pub(crate) fn count(&self, error: SourceError) {
        let index = SourceError::ALL.iter().position(|known| *known == error);
        if let Some(counter) = index.and_then(|index| self.errors.get(index)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts an error and keeps it for the operator. A problem that is new is logged.
    pub(crate) fn problem(&self, group: &str, part: Part, error: SourceError, reason: String) {
        self.count(error);
        let mut problems = self.problems.lock();
        if problems.get(&part) != Some(&reason) {
            tracing::warn!(group, class = error.name(), reason, "source");
            problems.insert(part, reason);
        }
    }

    pub(crate) fn solved(&self, part: &Part) {
        self.problems.lock().remove(part);
    }

    /// Takes note of the partitions that are read from here on. What was wrong with others is not ours any more.
    pub(crate) fn set_claims(&self, claims: &[Arc<Claim>]) {
        *self.claims.lock() = claims.to_vec();
        self.problems.lock().retain(|part, _| !matches!(part, Part::Partition(..)));
    }

    pub(crate) fn status(&self, buffered_bytes: usize) -> SourceStatus {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let errors = SourceError::ALL.into_iter().zip(&self.errors);
        let partition = |claim: &Arc<Claim>| {
            let place = claim.place();
            PartitionStatus {
                topic: Arc::clone(&claim.topic),
                partition: claim.partition,
                committed: place.committed,
                handed_over: place.done,
                high_watermark: place.high_watermark,
            }
        };
        let problems: Vec<_> = self.problems.lock().values().take(SHOWN_PROBLEMS).cloned().collect();
        let problem = (!problems.is_empty()).then(|| problems.join("; "));
        SourceStatus {
            state: *self.state.lock(),
            problem,
            fetched_records: load(&self.fetched_records),
            fetched_bytes: load(&self.fetched_bytes),
            handed_over: load(&self.handed_over),
            commits: load(&self.commits),
            generations: load(&self.generations),
            buffered_bytes,
            errors: errors.map(|(error, counter)| (error, load(counter))).collect(),
            partitions: self.claims.lock().iter().map(partition).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_a_counter_of_its_own() {
        let meter = Meter::new();
        for (times, error) in SourceError::ALL.into_iter().enumerate() {
            (0..times).for_each(|_| meter.count(error));
        }
        let expected: Vec<_> =
            SourceError::ALL.into_iter().enumerate().map(|(times, e)| (e, times as u64)).collect();
        assert_eq!(meter.status(0).errors, expected);
    }
}
