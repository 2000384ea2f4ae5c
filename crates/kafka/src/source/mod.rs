//! Reads topics as a member of a consumer group: see [`Source`].

mod assignment;
mod claim;
mod fetcher;
mod member;
mod status;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub use claim::Batch;
pub use status::{PartitionStatus, SourceError, SourceState, SourceStatus};

use crate::config::Config;
use crate::connection::Dialer;
use crate::source::member::Member;
use crate::source::status::Meter;

/// Batches between the fetchers and whoever reads, besides their bytes.
const MAX_BUFFERED_BATCHES: usize = 256;

/// What a [`Source`] reads, and how. A plain struct: fill what differs from [`SourceConfig::new`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceConfig {
    /// The topics. One that does not exist is waited for.
    pub topics: Vec<String>,
    /// The consumer group. Sources with one group share the partitions.
    pub group: String,
    /// Where a partition begins for which the group has committed nothing. [`Start::Earliest`] unless told.
    pub start: Start,
    /// What was handed over is committed this often, and at the end. 5 s unless told.
    pub commit_interval: Duration,
    /// A member that is silent for so long is out of the group, and others read its partitions. 10 s unless told; Kafka
    /// takes no less than 6 s unless changed there.
    pub session_timeout: Duration,
    /// Signs of life are sent this often. 3 s unless told.
    pub heartbeat_interval: Duration,
    /// Members have so long to come back when the group decides anew who reads what. 60 s unless told.
    pub rebalance_timeout: Duration,
    /// Bytes of records that are fetched and not handed over, with what they take in memory. 16 MiB unless told. Beyond
    /// it there is at most one answer of each node, of `fetch_bytes` or one batch that is larger, and what that unpacks
    /// to.
    pub buffer_bytes: usize,
    /// Bytes that one fetch asks a node for. 1 MiB unless told.
    pub fetch_bytes: usize,
    /// How long a node waits for the first record of a fetch. 500 ms unless told.
    pub fetch_wait: Duration,
    /// Partitions that were added are found, and leaders looked up, this often. 30 s unless told.
    pub metadata_interval: Duration,
}

impl SourceConfig {
    /// Reads `topics` as a member of `group`.
    pub fn new(topics: Vec<String>, group: &str) -> Self {
        Self {
            topics,
            group: group.to_owned(),
            start: Start::default(),
            commit_interval: Duration::from_secs(5),
            session_timeout: Duration::from_secs(10),
            heartbeat_interval: Duration::from_secs(3),
            rebalance_timeout: Duration::from_mins(1),
            buffer_bytes: 16 * 1024 * 1024,
            fetch_bytes: 1024 * 1024,
            fetch_wait: Duration::from_millis(500),
            metadata_interval: Duration::from_secs(30),
        }
    }
}

/// Where a partition begins for which the group has committed no offset, or one that does not exist any more. What the
/// group has committed comes first in any case: a restart goes on where it was.
///
/// Where a partition begins is committed at once, before anything was read of it. So a source that starts at the latest
/// record and stops before the first one comes goes on there, and not at what is the latest then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Start {
    /// Nowhere: the partition is not read, and the source says so.
    Committed,
    /// At the first record that there is.
    #[default]
    Earliest,
    /// Behind the last record that there is.
    Latest,
    /// At the first record that is not older; behind the last one where all are.
    At {
        /// Milliseconds since the Unix epoch.
        unix_ms: i64,
    },
}

/// What the tasks of a source share.
#[derive(Debug)]
struct Shared {
    config: Config,
    source: SourceConfig,
    dialer: Dialer,
    buffer_bytes: usize,
    /// What is left of the buffer.
    room: Arc<Semaphore>,
    meter: Meter,
}

impl Shared {
    fn fetch_bytes(&self) -> usize {
        self.source.fetch_bytes.clamp(1, self.buffer_bytes)
    }

    /// Waits for room in the buffer. More than all of it is all of it: a batch that is alone always fits. `None` when
    /// the source is gone.
    async fn take_room(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let bytes = u32::try_from(bytes.min(self.buffer_bytes)).unwrap_or(u32::MAX);
        Arc::clone(&self.room).acquire_many_owned(bytes).await.ok()
    }
}

/// Reads topics as a member of a consumer group, and commits what was handed over.
///
/// It is a full member: it joins, sends heartbeats, and shares the partitions by Java's `range` with whoever else is in
/// the group, so that several processes with one group read each partition once, and `kafka-consumer-groups --describe`
/// shows who reads what and how far behind. What it reads it gives out in [`Batch`]es; the offset that it commits for a
/// partition is that of the first record which was not reported as handed over. It commits every
/// [`SourceConfig::commit_interval`], when partitions go to another member, and when it is closed. So every record is
/// handed over at least once: what was handed over after the last commit is handed over again after a crash.
///
/// Nobody is hurried: when batches are not taken the buffer fills, fetching pauses, and the member stays in its group.
///
/// Keys, values and header values may be null, names of headers may repeat. Control records, and offsets that compaction
/// has emptied, are stepped over and committed. Records of transactions are read as they are written (`read_uncommitted`,
/// as Kafka's own consumers do unless told otherwise).
///
/// ```no_run
/// use tidegate_kafka::{Config, Source, SourceConfig};
/// use tokio::time::{Duration, Instant};
///
/// # async fn hand_over(_: &[u8]) {}
/// # async fn example() {
/// let config = Config { bootstrap: vec!["kafka:9092".into()], ..Config::default() };
/// let topics = SourceConfig::new(vec!["commands".into()], "plant");
/// let mut source = Source::start(config, topics, &tokio::runtime::Handle::current());
/// while let Some(batch) = source.next().await {
///     for record in batch.records() {
///         hand_over(record.value.as_deref().unwrap_or_default()).await;
///     }
///     batch.finish();
/// }
/// source.close(Instant::now() + Duration::from_secs(5)).await;
/// # }
/// ```
///
/// Dropping it without [`Source::close`] ends it too: it commits and leaves in the background, as long as the runtime runs.
#[derive(Debug)]
pub struct Source {
    shared: Arc<Shared>,
    batches: mpsc::Receiver<Batch>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// Looks at a [`Source`] from elsewhere.
#[derive(Debug, Clone)]
pub struct SourceWatch {
    shared: Arc<Shared>,
}

impl Source {
    /// Starts a source on this runtime. It needs no Kafka yet: it looks for one until it finds it.
    ///
    /// Only the fields of `config` that concern connections and backoff are used.
    pub fn start(config: Config, source: SourceConfig, runtime: &Handle) -> Self {
        // A semaphore counts to `u32::MAX` in one step.
        let buffer_bytes = source.buffer_bytes.clamp(1, u32::MAX as usize);
        let shared = Arc::new(Shared {
            dialer: Dialer {
                connect: Arc::clone(&config.connect),
                sasl: config.sasl.clone(),
                client_id: config.client_id.as_str().into(),
                timeout: config.connect_timeout,
            },
            config,
            source,
            buffer_bytes,
            room: Arc::new(Semaphore::new(buffer_bytes)),
            meter: Meter::new(),
        });
        let (send, batches) = mpsc::channel(MAX_BUFFERED_BATCHES);
        let (stop, stopping) = watch::channel(false);
        let member = Member::new(Arc::clone(&shared), send);
        let task = runtime.spawn(member.run(stopping));
        Self { shared, batches, stop, task }
    }

    /// The next records, of any partition. Waits until there are some; `None` once the source was told to close.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Batch> {
        loop {
            let mut batch = self.batches.recv().await?;
            if batch.take() {
                return Some(batch);
            }
        }
    }

    /// How it is.
    pub fn status(&self) -> SourceStatus {
        self.watch().status()
    }

    /// Something that tells how it is, for as long as one likes.
    pub fn watch(&self) -> SourceWatch {
        SourceWatch { shared: Arc::clone(&self.shared) }
    }

    /// Commits what was handed over, leaves the group, and returns when that is done or the time is up. Batches that
    /// somebody still holds have until then as well.
    pub async fn close(mut self, deadline: Instant) {
        self.stop.send_replace(true);
        self.batches.close();
        // A batch that nobody takes any more is not in anybody's way.
        while self.batches.try_recv().is_ok() {}
        if tokio::time::timeout_at(deadline, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

impl SourceWatch {
    /// How the source is.
    pub fn status(&self) -> SourceStatus {
        let buffered = self.shared.buffer_bytes.saturating_sub(self.shared.room.available_permits());
        self.shared.meter.status(buffered)
    }

    /// The consumer group.
    pub fn group(&self) -> &str {
        &self.shared.source.group
    }
}
