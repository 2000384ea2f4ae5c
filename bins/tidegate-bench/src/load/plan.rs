//! What a run is to do: parsed, checked, and the same for every thread.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use thiserror::Error;
use tidegate_codec::{Connect, EncodeError, Packet, PacketId, Publish, QoS, Version};

use super::payload::{Payload, Stamp};

/// A run.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) target: SocketAddr,
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
    pub(crate) threads: usize,
    /// Source addresses, taken in turn; none leaves the choice to the kernel.
    pub(crate) sources: Vec<IpAddr>,
}

/// What the devices do once they are connected.
#[derive(Debug, Clone)]
pub(crate) enum Traffic {
    /// Nothing but PINGREQ.
    Silent,
    Publish(Publishing),
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

/// A topic in which `{id}` stands for the device's number.
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

    /// Replaces `out` by the topic of that device.
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
        packet_id: PacketId,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        let Publishing { topic, qos, payload, .. } = &mut self.publishing;
        topic.write(stamp.publisher, &mut self.topic);
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
