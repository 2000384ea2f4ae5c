//! When a batch is complete: by bytes, by count, or because its first item has waited long enough.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The bounds of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// A batch holds no more bytes than this, unless a single item is larger. 256 KiB unless told.
    pub bytes: usize,
    /// A batch holds no more items than this. 1000 unless told.
    pub count: usize,
    /// The first item of a batch waits no longer than this for company. 5 ms unless told.
    pub linger: Duration,
}

impl Default for BatchLimits {
    fn default() -> Self {
        Self { bytes: 256 * 1024, count: 1000, linger: Duration::from_millis(5) }
    }
}

/// A queue which gives its items back in batches. It reads no clock: whoever calls says what time it is.
#[derive(Debug)]
pub struct Batcher<T> {
    limits: BatchLimits,
    items: VecDeque<Item<T>>,
    bytes: usize,
}

#[derive(Debug)]
struct Item<T> {
    value: T,
    bytes: usize,
    since: Instant,
}

impl<T> Batcher<T> {
    /// An empty queue. Limits of zero are taken as one.
    pub fn new(limits: BatchLimits) -> Self {
        let limits =
            BatchLimits { bytes: limits.bytes.max(1), count: limits.count.max(1), linger: limits.linger };
        Self { limits, items: VecDeque::new(), bytes: 0 }
    }

    /// Adds an item of `bytes` at the end. Says whether this completed a batch which was incomplete before.
    pub fn push(&mut self, value: T, bytes: usize, now: Instant) -> bool {
        let complete_before = self.is_complete();
        self.items.push_back(Item { value, bytes, since: now });
        self.bytes += bytes;
        !complete_before && self.is_complete()
    }

    /// Moves the first batch to the end of `out` when it is complete or its first item has waited for the linger; says
    /// whether it did.
    pub fn poll_batch(&mut self, now: Instant, out: &mut Vec<T>) -> bool {
        let due = self.poll_deadline().is_some_and(|deadline| deadline <= now);
        if !due && !self.is_complete() {
            return false;
        }
        self.take_batch(out)
    }

    /// Moves the first batch to the end of `out`, complete or not; says whether there was one.
    pub fn take_batch(&mut self, out: &mut Vec<T>) -> bool {
        let (mut count, mut bytes) = (0, 0);
        while let Some(item) = self.items.front() {
            if count == self.limits.count || (count > 0 && bytes + item.bytes > self.limits.bytes) {
                break;
            }
            count += 1;
            bytes += item.bytes;
            self.bytes -= item.bytes;
            out.extend(self.items.pop_front().map(|item| item.value));
        }
        count > 0
    }

    /// When the first batch is due even if nothing is added; `None` when there is nothing.
    pub fn poll_deadline(&self) -> Option<Instant> {
        self.items.front().map(|item| item.since + self.limits.linger)
    }

    /// Items that wait.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    fn is_complete(&self) -> bool {
        self.bytes >= self.limits.bytes || self.items.len() >= self.limits.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_lone_item_waits_for_the_linger_and_no_longer() {
        let start = Instant::now();
        let limits = BatchLimits { bytes: 100, count: 10, linger: Duration::from_millis(5) };
        let mut batcher = Batcher::new(limits);
        let mut out = Vec::new();
        assert!(!batcher.push('a', 1, start));
        assert!(!batcher.poll_batch(start + Duration::from_micros(4999), &mut out));
        assert!(batcher.poll_batch(start + Duration::from_millis(5), &mut out));
        assert_eq!(out, ['a']);
        assert_eq!(batcher.poll_deadline(), None);
    }

    #[test]
    fn an_item_larger_than_a_batch_travels_alone() {
        let now = Instant::now();
        let mut batcher = Batcher::new(BatchLimits { bytes: 10, count: 10, linger: Duration::ZERO });
        for (name, bytes) in [("small", 3), ("huge", 99), ("next", 3)] {
            batcher.push(name, bytes, now);
        }
        let mut batches = Vec::new();
        let mut out = Vec::new();
        while batcher.poll_batch(now, &mut out) {
            batches.push(std::mem::take(&mut out));
        }
        assert_eq!(batches, [vec!["small"], vec!["huge"], vec!["next"]]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn batches_keep_order_and_bounds(sizes in proptest::collection::vec(1_usize..40, 0..200), bytes in 1_usize..60, count in 1_usize..12) {
            let now = Instant::now();
            let mut batcher = Batcher::new(BatchLimits { bytes, count, linger: Duration::ZERO });
            for (index, &size) in sizes.iter().enumerate() {
                batcher.push((index, size), size, now);
            }
            let (mut all, mut out) = (Vec::new(), Vec::new());
            while batcher.poll_batch(now, &mut out) {
                prop_assert!(out.len() <= count);
                prop_assert!(out.len() == 1 || out.iter().map(|(_, size)| size).sum::<usize>() <= bytes);
                all.append(&mut out);
            }
            prop_assert_eq!(all, sizes.into_iter().enumerate().collect::<Vec<_>>());
        }
    }
}
