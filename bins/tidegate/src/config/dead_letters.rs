//! Where records go that Kafka will never take.

use std::num::NonZeroU16;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tidegate_kafka::{DeadLetter, DeadLetterFile, is_legal_topic_name};

use super::{ConfigErrors, Size};

/// `[kafka.NAME.dead_letter]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct DeadLetterSettings {
    /// A topic of the same Kafka.
    pub(crate) topic: Option<String>,
    /// A file of JSON lines.
    pub(crate) file: Option<PathBuf>,
    /// Another file is begun at this size.
    pub(crate) max_size: Size,
    /// Files that are kept.
    pub(crate) files: NonZeroU16,
}

impl Default for DeadLetterSettings {
    fn default() -> Self {
        Self {
            topic: None,
            file: None,
            max_size: Size::mebibytes(64),
            files: NonZeroU16::new(8).expect("8 is not 0"),
        }
    }
}

impl DeadLetterSettings {
    /// What is wrong with them, under `place`.
    pub(super) fn check(&self, place: &str, errors: &mut ConfigErrors) {
        if self.topic.is_some() && self.file.is_some() {
            errors.push(place, "dead letters go to one place: say `topic` or `file`, not both");
        }
        if let Some(topic) = self.topic.as_ref().filter(|topic| !is_legal_topic_name(topic)) {
            errors.push(
                format!("{place}.topic"),
                format!("`{topic}` is no name for a topic: it may have letters, digits, `.`, `_` and `-`, 249 at most"),
            );
        }
    }

    /// The producer's own word for it.
    pub(crate) fn dead_letter(&self) -> Option<DeadLetter> {
        let file = self.file.as_ref().map(|path| {
            DeadLetter::File(DeadLetterFile {
                path: path.clone(),
                max_bytes: self.max_size.as_u64(),
                files: usize::from(self.files.get()),
            })
        });
        file.or_else(|| self.topic.clone().map(DeadLetter::Topic))
    }
}
