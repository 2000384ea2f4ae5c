//! A session with a client's decoder behind its output, and short words for packets.

use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_codec::{
    Connect, Decoded, Decoder, Disconnect, Packet, PacketId, PubAck, Publish, QoS, ReasonCode, Version,
};
use tidegate_session::{
    Delivered, Delivery, Ended, Farewell, Identifiers, Input, Limits, Message, Session, SessionState, Token,
    Violation, Welcome,
};

pub(crate) const VERSIONS: [Version; 3] = [Version::V3_1, Version::V3_1_1, Version::V5];
pub(crate) use QoS::{AtLeastOnce as Q1, AtMostOnce as Q0, ExactlyOnce as Q2};

pub(crate) struct Harness {
    pub(crate) session: Session,
    pub(crate) now: Instant,
    pub(crate) out: Vec<u8>,
    version: Version,
}

/// A resumable CONNECT without keep-alive: for an hour in 5.0.
pub(crate) fn resumable(version: Version) -> Connect<'static> {
    let mut connect = Connect::new(version, "pump-7");
    connect.clean_start = false;
    if version == Version::V5 {
        connect.properties.session_expiry_interval = Some(3600);
    }
    connect
}

pub(crate) fn small_window(receive_maximum: u16) -> Connect<'static> {
    let mut connect = resumable(Version::V5);
    connect.properties.receive_maximum = NonZeroU16::new(receive_maximum);
    connect
}

pub(crate) fn id(number: u16) -> PacketId {
    PacketId::new(number).unwrap()
}

#[expect(clippy::disallowed_methods, reason = "some moment to count from")]
pub(crate) fn some_moment() -> Instant {
    Instant::now()
}

impl Harness {
    /// A new session that never had a connection.
    pub(crate) fn offline(limits: Limits) -> Self {
        let session = Session::new("pump-7", Arc::new(limits));
        Self { session, now: some_moment(), out: Vec::new(), version: Version::V5 }
    }

    /// A conversation whose CONNACK was read.
    pub(crate) fn connected(version: Version) -> Self {
        Self::with(&resumable(version), Limits::default())
    }

    /// A conversation whose CONNACK was read.
    pub(crate) fn with(connect: &Connect<'_>, limits: Limits) -> Self {
        let mut harness = Self::offline(limits);
        harness.connect(connect, SessionState::New);
        harness.packets();
        harness
    }

    pub(crate) fn connect(&mut self, connect: &Connect<'_>, state: SessionState) {
        self.version = connect.version;
        self.session.connect(connect, Welcome::new(state), self.now, &mut self.out);
    }

    /// Loses the connection, comes back, and returns what is sent after CONNACK.
    pub(crate) fn reconnect(&mut self, connect: &Connect<'_>) -> Vec<String> {
        self.end(Ended::ConnectionLost);
        self.packets();
        self.connect(connect, SessionState::Resumed);
        let sent = self.sent();
        assert!(sent[0].starts_with("CONNACK"), "[MQTT5-3.2.0-1]: {sent:?}");
        sent[1..].to_vec()
    }

    /// A packet that the session deals with on its own.
    pub(crate) fn handle(&mut self, packet: &Packet<'_>) {
        assert_eq!(self.session.handle_packet(packet, self.now, &mut self.out), Ok(Input::Handled));
    }

    pub(crate) fn violation(&mut self, packet: &Packet<'_>) -> Violation {
        self.session.handle_packet(packet, self.now, &mut self.out).expect_err("a violation")
    }

    /// A PUBLISH that is new to the broker.
    pub(crate) fn publish(&mut self, publish: Publish<'_>) -> Option<Token> {
        match self.session.handle_packet(&Packet::Publish(publish), self.now, &mut self.out) {
            Ok(Input::Publish(inbound)) => inbound.token,
            other => panic!("not a new message: {other:?}"),
        }
    }

    /// What `Session`'s methods take.
    pub(crate) fn parts(&mut self) -> (&mut Session, Instant, &mut Vec<u8>) {
        (&mut self.session, self.now, &mut self.out)
    }

    pub(crate) fn acknowledge(&mut self, token: Token, reason: ReasonCode) -> bool {
        self.session.acknowledge(token, reason, &mut self.out)
    }

    pub(crate) fn puback(&mut self, number: u16) {
        self.handle(&Packet::PubAck(PubAck::new(id(number))));
    }

    pub(crate) fn pubrec(&mut self, number: u16) {
        self.handle(&Packet::PubRec(PubAck::new(id(number))));
    }

    pub(crate) fn pubrel(&mut self, number: u16) {
        self.handle(&Packet::PubRel(PubAck::new(id(number))));
    }

    pub(crate) fn pubcomp(&mut self, number: u16) {
        self.handle(&Packet::PubComp(PubAck::new(id(number))));
    }

    /// A delivery of a message to `topic`, published and granted at `qos`.
    pub(crate) fn deliver(&mut self, topic: &str, qos: QoS) -> Delivered {
        self.deliver_message(Message::new(topic, b"1", qos, false))
    }

    pub(crate) fn deliver_message(&mut self, message: Message) -> Delivered {
        self.deliver_as(message, Identifiers::None)
    }

    pub(crate) fn deliver_as(
        &mut self,
        message: Message,
        subscription_identifiers: Identifiers,
    ) -> Delivered {
        let message = Arc::new(message);
        let delivery = Delivery { message, qos: Q2, retain: false, subscription_identifiers };
        self.session.deliver(delivery, self.now, &mut self.out)
    }

    pub(crate) fn disconnect(&mut self, disconnect: Disconnect<'_>) -> Farewell {
        let packet = Packet::Disconnect(disconnect);
        let input = self.session.handle_packet(&packet, self.now, &mut self.out);
        assert_eq!(input, Ok(Input::Disconnect));
        self.end(Ended::ByClient)
    }

    pub(crate) fn end(&mut self, cause: Ended) -> Farewell {
        self.session.end(cause, &mut self.out)
    }

    pub(crate) fn wait(&mut self, duration: Duration) {
        self.now += duration;
    }

    /// Everything that was sent since the last look.
    pub(crate) fn packets(&mut self) -> Vec<Packet<'static>> {
        let decoder = Decoder::client(self.version, tidegate_codec::Limits::UNLIMITED);
        let mut rest: &'static [u8] = std::mem::take(&mut self.out).leak();
        let mut packets = Vec::new();
        while !rest.is_empty() {
            match decoder.decode(rest) {
                Ok(Decoded::Packet { packet, len }) => {
                    packets.push(packet);
                    rest = &rest[len..];
                }
                other => panic!("the session sent {rest:?}: {other:?}"),
            }
        }
        packets
    }

    /// Everything that was sent since the last look, a line for each packet.
    pub(crate) fn sent(&mut self) -> Vec<String> {
        self.packets().iter().map(line).collect()
    }
}

/// Such as `PUBLISH q1 #1 DUP a/b`, `PUBREL #1`, `PUBACK #7 0x92`.
fn line(packet: &Packet<'_>) -> String {
    let name = packet.packet_type().name();
    let with_reason = |text: String, reason: ReasonCode| match reason {
        ReasonCode::Success => text,
        reason => format!("{text} {:#04x}", reason.as_u8()),
    };
    match packet {
        Packet::Publish(publish) => {
            let packet_id = publish.packet_id.map_or(String::new(), |id| format!(" #{}", id.get()));
            let dup = if publish.dup { " DUP" } else { "" };
            format!("{name} q{}{packet_id}{dup} {}", publish.qos.as_u8(), publish.topic)
        }
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            with_reason(format!("{name} #{}", ack.packet_id.get()), ack.reason)
        }
        Packet::ConnAck(connack) => {
            let present = if connack.session_present { " present" } else { "" };
            with_reason(format!("{name}{present}"), connack.reason)
        }
        Packet::Disconnect(disconnect) => with_reason(name.into(), disconnect.reason),
        Packet::SubAck(suback) | Packet::UnsubAck(suback) => {
            let reasons: Vec<_> = suback.reasons.iter().map(|reason| reason.as_u8()).collect();
            format!("{name} #{} {reasons:02x?}", suback.packet_id.get())
        }
        _ => name.into(),
    }
}

/// A PUBLISH to `a/b`; `number` 0 for QoS 0.
pub(crate) fn publish(qos: QoS, number: u16) -> Publish<'static> {
    Publish { qos, packet_id: PacketId::new(number), topic: "a/b", payload: b"1", ..Publish::default() }
}

pub(crate) fn repeated(qos: QoS, number: u16) -> Publish<'static> {
    Publish { dup: true, ..publish(qos, number) }
}
