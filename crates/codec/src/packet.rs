//! The packet model: one set of types for MQTT 3.1, 3.1.1 and 5.0, in both directions.
//!
//! Packets borrow from the buffer that they were decoded from, or from whatever the caller encodes. Nothing on the
//! path of PUBLISH and its acknowledgements owns memory; only the packets that set a conversation up carry a box or a
//! vector. Fields which a version does not have on the wire are `None`, empty or their default when decoded from it,
//! and are left out when encoded for it.

use std::num::{NonZeroU16, NonZeroU32};

use crate::{ReasonCode, UserProperties};

/// The protocol version of a conversation, which CONNECT decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// MQTT 3.1, protocol name `MQIsdp`, level 3.
    V3_1,
    /// MQTT 3.1.1, protocol name `MQTT`, level 4.
    V3_1_1,
    /// MQTT 5.0, protocol name `MQTT`, level 5.
    V5,
}

/// The quality of service of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum QoS {
    /// At most once: no acknowledgement.
    #[default]
    AtMostOnce,
    /// At least once: PUBACK.
    AtLeastOnce,
    /// Exactly once: PUBREC, PUBREL, PUBCOMP.
    ExactlyOnce,
}

/// A packet identifier, which is never 0 ([MQTT5-2.2.1-3]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PacketId(pub NonZeroU16);

/// One MQTT control packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet<'a> {
    /// Client to server: opens the conversation.
    Connect(Box<Connect<'a>>),
    /// Server to client: answers CONNECT.
    ConnAck(Box<ConnAck<'a>>),
    /// Both ways: an application message.
    Publish(Publish<'a>),
    /// Both ways: acknowledges a QoS 1 PUBLISH.
    PubAck(PubAck<'a>),
    /// Both ways: the first answer to a QoS 2 PUBLISH.
    PubRec(PubAck<'a>),
    /// Both ways: releases a QoS 2 message.
    PubRel(PubAck<'a>),
    /// Both ways: completes a QoS 2 message.
    PubComp(PubAck<'a>),
    /// Client to server.
    Subscribe(Box<Subscribe<'a>>),
    /// Server to client.
    SubAck(Box<SubAck<'a>>),
    /// Client to server.
    Unsubscribe(Box<Unsubscribe<'a>>),
    /// Server to client.
    UnsubAck(Box<SubAck<'a>>),
    /// Client to server.
    PingReq,
    /// Server to client.
    PingResp,
    /// Client to server; in 5.0 both ways.
    Disconnect(Disconnect<'a>),
    /// Both ways, 5.0 only.
    Auth(Box<Auth<'a>>),
}

/// CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connect<'a> {
    /// The version that the protocol name and level spell.
    pub version: Version,
    /// Level bit 7 of 3.1 and 3.1.1, which bridges of several brokers set: no echo of the client's own messages, and
    /// the retain flag passed through.
    pub bridge: bool,
    /// Clean Session of 3.x, Clean Start of 5.0.
    pub clean_start: bool,
    /// Seconds; 0 turns keep-alive off.
    pub keep_alive: u16,
    /// Empty when the client asks for an assigned one.
    pub client_id: &'a str,
    /// The message to publish when the connection ends without DISCONNECT.
    pub will: Option<Will<'a>>,
    /// User name.
    pub username: Option<&'a str>,
    /// Password: binary.
    pub password: Option<&'a [u8]>,
    /// 5.0 only.
    pub properties: ConnectProperties<'a>,
}

/// The will of a CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Will<'a> {
    /// Topic name.
    pub topic: &'a str,
    /// Payload.
    pub payload: &'a [u8],
    /// QoS of the will message.
    pub qos: QoS,
    /// Whether the will message is retained.
    pub retain: bool,
    /// Will Delay Interval in seconds; 0 when absent.
    pub delay_interval: u32,
    /// The properties that go into the PUBLISH (topic alias and subscription identifiers stay empty).
    pub properties: PublishProperties<'a>,
}

/// Properties of CONNECT, all `None` when absent so that the reader decides what absence means.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConnectProperties<'a> {
    /// Seconds; `u32::MAX` never expires.
    pub session_expiry_interval: Option<u32>,
    /// Receive Maximum of the client.
    pub receive_maximum: Option<NonZeroU16>,
    /// Maximum Packet Size that the client accepts, in bytes.
    pub maximum_packet_size: Option<NonZeroU32>,
    /// Highest topic alias that the client accepts.
    pub topic_alias_maximum: Option<u16>,
    /// Request Response Information.
    pub request_response_information: Option<bool>,
    /// Request Problem Information.
    pub request_problem_information: Option<bool>,
    /// Authentication Method.
    pub authentication_method: Option<&'a str>,
    /// Authentication Data.
    pub authentication_data: Option<&'a [u8]>,
    /// User properties in their order.
    pub user_properties: UserProperties<'a>,
}

/// CONNACK. In 3.x the reason code is one of the return codes 0 to 5, which [`ReasonCode`] translates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnAck<'a> {
    /// Whether the server resumed a stored session.
    pub session_present: bool,
    /// Success or why not.
    pub reason: ReasonCode,
    /// 5.0 only.
    pub properties: ConnAckProperties<'a>,
}

/// Properties of CONNACK.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConnAckProperties<'a> {
    /// Seconds, where the server overrides what the client asked for.
    pub session_expiry_interval: Option<u32>,
    /// Receive Maximum of the server.
    pub receive_maximum: Option<NonZeroU16>,
    /// The highest QoS that the server takes, where it is below 2.
    pub maximum_qos: Option<QoS>,
    /// Whether retained messages are supported; absent means yes.
    pub retain_available: Option<bool>,
    /// Maximum Packet Size that the server accepts, in bytes.
    pub maximum_packet_size: Option<NonZeroU32>,
    /// The client id that the server chose.
    pub assigned_client_id: Option<&'a str>,
    /// Highest topic alias that the server accepts.
    pub topic_alias_maximum: Option<u16>,
    /// For a human, never parsed.
    pub reason_string: Option<&'a str>,
    /// User properties in their order.
    pub user_properties: UserProperties<'a>,
    /// Whether wildcard subscriptions are supported; absent means yes.
    pub wildcard_subscription_available: Option<bool>,
    /// Whether subscription identifiers are supported; absent means yes.
    pub subscription_identifiers_available: Option<bool>,
    /// Whether shared subscriptions are supported; absent means yes.
    pub shared_subscription_available: Option<bool>,
    /// Seconds, where the server overrides what the client asked for.
    pub server_keep_alive: Option<u16>,
    /// Base for response topics.
    pub response_information: Option<&'a str>,
    /// Another server to use.
    pub server_reference: Option<&'a str>,
    /// Authentication Method.
    pub authentication_method: Option<&'a str>,
    /// Authentication Data.
    pub authentication_data: Option<&'a [u8]>,
}

/// PUBLISH.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Publish<'a> {
    /// Whether this repeats an earlier delivery.
    pub dup: bool,
    /// Quality of service.
    pub qos: QoS,
    /// Retain flag.
    pub retain: bool,
    /// Topic name; empty only in 5.0 together with a topic alias.
    pub topic: &'a str,
    /// Present exactly when `qos` is 1 or 2.
    pub packet_id: Option<PacketId>,
    /// 5.0 only.
    pub properties: PublishProperties<'a>,
    /// Application payload.
    pub payload: &'a [u8],
}

/// Properties of PUBLISH and of a will.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PublishProperties<'a> {
    /// Payload Format Indicator: whether the payload says that it is UTF-8.
    pub payload_is_utf8: Option<bool>,
    /// Seconds.
    pub message_expiry_interval: Option<u32>,
    /// Topic alias, never 0 ([MQTT5-3.3.2-8]).
    pub topic_alias: Option<NonZeroU16>,
    /// Topic for the response.
    pub response_topic: Option<&'a str>,
    /// Correlation data: binary.
    pub correlation_data: Option<&'a [u8]>,
    /// User properties in their order.
    pub user_properties: UserProperties<'a>,
    /// Identifiers of the subscriptions that matched; only from server to client.
    pub subscription_identifiers: SubscriptionIdentifiers<'a>,
    /// MIME type or whatever the two ends agreed upon.
    pub content_type: Option<&'a str>,
}

/// Subscription identifiers of a PUBLISH, each 1 to 268,435,455. However they are stored, equal lists are equal.
#[derive(Debug, Clone, Copy, Default)]
pub enum SubscriptionIdentifiers<'a> {
    /// None, the usual case.
    #[default]
    None,
    /// One, without memory of its own.
    One(NonZeroU32),
    /// As decoded: variable byte integers, each behind its property identifier; validated. Other properties that the
    /// sender mixed in between are still there, and are stepped over.
    Wire(&'a [u8]),
    /// As a server composes them.
    List(&'a [NonZeroU32]),
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP, which share their form. In 3.x only the identifier is on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PubAck<'a> {
    /// The message that it is about.
    pub packet_id: PacketId,
    /// Success or why not.
    pub reason: ReasonCode,
    /// For a human, never parsed.
    pub reason_string: Option<&'a str>,
    /// User properties in their order.
    pub user_properties: UserProperties<'a>,
}

/// SUBSCRIBE: at least one filter ([MQTT5-3.8.3-2]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribe<'a> {
    /// Answered by the SUBACK with the same identifier.
    pub packet_id: PacketId,
    /// Subscription identifier, 1 to 268,435,455; 5.0 only.
    pub subscription_identifier: Option<NonZeroU32>,
    /// User properties in their order.
    pub user_properties: UserProperties<'a>,
    /// What is asked for, in order.
    pub filters: Vec<SubscribeFilter<'a>>,
}

/// One entry of a SUBSCRIBE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubscribeFilter<'a> {
    /// Topic filter as the client wrote it (UTF-8 checked; its wildcards are the topic crate's matter).
    pub filter: &'a str,
    /// Options; in 3.x only the QoS is on the wire.
    pub options: SubscribeOptions,
}

/// Subscription options.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SubscribeOptions {
    /// The highest QoS at which messages are sent.
    pub qos: QoS,
    /// Not the client's own messages.
    pub no_local: bool,
    /// Keep the publisher's retain flag.
    pub retain_as_published: bool,
    /// When retained messages are sent at the time of the subscription.
    pub retain_handling: RetainHandling,
}

/// When retained messages are sent at the time of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RetainHandling {
    /// Whenever the subscription is made.
    #[default]
    Send,
    /// Only if it did not exist before.
    SendIfNew,
    /// Never.
    DoNotSend,
}

/// SUBACK or UNSUBACK, which share their form. An UNSUBACK of 3.x carries no codes on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubAck<'a> {
    /// The request that it answers.
    pub packet_id: PacketId,
    /// For a human, never parsed.
    pub reason_string: Option<&'a str>,
    /// User properties in their order.
    pub user_properties: UserProperties<'a>,
    /// One for each filter of the request, in order.
    pub reasons: Vec<ReasonCode>,
}

/// UNSUBSCRIBE: at least one filter ([MQTT5-3.10.3-2]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsubscribe<'a> {
    /// Answered by the UNSUBACK with the same identifier.
    pub packet_id: PacketId,
    /// User properties in their order.
    pub user_properties: UserProperties<'a>,
    /// Filters, in order.
    pub filters: Vec<&'a str>,
}

/// DISCONNECT. In 3.x nothing of it is on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disconnect<'a> {
    /// Why.
    pub reason: ReasonCode,
    /// Seconds: the client's last word on its session.
    pub session_expiry_interval: Option<u32>,
    /// For a human, never parsed.
    pub reason_string: Option<&'a str>,
    /// Another server to use.
    pub server_reference: Option<&'a str>,
    /// User properties in their order.
    pub user_properties: UserProperties<'a>,
}

/// AUTH: enhanced authentication, 5.0 only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth<'a> {
    /// Success, continue or re-authenticate.
    pub reason: ReasonCode,
    /// Authentication Method.
    pub authentication_method: Option<&'a str>,
    /// Authentication Data.
    pub authentication_data: Option<&'a [u8]>,
    /// For a human, never parsed.
    pub reason_string: Option<&'a str>,
    /// User properties in their order.
    pub user_properties: UserProperties<'a>,
}
