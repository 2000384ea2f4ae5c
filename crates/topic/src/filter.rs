//! Topic filters: what a subscription asks for.

use std::fmt;

use crate::name::{Levels, check_length, check_levels};
use crate::{MAX_LEVELS, TopicError, TopicName};

/// A topic filter that obeys MQTT: 1 to 65,535 bytes, no U+0000, wildcards only where they may stand, at most
/// [`MAX_LEVELS`] levels.
///
/// `$share/...` is a filter like any other here; [`SubscriptionFilter`](crate::SubscriptionFilter) gives it its
/// meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicFilter<'a>(&'a str);

impl<'a> TopicFilter<'a> {
    /// Returns the topic filter in `text`, with up to [`MAX_LEVELS`] levels.
    ///
    /// # Errors
    ///
    /// The first rule that `text` breaks: [MQTT5-4.7.1-1], [MQTT5-4.7.1-2], [MQTT5-4.7.3-1], [MQTT5-4.7.3-2],
    /// [MQTT5-4.7.3-3] or the limit of levels.
    pub fn parse(text: &'a str) -> Result<Self, TopicError> {
        Self::parse_with(text, MAX_LEVELS)
    }

    /// Returns the topic filter in `text`, with up to `max_levels` levels; [`MAX_LEVELS`] stands above any limit.
    ///
    /// # Errors
    ///
    /// As [`TopicFilter::parse`].
    pub fn parse_with(text: &'a str, max_levels: usize) -> Result<Self, TopicError> {
        check_length(text)?;
        let bytes = text.as_bytes();
        for at in memchr::memchr3_iter(b'+', b'#', 0, bytes) {
            let begins_level = at == 0 || bytes[at - 1] == b'/';
            let next = bytes.get(at + 1);
            match bytes[at] {
                0 => return Err(TopicError::Nul { at }),
                b'#' if !begins_level || next.is_some() => return Err(TopicError::MisplacedHash { at }),
                b'+' if !begins_level || next.is_some_and(|&next| next != b'/') => {
                    return Err(TopicError::MisplacedPlus { at });
                }
                _ => {}
            }
        }
        check_levels(text, max_levels)?;
        Ok(Self(text))
    }

    /// The text, character for character as it was given [MQTT5-4.7.3-4].
    pub fn as_str(self) -> &'a str {
        self.0
    }

    /// The levels, first to last, wildcards among them.
    pub fn levels(self) -> Levels<'a> {
        self.0.split('/')
    }

    /// Whether there is a `+` or a `#`: without one the filter matches the one topic name that it spells.
    pub fn has_wildcard(self) -> bool {
        memchr::memchr2(b'+', b'#', self.0.as_bytes()).is_some()
    }

    /// The number of `+` levels: a server that caps it caps what a match can cost, see
    /// [`SubscriptionTree`](crate::SubscriptionTree).
    pub fn plus_levels(self) -> usize {
        memchr::memchr_iter(b'+', self.0.as_bytes()).count()
    }

    /// Whether the first level is a wildcard, so that no topic with `$` in front matches [MQTT5-4.7.2-1].
    pub(crate) fn begins_with_wildcard(self) -> bool {
        self.0.starts_with(['+', '#'])
    }

    /// Whether a message published to `name` is for a subscriber of this filter.
    pub fn matches(self, name: TopicName<'_>) -> bool {
        if name.is_reserved() && self.begins_with_wildcard() {
            return false;
        }
        let mut levels = name.levels();
        for wanted in self.levels() {
            // `#` stands for its parent level too: `sport/#` matches `sport`.
            if wanted == "#" {
                return true;
            }
            match levels.next() {
                Some(level) if wanted == "+" || wanted == level => {}
                _ => return false,
            }
        }
        levels.next().is_none()
    }
}

impl AsRef<str> for TopicFilter<'_> {
    fn as_ref(&self) -> &str {
        self.0
    }
}

impl fmt::Display for TopicFilter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A topic name is a filter that matches exactly itself.
impl<'a> From<TopicName<'a>> for TopicFilter<'a> {
    fn from(name: TopicName<'a>) -> Self {
        Self(name.as_str())
    }
}
