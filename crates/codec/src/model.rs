//! Small constructors and conversions of the packet model.

use std::num::NonZeroU16;

use crate::{
    Auth, ConnAck, ConnAckProperties, Connect, ConnectProperties, Disconnect, Packet, PacketId, PacketType,
    PubAck, QoS, ReasonCode, RetainHandling, SubAck, SubscribeFilter, SubscribeOptions, UserProperties,
    Version,
};

impl Version {
    /// Returns the protocol level that CONNECT carries: 3, 4 or 5.
    pub const fn level(self) -> u8 {
        match self {
            Self::V3_1 => 3,
            Self::V3_1_1 => 4,
            Self::V5 => 5,
        }
    }

    /// Returns the protocol name that CONNECT carries.
    pub const fn protocol_name(self) -> &'static str {
        match self {
            Self::V3_1 => "MQIsdp",
            Self::V3_1_1 | Self::V5 => "MQTT",
        }
    }
}

impl QoS {
    /// Returns the quality of service with that number, if it is 0, 1 or 2.
    pub const fn from_u8(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }

    /// Returns 0, 1 or 2.
    pub const fn as_u8(self) -> u8 {
        self as u8
    }
}

impl RetainHandling {
    /// Returns the handling with that number, if it is 0, 1 or 2.
    pub const fn from_u8(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Send),
            1 => Some(Self::SendIfNew),
            2 => Some(Self::DoNotSend),
            _ => None,
        }
    }

    /// Returns 0, 1 or 2.
    pub const fn as_u8(self) -> u8 {
        self as u8
    }
}

impl PacketId {
    /// Returns the identifier with that number, `None` for 0.
    pub const fn new(number: u16) -> Option<Self> {
        match NonZeroU16::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// Returns the number.
    pub const fn get(self) -> u16 {
        self.0.get()
    }
}

impl Packet<'_> {
    /// Returns the type of the packet.
    pub const fn packet_type(&self) -> PacketType {
        match self {
            Self::Connect(_) => PacketType::Connect,
            Self::ConnAck(_) => PacketType::ConnAck,
            Self::Publish(_) => PacketType::Publish,
            Self::PubAck(_) => PacketType::PubAck,
            Self::PubRec(_) => PacketType::PubRec,
            Self::PubRel(_) => PacketType::PubRel,
            Self::PubComp(_) => PacketType::PubComp,
            Self::Subscribe(_) => PacketType::Subscribe,
            Self::SubAck(_) => PacketType::SubAck,
            Self::Unsubscribe(_) => PacketType::Unsubscribe,
            Self::UnsubAck(_) => PacketType::UnsubAck,
            Self::PingReq => PacketType::PingReq,
            Self::PingResp => PacketType::PingResp,
            Self::Disconnect(_) => PacketType::Disconnect,
            Self::Auth(_) => PacketType::Auth,
        }
    }
}

impl<'a> Connect<'a> {
    /// Returns a CONNECT with clean start, without keep-alive, will, credentials or properties.
    pub fn new(version: Version, client_id: &'a str) -> Self {
        Self {
            version,
            bridge: false,
            clean_start: true,
            keep_alive: 0,
            client_id,
            will: None,
            username: None,
            password: None,
            properties: ConnectProperties::default(),
        }
    }
}

impl ConnAck<'_> {
    /// Returns a CONNACK without properties and without a session present.
    pub fn new(reason: ReasonCode) -> Self {
        Self { session_present: false, reason, properties: ConnAckProperties::default() }
    }
}

impl PubAck<'_> {
    /// Returns a PUBACK, PUBREC, PUBREL or PUBCOMP that says success.
    pub fn new(packet_id: PacketId) -> Self {
        Self::with_reason(packet_id, ReasonCode::Success)
    }

    /// Returns a PUBACK, PUBREC, PUBREL or PUBCOMP with that reason and without properties.
    pub fn with_reason(packet_id: PacketId, reason: ReasonCode) -> Self {
        Self { packet_id, reason, reason_string: None, user_properties: UserProperties::default() }
    }
}

impl SubAck<'_> {
    /// Returns a SUBACK or UNSUBACK without properties.
    pub fn new(packet_id: PacketId, reasons: Vec<ReasonCode>) -> Self {
        Self { packet_id, reason_string: None, user_properties: UserProperties::default(), reasons }
    }
}

impl<'a> SubscribeFilter<'a> {
    /// Returns an entry that asks for that QoS and nothing else.
    pub fn new(filter: &'a str, qos: QoS) -> Self {
        Self { filter, options: SubscribeOptions { qos, ..SubscribeOptions::default() } }
    }
}

impl Disconnect<'_> {
    /// Returns a DISCONNECT with that reason and without properties.
    pub fn new(reason: ReasonCode) -> Self {
        Self {
            reason,
            session_expiry_interval: None,
            reason_string: None,
            server_reference: None,
            user_properties: UserProperties::default(),
        }
    }
}

/// A normal disconnection.
impl Default for Disconnect<'_> {
    fn default() -> Self {
        Self::new(ReasonCode::NORMAL_DISCONNECTION)
    }
}

impl Auth<'_> {
    /// Returns an AUTH with that reason and without properties.
    pub fn new(reason: ReasonCode) -> Self {
        Self {
            reason,
            authentication_method: None,
            authentication_data: None,
            reason_string: None,
            user_properties: UserProperties::default(),
        }
    }
}
