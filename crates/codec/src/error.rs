//! What can be wrong with bytes, and how to answer: data that a caller can act on, not prose.

use thiserror::Error;

use crate::{PacketType, Property, ReasonCode, Version};

/// Why bytes were refused. The connection is over: nothing behind them can be trusted ([MQTT5-4.13.1-1]).
///
/// [`answer`](Self::answer) says what may be sent before the close, [`fault`](Self::fault) what was wrong and
/// [`statement`](Self::statement) which sentence of the specification was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{}{fault} [{}]", NamePrefix(*packet), self.statement())]
pub struct DecodeError {
    fault: Fault,
    packet: Option<PacketType>,
    version: Option<Version>,
}

/// What was wrong, in the order of [`ErrorKind`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Fault {
    // Malformed: cannot be parsed.
    /// The upper half of the first byte is 0, or 15 before MQTT 5.0.
    #[error("reserved packet type {number}")]
    ReservedPacketType {
        /// The number.
        number: u8,
    },
    /// The lower half of the first byte is not what that packet type must have.
    #[error("reserved flags {flags:#06b}")]
    ReservedFlags {
        /// The four bits.
        flags: u8,
    },
    /// A PUBLISH or a will with both QoS bits set.
    #[error("QoS 3")]
    QoS3,
    /// DUP on a PUBLISH of QoS 0.
    #[error("DUP with QoS 0")]
    DupWithQoS0,
    /// A variable byte integer goes on after its fourth byte.
    #[error("variable byte integer of more than four bytes")]
    IntegerTooLong,
    /// A variable byte integer is longer than its value needs.
    #[error("variable byte integer not in its shortest form")]
    IntegerNotMinimal,
    /// A field runs past the end of its packet or of its property block.
    #[error("field runs past the end")]
    Truncated,
    /// The packet goes on after its last field.
    #[error("{bytes} bytes after the last field")]
    TrailingBytes {
        /// How many bytes too many.
        bytes: u32,
    },
    /// A string is not well-formed UTF-8.
    #[error("ill-formed UTF-8")]
    InvalidUtf8,
    /// A string contains U+0000.
    #[error("U+0000 in a string")]
    NulInString,
    /// Bit 0 of the connect flags is set.
    #[error("reserved connect flag set")]
    ReservedConnectFlag,
    /// Will QoS or Will Retain without Will Flag.
    #[error("will QoS or will retain without a will")]
    WillFlagsWithoutWill,
    /// A password without a user name, before MQTT 5.0.
    #[error("password without user name")]
    PasswordWithoutUserName,
    /// Bits 7 to 1 of the CONNACK flags are not 0.
    #[error("reserved CONNACK flags {flags:#04x}")]
    ReservedConnAckFlags {
        /// The byte.
        flags: u8,
    },
    /// Reserved bits of the subscription options are set.
    #[error("reserved subscription options {options:#04x}")]
    ReservedSubscriptionOptions {
        /// The byte.
        options: u8,
    },
    /// A property identifier that does not exist.
    #[error("unknown property {number:#04x}")]
    UnknownProperty {
        /// The number, or its first byte where it takes several.
        number: u8,
    },
    /// A property that does not belong into that packet.
    #[error("property {property:?} does not belong here")]
    PropertyNotAllowed {
        /// The property.
        property: Property,
    },

    // Protocol errors: can be parsed, must not be sent.
    /// The first packet of a connection is not CONNECT.
    #[error("the first packet is not CONNECT")]
    FirstPacketNotConnect,
    /// A CONNECT after the first.
    #[error("second CONNECT")]
    SecondConnect,
    /// A packet type that only the other side may send.
    #[error("packet of the wrong direction")]
    WrongDirection,
    /// Packet identifier 0.
    #[error("packet identifier 0")]
    ZeroPacketId,
    /// A SUBSCRIBE or UNSUBSCRIBE without filters, a SUBACK or UNSUBACK without codes.
    #[error("empty payload")]
    EmptyPayload,
    /// A subscription that asks for QoS 3.
    #[error("subscription with QoS 3")]
    SubscriptionQoS3,
    /// Retain Handling 3.
    #[error("retain handling 3")]
    RetainHandling3,
    /// No Local on a shared subscription.
    #[error("No Local on a shared subscription")]
    NoLocalOnShared,
    /// A property twice which may be there once.
    #[error("property {property:?} twice")]
    DuplicateProperty {
        /// The property.
        property: Property,
    },
    /// A property whose value is out of its range, such as Receive Maximum 0 or a boolean of 2.
    #[error("property {property:?} out of its range")]
    PropertyValue {
        /// The property.
        property: Property,
    },
    /// Authentication Data without Authentication Method.
    #[error("authentication data without a method")]
    AuthenticationDataWithoutMethod,
    /// A reason or return code that does not exist or does not belong into that packet.
    #[error("code {number:#04x} does not belong here")]
    ReasonCodeNotAllowed {
        /// The byte.
        number: u8,
    },
    /// Session Present in a CONNACK that refuses.
    #[error("session present in a refusal")]
    SessionPresentInRefusal,
    /// A topic name without a character, and no topic alias that could stand for it.
    #[error("empty topic name")]
    EmptyTopic,
    /// `+` or `#` in the topic name of a PUBLISH or a will.
    #[error("wildcard in a topic name")]
    WildcardInTopic,
    /// `+` or `#` in a response topic.
    #[error("wildcard in a response topic")]
    WildcardInResponseTopic,

    // Versions.
    /// A protocol name that is none of MQTT's.
    #[error("unknown protocol name")]
    UnknownProtocolName,
    /// A protocol level that does not exist for its protocol name.
    #[error("unsupported protocol level {level}")]
    UnsupportedProtocolLevel {
        /// The byte.
        level: u8,
        /// The version whose CONNACK the client probably reads.
        nearest: Version,
    },

    // Limits of the receiver.
    /// The fixed header announces a packet above the limit.
    #[error("{bytes} bytes exceed the limit of {limit}")]
    PacketTooLarge {
        /// Size of the whole packet.
        bytes: u32,
        /// The limit, which is smaller for a CONNECT.
        limit: u32,
    },
    /// More user properties than the limit allows.
    #[error("more than {limit} user properties")]
    TooManyUserProperties {
        /// The limit.
        limit: u32,
    },
    /// More filters in a SUBSCRIBE or UNSUBSCRIBE than the limit allows.
    #[error("more than {limit} filters")]
    TooManyFilters {
        /// The limit.
        limit: u32,
    },
}

/// Who or what is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The bytes cannot be parsed: "Malformed Packet" (section 1.2 of MQTT 5.0).
    Malformed,
    /// The bytes can be parsed, but must not be sent: "Protocol Error".
    ProtocolError,
    /// A protocol that is not spoken here.
    UnsupportedVersion,
    /// More than the receiver has been told to accept.
    LimitExceeded,
}

/// What to send before the connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Nothing: the version has no packet for it, or it is not known to be MQTT.
    Close,
    /// A CONNACK of that version.
    ConnAck {
        /// The version to encode it for.
        version: Version,
        /// Its reason.
        reason: ReasonCode,
    },
    /// A DISCONNECT of MQTT 5.0.
    Disconnect {
        /// Its reason.
        reason: ReasonCode,
    },
}

impl Fault {
    /// Returns who or what is at fault.
    pub const fn kind(self) -> ErrorKind {
        match self {
            Self::ReservedPacketType { .. }
            | Self::ReservedFlags { .. }
            | Self::QoS3
            | Self::DupWithQoS0
            | Self::IntegerTooLong
            | Self::IntegerNotMinimal
            | Self::Truncated
            | Self::TrailingBytes { .. }
            | Self::InvalidUtf8
            | Self::NulInString
            | Self::ReservedConnectFlag
            | Self::WillFlagsWithoutWill
            | Self::PasswordWithoutUserName
            | Self::ReservedConnAckFlags { .. }
            | Self::ReservedSubscriptionOptions { .. }
            | Self::UnknownProperty { .. }
            | Self::PropertyNotAllowed { .. } => ErrorKind::Malformed,
            Self::FirstPacketNotConnect
            | Self::SecondConnect
            | Self::WrongDirection
            | Self::ZeroPacketId
            | Self::EmptyPayload
            | Self::SubscriptionQoS3
            | Self::RetainHandling3
            | Self::NoLocalOnShared
            | Self::DuplicateProperty { .. }
            | Self::PropertyValue { .. }
            | Self::AuthenticationDataWithoutMethod
            | Self::ReasonCodeNotAllowed { .. }
            | Self::SessionPresentInRefusal
            | Self::EmptyTopic
            | Self::WildcardInTopic
            | Self::WildcardInResponseTopic => ErrorKind::ProtocolError,
            Self::UnknownProtocolName | Self::UnsupportedProtocolLevel { .. } => {
                ErrorKind::UnsupportedVersion
            }
            Self::PacketTooLarge { .. }
            | Self::TooManyUserProperties { .. }
            | Self::TooManyFilters { .. } => ErrorKind::LimitExceeded,
        }
    }

    /// The code for the fault in any packet.
    const fn reason_code(self) -> ReasonCode {
        match self {
            Self::EmptyTopic | Self::WildcardInTopic | Self::WildcardInResponseTopic => {
                ReasonCode::TopicNameInvalid
            }
            // Section 3.3.2.3.4 forbids it; 0x94 is the code that exists for aliases out of range.
            Self::PropertyValue { property: Property::TopicAlias } => ReasonCode::TopicAliasInvalid,
            Self::PacketTooLarge { .. } => ReasonCode::PacketTooLarge,
            Self::TooManyUserProperties { .. } | Self::TooManyFilters { .. } => ReasonCode::QuotaExceeded,
            _ => match self.kind() {
                ErrorKind::Malformed => ReasonCode::MalformedPacket,
                ErrorKind::UnsupportedVersion => ReasonCode::UnsupportedProtocolVersion,
                ErrorKind::ProtocolError | ErrorKind::LimitExceeded => ReasonCode::ProtocolError,
            },
        }
    }
}

impl DecodeError {
    pub(crate) const fn new(fault: Fault, packet: Option<PacketType>, version: Option<Version>) -> Self {
        Self { fault, packet, version }
    }

    /// Returns what was wrong.
    pub const fn fault(&self) -> Fault {
        self.fault
    }

    /// Returns who or what is at fault.
    pub const fn kind(&self) -> ErrorKind {
        self.fault.kind()
    }

    /// Returns the type of the packet, where the first byte named one.
    pub const fn packet(&self) -> Option<PacketType> {
        self.packet
    }

    /// Returns the version of the conversation, as far as it was known when the fault was met.
    pub const fn version(&self) -> Option<Version> {
        self.version
    }

    /// Returns the reason code of MQTT 5.0 that names the fault, for the answer, logs and counters.
    pub const fn reason_code(&self) -> ReasonCode {
        match (self.fault, self.packet) {
            // Properties which the packet may carry, but not from that side ([MQTT5-3.3.4-6], [MQTT5-3.14.2-2]).
            (
                Fault::PropertyNotAllowed { property: Property::SubscriptionIdentifier },
                Some(PacketType::Publish),
            )
            | (
                Fault::PropertyNotAllowed { property: Property::SessionExpiryInterval },
                Some(PacketType::Disconnect),
            ) => ReasonCode::ProtocolError,
            (fault, _) => fault.reason_code(),
        }
    }

    /// Returns what a server may send before it closes.
    ///
    /// A CONNECT is answered with CONNACK in 5.0, and in 3.x only where a return code fits ([MQTT311-3.1.4-1]).
    /// Other packets are answered with DISCONNECT in 5.0 and in 3.x with silence. Whether CONNACK was already sent,
    /// which DISCONNECT needs ([MQTT5-3.14.0-1]), is the caller's to know.
    pub const fn answer(&self) -> Answer {
        let reason = self.reason_code();
        if let Fault::UnsupportedProtocolLevel { nearest: version, .. } = self.fault {
            return Answer::ConnAck { version, reason };
        }
        match (self.version, self.packet) {
            // A second CONNECT comes when the conversation stands.
            (Some(Version::V5), Some(PacketType::Connect)) if !matches!(self.fault, Fault::SecondConnect) => {
                Answer::ConnAck { version: Version::V5, reason }
            }
            (Some(Version::V5), _) => Answer::Disconnect { reason },
            (Some(Version::V3_1 | Version::V3_1_1) | None, _) => Answer::Close,
        }
    }

    /// Returns the normative statement that was broken, such as `MQTT5-1.5.4-2`, or the section (`MQTT5-2.2.2.2`)
    /// where the rule has no number. For faults of 3.1, whose text has no numbers, those of 3.1.1 are given.
    pub const fn statement(&self) -> &'static str {
        if matches!(self.version, Some(Version::V3_1 | Version::V3_1_1)) {
            self.statement_of_3x()
        } else {
            self.statement_of_5()
        }
    }

    const fn statement_of_5(&self) -> &'static str {
        use PacketType as P;
        match self.fault {
            Fault::ReservedPacketType { .. } | Fault::WrongDirection => "MQTT5-2.1.2",
            Fault::ReservedFlags { .. } => match self.packet {
                Some(P::PubRel) => "MQTT5-3.6.1-1",
                Some(P::Subscribe) => "MQTT5-3.8.1-1",
                Some(P::Unsubscribe) => "MQTT5-3.10.1-1",
                Some(P::Disconnect) => "MQTT5-3.14.1-1",
                Some(P::Auth) => "MQTT5-3.15.1-1",
                _ => "MQTT5-2.1.3-1",
            },
            Fault::QoS3 => match self.packet {
                Some(P::Connect) => "MQTT5-3.1.2-12",
                _ => "MQTT5-3.3.1-4",
            },
            Fault::DupWithQoS0 => "MQTT5-3.3.1-2",
            Fault::IntegerTooLong => "MQTT5-1.5.5",
            Fault::IntegerNotMinimal => "MQTT5-1.5.5-1",
            Fault::Truncated | Fault::TrailingBytes { .. } => match self.packet {
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
                if matches!(self.packet, Some(P::Publish)) =>
            {
                "MQTT5-3.3.4-6"
            }
            Fault::PropertyNotAllowed { property: Property::SessionExpiryInterval }
                if matches!(self.packet, Some(P::Disconnect)) =>
            {
                "MQTT5-3.14.2-2"
            }
            Fault::UnknownProperty { .. }
            | Fault::PropertyNotAllowed { .. }
            | Fault::DuplicateProperty { .. } => "MQTT5-2.2.2.2",
            Fault::FirstPacketNotConnect => "MQTT5-3.1.0-1",
            Fault::SecondConnect => "MQTT5-3.1.0-2",
            Fault::ZeroPacketId => "MQTT5-2.2.1-3",
            Fault::EmptyPayload => match self.packet {
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
            Fault::ReasonCodeNotAllowed { .. } => match self.packet {
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
            Fault::WildcardInTopic => match self.packet {
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

    const fn statement_of_3x(&self) -> &'static str {
        use PacketType as P;
        match self.fault {
            Fault::ReservedPacketType { .. } | Fault::WrongDirection => "MQTT311-2.2.1",
            Fault::ReservedFlags { .. } => match self.packet {
                Some(P::PubRel) => "MQTT311-3.6.1-1",
                Some(P::Subscribe) => "MQTT311-3.8.1-1",
                Some(P::Unsubscribe) => "MQTT311-3.10.1-1",
                Some(P::Disconnect) => "MQTT311-3.14.1-1",
                _ => "MQTT311-2.2.2-2",
            },
            Fault::QoS3 => match self.packet {
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
            Fault::EmptyPayload => match self.packet {
                Some(P::Unsubscribe) => "MQTT311-3.10.3-2",
                Some(P::SubAck) => "MQTT311-3.8.4-5",
                _ => "MQTT311-3.8.3-3",
            },
            Fault::ReasonCodeNotAllowed { .. } => match self.packet {
                Some(P::ConnAck) => "MQTT311-3.2.2.3",
                _ => "MQTT311-3.9.3-2",
            },
            Fault::SessionPresentInRefusal => "MQTT311-3.2.2-4",
            Fault::EmptyTopic => "MQTT311-4.7.3-1",
            Fault::WildcardInTopic => match self.packet {
                Some(P::Publish) => "MQTT311-3.3.2-2",
                _ => "MQTT311-4.7.1-1",
            },
            Fault::UnknownProtocolName => "MQTT311-3.1.2-1",
            Fault::UnsupportedProtocolLevel { .. } => "MQTT311-3.1.2-2",
            Fault::Truncated | Fault::TrailingBytes { .. } => match self.packet {
                Some(P::Connect) => "MQTT311-3.1.4-1",
                _ => "MQTT311-4.8.0-1",
            },
            Fault::PacketTooLarge { .. }
            | Fault::TooManyUserProperties { .. }
            | Fault::TooManyFilters { .. } => "MQTT311-4.8.0-2",
            // What only 5.0 has cannot be wrong in 3.x.
            _ => "MQTT311-4.8.0-1",
        }
    }
}

/// Writes `PUBLISH: `, or nothing where the type is unknown.
struct NamePrefix(Option<PacketType>);

impl std::fmt::Display for NamePrefix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.map_or(Ok(()), |packet| write!(f, "{}: ", packet.name()))
    }
}

/// Why a packet cannot be written. Nothing was appended to the output; the fault is the caller's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The packet has more than the 268,435,455 bytes after its fixed header that Remaining Length can express.
    #[error("packet of {bytes} bytes is beyond what Remaining Length can express")]
    PacketTooLarge {
        /// Bytes after the fixed header.
        bytes: usize,
    },
    /// A string or binary field has more than 65,535 bytes.
    #[error("field of {bytes} bytes is beyond 65,535")]
    FieldTooLong {
        /// Its length.
        bytes: usize,
    },
    /// A string contains U+0000, which no MQTT string may ([MQTT5-1.5.4-2]).
    #[error("U+0000 in a string")]
    NulInString,
    /// The version has no form for this.
    #[error("{what} cannot be expressed in {version:?}")]
    NotRepresentable {
        /// What it was, such as `AUTH`.
        what: &'static str,
        /// The version.
        version: Version,
    },
    /// The reason code does not belong into that packet.
    #[error("{reason:?} does not belong into {}", packet.name())]
    ReasonCodeNotAllowed {
        /// The reason code.
        reason: ReasonCode,
        /// The packet.
        packet: PacketType,
    },
    /// The fields of the packet contradict each other or the specification.
    #[error("{what}")]
    Inconsistent {
        /// The contradiction, such as `QoS 1 without packet identifier`.
        what: &'static str,
    },
}
