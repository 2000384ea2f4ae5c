//! A session as a store gives it back.

use std::sync::Arc;

use tidegate_codec::PacketId;

use crate::message::DueWill;
use crate::{Delivery, DeliveryNumber, Expiry, Farewell, Limits, Session, Subscription};

/// What a session is without a conversation: what [`Change`](crate::Change)s add up to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSession {
    /// The client identifier.
    pub client_id: Box<str>,
    /// The subscriptions by filter, each once, in any order.
    pub subscriptions: Vec<(Box<str>, Subscription)>,
    /// Identifiers of QoS 2 messages of the client that are safe and not released.
    pub received: Vec<PacketId>,
    /// What is on its way to the client, in the order of the first transmission.
    pub in_flight: Vec<StoredInFlight>,
    /// What waits for the client, in order.
    pub queue: Vec<(DeliveryNumber, Delivery)>,
    /// When the session ends, counted from now.
    pub expiry: Expiry,
    /// The will that is still due; its delay counts from now.
    pub will: Option<DueWill>,
}

/// A message of QoS 1 or 2 on its way to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredInFlight {
    /// Its packet identifier.
    pub packet_id: PacketId,
    /// The message, or `None` after PUBREC.
    pub delivery: Option<Delivery>,
}

impl Session {
    /// Returns the session at rest, as after [`end`](Self::end), and what is left to do about its will and expiry.
    /// It goes on recording changes.
    ///
    /// What `limits` would no longer let in stays.
    pub fn restore(stored: StoredSession, limits: Arc<Limits>) -> (Self, Farewell) {
        let StoredSession { client_id, mut subscriptions, received, in_flight, queue, expiry, will } = stored;
        subscriptions.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let mut session = Self::new(&client_id, limits);
        session.subscriptions = subscriptions;
        session.inbound.restore(received);
        session.outbound.restore(in_flight, queue);
        session.expiry = expiry;
        session.changes.turn(true);
        (session, Farewell { will, session_expiry: expiry })
    }
}
