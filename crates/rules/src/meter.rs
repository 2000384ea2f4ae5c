//! What one evaluation may cost. Every step and everything that grows goes through a [`Meter`].

use crate::error::EvalErrorKind;

/// What one evaluation of one rule may use before it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvalLimits {
    /// Expressions evaluated, elements walked or made.
    pub steps: u64,
    /// Bytes of text and arrays made, at 32 bytes an element.
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
        const ELEMENT_BYTES: usize = 32;
        self.steps(count)?;
        self.bytes(count.saturating_mul(ELEMENT_BYTES))
    }
}
