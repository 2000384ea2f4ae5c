//! Compression of a batch's records, in the formats that Kafka's own clients write.

use std::io::{self, Read, Write};

/// Records that unpack to more bytes than this are not unpacked, and so are never packed either. A fetch as a whole
/// unpacks to no more.
pub(crate) const MAX_UNPACKED_BYTES: usize = 128 * 1024 * 1024;

/// What snappy's Java streams begin with: a magic, the version, and the oldest version that can read it.
const XERIAL_HEADER: [u8; 16] = *b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";
/// Bytes of one block of such a stream.
const XERIAL_BLOCK_BYTES: usize = 64 * 1024;
/// Kafka's own level, and zstd's.
const ZSTD_LEVEL: i32 = 3;

/// How batches are compressed: once each, when they are complete. What is spilled and what is sent again is the
/// compressed batch.
///
/// A batch that would not become smaller stays as it is. [`Config::batch_bytes`](crate::Config::batch_bytes) counts
/// bytes before compression, Kafka's `max.message.bytes` those after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// Small, and the slowest.
    Gzip,
    /// Fast, and not so small.
    Snappy,
    /// The fastest.
    Lz4,
    /// Small and fast.
    Zstd,
}

impl Compression {
    const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];
    /// The bits of a batch's attributes that name it.
    pub(crate) const MASK: u16 = 0b111;

    /// The one that a batch's attributes name.
    pub(crate) fn named_by(attributes: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.id() == attributes & Self::MASK)
    }

    /// Its number in a batch's attributes.
    pub(crate) fn id(self) -> u16 {
        self as u16
    }

    /// The records of a batch, compressed; `None` where that makes them no smaller.
    pub(crate) fn pack(self, records: &[u8]) -> Option<Vec<u8>> {
        if records.len() > MAX_UNPACKED_BYTES {
            return None;
        }
        let packed = match self {
            Self::None => return None,
            Self::Gzip => gzip(records),
            Self::Snappy => snappy(records),
            Self::Lz4 => lz4(records),
            Self::Zstd => zstd::bulk::compress(records, ZSTD_LEVEL),
        };
        // Writing to memory fails only where the format can't say a length, which then is no smaller either.
        packed.ok().filter(|packed| packed.len() < records.len())
    }

    /// Unpacks the records of a batch.
    ///
    /// # Errors
    /// Says what is wrong with the bytes, or that they unpack to more than `limit`.
    pub(crate) fn unpack(self, packed: &[u8], limit: usize) -> Result<Vec<u8>, &'static str> {
        match self {
            Self::None if packed.len() > limit => Err(TOO_LARGE),
            Self::None => Ok(packed.to_vec()),
            Self::Gzip => read(flate2::read::MultiGzDecoder::new(packed), limit),
            Self::Snappy => unsnap(packed, limit),
            Self::Lz4 => read(lz4_flex::frame::FrameDecoder::new(packed), limit),
            Self::Zstd => read(zstd::stream::read::Decoder::with_buffer(packed).map_err(|_| DAMAGED)?, limit),
        }
    }
}

/// What [`Compression::unpack`] says of records that are too large.
pub(crate) const TOO_LARGE: &str = "unpacks to more than is allowed";
const DAMAGED: &str = "compressed records are damaged";

fn read(from: impl Read, limit: usize) -> Result<Vec<u8>, &'static str> {
    let mut unpacked = Vec::new();
    // Grows with what comes out, not with what a header promises.
    from.take(limit as u64 + 1).read_to_end(&mut unpacked).map_err(|_| DAMAGED)?;
    if unpacked.len() > limit { Err(TOO_LARGE) } else { Ok(unpacked) }
}

fn gzip(records: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(records)?;
    encoder.finish()
}

/// Kafka's Java reads frames with independent blocks only, which is what this writes unless told.
fn lz4(records: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
    encoder.write_all(records)?;
    Ok(encoder.finish()?)
}

/// As Kafka's Java client writes it: blocks with their length before them. A single block without this frame, as
/// librdkafka writes it, is read by everyone too, but not in pieces.
fn snappy(records: &[u8]) -> io::Result<Vec<u8>> {
    let mut packed = XERIAL_HEADER.to_vec();
    let mut encoder = snap::raw::Encoder::new();
    for block in records.chunks(XERIAL_BLOCK_BYTES) {
        let block = encoder.compress_vec(block)?;
        packed.extend_from_slice(&(block.len() as u32).to_be_bytes());
        packed.extend_from_slice(&block);
    }
    Ok(packed)
}

fn unsnap(packed: &[u8], limit: usize) -> Result<Vec<u8>, &'static str> {
    let mut unpacked = Vec::new();
    let mut take = |block: &[u8]| {
        let length = snap::raw::decompress_len(block).map_err(|_| DAMAGED)?;
        if length > limit.saturating_sub(unpacked.len()) {
            return Err(TOO_LARGE);
        }
        unpacked.extend(snap::raw::Decoder::new().decompress_vec(block).map_err(|_| DAMAGED)?);
        Ok(())
    };
    // The versions in the header are no reason to refuse what can be read.
    if !packed.starts_with(&XERIAL_HEADER[..8]) {
        take(packed)?;
        return Ok(unpacked);
    }
    let mut rest = packed.get(XERIAL_HEADER.len()..).ok_or(DAMAGED)?;
    while let Some((length, blocks)) = rest.split_first_chunk() {
        let (block, others) = blocks.split_at_checked(u32::from_be_bytes(*length) as usize).ok_or(DAMAGED)?;
        take(block)?;
        rest = others;
    }
    if rest.is_empty() { Ok(unpacked) } else { Err(DAMAGED) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PACKING: [Compression; 4] =
        [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

    #[test]
    fn what_is_packed_unpacks_to_the_same_bytes_and_no_further_than_the_limit() {
        let records: Vec<u8> = (0..300_000_u32).flat_map(|n| (n / 50).to_be_bytes()).collect();
        for compression in PACKING {
            let packed = compression.pack(&records).expect("repetitions become smaller");
            assert!(packed.len() < records.len() / 2, "{compression:?}: {}", packed.len());
            let unpacked = compression.unpack(&packed, records.len());
            assert_eq!(unpacked.as_deref(), Ok(&records[..]), "{compression:?}");
            let refused = compression.unpack(&packed, records.len() - 1);
            assert_eq!(refused, Err(TOO_LARGE), "{compression:?}");
        }
    }

    #[test]
    fn what_does_not_become_smaller_stays_as_it_is() {
        for compression in PACKING {
            assert_eq!(compression.pack(b"a"), None, "{compression:?}");
        }
    }

    #[test]
    fn a_snappy_block_without_the_frame_of_java_is_read_too() {
        let records = b"temperature temperature temperature".to_vec();
        let raw = snap::raw::Encoder::new().compress_vec(&records).unwrap();
        assert_eq!(Compression::Snappy.unpack(&raw, 1000), Ok(records));
    }

    #[test]
    fn a_frame_that_promises_gigabytes_makes_no_such_buffer() {
        // A length of 4 GiB - 1 in front of a block that has none of it.
        let raw = [0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0];
        assert_eq!(Compression::Snappy.unpack(&raw, MAX_UNPACKED_BYTES), Err(TOO_LARGE));
        let zeros = vec![0; 16 << 20];
        for compression in PACKING {
            let packed = compression.pack(&zeros).unwrap();
            assert_eq!(compression.unpack(&packed, 1 << 20), Err(TOO_LARGE), "{compression:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn no_bytes_make_unpacking_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), framed: bool) {
            let framed = if framed { [&XERIAL_HEADER[..], &bytes].concat() } else { bytes };
            for compression in PACKING {
                let _ = compression.unpack(&framed, 1 << 20);
            }
        }
    }
}
