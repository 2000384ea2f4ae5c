//! CONNECT and CONNACK.

use super::acknowledge::reason;
use super::properties::{PropertyBlock, check_authentication};
use super::publish::message_property;
use crate::property::Property;
use crate::reader::Reader;
use crate::{
    ConnAck, ConnAckProperties, Connect, ConnectProperties, Fault, Limits, PacketType, PublishProperties,
    QoS, ReasonCode, Version, Will,
};

/// The bit of the protocol level that bridges of several brokers set in 3.1 and 3.1.1.
pub(crate) const BRIDGE_BIT: u8 = 0x80;

/// Reads protocol name and level: the version, and whether the client is a bridge.
pub(super) fn protocol(body: &mut Reader<'_>) -> Result<(Version, bool), Fault> {
    let name = body.binary()?;
    if name != b"MQTT" && name != b"MQIsdp" {
        return Err(Fault::UnknownProtocolName);
    }
    let level = body.u8()?;
    let bridge = level & BRIDGE_BIT != 0;
    match (name, level & !BRIDGE_BIT) {
        (b"MQIsdp", 3) => Ok((Version::V3_1, bridge)),
        (b"MQTT", 4) => Ok((Version::V3_1_1, bridge)),
        (b"MQTT", 5) if !bridge => Ok((Version::V5, false)),
        (b"MQIsdp", _) => Err(Fault::UnsupportedProtocolLevel { level, nearest: Version::V3_1 }),
        (_, 0..5) => Err(Fault::UnsupportedProtocolLevel { level, nearest: Version::V3_1_1 }),
        _ => Err(Fault::UnsupportedProtocolLevel { level, nearest: Version::V5 }),
    }
}

/// The connect flags.
struct Flags {
    username: bool,
    password: bool,
    will_retain: bool,
    will_qos: QoS,
    will: bool,
    clean_start: bool,
}

impl Flags {
    fn read(byte: u8, version: Version) -> Result<Self, Fault> {
        if byte & 0b0000_0001 != 0 {
            return Err(Fault::ReservedConnectFlag);
        }
        let flags = Self {
            username: byte & 0b1000_0000 != 0,
            password: byte & 0b0100_0000 != 0,
            will_retain: byte & 0b0010_0000 != 0,
            will_qos: QoS::from_u8((byte >> 3) & 0b11).ok_or(Fault::QoS3)?,
            will: byte & 0b0000_0100 != 0,
            clean_start: byte & 0b0000_0010 != 0,
        };
        if !flags.will && (flags.will_retain || flags.will_qos != QoS::AtMostOnce) {
            return Err(Fault::WillFlagsWithoutWill);
        }
        if version != Version::V5 && flags.password && !flags.username {
            return Err(Fault::PasswordWithoutUserName);
        }
        Ok(flags)
    }
}

/// Reads what follows protocol name and level.
pub(super) fn decode<'a>(
    body: &mut Reader<'a>,
    version: Version,
    bridge: bool,
    limits: &Limits,
) -> Result<Connect<'a>, Fault> {
    let flags = Flags::read(body.u8()?, version)?;
    let keep_alive = body.u16()?;
    let properties = match version {
        Version::V5 => connect_properties(body, limits)?,
        Version::V3_1 | Version::V3_1_1 => ConnectProperties::default(),
    };
    let client_id = body.string()?;
    let will = if flags.will { Some(will(body, version, &flags, limits)?) } else { None };
    // In 3.1, Remaining Length takes precedence: a user name or password may be announced and not come.
    let comes =
        |announced: bool, body: &Reader<'_>| announced && !(version == Version::V3_1 && body.is_empty());
    let username = if comes(flags.username, body) { Some(body.string()?) } else { None };
    let password = if comes(flags.password, body) { Some(body.binary()?) } else { None };
    Ok(Connect {
        version,
        bridge,
        clean_start: flags.clean_start,
        keep_alive,
        client_id,
        will,
        username,
        password,
        properties,
    })
}

fn connect_properties<'a>(body: &mut Reader<'a>, limits: &Limits) -> Result<ConnectProperties<'a>, Fault> {
    let mut properties = ConnectProperties::default();
    let mut block = PropertyBlock::open(body, limits)?;
    while let Some(property) = block.next()? {
        match property {
            Property::SessionExpiryInterval => block.u32(&mut properties.session_expiry_interval)?,
            Property::ReceiveMaximum => block.nonzero_u16(&mut properties.receive_maximum)?,
            Property::MaximumPacketSize => block.nonzero_u32(&mut properties.maximum_packet_size)?,
            Property::TopicAliasMaximum => block.u16(&mut properties.topic_alias_maximum)?,
            Property::RequestResponseInformation => {
                block.bool(&mut properties.request_response_information)?;
            }
            Property::RequestProblemInformation => {
                block.bool(&mut properties.request_problem_information)?;
            }
            Property::AuthenticationMethod => block.string(&mut properties.authentication_method)?,
            Property::AuthenticationData => block.binary(&mut properties.authentication_data)?,
            _ => return Err(block.not_allowed()),
        }
    }
    properties.user_properties = block.into_user_properties();
    check_authentication(properties.authentication_method, properties.authentication_data)?;
    Ok(properties)
}

fn will<'a>(
    body: &mut Reader<'a>,
    version: Version,
    flags: &Flags,
    limits: &Limits,
) -> Result<Will<'a>, Fault> {
    let mut delay_interval = None;
    let mut properties = PublishProperties::default();
    if version == Version::V5 {
        let mut block = PropertyBlock::open(body, limits)?;
        while let Some(property) = block.next()? {
            match property {
                Property::WillDelayInterval => block.u32(&mut delay_interval)?,
                _ => message_property(&mut block, property, &mut properties)?,
            }
        }
        properties.user_properties = block.into_user_properties();
    }
    let topic = body.topic_name()?;
    if topic.is_empty() {
        return Err(Fault::EmptyTopic);
    }
    Ok(Will {
        topic,
        payload: body.binary()?,
        qos: flags.will_qos,
        retain: flags.will_retain,
        delay_interval: delay_interval.unwrap_or_default(),
        properties,
    })
}

pub(super) fn decode_connack<'a>(
    body: &mut Reader<'a>,
    version: Version,
    limits: &Limits,
) -> Result<ConnAck<'a>, Fault> {
    let flags = body.u8()?;
    let session_present = match (version, flags) {
        // In 3.1 the byte is reserved and means nothing.
        (Version::V3_1, _) | (_, 0) => false,
        (_, 1) => true,
        _ => return Err(Fault::ReservedConnAckFlags { flags }),
    };
    let reason = match version {
        Version::V5 => reason(body, PacketType::ConnAck)?,
        Version::V3_1 | Version::V3_1_1 => {
            let number = body.u8()?;
            ReasonCode::from_connect_return_code(number).ok_or(Fault::ReasonCodeNotAllowed { number })?
        }
    };
    if session_present && reason != ReasonCode::Success {
        return Err(Fault::SessionPresentInRefusal);
    }
    let properties = match version {
        Version::V5 => connack_properties(body, limits)?,
        Version::V3_1 | Version::V3_1_1 => ConnAckProperties::default(),
    };
    Ok(ConnAck { session_present, reason, properties })
}

fn connack_properties<'a>(body: &mut Reader<'a>, limits: &Limits) -> Result<ConnAckProperties<'a>, Fault> {
    let mut properties = ConnAckProperties::default();
    let mut block = PropertyBlock::open(body, limits)?;
    while let Some(property) = block.next()? {
        match property {
            Property::SessionExpiryInterval => block.u32(&mut properties.session_expiry_interval)?,
            Property::ReceiveMaximum => block.nonzero_u16(&mut properties.receive_maximum)?,
            Property::MaximumQoS => {
                let maximum = QoS::from_u8(block.u8()?).filter(|&qos| qos != QoS::ExactlyOnce);
                block.set_in_range(&mut properties.maximum_qos, maximum)?;
            }
            Property::RetainAvailable => block.bool(&mut properties.retain_available)?,
            Property::MaximumPacketSize => block.nonzero_u32(&mut properties.maximum_packet_size)?,
            Property::AssignedClientIdentifier => block.string(&mut properties.assigned_client_id)?,
            Property::TopicAliasMaximum => block.u16(&mut properties.topic_alias_maximum)?,
            Property::ReasonString => block.string(&mut properties.reason_string)?,
            Property::WildcardSubscriptionAvailable => {
                block.bool(&mut properties.wildcard_subscription_available)?;
            }
            Property::SubscriptionIdentifierAvailable => {
                block.bool(&mut properties.subscription_identifiers_available)?;
            }
            Property::SharedSubscriptionAvailable => {
                block.bool(&mut properties.shared_subscription_available)?;
            }
            Property::ServerKeepAlive => block.u16(&mut properties.server_keep_alive)?,
            Property::ResponseInformation => block.string(&mut properties.response_information)?,
            Property::ServerReference => block.string(&mut properties.server_reference)?,
            Property::AuthenticationMethod => block.string(&mut properties.authentication_method)?,
            Property::AuthenticationData => block.binary(&mut properties.authentication_data)?,
            _ => return Err(block.not_allowed()),
        }
    }
    properties.user_properties = block.into_user_properties();
    check_authentication(properties.authentication_method, properties.authentication_data)?;
    Ok(properties)
}
