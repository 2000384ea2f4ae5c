//! A property block of MQTT 5.0: what all packets with properties have in common.

use std::num::{NonZeroU16, NonZeroU32};

use crate::property::Property;
use crate::reader::Reader;
use crate::{Fault, Limits, SubscriptionIdentifiers, UserProperties};

/// Walks over one property block. User properties, which every block may carry, are gathered on the way; the packet
/// takes every other property that belongs into it, by one of the typed methods, each of which refuses a second one.
pub(super) struct PropertyBlock<'a> {
    reader: Reader<'a>,
    current: Property,
    user_properties: UserProperties<'a>,
    /// Where the current unbroken run of user properties begins and ends.
    run: (usize, usize),
    max_user_properties: u32,
}

impl<'a> PropertyBlock<'a> {
    /// Reads Property Length and takes that many bytes from the packet.
    pub(super) fn open(body: &mut Reader<'a>, limits: &Limits) -> Result<Self, Fault> {
        let length = body.variable_byte_integer()?;
        Ok(Self {
            reader: Reader::new(body.take(length as usize)?),
            current: Property::UserProperty,
            user_properties: UserProperties::default(),
            run: (0, 0),
            max_user_properties: limits.max_user_properties,
        })
    }

    /// Returns the next property that is not a user property, whose value is still to be read.
    pub(super) fn next(&mut self) -> Result<Option<Property>, Fault> {
        while !self.reader.is_empty() {
            let start = self.reader.position();
            let number = self.reader.u8()?;
            // Identifiers are variable byte integers; all that exist take one byte.
            let property = Property::from_u8(number).ok_or(Fault::UnknownProperty { number })?;
            if property != Property::UserProperty {
                self.current = property;
                return Ok(Some(property));
            }
            self.user_property(start)?;
        }
        Ok(None)
    }

    fn user_property(&mut self, start: usize) -> Result<(), Fault> {
        if self.user_properties.len() >= self.max_user_properties as usize {
            return Err(Fault::TooManyUserProperties { limit: self.max_user_properties });
        }
        self.reader.string()?;
        self.reader.string()?;
        let end = self.reader.position();
        let run_start = if self.run.1 == start { self.run.0 } else { start };
        self.run = (run_start, end);
        let (run, pair) = (self.reader.between(run_start, end), self.reader.between(start, end));
        self.user_properties.append_checked(run, pair);
        Ok(())
    }

    /// Returns the user properties, once [`next`](Self::next) has returned `None`.
    pub(super) fn into_user_properties(self) -> UserProperties<'a> {
        self.user_properties
    }

    /// Returns the fault that the current property does not belong into this packet.
    pub(super) const fn not_allowed(&self) -> Fault {
        Fault::PropertyNotAllowed { property: self.current }
    }

    const fn out_of_range(&self) -> Fault {
        Fault::PropertyValue { property: self.current }
    }

    fn set<T>(&self, slot: &mut Option<T>, value: T) -> Result<(), Fault> {
        if slot.replace(value).is_some() {
            return Err(Fault::DuplicateProperty { property: self.current });
        }
        Ok(())
    }

    pub(super) fn bool(&mut self, slot: &mut Option<bool>) -> Result<(), Fault> {
        let value = match self.reader.u8()? {
            0 => false,
            1 => true,
            _ => return Err(self.out_of_range()),
        };
        self.set(slot, value)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Fault> {
        self.reader.u8()
    }

    /// Sets a slot whose value was read by [`u8`](Self::u8), where it is in range.
    pub(super) fn set_in_range<T>(&self, slot: &mut Option<T>, value: Option<T>) -> Result<(), Fault> {
        let value = value.ok_or_else(|| self.out_of_range())?;
        self.set(slot, value)
    }

    pub(super) fn u16(&mut self, slot: &mut Option<u16>) -> Result<(), Fault> {
        let value = self.reader.u16()?;
        self.set(slot, value)
    }

    pub(super) fn u32(&mut self, slot: &mut Option<u32>) -> Result<(), Fault> {
        let value = self.reader.u32()?;
        self.set(slot, value)
    }

    pub(super) fn nonzero_u16(&mut self, slot: &mut Option<NonZeroU16>) -> Result<(), Fault> {
        let value = NonZeroU16::new(self.reader.u16()?);
        self.set_in_range(slot, value)
    }

    pub(super) fn nonzero_u32(&mut self, slot: &mut Option<NonZeroU32>) -> Result<(), Fault> {
        let value = NonZeroU32::new(self.reader.u32()?);
        self.set_in_range(slot, value)
    }

    pub(super) fn string(&mut self, slot: &mut Option<&'a str>) -> Result<(), Fault> {
        let value = self.reader.string()?;
        self.set(slot, value)
    }

    pub(super) fn response_topic(&mut self, slot: &mut Option<&'a str>) -> Result<(), Fault> {
        let value = self.reader.topic_name().map_err(|fault| match fault {
            Fault::WildcardInTopic => Fault::WildcardInResponseTopic,
            other => other,
        })?;
        self.set(slot, value)
    }

    pub(super) fn binary(&mut self, slot: &mut Option<&'a [u8]>) -> Result<(), Fault> {
        let value = self.reader.binary()?;
        self.set(slot, value)
    }

    pub(super) fn variable_byte_integer(&mut self, slot: &mut Option<NonZeroU32>) -> Result<(), Fault> {
        let value = NonZeroU32::new(self.reader.variable_byte_integer()?);
        self.set_in_range(slot, value)
    }

    /// Adds a subscription identifier. Of several, the bytes from the first to the last are kept, with whatever
    /// stands between them, which iteration steps over: no memory of their own, however they are mixed.
    pub(super) fn subscription_identifier(
        &mut self,
        identifiers: &mut SubscriptionIdentifiers<'a>,
        first_at: &mut usize,
    ) -> Result<(), Fault> {
        let start = self.reader.position() - 1;
        let identifier =
            NonZeroU32::new(self.reader.variable_byte_integer()?).ok_or_else(|| self.out_of_range())?;
        *identifiers = if matches!(identifiers, SubscriptionIdentifiers::None) {
            *first_at = start;
            SubscriptionIdentifiers::One(identifier)
        } else {
            SubscriptionIdentifiers::Wire(self.reader.between(*first_at, self.reader.position()))
        };
        Ok(())
    }
}

/// Authentication Data is only allowed beside Authentication Method (sections 3.1.2.11.10, 3.2.2.3.18).
pub(super) fn check_authentication(method: Option<&str>, data: Option<&[u8]>) -> Result<(), Fault> {
    if data.is_some() && method.is_none() {
        return Err(Fault::AuthenticationDataWithoutMethod);
    }
    Ok(())
}
