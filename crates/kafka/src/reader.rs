//! Reads a partition from an offset on: for looking at what was written, in tests and on the command line.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rskafka::protocol::messages::{MetadataRequest, MetadataRequestTopic};
use rskafka::protocol::primitives::{Boolean, Int16, String_};
use thiserror::Error;

use crate::compression::{Compression, MAX_UNPACKED_BYTES, TOO_LARGE};
use crate::config::{Config, host_port};
use crate::connection::{Connection, ConnectionError, Dialer};
use crate::error_class::error_name;
use crate::wire::{FetchRequest, ListOffsetsRequest};

/// Bytes asked for with one fetch; a larger batch comes whole all the same.
const FETCH_BYTES: i32 = 4 * 1024 * 1024;
const EARLIEST: i64 = -2;
const LATEST: i64 = -1;

/// Reads one topic. One request at a time; after an error the connection is made anew.
#[derive(Debug)]
pub struct Reader {
    dialer: Dialer,
    bootstrap: Vec<String>,
    topic: String,
    request_timeout: Duration,
    leaders: HashMap<i32, (String, u16)>,
    connections: HashMap<(String, u16), Connection>,
}

/// A record as it lies in Kafka.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedRecord {
    /// Its offset in the partition.
    pub offset: i64,
    /// Milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// `None` is null.
    pub key: Option<Bytes>,
    /// `None` is null.
    pub value: Option<Bytes>,
    /// In order; a name may repeat; a value may be null.
    pub headers: Vec<(String, Option<Bytes>)>,
}

/// What one fetch brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Records from the offset on; empty when there are none yet.
    pub records: Vec<FetchedRecord>,
    /// Where to go on: the offset after the last batch, whose records need not all be visible.
    pub next_offset: i64,
    /// The offset after the last record that all in-sync replicas have.
    pub high_watermark: i64,
}

/// Why something could not be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The node could not be reached or understood.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// Kafka said no.
    #[error("{topic}/{partition}: {}", error_name(*code))]
    Kafka {
        /// The topic.
        topic: String,
        /// The partition, -1 for the topic as a whole.
        partition: i32,
        /// Kafka's error code.
        code: i16,
    },
    /// The partition does not exist or has no leader.
    #[error("{topic}/{partition} has no leader")]
    NoLeader {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
    },
    /// A batch that this crate can't read: of an old format, damaged, or too large without its compression.
    #[error("{topic}/{partition} at offset {offset}: {what}")]
    Batch {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The batch's first offset.
        offset: i64,
        /// What is in the way.
        what: &'static str,
    },
}

impl Reader {
    /// A reader of `topic`; only the fields of `config` that concern connections are used.
    ///
    /// # Errors
    /// When no node answers, or the topic does not exist.
    pub async fn connect(config: &Config, topic: &str) -> Result<Self, ReadError> {
        let mut reader = Self {
            dialer: Dialer {
                connect: Arc::clone(&config.connect),
                sasl: config.sasl.clone(),
                client_id: config.client_id.as_str().into(),
                timeout: config.connect_timeout,
            },
            bootstrap: config.bootstrap.clone(),
            topic: topic.to_owned(),
            request_timeout: config.request_timeout,
            leaders: HashMap::new(),
            connections: HashMap::new(),
        };
        reader.learn().await?;
        Ok(reader)
    }

    /// The topic's partitions, in order.
    pub fn partitions(&self) -> Vec<i32> {
        let mut partitions: Vec<i32> = self.leaders.keys().copied().collect();
        partitions.sort_unstable();
        partitions
    }

    /// The first offset that `partition` holds and the one that the next record gets.
    ///
    /// # Errors
    /// When its leader does not answer or says no.
    pub async fn offsets(&mut self, partition: i32) -> Result<(i64, i64), ReadError> {
        let earliest = self.offset(partition, EARLIEST).await?;
        let latest = self.offset(partition, LATEST).await?;
        Ok((earliest, latest))
    }

    /// Records of `partition` from `offset` on, waiting for up to `max_wait` for the first one.
    ///
    /// # Errors
    /// When its leader does not answer or says no, or a batch can't be read. The next call asks who leads it.
    ///
    /// # Cancel safety
    /// Nothing is lost: the next call asks for what its offset says, over a new connection.
    pub async fn fetch(
        &mut self,
        partition: i32,
        offset: i64,
        max_wait: Duration,
    ) -> Result<Fetched, ReadError> {
        let request = FetchRequest {
            topics: vec![(self.topic.clone(), vec![(partition, offset)])],
            max_wait_ms: i32::try_from(max_wait.as_millis()).unwrap_or(i32::MAX),
            max_bytes: FETCH_BYTES,
        };
        let answer = self.ask(partition, &request, max_wait).await?;
        let Some(found) = answer.partitions.into_iter().next() else {
            return Err(ReadError::NoLeader { topic: self.topic.clone(), partition });
        };
        self.check(partition, found.error).await?;
        let mut fetched =
            Fetched { records: Vec::new(), next_offset: offset, high_watermark: found.high_watermark };
        let batches = Bytes::from(found.batches);
        decode_batches(&batches, &mut fetched).map_err(|(offset, what)| ReadError::Batch {
            topic: self.topic.clone(),
            partition,
            offset,
            what,
        })?;
        fetched.records.retain(|record| record.offset >= offset);
        Ok(fetched)
    }

    async fn offset(&mut self, partition: i32, timestamp: i64) -> Result<i64, ReadError> {
        let request = ListOffsetsRequest { topic: self.topic.clone(), partition, timestamp };
        let answer = self.ask(partition, &request, Duration::ZERO).await?;
        let Some(&(code, offset)) = answer.partitions.first() else {
            return Err(ReadError::NoLeader { topic: self.topic.clone(), partition });
        };
        self.check(partition, code).await?;
        Ok(offset)
    }

    /// Turns an error code into an error, and asks who leads what for the next call.
    async fn check(&mut self, partition: i32, code: i16) -> Result<(), ReadError> {
        if code == 0 {
            return Ok(());
        }
        self.learn().await?;
        Err(ReadError::Kafka { topic: self.topic.clone(), partition, code })
    }

    /// Sends `request` to the leader of `partition`.
    async fn ask<R>(
        &mut self,
        partition: i32,
        request: &R,
        extra: Duration,
    ) -> Result<R::ResponseBody, ReadError>
    where
        R: rskafka::protocol::messages::RequestBody
            + rskafka::protocol::messages::WriteVersionedType<Vec<u8>>,
        R::ResponseBody: rskafka::protocol::messages::ReadVersionedType<std::io::Cursor<Vec<u8>>>,
    {
        if !self.leaders.contains_key(&partition) {
            self.learn().await?;
        }
        let Some(leader) = self.leaders.get(&partition).cloned() else {
            return Err(ReadError::NoLeader { topic: self.topic.clone(), partition });
        };
        // Taken out for the time of the call: if that fails or is cancelled, the next one opens another.
        let mut connection = match self.connections.remove(&leader) {
            Some(connection) => connection,
            None => self.dialer.open(&leader.0, leader.1).await?,
        };
        let answer = timed(&mut connection, request, self.request_timeout + extra).await;
        match answer {
            Ok(answer) => {
                self.connections.insert(leader, connection);
                Ok(answer)
            }
            Err(error) => {
                self.leaders.clear();
                Err(error.into())
            }
        }
    }

    /// Asks who leads which partition, the first node that answers.
    async fn learn(&mut self) -> Result<(), ReadError> {
        let request = MetadataRequest {
            topics: Some(vec![MetadataRequestTopic { name: String_(self.topic.clone()) }]),
            allow_auto_topic_creation: Some(Boolean(false)),
        };
        let mut last = None;
        for address in &self.bootstrap {
            let (host, port) = host_port(address);
            let asked = async {
                let mut connection = self.dialer.open(&host, port).await?;
                timed(&mut connection, &request, self.request_timeout).await
            };
            let answer = match asked.await {
                Ok(answer) => answer,
                Err(error) => {
                    last = Some(error);
                    continue;
                }
            };
            let nodes: HashMap<i32, (String, u16)> = answer
                .brokers
                .into_iter()
                .filter_map(|node| Some((node.node_id.0, (node.host.0, u16::try_from(node.port.0).ok()?))))
                .collect();
            let no_topic = ReadError::NoLeader { topic: self.topic.clone(), partition: -1 };
            let found = answer.topics.into_iter().next().ok_or(no_topic)?;
            let code = Int16::from(found.error).0;
            if code != 0 {
                return Err(ReadError::Kafka { topic: self.topic.clone(), partition: -1, code });
            }
            self.leaders = found
                .partitions
                .iter()
                .filter_map(|p| Some((p.partition_index.0, nodes.get(&p.leader_id.0)?.clone())))
                .collect();
            return Ok(());
        }
        Err(last.map_or_else(
            || ReadError::NoLeader { topic: self.topic.clone(), partition: -1 },
            ReadError::Connection,
        ))
    }
}

/// Calls with a time limit. A call that was cancelled or ran out of time leaves its answer behind: drop the connection.
pub(crate) async fn timed<R>(
    connection: &mut Connection,
    request: &R,
    after: Duration,
) -> Result<R::ResponseBody, ConnectionError>
where
    R: rskafka::protocol::messages::RequestBody + rskafka::protocol::messages::WriteVersionedType<Vec<u8>>,
    R::ResponseBody: rskafka::protocol::messages::ReadVersionedType<std::io::Cursor<Vec<u8>>>,
{
    let address = connection.address().to_owned();
    tokio::time::timeout(after, connection.call(request)).await.unwrap_or(Err(ConnectionError::Timeout {
        address,
        what: "a request",
        after,
    }))
}

/// Decodes whole batches; the last one of a fetch may be cut off, and is left for the next.
pub(crate) fn decode_batches(batches: &Bytes, fetched: &mut Fetched) -> Result<(), (i64, &'static str)> {
    let mut rest = batches.clone();
    let mut room = MAX_UNPACKED_BYTES;
    while rest.len() > 12 {
        let base_offset = long(&rest, 0).unwrap_or(0);
        let bad = |what| (base_offset, what);
        let length = int(&rest, 8).and_then(|n| usize::try_from(n).ok()).ok_or(bad("impossible length"))?;
        if rest.len() < 12 + length {
            break;
        }
        let batch = rest.split_to(12 + length);
        if batch.get(16) != Some(&2) {
            return Err(bad("an old message format"));
        }
        let crc = int(&batch, 17).ok_or(bad("cut off"))?;
        if crc32c::crc32c(batch.get(21..).unwrap_or_default()) != crc.cast_unsigned() {
            return Err(bad("checksum mismatch"));
        }
        let attributes = batch.get(21..23).map_or(0, |a| u16::from_be_bytes([a[0], a[1]]));
        let next_offset = base_offset + i64::from(int(&batch, 23).ok_or(bad("cut off"))?) + 1;
        if attributes & 0x20 != 0 {
            fetched.next_offset = next_offset;
            continue; // control records are not for clients
        }
        let records = batch.slice(61.min(batch.len())..);
        let records = match Compression::named_by(attributes).ok_or(bad("an unknown compression"))? {
            Compression::None => records,
            compression => match compression.unpack(&records, room) {
                Ok(unpacked) => Bytes::from(unpacked),
                // Alone in a fetch it may fit.
                Err(TOO_LARGE) if !fetched.records.is_empty() => break,
                Err(what) => return Err(bad(what)),
            },
        };
        room = room.saturating_sub(records.len());
        fetched.next_offset = next_offset;
        let base_timestamp = long(&batch, 27).ok_or(bad("cut off"))?;
        let count = int(&batch, 57).ok_or(bad("cut off"))?;
        let mut body = Input { bytes: records };
        for _ in 0..count {
            let record = body.record(base_offset, base_timestamp).ok_or(bad("malformed record"))?;
            fetched.records.push(record);
        }
    }
    Ok(())
}

fn long(bytes: &[u8], at: usize) -> Option<i64> {
    bytes.get(at..)?.first_chunk::<8>().map(|b| i64::from_be_bytes(*b))
}

fn int(bytes: &[u8], at: usize) -> Option<i32> {
    bytes.get(at..)?.first_chunk::<4>().map(|b| i32::from_be_bytes(*b))
}

/// The records of a batch, of which none is trusted.
struct Input {
    bytes: Bytes,
}

impl Input {
    fn record(&mut self, base_offset: i64, base_timestamp: i64) -> Option<FetchedRecord> {
        let length = usize::try_from(self.varint()?).ok()?;
        let mut record = Self { bytes: self.take(length)? };
        record.take(1)?; // attributes
        let timestamp_ms = base_timestamp.wrapping_add(record.varint()?);
        let offset = base_offset.wrapping_add(record.varint()?);
        let key = record.blob()?;
        let value = record.blob()?;
        let mut headers = Vec::new();
        for _ in 0..record.varint()? {
            let name = record.blob()??;
            headers.push((String::from_utf8_lossy(&name).into_owned(), record.blob()?));
        }
        Some(FetchedRecord { offset, timestamp_ms, key, value, headers })
    }

    fn take(&mut self, length: usize) -> Option<Bytes> {
        (length <= self.bytes.len()).then(|| self.bytes.split_to(length))
    }

    /// A blob, or null as the inner `None`.
    #[expect(clippy::option_option, reason = "malformed, null, and there: three things that differ")]
    fn blob(&mut self) -> Option<Option<Bytes>> {
        match self.varint()? {
            -1 => Some(None),
            length => self.take(usize::try_from(length).ok()?).map(Some),
        }
    }

    fn varint(&mut self) -> Option<i64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.take(1)?.first()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some((value >> 1).cast_signed() ^ -((value & 1).cast_signed()));
            }
        }
        None
    }
}

/// Values and timestamps of one batch, decoded as a reader does.
#[cfg(test)]
pub(crate) fn decode_for_test(batch: &[u8]) -> Vec<(Option<Vec<u8>>, i64)> {
    let mut fetched = Fetched { records: Vec::new(), next_offset: 0, high_watermark: 0 };
    decode_batches(&Bytes::copy_from_slice(batch), &mut fetched).expect("our own batch is well-formed");
    for (index, record) in fetched.records.iter().enumerate() {
        assert_eq!(record.offset, index as i64, "offsets count up from the batch's base");
    }
    fetched
        .records
        .into_iter()
        .map(|record| (record.value.map(|v| v.to_vec()), record.timestamp_ms))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn no_bytes_of_a_node_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut fetched = Fetched { records: Vec::new(), next_offset: 0, high_watermark: 0 };
            let _ = decode_batches(&Bytes::from(bytes.clone()), &mut fetched);
            // As the records of a batch whose checksum is right.
            let mut input = Input { bytes: Bytes::from(bytes) };
            while input.record(0, 0).is_some() {}
        }
    }
}
