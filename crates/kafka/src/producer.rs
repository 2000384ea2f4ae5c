//! The producer: what an embedder starts, offers records to, and closes.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use ahash::RandomState as FastHash;
use parking_lot::{Mutex, RwLock};
use tidegate_sink::{Ack, Feed, MemoryBudget, Offer, Outcome, OwnedRecord, Record, Rejection};
use tidegate_spill::OpenError;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::backlog::Backlog;
use crate::books::Source;
use crate::config::{Config, MAX_TOPICS};
use crate::connection::Dialer;
use crate::control::{Control, ControlTask};
use crate::dead_letter::DeadLetters;
use crate::dead_letter_file::FileQueue;
use crate::lane::{Lane, LaneTask};
use crate::record_batch::{Buffers, OpenBatch, Owed, SealedBatch, Ticket, budget_bytes};
use crate::spill::{AckPolicy, Spill, SpillConfig};
use crate::status::{Meter, Status};
use crate::topic::{Ended, Topic, is_legal_topic_name};
use crate::when_full::{FeedPolicy, Full};

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
    /// The tasks that write to this machine's disk.
    disk: Vec<JoinHandle<()>>,
    source: Arc<Source>,
}

/// What the tasks of a producer and those who offer to it share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) dialer: Arc<Dialer>,
    pub(crate) budget: MemoryBudget,
    pub(crate) meter: Meter,
    pub(crate) control: Control,
    pub(crate) spill: Option<Spill>,
    pub(crate) dead_letters: Option<DeadLetters>,
    topics: RwLock<HashMap<Arc<str>, Arc<Topic>, FastHash>>,
    addresses: RwLock<HashMap<i32, (String, u16)>>,
    lanes: RwLock<Vec<Arc<Lane>>>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    spare: Mutex<Vec<Buffers>>,
    pub(crate) runtime: Handle,
    seeds: (RandomState, AtomicU64),
    reached: AtomicBool,
    closing: AtomicBool,
    stopped: AtomicBool,
}

impl Producer {
    /// Starts a producer on `runtime`. Kafka need not be there yet. It keeps in memory what Kafka does not take.
    pub fn start(config: Config, runtime: &Handle) -> Self {
        Self::begin(config, Meter::default(), None, BTreeMap::new(), runtime)
    }

    /// Starts a producer which keeps on disk what Kafka does not take, and takes up first what an earlier one left there.
    /// Reading that blocks: well under a second for each GiB.
    ///
    /// # Errors
    /// [`OpenError`] when the log can't be opened.
    pub fn start_spilling(config: Config, spill: SpillConfig, runtime: &Handle) -> Result<Self, OpenError> {
        let started = Instant::now().into_std();
        let meter = Meter::default();
        let (spill, found) = Spill::open(spill, started, &meter.books)?;
        Ok(Self::begin(config, meter, Some(spill), found, runtime))
    }

    fn begin(
        mut config: Config,
        meter: Meter,
        spill: Option<Spill>,
        found: BTreeMap<String, Backlog>,
        runtime: &Handle,
    ) -> Self {
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
            meter,
            control: Control::default(),
            spill,
            dead_letters: config.dead_letter.as_ref().map(DeadLetters::new),
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
        for (name, entries) in found {
            let mut topics = shared.topics.write();
            let topic = Topic::new(&name);
            let topic = topics.entry(Arc::clone(&topic.name)).or_insert_with(|| Arc::new(topic));
            topic.recovered(entries);
        }
        // A task's timers belong to the runtime that it is made in.
        let _entered = runtime.enter();
        let control = runtime.spawn(ControlTask::new(Arc::clone(&shared)).run());
        let mut disk = Vec::new();
        if shared.spill.is_some() {
            disk.push(runtime.spawn(crate::spill::run(Arc::clone(&shared))));
        }
        if shared.dead_letter_file().is_some() {
            disk.push(runtime.spawn(crate::dead_letter_file::run(Arc::clone(&shared))));
        }
        let source = shared.meter.books.named("");
        Self { shared, control, disk, source }
    }

    /// A feed over this producer whose records are acknowledged by `policy`. The producer itself is one for
    /// [`AckPolicy::Durable`].
    pub fn feed(&self, policy: AckPolicy) -> impl Feed + use<> {
        self.feed_for("", policy.into())
    }

    /// The same for the records of `source`, such as a rule: they are counted in [`Status::sources`] under its name, which
    /// also stands in their dead letters. A name of more than 255 bytes, or of the 4096th source, is not told apart.
    pub fn feed_for(&self, source: &str, policy: FeedPolicy) -> impl Feed + use<> {
        PolicyFeed { shared: Arc::clone(&self.shared), source: self.shared.meter.books.named(source), policy }
    }

    /// What an operator may know.
    pub fn status(&self) -> Status {
        let shared = &self.shared;
        let mut status = shared.meter.snapshot(
            shared.budget.used(),
            shared.reached.load(Ordering::Relaxed),
            shared.is_closing(),
        );
        let of_connections = shared.config.connect.problem();
        status.warnings.extend(of_connections.map(|problem| ("connections".to_owned(), problem)));
        status.spill = shared.spill.as_ref().map(|spill| spill.status(&shared.topics()));
        status
    }

    /// Takes in nothing more, delivers until `deadline` what can be delivered, and settles the rest as lost. With a spill
    /// log, what is not delivered in half of the time goes there, and is taken up by the next producer.
    ///
    /// # Cancel safety
    /// A dropped future leaves the producer closed for new records, delivering what it has until it is dropped itself.
    pub async fn close(&self, deadline: Instant) {
        self.shared.closing.store(true, Ordering::SeqCst);
        self.shared.wake_lanes();
        let begun = Instant::now();
        let half = begun + deadline.saturating_duration_since(begun) / 2;
        while self.shared.budget.used() > 0 && Instant::now() < deadline {
            if let Some(spill) = self.shared.spill.as_ref().filter(|_| Instant::now() >= half) {
                spill.force();
                let letters_are_written = self.shared.dead_letter_file().is_none_or(FileQueue::is_empty);
                if self.shared.is_all_spilled() && letters_are_written {
                    break;
                }
            }
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
        self.disk.iter().for_each(JoinHandle::abort);
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
        self.shared.take_in(record, ack, FeedPolicy::default(), &self.source)
    }

    fn refuse(&self, record: &Record<'_>, ack: Option<Ack>, reason: Rejection) -> Offer {
        self.shared.take_refused(record, ack, FeedPolicy::default(), &self.source, reason)
    }

    fn flush(&self) {
        self.shared.flush();
    }

    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.shared.budget.poll_room(cx)
    }
}

/// A producer, for records with one policy.
struct PolicyFeed {
    shared: Arc<Shared>,
    source: Arc<Source>,
    policy: FeedPolicy,
}

impl Feed for PolicyFeed {
    fn offer(&self, record: &Record<'_>, ack: Option<Ack>) -> Offer {
        self.shared.take_in(record, ack, self.policy, &self.source)
    }

    fn refuse(&self, record: &Record<'_>, ack: Option<Ack>, reason: Rejection) -> Offer {
        self.shared.take_refused(record, ack, self.policy, &self.source, reason)
    }

    fn flush(&self) {
        self.shared.flush();
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
    fn take_in(
        self: &Arc<Self>,
        record: &Record<'_>,
        ack: Option<Ack>,
        policy: FeedPolicy,
        source: &Source,
    ) -> Offer {
        if self.is_for_dead_letters(record.topic) {
            return self.take_refused(record, ack, policy, source, Rejection::NotAllowed);
        }
        let ticket = match self.admit(record, ack, policy, source) {
            Ok(ticket) => ticket,
            Err(offered) => return offered,
        };
        // Settled after every lock is released: whoever is told may offer again.
        if let Err(ended) = self.offer(record, ticket) {
            self.end_borrowed(record, ended);
        }
        Offer::Taken
    }

    fn take_refused(
        self: &Arc<Self>,
        record: &Record<'_>,
        ack: Option<Ack>,
        policy: FeedPolicy,
        source: &Source,
        reason: Rejection,
    ) -> Offer {
        match self.admit(record, ack, policy, source) {
            Ok(ticket) => self.give_up(record, ticket, reason),
            Err(offered) => return offered,
        }
        Offer::Taken
    }

    /// Takes room for a record, and counts it.
    fn admit(
        &self,
        record: &Record<'_>,
        mut ack: Option<Ack>,
        policy: FeedPolicy,
        source: &Source,
    ) -> Result<Ticket, Offer> {
        let charged = budget_bytes(record);
        while !self.budget.try_take(charged) {
            ack = match self.make_room(source, policy.when_full, ack) {
                Ok(ack) => ack,
                Err(Full::GivenBack(ack)) => return Err(Offer::Full(ack)),
                Err(Full::Dropped) => return Err(Offer::Taken),
            };
        }
        source.counters.offered();
        Ok(Ticket { source: source.id, ack: ack.map(|ack| Owed { ack, policy: policy.ack }), charged })
    }

    pub(crate) fn flush(&self) {
        self.lanes.read().iter().for_each(|lane| lane.flush());
        if let Some(spill) = &self.spill {
            spill.flush();
        }
    }

    pub(crate) fn offer(&self, record: &Record<'_>, ticket: Ticket) -> Result<(), Ended> {
        let rejected = |ticket, reason| Err(Ended { ticket, outcome: Outcome::Rejected(reason) });
        if self.is_closing() {
            return Err(Ended { ticket, outcome: Outcome::Lost });
        }
        if ticket.charged > self.config.max_request_bytes {
            return rejected(ticket, Rejection::TooLarge);
        }
        if let Some(topic) = self.topics.read().get(record.topic) {
            return topic.offer(self, record, ticket);
        }
        if !is_legal_topic_name(record.topic) {
            return rejected(ticket, Rejection::IllegalTopic);
        }
        let topic = {
            let mut topics = self.topics.write();
            if topics.len() >= MAX_TOPICS && !topics.contains_key(record.topic) {
                return rejected(ticket, Rejection::NotAllowed);
            }
            let topic = Topic::new(record.topic);
            Arc::clone(topics.entry(Arc::clone(&topic.name)).or_insert_with(|| Arc::new(topic)))
        };
        self.control.refresh();
        topic.offer(self, record, ticket)
    }

    /// Settles records that did not go on.
    pub(crate) fn end(self: &Arc<Self>, ended: impl IntoIterator<Item = (OwnedRecord, Ended)>) {
        for (record, ended) in ended {
            record.with_borrowed(|record| self.end_borrowed(record, ended));
        }
    }

    fn end_borrowed(self: &Arc<Self>, record: &Record<'_>, ended: Ended) {
        match ended.outcome {
            Outcome::Rejected(reason) => self.reject(record, ended.ticket, reason),
            outcome @ (Outcome::Delivered | Outcome::Lost) => self.settle_one(ended.ticket, outcome),
        }
    }

    /// Settles one record that is in no batch.
    pub(crate) fn settle_one(&self, ticket: Ticket, outcome: Outcome) {
        let Ticket { source, ack, charged } = ticket;
        self.meter.books.source(source).counters.settled(outcome, 1);
        if let Some(owed) = ack {
            owed.ack.settle(outcome);
        }
        self.budget.give_back(charged);
    }

    /// Settles all records of `batch`.
    pub(crate) fn settle_batch(&self, mut batch: SealedBatch, outcome: Outcome) {
        let (records, charged) = (batch.records(), batch.charged());
        let sources = std::mem::take(&mut batch.sources);
        // What is on disk is not lost: the next producer takes it up.
        let is_held = outcome == Outcome::Lost && batch.is_safe();
        let mut acks = Vec::with_capacity(records);
        drop(batch.finish(&mut acks));
        tidegate_sink::settle_all(acks, outcome);
        if !is_held {
            self.meter.books.settled(&sources, outcome);
        }
        self.budget.give_back(charged);
    }

    /// Settles as lost what no lane has in flight.
    fn lose_rest(self: &Arc<Self>) {
        for topic in self.topics() {
            let (batches, ended) = topic.close(self);
            for batch in batches {
                self.settle_batch(batch, Outcome::Lost);
            }
            self.end(ended);
        }
        for ticket in self.dead_letter_file().map(FileQueue::close).unwrap_or_default() {
            self.settle_one(ticket, Outcome::Lost);
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

    /// A new batch, in used buffers where there are some.
    pub(crate) fn begin_batch(&self) -> OpenBatch {
        let buffers = self.spare.lock().pop().unwrap_or_default();
        OpenBatch::new(buffers, self.config.compression, Instant::now().into_std())
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
