//! Which sentence of the specifications each fault breaks.

use crate::{Fault, PacketType, Property};

/// The statement of MQTT 5.0.
pub(crate) const fn of_5(fault: Fault, packet: Option<PacketType>) -> &'static str {
    use PacketType as P;
    match fault {
        Fault::ReservedPacketType { .. } | Fault::WrongDirection => "MQTT5-2.1.2",
        Fault::ReservedFlags { .. } => match packet {
            Some(P::PubRel) => "MQTT5-3.6.1-1",
            Some(P::Subscribe) => "MQTT5-3.8.1-1",
            Some(P::Unsubscribe) => "MQTT5-3.10.1-1",
            Some(P::Disconnect) => "MQTT5-3.14.1-1",
            Some(P::Auth) => "MQTT5-3.15.1-1",
            _ => "MQTT5-2.1.3-1",
        },
        Fault::QoS3 => match packet {
            Some(P::Connect) => "MQTT5-3.1.2-12",
            _ => "MQTT5-3.3.1-4",
        },
        Fault::DupWithQoS0 => "MQTT5-3.3.1-2",
        Fault::IntegerTooLong => "MQTT5-1.5.5",
        Fault::IntegerNotMinimal => "MQTT5-1.5.5-1",
        Fault::Truncated | Fault::TrailingBytes { .. } => match packet {
            Some(P::Connect) => "MQTT5-3.1.4-1",
            _ => "MQTT5-4.13.1-1",
        },
        Fault::InvalidUtf8 => "MQTT5-1.5.4-1",
        Fault::NulInString => "MQTT5-1.5.4-2",
        Fault::ReservedConnectFlag => "MQTT5-3.1.2-3",
        Fault::WillFlagsWithoutWill => "MQTT5-3.1.2-11",
        Fault::PasswordWithoutUserName => "MQTT311-3.1.2-22",
        Fault::ReservedConnAckFlags { .. } => "MQTT5-3.2.2-1",
        Fault::ReservedSubscriptionOptions { .. } => "MQTT5-3.8.3-5",
        Fault::PropertyNotAllowed { property: Property::SubscriptionIdentifier }
            if matches!(packet, Some(P::Publish)) =>
        {
            "MQTT5-3.3.4-6"
        }
        Fault::PropertyNotAllowed { property: Property::SessionExpiryInterval }
            if matches!(packet, Some(P::Disconnect)) =>
        {
            "MQTT5-3.14.2-2"
        }
        Fault::UnknownProperty { .. }
        | Fault::PropertyNotAllowed { .. }
        | Fault::DuplicateProperty { .. } => "MQTT5-2.2.2.2",
        Fault::FirstPacketNotConnect => "MQTT5-3.1.0-1",
        Fault::SecondConnect => "MQTT5-3.1.0-2",
        Fault::ZeroPacketId => "MQTT5-2.2.1-3",
        Fault::EmptyPayload => match packet {
            Some(P::Unsubscribe) => "MQTT5-3.10.3-2",
            Some(P::SubAck) => "MQTT5-3.8.4-6",
            Some(P::UnsubAck) => "MQTT5-3.11.3-1",
            _ => "MQTT5-3.8.3-2",
        },
        Fault::SubscriptionQoS3 | Fault::RetainHandling3 => "MQTT5-3.8.3.1",
        Fault::NoLocalOnShared => "MQTT5-3.8.3-4",
        Fault::PropertyValue { property } => match property {
            Property::TopicAlias => "MQTT5-3.3.2-8",
            Property::SubscriptionIdentifier => "MQTT5-3.8.2.1.2",
            Property::ReceiveMaximum => "MQTT5-3.1.2.11.3",
            Property::MaximumPacketSize => "MQTT5-3.1.2.11.4",
            _ => "MQTT5-2.2.2.2",
        },
        Fault::AuthenticationDataWithoutMethod => "MQTT5-3.1.2.11.10",
        Fault::ReasonCodeNotAllowed { .. } => match packet {
            Some(P::ConnAck) => "MQTT5-3.2.2-8",
            Some(P::PubAck) => "MQTT5-3.4.2-1",
            Some(P::PubRec) => "MQTT5-3.5.2-1",
            Some(P::PubRel) => "MQTT5-3.6.2-1",
            Some(P::PubComp) => "MQTT5-3.7.2-1",
            Some(P::SubAck) => "MQTT5-3.9.3-2",
            Some(P::UnsubAck) => "MQTT5-3.11.3-2",
            Some(P::Auth) => "MQTT5-3.15.2-1",
            _ => "MQTT5-3.14.2-1",
        },
        Fault::SessionPresentInRefusal => "MQTT5-3.2.2-6",
        Fault::EmptyTopic => "MQTT5-4.7.3-1",
        Fault::WildcardInTopic => match packet {
            Some(P::Publish) => "MQTT5-3.3.2-2",
            _ => "MQTT5-4.7.0-1",
        },
        Fault::WildcardInResponseTopic => "MQTT5-3.3.2-14",
        Fault::UnknownProtocolName => "MQTT5-3.1.2-1",
        Fault::UnsupportedProtocolLevel { .. } => "MQTT5-3.1.2-2",
        Fault::PacketTooLarge { .. } => "MQTT5-3.2.2-15",
        Fault::TooManyUserProperties { .. } | Fault::TooManyFilters { .. } => "MQTT5-4.13",
    }
}

/// The statement of MQTT 3.1.1.
pub(crate) const fn of_3x(fault: Fault, packet: Option<PacketType>) -> &'static str {
    use PacketType as P;
    match fault {
        Fault::ReservedPacketType { .. } | Fault::WrongDirection => "MQTT311-2.2.1",
        Fault::ReservedFlags { .. } => match packet {
            Some(P::PubRel) => "MQTT311-3.6.1-1",
            Some(P::Subscribe) => "MQTT311-3.8.1-1",
            Some(P::Unsubscribe) => "MQTT311-3.10.1-1",
            Some(P::Disconnect) => "MQTT311-3.14.1-1",
            _ => "MQTT311-2.2.2-2",
        },
        Fault::QoS3 => match packet {
            Some(P::Connect) => "MQTT311-3.1.2-14",
            _ => "MQTT311-3.3.1-4",
        },
        Fault::DupWithQoS0 => "MQTT311-3.3.1-2",
        Fault::IntegerTooLong | Fault::IntegerNotMinimal => "MQTT311-2.2.3",
        Fault::InvalidUtf8 => "MQTT311-1.5.3-1",
        Fault::NulInString => "MQTT311-1.5.3-2",
        Fault::ReservedConnectFlag => "MQTT311-3.1.2-3",
        Fault::WillFlagsWithoutWill => "MQTT311-3.1.2-11",
        Fault::PasswordWithoutUserName => "MQTT311-3.1.2-22",
        Fault::ReservedConnAckFlags { .. } => "MQTT311-3.2.2.1",
        // Printed so: the first hyphen is the specification's.
        Fault::ReservedSubscriptionOptions { .. } | Fault::SubscriptionQoS3 => "MQTT311-3-8.3-4",
        Fault::FirstPacketNotConnect => "MQTT311-3.1.0-1",
        Fault::SecondConnect => "MQTT311-3.1.0-2",
        Fault::ZeroPacketId => "MQTT311-2.3.1-1",
        Fault::EmptyPayload => match packet {
            Some(P::Unsubscribe) => "MQTT311-3.10.3-2",
            Some(P::SubAck) => "MQTT311-3.8.4-5",
            _ => "MQTT311-3.8.3-3",
        },
        Fault::ReasonCodeNotAllowed { .. } => match packet {
            Some(P::ConnAck) => "MQTT311-3.2.2.3",
            _ => "MQTT311-3.9.3-2",
        },
        Fault::SessionPresentInRefusal => "MQTT311-3.2.2-4",
        Fault::EmptyTopic => "MQTT311-4.7.3-1",
        Fault::WildcardInTopic => match packet {
            Some(P::Publish) => "MQTT311-3.3.2-2",
            _ => "MQTT311-4.7.1-1",
        },
        Fault::UnknownProtocolName => "MQTT311-3.1.2-1",
        Fault::UnsupportedProtocolLevel { .. } => "MQTT311-3.1.2-2",
        Fault::Truncated | Fault::TrailingBytes { .. } => match packet {
            Some(P::Connect) => "MQTT311-3.1.4-1",
            _ => "MQTT311-4.8.0-1",
        },
        Fault::PacketTooLarge { .. } | Fault::TooManyUserProperties { .. } | Fault::TooManyFilters { .. } => {
            "MQTT311-4.8.0-2"
        }
        // What only 5.0 has cannot be wrong in 3.x.
        _ => "MQTT311-4.8.0-1",
    }
}
