//! Application messages that the server holds for others.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_codec::{Publish, PublishProperties, QoS, UserProperties, Will};

/// An application message: immutable, so that subscribers, the retained tree and wills share one by `Arc`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    topic: Box<str>,
    payload: Box<[u8]>,
    /// `None` for a message without properties, which is the usual case.
    properties: Option<Box<Properties>>,
    expires_at: Option<Instant>,
    publisher: Option<Arc<Publisher>>,
    qos: QoS,
    retain: bool,
}

/// Who published a message, where somebody asks. It is not kept over a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publisher {
    /// The client's id.
    pub client_id: Box<str>,
    /// Its user name.
    pub username: Option<Box<str>>,
    /// The message's own id.
    pub id: u128,
}

/// The properties that travel with a message [MQTT5-3.3.2-4], [MQTT5-3.3.2-15] to [MQTT5-3.3.2-18],
/// [MQTT5-3.3.2-20].
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_field_names, reason = "the names are the specification's")]
struct Properties {
    payload_is_utf8: Option<bool>,
    response_topic: Option<Box<str>>,
    correlation_data: Option<Box<[u8]>>,
    content_type: Option<Box<str>>,
    user_properties: UserProperties<'static>,
}

impl Message {
    /// Returns a message without properties that never expires: one that the server itself makes.
    pub fn new(topic: &str, payload: &[u8], qos: QoS, retain: bool) -> Self {
        Self {
            topic: topic.into(),
            payload: payload.into(),
            properties: None,
            expires_at: None,
            publisher: None,
            qos,
            retain,
        }
    }

    /// Returns the message that a client published; `topic` is its topic after aliases are resolved. The Message
    /// Expiry Interval counts from `now`.
    pub fn from_publish(topic: &str, publish: &Publish<'_>, now: Instant) -> Self {
        Self {
            properties: Properties::of(&publish.properties),
            expires_at: expiry(publish.properties.message_expiry_interval, now),
            ..Self::new(topic, publish.payload, publish.qos, publish.retain)
        }
    }

    /// Returns the same message, but expiring at that moment, or never.
    #[must_use]
    pub fn with_expiry(self, expires_at: Option<Instant>) -> Self {
        Self { expires_at, ..self }
    }

    /// Returns the same message with its publisher.
    #[must_use]
    pub fn with_publisher(self, publisher: Option<Arc<Publisher>>) -> Self {
        Self { publisher, ..self }
    }

    /// Returns who published it, if it is known.
    pub fn publisher(&self) -> Option<&Arc<Publisher>> {
        self.publisher.as_ref()
    }

    /// Returns the topic name.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Returns the payload.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// Returns the QoS at which it was published.
    pub fn qos(&self) -> QoS {
        self.qos
    }

    /// Returns the retain flag with which it was published.
    pub fn retain(&self) -> bool {
        self.retain
    }

    /// Returns when the message expires, if it does.
    pub fn expires_at(&self) -> Option<Instant> {
        self.expires_at
    }

    /// Tells whether the Message Expiry Interval has passed.
    pub fn is_expired(&self, now: Instant) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// Returns the bytes of memory that the message takes, for quotas.
    pub fn size(&self) -> usize {
        let properties = self.properties.as_deref().map_or(0, Properties::size);
        size_of::<Self>() + self.topic.len() + self.payload.len() + properties
    }

    /// Returns the message as a PUBLISH that borrows from it, without packet identifier and DUP. Its Message Expiry
    /// Interval is what is left at `now`, in started seconds [MQTT5-3.3.2-6].
    pub fn as_publish(&self, now: Instant) -> Publish<'_> {
        let mut properties =
            self.properties.as_deref().map_or_else(PublishProperties::default, Properties::lend);
        properties.message_expiry_interval = self.expires_at.map(|at| {
            let left = at.saturating_duration_since(now);
            let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
            u32::try_from(seconds).unwrap_or(u32::MAX)
        });
        Publish {
            dup: false,
            qos: self.qos,
            retain: self.retain,
            topic: &self.topic,
            packet_id: None,
            properties,
            payload: &self.payload,
        }
    }
}

impl Properties {
    /// Returns what is worth keeping of a PUBLISH's properties, `None` if nothing is.
    fn of(properties: &PublishProperties<'_>) -> Option<Box<Self>> {
        let PublishProperties {
            payload_is_utf8,
            response_topic,
            correlation_data,
            content_type,
            user_properties,
            // These belong to one hop, or are held elsewhere.
            message_expiry_interval: _,
            topic_alias: _,
            subscription_identifiers: _,
        } = properties;
        if payload_is_utf8.is_none()
            && response_topic.is_none()
            && correlation_data.is_none()
            && content_type.is_none()
            && user_properties.is_empty()
        {
            return None;
        }
        Some(Box::new(Self {
            payload_is_utf8: *payload_is_utf8,
            response_topic: response_topic.map(Into::into),
            correlation_data: correlation_data.map(Into::into),
            content_type: content_type.map(Into::into),
            user_properties: user_properties.clone().into_owned(),
        }))
    }

    fn lend(&self) -> PublishProperties<'_> {
        PublishProperties {
            payload_is_utf8: self.payload_is_utf8,
            response_topic: self.response_topic.as_deref(),
            correlation_data: self.correlation_data.as_deref(),
            content_type: self.content_type.as_deref(),
            user_properties: self.user_properties.borrowed(),
            ..PublishProperties::default()
        }
    }

    fn size(&self) -> usize {
        size_of::<Self>()
            + self.response_topic.as_deref().map_or(0, str::len)
            + self.correlation_data.as_deref().map_or(0, <[u8]>::len)
            + self.content_type.as_deref().map_or(0, str::len)
            + self.user_properties.as_wire().len()
    }
}

/// `None` also for a moment that the clock can't express: that message outlives this process.
fn expiry(interval: Option<u32>, now: Instant) -> Option<Instant> {
    now.checked_add(Duration::from_secs(interval?.into()))
}

/// A will as the session keeps it, and as [`Farewell`](crate::Farewell) hands it over when its connection ended
/// without a good-bye.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueWill {
    /// Without expiry, which starts when the will is published.
    message: Message,
    expiry_interval: Option<u32>,
    pub(crate) delay: Duration,
}

impl DueWill {
    pub(crate) fn new(will: &Will<'_>) -> Self {
        Self {
            message: Message {
                properties: Properties::of(&will.properties),
                ..Message::new(will.topic, will.payload, will.qos, will.retain)
            },
            expiry_interval: will.properties.message_expiry_interval,
            delay: Duration::from_secs(will.delay_interval.into()),
        }
    }

    /// Returns the will with that message, whose expiry does not count, Message Expiry Interval in seconds, and delay:
    /// what a store does when it gives a will back.
    pub fn from_parts(message: Message, expiry_interval: Option<u32>, delay: Duration) -> Self {
        Self { message: message.with_expiry(None), expiry_interval, delay }
    }

    /// Returns the message, without expiry.
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// Returns the Message Expiry Interval, in seconds from the publication of the will.
    pub fn expiry_interval(&self) -> Option<u32> {
        self.expiry_interval
    }

    /// Returns how long after the end of the connection the will is due: its Will Delay Interval, or the rest of the
    /// session's life if that is shorter [MQTT5-3.1.2-8]. A new connection of the session before that cancels the
    /// will [MQTT5-3.1.3-9].
    pub fn delay(&self) -> Duration {
        self.delay
    }

    /// Returns the topic, on which the right to publish is checked again.
    pub fn topic(&self) -> &str {
        self.message.topic()
    }

    /// Returns the will as a message published at `now`.
    pub fn into_message(self, now: Instant) -> Message {
        Message { expires_at: expiry(self.expiry_interval, now), ..self.message }
    }
}
