//! What the log adds up to.
//!
//! The log is a sequence of changes, so somebody has to know what they add up to: for the start, and for moving what
//! is needed out of the oldest segment. Payloads are not held a second time: a message is the `Arc` that the sessions
//! hold as well. The rest is: about 60 bytes for each message that waits for a client, 250 and the length of its
//! filters for each session.

use ahash::AHashMap;
use tidegate_session::StoredSession;

use crate::SessionKey;
use crate::clock::Moment;
use crate::kept::Kept;
use crate::messages::Messages;
use crate::record::{MessageNumber, Record, SegmentNumber, Step};

/// What the beginning and the end of a conversation take in the log, about.
const SESSION_BYTES: u64 = 64;
/// What a retained message takes in the log beside the message, about.
const RETAINED_BYTES: u64 = 32;

/// All that is needed of a log.
#[derive(Debug, Default)]
pub(crate) struct Mirror {
    pub(crate) messages: Messages,
    sessions: AHashMap<SessionKey, Kept>,
    retained: AHashMap<Box<str>, Retained>,
    /// What sessions and retained messages take in the log, without messages and references.
    text_bytes: u64,
    next_session: u64,
    next_posting: u64,
}

#[derive(Debug, Clone, Copy)]
struct Retained {
    number: MessageNumber,
    segment: SegmentNumber,
}

/// What a segment is needed for from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placed {
    Message(MessageNumber),
    /// By the number of its message.
    Retained(MessageNumber),
    Session(SessionKey),
}

impl Mirror {
    /// Applies a record that stands in `segment`, and returns what the segment is needed for because of it. A record
    /// that refers to nothing is ignored: only damage makes one.
    pub(crate) fn apply(&mut self, record: Record, segment: SegmentNumber) -> Option<Placed> {
        match record {
            Record::Message { number, message } => {
                self.messages.place(number, message, segment);
                Some(Placed::Message(number))
            }
            Record::Retained { topic, number } => {
                self.messages.refer(number);
                match self.retained.insert(topic, Retained { number, segment }) {
                    Some(before) => self.messages.unrefer(before.number),
                    None => self.text_bytes += RETAINED_BYTES,
                }
                Some(Placed::Retained(number))
            }
            Record::Unretained { topic } => {
                if let Some(before) = self.retained.remove(&topic) {
                    self.text_bytes -= RETAINED_BYTES;
                    self.messages.unrefer(before.number);
                }
                None
            }
            Record::Started { at } => {
                self.sessions.values_mut().for_each(|kept| kept.start(at));
                None
            }
            Record::Session { key, step } => self.step(key, step, segment).then_some(Placed::Session(key)),
        }
    }

    /// Applies a step, and returns whether a session began with it.
    fn step(&mut self, key: SessionKey, step: Step, segment: SegmentNumber) -> bool {
        self.next_session = self.next_session.max(key.0.saturating_add(1));
        if let Step::Posted { number, .. } | Step::Queued { number, .. } = &step
            && let Some(count) = number.as_posted()
        {
            self.next_posting = self.next_posting.max(count.saturating_add(1));
        }
        match step {
            Step::Began { client_id } => {
                self.end(key);
                let kept = Kept::new(client_id, segment);
                self.text_bytes += SESSION_BYTES + kept.text_bytes();
                self.sessions.insert(key, kept);
                return true;
            }
            Step::Ended => self.end(key),
            step => {
                if let Some(kept) = self.sessions.get_mut(&key) {
                    let before = kept.text_bytes();
                    kept.change(step, &mut self.messages);
                    self.text_bytes = self.text_bytes - before + kept.text_bytes();
                }
            }
        }
        false
    }

    fn end(&mut self, key: SessionKey) {
        if let Some(kept) = self.sessions.remove(&key) {
            self.text_bytes -= SESSION_BYTES + kept.text_bytes();
            kept.release(&mut self.messages);
        }
    }

    pub(crate) fn has_session(&self, key: SessionKey) -> bool {
        self.sessions.contains_key(&key)
    }

    /// Returns a session of which the first record that counts stands in that segment.
    pub(crate) fn session_in(&self, key: SessionKey, segment: SegmentNumber) -> Option<&Kept> {
        self.sessions.get(&key).filter(|kept| kept.segment() == segment)
    }

    /// Takes note that a session was written anew.
    pub(crate) fn move_session(&mut self, key: SessionKey, segment: SegmentNumber) {
        if let Some(kept) = self.sessions.get_mut(&key) {
            kept.place(segment);
        }
    }

    /// Returns the topic of the message if its being retained stands in that segment.
    pub(crate) fn retained_in(&self, number: MessageNumber, segment: SegmentNumber) -> Option<&str> {
        let topic = self.messages.get(number)?.topic();
        let retained = self.retained.get(topic)?;
        (retained.number == number && retained.segment == segment).then_some(topic)
    }

    pub(crate) fn has_retained(&self, topic: &str) -> bool {
        self.retained.contains_key(topic)
    }

    /// Ends the reading of a log, and returns how many messages something refers to that are nowhere.
    pub(crate) fn complete(&mut self) -> usize {
        self.messages.sweep();
        for kept in self.sessions.values_mut() {
            kept.forget_missing(&self.messages);
        }
        self.retained.retain(|_, retained| self.messages.get(retained.number).is_some());
        self.messages.forget_missing()
    }

    /// Returns the sessions in the order of their keys, which is that of their beginnings.
    pub(crate) fn sessions(&self, now: Moment) -> Vec<(SessionKey, StoredSession)> {
        let mut sessions: Vec<_> =
            self.sessions.iter().map(|(key, kept)| (*key, kept.stored(&self.messages, now))).collect();
        sessions.sort_unstable_by_key(|(key, _)| *key);
        sessions
    }

    /// Returns the numbers of the retained messages, with their topics.
    pub(crate) fn retained(&self) -> impl Iterator<Item = (&str, MessageNumber)> {
        self.retained.iter().map(|(topic, retained)| (&**topic, retained.number))
    }

    /// Returns a key that no session had, and a count that no posting had.
    pub(crate) fn next_numbers(&self) -> (u64, u64) {
        (self.next_session, self.next_posting)
    }

    /// Returns about as many bytes as all of this takes in the log.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.messages.bytes() + self.text_bytes
    }

    /// Returns how many sessions, messages and retained messages there are.
    pub(crate) fn counts(&self) -> [usize; 3] {
        [self.sessions.len(), self.messages.len(), self.retained.len()]
    }
}
