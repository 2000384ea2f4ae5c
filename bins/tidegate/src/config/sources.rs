//! `[[sources]]`: Kafka topics that become MQTT messages.

use std::fmt;
use std::time::UNIX_EPOCH;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use tidegate_kafka::{SourceConfig, Start};

use super::topics::QosSetting;
use super::{Period, Size};

/// `[[sources]]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SourceSettings {
    /// A name of your choice, for metrics and logs.
    pub(crate) id: String,
    /// A name from `[kafka.NAME]`, or `embedded`. May be left out where there is one.
    #[serde(default)]
    pub(crate) kafka: Option<String>,
    /// Kafka topics to read.
    pub(crate) topics: Vec<String>,
    /// The consumer group. Brokers with one group share the partitions.
    pub(crate) group: String,
    /// Where a partition begins for which the group has committed nothing.
    #[serde(default)]
    pub(crate) start: StartSetting,
    /// The MQTT topic, with `${topic}`, `${key}` and the like.
    pub(crate) mqtt_topic: String,
    /// The MQTT payload.
    #[serde(default = "value")]
    pub(crate) payload: String,
    #[serde(default = "at_least_once")]
    pub(crate) qos: QosSetting,
    #[serde(default)]
    pub(crate) retain: bool,
    /// Whether headers, and the key as `kafka.key`, become user properties.
    #[serde(default = "yes")]
    pub(crate) headers_as_user_properties: bool,
    /// What happens to `+`, `#` and NUL that a record brings into a topic.
    #[serde(default)]
    pub(crate) unsafe_characters: UnsafeCharacters,
    /// Whether rules see the messages.
    #[serde(default)]
    pub(crate) rules: bool,
    /// Whether records that this broker made are kept from coming back.
    #[serde(default = "yes")]
    pub(crate) loop_guard: bool,
    /// How long a message waits for a subscriber that is behind.
    #[serde(default = "ten_seconds")]
    pub(crate) slow_subscriber_wait: Period,
    #[serde(default = "five_seconds")]
    pub(crate) commit_interval: Period,
    /// How long the group waits for a member that is silent.
    #[serde(default = "ten_seconds")]
    pub(crate) session_timeout: Period,
    /// Memory for records that were fetched and are not handed over.
    #[serde(default = "sixteen_mebibytes")]
    pub(crate) buffer: Size,
}

fn value() -> String {
    "${value}".to_owned()
}

fn at_least_once() -> QosSetting {
    QosSetting::AT_LEAST_ONCE
}

fn yes() -> bool {
    true
}

fn five_seconds() -> Period {
    Period::seconds(5)
}

fn ten_seconds() -> Period {
    Period::seconds(10)
}

fn sixteen_mebibytes() -> Size {
    Size::mebibytes(16)
}

/// What happens to characters that a topic name must not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum UnsafeCharacters {
    /// The record is skipped and counted.
    #[default]
    Skip,
    /// Each becomes `_`.
    Replace,
}

impl SourceSettings {
    /// The part of the settings that is for the consumer group.
    pub(crate) fn source_config(&self) -> SourceConfig {
        let session_timeout = self.session_timeout.get();
        let defaults = SourceConfig::new(self.topics.clone(), &self.group);
        SourceConfig {
            start: self.start.0,
            commit_interval: self.commit_interval.get(),
            session_timeout,
            heartbeat_interval: defaults.heartbeat_interval.min(session_timeout / 3),
            buffer_bytes: self.buffer.as_usize(),
            ..defaults
        }
    }
}

/// Where to begin: `"committed"`, `"earliest"`, `"latest"`, or a time such as `"2026-11-28T08:00:00Z"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct StartSetting(Start);

impl Serialize for StartSetting {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Start::Committed => serializer.serialize_str("committed"),
            Start::Earliest => serializer.serialize_str("earliest"),
            Start::Latest => serializer.serialize_str("latest"),
            Start::At { unix_ms } => {
                let since = std::time::Duration::from_millis(u64::try_from(unix_ms).unwrap_or(0));
                serializer.collect_str(&humantime::format_rfc3339_millis(UNIX_EPOCH + since))
            }
        }
    }
}

impl<'de> Deserialize<'de> for StartSetting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(StartText)
    }
}

struct StartText;

impl Visitor<'_> for StartText {
    type Value = StartSetting;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "\"committed\", \"earliest\", \"latest\", or a time in UTC such as \"2026-11-28T08:00:00Z\"",
        )
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<StartSetting, E> {
        let start = match text {
            "committed" => Start::Committed,
            "earliest" => Start::Earliest,
            "latest" => Start::Latest,
            _ => {
                let time = humantime::parse_rfc3339_weak(text).ok();
                let since = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
                let unix_ms = since.and_then(|since| i64::try_from(since.as_millis()).ok());
                let unix_ms = unix_ms.ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))?;
                Start::At { unix_ms }
            }
        };
        Ok(StartSetting(start))
    }
}
