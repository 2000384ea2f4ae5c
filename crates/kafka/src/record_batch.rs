//! Record batches (Kafka's message format 2): records encoded once, straight into the bytes that go to the socket.

use std::time::Instant;

use tidegate_sink::{Ack, Record};

/// Bytes before the first record.
pub(crate) const HEADER_BYTES: usize = 61;
/// The checksum covers everything from here on.
const CRC_FROM: usize = 21;
/// What a record costs beside its bytes: lengths, deltas, and its place in the list of acks.
const RECORD_OVERHEAD_BYTES: usize = 32 + size_of::<Option<Ack>>();

/// Who wrote a batch: Kafka tells repetitions apart by it and the sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProducerIdentity {
    pub(crate) id: i64,
    pub(crate) epoch: i16,
}

/// What `record` is charged against the memory budget.
pub(crate) fn budget_bytes(record: &Record<'_>) -> usize {
    record.payload_bytes() - record.topic.len() + 10 * record.headers.len() + RECORD_OVERHEAD_BYTES
}

/// Buffers without content, ready for the next batch.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    bytes: Vec<u8>,
    acks: Vec<Option<Ack>>,
}

impl Buffers {
    /// Bytes that they hold on to.
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity() + self.acks.capacity() * size_of::<Option<Ack>>()
    }
}

/// A batch that still takes records.
#[derive(Debug)]
pub(crate) struct OpenBatch {
    bytes: Vec<u8>,
    acks: Vec<Option<Ack>>,
    base_timestamp_ms: i64,
    max_timestamp_ms: i64,
    charged: usize,
    opened: Instant,
}

impl OpenBatch {
    pub(crate) fn new(buffers: Buffers, now: Instant) -> Self {
        let Buffers { mut bytes, mut acks } = buffers;
        bytes.clear();
        bytes.resize(HEADER_BYTES, 0);
        acks.clear();
        Self { bytes, acks, base_timestamp_ms: 0, max_timestamp_ms: 0, charged: 0, opened: now }
    }

    /// Encodes `record` at the end.
    pub(crate) fn push(&mut self, record: &Record<'_>, ack: Option<Ack>, charged: usize) {
        if self.acks.is_empty() {
            self.base_timestamp_ms = record.timestamp_ms;
            self.max_timestamp_ms = record.timestamp_ms;
        }
        self.max_timestamp_ms = self.max_timestamp_ms.max(record.timestamp_ms);
        // Far apart timestamps of one batch would overflow the delta: then the base is what it is compared to, wrapped,
        // and wraps back in the reader's addition.
        let timestamp_delta = record.timestamp_ms.wrapping_sub(self.base_timestamp_ms);
        let offset_delta = self.acks.len() as i64;
        encode_record(record, timestamp_delta, offset_delta, &mut self.bytes);
        self.acks.push(ack);
        self.charged += charged;
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn opened(&self) -> Instant {
        self.opened
    }

    /// Completes the header but for what [`SealedBatch::stamp`] writes.
    pub(crate) fn seal(self) -> SealedBatch {
        let Self { bytes, acks, base_timestamp_ms, max_timestamp_ms, charged, .. } = self;
        SealedBatch::new(bytes, acks, base_timestamp_ms, max_timestamp_ms, charged)
    }
}

/// A batch that takes no more records. Its bytes do not change from its first attempt to its last, unless it has to be
/// split or gets a new producer id.
#[derive(Debug)]
pub(crate) struct SealedBatch {
    bytes: Vec<u8>,
    acks: Vec<Option<Ack>>,
    charged: usize,
    /// Place of its first record among all that were sent to this partition: orders batches that come back.
    pub(crate) position: u64,
    /// When it was first written to a socket.
    pub(crate) first_sent: Option<Instant>,
    /// Why Kafka does not take it as it is.
    pub(crate) refused: Option<tidegate_sink::Rejection>,
}

impl SealedBatch {
    fn new(mut bytes: Vec<u8>, acks: Vec<Option<Ack>>, base_ms: i64, max_ms: i64, charged: usize) -> Self {
        let count = i32::try_from(acks.len()).unwrap_or(i32::MAX);
        let length = i32::try_from(bytes.len() - 12).unwrap_or(i32::MAX);
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &0_i64.to_be_bytes()); // base offset: the leader assigns it
        put(8, &length.to_be_bytes());
        put(12, &(-1_i32).to_be_bytes()); // leader epoch: unknown to producers
        put(16, &[2]); // message format
        put(CRC_FROM, &0_i16.to_be_bytes()); // attributes: no compression, create time, no transaction
        put(23, &(count - 1).to_be_bytes());
        put(27, &base_ms.to_be_bytes());
        put(35, &max_ms.to_be_bytes());
        put(57, &count.to_be_bytes());
        Self { bytes, acks, charged, position: 0, first_sent: None, refused: None }
    }

    /// Writes who sends it with which first sequence, and the checksum over it all.
    pub(crate) fn stamp(&mut self, producer: ProducerIdentity, sequence: i32) {
        self.bytes[43..51].copy_from_slice(&producer.id.to_be_bytes());
        self.bytes[51..53].copy_from_slice(&producer.epoch.to_be_bytes());
        self.bytes[53..57].copy_from_slice(&sequence.to_be_bytes());
        let crc = crc32c::crc32c(&self.bytes[CRC_FROM..]);
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
        self.acks.len()
    }

    /// What it holds of the memory budget.
    pub(crate) fn charged(&self) -> usize {
        self.charged
    }

    /// Moves its acks to the end of `acks`, and gives its buffers back empty.
    pub(crate) fn finish(mut self, acks: &mut Vec<Ack>) -> Buffers {
        acks.extend(self.acks.drain(..).flatten());
        Buffers { bytes: self.bytes, acks: self.acks }
    }

    /// Two batches with the halves of its records; it needs two records at least.
    pub(crate) fn split(self) -> (Self, Self) {
        let middle = self.acks.len() / 2;
        let (base_ms, max_ms) = (self.long(27), self.long(35));
        let mut first_acks = self.acks;
        let second_acks = first_acks.split_off(middle);
        let mut first_bytes = vec![0; HEADER_BYTES];
        let mut second_bytes = vec![0; HEADER_BYTES];
        let mut rest = &self.bytes[HEADER_BYTES..];
        for index in 0..first_acks.len() + second_acks.len() {
            let record = take_record(&mut rest);
            let (out, at) =
                if index < middle { (&mut first_bytes, index) } else { (&mut second_bytes, index - middle) };
            copy_record(record, at as i64, out);
        }
        let first_charge = self.charged * (first_bytes.len() - HEADER_BYTES)
            / (first_bytes.len() + second_bytes.len() - 2 * HEADER_BYTES).max(1);
        let first = Self {
            position: self.position,
            first_sent: self.first_sent,
            ..Self::new(first_bytes, first_acks, base_ms, max_ms, first_charge)
        };
        let second = Self {
            position: self.position + middle as u64,
            first_sent: self.first_sent,
            ..Self::new(second_bytes, second_acks, base_ms, max_ms, self.charged - first_charge)
        };
        (first, second)
    }

    fn long(&self, at: usize) -> i64 {
        let mut value = [0; 8];
        value.copy_from_slice(&self.bytes[at..at + 8]);
        i64::from_be_bytes(value)
    }
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
fn put_varint(value: i64, out: &mut Vec<u8>) {
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
fn take_varint(input: &mut &[u8]) -> i64 {
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

    fn batch_of(records: &[Record<'_>]) -> SealedBatch {
        let mut open = OpenBatch::new(Buffers::default(), Instant::now());
        for record in records {
            open.push(record, None, budget_bytes(record));
        }
        open.seal()
    }

    #[test]
    fn a_batch_has_the_bytes_that_the_format_says() {
        let headers: [(&str, Option<&[u8]>); 2] = [("h", Some(b"1")), ("n", None)];
        let mut batch = batch_of(&[
            Record {
                key: Some(b"k"),
                value: Some(b"vv"),
                headers: &headers,
                timestamp_ms: 1000,
                ..Record::new("t")
            },
            Record { timestamp_ms: 936, ..Record::new("t") },
        ]);
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
        let mut open = OpenBatch::new(Buffers::default(), Instant::now());
        let before = open.bytes();
        open.push(&record, None, budget_bytes(&record));
        assert!(open.bytes() - before + size_of::<Option<Ack>>() <= budget_bytes(&record));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]
        #[test]
        fn halves_hold_the_same_records_in_order(
            values in proptest::collection::vec((proptest::option::of(proptest::collection::vec(any::<u8>(), 0..200)), any::<i64>()), 2..300)
        ) {
            let records: Vec<Record<'_>> = values
                .iter()
                .map(|(value, ms)| Record { value: value.as_deref(), timestamp_ms: *ms, ..Record::new("t") })
                .collect();
            let whole = batch_of(&records);
            let (charged, count) = (whole.charged(), whole.records());
            let (first, second) = whole.split();
            prop_assert_eq!(first.charged() + second.charged(), charged);
            prop_assert_eq!(first.records() + second.records(), count);
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
