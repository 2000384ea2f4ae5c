//! A check that the author of a [`Sink`] runs in a test: does it keep the contract which acknowledgements rest on?
//!
//! ```
//! use std::sync::{Arc, Mutex};
//! use tidegate_sink::conformance::{self, Destination};
//! use tidegate_sink::{OwnedRecord, Sink, WriteError, WriteReport};
//!
//! #[derive(Clone, Default)]
//! struct Memory(Arc<Mutex<(Vec<OwnedRecord>, bool)>>);
//!
//! impl Sink for Memory {
//!     async fn write(&mut self, batch: &[OwnedRecord]) -> Result<WriteReport, WriteError> {
//!         let mut there = self.0.lock().unwrap();
//!         if there.1 {
//!             return Err(WriteError::retry("unplugged"));
//!         }
//!         there.0.extend_from_slice(batch);
//!         Ok(WriteReport::default())
//!     }
//! }
//!
//! impl Destination for Memory {
//!     async fn break_down(&mut self) { self.0.lock().unwrap().1 = true }
//!     async fn recover(&mut self) { self.0.lock().unwrap().1 = false }
//!     async fn contents(&mut self) -> Vec<OwnedRecord> { self.0.lock().unwrap().0.clone() }
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! let memory = Memory::default();
//! let report = conformance::check(memory.clone(), memory, "topic").await.unwrap();
//! assert_eq!(report.duplicates, 0);
//! # });
//! ```

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::{
    Ack, BatchLimits, Driver, DriverConfig, Feed, Offer, Outcome, OwnedRecord, Record, Settle, Settled, Sink,
    WriteError, WriteReport,
};

/// Keys among which the records of a check are spread.
const KEYS: usize = 7;
/// Records offered in each of the three phases: healthy, broken down, recovered.
const RECORDS_PER_PHASE: usize = 200;
/// How long a sink may take for a phase.
const PATIENCE: Duration = Duration::from_secs(30);
const LIMITS: BatchLimits = BatchLimits { bytes: 4096, count: 32, linger: Duration::from_millis(1) };

/// The far side of the sink under test, as its author reaches it.
pub trait Destination: Send {
    /// Makes the destination fail: from now on writes must return an error, and never hang for good.
    fn break_down(&mut self) -> impl Future<Output = ()> + Send;
    /// Mends it.
    fn recover(&mut self) -> impl Future<Output = ()> + Send;
    /// All records that are there, in the order of each key.
    fn contents(&mut self) -> impl Future<Output = Vec<OwnedRecord>> + Send;
}

/// What a sink that keeps the contract did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Records acknowledged as delivered; all of them were found.
    pub delivered: usize,
    /// Records found more than once. Not a breach: a sink that can't tell a repetition apart has some after an error.
    pub duplicates: usize,
    /// Records refused: none of those that are offered here is out of the ordinary.
    pub rejected: usize,
    /// Calls of [`Sink::write`].
    pub writes: usize,
}

/// How a sink broke the contract.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Breach {
    /// An empty batch is a success without an effect.
    #[error("an empty batch was not taken: {0}")]
    EmptyBatch(WriteError),
    /// A record was acknowledged and is not there.
    #[error("record {0} was reported as written and is not there")]
    Missing(usize),
    /// A record came back changed: null and empty are different, headers keep their order.
    #[error("record {0} came back changed")]
    Changed(usize),
    /// Two records of one key changed places.
    #[error("record {later} of a key came before record {earlier}")]
    Reordered {
        /// The record that was offered first.
        earlier: usize,
        /// The record that was found first.
        later: usize,
    },
    /// The sink said success while its destination was down.
    #[error("a write succeeded while the destination was down")]
    SucceededWhileDown,
    /// Not all records were settled in time.
    #[error("{0} records were not settled within 30 s")]
    Stuck(usize),
    /// A record was settled as lost although the destination came back.
    #[error("record {0} was lost although the destination came back")]
    Lost(usize),
    /// A report named an index outside of its batch.
    #[error("index {index} was rejected in a batch of {batch}")]
    IndexOutOfBatch {
        /// The index.
        index: usize,
        /// Records in the batch.
        batch: usize,
    },
}

/// Runs `sink` behind a [`Driver`] through a healthy time, a breakdown and a recovery of `destination`, with records for
/// `topic`, and compares what was acknowledged with what is there.
///
/// # Errors
/// The first breach of the contract that was found.
pub async fn check<S: Sink, D: Destination>(
    mut sink: S,
    mut destination: D,
    topic: &str,
) -> Result<Report, Breach> {
    sink.write(&[]).await.map_err(Breach::EmptyBatch)?;

    let seen = Arc::new(Mutex::new(Seen::default()));
    let ledger = Arc::new(Ledger::default());
    let config = DriverConfig { batch: LIMITS, budget_bytes: 1 << 20, ..DriverConfig::default() };
    let driver = Driver::spawn(Observed { sink, seen: Arc::clone(&seen) }, config, &Handle::current());

    offer(&driver, &ledger, topic, 0).await?;
    ledger.wait(RECORDS_PER_PHASE).await?;
    destination.break_down().await;
    let succeeded_before = seen.lock().succeeded;
    offer(&driver, &ledger, topic, RECORDS_PER_PHASE).await?;
    wait_for_failure(&seen).await;
    if seen.lock().succeeded > succeeded_before {
        return Err(Breach::SucceededWhileDown);
    }
    destination.recover().await;
    offer(&driver, &ledger, topic, 2 * RECORDS_PER_PHASE).await?;
    ledger.wait(3 * RECORDS_PER_PHASE).await?;
    driver.close(Instant::now() + PATIENCE).await;

    if let Some(breach) = seen.lock().breach.take() {
        return Err(breach);
    }
    let mut report = compare(&ledger, &destination.contents().await, topic)?;
    report.writes = seen.lock().writes;
    Ok(report)
}

/// What the sink under test was seen doing.
#[derive(Default)]
struct Seen {
    writes: usize,
    succeeded: usize,
    failed: usize,
    breach: Option<Breach>,
}

struct Observed<S> {
    sink: S,
    seen: Arc<Mutex<Seen>>,
}

impl<S: Sink> Sink for Observed<S> {
    async fn write(&mut self, batch: &[OwnedRecord]) -> Result<WriteReport, WriteError> {
        let result = self.sink.write(batch).await;
        let mut seen = self.seen.lock();
        seen.writes += 1;
        match &result {
            Ok(_) => seen.succeeded += 1,
            Err(_) => seen.failed += 1,
        }
        let named = match &result {
            Ok(report) => report.rejected.as_slice(),
            Err(WriteError::Reject { records, .. }) => records.as_slice(),
            Err(_) => &[],
        };
        if let Some(&(index, _)) = named.iter().find(|(index, _)| *index >= batch.len()) {
            seen.breach.get_or_insert(Breach::IndexOutOfBatch { index, batch: batch.len() });
        }
        result
    }
}

#[derive(Default)]
struct Ledger(Mutex<HashMap<u64, Outcome>>);

impl Settle for Ledger {
    fn settle(&self, settled: &[Settled]) {
        self.0.lock().extend(settled.iter().map(|s| (s.token, s.outcome)));
    }
}

impl Ledger {
    async fn wait(&self, records: usize) -> Result<(), Breach> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let settled = self.0.lock().len();
            if settled >= records {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Breach::Stuck(records - settled));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

async fn offer(driver: &Driver, ledger: &Arc<Ledger>, topic: &str, from: usize) -> Result<(), Breach> {
    for index in from..from + RECORDS_PER_PHASE {
        let target: Arc<dyn Settle> = Arc::<Ledger>::clone(ledger);
        let mut ack = Some(Ack::new(target, index as u64));
        while let Offer::Full(again) = with_record(topic, index, |record| driver.offer(record, ack.take())) {
            ack = again;
            driver.flush();
            tokio::time::timeout(PATIENCE, std::future::poll_fn(|cx| driver.poll_room(cx)))
                .await
                .map_err(|_| Breach::Stuck(1))?;
        }
    }
    driver.flush();
    Ok(())
}

async fn wait_for_failure(seen: &Mutex<Seen>) {
    let deadline = Instant::now() + PATIENCE;
    while seen.lock().failed == 0 && seen.lock().breach.is_none() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(1)).await;
        if seen.lock().succeeded > 3 * RECORDS_PER_PHASE {
            break;
        }
    }
}

/// Record `index` of the check: its index is in the value, and every shape of key and header comes up.
fn with_record<R>(topic: &str, index: usize, use_it: impl FnOnce(&Record<'_>) -> R) -> R {
    let key = format!("key-{}", index % KEYS);
    let value = format!("{index} {}", "x".repeat(index % 97));
    let all: [(&str, Option<&[u8]>); 3] = [("a", Some(b"1")), ("empty", Some(b"")), ("a", Some(b"2"))];
    use_it(&Record {
        key: Some(key.as_bytes()),
        value: Some(value.as_bytes()),
        headers: &all[..index % 4],
        timestamp_ms: 1_700_000_000_000 + i64::try_from(index).unwrap_or(0),
        ..Record::new(topic)
    })
}

fn compare(ledger: &Ledger, contents: &[OwnedRecord], topic: &str) -> Result<Report, Breach> {
    let mut first_at: HashMap<usize, usize> = HashMap::new();
    let mut report = Report::default();
    for (position, record) in contents.iter().enumerate() {
        let value = String::from_utf8_lossy(record.value().unwrap_or_default()).into_owned();
        let Some(index) = value.split(' ').next().and_then(|n| n.parse::<usize>().ok()) else { continue };
        if !with_record(topic, index, |offered| record.with_borrowed(|found| same(offered, found))) {
            return Err(Breach::Changed(index));
        }
        match first_at.entry(index) {
            Entry::Occupied(_) => report.duplicates += 1,
            Entry::Vacant(place) => {
                place.insert(position);
            }
        }
    }
    for index in 0..3 * RECORDS_PER_PHASE {
        match ledger.0.lock().get(&(index as u64)) {
            Some(Outcome::Delivered) => report.delivered += 1,
            Some(Outcome::Rejected(_)) => {
                report.rejected += 1;
                continue;
            }
            Some(Outcome::Lost) | None => return Err(Breach::Lost(index)),
        }
        let position = *first_at.get(&index).ok_or(Breach::Missing(index))?;
        if let Some(earlier) = index.checked_sub(KEYS)
            && first_at.get(&earlier).is_some_and(|&before| before > position)
        {
            return Err(Breach::Reordered { earlier, later: index });
        }
    }
    Ok(report)
}

/// A destination may assign a partition of its own; all else comes back as it was.
fn same(offered: &Record<'_>, found: &Record<'_>) -> bool {
    Record { partition: None, ..*offered } == Record { partition: None, ..*found }
}
