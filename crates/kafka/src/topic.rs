//! One topic: its partitions, or the records that wait until they are known.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use tidegate_sink::{Outcome, OwnedRecord, Record, Rejection};

use crate::backlog::Backlog;
use crate::books::SourceId;
use crate::partition::{Appended, Partition};
use crate::producer::Shared;
use crate::record_batch::{OpenBatch, SealedBatch, Ticket, budget_bytes, for_each_record, unpacked};
use crate::spill::Spilled;
use crate::status::{Meter, Part};
use crate::when_full::{Dropped, drop_waiting};

/// Whether Kafka takes `name` for a topic's name: 1 to 249 letters, digits, dots, underscores and dashes of ASCII, and
/// neither `.` nor `..`.
pub fn is_legal_topic_name(name: &str) -> bool {
    const MAX_BYTES: usize = 249;
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    !name.is_empty() && name.len() <= MAX_BYTES && name != "." && name != ".." && name.bytes().all(is_legal)
}

/// A topic that records were offered for.
#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) name: Arc<str>,
    routes: RwLock<Routes>,
    /// Where records go that may go anywhere.
    sticky: AtomicU32,
    /// Whether it ever had more partitions than later. Then Kafka may remember sequences of a partition that is new here, and
    /// would take records for repetitions: each takes a producer id of its own.
    has_shrunk: AtomicBool,
}

#[derive(Debug)]
enum Routes {
    /// Nobody has said yet which partitions there are, or older records are on disk. Records wait here in their order.
    Unknown(Box<Pending>),
    Known(Vec<Arc<Partition>>),
    /// There can't be such a topic.
    Refused(Rejection),
    Closed,
}

/// Records without a partition, oldest first: what partitions left behind that are gone, those in the spill log, those that
/// it is writing, those in memory.
#[derive(Debug, Default)]
struct Pending {
    backlog: Backlog,
    /// Whether entries are being read back, and whether those of the older part.
    reading: bool,
    reading_older: bool,
    /// Groups that the spill log is writing.
    writing: usize,
    returned: Vec<Waiting>,
    waiting: VecDeque<Waiting>,
    /// The partitions, where they are known already: the backlog goes first.
    partitions: Vec<Arc<Partition>>,
    /// The partitions before there were fewer, until what they have is taken over. There are no new ones as long.
    retired: Vec<Arc<Partition>>,
    /// How many there were then: entries in the log may belong to one of them.
    former: Option<u32>,
    /// What they had in the log, and what came behind it in memory.
    older: Backlog,
    between: Vec<Waiting>,
    spilling: bool,
    spill_listed: bool,
}

#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) record: OwnedRecord,
    pub(crate) ticket: Ticket,
    since: Instant,
}

/// How a record ended that did not go on.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) ticket: Ticket,
    pub(crate) outcome: Outcome,
}

/// What a topic that can't exist leaves behind: records, and entries of the log.
pub(crate) type Left = (Vec<(OwnedRecord, Ended)>, Backlog);

impl Topic {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            routes: RwLock::new(Routes::Unknown(Box::default())),
            sticky: AtomicU32::new(0),
            has_shrunk: AtomicBool::new(false),
        }
    }

    /// Takes a record in: into its partition's batch, or to those that wait for the partitions to be known.
    pub(crate) fn offer(
        self: &Arc<Self>,
        shared: &Shared,
        record: &Record<'_>,
        ticket: Ticket,
    ) -> Result<(), Ended> {
        if let Routes::Known(partitions) = &*self.routes.read() {
            return self.route(shared, partitions, record, ticket);
        }
        // Looked at again under the write lock, so that no record overtakes those that wait.
        match &mut *self.routes.write() {
            Routes::Unknown(pending) => {
                let since = tokio::time::Instant::now().into_std();
                pending.waiting.push_back(Waiting { record: OwnedRecord::from(record), ticket, since });
                shared.budget.take(size_of::<Waiting>());
                if pending.spilling && !pending.spill_listed {
                    pending.spill_listed = true;
                    shared.list_topic(self);
                }
                Ok(())
            }
            Routes::Known(partitions) => self.route(shared, partitions, record, ticket),
            Routes::Refused(reason) => Err(Ended { ticket, outcome: Outcome::Rejected(*reason) }),
            Routes::Closed => Err(Ended { ticket, outcome: Outcome::Lost }),
        }
    }

    fn route(
        &self,
        shared: &Shared,
        partitions: &[Arc<Partition>],
        record: &Record<'_>,
        ticket: Ticket,
    ) -> Result<(), Ended> {
        let count = partitions.len() as u32;
        let sticky = self.sticky.load(Ordering::Relaxed);
        let index = Self::choose(shared, record, count, sticky);
        let Some(partition) = partitions.get(index as usize) else {
            return Err(Ended { ticket, outcome: Outcome::Rejected(Rejection::Invalid) });
        };
        let mut queue = partition.queue.lock();
        let appended = queue
            .append(record, ticket, shared.config.batch_bytes, || shared.begin_batch())
            .map_err(|ticket| Ended { ticket, outcome: Outcome::Lost })?;
        if queue.spilling && !queue.spill_listed {
            queue.spill_listed = true;
            shared.list_partition(partition);
        }
        if appended == Appended::Joined {
            return Ok(());
        }
        if !queue.listed
            && let Some(owner) = queue.owner.clone()
        {
            queue.listed = true;
            owner.list(Arc::clone(partition));
        }
        if let Some(owner) = &queue.owner {
            owner.touch();
            if appended == Appended::Sealed {
                owner.wake();
            }
        }
        if appended == Appended::Sealed && sticky == index {
            self.sticky.store((index + 1) % count, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The partition of a record among `count`, which is not zero.
    fn choose(shared: &Shared, record: &Record<'_>, count: u32, sticky: u32) -> u32 {
        let count = count.max(1);
        let by_partitioner = || shared.config.partitioner.partition(record, count, sticky % count) % count;
        record.partition.unwrap_or_else(by_partitioner)
    }

    /// Whether its partitions are known, or there can be none.
    pub(crate) fn is_settled(&self) -> bool {
        match &*self.routes.read() {
            Routes::Unknown(pending) => !pending.partitions.is_empty() && pending.retired.is_empty(),
            Routes::Known(_) | Routes::Refused(_) | Routes::Closed => true,
        }
    }

    /// Takes in which node leads which partition: `leaders[n]` that of partition `n`. Records that waited for it go to
    /// their partitions. Returns those that can't.
    pub(crate) fn set_leaders(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        leaders: &[Option<i32>],
    ) -> Vec<(OwnedRecord, Ended)> {
        let mut ended = Vec::new();
        let Some(identity) = shared.control.identity() else { return ended };
        let mut routes = self.routes.write();
        if matches!(&*routes, Routes::Refused(_)) {
            *routes = Routes::Unknown(Box::default());
        }
        if self.retire_partitions(&mut routes, leaders.len()) {
            return ended;
        }
        if let Routes::Unknown(pending) = &*routes
            && pending.retired.iter().any(|partition| !partition.queue.lock().is_at_rest())
        {
            return ended;
        }
        let known = match &*routes {
            Routes::Closed => return ended,
            Routes::Known(partitions) => partitions.len(),
            Routes::Unknown(pending) => pending.partitions.len(),
            Routes::Refused(_) => 0,
        };
        let new = (known..leaders.len()).map(|index| {
            let name = Arc::clone(&self.name);
            let new =
                Arc::new(Partition::new(name, index as i32, identity, shared.config.backoff, shared.seed()));
            if self.has_shrunk.load(Ordering::Relaxed) {
                new.queue.lock().want_identity();
                shared.control.want_identity(Arc::clone(&new));
            }
            new
        });
        match &mut *routes {
            Routes::Known(partitions) => partitions.extend(new),
            Routes::Unknown(pending) => {
                pending.partitions.extend(new);
                ended = self.take_over(shared, pending);
                for (partition, leader) in pending.partitions.iter().zip(leaders) {
                    set_leader(shared, partition, *leader);
                }
                if pending.is_drained() {
                    ended.extend(self.begin_routing(shared, &mut routes));
                } else if !pending.spill_listed {
                    pending.spill_listed = true;
                    shared.list_topic(self);
                }
            }
            Routes::Refused(_) | Routes::Closed => {}
        }
        if let Routes::Known(partitions) = &*routes {
            for (partition, leader) in partitions.iter().zip(leaders) {
                set_leader(shared, partition, *leader);
            }
        }
        ended
    }

    /// Whether what its former partitions have is still to be taken over.
    pub(crate) fn is_shrinking(&self) -> bool {
        matches!(&*self.routes.read(), Routes::Unknown(pending) if !pending.retired.is_empty())
    }

    /// Has everything wait that is for a topic which is gone, until it is known what it comes back as.
    pub(crate) fn hold(&self) {
        self.partitions().iter().for_each(|partition| partition.queue.lock().await_metadata());
    }

    /// Retires all partitions where Kafka has fewer now: the topic was deleted and made again. Says whether that has to
    /// wait, for entries that are being read back for them.
    fn retire_partitions(&self, routes: &mut Routes, count: usize) -> bool {
        let partitions = match routes {
            Routes::Known(partitions) => partitions,
            Routes::Unknown(pending) => &mut pending.partitions,
            Routes::Refused(_) | Routes::Closed => return false,
        };
        if partitions.len() <= count {
            return false;
        }
        if matches!(routes, Routes::Unknown(pending) if pending.reading) {
            return true;
        }
        self.has_shrunk.store(true, Ordering::Relaxed);
        let mut pending = match std::mem::replace(routes, Routes::Closed) {
            Routes::Unknown(pending) => pending,
            Routes::Known(partitions) => Box::new(Pending { partitions, ..Pending::default() }),
            Routes::Refused(_) | Routes::Closed => Box::default(),
        };
        pending.retired = std::mem::take(&mut pending.partitions);
        pending.former = u32::try_from(pending.retired.len()).ok();
        pending.retired.iter().for_each(|partition| partition.queue.lock().retire());
        *routes = Routes::Unknown(pending);
        false
    }

    /// Takes over what retired partitions have, which is older than all that is pending: each keeps its order, and so does
    /// each key. Returns the records that can't go on.
    fn take_over(&self, shared: &Arc<Shared>, pending: &mut Pending) -> Vec<(OwnedRecord, Ended)> {
        let (mut ended, mut older, mut between) = (Vec::new(), Backlog::default(), Vec::new());
        let count = pending.partitions.len() as u32;
        let former = pending.former.unwrap_or(count);
        for partition in std::mem::take(&mut pending.retired) {
            let index = partition.index.unsigned_abs();
            let left = partition.queue.lock().take_everything();
            Meter::add(&shared.meter.possible_duplicates, left.unanswered as u64);
            let mut first = Vec::new();
            for batch in left.first {
                self.take_apart(shared, batch, |record, ticket| {
                    let partition = Self::rerouted(shared, record, (index, former), count);
                    first.push((OwnedRecord::from(record), partition, ticket));
                });
            }
            ended.extend(self.put_in_front(shared, &pending.partitions, first, false));
            older.append(left.spilled);
            for batch in left.last {
                let since = batch.opened;
                self.take_apart(shared, batch, |record, ticket| {
                    let partition = Self::rerouted(shared, record, (index, former), count);
                    let record = OwnedRecord::from(&Record { partition, ..*record });
                    shared.budget.take(size_of::<Waiting>());
                    between.push(Waiting { record, ticket, since });
                });
            }
            shared.meter.solved(&Part::Partition(Arc::clone(&self.name), partition.index));
        }
        older.append(std::mem::take(&mut pending.older));
        between.append(&mut pending.between);
        pending.spilling |= !older.is_empty();
        (pending.older, pending.between) = (older, between);
        ended.extend(self.route_between(shared, pending));
        ended
    }

    /// Gives records with their partitions to those, in front of all that they have but for what was put there before.
    fn put_in_front(
        &self,
        shared: &Shared,
        partitions: &[Arc<Partition>],
        records: impl IntoIterator<Item = (OwnedRecord, Option<u32>, Ticket)>,
        in_log: bool,
    ) -> Vec<(OwnedRecord, Ended)> {
        let mut ended = Vec::new();
        let mut open: BTreeMap<u32, OpenBatch> = BTreeMap::new();
        let (count, sticky) = (partitions.len() as u32, self.sticky.load(Ordering::Relaxed));
        for (record, partition, ticket) in records {
            let refused = record.with_borrowed(|record| {
                let index = Self::choose(shared, &Record { partition, ..*record }, count, sticky);
                let Some(partition) = partitions.get(index as usize) else { return Some(ticket) };
                let full = |batch: &OpenBatch| batch.bytes() + ticket.charged > shared.config.batch_bytes;
                if open.get(&index).is_some_and(full)
                    && let Some(batch) = open.remove(&index)
                {
                    partition.queue.lock().put_in_front(batch, in_log);
                }
                open.entry(index).or_insert_with(|| shared.begin_batch()).push(record, ticket);
                None
            });
            let outcome = Outcome::Rejected(Rejection::Invalid);
            ended.extend(refused.map(|ticket| (record, Ended { ticket, outcome })));
        }
        for (index, batch) in open {
            let Some(partition) = partitions.get(index as usize) else { continue };
            let mut queue = partition.queue.lock();
            queue.put_in_front(batch, in_log);
            if let Some(owner) = queue.owner.clone() {
                if !std::mem::replace(&mut queue.listed, true) {
                    owner.list(Arc::clone(partition));
                }
                owner.wake();
            }
        }
        ended
    }

    /// Sends on what came behind the older part of the log, once that is read.
    fn route_between(&self, shared: &Shared, pending: &mut Pending) -> Vec<(OwnedRecord, Ended)> {
        if !pending.older.is_empty() {
            return Vec::new();
        }
        let between =
            std::mem::take(&mut pending.between).into_iter().map(|Waiting { record, ticket, .. }| {
                shared.budget.give_back(size_of::<Waiting>());
                let partition = record.partition();
                (record, partition, ticket)
            });
        self.put_in_front(shared, &pending.partitions, between, false)
    }

    fn route_all(
        &self,
        shared: &Shared,
        partitions: &[Arc<Partition>],
        waiting: impl IntoIterator<Item = Waiting>,
    ) -> Vec<(OwnedRecord, Ended)> {
        let mut ended = Vec::new();
        for Waiting { record, ticket, .. } in waiting {
            let routed = record.with_borrowed(|record| self.route(shared, partitions, record, ticket));
            ended.extend(routed.err().map(|end| (record, end)));
            shared.budget.give_back(size_of::<Waiting>());
        }
        ended
    }

    /// Gives each record of a batch with its ticket to `each`.
    fn take_apart(&self, shared: &Shared, mut batch: SealedBatch, mut each: impl FnMut(&Record<'_>, Ticket)) {
        let mut acks = batch.take_acks().into_iter();
        let mut sources = batch.sources.each();
        let bytes = unpacked(batch.bytes()).expect("what this crate packed, it unpacks");
        for_each_record(&bytes, &self.name, |_, record| {
            let (source, ack) = (sources.next().unwrap_or_default(), acks.next().flatten());
            let charged = budget_bytes(record);
            shared.budget.take(charged);
            each(record, Ticket { source, ack, charged });
        });
        shared.budget.give_back(batch.charged());
    }

    /// Where a record has to go that lay in partition `index` of `former`: where the partitioner says, if that is why it lay
    /// there, and otherwise to the same one if there still is one.
    fn rerouted(
        shared: &Shared,
        record: &Record<'_>,
        (index, former): (u32, u32),
        count: u32,
    ) -> Option<u32> {
        // Asked with another sticky partition: who goes anywhere says so.
        let chosen = shared.config.partitioner.partition(record, former, (index + 1) % former) % former;
        (chosen != index && index < count).then_some(index)
    }

    /// Sends all that waits in memory to its partitions: nothing older is left.
    fn begin_routing(&self, shared: &Shared, routes: &mut Routes) -> Vec<(OwnedRecord, Ended)> {
        let mut ended = Vec::new();
        if let Routes::Unknown(pending) = std::mem::replace(routes, Routes::Closed) {
            ended = self.route_all(shared, &pending.partitions, pending.waiting);
            *routes = Routes::Known(pending.partitions);
        }
        ended
    }

    /// Adds what an earlier process left in the log, in its order.
    pub(crate) fn recovered(&self, entries: Backlog) {
        if let Routes::Unknown(pending) = &mut *self.routes.write() {
            pending.backlog.append(entries);
            pending.spilling = true;
        }
    }

    /// The partitions, as far as they are known.
    pub(crate) fn partitions(&self) -> Vec<Arc<Partition>> {
        match &*self.routes.read() {
            Routes::Known(partitions) => partitions.clone(),
            Routes::Unknown(pending) => pending.partitions.clone(),
            Routes::Refused(_) | Routes::Closed => Vec::new(),
        }
    }

    /// Takes what waits without a partition for the spill log, if it waits too long, or in any case where that is so
    /// already, or with `force`.
    pub(crate) fn gather(&self, now: Instant, after: Duration, force: bool) -> Vec<Waiting> {
        let mut routes = self.routes.write();
        let Routes::Unknown(pending) = &mut *routes else { return Vec::new() };
        pending.spill_listed = false;
        pending.spilling |= force || pending.waiting.front().is_some_and(|first| first.since + after <= now);
        // The partitions are known and the disk is empty: what is in memory goes on in a moment.
        let on_disk = !pending.backlog.is_empty() || !pending.older.is_empty();
        let nearly = !force && !pending.partitions.is_empty() && !on_disk;
        if !pending.spilling || pending.writing > 0 || pending.waiting.is_empty() || nearly {
            return Vec::new();
        }
        // Until the caller says how many: nobody may take the disk for empty meanwhile.
        pending.writing = 1;
        pending.waiting.drain(..).collect()
    }

    /// Says how many groups the spill log was given of what [`Self::gather`] gave.
    pub(crate) fn begin_writing(&self, groups: usize) {
        if groups > 0
            && let Routes::Unknown(pending) = &mut *self.routes.write()
        {
            pending.writing = groups;
        }
    }

    /// Whether a group was not taken that came before the one that was asked about now.
    pub(crate) fn has_returned(&self) -> bool {
        match &*self.routes.read() {
            Routes::Unknown(pending) => !pending.returned.is_empty(),
            Routes::Known(_) | Routes::Refused(_) | Routes::Closed => false,
        }
    }

    /// Takes in what became of the next group, or gives it back where there is no place for it any more.
    pub(crate) fn written(
        &self,
        written: Result<Spilled, Vec<Waiting>>,
    ) -> Option<Result<Spilled, Vec<Waiting>>> {
        let mut routes = self.routes.write();
        let Routes::Unknown(pending) = &mut *routes else { return Some(written) };
        pending.writing = pending.writing.saturating_sub(1);
        match written {
            Ok(spilled) => pending.backlog.push_back(spilled),
            Err(records) => pending.returned.extend(records),
        }
        if pending.writing == 0 {
            for waiting in pending.returned.drain(..).rev() {
                pending.waiting.push_front(waiting);
            }
        }
        None
    }

    /// Entries to read back now, if the partitions are known and nobody reads. [`Self::replay`] ends it.
    pub(crate) fn begin_reading(&self) -> Option<Vec<Spilled>> {
        const BYTES: usize = 1024 * 1024;
        let mut routes = self.routes.write();
        let Routes::Unknown(pending) = &mut *routes else { return None };
        if pending.reading || pending.partitions.is_empty() {
            return None;
        }
        let mut bytes = 0;
        let mut taken = Vec::new();
        pending.reading_older = !pending.older.is_empty();
        let from = if pending.reading_older { &mut pending.older } else { &mut pending.backlog };
        while bytes < BYTES
            && let Some(next) = from.pop_front()
        {
            bytes += next.id.bytes();
            taken.push(next);
        }
        pending.reading = !taken.is_empty() || pending.is_drained();
        pending.reading.then_some(taken)
    }

    /// Takes in the records that were read back, each with what it is charged, and lets the topic go on once the log has
    /// no more of it. Gives back what has no place any more: records, and entries.
    pub(crate) fn replay(
        &self,
        shared: &Shared,
        records: Vec<(OwnedRecord, Ticket)>,
        unread: impl DoubleEndedIterator<Item = Spilled>,
    ) -> Left {
        let mut routes = self.routes.write();
        let mut ended = Vec::new();
        let pending = match &mut *routes {
            Routes::Unknown(pending) => pending,
            Routes::Refused(reason) => {
                let outcome = Outcome::Rejected(*reason);
                let ended = records.into_iter().map(|(record, ticket)| (record, Ended { ticket, outcome }));
                return (ended.collect(), unread.collect());
            }
            // The end of the process: all of it is still on disk.
            Routes::Known(_) | Routes::Closed => {
                let outcome = Outcome::Lost;
                let ended = records.into_iter().map(|(record, ticket)| (record, Ended { ticket, outcome }));
                return (ended.collect(), Backlog::default());
            }
        };
        pending.reading = false;
        let from = if pending.reading_older { &mut pending.older } else { &mut pending.backlog };
        unread.rev().for_each(|spilled| from.push_front(spilled));
        let count = pending.partitions.len() as u32;
        let records = records.into_iter().map(|(record, ticket)| {
            // A topic may have been made again with fewer partitions, by now or before this process began.
            let partition = match (record.partition(), pending.former) {
                (Some(index), Some(former)) => {
                    record.with_borrowed(|record| Self::rerouted(shared, record, (index, former), count))
                }
                (index, _) => index.filter(|&index| index < count),
            };
            (record, partition, ticket)
        });
        // Known to be in the log: spilled again they would come behind what is newer, for a process that is killed and reads
        // the log from its beginning.
        let records: Vec<_> = records.collect();
        ended.extend(self.put_in_front(shared, &pending.partitions, records, true));
        ended.extend(self.route_between(shared, pending));
        if pending.is_drained() {
            ended.extend(self.begin_routing(shared, &mut routes));
        }
        (ended, Backlog::default())
    }

    /// Whether all that it has without a partition is in the log.
    pub(crate) fn is_all_spilled(&self) -> bool {
        match &*self.routes.read() {
            Routes::Unknown(pending) => {
                let in_memory = !pending.waiting.is_empty() || !pending.between.is_empty();
                !in_memory && pending.writing == 0 && pending.retired.is_empty()
            }
            Routes::Known(_) | Routes::Refused(_) | Routes::Closed => true,
        }
    }

    /// When the oldest entry without a partition was written, in seconds since the start.
    pub(crate) fn oldest_spilled(&self) -> Option<u32> {
        match &*self.routes.read() {
            Routes::Unknown(pending) => {
                pending.older.front().or_else(|| pending.backlog.front()).map(|spilled| spilled.at)
            }
            Routes::Known(_) | Routes::Refused(_) | Routes::Closed => None,
        }
    }

    /// Ends all that waits for a topic which can't exist.
    pub(crate) fn refuse(&self, shared: &Shared, reason: Rejection) -> Left {
        let mut routes = self.routes.write();
        let Routes::Unknown(pending) = &mut *routes else { return Left::default() };
        if !pending.retired.is_empty() || !pending.older.is_empty() || !pending.between.is_empty() {
            // It had partitions: the name of a topic does not turn into none.
            return Left::default();
        }
        let mut pending = std::mem::take(&mut **pending);
        *routes = Routes::Refused(reason);
        drop(routes);
        let backlog = std::mem::take(&mut pending.backlog);
        (end(shared, pending, Outcome::Rejected(reason)), backlog)
    }

    /// When the first of the records without a partition came that `is` holds for, by its source and whether somebody waits
    /// for it.
    pub(crate) fn oldest_droppable(&self, is: impl Fn(SourceId, bool) -> bool) -> Option<Instant> {
        let Routes::Unknown(pending) = &*self.routes.read() else { return None };
        let found = |one: &&Waiting| is(one.ticket.source, one.ticket.ack.is_some());
        pending.waiting.iter().find(found).map(|one| one.since)
    }

    /// Takes the oldest of them out, up to a batch's size.
    pub(crate) fn drop_oldest(
        &self,
        shared: &Shared,
        is: impl Fn(SourceId, bool) -> bool,
        dropped: &mut Dropped,
    ) {
        let mut routes = self.routes.write();
        let Routes::Unknown(pending) = &mut *routes else { return };
        let count = drop_waiting(&mut pending.waiting, shared.config.batch_bytes, is, dropped);
        shared.budget.give_back(count * size_of::<Waiting>());
    }

    /// Why it can't exist, if that is so.
    pub(crate) fn refused(&self) -> Option<Rejection> {
        match &*self.routes.read() {
            Routes::Refused(reason) => Some(*reason),
            Routes::Unknown(_) | Routes::Known(_) | Routes::Closed => None,
        }
    }

    /// Takes in nothing more and gives back everything that waits.
    pub(crate) fn close(&self, shared: &Shared) -> (Vec<SealedBatch>, Vec<(OwnedRecord, Ended)>) {
        match std::mem::replace(&mut *self.routes.write(), Routes::Closed) {
            Routes::Unknown(mut pending) => {
                let mut batches = std::mem::take(&mut pending.retired);
                batches.append(&mut pending.partitions);
                let batches = batches.iter().flat_map(|partition| partition.queue.lock().close()).collect();
                (batches, end(shared, *pending, Outcome::Lost))
            }
            Routes::Known(partitions) => {
                (partitions.iter().flat_map(|partition| partition.queue.lock().close()).collect(), Vec::new())
            }
            Routes::Refused(_) | Routes::Closed => (Vec::new(), Vec::new()),
        }
    }
}

impl Pending {
    /// Whether nothing is on disk and the partitions are known.
    fn is_drained(&self) -> bool {
        let on_disk = !self.older.is_empty() || !self.backlog.is_empty() || self.writing > 0;
        !self.partitions.is_empty() && !on_disk && !self.reading
    }
}

fn end(shared: &Shared, pending: Pending, outcome: Outcome) -> Vec<(OwnedRecord, Ended)> {
    let waiting: Vec<_> =
        pending.between.into_iter().chain(pending.returned).chain(pending.waiting).collect();
    shared.budget.give_back(waiting.len() * size_of::<Waiting>());
    waiting.into_iter().map(|Waiting { record, ticket, .. }| (record, Ended { ticket, outcome })).collect()
}

fn set_leader(shared: &Arc<Shared>, partition: &Arc<Partition>, leader: Option<i32>) {
    let mut queue = partition.queue.lock();
    queue.is_there();
    // A partition without a leader keeps its old one in mind: it is the likeliest to come back, and nothing is lost by
    // asking it.
    let Some(leader) = leader.or_else(|| queue.leader()) else { return };
    queue.set_leader(leader);
    // Started even if it is the old owner that sends for now: it looks for the new one when it hands over.
    let lane = shared.lane(leader);
    match queue.owner.clone() {
        Some(owner) if owner.node() == leader => owner.wake(),
        // Its owner hands it over when no answer is due.
        Some(owner) if queue.listed => owner.wake(),
        _ => {
            let owner = lane;
            if queue.has_waiting() {
                queue.listed = true;
                owner.list(Arc::clone(partition));
                owner.wake();
            }
            queue.owner = Some(owner);
        }
    }
}
