//! What happened: the input of a rule, borrowed from whoever saw it happen.

mod column;
mod details;
mod kind;
mod properties;

use std::fmt;
use std::net::SocketAddr;

use crate::value::Value;

pub(crate) use column::Column;
pub use details::{Connection, Details};
pub(crate) use kind::EVENT_TOPICS;
pub use kind::EventKind;
pub use properties::{Properties, Property};
use properties::{USER_PROPERTY, property_map};

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
    /// MQTT 5 properties of the packet that the event tells of: columns `pub_props`, `conn_props`, `disconn_props`,
    /// `sub_props` and `unsub_props`.
    pub properties: Option<&'a dyn Properties>,
    /// What only events of this kind know.
    pub details: Details<'a>,
    /// Further columns by name. One that is named as a column above takes its place.
    pub extra: &'a [(&'a str, Value<'a>)],
}

impl<'a> Event<'a> {
    /// A message with QoS 0 at time 0, from nowhere in particular.
    pub const fn publish(topic: &'a str, client_id: &'a str, payload: &'a [u8]) -> Self {
        Self { topic, payload, ..Self::of(EventKind::MessagePublish, client_id, Details::None) }
    }

    /// An event of any kind at time 0. What a kind has no column for is never asked for, as the payload of
    /// `client.connected`.
    pub const fn of(kind: EventKind, client_id: &'a str, details: Details<'a>) -> Self {
        Self {
            kind,
            topic: "",
            client_id,
            username: None,
            payload: b"",
            qos: 0,
            retain: false,
            dup: false,
            timestamp_ms: 0,
            id: 0,
            peer: None,
            node: "",
            properties: None,
            details,
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
        if self.extra_column(column.name()).is_some() || !self.kind.has(column) {
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
        if !self.kind.has(column) {
            return Value::Undefined;
        }
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
            Column::PubProps
            | Column::ConnProps
            | Column::DisconnProps
            | Column::SubProps
            | Column::UnsubProps => self.properties.map_or(Value::Undefined, property_map),
            Column::PublishReceivedAt | Column::Timestamp => self.timestamp_ms.into(),
            Column::Node => self.node.into(),
            column => self.details.column(column),
        }
    }

    /// `flags.retain` and `pub_props.'User-Property'.key` without the whole object, where that is what is asked.
    pub(crate) fn member(&self, column: Column, keys: &mut dyn Iterator<Item = &str>) -> Option<Value<'a>> {
        if !self.kind.has(column) {
            return None;
        }
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
