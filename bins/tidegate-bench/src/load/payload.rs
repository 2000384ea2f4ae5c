//! What devices publish: a stamp (publisher, sequence, time, checksum) and filler up to the size that was asked for,
//! so that whoever reads the other end can count what was lost, doubled, reordered or damaged.

use clap::ValueEnum;
use thiserror::Error;

/// How the stamp is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PayloadFormat {
    /// An object of JSON with the members pub, seq, sent_ns, crc (CRC-32C in hexadecimal, over all bytes but its own
    /// eight digits) and pad.
    Json,
    /// Big-endian: pub (8 bytes), seq (8), sent_ns (8), CRC-32C over all other bytes (4), filler.
    Binary,
    /// Filler alone: nothing can be verified.
    None,
}

/// Who published what when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The device's number.
    pub(crate) publisher: u32,
    /// Counts the device's messages from 0.
    pub(crate) sequence: u64,
    /// Nanoseconds since 1970, by the wall clock.
    pub(crate) sent_ns: u64,
}

impl Stamp {
    /// Returns what the payload says, in either format; `None` where it is not as [`Payload`] wrote it.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let json = bytes.starts_with(JSON_PUB);
        let (at, len, least) = if json {
            (JSON_CRC_AT, CRC_DIGITS, JSON_LEAST)
        } else {
            (BINARY_CRC_AT, BINARY_CRC_BYTES, BINARY_LEAST)
        };
        if bytes.len() < least {
            return None;
        }
        let mut checksum = [0; CRC_DIGITS];
        let checksum = if json {
            write_hex(checksum_without(bytes, at, len), &mut checksum);
            &checksum[..]
        } else {
            checksum[..len].copy_from_slice(&checksum_without(bytes, at, len).to_be_bytes());
            &checksum[..len]
        };
        // Everything but the numbers' own places is under the checksum: it need not be looked at again.
        if bytes[at..at + len] != *checksum {
            return None;
        }
        let number = |json_at: usize, binary_at: usize| {
            if json {
                std::str::from_utf8(&bytes[json_at..][..NUMBER_DIGITS]).ok()?.trim_start().parse().ok()
            } else {
                bytes[binary_at..].first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
            }
        };
        Some(Self {
            publisher: u32::try_from(number(JSON_PUB_AT, 0)?).ok()?,
            sequence: number(JSON_SEQ_AT, 8)?,
            sent_ns: number(JSON_SENT_AT, 16)?,
        })
    }
}

/// The size can't hold the stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a payload of {bytes} bytes can't hold the {format:?} stamp of {least} bytes; see --payload-format")]
pub(crate) struct TooSmall {
    format: PayloadFormat,
    bytes: usize,
    least: usize,
}

/// A payload that is stamped in place, again and again.
#[derive(Debug, Clone)]
pub(crate) struct Payload {
    format: PayloadFormat,
    bytes: Vec<u8>,
}

// The JSON form has fixed places: numbers are right-aligned in blanks, which JSON allows before a value.
const JSON_PUB: &[u8] = b"{\"pub\":";
const JSON_SEQ: &[u8] = b",\"seq\":";
const JSON_SENT: &[u8] = b",\"sent_ns\":";
const JSON_CRC: &[u8] = b",\"crc\":\"";
const JSON_PAD: &[u8] = b"\",\"pad\":\"";
const JSON_END: &[u8] = b"\"}";
/// As many digits as `u64::MAX` has.
const NUMBER_DIGITS: usize = 20;
const CRC_DIGITS: usize = 8;
const JSON_PUB_AT: usize = JSON_PUB.len();
const JSON_SEQ_AT: usize = JSON_PUB_AT + NUMBER_DIGITS + JSON_SEQ.len();
const JSON_SENT_AT: usize = JSON_SEQ_AT + NUMBER_DIGITS + JSON_SENT.len();
const JSON_CRC_AT: usize = JSON_SENT_AT + NUMBER_DIGITS + JSON_CRC.len();
const JSON_LEAST: usize = JSON_CRC_AT + CRC_DIGITS + JSON_PAD.len() + JSON_END.len();
const BINARY_CRC_AT: usize = 24;
const BINARY_CRC_BYTES: usize = 4;
const BINARY_LEAST: usize = BINARY_CRC_AT + BINARY_CRC_BYTES;
const FILLER: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";

impl Payload {
    /// Returns a payload of that many bytes, not stamped yet.
    pub(crate) fn new(format: PayloadFormat, bytes: usize) -> Result<Self, TooSmall> {
        let least = match format {
            PayloadFormat::Json => JSON_LEAST,
            PayloadFormat::Binary => BINARY_LEAST,
            PayloadFormat::None => 0,
        };
        let filler_bytes = bytes.checked_sub(least).ok_or(TooSmall { format, bytes, least })?;
        let filler = FILLER.iter().copied().cycle().take(filler_bytes);
        let mut content = Vec::with_capacity(bytes);
        match format {
            PayloadFormat::Json => {
                let blanks = [b' '; NUMBER_DIGITS];
                for part in [JSON_PUB, &blanks, JSON_SEQ, &blanks, JSON_SENT, &blanks, JSON_CRC] {
                    content.extend_from_slice(part);
                }
                content.extend_from_slice(&[b'0'; CRC_DIGITS]);
                content.extend_from_slice(JSON_PAD);
                content.extend(filler);
                content.extend_from_slice(JSON_END);
            }
            PayloadFormat::Binary => {
                content.resize(BINARY_LEAST, 0);
                content.extend(filler);
            }
            PayloadFormat::None => content.extend(filler),
        }
        Ok(Self { format, bytes: content })
    }

    /// Returns its size in bytes.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Writes the stamp in, with its checksum, and returns the bytes.
    pub(crate) fn stamp(&mut self, stamp: Stamp) -> &[u8] {
        match self.format {
            PayloadFormat::Json => {
                self.number_at(JSON_PUB_AT, u64::from(stamp.publisher));
                self.number_at(JSON_SEQ_AT, stamp.sequence);
                self.number_at(JSON_SENT_AT, stamp.sent_ns);
                let checksum = checksum_without(&self.bytes, JSON_CRC_AT, CRC_DIGITS);
                write_hex(checksum, &mut self.bytes[JSON_CRC_AT..][..CRC_DIGITS]);
            }
            PayloadFormat::Binary => {
                self.bytes[..8].copy_from_slice(&u64::from(stamp.publisher).to_be_bytes());
                self.bytes[8..16].copy_from_slice(&stamp.sequence.to_be_bytes());
                self.bytes[16..24].copy_from_slice(&stamp.sent_ns.to_be_bytes());
                let checksum = checksum_without(&self.bytes, BINARY_CRC_AT, BINARY_CRC_BYTES);
                self.bytes[BINARY_CRC_AT..BINARY_LEAST].copy_from_slice(&checksum.to_be_bytes());
            }
            PayloadFormat::None => {}
        }
        &self.bytes
    }

    fn number_at(&mut self, at: usize, mut number: u64) {
        let field = &mut self.bytes[at..at + NUMBER_DIGITS];
        field.fill(b' ');
        for place in field.iter_mut().rev() {
            *place = b'0' + u8::try_from(number % 10).expect("a digit");
            number /= 10;
            if number == 0 {
                break;
            }
        }
    }
}

fn checksum_without(bytes: &[u8], at: usize, len: usize) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..at]), &bytes[at + len..])
}

fn write_hex(checksum: u32, digits: &mut [u8]) {
    for (digit, place) in digits.iter_mut().rev().enumerate() {
        *place = b"0123456789abcdef"[(checksum >> (4 * digit)) as usize & 0xF];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGEST: Stamp = Stamp { publisher: u32::MAX, sequence: u64::MAX, sent_ns: u64::MAX };
    const SMALLEST: Stamp = Stamp { publisher: 0, sequence: 0, sent_ns: 0 };

    #[test]
    fn a_json_payload_is_json_of_the_size_asked_for_and_says_its_stamp() {
        for bytes in [JSON_LEAST, 200, 1024] {
            let mut payload = Payload::new(PayloadFormat::Json, bytes).unwrap();
            // The small one after the large one: no digit of the last stamp may stay.
            for stamp in [LARGEST, SMALLEST] {
                let written = payload.stamp(stamp).to_vec();
                assert_eq!(written.len(), bytes);
                let value: serde_json::Value = serde_json::from_slice(&written).unwrap();
                assert_eq!(value["pub"], stamp.publisher);
                assert_eq!(value["seq"], stamp.sequence);
                assert_eq!(value["sent_ns"], stamp.sent_ns);
                let without = [&written[..JSON_CRC_AT], &written[JSON_CRC_AT + CRC_DIGITS..]].concat();
                assert_eq!(value["crc"], format!("{:08x}", crc32c::crc32c(&without)));
            }
        }
    }

    #[test]
    fn a_binary_payload_says_its_stamp() {
        let mut payload = Payload::new(PayloadFormat::Binary, 64).unwrap();
        let stamp = Stamp { publisher: 7, sequence: 258, sent_ns: 1 << 40 };
        let written = payload.stamp(stamp).to_vec();
        assert_eq!(written.len(), 64);
        assert_eq!(
            written[..24],
            [&7_u64.to_be_bytes()[..], &258_u64.to_be_bytes(), &(1_u64 << 40).to_be_bytes()].concat()
        );
        let checksum = crc32c::crc32c(&[&written[..24], &written[28..]].concat());
        assert_eq!(written[24..28], checksum.to_be_bytes());
    }

    #[test]
    fn a_stamp_is_read_back_and_any_changed_or_missing_byte_is_noticed() {
        for format in [PayloadFormat::Json, PayloadFormat::Binary] {
            let mut payload = Payload::new(format, 150).unwrap();
            for stamp in [LARGEST, SMALLEST, Stamp { publisher: 7, sequence: 258, sent_ns: 1 << 40 }] {
                let written = payload.stamp(stamp).to_vec();
                assert_eq!(Stamp::read(&written), Some(stamp));
                for at in 0..written.len() {
                    let mut changed = written.clone();
                    changed[at] ^= 0x01;
                    assert_eq!(Stamp::read(&changed), None, "{format:?}, byte {at}");
                    assert_eq!(Stamp::read(&written[..at]), None, "{format:?}, cut at {at}");
                }
            }
        }
    }

    #[test]
    fn a_size_below_the_stamp_is_refused() {
        assert!(Payload::new(PayloadFormat::Json, JSON_LEAST - 1).is_err());
        assert!(Payload::new(PayloadFormat::Binary, BINARY_LEAST - 1).is_err());
        assert!(Payload::new(PayloadFormat::None, 0).unwrap().stamp(LARGEST).is_empty());
    }
}
