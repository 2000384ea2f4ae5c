//! What all connections share: topics, groups, producer ids, faults, and the nodes that the server pretends to be.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use crate::builder::Builder;
use crate::faults::Injections;
use crate::groups::Groups;
use crate::log::Limits;
use crate::node::Node;
use crate::partition::{Partition, Safety};
use crate::producer_ids::ProducerIds;
use crate::topics::{Defaults, Topic, Topics};
use crate::{ApiKey, Error, ErrorCode};

/// The name that the server gives itself in Metadata.
pub(crate) const CLUSTER_ID: &str = "tidegate-minikafka";
/// Requests that are remembered for tests; the oldest are forgotten first.
const REMEMBERED_REQUESTS: usize = 4096;
/// Syncs that run at the same time; more than a disk can use, fewer than the runtime's blocking threads.
const PARALLEL_SYNCS: usize = 16;

/// A request that reached the server.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct SeenRequest {
    /// What was asked.
    pub api: ApiKey,
    /// In which version.
    pub version: i16,
    /// Which node was asked (1..).
    pub node: i32,
    /// When it was there in full.
    pub at: Instant,
    /// The number that the client gave it.
    pub correlation_id: i32,
    /// Which connection it came on; each has a number of its own.
    pub connection: u64,
}

/// The state of the server.
pub(crate) struct Cluster {
    pub(crate) topics: Topics,
    pub(crate) groups: Groups,
    pub(crate) injections: Injections,
    pub(crate) producer_ids: ProducerIds,
    pub(crate) nodes: Vec<Node>,
    /// Bumped whenever more can be read, or read differently.
    pub(crate) changes: watch::Sender<u64>,
    pub(crate) connections: Arc<Semaphore>,
    pub(crate) max_connections: usize,
    pub(crate) max_request_bytes: usize,
    default_partitions: i32,
    auto_create: bool,
    on_disk: bool,
    seen: Mutex<VecDeque<SeenRequest>>,
    /// Held until the server has stopped: the lock on the data directory.
    directory: Mutex<Option<File>>,
}

impl Cluster {
    /// Opens the data; may use the disk.
    pub(crate) fn open(builder: &Builder, nodes: Vec<Node>) -> Result<Self, Error> {
        let directory = lock_directory(builder)?;
        let changes = watch::Sender::new(0);
        let on_disk = builder.data_dir.is_some();
        let safety = if on_disk && builder.durable {
            Safety::Synced(Arc::new(Semaphore::new(PARALLEL_SYNCS)))
        } else {
            Safety::Appended
        };
        let topics = Topics::open(Defaults {
            data_dir: builder.data_dir.clone(),
            limits: Limits {
                segment_bytes: builder.segment_bytes,
                retention_bytes: builder.retention_bytes,
                total: Arc::default(),
            },
            safety,
            nodes: crate::wire::length(nodes.len()),
            max_message_bytes: builder.max_message_bytes,
            total_retention_bytes: builder.total_retention_bytes,
            changes: changes.clone(),
        })?;
        let partitions = topics.all().into_iter().flat_map(|(_, topic)| topic.partitions.clone());
        let highest = partitions.filter_map(|one| one.with_log(|log| log.producers.highest_id())).max();
        let storage = |source| Error::Storage { path: builder.data_dir.clone().unwrap_or_default(), source };
        let producer_ids =
            ProducerIds::open(builder.data_dir.as_deref(), highest.unwrap_or(-1)).map_err(storage)?;
        let groups = Groups::open(builder.data_dir.as_deref()).map_err(storage)?;
        Ok(Self {
            topics,
            groups,
            injections: Injections::default(),
            producer_ids,
            nodes,
            changes,
            connections: Arc::new(Semaphore::new(builder.max_connections)),
            max_connections: builder.max_connections,
            max_request_bytes: builder.max_request_bytes,
            default_partitions: builder.partitions,
            auto_create: builder.auto_create,
            on_disk,
            seen: Mutex::default(),
            directory: Mutex::new(directory),
        })
    }

    /// Runs work that may use the disk where it doesn't hold up others; `None` when the runtime is shutting down.
    pub(crate) async fn on_storage<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Option<T> {
        if !self.on_disk {
            return Some(work(self));
        }
        let cluster = Arc::clone(self);
        tokio::task::spawn_blocking(move || work(&cluster)).await.ok()
    }

    pub(crate) fn node(&self, id: i32) -> Option<&Node> {
        self.nodes.iter().find(|node| node.id == id)
    }

    /// The topic, created if it may be; may use the disk.
    pub(crate) fn topic_for_writing(&self, name: &str) -> Result<Arc<Topic>, ErrorCode> {
        self.injections.check_topic(name)?;
        if let Some(topic) = self.topics.get(name) {
            return Ok(topic);
        }
        if !self.auto_create {
            return Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
        }
        match self.topics.create(name, self.default_partitions, BTreeMap::new()) {
            // Somebody else was faster.
            Err(ErrorCode::TOPIC_ALREADY_EXISTS) => {
                self.topics.get(name).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)
            }
            made => made,
        }
    }

    pub(crate) fn default_partitions(&self) -> i32 {
        self.default_partitions
    }

    pub(crate) fn saw(&self, request: SeenRequest) {
        let mut seen = self.seen.lock();
        if seen.len() == REMEMBERED_REQUESTS {
            seen.pop_front();
        }
        seen.push_back(request);
    }

    pub(crate) fn seen(&self, api: ApiKey) -> Vec<SeenRequest> {
        self.seen.lock().iter().filter(|request| request.api == api).copied().collect()
    }

    pub(crate) fn partitions(&self) -> impl Iterator<Item = Arc<Partition>> {
        self.topics.all().into_iter().flat_map(|(_, topic)| topic.partitions.clone())
    }

    /// Lets others use the data directory: nothing is appended any more.
    pub(crate) fn release_directory(&self) {
        self.directory.lock().take();
    }
}

/// Takes the data directory for this process alone.
fn lock_directory(builder: &Builder) -> Result<Option<File>, Error> {
    let Some(data) = &builder.data_dir else { return Ok(None) };
    let storage = |source| Error::Storage { path: data.clone(), source };
    std::fs::create_dir_all(data).map_err(storage)?;
    let file = File::create(data.join("lock")).map_err(storage)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(std::fs::TryLockError::WouldBlock) => Err(Error::DirectoryInUse { path: data.clone() }),
        Err(std::fs::TryLockError::Error(source)) => Err(storage(source)),
    }
}
