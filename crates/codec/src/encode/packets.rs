//! What each packet looks like on the wire.

use super::sink::{PropertyList, PropertySink, Sink};
use super::{Encode, encode, encoded_len, measured_len};
use crate::property::Property;
use crate::{
    Auth, ConnAck, ConnAckProperties, Connect, ConnectProperties, Disconnect, EncodeError, PacketType,
    PubAck, Publish, PublishProperties, QoS, ReasonCode, SubAck, Subscribe, SubscribeOptions, Unsubscribe,
    UserProperties, Version, Will,
};

/// Gives a packet its public methods.
macro_rules! encode_methods {
    ($packet:ident) => {
        impl $packet<'_> {
            /// Appends the packet to `out`, which grows once; see [`Packet::encode`](crate::Packet::encode).
            ///
            /// # Errors
            /// [`EncodeError`]; nothing was appended then.
            #[inline]
            pub fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
                encode(self, version, out)
            }

            /// Returns how many bytes [`encode`](Self::encode) would append.
            ///
            /// # Errors
            /// Those of [`encode`](Self::encode).
            #[inline]
            pub fn encoded_len(&self, version: Version) -> Result<usize, EncodeError> {
                encoded_len(self, version)
            }
        }
    };
}

encode_methods!(ConnAck);
encode_methods!(Publish);
encode_methods!(Subscribe);
encode_methods!(Unsubscribe);
encode_methods!(Disconnect);
encode_methods!(Auth);

fn check_reason(reason: ReasonCode, packet: PacketType) -> Result<(), EncodeError> {
    if reason.is_allowed_in(packet) {
        Ok(())
    } else {
        Err(EncodeError::ReasonCodeNotAllowed { reason, packet })
    }
}

fn check_authentication(method: Option<&str>, data: Option<&[u8]>) -> Result<(), EncodeError> {
    if data.is_some() && method.is_none() {
        return Err(EncodeError::Inconsistent { what: "authentication data without a method" });
    }
    Ok(())
}

// CONNECT

impl Connect<'_> {
    /// Appends the packet to `out`, which grows once, in the version that it names.
    ///
    /// # Errors
    /// [`EncodeError`]; nothing was appended then.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        encode(self, self.version, out)
    }

    /// Returns how many bytes [`encode`](Self::encode) would append.
    ///
    /// # Errors
    /// Those of [`encode`](Self::encode).
    pub fn encoded_len(&self) -> Result<usize, EncodeError> {
        encoded_len(self, self.version)
    }

    fn flags(&self) -> u8 {
        let will = self
            .will
            .as_ref()
            .map_or(0, |will| 0b0000_0100 | will.qos.as_u8() << 3 | u8::from(will.retain) << 5);
        will | u8::from(self.clean_start) << 1
            | u8::from(self.password.is_some()) << 6
            | u8::from(self.username.is_some()) << 7
    }
}

impl Encode for Connect<'_> {
    fn first_byte(&self) -> u8 {
        PacketType::Connect.first_byte()
    }

    fn check(&self, version: Version) -> Result<(), EncodeError> {
        // [MQTT311-3.1.2-22]
        if version != Version::V5 && self.password.is_some() && self.username.is_none() {
            return Err(EncodeError::NotRepresentable { what: "a password without a user name", version });
        }
        if self.will.as_ref().is_some_and(|will| will.topic.is_empty()) {
            return Err(EncodeError::Inconsistent { what: "empty will topic" });
        }
        check_authentication(self.properties.authentication_method, self.properties.authentication_data)
    }

    fn body<S: Sink>(&self, version: Version, sink: &mut S) {
        let v5 = version == Version::V5;
        sink.field(version.protocol_name().as_bytes());
        let bridge = if self.bridge && !v5 { crate::decode::BRIDGE_BIT } else { 0 };
        sink.u8(version.level() | bridge);
        sink.u8(self.flags());
        sink.u16(self.keep_alive);
        if v5 {
            sink.properties(&self.properties);
        }
        sink.field(self.client_id.as_bytes());
        if let Some(will) = &self.will {
            if v5 {
                sink.properties(will);
            }
            sink.field(will.topic.as_bytes());
            sink.field(will.payload);
        }
        if let Some(username) = self.username {
            sink.field(username.as_bytes());
        }
        if let Some(password) = self.password {
            sink.field(password);
        }
    }
}

impl PropertyList for ConnectProperties<'_> {
    fn list(&self, sink: &mut impl Sink) {
        sink.four_bytes(Property::SessionExpiryInterval, self.session_expiry_interval);
        sink.two_bytes(Property::ReceiveMaximum, self.receive_maximum);
        sink.four_bytes(Property::MaximumPacketSize, self.maximum_packet_size);
        sink.two_bytes(Property::TopicAliasMaximum, self.topic_alias_maximum);
        sink.flag(Property::RequestResponseInformation, self.request_response_information);
        sink.flag(Property::RequestProblemInformation, self.request_problem_information);
        sink.string(Property::AuthenticationMethod, self.authentication_method);
        sink.binary(Property::AuthenticationData, self.authentication_data);
        sink.user_properties(&self.user_properties);
    }
}

impl PropertyList for Will<'_> {
    fn list(&self, sink: &mut impl Sink) {
        let delay = Some(self.delay_interval).filter(|&seconds| seconds != 0);
        sink.four_bytes(Property::WillDelayInterval, delay);
        list_message_properties(&self.properties, sink);
    }
}

// CONNACK

impl Encode for ConnAck<'_> {
    fn first_byte(&self) -> u8 {
        PacketType::ConnAck.first_byte()
    }

    fn check(&self, version: Version) -> Result<(), EncodeError> {
        if self.session_present && self.reason != ReasonCode::Success {
            return Err(EncodeError::Inconsistent { what: "session present in a refusal" });
        }
        if version != Version::V5 {
            return match self.reason.to_connect_return_code() {
                Some(_) => Ok(()),
                None => Err(EncodeError::NotRepresentable { what: "the CONNACK reason", version }),
            };
        }
        if self.properties.maximum_qos == Some(QoS::ExactlyOnce) {
            return Err(EncodeError::Inconsistent { what: "Maximum QoS 2, which is said by leaving it out" });
        }
        check_authentication(self.properties.authentication_method, self.properties.authentication_data)?;
        check_reason(self.reason, PacketType::ConnAck)
    }

    fn body<S: Sink>(&self, version: Version, sink: &mut S) {
        // In 3.1 the byte is reserved.
        sink.u8(u8::from(self.session_present && version != Version::V3_1));
        if version == Version::V5 {
            sink.u8(self.reason.as_u8());
            sink.properties(&self.properties);
        } else {
            sink.u8(self.reason.to_connect_return_code().unwrap_or_default());
        }
    }
}

impl PropertyList for ConnAckProperties<'_> {
    fn list(&self, sink: &mut impl Sink) {
        sink.four_bytes(Property::SessionExpiryInterval, self.session_expiry_interval);
        sink.two_bytes(Property::ReceiveMaximum, self.receive_maximum);
        sink.byte(Property::MaximumQoS, self.maximum_qos.map(QoS::as_u8));
        sink.flag(Property::RetainAvailable, self.retain_available);
        sink.four_bytes(Property::MaximumPacketSize, self.maximum_packet_size);
        sink.string(Property::AssignedClientIdentifier, self.assigned_client_id);
        sink.two_bytes(Property::TopicAliasMaximum, self.topic_alias_maximum);
        sink.string(Property::ReasonString, self.reason_string);
        sink.flag(Property::WildcardSubscriptionAvailable, self.wildcard_subscription_available);
        sink.flag(Property::SubscriptionIdentifierAvailable, self.subscription_identifiers_available);
        sink.flag(Property::SharedSubscriptionAvailable, self.shared_subscription_available);
        sink.two_bytes(Property::ServerKeepAlive, self.server_keep_alive);
        sink.string(Property::ResponseInformation, self.response_information);
        sink.string(Property::ServerReference, self.server_reference);
        sink.string(Property::AuthenticationMethod, self.authentication_method);
        sink.binary(Property::AuthenticationData, self.authentication_data);
        sink.user_properties(&self.user_properties);
    }
}

// PUBLISH

impl Encode for Publish<'_> {
    #[inline]
    fn first_byte(&self) -> u8 {
        PacketType::Publish.first_byte()
            | u8::from(self.dup) << 3
            | self.qos.as_u8() << 1
            | u8::from(self.retain)
    }

    #[inline]
    fn check(&self, version: Version) -> Result<(), EncodeError> {
        // [MQTT5-2.2.1-2]
        if self.packet_id.is_some() == (self.qos == QoS::AtMostOnce) {
            return Err(EncodeError::Inconsistent { what: "packet identifier with QoS 0, or none above" });
        }
        // [MQTT5-3.3.1-2]
        if self.dup && self.qos == QoS::AtMostOnce {
            return Err(EncodeError::Inconsistent { what: "DUP with QoS 0" });
        }
        if self.topic.is_empty() {
            if version != Version::V5 {
                return Err(EncodeError::NotRepresentable { what: "an empty topic", version });
            }
            if self.properties.topic_alias.is_none() {
                return Err(EncodeError::Inconsistent { what: "empty topic without topic alias" });
            }
        }
        Ok(())
    }

    #[inline]
    fn body<S: Sink>(&self, version: Version, sink: &mut S) {
        sink.field(self.topic.as_bytes());
        if let Some(packet_id) = self.packet_id {
            sink.u16(packet_id.get());
        }
        if version == Version::V5 {
            sink.properties(&self.properties);
        }
        sink.raw(self.payload);
    }
}

impl PropertyList for PublishProperties<'_> {
    #[inline]
    fn list(&self, sink: &mut impl Sink) {
        sink.two_bytes(Property::TopicAlias, self.topic_alias);
        list_message_properties(self, sink);
        sink.subscription_identifiers(&self.subscription_identifiers);
    }
}

/// What PUBLISH and a will have in common.
#[inline]
fn list_message_properties(properties: &PublishProperties<'_>, sink: &mut impl Sink) {
    sink.flag(Property::PayloadFormatIndicator, properties.payload_is_utf8);
    sink.four_bytes(Property::MessageExpiryInterval, properties.message_expiry_interval);
    sink.string(Property::ContentType, properties.content_type);
    sink.string(Property::ResponseTopic, properties.response_topic);
    sink.binary(Property::CorrelationData, properties.correlation_data);
    sink.user_properties(&properties.user_properties);
}

// PUBACK, PUBREC, PUBREL, PUBCOMP

/// One of the four packets that share their form.
struct Acknowledgement<'p, 'a> {
    packet: &'p PubAck<'a>,
    packet_type: PacketType,
}

impl PubAck<'_> {
    /// Appends a PUBACK with these fields to `out`.
    ///
    /// # Errors
    /// [`EncodeError`]; nothing was appended then.
    #[inline]
    pub fn encode_puback(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.encode_as(PacketType::PubAck, version, out)
    }

    /// Appends a PUBREC with these fields to `out`.
    ///
    /// # Errors
    /// [`EncodeError`]; nothing was appended then.
    #[inline]
    pub fn encode_pubrec(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.encode_as(PacketType::PubRec, version, out)
    }

    /// Appends a PUBREL with these fields to `out`.
    ///
    /// # Errors
    /// [`EncodeError`]; nothing was appended then.
    #[inline]
    pub fn encode_pubrel(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.encode_as(PacketType::PubRel, version, out)
    }

    /// Appends a PUBCOMP with these fields to `out`.
    ///
    /// # Errors
    /// [`EncodeError`]; nothing was appended then.
    #[inline]
    pub fn encode_pubcomp(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.encode_as(PacketType::PubComp, version, out)
    }

    /// Returns how many bytes each of the four would append; they have the same length.
    ///
    /// # Errors
    /// [`EncodeError`] for lengths. Whether the reason code belongs into the packet is seen by `encode_*`.
    pub fn encoded_len(&self, version: Version) -> Result<usize, EncodeError> {
        measured_len(&Acknowledgement { packet: self, packet_type: PacketType::PubAck }, version)
    }

    #[inline]
    fn encode_as(
        &self,
        packet_type: PacketType,
        version: Version,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        // Nearly all of them: the identifier and nothing else.
        if version != Version::V5 || (self.reason == ReasonCode::Success && !self.has_properties()) {
            let [high, low] = self.packet_id.get().to_be_bytes();
            out.extend_from_slice(&[packet_type.first_byte(), 2, high, low]);
            return Ok(());
        }
        encode(&Acknowledgement { packet: self, packet_type }, version, out)
    }

    pub(super) fn encoded_len_as(
        &self,
        packet_type: PacketType,
        version: Version,
    ) -> Result<usize, EncodeError> {
        encoded_len(&Acknowledgement { packet: self, packet_type }, version)
    }

    #[inline]
    const fn has_properties(&self) -> bool {
        self.reason_string.is_some() || !self.user_properties.is_empty()
    }
}

impl Encode for Acknowledgement<'_, '_> {
    fn first_byte(&self) -> u8 {
        self.packet_type.first_byte()
    }

    fn check(&self, version: Version) -> Result<(), EncodeError> {
        if version == Version::V5 { check_reason(self.packet.reason, self.packet_type) } else { Ok(()) }
    }

    fn body<S: Sink>(&self, version: Version, sink: &mut S) {
        sink.u16(self.packet.packet_id.get());
        let properties = self.packet.has_properties();
        if version != Version::V5 || (self.packet.reason == ReasonCode::Success && !properties) {
            return;
        }
        sink.u8(self.packet.reason.as_u8());
        if properties {
            sink.properties(&Explained(self.packet.reason_string, &self.packet.user_properties));
        }
    }
}

/// Reason String and User Property, which is all that most answers have.
struct Explained<'p, 'a>(Option<&'a str>, &'p UserProperties<'a>);

impl PropertyList for Explained<'_, '_> {
    fn list(&self, sink: &mut impl Sink) {
        sink.string(Property::ReasonString, self.0);
        sink.user_properties(self.1);
    }
}

// SUBSCRIBE and UNSUBSCRIBE

impl Encode for Subscribe<'_> {
    fn first_byte(&self) -> u8 {
        PacketType::Subscribe.first_byte()
    }

    fn check(&self, _: Version) -> Result<(), EncodeError> {
        check_not_empty(self.filters.is_empty())
    }

    fn body<S: Sink>(&self, version: Version, sink: &mut S) {
        sink.u16(self.packet_id.get());
        if version == Version::V5 {
            sink.properties(self);
        }
        for entry in &self.filters {
            sink.field(entry.filter.as_bytes());
            sink.u8(options(entry.options, version));
        }
    }
}

impl PropertyList for Subscribe<'_> {
    fn list(&self, sink: &mut impl Sink) {
        if let Some(identifier) = self.subscription_identifier {
            sink.u8(Property::SubscriptionIdentifier as u8);
            sink.variable_byte_integer(identifier.get());
        }
        sink.user_properties(&self.user_properties);
    }
}

fn options(options: SubscribeOptions, version: Version) -> u8 {
    let qos = options.qos.as_u8();
    if version != Version::V5 {
        return qos;
    }
    qos | u8::from(options.no_local) << 2
        | u8::from(options.retain_as_published) << 3
        | options.retain_handling.as_u8() << 4
}

/// [MQTT5-3.8.3-2], [MQTT5-3.10.3-2], [MQTT5-3.8.4-6]
fn check_not_empty(is_empty: bool) -> Result<(), EncodeError> {
    if is_empty { Err(EncodeError::Inconsistent { what: "no filters or reason codes" }) } else { Ok(()) }
}

impl Encode for Unsubscribe<'_> {
    fn first_byte(&self) -> u8 {
        PacketType::Unsubscribe.first_byte()
    }

    fn check(&self, _: Version) -> Result<(), EncodeError> {
        check_not_empty(self.filters.is_empty())
    }

    fn body<S: Sink>(&self, version: Version, sink: &mut S) {
        sink.u16(self.packet_id.get());
        if version == Version::V5 {
            sink.properties(&Explained(None, &self.user_properties));
        }
        for filter in &self.filters {
            sink.field(filter.as_bytes());
        }
    }
}

// SUBACK and UNSUBACK

struct SubAckPacket<'p, 'a>(&'p SubAck<'a>);
struct UnsubAckPacket<'p, 'a>(&'p SubAck<'a>);

impl SubAck<'_> {
    /// Appends a SUBACK with these fields to `out`. In 3.x every failure becomes 0x80.
    ///
    /// # Errors
    /// [`EncodeError`]; nothing was appended then.
    pub fn encode_suback(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        encode(&SubAckPacket(self), version, out)
    }

    /// Appends an UNSUBACK with these fields to `out`. In 3.x the reason codes are left out.
    ///
    /// # Errors
    /// [`EncodeError`]; nothing was appended then.
    pub fn encode_unsuback(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        encode(&UnsubAckPacket(self), version, out)
    }

    /// Returns how many bytes [`encode_suback`](Self::encode_suback) would append.
    ///
    /// # Errors
    /// Those of [`encode_suback`](Self::encode_suback).
    pub fn encoded_len_suback(&self, version: Version) -> Result<usize, EncodeError> {
        encoded_len(&SubAckPacket(self), version)
    }

    /// Returns how many bytes [`encode_unsuback`](Self::encode_unsuback) would append.
    ///
    /// # Errors
    /// Those of [`encode_unsuback`](Self::encode_unsuback).
    pub fn encoded_len_unsuback(&self, version: Version) -> Result<usize, EncodeError> {
        encoded_len(&UnsubAckPacket(self), version)
    }

    fn head<S: Sink>(&self, version: Version, sink: &mut S) {
        sink.u16(self.packet_id.get());
        if version == Version::V5 {
            sink.properties(&Explained(self.reason_string, &self.user_properties));
        }
    }
}

impl Encode for SubAckPacket<'_, '_> {
    fn first_byte(&self) -> u8 {
        PacketType::SubAck.first_byte()
    }

    fn check(&self, version: Version) -> Result<(), EncodeError> {
        check_not_empty(self.0.reasons.is_empty())?;
        self.0.reasons.iter().try_for_each(|&reason| match version {
            Version::V5 => check_reason(reason, PacketType::SubAck),
            Version::V3_1 | Version::V3_1_1 if reason.to_subscribe_return_code().is_some() => Ok(()),
            Version::V3_1 | Version::V3_1_1 => {
                Err(EncodeError::ReasonCodeNotAllowed { reason, packet: PacketType::SubAck })
            }
        })
    }

    fn body<S: Sink>(&self, version: Version, sink: &mut S) {
        self.0.head(version, sink);
        for reason in &self.0.reasons {
            sink.u8(match version {
                Version::V5 => reason.as_u8(),
                Version::V3_1 | Version::V3_1_1 => reason.to_subscribe_return_code().unwrap_or(0x80),
            });
        }
    }
}

impl Encode for UnsubAckPacket<'_, '_> {
    fn first_byte(&self) -> u8 {
        PacketType::UnsubAck.first_byte()
    }

    fn check(&self, version: Version) -> Result<(), EncodeError> {
        if version != Version::V5 {
            return Ok(());
        }
        check_not_empty(self.0.reasons.is_empty())?;
        self.0.reasons.iter().try_for_each(|&reason| check_reason(reason, PacketType::UnsubAck))
    }

    fn body<S: Sink>(&self, version: Version, sink: &mut S) {
        self.0.head(version, sink);
        if version == Version::V5 {
            for reason in &self.0.reasons {
                sink.u8(reason.as_u8());
            }
        }
    }
}

// DISCONNECT and AUTH

impl Encode for Disconnect<'_> {
    fn first_byte(&self) -> u8 {
        PacketType::Disconnect.first_byte()
    }

    fn check(&self, version: Version) -> Result<(), EncodeError> {
        if version == Version::V5 { check_reason(self.reason, PacketType::Disconnect) } else { Ok(()) }
    }

    fn body<S: Sink>(&self, version: Version, sink: &mut S) {
        let properties = self.session_expiry_interval.is_some()
            || self.reason_string.is_some()
            || self.server_reference.is_some()
            || !self.user_properties.is_empty();
        if version != Version::V5 || (self.reason == ReasonCode::NORMAL_DISCONNECTION && !properties) {
            return;
        }
        sink.u8(self.reason.as_u8());
        if properties {
            sink.properties(self);
        }
    }
}

impl PropertyList for Disconnect<'_> {
    fn list(&self, sink: &mut impl Sink) {
        sink.four_bytes(Property::SessionExpiryInterval, self.session_expiry_interval);
        sink.string(Property::ReasonString, self.reason_string);
        sink.string(Property::ServerReference, self.server_reference);
        sink.user_properties(&self.user_properties);
    }
}

impl Encode for Auth<'_> {
    fn first_byte(&self) -> u8 {
        PacketType::Auth.first_byte()
    }

    fn check(&self, version: Version) -> Result<(), EncodeError> {
        if version != Version::V5 {
            return Err(EncodeError::NotRepresentable { what: "AUTH", version });
        }
        check_authentication(self.authentication_method, self.authentication_data)?;
        check_reason(self.reason, PacketType::Auth)
    }

    fn body<S: Sink>(&self, _: Version, sink: &mut S) {
        // Reason and properties may only be left out together (section 3.15.2.1).
        let plain = self.authentication_method.is_none()
            && self.reason_string.is_none()
            && self.user_properties.is_empty();
        if plain && self.reason == ReasonCode::Success {
            return;
        }
        sink.u8(self.reason.as_u8());
        sink.properties(self);
    }
}

impl PropertyList for Auth<'_> {
    fn list(&self, sink: &mut impl Sink) {
        sink.string(Property::AuthenticationMethod, self.authentication_method);
        sink.binary(Property::AuthenticationData, self.authentication_data);
        sink.string(Property::ReasonString, self.reason_string);
        sink.user_properties(&self.user_properties);
    }
}
