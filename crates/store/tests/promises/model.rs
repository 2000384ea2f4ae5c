//! What a store should hold: the plainest way to apply changes that there could be.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidegate_session::{Change, Delivery, DeliveryNumber, Expiry, Message, StoredInFlight, StoredSession};
use tidegate_store::{Recovered, SessionKey};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Model {
    sessions: BTreeMap<SessionKey, ModelSession>,
    retained: BTreeMap<String, Arc<Message>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct ModelSession {
    stored: StoredSession,
    posted: Vec<(DeliveryNumber, Delivery)>,
}

impl Model {
    pub(crate) fn apply(&mut self, key: SessionKey, change: Change) {
        if let Change::Began { client_id } = change {
            let stored = StoredSession {
                client_id,
                subscriptions: Vec::new(),
                received: Vec::new(),
                in_flight: Vec::new(),
                queue: Vec::new(),
                expiry: Expiry::Now,
                will: None,
            };
            self.sessions.insert(key, ModelSession { stored, posted: Vec::new() });
        } else if change == Change::Ended {
            self.sessions.remove(&key);
        } else if let Some(session) = self.sessions.get_mut(&key) {
            session.apply(change);
        }
    }

    pub(crate) fn retain(&mut self, message: &Arc<Message>) {
        if message.payload().is_empty() {
            self.retained.remove(message.topic());
        } else {
            self.retained.insert(message.topic().into(), Arc::clone(message));
        }
    }

    /// What a restart makes of it.
    pub(crate) fn after_restart(&self) -> Self {
        let mut model = self.clone();
        let mut latest = BTreeMap::new();
        for (key, session) in &model.sessions {
            latest.insert(session.stored.client_id.clone(), *key);
        }
        model.sessions.retain(|key, session| latest[&session.stored.client_id] == *key);
        for session in model.sessions.values_mut() {
            session.stored.queue.append(&mut session.posted);
            session.stored.subscriptions.sort_by(|(a, _), (b, _)| a.cmp(b));
        }
        model
    }

    pub(crate) fn of(recovered: &Recovered) -> Self {
        let session = |stored: &StoredSession| ModelSession { stored: stored.clone(), posted: Vec::new() };
        let mut model = Self {
            sessions: recovered.sessions.iter().map(|(key, stored)| (*key, session(stored))).collect(),
            retained: BTreeMap::new(),
        };
        for message in &recovered.retained {
            assert!(model.retained.insert(message.topic().into(), Arc::clone(message)).is_none());
        }
        for session in model.sessions.values_mut() {
            session.stored.subscriptions.sort_by(|(a, _), (b, _)| a.cmp(b));
        }
        model
    }

    /// A line for each session and retained message.
    pub(crate) fn summary(&self) -> Vec<String> {
        let size = |delivery: &Delivery| (delivery.message.payload().len(), delivery.qos.as_u8());
        let waiting = |waiting: &[(DeliveryNumber, Delivery)]| {
            waiting.iter().map(|(number, delivery)| (*number, size(delivery))).collect::<Vec<_>>()
        };
        let mut lines = Vec::new();
        for (key, ModelSession { stored, posted }) in &self.sessions {
            let in_flight: Vec<_> = stored
                .in_flight
                .iter()
                .map(|message| (message.packet_id.get(), message.delivery.as_ref().map(size)))
                .collect();
            lines.push(format!(
                "{key:?} {} received {:?} in flight {in_flight:?} queue {:?} posted {:?} expiry {:?} will {:?} filters {:?}",
                stored.client_id,
                stored.received,
                waiting(&stored.queue),
                waiting(posted),
                stored.expiry,
                stored.will.as_ref().map(tidegate_session::DueWill::delay),
                stored.subscriptions.iter().map(|(filter, _)| filter).collect::<Vec<_>>(),
            ));
        }
        lines.extend(
            self.retained.iter().map(|(topic, message)| format!("{topic} {}", message.payload().len())),
        );
        lines
    }

    pub(crate) fn sessions(&self) -> usize {
        self.sessions.len()
    }
}

impl ModelSession {
    fn apply(&mut self, change: Change) {
        let stored = &mut self.stored;
        match change {
            Change::Began { .. } | Change::Ended => {}
            Change::Connected { expiry, will } | Change::Disconnected { expiry, will } => {
                stored.expiry = expiry;
                stored.will = will.map(|will| *will);
            }
            Change::WillDone => stored.will = None,
            Change::Subscribed { filter, subscription } => {
                stored.subscriptions.retain(|(known, _)| *known != filter);
                stored.subscriptions.push((filter, subscription));
            }
            Change::Unsubscribed { filter } => stored.subscriptions.retain(|(known, _)| *known != filter),
            Change::Posted { number, delivery } => self.posted.push((number, delivery)),
            Change::Queued { number, delivery } => {
                self.take(number);
                self.stored.queue.push((number, delivery));
            }
            Change::Sent { number, packet_id, delivery } => {
                if let Some(number) = number {
                    self.take(number);
                }
                self.stored.in_flight.push(StoredInFlight { packet_id, delivery: Some(delivery) });
            }
            Change::Dropped { number } => self.take(number),
            Change::Released { packet_id } => {
                for message in stored.in_flight.iter_mut().filter(|message| message.packet_id == packet_id) {
                    message.delivery = None;
                }
            }
            Change::Completed { packet_id } => {
                stored.in_flight.retain(|message| message.packet_id != packet_id);
            }
            Change::Received { packet_id } => stored.received.push(packet_id),
            Change::Forgotten { packet_id } => stored.received.retain(|known| *known != packet_id),
        }
    }

    fn take(&mut self, number: DeliveryNumber) {
        self.posted.retain(|(known, _)| *known != number);
        self.stored.queue.retain(|(known, _)| *known != number);
    }
}
