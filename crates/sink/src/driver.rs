//! The generic feed: runs a third party's [`Sink`] one batch at a time.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{error, warn};

use crate::{
    Ack, Backoff, BackoffPolicy, BatchLimits, Batcher, Counters, Feed, MemoryBudget, Offer, Outcome,
    OwnedRecord, Record, Rejection, Sink, WriteError, settle_all, settle_each,
};

/// What a [`Driver`] is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriverConfig {
    /// Bounds of a batch.
    pub batch: BatchLimits,
    /// Waits between attempts.
    pub backoff: BackoffPolicy,
    /// Bytes of records held, waiting and in flight. 64 MiB unless told.
    pub budget_bytes: usize,
    /// One attempt may take this long, then it counts as failed and is made again. 30 s unless told.
    pub attempt_timeout: Duration,
}

impl Default for DriverConfig {
    fn default() -> Self {
        Self {
            batch: BatchLimits::default(),
            backoff: BackoffPolicy::default(),
            budget_bytes: 64 * 1024 * 1024,
            attempt_timeout: Duration::from_secs(30),
        }
    }
}

/// A [`Feed`] in front of a [`Sink`]. Dropping it ends its task and settles what is left as lost; [`Driver::close`]
/// gives the sink time to take it.
pub struct Driver {
    shared: Arc<Shared>,
    /// The moment after which nothing more is written; `None` while it runs.
    stop: watch::Sender<Option<Instant>>,
    task: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    queue: Mutex<Queue>,
    work: Notify,
    budget: MemoryBudget,
    counters: Counters,
    config: DriverConfig,
}

struct Queue {
    waiting: Batcher<Entry>,
    /// Whether a batch became complete, or the first of one came, since the last flush.
    wake: bool,
    /// Nothing is taken in any more: a record offered now is settled as lost.
    closed: bool,
}

struct Entry {
    record: OwnedRecord,
    ack: Option<Ack>,
    /// What was taken from the budget for it.
    bytes: usize,
}

impl Driver {
    /// A feed which runs `sink` on a task of `runtime`.
    pub fn spawn<S: Sink>(sink: S, config: DriverConfig, runtime: &Handle) -> Self {
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue { waiting: Batcher::new(config.batch), wake: false, closed: false }),
            work: Notify::new(),
            budget: MemoryBudget::new(config.budget_bytes),
            counters: Counters::default(),
            config,
        });
        let (stop, stopped) = watch::channel(None);
        let writer = Writer {
            sink,
            shared: Arc::clone(&shared),
            stopped,
            backoff: Backoff::new(shared.config.backoff, seed(&shared)),
        };
        let task = Mutex::new(Some(runtime.spawn(writer.run())));
        Self { shared, stop, task }
    }

    /// Takes in nothing more, writes what waits until `deadline` at the latest, and settles the rest as lost.
    ///
    /// # Cancel safety
    /// A dropped future leaves the closing under way.
    pub async fn close(&self, deadline: Instant) {
        self.shared.queue.lock().closed = true;
        self.stop.send_replace(Some(deadline));
        let task = self.task.lock().take();
        if let Some(task) = task {
            // Its only failure is a panic of the sink, whose acks were settled as lost by being dropped.
            let _ = task.await;
        }
    }

    /// What it counts.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Bytes of records held now, waiting and in flight.
    pub fn held_bytes(&self) -> usize {
        self.shared.budget.used()
    }
}

impl Feed for Driver {
    fn offer(&self, record: &Record<'_>, ack: Option<Ack>) -> Offer {
        // Everything but the copy's length is known before the copy is made.
        let bytes = record.payload_bytes() + size_of::<Entry>() + size_of_val(record.headers);
        if !self.shared.budget.try_take(bytes) {
            self.shared.counters.refused();
            return Offer::Full(ack);
        }
        self.shared.counters.offered();
        let entry = Entry { record: OwnedRecord::from(record), ack, bytes };
        let mut queue = self.shared.queue.lock();
        if queue.closed {
            drop(queue);
            self.shared.settle([entry], Outcome::Lost);
            return Offer::Taken;
        }
        let first = queue.waiting.is_empty();
        let complete = queue.waiting.push(entry, bytes, Instant::now().into_std());
        queue.wake |= first || complete;
        Offer::Taken
    }

    fn refuse(&self, _record: &Record<'_>, ack: Option<Ack>, reason: Rejection) -> Offer {
        self.shared.counters.offered();
        self.shared.counters.settled(Outcome::Rejected(reason), 1);
        if let Some(ack) = ack {
            ack.settle(Outcome::Rejected(reason));
        }
        Offer::Taken
    }

    fn flush(&self) {
        let wake = std::mem::take(&mut self.shared.queue.lock().wake);
        if wake {
            self.shared.work.notify_one();
        }
    }

    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.shared.budget.poll_room(cx)
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

impl Shared {
    /// Settles `entries` and gives their bytes back.
    fn settle(&self, entries: impl IntoIterator<Item = Entry>, outcome: Outcome) {
        let (mut bytes, mut records) = (0, 0);
        let acks = entries.into_iter().filter_map(|entry| {
            bytes += entry.bytes;
            records += 1;
            entry.ack
        });
        settle_all(acks, outcome);
        self.counters.settled(outcome, records);
        self.budget.give_back(bytes);
    }

    /// Closes the queue and settles what waits in it.
    fn lose_queue(&self) {
        let mut left = Vec::new();
        {
            let mut queue = self.queue.lock();
            queue.closed = true;
            while queue.waiting.take_batch(&mut left) {}
        }
        self.settle(left, Outcome::Lost);
        self.budget.wake_all();
    }
}

/// The task: owns the sink and the batch that is being written.
struct Writer<S> {
    sink: S,
    shared: Arc<Shared>,
    stopped: watch::Receiver<Option<Instant>>,
    backoff: Backoff,
}

/// Whether the task goes on.
#[derive(PartialEq, Eq)]
enum Next {
    Batch,
    End,
}

impl<S: Sink> Writer<S> {
    async fn run(mut self) {
        // If the sink panics, this closes the queue and settles what it holds as lost all the same.
        let _guard = LoseOnDrop(Arc::clone(&self.shared));
        let mut batch = Vec::new();
        while self.next_batch(&mut batch).await == Next::Batch {
            let records = batch.len() as u64;
            self.shared.counters.sent(records);
            let next = self.write(&mut batch).await;
            self.shared.counters.answered(records);
            self.shared.settle(batch.drain(..), Outcome::Lost);
            if next == Next::End {
                break;
            }
        }
    }

    /// Waits for a batch. Ends when the driver is closed and empty, or its deadline has passed.
    async fn next_batch(&mut self, batch: &mut Vec<Entry>) -> Next {
        loop {
            // A closed sender is a dropped driver, which is a deadline that has passed.
            let closing = self.stopped.has_changed().is_err() || self.stopped.borrow_and_update().is_some();
            let deadline = {
                let mut queue = self.shared.queue.lock();
                let found = if closing {
                    queue.waiting.take_batch(batch)
                } else {
                    queue.waiting.poll_batch(Instant::now().into_std(), batch)
                };
                if found {
                    return Next::Batch;
                }
                queue.waiting.poll_deadline()
            };
            if closing {
                return Next::End;
            }
            let due = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.shared.work.notified() => {}
                () = due => {}
                _ = self.stopped.changed() => {}
            }
        }
    }

    /// Writes `batch` until the sink has taken or refused each record. What is left in it at the end is lost.
    async fn write(&mut self, batch: &mut Vec<Entry>) -> Next {
        let mut records: Vec<OwnedRecord> = Vec::new();
        loop {
            // The records move out for the attempt, so that the sink sees a slice of them without a copy.
            let mut owed = Vec::with_capacity(batch.len());
            for entry in batch.drain(..) {
                records.push(entry.record);
                owed.push((entry.ack, entry.bytes));
            }
            if records.is_empty() {
                return Next::Batch;
            }
            let attempt = tokio::time::timeout(self.shared.config.attempt_timeout, self.sink.write(&records));
            let result = tokio::select! {
                result = attempt => Some(result.unwrap_or_else(|_| Err(WriteError::retry("the attempt timed out")))),
                () = deadline_passed(&mut self.stopped) => None,
            };
            let entries = records.drain(..).zip(owed);
            batch.extend(entries.map(|(record, (ack, bytes))| Entry { record, ack, bytes }));
            let Some(result) = result else { return Next::End };
            let wait = match result {
                Ok(report) => {
                    self.backoff.succeeded();
                    self.reject(batch, &report.rejected);
                    self.shared.settle(batch.drain(..), Outcome::Delivered);
                    return Next::Batch;
                }
                Err(WriteError::Fatal { reason }) => {
                    error!(%reason, "the sink can't go on");
                    self.shared.counters.failed(SystemTime::now(), &reason);
                    return Next::End;
                }
                Err(WriteError::Reject { records, reason }) if self.reject(batch, &records) > 0 => {
                    self.shared.counters.failed(SystemTime::now(), &reason);
                    Duration::ZERO
                }
                Err(WriteError::Retry { reason, after }) => {
                    self.failed(&reason).max(after.unwrap_or_default())
                }
                Err(WriteError::Reject { reason, .. }) => self.failed(&reason),
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = deadline_passed(&mut self.stopped) => return Next::End,
            }
        }
    }

    fn failed(&mut self, reason: &str) -> Duration {
        let wait = self.backoff.failed();
        self.shared.counters.retried();
        self.shared.counters.failed(SystemTime::now(), reason);
        // One line when it begins and one for each doubling of the failures, not one for each attempt.
        if self.backoff.attempts().is_power_of_two() {
            warn!(
                reason,
                attempts = self.backoff.attempts(),
                "the sink did not take a batch; it is written again"
            );
        }
        wait
    }

    /// Takes the refused records out of `batch` and settles them; says how many there were.
    fn reject(&self, batch: &mut Vec<Entry>, refused: &[(usize, Rejection)]) -> usize {
        if refused.is_empty() {
            return 0;
        }
        let before = batch.len();
        let mut settled = Vec::new();
        let mut reasons: Vec<Option<Rejection>> = vec![None; before];
        for &(index, reason) in refused {
            if let Some(place) = reasons.get_mut(index) {
                *place = Some(reason);
            }
        }
        let mut bytes = 0;
        let mut kept = Vec::new();
        for (entry, reason) in batch.drain(..).zip(reasons) {
            match reason {
                None => kept.push(entry),
                Some(reason) => {
                    bytes += entry.bytes;
                    self.shared.counters.settled(Outcome::Rejected(reason), 1);
                    settled.extend(entry.ack.map(|ack| (ack, Outcome::Rejected(reason))));
                }
            }
        }
        *batch = kept;
        settle_each(settled);
        self.shared.budget.give_back(bytes);
        before - batch.len()
    }
}

/// Closes the queue when the task ends, however it ends.
struct LoseOnDrop(Arc<Shared>);

impl Drop for LoseOnDrop {
    fn drop(&mut self) {
        self.0.lose_queue();
    }
}

/// Returns when a deadline was set and has passed, or when the driver was dropped.
async fn deadline_passed(stopped: &mut watch::Receiver<Option<Instant>>) {
    let deadline = stopped.wait_for(Option::is_some).await.map(|deadline| *deadline);
    if let Ok(Some(deadline)) = deadline {
        tokio::time::sleep_until(deadline).await;
    }
}

/// Different for each driver of a process, which is all that jitter needs.
fn seed(shared: &Arc<Shared>) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(Arc::as_ptr(shared))
}
