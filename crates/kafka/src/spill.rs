//! What happens while Kafka does not take records: they go to a log on disk, are acknowledged there, and come back from
//! it before anything newer.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tidegate_sink::{Ack, Outcome, Rejection, Settle, Settled, settle_all};
use tidegate_spill::{Disk, EntryId, Log, Options, ReadError, Recovery};
use tokio::sync::Notify;
use tracing::{error, info, warn};

use crate::backlog::Backlog;
use crate::books::{Books, Sources};
use crate::config::Config;
use crate::partition::{Copied, Gathered, Partition};
use crate::producer::Shared;
use crate::record_batch::{
    Buffers, Lent, LentState, OpenBatch, Owed, SealedBatch, Ticket, budget_bytes, for_each_record,
    record_count, unpacked,
};
use crate::topic::{Topic, Waiting};

/// How often all queues are looked at for what waits too long.
const LOOK: Duration = Duration::from_millis(100);
/// What the ack of a record that is on disk, and waits for Kafka nevertheless, is charged in memory.
const KEPT_ACK_BYTES: usize = 64;
/// Bytes of a topic's records that are read back at once, without their compression.
const READ_BACK_BYTES: usize = 4 * 1024 * 1024;
/// The version of an entry's own format.
const ENTRY_VERSION: u8 = 2;

/// When a record counts as delivered, for whoever offered it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum AckPolicy {
    /// It is in Kafka's in-sync replicas or synced in the spill log, whichever comes first. Without a spill log, as
    /// [`AckPolicy::Kafka`].
    #[default]
    Durable,
    /// It is in Kafka's in-sync replicas, and nothing else will do.
    Kafka,
}

/// Where and when a producer spills. A plain struct: begin with [`SpillConfig::new`].
#[derive(Debug, Clone)]
pub struct SpillConfig {
    /// The directory, taken by this process: [`Directory::take`](tidegate_spill::Directory::take).
    pub disk: Arc<dyn Disk>,
    /// Bytes on disk, at most. Beyond them records are held in memory, and then given back. 10 GiB unless told.
    pub quota_bytes: u64,
    /// Bytes of one file of the log. 64 MiB unless told.
    pub segment_bytes: u64,
    /// Records that Kafka has not taken for so long are spilled; what it refuses, and what was under way when its
    /// connection broke, at once. 1 s unless told.
    pub after: Duration,
    /// Everything is spilled while this many bytes of the memory budget are in use. 64 MiB unless told.
    pub queue_bytes: usize,
}

impl SpillConfig {
    /// The defaults, in `disk`.
    pub fn new(disk: Arc<dyn Disk>) -> Self {
        let Options { quota_bytes, segment_bytes } = Options::default();
        Self { disk, quota_bytes, segment_bytes, after: Duration::from_secs(1), queue_bytes: 64 << 20 }
    }
}

/// A producer's spill log at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpillStatus {
    /// Records on disk that Kafka has not taken.
    pub records: u64,
    /// Bytes on disk.
    pub disk_bytes: u64,
    /// Records that were written to disk since the start.
    pub spilled: u64,
    /// Bytes that were written to disk since the start.
    pub spilled_bytes: u64,
    /// Records from disk that Kafka has taken, or refused for good, since the start.
    pub replayed: u64,
    /// Records that an earlier process left behind.
    pub recovered: u64,
    /// Entries that were found damaged: records that were acknowledged and are gone.
    pub damaged_entries: u64,
    /// How long the oldest record on disk has waited, or since the start if it is older.
    pub oldest: Option<Duration>,
    /// Why the disk does not take records now.
    pub problem: Option<String>,
}

/// An entry of the log that is not in memory.
pub(crate) struct Spilled {
    pub(crate) id: EntryId,
    pub(crate) sources: Sources,
    /// When it was written, in seconds since the start.
    pub(crate) at: u32,
    /// Acks that wait for Kafka itself, by the record's place in the entry.
    pub(crate) kept: Option<Box<[(u32, Ack)]>>,
}

impl fmt::Debug for Spilled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Spilled").field(&self.id).finish()
    }
}

/// Who has something for the log, or something to read back.
enum Due {
    Topic(Arc<Topic>),
    Partition(Arc<Partition>),
}

/// The log of a producer, and who is due.
pub(crate) struct Spill {
    log: Log,
    pub(crate) after: Duration,
    queue_bytes: usize,
    started: Instant,
    due: Mutex<Vec<Due>>,
    dirty: AtomicBool,
    wake: Notify,
    /// Set at the end: everything goes to disk.
    force: AtomicBool,
    /// Bytes of entries whose records were given to partitions and are not settled.
    read_back: AtomicUsize,
    spilled: AtomicU64,
    replayed: AtomicU64,
    recovered: u64,
    damaged: AtomicU64,
}

impl Spill {
    /// Opens the log. Also returns what it holds, by topic, in order.
    pub(crate) fn open(
        config: SpillConfig,
        started: Instant,
        books: &Books,
    ) -> Result<(Self, BTreeMap<String, Backlog>), tidegate_spill::OpenError> {
        let options = Options { quota_bytes: config.quota_bytes, segment_bytes: config.segment_bytes };
        let mut found = BTreeMap::<String, Backlog>::new();
        let mut recovered = 0;
        let mut unknown = 0;
        let (log, recovery) = Log::open(config.disk, options, |id, bytes| {
            let Some(Entry { topic, sources, batch, .. }) = parse(bytes, books) else {
                unknown += 1;
                return;
            };
            recovered += record_count(batch) as u64;
            books.taken_over(&sources);
            let spilled = Spilled { id, sources, at: 0, kept: None };
            match found.get_mut(topic) {
                Some(entries) => entries.push_back(spilled),
                None => found.entry(topic.to_owned()).or_default().push_back(spilled),
            }
        })?;
        let Recovery { entries, bytes, damaged, torn_bytes } = recovery;
        for range in &damaged {
            error!(
                first = range.start(),
                last = range.end(),
                "entries of the spill log are damaged: acknowledged records are gone"
            );
        }
        if unknown > 0 {
            error!(
                entries = unknown,
                "entries of the spill log have an unknown format and stay where they are"
            );
        }
        if entries > 0 {
            info!(entries, records = recovered, bytes, torn_bytes, "the spill log is replayed");
        }
        let damaged = damaged.iter().map(|range| range.end() - range.start() + 1).sum();
        let spill = Self {
            log,
            after: config.after,
            queue_bytes: config.queue_bytes,
            started,
            due: Mutex::default(),
            dirty: AtomicBool::new(false),
            wake: Notify::new(),
            force: AtomicBool::new(false),
            read_back: AtomicUsize::new(0),
            spilled: AtomicU64::new(0),
            replayed: AtomicU64::new(0),
            recovered,
            damaged: AtomicU64::new(damaged),
        };
        Ok((spill, found))
    }

    /// Wakes the task if somebody became due since the last call.
    pub(crate) fn flush(&self) {
        if self.dirty.load(Ordering::Relaxed) && self.dirty.swap(false, Ordering::AcqRel) {
            self.wake.notify_one();
        }
    }

    /// Sends everything to disk from now on.
    pub(crate) fn force(&self) {
        self.force.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// The bytes of an entry, its batch without compression.
    fn read(&self, id: EntryId, books: &Books) -> Result<Vec<u8>, ReadError> {
        let mut bytes = self.log.read(id)?;
        let Some(Entry { batch, .. }) = parse(&bytes, books) else { return Ok(bytes) };
        let begins = bytes.len() - batch.len();
        if let Cow::Owned(batch) = unpacked(batch).map_err(|_| ReadError::Damaged)? {
            bytes.truncate(begins);
            bytes.extend(batch);
        }
        Ok(bytes)
    }

    fn list(&self, due: Due) {
        self.due.lock().push(due);
        self.dirty.store(true, Ordering::Release);
    }

    fn seconds(&self) -> u32 {
        u32::try_from(now().saturating_duration_since(self.started).as_secs()).unwrap_or(u32::MAX)
    }

    pub(crate) fn status(&self, topics: &[Arc<Topic>]) -> SpillStatus {
        let oldest = topics.iter().flat_map(|topic| {
            let partitions = topic.partitions();
            let oldest: Vec<_> = partitions.iter().filter_map(|p| p.queue.lock().oldest_spilled()).collect();
            oldest.into_iter().chain(topic.oldest_spilled())
        });
        let oldest = oldest.min().map(|at| Duration::from_secs(self.seconds().saturating_sub(at).into()));
        let log = self.log.status();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (replayed, spilled) = (read(&self.replayed), read(&self.spilled));
        SpillStatus {
            records: (self.recovered + spilled).saturating_sub(replayed),
            disk_bytes: log.disk_bytes,
            spilled,
            spilled_bytes: log.appended_bytes,
            replayed,
            recovered: self.recovered,
            damaged_entries: read(&self.damaged),
            oldest,
            problem: log.problem,
        }
    }
}

/// The acks of an entry's records: once all are settled, the entry is done.
struct Replayed {
    shared: Arc<Shared>,
    id: EntryId,
    remaining: AtomicUsize,
    kept: Mutex<Vec<(u32, Ack)>>,
    kept_charge: usize,
    /// What it counts for in [`Spill::read_back`].
    read_back: usize,
}

impl Settle for Replayed {
    fn settle(&self, settled: &[Settled]) {
        let mut ended = 0;
        for one in settled {
            ended += usize::from(one.outcome != Outcome::Lost);
            let ack = {
                let mut kept = self.kept.lock();
                let place = kept.iter().position(|(place, _)| u64::from(*place) == one.token);
                place.map(|place| kept.swap_remove(place).1)
            };
            if let Some(ack) = ack {
                ack.settle(one.outcome);
                self.shared.budget.give_back(self.kept_charge);
            }
        }
        // A lost one stays in the log, and with it the entry.
        if let Some(spill) = self.shared.spill.as_ref().filter(|_| ended > 0) {
            spill.replayed.fetch_add(ended as u64, Ordering::Relaxed);
            if self.remaining.fetch_sub(ended, Ordering::AcqRel) == ended {
                spill.log.done(self.id);
                spill.read_back.fetch_sub(self.read_back, Ordering::AcqRel);
            }
        }
    }
}

impl Shared {
    pub(crate) fn list_topic(&self, topic: &Arc<Topic>) {
        if let Some(spill) = &self.spill {
            spill.list(Due::Topic(Arc::clone(topic)));
        }
    }

    pub(crate) fn list_partition(&self, partition: &Arc<Partition>) {
        if let Some(spill) = &self.spill {
            spill.list(Due::Partition(Arc::clone(partition)));
        }
    }

    /// Has what waits for `partition` spilled, because Kafka did not take something of it.
    pub(crate) fn begin_spilling(&self, partition: &Arc<Partition>) {
        let Some(spill) = &self.spill else { return };
        {
            let mut queue = partition.queue.lock();
            queue.spilling = true;
            if std::mem::replace(&mut queue.spill_listed, true) {
                return;
            }
        }
        self.list_partition(partition);
        spill.flush();
    }

    /// Whether nothing is held that is not in the log.
    pub(crate) fn is_all_spilled(&self) -> bool {
        self.topics().iter().all(|topic| {
            topic.is_all_spilled() && topic.partitions().iter().all(|p| p.queue.lock().is_all_spilled())
        })
    }

    /// Writes a copy of a batch that stays in memory. Called with its queue locked, so that the log has the same order.
    pub(crate) fn write_copy(self: &Arc<Self>, partition: &Partition, copied: Copied) {
        let Some(spill) = &self.spill else { return };
        let bytes =
            entry(&partition.topic, Some(partition.index), &copied.sources, &self.meter.books, &copied.bytes);
        let shared = Arc::clone(self);
        let Copied { records, lent, .. } = copied;
        spill.log.append(bytes, move |result| shared.copied(&lent, records, result.ok()));
    }

    fn copied(self: &Arc<Self>, lent: &Mutex<Lent>, records: usize, written: Option<EntryId>) {
        let Some(spill) = &self.spill else { return };
        let durable = {
            let mut lent = lent.lock();
            match (written, lent.state) {
                (Some(id), LentState::Writing) => {
                    let (durable, kept) = sort_acks(std::mem::take(&mut lent.acks));
                    lent.acks = self.replayed(id, records, kept, (0, 0));
                    lent.state = LentState::Safe;
                    spill.spilled.fetch_add(records as u64, Ordering::Relaxed);
                    durable
                }
                // Kafka was quicker.
                (Some(id), _) => {
                    spill.log.done(id);
                    Vec::new()
                }
                (None, LentState::Writing) => {
                    lent.state = LentState::Failed;
                    Vec::new()
                }
                (None, _) => Vec::new(),
            }
        };
        tell(durable);
    }

    /// Acks for the records of an entry, which end it when all are settled.
    fn replayed(
        self: &Arc<Self>,
        id: EntryId,
        records: usize,
        kept: Vec<(u32, Ack)>,
        (kept_charge, read_back): (usize, usize),
    ) -> Vec<Option<Owed>> {
        let mut policies = vec![AckPolicy::Durable; records];
        for (place, _) in &kept {
            if let Some(policy) = policies.get_mut(*place as usize) {
                *policy = AckPolicy::Kafka;
            }
        }
        let target: Arc<dyn Settle> = Arc::new(Replayed {
            shared: Arc::clone(self),
            id,
            remaining: AtomicUsize::new(records),
            kept: Mutex::new(kept),
            kept_charge,
            read_back,
        });
        let acks = policies.into_iter().enumerate();
        acks.map(|(n, policy)| Some(Owed { ack: Ack::new(Arc::clone(&target), n as u64), policy })).collect()
    }

    /// Takes in what became of a batch that was moved to the log.
    fn moved(self: &Arc<Self>, partition: &Arc<Partition>, mut batch: SealedBatch, written: Option<EntryId>) {
        let Some(spill) = &self.spill else { return };
        let mut queue = partition.queue.lock();
        let (durable, again) = match written {
            Some(id) if !queue.has_returned() => {
                let records = batch.records();
                let (durable, kept) = sort_acks(batch.take_acks());
                self.budget.give_back(batch.charged().saturating_sub(kept.len() * KEPT_ACK_BYTES));
                spill.spilled.fetch_add(records as u64, Ordering::Relaxed);
                let kept = (!kept.is_empty()).then(|| kept.into_boxed_slice());
                let sources = std::mem::take(&mut batch.sources);
                let spilled = Spilled { id, sources, at: spill.seconds(), kept };
                queue.moved(Ok(spilled));
                self.recycle(batch.finish(&mut Vec::new()));
                (durable, true)
            }
            Some(id) => {
                // One before it is not in the log: behind it this one would be out of order.
                spill.log.done(id);
                queue.moved(Err(batch));
                (Vec::new(), false)
            }
            None => {
                queue.moved(Err(batch));
                (Vec::new(), false)
            }
        };
        if again && queue.spilling && !queue.spill_listed && !queue.is_all_spilled() {
            queue.spill_listed = true;
            self.list_partition(partition);
        }
        list_for_lane(partition, &mut queue);
        drop(queue);
        tell(durable);
        spill.flush();
    }

    /// Takes in what became of a group of records without a partition.
    fn written(
        self: &Arc<Self>,
        topic: &Arc<Topic>,
        mut records: Vec<Waiting>,
        sources: Sources,
        written: Option<EntryId>,
    ) {
        let Some(spill) = &self.spill else { return };
        let mut durable = Vec::new();
        let left = match written {
            Some(id) if !topic.has_returned() => {
                let count = records.len();
                let charged: usize =
                    records.iter().map(|record| record.ticket.charged + size_of::<Waiting>()).sum();
                let (told, kept) =
                    sort_acks(records.iter_mut().map(|record| record.ticket.ack.take()).collect());
                durable = told;
                self.budget.give_back(charged.saturating_sub(kept.len() * KEPT_ACK_BYTES));
                spill.spilled.fetch_add(count as u64, Ordering::Relaxed);
                let kept = (!kept.is_empty()).then(|| kept.into_boxed_slice());
                topic.written(Ok(Spilled { id, sources, at: spill.seconds(), kept }))
            }
            Some(id) => {
                spill.log.done(id);
                topic.written(Err(records))
            }
            None => topic.written(Err(records)),
        };
        tell(durable);
        match left {
            None => {}
            Some(Ok(spilled)) => {
                // The topic turned out to be none meanwhile. At the end of the process it is none either, and what is on
                // disk is for the next.
                if let Some(reason) = topic.refused() {
                    let (shared, name) = (Arc::clone(self), Arc::clone(&topic.name));
                    self.runtime.spawn_blocking(move || {
                        shared.reject_spilled(&name, std::iter::once(spilled), reason);
                    });
                }
            }
            Some(Err(records)) => {
                let outcome = topic.refused().map_or(Outcome::Lost, Outcome::Rejected);
                for Waiting { record, ticket, .. } in records {
                    self.budget.give_back(size_of::<Waiting>());
                    self.end([(record, crate::topic::Ended { ticket, outcome })]);
                }
            }
        }
        self.list_topic(topic);
        spill.flush();
    }

    /// Reads entries of a partition back, into one batch.
    pub(crate) fn load(self: &Arc<Self>, partition: &Arc<Partition>, entries: Vec<Spilled>) {
        let Some(spill) = &self.spill else { return };
        let mut open = self.begin_batch();
        let mut entries = entries.into_iter();
        let mut unread = None;
        for spilled in entries.by_ref() {
            // What is small on disk may be large here: the rest is for the next batch.
            if !open.is_empty() && open.bytes() >= self.config.batch_bytes {
                unread = Some(spilled);
                break;
            }
            match spill.read(spilled.id, &self.meter.books) {
                Ok(bytes) => self.decode(&bytes, spilled, 0, |record, _, ticket| {
                    self.budget.take(ticket.charged);
                    open.push(record, ticket);
                }),
                Err(ReadError::Io(error)) => {
                    warn!(%error, "the spill log can't be read now");
                    unread = Some(spilled);
                    break;
                }
                Err(error) => self.lose(&partition.topic, spilled, &error),
            }
        }
        let batch = (!open.is_empty()).then(|| {
            let mut batch = open.seal();
            batch.replayed = true;
            batch
        });
        let mut queue = partition.queue.lock();
        queue.loaded(batch, unread.into_iter().chain(entries));
        list_for_lane(partition, &mut queue);
    }

    /// Reads entries of a topic back, and gives their records to the partitions.
    fn read_back(self: &Arc<Self>, topic: &Arc<Topic>, entries: Vec<Spilled>) {
        let Some(spill) = &self.spill else { return };
        let mut records = Vec::new();
        let mut entries = entries.into_iter();
        let mut unread = None;
        let mut total = 0;
        for spilled in entries.by_ref() {
            // What is small on disk may be large here: the rest is for the next time.
            if total >= READ_BACK_BYTES {
                unread = Some(spilled);
                break;
            }
            match spill.read(spilled.id, &self.meter.books) {
                Ok(bytes) => {
                    let size = bytes.len();
                    total += size;
                    spill.read_back.fetch_add(size, Ordering::AcqRel);
                    self.decode(&bytes, spilled, size, |record, partition, ticket| {
                        self.budget.take(ticket.charged);
                        let record = tidegate_sink::Record { topic: &topic.name, partition, ..*record };
                        records.push(((&record).into(), ticket));
                    });
                }
                Err(ReadError::Io(error)) => {
                    warn!(%error, "the spill log can't be read now");
                    unread = Some(spilled);
                    break;
                }
                Err(error) => self.lose(&topic.name, spilled, &error),
            }
        }
        let (ended, left) = topic.replay(self, records, unread.into_iter().chain(entries));
        if let (false, Some(reason)) = (left.is_empty(), topic.refused()) {
            self.reject_spilled(&topic.name, left, reason);
        }
        for (record, ended) in ended {
            if ended.outcome == Outcome::Lost {
                // Not lost: it is on disk, for the next process. Its ack says so to whoever waits for Kafka.
                self.budget.give_back(ended.ticket.charged);
            } else {
                self.end([(record, ended)]);
            }
        }
        self.list_topic(topic);
        spill.flush();
    }

    /// Reads entries back whose topic can't exist, and rejects their records.
    pub(crate) fn reject_spilled(
        self: &Arc<Self>,
        topic: &str,
        entries: impl Iterator<Item = Spilled>,
        reason: Rejection,
    ) {
        let Some(spill) = &self.spill else { return };
        for spilled in entries {
            match spill.read(spilled.id, &self.meter.books) {
                Ok(bytes) => self.decode(&bytes, spilled, 0, |record, _, ticket| {
                    self.budget.take(ticket.charged);
                    self.reject(&tidegate_sink::Record { topic, ..*record }, ticket, reason);
                }),
                // It stays in the log, for the next process.
                Err(ReadError::Io(error)) => warn!(%error, topic, "the spill log can't be read now"),
                Err(error) => self.lose(topic, spilled, &error),
            }
        }
    }

    /// Gives each record of an entry with its ticket to `each`.
    fn decode(
        self: &Arc<Self>,
        bytes: &[u8],
        spilled: Spilled,
        read_back: usize,
        mut each: impl FnMut(&tidegate_sink::Record<'_>, Option<u32>, Ticket),
    ) {
        let Some(Entry { topic, partition, sources, batch }) = parse(bytes, &self.meter.books) else {
            return;
        };
        let mut sources = sources.each();
        let kept = spilled.kept.map(<[_]>::into_vec).unwrap_or_default();
        let mut acks =
            self.replayed(spilled.id, record_count(batch), kept, (KEPT_ACK_BYTES, read_back)).into_iter();
        for_each_record(batch, topic, |_, record| {
            if let Some(owed) = acks.next().flatten() {
                let source = sources.next().unwrap_or_default();
                each(record, partition, Ticket { source, ack: Some(owed), charged: budget_bytes(record) });
            }
        });
    }

    /// Gives up an entry that can't be read any more.
    fn lose(&self, topic: &str, spilled: Spilled, error: &ReadError) {
        let Some(spill) = &self.spill else { return };
        let records = spilled.sources.records();
        error!(topic, records, %error, "acknowledged records are gone from the spill log");
        spill.damaged.fetch_add(1, Ordering::Relaxed);
        spill.replayed.fetch_add(records as u64, Ordering::Relaxed);
        self.meter.books.settled(&spilled.sources, Outcome::Lost);
        spill.log.done(spilled.id);
        let kept = spilled.kept.map(<[_]>::into_vec).unwrap_or_default();
        self.budget.give_back(kept.len() * KEPT_ACK_BYTES);
    }
}

/// The task which decides who spills and hands over. It writes nothing itself: the log has a thread for that.
pub(crate) async fn run(shared: Arc<Shared>) {
    let Some(spill) = &shared.spill else { return };
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let due = tokio::select! {
            () = spill.wake.notified() => std::mem::take(&mut *spill.due.lock()),
            _ = look.tick() => look_at_all(&shared, spill),
        };
        let force = spill.force.load(Ordering::Relaxed) || shared.budget.used() >= spill.queue_bytes;
        for due in due {
            match due {
                Due::Topic(topic) => serve_topic(&shared, spill, &topic, force),
                Due::Partition(partition) => serve_partition(&shared, spill, &partition, force),
            }
        }
    }
}

/// Everybody who has something that waits too long, and everybody who is due anyway.
fn look_at_all(shared: &Arc<Shared>, spill: &Spill) -> Vec<Due> {
    let mut due = std::mem::take(&mut *spill.due.lock());
    if shared.budget.used() == 0 && spill.log.status().entries == 0 {
        return due;
    }
    let force = spill.force.load(Ordering::Relaxed) || shared.budget.used() >= spill.queue_bytes;
    for topic in shared.topics() {
        for partition in topic.partitions() {
            let mut queue = partition.queue.lock();
            queue.spilling |= force || queue.is_overdue(now(), spill.after);
            if queue.spilling && !queue.spill_listed {
                queue.spill_listed = true;
                drop(queue);
                due.push(Due::Partition(partition));
            }
        }
        due.push(Due::Topic(topic));
    }
    due
}

fn serve_partition(shared: &Arc<Shared>, spill: &Spill, partition: &Arc<Partition>, force: bool) {
    let mut queue = partition.queue.lock();
    queue.spill_listed = false;
    match queue.gather(now(), spill.after, force) {
        None | Some(Gathered::Healthy) => list_for_lane(partition, &mut queue),
        Some(Gathered::AfterLane) => {
            if let Some(owner) = &queue.owner {
                owner.want_spill();
            }
        }
        Some(Gathered::Some { copies, moved }) => {
            for copied in copies {
                shared.write_copy(partition, copied);
            }
            for batch in moved {
                let bytes = entry(
                    &partition.topic,
                    Some(partition.index),
                    &batch.sources,
                    &shared.meter.books,
                    batch.bytes(),
                );
                let (shared, partition) = (Arc::clone(shared), Arc::clone(partition));
                spill.log.append(bytes, move |result| shared.moved(&partition, batch, result.ok()));
            }
        }
    }
}

fn serve_topic(shared: &Arc<Shared>, spill: &Spill, topic: &Arc<Topic>, force: bool) {
    // What was read back is held beside what waits already, so it has a bound of its own.
    if spill.read_back.load(Ordering::Acquire) < shared.budget.limit() / 4
        && let Some(entries) = topic.begin_reading()
    {
        let (shared, topic) = (Arc::clone(shared), Arc::clone(topic));
        tokio::task::spawn_blocking(move || shared.read_back(&topic, entries));
    }
    let waiting = topic.gather(now(), spill.after, force);
    let groups = group(waiting, &shared.config);
    topic.begin_writing(groups.len());
    for (partition, batch, records) in groups {
        let bytes = entry(&topic.name, partition, &batch.sources, &shared.meter.books, batch.bytes());
        let sources = batch.sources;
        let (shared, topic) = (Arc::clone(shared), Arc::clone(topic));
        spill.log.append(bytes, move |result| shared.written(&topic, records, sources, result.ok()));
    }
}

/// Encodes records in groups of one explicit partition, or none, and of a batch's size.
fn group(waiting: Vec<Waiting>, config: &Config) -> Vec<(Option<i32>, SealedBatch, Vec<Waiting>)> {
    let mut groups = Vec::new();
    let mut current: Option<(Option<u32>, OpenBatch, Vec<Waiting>)> = None;
    let mut close = |group: Option<(Option<u32>, OpenBatch, Vec<Waiting>)>| {
        groups.extend(group.map(|(partition, open, records)| {
            (partition.and_then(|partition| i32::try_from(partition).ok()), open.seal(), records)
        }));
    };
    for record in waiting {
        let partition = record.record.partition();
        let fits = |(of, open, _): &(Option<u32>, OpenBatch, Vec<Waiting>)| {
            *of == partition && open.bytes() + record.ticket.charged <= config.batch_bytes
        };
        if !current.as_ref().is_some_and(fits) {
            close(current.take());
        }
        let begin = || OpenBatch::new(Buffers::default(), config.compression, now());
        let (_, open, records) = current.get_or_insert_with(|| (partition, begin(), Vec::new()));
        let ticket = Ticket { source: record.ticket.source, ack: None, charged: 0 };
        record.record.with_borrowed(|borrowed| open.push(borrowed, ticket));
        records.push(record);
    }
    close(current);
    groups
}

/// Has the owner of a partition look at it.
fn list_for_lane(partition: &Arc<Partition>, queue: &mut crate::partition::Queue) {
    if let Some(owner) = queue.owner.clone() {
        if queue.has_waiting() && !queue.listed {
            queue.listed = true;
            owner.list(Arc::clone(partition));
        }
        owner.wake();
    }
}

/// Sorts acks into those that the log settles, and those that wait for Kafka, by their place.
fn sort_acks(acks: Vec<Option<Owed>>) -> (Vec<Ack>, Vec<(u32, Ack)>) {
    let (mut durable, mut kept) = (Vec::new(), Vec::new());
    for (place, owed) in acks.into_iter().enumerate() {
        match owed {
            Some(Owed { ack, policy: AckPolicy::Durable }) => durable.push(ack),
            Some(Owed { ack, policy: AckPolicy::Kafka }) => kept.push((place as u32, ack)),
            None => {}
        }
    }
    (durable, kept)
}

fn tell(mut acks: Vec<Ack>) {
    acks.sort_by_key(Ack::target_id);
    settle_all(acks, Outcome::Delivered);
}

/// An entry of the log.
struct Entry<'a> {
    topic: &'a str,
    partition: Option<u32>,
    /// Whose records they are.
    sources: Sources,
    batch: &'a [u8],
}

/// The bytes of an entry: where a batch belongs, whose records it holds by the names of their sources, and the batch.
fn entry(topic: &str, partition: Option<i32>, sources: &Sources, books: &Books, batch: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + topic.len() + batch.len());
    out.push(ENTRY_VERSION);
    out.extend_from_slice(&(topic.len() as u16).to_le_bytes());
    out.extend_from_slice(topic.as_bytes());
    out.extend_from_slice(&partition.unwrap_or(-1).to_le_bytes());
    out.extend_from_slice(&(sources.runs().count() as u32).to_le_bytes());
    for (id, records) in sources.runs() {
        out.extend_from_slice(&records.to_le_bytes());
        let source = books.source(id);
        out.push(source.name.len() as u8);
        out.extend_from_slice(source.name.as_bytes());
    }
    out.extend_from_slice(batch);
    out
}

fn parse<'a>(entry: &'a [u8], books: &Books) -> Option<Entry<'a>> {
    let (&version, rest) = entry.split_first()?;
    if version != ENTRY_VERSION {
        return None;
    }
    let (length, rest) = rest.split_first_chunk()?;
    let (topic, rest) = rest.split_at_checked(u16::from_le_bytes(*length).into())?;
    let (partition, rest) = rest.split_first_chunk()?;
    let (runs, mut rest) = rest.split_first_chunk()?;
    let mut sources = Sources::default();
    for _ in 0..u32::from_le_bytes(*runs) {
        let (records, behind) = rest.split_first_chunk()?;
        let (&length, behind) = behind.split_first()?;
        let (name, behind) = behind.split_at_checked(length.into())?;
        sources.push(books.named(std::str::from_utf8(name).ok()?).id, u32::from_le_bytes(*records) as usize);
        rest = behind;
    }
    let topic = std::str::from_utf8(topic).ok()?;
    let partition = u32::try_from(i32::from_le_bytes(*partition)).ok();
    Some(Entry { topic, partition, sources, batch: rest })
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
