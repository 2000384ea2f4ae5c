//! What a third party writes to add a destination.

use std::time::Duration;

use thiserror::Error;

use crate::{OwnedRecord, Rejection};

/// A destination, as its author writes it: [`Driver`](crate::Driver) queues, batches, retries and settles around it.
pub trait Sink: Send + 'static {
    /// Writes one batch, in order, and returns when it is as safe as this destination makes it.
    ///
    /// `Ok` means that every record but those listed in the report is there. After an error the driver writes the same
    /// batch again, so a destination that can tell a repetition apart has no duplicates.
    ///
    /// # Cancel safety
    /// The future is dropped midway at a shutdown whose deadline passed, and never used again.
    fn write(
        &mut self,
        batch: &[OwnedRecord],
    ) -> impl Future<Output = Result<WriteReport, WriteError>> + Send;
}

/// What became of a batch that was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteReport {
    /// Records which the destination will never take, by their index in the batch. All others are there.
    pub rejected: Vec<(usize, Rejection)>,
}

/// Why a batch was not written, sorted by what helps.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WriteError {
    /// Waiting helps: the same batch is written again after a backoff, and no sooner than `after`.
    #[error("not now: {reason}")]
    Retry {
        /// For the operator.
        reason: String,
        /// What the destination asked for, if it did.
        after: Option<Duration>,
    },
    /// The batch was refused because of these records. They are settled as rejected, and the others are written again
    /// at once. An empty list, or an index outside of the batch, counts as [`WriteError::Retry`].
    #[error("{} records refused: {reason}", records.len())]
    Reject {
        /// Index in the batch, and why.
        records: Vec<(usize, Rejection)>,
        /// For the operator.
        reason: String,
    },
    /// Nothing helps. Everything that waits is settled as lost, and so is all that is offered later.
    #[error("the sink can't go on: {reason}")]
    Fatal {
        /// For the operator.
        reason: String,
    },
}

impl WriteError {
    /// [`WriteError::Retry`] for `reason`, when the driver's backoff says.
    pub fn retry(reason: impl Into<String>) -> Self {
        Self::Retry { reason: reason.into(), after: None }
    }
}
