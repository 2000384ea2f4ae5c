//! Messages that rules make: what a row is published as.

use tidegate_codec::{Publish, PublishProperties, QoS, UserProperties};
use tidegate_rules::{Missing, Property, Row, Template};
use tidegate_session::Message;
use tidegate_topic::TopicName;

use crate::pipeline::{bytes_of, cleared};

/// How many rules may republish a message one after the other. One more is refused and counted as `republish_loop`.
pub const MAX_HOPS: u8 = 8;

/// How many messages rules may make of one message, directly and by way of others. Further ones are refused and
/// counted as `republish_limit`.
pub const MAX_REPUBLISHED: usize = 1000;

/// A message that each row of a rule becomes. It goes to subscribers, the retained messages and rules as one of a client
/// does, but for what a [`Config`](crate::Config) says of topics of clients: it is neither rewritten nor denied.
///
/// The message that the rule read is acknowledged when what rules make of this one is safe as well, and when the
/// sessions that keep this one have it on disk.
#[derive(Debug, Clone)]
pub struct Republish {
    /// The topic; a row that lacks a column which it names, and a topic that is none or under `$SYS/`, fail.
    pub topic: Template,
    /// The payload; `None` is the payload where every row has it, and otherwise the whole row as JSON.
    pub payload: Option<Template>,
    /// `None` is that of the message that the rule read, and 0 for other events.
    pub qos: Option<QoS>,
    /// `None` is that of the message that the rule read.
    pub retain: Option<bool>,
    /// The MQTT 5 properties.
    pub properties: RepublishProperties,
}

/// MQTT 5 properties of a message that a rule makes [MQTT5-3.3.2.3].
#[derive(Debug, Clone, Default)]
pub struct RepublishProperties {
    /// Payload Format Indicator.
    pub payload_is_utf8: Option<bool>,
    /// Message Expiry Interval, in seconds.
    pub message_expiry_interval: Option<u32>,
    /// Content Type.
    pub content_type: Option<Template>,
    /// Response Topic; left out where it is no topic.
    pub response_topic: Option<Template>,
    /// Correlation Data.
    pub correlation_data: Option<Template>,
    /// Whether the user properties of the message that the rule read go along.
    pub pass_user_properties: bool,
    /// Further user properties; one for which the row has nothing is left out.
    pub user_properties: Vec<(String, Template)>,
}

impl Republish {
    /// A message of that topic, with what it does not say taken from the message that the rule read.
    pub fn to(topic: Template) -> Self {
        Self { topic, payload: None, qos: None, retain: None, properties: RepublishProperties::default() }
    }

    /// Whether a rule may publish to a topic: it is a topic name, and not one of the broker's own.
    pub fn allows(topic: &str) -> bool {
        topic != "$SYS" && !topic.starts_with("$SYS/") && TopicName::parse(topic).is_ok()
    }

    /// The message that a row becomes, rendered in these buffers.
    ///
    /// # Errors
    /// Why it becomes none, as it is counted.
    pub(crate) fn message(
        &self,
        row: &Row<'_>,
        topic: &mut Vec<u8>,
        payload: &mut Vec<u8>,
    ) -> Result<Message, &'static str> {
        let event = row.event();
        topic.clear();
        self.topic.render(row, Missing::Refuse, topic).map_err(|_| "no_topic")?;
        let topic = std::str::from_utf8(topic).map_err(|_| "invalid_topic")?;
        if !Self::allows(topic) {
            return Err("invalid_topic");
        }
        let payload =
            self.payload.as_ref().and_then(|made| bytes_of(made.render_value(row, cleared(payload))));
        let own = &self.properties;
        let text = |template: &Option<Template>| rendered_text(template.as_ref()?, row);
        let (content_type, response_topic) = (text(&own.content_type), text(&own.response_topic));
        let response_topic = response_topic.filter(|topic| TopicName::parse(topic).is_ok());
        let mut data = Vec::new();
        let correlation_data =
            own.correlation_data.as_ref().and_then(|made| bytes_of(made.render_value(row, &mut data)));
        let publish = Publish {
            qos: self.qos.unwrap_or_else(|| qos_of(event.qos)),
            retain: self.retain.unwrap_or(event.retain),
            topic,
            properties: PublishProperties {
                payload_is_utf8: own.payload_is_utf8,
                message_expiry_interval: own.message_expiry_interval,
                content_type: content_type.as_deref(),
                response_topic: response_topic.as_deref(),
                correlation_data,
                user_properties: self.user_properties(row),
                ..PublishProperties::default()
            },
            payload: payload.unwrap_or_default(),
            ..Publish::default()
        };
        Ok(Message::from_publish(topic, &publish, crate::broker::now()))
    }

    fn user_properties(&self, row: &Row<'_>) -> UserProperties<'static> {
        let mut all = UserProperties::default();
        // A pair that MQTT has no form for, of more than 65,535 bytes or with a zero, is left out.
        if let Some(properties) = row.event().properties.filter(|_| self.properties.pass_user_properties) {
            properties.visit(&mut |property| {
                if let Property::User(name, value) = property {
                    let _ = all.push(name, value);
                }
            });
        }
        for (name, template) in &self.properties.user_properties {
            if let Some(value) = rendered_text(template, row) {
                let _ = all.push(name, &value);
            }
        }
        all
    }
}

/// `None` also where the text can't stand in a packet.
fn rendered_text(template: &Template, row: &Row<'_>) -> Option<String> {
    let mut buffer = Vec::new();
    let text = std::str::from_utf8(bytes_of(template.render_value(row, &mut buffer))?).ok()?;
    (!text.contains('\0') && u16::try_from(text.len()).is_ok()).then(|| text.to_owned())
}

fn qos_of(qos: u8) -> QoS {
    match qos {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    }
}
