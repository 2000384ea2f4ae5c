//! One session as the log tells of it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tidegate_codec::PacketId;
use tidegate_session::{
    Delivery, DeliveryNumber, DueWill, Expiry, StoredInFlight, StoredSession, Subscription,
};

use crate::clock::Moment;
use crate::messages::Messages;
use crate::record::{Reference, SegmentNumber, Step};

/// What a subscription takes in the log beside its filter, about.
const SUBSCRIPTION_BYTES: u64 = 8;

/// What is kept of a session.
#[derive(Debug)]
pub(crate) struct Kept {
    client_id: Box<str>,
    /// Where its first record stands that counts.
    segment: SegmentNumber,
    subscriptions: BTreeMap<Box<str>, Subscription>,
    text_bytes: u64,
    received: VecDeque<PacketId>,
    in_flight: VecDeque<(PacketId, Option<Reference>)>,
    queue: VecDeque<(DeliveryNumber, Reference)>,
    posted: VecDeque<(DeliveryNumber, Reference)>,
    expiry: Expiry,
    will: Option<Box<DueWill>>,
    /// When its conversation ended; `None` while it goes on.
    away_since: Option<Moment>,
}

impl Kept {
    pub(crate) fn new(client_id: Box<str>, segment: SegmentNumber) -> Self {
        Self {
            text_bytes: client_id.len() as u64,
            client_id,
            segment,
            subscriptions: BTreeMap::new(),
            received: VecDeque::new(),
            in_flight: VecDeque::new(),
            queue: VecDeque::new(),
            posted: VecDeque::new(),
            expiry: Expiry::Now,
            will: None,
            away_since: None,
        }
    }

    pub(crate) fn segment(&self) -> SegmentNumber {
        self.segment
    }

    pub(crate) fn place(&mut self, segment: SegmentNumber) {
        self.segment = segment;
    }

    /// What its texts take in the log.
    pub(crate) fn text_bytes(&self) -> u64 {
        self.text_bytes
    }

    /// Applies a step, other than the first and the last.
    pub(crate) fn change(&mut self, step: Step, messages: &mut Messages) {
        match step {
            Step::Began { .. } | Step::Ended => {}
            Step::Connected { expiry, will } => {
                self.expiry = expiry;
                self.will = will;
                self.away_since = None;
            }
            Step::Disconnected { at, expiry, will } => {
                self.expiry = expiry;
                self.will = will;
                self.away_since = Some(at);
            }
            Step::WillDone => self.will = None,
            Step::Subscribed { filter, subscription } => {
                let bytes = SUBSCRIPTION_BYTES + filter.len() as u64;
                if self.subscriptions.insert(filter, subscription).is_none() {
                    self.text_bytes += bytes;
                }
            }
            Step::Unsubscribed { filter } => {
                if self.subscriptions.remove(&filter).is_some() {
                    self.text_bytes -= SUBSCRIPTION_BYTES + filter.len() as u64;
                }
            }
            Step::Posted { number, delivery } => {
                messages.refer(delivery.message);
                self.posted.push_back((number, delivery));
            }
            Step::Queued { number, delivery } => {
                messages.refer(delivery.message);
                self.take_waiting(number, messages);
                self.queue.push_back((number, delivery));
            }
            Step::Sent { number, packet_id, delivery } => {
                if let Some(delivery) = &delivery {
                    messages.refer(delivery.message);
                }
                if let Some(number) = number {
                    self.take_waiting(number, messages);
                }
                self.take_in_flight(packet_id, messages);
                self.in_flight.push_back((packet_id, delivery));
            }
            Step::Dropped { number } => self.take_waiting(number, messages),
            Step::Released { packet_id } => {
                let sent = self.in_flight.iter_mut().find(|(known, _)| *known == packet_id);
                if let Some(delivery) = sent.and_then(|(_, delivery)| delivery.take()) {
                    messages.unrefer(delivery.message);
                }
            }
            Step::Completed { packet_id } => self.take_in_flight(packet_id, messages),
            Step::Received { packet_id } => {
                if !self.received.contains(&packet_id) {
                    self.received.push_back(packet_id);
                }
            }
            Step::Forgotten { packet_id } => {
                if let Some(index) = self.received.iter().position(|known| *known == packet_id) {
                    self.received.remove(index);
                }
            }
        }
    }

    /// Removes a message that was posted or queued. The oldest go first, so it is found at the front.
    fn take_waiting(&mut self, number: DeliveryNumber, messages: &mut Messages) {
        for waiting in [&mut self.queue, &mut self.posted] {
            if let Some(index) = waiting.iter().position(|(known, _)| *known == number)
                && let Some((_, delivery)) = waiting.remove(index)
            {
                messages.unrefer(delivery.message);
                return;
            }
        }
    }

    fn take_in_flight(&mut self, packet_id: PacketId, messages: &mut Messages) {
        if let Some(index) = self.in_flight.iter().position(|(known, _)| *known == packet_id)
            && let Some((_, Some(delivery))) = self.in_flight.remove(index)
        {
            messages.unrefer(delivery.message);
        }
    }

    /// Brings the session to rest, as it was handed out when the process started.
    pub(crate) fn start(&mut self, at: Moment) {
        self.away_since.get_or_insert(at);
        self.queue.append(&mut self.posted);
    }

    /// Ends the session: nothing that it referred to is needed for it.
    pub(crate) fn release(self, messages: &mut Messages) {
        let waiting = self.queue.into_iter().chain(self.posted).map(|(_, delivery)| delivery);
        let in_flight = self.in_flight.into_iter().filter_map(|(_, delivery)| delivery);
        for delivery in waiting.chain(in_flight) {
            messages.unrefer(delivery.message);
        }
    }

    /// Forgets what refers to messages that are nowhere.
    pub(crate) fn forget_missing(&mut self, messages: &Messages) {
        let is_there = |delivery: &Reference| messages.get(delivery.message).is_some();
        self.queue.retain(|(_, delivery)| is_there(delivery));
        self.posted.retain(|(_, delivery)| is_there(delivery));
        self.in_flight.retain(|(_, delivery)| delivery.as_ref().is_none_or(is_there));
    }

    /// Returns steps that make the session what it is, after whatever came before them.
    pub(crate) fn checkpoint(&self) -> Vec<Step> {
        let (expiry, will) = (self.expiry, self.will.clone());
        let mut steps = vec![
            Step::Began { client_id: self.client_id.clone() },
            match self.away_since {
                Some(at) => Step::Disconnected { at, expiry, will },
                None => Step::Connected { expiry, will },
            },
        ];
        steps.extend(self.subscriptions.iter().map(|(filter, subscription)| Step::Subscribed {
            filter: filter.clone(),
            subscription: *subscription,
        }));
        steps.extend(self.received.iter().map(|&packet_id| Step::Received { packet_id }));
        steps.extend(self.in_flight.iter().map(|(packet_id, delivery)| Step::Sent {
            number: None,
            packet_id: *packet_id,
            delivery: delivery.clone(),
        }));
        let queued = |(number, delivery): &(_, Reference)| Step::Queued {
            number: *number,
            delivery: delivery.clone(),
        };
        steps.extend(self.queue.iter().map(queued));
        steps.extend(
            self.posted
                .iter()
                .map(|(number, delivery)| Step::Posted { number: *number, delivery: delivery.clone() }),
        );
        steps
    }

    /// Returns the session as it is at `now`, at rest. A conversation that nobody ended was lost with the process: the
    /// session and its will have all of their time before them.
    pub(crate) fn stored(&self, messages: &Messages, now: Moment) -> StoredSession {
        let away = self.away_since.map_or(Duration::ZERO, |since| now.since(since));
        let expiry = match self.expiry {
            Expiry::After(after) => match after.saturating_sub(away) {
                Duration::ZERO => Expiry::Now,
                left => Expiry::After(left),
            },
            expiry => expiry,
        };
        let will = self.will.as_ref().map(|will| {
            let ends = match expiry {
                Expiry::Now => Duration::ZERO,
                Expiry::After(after) => after,
                Expiry::Never => Duration::MAX,
            };
            // [MQTT5-3.1.2-8]: with the session at the latest.
            let delay = will.delay().saturating_sub(away).min(ends);
            DueWill::from_parts(will.message().clone(), will.expiry_interval(), delay)
        });
        let delivery = |reference: &Reference| {
            let message = Arc::clone(messages.get(reference.message)?);
            let Reference { qos, retain, ref identifiers, .. } = *reference;
            Some(Delivery { message, qos, retain, subscription_identifiers: identifiers.clone() })
        };
        let in_flight = self.in_flight.iter().filter_map(|(packet_id, reference)| {
            let delivery = match reference {
                Some(reference) => Some(delivery(reference)?),
                None => None,
            };
            Some(StoredInFlight { packet_id: *packet_id, delivery })
        });
        let waiting = self.queue.iter().chain(&self.posted);
        StoredSession {
            client_id: self.client_id.clone(),
            subscriptions: self.subscriptions.iter().map(|(filter, it)| (filter.clone(), *it)).collect(),
            received: self.received.iter().copied().collect(),
            in_flight: in_flight.collect(),
            queue: waiting.filter_map(|(number, reference)| Some((*number, delivery(reference)?))).collect(),
            expiry,
            will,
        }
    }
}
