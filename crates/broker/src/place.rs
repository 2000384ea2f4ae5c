//! From the text of a subscription to its place in the trees.

use std::borrow::Cow;

use tidegate_codec::ReasonCode;
use tidegate_topic::{SubscriptionFilter, TopicFilter};

use crate::config::Config;
use crate::entry::Entry;
use crate::rewrite::{RewriteScope, Rewritten, rewrite};

/// What begins the filter of a subscription that only one client may have.
const EXCLUSIVE: &str = "$exclusive/";

/// Where a subscription belongs. The same text of the same client always has the same place, so that a session's
/// subscriptions are found again when it ends.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    pub(crate) kind: Kind<'a>,
    /// The filter behind the mountpoint, with rewrites made.
    inside: Cow<'a, str>,
    /// The same behind the mountpoint, if there is one.
    mounted: Option<String>,
}

/// What a subscription is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind<'a> {
    Plain,
    /// `$exclusive/filter`: one client has it at a time.
    Exclusive,
    /// `$share/group/filter`, with the group.
    Shared(&'a str),
}

impl<'a> Place<'a> {
    /// The place of the subscription `text` of the client of `entry`.
    ///
    /// # Errors
    /// What SUBACK says of a filter that is none, before or after rewriting.
    pub(crate) fn of(text: &'a str, entry: &Entry, config: &Config) -> Result<Self, ReasonCode> {
        let invalid = |_| ReasonCode::TopicFilterInvalid;
        let max_levels = config.limits.max_topic_levels;
        let (kind, filter) = match text.strip_prefix(EXCLUSIVE) {
            Some(rest) => (Kind::Exclusive, TopicFilter::parse_with(rest, max_levels).map_err(invalid)?),
            None => match SubscriptionFilter::parse_with(text, max_levels).map_err(invalid)? {
                SubscriptionFilter::Plain(filter) => (Kind::Plain, filter),
                SubscriptionFilter::Shared { group, filter } => (Kind::Shared(group), filter),
            },
        };
        let mut inside = Cow::Borrowed(filter.as_str());
        if !config.rewrites.is_empty() {
            match rewrite(&config.rewrites, RewriteScope::Subscribe, filter, &entry.client_id) {
                Rewritten::Same => {}
                Rewritten::To(text) => inside = Cow::Owned(text),
                Rewritten::Impossible => return Err(ReasonCode::TopicFilterInvalid),
            }
        }
        let mounted = entry.mount.as_ref().map(|mount| mount.outside(&inside));
        let place = Self { kind, inside, mounted };
        for filter in [Some(&*place.inside), place.mounted.as_deref()].into_iter().flatten() {
            TopicFilter::parse_with(filter, max_levels).map_err(invalid)?;
        }
        Ok(place)
    }

    /// What topics are matched against.
    pub(crate) fn filter(&self) -> TopicFilter<'_> {
        let filter = TopicFilter::parse(self.mounted.as_deref().unwrap_or(&self.inside));
        filter.expect("it was parsed when the place was made")
    }

    /// Tells whether the client may subscribe here.
    ///
    /// # Errors
    /// What SUBACK says instead.
    pub(crate) fn check(&self, config: &Config) -> Result<(), ReasonCode> {
        let filter = TopicFilter::parse(&self.inside).map_err(|_| ReasonCode::TopicFilterInvalid)?;
        if config.denied.denies_subscribe(filter) {
            return Err(config.denied.reason());
        }
        if filter.plus_levels() > config.max_plus_levels {
            return Err(ReasonCode::TopicFilterInvalid);
        }
        Ok(())
    }
}
