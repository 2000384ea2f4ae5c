//! What helps against each of Kafka's error codes. The crate's documentation has the table.

use std::fmt;

use rskafka::protocol::error::Error as KafkaError;
use tidegate_sink::Rejection;

/// What an answer to a batch asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorClass {
    /// The batch is there: now, or since an earlier attempt (a repeated sequence number).
    Delivered,
    /// Ask who leads the partition now, then send the same bytes there.
    RetryWithMetadata,
    /// Send the same bytes again after a backoff.
    RetryInPlace,
    /// Too large together: send halves, and reject the record that is too large alone.
    Split(Rejection),
    /// Nothing that a producer does helps. Hold what waits, tell the operator, ask again at the backoff's cap.
    Park,
    /// Kafka does not know our sequence any more: take a new producer id and send everything unanswered again.
    NewProducerId,
}

impl ErrorClass {
    /// All classes of failures, in the order of [`ErrorClass::index`].
    pub(crate) const FAILURES: [Self; 5] = [
        Self::RetryWithMetadata,
        Self::RetryInPlace,
        Self::Split(Rejection::TooLarge),
        Self::Park,
        Self::NewProducerId,
    ];

    /// A small number for counters; `None` for what is no failure.
    pub(crate) fn index(self) -> Option<usize> {
        match self {
            Self::Delivered => None,
            Self::RetryWithMetadata => Some(0),
            Self::RetryInPlace => Some(1),
            Self::Split(_) => Some(2),
            Self::Park => Some(3),
            Self::NewProducerId => Some(4),
        }
    }

    /// A name for metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::RetryWithMetadata => "retry_with_metadata",
            Self::RetryInPlace => "retry_in_place",
            Self::Split(_) => "split",
            Self::Park => "park",
            Self::NewProducerId => "new_producer_id",
        }
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

pub(crate) const UNKNOWN_SERVER_ERROR: i16 = -1;
pub(crate) const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
pub(crate) const INVALID_TOPIC: i16 = 17;
pub(crate) const TOPIC_ALREADY_EXISTS: i16 = 36;
pub(crate) const OUT_OF_ORDER_SEQUENCE: i16 = 45;

/// What `code`, answered to a produced batch, asks for.
pub fn classify(code: i16) -> ErrorClass {
    match code {
        // NONE, DUPLICATE_SEQUENCE_NUMBER
        0 | 46 => ErrorClass::Delivered,
        // UNKNOWN_TOPIC_OR_PARTITION, LEADER_NOT_AVAILABLE, NOT_LEADER_OR_FOLLOWER, BROKER_NOT_AVAILABLE,
        // REPLICA_NOT_AVAILABLE, NETWORK_EXCEPTION, KAFKA_STORAGE_ERROR, LISTENER_NOT_FOUND, FENCED_LEADER_EPOCH,
        // UNKNOWN_LEADER_EPOCH, UNKNOWN_TOPIC_ID, INCONSISTENT_TOPIC_ID
        3 | 5 | 6 | 8 | 9 | 13 | 56 | 72 | 74 | 75 | 100 | 103 => ErrorClass::RetryWithMetadata,
        // CORRUPT_MESSAGE, REQUEST_TIMED_OUT, COORDINATOR_LOAD_IN_PROGRESS, COORDINATOR_NOT_AVAILABLE, NOT_COORDINATOR,
        // NOT_ENOUGH_REPLICAS, NOT_ENOUGH_REPLICAS_AFTER_APPEND, CONCURRENT_TRANSACTIONS, THROTTLING_QUOTA_EXCEEDED
        2 | 7 | 14 | 15 | 16 | 19 | 20 | 51 | 89 => ErrorClass::RetryInPlace,
        // MESSAGE_TOO_LARGE, RECORD_LIST_TOO_LARGE
        10 | 18 => ErrorClass::Split(Rejection::TooLarge),
        // INVALID_TIMESTAMP, INVALID_RECORD
        32 | 87 => ErrorClass::Split(Rejection::Invalid),
        // OUT_OF_ORDER_SEQUENCE_NUMBER, INVALID_PRODUCER_EPOCH, INVALID_PRODUCER_ID_MAPPING, UNKNOWN_PRODUCER_ID,
        // PRODUCER_FENCED
        45 | 47 | 49 | 59 | 90 => ErrorClass::NewProducerId,
        // INVALID_TOPIC_EXCEPTION, INVALID_REQUIRED_ACKS, the authorisation errors, UNSUPPORTED_VERSION,
        // UNSUPPORTED_FOR_MESSAGE_FORMAT, POLICY_VIOLATION, UNSUPPORTED_COMPRESSION_TYPE, UNKNOWN_SERVER_ERROR and
        // whatever a later Kafka invents.
        _ => ErrorClass::Park,
    }
}

/// The name of an error code for an operator, such as `NotEnoughReplicas`.
pub fn error_name(code: i16) -> String {
    KafkaError::new(code).map_or_else(|| "no error".to_owned(), |error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_of_the_table_has_its_class_and_unknown_codes_are_parked() {
        for (codes, class) in [
            (&[0, 46][..], ErrorClass::Delivered),
            (&[3, 5, 6, 8, 9, 13, 56, 72, 74, 75, 100, 103], ErrorClass::RetryWithMetadata),
            (&[2, 7, 14, 15, 16, 19, 20, 51, 89], ErrorClass::RetryInPlace),
            (&[10, 18], ErrorClass::Split(Rejection::TooLarge)),
            (&[32, 87], ErrorClass::Split(Rejection::Invalid)),
            (&[45, 47, 49, 59, 90], ErrorClass::NewProducerId),
            (&[-1, 17, 21, 29, 31, 35, 42, 43, 44, 53, 58, 76, 9999, i16::MIN], ErrorClass::Park),
        ] {
            for &code in codes {
                assert_eq!(classify(code), class, "{code} {}", error_name(code));
            }
        }
    }

    #[test]
    fn every_failure_has_a_counter_of_its_own() {
        for (index, class) in ErrorClass::FAILURES.into_iter().enumerate() {
            assert_eq!(class.index(), Some(index));
        }
    }
}
