//! What is wrong with a setting that a broker is given as text.

use tidegate_topic::TopicError;

/// A setting is not what it has to be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSetting {
    /// A topic filter is none.
    #[error("`{filter}` is no topic filter: {reason}")]
    Filter {
        /// What was given.
        filter: String,
        /// The rule that it breaks.
        reason: TopicError,
    },
    /// A regular expression is none, or too large.
    #[error("`{pattern}` is no regular expression that can be used: {reason}")]
    Pattern {
        /// What was given.
        pattern: String,
        /// What is wrong with it.
        reason: Box<regex::Error>,
    },
    /// The destination of a rewrite names a group that its pattern does not have.
    #[error("`{destination}` names the group ${group}, and the pattern has {groups}")]
    Group {
        /// What was given.
        destination: String,
        /// The group that is named.
        group: usize,
        /// How many the pattern has.
        groups: usize,
    },
    /// A mountpoint that is not the beginning of a topic and ends with `/`.
    #[error("`{mountpoint}` is no mountpoint: it ends with `/`, and has neither wildcards nor `$` in front")]
    Mountpoint {
        /// What was given.
        mountpoint: String,
    },
    /// Response information that is not the beginning of a topic.
    #[error("`{template}` is not the beginning of a topic: it is empty or has wildcards")]
    ResponseInformation {
        /// What was given.
        template: String,
    },
}
