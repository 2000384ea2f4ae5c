//! One lane for each Kafka node: a task which owns the node's connection and sends what its partitions have, several
//! requests in flight, in order.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::future::{Future, poll_fn};
use std::io::IoSlice;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tidegate_sink::{Ack, Backoff, Outcome, settle_all};
use tokio::sync::Notify;
use tokio::time::Sleep;
use tracing::debug;

use crate::books::Sources;
use crate::config::host_port;
use crate::connection::{Connection, ConnectionError};
use crate::error_class::{ErrorClass, UNKNOWN_SERVER_ERROR, error_name};
use crate::partition::{Answered, Copied, Partition, Recovery};
use crate::producer::Shared;
use crate::record_batch::SealedBatch;
use crate::status::{Meter, Part};
use crate::wire::{ProduceAnswer, ProducedPartition};

/// Produce requests without an answer on one connection. Kafka recognises repetitions among the last five batches of a
/// producer in a partition, and a request holds one batch of each partition.
const MAX_IN_FLIGHT: usize = 5;
/// Slices for one write: the system takes up to 1024, and a request of more is written in several turns.
const MAX_SLICES: usize = 64;
/// Far enough to be never.
const IDLE: Duration = Duration::from_hours(24);

/// What others see of a lane.
#[derive(Debug)]
pub(crate) struct Lane {
    node: i32,
    /// Partitions that have something to send and are new to the task.
    ready: Mutex<Vec<Arc<Partition>>>,
    /// Whether there is something that the task has not looked at.
    dirty: AtomicBool,
    /// Whether the task looks by itself when an answer comes, and within the linger.
    looks_soon: AtomicBool,
    /// Whether what is in flight has to be copied to the spill log now.
    spill_wanted: AtomicBool,
    wake: Notify,
}

impl Lane {
    pub(crate) fn new(node: i32) -> Self {
        Self {
            node,
            ready: Mutex::default(),
            dirty: AtomicBool::new(false),
            looks_soon: AtomicBool::new(false),
            spill_wanted: AtomicBool::new(false),
            wake: Notify::new(),
        }
    }

    pub(crate) fn node(&self) -> i32 {
        self.node
    }

    /// Puts a partition on the task's list; the caller holds its queue and has marked it as listed.
    pub(crate) fn list(&self, partition: Arc<Partition>) {
        self.ready.lock().push(partition);
    }

    /// Has the task look at the next flush, unless it does so soon; the caller holds the queue of what is new.
    pub(crate) fn touch(&self) {
        self.dirty.store(true, Ordering::Release);
    }

    /// Wakes the task if it was touched since it looked, and does not look soon by itself: what is open is not sent before
    /// an answer comes or its linger is over.
    pub(crate) fn flush(&self) {
        let waits = self.dirty.load(Ordering::Relaxed) && !self.looks_soon.load(Ordering::Relaxed);
        if waits && self.dirty.swap(false, Ordering::AcqRel) {
            self.wake.notify_one();
        }
    }

    /// Says whether the task looks soon, before it looks: whoever adds something to a queue behind that look has locked the
    /// queue after it, and so sees what is said here.
    fn looks(&self, soon: bool) {
        self.looks_soon.store(soon, Ordering::Relaxed);
        self.dirty.store(false, Ordering::Relaxed);
    }

    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Has the task copy to the spill log what it has in flight for partitions that spill.
    pub(crate) fn want_spill(&self) {
        self.spill_wanted.store(true, Ordering::Release);
        self.wake.notify_one();
    }
}

/// The task of a lane.
pub(crate) struct LaneTask {
    lane: Arc<Lane>,
    shared: Arc<Shared>,
    /// Partitions with something to send or an answer due.
    listed: Vec<Arc<Partition>>,
    link: Link,
    /// Sent, or being sent if it is the last and `writing`; answers come in this order.
    outstanding: VecDeque<Request>,
    writing: Option<Writing>,
    /// Whether the last look left something that may be sent once this is written.
    more: bool,
    /// Until then what is open gathers, though nothing is in flight.
    gathers_until: Option<Instant>,
    /// The last time that the node did anything for us.
    last_progress: Instant,
    /// Kafka asked to send nothing before this.
    throttled_until: Option<Instant>,
    backoff: Backoff,
    /// Whether a problem of the node was reported and not solved.
    troubled: bool,
    /// Whether the node has ever answered.
    reached: bool,
    sleep: Pin<Box<Sleep>>,
    settling: Settling,
}

type Opening = Pin<Box<dyn Future<Output = Result<Connection, ConnectionError>> + Send>>;

enum Link {
    Down { not_before: Option<Instant> },
    Opening(Opening),
    Up(Connection),
}

/// A batch, and where it belongs.
type PartitionBatch = (Arc<Partition>, SealedBatch);

/// A Produce request: one batch for each of some partitions.
struct Request {
    correlation: i32,
    version: i16,
    batches: Vec<PartitionBatch>,
}

/// How far the last request is written: `head` has the bytes around the batches, and batch `n` comes after
/// `head[..cuts[n]]`.
struct Writing {
    head: Vec<u8>,
    cuts: Vec<usize>,
    written: usize,
    total: usize,
}

enum Event {
    /// Something changed that a look at everything takes in.
    Look,
    Opened(Result<Connection, ConnectionError>),
    Answers(Vec<Vec<u8>>, Option<ConnectionError>),
}

/// What one turn delivered, gathered so that everybody is told once.
#[derive(Default)]
struct Settling {
    acks: Vec<Ack>,
    sources: Sources,
    records: usize,
    bytes: usize,
}

impl LaneTask {
    pub(crate) fn new(lane: Arc<Lane>, shared: Arc<Shared>) -> Self {
        let backoff = Backoff::new(shared.config.backoff, shared.seed());
        Self {
            lane,
            shared,
            listed: Vec::new(),
            link: Link::Down { not_before: None },
            outstanding: VecDeque::new(),
            writing: None,
            more: false,
            gathers_until: None,
            last_progress: now(),
            throttled_until: None,
            backoff,
            troubled: false,
            reached: false,
            sleep: Box::pin(tokio::time::sleep(IDLE)),
            settling: Settling::default(),
        }
    }

    pub(crate) async fn run(mut self) {
        while !self.shared.is_stopped() {
            let begun = now();
            self.gathers_until.take_if(|until| *until <= begun);
            self.lane.looks(self.looks_soon());
            self.listed.append(&mut self.lane.ready.lock());
            let deadline = self.look(begun);
            self.lane.looks_soon.store(self.looks_soon(), Ordering::Relaxed);
            match self.wait(deadline).await {
                Event::Look => {}
                Event::Opened(Ok(connection)) => {
                    debug!(node = self.lane.node, address = connection.address(), "connected");
                    self.last_progress = now();
                    self.reached = true;
                    self.link = Link::Up(connection);
                }
                Event::Opened(Err(error)) => self.disconnect(&error),
                Event::Answers(answers, error) => {
                    let failed = answers.iter().try_for_each(|answer| self.answer(answer)).err().or(error);
                    self.settle();
                    match failed {
                        // Kafka closes connections that nothing happens on. The next record opens another.
                        Some(ConnectionError::Io { .. }) if self.outstanding.is_empty() => {
                            debug!(node = self.lane.node, "idle connection ended");
                            self.link = Link::Down { not_before: None };
                        }
                        Some(error) => self.disconnect(&error),
                        None => {}
                    }
                }
            }
        }
        self.end();
    }

    /// Whether it looks within the linger whatever happens.
    fn looks_soon(&self) -> bool {
        let gathers = !self.outstanding.is_empty() || self.gathers_until.is_some();
        gathers && !self.shared.config.linger.is_zero()
    }

    /// Looks at everything: what timed out, who recovers, who moved away, what can be sent. Says when to look again.
    fn look(&mut self, now: Instant) -> Option<Instant> {
        if !self.outstanding.is_empty() && self.last_progress + self.shared.config.request_timeout <= now {
            let address = match &self.link {
                Link::Up(connection) => connection.address().to_owned(),
                Link::Down { .. } | Link::Opening(_) => format!("node {}", self.lane.node),
            };
            let after = self.shared.config.request_timeout;
            self.disconnect(&ConnectionError::Timeout { address, what: "Produce", after });
        }
        if self.throttled_until.is_some_and(|until| until <= now) {
            self.throttled_until = None;
        }
        let can_send = matches!(self.link, Link::Up(_))
            && self.writing.is_none()
            && self.outstanding.len() < MAX_IN_FLIGHT
            && self.throttled_until.is_none();
        let spill_deadline = self.spill_in_flight(now);
        let (batches, deadline, waiting) = self.collect(now, can_send);
        if !batches.is_empty() {
            self.send(batches, now);
        }
        let mut reopening = None;
        if waiting && let Link::Down { not_before } = self.link {
            if not_before.is_some_and(|moment| moment > now) {
                reopening = not_before;
            } else {
                self.open();
            }
        }
        if !waiting && matches!(self.link, Link::Down { .. }) {
            // Nothing waits for this node any more: its partitions went elsewhere.
            self.solved();
        }
        let deadlines = [
            deadline.filter(|_| can_send),
            (!self.outstanding.is_empty()).then(|| self.last_progress + self.shared.config.request_timeout),
            self.throttled_until,
            reopening,
            spill_deadline,
            self.looks_soon().then(|| now + self.shared.config.linger),
            // While an answer is due, what is open gathers anyway.
            self.gathers_until.filter(|_| self.outstanding.is_empty()),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// Goes through the listed partitions: takes the batches of a request when one can be sent, and drops partitions
    /// that are done or belong to another node from the list. Also says when the first of the rest is due, and whether
    /// any has something to send here.
    fn collect(&mut self, now: Instant, can_send: bool) -> (Vec<PartitionBatch>, Option<Instant>, bool) {
        let linger = self.shared.config.linger;
        let is_free = self.outstanding.is_empty() && self.gathers_until.is_none();
        let hurry = is_free || self.shared.is_closing();
        let mut room = if can_send { self.shared.config.max_request_bytes } else { 0 };
        let mut batches = Vec::new();
        let mut deadline: Option<Instant> = None;
        let mut waiting = false;
        let mut index = 0;
        self.more = false;
        if can_send && self.listed.len() > 1 {
            // Another one comes first each time, so that none starves when a request is full.
            self.listed.rotate_left(1);
        }
        while let Some(partition) = self.listed.get(index) {
            let mut queue = partition.queue.lock();
            if let Some(entries) = queue.begin_loading() {
                let (shared, partition) = (Arc::clone(&self.shared), Arc::clone(partition));
                tokio::task::spawn_blocking(move || shared.load(&partition, entries));
            }
            if let Some(recovery) = queue.recover() {
                let partition = Arc::clone(partition);
                drop(queue);
                self.recovered(&partition, recovery);
                continue;
            }
            if queue.leader() != Some(self.lane.node) {
                let owner = queue.leader().and_then(|leader| self.shared.existing_lane(leader));
                if queue.outstanding() == 0
                    && let Some(owner) = owner
                {
                    owner.list(Arc::clone(partition));
                    owner.wake();
                    queue.owner = Some(owner);
                    drop(queue);
                    self.listed.swap_remove(index);
                    continue;
                }
            } else if queue.is_idle() {
                queue.listed = false;
                drop(queue);
                self.listed.swap_remove(index);
                continue;
            } else if queue.has_waiting() {
                waiting = true;
                let fits = batches.is_empty() || queue.next_bytes() <= room;
                if room > 0
                    && fits
                    && let Some(batch) = queue.next_batch(now, linger, hurry)
                {
                    room = room.saturating_sub(batch.bytes().len());
                    batches.push((Arc::clone(partition), batch));
                }
                self.more |= queue.has_waiting();
                if let Some(due) = queue.deadline(linger) {
                    deadline = Some(deadline.map_or(due, |earlier| earlier.min(due)));
                }
            }
            drop(queue);
            index += 1;
        }
        (batches, deadline, waiting)
    }

    /// Copies to the spill log what Kafka has not answered for too long, and what is older than something that waits to be
    /// spilled. Says when the next of it is due.
    fn spill_in_flight(&mut self, now: Instant) -> Option<Instant> {
        let after = self.shared.spill.as_ref()?.after;
        let wanted = self.lane.spill_wanted.swap(false, Ordering::AcqRel);
        let mut deadline = None;
        for request in &mut self.outstanding {
            for (partition, batch) in request.batches.iter_mut().filter(|(_, batch)| batch.exposed) {
                let due = batch.opened + after;
                let mut queue = partition.queue.lock();
                if due > now && !(wanted && queue.spilling) {
                    deadline = Some(deadline.map_or(due, |earlier: Instant| earlier.min(due)));
                    continue;
                }
                queue.spilling = true;
                queue.covered(batch);
                self.shared.write_copy(partition, Copied::of(batch));
                if !std::mem::replace(&mut queue.spill_listed, true) {
                    self.shared.list_partition(partition);
                }
            }
        }
        if let Some(spill) = &self.shared.spill {
            spill.flush();
        }
        deadline
    }

    /// Acts on what a partition found when all its answers were in.
    fn recovered(&mut self, partition: &Arc<Partition>, recovery: Recovery) {
        if recovery.wants_identity {
            self.shared.control.want_identity(Arc::clone(partition));
        }
        for (batch, reason) in recovery.rejected {
            self.shared.reject_batch(&partition.topic, batch, reason);
        }
    }

    /// Frames `batches` as one request and begins to write it.
    fn send(&mut self, mut batches: Vec<PartitionBatch>, now: Instant) {
        let Link::Up(connection) = &mut self.link else { return };
        let version = match connection.produce_version() {
            Ok(version) => version,
            Err(error) => {
                for (partition, batch) in batches {
                    partition.queue.lock().connection_lost(batch);
                }
                return self.disconnect(&error);
            }
        };
        let correlation = connection.next_correlation();
        batches.sort_by(|(a, _), (b, _)| (&a.topic, a.index).cmp(&(&b.topic, b.index)));
        let writing = frame(&self.shared.config.client_id, correlation, version, self.timeout_ms(), &batches);
        let records: usize = batches.iter().map(|(_, batch)| batch.records()).sum();
        self.shared.meter.records.sent(records as u64);
        Meter::add(&self.shared.meter.requests, 1);
        if self.outstanding.is_empty() {
            self.last_progress = now;
        }
        // A request costs both sides far more than a record. Who sends one message after the other gains nothing by a wait.
        self.gathers_until = (records > 1).then(|| now + self.shared.config.request_interval);
        self.outstanding.push_back(Request { correlation, version, batches });
        self.writing = Some(writing);
    }

    /// How long the node may wait for its replicas: shorter than our own patience, so that its answer says what was
    /// missing before we stop listening.
    fn timeout_ms(&self) -> i32 {
        let patience = self.shared.config.request_timeout.mul_f32(0.75);
        i32::try_from(patience.as_millis()).unwrap_or(i32::MAX).max(1)
    }

    /// Takes in the answer to the oldest request.
    fn answer(&mut self, answer: &[u8]) -> Result<(), ConnectionError> {
        let Link::Up(connection) = &self.link else { return Ok(()) };
        let unwritten = usize::from(self.writing.is_some());
        let Some(oldest) = self.outstanding.front().filter(|_| self.outstanding.len() > unwritten) else {
            return Err(connection.malformed("an answer that nothing asked for".to_owned()));
        };
        connection.check_correlation(answer, oldest.correlation)?;
        let answer = ProduceAnswer::decode(&answer[4..], oldest.version)
            .map_err(|what| connection.malformed(what.to_owned()))?;
        let Some(request) = self.outstanding.pop_front() else { return Ok(()) };

        let now = now();
        self.last_progress = now;
        self.backoff.succeeded();
        self.solved();
        // The result counts whatever the throttle says: the batches are stored, and only what follows has to wait.
        if answer.throttle_ms > 0 {
            Meter::add(&self.shared.meter.throttled, 1);
            let until = now + Duration::from_millis(answer.throttle_ms.unsigned_abs().into());
            self.throttled_until = Some(until);
            // Kafka reads nothing from us until then, so the answers that are due come that much later.
            self.last_progress = until;
        }
        let mut refresh = false;
        for (hint, (partition, batch)) in request.batches.into_iter().enumerate() {
            let records = batch.records();
            self.shared.meter.records.answered(records as u64);
            let is_its = |found: &&ProducedPartition<'_>| {
                found.partition == partition.index && *found.topic == *partition.topic
            };
            let found =
                answer.partitions.get(hint).filter(is_its).or_else(|| answer.partitions.iter().find(is_its));
            let code = found.map_or(UNKNOWN_SERVER_ERROR, |found| found.error);
            let (answered, troubled) = {
                let mut queue = partition.queue.lock();
                let troubled = queue.is_troubled();
                (queue.answered(batch, code, now), troubled)
            };
            match answered {
                Answered::Delivered(batch) => {
                    if troubled {
                        self.shared
                            .meter
                            .solved(&Part::Partition(Arc::clone(&partition.topic), partition.index));
                    }
                    let latency =
                        batch.first_sent.map_or(Duration::ZERO, |sent| now.saturating_duration_since(sent));
                    self.shared.meter.delivered(batch.bytes().len(), latency);
                    if self.shared.is_for_dead_letters(&partition.topic) {
                        self.shared.count_dead_letters(&batch);
                    } else {
                        self.settling.sources.gather(&batch.sources);
                    }
                    self.settling.records += records;
                    self.settling.bytes += batch.charged();
                    let buffers = batch.finish(&mut self.settling.acks);
                    self.shared.recycle(buffers);
                }
                // What is wrong was said of the one before it.
                Answered::Followed => self.shared.meter.retried(ErrorClass::RetryInPlace),
                Answered::Kept(class) => {
                    self.shared.meter.retried(class);
                    refresh |= class == ErrorClass::RetryWithMetadata;
                    let mut reason = error_name(code);
                    if let Some(message) = found.and_then(|found| found.message) {
                        let _ = write!(reason, ": {message}");
                    }
                    if matches!(class, ErrorClass::Split(_)) {
                        debug!(topic = %partition.topic, partition = partition.index, reason, "batch refused");
                    } else {
                        let part = Part::Partition(Arc::clone(&partition.topic), partition.index);
                        self.shared.meter.problem(part, &reason);
                        self.shared.begin_spilling(&partition);
                    }
                }
            }
        }
        if refresh {
            self.shared.control.refresh();
        }
        Ok(())
    }

    /// Tells everybody whose records were delivered, each once for a run of their records.
    fn settle(&mut self) {
        if self.settling.records == 0 {
            return;
        }
        // Publishers interleave in a batch; each is told once, of all that is theirs, in its order.
        self.settling.acks.sort_by_key(Ack::target_id);
        self.shared.meter.books.settled(&self.settling.sources, Outcome::Delivered);
        self.settling.sources.clear();
        settle_all(self.settling.acks.drain(..), Outcome::Delivered);
        self.shared.budget.give_back(self.settling.bytes);
        self.settling.records = 0;
        self.settling.bytes = 0;
    }

    fn open(&mut self) {
        let dialer = Arc::clone(&self.shared.dialer);
        let address = self.shared.address(self.lane.node);
        let node = self.lane.node;
        self.link = Link::Opening(Box::pin(async move {
            match address {
                Some((host, port)) => dialer.open(&host, port).await,
                None => Err(ConnectionError::Io {
                    address: format!("node {node}"),
                    source: std::io::Error::other("no longer in the cluster"),
                }),
            }
        }));
    }

    /// Gives up the connection. What it carried is sent again, the same bytes, when there is another.
    fn disconnect(&mut self, error: &ConnectionError) {
        self.gathers_until = None;
        self.lane.looks(false);
        self.writing = None;
        let mut lost = 0;
        for request in self.outstanding.drain(..) {
            for (partition, batch) in request.batches {
                lost += 1;
                self.shared.meter.records.answered(batch.records() as u64);
                self.shared.meter.records.retried();
                partition.queue.lock().connection_lost(batch);
                self.shared.begin_spilling(&partition);
            }
        }
        Meter::add(&self.shared.meter.connection_losses, lost);
        let mut wait = self.backoff.failed();
        if error.is_refusal() {
            wait = wait.max(self.shared.config.backoff.cap);
        }
        self.link = Link::Down { not_before: Some(now() + wait) };
        self.troubled = true;
        self.shared.meter.problem(Part::Node(self.lane.node), &self.reason(error));
        // The node may be gone, and its partitions elsewhere.
        self.shared.control.refresh();
    }

    /// What to tell an operator: an address that never answered, and that only the cluster has named, may be one that
    /// means something elsewhere only.
    fn reason(&self, error: &ConnectionError) -> String {
        let network = matches!(error, ConnectionError::Io { .. } | ConnectionError::Timeout { .. });
        let bootstrap = &self.shared.config.bootstrap;
        let named_by_cluster = self
            .shared
            .address(self.lane.node)
            .is_some_and(|address| bootstrap.iter().all(|ours| host_port(ours) != address));
        if self.reached || !network || !named_by_cluster {
            return error.to_string();
        }
        format!(
            "{error}; the cluster advertises this address (advertised.listeners): it has to be reachable from here"
        )
    }

    fn solved(&mut self) {
        if std::mem::take(&mut self.troubled) {
            self.shared.meter.solved(&Part::Node(self.lane.node));
        }
    }

    /// Waits until there is a reason to look again.
    async fn wait(&mut self, deadline: Option<Instant>) -> Event {
        let Self { lane, link, outstanding, writing, more, sleep, .. } = self;
        match deadline.map(tokio::time::Instant::from_std) {
            // A timer that was set for something earlier may ring in vain once: cheaper than to set it at each turn.
            Some(deadline) if sleep.deadline() > deadline || sleep.is_elapsed() => {
                sleep.as_mut().reset(deadline);
            }
            None if sleep.is_elapsed() => sleep.as_mut().reset(tokio::time::Instant::now() + IDLE),
            _ => {}
        }
        let mut woken = pin!(lane.wake.notified());
        poll_fn(|cx| {
            match link {
                Link::Up(connection) => {
                    let batches = outstanding.back().map_or(&[][..], |request| &request.batches);
                    match poll_writing(cx, connection, writing, batches) {
                        Poll::Ready(Ok(())) if *more => return Poll::Ready(Event::Look),
                        Poll::Ready(Err(error)) => {
                            return Poll::Ready(Event::Answers(Vec::new(), Some(error)));
                        }
                        Poll::Ready(Ok(())) | Poll::Pending => {}
                    }
                    let mut answers = Vec::new();
                    loop {
                        match connection.poll_answer(cx) {
                            Poll::Ready(Ok(answer)) if answers.len() <= MAX_IN_FLIGHT => answers.push(answer),
                            Poll::Ready(Ok(_)) => {
                                let error = connection.malformed("more answers than requests".to_owned());
                                return Poll::Ready(Event::Answers(answers, Some(error)));
                            }
                            Poll::Ready(Err(error)) => {
                                return Poll::Ready(Event::Answers(answers, Some(error)));
                            }
                            Poll::Pending if answers.is_empty() => break,
                            Poll::Pending => return Poll::Ready(Event::Answers(answers, None)),
                        }
                    }
                }
                Link::Opening(opening) => {
                    if let Poll::Ready(result) = opening.as_mut().poll(cx) {
                        return Poll::Ready(Event::Opened(result));
                    }
                }
                Link::Down { .. } => {}
            }
            if woken.as_mut().poll(cx).is_ready() || sleep.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Event::Look);
            }
            Poll::Pending
        })
        .await
    }

    /// The end: nobody will hear the answers that are due.
    fn end(mut self) {
        for request in self.outstanding.drain(..) {
            for (partition, batch) in request.batches {
                self.shared.meter.records.answered(batch.records() as u64);
                self.shared.settle_batch(batch, Outcome::Lost);
                drop(partition);
            }
        }
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Writes on; ready when the request is written or the connection broke, pending also when there is nothing to write.
fn poll_writing(
    cx: &mut Context<'_>,
    connection: &mut Connection,
    writing: &mut Option<Writing>,
    batches: &[PartitionBatch],
) -> Poll<Result<(), ConnectionError>> {
    while let Some(request) = writing {
        if request.written < request.total {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let count = request.slices(batches, &mut slices);
            match connection.poll_write(cx, &slices[..count]) {
                Poll::Ready(Ok(written)) => request.written += written,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        } else {
            std::task::ready!(connection.poll_flush(cx))?;
            *writing = None;
            return Poll::Ready(Ok(()));
        }
    }
    Poll::Pending
}

impl Writing {
    /// Fills `slices` with what is still to write, as far as they go; says how many it filled.
    fn slices<'a>(&'a self, batches: &'a [PartitionBatch], slices: &mut [IoSlice<'a>]) -> usize {
        let mut skip = self.written;
        let mut count = 0;
        let mut add = |bytes: &'a [u8]| {
            let skipped = skip.min(bytes.len());
            skip -= skipped;
            if skipped < bytes.len() && count < slices.len() {
                slices[count] = IoSlice::new(&bytes[skipped..]);
                count += 1;
            }
        };
        let mut from = 0;
        for (&cut, (_, batch)) in self.cuts.iter().zip(batches) {
            add(&self.head[Range { start: from, end: cut }]);
            add(batch.bytes());
            from = cut;
        }
        count
    }
}

/// The bytes of a Produce request around its batches, which are sorted by topic.
fn frame(
    client_id: &str,
    correlation: i32,
    version: i16,
    timeout_ms: i32,
    batches: &[PartitionBatch],
) -> Writing {
    let mut head = Vec::with_capacity(64 + client_id.len() + 24 * batches.len());
    let mut cuts = Vec::with_capacity(batches.len());
    head.extend_from_slice(&[0; 4]); // length, below
    head.extend_from_slice(&0_i16.to_be_bytes()); // Produce
    head.extend_from_slice(&version.to_be_bytes());
    head.extend_from_slice(&correlation.to_be_bytes());
    put_string(client_id, &mut head);
    head.extend_from_slice(&(-1_i16).to_be_bytes()); // no transaction
    head.extend_from_slice(&(-1_i16).to_be_bytes()); // acks: all in-sync replicas
    head.extend_from_slice(&timeout_ms.to_be_bytes());
    let by_topic = || batches.chunk_by(|(a, _), (b, _)| a.topic == b.topic);
    head.extend_from_slice(&(by_topic().count() as i32).to_be_bytes());
    let mut batch_bytes = 0;
    for topic in by_topic() {
        put_string(&topic[0].0.topic, &mut head);
        head.extend_from_slice(&(topic.len() as i32).to_be_bytes());
        for (partition, batch) in topic {
            head.extend_from_slice(&partition.index.to_be_bytes());
            head.extend_from_slice(&(batch.bytes().len() as i32).to_be_bytes());
            cuts.push(head.len());
            batch_bytes += batch.bytes().len();
        }
    }
    let total = head.len() + batch_bytes;
    head[..4].copy_from_slice(&((total - 4) as u32).to_be_bytes());
    Writing { head, cuts, written: 0, total }
}

fn put_string(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&(text.len() as i16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}
