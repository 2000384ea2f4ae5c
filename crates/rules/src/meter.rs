//! What one evaluation may cost. Every step and everything that grows goes through a [`Meter`].

use crate::error::EvalErrorKind;
use crate::json::MAX_JSON_DEPTH;
use crate::value::Value;

/// Levels of arrays and objects in a value that a rule makes. It bounds the stack of every walk over one.
pub const MAX_VALUE_DEPTH: usize = 256;

/// Bytes of text that are looked through in about the time of one step.
const BYTES_A_STEP: usize = 64;

/// Bytes that an element of an array or object counts for, beside its text.
const ELEMENT_BYTES: usize = 32;

/// What one evaluation of one rule may use before it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvalLimits {
    /// Expressions evaluated, elements walked or made.
    pub steps: u64,
    /// Bytes of text, arrays and objects made or put out, at 32 bytes an element.
    pub bytes: u64,
}

impl EvalLimits {
    /// A million steps: about ten milliseconds.
    pub const DEFAULT_STEPS: u64 = 1_000_000;
    /// 16 MiB, sixteen times the largest message by default.
    pub const DEFAULT_BYTES: u64 = 16 * 1024 * 1024;
}

impl Default for EvalLimits {
    fn default() -> Self {
        Self { steps: Self::DEFAULT_STEPS, bytes: Self::DEFAULT_BYTES }
    }
}

/// What is left of the limits.
#[derive(Debug)]
pub(crate) struct Meter {
    left: EvalLimits,
}

impl Meter {
    pub(crate) fn new(limits: EvalLimits) -> Self {
        Self { left: limits }
    }

    pub(crate) fn step(&mut self) -> Result<(), EvalErrorKind> {
        self.steps(1)
    }

    pub(crate) fn steps(&mut self, count: usize) -> Result<(), EvalErrorKind> {
        self.left.steps = self.left.steps.checked_sub(count as u64).ok_or(EvalErrorKind::TooManySteps)?;
        Ok(())
    }

    /// Before that many bytes of text are made.
    pub(crate) fn bytes(&mut self, count: usize) -> Result<(), EvalErrorKind> {
        self.left.bytes = self.left.bytes.checked_sub(count as u64).ok_or(EvalErrorKind::TooManyBytes)?;
        Ok(())
    }

    /// Before an array or object of that many elements is made.
    pub(crate) fn elements(&mut self, count: usize) -> Result<(), EvalErrorKind> {
        self.steps(count)?;
        self.bytes(count.saturating_mul(ELEMENT_BYTES))
    }

    /// Before that many bytes of text are looked through.
    pub(crate) fn scan(&mut self, bytes: usize) -> Result<(), EvalErrorKind> {
        self.steps(bytes / BYTES_A_STEP)
    }

    /// Before all of a value is looked through, as to compare it.
    pub(crate) fn walk(&mut self, value: &Value<'_>) -> Result<(), EvalErrorKind> {
        match value {
            Value::Array(items) => {
                items.iter().try_for_each(|item| self.step().and_then(|()| self.walk(item)))
            }
            Value::Map(map) => map.values().try_for_each(|item| self.step().and_then(|()| self.walk(item))),
            // JSON that is still text is taken apart on the way.
            Value::Json(json) => self.scan(json.text().len().saturating_mul(4)),
            Value::Str(text) => self.scan(text.len()),
            Value::Bytes(bytes) => self.scan(bytes.len()),
            _ => Ok(()),
        }
    }

    /// Before a value becomes output or part of another: with everything in it, and each part as often as it occurs.
    /// An array that holds another one twice is small in memory, and would be twice as large wherever it is written.
    pub(crate) fn make(&mut self, value: &Value<'_>) -> Result<(), EvalErrorKind> {
        self.make_within(value, MAX_VALUE_DEPTH)
    }

    /// The same of a value that may have so many levels.
    pub(crate) fn make_within(&mut self, value: &Value<'_>, levels: usize) -> Result<(), EvalErrorKind> {
        let below = || levels.checked_sub(1).ok_or(EvalErrorKind::TooDeep);
        match value {
            Value::Array(items) => {
                self.elements(items.len())?;
                items.iter().try_for_each(|item| self.make_within(item, below()?))
            }
            Value::Map(map) => {
                self.elements(map.len())?;
                map.iter().try_for_each(|(name, item)| {
                    self.bytes(name.len())?;
                    self.make_within(item, below()?)
                })
            }
            Value::Json(_) if levels < MAX_JSON_DEPTH => Err(EvalErrorKind::TooDeep),
            Value::Json(json) => self.bytes(json.text().len()),
            Value::Str(text) | Value::BigNumber(text) => self.bytes(text.len()),
            Value::Bytes(bytes) => self.bytes(bytes.len()),
            _ => Ok(()),
        }
    }
}
