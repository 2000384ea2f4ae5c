//! `tidegate-ledger` for tests: publishers with names, many tasks that note, and messages that say who sent them.
//!
//! Each message carries who sent it and its number ([`Payload`]). A publisher notes in the [`Ledger`] what it sent and,
//! when the acknowledgement arrives, what it was promised. Afterwards a [`Verifier`] takes every record that was found
//! and reports the difference.

use parking_lot::Mutex;
pub use tidegate_ledger::Report;

const CRC_HEX_DIGITS: usize = 8;

/// What a test message says about itself: one line of JSON, padded to a size and closed by a checksum.
///
/// ```
/// use tidegate_testkit::ledger::Payload;
///
/// let bytes = Payload { publisher: "device-7".into(), seq: 42, sent_ns: 1_000 }.encode(1024);
/// assert_eq!(bytes.len(), 1024);
/// assert_eq!(Payload::decode(&bytes).unwrap().seq, 42);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// Who sent it: without quotes, backslashes and control characters.
    pub publisher: String,
    /// Its number among the publisher's messages, rising by one.
    pub seq: u64,
    /// When it was sent, in nanoseconds since an epoch of the test's choice.
    pub sent_ns: u64,
}

/// The bytes are not what [`Payload::encode`] wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the payload's checksum or form is wrong")]
pub struct CorruptPayload;

impl Payload {
    /// Returns the message as bytes, `size` of them, or more where the fields alone need more.
    ///
    /// # Panics
    ///
    /// When the publisher's name needs escaping in JSON.
    pub fn encode(&self, size: usize) -> Vec<u8> {
        assert!(
            !self.publisher.contains(|c: char| c == '"' || c == '\\' || c.is_control()),
            "the publisher's name {:?} needs escaping",
            self.publisher
        );
        let mut body =
            format!(r#"{{"pub":"{}","seq":{},"sent_ns":{},"pad":""#, self.publisher, self.seq, self.sent_ns)
                .into_bytes();
        let closing = CRC_PREFIX.len() + CRC_HEX_DIGITS + CRC_SUFFIX.len();
        body.resize(size.saturating_sub(closing).max(body.len()), b'.');
        let crc = crc32c::crc32c(&body);
        body.extend_from_slice(CRC_PREFIX);
        body.extend_from_slice(format!("{crc:08x}").as_bytes());
        body.extend_from_slice(CRC_SUFFIX);
        body
    }

    /// Returns what the bytes say.
    ///
    /// # Errors
    ///
    /// [`CorruptPayload`] when a byte differs from what was encoded.
    pub fn decode(bytes: &[u8]) -> Result<Self, CorruptPayload> {
        Self::parse(bytes).ok_or(CorruptPayload)
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_suffix(CRC_SUFFIX)?;
        let (rest, crc) = rest.split_at_checked(rest.len().checked_sub(CRC_HEX_DIGITS)?)?;
        let crc = u32::from_str_radix(std::str::from_utf8(crc).ok()?, 16).ok()?;
        let body = rest.strip_suffix(CRC_PREFIX)?;
        if crc32c::crc32c(body) != crc {
            return None;
        }
        let body = std::str::from_utf8(body).ok()?.strip_prefix(r#"{"pub":""#)?;
        let (publisher, body) = body.split_once(r#"","seq":"#)?;
        let (seq, body) = body.split_once(r#","sent_ns":"#)?;
        let (sent_ns, _) = body.split_once(r#","pad":""#)?;
        Some(Self { publisher: publisher.into(), seq: seq.parse().ok()?, sent_ns: sent_ns.parse().ok()? })
    }
}

const CRC_PREFIX: &[u8] = br#"","crc":""#;
const CRC_SUFFIX: &[u8] = br#""}"#;

/// What publishers sent and what was acknowledged to them. Shared by reference among tasks and threads.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<tidegate_ledger::Ledger<String>>);

impl Ledger {
    /// Returns an empty ledger.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes that a message is about to be sent: before its first byte leaves.
    pub fn sent(&self, publisher: &str, seq: u64) {
        self.0.lock().sent(publisher, seq);
    }

    /// Notes that the receiver took responsibility for a message: PUBACK, PUBREC or PUBCOMP with success.
    pub fn acknowledged(&self, publisher: &str, seq: u64) {
        self.0.lock().acknowledged(publisher, seq);
    }

    /// How many different messages were sent.
    pub fn sent_count(&self) -> u64 {
        self.0.lock().sent_count()
    }

    /// How many different messages were acknowledged.
    pub fn acknowledged_count(&self) -> u64 {
        self.0.lock().acknowledged_count()
    }
}

/// One record as it was found in a log.
#[derive(Debug, Clone, Copy)]
pub struct Found<'a> {
    /// Partition of the topic.
    pub partition: i32,
    /// Offset in the partition.
    pub offset: i64,
    /// Key of the record.
    pub key: Option<&'a [u8]>,
    /// Value of the record: a [`Payload`].
    pub value: &'a [u8],
}

/// Takes what was found, record by record, and compares it with a [`Ledger`].
#[derive(Debug)]
pub struct Verifier(tidegate_ledger::Verifier<String>);

impl Verifier {
    /// Returns a verifier against the ledger as it stands now: call it when the publishers are done.
    pub fn new(ledger: &Ledger) -> Self {
        Self(tidegate_ledger::Verifier::new(&ledger.0.lock()))
    }

    /// Takes one record. Partitions may come in any order and interleaved.
    ///
    /// # Panics
    ///
    /// When the offsets of a partition do not rise: the reader is broken then, and the order can't be told.
    pub fn record(&mut self, Found { partition, offset, key, value }: Found<'_>) {
        let message = Payload::decode(value).ok().map(|payload| (payload.publisher, payload.seq));
        self.0.record(tidegate_ledger::Found { partition, offset, key, message });
    }

    /// Returns the counts, after the last record.
    pub fn finish(self) -> Report {
        self.0.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(publisher: &str, seq: u64) -> Vec<u8> {
        Payload { publisher: publisher.into(), seq, sent_ns: 7 }.encode(128)
    }

    #[test]
    fn a_message_is_who_sent_it_and_its_number_and_a_damaged_one_is_corrupt() {
        let ledger = Ledger::new();
        for seq in 0..3 {
            ledger.sent("a", seq);
            ledger.acknowledged("a", seq);
        }
        let mut verifier = Verifier::new(&ledger);
        let key = Some(&b"a"[..]);
        verifier.record(Found { partition: 0, offset: 0, key, value: &value("a", 0) });
        verifier.record(Found { partition: 0, offset: 1, key, value: &value("a", 2) });
        verifier.record(Found { partition: 0, offset: 2, key, value: &value("a", 1)[1..] });
        let report = verifier.finish();
        assert_eq!((report.acknowledged, report.found), (3, 3));
        assert_eq!((report.loss, report.corrupt, report.phantom), (1, 1, 0));
        assert!(report.examples.contains(&"lost: a 1".to_owned()), "{report}");
    }

    #[test]
    fn every_changed_or_missing_byte_is_corrupt() {
        let whole = value("a", 0);
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0x01;
            // Upper and lower case of a hexadecimal digit are the same checksum; no single low bit makes one of it.
            assert_eq!(Payload::decode(&changed), Err(CorruptPayload), "byte {at}");
            assert_eq!(Payload::decode(&whole[..at]), Err(CorruptPayload), "cut at {at}");
        }
    }

    #[test]
    fn a_payload_comes_back_from_any_size() {
        for size in [0, 60, 61, 100, 1024] {
            let payload = Payload { publisher: "device-1".into(), seq: u64::MAX, sent_ns: 0 };
            let bytes = payload.encode(size);
            assert!(bytes.len() >= size);
            assert_eq!(Payload::decode(&bytes).unwrap(), payload);
        }
        assert_eq!(value("a", 1).len(), 128);
    }
}
