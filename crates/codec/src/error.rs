//! What can be wrong with bytes, and how to answer: data that a caller can act on, not prose.

use thiserror::Error;

use crate::{PacketType, Property, ReasonCode, Version, statement};

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
            statement::of_3x(self.fault, self.packet)
        } else {
            statement::of_5(self.fault, self.packet)
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
