//! What a partition remembers of its idempotent producers: enough to tell a repeated batch from a gap.
//!
//! As in Kafka, the last five batches of a producer are remembered, which is why a producer may have five requests in
//! flight. A producer that is not known may begin at any sequence number (KIP-360), unless a test has expired its id.

use std::collections::{HashMap, VecDeque};

use crate::ErrorCode;
use crate::record_batch::{BatchHeader, sequence_after};

/// Batches remembered for each producer.
const REMEMBERED_BATCHES: usize = 5;
/// Producers remembered for each partition; the one that has been silent longest is forgotten first.
const MAX_PRODUCERS: usize = 1024;

#[derive(Debug, Clone, Copy)]
struct Remembered {
    first_sequence: i32,
    last_sequence: i32,
    base_offset: i64,
    last_offset: i64,
}

#[derive(Debug, Default)]
struct Producer {
    epoch: i16,
    batches: VecDeque<Remembered>,
    /// The offset of the last batch orders producers by how long they have been silent.
    last_offset: i64,
}

/// What to do with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Append,
    /// It is in the log already, from here to there.
    Duplicate {
        base_offset: i64,
        last_offset: i64,
    },
}

/// The producers of one partition.
#[derive(Debug, Default)]
pub(crate) struct Producers {
    known: HashMap<i64, Producer>,
    /// Ids below this were expired by a test.
    expired_below: i64,
}

impl Producers {
    /// Judges a batch that wants to be appended.
    pub(crate) fn check(&self, batch: &BatchHeader) -> Result<Verdict, ErrorCode> {
        if batch.producer_id < 0 {
            return Ok(Verdict::Append);
        }
        let Some(producer) = self.known.get(&batch.producer_id) else {
            let expired = batch.producer_id < self.expired_below && batch.base_sequence != 0;
            return if expired { Err(ErrorCode::UNKNOWN_PRODUCER_ID) } else { Ok(Verdict::Append) };
        };
        if batch.producer_epoch < producer.epoch {
            return Err(ErrorCode::INVALID_PRODUCER_EPOCH);
        }
        if batch.producer_epoch > producer.epoch {
            let restarts = batch.base_sequence == 0;
            return if restarts { Ok(Verdict::Append) } else { Err(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER) };
        }
        let last_sequence = batch.last_sequence();
        let repeated = producer.batches.iter().find(|known| {
            known.first_sequence == batch.base_sequence && known.last_sequence == last_sequence
        });
        if let Some(known) = repeated {
            return Ok(Verdict::Duplicate { base_offset: known.base_offset, last_offset: known.last_offset });
        }
        match producer.batches.back() {
            Some(last) if sequence_after(last.last_sequence, 1) != batch.base_sequence => {
                Err(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER)
            }
            _ => Ok(Verdict::Append),
        }
    }

    /// Remembers an appended batch; `batch` has its offset.
    pub(crate) fn appended(&mut self, batch: &BatchHeader) {
        if batch.producer_id < 0 {
            return;
        }
        if self.known.len() >= MAX_PRODUCERS && !self.known.contains_key(&batch.producer_id) {
            let silent =
                self.known.iter().min_by_key(|(_, producer)| producer.last_offset).map(|(&id, _)| id);
            self.known.retain(|&id, _| Some(id) != silent);
        }
        let producer = self.known.entry(batch.producer_id).or_default();
        if producer.epoch != batch.producer_epoch {
            producer.epoch = batch.producer_epoch;
            producer.batches.clear();
        }
        if producer.batches.len() == REMEMBERED_BATCHES {
            producer.batches.pop_front();
        }
        producer.last_offset = batch.last_offset();
        producer.batches.push_back(Remembered {
            first_sequence: batch.base_sequence,
            last_sequence: batch.last_sequence(),
            base_offset: batch.base_offset,
            last_offset: batch.last_offset(),
        });
    }

    /// Forgets all producers; those with an id below `next_id` have to begin at sequence 0 again.
    pub(crate) fn expire(&mut self, next_id: i64) {
        self.known.clear();
        self.expired_below = next_id;
    }

    /// The highest producer id in the partition.
    pub(crate) fn highest_id(&self) -> Option<i64> {
        self.known.keys().copied().max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record_batch::tests::batch;
    use crate::record_batch::validate;

    fn header(epoch: i16, sequence: i32, offset: i64) -> BatchHeader {
        BatchHeader { base_offset: offset, ..validate(&batch(&["a", "b"], (9, epoch, sequence))).unwrap() }
    }

    #[test]
    fn one_of_the_last_five_batches_is_answered_with_its_first_offset() {
        let mut producers = Producers::default();
        for n in 0..7 {
            let batch = header(0, n * 2, i64::from(n) * 2 + 100);
            assert_eq!(producers.check(&batch), Ok(Verdict::Append));
            producers.appended(&batch);
        }
        for n in 2..7_i32 {
            let base_offset = i64::from(n) * 2 + 100;
            let expected = Verdict::Duplicate { base_offset, last_offset: base_offset + 1 };
            assert_eq!(producers.check(&header(0, n * 2, 0)), Ok(expected));
        }
        for n in [0, 1, 8, 9] {
            let verdict = producers.check(&header(0, n * 2, 0));
            assert_eq!(verdict, Err(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER), "batch {n}");
        }
    }

    #[test]
    fn a_new_epoch_begins_at_zero_and_fences_the_old_one() {
        let mut producers = Producers::default();
        producers.appended(&header(0, 0, 0));
        assert_eq!(producers.check(&header(1, 2, 0)), Err(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER));
        assert_eq!(producers.check(&header(1, 0, 0)), Ok(Verdict::Append));
        producers.appended(&header(1, 0, 2));
        assert_eq!(producers.check(&header(0, 2, 0)), Err(ErrorCode::INVALID_PRODUCER_EPOCH));
    }

    #[test]
    fn an_expired_producer_is_unknown_until_it_begins_anew() {
        let mut producers = Producers::default();
        assert_eq!(producers.check(&header(0, 40, 0)), Ok(Verdict::Append), "never seen: any sequence");
        producers.appended(&header(0, 40, 0));
        producers.expire(10);
        assert_eq!(producers.check(&header(0, 42, 0)), Err(ErrorCode::UNKNOWN_PRODUCER_ID));
        assert_eq!(producers.check(&header(0, 0, 0)), Ok(Verdict::Append));
    }

    #[test]
    fn the_number_of_remembered_producers_is_bounded() {
        let mut producers = Producers::default();
        for (id, _) in (0..).zip(0..MAX_PRODUCERS + 10) {
            producers.appended(&BatchHeader { producer_id: id, base_offset: id * 2, ..header(0, 0, 0) });
        }
        assert_eq!(producers.known.len(), MAX_PRODUCERS);
        assert!(!producers.known.contains_key(&0), "the one silent longest went first");
    }
}
