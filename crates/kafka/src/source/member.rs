//! The life of a group's member: finds the coordinator, joins, is given partitions, reads them while it sends signs of
//! life and commits, gives them back, joins again.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ahash::RandomState;
use rskafka::protocol::messages::{
    MetadataRequest, MetadataRequestTopic, ReadVersionedType, RequestBody, WriteVersionedType,
};
use rskafka::protocol::primitives::{Boolean, Int16, String_};
use tidegate_sink::Backoff;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use crate::config::host_port;
use crate::connection::{Connection, ConnectionError};
use crate::error_class::error_name;
use crate::reader::timed;
use crate::source::Shared;
use crate::source::assignment::{
    decode_assignment, decode_subscription, encode_assignment, encode_subscription, range,
};
use crate::source::claim::{Batch, Claim};
use crate::source::fetcher::{FetchEnd, Fetcher};
use crate::source::status::{Part, SourceError, SourceState};
use crate::source::wire::{
    FindCoordinatorRequest, HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest, OffsetCommitRequest,
    OffsetFetchRequest, Partitions, Seat, SyncGroupRequest,
};
use crate::wire::Answer;

const LOAD_IN_PROGRESS: i16 = 14;
const COORDINATOR_NOT_AVAILABLE: i16 = 15;
const NOT_COORDINATOR: i16 = 16;
const ILLEGAL_GENERATION: i16 = 22;
const UNKNOWN_MEMBER_ID: i16 = 25;
const REBALANCE_IN_PROGRESS: i16 = 27;
const MEMBER_ID_REQUIRED: i16 = 79;

/// How long partitions that go to another member wait for batches that somebody still holds.
const REVOCATION_PATIENCE: Duration = Duration::from_secs(5);
/// While a topic is missing or a partition has no leader, it is asked for this often.
const UNSETTLED_INTERVAL: Duration = Duration::from_secs(1);

type Address = (String, u16);

/// What is in the way.
#[derive(Debug)]
enum Trouble {
    Connection(ConnectionError),
    /// The coordinator moved, or is not ready.
    Coordinator(i16),
    /// The group decides anew, or does not know us.
    Membership(i16),
    /// Kafka says no.
    Refused(String),
}

impl From<ConnectionError> for Trouble {
    fn from(error: ConnectionError) -> Self {
        Self::Connection(error)
    }
}

/// Why a generation is over for this member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Stopped,
    /// Who reads what is decided anew; until then what was handed over can be committed.
    Rebalance,
    /// The group does not know us: nothing can be committed.
    Lost,
}

/// What the group has given us.
struct Generation {
    seat: Seat,
    is_leader: bool,
    claims: Vec<Arc<Claim>>,
    /// How many partitions each topic had when the leader distributed them.
    counts: BTreeMap<String, usize>,
}

/// Who leads what.
#[derive(Debug, Default)]
struct Cluster {
    nodes: HashMap<i32, Address>,
    /// The partitions of each topic that exists, with their leaders.
    topics: BTreeMap<String, BTreeMap<i32, Option<i32>>>,
}

impl Cluster {
    fn leader(&self, claim: &Claim) -> Option<&Address> {
        let leader = self.topics.get(&*claim.topic)?.get(&claim.partition)?.as_ref()?;
        self.nodes.get(leader)
    }

    fn partitions(&self, topic: &str) -> Vec<i32> {
        self.topics.get(topic).map_or_else(Vec::new, |partitions| partitions.keys().copied().collect())
    }

    fn counts(&self) -> BTreeMap<String, usize> {
        self.topics.iter().map(|(topic, partitions)| (topic.clone(), partitions.len())).collect()
    }
}

pub(crate) struct Member {
    shared: Arc<Shared>,
    batches: mpsc::Sender<Batch>,
    /// What the group calls us; empty before it has seen us.
    id: String,
    coordinator: Option<Connection>,
    /// Which of the nodes that may be asked is next.
    rotation: usize,
    backoff: Backoff,
    cluster: Cluster,
}

impl Member {
    pub(crate) fn new(shared: Arc<Shared>, batches: mpsc::Sender<Batch>) -> Self {
        let backoff = Backoff::new(shared.config.backoff, RandomState::new().hash_one(()));
        let (id, cluster) = (String::new(), Cluster::default());
        Self { shared, batches, id, coordinator: None, rotation: 0, backoff, cluster }
    }

    /// Reads until it is told to stop, or until nobody wants batches any more.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        loop {
            let entered = tokio::select! {
                entered = self.enter() => entered,
                () = stopped(&mut stop) => break,
            };
            match entered {
                Ok(generation) => {
                    self.backoff.succeeded();
                    self.shared.meter.solved(&Part::Group);
                    let end = self.read(generation, &mut stop).await;
                    if end == End::Stopped {
                        break;
                    }
                }
                Err(trouble) => {
                    self.note(&trouble);
                    let pause = self.backoff.failed();
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = stopped(&mut stop) => break,
                    }
                }
            }
        }
        self.leave().await;
        self.shared.meter.is(SourceState::Closed);
    }

    /// Joins the group and learns what to read, from where.
    async fn enter(&mut self) -> Result<Generation, Trouble> {
        self.shared.meter.is(SourceState::Connecting);
        self.find_coordinator().await?;
        self.shared.meter.is(SourceState::Joining);
        let (mut generation, subscriptions) = self.join().await?;
        let mut topics = self.shared.source.topics.clone();
        topics.extend(subscriptions.values().flatten().cloned());
        topics.sort_unstable();
        topics.dedup();
        self.learn(&topics).await?;
        generation.counts = self.cluster.counts();
        let assignments = if generation.is_leader {
            let assigned = range(&subscriptions, |topic| self.cluster.partitions(topic));
            assigned.into_iter().map(|(member, all)| (member, encode_assignment(&all))).collect()
        } else {
            Vec::new()
        };
        let request = SyncGroupRequest { seat: generation.seat.clone(), assignments };
        let patience = self.shared.source.rebalance_timeout + self.shared.config.request_timeout;
        let answer = self.ask_within(&request, patience).await?;
        self.judge(answer.error)?;
        let assigned = decode_assignment(&answer.assignment)
            .ok_or_else(|| Trouble::Refused("the group's leader speaks another language".to_owned()))?;
        generation.claims = self.claim(assigned).await?;
        Ok(generation)
    }

    async fn join(&mut self) -> Result<(Generation, BTreeMap<String, Vec<String>>), Trouble> {
        let source = &self.shared.source;
        let millis = |time: Duration| i32::try_from(time.as_millis()).unwrap_or(i32::MAX);
        let mut request = JoinGroupRequest {
            group: source.group.clone(),
            member: self.id.clone(),
            session_timeout_ms: millis(source.session_timeout),
            rebalance_timeout_ms: millis(source.rebalance_timeout),
            subscription: encode_subscription(&source.topics),
        };
        let patience = source.rebalance_timeout + self.shared.config.request_timeout;
        let mut answer = self.ask_within(&request, patience).await?;
        if answer.error == MEMBER_ID_REQUIRED {
            // Known from here on, so that a join whose answer is lost can be taken back by leaving.
            self.id.clone_from(&answer.member);
            request.member = answer.member;
            answer = self.ask_within(&request, patience).await?;
        }
        self.judge(answer.error)?;
        self.id.clone_from(&answer.member);
        let is_leader = answer.leader == answer.member;
        let mut subscriptions = BTreeMap::new();
        for (id, bytes) in answer.members {
            let Some(topics) = decode_subscription(&bytes) else {
                tracing::warn!(group = self.shared.source.group, member = id, "speaks another language");
                continue;
            };
            subscriptions.insert(id, topics);
        }
        let seat = Seat {
            group: self.shared.source.group.clone(),
            generation: answer.generation,
            member: answer.member,
        };
        Ok((Generation { seat, is_leader, claims: Vec::new(), counts: BTreeMap::new() }, subscriptions))
    }

    /// The partitions that we were given, each from where the group has committed.
    async fn claim(&mut self, assigned: Partitions) -> Result<Vec<Arc<Claim>>, Trouble> {
        if assigned.is_empty() {
            return Ok(Vec::new());
        }
        let request = OffsetFetchRequest { group: self.shared.source.group.clone(), topics: assigned };
        let answer = self.ask(&request).await?;
        self.judge(answer.error)?;
        let mut claims = Vec::with_capacity(answer.offsets.len());
        for (topic, partition, offset, error) in answer.offsets {
            self.judge(error)?;
            let committed = Some(offset).filter(|offset| *offset >= 0);
            let counter = Arc::clone(&self.shared.meter.handed_over);
            claims.push(Arc::new(Claim::new(topic.into(), partition, committed, counter)));
        }
        Ok(claims)
    }

    /// Reads what the group has given us for as long as it does.
    async fn read(&mut self, generation: Generation, stop: &mut watch::Receiver<bool>) -> End {
        let meter = &self.shared.meter;
        meter.is(SourceState::Reading);
        meter.generations.fetch_add(1, Ordering::Relaxed);
        meter.set_claims(&generation.claims);
        let seat = &generation.seat;
        tracing::info!(
            group = seat.group,
            generation = seat.generation,
            partitions = generation.claims.len(),
            "reading"
        );
        let mut fetchers = JoinSet::new();
        let end = self.serve(&generation, &mut fetchers, stop).await;
        // First nothing new comes, then nothing is taken, then what was handed over is committed.
        fetchers.shutdown().await;
        generation.claims.iter().for_each(|claim| claim.revoke());
        let all_let_go = async {
            for claim in &generation.claims {
                claim.let_go().await;
            }
        };
        // Who holds a batch for longer hands it over twice, with the partition's next owner.
        let _ = tokio::time::timeout(REVOCATION_PATIENCE, all_let_go).await;
        if end != End::Lost
            && let Err(trouble) = self.commit(&generation).await
        {
            self.note(&trouble);
        }
        self.shared.meter.set_claims(&[]);
        end
    }

    async fn serve(
        &mut self,
        generation: &Generation,
        fetchers: &mut JoinSet<FetchEnd>,
        stop: &mut watch::Receiver<bool>,
    ) -> End {
        /// What is to be done.
        enum Due {
            Heartbeat,
            Commit,
            Metadata,
            Fetchers(FetchEnd),
        }
        let source = &self.shared.source;
        let mut heartbeats = every(source.heartbeat_interval);
        let mut commits = every(source.commit_interval);
        let mut metadata_at = Instant::now() + self.metadata_pause(generation);
        let mut heard_at = Instant::now();
        let mut pause = Backoff::new(self.shared.config.backoff, RandomState::new().hash_one(()));
        let mut restarted_at = Instant::now();
        self.start_fetchers(generation, fetchers);
        loop {
            let due = tokio::select! {
                _ = heartbeats.tick() => Due::Heartbeat,
                _ = commits.tick() => Due::Commit,
                () = tokio::time::sleep_until(metadata_at) => Due::Metadata,
                Some(end) = fetchers.join_next() => Due::Fetchers(end.unwrap_or_else(FetchEnd::from)),
                () = stopped(stop) => return End::Stopped,
            };
            let done = match due {
                Due::Heartbeat => {
                    let beat = self.heartbeat(&generation.seat).await;
                    if beat.is_ok() {
                        heard_at = Instant::now();
                    }
                    beat
                }
                Due::Commit => self.commit(generation).await,
                Due::Metadata => {
                    let looked = self.look_again(generation, fetchers).await;
                    metadata_at = Instant::now() + self.metadata_pause(generation);
                    match looked {
                        Ok(Looked::MorePartitions) => return End::Rebalance,
                        Ok(Looked::Same) => Ok(()),
                        Err(trouble) => Err(trouble),
                    }
                }
                Due::Fetchers(FetchEnd::Closed) => return End::Stopped,
                Due::Fetchers(end) => {
                    self.note_fetch(end);
                    if restarted_at.elapsed() > 2 * self.shared.config.backoff.cap {
                        pause.succeeded();
                    }
                    tokio::time::sleep(pause.failed()).await;
                    restarted_at = Instant::now();
                    fetchers.shutdown().await;
                    let learned = self.learn_own().await;
                    self.start_fetchers(generation, fetchers);
                    metadata_at = Instant::now() + self.metadata_pause(generation);
                    learned
                }
            };
            match done {
                Ok(()) => self.shared.meter.solved(&Part::Group),
                Err(Trouble::Membership(REBALANCE_IN_PROGRESS)) => return End::Rebalance,
                Err(Trouble::Membership(code)) => {
                    self.note(&Trouble::Membership(code));
                    return End::Lost;
                }
                Err(trouble) => {
                    // The coordinator may be on its way to another node. Until our session is over we are in the group.
                    self.note(&trouble);
                    if heard_at.elapsed() > self.shared.source.session_timeout {
                        return End::Lost;
                    }
                    tokio::time::sleep(pause.failed()).await;
                    heartbeats.reset_immediately();
                }
            }
        }
    }

    /// Starts a fetcher for each node that leads something of ours.
    fn start_fetchers(&self, generation: &Generation, fetchers: &mut JoinSet<FetchEnd>) {
        let mut by_node: HashMap<&Address, Vec<Arc<Claim>>> = HashMap::new();
        for claim in &generation.claims {
            if let Some(node) = self.cluster.leader(claim) {
                by_node.entry(node).or_default().push(Arc::clone(claim));
            }
        }
        for (node, claims) in by_node {
            let (shared, batches) = (Arc::clone(&self.shared), self.batches.clone());
            fetchers.spawn(Fetcher::run(shared, batches, node.clone(), claims));
        }
    }

    /// When to ask for metadata again: soon, while something is missing.
    fn metadata_pause(&self, generation: &Generation) -> Duration {
        let is_settled =
            self.shared.source.topics.iter().all(|topic| self.cluster.topics.contains_key(topic))
                && generation.claims.iter().all(|claim| self.cluster.leader(claim).is_some());
        let pause = self.shared.source.metadata_interval;
        if is_settled { pause } else { pause.min(UNSETTLED_INTERVAL) }
    }

    /// Asks who leads what, follows leaders that moved, and says whether there is more to distribute.
    async fn look_again(
        &mut self,
        generation: &Generation,
        fetchers: &mut JoinSet<FetchEnd>,
    ) -> Result<Looked, Trouble> {
        let leaders = |member: &Self| -> Vec<Option<Address>> {
            generation.claims.iter().map(|claim| member.cluster.leader(claim).cloned()).collect()
        };
        let before = leaders(self);
        self.learn_own().await?;
        if generation.is_leader && self.cluster.counts() != generation.counts {
            return Ok(Looked::MorePartitions);
        }
        if leaders(self) != before {
            fetchers.shutdown().await;
            self.start_fetchers(generation, fetchers);
        }
        Ok(Looked::Same)
    }

    async fn heartbeat(&mut self, seat: &Seat) -> Result<(), Trouble> {
        if self.coordinator.is_none() {
            self.find_coordinator().await?;
        }
        let verdict = self.ask(&HeartbeatRequest { seat: seat.clone() }).await?;
        self.judge(verdict.error)
    }

    /// Commits what was handed over since the last time.
    async fn commit(&mut self, generation: &Generation) -> Result<(), Trouble> {
        let mut topics: Vec<(String, Vec<(i32, i64)>)> = Vec::new();
        for claim in &generation.claims {
            let Some(offset) = claim.to_commit() else { continue };
            match topics.iter_mut().find(|(topic, _)| **topic == *claim.topic) {
                Some((_, partitions)) => partitions.push((claim.partition, offset)),
                None => topics.push((claim.topic.to_string(), vec![(claim.partition, offset)])),
            }
        }
        if topics.is_empty() {
            return Ok(());
        }
        if self.coordinator.is_none() {
            self.find_coordinator().await?;
        }
        let request = OffsetCommitRequest { seat: generation.seat.clone(), topics };
        let answer = self.ask(&request).await?;
        let mut result = Ok(());
        for (topic, partition, error) in answer.results {
            if let Err(trouble) = self.judge(error) {
                result = Err(trouble);
                continue;
            }
            let offset =
                request.topics.iter().find(|(name, _)| *name == topic).and_then(|(_, partitions)| {
                    partitions.iter().find(|(index, _)| *index == partition).map(|(_, offset)| *offset)
                });
            let claim =
                generation.claims.iter().find(|claim| *claim.topic == *topic && claim.partition == partition);
            if let Some((claim, offset)) = claim.zip(offset) {
                claim.committed(offset);
            }
        }
        if result.is_ok() {
            self.shared.meter.commits.fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    /// Leaves the group; a group that does not hear of it waits until the session is over.
    async fn leave(&mut self) {
        if self.id.is_empty() {
            return;
        }
        let leaving = async {
            if self.coordinator.is_none() {
                self.find_coordinator().await?;
            }
            let (group, member) = (self.shared.source.group.clone(), self.id.clone());
            self.ask(&LeaveGroupRequest { group, member }).await
        };
        match leaving.await {
            Ok(verdict) if verdict.error == 0 => {}
            Ok(verdict) => tracing::debug!(error = error_name(verdict.error), "leaving the group"),
            Err(trouble) => self.note(&trouble),
        }
    }

    async fn find_coordinator(&mut self) -> Result<(), Trouble> {
        if self.coordinator.is_some() {
            return Ok(());
        }
        let mut any = self.open_any().await?;
        let request = FindCoordinatorRequest { group: self.shared.source.group.clone() };
        let answer = timed(&mut any, &request, self.shared.config.request_timeout).await?;
        self.judge(answer.error)?;
        let port = u16::try_from(answer.port)
            .map_err(|_| any.malformed(format!("a coordinator at port {}", answer.port)))?;
        self.coordinator = Some(self.shared.dialer.open(&answer.host, port).await?);
        Ok(())
    }

    /// Connects to the next of the nodes that are known.
    async fn open_any(&mut self) -> Result<Connection, ConnectionError> {
        let mut known: Vec<Address> =
            self.shared.config.bootstrap.iter().map(|address| host_port(address)).collect();
        known.extend(self.cluster.nodes.values().cloned());
        self.rotation = self.rotation.wrapping_add(1);
        let (host, port) = match known.len() {
            0 => (IpAddr::from([127, 0, 0, 1]).to_string(), 9092),
            count => known.swap_remove((self.rotation - 1) % count),
        };
        self.shared.dialer.open(&host, port).await
    }

    async fn learn_own(&mut self) -> Result<(), Trouble> {
        let topics = self.shared.source.topics.clone();
        self.learn(&topics).await
    }

    /// Asks who leads what.
    async fn learn(&mut self, topics: &[String]) -> Result<(), Trouble> {
        let request = MetadataRequest {
            topics: Some(
                topics.iter().map(|topic| MetadataRequestTopic { name: String_(topic.clone()) }).collect(),
            ),
            allow_auto_topic_creation: Some(Boolean(false)),
        };
        let mut any = self.open_any().await?;
        let answer = timed(&mut any, &request, self.shared.config.request_timeout).await?;
        let nodes = answer
            .brokers
            .into_iter()
            .filter_map(|node| Some((node.node_id.0, (node.host.0, u16::try_from(node.port.0).ok()?))));
        self.cluster.nodes = nodes.collect();
        self.cluster.topics.clear();
        for topic in answer.topics {
            let code = Int16::from(topic.error).0;
            if code != 0 {
                let reason = format!("{}: {}", topic.name.0, error_name(code));
                self.problem(Part::Topic(topic.name.0), SourceError::Refused, reason);
                continue;
            }
            self.shared.meter.solved(&Part::Topic(topic.name.0.clone()));
            let leader = |leader: i32| Some(leader).filter(|id| *id >= 0);
            let partitions =
                topic.partitions.iter().map(|p| (p.partition_index.0, leader(p.leader_id.0))).collect();
            self.cluster.topics.insert(topic.name.0, partitions);
        }
        Ok(())
    }

    async fn ask<R>(&mut self, request: &R) -> Result<R::ResponseBody, Trouble>
    where
        R: RequestBody + WriteVersionedType<Vec<u8>>,
        R::ResponseBody: ReadVersionedType<Answer>,
    {
        // An answer that comes later than this finds us out of the group.
        let patience = self.shared.config.request_timeout.min(self.shared.source.session_timeout);
        self.ask_within(request, patience).await
    }

    /// Asks the coordinator. A call that fails or is cancelled costs the connection.
    async fn ask_within<R>(&mut self, request: &R, patience: Duration) -> Result<R::ResponseBody, Trouble>
    where
        R: RequestBody + WriteVersionedType<Vec<u8>>,
        R::ResponseBody: ReadVersionedType<Answer>,
    {
        let Some(mut connection) = self.coordinator.take() else {
            return Err(Trouble::Coordinator(COORDINATOR_NOT_AVAILABLE));
        };
        let answer = timed(&mut connection, request, patience).await?;
        self.coordinator = Some(connection);
        Ok(answer)
    }

    /// Turns an error code of the coordinator into what is in the way.
    fn judge(&mut self, code: i16) -> Result<(), Trouble> {
        match code {
            0 => Ok(()),
            LOAD_IN_PROGRESS => Err(Trouble::Coordinator(code)),
            COORDINATOR_NOT_AVAILABLE | NOT_COORDINATOR => {
                self.coordinator = None;
                Err(Trouble::Coordinator(code))
            }
            UNKNOWN_MEMBER_ID => {
                self.id.clear();
                Err(Trouble::Membership(code))
            }
            ILLEGAL_GENERATION | REBALANCE_IN_PROGRESS => Err(Trouble::Membership(code)),
            _ => Err(Trouble::Refused(error_name(code))),
        }
    }

    fn note(&self, trouble: &Trouble) {
        let (error, reason) = match trouble {
            Trouble::Connection(error) => (SourceError::Connection, error.to_string()),
            Trouble::Coordinator(code) => (SourceError::Coordinator, error_name(*code)),
            Trouble::Membership(code) => (SourceError::Membership, error_name(*code)),
            Trouble::Refused(reason) => (SourceError::Refused, reason.clone()),
        };
        self.problem(Part::Group, error, reason);
    }

    fn note_fetch(&self, end: FetchEnd) {
        match end {
            FetchEnd::Connection(error) => {
                self.problem(Part::Nodes, SourceError::Connection, error.to_string());
            }
            FetchEnd::Moved(reason) => self.problem(Part::Nodes, SourceError::Leadership, reason),
            FetchEnd::Closed => {}
        }
    }

    fn problem(&self, part: Part, error: SourceError, reason: String) {
        self.shared.meter.problem(&self.shared.source.group, part, error, reason);
    }
}

/// What a look at the metadata has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Looked {
    Same,
    /// Partitions were added, or a topic: they are to be distributed.
    MorePartitions,
}

/// Ticks this often, first after one period.
fn every(period: Duration) -> Interval {
    let period = period.max(Duration::from_millis(1));
    let mut interval = interval_at(Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Waits until somebody says stop, or nobody can any more. Cancel safe.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}
