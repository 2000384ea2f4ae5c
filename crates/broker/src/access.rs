//! Topics that nobody may use: plain lists, for whoever has no access control that asks who wants what.

use std::sync::Arc;

use tidegate_codec::ReasonCode;
use tidegate_topic::{SubscriptionTree, TopicFilter, TopicName};

use crate::setting::InvalidSetting;

/// Filters that nobody may subscribe to, and filters on whose topics nobody may publish. The default denies nothing.
///
/// The topic is looked at after aliases are resolved and rewrites are made, and before a mountpoint is put in front:
/// the inner filter of `$share/group/filter`, the inner topic of `$delayed/10/topic`, the topic of a will when the
/// will is published. A subscription is denied when everything that it asks for is: with `a/+` denied, `a/b` is
/// refused and `a/#` is not.
#[derive(Debug, Clone)]
pub struct DenyList {
    subscribe: Arc<[Box<str>]>,
    publish: Arc<SubscriptionTree<(), ()>>,
    reason: ReasonCode,
}

impl Default for DenyList {
    fn default() -> Self {
        Self {
            subscribe: Arc::default(),
            publish: Arc::new(SubscriptionTree::new()),
            reason: ReasonCode::NotAuthorized,
        }
    }
}

impl DenyList {
    /// Returns the list of these filters, for subscriptions and for messages.
    ///
    /// # Errors
    /// The first that is no topic filter.
    pub fn new<S: AsRef<str>>(subscribe: &[S], publish: &[S]) -> Result<Self, InvalidSetting> {
        for filter in subscribe {
            parse(filter.as_ref())?;
        }
        let mut tree = SubscriptionTree::new();
        for filter in publish {
            tree.insert(parse(filter.as_ref())?, (), ());
        }
        Ok(Self {
            subscribe: subscribe.iter().map(|filter| filter.as_ref().into()).collect(),
            publish: Arc::new(tree),
            ..Self::default()
        })
    }

    /// Answers with Unspecified error (0x80) instead of Not authorized (0x87), which tells that there is something to
    /// be authorised for.
    #[must_use]
    pub fn without_reason(mut self) -> Self {
        self.reason = ReasonCode::UnspecifiedError;
        self
    }

    /// What a client is told whose subscription or message is denied.
    pub(crate) fn reason(&self) -> ReasonCode {
        self.reason
    }

    pub(crate) fn denies_no_publish(&self) -> bool {
        self.publish.is_empty()
    }

    pub(crate) fn denies_publish(&self, topic: TopicName<'_>) -> bool {
        self.publish.has_match(topic)
    }

    pub(crate) fn denies_subscribe(&self, filter: TopicFilter<'_>) -> bool {
        self.subscribe
            .iter()
            .any(|denied| TopicFilter::parse(denied).is_ok_and(|denied| covers(denied, filter)))
    }
}

fn parse(filter: &str) -> Result<TopicFilter<'_>, InvalidSetting> {
    TopicFilter::parse(filter).map_err(|reason| InvalidSetting::Filter { filter: filter.to_owned(), reason })
}

/// Whether `wide` matches every topic that `narrow` matches.
pub(crate) fn covers(wide: TopicFilter<'_>, narrow: TopicFilter<'_>) -> bool {
    // [MQTT5-4.7.2-1]: what begins with a wildcard does not reach what begins with `$`.
    if narrow.as_str().starts_with('$') && wide.as_str().starts_with(['+', '#']) {
        return false;
    }
    // A topic has a first level, so these two are the same. Below it they are not: `a/#` matches `a`.
    let narrow = if narrow.as_str() == "#" { "+/#" } else { narrow.as_str() };
    let mut levels = narrow.split('/');
    for wanted in wide.levels() {
        match (wanted, levels.next()) {
            ("#", _) => return true,
            (_, None | Some("#")) => return false,
            ("+", Some(_)) => {}
            (wanted, Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_filter_covers_exactly_what_asks_for_no_more() {
        for (wide, narrow, expected) in [
            ("a/b", "a/b", true),
            ("a/b", "a/+", false),
            ("a/+", "a/b", true),
            ("a/+", "a/+", true),
            ("a/+", "a/#", false),
            ("a/+", "a/b/c", false),
            ("a/#", "a", true),
            ("a/#", "a/+/c/#", true),
            ("a/#", "+/b", false),
            ("a/#", "#", false),
            ("#", "#", true),
            ("+/#", "#", true),
            ("a/+/#", "a/#", false),
            ("#", "$SYS/#", false),
            ("+/x", "$SYS/x", false),
            ("$SYS/#", "$SYS/broker/+", true),
            ("a", "a/#", false),
        ] {
            let [wide, narrow] = [wide, narrow].map(|text| TopicFilter::parse(text).unwrap());
            assert_eq!(covers(wide, narrow), expected, "{wide} over {narrow}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

        /// Against the meaning of the word: every topic of a small world, one level deeper than the filters, with a
        /// name that no filter has.
        #[test]
        fn a_filter_covers_another_exactly_if_it_matches_all_of_its_topics(
            wide in filter(), narrow in filter(),
        ) {
            let [wide, narrow] = [&wide, &narrow].map(|text| TopicFilter::parse(text).unwrap());
            let is_covered = topics().iter().all(|topic| {
                let topic = TopicName::parse(topic).unwrap();
                wide.matches(topic) || !narrow.matches(topic)
            });
            prop_assert_eq!(covers(wide, narrow), is_covered, "{} over {}", wide, narrow);
        }
    }

    fn filter() -> impl Strategy<Value = String> {
        let level = prop::sample::select(vec!["a", "b", "+", "$s"]);
        (prop::collection::vec(level, 0..3), any::<bool>()).prop_map(|(mut levels, has_hash)| {
            if has_hash || levels.is_empty() {
                levels.push("#");
            }
            levels.join("/")
        })
    }

    fn topics() -> Vec<String> {
        const LEVELS: [&str; 4] = ["a", "b", "c", "$s"];
        let mut topics: Vec<String> = LEVELS.map(str::to_owned).into();
        let mut begin = 0;
        for _ in 0..3 {
            let end = topics.len();
            for index in begin..end {
                for level in LEVELS {
                    topics.push(format!("{}/{level}", topics[index]));
                }
            }
            begin = end;
        }
        topics
    }

    #[test]
    fn what_is_no_filter_is_told() {
        let error = DenyList::new(&["a/#/b"], &[]).unwrap_err();
        assert!(error.to_string().contains("a/#/b"), "{error}");
        assert!(DenyList::new(&[], &["a+"]).is_err());
    }
}
