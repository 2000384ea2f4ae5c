//! MQTT 5 properties as a rule sees them.

use std::borrow::Cow;
use std::fmt;

use crate::value::{Map, Value};

pub(super) const USER_PROPERTY: &str = "User-Property";

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
pub(super) fn property_map(properties: &dyn Properties) -> Value<'_> {
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
