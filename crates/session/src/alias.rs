//! Topic aliases that a client sets: a table for each connection ([MQTT5-3.3.2-7]), bounded in entries and bytes.

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
