//! Topic names: what a message is published to.

use std::fmt;

use crate::{MAX_BYTES, MAX_LEVELS, TopicError};

/// A topic name that obeys MQTT: 1 to 65,535 bytes, no wildcard, no U+0000, at most [`MAX_LEVELS`] levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName<'a>(&'a str);

/// The levels of a topic name or filter, first to last. A level may be empty; there is always at least one.
pub type Levels<'a> = std::str::Split<'a, char>;

impl<'a> TopicName<'a> {
    /// Returns the topic name in `text`, with up to [`MAX_LEVELS`] levels.
    ///
    /// # Errors
    ///
    /// The first rule that `text` breaks: [MQTT5-4.7.0-1], [MQTT5-4.7.3-1], [MQTT5-4.7.3-2], [MQTT5-4.7.3-3] or the
    /// limit of levels.
    pub fn parse(text: &'a str) -> Result<Self, TopicError> {
        Self::parse_with(text, MAX_LEVELS)
    }

    /// Returns the topic name in `text`, with up to `max_levels` levels; [`MAX_LEVELS`] stands above any limit.
    ///
    /// # Errors
    ///
    /// As [`TopicName::parse`].
    pub fn parse_with(text: &'a str, max_levels: usize) -> Result<Self, TopicError> {
        check_length(text)?;
        let bytes = text.as_bytes();
        if let Some(at) = memchr::memchr3(b'+', b'#', 0, bytes) {
            return Err(if bytes[at] == 0 {
                TopicError::Nul { at }
            } else {
                TopicError::WildcardInName { at }
            });
        }
        check_levels(text, max_levels)?;
        Ok(Self(text))
    }

    /// A name that this crate took apart and put together again.
    pub(crate) fn known_good(text: &'a str) -> Self {
        Self(text)
    }

    /// The text, character for character as it was given [MQTT5-4.7.3-4].
    pub fn as_str(self) -> &'a str {
        self.0
    }

    /// The levels, first to last.
    pub fn levels(self) -> Levels<'a> {
        self.0.split('/')
    }

    /// Whether the name begins with `$`, which hides it from filters that begin with a wildcard [MQTT5-4.7.2-1].
    pub fn is_reserved(self) -> bool {
        self.0.starts_with('$')
    }
}

impl AsRef<str> for TopicName<'_> {
    fn as_ref(&self) -> &str {
        self.0
    }
}

impl fmt::Display for TopicName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// [MQTT5-4.7.3-1] and [MQTT5-4.7.3-3].
pub(crate) fn check_length(text: &str) -> Result<(), TopicError> {
    match text.len() {
        0 => Err(TopicError::Empty),
        1..=MAX_BYTES => Ok(()),
        bytes => Err(TopicError::TooLong { bytes }),
    }
}

pub(crate) fn check_levels(text: &str, max_levels: usize) -> Result<(), TopicError> {
    // A text without any separator has one level already, so a limit of zero would refuse everything.
    let max = max_levels.clamp(1, MAX_LEVELS);
    // A level takes a byte at the least: its separator.
    if text.len() < max {
        return Ok(());
    }
    match memchr::memchr_iter(b'/', text.as_bytes()).nth(max - 1) {
        None => Ok(()),
        Some(at) => Err(TopicError::TooManyLevels { at, max }),
    }
}
