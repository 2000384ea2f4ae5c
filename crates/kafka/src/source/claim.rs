//! A partition that this member reads, how far it has been handed over, and the batches on the way to whoever reads them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, watch};

use crate::reader::FetchedRecord;

/// A partition for as long as one generation of the group gives it to this member.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) topic: Arc<str>,
    pub(crate) partition: i32,
    progress: Mutex<Progress>,
    revoked: watch::Sender<bool>,
    /// Batches in the hands of whoever reads.
    in_hand: watch::Sender<usize>,
    /// Records that were handed over, of all partitions.
    handed_over: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Progress {
    /// Where the next fetch begins; `None` until it is known.
    fetch_at: Option<i64>,
    /// What the group has committed, if anything.
    committed: Option<i64>,
    /// Everything before is handed over; `None` like `fetch_at`.
    done: Option<i64>,
    /// Batches that were fetched and are not handed over as a whole, in order. As many as are buffered or in hand.
    outstanding: VecDeque<Outstanding>,
    next_number: u64,
    high_watermark: Option<i64>,
}

#[derive(Debug)]
struct Outstanding {
    number: u64,
    /// Everything of this batch before this offset is handed over.
    done: i64,
    next_offset: i64,
}

/// How far a partition has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) committed: Option<i64>,
    pub(crate) done: Option<i64>,
    pub(crate) high_watermark: Option<i64>,
}

impl Claim {
    pub(crate) fn new(
        topic: Arc<str>,
        partition: i32,
        committed: Option<i64>,
        handed_over: Arc<AtomicU64>,
    ) -> Self {
        let progress = Progress {
            fetch_at: committed,
            committed,
            done: committed,
            outstanding: VecDeque::new(),
            next_number: 0,
            high_watermark: None,
        };
        let (revoked, in_hand) = (watch::Sender::new(false), watch::Sender::new(0));
        Self { topic, partition, progress: Mutex::new(progress), revoked, in_hand, handed_over }
    }

    pub(crate) fn fetch_at(&self) -> Option<i64> {
        self.progress.lock().fetch_at
    }

    /// Begins at `offset`: nothing was committed, or what was committed does not exist any more.
    pub(crate) fn begin_at(&self, offset: i64) {
        let mut progress = self.progress.lock();
        progress.fetch_at = Some(offset);
        // What is outstanding was fetched before, and keeps its place in front of what follows.
        if progress.outstanding.is_empty() {
            progress.done = Some(offset);
        }
    }

    pub(crate) fn set_high_watermark(&self, offset: i64) {
        self.progress.lock().high_watermark = Some(offset);
    }

    /// Takes note that everything up to `next_offset` was fetched, and returns the number of the batch.
    pub(crate) fn fetched(&self, next_offset: i64) -> u64 {
        let mut progress = self.progress.lock();
        let number = progress.next_number;
        progress.next_number += 1;
        let done = progress.fetch_at.unwrap_or(next_offset);
        progress.fetch_at = Some(next_offset);
        progress.outstanding.push_back(Outstanding { number, done, next_offset });
        number
    }

    /// Takes note that what was fetched as `number` is handed over up to `offset`.
    pub(crate) fn hand_over(&self, number: u64, offset: i64) {
        let mut progress = self.progress.lock();
        let progress = &mut *progress;
        let Some(first) = progress.outstanding.front().map(|batch| batch.number) else { return };
        let index = number.checked_sub(first).and_then(|index| usize::try_from(index).ok());
        let Some(batch) = index.and_then(|index| progress.outstanding.get_mut(index)) else { return };
        batch.done = batch.done.max(offset.min(batch.next_offset));
        // Batches leave from the front only, so their numbers stay without a gap.
        while let Some(batch) = progress.outstanding.front() {
            progress.done = Some(batch.done);
            if batch.done < batch.next_offset {
                break;
            }
            progress.outstanding.pop_front();
        }
    }

    pub(crate) fn place(&self) -> Place {
        let progress = self.progress.lock();
        Place { committed: progress.committed, done: progress.done, high_watermark: progress.high_watermark }
    }

    /// The offset to commit, where it is not committed yet.
    pub(crate) fn to_commit(&self) -> Option<i64> {
        let progress = self.progress.lock();
        progress.done.filter(|done| progress.committed != Some(*done))
    }

    pub(crate) fn committed(&self, offset: i64) {
        self.progress.lock().committed = Some(offset);
    }

    /// The partition is not ours any more: batches that nobody has taken are void, and who has one is told.
    pub(crate) fn revoke(&self) {
        self.revoked.send_replace(true);
    }

    /// Waits until nobody holds a batch of this partition. Cancel safe.
    pub(crate) async fn let_go(&self) {
        // The sender lives in `self`, so this cannot fail.
        let _ = self.in_hand.subscribe().wait_for(|count| *count == 0).await;
    }
}

/// Records of one partition, in order, on the way to whoever hands them over.
///
/// Say [`Batch::handed_over`] as records are safe where they went, and [`Batch::finish`] when all are: what the group
/// commits never passes a record of which that was not said. A batch that is dropped before holds the commits of its
/// partition back: it comes again when the partition is assigned anew, to this member or another.
#[derive(Debug)]
pub struct Batch {
    claim: Arc<Claim>,
    number: u64,
    records: Vec<FetchedRecord>,
    next_offset: i64,
    /// Records of which `handed_over` was said.
    counted: usize,
    is_taken: bool,
    /// Its part of the buffer.
    _room: OwnedSemaphorePermit,
}

impl Batch {
    pub(crate) fn new(
        claim: Arc<Claim>,
        number: u64,
        records: Vec<FetchedRecord>,
        next_offset: i64,
        room: OwnedSemaphorePermit,
    ) -> Self {
        Self { claim, number, records, next_offset, counted: 0, is_taken: false, _room: room }
    }

    /// Takes the batch into the reader's hands, unless its partition is not ours any more.
    pub(crate) fn take(&mut self) -> bool {
        // Counted first: a revocation that comes in between then waits for us.
        self.is_taken = true;
        self.claim.in_hand.send_modify(|count| *count += 1);
        !self.is_revoked()
    }

    /// The Kafka topic.
    pub fn topic(&self) -> &str {
        &self.claim.topic
    }

    /// The partition.
    pub fn partition(&self) -> i32 {
        self.claim.partition
    }

    /// The records, in the order of their offsets. Never empty.
    pub fn records(&self) -> &[FetchedRecord] {
        &self.records
    }

    /// Says that the first `count` records of the batch are handed over.
    pub fn handed_over(&mut self, count: usize) {
        let count = count.min(self.records.len());
        if count > self.counted {
            self.claim.handed_over.fetch_add((count - self.counted) as u64, Ordering::Relaxed);
            self.counted = count;
            let offset = self.records.get(count).map_or(self.next_offset, |record| record.offset);
            self.claim.hand_over(self.number, offset);
        }
    }

    /// Says that all records are handed over.
    pub fn finish(mut self) {
        self.handed_over(self.records.len());
    }

    /// Whether the partition is not this member's any more. What is handed over from here on is handed over by its new
    /// owner as well.
    pub fn is_revoked(&self) -> bool {
        *self.claim.revoked.borrow()
    }

    /// Waits until [`Batch::is_revoked`].
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn revoked(&self) {
        // The sender lives in the claim, so this cannot fail.
        let _ = self.claim.revoked.subscribe().wait_for(|revoked| *revoked).await;
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        if self.is_taken {
            self.claim.in_hand.send_modify(|count| *count -= 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(committed: Option<i64>) -> Claim {
        Claim::new("t".into(), 0, committed, Arc::default())
    }

    #[test]
    fn a_commit_covers_what_was_handed_over_without_a_gap() {
        let claim = claim(Some(10));
        assert_eq!(claim.to_commit(), None, "nothing new");
        let [first, second, third] = [14, 20, 21].map(|next| claim.fetched(next));
        claim.hand_over(second, 20);
        assert_eq!(claim.to_commit(), None, "the first batch is not handed over");
        claim.hand_over(first, 12);
        assert_eq!(claim.to_commit(), Some(12));
        claim.hand_over(first, 14);
        assert_eq!(claim.to_commit(), Some(20), "the second batch was waiting for the first");
        claim.committed(20);
        assert_eq!(claim.to_commit(), None);
        claim.hand_over(first, 14);
        claim.hand_over(third, 99);
        assert_eq!(claim.to_commit(), Some(21), "no further than it was fetched");
    }

    #[test]
    fn where_a_partition_begins_is_committed_before_anything_was_read() {
        let claim = claim(None);
        assert_eq!((claim.fetch_at(), claim.to_commit()), (None, None));
        claim.begin_at(7);
        assert_eq!((claim.fetch_at(), claim.to_commit()), (Some(7), Some(7)));
    }
}
