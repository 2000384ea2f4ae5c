//! User properties: name and value pairs that travel unaltered and in order ([MQTT5-3.3.2-17], [MQTT5-3.3.2-18]).

use std::borrow::Cow;
use std::fmt;

use memchr::memchr;

use crate::property::Property;
use crate::reader::Reader;
use crate::{DecodeError, EncodeError, Fault, Version};

/// The user properties of a packet, kept as the bytes that go onto the wire, so that forwarding them is one copy.
///
/// Decoded ones borrow from the packet. (Where a sender mixes other properties between them they are gathered into
/// memory of their own.) The bytes are always valid: each pair behind its property identifier, both halves UTF-8.
///
/// ```
/// # fn main() -> Result<(), tidegate_codec::EncodeError> {
/// use tidegate_codec::UserProperties;
///
/// let mut properties = UserProperties::default();
/// properties.push("site", "lyon")?;
/// assert_eq!(properties.iter().collect::<Vec<_>>(), [("site", "lyon")]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct UserProperties<'a> {
    wire: Cow<'a, [u8]>,
    count: u32,
}

const IDENTIFIER: u8 = Property::UserProperty as u8;

impl<'a> UserProperties<'a> {
    /// Returns properties with these pairs, in order.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn from_pairs<'p>(pairs: impl IntoIterator<Item = (&'p str, &'p str)>) -> Result<Self, EncodeError> {
        let mut properties = Self::default();
        for (name, value) in pairs {
            properties.push(name, value)?;
        }
        Ok(properties)
    }

    /// Returns properties over bytes that have the form of [`as_wire`](Self::as_wire), after checking them.
    ///
    /// # Errors
    /// What the decoder would say of such properties; no limit is applied.
    pub fn from_wire(wire: &'a [u8]) -> Result<Self, DecodeError> {
        let check = || {
            let mut reader = Reader::new(wire);
            let mut count = 0;
            while !reader.is_empty() {
                let identifier = reader.u8()?;
                if identifier != IDENTIFIER {
                    return Err(Property::from_u8(identifier)
                        .map_or(Fault::UnknownProperty { number: identifier }, |property| {
                            Fault::PropertyNotAllowed { property }
                        }));
                }
                reader.string()?;
                reader.string()?;
                count += 1;
            }
            Ok(Self { wire: Cow::Borrowed(wire), count })
        };
        check().map_err(|fault| DecodeError::new(fault, None, Some(Version::V5)))
    }

    /// Appends a pair. The same name may appear more than once.
    ///
    /// # Errors
    /// [`EncodeError::FieldTooLong`] above 65,535 bytes, [`EncodeError::NulInString`]; nothing was appended then.
    pub fn push(&mut self, name: &str, value: &str) -> Result<(), EncodeError> {
        let length = |text: &str| {
            if memchr(0, text.as_bytes()).is_some() {
                return Err(EncodeError::NulInString);
            }
            u16::try_from(text.len()).map_err(|_| EncodeError::FieldTooLong { bytes: text.len() })
        };
        let (name_length, value_length) = (length(name)?, length(value)?);
        let wire = self.wire.to_mut();
        wire.reserve(1 + 2 + name.len() + 2 + value.len());
        wire.push(IDENTIFIER);
        wire.extend_from_slice(&name_length.to_be_bytes());
        wire.extend_from_slice(name.as_bytes());
        wire.extend_from_slice(&value_length.to_be_bytes());
        wire.extend_from_slice(value.as_bytes());
        self.count = self.count.saturating_add(1);
        Ok(())
    }

    /// Returns the number of pairs.
    pub const fn len(&self) -> usize {
        self.count as usize
    }

    /// Tells whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Returns the pairs in order.
    pub fn iter(&self) -> UserPropertyIter<'_> {
        UserPropertyIter { reader: Reader::new(&self.wire), left: self.len() }
    }

    /// Returns the value of the first pair with that name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find_map(|(key, value)| (key == name).then_some(value))
    }

    /// Returns the bytes as they stand in a property block: for each pair the identifier 0x26 and two strings.
    pub fn as_wire(&self) -> &[u8] {
        &self.wire
    }

    /// Returns the same properties, borrowed from these: what a stored message lends to a packet.
    pub fn borrowed(&self) -> UserProperties<'_> {
        UserProperties { wire: Cow::Borrowed(&self.wire), count: self.count }
    }

    /// Returns the same properties with memory of their own.
    pub fn into_owned(self) -> UserProperties<'static> {
        UserProperties { wire: Cow::Owned(self.wire.into_owned()), count: self.count }
    }

    /// Takes over the bytes of one pair that the decoder has just checked.
    ///
    /// `run` are the bytes from the first pair of an unbroken run of pairs up to and with this one.
    pub(crate) fn append_checked(&mut self, run: &'a [u8], pair: &'a [u8]) {
        if let Cow::Borrowed(wire) = &mut self.wire
            && run.len() == wire.len() + pair.len()
        {
            *wire = run;
        } else {
            self.wire.to_mut().extend_from_slice(pair);
        }
        self.count += 1;
    }
}

/// No properties. Not derived: the default of `Cow` owns, and what the decoder gathers is borrowed while it can be.
impl Default for UserProperties<'_> {
    fn default() -> Self {
        Self { wire: Cow::Borrowed(&[]), count: 0 }
    }
}

impl fmt::Debug for UserProperties<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

impl<'s> IntoIterator for &'s UserProperties<'_> {
    type Item = (&'s str, &'s str);
    type IntoIter = UserPropertyIter<'s>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// The pairs of [`UserProperties`], in order.
#[derive(Debug, Clone)]
pub struct UserPropertyIter<'a> {
    reader: Reader<'a>,
    left: usize,
}

impl<'a> Iterator for UserPropertyIter<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        self.reader.u8().ok()?;
        let pair = (self.reader.string().ok()?, self.reader.string().ok()?);
        self.left = self.left.saturating_sub(1);
        Some(pair)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for UserPropertyIter<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_come_back_in_order_and_with_their_repeats() {
        let pairs = [("a", "1"), ("b", ""), ("a", "2"), ("", "é")];
        let properties = UserProperties::from_pairs(pairs).unwrap();
        assert_eq!(properties.len(), 4);
        assert_eq!(properties.iter().collect::<Vec<_>>(), pairs);
        assert_eq!(properties.get("a"), Some("1"));
        assert_eq!(UserProperties::from_wire(properties.as_wire()).unwrap(), properties);
        assert_eq!(properties.borrowed().into_owned(), properties);
    }

    #[test]
    fn a_pair_that_no_packet_could_carry_is_refused_and_leaves_the_rest_alone() {
        let mut properties = UserProperties::from_pairs([("a", "1")]).unwrap();
        let long = "x".repeat(65_536);
        assert_eq!(properties.push("b", &long), Err(EncodeError::FieldTooLong { bytes: 65_536 }));
        assert_eq!(properties.push("b\0", ""), Err(EncodeError::NulInString));
        assert_eq!(properties.len(), 1);
        assert_eq!(properties.iter().collect::<Vec<_>>(), [("a", "1")]);
    }

    #[test]
    fn wire_bytes_from_outside_are_checked() {
        let fault = |wire: &[u8]| UserProperties::from_wire(wire).unwrap_err().fault();
        assert_eq!(fault(b"\x26\0\x01a\0\x02b"), Fault::Truncated);
        assert_eq!(fault(b"\x26\0\x01a\0\x01\xFF"), Fault::InvalidUtf8);
        assert_eq!(fault(b"\x23\0\x01"), Fault::PropertyNotAllowed { property: Property::TopicAlias });
        assert_eq!(fault(b"\x00"), Fault::UnknownProperty { number: 0 });
    }
}
