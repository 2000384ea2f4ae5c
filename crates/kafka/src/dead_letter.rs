//! Where records go that Kafka will never take, so that nothing waits for them and nobody loses them: a topic, or a file.
//!
//! A dead letter is the record as it was, with headers that say what happened to it. In a topic it travels like any other
//! record, so it is retried, spilled and acknowledged like one. If the topic refuses it as too large it goes again with
//! its value cut off; if it is refused once more it is rejected, as without dead letters: it never goes in a circle.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use tidegate_sink::{Outcome, Record, Rejection};

use crate::dead_letter_file::FileQueue;
use crate::producer::Shared;
use crate::record_batch::{SealedBatch, Ticket, budget_bytes, for_each_record, unpacked};

/// The header that says why, with a [`Rejection::name`].
const REASON: &str = "dead_letter.reason";
/// The header that says from which source (for a broker: rule) the record came.
const SOURCE: &str = "dead_letter.rule";
/// The header that says where the record should have gone.
const TOPIC: &str = "dead_letter.topic";
/// The header that says when the record was given up, in milliseconds since the Unix epoch.
const TIME: &str = "dead_letter.time";
/// The header that says how many bytes the value had before it was cut off.
const VALUE_BYTES: &str = "dead_letter.value_bytes";

/// What is kept of key, value and the record's own headers, each, where the whole is too large for the topic of dead
/// letters too.
const KEPT_BYTES: usize = 16 * 1024;

/// Where records go that Kafka will never take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeadLetter {
    /// A topic of the same Kafka. Records that are offered for it directly are refused, and so become dead letters.
    Topic(String),
    /// A file on this machine.
    File(DeadLetterFile),
}

/// A file of dead letters: one JSON object a line, synced before its record counts as delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetterFile {
    /// The file that is written to. Older ones have `.1`, `.2` and so on behind their names.
    pub path: PathBuf,
    /// Another file is begun when this one has so many bytes.
    pub max_bytes: u64,
    /// Files that are kept, the one that is written to included: the oldest is removed for the next.
    pub files: usize,
}

impl DeadLetterFile {
    /// Eight files of 64 MiB at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), max_bytes: 64 << 20, files: 8 }
    }
}

/// A producer's way to its dead letters.
#[derive(Debug)]
pub(crate) enum DeadLetters {
    Topic(Arc<str>),
    File(FileQueue),
}

impl DeadLetters {
    pub(crate) fn new(config: &DeadLetter) -> Self {
        match config {
            DeadLetter::Topic(name) => Self::Topic(name.as_str().into()),
            DeadLetter::File(file) => Self::File(FileQueue::new(file.clone())),
        }
    }
}

/// What is known of a record that was given up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cause<'a> {
    pub(crate) reason: Rejection,
    pub(crate) source: &'a str,
    pub(crate) time_ms: u64,
}

type Header<'a> = (&'a str, Option<&'a [u8]>);

impl Shared {
    /// Whether `topic` holds the dead letters.
    pub(crate) fn is_for_dead_letters(&self, topic: &str) -> bool {
        matches!(&self.dead_letters, Some(DeadLetters::Topic(name)) if **name == *topic)
    }

    /// The queue into the file of dead letters, if they go to one.
    pub(crate) fn dead_letter_file(&self) -> Option<&FileQueue> {
        match &self.dead_letters {
            Some(DeadLetters::File(queue)) => Some(queue),
            Some(DeadLetters::Topic(_)) | None => None,
        }
    }

    /// Ends a record that Kafka will never take, which may be a dead letter itself.
    pub(crate) fn reject(self: &Arc<Self>, record: &Record<'_>, ticket: Ticket, reason: Rejection) {
        if !self.is_for_dead_letters(record.topic) {
            return self.give_up(record, ticket, reason);
        }
        let is_whole = !record.headers.iter().any(|(name, _)| *name == VALUE_BYTES);
        if reason == Rejection::TooLarge && is_whole {
            return self.send_cut(record, ticket);
        }
        self.settle_one(ticket, Outcome::Rejected(reason));
    }

    /// Ends a record that Kafka will never take and that is no dead letter: it becomes one, where there are any.
    pub(crate) fn give_up(self: &Arc<Self>, record: &Record<'_>, ticket: Ticket, reason: Rejection) {
        let Some(dead_letters) = &self.dead_letters else {
            return self.settle_one(ticket, Outcome::Rejected(reason));
        };
        let source = self.meter.books.source(ticket.source);
        let elapsed = UNIX_EPOCH.elapsed().unwrap_or_default();
        let time_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        let cause = Cause { reason, source: &source.name, time_ms };
        match dead_letters {
            DeadLetters::Topic(topic) => self.send(topic, record, ticket, cause),
            DeadLetters::File(queue) => {
                if let Err(ticket) = queue.push(record, ticket, cause, self.budget.limit()) {
                    self.settle_one(ticket, Outcome::Rejected(reason));
                }
            }
        }
    }

    /// Sends a record to the topic of dead letters.
    fn send(self: &Arc<Self>, topic: &str, record: &Record<'_>, ticket: Ticket, cause: Cause<'_>) {
        let time = cause.time_ms.to_string();
        let mut headers = Vec::with_capacity(4 + record.headers.len());
        headers.extend([
            (REASON, Some(cause.reason.name().as_bytes())),
            (SOURCE, Some(cause.source.as_bytes())),
            (TOPIC, Some(record.topic.as_bytes())),
            (TIME, Some(time.as_bytes())),
        ]);
        // A device could say so too, with a user property.
        headers.extend(record.headers.iter().filter(|(name, _)| !is_ours(name)));
        self.send_letter(&Record { topic, headers: &headers, partition: None, ..*record }, ticket);
    }

    /// Sends a dead letter again without what makes it large.
    fn send_cut(self: &Arc<Self>, letter: &Record<'_>, ticket: Ticket) {
        let length = letter.value.map_or(0, <[u8]>::len).to_string();
        let mut room = KEPT_BYTES;
        let kept = letter.headers.iter().filter(|(name, value)| {
            let size = name.len() + value.map_or(0, <[u8]>::len);
            is_ours(name) || {
                let fits = size <= room;
                room = if fits { room - size } else { 0 };
                fits
            }
        });
        let mut headers: Vec<Header<'_>> = kept.copied().collect();
        headers.push((VALUE_BYTES, Some(length.as_bytes())));
        let cut = |blob: &[u8]| blob.len().min(KEPT_BYTES);
        let letter = Record {
            key: letter.key.map(|key| &key[..cut(key)]),
            value: letter.value.map(|value| &value[..cut(value)]),
            headers: &headers,
            ..*letter
        };
        self.send_letter(&letter, ticket);
    }

    fn send_letter(self: &Arc<Self>, letter: &Record<'_>, ticket: Ticket) {
        let charged = budget_bytes(letter);
        self.budget.take(charged);
        self.budget.give_back(ticket.charged);
        if let Err(ended) = self.offer(letter, Ticket { charged, ..ticket }) {
            match ended.outcome {
                Outcome::Rejected(reason) => self.reject(letter, ended.ticket, reason),
                outcome @ (Outcome::Delivered | Outcome::Lost) => self.settle_one(ended.ticket, outcome),
            }
        }
        self.flush();
    }

    /// Ends the records of a batch that Kafka will never take.
    pub(crate) fn reject_batch(self: &Arc<Self>, topic: &str, mut batch: SealedBatch, reason: Rejection) {
        if self.dead_letters.is_none() {
            return self.settle_batch(batch, Outcome::Rejected(reason));
        }
        let mut charged = batch.charged();
        let mut acks = batch.take_acks().into_iter();
        let mut sources = batch.sources.each();
        let bytes = unpacked(batch.bytes()).expect("what this crate packed, it unpacks").into_owned();
        for_each_record(&bytes, topic, |_, record| {
            let ack = acks.next().flatten();
            let source = sources.next().unwrap_or_default();
            // A batch that can't be split has one record, which has the whole charge.
            let ticket = Ticket { source, ack, charged: std::mem::take(&mut charged) };
            self.reject(record, ticket, reason);
        });
    }

    /// Counts the dead letters of a batch that Kafka has taken.
    pub(crate) fn count_dead_letters(&self, batch: &SealedBatch) {
        let mut sources = batch.sources.each();
        let bytes = unpacked(batch.bytes()).expect("what this crate packed, it unpacks");
        for_each_record(&bytes, "", |_, record| {
            let named = record.headers.iter().find(|(name, _)| *name == REASON).and_then(|(_, value)| *value);
            let reason = named.and_then(Rejection::named).unwrap_or(Rejection::Invalid);
            self.meter.books.dead_lettered(sources.next().unwrap_or_default(), reason);
        });
    }
}

/// Whether a header says what happened to a record.
fn is_ours(name: &str) -> bool {
    [REASON, SOURCE, TOPIC, TIME, VALUE_BYTES].contains(&name)
}
