//! CONNECT and CONNACK.

use super::acknowledge::check_reason;
use super::publish::list_message_properties;
use super::sink::{PropertyList, PropertySink, Sink};
use super::{Encode, encode, encode_methods, encoded_len};
use crate::property::Property;
use crate::{
    ConnAck, ConnAckProperties, Connect, ConnectProperties, EncodeError, PacketType, QoS, ReasonCode,
    Version, Will,
};

encode_methods!(ConnAck);

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

/// Authentication Data is only allowed beside Authentication Method (sections 3.1.2.11.10, 3.2.2.3.18).
pub(super) fn check_authentication(method: Option<&str>, data: Option<&[u8]>) -> Result<(), EncodeError> {
    if data.is_some() && method.is_none() {
        return Err(EncodeError::Inconsistent { what: "authentication data without a method" });
    }
    Ok(())
}
