//! Counts loss, duplicates and order: what publishers were promised against what a log holds.
//!
//! Each message carries who sent it and its number ([`Payload`]). A publisher notes in the [`Ledger`] what it sent and,
//! when the acknowledgement arrives, what it was promised. Afterwards a [`Verifier`] takes every record that was found
//! and reports the difference.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use parking_lot::Mutex;

/// How many examples of each defect a [`Report`] names.
const EXAMPLES: usize = 10;

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
pub struct Ledger {
    publishers: Mutex<HashMap<String, Entries>>,
}

#[derive(Debug, Default, Clone)]
struct Entries {
    sent: Numbers,
    acknowledged: Numbers,
}

impl Ledger {
    /// Returns an empty ledger.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes that a message is about to be sent: before its first byte leaves.
    pub fn sent(&self, publisher: &str, seq: u64) {
        self.with(publisher, |entries| entries.sent.insert(seq));
    }

    /// Notes that the receiver took responsibility for a message: PUBACK, PUBREC or PUBCOMP with success.
    pub fn acknowledged(&self, publisher: &str, seq: u64) {
        self.with(publisher, |entries| entries.acknowledged.insert(seq));
    }

    /// How many different messages were sent.
    pub fn sent_count(&self) -> u64 {
        self.publishers.lock().values().map(|entries| entries.sent.len()).sum()
    }

    /// How many different messages were acknowledged.
    pub fn acknowledged_count(&self) -> u64 {
        self.publishers.lock().values().map(|entries| entries.acknowledged.len()).sum()
    }

    fn with<T>(&self, publisher: &str, change: impl FnOnce(&mut Entries) -> T) -> T {
        let mut publishers = self.publishers.lock();
        // Looked up twice for a new publisher only, so that the usual note allocates nothing.
        if !publishers.contains_key(publisher) {
            publishers.insert(publisher.to_owned(), Entries::default());
        }
        change(publishers.get_mut(publisher).expect("inserted above"))
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
pub struct Verifier {
    ledger: HashMap<String, Entries>,
    seen: HashMap<String, Numbers>,
    newest: HashMap<(String, i32), u64>,
    partition_of_key: HashMap<Vec<u8>, i32>,
    split_keys: HashSet<Vec<u8>>,
    next_offset: HashMap<i32, i64>,
    report: Report,
}

impl Verifier {
    /// Returns a verifier against the ledger as it stands now: call it when the publishers are done.
    pub fn new(ledger: &Ledger) -> Self {
        let acknowledged = ledger.acknowledged_count();
        Self {
            ledger: ledger.publishers.lock().clone(),
            seen: HashMap::new(),
            newest: HashMap::new(),
            partition_of_key: HashMap::new(),
            split_keys: HashSet::new(),
            next_offset: HashMap::new(),
            report: Report { acknowledged, ..Report::default() },
        }
    }

    /// Takes one record. Partitions may come in any order and interleaved.
    ///
    /// # Panics
    ///
    /// When the offsets of a partition do not rise: the reader is broken then, and the order can't be told.
    pub fn record(&mut self, found: Found<'_>) {
        let next = self.next_offset.entry(found.partition).or_insert(i64::MIN);
        assert!(
            found.offset >= *next,
            "partition {} was read backwards: offset {} after {}",
            found.partition,
            found.offset,
            *next - 1
        );
        *next = found.offset + 1;

        self.report.found += 1;
        self.note_partition_of_key(found);
        if let Ok(payload) = Payload::decode(found.value) {
            self.compare(payload, found.partition);
        } else {
            self.report.corrupt += 1;
            self.report.example(|| format!("corrupt: partition {} offset {}", found.partition, found.offset));
        }
    }

    /// Returns the counts, after the last record.
    pub fn finish(mut self) -> Report {
        for (publisher, entries) in &self.ledger {
            let seen = self.seen.get(publisher);
            for seq in entries.acknowledged.iter().filter(|&seq| !seen.is_some_and(|seen| seen.contains(seq)))
            {
                self.report.loss += 1;
                self.report.example(|| format!("lost: {publisher} {seq}"));
            }
        }
        self.report.split_keys = self.split_keys.len() as u64;
        self.report
    }

    fn note_partition_of_key(&mut self, found: Found<'_>) {
        let Some(key) = found.key else { return };
        match self.partition_of_key.get(key) {
            None => {
                self.partition_of_key.insert(key.to_vec(), found.partition);
            }
            Some(&partition) if partition != found.partition && self.split_keys.insert(key.to_vec()) => {
                self.report.example(|| {
                    format!(
                        "split: key {:?} in {partition} and {}",
                        key.escape_ascii().to_string(),
                        found.partition
                    )
                });
            }
            Some(_) => {}
        }
    }

    fn compare(&mut self, Payload { publisher, seq, .. }: Payload, partition: i32) {
        if !self.ledger.get(&publisher).is_some_and(|entries| entries.sent.contains(seq)) {
            self.report.phantom += 1;
            self.report.example(|| format!("phantom: {publisher} {seq}"));
            return;
        }
        if !self.seen.entry(publisher.clone()).or_default().insert(seq) {
            self.report.duplicates += 1;
            self.report.example(|| format!("duplicate: {publisher} {seq}"));
            return;
        }
        // Only the first occurrence says something about order, and only within a partition is there any.
        let newest = self.newest.entry((publisher, partition)).or_insert(seq);
        if seq < *newest {
            let newest = *newest;
            self.report.reordered += 1;
            self.report.example(|| format!("reordered: {seq} after {newest} in partition {partition}"));
        } else {
            *newest = seq;
        }
    }
}

/// What a [`Verifier`] counted. Its text is one line of counts and then the first examples.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Different messages that were acknowledged.
    pub acknowledged: u64,
    /// Records that were found, whatever they were.
    pub found: u64,
    /// Acknowledged and not found.
    pub loss: u64,
    /// Found and never sent.
    pub phantom: u64,
    /// Occurrences after the first.
    pub duplicates: u64,
    /// First occurrences behind a newer message of the same publisher in the same partition.
    pub reordered: u64,
    /// Records whose value is not a payload, or whose checksum is wrong.
    pub corrupt: u64,
    /// Keys that were found in more than one partition.
    pub split_keys: u64,
    /// The first few defects, in words.
    pub examples: Vec<String>,
}

impl Report {
    /// Whether every acknowledged message was found once, in order, whole, and nothing else but unacknowledged ones.
    pub fn is_exact(&self) -> bool {
        self.is_without_loss() && self.duplicates == 0
    }

    /// As [`is_exact`](Self::is_exact), but duplicates are allowed.
    pub fn is_without_loss(&self) -> bool {
        [self.loss, self.phantom, self.reordered, self.corrupt, self.split_keys] == [0; 5]
    }

    fn example(&mut self, text: impl FnOnce() -> String) {
        if self.examples.len() < EXAMPLES {
            self.examples.push(text());
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "acknowledged {}, found {}, loss {}, phantom {}, duplicates {}, reordered {}, corrupt {}, split keys {}",
            self.acknowledged,
            self.found,
            self.loss,
            self.phantom,
            self.duplicates,
            self.reordered,
            self.corrupt,
            self.split_keys
        )?;
        self.examples.iter().try_for_each(|example| write!(f, "\n  {example}"))
    }
}

/// A set of numbers that costs a bit each where they are dense.
#[derive(Debug, Default, Clone)]
struct Numbers {
    words: BTreeMap<u64, u64>,
    len: u64,
}

impl Numbers {
    /// Returns whether it was new.
    fn insert(&mut self, number: u64) -> bool {
        let word = self.words.entry(number / 64).or_default();
        let bit = 1 << (number % 64);
        let new = *word & bit == 0;
        *word |= bit;
        self.len += u64::from(new);
        new
    }

    fn contains(&self, number: u64) -> bool {
        self.words.get(&(number / 64)).is_some_and(|word| word & (1 << (number % 64)) != 0)
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn iter(&self) -> impl Iterator<Item = u64> {
        self.words.iter().flat_map(|(&word, &bits)| {
            (0..64).filter(move |bit| bits & (1 << bit) != 0).map(move |bit| word * 64 + bit)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ledger in which `publisher` sent and was promised the numbers `0..count`.
    fn promised(publisher: &str, count: u64) -> Ledger {
        let ledger = Ledger::new();
        for seq in 0..count {
            ledger.sent(publisher, seq);
            ledger.acknowledged(publisher, seq);
        }
        ledger
    }

    fn value(publisher: &str, seq: u64) -> Vec<u8> {
        Payload { publisher: publisher.into(), seq, sent_ns: 7 }.encode(128)
    }

    /// Verifies messages of publisher `a` found at rising offsets: (partition, seq).
    fn verify(ledger: &Ledger, found: &[(i32, u64)]) -> Report {
        let mut verifier = Verifier::new(ledger);
        for (offset, &(partition, seq)) in (0..).zip(found) {
            verifier.record(Found { partition, offset, key: Some(b"a"), value: &value("a", seq) });
        }
        verifier.finish()
    }

    #[test]
    fn everything_found_once_and_in_order_is_exact() {
        let report = verify(&promised("a", 3), &[(0, 0), (0, 1), (0, 2)]);
        assert!(report.is_exact(), "{report}");
        assert_eq!((report.acknowledged, report.found), (3, 3));
    }

    #[test]
    fn an_acknowledged_message_that_is_not_found_is_loss() {
        let report = verify(&promised("a", 130), &(1..129).map(|seq| (0, seq)).collect::<Vec<_>>());
        assert_eq!(report.loss, 2);
        assert_eq!(report.examples, ["lost: a 0", "lost: a 129"]);
        assert!(!report.is_without_loss());
    }

    #[test]
    fn a_publisher_of_whom_nothing_is_found_is_loss() {
        assert_eq!(Verifier::new(&promised("b", 5)).finish().loss, 5);
    }

    #[test]
    fn an_unacknowledged_message_may_be_found_or_not() {
        let ledger = promised("a", 2);
        ledger.sent("a", 2);
        assert!(verify(&ledger, &[(0, 0), (0, 1)]).is_exact());
        assert!(verify(&ledger, &[(0, 0), (0, 1), (0, 2)]).is_exact());
    }

    #[test]
    fn a_message_that_nobody_sent_is_a_phantom() {
        let report = verify(&promised("a", 1), &[(0, 0), (0, 9)]);
        assert_eq!((report.phantom, report.loss), (1, 0));
        assert!(!report.is_without_loss());
    }

    #[test]
    fn each_further_occurrence_is_a_duplicate_and_none_is_reordered() {
        let report = verify(&promised("a", 2), &[(0, 0), (0, 1), (0, 0), (0, 0)]);
        assert_eq!((report.duplicates, report.reordered), (2, 0));
        assert!(report.is_without_loss() && !report.is_exact());
    }

    #[test]
    fn a_first_occurrence_behind_a_newer_message_is_reordered() {
        let report = verify(&promised("a", 4), &[(0, 0), (0, 3), (0, 1), (0, 2)]);
        assert_eq!((report.reordered, report.duplicates), (2, 0));
        assert!(!report.is_without_loss());
    }

    #[test]
    fn a_key_in_two_partitions_is_split_once() {
        let report = verify(&promised("a", 4), &[(0, 0), (1, 1), (0, 2), (1, 3)]);
        assert_eq!((report.split_keys, report.reordered), (1, 0));
        assert!(!report.is_without_loss());
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
        let ledger = promised("a", 1);
        let mut verifier = Verifier::new(&ledger);
        verifier.record(Found { partition: 0, offset: 0, key: None, value: b"" });
        let report = verifier.finish();
        assert_eq!((report.corrupt, report.loss), (1, 1));
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

    #[test]
    #[should_panic(expected = "read backwards")]
    fn offsets_that_do_not_rise_stop_the_verification() {
        let ledger = promised("a", 2);
        let mut verifier = Verifier::new(&ledger);
        for seq in 0..2 {
            verifier.record(Found { partition: 0, offset: 5, key: None, value: &value("a", seq) });
        }
    }

    #[test]
    fn a_message_counts_once_however_often_it_is_noted() {
        let ledger = promised("a", 3);
        ledger.sent("a", 1);
        ledger.acknowledged("a", 1);
        assert_eq!((ledger.sent_count(), ledger.acknowledged_count()), (3, 3));
    }
}
