//! `[[rules.outputs]]` and `[rule_engine]`: what becomes of the rows of rules, and what rules may use.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tidegate_broker::RuleOptions;
use tidegate_rules::{EvalLimits, StateLimits};

use super::{Period, Size};

/// `[[rules.outputs]]`: the keys of all kinds; each kind has some of them.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct OutputSettings {
    /// Where rows go. `kafka` where it is left out.
    pub(crate) kind: Option<OutputKind>,
    /// A name from `[kafka.NAME]`, or `embedded`. May be left out where there is one.
    pub(crate) kafka: Option<String>,
    pub(crate) topic: Option<String>,
    pub(crate) key: Option<String>,
    pub(crate) value: Option<String>,
    pub(crate) headers: Option<BTreeMap<String, String>>,
    pub(crate) default_headers: Option<bool>,
    pub(crate) payload: Option<String>,
    pub(crate) qos: Option<u8>,
    pub(crate) retain: Option<bool>,
    /// MQTT 5: how long the message may wait for its subscribers.
    pub(crate) message_expiry: Option<Period>,
    pub(crate) content_type: Option<String>,
    pub(crate) response_topic: Option<String>,
    pub(crate) correlation_data: Option<String>,
    /// Whether the user properties of the message that the rule read go along.
    pub(crate) pass_user_properties: Option<bool>,
    pub(crate) user_properties: Option<BTreeMap<String, String>>,
}

/// Where the rows of a rule go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OutputKind {
    /// Records of a Kafka topic.
    Kafka,
    /// Messages of this broker.
    Republish,
    /// Lines of the standard output.
    Console,
    /// Nowhere.
    Discard,
}

impl OutputKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::Republish => "republish",
            Self::Console => "console",
            Self::Discard => "discard",
        }
    }
}

impl OutputSettings {
    pub(crate) fn kind(&self) -> OutputKind {
        self.kind.unwrap_or(OutputKind::Kafka)
    }

    /// The keys that are written and mean nothing in an output of this kind, each with the kinds that have it.
    pub(crate) fn misplaced(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        use OutputKind::{Console, Kafka, Republish};
        let kind = self.kind();
        let keys: [(&str, bool, &[OutputKind]); 15] = [
            ("kafka", self.kafka.is_some(), &[Kafka]),
            ("topic", self.topic.is_some(), &[Kafka, Republish]),
            ("key", self.key.is_some(), &[Kafka]),
            ("value", self.value.is_some(), &[Kafka, Console]),
            ("headers", self.headers.is_some(), &[Kafka]),
            ("default_headers", self.default_headers.is_some(), &[Kafka]),
            ("payload", self.payload.is_some(), &[Republish]),
            ("qos", self.qos.is_some(), &[Republish]),
            ("retain", self.retain.is_some(), &[Republish]),
            ("message_expiry", self.message_expiry.is_some(), &[Republish]),
            ("content_type", self.content_type.is_some(), &[Republish]),
            ("response_topic", self.response_topic.is_some(), &[Republish]),
            ("correlation_data", self.correlation_data.is_some(), &[Republish]),
            ("pass_user_properties", self.pass_user_properties.is_some(), &[Republish]),
            ("user_properties", self.user_properties.is_some(), &[Republish]),
        ];
        keys.into_iter().filter(move |(_, is_written, kinds)| *is_written && !kinds.contains(&kind)).map(
            |(key, _, kinds)| {
                let of = match kinds {
                    [Kafka] => "kafka",
                    [Republish] => "republish",
                    [Kafka, Console] => "kafka and console",
                    _ => "kafka and republish",
                };
                (key, of)
            },
        )
    }
}

/// `[rule_engine]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RuleEngineSettings {
    /// What rules read in the column `node`.
    pub(crate) node: String,
    /// Steps of one evaluation.
    pub(crate) max_steps: u64,
    /// What one evaluation may make.
    pub(crate) max_output_size: Size,
    /// Keys that one rule remembers.
    pub(crate) max_keys: usize,
    /// Memory of what one rule remembers.
    pub(crate) max_state_size: Size,
    /// Whether what rules remember survives a restart.
    pub(crate) keep_state: bool,
    pub(crate) directory: PathBuf,
    /// From one snapshot of a rule to the next, and how long a message that a window took may wait for its
    /// acknowledgement.
    pub(crate) snapshot_interval: Period,
}

impl Default for RuleEngineSettings {
    fn default() -> Self {
        Self {
            node: "tidegate".to_owned(),
            max_steps: EvalLimits::DEFAULT_STEPS,
            max_output_size: Size::mebibytes(EvalLimits::DEFAULT_BYTES >> 20),
            max_keys: StateLimits::DEFAULT_KEYS,
            max_state_size: Size::mebibytes(StateLimits::DEFAULT_BYTES as u64 >> 20),
            keep_state: true,
            directory: "tidegate-data/rules".into(),
            snapshot_interval: Period::seconds(1),
        }
    }
}

impl RuleEngineSettings {
    /// The broker's part of it.
    pub(crate) fn options(&self) -> RuleOptions {
        RuleOptions {
            evaluation: EvalLimits { steps: self.max_steps, bytes: self.max_output_size.as_u64() },
            state: StateLimits { keys: self.max_keys, bytes: self.max_state_size.as_usize() },
            directory: self.keep_state.then(|| self.directory.clone()),
            snapshot_interval: self.snapshot_interval.get(),
        }
    }
}
