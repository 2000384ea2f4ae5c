//! SUBSCRIBE and UNSUBSCRIBE, and their answers.

use super::acknowledge::{Explained, check_reason};
use super::sink::{PropertyList, PropertySink, Sink};
use super::{Encode, encode, encode_methods, encoded_len};
use crate::property::Property;
use crate::{EncodeError, PacketType, SubAck, Subscribe, SubscribeOptions, Unsubscribe, Version};

encode_methods!(Subscribe);
encode_methods!(Unsubscribe);

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
