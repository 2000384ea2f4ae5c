//! Record batches (Kafka's message format 2): records encoded once, straight into the bytes that go to the socket.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tidegate_sink::{Ack, Record, prefetch};

use crate::books::{SourceId, Sources};
use crate::checksum;
use crate::compression::{Compression, MAX_UNPACKED_BYTES};
use crate::spill::AckPolicy;

/// Bytes before the first record.
pub(crate) const HEADER_BYTES: usize = 61;
/// The checksum covers everything from here on.
const CRC_FROM: usize = 21;
/// Records are summed in portions of as many bytes: they are still in the cache, and a small batch is summed at once.
const SUMMED_BYTES: usize = 4096;
/// What is fetched ahead for the next record of a batch, at most.
const MAX_PREFETCH_BYTES: usize = 2048;
/// What a record costs beside its bytes: lengths, deltas, and its place in the list of acks.
const RECORD_OVERHEAD_BYTES: usize = 32 + size_of::<Option<Owed>>();

/// Who wrote a batch: Kafka tells repetitions apart by it and the sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProducerIdentity {
    pub(crate) id: i64,
    pub(crate) epoch: i16,
}

/// Who waits for a record, and what for.
#[derive(Debug)]
pub(crate) struct Owed {
    pub(crate) ack: Ack,
    pub(crate) policy: AckPolicy,
}

/// What a record carries beside its content.
#[derive(Debug)]
pub(crate) struct Ticket {
    /// Whose it is.
    pub(crate) source: SourceId,
    /// Who waits for it, if anybody.
    pub(crate) ack: Option<Owed>,
    /// What it holds of the memory budget.
    pub(crate) charged: usize,
}

/// The acks of a batch that stays in memory while the spill log writes a copy of it: whoever is told first, the log or
/// the lane, settles them.
#[derive(Debug)]
pub(crate) struct Lent {
    pub(crate) acks: Vec<Option<Owed>>,
    pub(crate) state: LentState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LentState {
    /// The log has not answered.
    Writing,
    /// The copy is safe; the acks are those of the copy now.
    Safe,
    /// The log did not take it.
    Failed,
    /// The batch took its acks back: the copy is of no use.
    Taken,
}

/// What `record` is charged against the memory budget.
pub(crate) fn budget_bytes(record: &Record<'_>) -> usize {
    record.payload_bytes() - record.topic.len() + 10 * record.headers.len() + RECORD_OVERHEAD_BYTES
}

/// Buffers without content, ready for the next batch.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    bytes: Vec<u8>,
    acks: Vec<Option<Owed>>,
}

impl Buffers {
    /// Bytes that they hold on to.
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity() + self.acks.capacity() * size_of::<Option<Owed>>()
    }
}

/// Makes the bytes of batches as a producer does, without one: so that they can be measured beside other encoders.
#[doc(hidden)]
#[derive(Debug, Default)]
pub struct BatchEncoder(Buffers);

impl BatchEncoder {
    /// Returns the batch of these records, checksum and all, in a buffer that the next one reuses.
    pub fn encode<'r>(&mut self, records: impl IntoIterator<Item = &'r Record<'r>>) -> &[u8] {
        let mut batch = OpenBatch::new(std::mem::take(&mut self.0), Compression::None, Instant::now());
        for record in records {
            let charged = budget_bytes(record);
            batch.push(record, Ticket { source: SourceId::default(), ack: None, charged });
        }
        let mut sealed = batch.seal();
        sealed.stamp(ProducerIdentity { id: 0, epoch: 0 }, 0);
        self.0 = sealed.finish(&mut Vec::new());
        &self.0.bytes
    }
}

/// The checksum of the first records of a batch.
#[derive(Debug, Clone, Copy)]
struct Summed {
    /// The end of these records among the bytes of the batch.
    end: usize,
    crc: u32,
}

impl Summed {
    const NONE: Self = Self { end: HEADER_BYTES, crc: 0 };

    /// Takes in all records of `batch` that are not in it.
    fn add_rest(&mut self, batch: &[u8]) {
        self.crc = crc32c::crc32c_append(self.crc, &batch[self.end..]);
        self.end = batch.len();
    }
}

/// A batch that still takes records.
#[derive(Debug)]
pub(crate) struct OpenBatch {
    bytes: Vec<u8>,
    /// Nothing where the records will be compressed.
    summed: Summed,
    acks: Vec<Option<Owed>>,
    sources: Sources,
    base_timestamp_ms: i64,
    max_timestamp_ms: i64,
    charged: usize,
    compression: Compression,
    opened: Instant,
}

impl OpenBatch {
    pub(crate) fn new(buffers: Buffers, compression: Compression, now: Instant) -> Self {
        let Buffers { mut bytes, mut acks } = buffers;
        bytes.clear();
        bytes.resize(HEADER_BYTES, 0);
        acks.clear();
        let sources = Sources::default();
        Self {
            bytes,
            summed: Summed::NONE,
            acks,
            sources,
            base_timestamp_ms: 0,
            max_timestamp_ms: 0,
            charged: 0,
            compression,
            opened: now,
        }
    }

    /// Encodes `record` at the end.
    pub(crate) fn push(&mut self, record: &Record<'_>, ticket: Ticket) {
        if self.acks.is_empty() {
            self.base_timestamp_ms = record.timestamp_ms;
            self.max_timestamp_ms = record.timestamp_ms;
        }
        self.max_timestamp_ms = self.max_timestamp_ms.max(record.timestamp_ms);
        // Far apart timestamps of one batch would overflow the delta: then the base is what it is compared to, wrapped,
        // and wraps back in the reader's addition.
        let timestamp_delta = record.timestamp_ms.wrapping_sub(self.base_timestamp_ms);
        let offset_delta = self.acks.len() as i64;
        let begin = self.bytes.len();
        encode_record(record, timestamp_delta, offset_delta, &mut self.bytes);
        if self.bytes.len() - self.summed.end >= SUMMED_BYTES && self.compression == Compression::None {
            self.summed.add_rest(&self.bytes);
        }
        // Where memory is cold, the next record would wait for each line that it writes to.
        let next = (self.bytes.len() - begin).min(MAX_PREFETCH_BYTES);
        let room = self.bytes.spare_capacity_mut();
        prefetch(&room[..next.min(room.len())]);
        self.acks.push(ticket.ack);
        self.sources.push(ticket.source, 1);
        self.charged += ticket.charged;
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.acks.is_empty()
    }

    /// Whether there is a record that `is` holds for, by its source and whether somebody waits for it.
    pub(crate) fn has(&self, is: impl Fn(SourceId, bool) -> bool) -> bool {
        has(&self.sources, &self.acks, is)
    }

    pub(crate) fn opened(&self) -> Instant {
        self.opened
    }

    /// Compresses the records, and completes the header but for what [`SealedBatch::stamp`] writes.
    pub(crate) fn seal(self) -> SealedBatch {
        let Self { bytes, acks, base_timestamp_ms, max_timestamp_ms, charged, compression, opened, .. } =
            self;
        let milliseconds = (base_timestamp_ms, max_timestamp_ms);
        let sealed = SealedBatch::new(bytes, acks, compression, milliseconds, charged, opened);
        SealedBatch { summed: self.summed, sources: self.sources, ..sealed }
    }
}

/// A batch that takes no more records. Its bytes do not change from its first attempt to its last, unless it has to be
/// split or gets a new producer id.
#[derive(Debug)]
pub(crate) struct SealedBatch {
    bytes: Vec<u8>,
    summed: Summed,
    /// Empty while they are lent.
    acks: Vec<Option<Owed>>,
    lent: Option<Arc<Mutex<Lent>>>,
    records: usize,
    /// Whose records they are.
    pub(crate) sources: Sources,
    charged: usize,
    /// When its first record was taken in.
    pub(crate) opened: Instant,
    /// Whether it came from the spill log, where it stays until it is settled.
    pub(crate) replayed: bool,
    /// Whether its queue counts it among those in flight that are in no log.
    pub(crate) exposed: bool,
    /// Place of its first record among all that were sent to this partition: orders batches that come back.
    pub(crate) position: u64,
    /// When it was first written to a socket.
    pub(crate) first_sent: Option<Instant>,
    /// Why Kafka does not take it as it is.
    pub(crate) refused: Option<tidegate_sink::Rejection>,
}

impl SealedBatch {
    fn new(
        mut bytes: Vec<u8>,
        acks: Vec<Option<Owed>>,
        compression: Compression,
        (base_ms, max_ms): (i64, i64),
        charged: usize,
        opened: Instant,
    ) -> Self {
        let mut attributes = 0; // create time, no transaction
        if let Some(packed) = compression.pack(&bytes[HEADER_BYTES..]) {
            // Into the same buffer: it is as large as the next batch needs it.
            bytes.truncate(HEADER_BYTES);
            bytes.extend_from_slice(&packed);
            attributes = compression.id();
        }
        let count = i32::try_from(acks.len()).unwrap_or(i32::MAX);
        let length = i32::try_from(bytes.len() - 12).unwrap_or(i32::MAX);
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &0_i64.to_be_bytes()); // base offset: the leader assigns it
        put(8, &length.to_be_bytes());
        put(12, &(-1_i32).to_be_bytes()); // leader epoch: unknown to producers
        put(16, &[2]); // message format
        put(CRC_FROM, &attributes.to_be_bytes());
        put(23, &(count - 1).to_be_bytes());
        put(27, &base_ms.to_be_bytes());
        put(35, &max_ms.to_be_bytes());
        put(57, &count.to_be_bytes());
        let records = acks.len();
        Self {
            bytes,
            summed: Summed::NONE,
            acks,
            lent: None,
            records,
            sources: Sources::default(),
            charged,
            opened,
            replayed: false,
            exposed: false,
            position: 0,
            first_sent: None,
            refused: None,
        }
    }

    /// Writes who sends it with which first sequence, and the checksum over it all.
    pub(crate) fn stamp(&mut self, producer: ProducerIdentity, sequence: i32) {
        self.bytes[43..51].copy_from_slice(&producer.id.to_be_bytes());
        self.bytes[51..53].copy_from_slice(&producer.epoch.to_be_bytes());
        self.bytes[53..57].copy_from_slice(&sequence.to_be_bytes());
        let crc = if self.summed.end == HEADER_BYTES {
            crc32c::crc32c(&self.bytes[CRC_FROM..])
        } else {
            self.summed.add_rest(&self.bytes);
            let header = crc32c::crc32c(&self.bytes[CRC_FROM..HEADER_BYTES]);
            checksum::combine(header, self.summed.crc, self.bytes.len() - HEADER_BYTES)
        };
        self.bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The sequence of its first record, as it was stamped.
    pub(crate) fn sequence(&self) -> i32 {
        i32::from_be_bytes([self.bytes[53], self.bytes[54], self.bytes[55], self.bytes[56]])
    }

    pub(crate) fn records(&self) -> usize {
        self.records
    }

    /// Whether its records are in the spill log, or about to be.
    pub(crate) fn is_spilled(&self) -> bool {
        let lent = || self.lent.as_ref().map(|lent| lent.lock().state);
        self.replayed || matches!(lent(), Some(LentState::Writing | LentState::Safe))
    }

    /// Whether its records will come back if this process ends now.
    pub(crate) fn is_safe(&self) -> bool {
        self.replayed || self.lent.as_ref().is_some_and(|lent| lent.lock().state == LentState::Safe)
    }

    /// Shares its acks with whoever writes a copy of it.
    pub(crate) fn lend(&mut self) -> Arc<Mutex<Lent>> {
        let acks = self.take_acks();
        let lent = Arc::new(Mutex::new(Lent { acks, state: LentState::Writing }));
        self.lent = Some(Arc::clone(&lent));
        lent
    }

    /// Its acks, wherever they are.
    pub(crate) fn take_acks(&mut self) -> Vec<Option<Owed>> {
        let Some(lent) = self.lent.take() else { return std::mem::take(&mut self.acks) };
        let mut lent = lent.lock();
        self.replayed |= lent.state == LentState::Safe;
        lent.state = LentState::Taken;
        std::mem::take(&mut lent.acks)
    }

    /// Whether there is a record that `is` holds for, by its source and whether somebody waits for it.
    pub(crate) fn has(&self, is: impl Fn(SourceId, bool) -> bool) -> bool {
        has(&self.sources, &self.acks, is)
    }

    /// What it holds of the memory budget.
    pub(crate) fn charged(&self) -> usize {
        self.charged
    }

    /// Moves its acks to the end of `acks`, and gives its buffers back empty.
    pub(crate) fn finish(mut self, acks: &mut Vec<Ack>) -> Buffers {
        let mut own = self.take_acks();
        acks.extend(own.drain(..).flatten().map(|owed| owed.ack));
        Buffers { bytes: self.bytes, acks: own }
    }

    /// Two batches with the halves of its records; it needs two records at least.
    pub(crate) fn split(mut self) -> (Self, Self) {
        let mut first_acks = self.take_acks();
        let middle = first_acks.len() / 2;
        let milliseconds = (self.long(27), self.long(35));
        let compression = compression_of(&self.bytes).expect("this crate wrote the attributes");
        let records = unpacked(&self.bytes).expect("what this crate packed, it unpacks");
        let second_acks = first_acks.split_off(middle);
        let second_sources = self.sources.split_off(middle);
        let mut first_bytes = vec![0; HEADER_BYTES];
        let mut second_bytes = vec![0; HEADER_BYTES];
        let mut rest = &records[HEADER_BYTES..];
        for index in 0..first_acks.len() + second_acks.len() {
            let record = take_record(&mut rest);
            let (out, at) =
                if index < middle { (&mut first_bytes, index) } else { (&mut second_bytes, index - middle) };
            copy_record(record, at as i64, out);
        }
        let first_charge = self.charged * (first_bytes.len() - HEADER_BYTES)
            / (first_bytes.len() + second_bytes.len() - 2 * HEADER_BYTES).max(1);
        let opened = self.opened;
        let first = Self {
            position: self.position,
            sources: self.sources,
            first_sent: self.first_sent,
            replayed: self.replayed,
            ..Self::new(first_bytes, first_acks, compression, milliseconds, first_charge, opened)
        };
        let second = Self {
            position: self.position + middle as u64,
            sources: second_sources,
            first_sent: self.first_sent,
            replayed: self.replayed,
            ..Self::new(
                second_bytes,
                second_acks,
                compression,
                milliseconds,
                self.charged - first_charge,
                opened,
            )
        };
        (first, second)
    }

    fn long(&self, at: usize) -> i64 {
        long(&self.bytes, at).unwrap_or(0)
    }
}

fn has(sources: &Sources, acks: &[Option<Owed>], is: impl Fn(SourceId, bool) -> bool) -> bool {
    sources.each().zip(acks).any(|(source, ack)| is(source, ack.is_some()))
}

fn long(bytes: &[u8], at: usize) -> Option<i64> {
    Some(i64::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn compression_of(batch: &[u8]) -> Option<Compression> {
    let attributes = batch.get(CRC_FROM..).and_then(<[u8]>::first_chunk).copied();
    Compression::named_by(attributes.map_or(0, u16::from_be_bytes))
}

/// A batch without its compression; length and checksum stay those of the compressed one.
///
/// # Errors
/// Says what is wrong with its bytes.
pub(crate) fn unpacked(batch: &[u8]) -> Result<Cow<'_, [u8]>, &'static str> {
    let (header, records) = batch.split_at_checked(HEADER_BYTES).ok_or("cut off")?;
    let compression = compression_of(batch).ok_or("an unknown compression")?;
    if compression == Compression::None {
        return Ok(Cow::Borrowed(batch));
    }
    let records = compression.unpack(records, MAX_UNPACKED_BYTES)?;
    Ok(Cow::Owned([header, &records].concat()))
}

/// How many records a batch says that it has.
pub(crate) fn record_count(batch: &[u8]) -> usize {
    let count = batch.get(57..).and_then(<[u8]>::first_chunk).copied().map_or(0, i32::from_be_bytes);
    usize::try_from(count).unwrap_or(0)
}

/// Decodes the records of a batch that this module wrote and that is [`unpacked`], in order. Says how many there were.
pub(crate) fn for_each_record(batch: &[u8], topic: &str, mut each: impl FnMut(usize, &Record<'_>)) -> usize {
    let base_ms = long(batch, 27).unwrap_or(0);
    let mut rest = batch.get(HEADER_BYTES..).unwrap_or_default();
    let mut count = 0;
    while count < record_count(batch) && !rest.is_empty() {
        let mut record = take_record(&mut rest).get(1..).unwrap_or_default();
        let timestamp_ms = base_ms.wrapping_add(take_varint(&mut record));
        take_varint(&mut record); // offset delta
        let (key, value) = (take_blob(&mut record), take_blob(&mut record));
        let headers: Vec<(&str, Option<&[u8]>)> = (0..take_varint(&mut record))
            .map_while(|_| {
                let name = std::str::from_utf8(take_blob(&mut record)?).ok()?;
                Some((name, take_blob(&mut record)))
            })
            .collect();
        each(count, &Record { key, value, headers: &headers, timestamp_ms, ..Record::new(topic) });
        count += 1;
    }
    count
}

/// The sequence that follows `records` records from `sequence` on: it wraps to zero, never to a negative number.
pub(crate) fn advance_sequence(sequence: i32, records: usize) -> i32 {
    ((i64::from(sequence) + records as i64) & 0x7fff_ffff) as i32
}

/// The sequence `records` records before `sequence`.
pub(crate) fn retreat_sequence(sequence: i32, records: usize) -> i32 {
    ((i64::from(sequence) - records as i64) & 0x7fff_ffff) as i32
}

fn encode_record(record: &Record<'_>, timestamp_delta: i64, offset_delta: i64, out: &mut Vec<u8>) {
    let blob_len =
        |blob: Option<&[u8]>| varint_len(blob.map_or(-1, |b| b.len() as i64)) + blob.map_or(0, <[u8]>::len);
    let headers_len: usize =
        record.headers.iter().map(|(name, value)| blob_len(Some(name.as_bytes())) + blob_len(*value)).sum();
    let body = 1
        + varint_len(timestamp_delta)
        + varint_len(offset_delta)
        + blob_len(record.key)
        + blob_len(record.value)
        + varint_len(record.headers.len() as i64)
        + headers_len;
    out.reserve(body + varint_len(body as i64));
    put_varint(body as i64, out);
    out.push(0); // attributes
    put_varint(timestamp_delta, out);
    put_varint(offset_delta, out);
    put_blob(record.key, out);
    put_blob(record.value, out);
    put_varint(record.headers.len() as i64, out);
    for (name, value) in record.headers {
        put_blob(Some(name.as_bytes()), out);
        put_blob(*value, out);
    }
}

fn put_blob(blob: Option<&[u8]>, out: &mut Vec<u8>) {
    match blob {
        Some(blob) => {
            put_varint(blob.len() as i64, out);
            out.extend_from_slice(blob);
        }
        None => put_varint(-1, out),
    }
}

/// Zigzag, seven bits a byte, lowest first.
pub(crate) fn put_varint(value: i64, out: &mut Vec<u8>) {
    let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while rest >= 0x80 {
        out.push((rest as u8) | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn varint_len(value: i64) -> usize {
    let zigzag = ((value << 1) ^ (value >> 63)).cast_unsigned();
    (64 - (zigzag | 1).leading_zeros() as usize).div_ceil(7)
}

/// Reads a varint that this module wrote; the end of input reads as zero.
pub(crate) fn take_varint(input: &mut &[u8]) -> i64 {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let Some((&byte, rest)) = input.split_first() else { break };
        *input = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}

fn take_blob<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(take_varint(input)).ok()?.min(input.len());
    let (blob, rest) = input.split_at(length);
    *input = rest;
    Some(blob)
}

/// Takes one record, without its length, off a batch that this module wrote.
fn take_record<'a>(input: &mut &'a [u8]) -> &'a [u8] {
    let length = usize::try_from(take_varint(input)).unwrap_or(0).min(input.len());
    let (record, rest) = input.split_at(length);
    *input = rest;
    record
}

/// Copies a record with another offset delta.
fn copy_record(record: &[u8], offset_delta: i64, out: &mut Vec<u8>) {
    let mut rest = record.get(1..).unwrap_or_default();
    let timestamp_delta = take_varint(&mut rest);
    take_varint(&mut rest);
    let body = 1 + varint_len(timestamp_delta) + varint_len(offset_delta) + rest.len();
    put_varint(body as i64, out);
    out.push(0);
    put_varint(timestamp_delta, out);
    put_varint(offset_delta, out);
    out.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PRODUCER: ProducerIdentity = ProducerIdentity { id: 0x0102_0304_0506_0708, epoch: 9 };

    fn ticket(charged: usize) -> Ticket {
        Ticket { source: SourceId::default(), ack: None, charged }
    }

    fn batch_of(records: &[Record<'_>], compression: Compression) -> SealedBatch {
        let mut open = OpenBatch::new(Buffers::default(), compression, Instant::now());
        for record in records {
            open.push(record, ticket(budget_bytes(record)));
        }
        open.seal()
    }

    #[test]
    fn a_batch_has_the_bytes_that_the_format_says() {
        let headers: [(&str, Option<&[u8]>); 2] = [("h", Some(b"1")), ("n", None)];
        let first = Record {
            key: Some(b"k"),
            value: Some(b"vv"),
            headers: &headers,
            timestamp_ms: 1000,
            ..Record::new("t")
        };
        let second = Record { timestamp_ms: 936, ..Record::new("t") };
        let mut batch = batch_of(&[first, second], Compression::None);
        batch.stamp(PRODUCER, 77);
        let records = [
            // length 16 (zigzag 32), attributes, timestamp delta 0, offset delta 0
            &[32, 0, 0, 0, 2, b'k', 4, b'v', b'v', 4, 2, b'h', 2, b'1', 2, b'n', 1][..],
            // length 6 (zigzag 12): timestamp delta -64 (zigzag 127), offset delta 1, null key, null value, no headers
            &[12, 0, 127, 2, 1, 1, 0],
        ]
        .concat();
        let mut expected = Vec::new();
        expected.extend_from_slice(&0_i64.to_be_bytes());
        expected.extend_from_slice(&(49 + i32::try_from(records.len()).unwrap()).to_be_bytes());
        expected.extend_from_slice(&(-1_i32).to_be_bytes());
        expected.push(2);
        expected.extend_from_slice(&[0; 4]); // checksum
        expected.extend_from_slice(&0_i16.to_be_bytes());
        expected.extend_from_slice(&1_i32.to_be_bytes());
        expected.extend_from_slice(&1000_i64.to_be_bytes());
        expected.extend_from_slice(&1000_i64.to_be_bytes());
        expected.extend_from_slice(&PRODUCER.id.to_be_bytes());
        expected.extend_from_slice(&9_i16.to_be_bytes());
        expected.extend_from_slice(&77_i32.to_be_bytes());
        expected.extend_from_slice(&2_i32.to_be_bytes());
        expected.extend_from_slice(&records);
        let crc = crc32c::crc32c(&expected[21..]);
        expected[17..21].copy_from_slice(&crc.to_be_bytes());
        assert_eq!(batch.bytes(), expected);
        assert_eq!(batch.sequence(), 77);
    }

    #[test]
    fn the_checksum_is_that_of_all_bytes_however_often_a_batch_is_stamped() {
        let value: Vec<u8> = (0..3000_u32).map(|n| (n * n / 8) as u8).collect();
        for compression in [Compression::None, Compression::Lz4] {
            for (records, bytes) in [(1, 0), (1, 3000), (2, 3000), (3, 2000), (900, 8), (300, 1000)] {
                let record = Record { value: Some(&value[..bytes]), ..Record::new("t") };
                let mut batch = batch_of(&vec![record; records], compression);
                for sequence in [0, 77] {
                    batch.stamp(PRODUCER, sequence);
                    let crc = crc32c::crc32c(&batch.bytes()[CRC_FROM..]);
                    assert_eq!(batch.bytes()[17..21], crc.to_be_bytes(), "{records} of {bytes} bytes");
                }
            }
        }
    }

    #[test]
    fn a_sequence_wraps_to_zero_and_back() {
        assert_eq!(advance_sequence(i32::MAX, 1), 0);
        assert_eq!(advance_sequence(i32::MAX - 2, 5), 2);
        assert_eq!(retreat_sequence(2, 5), i32::MAX - 2);
    }

    #[test]
    fn a_record_is_charged_at_least_what_it_takes() {
        let headers: [(&str, Option<&[u8]>); 2] = [("name", Some(&[1; 300])), ("n", None)];
        let record = Record {
            key: Some(&[1; 70]),
            value: Some(&[2; 9000]),
            headers: &headers,
            ..Record::new("topic")
        };
        let mut open = OpenBatch::new(Buffers::default(), Compression::None, Instant::now());
        let before = open.bytes();
        open.push(&record, ticket(budget_bytes(&record)));
        assert!(open.bytes() - before + size_of::<Option<Owed>>() <= budget_bytes(&record));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]
        #[test]
        fn halves_hold_the_same_records_in_order(
            values in proptest::collection::vec((proptest::option::of(proptest::collection::vec(any::<u8>(), 0..200)), any::<i64>()), 2..300),
            compression in proptest::sample::select(vec![
                Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd,
            ]),
        ) {
            let records: Vec<Record<'_>> = values
                .iter()
                .map(|(value, ms)| Record { value: value.as_deref(), timestamp_ms: *ms, ..Record::new("t") })
                .collect();
            let whole = batch_of(&records, compression);
            let (charged, count) = (whole.charged(), whole.records());
            let (first, second) = whole.split();
            prop_assert_eq!(first.charged() + second.charged(), charged);
            prop_assert_eq!(first.records() + second.records(), count);
            prop_assert_eq!((first.sources.records(), second.sources.records()), (first.records(), second.records()));
            prop_assert_eq!(second.position, first.records() as u64);
            let mut found = Vec::new();
            for mut half in [first, second] {
                half.stamp(PRODUCER, 0);
                found.extend(crate::reader::decode_for_test(half.bytes()));
            }
            let offered: Vec<_> = records.iter().map(|r| (r.value.map(<[u8]>::to_vec), r.timestamp_ms)).collect();
            prop_assert_eq!(found, offered);
        }
    }
}
