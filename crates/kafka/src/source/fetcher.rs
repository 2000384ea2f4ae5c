//! Reads the partitions that one node leads, as far as the buffer has room.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinError;
use tokio::time::Instant;

use crate::connection::{Connection, ConnectionError};
use crate::error_class::{ErrorClass, classify, error_name};
use crate::reader::{Fetched, FetchedRecord, decode_batches, timed};
use crate::source::claim::{Batch, Claim};
use crate::source::status::{Part, SourceError};
use crate::source::{Shared, Start};
use crate::wire::{FetchRequest, FetchedPartition, ListOffsetsRequest};

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const OFFSET_OUT_OF_RANGE: i16 = 1;
/// What a record takes beside its bytes.
const RECORD_OVERHEAD_BYTES: usize = size_of::<FetchedRecord>();

/// Why a fetcher has ended. It never ends in peace: who reads what is decided elsewhere.
#[derive(Debug)]
pub(crate) enum FetchEnd {
    /// The node does not answer.
    Connection(ConnectionError),
    /// The node does not lead a partition any more, or the task broke: begin anew, with whoever leads now.
    Moved(String),
    /// Nobody takes batches any more.
    Closed,
}

impl From<JoinError> for FetchEnd {
    fn from(error: JoinError) -> Self {
        Self::Moved(error.to_string())
    }
}

impl From<ConnectionError> for FetchEnd {
    fn from(error: ConnectionError) -> Self {
        Self::Connection(error)
    }
}

pub(crate) struct Fetcher {
    shared: Arc<Shared>,
    batches: mpsc::Sender<Batch>,
    connection: Connection,
    /// In the order in which they are asked for; the front changes with every fetch, so that each has its turn.
    claims: Vec<Arc<Claim>>,
    /// Partitions that something is in the way of, by their place, and when they are tried again.
    parked: HashMap<(Arc<str>, i32), Instant>,
}

impl Fetcher {
    /// Connects to the node and reads from it until that does not work any more.
    ///
    /// # Cancel safety
    /// What was fetched is buffered or fetched again; nothing is lost between.
    pub(crate) async fn run(
        shared: Arc<Shared>,
        batches: mpsc::Sender<Batch>,
        (host, port): (String, u16),
        claims: Vec<Arc<Claim>>,
    ) -> FetchEnd {
        let connection = match shared.dialer.open(&host, port).await {
            Ok(connection) => connection,
            Err(error) => return error.into(),
        };
        let mut fetcher = Self { shared, batches, connection, claims, parked: HashMap::new() };
        loop {
            if let Err(end) = fetcher.round().await {
                return end;
            }
        }
    }

    async fn round(&mut self) -> Result<(), FetchEnd> {
        let now = Instant::now();
        self.parked.retain(|_, until| *until > now);
        for claim in self.claims.clone() {
            if claim.fetch_at().is_none() && !self.is_parked(&claim) {
                self.begin(&claim).await?;
            }
        }
        let mut topics: Vec<(String, Vec<(i32, i64)>)> = Vec::new();
        for claim in &self.claims {
            let Some(offset) = claim.fetch_at().filter(|_| !self.is_parked(claim)) else { continue };
            match topics.iter_mut().find(|(topic, _)| **topic == *claim.topic) {
                Some((_, partitions)) => partitions.push((claim.partition, offset)),
                None => topics.push((claim.topic.to_string(), vec![(claim.partition, offset)])),
            }
        }
        self.claims.rotate_left(1);
        if topics.is_empty() {
            // At least one is parked, or there would be something to read.
            let until = self.parked.values().min().copied().unwrap_or(now);
            tokio::time::sleep_until(until).await;
            return Ok(());
        }
        let fetch_bytes = self.shared.fetch_bytes();
        let room = self.shared.take_room(fetch_bytes).await.ok_or(FetchEnd::Closed)?;
        let request = FetchRequest {
            topics,
            max_wait_ms: i32::try_from(self.shared.source.fetch_wait.as_millis()).unwrap_or(i32::MAX),
            max_bytes: i32::try_from(fetch_bytes).unwrap_or(i32::MAX),
        };
        let patience = self.shared.config.request_timeout + self.shared.source.fetch_wait;
        let answer = timed(&mut self.connection, &request, patience).await?;
        drop(room);
        self.shared.meter.solved(&Part::Nodes);
        for found in answer.partitions {
            let claim = self
                .claims
                .iter()
                .find(|claim| *claim.topic == *found.topic && claim.partition == found.partition)
                .cloned();
            if let Some(claim) = claim {
                self.take(&claim, found).await?;
            }
        }
        Ok(())
    }

    /// Finds where a partition begins for which the group has committed nothing.
    async fn begin(&mut self, claim: &Arc<Claim>) -> Result<(), FetchEnd> {
        let timestamp = match self.shared.source.start {
            Start::Earliest => EARLIEST,
            Start::Latest => LATEST,
            Start::At { unix_ms } => unix_ms.max(0),
            Start::Committed => {
                let what =
                    "the group has committed no offset, and nothing else was said about where to start";
                self.park(claim, SourceError::OffsetOutOfRange, what);
                return Ok(());
            }
        };
        let mut offset = self.offset(claim, timestamp).await?;
        if offset == Ok(-1) {
            // No record is as young as that.
            offset = self.offset(claim, LATEST).await?;
        }
        match offset {
            Ok(offset) => {
                self.parked.remove(&(Arc::clone(&claim.topic), claim.partition));
                claim.begin_at(offset);
            }
            Err(code) => self.refused(claim, code)?,
        }
        Ok(())
    }

    async fn offset(&mut self, claim: &Claim, timestamp: i64) -> Result<Result<i64, i16>, FetchEnd> {
        let request =
            ListOffsetsRequest { topic: claim.topic.to_string(), partition: claim.partition, timestamp };
        let answer = timed(&mut self.connection, &request, self.shared.config.request_timeout).await?;
        match answer.partitions.first() {
            Some((0, offset)) => Ok(Ok(*offset)),
            Some((code, _)) => Ok(Err(*code)),
            None => Err(self.connection.malformed("offsets of nothing".to_owned()).into()),
        }
    }

    /// Buffers what was fetched of a partition.
    async fn take(&mut self, claim: &Arc<Claim>, found: FetchedPartition) -> Result<(), FetchEnd> {
        if found.error == OFFSET_OUT_OF_RANGE {
            let what = format!("offset {} does not exist any more", claim.fetch_at().unwrap_or(-1));
            self.park(claim, SourceError::OffsetOutOfRange, &what);
            return if self.shared.source.start == Start::Committed {
                Ok(())
            } else {
                self.begin(claim).await
            };
        }
        if found.error != 0 {
            return self.refused(claim, found.error);
        }
        claim.set_high_watermark(found.high_watermark);
        let Some(offset) = claim.fetch_at() else { return Ok(()) };
        let mut fetched =
            Fetched { records: Vec::new(), next_offset: offset, high_watermark: found.high_watermark };
        let decoded = decode_batches(&Bytes::from(found.batches), &mut fetched);
        if decoded.is_ok() {
            self.shared.meter.solved(&Part::Partition(Arc::clone(&claim.topic), claim.partition));
        }
        if let Err((at, what)) = decoded {
            // What stands in front of the batch that can't be read is read.
            fetched.next_offset = at.max(offset);
            fetched.records.retain(|record| record.offset < at);
            self.park(claim, SourceError::Unreadable, &format!("the batch at offset {at}: {what}"));
        }
        // A batch begins where its first record stood, also if that is before what was asked for.
        fetched.records.retain(|record| record.offset >= offset);
        if fetched.next_offset > offset {
            self.buffer(claim, fetched).await?;
        }
        Ok(())
    }

    async fn buffer(&mut self, claim: &Arc<Claim>, fetched: Fetched) -> Result<(), FetchEnd> {
        let Fetched { records, next_offset, .. } = fetched;
        if records.is_empty() {
            // Control records, or what compaction has left: nothing to hand over.
            let number = claim.fetched(next_offset);
            claim.hand_over(number, next_offset);
            return Ok(());
        }
        let bytes: usize = records.iter().map(record_bytes).sum();
        let size = bytes + records.len() * RECORD_OVERHEAD_BYTES;
        let room = self.shared.take_room(size).await.ok_or(FetchEnd::Closed)?;
        let batches = self.batches.clone();
        let place = batches.reserve().await.map_err(|_| FetchEnd::Closed)?;
        // From here on nothing waits, so that what is taken note of is also there.
        let meter = &self.shared.meter;
        meter.fetched_records.fetch_add(records.len() as u64, Ordering::Relaxed);
        meter.fetched_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        let number = claim.fetched(next_offset);
        place.send(Batch::new(Arc::clone(claim), number, records, next_offset, room));
        Ok(())
    }

    fn refused(&mut self, claim: &Arc<Claim>, code: i16) -> Result<(), FetchEnd> {
        if classify(code) == ErrorClass::RetryWithMetadata {
            return Err(FetchEnd::Moved(format!(
                "{}/{}: {}",
                claim.topic,
                claim.partition,
                error_name(code)
            )));
        }
        self.park(claim, SourceError::Refused, &error_name(code));
        Ok(())
    }

    /// Leaves a partition alone for a while.
    fn park(&mut self, claim: &Claim, error: SourceError, what: &str) {
        let reason = format!("{}/{}: {what}", claim.topic, claim.partition);
        let part = Part::Partition(Arc::clone(&claim.topic), claim.partition);
        self.shared.meter.problem(&self.shared.source.group, part, error, reason);
        let until = Instant::now() + self.shared.config.backoff.cap;
        self.parked.insert((Arc::clone(&claim.topic), claim.partition), until);
    }

    fn is_parked(&self, claim: &Claim) -> bool {
        !self.parked.is_empty() && self.parked.contains_key(&(Arc::clone(&claim.topic), claim.partition))
    }
}

fn record_bytes(record: &FetchedRecord) -> usize {
    let blob = |blob: &Option<Bytes>| blob.as_ref().map_or(0, Bytes::len);
    let headers = record.headers.iter().map(|(name, value)| name.len() + blob(value)).sum::<usize>();
    blob(&record.key) + blob(&record.value) + headers
}
