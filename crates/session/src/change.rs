//! What a session that is to survive a restart tells of itself: its changes, in order, for whoever keeps them.

use std::num::NonZeroU64;

use tidegate_codec::PacketId;

use crate::message::DueWill;
use crate::{Delivery, Expiry, Subscription};

/// One change of a session. Those that its owner makes of it, rather than the session, say so.
///
/// The changes since [`Began`](Self::Began), applied in order, are what [`StoredSession`](crate::StoredSession) holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The session begins; whatever is known of that client identifier is over.
    Began {
        /// The client identifier.
        client_id: Box<str>,
    },
    /// A conversation begins.
    Connected {
        /// How long the session survives its end.
        expiry: Expiry,
        /// The will of the conversation.
        will: Option<Box<DueWill>>,
    },
    /// The conversation ended.
    Disconnected {
        /// When the session ends, counted from now.
        expiry: Expiry,
        /// The will that is due, now or after its delay.
        will: Option<Box<DueWill>>,
    },
    /// By the owner: the will that was due is published.
    WillDone,
    /// By the owner: the session is discarded.
    Ended,
    /// A subscription was made or replaced.
    Subscribed {
        /// The filter as the client wrote it.
        filter: Box<str>,
        /// What was granted.
        subscription: Subscription,
    },
    /// A subscription was removed.
    Unsubscribed {
        /// Its filter.
        filter: Box<str>,
    },
    /// By the owner: a message of QoS 1 or 2 is on its way to the session, which has yet to take it with
    /// [`Session::deliver_posted`](crate::Session::deliver_posted).
    Posted {
        /// Names it.
        number: DeliveryNumber,
        /// The message.
        delivery: Delivery,
    },
    /// A message of QoS 1 or 2 stands at the end of the queue.
    Queued {
        /// Names it; if it was posted, by the same number.
        number: DeliveryNumber,
        /// The message.
        delivery: Delivery,
    },
    /// A message of QoS 1 or 2 goes out for the first time.
    Sent {
        /// Its number, if it was posted or queued.
        number: Option<DeliveryNumber>,
        /// Its packet identifier.
        packet_id: PacketId,
        /// The message.
        delivery: Delivery,
    },
    /// A message that was posted or queued will not be sent.
    Dropped {
        /// Its number.
        number: DeliveryNumber,
    },
    /// PUBREC came for a QoS 2 message; only its identifier is needed now.
    Released {
        /// Its packet identifier.
        packet_id: PacketId,
    },
    /// PUBACK or PUBCOMP came, or the message is given up: its identifier is free.
    Completed {
        /// Its packet identifier.
        packet_id: PacketId,
    },
    /// A QoS 2 message of the client is safe: PUBREC is due, and its repeat is no new message.
    Received {
        /// Its packet identifier.
        packet_id: PacketId,
    },
    /// The client released a QoS 2 message, or knows of it no more: its identifier is free.
    Forgotten {
        /// Its packet identifier.
        packet_id: PacketId,
    },
}

/// Names a message on its way to one client, unique within the session.
///
/// The session numbers what it queues itself, its owner what it posts; neither has to know how far the other is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryNumber(NonZeroU64);

impl DeliveryNumber {
    /// Returns the `count`-th number of the owner. Counts above 2^63 repeat earlier ones.
    pub const fn posted(count: u64) -> Self {
        Self(NonZeroU64::MIN.saturating_add(count << 1))
    }

    /// Returns the count that [`posted`](Self::posted) made the number of; `None` for one of the session's own.
    pub fn as_posted(self) -> Option<u64> {
        (self.0.get() & 1 == 1).then_some(self.0.get() >> 1)
    }

    pub(crate) fn own(count: u64) -> Self {
        Self(NonZeroU64::MIN.saturating_add((count << 1) | 1))
    }

    pub(crate) fn as_own(self) -> Option<u64> {
        (self.0.get() & 1 == 0).then(|| (self.0.get() >> 1) - 1)
    }
}

impl From<NonZeroU64> for DeliveryNumber {
    fn from(number: NonZeroU64) -> Self {
        Self(number)
    }
}

impl From<DeliveryNumber> for NonZeroU64 {
    fn from(number: DeliveryNumber) -> Self {
        number.0
    }
}

/// Collects changes, if there is anybody who keeps them.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    is_on: bool,
    made: Vec<Change>,
}

impl Changes {
    pub(crate) fn is_on(&self) -> bool {
        self.is_on
    }

    pub(crate) fn turn(&mut self, is_on: bool) {
        self.is_on = is_on;
    }

    /// Records a change. For a session that nobody keeps this is one branch: `change` is not even made.
    pub(crate) fn record(&mut self, change: impl FnOnce() -> Change) {
        if self.is_on {
            self.made.push(change());
        }
    }

    pub(crate) fn take(&mut self, changes: &mut Vec<Change>) {
        changes.append(&mut self.made);
    }

    pub(crate) fn shrink(&mut self) {
        self.made.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_the_owner_and_of_the_session_never_meet() {
        for count in [0, 1, 7, 1 << 40] {
            assert_eq!(DeliveryNumber::posted(count).as_posted(), Some(count));
            assert_eq!(DeliveryNumber::own(count).as_own(), Some(count));
            assert_eq!(DeliveryNumber::posted(count).as_own(), None);
            assert_eq!(DeliveryNumber::own(count).as_posted(), None);
        }
    }
}
