//! Opening a conversation: what a server checks of a CONNECT before it looks for a session, and its CONNACK.

use std::num::{NonZeroU16, NonZeroU32};

use tidegate_codec::{ConnAck, ConnAckProperties, Connect, Packet, QoS, ReasonCode, Version};
use tidegate_topic::TopicName;

use crate::link::{Link, send_within, server_keep_alive};
use crate::{Expiry, Limits};

/// Room that CONNACK keeps for a client identifier that the server will assign, in bytes with its frame.
const ASSIGNED_CLIENT_ID_BYTES: usize = 64;

/// Why a CONNECT is refused whoever sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// An empty client identifier in 3.1, or in 3.1.1 without Clean Session.
    #[error("the client identifier is empty")]
    ClientIdMissing,
    /// A client identifier longer than the server takes.
    #[error("the client identifier has {bytes} bytes, {maximum} are allowed")]
    ClientIdTooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        maximum: usize,
    },
    /// A control character in the client identifier.
    #[error("the client identifier contains a control character")]
    ClientIdInvalid,
    /// A method of enhanced authentication that the server does not have.
    #[error("the authentication method is not supported")]
    AuthenticationMethod,
    /// The client accepts no packet as large as the CONNACK that it would get.
    #[error("a maximum packet size of {maximum} bytes has no room for CONNACK")]
    NoRoomForConnAck {
        /// What the client accepts.
        maximum: u32,
    },
    /// The will's topic is no topic name.
    #[error("the will topic is invalid")]
    WillTopicInvalid,
    /// The response topic of the will is no topic name.
    #[error("the response topic of the will is invalid")]
    WillResponseTopicInvalid,
    /// A will above the server's Maximum QoS.
    #[error("the QoS of the will is above the server's maximum")]
    WillQosNotSupported,
    /// A retained will although the server does not retain.
    #[error("the server does not retain wills")]
    WillRetainNotSupported,
}

impl Refusal {
    /// Returns what CONNACK says in 5.0; [`refuse`] translates it for 3.x.
    pub fn reason_code(&self) -> ReasonCode {
        match self {
            Self::ClientIdMissing | Self::ClientIdTooLong { .. } | Self::ClientIdInvalid => {
                ReasonCode::ClientIdentifierNotValid
            }
            Self::AuthenticationMethod => ReasonCode::BadAuthenticationMethod,
            Self::NoRoomForConnAck { .. } => ReasonCode::PacketTooLarge,
            Self::WillTopicInvalid => ReasonCode::TopicNameInvalid,
            Self::WillResponseTopicInvalid => ReasonCode::ProtocolError,
            Self::WillQosNotSupported => ReasonCode::QosNotSupported,
            Self::WillRetainNotSupported => ReasonCode::RetainNotSupported,
        }
    }

    /// Returns the statement of the specification that asks for the refusal.
    pub fn statement(&self) -> &'static str {
        match self {
            Self::ClientIdMissing => "MQTT311-3.1.3-8",
            Self::ClientIdTooLong { .. } | Self::ClientIdInvalid => "MQTT5-3.1.3-8",
            Self::AuthenticationMethod => "MQTT5-4.12.0-1",
            Self::NoRoomForConnAck { .. } => "MQTT5-3.1.2-24",
            Self::WillTopicInvalid => "MQTT5-4.7.0-1",
            Self::WillResponseTopicInvalid => "MQTT5-3.3.2-14",
            Self::WillQosNotSupported => "MQTT5-3.2.2-12",
            Self::WillRetainNotSupported => "MQTT5-3.2.2-13",
        }
    }
}

/// Checks what can be checked without knowing the client: identifier, will and authentication method.
///
/// In 5.0 an empty client identifier passes, and in 3.1.1 one with Clean Session: the caller then assigns one
/// [MQTT5-3.1.3-6]. A CONNECT that names a method of enhanced authentication passes if it `is_supported`: the caller then
/// carries the exchange out, see [`Authentication`](crate::Authentication), before it calls
/// [`Session::connect`](crate::Session::connect).
///
/// # Errors
/// The first reason to answer with [`refuse`] and close [MQTT5-3.1.4-2].
pub fn check_connect(
    connect: &Connect<'_>,
    limits: &Limits,
    is_supported: impl FnOnce(&str) -> bool,
) -> Result<(), Refusal> {
    let client_id = connect.client_id;
    let may_be_assigned = match connect.version {
        Version::V3_1 => false,
        Version::V3_1_1 => connect.clean_start, // [MQTT311-3.1.3-7]
        Version::V5 => true,
    };
    if client_id.is_empty() && !may_be_assigned {
        return Err(Refusal::ClientIdMissing);
    }
    if client_id.len() > limits.max_client_id_bytes {
        return Err(Refusal::ClientIdTooLong { bytes: client_id.len(), maximum: limits.max_client_id_bytes });
    }
    if client_id.chars().any(char::is_control) {
        return Err(Refusal::ClientIdInvalid);
    }
    if connect.properties.authentication_method.is_some_and(|method| !is_supported(method)) {
        return Err(Refusal::AuthenticationMethod); // [MQTT5-4.12.0-1]
    }
    check_welcome(connect, &Welcome::new(SessionState::New), limits)?;
    let Some(will) = &connect.will else { return Ok(()) };
    if TopicName::parse_with(will.topic, limits.max_topic_levels).is_err() {
        return Err(Refusal::WillTopicInvalid);
    }
    if will.properties.response_topic.is_some_and(|topic| TopicName::parse(topic).is_err()) {
        return Err(Refusal::WillResponseTopicInvalid);
    }
    if will.qos > limits.max_qos {
        return Err(Refusal::WillQosNotSupported);
    }
    if will.retain && !limits.retain_available {
        return Err(Refusal::WillRetainNotSupported);
    }
    Ok(())
}

/// Checks that the client accepts a packet as large as the CONNACK of that welcome.
///
/// [`check_connect`] did it for a welcome that says nothing special; the one that ends an enhanced authentication with
/// data of its method is larger.
///
/// # Errors
/// [`Refusal::NoRoomForConnAck`].
pub fn check_welcome(connect: &Connect<'_>, welcome: &Welcome<'_>, limits: &Limits) -> Result<(), Refusal> {
    let Some(maximum) = connect.properties.maximum_packet_size.map(NonZeroU32::get) else { return Ok(()) };
    // Without CONNACK there is no conversation, and hardly any property of it can be left out, because the client would
    // then go by defaults that the server does not keep.
    let assigned = if connect.client_id.is_empty() { ASSIGNED_CLIENT_ID_BYTES } else { 0 };
    let welcome = Welcome { assigned_client_id: None, response_information: None, ..*welcome };
    let needed = connack(connect, welcome, limits).encoded_len(connect.version);
    if needed.is_ok_and(|bytes| bytes + assigned <= maximum as usize) {
        Ok(())
    } else {
        Err(Refusal::NoRoomForConnAck { maximum })
    }
}

/// Appends the CONNACK that refuses a connection, which the caller then closes [MQTT5-3.2.2-7], [MQTT311-3.2.2-5].
///
/// In 3.x it has the nearest of the return codes 1 to 5; where there is none nothing is appended, and the close has
/// to do [MQTT311-3.2.2-6].
pub fn refuse(version: Version, reason: ReasonCode, out: &mut Vec<u8>) {
    // An error appends nothing, and says that 3.x has no such code.
    let _ = ConnAck::new(reason).encode(version, out);
}

/// Appends the CONNACK that sends a client to another server, for a while or for good, and names it if
/// [`Limits::server_reference`] does (4.11). In 3.x it says that the server is unavailable, if anything.
pub fn redirect(connect: &Connect<'_>, is_for_good: bool, limits: &Limits, out: &mut Vec<u8>) {
    let reason = if is_for_good { ReasonCode::ServerMoved } else { ReasonCode::UseAnotherServer };
    let mut connack = ConnAck::new(reason);
    if connect.version == Version::V5 {
        connack.properties.server_reference = limits.server_reference.as_deref();
    }
    let maximum = connect.properties.maximum_packet_size.map_or(u32::MAX, NonZeroU32::get);
    let mut send = |connack: &ConnAck<'_>| {
        send_within(maximum, connect.version, &Packet::ConnAck(Box::new(connack.clone())), out)
    };
    if send(&connack).is_err() {
        connack.properties.server_reference = None;
        // The close has to do where even that is too large, or has no code in 3.x.
        let _ = send(&connack);
    }
}

/// What the server found for a CONNECT that it accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Welcome<'a> {
    /// Whether the session goes on or begins.
    pub state: SessionState,
    /// The client identifier that the server chose, if CONNECT had none [MQTT5-3.2.2-16].
    pub assigned_client_id: Option<&'a str>,
    /// What the client may build its response topics on. It is said if CONNECT asks for it, and if it fits.
    pub response_information: Option<&'a str>,
    /// What the method of an enhanced authentication says at its end.
    pub authentication_data: Option<&'a [u8]>,
}

impl Welcome<'_> {
    /// Returns the welcome that says nothing but this.
    pub const fn new(state: SessionState) -> Self {
        Self { state, assigned_client_id: None, response_information: None, authentication_data: None }
    }
}

/// Whether a session existed before its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionState {
    /// It begins here: clean start, or nothing was stored.
    New,
    /// It was stored and goes on [MQTT5-3.1.2-5].
    Resumed,
}

/// Appends the CONNACK that accepts.
pub(crate) fn accept(
    connect: &Connect<'_>,
    welcome: Welcome<'_>,
    link: &Link,
    limits: &Limits,
    out: &mut Vec<u8>,
) {
    let connack = |welcome| Packet::ConnAck(Box::new(connack(connect, welcome, limits)));
    if link.send(&connack(welcome), out).is_err() {
        link.answer(&connack(Welcome { response_information: None, ..welcome }), out);
    }
}

fn connack<'a>(connect: &Connect<'a>, welcome: Welcome<'a>, limits: &Limits) -> ConnAck<'a> {
    let asked = connect.properties.session_expiry_interval.unwrap_or(0);
    let given = requested_expiry(connect, limits).to_interval();
    let properties = match connect.version {
        Version::V3_1 | Version::V3_1_1 => ConnAckProperties::default(),
        Version::V5 => ConnAckProperties {
            session_expiry_interval: Some(given).filter(|given| *given != asked),
            receive_maximum: Some(limits.receive_maximum).filter(|maximum| *maximum != NonZeroU16::MAX),
            maximum_qos: Some(limits.max_qos).filter(|qos| *qos < QoS::ExactlyOnce), // [MQTT5-3.2.2-9]
            retain_available: (!limits.retain_available).then_some(false),
            maximum_packet_size: Some(limits.max_packet_size),
            assigned_client_id: welcome.assigned_client_id,
            topic_alias_maximum: Some(limits.topic_alias_maximum).filter(|maximum| *maximum > 0),
            server_keep_alive: server_keep_alive(connect, limits).map(NonZeroU16::get),
            response_information: welcome
                .response_information
                .filter(|_| connect.properties.request_response_information == Some(true)),
            // [MQTT5-4.12.0-5], [MQTT5-4.12.0-6]
            authentication_method: connect.properties.authentication_method,
            authentication_data: welcome.authentication_data,
            ..ConnAckProperties::default()
        },
    };
    let session_present = welcome.state == SessionState::Resumed;
    ConnAck { session_present, reason: ReasonCode::Success, properties }
}

/// The session expiry that CONNECT asks for, within the limits.
pub(crate) fn requested_expiry(connect: &Connect<'_>, limits: &Limits) -> Expiry {
    match connect.version {
        Version::V5 => Expiry::from_interval(connect.properties.session_expiry_interval.unwrap_or(0), limits),
        // Clean Session: the session ends with the connection [MQTT311-3.1.2-6].
        Version::V3_1 | Version::V3_1_1 if connect.clean_start => Expiry::Now,
        Version::V3_1 | Version::V3_1_1 => Expiry::After(limits.session_expiry_3x),
    }
}
