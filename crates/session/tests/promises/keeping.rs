//! What a session tells a store, and that it is the same session when it comes back from there.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tidegate_codec::{
    Packet, PublishProperties, ReasonCode, Subscribe, SubscribeFilter, Unsubscribe, Version, Will,
};
use tidegate_session::{
    Change, Delivered, Delivery, DeliveryNumber, Ended, Expiry, Farewell, Identifiers, Limits, Message,
    Session, SessionState, StoredInFlight, StoredSession,
};

use crate::harness::{Harness, Q1, Q2, VERSIONS, id, publish, repeated, resumable};

/// What a store makes of changes: the plainest there could be.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    stored: StoredSession,
    posted: VecDeque<(DeliveryNumber, Delivery)>,
    is_ended: bool,
}

impl Kept {
    pub(crate) fn new() -> Self {
        let stored = StoredSession {
            client_id: "".into(),
            subscriptions: Vec::new(),
            received: Vec::new(),
            in_flight: Vec::new(),
            queue: Vec::new(),
            expiry: Expiry::Now,
            will: None,
        };
        Self { stored, posted: VecDeque::new(), is_ended: true }
    }

    pub(crate) fn apply(&mut self, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            self.apply_one(change);
        }
    }

    fn apply_one(&mut self, change: Change) {
        let stored = &mut self.stored;
        match change {
            Change::Began { client_id } => {
                *self = Self::new();
                self.stored.client_id = client_id;
                self.is_ended = false;
            }
            Change::Connected { expiry, will } | Change::Disconnected { expiry, will } => {
                stored.expiry = expiry;
                stored.will = will.map(|will| *will);
            }
            Change::WillDone => stored.will = None,
            Change::Ended => *self = Self::new(),
            Change::Subscribed { filter, subscription } => {
                stored.subscriptions.retain(|(known, _)| *known != filter);
                stored.subscriptions.push((filter, subscription));
            }
            Change::Unsubscribed { filter } => stored.subscriptions.retain(|(known, _)| *known != filter),
            Change::Posted { number, delivery } => self.posted.push_back((number, delivery)),
            Change::Queued { number, delivery } => {
                self.take(number);
                self.stored.queue.push((number, delivery));
            }
            Change::Sent { number, packet_id, delivery } => {
                assert!(number.is_none_or(|number| self.take(number)), "{number:?} is not waiting");
                let is_known = self.stored.in_flight.iter().any(|message| message.packet_id == packet_id);
                assert!(!is_known, "{packet_id:?} is in flight already");
                self.stored.in_flight.push(StoredInFlight { packet_id, delivery: Some(delivery) });
            }
            Change::Dropped { number } => assert!(self.take(number), "{number:?} is not waiting"),
            Change::Released { packet_id } => {
                let message = stored.in_flight.iter_mut().find(|message| message.packet_id == packet_id);
                assert!(message.expect("in flight").delivery.take().is_some());
            }
            Change::Completed { packet_id } => {
                let before = stored.in_flight.len();
                stored.in_flight.retain(|message| message.packet_id != packet_id);
                assert_eq!(stored.in_flight.len() + 1, before, "{packet_id:?} is in flight");
            }
            Change::Received { packet_id } => {
                assert!(!stored.received.contains(&packet_id));
                stored.received.push(packet_id);
            }
            Change::Forgotten { packet_id } => {
                let before = stored.received.len();
                stored.received.retain(|known| *known != packet_id);
                assert_eq!(stored.received.len() + 1, before, "{packet_id:?} was received");
            }
        }
    }

    fn take(&mut self, number: DeliveryNumber) -> bool {
        let waiting = self.posted.len() + self.stored.queue.len();
        self.posted.retain(|(known, _)| *known != number);
        self.stored.queue.retain(|(known, _)| *known != number);
        waiting > self.posted.len() + self.stored.queue.len()
    }

    /// What is left after the process was killed: what had been posted stands behind what had been queued.
    pub(crate) fn restore(&mut self, limits: Limits) -> (Session, Farewell) {
        assert!(!self.is_ended);
        self.stored.queue.extend(self.posted.drain(..));
        Session::restore(self.stored.clone(), Arc::new(limits))
    }
}

fn recording() -> Limits {
    Limits { record_changes: true, ..Limits::default() }
}

fn kept(version: Version) -> Harness {
    Harness::with(&resumable(version), recording())
}

impl Harness {
    pub(crate) fn changes(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        self.session.take_changes(&mut changes);
        changes
    }
}

fn delivery(topic: &str, qos: tidegate_codec::QoS) -> Delivery {
    let message = Arc::new(Message::new(topic, b"1", qos, false));
    Delivery { message, qos, retain: false, subscription_identifiers: Identifiers::None }
}

/// Kills the process and brings the client back; returns what it is sent.
fn restart(harness: &mut Harness, kept: &mut Kept, version: Version) -> Vec<String> {
    kept.apply(harness.changes());
    harness.packets();
    harness.session = kept.restore(recording()).0;
    harness.connect(&resumable(version), SessionState::Resumed);
    kept.apply(harness.changes());
    harness.sent()
}

#[test]
fn a_session_that_ends_with_its_connection_records_nothing() {
    let mut harness = Harness::with(&tidegate_codec::Connect::new(Version::V5, "pump-7"), recording());
    assert!(!harness.session.is_kept());
    harness.deliver("a", Q2);
    let token = harness.publish(publish(Q2, 1)).unwrap();
    harness.acknowledge(token, ReasonCode::Success);
    harness.end(Ended::ByClient);
    assert_eq!(harness.changes(), []);
}

#[test]
fn without_a_store_nothing_is_recorded() {
    let mut harness = Harness::connected(Version::V5);
    assert!(!harness.session.is_kept());
    harness.deliver("a", Q2);
    assert_eq!(harness.changes(), []);
}

#[test]
fn what_was_in_flight_and_queued_goes_on_after_a_restart_where_it_stood() {
    for version in VERSIONS {
        let mut harness = kept(version);
        let mut store = Kept::new();
        for (topic, qos) in [("a", Q1), ("b", Q2), ("c", Q2), ("d", Q1)] {
            assert_eq!(harness.deliver(topic, qos), Delivered::Sent);
        }
        harness.pubrec(3);
        harness.puback(1);
        harness.session.set_congested(true);
        assert_eq!(harness.deliver("e", Q2), Delivered::Queued);
        let mut expected = ["PUBLISH q2 #2 DUP b", "PUBREL #3", "PUBLISH q1 #4 DUP d", "PUBLISH q2 #5 e"];
        assert_eq!(restart(&mut harness, &mut store, version)[1..], expected);
        expected[3] = "PUBLISH q2 #5 DUP e";
        assert_eq!(restart(&mut harness, &mut store, version)[1..], expected, "as often as it takes");
    }
}

#[test]
fn mqtt5_4_3_3_10_a_received_qos_2_message_is_no_new_one_after_a_restart() {
    for version in VERSIONS {
        let mut harness = kept(version);
        let mut store = Kept::new();
        let token = harness.publish(publish(Q2, 7)).unwrap();
        harness.acknowledge(token, ReasonCode::Success);
        let unsettled = harness.publish(publish(Q2, 8));
        assert!(unsettled.is_some());
        restart(&mut harness, &mut store, version);

        harness.handle(&Packet::Publish(repeated(Q2, 7)));
        assert_eq!(harness.sent(), ["PUBREC #7"]);
        assert!(harness.publish(repeated(Q2, 8)).is_some(), "nobody was told that 8 is safe");
        harness.pubrel(7);
        assert_eq!(harness.sent(), ["PUBCOMP #7"]);
        restart(&mut harness, &mut store, version);
        assert!(harness.publish(publish(Q2, 7)).is_some(), "7 was released");
    }
}

#[test]
fn subscriptions_come_back_with_their_options() {
    let mut harness = kept(Version::V5);
    let mut store = Kept::new();
    let filters = ["a/+", "b", "c"].map(|filter| SubscribeFilter::new(filter, Q2)).to_vec();
    let request =
        Subscribe { packet_id: id(1), subscription_identifier: 9.try_into().ok(), filters, ..subscribe() };
    let refused = Err(ReasonCode::NotAuthorized);
    harness.session.subscribed(&request, &[Ok(Q1), Ok(Q2), refused], &mut harness.out);
    let request = Unsubscribe { packet_id: id(2), filters: vec!["b", "zzz"], ..unsubscribe() };
    harness.session.unsubscribed(&request, &mut harness.out);
    let before: Vec<_> =
        harness.session.subscriptions().map(|(filter, it)| (filter.to_owned(), *it)).collect();
    assert_eq!(before.len(), 1);
    restart(&mut harness, &mut store, Version::V5);
    let after: Vec<_> =
        harness.session.subscriptions().map(|(filter, it)| (filter.to_owned(), *it)).collect();
    assert_eq!(before, after);
}

fn subscribe() -> Subscribe<'static> {
    Subscribe {
        packet_id: id(1),
        subscription_identifier: None,
        user_properties: tidegate_codec::UserProperties::default(),
        filters: Vec::new(),
    }
}

fn unsubscribe() -> Unsubscribe<'static> {
    Unsubscribe {
        packet_id: id(1),
        user_properties: tidegate_codec::UserProperties::default(),
        filters: Vec::new(),
    }
}

#[test]
fn the_will_of_a_conversation_and_the_one_that_is_due_are_known() {
    let mut connect = resumable(Version::V5);
    let properties = PublishProperties { message_expiry_interval: Some(5), ..PublishProperties::default() };
    connect.will = Some(Will {
        topic: "gone",
        payload: b"pump-7",
        qos: Q1,
        retain: true,
        delay_interval: 60,
        properties,
    });
    let mut harness = Harness::with(&connect, recording());
    let mut store = Kept::new();
    store.apply(harness.changes());
    let (_, farewell) = store.clone().restore(recording());
    assert_eq!(farewell.will.as_ref().map(tidegate_session::DueWill::topic), Some("gone"));

    let ended = harness.end(Ended::ConnectionLost);
    store.apply(harness.changes());
    let (session, farewell) = store.clone().restore(recording());
    assert_eq!(farewell, ended, "what end() said is what the store gives back");
    assert_eq!(farewell.session_expiry, Expiry::After(Duration::from_hours(1)));
    assert!(session.is_kept() && !session.is_connected());

    harness.connect(&connect, SessionState::Resumed);
    harness.disconnect(tidegate_codec::Disconnect::new(ReasonCode::NORMAL_DISCONNECTION));
    store.apply(harness.changes());
    assert_eq!(store.restore(recording()).1.will, None, "[MQTT5-3.14.4-3]");
}

#[test]
fn a_message_that_was_posted_is_not_lost_and_not_doubled_by_a_restart() {
    let mut harness = kept(Version::V5);
    let mut store = Kept::new();
    store.apply(harness.changes());
    let [first, second, third] = [0, 1, 2].map(DeliveryNumber::posted);
    for (number, topic) in [(first, "a"), (second, "b"), (third, "c")] {
        store.apply([Change::Posted { number, delivery: delivery(topic, Q2) }]);
    }
    let (session, now, out) = harness.parts();
    session.deliver_posted(first, delivery("a", Q2), now, out);
    session.set_congested(true);
    session.deliver(delivery("own", Q2), now, out);
    session.deliver_posted(second, delivery("b", Q2), now, out);
    let sent = restart(&mut harness, &mut store, Version::V5);
    let expected = ["PUBLISH q2 #1 DUP a", "PUBLISH q2 #2 own", "PUBLISH q2 #3 b", "PUBLISH q2 #4 c"];
    assert_eq!(sent[1..], expected);
}

#[test]
fn a_posted_message_that_is_dropped_is_told() {
    let limits = Limits { max_queued_messages: 1, ..recording() };
    let mut harness = Harness::with(&resumable(Version::V5), limits);
    let mut store = Kept::new();
    harness.session.set_congested(true);
    store.apply(harness.changes());
    for count in 0..3 {
        let number = DeliveryNumber::posted(count);
        store.apply([Change::Posted { number, delivery: delivery("a", Q1) }]);
        let (session, now, out) = harness.parts();
        session.deliver_posted(number, delivery("a", Q1), now, out);
        store.apply(harness.changes());
    }
    assert_eq!(store.restore(recording()).0.queued(), 1);
}

#[test]
fn numbers_go_on_after_a_restart_where_they_stood() {
    let mut harness = kept(Version::V5);
    let mut store = Kept::new();
    harness.session.set_congested(true);
    harness.deliver("a", Q1);
    harness.deliver("b", Q1);
    store.apply(harness.changes());
    harness.session = store.restore(recording()).0;
    harness.deliver("c", Q1);
    // The model refuses a number that is used twice: it would take two messages for one.
    store.apply(harness.changes());
    assert_eq!(store.restore(recording()).0.queued(), 3);
}

#[test]
fn a_clean_start_begins_again() {
    let mut harness = kept(Version::V5);
    let mut store = Kept::new();
    harness.deliver("a", Q2);
    harness.end(Ended::ConnectionLost);
    harness.connect(&resumable(Version::V5), SessionState::New);
    store.apply(harness.changes());
    assert_eq!(store.restore(recording()).0.in_flight(), 0);
}

#[test]
fn a_message_that_is_sent_at_once_costs_two_changes() {
    let mut harness = kept(Version::V5);
    harness.changes();
    harness.deliver("a", Q1);
    harness.puback(1);
    assert_eq!(harness.changes().len(), 2, "sent, completed");
}

#[test]
fn a_message_that_no_longer_fits_the_client_is_told_to_be_over() {
    let mut harness = kept(Version::V5);
    let mut store = Kept::new();
    harness.deliver(&"long".repeat(50), Q1);
    harness.end(Ended::ConnectionLost);
    let mut connect = resumable(Version::V5);
    connect.properties.maximum_packet_size = std::num::NonZeroU32::new(100);
    harness.connect(&connect, SessionState::Resumed);
    store.apply(harness.changes());
    assert_eq!(store.restore(recording()).0.in_flight(), 0);
}
