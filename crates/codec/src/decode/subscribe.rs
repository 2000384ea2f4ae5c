//! SUBSCRIBE and UNSUBSCRIBE, and their answers.

use super::acknowledge::reason;
use super::properties::PropertyBlock;
use crate::property::Property;
use crate::reader::Reader;
use crate::{
    Fault, Limits, PacketType, QoS, ReasonCode, RetainHandling, SubAck, Subscribe, SubscribeFilter,
    SubscribeOptions, Unsubscribe, UserProperties, Version,
};

pub(super) fn decode<'a>(
    body: &mut Reader<'a>,
    version: Version,
    limits: &Limits,
) -> Result<Subscribe<'a>, Fault> {
    let packet_id = body.packet_id()?;
    let mut subscription_identifier = None;
    let mut user_properties = UserProperties::default();
    if version == Version::V5 {
        let mut block = PropertyBlock::open(body, limits)?;
        while let Some(property) = block.next()? {
            match property {
                Property::SubscriptionIdentifier => {
                    block.variable_byte_integer(&mut subscription_identifier)?;
                }
                _ => return Err(block.not_allowed()),
            }
        }
        user_properties = block.into_user_properties();
    }
    let filters = filters(body, limits, |body| {
        let filter = body.string()?;
        let options = options(body.u8()?, version)?;
        if options.no_local && filter.starts_with("$share/") {
            return Err(Fault::NoLocalOnShared);
        }
        Ok(SubscribeFilter { filter, options })
    })?;
    Ok(Subscribe { packet_id, subscription_identifier, user_properties, filters })
}

/// Reads the rest of the packet as a list with at least one entry ([MQTT5-3.8.3-2], [MQTT5-3.10.3-2]).
fn filters<'a, T>(
    body: &mut Reader<'a>,
    limits: &Limits,
    mut read: impl FnMut(&mut Reader<'a>) -> Result<T, Fault>,
) -> Result<Vec<T>, Fault> {
    let mut filters = Vec::new();
    while !body.is_empty() {
        if filters.len() >= limits.max_filters as usize {
            return Err(Fault::TooManyFilters { limit: limits.max_filters });
        }
        filters.push(read(body)?);
    }
    if filters.is_empty() { Err(Fault::EmptyPayload) } else { Ok(filters) }
}

/// Subscription options: QoS, No Local, Retain As Published, Retain Handling and two reserved bits; before 5.0 the
/// QoS and six reserved bits.
fn options(byte: u8, version: Version) -> Result<SubscribeOptions, Fault> {
    let reserved = if version == Version::V5 { 0b1100_0000 } else { 0b1111_1100 };
    if byte & reserved != 0 {
        return Err(Fault::ReservedSubscriptionOptions { options: byte });
    }
    Ok(SubscribeOptions {
        qos: QoS::from_u8(byte & 0b11).ok_or(Fault::SubscriptionQoS3)?,
        no_local: byte & 0b0100 != 0,
        retain_as_published: byte & 0b1000 != 0,
        retain_handling: RetainHandling::from_u8((byte >> 4) & 0b11).ok_or(Fault::RetainHandling3)?,
    })
}

pub(super) fn decode_unsubscribe<'a>(
    body: &mut Reader<'a>,
    version: Version,
    limits: &Limits,
) -> Result<Unsubscribe<'a>, Fault> {
    let packet_id = body.packet_id()?;
    let mut user_properties = UserProperties::default();
    if version == Version::V5 {
        let mut block = PropertyBlock::open(body, limits)?;
        if block.next()?.is_some() {
            return Err(block.not_allowed());
        }
        user_properties = block.into_user_properties();
    }
    let filters = filters(body, limits, Reader::string)?;
    Ok(Unsubscribe { packet_id, user_properties, filters })
}

pub(super) fn decode_suback<'a>(
    body: &mut Reader<'a>,
    version: Version,
    limits: &Limits,
) -> Result<SubAck<'a>, Fault> {
    let mut packet = suback_head(body, version, limits)?;
    packet.reasons = reasons(body, |body| match version {
        Version::V5 => reason(body, PacketType::SubAck),
        Version::V3_1 | Version::V3_1_1 => {
            let number = body.u8()?;
            ReasonCode::from_subscribe_return_code(number).ok_or(Fault::ReasonCodeNotAllowed { number })
        }
    })?;
    Ok(packet)
}

pub(super) fn decode_unsuback<'a>(
    body: &mut Reader<'a>,
    version: Version,
    limits: &Limits,
) -> Result<SubAck<'a>, Fault> {
    let mut packet = suback_head(body, version, limits)?;
    if version == Version::V5 {
        packet.reasons = reasons(body, |body| reason(body, PacketType::UnsubAck))?;
    }
    Ok(packet)
}

fn suback_head<'a>(body: &mut Reader<'a>, version: Version, limits: &Limits) -> Result<SubAck<'a>, Fault> {
    let mut packet = SubAck::new(body.packet_id()?, Vec::new());
    if version == Version::V5 {
        let mut block = PropertyBlock::open(body, limits)?;
        while let Some(property) = block.next()? {
            match property {
                Property::ReasonString => block.string(&mut packet.reason_string)?,
                _ => return Err(block.not_allowed()),
            }
        }
        packet.user_properties = block.into_user_properties();
    }
    Ok(packet)
}

/// Reads the rest of the packet as reason codes, one byte each.
fn reasons<'a>(
    body: &mut Reader<'a>,
    mut read: impl FnMut(&mut Reader<'a>) -> Result<ReasonCode, Fault>,
) -> Result<Vec<ReasonCode>, Fault> {
    if body.is_empty() {
        return Err(Fault::EmptyPayload);
    }
    let mut reasons = Vec::with_capacity(body.remaining());
    while !body.is_empty() {
        reasons.push(read(body)?);
    }
    Ok(reasons)
}
