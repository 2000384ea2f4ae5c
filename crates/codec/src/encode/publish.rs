//! PUBLISH.

use super::sink::{PropertyList, PropertySink, Sink};
use super::{Encode, encode, encode_methods, encoded_len};
use crate::property::Property;
use crate::{EncodeError, PacketType, Publish, PublishProperties, QoS, Version};

encode_methods!(Publish);

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
pub(super) fn list_message_properties(properties: &PublishProperties<'_>, sink: &mut impl Sink) {
    sink.flag(Property::PayloadFormatIndicator, properties.payload_is_utf8);
    sink.four_bytes(Property::MessageExpiryInterval, properties.message_expiry_interval);
    sink.string(Property::ContentType, properties.content_type);
    sink.string(Property::ResponseTopic, properties.response_topic);
    sink.binary(Property::CorrelationData, properties.correlation_data);
    sink.user_properties(&properties.user_properties);
}
