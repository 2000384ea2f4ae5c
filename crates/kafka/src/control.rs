//! The task that asks Kafka for everything but data: who leads what, producer ids, missing topics.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rskafka::protocol::error::Error as KafkaError;
use rskafka::protocol::messages::{MetadataRequest, MetadataRequestTopic, MetadataResponseTopic};
use rskafka::protocol::primitives::{Boolean, Int16, String_};
use tidegate_sink::{Backoff, Rejection};
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{debug, info};

use crate::config::{TopicLayout, host_port};
use crate::connection::{Connection, ConnectionError};
use crate::error_class::{INVALID_TOPIC, TOPIC_ALREADY_EXISTS, UNKNOWN_TOPIC_OR_PARTITION, error_name};
use crate::partition::Partition;
use crate::producer::Shared;
use crate::record_batch::ProducerIdentity;
use crate::replication::ReplicationWatch;
use crate::status::{Meter, Part};
use crate::topic::Topic;
use crate::wire::{CreateTopicsRequest, InitProducerIdRequest};

/// How others reach the control task.
#[derive(Debug, Default)]
pub(crate) struct Control {
    wake: Notify,
    refresh: AtomicBool,
    /// The producer id that partitions start with.
    identity: Mutex<Option<ProducerIdentity>>,
    /// Partitions that need one of their own.
    wanting: Mutex<Vec<Arc<Partition>>>,
}

impl Control {
    /// Asks for fresh metadata, soon.
    pub(crate) fn refresh(&self) {
        self.refresh.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// Asks for a new producer id for `partition`, which its owner is woken with.
    pub(crate) fn want_identity(&self, partition: Arc<Partition>) {
        self.wanting.lock().push(partition);
        self.wake.notify_one();
    }

    pub(crate) fn identity(&self) -> Option<ProducerIdentity> {
        *self.identity.lock()
    }
}

/// What a round found out about the topics that it asked for, in the order of what is worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Learned {
    /// All that is to know.
    All,
    /// Some are not known yet.
    Some,
    /// Some that were known are gone, or have partitions that nobody leads.
    Unserved,
}

pub(crate) struct ControlTask {
    shared: Arc<Shared>,
    connection: Option<Connection>,
    /// Which of the nodes that may be asked is next.
    rotation: usize,
    backoff: Backoff,
    /// When all metadata is asked for again.
    stale_at: Instant,
    /// Topics that nothing is known about yet are asked for again at this time.
    unsettled_at: Option<Instant>,
    replication: ReplicationWatch,
}

impl ControlTask {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let backoff = Backoff::new(shared.config.backoff, shared.seed());
        Self {
            shared,
            connection: None,
            rotation: 0,
            backoff,
            stale_at: Instant::now(),
            unsettled_at: None,
            replication: ReplicationWatch::default(),
        }
    }

    /// Runs until it is aborted: it holds nothing that anyone waits for.
    pub(crate) async fn run(mut self) {
        loop {
            let everything =
                self.shared.control.refresh.swap(false, Ordering::AcqRel) || Instant::now() >= self.stale_at;
            let some = self.unsettled_at.is_some_and(|at| Instant::now() >= at);
            let wanted =
                self.shared.control.identity().is_none() || !self.shared.control.wanting.lock().is_empty();
            if !(everything || some || wanted) {
                let until = self.unsettled_at.map_or(self.stale_at, |at| at.min(self.stale_at));
                tokio::select! {
                    () = tokio::time::sleep_until(until) => {}
                    () = self.shared.control.wake.notified() => {}
                }
                continue;
            }
            let limit = self.shared.config.request_timeout + self.shared.config.connect_timeout;
            let wait = match tokio::time::timeout(limit, self.round(everything)).await {
                Ok(Ok(())) => {
                    self.shared.meter.solved(&Part::Cluster);
                    // Several lanes may ask for the same at once, and one answer does for all of them.
                    self.shared.config.backoff.first
                }
                Ok(Err(error)) => {
                    let wait = self.failed(&error.to_string(), everything);
                    if error.is_refusal() { wait.max(self.shared.config.backoff.cap) } else { wait }
                }
                Err(_) => self.failed("no answer in time", everything),
            };
            tokio::time::sleep(wait).await;
        }
    }

    fn failed(&mut self, reason: &str, everything: bool) -> Duration {
        self.connection = None;
        self.rotation = self.rotation.wrapping_add(1);
        self.shared.meter.problem(Part::Cluster, reason);
        if everything {
            self.shared.control.refresh.store(true, Ordering::Release);
        }
        self.backoff.failed()
    }

    /// Asks for what is wanted.
    async fn round(&mut self, everything: bool) -> Result<(), ConnectionError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.open().await?,
        };
        self.identify(&mut connection).await?;
        let learned = self.learn(&mut connection, everything).await?;
        self.connection = Some(connection);
        if everything {
            self.stale_at = Instant::now() + self.shared.config.metadata_interval;
        }
        if learned == Learned::All && self.shared.control.identity().is_some() {
            self.backoff.succeeded();
            self.unsettled_at = None;
            self.shared.reached();
        } else {
            let again = Instant::now() + self.backoff.failed();
            self.unsettled_at = Some(again);
            if learned == Learned::Unserved {
                self.stale_at = again;
            }
        }
        Ok(())
    }

    /// Connects to the next of the nodes that are known.
    async fn open(&mut self) -> Result<Connection, ConnectionError> {
        let mut known: Vec<(String, u16)> =
            self.shared.config.bootstrap.iter().map(|a| host_port(a)).collect();
        known.extend(self.shared.addresses());
        let (host, port) = match known.len() {
            0 => host_port("127.0.0.1"),
            count => known.swap_remove(self.rotation % count),
        };
        let connection = self.shared.dialer.open(&host, port).await?;
        debug!(address = connection.address(), "asking this node about the cluster");
        Ok(connection)
    }

    /// Takes producer ids: the one that partitions start with, and those that partitions ask for.
    async fn identify(&mut self, connection: &mut Connection) -> Result<(), ConnectionError> {
        if self.shared.control.identity().is_none()
            && let Some(identity) = self.new_identity(connection).await?
        {
            *self.shared.control.identity.lock() = Some(identity);
        }
        loop {
            let Some(partition) = self.shared.control.wanting.lock().last().cloned() else { break };
            let Some(identity) = self.new_identity(connection).await? else { break };
            // Nobody else takes from this list, and what came meanwhile came after it.
            self.shared.control.wanting.lock().retain(|other| !Arc::ptr_eq(other, &partition));
            let (unanswered, owner) = {
                let mut queue = partition.queue.lock();
                (queue.set_identity(identity), queue.owner.clone())
            };
            info!(topic = %partition.topic, partition = partition.index, unanswered, "new producer id");
            Meter::add(&self.shared.meter.possible_duplicates, unanswered as u64);
            if let Some(owner) = owner {
                owner.wake();
            }
        }
        Ok(())
    }

    async fn new_identity(
        &mut self,
        connection: &mut Connection,
    ) -> Result<Option<ProducerIdentity>, ConnectionError> {
        let answer = connection.call(&InitProducerIdRequest).await?;
        if answer.error == 0 {
            self.shared.meter.solved(&Part::ProducerId);
            return Ok(Some(answer.identity));
        }
        self.shared.meter.problem(Part::ProducerId, &error_name(answer.error));
        Ok(None)
    }

    /// Asks about topics and their leaders: all of them, or those that nothing is known about.
    async fn learn(
        &mut self,
        connection: &mut Connection,
        everything: bool,
    ) -> Result<Learned, ConnectionError> {
        let topics: HashMap<Arc<str>, Arc<Topic>> = self
            .shared
            .topics()
            .into_iter()
            .filter(|topic| everything || !topic.is_settled())
            .map(|topic| (Arc::clone(&topic.name), topic))
            .collect();
        let name = |name: &Arc<str>| MetadataRequestTopic { name: String_(name.to_string()) };
        let request = MetadataRequest {
            topics: Some(topics.keys().map(name).collect()),
            // Topics are created with the layout that is configured here, or by whoever runs Kafka.
            allow_auto_topic_creation: Some(Boolean(false)),
        };
        let answer = connection.call(&request).await?;
        self.shared.set_addresses(answer.brokers.iter().filter_map(|broker| {
            let port = u16::try_from(broker.port.0).ok()?;
            Some((broker.node_id.0, (broker.host.0.clone(), port)))
        }));
        let mut learned = Learned::All;
        let mut missing = Vec::new();
        for found in &answer.topics {
            let Some(topic) = topics.get(found.name.0.as_str()) else { continue };
            let code = Int16::from(found.error).0;
            learned = learned.max(match code {
                0 => self.set_leaders(topic, found),
                UNKNOWN_TOPIC_OR_PARTITION => {
                    missing.push(Arc::clone(topic));
                    topic.hold();
                    unknown(topic)
                }
                INVALID_TOPIC => {
                    self.refuse(topic);
                    Learned::All
                }
                _ => {
                    self.shared.meter.problem(Part::Topic(Arc::clone(&topic.name)), &error_name(code));
                    unknown(topic)
                }
            });
        }
        self.replication.look(connection, &self.shared, &answer.topics).await?;
        if !missing.is_empty() {
            match self.shared.config.create_topics.clone() {
                Some(layout) => self.create(connection, &missing, layout).await?,
                None => missing.iter().for_each(|topic| {
                    self.shared.meter.problem(Part::Topic(Arc::clone(&topic.name)), "it does not exist");
                }),
            }
        }
        Ok(learned)
    }

    /// Ends a topic that can't exist.
    fn refuse(&self, topic: &Arc<Topic>) {
        let (ended, backlog) = topic.refuse(&self.shared, Rejection::IllegalTopic);
        self.shared.end(ended);
        if !backlog.is_empty() {
            let (shared, topic) = (Arc::clone(&self.shared), Arc::clone(topic));
            tokio::task::spawn_blocking(move || {
                shared.reject_spilled(&topic.name, backlog, Rejection::IllegalTopic);
            });
        }
        self.shared.meter.solved(&Part::Topic(Arc::clone(&topic.name)));
    }

    /// Takes in a topic's leaders.
    fn set_leaders(&self, topic: &Arc<Topic>, found: &MetadataResponseTopic) -> Learned {
        let part = Part::Topic(Arc::clone(&topic.name));
        let count = found.partitions.iter().map(|p| p.partition_index.0 + 1).max().unwrap_or(0);
        let Some(count) = usize::try_from(count).ok().filter(|&count| count > 0 && count <= MAX_PARTITIONS)
        else {
            self.shared.meter.problem(part, "it has no partitions");
            return unknown(topic);
        };
        let mut leaders = vec![None; count];
        for partition in &found.partitions {
            let leader = Some(partition.leader_id.0).filter(|&id| id >= 0);
            if let Some(place) =
                usize::try_from(partition.partition_index.0).ok().and_then(|index| leaders.get_mut(index))
            {
                *place = leader;
            }
        }
        let leaderless = leaders.iter().filter(|leader| leader.is_none()).count();
        let was_known = topic.is_settled();
        self.shared.end(topic.set_leaders(&self.shared, &leaders));
        if !was_known {
            debug!(topic = %topic.name, partitions = count, "topic known");
        }
        if topic.is_shrinking() {
            self.shared
                .meter
                .problem(part, "it has fewer partitions than before: its records are given out anew");
            return Learned::Unserved;
        }
        if leaderless > 0 {
            self.shared.meter.problem(part, &format!("{leaderless} of {count} partitions have no leader"));
            return Learned::Unserved;
        }
        self.shared.meter.solved(&part);
        Learned::All
    }

    async fn create(
        &mut self,
        connection: &mut Connection,
        missing: &[Arc<Topic>],
        layout: TopicLayout,
    ) -> Result<(), ConnectionError> {
        let request = CreateTopicsRequest {
            topics: missing.iter().map(|topic| topic.name.to_string()).collect(),
            partitions: layout.partitions,
            replication: layout.replication,
            config: layout.config,
            timeout_ms: i32::try_from(self.shared.config.request_timeout.as_millis() / 2).unwrap_or(i32::MAX),
        };
        let answer = connection.call(&request).await?;
        for (name, code, message) in answer.topics {
            let Some(topic) = missing.iter().find(|topic| *topic.name == *name) else { continue };
            match code {
                0 => info!(topic = %topic.name, "topic created"),
                TOPIC_ALREADY_EXISTS => {}
                INVALID_TOPIC => self.refuse(topic),
                _ => {
                    let name = KafkaError::new(code).map_or_else(String::new, |error| error.to_string());
                    let reason = format!("it can't be created: {name} {}", message.unwrap_or_default());
                    self.shared.meter.problem(Part::Topic(Arc::clone(&topic.name)), &reason);
                }
            }
        }
        Ok(())
    }
}

/// What an answer teaches that does not say which partitions a topic has.
fn unknown(topic: &Topic) -> Learned {
    if topic.is_settled() { Learned::Unserved } else { Learned::Some }
}

/// Partitions of one topic that are believed.
const MAX_PARTITIONS: usize = 100_000;
