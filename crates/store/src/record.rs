//! What the log consists of: steps of sessions, messages under numbers, retained topics; and their bytes.

use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::time::Duration;

use tidegate_codec::{
    PacketId, Publish, PublishProperties, QoS, RetainHandling, SubscribeOptions, UserProperties,
};
use tidegate_session::{DeliveryNumber, DueWill, Expiry, Identifiers, Message, Subscription};

use crate::SessionKey;
use crate::clock::{Moment, Now, milliseconds};
use crate::fields::{Fields, put_bytes, put_number, put_option};

/// Names a message in the log; never used again.
pub(crate) type MessageNumber = u64;

/// Names a segment; the log goes on in the next.
pub(crate) type SegmentNumber = u64;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Record {
    /// A message that others refer to.
    Message { number: MessageNumber, message: Arc<Message> },
    /// The message is the retained one of its topic, which is said because it may stand further on.
    Retained { topic: Box<str>, number: MessageNumber },
    /// The topic has no retained message any more.
    Unretained { topic: Box<str> },
    /// The process started. Conversations that nobody ended are over, and what was on its way to a session is in its
    /// queue.
    Started { at: Moment },
    /// Something of a session.
    Session { key: SessionKey, step: Step },
}

/// A [`Change`](tidegate_session::Change) with references in place of messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Began {
        client_id: Box<str>,
    },
    Connected {
        expiry: Expiry,
        will: Option<Box<DueWill>>,
    },
    Disconnected {
        at: Moment,
        expiry: Expiry,
        will: Option<Box<DueWill>>,
    },
    WillDone,
    Ended,
    Subscribed {
        filter: Box<str>,
        subscription: Subscription,
    },
    Unsubscribed {
        filter: Box<str>,
    },
    Posted {
        number: DeliveryNumber,
        delivery: Reference,
    },
    Queued {
        number: DeliveryNumber,
        delivery: Reference,
    },
    /// Without a delivery it was released before.
    Sent {
        number: Option<DeliveryNumber>,
        packet_id: PacketId,
        delivery: Option<Reference>,
    },
    Dropped {
        number: DeliveryNumber,
    },
    Released {
        packet_id: PacketId,
    },
    Completed {
        packet_id: PacketId,
    },
    Received {
        packet_id: PacketId,
    },
    Forgotten {
        packet_id: PacketId,
    },
}

/// A [`Delivery`](tidegate_session::Delivery) of a message that stands elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    pub(crate) message: MessageNumber,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) identifiers: Identifiers,
}

/// The first byte of each record. Numbers are never given a new meaning.
mod tag {
    pub(super) const MESSAGE: u8 = 1;
    pub(super) const RETAINED: u8 = 2;
    pub(super) const UNRETAINED: u8 = 3;
    pub(super) const STARTED: u8 = 4;
    pub(super) const BEGAN: u8 = 16;
    pub(super) const CONNECTED: u8 = 17;
    pub(super) const DISCONNECTED: u8 = 18;
    pub(super) const WILL_DONE: u8 = 19;
    pub(super) const ENDED: u8 = 20;
    pub(super) const SUBSCRIBED: u8 = 21;
    pub(super) const UNSUBSCRIBED: u8 = 22;
    pub(super) const POSTED: u8 = 23;
    pub(super) const QUEUED: u8 = 24;
    pub(super) const SENT: u8 = 25;
    pub(super) const DROPPED: u8 = 26;
    pub(super) const RELEASED: u8 = 27;
    pub(super) const COMPLETED: u8 = 28;
    pub(super) const RECEIVED: u8 = 29;
    pub(super) const FORGOTTEN: u8 = 30;
}

impl Record {
    /// Appends the record. `now` turns deadlines into moments of the store's clock.
    pub(crate) fn put(&self, now: Now, out: &mut Vec<u8>) {
        match self {
            Self::Message { number, message } => {
                out.push(tag::MESSAGE);
                put_number(out, *number);
                put_message(out, message, now);
            }
            Self::Retained { topic, number } => {
                out.push(tag::RETAINED);
                put_bytes(out, topic.as_bytes());
                put_number(out, *number);
            }
            Self::Unretained { topic } => {
                out.push(tag::UNRETAINED);
                put_bytes(out, topic.as_bytes());
            }
            Self::Started { at } => {
                out.push(tag::STARTED);
                put_number(out, at.0);
            }
            Self::Session { key, step } => step.put(*key, now, out),
        }
    }

    /// Reads the next record; `None` for bytes that are none.
    pub(crate) fn read(fields: &mut Fields<'_>, now: Now) -> Option<Self> {
        Some(match fields.byte()? {
            tag::MESSAGE => {
                Self::Message { number: fields.number()?, message: Arc::new(read_message(fields, now)?) }
            }
            tag::RETAINED => Self::Retained { topic: fields.text()?.into(), number: fields.number()? },
            tag::UNRETAINED => Self::Unretained { topic: fields.text()?.into() },
            tag::STARTED => Self::Started { at: Moment(fields.number()?) },
            tag => {
                let key = SessionKey(fields.number()?);
                Self::Session { key, step: Step::read(tag, fields, now)? }
            }
        })
    }
}

impl Step {
    /// Appends a [`Record::Session`].
    pub(crate) fn put(&self, key: SessionKey, now: Now, out: &mut Vec<u8>) {
        let head = |out: &mut Vec<u8>, tag| {
            out.push(tag);
            put_number(out, key.0);
        };
        let identified = |out: &mut Vec<u8>, tag, packet_id| {
            head(out, tag);
            put_packet_id(out, packet_id);
        };
        match self {
            Self::Began { client_id } => {
                head(out, tag::BEGAN);
                put_bytes(out, client_id.as_bytes());
            }
            Self::Connected { expiry, will } => {
                head(out, tag::CONNECTED);
                put_expiry(out, *expiry);
                put_option(out, will.as_deref(), |out, will| put_will(out, will, now));
            }
            Self::Disconnected { at, expiry, will } => {
                head(out, tag::DISCONNECTED);
                put_number(out, at.0);
                put_expiry(out, *expiry);
                put_option(out, will.as_deref(), |out, will| put_will(out, will, now));
            }
            Self::WillDone => head(out, tag::WILL_DONE),
            Self::Ended => head(out, tag::ENDED),
            Self::Subscribed { filter, subscription } => {
                head(out, tag::SUBSCRIBED);
                put_bytes(out, filter.as_bytes());
                put_subscription(out, *subscription);
            }
            Self::Unsubscribed { filter } => {
                head(out, tag::UNSUBSCRIBED);
                put_bytes(out, filter.as_bytes());
            }
            Self::Posted { number, delivery } => {
                head(out, tag::POSTED);
                put_delivery_number(out, *number);
                put_reference(out, delivery);
            }
            Self::Queued { number, delivery } => {
                head(out, tag::QUEUED);
                put_delivery_number(out, *number);
                put_reference(out, delivery);
            }
            Self::Sent { number, packet_id, delivery } => {
                identified(out, tag::SENT, *packet_id);
                put_option(out, *number, put_delivery_number);
                put_option(out, delivery.as_ref(), put_reference);
            }
            Self::Dropped { number } => {
                head(out, tag::DROPPED);
                put_delivery_number(out, *number);
            }
            Self::Released { packet_id } => identified(out, tag::RELEASED, *packet_id),
            Self::Completed { packet_id } => identified(out, tag::COMPLETED, *packet_id),
            Self::Received { packet_id } => identified(out, tag::RECEIVED, *packet_id),
            Self::Forgotten { packet_id } => identified(out, tag::FORGOTTEN, *packet_id),
        }
    }

    fn read(tag: u8, fields: &mut Fields<'_>, now: Now) -> Option<Self> {
        let will = |fields: &mut Fields<'_>| fields.option(|fields| read_will(fields, now).map(Box::new));
        Some(match tag {
            tag::BEGAN => Self::Began { client_id: fields.text()?.into() },
            tag::CONNECTED => Self::Connected { expiry: read_expiry(fields)?, will: will(fields)? },
            tag::DISCONNECTED => Self::Disconnected {
                at: Moment(fields.number()?),
                expiry: read_expiry(fields)?,
                will: will(fields)?,
            },
            tag::WILL_DONE => Self::WillDone,
            tag::ENDED => Self::Ended,
            tag::SUBSCRIBED => {
                Self::Subscribed { filter: fields.text()?.into(), subscription: read_subscription(fields)? }
            }
            tag::UNSUBSCRIBED => Self::Unsubscribed { filter: fields.text()?.into() },
            tag::POSTED => {
                Self::Posted { number: read_delivery_number(fields)?, delivery: read_reference(fields)? }
            }
            tag::QUEUED => {
                Self::Queued { number: read_delivery_number(fields)?, delivery: read_reference(fields)? }
            }
            tag::SENT => Self::Sent {
                packet_id: read_packet_id(fields)?,
                number: fields.option(read_delivery_number)?,
                delivery: fields.option(read_reference)?,
            },
            tag::DROPPED => Self::Dropped { number: read_delivery_number(fields)? },
            tag::RELEASED => Self::Released { packet_id: read_packet_id(fields)? },
            tag::COMPLETED => Self::Completed { packet_id: read_packet_id(fields)? },
            tag::RECEIVED => Self::Received { packet_id: read_packet_id(fields)? },
            tag::FORGOTTEN => Self::Forgotten { packet_id: read_packet_id(fields)? },
            _ => return None,
        })
    }
}

fn put_packet_id(out: &mut Vec<u8>, packet_id: PacketId) {
    put_number(out, packet_id.get().into());
}

fn read_packet_id(fields: &mut Fields<'_>) -> Option<PacketId> {
    PacketId::new(u16::try_from(fields.number()?).ok()?)
}

fn put_delivery_number(out: &mut Vec<u8>, number: DeliveryNumber) {
    put_number(out, NonZeroU64::from(number).get());
}

fn read_delivery_number(fields: &mut Fields<'_>) -> Option<DeliveryNumber> {
    NonZeroU64::new(fields.number()?).map(DeliveryNumber::from)
}

/// 0: with the connection; 1: never; otherwise milliseconds and two.
fn put_expiry(out: &mut Vec<u8>, expiry: Expiry) {
    put_number(
        out,
        match expiry {
            Expiry::Now => 0,
            Expiry::Never => 1,
            Expiry::After(after) => milliseconds(after).saturating_add(2),
        },
    );
}

fn read_expiry(fields: &mut Fields<'_>) -> Option<Expiry> {
    Some(match fields.number()? {
        0 => Expiry::Now,
        1 => Expiry::Never,
        milliseconds => Expiry::After(Duration::from_millis(milliseconds - 2)),
    })
}

/// QoS in bits 0 and 1, No Local in bit 2, Retain As Published in bit 3, Retain Handling in bits 4 and 5.
fn put_subscription(out: &mut Vec<u8>, subscription: Subscription) {
    let SubscribeOptions { qos, no_local, retain_as_published, retain_handling } = subscription.options;
    let handling = match retain_handling {
        RetainHandling::Send => 0,
        RetainHandling::SendIfNew => 1,
        RetainHandling::DoNotSend => 2,
    };
    out.push(qos.as_u8() | u8::from(no_local) << 2 | u8::from(retain_as_published) << 3 | handling << 4);
    put_number(out, subscription.identifier.map_or(0, NonZeroU32::get).into());
}

fn read_subscription(fields: &mut Fields<'_>) -> Option<Subscription> {
    let flags = fields.byte()?;
    let options = SubscribeOptions {
        qos: QoS::from_u8(flags & 3)?,
        no_local: flags & 4 != 0,
        retain_as_published: flags & 8 != 0,
        retain_handling: match flags >> 4 {
            0 => RetainHandling::Send,
            1 => RetainHandling::SendIfNew,
            2 => RetainHandling::DoNotSend,
            _ => return None,
        },
    };
    let identifier = NonZeroU32::new(u32::try_from(fields.number()?).ok()?);
    Some(Subscription { options, identifier })
}

/// QoS in bits 0 and 1, the retain flag in bit 2; then how many identifiers there are, and each.
fn put_reference(out: &mut Vec<u8>, reference: &Reference) {
    put_number(out, reference.message);
    out.push(reference.qos.as_u8() | u8::from(reference.retain) << 2);
    let identifiers: &[NonZeroU32] = match &reference.identifiers {
        Identifiers::None => &[],
        Identifiers::One(identifier) => std::slice::from_ref(identifier),
        Identifiers::Many(identifiers) => identifiers,
    };
    put_number(out, identifiers.len() as u64);
    for identifier in identifiers {
        put_number(out, identifier.get().into());
    }
}

fn read_reference(fields: &mut Fields<'_>) -> Option<Reference> {
    let message = fields.number()?;
    let flags = fields.byte()?;
    let count = fields.number()?;
    let identifiers = (0..count).map(|_| NonZeroU32::new(u32::try_from(fields.number()?).ok()?));
    Some(Reference {
        message,
        identifiers: identifiers.collect::<Option<Identifiers>>()?,
        qos: QoS::from_u8(flags & 3)?,
        retain: flags & 4 != 0,
    })
}

/// QoS in bits 0 and 1, the retain flag in bit 2, in bit 3 whether there are properties beside the expiry.
fn put_message(out: &mut Vec<u8>, message: &Message, now: Now) {
    let Publish { topic, payload, properties, .. } = message.as_publish(now.instant);
    let PublishProperties {
        payload_is_utf8,
        response_topic,
        correlation_data,
        content_type,
        user_properties,
        // In whole seconds; the moment below is exact.
        message_expiry_interval: _,
        topic_alias: _,
        subscription_identifiers: _,
    } = properties;
    let has_properties = payload_is_utf8.is_some()
        || response_topic.is_some()
        || correlation_data.is_some()
        || content_type.is_some()
        || !user_properties.is_empty();
    out.push(message.qos().as_u8() | u8::from(message.retain()) << 2 | u8::from(has_properties) << 3);
    put_option(out, message.expires_at(), |out, at| put_number(out, now.to_moment(at).0));
    put_bytes(out, topic.as_bytes());
    if has_properties {
        put_option(out, payload_is_utf8, |out, is_utf8| out.push(u8::from(is_utf8)));
        put_option(out, response_topic, |out, topic| put_bytes(out, topic.as_bytes()));
        put_option(out, correlation_data, put_bytes);
        put_option(out, content_type, |out, text| put_bytes(out, text.as_bytes()));
        put_bytes(out, user_properties.as_wire());
    }
    put_bytes(out, payload);
}

fn read_message(fields: &mut Fields<'_>, now: Now) -> Option<Message> {
    let flags = fields.byte()?;
    // A moment that the monotonic clock can't express outlives this process.
    let expires_at = fields.option(Fields::number)?.and_then(|at| now.to_instant(Moment(at)));
    let topic = fields.text()?;
    let mut properties = PublishProperties::default();
    if flags & 8 != 0 {
        properties.payload_is_utf8 = fields.option(|fields| Some(fields.byte()? != 0))?;
        properties.response_topic = fields.option(Fields::text)?;
        properties.correlation_data = fields.option(Fields::bytes)?;
        properties.content_type = fields.option(Fields::text)?;
        properties.user_properties = UserProperties::from_wire(fields.bytes()?).ok()?;
    }
    let publish = Publish {
        qos: QoS::from_u8(flags & 3)?,
        retain: flags & 4 != 0,
        payload: fields.bytes()?,
        properties,
        ..Publish::default()
    };
    Some(Message::from_publish(topic, &publish, now.instant).with_expiry(expires_at))
}

fn put_will(out: &mut Vec<u8>, will: &DueWill, now: Now) {
    put_message(out, will.message(), now);
    put_option(out, will.expiry_interval(), |out, seconds| put_number(out, seconds.into()));
    put_number(out, milliseconds(will.delay()));
}

fn read_will(fields: &mut Fields<'_>, now: Now) -> Option<DueWill> {
    let message = read_message(fields, now)?;
    let expiry_interval = fields.option(|fields| u32::try_from(fields.number()?).ok())?;
    Some(DueWill::from_parts(message, expiry_interval, Duration::from_millis(fields.number()?)))
}
