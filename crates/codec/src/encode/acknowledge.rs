//! PUBACK, PUBREC, PUBREL and PUBCOMP, and what all answers have in common.

use super::sink::{PropertyList, PropertySink, Sink};
use super::{Encode, encode, encoded_len, measured_len};
use crate::property::Property;
use crate::{EncodeError, PacketType, PubAck, ReasonCode, UserProperties, Version};

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
pub(super) struct Explained<'p, 'a>(pub(super) Option<&'a str>, pub(super) &'p UserProperties<'a>);

impl PropertyList for Explained<'_, '_> {
    fn list(&self, sink: &mut impl Sink) {
        sink.string(Property::ReasonString, self.0);
        sink.user_properties(self.1);
    }
}

/// Refuses a reason code that packets of that type must not carry.
pub(super) fn check_reason(reason: ReasonCode, packet: PacketType) -> Result<(), EncodeError> {
    if reason.is_allowed_in(packet) {
        Ok(())
    } else {
        Err(EncodeError::ReasonCodeNotAllowed { reason, packet })
    }
}
