//! What a run is to do: parsed, checked, and the same for every thread.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tidegate_codec::{
    Connect, EncodeError, Packet, PacketId, Publish, QoS, Subscribe, SubscribeFilter, UserProperties, Version,
};
use tidegate_ledger::file::Writer;

use super::payload::{Payload, Stamp};

/// The first packet identifier, and the one after the last.
pub(super) const FIRST_PACKET_ID: PacketId = PacketId(std::num::NonZeroU16::MIN);

/// A run.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The brokers, at least one; devices take them in turn.
    pub(crate) targets: Vec<SocketAddr>,
    /// How many devices there are, numbered from `first_id`.
    pub(crate) clients: u32,
    pub(crate) first_id: u32,
    /// Connections begun a second, over all threads.
    pub(crate) connect_rate: f64,
    /// From the first SYN to CONNACK.
    pub(crate) connect_timeout: Duration,
    pub(crate) version: Version,
    /// Seconds; 0 turns it off.
    pub(crate) keep_alive: u16,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) traffic: Traffic,
    /// How long the devices publish, or stay silent; `None` until each has sent its count.
    pub(crate) duration: Option<Duration>,
    /// How long the last acknowledgements are waited for.
    pub(crate) drain: Duration,
    /// Of each process.
    pub(crate) threads: usize,
    pub(crate) processes: u16,
    /// Source addresses, taken in turn; none leaves the choice to the kernel.
    pub(crate) sources: Vec<IpAddr>,
    /// Where what was sent and acknowledged is noted; each process has its own.
    pub(crate) ledger: Option<Arc<Writer>>,
}

/// What the devices do once they are connected.
#[derive(Debug, Clone)]
pub(crate) enum Traffic {
    /// Nothing but PINGREQ.
    Silent,
    Publish(Publishing),
    /// All lose their connections, and come back.
    Storm(Storm),
}

/// How devices come back that lost their connections all at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Storm {
    /// Connections begun a second, over all threads; `None` for all at once.
    pub(crate) rate: Option<f64>,
    /// How long a device waits before it tries again, when it was not let in.
    pub(crate) retry: Duration,
}

/// What is published.
#[derive(Debug, Clone)]
pub(crate) struct Publishing {
    pub(crate) topic: TopicTemplate,
    pub(crate) qos: QoS,
    pub(crate) payload: Payload,
    /// Messages of each device; `None` for as long as the run lasts.
    pub(crate) count: Option<u64>,
    /// How many messages of a device may be unacknowledged at once.
    pub(crate) window: u16,
    pub(crate) pace: Pace,
    /// Who hears it; `None` where nobody subscribes and every device publishes on its own topic.
    pub(crate) audience: Option<Audience>,
}

/// Who of the devices publishes, and who hears whom. The publishers come first, the subscribers behind them; each of
/// both takes the topics in turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Audience {
    pub(crate) publishers: u32,
    pub(crate) subscribers: u32,
    pub(crate) topics: u32,
}

impl Audience {
    /// Returns the interval of each publisher that leads to that many deliveries a second in all, rounded to the
    /// timer's nanosecond.
    pub(crate) fn interval(self, deliveries_per_second: f64) -> Duration {
        let deliveries = f64::from(self.publishers) * f64::from(self.subscribers) / f64::from(self.topics);
        Duration::try_from_secs_f64(deliveries / deliveries_per_second)
            .unwrap_or(Duration::MAX)
            .max(Duration::from_nanos(1))
    }

    /// How many subscribers hear a topic, counted from 0.
    fn hearers(self, topic: u32) -> u32 {
        self.subscribers.saturating_sub(topic).div_ceil(self.topics)
    }
}

/// What one device has to do in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) role: Role,
    /// What `{id}` stands for in its topic.
    pub(super) topic: u32,
    /// How many subscribers each of its messages goes to.
    pub(super) hearers: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Silent,
    Publisher,
    Subscriber,
}

/// When a device publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// At this interval, whatever the broker does; a message whose turn comes while the window is full is left out.
    Every(Duration),
    /// As fast as the window allows.
    Window,
}

impl Plan {
    /// Returns the broker of the device with that number.
    pub(super) fn target(&self, number: u32) -> SocketAddr {
        self.targets[number as usize % self.targets.len()]
    }

    /// Returns how many devices publish.
    pub(crate) fn publishers(&self) -> u32 {
        match &self.traffic {
            Traffic::Publish(Publishing { audience: Some(audience), .. }) => audience.publishers,
            Traffic::Publish(_) => self.clients,
            Traffic::Silent | Traffic::Storm(_) => 0,
        }
    }

    /// Returns who hears whom, where somebody does.
    pub(crate) fn audience(&self) -> Option<Audience> {
        match &self.traffic {
            Traffic::Publish(publishing) => publishing.audience,
            Traffic::Silent | Traffic::Storm(_) => None,
        }
    }

    /// Returns how many deliveries may be on their way at once, where the window sets the pace.
    pub(super) fn deliveries_at_once(&self) -> Option<i64> {
        let Traffic::Publish(Publishing { audience: Some(audience), pace: Pace::Window, window, .. }) =
            &self.traffic
        else {
            return None;
        };
        Some(i64::from(audience.subscribers) * i64::from(*window))
    }

    /// Returns the part of the device at that place, counted from 0.
    pub(super) fn part(&self, place: u32) -> Part {
        let Some(audience) = self.audience() else {
            let role =
                if matches!(self.traffic, Traffic::Publish(_)) { Role::Publisher } else { Role::Silent };
            return Part { role, topic: self.first_id + place, hearers: 0 };
        };
        let (role, own) = match place.checked_sub(audience.publishers) {
            None => (Role::Publisher, place),
            Some(own) => (Role::Subscriber, own),
        };
        let topic = own % audience.topics;
        // With the first number, so that generators side by side do not hear one another.
        Part { role, topic: self.first_id + topic, hearers: audience.hearers(topic) }
    }

    /// Appends the SUBSCRIBE of a device.
    pub(super) fn encode_subscribe(&self, topic: u32, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let Traffic::Publish(publishing) = &self.traffic else { return Ok(()) };
        let mut filter = String::new();
        publishing.topic.write(topic, &mut filter);
        let subscribe = Subscribe {
            packet_id: FIRST_PACKET_ID,
            subscription_identifier: None,
            user_properties: UserProperties::default(),
            filters: vec![SubscribeFilter::new(&filter, publishing.qos)],
        };
        Packet::Subscribe(Box::new(subscribe)).encode(self.version, out)
    }

    /// Appends the CONNECT of a device.
    pub(super) fn encode_connect(&self, number: u32, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let client_id = format!("bench-{number}");
        let mut connect = Connect::new(self.version, &client_id);
        connect.keep_alive = self.keep_alive;
        connect.username = self.username.as_deref();
        connect.password = self.password.as_deref().map(str::as_bytes);
        connect.encode(out)
    }
}

/// A topic in which `{id}` stands for a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TopicTemplate {
    before: String,
    after: Option<String>,
}

/// Not a topic that can be published to.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{0:?} is not a topic to publish to: it may not be empty, nor hold +, # or a zero byte, and {{id}} only once"
)]
pub(crate) struct TopicError(String);

impl TopicTemplate {
    /// Reads a template such as `fleet/{id}`.
    pub(crate) fn parse(text: &str) -> Result<Self, TopicError> {
        let template = match text.split_once("{id}") {
            Some((before, after)) => Self { before: before.to_owned(), after: Some(after.to_owned()) },
            None => Self { before: text.to_owned(), after: None },
        };
        let again = template.after.as_deref().is_some_and(|after| after.contains("{id}"));
        // A topic is at most 65,535 bytes long, and a number takes up to ten.
        if text.is_empty() || text.contains(['+', '#', '\0']) || again || text.len() > 65_520 {
            return Err(TopicError(text.to_owned()));
        }
        Ok(template)
    }

    /// Whether it differs from number to number.
    pub(crate) fn has_number(&self) -> bool {
        self.after.is_some()
    }

    /// Replaces `out` by the topic with that number.
    fn write(&self, number: u32, out: &mut String) {
        use std::fmt::Write as _;
        out.clear();
        out.push_str(&self.before);
        if let Some(after) = &self.after {
            write!(out, "{number}").expect("a String takes everything");
            out.push_str(after);
        }
    }
}

/// Encodes the messages of a thread's devices: topic and payload are prepared, only what differs is written.
#[derive(Debug)]
pub(super) struct Press {
    publishing: Publishing,
    version: Version,
    topic: String,
}

impl Press {
    pub(super) fn new(publishing: &Publishing, version: Version) -> Self {
        Self { publishing: publishing.clone(), version, topic: String::new() }
    }

    pub(super) fn publishing(&self) -> &Publishing {
        &self.publishing
    }

    /// Appends a PUBLISH, whose identifier is left out at QoS 0.
    pub(super) fn publish(
        &mut self,
        stamp: Stamp,
        topic_number: u32,
        packet_id: PacketId,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        let Publishing { topic, qos, payload, .. } = &mut self.publishing;
        topic.write(topic_number, &mut self.topic);
        let packet = Publish {
            qos: *qos,
            topic: &self.topic,
            packet_id: (*qos != QoS::AtMostOnce).then_some(packet_id),
            payload: payload.stamp(stamp),
            ..Publish::default()
        };
        Packet::Publish(packet).encode(self.version, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subscriber_is_counted_for_the_topic_that_it_hears() {
        for (subscribers, topics) in [(10, 1), (10, 3), (2, 5), (0, 4), (7, 7)] {
            let audience = Audience { publishers: 1, subscribers, topics };
            for topic in 0..topics {
                let heard = (0..subscribers).filter(|own| own % topics == topic).count();
                assert_eq!(audience.hearers(topic) as usize, heard, "{audience:?}, topic {topic}");
            }
        }
    }

    #[test]
    fn a_topic_names_its_device_once_or_not_at_all() {
        let mut out = "old".to_owned();
        TopicTemplate::parse("fleet/{id}/up").unwrap().write(17, &mut out);
        assert_eq!(out, "fleet/17/up");
        TopicTemplate::parse("all").unwrap().write(17, &mut out);
        assert_eq!(out, "all");
        for wrong in ["", "a/+", "#", "{id}/{id}", "a\0b"] {
            assert_eq!(TopicTemplate::parse(wrong), Err(TopicError(wrong.to_owned())));
        }
    }
}
