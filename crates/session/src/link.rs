//! What belongs to one network connection of a session, and dies with it.

use std::num::{NonZeroU16, NonZeroU32};
use std::time::{Duration, Instant};

use tidegate_codec::{
    Connect, Disconnect, EncodeError, Packet, PacketId, PacketType, PubAck, Publish, QoS, ReasonCode, Version,
};

use crate::Authentication;
use crate::alias::{AliasUse, AliasesOut, TopicAliases};
use crate::inbound::Window;
use crate::message::DueWill;
use crate::{Delivery, Limits};

/// One network connection: what CONNECT agreed upon, and what has been learnt since.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) version: Version,
    /// Whether reason strings are welcome outside CONNACK and DISCONNECT [MQTT5-3.1.2-29]. We take it for DISCONNECT
    /// as well: who does not want them does not read them.
    wants_problem_information: bool,
    /// Whether the socket takes no more: PUBLISH waits, answers do not.
    pub(crate) congested: bool,
    /// Seconds; 0 for none.
    keep_alive: u16,
    last_heard: Instant,
    /// Unacknowledged PUBLISHes that the client takes at a time [MQTT5-3.3.4-9], or that we want out if that is less.
    pub(crate) send_quota: NonZeroU16,
    /// Bytes. `u32::MAX` for a client that names no maximum.
    max_packet_size: u32,
    pub(crate) aliases: TopicAliases,
    /// The other way round.
    aliases_out: AliasesOut,
    pub(crate) will: Option<Box<DueWill>>,
    /// How the client showed who it is, if it was with a method of enhanced authentication.
    pub(crate) authentication: Option<Box<Authentication>>,
}

/// The packet does not fit into the client's Maximum Packet Size, or into MQTT at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client accepts no packet as large")]
pub struct TooLarge;

/// Appends a packet unless it is larger than `max_packet_size`, in bytes; `u32::MAX` for a client that names none.
pub(crate) fn send_within(
    max_packet_size: u32,
    version: Version,
    packet: &Packet<'_>,
    out: &mut Vec<u8>,
) -> Result<(), TooLarge> {
    if !fits(max_packet_size, || packet.encoded_len(version)) {
        return Err(TooLarge);
    }
    packet.encode(version, out).map_err(|_| TooLarge)
}

/// Whether a packet is no larger than `max_packet_size`. For a client that names none nothing is measured.
fn fits(max_packet_size: u32, encoded_len: impl FnOnce() -> Result<usize, EncodeError>) -> bool {
    max_packet_size == u32::MAX || encoded_len().is_ok_and(|bytes| bytes <= max_packet_size as usize)
}

impl Link {
    pub(crate) fn new(connect: &Connect<'_>, limits: &Limits, now: Instant) -> Self {
        let properties = &connect.properties;
        let receive_maximum = properties.receive_maximum.unwrap_or(NonZeroU16::MAX);
        Self {
            version: connect.version,
            wants_problem_information: properties.request_problem_information.unwrap_or(true),
            congested: false,
            keep_alive: server_keep_alive(connect, limits).map_or(connect.keep_alive, NonZeroU16::get),
            last_heard: now,
            send_quota: receive_maximum.min(limits.max_inflight_out),
            max_packet_size: properties.maximum_packet_size.map_or(u32::MAX, NonZeroU32::get),
            aliases: TopicAliases::default(),
            aliases_out: AliasesOut::new(properties.topic_alias_maximum.unwrap_or(0), limits),
            will: connect.will.as_ref().map(|will| Box::new(DueWill::new(will))),
            authentication: Authentication::of(connect).map(|authentication| Box::new(authentication.done())),
        }
    }

    /// The window that holds for what the client publishes.
    pub(crate) fn window(&self, limits: &Limits) -> Window {
        match self.version {
            Version::V5 => Window::Announced(limits.receive_maximum),
            Version::V3_1 | Version::V3_1_1 => {
                Window::Silent { unsettled: limits.receive_maximum, unreleased: limits.max_unreleased }
            }
        }
    }

    pub(crate) fn touch(&mut self, now: Instant) {
        self.last_heard = now;
    }

    /// One and a half times the keep-alive after the client was last heard [MQTT5-3.1.2-22] [MQTT311-3.1.2-24].
    pub(crate) fn deadline(&self) -> Option<Instant> {
        (self.keep_alive > 0)
            .then(|| self.last_heard + Duration::from_millis(u64::from(self.keep_alive) * 1500))
    }

    /// Appends a packet unless it is larger than the client accepts [MQTT5-3.1.2-24]; then nothing is appended.
    pub(crate) fn send(&self, packet: &Packet<'_>, out: &mut Vec<u8>) -> Result<(), TooLarge> {
        send_within(self.max_packet_size, self.version, packet, out)
    }

    /// Appends an answer. One that is larger than the client accepts (a SUBACK for many filters, say) is left out:
    /// the client wants it so [MQTT5-3.1.2-24]. CONNACK is known to fit.
    pub(crate) fn answer(&self, packet: &Packet<'_>, out: &mut Vec<u8>) {
        let _ = self.send(packet, out);
    }

    /// Appends PUBACK, PUBREC, PUBREL or PUBCOMP.
    pub(crate) fn acknowledge(
        &self,
        packet: PacketType,
        packet_id: PacketId,
        reason: ReasonCode,
        out: &mut Vec<u8>,
    ) {
        // A reason from elsewhere is made one that the packet may carry [MQTT5-3.4.2-1], [MQTT5-3.5.2-1]; in 3.x
        // there is no way to say no [MQTT311-3.3.5-2].
        let reason = match (self.version, reason.is_error()) {
            (Version::V5, _) if reason.is_allowed_in(packet) => reason,
            (Version::V5, true) => ReasonCode::UnspecifiedError,
            (Version::V5, false) | (Version::V3_1 | Version::V3_1_1, _) => ReasonCode::Success,
        };
        let answer = PubAck::with_reason(packet_id, reason);
        // Without a packet around it, which is large.
        if !fits(self.max_packet_size, || answer.encoded_len(self.version)) {
            return;
        }
        let encoded = match packet {
            PacketType::PubRec => answer.encode_pubrec(self.version, out),
            PacketType::PubRel => answer.encode_pubrel(self.version, out),
            PacketType::PubComp => answer.encode_pubcomp(self.version, out),
            _ => answer.encode_puback(self.version, out),
        };
        // Nothing of it can be too long, and the reason is one that the packet may carry.
        let _ = encoded;
    }

    /// Appends a PUBLISH, with a topic alias if the client takes one. `packet_id` is present exactly for QoS 1 and 2.
    pub(crate) fn publish(
        &mut self,
        delivery: &Delivery,
        packet_id: Option<PacketId>,
        dup: bool,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Result<(), TooLarge> {
        let mut publish = Publish {
            dup,
            qos: delivery.qos,
            retain: delivery.retain,
            packet_id,
            ..delivery.message.as_publish(now)
        };
        publish.properties.subscription_identifiers = delivery.subscription_identifiers.lend();
        // A repeat says its topic: aliases do not outlive a connection, and repeats are where that is got wrong.
        let alias = if dup { AliasUse::None } else { self.aliases_out.find(delivery.message.topic()) };
        match alias {
            AliasUse::None => return self.send(&Packet::Publish(publish), out),
            AliasUse::Known(alias) => {
                publish.properties.topic_alias = Some(alias);
                publish.topic = "";
                return self.send(&Packet::Publish(publish), out);
            }
            AliasUse::New(alias) => publish.properties.topic_alias = Some(alias),
        }
        let packet = Packet::Publish(publish);
        if self.send(&packet, out).is_ok() {
            self.aliases_out.add(delivery.message.topic());
            return Ok(());
        }
        // Our alias must not be what makes the packet too large.
        let Packet::Publish(mut publish) = packet else { return Err(TooLarge) };
        publish.properties.topic_alias = None;
        self.send(&Packet::Publish(publish), out)
    }

    /// Appends DISCONNECT, which the server can send in 5.0 only.
    pub(crate) fn disconnect(&self, reason: ReasonCode, explanation: Option<&str>, out: &mut Vec<u8>) {
        if self.version != Version::V5 {
            return;
        }
        let reason =
            if reason.is_allowed_in(PacketType::Disconnect) { reason } else { ReasonCode::UnspecifiedError };
        // No Session Expiry Interval, never from a server [MQTT5-3.14.2-2].
        let mut disconnect = Disconnect::new(reason);
        disconnect.reason_string = explanation.filter(|_| self.wants_problem_information);
        if self.send(&Packet::Disconnect(disconnect.clone()), out).is_err() {
            disconnect.reason_string = None; // [MQTT5-3.14.2-3]
            self.answer(&Packet::Disconnect(disconnect), out);
        }
    }

    /// Appends the DISCONNECT that sends the client to another server, in 5.0 only (4.13).
    pub(crate) fn send_elsewhere(&self, server_reference: &str, out: &mut Vec<u8>) {
        if self.version != Version::V5 {
            return;
        }
        let mut disconnect = Disconnect::new(ReasonCode::UseAnotherServer);
        disconnect.server_reference = Some(server_reference);
        if self.send(&Packet::Disconnect(disconnect.clone()), out).is_err() {
            disconnect.server_reference = None;
            self.answer(&Packet::Disconnect(disconnect), out);
        }
    }

    /// Tells whether a PUBLISH of that QoS has to wait: for the socket, or for room in the window.
    pub(crate) fn holds_back(&self, qos: QoS, in_flight: usize) -> bool {
        self.congested || (qos != QoS::AtMostOnce && in_flight >= usize::from(self.send_quota.get()))
    }
}

/// The keep-alive that the server demands in place of the client's, in seconds [MQTT5-3.2.2-22].
pub(crate) fn server_keep_alive(connect: &Connect<'_>, limits: &Limits) -> Option<NonZeroU16> {
    if connect.version != Version::V5 {
        return None;
    }
    if limits.server_keep_alive.is_some() {
        return limits.server_keep_alive;
    }
    let maximum = limits.max_keep_alive?;
    (connect.keep_alive == 0 || connect.keep_alive > maximum.get()).then_some(maximum)
}
