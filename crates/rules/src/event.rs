//! What happened: the input of a rule, borrowed from whoever saw it happen.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;

use crate::value::{Map, Value};

/// The kind of thing that happened.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A client published a message.
    MessagePublish,
}

impl EventKind {
    /// The value of the column `event`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::MessagePublish => "message.publish",
        }
    }
}

/// One thing that happened, with everything that a rule may ask about it.
///
/// Building one allocates nothing and formats nothing: addresses, ids and properties become text only when a rule
/// names their column. Start with [`Event::publish`] and set the fields that you know.
#[non_exhaustive]
#[derive(Clone, Copy)]
pub struct Event<'a> {
    /// What happened: column `event`.
    pub kind: EventKind,
    /// Column `topic`.
    pub topic: &'a str,
    /// Column `clientid`.
    pub client_id: &'a str,
    /// Column `username`.
    pub username: Option<&'a str>,
    /// Column `payload`.
    pub payload: &'a [u8],
    /// Column `qos`.
    pub qos: u8,
    /// Column `flags.retain`.
    pub retain: bool,
    /// Column `flags.dup`.
    pub dup: bool,
    /// When it happened, in milliseconds since 1970: columns `timestamp` and `publish_received_at`, and the time
    /// that `now_timestamp()` tells.
    pub timestamp_ms: i64,
    /// Column `id`, as 32 hexadecimal digits.
    pub id: u128,
    /// The client's address: columns `peerhost` and `peername`.
    pub peer: Option<SocketAddr>,
    /// The name of this broker: column `node`.
    pub node: &'a str,
    /// MQTT 5 properties: column `pub_props`.
    pub properties: Option<&'a dyn Properties>,
    /// Further columns by name. One that is named as a column above takes its place.
    pub extra: &'a [(&'a str, Value<'a>)],
}

impl<'a> Event<'a> {
    /// A message with QoS 0 at time 0, from nowhere in particular.
    pub const fn publish(topic: &'a str, client_id: &'a str, payload: &'a [u8]) -> Self {
        Self {
            kind: EventKind::MessagePublish,
            topic,
            client_id,
            username: None,
            payload,
            qos: 0,
            retain: false,
            dup: false,
            timestamp_ms: 0,
            id: 0,
            peer: None,
            node: "",
            properties: None,
            extra: &[],
        }
    }

    /// The value of a column, undefined where this event has none of that name.
    pub fn column(&self, name: &str) -> Value<'a> {
        self.resolve(name, Column::named(name))
    }

    /// The same for a name that was looked up before.
    pub(crate) fn resolve(&self, name: &str, column: Option<Column>) -> Value<'a> {
        match (self.extra_column(name), column) {
            (Some(value), _) => value.clone(),
            (None, Some(column)) => self.built_in(column),
            (None, None) => Value::Undefined,
        }
    }

    /// The payload as a rule's paths see it, unless an extra column has taken its place.
    pub(crate) fn raw_payload(&self) -> Option<&'a [u8]> {
        self.bytes(Column::Payload)
    }

    /// The bytes of a column that is a text or the payload, where they are.
    pub(crate) fn bytes(&self, column: Column) -> Option<&'a [u8]> {
        if self.extra_column(column.name()).is_some() {
            return None;
        }
        match column {
            Column::Payload => Some(self.payload),
            Column::Topic => Some(self.topic.as_bytes()),
            Column::ClientId => Some(self.client_id.as_bytes()),
            Column::Username => self.username.map(str::as_bytes),
            _ => None,
        }
    }

    /// Every column that `SELECT *` gives, in a fixed order, without those that are undefined.
    pub(crate) fn columns(&self) -> impl Iterator<Item = (&'a str, Value<'a>)> {
        let event = *self;
        let built_in = Column::ALL.iter().filter(move |c| event.extra_column(c.name()).is_none());
        let built_in = built_in.map(move |c| (c.name(), event.built_in(*c)));
        let extra = self.extra.iter().map(|(name, value)| (*name, value.clone()));
        built_in.chain(extra).filter(|(_, value)| !value.is_undefined())
    }

    fn extra_column(&self, name: &str) -> Option<&'a Value<'a>> {
        self.extra.iter().find(|(n, _)| *n == name).map(|(_, value)| value)
    }

    fn built_in(&self, column: Column) -> Value<'a> {
        match column {
            Column::Id => Value::from(format!("{:032X}", self.id)),
            Column::Event => self.kind.name().into(),
            Column::ClientId => self.client_id.into(),
            Column::Username => self.username.map_or(Value::Undefined, Value::from),
            Column::Payload => Value::text_or_bytes(self.payload),
            Column::PeerHost => self.peer.map_or(Value::Undefined, |p| p.ip().to_string().into()),
            Column::PeerName => self.peer.map_or(Value::Undefined, |p| p.to_string().into()),
            Column::Topic => self.topic.into(),
            Column::Qos => i64::from(self.qos).into(),
            Column::Flags => {
                let flags = [("dup", self.dup), ("retain", self.retain)];
                Value::map(flags.into_iter().map(|(name, set)| (name.into(), set.into())).collect())
            }
            Column::PubProps => self.properties.map_or(Value::Undefined, property_map),
            Column::PublishReceivedAt | Column::Timestamp => self.timestamp_ms.into(),
            Column::Node => self.node.into(),
        }
    }

    /// `flags.retain` and `pub_props.'User-Property'.key` without the whole object, where that is what is asked.
    pub(crate) fn member(&self, column: Column, keys: &mut dyn Iterator<Item = &str>) -> Option<Value<'a>> {
        match (column, keys.next()?, keys.next()) {
            (Column::Flags, "retain", None) => Some(self.retain.into()),
            (Column::Flags, "dup", None) => Some(self.dup.into()),
            (Column::PubProps, USER_PROPERTY, Some(wanted)) if keys.next().is_none() => {
                let mut found = Value::Undefined;
                self.properties?.visit(&mut |property| {
                    if let Property::User(name, value) = property
                        && name == wanted
                    {
                        found = value.into();
                    }
                });
                Some(found)
            }
            _ => None,
        }
    }
}

impl fmt::Debug for Event<'_> {
    /// Without what a device wrote into the message.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("kind", &self.kind)
            .field("topic", &self.topic)
            .field("client_id", &self.client_id)
            .field("payload_bytes", &self.payload.len())
            .field("qos", &self.qos)
            .field("timestamp_ms", &self.timestamp_ms)
            .finish_non_exhaustive()
    }
}

/// A column that events have by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Column {
    Id,
    Event,
    ClientId,
    Username,
    Payload,
    PeerHost,
    PeerName,
    Topic,
    Qos,
    Flags,
    PubProps,
    PublishReceivedAt,
    Timestamp,
    Node,
}

impl Column {
    pub(crate) const ALL: [Self; 14] = [
        Self::Id,
        Self::Event,
        Self::ClientId,
        Self::Username,
        Self::Payload,
        Self::PeerHost,
        Self::PeerName,
        Self::Topic,
        Self::Qos,
        Self::Flags,
        Self::PubProps,
        Self::PublishReceivedAt,
        Self::Timestamp,
        Self::Node,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::Event => "event",
            Self::ClientId => "clientid",
            Self::Username => "username",
            Self::Payload => "payload",
            Self::PeerHost => "peerhost",
            Self::PeerName => "peername",
            Self::Topic => "topic",
            Self::Qos => "qos",
            Self::Flags => "flags",
            Self::PubProps => "pub_props",
            Self::PublishReceivedAt => "publish_received_at",
            Self::Timestamp => "timestamp",
            Self::Node => "node",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|column| column.name() == name)
    }
}

const USER_PROPERTY: &str = "User-Property";

/// One MQTT 5 property of a PUBLISH [MQTT5-3.3.2].
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Property<'a> {
    /// Payload Format Indicator: 1 for UTF-8.
    PayloadFormatIndicator(u8),
    /// Message Expiry Interval in seconds.
    MessageExpiryInterval(u32),
    /// Content Type.
    ContentType(&'a str),
    /// Response Topic.
    ResponseTopic(&'a str),
    /// Correlation Data.
    CorrelationData(&'a [u8]),
    /// Subscription Identifier.
    SubscriptionIdentifier(u32),
    /// Topic Alias.
    TopicAlias(u16),
    /// One User Property: its name and its value.
    User(&'a str, &'a str),
}

/// The MQTT 5 properties of a message, read only when a rule asks for them.
pub trait Properties: fmt::Debug {
    /// Calls `each` with every property in the order of the packet.
    fn visit<'s>(&'s self, each: &mut dyn FnMut(Property<'s>));
}

impl<const N: usize> Properties for [Property<'_>; N] {
    fn visit<'s>(&'s self, each: &mut dyn FnMut(Property<'s>)) {
        self.iter().copied().for_each(each);
    }
}

impl Properties for Vec<Property<'_>> {
    fn visit<'s>(&'s self, each: &mut dyn FnMut(Property<'s>)) {
        self.iter().copied().for_each(each);
    }
}

/// The column `pub_props`: names as in the specification, with hyphens; user properties both as an object, where the
/// last of one name counts, and as a list that keeps all of them in order.
fn property_map(properties: &dyn Properties) -> Value<'_> {
    let mut map = Map::new();
    let mut users = Map::new();
    let mut pairs = Vec::new();
    properties.visit(&mut |property| {
        let (name, value) = match property {
            Property::PayloadFormatIndicator(v) => ("Payload-Format-Indicator", Value::Int(v.into())),
            Property::MessageExpiryInterval(v) => ("Message-Expiry-Interval", Value::Int(v.into())),
            Property::ContentType(v) => ("Content-Type", v.into()),
            Property::ResponseTopic(v) => ("Response-Topic", v.into()),
            Property::CorrelationData(v) => ("Correlation-Data", Value::text_or_bytes(v)),
            Property::SubscriptionIdentifier(v) => ("Subscription-Identifier", Value::Int(v.into())),
            Property::TopicAlias(v) => ("Topic-Alias", Value::Int(v.into())),
            Property::User(name, value) => {
                users.insert(Cow::Borrowed(name), value.into());
                let pair = [("key", name), ("value", value)];
                pairs.push(Value::map(pair.into_iter().map(|(k, v)| (k.into(), v.into())).collect()));
                return;
            }
        };
        map.insert(name.into(), value);
    });
    if !pairs.is_empty() {
        map.insert(USER_PROPERTY.into(), Value::map(users));
        map.insert("User-Property-Pairs".into(), Value::array(pairs));
    }
    Value::map(map)
}
