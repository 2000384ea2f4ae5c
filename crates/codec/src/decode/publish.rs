//! PUBLISH.

use super::properties::PropertyBlock;
use crate::property::Property;
use crate::reader::Reader;
use crate::{Fault, Limits, Publish, PublishProperties, QoS, Role, Version};

#[inline]
pub(super) fn decode<'a>(
    body: &mut Reader<'a>,
    first: u8,
    version: Version,
    role: Role,
    limits: &Limits,
) -> Result<Publish<'a>, Fault> {
    let qos = QoS::from_u8((first >> 1) & 0b11).ok_or(Fault::QoS3)?;
    let topic = body.topic_name()?;
    let packet_id = match qos {
        QoS::AtMostOnce => None,
        QoS::AtLeastOnce | QoS::ExactlyOnce => Some(body.packet_id()?),
    };
    // Most messages have none.
    let properties = if version == Version::V5 && !body.take_zero() {
        properties(body, role, limits)?
    } else {
        PublishProperties::default()
    };
    if topic.is_empty() && properties.topic_alias.is_none() {
        return Err(Fault::EmptyTopic);
    }
    Ok(Publish {
        dup: first & 0b1000 != 0,
        qos,
        retain: first & 0b0001 != 0,
        topic,
        packet_id,
        properties,
        payload: body.take_rest(),
    })
}

fn properties<'a>(
    body: &mut Reader<'a>,
    role: Role,
    limits: &Limits,
) -> Result<PublishProperties<'a>, Fault> {
    let mut properties = PublishProperties::default();
    let mut block = PropertyBlock::open(body, limits)?;
    let mut first_identifier_at = 0;
    while let Some(property) = block.next()? {
        match property {
            Property::TopicAlias => block.nonzero_u16(&mut properties.topic_alias)?,
            // [MQTT5-3.3.4-6]: never from a client.
            Property::SubscriptionIdentifier if role == Role::Client => {
                block.subscription_identifier(
                    &mut properties.subscription_identifiers,
                    &mut first_identifier_at,
                )?;
            }
            _ => message_property(&mut block, property, &mut properties)?,
        }
    }
    properties.user_properties = block.into_user_properties();
    Ok(properties)
}

/// The properties of an application message, which a will has as well.
pub(super) fn message_property<'a>(
    block: &mut PropertyBlock<'a>,
    property: Property,
    properties: &mut PublishProperties<'a>,
) -> Result<(), Fault> {
    match property {
        Property::PayloadFormatIndicator => block.bool(&mut properties.payload_is_utf8),
        Property::MessageExpiryInterval => block.u32(&mut properties.message_expiry_interval),
        Property::ResponseTopic => block.response_topic(&mut properties.response_topic),
        Property::CorrelationData => block.binary(&mut properties.correlation_data),
        Property::ContentType => block.string(&mut properties.content_type),
        _ => Err(block.not_allowed()),
    }
}
