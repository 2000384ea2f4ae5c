//! Record batches of format 2: what the server reads of them, the three fields that it writes, and their records.
//!
//! Batches are stored as they come. The CRC covers everything from the attributes on, so the base offset and the leader
//! epoch, which only the server knows, lie outside of it and are patched in place.

use bytes::{Bytes, BytesMut};

use crate::ErrorCode;
use crate::wire::{Malformed, Reader};

/// Bytes of a batch before its records.
pub(crate) const HEADER_BYTES: usize = 61;
/// Bytes of the base offset and the batch length, which the batch length does not count.
pub(crate) const PREFIX_BYTES: usize = 12;

const COMPRESSION_MASK: i16 = 0b111;
const LOG_APPEND_TIME: i16 = 1 << 3;
const TRANSACTIONAL: i16 = 1 << 4;
const CONTROL: i16 = 1 << 5;

/// The fixed part of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    pub(crate) base_offset: i64,
    /// Bytes of the whole batch.
    pub(crate) size: usize,
    pub(crate) magic: i8,
    pub(crate) crc: u32,
    pub(crate) attributes: i16,
    pub(crate) last_offset_delta: i32,
    pub(crate) base_timestamp: i64,
    pub(crate) max_timestamp: i64,
    pub(crate) producer_id: i64,
    pub(crate) producer_epoch: i16,
    pub(crate) base_sequence: i32,
    pub(crate) records: i32,
}

impl BatchHeader {
    /// Reads the header at the front of `bytes`; `None` when there are too few or the length can't be one.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let header: &[u8; HEADER_BYTES] = bytes.first_chunk()?;
        let i16_at = |at: usize| i16::from_be_bytes(field(header, at));
        let i32_at = |at: usize| i32::from_be_bytes(field(header, at));
        let i64_at = |at: usize| i64::from_be_bytes(field(header, at));
        let size = usize::try_from(i32_at(8)).ok()?.checked_add(PREFIX_BYTES)?;
        (size >= HEADER_BYTES).then(|| Self {
            base_offset: i64_at(0),
            size,
            magic: i8::from_be_bytes(field(header, 16)),
            crc: u32::from_be_bytes(field(header, 17)),
            attributes: i16_at(21),
            last_offset_delta: i32_at(23),
            base_timestamp: i64_at(27),
            max_timestamp: i64_at(35),
            producer_id: i64_at(43),
            producer_epoch: i16_at(51),
            base_sequence: i32_at(53),
            records: i32_at(57),
        })
    }

    pub(crate) fn last_offset(&self) -> i64 {
        self.base_offset + i64::from(self.last_offset_delta)
    }

    pub(crate) fn is_compressed(&self) -> bool {
        self.attributes & COMPRESSION_MASK != 0
    }

    /// The sequence number of the last record; sequences wrap from `i32::MAX` to 0.
    pub(crate) fn last_sequence(&self) -> i32 {
        sequence_after(self.base_sequence, self.last_offset_delta)
    }
}

/// The sequence number `delta` records after `base`.
pub(crate) fn sequence_after(base: i32, delta: i32) -> i32 {
    ((i64::from(base) + i64::from(delta)) % (i64::from(i32::MAX) + 1)) as i32
}

fn field<const N: usize>(header: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&header[at..at + N]);
    out
}

/// True when the stored CRC is that of the bytes. `batch` is exactly one batch.
pub(crate) fn crc_matches(header: &BatchHeader, batch: &[u8]) -> bool {
    batch.get(21..).is_some_and(|covered| crc32c::crc32c(covered) == header.crc)
}

/// Checks what a producer sent for one partition as Kafka does: exactly one whole batch of format 2, its CRC, its
/// counts, and its records' framing where they are not compressed.
pub(crate) fn validate(batch: &Bytes) -> Result<BatchHeader, ErrorCode> {
    if batch.get(16).is_some_and(|&magic| magic < 2) {
        return Err(ErrorCode::UNSUPPORTED_FOR_MESSAGE_FORMAT);
    }
    let header = BatchHeader::parse(batch).ok_or(ErrorCode::CORRUPT_MESSAGE)?;
    if header.magic != 2 {
        return Err(ErrorCode::UNSUPPORTED_FOR_MESSAGE_FORMAT);
    }
    if header.size > batch.len() {
        return Err(ErrorCode::CORRUPT_MESSAGE);
    }
    if header.size < batch.len() {
        return Err(ErrorCode::INVALID_RECORD);
    }
    if !crc_matches(&header, batch) {
        return Err(ErrorCode::CORRUPT_MESSAGE);
    }
    if header.attributes & TRANSACTIONAL != 0 {
        return Err(ErrorCode::INVALID_TXN_STATE);
    }
    if header.attributes & COMPRESSION_MASK > 4 {
        return Err(ErrorCode::UNSUPPORTED_COMPRESSION_TYPE);
    }
    if header.attributes & CONTROL != 0
        || header.records < 1
        || header.last_offset_delta != header.records - 1
        || (header.producer_id >= 0 && (header.producer_epoch < 0 || header.base_sequence < 0))
    {
        return Err(ErrorCode::INVALID_RECORD);
    }
    if !header.is_compressed() {
        let mut next = 0;
        for_each_record(&header, batch, |record| {
            let in_order = record.offset_delta == next;
            next += 1;
            if in_order { Ok(()) } else { Err(Malformed("offset deltas have a gap")) }
        })
        .map_err(|_| ErrorCode::INVALID_RECORD)?;
    }
    Ok(header)
}

/// The batch with the offset and the leader epoch that the log gives it.
pub(crate) fn placed(batch: &[u8], base_offset: i64, leader_epoch: i32) -> BytesMut {
    let mut placed = BytesMut::from(batch);
    placed[..8].copy_from_slice(&base_offset.to_be_bytes());
    placed[12..16].copy_from_slice(&leader_epoch.to_be_bytes());
    placed
}

/// One record as it stands in its batch.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) offset_delta: i32,
    pub(crate) timestamp: i64,
    pub(crate) key: Option<Bytes>,
    pub(crate) value: Option<Bytes>,
    pub(crate) headers: Vec<(Bytes, Option<Bytes>)>,
}

/// Calls `each` with every record of an uncompressed batch.
pub(crate) fn for_each_record(
    header: &BatchHeader,
    batch: &Bytes,
    mut each: impl FnMut(Record) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    let mut r = Reader::new(batch.slice(HEADER_BYTES.min(batch.len())..), false);
    for _ in 0..header.records {
        let len = usize::try_from(r.varint()?).map_err(|_| Malformed("a record's length is negative"))?;
        let mut record = Reader::new(r.take(len)?, false);
        record.i8()?; // attributes: none are defined
        let timestamp_delta = record.varlong()?;
        let offset_delta = record.varint()?;
        let key = nullable(&mut record)?;
        let value = nullable(&mut record)?;
        let count = usize::try_from(record.varint()?).map_err(|_| Malformed("a header count is negative"))?;
        let mut headers = Vec::new();
        for _ in 0..count {
            let key = nullable(&mut record)?.ok_or(Malformed("a header key is null"))?;
            headers.push((key, nullable(&mut record)?));
        }
        if record.remaining() != 0 {
            return Err(Malformed("a record is longer than its fields"));
        }
        let timestamp = if header.attributes & LOG_APPEND_TIME != 0 {
            header.max_timestamp
        } else {
            header.base_timestamp.wrapping_add(timestamp_delta)
        };
        each(Record { offset_delta, timestamp, key, value, headers })?;
    }
    if r.remaining() == 0 { Ok(()) } else { Err(Malformed("bytes follow the last record")) }
}

fn nullable(r: &mut Reader) -> Result<Option<Bytes>, Malformed> {
    match usize::try_from(r.varint()?) {
        Ok(len) => r.take(len).map(Some),
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use bytes::BufMut;

    use super::*;
    use crate::wire::length;

    /// A batch of records without keys; `producer` is id, epoch and base sequence.
    pub(crate) fn batch(values: &[&str], producer: (i64, i16, i32)) -> Bytes {
        let mut records = BytesMut::new();
        for (delta, value) in values.iter().enumerate() {
            assert!(delta < 60 && value.len() < 50, "the lengths below fit one byte");
            let zigzag = |n: usize| (n as u8) << 1;
            records.put_u8(zigzag(value.len() + 6));
            records.put_slice(&[0, 0, zigzag(delta), 1, zigzag(value.len())]);
            records.put_slice(value.as_bytes());
            records.put_u8(0);
        }
        let mut tail = BytesMut::new();
        tail.put_i16(0);
        tail.put_i32(length(values.len()) - 1);
        tail.put_i64(1_000);
        tail.put_i64(1_000);
        tail.put_i64(producer.0);
        tail.put_i16(producer.1);
        tail.put_i32(producer.2);
        tail.put_i32(length(values.len()));
        tail.put_slice(&records);
        let mut out = BytesMut::new();
        out.put_i64(0);
        out.put_i32(length(tail.len() + 9));
        out.put_i32(-1);
        out.put_i8(2);
        out.put_u32(crc32c::crc32c(&tail));
        out.put_slice(&tail);
        out.freeze()
    }

    #[test]
    fn a_batch_with_any_bit_flipped_is_never_accepted_as_another() {
        let good = batch(&["a", "bb"], (7, 0, 0));
        let header = validate(&good).unwrap();
        assert_eq!((header.records, header.last_sequence()), (2, 1));
        // The base offset and the leader epoch belong to the server: they lie outside the CRC.
        for bit in (8 * 8..12 * 8).chain(16 * 8..good.len() * 8) {
            let mut bad = BytesMut::from(&good[..]);
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(validate(&bad.freeze()).is_err(), "bit {bit}");
        }
        for len in 0..good.len() {
            assert!(validate(&good.slice(..len)).is_err(), "cut at {len}");
        }
    }

    #[test]
    fn sequences_wrap_to_zero_after_the_largest() {
        assert_eq!(sequence_after(i32::MAX - 1, 1), i32::MAX);
        assert_eq!(sequence_after(i32::MAX, 1), 0);
        assert_eq!(sequence_after(i32::MAX - 1, 5), 3);
    }
}
