//! The subscription identifiers of a PUBLISH, as decoded or as a server composes them.

use std::num::NonZeroU32;

use crate::SubscriptionIdentifiers;
use crate::property::{Property, ValueType};
use crate::reader::Reader;

impl<'a> SubscriptionIdentifiers<'a> {
    /// The largest identifier, which is the largest variable byte integer.
    pub const MAX: u32 = 268_435_455;

    /// Returns the identifiers in order.
    pub fn iter(&self) -> SubscriptionIdentifierIter<'a> {
        SubscriptionIdentifierIter(match *self {
            Self::None => Source::List(&[]),
            Self::One(identifier) => Source::One(Some(identifier)),
            Self::Wire(wire) => Source::Wire(Reader::new(wire)),
            Self::List(list) => Source::List(list),
        })
    }

    /// Tells whether there are none.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
}

/// Equal when they hold the same identifiers in the same order, however they are stored.
impl PartialEq for SubscriptionIdentifiers<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for SubscriptionIdentifiers<'_> {}

impl<'a> IntoIterator for &SubscriptionIdentifiers<'a> {
    type Item = NonZeroU32;
    type IntoIter = SubscriptionIdentifierIter<'a>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// The identifiers of [`SubscriptionIdentifiers`], in order.
#[derive(Debug, Clone)]
pub struct SubscriptionIdentifierIter<'a>(Source<'a>);

#[derive(Debug, Clone)]
enum Source<'a> {
    One(Option<NonZeroU32>),
    Wire(Reader<'a>),
    List(&'a [NonZeroU32]),
}

impl Iterator for SubscriptionIdentifierIter<'_> {
    type Item = NonZeroU32;

    fn next(&mut self) -> Option<NonZeroU32> {
        match &mut self.0 {
            Source::One(identifier) => identifier.take(),
            Source::List(list) => {
                let (&first, rest) = list.split_first()?;
                *list = rest;
                Some(first)
            }
            Source::Wire(reader) => next_on_wire(reader),
        }
    }
}

/// Steps over the other properties that a sender may have mixed in between. Bytes that did not come from the decoder
/// and do not parse end the iteration.
fn next_on_wire(reader: &mut Reader<'_>) -> Option<NonZeroU32> {
    loop {
        let property = Property::from_u8(reader.u8().ok()?)?;
        let _skipped = match property.value_type() {
            ValueType::VariableByteInteger => return NonZeroU32::new(reader.variable_byte_integer().ok()?),
            ValueType::Byte => reader.take(1).ok()?,
            ValueType::TwoBytes => reader.take(2).ok()?,
            ValueType::FourBytes => reader.take(4).ok()?,
            ValueType::LengthPrefixed => reader.binary().ok()?,
            ValueType::StringPair => {
                reader.binary().ok()?;
                reader.binary().ok()?
            }
        };
    }
}
