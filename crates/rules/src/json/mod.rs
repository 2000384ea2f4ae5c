//! JSON as the rules need it: values that stay slices of the text until somebody asks, and nothing built that no rule
//! looks at. A payload is read one level at a time, so that what no rule asks for is stepped over and not read.
//!
//! What the standard leaves open is defined here. A byte order mark at the front is skipped. Of two members with one
//! name the last counts. A lone surrogate (`\ud800`) reads as U+FFFD. An integer of more than 64 bits and a number
//! beyond `f64` are kept as written. Text that is not UTF-8, nested deeper than [`MAX_JSON_DEPTH`] or larger than
//! [`MAX_JSON_BYTES`] is not JSON to a rule. In an object or array that no rule looks into or takes, only strings that
//! end, brackets that fit and depth are checked; a payload with other mistakes in such a place is read as if it had
//! none.

mod check;
mod level;
mod mask;
mod raw;
mod write;

pub(crate) use level::{Entry, Level, value};
pub use raw::RawJson;
pub(crate) use raw::{computable, decode};
pub(crate) use write::{write_compact, write_f64, write_string};

/// Levels of arrays and objects in one another. serde_json and most brokers' libraries stop at the same depth.
pub const MAX_JSON_DEPTH: usize = 128;

/// Bytes of one JSON text; larger than any MQTT packet, and what a 32-bit offset can hold.
pub const MAX_JSON_BYTES: usize = u32::MAX as usize;

/// Why a text is not JSON, and at which byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem} at byte {at}")]
pub struct JsonError {
    /// What is wrong.
    pub problem: JsonProblem,
    /// The byte of the text, counted from 0.
    pub at: usize,
}

impl JsonError {
    /// The same in a text in which so many bytes go before.
    #[must_use]
    pub(crate) fn after(self, bytes: usize) -> Self {
        Self { at: self.at + bytes, ..self }
    }
}

/// What can be wrong with a JSON text.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonProblem {
    /// Nothing but white space.
    #[error("no JSON value")]
    Empty,
    /// A character that can't stand there.
    #[error("unexpected character")]
    Unexpected,
    /// The text stops inside a value.
    #[error("unexpected end")]
    Truncated,
    /// A second value follows the first.
    #[error("more text after the value")]
    Trailing,
    /// More levels than [`MAX_JSON_DEPTH`].
    #[error("nested too deep")]
    TooDeep,
    /// More bytes than [`MAX_JSON_BYTES`].
    #[error("too large")]
    TooLarge,
    /// JSON is UTF-8.
    #[error("not UTF-8")]
    NotUtf8,
}
