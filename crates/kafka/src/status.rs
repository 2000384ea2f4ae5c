//! What an operator may know: counts, latencies, and which of its parts wait for what.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tidegate_sink::{Counters, CountersSnapshot};
use tracing::{info, warn};

use crate::books::Books;
use crate::error_class::ErrorClass;
use crate::spill::SpillStatus;

/// Upper bounds of the produce latency's buckets, in milliseconds; one more bucket takes what is slower.
pub const LATENCY_BUCKETS_MS: [u64; 12] = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 5000, 30_000];

/// The state of a producer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It has not reached Kafka yet.
    Connecting,
    /// Everything that it is given flows.
    Up,
    /// Something waits, for the reason given: the first of [`Status::problems`].
    Waiting(String),
    /// It was closed.
    Closed,
}

/// A producer at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Whether it flows.
    pub state: State,
    /// Who waits for what: the cluster, a node, a topic or a partition, each with its reason.
    pub problems: Vec<(String, String)>,
    /// What holds up no record and should not stay as it is, each with its remedy: topics that do not carry the promise
    /// that an acknowledgement makes, certificates that have expired.
    pub warnings: Vec<(String, String)>,
    /// Records by how they ended, and the last error.
    pub records: CountersSnapshot,
    /// The same for each source ([`Producer::feed_for`](crate::Producer::feed_for)), by its name; the producer's own is
    /// empty. Here `retries`, `in_flight` and the last error are not told apart.
    pub sources: Vec<(String, CountersSnapshot)>,
    /// Bytes of the memory budget in use.
    pub held_bytes: u64,
    /// Batches that Kafka has taken.
    pub batches: u64,
    /// Bytes of these batches.
    pub batch_bytes: u64,
    /// Produce requests sent.
    pub requests: u64,
    /// From a batch's first write to its success, in [`LATENCY_BUCKETS_MS`], not cumulative.
    pub latency_buckets: [u64; LATENCY_BUCKETS_MS.len() + 1],
    /// Sum of these latencies.
    pub latency_sum: Duration,
    /// Batches that failed and were sent again, by the class of the error.
    pub retries: Vec<(ErrorClass, u64)>,
    /// Batches sent again because their connection was lost before the answer.
    pub connection_losses: u64,
    /// Records sent again under a new producer id although an earlier attempt may have stored them.
    pub possible_duplicates: u64,
    /// How often Kafka asked this producer to slow down.
    pub throttled: u64,
    /// The spill log, where there is one.
    pub spill: Option<SpillStatus>,
}

/// Who has a problem.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    Cluster,
    ProducerId,
    DeadLetters,
    Topic(Arc<str>),
    Partition(Arc<str>, i32),
    Node(i32),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster => write!(f, "cluster"),
            Self::ProducerId => write!(f, "producer id"),
            Self::DeadLetters => write!(f, "dead letters"),
            Self::Topic(name) => write!(f, "topic {name}"),
            Self::Partition(name, index) => write!(f, "partition {name}/{index}"),
            Self::Node(id) => write!(f, "node {id}"),
        }
    }
}

/// What the parts of a producer count and report.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    /// What is counted for all sources together: attempts and errors.
    pub(crate) records: Counters,
    /// What became of records, by source.
    pub(crate) books: Books,
    pub(crate) batches: AtomicU64,
    pub(crate) batch_bytes: AtomicU64,
    pub(crate) requests: AtomicU64,
    latency_buckets: [AtomicU64; LATENCY_BUCKETS_MS.len() + 1],
    latency_sum_us: AtomicU64,
    retries: [AtomicU64; ErrorClass::FAILURES.len()],
    pub(crate) connection_losses: AtomicU64,
    pub(crate) possible_duplicates: AtomicU64,
    pub(crate) throttled: AtomicU64,
    problems: Mutex<BTreeMap<Part, String>>,
    warnings: Mutex<BTreeMap<Part, String>>,
}

impl Meter {
    pub(crate) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    /// Counts a batch that Kafka took after `latency`.
    pub(crate) fn delivered(&self, bytes: usize, latency: Duration) {
        Self::add(&self.batches, 1);
        Self::add(&self.batch_bytes, bytes as u64);
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        Self::add(&self.latency_sum_us, us);
        let bucket = LATENCY_BUCKETS_MS.partition_point(|bound| bound * 1000 < us);
        Self::add(&self.latency_buckets[bucket], 1);
    }

    /// Counts a batch that has to be sent again.
    pub(crate) fn retried(&self, class: ErrorClass) {
        self.records.retried();
        if let Some(index) = class.index() {
            Self::add(&self.retries[index], 1);
        }
    }

    /// Remembers that `part` waits, for `reason`, and logs it when that is new: a repetition says nothing again.
    pub(crate) fn problem(&self, part: Part, reason: &str) {
        self.records.failed(SystemTime::now(), &format!("{part}: {reason}"));
        let mut problems = self.problems.lock();
        if problems.get(&part).is_some_and(|known| known == reason) {
            return;
        }
        warn!(%part, reason, "records wait");
        problems.insert(part, reason.to_owned());
    }

    /// Remembers what should not stay as it is about `part`, and logs it when that is new.
    pub(crate) fn warn(&self, part: Part, warning: Option<String>) {
        let mut warnings = self.warnings.lock();
        if warnings.get(&part) == warning.as_ref() {
            return;
        }
        match warning {
            Some(reason) => {
                warn!(%part, reason, "not as safe as an acknowledgement says");
                warnings.insert(part, reason);
            }
            None => {
                warnings.remove(&part);
            }
        }
    }

    /// Forgets what `part` waited for.
    pub(crate) fn solved(&self, part: &Part) {
        if self.problems.lock().remove(part).is_some() {
            info!(%part, "records flow again");
        }
    }

    pub(crate) fn snapshot(&self, held_bytes: usize, reached: bool, closed: bool) -> Status {
        let list = |map: &Mutex<BTreeMap<Part, String>>| -> Vec<(String, String)> {
            map.lock().iter().map(|(part, reason)| (part.to_string(), reason.clone())).collect()
        };
        let problems = list(&self.problems);
        let state = match problems.first() {
            _ if closed => State::Closed,
            Some((part, reason)) => State::Waiting(format!("{part}: {reason}")),
            None if reached => State::Up,
            None => State::Connecting,
        };
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let sources = self.books.snapshot();
        let mut records = self.records.snapshot();
        for (_, source) in &sources {
            records += source;
        }
        Status {
            state,
            problems,
            warnings: list(&self.warnings),
            records,
            sources,
            held_bytes: held_bytes as u64,
            batches: read(&self.batches),
            batch_bytes: read(&self.batch_bytes),
            requests: read(&self.requests),
            latency_buckets: std::array::from_fn(|index| read(&self.latency_buckets[index])),
            latency_sum: Duration::from_micros(read(&self.latency_sum_us)),
            retries: ErrorClass::FAILURES.into_iter().zip(self.retries.iter().map(read)).collect(),
            connection_losses: read(&self.connection_losses),
            possible_duplicates: read(&self.possible_duplicates),
            throttled: read(&self.throttled),
            spill: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_names_who_waits_until_it_is_solved() {
        let meter = Meter::default();
        assert_eq!(meter.snapshot(0, false, false).state, State::Connecting);
        meter.problem(Part::Topic("plant".into()), "does not exist");
        let waiting = State::Waiting("topic plant: does not exist".to_owned());
        assert_eq!(meter.snapshot(0, true, false).state, waiting);
        meter.solved(&Part::Topic("plant".into()));
        assert_eq!(meter.snapshot(0, true, false).state, State::Up);
        assert_eq!(meter.snapshot(0, true, true).state, State::Closed);
    }

    #[test]
    fn a_latency_counts_in_the_bucket_that_it_fits() {
        let meter = Meter::default();
        for us in [900, 1000, 1001, 40_000_000] {
            meter.delivered(1, Duration::from_micros(us));
        }
        let buckets = meter.snapshot(0, true, false).latency_buckets;
        assert_eq!((buckets[0], buckets[1], buckets[12]), (2, 1, 1));
    }
}
