//! Why a rule could not be evaluated for one message.

use crate::diagnostic::Span;
use crate::json::JsonError;

/// An evaluation that failed: what went wrong, and in which part of the rule's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}")]
pub struct EvalError {
    /// What went wrong.
    pub kind: EvalErrorKind,
    /// The expression that failed, in the rule's text.
    pub span: Span,
}

/// What can go wrong with one message. The message is at fault in most cases, the rule in some.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalErrorKind {
    /// A rule looks into a payload, or decodes a text, that is not JSON.
    #[error("not JSON: {0}")]
    NotJson(JsonError),
    /// A value of the wrong kind.
    #[error("{operation} needs {expected}, not {found}")]
    WrongType {
        /// The operator or function.
        operation: &'static str,
        /// What it takes.
        expected: &'static str,
        /// What it was given.
        found: &'static str,
    },
    /// A value of the right kind that can't be used.
    #[error("{operation} needs {expected}")]
    InvalidArgument {
        /// The operator or function.
        operation: &'static str,
        /// What it takes.
        expected: &'static str,
    },
    /// A text that is no number stands where a number is needed.
    #[error("{operation} needs a number, and the text is none")]
    NotANumber {
        /// The operator or function.
        operation: &'static str,
    },
    /// A division or remainder by zero.
    #[error("division by zero")]
    DivisionByZero,
    /// An integer result beyond 128 bits, or a float beyond its range.
    #[error("the result is too large for a number")]
    Overflow,
    /// An element that an array does not have.
    #[error("{operation}: the array has no such element")]
    NoSuchElement {
        /// The operator or function.
        operation: &'static str,
    },
    /// A condition that is neither true nor false.
    #[error("a condition needs true or false, not {found}")]
    NotACondition {
        /// What it was.
        found: &'static str,
    },
    /// A program of jq() that ended with an error which it did not catch.
    #[error("the jq program failed")]
    Jq,
    /// A rule that remembers earlier messages was evaluated without its [`RuleState`](crate::RuleState).
    #[error("the rule needs what it remembers of earlier messages")]
    NeedsState,
    /// More keys or bytes to remember than [`StateLimits`](crate::StateLimits).
    #[error("the rule has too much to remember")]
    StateFull,
    /// A value nested deeper than [`MAX_VALUE_DEPTH`](crate::MAX_VALUE_DEPTH).
    #[error("the value is nested too deep")]
    TooDeep,
    /// More work than [`EvalLimits::steps`](crate::EvalLimits::steps).
    #[error("too many steps")]
    TooManySteps,
    /// More output than [`EvalLimits::bytes`](crate::EvalLimits::bytes).
    #[error("too many bytes made")]
    TooManyBytes,
}

impl EvalErrorKind {
    /// A short name for counting failures; one of a fixed few.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NotJson(_) => "not_json",
            Self::WrongType { .. } => "wrong_type",
            Self::InvalidArgument { .. } => "invalid_argument",
            Self::NotANumber { .. } => "not_a_number",
            Self::DivisionByZero => "division_by_zero",
            Self::Overflow => "overflow",
            Self::NoSuchElement { .. } => "no_such_element",
            Self::NotACondition { .. } => "not_a_condition",
            Self::Jq => "jq",
            Self::NeedsState => "needs_state",
            Self::StateFull => "state_full",
            Self::TooDeep => "too_deep",
            Self::TooManySteps => "too_many_steps",
            Self::TooManyBytes => "too_many_bytes",
        }
    }
}
