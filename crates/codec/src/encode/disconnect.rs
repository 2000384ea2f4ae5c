//! DISCONNECT and AUTH.

use super::acknowledge::check_reason;
use super::connect::check_authentication;
use super::sink::{PropertyList, PropertySink, Sink};
use super::{Encode, encode, encode_methods, encoded_len};
use crate::property::Property;
use crate::{Auth, Disconnect, EncodeError, PacketType, ReasonCode, Version};

encode_methods!(Disconnect);
encode_methods!(Auth);

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
