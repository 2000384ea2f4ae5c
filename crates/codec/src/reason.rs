//! Reason codes: those of MQTT 5.0, and how they stand for the return codes of 3.x.

use crate::PacketType;

/// Why a packet was answered as it was. The numbers are those of MQTT 5.0 (section 2.4); below 0x80 is success.
///
/// Number 0 has three names: [`Success`](Self::Success), [`NORMAL_DISCONNECTION`](Self::NORMAL_DISCONNECTION) and
/// [`GRANTED_QOS_0`](Self::GRANTED_QOS_0).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum ReasonCode {
    /// Success; normal disconnection; granted QoS 0.
    #[default]
    Success = 0x00,
    /// Granted QoS 1.
    GrantedQos1 = 0x01,
    /// Granted QoS 2.
    GrantedQos2 = 0x02,
    /// The client leaves and wants its will published.
    DisconnectWithWill = 0x04,
    /// Accepted, but nobody subscribes to it.
    NoMatchingSubscribers = 0x10,
    /// There was no such subscription to remove.
    NoSubscriptionExisted = 0x11,
    /// Another AUTH is expected.
    ContinueAuthentication = 0x18,
    /// The client starts to authenticate again.
    ReAuthenticate = 0x19,
    /// No more precise code fits, or the sender keeps the reason to itself.
    UnspecifiedError = 0x80,
    /// The bytes do not parse.
    MalformedPacket = 0x81,
    /// The packet parses, but must not come, or not now.
    ProtocolError = 0x82,
    /// Valid, but not for this implementation.
    ImplementationSpecificError = 0x83,
    /// The server does not speak that version.
    UnsupportedProtocolVersion = 0x84,
    /// The client identifier is not allowed.
    ClientIdentifierNotValid = 0x85,
    /// The credentials were refused.
    BadUserNameOrPassword = 0x86,
    /// The client may not do this.
    NotAuthorized = 0x87,
    /// The server is not available.
    ServerUnavailable = 0x88,
    /// The server is busy; try again later.
    ServerBusy = 0x89,
    /// The client is banned.
    Banned = 0x8A,
    /// The server is shutting down.
    ServerShuttingDown = 0x8B,
    /// The authentication method is not supported, or not the one in use.
    BadAuthenticationMethod = 0x8C,
    /// Nothing was received for 1.5 times the keep-alive.
    KeepAliveTimeout = 0x8D,
    /// Another connection uses the same client identifier.
    SessionTakenOver = 0x8E,
    /// The filter is well formed, but not accepted.
    TopicFilterInvalid = 0x8F,
    /// The topic name is not accepted.
    TopicNameInvalid = 0x90,
    /// The packet identifier is already in use.
    PacketIdentifierInUse = 0x91,
    /// The packet identifier is not known.
    PacketIdentifierNotFound = 0x92,
    /// More messages in flight than allowed.
    ReceiveMaximumExceeded = 0x93,
    /// The topic alias is above the maximum, 0 or unknown.
    TopicAliasInvalid = 0x94,
    /// The packet is larger than its receiver allows.
    PacketTooLarge = 0x95,
    /// Messages come too fast.
    MessageRateTooHigh = 0x96,
    /// A limit of the implementation or the administrator is exceeded.
    QuotaExceeded = 0x97,
    /// An administrator closed the connection.
    AdministrativeAction = 0x98,
    /// The payload is not what its format indicator says.
    PayloadFormatInvalid = 0x99,
    /// Retained messages are not supported.
    RetainNotSupported = 0x9A,
    /// The QoS is above the server's Maximum QoS.
    QosNotSupported = 0x9B,
    /// Use another server for now.
    UseAnotherServer = 0x9C,
    /// Use another server from now on.
    ServerMoved = 0x9D,
    /// Shared subscriptions are not supported.
    SharedSubscriptionsNotSupported = 0x9E,
    /// Connections come too fast.
    ConnectionRateExceeded = 0x9F,
    /// The longest allowed time of a connection is over.
    MaximumConnectTime = 0xA0,
    /// Subscription identifiers are not supported.
    SubscriptionIdentifiersNotSupported = 0xA1,
    /// Wildcard subscriptions are not supported.
    WildcardSubscriptionsNotSupported = 0xA2,
}

impl ReasonCode {
    /// Number 0 as DISCONNECT names it.
    pub const NORMAL_DISCONNECTION: Self = Self::Success;
    /// Number 0 as SUBACK names it.
    pub const GRANTED_QOS_0: Self = Self::Success;

    /// Returns the code with that number of MQTT 5.0, if there is one.
    pub const fn from_u8(number: u8) -> Option<Self> {
        Some(match number {
            0x00 => Self::Success,
            0x01 => Self::GrantedQos1,
            0x02 => Self::GrantedQos2,
            0x04 => Self::DisconnectWithWill,
            0x10 => Self::NoMatchingSubscribers,
            0x11 => Self::NoSubscriptionExisted,
            0x18 => Self::ContinueAuthentication,
            0x19 => Self::ReAuthenticate,
            0x80 => Self::UnspecifiedError,
            0x81 => Self::MalformedPacket,
            0x82 => Self::ProtocolError,
            0x83 => Self::ImplementationSpecificError,
            0x84 => Self::UnsupportedProtocolVersion,
            0x85 => Self::ClientIdentifierNotValid,
            0x86 => Self::BadUserNameOrPassword,
            0x87 => Self::NotAuthorized,
            0x88 => Self::ServerUnavailable,
            0x89 => Self::ServerBusy,
            0x8A => Self::Banned,
            0x8B => Self::ServerShuttingDown,
            0x8C => Self::BadAuthenticationMethod,
            0x8D => Self::KeepAliveTimeout,
            0x8E => Self::SessionTakenOver,
            0x8F => Self::TopicFilterInvalid,
            0x90 => Self::TopicNameInvalid,
            0x91 => Self::PacketIdentifierInUse,
            0x92 => Self::PacketIdentifierNotFound,
            0x93 => Self::ReceiveMaximumExceeded,
            0x94 => Self::TopicAliasInvalid,
            0x95 => Self::PacketTooLarge,
            0x96 => Self::MessageRateTooHigh,
            0x97 => Self::QuotaExceeded,
            0x98 => Self::AdministrativeAction,
            0x99 => Self::PayloadFormatInvalid,
            0x9A => Self::RetainNotSupported,
            0x9B => Self::QosNotSupported,
            0x9C => Self::UseAnotherServer,
            0x9D => Self::ServerMoved,
            0x9E => Self::SharedSubscriptionsNotSupported,
            0x9F => Self::ConnectionRateExceeded,
            0xA0 => Self::MaximumConnectTime,
            0xA1 => Self::SubscriptionIdentifiersNotSupported,
            0xA2 => Self::WildcardSubscriptionsNotSupported,
            _ => return None,
        })
    }

    /// Returns the number of MQTT 5.0.
    pub const fn as_u8(self) -> u8 {
        self as u8
    }

    /// Tells whether this is a failure, which all numbers from 0x80 on are.
    pub const fn is_error(self) -> bool {
        self.as_u8() >= 0x80
    }

    /// Returns the CONNACK return code of 3.1 and 3.1.1 (0 to 5) that says the same, or the nearest thing to it.
    ///
    /// `None` where none fits: then the server closes without CONNACK ([MQTT311-3.2.2-6]).
    pub const fn to_connect_return_code(self) -> Option<u8> {
        Some(match self {
            Self::Success => 0,
            Self::UnsupportedProtocolVersion => 1,
            Self::ClientIdentifierNotValid => 2,
            Self::ServerUnavailable
            | Self::ServerBusy
            | Self::QuotaExceeded
            | Self::UseAnotherServer
            | Self::ServerMoved
            | Self::ConnectionRateExceeded => 3,
            Self::BadUserNameOrPassword => 4,
            Self::NotAuthorized | Self::Banned => 5,
            _ => return None,
        })
    }

    /// Returns what a CONNACK return code of 3.1 or 3.1.1 says; `None` for the reserved numbers from 6 on.
    pub const fn from_connect_return_code(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Success,
            1 => Self::UnsupportedProtocolVersion,
            2 => Self::ClientIdentifierNotValid,
            3 => Self::ServerUnavailable,
            4 => Self::BadUserNameOrPassword,
            5 => Self::NotAuthorized,
            _ => return None,
        })
    }

    /// Returns the SUBACK code of 3.1.1 that says the same: the granted QoS, or 0x80 for every failure
    /// ([MQTT311-3.9.3-2]); `None` for codes that do not belong into a SUBACK.
    ///
    /// MQTT 3.1 knows no failure in SUBACK; 0x80 is what its clients get from every broker of today.
    pub const fn to_subscribe_return_code(self) -> Option<u8> {
        match self {
            Self::Success | Self::GrantedQos1 | Self::GrantedQos2 => Some(self.as_u8()),
            _ if self.is_error() => Some(0x80),
            _ => None,
        }
    }

    /// Returns what a SUBACK code of 3.1.1 says: a granted QoS or [`UnspecifiedError`](Self::UnspecifiedError);
    /// `None` for any other number ([MQTT311-3.9.3-2]).
    pub const fn from_subscribe_return_code(number: u8) -> Option<Self> {
        match number {
            0x00 => Some(Self::Success),
            0x01 => Some(Self::GrantedQos1),
            0x02 => Some(Self::GrantedQos2),
            0x80 => Some(Self::UnspecifiedError),
            _ => None,
        }
    }

    /// Tells whether MQTT 5.0 allows the code in packets of that type (the tables of sections 3.2.2.2, 3.4.2.1,
    /// 3.5.2.1, 3.6.2.1, 3.7.2.1, 3.9.3, 3.11.3, 3.14.2.1 and 3.15.2.1); `false` for packets that carry none.
    pub const fn is_allowed_in(self, packet: PacketType) -> bool {
        use PacketType as P;
        match packet {
            // The acknowledgements of a healthy conversation, first and without a second look.
            P::PubAck | P::PubRec | P::PubRel | P::PubComp if matches!(self, Self::Success) => true,
            P::PubAck | P::PubRec => matches!(
                self,
                Self::NoMatchingSubscribers
                    | Self::UnspecifiedError
                    | Self::ImplementationSpecificError
                    | Self::NotAuthorized
                    | Self::TopicNameInvalid
                    | Self::PacketIdentifierInUse
                    | Self::QuotaExceeded
                    | Self::PayloadFormatInvalid
            ),
            P::PubRel | P::PubComp => matches!(self, Self::PacketIdentifierNotFound),
            P::ConnAck => matches!(
                self,
                Self::Success
                    | Self::UnspecifiedError
                    | Self::MalformedPacket
                    | Self::ProtocolError
                    | Self::ImplementationSpecificError
                    | Self::UnsupportedProtocolVersion
                    | Self::ClientIdentifierNotValid
                    | Self::BadUserNameOrPassword
                    | Self::NotAuthorized
                    | Self::ServerUnavailable
                    | Self::ServerBusy
                    | Self::Banned
                    | Self::BadAuthenticationMethod
                    | Self::TopicNameInvalid
                    | Self::PacketTooLarge
                    | Self::QuotaExceeded
                    | Self::PayloadFormatInvalid
                    | Self::RetainNotSupported
                    | Self::QosNotSupported
                    | Self::UseAnotherServer
                    | Self::ServerMoved
                    | Self::ConnectionRateExceeded
            ),
            P::SubAck => matches!(
                self,
                Self::Success
                    | Self::GrantedQos1
                    | Self::GrantedQos2
                    | Self::UnspecifiedError
                    | Self::ImplementationSpecificError
                    | Self::NotAuthorized
                    | Self::TopicFilterInvalid
                    | Self::PacketIdentifierInUse
                    | Self::QuotaExceeded
                    | Self::SharedSubscriptionsNotSupported
                    | Self::SubscriptionIdentifiersNotSupported
                    | Self::WildcardSubscriptionsNotSupported
            ),
            P::UnsubAck => matches!(
                self,
                Self::Success
                    | Self::NoSubscriptionExisted
                    | Self::UnspecifiedError
                    | Self::ImplementationSpecificError
                    | Self::NotAuthorized
                    | Self::TopicFilterInvalid
                    | Self::PacketIdentifierInUse
            ),
            // Both directions together: which end may use which is not worth a refusal.
            P::Disconnect => matches!(
                self,
                Self::Success
                    | Self::DisconnectWithWill
                    | Self::UnspecifiedError
                    | Self::MalformedPacket
                    | Self::ProtocolError
                    | Self::ImplementationSpecificError
                    | Self::NotAuthorized
                    | Self::ServerBusy
                    | Self::ServerShuttingDown
                    | Self::BadAuthenticationMethod
                    | Self::KeepAliveTimeout
                    | Self::SessionTakenOver
                    | Self::TopicFilterInvalid
                    | Self::TopicNameInvalid
                    | Self::ReceiveMaximumExceeded
                    | Self::TopicAliasInvalid
                    | Self::PacketTooLarge
                    | Self::MessageRateTooHigh
                    | Self::QuotaExceeded
                    | Self::AdministrativeAction
                    | Self::PayloadFormatInvalid
                    | Self::RetainNotSupported
                    | Self::QosNotSupported
                    | Self::UseAnotherServer
                    | Self::ServerMoved
                    | Self::SharedSubscriptionsNotSupported
                    | Self::ConnectionRateExceeded
                    | Self::MaximumConnectTime
                    | Self::SubscriptionIdentifiersNotSupported
                    | Self::WildcardSubscriptionsNotSupported
            ),
            P::Auth => matches!(self, Self::Success | Self::ContinueAuthentication | Self::ReAuthenticate),
            P::Connect | P::Publish | P::Subscribe | P::Unsubscribe | P::PingReq | P::PingResp => false,
        }
    }
}
