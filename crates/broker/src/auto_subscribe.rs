//! Subscriptions that every client gets when it connects, without asking.

use tidegate_codec::{SubscribeFilter, SubscribeOptions};
use tidegate_topic::TopicFilter;

use crate::setting::InvalidSetting;

/// What stands for the client id in a filter.
const CLIENT_ID: &str = "%c";

/// What stands for the user name.
const USERNAME: &str = "%u";

/// A subscription that every client gets.
///
/// A client whose id or user name, where the filter asks for it, is empty or has `/`, `+` or `#` in it, does not get
/// it: it would mean other topics. What the deny list refuses, it refuses here too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AutoSubscription {
    filter: Box<str>,
    options: SubscribeOptions,
}

impl AutoSubscription {
    /// Returns the subscription to `filter`, in which `%c` stands for the client id and `%u` for the user name.
    ///
    /// # Errors
    /// When `filter` is no topic filter.
    pub fn new(filter: &str, options: SubscribeOptions) -> Result<Self, InvalidSetting> {
        TopicFilter::parse(filter)
            .map_err(|reason| InvalidSetting::Filter { filter: filter.to_owned(), reason })?;
        Ok(Self { filter: filter.into(), options })
    }

    /// The filter for one client, if its names can be put in.
    fn filter_for(&self, client_id: &str, username: Option<&str>) -> Option<String> {
        let mut filter = String::new();
        let mut rest = &*self.filter;
        while let Some(at) = rest.find('%') {
            let (before, placeholder) = rest.split_at(at);
            filter.push_str(before);
            let name = if placeholder.starts_with(CLIENT_ID) {
                client_id
            } else if placeholder.starts_with(USERNAME) {
                username?
            } else {
                filter.push('%');
                rest = &placeholder[1..];
                continue;
            };
            if name.is_empty() || name.contains(['/', '+', '#']) {
                return None;
            }
            filter.push_str(name);
            rest = &placeholder[CLIENT_ID.len()..];
        }
        filter.push_str(rest);
        Some(filter)
    }
}

/// The filters of one client, in order, with their options.
pub(crate) fn filters_for(
    subscriptions: &[AutoSubscription],
    client_id: &str,
    username: Option<&str>,
) -> Vec<(String, SubscribeOptions)> {
    subscriptions
        .iter()
        .filter_map(|subscription| {
            Some((subscription.filter_for(client_id, username)?, subscription.options))
        })
        .collect()
}

/// The same as a SUBSCRIBE has them.
pub(crate) fn as_requested(filters: &[(String, SubscribeOptions)]) -> Vec<SubscribeFilter<'_>> {
    filters.iter().map(|(filter, options)| SubscribeFilter { filter, options: *options }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_put_in_where_they_mean_one_level() {
        let made = |filter: &str, client_id: &str, username: Option<&str>| {
            AutoSubscription::new(filter, SubscribeOptions::default())
                .unwrap()
                .filter_for(client_id, username)
        };
        assert_eq!(made("c/%c/u/%u/100%/%x", "id", Some("me")).as_deref(), Some("c/id/u/me/100%/%x"));
        assert_eq!(made("c/%c", "%u", Some("me")).as_deref(), Some("c/%u"), "a name is not read again");
        assert_eq!(made("u/%u", "id", None), None);
        for wild in ["", "+", "#", "a/b"] {
            assert_eq!(made("c/%c/#", wild, None), None, "{wild:?}");
        }
        assert!(AutoSubscription::new("a/#/b", SubscribeOptions::default()).is_err());
    }
}
