//! What is kept, held back, rewritten and given by topic: `[retained]`, `[delayed]`, `[[rewrite]]`,
//! `[[auto_subscribe]]`, and the deny lists of `[mqtt]`.

use serde::{Deserialize, Serialize};
use tidegate_broker::{
    AutoSubscription, DelayedLimits, DenyList, InvalidSetting, QoS, RetainHandling, RetainedLimits, Rewrite,
    RewriteScope, SharedStrategy, SubscribeOptions,
};

use super::error::ConfigErrors;
use super::{MqttSettings, Period, Settings, Size};

/// `[retained]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RetainedSettings {
    pub(crate) max_messages: usize,
    /// Memory of all retained messages.
    pub(crate) max_size: Size,
    pub(crate) max_payload_size: Size,
    /// How often the memory of expired messages is freed.
    pub(crate) sweep_interval: Period,
}

impl Default for RetainedSettings {
    fn default() -> Self {
        Self {
            max_messages: 1_000_000,
            max_size: Size::mebibytes(1024),
            max_payload_size: Size::mebibytes(1),
            sweep_interval: Period::seconds(60),
        }
    }
}

impl RetainedSettings {
    pub(crate) fn limits(&self) -> RetainedLimits {
        RetainedLimits {
            max_messages: self.max_messages,
            max_bytes: self.max_size.as_usize(),
            max_payload_bytes: self.max_payload_size.as_usize(),
            sweep_interval: self.sweep_interval.get(),
        }
    }
}

/// `[delayed]`
#[expect(clippy::struct_field_names, reason = "the keys read as those of the other sections do")]
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct DelayedSettings {
    /// 0 turns delayed publishing off.
    pub(crate) max_messages: usize,
    pub(crate) max_size: Size,
    pub(crate) max_delay: Period,
}

impl Default for DelayedSettings {
    fn default() -> Self {
        Self { max_messages: 100_000, max_size: Size::mebibytes(64), max_delay: Period::seconds(4_294_967) }
    }
}

impl DelayedSettings {
    pub(crate) fn limits(&self) -> DelayedLimits {
        DelayedLimits {
            max_messages: self.max_messages,
            max_bytes: self.max_size.as_usize(),
            max_delay: self.max_delay.get(),
        }
    }
}

/// `[[rewrite]]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RewriteSettings {
    #[serde(default)]
    pub(crate) action: RewriteAction,
    /// A topic filter: what is considered.
    pub(crate) source: String,
    /// A regular expression: what of it is rewritten.
    pub(crate) pattern: String,
    /// With `$1` to `$9` for its groups and `%c` for the client id.
    pub(crate) destination: String,
}

/// What a rewrite is for.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RewriteAction {
    Publish,
    Subscribe,
    #[default]
    All,
}

impl RewriteSettings {
    fn rewrite(&self) -> Result<Rewrite, InvalidSetting> {
        let scope = match self.action {
            RewriteAction::Publish => RewriteScope::Publish,
            RewriteAction::Subscribe => RewriteScope::Subscribe,
            RewriteAction::All => RewriteScope::All,
        };
        Rewrite::new(scope, &self.source, &self.pattern, &self.destination)
    }
}

/// `[[auto_subscribe]]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AutoSubscribeSettings {
    /// With `%c` for the client id and `%u` for the user name.
    pub(crate) filter: String,
    #[serde(default)]
    pub(crate) qos: QosSetting,
    #[serde(default)]
    pub(crate) no_local: bool,
    #[serde(default)]
    pub(crate) retain_as_published: bool,
    #[serde(default)]
    pub(crate) retain_handling: RetainHandlingSetting,
}

/// 0, 1 or 2.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub(crate) struct QosSetting(u8);

impl TryFrom<u8> for QosSetting {
    type Error = &'static str;

    fn try_from(qos: u8) -> Result<Self, Self::Error> {
        if qos <= 2 { Ok(Self(qos)) } else { Err("a QoS is 0, 1 or 2") }
    }
}

impl From<QosSetting> for u8 {
    fn from(qos: QosSetting) -> Self {
        qos.0
    }
}

impl QosSetting {
    pub(crate) const AT_LEAST_ONCE: Self = Self(1);
    pub(crate) const EXACTLY_ONCE: Self = Self(2);

    pub(crate) fn get(self) -> QoS {
        match self.0 {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            _ => QoS::ExactlyOnce,
        }
    }
}

/// When a new subscription gets what is retained.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RetainHandlingSetting {
    #[default]
    Send,
    SendIfNew,
    DoNotSend,
}

impl AutoSubscribeSettings {
    fn subscription(&self) -> Result<AutoSubscription, InvalidSetting> {
        let options = SubscribeOptions {
            qos: self.qos.get(),
            no_local: self.no_local,
            retain_as_published: self.retain_as_published,
            retain_handling: match self.retain_handling {
                RetainHandlingSetting::Send => RetainHandling::Send,
                RetainHandlingSetting::SendIfNew => RetainHandling::SendIfNew,
                RetainHandlingSetting::DoNotSend => RetainHandling::DoNotSend,
            },
        };
        AutoSubscription::new(&self.filter, options)
    }
}

/// Which member of a shared subscription gets a message.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SharedStrategySetting {
    #[default]
    RoundRobin,
    Random,
    Sticky,
    HashClientId,
    HashTopic,
}

impl From<SharedStrategySetting> for SharedStrategy {
    fn from(strategy: SharedStrategySetting) -> Self {
        match strategy {
            SharedStrategySetting::RoundRobin => Self::RoundRobin,
            SharedStrategySetting::Random => Self::Random,
            SharedStrategySetting::Sticky => Self::Sticky,
            SharedStrategySetting::HashClientId => Self::HashClientId,
            SharedStrategySetting::HashTopic => Self::HashTopic,
        }
    }
}

/// The parts of a broker's configuration that are more than numbers.
#[derive(Debug, Default)]
pub(crate) struct TopicRules {
    pub(crate) denied: DenyList,
    pub(crate) rewrites: Vec<Rewrite>,
    pub(crate) auto_subscriptions: Vec<AutoSubscription>,
}

impl TopicRules {
    /// Makes them of the settings. What is wrong is left out and told in `errors`.
    pub(crate) fn of(settings: &Settings, errors: &mut ConfigErrors) -> Self {
        let mut rules = Self::default();
        match denied(&settings.mqtt) {
            Ok(denied) => rules.denied = denied,
            Err(error) => errors.push("mqtt.deny_subscribe or mqtt.deny_publish", error),
        }
        for (index, rewrite) in settings.rewrite.iter().enumerate() {
            match rewrite.rewrite() {
                Ok(rewrite) => rules.rewrites.push(rewrite),
                Err(error) => errors.push(format!("rewrite.{index}"), error),
            }
        }
        for (index, subscription) in settings.auto_subscribe.iter().enumerate() {
            match subscription.subscription() {
                Ok(subscription) => rules.auto_subscriptions.push(subscription),
                Err(error) => errors.push(format!("auto_subscribe.{index}"), error),
            }
        }
        rules
    }
}

fn denied(mqtt: &MqttSettings) -> Result<DenyList, InvalidSetting> {
    let denied = DenyList::new(&mqtt.deny_subscribe, &mqtt.deny_publish)?;
    Ok(if mqtt.deny_without_reason { denied.without_reason() } else { denied })
}
