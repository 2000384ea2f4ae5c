//! DISCONNECT and AUTH.

use super::acknowledge::reason;
use super::properties::{PropertyBlock, check_authentication};
use crate::property::Property;
use crate::reader::Reader;
use crate::{Auth, Disconnect, Fault, Limits, PacketType, ReasonCode, Role, Version};

pub(super) fn decode<'a>(
    body: &mut Reader<'a>,
    version: Version,
    role: Role,
    limits: &Limits,
) -> Result<Disconnect<'a>, Fault> {
    let mut packet = Disconnect::default();
    // Both the reason and the properties may be left out in 5.0, and 3.x has neither.
    if version != Version::V5 || body.is_empty() {
        return Ok(packet);
    }
    packet.reason = reason(body, PacketType::Disconnect)?;
    if body.is_empty() {
        return Ok(packet);
    }
    let mut block = PropertyBlock::open(body, limits)?;
    while let Some(property) = block.next()? {
        match property {
            // [MQTT5-3.14.2-2]: never from a server.
            Property::SessionExpiryInterval if role == Role::Server => {
                block.u32(&mut packet.session_expiry_interval)?;
            }
            Property::ReasonString => block.string(&mut packet.reason_string)?,
            Property::ServerReference => block.string(&mut packet.server_reference)?,
            _ => return Err(block.not_allowed()),
        }
    }
    packet.user_properties = block.into_user_properties();
    Ok(packet)
}

pub(super) fn decode_auth<'a>(body: &mut Reader<'a>, limits: &Limits) -> Result<Auth<'a>, Fault> {
    let mut packet = Auth::new(ReasonCode::Success);
    // Reason and properties may only be left out together (section 3.15.2.1).
    if body.is_empty() {
        return Ok(packet);
    }
    packet.reason = reason(body, PacketType::Auth)?;
    let mut block = PropertyBlock::open(body, limits)?;
    while let Some(property) = block.next()? {
        match property {
            Property::AuthenticationMethod => block.string(&mut packet.authentication_method)?,
            Property::AuthenticationData => block.binary(&mut packet.authentication_data)?,
            Property::ReasonString => block.string(&mut packet.reason_string)?,
            _ => return Err(block.not_allowed()),
        }
    }
    packet.user_properties = block.into_user_properties();
    check_authentication(packet.authentication_method, packet.authentication_data)?;
    Ok(packet)
}
