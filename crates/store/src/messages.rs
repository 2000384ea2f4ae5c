//! Messages under numbers, each once, with the count of those that refer to it.

use std::sync::Arc;

use ahash::AHashMap;
use tidegate_session::Message;

use crate::record::{MessageNumber, SegmentNumber};

/// What a message takes in the log beside its topic and payload, about.
const MESSAGE_BYTES: u64 = 16;
/// What a reference takes in the log, about.
const REFERENCE_BYTES: u64 = 16;

/// The messages that something refers to.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    slots: AHashMap<MessageNumber, Slot>,
    /// The numbers of messages by their address, which is theirs alone as long as a slot holds them.
    numbers: AHashMap<usize, MessageNumber>,
    next: MessageNumber,
    /// Messages that lost a reference, and may have none left.
    unreferenced: Vec<MessageNumber>,
    bytes: u64,
}

#[derive(Debug)]
struct Slot {
    /// `None` while only references were read: a message that was moved stands behind them.
    message: Option<Arc<Message>>,
    references: u32,
    segment: SegmentNumber,
}

impl Messages {
    /// Returns the number of a message that is known.
    pub(crate) fn number_of(&self, message: &Arc<Message>) -> Option<MessageNumber> {
        self.numbers.get(&address(message)).copied()
    }

    /// Returns a number that no message had.
    pub(crate) fn next_number(&self) -> MessageNumber {
        self.next
    }

    pub(crate) fn get(&self, number: MessageNumber) -> Option<&Arc<Message>> {
        self.slots.get(&number)?.message.as_ref()
    }

    /// Returns the message if its record stands in that segment.
    pub(crate) fn placed_in(&self, number: MessageNumber, segment: SegmentNumber) -> Option<&Arc<Message>> {
        let slot = self.slots.get(&number).filter(|slot| slot.segment == segment)?;
        slot.message.as_ref()
    }

    /// Takes note that the record of a message, new or known, stands in that segment.
    pub(crate) fn place(&mut self, number: MessageNumber, message: Arc<Message>, segment: SegmentNumber) {
        self.next = self.next.max(number.saturating_add(1));
        let slot = self.slots.entry(number).or_insert(Slot { message: None, references: 0, segment });
        slot.segment = segment;
        if slot.references == 0 {
            self.unreferenced.push(number);
        }
        if slot.message.is_none() {
            self.bytes += bytes_of(&message);
            self.numbers.insert(address(&message), number);
            slot.message = Some(message);
        }
    }

    pub(crate) fn refer(&mut self, number: MessageNumber) {
        self.next = self.next.max(number.saturating_add(1));
        let slot = self.slots.entry(number).or_insert(Slot { message: None, references: 0, segment: 0 });
        slot.references += 1;
        self.bytes += REFERENCE_BYTES;
    }

    pub(crate) fn unrefer(&mut self, number: MessageNumber) {
        let Some(slot) = self.slots.get_mut(&number) else { return };
        slot.references = slot.references.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(REFERENCE_BYTES);
        if slot.references == 0 {
            self.unreferenced.push(number);
        }
    }

    /// Forgets messages that nothing refers to any more. Due after each batch, not within one: a checkpoint takes all
    /// references of a session away before it makes them again. While a log is read it is due at the end only: what
    /// counts a message may stand far behind it.
    pub(crate) fn sweep(&mut self) {
        for number in std::mem::take(&mut self.unreferenced) {
            if self.slots.get(&number).is_some_and(|slot| slot.references == 0)
                && let Some(Slot { message: Some(message), .. }) = self.slots.remove(&number)
            {
                self.bytes -= bytes_of(&message);
                self.numbers.remove(&address(&message));
            }
        }
    }

    /// Forgets what was referred to and never came, and returns how many messages that were.
    pub(crate) fn forget_missing(&mut self) -> usize {
        let before = self.slots.len();
        self.slots.retain(|_, slot| slot.message.is_some());
        before - self.slots.len()
    }

    /// Returns about as many bytes as messages and references take in the log.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }
}

fn address(message: &Arc<Message>) -> usize {
    Arc::as_ptr(message).addr()
}

fn bytes_of(message: &Message) -> u64 {
    MESSAGE_BYTES + (message.topic().len() + message.payload().len()) as u64
}
