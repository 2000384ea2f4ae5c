//! Every record that the log holds, for tests that count.

use bytes::Bytes;

use crate::cluster::Cluster;
use crate::record_batch::{for_each_record, sequence_after};
use crate::{ErrorCode, MiniKafka};

/// One record as it stands in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerRecord {
    /// The partition that it lies in.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its time in milliseconds since 1970.
    pub timestamp_ms: i64,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its value.
    pub value: Option<Bytes>,
    /// Its headers in order; keys may repeat.
    pub headers: Vec<(Bytes, Option<Bytes>)>,
    /// Who wrote it, if an idempotent producer did.
    pub producer: Option<Producer>,
}

/// An idempotent producer's mark on a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Producer {
    /// The producer id.
    pub id: i64,
    /// Its epoch.
    pub epoch: i16,
    /// The sequence number of this record.
    pub sequence: i32,
}

/// A topic's records at one moment, those that were written twice also twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ledger {
    partitions: Vec<Vec<LedgerRecord>>,
}

/// Why there is no ledger.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// There is no such topic.
    #[error("there is no such topic")]
    UnknownTopic,
    /// A batch is compressed, and this crate doesn't decompress.
    #[error("the batch at offset {base_offset} of partition {partition} is compressed")]
    Compressed {
        /// The partition.
        partition: i32,
        /// The offset of the batch's first record.
        base_offset: i64,
    },
    /// A batch can't be read; it was damaged after it was checked.
    #[error("the batch at offset {base_offset} of partition {partition} can't be read")]
    Malformed {
        /// The partition.
        partition: i32,
        /// The offset of the batch's first record.
        base_offset: i64,
    },
    /// The disk failed.
    #[error("the log can't be read")]
    Storage(#[source] ErrorCode),
}

impl Ledger {
    pub(crate) fn read(cluster: &Cluster, topic: &str) -> Result<Self, LedgerError> {
        let topic = cluster.topics.get(topic).ok_or(LedgerError::UnknownTopic)?;
        let mut partitions = Vec::new();
        for partition in &topic.partitions {
            let index = partition.index;
            let mut records = Vec::new();
            let mut failed = None;
            let scanned = partition.with_log(|log| {
                log.scan(log.start_offset(), |header, batch| {
                    let base_offset = header.base_offset;
                    if header.is_compressed() {
                        failed = Some(LedgerError::Compressed { partition: index, base_offset });
                        return true;
                    }
                    let walked = for_each_record(header, batch, |record| {
                        let producer = (header.producer_id >= 0).then(|| Producer {
                            id: header.producer_id,
                            epoch: header.producer_epoch,
                            sequence: sequence_after(header.base_sequence, record.offset_delta),
                        });
                        records.push(LedgerRecord {
                            partition: index,
                            offset: base_offset + i64::from(record.offset_delta),
                            timestamp_ms: record.timestamp,
                            key: record.key,
                            value: record.value,
                            headers: record.headers,
                            producer,
                        });
                        Ok(())
                    });
                    if walked.is_err() {
                        failed = Some(LedgerError::Malformed { partition: index, base_offset });
                    }
                    failed.is_some()
                })
            });
            scanned.map_err(LedgerError::Storage)?;
            if let Some(failed) = failed {
                return Err(failed);
            }
            partitions.push(records);
        }
        Ok(Self { partitions })
    }

    /// How many partitions the topic has.
    pub fn partitions(&self) -> usize {
        self.partitions.len()
    }

    /// The records of one partition in the order of their offsets; none for a partition that isn't there.
    pub fn partition(&self, index: i32) -> &[LedgerRecord] {
        usize::try_from(index).ok().and_then(|index| self.partitions.get(index)).map_or(&[], Vec::as_slice)
    }

    /// All records, partition by partition, in the order of their offsets.
    pub fn iter(&self) -> impl Iterator<Item = &LedgerRecord> {
        self.partitions.iter().flatten()
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.partitions.iter().map(Vec::len).sum()
    }

    /// True when there is no record.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl MiniKafka {
    /// Every record that is in the topic's log now, also those that are not acknowledged or synced yet.
    ///
    /// # Errors
    ///
    /// [`LedgerError`]: no such topic, a compressed batch, or a disk that failed.
    pub fn ledger(&self, topic: &str) -> Result<Ledger, LedgerError> {
        Ledger::read(self.cluster(), topic)
    }
}
