//! What a client must not do inside a conversation.

use tidegate_codec::{PacketId, PacketType, ReasonCode};

/// A client broke the protocol or a limit that the server had announced. The connection can't go on: hand it to
/// [`Session::end`](crate::Session::end) and close.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// A packet came before CONNECT.
    #[error("{} came before CONNECT", .0.name())]
    BeforeConnect(PacketType),
    /// CONNECT came twice.
    #[error("CONNECT came twice")]
    SecondConnect,
    /// The packet is one that servers send.
    #[error("{} is for servers to send", .0.name())]
    ServerPacket(PacketType),
    /// AUTH without an Authentication Method in CONNECT.
    #[error("AUTH came although CONNECT named no authentication method")]
    UnexpectedAuth,
    /// AUTH that is not due: a second beginning, a continuation of nothing, or success, which is the server's to say.
    #[error("AUTH came out of turn")]
    AuthOutOfTurn,
    /// AUTH without Authentication Method.
    #[error("AUTH names no authentication method")]
    AuthenticationMethodMissing,
    /// AUTH with another Authentication Method than CONNECT.
    #[error("AUTH names another authentication method than CONNECT")]
    AuthenticationMethodChanged,
    /// PUBLISH with neither topic name nor alias.
    #[error("PUBLISH has neither topic name nor topic alias")]
    TopicMissing,
    /// PUBLISH to a topic name with wildcards, U+0000 or too many levels.
    #[error("the topic name is invalid")]
    TopicNameInvalid,
    /// A topic alias above what CONNACK announced.
    #[error("topic alias {alias} is above the maximum of {maximum}")]
    TopicAliasTooHigh {
        /// What the client used.
        alias: u16,
        /// What CONNACK announced.
        maximum: u16,
    },
    /// A topic alias that this connection has not set.
    #[error("topic alias {0} was not set on this connection")]
    TopicAliasUnknown(u16),
    /// The aliased topics of the connection take more memory than allowed.
    #[error("the aliased topics are longer than {maximum} bytes together")]
    TopicAliasesTooLong {
        /// The limit, in bytes.
        maximum: usize,
    },
    /// The response topic of a PUBLISH has wildcards.
    #[error("the response topic is invalid")]
    ResponseTopicInvalid,
    /// A subscription identifier in a PUBLISH from a client.
    #[error("a client's PUBLISH carries a subscription identifier")]
    SubscriptionIdentifier,
    /// PUBLISH above the server's Maximum QoS.
    #[error("the QoS is above the server's maximum")]
    QosNotSupported,
    /// PUBLISH with RETAIN although the server does not retain.
    #[error("the server does not retain messages")]
    RetainNotSupported,
    /// More QoS 1 and 2 messages in flight than the server allows.
    #[error("more than {maximum} messages in flight")]
    ReceiveMaximumExceeded {
        /// The limit that was exceeded.
        maximum: u16,
    },
    /// A new message under the packet identifier of one that is not yet acknowledged.
    #[error("packet identifier {} is in use", .0.0)]
    PacketIdInUse(PacketId),
    /// No Local together with a shared subscription.
    #[error("No Local on a shared subscription")]
    NoLocalOnShared,
    /// DISCONNECT wants to keep a session that CONNECT wanted to end with the connection.
    #[error("DISCONNECT raises a session expiry interval of 0")]
    SessionExpiryRaised,
}

impl Violation {
    /// Returns what DISCONNECT says in 5.0.
    pub fn reason_code(&self) -> ReasonCode {
        match self {
            Self::BeforeConnect(_)
            | Self::SecondConnect
            | Self::ServerPacket(_)
            | Self::UnexpectedAuth
            | Self::AuthOutOfTurn
            | Self::AuthenticationMethodMissing
            | Self::TopicMissing
            | Self::TopicAliasUnknown(_)
            | Self::ResponseTopicInvalid
            | Self::SubscriptionIdentifier
            // Packet Identifier in Use (0x91) is not one of DISCONNECT's codes.
            | Self::PacketIdInUse(_)
            | Self::NoLocalOnShared
            | Self::SessionExpiryRaised => ReasonCode::ProtocolError,
            Self::AuthenticationMethodChanged => ReasonCode::BadAuthenticationMethod,
            Self::TopicNameInvalid => ReasonCode::TopicNameInvalid,
            Self::TopicAliasTooHigh { .. } => ReasonCode::TopicAliasInvalid,
            Self::QosNotSupported => ReasonCode::QosNotSupported,
            Self::RetainNotSupported => ReasonCode::RetainNotSupported,
            Self::ReceiveMaximumExceeded { .. } => ReasonCode::ReceiveMaximumExceeded,
            Self::TopicAliasesTooLong { .. } => ReasonCode::QuotaExceeded,
        }
    }

    /// Returns the statement of the specification that was broken, where it has a number; a limit of ours has none.
    pub fn statement(&self) -> Option<&'static str> {
        Some(match self {
            Self::BeforeConnect(_) => "MQTT5-3.1.0-1",
            Self::SecondConnect => "MQTT5-3.1.0-2",
            Self::UnexpectedAuth => "MQTT5-4.12.0-7",
            Self::AuthOutOfTurn => "MQTT5-4.12.0-3",
            Self::AuthenticationMethodMissing | Self::AuthenticationMethodChanged => "MQTT5-4.12.1-1",
            Self::TopicNameInvalid => "MQTT5-3.3.2-2",
            Self::TopicAliasTooHigh { .. } => "MQTT5-3.3.2-9",
            Self::ResponseTopicInvalid => "MQTT5-3.3.2-14",
            Self::SubscriptionIdentifier => "MQTT5-3.3.4-6",
            Self::QosNotSupported => "MQTT5-3.2.2-11",
            Self::RetainNotSupported => "MQTT5-3.2.2-14",
            Self::ReceiveMaximumExceeded { .. } => "MQTT5-3.3.4-7",
            Self::PacketIdInUse(_) => "MQTT5-2.2.1-3",
            Self::NoLocalOnShared => "MQTT5-3.8.3-4",
            Self::ServerPacket(_)
            | Self::TopicMissing
            | Self::TopicAliasUnknown(_)
            | Self::TopicAliasesTooLong { .. }
            | Self::SessionExpiryRaised => return None,
        })
    }
}
