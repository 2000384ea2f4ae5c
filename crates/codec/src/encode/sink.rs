//! Where the fields of a packet go: into a sum of lengths, then into a buffer.

use crate::property::Property;
use crate::{EncodeError, SubscriptionIdentifiers, UserProperties};

/// Takes the fields of a packet in order.
pub(super) trait Sink {
    fn u8(&mut self, value: u8);
    fn u16(&mut self, value: u16);
    fn u32(&mut self, value: u32);
    fn variable_byte_integer(&mut self, value: u32);
    /// Bytes as they are.
    fn raw(&mut self, bytes: &[u8]);
    /// A string or binary data behind its length.
    fn field(&mut self, bytes: &[u8]);
    /// A property block behind its length ([MQTT5-2.2.2-1]: 0 where there are no properties).
    fn properties(&mut self, list: &impl PropertyList);
}

/// Something with properties, which names them to a sink.
pub(super) trait PropertyList {
    fn list(&self, sink: &mut impl Sink);
}

/// Properties by their type; absent ones are nothing.
pub(super) trait PropertySink: Sink + Sized {
    #[inline]
    fn byte(&mut self, property: Property, value: Option<u8>) {
        if let Some(value) = value {
            self.u8(property as u8);
            self.u8(value);
        }
    }

    #[inline]
    fn flag(&mut self, property: Property, value: Option<bool>) {
        self.byte(property, value.map(u8::from));
    }

    #[inline]
    fn two_bytes(&mut self, property: Property, value: Option<impl Into<u16>>) {
        if let Some(value) = value {
            self.u8(property as u8);
            self.u16(value.into());
        }
    }

    #[inline]
    fn four_bytes(&mut self, property: Property, value: Option<impl Into<u32>>) {
        if let Some(value) = value {
            self.u8(property as u8);
            self.u32(value.into());
        }
    }

    #[inline]
    fn string(&mut self, property: Property, value: Option<&str>) {
        self.binary(property, value.map(str::as_bytes));
    }

    #[inline]
    fn binary(&mut self, property: Property, value: Option<&[u8]>) {
        if let Some(value) = value {
            self.u8(property as u8);
            self.field(value);
        }
    }

    #[inline]
    fn user_properties(&mut self, properties: &UserProperties<'_>) {
        self.raw(properties.as_wire());
    }

    #[inline]
    fn subscription_identifiers(&mut self, identifiers: &SubscriptionIdentifiers<'_>) {
        if matches!(identifiers, SubscriptionIdentifiers::None) {
            return;
        }
        for identifier in identifiers {
            self.u8(Property::SubscriptionIdentifier as u8);
            self.variable_byte_integer(identifier.get());
        }
    }
}

impl<S: Sink> PropertySink for S {}

/// Returns how many bytes a variable byte integer takes.
pub(super) const fn variable_byte_integer_bytes(value: usize) -> usize {
    match value {
        0..=0x7F => 1,
        0x80..=0x3FFF => 2,
        0x4000..=0x1F_FFFF => 3,
        _ => 4,
    }
}

/// Adds up lengths and remembers the first field that cannot be written.
#[derive(Debug, Default)]
pub(super) struct Measure {
    bytes: usize,
    error: Option<EncodeError>,
}

impl Measure {
    #[inline]
    pub(super) fn finish(self) -> Result<usize, EncodeError> {
        self.error.map_or(Ok(self.bytes), Err)
    }

    #[inline]
    fn add(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

impl Sink for Measure {
    #[inline]
    fn u8(&mut self, _: u8) {
        self.add(1);
    }

    #[inline]
    fn u16(&mut self, _: u16) {
        self.add(2);
    }

    #[inline]
    fn u32(&mut self, _: u32) {
        self.add(4);
    }

    #[inline]
    fn variable_byte_integer(&mut self, value: u32) {
        if value > SubscriptionIdentifiers::MAX {
            self.error =
                Some(EncodeError::Inconsistent { what: "subscription identifier above 268,435,455" });
        }
        self.add(variable_byte_integer_bytes(value as usize));
    }

    #[inline]
    fn raw(&mut self, bytes: &[u8]) {
        self.add(bytes.len());
    }

    #[inline]
    fn field(&mut self, bytes: &[u8]) {
        if bytes.len() > usize::from(u16::MAX) {
            self.error = Some(EncodeError::FieldTooLong { bytes: bytes.len() });
        }
        self.add(2);
        self.add(bytes.len());
    }

    #[inline]
    fn properties(&mut self, list: &impl PropertyList) {
        let before = self.bytes;
        list.list(self);
        self.add(variable_byte_integer_bytes(self.bytes - before));
    }
}

/// Writes. Every length was measured before, so that nothing is cut here.
impl Sink for Vec<u8> {
    #[inline]
    fn u8(&mut self, value: u8) {
        self.push(value);
    }

    #[inline]
    fn u16(&mut self, value: u16) {
        self.extend_from_slice(&value.to_be_bytes());
    }

    #[inline]
    fn u32(&mut self, value: u32) {
        self.extend_from_slice(&value.to_be_bytes());
    }

    #[inline]
    fn variable_byte_integer(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.push(value as u8);
    }

    #[inline]
    fn raw(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    #[inline]
    fn field(&mut self, bytes: &[u8]) {
        self.u16(bytes.len() as u16);
        self.extend_from_slice(bytes);
    }

    #[inline]
    fn properties(&mut self, list: &impl PropertyList) {
        let mut measure = Measure::default();
        list.list(&mut measure);
        self.variable_byte_integer(measure.bytes as u32);
        if measure.bytes > 0 {
            list.list(self);
        }
    }
}
