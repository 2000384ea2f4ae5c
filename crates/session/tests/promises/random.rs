//! A client that obeys the protocol, a broker that takes its time, and a connection that breaks: in whatever order
//! things happen, nothing is lost, doubled or overtaken that should not be.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroU16;

use proptest::prelude::*;
use tidegate_codec::{Packet, PacketId, PubAck, Publish, QoS, ReasonCode, Version};
use tidegate_session::{
    Change, Delivered, Delivery, DeliveryNumber, Ended, Identifiers, Input, Limits, Message, QueuePolicy,
    SessionState, Token,
};

use crate::harness::{Harness, Q0, Q1, Q2, VERSIONS, id, resumable};
use crate::keeping::Kept;

/// Messages of the client that the server lets wait.
const RECEIVE_MAXIMUM: u16 = 3;
/// Messages that the server has in flight at most.
const MAX_INFLIGHT_OUT: u16 = 4;

#[derive(Debug, Clone)]
enum Step {
    /// Somebody else publishes to the client.
    Deliver(QoS),
    /// The client publishes.
    Publish(QoS),
    /// The broker answers for one of the messages that it holds.
    Settle { which: prop::sample::Index, reason: ReasonCode },
    /// The broker loses one of the messages that it holds, and closes the connection.
    Lose { which: prop::sample::Index },
    /// The server reads one packet.
    ServerReads,
    /// The client reads one packet.
    ClientReads,
    /// The connection breaks, with everything that is on its way.
    Cut,
    /// The client comes back.
    Connect { receive_maximum: u16 },
    /// The socket takes no more, or takes more again.
    Congest(bool),
    /// Somebody else leaves a message for the client.
    Post(QoS),
    /// The session takes what was left for it.
    TakePosted,
    /// The server is killed and starts again.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let qos = prop_oneof![1 => Just(Q0), 4 => Just(Q1), 6 => Just(Q2)];
    let reason = prop_oneof![8 => Just(ReasonCode::Success), 1 => Just(ReasonCode::NotAuthorized)];
    prop_oneof![
        6 => qos.clone().prop_map(Step::Deliver),
        6 => qos.prop_map(Step::Publish),
        8 => (any::<prop::sample::Index>(), reason).prop_map(|(which, reason)| Step::Settle { which, reason }),
        1 => any::<prop::sample::Index>().prop_map(|which| Step::Lose { which }),
        14 => Just(Step::ServerReads),
        14 => Just(Step::ClientReads),
        2 => Just(Step::Cut),
        4 => (1..=5_u16).prop_map(|receive_maximum| Step::Connect { receive_maximum }),
        1 => any::<bool>().prop_map(Step::Congest),
        3 => prop_oneof![Just(Q1), Just(Q2)].prop_map(Step::Post),
        3 => Just(Step::TakePosted),
        1 => Just(Step::Restart),
    ]
}

/// What the client has on its way to the server.
#[derive(Debug, Clone, Copy)]
enum ToServer {
    Publish { qos: QoS, number: u16, serial: u32, dup: bool },
    PubAck(u16),
    PubRec(u16),
    PubRel(u16),
    PubComp(u16),
}

/// A QoS 1 or 2 message that the client sends.
#[derive(Debug)]
struct Outgoing {
    number: u16,
    serial: u32,
    qos: QoS,
    is_released: bool,
}

struct World {
    harness: Harness,
    limits: Limits,
    /// What is on disk.
    kept: Kept,
    /// What was left for the session.
    mailbox: VecDeque<(DeliveryNumber, Delivery, u32)>,
    version: Version,
    to_server: VecDeque<ToServer>,
    to_client: VecDeque<Packet<'static>>,
    serial: u32,

    // The client
    outgoing: Vec<Outgoing>,
    last_number: u16,
    unreleased: BTreeSet<u16>,
    /// Serials in the order of receipt, for QoS 1 and 2.
    received: [Vec<u32>; 2],

    // The broker
    unsettled: Vec<(Token, QoS, u32)>,
    accepted: BTreeSet<u32>,
    refused: BTreeSet<u32>,
    settled: BTreeSet<u32>,
    published: Vec<u32>,
    /// Serials that the session took on, for QoS 1 and 2.
    delivered: [Vec<u32>; 2],

    // What an observer of the wire knows
    window: usize,
    /// Messages in flight to the client by packet identifier, over all connections.
    in_flight: BTreeMap<u16, u32>,
    /// Those of the present connection.
    open: BTreeSet<u16>,
}

impl World {
    fn new(version: Version, max_queued_messages: usize) -> Self {
        let limits = Limits {
            receive_maximum: NonZeroU16::new(RECEIVE_MAXIMUM).unwrap(),
            max_inflight_out: NonZeroU16::new(MAX_INFLIGHT_OUT).unwrap(),
            max_queued_messages,
            queue_policy: QueuePolicy::DropNewest,
            record_changes: true,
            ..Limits::default()
        };
        let mut world = Self {
            harness: Harness::offline(limits.clone()),
            limits,
            kept: Kept::new(),
            mailbox: VecDeque::new(),
            version,
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
            serial: 0,
            outgoing: Vec::new(),
            last_number: 0,
            unreleased: BTreeSet::new(),
            received: Default::default(),
            unsettled: Vec::new(),
            accepted: BTreeSet::new(),
            refused: BTreeSet::new(),
            settled: BTreeSet::new(),
            published: Vec::new(),
            delivered: Default::default(),
            window: 0,
            in_flight: BTreeMap::new(),
            open: BTreeSet::new(),
        };
        world.connect(SessionState::New, 5);
        world
    }

    fn is_connected(&self) -> bool {
        self.harness.session.is_connected()
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Deliver(qos) => self.deliver(*qos),
            Step::Publish(qos) => self.publish(*qos),
            Step::Settle { which, reason } if !self.unsettled.is_empty() => {
                self.settle(which.index(self.unsettled.len()), *reason);
            }
            Step::Lose { which } if !self.unsettled.is_empty() => {
                let (token, _, serial) = self.unsettled.remove(which.index(self.unsettled.len()));
                self.harness.session.forget(token);
                self.accepted.remove(&serial);
                self.cut();
            }
            Step::ServerReads => drop(self.server_reads()),
            Step::ClientReads => drop(self.client_reads()),
            Step::Cut => self.cut(),
            Step::Connect { receive_maximum } if !self.is_connected() => {
                self.connect(SessionState::Resumed, *receive_maximum);
            }
            Step::Settle { .. } | Step::Lose { .. } | Step::Connect { .. } => {}
            Step::Congest(is_congested) => self.congest(*is_congested),
            Step::Post(qos) => self.post(*qos),
            Step::TakePosted => self.take_posted(),
            Step::Restart => self.restart(),
        }
        self.observe();
    }

    fn deliver(&mut self, qos: QoS) {
        self.serial += 1;
        let message = Message::new("a", &self.serial.to_be_bytes(), qos, false);
        let outcome = self.harness.deliver_message(message);
        if qos != Q0 && !matches!(outcome, Delivered::Dropped(_)) {
            self.delivered[lane(qos)].push(self.serial);
        }
    }

    fn post(&mut self, qos: QoS) {
        self.serial += 1;
        let number = DeliveryNumber::posted(self.serial.into());
        let message = Message::new("a", &self.serial.to_be_bytes(), qos, false).into();
        let delivery =
            Delivery { message, qos: Q2, retain: false, subscription_identifiers: Identifiers::None };
        self.kept.apply([Change::Posted { number, delivery: delivery.clone() }]);
        self.mailbox.push_back((number, delivery, self.serial));
    }

    fn take_posted(&mut self) {
        for (number, delivery, serial) in std::mem::take(&mut self.mailbox) {
            let qos = delivery.message.qos();
            let (session, now, out) = self.harness.parts();
            if !matches!(session.deliver_posted(number, delivery, now, out), Delivered::Dropped(_)) {
                self.delivered[lane(qos)].push(serial);
            }
        }
    }

    fn restart(&mut self) {
        self.observe();
        self.unsettled.clear();
        self.to_server.clear();
        self.to_client.clear();
        for (_, delivery, serial) in std::mem::take(&mut self.mailbox) {
            self.delivered[lane(delivery.message.qos())].push(serial);
        }
        // A QoS 2 message that the broker had not settled comes again and is a new one.
        for message in self.outgoing.iter().filter(|message| message.qos == Q2 && !message.is_released) {
            if !self.settled.contains(&message.serial) {
                self.accepted.remove(&message.serial);
            }
        }
        let (session, _) = self.kept.restore(self.limits.clone());
        let before = &self.harness.session;
        assert_eq!(session.in_flight(), before.in_flight());
        assert!(session.queued() >= before.queued() && !session.is_connected());
        self.harness.session = session;
    }

    fn publish(&mut self, qos: QoS) {
        let has_room = self.version != Version::V5 || self.outgoing.len() < usize::from(RECEIVE_MAXIMUM);
        if !self.is_connected() || !has_room {
            return;
        }
        self.serial += 1;
        let serial = self.serial;
        if qos == Q0 {
            return self.to_server.push_back(ToServer::Publish { qos, number: 0, serial, dup: false });
        }
        self.last_number = self.last_number % 20 + 1;
        let number = self.last_number;
        if self.outgoing.iter().any(|message| message.number == number) {
            return;
        }
        self.outgoing.push(Outgoing { number, serial, qos, is_released: false });
        self.published.push(serial);
        self.to_server.push_back(ToServer::Publish { qos, number, serial, dup: false });
    }

    fn settle(&mut self, index: usize, reason: ReasonCode) {
        let (token, qos, serial) = self.unsettled.remove(index);
        let is_owed = self.harness.acknowledge(token, reason);
        if qos == Q2 {
            assert!(is_owed, "a QoS 2 message is owed its answer whatever the connection does");
        }
        if reason.is_error() {
            self.accepted.remove(&serial);
            self.refused.insert(serial);
        } else {
            self.settled.insert(serial);
        }
    }

    /// The server reads a packet, if there is one and it wants to.
    fn server_reads(&mut self) -> bool {
        if !self.is_connected() || self.harness.session.window_is_full() {
            return false;
        }
        let Some(packet) = self.to_server.pop_front() else { return false };
        match packet {
            ToServer::Publish { qos, number, serial, dup } => {
                let payload = serial.to_be_bytes();
                let publish = Publish {
                    qos,
                    dup,
                    topic: "a",
                    payload: &payload,
                    packet_id: (qos != Q0).then(|| id(number)),
                    ..Publish::default()
                };
                let (session, now, out) = self.harness.parts();
                let packet = Packet::Publish(publish);
                let input = session.handle_packet(&packet, now, out);
                let token = match input.expect("the client obeys the protocol") {
                    Input::Publish(inbound) => inbound.token,
                    Input::Handled => return true,
                    other => panic!("{other:?}"),
                };
                if let Some(token) = token {
                    self.unsettled.push((token, qos, serial));
                    let is_new = self.accepted.insert(serial);
                    assert!(
                        is_new || qos == Q1,
                        "[MQTT5-4.3.3-10]: message {serial} came to the broker twice"
                    );
                }
            }
            ToServer::PubAck(number) => {
                self.harness.puback(number);
                self.completed(number);
            }
            ToServer::PubRec(number) => self.harness.pubrec(number),
            ToServer::PubRel(number) => self.harness.pubrel(number),
            ToServer::PubComp(number) => {
                self.harness.pubcomp(number);
                self.completed(number);
            }
        }
        self.observe();
        true
    }

    fn completed(&mut self, number: u16) {
        self.in_flight.remove(&number);
        self.open.remove(&number);
    }

    fn client_reads(&mut self) -> bool {
        let Some(packet) = self.to_client.pop_front() else { return false };
        let outgoing = |world: &Self, ack: &PubAck<'_>| {
            world.outgoing.iter().position(|message| message.number == ack.packet_id.get())
        };
        match packet {
            Packet::Publish(publish) => {
                let serial = u32::from_be_bytes(publish.payload.try_into().unwrap());
                let number = publish.packet_id.map_or(0, PacketId::get);
                match publish.qos {
                    QoS::AtMostOnce => {}
                    QoS::AtLeastOnce => {
                        self.received[lane(Q1)].push(serial);
                        self.to_server.push_back(ToServer::PubAck(number));
                    }
                    QoS::ExactlyOnce => {
                        if self.unreleased.insert(number) {
                            self.received[lane(Q2)].push(serial);
                        }
                        self.to_server.push_back(ToServer::PubRec(number));
                    }
                }
            }
            Packet::PubRel(ack) => {
                self.unreleased.remove(&ack.packet_id.get());
                self.to_server.push_back(ToServer::PubComp(ack.packet_id.get()));
            }
            Packet::PubAck(ack) => {
                let index = outgoing(self, &ack).expect("PUBACK answers a message in flight");
                assert_eq!(self.outgoing.remove(index).qos, Q1);
            }
            Packet::PubRec(ack) => {
                let index = outgoing(self, &ack).expect("PUBREC answers a message in flight");
                if ack.reason.is_error() {
                    self.outgoing.remove(index);
                } else {
                    self.outgoing[index].is_released = true;
                    self.to_server.push_back(ToServer::PubRel(ack.packet_id.get()));
                }
            }
            Packet::PubComp(ack) => {
                let index = outgoing(self, &ack).expect("PUBCOMP answers a message in flight");
                assert!(self.outgoing.remove(index).is_released);
            }
            other => panic!("{other:?}"),
        }
        true
    }

    fn cut(&mut self) {
        if self.is_connected() {
            self.harness.end(Ended::ConnectionLost);
        }
        // A QoS 1 message comes again and is settled then.
        self.unsettled.retain(|(_, qos, _)| *qos == Q2);
        self.to_server.clear();
        self.observe();
        self.to_client.clear();
    }

    fn connect(&mut self, state: SessionState, receive_maximum: u16) {
        let mut connect = resumable(self.version);
        self.window = usize::from(MAX_INFLIGHT_OUT);
        if self.version == Version::V5 {
            connect.properties.receive_maximum = NonZeroU16::new(receive_maximum);
            self.window = self.window.min(usize::from(receive_maximum));
        }
        self.open.clear();
        self.harness.connect(&connect, state);
        self.observe();
        assert!(matches!(self.to_client.pop_front(), Some(Packet::ConnAck(_))));
        for message in &self.outgoing {
            let Outgoing { number, serial, qos, is_released } = *message;
            self.to_server.push_back(if is_released {
                ToServer::PubRel(number)
            } else {
                ToServer::Publish { qos, number, serial, dup: true }
            });
        }
    }

    fn congest(&mut self, is_congested: bool) {
        self.harness.session.set_congested(is_congested);
        let (session, now, out) = self.harness.parts();
        session.resume_sending(now, out);
    }

    /// Looks at what the server wrote, after what it had to say to the store before.
    fn observe(&mut self) {
        let changes = self.harness.changes();
        self.kept.apply(changes);
        for packet in self.harness.packets() {
            if let Packet::Publish(publish) = &packet
                && let Some(packet_id) = publish.packet_id
            {
                let serial = u32::from_be_bytes(publish.payload.try_into().unwrap());
                let before = self.in_flight.insert(packet_id.get(), serial);
                let expected = publish.dup.then_some(serial);
                assert_eq!(before, expected, "[MQTT5-2.2.1-4], [MQTT5-3.3.1-1]: {publish:?}");
                assert!(self.open.insert(packet_id.get()), "[MQTT5-4.4.0-1]: repeated on one connection");
                assert!(self.open.len() <= self.window, "[MQTT5-3.3.4-9]: {:?}", self.open);
            }
            self.to_client.push_back(packet);
        }
    }

    /// Lets everything come to its end.
    fn settle_down(&mut self) {
        self.take_posted();
        self.observe();
        if !self.is_connected() {
            self.connect(SessionState::Resumed, 3);
        }
        self.congest(false);
        self.observe();
        loop {
            let mut has_moved = false;
            while self.client_reads() || self.server_reads() {
                has_moved = true;
            }
            while !self.unsettled.is_empty() {
                self.settle(0, ReasonCode::Success);
                has_moved = true;
            }
            self.observe();
            if !has_moved {
                return;
            }
        }
    }

    fn check(&self) {
        assert_eq!(self.received[lane(Q2)], self.delivered[lane(Q2)], "QoS 2: each once, in order");
        let mut seen = BTreeSet::new();
        let first_times: Vec<_> =
            self.received[lane(Q1)].iter().copied().filter(|serial| seen.insert(*serial)).collect();
        assert_eq!(first_times, self.delivered[lane(Q1)], "QoS 1: each at least once, in order");
        let answered: BTreeSet<_> = self.accepted.union(&self.refused).copied().collect();
        let is_answered = |serial: &u32| answered.contains(serial);
        assert!(self.published.iter().all(is_answered), "every message of the client came to the broker");
        let session = &self.harness.session;
        assert_eq!((session.in_flight(), session.queued(), session.unsettled()), (0, 0, 0));
        assert!(self.outgoing.is_empty() && self.unreleased.is_empty() && self.in_flight.is_empty());
    }
}

fn lane(qos: QoS) -> usize {
    usize::from(qos == Q2)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_doubled_or_overtaken(
        version in prop::sample::select(&VERSIONS[..]),
        max_queued_messages in prop::sample::select(&[2_usize, 1000][..]),
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let mut world = World::new(version, max_queued_messages);
        for step in &steps {
            world.take(step);
        }
        world.settle_down();
        world.check();
    }

    #[test]
    fn no_order_of_packets_panics(
        version in prop::sample::select(&VERSIONS[..]),
        steps in prop::collection::vec((0..11_u8, 1..6_u16, 0..3_u8, any::<bool>()), 1..150),
    ) {
        let limits = Limits { max_unreleased: 3, receive_maximum: NonZeroU16::new(3).unwrap(), ..Limits::default() };
        let mut harness = Harness::with(&resumable(version), limits);
        let mut tokens = Vec::new();
        for (step, number, qos, flag) in steps {
            let qos = QoS::from_u8(qos).unwrap();
            let ack = PubAck::with_reason(
                id(number),
                if flag { ReasonCode::Success } else { ReasonCode::UnspecifiedError },
            );
            let packet = match step {
                0 => Packet::PubAck(ack),
                1 => Packet::PubRec(ack),
                2 => Packet::PubRel(ack),
                3 => Packet::PubComp(ack),
                4 | 5 => {
                    let mut publish = Publish { qos, dup: flag, topic: "a", ..Publish::default() };
                    publish.packet_id = (qos != Q0).then(|| id(number));
                    Packet::Publish(publish)
                }
                6 => {
                    harness.deliver("a", qos);
                    continue;
                }
                7 => {
                    harness.end(Ended::ConnectionLost);
                    continue;
                }
                8 => {
                    let state = if flag { SessionState::Resumed } else { SessionState::New };
                    harness.connect(&resumable(version), state);
                    continue;
                }
                9 => {
                    if let Some(token) = tokens.pop() {
                        harness.acknowledge(token, ReasonCode::Success);
                    }
                    continue;
                }
                _ => {
                    if let Some(token) = tokens.pop() {
                        harness.session.forget(token);
                    }
                    continue;
                }
            };
            let (session, now, out) = harness.parts();
            if let Ok(Input::Publish(inbound)) = session.handle_packet(&packet, now, out) {
                tokens.extend(inbound.token);
            }
            prop_assert!(session.unsettled() <= 3);
            prop_assert!(session.in_flight() <= 32);
        }
    }
}
