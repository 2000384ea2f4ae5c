//! Topic aliases of a connection, those that the client sets and those that the server sets: a table for each
//! ([MQTT5-3.3.2-7]), bounded in entries and bytes.

use std::num::NonZeroU16;

use crate::{Limits, Violation};

/// The topics behind the aliases 1, 2, ... of one connection.
#[derive(Debug, Default)]
pub(crate) struct TopicAliases {
    /// Alias n at n - 1. Grows with the highest alias used, up to `Limits::topic_alias_maximum`.
    topics: Vec<Option<Box<str>>>,
    bytes: usize,
}

impl TopicAliases {
    /// Lets `alias` mean `topic` from now on. Allocates only when the meaning changes.
    pub(crate) fn set(&mut self, alias: NonZeroU16, topic: &str, limits: &Limits) -> Result<(), Violation> {
        if alias.get() > limits.topic_alias_maximum {
            return Err(Violation::TopicAliasTooHigh {
                alias: alias.get(),
                maximum: limits.topic_alias_maximum,
            });
        }
        let index = usize::from(alias.get()) - 1;
        if index >= self.topics.len() {
            self.topics.resize_with(index + 1, || None);
        }
        let entry = &mut self.topics[index];
        if entry.as_deref() == Some(topic) {
            return Ok(());
        }
        let bytes = self.bytes - entry.as_deref().map_or(0, str::len) + topic.len();
        if bytes > limits.max_alias_bytes {
            return Err(Violation::TopicAliasesTooLong { maximum: limits.max_alias_bytes });
        }
        self.bytes = bytes;
        *entry = Some(topic.into());
        Ok(())
    }

    /// Returns the topic that `alias` means.
    pub(crate) fn get(&self, alias: NonZeroU16, limits: &Limits) -> Result<&str, Violation> {
        if alias.get() > limits.topic_alias_maximum {
            return Err(Violation::TopicAliasTooHigh {
                alias: alias.get(),
                maximum: limits.topic_alias_maximum,
            });
        }
        let known = self.topics.get(usize::from(alias.get()) - 1).and_then(Option::as_deref);
        known.ok_or(Violation::TopicAliasUnknown(alias.get()))
    }
}

/// The aliases 1, 2, ... that the server set on one connection, for the topics that came first. They stay: a client
/// whose topics outnumber its aliases would otherwise be told a new meaning with nearly every message.
#[derive(Debug, Default)]
pub(crate) struct AliasesOut {
    topics: Vec<Box<str>>,
    maximum: u16,
    bytes_left: usize,
}

/// How a PUBLISH goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AliasUse {
    /// Without alias.
    None,
    /// With this alias and its topic; call [`AliasesOut::add`] when it went out.
    New(NonZeroU16),
    /// With this alias alone.
    Known(NonZeroU16),
}

impl AliasesOut {
    /// A table for a client that accepts aliases up to `client_maximum` [MQTT5-3.1.2-26].
    pub(crate) fn new(client_maximum: u16, limits: &Limits) -> Self {
        let maximum = client_maximum.min(limits.max_aliases_out);
        Self { topics: Vec::new(), maximum, bytes_left: limits.max_alias_bytes }
    }

    pub(crate) fn find(&self, topic: &str) -> AliasUse {
        if self.maximum == 0 {
            return AliasUse::None;
        }
        let alias = |index: usize| NonZeroU16::new(index as u16 + 1);
        if let Some(index) = self.topics.iter().position(|known| **known == *topic) {
            return alias(index).map_or(AliasUse::None, AliasUse::Known);
        }
        let has_room = self.topics.len() < usize::from(self.maximum) && topic.len() <= self.bytes_left;
        alias(self.topics.len()).filter(|_| has_room).map_or(AliasUse::None, AliasUse::New)
    }

    /// Gives `topic` the alias that [`find`](Self::find) named.
    pub(crate) fn add(&mut self, topic: &str) {
        self.bytes_left = self.bytes_left.saturating_sub(topic.len());
        self.topics.push(topic.into());
    }
}
