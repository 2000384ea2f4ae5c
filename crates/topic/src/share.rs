//! What a SUBSCRIBE packet may ask for: a filter of its own or a share in a group's.

use crate::name::check_length;
use crate::{MAX_LEVELS, TopicError, TopicFilter};

/// The group of those who subscribe to `$queue/filter`, the older way to say `$share/$queue/filter`.
pub const QUEUE_GROUP: &str = "$queue";

/// The text of a subscription, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SubscriptionFilter<'a> {
    /// Every matching message is for this subscriber.
    Plain(TopicFilter<'a>),
    /// Each matching message is for one member of the group.
    Shared {
        /// The share name: at least one character, without `/`, `+` and `#`.
        group: &'a str,
        /// What topics are matched against, and what access is checked on.
        filter: TopicFilter<'a>,
    },
}

impl<'a> SubscriptionFilter<'a> {
    /// Returns the meaning of `text`: `$share/group/filter`, `$queue/filter` or a filter, whose levels are at most
    /// [`MAX_LEVELS`].
    ///
    /// # Errors
    ///
    /// What [`TopicFilter::parse`] says of the filter, or the rule of shared subscriptions that is broken:
    /// [MQTT5-4.8.2-1] or [MQTT5-4.8.2-2]. Byte positions count from the beginning of `text`.
    pub fn parse(text: &'a str) -> Result<Self, TopicError> {
        Self::parse_with(text, MAX_LEVELS)
    }

    /// Returns the meaning of `text`, whose filter has up to `max_levels` levels (not counting `$share/group/`);
    /// [`MAX_LEVELS`] stands above any limit.
    ///
    /// # Errors
    ///
    /// As [`SubscriptionFilter::parse`].
    pub fn parse_with(text: &'a str, max_levels: usize) -> Result<Self, TopicError> {
        check_length(text)?;
        if let Some(rest) = text.strip_prefix("$share/") {
            let (group, rest) = split_group(rest).map_err(|error| error.shifted("$share/".len()))?;
            return parse_shared(text, group, rest, max_levels);
        }
        if let Some(rest) = text.strip_prefix("$queue/") {
            return parse_shared(text, QUEUE_GROUP, rest, max_levels);
        }
        TopicFilter::parse_with(text, max_levels).map(Self::Plain)
    }

    /// What topics are matched against: never contains the share's prefix.
    pub fn filter(&self) -> TopicFilter<'a> {
        match *self {
            Self::Plain(filter) | Self::Shared { filter, .. } => filter,
        }
    }

    /// The share name, if this is a shared subscription.
    pub fn group(&self) -> Option<&'a str> {
        match *self {
            Self::Plain(_) => None,
            Self::Shared { group, .. } => Some(group),
        }
    }
}

/// Splits what follows `$share/` into the share name and the text of the filter.
fn split_group(text: &str) -> Result<(&str, &str), TopicError> {
    let (group, filter) = match text.split_once('/') {
        Some((group, filter)) => (group, Some(filter)),
        None => (text, None),
    };
    if group.is_empty() {
        return Err(TopicError::EmptyShareName { at: 0 });
    }
    if let Some(at) = memchr::memchr3(b'+', b'#', 0, group.as_bytes()) {
        let is_nul = group.as_bytes()[at] == 0;
        return Err(if is_nul { TopicError::Nul { at } } else { TopicError::WildcardInShareName { at } });
    }
    match filter {
        Some(filter) => Ok((group, filter)),
        None => Err(TopicError::ShareWithoutFilter { at: text.len() }),
    }
}

/// `filter` is the end of `text`, after the prefix that names the group.
fn parse_shared<'a>(
    text: &'a str,
    group: &'a str,
    filter: &'a str,
    max_levels: usize,
) -> Result<SubscriptionFilter<'a>, TopicError> {
    let at = text.len() - filter.len();
    if filter.is_empty() {
        return Err(TopicError::ShareWithoutFilter { at });
    }
    let filter = TopicFilter::parse_with(filter, max_levels).map_err(|error| error.shifted(at))?;
    Ok(SubscriptionFilter::Shared { group, filter })
}
