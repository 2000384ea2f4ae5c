//! Compares what was found with a ledger.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::Hash;

use crate::{Ledger, Numbers};

/// How many examples of defects a [`Report`] names.
const EXAMPLES: usize = 10;

/// One record as it was found in a log.
#[derive(Debug, Clone)]
pub struct Found<'a, P> {
    /// Partition of the topic.
    pub partition: i32,
    /// Offset in the partition.
    pub offset: i64,
    /// Key of the record.
    pub key: Option<&'a [u8]>,
    /// Who sent it and its number; `None` where the record is not what a publisher sends, or is damaged.
    pub message: Option<(P, u64)>,
}

/// Takes what was found, record by record, and compares it with a [`Ledger`].
#[derive(Debug)]
pub struct Verifier<P> {
    ledger: Ledger<P>,
    seen: HashMap<P, Numbers>,
    newest: HashMap<(P, i32), u64>,
    partition_of_key: HashMap<Vec<u8>, i32>,
    split_keys: HashSet<Vec<u8>>,
    next_offset: HashMap<i32, i64>,
    /// Acknowledged messages that were not found yet.
    missing: u64,
    report: Report,
}

impl<P: Clone + Eq + Hash + fmt::Display> Verifier<P> {
    /// Returns a verifier against the ledger as it stands now: call it when the publishers are done.
    pub fn new(ledger: &Ledger<P>) -> Self {
        let acknowledged = ledger.acknowledged_count();
        Self {
            ledger: ledger.clone(),
            seen: HashMap::new(),
            newest: HashMap::new(),
            partition_of_key: HashMap::new(),
            split_keys: HashSet::new(),
            next_offset: HashMap::new(),
            missing: acknowledged,
            report: Report { acknowledged, ..Report::default() },
        }
    }

    /// Takes one record. Partitions may come in any order and interleaved.
    ///
    /// # Panics
    ///
    /// When the offsets of a partition do not rise: the reader is broken then, and the order can't be told.
    pub fn record(&mut self, found: Found<'_, P>) {
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
        self.note_partition_of_key(found.key, found.partition);
        if let Some((publisher, seq)) = found.message {
            self.compare(publisher, seq, found.partition);
        } else {
            self.report.corrupt += 1;
            self.report.example(|| format!("corrupt: partition {} offset {}", found.partition, found.offset));
        }
    }

    /// How many acknowledged messages were not found so far.
    pub fn missing(&self) -> u64 {
        self.missing
    }

    /// Returns the counts, after the last record.
    pub fn finish(mut self) -> Report {
        self.report.loss = self.missing;
        for (publisher, entries) in &self.ledger.publishers {
            if self.report.examples.len() >= EXAMPLES || self.missing == 0 {
                break;
            }
            let seen = self.seen.get(publisher);
            for seq in entries.acknowledged.iter().filter(|&seq| !seen.is_some_and(|seen| seen.contains(seq)))
            {
                self.report.example(|| format!("lost: {publisher} {seq}"));
            }
        }
        self.report.split_keys = self.split_keys.len() as u64;
        self.report
    }

    fn note_partition_of_key(&mut self, key: Option<&[u8]>, found_in: i32) {
        let Some(key) = key else { return };
        match self.partition_of_key.get(key) {
            None => {
                self.partition_of_key.insert(key.to_vec(), found_in);
            }
            Some(&partition) if partition != found_in && self.split_keys.insert(key.to_vec()) => {
                self.report.example(|| {
                    format!("split: key \"{}\" in partitions {partition} and {found_in}", key.escape_ascii())
                });
            }
            Some(_) => {}
        }
    }

    fn compare(&mut self, publisher: P, seq: u64, partition: i32) {
        let entries = self.ledger.publishers.get(&publisher);
        let Some(entries) = entries.filter(|entries| entries.sent.contains(seq)) else {
            self.report.phantom += 1;
            self.report.example(|| format!("phantom: {publisher} {seq}"));
            return;
        };
        let acknowledged = entries.acknowledged.contains(seq);
        if !self.seen.entry(publisher.clone()).or_default().insert(seq) {
            self.report.duplicates += 1;
            self.report.example(|| format!("duplicate: {publisher} {seq}"));
            return;
        }
        self.missing -= u64::from(acknowledged);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A ledger in which `publisher` sent and was promised the numbers `0..count`.
    fn promised(publisher: &str, count: u64) -> Ledger<String> {
        let mut ledger = Ledger::new();
        ledger.sent_all(publisher, 0..count);
        ledger.acknowledged_all(publisher, 0..count);
        ledger
    }

    /// Verifies messages of publisher `a` found at rising offsets: (partition, seq).
    fn verify(ledger: &Ledger<String>, found: &[(i32, u64)]) -> Report {
        let mut verifier = Verifier::new(ledger);
        for (offset, &(partition, seq)) in (0..).zip(found) {
            let message = Some(("a".to_owned(), seq));
            verifier.record(Found { partition, offset, key: Some(b"a"), message });
        }
        let missing = verifier.missing();
        let report = verifier.finish();
        assert_eq!(report.loss, missing);
        report
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
        let mut ledger = promised("a", 2);
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
    fn a_record_that_nobody_can_have_sent_is_corrupt() {
        let mut verifier = Verifier::new(&promised("a", 1));
        verifier.record(Found { partition: 0, offset: 0, key: None, message: None });
        let report = verifier.finish();
        assert_eq!((report.corrupt, report.loss), (1, 1));
    }

    #[test]
    #[should_panic(expected = "read backwards")]
    fn offsets_that_do_not_rise_stop_the_verification() {
        let ledger = promised("a", 2);
        let mut verifier = Verifier::new(&ledger);
        for seq in 0..2 {
            verifier.record(Found {
                partition: 0,
                offset: 5,
                key: None,
                message: Some(("a".to_owned(), seq)),
            });
        }
    }

    #[test]
    fn a_message_counts_once_however_often_it_is_noted() {
        let mut ledger = promised("a", 3);
        ledger.sent("a", 1);
        ledger.acknowledged("a", 1);
        assert_eq!((ledger.sent_count(), ledger.acknowledged_count()), (3, 3));
    }
}
