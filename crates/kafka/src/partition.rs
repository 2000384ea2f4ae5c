//! One partition: what waits for it, what is in flight, and in which order it may be sent. No I/O happens here and no
//! clock is read; the lane that owns the partition asks and tells.
//!
//! The order of a partition's batches is kept by three rules. A batch gets its sequence when it is sent first, and keeps
//! it. After a failure nothing is sent until every answer that is still due has come, and then everything that failed is
//! sent again in its order. And until a batch succeeded after a start or a failure, only one is in flight: a node that
//! knows nothing of our sequence takes any first one, so it must not see the second before the first.
//!
//! With a spill log, a queue that Kafka does not take from hands what waits to the log. It then is, oldest first: what is
//! in flight and what failed (in memory, copied to the log), what was read back, what is in the log only, what is new.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tidegate_sink::{Backoff, BackoffPolicy, Record, Rejection};

use crate::backlog::Backlog;
use crate::books::{SourceId, Sources};
use crate::config::Config;
use crate::error_class::{ErrorClass, OUT_OF_ORDER_SEQUENCE, UNKNOWN_TOPIC_OR_PARTITION, classify};
use crate::lane::Lane;
use crate::record_batch::{
    Lent, OpenBatch, ProducerIdentity, SealedBatch, Ticket, advance_sequence, retreat_sequence,
};
use crate::spill::Spilled;
use crate::when_full::Dropped;

/// Bytes that are read back from the log at once.
const LOAD_BYTES: usize = 256 * 1024;

/// One partition of a topic, shared by those who offer records and the lane that sends them.
#[derive(Debug)]
pub(crate) struct Partition {
    pub(crate) topic: Arc<str>,
    pub(crate) index: i32,
    pub(crate) queue: Mutex<Queue>,
}

/// What waits for a partition, and its place in the conversation with Kafka.
#[derive(Debug)]
pub(crate) struct Queue {
    open: Option<OpenBatch>,
    /// Full, and never sent.
    sealed: VecDeque<SealedBatch>,
    /// Sent before and to be sent again, by position.
    again: VecDeque<SealedBatch>,
    /// Answers that are due.
    outstanding: usize,
    identity: Option<ProducerIdentity>,
    next_sequence: i32,
    next_position: u64,
    /// Whether Kafka has taken a batch since the start or the last failure.
    proven: bool,
    /// Whether a failure waits for the answers that are due.
    failed: bool,
    /// Whether `identity` is of no use any more.
    needs_identity: bool,
    /// The topic was gone when somebody looked. It may come back with other partitions, in which the records of this one
    /// belong elsewhere: nothing is sent before it is known which there are.
    awaits_metadata: bool,
    /// Nothing is sent before this.
    not_before: Option<Instant>,
    backoff: Backoff,
    /// Who leads it, as far as is known.
    leader: Option<i32>,
    /// Who sends it. Changes hands when the leader changed and no answer is due.
    pub(crate) owner: Option<Arc<Lane>>,
    /// Whether the owner has it on its list.
    pub(crate) listed: bool,
    /// Nothing is taken in any more.
    closed: bool,
    /// The partition is gone: nothing is sent or spilled any more, and what there is goes elsewhere.
    retired: bool,
    /// Read back from the spill log: sent before what is `spilled`.
    replay: VecDeque<SealedBatch>,
    /// In the spill log only: sent before what is `sealed`.
    spilled: Backlog,
    /// Whether some of it is being read back.
    loading: bool,
    /// Batches that the spill log is writing and that are nowhere else; they come behind what is `spilled`.
    writing: usize,
    /// Of those, the ones that it did not take.
    returned: Vec<SealedBatch>,
    /// Whether what is new goes to the spill log at once.
    pub(crate) spilling: bool,
    /// Whether the spill task has it on its list.
    pub(crate) spill_listed: bool,
    /// Batches in flight that are in no log.
    exposed: usize,
    last_delivered: Option<Instant>,
}

/// What a queue gives to the spill log, oldest first.
#[derive(Debug)]
pub(crate) enum Gathered {
    /// The lane has to write what is in flight first: it is older.
    AfterLane,
    /// Kafka takes what there is: no need for a log.
    Healthy,
    /// Copies of batches that stay in memory, then batches that do not.
    Some { copies: Vec<Copied>, moved: Vec<SealedBatch> },
}

/// What a retired queue had.
#[derive(Debug)]
pub(crate) struct Left {
    /// Older than what is spilled: sent before, or read back from the log.
    pub(crate) first: Vec<SealedBatch>,
    /// How many records of it were sent before and have no answer that says where they are.
    pub(crate) unanswered: usize,
    pub(crate) spilled: Backlog,
    /// Newer than that: never sent.
    pub(crate) last: Vec<SealedBatch>,
}

/// A copy of a batch, and the acks that it shares with it.
#[derive(Debug)]
pub(crate) struct Copied {
    pub(crate) bytes: Vec<u8>,
    pub(crate) records: usize,
    pub(crate) sources: Sources,
    pub(crate) lent: Arc<Mutex<Lent>>,
}

impl Copied {
    pub(crate) fn of(batch: &mut SealedBatch) -> Self {
        let lent = batch.lend();
        let sources = batch.sources.clone();
        Self { bytes: batch.bytes().to_vec(), records: batch.records(), sources, lent }
    }
}

/// What an append asks of the caller.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(crate) enum Appended {
    /// Nothing: the owner knows.
    Joined,
    /// A batch was begun: the owner has to look at the next flush.
    Began,
    /// A batch was completed: the owner can send it now.
    Sealed,
}

/// What the lane does with an answered batch.
#[derive(Debug)]
pub(crate) enum Answered {
    /// It is there: settle it.
    Delivered(SealedBatch),
    /// It will be sent again.
    Kept(ErrorClass),
    /// So will this one, which failed because the one before it did.
    Followed,
}

/// What became of a queue when all its answers were in.
#[derive(Debug, Default)]
pub(crate) struct Recovery {
    /// Records that Kafka will never take, each alone in a batch.
    pub(crate) rejected: Vec<(SealedBatch, Rejection)>,
    /// Whether a new producer id has to be asked for.
    pub(crate) wants_identity: bool,
}

impl Partition {
    pub(crate) fn new(
        topic: Arc<str>,
        index: i32,
        identity: ProducerIdentity,
        backoff: BackoffPolicy,
        seed: u64,
    ) -> Self {
        let queue = Queue {
            open: None,
            sealed: VecDeque::new(),
            again: VecDeque::new(),
            outstanding: 0,
            identity: Some(identity),
            next_sequence: 0,
            next_position: 0,
            proven: false,
            failed: false,
            needs_identity: false,
            awaits_metadata: false,
            not_before: None,
            backoff: Backoff::new(backoff, seed),
            leader: None,
            owner: None,
            listed: false,
            closed: false,
            retired: false,
            replay: VecDeque::new(),
            spilled: Backlog::default(),
            loading: false,
            writing: 0,
            returned: Vec::new(),
            spilling: false,
            spill_listed: false,
            exposed: 0,
            last_delivered: None,
        };
        Self { topic, index, queue: Mutex::new(queue) }
    }
}

impl Queue {
    /// Takes a record in, or gives its ticket back when the queue is closed. `begin` makes a batch where one begins.
    pub(crate) fn append(
        &mut self,
        record: &Record<'_>,
        ticket: Ticket,
        batch_bytes: usize,
        begin: impl FnOnce() -> OpenBatch,
    ) -> Result<Appended, Ticket> {
        if self.closed {
            return Err(ticket);
        }
        let mut appended = Appended::Joined;
        if let Some(full) = self.open.take_if(|open| open.bytes() + ticket.charged > batch_bytes) {
            self.sealed.push_back(full.seal());
            appended = Appended::Sealed;
        }
        if self.open.is_none() && appended == Appended::Joined {
            appended = Appended::Began;
        }
        self.open.get_or_insert_with(begin).push(record, ticket);
        Ok(appended)
    }

    /// Whether its owner has nothing to do for it: nothing is to be sent and no answer is due.
    pub(crate) fn is_idle(&self) -> bool {
        self.outstanding == 0 && (self.retired || !self.has_waiting())
    }

    /// Has it send and spill nothing more: its partition is gone.
    pub(crate) fn retire(&mut self) {
        self.retired = true;
    }

    /// Whether nobody is at work on anything that it has: no lane, and no disk.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.outstanding == 0 && !self.loading && self.writing == 0
    }

    /// Takes out everything that it has. It is [at rest](Self::is_at_rest).
    pub(crate) fn take_everything(&mut self) -> Left {
        let unanswered = self.again.iter().map(SealedBatch::records).sum();
        let first = self.again.drain(..).chain(self.replay.drain(..)).collect();
        let open = self.open.take().map(OpenBatch::seal);
        let last = self.sealed.drain(..).chain(open).collect();
        Left { first, unanswered, spilled: std::mem::take(&mut self.spilled), last }
    }

    /// Has it wait until it is known which partitions there are.
    pub(crate) fn await_metadata(&mut self) {
        self.awaits_metadata = true;
    }

    /// Says that the partition is there.
    pub(crate) fn is_there(&mut self) {
        self.awaits_metadata = false;
    }

    /// Has it wait for a producer id that Kafka knows nothing of.
    pub(crate) fn want_identity(&mut self) {
        self.needs_identity = true;
    }

    pub(crate) fn has_waiting(&self) -> bool {
        let waiting = [&self.sealed, &self.again, &self.replay].iter().any(|queue| !queue.is_empty());
        waiting || self.open.is_some() || !self.spilled.is_empty() || self.loading
    }

    /// Whether what is sealed or open has to wait for what is older and on disk.
    fn is_behind(&self) -> bool {
        !self.spilled.is_empty() || self.loading || self.writing > 0
    }

    /// Whether more should be read back from the log now. Says so once: [`Self::loaded`] ends it.
    pub(crate) fn begin_loading(&mut self) -> Option<Vec<Spilled>> {
        /// Batches read back and not sent.
        const AHEAD: usize = 2;
        /// Entries in one batch: small ones were written under little load.
        const ENTRIES: usize = 4096;
        let flows = self.proven || (self.outstanding == 0 && self.replay.is_empty());
        if self.retired
            || self.loading
            || self.failed
            || !flows
            || !self.again.is_empty()
            || self.replay.len() >= AHEAD
        {
            return None;
        }
        let mut bytes = 0;
        let mut taken = Vec::new();
        while let Some(next) = self.spilled.front() {
            bytes += next.id.bytes();
            if !taken.is_empty() && (bytes > LOAD_BYTES || taken.len() == ENTRIES) {
                break;
            }
            taken.extend(self.spilled.pop_front());
        }
        self.loading = !taken.is_empty();
        self.loading.then_some(taken)
    }

    /// Takes in what was read back.
    pub(crate) fn loaded(
        &mut self,
        batch: Option<SealedBatch>,
        unread: impl DoubleEndedIterator<Item = Spilled>,
    ) {
        self.loading = false;
        unread.rev().for_each(|spilled| self.spilled.push_front(spilled));
        self.replay.extend(batch);
    }

    /// Takes in records that are older than all but what was put in front before; `in_log` says that they are in the spill
    /// log until they are settled.
    pub(crate) fn put_in_front(&mut self, batch: OpenBatch, in_log: bool) {
        let mut batch = batch.seal();
        batch.replayed = in_log;
        self.replay.push_back(batch);
    }

    /// Whether Kafka took something lately and nothing has failed since.
    fn is_healthy(&self, now: Instant, after: Duration) -> bool {
        self.proven && !self.failed && self.last_delivered.is_some_and(|at| at + after / 4 > now)
    }

    /// Whether there is something in memory that is in no log and waits too long, or failed.
    pub(crate) fn is_overdue(&self, now: Instant, after: Duration) -> bool {
        let late = |at: Instant| at + after <= now;
        let older = self.again.iter().chain(&self.replay);
        older.into_iter().any(|batch| !batch.is_spilled() && batch.refused.is_none())
            || self.sealed.front().map(|batch| batch.opened).is_some_and(late)
            || self.open.as_ref().map(OpenBatch::opened).is_some_and(late)
    }

    /// Whether all that it has is in the log or in flight with a copy there.
    pub(crate) fn is_all_spilled(&self) -> bool {
        self.exposed == 0
            && self.writing == 0
            && self.sealed.is_empty()
            && self.open.is_none()
            && self.again.iter().chain(&self.replay).all(SealedBatch::is_safe)
    }

    /// Gives what waits to the spill log, unless `force` is absent and Kafka takes it as well.
    pub(crate) fn gather(&mut self, now: Instant, after: Duration, force: bool) -> Option<Gathered> {
        if self.retired || !self.spilling || self.writing > 0 {
            return None;
        }
        let caught_up = self.spilled.is_empty() && !self.loading;
        if !force && caught_up && self.is_healthy(now, after) && !self.is_overdue(now, after) {
            self.spilling = false;
            return Some(Gathered::Healthy);
        }
        if self.exposed > 0 {
            return Some(Gathered::AfterLane);
        }
        let in_memory = self.again.iter_mut().chain(&mut self.replay);
        let copies: Vec<_> = in_memory.filter(|batch| !batch.is_spilled()).map(Copied::of).collect();
        self.sealed.extend(self.open.take().map(OpenBatch::seal));
        let moved: Vec<_> = self.sealed.drain(..).collect();
        self.writing = moved.len();
        (!copies.is_empty() || !moved.is_empty()).then_some(Gathered::Some { copies, moved })
    }

    /// Takes in what became of the next batch that was moved to the log; says whether it was the last of them. Once one
    /// was not taken, those behind it come back too.
    pub(crate) fn moved(&mut self, written: Result<Spilled, SealedBatch>) -> bool {
        self.writing -= 1;
        match written {
            Ok(spilled) => self.spilled.push_back(spilled),
            Err(batch) if self.closed => drop(batch),
            Err(batch) => self.returned.push(batch),
        }
        if self.writing == 0 {
            for batch in self.returned.drain(..).rev() {
                self.sealed.push_front(batch);
            }
        }
        self.writing == 0
    }

    /// Whether a batch that was moved has come back.
    pub(crate) fn has_returned(&self) -> bool {
        !self.returned.is_empty()
    }

    /// When the first record came, of those that were never sent, that `is` holds for.
    pub(crate) fn oldest_droppable(&self, is: impl Fn(SourceId, bool) -> bool + Copy) -> Option<Instant> {
        let sealed = self.sealed.iter().find(|batch| batch.has(is)).map(|batch| batch.opened);
        sealed.or_else(|| self.open.as_ref().filter(|open| open.has(is)).map(OpenBatch::opened))
    }

    /// Takes such records out of the oldest batch that has some.
    pub(crate) fn drop_oldest(
        &mut self,
        config: &Config,
        is: impl Fn(SourceId, bool) -> bool + Copy,
        dropped: &mut Dropped,
    ) {
        if !self.sealed.iter().any(|batch| batch.has(is)) {
            self.sealed.extend(self.open.take().map(OpenBatch::seal));
        }
        let Some(place) = self.sealed.iter().position(|batch| batch.has(is)) else { return };
        let Some(batch) = self.sealed.remove(place) else { return };
        if let Some(left) = batch.without(config, is, dropped) {
            self.sealed.insert(place, left);
        }
    }

    /// Says that a batch in flight is copied to the log.
    pub(crate) fn covered(&mut self, batch: &mut SealedBatch) {
        if std::mem::take(&mut batch.exposed) {
            self.exposed -= 1;
        }
    }

    /// When the oldest of what is on disk was written, in seconds since the start.
    pub(crate) fn oldest_spilled(&self) -> Option<u32> {
        self.spilled.front().map(|spilled| spilled.at)
    }

    pub(crate) fn outstanding(&self) -> usize {
        self.outstanding
    }

    pub(crate) fn leader(&self) -> Option<i32> {
        self.leader
    }

    /// Whether it waits after failures.
    pub(crate) fn is_troubled(&self) -> bool {
        self.backoff.attempts() > 0
    }

    /// The next batch to send, in flight from now on. `hurry` seals what is open without waiting for its linger.
    pub(crate) fn next_batch(&mut self, now: Instant, linger: Duration, hurry: bool) -> Option<SealedBatch> {
        if !self.may_send(now) {
            return None;
        }
        let identity = self.identity?;
        if let Some(mut batch) = self.again.pop_front() {
            self.outstanding += 1;
            self.expose(&mut batch);
            return Some(batch);
        }
        let replayed = self.replay.pop_front();
        if replayed.is_none() && self.is_behind() {
            return None;
        }
        if replayed.is_none() && self.sealed.is_empty() {
            let due = |open: &mut OpenBatch| hurry || open.opened() + linger <= now;
            let open = self.open.take_if(due)?;
            self.sealed.push_back(open.seal());
        }
        let mut batch = match replayed {
            Some(batch) => batch,
            None => self.sealed.pop_front()?,
        };
        batch.stamp(identity, self.next_sequence);
        batch.position = self.next_position;
        batch.first_sent = Some(now);
        self.next_position += batch.records() as u64;
        self.next_sequence = advance_sequence(self.next_sequence, batch.records());
        self.outstanding += 1;
        self.expose(&mut batch);
        Some(batch)
    }

    fn expose(&mut self, batch: &mut SealedBatch) {
        batch.exposed = !batch.is_spilled();
        self.exposed += usize::from(batch.exposed);
    }

    /// Bytes of the batch that [`Self::next_batch`] would give, as far as they are known now.
    pub(crate) fn next_bytes(&self) -> usize {
        let first = self.again.front().or_else(|| self.replay.front()).or_else(|| self.sealed.front());
        let first = first.map(|batch| batch.bytes().len());
        first.or_else(|| self.open.as_ref().map(OpenBatch::bytes)).unwrap_or(0)
    }

    /// When to look again if nothing else happens; `None` when only an answer, a record or someone else can change
    /// anything.
    pub(crate) fn deadline(&self, linger: Duration) -> Option<Instant> {
        let waits = self.retired || self.failed || self.needs_identity || self.awaits_metadata;
        if !self.has_waiting() || waits || (!self.proven && self.outstanding > 0) {
            return None;
        }
        let older = !self.again.is_empty() || !self.replay.is_empty();
        if !older && self.is_behind() {
            return None;
        }
        let begun = if !older && self.sealed.is_empty() {
            self.open.as_ref().map(|open| open.opened() + linger)
        } else {
            None
        };
        begun.max(self.not_before)
    }

    fn may_send(&self, now: Instant) -> bool {
        !self.retired
            && !self.failed
            && !self.needs_identity
            && !self.awaits_metadata
            && (self.proven || self.outstanding == 0)
            && self.not_before.is_none_or(|moment| moment <= now)
    }

    /// Takes in Kafka's answer to `batch`.
    pub(crate) fn answered(&mut self, mut batch: SealedBatch, code: i16, now: Instant) -> Answered {
        self.outstanding -= 1;
        self.covered(&mut batch);
        let class = classify(code);
        match class {
            ErrorClass::Delivered => {
                // A follower may succeed while an earlier batch waits to be repeated (it was stored, and only its
                // answer was bad): the trouble is over when that one succeeds.
                self.last_delivered = Some(now);
                if !self.failed {
                    self.proven = true;
                    self.backoff.succeeded();
                    self.not_before = None;
                }
                return Answered::Delivered(batch);
            }
            // The batch before it failed, so this one was bound to be out of order: it waits for its turn.
            ErrorClass::NewProducerId if code == OUT_OF_ORDER_SEQUENCE && self.failed => {
                self.keep(batch);
                return Answered::Followed;
            }
            ErrorClass::NewProducerId => {
                self.back_off(now, class);
                self.needs_identity = true;
            }
            ErrorClass::Split(reason) => batch.refused = Some(reason),
            ErrorClass::RetryWithMetadata | ErrorClass::RetryInPlace | ErrorClass::Park => {
                self.awaits_metadata |= code == UNKNOWN_TOPIC_OR_PARTITION;
                self.back_off(now, class);
            }
        }
        self.keep(batch);
        Answered::Kept(class)
    }

    /// Takes back a batch whose answer will not come.
    pub(crate) fn connection_lost(&mut self, mut batch: SealedBatch) {
        self.outstanding -= 1;
        self.covered(&mut batch);
        self.keep(batch);
    }

    fn back_off(&mut self, now: Instant, class: ErrorClass) {
        // Those that were in flight together fail together: that is one failure.
        if !self.failed {
            let wait = self.backoff.failed();
            let wait = if class == ErrorClass::Park { wait.max(self.backoff.policy().cap) } else { wait };
            self.not_before = Some(now + wait);
        }
    }

    fn keep(&mut self, batch: SealedBatch) {
        self.failed = true;
        self.proven = false;
        let place = self.again.partition_point(|other| other.position < batch.position);
        self.again.insert(place, batch);
    }

    /// Once no answer is due after a failure: splits what has to be split, takes out what Kafka will never take, and
    /// lets the rest go again. `None` when there is nothing to recover from, or it is too early.
    pub(crate) fn recover(&mut self) -> Option<Recovery> {
        if !self.failed || self.outstanding > 0 {
            return None;
        }
        self.failed = false;
        let mut recovery = Recovery { wants_identity: self.needs_identity, ..Recovery::default() };
        if self.again.iter().all(|batch| batch.refused.is_none()) {
            return Some(recovery);
        }
        // A record that is taken out leaves a gap in the sequence, which closes by moving what follows. None of that was
        // stored: Kafka takes no batch after a gap.
        let Some(identity) = self.identity else { return Some(recovery) };
        let mut gap = 0;
        for mut batch in std::mem::take(&mut self.again) {
            let sequence = retreat_sequence(batch.sequence(), gap);
            match batch.refused.take() {
                None if gap == 0 => self.again.push_back(batch),
                None => {
                    batch.stamp(identity, sequence);
                    self.again.push_back(batch);
                }
                Some(reason) if batch.records() < 2 => {
                    gap += batch.records();
                    recovery.rejected.push((batch, reason));
                }
                Some(_) => {
                    let (mut first, mut second) = batch.split();
                    first.stamp(identity, sequence);
                    second.stamp(identity, advance_sequence(sequence, first.records()));
                    self.again.extend([first, second]);
                }
            }
        }
        self.next_sequence = retreat_sequence(self.next_sequence, gap);
        Some(recovery)
    }

    /// Takes in who leads the partition. A new leader is worth an attempt at once.
    pub(crate) fn set_leader(&mut self, leader: i32) {
        if self.leader.replace(leader) != Some(leader) {
            self.not_before = None;
        }
    }

    /// Starts over with a new producer id. Returns how many records may be stored twice by it: those that were sent
    /// before and have no answer.
    pub(crate) fn set_identity(&mut self, identity: ProducerIdentity) -> usize {
        self.identity = Some(identity);
        self.needs_identity = false;
        self.proven = false;
        self.next_sequence = 0;
        let mut unanswered = 0;
        for batch in &mut self.again {
            batch.stamp(identity, self.next_sequence);
            self.next_sequence = advance_sequence(self.next_sequence, batch.records());
            unanswered += batch.records();
        }
        unanswered
    }

    /// Takes in nothing more and gives back everything that waits.
    pub(crate) fn close(&mut self) -> Vec<SealedBatch> {
        self.closed = true;
        let open = self.open.take().map(OpenBatch::seal);
        self.spilled = Backlog::default();
        let in_memory = self.again.drain(..).chain(self.replay.drain(..)).chain(self.returned.drain(..));
        in_memory.chain(self.sealed.drain(..)).chain(open).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compression::Compression;
    use crate::record_batch::Buffers;

    const LINGER: Duration = Duration::from_millis(5);
    const ID: ProducerIdentity = ProducerIdentity { id: 1, epoch: 0 };

    fn begun(now: Instant) -> OpenBatch {
        OpenBatch::new(Buffers::default(), Compression::None, now)
    }

    fn ticket() -> Ticket {
        Ticket { source: SourceId::default(), ack: None, charged: 50 }
    }

    struct Fixture {
        partition: Partition,
        now: Instant,
    }

    impl Fixture {
        fn new() -> Self {
            let policy = BackoffPolicy { first: Duration::from_millis(20), cap: Duration::from_secs(1) };
            Self { partition: Partition::new("t".into(), 0, ID, policy, 7), now: Instant::now() }
        }

        /// Appends `records` as one batch.
        fn batch(&mut self, records: usize) {
            let mut queue = self.partition.queue.lock();
            for _ in 0..records {
                queue.append(&Record::new("t"), ticket(), 1 << 20, || begun(self.now)).unwrap();
            }
            let open = queue.open.take().unwrap();
            queue.sealed.push_back(open.seal());
        }

        fn next(&self) -> Option<SealedBatch> {
            self.partition.queue.lock().next_batch(self.now, LINGER, true)
        }

        fn answer(&self, batch: SealedBatch, code: i16) -> Answered {
            self.partition.queue.lock().answered(batch, code, self.now)
        }

        /// Sends one batch and lets it succeed, so that several may be in flight.
        fn prove(&mut self) {
            self.batch(1);
            let batch = self.next().unwrap();
            assert!(matches!(self.answer(batch, 0), Answered::Delivered(_)));
        }

        fn sequences(batches: &[SealedBatch]) -> Vec<i32> {
            batches.iter().map(SealedBatch::sequence).collect()
        }
    }

    #[test]
    fn only_one_batch_is_in_flight_until_kafka_has_taken_one() {
        let mut f = Fixture::new();
        f.batch(1);
        f.batch(1);
        let first = f.next().unwrap();
        assert!(f.next().is_none(), "a node that knows no sequence would take the second first");
        f.answer(first, 0);
        assert!(f.next().is_some());
    }

    #[test]
    fn after_a_failure_nothing_is_sent_until_all_answers_are_in_and_then_all_in_order() {
        let mut f = Fixture::new();
        f.prove();
        for records in [3, 2, 4] {
            f.batch(records);
        }
        let sent: Vec<_> = std::iter::from_fn(|| f.next()).collect();
        let (sequences, bytes): (Vec<_>, Vec<_>) =
            (Fixture::sequences(&sent), sent.iter().map(|b| b.bytes().to_vec()).collect());
        assert_eq!(sequences, [1, 4, 6]);
        f.batch(1);
        let mut sent = sent.into_iter();
        assert!(matches!(f.answer(sent.next().unwrap(), 19), Answered::Kept(ErrorClass::RetryInPlace)));
        assert!(f.next().is_none() && f.partition.queue.lock().recover().is_none());
        // The followers were bound to fail, and ask for no new producer id.
        for follower in sent {
            let answered = f.answer(follower, OUT_OF_ORDER_SEQUENCE);
            assert!(matches!(answered, Answered::Followed));
        }
        f.now += Duration::from_secs(2);
        assert!(f.next().is_none(), "not before the recovery");
        f.now -= Duration::from_secs(2);
        let recovery = f.partition.queue.lock().recover().unwrap();
        assert!(!recovery.wants_identity);
        assert!(f.next().is_none(), "the backoff");
        f.now += Duration::from_secs(2);
        for expected in bytes {
            let again = f.next().unwrap();
            assert_eq!(again.bytes(), expected, "byte for byte");
            f.answer(again, 0);
        }
        assert_eq!(f.next().unwrap().sequence(), 10);
    }

    #[test]
    fn a_lone_refused_record_closes_the_gap_in_the_sequence_behind_it() {
        let mut f = Fixture::new();
        f.prove();
        for records in [2, 1, 3] {
            f.batch(records);
        }
        let mut sent: Vec<_> = std::iter::from_fn(|| f.next()).collect();
        assert_eq!(Fixture::sequences(&sent), [1, 3, 4]);
        let (third, second, first) = (sent.remove(2), sent.remove(1), sent.remove(0));
        f.answer(first, 0);
        f.answer(second, 10);
        f.answer(third, OUT_OF_ORDER_SEQUENCE);
        let recovery = f.partition.queue.lock().recover().unwrap();
        assert_eq!(recovery.rejected.len(), 1);
        let again = f.next().unwrap();
        assert_eq!((again.sequence(), again.records()), (3, 3));
        f.answer(again, 0);
        f.batch(1);
        assert_eq!(f.next().unwrap().sequence(), 6);
    }

    #[test]
    fn a_stored_batch_with_a_bad_answer_keeps_its_sequence_while_a_refused_follower_goes() {
        let mut f = Fixture::new();
        f.prove();
        for records in [2, 2, 1, 1] {
            f.batch(records);
        }
        let sent: Vec<_> = std::iter::from_fn(|| f.next()).collect();
        assert_eq!(Fixture::sequences(&sent), [1, 3, 5, 6]);
        // The first is stored although its answer is bad, so the second succeeds; the third is refused.
        for (batch, code) in sent.into_iter().zip([20, 0, 10, OUT_OF_ORDER_SEQUENCE]) {
            f.answer(batch, code);
        }
        assert_eq!(f.partition.queue.lock().recover().unwrap().rejected.len(), 1);
        f.now += Duration::from_secs(2);
        let first = f.next().unwrap();
        assert_eq!(first.sequence(), 1);
        f.answer(first, 46);
        assert_eq!(f.next().unwrap().sequence(), 5, "where the refused one was");
    }

    #[test]
    fn a_new_producer_id_starts_from_the_first_unanswered_record() {
        let mut f = Fixture::new();
        f.prove();
        f.batch(2);
        f.batch(3);
        let sent: Vec<_> = std::iter::from_fn(|| f.next()).collect();
        for batch in sent {
            f.answer(batch, 59);
        }
        assert!(f.partition.queue.lock().recover().unwrap().wants_identity);
        f.now += Duration::from_secs(2);
        assert!(f.next().is_none(), "not under the old one");
        let new = ProducerIdentity { id: 2, epoch: 0 };
        assert_eq!(f.partition.queue.lock().set_identity(new), 5);
        let first = f.next().unwrap();
        assert_eq!((first.sequence(), &first.bytes()[43..51]), (0, &2_i64.to_be_bytes()[..]));
        assert!(f.next().is_none(), "until it is proven");
        f.answer(first, 0);
        assert_eq!(f.next().unwrap().sequence(), 2);
    }

    #[test]
    fn a_batch_waits_for_its_linger_unless_nothing_is_in_flight() {
        let f = Fixture::new();
        let mut queue = f.partition.queue.lock();
        queue.append(&Record::new("t"), ticket(), 1000, || begun(f.now)).unwrap();
        assert!(queue.next_batch(f.now, LINGER, false).is_none());
        assert_eq!(queue.deadline(LINGER), Some(f.now + LINGER));
        assert!(queue.next_batch(f.now + LINGER, LINGER, false).is_some());
    }
}
