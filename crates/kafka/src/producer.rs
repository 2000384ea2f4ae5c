//! The producer: what an embedder starts, offers records to, and closes.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use ahash::RandomState as FastHash;
use parking_lot::{Mutex, RwLock};
use tidegate_sink::{Ack, Feed, MemoryBudget, Offer, Outcome, Record, Rejection};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::config::{Config, MAX_TOPICS};
use crate::connection::Dialer;
use crate::control::{Control, ControlTask};
use crate::lane::{Lane, LaneTask};
use crate::record_batch::{Buffers, SealedBatch, budget_bytes};
use crate::status::{Meter, Status};
use crate::topic::{Ended, MAX_TOPIC_NAME_BYTES, Topic};

/// Empty buffers kept for the next batches, at most.
const MAX_SPARE_BUFFERS: usize = 64;
/// What Kafka's signed lengths can say, with room for what stands around the batches.
const MAX_REQUEST_BYTES: usize = 1 << 30;
/// How often a closing producer looks whether all is delivered.
const CLOSING_LOOK: Duration = Duration::from_millis(2);

/// A [`Feed`] that writes to Kafka. Nothing is given up because of time alone: a record stays until it is delivered,
/// refused by Kafka for good, or lost at [`Producer::close`].
///
/// Dropping it ends its tasks and settles what is left as lost.
pub struct Producer {
    shared: Arc<Shared>,
    control: JoinHandle<()>,
}

/// What the tasks of a producer and those who offer to it share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) dialer: Arc<Dialer>,
    pub(crate) budget: MemoryBudget,
    pub(crate) meter: Meter,
    pub(crate) control: Control,
    topics: RwLock<HashMap<Arc<str>, Arc<Topic>, FastHash>>,
    addresses: RwLock<HashMap<i32, (String, u16)>>,
    lanes: RwLock<Vec<Arc<Lane>>>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    spare: Mutex<Vec<Buffers>>,
    runtime: Handle,
    seeds: (RandomState, AtomicU64),
    reached: AtomicBool,
    closing: AtomicBool,
    stopped: AtomicBool,
}

impl Producer {
    /// Starts a producer on `runtime`. Kafka need not be there yet.
    pub fn start(mut config: Config, runtime: &Handle) -> Self {
        config.max_request_bytes = config.max_request_bytes.clamp(1, MAX_REQUEST_BYTES);
        let dialer = Arc::new(Dialer {
            connect: Arc::clone(&config.connect),
            sasl: config.sasl.clone(),
            client_id: config.client_id.as_str().into(),
            timeout: config.connect_timeout,
        });
        let shared = Arc::new(Shared {
            dialer,
            budget: MemoryBudget::new(config.budget_bytes),
            meter: Meter::default(),
            control: Control::default(),
            topics: RwLock::default(),
            addresses: RwLock::default(),
            lanes: RwLock::default(),
            tasks: Mutex::default(),
            spare: Mutex::default(),
            runtime: runtime.clone(),
            seeds: (RandomState::new(), AtomicU64::new(0)),
            reached: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            config,
        });
        let control = {
            // A task's timers belong to the runtime that it is made in.
            let _entered = runtime.enter();
            runtime.spawn(ControlTask::new(Arc::clone(&shared)).run())
        };
        Self { shared, control }
    }

    /// What an operator may know.
    pub fn status(&self) -> Status {
        let shared = &self.shared;
        shared.meter.snapshot(
            shared.budget.used(),
            shared.reached.load(Ordering::Relaxed),
            shared.is_closing(),
        )
    }

    /// Takes in nothing more, delivers until `deadline` what can be delivered, and settles the rest as lost.
    ///
    /// # Cancel safety
    /// A dropped future leaves the producer closed for new records, delivering what it has until it is dropped itself.
    pub async fn close(&self, deadline: Instant) {
        self.shared.closing.store(true, Ordering::SeqCst);
        self.shared.wake_lanes();
        while self.shared.budget.used() > 0 && Instant::now() < deadline {
            tokio::time::sleep(CLOSING_LOOK.min(deadline.saturating_duration_since(Instant::now()))).await;
        }
        self.stop();
        let tasks = std::mem::take(&mut *self.shared.tasks.lock());
        for task in tasks {
            // A lane ends by itself; one that panicked has lost its acks by dropping them.
            let _ = task.await;
        }
        self.shared.lose_rest();
    }

    fn stop(&self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.control.abort();
        self.shared.wake_lanes();
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.stop();
        self.shared.lose_rest();
    }
}

impl Feed for Producer {
    fn offer(&self, record: &Record<'_>, ack: Option<Ack>) -> Offer {
        let shared = &*self.shared;
        let charged = budget_bytes(record);
        if !shared.budget.try_take(charged) {
            shared.meter.records.refused();
            return Offer::Full(ack);
        }
        shared.meter.records.offered();
        // Settled after every lock is released: whoever is told may offer again.
        if let Err(ended) = shared.offer(record, ack, charged) {
            shared.end([ended]);
        }
        Offer::Taken
    }

    fn flush(&self) {
        self.shared.lanes.read().iter().for_each(|lane| lane.flush());
    }

    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.shared.budget.poll_room(cx)
    }
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

impl Shared {
    fn offer(&self, record: &Record<'_>, ack: Option<Ack>, charged: usize) -> Result<(), Ended> {
        let rejected = |ack, reason| Err(Ended { ack, charged, outcome: Outcome::Rejected(reason) });
        if self.is_closing() {
            return Err(Ended { ack, charged, outcome: Outcome::Lost });
        }
        if charged > self.config.max_request_bytes {
            return rejected(ack, Rejection::TooLarge);
        }
        if let Some(topic) = self.topics.read().get(record.topic) {
            return topic.offer(self, record, ack, charged);
        }
        if record.topic.is_empty() || record.topic.len() > MAX_TOPIC_NAME_BYTES {
            return rejected(ack, Rejection::Invalid);
        }
        let topic = {
            let mut topics = self.topics.write();
            if topics.len() >= MAX_TOPICS && !topics.contains_key(record.topic) {
                return rejected(ack, Rejection::NotAllowed);
            }
            let topic = Topic::new(record.topic);
            Arc::clone(topics.entry(Arc::clone(&topic.name)).or_insert_with(|| Arc::new(topic)))
        };
        self.control.refresh();
        topic.offer(self, record, ack, charged)
    }

    /// Settles records that did not go on.
    pub(crate) fn end(&self, ended: impl IntoIterator<Item = Ended>) {
        for Ended { ack, charged, outcome } in ended {
            if let Some(ack) = ack {
                ack.settle(outcome);
            }
            self.meter.records.settled(outcome, 1);
            self.budget.give_back(charged);
        }
    }

    /// Settles all records of `batch`.
    pub(crate) fn settle_batch(&self, batch: SealedBatch, outcome: Outcome) {
        let (records, charged) = (batch.records(), batch.charged());
        let mut acks = Vec::with_capacity(records);
        drop(batch.finish(&mut acks));
        tidegate_sink::settle_all(acks, outcome);
        self.meter.records.settled(outcome, records as u64);
        self.budget.give_back(charged);
    }

    /// Settles as lost what no lane has in flight.
    fn lose_rest(&self) {
        for topic in self.topics() {
            let (batches, ended) = topic.close(self);
            for batch in batches {
                self.settle_batch(batch, Outcome::Lost);
            }
            self.end(ended);
        }
        self.budget.wake_all();
    }

    pub(crate) fn topics(&self) -> Vec<Arc<Topic>> {
        self.topics.read().values().cloned().collect()
    }

    /// The lane of `node`, started if there is none.
    pub(crate) fn lane(self: &Arc<Self>, node: i32) -> Arc<Lane> {
        let mut lanes = self.lanes.write();
        if let Some(lane) = lanes.iter().find(|lane| lane.node() == node) {
            return Arc::clone(lane);
        }
        let lane = Arc::new(Lane::new(node));
        lanes.push(Arc::clone(&lane));
        let task = {
            let _entered = self.runtime.enter();
            LaneTask::new(Arc::clone(&lane), Arc::clone(self))
        };
        self.tasks.lock().push(self.runtime.spawn(task.run()));
        lane
    }

    pub(crate) fn existing_lane(&self, node: i32) -> Option<Arc<Lane>> {
        self.lanes.read().iter().find(|lane| lane.node() == node).cloned()
    }

    fn wake_lanes(&self) {
        self.lanes.read().iter().for_each(|lane| lane.wake());
    }

    pub(crate) fn address(&self, node: i32) -> Option<(String, u16)> {
        self.addresses.read().get(&node).cloned()
    }

    pub(crate) fn addresses(&self) -> Vec<(String, u16)> {
        self.addresses.read().values().cloned().collect()
    }

    pub(crate) fn set_addresses(&self, nodes: impl Iterator<Item = (i32, (String, u16))>) {
        *self.addresses.write() = nodes.collect();
    }

    /// Buffers for a new batch: used ones where there are some.
    pub(crate) fn spare_buffers(&self) -> Buffers {
        self.spare.lock().pop().unwrap_or_default()
    }

    /// Keeps `buffers` for the next batch, unless there are enough or these are much larger than a batch.
    pub(crate) fn recycle(&self, buffers: Buffers) {
        if buffers.capacity() > 2 * self.config.batch_bytes {
            return;
        }
        let mut spare = self.spare.lock();
        if spare.len() < MAX_SPARE_BUFFERS {
            spare.push(buffers);
        }
    }

    /// A seed for jitter that nobody else of this process has.
    pub(crate) fn seed(&self) -> u64 {
        self.seeds.0.hash_one(self.seeds.1.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn reached(&self) {
        self.reached.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }
}
