//! What can happen, under which names rules ask for it, and what is known of it then.

use tidegate_topic::{TopicFilter, TopicName};

use super::column::Column;

/// What stands before the names of the topics that tell of events rather than of messages.
pub(crate) const EVENT_TOPICS: &str = "$events/";

/// The kind of thing that happened.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// A client published a message.
    MessagePublish,
    /// A message was handed to a subscriber.
    MessageDelivered,
    /// A subscriber acknowledged a message.
    MessageAcked,
    /// A message was dropped before anybody was to get it.
    MessageDropped,
    /// A message was dropped on its way to one subscriber.
    DeliveryDropped,
    /// A message could not be transformed.
    MessageTransformationFailed,
    /// A message did not fit its schema.
    SchemaValidationFailed,
    /// A client connected.
    ClientConnected,
    /// A client's connection ended.
    ClientDisconnected,
    /// A client was answered with CONNACK, whatever it said.
    ClientConnack,
    /// A client sent PINGREQ.
    ClientPing,
    /// A client's identity was checked.
    ClientCheckAuthnComplete,
    /// Whether a client may do something was checked.
    ClientCheckAuthzComplete,
    /// A client subscribed to a filter.
    SessionSubscribed,
    /// A client gave up a subscription.
    SessionUnsubscribed,
    /// Something is wrong with the broker.
    AlarmActivated,
    /// It no longer is.
    AlarmDeactivated,
    /// A window of a rule closed: what its rows say they were made of. No rule can listen to it.
    WindowClosed,
}

struct Info {
    name: &'static str,
    /// As written since EMQX 5.9, and as before.
    topics: [&'static str; 2],
    columns: u64,
}

const fn set(columns: &[Column]) -> u64 {
    let mut bits = 1 << Column::Event as u64 | 1 << Column::Timestamp as u64 | 1 << Column::Node as u64;
    let mut at = 0;
    while at < columns.len() {
        bits |= 1 << columns[at] as u64;
        at += 1;
    }
    bits
}

const CLIENT: u64 =
    set(&[Column::ClientId, Column::Username, Column::PeerHost, Column::PeerName, Column::ClientAttrs]);
const MESSAGE: u64 = CLIENT
    | set(&[
        Column::Id,
        Column::Payload,
        Column::Topic,
        Column::Qos,
        Column::Flags,
        Column::PubProps,
        Column::PublishReceivedAt,
    ]);
const CONNECTION: u64 = CLIENT
    | set(&[Column::SockName, Column::ProtoName, Column::ProtoVer, Column::Mountpoint, Column::IsBridge]);
const SESSION: u64 = CONNECTION
    | set(&[
        Column::Keepalive,
        Column::CleanStart,
        Column::ExpiryInterval,
        Column::ReceiveMaximum,
        Column::ConnProps,
    ]);
const SENDER: u64 = set(&[Column::FromClientId, Column::FromUsername]);

/// The columns of each kind by its number, which are asked for with every message.
const COLUMNS: [u64; EventKind::ALL.len() + 1] = {
    let mut columns = [EventKind::WindowClosed.info().columns; EventKind::ALL.len() + 1];
    let mut at = 0;
    while at < EventKind::ALL.len() {
        columns[EventKind::ALL[at] as usize] = EventKind::ALL[at].info().columns;
        at += 1;
    }
    columns
};

impl EventKind {
    /// Every kind that a rule can listen to.
    pub const ALL: [Self; 17] = [
        Self::MessagePublish,
        Self::MessageDelivered,
        Self::MessageAcked,
        Self::MessageDropped,
        Self::DeliveryDropped,
        Self::MessageTransformationFailed,
        Self::SchemaValidationFailed,
        Self::ClientConnected,
        Self::ClientDisconnected,
        Self::ClientConnack,
        Self::ClientPing,
        Self::ClientCheckAuthnComplete,
        Self::ClientCheckAuthzComplete,
        Self::SessionSubscribed,
        Self::SessionUnsubscribed,
        Self::AlarmActivated,
        Self::AlarmDeactivated,
    ];

    const fn info(self) -> Info {
        let (name, topics, columns) = match self {
            Self::MessagePublish => ("message.publish", ["", ""], MESSAGE),
            Self::MessageDelivered => (
                "message.delivered",
                ["$events/message/delivered", "$events/message_delivered"],
                MESSAGE | SENDER,
            ),
            Self::MessageAcked => (
                "message.acked",
                ["$events/message/acked", "$events/message_acked"],
                MESSAGE | SENDER | set(&[Column::PubackProps]),
            ),
            Self::MessageDropped => (
                "message.dropped",
                ["$events/message/dropped", "$events/message_dropped"],
                MESSAGE | set(&[Column::Reason]),
            ),
            Self::DeliveryDropped => (
                "delivery.dropped",
                ["$events/message/delivery_dropped", "$events/delivery_dropped"],
                MESSAGE | SENDER | set(&[Column::Reason]),
            ),
            Self::MessageTransformationFailed => (
                "message.transformation_failed",
                ["$events/message_transformation/failed", "$events/message_transformation_failed"],
                MESSAGE | set(&[Column::Transformation]),
            ),
            Self::SchemaValidationFailed => (
                "schema.validation_failed",
                ["$events/schema_validation/failed", "$events/schema_validation_failed"],
                MESSAGE | set(&[Column::Validation]),
            ),
            Self::ClientConnected => (
                "client.connected",
                ["$events/client/connected", "$events/client_connected"],
                SESSION | set(&[Column::ConnectedAt]),
            ),
            Self::ClientDisconnected => (
                "client.disconnected",
                ["$events/client/disconnected", "$events/client_disconnected"],
                CONNECTION
                    | set(&[
                        Column::Reason,
                        Column::ConnectedAt,
                        Column::DisconnectedAt,
                        Column::DisconnProps,
                    ]),
            ),
            Self::ClientConnack => (
                "client.connack",
                ["$events/client/connack", "$events/client_connack"],
                SESSION | set(&[Column::ReasonCode]),
            ),
            Self::ClientPing => (
                "client.ping",
                ["$events/client/ping", "$events/client_ping"],
                CONNECTION | set(&[Column::Keepalive]),
            ),
            Self::ClientCheckAuthnComplete => (
                "client.check_authn_complete",
                ["$events/auth/check_authn_complete", "$events/client_check_authn_complete"],
                CLIENT | set(&[Column::ReasonCode, Column::IsAnonymous, Column::IsSuperuser]),
            ),
            Self::ClientCheckAuthzComplete => (
                "client.check_authz_complete",
                ["$events/auth/check_authz_complete", "$events/client_check_authz_complete"],
                CLIENT | set(&[Column::Topic, Column::Action, Column::Result, Column::AuthzSource]),
            ),
            Self::SessionSubscribed => (
                "session.subscribed",
                ["$events/session/subscribed", "$events/session_subscribed"],
                CLIENT | set(&[Column::Topic, Column::Qos, Column::SubProps]),
            ),
            Self::SessionUnsubscribed => (
                "session.unsubscribed",
                ["$events/session/unsubscribed", "$events/session_unsubscribed"],
                CLIENT | set(&[Column::Topic, Column::Qos, Column::UnsubProps]),
            ),
            Self::AlarmActivated => (
                "alarm.activated",
                ["$events/sys/alarm_activated", "$events/alarm_activated"],
                set(&[Column::Name, Column::Message, Column::Details, Column::ActivatedAt]),
            ),
            Self::AlarmDeactivated => (
                "alarm.deactivated",
                ["$events/sys/alarm_deactivated", "$events/alarm_deactivated"],
                set(&[
                    Column::Name,
                    Column::Message,
                    Column::Details,
                    Column::ActivatedAt,
                    Column::DeactivatedAt,
                ]),
            ),
            Self::WindowClosed => ("window.closed", ["", ""], set(&[])),
        };
        Info { name, topics, columns }
    }

    /// The value of the column `event`.
    pub const fn name(self) -> &'static str {
        self.info().name
    }

    /// The kind with that value of the column `event`, if a rule can listen to it.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The topic under which FROM names it; `None` of messages, which have topics of their own.
    pub fn topic(self) -> Option<&'static str> {
        Some(self.info().topics[0]).filter(|topic| !topic.is_empty())
    }

    /// Both spellings of its topic.
    pub(crate) fn topics(self) -> impl Iterator<Item = &'static str> {
        self.info().topics.into_iter().filter(|topic| !topic.is_empty())
    }

    /// Whether a filter of FROM, which begins with [`EVENT_TOPICS`], asks for it by any of its names.
    pub(crate) fn is_meant_by(self, filter: TopicFilter<'_>) -> bool {
        self.topics().flat_map(TopicName::parse).any(|topic| filter.matches(topic))
    }

    pub(crate) const fn has(self, column: Column) -> bool {
        COLUMNS[self as usize] & (1 << column as u64) != 0
    }

    /// The names of its columns, in the order in which `SELECT *` gives them.
    pub fn columns(self) -> impl Iterator<Item = &'static str> {
        Column::ALL.into_iter().filter(move |column| self.has(*column)).map(Column::name)
    }
}
