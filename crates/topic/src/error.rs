//! What can be wrong with a topic name or filter.

use thiserror::Error;

/// Which rule a topic name, filter or shared filter breaks, and at which byte of the text.
///
/// Every variant is the peer's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TopicError {
    /// There is no character at all [MQTT5-4.7.3-1].
    #[error("a topic needs at least one character [MQTT5-4.7.3-1]")]
    Empty,
    /// The text is longer than a length field of MQTT can say [MQTT5-4.7.3-3].
    #[error("a topic of {bytes} bytes is longer than 65535 [MQTT5-4.7.3-3]")]
    TooLong {
        /// How long the text is, in bytes.
        bytes: usize,
    },
    /// The text contains U+0000 [MQTT5-4.7.3-2].
    #[error("U+0000 at byte {at} of a topic [MQTT5-4.7.3-2]")]
    Nul {
        /// Byte position of the character.
        at: usize,
    },
    /// A topic name contains `+` or `#` [MQTT5-4.7.0-1].
    #[error("wildcard at byte {at} of a topic name [MQTT5-4.7.0-1]")]
    WildcardInName {
        /// Byte position of the wildcard.
        at: usize,
    },
    /// A `#` does not fill the last level on its own [MQTT5-4.7.1-1].
    #[error("`#` at byte {at} does not fill the last level of the filter [MQTT5-4.7.1-1]")]
    MisplacedHash {
        /// Byte position of the `#`.
        at: usize,
    },
    /// A `+` does not fill its level on its own [MQTT5-4.7.1-2].
    #[error("`+` at byte {at} does not fill a whole level of the filter [MQTT5-4.7.1-2]")]
    MisplacedPlus {
        /// Byte position of the `+`.
        at: usize,
    },
    /// The text has more levels than this server takes. MQTT sets no such limit.
    #[error("more than {max} topic levels, the next begins after byte {at}")]
    TooManyLevels {
        /// Byte position of the `/` that is one too many.
        at: usize,
        /// The limit, in levels.
        max: usize,
    },
    /// Nothing stands between `$share/` and the next `/` [MQTT5-4.8.2-1].
    #[error("the share name at byte {at} is empty [MQTT5-4.8.2-1]")]
    EmptyShareName {
        /// Byte position at which the name should begin.
        at: usize,
    },
    /// A share name contains `+` or `#` [MQTT5-4.8.2-2].
    #[error("wildcard at byte {at} of a share name [MQTT5-4.8.2-2]")]
    WildcardInShareName {
        /// Byte position of the wildcard.
        at: usize,
    },
    /// No `/` and filter follow the share name [MQTT5-4.8.2-2].
    #[error("no topic filter follows the share name, at byte {at} [MQTT5-4.8.2-2]")]
    ShareWithoutFilter {
        /// Byte position at which the filter should begin.
        at: usize,
    },
}

impl TopicError {
    /// The same error in a text that has `bytes` more bytes in front.
    pub(crate) fn shifted(self, bytes: usize) -> Self {
        match self {
            Self::Empty | Self::TooLong { .. } => self,
            Self::Nul { at } => Self::Nul { at: at + bytes },
            Self::WildcardInName { at } => Self::WildcardInName { at: at + bytes },
            Self::MisplacedHash { at } => Self::MisplacedHash { at: at + bytes },
            Self::MisplacedPlus { at } => Self::MisplacedPlus { at: at + bytes },
            Self::TooManyLevels { at, max } => Self::TooManyLevels { at: at + bytes, max },
            Self::EmptyShareName { at } => Self::EmptyShareName { at: at + bytes },
            Self::WildcardInShareName { at } => Self::WildcardInShareName { at: at + bytes },
            Self::ShareWithoutFilter { at } => Self::ShareWithoutFilter { at: at + bytes },
        }
    }
}
