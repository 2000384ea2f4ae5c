//! What Kafka holds against what a ledger says was sent and acknowledged.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;
use thiserror::Error;
use tidegate_kafka::{Config, Fetched, FetchedRecord, ReadError, Reader};
use tidegate_ledger::{Found, Ledger, Report, Verifier, file};

use crate::latency::{Latencies, LatencySummary};
use crate::load::Stamp;

/// How often a partition is asked before its error ends the verification.
const ATTEMPTS: u32 = 5;
/// Between two attempts, and between two looks for records that are still to come.
const PAUSE: Duration = Duration::from_millis(200);

/// What to verify.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) bootstrap: Vec<String>,
    pub(crate) topic: String,
    pub(crate) ledgers: Vec<PathBuf>,
    /// How long acknowledged records may take to appear: a broker may hold them for Kafka.
    pub(crate) wait: Duration,
    pub(crate) duplicates: Duplicates,
}

/// Whether a record may be there more than once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Duplicates {
    Allowed,
    Wrong,
}

/// Why nothing could be verified.
#[derive(Debug, Error)]
pub(crate) enum VerifyError {
    #[error("{}: {source}", path.display())]
    Ledger { path: PathBuf, source: file::ReadError },
    #[error("{} holds publishers that another ledger holds: run them with different --first-id", path.display())]
    SamePublishers { path: PathBuf },
    #[error("cannot read from Kafka: {0}")]
    Kafka(#[from] ReadError),
    #[error("{topic}/{partition} gives nothing at offset {offset}, below its end")]
    Stuck { topic: String, partition: i32, offset: i64 },
    #[error("no runtime: {0}")]
    Runtime(#[from] std::io::Error),
}

/// What was found.
#[derive(Debug, Serialize)]
pub(crate) struct Verification {
    pub(crate) topic: String,
    pub(crate) partitions: usize,
    pub(crate) publishers: usize,
    pub(crate) sent: u64,
    pub(crate) acknowledged: u64,
    /// Records of this run, and what is no message of any.
    pub(crate) found: u64,
    /// Records that were sent before this run began: they are not judged.
    pub(crate) earlier: u64,
    pub(crate) loss: u64,
    pub(crate) phantom: u64,
    pub(crate) duplicates: u64,
    pub(crate) duplicates_allowed: bool,
    pub(crate) reordered: u64,
    pub(crate) corrupt: u64,
    pub(crate) split_keys: u64,
    /// The first few defects, in words.
    pub(crate) examples: Vec<String>,
    /// From PUBLISH to the timestamp of the record, in whole milliseconds.
    pub(crate) timestamp_after: LatencySummary,
    /// Partitions of which the beginning is deleted, with their first offset: what was there counts as lost.
    pub(crate) deleted_before: BTreeMap<i32, i64>,
    /// Every ledger has its end. Where one has not, what was sent last may be missing from it, so that a phantom proves
    /// nothing.
    pub(crate) ledger_complete: bool,
    pub(crate) seconds: f64,
}

impl Verification {
    /// Whether the promise was kept.
    pub(crate) fn is_clean(&self) -> bool {
        let wrong = [self.loss, self.reordered, self.corrupt, self.split_keys];
        let phantom = if self.ledger_complete { self.phantom } else { 0 };
        let duplicates = if self.duplicates_allowed { 0 } else { self.duplicates };
        wrong == [0; 4] && phantom + duplicates == 0
    }
}

/// Reads the whole topic and compares it.
pub(crate) fn verify(question: &Question) -> Result<Verification, VerifyError> {
    let begun = Instant::now();
    let mut ledger = Ledger::new();
    let (mut started_ns, mut complete) = (u64::MAX, true);
    for path in &question.ledgers {
        let mut own = Ledger::new();
        let origin = file::read(path, &mut own)
            .map_err(|source| VerifyError::Ledger { path: path.clone(), source })?;
        if !ledger.join(own) {
            return Err(VerifyError::SamePublishers { path: path.clone() });
        }
        started_ns = started_ns.min(origin.started_ns);
        complete &= origin.complete;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut topic = Topic {
        verifier: Verifier::new(&ledger),
        started_ns,
        earlier: 0,
        timestamp_after: Latencies::new(),
        next: BTreeMap::new(),
        deleted_before: BTreeMap::new(),
    };
    let partitions = runtime.block_on(topic.read(question))?;
    let report = topic.verifier.finish();
    let Report { acknowledged, found, loss, phantom, duplicates, reordered, corrupt, split_keys, examples } =
        report;
    Ok(Verification {
        topic: question.topic.clone(),
        partitions,
        publishers: ledger.publishers(),
        sent: ledger.sent_count(),
        acknowledged,
        found,
        earlier: topic.earlier,
        loss,
        phantom,
        duplicates,
        duplicates_allowed: question.duplicates == Duplicates::Allowed,
        reordered,
        corrupt,
        split_keys,
        examples,
        timestamp_after: topic.timestamp_after.summary(),
        deleted_before: topic.deleted_before,
        ledger_complete: complete,
        seconds: begun.elapsed().as_secs_f64(),
    })
}

/// A topic that is being read.
struct Topic {
    verifier: Verifier<u32>,
    started_ns: u64,
    earlier: u64,
    timestamp_after: Latencies,
    /// By partition, the offset to go on at.
    next: BTreeMap<i32, i64>,
    deleted_before: BTreeMap<i32, i64>,
}

impl Topic {
    /// Reads all partitions to their ends, and again until nothing acknowledged is missing or it has waited long enough.
    /// Returns how many partitions there are.
    async fn read(&mut self, question: &Question) -> Result<usize, VerifyError> {
        let config = Config {
            bootstrap: question.bootstrap.clone(),
            client_id: "tidegate-bench".to_owned(),
            ..Config::default()
        };
        let mut reader = Reader::connect(&config, &question.topic).await?;
        let partitions = reader.partitions();
        let deadline = Instant::now() + question.wait;
        loop {
            for partition in &partitions {
                self.read_partition(&mut reader, &question.topic, *partition).await?;
            }
            if self.verifier.missing() == 0 || Instant::now() >= deadline {
                return Ok(partitions.len());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn read_partition(
        &mut self,
        reader: &mut Reader,
        topic: &str,
        partition: i32,
    ) -> Result<(), VerifyError> {
        let (earliest, latest) = offsets(reader, partition).await?;
        if earliest > 0 {
            self.deleted_before.insert(partition, earliest);
        }
        let mut next = self.next.get(&partition).copied().unwrap_or(0).max(earliest);
        while next < latest {
            let fetched = fetch(reader, partition, next).await?;
            for record in &fetched.records {
                self.take(partition, record);
            }
            if fetched.next_offset <= next {
                return Err(VerifyError::Stuck { topic: topic.to_owned(), partition, offset: next });
            }
            next = fetched.next_offset;
            self.next.insert(partition, next);
        }
        Ok(())
    }

    fn take(&mut self, partition: i32, record: &FetchedRecord) {
        let stamp = record.value.as_deref().and_then(Stamp::read);
        if stamp.is_some_and(|stamp| stamp.sent_ns < self.started_ns) {
            self.earlier += 1;
            return;
        }
        if let Some(stamp) = stamp {
            let written = u64::try_from(record.timestamp_ms).unwrap_or(0).saturating_mul(1_000_000);
            self.timestamp_after.record(Duration::from_nanos(written.saturating_sub(stamp.sent_ns)));
        }
        let message = stamp.map(|stamp| (stamp.publisher, stamp.sequence));
        self.verifier.record(Found { partition, offset: record.offset, key: record.key.as_deref(), message });
    }
}

/// Asks up to [`ATTEMPTS`] times: a leader may just be moving.
async fn offsets(reader: &mut Reader, partition: i32) -> Result<(i64, i64), ReadError> {
    for _ in 1..ATTEMPTS {
        if let Ok(offsets) = reader.offsets(partition).await {
            return Ok(offsets);
        }
        tokio::time::sleep(PAUSE).await;
    }
    reader.offsets(partition).await
}

/// Asks up to [`ATTEMPTS`] times, unless what is there can't be read.
async fn fetch(reader: &mut Reader, partition: i32, offset: i64) -> Result<Fetched, ReadError> {
    for _ in 1..ATTEMPTS {
        match reader.fetch(partition, offset, PAUSE).await {
            Err(error) if !matches!(error, ReadError::Batch { .. }) => tokio::time::sleep(PAUSE).await,
            answer => return answer,
        }
    }
    reader.fetch(partition, offset, PAUSE).await
}

/// The table.
impl fmt::Display for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { topic, partitions, publishers, .. } = self;
        writeln!(f, "topic {topic} with {partitions} partitions against {publishers} publishers\n")?;
        let mut row = |label: &str, value: &dyn fmt::Display| writeln!(f, "  {label:<20} {value}");
        row("sent", &self.sent)?;
        row("acknowledged", &self.acknowledged)?;
        row("found", &self.found)?;
        row("of earlier runs", &self.earlier)?;
        row("loss", &self.loss)?;
        row("phantom", &self.phantom)?;
        let allowed = if self.duplicates_allowed { " (allowed)" } else { "" };
        row("duplicates", &format_args!("{}{allowed}", self.duplicates))?;
        row("reordered", &self.reordered)?;
        row("corrupt", &self.corrupt)?;
        row("split keys", &self.split_keys)?;
        let LatencySummary { p50_us, p99_us, max_us, .. } = self.timestamp_after;
        let millis = [p50_us, p99_us, max_us].map(|us| us / 1000);
        row(
            "Kafka's timestamp",
            &format_args!("{} ms after PUBLISH (p50), {} (p99), {} (max)", millis[0], millis[1], millis[2]),
        )?;
        for example in &self.examples {
            writeln!(f, "    {example}")?;
        }
        for (partition, offset) in &self.deleted_before {
            writeln!(f, "\nPartition {partition} begins at offset {offset}: what was before it is deleted.")?;
        }
        if !self.ledger_complete {
            writeln!(
                f,
                "\nThe ledger has no end, so its run was killed: a phantom may be a message that it had no time to note."
            )?;
        }
        writeln!(f, "\n{}", if self.is_clean() { "as promised" } else { "NOT as promised" })
    }
}
