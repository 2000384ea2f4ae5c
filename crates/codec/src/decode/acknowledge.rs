//! PUBACK, PUBREC, PUBREL and PUBCOMP.

use super::properties::PropertyBlock;
use crate::property::Property;
use crate::reader::Reader;
use crate::{Fault, Limits, PacketType, PubAck, ReasonCode, Version};

#[inline]
pub(super) fn decode<'a>(
    body: &mut Reader<'a>,
    packet_type: PacketType,
    version: Version,
    limits: &Limits,
) -> Result<PubAck<'a>, Fault> {
    let mut packet = PubAck::new(body.packet_id()?);
    // Both may be left out in 5.0, and 3.x has neither.
    if version != Version::V5 || body.is_empty() {
        return Ok(packet);
    }
    packet.reason = reason(body, packet_type)?;
    if body.is_empty() {
        return Ok(packet);
    }
    let mut block = PropertyBlock::open(body, limits)?;
    while let Some(property) = block.next()? {
        match property {
            Property::ReasonString => block.string(&mut packet.reason_string)?,
            _ => return Err(block.not_allowed()),
        }
    }
    packet.user_properties = block.into_user_properties();
    Ok(packet)
}

/// Reads a reason code which packets of that type may carry.
pub(super) fn reason(body: &mut Reader<'_>, packet_type: PacketType) -> Result<ReasonCode, Fault> {
    let number = body.u8()?;
    ReasonCode::from_u8(number)
        .filter(|reason| reason.is_allowed_in(packet_type))
        .ok_or(Fault::ReasonCodeNotAllowed { number })
}
